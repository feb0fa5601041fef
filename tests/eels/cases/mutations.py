"""Every way of `invalid.py` to make a block invalid, on every fork where it makes sense.

The block has something for most mutations to change: transactions, ommers or withdrawals, and a gas
limit above the cap of a transaction.
"""

from __future__ import annotations

from ..build import Draft, Withdrawal, build
from ..forks import FORKS, Schedule
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


def _make(stage: Stage, name: str) -> None:
    stage.account(_SENDER.address, balance=10**22)
    stage.account(RICH.address, balance=10**22)
    stage.world.gas_limit = 40_000_000
    drafts = _drafts(stage)
    for number, draft in enumerate(drafts[:-1]):
        if number == 6 and not stage.fork.since("paris"):
            draft.ommers = (ommer_of(stage.chain.head, TARGET, b"used"),)
        built = build(stage.chain, draft)
        stage.blocks.append((built.encoded, built.verdict))
    before = stage.chain.copy()
    last = build(stage.chain, drafts[-1])
    encoded = mutate(name, before, stage.chain, last)
    assert encoded is not None, f"{name} changes nothing"
    stage.blocks.append((encoded, before.judge(encoded)))


def _register() -> None:
    for fork in FORKS:
        for name in mutations(fork):
            if name in ("excess_blob_gas_one_too_low", "blob_gas_used_one_too_low"):
                # There is no blob, and nothing below zero.
                continue

            def make(stage: Stage, name: str = name) -> None:
                _make(stage, name)

            register(HandMade(f"mutations.{name} on {fork}", fork, Schedule.only(fork), make))


_register()

