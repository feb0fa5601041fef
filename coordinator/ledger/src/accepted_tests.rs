//! The journal of accepted blocks: acknowledged blocks survive a power cut, and blocks that have ended
//! are removed.
#![allow(clippy::unwrap_used)]

use common::block::EncodedBlock;
use common::id::ShardId;

use super::tests::{Disk, block_after, next, origin};
use super::*;
use common::strikes::{FleetRecord, StrikeRecord};

fn hashes(ledger: &Ledger) -> Vec<B256> {
    ledger.accepted().unwrap().into_iter().map(|accepted| accepted.block.hash).collect()
}

/// Two different blocks that may follow the head.
fn two_blocks(ledger: &Ledger) -> (EncodedBlock, EncodedBlock) {
    (block_after(&ledger.head(), 1), block_after(&ledger.head(), 2))
}

fn parked() -> Parked {
    Parked { index: None, convicted: true, reason: "it kills".into(), at: 7 }
}

#[test]
fn acknowledged_blocks_survive_a_power_cut_in_their_order() {
    let disk = Disk::default();
    let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    assert!(ledger.accepted().unwrap().is_empty());
    let (one, other) = two_blocks(&ledger);
    ledger.accept([(5, &one)]).unwrap();
    ledger.accept([(3, &other)]).unwrap();
    let again = Ledger::on_backend(disk.rebooted(), origin(), LedgerOptions::small()).unwrap();
    assert_eq!(hashes(&again), vec![other.hash, one.hash]);
    assert_eq!(again.accepted().unwrap()[1].block.hash, one.hash);
}

#[test]
fn a_block_leaves_the_journal_in_the_transaction_that_makes_it_the_chains() {
    let disk = Disk::default();
    let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    let (one, other) = two_blocks(&ledger);
    ledger.accept([(0, &one), (1, &other)]).unwrap();
    ledger.commit(&next(&ledger.head(), 1)).unwrap();
    let again = Ledger::on_backend(disk.rebooted(), origin(), LedgerOptions::small()).unwrap();
    assert_eq!(again.head().summary().state.block_hash, one.hash);
    assert_eq!(hashes(&again), vec![other.hash]);
}

#[test]
fn how_a_block_stands_is_durable_and_ends_with_it() {
    let disk = Disk::default();
    let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    let (one, other) = two_blocks(&ledger);
    ledger.accept([(0, &one), (1, &other)]).unwrap();
    ledger.change_accepted(&one.hash, |record| record.parked = Some(parked())).unwrap();
    ledger.change_accepted(&other.hash, |record| record.starts = 4).unwrap();
    let again = Ledger::on_backend(disk.rebooted(), origin(), LedgerOptions::small()).unwrap();
    let records: Vec<AcceptedRecord> =
        again.accepted().unwrap().into_iter().map(|accepted| accepted.record).collect();
    let expected = [
        AcceptedRecord { sequence: 0, starts: 0, parked: Some(parked()) },
        AcceptedRecord { sequence: 1, starts: 4, parked: None },
    ];
    assert_eq!(records, expected);
    again.discard_accepted(&one.hash).unwrap();
    again.end_accepted([&other.hash]).unwrap();
    assert!(again.accepted().unwrap().is_empty());
    // A block that has ended does not come back.
    again.change_accepted(&one.hash, |record| record.parked = None).unwrap();
    assert!(again.accepted().unwrap().is_empty());
}

#[test]
fn a_coordinator_whose_term_has_passed_accepts_and_parks_nothing_more() {
    let fence: Arc<dyn Fence> = Arc::new(MemoryFence::default());
    let open = || Ledger::begin(origin()).unwrap().fenced(Arc::clone(&fence));
    let (older, newer) = (open(), open());
    older.raise_epoch().unwrap();
    let (one, other) = two_blocks(&older);
    older.accept([(0, &one)]).unwrap();
    newer.raise_epoch().unwrap();
    let refused = [
        older.accept([(1, &other)]),
        older.change_accepted(&one.hash, |record| record.starts = 1),
        older.discard_accepted(&one.hash),
        older.keep_fleet_record(&Default::default()),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(LedgerError::Superseded { .. })), "{refused:?}");
    }
    assert_eq!(hashes(&older), vec![one.hash]);
}

#[test]
fn what_is_known_of_shards_is_kept() {
    let disk = Disk::default();
    let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    assert_eq!(ledger.fleet_record().unwrap(), FleetRecord::default());
    let record = StrikeRecord { strikes: 2, quarantines: 1, quarantined: true };
    let strikes = [(ShardId(3), record)].into_iter().collect();
    let record = FleetRecord { strikes, proven: [ShardId(1), ShardId(7)].into_iter().collect() };
    ledger.keep_fleet_record(&record).unwrap();
    let again = Ledger::on_backend(disk.rebooted(), origin(), LedgerOptions::small()).unwrap();
    assert_eq!(again.fleet_record().unwrap(), record);
}

#[test]
fn of_too_many_strikes_those_of_the_lowest_ids_are_kept() {
    let ledger = Ledger::on_backend(Disk::default(), origin(), LedgerOptions::small()).unwrap();
    let record = StrikeRecord { strikes: 1, quarantines: 0, quarantined: false };
    let strikes = (0..=4096).map(|shard| (ShardId(shard), record)).collect();
    let proven = (0..=4096).map(ShardId).collect();
    ledger.keep_fleet_record(&FleetRecord { strikes, proven }).unwrap();
    let FleetRecord { strikes, proven } = ledger.fleet_record().unwrap();
    assert_eq!((strikes.len(), strikes.contains_key(&ShardId(4096))), (4096, false));
    assert_eq!((proven.len(), proven.contains(&ShardId(4096))), (4096, false));
}
