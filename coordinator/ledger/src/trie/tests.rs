//! The laws of the trie, on random histories: the root equals the one that `alloy_trie` computes from
//! scratch, the stored nodes equal those of a trie built from scratch, the inverse batch undoes a
//! batch, and the trie notices damage.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{B256, Bytes, U256, b256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::root::{state_root_unsorted, storage_root_unsorted};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, KECCAK_EMPTY, Nibbles, TrieAccount};
use proptest::collection::vec;
use proptest::prelude::*;

use super::descend::descend;
use super::node::{Entry, Loader, Value, step};
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

fn from_nothing(state: &State) -> MemoryNodes {
    let mut nodes = MemoryNodes::new();
    let updated = update(&nodes, EMPTY_ROOT_HASH, everything(state), 1).unwrap();
    assert_eq!(updated.root, reference_root(state));
    nodes.apply(&updated.changes);
    nodes
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

    // Law: after every batch the root equals the reference's, the nodes equal those of a trie built from
    // scratch, and the inverse batch restores the former root and nodes. Unwritten layers read like
    // written ones.
    #[test]
    fn histories_lead_to_the_tries_built_from_nothing(batches in vec(batch(), 1..7), threads in 1usize..4) {
        let (mut state, mut nodes, mut root) = (State::new(), MemoryNodes::new(), EMPTY_ROOT_HASH);
        let mut layers = Vec::new();
        for batch in batches {
            let layered = NodeLayers::new(layers.clone(), MemoryNodes::new());
            let updated = update(&nodes, root, batch.clone(), threads).unwrap();
            prop_assert_eq!(&update(&layered, root, batch.clone(), 1).unwrap(), &updated);

            let (old_state, old_nodes, old_root) = (state.clone(), nodes.clone(), root);
            apply(&mut state, &batch);
            nodes.apply(&updated.changes);
            root = updated.root;
            layers.insert(0, Arc::new(updated.changes));
            prop_assert_eq!(root, reference_root(&state));
            prop_assert_eq!(&nodes, &from_nothing(&state));

            let undone = update(&nodes, root, inverse(&old_state, &batch), threads).unwrap();
            let mut back = nodes.clone();
            back.apply(&undone.changes);
            prop_assert_eq!(undone.root, old_root);
            prop_assert_eq!(back, old_nodes);
        }
    }
}

