"""A block that is about to be made invalid, and the list of all ways to do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ethereum.crypto.hash import keccak256
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes
from ethereum_types.numeric import Uint

from ..build import Built, decode_item
from ..chain import Chain
from ..forks import NAMES, Fork
from ..random_blocks import next_base_fee
from ..transactions import (
    Account,
    Tx,
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
class Named:
    """A mutation, and the positions of the forks where it makes sense."""

    name: str
    since: int
    until: int
    mutate: Mutation


_ALL: list[Named] = []


def add(name: str, since: int, until: int, mutate: Mutation) -> None:
    """Registers a mutation for the forks at these positions, both included."""
    _ALL.append(Named(name, since, until, mutate))


def mutation(since: str = "frontier", until: str = "bpo2") -> Callable[[Mutation], Mutation]:
    """Registers a mutation for the forks from `since` to `until`, both included."""

    def register(mutate: Mutation) -> Mutation:
        first, last = NAMES.index(since), NAMES.index(until)
        add(mutate.__name__, first, last, mutate)
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
