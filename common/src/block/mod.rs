//! Blocks: decoding, encoding, and checks without state.
//!
//! This module checks what needs no state: the roots of transactions, withdrawals and ommers against the
//! header, and the header against its claimed hash. The coordinator checks the rules that need the parent or
//! the state.

mod encoded;

use alloy_consensus::{EthereumTxEnvelope, Header, TxEip4844};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::B256;
use alloy_rlp::Decodable;
use serde::{Deserialize, Serialize};

use crate::account::AccountDelta;
use crate::codec::CodecError;
use crate::id::{Height, TxIndex};

pub use encoded::{CheckedBlock, EncodedBlock};

/// A signed transaction as blocks hold it (blob transactions without their sidecar).
pub type Transaction = EthereumTxEnvelope<TxEip4844>;

/// The largest block that is accepted, in bytes of its RLP encoding. Mainnet's largest blocks are below 3
/// MiB, and EIP-7934 caps them at 10 MiB.
pub const MAX_BLOCK_BYTES: usize = 16 << 20;

/// The most transactions that a block can have. The limit on a block's bytes is reached long before.
pub const MAX_TRANSACTIONS: usize = 1 << 20;

/// The number of ancestors that the ommer rules need: an ommer is a child of one of them, but not of the
/// parent (Yellow Paper, section 11.1: at most six generations).
pub const MAX_ANCESTORS: usize = 7;

/// A block that precedes another on its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The hash of the header, which the next block states as its parent hash.
    pub hash: B256,
    /// The header. The rules check the headers of its child and of ommers against it.
    pub header: Header,
    /// The hashes of the ommers that it includes.
    pub ommers: Vec<B256>,
}

/// A block's ommers, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ommers {
    /// Their headers, as a block body holds them.
    Headers(Vec<Header>),
    /// Only their hashes, as JSON-RPC answers give them. They cannot be checked against the header, and their
    /// miners' rewards cannot be paid.
    Hashes(Vec<B256>),
}

impl Ommers {
    /// The headers; empty if only the hashes are known.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        match self {
            Self::Headers(headers) => headers,
            Self::Hashes(_) => &[],
        }
    }

    /// The number of ommers.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Headers(headers) => headers.len(),
            Self::Hashes(hashes) => hashes.len(),
        }
    }

    /// Whether the block has no ommers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A decoded block. Its content may disagree with its header: see [`CheckedBlock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The header that came with the block. Its roots are claims about the content.
    pub header: Header,
    /// The hash of the header.
    pub hash: B256,
    /// Its transactions, in order.
    pub transactions: Vec<Transaction>,
    /// Its ommers: headers if it was decoded from RLP, only hashes if it came from JSON-RPC.
    pub ommers: Ommers,
    /// Its withdrawals; `None` before Shanghai.
    pub withdrawals: Option<Vec<Withdrawal>>,
}

/// Why a block is invalid by itself, without any state.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BlockError {
    /// The bytes are not the RLP encoding of a block.
    #[error("the block is not valid RLP: {0}")]
    Rlp(String),
    /// The bytes of a transaction are not the encoding of a transaction.
    #[error("transaction {index} cannot be decoded: {reason}")]
    Transaction {
        /// The transaction's index in its block, from 0.
        index: TxIndex,
        /// Why it cannot be decoded.
        reason: String,
    },
    /// Header and content disagree.
    #[error("header field {field} is {header}, the content gives {content}")]
    Mismatch {
        /// The field of the header.
        field: &'static str,
        /// The value in the header.
        header: String,
        /// The value computed from the content.
        content: String,
    },
    /// The block is larger than this system accepts.
    #[error(transparent)]
    Size(#[from] CodecError),
}

impl Block {
    /// Creates a block of these parts and computes its hash.
    #[must_use]
    pub fn new(
        header: Header,
        transactions: Vec<Transaction>,
        ommers: Ommers,
        withdrawals: Option<Vec<Withdrawal>>,
    ) -> Self {
        let hash = header.hash_slow();
        Self { header, hash, transactions, ommers, withdrawals }
    }

    /// Decodes a block from the front of `bytes` and advances past it: chain files hold blocks one after
    /// another.
    ///
    /// # Errors
    /// [`BlockError::Rlp`] when the bytes do not begin with a block.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, BlockError> {
        let block = alloy_consensus::Block::<Transaction>::decode(bytes)
            .map_err(|error| BlockError::Rlp(error.to_string()))?;
        let alloy_consensus::Block { header, body } = block;
        Ok(Self::new(
            header,
            body.transactions,
            Ommers::Headers(body.ommers),
            body.withdrawals.map(|withdrawals| withdrawals.into_inner()),
        ))
    }

    /// Decodes a block that fills all of `bytes`: see [`EncodedBlock::decode_exact`].
    ///
    /// # Errors
    /// As there.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, BlockError> {
        EncodedBlock::decode_exact(bytes).map(EncodedBlock::into_block)
    }

    /// The block's number: its height in the chain.
    #[must_use]
    pub fn height(&self) -> Height {
        Height(self.header.number)
    }
}

/// The effect of the system calls before a block's first transaction, and of the DAO fork's transfers, as changes
/// to the block's base state. Every transaction of the block may see them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prelude {
    /// The accounts that change before the first transaction, in ascending order of address.
    pub accounts: Vec<AccountDelta>,
}
