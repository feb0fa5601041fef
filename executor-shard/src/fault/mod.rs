//! Planned faults: the errors that tests make a shard commit, and the assignments at which they occur.
//!
//! A process has them only with `--allow-faults`.

mod transit;

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use common::account::{Account, AccountWrite};
use common::id::{AssignmentId, Gas, TxIndex};
use common::message::StateSummary;
use common::work::{Effects, Executed, TxOutcome, WorkKind, WorkOutput, WorkSpec};
use parking_lot::Mutex;

use engine::sub_block::Progress;

pub use transit::DamagingLine;

/// The exit code of a process that a planned fault ends.
pub const EXIT_CODE: i32 = 70;

/// The maximum number of damaged assignments that are remembered until their results are sent.
const REMEMBERED: usize = 256;

/// The pause before a planned exit, so that the shard can report the work that it took. A real
/// transaction leaves that time too, because it executes before it kills.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// The shortest sleep of a slow slot. Shorter sleeps last longer than requested, so the slot collects
/// the time it owes.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The result is plausible but wrong.
    Wrong,
    /// The result is damaged in transit: see [`DamagingLine`].
    Corrupt,
    /// The work takes longer by this time.
    Slow(Duration),
    /// Each transaction takes this many times as long.
    SlowTimes(u32),
    /// The work never ends.
    Hang,
    /// The worker thread panics.
    Panic,
    /// The process exits with [`EXIT_CODE`], a few milliseconds after a slot took the work.
    Exit,
    /// Heartbeats report a wrong digest of the replica's state, until the replica is synced.
    Diverge,
    /// Executes on a base state that is wrong in places, which this seed chooses: the results are honest
    /// about what they read, and validation must notice.
    Poison(u64),
}

/// The moment at which a fault occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At the assignment with this number, counted from 1 in this process.
    At(u64),
    /// At every assignment from this number on.
    From(u64),
    /// At every execution of this transaction of the block at this height.
    Transaction { height: u64, index: u32 },
}

/// A fault and its moment: `KIND@N` at the Nth assignment, `KIND@N+` from the Nth on,
/// `KIND@HEIGHT/INDEX` at every execution of one transaction of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedFault {
    kind: FaultKind,
    when: When,
}

/// The text does not describe a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a fault: wrong, corrupt, slow:MILLISECONDS, slow:TIMESx, hang, panic, exit, diverge or poison:SEED, then @N for the Nth assignment, @N+ from it on, or @HEIGHT/INDEX for a transaction of a block"
)]
pub struct FaultError(String);

impl PlannedFault {
    /// Every sub-block is executed on a base state that is wrong in places, which `seed` chooses.
    #[must_use]
    pub const fn always_poison(seed: u64) -> Self {
        Self { kind: FaultKind::Poison(seed), when: When::From(1) }
    }
}

/// The text that [`FromStr`] reads.
impl fmt::Display for PlannedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::Wrong => f.write_str("wrong"),
            FaultKind::Corrupt => f.write_str("corrupt"),
            FaultKind::Slow(by) => write!(f, "slow:{}", by.as_millis()),
            FaultKind::SlowTimes(times) => write!(f, "slow:{times}x"),
            FaultKind::Hang => f.write_str("hang"),
            FaultKind::Panic => f.write_str("panic"),
            FaultKind::Exit => f.write_str("exit"),
            FaultKind::Diverge => f.write_str("diverge"),
            FaultKind::Poison(seed) => write!(f, "poison:{seed}"),
        }?;
        match self.when {
            When::At(number) => write!(f, "@{number}"),
            When::From(number) => write!(f, "@{number}+"),
            When::Transaction { height, index } => write!(f, "@{height}/{index}"),
        }
    }
}

impl FromStr for PlannedFault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let error = || FaultError(text.to_owned());
        let (kind, when) = text.split_once('@').ok_or_else(error)?;
        let when = When::parse(when).ok_or_else(error)?;
        let kind = match kind.split_once(':') {
            None if kind == "wrong" => FaultKind::Wrong,
            None if kind == "corrupt" => FaultKind::Corrupt,
            None if kind == "hang" => FaultKind::Hang,
            None if kind == "panic" => FaultKind::Panic,
            None if kind == "exit" => FaultKind::Exit,
            None if kind == "diverge" => FaultKind::Diverge,
            Some(("slow", by)) => slowness(by).ok_or_else(error)?,
            Some(("poison", seed)) => FaultKind::Poison(seed.parse().map_err(|_| error())?),
            _ => return Err(error()),
        };
        Ok(Self { kind, when })
    }
}

