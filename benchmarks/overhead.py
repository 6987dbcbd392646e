"""What a round takes beside its linear algebra: a peer's seconds, as a ratio to those of its LAPACK and jvp/vjp calls.

Peers are real processes on the loopback, as `peer launch` starts them, with the built-in experiment on each data set.
In every other round each call into linear algebra is clocked: a pass of the network forwards, products with its
Jacobian or its transpose (jvp, vjp), the Jacobian or its Gram matrix, products of matrices (BLAS), factorizations and
solves (LAPACK); the clock's own time is taken off. The other rounds are as they are. Seconds are of a processor, for
eight peers share few; waiting, for neighbors or for a processor, is in none of them. Shown are medians over rounds and
peers of

- calls: the clocked calls of a round,
- mathematics: (4) to (8) with the solve, all that the computing thread does for the method, as a ratio to the calls,
- peer: all threads of its process, so with messages, encryption, checks and journal, as a ratio to the calls,
- wall: the wall time of a round without the wait for neighbors, as a ratio to the calls. Where peers share processors
  it contains the wait for these.

So for several numbers of hidden units, of which the built-in experiment has 10: calls grow with them, the rest hardly
does. The last lines say from which on the target is met.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --peers 2                # a processor for each, on a host with two
    python -m benchmarks.overhead --hidden 10 --hidden 64
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final, ParamSpec, TypeVar, final

import click
import numpy as np
from scipy import linalg

from peer import agent, process, settings
from peer.__main__ import DEFAULT
from peer.host import Assignment
from peer.journal import Journal
from peer.launcher import Watcher, launch
from peer.optim import maps
from peer.optim.chains import Chain, ChainPass
from peer.optim.factors import Factors
from peer.rounds_mode import RoundsLife
from peer.settings import Experiment

P = ParamSpec("P")
R = TypeVar("R")

DATASETS: Final[dict[str, tuple[str, ...]]] = {
    "breast-cancer": (),
    "diabetes": ("objective.loss=squared",),
    "digits": (),
}
"""Data sets, and what must differ from the built-in experiment for them."""

TARGET: Final = 1.3
"""Largest ratio."""

HIDDEN: Final = (10, 32, 128)
"""Hidden units: of the built-in experiment, and more."""

PARTS: Final = ("mathematics", "peer", "wall")
"""What is shown as a ratio to the calls."""

WARM: Final = 20
"""First rounds, which are not counted."""

CALLS: Final[tuple[tuple[Any, str], ...]] = (
    (Chain, "at"),
    *((ChainPass, name) for name in ("jvp", "vjp", "factors")),
    *((Factors, name) for name in ("columns", "times", "transposed_times", "gram", "squared")),
    *((linalg.lapack, name) for name in ("dpotrf", "dpotrs", "dpstrf")),
)
"""Where linear algebra is called; products of matrices beside."""

MATHEMATICS: Final[tuple[tuple[Any, str], ...]] = ((agent, "propose"), (RoundsLife, "mixed"))
"""What the computing thread does for a round."""

RUN: Final = process.run
"""The life of a peer as it is."""


@final
class Clock:
    """Adds up the processor seconds of calls on the thread that makes them; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds, self.own_s, self.within = 0.0, 0.0, False
        empty, found = self.around(lambda: None), []
        for _ in range(1_000):
            before = self.seconds
            empty()
            found.append(self.seconds - before)
        self.seconds, self.own_s = 0.0, median(found)
        plain = [(of, name, getattr(of, name)) for of, name in CALLS]
        self.calls = [(of, name, call, self.around(call)) for of, name, call in plain]
        self.matrix_of = maps.matrix_of

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, clocked."""

        def clocked(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.within:
                return function(*args, **kwargs)
            self.within = True
            began_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began_s - self.own_s
                self.within = False

        return clocked

    def turn(self, on: bool) -> None:
        """Clock calls from now on, or no more."""
        self.seconds = 0.0
        for of, name, plain, clocked in self.calls:
            setattr(of, name, clocked if on else plain)
        maps.matrix_of = (lambda *args: self.matrix_of(*args).view(Watched)) if on else self.matrix_of


CLOCK: Final = Clock()


class Watched(np.ndarray[Any, Any]):
    """A matrix whose products are clocked, and those of matrices that are made of it."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As of any array."""
        plain = [x.view(np.ndarray) if isinstance(x, Watched) else x for x in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in kwargs["out"])
        call = getattr(ufunc, method)
        found = (CLOCK.around(call) if ufunc is np.matmul else call)(*plain, **kwargs)
        return found.view(Watched) if isinstance(found, np.ndarray) and found.ndim > 1 else found


