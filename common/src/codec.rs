//! BCS, the encoding of work and results on the wire, with its size limits and the payload digest.
//!
//! BCS is canonical: equal values have equal bytes, so digests can compare values. The codec checks
//! sizes before it decodes anything. This module does not hash state: see [`crate::digest`].

use alloy_primitives::{B256, U256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest payload that is encoded or decoded as one value, in bytes. Larger data (snapshots)
/// travels as many values.
pub const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// Why bytes cannot be decoded, or a value cannot be encoded.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The value has more bytes than the limit for its kind.
    #[error("{what} is {size} bytes long, more than the limit of {limit}; raise the limit or split it")]
    TooLarge {
        /// The name of the value, for the message.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The digest does not match: the bytes were damaged in transit.
    #[error("{what} is damaged: its digest is {found}, {expected} was announced")]
    Damaged {
        /// The name of the value, for the message.
        what: &'static str,
        /// The announced digest.
        expected: B256,
        /// The digest of the received bytes.
        found: B256,
    },
    /// The bytes are not BCS of the expected type.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// The name of the value, for the message.
        what: &'static str,
        /// The decoder's message.
        reason: String,
    },
}

/// Encodes `value` within `limit` bytes.
///
/// # Errors
/// [`CodecError::TooLarge`] above the limit, [`CodecError::Malformed`] for a value that BCS cannot
/// express.
pub fn encode<T: Serialize>(what: &'static str, value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let bytes =
        bcs::to_bytes(value).map_err(|error| CodecError::Malformed { what, reason: error.to_string() })?;
    check_size(what, bytes.len(), limit)?;
    Ok(bytes)
}

/// Decodes a value from all of `bytes`, which may be at most `limit` long.
///
/// # Errors
/// [`CodecError::TooLarge`] above the limit, [`CodecError::Malformed`] if the bytes are not exactly one
/// value.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    check_size(what, bytes.len(), limit)?;
    bcs::from_bytes(bytes).map_err(|error| CodecError::Malformed { what, reason: error.to_string() })
}

/// Checks the digest that was announced for the bytes, then decodes a value from them.
///
/// # Errors
/// As [`decode`], and [`CodecError::Damaged`] if the digest differs.
pub fn decode_checked<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    expected: B256,
    limit: usize,
) -> Result<T, CodecError> {
    check_size(what, bytes.len(), limit)?;
    let found = payload_digest(bytes);
    if found != expected {
        return Err(CodecError::Damaged { what, expected, found });
    }
    decode(what, bytes, limit)
}

/// The digest that accompanies every payload.
#[must_use]
pub fn payload_digest(bytes: &[u8]) -> B256 {
    B256::new(*blake3::hash(bytes).as_bytes())
}

fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), CodecError> {
    if size > limit { Err(CodecError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// A 256-bit word, encoded as a byte string of its 32 big-endian bytes. This is several times faster
/// than the number's own encoding, which allocates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(pub U256);

impl Serialize for Word {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_be_bytes::<32>())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor;
        impl serde::de::Visitor<'_> for WordVisitor {
            type Value = Word;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("32 bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Word, E> {
                let array = <[u8; 32]>::try_from(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))?;
                Ok(Word(U256::from_be_bytes(array)))
            }
        }
        deserializer.deserialize_bytes(WordVisitor)
    }
}

/// `#[serde(with = "common::codec::word")]` for a bare `U256` field.
pub mod word {
    use super::{U256, Word};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Encodes as [`Word`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &U256, serializer: S) -> Result<S::Ok, S::Error> {
        Word(*value).serialize(serializer)
    }

    /// Decodes what [`serialize`] wrote.
    ///
    /// # Errors
    /// Those of the deserializer, and a length other than 32.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U256, D::Error> {
        Word::deserialize(deserializer).map(|word| word.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Law: decoding what was encoded gives the same value.
        #[test]
        fn words_survive_a_round_trip(limbs: [u64; 4]) {
            let word = Word(U256::from_limbs(limbs));
            let bytes = encode("word", &word, 64).unwrap();
            prop_assert_eq!(decode::<Word>("word", &bytes, 64).unwrap(), word);
        }

        // Law: no bytes make the decoder panic.
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Vec<(Word, B256, Option<String>)>>("noise", &bytes, 1 << 16);
        }
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let mut bytes = encode("word", &Word(U256::from(7)), 64).unwrap();
        let digest = payload_digest(&bytes);
        bytes[5] ^= 1;
        let error = decode_checked::<Word>("word", &bytes, digest, 64).unwrap_err();
        assert!(matches!(error, CodecError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_before_decoding() {
        let error = decode::<Vec<u8>>("block", &[0; 100], 99).unwrap_err();
        assert_eq!(error, CodecError::TooLarge { what: "block", size: 100, limit: 99 });
    }

    #[test]
    fn hashes_encode_as_bytes() {
        let bytes = encode("hash", &B256::repeat_byte(3), 64).unwrap();
        assert_eq!(bytes.len(), 33, "length prefix and 32 bytes");
        assert_eq!(decode::<B256>("hash", &bytes, 64).unwrap(), B256::repeat_byte(3));
    }
}
