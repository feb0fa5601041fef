//! Keccak-256 of many messages at once, and the roots of ordered tries, whose leaves are hashed that way.
//!
//! One message at a time is hashed by `alloy_primitives::keccak256`. Tries that change from block to block are
//! not made here: see the ledger.

mod encodings;
mod keccak;
mod ordered;

pub use encodings::Encodings;
pub use keccak::keccak256_each;
pub use ordered::ordered_root;
