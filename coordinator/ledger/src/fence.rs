//! The fence: it decides which epoch of the coordinator may commit.
//!
//! The database's lock keeps a second process out. Some storage lets two in (a network file system that
//! does not keep the lock). Even then the older coordinator must not commit. So each coordinator writes
//! its epoch where both see it, and every commit compares it.

use std::fmt::Debug;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{LedgerError, Replacement};

/// The place that stores the newest epoch.
pub trait Fence: Debug + Send + Sync {
    /// The newest epoch.
    ///
    /// # Errors
    /// [`LedgerError::Io`] if it cannot be read.
    fn newest(&self) -> Result<u64, LedgerError>;

    /// Makes `term` the newest epoch, durably.
    ///
    /// # Errors
    /// [`LedgerError::Io`] if it cannot be written.
    fn raise(&self, term: u64) -> Result<(), LedgerError>;
}

/// A fence for coordinators that share memory, for a ledger in memory.
#[derive(Debug, Default)]
pub struct MemoryFence(AtomicU64);

impl Fence for MemoryFence {
    fn newest(&self) -> Result<u64, LedgerError> {
        Ok(self.0.load(Ordering::SeqCst))
    }

    fn raise(&self, term: u64) -> Result<(), LedgerError> {
        self.0.fetch_max(term, Ordering::SeqCst);
        Ok(())
    }
}

/// A fence in a file beside the database.
#[derive(Debug)]
pub(super) struct FileFence {
    pub(super) path: PathBuf,
}

impl FileFence {
    fn failed(&self, source: std::io::Error) -> LedgerError {
        LedgerError::Io { path: self.path.clone(), source }
    }
}

impl Fence for FileFence {
    fn newest(&self) -> Result<u64, LedgerError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.trim().parse().map_err(|_| LedgerError::Damaged {
                what: self.path.display().to_string(),
                reason: "it is not a number".into(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn raise(&self, term: u64) -> Result<(), LedgerError> {
        let write = || {
            let mut file = Replacement::create(&self.path)?;
            writeln!(file, "{term}")?;
            file.commit()
        };
        write().map_err(|error| self.failed(error))
    }
}
