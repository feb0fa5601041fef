//! The intake: the blocks that were accepted and have not ended, and which of them comes next. A pure state
//! machine: it uses no clock, no disk and no client, and never sees a block's content.
//!
//! A block is *reserved* until it is journaled. It then *waits* until its parent has ended and it is its
//! turn, is *under way* while it is executed, and ends: committed, kept as a side block, rejected or
//! discarded. A block that kills the process that runs it is *parked* instead: it and its descendants wait
//! for an operator, all others go on. A block whose parent is not known is an *orphan*: it waits until a
//! client submits the parent and that has ended.
//!
//! Clients share the intake: each has a share of the room, of the orphans and of the side blocks, and they take
//! turns. Blocks that extend the chain go before others, which get every fourth turn.

mod allowance;
mod offer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use allowance::Allowances;
pub use offer::{Candidate, Client, Full, Lineage, Offer};

use alloy_primitives::B256;

/// The most coordinator starts that may find the same block first in line. At a further one the intake parks
/// the block, because it may have killed those coordinators.
pub const MOST_STARTS: u32 = 6;

/// A block's place in the order of acceptance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// The most that the intake accepts, in all and from each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeLimits {
    /// The most blocks that are accepted and neither ended nor parked.
    pub open: usize,
    /// The most bytes of these blocks.
    pub bytes: usize,
    /// The most parked blocks: with that many the intake accepts no further block.
    pub parked: usize,
    /// The most orphans that wait for their parents. The intake accepts no further one, and one that becomes an
    /// orphan later must be parked.
    pub orphans: usize,
    /// The most orphans of one client.
    pub orphans_of_client: usize,
    /// The most bytes of all orphans.
    pub orphan_bytes: usize,
    /// The most side blocks that a client may submit at once.
    pub side_blocks: u32,
    /// The interval after which it may submit one more.
    pub side_block_every: Duration,
}

impl IntakeLimits {
    /// The limits of a service.
    pub const DEFAULT: Self = Self {
        open: 64,
        bytes: 256 << 20,
        parked: 1024,
        orphans: 32,
        orphans_of_client: 8,
        orphan_bytes: 32 << 20,
        side_blocks: 64,
        side_block_every: Duration::from_secs(10),
    };

    /// A client's share of `room`: enough is left for others.
    const fn share(room: usize) -> usize {
        room - room / 4
    }
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// After this many blocks of the chain in a row, another block that can run has its turn.
const CHAIN_FIRST: u32 = 3;

/// What a coordinator's start means for the block that is first in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The block's starts must be counted: this is the new count, to be written before the block is executed.
    Count(B256, u32),
    /// The block must be parked: it has seen too many starts.
    Park(B256, u32),
}

/// Why a block cannot be parked for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHeld {
    /// It is not accepted, or has ended.
    Unknown,
    /// It is being executed.
    UnderWay,
    /// It is parked already.
    Parked,
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

#[derive(Debug, Clone)]
struct Entry {
    sequence: Sequence,
    parent: B256,
    bytes: usize,
    standing: Standing,
    /// `None` for a block that an earlier coordinator accepted.
    client: Option<Client>,
    lineage: Lineage,
}

/// The blocks that were accepted and have not ended.
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// use alloy_primitives::B256;
/// use schedule::intake::{Candidate, Client, Intake, Lineage, Offer};
///
/// let (mut intake, now, head) = (Intake::default(), Duration::ZERO, B256::ZERO);
/// let block = Candidate { hash: B256::repeat_byte(1), parent: head, bytes: 600 };
/// let offer = intake.offer(block, Lineage::Chain, &Client::from("ann"), now).unwrap();
/// assert!(matches!(offer, Offer::Fresh(_)));
/// assert_eq!(intake.next(now, &head), None, "the block is not journaled yet");
/// intake.confirm(&block.hash);
/// assert_eq!(intake.next(now, &head), Some(block.hash));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Intake {
    limits: IntakeLimits,
    entries: BTreeMap<B256, Entry>,
    next: u64,
    /// How many blocks of the chain in a row have run while another one could have.
    chain_in_a_row: u32,
    /// When each client that has open blocks last had one executed, as a count of executed blocks.
    served: BTreeMap<Client, u64>,
    turns: u64,
    side_blocks: Allowances,
}

