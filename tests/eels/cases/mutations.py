"""Every way of `invalid.py` to make a block invalid, on every fork where it makes sense.

The block has something for most mutations to change: transactions, ommers or withdrawals, and a gas
limit above the cap of a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..build import Built, Draft, Withdrawal, build
from ..chain import Chain
from ..forks import FORKS, Fork, Schedule
from ..invalid import RICH, mutate, mutations
from ..random_blocks import ommer_of
from ..transactions import Account, Nonces, Tx
from .registry import TARGET, HandMade, Stage, register

_SENDER = Account.named("mutations")


def _drafts(stage: Stage) -> list[Draft]:
    nonces = Nonces()
    drafts = []
    for number in range(9):
        payments = [
            Tx(_SENDER, nonce=nonces.take(_SENDER), to=TARGET, gas=50_000, value=1),
            Tx(RICH, nonce=nonces.take(RICH), to=TARGET, gas=50_000, data=b"\1"),
        ]
        draft = Draft(payments, step=15)
        if stage.fork.since("shanghai"):
            draft.withdrawals = (Withdrawal(number, number, TARGET, 5),)
        drafts.append(draft)
    return drafts


@dataclass(frozen=True)
class _Base:
    """A chain of valid blocks, and its state before and after the last one."""

    stage: Stage
    before: Chain
    last: Built


@cache
def _base(fork: Fork) -> _Base:
    stage = Stage(fork)
    stage.account(_SENDER.address, balance=10**22)
    stage.account(RICH.address, balance=10**22)
    stage.world.gas_limit = 40_000_000
    drafts = _drafts(stage)
    for number, draft in enumerate(drafts[:-1]):
        if number == 6 and not fork.since("paris"):
            draft.ommers = (ommer_of(stage.chain.head, TARGET, b"used"),)
        built = build(stage.chain, draft)
        stage.blocks.append((built.encoded, built.verdict))
    before = stage.chain.copy()
    return _Base(stage, before, build(stage.chain, drafts[-1]))


def _make(stage: Stage, name: str) -> None:
    base = _base(stage.fork)
    encoded = mutate(name, base.before, base.stage.chain, base.last)
    assert encoded is not None, f"{name} changes nothing"
    stage.world = base.stage.world
    stage.blocks = [*base.stage.blocks, (encoded, base.before.copy().judge(encoded))]


def _nothing_to_change(name: str, fork: Fork) -> bool:
    """Whether the blocks here have nothing that the mutation changes: what is zero can't be less."""
    zero = {"excess_blob_gas_one_too_low", "blob_gas_used_one_too_low"}
    if fork.since("paris"):
        zero.add("difficulty_one_too_low")
    return name in zero


def _register() -> None:
    for fork in FORKS:
        for name in mutations(fork):
            if _nothing_to_change(name, fork):
                continue

            def make(stage: Stage, name: str = name) -> None:
                _make(stage, name)

            register(HandMade(f"mutations.{name} on {fork}", fork, Schedule.only(fork), make))


_register()
