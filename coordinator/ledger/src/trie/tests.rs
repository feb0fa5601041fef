//! The laws of the trie, on random histories: the root equals the one that `alloy_trie` computes from
//! scratch, the stored nodes equal those of a trie built from scratch, the inverse batch undoes a
//! batch, and the trie notices damage.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use alloy_primitives::{B256, Bytes, U256, b256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::root::{state_root_unsorted, storage_root_unsorted};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, KECCAK_EMPTY, Nibbles, TrieAccount};
use proptest::collection::vec;
use proptest::prelude::*;

use super::descend::descend;
use super::node::{Entry, Loader, Value, step};
use super::seal::seal_one;
use super::*;

type Slots = BTreeMap<B256, U256>;
type State = BTreeMap<B256, (AccountFields, Slots)>;

fn fields(nonce: u64) -> AccountFields {
    AccountFields { nonce, balance: U256::from(nonce) << (nonce % 200), code_hash: KECCAK_EMPTY }
}

/// Applies a batch to a plain map.
fn apply(state: &mut State, batch: &[AccountChange]) {
    for change in batch {
        let Some(account) = change.account else {
            state.remove(&change.hashed_address);
            continue;
        };
        let (fields, slots) = state.entry(change.hashed_address).or_insert((account, Slots::new()));
        *fields = account;
        if change.wiped {
            slots.clear();
        }
        for (slot, value) in &change.slots {
            if value.is_zero() {
                slots.remove(slot)
            } else {
                slots.insert(*slot, *value)
            };
        }
    }
}

/// The batch that leads from the state after `batch` back to `before`.
fn inverse(before: &State, batch: &[AccountChange]) -> Vec<AccountChange> {
    let undo = |change: &AccountChange| {
        let hashed_address = change.hashed_address;
        let Some((account, slots)) = before.get(&hashed_address) else {
            return AccountChange { hashed_address, account: None, wiped: false, slots: vec![] };
        };
        let wiped = change.wiped || change.account.is_none();
        let slots = if wiped {
            slots.iter().map(|(slot, value)| (*slot, *value)).collect()
        } else {
            let former = |(slot, _): &(B256, U256)| (*slot, slots.get(slot).copied().unwrap_or_default());
            change.slots.iter().map(former).collect()
        };
        AccountChange { hashed_address, account: Some(*account), wiped, slots }
    };
    batch.iter().map(undo).collect()
}

fn reference_root(state: &State) -> B256 {
    state_root_unsorted(state.iter().map(|(address, (fields, slots))| {
        let storage_root = storage_root_unsorted(slots.iter().map(|(slot, value)| (*slot, *value)));
        let AccountFields { nonce, balance, code_hash } = *fields;
        (*address, TrieAccount { nonce, balance, storage_root, code_hash })
    }))
}

/// The whole state as one batch.
fn everything(state: &State) -> Vec<AccountChange> {
    let change = |(address, (fields, slots)): (&B256, &(AccountFields, Slots))| AccountChange {
        hashed_address: *address,
        account: Some(*fields),
        wiped: false,
        slots: slots.iter().map(|(slot, value)| (*slot, *value)).collect(),
    };
    state.iter().map(change).collect()
}

const EMPTY: Subtree = Subtree { reference: RlpNode::word_rlp(&EMPTY_ROOT_HASH), node: None };

fn on(threads: usize) -> UpdateOptions {
    UpdateOptions { threads, generation: 0 }
}

/// Updates a trie and brings `nodes` from the old one to the new one.
fn write(nodes: &mut MemoryNodes, trie: &Subtree, batch: Vec<AccountChange>, threads: usize) -> Updated {
    let updated = update(&*nodes, trie, batch, on(threads)).unwrap();
    nodes.apply(&writes_of(nodes, trie, &updated));
    updated
}

fn writes_of(nodes: &MemoryNodes, before: &Subtree, updated: &Updated) -> NodeChanges {
    writes(nodes, (before, &updated.trie), std::iter::once(&updated.touched)).unwrap()
}

fn from_nothing(state: &State) -> MemoryNodes {
    let mut nodes = MemoryNodes::new();
    let updated = write(&mut nodes, &EMPTY, everything(state), 1);
    assert_eq!(updated.trie.root(), reference_root(state));
    nodes
}

fn trie_of(state: &State) -> Subtree {
    Subtree::of_root(reference_root(state))
}

