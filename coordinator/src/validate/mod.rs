//! The validator: it takes the speculative results of a block's transactions in block order, keeps
//! those whose reads hold (see `check`), executes the others again, and finishes the block.
//!
//! Invariant: [`Validator::finish`] returns the result of sequential execution, whatever base state the
//! speculation used, if this engine made the speculative results. (The header exposes a dishonest shard
//! if a field covers the false value.) The validator knows no shard, no network and no clock.

mod block_rules;
mod check;
mod deposit;
mod header;
mod system_call;

use alloy_consensus::{Eip658Value, Transaction as _};
use alloy_eips::eip7685::Requests;
use alloy_evm::EvmEnv;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256, Bytes};
use common::account::AccountDelta;
use common::account::AccountWrite;
use common::block::{Block, Prelude};
use common::chain_spec::ChainSpec;
use common::id::{Gas, TxIndex};
use common::receipt::{EncodedLogs, Receipts};
use common::work::{Effects, Executed, TxOutcome};
use engine::{Executor, StateError, StateView};

use crate::rules::Rejection;

pub use block_rules::{credit_overflows, unknown_ommers_reward};
pub use deposit::deposits;
pub use header::verify_header;
pub use system_call::SYSTEM_CALL_GAS;

/// State roots between the transactions of a block. Receipts before Byzantium contain them. The holder
/// of the state trie provides them.
pub trait StateRoots: std::fmt::Debug + Send {
    /// The root after further changes.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the trie cannot be read.
    fn after(&mut self, changes: &[AccountDelta]) -> Result<B256, StateError>;
}

/// The reason why a block cannot be validated further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// The block is rejected.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The base state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The results of a block's execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The receipts in order. Before Byzantium they may lack the state root (see [`Finished::rooted`]).
    pub receipts: Receipts,
    /// Whether the receipts are complete, so that their root can be computed.
    pub rooted: bool,
    /// Gas used by the block, as the header counts it.
    pub gas_used: Gas,
    /// Blob gas used by the block.
    pub blob_gas_used: Gas,
    /// Execution requests (EIP-7685), from Prague on.
    pub requests: Option<Requests>,
    /// The block's changes to the state.
    pub changes: Vec<AccountDelta>,
    /// The code that is new.
    pub code: Vec<(B256, Bytes)>,
    /// The number of transactions whose speculative result was stale or missing.
    pub reexecuted: u32,
}

/// Validates the results of one block in the order of its transactions.
#[derive(Debug)]
pub struct Validator<'a, V: StateView> {
    block: &'a Block,
    spec: &'a ChainSpec,
    env: EvmEnv,
    executor: Executor<V>,
    receipts: Receipts,
    gas: GasCount,
    /// Whether the header covers the receipts, so that they need no check of their own.
    rooted: bool,
    reexecuted: u32,
    /// The source of state roots; `None` unless receipts contain them and the whole state is known.
    roots: Option<Box<dyn StateRoots>>,
}

/// The gas counted towards the block.
#[derive(Debug, Clone, Copy, Default)]
struct GasCount {
    /// After refunds, as receipts accumulate it.
    cumulative: u64,
    /// The two dimensions that count from Amsterdam on (EIP-7778, EIP-8037).
    regular: u64,
    state: u64,
    /// Blob gas that the transactions have used (EIP-4844).
    blob: u64,
}

impl<'a, V: StateView> Validator<'a, V> {
    /// Begins a block on its base state and applies the changes before its transactions. `roots` are the
    /// base state's roots, or `None` if the whole state is not known. Receipts before Byzantium need them.
    ///
    /// # Errors
    /// [`ValidateError`] if a system call fails or the state cannot be read.
    pub fn begin(
        block: &'a Block,
        spec: &'a ChainSpec,
        base: V,
        roots: Option<Box<dyn StateRoots>>,
    ) -> Result<Self, ValidateError> {
        let env = engine::evm_env(spec, &block.header);
        let overlay = block_rules::before_transactions(block, spec, env.clone(), &base)?;
        let byzantium = spec.at(&block.header).is_byzantium_active_at_block(block.header.number);
        let mut roots = roots.filter(|_| !byzantium);
        if let Some(roots) = &mut roots {
            roots.after(&overlay.net_changes(&base)?)?;
        }
        let executor = Executor::new(env.clone(), base, overlay);
        let rooted = byzantium || roots.is_some();
        Ok(Self {
            block,
            spec,
            env,
            executor,
            receipts: Receipts::with_capacity(block.transactions.len()),
            gas: GasCount::default(),
            rooted,
            reexecuted: 0,
            roots,
        })
    }

