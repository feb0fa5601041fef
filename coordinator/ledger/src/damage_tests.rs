//! Data that is not as this build writes it. Damage: the check of the whole ledger finds and names every flipped
//! bit in a record's value. Formats: an older one is read or refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, U256, keccak256};
use engine::StateView as _;
use redb::{ReadableTable as _, TableDefinition};

use super::tests::{Disk, address, block_after, next, origin};
use super::*;

fn ledger() -> Ledger {
    // The tables hold the state after block 4, the journal the two blocks above.
    let options = LedgerOptions { checkpoint: 4, ..LedgerOptions::small() };
    let ledger = Ledger::on_backend(Disk::default(), origin(), options).unwrap();
    let base = ledger.head();
    for seed in 0..6 {
        ledger.commit(&next(&ledger.head(), seed)).unwrap();
    }
    let state = base.summary().state;
    let parent = ledger.tip_at(state.height, state.block_hash).unwrap().unwrap();
    ledger.keep_side_block(&next(&parent, 30)).unwrap();
    ledger.accept([(0, &block_after(&ledger.head(), 9))]).unwrap();
    ledger
}

fn check(ledger: &Ledger) -> VerifyReport {
    ledger.verify(&mut |_, _, _| {})
}

/// Flips one bit in the value of each record of a table, one record after another. Returns the cases
/// that the check did not find.
fn flip_each<K: redb::Key + 'static>(
    ledger: &Ledger,
    table: TableDefinition<'static, K, &'static [u8]>,
    owned: impl Fn(K::SelfType<'_>) -> Vec<u8>,
    borrowed: impl for<'k> Fn(&'k [u8]) -> K::SelfType<'k>,
) -> (usize, Vec<String>) {
    let records: Vec<(Vec<u8>, Vec<u8>)> = {
        let transaction = ledger.reading().unwrap();
        let table = transaction.open_table(table).unwrap();
        let entries = table.iter().unwrap().map(|entry| entry.unwrap());
        entries.map(|(key, value)| (owned(key.value()), value.value().to_vec())).collect()
    };
    let write = |key: &[u8], value: &[u8]| {
        let transaction = ledger.database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert(borrowed(key), value).unwrap();
        transaction.commit().unwrap();
    };
    let mut missed = Vec::new();
    for (place, (key, value)) in records.iter().enumerate() {
        let mut flipped = value.clone();
        let at = (place * 7919) % value.len();
        flipped[at] ^= 1 << (place % 8);
        write(key, &flipped);
        if check(ledger).is_sound() {
            missed.push(format!("record {place}, byte {at} of {}", value.len()));
        }
        write(key, value);
    }
    (records.len(), missed)
}

fn hash_key(hash: &[u8; 32]) -> Vec<u8> {
    hash.to_vec()
}

fn as_hash(key: &[u8]) -> &[u8; 32] {
    key.try_into().unwrap()
}

#[test]
fn a_sound_ledger_has_no_findings_and_all_of_it_is_counted() {
    let ledger = ledger();
    let report = check(&ledger);
    assert!(report.is_sound(), "{:?}", report.findings);
    let Counts { blocks, accounts, slots, journal, side_blocks, accepted, .. } = report.counts;
    assert_eq!((blocks, journal, side_blocks, accepted), (6, 6, 1, 1));
    let tables = ledger.tip_at(Height(4), ledger.hash_at(Height(4)).unwrap().unwrap()).unwrap().unwrap();
    let addresses = tables.view().addresses().unwrap();
    assert_eq!(accounts, addresses.len() as u64);
    let each = addresses.iter().map(|address| tables.view().storage(address).unwrap().len() as u64);
    assert_eq!(slots, each.sum::<u64>());
}

#[test]
fn a_flipped_bit_in_any_record_of_a_block_is_found() {
    let ledger = ledger();
    for name in
        ["blocks", "receipts", "block_info", "side_blocks", "side_receipts", "side_deltas", "accepted_blocks"]
    {
        let (records, missed) =
            flip_each(&ledger, TableDefinition::<&[u8; 32], &[u8]>::new(name), hash_key, as_hash);
        assert!(records > 0, "{name}");
        // The header's hash covers only the state that a delta leads to. The ledger checks that when it uses
        // the delta.
        let exempt = name == "side_deltas";
        assert!(missed.is_empty() || exempt, "{name}: {missed:?}");
    }
}

