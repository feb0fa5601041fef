//! Results in which balances were not observed, on other balances: the reads hold only where execution
//! gives the same result. Small balances and amounts make every comparison matter.
#![allow(clippy::unwrap_used)]

use alloy_consensus::{Header, SignableTransaction, TxLegacy};
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, keccak256};
use common::account::{Account, AccountDelta, AccountRecord};
use common::block::Transaction;
use common::chain_spec::ChainSpec;
use common::work::{Executed, TxOutcome};
use engine::{Executor, MemoryState, Overlay};
use proptest::prelude::*;
use revm::bytecode::opcode as op;

use super::check::is_valid;

/// Forks between which the rules for empty accounts, calls and destruction change.
const FORKS: [&str; 7] = ["Frontier", "Homestead", "EIP158", "Istanbul", "London", "Cancun", "Prague"];

/// The accounts: a sender, one that receives only, one that may be missing, and three contracts.
const ACCOUNTS: usize = 6;
const SENDER: usize = 0;
const CONTRACTS: usize = 3;

const GAS: u64 = 600_000;

fn account(number: usize) -> Address {
    Address::with_last_byte(0x80 + number as u8)
}

/// What a contract does.
#[derive(Debug, Clone)]
enum Step {
    Call { to: usize, value: u8 },
    CallCode { to: usize, value: u8 },
    DelegateCall { to: usize },
    Balance { of: usize },
    SelfBalance,
    CodeHash { of: usize },
    Create { value: u8 },
    Destruct { to: usize },
    Revert,
}

fn step() -> impl Strategy<Value = Step> {
    let (any, value) = (0..ACCOUNTS, 0_u8..4);
    prop_oneof![
        6 => (any.clone(), value.clone()).prop_map(|(to, value)| Step::Call { to, value }),
        1 => (any.clone(), value.clone()).prop_map(|(to, value)| Step::CallCode { to, value }),
        1 => any.clone().prop_map(|to| Step::DelegateCall { to }),
        1 => any.clone().prop_map(|of| Step::Balance { of }),
        1 => Just(Step::SelfBalance),
        1 => any.clone().prop_map(|of| Step::CodeHash { of }),
        1 => value.prop_map(|value| Step::Create { value }),
        1 => any.prop_map(|to| Step::Destruct { to }),
        1 => Just(Step::Revert),
    ]
}

/// The code of these steps. What each returns goes into a slot, and nothing ends a transaction for want
/// of gas: each call gets a sixteenth of the gas.
fn code(steps: &[Step]) -> Bytes {
    let mut code = Vec::new();
    let mut push = |bytes: &[u8]| code.extend_from_slice(bytes);
    for (slot, step) in (0_u8..).zip(steps) {
        let address = |number: usize| account(number).0.0;
        let pushed = |push: &mut dyn FnMut(&[u8]), number: usize| {
            push(&[op::PUSH20]);
            push(&address(number));
        };
        let gas: &[u8] = &[op::PUSH1, 16, op::GAS, op::DIV];
        match step {
            Step::Call { to, value } | Step::CallCode { to, value } => {
                push(&[op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, *value]);
                pushed(&mut push, *to);
                push(gas);
                push(&[if matches!(step, Step::Call { .. }) { op::CALL } else { op::CALLCODE }]);
            }
            Step::DelegateCall { to } => {
                push(&[op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0]);
                pushed(&mut push, *to);
                push(gas);
                push(&[op::DELEGATECALL]);
            }
            Step::Balance { of } => {
                pushed(&mut push, *of);
                push(&[op::BALANCE]);
            }
            Step::SelfBalance => push(&[op::SELFBALANCE]),
            Step::CodeHash { of } => {
                pushed(&mut push, *of);
                push(&[op::EXTCODEHASH]);
            }
            Step::Create { value } => push(&[op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, *value, op::CREATE]),
            Step::Destruct { to } => {
                pushed(&mut push, *to);
                push(&[op::SELFDESTRUCT]);
            }
            Step::Revert => push(&[op::PUSH1, 0, op::PUSH1, 0, op::REVERT]),
        }
        push(&[op::PUSH1, slot, op::SSTORE]);
    }
    code.into()
}

/// The balance of an account, in wei; `None` if the account does not exist. Contracts always exist.
type Balances = [Option<u8>; ACCOUNTS];

fn balances() -> impl Strategy<Value = Balances> {
    prop::array::uniform6(prop::option::weighted(0.9, 0_u8..7))
}

fn state(balances: &Balances, codes: &[Bytes], sender_nonce: u64) -> MemoryState {
    let mut state = MemoryState::default();
    for (number, balance) in balances.iter().enumerate() {
        let code = number.checked_sub(CONTRACTS).and_then(|contract| codes.get(contract));
        if balance.is_none() && code.is_none() && number != SENDER {
            continue;
        }
        let mut value = Account { balance: U256::from(balance.unwrap_or_default()), ..Account::default() };
        if number == SENDER {
            value.balance += U256::from(GAS);
            value.nonce = sender_nonce;
        }
        if let Some(code) = code {
            value.code_hash = keccak256(code);
            state.insert_code(value.code_hash, code.clone());
        }
        state.insert(AccountRecord { address: account(number), account: value, storage: vec![] });
    }
    state
}

