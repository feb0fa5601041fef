"""Makes a valid block invalid in exactly one way.

Each mutation is a function of a `Subject`: the chain before the block, the block as nested RLP lists,
and the chain after it. What a mutation gives is judged by EELS like any other block, so nothing
here has to know whether the result really is invalid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ethereum.crypto.hash import keccak256
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes
from ethereum_types.numeric import Uint

from .build import Built, decode_item
from .chain import Chain
from .forks import NAMES, Fork
from .random_blocks import next_base_fee, ommer_of
from .transactions import (
    ACCESS_LIST,
    BLOB,
    FEE_MARKET,
    SECP256K1N,
    SET_CODE,
    Account,
    Authorization,
    Tx,
    blob_hash,
    plain,
)

RICH = Account.named("sender 7")
HEADER, TRANSACTIONS, OMMERS, WITHDRAWALS = range(4)


@dataclass
class Subject:
    """A valid block that is about to be changed."""

    before: Chain
    after: Chain
    built: Built

    def __post_init__(self) -> None:
        self.fork: Fork = self.after.fork
        self.parent = self.before.head
        self.block: list[Any] = copy.deepcopy(rlp.decode(self.built.encoded))  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        """The names of the header's fields."""
        return list(self.built.block.header.__dataclass_fields__)

    def get(self, name: str) -> bytes:
        """A field of the header, encoded."""
        return bytes(self.block[HEADER][self.names.index(name)])

    def put(self, name: str, value: bytes | int) -> None:
        """Changes a field of the header."""
        encoded = value if isinstance(value, bytes) else bytes(Uint(value).to_be_bytes())
        self.block[HEADER][self.names.index(name)] = encoded

    def add(self, name: str, difference: int) -> None:
        """Adds to a number of the header."""
        self.put(name, int.from_bytes(self.get(name), "big") + difference)

    def transaction(self, item: Any) -> None:
        """Appends a transaction and corrects the root of the transactions."""
        self.block[TRANSACTIONS].append(plain(item))
        self.seal_transactions()

    def seal_transactions(self) -> None:
        """Corrects the root of the transactions, if the fork can decode them."""
        trie = self.fork.trie
        transactions = trie.Trie(False, None)
        for index, item in enumerate(self.block[TRANSACTIONS]):
            key = rlp.encode(Uint(index))
            content = Bytes(item) if isinstance(item, bytes) else decode_item(self.fork, item)
            trie.trie_set(transactions, key, content)
        self.put("transactions_root", bytes(trie.root(transactions)))

    def ommers(self, *headers: Any) -> None:
        """Replaces the ommers and corrects their hash."""
        encoded = rlp.encode(headers)
        self.block[OMMERS] = rlp.decode(encoded)
        self.put("ommers_hash", bytes(keccak256(encoded)))

    def tx(self, **fields: Any) -> Tx:
        """A valid transaction of a rich sender, which a mutation changes."""
        nonce = int(self.after.account(RICH.address).nonce)
        price = next_base_fee(self.before) + 10**9
        made = Tx(RICH, nonce=nonce, to=b"\x71" * 20, gas=100_000, price=price)
        return made.but(**fields)

    def affordable(self) -> Tx:
        """The same, if the sender has not spent too much before."""
        tx = self.tx()
        if int(self.after.account(RICH.address).balance) < tx.most:
            raise NotApplicable
        return tx


Mutation = Callable[[Subject], None]


@dataclass(frozen=True)
class _Named:
    name: str
    since: int
    until: int
    mutate: Mutation


_ALL: list[_Named] = []


def mutation(since: str = "frontier", until: str = "bpo2") -> Callable[[Mutation], Mutation]:
    """Registers a mutation for the forks from `since` to `until`, both included."""

    def register(mutate: Mutation) -> Mutation:
        first, last = NAMES.index(since), NAMES.index(until)
        _ALL.append(_Named(mutate.__name__, first, last, mutate))
        return mutate

    return register


def mutations(fork: Fork) -> list[str]:
    """The names of all mutations that make sense on a fork."""
    return [m.name for m in _ALL if m.since <= fork.position <= m.until]


