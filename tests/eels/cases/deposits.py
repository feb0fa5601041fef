"""Deposit requests (EIP-6110): the layout of the event is a rule of consensus."""

from __future__ import annotations

from .. import system
from ..requests import DEPOSIT_TOPIC, EVENT_BYTES, OFFSETS, SIZES, deposit_contract, deposit_event, patched
from .registry import Stage, case

_WORDS = [*range(0, 160, 32), *OFFSETS]


def _with_event(stage: Stage, *data: bytes, topic: bytes = DEPOSIT_TOPIC) -> None:
    """A block in which the deposit contract emits these events. EELS may refuse it."""
    stage.account(system.DEPOSITS, nonce=1, code=deposit_contract())
    transactions = [stage.tx(system.DEPOSITS, data=topic + event) for event in data]
    stage.attempt(*transactions)


@case("prague", count=(1, 2, 5))
def events(stage: Stage, count: int) -> None:
    """Well-formed deposits are a request."""
    _with_event(stage, *(deposit_event(seed) for seed in range(count)))


@case("prague", length=(0, 32, EVENT_BYTES - 32, EVENT_BYTES - 1, EVENT_BYTES + 1, EVENT_BYTES + 32))
def length_wrong(stage: Stage, length: int) -> None:
    """An event that is too short or too long makes the block invalid."""
    _with_event(stage, deposit_event(1).ljust(length, b"\0")[:length])


@case("prague", word=_WORDS)
def word_one_more(stage: Stage, word: int) -> None:
    """Each offset and size that is one more than it must be makes the block invalid."""
    event = deposit_event(1)
    value = int.from_bytes(event[word : word + 32], "big")
    _with_event(stage, patched(event, word, value + 1))


@case("prague", word=_WORDS)
def word_huge(stage: Stage, word: int) -> None:
    """Offsets and sizes that exceed every machine word make the block invalid."""
    event = deposit_event(1)
    value = int.from_bytes(event[word : word + 32], "big")
    _with_event(stage, patched(event, word, value + 2**64))


@case("prague")
def second_event_malformed(stage: Stage) -> None:
    """One malformed event among good ones is enough."""
    _with_event(stage, deposit_event(1), patched(deposit_event(2), 0, 161), deposit_event(3))


@case("prague")
def padding_is_free(stage: Stage) -> None:
    """The padding after a field may be anything."""
    event = bytearray(deposit_event(1))
    # The public key has 48 bytes, of which the second word holds 16.
    start = OFFSETS[0] + 32 + SIZES[0]
    event[start : start + 16] = b"\xff" * 16
    _with_event(stage, bytes(event))


@case("prague")
def another_topic(stage: Stage) -> None:
    """Only the deposit event counts, whatever else the contract logs."""
    _with_event(stage, b"short", topic=bytes(32))


@case("prague")
def without_topics(stage: Stage) -> None:
    """A log without topics is no deposit."""
    stage.account(system.DEPOSITS, nonce=1, code=bytes.fromhex("60006000a000"))
    stage.attempt(stage.tx(system.DEPOSITS))


@case("prague")
def from_another_contract(stage: Stage) -> None:
    """Only the deposit contract makes deposits."""
    elsewhere = stage.account(b"\x61" * 20, nonce=1, code=deposit_contract())
    stage.attempt(stage.tx(elsewhere, data=DEPOSIT_TOPIC + b"malformed"))


@case("prague")
def reverted(stage: Stage) -> None:
    """An event of a call that failed is none."""
    stage.account(system.DEPOSITS, nonce=1, code=deposit_contract()[:-1] + bytes.fromhex("60006000fd"))
    stage.attempt(stage.tx(system.DEPOSITS, data=DEPOSIT_TOPIC + b"malformed"))


@case("cancun", "cancun")
def before_prague(stage: Stage) -> None:
    """Before Prague such an event is like any other."""
    _with_event(stage, b"malformed")