impl When {
    fn parse(text: &str) -> Option<Self> {
        if let Some((height, index)) = text.split_once('/') {
            return Some(Self::Transaction { height: height.parse().ok()?, index: index.parse().ok()? });
        }
        let number = text.strip_suffix('+').unwrap_or(text).parse().ok().filter(|number| *number > 0)?;
        Some(if text.ends_with('+') { Self::From(number) } else { Self::At(number) })
    }

    /// Whether the fault occurs at this work, the `number`th assignment of the process.
    fn is_due(self, number: u64, spec: &WorkSpec) -> bool {
        match self {
            Self::At(at) => number == at,
            Self::From(from) => number >= from,
            Self::Transaction { height, index } => {
                matches!(spec.kind, WorkKind::Execute { .. })
                    && spec.base.height.0 + 1 == height
                    && spec.indices.contains(&TxIndex(index))
            }
        }
    }
}

/// Parses the text after `slow:`.
fn slowness(text: &str) -> Option<FaultKind> {
    match text.strip_suffix('x') {
        Some(times) => times.parse().ok().filter(|times| *times > 0).map(FaultKind::SlowTimes),
        None => text.parse().ok().map(|millis| FaultKind::Slow(Duration::from_millis(millis))),
    }
}

/// The planned faults of one process.
#[derive(Debug, Default)]
pub struct Faults {
    planned: Vec<PlannedFault>,
    begun: AtomicU64,
    damaged: Mutex<Vec<AssignmentId>>,
    diverged: AtomicBool,
}

impl Faults {
    /// Creates the plan with these faults.
    #[must_use]
    pub fn new(planned: Vec<PlannedFault>) -> Self {
        Self { planned, ..Self::default() }
    }

    /// Counts an assignment that begins, and returns the fault planned for it.
    pub(crate) fn begin(&self, spec: &WorkSpec) -> Option<FaultKind> {
        if self.planned.is_empty() {
            return None;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        self.planned.iter().find(|fault| fault.when.is_due(number, spec)).map(|fault| fault.kind)
    }

    /// From now on heartbeats report a state that the replica does not hold.
    pub(crate) fn diverge(&self) {
        self.diverged.store(true, Ordering::Relaxed);
    }

    /// Ends the divergence: the replica was synced.
    pub(crate) fn mend(&self) {
        self.diverged.store(false, Ordering::Relaxed);
    }

    /// The state to report in a heartbeat, given the state that the replica holds.
    pub(crate) fn reported_state(&self, held: Option<StateSummary>) -> Option<StateSummary> {
        if !self.diverged.load(Ordering::Relaxed) {
            return held;
        }
        held.map(|held| StateSummary { digest: !held.digest, ..held })
    }

    /// Marks this assignment: its result must be damaged when it is sent.
    pub(crate) fn damage(&self, assignment: AssignmentId) {
        let mut damaged = self.damaged.lock();
        damaged.push(assignment);
        if damaged.len() > REMEMBERED {
            damaged.remove(0);
        }
    }

    /// Whether this assignment's result must be damaged.
    pub(crate) fn is_damaged(&self, assignment: &AssignmentId) -> bool {
        self.damaged.lock().contains(assignment)
    }
}

/// Runs the part of a fault that precedes the work. A hang never returns.
pub(crate) fn before(fault: FaultKind) {
    match fault {
        FaultKind::Wrong
        | FaultKind::Corrupt
        | FaultKind::SlowTimes(_)
        | FaultKind::Diverge
        | FaultKind::Poison(_) => {}
        FaultKind::Slow(by) => std::thread::sleep(by),
        FaultKind::Hang => loop {
            std::thread::park();
        },
        FaultKind::Panic => std::panic::resume_unwind(Box::new("a planned fault".to_owned())),
        FaultKind::Exit => {
            std::thread::sleep(LAST_WORDS);
            tracing::error!("this process ends because of a planned fault");
            std::process::exit(EXIT_CODE);
        }
    }
}

/// Reports a slot's progress, and sleeps between transactions so that each takes `times` as long.
pub(crate) struct Slowed<'a, P> {
    progress: &'a P,
    times: u32,
    clock: Mutex<Clock>,
}

/// The start of the last transaction, and the time still to sleep.
struct Clock {
    began: Instant,
    owed: Duration,
}

impl<'a, P: Progress> Slowed<'a, P> {
    pub(crate) fn new(progress: &'a P, times: u32) -> Self {
        let clock = Clock { began: Instant::now(), owed: Duration::ZERO };
        Self { progress, times: times.max(1), clock: Mutex::new(clock) }
    }

