//! Opens a ledger: a new one in memory or in a folder, or an existing one.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use alloy_primitives::{B256, U256};
use alloy_trie::EMPTY_ROOT_HASH;
use common::account::AccountDelta;
use common::codec;
use common::digest::ContentDigest;
use common::id::{StateRef, WorldId};
use common::message::StateSummary;
use common::panic::panic_message;
use engine::replica_view::{Base, ReplicaView};
use engine::store::{DiskState, StateCache, StateWriter, private_file};
use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, StorageError};

use super::checkpoint::{Pending, weight_of};
use super::fence::{Fence, FileFence, MemoryFence};
use super::memory::Memory;
use super::nodes::{NodeWriter, Nodes, StoredNodes};
use super::records::{
    CheckpointRecord, FORMAT, HeadRecord, Identity, OLDEST_FORMAT, RecordWriter, Records, word,
};
use super::replacement::rename_durably;
use super::side::SideIndex;
use super::trie::{Subtree, Updated};
use super::{Ledger, LedgerError, Origin, Tip};

/// The name of the database's file in its folder.
pub const FILE: &str = "ledger.redb";

/// The name of the file while the database is created.
const NEW_FILE: &str = "ledger.redb.new";

/// The first bytes of every redb file.
const MAGIC: &[u8] = b"redb";

/// About the memory of one node of the state trie: most are leaves, the others have up to 16 children.
const HELD_NODE_BYTES: usize = 512;

/// The limits of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerOptions {
    /// The number of newest blocks that can be unwound.
    pub unwind: u64,
    /// The number of newest blocks whose deltas are stored for shards that catch up. If it is smaller than
    /// `unwind`, `unwind` applies.
    pub journal: u64,
    /// The number of blocks between two checkpoints; zero counts as one. If it is larger than the journal, the
    /// journal's length applies.
    pub checkpoint: u64,
    /// The number of accounts in the flat cache. It holds four times as many slots.
    pub cached_accounts: usize,
    /// About the memory that nodes of the state trie may take, in bytes.
    pub node_cache: usize,
    /// The size of the database's own page cache, in bytes.
    pub page_cache: usize,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            unwind: 128,
            journal: 512,
            checkpoint: 32,
            cached_accounts: 1 << 18,
            node_cache: 96 << 20,
            page_cache: 512 << 20,
        }
    }
}

impl LedgerOptions {
    /// Limits for a small ledger in memory, for callers that create many of them one after another.
    #[must_use]
    pub fn small() -> Self {
        Self { cached_accounts: 1 << 12, node_cache: 4 << 20, page_cache: 16 << 20, ..Self::default() }
    }

    /// The number of nodes of the state trie that may stay in memory.
    pub(super) fn held_nodes(&self) -> usize {
        self.node_cache / HELD_NODE_BYTES
    }
}

impl Ledger {
    /// Creates a ledger in memory.
    ///
    /// # Errors
    /// [`LedgerError`] if the chain specification cannot be encoded, or if the accounts do not have the
    /// state root in the header.
    pub fn begin(origin: Origin) -> Result<Self, LedgerError> {
        let options = LedgerOptions {
            cached_accounts: (origin.accounts.len() * 2).clamp(1 << 10, 1 << 20),
            // Only what is used takes memory.
            node_cache: LedgerOptions::default().node_cache,
            ..LedgerOptions::small()
        };
        Self::on_backend(Memory::default(), origin, options)
    }

