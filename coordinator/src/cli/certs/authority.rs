//! The authority's folder: its certificate and key, what it has issued, and what it has revoked.

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ledger::Replacement;
use net::identity::{Details, Identity, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// The authority's certificate, for --tls-ca.
pub(super) const CERTIFICATE: &str = "ca.pem";

/// The name of the file with the authority's private key.
const KEY: &str = "ca.key";

/// The revoked certificates, for --tls-crl.
const REVOKED: &str = "crl.pem";

/// What the authority knows of itself.
const RECORD: &str = "authority.json";

/// The largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;

/// How much earlier than now a certificate begins, for machines whose clocks are behind.
const EARLIER: Duration = Duration::minutes(5);

/// The number of bytes of a serial number.
const SERIAL_BYTES: usize = 16;

/// A list of revoked certificates states when the next one is due. Nothing depends on it here.
const LIST_VALID: Duration = Duration::days(3650);

/// What is recorded beside the authority's certificate.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    fleet: String,
    revoked: Vec<Revoked>,
}

/// A certificate that was revoked.
#[derive(Debug, Serialize, Deserialize)]
struct Revoked {
    serial: String,
    identity: String,
    /// In seconds since 1970.
    at: i64,
}

/// A development authority: the certificate and the key that sign all others of a fleet.
pub(super) struct Authority {
    folder: PathBuf,
    record: Record,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority in a new folder.
    pub(super) fn create(folder: &Path, fleet: &str, days: u32) -> anyhow::Result<()> {
        // Any role will do: this checks the fleet's name.
        Identity::new(fleet, Role::Coordinator)?;
        DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let key = KeyPair::generate()?;
        // A list of revoked certificates is found by its authority's name, so no two have the same.
        let name = format!("authority {:08x} of the fleet {fleet}", rand::random::<u32>());
        let mut params = params(&name, days)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        write(&folder.join(KEY), &key.serialize_pem())?;
        write(&folder.join(CERTIFICATE), &certificate.pem())?;
        let record = Record { fleet: fleet.to_owned(), revoked: Vec::new() };
        let authority = Self { folder: folder.to_owned(), record, issuer: Issuer::new(params, key) };
        authority.write_revoked()
    }

    /// Opens the authority in a folder.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            let size = fs::metadata(&path).map(|found| found.len());
            if size.as_ref().is_ok_and(|size| *size > MAX_RECORD) {
                bail!("{} is larger than {MAX_RECORD} bytes", path.display());
            }
            fs::read_to_string(&path).with_context(|| {
                format!(
                    "{} cannot be read; is there an authority? `coordinator certs init` makes one",
                    path.display()
                )
            })
        };
        let record = serde_json::from_str(&read(RECORD)?).with_context(|| format!("{RECORD} is damaged"))?;
        let mode = fs::metadata(folder.join(KEY)).map(|found| found.permissions().mode() & 0o777);
        if let Some(mode) = mode.ok().filter(|mode| mode & 0o077 != 0) {
            let path = folder.join(KEY);
            bail!(
                "{} can be read by others (mode {mode:04o}); run `chmod 600 {}`",
                path.display(),
                path.display()
            );
        }
        let key = KeyPair::from_pem(&read(KEY)?)?;
        let issuer = Issuer::from_ca_cert_pem(&read(CERTIFICATE)?, key)?;
        Ok(Self { folder: folder.to_owned(), record, issuer })
    }

    /// Issues the first certificate for a role. Returns its file.
    pub(super) fn issue(&self, role: &Role, days: u32) -> anyhow::Result<PathBuf> {
        let (certificate, _) = self.files(role);
        if certificate.exists() {
            bail!("{} exists; `coordinator certs renew` replaces it", certificate.display());
        }
        self.write_certificate(role, days)
    }

    /// Replaces the certificate for a role. Returns its file.
    pub(super) fn renew(&self, role: &Role, days: u32) -> anyhow::Result<PathBuf> {
        let (certificate, _) = self.files(role);
        if !certificate.exists() {
            bail!("{} does not exist; `coordinator certs issue` makes it", certificate.display());
        }
        // What was replaced can still be revoked.
        let Details { serial, .. } = Details::read(&certificate)?;
        write(&certificate.with_extension(format!("{serial}.pem")), &fs::read_to_string(&certificate)?)?;
        self.write_certificate(role, days)
    }

    /// Revokes a certificate. Returns the file with all that are revoked.
    pub(super) fn revoke(mut self, details: &Details) -> anyhow::Result<PathBuf> {
        let Details { identity, serial, .. } = details;
        if identity.fleet != self.record.fleet {
            bail!("{identity} is of another fleet than this authority, which is for {:?}", self.record.fleet);
        }
        if !self.record.revoked.iter().any(|known| known.serial == *serial) {
            let at = OffsetDateTime::now_utc().unix_timestamp();
            self.record.revoked.push(Revoked { serial: serial.clone(), identity: identity.to_string(), at });
        }
        self.write_revoked()?;
        Ok(self.folder.join(REVOKED))
    }

    fn files(&self, role: &Role) -> (PathBuf, PathBuf) {
        let name = role.to_string().replace('/', "-");
        (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")))
    }

    fn write_certificate(&self, role: &Role, days: u32) -> anyhow::Result<PathBuf> {
        let identity = Identity::new(&self.record.fleet, role.clone())?;
        let key = KeyPair::generate()?;
        let mut params = params(&role.to_string(), days)?;
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // Coordinator and shards call each other; clients and operators only call.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(role, Role::Coordinator | Role::Shard(_)) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (certificate_file, key_file) = self.files(role);
        // A process that reads between the two finds that they do not fit, and looks again.
        write(&key_file, &key.serialize_pem())?;
        write(&certificate_file, &certificate.pem())?;
        Ok(certificate_file)
    }

    fn write_revoked(&self) -> anyhow::Result<()> {
        let now = OffsetDateTime::now_utc();
        let revoked = |known: &Revoked| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&alloy_primitives::hex::decode(&known.serial)?),
                revocation_time: OffsetDateTime::from_unix_timestamp(known.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + LIST_VALID,
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp())?),
            issuing_distribution_point: None,
            revoked_certs: self.record.revoked.iter().map(revoked).collect::<anyhow::Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer)?;
        write(&self.folder.join(RECORD), &serde_json::to_string_pretty(&self.record)?)?;
        write(&self.folder.join(REVOKED), &list.pem()?)
    }
}

