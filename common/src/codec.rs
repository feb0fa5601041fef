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
        /// The digest that the sender announced for the bytes.
        expected: B256,
        /// The digest of the received bytes.
        found: B256,
    },
    /// The bytes are not BCS of the expected type, or BCS cannot express the value.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// The name of the value, for the message.
        what: &'static str,
        /// The message of the BCS library, from decoding the bytes or encoding the value.
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

/// Computes [`payload_digest`] of bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct PayloadHasher(blake3::Hasher);

impl PayloadHasher {
    /// Adds the next piece. Only the order of the pieces matters, not where they are cut.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes.
    #[must_use]
    pub fn digest(&self) -> B256 {
        B256::new(*self.0.finalize().as_bytes())
    }
}

fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), CodecError> {
    if size > limit { Err(CodecError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// A 256-bit word, encoded as the byte string of its big-endian bytes without the zeros that lead: most
/// balances and stored values are small. Decoding accepts leading zeros, as older records have them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(pub U256);

impl Serialize for Word {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.to_be_bytes::<32>();
        let zeros = self.0.leading_zeros() / 8;
        serializer.serialize_bytes(bytes.get(zeros..).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor;
        impl serde::de::Visitor<'_> for WordVisitor {
            type Value = Word;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("at most 32 bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Word, E> {
                let number = U256::try_from_be_slice(bytes);
                number.map(Word).ok_or_else(|| E::invalid_length(bytes.len(), &self))
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
    /// Those of the deserializer, and a length above 32.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U256, D::Error> {
        Word::deserialize(deserializer).map(|word| word.0)
    }
}

/// `#[serde(with = "common::codec::code_hash")]`: the hash of an account's code. It is encoded as a byte
/// string that is empty for an account without code, as most accounts are.
pub mod code_hash {
    use super::B256;
    use alloy_primitives::KECCAK256_EMPTY;
    use serde::{Deserializer, Serializer};

    /// Encodes the hash.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &B256, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = if *value == KECCAK256_EMPTY { &[][..] } else { value.as_slice() };
        serializer.serialize_bytes(bytes)
    }

    /// Decodes what [`serialize`] wrote.
    ///
    /// # Errors
    /// Those of the deserializer, and a length other than 0 and 32.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<B256, D::Error> {
        struct HashVisitor;
        impl serde::de::Visitor<'_> for HashVisitor {
            type Value = B256;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("32 bytes or none")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<B256, E> {
                if bytes.is_empty() {
                    return Ok(KECCAK256_EMPTY);
                }
                B256::try_from(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
            }
        }
        deserializer.deserialize_bytes(HashVisitor)
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
        fn words_survive_a_round_trip(limbs: [u64; 4], shift in 0_usize..256) {
            let word = Word(U256::from_limbs(limbs) >> shift);
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
    fn words_are_as_long_as_their_value() {
        for (value, length) in [(U256::ZERO, 0), (U256::from(1), 1), (U256::from(256), 2), (U256::MAX, 32)] {
            assert_eq!(encode("word", &Word(value), 64).unwrap().len(), 1 + length, "{value}");
        }
        let older = encode("word", &B256::with_last_byte(7), 64).unwrap();
        assert_eq!(decode::<Word>("word", &older, 64).unwrap(), Word(U256::from(7)));
        assert!(decode::<Word>("word", &[33; 34], 64).unwrap_err().to_string().contains("at most 32"));
    }

    #[test]
    fn code_hashes_are_empty_without_code() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Code(#[serde(with = "code_hash")] B256);
        for (hash, length) in [(alloy_primitives::KECCAK256_EMPTY, 1), (B256::ZERO, 33)] {
            let bytes = encode("code", &Code(hash), 64).unwrap();
            assert_eq!(bytes.len(), length);
            assert_eq!(decode::<Code>("code", &bytes, 64).unwrap(), Code(hash));
        }
        let older = encode("code", &alloy_primitives::KECCAK256_EMPTY, 64).unwrap();
        assert_eq!(decode::<Code>("code", &older, 64).unwrap(), Code(alloy_primitives::KECCAK256_EMPTY));
        assert!(decode::<Code>("code", &[2, 1, 1], 64).is_err());
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let mut bytes = encode("word", &Word(U256::from(0x07_0000)), 64).unwrap();
        let digest = payload_digest(&bytes);
        bytes[2] ^= 1;
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
