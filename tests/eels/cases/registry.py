"""The list of hand-made cases, and what a function that makes one starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ethereum.exceptions import EthereumException

from .. import system
from ..build import Draft, build, unsealed
from ..chain import Allocation, Chain, Verdict, World
from ..forks import FORKS, NAMES, Fork, Schedule
from ..referee import Case
from ..transactions import Account, Nonces, Tx

RICH = Account.named("rich")
OTHER = Account.named("other")
TARGET = b"\xaa" * 20

_MODULES: tuple[str, ...] = (
    "mutations",
    "deposits",
    "systems",
    "state",
    "balances",
    "delegation",
    "blobs",
    "limits",
)
_MODULES += ("precompiled", "transitions", "branches", "overruled")


class Stage:
    """A chain under construction. Accounts are set up first, blocks follow."""

    def __init__(self, fork: Fork, schedule: Schedule | None = None) -> None:
        self.fork = fork
        self.schedule = schedule or Schedule.only(fork)
        self.world = World({RICH.address: Allocation(10**24), OTHER.address: Allocation(10**24)})
        self.world.accounts |= system.system_contracts(self.schedule.steps[-1].fork)
        self.nonces = Nonces()
        self.overruled = ""
        self.blocks: list[tuple[bytes, Verdict]] = []
        self._chain: Chain | None = None

    @property
    def chain(self) -> Chain:
        """The chain, which begins when it is first used."""
        if self._chain is None:
            self._chain = Chain(self.schedule, self.world)
        return self._chain

    def account(self, address: bytes, **fields: Any) -> bytes:
        """Puts an account into the genesis block."""
        assert self._chain is None, "the chain has begun"
        self.world.accounts[address] = Allocation(**fields)
        return address

    def tx(self, to: bytes = TARGET, sender: Account = RICH, **fields: Any) -> Tx:
        """A transaction with the sender's next nonce and enough of everything."""
        nonce = fields.pop("nonce", None)
        fields = {"gas": 1_000_000, "price": 10**10, **fields}
        return Tx(sender, to=to, nonce=self.nonces.take(sender) if nonce is None else nonce, **fields)

    def attempt(self, *transactions: Tx, **draft: Any) -> None:
        """Builds a block and has EELS judge it. Nothing is built after one that is invalid.

        If it can't be executed to its end, the results in its header are those of an empty block:
        it must be refused for the same reason for which EELS refuses it.
        """
        if self.blocks and not self.blocks[-1][1].valid:
            return
        wanted = Draft(transactions, **draft)
        try:
            encoded = build(self.chain.copy(), wanted).encoded
        except EthereumException:
            encoded = unsealed(self.chain, wanted)
        self.judge(encoded)

    def judge(self, encoded: bytes) -> Verdict:
        """Has EELS judge a block, and appends it."""
        verdict = self.chain.judge(encoded)
        self.blocks.append((encoded, verdict))
        return verdict

    def case(self, name: str, head: Verdict | None = None) -> Case:
        """The finished case."""
        genesis = self.chain.genesis_json()
        return Case(name, genesis, tuple(self.blocks), self.overruled, head)


@dataclass(frozen=True)
class HandMade:
    """A named case on one fork."""

    name: str
    fork: Fork
    schedule: Schedule
    make: Callable[[Stage], object]

    def case(self) -> Case:
        """Makes it. A maker may return the head that an import must come to."""
        stage = Stage(self.fork, self.schedule)
        head = self.make(stage)
        return stage.case(self.name, head if isinstance(head, Verdict) else None)


_ALL: list[HandMade] = []


def case(
    since: str = "frontier", until: str = "bpo2", **parameters: Iterable[Any]
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Registers a case for each fork from `since` to `until`, and for each value of one parameter."""

    def enlist(make: Callable[..., object]) -> Callable[..., object]:
        for fork in FORKS[NAMES.index(since) : NAMES.index(until) + 1]:
            for suffix, bound in _bound(make, parameters):
                name = f"{make.__module__.rsplit('.', 1)[-1]}.{make.__name__}{suffix} on {fork}"
                register(HandMade(name, fork, Schedule.only(fork), bound))
        return make

    return enlist


def register(made: HandMade) -> None:
    """Adds a case."""
    _ALL.append(made)


def on_schedule(make: Callable[..., object], name: str, schedule: Schedule) -> None:
    """Registers a case on a chain that passes from fork to fork."""
    module = make.__module__.rsplit(".", 1)[-1]
    register(HandMade(f"{module}.{name} on {schedule}", schedule.first, schedule, make))


def _bound(
    make: Callable[..., object], parameters: dict[str, Iterable[Any]]
) -> Iterator[tuple[str, Callable[[Stage], object]]]:
    if not parameters:
        yield "", make
    for name, values in parameters.items():
        for value in values:
            text = value.hex() if isinstance(value, bytes) else str(value)

            def bound(stage: Stage, value: Any = value, name: str = name) -> object:
                return make(stage, **{name: value})

            yield f"[{name}={text[:40]}]", bound


def all_cases() -> dict[str, HandMade]:
    """Every hand-made case by its name."""
    for module in _MODULES:
        import_module(f"{__package__}.{module}")
    return {made.name: made for made in _ALL}
