//! Rules that the baseline once lacked: receipts before Byzantium, EIP-155, the DAO fork, EIP-7610.

use alloy_evm::eth::dao_fork::{DAO_HARDFORK_ACCOUNTS, DAO_HARDFORK_BENEFICIARY};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex};
use common::account::{Account, SlotValue};

use crate::stage::{Scene, Stage, call, create, deploying, legacy, signed};

/// A block that creates, destroys, writes slots and moves value.
fn lively(network: &str) -> Scene {
    let mut stage = Stage::on(network);
    // Sets slot 0 from 5 to 0 and slot 1 to its caller.
    let writer = Address::repeat_byte(0x11);
    stage.contract(writer, &hex!("60006000553360015500"), &[(0, 5)]);
    // SELFDESTRUCT to its caller.
    let doomed = Address::repeat_byte(0x22);
    stage.contract(doomed, &hex!("33ff"), &[(7, 7)]);
    let mut transfer = legacy(TxKind::Call(Address::repeat_byte(0x33)), 30_000, &[]);
    transfer.value = U256::from(12);
    let transactions = vec![
        call(writer, 100_000, &[]),
        create(100_000, &deploying(&[0x33, 0xff])),
        call(doomed, 100_000, &[]),
        signed(transfer),
        call(Address::repeat_byte(0x44), 30_000, &[]),
        call(writer, 100_000, &[1]),
    ];
    for transaction in &transactions {
        stage.fund(transaction);
    }
    stage.block(transactions)
}

#[test]
fn receipts_before_byzantium_hold_the_roots_of_the_states_between() {
    for network in ["Frontier", "Homestead", "EIP150", "EIP158", "Byzantium"] {
        lively(network).accepted_by_all();
    }
}

#[test]
fn a_wrong_receipts_root_is_refused_on_every_fork() {
    for network in ["Frontier", "EIP158", "Byzantium"] {
        let scene = lively(network).with_header(|header| header.receipts_root = B256::repeat_byte(1));
        scene.refused_by_all("receiptsRoot");
    }
}

#[test]
fn a_signature_names_the_chain_only_from_spurious_dragon_on() {
    for (network, legal) in [("Homestead", false), ("EIP150", false), ("EIP158", true)] {
        let mut stage = Stage::on(network);
        let mut transaction = legacy(TxKind::Call(Address::repeat_byte(1)), 30_000, &[]);
        transaction.chain_id = Some(1);
        let transaction = signed(transaction);
        stage.fund(&transaction);
        let scene = stage.block(vec![transaction]);
        if legal { scene.accepted_by_all() } else { scene.refused_by_all("chain id") }
    }
}

#[test]
fn the_dao_fork_drains_before_the_transactions_and_keeps_the_accounts() {
    let mut stage = Stage::on("HomesteadToDaoAt5").at_block(5);
    let [rich, poor, absent, ..] = DAO_HARDFORK_ACCOUNTS;
    // More than 128 bits hold.
    let much = U256::from(1) << 200;
    stage.balance(rich, much);
    stage.balance(poor, U256::from(3));
    stage.balance(DAO_HARDFORK_BENEFICIARY, U256::from(4));
    // Stores the balance of a drained account, plus one.
    let witness = Address::repeat_byte(0x11);
    let code = [&[0x73][..], rich.as_slice(), &hex!("31600101600055")[..]].concat();
    stage.contract(witness, &code, &[]);
    let transaction = call(witness, 100_000, &[]);
    stage.fund(&transaction);
    let scene = stage
        .block_with(vec![transaction], |header| header.extra_data = Bytes::from_static(b"dao-hard-fork"));
    scene.accepted_by_all();
    assert_eq!(scene.slot_after(witness, 0), U256::from(1));
    for address in [rich, poor, absent] {
        assert_eq!(scene.account_after(address), Some(Account::default()), "{address}");
    }
    let refund = scene.account_after(DAO_HARDFORK_BENEFICIARY).unwrap();
    assert_eq!(refund.balance, much + U256::from(7));
    scene.with_header(|header| header.extra_data = Bytes::new()).refused_by_all("extraData");
}

#[test]
fn creation_onto_an_address_with_storage_fails() {
    for network in ["Homestead", "Byzantium", "Cancun"] {
        let mut stage = Stage::on(network);
        let transactions = [create(100_000, &deploying(&[0])), create(100_000, &deploying(&[1]))];
        let storage = vec![SlotValue { slot: U256::from(1), value: U256::from(1) }];
        let bare = Account { balance: U256::from(1), ..Account::default() };
        let taken = stage.fund(&transactions[0]).create(0);
        stage.account(taken, bare, storage);
        let free = stage.fund(&transactions[1]).create(0);
        let scene = stage.block(transactions.to_vec());
        scene.accepted_by_all();
        assert_eq!(scene.account_after(taken), None, "{network}");
        assert!(scene.account_after(free).is_some(), "{network}");
        let first = scene.executed().unwrap().receipts.decode().unwrap()[0].cumulative_gas_used();
        assert_eq!(first, 100_000, "{network}: a collision burns all gas");
    }
}

#[test]
fn what_the_baseline_cannot_execute_it_refuses_without_a_verdict() {
    let scene = lively("Constantinople");
    let error = scene.sequentially().unwrap_err();
    assert!(!error.is_invalid_block() && error.to_string().contains("EIP-1283"), "{error}");
}
