//! The independent baseline: alloy-evm's own block executor on one thread, with sender recovery and
//! roots, over revm's `State`. It uses no speculation, no recording, and no part of this project's
//! engine. If alloy-evm differs from the specification, the baseline implements the rule itself: the
//! steps before and after the transactions (`edges`), EIP-7610 ([`CreationRule`]), a block's sum of
//! blobs, and the state roots in receipts before Byzantium. It rejects blocks that it cannot execute
//! (`check_supported`).
//!
//! The option `--sequential` of `lab run` and `lab import` measures it, and tests compare results with
//! it. The ledger below is the system's own, so the comparison concerns execution alone.

mod creation_rule;
mod edges;
mod state;

use std::ops::ControlFlow;
use std::time::Instant;

use alloy_consensus::transaction::{Recovered, SignerRecoverable};
use alloy_consensus::{Eip658Value, Receipt, ReceiptEnvelope, Transaction as _, TransactionEnvelope, TxType};
use alloy_eips::eip7685::Requests;
use alloy_evm::block::BlockExecutor;
use alloy_evm::eth::receipt_builder::{ReceiptBuilder, ReceiptBuilderCtx};
use alloy_evm::eth::{EthBlockExecutionCtx, EthBlockExecutor};
use alloy_evm::{Evm, EvmFactory};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY};
use common::account::{Account, AccountDelta, SlotValue};
use common::block::{Block, CheckedBlock, Transaction};
use common::chain_spec::ChainSpec;
use common::id::{Gas, TxIndex};
use engine::{ExecutorSpec, StateView};
use revm::Database;
use revm::database::State;
use revm::database::states::bundle_state::BundleRetention;
use revm::state::EvmState;

use state::{PlainState, account};

pub use creation_rule::CreationRule;

use coordinator::execute::{BlockEngine, BlockStats, ExecuteError, Verified, admit};
use coordinator::rules::Rejection;
use coordinator::validate::{Finished, ValidateError, verify_header};
use ledger::{IntermediateRoots, Tip};

/// The source of a block's transactions, one after another.
pub trait TransactionSource {
    /// The next transaction and its sender; `None` ends the block. `look` returns accounts as the previous
    /// transactions have left them.
    ///
    /// # Errors
    /// A [`Rejection`] that makes the block invalid without asking alloy-evm.
    fn next(&mut self, look: Look<'_>) -> Result<Option<(&Transaction, Address)>, Rejection>;

    /// Called when alloy-evm rejects the transaction. `Break` makes the block invalid, `Continue` leaves
    /// the transaction out.
    fn refused(&mut self, index: TxIndex, reason: String) -> ControlFlow<Rejection> {
        ControlFlow::Break(Rejection::Transaction { index, reason })
    }
}

/// Returns an account in its current state.
pub type Look<'a> = &'a mut dyn FnMut(Address) -> Option<Account>;

/// Executes a block with alloy-evm and recovers the senders from the signatures.
///
/// # Errors
/// [`ValidateError`] if the block is invalid.
pub fn execute_sequentially<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
) -> Result<Finished, ValidateError> {
    execute_rooted(block, spec, base, None)
}

/// Like [`execute_sequentially`], with the base state's roots if the whole state is known. Receipts
/// before Byzantium contain state roots.
///
/// # Errors
/// [`ValidateError`] if the block is invalid.
pub fn execute_rooted<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
    roots: Option<IntermediateRoots>,
) -> Result<Finished, ValidateError> {
    let (active, number) = (spec.at(&block.header), block.header.number);
    let signatures = SignatureRules {
        homestead: active.is_homestead_active_at_block(number),
        replay_protected: active.is_spurious_dragon_active_at_block(number),
    };
    let mut source = Listed { block, next: 0, signatures };
    execute_whole(block, spec, base, &mut source, CreationRule::default(), roots)
}

