//! Ends a transaction before its end: when its result is no longer wanted, or when it takes more memory than there
//! should be. Neither gives a result: what such a transaction would have done is not known.
//!
//! A loop in EVM code needs a jump, so the jumps of transactions that may run for long look at a flag. So does the
//! handler, between two calls. A precompile cannot be interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use revm::bytecode::opcode::{JUMP, JUMPI};
use revm::context::ContextError;
use revm::handler::FrameResult;
use revm::interpreter::instructions::control;
use revm::interpreter::interpreter::EthInterpreter;
use revm::interpreter::{Instruction, InstructionContext, InstructionExecResult, InstructionResult};

use super::evm::{Host, ShardEvm};
use super::view::{StateError, StateView};

/// The gas limit above which a transaction may run for so long that it must be possible to stop it. Others take
/// less than a second, and their jumps cost nothing.
pub(super) const LONG_GAS: u64 = 30_000_000;

/// The most EVM memory of one transaction, in bytes, over all its open calls. One call needs 2.2 × 10¹² gas to fill it,
/// 1,024 calls within each other 2.2 × 10⁹.
pub const MAX_MEMORY: u64 = 1 << 30;

/// The gas limit up to which a transaction cannot reach [`MAX_MEMORY`], so that its memory needs no limit.
const FRUGAL_GAS: u64 = 1 << 31;

/// The size of a word of memory, in bytes.
const WORD: u64 = 32;

/// The most EVM memory of a transaction with this gas limit, in bytes.
pub(super) fn memory_limit(gas: u64) -> u64 {
    if gas > FRUGAL_GAS { MAX_MEMORY } else { u64::MAX }
}

type Call<'a, V> = InstructionContext<'a, Host<V>, EthInterpreter>;

/// A flag that stops an executor's transactions once it is set.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Option<Arc<AtomicBool>>);

impl Stop {
    pub(super) fn when(flag: Arc<AtomicBool>) -> Self {
        Self(Some(flag))
    }

