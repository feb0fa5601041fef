//! Faults on purpose: what drills and tests have a shard do wrong, and at which assignment.
//!
//! A process has them only with `--allow-faults`.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, U256};
use common::account::AccountWrite;
use common::id::AssignmentId;
use common::work::{Effects, Executed, TxOutcome, WorkOutput};

/// The code that a planned exit ends the process with.
pub const EXIT_CODE: i32 = 70;

/// Damaged assignments that are remembered until they are sent.
const REMEMBERED: usize = 256;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The result is not what execution gives, and says nothing of it.
    Wrong,
    /// The result's bytes are damaged on their way.
    Corrupt,
    /// The work takes this much longer.
    Slow(Duration),
    /// The work never ends.
    Hang,
    /// The worker thread panics.
    Panic,
    /// The process ends.
    Exit,
}

/// A fault, and when: `KIND@N` at the Nth assignment, `KIND@N+` from the Nth on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    at: u64,
    onwards: bool,
}

/// Not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a fault: wrong, corrupt, slow:MILLISECONDS, hang, panic or exit, then @N for the Nth assignment or @N+ from it on"
)]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let error = || FaultError(text.to_owned());
        let (kind, when) = text.split_once('@').ok_or_else(error)?;
        let (at, onwards) = match when.strip_suffix('+') {
            Some(at) => (at, true),
            None => (when, false),
        };
        let at = at.parse().ok().filter(|at| *at > 0).ok_or_else(error)?;
        let kind = match kind.split_once(':') {
            None if kind == "wrong" => FaultKind::Wrong,
            None if kind == "corrupt" => FaultKind::Corrupt,
            None if kind == "hang" => FaultKind::Hang,
            None if kind == "panic" => FaultKind::Panic,
            None if kind == "exit" => FaultKind::Exit,
            Some(("slow", millis)) => {
                FaultKind::Slow(Duration::from_millis(millis.parse().map_err(|_| error())?))
            }
            _ => return Err(error()),
        };
        Ok(Self { kind, at, onwards })
    }
}

/// The faults of one process.
#[derive(Debug, Default)]
pub struct Faults {
    planned: Vec<Fault>,
    begun: AtomicU64,
    damaged: Mutex<Vec<AssignmentId>>,
}

impl Faults {
    /// These faults.
    #[must_use]
    pub fn new(planned: Vec<Fault>) -> Self {
        Self { planned, ..Self::default() }
    }

    /// An assignment begins: what is to go wrong with it.
    pub(crate) fn begin(&self) -> Option<FaultKind> {
        if self.planned.is_empty() {
            return None;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let due = |fault: &&Fault| number == fault.at || (fault.onwards && number > fault.at);
        self.planned.iter().find(due).map(|fault| fault.kind)
    }

    /// This assignment's result is to be damaged when it is sent.
    pub(crate) fn damage(&self, assignment: AssignmentId) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.push(assignment);
        if damaged.len() > REMEMBERED {
            damaged.remove(0);
        }
    }

    /// Whether this assignment's result is to be damaged.
    pub fn is_damaged(&self, assignment: &AssignmentId) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(assignment)
    }
}

/// What comes before the work is done. A hang does not come back.
pub(crate) fn before(fault: FaultKind) {
    match fault {
        FaultKind::Wrong | FaultKind::Corrupt => {}
        FaultKind::Slow(by) => std::thread::sleep(by),
        FaultKind::Hang => loop {
            std::thread::park();
        },
        FaultKind::Panic => std::panic::resume_unwind(Box::new("a planned fault".to_owned())),
        FaultKind::Exit => {
            tracing::error!("this process ends because of a planned fault");
            std::process::exit(EXIT_CODE);
        }
    }
}

/// A result that looks like one and is wrong, in a way that no check of its form could find.
pub(crate) fn falsify(output: &mut WorkOutput) {
    match output {
        WorkOutput::Recovered(senders) => {
            if let Some(Ok(sender)) = senders.first_mut() {
                *sender = Address::repeat_byte(0xfa);
            }
        }
        WorkOutput::Executed(outputs) => {
            let executed = outputs.iter_mut().find_map(|output| match &mut output.outcome {
                TxOutcome::Executed(executed) => Some(executed),
                TxOutcome::Invalid { .. } => None,
            });
            if let Some(executed) = executed {
                enrich(executed);
            }
        }
    }
}

/// Gives somebody a wei that nobody paid.
fn enrich(executed: &mut Executed) {
    match &mut executed.effects {
        Effects::Transfer(transfer) => transfer.debit = transfer.debit.saturating_sub(U256::from(1)),
        Effects::Exact { writes, .. } => {
            for (_, write) in &mut writes.accounts {
                if let AccountWrite::Update { account, .. } | AccountWrite::Create { account, .. } = write {
                    account.balance = account.balance.saturating_add(U256::from(1));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn faults_come_when_they_are_due() {
        let faults = Faults::new(vec!["panic@2".parse().unwrap(), "slow:5@4+".parse().unwrap()]);
        let seen: Vec<_> = (0..5).map(|_| faults.begin()).collect();
        let slow = Some(FaultKind::Slow(Duration::from_millis(5)));
        assert_eq!(seen, [None, Some(FaultKind::Panic), None, slow, slow]);
    }

    #[test]
    fn what_is_no_fault_is_named() {
        for text in ["", "panic", "panic@", "panic@0", "slow@1", "slow:x@1", "melt@1", "panic:1@1"] {
            assert!(text.parse::<Fault>().unwrap_err().to_string().contains("is not a fault"), "{text}");
        }
    }
}
