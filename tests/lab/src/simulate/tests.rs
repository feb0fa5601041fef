//! Runs a few thousand histories, and checks that the simulator is deterministic.
#![allow(clippy::unwrap_used)]

use super::{Campaign, FaultKind, simulate};

#[test]
fn no_history_of_a_few_thousand_violates_an_invariant() {
    let report = Campaign { first: 0, seeds: 4_000, jobs: 2, stop_at_failure: true }.run();
    assert_eq!(report.violations, 0, "{:?}", report.failures);
    assert_eq!(report.histories, 4_000);
    assert!(report.blocks >= 3 * report.histories);
    let faults: u64 = report.faults.values().sum();
    assert!(faults >= 49 * report.histories / 10, "{faults} faults are less than five a history");
    assert_eq!(report.faults.len(), FaultKind::ALL.len(), "some kind of fault never happened");
}

#[test]
fn a_seed_is_a_history() {
    let (first, second) = (simulate(11, true), simulate(11, true));
    assert_eq!(first.trace, second.trace);
    assert!(!first.trace.is_empty());
    assert_ne!(simulate(12, true).trace, first.trace);
}
