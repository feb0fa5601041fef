"""`python -m eels`: generates chains, has EELS judge them, and checks the binary against it."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from .build import build
from .cases import all_cases
from .chain import Chain
from .forks import FORKS, Schedule
from .forks import fork as fork_named
from .invalid import mutate, mutations
from .random_blocks import Maker
from .referee import Case, Referee, Way, ways
from .selfcheck import overlooked

BLOCKS_PER_CHAIN = 12
TELL_EVERY_S = 20


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

    def count_runs(self, referee: Referee) -> None:
        """Counts what a referee has done."""
        self.counts["runs of the binary"] += referee.runs
        self.counts["runs that the sequential baseline declined"] += referee.declined


def schedules(seed: int) -> list[Schedule]:
    """Chains of each fork, then chains that pass from one to another, as the seed shuffles them."""
    single = [Schedule.only(fork) for fork in FORKS]
    pairs = [Schedule.switch(a, b, BLOCKS_PER_CHAIN // 2) for a, b in itertools.pairwise(FORKS)]
    leaps = [("frontier", "byzantium"), ("byzantium", "berlin"), ("istanbul", "london")]
    leaps += [("london", "paris"), ("london", "shanghai"), ("paris", "prague"), ("shanghai", "osaka")]
    far = [Schedule.switch(fork_named(a), fork_named(b), BLOCKS_PER_CHAIN // 2) for a, b in leaps]
    passing = pairs + far
    Random(seed).shuffle(passing)
    return single + passing


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
    result.count_runs(referee)
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
    result.count_runs(referee)
    return result


def selfcheck_job(options: Options, seed: int) -> Result:
    """Whether the referee notices what it must."""
    return Result(disagreements=overlooked(options.binary, seed))


def _some(all_ways: list[Way], random: Random, options: Options) -> list[Way]:
    """All ways in a soak, else one sharded plan or the baseline, and one import."""
    if options.soak:
        return all_ways
    runs = [way for way in all_ways if not way.durable]
    imports = [way for way in all_ways if way.durable]
    return [random.choice(runs), random.choice(imports)]


Job = Callable[[Options], Result]


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, Job]]:
    """The work: what each job is called, and the job itself."""
    seed: int = arguments.seed
    yield "selfcheck", partial(selfcheck_job, seed=seed)
    if not arguments.random_only:
        names = [name for name in all_cases() if arguments.only in name]
        if arguments.cases is not None and arguments.cases < len(names):
            names = Random(seed).sample(names, arguments.cases)
        for name in names:
            yield name, partial(hand_made_job, seed=seed, name=name)
    if arguments.cases_only:
        return
    chains = schedules(seed)
    for number in range(-(-arguments.blocks // BLOCKS_PER_CHAIN)):
        schedule = chains[number % len(chains)]
        if arguments.only in str(schedule):
            own = seed + number // len(chains)
            yield f"random {schedule} seed {own}", partial(random_job, seed=own, schedule=schedule)


def main() -> int:
    """Runs all jobs. The exit code is 1 if there is any disagreement."""
    arguments = _parse()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="eels-"))
    options = Options(arguments.binary.resolve(), folder.resolve(), arguments.soak)
    began = time.monotonic()
    total = Result()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        pending = {pool.submit(job, options): name for name, job in jobs(arguments)}
        told = began
        for number, done in enumerate(as_completed(pending), 1):
            try:
                result = done.result()
            except Exception as error:  # A case that can't be made is a failure of the harness.
                result = Result(disagreements=[f"{pending[done]}: the harness failed: {error!r}"])
            total.add(result)
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                print(f"{number} of {len(pending)} chains and cases checked", file=sys.stderr, flush=True)
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
    parser.add_argument("--blocks", type=int, help="how many random blocks, at least (360; in a soak 5,400)")
    parser.add_argument(
        "--cases", type=int, help="how many hand-made cases, drawn by the seed (160; in a soak all)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first round of random chains")
    parser.add_argument("--soak", action="store_true", help="check every case in every way")
    parser.add_argument("--jobs", type=int, default=2, help="processes that generate and check")
    parser.add_argument("--only", default="", help="only cases and chains with this text in their names")
    parser.add_argument("--cases-only", action="store_true", help="no random chains")
    parser.add_argument("--random-only", action="store_true", help="no hand-made cases")
    parser.add_argument("--folder", type=Path, help="where the files of failed cases are kept")
    arguments = parser.parse_args()
    if arguments.blocks is None:
        arguments.blocks = 5_400 if arguments.soak else 360
    if arguments.cases is None and not arguments.soak and not arguments.cases_only:
        arguments.cases = 160
    return arguments


if __name__ == "__main__":
    sys.exit(main())
