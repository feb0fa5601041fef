//! The desk: takes blocks in, journals them before they are acknowledged, hands them to the chain thread
//! one by one, and tells clients their end. What is next is the [`Intake`]'s business, what a block is
//! worth the chain thread's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use common::block::Block;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::outcome::{Acceptance, BlockOutcome, ParkedError, SubmitError};
use crate::intake::{Candidate, Intake, IntakeLimits, Offer, Sequence, Start};
use crate::ledger::{Ledger, LedgerError, Parked};

/// Submissions that wait to be taken in, at most.
const QUEUE: usize = 64;

/// Blocks whose outcomes are remembered, so that submitting one again is answered.
const REMEMBERED: usize = 4096;

/// Clients that wait for one block, at most.
const WAITERS: usize = 1024;

/// How often a thread looks whether it is to stop.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// How long a block that could not be executed waits before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A client's block.
#[derive(Debug)]
struct Submission {
    block: Arc<Block>,
    accepted: oneshot::Sender<Result<Acceptance, SubmitError>>,
    outcome: oneshot::Sender<BlockOutcome>,
}

/// What a client waits for. Dropping it does not stop the block.
#[derive(Debug)]
pub struct Ticket {
    /// Whether the block is taken: it is in the journal then.
    pub accepted: oneshot::Receiver<Result<Acceptance, SubmitError>>,
    /// What became of it.
    pub outcome: oneshot::Receiver<BlockOutcome>,
}

/// A parked block.
#[derive(Debug, Clone)]
pub struct ParkedBlock {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Why.
    pub parked: Parked,
    /// Accepted blocks that wait for it.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    intake: Intake,
    blocks: HashMap<B256, Arc<Block>>,
    parked: HashMap<B256, Parked>,
    waiters: HashMap<B256, Vec<oneshot::Sender<BlockOutcome>>>,
    /// Blocks that could not be executed, and whose clients have all been told.
    quiet: HashSet<B256>,
    remembered: HashMap<B256, BlockOutcome>,
    order: VecDeque<B256>,
}

impl State {
    /// Tells whoever waits for the block.
    fn tell(&mut self, outcome: &BlockOutcome) {
        for waiter in self.waiters.remove(&outcome.hash).unwrap_or_default() {
            // The client may have stopped waiting.
            let _ = waiter.send(outcome.clone());
        }
    }

    fn forget(&mut self, hash: &B256) {
        self.blocks.remove(hash);
        self.parked.remove(hash);
        self.quiet.remove(hash);
    }

    fn remember(&mut self, outcome: BlockOutcome) {
        self.order.push_back(outcome.hash);
        self.remembered.insert(outcome.hash, outcome);
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }

    /// Why a block that was accepted waits for an operator, if it does.
    fn held_up(&self, hash: &B256) -> Option<String> {
        if let Some(parked) = self.parked.get(hash) {
            return Some(format!("it is parked: {}", parked.reason));
        }
        let behind = self.parked.keys().find(|parked| self.intake.descendants(parked).contains(hash))?;
        Some(format!("it is accepted, and waits for block {behind}, which is parked"))
    }
}

/// The desk. The chain thread and clients' calls share it.
#[derive(Debug)]
pub(super) struct Desk {
    ledger: Arc<Ledger>,
    queue: Sender<Submission>,
    started: Instant,
    state: Mutex<State>,
    /// A word that there may be something to execute.
    work: Sender<()>,
    /// The block whose starts were counted when this process began.
    counted: Option<B256>,
    /// Cancelled when no more blocks are taken.
    pub(super) admission: CancellationToken,
}

/// What the desk's thread takes in.
#[derive(Debug)]
pub(super) struct Submissions(Receiver<Submission>);

/// A block that too many coordinators have begun and not ended.
pub(super) type Overburdened = Option<(B256, u64, String)>;

