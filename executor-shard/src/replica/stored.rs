//! The database in which a shard with its own folder stores its state. After a restart the shard needs
//! only a few deltas instead of a snapshot.
//!
//! The database is a copy of the coordinator's data. If its content is wrong, the shard deletes it and fetches the state
//! again. So only every few commits are made durable. A file that cannot be read is not wrong: that is an error.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::codec;
use common::message::{SnapshotChunk, StateSummary};
use common::panic::panic_message;
use parking_lot::RwLock;
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};

use engine::StateError;
use engine::replica_view::{Base, ReplicaView};
use engine::store::{DiskState, StateCache, StateWriter, private_file, storage_error};

/// The name of the database's file in its folder.
const FILE: &str = "replica.redb";

/// The version of the database's layout. A database of another version is deleted.
const FORMAT: u64 = 1;

/// The single values of the database: under [`HELD`] the format, the state and the chain specification.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("replica");

/// The key of the only value in [`META`].
const HELD: &str = "held";

/// The number of accounts in the flat cache. It holds four times as many slots.
const CACHED_ACCOUNTS: usize = 1 << 17;

/// The size of the database's own page cache, in bytes.
const PAGE_CACHE: usize = 256 << 20;

/// One in this many blocks is committed durably.
const DURABLE_EVERY: u64 = 16;

/// Why a shard's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The folder or its file cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error("{} is in use by another process; give each shard a --data-dir of its own", .0.display())]
    Locked(PathBuf),
    /// The database cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The database of one replica.
#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    /// Another one once the first was found damaged.
    database: RwLock<Database>,
    cache: Arc<StateCache>,
    applied: AtomicU64,
    /// Its pages are not what was written: it is used no more, and [`Stored::clear`] begins another one.
    damaged: AtomicBool,
}

/// Why an existing database cannot be used.
#[derive(Debug)]
enum Unusable {
    Locked,
    Unreadable(std::io::Error),
    Damaged(String),
}

impl From<redb::DatabaseError> for Unusable {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            // redb reports with these kinds what it finds in a file; other errors are the system's.
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Self::Unreadable(error)
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

/// Opens the database, or creates it.
fn build(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(PAGE_CACHE).create_file(private_file(path)?)
}

/// Opens a database whose pages may be damaged. redb trusts the structure of its pages, and panics if they
/// differ from what it wrote.
fn contained<T>(open: impl FnOnce() -> Result<T, Unusable>) -> Result<T, Unusable> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        Err(Unusable::Damaged(format!(
            "its pages are not what was written ({})",
            panic_message(panic.as_ref())
        )))
    })
}

/// The state and chain specification that a database holds.
type Held = (StateSummary, ChainSpec);

/// What a database holds, and a view of it.
type Found = (Held, ReplicaView);