/// A certificate of this name, valid from now on.
fn params(name: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - EARLIER;
    params.not_after = now.checked_add(Duration::days(i64::from(days))).context("the time is too long")?;
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    // A serial number is positive, and its first byte is written.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    Ok(params)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = Replacement::create_private(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.commit()
    });
    written.with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use net::identity::{Credentials, TlsFiles};

    use super::*;

    fn authority() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certs");
        Authority::create(&path, "testnet", 30).unwrap();
        (folder, path)
    }

    fn files(folder: &Path, name: &str) -> TlsFiles {
        TlsFiles {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            authorities: folder.join(CERTIFICATE),
            revoked: Some(folder.join(REVOKED)),
        }
    }

    #[test]
    fn what_is_issued_names_its_role_and_only_its_owner_may_read_it() {
        let (_guard, folder) = authority();
        for (role, name) in
            [("coordinator", "coordinator"), ("shard/7", "shard-7"), ("client/ci", "client-ci")]
        {
            let file = Authority::open(&folder).unwrap().issue(&role.parse().unwrap(), 5).unwrap();
            let details = Details::read(&file).unwrap();
            assert_eq!(details.identity.to_string(), format!("spiffe://testnet/{role}"));
            let credentials = Credentials::load(files(&folder, name)).unwrap();
            assert_eq!(credentials.identity(), details.identity);
        }
        for file in fs::read_dir(&folder).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
        }
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Authority::open(&folder).err().unwrap().to_string().contains("chmod 600"));
    }

    #[test]
    fn only_renewal_replaces_a_certificate() {
        let (_guard, folder) = authority();
        let (authority, role) = (Authority::open(&folder).unwrap(), "shard/1".parse().unwrap());
        assert!(authority.renew(&role, 5).is_err(), "there is none");
        let first = Details::read(&authority.issue(&role, 5).unwrap()).unwrap();
        assert!(authority.issue(&role, 5).is_err());
        let credentials = Credentials::load(files(&folder, "shard-1")).unwrap();
        assert!(!credentials.reload().unwrap(), "nothing has changed");
        let second = Details::read(&authority.renew(&role, 5).unwrap()).unwrap();
        assert_ne!(first.serial, second.serial);
        assert_eq!(Details::read(&folder.join(format!("shard-1.{}.pem", first.serial))).unwrap(), first);
        assert!(credentials.reload().unwrap());
    }

    #[test]
    fn an_authority_is_never_overwritten_and_its_fleet_has_a_proper_name() {
        let (guard, folder) = authority();
        assert!(Authority::create(&folder, "testnet", 30).is_err());
        assert!(Authority::create(&guard.path().join("other"), "Test Net", 30).is_err());
        assert!(!guard.path().join("other").exists());
    }

    #[test]
    fn a_certificate_of_another_fleet_is_not_revoked_here() {
        let (guard, folder) = authority();
        let other = guard.path().join("other");
        Authority::create(&other, "mainnet", 30).unwrap();
        let file = Authority::open(&other).unwrap().issue(&Role::Coordinator, 5).unwrap();
        let details = Details::read(&file).unwrap();
        assert!(Authority::open(&folder).unwrap().revoke(&details).is_err());
        assert!(Authority::open(&other).unwrap().revoke(&details).is_ok());
    }
}
