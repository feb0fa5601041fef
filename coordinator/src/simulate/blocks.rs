//! The model of the block executor: rounds of a block, trusted execution, and its end on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{RoundId, ShardId, WorkId};

use super::chain::{BlockNumber, Piece, block_hash, fold};
use super::coordinator::Run;
use super::disk::{Ending, Fenced};
use super::world::{Happening, World};
use crate::schedule::{Event, FailCause, WorkItem};

impl World {
    pub(super) fn stop_fenced(&mut self, index: usize) {
        self.trace(|| format!("coordinator {index} is fenced and stops"));
        self.kill_coordinator(index, Duration::from_millis(20));
    }

    /// Begins the next block, if none is under way.
    pub(super) fn next_block(&mut self, index: usize) {
        let now = self.now;
        let Some(coordinator) = self.coordinator(index) else { return };
        let Some(block) = coordinator.intake.next(now).and_then(|hash| self.block_of(&hash)) else { return };
        self.open_round(index, block, false, BTreeMap::new());
    }

    fn open_round(
        &mut self,
        index: usize,
        block: BlockNumber,
        execute: bool,
        answers: BTreeMap<WorkId, (ShardId, B256)>,
    ) {
        let pieces = self.random.between(1, 5) as u8;
        let Some(content) = self.blocks.get(block) else { return };
        let (transactions, heavy) = (usize::from(content.transactions), content.heavy);
        let Some(coordinator) = self.coordinators.get_mut(index) else { return };
        let (height, digest) = coordinator.head;
        let lots = &mut self.verification;
        let pieces = content.cut(block, height, execute, pieces).into_iter();
        let work: Vec<_> =
            pieces.map(|piece| WorkItem { verify: lots.draws(), ..piece.item(digest, heavy) }).collect();
        coordinator.rounds += 1;
        let round = RoundId(coordinator.rounds);
        let open = work.iter().map(|item| item.id).collect();
        let verify = work.iter().filter(|item| item.verify).map(|item| item.id).collect();
        let results = vec![None; transactions];
        coordinator.run = Some(Run {
            block,
            round,
            execute,
            disputed: false,
            results,
            open,
            verify,
            answers,
            doubtful: BTreeSet::new(),
        });
        self.trace(|| {
            format!("round {round} of block {block} opens, execute {execute}, {} pieces", work.len())
        });
        self.tell(index, Event::Admit { round, block: block_hash(block), work, prefer: Vec::new() });
    }

    pub(super) fn recut(&mut self, index: usize, round: RoundId, work: WorkId) {
        let piece = Piece::of(&work);
        let base = Piece::base_digest(&work);
        let heavy = self.blocks.get(piece.block).and_then(|block| block.heavy);
        let parts: Vec<_> = (piece.first..piece.first + piece.count)
            .map(|first| Piece { first, count: 1, ..piece }.item(base, heavy))
            .collect();
        if let Some(run) = self.coordinator(index).and_then(|known| known.run.as_mut())
            && run.open.remove(&work)
        {
            run.open.extend(parts.iter().map(|part| part.id));
            if run.verify.remove(&work) {
                run.verify.extend(parts.iter().map(|part| part.id));
            }
        }
        self.tell(index, Event::Recut { round, work, parts });
    }

