"""Makes valid blocks: EELS executes the transactions, and its results fill in the header."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

from ethereum.crypto.hash import keccak256
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes, Bytes8, Bytes20, Bytes32
from ethereum_types.numeric import U64, U256, Uint

from .chain import Chain, Verdict, verdict
from .forks import GENESIS_TIME, WINDOW, Fork
from .transactions import Item, Tx

DAO_EXTRA = b"dao-hard-fork"
DAO_BLOCKS = 10


@dataclass(frozen=True)
class Withdrawal:
    """A withdrawal (EIP-4895); the amount is in Gwei."""

    index: int
    validator: int
    address: bytes
    amount: int


@dataclass
class Draft:
    """A block as its maker wants it. What is None follows from the parent and the execution."""

    transactions: Iterable[Tx] = ()
    # Seconds after the parent, or after the beginning of the fork if the block is its first.
    step: int = 12
    coinbase: bytes = b"\xc0" * 20
    gas_limit: int | None = None
    extra_data: bytes = b""
    randao: bytes = b"\x22" * 32
    beacon_root: bytes = b"\x33" * 32
    ommers: tuple[Any, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    nonce: int = 0


@dataclass(frozen=True)
class Built:
    """A valid block, its encoding, and what EELS says of it."""

    block: Any
    encoded: bytes
    verdict: Verdict


def build(chain: Chain, draft: Draft) -> Built:
    """Executes a draft on a chain and appends the block, which EELS finds valid.

    The draft's transactions are taken one by one as EELS comes to them, so an iterator sees the
    state that its predecessors have left. EELS raises what makes a transaction invalid.
    """
    parent = chain.head
    number = int(parent.number) + 1
    fork, time = _place(chain, number, draft)
    chain.enter(fork)
    prepared = _prepare(chain, fork, draft, number, time)
    items: list[Item] = []
    output = _execute(chain, fork, draft, prepared, items)
    header = _seal(chain, fork, prepared, output)
    fork.rules.validate_header(chain.eels, header)
    if hasattr(fork.rules, "validate_ommers"):
        fork.rules.validate_ommers(tuple(draft.ommers), header, chain.eels)
    block = _decode_block(fork, header, items, draft)
    chain.append(block)
    encoded = rlp.encode(block)
    return Built(block, encoded, verdict(encoded, header, number, ""))


def unsealed(chain: Chain, draft: Draft) -> bytes:
    """A block that can't be executed to its end, encoded.

    Its transactions, withdrawals and blob gas are right, the results are those of an empty block.
    """
    twin = chain.copy()
    number = int(twin.head.number) + 1
    fork, time = _place(twin, number, draft)
    twin.enter(fork)
    known = _prepare(twin, fork, draft, number, time)
    items = [tx.item() for tx in draft.transactions]
    output = fork.vm.BlockOutput()
    for index, item in enumerate(items):
        fork.trie.trie_set(output.transactions_trie, rlp.encode(Uint(index)), decode_item(fork, item))
    if fork.since("shanghai"):
        for index, withdrawal in enumerate(_withdrawals(fork, draft)):
            encoded = rlp.encode(withdrawal)
            fork.trie.trie_set(output.withdrawals_trie, rlp.encode(Uint(index)), encoded)
    if fork.since("cancun"):
        blobs = sum(len(tx.blobs) for tx in draft.transactions)
        output.blob_gas_used = U64(blobs * 131_072)
    header = _seal(twin, fork, known, output)
    return rlp.encode(_decode_block(fork, header, items, draft))


def _place(chain: Chain, number: int, draft: Draft) -> tuple[Fork, int]:
    """The fork and timestamp of the next block, which stays within its number's window."""
    time = int(chain.head.timestamp) + draft.step
    floor = GENESIS_TIME
    for step in chain.schedule.steps:
        if step.number and number >= step.number:
            floor = max(floor, step.time)
    time = max(time, floor)
    fork = chain.schedule.at(number, time).fork
    assert fork == chain.schedule.at(number, GENESIS_TIME + number * WINDOW).fork, (
        "a draft's step leaves its window"
    )
    return fork, time


