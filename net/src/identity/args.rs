//! The command line's options about identity, the same for all programs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use common::id::ShardId;

use super::CredentialError;
use super::credentials::{Authorities, Credentials, Security};
use super::files::TlsFiles;
use super::role::Roles;
use super::tokens::Token;

/// The options that name a process's certificate and whom it trusts.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsArgs {
    /// This process's certificate (PEM): turns TLS on. `coordinator certs` makes certificates
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "TLS",
        env = "SHARDS_TLS_CERT",
        requires = "tls_key",
        requires = "tls_ca"
    )]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM), which only its owner may read
    #[arg(long, value_name = "FILE", help_heading = "TLS", env = "SHARDS_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The certificates of the trusted authorities (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS", env = "SHARDS_TLS_CA")]
    pub tls_ca: Option<PathBuf>,

    /// The certificates that were revoked (PEM). Like the other files it is read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "TLS", env = "SHARDS_TLS_CRL", requires = "tls_ca")]
    pub tls_crl: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files; `None` if TLS is off.
    ///
    /// # Errors
    /// [`CredentialError`] if one cannot be used.
    pub fn load(&self) -> Result<Option<Arc<Credentials>>, CredentialError> {
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), Some(authorities)) => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let (authorities, revoked) = (authorities.clone(), self.tls_crl.clone());
                Credentials::load(TlsFiles { certificate, key, authorities, revoked }).map(Some)
            }
            _ => Err(CredentialError::Options(
                "--tls-cert, --tls-key and --tls-ca belong together: give all three (a client with --token-file needs \
                 only --tls-ca)",
            )),
        }
    }
}

/// The options of every server.
#[derive(Debug, Clone, Default, Args)]
pub struct ListenArgs {
    /// Serve on an address that other machines reach, without TLS
    #[arg(long, help_heading = "TLS")]
    pub insecure: bool,
}

impl ListenArgs {
    /// Checks that what is served on `address` is encrypted, or stays on this machine.
    ///
    /// # Errors
    /// [`CredentialError::Open`] if it is neither, and that was not asked for.
    pub fn check(&self, address: SocketAddr, tls: bool) -> Result<(), CredentialError> {
        if tls || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if !self.insecure {
            return Err(CredentialError::Open(address));
        }
        tracing::warn!(
            %address,
            "serving WITHOUT TLS where other machines can connect (--insecure): each peer that reaches this port is \
             trusted, and each machine on the way can read and change what is sent"
        );
        Ok(())
    }
}

/// The options of a server that has an identity.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerArgs {
    /// The server's identity.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Where it may serve.
    #[command(flatten)]
    pub listen: ListenArgs,
}

impl ServerArgs {
    /// Reads the files of a server on `address`; `None` if TLS is off. Its certificate must be one of `roles`, and
    /// of `shard` if that is given.
    ///
    /// # Errors
    /// [`CredentialError`] if a file cannot be used, or nothing may be served there without TLS.
    pub fn credentials(
        &self,
        address: SocketAddr,
        roles: Roles,
        shard: Option<ShardId>,
    ) -> Result<Option<Arc<Credentials>>, CredentialError> {
        let credentials = self.tls.load()?;
        if let Some(credentials) = &credentials {
            credentials.check_role(roles, shard)?;
        }
        self.listen.check(address, credentials.is_some())?;
        Ok(credentials)
    }
}

/// The options of a client of a coordinator.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientArgs {
    /// The options that name the client's certificate.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// A file with the client's token
    #[arg(long, value_name = "FILE", env = "SHARDS_TOKEN_FILE", help_heading = "TLS")]
    pub token_file: Option<PathBuf>,
}

impl ClientArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// [`CredentialError`] if one cannot be used.
    pub fn security(&self) -> Result<Security, CredentialError> {
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        let TlsArgs { tls_cert, tls_key, tls_ca, tls_crl } = &self.tls;
        match (tls_cert, tls_key, tls_ca, token) {
            (None, None, Some(authorities), Some(token)) => {
                Ok(Security::by_token(Authorities::load(authorities, tls_crl.as_deref())?, token))
            }
            (.., token) => Ok(Security::new(self.tls.load()?, token)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_asked_otherwise() {
        let (safe, insecure) = (ListenArgs::default(), ListenArgs { insecure: true });
        for local in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(safe.check(local.parse().unwrap(), false).is_ok(), "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let address = open.parse().unwrap();
            let error = safe.check(address, false).unwrap_err().to_string();
            assert!(error.contains("--tls-cert") && error.contains("--insecure"), "{error}");
            assert!(safe.check(address, true).is_ok() && insecure.check(address, false).is_ok());
        }
    }
}
