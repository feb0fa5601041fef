"""What execution does to the state: creations, destructions, empty accounts, odd code, fees."""

from __future__ import annotations

from ..assembler import address, call, create, log, memory, op, push, repeat, returning, sload, sstore, words
from ..forks import Fork
from ..transactions import Account, create2_address, create_address
from .registry import OTHER, RICH, TARGET, Stage, case

CONTRACT = b"\x51" * 20
SECOND = b"\x52" * 20
RIPEMD = bytes(19) + b"\3"
DELEGATION_LIKE = b"\xef\x01\x00" + b"\x53" * 20
_ODD_CODES = (
    b"\xef",
    b"\xef\x00",
    b"\xef\x00\x01\x01\x00\x04",
    b"\xef\x01",
    DELEGATION_LIKE[:22],
    DELEGATION_LIKE,
)
_LOOKS = ("EXTCODESIZE", "EXTCODEHASH", "BALANCE")


def looking(fork: Fork, target: bytes) -> bytes:
    """Code that stores all that can be seen of an account, and calls it."""
    code = b""
    for slot, name in enumerate(_LOOKS):
        if name != "EXTCODEHASH" or fork.since("constantinople"):
            code += sstore(slot, address(target) + op(name))
    code += words(address(target), 0, 0, 64) + op("EXTCODECOPY") + sstore(3, push(0) + op("MLOAD"))
    gas = push(60_000)
    code += sstore(4, call(address(target), gas=gas)) + sstore(5, call(address(target), gas=gas, value=1))
    return code + sstore(6, op("GAS"))


@case(code=_ODD_CODES)
def odd_code_in_the_genesis(stage: Stage, code: bytes) -> None:
    """Code that begins with 0xEF: before Prague it is legacy code with an invalid instruction."""
    stage.account(b"\x53" * 20, nonce=1, code=sstore(1, 1))
    stage.account(CONTRACT, nonce=1, balance=9, code=code)
    stage.account(SECOND, nonce=1, balance=10**6, code=looking(stage.fork, CONTRACT))
    stage.attempt(stage.tx(SECOND), stage.tx(CONTRACT), stage.tx(CONTRACT, value=1))


@case(code=_ODD_CODES)
def odd_code_deployed(stage: Stage, code: bytes) -> None:
    """Such code can be deployed before London (EIP-3541), and is then called."""
    stage.account(b"\x53" * 20, nonce=1, code=sstore(1, 1))
    where = create_address(RICH.address, 0)
    stage.account(SECOND, nonce=1, balance=10**6, code=looking(stage.fork, where))
    stage.attempt(stage.tx(b"", data=returning(code)), stage.tx(SECOND), stage.tx(where, value=3))
    stage.attempt(stage.tx(SECOND), stage.tx(where))


@case(code=_ODD_CODES)
def odd_code_deployed_by_a_contract(stage: Stage, code: bytes) -> None:
    """The same through CREATE: a failure costs the gas of the creation only."""
    stage.account(CONTRACT, nonce=1, code=sstore(0, create(returning(code))) + sstore(1, op("GAS")))
    where = create_address(CONTRACT, 1)
    stage.account(SECOND, nonce=1, balance=10**6, code=looking(stage.fork, where))
    stage.attempt(stage.tx(CONTRACT, gas=300_000), stage.tx(SECOND))
    stage.attempt(stage.tx(SECOND), stage.tx(CONTRACT, gas=300_000))


@case()
def storage_without_code_or_nonce(stage: Stage) -> None:
    """EIP-7610: where storage is, nothing is created."""
    where = create_address(RICH.address, 0)
    stage.account(where, balance=5, storage={0: 1, 7: 7})
    stage.attempt(stage.tx(b"", data=sstore(1, sload(0)) + returning(b"\0"), gas=400_000))
    stage.attempt(stage.tx(where, value=1))


@case("constantinople")
def storage_without_code_or_nonce_meets_create2(stage: Stage) -> None:
    """EIP-7610 for CREATE2."""
    initcode = sstore(1, sload(0))
    where = create2_address(CONTRACT, 1, initcode)
    stage.account(where, storage={0: 1})
    stage.account(CONTRACT, nonce=1, code=sstore(0, create(initcode, salt=1)) + sstore(1, op("GAS")))
    stage.attempt(stage.tx(CONTRACT))