def mutate(name: str, before: Chain, after: Chain, built: Built) -> bytes | None:
    """The changed block's encoding, or nothing if the block has nothing to change in that way."""
    subject = Subject(before, after, built)
    found = next(m for m in _ALL if m.name == name)
    try:
        found.mutate(subject)
    except NotApplicable:
        return None
    encoded = encode(subject.block)
    return None if encoded == built.encoded else encoded


class NotApplicable(Exception):
    """The block has nothing that the mutation could change."""


@dataclass(frozen=True)
class Raw:
    """RLP that is written as it is, to encode what no encoder would."""

    encoded: bytes


def encode(item: Any) -> bytes:
    """Encodes nested lists that may have raw pieces."""
    if isinstance(item, Raw):
        return item.encoded
    if isinstance(item, (list, tuple)):
        content = b"".join(encode(part) for part in item)
        if len(content) < 56:
            return bytes([0xC0 + len(content)]) + content
        length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
        return bytes([0xF7 + len(length)]) + length + content
    return rlp.encode(item)


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
        _ALL.append(_Named(f"{name}_wrong", NAMES.index(since), len(NAMES), flipped(name)))
    numbers = {"number": "frontier", "gas_used": "frontier", "difficulty": "frontier"}
    numbers |= {"base_fee_per_gas": "london", "blob_gas_used": "cancun", "excess_blob_gas": "cancun"}
    for name, since in numbers.items():
        for difference, text in ((1, "one_too_high"), (-1, "one_too_low")):
            change = added(name, difference)
            _ALL.append(_Named(f"{name}_{text}", NAMES.index(since), len(NAMES), change))


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


# Ommers.


def _sibling(s: Subject, back: int, extra: bytes = b"sibling") -> Any:
    """A sibling of an ancestor: 1 is the parent."""
    blocks = s.before.eels.blocks
    if len(blocks) <= back:
        raise NotApplicable
    header = blocks[-back].header
    if type(header) is not s.fork.blocks.Header:
        raise NotApplicable
    return ommer_of(header, b"\x77" * 20, extra)


@mutation(until="gray_glacier")
def ommer_twice(s: Subject) -> None:
    """One ommer, two times."""
    s.ommers(_sibling(s, 1), _sibling(s, 1))


@mutation(until="gray_glacier")
def ommers_three(s: Subject) -> None:
    """Two is the most."""
    s.ommers(*(_sibling(s, 1, bytes([i])) for i in range(3)))


@mutation(until="gray_glacier")
def ommer_too_old(s: Subject) -> None:
    """A sibling of the seventh ancestor."""
    s.ommers(_sibling(s, 7))


@mutation(until="gray_glacier")
def ommer_is_an_ancestor(s: Subject) -> None:
    """The parent itself."""
    s.ommers(s.parent)


@mutation(until="gray_glacier")
def ommer_is_a_sibling_of_the_block(s: Subject) -> None:
    """An ommer is a child of an older ancestor than the parent."""
    header = ommer_of(s.built.block.header, b"\x77" * 20, b"")
    s.ommers(header)


@mutation(until="gray_glacier")
def ommer_used_before(s: Subject) -> None:
    """An ommer counts once in a chain."""
    for block in reversed(s.before.eels.blocks[-5:]):
        if block.ommers and type(block.ommers[0]) is s.fork.blocks.Header:
            s.ommers(block.ommers[0])
            return
    raise NotApplicable


def _bad_ommer(s: Subject, **fields: Any) -> None:
    header = _sibling(s, 1)
    content = {name: getattr(header, name) for name in header.__dataclass_fields__}
    for name, change in fields.items():
        content[name] = change(content[name])
    s.ommers(type(header)(**content))


@mutation(until="gray_glacier")
def ommer_with_a_wrong_difficulty(s: Subject) -> None:
    """An ommer's header follows the rules of headers."""
    _bad_ommer(s, difficulty=lambda d: d + Uint(1))


@mutation(until="gray_glacier")
def ommer_with_too_much_gas(s: Subject) -> None:
    """An ommer's header follows the rules of headers."""
    _bad_ommer(s, gas_used=lambda _: Uint(2**40))


