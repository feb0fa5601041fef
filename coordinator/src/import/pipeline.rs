//! Imports a whole chain: the next block executes while the previous ones are made durable.
//!
//! Executed blocks wait for the committer in a bounded queue. The committer takes all waiting blocks
//! and commits them in one transaction. So a slow disk makes groups larger, not blocks slower. A block
//! is reported only when it is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_consensus::Header;
use alloy_primitives::B256;
use common::block::{BlockError, CheckedBlock, EncodedBlock};
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Imported, Importer, Placement};
use crate::execute::ExecuteError;
use ledger::{Ledger, LedgerError, Tip};

/// The maximum number of executed blocks that wait for the committer.
const QUEUE: usize = 16;

/// The committer waits for this many blocks, but not longer than [`LINGER`]: what several blocks change is
/// then written once, and synced once.
const GROUP: usize = 8;

/// How long an executed block waits for others to be committed with.
const LINGER: Duration = Duration::from_millis(300);

/// How often the committer looks whether another thread waits for it.
const AWAIT: Duration = Duration::from_millis(5);

/// How often a waiting thread checks whether it must stop.
const LOOK: Duration = Duration::from_millis(200);

/// A block that is durable now.
pub type Durable = Imported;

/// The counts of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportCount {
    /// The number of blocks that are durable now and were not before.
    pub imported: u64,
    /// The number of blocks that were already known.
    pub known: u64,
}

/// The end of an import.
#[derive(Debug)]
pub struct ImportEnd<E> {
    /// The counts up to the end.
    pub count: ImportCount,
    /// Whether the source ended and all its blocks were handled.
    pub complete: bool,
    /// The reason for ending before the source did; `None` if the import was asked to stop.
    pub stop: Option<ImportStop<E>>,
}

/// Why an import stops early. Blocks reported before that stay durable.
#[derive(Debug, thiserror::Error)]
pub enum ImportStop<E> {
    /// The source of blocks failed.
    #[error(transparent)]
    Source(E),
    /// A block could not be imported.
    #[error("block {number} ({hash}): {error}")]
    Block {
        /// The number of the block that stopped the import.
        number: u64,
        /// The hash of the block that stopped the import.
        hash: B256,
        /// The reason why the block could not be imported.
        error: ExecuteError,
    },
    /// Blocks could not be made durable.
    #[error(transparent)]
    Commit(LedgerError),
}

/// The committer's progress. It is a count, because a queue of messages could overflow.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<Reported>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Reported {
    /// The number of blocks that are durable and were reported.
    blocks: u64,
    /// Whether the committer has ended, so that it will report nothing more.
    ended: bool,
    /// Whether a thread waits until all blocks are reported.
    awaited: bool,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, Reported> {
        self.state.lock()
    }

    fn is_awaited(&self) -> bool {
        self.state().awaited
    }

    fn add_one(&self) {
        self.state().blocks += 1;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Waits until this many blocks were reported. Returns false if the committer ends or `stop` returns
    /// true before that.
    fn reach(&self, blocks: u64, stop: &dyn Fn() -> bool) -> bool {
        let mut state = self.state();
        loop {
            state.awaited = state.blocks < blocks;
            if !state.awaited {
                return true;
            }
            if state.ended || stop() {
                return false;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
    }
}

/// Records that the committer has ended, even after a panic.
struct EndOf<'p>(&'p Progress);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The executing side of a pipeline.
struct Pipeline<'a> {
    importer: &'a mut Importer,
    executed: Sender<Imported>,
    progress: &'a Progress,
    /// The number of blocks passed to the committer.
    given: u64,
    tip: Arc<Tip>,
}

/// The result of a block on the executing side.
enum Next {
    Known,
    Executed(Box<Imported>),
    /// The import ends: the committer has ended and reports why, or the import was asked to stop.
    Ends,
}

/// A block that was read before its turn.
enum Upcoming {
    /// It follows the block before it, so it is executed in any case: its content is checked.
    Checked(CheckedBlock),
    /// It may be known already; then it needs no check.
    Unchecked(Arc<EncodedBlock>),
}