@case(fields=({"nonce": 1}, {"code": b"\0"}, {"balance": 1}))
def creation_meets_an_account(stage: Stage, fields: dict[str, int]) -> None:
    """EIP-684: a nonce or code is a collision, a balance is not."""
    stage.account(create_address(RICH.address, 0), **fields)
    stage.attempt(stage.tx(b"", data=returning(b"\0"), value=2))
    stage.attempt(stage.tx(b"", data=returning(b"\0"), value=2))


def _empty_account(stage: Stage, where: bytes) -> None:
    """An empty account in the genesis block, except after the Merge, where there are none (EIP-7523)."""
    if not stage.fork.since("paris"):
        stage.account(where)


@case(value=(0, 1))
def touch(stage: Stage, value: int) -> None:
    """EIP-161: empty accounts that are touched vanish, from Spurious Dragon on."""
    stage.account(
        CONTRACT, nonce=1, balance=9, code=call(address(TARGET), value=value, gas=10_000) + op("POP")
    )
    _empty_account(stage, SECOND)
    stage.attempt(stage.tx(CONTRACT), stage.tx(SECOND), stage.tx(b"\x98" * 20, value=value))
    stage.attempt(stage.tx(RIPEMD), coinbase=b"\x97" * 20)


@case()
def touch_of_the_third_contract_that_runs_out_of_gas(stage: Stage) -> None:
    """The touch of 0x03 outlives a failure (the state clearing of 2016)."""
    _empty_account(stage, RIPEMD)
    stage.account(CONTRACT, nonce=1, code=call(address(RIPEMD), gas=1) + op("POP") + b"\xfe")
    code = call(address(CONTRACT), gas=50_000) + op("POP") + call(address(RIPEMD), gas=100)
    stage.account(SECOND, nonce=1, code=code + op("POP"))
    stage.attempt(stage.tx(SECOND), stage.tx(RIPEMD, gas=21_100), stage.tx(CONTRACT, gas=90_000))
    stage.attempt(stage.tx(RIPEMD, gas=40_000))


@case()
def zero_fees(stage: Stage) -> None:
    """Without fees the maker of a block gets nothing, and an empty one is touched."""
    fee = 0 if not stage.fork.since("london") else 10**9
    maker = b"\x96" * 20
    _empty_account(stage, maker)
    stage.attempt(stage.tx(price=fee), stage.tx(price=fee), coinbase=maker)
    stage.attempt(coinbase=b"\x95" * 20)


_MAKERS = {"sender": RICH.address, "recipient": TARGET, "other": OTHER.address, "precompile": RIPEMD}


@case(who=(*_MAKERS, "contract", "destroyed", "system", "zero"))
def maker_of_the_block(stage: Stage, who: str) -> None:
    """Fees and rewards go to accounts that the block uses otherwise."""
    stage.account(CONTRACT, nonce=1, balance=5, code=sstore(0, op("COINBASE", "BALANCE")))
    destroyed = stage.account(SECOND, nonce=1, balance=5, code=address(TARGET) + op("SELFDESTRUCT"))
    others = {"contract": CONTRACT, "destroyed": destroyed, "system": b"\xff" * 19 + b"\xfe"}
    maker = (_MAKERS | others | {"zero": bytes(20)})[who]
    calls = [stage.tx(CONTRACT), stage.tx(SECOND), stage.tx(TARGET, value=1), stage.tx(SECOND, value=3)]
    stage.attempt(*calls, coinbase=maker)
    stage.attempt(stage.tx(CONTRACT), coinbase=maker)


_HEIRS = {"itself": CONTRACT, "nobody": b"\x94" * 20, "other": OTHER.address, "precompile": RIPEMD}


@case(heir=tuple(_HEIRS))
def self_destruct(stage: Stage, heir: str) -> None:
    """In one block: destroyed twice, paid in between, and looked at."""
    code = sstore(0, 1) + address(_HEIRS[heir]) + op("SELFDESTRUCT")
    stage.account(CONTRACT, nonce=1, balance=77, code=code, storage={5: 5})
    stage.account(SECOND, nonce=1, balance=10**6, code=looking(stage.fork, CONTRACT))
    calls = [stage.tx(CONTRACT), stage.tx(CONTRACT, value=4), stage.tx(SECOND), stage.tx(CONTRACT)]
    stage.attempt(*calls)
    stage.attempt(stage.tx(SECOND))


