//! Work and its results: the computation that a sub-block asks for, and the result of each of its
//! transactions.
//!
//! Everything here that a shard returns is a claim. The coordinator validates read sets against the
//! sequential values, and only then do the writes count.

use alloy_consensus::Header;
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::Decodable;
use serde::{Deserialize, Serialize};

use crate::account::{Account, SlotValue, WriteSet};
use crate::block::{BlockError, EncodedBlock, Prelude, Transaction};
use crate::codec::{self, CodecError, word};
use crate::id::{AssignmentId, Gas, StateRef, TxIndex, WorkId};
use crate::receipt::EncodedLogs;
use crate::sealed::{Payload, Sealed};

/// The computation over a set of transactions of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkKind {
    /// Recovers the senders from the signatures.
    Recover,
    /// Executes in index order over the base state and the sub-block's own earlier writes.
    Execute {
        /// The recovered sender of each transaction, in the order of the indices.
        senders: Vec<Address>,
        /// The changes before the block's first transaction. They depend on the base state; recovery, which
        /// does not need them, can begin before the block's parent is executed.
        prelude: Prelude,
    },
}

/// A complete piece of work: the same specification always has the same result. It carries the transactions
/// that it is about and no others, so a shard needs nothing of the block besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkSpec {
    /// The state from which execution starts.
    pub base: StateRef,
    /// The RLP encoding of the block's header.
    pub header: Bytes,
    /// Whether to recover senders or to execute, with the inputs that only execution needs.
    pub kind: WorkKind,
    /// The indices of the transactions in the block, ascending.
    pub indices: Vec<TxIndex>,
    /// The EIP-2718 encoding of each transaction, in the order of the indices.
    pub transactions: Vec<Bytes>,
}

/// The decoded inputs of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkInputs {
    /// The header of the block that contains the transactions. It decides which fork's rules apply.
    pub header: Header,
    /// The transactions, in the order of the work's indices; as many as indices.
    pub transactions: Vec<Transaction>,
}

impl WorkSpec {
    /// The work of `kind` over these transactions of a block. Indices beyond the block's end are left out.
    #[must_use]
    pub fn of(base: StateRef, block: &EncodedBlock, kind: WorkKind, indices: &[TxIndex]) -> Self {
        let found = indices
            .iter()
            .filter_map(|index| Some((*index, block.encoded_transactions().get(index.0 as usize)?)));
        let (indices, transactions) = found.map(|(index, bytes)| (index, bytes.clone())).unzip();
        Self { base, header: block.header_rlp().clone(), kind, indices, transactions }
    }

    /// Decodes header and transactions.
    ///
    /// # Errors
    /// [`BlockError`] that names what cannot be decoded.
    pub fn open(&self) -> Result<WorkInputs, BlockError> {
        let mut rest = self.header.as_ref();
        let header = Header::decode(&mut rest).map_err(|error| BlockError::Rlp(error.to_string()))?;
        let decode = |(index, bytes): (&TxIndex, &Bytes)| {
            Transaction::decode_2718_exact(bytes.as_ref())
                .map_err(|error| BlockError::Transaction { index: *index, reason: error.to_string() })
        };
        let transactions: Vec<_> =
            self.indices.iter().zip(&self.transactions).map(decode).collect::<Result<_, _>>()?;
        Ok(WorkInputs { header, transactions })
    }
}

impl Payload for WorkSpec {
    const WHAT: &'static str = "work";
    const LIMIT: usize = codec::MAX_PAYLOAD_BYTES;
}

impl Sealed<WorkSpec> {
    /// The identity of this work: the hash of everything on which its result depends.
    ///
    /// # Errors
    /// [`CodecError`] only for a specification beyond the payload limit.
    pub fn id(&self) -> Result<WorkId, CodecError> {
        self.digest().map(WorkId)
    }
}

/// The ExecuteBlock command: one assignment of one piece of work.
#[derive(Debug, Clone)]
pub struct ExecuteBlock {
    /// The try: the work, the shard and the attempt.
    pub assignment: AssignmentId,
    /// The work. The hash of its encoding must be the work id in `assignment`.
    pub spec: Sealed<WorkSpec>,
}

