"""Chain files with several branches: the heavier one is the chain, of equal ones the first."""

from __future__ import annotations

from ..assembler import address, op, push, sload, sstore
from ..build import Draft, build
from ..chain import Chain, Verdict
from ..forks import Schedule, fork
from ..invalid import Subject, encode
from ..random_blocks import next_base_fee
from ..transactions import Tx
from .registry import RICH, Stage, case, on_schedule

COUNTER = b"\x51" * 20
DESTROYED = b"\x52" * 20


def _world(stage: Stage) -> None:
    code = sstore(0, sload(0) + push(1) + op("ADD")) + sstore(op("TIMESTAMP"), op("NUMBER"))
    stage.account(COUNTER, nonce=1, code=code)
    gone = address(RICH.address) + op("SELFDESTRUCT")
    stage.account(DESTROYED, nonce=1, balance=99, code=gone, storage={1: 1, 2: 2})


def _draft(chain: Chain, step: int) -> Draft:
    nonce = int(chain.account(RICH.address).nonce)
    price = next_base_fee(chain) + 10**9
    targets = (COUNTER, DESTROYED) if step % 2 else (COUNTER, COUNTER)
    calls = [Tx(RICH, nonce=nonce + n, to=where, price=price) for n, where in enumerate(targets)]
    return Draft(calls, step=step)


def _grow(stage: Stage, chain: Chain, count: int, step: int = 12) -> Verdict:
    """Adds blocks to a branch and to the file. The time between blocks makes branches differ."""
    for _ in range(count):
        encoded = build(chain.copy(), _draft(chain, step)).encoded
        stage.blocks.append((encoded, chain.judge(encoded)))
    return stage.blocks[-1][1]


@case(parts=((3, 2), (3, 3), (2, 3), (1, 4), (5, 6)))
def side_branch(stage: Stage, parts: tuple[int, int]) -> Verdict | None:
    """A branch of as many blocks, after the other one: it must become the chain only if it is longer.

    Its blocks are slower, so that before the Merge a branch needs to have more of them.
    """
    _world(stage)
    _grow(stage, stage.chain, 2)
    main, side = stage.chain.copy(), stage.chain.copy()
    first = _grow(stage, main, parts[0], 12)
    second = _grow(stage, side, parts[1], 14)
    return _heavier((main, first), (side, second))


def _heavier(one: tuple[Chain, Verdict], other: tuple[Chain, Verdict]) -> Verdict:
    """The head of the branch with more difficulty, or more blocks, or the first one."""

    def weight(branch: tuple[Chain, Verdict]) -> tuple[int, int]:
        return branch[0].total_difficulty, branch[1].number

    return other[1] if weight(other) > weight(one) else one[1]


@case(until="gray_glacier")
def fewer_blocks_of_more_difficulty(stage: Stage) -> Verdict:
    """Two quick blocks outweigh three very slow ones."""
    _world(stage)
    stage.world.gas_limit = 10_000_000
    main, side = stage.chain.copy(), stage.chain.copy()
    first = _grow(stage, main, 1, 900)
    second = _grow(stage, side, 1, 1)
    return _heavier((main, first), (side, second))


@case()
def back_and_forth(stage: Stage) -> Verdict:
    """Two branches that overtake each other three times."""
    _world(stage)
    main, side = stage.chain.copy(), stage.chain.copy()
    _grow(stage, main, 1, 11)
    _grow(stage, side, 2, 11 + 2)
    _grow(stage, main, 2, 11)
    second = _grow(stage, side, 2, 11 + 2)
    first = _grow(stage, main, 3, 11)
    return _heavier((main, first), (side, second))


@case()
def side_branch_with_an_invalid_end(stage: Stage) -> Verdict:
    """The invalid block is refused; the branch before it stays aside."""
    _world(stage)
    main, side = stage.chain.copy(), stage.chain.copy()
    head = _grow(stage, main, 3)
    _grow(stage, side, 1, 13)
    before = side.copy()
    built = build(side.copy(), _draft(side, 13))
    subject = Subject(before, side, built)
    subject.put("state_root", bytes(32))
    encoded = encode(subject.block)
    stage.blocks.append((encoded, before.judge(encoded)))
    return head


def branches_over_a_switch(stage: Stage) -> Verdict:
    """Both branches pass the fork, each by itself."""
    _world(stage)
    main, side = stage.chain.copy(), stage.chain.copy()
    first = _grow(stage, main, 4)
    second = _grow(stage, side, 5, 14)
    return _heavier((main, first), (side, second))


for _before, _after in (
    ("homestead", "tangerine_whistle"),
    ("byzantium", "istanbul"),
    ("istanbul", "berlin"),
):
    on_schedule(
        branches_over_a_switch, "branches_over_a_switch", Schedule.switch(fork(_before), fork(_after), 3)
    )
for _before, _after in (("shanghai", "cancun"), ("cancun", "prague"), ("prague", "osaka"), ("bpo1", "bpo2")):
    on_schedule(
        branches_over_a_switch, "branches_over_a_switch", Schedule.switch(fork(_before), fork(_after), 3)
    )
