//! Work and its results: what a sub-block is asked to compute, and what comes back for each of
//! its transactions.
//!
//! Everything in here that a shard returns is a claim. Read sets are validated against sequential
//! values, and only then do writes count.

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use serde::{Deserialize, Serialize};

use crate::account::{Account, SlotValue, WriteSet};
use crate::codec::{self, CodecError, word};
use crate::id::{AssignmentId, Gas, RoundId, StateRef, TxIndex, WorkId};

/// What is to be computed over a set of transactions of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkKind {
    /// Recover the senders from the signatures.
    Recover,
    /// Execute in index order over the base state and the sub-block's own earlier writes.
    Execute {
        /// The recovered sender of each transaction, in the order of the indices.
        senders: Vec<Address>,
        /// Speculate on a base state that is deliberately wrong in places, chosen by this seed:
        /// a test of validation.
        poison: Option<u64>,
    },
}

/// One piece of work, complete: the same specification always has the same result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkSpec {
    /// The state that execution starts from.
    pub base: StateRef,
    /// The block's hash.
    pub block: B256,
    /// The digest of the block's payload: header, transactions, and the changes that precede
    /// the first transaction.
    pub inputs: B256,
    /// What to compute.
    pub kind: WorkKind,
    /// Over which transactions, ascending.
    pub indices: Vec<TxIndex>,
}

impl WorkSpec {
    /// The identity of this work: the hash of everything that its result depends on.
    ///
    /// # Errors
    /// [`CodecError`] only for a specification beyond the payload limit.
    pub fn id(&self) -> Result<WorkId, CodecError> {
        let bytes = codec::encode("work specification", self, codec::MAX_PAYLOAD_BYTES)?;
        Ok(WorkId(codec::payload_digest(&bytes)))
    }
}

/// The ExecuteBlock command: one assignment of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteBlock {
    /// Which try at which work by whom.
    pub assignment: AssignmentId,
    /// The round that the work belongs to.
    pub round: RoundId,
    /// The work.
    pub spec: WorkSpec,
}

/// Why a signature has no sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSignature(pub String);

/// The result of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkOutput {
    /// The sender of each transaction, in the order of the indices.
    Recovered(Vec<Result<Address, BadSignature>>),
    /// What each transaction did, in the order of the indices.
    Executed(Vec<TxOutput>),
}

/// Why a shard could not do a piece of work that it had accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkFailure {
    /// The worker thread panicked; the message and the transaction it was at.
    WorkerPanicked {
        /// The panic's message.
        message: String,
        /// The transaction that was being executed, if any.
        at: Option<TxIndex>,
    },
    /// The base state was reset or rewound before the work began.
    BaseGone,
    /// The result arrived damaged.
    Damaged,
    /// The state view failed (a missing code, an unknown ancestor).
    State(String),
}

/// The digest of an outcome's encoding: equal for equal results of the same work, whoever made them.
///
/// # Errors
/// [`CodecError`] only for a result beyond the payload limit.
pub fn outcome_digest(outcome: Result<&WorkOutput, &WorkFailure>) -> Result<B256, CodecError> {
    Ok(codec::payload_digest(&codec::encode("result", &outcome, codec::MAX_PAYLOAD_BYTES)?))
}

/// All that one transaction read of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountReads {
    /// Whose account.
    pub address: Address,
    /// Its value as one: existence, balance, nonce and code hash. The outer option tells whether
    /// it was read at all.
    pub account: Option<Option<Account>>,
    /// Whether it has storage, when that was asked (EIP-7610).
    pub has_storage: Option<bool>,
    /// Slots, in the order of reading.
    pub slots: Vec<SlotValue>,
}

/// The read set of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSet {
    /// Per account, in the order of first reading.
    pub accounts: Vec<AccountReads>,
    /// Ancestor hashes (BLOCKHASH) by block number.
    pub block_hashes: Vec<(u64, B256)>,
}

/// A log entry (alloy's own type does not fit BCS).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The contract that emitted it.
    pub address: Address,
    /// Up to four topics.
    pub topics: Vec<B256>,
    /// The payload.
    pub data: Bytes,
}

impl From<Log> for LogEntry {
    fn from(log: Log) -> Self {
        let (topics, data) = log.data.split();
        Self { address: log.address, topics, data }
    }
}

