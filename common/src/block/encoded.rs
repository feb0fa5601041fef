//! A block with its encoding, made once: intake checks it, work carries parts of it, the ledger stores it.
//!
//! The bytes are shared, so every copy of a part is a reference. Nothing here needs any state.

use std::ops::{Deref, Range};
use std::sync::Arc;

use alloy_consensus::proofs::{calculate_ommers_root, calculate_withdrawals_root};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::{EMPTY_LIST_CODE, Encodable, Header as RlpHeader};
use hashing::ordered_root;

use super::{Block, BlockError, MAX_BLOCK_BYTES, Ommers, Transaction};
use crate::codec::CodecError;

/// The first bytes of a block's encoding are the header of a list; it has at most this length.
const LIST_HEADER: usize = 9;

/// A block and its RLP encoding, which always belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBlock {
    block: Block,
    rlp: Bytes,
    header_rlp: Bytes,
    encoded_transactions: Vec<Bytes>,
}

impl EncodedBlock {
    /// Encodes a block. Ommers that are known only by their hashes are left out.
    #[must_use]
    pub fn new(block: Block) -> Self {
        let (list, ranges) = transaction_list(&block.transactions);
        let mut header = Vec::new();
        block.header.encode(&mut header);
        let mut rest = Vec::new();
        alloy_rlp::encode_list::<_, alloy_consensus::Header>(block.ommers.headers(), &mut rest);
        if let Some(withdrawals) = &block.withdrawals {
            alloy_rlp::encode_list::<_, Withdrawal>(withdrawals, &mut rest);
        }
        let of_list = RlpHeader { list: true, payload_length: list.len() };
        let payload_length = header.len() + of_list.length_with_payload() + rest.len();
        let mut rlp = Vec::with_capacity(LIST_HEADER + payload_length);
        RlpHeader { list: true, payload_length }.encode(&mut rlp);
        let of_header = rlp.len()..rlp.len() + header.len();
        rlp.extend_from_slice(&header);
        of_list.encode(&mut rlp);
        let begin = rlp.len();
        rlp.extend_from_slice(&list);
        rlp.extend_from_slice(&rest);
        let rlp = Bytes::from(rlp);
        let encoded_transactions =
            ranges.into_iter().map(|at| rlp.slice(begin + at.start..begin + at.end)).collect();
        Self { header_rlp: rlp.slice(of_header), encoded_transactions, rlp, block }
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
        let block = Block::decode(&mut rest)?;
        if !rest.is_empty() {
            return Err(BlockError::Rlp(format!("{} bytes follow the block", rest.len())));
        }
        let encoded = Self::new(block);
        if *encoded.rlp != *bytes {
            let at = encoded.rlp.iter().zip(bytes).take_while(|(one, other)| one == other).count();
            return Err(BlockError::Rlp(format!("the encoding is not the canonical one, from byte {at} on")));
        }
        Ok(encoded)
    }

    /// The block's RLP encoding.
    #[must_use]
    pub fn rlp(&self) -> &Bytes {
        &self.rlp
    }

    /// The header's RLP encoding.
    #[must_use]
    pub fn header_rlp(&self) -> &Bytes {
        &self.header_rlp
    }

    /// The EIP-2718 encoding of each transaction, in order.
    #[must_use]
    pub fn encoded_transactions(&self) -> &[Bytes] {
        &self.encoded_transactions
    }

    /// The block without its encoding.
    #[must_use]
    pub fn into_block(self) -> Block {
        self.block
    }

    /// Checks the content against the header's roots. The hash covers only the header: a wrong body must not
    /// condemn the right block.
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] with the first field that disagrees.
    pub fn check_body(&self) -> Result<(), BlockError> {
        let header = &self.block.header;
        check_root("transactionsRoot", header.transactions_root, ordered_root(&self.encoded_transactions))?;
        if let Ommers::Headers(ommers) = &self.ommers {
            check_root("sha3Uncles", header.ommers_hash, calculate_ommers_root(ommers))?;
        }
        match (&header.withdrawals_root, &self.withdrawals) {
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

impl Deref for EncodedBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

impl From<Block> for EncodedBlock {
    fn from(block: Block) -> Self {
        Self::new(block)
    }
}

impl From<Block> for Arc<EncodedBlock> {
    fn from(block: Block) -> Self {
        Self::new(EncodedBlock::new(block))
    }
}

/// The content of the list of transactions in a block's encoding, and where in it each EIP-2718 encoding is.
fn transaction_list(transactions: &[Transaction]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut list, mut ranges) = (Vec::new(), Vec::with_capacity(transactions.len()));
    let mut encoding = Vec::new();
    for transaction in transactions {
        encoding.clear();
        transaction.encode_2718(&mut encoding);
        // A legacy transaction is a list. A typed one is a string in the list of the block.
        if encoding.first().is_some_and(|first| *first < EMPTY_LIST_CODE) {
            RlpHeader { list: false, payload_length: encoding.len() }.encode(&mut list);
        }
        ranges.push(list.len()..list.len() + encoding.len());
        list.extend_from_slice(&encoding);
    }
    (list, ranges)
}

/// A block whose content fits the roots of its header. It is immutable, so one check is enough. Copies share
/// the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBlock(Arc<EncodedBlock>);

impl CheckedBlock {
    /// Checks a block's content: see [`EncodedBlock::check_body`].
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] with the first field that disagrees.
    pub fn new(block: impl Into<Arc<EncodedBlock>>) -> Result<Self, BlockError> {
        let block = block.into();
        block.check_body()?;
        Ok(Self(block))
    }
}

