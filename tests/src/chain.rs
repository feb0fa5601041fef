//! A generated chain.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::artefacts::{Binary, profile_dir};

/// A chain that `coordinator generate` made.
#[derive(Debug)]
pub struct Chain {
    dir: TempDir,
    blocks: usize,
}

/// How large a chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Blocks after the genesis.
    pub blocks: usize,
    /// Transactions of each but the first, as far as there is gas for them.
    pub txs: u32,
    /// The gas limit of each block, in millions: 60 at least.
    pub gas: u32,
}

/// The chains that tests of this process hold.
static HELD: Mutex<BTreeMap<Size, Weak<Chain>>> = Mutex::new(BTreeMap::new());

impl Chain {
    /// A chain of so many blocks of 150 transactions. Tests that run at the same time share it; the
    /// last one removes it.
    ///
    /// # Errors
    /// When it cannot be generated.
    pub fn of(blocks: usize) -> Result<Arc<Self>> {
        Self::sized(Size { blocks, txs: 150, gas: 60 })
    }

    /// A chain of this size, shared likewise.
    ///
    /// # Errors
    /// When it cannot be generated.
    pub fn sized(size: Size) -> Result<Arc<Self>> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chain) = held.get(&size).and_then(Weak::upgrade) {
            return Ok(chain);
        }
        let (txs, gas) = (size.txs.to_string(), format!("{}000000", size.gas));
        let options = ["--txs", &txs, "--gas-limit", &gas, "--seed", "3"];
        let chain = Arc::new(Self::generate(size.blocks, &options)?);
        held.insert(size, Arc::downgrade(&chain));
        Ok(chain)
    }

    /// A chain of so many blocks, of the kind that these options of `coordinator generate` say. It is
    /// removed when it is dropped.
    ///
    /// # Errors
    /// When it cannot be generated.
    pub fn generate(blocks: usize, options: &[&str]) -> Result<Self> {
        let base = profile_dir()?.join("shard-tests");
        fs::create_dir_all(&base)?;
        let dir = tempfile::Builder::new().prefix("chain-").tempdir_in(base)?;
        let output = Command::new(Binary::Lab.path()?)
            .args(["generate", "--blocks", &blocks.to_string(), "--out"])
            .arg(dir.path())
            .args(options)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the chain cannot be generated ({}): {said}", output.status);
        Ok(Self { dir, blocks })
    }

    /// How many blocks it has after its genesis.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.blocks
    }

    /// Its `genesis.json`.
    #[must_use]
    pub fn genesis(&self) -> PathBuf {
        self.dir.path().join("genesis.json")
    }

    /// Its blocks.
    #[must_use]
    pub fn rlp(&self) -> PathBuf {
        self.dir.path().join("chain.rlp")
    }

    /// The folder with both.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
