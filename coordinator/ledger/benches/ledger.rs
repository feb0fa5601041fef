//! What a block costs the ledger, by the size of the state: its state root, and its durable commit.
//!
//! Each block changes 1,000 accounts and 600 slots of 200 others, drawn at random from the whole
//! state. The database lies in a temporary folder (`TMPDIR` chooses the disk).
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, U256};
use common::account::{Account, AccountDelta, AccountRecord, SlotValue};
use common::block::{Block, Ommers};
use common::chain_spec::ChainSpec;
use common::id::Height;
use common::receipt::Receipts;
use criterion::{Criterion, criterion_group, criterion_main};
use ledger::{Ledger, LedgerOptions, Origin, Tip};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CHANGED: usize = 1000;
const WITH_SLOTS: usize = 200;

fn address(number: u64) -> Address {
    Address::left_padding_from(&number.to_be_bytes())
}

fn account(balance: u64) -> Account {
    Account { balance: U256::from(balance), nonce: 1, ..Default::default() }
}

fn slot(slot: u64, value: u64) -> SlotValue {
    SlotValue { slot: U256::from(slot), value: U256::from(value) }
}

fn origin(accounts: u64) -> Origin {
    let record = |number: u64| AccountRecord {
        address: address(number),
        account: account(number + 1),
        storage: if number.is_multiple_of(10) {
            (1..5).map(|key| slot(key, number + key)).collect()
        } else {
            vec![]
        },
    };
    Origin {
        spec: ChainSpec::mainnet(),
        height: Height(0),
        block_hash: B256::ZERO,
        header: None,
        accounts: (0..accounts).map(record).collect(),
        code: vec![],
        ancestors: vec![],
        complete: true,
    }
}

fn changes(random: &mut ChaCha8Rng, accounts: u64) -> Vec<AccountDelta> {
    let mut numbers: Vec<u64> = (0..CHANGED).map(|_| random.random_range(0..accounts)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .into_iter()
        .enumerate()
        .map(|(place, number)| AccountDelta {
            address: address(number),
            account: Some(account(random.random())),
            wiped: false,
            storage: if place < WITH_SLOTS {
                (0..3).map(|_| slot(random.random_range(1..64), random.random_range(1..1 << 40))).collect()
            } else {
                vec![]
            },
        })
        .map(|mut change| {
            change.storage.sort_unstable();
            change.storage.dedup_by_key(|entry| entry.slot);
            change
        })
        .collect()
}

fn next(parent: &Tip, changes: Vec<AccountDelta>) -> Arc<Tip> {
    let draft = parent.draft(changes, vec![]).unwrap();
    let header = Header {
        parent_hash: parent.summary().state.block_hash,
        number: parent.summary().state.height.0 + 1,
        state_root: draft.state_root().unwrap(),
        ..Default::default()
    };
    parent.seal(
        draft,
        &Block::new(header, vec![], Ommers::Headers(vec![]), None).into(),
        &Receipts::default(),
    )
}

fn bench(criterion: &mut Criterion) {
    for accounts in [10_000, 100_000, 1_000_000] {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path(), origin(accounts), LedgerOptions::default()).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(accounts);
        let mut group = criterion.benchmark_group(format!("{accounts} accounts"));
        group.sample_size(20).measurement_time(Duration::from_secs(6));
        group.bench_function("state root of a block", |bencher| {
            let head = ledger.head();
            bencher.iter_batched(
                || changes(&mut random, accounts),
                |changes| black_box(head.draft(changes, vec![]).unwrap()),
                criterion::BatchSize::LargeInput,
            );
        });
        group.bench_function("durable commit of a block", |bencher| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let tip = next(&ledger.head(), changes(&mut random, accounts));
                    let began = Instant::now();
                    ledger.commit(&tip).unwrap();
                    spent += began.elapsed();
                }
                spent
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
