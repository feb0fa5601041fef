//! The contents of the database besides state and trie: its identity, the head, blocks, receipts, and
//! the journal of the newest blocks' changes.

use alloy_primitives::{B256, U256};
use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::codec::{self, Word};
use common::id::{ShardId, WorldId};
use common::message::StateSummary;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pieces::{self, MAX_VALUE_BYTES, PIECE_BYTES};
use super::side::SideRecord;
use super::{LedgerError, damaged};
use common::strikes::StrikeRecord;

/// The version of the database's layout. A database of a later version is rejected.
pub(super) const FORMAT: u64 = 3;

/// The oldest version that is read. Format 2 has all words in 32 bytes, which the codec reads as well.
pub(super) const OLDEST_FORMAT: u64 = 2;

/// Single values by name.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The RLP of the chain's blocks, by hash.
const BLOCKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blocks");

/// The [`BlockInfo`] of the chain's blocks, by hash.
const BLOCK_INFO: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("block_info");

/// The receipts of the chain's blocks, by hash: an RLP list.
const RECEIPTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("receipts");

/// The changes of the newest blocks in both directions, by number: the first piece.
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");

/// The further pieces, by block number and piece number.
const JOURNAL_MORE: TableDefinition<'_, &[u8; 12], &[u8]> = TableDefinition::new("journal_more");

/// The identity of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) world: WorldId,
    pub(super) spec: ChainSpec,
    /// The block at which the ledger started.
    pub(super) origin: StateSummary,
    /// The RLP of its header; empty if it is not known.
    pub(super) header: Vec<u8>,
    /// Whether the ledger holds all accounts.
    pub(super) complete: bool,
}

/// The state that the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckpointRecord {
    pub(super) summary: StateSummary,
    pub(super) state_root: B256,
}

/// The chain's newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadRecord {
    pub(super) summary: StateSummary,
    pub(super) state_root: B256,
    pub(super) total_difficulty: Word,
    /// The number of blocks since the origin.
    pub(super) blocks: u64,
}

/// The data of a block besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockInfo {
    pub(super) number: u64,
    pub(super) total_difficulty: Word,
    pub(super) blocks: u64,
}

/// The changes of one block.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct JournalEntry {
    /// The change from the parent's state to the block's own.
    pub(super) redo: Delta,
    /// The change from the block's own state back to the parent's.
    pub(super) undo: Delta,
}

/// A journal entry for writing. It borrows the deltas, which may be large.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct NewEntry<'d> {
    pub(super) redo: &'d Delta,
    pub(super) undo: &'d Delta,
}

fn journal_key(number: u64, piece: u32) -> [u8; 12] {
    let mut key = [0; 12];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    tail.copy_from_slice(&piece.to_be_bytes());
    key
}

pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, LedgerError> {
    Ok(codec::encode(what, value, codec::MAX_PAYLOAD_BYTES)?)
}

/// Encodes a value that may be split into pieces.
pub(super) fn encode_large<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, LedgerError> {
    Ok(codec::encode(what, value, MAX_VALUE_BYTES)?)
}

pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, LedgerError> {
    codec::decode(what, bytes, codec::MAX_PAYLOAD_BYTES).map_err(|error| damaged(what, error))
}

/// Whether the bytes are a value of some table. For tests with hostile bytes: each kind of value reads them.
#[must_use]
pub fn could_be_a_record(bytes: &[u8]) -> bool {
    fn is<T: DeserializeOwned>(bytes: &[u8]) -> bool {
        decode::<T>("record", bytes).is_ok()
    }
    [
        is::<Identity>(bytes),
        is::<CheckpointRecord>(bytes),
        is::<HeadRecord>(bytes),
        is::<BlockInfo>(bytes),
        is::<JournalEntry>(bytes),
        is::<SideRecord>(bytes),
        is::<Vec<(ShardId, StrikeRecord)>>(bytes),
        is::<Vec<ShardId>>(bytes),
    ]
    .contains(&true)
}

