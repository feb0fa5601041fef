"""Blocks that EELS accepts and that must be refused, each with the rule that EELS does not have."""

from __future__ import annotations

from ..build import Draft, Withdrawal, build
from ..forks import Schedule, fork
from ..invalid import Subject, encode
from ..transactions import ACCESS_LIST, BLOB, FEE_MARKET, SET_CODE, Account, Authorization, blob_hash
from .registry import TARGET, Stage, case, on_schedule

_HOLDER = Account.named("base fee")
_CHAIN_ID = (
    "EIP-2718's types name their chain: EIP-2930, EIP-1559, EIP-4844 and EIP-7702 let only this chain's"
    " id pass. EELS's check_transaction and recover_sender do not compare it."
)


@case("berlin", kind=(ACCESS_LIST, FEE_MARKET, BLOB, SET_CODE))
def chain_id_of_a_typed_transaction(stage: Stage, kind: int) -> None:
    """A signature for another chain is replayed."""
    first = {ACCESS_LIST: "berlin", FEE_MARKET: "london", BLOB: "cancun", SET_CODE: "prague"}[kind]
    if not stage.fork.since(first):
        stage.attempt()
        return
    authorizations = (Authorization(Account.named("replayed"), TARGET, 0),) if kind == SET_CODE else ()
    blobs = (blob_hash(1),) if kind == BLOB else ()
    stage.overruled = _CHAIN_ID
    stage.attempt(stage.tx(kind=kind, chain_id=1, authorizations=authorizations, blobs=blobs))


def gas_limit_of_the_first_block_of_london(stage: Stage, limit: int) -> None:
    """EIP-1559: it is compared with twice the parent's."""
    stage.overruled = (
        "EIP-1559: the gas limit of London's first block is within 1/1024 of twice its parent's. EELS's"
        " validate_header checks no gas limit at that block, as only calculate_base_fee_per_gas does."
    )
    stage.attempt(stage.tx())
    built = build(stage.chain.copy(), Draft([stage.tx()], gas_limit=limit))
    stage.judge(built.encoded)


def _fill_blocks(stage: Stage, count: int) -> None:
    """Full blocks from the highest base fee on: that of the fourth block needs more than 64 bits."""
    stage.world.base_fee = 2**64 - 1
    stage.world.gas_limit = 5_000_000
    burner = stage.account(b"\x51" * 20, nonce=1, code=b"\xfe")
    stage.account(_HOLDER.address, balance=2**200)
    for _ in range(count):
        stage.attempt(stage.tx(burner, sender=_HOLDER, gas=5_000_000, price=2**70))


@case("london")
def base_fee_beyond_64_bits(stage: Stage) -> None:
    """A valid header that the binary can't hold is refused, never wrapped."""
    _fill_blocks(stage, 2)
    stage.overruled = "A base fee of 2^64 wei or more is beyond what the binary's headers hold."
    stage.attempt()


@case()
def price_beyond_128_bits(stage: Stage) -> None:
    """A valid price that the binary's transactions can't hold is refused, never wrapped."""
    stage.account(_HOLDER.address, balance=2**200)
    stage.overruled = "A gas price of 2^128 wei or more is beyond what the binary's transactions hold."
    stage.attempt(stage.tx(sender=_HOLDER, price=2**128, gas=21_000))


@case()
def timestamp_beyond_64_bits(stage: Stage) -> None:
    """No client's header holds such a time."""
    stage.overruled = "Clients hold a timestamp in 64 bits; EELS's U256 has no such limit."
    stage.attempt(step=2**64)


@case("shanghai")
def withdrawal_beyond_64_bits(stage: Stage) -> None:
    """EIP-4895: the amount has 64 bits."""
    stage.overruled = "EIP-4895: a withdrawal's amount is a uint64. EELS has a U256."
    stage.attempt(withdrawals=(Withdrawal(1, 1, TARGET, 2**64),))


@case("london")
def base_fee_modulo_64_bits(stage: Stage) -> None:
    """The same block with the base fee that wrapping would give; EELS refuses it as well."""
    _fill_blocks(stage, 2)
    built = build(stage.chain.copy(), Draft())
    subject = Subject(stage.chain, stage.chain, built)
    fee = int.from_bytes(subject.get("base_fee_per_gas"), "big")
    assert fee >= 2**64
    subject.put("base_fee_per_gas", fee % 2**64)
    stage.judge(encode(subject.block))


def _register() -> None:
    schedule = Schedule.switch(fork("berlin"), fork("london"), 2)
    parent = 30_000_000
    for limit in (parent, 2 * parent - 2 * parent // 1024, 2 * parent + 2 * parent // 1024, 3 * parent):

        def make(stage: Stage, limit: int = limit) -> None:
            gas_limit_of_the_first_block_of_london(stage, limit)

        on_schedule(make, f"gas_limit_of_the_first_block_of_london[{limit}]", schedule)


_register()
