//! The intake: the blocks that were accepted and have not ended, and which of them comes next. A pure state
//! machine: it uses no clock, no disk and no client, and never sees a block's content.
//!
//! A block is *reserved* until it is journaled. It then *waits* until its parent has ended and it is its
//! turn, is *under way* while it is executed, and ends: committed, kept as a side block, rejected or
//! discarded. A block that kills the process that runs it is *parked* instead: it and its descendants wait
//! for an operator, all others go on. A block whose parent is not known is an *orphan*: it waits until a
//! client submits the parent and that has ended.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use alloy_primitives::B256;

/// The most coordinator starts that may find the same block first in line. At a further one the intake parks
/// the block, because it may have killed those coordinators.
pub const MOST_STARTS: u32 = 6;

/// A block's place in the order of acceptance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// The intake's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeLimits {
    /// The most blocks that are accepted and neither ended nor parked.
    pub open: usize,
    /// The most bytes of these blocks.
    pub bytes: usize,
    /// The most parked blocks: with that many the intake accepts no further block.
    pub parked: usize,
    /// The most orphans that wait for their parents; a further one must be parked.
    pub orphans: usize,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self { open: 64, bytes: 256 << 20, parked: 1024, orphans: 32 }
    }
}

/// What the intake knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its hash.
    pub hash: B256,
    /// Its parent's hash.
    pub parent: B256,
    /// Its size in bytes.
    pub bytes: usize,
}

/// The answer to a block that a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The block is new: the caller must journal it under this number, then confirm it.
    Fresh(Sequence),
    /// The block was accepted before and has not ended.
    Open,
    /// The block is parked.
    Parked,
}

/// The intake has no room for the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many blocks wait.
    #[error("{open} blocks of {bytes} bytes are waiting already; try again in a moment")]
    Open {
        /// The number of open blocks.
        open: usize,
        /// Their size.
        bytes: usize,
    },
    /// Too many blocks wait, some of them for one that is parked.
    #[error(
        "{open} blocks are waiting already, {behind} of them for a parked one; see `coordinator parked list`"
    )]
    BehindParked {
        /// The number of open blocks.
        open: usize,
        /// The number of them that wait for a parked block.
        behind: usize,
    },
    /// Too many blocks wait, some of them for parents that no client has submitted.
    #[error(
        "{open} blocks are waiting already, {behind} of them because block {parent} was not submitted; submit that one first"
    )]
    BehindOrphan {
        /// The number of open blocks.
        open: usize,
        /// The number of them that are orphans, or wait for one.
        behind: usize,
        /// The missing parent of one of the orphans.
        parent: B256,
    },
    /// Too many blocks are parked.
    #[error("{parked} blocks are parked; retry or discard some, see `coordinator parked list`")]
    Parked {
        /// The number of parked blocks.
        parked: usize,
    },
}