fn transaction(to: usize, value: u8, nonce: u64) -> Transaction {
    let (to, value) = (TxKind::Call(account(to)), U256::from(value));
    let unsigned = TxLegacy { nonce, gas_limit: GAS, gas_price: 1, to, value, ..TxLegacy::default() };
    unsigned.into_signed(Signature::new(U256::from(1), U256::from(1), false)).into()
}

/// A transaction's result on a state, and what it changes there.
fn run(header: &Header, spec: &ChainSpec, state: &MemoryState, tx: &Transaction) -> Option<Executed> {
    let mut executor = Executor::new(engine::evm_env(spec, header), state, Overlay::default());
    match executor.execute(tx, account(SENDER)).unwrap() {
        TxOutcome::Executed(executed) => Some(*executed),
        TxOutcome::Invalid { .. } => None,
    }
}

fn changes(header: &Header, spec: &ChainSpec, state: &MemoryState, executed: &Executed) -> Vec<AccountDelta> {
    let mut executor = Executor::new(engine::evm_env(spec, header), state, Overlay::default());
    assert!(executor.commit(executed).unwrap());
    executor.view().overlay.net_changes(&state).unwrap()
}

#[derive(Debug, Clone)]
struct Case {
    fork: &'static str,
    steps: Vec<Vec<Step>>,
    before: Balances,
    other: Balances,
    to: usize,
    value: u8,
    beneficiary: usize,
    /// Whether the sender's nonce differs in the other state.
    moved: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec(prop::collection::vec(step(), 0..5), CONTRACTS);
    let others = prop::array::uniform6(prop::option::weighted(0.3, prop::option::weighted(0.9, 0_u8..7)));
    let drawn = (prop::sample::select(&FORKS), steps, balances(), others, 1..ACCOUNTS, 0_u8..4);
    (drawn, 0..=ACCOUNTS, prop::bool::weighted(0.03)).prop_map(
        |((fork, steps, before, others, to, value), beneficiary, moved)| {
            let mut other = before;
            for (balance, changed) in other.iter_mut().zip(others) {
                *balance = changed.unwrap_or(*balance);
            }
            Case { fork, steps, before, other, to, value, beneficiary, moved }
        },
    )
}

/// What a case showed.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The reads do not hold on the other state, or the transaction is invalid.
    Nothing,
    /// They hold, and execution there gives the same.
    Same,
}

fn check(case: &Case) -> Result<Seen, TestCaseError> {
    let spec = ChainSpec::of_network(case.fork).unwrap();
    let header = Header {
        number: 1,
        timestamp: 10,
        gas_limit: 30_000_000,
        beneficiary: account(case.beneficiary),
        base_fee_per_gas: Some(0),
        excess_blob_gas: Some(0),
        ..Header::default()
    };
    let codes: Vec<Bytes> = case.steps.iter().map(|steps| code(steps)).collect();
    let (before, other) =
        (state(&case.before, &codes, 1), state(&case.other, &codes, 1 + u64::from(case.moved)));
    let tx = transaction(case.to, case.value, 1);
    let Some(guess) = run(&header, &spec, &before, &tx) else { return Ok(Seen::Nothing) };
    prop_assert!(is_valid(&&before, &tx, account(SENDER), &guess).unwrap(), "it holds where it was made");
    if !is_valid(&&other, &tx, account(SENDER), &guess).unwrap() {
        return Ok(Seen::Nothing);
    }
    let Some(right) = run(&header, &spec, &other, &tx) else {
        return Err(TestCaseError::fail("the transaction is invalid on the other state"));
    };
    prop_assert_eq!(guess.success, right.success);
    prop_assert_eq!(guess.gas_used, right.gas_used);
    prop_assert_eq!(&guess.logs, &right.logs);
    prop_assert_eq!(changes(&header, &spec, &other, &guess), changes(&header, &spec, &other, &right));
    Ok(Seen::Same)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60_000))]

    // Law: where the reads of a result hold, execution gives that result.
    #[test]
    fn a_result_whose_reads_hold_is_the_one_of_that_state(case in case()) {
        check(&case)?;
    }
}

