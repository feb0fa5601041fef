//! The door of a server: what it knows of a connection, and whether the peer behind it may make a call.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::message::Caller;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::CredentialError;
use super::credentials::{Credentials, Expiry, Warned, watch};
use super::role::{Identity, Role, Roles};
use super::tokens::Tokens;
use crate::calls::Activity;
use crate::connections::rare::Rare;

/// The metadata key of a bearer token.
pub(crate) const AUTHORIZATION: &str = "authorization";

/// The scheme of a bearer token in [`AUTHORIZATION`].
pub(crate) const BEARER: &str = "Bearer ";

/// How a server learns who its callers are, and which roles it serves. The default learns nothing and lets
/// every peer make every call.
#[derive(Debug, Clone)]
pub struct Door {
    tls: Option<Arc<Credentials>>,
    tokens: Option<Arc<TokenSource>>,
    serves: Roles,
    /// Whether it leads to pages, for browsers and Prometheus, that may speak HTTP/1.1.
    pages: bool,
    /// Limits how often refused calls are logged.
    refusals: Arc<Mutex<Rare>>,
}

impl Default for Door {
    fn default() -> Self {
        Self { tls: None, tokens: None, serves: Roles::ALL, pages: false, refusals: Arc::default() }
    }
}

#[derive(Debug)]
struct TokenSource {
    path: PathBuf,
    tokens: RwLock<Tokens>,
}

impl Door {
    /// A door that recognises certificates, if there are credentials, and the tokens of a file, if there is one.
    ///
    /// # Errors
    /// [`CredentialError`] if the token file cannot be used.
    pub fn new(tls: Option<Arc<Credentials>>, tokens: Option<&Path>) -> Result<Self, CredentialError> {
        let tokens = match tokens {
            None => None,
            Some(path) => {
                let tokens = RwLock::new(Tokens::read(path)?);
                Some(Arc::new(TokenSource { path: path.to_owned(), tokens }))
            }
        };
        Ok(Self { tls, tokens, ..Self::default() })
    }

    /// The same door for an address that serves only these roles.
    #[must_use]
    pub fn only(&self, serves: Roles) -> Self {
        Self { serves, ..self.clone() }
    }

    /// The same door for an address with pages.
    pub(crate) fn to_pages(&self) -> Self {
        Self { pages: true, ..self.clone() }
    }

    /// Whether it leads to pages.
    pub(crate) fn has_pages(&self) -> bool {
        self.pages
    }

    /// The credentials; `None` without TLS.
    pub(crate) fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.tls.as_ref()
    }

    /// When what this process shows and trusts expires; `None` without TLS.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        self.tls.as_ref().map(|credentials| credentials.expiry())
    }

    /// Whether some peers have identities: certificates or tokens.
    pub(crate) fn recognises_peers(&self) -> bool {
        self.tls.is_some() || self.tokens.is_some()
    }

    /// Whether a caller may have a token instead of a certificate.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Reads changed files again until `stop`, and warns of certificates that expire soon.
    ///
    /// # Errors
    /// [`JoinError`] if looking at the files has panicked.
    pub async fn watch(self, stop: CancellationToken) -> Result<(), JoinError> {
        let mut warned = (Warned::default(), false);
        watch(stop, move || {
            if let Some(credentials) = &self.tls {
                credentials.look(&mut warned.0);
            }
            if let Some(source) = &self.tokens {
                warned.1 = source.look(warned.1);
            }
        })
        .await
    }
}

impl TokenSource {
    /// Reads the tokens again; returns whether they cannot be used. Only the first such time is logged.
    fn look(&self, failed: bool) -> bool {
        match Tokens::read(&self.path) {
            Ok(fresh) if fresh == *self.tokens.read() => false,
            Ok(fresh) => {
                *self.tokens.write() = fresh;
                tracing::info!(file = %self.path.display(), "the tokens were read again");
                false
            }
            Err(error) => {
                if !failed {
                    tracing::warn!(%error, "the tokens have changed and cannot be used: the former ones count on");
                }
                true
            }
        }
    }
}

/// What a server knows of a connection. Each of its requests carries it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's end of the connection. It proves nothing about the peer's identity.
    pub address: SocketAddr,
    /// Who it is by its certificate; `None` if it has shown none.
    pub identity: Option<Arc<Identity>>,
    door: Door,
    activity: Arc<Activity>,
    same_machine: bool,
}

impl Peer {
    pub(crate) fn new(
        address: SocketAddr,
        identity: Option<Arc<Identity>>,
        door: Door,
        activity: Arc<Activity>,
    ) -> Self {
        Self { address, identity, door, activity, same_machine: false }
    }

    /// The same peer, on this machine or not.
    pub(crate) fn on_this_machine(self, same_machine: bool) -> Self {
        Self { same_machine, ..self }
    }

