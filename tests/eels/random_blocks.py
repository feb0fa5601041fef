"""Seeded random chains: a world, and blocks whose transactions follow the state as it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ethereum_rlp import rlp

from . import system
from .build import DAO_EXTRA, Draft, Withdrawal
from .chain import Allocation, Chain, World
from .forks import Fork, Schedule
from .programs import Programs
from .requests import DEPOSIT_TOPIC, deposit_contract, deposit_event
from .transactions import (
    ACCESS_LIST,
    BLOB,
    FEE_MARKET,
    LEGACY,
    SET_CODE,
    Account,
    Authorization,
    Tx,
    blob_hash,
)

SENDERS = [Account.named(f"sender {i}") for i in range(8)]
POOR = [Account.named(f"poor {i}") for i in range(3)]
AUTHORITIES = [Account.named(f"authority {i}") for i in range(4)]
CONTRACTS = [bytes([0x10 + i]) * 20 for i in range(8)]
FRESH = [bytes([0x70 + i]) * 20 for i in range(4)]
OLD_STORAGE = b"\x61" * 20
ODD_CODE = b"\x62" * 20
VAST = b"\x63" * 20
PRECOMPILES = [number.to_bytes(20, "big") for number in (*range(0x12), 0x100)]


@dataclass
class Maker:
    """Draws the parts of one chain."""

    random: Random
    schedule: Schedule
    world: World = field(init=False)
    programs: Programs = field(init=False)
    targets: list[bytes] = field(init=False)
    withdrawn: int = 0
    used_ommers: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        people = [account.address for account in (*SENDERS, *POOR, *AUTHORITIES)]
        self.targets = [*CONTRACTS, *CONTRACTS, *people, *FRESH, *PRECOMPILES]
        self.targets += [OLD_STORAGE, ODD_CODE, VAST]
        # On a chain that passes to another fork, programs are written for one of the two.
        written_for = self.random.choice(self.schedule.steps).fork
        self.programs = Programs(self.random, written_for, self.targets)
        self.world = World(self._accounts(), base_fee=self.random.choice((7, 10**9)))
        self.world.gas_limit = self.random.choice((6_000_000, 30_000_000))
        if self.random.random() < 0.3:
            self.world.excess_blob_gas = self.random.randrange(60_000_000)

    def _accounts(self) -> dict[bytes, Allocation]:
        accounts = {account.address: Allocation(10**21) for account in SENDERS}
        accounts |= {account.address: Allocation(10**15) for account in POOR}
        accounts |= {account.address: Allocation(10**19) for account in AUTHORITIES}
        for where in CONTRACTS:
            storage = {slot: self.random.randrange(1, 3) for slot in range(3)}
            code = self.programs.program()
            accounts[where] = Allocation(self.random.choice((0, 10**18)), 1, code, storage)
        last = self.schedule.steps[-1].fork
        accounts |= system.system_contracts(last)
        accounts[system.DEPOSITS] = Allocation(0, 1, deposit_contract())
        if self.random.random() < 0.3:
            accounts[OLD_STORAGE] = Allocation(1, 0, b"", {1: 1})
        if self.random.random() < 0.2 and not last.since("prague"):
            code = self.random.choice((b"\xef\x01\x00" + CONTRACTS[0], b"\xef", b"\xef\x00\x01"))
            accounts[ODD_CODE] = Allocation(1, 1, code)
        if self.random.random() < 0.3:
            accounts[VAST] = Allocation(2 ** self.random.choice((127, 128, 200, 255)))
        return accounts

    def draft(self, chain: Chain) -> Draft:
        """The next block."""
        random = self.random
        limit = int(chain.head.gas_limit)
        if self._first_of_london(chain):
            # EIP-1559: the first block's limit is compared with twice its parent's.
            limit *= 2
        if random.random() < 0.3:
            limit += random.choice((-1, 1, limit // 1024 - 1, 1 - limit // 1024))
        draft = Draft(
            step=random.choice((1, 5, 9, 12, 13, 20, 30)),
            coinbase=self._coinbase(),
            gas_limit=limit,
            extra_data=random.randbytes(random.choice((0, 0, 5, 32))),
            randao=random.randbytes(32),
            beacon_root=random.randbytes(32),
            ommers=self._ommers(chain),
            withdrawals=self._withdrawals(),
        )
        draft.transactions = self._transactions(chain, limit)
        return draft

    def _first_of_london(self, chain: Chain) -> bool:
        number = int(chain.head.number) + 1
        return number > 1 and number == self.schedule.first_block("london")

    def _coinbase(self) -> bytes:
        chosen = (*CONTRACTS[:3], SENDERS[0].address, FRESH[0], b"\0" * 19 + b"\3", b"\xc0" * 20, b"\0" * 20)
        return self.random.choice(chosen)

    def _withdrawals(self) -> tuple[Withdrawal, ...]:
        made = []
        for _ in range(self.random.choice((0, 0, 1, 3))):
            self.withdrawn += 1
            amount = self.random.choice((0, 1, 32 * 10**9, 2**40))
            validator = self.random.randrange(1_000)
            made.append(Withdrawal(self.withdrawn, validator, self.random.choice(self.targets), amount))
        return tuple(made)

    def _ommers(self, chain: Chain) -> tuple[Any, ...]:
        """Up to two ommers: siblings of recent blocks of the same fork."""
        number = int(chain.head.number) + 1
        fork = chain.fork
        if fork.since("paris") or self.random.random() < 0.6:
            return ()
        first = max(step.number for step in self.schedule.steps if step.number <= number)
        recent = [b.header for b in chain.eels.blocks if max(first, number - 6, 1) <= int(b.header.number)]
        if self.schedule.at(number, int(chain.head.timestamp)).fork != fork:
            return ()
        ommers = []
        for header in self.random.sample(recent, min(len(recent), self.random.randint(1, 2))):
            sibling = ommer_of(header, self.random.choice(self.targets), self.random.randbytes(3))
            if sibling != header and rlp.encode(sibling) not in self.used_ommers:
                self.used_ommers.add(rlp.encode(sibling))
                ommers.append(sibling)
        return tuple(ommers)

    def _transactions(self, chain: Chain, limit: int) -> Iterator[Tx]:
        """Transactions that are valid one after another, given the state that EELS is in."""
        blobs = self.random.choice((0, chain.fork.max_blobs))
        for _ in range(self.random.choice((0, 1, 2, 4, 4, 6, 9, 25))):
            tx = self._transaction(chain, blobs)
            if tx is None or tx.gas > limit:
                continue
            limit -= tx.gas
            blobs -= len(tx.blobs)
            yield tx

    def _transaction(self, chain: Chain, blobs: int) -> Tx | None:
        """A valid transaction, or nothing if the sender that was drawn can't pay for it."""
        random, fork = self.random, chain.fork
        sender = random.choice((*SENDERS, *SENDERS, *POOR, *AUTHORITIES))
        account = chain.account(sender.address)
        if account.code and not fork.since("prague"):
            return None
        tx = self._payload(Tx(sender, nonce=int(account.nonce)), chain, blobs)
        tx = self._priced(tx, chain)
        tx = tx.but(gas=max(tx.gas, self._least_gas(tx)))
        if random.random() < 0.1 and int(account.balance) > tx.most:
            # Exactly all that the account has, or all but one.
            tx = tx.but(value=tx.value + int(account.balance) - tx.most - random.randrange(2))
        return tx if tx.most <= int(account.balance) and _pays_for_blobs(tx, chain) else None

    def _kinds(self, fork: Fork, blobs: int) -> list[int]:
        kinds = [LEGACY, LEGACY]
        if fork.since("berlin"):
            kinds.append(ACCESS_LIST)
        if fork.since("london"):
            kinds += [FEE_MARKET, FEE_MARKET]
        if fork.since("cancun") and blobs > 0:
            kinds += [BLOB, BLOB]
        if fork.since("prague"):
            kinds += [SET_CODE, SET_CODE]
        return kinds

    def _payload(self, tx: Tx, chain: Chain, blobs: int) -> Tx:
        """What it does."""
        random, fork = self.random, chain.fork
        kind = random.choice(self._kinds(fork, blobs))
        tx = tx.but(kind=kind, gas=random.choice((60_000, 150_000, 400_000)))
        draw = random.random()
        if draw < 0.15 and kind not in (BLOB, SET_CODE):
            initcode = self.programs.initcode() if random.random() < 0.7 else self.programs.program(4)
            tx = tx.but(to=b"", data=initcode, gas=400_000)
        elif draw < 0.3:
            tx = tx.but(to=random.choice(self.targets), gas=random.choice((21_000, 60_000)))
        elif draw < 0.36 and fork.since("prague"):
            tx = self._request(tx)
        else:
            data = b"".join(random.choice(self.targets).rjust(32, b"\0") for _ in range(random.randrange(3)))
            tx = tx.but(to=random.choice(CONTRACTS), data=data)
        if not tx.value:
            tx = tx.but(value=random.choice((0, 0, 1, 10**15)))
        if kind != LEGACY and random.random() < 0.5:
            tx = tx.but(access=self._access())
        if kind == BLOB:
            most = min(blobs, 6 if fork.since("osaka") else blobs)
            count = random.choice((1, most, random.randint(1, most)))
            tx = tx.but(blobs=tuple(blob_hash(random.getrandbits(40)) for _ in range(count)))
        if kind == SET_CODE:
            tx = tx.but(authorizations=self._authorizations(chain, tx), gas=tx.gas + 100_000)
        return tx

    def _access(self) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
        def slots() -> tuple[bytes, ...]:
            return tuple(
                self.random.randrange(6).to_bytes(32, "big") for _ in range(self.random.randrange(3))
            )

        return tuple((self.random.choice(self.targets), slots()) for _ in range(self.random.randrange(4)))

    def _authorizations(self, chain: Chain, tx: Tx) -> tuple[Authorization, ...]:
        """Authorizations of which most hold, some repeatedly, and some break one rule each."""
        random = self.random
        made: list[Authorization] = []
        for _ in range(random.randint(1, 4)):
            authority = random.choice((*AUTHORITIES, *AUTHORITIES, tx.sender, *SENDERS[:2]))
            nonce = int(chain.account(authority.address).nonce)
            nonce += 1 if authority == tx.sender else 0
            nonce += [a.authority for a in made].count(authority)
            target = random.choice((*self.targets, authority.address, AUTHORITIES[0].address, bytes(20)))
            plain = Authorization(authority, target, nonce)
            made.append(random.choice((plain, plain, plain, self._broken(plain))))
        return tuple(made)

    def _broken(self, right: Authorization) -> Authorization:
        random = self.random
        authority, address, nonce = right.authority, right.address, right.nonce
        parity, r, s = authority.sign(random.randbytes(32))
        return random.choice(
            (
                Authorization(authority, address, nonce + 1),
                Authorization(authority, address, 2**64 - 1),
                Authorization(authority, address, nonce, chain_id=0),
                Authorization(authority, address, nonce, chain_id=2),
                Authorization(authority, address, nonce, chain_id=2**256 - 1),
                Authorization(authority, address, nonce, signature=(parity, r, s)),
                Authorization(authority, address, nonce, signature=(2, r, s)),
                Authorization(authority, address, nonce, signature=(255, r, s)),
                Authorization(authority, address, nonce, signature=(0, 0, 0)),
                Authorization(authority, address, nonce, signature=(0, r, 2**256 - 1)),
            )
        )

    def _request(self, tx: Tx) -> Tx:
        """A deposit, withdrawal or consolidation request."""
        random = self.random
        draw = random.randrange(4)
        if draw == 0:
            data = random.randbytes(random.choice((0, 55, 56, 56, 56)))
            return tx.but(
                to=system.WITHDRAWAL_REQUESTS, data=data, value=random.choice((0, 1, 1, 100)), gas=300_000
            )
        if draw == 1:
            data = random.randbytes(random.choice((0, 95, 96, 96, 96)))
            return tx.but(
                to=system.CONSOLIDATION_REQUESTS, data=data, value=random.choice((0, 1, 1, 100)), gas=300_000
            )
        if draw == 2:
            data = random.choice((deposit_event(random.getrandbits(64)), DEPOSIT_TOPIC))
            topic = DEPOSIT_TOPIC if len(data) == 576 else bytes(32)
            return tx.but(to=system.DEPOSITS, data=topic + data)
        slot = int.from_bytes(random.randbytes(2), "big")
        return tx.but(to=random.choice((system.HISTORY, system.BEACON_ROOTS)), data=slot.to_bytes(32, "big"))

    def _priced(self, tx: Tx, chain: Chain) -> Tx:
        """Fees around the block's base fee, and replay protection where the fork knows it."""
        random, fork = self.random, chain.fork
        base = next_base_fee(chain)
        if tx.kind in (LEGACY, ACCESS_LIST):
            tx = tx.but(price=base + random.choice((0, 1, 10**9)))
        else:
            most = base + random.choice((0, 1, 10**9))
            tx = tx.but(price=most, tip=random.choice((0, 1, most)))
        if tx.kind == LEGACY and fork.since("spurious_dragon") and random.random() < 0.7:
            tx = tx.but(chain_id=int(chain.eels.chain_id))
        return tx

    def _least_gas(self, tx: Tx) -> int:
        """At least the intrinsic gas of any fork."""
        words = (len(tx.data) + 31) // 32
        keys = sum(len(slots) for _, slots in tx.access)
        plain = 21_000 + 68 * len(tx.data) + 2_400 * len(tx.access) + 1_900 * keys
        return plain + 25_000 * len(tx.authorizations) + (32_000 + 2 * words if not tx.to else 0)


def _pays_for_blobs(tx: Tx, chain: Chain) -> bool:
    if tx.kind != BLOB:
        return True
    excess = chain.fork.gas.calculate_excess_blob_gas(chain.head)
    return tx.blob_price >= int(chain.fork.gas.calculate_blob_gas_price(excess))


def next_base_fee(chain: Chain) -> int:
    """The base fee of the block that is being made, if its gas limit is its parent's."""
    if not chain.fork.since("london"):
        return 0
    parent = chain.head
    if not hasattr(parent, "base_fee_per_gas"):
        return 10**9
    limit = parent.gas_limit
    fee = chain.fork.rules.calculate_base_fee_per_gas(limit, limit, parent.gas_used, parent.base_fee_per_gas)
    return int(fee)


def ommer_of(header: Any, coinbase: bytes, extra: bytes) -> Any:
    """A sibling of a block: the same place in the chain, another maker."""
    content = {name: getattr(header, name) for name in header.__dataclass_fields__}
    content["coinbase"] = type(header.coinbase)(coinbase)
    if header.extra_data != DAO_EXTRA:
        content["extra_data"] = type(header.extra_data)(extra)
    return type(header)(**content)
