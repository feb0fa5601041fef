//! The validator's results for blocks of at most one transaction.
#![allow(clippy::unwrap_used)]

use alloy_consensus::{Header, SignableTransaction, TxLegacy};
use alloy_evm::eth::dao_fork::{DAO_HARDFORK_ACCOUNTS, DAO_HARDFORK_BENEFICIARY};
use alloy_primitives::{Signature, U256};
use common::account::{Account, AccountRecord};
use common::block::Ommers;
use common::id::Height;
use common::receipt::EncodedLogs;
use engine::{MemoryState, Overlay};

use super::*;
use common::chain_spec::ChainSpec;
use ledger::{Ledger, Origin};

const MINER: Address = Address::repeat_byte(7);

const SENDER: Address = Address::repeat_byte(1);

/// A state of accounts that have only a balance.
fn state(balances: &[(Address, U256)]) -> MemoryState {
    let mut state = MemoryState::default();
    for (address, balance) in balances {
        let account = Account { balance: *balance, ..Account::default() };
        state.insert(AccountRecord { address: *address, account, storage: vec![] });
    }
    state
}

/// A transfer that pays one wei for each unit of gas.
fn transfer() -> common::block::Transaction {
    let unsigned = TxLegacy { gas_limit: 21_000, gas_price: 1, to: SENDER.into(), ..TxLegacy::default() };
    unsigned.into_signed(Signature::new(U256::from(1), U256::from(1), false)).into()
}

fn block(transactions: Vec<common::block::Transaction>, ommers: Ommers) -> Block {
    let header = Header {
        number: 1,
        timestamp: 10,
        gas_limit: 1_000_000,
        difficulty: U256::from(131_072),
        beneficiary: MINER,
        ..Header::default()
    };
    Block::new(header, transactions, ommers, None)
}

#[test]
fn a_block_does_not_end_before_its_last_transaction() {
    let spec = ChainSpec::of_network("Frontier").unwrap();
    let unsigned = TxLegacy { gas_limit: 21_000, ..TxLegacy::default() };
    let transaction = unsigned.into_signed(Signature::new(U256::from(1), U256::from(1), false)).into();
    let block = block(vec![transaction], Ommers::Headers(vec![]));
    let validator = Validator::begin(&block, &spec, MemoryState::default(), None).unwrap();
    let refused = validator.finish().unwrap_err().to_string();
    assert_eq!(refused, "transactions: 1 have not been executed");
}

#[test]
fn a_block_does_not_go_on_after_its_last_transaction() {
    let spec = ChainSpec::of_network("Frontier").unwrap();
    let block = block(vec![], Ommers::Headers(vec![]));
    let mut validator = Validator::begin(&block, &spec, MemoryState::default(), None).unwrap();
    assert!(validator.advance(MINER, None).is_err());
}

#[test]
fn a_miner_is_paid_for_ommers_of_which_only_the_hashes_are_known() {
    // Frontier: 5 ether, and a 32nd of that for each ommer (Yellow Paper, section 11.3).
    let spec = ChainSpec::of_network("Frontier").unwrap();
    let ether = U256::from(1_000_000_000_000_000_000u64);
    for count in [0usize, 1, 2] {
        let block = block(vec![], Ommers::Hashes(vec![B256::repeat_byte(1); count]));
        let finished = execute_trusted(&block, &spec, &[], MemoryState::default(), None).unwrap();
        let [paid] = finished.changes.as_slice() else { unreachable!("one account is paid") };
        let reward = ether * U256::from(5);
        let balance = reward + reward / U256::from(32) * U256::from(count);
        assert_eq!((paid.address, paid.account.unwrap().balance), (MINER, balance));
    }
}

