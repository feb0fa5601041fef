//! Prints the cost of updates over nodes in memory:
//! `cargo test --release -p ledger -- --ignored --nocapture trie_costs`
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use alloy_primitives::{B256, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, KECCAK_EMPTY, TrieAccount, root::state_root_unsorted};

use super::*;

fn account(number: u64, nonce: u64, slots: u64) -> AccountChange {
    let slot = |slot: u64| (keccak256((slot + nonce).to_be_bytes()), U256::from(nonce + 1));
    AccountChange {
        hashed_address: keccak256(number.to_be_bytes()),
        account: Some(AccountFields { nonce, balance: U256::from(number), code_hash: KECCAK_EMPTY }),
        wiped: false,
        slots: (0..slots).map(slot).collect(),
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "prints figures, takes a minute"]
fn trie_costs() {
    for accounts in [10_000u64, 100_000, 1_000_000] {
        let (mut nodes, nothing) = (MemoryNodes::new(), Subtree::of_root(EMPTY_ROOT_HASH));
        let all: Vec<_> = (0..accounts).map(|number| account(number, 0, 0)).collect();
        let leaf = |change: &AccountChange| {
            let fields = change.account.unwrap();
            (change.hashed_address, TrieAccount::new(0, fields.balance, EMPTY_ROOT_HASH, KECCAK_EMPTY))
        };
        let leaves: Vec<(B256, TrieAccount)> = all.iter().map(leaf).collect();
        let start = Instant::now();
        let reference = state_root_unsorted(leaves);
        println!("{accounts} accounts: alloy_trie's root from nothing {:.2?}", start.elapsed());
        for threads in [1, 2] {
            let batch = all.clone();
            let start = Instant::now();
            let options = UpdateOptions { threads, generation: 0 };
            let built = update(&nodes, &nothing, batch, options).unwrap();
            println!("  from nothing, {threads} threads: {:.2?}", start.elapsed());
            assert_eq!(built.trie.root(), reference);
            if threads == 2 {
                let touched = std::iter::once(&built.touched);
                nodes.apply(&writes(&nodes, (&nothing, &built.trie), touched).unwrap());
            }
        }
        println!("  {} nodes", nodes.len());
        blocks(&mut nodes, Subtree::of_root(reference), accounts);
    }
}

/// Blocks of 1,000 changed accounts, of which 200 have 3 changed slots each.
fn blocks(nodes: &mut MemoryNodes, mut trie: Subtree, accounts: u64) {
    let mut times = [vec![], vec![]];
    let mut written = 0;
    for block in 1..=30u64 {
        let pick = |index: u64| (block * 7_919_000 + index * 104_729) % accounts;
        let slots = |index: u64| if index < 200 { 3 } else { 0 };
        let batch: Vec<_> = (0..1000).map(|index| account(pick(index), block, slots(index))).collect();
        let mut last = None;
        for (threads, times) in [1, 2].into_iter().zip(&mut times) {
            let batch = batch.clone();
            let start = Instant::now();
            let options = UpdateOptions { threads, generation: 0 };
            let updated = update(&*nodes, &trie, batch, options).unwrap();
            times.push(start.elapsed().as_secs_f64() * 1e3);
            last = Some(updated);
        }
        let updated = last.unwrap();
        let touched = std::iter::once(&updated.touched);
        let changes = writes(&*nodes, (&trie, &updated.trie), touched).unwrap();
        written += changes.nodes.len();
        nodes.apply(&changes);
        trie = updated.trie;
    }
    let [one, two] = times.map(median);
    println!("  a block: {one:.2} ms, with 2 threads {two:.2} ms, {} writes", written / 30);
}
