//! The rule that a rejected block breaks, as a kind that does not depend on the wording of messages.
//!
//! The engine gives its reasons in words, including revm's. A test checks the words that this module
//! searches for against each variant of revm's enumeration.

use common::block::BlockError;

use coordinator::execute::ExecuteError;
use coordinator::rules::Rejection;
use ledger::LedgerError;

/// The rule that a rejected block breaks. The kinds are in the order in which the rules are checked. So
/// a kind implies that the block, and the transaction with the fault, keep all rules of earlier kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// The bytes are not the encoding of a block.
    Encoding,
    /// The block's RLP is larger than the limit.
    Size,
    /// The parent is unknown, or the number does not follow the parent's.
    Parent,
    /// The transactions do not match the header's root.
    TransactionsRoot,
    /// The ommers do not match the header's hash.
    OmmersHash,
    /// The withdrawals do not match the header's root.
    WithdrawalsRoot,
    /// The number is not the parent's plus one.
    Number,
    /// The timestamp is not after the parent's.
    Timestamp,
    /// A field that the fork requires is absent, or a field is present before its fork.
    FieldsOfFork,
    /// Extra data is too long, or differs from the DAO fork's.
    ExtraData,
    /// The gas limit is outside its bounds.
    GasLimit,
    /// The header's gas used exceeds its gas limit.
    GasUsedAboveLimit,
    /// The difficulty differs from the formula, or is not zero after the Merge.
    Difficulty,
    /// The nonce is not zero after the Merge.
    Nonce,
    /// There are ommers after the Merge.
    OmmersAfterMerge,
    /// The base fee differs from the formula.
    BaseFee,
    /// The excess blob gas differs from the formula.
    ExcessBlobGas,
    /// The header's blob gas is above its limit, or not a multiple of the gas of a blob.
    BlobGasLimit,
    /// The encoding is larger than Osaka allows.
    EncodedSize,
    /// There are too many ommers.
    OmmerCount,
    /// An ommer was included before.
    OmmerRepeated,
    /// An ommer is an ancestor of the block.
    OmmerIsAncestor,
    /// An ommer's parent is not among the allowed ancestors.
    OmmerLineage,
    /// No sender can be recovered from a transaction's signature, or it names a chain before EIP-155.
    TxSignature,
    /// A transaction's gas limit exceeds the rest of the block's.
    TxGasRoom,
    /// A transaction's blobs exceed the rest of the block's.
    TxBlobRoom,
    /// A transaction is for another chain.
    TxChainId,
    /// A transaction's gas limit is above the cap of EIP-7825.
    TxGasCap,
    /// The fork does not have the transaction's type.
    TxType,
    /// A transaction's priority fee is above its maximum fee.
    TxPriorityFee,
    /// A transaction pays less than the base fee.
    TxFee,
    /// A transaction pays less than the price of blob gas.
    TxBlobFee,
    /// A blob transaction has no blobs.
    TxNoBlobs,
    /// A blob's hash has an unknown version.
    TxBlobVersion,
    /// A transaction has more blobs than a transaction may have.
    TxBlobCount,
    /// A blob transaction creates a contract.
    TxBlobCreate,
    /// The list of authorizations is empty or invalid.
    TxAuthorizations,
    /// A transaction's gas limit is above the block's.
    TxGasAboveBlock,
    /// A transaction's initcode is too long.
    TxInitcode,
    /// A transaction's nonce has the greatest value, so it cannot be increased.
    TxNonceMax,
    /// A transaction's gas limit is below its intrinsic gas.
    TxIntrinsicGas,
    /// A transaction's gas limit is below the floor of EIP-7623.
    TxFloorGas,
    /// A transaction's sender has code.
    TxSenderCode,
    /// A transaction's nonce is above its sender's.
    TxNonceHigh,
    /// A transaction's nonce is below its sender's.
    TxNonceLow,
    /// A transaction's sender cannot pay.
    TxFunds,
    /// A deposit's event is malformed.
    Deposits,
    /// A system contract is missing, or its call fails.
    SystemCall,
    /// The gas used differs from the result of execution.
    GasUsed,
    /// The receipts do not match the header's root.
    ReceiptsRoot,
    /// The logs do not match the header's bloom.
    LogsBloom,
    /// The blob gas used differs from the blobs of the transactions.
    BlobGasUsed,
    /// The requests do not match the header's hash.
    RequestsHash,
    /// The state does not match the header's root.
    StateRoot,
    /// A rule without a kind of its own.
    Other,
}

impl RefusalKind {
    /// The kind of a block's rejection.
    #[must_use]
    pub fn of(error: &ExecuteError) -> Self {
        match error {
            ExecuteError::Block(error) => Self::of_block(error),
            ExecuteError::Rejected(rejection) => Self::of_rejection(rejection),
            ExecuteError::Ledger(LedgerError::NotNext { .. } | LedgerError::UnknownParent { .. }) => {
                Self::Parent
            }
            _ => Self::Other,
        }
    }

