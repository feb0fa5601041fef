//! Identifiers and units: numbers with different meanings have different types.
//!
//! Only [`Incarnation::fresh`] and [`Epoch::first`] take a value from a clock or a random source. They
//! exist to differ from every other start.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A block's number in its chain.
    Height(u64)
}
number! {
    /// An executor shard's identity, given by its operator and stable over restarts.
    ShardId(u32)
}
number! {
    /// One start of a shard process. Every start draws a new one, so that the coordinator recognises
    /// messages of an earlier start.
    Incarnation(u64)
}
number! {
    /// The index of a transaction in its block, from 0.
    TxIndex(u32)
}
number! {
    /// One worker thread of a shard, counted from 0.
    SlotIndex(u16)
}
number! {
    /// The number of an assignment. A coordinator counts all its assignments from 1, so each try at some work has
    /// a number of its own.
    Attempt(u32)
}
number! {
    /// One pass over one block, unique within a coordinator's epoch.
    RoundId(u64)
}
number! {
    /// An amount of gas.
    Gas(u64)
}

/// A contiguous range of a block's transactions, from `first` to `last` inclusive; often one
/// transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxRange {
    /// The transaction with the lowest index in the range.
    pub first: TxIndex,
    /// The last transaction, inclusive.
    pub last: TxIndex,
}

impl TxRange {
    /// The narrowest range that contains all these indices; `None` if there are none.
    #[must_use]
    pub fn around(indices: impl IntoIterator<Item = TxIndex>) -> Option<Self> {
        indices.into_iter().fold(None, |range: Option<Self>, index| {
            let Self { first, last } = range.unwrap_or(Self { first: index, last: index });
            Some(Self { first: first.min(index), last: last.max(index) })
        })
    }

    /// The transaction, if the range holds exactly one.
    #[must_use]
    pub fn one(self) -> Option<TxIndex> {
        (self.first == self.last).then_some(self.first)
    }
}

impl fmt::Display for TxRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.one() {
            Some(index) => write!(f, "transaction {index}"),
            None => write!(f, "a transaction between {} and {}", self.first, self.last),
        }
    }
}

impl Incarnation {
    /// An incarnation unlike any other, drawn from the operating system's randomness.
    #[must_use]
    pub fn fresh() -> Self {
        Self(random_u64())
    }
}

/// A random number from the seed that the standard library draws from the operating system.
fn random_u64() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// The coordinator's term. It fences commands (shards reject those of an older epoch) and commits.
///
/// Epochs are ordered by number first. Two coordinators that start from the same number differ in the
/// random instance. The order between them is then arbitrary, but the same for everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised at every start of a coordinator on the same data directory.
    pub number: u64,
    /// Random, so that two coordinators never share an epoch.
    pub instance: u64,
}

impl Epoch {
    /// The epoch of a coordinator that stores nothing between its starts: the number of seconds since 1970.
    /// A later start has the greater epoch as long as the clock is not set back.
    #[must_use]
    pub fn first() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { number: since_1970.as_secs().max(1), instance: random_u64() }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.number, self.instance as u32)
    }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl fmt::Display for $name {
            /// Writes the first four bytes, which is enough to follow one id in a log.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0.iter().take(4) {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    };
}

hash_id! {
    /// Identifies one chain: the hash of its genesis state (or stand-alone pre-state) and of its chain
    /// specification.
    WorldId
}
hash_id! {
    /// Identifies a computation: `H(state reference, block, visible inputs, transaction indices)`. The
    /// result is deterministic, so the first sound one settles the work.
    WorkId
}

/// Names one state. A height alone does not, because of reorganisations and stand-alone pre-states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateRef {
    /// The chain to which the state belongs, identified by its genesis state and its rules.
    pub world: WorldId,
    /// The number of the block that leads to this state.
    pub height: Height,
    /// The hash of that block; for a stand-alone pre-state, the parent hash of its block.
    pub block_hash: B256,
}

impl fmt::Display for StateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.world, self.height)
    }
}

/// One try at one piece of work: the work, the shard and its incarnation, the attempt, and the
/// coordinator's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AssignmentId {
    /// The computation, the same for every try at it.
    pub work: WorkId,
    /// The shard that must compute it.
    pub shard: ShardId,
    /// The incarnation of that shard.
    pub incarnation: Incarnation,
    /// The number that tells this try at the work from all others.
    pub attempt: Attempt,
    /// The epoch of the coordinator that made the assignment.
    pub epoch: Epoch,
}

impl fmt::Display for AssignmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}@{}", self.work, self.attempt, self.shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_greater_whatever_its_instance() {
        let early = Epoch { number: 1, instance: u64::MAX };
        let late = Epoch { number: 2, instance: 0 };
        assert!(early < late);
    }

    #[test]
    fn a_range_names_no_more_than_it_has() {
        let range = |indices: &[u32]| TxRange::around(indices.iter().copied().map(TxIndex));
        assert_eq!(range(&[]), None);
        let text = |indices: &[u32]| range(indices).map(|range| range.to_string());
        assert_eq!(text(&[100]).as_deref(), Some("transaction 100"));
        assert_eq!(text(&[103, 96, 107]).as_deref(), Some("a transaction between 96 and 107"));
    }

    #[test]
    fn incarnations_differ() {
        assert_ne!(Incarnation::fresh(), Incarnation::fresh());
    }
}
