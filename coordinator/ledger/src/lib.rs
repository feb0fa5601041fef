//! The ledger: state, trie, blocks, receipts and journal of one world, in an embedded redb
//! database: in a folder, or in memory. Only the ledger commits.
//!
//! It decides nothing about blocks: what it is given to commit has been validated. States are
//! handed out as [`Tip`]s, which stay readable while later blocks commit.

mod accepted;
#[cfg(test)]
mod accepted_tests;
mod audit;
mod branch;
mod commit;
#[cfg(test)]
mod damage_tests;
mod fence;
mod holder;
#[cfg(test)]
mod large_tests;
mod nodes;
mod open;
mod pieces;
mod records;
mod root;
mod side;
#[cfg(test)]
mod side_tests;
#[cfg(test)]
mod tests;
mod tip;
pub mod trie;
mod verify;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::Decodable as _;
use common::account::{AccountRecord, Delta};
use common::block::{Block, BlockError};
use common::chain_spec::ChainSpec;
use common::codec::CodecError;
use common::id::{Epoch, Height, StateRef};
use engine::StateError;
use engine::store::StateCache;
use redb::{Database, ReadableDatabase};

use records::Records;
use side::SideIndex;

pub use accepted::{AcceptedBlock, AcceptedRecord, Parked};
pub use audit::AuditedView;
pub use fence::{Fence, MemoryFence};
pub use holder::Holder;
pub use open::{FILE, LedgerOptions};
pub use root::state_root;
pub use tip::{Draft, IntermediateRoots, Tip};
pub use verify::{Counts, Finding, VerifyReport};

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

/// Why the ledger does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Something cannot be encoded or is too large.
    #[error(transparent)]
    Codec(#[from] CodecError),
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
    /// The block's parent is not known: neither on the chain nor kept beside it. That says nothing about
    /// the block itself.
    #[error(
        "the parent {parent} of block {number} ({hash}) is neither on the chain nor a side block; submit or import it first (the head is block {head})"
    )]
    UnknownParent {
        /// The block's number.
        number: u64,
        /// Its hash.
        hash: B256,
        /// Its parent's hash.
        parent: B256,
        /// The head's height.
        head: Height,
    },
    /// A tip does not lead on from the head: another block was committed meanwhile.
    #[error("the state after {tip} does not lead on from the head {head}; execute the block again")]
    Outdated {
        /// What was to be committed.
        tip: StateRef,
        /// Where the head is.
        head: StateRef,
    },
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The trie cannot be read or is damaged.
    #[error(transparent)]
    Trie(#[from] trie::TrieError),
    /// The origin's state is not the one that its header names.
    #[error("the origin's accounts have state root {computed}, its header says {header}")]
    OriginRoot {
        /// Of the accounts.
        computed: B256,
        /// In the header.
        header: B256,
    },
    /// The database fails.
    #[error("the ledger's database fails: {0}")]
    Database(#[from] redb::Error),
    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error(
        "{} is in use by another coordinator; stop it, start this one with --take-over, or use another --data-dir",
        .0.display()
    )]
    Locked(PathBuf),
    /// The file is not a ledger of this format.
    #[error("{} is not a ledger that this build can use: {reason}; it was left as it is", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The ledger is of another chain.
    #[error(
        "{} holds another chain: it began with block {found}, --genesis gives {expected} (or other fork times); it was left as it is",
        path.display()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// The origin that it has.
        found: B256,
        /// The origin that was asked for.
        expected: B256,
    },
    /// What is in the database contradicts itself.
    #[error("the ledger is damaged: {what}: {reason}; move it away and import the chain again")]
    Damaged {
        /// Which part.
        what: String,
        /// In what way.
        reason: String,
    },
    /// A newer coordinator has taken the ledger over.
    #[error(
        "a coordinator of epoch {newest} has taken this ledger over, this one is of epoch {ours}; it commits nothing more and must stop"
    )]
    Superseded {
        /// This coordinator's term.
        ours: u64,
        /// The newest one.
        newest: u64,
    },
    /// The block is too far back.
    #[error("the state after block {block} is not kept any more: the newest {kept} blocks can be unwound")]
    TooFarBack {
        /// Which block.
        block: Height,
        /// How many blocks back there are.
        kept: u64,
    },
}

impl LedgerError {
    /// Whether the database itself is at fault, so that nothing further can be made durable.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        matches!(
            self,
            Self::Database(_)
                | Self::Io { .. }
                | Self::Damaged { .. }
                | Self::Superseded { .. }
                | Self::Trie(_)
                | Self::State(StateError::Storage(_))
        )
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for LedgerError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}

from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

impl From<BlockError> for LedgerError {
    fn from(error: BlockError) -> Self {
        Self::Damaged { what: "a block".into(), reason: error.to_string() }
    }
}

