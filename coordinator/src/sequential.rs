//! The independent baseline: alloy-evm's own block executor on one thread, with recovery and
//! roots, over revm's `State`. No speculation, no recording, nothing of this project's engine.
//!
//! It is what `--sequential` of `coordinator run` and `coordinator import` measures, and what tests
//! compare results with. The ledger below is the same, so that it is execution that is compared.

mod creation_rule;

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Instant;

use alloy_consensus::transaction::{Recovered, SignerRecoverable};
use alloy_consensus::{Eip658Value, Receipt, ReceiptEnvelope, TransactionEnvelope, TxType};
use alloy_evm::block::{BlockExecutionResult, BlockExecutor};
use alloy_evm::eth::receipt_builder::{ReceiptBuilder, ReceiptBuilderCtx};
use alloy_evm::eth::{EthBlockExecutionCtx, EthBlockExecutor};
use alloy_evm::{Evm, EvmFactory};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountDelta, SlotValue};
use common::block::{Block, Transaction};
use common::chain_spec::ChainSpec;
use common::id::{Gas, TxIndex};
use executor_shard::engine::{StateError, StateView};
use revm::database::states::bundle_state::BundleRetention;
use revm::database::{BundleState, State};
use revm::database_interface::DatabaseCommitExt;
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, Bytecode};
use revm::{Database, DatabaseRef};

pub use creation_rule::CreationRule;

use crate::execute::{BlockStats, ExecuteError, Verified, admit};
use crate::ledger::Tip;
use crate::validate::{Finished, Rejection, ValidateError, unknown_ommers_reward, verify_header};

/// Where the transactions of a block come from, one after another.
pub trait TransactionSource {
    /// The next transaction and its sender; none ends the block. `look` shows accounts as the
    /// transactions so far have left them.
    ///
    /// # Errors
    /// A [`Rejection`] that refuses the block without asking alloy-evm.
    fn next(&mut self, look: Look<'_>) -> Result<Option<(&Transaction, Address)>, Rejection>;

    /// alloy-evm says that the transaction cannot be part of the block. To break off refuses the
    /// block, to continue leaves the transaction out.
    fn refused(&mut self, index: TxIndex, reason: String) -> ControlFlow<Rejection> {
        ControlFlow::Break(Rejection::Transaction { index, reason })
    }
}

/// Shows an account as it is at this moment.
pub type Look<'a> = &'a mut dyn FnMut(Address) -> Option<Account>;

/// Executes a block as alloy-evm does, senders recovered from the signatures.
///
/// # Errors
/// [`ValidateError`] when the block is invalid.
pub fn execute_sequentially<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
) -> Result<Finished, ValidateError> {
    let homestead = spec.at(&block.header).is_homestead_active_at_block(block.header.number);
    let mut source = Listed { block, next: 0, senders: Senders::Recovered { homestead } };
    execute_from(block, spec, base, &mut source, CreationRule::default())
}

/// Executes a block as alloy-evm does, with senders that are known.
///
/// # Errors
/// [`ValidateError`] when the block is invalid.
pub fn execute_with_senders<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    senders: &[Address],
    base: &V,
    rule: CreationRule,
) -> Result<Finished, ValidateError> {
    let mut source = Listed { block, next: 0, senders: Senders::Known(senders) };
    execute_from(block, spec, base, &mut source, rule)
}

/// Executes a block as alloy-evm does, with transactions from a source instead of its own.
///
/// # Errors
/// [`ValidateError`] when the block is invalid.
pub fn execute_from<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
    source: &mut dyn TransactionSource,
    rule: CreationRule,
) -> Result<Finished, ValidateError> {
    let fork = spec.evm_env(&block.header).cfg_env.spec;
    let base = &PlainState { view: base, fork, fault: RefCell::default() };
    let outcome = execute_on(block, spec, base, source, rule);
    // What was answered wrongly for want of a disk is no verdict.
    match base.fault.take() {
        Some(fault) => Err(fault.into()),
        None => outcome,
    }
}

