//! Creations that fail before the check for a collision (EIP-7610): they cost the same as without the
//! collision.
#![allow(clippy::unwrap_used)]

use alloy_consensus::{Header, SignableTransaction, TxLegacy};
use alloy_hardforks::EthereumHardfork::{
    self, Berlin, Byzantium, Constantinople, Frontier, Homestead, Istanbul, Petersburg, SpuriousDragon,
    Tangerine,
};
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, hex, keccak256};
use common::account::{Account, AccountRecord, SlotValue};
use common::chain_spec::{Activation, ChainSpec, Schedule};
use common::work::TxOutcome;

use super::{Executor, MemoryState, Overlay};

const SENDER: Address = Address::repeat_byte(1);
const CREATOR: Address = Address::repeat_byte(2);
const GAS: u64 = 100_000_000;

/// A chain with these forks active from block 0.
fn chain(forks: &[EthereumHardfork]) -> ChainSpec {
    let schedule = Schedule {
        chain_id: 1,
        terminal_total_difficulty: None,
        forks: forks.iter().map(|fork| (*fork, Activation::Block(0))).collect(),
        blobs: vec![],
        deposit_contract: None,
    };
    ChainSpec::from_schedule(schedule).unwrap()
}

/// Calls a creator with this code and nonce, whose next creation would meet storage. Returns whether
/// the call succeeded, and the gas it used.
fn call(spec: &ChainSpec, code: &[u8], nonce: u64) -> (bool, u64) {
    let mut state = MemoryState::default();
    let rich = Account { balance: U256::from(1u64 << 60), ..Default::default() };
    state.insert(AccountRecord { address: SENDER, account: rich, storage: vec![] });
    let account = Account { nonce, code_hash: keccak256(code), ..Default::default() };
    state.insert(AccountRecord { address: CREATOR, account, storage: vec![] });
    state.insert_code(keccak256(code), Bytes::copy_from_slice(code));
    let bare = Account { balance: U256::from(1), ..Default::default() };
    let storage = vec![SlotValue { slot: U256::from(1), value: U256::from(1) }];
    state.insert(AccountRecord { address: CREATOR.create(nonce), account: bare, storage });
    let difficulty = U256::from(1);
    let header = Header { number: 1, gas_limit: GAS, difficulty, ..Default::default() };
    let env = crate::evm_env(spec, &header);
    let call = TxLegacy { gas_limit: GAS, to: TxKind::Call(CREATOR), ..Default::default() };
    let signed = call.into_signed(Signature::new(U256::from(1), U256::from(1), false));
    let mut executor = Executor::new(env, state, Overlay::default());
    match executor.execute(&signed.into(), SENDER).unwrap() {
        TxOutcome::Executed(executed) => (executed.success, executed.gas_used.0),
        TxOutcome::Invalid { reason, .. } => unreachable!("{reason}"),
    }
}

/// Creates an empty contract: PUSH 0, PUSH 0, PUSH 0, CREATE, POP.
const CREATE: [u8; 8] = hex!("600060006000f050");

#[test]
fn a_creation_that_meets_storage_takes_all_of_its_gas() {
    assert_eq!(call(&chain(&[Frontier]), &CREATE, 1), (false, GAS));
}

#[test]
fn a_creator_at_the_last_nonce_fails_before_the_collision() {
    let (success, gas) = call(&chain(&[Frontier]), &CREATE, u64::MAX);
    assert!(success && gas < 100_000, "{success}, {gas} gas");
}

#[test]
fn a_creation_below_the_deepest_frame_fails_before_the_collision() {
    // Calls itself with all gas but 60,000, and creates if that call fails, which happens in the deepest
    // frame.
    let recurse = hex!("60006000600060006000" "30" "61ea605a03" "f1" "601c57");
    let code = [recurse.as_slice(), &CREATE, &hex!("5b")].concat();
    assert_eq!(code.get(0x1c), Some(&0x5b));
    let (success, gas) = call(&chain(&[Frontier]), &code, 1);
    assert!(success && gas < GAS / 2, "{success}, {gas} gas");
}

#[test]
fn an_address_at_which_a_creation_failed_is_warm() {
    let forks = [
        Frontier,
        Homestead,
        Tangerine,
        SpuriousDragon,
        Byzantium,
        Constantinople,
        Petersburg,
        Istanbul,
        Berlin,
    ];
    let spec = chain(&forks);
    // The creation, then PUSH20 address, BALANCE, POP.
    let used = |address: Address| {
        let code = [CREATE.as_slice(), &[0x73], address.as_slice(), &hex!("3150")].concat();
        let (success, gas) = call(&spec, &code, 1);
        assert!(success);
        gas
    };
    // A cold account costs 2600, a warm one 100 (EIP-2929).
    assert_eq!(used(Address::repeat_byte(9)), used(CREATOR.create(1)) + 2500);
}
