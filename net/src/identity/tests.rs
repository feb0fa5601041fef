//! Authorities and certificates for the tests of this crate.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use super::{Authorities, Credentials, TlsFiles};

/// An authority, and a folder for what it issues.
pub(crate) struct Authority {
    folder: TempDir,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid, in days from now.
pub(crate) type Days = std::ops::Range<i64>;

/// From yesterday to tomorrow.
pub(crate) const NOW: Days = -1..1;

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let authority = Self { folder, certificate, issuer: Issuer::new(params, key) };
        authority.write("ca.pem", &authority.certificate);
        authority
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Issues a certificate with these names. Its serial number is the length of `file`.
    pub(crate) fn issue(&self, file: &str, names: &[&str], days: Days) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) =
            (now + Duration::days(days.start), now + Duration::days(days.end));
        params.serial_number = Some(SerialNumber::from(file.len() as u64));
        params.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).to_owned().try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !names.iter().any(|name| name.contains("/client/")) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        TlsFiles {
            certificate: self.write(&format!("{file}.pem"), &certificate),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
            authorities: self.folder.path().join("ca.pem"),
            revoked: None,
        }
    }

    /// Credentials for one role of the fleet `test`.
    pub(crate) fn credentials(&self, role: &str) -> Arc<Credentials> {
        let name = role.replace('/', "-");
        Credentials::load(self.issue(&name, &[&format!("spiffe://test/{role}")], NOW)).unwrap()
    }

    /// What a client without a certificate trusts.
    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        Authorities::load(&self.folder.path().join("ca.pem"), None).unwrap()
    }

    /// Credentials for one role that look for revoked certificates.
    pub(crate) fn watchful_credentials(&self, role: &str) -> Arc<Credentials> {
        let files = self.issue(&role.replace('/', "-"), &[&format!("spiffe://test/{role}")], NOW);
        let revoked = Some(self.revoke(&[]));
        Credentials::load(TlsFiles { revoked, ..files }).unwrap()
    }

    /// Revokes the certificates of these files.
    pub(crate) fn revoke(&self, files: &[&str]) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let revoked = |file: &&str| RevokedCertParams {
            serial_number: SerialNumber::from(file.len() as u64),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp()).unwrap()),
            issuing_distribution_point: None,
            revoked_certs: files.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("crl.pem", &list.signed_by(&self.issuer).unwrap().pem().unwrap())
    }

    /// The files of one authority with the authorities of another.
    pub(crate) fn trusting(files: TlsFiles, other: &Self) -> Arc<Credentials> {
        let authorities = other.folder.path().join("ca.pem");
        Credentials::load(TlsFiles { authorities, ..files }).unwrap()
    }
}
