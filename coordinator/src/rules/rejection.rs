//! The reasons to reject a block: one vocabulary for rules, validation and requests.

use alloy_primitives::Address;
use common::id::TxIndex;

/// Why a block is rejected. The state does not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A transaction cannot be part of the block.
    #[error("transaction {index}: {reason}")]
    Transaction {
        /// The transaction's index in the block, from 0.
        index: TxIndex,
        /// The rule that the transaction breaks.
        reason: String,
    },
    /// A header field differs from the result of execution.
    #[error("header field {field} is {header}, execution gives {executed}")]
    Header {
        /// The name of the field, as in a header's JSON.
        field: &'static str,
        /// The value in the header.
        header: String,
        /// The value from execution.
        executed: String,
    },
    /// A system contract has no code, but every block of the fork must call it for requests.
    #[error(
        "system contract {address} has no code, and without it no block of this fork is valid ({eip}); \
         a genesis of this fork must deploy it"
    )]
    SystemContractEmpty {
        /// The address at which the fork expects the contract.
        address: Address,
        /// The EIP with this rule.
        eip: &'static str,
    },
    /// A system contract failed, but every block of the fork must call it for requests.
    #[error("the system call to {address} fails: {reason} ({eip})")]
    SystemCallFailed {
        /// The address of the contract that was called.
        address: Address,
        /// The EIP with this rule.
        eip: &'static str,
        /// The reason of the failure: reverted, halted, or out of gas.
        reason: String,
    },
    /// The deposit contract emitted an event of another layout.
    #[error("transaction {index}: log {log} is no well-formed deposit event: {reason} (EIP-6110)")]
    DepositEvent {
        /// The transaction that emitted it.
        index: TxIndex,
        /// The event's position among the transaction's logs.
        log: u32,
        /// The error in its layout.
        reason: String,
    },
    /// The block as a whole breaks a rule.
    #[error("{field}: {reason}")]
    Block {
        /// The part of the block that breaks the rule.
        field: &'static str,
        /// The rule that is broken, with the values.
        reason: String,
    },
}
