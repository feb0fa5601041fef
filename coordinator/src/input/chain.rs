//! Reads a chain of blocks in the form that `geth export` writes: the RLP of one block after another.
//!
//! The file is streamed. Only one block is in memory at any time, and it is never larger than the limit
//! for a block, whatever lengths the file announces.

use std::io::{self, Write};
use std::path::Path;

use alloy_consensus::Header;
use alloy_eips::eip4895::Withdrawal;
use alloy_rlp::Decodable;
use common::block::{EncodedBlock, MAX_BLOCK_BYTES, Ommers, Transaction};

use super::source::Source;
use super::{InputError, InputPosition};

/// Reads blocks from a file, plain or packed with gzip, in the order of the file.
///
/// After an error it returns no further block, because the start of the next one is unknown.
///
/// # Example
/// ```no_run
/// use coordinator::input::{ChainReader, read_genesis};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let genesis = read_genesis("genesis.json".as_ref())?;
/// let mut parent = genesis.hash;
/// for block in ChainReader::open("chain.rlp.gz".as_ref())? {
///     let block = block?;
///     assert_eq!(block.header.parent_hash, parent, "the chain has a gap");
///     parent = block.hash;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ChainReader {
    source: Source<'static>,
    /// The start of the next block, in bytes of the unpacked content.
    offset: u64,
    /// The number of blocks that have begun.
    ordinal: u64,
    ended: bool,
}

impl ChainReader {
    /// Opens a chain file.
    ///
    /// # Errors
    /// [`InputError::Io`] if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        Ok(Self { source: Source::open(path)?, offset: 0, ordinal: 0, ended: false })
    }

    /// The number of bytes of the file that have been read, packed or not. It is a little ahead of the
    /// blocks.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.source.taken()
    }

    /// The size of the file in bytes, to relate [`Self::bytes_read`] to; `None` for a pipe.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.source.length()
    }

    /// The next block; `None` at the end of the file. A file without any block is an error.
    fn read_block(&mut self) -> Result<Option<EncodedBlock>, InputError> {
        let mut bytes = Vec::new();
        if self.source.append(1, &mut bytes)? == 0 {
            if self.ordinal == 0 {
                return Err(InputError::Empty { file: self.source.file().into() });
            }
            return Ok(None);
        }
        self.ordinal += 1;
        let rest = self.payload_length(&mut bytes)?;
        let total = bytes.len().saturating_add(rest);
        if total > MAX_BLOCK_BYTES {
            let reason =
                format!("a block of {total} bytes is announced, more than the {MAX_BLOCK_BYTES} it can have");
            return Err(self.undecodable(InputPosition::default(), reason));
        }
        self.fill(rest, &mut bytes)?;
        let block = EncodedBlock::decode_exact(&bytes).map_err(|error| {
            let (place, reason) =
                diagnose(&bytes).unwrap_or_else(|| (InputPosition::default(), error.to_string()));
            self.undecodable(place, reason)
        })?;
        self.offset += bytes.len() as u64;
        Ok(Some(block))
    }

    /// Reads the rest of an RLP list's header, whose first byte is in `bytes`. Returns the number of bytes
    /// that follow the header.
    fn payload_length(&mut self, bytes: &mut Vec<u8>) -> Result<usize, InputError> {
        match bytes.first().copied().unwrap_or_default() {
            first @ 0xc0..=0xf7 => Ok(usize::from(first - 0xc0)),
            first @ 0xf8.. => {
                self.fill(usize::from(first - 0xf7), bytes)?;
                let length = bytes.iter().skip(1).fold(0u64, |length, byte| (length << 8) | u64::from(*byte));
                Ok(usize::try_from(length).unwrap_or(usize::MAX))
            }
            first => {
                let reason = format!("found byte 0x{first:02x} where the RLP list of a block should begin");
                Err(self.undecodable(InputPosition::default(), reason))
            }
        }
    }

    /// Reads exactly `count` more bytes.
    fn fill(&mut self, count: usize, bytes: &mut Vec<u8>) -> Result<(), InputError> {
        let read = self.source.append(count, bytes)?;
        if read == count {
            return Ok(());
        }
        Err(InputError::Truncated {
            file: self.source.file().into(),
            offset: self.offset,
            ordinal: self.ordinal,
            end: self.offset + bytes.len() as u64,
            missing: (count - read) as u64,
        })
    }

    fn undecodable(&self, place: InputPosition, reason: String) -> InputError {
        let file = self.source.file().into();
        InputError::Block { file, offset: self.offset, ordinal: self.ordinal, place, reason }
    }
}