#[test]
fn a_flipped_bit_in_any_entry_of_the_journal_or_node_of_the_trie_is_found() {
    let ledger = ledger();
    let journal = TableDefinition::<u64, &[u8]>::new("journal");
    let number = |key: &[u8]| u64::from_be_bytes(key.try_into().unwrap());
    let (records, missed) = flip_each(&ledger, journal, |key| key.to_be_bytes().to_vec(), number);
    assert_eq!(records, 6);
    assert!(missed.is_empty(), "{missed:?}");
    for name in ["account_nodes", "storage_nodes"] {
        let table = TableDefinition::<&[u8], &[u8]>::new(name);
        let (records, missed) = flip_each(&ledger, table, <[u8]>::to_vec, |key| key);
        assert!(records > 0 && missed.is_empty(), "{name}: {missed:?}");
    }
}

/// Flips one bit of an account's balance, or of a slot's value, in the flat state only.
fn damage(ledger: &Ledger, owner: &Address, slot: Option<U256>) {
    let transaction = ledger.database.begin_write().unwrap();
    let hashed = keccak256(owner);
    match slot {
        None => {
            let mut table =
                transaction.open_table(TableDefinition::<&[u8; 32], &[u8; 92]>::new("accounts")).unwrap();
            let mut value = *table.get(&hashed.0).unwrap().unwrap().value();
            value[20 + 8 + 31] ^= 4;
            table.insert(&hashed.0, &value).unwrap();
        }
        Some(slot) => {
            let mut table =
                transaction.open_table(TableDefinition::<&[u8; 64], &[u8; 64]>::new("slots")).unwrap();
            let mut key = [0; 64];
            key[..32].copy_from_slice(hashed.as_slice());
            key[32..].copy_from_slice(keccak256(B256::from(slot)).as_slice());
            let mut value = *table.get(&key).unwrap().unwrap().value();
            value[63] ^= 4;
            table.insert(&key, &value).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn a_flipped_bit_of_the_flat_state_is_found_and_its_account_is_named() {
    for slot in [None, Some(U256::from(2))] {
        let ledger = ledger();
        let owner = address(14);
        damage(&ledger, &owner, slot);
        let report = check(&ledger);
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        let text = report.findings[0].to_string();
        assert!(text.contains(&owner.to_string()) && text.contains("the trie has"), "{text}");
    }
}

#[test]
fn a_read_that_the_trie_does_not_cover_is_damage() {
    let disk = Disk::default();
    let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap();
    ledger.commit(&next(&ledger.head(), 1)).unwrap();
    let (owner, other) = (address(14), address(20));
    damage(&ledger, &owner, None);
    damage(&ledger, &other, Some(U256::from(3)));
    drop(ledger);
    let again = Ledger::on_backend(disk.rebooted(), origin(), LedgerOptions::small()).unwrap();
    let head = again.head();
    let audited = || AuditedView::of(&head).unwrap();
    let view = audited();
    assert!(view.account(&address(16)).unwrap().is_some());
    assert!(view.account(&address(9999)).unwrap().is_none());
    assert_eq!(view.slot(&other, &U256::from(2)).unwrap(), U256::from(22));
    assert!(view.any_slot(&other, &|_| true).unwrap());
    assert!(view.into_damage().is_none());
    let view = audited();
    assert!(view.account(&owner).is_err());
    let damage = view.into_damage().unwrap();
    assert!(damage.is_storage() && damage.to_string().contains("balance"), "{damage}");
    let view = audited();
    assert!(view.slot(&other, &U256::from(3)).is_err());
    assert!(view.into_damage().unwrap().to_string().contains("slot 0x3"));
}

#[test]
fn a_ledger_of_the_format_before_is_read_and_becomes_one_of_this() {
    use super::records::{FORMAT, OLDEST_FORMAT, Records};
    let disk = Disk::default();
    drop(Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap());
    let written = |format: u64| {
        let database = redb::Database::builder().create_with_backend(disk.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = TableDefinition::<&str, &[u8]>::new("meta");
        let bytes = common::codec::encode("format", &format, 8).unwrap();
        transaction.open_table(meta).unwrap().insert("format", bytes.as_slice()).unwrap();
        transaction.commit().unwrap();
    };
    for unread in [OLDEST_FORMAT - 1, FORMAT + 1] {
        written(unread);
        let error = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap_err();
        assert!(error.to_string().contains(&format!("it has format {unread}")), "{error}");
    }
    written(OLDEST_FORMAT);
    let ledger = Ledger::on_backend(disk, origin(), LedgerOptions::small()).unwrap();
    assert_eq!(Records(&ledger.database.begin_read().unwrap()).format().unwrap(), Some(FORMAT));
}