/// The law says nothing unless reads often hold on other balances.
#[test]
fn payments_hold_on_other_balances() {
    let steps = vec![vec![Step::Call { to: 1, value: 2 }, Step::Call { to: 4, value: 1 }], vec![], vec![]];
    let case = |before, other| Case {
        fork: "Prague",
        steps: steps.clone(),
        before,
        other,
        to: 3,
        value: 1,
        beneficiary: 1,
        moved: false,
    };
    let before = [Some(3), Some(2), Some(0), Some(4), Some(1), Some(0)];
    let richer = [Some(6), Some(5), Some(1), Some(5), Some(3), Some(1)];
    assert_eq!(check(&case(before, richer)).unwrap(), Seen::Same);
    // The contract pays three wei and gets one.
    let enough = [Some(3), Some(2), Some(0), Some(2), Some(1), Some(0)];
    assert_eq!(check(&case(before, enough)).unwrap(), Seen::Same);
    let too_little = [Some(3), Some(2), Some(0), Some(1), Some(1), Some(0)];
    assert_eq!(check(&case(before, too_little)).unwrap(), Seen::Nothing);
    // An account that becomes empty has another price.
    let empty = [Some(3), Some(0), Some(0), Some(4), Some(1), Some(0)];
    assert_eq!(check(&case(before, empty)).unwrap(), Seen::Nothing);
}

/// A contract pays all but 20 of 2²⁵⁶ wei, which fits into the balance of the recipient or does not.
#[test]
fn a_payment_that_may_overflow_holds_only_on_the_balance_it_was_made_with() {
    let spec = ChainSpec::of_network("Prague").unwrap();
    let header = Header { number: 1, timestamp: 10, gas_limit: 30_000_000, ..Header::default() };
    let header = Header { base_fee_per_gas: Some(0), excess_blob_gas: Some(0), ..header };
    let amount = U256::MAX - U256::from(20);
    let mut payer = vec![op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH32];
    payer.extend_from_slice(&amount.to_be_bytes::<32>());
    payer.push(op::PUSH20);
    payer.extend_from_slice(account(1).as_slice());
    payer.extend_from_slice(&[op::GAS, op::CALL, op::PUSH1, 0, op::SSTORE]);
    // It gives the amount back, so that the balances after the transaction are small.
    let mut back = vec![op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::PUSH1, 0, op::CALLVALUE, op::PUSH20];
    back.extend_from_slice(account(3).as_slice());
    back.extend_from_slice(&[op::GAS, op::CALL, op::STOP]);
    let holds = |before: u64, other: u64| {
        let codes = [Bytes::from(payer.clone()), Bytes::new(), Bytes::new()];
        let with = |balance: u64| {
            let mut state = state(&[Some(1), None, None, None, None, None], &codes, 1);
            let contract = Account { balance: U256::MAX, code_hash: keccak256(&codes[0]), nonce: 1 };
            let receiver = Account { balance: U256::from(balance), code_hash: keccak256(&back), nonce: 1 };
            state.insert_code(receiver.code_hash, back.clone().into());
            for (number, account_) in [(3, contract), (1, receiver)] {
                state.insert(AccountRecord { address: account(number), account: account_, storage: vec![] });
            }
            state
        };
        let tx = transaction(3, 0, 1);
        let guess = run(&header, &spec, &with(before), &tx).unwrap();
        is_valid(&&with(other), &tx, account(SENDER), &guess).unwrap()
    };
    assert!(holds(5, 5));
    assert!(!holds(5, 30), "the payment would overflow");
    assert!(!holds(30, 5), "it did overflow");
}

/// The transaction itself pays all but 20 of 2²⁵⁶ wei to a contract that gives them back by reverting.
#[test]
fn a_payment_of_the_transaction_that_may_overflow_holds_only_on_the_balance_it_was_made_with() {
    let spec = ChainSpec::of_network("Homestead").unwrap();
    let header = Header { number: 1, timestamp: 10, gas_limit: 30_000_000, ..Header::default() };
    let code = Bytes::from_static(&[op::PUSH1, 0, op::PUSH1, 0, op::MLOAD, op::INVALID]);
    let with = |balance: u64| {
        let mut state = MemoryState::default();
        let sender = Account { balance: U256::MAX, nonce: 1, ..Account::default() };
        let contract = Account { balance: U256::from(balance), nonce: 1, code_hash: keccak256(&code) };
        state.insert_code(contract.code_hash, code.clone());
        for (number, account_) in [(SENDER, sender), (3, contract)] {
            state.insert(AccountRecord { address: account(number), account: account_, storage: vec![] });
        }
        state
    };
    let unsigned = TxLegacy {
        nonce: 1,
        gas_limit: 100_000,
        to: TxKind::Call(account(3)),
        value: U256::MAX - U256::from(20),
        ..TxLegacy::default()
    };
    let tx = unsigned.into_signed(Signature::new(U256::from(1), U256::from(1), false)).into();
    let holds = |before: u64, other: u64| {
        let guess = run(&header, &spec, &with(before), &tx).unwrap();
        is_valid(&&with(other), &tx, account(SENDER), &guess).unwrap()
    };
    assert!(holds(5, 5));
    assert!(!holds(5, 30), "the payment would overflow");
    assert!(!holds(30, 5), "it did overflow");
}
