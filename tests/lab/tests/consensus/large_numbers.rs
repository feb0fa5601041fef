//! Balances and fees that 128 bits do not hold.

use alloy_consensus::TxEip4844;
use alloy_primitives::{Address, B256, TxKind, U256, keccak256};
use common::account::Account;
use common::block::Transaction;

use crate::stage::{PRICE, STOP, Stage, call, legacy, signed};

/// A price that makes any gas cost more than 128 bits hold.
const DEAR: u128 = 1 << 126;

fn two_to(exponent: usize) -> U256 {
    U256::from(1) << exponent
}

/// A transfer of 2¹⁵⁰ wei at a price of 2¹²⁶, by a sender with this balance.
fn dear_transfer(network: &str, to: Address, balance: U256) -> (Stage, Transaction, Address) {
    let mut transfer = legacy(TxKind::Call(to), 50_000, &[]);
    (transfer.gas_price, transfer.value) = (DEAR, two_to(150));
    let transaction = signed(transfer);
    let mut stage = Stage::on(network);
    let sender = stage.fund(&transaction);
    stage.balance(sender, balance);
    (stage, transaction, sender)
}

#[test]
fn fees_beyond_128_bits_are_exact_on_shards_and_refused_without_a_verdict_by_the_baseline() {
    let to = Address::repeat_byte(0x33);
    for network in ["Frontier", "Istanbul", "London", "Prague"] {
        let (stage, transaction, sender) = dear_transfer(network, to, two_to(250));
        let scene = stage.block(vec![transaction]);
        scene.accepted_by_plans();
        let base_fee = U256::from(scene.block.header.base_fee_per_gas.unwrap_or_default());
        let spent = U256::from(21_000) * U256::from(DEAR);
        assert_eq!(scene.account_after(sender).unwrap().balance, two_to(250) - spent - two_to(150));
        assert_eq!(scene.account_after(to).unwrap().balance, two_to(150));
        let earned = scene.account_after(stage.beneficiary).unwrap().balance;
        let reward = U256::from(10).pow(U256::from(19));
        let fee = U256::from(21_000) * (U256::from(DEAR) - base_fee);
        assert!(earned == fee || earned - fee < reward, "{network}: {earned}");
        let error = scene.sequentially().unwrap_err();
        assert!(!error.is_invalid_block() && error.to_string().contains("2^128"), "{error}");
    }
}

#[test]
fn the_fee_is_whole_when_the_transaction_itself_pays_the_beneficiary() {
    let beneficiary = Stage::on("Prague").beneficiary;
    let (stage, transaction, _) = dear_transfer("Prague", beneficiary, two_to(250));
    let scene = stage.block(vec![transaction]);
    scene.accepted_by_plans();
    let base_fee = U256::from(scene.block.header.base_fee_per_gas.unwrap());
    let fee = U256::from(21_000) * (U256::from(DEAR) - base_fee);
    assert_eq!(scene.account_after(beneficiary).unwrap().balance, fee + two_to(150));
}

#[test]
fn a_sender_must_hold_the_most_that_it_may_spend_also_beyond_128_bits() {
    let to = Address::repeat_byte(0x33);
    let most = U256::from(50_000) * U256::from(DEAR) + two_to(150);
    let (stage, transaction, _) = dear_transfer("Prague", to, most);
    stage.block(vec![transaction]).accepted_by_plans();
    let (stage, transaction, _) = dear_transfer("Prague", to, most - U256::from(1));
    stage.block(vec![transaction]).refused_by_plans("lack of funds");
}

#[test]
fn the_most_that_a_sender_may_spend_must_itself_be_less_than_2_to_the_256() {
    let mut transfer = legacy(TxKind::Call(Address::repeat_byte(0x33)), 50_000, &[]);
    (transfer.gas_price, transfer.value) = (DEAR, U256::MAX);
    let transaction = signed(transfer);
    let mut stage = Stage::on("Prague");
    let sender = stage.fund(&transaction);
    stage.balance(sender, U256::MAX);
    stage.block(vec![transaction]).refused_by_plans("lack of funds");
}

#[test]
fn nonce_and_code_of_the_sender_are_checked_also_beyond_128_bits() {
    let to = Address::repeat_byte(0x33);
    let rich = Account { balance: two_to(250), ..Account::default() };
    let (mut stage, transaction, sender) = dear_transfer("Prague", to, two_to(250));
    stage.account(sender, Account { nonce: 1, ..rich }, vec![]);
    stage.block(vec![transaction]).refused_by_plans("nonce");

    // EIP-3607: an account with code sends nothing.
    let (mut stage, transaction, sender) = dear_transfer("Prague", to, two_to(250));
    stage.contract(sender, STOP, &[]);
    stage.account(sender, Account { code_hash: keccak256(STOP), ..rich }, vec![]);
    stage.block(vec![transaction]).refused_by_plans("code");
}

/// A transaction with one blob, each unit of whose gas may cost 2¹²⁶ wei, by a sender with this balance.
fn dear_blob(balance: U256) -> (Stage, Transaction, Address) {
    let transaction = signed(TxEip4844 {
        chain_id: 1,
        gas_limit: 50_000,
        max_fee_per_gas: PRICE,
        max_fee_per_blob_gas: DEAR,
        to: Address::repeat_byte(0x33),
        value: U256::from(7),
        blob_versioned_hashes: vec![B256::repeat_byte(1)],
        ..TxEip4844::default()
    });
    let mut stage = Stage::on("Prague");
    let sender = stage.fund(&transaction);
    stage.balance(sender, balance);
    (stage, transaction, sender)
}

#[test]
fn blobs_count_at_their_highest_price_and_cost_their_actual_one_also_beyond_128_bits() {
    const BLOB_GAS: u64 = 131_072;
    let blobs = U256::from(BLOB_GAS) * U256::from(DEAR);
    let most = U256::from(50_000) * U256::from(PRICE) + blobs + U256::from(7);
    let (stage, transaction, sender) = dear_blob(most);
    let scene = stage.block(vec![transaction]);
    scene.accepted_by_plans();
    let base_fee = U256::from(scene.block.header.base_fee_per_gas.unwrap());
    // A unit of blob gas costs 1 wei: no excess.
    let spent = U256::from(21_000) * base_fee + U256::from(BLOB_GAS) + U256::from(7);
    assert_eq!(scene.account_after(sender).unwrap().balance, most - spent);

    let (stage, transaction, _) = dear_blob(most - U256::from(1));
    stage.block(vec![transaction]).refused_by_plans("lack of funds");
}

#[test]
fn balances_near_2_to_the_256_are_exact() {
    let to = Address::repeat_byte(0x33);
    let mut transfer = legacy(TxKind::Call(to), 50_000, &[]);
    transfer.value = two_to(255);
    let transaction = signed(transfer);
    let mut stage = Stage::on("Prague");
    let sender = stage.fund(&transaction);
    stage.balance(sender, U256::MAX);
    let scene = stage.block(vec![transaction]);
    scene.accepted_by_all();
    assert_eq!(scene.account_after(to).unwrap().balance, two_to(255));
}

#[test]
fn a_block_that_pays_its_beneficiary_beyond_2_to_the_256_is_refused() {
    let mut stage = Stage::on("Byzantium");
    let transaction = call(Address::repeat_byte(1), 30_000, &[]);
    stage.fund(&transaction);
    stage.account(stage.beneficiary, Account { balance: U256::MAX, ..Account::default() }, vec![]);
    stage.block(vec![transaction]).refused_by_plans("2^256 wei or more");
    // The reward alone, too, by all.
    stage.block(vec![]).refused_by_all("2^256 wei or more");
}
