"""EIP-7702 in its corners: which authorizations count, and what a delegated account is to others."""

from __future__ import annotations

from typing import Any

from ..assembler import address, call, create, op, push, sload, sstore, words
from ..transactions import SECP256K1N, SET_CODE, Account, Authorization, Tx, create_address
from .registry import OTHER, RICH, TARGET, Stage, case
from .state import looking

CODE = b"\x51" * 20
PROXY = b"\x52" * 20
ALICE = Account.named("alice")
BOB = Account.named("bob")
_COUNTING = sstore(0, sload(0) + push(1) + op("ADD")) + sstore(1, op("CALLER")) + sstore(2, op("ADDRESS"))


def _world(stage: Stage, code: bytes = _COUNTING) -> None:
    stage.account(CODE, nonce=1, balance=3, code=code)
    stage.account(PROXY, nonce=1, balance=10**9, code=looking(stage.fork, ALICE.address))
    stage.account(ALICE.address, balance=10**20)


def _tx(stage: Stage, *authorizations: Authorization, **fields: object) -> Tx:
    return stage.tx(**{"kind": SET_CODE, "authorizations": authorizations, **fields})  # type: ignore[arg-type]


def _then_look(stage: Stage, *authorizations: Authorization) -> None:
    """A block with the authorizations, in which others then look at Alice and call her."""
    first = _tx(stage, *authorizations, to=ALICE.address)
    stage.attempt(first, stage.tx(PROXY), stage.tx(ALICE.address, value=1))
    stage.attempt(stage.tx(PROXY), _tx(stage, *authorizations))


