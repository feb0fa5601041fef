//! EIP-1283: SSTORE's gas in Constantinople, which Petersburg withdrew. It was never active on mainnet,
//! so revm goes from Byzantium straight to Petersburg; test chains use it.
//!
//! The amounts are those of EIP-2200 with an SLOAD of 200 gas and without the check for a minimum of
//! remaining gas. So this module uses revm's own accounting with other parameters, which `env` sets.

use alloy_evm::EvmEnv;
use revm::bytecode::opcode::SSTORE;
use revm::context_interface::context::{SStoreResult, StateLoad};
use revm::interpreter::instructions::host::sstore_with_gas_accounting;
use revm::interpreter::interpreter_types::InterpreterTypes;
use revm::interpreter::{Host, Instruction, InstructionContext, InstructionExecResult, InstructionResult};
use revm::primitives::Address;
use revm::primitives::hardfork::SpecId;

use super::evm::ShardEvm;
use super::view::StateView;

/// Whether the environment uses EIP-1283. Before Istanbul only EIP-1283 has an SSTORE of 200 gas.
pub(super) fn is_wanted(env: &EvmEnv) -> bool {
    let params = &env.cfg_env.gas_params;
    !env.cfg_env.spec.is_enabled_in(SpecId::ISTANBUL)
        && params.sstore_static_gas() == crate::env::EIP1283_SLOAD_GAS
}

/// Replaces the EVM's SSTORE by one with this accounting.
pub(super) fn install<V: StateView>(evm: &mut ShardEvm<V>) {
    // The accounting already contains SSTORE's static gas.
    evm.instruction.insert_instruction(SSTORE, Instruction::new(sstore), 0);
}

fn sstore<W: InterpreterTypes, H: Host + ?Sized>(
    context: InstructionContext<'_, H, W>,
) -> InstructionExecResult {
    sstore_with_gas_accounting(context, account)
}

fn account<W: InterpreterTypes, H: Host + ?Sized>(
    context: &mut InstructionContext<'_, H, W>,
    _target: Address,
    stored: &StateLoad<SStoreResult>,
) -> InstructionExecResult {
    let params = context.host.gas_params();
    let (cost, refund) =
        (params.sstore_dynamic_gas(true, &stored.data, false), params.sstore_refund(true, &stored.data));
    if !context.interpreter.gas.record_regular_cost(cost) {
        return Err(InstructionResult::OutOfGas);
    }
    context.interpreter.gas.record_refund(refund);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_consensus::{Header, SignableTransaction, TxLegacy};
    use alloy_primitives::{Bytes, Signature, TxKind, U256, hex, keccak256};
    use common::account::{Account, AccountRecord, SlotValue};
    use common::chain_spec::{Activation, ChainSpec, Schedule};
    use common::work::TxOutcome;

    use super::*;
    use crate::{Executor, MemoryState, Overlay};

    fn constantinople() -> ChainSpec {
        use alloy_hardforks::EthereumHardfork as F;
        let forks =
            [F::Frontier, F::Homestead, F::Tangerine, F::SpuriousDragon, F::Byzantium, F::Constantinople];
        let forks = forks.into_iter().map(|fork| (fork, Activation::Block(0))).collect();
        let schedule = Schedule {
            chain_id: 1,
            terminal_total_difficulty: None,
            forks,
            blobs: vec![],
            deposit_contract: None,
        };
        ChainSpec::from_schedule(schedule).unwrap()
    }

    /// Runs the code with slot 0 at `original`. Returns the gas used after the refund.
    fn used(code: &[u8], original: u64) -> u64 {
        let (sender, contract) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let mut state = MemoryState::default();
        let rich = Account { balance: U256::from(1u64 << 60), ..Default::default() };
        state.insert(AccountRecord { address: sender, account: rich, storage: vec![] });
        let account = Account { nonce: 1, code_hash: keccak256(code), ..Default::default() };
        let storage = vec![SlotValue { slot: U256::ZERO, value: U256::from(original) }];
        state.insert(AccountRecord { address: contract, account, storage });
        state.insert_code(keccak256(code), Bytes::copy_from_slice(code));
        let header =
            Header { number: 1, gas_limit: 1_000_000, difficulty: U256::from(1), ..Default::default() };
        let env = crate::evm_env(&constantinople(), &header);
        let call = TxLegacy { gas_limit: 500_000, to: TxKind::Call(contract), ..Default::default() };
        let signed = call.into_signed(Signature::new(U256::from(1), U256::from(1), false));
        let mut executor = Executor::new(env, state, Overlay::default());
        match executor.execute(&signed.into(), sender).unwrap() {
            TxOutcome::Executed(executed) => executed.gas_used.0,
            TxOutcome::Invalid { reason, .. } => unreachable!("{reason}"),
        }
    }

    #[test]
    fn the_cases_of_the_eip_cost_what_it_says() {
        // Code, original value, gas used, refund (EIP-1283, "Test Cases").
        let cases: [(&[u8], u64, u64, u64); 17] = [
            (&hex!("60006000556000600055"), 0, 412, 0),
            (&hex!("60006000556001600055"), 0, 20212, 0),
            (&hex!("60016000556000600055"), 0, 20212, 19800),
            (&hex!("60016000556002600055"), 0, 20212, 0),
            (&hex!("60016000556001600055"), 0, 20212, 0),
            (&hex!("60006000556000600055"), 1, 5212, 15000),
            (&hex!("60006000556001600055"), 1, 5212, 4800),
            (&hex!("60006000556002600055"), 1, 5212, 0),
            (&hex!("60026000556000600055"), 1, 5212, 15000),
            (&hex!("60026000556003600055"), 1, 5212, 0),
            (&hex!("60026000556001600055"), 1, 5212, 4800),
            (&hex!("60026000556002600055"), 1, 5212, 0),
            (&hex!("60016000556000600055"), 1, 5212, 15000),
            (&hex!("60016000556002600055"), 1, 5212, 0),
            (&hex!("60016000556001600055"), 1, 412, 0),
            (&hex!("600160005560006000556001600055"), 0, 40218, 19800),
            (&hex!("600060005560016000556000600055"), 1, 10218, 19800),
        ];
        for (code, original, gas, refund) in cases {
            // The refund is at most half of all gas used.
            let gas = 21_000 + gas;
            let expected = gas - refund.min(gas / 2);
            assert_eq!(used(code, original), expected, "{} on {original}", hex::encode(code));
        }
    }
}