/// Executes a block with alloy-evm, with transactions from a source instead of the block's own.
///
/// # Errors
/// [`ValidateError`] if the block is invalid.
pub fn execute_from<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
    source: &mut dyn TransactionSource,
    rule: CreationRule,
) -> Result<Finished, ValidateError> {
    execute_whole(block, spec, base, source, rule, None)
}

fn execute_whole<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    base: &V,
    source: &mut dyn TransactionSource,
    rule: CreationRule,
    roots: Option<IntermediateRoots>,
) -> Result<Finished, ValidateError> {
    let fork = engine::spec_id(spec, &block.header);
    let base = &PlainState::new(base, fork, edges::dao_fork(block, spec, base)?);
    let outcome = execute_on(block, spec, base, source, rule, roots);
    // If a read from the disk failed, the result is not a verdict.
    match base.take_fault() {
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
    roots: Option<IntermediateRoots>,
) -> Result<Finished, ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let mut roots = roots.filter(|_| !active.is_byzantium_active_at_block(header.number));
    if let Some(roots) = &mut roots {
        roots.after(&base.alterations())?;
    }
    let mut db = State::builder().with_database_ref(base).with_bundle_update().build();
    let env = engine::evm_env(spec, header);
    edges::before_transactions(block, spec, &env, &mut db)?;
    let inspected = !rule.is_empty();
    let mut evm = alloy_evm::EthEvmFactory::default().create_evm_with_inspector(&mut db, env.clone(), rule);
    evm.set_inspector_enabled(inspected);
    let mut executor = EthBlockExecutor::new(evm, context(block), ExecutorSpec(active), Receipts);
    let most_blob_gas =
        spec.blob_params(header.timestamp).map_or(0, |params| params.max_blob_gas_per_block());
    loop {
        let index = TxIndex(u32::try_from(executor.receipts.len()).unwrap_or(u32::MAX));
        let db = executor.evm.db_mut();
        let mut look = |address| Database::basic(db, address).ok().flatten().map(|info| account(&info));
        let Some((transaction, sender)) = source.next(&mut look)? else { break };
        let blob_gas = transaction.blob_gas_used().unwrap_or_default();
        let executed = if blob_gas > most_blob_gas.saturating_sub(executor.blob_gas_used) {
            Err(format!("blob gas {blob_gas} exceeds what is left in the block"))
        } else {
            let recovered = || Recovered::new_unchecked(transaction, sender);
            let first = executor.execute_transaction_without_commit(recovered());
            let bare = first
                .as_ref()
                .map_or(Vec::new(), |output| bare_addresses(&output.result.state, base, executor.evm.db()));
            let outcome = if bare.is_empty() {
                first
            } else {
                bare.into_iter().for_each(|address| executor.evm.inspector_mut().add(address));
                executor.evm.set_inspector_enabled(true);
                let again = executor.execute_transaction_without_commit(recovered());
                executor.evm.set_inspector_enabled(inspected);
                again
            };
            outcome.map_err(|error| error.to_string())
        };
        match executed {
            Ok(output) => {
                let touched = if roots.is_some() { touched(&output.result.state) } else { Vec::new() };
                executor.commit_transaction(output);
                if let Some(roots) = &mut roots {
                    let root = roots.after(&changes_of(touched, executor.evm.db_mut()))?;
                    if let Some(ReceiptEnvelope::Legacy(last)) = executor.receipts.last_mut() {
                        last.receipt.status = Eip658Value::PostState(root);
                    }
                }
            }
            Err(reason) => {
                if let ControlFlow::Break(rejection) = source.refused(index, reason) {
                    return Err(rejection.into());
                }
            }
        }
    }
    let EthBlockExecutor { receipts, cumulative_tx_gas_used, blob_gas_used, evm, .. } = executor;
    drop(evm);
    let requests = edges::after_transactions(block, spec, &env, &mut db, &receipts)?;
    db.merge_transitions(BundleRetention::PlainState);
    let bundle = db.take_bundle();
    let changes = base.net_changes(&bundle);
    let code = code_of(&changes, |hash| bundle.contracts.get(hash).map(|code| code.original_bytes()));
    let gas = (Gas(cumulative_tx_gas_used), Gas(blob_gas_used));
    let rooted = roots.is_some() || active.is_byzantium_active_at_block(header.number);
    Ok(finished(receipts, rooted, gas, requests, changes, code))
}