impl Iterator for ChainReader {
    type Item = Result<EncodedBlock, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read_block().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::iter::FusedIterator for ChainReader {}

/// Appends a block to a chain file.
///
/// # Errors
/// The error of `out`, or [`io::ErrorKind::InvalidInput`] for a block of which only the ommers' hashes
/// are known, because such a block could not be read again.
pub fn write_block(out: &mut impl Write, block: &EncodedBlock) -> io::Result<()> {
    if matches!(&block.ommers, Ommers::Hashes(hashes) if !hashes.is_empty()) {
        let message = format!("block {}: the headers of its ommers are not known", block.header.number);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    out.write_all(block.rlp())
}

/// Decodes a block part by part to find the wrong part; `None` if every part is right by itself.
fn diagnose(mut bytes: &[u8]) -> Option<(InputPosition, String)> {
    let mut place = InputPosition::default();
    let mut content = match list(&mut bytes) {
        Ok(content) => content,
        Err(error) => return Some((place, format!("not an RLP list: {error}"))),
    };
    match Header::decode(&mut content) {
        Ok(header) => place.block = Some(header.number),
        Err(error) => return Some((place, format!("the header cannot be decoded: {error}"))),
    }
    let mut transactions = match list(&mut content) {
        Ok(transactions) => transactions,
        Err(error) => return Some((place, format!("the list of transactions cannot be decoded: {error}"))),
    };
    let mut index = 0;
    while !transactions.is_empty() {
        if let Err(error) = Transaction::decode(&mut transactions) {
            let place = InputPosition { transaction: Some(index), ..place };
            return Some((place, format!("the transaction cannot be decoded: {error}")));
        }
        index += 1;
    }
    if let Err(error) = Vec::<Header>::decode(&mut content) {
        return Some((place, format!("the ommers cannot be decoded: {error}")));
    }
    if !content.is_empty()
        && let Err(error) = Vec::<Withdrawal>::decode(&mut content)
    {
        return Some((place, format!("the withdrawals cannot be decoded: {error}")));
    }
    (!content.is_empty()).then(|| (place, format!("{} bytes follow the block's content", content.len())))
}

/// The content of the list at the start of `bytes`.
fn list<'a>(bytes: &mut &'a [u8]) -> alloy_rlp::Result<&'a [u8]> {
    alloy_rlp::Header::decode_bytes(bytes, true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::tests::{file, gzip};
    use super::*;
    use alloy_consensus::{SignableTransaction, TxEip1559, TxLegacy};
    use alloy_primitives::{B256, Signature, U256};
    use common::block::Block;
    use proptest::prelude::*;

    fn block(number: u64) -> EncodedBlock {
        let signature = Signature::new(U256::from(1), U256::from(2), false);
        let legacy = TxLegacy { nonce: number, input: vec![0xee; 300].into(), ..Default::default() };
        let typed = TxEip1559 { nonce: 77, ..Default::default() };
        let transactions = vec![legacy.into_signed(signature).into(), typed.into_signed(signature).into()];
        let header = Header {
            number,
            base_fee_per_gas: Some(7),
            withdrawals_root: Some(B256::ZERO),
            ..Default::default()
        };
        let ommer = Header { number: number - 1, ..Default::default() };
        let withdrawals = Some(vec![Withdrawal { index: number, ..Default::default() }]);
        Block::new(header, transactions, Ommers::Headers(vec![ommer]), withdrawals).into()
    }

    fn chain(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in numbers {
            write_block(&mut bytes, &block(number)).unwrap();
        }
        bytes
    }

    /// The blocks before the first error, and the error.
    fn read(bytes: &[u8]) -> (Vec<EncodedBlock>, Option<InputError>) {
        let (_dir, path) = file(bytes);
        let mut blocks = Vec::new();
        let mut reader = ChainReader::open(&path).unwrap();
        for next in reader.by_ref() {
            match next {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    assert!(reader.next().is_none());
                    return (blocks, Some(error));
                }
            }
        }
        (blocks, None)
    }