impl Desk {
    /// A desk that goes on with what the ledger's journal holds. `wake` is told of work.
    pub(super) fn open(
        ledger: Arc<Ledger>,
        limits: IntakeLimits,
        work: Sender<()>,
    ) -> Result<(Self, Submissions, Overburdened), LedgerError> {
        let (queue, submissions) = bounded(QUEUE);
        let mut state = State { intake: Intake::new(limits), ..State::default() };
        let mut starts = HashMap::new();
        for accepted in ledger.accepted()? {
            let (block, record) = (accepted.block, accepted.record);
            if is_known(&ledger, &block)? {
                ledger.end_accepted(&block.hash)?;
                continue;
            }
            starts.insert(block.hash, record.starts);
            state.intake.restore(candidate(&block), Sequence(record.sequence), record.parked.is_some());
            state.parked.extend(record.parked.map(|parked| (block.hash, parked)));
            state.blocks.insert(block.hash, Arc::new(block));
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

    /// Counts the start for the block that is first to be done: it may be what ends coordinators.
    fn count_start(&mut self, starts: &HashMap<B256, u32>) -> Result<Overburdened, LedgerError> {
        let verdict = self.state().intake.started(|hash| starts.get(hash).copied().unwrap_or(0));
        match verdict {
            None => Ok(None),
            Some(Start::Count(hash, count)) => {
                self.counted = Some(hash);
                self.ledger.change_accepted(&hash, |record| record.starts = count)?;
                Ok(None)
            }
            Some(Start::Park(hash, count)) => {
                let reason = format!(
                    "{} coordinators have ended while it was first to be done; look at their logs, then retry or discard it",
                    count - 1
                );
                let parked = Parked { index: None, convicted: false, reason: reason.clone(), at: unix_now() };
                let number = self.state().blocks.get(&hash).map_or(0, |block| block.header.number);
                self.park(&hash, parked)?;
                Ok(Some((hash, number, reason)))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the desk was opened: the intake's clock.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake(&self) {
        // One word is enough.
        let _ = self.work.try_send(());
    }

    /// Puts a block into the queue of the desk's thread.
    pub(super) fn submit(&self, block: Block) -> Result<Ticket, SubmitError> {
        if self.admission.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let (accepted, acceptance) = oneshot::channel();
        let (outcome, ended) = oneshot::channel();
        let submission = Submission { block: Arc::new(block), accepted, outcome };
        self.queue.try_send(submission).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Flooded,
            TrySendError::Disconnected(_) => SubmitError::Stopping,
        })?;
        Ok(Ticket { accepted: acceptance, outcome: ended })
    }

    /// Takes blocks in until `stop`. All that wait are journaled together.
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
        let mut fresh: Vec<(u64, Arc<Block>)> = Vec::new();
        let mut waiting = Vec::new();
        for submission in submissions {
            if self.admission.is_cancelled() {
                let _ = submission.accepted.send(Err(SubmitError::Stopping));
                continue;
            }
            if let Some(outcome) = self.settled(&submission.block)? {
                let _ = submission.accepted.send(Ok(Acceptance::Settled(Box::new(outcome))));
                continue;
            }
            let offer = self.state().intake.offer(candidate(&submission.block));
            match offer {
                Ok(Offer::Fresh(sequence)) => {
                    fresh.push((sequence.0, Arc::clone(&submission.block)));
                    waiting.push(submission);
                }
                Ok(Offer::Open | Offer::Parked) => waiting.push(submission),
                Err(full) => {
                    let _ = submission.accepted.send(Err(full.into()));
                }
            }
        }
        if !fresh.is_empty() {
            self.ledger.accept(fresh.iter().map(|(sequence, block)| (*sequence, block.as_ref())))?;
        }
        let mut state = self.state();
        for (_, block) in fresh {
            state.intake.confirm(&block.hash);
            state.blocks.insert(block.hash, block);
        }
        for Submission { block, accepted, outcome } in waiting {
            let acceptance = self.acknowledge(&mut state, &block, outcome)?;
            let _ = accepted.send(Ok(acceptance));
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// What can be said of a block without executing it.
    fn settled(&self, block: &Block) -> Result<Option<BlockOutcome>, LedgerError> {
        if is_known(&self.ledger, block)? {
            // The ledger decides; what is remembered tells how it went.
            let remembered = self.state().remembered.get(&block.hash).cloned();
            let known = || BlockOutcome::known(block, self.ledger.spec());
            return Ok(Some(
                remembered.map_or_else(known, |outcome| BlockOutcome { known: true, ..outcome }),
            ));
        }
        let wrong = block.check_body().err();
        Ok(wrong.map(|error| BlockOutcome::new(block, self.ledger.spec()).refused(error.to_string())))
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
            // It was open when it was offered again, and has ended since.
            if is_known(&self.ledger, block)? {
                return settled(BlockOutcome::known(block, self.ledger.spec()));
            }
            let reason = "it has ended without being committed; submit it again to learn why".to_owned();
            return settled(BlockOutcome::new(block, self.ledger.spec()).failed(reason));
        }
        // Somebody waits for it now: no more pauses.
        if state.quiet.remove(&block.hash) {
            state.intake.again(&block.hash, Duration::ZERO);
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

    /// The next block to execute, and whether nobody waits for it since it could not be executed.
    pub(super) fn next(&self) -> Option<(Arc<Block>, bool)> {
        let now = self.now();
        let mut state = self.state();
        let hash = state.intake.next(now)?;
        let quiet = state.quiet.contains(&hash);
        state.blocks.get(&hash).map(|block| (Arc::clone(block), quiet))
    }

    /// The block has ended: it is committed, kept aside, or known.
    pub(super) fn committed(&self, outcome: BlockOutcome) {
        let mut state = self.state();
        state.intake.ended(&outcome.hash);
        state.forget(&outcome.hash);
        state.tell(&outcome);
        if !outcome.known {
            state.remember(outcome);
        }
    }

    /// The block has ended without becoming the chain's.
    pub(super) fn refused(&self, outcome: &BlockOutcome) -> Result<(), LedgerError> {
        self.ledger.end_accepted(&outcome.hash)?;
        let mut state = self.state();
        state.intake.ended(&outcome.hash);
        state.forget(&outcome.hash);
        state.tell(outcome);
        Ok(())
    }

    /// The block could not be executed, which is not its fault: it stays accepted.
    pub(super) fn postponed(&self, outcome: Option<&BlockOutcome>, hash: &B256) {
        let mut state = self.state();
        state.intake.again(hash, self.now() + PAUSE);
        if let Some(outcome) = outcome {
            state.tell(outcome);
        }
        // Somebody may wait since: they are told as well, next time.
        if !state.waiters.contains_key(hash) {
            state.quiet.insert(*hash);
        }
    }

    /// The block waits for an operator, and its descendants with it.
    pub(super) fn park(&self, hash: &B256, parked: Parked) -> Result<(), LedgerError> {
        let record = parked.clone();
        self.ledger.change_accepted(hash, |accepted| accepted.parked = Some(record))?;
        let mut state = self.state();
        state.intake.park(hash);
        state.parked.insert(*hash, parked);
        let mut held = vec![*hash];
        held.extend(state.intake.descendants(hash));
        for hash in held {
            let Some(reason) = state.held_up(&hash) else { continue };
            let Some(block) = state.blocks.get(&hash).cloned() else { continue };
            state.tell(&BlockOutcome::new(&block, self.ledger.spec()).parked(reason));
        }
        Ok(())
    }

    /// Whether accepted blocks wait for this one.
    pub(super) fn is_awaited(&self, hash: &B256) -> bool {
        !self.state().intake.descendants(hash).is_empty()
    }

    /// The parked blocks.
    pub(super) fn parked(&self) -> Vec<ParkedBlock> {
        let state = self.state();
        let mut parked: Vec<ParkedBlock> = state
            .parked
            .iter()
            .map(|(hash, parked)| ParkedBlock {
                number: state.blocks.get(hash).map_or(0, |block| block.header.number),
                hash: *hash,
                parked: parked.clone(),
                waiting: state.intake.descendants(hash).len(),
            })
            .collect();
        parked.sort_by_key(|parked| (parked.number, parked.hash));
        parked
    }

    /// How many blocks are accepted and wait, and how many are parked.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.intake.open().0, state.parked.len())
    }

    /// A parked block is tried again, in its old place: durable when this returns.
    pub(super) fn retry(&self, hash: &B256) -> Result<(), ParkedError> {
        self.change_parked(hash, |ledger| {
            ledger.change_accepted(hash, |record| {
                record.parked = None;
                record.starts = 0;
            })
        })?;
        let mut state = self.state();
        state.parked.remove(hash);
        state.intake.retry(hash);
        drop(state);
        self.wake();
        Ok(())
    }

    /// A parked block is given up: durable when this returns. Its descendants are tried, and refused.
    pub(super) fn discard(&self, hash: &B256) -> Result<(), ParkedError> {
        self.change_parked(hash, |ledger| ledger.discard_accepted(hash))?;
        let mut state = self.state();
        state.intake.ended(hash);
        state.forget(hash);
        drop(state);
        self.wake();
        Ok(())
    }

    fn change_parked(
        &self,
        hash: &B256,
        change: impl FnOnce(&Ledger) -> Result<(), LedgerError>,
    ) -> Result<(), ParkedError> {
        if !self.state().parked.contains_key(hash) {
            return Err(ParkedError::NotParked(*hash));
        }
        change(&self.ledger).map_err(|error| ParkedError::Ledger(error.to_string()))
    }

    /// Whoever waits is told that this process is stopping, by the end of its channel.
    pub(super) fn send_away(&self) {
        self.state().waiters.clear();
    }

    /// The process ends in good order: that is nobody's fault.
    pub(super) fn close(&self) -> Result<(), LedgerError> {
        let Some(hash) = &self.counted else { return Ok(()) };
        self.ledger.change_accepted(hash, |record| record.starts = record.starts.saturating_sub(1))
    }
}

fn candidate(block: &Block) -> Candidate {
    Candidate { hash: block.hash, parent: block.header.parent_hash, bytes: block.encoded_len() }
}

/// Whether the block is there already. An export begins with the genesis block, which is there from the
/// beginning.
fn is_known(ledger: &Ledger, block: &Block) -> Result<bool, LedgerError> {
    Ok(ledger.origin().block_hash == block.hash || ledger.knows(block.height(), block.hash)?)
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
