//! Why a block is refused: one vocabulary for rules, validation and requests.

use alloy_primitives::Address;
use common::id::TxIndex;

/// Why a block is refused. The state does not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// One of its transactions cannot be part of it.
    #[error("transaction {index}: {reason}")]
    Transaction {
        /// Which one.
        index: TxIndex,
        /// Why not.
        reason: String,
    },
    /// Its header promises something else than execution gives.
    #[error("header field {field} is {header}, execution gives {executed}")]
    Header {
        /// Which field.
        field: &'static str,
        /// What the header says.
        header: String,
        /// What execution gives.
        executed: String,
    },
    /// A system contract that every block of the fork calls for requests has no code.
    #[error(
        "system contract {address} has no code, and without it no block of this fork is valid ({eip}); \
         a genesis of this fork must deploy it"
    )]
    SystemContractEmpty {
        /// Which contract.
        address: Address,
        /// The rule.
        eip: &'static str,
    },
    /// A system contract that every block of the fork calls for requests fails.
    #[error("the system call to {address} fails: {reason} ({eip})")]
    SystemCallFailed {
        /// Which contract.
        address: Address,
        /// The rule.
        eip: &'static str,
        /// How it fails.
        reason: String,
    },
    /// The deposit contract has emitted an event of another layout.
    #[error("transaction {index}: log {log} is no well-formed deposit event: {reason} (EIP-6110)")]
    DepositEvent {
        /// The transaction that emits it.
        index: TxIndex,
        /// Its position among the transaction's logs.
        log: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule about the block as a whole is broken.
    #[error("{field}: {reason}")]
    Block {
        /// Which field of the block.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
