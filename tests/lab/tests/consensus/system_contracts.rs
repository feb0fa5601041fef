//! System calls (EIP-2935, EIP-4788), and requests: deposits (EIP-6110), withdrawals (EIP-7002) and
//! consolidations (EIP-7251).

use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::BEACON_ROOTS_ADDRESS;
use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_eips::eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS;
use alloy_eips::eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS;
use alloy_primitives::{Address, U256, hex};

use crate::stage::{STOP, Stage, call};

const REQUEST_CONTRACTS: [Address; 2] =
    [WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS];

/// REVERT with nothing, INVALID.
const REVERTS: &[u8] = &hex!("60006000fd");
const INVALID: &[u8] = &hex!("fe");

/// Stores the gas that it has.
const STORES_GAS: &[u8] = &hex!("5a60005500");

const DEPOSIT_TOPIC: [u8; 32] = hex!("649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5");

/// Emits its input with these topics, the first one last.
fn emitter(topics: &[[u8; 32]]) -> Vec<u8> {
    let mut code = hex!("366000600037").to_vec();
    for topic in topics {
        code.push(0x7f);
        code.extend_from_slice(topic);
    }
    code.extend_from_slice(&[0x36, 0x60, 0, 0xa0 + u8::try_from(topics.len()).unwrap()]);
    code
}

