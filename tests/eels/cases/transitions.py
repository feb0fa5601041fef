"""Chains that pass from one fork to another: each block has the rules of its own fork."""

from __future__ import annotations

from itertools import pairwise

from .. import system
from ..assembler import address, op, push, sstore
from ..build import DAO_EXTRA, Draft, build
from ..forks import FORKS, Schedule, Step, fork
from ..invalid import Subject, encode
from ..transactions import ACCESS_LIST, BLOB, FEE_MARKET, SET_CODE, Account, Authorization, Tx, blob_hash
from .registry import OTHER, TARGET, Stage, on_schedule
from .state import looking

CONTRACT = b"\x51" * 20
SWITCH = 3
DAO_ACCOUNT = bytes.fromhex("d4fe7bc31cedb7bfb8a345f31e668033056b2728")
DAO_REFUND = bytes.fromhex("bf4ed7b27f1d666546e30d74d50d173d20bca754")

# An instruction, or a way to pay, of each fork that brought one.
_PROBES = ("PUSH0", "BASEFEE", "CHAINID", "SELFBALANCE", "BLOBBASEFEE", "RETURNDATASIZE", "COINBASE")


def rules_change(stage: Stage) -> None:
    """New instructions, prices and kinds of transactions, before and after the switch."""
    for number, name in enumerate(_PROBES):
        stage.account(bytes([0x61 + number]) * 20, nonce=1, code=sstore(1, op(name)) + sstore(0, op("GAS")))
    shift = push(3) + push(1) + op("SHL")
    stage.account(CONTRACT, nonce=1, code=sstore(0, shift) + looking(stage.fork, OTHER.address))
    stage.account(b"\x52" * 20, nonce=1, balance=9, code=address(TARGET) + op("SELFDESTRUCT"), storage={0: 1})
    stage.account(b"\x53" * 20, nonce=1, code=sstore(0, 0) + sstore(1, 1), storage={0: 1, 1: 1})
    for _ in range(6):
        calls = [stage.tx(bytes([0x61 + n]) * 20, gas=100_000) for n in range(len(_PROBES))]
        others = [stage.tx(where, gas=400_000) for where in (CONTRACT, b"\x52" * 20, b"\x53" * 20)]
        stage.attempt(*calls, *others, **_doubled(stage))


def _doubled(stage: Stage) -> dict[str, int]:
    """EIP-1559: the first block of London has twice its parent's gas limit, or nearly so."""
    number = int(stage.chain.head.number) + 1
    if number > 1 and number == stage.schedule.first_block("london"):
        return {"gas_limit": 2 * int(stage.chain.head.gas_limit)}
    return {}


def _typed(stage: Stage) -> Tx:
    """A transaction of the newest kind that the later fork knows."""
    later = stage.schedule.steps[-1].fork
    authorization = Authorization(Account.named("switch"), CONTRACT, 0)
    kinds = {
        "berlin": {"kind": ACCESS_LIST},
        "london": {"kind": FEE_MARKET},
        "cancun": {"kind": BLOB, "blobs": (blob_hash(1),)},
        "prague": {"kind": SET_CODE, "authorizations": (authorization,)},
    }
    return stage.tx(**kinds[later.name])  # type: ignore[arg-type]


def new_kind_at_the_switch(stage: Stage) -> None:
    """The first block of the fork may have it."""
    for number in range(1, SWITCH + 2):
        stage.attempt(*([_typed(stage)] if number >= SWITCH else []), **_doubled(stage))


def new_kind_too_early(stage: Stage) -> None:
    """The block before may not."""
    for number in range(1, SWITCH):
        if number < SWITCH - 1:
            stage.attempt()
            continue
        built = build(stage.chain.copy(), Draft())
        subject = Subject(stage.chain, stage.chain, built)
        item = _typed(stage).item()
        if stage.fork.since("berlin"):
            subject.transaction(item)
        else:
            # The fork knows no types, and so no root of a list that has one.
            subject.block[1].append(item)
        stage.judge(encode(subject.block))


