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
- wall: the wall time of a round without the wait for neighbors, as a ratio to the calls.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --peers 2      # a processor for each
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
import time
from collections.abc import Callable
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
from peer.launch import Watcher, launch
from peer.optim import maps
from peer.optim.models import MLP, Factors, Pass
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

WARM: Final = 20
"""First rounds, which are not counted."""

CALLS: Final[tuple[tuple[Any, str], ...]] = (
    (MLP, "at"),
    *((Pass, name) for name in ("jvp", "vjp", "factors")),
    *((Factors, name) for name in ("columns", "times", "transposed_times", "gram", "squared")),
    *((linalg.lapack, name) for name in ("dpotrf", "dpotrs", "dpstrf")),
)
"""Where linear algebra is called; products of matrices beside."""

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

    for name in ("propose", "exchange", "settle"):
        setattr(agent, name, timed(getattr(agent, name)))
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
@click.option("--rounds", type=click.IntRange(2 * WARM), default=200, help="Rounds of a run.")
@click.option("--data", "datasets", type=click.Choice(tuple(DATASETS)), multiple=True, default=tuple(DATASETS))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
def main(peers: int, rounds: int, datasets: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Seconds of a round, as a ratio to those of its linear algebra."""
    for dataset in datasets:
        given = (f"peers={peers}", f"iterations={rounds}", "run.checkpoint_every=0", f"data.dataset={dataset}")
        experiment = settings.read(DEFAULT, (*given, *DATASETS[dataset], *overrides))
        with tempfile.TemporaryDirectory() as folder:
            calls_s, *others = measure(experiment, Path(folder) / "run")
        mathematics, peer, wall = (seconds / calls_s for seconds in others)
        click.echo(
            f"{dataset:13} {1e6 * calls_s:8.0f} us of calls; mathematics {mathematics:5.2f}, peer {peer:5.2f}, "
            f"wall {wall:5.2f} times that (target {TARGET}: {'met' if peer <= TARGET else 'missed'} by the peer, "
            f"{'met' if mathematics <= TARGET else 'missed'} by the mathematics)"
        )


if __name__ == "__main__":
    main()
