//! The two sides of a handshake as rustls asks about them: each peer's chain is judged by [`Trust`], and
//! only TLS 1.3 is spoken.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::trust::{Expect, Side, Trust, TrustError};

/// The algorithms of signatures that are believed.
fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// How both sides judge the signatures of a handshake. The two traits ask for it by the same functions.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::Tls12NotOffered.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}

/// Turns a judgement into rustls's error, which tells the peer the reason by an alert.
fn refused(error: TrustError) -> Error {
    let reason = match &error {
        TrustError::Chain(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
        TrustError::Chain(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet,
        TrustError::Chain(webpki::Error::CertRevoked) => CertificateError::Revoked,
        // Another authority of the same name gives a wrong signature.
        TrustError::Chain(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            CertificateError::UnknownIssuer
        }
        _ => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(reason)
}

fn chain_of<'a>(own: &CertificateDer<'a>, between: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(own).chain(between).cloned().collect()
}

/// Judges the clients of a server.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) trust: Arc<Trust>,
    /// Whether a client may have no certificate, because a token can name it.
    pub(super) optional: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identified = self.trust.identify(&chain_of(own, between), Side::Client, now);
        identified.map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    signatures!();
}

/// Judges the server that a client has reached. Its role counts, not its host's name: the processes of a fleet
/// move between machines.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) trust: Arc<Trust>,
    pub(super) expect: Expect,
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identified = self.trust.identify(&chain_of(own, between), Side::Server, now);
        let fits = identified.and_then(|identity| self.expect.check(&identity));
        fits.map(|()| ServerCertVerified::assertion()).map_err(refused)
    }

    signatures!();
}
