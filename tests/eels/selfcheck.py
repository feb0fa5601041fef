"""Shows that the referee can fail: it must notice every verdict that is deliberately falsified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from .build import Draft, build
from .chain import Allocation, Chain, Verdict, World
from .forks import Schedule, fork
from .referee import Case, Referee, ways
from .transactions import Account, Tx

_SENDER = Account.named("selfcheck")


def overlooked(binary: Path, seed: int) -> list[str]:
    """The falsified verdicts that the referee does not notice, one line for each."""
    chain = Chain(Schedule.only(fork("berlin")), World({_SENDER.address: Allocation(10**20)}))
    built = [build(chain, Draft([Tx(_SENDER, nonce=n, to=b"\1" * 20)])) for n in range(3)]
    blocks = [(block.encoded, block.verdict) for block in built]
    last = built[-1].verdict
    falsified: dict[str, Verdict] = {
        "gas": replace(last, gas_used=last.gas_used + 1),
        "state root": replace(last, state_root=last.receipts_root),
        "hash": replace(last, hash=last.state_root),
        "receipts root": replace(last, receipts_root=last.state_root),
        "a refusal": replace(last, reason="InvalidBlock in validate_header: if header.timestamp"),
    }
    found = []
    with TemporaryDirectory(prefix="eels-") as folder:
        referee = Referee(binary, Path(folder))
        for what, verdict in falsified.items():
            case = Case(what, chain.genesis_json(), (*blocks[:-1], (blocks[-1][0], verdict)))
            for way in ways(seed):
                # An import tells of no receipts; the header that it accepts has their root.
                blind = way.durable and what == "receipts root"
                if not blind and not referee.check(case, [way]):
                    found.append(f"the referee overlooks a wrong verdict on {what}: {way.name}")
    return found