    /// Opens or creates a ledger on a storage backend of the caller.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn on_backend(
        backend: impl StorageBackend,
        origin: Origin,
        options: LedgerOptions,
    ) -> Result<Self, LedgerError> {
        let database = Database::builder().set_cache_size(options.page_cache).create_with_backend(backend)?;
        let identity = identity_of(&origin)?;
        Self::on_database(database, &origin, identity, options, Path::new("memory"), None)
    }

    /// Opens the ledger in a folder. If there is none, creates the folder and a ledger with this origin.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] if another process has it open, [`LedgerError::Foreign`] or
    /// [`LedgerError::Format`] if it belongs to another chain or has another format,
    /// [`LedgerError::Damaged`] if its contents contradict each other. In all these cases the file stays
    /// unchanged.
    pub fn open(folder: &Path, origin: Origin, options: LedgerOptions) -> Result<Self, LedgerError> {
        let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        private.map_err(|source| LedgerError::Io { path: folder.into(), source })?;
        let path = folder.join(FILE);
        let identity = identity_of(&origin)?;
        contained(&path, || {
            let mut built = None;
            if path.exists() {
                check_file(&path, &identity)?;
            } else {
                // Created under another name: a crash meanwhile leaves no incomplete ledger behind.
                built = create(&folder.join(NEW_FILE), &path, (&origin, &identity), options)?;
            }
            let database = open_or_create(&path, options)?;
            Self::on_database(database, &origin, identity, options, &path, built)
        })
        .map(|ledger| ledger.fenced(file_fence(folder)))
    }

    /// Opens an existing ledger of any chain, for reading.
    ///
    /// # Errors
    /// As [`Ledger::open`], and [`LedgerError::Io`] if there is none.
    pub fn open_existing(folder: &Path, options: LedgerOptions) -> Result<Self, LedgerError> {
        let path = folder.join(FILE);
        fs::metadata(&path).map_err(|source| LedgerError::Io { path: path.clone(), source })?;
        check_magic(&path)?;
        contained(&path, || {
            let database = Database::builder()
                .set_cache_size(options.page_cache)
                .open(&path)
                .map_err(|error| unusable(&path, error))?;
            let identity = {
                let transaction = database.begin_read()?;
                check_format(&Records(&transaction), &path)?;
                Records(&transaction).identity()?
            };
            Self::resume(database, identity, options, None)
        })
        .map(|ledger| ledger.fenced(file_fence(folder)))
    }

    /// Returns the ledger with another fence, which all writers of its storage must share.
    #[must_use]
    pub fn fenced(self, fence: Arc<dyn Fence>) -> Self {
        Self { fence, ..self }
    }

    fn on_database(
        database: Database,
        origin: &Origin,
        expected: Identity,
        options: LedgerOptions,
        path: &Path,
        built: Option<Updated>,
    ) -> Result<Self, LedgerError> {
        let found = {
            let transaction = database.begin_read()?;
            let records = Records(&transaction);
            match records.format()? {
                None => None,
                Some(_) => {
                    check_format(&records, path)?;
                    Some(records.identity()?)
                }
            }
        };
        match found {
            None => {
                let built = begin(&database, (origin, &expected))?;
                Self::resume(database, expected, options, built)
            }
            Some(identity) => {
                check_identity(&identity, &expected, path)?;
                Self::resume(database, identity, options, built)
            }
        }
    }

    /// Opens what the database contains. `built` is the trie of its state, if it has just been computed.
    fn resume(
        database: Database,
        identity: Identity,
        options: LedgerOptions,
        built: Option<Updated>,
    ) -> Result<Self, LedgerError> {
        let cache = Arc::new(StateCache::new(options.cached_accounts));
        let transaction = database.begin_read()?;
        if Records(&transaction).format()? != Some(FORMAT) {
            let upgrade = database.begin_write()?;
            RecordWriter::open(&upgrade)?.upgrade()?;
            upgrade.commit()?;
        }
        let (head, tables) = (Records(&transaction).head()?, Records(&transaction).checkpoint()?);
        let state = DiskState::open(&transaction, cache.newest(), Arc::clone(&cache))?;
        let nodes = if identity.complete {
            let nodes = Nodes::new(StoredNodes::open(&transaction)?, tables.state_root);
            Some(match built {
                Some(built) => nodes.with_built(&built, options.held_nodes()),
                None => nodes,
            })
        } else {
            None
        };
        let tip = Tip {
            summary: tables.summary,
            header: None,
            state_root: identity.complete.then_some(tables.state_root),
            total_difficulty: U256::ZERO,
            blocks: 0,
            ancestors: Vec::new(),
            view: ReplicaView::new(Base::Disk(Arc::new(state))),
            nodes,
            version: cache.newest(),
            steps: Vec::new(),
        };
        let mut ledger = Self {
            database,
            cache,
            options,
            spec: Arc::new(identity.spec),
            origin: identity.origin.state,
            complete: identity.complete,
            fence: Arc::new(MemoryFence::default()),
            term: AtomicU64::new(0),
            turn: Mutex::default(),
            head: Mutex::new(Arc::new(tip.clone())),
            side: Mutex::new(SideIndex::load(&transaction)?),
        };
        let head = ledger.resumed(&transaction, tip, &head)?;
        ledger.head = Mutex::new(head);
        Ok(ledger)
    }

    /// The head, given the state of the tables, of which only the content is known.
    fn resumed(
        &mut self,
        transaction: &ReadTransaction,
        mut tables: Tip,
        head: &HeadRecord,
    ) -> Result<Arc<Tip>, LedgerError> {
        let at = tables.summary.state;
        let place = self.place(transaction, at.height, at.block_hash)?;
        let damaged = |reason: String| LedgerError::Damaged { what: "the head".into(), reason };
        if at != self.origin && place.header.is_none() {
            return Err(damaged(format!("block {} is missing", at.block_hash)));
        }
        if let (Some(expected), Some(found)) = (place.state_root, tables.state_root)
            && expected != found
        {
            return Err(damaged(format!("its state root is {found}, its header says {expected}")));
        }
        // The trie's root node must have the hash that the head names.
        if let Some(nodes) = &tables.nodes {
            nodes.check_root()?;
        }
        tables.header = place.header;
        tables.ancestors = place.ancestors;
        (tables.total_difficulty, tables.blocks) = (place.total_difficulty, place.blocks);
        let base = Arc::new(tables.clone());
        let tip = self.replay(transaction, tables, head)?;
        let found = (tip.summary, tip.state_root.unwrap_or_default());
        if found != (head.summary, head.state_root) {
            let reason = format!("it names state {} with root {}", head.summary.state, head.state_root);
            return Err(damaged(format!(
                "{reason}, but the journal leads to {} with root {}",
                found.0.state, found.1
            )));
        }
        let mut pending = Pending::above(base.nodes.clone());
        pending.extend(&tip.steps, weight_of(&tip.steps));
        self.turn = Mutex::new(pending);
        // Each committed state has a version of its own in the cache.
        let version = self.cache.advance(tip.steps.iter().flat_map(|step| step.delta.accounts.iter()));
        let (total_difficulty, blocks) = (head.total_difficulty.0, head.blocks);
        Ok(Arc::new(Tip { total_difficulty, blocks, ..tip.committed(&base, &tip.steps, version) }))
    }
}

