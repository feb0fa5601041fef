"""Precompiled contracts: valid inputs, malformed ones, and edges; the gas and the answer of each."""

from __future__ import annotations

from hashlib import sha256
from random import Random

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ..assembler import address, answer, call, copy_input, op, push, sstore
from ..precompiles import BN128_P, SIGNER, blake2f, word
from ..transactions import SECP256K1N
from .registry import OTHER, Stage, case

CALLER = b"\x51" * 20
BLS_P = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
P256_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
P256_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _ask(stage: Stage, number: int, *inputs: bytes, gas: int = 15_000_000) -> None:
    """One transaction for each input: a contract passes it on and keeps all that it learns."""
    target = number.to_bytes(20, "big")
    # Before EIP-150 a call can't ask for more gas than there is.
    given = push(gas // 4 if not stage.fork.since("tangerine_whistle") else gas)
    asked = call(address(target), gas=given, data=(0, op("CALLDATASIZE")), result=(0, 64))
    code = copy_input() + op("GAS") + asked + push(0) + op("SSTORE", "GAS", "SWAP1", "SUB")
    code += push(1) + op("SSTORE")
    code += answer(2) if stage.fork.since("byzantium") else sstore(2, push(0) + op("MLOAD"))
    stage.world.gas_limit = 120_000_000
    contracts = {bytes([0x51 + index]) * 20: data for index, data in enumerate(inputs)}
    for where in contracts:
        stage.account(where, nonce=1, code=code)
    each = gas + 1_000_000
    stage.attempt(*(stage.tx(where, data=data, gas=each) for where, data in contracts.items()))
    # The contract itself as the target of a transaction.
    stage.attempt(
        stage.tx(target, data=inputs[0], gas=each, value=1), stage.tx(target, gas=100_000, sender=OTHER)
    )


@case()
def ecrecover(stage: Stage) -> None:
    """Good signatures, a high s, and each field beside its range."""
    digest = b"\x42" * 32
    parity, r, s = SIGNER.sign(digest)
    good = digest + word(27 + parity) + word(r) + word(s)
    odd = [(v, r, s) for v in (0, 1, 26, 29, 27 + 2**8, 2**255)]
    odd += [(27 + parity, 0, s), (27 + parity, r, 0), (28 - parity, r, SECP256K1N - s)]
    odd += [(27, SECP256K1N, s), (27, r, SECP256K1N), (27, SECP256K1N - 1, s), (28, 5, 5)]
    inputs = [good, good[:127], good + b"\1", b"", *(digest + word(v) + word(a) + word(b) for v, a, b in odd)]
    _ask(stage, 1, *inputs, gas=200_000)


@case(number=(2, 3, 4))
def hashes_and_identity(stage: Stage, number: int) -> None:
    """Inputs of lengths around whole words."""
    _ask(stage, number, *(bytes(range(256))[:size] for size in (0, 1, 31, 32, 33, 64, 200)), gas=200_000)


@case(gas=(2_999, 3_000, 3_001))
def ecrecover_with_little_gas(stage: Stage, gas: int) -> None:
    """3,000 gas are enough."""
    target = bytes(19) + b"\1"
    stage.account(CALLER, nonce=1, code=sstore(0, call(address(target), gas=gas)) + sstore(1, op("GAS")))
    stage.attempt(stage.tx(CALLER))


def _modexp(base: bytes, exponent: bytes, modulus: bytes) -> bytes:
    lengths = b"".join(word(len(part)) for part in (base, exponent, modulus))
    return lengths + base + exponent + modulus


_MODEXP = (
    _modexp(b"\3", b"\xff" * 32, b"\xfd" * 32),
    _modexp(b"", b"", b""),
    _modexp(b"", b"\1", b"\2"),
    _modexp(b"\2", b"", b"\5"),
    _modexp(b"\2", b"\0", b"\1"),
    _modexp(b"\2", b"\5", b"\0"),
    _modexp(b"\2", b"\5", b""),
    _modexp(b"\2" * 33, b"\xff" * 33, b"\xfd" * 31),
    _modexp(b"\xff" * 64, b"\1" + bytes(39), b"\x0f" * 64),
    _modexp(b"\xff" * 200, bytes(32) + b"\3", b"\xff" * 199),
    # EELS itself overflows at a base of nearly 2^256 bytes before Osaka.
    word(2**255) + word(2**256 - 1) + word(2**256 - 1),
    word(0) + word(2**64) + word(0),
    word(0) + word(0) + word(2**32),
    word(2**32) + word(0) + word(0),
    word(1)[:31],
    word(1) + word(1) + word(1) + b"\2",
)


@case("byzantium")
def modexp(stage: Stage) -> None:
    """Zeros everywhere, lengths beyond all memory, and inputs that end early."""
    _ask(stage, 5, *_MODEXP, gas=3_000_000)


@case("byzantium", size=(1_023, 1_024, 1_025))
def modexp_size(stage: Stage, size: int) -> None:
    """EIP-7823: from Osaka on 1,024 bytes are the most of each."""
    long = b"\1" * size
    inputs = (_modexp(long, b"\2", b"\3"), _modexp(b"\2", long, b"\3"), _modexp(b"\2", b"\3", long))
    # A length counts even if the number is zero, or nothing is asked of it.
    empty = word(size) + word(0) + word(0), word(0) + word(size) + word(0)
    _ask(stage, 5, *inputs, *empty, gas=12_000_000)


_G1 = word(1) + word(2)
_POINTS: tuple[bytes, ...] = (
    _G1,
    bytes(64),
    word(1) + word(BN128_P - 2),
    word(1) + word(3),
    word(BN128_P) + word(0),
)
_POINTS += (word(BN128_P + 1) + word(2), word(0) + word(BN128_P), word(2**256 - 1) * 2)


@case("byzantium")
def bn128_add(stage: Stage) -> None:
    """Points on the curve, beside it, and beyond the field."""
    _ask(
        stage, 6, *(_G1 + point for point in _POINTS), _G1, b"", _G1 + _G1[:63], _G1 * 2 + b"\1", gas=100_000
    )


@case("byzantium")
def bn128_mul(stage: Stage) -> None:
    """Scalars of every size, and points that are none."""
    scalars = (
        0,
        1,
        2,
        2**255,
        2**256 - 1,
        21888242871839275222246405745257275088548364400416034343698204186575808495617,
    )
    inputs = [_G1 + word(scalar) for scalar in scalars]
    _ask(stage, 7, *inputs, *(point + word(3) for point in _POINTS), _G1, b"", _G1[:40], gas=100_000)


_G2 = b"".join(
    word(part)
    for part in (
        11559732032986387107991004021392285783925812861821192530917403151452391805634,
        10857046999023057135944570762232829481370756359578518086990519993285655852781,
        4082367875863433681332203403145435568316851327593401208105741076214120093531,
        8495653923123431417604973247489272438418190587263600148770280649306958101930,
    )
)


@case("byzantium", "bpo2", kind=("empty", "good", "bad"))
def bn128_pairing(stage: Stage, kind: str) -> None:
    """No pairs, a pair with infinity, and what is no point."""
    negative = word(1) + word(BN128_P - 2)
    inputs = {
        "empty": (b"", bytes(192), bytes(191), bytes(193), bytes(64) + _G2, _G1 + bytes(128)),
        "good": (_G1 + _G2 + negative + _G2, _G1 + _G2),
        "bad": (
            _G1 + _G2[:-1] + b"\0",
            word(1) + word(3) + _G2,
            _G1 + word(BN128_P) * 4,
            _G1 + _G2[32:] + word(1),
        ),
    }
    _ask(stage, 8, *inputs[kind], gas=1_000_000)


@case("istanbul")
def blake2(stage: Stage) -> None:
    """Rounds, the final flag, and lengths."""
    random = Random(9)
    inputs = [blake2f(rounds, random, final) for rounds in (0, 1, 12, 300) for final in (0, 1)]
    good = inputs[0]
    _ask(stage, 9, *inputs, blake2f(1, random, 2), good[:212], good + b"\0", b"", gas=400_000)


@case("istanbul")
def blake2_rounds_beyond_its_gas(stage: Stage) -> None:
    """One round more than there is gas."""
    random = Random(10)
    _ask(stage, 9, *(blake2f(rounds, random, 1) for rounds in (999, 1_000, 1_001, 2**32 - 1)), gas=1_000)


_INFINITY = b"\xc0" + bytes(47)
_KZG_HASH = b"\1" + sha256(_INFINITY).digest()[1:]
_BLS_MODULUS = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


@case("cancun")
def point_evaluation(stage: Stage) -> None:
    """The polynomial zero, and each field of the input spoilt."""
    good = _KZG_HASH + word(5) + word(0) + _INFINITY + _INFINITY
    bad = [b"\2" + good[1:], good[:-1], good + b"\0", b"", bytes(192)]
    bad.append(_KZG_HASH + word(_BLS_MODULUS) + word(0) + _INFINITY * 2)
    bad.append(_KZG_HASH + word(5) + word(_BLS_MODULUS) + _INFINITY * 2)
    bad.append(_KZG_HASH + word(5) + word(1) + _INFINITY * 2)
    bad.append(_KZG_HASH + word(5) + word(0) + _INFINITY + b"\xc0" + bytes(46) + b"\1")
    _ask(stage, 10, good, *bad, gas=200_000)


def _fp(value: int) -> bytes:
    return value.to_bytes(64, "big")


_BLS_G1 = _fp(
    0x17F1D3A73197D7942695638C4FA9AC0FC3688C4F9774B905A14E3A3F171BAC586C55E83FF97A1AEFFB3AF00ADB22C6BB
) + _fp(0x08B3F481E3AAA0F1A09E30ED741D8AE4FCF5E095D5D00AF600DB18CB2C04B3EDD03CC744A2888AE40CAA232946C5E7E1)
_BLS_G2 = b"".join(
    map(
        _fp,
        (
            0x024AA2B2F08F0A91260805272DC51051C6E47AD4FA403B02B4510B647AE3D1770BAC0326A805BBEFD48056C8C121BDB8,
            0x13E02B6052719F607DACD3A088274F65596BD0D09920B61AB5DA61BBDC7F5049334CF11213945D57E5AC7D055D042B7E,
            0x0CE5D527727D6E118CC9CDC6DA2E351AADFD9BAA8CBDD3A76D429A695160D12C923AC9CC3BACA289E193548608B82801,
            0x0606C4A02EA734CC32ACD2B02BC28B99CB3E287E85A763AF267492AB572E99AB3F370D275CEC1DA1AAA9075FF05F79BE,
        ),
    )
)
# On the curve y^2 = x^3 + 4, and not in the subgroup.
_BLS_OUTSIDE = _fp(0) + _fp(2)


@case("prague")
def bls_g1_add(stage: Stage) -> None:
    """Points, infinity, a point outside the subgroup (which addition allows), and malformed ones."""
    long = _fp(BLS_P) + _BLS_G1[64:]
    padded = b"\1" + _BLS_G1[1:]
    seconds = (_BLS_G1, bytes(128), _BLS_OUTSIDE, long, padded, _fp(1) + _fp(1))
    _ask(stage, 11, *(_BLS_G1 + other for other in seconds), _BLS_G1, b"", _BLS_G1 * 2 + b"\0", gas=100_000)


@case("prague")
def bls_g1_msm(stage: Stage) -> None:
    """One and two pairs, scalars beyond the order, and a point outside the subgroup."""
    pairs = (_BLS_G1 + word(2), _BLS_G1 + word(2**256 - 1), bytes(128) + word(7), _BLS_OUTSIDE + word(1))
    _ask(stage, 12, *pairs, _BLS_G1 + word(1) + _BLS_G1 + word(0), b"", _BLS_G1, gas=200_000)


@case("prague")
def bls_g2_add(stage: Stage) -> None:
    """Points, infinity, and malformed ones."""
    _ask(stage, 13, _BLS_G2 * 2, _BLS_G2 + bytes(256), _BLS_G2 + _fp(1) * 4, _BLS_G2, b"", gas=100_000)


@case("prague")
def bls_g2_msm(stage: Stage) -> None:
    """One pair, infinity, and none."""
    _ask(stage, 14, _BLS_G2 + word(2), bytes(256) + word(7), b"", _BLS_G2, gas=200_000)


@case("prague", "osaka")
def bls_pairing(stage: Stage) -> None:
    """Infinity, one pair, and none."""
    _ask(stage, 15, bytes(384), _BLS_G1 + bytes(256), b"", _BLS_OUTSIDE + bytes(256), bytes(383), gas=300_000)


@case("prague")
def bls_maps(stage: Stage) -> None:
    """Field elements to points, and what is none."""
    _ask(stage, 16, _fp(1), _fp(0), _fp(BLS_P - 1), _fp(BLS_P), b"", _fp(1) + b"\0", gas=100_000)


@case("prague")
def bls_maps_to_g2(stage: Stage) -> None:
    """Field elements to points, and what is none."""
    _ask(stage, 17, _fp(1) + _fp(2), _fp(0) * 2, _fp(BLS_P) + _fp(0), b"", _fp(1), gas=100_000)


@case("osaka")
def p256(stage: Stage) -> None:
    """EIP-7951: a good signature, each field spoilt, and lengths."""
    key = ec.derive_private_key(0x1234567, ec.SECP256R1())
    digest = sha256(b"message").digest()
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
    r, s = utils.decode_dss_signature(key.sign(digest, algorithm))
    point = key.public_key().public_numbers()

    def encode(r: int, s: int, x: int, y: int) -> bytes:
        return digest + word(r) + word(s) + word(x) + word(y)

    good = encode(r, s, point.x, point.y)
    bad = [
        encode(0, s, point.x, point.y),
        encode(r, 0, point.x, point.y),
        encode(P256_N, s, point.x, point.y),
    ]
    bad += [encode(r, P256_N, point.x, point.y), encode(r, P256_N - s, point.x, point.y), encode(r, s, 0, 0)]
    bad += [encode(r, s, point.x, point.y ^ 1), encode(r, s, P256_P, point.y), encode(r, s, point.x, P256_P)]
    _ask(stage, 0x100, good, *bad, good[:-1], good + b"\0", b"", gas=100_000)


@case()
def contracts_that_do_not_exist_yet(stage: Stage) -> None:
    """Every address up to 0x14 and around 0x100, called with and without value."""
    code = b""
    numbers = (*range(0x15), 0xFF, 0x100, 0x101)
    for slot, number in enumerate(numbers):
        where = address(number.to_bytes(20, "big"))
        code += sstore(2 * slot, call(where, gas=40_000, value=slot % 2)) + sstore(2 * slot + 1, op("GAS"))
    stage.account(CALLER, nonce=1, balance=10**9, code=code)
    stage.attempt(stage.tx(CALLER, gas=8_000_000))
    stage.attempt(*(stage.tx(number.to_bytes(20, "big"), value=number % 2, gas=60_000) for number in numbers))
