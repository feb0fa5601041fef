//! A scenario and its folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, thread};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::artefacts::profile_dir;

/// The number of bytes at the end of a log that are printed when a scenario fails.
const TAIL_BYTES: u64 = 3_000;

/// A scenario's folder, and its logs.
#[derive(Debug)]
pub struct Scene {
    dir: Option<TempDir>,
    /// The number of uses of each name.
    names: Mutex<BTreeMap<String, u32>>,
    logs: Mutex<Vec<PathBuf>>,
    failed: bool,
}

/// Runs a scenario in a fresh [`Scene`]. If it fails, by an error or a panic, the ends of all logs are
/// printed and the folder is kept.
///
/// # Errors
/// The scenario's error.
pub fn scenario<T>(play: impl FnOnce(&Scene) -> Result<T>) -> Result<T> {
    let mut scene = Scene::new()?;
    let end = play(&scene);
    scene.failed = end.is_err();
    end
}

impl Scene {
    fn new() -> Result<Self> {
        let base = match env::var_os("SHARDS_TEST_LOGS") {
            Some(dir) => PathBuf::from(dir),
            None => profile_dir()?.join("shard-tests"),
        };
        fs::create_dir_all(&base).with_context(|| format!("{} cannot be made", base.display()))?;
        let test = thread::current().name().unwrap_or("scenario").replace("::", "-");
        let dir = tempfile::Builder::new().prefix(&format!("{test}-")).tempdir_in(&base)?;
        Ok(Self { dir: Some(dir), names: Mutex::default(), logs: Mutex::default(), failed: false })
    }

    /// A path in the scenario's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().map_or_else(|| PathBuf::from(name), |dir| dir.path().join(name))
    }

    /// Writes a file into the scenario's folder. Returns its path.
    ///
    /// # Errors
    /// An error if it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// A name that is not used in this scene yet: `shard-1`, then `shard-1.2`, …
    #[must_use]
    pub fn fresh_name(&self, name: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = names.entry(name.to_owned()).or_default();
        *uses += 1;
        if *uses == 1 { name.to_owned() } else { format!("{name}.{uses}") }
    }

    /// Registers a log, whose end is printed if the scenario fails.
    pub(crate) fn register_log(&self, path: &Path) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_path_buf());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !self.failed && !thread::panicking() {
            return;
        }
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let name = log.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            match tail(log) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => println!("---- the end of {name} ----\n{}", text.trim_end()),
                Err(error) => println!("---- {name} cannot be read: {error} ----"),
            }
        }
        if let Some(dir) = self.dir.take() {
            println!("---- all logs are kept in {} ----", dir.keep().display());
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
