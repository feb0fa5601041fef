"""`python -m eels`: generates chains, has EELS judge them, and checks the binary against it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .build import build
from .cases import all_cases
from .chain import Chain
from .forks import FORKS, Schedule, fork as fork_named
from .invalid import mutate, mutations
from .random_blocks import Maker
from .referee import Case, Referee, Way, ways

BLOCKS_PER_CHAIN = 12


@dataclass(frozen=True)
class Options:
    """What every worker needs to know."""

    binary: Path
    folder: Path
    soak: bool


@dataclass
class Result:
    """What came of one job."""

    counts: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Takes up another result."""
        self.counts.update(other.counts)
        self.disagreements += other.disagreements


def schedules() -> list[Schedule]:
    """Chains of one fork, and chains that pass from one to the next or to a much later one."""
    single = [Schedule.only(fork) for fork in FORKS]
    pairs = [Schedule.switch(a, b, BLOCKS_PER_CHAIN // 2) for a, b in zip(FORKS, FORKS[1:])]
    leaps = [("frontier", "byzantium"), ("byzantium", "berlin"), ("istanbul", "london")]
    leaps += [("london", "paris"), ("london", "shanghai"), ("paris", "prague"), ("shanghai", "osaka")]
    far = [Schedule.switch(fork_named(a), fork_named(b), BLOCKS_PER_CHAIN // 2) for a, b in leaps]
    return single + pairs + far


def random_job(options: Options, seed: int, schedule: Schedule) -> Result:
    """One random chain, and some of its last block's invalid variants."""
    result = Result()
    random = Random(f"{seed} {schedule}")
    maker = Maker(random, schedule)
    chain = Chain(schedule, maker.world)
    built = [build(chain, maker.draft(chain)) for _ in range(BLOCKS_PER_CHAIN - 1)]
    before = chain.copy()
    last = build(chain, maker.draft(chain))
    name = f"random {schedule} seed {seed}"
    blocks = tuple((b.encoded, b.verdict) for b in built)
    genesis = chain.genesis_json()
    referee = Referee(options.binary, options.folder)
    whole = Case(name, genesis, (*blocks, (last.encoded, last.verdict)))
    result.disagreements += referee.check(whole, ways(seed))
    result.counts["random blocks, valid"] += len(whole.blocks)
    result.counts[f"blocks on {schedule.steps[-1].fork}"] += len(whole.blocks)
    result.counts["transactions"] += sum(len(b.block.transactions) for b in (*built, last))
    for mutation in random.sample(mutations(chain.fork), 6 if options.soak else 2):
        encoded = mutate(mutation, before, chain, last)
        if encoded is None:
            continue
        verdict = before.copy().judge(encoded)
        variant = Case(f"{name} {mutation}", genesis, (*blocks, (encoded, verdict)))
        result.disagreements += referee.check(variant, _some(ways(seed), random, options))
        result.counts["random blocks, " + ("valid" if verdict.valid else "invalid")] += 1
    result.counts["runs of the binary"] += referee.runs
    return result


def hand_made_job(options: Options, seed: int, name: str) -> Result:
    """One hand-made case."""
    result = Result()
    referee = Referee(options.binary, options.folder)
    case = all_cases()[name].case()
    chosen = _some(ways(seed), Random(f"{seed} {name}"), options)
    result.disagreements += referee.check(case, chosen)
    result.counts["hand-made cases, " + ("invalid" if case.refused else "valid")] += 1
    if case.overruled:
        result.counts["hand-made cases where EELS lacks a rule"] += 1
    result.counts["hand-made blocks"] += len(case.blocks)
    result.counts["runs of the binary"] += referee.runs
    return result


def _some(all_ways: list[Way], random: Random, options: Options) -> list[Way]:
    """All ways in a soak, else one sharded plan or the baseline, and one import."""
    if options.soak:
        return all_ways
    runs = [way for way in all_ways if not way.durable]
    imports = [way for way in all_ways if way.durable]
    return [random.choice(runs), random.choice(imports)]


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """The work, as functions with their arguments after the options."""
    if not arguments.random_only:
        names = [name for name in all_cases() if arguments.only in name]
        if arguments.cases < len(names):
            names = Random(arguments.seed).sample(names, arguments.cases)
        for name in names:
            yield hand_made_job, arguments.seed, name
    if arguments.cases_only:
        return
    chains = schedules()
    for number in range(-(-arguments.blocks // BLOCKS_PER_CHAIN)):
        schedule = chains[number % len(chains)]
        if arguments.only in str(schedule):
            yield random_job, arguments.seed + number // len(chains), schedule


def main() -> int:
    """Runs all jobs. The exit code is 1 if there is any disagreement."""
    arguments = _parse()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="eels-"))
    options = Options(arguments.binary.resolve(), folder.resolve(), arguments.soak)
    began = time.monotonic()
    total = Result()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        pending = {pool.submit(job, options, *rest): rest[-1] for job, *rest in jobs(arguments)}  # type: ignore[operator]
        for done in as_completed(pending):
            try:
                result = done.result()
            except Exception as error:  # A case that can't be made is a failure of the harness.
                result = Result(disagreements=[f"{pending[done]}: the harness failed: {error!r}"])
            total.add(result)
            for line in result.disagreements:
                print(f"DISAGREEMENT {line}", flush=True)
    for what, count in sorted(total.counts.items()):
        print(f"{count:8} {what}")
    seconds = time.monotonic() - began
    print(f"{len(total.disagreements)} disagreements; seed {arguments.seed}, {seconds:.0f} s")
    return 1 if total.disagreements else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/eels.sh", description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="the coordinator to check")
    parser.add_argument("--blocks", type=int, default=360, help="how many random blocks, at least")
    parser.add_argument("--cases", type=int, default=10**6, help="how many hand-made cases, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1, help="of the first round of random chains")
    parser.add_argument("--soak", action="store_true", help="check every case in every way")
    parser.add_argument("--jobs", type=int, default=2, help="processes that generate and check")
    parser.add_argument("--only", default="", help="only cases and chains with this in their name")
    parser.add_argument("--cases-only", action="store_true", help="no random chains")
    parser.add_argument("--random-only", action="store_true", help="no hand-made cases")
    parser.add_argument("--folder", type=Path, help="where the files of failed cases are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
