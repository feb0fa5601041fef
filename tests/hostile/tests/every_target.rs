//! Every target stands its valid inputs, what is kept in the corpus, and some thousand mutated inputs. For more:
//! `scripts/hostile.sh`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::alloc::System;
use std::time::Duration;

use hostile::measure::{Finding, execute, keep_panics};
use hostile::run::{Limits, feed};
use hostile::target;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The targets whose examples are cut short, and so are not valid.
const NOT_WHOLE: [&str; 2] = ["file-prestate", "message-command"];

// One test: the allocator counts for the whole process.
#[test]
fn every_target_stands_hostile_bytes_and_takes_valid_ones() {
    keep_panics();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let targets = target::all(folder.path()).unwrap();
    let mut complaints = Vec::new();
    for target in &targets {
        let name = target.name;
        for valid in &target.valid {
            let accepted = execute(target, valid, ALLOCATOR).map(|cost| cost.accepted);
            if accepted != Ok(!NOT_WHOLE.contains(&name)) {
                complaints.push(format!("{name}: {accepted:?} for {}", String::from_utf8_lossy(valid)));
            }
        }
        let limits = Limits { executions: 3_000, time: Duration::from_secs(20) };
        let report = feed(target, limits, 1, None, ALLOCATOR);
        if let Some((finding, input)) = report.found {
            complaints.push(format!("{name}: {finding}, with {input:02x?}"));
        }
        if report.executions < 100 || (report.accepted == 0 && !NOT_WHOLE.contains(&name)) {
            complaints
                .push(format!("{name}: of {} inputs {} were accepted", report.executions, report.accepted));
        }
    }
    complaints.extend(missed(targets.first().unwrap()));
    // From here on a panic prints its message again.
    drop(std::panic::take_hook());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A decoder that fails in one of the ways is found out. Returns what was not.
fn missed(fine: &target::Target) -> Vec<String> {
    let found = |target: &target::Target| {
        let limits = Limits { executions: 50_000, time: Duration::from_secs(60) };
        feed(target, limits, 1, None, ALLOCATOR).found
    };
    let bad = |decode: fn(&[u8]) -> bool| target::Target::of("bad", vec![b"input".to_vec()], decode);
    let panics = found(&bad(|bytes| bytes.iter().filter(|byte| **byte == b'i').count() < 2 || panic!("two")));
    let allocates =
        found(&bad(|bytes| bytes.len() == 4 && vec![1_u8; 64 << 20].contains(&bytes.len().to_le_bytes()[0])));
    let mut missed = Vec::new();
    if !matches!(&panics, Some((Finding::Panicked(message), _)) if message.contains("two")) {
        missed.push(format!("a panic: {panics:?}"));
    }
    if !matches!(&allocates, Some((Finding::Allocated { .. }, input)) if input.len() == 4) {
        missed.push(format!("an allocation: {allocates:?}"));
    }
    missed.extend(found(fine).map(|finding| format!("{finding:?} of a sound decoder")));
    missed
}
