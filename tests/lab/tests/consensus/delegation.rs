//! Code of the form of a delegation (EIP-7702): a delegation from Prague on, ordinary code before.

use alloy_primitives::{Address, U256, keccak256};
use common::account::Account;

use crate::stage::{Stage, call, create, deploying};

/// What is delegated to: it sets slot 0 to 1.
const TARGET: Address = Address::repeat_byte(0x77);
const SET: &[u8] = &[0x60, 1, 0x60, 0, 0x55];

/// Whose code has the form of a delegation.
const DELEGATOR: Address = Address::repeat_byte(0xdd);

const GAS: u64 = 100_000;

fn delegation() -> Vec<u8> {
    [&[0xef, 0x01, 0x00], TARGET.as_slice()].concat()
}

/// A state with both contracts.
fn stage(network: &str) -> Stage {
    let mut stage = Stage::on(network);
    stage.contract(TARGET, SET, &[]);
    stage.contract(DELEGATOR, &delegation(), &[]);
    stage
}

/// Calls the delegator in a block, which all must judge alike. Whether the target's code ran for it.
fn delegates(mut stage: Stage) -> bool {
    let transaction = call(DELEGATOR, GAS, &[]);
    stage.fund(&transaction);
    let scene = stage.block(vec![transaction]);
    scene.accepted_by_all();
    let ran = scene.slot_after(DELEGATOR, 0) == U256::from(1);
    // An invalid opcode burns all gas.
    assert_eq!(scene.block.header.gas_used == GAS, !ran);
    ran
}

#[test]
fn code_of_a_genesis_delegates_only_from_prague_on() {
    for network in ["Frontier", "Homestead", "Byzantium", "Istanbul", "Berlin", "London", "Paris", "Cancun"] {
        assert!(!delegates(stage(network)), "{network}");
    }
    for network in ["Prague", "Osaka"] {
        assert!(delegates(stage(network)), "{network}");
    }
}

#[test]
fn code_that_was_there_before_prague_delegates_once_prague_begins() {
    assert!(!delegates(stage("CancunToPragueAtTime15k").at_time(14_999)));
    assert!(delegates(stage("CancunToPragueAtTime15k").at_time(15_000)));
}

#[test]
fn code_that_a_berlin_block_deploys_and_calls_is_ordinary_code() {
    let mut stage = Stage::on("Berlin");
    stage.contract(TARGET, SET, &[]);
    let deployment = create(GAS, &deploying(&delegation()));
    let deployed = stage.fund(&deployment).create(0);
    let calls = [call(deployed, GAS, &[]), call(deployed, GAS, &[1])];
    for call in &calls {
        stage.fund(call);
    }
    let scene = stage.block([vec![deployment], calls.to_vec()].concat());
    scene.accepted_by_all();
    let account = scene.account_after(deployed).unwrap();
    assert_eq!(account.code_hash, keccak256(delegation()));
    assert_eq!(scene.slot_after(deployed, 0), U256::ZERO);
    // 53,000 for the creation, 16 for each non-zero byte of init code and 4 for each zero byte, 200 for
    // each byte of code, and 24 for running the init code.
    let init = deploying(&delegation());
    let data: u64 = init.iter().map(|byte| if *byte == 0 { 4 } else { 16 }).sum();
    let receipts = scene.executed().unwrap().receipts.decode().unwrap();
    let gas = receipts.iter().map(|receipt| receipt.cumulative_gas_used()).collect::<Vec<_>>();
    let creation = 53_000 + data + 200 * 23 + 24;
    assert_eq!(gas, [creation, creation + GAS, creation + 2 * GAS]);
}

#[test]
fn a_contract_that_calls_such_code_sees_it_fail_before_prague() {
    // CALL with 50,000 gas; slot 0 becomes 1 if it fails, 2 if it succeeds.
    let mut caller = vec![0x60, 0, 0x60, 0, 0x60, 0, 0x60, 0, 0x60, 0, 0x73];
    caller.extend_from_slice(DELEGATOR.as_slice());
    caller.extend_from_slice(&[0x61, 0xc3, 0x50, 0xf1, 0x60, 1, 0x01, 0x60, 0, 0x55]);
    for (network, outcome) in [("Berlin", 1), ("Cancun", 1), ("Prague", 2)] {
        let mut stage = stage(network);
        let address = Address::repeat_byte(0xca);
        stage.contract(address, &caller, &[]);
        let transaction = call(address, 200_000, &[]);
        stage.fund(&transaction);
        let scene = stage.block(vec![transaction]);
        scene.accepted_by_all();
        assert_eq!(scene.slot_after(address, 0), U256::from(outcome), "{network}");
    }
}

#[test]
fn a_sender_with_such_code_may_send_only_from_prague_on() {
    for (network, may) in [("Berlin", false), ("Cancun", false), ("Prague", true)] {
        let mut stage = stage(network);
        let transaction = call(Address::repeat_byte(1), GAS, &[]);
        let sender = stage.fund(&transaction);
        let (balance, code_hash) = (U256::from(10).pow(U256::from(20)), keccak256(delegation()));
        stage.account(sender, Account { balance, code_hash, nonce: 0 }, vec![]);
        let scene = stage.block(vec![transaction]);
        if may { scene.accepted_by_all() } else { scene.refused_by_all("senders with deployed code") }
    }
}
