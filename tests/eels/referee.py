"""Has the real binary execute a chain file in several ways, and compares with EELS's verdicts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .chain import Verdict
from .reasons import agree

TIMEOUT_S = 120
# The baseline may decline what its library can't count; a wrong answer it may not give.
DECLINED = "the sequential baseline cannot execute the block"


@dataclass(frozen=True)
class Case:
    """A chain file and what must become of it.

    Blocks follow each other up to the first invalid one, which is the last. `overruled` says why
    the last block must be refused although EELS accepts it: which rule EELS does not have.
    """

    name: str
    genesis: dict[str, Any]
    blocks: tuple[tuple[bytes, Verdict], ...]
    overruled: str = ""
    # The head after an import, if it is not the last valid block: files with several branches.
    head: Verdict | None = None

    @property
    def accepted(self) -> list[Verdict]:
        """The verdicts on the blocks that must be committed."""
        valid = [verdict for _, verdict in self.blocks if verdict.valid]
        return valid[:-1] if self.overruled else valid

    @property
    def refused(self) -> Verdict | None:
        """The verdict on the block that must be refused, if there is one."""
        last = self.blocks[-1][1]
        return last if self.overruled or not last.valid else None


@dataclass(frozen=True)
class Way:
    """One way to have the binary execute a chain."""

    name: str
    arguments: tuple[str, ...]
    durable: bool = False


def ways(seed: int) -> list[Way]:
    """All ways. The seeded plans get another seed for every case."""
    local = ("--in-process", "--shards", "2")
    plans = ("auto", "one", "each", f"random:{seed}", f"poison:{seed}")
    made = [Way(f"run {plan}", ("run", *local, "--plan", plan)) for plan in plans]
    made.append(Way("run sequential", ("run", "--sequential")))
    made.append(Way("import", ("import", *local), durable=True))
    made.append(Way("import sequential", ("import", "--sequential"), durable=True))
    return made


class Referee:
    """Runs cases in a folder of its own, which keeps the files of those that failed."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        # What proves and measures is a binary of its own, beside the coordinator.
        self.lab = binary.with_name("lab")
        self.runs = 0
        self.declined = 0
        folder.mkdir(parents=True, exist_ok=True)

    def program(self, way: Way) -> Path:
        """The binary that has this way of executing."""
        words = way.arguments
        only_lab = "--sequential" in words or any(word.startswith("poison:") for word in words)
        return self.lab if only_lab else self.binary

    def check(self, case: Case, chosen: list[Way]) -> list[str]:
        """Every disagreement, as a line that names case and way."""
        home = self.folder / _file_name(case.name)
        if home.exists():
            _remove(home)
        home.mkdir(parents=True, exist_ok=True)
        (home / "genesis.json").write_text(json.dumps(case.genesis))
        (home / "chain.rlp").write_bytes(b"".join(encoded for encoded, _ in case.blocks))
        found = []
        for number, way in enumerate(chosen):
            if case.head is not None and not way.durable:
                continue  # `run` knows no branches.
            found += [f"{case.name}: {way.name}: {text}" for text in self._run(case, way, home, number)]
        if not found:
            _remove(home)
        else:
            expected = [verdict.__dict__ for _, verdict in case.blocks]
            (home / "expected.json").write_text(json.dumps(expected, indent=1))
            found.append(f"{case.name}: the files are in {home}")
        return found

    def _run(self, case: Case, way: Way, home: Path, number: int) -> list[str]:
        command = [str(self.program(way)), *way.arguments, "--json", "--genesis", "genesis.json"]
        if way.durable:
            command += ["--data-dir", f"data-{number}"]
        self.runs += 1
        try:
            done = subprocess.run(
                [*command, "chain.rlp"], cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return [f"it did not end within {TIMEOUT_S} s"]
        try:
            rows = [json.loads(line) for line in done.stdout.splitlines()]
        except json.JSONDecodeError:
            rows = []
        if not rows or not rows[-1].get("summary"):
            return [f"no result (exit code {done.returncode}): {done.stderr.strip()[-500:]}"]
        if "--sequential" in way.arguments and DECLINED in done.stdout:
            self.declined += 1
            return []
        if way.durable:
            return _compare_import(case, rows, done.stderr)
        return _compare_run(case, rows)


def _compare_run(case: Case, rows: list[dict[str, Any]]) -> list[str]:
    """Compares the rows of `coordinator run`, one for each block up to the first that is refused."""
    found: list[str] = []
    rows = rows[:-1]
    wanted = case.accepted
    for expected, row in zip(wanted, rows, strict=False):
        if row["error"] is not None:
            found.append(f"block {expected.number} is valid, but is refused: {row['error']}")
            return found
        found += _differences(expected, row, ("hash", "gas_used", "receipts_root", "state_root"))
    if case.refused is None:
        if len(rows) != len(wanted):
            found.append(f"{len(wanted)} blocks are valid, {len(rows)} were executed")
        return found
    if len(rows) <= len(wanted):
        return [*found, f"only {len(rows)} of {len(wanted)} valid blocks were executed"]
    return found + _refusal(case, rows[len(wanted)]["error"])


def _compare_import(case: Case, rows: list[dict[str, Any]], stderr: str) -> list[str]:
    """Compares the rows of `coordinator import`, one for each durable block, and the head."""
    summary, durable = rows[-1], {row["hash"]: row for row in rows[:-1]}
    found: list[str] = []
    for expected in case.accepted:
        row = durable.pop(expected.hash, None)
        if row is None:
            found.append(f"block {expected.number} is valid, but is not imported: {stderr.strip()[-400:]}")
            return found
        found += _differences(expected, row, ("number", "gas_used", "state_root"))
    found += [f"block {row['number']} is invalid, but is imported" for row in durable.values()]
    head = case.head or (case.accepted[-1] if case.accepted else None)
    if head is not None:
        found += _differences(head, summary, ("hash", "state_root"))
    if case.refused is not None:
        found += _refusal(case, summary["error"])
    elif summary["error"]:
        found.append(f"every block is valid, but the import fails: {summary['error']}")
    return found


def _refusal(case: Case, error: str | None) -> list[str]:
    """Whether the last block is refused for the right reason."""
    refused = case.refused
    assert refused is not None
    if error is None:
        return [f"block {refused.number} is invalid ({refused.reason or case.overruled}), but is accepted"]
    if case.overruled or agree(refused.reason, error):
        return []
    return [f"block {refused.number} is refused for {error!r}, EELS refuses it for {refused.reason!r}"]


def _differences(expected: Verdict, row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The fields of a row that are not as EELS has them."""
    found = []
    for name in names:
        wanted, got = getattr(expected, name), row[name]
        if got != wanted:
            found.append(f"block {expected.number}: {name} is {got}, EELS has {wanted}")
    return found


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-._" else "-" for char in name)[:150]


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