    /// The kind of an error in the block by itself.
    #[must_use]
    pub fn of_block(error: &BlockError) -> Self {
        match error {
            BlockError::Rlp(_) | BlockError::Transaction { .. } => Self::Encoding,
            BlockError::Size(_) => Self::Size,
            BlockError::Mismatch { field: "transactionsRoot", .. } => Self::TransactionsRoot,
            BlockError::Mismatch { field: "sha3Uncles", .. } => Self::OmmersHash,
            BlockError::Mismatch { field: "withdrawalsRoot", .. } => Self::WithdrawalsRoot,
            BlockError::Mismatch { .. } => Self::Other,
        }
    }

    /// Whether the kind concerns a root of the block's content.
    #[must_use]
    pub fn is_of_content(self) -> bool {
        matches!(self, Self::TransactionsRoot | Self::OmmersHash | Self::WithdrawalsRoot)
    }

    /// Whether the kind concerns one transaction of the block.
    #[must_use]
    pub fn is_of_transaction(self) -> bool {
        (Self::TxSignature..=Self::TxFunds).contains(&self)
    }

    fn of_rejection(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Transaction { reason, .. } => Self::of_transaction(reason),
            Rejection::Header { field, .. } => match *field {
                "gasUsed" => Self::GasUsed,
                "receiptsRoot" => Self::ReceiptsRoot,
                "logsBloom" => Self::LogsBloom,
                "blobGasUsed" => Self::BlobGasUsed,
                "requestsHash" => Self::RequestsHash,
                "stateRoot" => Self::StateRoot,
                _ => Self::Other,
            },
            Rejection::Block { field: "uncles", reason } => Self::of_ommer(reason),
            Rejection::Block { field, reason } => Self::of_field(field, reason),
            Rejection::SystemContractEmpty { .. } | Rejection::SystemCallFailed { .. } => Self::SystemCall,
            Rejection::DepositEvent { .. } => Self::Deposits,
        }
    }

    /// The kind of a header rule: by the field and, if a field has several rules, by the message.
    fn of_field(field: &str, reason: &str) -> Self {
        if reason.starts_with("is present, but") || reason.starts_with("is absent, but") {
            return Self::FieldsOfFork;
        }
        match field {
            "parentHash" => Self::Parent,
            "number" => Self::Number,
            "timestamp" => Self::Timestamp,
            "extraData" => Self::ExtraData,
            "gasLimit" => Self::GasLimit,
            "gasUsed" => Self::GasUsedAboveLimit,
            "difficulty" => Self::Difficulty,
            "nonce" => Self::Nonce,
            "sha3Uncles" => Self::OmmersAfterMerge,
            "baseFeePerGas" => Self::BaseFee,
            "excessBlobGas" => Self::ExcessBlobGas,
            "blobGasUsed" => Self::BlobGasLimit,
            "block" => Self::EncodedSize,
            "receipts" | "deposits" => Self::Deposits,
            "system call" | "system contract" => Self::SystemCall,
            _ => Self::Other,
        }
    }

    /// The kind of an ommer's fault. The reason is `0xHASH FAULT`, or `0xHASH: FIELD FAULT` if the ommer's
    /// header breaks a rule of headers.
    fn of_ommer(reason: &str) -> Self {
        if reason.starts_with("there are") {
            return Self::OmmerCount;
        }
        if let Some((_, fault)) = reason.split_once(": ") {
            let (field, fault) = fault.split_once(' ').unwrap_or((fault, ""));
            return Self::of_field(field, fault);
        }
        match reason.split_once(' ').map_or(reason, |(_, fault)| fault) {
            "is included for the second time" => Self::OmmerRepeated,
            "is an ancestor of the block" => Self::OmmerIsAncestor,
            fault if fault.starts_with("does not descend") => Self::OmmerLineage,
            _ => Self::Other,
        }
    }

    /// The kind of a transaction's fault, by the words of the engine, of revm, and of the validator.
    fn of_transaction(reason: &str) -> Self {
        if let Some((_, kind)) = TRANSACTION_FAULTS.iter().find(|(words, _)| reason.starts_with(words)) {
            return *kind;
        }
        // "nonce 7 too high, expected 5"
        match reason.strip_prefix("nonce ").and_then(|rest| rest.split_once(' ')) {
            Some((_, rest)) if rest.starts_with("too high") => Self::TxNonceHigh,
            Some((_, rest)) if rest.starts_with("too low") => Self::TxNonceLow,
            _ => Self::Other,
        }
    }
}

