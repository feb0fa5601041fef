//! The validator's results for blocks without transactions.
#![allow(clippy::unwrap_used)]

use alloy_consensus::{Header, SignableTransaction, TxLegacy};
use alloy_primitives::{Signature, U256};
use common::block::Ommers;
use common::id::Height;
use engine::MemoryState;

use super::*;
use common::chain_spec::ChainSpec;
use ledger::{Ledger, Origin};

const MINER: Address = Address::repeat_byte(7);

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
