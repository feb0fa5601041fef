//! A process's own certificate and the authorities that it trusts, as they are now: the files may change while
//! the process runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;
use tokio::task::JoinError;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, ConfigBuilder, ConfigSide, ServerConfig, WantsVerifier, WantsVersions, version,
};
use tokio_util::sync::CancellationToken;

use super::files::{Material, TlsFiles, certificates, revocations_of};
use super::role::{Identity, Role, Roles};
use super::trust::{Details, Expect, Side, Trust, TrustError, Validity};
use super::verify::{Clients, Server};
use super::{CredentialError, tokens::Token};

/// The protocol that is agreed upon in a handshake: HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// What servers of pages speak besides.
const OLD_PROTOCOL: &[u8] = b"http/1.1";

/// The interval at which the files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// A certificate that expires within this share of its lifetime is warned of.
const WARN_SHARE: u32 = 5;

/// The interval of the warnings.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What was read from the files last.
#[derive(Debug)]
struct Loaded {
    material: Material,
    own: Details,
    /// For how long the authority is valid that expires first.
    authorities: Option<Validity>,
    trust: Arc<Trust>,
}

/// When the log was last told of credentials that an operator must look at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Warned {
    /// Of changed files that cannot be used.
    unusable: Option<Instant>,
    /// Of a certificate or an authority that expires soon.
    expiry: Option<Instant>,
}

/// When what a process shows and trusts expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// Its own certificate.
    pub(crate) certificate: SystemTime,
    /// The first of the authorities that it trusts.
    pub(crate) authority: SystemTime,
}

