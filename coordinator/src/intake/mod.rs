//! The intake: which blocks were accepted and have not ended, and which of them is next. Pure: it
//! knows no clock, no disk and no client, and never sees a block's content.
//!
//! A block is *reserved* until it is journaled, then *waits* until its parent has ended and it is its
//! turn, is *under way* while it is executed, and ends: committed, refused or discarded. One that kills
//! whoever runs it is *parked* instead: it and its descendants wait for an operator, all others go on.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use alloy_primitives::B256;

/// A block that was the first to be done at more starts of coordinators than this, and has not ended, is
/// parked: it may be what ended them.
pub const MOST_STARTS: u32 = 6;

/// The order in which blocks were accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// Bounds of the intake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeLimits {
    /// Blocks that are accepted and neither ended nor parked.
    pub open: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Parked blocks: with so many no further block is taken.
    pub parked: usize,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self { open: 64, bytes: 256 << 20, parked: 1024 }
    }
}

/// What the intake knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its hash.
    pub hash: B256,
    /// Its parent's hash.
    pub parent: B256,
    /// Its size.
    pub bytes: usize,
}

/// What follows when a block is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is new: to be journaled under this number, then to be confirmed.
    Fresh(Sequence),
    /// It was accepted before and has not ended.
    Open,
    /// It is parked.
    Parked,
}

/// There is no place for the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many wait.
    #[error("{open} blocks of {bytes} bytes are waiting already; try again in a moment")]
    Open {
        /// How many.
        open: usize,
        /// Their size.
        bytes: usize,
    },
    /// Too many wait, for one that is parked.
    #[error(
        "{open} blocks are waiting already, {behind} of them for a parked one; see `coordinator parked list`"
    )]
    BehindParked {
        /// How many.
        open: usize,
        /// How many of them wait for a parked block.
        behind: usize,
    },
    /// Too many are parked.
    #[error("{parked} blocks are parked; retry or discard some, see `coordinator parked list`")]
    Parked {
        /// How many.
        parked: usize,
    },
}

/// What a start of the coordinator means for the block that is first to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its starts are to be counted: this is the new count, to be written before it is executed.
    Count(B256, u32),
    /// It is to be parked: it has seen too many.
    Park(B256, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Reserved,
    Waiting { not_before: Duration },
    UnderWay,
    Parked,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    sequence: Sequence,
    parent: B256,
    bytes: usize,
    standing: Standing,
}

/// The blocks that were accepted and have not ended.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    limits: IntakeLimits,
    entries: BTreeMap<B256, Entry>,
    next: u64,
}

impl Intake {
    /// An empty intake.
    #[must_use]
    pub fn new(limits: IntakeLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes up a block that an earlier coordinator accepted, or parked. It has its place whatever the
    /// bounds are.
    pub fn restore(&mut self, block: Candidate, sequence: Sequence, parked: bool) {
        let standing =
            if parked { Standing::Parked } else { Standing::Waiting { not_before: Duration::ZERO } };
        let Candidate { hash, parent, bytes } = block;
        self.entries.insert(hash, Entry { sequence, parent, bytes, standing });
        self.next = self.next.max(sequence.0.saturating_add(1));
    }

    /// What the coordinator's start means for the block that is first to be done. `starts` is how many
    /// it has seen.
    #[must_use]
    pub fn started(&self, starts: impl Fn(&B256) -> u32) -> Option<Start> {
        let first = self.first_runnable(Duration::MAX)?;
        let seen = starts(&first).saturating_add(1);
        Some(if seen > MOST_STARTS { Start::Park(first, seen) } else { Start::Count(first, seen) })
    }

    /// A block is offered.
    ///
    /// # Errors
    /// [`Full`] when there is no place; it may be offered again.
    pub fn offer(&mut self, block: Candidate) -> Result<Offer, Full> {
        if let Some(known) = self.entries.get(&block.hash) {
            return Ok(if known.standing == Standing::Parked { Offer::Parked } else { Offer::Open });
        }
        let (open, bytes) = self.open();
        if self.parked().count() >= self.limits.parked {
            return Err(Full::Parked { parked: self.limits.parked });
        }
        if open >= self.limits.open || bytes.saturating_add(block.bytes) > self.limits.bytes {
            let behind = self.entries.iter().filter(|(_, entry)| self.is_behind_parked(entry)).count();
            return Err(if behind > 0 {
                Full::BehindParked { open, behind }
            } else {
                Full::Open { open, bytes }
            });
        }
        let sequence = Sequence(self.next);
        self.next = self.next.saturating_add(1);
        let Candidate { hash, parent, bytes } = block;
        self.entries.insert(hash, Entry { sequence, parent, bytes, standing: Standing::Reserved });
        Ok(Offer::Fresh(sequence))
    }

    /// The block is in the journal.
    pub fn confirm(&mut self, hash: &B256) {
        if let Some(entry) = self.entries.get_mut(hash).filter(|entry| entry.standing == Standing::Reserved) {
            entry.standing = Standing::Waiting { not_before: Duration::ZERO };
        }
    }

    /// The next block to execute, which is under way from now on; none while another is.
    pub fn next(&mut self, now: Duration) -> Option<B256> {
        if self.entries.values().any(|entry| entry.standing == Standing::UnderWay) {
            return None;
        }
        let hash = self.first_runnable(now)?;
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.standing = Standing::UnderWay;
        }
        Some(hash)
    }

