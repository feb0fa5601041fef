//! Importing a whole chain: the next block executes while the one before it is made durable.
//!
//! Executed blocks wait for the committer in a bounded queue. It takes all that wait and commits
//! them as one transaction, so a slow disk makes groups larger, not blocks slower. A block is
//! reported when it is durable, never before.

use std::sync::Arc;

use common::block::Block;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Imported, Importer, Place};
use crate::execute::ExecuteError;
use crate::ledger::{Ledger, LedgerError, Tip};

/// Executed blocks that wait to be made durable, at most.
const QUEUE: usize = 16;

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

/// The executing side of a pipeline.
struct Pipeline<'a> {
    importer: &'a mut Importer,
    executed: Sender<Imported>,
    /// Of each group that is durable.
    done: Receiver<()>,
    waiting: u64,
    tip: Arc<Tip>,
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
        // Never full: no more can be reported than wait.
        let (tell, done) = bounded(QUEUE * 2);
        let tip = ledger.head();
        let mut count = ImportCount::default();
        let imported = &mut count.imported;
        let (ended, committed) = std::thread::scope(|scope| {
            let named = std::thread::Builder::new().name("committer".into());
            let committer =
                named.spawn_scoped(scope, move || commit_all(&ledger, &queue, &tell, report, imported));
            let mut pipeline = Pipeline { importer: self, executed, done, waiting: 0, tip };
            let ended = pipeline.run(blocks, stop, &mut count.known);
            drop(pipeline);
            let committed = match committer {
                Ok(committer) => committer.join().unwrap_or_else(|panic| {
                    let reason = common::telemetry::panic_message(panic.as_ref());
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
            let imported = self.next(&block).map_err(|error| ImportStop::Block { number, hash, error })?;
            match imported {
                None => *known += 1,
                Some(imported) => {
                    if self.executed.send(imported).is_err() {
                        // The committer says why.
                        return Ok(());
                    }
                    self.waiting += 1;
                }
            }
            while self.done.try_recv().is_ok() {
                self.waiting = self.waiting.saturating_sub(1);
            }
            self.importer.keep_strikes().map_err(ImportStop::Commit)?;
        }
        Ok(())
    }

    fn next(&mut self, block: &Block) -> Result<Option<Imported>, ExecuteError> {
        // The head's own tip has no layers to look through.
        let head = self.importer.ledger.head();
        if head.summary() == self.tip.summary() {
            self.tip = head;
        }
        if block.header.parent_hash == self.tip.summary().state.block_hash {
            let imported = self.importer.execute_next(block, &self.tip)?;
            self.tip = Arc::clone(&imported.tip);
            return Ok(Some(imported));
        }
        // Known already, or another branch: judged against the head, so all must be committed.
        while self.waiting > 0 && self.done.recv().is_ok() {
            self.waiting -= 1;
        }
        let imported = self.importer.import(block)?;
        self.tip = self.importer.ledger.head();
        Ok(imported)
    }
}

/// Commits what has been executed, all that waits at once.
fn commit_all(
    ledger: &Ledger,
    queue: &Receiver<Imported>,
    tell: &Sender<()>,
    report: &mut (dyn FnMut(&Durable) + Send),
    count: &mut u64,
) -> Result<(), LedgerError> {
    while let Ok(first) = queue.recv() {
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
            // The executing side may have ended already.
            let _ = tell.try_send(());
        }
    }
    Ok(())
}
