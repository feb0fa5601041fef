"""The forks of EELS in their order, and the schedule of a chain: which fork each block has.

EELS keeps one package per fork, each with its own types. `Fork` gives access to the modules of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from ethereum.fork_criteria import ByBlockNumber

NAMES = (
    "frontier",
    "homestead",
    "dao_fork",
    "tangerine_whistle",
    "spurious_dragon",
    "byzantium",
    "constantinople",
    "istanbul",
    "muir_glacier",
    "berlin",
    "london",
    "arrow_glacier",
    "gray_glacier",
    "paris",
    "shanghai",
    "cancun",
    "prague",
    "osaka",
    "bpo1",
    "bpo2",
)

# The fields of a geth genesis file that schedule a fork. Paris is scheduled by difficulty.
_BLOCK_FIELDS = {
    "homestead": ("homesteadBlock",),
    "dao_fork": ("daoForkBlock",),
    "tangerine_whistle": ("eip150Block",),
    "spurious_dragon": ("eip155Block", "eip158Block"),
    "byzantium": ("byzantiumBlock",),
    "constantinople": ("constantinopleBlock", "petersburgBlock"),
    "istanbul": ("istanbulBlock",),
    "muir_glacier": ("muirGlacierBlock",),
    "berlin": ("berlinBlock",),
    "london": ("londonBlock",),
    "arrow_glacier": ("arrowGlacierBlock",),
    "gray_glacier": ("grayGlacierBlock",),
}
_TIMED = ("shanghai", "cancun", "prague", "osaka", "bpo1", "bpo2")

# Target and maximum of blobs per block, and the update fraction of their fee (EIP-7840, EIP-7892).
_BLOBS = {
    "cancun": (3, 6, 3_338_477),
    "prague": (6, 9, 5_007_716),
    "osaka": (6, 9, 5_007_716),
    "bpo1": (10, 15, 8_346_193),
    "bpo2": (14, 21, 11_684_671),
}

CHAIN_ID = 1337
GENESIS_TIME = 10_000
# A block's time lies within the window of its number, so that a fork can begin at a window's start.
WINDOW = 1_000
DEPOSIT_CONTRACT = "0x00000000219ab540356cbb839cbe05303d7705fa"


@dataclass(frozen=True)
class Fork:
    """One fork of EELS."""

    name: str

    @cached_property
    def position(self) -> int:
        """Its place in the order of forks."""
        return NAMES.index(self.name)

    def since(self, name: str) -> bool:
        """Whether the rules of the fork `name` apply."""
        return self.position >= NAMES.index(name)

    @property
    def timed(self) -> bool:
        """Whether a timestamp activates it."""
        return self.name in _TIMED

    @property
    def max_blobs(self) -> int:
        """The most blobs that a block may have, 0 before Cancun."""
        return _BLOBS[self.name][1] if self.since("cancun") else 0

    def _module(self, path: str) -> Any:
        return import_module(f"ethereum.forks.{self.name}{path}")

    @cached_property
    def rules(self) -> Any:
        """The block rules, without the proof of work, which the binary does not check either."""
        module = self._module(".fork")
        _ = self.gas
        if hasattr(module, "validate_proof_of_work"):
            module.validate_proof_of_work = lambda header: None
        return module

    @cached_property
    def blocks(self) -> Any:
        """The types of blocks, headers and receipts."""
        return self._module(".blocks")

    @cached_property
    def bloom(self) -> Any:
        """The logs bloom."""
        return self._module(".bloom")

    @cached_property
    def transactions(self) -> Any:
        """The types of transactions."""
        return self._module(".transactions")

    @cached_property
    def types(self) -> Any:
        """The types of accounts and addresses."""
        return self._module(".fork_types")

    @cached_property
    def state(self) -> Any:
        """The state and what changes it."""
        return self._module(".state")

    @cached_property
    def trie(self) -> Any:
        """The Merkle trie."""
        return self._module(".trie")

    @cached_property
    def vm(self) -> Any:
        """The environments of the virtual machine."""
        return self._module(".vm")

    @cached_property
    def gas(self) -> Any:
        """Gas and its prices.

        EELS takes a parent of another fork for one without blob gas, which is right at Cancun's
        first block only (EIP-4844): here the headers of all forks since Cancun count.
        """
        module = self._module(".vm.gas")
        if self.since("cancun"):
            earlier = FORKS[NAMES.index("cancun") : self.position + 1]
            module.Header = tuple(other.blocks.Header for other in earlier)
        return module

    def __str__(self) -> str:
        return self.name


FORKS = tuple(Fork(name) for name in NAMES)


def fork(name: str) -> Fork:
    """The fork of that name."""
    return FORKS[NAMES.index(name)]


def since(name: str) -> tuple[Fork, ...]:
    """That fork and all later ones."""
    return FORKS[NAMES.index(name) :]


@dataclass(frozen=True)
class Step:
    """A fork, and the number of the first block that has its rules."""

    fork: Fork
    number: int

    @property
    def time(self) -> int:
        """The timestamp that activates it, if a timestamp does."""
        return 0 if self.number == 0 else GENESIS_TIME + self.number * WINDOW


@dataclass(frozen=True)
class Schedule:
    """The forks of one chain, in order. The first one begins with the genesis block."""

    steps: tuple[Step, ...]

    @staticmethod
    def only(fork: Fork) -> Schedule:
        """A chain that has one fork from its genesis on."""
        return Schedule((Step(fork, 0),))

    @staticmethod
    def switch(before: Fork, after: Fork, number: int) -> Schedule:
        """A chain that passes from one fork to another at that block."""
        return Schedule((Step(before, 0), Step(after, number)))

    @property
    def first(self) -> Fork:
        """The genesis block's fork."""
        return self.steps[0].fork

    def at(self, number: int, time: int) -> Step:
        """The fork of a block with that number and timestamp."""

        def active(step: Step) -> bool:
            return time >= step.time if step.fork.timed else number >= step.number

        return [step for step in self.steps if step.number == 0 or active(step)][-1]

    def install(self) -> None:
        """Tells EELS where the forks begin whose first blocks have rules of their own."""
        for name in ("dao_fork", "london"):
            first = next((step.number for step in self.steps if step.fork.name == name), 0)
            fork(name).rules.FORK_CRITERIA = ByBlockNumber(first)

    def first_block(self, name: str) -> int | None:
        """The first block with the rules of that fork."""
        wanted = NAMES.index(name)
        return next((step.number for step in self.steps if step.fork.position >= wanted), None)

    def config(self, terminal_total_difficulty: int) -> dict[str, Any]:
        """The `config` of a geth genesis file. The difficulty counts if the chain comes to Paris."""
        config: dict[str, Any] = {"chainId": CHAIN_ID, "ethash": {}}
        for name, fields in _BLOCK_FIELDS.items():
            first = self.first_block(name)
            if first is not None and (name != "dao_fork" or self._has_dao_fork):
                config.update({field: first for field in fields})
        if self._has_dao_fork:
            config["daoForkSupport"] = True
        if self.first_block("paris") is not None:
            config["terminalTotalDifficulty"] = terminal_total_difficulty
        for name in _TIMED:
            wanted = NAMES.index(name)
            step = next((step for step in self.steps if step.fork.position >= wanted), None)
            if step is not None:
                config[f"{name}Time"] = step.time
        config["depositContractAddress"] = DEPOSIT_CONTRACT
        config["blobSchedule"] = {
            name: {"target": target, "max": most, "baseFeeUpdateFraction": fraction}
            for name, (target, most, fraction) in _BLOBS.items()
            if f"{name}Time" in config
        }
        return config

    @property
    def _has_dao_fork(self) -> bool:
        return any(step.fork.name == "dao_fork" for step in self.steps)

    def __str__(self) -> str:
        return "-".join(f"{step.fork}" for step in self.steps)
