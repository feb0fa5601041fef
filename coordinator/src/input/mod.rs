//! The input files: one block with its pre-state (JSON), a chain of blocks (RLP, as `geth export`
//! writes it), a genesis (JSON). Each may be plain or packed with gzip.
//!
//! This module decodes files and checks their claims about themselves (hashes against fields, sizes
//! against limits). It deliberately does not execute, recover senders, or check a block's content
//! against its header: the code that executes the block does that, wherever the block comes from. Files
//! are not trusted: the module allocates no memory on the word of a file, and no content makes it
//! panic.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use common::account::{Account, AccountRecord, SlotValue};

pub mod chain;
pub mod genesis;
pub mod prestate;

mod json;
mod source;
mod transaction;

pub use chain::{ChainReader, write_block};
pub use genesis::{Genesis, GenesisError, genesis_from_parts, read_genesis};
pub use prestate::{PrestateCase, parse_prestate, read_prestate};

use source::Source;

/// The largest JSON file that is read, in bytes after unpacking. Chain files have no such limit,
/// because they are read block by block.
pub const MAX_INPUT_BYTES: u64 = 512 << 20;

/// The maximum number of white space bytes before the content that identifies a file's kind.
const MAX_LEADING_SPACE: usize = 1 << 16;

/// The kind of a file, detected from its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// One block with its pre-state, as JSON.
    Prestate,
    /// Blocks one after another, as RLP.
    Chain,
}

/// The block and the transaction of a file to which an error refers, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputPosition {
    /// The number of the block; `None` before its header has been read.
    pub block: Option<u64>,
    /// The transaction's index in the block, from 0.
    pub transaction: Option<u32>,
}

impl fmt::Display for InputPosition {
    /// Writes nothing, or for example `block 5, transaction 3: `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.block, self.transaction) {
            (Some(block), Some(index)) => write!(f, "block {block}, transaction {index}: "),
            (Some(block), None) => write!(f, "block {block}: "),
            (None, Some(index)) => write!(f, "transaction {index}: "),
            (None, None) => Ok(()),
        }
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file cannot be opened or read.
    #[error("{}: {source}; check the path and its permissions", file.display())]
    Io {
        /// The file that cannot be opened or read.
        file: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is packed, and it is damaged or cut short.
    #[error(
        "{}: the gzip stream is damaged or cut short after {unpacked} unpacked bytes ({source}); \
         fetch the file again",
        file.display()
    )]
    Gzip {
        /// The packed file.
        file: PathBuf,
        /// The number of bytes that could be unpacked.
        unpacked: u64,
        /// The error of the gzip decoder.
        source: io::Error,
    },
    /// The file is larger than the limit for reading it into memory.
    #[error(
        "{}: holds more than {limit} bytes after unpacking, the most that is read; \
         split it, or give a chain file, which is read block by block",
        file.display()
    )]
    TooLarge {
        /// The file that is too large.
        file: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file ends before its first block.
    #[error("{}: the file holds no blocks; check how it was written", file.display())]
    Empty {
        /// The file without blocks.
        file: PathBuf,
    },
    /// The file is of no known kind.
    #[error(
        "{}: {found}; expected a JSON object with block and prestate, or blocks as `geth export` writes them, \
         plain or packed with gzip",
        file.display()
    )]
    UnknownKind {
        /// The file whose first bytes show no known kind.
        file: PathBuf,
        /// A description of the content.
        found: String,
    },
    /// The content is not JSON.
    #[error("{}: not valid JSON: {source}; correct the file or fetch it again", file.display())]
    Json {
        /// The file that should be JSON.
        file: PathBuf,
        /// The parser's error and its position.
        source: serde_json::Error,
    },
    /// A field is missing or wrong, or contradicts other fields.
    #[error("{}: {place}{}{reason}; {remedy}", file.display(), Field(field))]
    Field {
        /// The file with the wrong field.
        file: PathBuf,
        /// The block and the transaction.
        place: InputPosition,
        /// The field's path; empty if the error concerns the whole content.
        field: String,
        /// The fault in the field.
        reason: String,
        /// The advice that follows the fault in the message.
        remedy: &'static str,
    },
    /// A block in a chain file cannot be decoded.
    #[error(
        "{}: {place}{reason} (entry {ordinal} of the file, at byte {offset} of its unpacked content); \
         export the chain again from a node that has it",
        file.display()
    )]
    Block {
        /// The chain file.
        file: PathBuf,
        /// The start of the block, in bytes of the unpacked content.
        offset: u64,
        /// The block's position in the file, counted from 1.
        ordinal: u64,
        /// The block and the transaction.
        place: InputPosition,
        /// The error of the RLP decoder.
        reason: String,
    },
    /// A chain file ends inside a block.
    #[error(
        "{}: ends at byte {end} of its unpacked content, inside entry {ordinal}, which begins at byte {offset} \
         and has {missing} bytes more; the file was cut short: copy or export it again",
        file.display()
    )]
    Truncated {
        /// The chain file that was cut short.
        file: PathBuf,
        /// The start of the block, in bytes of the unpacked content.
        offset: u64,
        /// The block's position in the file, counted from 1.
        ordinal: u64,
        /// The end of the content, in bytes of the unpacked content.
        end: u64,
        /// The least number of missing bytes.
        missing: u64,
    },
    /// The genesis is well-formed, but no chain can start with it here.
    #[error("{}: {source}", file.display())]
    Genesis {
        /// The genesis file.
        file: PathBuf,
        /// The property of the genesis that is not supported.
        source: GenesisError,
    },
}