impl Stored {
    /// Opens the database in `folder`, or creates one. Returns what it holds, with a view of it.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Found>), StoredError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoredError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        let path = folder.join(FILE);
        match contained(|| Self::existing(&path)) {
            Ok(found) => Ok(found),
            Err(Unusable::Locked) => Err(StoredError::Locked(path)),
            Err(Unusable::Unreadable(source)) => Err(StoredError::Io { path, source }),
            Err(Unusable::Damaged(reason)) => {
                tracing::warn!(reason, path = %path.display(), "the replica's database is unusable; a new one is created");
                std::fs::remove_file(&path).map_err(io(&path))?;
                Ok((Self::on(&path, build(&path).map_err(storage_error)?), None))
            }
        }
    }

    fn on(path: &Path, database: Database) -> Self {
        Self {
            path: path.to_owned(),
            database: RwLock::new(database),
            cache: Arc::new(StateCache::new(CACHED_ACCOUNTS)),
            applied: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        }
    }

    fn existing(path: &Path) -> Result<(Self, Option<Found>), Unusable> {
        let stored = Self::on(path, build(path)?);
        let damaged = |error: StateError| Unusable::Damaged(error.to_string());
        let found = match stored.held().map_err(damaged)? {
            Some(held) => Some((held, stored.view().map_err(damaged)?)),
            None => None,
        };
        Ok((stored, found))
    }

    fn held(&self) -> Result<Option<Held>, StateError> {
        let transaction = self.database.read().begin_read().map_err(storage_error)?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(storage_error(error)),
        };
        let Some(bytes) = meta.get(HELD).map_err(storage_error)? else { return Ok(None) };
        let (format, summary, spec): (u64, StateSummary, ChainSpec) =
            codec::decode("replica", bytes.value(), codec::MAX_PAYLOAD_BYTES)
                .map_err(|error| StateError::Storage(error.to_string()))?;
        Ok((format == FORMAT).then_some((summary, spec)))
    }

    /// A view of the current state.
    pub(super) fn view(&self) -> Result<ReplicaView, StateError> {
        self.view_of(self.cache.newest())
    }

    fn view_of(&self, version: u64) -> Result<ReplicaView, StateError> {
        let transaction = self.database.read().begin_read().map_err(storage_error)?;
        let state = DiskState::open(&transaction, version, Arc::clone(&self.cache))?;
        Ok(ReplicaView::new(Base::Disk(Arc::new(state))))
    }

    /// Reads or writes the database. A panic of redb, which trusts the structure of its pages, shows that they are
    /// damaged.
    pub(super) fn guarded<T>(&self, access: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
        // After a panic a transaction may still be open, and the next one would wait for its end.
        if self.damaged.load(Ordering::Acquire) {
            return Err(StateError::Storage("the database is damaged".into()));
        }
        catch_unwind(AssertUnwindSafe(access)).unwrap_or_else(|panic| {
            self.damaged.store(true, Ordering::Release);
            let reason = panic_message(panic.as_ref());
            tracing::error!(reason, path = %self.path.display(), "the replica's database is damaged");
            Err(StateError::Storage(format!("the database is damaged ({reason})")))
        })
    }

    fn write(
        &self,
        durable: bool,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        self.guarded(|| self.write_soundly(durable, change))
    }

    fn write_soundly(
        &self,
        durable: bool,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut transaction = self.database.read().begin_write().map_err(storage_error)?;
        let durability = if durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(storage_error)?;
        change(&transaction)?;
        transaction.commit().map_err(storage_error)
    }

    /// Moves the state by one block.
    pub(super) fn apply(
        &self,
        delta: &Delta,
        summary: &StateSummary,
        spec: &ChainSpec,
    ) -> Result<ReplicaView, StateError> {
        let durable = self.applied.fetch_add(1, Ordering::Relaxed) % DURABLE_EVERY == DURABLE_EVERY - 1;
        self.write(durable, |transaction| {
            StateWriter::open(transaction)?.apply(delta)?;
            mark(transaction, summary, spec)
        })?;
        self.view_of(self.cache.advance(&delta.accounts))
    }

    /// Deletes the whole state: a snapshot follows.
    pub(super) fn clear(&self) -> Result<(), StateError> {
        if self.damaged.load(Ordering::Acquire) {
            self.begin_anew()?;
        }
        self.write(false, |transaction| {
            transaction.delete_table(META).map_err(storage_error)?;
            StateWriter::clear(transaction)?;
            StateWriter::open(transaction).map(drop)
        })?;
        self.cache.forget();
        Ok(())
    }

    /// Replaces a damaged database by an empty one. Views of the former one keep its file open until they end.
    fn begin_anew(&self) -> Result<(), StateError> {
        let mut database = self.database.write();
        std::fs::remove_file(&self.path)
            .map_err(|error| StateError::Storage(format!("{}: {error}", self.path.display())))?;
        *database = build(&self.path).map_err(storage_error)?;
        self.damaged.store(false, Ordering::Release);
        tracing::warn!(path = %self.path.display(), "the replica's database was damaged; a new one is created");
        Ok(())
    }

    /// Adds one part of a snapshot.
    pub(super) fn fill(&self, chunk: &SnapshotChunk) -> Result<(), StateError> {
        self.write(false, |transaction| {
            let mut writer = StateWriter::open(transaction)?;
            for (hash, code) in &chunk.code {
                writer.insert_code(hash, code)?;
            }
            chunk.accounts.iter().try_for_each(|record| writer.insert(record))
        })
    }

    /// Completes a snapshot: records its state and ancestors, and commits durably.
    pub(super) fn filled(
        &self,
        summary: &StateSummary,
        spec: &ChainSpec,
        ancestors: &[(u64, alloy_primitives::B256)],
    ) -> Result<ReplicaView, StateError> {
        self.write(true, |transaction| {
            let mut writer = StateWriter::open(transaction)?;
            ancestors.iter().try_for_each(|(number, hash)| writer.insert_ancestor(*number, hash))?;
            mark(transaction, summary, spec)
        })?;
        self.cache.forget();
        self.view()
    }
}

fn mark(transaction: &WriteTransaction, summary: &StateSummary, spec: &ChainSpec) -> Result<(), StateError> {
    let bytes = codec::encode("replica", &(FORMAT, summary, spec), codec::MAX_PAYLOAD_BYTES)
        .map_err(|error| StateError::Storage(error.to_string()))?;
    let mut meta = transaction.open_table(META).map_err(storage_error)?;
    meta.insert(HELD, bytes.as_slice()).map_err(storage_error)?;
    Ok(())
}
