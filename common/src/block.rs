//! Blocks: decoding, encoding, and checks without state.
//!
//! This module checks what needs no state: the roots of transactions, withdrawals and ommers against the
//! header, and the header against its claimed hash. The coordinator checks the rules that need the parent or
//! the state.

use std::ops::Deref;
use std::sync::Arc;

use alloy_consensus::proofs::{calculate_ommers_root, calculate_withdrawals_root};
use alloy_consensus::{EthereumTxEnvelope, Header, TxEip4844};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::{Decodable, Encodable};
use hashing::{Encodings, ordered_root};
use serde::{Deserialize, Serialize};

use crate::account::AccountDelta;
use crate::codec::CodecError;
use crate::id::{Height, TxIndex};

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
    /// Its hash.
    pub hash: B256,
    /// Its header.
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

/// A decoded block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its header.
    pub header: Header,
    /// The hash of the header.
    pub hash: B256,
    /// Its transactions, in order.
    pub transactions: Vec<Transaction>,
    /// Its ommers.
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
        /// The transaction's index.
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

    /// Decodes a block that fills all of `bytes`, in the only encoding that a block has. The library's
    /// decoder also accepts encodings that peers would reject, for example a typed transaction without its
    /// string header.
    ///
    /// # Errors
    /// [`BlockError::Size`] beyond [`MAX_BLOCK_BYTES`], [`BlockError::Rlp`] for any other error.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > MAX_BLOCK_BYTES {
            let (size, limit) = (bytes.len(), MAX_BLOCK_BYTES);
            return Err(BlockError::Size(CodecError::TooLarge { what: "block", size, limit }));
        }
        let mut rest = bytes;
        let block = Self::decode(&mut rest)?;
        if !rest.is_empty() {
            return Err(BlockError::Rlp(format!("{} bytes follow the block", rest.len())));
        }
        let mut canonical = Vec::with_capacity(bytes.len());
        block.encode(&mut canonical);
        if canonical != bytes {
            let at = canonical.iter().zip(bytes).take_while(|(one, other)| one == other).count();
            return Err(BlockError::Rlp(format!("the encoding is not the canonical one, from byte {at} on")));
        }
        Ok(block)
    }

    /// Appends the block's RLP encoding, byte for byte what [`Block::decode`] reads. Omits ommers that are
    /// known only by their hashes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let ommers = self.ommers.headers();
        alloy_rlp::Header { list: true, payload_length: self.payload_length() }.encode(out);
        self.header.encode(out);
        alloy_rlp::encode_list::<_, Transaction>(&self.transactions, out);
        alloy_rlp::encode_list::<_, Header>(ommers, out);
        if let Some(withdrawals) = &self.withdrawals {
            alloy_rlp::encode_list::<_, Withdrawal>(withdrawals, out);
        }
    }

    fn payload_length(&self) -> usize {
        let withdrawals = self.withdrawals.as_ref();
        self.header.length()
            + alloy_rlp::list_length::<_, Transaction>(&self.transactions)
            + alloy_rlp::list_length::<_, Header>(self.ommers.headers())
            + withdrawals.map_or(0, |withdrawals| alloy_rlp::list_length::<_, Withdrawal>(withdrawals))
    }

    /// The length of the block's RLP encoding in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        alloy_rlp::Header { list: true, payload_length: self.payload_length() }.length_with_payload()
    }

    /// The block's number: its height in the chain.
    #[must_use]
    pub fn height(&self) -> Height {
        Height(self.header.number)
    }

    /// Checks the content against the header's roots. The hash covers only the header: a wrong body must not
    /// condemn the right block.
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] with the first field that disagrees.
    pub fn check_body(&self) -> Result<(), BlockError> {
        check_root("transactionsRoot", self.header.transactions_root, transactions_root(&self.transactions))?;
        if let Ommers::Headers(ommers) = &self.ommers {
            check_root("sha3Uncles", self.header.ommers_hash, calculate_ommers_root(ommers))?;
        }
        match (&self.header.withdrawals_root, &self.withdrawals) {
            (Some(root), Some(withdrawals)) => {
                check_root("withdrawalsRoot", *root, calculate_withdrawals_root(withdrawals))
            }
            (None, None) => Ok(()),
            (root, withdrawals) => Err(BlockError::Mismatch {
                field: "withdrawalsRoot",
                header: root.map_or("absent".into(), |root| root.to_string()),
                content: match withdrawals {
                    Some(withdrawals) => format!("{} withdrawals", withdrawals.len()),
                    None => "no list of withdrawals".into(),
                },
            }),
        }
    }
}

/// The root of the trie of these transactions.
fn transactions_root(transactions: &[Transaction]) -> B256 {
    let mut encodings = Encodings::default();
    for transaction in transactions {
        encodings.push(|bytes| transaction.encode_2718(bytes));
    }
    ordered_root(&encodings.slices())
}

/// A block whose content fits the roots of its header. It is immutable, so one check is enough. Copies share
/// the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBlock(Arc<Block>);

