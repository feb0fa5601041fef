"""Blocks with one transaction that may not be in them, or that are silent about one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from ..transactions import (
    ACCESS_LIST,
    BLOB,
    FEE_MARKET,
    SECP256K1N,
    SET_CODE,
    Account,
    Authorization,
    Tx,
    blob_hash,
    plain,
)
from .subject import RICH, TRANSACTIONS, NotApplicable, Subject, mutation


@mutation()
def transaction_unknown_to_the_header(s: Subject) -> None:
    """The root of the transactions is that of the others."""
    s.block[TRANSACTIONS].append(plain(s.affordable().item()))


@mutation()
def transaction_removed(s: Subject) -> None:
    """The root of the transactions knows of one more."""
    if not s.block[TRANSACTIONS]:
        raise NotApplicable
    s.block[TRANSACTIONS].pop()


@mutation()
def transaction_without_effect_on_the_header(s: Subject) -> None:
    """A valid transaction that only the root of the transactions knows of."""
    s.transaction(s.affordable().item())


@mutation()
def nonce_too_high(s: Subject) -> None:
    """One more than the account has."""
    tx = s.tx()
    s.transaction(tx.but(nonce=tx.nonce + 1).item())


@mutation()
def nonce_too_low(s: Subject) -> None:
    """One less than the account has."""
    tx = s.tx()
    if tx.nonce == 0:
        raise NotApplicable
    s.transaction(tx.but(nonce=tx.nonce - 1).item())


@mutation()
def nonce_at_its_end(s: Subject) -> None:
    """EIP-2681: the last nonce cannot be used."""
    s.transaction(s.tx(nonce=2**64 - 1).item())


@mutation()
def balance_one_wei_short(s: Subject) -> None:
    """The sender has all but one wei of what it may come to pay."""
    balance = int(s.after.account(RICH.address).balance)
    tx = s.tx()
    if balance < tx.most:
        raise NotApplicable
    s.transaction(tx.but(value=balance - tx.most + 1).item())


@mutation()
def value_beyond_everything(s: Subject) -> None:
    """Value and fees together exceed 2^256."""
    s.transaction(s.tx(value=2**256 - 1).item())


@mutation()
def fees_beyond_everything(s: Subject) -> None:
    """Gas times its price exceeds 2^256."""
    s.transaction(s.tx(price=2**255, gas=100_000).item())


@mutation()
def sender_without_an_account(s: Subject) -> None:
    """An account that does not exist can't pay."""
    s.transaction(s.tx(sender=Account.named("nobody"), nonce=0).item())


@mutation()
def gas_below_the_intrinsic(s: Subject) -> None:
    """One unit less than a transfer needs."""
    s.transaction(s.tx(gas=20_999).item())


@mutation()
def gas_below_the_intrinsic_of_data(s: Subject) -> None:
    """Enough for a transfer and not for its data."""
    s.transaction(s.tx(gas=21_015, data=b"\1").item())


@mutation("homestead")
def gas_below_the_intrinsic_of_a_creation(s: Subject) -> None:
    """One unit less than an empty creation needs."""
    s.transaction(s.tx(gas=52_999, to=b"").item())


@mutation("berlin")
def gas_below_the_intrinsic_of_an_access_list(s: Subject) -> None:
    """EIP-2930: addresses and slots cost."""
    access = ((b"\x71" * 20, (bytes(32), bytes(32))),)
    s.transaction(s.tx(kind=ACCESS_LIST, gas=21_000 + 2_400 + 3_800 - 1, access=access).item())


@mutation("prague")
def gas_below_the_floor_of_data(s: Subject) -> None:
    """EIP-7623: the gas must pay for the floor, even if execution needs less."""
    s.transaction(s.tx(gas=21_000 + 40 * 1_000 - 1, data=b"\1" * 1_000).item())


@mutation("prague")
def gas_below_the_intrinsic_of_authorizations(s: Subject) -> None:
    """EIP-7702: 25,000 gas for each tuple."""
    s.transaction(_set_code(s, gas=21_000 + 25_000 - 1).item())


