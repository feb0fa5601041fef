//! Replaces a file at once: readers and a crash find the old file or the new one, never a part of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What is appended to the name of the file while it is written.
const SUFFIX: &str = ".part";

/// A file under construction. It gets its name when it is [committed](Self::commit). If it is dropped
/// before, it is removed, and the old file stays.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    committed: bool,
}

impl Replacement {
    /// Begins a file that other users may read, as far as the process's umask allows.
    ///
    /// # Errors
    /// The operating system's error if the file cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::with_mode(path.into(), 0o666)
    }

    /// Begins a file that only this user may read.
    ///
    /// # Errors
    /// As [`Replacement::create`].
    pub fn create_private(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::with_mode(path.into(), 0o600)
    }

    fn with_mode(path: PathBuf, mode: u32) -> io::Result<Self> {
        let mut part = path.clone().into_os_string();
        part.push(SUFFIX);
        let part = PathBuf::from(part);
        // What another process left there, or planted there, is neither followed nor written to.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        Ok(Self { path, part, file: BufWriter::new(file), committed: false })
    }

    /// Gives the file its name, durably.
    ///
    /// # Errors
    /// The operating system's error if the bytes cannot be written or the file cannot be renamed.
    pub fn commit(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        rename_durably(&self.part, &self.path)?;
        self.committed = true;
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            // It is useless, but it does no harm either.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Renames a file whose content is durable, so that its name is durable too. Both names are in one
/// folder.
pub(super) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // The parent of a bare file name is the empty path.
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.rlp");
        fs::write(&path, "old").unwrap();
        let mut given_up = Replacement::create(&path).unwrap();
        given_up.write_all(b"half").unwrap();
        drop(given_up);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut new = Replacement::create(&path).unwrap();
        new.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        new.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part is left");
    }
}
