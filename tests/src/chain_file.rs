//! Chain files with one block that is wrong in one place, and parts of chain files.
//!
//! The module knows just enough RLP for that: lists, their items, and the positions of these.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A field of a header, by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderField {
    /// The hash of the previous block.
    ParentHash = 0,
    /// The root of the state after the block.
    StateRoot = 3,
    /// The root of the transactions.
    TransactionsRoot = 4,
    /// The root of the receipts.
    ReceiptsRoot = 5,
    /// The gas used by all transactions.
    GasUsed = 10,
}

/// The blocks of a chain file, each as its RLP bytes.
#[derive(Debug, Clone)]
pub struct ChainFile {
    blocks: Vec<Vec<u8>>,
}

/// The range of the payload of the item at `start`.
fn payload(bytes: &[u8], start: usize) -> Result<Range<usize>> {
    let head = *bytes.get(start).context("an item lies behind the end")?;
    let (header, length) = match head {
        0..=0x7f => (0, 1),
        0x80..=0xb7 => (1, usize::from(head - 0x80)),
        0xc0..=0xf7 => (1, usize::from(head - 0xc0)),
        _ => {
            let width = usize::from(if head >= 0xf8 { head - 0xf7 } else { head - 0xb7 });
            let digits = bytes.get(start + 1..start + 1 + width).context("a length is cut short")?;
            (1 + width, digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)))
        }
    };
    let range = start + header..start + header + length;
    ensure!(range.end <= bytes.len(), "an item ends behind the end");
    Ok(range)
}

impl ChainFile {
    /// Reads a chain file.
    ///
    /// # Errors
    /// An error if the file is not a chain file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)?;
        let (mut blocks, mut start) = (Vec::new(), 0);
        while start < bytes.len() {
            let end = payload(&bytes, start)?.end;
            blocks.push(bytes.get(start..end).context("an item lies behind the end")?.to_vec());
            start = end;
        }
        Ok(Self { blocks })
    }

    /// The bytes of these blocks, counted from 0; empty if one of them does not exist.
    #[must_use]
    pub fn bytes(&self, blocks: Range<usize>) -> Vec<u8> {
        self.blocks.get(blocks).unwrap_or_default().concat()
    }

    /// The number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the file has no blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn field(&self, block: usize, field: HeaderField) -> Result<Range<usize>> {
        let bytes = self.blocks.get(block).context("there is no such block")?;
        let header = payload(bytes, payload(bytes, 0)?.start)?;
        let mut start = header.start;
        for _ in 0..field as usize {
            start = payload(bytes, start)?.end;
        }
        payload(bytes, start)
    }

    fn change(&mut self, block: usize, range: Range<usize>, change: impl FnMut(&mut u8)) -> Result<()> {
        let bytes = self.blocks.get_mut(block).context("there is no such block")?;
        bytes.get_mut(range).context("it is behind the end")?.iter_mut().for_each(change);
        Ok(())
    }

    /// Flips the last bit of a field.
    ///
    /// # Errors
    /// An error if there is no such block.
    pub fn flip(&mut self, block: usize, field: HeaderField) -> Result<()> {
        let range = self.field(block, field)?;
        let last = range.end.checked_sub(1).filter(|last| range.contains(last)).context("it is empty")?;
        self.change(block, last..last + 1, |byte| *byte ^= 1)
    }

    /// Replaces the hash in a field.
    ///
    /// # Errors
    /// An error if there is no such block, or if `hash` is not a hash.
    pub fn set(&mut self, block: usize, field: HeaderField, hash: &str) -> Result<()> {
        let range = self.field(block, field)?;
        let digits = hash.strip_prefix("0x").context("no hash")?;
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|index| u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16))
            .collect::<Result<_, _>>()?;
        ensure!(bytes.len() == range.len(), "{hash} does not fit");
        let mut bytes = bytes.into_iter();
        self.change(block, range, |byte| *byte = bytes.next().unwrap_or_default())
    }

    /// Changes the signature of the block's last transaction. The block must have neither ommers nor
    /// withdrawals.
    ///
    /// # Errors
    /// An error if it has any.
    pub fn flip_last_signature(&mut self, block: usize) -> Result<()> {
        let bytes = self.blocks.get(block).context("there is no such block")?;
        ensure!(bytes.ends_with(&[0xc0, 0xc0]), "there are ommers or withdrawals");
        let end = bytes.len() - 2;
        self.change(block, end - 1..end, |byte| *byte ^= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_every_length_are_found() {
        assert_eq!(payload(&[0x05], 0).unwrap(), 0..1);
        assert_eq!(payload(&[0xc2, 0x80, 0x80], 0).unwrap(), 1..3);
        assert_eq!(payload(&[0xb8, 0x01, 0xff], 0).unwrap(), 2..3);
        assert_eq!(payload(&[&[0xf8, 60][..], &[0; 60]].concat(), 0).unwrap(), 2..62);
        assert!(payload(&[0xf9, 0x01], 0).is_err());
        assert!(payload(&[0xc2, 0x80], 0).is_err());
    }
}
