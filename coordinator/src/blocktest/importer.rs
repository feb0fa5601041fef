//! Imports the blocks of one case through fleet and ledger: side chains included, the head chosen
//! by total difficulty before the Merge and by the last import after it.
//!
//! The ledger goes along one chain only. For a block on another one it is built anew from the
//! origin and the deltas of the block's ancestors, which are all kept; so it serves cases of a few
//! hundred blocks and no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::Header;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256, U256};
use common::account::{AccountRecord, Delta};
use common::block::{Block, Ommers};
use executor_shard::engine::StateView;

use crate::execute::{BlockExecutor, ExecuteError};
use crate::fleet::Fleet;
use crate::ledger::{Ledger, Origin, state_root};
use crate::rules::{Ancestor, MAX_ANCESTORS, Parentage, check_block};

/// How long a shard may take to hold the state of a new case.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// What blocks are executed with: one for all cases of a run.
#[derive(Debug)]
pub struct Engine {
    /// The shards.
    pub fleet: Fleet,
    /// What has blocks executed by them.
    pub executor: BlockExecutor,
}

/// Why a block is not part of the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The block breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// Nothing can be said of the block.
    #[error("{0}")]
    Fault(String),
}

impl ImportError {
    fn refused(reason: impl ToString) -> Self {
        Self::Refused(reason.to_string())
    }

    fn fault(reason: impl ToString) -> Self {
        Self::Fault(reason.to_string())
    }
}

impl From<ExecuteError> for ImportError {
    fn from(error: ExecuteError) -> Self {
        if error.is_invalid_block() { Self::refused(error) } else { Self::fault(error) }
    }
}

/// A block that has been imported.
#[derive(Debug)]
struct Known {
    header: Header,
    ommers: Vec<B256>,
    total_difficulty: U256,
    state_root: B256,
    /// Whether it is past the Merge.
    merged: bool,
    /// What it and its transactions changed; none for the origin.
    block: Option<(Block, Arc<Delta>)>,
}

/// One case's chain.
#[derive(Debug)]
pub struct Importer<'a> {
    engine: &'a mut Engine,
    origin: Origin,
    known: HashMap<B256, Known>,
    head: B256,
    ledger: Arc<Ledger>,
    /// Whether the shards follow this ledger.
    attached: bool,
}

impl<'a> Importer<'a> {
    /// Begins a chain at its origin, a genesis with its header.
    ///
    /// # Errors
    /// [`ImportError::Fault`] when there is no header, or the ledger cannot be begun.
    pub fn begin(origin: Origin, engine: &'a mut Engine) -> Result<Self, ImportError> {
        let header = origin.header.clone().ok_or_else(|| ImportError::fault("the origin has no header"))?;
        let ledger = Arc::new(Ledger::begin(origin.clone()).map_err(ImportError::fault)?);
        let (_, view) = ledger.head_view().map_err(ImportError::fault)?;
        let genesis = Known {
            total_difficulty: header.difficulty,
            ommers: Vec::new(),
            state_root: state_root(&view).map_err(ImportError::fault)?,
            merged: false,
            block: None,
            header,
        };
        let head = origin.block_hash;
        let known = HashMap::from([(head, genesis)]);
        Ok(Self { engine, origin, known, head, ledger, attached: false })
    }

    /// Imports one block from its encoding. A block that is known already is accepted again.
    ///
    /// # Errors
    /// [`ImportError`] with nothing changed.
    pub fn import(&mut self, rlp: &[u8]) -> Result<(), ImportError> {
        let block = Block::decode_exact(rlp).map_err(ImportError::refused)?;
        if self.known.contains_key(&block.hash) {
            return Ok(());
        }
        block.check_body().map_err(ImportError::refused)?;
        let parent = block.header.parent_hash;
        let ancestors = self.ancestors(parent);
        let total_difficulty = self.known.get(&parent).map_or(U256::ZERO, |known| known.total_difficulty);
        let parentage = Parentage { total_difficulty, ancestors: &ancestors };
        check_block(&block, rlp.len(), &parentage, &self.origin.spec).map_err(ImportError::refused)?;
        self.move_to(parent)?;
        let (delta, state_root) = self.execute(&block)?;
        let merged = self.origin.spec.after(total_difficulty).is_paris_active_at_block(block.header.number);
        let ommers = match &block.ommers {
            Ommers::Headers(headers) => headers.iter().map(Header::hash_slow).collect(),
            Ommers::Hashes(hashes) => hashes.clone(),
        };
        let known = Known {
            total_difficulty: total_difficulty.saturating_add(block.header.difficulty),
            header: block.header.clone(),
            ommers,
            state_root,
            merged,
            block: Some((block.clone(), delta)),
        };
        if self.is_better(&known) {
            self.head = block.hash;
        }
        self.known.insert(block.hash, known);
        Ok(())
    }

