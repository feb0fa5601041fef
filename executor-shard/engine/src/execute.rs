//! The executor: one EVM over one view with its own overlay. It runs the transactions of a sub-block
//! or, in the coordinator, of a whole block.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use alloy_evm::{EvmEnv, FromRecoveredTx};
use alloy_primitives::{Address, U256};
use common::block::Transaction;
use common::codec::Word;
use common::id::Gas;
use common::receipt::EncodedLogs;
use common::work::{Effects, Executed, Transfer, TxOutcome};
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, ContextSetters, TxEnv};
use revm::handler::{MainBuilder, MainnetContext};
use revm::primitives::hardfork::SpecId;

use super::balances;
use super::charge;
use super::effects::ExecutedTx;
use super::evm::{ShardEvm, Transacted, transact};
use super::interrupt::{self, LONG_GAS, Stop};
use super::net_gas;
use super::overlay::{Layered, Overlay};
use super::recording::RecordingDb;
use super::view::{StateError, StateView};

/// The block's rules for committing a transaction.
#[derive(Debug, Clone, Copy)]
pub struct CommitRules {
    /// The account that receives the fees.
    pub beneficiary: Address,
    /// Whether touched empty accounts are deleted (EIP-161, from Spurious Dragon on).
    pub state_clear: bool,
}

impl CommitRules {
    /// The rules of a block.
    #[must_use]
    pub fn of(env: &EvmEnv) -> Self {
        Self {
            beneficiary: env.block_env.beneficiary,
            state_clear: env.cfg_env.spec.is_enabled_in(SpecId::SPURIOUS_DRAGON),
        }
    }
}

/// Executes transactions one after another over a base state and its own earlier writes.
///
/// ```
/// use alloy_consensus::Header;
/// use alloy_primitives::Address;
/// use common::block::Transaction;
/// use common::chain_spec::ChainSpec;
/// use common::work::TxOutcome;
/// use engine::{Executor, MemoryState, Overlay, StateError, evm_env};
///
/// /// Returns the number of transactions that can be part of the block.
/// fn count_valid(
///     header: &Header,
///     transactions: &[(Transaction, Address)],
///     state: &MemoryState,
/// ) -> Result<usize, StateError> {
///     let mut executor = Executor::new(evm_env(&ChainSpec::mainnet(), header), state, Overlay::default());
///     let mut valid = 0;
///     for (transaction, sender) in transactions {
///         if let TxOutcome::Executed(executed) = executor.execute(transaction, *sender)? {
///             // Later transactions see its writes; `state` does not change.
///             executor.commit(&executed)?;
///             valid += 1;
///         }
///     }
///     Ok(valid)
/// }
///
/// assert_eq!(count_valid(&Header::default(), &[], &MemoryState::default()), Ok(0));
/// ```
pub struct Executor<V: StateView> {
    evm: ShardEvm<Layered<V>>,
    rules: CommitRules,
    spec: SpecId,
    /// Whether jumps look at the flag that stops transactions.
    jumps_watched: bool,
}

impl<V: StateView> std::fmt::Debug for Executor<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("rules", &self.rules)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl<V: StateView> Executor<V> {
    /// Creates an executor for transactions of one block above `base`.
    #[must_use]
    pub fn new(env: EvmEnv, base: V, overlay: Overlay) -> Self {
        let rules = CommitRules::of(&env);
        let spec = env.cfg_env.spec;
        let net_gas = net_gas::is_wanted(&env);
        let db = RecordingDb::new(Layered { overlay, base }, spec);
        let context: MainnetContext<RecordingDb<Layered<V>>> = MainnetContext::new(db, spec);
        let EvmEnv { block_env, cfg_env } = env;
        let context: MainnetContext<RecordingDb<Layered<V>>> =
            context.with_block::<BlockEnv>(block_env).with_cfg::<CfgEnv>(cfg_env);
        let mut evm = context.build_mainnet();
        if net_gas {
            net_gas::install(&mut evm);
        }
        balances::install(&mut evm);
        Self { evm, rules, spec, jumps_watched: false }
    }

