"""System contracts: present, absent, failing, and at the limit of their gas."""

from __future__ import annotations

from .. import system
from ..assembler import op, push, sstore, words
from .registry import TARGET, Stage, case

_REQUESTS = (system.WITHDRAWAL_REQUESTS, system.CONSOLIDATION_REQUESTS)
_STORING = (system.HISTORY, system.BEACON_ROOTS)
SYSTEM_GAS = 30_000_000


def burning(gas: int) -> bytes:
    """Code that uses exactly that much gas, in a call without input: a hash over memory."""
    # A loop of JUMPDESTs would be too long, memory is the cheapest way: find the largest size that
    # fits and fill up with JUMPDESTs.
    size = 0
    for step in (1 << bit for bit in range(24, -1, -1)):
        if _memory_gas(size + step) + 13 <= gas:
            size += step
    rest = gas - _memory_gas(size) - 13
    return push(size, 4) + op("MLOAD", "POP") + b"\x5b" * rest + push(0, 1) + op("POP")


def _memory_gas(offset: int) -> int:
    """What it costs to expand memory for a word at that offset."""
    count = (offset + 32 + 31) // 32
    return 3 * count + count * count // 512


@case("prague", where=_REQUESTS)
def requests_contract_absent(stage: Stage, where: bytes) -> None:
    """EIP-7002, EIP-7251: a block without the contract is invalid."""
    del stage.world.accounts[where]
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def requests_contract_without_code(stage: Stage, where: bytes) -> None:
    """EIP-7002, EIP-7251: an account without code is no contract."""
    stage.account(where, balance=5, nonce=1)
    stage.attempt()


@case("prague", where=_STORING)
def storing_contract_absent(stage: Stage, where: bytes) -> None:
    """EIP-2935, EIP-4788: without the contract nothing is stored, and the block is valid."""
    del stage.world.accounts[where]
    stage.attempt(stage.tx())
    stage.attempt(stage.tx(where, data=bytes(32)))


@case("cancun", "cancun")
def beacon_roots_absent(stage: Stage) -> None:
    """EIP-4788: without the contract nothing is stored, and the block is valid."""
    del stage.world.accounts[system.BEACON_ROOTS]
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_reverts(stage: Stage, where: bytes) -> None:
    """A failing requests contract makes the block invalid; the storing ones may fail."""
    stage.account(where, nonce=1, code=push(0) + push(0) + op("REVERT"))
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_is_invalid_code(stage: Stage, where: bytes) -> None:
    """An invalid instruction is a failure like any other."""
    stage.account(where, nonce=1, code=b"\xfe")
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def contract_uses_all_of_its_gas(stage: Stage, where: bytes) -> None:
    """Exactly 30,000,000 gas is enough."""
    stage.account(where, nonce=1, code=burning(SYSTEM_GAS))
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_needs_one_gas_more(stage: Stage, where: bytes) -> None:
    """30,000,001 gas is one too many."""
    marked = sstore(0, 7)
    stage.account(where, nonce=1, code=burning(SYSTEM_GAS + 1 - 22_106) + marked)
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_stores_with_its_last_gas(stage: Stage, where: bytes) -> None:
    """A cold slot, set with the last of 30,000,000 gas: the store is seen in the state root."""
    marked = sstore(0, 7)
    stage.account(where, nonce=1, code=burning(SYSTEM_GAS - 22_106) + marked)
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def contract_answers_anything(stage: Stage, where: bytes) -> None:
    """Whatever the contract answers becomes a request, unless it is empty."""
    stage.account(where, nonce=1, code=words(0, 5) + op("RETURN"))
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_sees_the_system_call(stage: Stage, where: bytes) -> None:
    """Caller, origin, value and input are those of a system call.

    The gas price is left out: EELS gives the base fee, geth zero, and no EIP says which.
    """
    seen = ("CALLER", "ORIGIN", "CALLVALUE", "CALLDATASIZE")
    code = b"".join(sstore(slot, op(name)) for slot, name in enumerate(seen))
    stage.account(where, nonce=1, code=code)
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_sees_its_gas(stage: Stage, where: bytes) -> None:
    """A system call begins with 30,000,000 gas."""
    stage.account(where, nonce=1, code=sstore(0, op("GAS")))
    stage.attempt(stage.tx())


