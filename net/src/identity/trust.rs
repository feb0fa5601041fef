//! Whether a certificate names a peer of this fleet: its chain, its time, its usage, its name, and that it was
//! not revoked.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::CredentialError;
use super::files::{Material, certificates};
use super::role::{Identity, NameError, Role, Roles};

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The chain, the time, the usage or the revocation.
    #[error("its certificate is not valid here: {0}")]
    Chain(webpki::Error),
    /// The certificate has no name of a peer.
    #[error("its certificate has no name of the form spiffe://FLEET/ROLE")]
    Nameless,
    /// The certificate has several names.
    #[error("its certificate has more than one name of the form spiffe://FLEET/ROLE")]
    SeveralNames,
    /// The name is malformed.
    #[error("its certificate has a wrong name: {0}")]
    Name(#[from] NameError),
    /// The certificate cannot be parsed.
    #[error("its certificate is malformed: {0}")]
    Malformed(String),
    /// The certificate is for another fleet.
    #[error("its certificate is for the fleet {theirs:?}, and this one is {ours:?}")]
    OtherFleet {
        /// The fleet of the certificate.
        theirs: String,
        /// The fleet of this process.
        ours: String,
    },
    /// Another peer was expected.
    #[error("its certificate is that of {found}, and {expected} was expected there")]
    OtherPeer {
        /// The role in the certificate.
        found: Role,
        /// The role that the client wanted to reach, in text form, for example `shard/1`.
        expected: String,
    },
}

/// In which part of a connection a peer presents its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The authorities that are trusted, and what they have revoked.
#[derive(Debug)]
pub(super) struct Trust {
    /// The fleet whose peers are trusted; `None` for any fleet of the authorities.
    fleet: Option<String>,
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
}

impl Trust {
    /// Trusts the authorities in `material` for peers of this fleet.
    pub(super) fn new(fleet: &str, material: &Material) -> Result<Self, CredentialError> {
        Self::of(Some(fleet), &material.authorities, &material.revoked)
    }

    /// Trusts these authorities for peers of one fleet, or of any.
    pub(super) fn of(
        fleet: Option<&str>,
        authorities: &[CertificateDer<'static>],
        revoked: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, CredentialError> {
        let anchor = |certificate: &CertificateDer<'static>| {
            anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(CredentialError::Authority)
        };
        let list = |list: &CertificateRevocationListDer<'static>| {
            OwnedCertRevocationList::from_der(list.as_ref()).map(Into::into).map_err(CredentialError::Revoked)
        };
        Ok(Self {
            fleet: fleet.map(str::to_owned),
            anchors: authorities.iter().map(anchor).collect::<Result<_, _>>()?,
            revoked: revoked.iter().map(list).collect::<Result<_, _>>()?,
        })
    }

    /// Who presents this chain, the peer's own certificate first, if it is valid at `now`.
    pub(super) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<Identity, TrustError> {
        let (own, between) = chain.split_first().ok_or(TrustError::Nameless)?;
        let certificate = EndEntityCert::try_from(own).map_err(TrustError::Chain)?;
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<_> = self.revoked.iter().collect();
        // Without a list there is nothing to look up.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            // The list of one authority says nothing about the certificates of another.
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .build()
        });
        certificate
            .verify_for_usage(ALL_VERIFICATION_ALGS, &self.anchors, between, now, usage, revocation, None)
            .map_err(TrustError::Chain)?;
        let identity = Details::of(own)?.identity;
        match &self.fleet {
            Some(ours) if *ours != identity.fleet => {
                Err(TrustError::OtherFleet { theirs: identity.fleet, ours: ours.clone() })
            }
            _ => Ok(identity),
        }
    }
}

/// The peer that a client wants to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Any coordinator of the fleet.
    Coordinator,
    /// The shard with this id, and no other shard.
    Shard(common::id::ShardId),
}

impl Expect {
    pub(super) fn check(self, identity: &Identity) -> Result<(), TrustError> {
        let fits = match self {
            Self::Coordinator => Roles::COORDINATOR.contain(&identity.role),
            Self::Shard(id) => identity.role == Role::Shard(id),
        };
        if fits {
            return Ok(());
        }
        let expected = match self {
            Self::Coordinator => Role::Coordinator,
            Self::Shard(id) => Role::Shard(id),
        };
        Err(TrustError::OtherPeer { found: identity.role.clone(), expected: expected.to_string() })
    }
}

/// The time for which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) begins: SystemTime,
    /// The last time at which it is valid.
    pub(super) expires: SystemTime,
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let time = |seconds: i64| {
            let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let validity = certificate.validity();
        Self { begins: time(validity.not_before.timestamp()), expires: time(validity.not_after.timestamp()) }
    }

    /// That of the certificate that expires first. Malformed ones do not count, and no authority may be.
    pub(super) fn soonest(certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let parsed = certificates.iter().filter_map(|one| X509Certificate::from_der(one).ok());
        parsed.map(|(_, parsed)| Self::of(&parsed)).min_by_key(|validity| validity.expires)
    }

    /// What is left of it, if that is less than this share; zero if it has ended.
    pub(super) fn nearly_ended(&self, share: u32, now: SystemTime) -> Option<Duration> {
        let lifetime = self.expires.duration_since(self.begins).unwrap_or_default();
        let left = self.expires.duration_since(now).unwrap_or_default();
        (left <= lifetime / share).then_some(left)
    }
}

/// What a certificate states about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Who it is for.
    pub identity: Identity,
    /// Its serial number, in hex.
    pub serial: String,
    /// When it begins to be valid.
    pub begins: SystemTime,
    /// The last time at which it is valid.
    pub expires: SystemTime,
}

impl Details {
    /// Reads the first certificate of a PEM file without judging it.
    ///
    /// # Errors
    /// [`CredentialError`] if the file cannot be read, or the certificate does not name a peer.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let own = |source| CredentialError::Own { path: path.to_owned(), source };
        let certificates = certificates(path)?;
        Self::of(certificates.first().ok_or_else(|| own(TrustError::Nameless))?).map_err(own)
    }

    /// Reads a certificate without judging it.
    ///
    /// # Errors
    /// [`TrustError`] if it is malformed, or does not have exactly one name of a peer.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, TrustError> {
        let malformed = |reason: String| TrustError::Malformed(reason);
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
        let names = parsed.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        let mut uris = names.flatten().filter_map(|name| match name {
            GeneralName::URI(uri) if Identity::is_meant_by(uri) => Some(*uri),
            _ => None,
        });
        let name = uris.next().ok_or(TrustError::Nameless)?;
        if uris.next().is_some() {
            return Err(TrustError::SeveralNames);
        }
        let Validity { begins, expires } = Validity::of(&parsed);
        let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { identity: name.parse()?, serial, begins, expires })
    }
}
