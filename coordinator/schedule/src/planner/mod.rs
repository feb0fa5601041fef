//! The planner: cuts a block's transactions into sub-blocks.
//!
//! Pure. A plan never decides a block's result, only how much of the block must be executed again.

mod auto;
mod keys;

pub use auto::cost;

use std::fmt;
use std::str::FromStr;

use alloy_primitives::Address;
use common::block::Transaction;
use common::id::TxIndex;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How to cut a block into sub-blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Plan {
    /// Groups transactions that are expected to conflict, and balances the rest over the slots.
    #[default]
    Auto,
    /// Puts all transactions into one sub-block.
    One,
    /// Gives every transaction its own sub-block.
    Each,
    /// Scatters transactions over sub-blocks regardless of conflicts; the number is the seed.
    Random(u64),
}

/// The text is not the name of a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a plan: auto, one, each or random:SEED are")]
pub struct PlanError(String);

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let error = || PlanError(text.to_owned());
        let seed = |digits: &str| digits.parse().map_err(|_| error());
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "one" => Ok(Self::One),
            None if text == "each" => Ok(Self::Each),
            Some(("random", digits)) => seed(digits).map(Self::Random),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::One => f.write_str("one"),
            Self::Each => f.write_str("each"),
            Self::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

/// A set of a block's transactions, in ascending order, executed as one unit on one slot.
pub type SubBlock = Vec<TxIndex>;

/// Cuts a block for `slots` slots. Every transaction is in exactly one sub-block, and no sub-block is empty.
///
/// # Example
/// ```
/// use schedule::planner::{Plan, plan};
///
/// assert!(plan(Plan::Auto, &[], &[], 4).is_empty());
/// assert_eq!("random:7".parse::<Plan>().unwrap(), Plan::Random(7));
/// ```
#[must_use]
pub fn plan(plan: Plan, transactions: &[Transaction], senders: &[Address], slots: usize) -> Vec<SubBlock> {
    let count = u32::try_from(transactions.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Vec::new();
    }
    match plan {
        Plan::Auto => auto::sub_blocks(transactions, senders, slots.max(1)),
        Plan::One => vec![(0..count).map(TxIndex).collect()],
        Plan::Each => (0..count).map(|index| vec![TxIndex(index)]).collect(),
        Plan::Random(seed) => scattered(count, seed, slots.max(1)),
    }
}

/// Cuts the recovery of senders evenly. It cannot follow the senders: one sender often has nine in ten
/// transactions of a real block.
#[must_use]
pub fn recovery(transactions: usize, slots: usize) -> Vec<SubBlock> {
    /// The number of parts per slot, so that a faster slot takes more.
    const PER_SLOT: usize = 3;
    let parts = (slots.max(1) * PER_SLOT).min(transactions.div_ceil(LEAST_RECOVERY)).max(1);
    evenly(transactions, transactions.div_ceil(parts))
}

/// Cuts the recovery of senders for a block that is not executed yet. The parts are short: the work of the
/// block that is executing must not wait long for a slot.
#[must_use]
pub fn recovery_ahead(transactions: usize, slots: usize) -> Vec<SubBlock> {
    /// About five milliseconds of work.
    const MOST: usize = 128;
    let share = transactions.div_ceil(slots.max(1));
    evenly(transactions, share.clamp(LEAST_RECOVERY, MOST))
}

/// A part of a recovery with fewer transactions costs more to send than to do.
const LEAST_RECOVERY: usize = 16;

fn evenly(transactions: usize, size: usize) -> Vec<SubBlock> {
    let size = size.max(1);
    let indices: Vec<TxIndex> = (0..u32::try_from(transactions).unwrap_or(u32::MAX)).map(TxIndex).collect();
    indices.chunks(size).map(<[TxIndex]>::to_vec).collect()
}

fn scattered(count: u32, seed: u64, slots: usize) -> Vec<SubBlock> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let most = (slots * 4).clamp(2, 64);
    let parts = random.random_range(2..=most);
    let mut indices: Vec<u32> = (0..count).collect();
    indices.shuffle(&mut random);
    let mut sub_blocks = vec![Vec::new(); parts];
    for index in indices {
        let part = random.random_range(0..parts);
        if let Some(sub_block) = sub_blocks.get_mut(part) {
            sub_block.push(TxIndex(index));
        }
    }
    sub_blocks.retain(|sub_block| !sub_block.is_empty());
    for sub_block in &mut sub_blocks {
        sub_block.sort_unstable();
    }
    sub_blocks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::{Signature, U256};
    use proptest::prelude::*;

    fn transaction(to: u8, calldata: bool) -> Transaction {
        let tx = TxLegacy {
            gas_limit: 60_000,
            to: Address::repeat_byte(to).into(),
            input: if calldata { vec![1; 68].into() } else { Default::default() },
            ..Default::default()
        };
        tx.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into()
    }

    proptest! {
        // Law: under every plan each transaction is in exactly one sub-block, sub-blocks are
        // ascending, and none is empty.
        #[test]
        fn a_plan_is_a_partition(
            block in proptest::collection::vec((0u8..6, 0u8..6, any::<bool>()), 0..60),
            slots in 1usize..9,
            seed: u64,
        ) {
            let transactions: Vec<_> = block.iter().map(|(_, to, data)| transaction(*to, *data)).collect();
            let senders: Vec<_> = block.iter().map(|(from, _, _)| Address::repeat_byte(100 + from)).collect();
            for kind in [Plan::Auto, Plan::One, Plan::Each, Plan::Random(seed)] {
                let cut = plan(kind, &transactions, &senders, slots);
                prop_assert!(cut.iter().all(|part| !part.is_empty() && part.is_sorted()));
                let mut all: Vec<u32> = cut.into_iter().flatten().map(|index| index.0).collect();
                all.sort_unstable();
                let expected: Vec<u32> = (0..u32::try_from(transactions.len()).unwrap()).collect();
                prop_assert_eq!(all, expected, "{}", kind);
            }
        }

        // Law: recovery is cut into a partition too, with no part much larger than another.
        #[test]
        fn recovery_is_dealt_evenly(count in 0usize..500, slots in 1usize..9) {
            let parts = recovery(count, slots);
            prop_assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), count);
            prop_assert!(parts.len() <= slots * 3);
        }
    }

    #[test]
    fn plans_are_read_as_they_are_written() {
        for text in ["auto", "one", "each", "random:7"] {
            assert_eq!(text.parse::<Plan>().unwrap().to_string(), text);
        }
        for text in ["", "random", "random:x", "each:1", "two"] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }

    #[test]
    fn equal_seeds_cut_equally() {
        let transactions: Vec<_> = (0..40).map(|n| transaction(n, false)).collect();
        let senders = vec![Address::ZERO; 40];
        let cut = |seed| plan(Plan::Random(seed), &transactions, &senders, 2);
        assert_eq!(cut(5), cut(5));
        assert_ne!(cut(5), cut(6));
    }
}
