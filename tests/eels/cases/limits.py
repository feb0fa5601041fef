"""Limits of blocks and transactions, met exactly and missed by one."""

from __future__ import annotations

from ethereum_rlp import rlp

from ..assembler import op, push
from ..build import Draft, build
from ..invalid import Subject, encode
from ..transactions import ACCESS_LIST, FEE_MARKET, SET_CODE, Account, Authorization
from .registry import OTHER, TARGET, Stage, case

CONTRACT = b"\x51" * 20
MAX_BLOCK_BYTES = 10_485_760 - 2_097_152


@case(left=(0, 1, -1))
def gas_of_a_block(stage: Stage, left: int) -> None:
    """Transactions that ask for all the gas of a block, and for one unit more."""
    stage.world.gas_limit = 1_000_000
    stage.account(CONTRACT, nonce=1, code=b"\xfe")
    stage.attempt(stage.tx(CONTRACT, gas=600_000), stage.tx(CONTRACT, gas=400_000 - left))


@case()
def gas_that_was_not_used(stage: Stage) -> None:
    """Gas that a transaction leaves is there for the next one."""
    stage.world.gas_limit = 1_000_000
    stage.attempt(stage.tx(gas=979_000), stage.tx(gas=979_000), stage.tx(gas=958_000))
    stage.attempt(stage.tx(gas=979_000), stage.tx(gas=979_001))


@case(delta=(1, -1, 0))
def gas_limit_within_its_bounds(stage: Stage, delta: int) -> None:
    """The largest steps that are allowed."""
    parent = stage.world.gas_limit
    stage.attempt(stage.tx(), gas_limit=parent + delta * (parent // 1024 - 1))


@case(limit=(5_000, 4_999))
def gas_limit_at_the_minimum(stage: Stage, limit: int) -> None:
    """5,000 is the least."""
    stage.world.gas_limit = 5_003 if limit == 5_000 else 5_001
    built = build(stage.chain.copy(), Draft())
    subject = Subject(stage.chain, stage.chain, built)
    subject.put("gas_limit", limit)
    stage.judge(encode(subject.block))


@case(size=(0, 31, 32))
def extra_data(stage: Stage, size: int) -> None:
    """32 bytes are the most."""
    stage.attempt(stage.tx(), extra_data=bytes(size))


@case("osaka", above=(0, 1))
def gas_of_a_transaction(stage: Stage, above: int) -> None:
    """EIP-7825: 2^24 is the most."""
    stage.world.gas_limit = 60_000_000
    stage.attempt(stage.tx(gas=2**24), stage.tx(gas=2**24 + above, sender=OTHER))


@case("prague", "prague")
def gas_of_a_transaction_before_osaka(stage: Stage) -> None:
    """Before Osaka there is no cap."""
    stage.attempt(stage.tx(gas=2**24 + 1))


@case("shanghai", size=(49_151, 49_152, 49_153))
def initcode(stage: Stage, size: int) -> None:
    """EIP-3860: 49,152 bytes are the most."""
    stage.attempt(stage.tx(b"", data=b"\0" * size, gas=2_000_000))


@case("shanghai", size=(49_152, 49_153))
def initcode_in_a_contract(stage: Stage, size: int) -> None:
    """EIP-3860: one byte more is a failure of the instruction."""
    code = push(size) + push(0) + push(0) + op("CREATE") + push(0) + op("SSTORE")
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(stage.tx(CONTRACT, gas=400_000))


_DATA = (b"", b"\0", b"\1", b"\0" * 100 + b"\1" * 100, b"\1" * 1_000, b"\0" * 1_000)


@case(data=_DATA)
def intrinsic_gas(stage: Stage, data: bytes) -> None:
    """A transaction with just the gas that its data costs, and with one unit less."""
    least = _least_gas(stage, data)
    stage.attempt(stage.tx(data=data, gas=least))
    stage.attempt(stage.tx(data=data, gas=least - 1))


def _least_gas(stage: Stage, data: bytes) -> int:
    """The intrinsic gas and, from Prague on, the floor (EIP-7623)."""
    zeros = data.count(0)
    ones = len(data) - zeros
    plain = 21_000 + 4 * zeros + (16 if stage.fork.since("istanbul") else 68) * ones
    return max(plain, 21_000 + 10 * zeros + 40 * ones) if stage.fork.since("prague") else plain


@case("prague", data=_DATA[3:])
def floor_of_the_data(stage: Stage, data: bytes) -> None:
    """EIP-7623: execution above and below the floor, with refunds."""
    code = b"".join(push(0) + push(n) + op("SSTORE") for n in range(4))
    stage.account(CONTRACT, nonce=1, code=code, storage={0: 1, 1: 1, 2: 1})
    stage.attempt(
        *(stage.tx(CONTRACT, data=data, gas=gas) for gas in (_least_gas(stage, data) + 50_000, 90_000))
    )
    tuples = (Authorization(Account.named("floor"), CONTRACT, 0),)
    stage.attempt(stage.tx(CONTRACT, data=data, kind=SET_CODE, authorizations=tuples, gas=200_000))


@case("berlin")
def access_list_gas(stage: Stage) -> None:
    """EIP-2930: exactly the gas of a list, and one unit less."""
    access = ((TARGET, (bytes(32), bytes(32))), (TARGET, ()))
    least = 21_000 + 2 * 2_400 + 2 * 1_900
    stage.attempt(stage.tx(kind=ACCESS_LIST, access=access, gas=least))
    stage.attempt(stage.tx(kind=ACCESS_LIST, access=access, gas=least - 1))


@case("london", tip=(0, 1, 10**9))
def fee_at_the_base_fee(stage: Stage, tip: int) -> None:
    """EIP-1559: a fee of just the base fee leaves nothing for the maker of the block."""
    fee = stage.world.base_fee * 7 // 8
    stage.attempt(stage.tx(kind=FEE_MARKET, price=fee + tip, tip=tip), stage.tx(price=fee))
    stage.attempt(stage.tx(kind=FEE_MARKET, price=fee - 1, tip=0, sender=OTHER))


@case("osaka", above=(0, 1))
def size_of_a_block(stage: Stage, above: int) -> None:
    """EIP-7934: 8,388,608 bytes are the most. Extra data makes it exact."""
    stage.world.gas_limit = 400_000_000
    target = MAX_BLOCK_BYTES + above
    senders = [Account.named(f"size {n}") for n in range(9)]
    for sender in senders:
        stage.account(sender.address, balance=10**24)

    def transactions(last: int) -> list[object]:
        stage.nonces.next.clear()
        sizes = [1_000_000] * 8 + [last]
        # Zeros cost 10 gas each, which the cap of a transaction allows up to 1.6 MB.
        return [
            stage.tx(sender=s, data=bytes(n), gas=21_000 + 10 * n + 50_000)
            for s, n in zip(senders, sizes, strict=True)
        ]

    draft = Draft(transactions(300_000))  # type: ignore[arg-type]
    rest = target - len(build(stage.chain.copy(), draft).encoded)
    stage.attempt(*transactions(300_000 + rest))  # type: ignore[arg-type]
    assert len(stage.blocks[-1][0]) == target


@case("homestead", extra=(b"\x01", b"\xc0"))
def bytes_after_a_transaction(stage: Stage, extra: bytes) -> None:
    """Something follows the content of a legacy transaction in the list."""
    built = build(stage.chain.copy(), Draft([stage.tx()]))
    subject = Subject(stage.chain, stage.chain, built)
    subject.block[1].append(rlp.decode(extra))
    stage.judge(encode(subject.block))