    /// The changes before the transactions, in the form that shards receive.
    ///
    /// # Errors
    /// [`ValidateError::State`] if the base cannot be read.
    pub fn prelude(&mut self) -> Result<Prelude, ValidateError> {
        let (overlay, base) = self.executor.layers_mut();
        Ok(Prelude { accounts: overlay.net_changes(base)? })
    }

    /// The index of the next transaction.
    #[must_use]
    pub fn next(&self) -> TxIndex {
        TxIndex(u32::try_from(self.receipts.len()).unwrap_or(u32::MAX))
    }

    /// The number of transactions executed again so far.
    #[must_use]
    pub fn reexecuted(&self) -> u32 {
        self.reexecuted
    }

    /// Takes the speculative result of the next transaction, if there is one. The result counts if its
    /// reads hold; otherwise the transaction is executed again.
    ///
    /// # Errors
    /// [`ValidateError::Rejected`] if the transaction cannot be part of the block.
    pub fn advance(&mut self, sender: Address, speculative: Option<TxOutcome>) -> Result<(), ValidateError> {
        let index = self.next();
        let block = self.block;
        let Some(transaction) = block.transactions.get(index.0 as usize) else {
            return Err(Rejection::Block { field: "transactions", reason: "there are no more".into() }.into());
        };
        self.check_room(index, transaction)?;
        let outcome = match speculative {
            // A shard's result alone never makes a block invalid: a transaction that a shard calls invalid is
            // executed again.
            Some(TxOutcome::Executed(executed))
                if self.logs_hold(&executed.logs)
                    && check::is_valid(self.executor.view(), transaction, sender, &executed)? =>
            {
                TxOutcome::Executed(executed)
            }
            _ => {
                self.reexecuted += 1;
                self.executor.execute(transaction, sender)?
            }
        };
        match outcome {
            TxOutcome::Executed(executed) => self.commit(transaction, *executed),
            TxOutcome::Invalid { reason, .. } => Err(Rejection::Transaction { index, reason }.into()),
        }
    }

    /// Whether a shard's logs can go into a receipt. If the header covers the receipts, its root decides
    /// about their content; otherwise nothing else would.
    fn logs_hold(&self, logs: &EncodedLogs) -> bool {
        if self.rooted { logs.bloom().is_some() } else { logs.is_sound() }
    }

    /// Checks that the transaction's gas and blobs fit into the rest of the block's.
    fn check_room(&self, index: TxIndex, transaction: &common::block::Transaction) -> Result<(), Rejection> {
        let limit = self.block.header.gas_limit;
        let refuse = |reason: String| Err(Rejection::Transaction { index, reason });
        let amsterdam = self.env.cfg_env.enable_amsterdam_eip8037;
        let used = if amsterdam { self.gas.regular } else { self.gas.cumulative };
        let wanted = transaction.gas_limit();
        let counted = wanted.min(self.env.cfg_env.tx_gas_limit_cap.unwrap_or(u64::MAX));
        if counted > limit.saturating_sub(used) {
            return refuse(format!(
                "gas limit {counted} exceeds the {} left in the block",
                limit.saturating_sub(used)
            ));
        }
        if amsterdam && wanted > limit.saturating_sub(self.gas.state) {
            let left = limit.saturating_sub(self.gas.state);
            return refuse(format!("gas limit {wanted} exceeds the {left} of state gas left in the block"));
        }
        let blobs = transaction.blob_gas_used().unwrap_or_default();
        let most = self
            .spec
            .blob_params(self.block.header.timestamp)
            .map_or(0, |params| params.max_blob_gas_per_block());
        if blobs > most.saturating_sub(self.gas.blob) {
            let left = most.saturating_sub(self.gas.blob);
            return refuse(format!("blob gas {blobs} exceeds the {left} left in the block"));
        }
        Ok(())
    }

