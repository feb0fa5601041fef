//! Balances and fees that 128 bits do not hold.

use alloy_primitives::{Address, TxKind, U256};
use common::account::Account;

use crate::stage::{Stage, call, legacy, signed};

/// A price that makes any gas cost more than 128 bits hold.
const DEAR: u128 = 1 << 126;

fn two_to(exponent: usize) -> U256 {
    U256::from(1) << exponent
}

/// A transfer of 2¹⁵⁰ wei at a price of 2¹²⁶, by a sender with this balance.
fn dear_transfer(network: &str, to: Address, balance: U256) -> (Stage, common::block::Transaction, Address) {
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