/// The block's context for alloy-evm. The baseline itself does the steps before and after the
/// transactions, so it needs few fields.
fn context(block: &Block) -> EthBlockExecutionCtx<'_> {
    EthBlockExecutionCtx {
        parent_hash: block.header.parent_hash,
        parent_beacon_block_root: block.header.parent_beacon_block_root,
        ommers: &[],
        withdrawals: None,
        extra_data: block.header.extra_data.clone(),
        tx_count_hint: Some(block.transactions.len()),
        slot_number: None,
    }
}

/// The addresses that a transaction has loaded and at which a creation must fail only because of their
/// storage (EIP-7610). The base answers for the state before the block, and `db` tells whether the
/// block has deleted the account. A block cannot create such an account.
fn bare_addresses<V: StateView, D>(
    state: &EvmState,
    base: &PlainState<'_, V>,
    db: &State<D>,
) -> Vec<Address> {
    let new = |info: &revm::state::AccountInfo| info.nonce == 0 && info.code_hash == KECCAK256_EMPTY;
    let deleted =
        |address: &Address| db.cache.accounts.get(address).is_some_and(|known| known.status.was_destroyed());
    let loaded = state.iter().filter(|(_, account)| new(&account.original_info()));
    loaded.map(|(address, _)| *address).filter(|address| !deleted(address) && base.is_bare(address)).collect()
}

/// The changes of a transaction to one account: address, whether its old storage is deleted, and
/// changed slots.
type Touched = (Address, bool, Vec<SlotValue>);

fn touched(state: &EvmState) -> Vec<Touched> {
    let slots = |account: &revm::state::Account| {
        let changed = account.changed_storage_slots();
        changed.map(|(slot, value)| SlotValue { slot: *slot, value: value.present_value }).collect()
    };
    state
        .iter()
        .filter(|(_, account)| account.is_touched())
        .map(|(address, account)| {
            let gone = account.is_selfdestructed();
            (*address, gone || account.is_created(), if gone { Vec::new() } else { slots(account) })
        })
        .collect()
}

/// The changes of the transaction that was just committed.
fn changes_of(touched: Vec<Touched>, db: &mut impl Database) -> Vec<AccountDelta> {
    let delta = |(address, wiped, storage): Touched| {
        let account = db.basic(address).ok().flatten().map(|info| account(&info));
        AccountDelta { address, account, wiped, storage }
    };
    touched.into_iter().map(delta).collect()
}

/// alloy-evm's executor on the caller's thread, as an engine for the importer.
#[derive(Debug, Clone, Copy)]
pub struct Sequential;

impl BlockEngine for Sequential {
    fn execute(
        &mut self,
        block: &CheckedBlock,
        spec: &ChainSpec,
        parent: &Tip,
    ) -> Result<Verified, ExecuteError> {
        execute_and_verify(block, spec, parent)
    }
}

/// Executes a block on its parent's state with alloy-evm, and verifies it against its header. Commits
/// nothing.
///
/// # Errors
/// [`ExecuteError`] if the block is rejected, or if the ledger cannot be read.
pub fn execute_and_verify(
    block: &CheckedBlock,
    spec: &ChainSpec,
    parent: &Tip,
) -> Result<Verified, ExecuteError> {
    let began = Instant::now();
    admit(block, spec, parent)?;
    check_supported(block, spec)?;
    let finished = execute_rooted(block, spec, parent.view(), parent.intermediate_roots())?;
    let draft = parent.draft(finished.changes.clone(), finished.code.clone())?;
    verify_header(block, spec, &finished, draft.state_root())?;
    let tip = parent.seal(draft, block, &finished.receipts);
    let stats = BlockStats { elapsed: began.elapsed(), ..BlockStats::default() };
    Ok(Verified { state_root: tip.state_root(), tip, finished, stats })
}

