//! The files that hold a process's certificate, its key and the authorities that it trusts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::CredentialError;

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where the parts of a process's identity are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those between it and the authority, as PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, as PEM. Only its owner may read it.
    pub key: PathBuf,
    /// The certificates of the authorities whose certificates are trusted, as PEM.
    pub authorities: PathBuf,
    /// The revoked certificates, as PEM.
    pub revoked: Option<PathBuf>,
}

/// What the files hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Material {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, CredentialError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read_private(&files.key)?)
            .map_err(|error| not_pem(&files.key, "private key", &error))?;
        let authorities = certificates(&files.authorities)?;
        let revoked = revocations_of(files.revoked.as_deref())?;
        Ok(Self { chain, key, authorities, revoked })
    }
}

/// The certificates in a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| not_pem(path, "certificate", &error))?;
    if found.is_empty() {
        return Err(not_pem(path, "certificate", &"there is none in it"));
    }
    Ok(found)
}

/// The lists of revoked certificates in a PEM file, if there is one.
pub(super) fn revocations_of(
    path: Option<&Path>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
    path.map_or_else(|| Ok(Vec::new()), revocations)
}

/// The lists of revoked certificates in a PEM file, at least one: an empty file must not revoke nothing.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
    let what = "list of revoked certificates";
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| not_pem(path, what, &error))?;
    if found.is_empty() {
        return Err(not_pem(path, what, &"there is none in it"));
    }
    Ok(found)
}

fn not_pem(path: &Path, what: &'static str, reason: &dyn std::fmt::Display) -> CredentialError {
    CredentialError::NotPem { path: path.to_owned(), what, reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    contents(path, open(path)?)
}

/// Reads a file that only its owner may read.
pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let file = open(path)?;
    check_private(path, &file)?;
    contents(path, file)
}

fn open(path: &Path) -> Result<File, CredentialError> {
    File::open(path).map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })
}

fn contents(path: &Path, file: File) -> Result<Vec<u8>, CredentialError> {
    let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes"))));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn check_private(path: &Path, file: &File) -> Result<(), CredentialError> {
    use std::os::unix::fs::MetadataExt as _;

    let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    if !is_private(mode, metadata.uid()) {
        return Err(CredentialError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether a file with this mode is private: only its owner can read and write it. The group may read a file of root,
/// because an administrator gives a file to the user of one service in that way, and Kubernetes mounts secrets so.
#[cfg(unix)]
fn is_private(mode: u32, owner: u32) -> bool {
    let shared = if owner == 0 { 0o040 } else { 0 };
    mode & 0o077 & !shared == 0
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &File) -> Result<(), CredentialError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_reads_a_private_file_or_the_group_of_one_that_root_owns() {
        let (root, user) = (0, 1000);
        for (mode, of_root, of_user) in [
            (0o400, true, true),
            (0o600, true, true),
            (0o440, true, false),
            (0o640, true, false),
            (0o660, false, false),
            (0o644, false, false),
            (0o604, false, false),
        ] {
            assert_eq!((is_private(mode, root), is_private(mode, user)), (of_root, of_user), "{mode:o}");
        }
    }
}
