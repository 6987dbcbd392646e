"""Many simulated runs on all cores, or one of them told line by line.

`python -m tests.simulate --seeds 0:10000` plays a range of seeds in every mode and ends with a table
of what was injected; every failure comes with the command that replays it:
`python -m tests.simulate --mode async --seed 17` tells what happens, line by line.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Final, Protocol, TypeAlias, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from tests import asynchronous, synchronous
from tests.simulated import FAULTS, HALVED, Outcome, Tell, silent

CHUNK: Final = 2
"""Seeds that a process plays before it reports: a second or two, so that the bar moves and an end is quick."""

MAX_FAILURES: Final = 20
"""After so many failures no more are looked for: the first is to be repaired first."""

LOOK_S: Final = 0.2
"""Between two looks at whether somebody wants it to end."""

FAILED, INTERRUPTED = 1, 130
"""Exit codes."""


class Played(Protocol):
    """A run that was played to its end."""

    @property
    def outcome(self) -> Outcome:
        """What came of it."""


MODES: Final[Mapping[str, Callable[[int, Tell], Played]]] = {
    synchronous.MODE: synchronous.play,
    asynchronous.MODE: asynchronous.play,
    asynchronous.SHORT: partial(asynchronous.play, is_short=True),
}
"""How a seed is played in each mode; raises AssertionError where something does not hold."""

Task: TypeAlias = tuple[str, range]
"""A mode and some seeds."""


@final
@dataclass
class Tally:
    """What came of all seeds of a mode so far."""

    n_runs: int = 0
    n_events: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    distance: float = 0.0
    queue: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.n_runs += 1
        self.n_events += outcome.n_events
        self.happened += outcome.happened
        self.distance = max(self.distance, outcome.distance)
        self.queue = max(self.queue, outcome.queue)


def play(mode: str, seeds: Iterable[int]) -> list[Outcome | str]:
    """Of each seed the outcome, or what went wrong."""
    results: list[Outcome | str] = []
    for seed in seeds:
        try:
            results.append(MODES[mode](seed, silent).outcome)
        except AssertionError as failure:
            results.append(str(failure))
    return results


@final
class Interruption:
    """Whether somebody wants it to end.

    A signal only says so: an exception would come anywhere, also where the pool has a lock.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: object) -> None:
        """A signal."""
        self.came = True


def _prepare() -> None:
    """A process of the pool: one thread of BLAS, warnings as in the tests; an interruption is its parent's business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threadpool_limits(1)
    warnings.simplefilter("error")


def play_all(
    tasks: Iterable[Task], n_jobs: int, interruption: Interruption
) -> Generator[tuple[str, list[Outcome | str]]]:
    """Results of all tasks, as they come; none is begun once the caller has enough, or there is an interruption."""
    left, modes = iter(tasks), dict[Future[list[Outcome | str]], str]()
    with ProcessPoolExecutor(n_jobs, get_context("fork"), _prepare) as pool:
        try:
            while not interruption.came:
                for task in islice(left, 2 * n_jobs - len(modes)):
                    modes[pool.submit(play, *task)] = task[0]
                if not modes:
                    return
                for done in wait(modes, LOOK_S, FIRST_COMPLETED).done:
                    yield modes.pop(done), done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # waiting: else the pool may be gone before it has cancelled them


def run(
    modes: Sequence[str], seeds: range, n_jobs: int, console: Console, interruption: Interruption | None = None
) -> int:
    """Play all seeds in some modes, with a bar and a table; the exit code."""
    tallies = {mode: Tally() for mode in modes}
    failures: list[str] = []
    interruption = interruption or Interruption()
    console.print(f"playing seeds {seeds.start} to {seeds.stop - 1}, {' and '.join(modes)}, in {n_jobs} processes")
    chunks = (range(first, min(first + CHUNK, seeds.stop)) for first in range(seeds.start, seeds.stop, CHUNK))
    results = play_all([(mode, chunk) for chunk in chunks for mode in modes], n_jobs, interruption)
    with closing(results):
        _run(tallies, len(seeds) * len(modes), results, failures, console)
    if interruption.came:
        console.print("interrupted")
    console.print(table(tallies, failures))
    return FAILED if failures else INTERRUPTED if interruption.came else 0


def _run(
    tallies: Mapping[str, Tally],
    total: int,
    played: Iterable[tuple[str, list[Outcome | str]]],
    failures: list[str],
    console: Console,
) -> None:
    """Count what came of all seeds, and show how far that is."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bar:
        line = bar.add_task("runs", total=total)
        for mode, results in played:
            for result in results:
                if isinstance(result, Outcome):
                    tallies[mode].add(result)
                else:
                    failures.append(result)
                    console.print(result, style="red", markup=False, highlight=False)
            bar.update(line, advance=len(results), description=f"runs, {len(failures)} failed")
            done = bar.tasks[line].completed
            if not console.is_terminal and done * 20 // total > (done - len(results)) * 20 // total:
                console.print(f"{done:,.0f} of {total:,} runs, {len(failures)} failed")
            if len(failures) >= MAX_FAILURES:
                console.print(f"{len(failures)} failures are enough")
                return


def table(tallies: Mapping[str, Tally], failures: Sequence[str]) -> Table:
    """What was played, what was injected, and what came of it."""
    result = Table("", *tallies, title=f"{sum(tally.n_runs for tally in tallies.values())} runs as they should be")
    for column in result.columns[1:]:
        column.justify = "right"

    def row(name: str, *cells: str) -> None:
        result.add_row(name, *cells)

    row("seeds", *(f"{tally.n_runs:,}" for tally in tallies.values()))
    row(
        "events",
        *(f"{tally.n_events:,}" for tally in tallies.values()),
    )
    result.add_section()
    for fault in FAULTS:
        row(fault, *(f"{tally.happened[fault]:,}" if tally.happened[fault] else "-" for tally in tallies.values()))
    result.add_section()
    row(HALVED, *(f"{tally.happened[HALVED]:,}" for tally in tallies.values()))
    row("largest queue of a connection", *(str(tally.queue) for tally in tallies.values()))
    row("worst distance", *(f"{tally.distance:.1e}" if tally.distance else "0" for tally in tallies.values()))
    row("failures", *(str(sum(f"--mode {mode} " in line for line in failures)) for mode in tallies))
    return result


def tell(mode: str, seed: int) -> int:
    """Play one seed and tell what happens; the exit code."""
    try:
        outcome = MODES[mode](seed, print).outcome
    except AssertionError as failure:
        print(failure, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    injected = ", ".join(f"{name}: {number}" for name, number in sorted(outcome.happened.items()) if number)
    print(f"as it should be, at {outcome.distance:.1e} from the goal, after {outcome.n_events} events; {injected}")
    return 0


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    seeds = range(int(first), int(end))
    if not seeds or seeds.start < 0:
        raise ValueError
    return seeds


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> int:
    """Play simulated networks: a range of seeds on all cores, or one seed, told line by line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=main.__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", type=_range, metavar="FIRST:END", help="play these, END not included")
    which.add_argument("--seed", type=int, help="play this one, and tell what happens")
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all")
    parser.add_argument(
        "--jobs", type=_positive, default=len(os.sched_getaffinity(0)), help="processes; as many as cores"
    )
    arguments = parser.parse_args()
    if arguments.seed is not None:
        if arguments.mode == "all":
            parser.error("--seed needs a --mode")
        return tell(arguments.mode, arguments.seed)
    modes = list(MODES) if arguments.mode == "all" else [arguments.mode]
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption)
    return run(modes, arguments.seeds, arguments.jobs, Console(), interruption)


if __name__ == "__main__":
    sys.exit(main())