/// Why no sender can be recovered from a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSignature(pub String);

/// The result of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkOutput {
    /// The sender of each transaction, in the order of the indices.
    Recovered(Vec<Result<Address, BadSignature>>),
    /// The result of each transaction, in the order of the indices.
    Executed(Vec<TxOutput>),
}

/// Why a shard could not do a piece of work that it had accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkFailure {
    /// The worker thread panicked.
    WorkerPanicked {
        /// The panic's message, or a note that the panic's payload is not text.
        message: String,
        /// The transaction that was executing, if any.
        at: Option<TxIndex>,
    },
    /// The replica was reset or rewound before the work began, so the base state is no longer there.
    BaseGone,
    /// The result was damaged in transit.
    Damaged,
    /// The state view failed (missing code, an unknown ancestor).
    State(String),
    /// This transaction needs more EVM memory than a transaction may have here.
    Memory(TxIndex),
}

/// The digest of an outcome's encoding. Equal results of the same work have equal digests, whichever
/// shard computed them.
///
/// # Errors
/// [`CodecError`] only for a result beyond the payload limit.
pub fn outcome_digest(outcome: Result<&WorkOutput, &WorkFailure>) -> Result<B256, CodecError> {
    Ok(codec::payload_digest(&codec::encode("result", &outcome, codec::MAX_PAYLOAD_BYTES)?))
}

/// Everything that one transaction read of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountReads {
    /// The account that was read. It need not exist.
    pub address: Address,
    /// The account as one value: existence, balance, nonce and code hash. The outer option says whether the
    /// transaction read it at all.
    pub account: Option<Option<Account>>,
    /// If there is a value, the transaction did not depend on the balance in `account`: its result is the same
    /// for every balance from this one up to [`MOST_BALANCE`], in wei.
    pub least: Option<crate::codec::Word>,
    /// Whether the account has storage, if the transaction asked for that (EIP-7610).
    pub has_storage: Option<bool>,
    /// The slots that were read, in the order of reading.
    pub slots: Vec<SlotValue>,
}

/// The largest balance in wei that can count as not observed, 2²⁰⁰: sums of such balances do not overflow.
pub const MOST_BALANCE: U256 = U256::from_limbs([0, 0, 0, 1 << 8]);

/// The read set of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSet {
    /// One entry per account, in the order of first reading.
    pub accounts: Vec<AccountReads>,
    /// Hashes of ancestors that BLOCKHASH read, by block number.
    pub block_hashes: Vec<(u64, B256)>,
}

/// A plain transfer. Its effects are additions, so they do not depend on the exact balances.
///
/// It replaces the reads and writes of a successful transaction that loaded only its sender and a
/// recipient without code. It is valid on any state in which the sender has this nonce and code and at
/// least the required balance, and the recipient has no code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The account that pays.
    pub sender: Address,
    /// The sender's nonce before the transaction.
    pub nonce: u64,
    /// The sender's code hash.
    #[serde(with = "codec::code_hash")]
    pub code_hash: B256,
    /// The balance that the sender must have, in wei: the most that the transaction may spend.
    #[serde(with = "word")]
    pub required: U256,
    /// The amount that the sender pays, in wei: the value and the price of the gas used.
    #[serde(with = "word")]
    pub debit: U256,
    /// The account that receives.
    pub recipient: Address,
    /// The amount that the recipient receives, in wei; it may be zero.
    #[serde(with = "word")]
    pub credit: U256,
}

/// The values that a transaction depends on, and its changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effects {
    /// The result is valid if and only if every value read is the sequential one, or within its bounds.
    Exact {
        /// The values that the transaction read.
        reads: ReadSet,
        /// The changes. They contain the beneficiary's fee only if [`Executed::fee`] is `None`.
        writes: WriteSet,
    },
    /// A plain transfer, applied as additions.
    Transfer(Transfer),
}

