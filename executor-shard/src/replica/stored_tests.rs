//! Compares a replica in a folder with one in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use alloy_primitives::{Address, Bytes, U256, keccak256};
use common::account::{Account, AccountDelta, AccountRecord, Delta, SlotValue};
use common::chain_spec::ChainSpec;
use common::id::{Height, StateRef, WorldId};
use common::message::{SnapshotChunk, StateSummary};

use super::*;
use engine::store::Cursor;
use engine::{MemoryState, StateView};

fn state_ref(height: u64) -> StateRef {
    let block_hash = keccak256(height.to_be_bytes());
    StateRef { world: WorldId::default(), height: Height(height), block_hash }
}

fn record(number: u64, slots: u64) -> AccountRecord {
    AccountRecord {
        address: Address::left_padding_from(&number.to_be_bytes()),
        account: Account { balance: U256::from(number + 1), ..Default::default() },
        storage: (1..=slots)
            .map(|slot| SlotValue { slot: U256::from(slot), value: U256::from(number + slot) })
            .collect(),
    }
}

fn snapshot() -> (SnapshotChunk, MemoryState) {
    let code = Bytes::from_static(&[0x60, 0x01]);
    let accounts: Vec<_> = (0..50).map(|number| record(number, number % 7)).collect();
    let mut state = MemoryState::default();
    accounts.iter().cloned().for_each(|record| state.insert(record));
    state.insert_code(keccak256(&code), code.clone());
    (SnapshotChunk { accounts, code: vec![(keccak256(&code), code)] }, state)
}

fn fill(replica: &Replica, chunk: &SnapshotChunk, digest: U256) -> StateSummary {
    let mut filling = replica.begin_filling(vec![(1, state_ref(1).block_hash)]).unwrap();
    filling.take(chunk.clone()).unwrap();
    assert_eq!(filling.digest(), digest);
    let summary = StateSummary { state: state_ref(1), digest };
    replica.finish_filling(summary, ChainSpec::mainnet(), filling).unwrap();
    summary
}

#[test]
fn code_that_is_not_what_its_hash_says_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut chunk, _) = snapshot();
    let hash = chunk.code[0].0;
    chunk.code[0].1 = Bytes::from_static(&[0x60, 0x02]);
    for replica in [Replica::default(), Replica::open(folder.path()).unwrap()] {
        let mut filling = replica.begin_filling(vec![]).unwrap();
        let refused = filling.take(chunk.clone()).unwrap_err();
        assert!(matches!(refused, StateError::WrongCode { expected, .. } if expected == hash), "{refused}");
    }
}

/// Deletes one account, wipes and rewrites another, and changes a third.
fn delta(shadow: &mut MemoryState, height: u64) -> Arc<Delta> {
    let of = |number: u64| Address::left_padding_from(&number.to_be_bytes());
    let account = Account { nonce: height, ..Default::default() };
    let storage = vec![SlotValue { slot: U256::from(3), value: U256::from(height) }];
    let accounts = vec![
        AccountDelta { address: of(height), account: None, wiped: true, storage: vec![] },
        AccountDelta {
            address: of(height + 10),
            account: Some(account),
            wiped: true,
            storage: storage.clone(),
        },
        AccountDelta { address: of(height + 20), account: Some(account), wiped: false, storage },
    ];
    accounts.iter().for_each(|change| shadow.apply(change));
    let digest = shadow.digest();
    Arc::new(Delta { from: state_ref(height), to: state_ref(height + 1), accounts, code: vec![], digest })
}

fn assert_equal(one: &ReplicaView, other: &ReplicaView) {
    for number in 0..80u64 {
        let address = Address::left_padding_from(&number.to_be_bytes());
        assert_eq!(one.account(&address).unwrap(), other.account(&address).unwrap(), "account {number}");
        for slot in (0..9).map(U256::from) {
            assert_eq!(one.slot(&address, &slot).unwrap(), other.slot(&address, &slot).unwrap());
        }
        let any = |view: &ReplicaView| view.any_slot(&address, &|_| true).unwrap();
        assert_eq!(any(one), any(other));
    }
    for number in 0..20 {
        assert_eq!(one.block_hash(number).unwrap(), other.block_hash(number).unwrap());
    }
}

#[test]
fn a_stored_replica_is_what_one_in_memory_is_and_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let (chunk, mut shadow) = snapshot();
    let (memory, stored) = (Replica::default(), Replica::open(folder.path()).unwrap());
    assert_eq!(stored.summary(), None);
    fill(&memory, &chunk, shadow.digest());
    fill(&stored, &chunk, shadow.digest());
    let old = stored.view(state_ref(1)).unwrap();
    for height in 1..10 {
        let delta = delta(&mut shadow, height);
        assert_eq!(memory.apply(&delta).unwrap(), stored.apply(&delta).unwrap());
        let at = state_ref(height + 1);
        assert_equal(&memory.view(at).unwrap(), &stored.view(at).unwrap());
    }
    // A view that is held does not move.
    assert_eq!(old.account(&chunk.accounts[1].address).unwrap(), Some(chunk.accounts[1].account));
    let summary = stored.summary();
    drop((old, stored));
    let again = Replica::open(folder.path()).unwrap();
    assert_eq!(again.summary(), summary);
    assert_equal(&memory.view(state_ref(10)).unwrap(), &again.view(state_ref(10)).unwrap());
}