/// The data of a well-formed deposit event: offsets, then each field with its length.
fn deposit_event() -> Vec<u8> {
    let fields = [(160usize, 48usize), (256, 32), (320, 8), (384, 96), (512, 8)];
    let word = |value: usize| U256::from(value).to_be_bytes::<32>();
    let mut data: Vec<u8> = fields.iter().flat_map(|(offset, _)| word(*offset)).collect();
    for (byte, (offset, length)) in (1u8..).zip(fields) {
        assert_eq!(data.len(), offset);
        data.extend_from_slice(&word(length));
        data.extend(vec![byte; length]);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    assert_eq!(data.len(), 576);
    data
}

/// A Prague block in which a contract at `address` emits these data with these topics.
fn emitting(address: Address, topics: &[[u8; 32]], data: &[u8]) -> crate::stage::Scene {
    let mut stage = Stage::on("Prague");
    stage.contract(address, &emitter(topics), &[]);
    let transaction = call(address, 200_000, data);
    stage.fund(&transaction);
    stage.block(vec![transaction])
}

#[test]
fn a_well_formed_deposit_event_is_a_request() {
    for topics in [vec![DEPOSIT_TOPIC], vec![[7; 32], DEPOSIT_TOPIC]] {
        let scene = emitting(MAINNET_DEPOSIT_CONTRACT_ADDRESS, &topics, &deposit_event());
        scene.accepted_by_all();
        let requests = scene.executed().unwrap().requests.unwrap();
        let expected = [vec![0], vec![1; 48], vec![2; 32], vec![3; 8], vec![4; 96], vec![5; 8]].concat();
        assert_eq!(requests.iter().map(|request| request.to_vec()).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn a_block_with_a_malformed_deposit_event_is_invalid() {
    let change = |position: usize, to: u8| {
        let mut data = deposit_event();
        data[position] = to;
        data
    };
    let short = deposit_event()[..575].to_vec();
    let long = [deposit_event(), vec![0; 32]].concat();
    // The offset of pubkey, of index; the length of pubkey, of amount, beyond 64 bits.
    let changed = [change(31, 128), change(159, 32), change(191, 49), change(351, 7), change(160, 1)];
    for data in [vec![], short, long].into_iter().chain(changed) {
        let scene = emitting(MAINNET_DEPOSIT_CONTRACT_ADDRESS, &[DEPOSIT_TOPIC], &data);
        scene.refused_by_all("no well-formed deposit event");
    }
}

#[test]
fn other_logs_are_no_deposits_whatever_they_hold() {
    for (address, topics) in [
        (MAINNET_DEPOSIT_CONTRACT_ADDRESS, vec![[7; 32]]),
        (MAINNET_DEPOSIT_CONTRACT_ADDRESS, vec![DEPOSIT_TOPIC, [7; 32]]),
        (MAINNET_DEPOSIT_CONTRACT_ADDRESS, vec![]),
        (Address::repeat_byte(9), vec![DEPOSIT_TOPIC]),
    ] {
        let scene = emitting(address, &topics, &[1, 2, 3]);
        scene.accepted_by_all();
        assert!(scene.executed().unwrap().requests.unwrap().is_empty());
    }
}

#[test]
fn without_code_at_a_request_contract_no_block_is_valid() {
    for missing in REQUEST_CONTRACTS {
        let mut stage = Stage::bare("Prague");
        for address in REQUEST_CONTRACTS.into_iter().filter(|address| *address != missing) {
            stage.contract(address, STOP, &[]);
        }
        // A balance alone is no code.
        stage.balance(missing, U256::from(1));
        stage.block(vec![]).refused_by_all(&format!("system contract {missing} has no code"));
    }
    Stage::bare("Cancun").block(vec![]).accepted_by_all();
}

#[test]
fn a_failing_request_contract_makes_the_block_invalid() {
    for address in REQUEST_CONTRACTS {
        for (code, reason) in [(REVERTS, "reverts"), (INVALID, "halts")] {
            let mut stage = Stage::on("Prague");
            stage.contract(address, code, &[]);
            let scene = stage.block(vec![]);
            scene.refused_by_all(&format!("the system call to {address} fails: it {reason}"));
        }
    }
}

#[test]
fn the_output_of_a_request_contract_is_a_request_unless_it_is_empty() {
    // PUSH3 aabbcc, PUSH1 0, MSTORE, PUSH1 3, PUSH1 29, RETURN
    let returns = hex!("62aabbcc6000526003601df3");
    for (address, request_type) in REQUEST_CONTRACTS.into_iter().zip([1, 2]) {
        let mut stage = Stage::on("Prague");
        stage.contract(address, &returns, &[]);
        let scene = stage.block(vec![]);
        scene.accepted_by_all();
        let requests = scene.executed().unwrap().requests.unwrap();
        let requests: Vec<_> = requests.iter().map(|request| request.to_vec()).collect();
        assert_eq!(requests, [vec![request_type, 0xaa, 0xbb, 0xcc]]);
    }
}

#[test]
fn a_system_call_has_30_million_gas() {
    for (network, contracts) in [
        ("Cancun", vec![BEACON_ROOTS_ADDRESS]),
        (
            "Prague",
            [REQUEST_CONTRACTS.to_vec(), vec![BEACON_ROOTS_ADDRESS, HISTORY_STORAGE_ADDRESS]].concat(),
        ),
        ("Osaka", [REQUEST_CONTRACTS.to_vec(), vec![BEACON_ROOTS_ADDRESS, HISTORY_STORAGE_ADDRESS]].concat()),
    ] {
        let mut stage = Stage::on(network);
        contracts.iter().for_each(|address| stage.contract(*address, STORES_GAS, &[]));
        let scene = stage.block(vec![]);
        scene.accepted_by_all();
        for address in contracts {
            // GAS itself costs 2.
            assert_eq!(scene.slot_after(address, 0), U256::from(29_999_998), "{network} {address}");
        }
    }
}

#[test]
fn calls_before_the_transactions_may_fail_or_find_no_code() {
    for address in [BEACON_ROOTS_ADDRESS, HISTORY_STORAGE_ADDRESS] {
        for code in [REVERTS, INVALID, &hex!("600160005560006000fd")] {
            let mut stage = Stage::on("Prague");
            stage.contract(address, code, &[]);
            let scene = stage.block(vec![]);
            scene.accepted_by_all();
            assert_eq!(scene.slot_after(address, 0), U256::ZERO);
        }
    }
    Stage::on("Prague").block(vec![]).accepted_by_all();
}

#[test]
fn the_beacon_root_is_told_before_the_parents_hash() {
    let mut stage = Stage::on("Prague");
    // With input it sets slot 0 to 1, without it returns slot 0.
    stage.contract(BEACON_ROOTS_ADDRESS, &hex!("36600f5760005460005260206000f35b600160005500"), &[]);
    // Asks the other one, and stores one more than the answer.
    let mut code = hex!("6020600060006000600073").to_vec();
    code.extend_from_slice(BEACON_ROOTS_ADDRESS.as_slice());
    code.extend_from_slice(&hex!("5af150600051600101600055"));
    stage.contract(HISTORY_STORAGE_ADDRESS, &code, &[]);
    let scene = stage.block(vec![]);
    scene.accepted_by_all();
    assert_eq!(scene.slot_after(HISTORY_STORAGE_ADDRESS, 0), U256::from(2));
}
