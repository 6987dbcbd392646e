"""What inexact solves, guesses to begin from, and the Nystrom preconditioner save: systems, products, milliseconds.

    python -m benchmarks.inexact            # rounds of 8 agents on a ring, exact and with `surrogate.inexactness`
    python -m benchmarks.inexact --nystrom  # first rounds of one agent with the digits, with and without it

All agents run in this process, without sockets, with the functions that peers run. Rounds: alpha = 0.15, tau = 0.1;
each solve goes to the tolerance, or as far as c = 0.1 says, and begins at w_i, or where the solution of the round
before leads ("warm", which `inexactness` > 0 always is; the other two combinations are no settings). Counted are linear
systems, or for conjugate gradients products J'(J x), means over agents and rounds; U is that of the mean of all w_i at
the end. Milliseconds are the processor's, of the least of three solves with --nystrom, else means.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final
from unittest.mock import patch

import click
import msgspec
import numpy as np

from benchmarks.agents import mixed
from benchmarks.solvers import Counted, problem_of, state_of, subproblem
from peer import agent, learning, settings
from peer.arrays import Vector
from peer.data import Cut
from peer.optim import maps, systems
from peer.optim.maps import conjugate_gradients
from peer.optim.nystrom import nystrom
from peer.optim.solvers import Solution, solve
from peer.problem import Problem
from topology.graphs import ring

N_AGENTS: Final = 8

C: Final = 0.1

WAYS: Final[Mapping[str, tuple[float, bool]]] = {
    "exact": (0.0, False),
    "exact, warm": (0.0, True),
    f"c = {C:g}": (C, False),
    f"c = {C:g}, warm": (C, True),
}
"""Inexactness, and whether iterations begin where the round before leads."""


@final
@dataclass(frozen=True)
class Job:
    """A problem that is solved again and again.

    Parameters
    ----------
    name : str
    data : str
        Set.
    objective : mapping
        Loss and penalty.
    n_rounds : int
    """

    name: str
    data: str
    objective: Mapping[str, Any]
    n_rounds: int


CROSS_ENTROPY: Final = {"loss": "cross_entropy", "strength": 1e-2}

JOBS: Final = (
    Job("breast-cancer, cross-entropy", "breast-cancer", CROSS_ENTROPY, 60),
    Job(
        "breast-cancer, cross-entropy, l1", "breast-cancer", CROSS_ENTROPY | {"regularizer": "l1", "strength": 2e-3}, 40
    ),
    Job("digits, cross-entropy", "digits", CROSS_ENTROPY, 40),
    Job("digits, squared", "digits", CROSS_ENTROPY | {"loss": "squared"}, 25),
)


def problems_of(job: Job) -> tuple[list[Problem], Vector]:
    """All agents, and w_i[0] of each, (p,)."""
    experiment = settings.from_tree(
        {
            "seed": 7,
            "peers": N_AGENTS,
            "data": {"dataset": job.data},
            "objective": job.objective,
            "surrogate": {"curvature": "network", "tau": 0.1},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        shards = [learning.shard_of(experiment, peer) for peer in range(N_AGENTS)]
    n_classes, n_samples = max(shard.n_classes for shard in shards), sum(shard.n_samples for shard in shards)
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, shards[0], n_classes, initial)
    problems = [learning.problem_of(experiment, model, shard, n_samples) for shard in shards]
    return problems, initial.vector(model, experiment.seed, problems[0].regularizer)


@contextmanager
def counting() -> Iterator[list[int]]:
    """The number of products of all systems that are solved by products meanwhile, those for preconditioners, too."""
    count = [0]

    def counted(product: maps.Product) -> maps.Product:
        def once(x: Vector) -> Vector:
            count[0] += 1
            return product(x)

        return once

    with patch.multiple(
        systems,
        conjugate_gradients=lambda product, *others: conjugate_gradients(counted(product), *others),
        nystrom=lambda product, *others: nystrom(counted(product), *others),
    ):
        yield count


def rounds(problems: Sequence[Problem], start: Vector, job: Job, way: tuple[float, bool]) -> tuple[str, float]:
    """Systems or products in a round, with milliseconds; and U at the end."""
    (c, warm), alpha = way, 0.15
    states = [agent.initial(problem, start, alpha) for problem in problems]
    ways = [np.zeros(0)] * len(problems)
    seconds, n_systems, graph = 0.0, 0, ring(len(problems))
    with counting() as n_products:
        for n in range(job.n_rounds):
            proposals = []
            for i, (problem, state) in enumerate(zip(problems, states, strict=True)):
                at_n = replace(problem, inexactness=c or 1.0).in_round(n, alpha, ways[i] if warm else np.zeros(0))
                if not c:  # with that way, but exact
                    at_n = replace(at_n, share=0.0, most=0.0)
                began_s = time.thread_time()
                proposals.append(agent.propose(at_n, state, len(problems)))
                seconds += time.thread_time() - began_s
                ways[i] = proposals[i].solution.way
                n_systems += proposals[i].solution.iterations
            states = mixed(problems, states, proposals, graph)
    each = job.n_rounds * len(problems)
    w = np.mean([state.w for state in states], axis=0)
    value = sum(problem.value(w) for problem in problems) + problems[0].regularizer.value(w)
    count = f"{n_products[0] / each:5.1f} products" if n_products[0] else f"{n_systems / each:5.1f} systems"
    return f"{count}, {1e3 * seconds / each:5.2f} ms", value


def first_round(hidden: int, m: int, tau: float, patience: int) -> tuple[Solution, str]:
    """The first solve of an agent: its solution, and products and milliseconds."""
    problem, taken_s, n_pairs = problem_of((64, hidden, 10), "squared", m, tau), math.inf, 0
    state = state_of(problem)
    for _ in range(3):
        counted = Counted(problem.data.model.at(state.w, problem.data.inputs))
        h = subproblem(problem, state, counted.here.outputs, counted.map)
        with patch.object(systems, "PATIENCE", patience):
            began_s = time.thread_time()
            solution = solve(h, problem.regularizer, problem.tolerance)
            taken_s = min(taken_s, time.thread_time() - began_s)
        n_pairs = counted.n_pairs
    return solution, f"{n_pairs:5} products, {1e3 * taken_s:6.1f} ms"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--nystrom", "is_nystrom", is_flag=True, help="Only the preconditioner.")
def main(is_nystrom: bool) -> None:
    """Systems, products and milliseconds of solves that end early, begin well, or are well conditioned."""
    if not is_nystrom:
        for job in JOBS:
            problems, start = problems_of(job)
            click.echo(f"{job.name}, p = {start.size}, {job.n_rounds} rounds:")
            for name, way in WAYS.items():
                said, value = rounds(problems, start, job, way)
                click.echo(f"  {name:14} {said}   U = {value:.6f}")
        return
    for hidden, m in ((50, 60), (50, 180), (200, 60)):
        click.echo(f"digits, squared loss, p = {75 * hidden + 10}, {m} samples:")
        for tau in (1.0, 0.1, 0.01, 0.001):
            (alone, plain), (_, helped) = (first_round(hidden, m, tau, n) for n in (10**9, maps.PATIENCE))
            click.echo(f"  tau = {tau:5g}  diagonal {plain}   then Nystrom {helped}   residual {alone.residual:.0e}")


if __name__ == "__main__":
    main()
