"""Blocks whose RLP is not as it must be."""

from __future__ import annotations

from ..transactions import ACCESS_LIST, plain
from .subject import HEADER, TRANSACTIONS, Raw, Subject, mutation


@mutation()
def header_with_a_field_more(s: Subject) -> None:
    """A field that no fork has there."""
    s.block[HEADER].append(b"\x01")


@mutation()
def header_with_a_field_less(s: Subject) -> None:
    """The last field is missing."""
    s.block[HEADER].pop()


@mutation()
def number_with_a_leading_zero(s: Subject) -> None:
    """RLP writes numbers without leading zeros."""
    s.put("gas_limit", b"\0" + s.get("gas_limit"))


@mutation()
def block_with_an_item_more(s: Subject) -> None:
    """Something follows the content of the block."""
    s.block.append(b"\x01")


@mutation()
def transaction_with_a_leading_zero(s: Subject) -> None:
    """RLP writes numbers without leading zeros."""
    item = plain(s.tx().item())
    item[2] = b"\0" + item[2]
    s.block[TRANSACTIONS].append(item)


@mutation()
def transaction_with_a_field_more(s: Subject) -> None:
    """A transaction has nine fields."""
    s.block[TRANSACTIONS].append([*plain(s.tx().item()), b""])


@mutation()
def transaction_with_a_recipient_of_19_bytes(s: Subject) -> None:
    """An address has 20 bytes."""
    s.block[TRANSACTIONS].append(plain(s.tx(to=b"\1" * 19).item()))


@mutation()
def length_written_long(s: Subject) -> None:
    """RLP writes a length in as few bytes as it needs."""
    extra = s.get("extra_data")
    s.put("extra_data", extra)
    long = Raw(bytes([0xB8, len(extra)]) + extra)
    s.block[HEADER][s.names.index("extra_data")] = long


@mutation("berlin")
def typed_transaction_with_trailing_bytes(s: Subject) -> None:
    """Something follows the content of a typed transaction."""
    s.transaction(s.tx(kind=ACCESS_LIST).item() + b"\x01")