/// What a coordinator's start means for the block that is first in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The block's starts must be counted: this is the new count, to be written before the block is executed.
    Count(B256, u32),
    /// The block must be parked: it has seen too many starts.
    Park(B256, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Reserved,
    Waiting {
        not_before: Duration,
    },
    UnderWay,
    /// Its parent is not known.
    Orphan,
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

    /// Restores a block that an earlier coordinator accepted or parked, whatever the bounds are.
    pub fn restore(&mut self, block: Candidate, sequence: Sequence, parked: bool) {
        let standing =
            if parked { Standing::Parked } else { Standing::Waiting { not_before: Duration::ZERO } };
        let Candidate { hash, parent, bytes } = block;
        self.entries.insert(hash, Entry { sequence, parent, bytes, standing });
        self.next = self.next.max(sequence.0.saturating_add(1));
    }

    /// What the coordinator's start means for the block that is first in line; `None` if no block can run.
    /// `starts` returns how many starts a block has seen before.
    #[must_use]
    pub fn started(&self, starts: impl Fn(&B256) -> u32) -> Option<Start> {
        let first = self.first_runnable(Duration::MAX)?;
        let seen = starts(&first).saturating_add(1);
        Some(if seen > MOST_STARTS { Start::Park(first, seen) } else { Start::Count(first, seen) })
    }

    /// Offers a block: reserves a place for it if it is new.
    ///
    /// # Errors
    /// [`Full`] when there is no room; the client may offer the block again later.
    pub fn offer(&mut self, block: Candidate) -> Result<Offer, Full> {
        if let Some(known) = self.entries.get(&block.hash) {
            return Ok(if known.standing == Standing::Parked { Offer::Parked } else { Offer::Open });
        }
        let (open, bytes) = self.open();
        if self.parked().count() >= self.limits.parked {
            return Err(Full::Parked { parked: self.limits.parked });
        }
        // A block that an orphan waits for has extra room, or the orphans could wait forever.
        let room = if self.orphan_of(&block.hash).is_some() { 2 } else { 1 };
        let limits = (self.limits.open.saturating_mul(room), self.limits.bytes.saturating_mul(room));
        if open >= limits.0 || bytes.saturating_add(block.bytes) > limits.1 {
            return Err(self.full(open, bytes));
        }
        let sequence = Sequence(self.next);
        self.next = self.next.saturating_add(1);
        let Candidate { hash, parent, bytes } = block;
        // Its children are orphans no more: they wait for it.
        for entry in self.entries.values_mut() {
            if entry.parent == hash && entry.standing == Standing::Orphan {
                entry.standing = Standing::Waiting { not_before: Duration::ZERO };
            }
        }
        self.entries.insert(hash, Entry { sequence, parent, bytes, standing: Standing::Reserved });
        Ok(Offer::Fresh(sequence))
    }

    /// Why there is no room for a block.
    fn full(&self, open: usize, bytes: usize) -> Full {
        let behind = self.entries.values().filter(|entry| self.is_behind_parked(entry)).count();
        if behind > 0 {
            return Full::BehindParked { open, behind };
        }
        let roots = self.entries.keys().filter_map(|hash| self.waits_for_orphan(hash));
        let mut parents = roots.filter_map(|root| self.entries.get(&root)).map(|root| root.parent);
        match parents.next() {
            Some(parent) => Full::BehindOrphan { open, behind: parents.count() + 1, parent },
            None => Full::Open { open, bytes },
        }
    }

    /// Notes that the block is in the journal: it may run from now on.
    pub fn confirm(&mut self, hash: &B256) {
        if let Some(entry) = self.entries.get_mut(hash).filter(|entry| entry.standing == Standing::Reserved) {
            entry.standing = Standing::Waiting { not_before: Duration::ZERO };
        }
    }

    /// The next block to execute, which is under way from now on; `None` while another one is.
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

    /// The earliest waiting block whose parent has ended.
    fn first_runnable(&self, now: Duration) -> Option<B256> {
        let waits =
            |entry: &Entry| matches!(entry.standing, Standing::Waiting { not_before } if not_before <= now);
        let runnable = self
            .entries
            .iter()
            .filter(|(_, entry)| waits(entry) && !self.entries.contains_key(&entry.parent));
        runnable.min_by_key(|(_, entry)| entry.sequence).map(|(hash, _)| *hash)
    }

    /// The block that runs next if this one, which is under way, is committed; `None` if none waits for it.
    #[must_use]
    pub fn after(&self, hash: &B256) -> Option<B256> {
        let follows =
            |entry: &Entry| entry.parent == *hash && matches!(entry.standing, Standing::Waiting { .. });
        let children = self.entries.iter().filter(|(_, entry)| follows(entry));
        children.min_by_key(|(_, entry)| entry.sequence).map(|(hash, _)| *hash)
    }

    /// Lets a block wait again that could not be executed for no fault of its own; it runs at `not_before` or
    /// later.
    pub fn again(&mut self, hash: &B256, not_before: Duration) {
        if let Some(entry) = self.entries.get_mut(hash) {
            entry.standing = Standing::Waiting { not_before };
        }
    }

    /// Removes a block that has ended: committed, kept as a side block, rejected or discarded. Returns false
    /// if the intake did not have it.
    pub fn ended(&mut self, hash: &B256) -> bool {
        self.entries.remove(hash).is_some()
    }

    /// Makes a block whose parent is not known an orphan: it waits until the parent is accepted and has
    /// ended. Returns false if the intake does not have it, or has too many orphans: then the caller must
    /// park it.
    pub fn orphaned(&mut self, hash: &B256) -> bool {
        let others = self.entries.iter().filter(|(other, _)| *other != hash);
        let orphans = others.filter(|(_, entry)| entry.standing == Standing::Orphan).count();
        let Some(entry) = self.entries.get(hash) else { return false };
        // The parent may have been accepted meanwhile.
        let standing = if self.entries.contains_key(&entry.parent) {
            Standing::Waiting { not_before: Duration::ZERO }
        } else if orphans < self.limits.orphans {
            Standing::Orphan
        } else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(hash) {
            entry.standing = standing;
        }
        true
    }

    /// The orphan that a block waits for, or the block itself if it is an orphan.
    #[must_use]
    pub fn waits_for_orphan(&self, hash: &B256) -> Option<B256> {
        let is_orphan =
            |hash: &B256| self.entries.get(hash).is_some_and(|entry| entry.standing == Standing::Orphan);
        if is_orphan(hash) {
            return Some(*hash);
        }
        self.ancestors(self.entries.get(hash)?).find(is_orphan)
    }

    /// The orphans, with the parents that they wait for.
    pub fn orphans(&self) -> impl Iterator<Item = (B256, B256)> + '_ {
        let orphans = self.entries.iter().filter(|(_, entry)| entry.standing == Standing::Orphan);
        orphans.map(|(hash, entry)| (*hash, entry.parent))
    }

    /// An orphan that waits for this block.
    fn orphan_of(&self, parent: &B256) -> Option<B256> {
        self.orphans().find(|(_, missing)| missing == parent).map(|(hash, _)| hash)
    }

    /// Parks the block: it waits for an operator. Returns false if the intake does not have it.
    pub fn park(&mut self, hash: &B256) -> bool {
        let Some(entry) = self.entries.get_mut(hash) else { return false };
        entry.standing = Standing::Parked;
        true
    }

    /// Lets a parked block run again, in its old place. Returns false if it is not parked.
    pub fn retry(&mut self, hash: &B256) -> bool {
        match self.entries.get_mut(hash).filter(|entry| entry.standing == Standing::Parked) {
            Some(entry) => {
                entry.standing = Standing::Waiting { not_before: Duration::ZERO };
                true
            }
            None => false,
        }
    }

    /// The waiting blocks whose parents are not open, with those parents, in order of acceptance.
    #[must_use]
    pub fn unparented(&self) -> Vec<(B256, B256)> {
        let waits = |entry: &Entry| matches!(entry.standing, Standing::Waiting { .. });
        let mut found: Vec<(Sequence, B256, B256)> = self
            .entries
            .iter()
            .filter(|(_, entry)| waits(entry) && !self.entries.contains_key(&entry.parent))
            .map(|(hash, entry)| (entry.sequence, *hash, entry.parent))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, hash, parent)| (hash, parent)).collect()
    }

    /// Whether the block is parked.
    #[must_use]
    pub fn is_parked(&self, hash: &B256) -> bool {
        self.entries.get(hash).is_some_and(|entry| entry.standing == Standing::Parked)
    }

    /// The number of open blocks, without parked ones, and their bytes.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        let open = self.entries.values().filter(|entry| entry.standing != Standing::Parked);
        open.fold((0, 0), |(count, bytes), entry| (count + 1, bytes.saturating_add(entry.bytes)))
    }

    /// The hashes of the parked blocks.
    pub fn parked(&self) -> impl Iterator<Item = B256> + '_ {
        let parked = self.entries.iter().filter(|(_, entry)| entry.standing == Standing::Parked);
        parked.map(|(hash, _)| *hash)
    }

    /// The blocks that wait for this one, directly or through others, in order of acceptance.
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

    /// The ancestors of a block that have not ended, the nearest first. A hash covers its parent's, so there
    /// is no cycle; the bound guards against invented hashes.
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
