//! What the coordinator has to know besides the chain when it is started again: blocks that it accepted
//! and that have not ended, those of them that are parked, and what is held against shards.
//!
//! It decides nothing about them. A block that becomes the chain's leaves the journal in the same
//! transaction ([`Ledger::commit`]).

use std::collections::BTreeMap;

use alloy_primitives::B256;
use common::block::Block;
use common::id::{ShardId, TxIndex};
use redb::{Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use redb::{Table, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::records::{RecordWriter, Records, damaged, decode, encode};
use super::{Ledger, LedgerError};
use common::strikes::StrikeRecord;

/// Accepted blocks by hash: how they stand.
const ACCEPTED: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accepted");

/// Accepted blocks by hash: their RLP.
const ACCEPTED_BLOCKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accepted_blocks");

/// Shards whose strikes are kept, at most.
const STRIKES_KEPT: usize = 4096;

/// Why a block is parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The transaction that kills, or seems to kill, whoever runs it; none if it is not known which of
    /// several it is. The reason names those.
    pub index: Option<TxIndex>,
    /// Whether it is proven.
    pub convicted: bool,
    /// In words.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// How an accepted block stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    /// The order of acceptance.
    pub sequence: u64,
    /// Starts of coordinators at which it was the first to be done.
    pub starts: u32,
    /// Whether it waits for an operator, and why.
    pub parked: Option<Parked>,
}

/// An accepted block that has not ended.
#[derive(Debug, Clone)]
pub struct AcceptedBlock {
    /// The block.
    pub block: Block,
    /// How it stands.
    pub record: AcceptedRecord,
}

/// Writing the journal of accepted blocks within a transaction.
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

    /// The block has ended.
    pub(super) fn end(&mut self, hash: &B256) -> Result<(), LedgerError> {
        self.records.remove(&hash.0)?;
        self.blocks.remove(&hash.0)?;
        Ok(())
    }
}

impl Ledger {
    /// Journals blocks that are about to be acknowledged, each with its place in the order: durable when
    /// this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; none of them is journaled.
    pub fn accept<'b>(&self, blocks: impl IntoIterator<Item = (u64, &'b Block)>) -> Result<(), LedgerError> {
        self.write_accepted(Durability::Immediate, |accepted| {
            for (sequence, block) in blocks {
                let mut rlp = Vec::new();
                block.encode(&mut rlp);
                accepted.set(&block.hash, &AcceptedRecord { sequence, starts: 0, parked: None })?;
                accepted.blocks.insert(&block.hash.0, rlp.as_slice())?;
            }
            Ok(())
        })
    }

    /// The accepted blocks that have not ended, in the order in which they were accepted.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
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
            let block = Block::decode_exact(rlp.value()).map_err(|error| damaged(&what, error))?;
            if block.hash != hash {
                return Err(damaged(&what, format!("its bytes are those of {}", block.hash)));
            }
            // It was checked before it was accepted.
            block.check_body().map_err(|error| damaged(&what, error))?;
            found.push(AcceptedBlock { block, record });
        }
        found.sort_by_key(|accepted| accepted.record.sequence);
        Ok(found)
    }

    /// Changes how an accepted block stands: durable when this returns. One that has ended stays so.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing has changed.
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

    /// Accepted blocks have ended without becoming the chain's: they were refused, or are known already.
    /// That is durable with the next commit; until then they would end the same way again.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing has changed.
    pub fn end_accepted<'h>(&self, hashes: impl IntoIterator<Item = &'h B256>) -> Result<(), LedgerError> {
        self.write_accepted(Durability::None, |accepted| {
            hashes.into_iter().try_for_each(|hash| accepted.end(hash))
        })
    }

    /// An operator has given an accepted block up: durable when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing has changed.
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

    /// Keeps what is held against shards, over the coordinator's end.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing has changed.
    pub fn keep_strikes(&self, strikes: &BTreeMap<ShardId, StrikeRecord>) -> Result<(), LedgerError> {
        self.check_term()?;
        let kept: Vec<(ShardId, StrikeRecord)> =
            strikes.iter().take(STRIKES_KEPT).map(|(shard, record)| (*shard, *record)).collect();
        let transaction = self.database.begin_write()?;
        RecordWriter::open(&transaction)?.strikes(&kept)?;
        transaction.commit()?;
        Ok(())
    }

    /// What earlier coordinators held against shards.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn strikes(&self) -> Result<BTreeMap<ShardId, StrikeRecord>, LedgerError> {
        Ok(Records(&self.database.begin_read()?).strikes()?.into_iter().collect())
    }
}

/// A table by block hash, to be read.
type ByHash = redb::ReadOnlyTable<&'static [u8; 32], &'static [u8]>;

/// A table, if anything was ever written to it.
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
