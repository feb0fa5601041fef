//! The executor: one EVM over one view with its own overlay. It runs the transactions of a sub-block
//! or, in the coordinator, of a whole block.

use alloy_consensus::Transaction as _;
use alloy_evm::{EvmEnv, FromRecoveredTx};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountWrite, SlotValue, WriteSet};
use common::block::Transaction;
use common::codec::Word;
use common::id::Gas;
use common::receipt::EncodedLogs;
use common::work::{Effects, Executed, ReadSet, Transfer, TxOutcome};
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, ContextSetters, TxEnv};
use revm::handler::{MainBuilder, MainnetContext};
use revm::primitives::hardfork::SpecId;
use revm::state::{Account as EvmAccount, EvmState};

use super::charge;
use super::evm::{ShardEvm, Transacted, transact};
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
        Self { evm, rules, spec }
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

    /// The overlay, for changes outside of transactions.
    pub fn overlay_mut(&mut self) -> &mut Overlay {
        &mut self.evm.ctx.journaled_state.database.view.overlay
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
    /// [`StateError`] if the view is broken. A transaction that cannot be part of the block is not an error
    /// but [`TxOutcome::Invalid`].
    pub fn execute(&mut self, transaction: &Transaction, sender: Address) -> Result<TxOutcome, StateError> {
        let tx = TxEnv::from_recovered_tx(transaction, sender);
        let required = charge::most_spent(&tx);
        self.evm.ctx.set_tx(tx);
        let Transacted { result, state, fee } = transact(&mut self.evm);
        let reads = self.evm.ctx.journaled_state.database.take_reads();
        let result = match result {
            Ok(result) => result,
            Err(EVMError::Transaction(error)) => {
                return Ok(TxOutcome::Invalid { reads, reason: error.to_string() });
            }
            Err(EVMError::Header(error)) => {
                return Ok(TxOutcome::Invalid { reads, reason: error.to_string() });
            }
            Err(EVMError::Database(error)) => return Err(error),
            Err(EVMError::Custom(reason)) => return Err(StateError::Evm(reason)),
            Err(EVMError::CustomAny(error)) => return Err(StateError::Evm(error.to_string())),
        };
        let required = required.unwrap_or(U256::MAX);
        let effects = match self.as_transfer(transaction, sender, &result, &state, &reads, fee, required) {
            Some(transfer) => Effects::Transfer(transfer),
            None => Effects::Exact { reads, writes: write_set(state) },
        };
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
            Effects::Exact { writes, .. } => overlay.apply(writes),
            Effects::Transfer(transfer) => commit_transfer(overlay, base, transfer, rules.state_clear)?,
        }
        if let Some(Word(fee)) = executed.fee {
            return overlay.credit(base, rules.beneficiary, fee, rules.state_clear);
        }
        Ok(true)
    }

    /// The transaction as additions, if that form is exact: it succeeded, sets no code, and loaded only its
    /// sender and a recipient without code, neither of them the beneficiary.
    #[allow(clippy::too_many_arguments)]
    fn as_transfer(
        &self,
        transaction: &Transaction,
        sender: Address,
        result: &ExecutionResult<HaltReason>,
        state: &EvmState,
        reads: &ReadSet,
        fee: Option<U256>,
        required: U256,
    ) -> Option<Transfer> {
        let recipient = transaction.to()?;
        let plain = result.is_success()
            // Amsterdam prices a transfer by whether the recipient exists, and logs the transfer.
            && !self.spec.is_enabled_in(SpecId::AMSTERDAM)
            && !transaction.is_eip7702()
            && fee.is_some()
            && recipient != sender
            && state.len() == 2
            && reads.accounts.len() == 2
            && reads.block_hashes.is_empty()
            && result.logs().is_empty();
        if !plain {
            return None;
        }
        let payer = read_account(reads, &sender)??;
        let payee = read_account(reads, &recipient)?;
        let (after_sender, after_recipient) = (state.get(&sender)?, state.get(&recipient)?);
        let untangled = |account: &EvmAccount| account.storage.is_empty() && !account.is_selfdestructed();
        let exact = untangled(after_sender)
            && untangled(after_recipient)
            && payee.is_none_or(|account| account.code_hash == KECCAK256_EMPTY)
            && after_recipient.info.code_hash == KECCAK256_EMPTY
            && after_sender.info.code_hash == payer.code_hash
            && after_sender.info.nonce == payer.nonce.checked_add(1)?
            && after_recipient.info.nonce == payee.map_or(0, |account| account.nonce);
        if !exact {
            return None;
        }
        let debit = payer.balance.checked_sub(after_sender.info.balance)?;
        let credit =
            after_recipient.info.balance.checked_sub(payee.map_or(U256::ZERO, |account| account.balance))?;
        // A blob transaction also pays for its blobs, at a price that depends only on the header.
        Some(Transfer {
            sender,
            nonce: payer.nonce,
            code_hash: payer.code_hash,
            required,
            debit,
            recipient,
            credit,
        })
    }
}

/// The value that was read of an account, if the account as a whole was read and nothing else of it.
fn read_account(reads: &ReadSet, address: &Address) -> Option<Option<Account>> {
    let entry = reads.accounts.iter().find(|entry| entry.address == *address)?;
    let alone = entry.slots.is_empty() && entry.has_storage.is_none();
    if alone { entry.account } else { None }
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

/// Derives a transaction's writes from revm's flags, not from differences of values.
pub(super) fn write_set(state: EvmState) -> WriteSet {
    let mut accounts = Vec::with_capacity(state.len());
    let mut code: Vec<(B256, Bytes)> = Vec::new();
    for (address, account) in state {
        if !account.is_touched() {
            continue;
        }
        let value = Account {
            balance: account.info.balance,
            nonce: account.info.nonce,
            code_hash: account.info.code_hash,
        };
        let write = if account.is_selfdestructed() {
            AccountWrite::Delete
        } else if account.is_created() {
            AccountWrite::Create { account: value, storage: changed_slots(&account) }
        } else if value.is_empty() {
            AccountWrite::Delete
        } else {
            AccountWrite::Update { account: value, storage: changed_slots(&account) }
        };
        if !matches!(write, AccountWrite::Delete)
            && value.code_hash != KECCAK256_EMPTY
            && (account.is_created() || account.original_info().code_hash != value.code_hash)
            && let Some(bytes) = &account.info.code
        {
            code.push((value.code_hash, bytes.original_bytes()));
        }
        accounts.push((address, write));
    }
    accounts.sort_unstable_by_key(|(address, _)| *address);
    code.sort_unstable_by_key(|(hash, _)| *hash);
    code.dedup_by_key(|(hash, _)| *hash);
    WriteSet { accounts, code }
}

fn changed_slots(account: &EvmAccount) -> Vec<SlotValue> {
    let mut slots: Vec<SlotValue> = account
        .changed_storage_slots()
        .map(|(slot, value)| SlotValue { slot: *slot, value: value.present_value })
        .collect();
    slots.sort_unstable();
    slots
}