def _prepare(chain: Chain, fork: Fork, draft: Draft, number: int, time: int) -> dict[str, Any]:
    """The header's fields that are known before the execution."""
    parent, rules = chain.head, fork.rules
    gas_limit = Uint(int(parent.gas_limit) if draft.gas_limit is None else draft.gas_limit)
    ommers = tuple(draft.ommers)
    known: dict[str, Any] = {
        "parent_hash": keccak256(rlp.encode(parent)),
        "ommers_hash": keccak256(rlp.encode(ommers)),
        "coinbase": Bytes20(draft.coinbase),
        "difficulty": difficulty(chain, fork, number, time),
        "number": Uint(number),
        "gas_limit": gas_limit,
        "timestamp": U256(time),
        "extra_data": Bytes(_extra_data(chain, number, draft)),
        "mix_digest": Bytes32(draft.randao),
        "prev_randao": Bytes32(draft.randao),
        "nonce": Bytes8(draft.nonce.to_bytes(8, "big")),
        "parent_beacon_block_root": Bytes32(draft.beacon_root),
    }
    if fork.since("london"):
        if hasattr(parent, "base_fee_per_gas"):
            known["base_fee_per_gas"] = rules.calculate_base_fee_per_gas(
                gas_limit, parent.gas_limit, parent.gas_used, parent.base_fee_per_gas
            )
        else:
            known["base_fee_per_gas"] = Uint(10**9)
    if fork.since("cancun"):
        known["excess_blob_gas"] = fork.gas.calculate_excess_blob_gas(parent)
    return known


def difficulty(chain: Chain, fork: Fork, number: int, time: int) -> Uint:
    """The difficulty of the next block at that time."""
    if fork.since("paris"):
        return Uint(0)
    parent = chain.head
    arguments: list[Any] = [Uint(number), U256(time), parent.timestamp, parent.difficulty]
    if fork.since("byzantium"):
        arguments.append(parent.ommers_hash != keccak256(rlp.encode([])))
    return fork.rules.calculate_block_difficulty(*arguments)


def _extra_data(chain: Chain, number: int, draft: Draft) -> bytes:
    for step in chain.schedule.steps:
        if step.fork.name == "dao_fork" and step.number <= number < step.number + DAO_BLOCKS:
            return DAO_EXTRA
    return draft.extra_data


def _execute(chain: Chain, fork: Fork, draft: Draft, known: dict[str, Any], items: list[Item]) -> Any:
    """Has EELS execute the block. Collects the items of its transactions."""
    values = {
        **known,
        "chain_id": U64(chain.eels.chain_id),
        "state": chain.state,
        "block_gas_limit": known["gas_limit"],
        "block_hashes": fork.rules.get_last_256_block_hashes(chain.eels),
        "time": known["timestamp"],
    }
    names = [f.name for f in fields(fork.vm.BlockEnvironment)]
    environment = fork.vm.BlockEnvironment(**{name: values[name] for name in names})
    arguments: dict[str, Any] = {"transactions": _decoded(fork, draft.transactions, items)}
    expected = signature(fork.rules.apply_body).parameters
    if "ommers" in expected:
        arguments["ommers"] = tuple(draft.ommers)
    if "withdrawals" in expected:
        arguments["withdrawals"] = _withdrawals(fork, draft)
    return fork.rules.apply_body(block_env=environment, **arguments)


def _decoded(fork: Fork, transactions: Iterable[Tx], items: list[Item]) -> Iterator[Any]:
    """The transactions in EELS's types, one by one."""
    for tx in transactions:
        item = tx.item()
        items.append(item)
        yield decode_item(fork, item)


def decode_item(fork: Fork, item: Item) -> Any:
    """A transaction in the form in which a block of that fork holds it."""
    if isinstance(item, bytes):
        return item
    legacy = getattr(fork.transactions, "LegacyTransaction", None) or fork.transactions.Transaction
    return rlp.decode_to(legacy, rlp.encode(item))


def _withdrawals(fork: Fork, draft: Draft) -> tuple[Any, ...]:
    make: Callable[..., Any] = fork.blocks.Withdrawal
    return tuple(
        make(U64(w.index), U64(w.validator), Bytes20(w.address), U256(w.amount)) for w in draft.withdrawals
    )


def _seal(chain: Chain, fork: Fork, known: dict[str, Any], output: Any) -> Any:
    """The header with the results of the execution."""
    root = fork.trie.root
    results = {
        **known,
        "state_root": fork.state.state_root(chain.state),
        "transactions_root": root(output.transactions_trie),
        "receipt_root": root(output.receipts_trie),
        "bloom": fork.bloom.logs_bloom(output.block_logs),
        "gas_used": output.block_gas_used,
    }
    if fork.since("shanghai"):
        results["withdrawals_root"] = root(output.withdrawals_trie)
    if fork.since("cancun"):
        results["blob_gas_used"] = output.blob_gas_used
    if fork.since("prague"):
        results["requests_hash"] = fork.rules.compute_requests_hash(output.requests)
    names = [f.name for f in fields(fork.blocks.Header)]
    return fork.blocks.Header(**{name: results[name] for name in names})


def _decode_block(fork: Fork, header: Any, items: list[Item], draft: Draft) -> Any:
    lists: dict[str, Any] = {
        "transactions": tuple(decode_item(fork, item) for item in items),
        "ommers": tuple(draft.ommers),
    }
    if fork.since("shanghai"):
        lists["withdrawals"] = _withdrawals(fork, draft)
    return fork.blocks.Block(header=header, **lists)
