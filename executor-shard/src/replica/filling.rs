//! A snapshot on its way into a replica.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use common::digest::ContentDigest;
use common::message::SnapshotChunk;

use super::stored::Stored;
use crate::engine::{MemoryState, StateError};

/// Where the snapshot goes.
#[derive(Debug)]
pub(super) enum Target {
    Memory(MemoryState),
    Stored(Arc<Stored>),
}

/// A snapshot on its way into a replica; it counts when the replica takes it as a whole.
#[derive(Debug)]
pub struct Filling {
    pub(super) target: Target,
    pub(super) ancestors: Vec<(u64, B256)>,
    digest: ContentDigest,
    /// The account that came last: the next part may begin with more of its slots.
    last: Option<Address>,
}

impl Filling {
    pub(super) fn new(target: Target, ancestors: Vec<(u64, B256)>) -> Self {
        Self { target, ancestors, digest: ContentDigest::default(), last: None }
    }

    /// The content digest of what has come.
    #[must_use]
    pub fn digest(&self) -> U256 {
        self.digest.word()
    }

    /// Takes a part.
    ///
    /// # Errors
    /// [`StateError::Storage`] when the database fails.
    pub fn take(&mut self, chunk: SnapshotChunk) -> Result<(), StateError> {
        for record in &chunk.accounts {
            if self.last != Some(record.address) {
                self.digest.account(record.address, None, Some(&record.account));
                self.last = Some(record.address);
            }
            for entry in &record.storage {
                self.digest.slot(record.address, entry.slot, U256::ZERO, entry.value);
            }
        }
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