/// Applies entries to one trie of short keys, as `update` does for whole ones.
fn edit_short(nodes: &mut MemoryNodes, root: B256, key_len: usize, batch: &BTreeMap<Nibbles, U256>) -> B256 {
    let entry = |(key, value): (&Nibbles, &U256)| Entry {
        key: *key,
        value: if value.is_zero() { Value::Remove } else { Value::Slot(*value) },
    };
    let entries: Vec<_> = batch.iter().map(entry).collect();
    let loader = Loader { source: &*nodes, tree: Tree::Accounts, key_len };
    let (root, writes) = descend(loader, root, &entries, 1).unwrap();
    let distinct: BTreeMap<_, _> =
        writes.iter().map(|(path, node)| ((Tree::Accounts, *path), node.clone())).collect();
    assert_eq!(distinct.len(), writes.len(), "a place is written twice");
    for ((tree, path), node) in &distinct {
        assert_ne!(&nodes.node(tree, path).unwrap(), node, "a write changes nothing");
    }
    nodes.apply(&NodeChanges { wiped: vec![], nodes: distinct });
    root
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

fn short_history() -> impl Strategy<Value = (usize, Vec<ShortBatch>)> {
    (1usize..6).prop_flat_map(|key_len| {
        let nibble = prop_oneof![6 => 0u8..2, 2 => 0u8..4, 1 => 0u8..16];
        let key = vec(nibble, key_len).prop_map(Nibbles::from_nibbles);
        let batch = proptest::collection::btree_map(key, value(), 1..12);
        (Just(key_len), vec(batch, 1..10))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    // Law: the same holds for short keys with few different nibbles, so with extensions, with nodes inside
    // their parents and with roots under 32 bytes. The store contains exactly the reachable nodes, each
    // under its path.
    #[test]
    fn tries_with_small_nodes_are_those_built_from_nothing((key_len, batches) in short_history()) {
        let (mut leaves, mut nodes, mut root) = (ShortBatch::new(), MemoryNodes::new(), EMPTY_ROOT_HASH);
        for batch in batches {
            root = edit_short(&mut nodes, root, key_len, &batch);
            leaves.extend(batch);
            leaves.retain(|_, value| !value.is_zero());
            let mut reference = HashBuilder::default();
            for (key, value) in &leaves {
                reference.add_leaf(*key, &alloy_rlp::encode(value));
            }
            prop_assert_eq!(root, reference.root());
            let mut fresh = MemoryNodes::new();
            if !leaves.is_empty() {
                edit_short(&mut fresh, EMPTY_ROOT_HASH, key_len, &leaves);
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
        let change = ((Tree::Accounts, top), Some(bytes));
        nodes.apply(&NodeChanges { wiped: vec![], nodes: [change].into() });
        let key = Nibbles::from_nibbles(vec![0; key_len]);
        let loader = Loader { source: &nodes, tree: Tree::Accounts, key_len };
        for value in [Value::Remove, Value::Account(fields(1), None), Value::Slot(U256::from(1))] {
            let loader = Loader { source: loader.source, ..loader };
            // A node may be sound by chance; then the result is not an error.
            let _ = descend(loader, hash, &[Entry { key, value }], 1);
        }
        let outcome = update(&nodes, another, everything(&numbered(3)), 1);
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
    let built = update(&nodes, EMPTY_ROOT_HASH, everything(&state), 1).unwrap();
    for threads in [0, 2, 3, 40] {
        assert_eq!(update(&nodes, EMPTY_ROOT_HASH, everything(&state), threads).unwrap(), built);
    }
    assert_eq!(built.root, reference_root(&state));
    nodes.apply(&built.changes);

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
    let edited = update(&nodes, built.root, batch.clone(), 1).unwrap();
    for threads in [2, 3, 40] {
        assert_eq!(update(&nodes, built.root, batch.clone(), threads).unwrap(), edited);
    }
    apply(&mut state, &batch);
    nodes.apply(&edited.changes);
    assert_eq!(edited.root, reference_root(&state));
    assert_eq!(nodes, from_nothing(&state));
}

#[test]
fn changes_that_change_nothing_write_nothing() {
    let state = numbered(40);
    let nodes = from_nothing(&state);
    let mut batch = everything(&state);
    let absent = AccountChange { hashed_address: B256::ZERO, account: None, wiped: true, slots: vec![] };
    batch.push(absent);
    let updated = update(&nodes, reference_root(&state), batch, 1).unwrap();
    assert_eq!(updated, Updated { root: reference_root(&state), changes: NodeChanges::default() });
}

#[test]
fn a_key_twice_in_a_batch_is_refused() {
    let mut batch = everything(&numbered(2));
    batch.push(batch[0].clone());
    let error = update(&MemoryNodes::new(), EMPTY_ROOT_HASH, batch, 1).unwrap_err();
    assert!(matches!(error, TrieError::Repeated { tree: Tree::Accounts, .. }), "{error}");

    let mut batch = everything(&numbered(1));
    let slot = batch[0].slots[0];
    batch[0].slots.push(slot);
    let error = update(&MemoryNodes::new(), EMPTY_ROOT_HASH, batch, 1).unwrap_err();
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
    let (root, nodes) = (reference_root(&state), from_nothing(&state));
    for (tree, path, node) in nodes.iter() {
        let mut flipped = node.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for bad in [None, Some(Bytes::from(flipped)), Some(Bytes::new())] {
            let mut damaged = nodes.clone();
            let missing = bad.is_none();
            let changes = NodeChanges { wiped: vec![], nodes: [((tree, *path), bad)].into() };
            damaged.apply(&changes);
            match update(&damaged, root, touch_all(&state), 2) {
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
    let (root, nodes) = (reference_root(&state), from_nothing(&state));
    let counting = Counting(&nodes, 0.into());
    let batch = touch_all(&state).split_off(4999);
    update(&counting, root, batch, 1).unwrap();
    let read = counting.1.into_inner();
    assert!(read <= 20, "{read} nodes read for one account");
}
