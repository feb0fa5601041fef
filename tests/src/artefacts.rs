//! Where the binaries and the recorded data are.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One of the two binaries under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `coordinator`.
    Coordinator,
    /// `executor-shard`.
    ExecutorShard,
}

impl Binary {
    /// Its file name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::ExecutorShard => "executor-shard",
        }
    }

    /// Where it is: in `SHARDS_BIN_DIR`, else where cargo puts binaries of the profile that this test
    /// was built with.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(self) -> Result<PathBuf> {
        let dir = match env::var_os("SHARDS_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => profile_dir()?,
        };
        let path = dir.join(format!("{}{}", self.name(), env::consts::EXE_SUFFIX));
        if !path.is_file() {
            bail!(
                "{} is missing: run `cargo build --release` first (and test with --release), or set \
                 SHARDS_BIN_DIR to the folder that has it",
                path.display()
            );
        }
        Ok(path)
    }
}

/// The folder of the profile that this test was built with: `target/release`, from
/// `target/release/deps/fleet-…`.
pub(crate) fn profile_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("the test's own path is unknown")?;
    let dir = exe.parent().and_then(Path::parent).context("the test is not in cargo's target folder")?;
    Ok(dir.to_path_buf())
}

/// The recorded mainnet blocks: in `SHARDS_TEST_DATA`, else beside the workspace. Where they are
/// missing this says so; a test that needs them then returns.
#[must_use]
pub fn mainnet_dir() -> Option<PathBuf> {
    let data = env::var_os("SHARDS_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let dir = data.join("mainnet");
    if dir.is_dir() {
        return Some(dir);
    }
    // Not by a macro: what those print is shown of failing tests only. If it cannot be said, so be it.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there; set SHARDS_TEST_DATA to the folder that has mainnet/",
        dir.display()
    );
    None
}

/// Every recorded block in `dir`, by number.
///
/// # Errors
/// When the folder cannot be read, or has none.
pub fn block_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".json.gz").and_then(|stem| stem.parse::<u64>().ok()) {
            files.push((number, path));
        }
    }
    if files.is_empty() {
        bail!("{} has no NUMBER.json.gz", dir.display());
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}
