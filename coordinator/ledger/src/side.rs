//! Side blocks: valid blocks that were executed and are not on the chain. They are on other branches,
//! or a reorganisation took them back.
//!
//! A side block lies in the database with its bytes, its receipts and what it changes, so that a branch
//! that becomes the chain need not be executed again, before or after a restart. Their count and their
//! bytes are bounded; the oldest go first. Memory holds only an index.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use alloy_primitives::B256;
use common::account::Delta;
use common::id::Height;
use redb::{
    Durability, ReadTransaction, ReadableDatabase, Table, TableDefinition, TableError, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::accepted::AcceptedWriter;
use super::pieces::{self, MAX_VALUE_BYTES, PIECE_BYTES};
use super::records::{damaged, decode, encode, encode_large};
use super::{Ledger, LedgerError, Tip};

/// Side blocks that are kept, at most: as many as one reorganisation can take back.
const MOST: usize = 512;

/// Their bytes, at most, with receipts and changes. One block may be larger by itself.
const MOST_BYTES: u64 = 1 << 30;

/// Side blocks by hash: what is known of each.
const SIDE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side");

/// Side blocks by hash: RLP.
const SIDE_BLOCKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_blocks");

/// Side blocks by hash: receipts, an RLP list.
const SIDE_RECEIPTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_receipts");

/// Side blocks by hash: what they change, the first piece.
const SIDE_DELTAS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("side_deltas");

/// The further pieces, by hash and number.
const SIDE_MORE: TableDefinition<'_, &[u8; 36], &[u8]> = TableDefinition::new("side_deltas_more");

/// A block that is not on the chain.
#[derive(Debug)]
pub(super) struct SideBlock {
    pub(super) hash: B256,
    pub(super) parent: B256,
    pub(super) rlp: Vec<u8>,
    pub(super) receipts: Vec<u8>,
    /// What it changes about its parent's state.
    pub(super) delta: Arc<Delta>,
}

/// What is known of a side block without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SideRecord {
    /// The order in which they were kept.
    sequence: u64,
    number: u64,
    /// Of all that is stored of it.
    bytes: u64,
}

/// The side blocks, as the newest version of the database has them.
#[derive(Debug, Clone, Default)]
pub(super) struct SideIndex {
    blocks: HashMap<B256, SideRecord>,
    order: BTreeMap<u64, B256>,
    bytes: u64,
}

impl SideIndex {
    /// The index of what is stored.
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

    /// The block that has to go for the sake of the bounds, if one has.
    fn surplus(&self, most: usize, most_bytes: u64) -> Option<B256> {
        let over = self.blocks.len() > most || self.bytes > most_bytes;
        let (_, oldest) = self.order.first_key_value().filter(|_| over && self.order.len() > 1)?;
        Some(*oldest)
    }

    /// The hashes of all, the oldest first.
    pub(super) fn hashes(&self) -> impl Iterator<Item = B256> + '_ {
        self.order.values().copied()
    }
}

/// Changing the side blocks within a transaction. The index is the new one once it is committed.
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

    /// Keeps a block, and removes the oldest ones if the bounds ask for it.
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
        self.blocks.insert(&block.hash.0, block.rlp.as_slice())?;
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

    /// The block is on the chain, or is not kept any more.
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

/// A side block as it is stored; nothing if it is not there.
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
    Ok(Some(SideBlock { hash: *hash, parent, rlp, receipts, delta: Arc::new(delta) }))
}

/// A table, if anything was ever written to it.
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
    /// Keeps the newest block of `tip` beside the chain. In the same transaction it leaves the journal of
    /// accepted blocks, if it is there: durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing has changed.
    pub fn keep_aside(&self, tip: &Tip) -> Result<(), LedgerError> {
        let Some(step) = tip.steps.last() else { return Ok(()) };
        let Some(added) = &step.block else { return Ok(()) };
        let block = SideBlock {
            hash: added.hash,
            parent: step.delta.from.block_hash,
            rlp: added.rlp.clone(),
            receipts: added.receipts.clone(),
            delta: Arc::clone(&step.delta),
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.side.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_side_index(&self, index: SideIndex) {
        *self.side.lock().unwrap_or_else(PoisonError::into_inner) = index;
    }

    /// The number of a side block.
    fn side_number(&self, hash: &B256) -> Option<Height> {
        let side = self.side.lock().unwrap_or_else(PoisonError::into_inner);
        side.blocks.get(hash).map(|record| Height(record.number))
    }

    /// A side block; nothing if it is not kept.
    pub(super) fn side_block(&self, hash: &B256) -> Result<Option<SideBlock>, LedgerError> {
        match self.side_number(hash) {
            Some(_) => read(&self.database.begin_read()?, hash),
            None => Ok(None),
        }
    }

    /// Whether the block was executed before: it is on the chain, or on a branch that is kept.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn knows(&self, height: Height, hash: B256) -> Result<bool, LedgerError> {
        Ok(self.side_number(&hash).is_some() || self.contains(height, hash)?)
    }

    /// The number of a block of the chain, the origin included, or of a branch that is kept. Nothing when
    /// the block is not known.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
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
        // The newest stays, however large it is.
        assert_eq!(index.surplus(4, 1), None);
    }
}
