//! Identity: who a peer is, and what it may do.
//!
//! The processes of a fleet prove by certificates who they are (mutual TLS 1.3). A certificate names its owner by a
//! URI in its subject alternative names, `spiffe://FLEET/ROLE`; hosts and ports prove nothing. Clients and
//! operators may have a bearer token instead. Without TLS and without tokens peers have no identity, and every
//! call is allowed: that is for one machine.
//!
//! This module knows which roles exist. Which call needs which role is written where the call is served.

mod args;
mod credentials;
mod door;
mod files;
mod role;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod trust;
mod verify;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use args::{ClientArgs, ListenArgs, ServerArgs, TlsArgs};
pub use credentials::{Authorities, Credentials, Security};
pub(crate) use credentials::{ClientTls, Expiry};
pub(crate) use door::{AUTHORIZATION, BEARER, allowed_by, household};
pub use door::{Account, Door, Peer, account, allowed, origin};
pub use files::TlsFiles;
pub use role::{Identity, NameError, Role, Roles};
pub use tokens::Token;
pub use trust::{Details, Expect, TrustError};

/// Why a process has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file that cannot be opened or read, or that is larger than 4 MiB.
        path: PathBuf,
        /// The reason why it cannot be used.
        source: std::io::Error,
    },
    /// A secret can be read by others.
    #[error("{} can be read by others (mode {mode:04o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file with the secret: a private key or tokens.
        path: PathBuf,
        /// The permission bits of the file. Those of group and others must all be zero; the group may read what root
        /// owns.
        mode: u32,
    },
    /// A file is not the PEM that it should be.
    #[error("{} holds no {what} as PEM: {reason}", path.display())]
    NotPem {
        /// The file that was read as PEM.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        reason: String,
    },
    /// A token file has a wrong line.
    #[error("{}, line {line}: {reason}", path.display())]
    Tokens {
        /// The file with a server's tokens, or with a client's own token.
        path: PathBuf,
        /// The line, from 1; 0 for the whole file.
        line: usize,
        /// The rule that the line, or the whole file, breaks.
        reason: String,
    },
    /// A certificate is malformed, or does not name one peer.
    #[error("{}: {source}", path.display())]
    Own {
        /// The file with the certificate. Only its first certificate counts here.
        path: PathBuf,
        /// The fault of the certificate.
        source: TrustError,
    },
    /// An authority's certificate cannot be used.
    #[error("an authority's certificate cannot be used: {0}")]
    Authority(webpki::Error),
    /// A list of revoked certificates cannot be used.
    #[error("the list of revoked certificates cannot be used: {0}")]
    Revoked(webpki::Error),
    /// The key is not the certificate's.
    #[error("the certificate {} and the key {} do not fit: {source}", certificate.display(), key.display())]
    Mismatch {
        /// The file with this process's certificate.
        certificate: PathBuf,
        /// The file with the private key that should belong to the certificate.
        key: PathBuf,
        /// The fault that the TLS library found in the pair.
        source: tokio_rustls::rustls::Error,
    },
    /// The certificate is of a role that cannot have this part.
    #[error("{} is the certificate of {found}; this process needs one of {needed}", path.display())]
    OtherRole {
        /// The file with this process's certificate.
        path: PathBuf,
        /// The role in it.
        found: Role,
        /// The allowed roles.
        needed: String,
    },
    /// A certificate was replaced by one of another identity, which a running process does not take over.
    #[error(
        "{} names {found} now, and named {former} before; put a certificate of {former} there, or restart the process",
        path.display()
    )]
    OtherIdentity {
        /// The file with this process's certificate.
        path: PathBuf,
        /// The identity in the file now.
        found: Identity,
        /// The identity that this process has had since its start.
        former: Identity,
    },
    /// The TLS library does not speak what it should.
    #[error("TLS cannot be used: {0}")]
    Tls(tokio_rustls::rustls::Error),
    /// Options that need each other.
    #[error("{0}")]
    Options(&'static str),
    /// An address that other machines reach, without encryption.
    #[error(
        "{0} can be reached from other machines, and TLS is off: give --tls-cert, --tls-key and --tls-ca \
         (`coordinator certs` makes them), or --insecure if the network is trusted"
    )]
    Open(SocketAddr),
}
