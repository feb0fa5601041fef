//! Importing a whole chain: the next block executes while the one before it is made durable.
//!
//! Executed blocks wait for the committer in a bounded queue. It takes all that wait and commits
//! them as one transaction, so a slow disk makes groups larger, not blocks slower. A block is
//! reported when it is durable, never before.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::block::Block;
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};

use super::{Imported, Importer, Place};
use crate::execute::ExecuteError;
use ledger::{Ledger, LedgerError, Tip};

/// Executed blocks that wait to be made durable, at most.
const QUEUE: usize = 16;

/// How long a thread waits before it looks again whether it must stop.
const LOOK: Duration = Duration::from_millis(200);

/// How a block went that is durable now.
pub type Durable = Imported;

/// What became of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportCount {
    /// Blocks that are durable now and were not before.
    pub imported: u64,
    /// Blocks that were known already.
    pub known: u64,
}

/// How an import ended.
#[derive(Debug)]
pub struct ImportEnd<E> {
    /// What became of it until then.
    pub count: ImportCount,
    /// Why it ended before the source of blocks did, if not because it was told to.
    pub stop: Option<ImportStop<E>>,
}

/// Why an import stops. What was reported before is durable all the same.
#[derive(Debug, thiserror::Error)]
pub enum ImportStop<E> {
    /// The source of blocks fails.
    #[error(transparent)]
    Source(E),
    /// A block cannot be imported.
    #[error("block {number} ({hash}): {error}")]
    Block {
        /// Its number.
        number: u64,
        /// Its hash.
        hash: alloy_primitives::B256,
        /// Why not.
        error: ExecuteError,
    },
    /// Blocks cannot be made durable.
    #[error(transparent)]
    Commit(LedgerError),
}

/// How far the committer is: a count, which cannot overflow as a queue of messages could.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<Reported>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Reported {
    /// Blocks that are durable and were reported.
    blocks: u64,
    /// Whether the committer has ended: nothing more will be reported.
    ended: bool,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, Reported> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_one(&self) {
        self.state().blocks += 1;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Waits until so many blocks were reported. False if they will not be, because the committer has
    /// ended, or `stop` says so.
    fn reach(&self, blocks: u64, stop: &dyn Fn() -> bool) -> bool {
        let mut state = self.state();
        loop {
            if state.blocks >= blocks {
                return true;
            }
            if state.ended || stop() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

/// Says that the committer has ended, however it ends.
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
    /// Blocks that were given to the committer.
    given: u64,
    tip: Arc<Tip>,
}

/// What became of a block on the executing side.
enum Next {
    Known,
    Executed(Box<Imported>),
    /// The import ends: the committer has ended and says why, or it was asked to stop.
    Ends,
}

impl Importer {
    /// Imports blocks until the source ends, `stop` says so, or something fails; `report` is told
    /// of each block when it is durable. Whatever ends it: what was executed before is durable, as
    /// far as the disk takes it.
    pub fn import_all<E: Send>(
        &mut self,
        blocks: impl Iterator<Item = Result<Block, E>>,
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
        // Whatever else stopped it: without the committer nothing went on.
        let stop = committed.map_err(ImportStop::Commit).and(ended).err();
        ImportEnd { count, stop }
    }
}

impl Pipeline<'_> {
    fn run<E>(
        &mut self,
        blocks: impl Iterator<Item = Result<Block, E>>,
        stop: &dyn Fn() -> bool,
        known: &mut u64,
    ) -> Result<(), ImportStop<E>> {
        for block in blocks {
            if stop() {
                return Ok(());
            }
            let block = block.map_err(ImportStop::Source)?;
            let (number, hash) = (block.header.number, block.hash);
            let next = self.next(&block, stop);
            match next.map_err(|error| ImportStop::Block { number, hash, error })? {
                Next::Known => *known += 1,
                Next::Executed(imported) => {
                    if !self.give(*imported) {
                        return Ok(());
                    }
                }
                Next::Ends => return Ok(()),
            }
            self.importer.keep_strikes().map_err(ImportStop::Commit)?;
        }
        Ok(())
    }

    /// Gives a block to the committer. False if that has ended, and says why.
    fn give(&mut self, imported: Imported) -> bool {
        let mut imported = imported;
        loop {
            match self.executed.send_timeout(imported, LOOK) {
                Ok(()) => {
                    self.given += 1;
                    return true;
                }
                // The disk is slow. What was executed is given in any case: it is to be durable.
                Err(SendTimeoutError::Timeout(back)) => imported = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
    }

    fn next(&mut self, block: &Block, stop: &dyn Fn() -> bool) -> Result<Next, ExecuteError> {
        // The head's own tip has no layers to look through.
        let head = self.importer.ledger.head();
        if head.summary() == self.tip.summary() {
            self.tip = head;
        }
        if block.header.parent_hash == self.tip.summary().state.block_hash {
            let imported = self.importer.execute_next(block, &self.tip)?;
            self.tip = Arc::clone(&imported.tip);
            return Ok(Next::Executed(Box::new(imported)));
        }
        // Known already, or another branch: judged against the head, so all must be committed.
        if !self.progress.reach(self.given, stop) {
            return Ok(Next::Ends);
        }
        let imported = self.importer.import(block)?;
        self.tip = self.importer.ledger.head();
        Ok(imported.map_or(Next::Known, |imported| Next::Executed(Box::new(imported))))
    }
}

/// Commits what has been executed, all that waits at once.
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
        let mut group = vec![first];
        group.extend(queue.try_iter().take(QUEUE - 1));
        // What `import` has committed or kept aside itself is here to be reported only.
        let newest = group.iter().rev().find(|imported| imported.place == Place::Executed);
        if let Some(newest) = newest {
            ledger.commit(&newest.tip)?;
        }
        for imported in &mut group {
            if imported.place == Place::Executed {
                imported.place = Place::Head;
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
        // Nothing is taken while the committer reports: a queue of messages would be full.
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