/// The beginnings of the reasons for rejecting a transaction.
const TRANSACTION_FAULTS: [(&str, RefusalKind); 34] = [
    ("the signature has no sender", RefusalKind::TxSignature),
    ("it names a chain id", RefusalKind::TxSignature),
    // The validator's own check before execution; "gas limit 1 exceeds the 0 left in the block".
    ("gas limit ", RefusalKind::TxGasRoom),
    ("blob gas price (", RefusalKind::TxBlobFee),
    ("blob gas ", RefusalKind::TxBlobRoom),
    ("invalid chain ID", RefusalKind::TxChainId),
    ("missing chain ID", RefusalKind::TxChainId),
    ("transaction gas limit (", RefusalKind::TxGasCap),
    ("Eip2930 is not supported", RefusalKind::TxType),
    ("Eip1559 is not supported", RefusalKind::TxType),
    ("Eip4844 is not supported", RefusalKind::TxType),
    ("Eip7702 is not supported", RefusalKind::TxType),
    ("Eip7873 is not supported", RefusalKind::TxType),
    ("Eip7873 initcode transaction", RefusalKind::TxType),
    ("access list not supported", RefusalKind::TxType),
    ("max fee per blob gas not supported", RefusalKind::TxType),
    ("blob versioned hashes not supported", RefusalKind::TxType),
    ("authorization list not supported", RefusalKind::TxType),
    ("priority fee is greater than max fee", RefusalKind::TxPriorityFee),
    ("gas price is less than basefee", RefusalKind::TxFee),
    ("empty blobs", RefusalKind::TxNoBlobs),
    ("blob version not supported", RefusalKind::TxBlobVersion),
    ("too many blobs", RefusalKind::TxBlobCount),
    ("blob create transaction", RefusalKind::TxBlobCreate),
    ("empty authorization list", RefusalKind::TxAuthorizations),
    ("authorization list tx has invalid fields", RefusalKind::TxAuthorizations),
    ("caller gas limit exceeds the block gas limit", RefusalKind::TxGasAboveBlock),
    ("create initcode size limit", RefusalKind::TxInitcode),
    ("nonce overflow in transaction", RefusalKind::TxNonceMax),
    ("call gas cost (", RefusalKind::TxIntrinsicGas),
    ("gas floor (", RefusalKind::TxFloorGas),
    ("reject transactions from senders with deployed code", RefusalKind::TxSenderCode),
    ("lack of funds (", RefusalKind::TxFunds),
    ("overflow payment in transaction", RefusalKind::TxFunds),
];

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, U256};
    use common::id::{Height, TxIndex};
    use revm::context_interface::result::InvalidTransaction as Invalid;

    use super::*;

    /// Every variant of revm's enumeration with its kind. An unknown new variant fails to compile.
    fn kind_of(error: &Invalid) -> RefusalKind {
        use RefusalKind as Kind;
        match error {
            Invalid::PriorityFeeGreaterThanMaxFee => Kind::TxPriorityFee,
            Invalid::GasPriceLessThanBasefee => Kind::TxFee,
            Invalid::CallerGasLimitMoreThanBlock => Kind::TxGasAboveBlock,
            Invalid::CallGasCostMoreThanGasLimit { .. } => Kind::TxIntrinsicGas,
            Invalid::GasFloorMoreThanGasLimit { .. } => Kind::TxFloorGas,
            Invalid::RejectCallerWithCode => Kind::TxSenderCode,
            Invalid::LackOfFundForMaxFee { .. } | Invalid::OverflowPaymentInTransaction => Kind::TxFunds,
            Invalid::NonceOverflowInTransaction => Kind::TxNonceMax,
            Invalid::NonceTooHigh { .. } => Kind::TxNonceHigh,
            Invalid::NonceTooLow { .. } => Kind::TxNonceLow,
            Invalid::CreateInitCodeSizeLimit => Kind::TxInitcode,
            Invalid::InvalidChainId | Invalid::MissingChainId => Kind::TxChainId,
            Invalid::TxGasLimitGreaterThanCap { .. } => Kind::TxGasCap,
            Invalid::AccessListNotSupported
            | Invalid::MaxFeePerBlobGasNotSupported
            | Invalid::BlobVersionedHashesNotSupported
            | Invalid::AuthorizationListNotSupported
            | Invalid::Eip2930NotSupported
            | Invalid::Eip1559NotSupported
            | Invalid::Eip4844NotSupported
            | Invalid::Eip7702NotSupported
            | Invalid::Eip7873NotSupported
            | Invalid::Eip7873MissingTarget => Kind::TxType,
            Invalid::BlobGasPriceGreaterThanMax { .. } => Kind::TxBlobFee,
            Invalid::EmptyBlobs => Kind::TxNoBlobs,
            Invalid::BlobCreateTransaction => Kind::TxBlobCreate,
            Invalid::TooManyBlobs { .. } => Kind::TxBlobCount,
            Invalid::BlobVersionNotSupported => Kind::TxBlobVersion,
            Invalid::AuthorizationListInvalidFields | Invalid::EmptyAuthorizationList => {
                Kind::TxAuthorizations
            }
            Invalid::Str(_) => Kind::Other,
        }
    }

    #[test]
    fn the_words_of_every_fault_that_revm_knows_are_recognised() {
        let amount = || Box::new(U256::from(7));
        let faults = [
            Invalid::PriorityFeeGreaterThanMaxFee,
            Invalid::GasPriceLessThanBasefee,
            Invalid::CallerGasLimitMoreThanBlock,
            Invalid::CallGasCostMoreThanGasLimit { initial_gas: 2, gas_limit: 1 },
            Invalid::GasFloorMoreThanGasLimit { gas_floor: 2, gas_limit: 1 },
            Invalid::RejectCallerWithCode,
            Invalid::LackOfFundForMaxFee { fee: amount(), balance: amount() },
            Invalid::OverflowPaymentInTransaction,
            Invalid::NonceOverflowInTransaction,
            Invalid::NonceTooHigh { tx: 2, state: 1 },
            Invalid::NonceTooLow { tx: 1, state: 2 },
            Invalid::CreateInitCodeSizeLimit,
            Invalid::InvalidChainId,
            Invalid::MissingChainId,
            Invalid::TxGasLimitGreaterThanCap { gas_limit: 2, cap: 1 },
            Invalid::AccessListNotSupported,
            Invalid::MaxFeePerBlobGasNotSupported,
            Invalid::BlobVersionedHashesNotSupported,
            Invalid::BlobGasPriceGreaterThanMax { block_blob_gas_price: 2, tx_max_fee_per_blob_gas: 1 },
            Invalid::EmptyBlobs,
            Invalid::BlobCreateTransaction,
            Invalid::TooManyBlobs { max: 1, have: 2 },
            Invalid::BlobVersionNotSupported,
            Invalid::AuthorizationListNotSupported,
            Invalid::AuthorizationListInvalidFields,
            Invalid::EmptyAuthorizationList,
            Invalid::Eip2930NotSupported,
            Invalid::Eip1559NotSupported,
            Invalid::Eip4844NotSupported,
            Invalid::Eip7702NotSupported,
            Invalid::Eip7873NotSupported,
            Invalid::Eip7873MissingTarget,
            Invalid::Str("something new".into()),
        ];
        for fault in faults {
            assert_eq!(RefusalKind::of_transaction(&fault.to_string()), kind_of(&fault), "{fault}");
        }
    }

    #[test]
    fn the_words_of_the_engine_and_the_validator_are_recognised() {
        for (reason, kind) in [
            ("the signature has no sender: wrong", RefusalKind::TxSignature),
            ("it names a chain id, which this fork does not know (EIP-155)", RefusalKind::TxSignature),
            ("gas limit 9 exceeds the 8 left in the block", RefusalKind::TxGasRoom),
            ("gas limit 9 exceeds the 8 of state gas left in the block", RefusalKind::TxGasRoom),
            ("blob gas 9 exceeds the 8 left in the block", RefusalKind::TxBlobRoom),
        ] {
            let rejection = Rejection::Transaction { index: TxIndex(0), reason: reason.into() };
            assert_eq!(RefusalKind::of(&rejection.into()), kind, "{reason}");
        }
    }

    #[test]
    fn a_parent_that_is_missing_is_a_fault_of_the_parent() {
        let (number, hash, parent) = (1, B256::ZERO, B256::ZERO);
        let error: ExecuteError = LedgerError::UnknownParent { number, hash, parent, head: Height(0) }.into();
        assert_eq!(RefusalKind::of(&error), RefusalKind::Parent);
    }

    #[test]
    fn an_ommer_with_a_wrong_header_has_the_kind_of_the_header_rule() {
        for (reason, kind) in [
            ("there are 3, at most 2 are allowed", RefusalKind::OmmerCount),
            ("0xab is included for the second time", RefusalKind::OmmerRepeated),
            ("0xab is an ancestor of the block", RefusalKind::OmmerIsAncestor),
            ("0xab does not descend from the block's second to seventh ancestor", RefusalKind::OmmerLineage),
            ("0xab: difficulty is 7, must be 8 (proof of work)", RefusalKind::Difficulty),
            (
                "0xab: baseFeePerGas is present, but the block's fork does not have it",
                RefusalKind::FieldsOfFork,
            ),
            ("0xab has a beard", RefusalKind::Other),
        ] {
            assert_eq!(RefusalKind::of_ommer(reason), kind, "{reason}");
        }
    }
}