impl Intake {
    /// An intake without blocks. Unless blocks are restored, the order of acceptance starts at zero.
    #[must_use]
    pub fn new(limits: IntakeLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Restores a block that an earlier coordinator accepted or parked, whatever the bounds are.
    pub fn restore(&mut self, block: Candidate, sequence: Sequence, parked: bool) {
        let standing =
            if parked { Standing::Parked } else { Standing::Waiting { not_before: Duration::ZERO } };
        let Candidate { hash, parent, bytes } = block;
        self.entries
            .insert(hash, Entry { sequence, parent, bytes, standing, client: None, lineage: Lineage::Chain });
        self.next = self.next.max(sequence.0.saturating_add(1));
    }

    /// What the coordinator's start means for the block that is first in line; `None` if no block can run.
    /// `starts` returns how many starts a block has seen before.
    #[must_use]
    pub fn started(&self, head: &B256, starts: impl Fn(&B256) -> u32) -> Option<Start> {
        let (first, _) = self.first_runnable(Duration::MAX, head)?;
        let seen = starts(&first).saturating_add(1);
        Some(if seen > MOST_STARTS { Start::Park(first, seen) } else { Start::Count(first, seen) })
    }

    /// Offers a client's block: reserves a place for it if it is new.
    ///
    /// # Errors
    /// [`Full`] when there is no room; the client may offer the block again later.
    pub fn offer(
        &mut self,
        block: Candidate,
        lineage: Lineage,
        client: &Client,
        now: Duration,
    ) -> Result<Offer, Full> {
        if let Some(known) = self.entries.get(&block.hash) {
            return Ok(if known.standing == Standing::Parked { Offer::Parked } else { Offer::Open });
        }
        self.check_room(block, client)?;
        // A block that follows an open one stands or falls with it.
        let lineage = self.entries.get(&block.parent).map_or(lineage, |parent| parent.lineage);
        match lineage {
            Lineage::Orphan => self.check_orphans(block, client)?,
            Lineage::Side => {
                let taken = self.side_blocks.take(client, now, &self.limits);
                taken.map_err(|again| Full::SideBlocks { again })?;
            }
            Lineage::Chain => {}
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
        // A client without open blocks has been served lately, or never: it does not go before those that wait.
        self.served.entry(client.clone()).or_insert(self.turns);
        let (standing, client) = (Standing::Reserved, Some(client.clone()));
        self.entries.insert(hash, Entry { sequence, parent, bytes, standing, client, lineage });
        for descendant in self.descendants(&hash) {
            if let Some(entry) = self.entries.get_mut(&descendant) {
                entry.lineage = lineage;
            }
        }
        Ok(Offer::Fresh(sequence))
    }

    /// Checks that there is room for one more block, and for one of this client.
    fn check_room(&self, block: Candidate, client: &Client) -> Result<(), Full> {
        let (open, bytes) = self.open();
        if self.parked().count() >= self.limits.parked {
            return Err(Full::Parked { parked: self.limits.parked });
        }
        // A block that an orphan waits for has extra room, or the orphans could wait forever.
        let is_parent = self.orphan_of(&block.hash).is_some();
        let room = if is_parent { 2 } else { 1 };
        let limits = (self.limits.open.saturating_mul(room), self.limits.bytes.saturating_mul(room));
        if open >= limits.0 || bytes.saturating_add(block.bytes) > limits.1 {
            return Err(self.full(open, bytes));
        }
        let (open, bytes) = total(self.open_of(client));
        let share = (IntakeLimits::share(limits.0), IntakeLimits::share(limits.1));
        if is_parent {
            return Ok(());
        }
        if open >= share.0 || (open > 0 && bytes.saturating_add(block.bytes) > share.1) {
            return Err(Full::Share { open, bytes });
        }
        Ok(())
    }

    /// Checks that one more block may wait for an unknown parent.
    fn check_orphans(&self, block: Candidate, client: &Client) -> Result<(), Full> {
        let waits = |entry: &&Entry| match entry.standing {
            Standing::Parked => false,
            Standing::Orphan => true,
            _ => entry.lineage == Lineage::Orphan,
        };
        let (orphans, bytes) = total(self.entries.values().filter(waits));
        let own = self.open_of(client).filter(waits).count();
        let Candidate { parent, bytes: more, .. } = block;
        let heavy = orphans > 0 && bytes.saturating_add(more) > self.limits.orphan_bytes;
        if orphans >= self.limits.orphans || own >= self.limits.orphans_of_client || heavy {
            return Err(Full::Orphans { parent, orphans });
        }
        Ok(())
    }

    fn open_of(&self, client: &Client) -> impl Iterator<Item = &Entry> {
        let open = self.entries.values().filter(|entry| entry.standing != Standing::Parked);
        open.filter(move |entry| entry.client.as_ref() == Some(client))
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

    /// The next block to execute, which is under way from now on; `None` while another one is. `head` is the hash
    /// of the chain's head.
    pub fn next(&mut self, now: Duration, head: &B256) -> Option<B256> {
        if self.entries.values().any(|entry| entry.standing == Standing::UnderWay) {
            return None;
        }
        let (hash, others_wait) = self.first_runnable(now, head)?;
        let entry = self.entries.get_mut(&hash)?;
        entry.standing = Standing::UnderWay;
        self.turns += 1;
        if let Some(client) = &entry.client {
            self.served.insert(client.clone(), self.turns);
        }
        self.chain_in_a_row = if entry.parent == *head && others_wait { self.chain_in_a_row + 1 } else { 0 };
        Some(hash)
    }

    /// The block that runs first, and whether blocks wait that do not extend the chain. Among blocks whose parents
    /// have ended, the first that extends the chain runs before the first that does not, except at every fourth
    /// turn. The first is that of the client who was served longest ago, and of its blocks the earliest.
    fn first_runnable(&self, now: Duration, head: &B256) -> Option<(B256, bool)> {
        let waits =
            |entry: &Entry| matches!(entry.standing, Standing::Waiting { not_before } if not_before <= now);
        let runnable = self
            .entries
            .iter()
            .filter(|(_, entry)| waits(entry) && !self.entries.contains_key(&entry.parent));
        let (mut chain, mut other) = (None, None);
        for (hash, entry) in runnable {
            let first = if entry.parent == *head { &mut chain } else { &mut other };
            let served = entry.client.as_ref().and_then(|client| self.served.get(client)).copied();
            let place = (served.unwrap_or(0), entry.sequence);
            if first.is_none_or(|(other, _)| place < other) {
                *first = Some((place, *hash));
            }
        }
        let turn = if self.chain_in_a_row < CHAIN_FIRST { chain.or(other) } else { other.or(chain) };
        turn.map(|(_, hash)| (hash, other.is_some()))
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
        let Some(ended) = self.entries.remove(hash) else { return false };
        if let Some(client) = ended.client
            && self.open_of(&client).next().is_none()
        {
            self.served.remove(&client);
        }
        true
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

    /// Parks a block that waits for its turn or its parent, as an operator wants it.
    ///
    /// # Errors
    /// [`NotHeld`] if it does not wait; then nothing changes.
    pub fn hold(&mut self, hash: &B256) -> Result<(), NotHeld> {
        let entry = self.entries.get_mut(hash).ok_or(NotHeld::Unknown)?;
        match entry.standing {
            Standing::Waiting { .. } | Standing::Orphan => entry.standing = Standing::Parked,
            // It is not journaled yet, so it is not accepted.
            Standing::Reserved => return Err(NotHeld::Unknown),
            Standing::UnderWay => return Err(NotHeld::UnderWay),
            Standing::Parked => return Err(NotHeld::Parked),
        }
        Ok(())
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

    /// Whether the block was accepted and has not ended.
    #[must_use]
    pub fn contains(&self, hash: &B256) -> bool {
        self.entries.contains_key(hash)
    }

    /// Whether the block is parked.
    #[must_use]
    pub fn is_parked(&self, hash: &B256) -> bool {
        self.entries.get(hash).is_some_and(|entry| entry.standing == Standing::Parked)
    }

    /// The number of open blocks, without parked ones, and their bytes.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        total(self.entries.values().filter(|entry| entry.standing != Standing::Parked))
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

/// The number of blocks, and their bytes.
fn total<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, usize) {
    entries.fold((0, 0), |(count, bytes), entry| (count + 1, bytes.saturating_add(entry.bytes)))
}
