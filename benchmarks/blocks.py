"""What blocks save: seconds of a solve, and the objective after as many rounds, for 1, 2, 4, 8, 64 and p blocks.

All agents run in this process, without sockets, on a ring with Metropolis weights; a hidden layer of 53
units makes p = 3985 for the digits. After every round the next number of blocks has its turn, so that
what else this host does hits all of them. A solve is (4) to (6), the Jacobian included; shown are medians
over agents and rounds, and U half way and at the end. The table of the README comes from

    python -m benchmarks.blocks --matrix --rounds 3
    python -m benchmarks.blocks --matrix --rounds 2 --set objective.loss=cross_entropy
    python -m benchmarks.blocks --matrix --rounds 2 --peers 2

where all systems are factored, as METHOD says, and from the first two without `--matrix`, where C = 1 and blocks are
solved as a peer would, here by products.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final, TypeVar, final

import click
import msgspec
import numpy as np

from benchmarks.exchange import spread
from peer import agent, config, settings
from peer.arrays import DTYPES, Vector
from peer.data import Cut
from peer.messages import Share
from peer.optim import maps
from peer.optim.blocks import Each
from peer.problem import Problem
from peer.settings import Experiment
from topology import Graph, PeerId
from topology.graphs import ring
from topology.weights import metropolis

A = TypeVar("A")
R = TypeVar("R")

EXPERIMENT: Final = {
    "name": "blocks",
    "seed": 7,
    "data": {"dataset": "digits", "test_fraction": 0.0},
    "model": {"hidden": [53]},
    "surrogate": {"curvature": "network", "tau": 0.3},
    "step": {"alpha": 0.1},
}
"""A step that all numbers of blocks can take: blocks that move at once, each for itself, add up to a longer one."""

TARGET_FASTER: Final = 20.0
"""Seconds of a solve with 1 block to those with 8, at least."""

TARGET_WORSE: Final = 0.1
"""Largest relative excess of the objective with 8 blocks over that with 1, after all rounds."""

COMPARED: Final = 8
"""Blocks that the targets are about."""


@final
@dataclass(eq=False)
class Variant:
    """All agents with one number of blocks, as far as they are.

    Parameters
    ----------
    problems : tuple of Problem
    start : Vector
        w_i[0] of all agents, (p,).
    experiment : Experiment
    graph : Graph
    """

    problems: tuple[Problem, ...]
    start: Vector
    experiment: Experiment
    graph: Graph
    seconds: list[float] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.states = [agent.initial(g, self.start, float(self.experiment.step.alpha)) for g in self.problems]

    def round(self) -> None:
        """One round of all agents."""
        shares: dict[PeerId, Share] = {}
        proposals = []
        for i, (problem, state) in enumerate(zip(self.problems, self.states, strict=True)):
            began_s = time.perf_counter()
            proposals.append(agent.propose(problem, state, len(self.problems)))
            self.seconds.append(time.perf_counter() - began_s)
            self.methods.add(proposals[i].solution.method)
            shares[i] = Share(i, state.n, state.n, state.objective, state.y, proposals[i].z)
        self.states = [
            agent.absorb(
                problem,
                self.states[i],
                proposals[i],
                {j: shares[j] for j in self.graph.neighbors(i)},
                metropolis(self.graph, i),
                config.step_of(self.experiment),
                DTYPES["f8"],
            )
            for i, problem in enumerate(self.problems)
        ]

    @property
    def objective(self) -> float:
        """U at the mean of all w_i."""
        w = np.mean([state.w for state in self.states], axis=0)
        return sum(problem.value(w) for problem in self.problems) + self.problems[0].regularizer.value(w)


def variants(experiment: Experiment, n_blocks: Sequence[int], each: Each) -> dict[int, Variant]:
    """The agents of an experiment, for each number of blocks; 0 stands for one a parameter."""
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        shards = [config.shard_of(experiment, peer) for peer in range(experiment.peers)]
    n_classes, n_samples = max(shard.n_classes for shard in shards), sum(shard.n_samples for shard in shards)
    initial = config.initial_of(experiment, 0)
    model = config.model_of(experiment, shards[0], n_classes, initial)
    problems = [config.problem_of(experiment, model, shard, n_samples, each) for shard in shards]
    start, graph = initial.vector(model, experiment.seed, problems[0].regularizer), ring(experiment.peers)
    p, m, q = model.layout.size, shards[0].n_samples, model.n_outputs
    click.echo(f"{experiment.peers} agents with {m} samples, m q = {m * q}, p = {p}, {experiment.objective.loss}:")
    found = {}
    for count in sorted(min(count or p, p) for count in n_blocks):
        surrogate = msgspec.structs.replace(experiment.surrogate, blocks=count)
        cut = config.blocks_of(msgspec.structs.replace(experiment, surrogate=surrogate), model)
        found[count] = Variant(tuple(replace(g, blocks=cut) for g in problems), start, experiment, graph)
    return found


def on(cores: int) -> Each:
    """Goes through blocks as a peer with that many cores does."""
    pool = ThreadPoolExecutor(cores)

    def each(function: Callable[[A], R], items: Sequence[A], /) -> Sequence[R]:
        return [function(item) for item in items] if cores == 1 else list(pool.map(function, items))

    return each


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(1), default=8, help="Number of agents, among which the data are split.")
@click.option("--rounds", type=click.IntRange(1), default=10, help="Rounds of each number of blocks.")
@click.option("--blocks", "n_blocks", type=int, multiple=True, default=(1, 2, 4, 8, 64, 0), help="0: one a parameter.")
@click.option("--cores", type=click.IntRange(1), default=1, help="Threads of a solve.")
@click.option("--matrix", is_flag=True, help="Solve with the Jacobian as a matrix, whatever is the faster way.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
def main(
    peers: int, rounds: int, n_blocks: tuple[int, ...], cores: int, matrix: bool, overrides: tuple[str, ...]
) -> None:
    """Seconds of a solve and objective, by the number of blocks."""
    for constant in ("PAIRS_EXACT", "PAIRS_INEXACT") if matrix else ():
        setattr(maps, constant, math.inf)  # products never pay
    tree: dict[str, object] = {**EXPERIMENT, "peers": peers}
    settings.override(tree, overrides)
    runs = variants(settings.from_tree(tree), n_blocks, on(cores))
    first = next(iter(runs.values()))
    click.echo(f"  U = {first.objective:.4f} at the beginning")
    half = {}
    for n in range(rounds):
        for count, run in runs.items():
            run.round()
            if n + 1 == (rounds + 1) // 2:
                half[count] = run.objective
    for count, run in runs.items():
        faster = median(first.seconds) / median(run.seconds)
        line = f"  C = {count:4}  {spread(run.seconds)} s a solve, {faster:6.1f} times faster than {next(iter(runs))}"
        click.echo(f"{line}   U = {half[count]:.4f}, {run.objective:.4f}   {', '.join(sorted(run.methods))}")
    if 1 in runs and COMPARED in runs:
        faster = median(runs[1].seconds) / median(runs[COMPARED].seconds)
        worse = runs[COMPARED].objective / runs[1].objective - 1.0
        met = ["met" if good else "missed" for good in (faster >= TARGET_FASTER, worse <= TARGET_WORSE)]
        click.echo(
            f"  target: C = {COMPARED} at least {TARGET_FASTER:g} times faster than C = 1 {met[0]} ({faster:.1f}); "
            f"objective after {rounds} rounds at most {TARGET_WORSE:.0%} above {met[1]} ({worse:+.1%})"
        )


if __name__ == "__main__":
    main()