    /// Has transactions end with [`StateError::Stopped`] once `flag` is set.
    #[must_use]
    pub fn stop_when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.evm.ctx.journaled_state.database.stop = Stop::when(flag);
        self
    }

    /// The state that the next transaction sees.
    #[must_use]
    pub fn view(&self) -> &Layered<V> {
        &self.evm.ctx.journaled_state.database.view
    }

    /// The rules for commits.
    #[must_use]
    pub fn rules(&self) -> CommitRules {
        self.rules
    }

    /// The overlay and the base.
    pub fn layers_mut(&mut self) -> (&mut Overlay, &V) {
        let view = &mut self.evm.ctx.journaled_state.database.view;
        (&mut view.overlay, &view.base)
    }

    /// Ends the executor and returns its overlay and base.
    #[must_use]
    pub fn into_layers(self) -> Layered<V> {
        self.evm.ctx.journaled_state.database.view
    }

    /// Executes a transaction without writing its result: see [`Executor::commit`].
    ///
    /// # Errors
    /// [`StateError`] if the view is broken, or the transaction was interrupted. A transaction that cannot be part of
    /// the block is not an error but [`TxOutcome::Invalid`].
    pub fn execute(&mut self, transaction: &Transaction, sender: Address) -> Result<TxOutcome, StateError> {
        let tx = TxEnv::from_recovered_tx(transaction, sender);
        let required = charge::most_spent(&tx);
        let watched = tx.gas_limit > LONG_GAS && self.evm.ctx.journaled_state.database.stop.is_possible();
        if watched != self.jumps_watched {
            interrupt::watch_jumps(&mut self.evm, watched);
            self.jumps_watched = watched;
        }
        self.evm.ctx.cfg.memory_limit = interrupt::memory_limit(tx.gas_limit);
        self.evm.ctx.set_tx(tx);
        let Transacted { result, state, fee, is_paid } = transact(&mut self.evm);
        let recorded = self.evm.ctx.journaled_state.database.take();
        let result = match result {
            Ok(result) => result,
            Err(EVMError::Transaction(error)) => {
                return Ok(TxOutcome::Invalid { reads: recorded.reads, reason: error.to_string() });
            }
            Err(EVMError::Header(error)) => {
                return Ok(TxOutcome::Invalid { reads: recorded.reads, reason: error.to_string() });
            }
            Err(EVMError::Database(error)) => return Err(error),
            Err(EVMError::Custom(reason)) => return Err(StateError::Evm(reason)),
            Err(EVMError::CustomAny(error)) => return Err(StateError::Evm(error.to_string())),
        };
        let run = ExecutedTx {
            transaction,
            sender,
            succeeded_silently: result.is_success() && result.logs().is_empty(),
            state,
            recorded,
            required: required.unwrap_or(U256::MAX),
            beneficiary: self.rules.beneficiary,
            fee,
            is_paid,
        };
        let (effects, fee) = run.effects(self.spec);
        Ok(TxOutcome::Executed(Box::new(executed(result, fee, effects))))
    }

    /// Applies the writes of an executed transaction, and the fee it owes. Returns whether the
    /// beneficiary's balance still fits into 256 bits; if not, it stays unchanged.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn commit(&mut self, executed: &Executed) -> Result<bool, StateError> {
        let rules = self.rules;
        let (overlay, base) = self.layers_mut();
        match &executed.effects {
            Effects::Exact { writes, .. } => overlay.apply(base, writes)?,
            Effects::Transfer(transfer) => commit_transfer(overlay, base, transfer, rules.state_clear)?,
        }
        if let Some(Word(fee)) = executed.fee {
            return overlay.credit(base, rules.beneficiary, fee, rules.state_clear);
        }
        Ok(true)
    }
}

fn commit_transfer<V: StateView>(
    overlay: &mut Overlay,
    base: &V,
    transfer: &Transfer,
    state_clear: bool,
) -> Result<(), StateError> {
    let before = match overlay.get(&transfer.sender) {
        Some(entry) => entry.account,
        None => base.account(&transfer.sender)?,
    };
    let mut sender = before.unwrap_or_default();
    sender.balance = sender.balance.saturating_sub(transfer.debit);
    sender.nonce = transfer.nonce.saturating_add(1);
    overlay.set_account(transfer.sender, sender);
    // The validation has checked that the recipient's balance does not overflow.
    overlay.credit(base, transfer.recipient, transfer.credit, state_clear).map(|_| ())
}

fn executed(result: ExecutionResult<HaltReason>, fee: Option<U256>, effects: Effects) -> Executed {
    let gas = *result.gas();
    Executed {
        success: result.is_success(),
        gas_used: Gas(gas.tx_gas_used()),
        regular_gas: Gas(gas.block_regular_gas_used()),
        state_gas: Gas(gas.block_state_gas_used()),
        logs: EncodedLogs::new(&result.into_logs()),
        fee: fee.map(Word),
        effects,
    }
}
