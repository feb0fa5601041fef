//! The model of the block executor: rounds of a block, trusted execution, and the block's end on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{RoundId, ShardId, WorkId};

use super::chain::{Block, BlockNumber, Piece, block_hash, fold, state, summary_of};
use super::coordinator::Run;
use super::disk::{Ending, Fenced};
use super::world::{Happening, World};
use schedule::{Event, FailCause, WorkItem};

impl World {
    pub(super) fn stop_fenced(&mut self, index: usize) {
        self.trace(|| format!("coordinator {index} is fenced and stops"));
        self.kill_coordinator(index, Duration::from_millis(20));
    }

    /// Begins the next block, if none is under way. A block whose parent is not known waits for it.
    pub(super) fn next_block(&mut self, index: usize) {
        let now = self.now;
        loop {
            let head = self.head_hash();
            let Some(coordinator) = self.coordinator(index) else { return };
            let next = coordinator.intake.next(now, &head);
            let Some(block) = next.and_then(|hash| self.block_of(&hash)) else { return };
            if let Some(base) = self.parent_state(block) {
                self.lead(index, base);
                return self.open_round(index, block, false, BTreeMap::new());
            }
            self.trace(|| format!("block {block} waits for its parent"));
            let waits =
                self.coordinator(index).is_some_and(|known| known.intake.orphaned(&block_hash(block)));
            if !waits {
                self.check.fail(now, "a block without a known parent cannot wait");
                return;
            }
        }
    }

    /// Makes a state the one that shards must hold.
    fn lead(&mut self, index: usize, base: (u64, u64)) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        let (former, target) = (known.base, summary_of(state(base.0, base.1)));
        known.base = base;
        let commands = if base.0 == former.0 + 1 {
            known.advances_from = state(former.0, former.1);
            known.replicas.advance(now, known.advances_from, target)
        } else {
            known.replicas.lead_to(now, target)
        };
        self.follow(index, commands);
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
        let (height, digest) = coordinator.base;
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
        self.tell(index, Event::Admit { round, block: block_hash(block), work });
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
        let (_, base) = known.base;
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
        // A wrong sender shows when the block is verified.
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
            // The block stays in the journal, and the coordinator tries it again.
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

    /// Trusted execution in the coordinator's own process: a transaction that kills, kills it.
    pub(super) fn judge(&mut self, index: usize, block: BlockNumber) {
        let Some(content) = self.blocks.get(block).cloned() else { return };
        self.trace(|| format!("block {block} is executed by the coordinator alone"));
        if content.killer.is_some() {
            self.kill_coordinator(index, Duration::from_millis(30));
        } else if content.invalid {
            self.end_block(index, block, Ending::Refused);
        } else if let Some(known) = self.coordinator(index) {
            let digest = content.after(known.base.1);
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

    /// Commits a valid block: it becomes the head, or a side block if its branch is not the heaviest.
    pub(super) fn commit(&mut self, index: usize, block: BlockNumber, digest: u64) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        let epoch = known.epoch;
        let (before, parent) = (self.disk.ending(block), self.parent_state(block));
        let height = parent.map_or(0, |(height, _)| height) + 1;
        let heavier = self.weight(Some(block)) > self.weight(self.disk.head);
        let ending = if heavier { Ending::Committed } else { Ending::SideBlock };
        match self.disk.end(epoch, block, ending, Some((height, digest))) {
            Err(Fenced) => return self.stop_fenced(index),
            Ok(()) => self.trace(|| format!("block {block} is at height {height}: {ending:?}")),
        }
        if epoch.number != self.disk.epoch {
            self.check.fail(now, format!("block {block} was committed under the older epoch {epoch}"));
        }
        if before.is_some() || parent.is_none() {
            self.check.fail(now, format!("block {block} was committed twice, or before its parent"));
        }
        if self.ends_here(index) {
            return;
        }
        self.block_ended(index, block);
    }

    /// The weight of the branch that ends with a block.
    pub(super) fn weight(&self, block: Option<BlockNumber>) -> u64 {
        self.branch(block).map(|block| block.weight).sum()
    }

    /// A block and its ancestors.
    pub(super) fn branch(&self, newest: Option<BlockNumber>) -> impl Iterator<Item = &Block> {
        let block = |number: BlockNumber| self.blocks.get(number);
        std::iter::successors(newest.and_then(block), move |below| below.parent.and_then(block))
    }

    pub(super) fn end_block(&mut self, index: usize, block: BlockNumber, ending: Ending) {
        // The descendants of an invalid block are invalid and end with it; those of a parked block wait.
        let behind = match ending {
            Ending::Refused => self.descendants(index, block),
            _ => Vec::new(),
        };
        for block in std::iter::once(block).chain(behind.iter().copied()) {
            let Some(known) = self.coordinator(index) else { return };
            let epoch = known.epoch;
            if self.disk.end(epoch, block, ending, None) == Err(Fenced) {
                return self.stop_fenced(index);
            }
            self.trace(|| format!("block {block} has ended: {ending:?}"));
        }
        if self.ends_here(index) {
            return;
        }
        if let Some(known) = self.coordinator(index) {
            for block in &behind {
                known.intake.ended(&block_hash(*block));
            }
        }
        self.block_ended(index, block);
    }

    /// The accepted descendants of a block, as the coordinator knows them.
    fn descendants(&mut self, index: usize, block: BlockNumber) -> Vec<BlockNumber> {
        let known = self.coordinator(index);
        let hashes = known.map_or_else(Vec::new, |known| known.intake.descendants(&block_hash(block)));
        hashes.iter().filter_map(|hash| self.block_of(hash)).collect()
    }

    fn block_ended(&mut self, index: usize, block: BlockNumber) {
        let head = self.disk.head_state();
        let Some(known) = self.coordinator(index) else { return };
        known.committing = false;
        known.intake.ended(&block_hash(block));
        self.lead(index, head);
        self.next_block(index);
    }
}