/// The result of a transaction that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Whether the transaction succeeded (a reverted or halted transaction is executed too).
    pub success: bool,
    /// Gas used after refunds: the sender pays for it and the receipt counts it.
    pub gas_used: Gas,
    /// Regular gas, which counts against the block's limit from Amsterdam on (EIP-7778).
    pub regular_gas: Gas,
    /// State gas, which counts against the block's limit from Amsterdam on (EIP-8037).
    pub state_gas: Gas,
    /// The transaction's logs with their bloom filter, encoded as its receipt contains them.
    pub logs: EncodedLogs,
    /// The fee owed to the beneficiary, in wei. It is added after the writes, even if it is zero (that touches
    /// the account). `None` if the writes already contain it: the transaction itself had loaded the
    /// beneficiary, and its balance is not open (see [`AccountReads::least`]).
    pub fee: Option<crate::codec::Word>,
    /// The values that the result depends on, and the changes.
    pub effects: Effects,
}

/// The result of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxOutcome {
    /// The transaction was executed.
    Executed(Box<Executed>),
    /// The transaction cannot be part of a block on this state (nonce, balance, …). This is only a guess
    /// until its reads validate.
    Invalid {
        /// The values that the transaction had read by then.
        reads: ReadSet,
        /// The EVM's explanation, for example that the nonce is too low.
        reason: String,
    },
}

/// The result of one transaction, with its index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxOutput {
    /// The transaction's index in the block.
    pub index: TxIndex,
    /// The result. It is a claim until the coordinator has validated its reads.
    pub outcome: TxOutcome,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::{Block, Ommers};
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::Signature;

    const BASE: StateRef = StateRef {
        world: crate::id::WorldId(B256::ZERO),
        height: crate::id::Height(0),
        block_hash: B256::ZERO,
    };

    fn transaction(nonce: u64) -> Transaction {
        let tx = TxLegacy { nonce, gas_limit: 21_000, ..Default::default() };
        tx.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into()
    }

    fn block() -> Block {
        let header = Header { number: 7, ..Default::default() };
        let transactions = (0..3).map(transaction).collect();
        Block::new(header, transactions, Ommers::Headers(vec![]), None)
    }

    fn spec() -> WorkSpec {
        WorkSpec::of(BASE, &EncodedBlock::new(block()), WorkKind::Recover, &[TxIndex(0), TxIndex(2)])
    }

    #[test]
    fn the_work_id_depends_on_every_input() {
        let original = Sealed::new(spec()).id().unwrap();
        let changes: [fn(&mut WorkSpec); 5] = [
            |spec| spec.header = alloy_rlp::encode(Header::default()).into(),
            |spec| spec.transactions.reverse(),
            |spec| spec.indices = vec![TxIndex(0), TxIndex(1)],
            |spec| spec.kind = WorkKind::Execute { senders: vec![], prelude: Prelude::default() },
            |spec| spec.base.block_hash = B256::repeat_byte(9),
        ];
        for change in changes {
            let mut other = spec();
            change(&mut other);
            assert_ne!(Sealed::new(other).id().unwrap(), original);
        }
    }

    #[test]
    fn work_opens_to_the_header_and_its_own_transactions() {
        let inputs = spec().open().unwrap();
        assert_eq!(inputs.header, block().header);
        assert_eq!(inputs.transactions, [transaction(0), transaction(2)]);
    }

    #[test]
    fn work_with_a_damaged_transaction_names_it() {
        let mut spec = spec();
        spec.transactions.pop();
        spec.transactions.push(Bytes::from_static(&[0x7f, 1, 2]));
        let error = spec.open().unwrap_err();
        assert!(matches!(error, BlockError::Transaction { index: TxIndex(2), .. }), "{error}");
    }

    #[test]
    fn an_outcomes_digest_is_that_of_what_travels() {
        let outcome: Result<WorkOutput, WorkFailure> = Ok(WorkOutput::Recovered(vec![Ok(Address::ZERO)]));
        let bytes = codec::encode("result", &outcome, codec::MAX_PAYLOAD_BYTES).unwrap();
        assert_eq!(outcome_digest(outcome.as_ref()).unwrap(), codec::payload_digest(&bytes));
    }
}