impl Upcoming {
    fn header(&self) -> &Header {
        match self {
            Self::Checked(block) => &block.header,
            Self::Unchecked(block) => &block.header,
        }
    }

    fn hash(&self) -> B256 {
        match self {
            Self::Checked(block) => block.hash,
            Self::Unchecked(block) => block.hash,
        }
    }

    fn checked(self) -> Result<CheckedBlock, BlockError> {
        match self {
            Self::Checked(block) => Ok(block),
            Self::Unchecked(block) => CheckedBlock::new(block),
        }
    }
}

/// Looks at the next block of the source, which comes after the block `before`.
fn look_at<E>(
    block: Option<Result<EncodedBlock, E>>,
    before: &B256,
) -> Option<Result<Upcoming, ImportStop<E>>> {
    Some(match block? {
        Ok(block) if block.header.parent_hash == *before => {
            let (number, hash) = (block.header.number, block.hash);
            let checked = CheckedBlock::new(Arc::new(block)).map(Upcoming::Checked);
            checked.map_err(|error| ImportStop::Block { number, hash, error: error.into() })
        }
        Ok(block) => Ok(Upcoming::Unchecked(Arc::new(block))),
        Err(error) => Err(ImportStop::Source(error)),
    })
}

impl Importer {
    /// Imports blocks until the source ends, `stop` returns true, or an error occurs. Calls `report` for
    /// each block once it is durable. However the import ends, all blocks executed before are made durable
    /// if the disk allows it.
    pub fn import_all<E: Send>(
        &mut self,
        blocks: impl Iterator<Item = Result<EncodedBlock, E>>,
        stop: &dyn Fn() -> bool,
        report: &mut (dyn FnMut(&Durable) + Send),
    ) -> ImportEnd<E> {
        let ledger = Arc::clone(self.ledger());
        let (executed, queue) = bounded(QUEUE);
        let progress = Progress::default();
        let tip = ledger.head();
        let mut count = ImportCount::default();
        let imported = &mut count.imported;
        let (ended, committed) = std::thread::scope(|scope| {
            let named = std::thread::Builder::new().name("committer".into());
            let progress = &progress;
            let committer = named.spawn_scoped(scope, move || {
                let _end = EndOf(progress);
                commit_all(&ledger, &queue, progress, report, imported)
            });
            let mut pipeline = Pipeline { importer: self, executed, progress, given: 0, tip };
            let ended = pipeline.run(blocks, stop, &mut count.known);
            drop(pipeline);
            let committed = match committer {
                Ok(committer) => committer.join().unwrap_or_else(|panic| {
                    let reason = common::panic::panic_message(panic.as_ref());
                    Err(LedgerError::Damaged { what: "the committer".into(), reason })
                }),
                Err(source) => Err(LedgerError::Io { path: "committer".into(), source }),
            };
            (ended, committed)
        });
        // The committer's error takes precedence, because it stops all progress.
        let ended = committed.map_err(ImportStop::Commit).and(ended);
        ImportEnd { count, complete: matches!(ended, Ok(true)), stop: ended.err() }
    }
}