    pub(super) fn round_done(&mut self, index: usize, round: RoundId) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        let Some(run) = known.run.take_if(|run| run.round == round) else { return };
        let (_, base) = known.head;
        let Some(block) = self.blocks.get(run.block).cloned() else { return };
        if !run.open.is_empty() {
            self.check.fail(now, "a round is finished while some of its work is open");
        }
        self.check_verified(&run);
        if let Some(work) = run.doubtful.first().filter(|_| !run.disputed) {
            let what = format!("a result of a shard in quarantine counts for {:?}", Piece::of(work));
            self.check.fail(now, what);
        }
        if !run.execute {
            self.open_round(index, run.block, true, run.answers);
            return;
        }
        // A sender that is wrong shows when the block is verified.
        let senders = run.answers.iter().filter(|(work, _)| !Piece::of(work).execute);
        let right = |(work, (_, answer)): (&WorkId, &(ShardId, B256))| self.truth(work) == Some(*answer);
        let recovered = senders.into_iter().all(right) || self.verification.blind;
        match fold(base, &run.results) {
            Some(digest)
                if (self.verification.blind || digest == block.after(base))
                    && recovered
                    && !block.invalid
                    && !run.disputed =>
            {
                self.begin_commit(index, run.block, digest);
            }
            _ => {
                if !block.invalid {
                    self.name_the_wrong(index, &run);
                }
                self.judge(index, run.block);
            }
        }
    }

    pub(super) fn round_failed(&mut self, index: usize, round: RoundId, cause: FailCause) {
        let Some(known) = self.coordinator(index) else { return };
        let Some(run) = known.run.take_if(|run| run.round == round) else { return };
        self.check.tries_again(run.block);
        match cause {
            // The block stays in the journal and is tried again.
            FailCause::Stranded => {
                let again = Duration::from_millis(60);
                let not_before = self.now + again;
                if let Some(known) = self.coordinator(index) {
                    known.intake.again(&block_hash(run.block), not_before);
                }
                self.after(again, Happening::TryAgain { coordinator: index });
            }
            FailCause::Local | FailCause::Spent => self.judge(index, run.block),
            FailCause::Parked { .. } => self.end_block(index, run.block, Ending::Parked),
        }
    }

    /// Trusted execution, in the coordinator's own process: what kills, kills it.
    pub(super) fn judge(&mut self, index: usize, block: BlockNumber) {
        let Some(content) = self.blocks.get(block).cloned() else { return };
        self.trace(|| format!("block {block} is executed by the coordinator alone"));
        if content.killer.is_some() {
            self.kill_coordinator(index, Duration::from_millis(30));
        } else if content.invalid {
            self.end_block(index, block, Ending::Refused);
        } else if let Some(known) = self.coordinator(index) {
            let digest = content.after(known.head.1);
            self.begin_commit(index, block, digest);
        }
    }

    fn begin_commit(&mut self, index: usize, block: BlockNumber, digest: u64) {
        if let Some(known) = self.coordinator(index) {
            known.committing = true;
            let delay = self.micros(500, 4_000);
            self.after(delay, Happening::CommitDone { coordinator: index, block, digest });
        }
    }

    pub(super) fn commit(&mut self, index: usize, block: BlockNumber, digest: u64) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        let (epoch, (height, _)) = (known.epoch, known.head);
        let (before, former) = (self.disk.ending(block), self.disk.head.0);
        let earlier = self.disk.pending().first().is_some_and(|(_, first)| *first != block);
        match self.disk.end(epoch, block, Ending::Committed, Some((height + 1, digest))) {
            Err(Fenced) => return self.stop_fenced(index),
            Ok(()) => self.trace(|| format!("block {block} is committed at height {}", height + 1)),
        }
        if epoch.number != self.disk.epoch {
            self.check.fail(now, format!("block {block} was committed under the older epoch {epoch}"));
        }
        if before.is_some() || former != height || earlier {
            self.check.fail(now, format!("block {block} was committed twice or out of order"));
        }
        if self.ends_here(index) {
            return;
        }
        let Some(known) = self.coordinator(index) else { return };
        known.head = (height + 1, digest);
        self.block_ended(index, block);
        let shards: Vec<ShardId> =
            self.coordinator(index).map_or_else(Vec::new, |known| known.links.keys().copied().collect());
        for shard in shards {
            self.sync(index, shard);
        }
    }

    pub(super) fn end_block(&mut self, index: usize, block: BlockNumber, ending: Ending) {
        let Some(known) = self.coordinator(index) else { return };
        let epoch = known.epoch;
        match self.disk.end(epoch, block, ending, None) {
            Err(Fenced) => self.stop_fenced(index),
            Ok(()) => {
                self.trace(|| format!("block {block} has ended: {ending:?}"));
                if !self.ends_here(index) {
                    self.block_ended(index, block);
                }
            }
        }
    }

    fn block_ended(&mut self, index: usize, block: BlockNumber) {
        let Some(known) = self.coordinator(index) else { return };
        known.committing = false;
        known.intake.ended(&block_hash(block));
        self.next_block(index);
    }
}