    fn commit(
        &mut self,
        transaction: &common::block::Transaction,
        executed: Executed,
    ) -> Result<(), ValidateError> {
        if !self.executor.commit(&executed)? {
            return Err(credit_overflows(self.executor.rules().beneficiary).into());
        }
        let gas = &mut self.gas;
        gas.cumulative = gas.cumulative.saturating_add(executed.gas_used.0);
        gas.regular = gas.regular.saturating_add(executed.regular_gas.0);
        gas.state = gas.state.saturating_add(executed.state_gas.0);
        gas.blob = gas.blob.saturating_add(transaction.blob_gas_used().unwrap_or_default());
        let status = match &mut self.roots {
            Some(roots) => Eip658Value::PostState(roots.after(&changes_of(&self.executor, &executed)?)?),
            None => Eip658Value::Eip658(executed.success),
        };
        let (kind, logs) = (transaction.tx_type(), &executed.logs);
        let bloom = logs.bloom().unwrap_or_default();
        self.receipts.push(kind, &status, self.gas.cumulative, &logs.list, &bloom);
        Ok(())
    }

    /// Finishes the block: requests, rewards, withdrawals. It does not check the header: see
    /// [`verify_header`].
    ///
    /// # Errors
    /// [`ValidateError`] if transactions are missing, a system call fails or the state cannot be read.
    pub fn finish(self) -> Result<Finished, ValidateError> {
        let missing = self.block.transactions.len().saturating_sub(self.receipts.len());
        if missing > 0 {
            let reason = format!("{missing} have not been executed");
            return Err(Rejection::Block { field: "transactions", reason }.into());
        }
        let layers = self.executor.into_layers();
        let (overlay, requests) =
            block_rules::after_transactions(self.block, self.spec, self.env.clone(), layers, &self.receipts)?;
        let changes = overlay.overlay.net_changes(&overlay.base)?;
        let code = overlay.overlay.code_of(&changes);
        let gas_used = if self.env.cfg_env.enable_amsterdam_eip8037 {
            self.gas.regular.max(self.gas.state)
        } else {
            self.gas.cumulative
        };
        Ok(Finished {
            receipts: self.receipts,
            rooted: self.rooted,
            gas_used: Gas(gas_used),
            blob_gas_used: Gas(self.gas.blob),
            requests,
            changes,
            code,
            reexecuted: self.reexecuted,
        })
    }
}

/// Executes a whole block one transaction after another with this engine and without any shard's
/// result. It is the last resort, and it judges results that disagree.
///
/// # Errors
/// The errors of [`Validator`]'s methods.
pub fn execute_trusted<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    senders: &[Address],
    base: V,
    roots: Option<Box<dyn StateRoots>>,
) -> Result<Finished, ValidateError> {
    let mut validator = Validator::begin(block, spec, base, roots)?;
    for sender in senders {
        validator.advance(*sender, None)?;
    }
    validator.finish()
}

/// The changes of the transaction that was just committed, against the state before it.
fn changes_of<V: StateView>(
    executor: &Executor<V>,
    executed: &Executed,
) -> Result<Vec<AccountDelta>, StateError> {
    let mut touched = Vec::new();
    match &executed.effects {
        Effects::Exact { writes, .. } => {
            for (address, write) in &writes.accounts {
                touched.push(match write {
                    AccountWrite::Delete => (*address, true, Vec::new()),
                    AccountWrite::Create { storage, .. } => (*address, true, storage.clone()),
                    AccountWrite::Add { storage, .. } | AccountWrite::Update { storage, .. } => {
                        (*address, false, storage.clone())
                    }
                });
            }
        }
        Effects::Transfer(transfer) => {
            touched.extend([transfer.sender, transfer.recipient].map(|address| (address, false, Vec::new())));
        }
    }
    let beneficiary = executor.rules().beneficiary;
    if executed.fee.is_some() && touched.iter().all(|(address, _, _)| *address != beneficiary) {
        touched.push((beneficiary, false, Vec::new()));
    }
    touched
        .into_iter()
        .map(|(address, wiped, storage)| {
            let account = executor.view().account(&address)?;
            Ok(AccountDelta { address, account, wiped, storage })
        })
        .collect()
}

#[cfg(test)]
mod balance_tests;
#[cfg(test)]
mod tests;
