//! Certificates: one that a peer shows in its handshake, and the files of certificates, authorities and revoked
//! certificates. The examples are of an authority that was thrown away.

use std::path::Path;

use net::identity::{Authorities, Details};

use super::Target;
use super::values::put;

const AUTHORITY: &str = include_str!("certificates/authority.pem");
const REVOKED: &str = include_str!("certificates/revoked.pem");
const SHARD: &str = include_str!("certificates/shard.pem");
const SHOWN: &[u8] = include_bytes!("certificates/shard.der");

pub(super) fn targets(folder: &Path) -> Vec<Target> {
    let at = |name: &str| folder.join(name);
    let (authority, trusted, revoked, own) =
        (at("authority.pem"), at("trusted.pem"), at("revoked.pem"), at("own.pem"));
    let is_written = put(&trusted, AUTHORITY.as_bytes());
    let valid = |text: &str| vec![text.as_bytes().to_vec()];
    vec![
        Target::of("certificate", vec![SHOWN.to_vec()], |bytes| Details::of(&bytes.into()).is_ok()),
        Target::of("file-certificate", valid(SHARD), move |bytes| {
            put(&own, bytes) && Details::read(&own).is_ok()
        })
        .bounded(256 << 10, 256),
        Target::of("file-authorities", valid(AUTHORITY), move |bytes| {
            put(&authority, bytes) && Authorities::load(&authority, None).is_ok()
        })
        .bounded(256 << 10, 256),
        Target::of("file-revoked", valid(REVOKED), move |bytes| {
            is_written && put(&revoked, bytes) && Authorities::load(&trusted, Some(&revoked)).is_ok()
        })
        .bounded(256 << 10, 256),
    ]
}
