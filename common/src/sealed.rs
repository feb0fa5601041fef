//! Values that travel, with their encoding and its digest. Each of these is computed once, however many
//! peers get the value and however often they are requested.
//!
//! The sender seals a value when it creates it. The receiver keeps the received bytes and their digest.
//! This module sends nothing and checks no digest: the receiver must check the digest of the bytes
//! first.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use alloy_primitives::{B256, Bytes};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};

/// A kind of value that travels.
pub trait Payload: Serialize + DeserializeOwned {
    /// The name of the value, for messages.
    const WHAT: &'static str;
    /// The largest encoding of the value, in bytes.
    const LIMIT: usize;
}

/// A value with its encoding and the encoding's digest.
///
/// ```
/// use common::codec::{CodecError, payload_digest};
/// use common::sealed::{Payload, Sealed};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Greeting(String);
///
/// impl Payload for Greeting {
///     const WHAT: &'static str = "greeting";
///     const LIMIT: usize = 1024;
/// }
///
/// let sent = Sealed::new(Greeting("hello".into()));
/// let (bytes, digest) = (sent.bytes()?, sent.digest()?);
/// // The receiver checks the digest before it decodes the bytes.
/// assert_eq!(payload_digest(&bytes), digest);
/// let received = Sealed::<Greeting>::received(bytes, digest)?;
/// assert_eq!(received.value().0, "hello");
/// # Ok::<(), CodecError>(())
/// ```
pub struct Sealed<T> {
    value: Arc<T>,
    seal: Arc<OnceLock<Seal>>,
}

struct Seal {
    bytes: Bytes,
    digest: B256,
}

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), seal: Arc::clone(&self.seal) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Deref for Sealed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Sealed<T> {
    /// Wraps a value. It is encoded when its bytes or its digest are first requested.
    #[must_use]
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self { value: value.into(), seal: Arc::default() }
    }

    /// The value without its encoding. Clones of the `Arc` share it.
    #[must_use]
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }
}

impl<T: Payload> Sealed<T> {
    /// Decodes a received value. The receiver has already checked the digest of the bytes.
    ///
    /// # Errors
    /// [`CodecError`] if there are too many bytes, or if they do not encode this value.
    pub fn received(bytes: Bytes, digest: B256) -> Result<Self, CodecError> {
        let value = codec::decode(T::WHAT, &bytes, T::LIMIT)?;
        let seal = OnceLock::from(Seal { bytes, digest });
        Ok(Self { value: Arc::new(value), seal: Arc::new(seal) })
    }

    /// The encoding.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if the encoding exceeds the limit.
    pub fn bytes(&self) -> Result<Bytes, CodecError> {
        self.seal().map(|seal| seal.bytes.clone())
    }

    /// The digest of the encoding.
    ///
    /// # Errors
    /// As [`Sealed::bytes`].
    pub fn digest(&self) -> Result<B256, CodecError> {
        self.seal().map(|seal| seal.digest)
    }

    fn seal(&self) -> Result<&Seal, CodecError> {
        if let Some(seal) = self.seal.get() {
            return Ok(seal);
        }
        let bytes = Bytes::from(codec::encode(T::WHAT, self.value.as_ref(), T::LIMIT)?);
        let digest = codec::payload_digest(&bytes);
        Ok(self.seal.get_or_init(|| Seal { bytes, digest }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    impl Payload for Vec<u8> {
        const WHAT: &'static str = "bytes";
        const LIMIT: usize = 8;
    }

    #[test]
    fn a_value_survives_the_wire_with_its_digest() {
        let sent = Sealed::<Vec<u8>>::new(vec![1u8, 2, 3]);
        let received = Sealed::<Vec<u8>>::received(sent.bytes().unwrap(), sent.digest().unwrap()).unwrap();
        assert_eq!(*received, *sent);
        assert_eq!(received.digest(), sent.digest());
        assert_eq!(sent.digest().unwrap(), codec::payload_digest(&sent.bytes().unwrap()));
    }

    #[test]
    fn all_copies_share_one_encoding() {
        let sealed = Sealed::<Vec<u8>>::new(vec![7u8]);
        let copy = sealed.clone();
        assert_eq!(sealed.bytes().unwrap().as_ptr(), copy.bytes().unwrap().as_ptr());
    }

    #[test]
    fn a_value_beyond_its_limit_has_no_encoding() {
        let large = Sealed::<Vec<u8>>::new(vec![0u8; 9]);
        assert!(matches!(large.digest(), Err(CodecError::TooLarge { .. })));
        let bytes = codec::encode("bytes", &vec![0u8; 9], 100).unwrap();
        assert!(Sealed::<Vec<u8>>::received(bytes.into(), B256::ZERO).is_err());
    }
}