@case(heir=("itself", "nobody"))
def self_destruct_in_the_creation(stage: Stage, heir: str) -> None:
    """EIP-6780: what is created and destroyed in one transaction is gone."""
    where = create_address(RICH.address, 0)
    heirs = {"itself": where, "nobody": b"\x94" * 20}
    initcode = sstore(0, 1) + log([1]) + address(heirs[heir]) + op("SELFDESTRUCT")
    stage.account(SECOND, nonce=1, balance=10**6, code=looking(stage.fork, where))
    stage.attempt(stage.tx(b"", data=initcode, value=5), stage.tx(SECOND), stage.tx(where, value=2))


@case()
def self_destruct_after_the_creation(stage: Stage) -> None:
    """A contract creates another one, has it destroy itself, and pays it afterwards."""
    runtime = address(TARGET) + op("SELFDESTRUCT")
    code = create(returning(runtime), value=7) + push(0) + op("MSTORE")
    created = push(0) + op("MLOAD")
    for slot in range(3):
        code += sstore(slot, call(created, value=slot, gas=50_000))
    code += sstore(3, created + op("BALANCE")) + sstore(4, created + op("EXTCODESIZE"))
    stage.account(CONTRACT, nonce=1, balance=100, code=code)
    stage.attempt(stage.tx(CONTRACT), stage.tx(CONTRACT))


@case("constantinople")
def create2_again_after_a_self_destruct(stage: Stage) -> None:
    """The same address, created and destroyed again and again, within and across blocks."""
    initcode = returning(sstore(0, sload(0) + push(1) + op("ADD")) + address(TARGET) + op("SELFDESTRUCT"))
    where = create2_address(CONTRACT, 7, initcode)
    stage.account(CONTRACT, nonce=1, balance=100, code=sstore(op("NUMBER"), create(initcode, 1, 7)))
    both = [stage.tx(CONTRACT), stage.tx(where), stage.tx(CONTRACT), stage.tx(where), stage.tx(CONTRACT)]
    stage.attempt(*both)
    stage.attempt(stage.tx(where), stage.tx(CONTRACT))


@case(size=(24_575, 24_576, 24_577))
def code_size(stage: Stage, size: int) -> None:
    """EIP-170: 24,576 bytes are the most, from Spurious Dragon on."""
    initcode = push(size) + push(0) + op("RETURN")
    stage.attempt(stage.tx(b"", data=initcode, gas=6_000_000), stage.tx(b"", data=initcode, gas=100_000))


@case(gas=(53_000, 53_200, 54_000, 60_000, 90_000))
def creation_without_the_gas_for_its_code(stage: Stage, gas: int) -> None:
    """Frontier leaves an empty contract, later forks fail (EIP-2)."""
    stage.attempt(stage.tx(b"", data=push(200) + push(0) + op("RETURN"), gas=gas, value=1))
    stage.attempt(stage.tx(create_address(RICH.address, 0), value=1))


@case()
def creator_at_the_last_nonce(stage: Stage) -> None:
    """EIP-2681: a contract whose nonce is at its end creates nothing."""
    for nonce in (2**64 - 2, 2**64 - 1):
        where = bytes([nonce % 251]) * 20
        stage.account(where, nonce=nonce, balance=5, code=sstore(0, create(b"", 1)) + sstore(1, op("GAS")))
    stage.attempt(*(stage.tx(bytes([n % 251]) * 20) for n in (2**64 - 2, 2**64 - 1)))


@case()
def sender_at_the_last_nonce(stage: Stage) -> None:
    """EIP-2681: 2^64 - 2 is the last nonce that can be used."""
    last = Account.named("last")
    stage.account(last.address, balance=10**20, nonce=2**64 - 2)
    stage.attempt(stage.tx(sender=last, nonce=2**64 - 2), stage.tx(sender=OTHER))
    stage.attempt(stage.tx(sender=last, nonce=2**64 - 1))


@case(code=(b"\0", b"\xef\x01\x00" + b"\x51" * 20, b"\xef\x01\x00", b"\xef\x01\x01" + b"\x51" * 20))
def sender_with_code(stage: Stage, code: bytes) -> None:
    """EIP-3607: an account with code sends nothing, unless it is a delegation (EIP-7702)."""
    owner = Account.named("owner")
    stage.account(owner.address, balance=10**20, code=code)
    stage.attempt(stage.tx(sender=owner, nonce=0))


