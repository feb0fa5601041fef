//! Side blocks: valid, executed blocks that are not on the chain. They belong to other branches, or a
//! reorganisation took them back.
//!
//! The database stores a side block with its bytes, its receipts and its changes. So a branch that
//! becomes the chain need not be executed again, before or after a restart. Their number and their
//! total size are limited; the oldest are removed first. Memory holds only an index.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use common::account::Delta;
use common::id::Height;
use redb::{
    Durability, ReadTransaction, ReadableDatabase, Table, TableDefinition, TableError, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::accepted::AcceptedWriter;
use super::pieces::{self, MAX_VALUE_BYTES, PIECE_BYTES};
use super::records::{decode, encode, encode_large};
use super::{Ledger, LedgerError, Tip, damaged};

/// The maximum number of side blocks: as many as one reorganisation can take back.
const MOST: usize = 512;

/// The maximum total size of side blocks with receipts and changes, in bytes. A single block may be
/// larger.
const MOST_BYTES: u64 = 1 << 30;

/// The records of side blocks, by hash.
const SIDE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side");

/// The RLP of side blocks, by hash.
const SIDE_BLOCKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_blocks");

/// The receipts of side blocks, by hash: an RLP list.
const SIDE_RECEIPTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_receipts");

/// The changes of side blocks, by hash: the first piece.
const SIDE_DELTAS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_deltas");

/// The further pieces, by hash and piece number.
const SIDE_MORE: TableDefinition<'_, &[u8; 36], &[u8]> = TableDefinition::new("side_deltas_more");

/// A block that is not on the chain.
#[derive(Debug)]
pub(super) struct SideBlock {
    pub(super) hash: B256,
    pub(super) parent: B256,
    pub(super) rlp: Bytes,
    pub(super) receipts: Vec<u8>,
    /// The block's change of its parent's state.
    pub(super) delta: Arc<Delta>,
}

/// The data of a side block in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SideRecord {
    /// The position in the order in which the blocks were stored.
    sequence: u64,
    number: u64,
    /// The size of everything stored about it, in bytes.
    bytes: u64,
}

/// The index of the side blocks in the newest version of the database.
#[derive(Debug, Clone, Default)]
pub(super) struct SideIndex {
    blocks: HashMap<B256, SideRecord>,
    order: BTreeMap<u64, B256>,
    bytes: u64,
}

impl SideIndex {
    /// Loads the index from the database.
    pub(super) fn load(transaction: &ReadTransaction) -> Result<Self, LedgerError> {
        let mut index = Self::default();
        let Some(records) = table(transaction, SIDE)? else { return Ok(index) };
        for entry in redb::ReadableTable::iter(&records)? {
            let (hash, record) = entry?;
            let hash = B256::from(hash.value());
            index.add(hash, decode("side block", record.value())?);
        }
        Ok(index)
    }

    fn add(&mut self, hash: B256, record: SideRecord) {
        self.blocks.insert(hash, record);
        self.order.insert(record.sequence, hash);
        self.bytes = self.bytes.saturating_add(record.bytes);
    }

    fn take(&mut self, hash: &B256) -> bool {
        let Some(record) = self.blocks.remove(hash) else { return false };
        self.order.remove(&record.sequence);
        self.bytes = self.bytes.saturating_sub(record.bytes);
        true
    }

    fn next_sequence(&self) -> u64 {
        self.order.last_key_value().map_or(0, |(last, _)| last.saturating_add(1))
    }

    /// The oldest block, if the limits require its removal.
    fn surplus(&self, most: usize, most_bytes: u64) -> Option<B256> {
        let over = self.blocks.len() > most || self.bytes > most_bytes;
        let (_, oldest) = self.order.first_key_value().filter(|_| over && self.order.len() > 1)?;
        Some(*oldest)
    }

    /// The hashes of all side blocks, the oldest first.
    pub(super) fn hashes(&self) -> impl Iterator<Item = B256> + '_ {
        self.order.values().copied()
    }
}

/// Changes the side blocks within a transaction. Its index becomes valid once the transaction is
/// committed.
#[derive(Debug)]
pub(super) struct SideWriter<'t> {
    pub(super) index: SideIndex,
    most: usize,
    records: Table<'t, &'static [u8; 32], &'static [u8]>,
    blocks: Table<'t, &'static [u8; 32], &'static [u8]>,
    receipts: Table<'t, &'static [u8; 32], &'static [u8]>,
    deltas: Table<'t, &'static [u8; 32], &'static [u8]>,
    more: Table<'t, &'static [u8; 36], &'static [u8]>,
}

