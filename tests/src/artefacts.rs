//! Where the binaries and the recorded data are.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The folder of the profile that this was built with: `target/release`, from
/// `target/release/deps/fleet-…` or `target/release/failover-bench`.
pub(crate) fn profile_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("the test's own path is unknown")?;
    let folder = exe.parent().context("the test is in no folder")?;
    let of_tests = folder.file_name().is_some_and(|name| name == "deps");
    let dir = if of_tests { folder.parent() } else { Some(folder) };
    Ok(dir.context("the test is not in cargo's target folder")?.to_path_buf())
}

/// The recorded mainnet blocks: in `SHARDS_TEST_DATA`, else beside the workspace. Where they are
/// missing this says so; a test that needs them then returns.
#[must_use]
pub fn mainnet_dir() -> Option<PathBuf> {
    recorded("mainnet")
}

/// Ethereum's BlockchainTests, unpacked beside the test's binary; where the archive is missing this
/// says so.
///
/// # Errors
/// When the archive cannot be unpacked.
pub fn blockchain_tests() -> Result<Option<PathBuf>> {
    let Some(archive) = recorded("blockchain-tests.tar.xz") else { return Ok(None) };
    let folder = profile_dir()?.join("suite");
    let whole = folder.join("whole");
    if !whole.is_file() {
        fs::create_dir_all(&folder)?;
        let tar = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&folder).status();
        let unpacked = tar.context("tar cannot be started; it is needed to unpack the suite")?;
        if !unpacked.success() {
            bail!("{} cannot be unpacked: tar ended with {unpacked}", archive.display());
        }
        fs::write(&whole, "")?;
    }
    Ok(Some(folder.join("BlockchainTests")))
}

/// Something of the recorded data, or a word that it is not there.
fn recorded(name: &str) -> Option<PathBuf> {
    let data = env::var_os("SHARDS_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let path = data.join(name);
    if path.exists() {
        return Some(path);
    }
    // Not by a macro: what those print is shown of failing tests only. If it cannot be said, so be it.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there; set SHARDS_TEST_DATA to the folder that has {name}",
        path.display()
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