@mutation(until="gray_glacier")
def ommer_of_another_chain(s: Subject) -> None:
    """An ommer's parent is an ancestor."""
    _bad_ommer(s, parent_hash=lambda old: type(old)(b"\x13" * 32))


@mutation("london", "gray_glacier")
def ommer_with_a_wrong_base_fee(s: Subject) -> None:
    """EIP-1559 holds for ommers as well."""
    _bad_ommer(s, base_fee_per_gas=lambda fee: fee + Uint(1))


@mutation(until="gray_glacier")
def ommer_later_than_allowed(s: Subject) -> None:
    """An ommer's time follows its parent's."""
    _bad_ommer(s, timestamp=lambda time: time - type(time)(10_000))


# Withdrawals.


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


# Transactions.


@mutation()
def transaction_unknown_to_the_header(s: Subject) -> None:
    """The root of the transactions is that of the others."""
    s.block[TRANSACTIONS].append(plain(s.affordable().item()))


@mutation()
def transaction_removed(s: Subject) -> None:
    """The root of the transactions knows of one more."""
    if not s.block[TRANSACTIONS]:
        raise NotApplicable
    s.block[TRANSACTIONS].pop()


@mutation()
def transaction_without_effect_on_the_header(s: Subject) -> None:
    """A valid transaction that only the root of the transactions knows of."""
    s.transaction(s.affordable().item())


@mutation()
def nonce_too_high(s: Subject) -> None:
    """One more than the account has."""
    tx = s.tx()
    s.transaction(tx.but(nonce=tx.nonce + 1).item())


@mutation()
def nonce_too_low(s: Subject) -> None:
    """One less than the account has."""
    tx = s.tx()
    if tx.nonce == 0:
        raise NotApplicable
    s.transaction(tx.but(nonce=tx.nonce - 1).item())


@mutation()
def nonce_at_its_end(s: Subject) -> None:
    """EIP-2681: the last nonce cannot be used."""
    s.transaction(s.tx(nonce=2**64 - 1).item())


@mutation()
def balance_one_wei_short(s: Subject) -> None:
    """The sender has all but one wei of what it may come to pay."""
    balance = int(s.after.account(RICH.address).balance)
    tx = s.tx()
    if balance < tx.most:
        raise NotApplicable
    s.transaction(tx.but(value=balance - tx.most + 1).item())


@mutation()
def value_beyond_everything(s: Subject) -> None:
    """Value and fees together exceed 2^256."""
    s.transaction(s.tx(value=2**256 - 1).item())


@mutation()
def fees_beyond_everything(s: Subject) -> None:
    """Gas times its price exceeds 2^256."""
    s.transaction(s.tx(price=2**255, gas=100_000).item())


@mutation()
def sender_without_an_account(s: Subject) -> None:
    """An account that does not exist can't pay."""
    s.transaction(s.tx(sender=Account.named("nobody"), nonce=0).item())


@mutation()
def gas_below_the_intrinsic(s: Subject) -> None:
    """One unit less than a transfer needs."""
    s.transaction(s.tx(gas=20_999).item())


@mutation()
def gas_below_the_intrinsic_of_data(s: Subject) -> None:
    """Enough for a transfer and not for its data."""
    s.transaction(s.tx(gas=21_015, data=b"\1").item())


@mutation("homestead")
def gas_below_the_intrinsic_of_a_creation(s: Subject) -> None:
    """One unit less than an empty creation needs."""
    s.transaction(s.tx(gas=52_999, to=b"").item())


@mutation("berlin")
def gas_below_the_intrinsic_of_an_access_list(s: Subject) -> None:
    """EIP-2930: addresses and slots cost."""
    access = ((b"\x71" * 20, (bytes(32), bytes(32))),)
    s.transaction(s.tx(kind=ACCESS_LIST, gas=21_000 + 2_400 + 3_800 - 1, access=access).item())


@mutation("prague")
def gas_below_the_floor_of_data(s: Subject) -> None:
    """EIP-7623: the gas must pay for the floor, even if execution needs less."""
    s.transaction(s.tx(gas=21_000 + 40 * 1_000 - 1, data=b"\1" * 1_000).item())