@mutation("shanghai")
def initcode_too_large(s: Subject) -> None:
    """EIP-3860: one byte above the limit."""
    s.transaction(s.tx(to=b"", data=bytes(49_153), gas=2_000_000).item())


@mutation()
def gas_above_what_the_block_has_left(s: Subject) -> None:
    """One unit more than remains in the block."""
    left = int.from_bytes(s.get("gas_limit"), "big") - int.from_bytes(s.get("gas_used"), "big")
    s.transaction(s.tx(gas=left + 1).item())


@mutation("osaka")
def gas_above_the_cap_of_a_transaction(s: Subject) -> None:
    """EIP-7825: 2^24 is the most."""
    if int.from_bytes(s.get("gas_limit"), "big") - int.from_bytes(s.get("gas_used"), "big") <= 2**24:
        raise NotApplicable
    s.transaction(s.tx(gas=2**24 + 1).item())


@mutation("london")
def fee_below_the_base_fee(s: Subject) -> None:
    """EIP-1559: one wei less than the base fee."""
    fee = int.from_bytes(s.get("base_fee_per_gas"), "big") - 1
    s.transaction(s.tx(kind=FEE_MARKET, price=fee).item())


@mutation("london")
def gas_price_below_the_base_fee(s: Subject) -> None:
    """EIP-1559: a gas price counts as the fee."""
    s.transaction(s.tx(price=int.from_bytes(s.get("base_fee_per_gas"), "big") - 1).item())


@mutation("london")
def tip_above_the_fee(s: Subject) -> None:
    """EIP-1559: the priority fee is part of the fee."""
    tx = s.tx(kind=FEE_MARKET)
    s.transaction(tx.but(tip=tx.price + 1).item())


@mutation("spurious_dragon")
def chain_id_of_another_chain(s: Subject) -> None:
    """EIP-155: replay protection for another chain."""
    s.transaction(s.tx(chain_id=1).item())


@mutation(until="tangerine_whistle")
def chain_id_before_replay_protection(s: Subject) -> None:
    """Before EIP-155 a signature has no chain id."""
    s.transaction(s.tx(chain_id=int(s.before.eels.chain_id)).item())


def _signed(s: Subject, change: Callable[[int, int, int], tuple[int, int, int]]) -> None:
    item = s.tx().item()
    s.transaction([*item[:6], *map(Uint, change(*(int(part) for part in item[6:])))])


@mutation("homestead")
def signature_with_a_high_s(s: Subject) -> None:
    """EIP-2: s is in the lower half."""
    _signed(s, lambda v, r, z: (55 - v, r, SECP256K1N - z))


@mutation()
def signature_with_a_zero_r(s: Subject) -> None:
    """No signature has r = 0."""
    _signed(s, lambda v, r, z: (v, 0, z))


@mutation()
def signature_with_a_zero_s(s: Subject) -> None:
    """No signature has s = 0."""
    _signed(s, lambda v, r, z: (v, r, 0))


@mutation()
def signature_with_an_r_out_of_range(s: Subject) -> None:
    """r is below the curve's order."""
    _signed(s, lambda v, r, z: (v, SECP256K1N, z))


@mutation()
def signature_with_a_wrong_v(s: Subject) -> None:
    """29 is neither of the two."""
    _signed(s, lambda v, r, z: (29, r, z))


@mutation("berlin")
def signature_with_a_wrong_parity(s: Subject) -> None:
    """The parity is 0 or 1."""
    tx = s.tx(kind=ACCESS_LIST)
    s.transaction(tx.but(signature=(2, 5, 7)).item())


@mutation("berlin")
def typed_signature_with_a_high_s(s: Subject) -> None:
    """EIP-2 holds for every type."""
    tx = s.tx(kind=ACCESS_LIST)
    parity, r, z = (int.from_bytes(part, "big") for part in rlp.decode(tx.item()[1:])[-3:])  # type: ignore[arg-type]
    s.transaction(tx.but(signature=(1 - parity, r, SECP256K1N - z)).item())


@mutation(until="istanbul")
def access_list_before_berlin(s: Subject) -> None:
    """A type that the fork does not know."""
    s.block[TRANSACTIONS].append(s.tx(kind=ACCESS_LIST).item())