/// A field's path in the form of error messages.
struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "field {}: ", self.0) }
    }
}

/// Detects a file's kind from its first bytes after unpacking.
///
/// # Errors
/// [`InputError::UnknownKind`] if it is neither kind, or the error that kept it from being read.
pub fn detect(path: &Path) -> Result<InputKind, InputError> {
    let mut source = Source::open(path)?;
    let mut start = Vec::new();
    source.append(MAX_LEADING_SPACE, &mut start)?;
    let content = json::without_mark(&start).trim_ascii_start();
    let found = match content.first() {
        Some(b'{') => return Ok(InputKind::Prestate),
        Some(0xc0..) => return Ok(InputKind::Chain),
        Some(byte) => format!("the content begins with byte 0x{byte:02x}"),
        None if start.is_empty() => "the file is empty".into(),
        None => "there is only white space".into(),
    };
    Err(InputError::UnknownKind { file: path.into(), found })
}

/// Collects accounts and their code in canonical order, whatever order they arrive in.
#[derive(Default)]
pub struct StateBuilder {
    accounts: Vec<AccountRecord>,
    code: BTreeMap<B256, Bytes>,
}

impl StateBuilder {
    /// Adds an account and drops its zero slots.
    pub fn add(
        &mut self,
        address: Address,
        balance: U256,
        nonce: u64,
        code: Option<Bytes>,
        storage: impl Iterator<Item = (U256, U256)>,
    ) {
        let code_hash = match code.filter(|code| !code.is_empty()) {
            Some(code) => {
                let hash = keccak256(&code);
                self.code.entry(hash).or_insert(code);
                hash
            }
            None => KECCAK256_EMPTY,
        };
        let mut storage: Vec<_> = storage
            .filter(|(_, value)| !value.is_zero())
            .map(|(slot, value)| SlotValue { slot, value })
            .collect();
        storage.sort_unstable();
        self.accounts.push(AccountRecord {
            address,
            account: Account { balance, nonce, code_hash },
            storage,
        });
    }

    /// The accounts in ascending order of address, and their code.
    #[must_use]
    pub fn finish(mut self) -> (Vec<AccountRecord>, Vec<(B256, Bytes)>) {
        self.accounts.sort_unstable_by_key(|record| record.address);
        (self.accounts, self.code.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use std::fs;
    use std::io::Write as _;

    /// Packs bytes as `gzip` does.
    pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A file with these bytes, deleted when the directory is dropped.
    pub(super) fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn kind(bytes: &[u8]) -> Result<InputKind, InputError> {
        let (_dir, path) = file(bytes);
        detect(&path)
    }

    #[test]
    fn the_kind_is_told_by_the_content_plain_or_packed() {
        for (bytes, expected) in [
            (b" \n\t{\"block\": {}}".as_slice(), InputKind::Prestate),
            (b"\xef\xbb\xbf{}".as_slice(), InputKind::Prestate),
            (b"\xf9\x02\x00".as_slice(), InputKind::Chain),
            (b"\xc0".as_slice(), InputKind::Chain),
        ] {
            assert_eq!(kind(bytes).unwrap(), expected);
            assert_eq!(kind(&gzip(bytes)).unwrap(), expected);
        }
    }

    #[test]
    fn other_content_is_refused_by_what_it_is() {
        for (bytes, message) in [
            (b"".as_slice(), "the file is empty"),
            (b" \n".as_slice(), "only white space"),
            (b"[1]".as_slice(), "byte 0x5b"),
            (b"\x1f".as_slice(), "byte 0x1f"),
        ] {
            let error = kind(bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = detect(Path::new("/nowhere/blocks.rlp")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/blocks.rlp: "), "{error}");
    }

    #[test]
    fn a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(detect(dir.path()), Err(InputError::Io { .. })));
    }

    #[test]
    fn no_truncation_of_a_packed_file_panics() {
        let packed = gzip(b"{\"block\": null}");
        for end in 2..packed.len() - 9 {
            assert!(matches!(kind(&packed[..end]), Err(InputError::Gzip { .. })), "{end}");
        }
    }
}