/// One world's ledger.
#[derive(Debug)]
pub struct Ledger {
    database: Database,
    cache: Arc<StateCache>,
    options: LedgerOptions,
    spec: Arc<ChainSpec>,
    origin: StateRef,
    complete: bool,
    fence: Arc<dyn Fence>,
    /// This coordinator's term; none before it is raised.
    term: AtomicU64,
    /// Held while a block is committed: one at a time.
    turn: Mutex<()>,
    head: Mutex<Arc<Tip>>,
    side: Mutex<SideIndex>,
}

impl Ledger {
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

    /// The header of the block that the world began with, where it is known.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn origin_header(&self) -> Result<Option<Header>, LedgerError> {
        let rlp = Records(&self.database.begin_read()?).identity()?.header;
        if rlp.is_empty() {
            return Ok(None);
        }
        Header::decode(&mut rlp.as_slice()).map(Some).map_err(|error| LedgerError::Damaged {
            what: "the origin's header".into(),
            reason: error.to_string(),
        })
    }

    /// Whether the whole state is here, so that state roots can be computed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The head: the newest committed block.
    #[must_use]
    pub fn head(&self) -> Arc<Tip> {
        Arc::clone(&self.head.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a new term of the coordinator: an epoch above all that this ledger has seen, durable
    /// when this returns.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub fn raise_epoch(&self) -> Result<Epoch, LedgerError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut epoch = Epoch::first();
        let least = epoch.number.max(self.fence.newest()?.saturating_add(1));
        let transaction = self.database.begin_write()?;
        epoch.number = records::RecordWriter::open(&transaction)?.raise_epoch(least)?;
        transaction.commit()?;
        self.fence.raise(epoch.number)?;
        self.term.store(epoch.number, Ordering::SeqCst);
        Ok(epoch)
    }

    /// Whether this coordinator may still commit.
    fn check_term(&self) -> Result<(), LedgerError> {
        let (ours, newest) = (self.term.load(Ordering::SeqCst), self.fence.newest()?);
        // Without a term of its own it is a tool that works while no coordinator runs.
        if ours > 0 && newest > ours {
            return Err(LedgerError::Superseded { ours, newest });
        }
        Ok(())
    }

    /// How many blocks below the head a block's parent may lie.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.options.journal.max(self.options.unwind)
    }

    /// The hash of the chain's block at a height, if it is there.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn hash_at(&self, height: Height) -> Result<Option<B256>, LedgerError> {
        use engine::StateView as _;
        let head = self.head();
        if height > head.summary.state.height || height < self.origin.height {
            return Ok(None);
        }
        let hash = head.view.block_hash(height.0)?;
        Ok((!hash.is_zero()).then_some(hash))
    }

    /// Whether the block is on the chain, up to and including the head.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn contains(&self, height: Height, hash: B256) -> Result<bool, LedgerError> {
        Ok(self.hash_at(height)? == Some(hash))
    }

    /// A block of the chain, as RLP. The origin is known by its header only.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn block_rlp(&self, hash: &B256) -> Result<Option<Vec<u8>>, LedgerError> {
        Records(&self.database.begin_read()?).block(hash)
    }

    /// A block of the chain.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn block(&self, hash: &B256) -> Result<Option<Block>, LedgerError> {
        let Some(rlp) = self.block_rlp(hash)? else { return Ok(None) };
        Ok(Some(Block::decode(&mut rlp.as_slice())?))
    }

    /// The receipts of a block of the chain, as an RLP list.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn receipts_rlp(&self, hash: &B256) -> Result<Option<Vec<u8>>, LedgerError> {
        Records(&self.database.begin_read()?).receipts(hash)
    }

    /// The deltas of the chain that lead on from a state, up to the head; nothing when they are
    /// gone, or the state is not on the chain.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn deltas_from(&self, from: StateRef) -> Result<Option<Vec<Arc<Delta>>>, LedgerError> {
        let head = self.head().summary.state;
        let known = from.world == head.world && self.contains(from.height, from.block_hash)?;
        let behind = head.height.0.saturating_sub(from.height.0);
        if !known || behind > self.options.journal {
            return Ok(None);
        }
        let transaction = self.database.begin_read()?;
        let records = Records(&transaction);
        let mut deltas = Vec::new();
        for number in from.height.0 + 1..=head.height.0 {
            // Between two looks the chain may have moved to another branch.
            let expected = deltas.last().map_or(from, |last: &Arc<Delta>| last.to);
            match records.journal(number)? {
                Some(entry) if entry.redo.from == expected => deltas.push(Arc::new(entry.redo)),
                _ => return Ok(None),
            }
        }
        Ok(Some(deltas))
    }
}