    /// What the calls of the connection show of it.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Whose account the peer's bytes are counted on.
    pub(crate) fn account(&self) -> Account {
        match &self.identity {
            Some(identity) => Account::Identity(Arc::clone(identity)),
            None => Account::Address(household(self.address.ip())),
        }
    }

    /// Notes a call. It makes a peer recognised that has a certificate, or that needs none.
    pub(crate) fn calls(&self) {
        if self.identity.is_some() || !self.door.recognises_peers() {
            self.activity.recognise();
        }
    }

    /// Whether the peer has made a call and is not a stranger.
    pub(crate) fn is_recognised(&self) -> bool {
        self.activity.is_recognised()
    }

    /// The peer's role if it has one of `roles`; `None` if neither TLS nor tokens are on. A refusal is logged.
    fn role(&self, metadata: &MetadataMap, roles: Roles) -> Result<Option<Role>, Status> {
        self.role_of(metadata, roles).inspect_err(|status| {
            if let Some(hidden) = self.door.refusals.lock().now() {
                tracing::warn!(address = %self.address, reason = status.message(), hidden, "a call was refused");
            }
        })
    }

    /// Notes that the peer's connection was closed, for a reason that its owner should know.
    pub(crate) fn note_refusal(&self, reason: &str) {
        if let Some(hidden) = self.door.refusals.lock().now() {
            tracing::warn!(address = %self.address, reason, hidden, "a connection was refused");
        }
    }

    fn role_of(&self, metadata: &MetadataMap, roles: Roles) -> Result<Option<Role>, Status> {
        let (needed, roles) = (roles, roles.and(self.door.serves));
        if roles.is_empty() {
            let serves = self.door.serves;
            return Err(Status::permission_denied(format!(
                "this call needs the role {needed}, and this address serves the role {serves}: use the other address"
            )));
        }
        if let Some(identity) = &self.identity {
            return match roles.contain(&identity.role) {
                true => Ok(Some(identity.role.clone())),
                false => Err(denied(&identity.role, roles)),
            };
        }
        let tokens = self.door.tokens.as_ref().filter(|_| roles.take_tokens());
        if let Some(source) = tokens {
            let stated = metadata.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let Some(token) = stated.and_then(|value| value.strip_prefix(BEARER)) else {
                return Err(nameless(
                    roles,
                    "a certificate (--tls-cert, --tls-key, --tls-ca) or a token (--token-file)",
                ));
            };
            return match source.tokens.read().find(token) {
                Some(role) if roles.contain(role) => {
                    self.activity.recognise();
                    Ok(Some(role.clone()))
                }
                Some(role) => Err(denied(role, roles)),
                None => Err(Status::unauthenticated("the token is not one of this coordinator's")),
            };
        }
        match self.door.tls {
            Some(_) => Err(nameless(roles, "a certificate (--tls-cert, --tls-key, --tls-ca)")),
            None => {
                self.activity.recognise();
                Ok(None)
            }
        }
    }
}

fn nameless(roles: Roles, what: &str) -> Status {
    Status::unauthenticated(format!(
        "this call needs the role {roles}, and the caller has shown no identity: give {what}"
    ))
}

fn denied(role: &Role, roles: Roles) -> Status {
    Status::permission_denied(format!("this call needs the role {roles}, and the caller is {role}"))
}

/// Whose bytes are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// A peer with a certificate.
    Identity(Arc<Identity>),
    /// All peers of an address, or of an IPv6 network of 64 bits, that have none.
    Address(IpAddr),
}

/// Whose account the caller's bytes are counted on.
///
/// # Errors
/// `INTERNAL` if the connection of the call is not known.
pub fn account<T>(request: &Request<T>) -> Result<Account, Status> {
    request.extensions().get().map(Peer::account).ok_or_else(unknown)
}

/// The other end of the caller's connection.
///
/// # Errors
/// `INTERNAL` if the connection of the call is not known.
pub fn origin<T>(request: &Request<T>) -> Result<Caller, Status> {
    let peer = request.extensions().get::<Peer>().ok_or_else(unknown)?;
    let address = peer.address.ip().to_canonical();
    Ok(Caller { address, same_machine: peer.same_machine || address.is_loopback() })
}

/// The address under which limits count a peer. A host usually has all addresses of its IPv6 network of 64 bits,
/// so these count as one; an IPv4 address that is written as IPv6 counts as itself.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    const PREFIX: u32 = 64;
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => (address & Ipv6Addr::from_bits(u128::MAX << (128 - PREFIX))).into(),
    }
}

fn unknown() -> Status {
    Status::internal("the connection of this call is not known")
}

/// Checks that the caller has one of these roles. Returns its role; `None` if neither TLS nor tokens
/// are on.
///
/// # Errors
/// `UNAUTHENTICATED` if the caller has shown no identity, `PERMISSION_DENIED` if it has another role.
pub fn allowed<T>(request: &Request<T>, roles: Roles) -> Result<Option<Role>, Status> {
    allowed_by(request.extensions(), request.metadata(), roles)
}

