"""What a round takes beside its linear algebra: a peer's seconds, as a ratio to those of its LAPACK and jvp/vjp calls.

Peers are real processes on the loopback, as `peer launch` starts them, with the built-in experiment on each data set.
In every other round each call into linear algebra is clocked: a pass of the network forwards, products with its
Jacobian or its transpose (jvp, vjp), the Jacobian or its Gram matrix, products of matrices (BLAS), factorizations and
solves (LAPACK); the clock's own time is taken off. The other rounds are as they are. Seconds are of a processor, for
eight peers share few; waiting, for neighbors or for a processor, is in none of them. Shown are medians over rounds of
the peers' means of

- calls: the clocked calls of a round,
- mathematics: (4) to (8) with the solve, all that the computing thread does for the method, as a ratio to the calls,
- peer: all threads of its process, so with messages, encryption, checks and journal, as a ratio to the calls,
- wall: the wall time of a round without the wait for neighbors, as a ratio to the calls. Where peers share processors
  it contains the wait for these.

So for several numbers of hidden units, of which the built-in experiment has 10: calls grow with them, the rest hardly
does. The last lines say from which on the target is met.

With `--exchange` the messages are no part of the rest: on a static ring of eight peers the round is compared with the
calls and what bare sockets take to exchange the same numbers on the same ring, `benchmarks.exchange.raw`, right after.

- processor: of all peers, over the calls of all peers and the raw exchange of all,
- wall: of a round, over the time that its raw exchange takes and that its calls take on these processors.

And on the digits also with the convolutional network of `examples/digits-cnn.toml`.

With `--large` there is one agent in one process, and a problem that costs nothing: what a round does with vectors of p
numbers and those of 2 to 32 neighbors, as a ratio to the sums of (7) and (8) by BLAS (`daxpy`) on memory that is used
again and again.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --peers 2                # a processor for each, on a host with two
    python -m benchmarks.overhead --hidden 10 --hidden 64
    python -m benchmarks.overhead --exchange
    python -m benchmarks.overhead --large
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final, ParamSpec, TypeVar, final

import click
import numpy as np
from scipy import linalg
from scipy.linalg.blas import daxpy

from benchmarks import exchange
from peer import agent, memory, npz, process, settings
from peer.__main__ import DEFAULT
from peer.actor import Actor
from peer.arrays import Vector
from peer.files import folder_of
from peer.host import Assignment
from peer.journal import Journal
from peer.launcher import Watcher, launch
from peer.messages import Share
from peer.optim import maps
from peer.optim.chains import Chain, ChainPass
from peer.optim.factors import Factors
from peer.optim.solvers import Solution
from peer.optim.steps import Constant
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

EXCHANGE_TARGET: Final = 1.15
"""The same where bare sockets are in what a round is compared with."""

CONVOLUTIONAL: Final = Path(__file__).parents[1] / "examples" / "digits-cnn.toml"
"""An experiment with images."""

LARGE: Final = ((100, 1_000, 10_000, 100_000, 1_000_000), (2, 8, 32))
"""Parameters, and neighbors, of the agent that is alone."""

LARGE_S: Final = 0.5
"""Seconds, about, for each measurement of these."""

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

MATHEMATICS: Final[tuple[tuple[Any, str], ...]] = ((Actor, "proposed"), (Actor, "heard"))
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
        took = processor - spent["processor"], wall - spent["wall"] - values["wait_s"], wall - spent["wall"]
        rows.append((len(rows) % 2, spent["mathematics"], spent["calls"], *took))
        spent.update(mathematics=0.0, calls=0.0, processor=processor, wall=wall)

    for of, name in MATHEMATICS:
        setattr(of, name, timed(getattr(of, name)))
    Journal.round = round_over  # type: ignore[method-assign, assignment]
    try:
        return RUN(assignment)
    finally:
        np.save(assignment.run_dir / f"rows-{assignment.me}.npy", np.array(rows))


@final
@dataclass(frozen=True)
class Took:
    """What a peer's round takes, seconds: means over the peers, medians of these over the rounds.

    Peers' calls may differ by half, and what a round of all takes on shared processors goes by their sum.

    Parameters
    ----------
    calls, mathematics, processor : float
        Of a processor, see above.
    wall, whole : float
        Wall time without the wait for neighbors, and with it.
    """

    calls: float
    mathematics: float
    processor: float
    wall: float
    whole: float


def measure(experiment: Experiment, folder: Path) -> Took:
    """What rounds of this experiment take.

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
    rows = np.mean([np.load(folder / f"rows-{peer}.npy")[WARM:] for peer in range(experiment.peers)], axis=0)
    plain, inside = rows[rows[:, 0] == 0.0], rows[rows[:, 0] == 1.0]
    return Took(float(np.median(inside[:, 2])), *(float(np.median(plain[:, k])) for k in (1, 3, 4, 5)))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(1), default=8, help="Number of peers.")
