//! The replica's database: where a shard with a folder of its own keeps its state, so that a
//! restart costs it a few deltas instead of a snapshot.
//!
//! It is a copy of what the coordinator has: whatever is wrong with it, it is thrown away and
//! fetched again. So commits are made durable only now and then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::codec;
use common::message::{SnapshotChunk, StateSummary};
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};

use engine::StateError;
use engine::replica_view::{Base, ReplicaView};
use engine::store::{DiskState, StateCache, StateWriter, storage_error};

/// The database's file in its folder.
const FILE: &str = "replica.redb";

/// The layout of the database; one of another layout is thrown away.
const FORMAT: u64 = 1;

/// What the database holds: format, state, rules.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("replica");

/// The name of the only value in it.
const HELD: &str = "held";

/// Accounts in the flat cache; slots are four times as many.
const CACHED_ACCOUNTS: usize = 1 << 17;

/// Bytes of the database's own page cache.
const PAGE_CACHE: usize = 256 << 20;

/// Every so many blocks one is made durable.
const DURABLE_EVERY: u64 = 16;

/// Why a shard's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The folder or its file cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process; give each shard a --data-dir of its own", .0.display())]
    Locked(PathBuf),
    /// It cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The database.
#[derive(Debug)]
pub(super) struct Stored {
    database: Database,
    cache: Arc<StateCache>,
    applied: AtomicU64,
}

/// What a database was found to hold.
pub(super) type Held = Option<(StateSummary, ChainSpec)>;

impl Stored {
    /// Opens the database in `folder`, or makes one.
    pub(super) fn open(folder: &Path) -> Result<(Self, Held), StoredError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoredError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let path = folder.join(FILE);
        let build = || Database::builder().set_cache_size(PAGE_CACHE).create(&path);
        let database = match build() {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(StoredError::Locked(path)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the replica's database is unusable and is made anew");
                std::fs::remove_file(&path).map_err(io(&path))?;
                build().map_err(storage_error)?
            }
        };
        let cache = Arc::new(StateCache::new(CACHED_ACCOUNTS));
        let stored = Self { database, cache, applied: AtomicU64::new(0) };
        let held = stored.held().unwrap_or_else(|error| {
            tracing::warn!(%error, "the replica's database cannot be read and begins anew");
            None
        });
        Ok((stored, held))
    }

    fn held(&self) -> Result<Held, StateError> {
        let transaction = self.database.begin_read().map_err(storage_error)?;
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

    /// The state as it is now.
    pub(super) fn view(&self) -> Result<ReplicaView, StateError> {
        self.view_of(self.cache.newest())
    }

    fn view_of(&self, version: u64) -> Result<ReplicaView, StateError> {
        let transaction = self.database.begin_read().map_err(storage_error)?;
        let state = DiskState::open(&transaction, version, Arc::clone(&self.cache))?;
        Ok(ReplicaView::new(Base::Disk(Arc::new(state))))
    }

    fn write(
        &self,
        durable: bool,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut transaction = self.database.begin_write().map_err(storage_error)?;
        let durability = if durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(storage_error)?;
        change(&transaction)?;
        transaction.commit().map_err(storage_error)
    }

    /// Moves by one block.
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

    /// Forgets everything: a snapshot follows.
    pub(super) fn clear(&self) -> Result<(), StateError> {
        self.write(false, |transaction| {
            transaction.delete_table(META).map_err(storage_error)?;
            StateWriter::clear(transaction)?;
            StateWriter::open(transaction).map(drop)
        })?;
        self.cache.forget();
        Ok(())
    }

    /// Adds part of a snapshot.
    pub(super) fn fill(&self, chunk: &SnapshotChunk) -> Result<(), StateError> {
        self.write(false, |transaction| {
            let mut writer = StateWriter::open(transaction)?;
            for (hash, code) in &chunk.code {
                writer.insert_code(hash, code)?;
            }
            chunk.accounts.iter().try_for_each(|record| writer.insert(record))
        })
    }

    /// The snapshot is complete.
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