/// Reads the records of one version of the database.
pub(super) struct Records<'t>(pub(super) &'t ReadTransaction);

impl Records<'_> {
    fn named<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, LedgerError> {
        let meta = match self.0.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        meta.get(name)?.map(|bytes| decode(name, bytes.value())).transpose()
    }

    pub(super) fn format(&self) -> Result<Option<u64>, LedgerError> {
        self.named("format")
    }

    pub(super) fn identity(&self) -> Result<Identity, LedgerError> {
        self.named("identity")?.ok_or_else(|| damaged("identity", "it is missing"))
    }

    pub(super) fn head(&self) -> Result<HeadRecord, LedgerError> {
        self.named("head")?.ok_or_else(|| damaged("head", "it is missing"))
    }

    pub(super) fn checkpoint(&self) -> Result<CheckpointRecord, LedgerError> {
        self.named("checkpoint")?.ok_or_else(|| damaged("checkpoint", "it is missing"))
    }

    pub(super) fn strikes(&self) -> Result<Vec<(ShardId, StrikeRecord)>, LedgerError> {
        Ok(self.named("strikes")?.unwrap_or_default())
    }

    pub(super) fn proven(&self) -> Result<Vec<ShardId>, LedgerError> {
        Ok(self.named("proven")?.unwrap_or_default())
    }

    pub(super) fn block(&self, hash: &B256) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.0.open_table(BLOCKS)?.get(&hash.0)?.map(|bytes| bytes.value().to_vec()))
    }

    pub(super) fn info(&self, hash: &B256) -> Result<Option<BlockInfo>, LedgerError> {
        let table = self.0.open_table(BLOCK_INFO)?;
        table.get(&hash.0)?.map(|bytes| decode("block info", bytes.value())).transpose()
    }

    pub(super) fn receipts(&self, hash: &B256) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.0.open_table(RECEIPTS)?.get(&hash.0)?.map(|bytes| bytes.value().to_vec()))
    }

    pub(super) fn journal(&self, number: u64) -> Result<Option<JournalEntry>, LedgerError> {
        let Some(first) = self.0.open_table(JOURNAL)?.get(number)? else { return Ok(None) };
        let what = format!("the journal's entry of block {number}");
        let entry = |bytes: &[u8]| codec::decode("journal", bytes, MAX_VALUE_BYTES);
        let decoded = match self.0.open_table(JOURNAL_MORE) {
            Ok(more) => {
                let (low, high) = (journal_key(number, 0), journal_key(number, u32::MAX));
                let others = more.range::<&[u8; 12]>(&low..=&high)?.map(|entry| {
                    let (key, piece) = entry?;
                    let place = key.value().iter().skip(8).fold(0, |at, byte| (at << 8) | u32::from(*byte));
                    Ok((place, piece.value().to_vec()))
                });
                entry(&pieces::join(&what, first.value(), others)?)
            }
            Err(TableError::TableDoesNotExist(_)) => entry(first.value()),
            Err(error) => return Err(error.into()),
        };
        decoded.map(Some).map_err(|error| damaged(&what, error))
    }

    /// The number of further pieces in the journal.
    #[cfg(test)]
    pub(super) fn journal_pieces(&self) -> Result<u64, LedgerError> {
        use redb::ReadableTableMetadata as _;
        Ok(self.0.open_table(JOURNAL_MORE)?.len()?)
    }

    /// The numbers of the blocks in the journal, ascending.
    pub(super) fn journaled(&self) -> Result<Vec<u64>, LedgerError> {
        let table = self.0.open_table(JOURNAL)?;
        table.range::<u64>(..)?.map(|entry| Ok(entry?.0.value())).collect()
    }
}

/// Writes records within a transaction.
#[derive(Debug)]
pub(super) struct RecordWriter<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    blocks: Table<'t, &'static [u8; 32], &'static [u8]>,
    info: Table<'t, &'static [u8; 32], &'static [u8]>,
    receipts: Table<'t, &'static [u8; 32], &'static [u8]>,
    journal: Table<'t, u64, &'static [u8]>,
    more: Table<'t, &'static [u8; 12], &'static [u8]>,
    piece: usize,
}