    /// The earliest block whose parent has ended.
    fn first_runnable(&self, now: Duration) -> Option<B256> {
        let waits =
            |entry: &Entry| matches!(entry.standing, Standing::Waiting { not_before } if not_before <= now);
        let runnable = self
            .entries
            .iter()
            .filter(|(_, entry)| waits(entry) && !self.entries.contains_key(&entry.parent));
        runnable.min_by_key(|(_, entry)| entry.sequence).map(|(hash, _)| *hash)
    }

    /// The block could not be executed, for no fault of its own: it is tried again from then on.
    pub fn again(&mut self, hash: &B256, not_before: Duration) {
        if let Some(entry) = self.entries.get_mut(hash) {
            entry.standing = Standing::Waiting { not_before };
        }
    }

    /// The block has ended: committed, refused, or discarded. False if it was not there.
    pub fn ended(&mut self, hash: &B256) -> bool {
        self.entries.remove(hash).is_some()
    }

    /// The block waits for an operator. False if it is not there.
    pub fn park(&mut self, hash: &B256) -> bool {
        let Some(entry) = self.entries.get_mut(hash) else { return false };
        entry.standing = Standing::Parked;
        true
    }

    /// A parked block is to be tried again, in its old place. False if it is not parked.
    pub fn retry(&mut self, hash: &B256) -> bool {
        match self.entries.get_mut(hash).filter(|entry| entry.standing == Standing::Parked) {
            Some(entry) => {
                entry.standing = Standing::Waiting { not_before: Duration::ZERO };
                true
            }
            None => false,
        }
    }

    /// Whether the block is parked.
    #[must_use]
    pub fn is_parked(&self, hash: &B256) -> bool {
        self.entries.get(hash).is_some_and(|entry| entry.standing == Standing::Parked)
    }

    /// How many blocks are open, parked ones not among them, and their bytes.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        let open = self.entries.values().filter(|entry| entry.standing != Standing::Parked);
        open.fold((0, 0), |(count, bytes), entry| (count + 1, bytes.saturating_add(entry.bytes)))
    }

    /// The parked blocks.
    pub fn parked(&self) -> impl Iterator<Item = B256> + '_ {
        let parked = self.entries.iter().filter(|(_, entry)| entry.standing == Standing::Parked);
        parked.map(|(hash, _)| *hash)
    }

    /// Blocks that wait for this one, or for one that does, in order of acceptance.
    #[must_use]
    pub fn descendants(&self, hash: &B256) -> Vec<B256> {
        let mut found: Vec<(Sequence, B256)> = self
            .entries
            .iter()
            .filter(|(_, entry)| self.ancestors(entry).any(|ancestor| ancestor == *hash))
            .map(|(hash, entry)| (entry.sequence, *hash))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, hash)| hash).collect()
    }

    /// The ancestors of a block that have not ended, the nearest first. A hash covers its parent's, so
    /// there is no circle; the bound is for hashes that somebody made up.
    fn ancestors(&self, entry: &Entry) -> impl Iterator<Item = B256> + '_ {
        let parent = |hash: &B256| self.entries.get(hash).map(|entry| entry.parent);
        let present = Some(entry.parent).filter(|hash| self.entries.contains_key(hash));
        std::iter::successors(present, move |hash| {
            parent(hash).filter(|parent| self.entries.contains_key(parent))
        })
        .take(self.entries.len())
    }

    fn is_behind_parked(&self, entry: &Entry) -> bool {
        entry.standing != Standing::Parked && self.ancestors(entry).any(|hash| self.is_parked(&hash))
    }
}
