"""Amounts at the edges of what numbers hold."""

from __future__ import annotations

from ..assembler import address, call, op, push, sstore
from ..build import Withdrawal
from ..transactions import FEE_MARKET, Account
from .registry import OTHER, TARGET, Stage, case

CONTRACT = b"\x51" * 20
_VAST = (2**127, 2**128 - 1, 2**128, 2**128 + 1, 2**192, 2**255, 2**256 - 10**30)
HOLDER = Account.named("holder")


@case(balance=_VAST)
def vast_sender(stage: Stage, balance: int) -> None:
    """A sender that has more than 128 bits of wei pays, sends most of it, and spends all."""
    stage.account(HOLDER.address, balance=balance)
    stage.attempt(
        stage.tx(sender=HOLDER, value=1),
        stage.tx(sender=HOLDER, value=balance // 2),
        stage.tx(TARGET, sender=OTHER),
    )
    left = int(stage.chain.account(HOLDER.address).balance)
    stage.attempt(stage.tx(sender=HOLDER, value=left - 1_000_000 * 10**10, gas=1_000_000))


@case(balance=_VAST)
def vast_sender_one_wei_short(stage: Stage, balance: int) -> None:
    """The sum of value and fees, one wei above what the sender has, in more than 128 bits."""
    stage.account(HOLDER.address, balance=balance)
    stage.attempt(stage.tx(sender=HOLDER, value=balance - 1_000_000 * 10**10 + 1, gas=1_000_000))


@case(balance=_VAST)
def vast_maker(stage: Stage, balance: int) -> None:
    """Fees and rewards for an account that has nearly everything."""
    stage.account(CONTRACT, balance=balance)
    stage.attempt(stage.tx(), stage.tx(CONTRACT, value=5), coinbase=CONTRACT)


@case(balance=_VAST)
def vast_balance_moves(stage: Stage, balance: int) -> None:
    """A contract that has more than 128 bits of wei looks at it, and sends it."""
    code = sstore(0, op("ADDRESS", "BALANCE"))
    code += sstore(1, call(address(TARGET), value=op("ADDRESS", "BALANCE"), gas=9_000))
    stage.account(CONTRACT, nonce=1, balance=balance, code=code)
    stage.attempt(stage.tx(CONTRACT), stage.tx(CONTRACT))


@case("shanghai")
def vast_withdrawals(stage: Stage) -> None:
    """The largest amount that a withdrawal has, to many kinds of accounts."""
    stage.account(CONTRACT, nonce=1, code=b"\xfe")
    targets = (CONTRACT, TARGET, bytes(19) + b"\3", bytes(20), CONTRACT, b"\xff" * 20)
    most = 2**64 - 1
    many = tuple(Withdrawal(n, most, where, most) for n, where in enumerate(targets))
    stage.attempt(stage.tx(), withdrawals=many)
    stage.attempt(withdrawals=tuple(Withdrawal(n, 0, where, 0) for n, where in enumerate(targets)))


@case("shanghai")
def withdrawal_of_nothing(stage: Stage) -> None:
    """A withdrawal of zero makes no account."""
    zero = (Withdrawal(1, 1, CONTRACT, 0), Withdrawal(2, 2, b"\x57" * 20, 0))
    stage.attempt(withdrawals=zero, coinbase=b"\x56" * 20)


@case("shanghai")
def many_withdrawals(stage: Stage) -> None:
    """A list that is longer than one of a real block."""
    many = tuple(Withdrawal(n, n, (n % 7).to_bytes(20, "big"), n) for n in range(100))
    stage.attempt(stage.tx(), withdrawals=many)


@case("london", fee=(2**63, 2**64 - 1, 2**64, 2**100))
def vast_fee(stage: Stage, fee: int) -> None:
    """A fee that exceeds 64 bits counts in the balance that is needed."""
    stage.account(HOLDER.address, balance=2**200)
    transactions = [
        stage.tx(sender=HOLDER, kind=FEE_MARKET, price=fee, tip=tip, gas=21_000) for tip in (0, fee)
    ]
    stage.attempt(*transactions)


@case("london", price=(2**127, 2**128 - 1))
def vast_price(stage: Stage, price: int) -> None:
    """The largest prices that the binary's transactions hold."""
    stage.account(HOLDER.address, balance=2**200)
    stage.attempt(stage.tx(sender=HOLDER, price=price, gas=21_000))


@case("london", "paris", fee=(7, 8, 2**32, 2**63, 2**64 - 1))
def base_fee_of_the_genesis(stage: Stage, fee: int) -> None:
    """Base fees up to the most that a header holds here, with a block that raises them."""
    stage.world.base_fee = fee
    stage.world.gas_limit = 5_000_000
    stage.account(HOLDER.address, balance=2**200)
    stage.account(CONTRACT, nonce=1, code=b"\xfe")
    stage.attempt(stage.tx(CONTRACT, sender=HOLDER, gas=2_400_000, price=2**66))
    stage.attempt(stage.tx(CONTRACT, sender=HOLDER, gas=21_000, price=2**66))
    stage.attempt()


@case()
def value_to_oneself(stage: Stage) -> None:
    """The whole balance, sent to its owner."""
    code = sstore(0, call(op("ADDRESS"), value=op("ADDRESS", "BALANCE"), gas=9_000)) + push(0) + op("POP")
    stage.account(CONTRACT, nonce=1, balance=77, code=code)
    stage.account(HOLDER.address, balance=10**18)
    stage.attempt(stage.tx(CONTRACT), stage.tx(HOLDER.address, sender=HOLDER, value=10**18 - 10**16))


@case()
def drained_before_its_turn(stage: Stage) -> None:
    """A sender that an earlier transaction of the block leaves with less than it may spend."""
    stage.account(HOLDER.address, balance=10**18)
    first = stage.tx(sender=HOLDER, value=10**18 - 21_000 * 10**10 - 10**15, gas=21_000)
    # It holds what 21,000 gas cost, and not what 1,000,000 may cost.
    stage.attempt(first, stage.tx(sender=HOLDER, gas=1_000_000))


@case()
def filled_before_its_turn(stage: Stage) -> None:
    """A sender that an earlier transaction of the block gives what it needs."""
    poor = Account.named("filled")
    stage.attempt(stage.tx(poor.address, value=10**17), stage.tx(sender=poor, value=10**16))
