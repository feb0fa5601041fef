//! The suites' expected exceptions, and the kinds of rejection that each class of exception allows.
//!
//! A class allows several kinds if clients legitimately differ: one fault can break several rules, and
//! the order of the checks decides which one is named. Some classes are also broad. Unknown names are
//! not compared. [`CLASSES`] contains the names of execution-spec-tests and of the newer
//! `ethereum/tests`, [`FORMER_NAMES`] those of the older ones.

use clap::ValueEnum;

use super::refusal::RefusalKind as Kind;

/// The consequence if a block is rejected for another reason than the suite expects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CompareReasons {
    /// The case fails
    #[default]
    Strict,
    /// The difference is counted and shown
    Report,
    /// Reasons are not compared
    Off,
}

/// The comparison of one rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The block was rejected for the expected reason.
    Same,
    /// The block was rejected for another reason, so the expected fault was not detected.
    Another,
    /// The reasons cannot be compared. The text is the cause.
    NotCompared(String),
}

/// Compares the kind of a rejection with the classes that the suite expects, which are separated by
/// `|`.
#[must_use]
pub fn compare_reason(expected: &str, found: Kind) -> Comparison {
    let classes: Vec<Option<&[Kind]>> =
        names(expected).split('|').map(|name| kinds_of(name.trim())).collect();
    let known = || classes.iter().flatten().copied().flatten().copied();
    if known().any(|kind| kind == found) {
        return Comparison::Same;
    }
    if classes.contains(&None) {
        return Comparison::NotCompared("the class is not known".into());
    }
    if found == Kind::Other {
        return Comparison::NotCompared("the refusal's kind is not known".into());
    }
    // A transaction may have several faults. Only the first one found is named, and the order of checks is
    // free. A fault that is checked later may exist too; one that is checked earlier does not.
    if found.is_of_transaction() && known().any(|kind| kind.is_of_transaction() && kind > found) {
        return Comparison::NotCompared("the transaction has a fault that is looked for earlier".into());
    }
    Comparison::Another
}

fn names(expected: &str) -> &str {
    FORMER_CHOICES.iter().find(|(name, _)| *name == expected).map_or(expected, |(_, names)| names)
}

fn kinds_of(name: &str) -> Option<&'static [Kind]> {
    let name = FORMER_NAMES.iter().find(|(former, _)| *former == name).map_or(name, |(_, name)| *name);
    if let Some((_, kinds)) = CLASSES.iter().find(|(class, _)| *class == name) {
        return Some(kinds);
    }
    // The older suite has about a hundred names, one for each field that cannot be decoded.
    let encoding = name.starts_with("RLP_") || name.starts_with("TransactionException.RLP_");
    encoding.then_some(ENCODING)
}

/// Bytes that are not a block. Later forks added fields at the end of headers, so a header with a field
/// too many or too few may still be decoded.
const ENCODING: &[Kind] = &[Kind::Encoding, Kind::Size, Kind::FieldsOfFork, Kind::WithdrawalsRoot];

/// A field of a transaction that cannot be decoded.
const TX_ENCODING: &[Kind] = &[Kind::Encoding];

/// A header with the form of another fork, or on the wrong side of the Merge. The class names the fork
/// that the header seems to belong to; the first rule that the header breaks decides the kind.
const ANOTHER_FORK: &[Kind] = &[
    Kind::Encoding,
    Kind::WithdrawalsRoot,
    Kind::FieldsOfFork,
    Kind::GasLimit,
    Kind::Difficulty,
    Kind::Nonce,
    Kind::OmmersAfterMerge,
    Kind::BaseFee,
];

/// Too many blobs: in the transaction, in the block by its transactions, or in the block by its header.
/// The header counts them too and is checked first.
const TOO_MANY_BLOBS: &[Kind] = &[Kind::BlobGasLimit, Kind::TxBlobRoom, Kind::TxBlobCount];