_N = 2**64 - 1
_BAD: dict[str, Any] = {
    "nonce too high": {"nonce": 1},
    "nonce at its end": {"nonce": _N},
    "nonce one below its end": {"nonce": _N - 1},
    "another chain": {"chain_id": 1},
    "a chain beyond 64 bits": {"chain_id": 2**64 + 1337},
    "any chain": {"chain_id": 0},
    "the largest chain": {"chain_id": 2**256 - 1},
    "no signature": {"signature": (0, 0, 0)},
    "parity 2": {"signature": (2, 5, 5)},
    "parity 27": {"signature": (27, 5, 5)},
    "parity 255": {"signature": (255, 5, 5)},
    "r at the order": {"signature": (0, SECP256K1N, 5)},
    "s at the order": {"signature": (0, 5, SECP256K1N)},
    "s at the half": {"signature": (0, 5, SECP256K1N // 2)},
    "s above the half": {"signature": (0, 5, SECP256K1N // 2 + 1)},
    "r of 2^256 - 1": {"signature": (0, 2**256 - 1, 5)},
    "a point that does not exist": {"signature": (0, 5, 5)},
    "right": {},
}


@case("prague", how=tuple(_BAD))
def authorization(stage: Stage, how: str) -> None:
    """One tuple, alone and beside a right one of another account."""
    _world(stage)
    mine = Authorization(ALICE, CODE, **{"nonce": 0, **_BAD[how]})
    _then_look(stage, mine)
    stage.attempt(_tx(stage, mine, Authorization(BOB, CODE, 0), to=BOB.address))


_TARGETS = {
    "itself": ALICE.address,
    "a precompile": bytes(19) + b"\1",
    "the identity": bytes(19) + b"\4",
    "the last precompile": bytes(19) + b"\x11",
    "P256": bytes(18) + b"\1\0",
    "an account without code": TARGET,
    "the null address": bytes(20),
    "a contract": CODE,
    "a chain of delegations": BOB.address,
    "the system address": b"\xff" * 19 + b"\xfe",
}


@case("prague", to=tuple(_TARGETS))
def delegation_to(stage: Stage, to: str) -> None:
    """A delegated account that others look at, call with and without value, and call with data."""
    _world(stage)
    stage.account(BOB.address, balance=1, code=b"\xef\x01\x00" + CODE)
    _then_look(stage, Authorization(ALICE, _TARGETS[to], 0))
    stage.attempt(stage.tx(ALICE.address, data=bytes(range(64))), stage.tx(sender=ALICE, nonce=1, value=1))


@case("prague", to=tuple(_TARGETS))
def delegated_in_the_genesis(stage: Stage, to: str) -> None:
    """The same, with the delegation in the genesis block."""
    stage.account(CODE, nonce=1, code=_COUNTING)
    stage.account(PROXY, nonce=1, balance=10**9, code=looking(stage.fork, ALICE.address))
    code = b"\xef\x01\x00" + _TARGETS[to]
    stage.account(ALICE.address, balance=10**20, nonce=4, code=code, storage={0: 9})
    stage.attempt(stage.tx(PROXY), stage.tx(ALICE.address), stage.tx(sender=ALICE, nonce=4))


@case("prague")
def sender_authorizes_itself(stage: Stage) -> None:
    """The sender's nonce has grown by one when its own tuple is looked at."""
    _world(stage)
    mine = [Authorization(ALICE, CODE, nonce) for nonce in (0, 1, 2, 3)]
    stage.attempt(_tx(stage, *mine, sender=ALICE, nonce=0, to=ALICE.address))
    stage.attempt(stage.tx(sender=ALICE, nonce=4, to=ALICE.address), stage.tx(PROXY))


@case("prague")
def one_account_many_tuples(stage: Stage) -> None:
    """The last tuple that counts decides; each one counts for the nonce."""
    _world(stage)
    tuples = [
        Authorization(ALICE, to, n)
        for n, to in ((0, CODE), (0, TARGET), (1, TARGET), (2, CODE), (4, bytes(20)))
    ]
    _then_look(stage, *tuples)


@case("prague")
def cleared(stage: Stage) -> None:
    """The null address clears the code, and the account may be used as before."""
    _world(stage)
    stage.attempt(_tx(stage, Authorization(ALICE, CODE, 0)), stage.tx(ALICE.address))
    stage.attempt(
        _tx(stage, Authorization(ALICE, bytes(20), 1)), stage.tx(PROXY), stage.tx(ALICE.address, value=1)
    )
    stage.attempt(stage.tx(sender=ALICE, nonce=2, value=1), stage.tx(PROXY))


@case("prague")
def set_and_cleared_in_one_transaction(stage: Stage) -> None:
    """Nothing remains but the nonce."""
    _world(stage)
    _then_look(stage, Authorization(ALICE, CODE, 0), Authorization(ALICE, bytes(20), 1))


@case(
    "prague", code=(b"\0", b"\xfe", b"\xef\x01\x00" + b"\x51" * 20, b"\xef\x01\x00" + b"\x51" * 19, b"\xef")
)
def authority_with_code(stage: Stage, code: bytes) -> None:
    """Only an account without code, or with a delegation, can delegate."""
    stage.account(CODE, nonce=1, code=_COUNTING)
    stage.account(PROXY, nonce=1, balance=10**9, code=looking(stage.fork, ALICE.address))
    stage.account(ALICE.address, balance=10**20, code=code)
    _then_look(stage, Authorization(ALICE, CODE, 0))


@case("prague")
def authority_with_storage(stage: Stage) -> None:
    """Storage stays through a delegation, its end, and another one."""
    stage.account(CODE, nonce=1, code=_COUNTING)
    stage.account(PROXY, nonce=1, balance=10**9, code=looking(stage.fork, ALICE.address))
    stage.account(ALICE.address, balance=10**20, storage={0: 40, 9: 9})
    _then_look(stage, Authorization(ALICE, CODE, 0))
    stage.attempt(_tx(stage, Authorization(ALICE, bytes(20), 1)), stage.tx(PROXY))


@case("prague")
def authority_without_an_account(stage: Stage) -> None:
    """The account is made, and no refund is given for it."""
    _world(stage)
    nobody = Account.named("nobody")
    stage.attempt(_tx(stage, Authorization(nobody, CODE, 0), to=nobody.address), stage.tx(nobody.address))
    stage.attempt(_tx(stage, Authorization(nobody, CODE, 1), Authorization(BOB, CODE, 5)))


@case("prague", size=(1, 10, 30))
def many_authorities(stage: Stage, size: int) -> None:
    """A long list, half of it of accounts that exist."""
    _world(stage)
    many = [Account.named(f"many {n}") for n in range(size)]
    for account in many[::2]:
        stage.account(account.address, balance=1)
    tuples = [Authorization(account, CODE, 0) for account in many]
    stage.attempt(_tx(stage, *tuples, gas=2_000_000), stage.tx(many[-1].address))


@case("prague")
def the_transaction_fails(stage: Stage) -> None:
    """Delegations outlive a transaction that reverts."""
    _world(stage, code=push(0) + push(0) + op("REVERT"))
    _then_look(stage, Authorization(ALICE, CODE, 0))


@case("prague")
def delegate_creates(stage: Stage) -> None:
    """A delegated account creates contracts with its own nonce."""
    _world(stage, code=sstore(0, create(push(0) + push(0) + op("RETURN"))))
    _then_look(stage, Authorization(ALICE, CODE, 0))


@case("prague")
def delegate_destroys(stage: Stage) -> None:
    """A delegated account sends its balance away, and stays."""
    _world(stage, code=address(TARGET) + op("SELFDESTRUCT"))
    _then_look(stage, Authorization(ALICE, CODE, 0))


@case("prague")
def delegate_is_drained_in_the_block(stage: Stage) -> None:
    """A delegated sender loses its balance to its code before its own transaction."""
    drain = call(address(TARGET), value=op("SELFBALANCE"), gas=9_000) + op("POP")
    _world(stage, code=drain)
    stage.attempt(_tx(stage, Authorization(ALICE, CODE, 0)))
    stage.attempt(stage.tx(ALICE.address), stage.tx(sender=ALICE, nonce=1))


@case("prague")
def delegate_moves_its_nonce_in_the_block(stage: Stage) -> None:
    """A creation by a delegated account makes its next transaction's nonce too low."""
    _world(stage, code=create(b"") + op("POP"))
    stage.attempt(_tx(stage, Authorization(ALICE, CODE, 0)))
    stage.attempt(stage.tx(ALICE.address), stage.tx(sender=ALICE, nonce=2))
    stage.attempt(stage.tx(ALICE.address), stage.tx(sender=ALICE, nonce=3))


@case("prague", kind=("CALL", "CALLCODE", "DELEGATECALL", "STATICCALL"))
def every_kind_of_call(stage: Stage, kind: str) -> None:
    """The code of the target runs for the account, warm and cold."""
    _world(stage, code=op("GAS") + push(0) + op("MSTORE") + words(0, 32) + op("RETURN"))
    code = b""
    for slot in range(2):
        code += sstore(slot, call(address(ALICE.address), kind=kind, gas=50_000, result=(0, 32)))
        code += sstore(slot + 2, op("GAS")) + sstore(slot + 4, push(0) + op("MLOAD"))
    caller = stage.account(b"\x54" * 20, nonce=1, code=code)
    stage.attempt(_tx(stage, Authorization(ALICE, CODE, 0)), stage.tx(caller))
    warm = ((ALICE.address, ()), (CODE, ()))
    stage.attempt(stage.tx(caller, kind=1, access=warm[:1]), stage.tx(caller, kind=1, access=warm))


@case("prague")
def creation_where_a_delegation_is(stage: Stage) -> None:
    """A delegated account's address is taken."""
    where = create_address(RICH.address, 0)
    stage.account(where, balance=1, code=b"\xef\x01\x00" + CODE)
    stage.attempt(stage.tx(b"", data=b"\0"), stage.tx(where))


@case("prague")
def maker_is_delegated(stage: Stage) -> None:
    """Fees for a delegated account, whose code does not run."""
    _world(stage)
    stage.attempt(_tx(stage, Authorization(ALICE, CODE, 0), tip=5), coinbase=ALICE.address)
    stage.attempt(stage.tx(PROXY, sender=OTHER), coinbase=ALICE.address)


@case("prague", length=(22, 23, 24))
def code_of_the_form_of_a_delegation_cannot_be_deployed(stage: Stage, length: int) -> None:
    """EIP-3541 stands in the way."""
    code = (b"\xef\x01\x00" + CODE + b"\0")[:length]
    stage.attempt(
        stage.tx(
            b"",
            data=push(int.from_bytes(code, "big"), 32)
            + push(0)
            + op("MSTORE")
            + push(length)
            + push(32 - length)
            + op("RETURN"),
        )
    )