impl<'t> SideWriter<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, index: SideIndex) -> Result<Self, LedgerError> {
        Ok(Self {
            index,
            most: MOST,
            records: transaction.open_table(SIDE)?,
            blocks: transaction.open_table(SIDE_BLOCKS)?,
            receipts: transaction.open_table(SIDE_RECEIPTS)?,
            deltas: transaction.open_table(SIDE_DELTAS)?,
            more: transaction.open_table(SIDE_MORE)?,
        })
    }

    /// Stores a block, and removes the oldest ones if the limits require it.
    pub(super) fn insert(&mut self, block: &SideBlock) -> Result<(), LedgerError> {
        self.remove(&block.hash)?;
        let delta = encode_large("side block's changes", block.delta.as_ref())?;
        let bytes = block.rlp.len() + block.receipts.len() + delta.len();
        let record = SideRecord {
            sequence: self.index.next_sequence(),
            number: block.delta.to.height.0,
            bytes: bytes as u64,
        };
        self.records.insert(&block.hash.0, encode("side block", &record)?.as_slice())?;
        self.blocks.insert(&block.hash.0, block.rlp.as_ref())?;
        self.receipts.insert(&block.hash.0, block.receipts.as_slice())?;
        let (first, others) = pieces::cut(&delta, PIECE_BYTES);
        self.deltas.insert(&block.hash.0, first)?;
        for (number, piece) in others {
            self.more.insert(&piece_key(&block.hash, number), piece)?;
        }
        self.index.add(block.hash, record);
        while let Some(surplus) = self.index.surplus(self.most, MOST_BYTES) {
            tracing::warn!(block = %surplus, "side block dropped: more are kept than there is room for");
            self.remove(&surplus)?;
        }
        Ok(())
    }

    /// Removes a block that is on the chain, or that must not be stored any more.
    pub(super) fn remove(&mut self, hash: &B256) -> Result<(), LedgerError> {
        if !self.index.take(hash) {
            return Ok(());
        }
        self.records.remove(&hash.0)?;
        self.blocks.remove(&hash.0)?;
        self.receipts.remove(&hash.0)?;
        self.deltas.remove(&hash.0)?;
        let (first, last) = (piece_key(hash, 0), piece_key(hash, u32::MAX));
        self.more.retain_in::<&[u8; 36], _>(&first..=&last, |_, _| false)?;
        Ok(())
    }

    /// Removes all blocks above a height.
    pub(super) fn remove_above(&mut self, height: Height) -> Result<(), LedgerError> {
        let above = self.index.blocks.iter().filter(|(_, record)| record.number > height.0);
        let above: Vec<B256> = above.map(|(hash, _)| *hash).collect();
        above.iter().try_for_each(|hash| self.remove(hash))
    }
}

fn piece_key(hash: &B256, number: u32) -> [u8; 36] {
    let mut key = [0; 36];
    let (head, tail) = key.split_at_mut(32);
    head.copy_from_slice(hash.as_slice());
    tail.copy_from_slice(&number.to_be_bytes());
    key
}

/// Reads a side block; `None` if it is not stored.
pub(super) fn read(transaction: &ReadTransaction, hash: &B256) -> Result<Option<SideBlock>, LedgerError> {
    let what = format!("side block {hash}");
    let missing = || damaged(&what, "a part of it is missing");
    let bytes = |name| -> Result<Option<Vec<u8>>, LedgerError> {
        let Some(table) = table(transaction, name)? else { return Ok(None) };
        Ok(table.get(&hash.0)?.map(|bytes| bytes.value().to_vec()))
    };
    let Some(_) = bytes(SIDE)? else { return Ok(None) };
    let rlp = bytes(SIDE_BLOCKS)?.ok_or_else(missing)?;
    let receipts = bytes(SIDE_RECEIPTS)?.ok_or_else(missing)?;
    let first = bytes(SIDE_DELTAS)?.ok_or_else(missing)?;
    let more = transaction.open_table(SIDE_MORE)?;
    let (low, high) = (piece_key(hash, 0), piece_key(hash, u32::MAX));
    let others = more.range::<&[u8; 36]>(&low..=&high)?.map(|entry| {
        let (key, piece) = entry?;
        let number = key.value().iter().skip(32).fold(0, |number, byte| (number << 8) | u32::from(*byte));
        Ok((number, piece.value().to_vec()))
    });
    let delta: Delta = {
        let bytes = pieces::join(&what, &first, others)?;
        common::codec::decode("side block's changes", &bytes, MAX_VALUE_BYTES)
            .map_err(|error| damaged(&what, error))?
    };
    let parent = delta.from.block_hash;
    Ok(Some(SideBlock { hash: *hash, parent, rlp: rlp.into(), receipts, delta: Arc::new(delta) }))
}

