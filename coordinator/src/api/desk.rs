//! The desk accepts blocks, journals them before they are acknowledged, passes them to the chain thread
//! one by one, and tells clients the outcome. The [`Intake`] decides which block is next. The chain
//! thread decides whether a block is valid.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use common::block::{Block, CheckedBlock, EncodedBlock};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::metrics::{Ending, blocks_ended};
use super::outcome::{Acceptance, BlockOutcome, SubmitError};
use super::state::State;
use ledger::{Ledger, LedgerError, Parked};
use schedule::intake::{Candidate, Client, Intake, IntakeLimits, Lineage, Offer, Sequence, Start};

/// The maximum number of submissions that wait for acceptance.
const QUEUE: usize = 64;

/// The maximum number of clients that wait for one block.
const WAITERS: usize = 1024;

/// How often a thread checks whether it must stop.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// The delay before a block that could not be executed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A block that a client submitted.
#[derive(Debug)]
struct Submission {
    block: Arc<EncodedBlock>,
    client: Client,
    accepted: oneshot::Sender<Result<Acceptance, SubmitError>>,
    outcome: oneshot::Sender<BlockOutcome>,
}

/// The answers for which a client waits. Dropping the ticket does not stop the block.
#[derive(Debug)]
pub struct Ticket {
    /// Resolves with the acceptance once the block is in the journal, or with the reason against it.
    pub accepted: oneshot::Receiver<Result<Acceptance, SubmitError>>,
    /// Resolves with the block's outcome.
    pub outcome: oneshot::Receiver<BlockOutcome>,
}

/// The desk. The chain thread and the clients' calls share it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) ledger: Arc<Ledger>,
    queue: Sender<Submission>,
    started: Instant,
    state: Mutex<State>,
    /// Notifies the chain thread that there may be a block to execute.
    work: Sender<()>,
    /// The block for which this process counted a start when it opened the desk.
    counted: Option<B256>,
    /// Cancelled when no more blocks are accepted.
    pub(super) admission: CancellationToken,
}

/// The receiving end of the desk's queue, for its thread.
#[derive(Debug)]
pub(super) struct Submissions(Receiver<Submission>);

/// A block with too many counted starts: its hash, its number and the reason for parking it.
pub(super) type Overburdened = Option<(B256, u64, String)>;

impl Desk {
    /// Opens a desk with the blocks of the ledger's journal. It notifies through `work`.
    pub(super) fn open(
        ledger: Arc<Ledger>,
        limits: IntakeLimits,
        work: Sender<()>,
    ) -> Result<(Self, Submissions, Overburdened), LedgerError> {
        let (queue, submissions) = bounded(QUEUE);
        let mut state = State::new(Intake::new(limits));
        let mut starts = HashMap::new();
        for accepted in ledger.accepted()? {
            let (block, record) = (accepted.block, accepted.record);
            if is_known(&ledger, &block)? {
                ledger.end_accepted([&block.hash])?;
                continue;
            }
            starts.insert(block.hash, record.starts);
            state.intake.restore(candidate(&block), Sequence(record.sequence), record.parked.is_some());
            state.parked.extend(record.parked.map(|parked| (block.hash, parked)));
            state.blocks.insert(block.hash, block);
        }
        // A block that cannot be executed cannot be the one that ends coordinators, so its starts do not
        // count.
        for (hash, parent) in state.intake.unparented() {
            if ledger.height_of(&parent)?.is_none() {
                state.intake.orphaned(&hash);
            }
        }
        let mut desk = Self {
            ledger,
            queue,
            started: Instant::now(),
            state: Mutex::new(state),
            work,
            counted: None,
            admission: CancellationToken::new(),
        };
        let overburdened = desk.count_start(&starts)?;
        Ok((desk, Submissions(submissions), overburdened))
    }

