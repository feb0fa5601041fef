"""Transactions of every type, as RLP: what goes into a block, valid or not.

They are this package's own, so that a transaction can be made that no type of EELS can express.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from coincurve import PrivateKey
from ethereum.crypto.hash import keccak256
from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from .forks import CHAIN_ID

LEGACY, ACCESS_LIST, FEE_MARKET, BLOB, SET_CODE = range(5)
SECP256K1N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

# An item of a block's list of transactions: a list for a legacy one, else bytes.
Item = Any


@dataclass(frozen=True)
class Account:
    """An account with a key."""

    key: bytes
    address: bytes

    @staticmethod
    def named(name: str) -> Account:
        """The account whose key is the hash of that name."""
        key = bytes(keccak256(name.encode()))
        public = PrivateKey(key).public_key.format(compressed=False)[1:]
        return Account(key, bytes(keccak256(public))[12:])

    def sign(self, digest: bytes) -> tuple[int, int, int]:
        """Parity, r and s."""
        signature = PrivateKey(self.key).sign_recoverable(digest, hasher=None)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        return signature[64], r, s


@dataclass(frozen=True)
class Authorization:
    """A tuple of an EIP-7702 authorization list. `signature` replaces the right one."""

    authority: Account
    address: bytes
    nonce: int
    chain_id: int = CHAIN_ID
    signature: tuple[int, int, int] | None = None

    def item(self) -> list[Any]:
        """As RLP."""
        content: list[Any] = [Uint(self.chain_id), self.address, Uint(self.nonce)]
        parity, r, s = self.signature or self.authority.sign(keccak256(b"\x05" + rlp.encode(content)))
        return [*content, Uint(parity), Uint(r), Uint(s)]


@dataclass(frozen=True)
class Tx:
    """A transaction before it is signed. `signature` replaces (v or parity, r, s)."""

    sender: Account
    kind: int = LEGACY
    nonce: int = 0
    gas: int = 100_000
    to: bytes = b""
    value: int = 0
    data: bytes = b""
    # The gas price, or what a unit of gas may cost at most.
    price: int = 10**10
    tip: int = 0
    access: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()
    blob_price: int = 10**10
    blobs: tuple[bytes, ...] = ()
    authorizations: tuple[Authorization, ...] = ()
    # For a legacy transaction, None is one without replay protection (before EIP-155).
    chain_id: int | None = None
    signature: tuple[int, int, int] | None = None

    def but(self, **changes: Any) -> Tx:
        """This one, with other fields."""
        return replace(self, **changes)

    @property
    def most(self) -> int:
        """What it may cost its sender at most."""
        blob = len(self.blobs) * 131_072 * self.blob_price if self.kind == BLOB else 0
        return self.gas * self.price + self.value + blob

    def item(self) -> Item:
        """Signed, as an item of a block's list of transactions."""
        if self.kind == LEGACY:
            return self._legacy()
        content = self._typed_content()
        prefix = bytes([self.kind])
        signature = self.signature or self.sender.sign(keccak256(prefix + rlp.encode(content)))
        return prefix + rlp.encode([*content, *map(Uint, signature)])

    def _legacy(self) -> list[Any]:
        content: list[Any] = [
            Uint(self.nonce),
            Uint(self.price),
            Uint(self.gas),
            self.to,
            Uint(self.value),
            self.data,
        ]
        protected = self.chain_id is not None
        signed = [*content, Uint(self.chain_id or 0), Uint(0), Uint(0)] if protected else content
        parity, r, s = self.sender.sign(keccak256(rlp.encode(signed)))
        v = parity + (35 + 2 * (self.chain_id or 0) if protected else 27)
        return [*content, *map(Uint, self.signature or (v, r, s))]

    def _typed_content(self) -> list[Any]:
        chain_id = CHAIN_ID if self.chain_id is None else self.chain_id
        fees = [self.price] if self.kind == ACCESS_LIST else [self.tip, self.price]
        content: list[Any] = [*map(Uint, [chain_id, self.nonce, *fees, self.gas])]
        content += [self.to, Uint(self.value), self.data]
        content.append([[address, list(slots)] for address, slots in self.access])
        if self.kind == BLOB:
            content += [Uint(self.blob_price), list(self.blobs)]
        if self.kind == SET_CODE:
            content.append([authorization.item() for authorization in self.authorizations])
        return content


def plain(item: Item) -> Item:
    """An item with every number as its bytes, as RLP's decoder gives it."""
    return rlp.decode(rlp.encode(item))


def create_address(sender: bytes, nonce: int) -> bytes:
    """Where CREATE puts a contract."""
    return bytes(keccak256(rlp.encode([sender, Uint(nonce)])))[12:]


def create2_address(sender: bytes, salt: int, initcode: bytes) -> bytes:
    """Where CREATE2 puts a contract (EIP-1014)."""
    content = b"\xff" + sender + salt.to_bytes(32, "big") + bytes(keccak256(initcode))
    return bytes(keccak256(content))[12:]


def blob_hash(seed: int) -> bytes:
    """A versioned hash (EIP-4844)."""
    return b"\x01" + bytes(keccak256(seed.to_bytes(8, "big")))[1:]


@dataclass
class Nonces:
    """The next nonce of each account, for blocks that are written by hand."""

    next: dict[bytes, int] = field(default_factory=dict)

    def take(self, account: Account) -> int:
        """The account's next nonce, which counts as used."""
        nonce = self.next.get(account.address, 0)
        self.next[account.address] = nonce + 1
        return nonce