/// Rejects blocks that the baseline would execute wrongly.
fn check_supported(block: &Block, spec: &ChainSpec) -> Result<(), ExecuteError> {
    let (active, number) = (spec.at(&block.header), block.header.number);
    let constantinople = active.is_constantinople_active_at_block(number);
    if constantinople && !active.is_petersburg_active_at_block(number) {
        let reason = "alloy-evm has no Constantinople without Petersburg (EIP-1283)";
        return Err(ExecuteError::Unsupported(reason.into()));
    }
    let fits = |transaction: &Transaction| {
        let gas = u128::from(transaction.gas_limit()).checked_mul(transaction.max_fee_per_gas());
        let blobs = transaction.max_fee_per_blob_gas().unwrap_or_default();
        let blobs = u128::from(transaction.blob_gas_used().unwrap_or_default()).checked_mul(blobs);
        gas.is_some() && blobs.is_some()
    };
    match block.transactions.iter().position(|transaction| !fits(transaction)) {
        None => Ok(()),
        Some(index) => Err(ExecuteError::Unsupported(format!(
            "transaction {index} may pay 2^128 wei or more for gas or blobs, which alloy-evm cannot count"
        ))),
    }
}

/// A block's own transactions as a source.
struct Listed<'a> {
    block: &'a Block,
    next: usize,
    signatures: SignatureRules,
}

/// What a block's fork demands of signatures.
#[derive(Debug, Clone, Copy)]
struct SignatureRules {
    /// Whether a high `s` is illegal (EIP-2).
    homestead: bool,
    /// Whether a signature may name the chain (EIP-155).
    replay_protected: bool,
}

impl TransactionSource for Listed<'_> {
    fn next(&mut self, _: Look<'_>) -> Result<Option<(&Transaction, Address)>, Rejection> {
        let index = self.next;
        let Some(transaction) = self.block.transactions.get(index) else { return Ok(None) };
        self.next += 1;
        let sender = recover(transaction, self.signatures);
        let index = TxIndex(u32::try_from(index).unwrap_or(u32::MAX));
        let sender = sender.map_err(|reason| Rejection::Transaction { index, reason })?;
        Ok(Some((transaction, sender)))
    }
}

fn recover(transaction: &Transaction, rules: SignatureRules) -> Result<Address, String> {
    let SignatureRules { homestead, replay_protected } = rules;
    if transaction.is_legacy() && transaction.chain_id().is_some() && !replay_protected {
        return Err("it names a chain id before EIP-155".into());
    }
    if homestead { transaction.recover_signer() } else { transaction.recover_signer_unchecked() }
        .map_err(|error| error.to_string())
}

/// The new code of the changed accounts, in ascending order of hash.
fn code_of(changes: &[AccountDelta], code: impl Fn(&B256) -> Option<Bytes>) -> Vec<(B256, Bytes)> {
    let hashes = changes.iter().filter_map(|delta| delta.account.map(|account| account.code_hash));
    let mut found: Vec<_> = hashes
        .filter(|hash| *hash != KECCAK256_EMPTY)
        .filter_map(|hash| code(&hash).map(|code| (hash, code)))
        .collect();
    found.sort_unstable_by_key(|(hash, _)| *hash);
    found.dedup_by_key(|(hash, _)| *hash);
    found
}

fn finished(
    receipts: Vec<ReceiptEnvelope>,
    rooted: bool,
    (gas_used, blob_gas_used): (Gas, Gas),
    requests: Option<Requests>,
    changes: Vec<AccountDelta>,
    code: Vec<(B256, Bytes)>,
) -> Finished {
    let receipts = receipts.iter().collect();
    Finished { receipts, rooted, gas_used, blob_gas_used, requests, changes, code, reexecuted: 0 }
}

/// Builds receipts in alloy's own form for blob transactions without sidecar.
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
