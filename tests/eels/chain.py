"""A chain as EELS sees it: its genesis, and the judgement of one block after another."""

from __future__ import annotations

import copy
import linecache
import re
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any

from ethereum.crypto.hash import keccak256
from ethereum.exceptions import EthereumException
from ethereum_rlp import rlp
from ethereum_rlp.exceptions import RLPException
from ethereum_types.bytes import Bytes, Bytes8, Bytes20, Bytes32, Bytes256
from ethereum_types.numeric import U64, U256, Uint

from .forks import CHAIN_ID, GENESIS_TIME, Fork, Schedule

GENESIS_DIFFICULTY = 0x20000
EMPTY_LIST_HASH = keccak256(rlp.encode([]))
NO_REQUESTS_HASH = sha256(b"").digest()


@dataclass
class Allocation:
    """An account of the genesis block."""

    balance: int = 0
    nonce: int = 0
    code: bytes = b""
    storage: dict[int, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """As a geth genesis file has it."""
        account: dict[str, Any] = {"balance": hex(self.balance)}
        if self.nonce:
            account["nonce"] = hex(self.nonce)
        if self.code:
            account["code"] = "0x" + self.code.hex()
        if self.storage:
            account["storage"] = {f"0x{k:064x}": f"0x{v:064x}" for k, v in self.storage.items()}
        return account


@dataclass
class World:
    """The state of the genesis block, and the few fields of its header that matter."""

    accounts: dict[bytes, Allocation] = field(default_factory=dict)
    gas_limit: int = 30_000_000
    base_fee: int = 10**9
    blob_gas_used: int = 0
    excess_blob_gas: int = 0


@dataclass(frozen=True)
class Verdict:
    """What EELS says of a block. `reason` is empty for a valid one."""

    number: int
    hash: str
    gas_used: int
    receipts_root: str
    state_root: str
    reason: str = ""

    @property
    def valid(self) -> bool:
        """Whether the block belongs to the chain."""
        return not self.reason


class Chain:
    """An EELS chain that passes from fork to fork as its schedule says."""

    def __init__(self, schedule: Schedule, world: World) -> None:
        self.schedule = schedule
        self.world = world
        self.fork = schedule.first
        state = self.fork.state.State()
        for address, account in world.accounts.items():
            _set_account(self.fork, state, address, account)
        genesis = _genesis_block(self.fork, world, self.fork.state.state_root(state))
        self.eels = self.fork.rules.BlockChain([genesis], state, U64(CHAIN_ID))
        self.total_difficulty = GENESIS_DIFFICULTY
        self.terminal_total_difficulty = 0

    @property
    def head(self) -> Any:
        """The header of the newest block."""
        return self.eels.blocks[-1].header

    @property
    def state(self) -> Any:
        """The state after the newest block."""
        return self.eels.state

    def account(self, address: bytes) -> Any:
        """An account as it is now."""
        return self.fork.state.get_account(self.state, Bytes20(address))

    def copy(self) -> Chain:
        """A chain that goes its own way from here."""
        twin = copy.copy(self)
        twin.eels = self.fork.rules.BlockChain(
            list(self.eels.blocks), _copy_state(self.fork, self.state), self.eels.chain_id
        )
        return twin

    def enter(self, fork: Fork) -> None:
        """Passes on to another fork, whose first block is the next one."""
        self.schedule.install()
        if fork == self.fork:
            return
        state = _convert_state(self.fork, fork, self.state)
        if fork.since("paris") and not self.fork.since("paris"):
            self.terminal_total_difficulty = self.total_difficulty
        chain = fork.rules.BlockChain(self.eels.blocks, state, self.eels.chain_id)
        self.eels, self.fork = fork.rules.apply_fork(chain), fork

    def judge(self, block: bytes) -> Verdict:
        """Applies a block in its encoding, if EELS finds it valid. Else nothing changes."""
        number, time = _number_and_time(block)
        trial = self.copy()
        trial.enter(self.schedule.at(number, time).fork)
        decoded = None
        reason = ""
        try:
            decoded = rlp.decode_to(trial.fork.blocks.Block, block)
            trial.fork.rules.state_transition(trial.eels, decoded)
        except (EthereumException, RLPException, OverflowError) as error:
            reason = explain(error)
        if not reason:
            self._become(trial)
        return verdict(block, decoded.header if decoded else None, number, reason)

    def append(self, block: Any) -> None:
        """Adds a block that was just executed on this chain's own state."""
        self.eels.blocks.append(block)
        self.eels.blocks = self.eels.blocks[-255:]
        self.total_difficulty += int(block.header.difficulty)

    def _become(self, trial: Chain) -> None:
        self.eels, self.fork = trial.eels, trial.fork
        self.terminal_total_difficulty = trial.terminal_total_difficulty
        self.total_difficulty += int(self.head.difficulty)

    def genesis_json(self) -> dict[str, Any]:
        """The geth genesis file of this chain."""
        world = self.world
        genesis: dict[str, Any] = {
            "config": self.schedule.config(self.terminal_total_difficulty),
            "nonce": "0x42",
            "timestamp": hex(GENESIS_TIME),
            "gasLimit": hex(world.gas_limit),
            "difficulty": hex(0 if self.schedule.first.since("paris") else GENESIS_DIFFICULTY),
            "alloc": {"0x" + a.hex(): account.json() for a, account in world.accounts.items()},
        }
        if self.schedule.first.since("london"):
            genesis["baseFeePerGas"] = hex(world.base_fee)
        if self.schedule.first.since("cancun"):
            genesis["blobGasUsed"] = hex(world.blob_gas_used)
            genesis["excessBlobGas"] = hex(world.excess_blob_gas)
        return genesis


def verdict(block: bytes, header: Any, number: int, reason: str) -> Verdict:
    """The verdict on an encoded block, whose header is known if it could be decoded."""
    if header is None:
        return Verdict(number, "", 0, "", "", reason)
    return Verdict(
        number=int(header.number),
        hash="0x" + keccak256(rlp.encode(header)).hex(),
        gas_used=int(header.gas_used),
        receipts_root="0x" + header.receipt_root.hex(),
        state_root="0x" + header.state_root.hex(),
        reason=reason,
    )


def explain(error: BaseException) -> str:
    """Why EELS refuses: the error, and for a bare one the condition in the source that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(error):
        return text
    file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    condition = " ".join(linecache.getline(file, n).strip() for n in range(line - 3, line))
    guard = re.search(r".*((?:if|elif|for) .*)", condition)
    return f"{text} in {trace.tb_frame.f_code.co_name}: {guard.group(1) if guard else condition}"


def _number_and_time(block: bytes) -> tuple[int, int]:
    """What a block says of its place, zero where it can't be decoded."""
    try:
        header: Any = rlp.decode(block)[0]
        return int.from_bytes(header[8], "big"), int.from_bytes(header[11], "big")
    except (RLPException, IndexError, TypeError):
        return 0, 0


def _set_account(fork: Fork, state: Any, address: bytes, account: Allocation) -> None:
    content = fork.types.Account(Uint(account.nonce), U256(account.balance), Bytes(account.code))
    fork.state.set_account(state, Bytes20(address), content)
    for slot, value in account.storage.items():
        key = Bytes32(slot.to_bytes(32, "big"))
        fork.state.set_storage(state, Bytes20(address), key, U256(value))


def _copy_state(fork: Fork, state: Any) -> Any:
    twin = fork.state.State()
    twin._main_trie = fork.trie.copy_trie(state._main_trie)
    twin._storage_tries = {
        address: fork.trie.copy_trie(trie) for address, trie in state._storage_tries.items()
    }
    return twin


def _convert_state(before: Fork, after: Fork, state: Any) -> Any:
    """The same state in another fork's types, which EELS compares by type."""
    converted = after.state.State()
    for address, account in state._main_trie._data.items():
        content = after.types.Account(account.nonce, account.balance, account.code)
        after.state.set_account(converted, address, content)
    for address, trie in state._storage_tries.items():
        for key, value in trie._data.items():
            after.state.set_storage(converted, address, key, value)
    return converted


def _genesis_block(fork: Fork, world: World, state_root: bytes) -> Any:
    empty_root = fork.trie.root(fork.trie.Trie(False, None))
    content = {
        "parent_hash": Bytes32(bytes(32)),
        "ommers_hash": EMPTY_LIST_HASH,
        "coinbase": Bytes20(bytes(20)),
        "state_root": state_root,
        "transactions_root": empty_root,
        "receipt_root": empty_root,
        "bloom": Bytes256(bytes(256)),
        "difficulty": Uint(0 if fork.since("paris") else GENESIS_DIFFICULTY),
        "number": Uint(0),
        "gas_limit": Uint(world.gas_limit),
        "gas_used": Uint(0),
        "timestamp": U256(GENESIS_TIME),
        "extra_data": Bytes(b""),
        "mix_digest": Bytes32(bytes(32)),
        "prev_randao": Bytes32(bytes(32)),
        "nonce": Bytes8(b"\0\0\0\0\0\0\0\x42"),
        "base_fee_per_gas": Uint(world.base_fee),
        "withdrawals_root": empty_root,
        "blob_gas_used": U64(world.blob_gas_used),
        "excess_blob_gas": U64(world.excess_blob_gas),
        "parent_beacon_block_root": Bytes32(bytes(32)),
        "requests_hash": Bytes32(NO_REQUESTS_HASH),
    }
    header = fork.blocks.Header(**{f.name: content[f.name] for f in fields(fork.blocks.Header)})
    lists = {f.name: () for f in fields(fork.blocks.Block) if f.name != "header"}
    return fork.blocks.Block(header=header, **lists)
