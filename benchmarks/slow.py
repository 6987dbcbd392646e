"""One peer ten times slower than the others: how long until all are at a given objective, in rounds and without.

Peers here learn what the built-in experiment learns, each with a solve that takes PACE_S, and the
slow one's ten times that. What the processor needs less is slept through on the thread of the
mathematics, while messages are served: so each peer has, in effect, a processor of its own, as on
hosts of their own. To stop the slow process nine tenths of the time instead would measure how all
share the two or four processors of this one: in rounds the slow peer would have one for itself as long
as the others wait for it, and without rounds it would have to fight for it.

A peer is at the objective when U at its own parameters, over all data, is. Every peer writes down
its parameters whenever it solves; they are evaluated here. Both modes take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import click
import numpy as np

from benchmarks.exchange import spread
from peer import agent, learning, process, settings
from peer.__main__ import DEFAULT
from peer.host import Assignment
from peer.launcher import Watcher, launch
from peer.settings import Experiment
from peer.summary import World

PACE_S: Final = 0.1
"""Of one solve: more than ten times the processor time that a waking of the built-in experiment takes, messages
included, so that two processors can play eight hosts."""

SLOWER: Final = 10.0
"""The solves of the slow peer take that many times as long."""

OBJECTIVE: Final = 0.1
"""U to be reached: 1.4 % above what central training ends with on this data set, from the same first parameters."""

TARGET: Final = 1 / 3
"""Largest ratio of the times, without rounds to in rounds."""

LONGEST: Final = 1_000
"""Rounds, or wakings, after which a run that is not at the objective ends: more than ten times what it takes."""

MODES: Final[Mapping[str, Mapping[str, Any]]] = {
    "rounds": {"step.alpha": 0.15, "surrogate.tau": 0.03},
    "async": {"step.alpha": 0.3, "surrogate.tau": 0.03},
}
"""Settings of the two: each has the step that is best for it here. Rounds oscillate with 0.3 over these links, and are
no faster with 0.2; without rounds steps are damped where weights are small, and 0.45 is too long."""


def slowed(assignment: Assignment, slow: int, pace_s: float) -> tuple[int, str]:
    """The life of a forked peer whose solves take their time, and that writes down when it was where."""
    pace_s *= SLOWER if assignment.me == slow else 1.0
    propose = agent.propose

    def paced(problem: agent.LocalProblem, state: agent.State, n_agents: int) -> agent.Proposal:
        began = time.monotonic()
        trace.write(np.append(began, state.w).tobytes())
        proposal = propose(problem, state, n_agents)
        time.sleep(max(0.0, pace_s - (time.monotonic() - began)))
        return proposal

    agent.propose = paced
    with trace_of(assignment.run_dir, assignment.me).open("wb", buffering=0) as trace:
        return RUN(assignment)


RUN: Final = process.run
"""The life of a peer as it is."""


def trace_of(run_dir: Path, peer: int) -> Path:
    """Where a peer writes down when it was where."""
    return run_dir / f"trace-{peer}"


@final
class Reached(Exception):  # noqa: N818
    """All peers are at the objective."""


@final
@dataclass(eq=False)
class Stopwatch(Watcher):
    """Looks where the peers are, and ends the run once all are at the objective.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    objective : float
        To be reached.
    """

    run_dir: Path
    experiment: Experiment
    objective: float
    seconds: float = float("nan")
    n_solved: list[int] = field(init=False)

    def __post_init__(self) -> None:
        shard, peers = learning.shard_of(self.experiment, 0), range(self.experiment.peers)
        model = learning.model_of(self.experiment, shard, 2, learning.initial_of(self.experiment, 0))
        self.world = World.of(self.experiment, self.run_dir, model)
        self.width = 1 + model.layout.size
        self.n_solved = [0 for _ in peers]
        self.values = [float("inf") for _ in peers]
        self.began_s: float | None = None

    def look(self) -> None:
        """Some time has passed."""
        rows = []
        for peer, n in enumerate(self.n_solved):
            path = trace_of(self.run_dir, peer)
            if not path.exists():
                return
            found = np.fromfile(path, offset=8 * self.width * n)
            lines = found[: len(found) // self.width * self.width].reshape(-1, self.width)
            rows += [(line[0], peer, line[1:]) for line in lines]
            self.n_solved[peer] += len(lines)
        for now_s, peer, w in sorted(rows, key=lambda row: row[0]):
            self.began_s = self.began_s or now_s
            self.values[peer] = self.world.objective(w)
            if max(self.values) <= self.objective:
                self.seconds = now_s - self.began_s
                raise Reached


def measure(experiment: Experiment, folder: Path, objective: float, pace_s: float) -> Stopwatch:
    """One run, until all are at the objective.

    Raises
    ------
    RuntimeError
        It ended before.
    """
    watches: list[Stopwatch] = []

    def watch(run_dir: Path, experiment: Experiment) -> Watcher:
        watches.append(Stopwatch(run_dir, experiment, objective))
        return watches[0]

    process.run = lambda assignment: slowed(assignment, experiment.peers - 1, pace_s)
    try:
        outcome = launch(experiment, folder, watch)
    except Reached:
        return watches[0]
    finally:
        process.run = RUN
    raise RuntimeError(f"the run ended before all were at {objective:g}: {outcome.line or max(watches[0].values)}")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(2), default=8, help="Number of peers; the last one is slow.")
@click.option("--pace", "pace_s", default=PACE_S, help="Seconds of a solve.")
@click.option("--objective", default=OBJECTIVE, help="To be reached.")
@click.option("--repeats", type=int, default=3, help="Runs of each mode.")
@click.option("--mode", "modes", type=click.Choice(tuple(MODES)), multiple=True, default=tuple(MODES))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of both.")
def main(
    peers: int, pace_s: float, objective: float, repeats: int, modes: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    """Wall time until all peers are at an objective, one of them ten times slower than the others."""
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    solved: dict[str, list[list[int]]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(repeats):
            for mode in modes:
                given = [f"peers={peers}", f"iterations={LONGEST}", f"run.mode={mode}"]
                given += [f"{key}={value}" for key, value in MODES[mode].items()]
                experiment = settings.read(DEFAULT, (*given, *overrides))
                done = measure(experiment, Path(folder) / f"{mode}-{k}", objective, pace_s)
                found[mode].append(done.seconds)
                solved[mode].append(done.n_solved)
    click.echo(f"{peers} peers, solves of {1e3 * pace_s:g} ms, of the last one {1e3 * SLOWER * pace_s:g} ms:")
    click.echo(f"time until U <= {objective:g} at every peer, median of {repeats} (least..most)")
    for mode, seconds in found.items():
        counts = np.median(solved[mode], axis=0).astype(int).tolist()
        click.echo(f"  {mode:9} {spread(seconds)} s  solves of each peer {counts}")
    if len(found) == len(MODES):
        ratios = [fast / slow for fast, slow in zip(found["async"], found["rounds"], strict=True)]
        met = "met" if median(ratios) < TARGET else "missed"
        click.echo(f"  {'ratio':9} {spread(ratios)}    target < {TARGET:.2f} {met}")


if __name__ == "__main__":
    main()