impl Deref for CheckedBlock {
    type Target = EncodedBlock;

    fn deref(&self) -> &EncodedBlock {
        &self.0
    }
}

fn check_root(field: &'static str, header: B256, content: B256) -> Result<(), BlockError> {
    if header == content {
        return Ok(());
    }
    Err(BlockError::Mismatch { field, header: header.to_string(), content: content.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use alloy_consensus::proofs::calculate_transaction_root;
    use alloy_consensus::{Header, SignableTransaction, TxEip2930, TxLegacy};
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
        let encoded = EncodedBlock::new(block());
        let mut rest = encoded.rlp().as_ref();
        assert_eq!(Block::decode(&mut rest).unwrap(), block());
        assert!(rest.is_empty());
    }

    #[test]
    fn only_the_canonical_encoding_is_decoded_exactly() {
        let mut bytes = EncodedBlock::new(block()).rlp().to_vec();
        assert_eq!(Block::decode_exact(&bytes).unwrap(), block());
        bytes.push(0);
        assert!(Block::decode_exact(&bytes).unwrap_err().to_string().contains("1 bytes follow"));
    }

    #[test]
    fn a_typed_transaction_without_its_string_header_is_refused() {
        let tx = TxEip2930 { chain_id: 1, gas_limit: 21_000, ..Default::default() };
        let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(2), false));
        let typed = Block { transactions: vec![signed.into()], ..block() };
        let encoded = EncodedBlock::new(typed.clone());
        assert_eq!(Block::decode_exact(encoded.rlp()).unwrap().transactions, typed.transactions);
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
        assert_eq!(EncodedBlock::new(block.clone()).check_body(), Ok(()));
        block.transactions.clear();
        let error = EncodedBlock::new(block).check_body().unwrap_err();
        assert!(error.to_string().contains("transactionsRoot"), "{error}");
    }

    #[test]
    fn ommers_that_the_header_does_not_name_are_found_by_their_root() {
        let mut block = block();
        block.ommers = Ommers::Headers(vec![Header::default()]);
        let error = EncodedBlock::new(block).check_body().unwrap_err();
        assert!(error.to_string().contains("sha3Uncles"), "{error}");
    }

    #[test]
    fn withdrawals_that_the_header_does_not_name_are_found_by_their_root() {
        let mut block = block();
        block.header.withdrawals_root = Some(B256::ZERO);
        block.withdrawals = Some(vec![]);
        let error = EncodedBlock::new(block).check_body().unwrap_err();
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
        assert!(
            EncodedBlock::new(block).check_body().unwrap_err().to_string().contains("no list of withdrawals")
        );
    }

    #[test]
    fn the_encoding_and_its_parts_are_those_of_the_library() {
        let legacy: Transaction = block().transactions[0].clone();
        let typed = TxEip2930 { chain_id: 1, input: vec![7; 300].into(), ..Default::default() };
        let typed: Transaction =
            typed.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into();
        let withdrawals = vec![Withdrawal { index: 1, amount: 5, ..Default::default() }];
        for (transactions, withdrawals) in [
            (vec![], None),
            (vec![legacy.clone(), typed.clone(), legacy], Some(withdrawals)),
            (vec![typed; 40], Some(vec![])),
        ] {
            let ommers = vec![Header { number: 6, ..Default::default() }];
            let own = Block::new(
                block().header,
                transactions.clone(),
                Ommers::Headers(ommers.clone()),
                withdrawals.clone(),
            );
            let body = alloy_consensus::BlockBody {
                transactions: transactions.clone(),
                ommers,
                withdrawals: withdrawals.map(Into::into),
            };
            let encoded = EncodedBlock::new(own);
            assert_eq!(
                encoded.rlp().to_vec(),
                alloy_rlp::encode(alloy_consensus::Block { header: block().header, body })
            );
            assert_eq!(encoded.header_rlp().to_vec(), alloy_rlp::encode(&encoded.header));
            let each: Vec<_> = transactions.iter().map(Encodable2718::encoded_2718).collect();
            assert_eq!(encoded.encoded_transactions(), each);
        }
    }
}