    fn lose_time(&self) {
        let mut clock = self.clock.lock();
        let took = clock.began.elapsed();
        clock.owed += took * (self.times - 1);
        if clock.owed >= LEAST_SLEEP {
            let began = Instant::now();
            std::thread::sleep(clock.owed);
            clock.owed = clock.owed.saturating_sub(began.elapsed());
        }
        clock.began = Instant::now();
    }
}

impl<P: Progress> Progress for Slowed<'_, P> {
    fn at(&self, index: TxIndex, gas: Gas) {
        self.lose_time();
        self.progress.at(index, gas);
    }
}

/// Makes a result wrong in a way that no check of its form can find.
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

/// Credits an account with one wei that no account paid.
fn enrich(executed: &mut Executed) {
    match &mut executed.effects {
        Effects::Transfer(transfer) => transfer.debit = transfer.debit.saturating_sub(U256::from(1)),
        Effects::Exact { writes, .. } => {
            for (_, write) in &mut writes.accounts {
                let (AccountWrite::Add { credit: balance, .. }
                | AccountWrite::Update { account: Account { balance, .. }, .. }
                | AccountWrite::Create { account: Account { balance, .. }, .. }) = write
                else {
                    continue;
                };
                *balance = balance.saturating_add(U256::from(1));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::{B256, Bytes};
    use common::block::Prelude;
    use common::id::{Height, StateRef, WorldId};

    fn work(height: u64, indices: &[u32], kind: WorkKind) -> WorkSpec {
        let (world, block_hash) = (WorldId::default(), B256::ZERO);
        let base = StateRef { world, height: Height(height), block_hash };
        let indices = indices.iter().copied().map(TxIndex).collect();
        WorkSpec { base, header: Bytes::new(), kind, indices, transactions: vec![] }
    }

    #[test]
    fn faults_come_when_they_are_due() {
        let faults = Faults::new(vec!["panic@2".parse().unwrap(), "slow:5@4+".parse().unwrap()]);
        let work = work(0, &[0], WorkKind::Recover);
        let seen: Vec<_> = (0..5).map(|_| faults.begin(&work)).collect();
        let slow = Some(FaultKind::Slow(Duration::from_millis(5)));
        assert_eq!(seen, [None, Some(FaultKind::Panic), None, slow, slow]);
    }

    #[test]
    fn a_transaction_is_met_whenever_it_is_executed() {
        let faults = Faults::new(vec!["exit@7/2".parse().unwrap()]);
        let execute = |height, indices: &[u32]| {
            faults.begin(&work(
                height,
                indices,
                WorkKind::Execute { senders: vec![], prelude: Prelude::default() },
            ))
        };
        assert_eq!(execute(6, &[0, 1]), None);
        assert_eq!(execute(7, &[0, 1, 2]), None);
        assert_eq!(execute(6, &[0, 1, 2]), Some(FaultKind::Exit));
        assert_eq!(execute(6, &[2]), Some(FaultKind::Exit));
        assert_eq!(faults.begin(&work(6, &[2], WorkKind::Recover)), None);
    }

    #[test]
    fn a_factor_is_told_from_milliseconds() {
        assert_eq!("slow:10x@1+".parse::<PlannedFault>().unwrap().kind, FaultKind::SlowTimes(10));
        assert_eq!(
            "slow:10@1+".parse::<PlannedFault>().unwrap().kind,
            FaultKind::Slow(Duration::from_millis(10))
        );
    }

    struct Nothing;

    impl Progress for Nothing {
        fn at(&self, _: TxIndex, _: Gas) {}
    }

    #[test]
    fn a_slow_slot_takes_so_many_times_as_long() {
        let slowed = Slowed::new(&Nothing, 10);
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        slowed.at(TxIndex(0), Gas(21_000));
        assert!(began.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_replica_that_diverged_is_mended_by_a_sync() {
        let faults = Faults::default();
        let base = work(1, &[], WorkKind::Recover).base;
        let held = Some(StateSummary { state: base, digest: U256::ZERO });
        assert_eq!(faults.reported_state(held), held);
        faults.diverge();
        assert_ne!(faults.reported_state(held), held);
        faults.mend();
        assert_eq!(faults.reported_state(held), held);
    }

    #[test]
    fn what_is_no_fault_is_named() {
        for text in [
            "",
            "panic",
            "panic@",
            "panic@0",
            "slow@1",
            "slow:x@1",
            "melt@1",
            "panic:1@1",
            "slow:0x@1",
            "exit@1/",
            "exit@/1",
        ] {
            assert!(
                text.parse::<PlannedFault>().unwrap_err().to_string().contains("is not a fault"),
                "{text}"
            );
        }
    }
}