fn execute_on<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &PlainState<'_, V>,
    source: &mut dyn TransactionSource,
    rule: CreationRule,
) -> Result<Finished, ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let mut db = State::builder().with_database_ref(base).with_bundle_update().build();
    let env = spec.evm_env(header);
    let ctx = EthBlockExecutionCtx {
        parent_hash: header.parent_hash,
        parent_beacon_block_root: header.parent_beacon_block_root,
        ommers: block.ommers.headers(),
        withdrawals: block.withdrawals.as_deref().map(Into::into),
        extra_data: header.extra_data.clone(),
        tx_count_hint: Some(block.transactions.len()),
        slot_number: None,
    };
    let inspected = !rule.is_empty();
    let mut evm = alloy_evm::EthEvmFactory::default().create_evm_with_inspector(&mut db, env, rule);
    evm.set_inspector_enabled(inspected);
    let mut executor = EthBlockExecutor::new(evm, ctx, active, Receipts);
    executor.apply_pre_execution_changes().map_err(invalid)?;
    loop {
        let index = TxIndex(u32::try_from(executor.receipts.len()).unwrap_or(u32::MAX));
        let db = executor.evm.db_mut();
        let mut look = |address| Database::basic(db, address).ok().flatten().map(|info| account(&info));
        let Some((transaction, sender)) = source.next(&mut look)? else { break };
        let recovered = Recovered::new_unchecked(transaction, sender);
        if let Err(error) = executor.execute_transaction(recovered)
            && let ControlFlow::Break(rejection) = source.refused(index, error.to_string())
        {
            return Err(rejection.into());
        }
    }
    let (_, result) = executor.finish().map_err(invalid)?;
    // alloy-evm wants the ommers' headers, which JSON-RPC blocks do not have.
    db.increment_balances(unknown_ommers_reward(block, spec))
        .map_err(|error| invalid(format!("{error:?}")))?;
    db.merge_transitions(BundleRetention::PlainState);
    let bundle = db.take_bundle();
    Ok(finished(block, spec, result, &bundle, base))
}

/// Executes a block on its parent's state as alloy-evm does, and verifies it against its header.
/// Nothing is committed.
///
/// # Errors
/// [`ExecuteError`] when the block is refused, or the ledger cannot be read.
pub fn execute_and_verify(block: &Block, spec: &ChainSpec, parent: &Tip) -> Result<Verified, ExecuteError> {
    let began = Instant::now();
    admit(block, spec, parent)?;
    let finished = execute_sequentially(block, spec, parent.view())?;
    let draft = parent.draft(finished.changes.clone(), finished.code.clone())?;
    verify_header(block, spec, &finished, draft.state_root())?;
    let tip = parent.seal(draft, block, &finished.receipts);
    let stats = BlockStats { elapsed: began.elapsed(), ..BlockStats::default() };
    Ok(Verified { state_root: tip.state_root(), tip, finished, stats })
}

/// A block's own transactions.
struct Listed<'a> {
    block: &'a Block,
    next: usize,
    senders: Senders<'a>,
}

enum Senders<'a> {
    Recovered { homestead: bool },
    Known(&'a [Address]),
}

impl TransactionSource for Listed<'_> {
    fn next(&mut self, _: Look<'_>) -> Result<Option<(&Transaction, Address)>, Rejection> {
        let index = self.next;
        let Some(transaction) = self.block.transactions.get(index) else { return Ok(None) };
        self.next += 1;
        let sender = match self.senders {
            Senders::Recovered { homestead } => recover(transaction, homestead),
            Senders::Known(senders) => {
                senders.get(index).copied().ok_or_else(|| "its sender is not given".to_owned())
            }
        };
        let index = TxIndex(u32::try_from(index).unwrap_or(u32::MAX));
        let sender = sender.map_err(|reason| Rejection::Transaction { index, reason })?;
        Ok(Some((transaction, sender)))
    }
}

fn recover(transaction: &Transaction, homestead: bool) -> Result<Address, String> {
    if homestead { transaction.recover_signer() } else { transaction.recover_signer_unchecked() }
        .map_err(|error| error.to_string())
}

fn invalid(error: impl std::fmt::Display) -> ValidateError {
    Rejection::Block { field: "block", reason: error.to_string() }.into()
}

