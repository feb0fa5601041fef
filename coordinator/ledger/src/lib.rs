//! The ledger: state, trie, blocks, receipts and journal of one chain, in an embedded redb database in
//! a folder or in memory. Only the ledger commits.
//!
//! The ledger does not judge blocks: its callers commit only validated ones. It hands out states as
//! [`Tip`]s, which stay readable while later blocks commit.

mod accepted;
#[cfg(test)]
mod accepted_tests;
mod audit;
mod branch;
mod checkpoint;
mod commit;
#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod damage_tests;
mod fence;
mod holder;
#[cfg(test)]
mod large_tests;
mod memory;
mod nodes;
mod open;
mod pieces;
mod records;
mod replacement;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase};

use checkpoint::Pending;
use records::Records;
use side::SideIndex;

pub use accepted::{AcceptedBlock, AcceptedRecord, Parked};
pub use audit::AuditedView;
pub use fence::{Fence, MemoryFence};
pub use holder::Holder;
pub use open::{FILE, LedgerOptions};
pub use records::could_be_a_record;
pub use replacement::Replacement;
pub use root::state_root;
pub use tip::{Draft, IntermediateRoots, Tip};
pub use verify::{Counts, Finding, VerifyReport};

/// The block and state at which a ledger starts.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The specification of the chain.
    pub spec: ChainSpec,
    /// The height of the block after which this is the state.
    pub height: Height,
    /// The hash of that block.
    pub block_hash: B256,
    /// The header of that block, if it is known. Checking the next blocks needs it.
    pub header: Option<Header>,
    /// All accounts, or only those that one block reads.
    pub accounts: Vec<AccountRecord>,
    /// The code of the contracts, each with its Keccak-256 hash. The ledger trusts these hashes.
    pub code: Vec<(B256, Bytes)>,
    /// The hashes of ancestors, by number.
    pub ancestors: Vec<(u64, B256)>,
    /// Whether `accounts` is the whole state, so that the state root can be computed.
    pub complete: bool,
}

/// Why the ledger cannot fulfil a request.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A value cannot be encoded or is too large.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The block does not follow the head.
    #[error("block {number} ({hash}) has parent {parent}, the head is {head} at {head_hash}")]
    NotNext {
        /// The number in the block's header.
        number: u64,
        /// The hash of the block that does not follow.
        hash: B256,
        /// The parent hash in the block's header.
        parent: B256,
        /// The height of the tip that the block was checked against.
        head: Height,
        /// The hash of that tip's block.
        head_hash: B256,
    },
    /// The block's parent is unknown: it is neither on the chain nor a side block. This says nothing about
    /// the block itself.
    #[error(
        "the parent {parent} of block {number} ({hash}) is neither on the chain nor a side block; submit or import it first (the head is block {head})"
    )]
    UnknownParent {
        /// The number in the block's header.
        number: u64,
        /// The hash of the block without a known parent.
        hash: B256,
        /// The hash of the parent that must be submitted or imported first.
        parent: B256,
        /// The height of the head when the block was imported.
        head: Height,
    },
    /// A tip does not descend from the head: another block was committed meanwhile.
    #[error("the state after {tip} does not lead on from the head {head}; execute the block again")]
    Outdated {
        /// The state that was to be committed.
        tip: StateRef,
        /// The state of the head.
        head: StateRef,
    },
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The trie cannot be read or is damaged.
    #[error(transparent)]
    Trie(#[from] trie::TrieError),
    /// The state root of the origin's accounts differs from the one in its header.
    #[error("the origin's accounts have state root {computed}, its header says {header}")]
    OriginRoot {
        /// The root of the accounts.
        computed: B256,
        /// The root in the header.
        header: B256,
    },
    /// redb failed to read or write. The ledger can no longer make anything durable.
    #[error("the ledger's database fails: {0}")]
    Database(#[from] redb::Error),
    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
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
        /// The path of the database file.
        path: PathBuf,
        /// The mismatch in words, such as a format number that this build does not read.
        reason: String,
    },
    /// The ledger belongs to another chain.
    #[error(
        "{} holds another chain: it began with block {found}, --genesis gives {expected} (or other fork times); it was left as it is",
        path.display()
    )]
    Foreign {
        /// The path of the database file.
        path: PathBuf,
        /// The origin in the file.
        found: B256,
        /// The origin that the caller asked for.
        expected: B256,
    },
    /// The contents of the database contradict each other.
    #[error("the ledger is damaged: {what}: {reason}; move it away and import the chain again")]
    Damaged {
        /// The damaged part in words, such as `the head`, a block with its hash, or a file.
        what: String,
        /// The contradiction that shows the damage, in words.
        reason: String,
    },
    /// A newer coordinator has taken the ledger over.
    #[error(
        "a coordinator of epoch {newest} has taken this ledger over, this one is of epoch {ours}; it commits nothing more and must stop"
    )]
    Superseded {
        /// The number of the epoch that this coordinator has raised.
        ours: u64,
        /// The number of the newest epoch, which the fence stores.
        newest: u64,
    },
    /// The block is too far below the head.
    #[error("the state after block {block} is not kept any more: the newest {kept} blocks can be unwound")]
    TooFarBack {
        /// The height down to which the chain would have to be unwound.
        block: Height,
        /// The number of newest blocks that can be unwound.
        kept: u64,
    },
}

