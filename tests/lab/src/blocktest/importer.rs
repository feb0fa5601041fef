//! The chain of one case, imported like every chain: through the rules, the fleet and the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use common::account::AccountRecord;
use common::block::Block;
use common::chain_spec::ChainSpec;
use common::id::Height;
use engine::StateView;

use super::refusal::RefusalKind;
use coordinator::execute::{BlockExecutor, ExecuteError};
use coordinator::fleet::Fleet;
use coordinator::import::{self, ForkChoice};
use ledger::{Ledger, Origin};

/// Why a block does not become part of the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The block breaks a rule.
    #[error("{reason}")]
    Refused {
        /// The kind of the broken rule, to compare with the exception that the suite expects.
        kind: RefusalKind,
        /// The reason in words.
        reason: String,
    },
    /// The import failed without a verdict on the block.
    #[error("{0}")]
    Fault(String),
}

impl ImportError {
    fn fault(reason: impl ToString) -> Self {
        Self::Fault(reason.to_string())
    }
}

impl From<ExecuteError> for ImportError {
    fn from(error: ExecuteError) -> Self {
        // In a suite, a block whose parent was rejected or never given must be rejected too.
        if !error.is_invalid_block() && !error.is_unknown_parent() {
            return Self::fault(error);
        }
        Self::Refused { kind: RefusalKind::of(&error), reason: error.to_string() }
    }
}

/// Creates an importer without a chain. [`CaseChain::begin`] gives it one.
///
/// # Errors
/// [`ImportError::Fault`] if the fleet has ended.
pub fn idle_importer(fleet: Fleet, executor: BlockExecutor) -> Result<import::Importer, ImportError> {
    let nothing = Origin {
        spec: ChainSpec::mainnet(),
        height: Height(0),
        block_hash: B256::ZERO,
        header: None,
        accounts: Vec::new(),
        code: Vec::new(),
        ancestors: Vec::new(),
        complete: true,
    };
    let ledger = Arc::new(Ledger::begin(nothing).map_err(ImportError::fault)?);
    import::Importer::new(fleet, executor, ledger, ForkChoice::Latest).map_err(ImportError::fault)
}

/// One case's chain, on the importer that all cases of a run share.
#[derive(Debug)]
pub struct CaseChain<'a> {
    importer: &'a mut import::Importer,
}

impl<'a> CaseChain<'a> {
    /// Starts a chain at its origin, a genesis with its header.
    ///
    /// # Errors
    /// [`ImportError::Fault`] if the ledger cannot be created.
    pub fn begin(origin: Origin, importer: &'a mut import::Importer) -> Result<Self, ImportError> {
        let ledger = Ledger::begin(origin).map_err(ImportError::fault)?;
        importer.change_world(Arc::new(ledger)).map_err(ImportError::fault)?;
        Ok(Self { importer })
    }

    /// Imports one block from its RLP. A block that is already known is accepted again.
    ///
    /// # Errors
    /// [`ImportError`]; then nothing has changed.
    pub fn import(&mut self, rlp: &[u8]) -> Result<(), ImportError> {
        let block = Block::decode_exact(rlp).map_err(ExecuteError::from)?;
        self.importer.import(block)?;
        Ok(())
    }

    /// The head's hash and state root.
    #[must_use]
    pub fn head(&self) -> (B256, B256) {
        let head = self.importer.ledger().head();
        (head.summary().state.block_hash, head.state_root().unwrap_or_default())
    }

    /// Every account of the head's state.
    ///
    /// # Errors
    /// [`ImportError::Fault`] if the state cannot be read.
    pub fn accounts(&self) -> Result<BTreeMap<Address, AccountRecord>, ImportError> {
        let head = self.importer.ledger().head();
        let view = head.view();
        let mut accounts = BTreeMap::new();
        for address in view.addresses().map_err(ImportError::fault)? {
            if let Some(account) = view.account(&address).map_err(ImportError::fault)? {
                let mut storage = view.storage(&address).map_err(ImportError::fault)?;
                storage.sort_unstable();
                accounts.insert(address, AccountRecord { address, account, storage });
            }
        }
        Ok(accounts)
    }
}