def clocked(assignment: Assignment) -> int | tuple[int, str]:
    """The life of a forked peer that writes down what its rounds took."""
    rows: list[tuple[float, ...]] = []
    spent = {"mathematics": 0.0, "calls": 0.0, "processor": time.process_time(), "wall": time.monotonic()}

    def timed(function: Callable[P, R]) -> Callable[P, R]:
        def around(*args: P.args, **kwargs: P.kwargs) -> R:
            on = len(rows) % 2 == 1
            CLOCK.turn(on)
            began_s = time.thread_time()
            result = function(*args, **kwargs)
            spent["mathematics"] += time.thread_time() - began_s
            spent["calls"] += CLOCK.seconds
            CLOCK.turn(False)
            return result

        return around

    write = Journal.round

    def round_over(journal: Journal, **values: Any) -> None:  # noqa: ANN401
        write(journal, **values)
        processor, wall = time.process_time(), time.monotonic()
        took = processor - spent["processor"], wall - spent["wall"] - values["wait_s"]
        rows.append((len(rows) % 2, spent["mathematics"], spent["calls"], *took))
        spent.update(mathematics=0.0, calls=0.0, processor=processor, wall=wall)

    for of, name in MATHEMATICS:
        setattr(of, name, timed(getattr(of, name)))
    Journal.round = round_over  # type: ignore[method-assign, assignment]
    try:
        return RUN(assignment)
    finally:
        np.save(assignment.run_dir / f"rows-{assignment.me}.npy", np.array(rows))


def measure(experiment: Experiment, folder: Path) -> tuple[float, float, float, float]:
    """Medians over the rounds of all peers: seconds of calls, mathematics, processor, and wall without waiting.

    Raises
    ------
    RuntimeError
        The run failed.
    """
    process.run = clocked  # type: ignore[assignment]
    try:
        outcome = launch(experiment, folder, lambda run_dir, experiment: Watcher())
    finally:
        process.run = RUN
    if outcome.code:
        raise RuntimeError(outcome.line)
    rows = np.concatenate([np.load(folder / f"rows-{peer}.npy")[WARM:] for peer in range(experiment.peers)])
    plain, inside = rows[rows[:, 0] == 0.0], rows[rows[:, 0] == 1.0]
    return float(np.median(inside[:, 2])), *(float(np.median(plain[:, k])) for k in (1, 3, 4))  # type: ignore[return-value]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(1), default=8, help="Number of peers.")
@click.option("--rounds", type=click.IntRange(2 * WARM), default=100, help="Rounds of a run.")
@click.option("--hidden", "sizes", type=click.IntRange(1), multiple=True, default=HIDDEN, help="Hidden units.")
@click.option("--data", "datasets", type=click.Choice(tuple(DATASETS)), multiple=True, default=tuple(DATASETS))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
def main(
    peers: int, rounds: int, sizes: tuple[int, ...], datasets: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    """Seconds of a round, as a ratio to those of its linear algebra."""
    sizes, met = tuple(sorted(set(sizes))), []
    for dataset in datasets:
        found: dict[int, tuple[float, ...]] = {}
        for hidden in sizes:
            run = (f"peers={peers}", f"iterations={rounds}", "run.checkpoint_every=0", f"model.hidden=[{hidden}]")
            given = (*run, f"data.dataset={dataset}", *DATASETS[dataset], *overrides)
            with tempfile.TemporaryDirectory() as folder:
                calls_s, *others = measure(settings.read(DEFAULT, given), Path(folder) / "run")
            found[hidden] = tuple(seconds / calls_s for seconds in others)
            ratios = (f"{part} {ratio:5.2f}" for part, ratio in zip(PARTS, found[hidden], strict=True))
            click.echo(
                f"{dataset:13} {hidden:4} hidden: {1e6 * calls_s:8.0f} us of calls; {', '.join(ratios)} times that"
            )
        since = [first_of({hidden: ratios[k] for hidden, ratios in found.items()}) for k in range(len(PARTS))]
        met.append(f"{dataset:13} at most {TARGET}: " + ", ".join(map(" ".join, zip(PARTS, since, strict=True))))
    click.echo("\n".join(met))


def first_of(ratios: Mapping[int, float]) -> str:
    """From how many hidden units on the target is met, in words."""
    missed = [hidden for hidden, ratio in ratios.items() if not ratio <= TARGET]
    left = [hidden for hidden in ratios if not missed or hidden > missed[-1]]
    return f"from {left[0]} hidden on" if left else f"nowhere up to {max(ratios)} hidden"


if __name__ == "__main__":
    main()