def dao_balances_move(stage: Stage) -> None:
    """EIP-779: the balances of the DAO's accounts move to the refund contract at the fork."""
    stage.account(DAO_ACCOUNT, balance=12_345, nonce=1, code=b"\0", storage={1: 1})
    stage.account(DAO_REFUND, balance=7)
    child = bytes.fromhex("304a554a310c7e546dfe434669c62820b7d83490")
    stage.account(child, balance=10**20)
    stage.account(
        CONTRACT, nonce=1, code=looking(stage.fork, DAO_ACCOUNT) + sstore(9, op("CALLER", "BALANCE"))
    )
    for _ in range(5):
        stage.attempt(
            stage.tx(CONTRACT, gas=500_000), stage.tx(DAO_ACCOUNT, value=3), stage.tx(DAO_REFUND, value=1)
        )


def dao_without_accounts(stage: Stage) -> None:
    """Without any of the accounts nothing moves."""
    for _ in range(5):
        stage.attempt(stage.tx())


def dao_extra_data(stage: Stage, number: int) -> None:
    """EIP-779: ten blocks carry the fork's mark; the one that doesn't is invalid."""
    for _ in range(1, number):
        stage.attempt(stage.tx())
    built = build(stage.chain.copy(), Draft([stage.tx()]))
    subject = Subject(stage.chain, stage.chain, built)
    subject.put("extra_data", b"none")
    stage.judge(encode(subject.block))


def dao_extra_data_afterwards(stage: Stage) -> None:
    """The eleventh block may have any extra data."""
    for number in range(1, SWITCH + 12):
        stage.attempt(stage.tx(), extra_data=DAO_EXTRA if number % 2 else b"any")


def blob_gas_over_the_switch(stage: Stage) -> None:
    """The excess of blob gas passes from fork to fork, with the new fork's target."""
    stage.world.excess_blob_gas = 30_000_000
    for number in range(1, 7):
        count = 6 if number in (SWITCH - 1, SWITCH) else 0
        blobs = tuple(blob_hash(n) for n in range(count))
        transactions = [stage.tx(kind=BLOB, blobs=blobs, blob_price=10**15)] if count else []
        stage.attempt(*transactions)


def several_forks_at_once(stage: Stage) -> None:
    """Time leaps over several forks, whose times lie between two blocks."""
    stage.attempt(stage.tx())
    stage.attempt(stage.tx(), stage.tx(system.HISTORY, data=bytes(32)))
    stage.attempt(stage.tx())


def _register() -> None:
    for before, after in pairwise(FORKS):
        schedule = Schedule.switch(before, after, SWITCH)
        on_schedule(rules_change, "rules_change", schedule)
        if after.name in ("berlin", "london", "cancun", "prague"):
            on_schedule(new_kind_at_the_switch, "new_kind_at_the_switch", schedule)
            on_schedule(new_kind_too_early, "new_kind_too_early", schedule)
        if before.since("cancun"):
            on_schedule(blob_gas_over_the_switch, "blob_gas_over_the_switch", schedule)
    for later in FORKS[2:]:
        # EELS can't leap over London, whose first block has the first base fee.
        first_known = fork("london").position if later.since("arrow_glacier") else 0
        for first in FORKS[first_known : later.position - 1]:
            on_schedule(rules_change, "rules_change", Schedule.switch(first, later, SWITCH))
    dao = Schedule.switch(fork("homestead"), fork("dao_fork"), SWITCH)
    on_schedule(dao_balances_move, "dao_balances_move", dao)
    on_schedule(dao_without_accounts, "dao_without_accounts", dao)
    on_schedule(dao_extra_data_afterwards, "dao_extra_data_afterwards", dao)
    for number in (SWITCH - 1, SWITCH, SWITCH + 1, SWITCH + 9, SWITCH + 10):

        def extra(stage: Stage, number: int = number) -> None:
            dao_extra_data(stage, number)

        on_schedule(extra, f"dao_extra_data[number={number}]", dao)
    all_at_once = Schedule((Step(fork("paris"), 0), Step(fork("bpo2"), 2)))
    on_schedule(several_forks_at_once, "several_forks_at_once", all_at_once)


_register()
