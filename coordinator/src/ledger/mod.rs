//! The ledger: the state of one world and the head of its chain, in memory, and the log of its
//! blocks on disk. Only the ledger commits.
//!
//! It decides nothing about blocks: what it is given to commit has been validated.

mod block_log;
mod root;

use std::sync::{Arc, Mutex, PoisonError};

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes, U256};
use common::account::{AccountDelta, AccountRecord, Delta};
use common::block::Block;
use common::chain_spec::ChainSpec;
use common::codec::{self, CodecError};
use common::id::{Height, StateRef, WorldId};
use common::message::StateSummary;
use executor_shard::engine::{MemoryState, StateError};
use executor_shard::replica::{Replica, ReplicaError, ReplicaView};

pub use block_log::{BlockLog, LogError};
pub use root::state_root;

/// What a world begins with.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The rules of its chain.
    pub spec: ChainSpec,
    /// The height of the block after which this is the state.
    pub height: Height,
    /// The hash of that block.
    pub block_hash: B256,
    /// The header of that block, where it is known: needed to check what follows it.
    pub header: Option<Header>,
    /// All accounts, or those that one block reads.
    pub accounts: Vec<AccountRecord>,
    /// Code by hash.
    pub code: Vec<(B256, Bytes)>,
    /// Ancestors by number.
    pub ancestors: Vec<(u64, B256)>,
    /// Whether `accounts` are all there are, so that the state root can be computed.
    pub complete: bool,
}

/// Why the ledger does not take a block.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The world cannot be named.
    #[error("the world cannot be named: {0}")]
    World(#[from] CodecError),
    /// The block does not follow the head.
    #[error("block {number} ({hash}) has parent {parent}, the head is {head} at {head_hash}")]
    NotNext {
        /// The block's number.
        number: u64,
        /// Its hash.
        hash: B256,
        /// Its parent's hash.
        parent: B256,
        /// The head's height.
        head: Height,
        /// The head's hash.
        head_hash: B256,
    },
    /// The delta cannot be applied.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The head of the chain.
#[derive(Debug, Clone)]
pub struct Head {
    /// The state after it.
    pub summary: StateSummary,
    /// Its header, where it is known.
    pub header: Option<Header>,
    /// Blocks committed since the origin.
    pub blocks: u64,
}

/// One world's ledger.
#[derive(Debug)]
pub struct Ledger {
    spec: Arc<ChainSpec>,
    state: Replica,
    head: Mutex<Head>,
    origin: StateRef,
    complete: bool,
}

impl Ledger {
    /// Begins a world.
    ///
    /// # Errors
    /// [`LedgerError::World`] when its rules cannot be encoded.
    pub fn begin(origin: Origin) -> Result<Self, LedgerError> {
        let mut state = MemoryState::default();
        for record in origin.accounts {
            state.insert(record);
        }
        for (hash, code) in origin.code {
            state.insert_code(hash, code);
        }
        for (number, hash) in &origin.ancestors {
            state.insert_ancestor(*number, *hash);
        }
        let world = world_id(&origin.spec, &state, &origin.ancestors, origin.block_hash)?;
        let at = StateRef { world, height: origin.height, block_hash: origin.block_hash };
        let summary = StateSummary { state: at, digest: state.digest() };
        let replica = Replica::default();
        replica.replace(summary, origin.spec.clone(), state);
        let head = Mutex::new(Head { summary, header: origin.header, blocks: 0 });
        let complete = origin.complete;
        Ok(Self { spec: Arc::new(origin.spec), state: replica, head, origin: at, complete })
    }

    /// The rules of the chain.
    #[must_use]
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.spec
    }

    /// The state that the world began with.
    #[must_use]
    pub fn origin(&self) -> StateRef {
        self.origin
    }

    /// Whether the whole state is here, so that state roots can be computed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A view of this state, if it is the head's.
    #[must_use]
    pub fn view(&self, state: StateRef) -> Option<ReplicaView> {
        self.state.view(state)
    }

    /// A view of the head's state.
    ///
    /// # Errors
    /// [`LedgerError::Replica`] if the state has been given up.
    pub fn head_view(&self) -> Result<(StateSummary, ReplicaView), LedgerError> {
        let summary = self.head().summary;
        let gone = || ReplicaError::NotAtBase { at: None, from: summary.state };
        Ok((summary, self.state.view(summary.state).ok_or_else(gone)?))
    }

    /// The delta of a validated block on the head's state.
    ///
    /// # Errors
    /// [`LedgerError`] when the block does not follow the head, or the state cannot be read.
    pub fn delta(
        &self,
        block: &Block,
        accounts: Vec<AccountDelta>,
        code: Vec<(B256, Bytes)>,
    ) -> Result<Delta, LedgerError> {
        let (head, view) = self.head_view()?;
        self.check_next(block)?;
        let from = head.state;
        let to = StateRef { world: from.world, height: block.height(), block_hash: block.hash };
        let mut delta = Delta { from, to, accounts, code, digest: U256::ZERO };
        delta.digest = view.digest_after(head.digest, &delta)?;
        Ok(delta)
    }

    /// Whether the block follows the head.
    ///
    /// # Errors
    /// [`LedgerError::NotNext`].
    pub fn check_next(&self, block: &Block) -> Result<(), LedgerError> {
        let at = self.head().summary.state;
        let follows = block.header.parent_hash == at.block_hash && block.header.number == at.height.0 + 1;
        if follows {
            return Ok(());
        }
        Err(LedgerError::NotNext {
            number: block.header.number,
            hash: block.hash,
            parent: block.header.parent_hash,
            head: at.height,
            head_hash: at.block_hash,
        })
    }

    /// Commits a validated block.
    ///
    /// # Errors
    /// [`LedgerError`] with nothing changed.
    pub fn commit(&self, block: &Block, delta: &Arc<Delta>) -> Result<StateSummary, LedgerError> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = self.state.apply(delta)?;
        *head = Head { summary, header: Some(block.header.clone()), blocks: head.blocks + 1 };
        Ok(summary)
    }
}

/// The hash of a world's first state and its rules.
fn world_id(
    spec: &ChainSpec,
    state: &MemoryState,
    ancestors: &[(u64, B256)],
    block_hash: B256,
) -> Result<WorldId, CodecError> {
    let parts = (spec, codec::Word(state.digest()), ancestors, block_hash);
    let bytes = codec::encode("world", &parts, codec::MAX_PAYLOAD_BYTES)?;
    Ok(WorldId(codec::payload_digest(&bytes)))
}