impl Pipeline<'_> {
    /// Returns whether all blocks were handled.
    fn run<E>(
        &mut self,
        mut blocks: impl Iterator<Item = Result<EncodedBlock, E>>,
        stop: &dyn Fn() -> bool,
        known: &mut u64,
    ) -> Result<bool, ImportStop<E>> {
        let mut upcoming = look_at(blocks.next(), &self.tip.summary().state.block_hash);
        while let Some(block) = upcoming {
            if stop() {
                return Ok(false);
            }
            let block = block?;
            let (number, hash) = (block.header().number, block.hash());
            upcoming = look_at(blocks.next(), &hash);
            if let Some(Ok(Upcoming::Checked(next))) = &upcoming {
                self.importer.announce_next(next);
            }
            let next = self.next(block, stop);
            match next.map_err(|error| ImportStop::Block { number, hash, error })? {
                Next::Known => *known += 1,
                Next::Executed(imported) => {
                    if !self.give(*imported) {
                        return Ok(false);
                    }
                }
                Next::Ends => return Ok(false),
            }
            self.importer.keep_fleet_record().map_err(ImportStop::Commit)?;
        }
        Ok(true)
    }

    /// Passes a block to the committer. Returns false if the committer has ended; the committer then
    /// reports why.
    fn give(&mut self, imported: Imported) -> bool {
        let mut imported = imported;
        loop {
            match self.executed.send_timeout(imported, LOOK) {
                Ok(()) => {
                    self.given += 1;
                    return true;
                }
                // The disk is slow. An executed block must become durable, so it is passed on in any case.
                Err(SendTimeoutError::Timeout(back)) => imported = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
    }

    fn next(&mut self, block: Upcoming, stop: &dyn Fn() -> bool) -> Result<Next, ExecuteError> {
        // What is committed by now needs no layer above the database any more.
        self.tip = self.importer.ledger.onto_head(&self.tip);
        if block.header().parent_hash == self.tip.summary().state.block_hash {
            let imported = self.importer.execute_next(&block.checked()?, &self.tip)?;
            self.tip = Arc::clone(&imported.tip);
            return Ok(Next::Executed(Box::new(imported)));
        }
        // The block is known or on another branch. It is compared with the head, so all blocks must be
        // committed first.
        if !self.progress.reach(self.given, stop) {
            return Ok(Next::Ends);
        }
        let imported = match block {
            Upcoming::Checked(block) => self.importer.import_checked(&block)?,
            Upcoming::Unchecked(block) => self.importer.import(block)?,
        };
        self.tip = self.importer.ledger.head();
        Ok(imported.map_or(Next::Known, |imported| Next::Executed(Box::new(imported))))
    }
}

/// Commits executed blocks, all waiting ones at once.
fn commit_all(
    ledger: &Ledger,
    queue: &Receiver<Imported>,
    progress: &Progress,
    report: &mut (dyn FnMut(&Durable) + Send),
    count: &mut u64,
) -> Result<(), LedgerError> {
    loop {
        let first = match queue.recv_timeout(LOOK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let group = &mut vec![first];
        let until = Instant::now() + LINGER;
        while group.len() < GROUP && !progress.is_awaited() {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now()).min(AWAIT)) {
                Ok(next) => group.push(next),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => break,
            }
        }
        group.extend(queue.try_iter().take(QUEUE - group.len()));
        // Blocks that `import` has committed or stored as side blocks itself only need a report.
        let newest = group.iter().rev().find(|imported| imported.place == Placement::Executed);
        if let Some(newest) = newest {
            ledger.commit(&newest.tip)?;
        }
        for imported in group {
            if imported.place == Placement::Executed {
                imported.place = Placement::Head;
            }
            *count += 1;
            report(imported);
            progress.add_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More blocks than any queue between the two sides holds.
    const MANY: u64 = 1000;

    #[test]
    fn no_report_is_lost_however_late_the_executing_side_looks() {
        let progress = Progress::default();
        // Nothing is read while the committer reports: a queue of messages would be full.
        (0..MANY).for_each(|_| progress.add_one());
        assert!(progress.reach(MANY, &|| false));
    }

    #[test]
    fn the_executing_side_does_not_wait_for_a_committer_that_has_ended_or_when_asked_to_stop() {
        let progress = Progress::default();
        assert!(!progress.reach(1, &|| true));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(EndOf(&progress)));
            assert!(!progress.reach(1, &|| false));
        });
    }

    #[test]
    fn the_executing_side_is_woken_by_the_last_report() {
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let committer = scope.spawn(|| {
                let _end = EndOf(&progress);
                (0..MANY).for_each(|_| progress.add_one());
            });
            assert!(progress.reach(MANY, &|| false));
            drop(committer);
        });
    }
}