    /// The head's hash and state root.
    #[must_use]
    pub fn head(&self) -> (B256, B256) {
        let root = self.known.get(&self.head).map_or(B256::ZERO, |known| known.state_root);
        (self.head, root)
    }

    /// Every account of the head's state.
    ///
    /// # Errors
    /// [`ImportError::Fault`] when the state cannot be read.
    pub fn accounts(&mut self) -> Result<BTreeMap<Address, AccountRecord>, ImportError> {
        self.move_to(self.head)?;
        let (_, view) = self.ledger.head_view().map_err(ImportError::fault)?;
        let mut accounts = BTreeMap::new();
        for address in view.addresses() {
            if let Some(account) = view.account(&address).map_err(ImportError::fault)? {
                let mut storage = view.storage(&address);
                storage.sort_unstable();
                accounts.insert(address, AccountRecord { address, account, storage });
            }
        }
        Ok(accounts)
    }

    /// After the Merge the consensus layer says which block is the head: whatever is imported last.
    /// Before it the chain with the most difficulty is, the first of equals.
    fn is_better(&self, block: &Known) -> bool {
        self.known.get(&self.head).is_none_or(|head| {
            block.merged || (!head.merged && block.total_difficulty > head.total_difficulty)
        })
    }

    fn ancestors(&self, parent: B256) -> Vec<Ancestor> {
        let mut ancestors = Vec::new();
        let mut next = parent;
        while let Some(known) = self.known.get(&next).filter(|_| ancestors.len() < MAX_ANCESTORS) {
            let header = known.header.clone();
            ancestors.push(Ancestor { hash: next, ommers: known.ommers.clone(), header });
            next = known.header.parent_hash;
        }
        ancestors
    }

    /// Moves the ledger to the state after this block.
    fn move_to(&mut self, hash: B256) -> Result<(), ImportError> {
        if self.ledger.head().summary.state.block_hash == hash {
            return Ok(());
        }
        let mut path = Vec::new();
        let mut next = hash;
        while let Some((block, delta)) = self.known.get(&next).and_then(|known| known.block.as_ref()) {
            path.push((block, delta));
            next = block.header.parent_hash;
        }
        let ledger = Ledger::begin(self.origin.clone()).map_err(ImportError::fault)?;
        for (block, delta) in path.into_iter().rev() {
            ledger.commit(block, delta).map_err(ImportError::fault)?;
        }
        self.ledger = Arc::new(ledger);
        self.attached = false;
        Ok(())
    }

    /// Executes, verifies and commits a block that follows the ledger's head.
    fn execute(&mut self, block: &Block) -> Result<(Arc<Delta>, B256), ImportError> {
        let Engine { fleet, executor } = &mut *self.engine;
        // Shards that would only look on need not be moved.
        if !self.attached && !block.transactions.is_empty() {
            fleet.set_world(Arc::clone(&self.ledger)).map_err(ImportError::fault)?;
            fleet.wait_ready(1, JOIN_WITHIN).map_err(ImportError::fault)?;
            self.attached = true;
        }
        let verified = executor.execute(block, &self.ledger, Vec::new())?;
        let root = verified.state_root.ok_or_else(|| ImportError::fault("the state is not complete"))?;
        self.ledger.commit(block, &verified.delta).map_err(ImportError::fault)?;
        if self.attached {
            fleet.advance(Arc::clone(&verified.delta)).map_err(ImportError::fault)?;
        }
        Ok((verified.delta, root))
    }
}
