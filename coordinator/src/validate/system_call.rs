//! System calls: calls that a block makes by itself, before and after its transactions (EIP-2935,
//! EIP-4788, EIP-7002, EIP-7251).
//!
//! A call before the transactions may fail or find no code; then it changes nothing. A call for
//! requests must find code and succeed, or the block is invalid.

use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::BEACON_ROOTS_ADDRESS;
use alloy_eips::eip7002::{WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_TYPE};
use alloy_eips::eip7251::{CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_TYPE};
use alloy_eips::eip7685::Requests;
use alloy_evm::EvmEnv;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY};
use engine::{BlockDb, Layered, StateError, StateView};
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, ContextSetters, TxEnv};
use revm::handler::{
    EthFrame, Handler, MainBuilder, MainnetContext, MainnetEvm, MainnetHandler, SystemCallTx,
};
use revm::{DatabaseCommit, ExecuteEvm};

use super::{Rejection, ValidateError};

/// The gas of a system call (EIP-4788). No account pays for it, and no block counts it. revm's own
/// system calls have more gas: they add Amsterdam's reservoir (EIP-8037) under every fork.
pub const SYSTEM_CALL_GAS: u64 = 30_000_000;

/// A contract that returns a list of requests.
struct RequestContract {
    address: Address,
    request_type: u8,
    eip: &'static str,
}

/// The request contracts in the order of their requests' types, which is the order of the calls
/// (EIP-7685).
const REQUEST_CONTRACTS: [RequestContract; 2] = [
    RequestContract {
        address: WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS,
        request_type: WITHDRAWAL_REQUEST_TYPE,
        eip: "EIP-7002",
    },
    RequestContract {
        address: CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
        request_type: CONSOLIDATION_REQUEST_TYPE,
        eip: "EIP-7251",
    },
];

/// Makes a block's system calls and commits their effects into the overlay.
pub(super) struct SystemCalls<V: StateView> {
    evm: MainnetEvm<MainnetContext<BlockDb<V>>>,
}

impl<V: StateView> SystemCalls<V> {
    /// Prepares the system calls of a block on the state after its transactions so far.
    pub(super) fn new(env: EvmEnv, layers: Layered<V>) -> Self {
        let EvmEnv { block_env, cfg_env } = env;
        let spec = cfg_env.spec;
        let context: MainnetContext<BlockDb<V>> = MainnetContext::new(BlockDb::new(layers, spec), spec);
        let context: MainnetContext<BlockDb<V>> =
            context.with_block::<BlockEnv>(block_env).with_cfg::<CfgEnv>(cfg_env);
        Self { evm: context.build_mainnet() }
    }

    /// Returns the state after the transactions and the calls.
    pub(super) fn into_layers(self) -> Layered<V> {
        self.evm.ctx.journaled_state.database.into_view()
    }

    /// Stores the block's beacon root (EIP-4788).
    pub(super) fn beacon_root(&mut self, root: B256) -> Result<(), StateError> {
        self.call(BEACON_ROOTS_ADDRESS, root.0.into()).map(|_| ())
    }

    /// Stores the hash of the block's parent (EIP-2935).
    pub(super) fn parent_hash(&mut self, hash: B256) -> Result<(), StateError> {
        self.call(HISTORY_STORAGE_ADDRESS, hash.0.into()).map(|_| ())
    }

    /// Collects the requests of the system contracts.
    pub(super) fn requests(&mut self, requests: &mut Requests) -> Result<(), ValidateError> {
        for RequestContract { address, request_type, eip } in REQUEST_CONTRACTS {
            let output = self.demand(address, eip)?;
            if !output.is_empty() {
                requests.push_request_with_type(request_type, output);
            }
        }
        Ok(())
    }

    /// Calls a contract that must exist and succeed, and returns its output.
    fn demand(&mut self, address: Address, eip: &'static str) -> Result<Bytes, ValidateError> {
        let contract = self.evm.ctx.journaled_state.database.view().account(&address)?;
        if contract.is_none_or(|account| account.code_hash == KECCAK256_EMPTY) {
            return Err(Rejection::SystemContractEmpty { address, eip }.into());
        }
        let reason = match self.call(address, Bytes::new())? {
            ExecutionResult::Success { output, .. } => return Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => format!("it reverts with {output}"),
            ExecutionResult::Halt { reason, .. } => format!("it halts: {reason:?}"),
        };
        Err(Rejection::SystemCallFailed { address, eip, reason }.into())
    }

    /// Calls a contract. If it fails or has no code, it changes nothing.
    fn call(&mut self, address: Address, data: Bytes) -> Result<ExecutionResult<HaltReason>, StateError> {
        let mut call = TxEnv::new_system_tx(address, data);
        call.gas_limit = SYSTEM_CALL_GAS;
        self.evm.ctx.set_tx(call);
        let mut handler = MainnetHandler::<_, EVMError<StateError>, EthFrame>::default();
        let outcome = handler.run_system_call(&mut self.evm);
        let state = self.evm.finalize();
        let result = outcome.map_err(|error| match error {
            EVMError::Database(error) => error,
            other => StateError::Evm(other.to_string()),
        })?;
        self.evm.ctx.journaled_state.database.commit(state);
        Ok(result)
    }
}
