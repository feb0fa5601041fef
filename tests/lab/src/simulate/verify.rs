//! The model of verified execution: the choice of work, trusted code, and the blame of wrong shards.

use alloy_primitives::B256;
use common::id::{ShardId, WorkId};

use super::chain::{Piece, digest, numbers};
use super::coordinator::Run;
use super::random::{Random, join};
use super::world::{Happening, World};
use schedule::Event;

/// How a history verifies.
#[derive(Debug, Clone)]
pub(super) struct Verification {
    /// A random source of its own, so that histories without verification do not depend on it.
    lots: Random,
    /// The share of all work that is verified, in eighths.
    eighths: u64,
    /// No header covers the shards' results, as with a stand-alone pre-state; all work is verified.
    pub(super) blind: bool,
    /// Results carry their digests, as over the network.
    pub(super) wire: bool,
}

impl Verification {
    pub(super) fn draw(seed: u64) -> Self {
        let mut lots = Random::new(join(seed, 0x5ec0));
        let (eighths, blind) = match lots.between(0, 3) {
            0 => (0, false),
            1 => (8, true),
            _ => (lots.between(1, 8), false),
        };
        let wire = lots.one_in(2);
        Self { lots, eighths, blind, wire }
    }

    /// Draws whether the next piece of work is verified.
    pub(super) fn draws(&mut self) -> bool {
        self.lots.between(1, 8) <= self.eighths
    }
}

impl World {
    /// The digest of the right result of some work.
    pub(super) fn truth(&self, work: &WorkId) -> Option<B256> {
        let piece = Piece::of(work);
        let block = self.blocks.get(piece.block)?;
        Some(digest(&numbers(&Ok(block.output(&piece, Piece::base_digest(work))))))
    }

    /// Starts the verification of a first result by trusted code.
    pub(super) fn check_here(&mut self, index: usize, work: WorkId) {
        let run = self.coordinator(index).and_then(|known| known.run.as_ref());
        let answer = run.and_then(|run| run.answers.get(&work)).copied();
        match answer {
            Some(answer) => self.recompute(index, work, vec![answer]),
            None => self.check.fail(self.now, "a result is to be checked that was never used"),
        }
    }

    /// Trusted code does the work, in the coordinator's own process.
    pub(super) fn recompute(&mut self, index: usize, work: WorkId, answers: Vec<(ShardId, B256)>) {
        let piece = Piece::of(&work);
        let killer = self.blocks.get(piece.block).and_then(|block| block.killer);
        if piece.execute && killer.is_some_and(|killer| piece.contains(killer)) {
            self.check
                .fail(self.now, "trusted code was asked for work that kills the process that executes it");
        }
        let takes = self.micros(200, 3_000);
        self.after(takes, Happening::Settled { coordinator: index, work, answers });
    }

    /// Handles the end of that computation by trusted code.
    pub(super) fn settle(&mut self, index: usize, work: &WorkId, answers: &[(ShardId, B256)]) {
        let Some(digest) = self.truth(work) else { return };
        let run = self.coordinator(index).and_then(|known| known.run.as_mut());
        let used = run.as_ref().and_then(|run| run.answers.get(work)).copied();
        let Some((_, used)) = used else { return };
        if let Some(run) = run {
            run.disputed |= used != digest;
            run.doubtful.remove(work);
        }
        for (shard, answer) in answers {
            if *answer != digest {
                self.blame(index, *shard);
            }
        }
        self.tell(index, Event::Checked { work: *work, digest });
        self.go_on_alone(index);
    }

    /// Executes the block of a disputed round with trusted code if no shard is left to do the round.
    fn go_on_alone(&mut self, index: usize) {
        let Some(known) = self.coordinator(index) else { return };
        let scheduler = &known.scheduler;
        let left = known
            .links
            .keys()
            .any(|shard| known.replicas.state(*shard).is_some() && !scheduler.is_quarantined(*shard));
        let Some(run) = known.run.take_if(|run| run.disputed && !left) else { return };
        self.tell(index, Event::Abandon { round: run.round });
        self.check.tries_again(run.block);
        self.judge(index, run.block);
    }

    /// Names the shards with wrong results: the block is right, and the state from their results is not.
    pub(super) fn name_the_wrong(&mut self, index: usize, run: &Run) {
        for (work, (shard, answer)) in &run.answers {
            if self.truth(work) != Some(*answer) {
                self.blame(index, *shard);
            }
        }
    }

    fn blame(&mut self, index: usize, shard: ShardId) {
        self.trace(|| format!("shard {shard} is named"));
        self.tell(index, Event::Blame { shard, reason: "simulated".into() });
        let trusted = self.coordinator(index).is_some_and(|known| !known.scheduler.is_quarantined(shard));
        if trusted {
            self.check.fail(self.now, format!("shard {shard} was found wrong and is still trusted"));
        }
    }

    /// Checks a finished round: the work that had to be verified is right, or known to be wrong.
    pub(super) fn check_verified(&mut self, run: &Run) {
        let passed = |work: &&WorkId| {
            run.answers.get(*work).is_some_and(|(_, answer)| self.truth(work) != Some(*answer))
        };
        if let Some(wrong) = run.verify.iter().find(passed).filter(|_| !run.disputed) {
            let what = format!("a wrong result of verified work passed: {:?}", Piece::of(wrong));
            self.check.fail(self.now, what);
        }
    }
}
