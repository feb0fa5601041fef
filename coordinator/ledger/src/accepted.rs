//! The journal of accepted blocks: the data beside the chain that a coordinator needs after a restart.
//! It holds the accepted blocks that have not ended, marks those that are parked, and stores the
//! strikes of shards.
//!
//! This module decides nothing about blocks. A block that becomes part of the chain leaves the journal
//! in the same transaction ([`Ledger::commit`]).

use std::sync::Once;

use alloy_primitives::B256;
use common::block::{CheckedBlock, EncodedBlock};
use common::id::{ShardId, TxIndex};
use redb::{Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use redb::{Table, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::records::{RecordWriter, Records, decode, encode};
use super::{Ledger, LedgerError, damaged};
use common::strikes::{FleetRecord, StrikeRecord};

/// The records of accepted blocks, by hash.
const ACCEPTED: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accepted");

/// The RLP of accepted blocks, by hash.
const ACCEPTED_BLOCKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accepted_blocks");

/// The maximum number of shards whose strikes are stored, and of those that have done sound work.
const SHARDS_KEPT: usize = 4096;

/// Why a block is parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The transaction that kills, or seems to kill, every shard that runs it; `None` if several
    /// transactions are suspects. The reason names them.
    pub index: Option<TxIndex>,
    /// Whether the transaction is proven to kill shards.
    pub convicted: bool,
    /// The reason in words, for the operator.
    pub reason: String,
    /// The time of parking, in seconds since 1970.
    pub at: u64,
}

/// The state of an accepted block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    /// The block's position in the order of acceptance.
    pub sequence: u64,
    /// The number of coordinator starts at which this block was the first to be executed.
    pub starts: u32,
    /// Why the block waits for an operator; `None` if it is not parked.
    pub parked: Option<Parked>,
}

/// An accepted block that has not ended.
#[derive(Debug, Clone)]
pub struct AcceptedBlock {
    /// The block from the journal. Its bytes were checked against its hash and its header when it was read.
    pub block: CheckedBlock,
    /// The state of the block.
    pub record: AcceptedRecord,
}

/// Writes the journal of accepted blocks within a transaction.
#[derive(Debug)]
pub(super) struct AcceptedWriter<'t> {
    records: Table<'t, &'static [u8; 32], &'static [u8]>,
    blocks: Table<'t, &'static [u8; 32], &'static [u8]>,
}

impl<'t> AcceptedWriter<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            records: transaction.open_table(ACCEPTED)?,
            blocks: transaction.open_table(ACCEPTED_BLOCKS)?,
        })
    }

    fn set(&mut self, hash: &B256, record: &AcceptedRecord) -> Result<(), LedgerError> {
        self.records.insert(&hash.0, encode("accepted block", record)?.as_slice())?;
        Ok(())
    }

    fn get(&self, hash: &B256) -> Result<Option<AcceptedRecord>, LedgerError> {
        self.records.get(&hash.0)?.map(|bytes| decode("accepted block", bytes.value())).transpose()
    }

    /// Removes a block that has ended.
    pub(super) fn end(&mut self, hash: &B256) -> Result<(), LedgerError> {
        self.records.remove(&hash.0)?;
        self.blocks.remove(&hash.0)?;
        Ok(())
    }
}

impl Ledger {
    /// Journals blocks before the coordinator acknowledges them, each with its position in the order. The
    /// records are durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; then no block is journaled.
    pub fn accept<'b>(
        &self,
        blocks: impl IntoIterator<Item = (u64, &'b EncodedBlock)>,
    ) -> Result<(), LedgerError> {
        self.write_accepted(Durability::Immediate, |accepted| {
            for (sequence, block) in blocks {
                accepted.set(&block.hash, &AcceptedRecord { sequence, starts: 0, parked: None })?;
                accepted.blocks.insert(&block.hash.0, block.rlp().as_ref())?;
            }
            Ok(())
        })
    }