    /// Counts this start for the block that will run first: that block may be what ends coordinators.
    fn count_start(&mut self, starts: &HashMap<B256, u32>) -> Result<Overburdened, LedgerError> {
        let head = self.head();
        let verdict = self.state().intake.started(&head, |hash| starts.get(hash).copied().unwrap_or(0));
        match verdict {
            None => Ok(None),
            Some(Start::Count(hash, count)) => {
                self.counted = Some(hash);
                self.ledger.change_accepted(&hash, |record| record.starts = count)?;
                Ok(None)
            }
            Some(Start::Park(hash, count)) => {
                let reason = format!(
                    "{} coordinators have ended while it was first in line; look at their logs, then retry or discard it",
                    count - 1
                );
                let parked = Parked { index: None, convicted: false, reason: reason.clone(), at: unix_now() };
                let number = self.state().blocks.get(&hash).map_or(0, |block| block.header.number);
                self.park(&hash, parked)?;
                Ok(Some((hash, number, reason)))
            }
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The time since the desk was opened, which is the intake's clock.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn wake(&self) {
        // One notification is enough.
        let _ = self.work.try_send(());
    }

    /// Puts a block into the queue of the desk's thread.
    pub(super) fn submit(&self, block: EncodedBlock, client: Client) -> Result<Ticket, SubmitError> {
        if self.admission.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let (accepted, acceptance) = oneshot::channel();
        let (outcome, ended) = oneshot::channel();
        let submission = Submission { block: Arc::new(block), client, accepted, outcome };
        self.queue.try_send(submission).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Flooded,
            TrySendError::Disconnected(_) => SubmitError::Stopping,
        })?;
        Ok(Ticket { accepted: acceptance, outcome: ended })
    }

    /// Accepts blocks until `stop`. All waiting blocks are journaled together.
    pub(super) fn run(&self, submissions: &Submissions, stop: &CancellationToken) -> Result<(), LedgerError> {
        while !stop.is_cancelled() {
            match submissions.0.recv_timeout(LOOK) {
                Ok(first) => {
                    let waiting = submissions.0.try_iter().take(QUEUE);
                    self.take_in(std::iter::once(first).chain(waiting))?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        Ok(())
    }

    fn take_in(&self, submissions: impl Iterator<Item = Submission>) -> Result<(), LedgerError> {
        let mut fresh: Vec<(u64, CheckedBlock)> = Vec::new();
        let mut waiting = Vec::new();
        for submission in submissions {
            if self.admission.is_cancelled() {
                let _ = submission.accepted.send(Err(SubmitError::Stopping));
                continue;
            }
            let checked = match self.check(&submission.block)? {
                Ok(checked) => checked,
                Err(outcome) => {
                    let _ = submission.accepted.send(Ok(Acceptance::Settled(Box::new(outcome))));
                    continue;
                }
            };
            let lineage = self.lineage(&submission.block)?;
            let (offered, now) = (candidate(&submission.block), self.now());
            let offer = self.state().intake.offer(offered, lineage, &submission.client, now);
            match offer {
                Ok(Offer::Fresh(sequence)) => {
                    fresh.push((sequence.0, checked));
                    waiting.push(submission);
                }
                Ok(Offer::Open | Offer::Parked) => waiting.push(submission),
                Err(full) => {
                    let _ = submission.accepted.send(Err(full.into()));
                }
            }
        }
        if !fresh.is_empty() {
            self.ledger.accept(fresh.iter().map(|(sequence, block)| (*sequence, &**block)))?;
        }
        let mut state = self.state();
        for (_, block) in fresh {
            state.intake.confirm(&block.hash);
            state.blocks.insert(block.hash, block);
        }
        for Submission { block, accepted, outcome, .. } in waiting {
            let acceptance = self.acknowledge(&mut state, &block, outcome)?;
            let _ = accepted.send(Ok(acceptance));
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// The block, if it must be executed; otherwise the outcome that it already has.
    fn check(&self, block: &Arc<EncodedBlock>) -> Result<Result<CheckedBlock, BlockOutcome>, LedgerError> {
        if is_known(&self.ledger, block)? {
            // The ledger decides whether the block is known; the remembered outcome only adds details.
            let remembered = self.state().remembered.get(&block.hash).cloned();
            let known = || BlockOutcome::known(block, self.ledger.spec());
            return Ok(Err(remembered.map_or_else(known, |outcome| BlockOutcome { known: true, ..outcome })));
        }
        let outcome = || BlockOutcome::new(block, self.ledger.spec());
        let checked = match CheckedBlock::new(Arc::clone(block)) {
            Ok(checked) => checked,
            Err(error) => return Ok(Err(outcome().refused(error.to_string()))),
        };
        let parent = block.header.parent_hash;
        let invalid = self.state().invalid.get(&parent).cloned();
        if let Some(reason) = invalid {
            let reason = behind_invalid(&parent, &reason);
            self.state().remember_invalid(block.hash, reason.clone());
            return Ok(Err(outcome().refused(reason)));
        }
        let (head, reach) = (self.ledger.head().summary().state.height.0, self.ledger.reach());
        if head.saturating_sub(block.header.number.saturating_sub(1)) > reach {
            let reason = format!(
                "its parent is more than {reach} blocks below the head, block {head}: nothing can be executed there any more"
            );
            return Ok(Err(outcome().failed(reason)));
        }
        Ok(Ok(checked))
    }

    /// What the ledger knows of the block's parent, unless it is open: then the intake knows better.
    fn lineage(&self, block: &Block) -> Result<Lineage, LedgerError> {
        let parent = block.header.parent_hash;
        if parent == self.head() || self.state().intake.contains(&parent) {
            return Ok(Lineage::Chain);
        }
        Ok(if self.ledger.height_of(&parent)?.is_some() { Lineage::Side } else { Lineage::Orphan })
    }

    /// The hash of the chain's head.
    fn head(&self) -> B256 {
        self.ledger.head().summary().state.block_hash
    }

    fn acknowledge(
        &self,
        state: &mut State,
        block: &Block,
        outcome: oneshot::Sender<BlockOutcome>,
    ) -> Result<Acceptance, LedgerError> {
        let settled = |outcome: BlockOutcome| Ok(Acceptance::Settled(Box::new(outcome)));
        if let Some(reason) = state.held_up(&block.hash) {
            return settled(BlockOutcome::new(block, self.ledger.spec()).parked(reason));
        }
        if !state.blocks.contains_key(&block.hash) {
            // The block was open when it was offered again, and has ended since.
            if is_known(&self.ledger, block)? {
                return settled(BlockOutcome::known(block, self.ledger.spec()));
            }
            let reason = "it has ended without being committed; submit it again to learn why".to_owned();
            return settled(BlockOutcome::new(block, self.ledger.spec()).failed(reason));
        }
        // A client waits for the block now. So its pause ends, and an orphan that delays it is tried again.
        if state.quiet.remove(&block.hash) {
            state.intake.again(&block.hash, Duration::ZERO);
        }
        if let Some(orphan) = state.intake.waits_for_orphan(&block.hash) {
            state.intake.again(&orphan, Duration::ZERO);
        }
        let waiters = state.waiters.entry(block.hash).or_default();
        waiters.retain(|waiter| !waiter.is_closed());
        if waiters.len() >= WAITERS {
            let reason = format!("it is accepted, and {WAITERS} clients wait for it already");
            return settled(BlockOutcome::new(block, self.ledger.spec()).failed(reason));
        }
        waiters.push(outcome);
        Ok(Acceptance::Accepted)
    }

    /// The next block to execute, and whether it failed before and no client waits for it.
    pub(super) fn next(&self) -> Option<(CheckedBlock, bool)> {
        let (now, head) = (self.now(), self.head());
        let mut state = self.state();
        let hash = state.intake.next(now, &head)?;
        let quiet = state.quiet.contains(&hash);
        state.blocks.get(&hash).map(|block| (block.clone(), quiet))
    }

    /// The block that runs next if this one, which is under way, is committed.
    pub(super) fn after(&self, hash: &B256) -> Option<CheckedBlock> {
        let state = self.state();
        state.intake.after(hash).and_then(|next| state.blocks.get(&next).cloned())
    }

    /// Ends a block that is committed, stored as a side block, or already known.
    pub(super) fn committed(&self, outcome: BlockOutcome) {
        let mut state = self.state();
        state.intake.ended(&outcome.hash);
        state.forget(&outcome.hash);
        state.tell(&outcome);
        if !outcome.known {
            state.remember(outcome);
        }
    }

    /// Ends an invalid block, and every accepted block that descends from it.
    pub(super) fn refused(&self, outcome: &BlockOutcome) -> Result<(), LedgerError> {
        let descendants = self.state().intake.descendants(&outcome.hash);
        self.ledger.end_accepted(std::iter::once(&outcome.hash).chain(&descendants))?;
        blocks_ended(Ending::Refused, 1 + descendants.len());
        let reason = outcome.error.clone().unwrap_or_default();
        let mut state = self.state();
        state.intake.ended(&outcome.hash);
        state.forget(&outcome.hash);
        state.tell(outcome);
        for hash in descendants {
            let Some(block) = state.blocks.get(&hash).cloned() else { continue };
            let reason = behind_invalid(&outcome.hash, &reason);
            state.intake.ended(&hash);
            state.forget(&hash);
            state.tell(&BlockOutcome::new(&block, self.ledger.spec()).refused(reason.clone()));
            state.remember_invalid(hash, reason);
        }
        state.remember_invalid(outcome.hash, reason);
        Ok(())
    }

    /// Handles a block whose parent is unknown. It stays accepted and waits for the parent. If too many
    /// blocks wait like this, it is parked instead.
    pub(super) fn orphaned(&self, outcome: &BlockOutcome, reason: &str) -> Result<(), LedgerError> {
        let parent = self.state().blocks.get(&outcome.hash).map(|block| block.header.parent_hash);
        let invalid = parent.and_then(|parent| {
            let why = self.state().invalid.get(&parent).cloned()?;
            Some(behind_invalid(&parent, &why))
        });
        if let Some(reason) = invalid {
            // The parent was rejected while this block was being journaled.
            return self.refused(&outcome.clone().refused(reason));
        }
        if !self.state().intake.orphaned(&outcome.hash) {
            let reason = format!("{reason}; then retry this block, or discard it");
            let parked = Parked { index: None, convicted: false, reason, at: unix_now() };
            return self.park(&outcome.hash, parked).map(drop);
        }
        let mut state = self.state();
        state.tell(&outcome.clone().failed(format!("{reason}; it stays accepted, and waits for its parent")));
        for hash in state.intake.descendants(&outcome.hash) {
            let Some(block) = state.blocks.get(&hash).cloned() else { continue };
            let text = format!("it stays accepted, and waits for block {}: {reason}", outcome.hash);
            state.tell(&BlockOutcome::new(&block, self.ledger.spec()).failed(text));
        }
        Ok(())
    }

    /// Handles a block that could not be executed for a reason outside of the block. It stays accepted.
    pub(super) fn postponed(&self, outcome: Option<&BlockOutcome>, hash: &B256) {
        let mut state = self.state();
        state.intake.again(hash, self.now() + PAUSE);
        if let Some(outcome) = outcome {
            state.tell(outcome);
        }
        // A client may have started to wait meanwhile; the next attempt tells it the outcome.
        if !state.waiters.contains_key(hash) {
            state.quiet.insert(*hash);
        }
    }

    /// Parks a block: the block and its descendants wait for an operator. Returns whether it was still accepted.
    pub(super) fn park(&self, hash: &B256, parked: Parked) -> Result<bool, LedgerError> {
        let record = parked.clone();
        self.ledger.change_accepted(hash, |accepted| accepted.parked = Some(record))?;
        let mut state = self.state();
        if !state.intake.park(hash) {
            state.parked.remove(hash);
            return Ok(false);
        }
        state.parked.insert(*hash, parked);
        blocks_ended(Ending::Parked, 1);
        let mut held = vec![*hash];
        held.extend(state.intake.descendants(hash));
        for hash in held {
            let Some(reason) = state.held_up(&hash) else { continue };
            let Some(block) = state.blocks.get(&hash).cloned() else { continue };
            state.tell(&BlockOutcome::new(&block, self.ledger.spec()).parked(reason));
        }
        Ok(true)
    }

    /// The number of accepted blocks that wait, and the number of parked ones.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.intake.open().0, state.parked.len())
    }

    /// Drops all waiting clients' channels, which tells the clients that this process is stopping.
    pub(super) fn send_away(&self) {
        self.state().waiters.clear();
    }

    /// Takes the counted start back: the process ends in good order, so no block ended it.
    pub(super) fn close(&self) -> Result<(), LedgerError> {
        let Some(hash) = &self.counted else { return Ok(()) };
        self.ledger.change_accepted(hash, |record| record.starts = record.starts.saturating_sub(1))
    }
}

/// The reason for rejecting a block that descends from an invalid one.
fn behind_invalid(ancestor: &B256, reason: &str) -> String {
    format!("it follows block {ancestor}, which was refused: {reason}")
}

fn candidate(block: &EncodedBlock) -> Candidate {
    Candidate { hash: block.hash, parent: block.header.parent_hash, bytes: block.rlp().len() }
}

/// Whether the ledger already knows the block. This includes the genesis block, with which an export
/// begins.
fn is_known(ledger: &Ledger, block: &Block) -> Result<bool, LedgerError> {
    Ok(ledger.origin().block_hash == block.hash || ledger.knows(block.height(), block.hash)?)
}

/// The current time in seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