@case("prague", where=(*_REQUESTS, *_STORING))
def contract_destroys_itself(stage: Stage, where: bytes) -> None:
    """A self-destruct in a system call sends the balance and nothing else (EIP-6780)."""
    code = words(b"\x73" + TARGET) + op("SELFDESTRUCT")
    stage.account(where, nonce=1, balance=77, code=code)
    stage.attempt(stage.tx())
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def contract_logs(stage: Stage, where: bytes) -> None:
    """Logs of system calls are in no receipt and in no bloom."""
    stage.account(where, nonce=1, code=words(0, 0, 9) + op("LOG1"))
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def contract_is_a_delegation(stage: Stage, where: bytes) -> None:
    """Code of the form of a delegation makes the system call run the target's code, or not."""
    target = stage.account(b"\x64" * 20, nonce=1, code=sstore(1, 1) + words(0, 3) + op("RETURN"))
    stage.account(where, nonce=1, code=b"\xef\x01\x00" + target)
    stage.attempt(stage.tx())


@case("prague", where=_REQUESTS)
def requests(stage: Stage, where: bytes) -> None:
    """More requests than one block takes, over several blocks."""
    size = 56 if where == system.WITHDRAWAL_REQUESTS else 96
    for number in range(3):
        data = bytes([number]) * size
        stage.attempt(*(stage.tx(where, data=data, value=10**6) for _ in range(20 if number == 0 else 1)))
    for _ in range(3):
        stage.attempt()


@case("prague", where=_REQUESTS)
def requests_of_every_price(stage: Stage, where: bytes) -> None:
    """A request that pays too little, and ones of wrong lengths."""
    size = 56 if where == system.WITHDRAWAL_REQUESTS else 96
    sized = [stage.tx(where, data=bytes(n), value=1, gas=200_000) for n in (0, 1, size - 1, size, size + 1)]
    unpaid = stage.tx(where, data=bytes(size), value=0, gas=200_000)
    stage.attempt(*sized, unpaid)
    stage.attempt(stage.tx(where, gas=200_000))


@case("cancun")
def beacon_root_is_read(stage: Stage) -> None:
    """EIP-4788: the root of this block's parent is there for this block's transactions."""
    time = 10_012
    reader = stage.account(b"\x65" * 20, nonce=1, code=_reader(system.BEACON_ROOTS))
    wanted = time.to_bytes(32, "big")
    stage.attempt(
        stage.tx(reader, data=wanted), stage.tx(reader, data=(time - 1).to_bytes(32, "big")), step=12
    )
    stage.attempt(stage.tx(reader, data=wanted), beacon_root=b"\x99" * 32)


@case("prague")
def parent_hash_is_read(stage: Stage) -> None:
    """EIP-2935: the parent's hash is there for this block's transactions."""
    reader = stage.account(b"\x65" * 20, nonce=1, code=_reader(system.HISTORY))
    stage.attempt(stage.tx(reader, data=bytes(32)))
    stage.attempt(*(stage.tx(reader, data=n.to_bytes(32, "big")) for n in (0, 1, 2, 3)))


def _reader(where: bytes) -> bytes:
    """Calls with its input, and stores the answer at the slot that its input names."""
    code = push(0) + op("CALLDATALOAD") + push(0) + op("MSTORE")
    code += words(op("GAS"), b"\x73" + where, 0, 0, 32, 32, 32) + op("CALL")
    code += push(32) + op("MLOAD", "ADD") + push(0) + op("CALLDATALOAD", "SSTORE")
    return code


@case("cancun")
def system_address_sends(stage: Stage) -> None:
    """The system address has no account after system calls, and can receive money."""
    stage.attempt(stage.tx(b"\xff" * 19 + b"\xfe", value=3))
    stage.attempt()


@case("prague")
def requests_in_order(stage: Stage) -> None:
    """Withdrawals and consolidations in one block make two requests in their order."""
    stage.attempt(
        stage.tx(system.CONSOLIDATION_REQUESTS, data=bytes(96), value=1),
        stage.tx(system.WITHDRAWAL_REQUESTS, data=bytes(56), value=1),
        stage.tx(system.CONSOLIDATION_REQUESTS, data=b"\1" * 96, value=1),
    )