@click.option("--rounds", type=click.IntRange(2 * WARM), default=100, help="Rounds of a run.")
@click.option("--hidden", "sizes", type=click.IntRange(1), multiple=True, default=HIDDEN, help="Hidden units.")
@click.option("--data", "datasets", type=click.Choice(tuple(DATASETS)), multiple=True, default=tuple(DATASETS))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
@click.option("--exchange", "with_exchange", is_flag=True, help="Compare with linear algebra and bare sockets.")
@click.option("--large", is_flag=True, help="What a round does with large vectors of many neighbors.")
def main(
    peers: int,
    rounds: int,
    sizes: tuple[int, ...],
    datasets: tuple[str, ...],
    overrides: tuple[str, ...],
    with_exchange: bool,
    large: bool,
) -> None:
    """Seconds of a round, as a ratio to those of its linear algebra."""
    if large:
        for p, n_neighbors in product(*LARGE):
            click.echo(of_vectors(p, n_neighbors))
        return
    if with_exchange:
        for dataset in datasets:
            given = (f"data.dataset={dataset}", *DATASETS[dataset], *overrides)
            click.echo(against_sockets(dataset, DEFAULT, rounds, given))
        if "digits" in datasets:
            click.echo(against_sockets("digits, CNN", CONVOLUTIONAL, rounds, overrides))
        return
    sizes, met = tuple(sorted(set(sizes))), []
    for dataset in datasets:
        found: dict[int, tuple[float, ...]] = {}
        for hidden in sizes:
            run = (f"peers={peers}", f"iterations={rounds}", "run.checkpoint_every=0", f"model.hidden=[{hidden}]")
            given = (*run, f"data.dataset={dataset}", *DATASETS[dataset], *overrides)
            with tempfile.TemporaryDirectory() as folder:
                took = measure(settings.read(DEFAULT, given), Path(folder) / "run")
            found[hidden] = tuple(seconds / took.calls for seconds in (took.mathematics, took.processor, took.wall))
            ratios = (f"{part} {ratio:5.2f}" for part, ratio in zip(PARTS, found[hidden], strict=True))
            click.echo(
                f"{dataset:13} {hidden:4} hidden: {1e6 * took.calls:8.0f} us of calls; {', '.join(ratios)} times that"
            )
        since = [first_of({hidden: ratios[k] for hidden, ratios in found.items()}) for k in range(len(PARTS))]
        met.append(f"{dataset:13} at most {TARGET}: " + ", ".join(map(" ".join, zip(PARTS, since, strict=True))))
    click.echo("\n".join(met))


def against_sockets(name: str, file: Path, rounds: int, overrides: Sequence[str]) -> str:
    """A line on an experiment on a ring, compared with its linear algebra and bare sockets."""
    ring = (f"peers={exchange.N_PEERS}", "topology.graph=ring", "topology.schedule=static")
    experiment = settings.read(file, (*ring, f"iterations={rounds}", "run.checkpoint_every=0", *overrides))
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        took = measure(experiment, run_dir)
        p = sum(part.size for part in npz.load(folder_of(run_dir, 0) / "final.npz").values())
        raw_s, raw_processor_s, _ = exchange.measure(exchange.raw, exchange.Cell(p, 10 * rounds, Path(folder), None))
    n, sharing = exchange.N_PEERS, max(1.0, exchange.N_PEERS / len(os.sched_getaffinity(0)))
    ratios = {
        "processor": n * took.processor / (n * took.calls + raw_processor_s),
        "wall": took.whole / (sharing * took.calls + raw_s),
    }
    said = "; ".join(
        f"{part} {ratio:5.2f} times that, {'met' if ratio <= EXCHANGE_TARGET else 'missed'}"
        for part, ratio in ratios.items()
    )
    return f"{name:13} p = {p:5}: {1e6 * took.calls:7.0f} us of calls, {1e6 * raw_s:5.0f} us of raw exchange; {said}"