impl CheckedBlock {
    /// Checks a block's content: see [`Block::check_body`].
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] with the first field that disagrees.
    pub fn new(block: impl Into<Arc<Block>>) -> Result<Self, BlockError> {
        let block = block.into();
        block.check_body()?;
        Ok(Self(block))
    }
}

impl Deref for CheckedBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0
    }
}

fn check_root(field: &'static str, header: B256, content: B256) -> Result<(), BlockError> {
    if header == content {
        return Ok(());
    }
    Err(BlockError::Mismatch { field, header: header.to_string(), content: content.to_string() })
}

/// The effect of the system calls before a block's first transaction, as changes to the block's base state.
/// Every transaction of the block may see them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prelude {
    /// Changed accounts.
    pub accounts: Vec<AccountDelta>,
}

/// The encodings of a block's header and transactions. Work carries parts of them; copies share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockBytes {
    /// The header's RLP encoding.
    pub header: Bytes,
    /// The transactions' EIP-2718 encodings.
    pub transactions: Vec<Bytes>,
}

impl BlockBytes {
    /// Encodes header and transactions of `block`.
    #[must_use]
    pub fn new(block: &Block) -> Self {
        Self {
            header: alloy_rlp::encode(&block.header).into(),
            transactions: block.transactions.iter().map(|tx| tx.encoded_2718().into()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use alloy_consensus::proofs::calculate_transaction_root;
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::{Signature, U256};

    fn block() -> Block {
        let tx = TxLegacy { nonce: 3, gas_limit: 21_000, ..Default::default() };
        let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(2), false));
        let transactions: Vec<Transaction> = vec![signed.into()];
        let header = Header {
            number: 7,
            transactions_root: calculate_transaction_root(&transactions),
            ..Default::default()
        };
        Block::new(header, transactions, Ommers::Headers(vec![]), None)
    }

    #[test]
    fn a_block_survives_encoding() {
        let mut bytes = Vec::new();
        block().encode(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!(Block::decode(&mut rest).unwrap(), block());
        assert!(rest.is_empty());
    }

    #[test]
    fn only_the_canonical_encoding_is_decoded_exactly() {
        let mut bytes = Vec::new();
        block().encode(&mut bytes);
        assert_eq!(Block::decode_exact(&bytes).unwrap(), block());
        bytes.push(0);
        assert!(Block::decode_exact(&bytes).unwrap_err().to_string().contains("1 bytes follow"));
    }

    #[test]
    fn a_typed_transaction_without_its_string_header_is_refused() {
        let tx = alloy_consensus::TxEip2930 { chain_id: 1, gas_limit: 21_000, ..Default::default() };
        let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(2), false));
        let typed = Block { transactions: vec![signed.into()], ..block() };
        let mut bytes = Vec::new();
        typed.encode(&mut bytes);
        assert_eq!(Block::decode_exact(&bytes).unwrap().transactions, typed.transactions);
        let raw = typed.transactions[0].encoded_2718();
        let mut bare = Vec::new();
        typed.header.encode(&mut bare);
        alloy_rlp::Header { list: true, payload_length: raw.len() }.encode(&mut bare);
        bare.extend_from_slice(&raw);
        bare.push(0xc0);
        let mut bytes = Vec::new();
        alloy_rlp::Header { list: true, payload_length: bare.len() }.encode(&mut bytes);
        bytes.extend_from_slice(&bare);
        assert_eq!(Block::decode(&mut bytes.as_slice()).unwrap().transactions, typed.transactions);
        assert!(Block::decode_exact(&bytes).unwrap_err().to_string().contains("canonical"));
    }

    #[test]
    fn a_wrong_body_is_found_by_its_root() {
        let mut block = block();
        assert_eq!(block.check_body(), Ok(()));
        block.transactions.clear();
        let error = block.check_body().unwrap_err();
        assert!(error.to_string().contains("transactionsRoot"), "{error}");
    }

    #[test]
    fn ommers_that_the_header_does_not_name_are_found_by_their_root() {
        let mut block = block();
        block.ommers = Ommers::Headers(vec![Header::default()]);
        let error = block.check_body().unwrap_err();
        assert!(error.to_string().contains("sha3Uncles"), "{error}");
    }

    #[test]
    fn withdrawals_that_the_header_does_not_name_are_found_by_their_root() {
        let mut block = block();
        block.header.withdrawals_root = Some(B256::ZERO);
        block.withdrawals = Some(vec![]);
        let error = block.check_body().unwrap_err();
        assert!(error.to_string().contains("withdrawalsRoot"), "{error}");
    }

    #[test]
    fn a_block_beyond_the_largest_size_is_refused_for_its_size() {
        let bytes = vec![0; MAX_BLOCK_BYTES + 1];
        assert!(matches!(Block::decode_exact(&bytes), Err(BlockError::Size(_))));
    }

    #[test]
    fn a_missing_list_of_withdrawals_is_named() {
        let mut block = block();
        block.header.withdrawals_root = Some(B256::ZERO);
        assert!(block.check_body().unwrap_err().to_string().contains("no list of withdrawals"));
    }
}