@case()
def calls_to_the_last_depth(stage: Stage) -> None:
    """A contract that calls itself until nothing is left: depth 1024, or 63/64 of the gas."""
    code = sstore(0, sload(0) + push(1) + op("ADD"))
    gas = push(25_000) + op("GAS", "SUB") if not stage.fork.since("tangerine_whistle") else op("GAS")
    code += call(op("ADDRESS"), gas=gas) + op("POP")
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(stage.tx(CONTRACT, gas=3_000_000 if not stage.fork.since("berlin") else 1_000_000))


@case(size=(1_025, 1_024, 1_023))
def stack(stage: Stage, size: int) -> None:
    """1,024 words are the most."""
    stage.account(CONTRACT, nonce=1, code=push(1) * size + sstore(0, 1)[:-3] + op("STOP"))
    stage.account(SECOND, nonce=1, code=push(1) * (size - 2) + sstore(0, 1))
    stage.attempt(stage.tx(CONTRACT, gas=200_000), stage.tx(SECOND, gas=200_000))


@case()
def stores_of_every_kind(stage: Stage) -> None:
    """Each original value with every sequence of three values: costs and refunds."""
    sequences = [(a, b, c) for a in (0, 1, 2) for b in (0, 1, 2) for c in (0, 1, 2)]
    code = b"".join(sstore(slot, value) for slot, many in enumerate(sequences) for value in many)
    storage = {slot: 1 for slot in range(len(sequences))}
    stage.account(CONTRACT, nonce=1, code=code, storage=storage)
    stage.account(SECOND, nonce=1, code=code)
    stage.attempt(stage.tx(CONTRACT, gas=3_000_000), stage.tx(SECOND, gas=3_000_000))
    stage.attempt(stage.tx(CONTRACT, gas=3_000_000), stage.tx(SECOND, gas=3_000_000))


@case(left=(2_299, 2_300, 2_301, 5_000, 5_006))
def store_with_little_gas(stage: Stage, left: int) -> None:
    """EIP-2200: with 2,300 gas or less no store succeeds."""
    stage.account(CONTRACT, nonce=1, code=sstore(0, 1), storage={0: 1})
    stage.account(
        SECOND, nonce=1, code=sstore(1, call(address(CONTRACT), gas=left + 6)) + sstore(2, op("GAS"))
    )
    stage.attempt(stage.tx(SECOND), stage.tx(SECOND))


@case()
def refunds_beyond_the_limit(stage: Stage) -> None:
    """A half, or from London on a fifth, of the gas is the most that is refunded."""
    code = b"".join(sstore(slot, 0) for slot in range(20))
    stage.account(CONTRACT, nonce=1, code=code, storage={slot: 1 for slot in range(20)})
    stage.attempt(stage.tx(CONTRACT))


@case()
def ancestors(stage: Stage) -> None:
    """BLOCKHASH of this block, the last ones, the genesis, and of none."""
    code = b""
    for slot, distance in enumerate((0, 1, 2, 3, 4, 255, 256, 257)):
        code += sstore(slot, push(distance) + op("NUMBER", "SUB", "BLOCKHASH"))
    stage.account(CONTRACT, nonce=1, code=code + sstore(9, push(2**255) + op("BLOCKHASH")))
    for _ in range(4):
        stage.attempt(stage.tx(CONTRACT))


@case("byzantium")
def answers_beyond_their_end(stage: Stage) -> None:
    """Copying more than a call's answer fails, even with nothing to copy."""
    for offset, size in ((0, 32), (0, 33), (32, 0), (33, 0), (2**256 - 1, 2)):
        code = sstore(0, call(address(TARGET), gas=9)) + words(0, offset, size) + op("RETURNDATACOPY")
        where = bytes([offset % 199 + size]) * 20
        stage.account(where, nonce=1, code=memory(b"\1") + code + sstore(1, 1))
    answer = stage.account(b"\x58" * 20, nonce=1, code=words(0, 32) + op("RETURN"))
    made = call(address(answer), gas=9_000) + op("POP") + words(0, 0, 33) + op("RETURNDATACOPY")
    stage.account(CONTRACT, nonce=1, code=made)
    accounts = [where for where, account in stage.world.accounts.items() if account.code]
    stage.attempt(*(stage.tx(where, gas=200_000) for where in accounts))