@final
@dataclass(frozen=True, eq=False)
class Nothing:
    """A problem that costs nothing: what is asked of it is there already, (p,)."""

    gradient_there: Vector
    kappa: float = 1.0

    def value(self, w: Vector) -> float:
        """Some number."""
        return 1.0

    def gradient(self, w: Vector) -> Vector:
        """What is there."""
        return self.gradient_there

    def estimate(self, n: int, w: Vector, before: Vector, gradient: Vector, value: float) -> tuple[Vector, float]:
        """Both."""
        return self.gradient_there, 1.0

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[Nothing, Vector]:
        """All of it."""
        return self, gradient

    def best_response(self, w: Vector, gradient: Vector, pi: Vector, tau: float = 0.0) -> Solution:
        """What is there."""
        return Solution(self.gradient_there, 0.0, 1, "none")

    def linearized(self, anchor: Vector) -> Nothing:
        """The same."""
        return self


def of_vectors(p: int, n_neighbors: int) -> str:
    """A line on what a round does with vectors of p numbers, its own and its neighbors'."""
    memory.keep()
    rng = np.random.default_rng(0)
    problem, weights = Nothing(rng.standard_normal(p)), dict.fromkeys(range(n_neighbors + 1), 1.0 / (n_neighbors + 1))
    vectors = [rng.standard_normal((2, p)) for _ in range(n_neighbors)]
    shares = {j: Share(j, 0, 0, 1.0, *pair) for j, pair in enumerate(vectors)}  # the agent itself is the last
    state = agent.initial(problem, rng.standard_normal(p), 0.5)
    proposal = agent.propose(problem, state, n_neighbors + 1)
    own, total, float64 = agent.Mixture.of(state, proposal), np.zeros(p), np.dtype(np.float64)
    mixture = agent.exchange(state, own, shares, weights, float64)

    def sums() -> None:
        for half, mine in enumerate((own.y, own.z)):
            for j in range(n_neighbors):
                daxpy(vectors[j][half], total, a=weights[j])
            daxpy(mine, total, a=weights[n_neighbors])

    parts: dict[str, Callable[[], object]] = {
        "(4)-(6)": lambda: agent.propose(problem, state, n_neighbors + 1),
        "sums of (7), (8)": lambda: agent.exchange(state, own, shares, weights, float64),
        "rest of (8)": lambda: agent.settle(problem, state, proposal, mixture, Constant()),
    }
    blas_s = quick(sums)
    ratios = {name: quick(part) / blas_s for name, part in parts.items()}
    said = ", ".join(f"{name} {ratio:5.2f}" for name, ratio in ratios.items())
    line = f"p = {p:9,}, {n_neighbors:2} neighbors: {1e6 * blas_s:9.1f} us of BLAS"
    return f"{line}; {said}, all {sum(ratios.values()):5.2f} times that"


def quick(function: Callable[[], object]) -> float:
    """Least processor seconds of a call: what it takes where nobody disturbs."""
    function()
    n, found, began_s = 1, [], time.thread_time()
    while time.thread_time() - began_s < LARGE_S:
        before_s = time.thread_time()
        for _ in range(n):
            function()
        took_s = time.thread_time() - before_s
        found.append(took_s / n)
        n = max(n, int(1e-3 * n / max(took_s, 1e-6)))  # the clock's own time must not count
    return min(found[1:] or found)


def first_of(ratios: Mapping[int, float]) -> str:
    """From how many hidden units on the target is met, in words."""
    missed = [hidden for hidden, ratio in ratios.items() if not ratio <= TARGET]
    left = [hidden for hidden in ratios if not missed or hidden > missed[-1]]
    return f"from {left[0]} hidden on" if left else f"nowhere up to {max(ratios)} hidden"


if __name__ == "__main__":
    main()
