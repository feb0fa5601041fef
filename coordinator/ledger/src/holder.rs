//! The holder of a data directory: a note beside the database for another coordinator that wants to
//! take over. The note only helps to find the holder; the database's lock is authoritative.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LedgerError, Replacement};

/// The name of the note's file in the data directory.
const FILE: &str = "holder.json";

/// The largest size of a note, in bytes.
const MAX_NOTE: u64 = 4096;

/// The coordinator that holds a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The coordinator's process id on its machine.
    pub pid: u32,
    /// The address on which it serves clients; empty if it serves none.
    pub address: String,
    /// The secret, in hex, that a successor must present before this coordinator steps down. Only a user
    /// who can read the directory knows it.
    pub secret: String,
    /// The number of the epoch that the coordinator serves with.
    pub epoch: u64,
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

impl Holder {
    /// Writes the note, readable by this user only.
    ///
    /// # Errors
    /// [`LedgerError::Io`] if it cannot be written.
    pub fn note(&self, folder: &Path) -> Result<(), LedgerError> {
        let path = path_in(folder);
        let write = || {
            let text = serde_json::to_string(self)?;
            let mut file = Replacement::create_private(&path)?;
            file.write_all(text.as_bytes())?;
            file.commit()
        };
        write().map_err(|source| LedgerError::Io { path: path.clone(), source })
    }

    /// Reads the note, if there is one.
    ///
    /// # Errors
    /// [`LedgerError::Io`] if it cannot be read, and [`LedgerError::Damaged`] if it is not a valid note.
    pub fn read(folder: &Path) -> Result<Option<Self>, LedgerError> {
        let path = path_in(folder);
        let mut text = String::new();
        let read = fs::File::open(&path).and_then(|file| file.take(MAX_NOTE).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LedgerError::Io { path, source }),
        }
        serde_json::from_str(&text).map(Some).map_err(|error| LedgerError::Damaged {
            what: path.display().to_string(),
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Holder::read(folder.path()).unwrap(), None);
        let holder = Holder { pid: 7, address: "127.0.0.1:1".into(), secret: "00ff".into(), epoch: 3 };
        holder.note(folder.path()).unwrap();
        assert_eq!(Holder::read(folder.path()).unwrap(), Some(holder));
        let mode = fs::metadata(path_in(folder.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        fs::write(path_in(folder.path()), "{").unwrap();
        assert!(matches!(Holder::read(folder.path()), Err(LedgerError::Damaged { .. })));
    }
}