#[test]
fn receipts_before_byzantium_are_whole_only_with_state_roots() {
    let origin = |spec| Origin {
        spec,
        height: Height(0),
        block_hash: B256::ZERO,
        header: None,
        accounts: vec![],
        code: vec![],
        ancestors: vec![],
        complete: true,
    };
    let block = block(vec![], Ommers::Headers(vec![]));
    for (network, without) in [("Frontier", false), ("Byzantium", true)] {
        let ledger = Ledger::begin(origin(ChainSpec::of_network(network).unwrap())).unwrap();
        let roots = crate::execute::state_roots(&ledger.head());
        assert!(roots.is_some());
        let rooted = |roots| {
            let finished = execute_trusted(&block, ledger.spec(), &[], MemoryState::default(), roots);
            finished.unwrap().rooted
        };
        assert!(rooted(roots), "{network}");
        assert_eq!(rooted(None), without, "{network}");
    }
}

/// Checks that a block is refused because an account would hold too much.
fn overflows(block: &Block, network: &str, state: MemoryState) {
    let spec = ChainSpec::of_network(network).unwrap();
    let senders = vec![SENDER; block.transactions.len()];
    let refused = execute_trusted(block, &spec, &senders, state, None).unwrap_err().to_string();
    assert!(refused.contains("would hold 2^256 wei or more"), "{refused}");
}

#[test]
fn no_account_is_paid_more_than_an_account_can_hold() {
    let (rich, ether) = ((MINER, U256::MAX), U256::from(1u64 << 60));
    // A fee, where no reward follows, and a reward.
    let mut merged = block(vec![transfer()], Ommers::Headers(vec![]));
    (merged.header.difficulty, merged.header.base_fee_per_gas) = (U256::ZERO, Some(0));
    overflows(&merged, "Paris", state(&[rich, (SENDER, ether)]));
    overflows(&block(vec![], Ommers::Headers(vec![])), "Frontier", state(&[rich]));
    // What the DAO fork moves.
    let mut fork = block(vec![], Ommers::Headers(vec![]));
    fork.header.number = 5;
    let drained = (*DAO_HARDFORK_ACCOUNTS.first().unwrap(), U256::from(1));
    let refund = (DAO_HARDFORK_BENEFICIARY, U256::MAX);
    overflows(&fork, "HomesteadToDaoAt5", state(&[refund, drained]));
}

#[test]
fn wrong_logs_are_noticed_where_no_root_covers_them() {
    let spec = ChainSpec::of_network("Frontier").unwrap();
    let block = block(vec![transfer()], Ommers::Headers(vec![]));
    let accounts = state(&[(SENDER, U256::from(1u64 << 60))]);
    let honest = {
        let env = engine::evm_env(&spec, &block.header);
        let mut executor = engine::Executor::new(env, accounts.clone(), Overlay::default());
        executor.execute(block.transactions.first().unwrap(), SENDER).unwrap()
    };
    let validated = |outcome: TxOutcome| {
        let mut validator = Validator::begin(&block, &spec, accounts.clone(), None).unwrap();
        validator.advance(SENDER, Some(outcome)).unwrap();
        let finished = validator.finish().unwrap();
        (finished.reexecuted, finished.receipts.decode().unwrap())
    };
    let (reexecuted, receipts) = validated(honest.clone());
    assert_eq!(reexecuted, 0);
    let log = alloy_primitives::Log::new_unchecked(MINER, vec![], alloy_primitives::Bytes::new());
    let invented = EncodedLogs::new(&[log]);
    let bad = [
        // A filter without its log, a log without its filter, and bytes that are no list.
        EncodedLogs { bloom: invented.bloom.clone(), ..EncodedLogs::new(&[]) },
        EncodedLogs { list: invented.list, ..EncodedLogs::new(&[]) },
        EncodedLogs { list: vec![0xff].into(), ..EncodedLogs::new(&[]) },
    ];
    for logs in bad {
        let mut outcome = honest.clone();
        let TxOutcome::Executed(executed) = &mut outcome else { unreachable!("the transfer is valid") };
        executed.logs = logs;
        assert_eq!(validated(outcome), (1, receipts.clone()));
    }
}