/// Hashes that share none, some or nearly all of their nibbles.
fn hash_like() -> impl Strategy<Value = B256> {
    let shared = b256!("0x1234567812345678123456781234567812345678123456781234567812345678");
    prop_oneof![
        4 => (0u8..12).prop_map(|seed| keccak256([seed])),
        2 => (0u8..16, 50usize..64).prop_map(move |(nibble, at)| {
            let mut hash = shared;
            let byte = &mut hash.0[at / 2];
            *byte = if at % 2 == 0 { nibble << 4 | *byte & 0xf } else { *byte & 0xf0 | nibble };
            hash
        }),
        1 => any::<[u8; 32]>().prop_map(B256::from),
    ]
}

fn value() -> impl Strategy<Value = U256> {
    prop_oneof![3 => Just(U256::ZERO), 4 => (1u64..300).prop_map(U256::from), 1 => Just(U256::MAX)]
}

fn batch() -> impl Strategy<Value = Vec<AccountChange>> {
    let slots = prop_oneof![
        2 => Just(Slots::new()),
        3 => proptest::collection::btree_map(hash_like(), value(), 0..6),
        1 => proptest::collection::btree_map(hash_like(), value(), 0..60),
    ];
    let change = (proptest::option::weighted(0.75, 0u64..40), prop::bool::weighted(0.15), slots);
    proptest::collection::btree_map(hash_like(), change, 0..14).prop_map(|changes| {
        let change = |(hashed_address, (nonce, wiped, slots)): (B256, (Option<u64>, bool, Slots))| {
            let slots = slots.into_iter().collect();
            AccountChange { hashed_address, account: nonce.map(fields), wiped, slots }
        };
        // The order of a batch has no meaning.
        changes.into_iter().rev().map(change).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    // Law: after every batch the root equals the reference's, whatever part of the old tree is in memory. The
    // inverse batch restores the root and the nodes. The store is written after some batches only, and then
    // equals that of a trie built from scratch.
    #[test]
    fn histories_lead_to_the_tries_built_from_nothing(
        steps in vec((batch(), prop::bool::weighted(0.4), 0u64..4), 1..9),
        threads in 1usize..4,
    ) {
        let (mut state, mut nodes) = (State::new(), MemoryNodes::new());
        let (mut written, mut trie) = (EMPTY, EMPTY);
        let mut touched: Vec<Touched> = Vec::new();
        for (generation, (batch, store, age)) in (1u64..).zip(steps) {
            let options = UpdateOptions { threads, generation };
            let updated = update(&nodes, &trie, batch.clone(), options).unwrap();
            let undone = update(&nodes, &updated.trie, inverse(&state, &batch), options).unwrap();
            prop_assert_eq!(undone.trie.root(), trie.root());
            let there_and_back = touched.iter().chain([&updated.touched, &undone.touched]);
            let back = writes(&nodes, (&written, &undone.trie), there_and_back).unwrap();
            let mut restored = nodes.clone();
            restored.apply(&back);
            prop_assert_eq!(&restored, &from_nothing(&state));

            apply(&mut state, &batch);
            trie = updated.trie;
            touched.push(updated.touched);
            prop_assert_eq!(trie.root(), reference_root(&state));
            if store {
                nodes.apply(&writes(&nodes, (&written, &trie), touched.iter()).unwrap());
                touched.clear();
                prop_assert_eq!(&nodes, &from_nothing(&state));
                trie = trie.without_older((generation + 1).saturating_sub(age)).0;
                written = trie.clone();
            }
        }
    }
}

/// Applies entries to one trie of short keys, as `update` does for whole ones, and writes the changed nodes.
fn edit_short(nodes: &mut MemoryNodes, trie: &Subtree, key_len: usize, batch: &ShortBatch) -> Subtree {
    let entry = |(key, value): (&Nibbles, &U256)| Entry {
        key: *key,
        value: if value.is_zero() { Value::Remove } else { Value::Slot(*value) },
    };
    let entries: Vec<_> = batch.iter().map(entry).collect();
    let loader = Loader { source: &*nodes, tree: Tree::Accounts, key_len, generation: 0 };
    let mut edited = descend(&loader, trie, &entries, 1).unwrap();
    seal_one(1, &mut edited.trie);
    let removed = edited.removed.into_iter().map(|path| (Tree::Accounts, path));
    let touched = Touched { removed: removed.collect(), ..Touched::default() };
    let changes = writes(&*nodes, (trie, &edited.trie), std::iter::once(&touched)).unwrap();
    let places: std::collections::BTreeSet<_> = changes.nodes.iter().map(|(place, _)| place).collect();
    assert_eq!(places.len(), changes.nodes.len(), "a place is written twice");
    nodes.apply(&changes);
    edited.trie
}

/// The number of nodes that a reader meets on all paths from `node`. Each must hash to its reference.
fn reachable(nodes: &MemoryNodes, path: &Nibbles, node: &RlpNode) -> usize {
    let (stored, bytes) = match node.as_hash() {
        Some(hash) => {
            let bytes = nodes.node(&Tree::Accounts, path).unwrap().unwrap();
            assert_eq!(keccak256(&bytes), hash);
            (1, bytes)
        }
        None => (0, Bytes::copy_from_slice(node.as_slice())),
    };
    stored
        + match TrieNode::decode(&mut &bytes[..]).unwrap() {
            TrieNode::EmptyRoot | TrieNode::Leaf(_) => 0,
            TrieNode::Extension(node) => reachable(nodes, &path.join(&node.key), &node.child),
            TrieNode::Branch(node) => node
                .as_ref()
                .children()
                .filter_map(|(nibble, child)| Some(reachable(nodes, &step(path, nibble), child?)))
                .sum(),
        }
}

type ShortBatch = BTreeMap<Nibbles, U256>;

fn short_history() -> impl Strategy<Value = (usize, Vec<(ShortBatch, bool)>)> {
    (1usize..6).prop_flat_map(|key_len| {
        let nibble = prop_oneof![6 => 0u8..2, 2 => 0u8..4, 1 => 0u8..16];
        let key = vec(nibble, key_len).prop_map(Nibbles::from_nibbles);
        let batch = proptest::collection::btree_map(key, value(), 1..12);
        (Just(key_len), vec((batch, any::<bool>()), 1..10))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    // Law: the same holds for short keys with few different nibbles, so with extensions, with nodes inside
    // their parents and with roots under 32 bytes. The store contains exactly the reachable nodes, each
    // under its path.
    #[test]
    fn tries_with_small_nodes_are_those_built_from_nothing((key_len, batches) in short_history()) {
        let (mut leaves, mut nodes, mut trie) = (ShortBatch::new(), MemoryNodes::new(), EMPTY);
        for (batch, forget) in batches {
            if forget {
                trie = Subtree::of_root(trie.root());
            }
            trie = edit_short(&mut nodes, &trie, key_len, &batch);
            let root = trie.root();
            leaves.extend(batch);
            leaves.retain(|_, value| !value.is_zero());
            let mut reference = HashBuilder::default();
            for (key, value) in &leaves {
                reference.add_leaf(*key, &alloy_rlp::encode(value));
            }
            prop_assert_eq!(root, reference.root());
            let mut fresh = MemoryNodes::new();
            if !leaves.is_empty() {
                edit_short(&mut fresh, &EMPTY, key_len, &leaves);
                prop_assert_eq!(reachable(&nodes, &Nibbles::new(), &RlpNode::word_rlp(&root)), nodes.len());
            }
            prop_assert_eq!(&nodes, &fresh);
        }
    }

    // Law: keys sort like places, and decode to the encoded path. Other bytes are either rejected or valid
    // keys.
    #[test]
    fn keys_keep_the_order_of_paths(
        a in vec(0u8..16, 0..=64),
        b in vec(0u8..16, 0..=64),
        raw in vec(any::<u8>(), 0..100),
    ) {
        let (a, b) = (Nibbles::from_nibbles(a), Nibbles::from_nibbles(b));
        let owner = keccak256([1]);
        prop_assert_eq!(a.cmp(&b), account_key(&a).cmp(&account_key(&b)));
        prop_assert_eq!(a.cmp(&b), storage_key(&owner, &a).cmp(&storage_key(&owner, &b)));
        prop_assert_eq!(decode_account_key(&account_key(&a)), Ok(a));
        prop_assert_eq!(decode_storage_key(&storage_key(&owner, &b)), Ok((owner, b)));
        if let Ok(path) = decode_account_key(&raw) {
            prop_assert_eq!(account_key(&path), raw.clone());
        }
        if let Ok((owner, path)) = decode_storage_key(&raw) {
            prop_assert_eq!(storage_key(&owner, &path), raw);
        }
    }

    // Law: whatever bytes stand in place of a node, its reader reports damage and does not panic, even if
    // the hash of the bytes is the one that the parent names.
    #[test]
    fn hostile_bytes_are_damage(
        prefix in prop_oneof![
            Just(vec![]),
            Just(vec![0xd1]),
            Just(vec![0xc2, 0x20]),
            Just(vec![0xe2, 0x00, 0xa0]),
            Just(vec![0xf8]),
        ],
        rest in vec(prop_oneof![3 => Just(0x80u8), 1 => any::<u8>()], 0..40),
        key_len in 0usize..=64,
    ) {
        let bytes: Bytes = [prefix, rest].concat().into();
        let hash = keccak256(&bytes);
        let another = keccak256([bytes.as_ref(), &[1]].concat());
        let top = Nibbles::new();
        let mut nodes = MemoryNodes::new();
        nodes.put(&Tree::Accounts, &top, Some(&bytes));
        let key = Nibbles::from_nibbles(vec![0; key_len]);
        let loader = Loader { source: &nodes, tree: Tree::Accounts, key_len, generation: 0 };
        for value in [Value::Remove, Value::Account(fields(1), None), Value::Slot(U256::from(1))] {
            // A node may be sound by chance; then the result is not an error.
            let _ = descend(&loader, &Subtree::of_root(hash), &[Entry { key, value }], 1);
        }
        let outcome = update(&nodes, &Subtree::of_root(another), everything(&numbered(3)), on(1));
        let is_damage = matches!(outcome, Err(TrieError::Damaged { damage: Damage::Hash { .. }, .. }));
        prop_assert!(is_damage);
    }
}

/// Accounts 0 to `count`, every fifth with seven slots.
fn numbered(count: u64) -> State {
    let account = |number: u64| {
        let slots = if number.is_multiple_of(5) { 7 } else { 0 };
        let slot = |slot: u64| (keccak256(slot.to_be_bytes()), U256::from(slot + number + 1));
        (keccak256(number.to_be_bytes()), (fields(number), (0..slots).map(slot).collect()))
    };
    (0..count).map(account).collect()
}

#[test]
fn large_batches_give_the_same_on_any_number_of_threads() {
    let mut state = numbered(3000);
    let whale = keccak256(0u64.to_be_bytes());
    let slots = (0..4000u64).map(|slot| (keccak256(slot.to_be_bytes()), U256::from(slot + 1)));
    state.get_mut(&whale).unwrap().1.extend(slots);
    let mut nodes = MemoryNodes::new();
    let built = update(&nodes, &EMPTY, everything(&state), on(1)).unwrap();
    let from_one_thread = writes_of(&nodes, &EMPTY, &built);
    for threads in [0, 2, 3, 40] {
        let same = update(&nodes, &EMPTY, everything(&state), on(threads)).unwrap();
        assert_eq!(writes_of(&nodes, &EMPTY, &same), from_one_thread);
    }
    assert_eq!(built.trie.root(), reference_root(&state));
    nodes.apply(&from_one_thread);

    let odd = |slot: &(B256, U256)| slot.1.bit(0);
    let mut batch = everything(&state);
    for (position, change) in batch.iter_mut().enumerate() {
        change.slots.retain(odd);
        change.slots.iter_mut().for_each(|slot| slot.1 = U256::ZERO);
        match position % 7 {
            _ if change.hashed_address == whale => {}
            0 => change.account = None,
            1 => change.wiped = true,
            _ => {}
        }
    }
    apply(&mut state, &batch);
    for trie in [Subtree::of_root(built.trie.root()), built.trie] {
        let edited = update(&nodes, &trie, batch.clone(), on(1)).unwrap();
        let from_one_thread = writes_of(&nodes, &trie, &edited);
        for threads in [2, 3, 40] {
            let same = update(&nodes, &trie, batch.clone(), on(threads)).unwrap();
            assert_eq!(writes_of(&nodes, &trie, &same), from_one_thread);
        }
        assert_eq!(edited.trie.root(), reference_root(&state));
        let mut edited_nodes = nodes.clone();
        edited_nodes.apply(&from_one_thread);
        assert_eq!(edited_nodes, from_nothing(&state));
    }
}

#[test]
fn changes_that_change_nothing_write_nothing() {
    let state = numbered(40);
    let nodes = from_nothing(&state);
    let mut batch = everything(&state);
    let absent = AccountChange { hashed_address: B256::ZERO, account: None, wiped: true, slots: vec![] };
    batch.push(absent);
    let trie = trie_of(&state);
    let updated = update(&nodes, &trie, batch, on(1)).unwrap();
    assert_eq!(updated.trie.root(), trie.root());
    assert_eq!(writes_of(&nodes, &trie, &updated), NodeChanges::default());
}

#[test]
fn a_key_twice_in_a_batch_is_refused() {
    let mut batch = everything(&numbered(2));
    batch.push(batch[0].clone());
    let error = update(&MemoryNodes::new(), &EMPTY, batch, on(1)).unwrap_err();
    assert!(matches!(error, TrieError::Repeated { tree: Tree::Accounts, .. }), "{error}");

    let mut batch = everything(&numbered(1));
    let slot = batch[0].slots[0];
    batch[0].slots.push(slot);
    let error = update(&MemoryNodes::new(), &EMPTY, batch, on(1)).unwrap_err();
    assert!(matches!(error, TrieError::Repeated { tree: Tree::Storage(_), .. }), "{error}");
}

/// A batch that changes every account and slot of the state.
fn touch_all(state: &State) -> Vec<AccountChange> {
    let mut batch = everything(state);
    for change in &mut batch {
        change.account = change.account.map(|fields| AccountFields { nonce: fields.nonce + 1, ..fields });
        change.slots.iter_mut().for_each(|slot| slot.1 += U256::from(1));
    }
    batch
}

#[test]
fn every_damaged_or_missing_node_on_the_way_is_noticed() {
    let state = numbered(60);
    let (trie, nodes) = (trie_of(&state), from_nothing(&state));
    for (tree, path, node) in nodes.iter() {
        let mut flipped = node.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for bad in [None, Some(Bytes::from(flipped)), Some(Bytes::new())] {
            let mut damaged = nodes.clone();
            let missing = bad.is_none();
            damaged.put(&tree, path, bad.as_ref());
            match update(&damaged, &trie, touch_all(&state), on(2)) {
                Err(TrieError::Damaged { tree: at, path: place, damage }) => {
                    assert_eq!((at, place), (tree, *path));
                    assert_eq!(matches!(damage, Damage::Missing { .. }), missing);
                }
                other => panic!("damage at {tree} {path:?} gave {other:?}"),
            }
        }
    }
}

#[test]
fn damage_is_reported_with_its_place_and_a_remedy() {
    let error = TrieError::Damaged {
        tree: Tree::Accounts,
        path: Nibbles::from_nibbles([1, 0xa]),
        damage: Damage::Missing { expected: B256::ZERO },
    };
    assert_eq!(
        error.to_string(),
        format!(
            "the database is damaged at the account trie, node at path [1a]: no node is stored there, one \
             with hash {} should be; restore the database from a copy or import the chain again",
            B256::ZERO
        )
    );
}

/// A source that counts reads.
struct Counting<'a>(&'a MemoryNodes, std::sync::atomic::AtomicUsize);

impl NodeSource for Counting<'_> {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.node(tree, path)
    }
}

#[test]
fn an_update_reads_only_the_paths_that_it_touches() {
    let state = numbered(5000);
    let (trie, nodes) = (trie_of(&state), from_nothing(&state));
    let counting = Counting(&nodes, 0.into());
    let batch = touch_all(&state).split_off(4999);
    update(&counting, &trie, batch, on(1)).unwrap();
    let read = counting.1.into_inner();
    assert!(read <= 20, "{read} nodes read for one account");
}

#[test]
fn what_is_in_memory_is_not_read_again() {
    let state = numbered(500);
    let (trie, nodes) = (trie_of(&state), from_nothing(&state));
    let counting = Counting(&nodes, 0.into());
    let updated = update(&counting, &trie, touch_all(&state), on(1)).unwrap();
    let first = counting.1.swap(0, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(first, nodes.len());
    assert_eq!(usize::try_from(updated.grown).unwrap(), nodes.len());
    update(&counting, &updated.trie, touch_all(&state), on(1)).unwrap();
    assert_eq!(counting.1.swap(0, std::sync::atomic::Ordering::Relaxed), 0);
    let (forgotten, held) = updated.trie.without_older(1);
    assert_eq!((forgotten.root(), held), (updated.trie.root(), 0));
}