/// A blob transaction before Cancun. Such a block has no room for blobs, which is checked first.
const BLOBS_BEFORE_FORK: &[Kind] =
    &[Kind::Encoding, Kind::FieldsOfFork, Kind::BlobGasLimit, Kind::TxBlobRoom, Kind::TxType];

/// The kinds for a gas limit that covers neither the intrinsic nor the floor gas. The suites name
/// either fault.
const LITTLE_GAS: &[Kind] = &[Kind::TxIntrinsicGas, Kind::TxFloorGas];

/// More gas than the block or EIP-7825 allows. If a limit exceeds both, either may be named.
const MUCH_GAS: &[Kind] = &[Kind::TxGasRoom, Kind::TxGasCap, Kind::TxGasAboveBlock];

/// A signature without a sender. A value of v that no signature has cannot be decoded.
const SIGNATURE: &[Kind] = &[Kind::Encoding, Kind::TxSignature, Kind::TxChainId];

/// An ommer that the block must not have. An ommer that is an ancestor, or that was included before,
/// also has a parent that is not allowed.
const NO_OMMER: &[Kind] = &[Kind::OmmerRepeated, Kind::OmmerIsAncestor, Kind::OmmerLineage];

/// The kinds that each class allows.
const CLASSES: &[(&str, &[Kind])] = &[
    // Blocks: position and header.
    // The unknown parent may be an ommer's.
    ("BlockException.UNKNOWN_PARENT", &[Kind::Parent, Kind::OmmerLineage]),
    ("BlockException.UNKNOWN_PARENT_ZERO", &[Kind::Parent, Kind::OmmerLineage]),
    ("BlockException.INVALID_BLOCK_NUMBER", &[Kind::Number, Kind::Parent, Kind::Encoding]),
    ("BlockException.INVALID_BLOCK_TIMESTAMP_OLDER_THAN_PARENT", &[Kind::Timestamp]),
    ("BlockException.EXTRA_DATA_TOO_BIG", &[Kind::ExtraData]),
    ("BlockException.EXTRA_DATA_INVALID_DAO", &[Kind::ExtraData]),
    ("BlockException.GASLIMIT_TOO_BIG", &[Kind::GasLimit, Kind::Encoding]),
    ("BlockException.INVALID_GASLIMIT", &[Kind::GasLimit]),
    ("BlockException.INVALID_GAS_USED_ABOVE_LIMIT", &[Kind::GasUsedAboveLimit]),
    ("BlockException.INVALID_DIFFICULTY", &[Kind::Difficulty]),
    ("BlockException.INVALID_BASEFEE_PER_GAS", &[Kind::BaseFee]),
    ("BlockException.INCORRECT_EXCESS_BLOB_GAS", &[Kind::ExcessBlobGas, Kind::FieldsOfFork, Kind::Encoding]),
    ("BlockException.INCORRECT_BLOB_GAS_USED", &[Kind::BlobGasLimit, Kind::BlobGasUsed]),
    (
        "BlockException.BLOB_GAS_USED_ABOVE_LIMIT",
        &[Kind::BlobGasLimit, Kind::TxBlobRoom, Kind::TxBlobCount, Kind::BlobGasUsed],
    ),
    // Blocks: content.
    ("BlockException.INVALID_TRANSACTIONS_ROOT", &[Kind::TransactionsRoot]),
    ("BlockException.INVALID_UNCLES_HASH", &[Kind::OmmersHash, Kind::OmmersAfterMerge]),
    ("BlockException.INVALID_WITHDRAWALS_ROOT", &[Kind::WithdrawalsRoot]),
    (
        "BlockException.INCORRECT_BLOCK_FORMAT",
        &[
            Kind::Encoding,
            Kind::Size,
            Kind::WithdrawalsRoot,
            Kind::FieldsOfFork,
            Kind::ExcessBlobGas,
            Kind::BlobGasLimit,
        ],
    ),
    ("BlockException.RLP_STRUCTURES_ENCODING", ENCODING),
    ("BlockException.RLP_WITHDRAWALS_NOT_READ", ENCODING),
    ("BlockException.RLP_INVALID_FIELD_OVERFLOW_64", ENCODING),
    ("BlockException.RLP_INVALID_ADDRESS", ENCODING),
    ("BlockException.RLP_BLOCK_LIMIT_EXCEEDED", &[Kind::Size, Kind::EncodedSize]),
    ("BlockException.TOO_MANY_UNCLES", &[Kind::OmmerCount]),
    ("BlockException.UNCLE_IN_CHAIN", NO_OMMER),
    ("BlockException.UNCLE_IS_ANCESTOR", NO_OMMER),
    ("BlockException.UNCLE_IS_BROTHER", NO_OMMER),
    ("BlockException.UNCLE_PARENT_INCORRECT", NO_OMMER),
    ("BlockException.UNCLE_UNKNOWN_PARENT", NO_OMMER),
    // Blocks: results of execution.
    ("BlockException.GAS_USED_OVERFLOW", &[Kind::GasUsedAboveLimit, Kind::TxGasRoom, Kind::GasUsed]),
    ("BlockException.INVALID_GAS_USED", &[Kind::GasUsedAboveLimit, Kind::TxGasRoom, Kind::GasUsed]),
    ("BlockException.INVALID_RECEIPTS_ROOT", &[Kind::ReceiptsRoot]),
    ("BlockException.INVALID_LOG_BLOOM", &[Kind::LogsBloom]),
    ("BlockException.INVALID_STATE_ROOT", &[Kind::StateRoot]),
    ("BlockException.INVALID_REQUESTS", &[Kind::RequestsHash, Kind::FieldsOfFork]),
    ("BlockException.INVALID_DEPOSIT_EVENT_LAYOUT", &[Kind::Deposits]),
    ("BlockException.SYSTEM_CONTRACT_EMPTY", &[Kind::SystemCall]),
    ("BlockException.SYSTEM_CONTRACT_CALL_FAILED", &[Kind::SystemCall]),
    // Blocks: made for another fork than the chain's.
    ("BlockException.IMPORT_IMPOSSIBLE_LEGACY", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_LEGACY_WRONG_PARENT", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_LONDON_WRONG_PARENT", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_LONDON_OVER_PARIS", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_PARIS_WRONG_POW", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_PARIS_WRONG_POS", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_PARIS_OVER_SHANGHAI", ANOTHER_FORK),
    ("BlockException.IMPORT_IMPOSSIBLE_SHANGHAI", ANOTHER_FORK),
    // Such a block also has a difficulty or a wrong ommers hash, and both are checked first.
    (
        "BlockException.IMPORT_IMPOSSIBLE_UNCLES_OVER_PARIS",
        &[Kind::OmmersHash, Kind::Difficulty, Kind::OmmersAfterMerge],
    ),
    ("BlockException.IMPORT_IMPOSSIBLE_DIFFICULTY_OVER_PARIS", &[Kind::Difficulty]),
    // Transactions: encoding and signature.
    ("TransactionException.ADDRESS_TOO_SHORT", TX_ENCODING),
    ("TransactionException.ADDRESS_TOO_LONG", TX_ENCODING),
    ("TransactionException.NONCE_OVERFLOW", TX_ENCODING),
    ("TransactionException.GASLIMIT_OVERFLOW", TX_ENCODING),
    ("TransactionException.VALUE_OVERFLOW", TX_ENCODING),
    ("TransactionException.GASPRICE_OVERFLOW", TX_ENCODING),
    ("TransactionException.PRIORITY_OVERFLOW", TX_ENCODING),
    // A price above 2¹²⁸ cannot be decoded here, and no balance could pay it.
    ("TransactionException.GASLIMIT_PRICE_PRODUCT_OVERFLOW", &[Kind::Encoding, Kind::TxFunds]),
    ("TransactionException.RLP_INVALID_SIGNATURE_R", SIGNATURE),
    ("TransactionException.RLP_INVALID_SIGNATURE_S", SIGNATURE),
    ("TransactionException.INVALID_SIGNATURE_VRS", SIGNATURE),
    ("TransactionException.EC_RECOVERY_FAIL", SIGNATURE),
    ("TransactionException.INVALID_CHAINID", SIGNATURE),
    // Transactions: types.
    ("TransactionException.TYPE_NOT_SUPPORTED", BLOBS_BEFORE_FORK),
    ("TransactionException.TYPE_1_TX_PRE_FORK", &[Kind::TxType]),
    ("TransactionException.TYPE_2_TX_PRE_FORK", &[Kind::TxType]),
    ("TransactionException.TYPE_3_TX_PRE_FORK", BLOBS_BEFORE_FORK),
    ("TransactionException.TYPE_3_TX_ZERO_BLOBS_PRE_FORK", BLOBS_BEFORE_FORK),
    ("TransactionException.TYPE_4_TX_PRE_FORK", &[Kind::TxType]),
    ("TransactionException.TYPE_3_TX_WITH_FULL_BLOBS", TX_ENCODING),
    ("TransactionException.TYPE_3_TX_CONTRACT_CREATION", &[Kind::Encoding, Kind::TxBlobCreate]),
    ("TransactionException.TYPE_3_TX_ZERO_BLOBS", &[Kind::TxNoBlobs]),
    ("TransactionException.TYPE_3_TX_INVALID_BLOB_VERSIONED_HASH", &[Kind::TxBlobVersion]),
    ("TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED", TOO_MANY_BLOBS),
    ("TransactionException.TYPE_3_TX_MAX_BLOB_GAS_ALLOWANCE_EXCEEDED", TOO_MANY_BLOBS),
    ("TransactionException.TYPE_4_TX_CONTRACT_CREATION", TX_ENCODING),
    ("TransactionException.TYPE_4_EMPTY_AUTHORIZATION_LIST", &[Kind::TxAuthorizations]),
    ("TransactionException.TYPE_4_INVALID_AUTHORIZATION_FORMAT", &[Kind::Encoding, Kind::TxAuthorizations]),
    ("TransactionException.TYPE_4_INVALID_AUTHORITY_SIGNATURE", &[Kind::Encoding, Kind::TxAuthorizations]),
    (
        "TransactionException.TYPE_4_INVALID_AUTHORITY_SIGNATURE_S_TOO_HIGH",
        &[Kind::Encoding, Kind::TxAuthorizations],
    ),
    // Transactions: fees and gas.
    ("TransactionException.PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS", &[Kind::TxPriorityFee]),
    ("TransactionException.PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS_2", &[Kind::TxPriorityFee]),
    ("TransactionException.INSUFFICIENT_MAX_FEE_PER_GAS", &[Kind::TxFee]),
    ("TransactionException.INSUFFICIENT_MAX_FEE_PER_BLOB_GAS", &[Kind::TxBlobFee]),
    ("TransactionException.GAS_ALLOWANCE_EXCEEDED", MUCH_GAS),
    ("TransactionException.GAS_LIMIT_EXCEEDS_MAXIMUM", MUCH_GAS),
    ("TransactionException.INTRINSIC_GAS_TOO_LOW", LITTLE_GAS),
    ("TransactionException.INTRINSIC_GAS_BELOW_FLOOR_GAS_COST", LITTLE_GAS),
    ("TransactionException.INITCODE_SIZE_EXCEEDED", &[Kind::TxInitcode]),
    // Transactions: the sender.
    ("TransactionException.SENDER_NOT_EOA", &[Kind::TxSenderCode]),
    // The sender's nonce decides which of these applies, and the class leaves it open.
    ("TransactionException.NONCE_IS_MAX", &[Kind::TxNonceMax, Kind::TxNonceHigh]),
    ("TransactionException.NONCE_TOO_BIG", &[Kind::TxNonceMax, Kind::TxNonceHigh]),
    ("TransactionException.NONCE_MISMATCH_TOO_HIGH", &[Kind::TxNonceMax, Kind::TxNonceHigh]),
    ("TransactionException.NONCE_MISMATCH_TOO_LOW", &[Kind::TxNonceLow]),
    ("TransactionException.INSUFFICIENT_ACCOUNT_FUNDS", &[Kind::TxFunds]),
];

