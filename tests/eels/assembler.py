"""A small assembler: byte code as concatenated pieces, each of which leaves the stack as it was."""

from __future__ import annotations

from ethereum.forks.bpo2.vm.instructions import Ops

# A word: a number to push, or the code that leaves it on the stack.
Word = int | bytes


def op(*names: str) -> bytes:
    """These instructions, by the names that EELS gives them."""
    return bytes(int(Ops[name].value) for name in names)


# What leaves all the gas there is on the stack.
ALL_GAS = op("GAS")


def push(value: int, size: int | None = None) -> bytes:
    """PUSHn of a number, in as few bytes as it needs or in `size` of them."""
    size = size or max(1, (value.bit_length() + 7) // 8)
    return bytes([0x5F + size]) + value.to_bytes(size, "big")


def address(value: bytes) -> bytes:
    """PUSH20 of an address."""
    return push(int.from_bytes(value, "big"), 20)


def word(value: Word) -> bytes:
    """What leaves this word on the stack."""
    return value if isinstance(value, bytes) else push(value)


def words(*values: Word) -> bytes:
    """What leaves these on the stack, the first one on top."""
    return b"".join(word(value) for value in reversed(values))


def sstore(slot: Word, value: Word) -> bytes:
    """Stores a word."""
    return words(slot, value) + op("SSTORE")


def sload(slot: Word) -> bytes:
    """A word from storage."""
    return word(slot) + op("SLOAD")


def mstore(offset: Word, value: Word) -> bytes:
    """Writes a word to memory."""
    return words(offset, value) + op("MSTORE")


def memory(data: bytes, offset: int = 0) -> bytes:
    """Writes data to memory, in whole words."""
    code = b""
    for start in range(0, len(data), 32):
        piece = data[start : start + 32].ljust(32, b"\0")
        code += mstore(offset + start, push(int.from_bytes(piece, "big"), 32))
    return code


def log(topics: list[int], offset: int = 0, size: int = 32) -> bytes:
    """Emits an event."""
    return words(offset, size, *topics) + op(f"LOG{len(topics)}")


def call(
    target: Word,
    *,
    kind: str = "CALL",
    gas: Word = ALL_GAS,
    value: Word = 0,
    data: tuple[Word, Word] = (0, 0),
    result: tuple[Word, Word] = (0, 0),
) -> bytes:
    """Calls and leaves the success on the stack. `data` and `result` are (offset, size)."""
    money = [value] if kind in ("CALL", "CALLCODE") else []
    return words(gas, target, *money, *data, *result) + op(kind)


def create(initcode: bytes, value: Word = 0, salt: int | None = None) -> bytes:
    """Creates a contract, with CREATE2 if there is a salt, and leaves its address on the stack."""
    code = memory(initcode)
    if salt is None:
        return code + words(value, 0, len(initcode)) + op("CREATE")
    return code + words(value, 0, len(initcode), salt) + op("CREATE2")


def returning(code: bytes) -> bytes:
    """Init code that deploys `code`."""
    head = push(len(code), 2) + op("DUP1") + push(12, 1) + push(0, 1) + op("CODECOPY")
    head += push(0, 1) + op("RETURN")
    assert len(head) == 12
    return head + code


def copy_input(offset: int = 0) -> bytes:
    """Copies the whole input to memory."""
    return op("CALLDATASIZE") + push(0) + push(offset) + op("CALLDATACOPY")


def repeat(times: int, body: bytes) -> bytes:
    """Runs `body`, which leaves the stack as it was, that many times. Jumps are relative to PC."""
    # The loop's beginning is found with PC, so that the loop may be anywhere in a program.
    head = push(times, 4) + op("PC", "JUMPDEST")
    # Stack: counter, place of the PC instruction; the JUMPDEST follows it.
    tail = op("SWAP1") + push(1) + op("SWAP1", "SUB", "SWAP1")
    tail += op("DUP2", "DUP2") + push(1) + op("ADD", "JUMPI", "POP", "POP")
    return head + body + tail


def relay(target: bytes, kind: str = "CALL", slot: int = 0) -> bytes:
    """A contract that passes its input on, and stores success, length and hash of the answer."""
    passed = call(address(target), kind=kind, data=(0, op("CALLDATASIZE")))
    return copy_input() + sstore(slot, passed) + answer(slot + 1)


def answer(slot: int) -> bytes:
    """Stores length and hash of the last call's answer (from Byzantium on)."""
    code = sstore(slot, op("RETURNDATASIZE"))
    code += op("RETURNDATASIZE") + push(0) + push(0) + op("RETURNDATACOPY")
    return code + sstore(slot + 1, op("RETURNDATASIZE") + push(0) + op("KECCAK"))
