"""Random programs for the virtual machine: pieces that observe and change as much as they can.

Whatever a piece finds out (a balance, the gas left, a call's success) it stores or logs, so that
two engines that differ in it come to different state roots.
"""

from __future__ import annotations

from random import Random

from . import precompiles
from .assembler import address, call, create, log, memory, mstore, op, push, returning, sload, sstore, words
from .forks import Fork

SLOTS = 6

# Instructions that leave one word, by the fork that brought them.
_ENVIRONMENT = (
    ("frontier", ("ADDRESS", "ORIGIN", "CALLER", "CALLVALUE", "CALLDATASIZE", "CODESIZE", "GASPRICE")),
    ("frontier", ("COINBASE", "TIMESTAMP", "NUMBER", "PREVRANDAO", "GASLIMIT", "PC", "GAS", "MSIZE")),
    ("byzantium", ("RETURNDATASIZE",)),
    ("istanbul", ("CHAINID", "SELFBALANCE")),
    ("london", ("BASEFEE",)),
    ("shanghai", ("PUSH0",)),
    ("cancun", ("BLOBBASEFEE",)),
)
_BINARY: tuple[str, ...] = (
    "ADD",
    "MUL",
    "SUB",
    "DIV",
    "SDIV",
    "MOD",
    "SMOD",
    "SIGNEXTEND",
    "LT",
    "GT",
    "SLT",
    "SGT",
)
_BINARY += ("EQ", "AND", "OR", "XOR", "BYTE", "EXP")
_EDGES = (0, 1, 2, 31, 32, 255, 256, 2**64, 2**128, 2**255 - 1, 2**255, 2**256 - 1)