#[test]
fn an_undone_block_leads_back() {
    let folder = tempfile::tempdir().unwrap();
    let (chunk, mut shadow) = snapshot();
    let (memory, stored) = (Replica::default(), Replica::open(folder.path()).unwrap());
    let first = fill(&memory, &chunk, shadow.digest());
    fill(&stored, &chunk, shadow.digest());
    let before = memory.view(state_ref(1)).unwrap();
    let delta = delta(&mut shadow, 1);
    let accounts = before.consequence(first.digest, &delta.accounts).unwrap().undo;
    let undo =
        Arc::new(Delta { from: delta.to, to: delta.from, accounts, code: vec![], digest: first.digest });
    for replica in [&memory, &stored] {
        replica.apply(&delta).unwrap();
        assert_eq!(replica.apply(&undo).unwrap(), first);
        assert_equal(&before, &replica.view(state_ref(1)).unwrap());
    }
}

#[test]
fn a_snapshot_in_small_parts_is_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (chunk, shadow) = snapshot();
    let source = Replica::open(folder.path()).unwrap();
    fill(&source, &chunk, shadow.digest());
    let view = source.view(state_ref(1)).unwrap();
    let Base::Disk(state) = view.base() else { panic!("it is stored") };
    for size in [1, 70, 200, 1000, 1 << 20] {
        let copy = Replica::default();
        let mut filling = copy.begin_filling(state.ancestors(10).unwrap()).unwrap();
        let (mut cursor, mut parts) = (Some(Cursor::START), 0);
        while let Some(from) = cursor {
            let (part, next) = state.chunk(from, size).unwrap();
            filling.take(part).unwrap();
            (cursor, parts) = (next, parts + 1);
        }
        assert!(parts > 1 || size > 1000, "{parts} parts of {size} bytes");
        assert_eq!(filling.digest(), shadow.digest(), "parts of {size} bytes");
        let summary = source.summary().unwrap();
        copy.finish_filling(summary, ChainSpec::mainnet(), filling).unwrap();
        assert_equal(&copy.view(state_ref(1)).unwrap(), &view);
    }
}

#[test]
fn a_damaged_database_begins_anew_and_a_foreign_process_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replica.redb");
    std::fs::write(&file, b"nothing that redb ever wrote").unwrap();
    let replica = Replica::open(folder.path()).unwrap();
    assert_eq!(replica.summary(), None);
    assert!(matches!(Replica::open(folder.path()), Err(StoredError::Locked(_))));
    let (chunk, shadow) = snapshot();
    let summary = fill(&replica, &chunk, shadow.digest());
    drop(replica);
    assert_eq!(Replica::open(folder.path()).unwrap().summary(), Some(summary));
}

#[test]
fn damaged_pages_never_keep_a_shard_from_starting() {
    use rand::{Rng, SeedableRng};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replica.redb");
    let (chunk, mut shadow) = snapshot();
    let replica = Replica::open(folder.path()).unwrap();
    let whole = fill(&replica, &chunk, shadow.digest());
    replica.apply(&delta(&mut shadow, 1)).unwrap();
    drop(replica);
    let sound = std::fs::read(&file).unwrap();
    let mut begun_anew = 0;
    for seed in 0..40 {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = sound.clone();
        for _ in 0..200 {
            let place = random.random_range(0..bytes.len());
            bytes[place] ^= 1 << random.random_range(0..8);
        }
        std::fs::write(&file, &bytes).unwrap();
        let replica = Replica::open(folder.path()).unwrap();
        if replica.summary().is_none() {
            begun_anew += 1;
            let (chunk, shadow) = snapshot();
            assert_eq!(fill(&replica, &chunk, shadow.digest()), whole, "seed {seed}");
        }
        // Damage in pages that nothing has read yet makes redb panic when it closes the file.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(replica)));
    }
    assert!(begun_anew > 0, "no damage was noticed");
}

#[test]
fn a_database_that_cannot_be_opened_is_kept() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replica.redb");
    // A link to itself cannot be opened, not even by root, and is not damaged.
    symlink(&file, &file).unwrap();
    let error = Replica::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoredError::Io { .. }), "{error}");
    assert!(file.symlink_metadata().is_ok(), "it was deleted");
}

#[test]
fn a_database_that_is_damaged_later_is_replaced_at_the_next_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (chunk, mut shadow) = snapshot();
    let replica = Replica::open(folder.path()).unwrap();
    let whole = fill(&replica, &chunk, shadow.digest());
    let held = replica.view(state_ref(1)).unwrap();
    let stored = replica.stored.as_ref().unwrap();
    stored.guarded::<()>(|| panic!("a page is not what was written")).unwrap_err();
    let digest = shadow.digest();
    assert!(replica.apply(&delta(&mut shadow, 1)).is_err());
    assert_eq!(replica.summary(), None, "it holds a state that it cannot move");
    assert_eq!(fill(&replica, &chunk, digest), whole);
    assert_equal(&replica.view(state_ref(1)).unwrap(), &held);
    drop((replica, held));
    assert_eq!(Replica::open(folder.path()).unwrap().summary(), Some(whole));
}
