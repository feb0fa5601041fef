"""Headers that are wrong in one field, and withdrawals that the header does not know."""

from __future__ import annotations

from ..forks import NAMES
from .subject import WITHDRAWALS, Mutation, NotApplicable, Subject, add, mutation


def _flip(subject: Subject, name: str) -> None:
    value = bytearray(subject.get(name))
    value[-1] ^= 1
    subject.put(name, bytes(value))


def _register_fields() -> None:
    """A mutation for each field of the header that something else determines."""

    def flipped(name: str) -> Mutation:
        return lambda subject: _flip(subject, name)

    def added(name: str, difference: int) -> Mutation:
        def change(subject: Subject) -> None:
            if int.from_bytes(subject.get(name), "big") + difference < 0:
                raise NotApplicable
            subject.add(name, difference)

        return change

    hashes = {name: "frontier" for name in ("parent_hash", "ommers_hash", "state_root")}
    hashes |= {name: "frontier" for name in ("transactions_root", "receipt_root", "bloom")}
    hashes |= {"withdrawals_root": "shanghai", "requests_hash": "prague"}
    for name, since in hashes.items():
        add(f"{name}_wrong", NAMES.index(since), len(NAMES), flipped(name))
    numbers = {"number": "frontier", "gas_used": "frontier", "difficulty": "frontier"}
    numbers |= {"base_fee_per_gas": "london", "blob_gas_used": "cancun", "excess_blob_gas": "cancun"}
    for name, since in numbers.items():
        for difference, text in ((1, "one_too_high"), (-1, "one_too_low")):
            change = added(name, difference)
            add(f"{name}_{text}", NAMES.index(since), len(NAMES), change)


_register_fields()


@mutation()
def timestamp_of_the_parent(s: Subject) -> None:
    """A block must be later than its parent."""
    s.put("timestamp", int(s.parent.timestamp))


@mutation()
def timestamp_before_the_parent(s: Subject) -> None:
    """A block must be later than its parent."""
    s.put("timestamp", int(s.parent.timestamp) - 1)


@mutation()
def gas_limit_at_the_upper_bound(s: Subject) -> None:
    """The bound itself is too high."""
    s.put("gas_limit", int(s.parent.gas_limit) + int(s.parent.gas_limit) // 1024)


@mutation()
def gas_limit_at_the_lower_bound(s: Subject) -> None:
    """The bound itself is too low."""
    s.put("gas_limit", int(s.parent.gas_limit) - int(s.parent.gas_limit) // 1024)


@mutation()
def gas_used_above_the_limit(s: Subject) -> None:
    """No block uses more gas than its limit."""
    s.put("gas_used", int.from_bytes(s.get("gas_limit"), "big") + 1)


@mutation()
def extra_data_too_long(s: Subject) -> None:
    """33 bytes, one more than allowed."""
    s.put("extra_data", bytes(33))


@mutation()
def number_of_the_parent(s: Subject) -> None:
    """A block's number follows its parent's."""
    s.put("number", int(s.parent.number))


@mutation("paris")
def nonce_after_the_merge(s: Subject) -> None:
    """EIP-3675: the nonce is zero."""
    s.put("nonce", b"\0" * 7 + b"\1")


@mutation("paris")
def ommer_after_the_merge(s: Subject) -> None:
    """EIP-3675: there are no ommers."""
    s.ommers(s.parent)


@mutation("paris")
def hash_of_ommers_after_the_merge(s: Subject) -> None:
    """EIP-3675: the hash is that of the empty list, whatever the body has."""
    s.put("ommers_hash", bytes(32))


@mutation()
def bloom_full(s: Subject) -> None:
    """Every bit of the bloom set."""
    s.put("bloom", b"\xff" * 256)


@mutation("cancun")
def beacon_root_wrong(s: Subject) -> None:
    """EIP-4788 stores the root, so another one leads to another state."""
    _flip(s, "parent_beacon_block_root")


@mutation("cancun")
def blob_gas_of_one_blob_more(s: Subject) -> None:
    """EIP-4844: the blob gas is that of the transactions' blobs."""
    s.add("blob_gas_used", 131_072)


@mutation("cancun")
def excess_blob_gas_of_one_blob_more(s: Subject) -> None:
    """EIP-4844: the excess follows from the parent."""
    s.add("excess_blob_gas", 131_072)


@mutation("shanghai")
def withdrawal_added(s: Subject) -> None:
    """The header knows nothing of it."""
    s.block[WITHDRAWALS].append([b"\x63", b"\x01", b"\x71" * 20, b"\x01"])


@mutation("shanghai")
def withdrawal_removed(s: Subject) -> None:
    """The header knows of one more."""
    if not s.block[WITHDRAWALS]:
        raise NotApplicable
    s.block[WITHDRAWALS].pop()


@mutation("shanghai")
def withdrawals_missing(s: Subject) -> None:
    """The block has no list of withdrawals."""
    s.block.pop()


@mutation(until="paris")
def withdrawals_too_early(s: Subject) -> None:
    """An empty list of withdrawals before Shanghai."""
    s.block.append([])