    #[test]
    fn what_is_written_is_read_plain_or_packed() {
        let bytes = chain(1..=5);
        for bytes in [gzip(&bytes), bytes] {
            let (blocks, error) = read(&bytes);
            assert!(error.is_none());
            assert_eq!(blocks, (1..=5).map(block).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_without_blocks_is_an_error_that_names_it() {
        for bytes in [Vec::new(), gzip(&[])] {
            let (blocks, error) = read(&bytes);
            assert!(blocks.is_empty());
            assert!(matches!(error, Some(InputError::Empty { .. })), "{error:?}");
        }
    }

    #[test]
    fn progress_is_told_in_bytes_of_the_file() {
        for bytes in [chain(1..=50), gzip(&chain(1..=50))] {
            let (_dir, path) = file(&bytes);
            let mut reader = ChainReader::open(&path).unwrap();
            assert_eq!(reader.total_bytes(), Some(bytes.len() as u64));
            assert_eq!(reader.by_ref().filter(Result::is_ok).count(), 50);
            assert_eq!(reader.bytes_read(), bytes.len() as u64);
        }
    }

    #[test]
    fn a_truncated_file_gives_the_whole_blocks_and_says_where_it_ends() {
        let first = chain(1..=1).len();
        let bytes = chain(1..=2);
        for end in first + 1..bytes.len() {
            let (blocks, error) = read(&bytes[..end]);
            assert_eq!(blocks.len(), 1);
            match error {
                Some(InputError::Truncated { offset, ordinal: 2, end: at, .. }) => {
                    assert_eq!((offset, at), (first as u64, end as u64));
                }
                other => panic!("{end}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_truncated_packed_file_is_an_error_of_the_packing() {
        let bytes = gzip(&chain(1..=50));
        let (_, error) = read(&bytes[..bytes.len() - 1]);
        assert!(matches!(error, Some(InputError::Gzip { .. })), "{error:?}");
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_allocated() {
        for head in [
            [0xff; 9].as_slice(),
            &[0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xfb, 0x40, 0, 0, 0],
            &[0xfb, 0x01, 0, 0, 0],
        ] {
            let (_, error) = read(&[chain(1..=1), head.to_vec()].concat());
            let error = error.unwrap().to_string();
            assert!(error.contains("is announced, more than the 16777216"), "{error}");
            assert!(error.contains("entry 2 of the file"), "{error}");
        }
    }

    #[test]
    fn an_undecodable_transaction_is_named_by_block_and_index() {
        let mut bytes = chain(7..=8);
        let last = bytes.windows(2).rposition(|pair| pair == [77, 0x80]).unwrap();
        // A number with a leading zero.
        bytes[last] = 0;
        let (blocks, error) = read(&bytes);
        assert_eq!(blocks.len(), 1);
        let error = error.unwrap();
        let text = error.to_string();
        assert!(text.contains(": block 8, transaction 1: the transaction cannot be decoded: "), "{text}");
        let InputError::Block { offset, ordinal: 2, .. } = error else { panic!("{error}") };
        assert_eq!(offset, chain(7..=7).len() as u64);
    }

    #[test]
    fn a_damaged_header_is_told_from_damaged_transactions() {
        let mut bytes = chain(1..=1);
        // The parent hash's length.
        let parent = bytes.iter().position(|byte| *byte == 0xa0).unwrap();
        bytes[parent] = 0xa1;
        let error = read(&bytes).1.unwrap().to_string();
        assert!(error.contains("the header cannot be decoded"), "{error}");
    }

    #[test]
    fn other_content_is_refused_at_its_first_byte() {
        let error = read(b"{\"block\": 1}").1.unwrap().to_string();
        assert!(error.contains("found byte 0x7b"), "{error}");
    }

    #[test]
    fn a_block_whose_ommers_are_not_known_is_not_written() {
        let block = Block { ommers: Ommers::Hashes(vec![B256::ZERO]), ..block(1).into_block() };
        let error = write_block(&mut Vec::new(), &block.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    proptest! {
        /// Law: whatever bytes a file has, reading ends with blocks or one error, without a panic.
        #[test]
        fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = chain(1..=2);
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let (blocks, _) = read(&bytes);
            prop_assert!(blocks.len() <= bytes.len());
            let _ = diagnose(&bytes);
        }
    }
}
