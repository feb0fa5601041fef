//! The paths of the binaries and of the recorded data.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A binary under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// The coordinator, and the commands for its data directories, its clients and its operators.
    Coordinator,
    /// The shard: the process that executes work for a coordinator.
    ExecutorShard,
    /// The tools for tests: the generator, the fuzzer, the simulator and the sequential baseline.
    Lab,
}

impl Binary {
    /// The binary's file name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::ExecutorShard => "executor-shard",
            Self::Lab => "lab",
        }
    }

    /// The binary for this command line: `lab` for its own commands, and for runs and imports with options
    /// that only `lab` has; `coordinator` otherwise.
    #[must_use]
    pub fn of<A: AsRef<OsStr>>(line: &[A]) -> Self {
        let word = |word: &A| {
            let word = word.as_ref().to_str().unwrap_or_default();
            word == "--sequential" || word.starts_with("poison:")
        };
        let command = line.first().and_then(|command| command.as_ref().to_str());
        let moved =
            matches!(command, Some("generate" | "blocktest" | "fuzz" | "simulate" | "scale" | "bench"));
        if moved || line.iter().any(word) { Self::Lab } else { Self::Coordinator }
    }

    /// The binary's path: in `SHARDS_BIN_DIR`, or else where cargo puts binaries of the profile that this
    /// test was built with.
    ///
    /// # Errors
    /// An error if the file does not exist.
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
/// `target/release/deps/fleet-…` or `target/release/chaos`.
pub(crate) fn profile_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("the test's own path is unknown")?;
    let dir = exe.parent().context("the test is not in cargo's target folder")?;
    let above = if dir.ends_with("deps") { dir.parent() } else { Some(dir) };
    Ok(above.context("the test is not in cargo's target folder")?.to_path_buf())
}

/// The folder of the recorded mainnet blocks: in `SHARDS_TEST_DATA`, or else beside the workspace. If
/// it is missing, this prints a message and returns `None`; the test must then return.
///
/// # Errors
/// An error if the data is missing under CI.
pub fn mainnet_dir() -> Result<Option<PathBuf>> {
    recorded("mainnet")
}

/// The folder of Ethereum's BlockchainTests, unpacked beside the test's binary. If the archive is
/// missing, this prints a message and returns `None`.
///
/// # Errors
/// An error if the archive cannot be unpacked, or if it is missing under CI.
pub fn blockchain_tests() -> Result<Option<PathBuf>> {
    Ok(unpacked("blockchain-tests.tar.xz", "suite")?.map(|folder| folder.join("BlockchainTests")))
}

/// The folder of Ethereum's execution-spec-tests for Prague and Osaka, like [`blockchain_tests`].
///
/// # Errors
/// As [`blockchain_tests`].
pub fn execution_spec_tests() -> Result<Option<PathBuf>> {
    Ok(unpacked("eest-prague-osaka.tar.xz", "suite-eest")?.map(|folder| folder.join("eest")))
}

/// Unpacks an archive into a folder beside the test's binary. Two tests at once unpack it separately,
/// and the first result is kept.
fn unpacked(archive: &str, name: &str) -> Result<Option<PathBuf>> {
    let Some(archive) = recorded(archive)? else { return Ok(None) };
    let parent = profile_dir()?;
    let folder = parent.join(name);
    if folder.join("whole").is_file() {
        return Ok(Some(folder));
    }
    let new = tempfile::Builder::new().prefix(name).tempdir_in(&parent)?;
    let tar = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(new.path()).status();
    let unpacked = tar.context("tar cannot be started; it is needed to unpack the suite")?;
    if !unpacked.success() {
        bail!("{} cannot be unpacked: tar ended with {unpacked}", archive.display());
    }
    fs::write(new.path().join("whole"), "")?;
    // An incomplete folder is left from a test that was killed.
    if folder.exists() && !folder.join("whole").is_file() {
        fs::remove_dir_all(&folder)?;
    }
    match fs::rename(new.path(), &folder) {
        Ok(()) => drop(new.keep()),
        Err(_) if folder.join("whole").is_file() => {}
        Err(error) => return Err(error).with_context(|| format!("{} cannot be made", folder.display())),
    }
    Ok(Some(folder))
}

/// The path of a recorded file or folder. If it is missing or empty, this prints a visible skip; under
/// CI it is an error.
fn recorded(name: &str) -> Result<Option<PathBuf>> {
    let data = env::var_os("SHARDS_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let path = data.join(name);
    let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !empty {
        return Ok(Some(path));
    }
    let said = format!(
        "{} is not there or empty; set SHARDS_TEST_DATA to the folder that has {name}",
        path.display()
    );
    if env::var("CI").is_ok_and(|value| value == "true") {
        bail!("{said}; under CI a test without its data fails");
    }
    // Not by a macro: the test harness shows a macro's output for failing tests only. A failure to print
    // is ignored.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {said}");
    Ok(None)
}

/// The recorded blocks in `dir`, ordered by number.
///
/// # Errors
/// An error if the folder cannot be read or contains no block.
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
