"""Deposit events (EIP-6110), and a contract that emits whatever its caller wants."""

from __future__ import annotations

from random import Random

from .assembler import copy_input, op, push

DEPOSIT_TOPIC = bytes.fromhex("649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5")

# The fields of a deposit event, in order: where each begins, and how long it is.
OFFSETS = (160, 256, 320, 384, 512)
SIZES = (48, 32, 8, 96, 8)
EVENT_BYTES = 576


def deposit_event(seed: int) -> bytes:
    """The data of a deposit event as the contract encodes it."""
    random = Random(seed)
    head = b"".join(offset.to_bytes(32, "big") for offset in OFFSETS)
    fields = b""
    for size in SIZES:
        padded = random.randbytes(size).ljust((size + 31) // 32 * 32, b"\0")
        fields += size.to_bytes(32, "big") + padded
    assert len(head + fields) == EVENT_BYTES
    return head + fields


def patched(event: bytes, offset: int, value: int) -> bytes:
    """An event with another word at that offset."""
    return event[:offset] + value.to_bytes(32, "big") + event[offset + 32 :]


def deposit_contract() -> bytes:
    """Code that logs its input: the first word is the topic, the rest is the data."""
    size = push(32) + op("CALLDATASIZE", "SUB")
    return copy_input() + push(0) + op("MLOAD") + size + push(32) + op("LOG1", "STOP")