/// Opens a table; `None` if it was never written to.
fn table<K: redb::Key + 'static>(
    transaction: &ReadTransaction,
    name: TableDefinition<'static, K, &'static [u8]>,
) -> Result<Option<redb::ReadOnlyTable<K, &'static [u8]>>, LedgerError> {
    match transaction.open_table(name) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Ledger {
    /// Stores the newest block of `tip` as a side block. The same transaction removes it from the journal
    /// of accepted blocks, if it is there. The change is durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; then nothing has changed.
    pub fn keep_side_block(&self, tip: &Tip) -> Result<(), LedgerError> {
        let Some(step) = tip.steps.last() else { return Ok(()) };
        let Some(added) = &step.block else { return Ok(()) };
        let block = SideBlock {
            hash: added.hash,
            parent: step.delta.from.block_hash,
            rlp: added.rlp.clone(),
            receipts: added.receipts.clone(),
            delta: Arc::clone(&step.delta),
        };
        let _turn = self.turn.lock();
        self.check_term()?;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let index = {
            let mut side = SideWriter::open(&transaction, self.side_index())?;
            side.insert(&block)?;
            AcceptedWriter::open(&transaction)?.end(&block.hash)?;
            side.index
        };
        self.check_term()?;
        transaction.commit()?;
        self.set_side_index(index);
        Ok(())
    }

    pub(super) fn side_index(&self) -> SideIndex {
        self.side.lock().clone()
    }

    pub(super) fn set_side_index(&self, index: SideIndex) {
        *self.side.lock() = index;
    }

    /// The number of a side block; `None` if it is not stored.
    fn side_number(&self, hash: &B256) -> Option<Height> {
        let side = self.side.lock();
        side.blocks.get(hash).map(|record| Height(record.number))
    }

    /// A side block; `None` if it is not stored.
    pub(super) fn side_block(&self, hash: &B256) -> Result<Option<SideBlock>, LedgerError> {
        match self.side_number(hash) {
            Some(_) => read(&self.database.begin_read()?, hash),
            None => Ok(None),
        }
    }

    /// Whether the block was executed before: it is on the chain, or it is a side block.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn knows(&self, height: Height, hash: B256) -> Result<bool, LedgerError> {
        Ok(self.side_number(&hash).is_some() || self.contains(height, hash)?)
    }

    /// The number of a block of the chain, including the origin, or of a side block; `None` if the block is
    /// unknown.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn height_of(&self, hash: &B256) -> Result<Option<Height>, LedgerError> {
        if *hash == self.origin.block_hash {
            return Ok(Some(self.origin.height));
        }
        if let Some(number) = self.side_number(hash) {
            return Ok(Some(number));
        }
        let info = super::records::Records(&self.database.begin_read()?).info(hash)?;
        Ok(info.map(|info| Height(info.number)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(sequence: u64, bytes: u64) -> SideRecord {
        SideRecord { sequence, number: sequence, bytes }
    }

    #[test]
    fn the_oldest_side_blocks_go_when_there_are_too_many_or_they_are_too_large() {
        let mut index = SideIndex::default();
        for number in 0..4_u8 {
            index.add(B256::repeat_byte(number), record(u64::from(number), 10));
        }
        assert_eq!(index.surplus(4, 40), None);
        assert_eq!(index.surplus(3, 40), Some(B256::repeat_byte(0)));
        assert_eq!(index.surplus(4, 39), Some(B256::repeat_byte(0)));
        assert!(index.take(&B256::repeat_byte(0)) && index.take(&B256::repeat_byte(2)));
        assert_eq!(index.hashes().collect::<Vec<_>>(), [B256::repeat_byte(1), B256::repeat_byte(3)]);
        assert_eq!((index.bytes, index.next_sequence()), (20, 4));
        index.take(&B256::repeat_byte(1));
        // The newest block stays, however large it is.
        assert_eq!(index.surplus(4, 1), None);
    }
}