/// The names of the older suite, with their current names. Names that begin with `RLP_` are not
/// included: see [`kinds_of`].
const FORMER_NAMES: &[(&str, &str)] = &[
    ("UnknownParent", "BlockException.UNKNOWN_PARENT"),
    ("UnknownParent2", "BlockException.UNKNOWN_PARENT"),
    ("InvalidNumber", "BlockException.INVALID_BLOCK_NUMBER"),
    ("InvalidTimestampEqualParent", "BlockException.INVALID_BLOCK_TIMESTAMP_OLDER_THAN_PARENT"),
    ("InvalidTimestampOlderParent", "BlockException.INVALID_BLOCK_TIMESTAMP_OLDER_THAN_PARENT"),
    ("ExtraDataTooBig", "BlockException.EXTRA_DATA_TOO_BIG"),
    ("ExtraDataIncorrectDAO", "BlockException.EXTRA_DATA_INVALID_DAO"),
    ("InvalidDifficulty", "BlockException.INVALID_DIFFICULTY"),
    ("InvalidDifficulty2", "BlockException.INVALID_DIFFICULTY"),
    ("InvalidDifficulty_TooLarge", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("InvalidGasLimit", "BlockException.GASLIMIT_TOO_BIG"),
    ("InvalidGasLimit2", "BlockException.INVALID_GASLIMIT"),
    ("InvalidGasLimit3", "BlockException.GASLIMIT_TOO_BIG"),
    ("InvalidGasLimit4", "TransactionException.GASLIMIT_OVERFLOW"),
    ("InvalidGasLimit5", "TransactionException.RLP_INVALID_GASLIMIT"),
    ("1559BlockImportImpossible_TargetGasLow", "BlockException.INVALID_GASLIMIT"),
    ("1559BlockImportImpossible_TargetGasHigh", "BlockException.INVALID_GASLIMIT"),
    ("1559BlockImportImpossible_InitialGasLimitInvalid", "BlockException.INVALID_GASLIMIT"),
    ("1559BlockImportImpossible_BaseFeeWrong", "BlockException.INVALID_BASEFEE_PER_GAS"),
    ("1559BlockImportImpossible_InitialBaseFeeWrong", "BlockException.INVALID_BASEFEE_PER_GAS"),
    ("invalid excess blob gas", "BlockException.INCORRECT_EXCESS_BLOB_GAS"),
    ("invalid excessBlobGas", "BlockException.INCORRECT_EXCESS_BLOB_GAS"),
    ("invalid blob gas used", "BlockException.INCORRECT_BLOB_GAS_USED"),
    ("invalid pre fork blob fields", "BlockException.INCORRECT_BLOCK_FORMAT"),
    ("blob fields missing post fork", "BlockException.INCORRECT_BLOCK_FORMAT"),
    ("InvalidTransactionsRoot", "BlockException.INVALID_TRANSACTIONS_ROOT"),
    ("InvalidUnclesHash", "BlockException.INVALID_UNCLES_HASH"),
    ("InvalidWithdrawals", "BlockException.INVALID_WITHDRAWALS_ROOT"),
    ("TooManyUncles", "BlockException.TOO_MANY_UNCLES"),
    ("UncleInChain", "BlockException.UNCLE_IN_CHAIN"),
    ("UncleIsAncestor", "BlockException.UNCLE_IS_ANCESTOR"),
    ("UncleIsBrother", "BlockException.UNCLE_IS_BROTHER"),
    ("UncleParentIsNotAncestor", "BlockException.UNCLE_PARENT_INCORRECT"),
    ("InvalidUncleParentHash", "BlockException.UNCLE_UNKNOWN_PARENT"),
    ("InvalidGasUsed", "BlockException.INVALID_GAS_USED"),
    ("InvalidGasUsed2", "BlockException.INVALID_GAS_USED"),
    ("TooMuchGasUsed", "BlockException.GAS_USED_OVERFLOW"),
    ("TooMuchGasUsed2", "BlockException.GAS_USED_OVERFLOW"),
    ("InvalidReceiptsStateRoot", "BlockException.INVALID_RECEIPTS_ROOT"),
    ("InvalidLogBloom", "BlockException.INVALID_LOG_BLOOM"),
    ("InvalidStateRoot", "BlockException.INVALID_STATE_ROOT"),
    ("LegacyBlockImportImpossible", "BlockException.IMPORT_IMPOSSIBLE_LEGACY"),
    ("LegacyBlockImportImpossible2", "BlockException.IMPORT_IMPOSSIBLE_LEGACY_WRONG_PARENT"),
    ("1559BlockImportImpossible_HeaderIsLegacy", "BlockException.IMPORT_IMPOSSIBLE_LONDON_WRONG_PARENT"),
    ("MergeBlockImportImpossible", "BlockException.IMPORT_IMPOSSIBLE_PARIS_OVER_SHANGHAI"),
    ("ParisBlockImportImpossible", "BlockException.IMPORT_IMPOSSIBLE_PARIS_OVER_SHANGHAI"),
    ("ShanghaiBlockImportImpossible", "BlockException.IMPORT_IMPOSSIBLE_SHANGHAI"),
    ("3675PoWBlockRejected", "BlockException.IMPORT_IMPOSSIBLE_PARIS_WRONG_POW"),
    ("3675PoSBlockRejected", "BlockException.IMPORT_IMPOSSIBLE_PARIS_WRONG_POS"),
    ("3675PreMerge1559BlockRejected", "BlockException.IMPORT_IMPOSSIBLE_LONDON_OVER_PARIS"),
    ("3675PreParis1559BlockRejected", "BlockException.IMPORT_IMPOSSIBLE_LONDON_OVER_PARIS"),
    ("PostMergeUncleHashIsNotEmpty", "BlockException.IMPORT_IMPOSSIBLE_UNCLES_OVER_PARIS"),
    ("PostParisUncleHashIsNotEmpty", "BlockException.IMPORT_IMPOSSIBLE_UNCLES_OVER_PARIS"),
    ("PostMergeDifficultyIsNot0", "BlockException.IMPORT_IMPOSSIBLE_DIFFICULTY_OVER_PARIS"),
    ("PostParisDifficultyIsNot0", "BlockException.IMPORT_IMPOSSIBLE_DIFFICULTY_OVER_PARIS"),
    ("OVERSIZE_RLP", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("BLOCKHEADER_VALUE_TOOLARGE", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("TRANSACTION_VALUE_TOOLARGE", "TransactionException.VALUE_OVERFLOW"),
    ("TRANSACTION_VALUE_TOOSHORT", "TransactionException.VALUE_OVERFLOW"),
    ("INPUT_UNMARSHAL_ERROR", "BlockException.RLP_INVALID_FIELD_OVERFLOW_64"),
    ("INPUT_UNMARSHAL_ADDRESS_ERROR", "BlockException.RLP_INVALID_ADDRESS"),
    ("InvalidValue", "TransactionException.VALUE_OVERFLOW"),
    ("InvalidGasPrice", "TransactionException.GASPRICE_OVERFLOW"),
    ("InvalidMaxPriorityFeePerGas", "TransactionException.PRIORITY_OVERFLOW"),
    ("InvalidMaxFeePerGas", "TransactionException.GASPRICE_OVERFLOW"),
    ("1559BaseFeeTooLarge", "TransactionException.GASPRICE_OVERFLOW"),
    ("InvalidNonce", "TransactionException.RLP_INVALID_NONCE"),
    ("InvalidTo", "TransactionException.RLP_INVALID_TO"),
    ("InvalidData", "TransactionException.RLP_INVALID_DATA"),
    ("GasLimitPriceProductOverflow", "TransactionException.GASLIMIT_PRICE_PRODUCT_OVERFLOW"),
    ("LeadingZerosGasLimit", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosGasPrice", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosValue", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosNonce", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosR", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosS", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosV", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosDataSize", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("LeadingZerosNonceSize", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("1559LeadingZerosBaseFee", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("1559LeadingZerosPriorityFee", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("2930AccessListAddressTooLong", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("2930AccessListAddressTooShort", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("2930AccessListStorageHashTooLong", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("2930AccessListStorageHashTooShort", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("AddressTooShort", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("AddressTooLong", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("TR_TooShort", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("TR_BlobDecodeError", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("TR_RLP_WRONGVALUE", "BlockException.RLP_STRUCTURES_ENCODING"),
    ("InvalidTransactionVRS", "TransactionException.INVALID_SIGNATURE_VRS"),
    ("InvalidSignatureVRS", "TransactionException.INVALID_SIGNATURE_VRS"),
    ("InvalidChainID", "TransactionException.INVALID_CHAINID"),
    ("TR_TypeNotSupported", "TransactionException.TYPE_NOT_SUPPORTED"),
    ("TR_TypeNotSupportedBlob", "TransactionException.TYPE_3_TX_PRE_FORK"),
    ("tx type 3 not allowed pre-Cancun", "TransactionException.TYPE_3_TX_PRE_FORK"),
    ("LegacyBlockBaseFeeTransaction", "TransactionException.TYPE_2_TX_PRE_FORK"),
    ("TR_EMPTYBLOB", "TransactionException.TYPE_3_TX_ZERO_BLOBS"),
    ("zero blob tx", "TransactionException.TYPE_3_TX_ZERO_BLOBS"),
    ("TR_BLOBCREATE", "TransactionException.TYPE_3_TX_CONTRACT_CREATION"),
    ("TR_BLOBVERSION_INVALID", "TransactionException.TYPE_3_TX_INVALID_BLOB_VERSIONED_HASH"),
    ("invalid blob versioned hash", "TransactionException.TYPE_3_TX_INVALID_BLOB_VERSIONED_HASH"),
    ("TR_BLOBLIST_OVERSIZE", "TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED"),
    ("invalid_blob_count", "TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED"),
    ("too many blobs", "TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED"),
    ("too_many_blobs_tx", "TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED"),
    ("TR_TipGtFeeCap", "TransactionException.PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS"),
    ("1559PriorityFeeGreaterThanBaseFee", "TransactionException.PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS"),
    ("TR_FeeCapLessThanBlocks", "TransactionException.INSUFFICIENT_MAX_FEE_PER_GAS"),
    ("insufficient max fee per gas", "TransactionException.INSUFFICIENT_MAX_FEE_PER_GAS"),
    ("insufficient max fee per blob gas", "TransactionException.INSUFFICIENT_MAX_FEE_PER_BLOB_GAS"),
    ("invalid max fee per blob gas", "TransactionException.INSUFFICIENT_MAX_FEE_PER_BLOB_GAS"),
    ("TR_GasLimitReached", "TransactionException.GAS_ALLOWANCE_EXCEEDED"),
    ("TR_IntrinsicGas", "TransactionException.INTRINSIC_GAS_TOO_LOW"),
    ("IntrinsicGas", "TransactionException.INTRINSIC_GAS_TOO_LOW"),
    ("OutOfGas", "TransactionException.INTRINSIC_GAS_TOO_LOW"),
    ("TR_InitCodeLimitExceeded", "TransactionException.INITCODE_SIZE_EXCEEDED"),
    ("SenderNotEOA", "TransactionException.SENDER_NOT_EOA"),
    ("TR_NonceHasMaxValue", "TransactionException.NONCE_IS_MAX"),
    ("TR_NonceTooHigh", "TransactionException.NONCE_MISMATCH_TOO_HIGH"),
    ("TR_NonceTooLow", "TransactionException.NONCE_MISMATCH_TOO_LOW"),
    ("TR_NoFunds", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
    ("TR_NoFundsX", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
    ("TR_NoFundsValue", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
    ("Transaction without funds", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
    ("insufficient account balance", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
    ("insufficient_account_balance", "TransactionException.INSUFFICIENT_ACCOUNT_FUNDS"),
];

/// Names of the older suite that stand for two faults, either of which may be named.
const FORMER_CHOICES: &[(&str, &str)] = &[
    ("SenderNotEOAorNoCASH", "SenderNotEOA|TR_NoFunds"),
    ("TR_NoFundsOrGas", "TR_NoFunds|TR_IntrinsicGas"),
    ("TR_FeeCapLessThanBlocksORNoFunds", "TR_FeeCapLessThanBlocks|TR_NoFunds"),
    ("TR_FeeCapLessThanBlocksORGasLimitReached", "TR_FeeCapLessThanBlocks|TR_GasLimitReached"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_the_expected_reason_is_the_same_in_all_forms_of_the_name() {
        for (expected, found) in [
            ("TransactionException.INSUFFICIENT_ACCOUNT_FUNDS", Kind::TxFunds),
            ("TR_NoFunds", Kind::TxFunds),
            ("TR_NoFundsOrGas", Kind::TxIntrinsicGas),
            (
                "BlockException.RLP_STRUCTURES_ENCODING|TransactionException.TYPE_3_TX_CONTRACT_CREATION",
                Kind::Encoding,
            ),
            ("3675PoWBlockRejected", Kind::Difficulty),
            ("RLP_InputString_TooShort_HASH_DECODEINTO_BLOCK_EXTBLOCK_HEADER_ROOT", Kind::Encoding),
            ("BlockException.INVALID_STATE_ROOT", Kind::StateRoot),
        ] {
            assert_eq!(compare_reason(expected, found), Comparison::Same, "{expected}");
        }
    }

    #[test]
    fn a_refusal_that_contradicts_the_suite_is_told() {
        for (expected, found) in [
            // This fault is checked earlier and was not found.
            ("TransactionException.INTRINSIC_GAS_TOO_LOW", Kind::TxFunds),
            ("TR_TipGtFeeCap", Kind::TxFee),
            // The suite expects neither a fault of a transaction nor this fault of the block.
            ("BlockException.INVALID_STATE_ROOT", Kind::TxNonceLow),
            ("BlockException.INVALID_STATE_ROOT", Kind::ReceiptsRoot),
            ("TransactionException.SENDER_NOT_EOA", Kind::StateRoot),
            ("BlockException.SYSTEM_CONTRACT_CALL_FAILED", Kind::RequestsHash),
            ("InvalidDifficulty", Kind::Timestamp),
        ] {
            assert_eq!(compare_reason(expected, found), Comparison::Another, "{expected}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_held_against_the_system() {
        for (expected, found) in [
            ("no reason is given", Kind::StateRoot),
            ("BlockException.NOT_INVENTED_YET", Kind::StateRoot),
            ("BlockException.INVALID_STATE_ROOT|BlockException.NOT_INVENTED_YET", Kind::Number),
            ("BlockException.INVALID_STATE_ROOT", Kind::Other),
            // The sender may lack the funds too.
            ("TransactionException.INSUFFICIENT_ACCOUNT_FUNDS", Kind::TxIntrinsicGas),
        ] {
            let comparison = compare_reason(expected, found);
            assert!(matches!(comparison, Comparison::NotCompared(_)), "{expected}: {comparison:?}");
        }
    }

    #[test]
    fn every_former_name_stands_for_a_class_and_no_name_is_there_twice() {
        for (former, name) in FORMER_NAMES {
            assert!(kinds_of(name).is_some(), "{former}: {name}");
        }
        for (former, names) in FORMER_CHOICES {
            assert!(names.split('|').all(|name| kinds_of(name).is_some()), "{former}: {names}");
        }
        let names =
            || CLASSES.iter().map(|(name, _)| *name).chain(FORMER_NAMES.iter().map(|(name, _)| *name));
        for name in names() {
            assert_eq!(names().filter(|other| *other == name).count(), 1, "{name}");
        }
    }
}
