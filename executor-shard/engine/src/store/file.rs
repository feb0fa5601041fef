//! The file of a database: its owner alone may read and write it.
//!
//! A user who can read a database can also lock it, and then its owner cannot open it.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The owner reads and writes.
const PRIVATE: u32 = 0o600;

/// The bits of other users.
const OTHERS: u32 = 0o077;

/// Opens the file of a database for reading and writing, and creates it if there is none. A file that other
/// users may read is closed to them, if it belongs to the user of this process.
///
/// # Errors
/// The system's error if the file cannot be opened.
pub fn private_file(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
    let mode = file.metadata()?.permissions().mode();
    // A file of another user, which this one may write as a member of a group, stays as its owner has set it.
    if mode & OTHERS != 0
        && let Err(error) = file.set_permissions(Permissions::from_mode(mode & !OTHERS))
        && error.kind() != io::ErrorKind::PermissionDenied
    {
        return Err(error);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn other_users_may_not_read_a_database() {
        let folder = tempfile::tempdir().unwrap();
        let (new, known) = (folder.path().join("new"), folder.path().join("known"));
        private_file(&new).unwrap();
        assert_eq!(mode(&new), PRIVATE);
        std::fs::write(&known, "pages").unwrap();
        std::fs::set_permissions(&known, Permissions::from_mode(0o644)).unwrap();
        private_file(&known).unwrap();
        assert_eq!(mode(&known), PRIVATE);
        assert_eq!(std::fs::read(&known).unwrap(), b"pages");
    }
}
