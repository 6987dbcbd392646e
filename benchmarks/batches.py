"""What batches save: samples looked at until the agents are where they are to be, with all a round and with an eighth.

All agents run in this process, without sockets, on a ring with Metropolis weights. A sample is looked at once for
every gradient of it, and once for every surrogate (11) that it is in; passes are that over the number of all samples.
The table of the README comes from

    python -m benchmarks.batches
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import click
import msgspec
import numpy as np

from benchmarks.agents import mixed
from peer import agent, central, learning, settings
from peer.agent import State
from peer.arrays import Vector
from peer.data import Cut
from peer.problem import Problem
from peer.settings import Experiment
from topology.graphs import ring

PARTS: Final = 8
"""Batches that a shard is cut into, about."""

LOST: Final = 1e3
"""Whoever is that far will not come back."""


@final
@dataclass(frozen=True)
class Job:
    """A network to be trained, with all samples a round and with batches.

    Parameters
    ----------
    tree : mapping
        Settings.
    full, batched : (float, float)
        tau and alpha of the one and the other: each its own, the best of some that were tried.
    goal : float
        Distance to the central optimum, relative to its size, or of a network stationarity at the mean.
    most : int
        Rounds after which it is given up.
    """

    tree: Mapping[str, Any]
    full: tuple[float, float]
    batched: tuple[float, float]
    goal: float
    most: int


JOBS: Final = {
    "ridge, diabetes": Job(
        {
            "peers": 8,
            "data": {"dataset": "diabetes", "test_fraction": 0.0},
            "model": {"hidden": []},
            "objective": {"loss": "squared", "strength": 0.01},
        },
        full=(0.03, 0.2),
        batched=(0.3, 0.3),
        goal=1e-6,
        most=2000,
    ),
    "logistic, breast cancer": Job(
        {
            "peers": 8,
            "data": {"dataset": "breast-cancer", "test_fraction": 0.0},
            "model": {"hidden": []},
            "objective": {"loss": "cross_entropy", "strength": 0.01},
        },
        full=(0.03, 0.3),
        batched=(0.1, 0.3),
        goal=1e-6,
        most=2000,
    ),
    "8 hidden units, digits": Job(
        {
            "peers": 4,
            "data": {"dataset": "digits", "test_fraction": 0.0},
            "model": {"hidden": [8]},
            "objective": {"loss": "cross_entropy", "strength": 0.03},
        },
        full=(0.1, 0.3),
        batched=(0.6, 0.3),
        goal=1e-5,
        most=4000,
    ),
}


def agents_of(experiment: Experiment) -> tuple[list[Problem], Vector]:
    """The agents of an experiment, and where they all start, (p,)."""
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        shards = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
    n_classes, n_samples = max(shard.n_classes for shard in shards), sum(shard.n_samples for shard in shards)
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, shards[0], n_classes, initial)
    problems = [learning.problem_of(experiment, model, shard, n_samples) for shard in shards]
    return problems, initial.vector(model, experiment.seed, problems[0].regularizer)


def batched(experiment: Experiment, problems: Sequence[Problem]) -> list[Problem]:
    """The agents with an eighth of the smallest shard a round, rounded up."""
    sizes = [len(g.data.inputs) for g in problems]
    surrogate = msgspec.structs.replace(experiment.surrogate, batch=-(-min(sizes) // PARTS))
    experiment = msgspec.structs.replace(experiment, surrogate=surrogate)
    drawn = [learning.batches_of(experiment, i, m, sum(sizes), len(sizes)) for i, m in enumerate(sizes)]
    return [replace(g, batches=batches) for g, batches in zip(problems, drawn, strict=True)]


def looked_at(problem: Problem, n: int) -> int:
    """Samples that an agent looks at in round n: for the gradient at its start, and for its surrogate."""
    m, batches = len(problem.data.inputs), problem.batches
    if batches is None:
        return 2 * m
    return (m if batches.is_full(n) else 2 * batches.size) + batches.size


def run(problems: Sequence[Problem], start: Vector, alpha: float, job: Job) -> str:
    """Rounds, passes and seconds of this process until all agents are at the goal, in words."""
    graph, optimum = ring(len(problems)), None if job.tree["model"]["hidden"] else optimum_of(problems, start)
    states = [agent.initial(g, start, alpha) for g in problems]
    n_samples, looked, began_s = sum(len(g.data.inputs) for g in problems), 0, time.process_time()
    for n in range(job.most + 1):
        far = distance(problems, states, optimum)
        if far <= job.goal or not far < LOST:
            break
        looked += sum(looked_at(g, n) for g in problems)
        proposals = [agent.propose(g, state, len(problems)) for g, state in zip(problems, states, strict=True)]
        states = mixed(problems, states, proposals, graph)
    took = f"{n:5} rounds, {looked / n_samples:7.1f} passes, {time.process_time() - began_s:6.1f} s"
    return took if far <= job.goal else f"{took}, not reached: {far:.1e}"


def optimum_of(problems: Sequence[Problem], start: Vector) -> Vector:
    """Where central training ends, (p,)."""
    return central.minimize(
        lambda w: sum(g.value(w) for g in problems),
        lambda w: np.sum([g.gradient(w) for g in problems], axis=0),
        problems[0].regularizer,
        start,
    )[0]


def distance(problems: Sequence[Problem], states: Sequence[State], optimum: Vector | None) -> float:
    """Of the farthest agent from the optimum, relative to its size; without one, stationarity at the mean."""
    if optimum is not None:
        return max(float(np.linalg.norm(state.w - optimum)) for state in states) / float(np.linalg.norm(optimum))
    mean = np.mean([state.w for state in states], axis=0)
    return problems[0].stationarity(mean, np.sum([g.gradient(mean) for g in problems], axis=0))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--job", "names", type=click.Choice(list(JOBS)), multiple=True, default=list(JOBS), help="Which one.")
@click.option("--tau", type=float, help="Of both, in the place of its own.")
@click.option("--alpha", type=float, help="Of both, in the place of its own.")
def main(names: tuple[str, ...], tau: float | None, alpha: float | None) -> None:
    """Samples looked at on the way to a goal, with all of them a round and with an eighth."""
    for name in names:
        job = JOBS[name]
        click.echo(f"{name}, {job.tree['peers']} agents, to {job.goal:g}:")
        for is_batched in (False, True):
            own = job.batched if is_batched else job.full
            surrogate = {"curvature": "network", "tau": own[0] if tau is None else tau}
            length = own[1] if alpha is None else alpha
            experiment = settings.from_tree({**job.tree, "seed": 7, "surrogate": surrogate, "step": {"alpha": length}})
            problems, start = agents_of(experiment)
            if is_batched:
                problems = batched(experiment, problems)
            b = len(problems[0].data.inputs) if problems[0].batches is None else problems[0].batches.size
            line = run(problems, start, length, job)
            click.echo(f"  b = {b:3}, tau {surrogate['tau']:g}, alpha {length:g}: {line}")


if __name__ == "__main__":
    main()