    /// Whether there is a flag at all.
    pub(super) fn is_possible(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Has jumps look at the flag, or not any more.
pub(super) fn watch_jumps<V: StateView>(evm: &mut ShardEvm<V>, watched: bool) {
    let table = evm.instruction.instruction_table_mut();
    let instructions: [(u8, Instruction<EthInterpreter, Host<V>>); 2] = match watched {
        true => [(JUMP, Instruction::new(jump::<V>)), (JUMPI, Instruction::new(jumpi::<V>))],
        false => [(JUMP, Instruction::new(control::jump)), (JUMPI, Instruction::new(control::jumpi))],
    };
    for (opcode, instruction) in instructions {
        if let Some(place) = table.get_mut(usize::from(opcode)) {
            *place = instruction;
        }
    }
}

fn jump<V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    go_on(&mut context)?;
    control::jump(context)
}

fn jumpi<V: StateView>(mut context: Call<'_, V>) -> InstructionExecResult {
    go_on(&mut context)?;
    control::jumpi(context)
}

fn go_on<V: StateView>(context: &mut Call<'_, V>) -> InstructionExecResult {
    if context.host.journaled_state.database.stop.is_set() {
        context.host.error = Err(ContextError::Db(StateError::Stopped));
        return Err(InstructionResult::FatalExternalError);
    }
    Ok(())
}

/// Whether a call may be followed by others: the transaction is wanted, and the call did not fail for want of
/// memory that its gas would have paid for. Such a failure is this system's, and the calling code must not see it.
pub(super) fn check<V: StateView>(
    evm: &mut ShardEvm<V>,
    ended: Option<&FrameResult>,
) -> Result<(), StateError> {
    if evm.ctx.journaled_state.database.stop.is_set() {
        return Err(StateError::Stopped);
    }
    let Some(ended) = ended else { return Ok(()) };
    let limited = ended.instruction_result() == InstructionResult::MemoryLimitOOG;
    if limited && ended.gas().remaining() >= least_price(evm) {
        return Err(StateError::Memory);
    }
    Ok(())
}

/// The least gas that the call which has just met the limit needed for its memory. revm looks at the limit before the
/// gas: with less gas than this the call is out of gas, whatever it asked for, and has the result of such a call.
fn least_price<V: StateView>(evm: &mut ShardEvm<V>) -> u64 {
    let own = evm.frame_stack.get().interpreter.memory.len();
    let others = evm.ctx.local.shared_memory_buffer.borrow().len().saturating_sub(own) as u64;
    let words = usize::try_from(MAX_MEMORY.saturating_sub(others) / WORD + 1).unwrap_or(usize::MAX);
    let price = |words| evm.ctx.cfg.gas_params.memory_cost(words);
    price(words).saturating_sub(price(own / WORD as usize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_consensus::{Header, SignableTransaction, TxLegacy};
    use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, hex, keccak256};
    use common::account::{Account, AccountRecord};
    use common::chain_spec::ChainSpec;
    use common::work::TxOutcome;

    use super::*;
    use crate::{Executor, MemoryState, Overlay};

    const SENDER: Address = Address::repeat_byte(1);

    /// The code at the addresses 2, 2, …, 3, 3, … and so on.
    fn executor(codes: &[&[u8]]) -> Executor<MemoryState> {
        let mut state = MemoryState::default();
        let rich = Account { balance: U256::from(1u64 << 60), ..Default::default() };
        state.insert(AccountRecord { address: SENDER, account: rich, storage: vec![] });
        for (byte, code) in (2..).zip(codes) {
            let account = Account { nonce: 1, code_hash: keccak256(code), ..Default::default() };
            state.insert(AccountRecord { address: Address::repeat_byte(byte), account, storage: vec![] });
            state.insert_code(keccak256(code), Bytes::copy_from_slice(code));
        }
        let header =
            Header { number: 1, gas_limit: u64::MAX, difficulty: U256::from(1), ..Default::default() };
        Executor::new(crate::evm_env(&ChainSpec::mainnet(), &header), state, Overlay::default())
    }

    fn call(executor: &mut Executor<MemoryState>, gas_limit: u64) -> Result<TxOutcome, StateError> {
        let call = TxLegacy { gas_limit, to: TxKind::Call(Address::repeat_byte(2)), ..Default::default() };
        let signed = call.into_signed(Signature::new(U256::from(1), U256::from(1), false));
        executor.execute(&signed.into(), SENDER)
    }

    fn succeeded(outcome: Result<TxOutcome, StateError>) -> bool {
        match outcome.unwrap() {
            TxOutcome::Executed(executed) => executed.success,
            TxOutcome::Invalid { reason, .. } => unreachable!("{reason}"),
        }
    }

    /// Stops this code, which would go on for centuries. The flag is looked at only after the code has begun.
    fn assert_stops(codes: &[&[u8]]) {
        let flag = Arc::new(AtomicBool::new(true));
        let mut executor = executor(codes).stop_when(Arc::clone(&flag));
        assert_eq!(call(&mut executor, 1 << 62).unwrap_err(), StateError::Stopped);
        // The executor is as good as before.
        flag.store(false, Ordering::Relaxed);
        assert!(!succeeded(call(&mut executor, 100_000)));
    }

    #[test]
    fn loops_are_stopped() {
        // JUMPDEST, PUSH 0, JUMP
        assert_stops(&[&hex!("5b600056")]);
        // JUMPDEST, PUSH 1, PUSH 0, JUMPI
        assert_stops(&[&hex!("5b6001600057")]);
    }

    #[test]
    fn calls_without_jumps_are_stopped() {
        // Calls itself with a little less than all gas, three times: a tree of calls.
        let one = hex!("60006000600060006000305a6103e890 03 f150");
        assert_stops(&[&[one.as_slice(), &one, &one].concat()]);
    }

    #[test]
    fn a_transaction_with_little_gas_ends_by_itself() {
        let flag = Arc::new(AtomicBool::new(false));
        let mut executor = executor(&[&hex!("5b600056")]).stop_when(Arc::clone(&flag));
        assert!(!succeeded(call(&mut executor, LONG_GAS)));
        // Only between its calls is it looked at.
        flag.store(true, Ordering::Relaxed);
        assert_eq!(call(&mut executor, LONG_GAS).unwrap_err(), StateError::Stopped);
    }

    #[test]
    fn too_much_memory_is_an_error_and_not_a_result() {
        // PUSH 1, PUSH offset, MSTORE
        let store = |offset: u64| [hex!("600167").as_slice(), &offset.to_be_bytes(), &[0x52]].concat();
        assert!(succeeded(call(&mut executor(&[&store(1 << 20)]), 1 << 62)));
        let outcome = call(&mut executor(&[&store(MAX_MEMORY)]), 1 << 62);
        assert_eq!(outcome.unwrap_err(), StateError::Memory);
        // What gas decides, the limit does not: the first has none, the second meets it with too little gas.
        for gas in [FRUGAL_GAS, FRUGAL_GAS + 1, 2_000_000_000_000] {
            assert!(!succeeded(call(&mut executor(&[&store(MAX_MEMORY)]), gas)), "{gas}");
        }
    }

    #[test]
    fn no_transaction_with_little_gas_can_reach_the_limit() {
        // The cheapest way: as many calls within each other as there may be, each with the same memory.
        let words = MAX_MEMORY / WORD / 1_024;
        assert!(1_024 * (3 * words + words * words / 512) > FRUGAL_GAS);
    }

    #[test]
    fn a_calling_contract_does_not_see_the_limit() {
        // Calls 3, 3, … with 2^61 gas.
        let caller =
            [hex!("6000600060006000600073").as_slice(), &[3; 20], &hex!("672000000000000000f1")].concat();
        let store = [hex!("600167").as_slice(), &MAX_MEMORY.to_be_bytes(), &[0x52]].concat();
        let outcome = call(&mut executor(&[&caller, &store]), 1 << 62);
        assert_eq!(outcome.unwrap_err(), StateError::Memory);
    }
}