pub(crate) fn allowed_by(
    extensions: &Extensions,
    metadata: &MetadataMap,
    roles: Roles,
) -> Result<Option<Role>, Status> {
    // Every connection of our servers has this. A request without it has come another way.
    extensions.get::<Peer>().ok_or_else(unknown)?.role(metadata, roles)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use tonic::Code;

    use super::*;
    use crate::identity::tests::Authority;

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_address() {
        let of = |text: &str| household(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.7"), of("10.0.0.7"));
        assert_ne!(of("10.0.0.7"), of("10.0.0.8"));
    }

    const READERS: Roles = Roles::CLIENT.or(Roles::OPERATOR);

    fn token_door(tls: Option<Arc<Credentials>>) -> Door {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let (client, operator) = ("c".repeat(32), "o".repeat(32));
        std::fs::write(file.path(), format!("client/ci {client}\noperator/ann {operator}\n")).unwrap();
        Door::new(tls, Some(file.path())).unwrap()
    }

    /// What a caller without a certificate may do with this token.
    fn role(door: &Door, token: Option<&str>, roles: Roles) -> Result<Option<Role>, Code> {
        let peer = Peer::new("127.0.0.1:1".parse().unwrap(), None, door.clone(), Arc::default());
        let mut metadata = MetadataMap::new();
        if let Some(token) = token {
            metadata.insert(AUTHORIZATION, format!("{BEARER}{token}").parse().unwrap());
        }
        peer.role(&metadata, roles).map_err(|status| status.code())
    }

    #[test]
    fn a_token_gives_its_role_and_no_other() {
        let door = token_door(None);
        let (client, operator) = ("c".repeat(32), "o".repeat(32));
        assert_eq!(role(&door, Some(&client), READERS), Ok(Some(Role::Client("ci".into()))));
        assert_eq!(role(&door, Some(&operator), READERS), Ok(Some(Role::Operator("ann".into()))));
        assert_eq!(role(&door, Some(&client), Roles::OPERATOR), Err(Code::PermissionDenied));
        assert_eq!(role(&door, Some("wrong"), READERS), Err(Code::Unauthenticated));
        assert_eq!(role(&door, None, READERS), Err(Code::Unauthenticated));
    }

    #[test]
    fn tokens_never_stand_for_the_processes_of_a_fleet() {
        let operator = "o".repeat(32);
        assert_eq!(
            role(&token_door(None), Some(&operator), Roles::SHARD),
            Ok(None),
            "they prove themselves otherwise"
        );
        let door = token_door(Some(Authority::new().credentials("coordinator")));
        for roles in [Roles::SHARD, Roles::COORDINATOR] {
            assert_eq!(role(&door, Some(&operator), roles), Err(Code::Unauthenticated));
        }
    }

    #[test]
    fn without_certificates_and_tokens_every_call_is_allowed() {
        for roles in [READERS, Roles::OPERATOR, Roles::SHARD, Roles::COORDINATOR] {
            assert_eq!(role(&Door::default(), None, roles), Ok(None));
        }
    }

    #[test]
    fn an_address_serves_only_its_roles() {
        let open = Door::default().only(Roles::CLIENT);
        assert_eq!(role(&open, None, READERS), Ok(None));
        for roles in [Roles::OPERATOR, Roles::SHARD, Roles::COORDINATOR.or(Roles::OPERATOR)] {
            assert_eq!(role(&open, None, roles), Err(Code::PermissionDenied), "{roles}");
        }
        let (client, operator) = ("c".repeat(32), "o".repeat(32));
        let door = token_door(None);
        assert_eq!(role(&door.only(Roles::CLIENT), Some(&operator), READERS), Err(Code::PermissionDenied));
        assert_eq!(role(&door.only(Roles::OPERATOR), Some(&client), READERS), Err(Code::PermissionDenied));
        assert_eq!(
            role(&door.only(Roles::OPERATOR), Some(&operator), READERS),
            Ok(Some(Role::Operator("ann".into())))
        );
    }

    #[test]
    fn calls_of_strangers_do_not_make_them_recognised() {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer::new(address, None, token_door(None), Arc::default());
        peer.calls();
        assert!(peer.role(&MetadataMap::new(), READERS).is_err() && !peer.is_recognised());
        let mut metadata = MetadataMap::new();
        metadata.insert(AUTHORIZATION, format!("{BEARER}{}", "c".repeat(32)).parse().unwrap());
        assert!(peer.role(&metadata, Roles::OPERATOR).is_err() && !peer.is_recognised());
        assert!(peer.role(&metadata, READERS).is_ok() && peer.is_recognised());
        let open = Peer::new(address, None, Door::default(), Arc::default());
        assert!(!open.is_recognised());
        open.calls();
        assert!(open.is_recognised());
    }
}