@mutation("prague")
def gas_below_the_intrinsic_of_authorizations(s: Subject) -> None:
    """EIP-7702: 25,000 gas for each tuple."""
    s.transaction(_set_code(s, gas=21_000 + 25_000 - 1).item())


@mutation("shanghai")
def initcode_too_large(s: Subject) -> None:
    """EIP-3860: one byte above the limit."""
    s.transaction(s.tx(to=b"", data=bytes(49_153), gas=2_000_000).item())


@mutation()
def gas_above_what_the_block_has_left(s: Subject) -> None:
    """One unit more than remains in the block."""
    left = int.from_bytes(s.get("gas_limit"), "big") - int.from_bytes(s.get("gas_used"), "big")
    s.transaction(s.tx(gas=left + 1).item())


@mutation("osaka")
def gas_above_the_cap_of_a_transaction(s: Subject) -> None:
    """EIP-7825: 2^24 is the most."""
    if int.from_bytes(s.get("gas_limit"), "big") - int.from_bytes(s.get("gas_used"), "big") <= 2**24:
        raise NotApplicable
    s.transaction(s.tx(gas=2**24 + 1).item())


@mutation("london")
def fee_below_the_base_fee(s: Subject) -> None:
    """EIP-1559: one wei less than the base fee."""
    fee = int.from_bytes(s.get("base_fee_per_gas"), "big") - 1
    s.transaction(s.tx(kind=FEE_MARKET, price=fee).item())


@mutation("london")
def gas_price_below_the_base_fee(s: Subject) -> None:
    """EIP-1559: a gas price counts as the fee."""
    s.transaction(s.tx(price=int.from_bytes(s.get("base_fee_per_gas"), "big") - 1).item())


@mutation("london")
def tip_above_the_fee(s: Subject) -> None:
    """EIP-1559: the priority fee is part of the fee."""
    tx = s.tx(kind=FEE_MARKET)
    s.transaction(tx.but(tip=tx.price + 1).item())


@mutation("spurious_dragon")
def chain_id_of_another_chain(s: Subject) -> None:
    """EIP-155: replay protection for another chain."""
    s.transaction(s.tx(chain_id=1).item())


@mutation(until="tangerine_whistle")
def chain_id_before_replay_protection(s: Subject) -> None:
    """Before EIP-155 a signature has no chain id."""
    s.transaction(s.tx(chain_id=int(s.before.eels.chain_id)).item())


def _signed(s: Subject, change: Callable[[int, int, int], tuple[int, int, int]]) -> None:
    item = s.tx().item()
    s.transaction([*item[:6], *map(Uint, change(*(int(part) for part in item[6:])))])


@mutation("homestead")
def signature_with_a_high_s(s: Subject) -> None:
    """EIP-2: s is in the lower half."""
    _signed(s, lambda v, r, z: (55 - v, r, SECP256K1N - z))


@mutation()
def signature_with_a_zero_r(s: Subject) -> None:
    """No signature has r = 0."""
    _signed(s, lambda v, r, z: (v, 0, z))


@mutation()
def signature_with_a_zero_s(s: Subject) -> None:
    """No signature has s = 0."""
    _signed(s, lambda v, r, z: (v, r, 0))


@mutation()
def signature_with_an_r_out_of_range(s: Subject) -> None:
    """r is below the curve's order."""
    _signed(s, lambda v, r, z: (v, SECP256K1N, z))


@mutation()
def signature_with_a_wrong_v(s: Subject) -> None:
    """29 is neither of the two."""
    _signed(s, lambda v, r, z: (29, r, z))


@mutation("berlin")
def signature_with_a_wrong_parity(s: Subject) -> None:
    """The parity is 0 or 1."""
    tx = s.tx(kind=ACCESS_LIST)
    s.transaction(tx.but(signature=(2, 5, 7)).item())


@mutation("berlin")
def typed_signature_with_a_high_s(s: Subject) -> None:
    """EIP-2 holds for every type."""
    tx = s.tx(kind=ACCESS_LIST)
    parity, r, z = (int.from_bytes(part, "big") for part in rlp.decode(tx.item()[1:])[-3:])  # type: ignore[arg-type]
    s.transaction(tx.but(signature=(1 - parity, r, SECP256K1N - z)).item())


