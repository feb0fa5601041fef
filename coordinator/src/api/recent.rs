//! The outcomes of the latest blocks, for the pages of a running coordinator.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::outcome::BlockOutcome;

/// The number of blocks that are remembered.
const REMEMBERED: usize = 256;

/// The latest blocks that this process has ended.
#[derive(Debug, Clone, Default)]
pub struct RecentBlocks(Arc<Mutex<VecDeque<BlockOutcome>>>);

impl RecentBlocks {
    /// Remembers a block, and forgets the oldest if there are too many.
    pub fn add(&self, outcome: BlockOutcome) {
        let mut blocks = self.0.lock();
        if blocks.len() >= REMEMBERED {
            blocks.pop_front();
        }
        blocks.push_back(outcome);
    }

    /// The blocks as JSON, the newest first.
    #[must_use]
    pub fn json(&self) -> Value {
        self.0.lock().iter().rev().map(row).collect()
    }

    /// The newest block with this number as JSON.
    #[must_use]
    pub fn block(&self, number: u64) -> Option<Value> {
        self.0.lock().iter().rev().find(|outcome| outcome.number == number).map(row)
    }
}

fn row(outcome: &BlockOutcome) -> Value {
    let stats = &outcome.stats;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    json!({
        "block": outcome.number, "hash": outcome.hash, "fork": outcome.fork,
        "transactions": outcome.transactions, "gas_used": outcome.gas_used, "error": outcome.error,
        "refused": outcome.refused, "parked": outcome.parked,
        "receipts_root": outcome.roots.map(|roots| roots.receipts),
        "state_root": outcome.roots.map(|roots| roots.state),
        "ms": ms(stats.elapsed + stats.commit), "recovery_ms": ms(stats.recovery),
        "execution_ms": ms(stats.execution), "roots_ms": ms(stats.roots), "commit_ms": ms(stats.commit),
        "sub_blocks": stats.sub_blocks, "verified_sub_blocks": stats.verified_sub_blocks,
        "reexecuted": stats.reexecuted, "reassigned": stats.reassigned,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::B256;

    use super::*;
    use crate::execute::BlockStats;

    fn outcome(number: u64, gas_used: u64) -> BlockOutcome {
        BlockOutcome {
            number,
            hash: B256::ZERO,
            fork: "osaka",
            transactions: 1,
            gas_used,
            error: None,
            refused: false,
            parked: false,
            stats: BlockStats::default(),
            known: false,
            roots: None,
            digests: None,
        }
    }

    #[test]
    fn the_newest_blocks_are_remembered_and_the_newest_comes_first() {
        let recent = RecentBlocks::default();
        for number in 0..300 {
            recent.add(outcome(number, number));
        }
        recent.add(outcome(299, 7));
        let all = recent.json();
        assert_eq!(all.as_array().unwrap().len(), REMEMBERED);
        assert_eq!((&all[0]["block"], &all[0]["gas_used"]), (&json!(299), &json!(7)));
        assert_eq!(recent.block(299).unwrap()["gas_used"], 7);
        assert!(recent.block(10).is_none());
    }
}