impl From<LogEntry> for Log {
    fn from(entry: LogEntry) -> Self {
        Log::new_unchecked(entry.address, entry.topics, entry.data)
    }
}

/// A plain transfer, whose effects are additions and so do not depend on the exact balances.
///
/// It stands for the reads and writes of a transaction that loaded only its sender and a
/// recipient without code, and succeeded. It is valid on any state in which the sender has this
/// nonce and code and at least the required balance, and the recipient still has no code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Who pays.
    pub sender: Address,
    /// The sender's nonce before.
    pub nonce: u64,
    /// The sender's code hash.
    pub code_hash: B256,
    /// The balance that the sender must have: all that the transaction may spend.
    #[serde(with = "word")]
    pub required: U256,
    /// What the sender pays: the value and the price of the gas used.
    #[serde(with = "word")]
    pub debit: U256,
    /// Who receives.
    pub recipient: Address,
    /// What the recipient receives, in wei; it may be nothing.
    #[serde(with = "word")]
    pub credit: U256,
}

/// What a transaction depends on and what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effects {
    /// Valid if and only if every value read is the sequential one.
    Exact {
        /// The values it read.
        reads: ReadSet,
        /// What it wrote.
        writes: WriteSet,
    },
    /// A plain transfer, applied as additions.
    Transfer(Transfer),
}

/// What a transaction did that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Whether it succeeded (a reverted or halted transaction is executed too).
    pub success: bool,
    /// Gas used after refunds: what the sender pays for and the receipt counts.
    pub gas_used: Gas,
    /// Gas that counts against the block's limit from Amsterdam on: regular (EIP-7778).
    pub regular_gas: Gas,
    /// Gas that counts against the block's limit from Amsterdam on: state (EIP-8037).
    pub state_gas: Gas,
    /// Its logs.
    pub logs: Vec<LogEntry>,
    /// The fee owed to the beneficiary in wei, to be added before the writes are committed, even
    /// when it is zero (that touches the account). `None` when it is already among the writes,
    /// because the transaction itself had loaded the beneficiary.
    pub fee: Option<crate::codec::Word>,
    /// What it depends on and changes.
    pub effects: Effects,
}

/// The result of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxOutcome {
    /// It was executed.
    Executed(Box<Executed>),
    /// It cannot be part of a block on this state (nonce, balance, …). Only a guess until the
    /// reads validate.
    Invalid {
        /// What it had read by then.
        reads: ReadSet,
        /// Why.
        reason: String,
    },
}

/// One transaction's result with its index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxOutput {
    /// Which transaction.
    pub index: TxIndex,
    /// What came of it.
    pub outcome: TxOutcome,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec() -> WorkSpec {
        WorkSpec {
            base: StateRef { world: Default::default(), height: Default::default(), block_hash: B256::ZERO },
            block: B256::repeat_byte(1),
            inputs: B256::repeat_byte(2),
            kind: WorkKind::Recover,
            indices: vec![TxIndex(0), TxIndex(1)],
        }
    }

    #[test]
    fn the_work_id_depends_on_every_input() {
        let original = spec().id().unwrap();
        let mut other = spec();
        other.inputs = B256::repeat_byte(3);
        assert_ne!(other.id().unwrap(), original);
        let mut other = spec();
        other.indices.pop();
        assert_ne!(other.id().unwrap(), original);
        let mut other = spec();
        other.kind = WorkKind::Execute { senders: vec![], poison: None };
        assert_ne!(other.id().unwrap(), original);
        let mut other = spec();
        other.base.block_hash = B256::repeat_byte(9);
        assert_ne!(other.id().unwrap(), original);
    }

    #[test]
    fn an_outcomes_digest_is_that_of_what_travels() {
        let outcome: Result<WorkOutput, WorkFailure> = Ok(WorkOutput::Recovered(vec![Ok(Address::ZERO)]));
        let bytes = codec::encode("result", &outcome, codec::MAX_PAYLOAD_BYTES).unwrap();
        assert_eq!(outcome_digest(outcome.as_ref()).unwrap(), codec::payload_digest(&bytes));
    }

    #[test]
    fn a_log_survives_both_conversions() {
        let log = Log::new_unchecked(
            Address::repeat_byte(1),
            vec![B256::repeat_byte(2)],
            Bytes::from_static(b"data"),
        );
        assert_eq!(Log::from(LogEntry::from(log.clone())), log);
    }
}
