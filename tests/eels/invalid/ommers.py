"""Ommers that a block may not have, before the Merge."""

from __future__ import annotations

from typing import Any

from ethereum_types.numeric import Uint

from ..random_blocks import ommer_of
from .subject import NotApplicable, Subject, mutation


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
