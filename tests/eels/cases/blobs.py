"""EIP-4844 and what changed it: numbers of blobs, and their fee."""

from __future__ import annotations

from ..assembler import op, push, sstore
from ..transactions import BLOB, Account, Tx, blob_hash
from .registry import TARGET, Stage, case

CONTRACT = b"\x51" * 20
HOLDER = Account.named("blobs")


def _tx(stage: Stage, count: int, **fields: object) -> Tx:
    blobs = tuple(blob_hash(number) for number in range(count))
    return stage.tx(**{"kind": BLOB, "blobs": blobs, **fields})  # type: ignore[arg-type]


def _full(stage: Stage, count: int, **fields: object) -> list[Tx]:
    """Transactions with that many blobs together, six each at most."""
    return [_tx(stage, min(6, count - done), **fields) for done in range(0, count, 6)]


@case("cancun", missing=(1, 0, -1))
def number_in_a_block(stage: Stage, missing: int) -> None:
    """One less than the most, the most, and one more."""
    stage.attempt(*_full(stage, stage.fork.max_blobs - missing))
    stage.attempt()


@case("cancun", count=(5, 6, 7))
def number_in_a_transaction(stage: Stage, count: int) -> None:
    """EIP-7594: six is the most, from Osaka on; before that the block's limit counts."""
    stage.attempt(_tx(stage, count))


@case("cancun")
def fee_rises_and_falls(stage: Stage) -> None:
    """Full blocks, then empty ones, from a high excess on."""
    stage.world.excess_blob_gas = 40_000_000
    price = {"blob_price": 10**15}
    for count in (stage.fork.max_blobs, stage.fork.max_blobs, 0, 1, 0):
        stage.attempt(*_full(stage, count, **price))


_EXCESS = (0, 393_215, 393_216, 393_217, 786_432, 10_000_000, 100_000_000)


@case("cancun", excess=_EXCESS)
def excess_of_the_genesis(stage: Stage, excess: int) -> None:
    """The fee of the first block follows from the genesis block."""
    stage.world.excess_blob_gas = excess
    stage.world.blob_gas_used = 131_072
    code = sstore(0, op("BLOBBASEFEE")) + sstore(1, push(0) + op("BLOBHASH"))
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(_tx(stage, 1, to=CONTRACT, blob_price=10**18))
    stage.attempt(stage.tx(CONTRACT))


@case("cancun", short=(0, 1))
def fee_exactly(stage: Stage, short: int) -> None:
    """What is offered for blob gas is just enough, or one wei too little."""
    stage.world.excess_blob_gas = 60_000_000
    fee = int(
        stage.fork.gas.calculate_blob_gas_price(stage.fork.gas.calculate_excess_blob_gas(stage.chain.head))
    )
    stage.attempt(_tx(stage, 1, blob_price=fee - short))


@case("cancun", short=(0, 1))
def balance_exactly(stage: Stage, short: int) -> None:
    """The balance must hold the fee that is offered for blobs, not only the one that is paid."""
    tx = _tx(stage, 2, sender=HOLDER, blob_price=10**12, gas=50_000)
    stage.account(HOLDER.address, balance=tx.most - short)
    stage.attempt(tx)


@case("cancun")
def blobs_of_a_failure_count(stage: Stage) -> None:
    """Blobs are paid for even if the execution fails."""
    stage.account(CONTRACT, nonce=1, code=b"\xfe")
    stage.attempt(_tx(stage, 2, to=CONTRACT), _tx(stage, 1))


@case("cancun", version=(0, 2, 255))
def version_of_a_hash(stage: Stage, version: int) -> None:
    """Only version 1, at any place in the list."""
    stage.attempt(stage.tx(kind=BLOB, blobs=(blob_hash(1), bytes([version]) + bytes(31))))


@case("cancun")
def same_blob_twice(stage: Stage) -> None:
    """Nothing forbids it."""
    stage.attempt(stage.tx(kind=BLOB, blobs=(blob_hash(1), blob_hash(1))))


@case("cancun")
def hashes_in_calls(stage: Stage) -> None:
    """The hashes are there for every index, and zero beyond the last."""
    code = b"".join(
        sstore(n, push(index) + op("BLOBHASH")) for n, index in enumerate((0, 1, 2, 6, 2**64, 2**256 - 1))
    )
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(_tx(stage, 2, to=CONTRACT), stage.tx(CONTRACT))


@case("osaka", fee=(7, 10**9, 10**12))
def reserve_price(stage: Stage, fee: int) -> None:
    """EIP-7918: while blobs are cheaper than execution, the excess does not fall."""
    stage.world.base_fee = fee
    stage.world.excess_blob_gas = 5_000_000
    stage.world.blob_gas_used = 3 * 131_072
    for count in (0, 1, stage.fork.max_blobs, 0):
        stage.attempt(*_full(stage, count, price=2 * fee + 10, to=TARGET))
