"""Inputs of precompiled contracts: random ones that EELS answers quickly, and edges."""

from __future__ import annotations

from random import Random

from .forks import Fork
from .transactions import SECP256K1N, Account

BN128_P = 21888242871839275222246405745257275088696311157297823662689037894645226208583
SIGNER = Account.named("precompile")

# The precompiled contracts by the fork that brought them.
BY_FORK = (
    ("frontier", (1, 2, 3, 4)),
    ("byzantium", (5, 6, 7, 8)),
    ("istanbul", (9,)),
    ("cancun", (10,)),
    ("prague", tuple(range(11, 18))),
    ("osaka", (0x100,)),
)


def word(value: int) -> bytes:
    """A 32-byte word."""
    return value.to_bytes(32, "big")


def numbers(fork: Fork) -> list[int]:
    """The precompiled contracts of a fork."""
    return [number for since, many in BY_FORK if fork.since(since) for number in many]


def cheap(random: Random, fork: Fork) -> tuple[int, bytes]:
    """A contract and an input for it that a specification in Python answers within milliseconds."""
    number = random.choice([n for n in numbers(fork) if n < 10 or n == 0x100] + [10, 11, 0x100])
    data = input_of(random, number)
    return number, data[: random.choice((len(data), len(data), max(0, len(data) - 1)))]


def input_of(random: Random, number: int) -> bytes:
    """An input for that contract, often a valid one."""
    if number == 1:
        return ecrecover(random)
    if number == 5:
        return modexp(random)
    if number == 6:
        return bn128_point(random) + bn128_point(random)
    if number == 7:
        return bn128_point(random) + word(random.choice((0, 1, 2, 9, 2**256 - 1)))
    if number == 8:
        return random.choice((b"", word(1), word(1) * 6, word(BN128_P) * 6))
    if number == 9:
        return blake2f(random.choice((0, 1, 12)), random, random.choice((0, 1, 2)))
    return random.randbytes(random.choice((0, 1, 32, 33, 64, 160)))


def ecrecover(random: Random) -> bytes:
    """A signature to recover, sometimes with a field at its edge."""
    digest = random.randbytes(32)
    parity, r, s = SIGNER.sign(digest)
    v = 27 + parity
    draw = random.randrange(8)
    if draw == 0:
        v = random.choice((0, 1, 26, 29, 2**255))
    elif draw == 1:
        r = random.choice((0, SECP256K1N - 1, SECP256K1N, 2**256 - 1))
    elif draw == 2:
        s = random.choice((0, SECP256K1N - s, SECP256K1N - 1, SECP256K1N))
    return digest + word(v) + word(r) + word(s)


def modexp(random: Random) -> bytes:
    """Random numbers of lengths around nothing and around a word."""
    base, exponent, modulus = (random.choice((0, 1, 2, 31, 32, 33)) for _ in range(3))
    lengths = word(base) + word(exponent) + word(modulus)
    return lengths + random.randbytes(base + exponent + modulus)


def bn128_point(random: Random) -> bytes:
    """A point of alt_bn128: the generator, infinity, its negative, or none at all."""
    return random.choice(
        (
            word(1) + word(2),
            word(0) + word(0),
            word(1) + word(BN128_P - 2),
            word(1) + word(3),
            word(BN128_P + 1) + word(2),
        )
    )


def blake2f(rounds: int, random: Random, final: int) -> bytes:
    """An input of 213 bytes (EIP-152); a final flag of 2 is none."""
    return rounds.to_bytes(4, "big") + random.randbytes(64 + 128 + 16) + bytes([final])