@mutation("berlin", "berlin")
def fee_market_before_london(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(s.tx(kind=FEE_MARKET).item())


@mutation("london", "shanghai")
def blob_transaction_before_cancun(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1),)).item())


@mutation("london", "cancun")
def set_code_before_prague(s: Subject) -> None:
    """A type that the fork does not know."""
    s.transaction(_set_code(s).item())


@mutation("berlin")
def transaction_of_an_unknown_type(s: Subject) -> None:
    """Type 5."""
    item = s.tx(kind=ACCESS_LIST).item()
    s.transaction(b"\x05" + item[1:])


@mutation("berlin")
def transaction_of_type_zero(s: Subject) -> None:
    """A legacy transaction has no type."""
    s.transaction(b"\0" + rlp.encode(s.tx().item()))


def _set_code(s: Subject, **fields: Any) -> Tx:
    authority = Account.named("authority 0")
    nonce = int(s.after.account(authority.address).nonce)
    authorization = Authorization(authority, b"\x10" * 20, nonce)
    return s.tx(kind=SET_CODE, authorizations=(authorization,)).but(**fields)


@mutation("prague")
def authorizations_empty(s: Subject) -> None:
    """EIP-7702: at least one."""
    s.transaction(_set_code(s, authorizations=()).item())


@mutation("prague")
def set_code_creates(s: Subject) -> None:
    """EIP-7702: there must be a recipient."""
    s.transaction(_set_code(s, to=b"", gas=300_000).item())


@mutation("prague")
def authorization_with_a_nonce_too_long(s: Subject) -> None:
    """EIP-7702: a nonce of 2^64 or more makes the transaction invalid, not the tuple."""
    s.transaction(_set_code(s, authorizations=(_authorization(nonce=2**64),)).item())


@mutation("prague")
def authorization_with_a_parity_too_long(s: Subject) -> None:
    """EIP-7702: a parity of 256 makes the transaction invalid, not the tuple."""
    tuple_ = _authorization(signature=(256, 1, 1))
    s.transaction(_set_code(s, authorizations=(tuple_,)).item())


def _authorization(nonce: int = 0, signature: tuple[int, int, int] | None = None) -> Authorization:
    return Authorization(Account.named("authority 0"), b"\x10" * 20, nonce, signature=signature)


@mutation("cancun")
def blobs_none(s: Subject) -> None:
    """EIP-4844: at least one."""
    s.transaction(s.tx(kind=BLOB).item())


@mutation("cancun")
def blob_creates(s: Subject) -> None:
    """EIP-4844: there must be a recipient."""
    s.transaction(s.tx(kind=BLOB, to=b"", blobs=(blob_hash(1),), gas=300_000).item())


@mutation("cancun")
def blob_hash_of_an_unknown_version(s: Subject) -> None:
    """EIP-4844: the version is 1."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1), b"\2" + bytes(31))).item())


@mutation("cancun")
def blob_fee_too_low(s: Subject) -> None:
    """EIP-4844: less than the fee of blob gas."""
    s.transaction(s.tx(kind=BLOB, blobs=(blob_hash(1),), blob_price=0).item())


@mutation("cancun")
def blobs_one_too_many_for_the_block(s: Subject) -> None:
    """EIP-4844, EIP-7691, EIP-7892: one more than the block may have."""
    missing = s.fork.max_blobs - int.from_bytes(s.get("blob_gas_used"), "big") // 131_072 + 1
    most = 6 if s.fork.since("osaka") else missing
    first = s.tx().nonce
    for index, done in enumerate(range(0, missing, most)):
        blobs = tuple(blob_hash(done + i) for i in range(min(most, missing - done)))
        s.transaction(s.tx(kind=BLOB, blobs=blobs, nonce=first + index).item())
    s.add("blob_gas_used", missing * 131_072)


@mutation("osaka")
def blobs_one_too_many_for_a_transaction(s: Subject) -> None:
    """EIP-7594: six is the most."""
    s.transaction(s.tx(kind=BLOB, blobs=tuple(blob_hash(i) for i in range(7))).item())