/// The error for a part of the ledger that is not as it was written.
fn damaged(what: &str, reason: impl std::fmt::Display) -> LedgerError {
    LedgerError::Damaged { what: what.to_owned(), reason: reason.to_string() }
}

impl LedgerError {
    /// Whether the ledger can no longer make anything durable: its database failed or is damaged, or a
    /// newer coordinator has taken over.
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

/// The ledger of one chain.
///
/// ```
/// use alloy_primitives::B256;
/// use common::chain_spec::ChainSpec;
/// use common::id::Height;
/// use ledger::{Ledger, LedgerError, Origin};
///
/// let origin = Origin {
///     spec: ChainSpec::mainnet(),
///     height: Height(0),
///     block_hash: B256::ZERO,
///     header: None,
///     accounts: vec![],
///     code: vec![],
///     ancestors: vec![],
///     complete: true,
/// };
/// // In memory; `Ledger::open` keeps a ledger in a folder.
/// let ledger = Ledger::begin(origin)?;
/// assert_eq!(ledger.head().summary().state.height, Height(0));
/// # Ok::<(), LedgerError>(())
/// ```
#[derive(Debug)]
pub struct Ledger {
    database: Database,
    cache: Arc<StateCache>,
    options: LedgerOptions,
    spec: Arc<ChainSpec>,
    origin: StateRef,
    complete: bool,
    fence: Arc<dyn Fence>,
    /// This coordinator's epoch; zero before it is raised.
    term: AtomicU64,
    /// Held while a block is committed, so that commits run one at a time.
    turn: Mutex<Pending>,
    head: Mutex<Arc<Tip>>,
    side: Mutex<SideIndex>,
}

impl Ledger {
    /// The specification of the chain.
    #[must_use]
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.spec
    }

    /// The state at which the ledger started.
    #[must_use]
    pub fn origin(&self) -> StateRef {
        self.origin
    }

    /// The header of the block at which the ledger started, if it is known.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
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

    /// Whether the ledger holds the whole state, so that it can compute state roots.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The head: the newest committed block.
    #[must_use]
    pub fn head(&self) -> Arc<Tip> {
        Arc::clone(&self.head.lock())
    }

    /// Starts a new epoch of the coordinator, above every epoch that this ledger has seen. The epoch is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub fn raise_epoch(&self) -> Result<Epoch, LedgerError> {
        let _turn = self.turn.lock();
        let mut epoch = Epoch::first();
        let least = epoch.number.max(self.fence.newest()?.saturating_add(1));
        let transaction = self.database.begin_write()?;
        epoch.number = records::RecordWriter::open(&transaction)?.raise_epoch(least)?;
        transaction.commit()?;
        self.fence.raise(epoch.number)?;
        self.term.store(epoch.number, Ordering::SeqCst);
        Ok(epoch)
    }

    /// Checks that no newer coordinator has taken the ledger over.
    fn check_term(&self) -> Result<(), LedgerError> {
        let (ours, newest) = (self.term.load(Ordering::SeqCst), self.fence.newest()?);
        // A ledger without an epoch belongs to an offline command, such as `export`.
        if ours > 0 && newest > ours {
            return Err(LedgerError::Superseded { ours, newest });
        }
        Ok(())
    }

    /// The greatest number of blocks by which a block's parent may lie below the head.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.options.journal.max(self.options.unwind)
    }

    /// The hash of the chain's block at a height, if the ledger knows it.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn hash_at(&self, height: Height) -> Result<Option<B256>, LedgerError> {
        use engine::StateView as _;
        let head = self.head();
        if height > head.summary.state.height || height < self.origin.height {
            return Ok(None);
        }
        let hash = head.view.block_hash(height.0)?;
        Ok((!hash.is_zero()).then_some(hash))
    }

    /// Whether the chain contains the block, up to and including the head.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn contains(&self, height: Height, hash: B256) -> Result<bool, LedgerError> {
        Ok(self.hash_at(height)? == Some(hash))
    }

    /// A block of the chain as RLP; `None` for the origin, of which only the header is stored.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn block_rlp(&self, hash: &B256) -> Result<Option<Vec<u8>>, LedgerError> {
        Records(&self.database.begin_read()?).block(hash)
    }

    /// A block of the chain.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn block(&self, hash: &B256) -> Result<Option<Block>, LedgerError> {
        let Some(rlp) = self.block_rlp(hash)? else { return Ok(None) };
        Ok(Some(Block::decode(&mut rlp.as_slice())?))
    }

    /// The chain's deltas from the state `from` up to the head; `None` if the journal no longer has them,
    /// or if the state is not on the chain.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
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
            // Between two reads the chain may have moved to another branch.
            let expected = deltas.last().map_or(from, |last: &Arc<Delta>| last.to);
            match records.journal(number)? {
                Some(entry) if entry.redo.from == expected => deltas.push(Arc::new(entry.redo)),
                _ => return Ok(None),
            }
        }
        Ok(Some(deltas))
    }
}
