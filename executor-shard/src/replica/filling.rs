//! A snapshot that is being loaded into a replica.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use common::digest::ContentDigest;
use common::message::SnapshotChunk;

use super::stored::Stored;
use engine::{MemoryState, StateError};

/// The storage that receives the snapshot.
#[derive(Debug)]
pub(super) enum Target {
    Memory(MemoryState),
    Stored(Arc<Stored>),
}

/// The content digest of a snapshot, computed from its parts in order.
#[derive(Debug, Clone, Copy, Default)]
pub struct SnapshotSum {
    digest: ContentDigest,
    /// The last account so far. The next part may begin with more of its slots.
    last: Option<Address>,
}

impl SnapshotSum {
    /// Adds the contents of a part.
    pub fn add(&mut self, chunk: &SnapshotChunk) {
        for record in &chunk.accounts {
            if self.last != Some(record.address) {
                self.digest.account(record.address, None, Some(&record.account));
                self.last = Some(record.address);
            }
            for entry in &record.storage {
                self.digest.slot(record.address, entry.slot, U256::ZERO, entry.value);
            }
        }
    }

    /// The digest of all parts so far.
    #[must_use]
    pub fn digest(&self) -> U256 {
        self.digest.word()
    }
}

/// A snapshot that is being loaded. The replica uses it only once it is complete.
#[derive(Debug)]
pub struct Filling {
    pub(super) target: Target,
    pub(super) ancestors: Vec<(u64, B256)>,
    sum: SnapshotSum,
}

impl Filling {
    pub(super) fn new(target: Target, ancestors: Vec<(u64, B256)>) -> Self {
        Self { target, ancestors, sum: SnapshotSum::default() }
    }

    /// The content digest of all parts so far.
    #[must_use]
    pub fn digest(&self) -> U256 {
        self.sum.digest()
    }

    /// Loads one part. The content digest does not cover code, so each is compared with its hash here.
    ///
    /// # Errors
    /// [`StateError::WrongCode`] if code is not what its hash says, [`StateError::Storage`] if the database fails.
    pub fn take(&mut self, chunk: SnapshotChunk) -> Result<(), StateError> {
        for (expected, code) in &chunk.code {
            let found = keccak256(code);
            if found != *expected {
                return Err(StateError::WrongCode { expected: *expected, found });
            }
        }
        self.sum.add(&chunk);
        match &mut self.target {
            Target::Memory(state) => {
                for (hash, code) in chunk.code {
                    state.insert_code(hash, code);
                }
                chunk.accounts.into_iter().for_each(|record| state.insert(record));
                Ok(())
            }
            Target::Stored(stored) => stored.fill(&chunk),
        }
    }
}
