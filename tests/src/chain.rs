//! Generated chains for tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::artefacts::{Binary, profile_dir};

/// A chain that `lab generate` made.
#[derive(Debug)]
pub struct Chain {
    dir: TempDir,
    blocks: usize,
}

/// The size of a generated chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// The number of blocks after the genesis.
    pub blocks: usize,
    /// The number of transactions in each block except the first, as far as the gas allows.
    pub txs: u32,
    /// The gas limit of each block, in millions; at least 60.
    pub gas: u32,
}

/// The chains in use by tests of this process.
static HELD: Mutex<BTreeMap<Size, Weak<Chain>>> = Mutex::new(BTreeMap::new());

impl Chain {
    /// A chain with this many blocks of 150 transactions. Tests that run at the same time share it, and the
    /// last one deletes it.
    ///
    /// # Errors
    /// An error if it cannot be generated.
    pub fn of(blocks: usize) -> Result<Arc<Self>> {
        Self::sized(Size { blocks, txs: 150, gas: 60 })
    }

    /// A chain of this size, shared like that of [`Chain::of`].
    ///
    /// # Errors
    /// An error if it cannot be generated.
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

    /// Generates a chain with these options of `lab generate`. Dropping the chain deletes it.
    ///
    /// # Errors
    /// An error if it cannot be generated.
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

    /// The number of blocks after its genesis.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.blocks
    }

    /// The path of its `genesis.json`.
    #[must_use]
    pub fn genesis(&self) -> PathBuf {
        self.dir.path().join("genesis.json")
    }

    /// The path of its chain file.
    #[must_use]
    pub fn rlp(&self) -> PathBuf {
        self.dir.path().join("chain.rlp")
    }

    /// The folder of both files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
