//! Roles, and the names by which certificates and tokens state them.

use std::fmt;
use std::str::FromStr;

use common::id::ShardId;

/// The longest name of a fleet, a reader, a client or an operator, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// The scheme of the names in certificates (SPIFFE).
const SCHEME: &str = "spiffe://";

/// What a peer is, and so what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    /// It commands shards, and asks the coordinator that it replaces to step down.
    Coordinator,
    /// It registers as this shard, reports as it and delivers its results.
    Shard(ShardId),
    /// It reads the status and the events, and submits nothing.
    Reader(String),
    /// It submits blocks and reads the status.
    Client(String),
    /// It does what a client does, retries and discards parked blocks, and asks coordinators to step down.
    Operator(String),
}

/// A set of kinds of roles that may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Every coordinator: the role has no number or name.
    pub const COORDINATOR: Self = Self(1);
    /// Every shard, whatever its number.
    pub const SHARD: Self = Self(2);
    /// Every client, whether it shows a certificate or a token.
    pub const CLIENT: Self = Self(4);
    /// Every operator, whether it shows a certificate or a token.
    pub const OPERATOR: Self = Self(8);
    /// Every reader, whether it shows a certificate or a token.
    pub const READER: Self = Self(16);
    /// Every role: the value for an address that serves all kinds of peers.
    pub const ALL: Self = Self(1 | 2 | 4 | 8 | 16);

    /// Those of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of this set that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no role is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a peer with this role is one of them.
    #[must_use]
    pub const fn contain(self, role: &Role) -> bool {
        let kind = match role {
            Role::Coordinator => Self::COORDINATOR,
            Role::Shard(_) => Self::SHARD,
            Role::Reader(_) => Self::READER,
            Role::Client(_) => Self::CLIENT,
            Role::Operator(_) => Self::OPERATOR,
        };
        self.0 & kind.0 != 0
    }

    /// Whether a token may stand for one of them. The processes of a fleet have certificates.
    pub(super) const fn take_tokens(self) -> bool {
        self.0 & (Self::READER.0 | Self::CLIENT.0 | Self::OPERATOR.0) != 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::COORDINATOR, "coordinator"),
            (Self::SHARD, "shard"),
            (Self::READER, "reader"),
            (Self::CLIENT, "client"),
            (Self::OPERATOR, "operator"),
        ];
        let mut separator = "";
        for (kind, name) in names {
            if self.0 & kind.0 != 0 {
                write!(f, "{separator}{name}")?;
                separator = " or ";
            }
        }
        Ok(())
    }
}

/// Why a text names no role or identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is none of the roles.
    #[error(
        "{0:?} is not a role: write coordinator, shard/NUMBER, reader/NAME, client/NAME or operator/NAME"
    )]
    Role(String),
    /// A name has other characters, or too many.
    #[error("{0:?} is not a name: write 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9, '.', '-' and '_'")]
    Name(String),
    /// The name in a certificate is none of ours.
    #[error("{0:?} is not the name of a peer, spiffe://FLEET/ROLE")]
    Uri(String),
}

fn checked_name(name: &str) -> Result<String, NameError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(NameError::Name(excerpt(name)));
    }
    Ok(name.to_owned())
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    text.chars().take(2 * MAX_NAME_BYTES).collect()
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let unknown = || NameError::Role(excerpt(text));
        match text.split_once('/') {
            None if text == "coordinator" => Ok(Self::Coordinator),
            Some(("shard", number)) => {
                let id = number.parse().map_err(|_| unknown())?;
                // One spelling for each shard: no leading zero, no sign.
                if format!("{id}") == number { Ok(Self::Shard(ShardId(id))) } else { Err(unknown()) }
            }
            Some(("reader", name)) => checked_name(name).map(Self::Reader),
            Some(("client", name)) => checked_name(name).map(Self::Client),
            Some(("operator", name)) => checked_name(name).map(Self::Operator),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Shard(id) => write!(f, "shard/{id}"),
            Self::Reader(name) => write!(f, "reader/{name}"),
            Self::Client(name) => write!(f, "client/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

/// A role in a fleet. A certificate states it as a URI in its subject alternative names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The fleet. Certificates of one authority may be for several fleets, which do not trust each other.
    pub fleet: String,
    /// The role in it.
    pub role: Role,
}

impl Identity {
    /// A role in a fleet of this name.
    ///
    /// # Errors
    /// [`NameError::Name`] if the fleet's name has other characters than names may have.
    pub fn new(fleet: &str, role: Role) -> Result<Self, NameError> {
        Ok(Self { fleet: checked_name(fleet)?, role })
    }

    /// Whether a text is meant as such a name.
    pub(super) fn is_meant_by(uri: &str) -> bool {
        uri.starts_with(SCHEME)
    }
}

impl FromStr for Identity {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, NameError> {
        let unknown = || NameError::Uri(excerpt(uri));
        let (fleet, role) =
            uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(unknown)?;
        Self::new(fleet, role.parse()?)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.fleet, self.role)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identities_survive_their_names() {
        for name in
            ["coordinator", "shard/0", "shard/4294967295", "reader/r", "client/ci-7", "operator/a.b_c"]
        {
            let identity: Identity = format!("spiffe://mainnet.1/{name}").parse().unwrap();
            assert_eq!(identity.to_string(), format!("spiffe://mainnet.1/{name}"));
            assert_eq!(identity.role.to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in
            ["", "shard", "shard/01", "shard/+1", "shard/-1", "shard/4294967296", "shard/1/2", "client/"]
        {
            assert!(name.parse::<Role>().is_err(), "{name}");
        }
        for name in ["client/Ann", "operator/a b", "operator/../x", "client/é", "Coordinator"] {
            assert!(name.parse::<Role>().is_err(), "{name}");
        }
        for uri in
            ["http://a/coordinator", "spiffe://coordinator", "spiffe:///coordinator", "spiffe://A/shard/1"]
        {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
        assert!(format!("client/{}", "a".repeat(64)).parse::<Role>().is_err());
    }

    #[test]
    fn a_set_of_roles_contains_only_its_own() {
        let operators = Roles::CLIENT.or(Roles::OPERATOR);
        assert!(
            operators.contain(&Role::Operator("a".into())) && operators.contain(&Role::Client("a".into()))
        );
        assert!(!operators.contain(&Role::Coordinator) && !operators.contain(&Role::Shard(ShardId(1))));
        assert_eq!(operators.to_string(), "client or operator");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_alike(text in "\\PC{0,80}") {
            if let Ok(role) = text.parse::<Role>() {
                prop_assert_eq!(role.to_string(), text.clone());
            }
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
