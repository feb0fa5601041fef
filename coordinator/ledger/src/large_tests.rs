//! Changes that are larger than one record of the database, or than one message.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_consensus::Header;
use alloy_consensus::constants::EMPTY_OMMER_ROOT_HASH;
use alloy_primitives::{Address, U256};
use common::account::{Account, AccountDelta, SlotValue};
use common::block::Ommers;
use common::receipt::Receipts;

use super::pieces::PIECE_BYTES;
use super::tests::{Disk, origin};
use super::*;

const CONTRACT: Address = Address::repeat_byte(0xcc);

/// Seals a block with these changes.
fn block_with(parent: &Tip, changes: Vec<AccountDelta>) -> Arc<Tip> {
    let draft = parent.draft(changes, vec![]).unwrap();
    let header = Header {
        parent_hash: parent.summary().state.block_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        number: parent.summary().state.height.0 + 1,
        state_root: draft.state_root().unwrap(),
        difficulty: U256::from(1),
        ..Default::default()
    };
    parent.seal(
        draft,
        &Block::new(header, vec![], Ommers::Headers(vec![]), None).into(),
        &Receipts::default(),
    )
}

/// A contract with this many slots. Their words have 32 bytes, as those of mappings have: small words
/// would have short records.
fn contract(slots: u64) -> AccountDelta {
    let high = U256::from(1) << 255;
    let slot = |slot: u64| SlotValue { slot: high + U256::from(slot), value: high + U256::from(slot + 1) };
    AccountDelta {
        address: CONTRACT,
        account: Some(Account { nonce: 1, ..Default::default() }),
        wiped: false,
        storage: (0..slots).map(slot).collect(),
    }
}

/// The destruction of the contract: the change is small, but its inverse contains every slot.
fn destroyed() -> AccountDelta {
    AccountDelta { address: CONTRACT, account: None, wiped: true, storage: vec![] }
}

fn check_destruction(slots: u64) {
    // On disk: a large ledger in memory would take many times its size.
    let folder = tempfile::tempdir().unwrap();
    let open = || Ledger::open(folder.path(), origin(), LedgerOptions::small()).unwrap();
    // Tips keep the database open, so drop each one.
    let commit = |ledger: &Ledger, changes| {
        let tip = ledger.commit(&block_with(&ledger.head(), changes)).unwrap();
        (tip.summary(), tip.state_root())
    };
    let ledger = open();
    let full = commit(&ledger, vec![contract(slots)]);
    let gone = commit(&ledger, vec![destroyed()]);
    drop(ledger);

    let again = open();
    assert_eq!((again.head().summary(), again.head().state_root()), gone);
    let deltas = again.deltas_from(again.origin()).unwrap().unwrap();
    assert_eq!(deltas.iter().map(|delta| delta.to).collect::<Vec<_>>(), [full.0.state, gone.0.state]);
    let back = again.tip_at(full.0.state.height, full.0.state.block_hash).unwrap().unwrap();
    assert_eq!((back.summary(), back.state_root()), full);
    // A branch that does not destroy the contract replaces the block that does, which stays a side block.
    let other = block_with(&block_with(&back, vec![]), vec![]);
    again.commit(&other).unwrap();
    assert_eq!(again.head().state_root(), full.1);
    let forth = again.tip_at(gone.0.state.height, gone.0.state.block_hash).unwrap().unwrap();
    again.commit(&forth).unwrap();
    assert_eq!(again.head().state_root(), gone.1);
    assert!(again.verify(&mut |_, _, _| {}).is_sound());
}

#[test]
fn the_destruction_of_a_contract_larger_than_one_record_can_be_committed_and_taken_back() {
    let slots = 40_000;
    assert!(contract(slots).storage.len() * 66 > 2 * PIECE_BYTES);
    check_destruction(slots);
}

/// More slots than the journal could take when an entry was one record of 256 MiB. The test takes
/// minutes and some gigabytes: `cargo test --release -p ledger --lib millions -- --ignored`.
#[test]
#[ignore = "minutes, and gigabytes of memory"]
fn the_destruction_of_a_contract_with_millions_of_slots_can_be_committed_and_taken_back() {
    check_destruction(4_300_000);
}

#[test]
fn the_journal_of_a_block_leaves_no_piece_behind_when_it_is_dropped() {
    let options = LedgerOptions { unwind: 2, journal: 2, ..LedgerOptions::small() };
    let ledger = Ledger::on_backend(Disk::default(), origin(), options).unwrap();
    ledger.commit(&block_with(&ledger.head(), vec![contract(40_000)])).unwrap();
    ledger.commit(&block_with(&ledger.head(), vec![destroyed()])).unwrap();
    let pieces = || records::Records(&ledger.reading().unwrap()).journal_pieces().unwrap();
    assert!(pieces() > 0);
    for _ in 0..2 {
        ledger.commit(&block_with(&ledger.head(), vec![])).unwrap();
    }
    assert_eq!(pieces(), 0);
}
