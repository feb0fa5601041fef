//! Every target stands its valid inputs, what is kept in the corpus, and some thousand mutated inputs. For more:
//! `scripts/hostile.sh`.
#![allow(clippy::unwrap_used, clippy::panic)]

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
    for target in &targets {
        for valid in &target.valid {
            let cost = execute(target, valid, ALLOCATOR).unwrap();
            let expected = !NOT_WHOLE.contains(&target.name);
            assert_eq!(cost.accepted, expected, "{}: {}", target.name, String::from_utf8_lossy(valid));
        }
        let limits = Limits { executions: 3_000, time: Duration::from_secs(20) };
        let report = feed(target, limits, 1, ALLOCATOR);
        let found = report.found.map(|(finding, input)| format!("{finding}, with {input:02x?}"));
        assert_eq!(found, None, "{}", target.name);
        assert!(report.executions > 100 && report.accepted > 0 || !NOT_WHOLE.contains(&target.name));
    }
    assert_what_is_found(targets.first().unwrap());
}

/// A decoder that fails in one of the three ways is found out.
fn assert_what_is_found(fine: &target::Target) {
    let found = |target| {
        feed(target, Limits { executions: 50_000, time: Duration::from_secs(60) }, 1, ALLOCATOR).found
    };
    let bad = |decode: fn(&[u8]) -> bool| target::Target::of("bad", vec![b"input".to_vec()], decode);
    let panics = bad(|bytes| bytes.iter().filter(|byte| **byte == b'i').count() < 4 || panic!("four"));
    assert!(matches!(found(&panics), Some((Finding::Panicked(message), _)) if message.contains("four")));
    let allocates = bad(|bytes| bytes.first() == Some(&0xff) && !vec![1u8; 64 << 20].is_empty());
    assert!(
        matches!(found(&allocates), Some((Finding::Allocated { .. }, input)) if input.first() == Some(&0xff))
    );
    assert!(found(fine).is_none());
}
