//! The differential fuzzer on fixed seeds: all forks, a few seconds.
#![allow(clippy::unwrap_used)]

use lab::fuzz::{ChainReport, Feature, Fork, fuzz_seed};
use lab::plan::LabPlan;
use schedule::planner::Plan;

/// Seeds for each fork.
const SEEDS: u64 = 16;

/// Runs seeds of one fork; a difference fails the test with the command that shows it again.
fn run(fork: Fork, seeds: std::ops::Range<u64>, plan: Option<LabPlan>) -> ChainReport {
    let mut sum = ChainReport::default();
    for seed in seeds {
        let (report, difference) = fuzz_seed(seed, Some(fork), plan).unwrap();
        assert!(difference.is_none(), "{}", difference.unwrap());
        sum.add(&report);
    }
    sum
}

#[test]
fn the_system_equals_alloy_evm_on_every_fork() {
    // Law: whatever the programs, the plan, and the fate of results, both sides give the same.
    let mut sum = ChainReport::default();
    for fork in Fork::ALL {
        sum.add(&run(*fork, 0..SEEDS, None));
    }
    // A grammar that no longer reaches something proves nothing about it.
    for feature in Feature::ALL {
        assert!(sum.coverage.of(*feature) > 0, "nothing of: {}", feature.text());
    }
    assert!(sum.refused > 0 && sum.reexecuted > 0);
}

#[test]
fn a_seed_is_the_same_chain_every_time() {
    let figures =
        |report: ChainReport| (report.blocks, report.transactions, report.reexecuted, report.refused);
    let once = figures(run(Fork::Cancun, 3..6, None));
    assert_eq!(once, figures(run(Fork::Cancun, 3..6, None)));
}

#[test]
fn the_plan_does_not_change_the_blocks() {
    let blocks = |plan| {
        let report = run(Fork::Prague, 3..6, plan);
        (report.blocks, report.transactions, report.refused)
    };
    assert_eq!(blocks(Some(LabPlan::Honest(Plan::One))), blocks(Some(LabPlan::Poison(7))));
}