fn file_fence(folder: &Path) -> Arc<dyn Fence> {
    Arc::new(FileFence { path: folder.join("epoch") })
}

/// Opens a database whose pages may be damaged. redb trusts the structure of its pages, and panics if
/// they differ from what it wrote.
fn contained(path: &Path, open: impl FnOnce() -> Result<Ledger, LedgerError>) -> Result<Ledger, LedgerError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let reason = format!("its pages are not what was written ({})", panic_message(panic.as_ref()));
        Err(LedgerError::Damaged { what: path.display().to_string(), reason })
    })
}

/// Opens a database, or creates an empty one that only its owner may read.
fn open_or_create(path: &Path, options: LedgerOptions) -> Result<Database, LedgerError> {
    let file = private_file(path).map_err(|source| LedgerError::Io { path: path.into(), source })?;
    let builder = &mut Database::builder();
    builder.set_cache_size(options.page_cache).create_file(file).map_err(|error| unusable(path, error))
}

/// Creates a database that holds the origin, then renames it to its final name. Returns the state's trie.
fn create(
    new: &Path,
    path: &Path,
    beginning: (&Origin, &Identity),
    options: LedgerOptions,
) -> Result<Option<Updated>, LedgerError> {
    let io = |source| LedgerError::Io { path: path.into(), source };
    match fs::remove_file(new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let database = open_or_create(new, options)?;
    let built = begin(&database, beginning)?;
    drop(database);
    rename_durably(new, path).map_err(io)?;
    Ok(built)
}

/// Writes the origin in one transaction. Returns the state's trie, if the whole state is known.
fn begin(
    database: &Database,
    (origin, identity): (&Origin, &Identity),
) -> Result<Option<Updated>, LedgerError> {
    let transaction = database.begin_write()?;
    let mut built = None;
    let mut state_root = B256::ZERO;
    {
        let mut state = StateWriter::open(&transaction)?;
        for record in &origin.accounts {
            state.insert(record)?;
        }
        for (hash, code) in &origin.code {
            state.insert_code(hash, code)?;
        }
        for (number, hash) in &origin.ancestors {
            state.insert_ancestor(*number, hash)?;
        }
        state.insert_ancestor(origin.height.0, &origin.block_hash)?;
        let mut nodes = NodeWriter::open(&transaction)?;
        if origin.complete {
            // The database is still empty: all nodes come from the accounts.
            let empty = super::trie::MemoryNodes::default();
            let nothing = Subtree::of_root(EMPTY_ROOT_HASH);
            let updated = super::nodes::update_from(&empty, &nothing, &as_changes(origin), 0)?;
            state_root = updated.trie.root();
            let touched = std::iter::once(&updated.touched);
            nodes.apply(&super::trie::writes(&empty, (&nothing, &updated.trie), touched)?)?;
            built = Some(updated);
        }
        if let Some(header) = origin.header.as_ref().filter(|_| origin.complete)
            && header.state_root != state_root
        {
            return Err(LedgerError::OriginRoot { computed: state_root, header: header.state_root });
        }
        let mut records = RecordWriter::open(&transaction)?;
        records.begin(identity)?;
        let difficulty = origin.header.as_ref().map_or(U256::ZERO, |header| header.difficulty);
        records.head(&HeadRecord {
            summary: identity.origin,
            state_root,
            total_difficulty: word(difficulty),
            blocks: 0,
        })?;
        records.checkpoint(&CheckpointRecord { summary: identity.origin, state_root })?;
    }
    transaction.commit()?;
    Ok(built)
}

/// The origin's accounts as changes to the empty state.
fn as_changes(origin: &Origin) -> Vec<AccountDelta> {
    let change = |record: &common::account::AccountRecord| AccountDelta {
        address: record.address,
        account: Some(record.account),
        wiped: false,
        storage: record.storage.clone(),
    };
    origin.accounts.iter().map(change).collect()
}

fn identity_of(origin: &Origin) -> Result<Identity, LedgerError> {
    let mut digest = ContentDigest::default();
    for record in &origin.accounts {
        digest.account(record.address, None, Some(&record.account));
        for entry in &record.storage {
            digest.slot(record.address, entry.slot, U256::ZERO, entry.value);
        }
    }
    let parts = (&origin.spec, codec::Word(digest.word()), &origin.ancestors, origin.block_hash);
    let bytes = codec::encode("world", &parts, codec::MAX_PAYLOAD_BYTES)?;
    let world = WorldId(codec::payload_digest(&bytes));
    let state = StateRef { world, height: origin.height, block_hash: origin.block_hash };
    let header = origin.header.as_ref().map(alloy_rlp::encode).unwrap_or_default();
    Ok(Identity {
        world,
        spec: origin.spec.clone(),
        origin: StateSummary { state, digest: digest.word() },
        header,
        complete: origin.complete,
    })
}

/// Checks a file before anything is written to it. A file that was not closed properly cannot be opened
/// for reading; it is checked after its repair.
fn check_file(path: &Path, expected: &Identity) -> Result<(), LedgerError> {
    check_magic(path)?;
    let database = match Database::builder().open_read_only(path) {
        Ok(database) => database,
        Err(DatabaseError::RepairAborted) => return Ok(()),
        Err(error) => return Err(unusable(path, error)),
    };
    let transaction = database.begin_read()?;
    let records = Records(&transaction);
    if records.format()?.is_none() {
        return Ok(());
    }
    check_format(&records, path)?;
    check_identity(&records.identity()?, expected, path)
}

fn check_magic(path: &Path) -> Result<(), LedgerError> {
    let io = |source| LedgerError::Io { path: path.into(), source };
    let mut file = fs::File::open(path).map_err(io)?;
    let mut magic = [0; MAGIC.len()];
    let read = file.read_exact(&mut magic);
    if read.is_err() || magic != MAGIC {
        return Err(format(path, "it is not a redb database"));
    }
    Ok(())
}

fn check_format(records: &Records<'_>, path: &Path) -> Result<(), LedgerError> {
    match records.format()? {
        Some(OLDEST_FORMAT..=FORMAT) => Ok(()),
        Some(other) => {
            let read = format!("this build reads {OLDEST_FORMAT} to {FORMAT}");
            Err(format(path, &format!("it has format {other}, {read}")))
        }
        None => Err(format(path, "it holds no ledger")),
    }
}

fn check_identity(found: &Identity, expected: &Identity, path: &Path) -> Result<(), LedgerError> {
    if found.world == expected.world {
        return Ok(());
    }
    Err(LedgerError::Foreign {
        path: path.into(),
        found: found.origin.state.block_hash,
        expected: expected.origin.state.block_hash,
    })
}

fn format(path: &Path, reason: &str) -> LedgerError {
    LedgerError::Format { path: path.into(), reason: reason.to_owned() }
}

fn unusable(path: &Path, error: DatabaseError) -> LedgerError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => LedgerError::Locked(PathBuf::from(path)),
        DatabaseError::UpgradeRequired(version) => {
            format(path, &format!("it has redb's file format {version}, which this build does not read"))
        }
        DatabaseError::Storage(StorageError::Corrupted(reason)) => {
            LedgerError::Damaged { what: path.display().to_string(), reason }
        }
        other => format(path, &other.to_string()),
    }
}
