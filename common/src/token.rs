//! The secret that one process of a shard shares with its coordinator.
//!
//! The process draws a token at its start and states it when it registers. From then on it proves by it who
//! speaks, and it obeys only who knows it. The token travels unencrypted, so it stops those who can reach the
//! ports, not those who can read the traffic.

use std::fmt;

use alloy_primitives::B256;

use crate::codec::payload_digest;

/// The number of bytes of a token.
pub const TOKEN_BYTES: usize = 32;

/// A session's secret. Its `Debug` form does not show it.
#[derive(Clone, Copy)]
pub struct SessionToken([u8; TOKEN_BYTES]);

impl SessionToken {
    /// A secret token, drawn from the operating system's randomness.
    #[must_use]
    pub fn fresh() -> Self {
        Self(rand::random())
    }

    /// The token with these bytes; `None` unless there are [`TOKEN_BYTES`] of them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The bytes, to be sent to the peer only.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn digest(&self) -> B256 {
        payload_digest(&self.0)
    }
}

impl PartialEq for SessionToken {
    /// Compares digests: the time that it takes says nothing about the token.
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for SessionToken {}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_survives_its_bytes_and_is_like_no_other() {
        let token = SessionToken::fresh();
        assert_eq!(SessionToken::from_bytes(token.bytes()).unwrap(), token);
        assert_ne!(SessionToken::fresh(), token);
        assert!(SessionToken::from_bytes(&token.bytes()[1..]).is_none());
        assert_eq!(format!("{token:?}"), "SessionToken(..)");
    }
}