/// A process's certificate, key and trust.
#[derive(Debug)]
pub struct Credentials {
    files: TlsFiles,
    loaded: RwLock<Arc<Loaded>>,
    /// Counts how often `loaded` was replaced.
    version: AtomicU64,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// [`CredentialError`] with the file and what is wrong with it.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, CredentialError> {
        let loaded = RwLock::new(Arc::new(Loaded::read(&files)?));
        Ok(Arc::new(Self { files, loaded, version: AtomicU64::new(0) }))
    }

    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.now().own.identity.clone()
    }

    /// Checks that this process has one of these roles.
    ///
    /// # Errors
    /// [`CredentialError::OtherRole`] with the role of the certificate.
    pub fn check_role(
        &self,
        roles: Roles,
        shard: Option<common::id::ShardId>,
    ) -> Result<(), CredentialError> {
        let found = self.identity().role;
        let needed = match shard {
            Some(id) if found != Role::Shard(id) => Role::Shard(id).to_string(),
            None if !roles.contain(&found) => roles.to_string(),
            _ => return Ok(()),
        };
        Err(CredentialError::OtherRole { path: self.files.certificate.clone(), found, needed })
    }

    /// Reads the files again. Returns whether they have changed. If they cannot be used, the former ones count on.
    ///
    /// # Errors
    /// [`CredentialError`] with the file and what is wrong with it.
    pub fn reload(&self) -> Result<bool, CredentialError> {
        let fresh = Loaded::read(&self.files)?;
        let former = self.now();
        if fresh.material == former.material {
            return Ok(false);
        }
        // A file in the wrong place must not give this process another identity.
        if fresh.own.identity != former.own.identity {
            return Err(CredentialError::OtherIdentity {
                path: self.files.certificate.clone(),
                found: fresh.own.identity,
                former: former.own.identity.clone(),
            });
        }
        *self.loaded.write() = Arc::new(fresh);
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(true)
    }

    /// Reads changed files again, and warns of those that cannot be used and of a certificate that expires soon.
    pub(super) fn look(&self, warned: &mut Warned) {
        match self.reload() {
            Ok(false) => {}
            Ok(true) => {
                *warned = Warned::default();
                let own = &self.now().own;
                tracing::info!(identity = %own.identity, serial = own.serial, "the certificates were read again");
            }
            Err(error) => {
                if warned.unusable.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    warned.unusable = Some(Instant::now());
                    tracing::warn!(%error, "the certificates have changed and cannot be used: the former ones count on");
                }
            }
        }
        self.warn_of_expiry(&mut warned.expiry);
    }

    /// When this process's certificate, and the first of the authorities, expire.
    pub(crate) fn expiry(&self) -> Expiry {
        let loaded = self.now();
        let certificate = loaded.own.expires;
        Expiry { certificate, authority: loaded.authorities.map_or(certificate, |first| first.expires) }
    }

    fn warn_of_expiry(&self, warned: &mut Option<Instant>) {
        if warned.is_some_and(|at| at.elapsed() <= WARN_EVERY) {
            return;
        }
        let (loaded, now) = (self.now(), SystemTime::now());
        let Details { identity, begins, expires, .. } = &loaded.own;
        let own = Validity { begins: *begins, expires: *expires }.nearly_ended(WARN_SHARE, now);
        if let Some(left) = own {
            let (certificate, hours) = (self.files.certificate.display(), left.as_secs() / 3600);
            if left.is_zero() {
                tracing::error!(%certificate, %identity, "this process's certificate has expired: renew it");
            } else {
                tracing::warn!(%certificate, %identity, hours, "this process's certificate expires soon: renew it");
            }
        }
        let authority = loaded.authorities.and_then(|first| first.nearly_ended(WARN_SHARE, now));
        if let Some(left) = authority {
            let (authorities, hours) = (self.files.authorities.display(), left.as_secs() / 3600);
            tracing::warn!(%authorities, hours, "an authority expires soon: after that its certificates are refused");
        }
        if own.or(authority).is_some() {
            *warned = Some(Instant::now());
        }
    }

    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read())
    }

    /// How often the files were replaced. A connection that was judged by an earlier version is judged again.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Who presents this chain as a client, if it is valid now.
    pub(crate) fn identify_client(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, TrustError> {
        self.now().trust.identify(chain, Side::Client, UnixTime::now())
    }

    /// The configuration of a server. If `optional`, clients without a certificate may connect; if `pages`, those
    /// that speak HTTP/1.1 may too.
    pub(crate) fn server(&self, optional: bool, pages: bool) -> Result<Arc<ServerConfig>, CredentialError> {
        let loaded = self.now();
        let clients = Clients { trust: Arc::clone(&loaded.trust), optional };
        let mut config = only_tls13(ServerConfig::builder_with_provider(provider()))
            .and_then(|builder| {
                let builder = builder.with_client_cert_verifier(Arc::new(clients));
                builder.with_single_cert(loaded.material.chain.clone(), loaded.material.key.clone_key())
            })
            .map_err(|source| mismatch(&self.files, source))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        if pages {
            config.alpn_protocols.push(OLD_PROTOCOL.to_vec());
        }
        // A resumed session would not be judged by what was revoked since.
        config.session_storage = Arc::new(tokio_rustls::rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// The configuration of a client that wants to reach a certain peer.
    pub(crate) fn client(&self, expect: Expect) -> Result<Arc<ClientConfig>, CredentialError> {
        let loaded = self.now();
        let server = Server { trust: Arc::clone(&loaded.trust), expect };
        let mut config = only_tls13(ClientConfig::builder_with_provider(provider()))
            .and_then(|builder| {
                let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(server));
                builder.with_client_auth_cert(loaded.material.chain.clone(), loaded.material.key.clone_key())
            })
            .map_err(|source| mismatch(&self.files, source))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// ring, with AES-128 first: the strongest cipher costs a block of the fleet's time, and protects nothing for longer.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn only_tls13<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, tokio_rustls::rustls::Error> {
    builder.with_protocol_versions(&[&version::TLS13])
}

fn mismatch(files: &TlsFiles, source: tokio_rustls::rustls::Error) -> CredentialError {
    CredentialError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone(), source }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, CredentialError> {
        let material = Material::read(files)?;
        let own = |source| CredentialError::Own { path: files.certificate.clone(), source };
        let details = match material.chain.first() {
            Some(certificate) => Details::of(certificate).map_err(own)?,
            None => return Err(own(TrustError::Nameless)),
        };
        let trust = Arc::new(Trust::new(&details.identity.fleet, &material)?);
        let authorities = Validity::soonest(&material.authorities);
        let loaded = Self { material, own: details, authorities, trust };
        loaded.check_key(files)?;
        Ok(loaded)
    }

    /// Checks that the key is the certificate's, so that a half-replaced pair is never used.
    fn check_key(&self, files: &TlsFiles) -> Result<(), CredentialError> {
        let key =
            ring::sign::any_supported_type(&self.material.key).map_err(|source| mismatch(files, source))?;
        tokio_rustls::rustls::sign::CertifiedKey::new(self.material.chain.clone(), key)
            .keys_match()
            .map_err(|source| mismatch(files, source))
    }
}

/// Whom a client trusts that has no certificate of its own. A token says who it is.
#[derive(Debug)]
pub struct Authorities {
    trust: Arc<Trust>,
}

impl Authorities {
    /// Reads the certificates of the authorities, and what they have revoked.
    ///
    /// # Errors
    /// [`CredentialError`] with the file and what is wrong with it.
    pub fn load(authorities: &Path, revoked: Option<&Path>) -> Result<Arc<Self>, CredentialError> {
        let trust = Trust::of(None, &certificates(authorities)?, &revocations_of(revoked)?)?;
        Ok(Arc::new(Self { trust: Arc::new(trust) }))
    }

    /// The configuration of a client that wants to reach a certain peer and shows no certificate.
    pub(crate) fn client(&self, expect: Expect) -> Result<Arc<ClientConfig>, CredentialError> {
        let server = Server { trust: Arc::clone(&self.trust), expect };
        let builder =
            only_tls13(ClientConfig::builder_with_provider(provider())).map_err(CredentialError::Tls)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(server));
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// By what a client recognises the servers that it calls, and proves to them who it is.
#[derive(Debug, Clone)]
pub(crate) enum ClientTls {
    /// By the authorities of its own certificate, which it shows.
    Certificate(Arc<Credentials>),
    /// By authorities. It shows no certificate.
    Anonymous(Arc<Authorities>),
}

impl ClientTls {
    pub(crate) fn client(&self, expect: Expect) -> Result<Arc<ClientConfig>, CredentialError> {
        match self {
            Self::Certificate(credentials) => credentials.client(expect),
            Self::Anonymous(authorities) => authorities.client(expect),
        }
    }
}

/// How a process proves to its peers who it is, and by what it recognises them. The default is neither: plain text.
#[derive(Debug, Clone, Default)]
pub struct Security {
    pub(crate) tls: Option<ClientTls>,
    pub(crate) token: Option<Token>,
}

impl Security {
    /// Uses these credentials, and this token for calls to a coordinator.
    #[must_use]
    pub fn new(tls: Option<Arc<Credentials>>, token: Option<Token>) -> Self {
        Self { tls: tls.map(ClientTls::Certificate), token }
    }

    /// Recognises coordinators by these authorities, and proves by this token who the process is.
    #[must_use]
    pub fn by_token(authorities: Arc<Authorities>, token: Token) -> Self {
        Self { tls: Some(ClientTls::Anonymous(authorities)), token: Some(token) }
    }
}

/// Runs `look` on a blocking thread at intervals until `stop`.
pub(super) async fn watch(
    stop: CancellationToken,
    mut look: impl FnMut() + Send + 'static,
) -> Result<(), JoinError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let looked = move || {
            look();
            look
        };
        look = tokio::task::spawn_blocking(looked).await?;
    }
}