@case("byzantium")
def changes_in_a_static_call(stage: Stage) -> None:
    """Whatever changes the state fails in a static call."""
    changes = [sstore(0, 1), log([]), create(b""), address(TARGET) + op("SELFDESTRUCT")]
    changes += [call(address(TARGET), value=1, gas=1_000), call(address(TARGET), value=0, gas=1_000)]
    caller = b""
    for number, change in enumerate(changes):
        where = stage.account(bytes([0xA1 + number]) * 20, nonce=1, balance=5, code=change)
        caller += sstore(number, call(address(where), kind="STATICCALL", gas=50_000))
    stage.account(CONTRACT, nonce=1, code=caller)
    stage.attempt(stage.tx(CONTRACT))


@case("berlin")
def access_lists(stage: Stage) -> None:
    """What is listed is warm: accounts, slots, doubles, and the sender."""
    code = sstore(0, sload(1)) + sstore(2, address(OTHER.address) + op("BALANCE")) + sstore(3, op("GAS"))
    stage.account(CONTRACT, nonce=1, code=code, storage={1: 1, 0: 1})
    slots = tuple(n.to_bytes(32, "big") for n in (0, 1, 1))
    lists = ((), ((CONTRACT, slots),), ((OTHER.address, ()), (CONTRACT, slots[:1]), (CONTRACT, slots[:1])))
    stage.attempt(*(stage.tx(CONTRACT, kind=1, access=access) for access in lists))


@case()
def warm_accounts(stage: Stage) -> None:
    """EIP-2929, EIP-3651: sender, recipient, precompiles and the maker of the block are warm."""
    code = b""
    targets = (RICH.address, RIPEMD, bytes(19) + b"\x0a", bytes(19) + b"\x12", b"\xc0" * 20, OTHER.address)
    for slot, target in enumerate((*targets, bytes(18) + b"\1\0")):
        before = op("GAS") + address(target) + op("BALANCE", "POP", "GAS", "SWAP1", "SUB")
        code += before + push(slot) + op("SSTORE")
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(stage.tx(CONTRACT))


@case("cancun")
def transient_storage(stage: Stage) -> None:
    """EIP-1153: it lives as long as a transaction, and falls with a call that fails."""
    code = sstore(0, push(1) + op("TLOAD")) + words(1, 5) + op("TSTORE")
    code += sstore(1, call(address(SECOND), kind="DELEGATECALL", gas=50_000)) + sstore(
        2, push(1) + op("TLOAD")
    )
    stage.account(CONTRACT, nonce=1, code=code)
    stage.account(SECOND, nonce=1, code=words(1, 6) + op("TSTORE") + push(0) + push(0) + op("REVERT"))
    stage.attempt(stage.tx(CONTRACT), stage.tx(CONTRACT))


@case()
def every_instruction(stage: Stage) -> None:
    """Every byte as an instruction, over a stack of ones: which exist, and what they cost."""
    accounts = []
    for value in range(256):
        code = push(1) * 17 + bytes([value]) + push(7) + push(0) + op("SSTORE")
        accounts.append(stage.account(value.to_bytes(2, "big") * 10, nonce=1, balance=1, code=code))
    for start in range(0, 256, 64):
        stage.attempt(*(stage.tx(where, gas=120_000) for where in accounts[start : start + 64]))


@case(number=(1, 2, 255, 4_096))
def loops(stage: Stage, number: int) -> None:
    """Many instructions: the gas of jumps."""
    stage.account(CONTRACT, nonce=1, code=repeat(number, push(1) + op("POP")) + sstore(0, op("GAS")))
    stage.attempt(stage.tx(CONTRACT))


@case("osaka")
def leading_zeros(stage: Stage) -> None:
    """EIP-7939: CLZ of every power of two and of zero."""
    words_ = [0, 2**256 - 1, *(1 << bit for bit in range(0, 256, 17))]
    code = b"".join(sstore(slot, push(value) + op("CLZ")) for slot, value in enumerate(words_))
    stage.account(CONTRACT, nonce=1, code=code)
    stage.attempt(stage.tx(CONTRACT))