fn finished<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    result: BlockExecutionResult<ReceiptEnvelope>,
    bundle: &BundleState,
    base: &PlainState<'_, V>,
) -> Finished {
    let header = &block.header;
    let active = spec.at(header);
    let bloom = result
        .receipts
        .iter()
        .fold(alloy_primitives::Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
    let changes = net_changes(bundle, base);
    let mut code: Vec<_> = changes
        .iter()
        .filter_map(|delta| delta.account.map(|account| account.code_hash))
        .filter(|hash| *hash != KECCAK256_EMPTY)
        .filter_map(|hash| bundle.contracts.get(&hash).map(|code| (hash, code.original_bytes())))
        .collect();
    code.sort_unstable_by_key(|(hash, _)| *hash);
    code.dedup_by_key(|(hash, _)| *hash);
    Finished {
        rooted: active.is_byzantium_active_at_block(header.number),
        receipts: result.receipts,
        gas_used: Gas(result.gas_used),
        blob_gas_used: Gas(result.blob_gas_used),
        bloom,
        requests: active.is_prague_active_at_timestamp(header.timestamp).then_some(result.requests),
        changes,
        code,
        reexecuted: 0,
    }
}

/// The bundle in the same canonical form as the overlay's changes.
fn net_changes<V: StateView>(bundle: &BundleState, base: &PlainState<'_, V>) -> Vec<AccountDelta> {
    let mut deltas = Vec::new();
    for (address, changed) in &bundle.state {
        let before = base.known(base.view.account(address));
        let account = changed.info.as_ref().map(account);
        let gone = (changed.was_destroyed() || account.is_none()) && before.is_some();
        let wiped = gone && base.known(base.view.any_slot(address, &|_| true));
        let mut storage: Vec<SlotValue> = changed
            .storage
            .iter()
            .map(|(slot, value)| SlotValue { slot: *slot, value: value.present_value })
            .filter(|entry| {
                let was = if wiped { U256::ZERO } else { base.known(base.view.slot(address, &entry.slot)) };
                was != entry.value
            })
            .collect();
        storage.sort_unstable();
        if before != account || wiped || !storage.is_empty() {
            deltas.push(AccountDelta { address: *address, account, wiped, storage });
        }
    }
    deltas.sort_unstable_by_key(|delta| delta.address);
    deltas
}

fn account(info: &AccountInfo) -> Account {
    Account { balance: info.balance, nonce: info.nonce, code_hash: info.code_hash }
}

/// The state as revm asks for it.
#[derive(Debug)]
struct PlainState<'a, V> {
    view: &'a V,
    /// Decides what code means.
    fork: SpecId,
    /// The first thing that could not be read.
    fault: RefCell<Option<StateError>>,
}

impl<V> PlainState<'_, V> {
    /// An answer, or nothing and a note that there was none.
    fn known<T: Default>(&self, answer: Result<T, StateError>) -> T {
        answer.unwrap_or_else(|error| {
            self.fault.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

impl<V: StateView> DatabaseRef for &PlainState<'_, V> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.known(self.view.account(&address)).map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: (account.code_hash == KECCAK256_EMPTY).then(Bytecode::default),
            account_id: None,
        }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.known(self.view.code(&hash)).under(self.fork))
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.known(self.view.slot(&address, &slot)))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(self.known(self.view.block_hash(number)))
    }
}

/// Receipts of alloy's own form for blob transactions without sidecar.
#[derive(Debug, Clone, Copy)]
struct Receipts;

impl ReceiptBuilder for Receipts {
    type Transaction = Transaction;
    type Receipt = ReceiptEnvelope;

    fn build_receipt<E: Evm>(
        &self,
        ctx: ReceiptBuilderCtx<'_, <Transaction as TransactionEnvelope>::TxType, E>,
    ) -> ReceiptEnvelope {
        let tx_type: TxType = ctx.tx_type;
        let receipt = Receipt {
            status: Eip658Value::Eip658(ctx.result.is_success()),
            cumulative_gas_used: ctx.cumulative_gas_used,
            logs: ctx.result.into_logs(),
        };
        ReceiptEnvelope::from_typed(tx_type, receipt.with_bloom())
    }
}