@mutation(until="istanbul")
def access_list_before_berlin(s: Subject) -> None:
    """A type that the fork does not know."""
    s.block[TRANSACTIONS].append(s.tx(kind=ACCESS_LIST).item())


@mutation("berlin", "berlin")
def fee_market_before_london(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(s.tx(kind=FEE_MARKET).item())


@mutation("london", "shanghai")
def blob_transaction_before_cancun(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1),)).item())


@mutation("london", "cancun")
def set_code_before_prague(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(_set_code(s).item())


@mutation("berlin")
def transaction_of_an_unknown_type(s: Subject) -> None:
    """Type 5."""
    item = s.tx(kind=ACCESS_LIST).item()
    s.transaction(b"\x05" + item[1:])


@mutation("berlin")
def transaction_of_type_zero(s: Subject) -> None:
    """A legacy transaction has no type."""
    s.transaction(b"\0" + rlp.encode(s.tx().item()))


def _set_code(s: Subject, **fields: Any) -> Tx:
    authority = Account.named("authority 0")
    nonce = int(s.after.account(authority.address).nonce)
    authorization = Authorization(authority, b"\x10" * 20, nonce)
    return s.tx(kind=SET_CODE, authorizations=(authorization,)).but(**fields)


@mutation("prague")
def authorizations_empty(s: Subject) -> None:
    """EIP-7702: at least one."""
    s.transaction(_set_code(s, authorizations=()).item())


@mutation("prague")
def set_code_creates(s: Subject) -> None:
    """EIP-7702: there must be a recipient."""
    s.transaction(_set_code(s, to=b"", gas=300_000).item())


@mutation("prague")
def authorization_with_a_nonce_too_long(s: Subject) -> None:
    """EIP-7702: a nonce of 2^64 or more makes the transaction invalid, not the tuple."""
    s.transaction(_set_code(s, authorizations=(_authorization(nonce=2**64),)).item())


@mutation("prague")
def authorization_with_a_parity_too_long(s: Subject) -> None:
    """EIP-7702: a parity of 256 makes the transaction invalid, not the tuple."""
    tuple_ = _authorization(signature=(256, 1, 1))
    s.transaction(_set_code(s, authorizations=(tuple_,)).item())


def _authorization(nonce: int = 0, signature: tuple[int, int, int] | None = None) -> Authorization:
    return Authorization(Account.named("authority 0"), b"\x10" * 20, nonce, signature=signature)


@mutation("cancun")
def blobs_none(s: Subject) -> None:
    """EIP-4844: at least one."""
    s.transaction(s.tx(kind=BLOB).item())


@mutation("cancun")
def blob_creates(s: Subject) -> None:
    """EIP-4844: there must be a recipient."""
    s.transaction(s.tx(kind=BLOB, to=b"", blobs=(blob_hash(1),), gas=300_000).item())


@mutation("cancun")
def blob_hash_of_an_unknown_version(s: Subject) -> None:
    """EIP-4844: the version is 1."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1), b"\2" + bytes(31))).item())


@mutation("cancun")
def blob_fee_too_low(s: Subject) -> None:
    """EIP-4844: less than the fee of blob gas."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1),), blob_price=0).item())


@mutation("cancun")
def blobs_one_too_many_for_the_block(s: Subject) -> None:
    """EIP-4844, EIP-7691, EIP-7892: one more than the block may have."""
    missing = s.fork.max_blobs - int.from_bytes(s.get("blob_gas_used"), "big") // 131_072 + 1
    most = 6 if s.fork.since("osaka") else missing
    first = s.tx().nonce
    for index, done in enumerate(range(0, missing, most)):
        blobs = tuple(blob_hash(done + i) for i in range(min(most, missing - done)))
        s.transaction(s.tx(kind=BLOB, blobs=blobs, nonce=first + index).item())
    s.add("blob_gas_used", missing * 131_072)


@mutation("osaka")
def blobs_one_too_many_for_a_transaction(s: Subject) -> None:
    """EIP-7594: six is the most."""
    s.transaction(s.tx(kind=BLOB, blobs=tuple(blob_hash(i) for i in range(7))).item())


# Encoding.


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
