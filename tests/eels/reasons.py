"""Whether the binary refuses a block for the reason for which EELS does.

Both give a text. A row of the table says: if EELS's text matches the first pattern, the binary's text
must match the second one. The first row that applies counts. The binary checks a block's body
against its header before it executes anything, EELS afterwards; rows allow for that.
"""

from __future__ import annotations

import re

# What the binary says of an encoding that it cannot read.
_UNREADABLE = (
    r"cannot be decoded|bytes follow|is absent|is present|expected a JSON|inside entry|not valid RLP"
)
_BODY = r"header field (transactionsRoot|sha3Uncles|withdrawalsRoot)"
_FUNDS = r"lack of funds|overflow payment|cannot be decoded"
_GAS = r"gas cost .* exceeds the gas limit|gas floor .* exceeds|exceeds the .* left|more than the block"

_TABLE = tuple(
    (re.compile(eels, re.DOTALL), re.compile(binary, re.DOTALL))
    for eels, binary in (
        (r"cannot decode.*transactions", rf"{_UNREADABLE}|{_BODY}"),
        (r"DecodingError|RLPException|EncodingError", rf"{_UNREADABLE}|{_BODY}"),
        (r"parent_hash|parent_header_number|header\.number", r"has parent|number|does not descend|parent"),
        (r"ommers_hash != EMPTY|ommers_hash", r"sha3Uncles|uncles"),
        (r"validate_ommers", r"uncles"),
        (r"header\.timestamp", r"timestamp"),
        (r"check_gas_limit", r"gasLimit"),
        (r"gas_used > header\.gas_limit", r"gasUsed"),
        (r"extra_data", r"extraData"),
        (r"header\.difficulty", r"difficulty|has parent"),
        (r"header\.nonce", r"nonce"),
        (r"base_fee_per_gas != header|header\.base_fee_per_gas", r"baseFeePerGas|has parent"),
        (r"header\.excess_blob_gas", r"excessBlobGas"),
        (r"header\.blob_gas_used", rf"blobGasUsed|{_BODY}"),
        (r"header\.transactions_root", r"transactionsRoot"),
        (r"header\.withdrawals_root", r"withdrawalsRoot"),
        (r"header\.receipt_root", r"receiptsRoot"),
        (r"header\.bloom", r"logsBloom"),
        (r"header\.requests_hash", r"requestsHash"),
        (r"header\.state_root", rf"stateRoot|{_BODY}"),
        (r"InvalidBlock: \d+ != \d+", rf"gasUsed|{_BODY}"),
        (r"NonceOverflow", r"nonce"),
        (r"nonce too (low|high)", r"nonce"),
        (r"InsufficientBalance", _FUNDS),
        (r"InvalidSignature", r"signature|recover|chain id|chain ID|cannot be decoded"),
        (r"InvalidSenderError", r"from (sender|contract|senders) with deployed code|code"),
        (r"InsufficientTransactionGas", _GAS),
        (r"InitCodeTooLarge", r"create initcode size limit"),
        (r"GasUsedExceedsLimit", r"left in the block|gas limit|caller gas limit"),
        (r"TransactionGasLimitExceeded", r"gas limit.*cap|cap|exceeds"),
        (r"InsufficientMaxFeePerBlobGas", r"blob gas price"),
        (r"InsufficientMaxFeePerGas|tx\.gas_price < block_env", r"less than basefee"),
        (r"PriorityFeeGreater", r"priority fee is greater"),
        (r"NoBlobData", r"empty blobs"),
        (r"BlobCountExceeded", r"too many blobs"),
        (r"BlobGasLimitExceeded", r"blob gas|too many blobs|blobGasUsed"),
        (r"InvalidBlobVersionedHash", r"blob version"),
        (r"TransactionTypeContractCreation|no target", r"create|cannot be decoded"),
        (r"EmptyAuthorizationList", r"empty authorization list"),
        (
            r"TransactionTypeError",
            r"not supported|cannot be decoded|blob gas .* exceeds|is active",
        ),
        (r"System contract .* does not contain code", r"[Ss]ystem contract|no code|code"),
        (r"System contract .* call failed", r"[Ss]ystem c|failed"),
        (r"deposit", r"deposit"),
        (r"Block rlp size", r"bytes long"),
        (r"FORK_CRITERIA|dao-hard-fork", r"extraData|EIP-779|dao"),
    )
)


# EELS takes a block's parent by number, and may so come to another fault of a misplaced block first.
_OF_A_HEADER = re.compile(r"in (validate_header|calculate_base_fee_per_gas)")
_MISPLACED = re.compile(r"has parent 0x")


def agree(eels: str, binary: str) -> bool:
    """Whether both texts name the same rule."""
    if _OF_A_HEADER.search(eels) and _MISPLACED.search(binary):
        return True
    for left, right in _TABLE:
        if left.search(eels):
            return right.search(binary) is not None
    return False