    /// The accepted blocks that have not ended, in the order of acceptance.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn accepted(&self) -> Result<Vec<AcceptedBlock>, LedgerError> {
        let transaction = self.database.begin_read()?;
        let Some(records) = table(&transaction, ACCEPTED)? else { return Ok(Vec::new()) };
        let Some(blocks) = table(&transaction, ACCEPTED_BLOCKS)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in records.iter()? {
            let (hash, record) = entry?;
            let hash = B256::from(hash.value());
            let record: AcceptedRecord = decode("accepted block", record.value())?;
            let what = format!("accepted block {hash}");
            let rlp = blocks.get(&hash.0)?.ok_or_else(|| damaged(&what, "its bytes are missing"))?;
            let block = EncodedBlock::decode_exact(rlp.value()).map_err(|error| damaged(&what, error))?;
            if block.hash != hash {
                return Err(damaged(&what, format!("its bytes are those of {}", block.hash)));
            }
            // The body was checked before the block was accepted, so a mismatch here is damage.
            let block = CheckedBlock::new(block).map_err(|error| damaged(&what, error))?;
            found.push(AcceptedBlock { block, record });
        }
        found.sort_by_key(|accepted| accepted.record.sequence);
        Ok(found)
    }

    /// Changes the record of an accepted block. The change is durable when this returns. A block that has
    /// ended stays removed.
    ///
    /// # Errors
    /// [`LedgerError`]; then nothing has changed.
    pub fn change_accepted(
        &self,
        hash: &B256,
        change: impl FnOnce(&mut AcceptedRecord),
    ) -> Result<(), LedgerError> {
        self.write_accepted(Durability::Immediate, |accepted| {
            let Some(mut record) = accepted.get(hash)? else { return Ok(()) };
            change(&mut record);
            accepted.set(hash, &record)
        })
    }

    /// Removes accepted blocks that ended without becoming part of the chain: they were rejected, or were
    /// known already. The removal becomes durable with the next commit. After a crash before that they end
    /// the same way again.
    ///
    /// # Errors
    /// [`LedgerError`]; then nothing has changed.
    pub fn end_accepted<'h>(&self, hashes: impl IntoIterator<Item = &'h B256>) -> Result<(), LedgerError> {
        self.write_accepted(Durability::None, |accepted| {
            hashes.into_iter().try_for_each(|hash| accepted.end(hash))
        })
    }

    /// Removes an accepted block that an operator has given up. The removal is durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; then nothing has changed.
    pub fn discard_accepted(&self, hash: &B256) -> Result<(), LedgerError> {
        self.write_accepted(Durability::Immediate, |accepted| accepted.end(hash))
    }

    fn write_accepted(
        &self,
        durability: Durability,
        write: impl FnOnce(&mut AcceptedWriter<'_>) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.check_term()?;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        write(&mut AcceptedWriter::open(&transaction)?)?;
        transaction.commit()?;
        Ok(())
    }

    /// Stores what is known of shards, so that it survives the coordinator. Of more than 4,096
    /// shards, those with the lowest ids are stored.
    ///
    /// # Errors
    /// [`LedgerError`]; then nothing has changed.
    pub fn keep_fleet_record(&self, record: &FleetRecord) -> Result<(), LedgerError> {
        static TOO_MANY: Once = Once::new();
        let FleetRecord { strikes, proven } = record;
        self.check_term()?;
        if strikes.len() > SHARDS_KEPT {
            TOO_MANY.call_once(|| {
                tracing::warn!(
                    shards = strikes.len(),
                    stored = SHARDS_KEPT,
                    "too many shards have strikes: those of the highest ids are not stored, and the next \
                     coordinator does not know them; give shards that come back the same id"
                );
            });
        }
        let kept: Vec<(ShardId, StrikeRecord)> =
            strikes.iter().take(SHARDS_KEPT).map(|(shard, record)| (*shard, *record)).collect();
        let proven: Vec<ShardId> = proven.iter().take(SHARDS_KEPT).copied().collect();
        let transaction = self.database.begin_write()?;
        {
            let mut writer = RecordWriter::open(&transaction)?;
            writer.strikes(&kept)?;
            writer.proven(&proven)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// What earlier coordinators knew of shards.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn fleet_record(&self) -> Result<FleetRecord, LedgerError> {
        let transaction = self.database.begin_read()?;
        let records = Records(&transaction);
        let (strikes, proven) = (records.strikes()?, records.proven()?);
        Ok(FleetRecord { strikes: strikes.into_iter().collect(), proven: proven.into_iter().collect() })
    }
}

/// A table keyed by block hash, opened for reading.
type ByHash = redb::ReadOnlyTable<&'static [u8; 32], &'static [u8]>;

/// Opens a table; `None` if it was never written to.
fn table(
    transaction: &ReadTransaction,
    name: TableDefinition<'static, &'static [u8; 32], &'static [u8]>,
) -> Result<Option<ByHash>, LedgerError> {
    match transaction.open_table(name) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