impl<'t> RecordWriter<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            blocks: transaction.open_table(BLOCKS)?,
            info: transaction.open_table(BLOCK_INFO)?,
            receipts: transaction.open_table(RECEIPTS)?,
            journal: transaction.open_table(JOURNAL)?,
            more: transaction.open_table(JOURNAL_MORE)?,
            piece: PIECE_BYTES,
        })
    }

    fn set<T: Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), LedgerError> {
        self.meta.insert(name, encode(name, value)?.as_slice())?;
        Ok(())
    }

    /// Sets the format to this build's, so that an older build rejects the database.
    pub(super) fn upgrade(&mut self) -> Result<(), LedgerError> {
        self.set("format", &FORMAT)
    }

    pub(super) fn begin(&mut self, identity: &Identity) -> Result<(), LedgerError> {
        self.upgrade()?;
        self.set("identity", identity)
    }

    pub(super) fn head(&mut self, head: &HeadRecord) -> Result<(), LedgerError> {
        self.set("head", head)
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &CheckpointRecord) -> Result<(), LedgerError> {
        self.set("checkpoint", checkpoint)
    }

    pub(super) fn strikes(&mut self, strikes: &Vec<(ShardId, StrikeRecord)>) -> Result<(), LedgerError> {
        self.set("strikes", strikes)
    }

    pub(super) fn proven(&mut self, proven: &Vec<ShardId>) -> Result<(), LedgerError> {
        self.set("proven", proven)
    }

    /// Raises the stored epoch above its old value and to at least `least`.
    pub(super) fn raise_epoch(&mut self, least: u64) -> Result<u64, LedgerError> {
        let stored: u64 = match self.meta.get("epoch")? {
            Some(bytes) => decode("epoch", bytes.value())?,
            None => 0,
        };
        let epoch = least.max(stored.saturating_add(1));
        self.set("epoch", &epoch)?;
        Ok(epoch)
    }

    pub(super) fn add(
        &mut self,
        hash: &B256,
        rlp: &[u8],
        info: &BlockInfo,
        receipts: &[u8],
    ) -> Result<(), LedgerError> {
        self.blocks.insert(&hash.0, rlp)?;
        self.info.insert(&hash.0, encode("block info", info)?.as_slice())?;
        self.receipts.insert(&hash.0, receipts)?;
        Ok(())
    }

    pub(super) fn remove(&mut self, hash: &B256) -> Result<(), LedgerError> {
        self.blocks.remove(&hash.0)?;
        self.info.remove(&hash.0)?;
        self.receipts.remove(&hash.0)?;
        Ok(())
    }

    /// Adds a block's changes to the journal, which keeps the newest `keep` blocks.
    pub(super) fn log(&mut self, number: u64, entry: NewEntry<'_>, keep: u64) -> Result<(), LedgerError> {
        self.unlog(number)?;
        let bytes = encode_large("journal", &entry)?;
        let (first, others) = pieces::cut(&bytes, self.piece);
        self.journal.insert(number, first)?;
        for (place, piece) in others {
            self.more.insert(&journal_key(number, place), piece)?;
        }
        let Some(oldest) = (number + 1).checked_sub(keep) else { return Ok(()) };
        self.journal.retain_in(..oldest, |_, _| false)?;
        self.more.retain_in::<&[u8; 12], _>(..&journal_key(oldest, 0), |_, _| false)?;
        Ok(())
    }

    pub(super) fn unlog(&mut self, number: u64) -> Result<(), LedgerError> {
        self.journal.remove(number)?;
        let (first, last) = (journal_key(number, 0), journal_key(number, u32::MAX));
        self.more.retain_in::<&[u8; 12], _>(&first..=&last, |_, _| false)?;
        Ok(())
    }
}

/// A difficulty in its stored form.
pub(super) fn word(difficulty: U256) -> Word {
    Word(difficulty)
}
