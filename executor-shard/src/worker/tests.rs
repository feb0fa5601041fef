//! The slots: a stuck thread loses its slot, an idle one keeps it.
#![allow(clippy::unwrap_used)]
use super::*;
use alloy_consensus::Header;
use alloy_primitives::B256;
use common::block::{Block, EncodedBlock, Ommers};
use common::id::{Attempt, Epoch, Height, Incarnation, ShardId, StateRef, WorkId, WorldId};
use common::work::WorkKind;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn job(number: u8) -> PreparedWork {
    let (world, block_hash) = (WorldId::default(), B256::ZERO);
    let base = StateRef { world, height: Height(0), block_hash };
    let block = Block::new(Header::default(), vec![], Ommers::Headers(vec![]), None);
    let spec = WorkSpec::of(base, &EncodedBlock::new(block), WorkKind::Recover, &[]);
    let assignment = AssignmentId {
        work: WorkId(B256::repeat_byte(number)),
        shard: ShardId(1),
        incarnation: Incarnation(1),
        attempt: Attempt(1),
        epoch: Epoch { number: 1, instance: 1 },
    };
    let chain = Arc::new(ChainSpec::mainnet());
    PreparedWork { assignment, spec: Sealed::new(spec), chain, view: None, cancelled: Arc::default() }
}

/// Waits for a condition.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_stuck_thread_loses_its_slot_and_still_delivers() {
    let (sender, reports) = bounded(8);
    let report: Reporter = Arc::new(move |event| {
        if let SlotEvent::Finished(result) = event {
            let _ = sender.send(result.assignment);
        }
    });
    let faults = Arc::new(Faults::new(vec!["slow:1500@1".parse().unwrap()]));
    let (slots, supervisor) = Slots::new("test", 1, 4, faults, report);
    let threads = std::thread::spawn(move || supervisor.run());
    let (slow, next) = (job(1), job(2));
    let names = [slow.assignment, next.assignment];
    slots.offer(slow).unwrap();
    until("the slot is at work", || slots.progress().iter().any(|slot| slot.current.is_some()));
    slots.renew();
    until("the slot has a new thread", || slots.progress().iter().all(|slot| slot.current.is_none()));
    assert_eq!(slots.queued(), 1, "the process is not idle while the old thread works");
    slots.offer(next).unwrap();
    let order = [reports.recv_timeout(SOON).unwrap(), reports.recv_timeout(SOON).unwrap()];
    assert_eq!(order, [names[1], names[0]], "the new thread does not wait for the old one");
    until("the old thread's work no longer counts", || slots.queued() == 0);
    slots.close();
    threads.join().unwrap().unwrap();
}

#[test]
fn a_slot_that_is_idle_keeps_its_thread() {
    let report: Reporter = Arc::new(|_| {});
    let (slots, supervisor) = Slots::new("test", 2, 4, Arc::default(), report);
    // More renewals than the limit would allow if each replaced a thread.
    for _ in 0..MAX_RENEWALS {
        slots.renew();
    }
    slots.close();
    supervisor.run().unwrap();
}

/// Runs one slot whose thread stands still with work that `cancel` says is cancelled or not, and closes
/// it. Returns how long the supervisor waited for the thread.
fn closing_takes(fault: &str, cancel: bool) -> Duration {
    let faults = Arc::new(Faults::new(vec![fault.parse().unwrap()]));
    let (slots, supervisor) = Slots::new("test", 1, 4, faults, Arc::new(|_| {}));
    let threads = std::thread::spawn(move || supervisor.run());
    let job = job(1);
    job.cancelled.store(cancel, Ordering::Relaxed);
    slots.offer(job).unwrap();
    until("the slot is at work", || slots.progress().iter().any(|slot| slot.current.is_some()));
    let began = Instant::now();
    slots.close();
    threads.join().unwrap().unwrap();
    began.elapsed()
}

#[test]
fn closing_waits_for_work_that_is_wanted_and_leaves_a_thread_with_cancelled_work_behind() {
    assert!(closing_takes("slow:3000@1", false) >= Duration::from_millis(2500), "the result was wanted");
    // Without the rule this would take as long as the thread stands still.
    assert!(closing_takes("slow:60000@1", true) < SOON, "the result had no reader");
}