class Programs:
    """Draws programs for one chain."""

    def __init__(self, random: Random, fork: Fork, targets: list[bytes]) -> None:
        self.random = random
        self.fork = fork
        # What programs call, look at and send to.
        self.targets = targets
        self._environment = [name for since, names in _ENVIRONMENT if fork.since(since) for name in names]

    def program(self, most: int = 8) -> bytes:
        """A program of up to that many pieces, with an end."""
        code = b"".join(self.piece() for _ in range(self.random.randint(1, most)))
        return code + self._end()

    def piece(self) -> bytes:
        """A piece that leaves the stack as it was."""
        pieces = [
            (6, self._store),
            (3, self._environment_word),
            (2, self._arithmetic),
            (3, self._look),
            (2, self._log),
            (5, self._call),
            (2, self._create),
            (2, self._precompile),
            (1, self._ancestor),
            (1, self._memory),
            (1, self._skip),
            (2, self._newer),
        ]
        weights = [weight for weight, _ in pieces]
        return self.random.choices([piece for _, piece in pieces], weights)[0]()

    def target(self) -> bytes:
        """Code that leaves an address on the stack."""
        draw = self.random.random()
        if draw < 0.08:
            return op("CALLER")
        if draw < 0.16:
            return push(0) + op("CALLDATALOAD")
        if draw < 0.2:
            return op("COINBASE")
        return address(self.random.choice(self.targets))

    def _slot(self) -> bytes:
        return push(self.random.randrange(SLOTS))

    def _keep(self, value: bytes) -> bytes:
        """Stores a word that `value` leaves on the stack."""
        if self.random.random() < 0.3:
            return value + push(0) + op("MSTORE") + log([7], 0, 32)
        return sstore(self._slot(), value)

    def _store(self) -> bytes:
        draw = self.random.random()
        if draw < 0.4:
            return sstore(self._slot(), push(self.random.choice((0, 0, 1, 2, 2**255))))
        if draw < 0.8:
            slot = self._slot()
            return sstore(slot, sload(slot) + push(1) + op("ADD"))
        return sstore(self._slot(), push(32) + op("CALLDATALOAD"))

    def _environment_word(self) -> bytes:
        name = self.random.choice(self._environment)
        return self._keep(op(name))

    def _arithmetic(self) -> bytes:
        operands = [self.random.choice((*_EDGES, self.random.getrandbits(256))) for _ in range(3)]
        draw = self.random.random()
        if draw < 0.2:
            name = self.random.choice(("ADDMOD", "MULMOD"))
            return self._keep(words(*operands) + op(name))
        if draw < 0.4 and self.fork.since("constantinople"):
            name = self.random.choice(("SHL", "SHR", "SAR"))
            return self._keep(words(operands[0] % 300, operands[1]) + op(name))
        if draw < 0.5 and self.fork.since("osaka"):
            return self._keep(words(operands[0]) + op("CLZ"))
        return self._keep(words(*operands[:2]) + op(self.random.choice(_BINARY)))

    def _look(self) -> bytes:
        names = ["BALANCE", "EXTCODESIZE", "EXTCODECOPY"]
        if self.fork.since("constantinople"):
            names.append("EXTCODEHASH")
        name = self.random.choice(names)
        if name == "EXTCODECOPY":
            copy = words(self.target(), 0, self.random.choice((0, 1, 40)), self.random.choice((0, 23, 60)))
            return copy + op(name) + self._keep(push(0) + op("MLOAD"))
        return self._keep(self.target() + op(name))

    def _log(self) -> bytes:
        topics = [self.random.getrandbits(8) for _ in range(self.random.randrange(5))]
        return log(topics, self.random.choice((0, 5, 64)), self.random.choice((0, 1, 32, 100)))

    def _call(self) -> bytes:
        kinds = ["CALL", "CALL", "CALL", "CALLCODE"]
        if self.fork.since("homestead"):
            kinds.append("DELEGATECALL")
        if self.fork.since("byzantium"):
            kinds.append("STATICCALL")
        gas = self.random.choice((op("GAS"), push(0), push(2_300), push(30_000), push(30_000)))
        if not self.fork.since("tangerine_whistle") and gas == op("GAS"):
            # Before EIP-150 no call can pass on all that is left.
            gas = push(20_000)
        code = call(
            self.target(),
            kind=self.random.choice(kinds),
            gas=gas,
            value=self.random.choice((0, 0, 1, 10**15, 10**30)),
            data=(0, self.random.choice((0, 4, 64))),
            result=(0, self.random.choice((0, 32))),
        )
        return self._keep(code)

    def _create(self) -> bytes:
        initcode = self.initcode(most=2)[:400]
        salt = None
        if self.fork.since("constantinople") and self.random.random() < 0.5:
            salt = self.random.randrange(3)
        made = create(initcode, self.random.choice((0, 0, 1)), salt)
        if self.random.random() < 0.5:
            return self._keep(made)
        called = made + push(0) + op("MSTORE")
        return called + self._keep(call(push(0) + op("MLOAD"), gas=push(40_000), value=0))

    def initcode(self, most: int = 5) -> bytes:
        """What a creation executes: it may deploy a program, or what no contract may be."""
        draw = self.random.random()
        if draw < 0.6:
            return returning(b"".join(self.simple() for _ in range(self.random.randint(1, most))))
        if draw < 0.7:
            return returning(bytes([0xEF]) + self.random.randbytes(self.random.randrange(4)))
        if draw < 0.75:
            return returning(b"\xef\x01\x00" + self.random.choice(self.targets))
        if draw < 0.8:
            return b""
        if draw < 0.9:
            return self.simple() + address(self.random.choice(self.targets)) + op("SELFDESTRUCT")
        return self.simple() + (push(0) + push(0) + op("REVERT") if draw < 0.95 else b"\xfe")

    def simple(self) -> bytes:
        """A piece that neither calls nor creates."""
        return self.random.choice((self._store, self._environment_word, self._look, self._log))()

    def _precompile(self) -> bytes:
        number, data = precompiles.cheap(self.random, self.fork)
        code = memory(data)
        gas = self.random.choice((op("GAS"), push(50_000), push(3_000), push(700)))
        if not self.fork.since("tangerine_whistle"):
            gas = push(30_000)
        code += self._keep(call(push(number), gas=gas, data=(0, len(data)), result=(0, 32)))
        return code + self._keep(push(0) + op("MLOAD"))

    def _ancestor(self) -> bytes:
        distance = self.random.choice((0, 1, 2, 5, 255, 256, 257))
        return self._keep(push(distance) + op("NUMBER", "SUB", "BLOCKHASH"))

    def _memory(self) -> bytes:
        code = mstore(self.random.choice((0, 1, 100, 1_000)), self.random.getrandbits(256))
        if self.fork.since("cancun") and self.random.random() < 0.5:
            code += words(self.random.randrange(90), self.random.randrange(90), self.random.randrange(90))
            code += op("MCOPY")
        return code + self._keep(words(0, self.random.choice((0, 31, 200))) + op("KECCAK"))

    def _skip(self) -> bytes:
        """A piece that runs only if a slot holds zero."""
        body = self.simple()
        head = sload(self._slot())
        jump = head + op("PC") + push(len(body) + 6, 2) + op("ADD", "JUMPI")
        return jump + body + op("JUMPDEST")

    def _newer(self) -> bytes:
        """Transient storage and the hashes of blobs, where the fork has them."""
        if not self.fork.since("cancun"):
            return self._store()
        draw = self.random.random()
        if draw < 0.4:
            return words(self._slot(), self.random.randrange(5)) + op("TSTORE")
        if draw < 0.8:
            return self._keep(self._slot() + op("TLOAD"))
        return self._keep(push(self.random.randrange(4)) + op("BLOBHASH"))

    def _end(self) -> bytes:
        draw = self.random.random()
        if draw < 0.6:
            return op("STOP")
        if draw < 0.75:
            return words(0, 32) + op("RETURN")
        if draw < 0.85:
            return self.target() + op("SELFDESTRUCT")
        if draw < 0.95:
            # From Byzantium on it reverts; before that it is an invalid instruction.
            return words(0, 32) + op("REVERT")
        return b"\xfe"
