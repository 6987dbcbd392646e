"""What blocks save: seconds of a solve, and the objective after as many rounds, for 1, 2, 4, 8, 64 and p blocks.

All agents run in this process, without sockets, on a ring with Metropolis weights; a hidden layer of 53 units makes
p = 3985 for the digits. After every round the next number of blocks has its turn. A solve is (4) to (6), the Jacobian
included, and is made in three ways, from the same states and with the same outcome:

peer      as a peer solves: whatever way is the fastest by the costs of `peer.optim.maps`
factored  every system is factored, by the cheapest form of it: dual where m q < b, and Gram matrices from what the
          network's Jacobian is made of
dense     for each number of blocks alike: J_c is formed, J_c'H J_c is multiplied out and factored by Cholesky, block
          by block; in brackets the factors alone, p^3 against C (p/C)^3, as METHOD has it, while the products before
          them are m q p^2 against m q p^2/C
loop      as a peer solves, but block by block also where they have 2 to 8 weights and peers solve them in stacks

Shown is processor time, which other work on this host changes least, the least of all rounds and of the agents that are
measured. With several cores it is that of the busiest thread, with what is done before and after the blocks: what a
clock would show where each thread has a core for itself, and they do not hinder each other. The tables of the README
come from

    python -m benchmarks.blocks
    python -m benchmarks.blocks --cores 2
    python -m benchmarks.blocks --rounds 2 --measured 1 --set objective.loss=cross_entropy
    python -m benchmarks.blocks --rounds 2 --measured 1 --cores 2 --set objective.loss=cross_entropy
    python -m benchmarks.blocks --rounds 2 --peers 40 --blocks 1 --blocks 8
    python -m benchmarks.blocks --rounds 2 --measured 1 --blocks 499 --blocks 1993 --way peer --way loop \
        --set objective.regularizer=l1                               # and with each loss
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import get_ident
from typing import Final, TypeVar, final
from unittest.mock import patch

import click
import msgspec
import numpy as np

from benchmarks.agents import mixed
from peer import agent, config, learning, memory, settings
from peer.arrays import Matrix, Vector
from peer.data import Cut
from peer.optim import blocks, inverses, maps, second_order, solvers, systems
from peer.optim.maps import matrix_of
from peer.optim.solvers import Solution, solve
from peer.optim.surrogates import Linearized
from peer.problem import Problem
from peer.settings import Experiment
from topology import Graph
from topology.graphs import ring

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

WAYS: Final = ("peer", "factored", "dense", "loop")


@final
@dataclass(frozen=True, eq=False)
class Cores:
    """Threads that go through blocks as those of a peer do, and the processor time that each has spent on them.

    Parameters
    ----------
    pool : ThreadPoolExecutor or None
        None: it is the thread that asks for it.
    """

    pool: ThreadPoolExecutor | None
    spent: dict[int, float] = field(default_factory=dict)

    def each(self, function: Callable[[A], R], items: Sequence[A], /) -> Sequence[R]:
        """Apply a function to each item."""
        if self.pool is None:
            return [function(item) for item in items]
        return list(self.pool.map(lambda item: charged(lambda: function(item), self.spent), items))

    def busiest(self, function: Callable[[], R]) -> tuple[R, float]:
        """Result, and seconds of this thread and the busiest of the others."""
        self.spent.clear()
        began_s = time.thread_time()
        result = function()
        return result, time.thread_time() - began_s + max(self.spent.values(), default=0.0)


def charged(function: Callable[[], R], spent: dict[int, float]) -> R:
    """The result; its processor time is added to what this thread has spent."""
    began_s = time.thread_time()
    result = function()
    me = get_ident()
    spent[me] = spent.get(me, 0.0) + time.thread_time() - began_s
    return result


@contextmanager
def always_factored() -> Iterator[None]:
    """Products never pay."""
    with patch.multiple(maps, PAIRS_EXACT=math.inf, PAIRS_INEXACT=math.inf):
        yield


@contextmanager
def one_by_one() -> Iterator[None]:
    """Only single weights are solved together."""
    with patch.object(blocks, "STACKED", 1):
        yield


PATCHES: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    "peer": nullcontext,
    "factored": always_factored,
    "loop": one_by_one,
}
"""What differs from what a peer does."""


def dense(problem: Problem, w: Vector, gradient: Vector, pi: Vector) -> tuple[list[Solution], float]:
    """Minimizers over each block, by Cholesky factors of J_c'H J_c + T; and seconds of the busiest thread for these."""
    spent: dict[int, float] = {}
    cholesky = inverses.cholesky

    def timed(matrix: Matrix) -> inverses.Inverse:
        return charged(lambda: cholesky(matrix), spent)

    here = problem.data.at(w)
    factors, scale = here.factors(), float(np.max(np.abs([problem.kappa * gradient, pi])))

    def over(place: slice) -> Solution:
        h = Linearized(
            center=w[place],
            outputs=here.outputs,
            jacobian=matrix_of(factors, place),
            loss=problem.data.loss,
            weight=problem.kappa * problem.data.weight,
            pi=pi[place],
            tau=problem.surrogate.tau,
            scale=scale,
        )
        return solve(h, problem.regularizer.restricted(place), problem.tolerance)

    with ExitStack() as patches:
        for room in (second_order, solvers, systems):
            patches.enter_context(patch.object(room, "is_dual", lambda _: False))
        patches.enter_context(patch.object(systems, "cholesky", timed))
        return list(problem.each(over, problem.blocks)), max(spent.values())


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
    cores : Cores
        Of each agent.
    """

    problems: tuple[Problem, ...]
    start: Vector
    experiment: Experiment
    graph: Graph
    cores: Cores
    seconds: dict[str, float] = field(default_factory=dict)
    factors_s: float = math.inf
    methods: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = [agent.initial(g, self.start, float(self.experiment.step.alpha)) for g in self.problems]

    def measure(self, i: int, ways: Sequence[str]) -> None:
        """Solve (5) of agent i in several ways."""
        problem, state, n_agents = self.problems[i], self.states[i], len(self.problems)
        for way in ways:
            if way == "dense":
                pi = n_agents * state.y - problem.kappa * state.gradient
                (solutions, factors_s), taken_s = self.cores.busiest(
                    lambda: dense(problem, state.w, state.gradient, pi)  # noqa: B023
                )
                self.factors_s = min(self.factors_s, factors_s)
            else:
                with PATCHES[way]():
                    proposal, taken_s = self.cores.busiest(lambda: agent.propose(problem, state, n_agents))
                solutions = [proposal.solution]
            self.seconds[way] = min(self.seconds.get(way, math.inf), taken_s)
            methods = {solution.method for solution in solutions}
            self.methods[way] = ", ".join(sorted(methods)).partition(f", {len(problem.blocks)} blocks")[0]

    def round(self) -> None:
        """One round of all agents."""
        proposals = [agent.propose(g, s, len(self.problems)) for g, s in zip(self.problems, self.states, strict=True)]
        rule = config.step_of(self.experiment)
        self.states = mixed(self.problems, self.states, proposals, self.graph, rule=rule)

    @property
    def objective(self) -> float:
        """U at the mean of all w_i."""
        w = np.mean([state.w for state in self.states], axis=0)
        return sum(problem.value(w) for problem in self.problems) + self.problems[0].regularizer.value(w)


def variants(experiment: Experiment, n_blocks: Sequence[int], cores: Cores) -> dict[int, Variant]:
    """The agents of an experiment, for each number of blocks; 0 stands for one a parameter."""
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        shards = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
    n_classes, n_samples = max(shard.n_classes for shard in shards), sum(shard.n_samples for shard in shards)
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, shards[0], n_classes, initial)
    problems = [learning.problem_of(experiment, model, shard, n_samples, cores.each) for shard in shards]
    start, graph = initial.vector(model, experiment.seed, problems[0].regularizer), ring(experiment.peers)
    p, m, q = model.layout.size, shards[0].n_samples, model.n_outputs
    click.echo(f"{experiment.peers} agents with {m} samples, m q = {m * q}, p = {p}, {experiment.objective.loss}:")
    found = {}
    for count in sorted(min(count or p, p) for count in n_blocks):
        surrogate = msgspec.structs.replace(experiment.surrogate, blocks=count)
        cut = learning.blocks_of(msgspec.structs.replace(experiment, surrogate=surrogate), model)
        found[count] = Variant(tuple(replace(g, blocks=cut) for g in problems), start, experiment, graph, cores)
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(1), default=8, help="Number of agents, among which the data are split.")
@click.option("--rounds", type=click.IntRange(1), default=4, help="Rounds of each number of blocks.")
@click.option("--blocks", "n_blocks", type=int, multiple=True, default=(1, 2, 4, 8, 64, 0), help="0: one a parameter.")
@click.option("--cores", type=click.IntRange(1), default=1, help="Threads of a solve.")
@click.option("--measured", type=click.IntRange(1), default=2, help="Agents whose solves are measured.")
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=WAYS[:3], help="How to solve.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
def main(
    peers: int,
    rounds: int,
    n_blocks: tuple[int, ...],
    cores: int,
    measured: int,
    ways: tuple[str, ...],
    overrides: tuple[str, ...],
) -> None:
    """Seconds of a solve and objective, by the number of blocks."""
    memory.keep()  # as a peer of this size does
    tree: dict[str, object] = {**EXPERIMENT, "peers": peers}
    settings.override(tree, overrides)
    runs = variants(settings.from_tree(tree), n_blocks, Cores(ThreadPoolExecutor(cores) if cores > 1 else None))
    first = next(iter(runs.values()))
    click.echo(f"  U = {first.objective:.4f} at the beginning; {cores} core{'s' if cores > 1 else ''}")
    half = {}
    for n in range(rounds):
        for count, run in runs.items():
            for i in range(min(measured, peers)):
                run.measure(i, ways)
            run.round()
            if n + 1 == (rounds + 1) // 2:
                half[count] = run.objective
    for count, run in runs.items():
        line = f"  C = {count:4}  U = {half[count]:.4f}, {run.objective:.4f}"
        for way in ways:
            line += f"  {way} {run.seconds[way]:.4f} s, {first.seconds[way] / run.seconds[way]:.1f} times"
            if way == "dense":
                line += f" [{run.factors_s:.4f} s, {first.factors_s / run.factors_s:.1f}]"
            line += f" ({run.methods[way]})"
        click.echo(line)
    if 1 not in runs or COMPARED not in runs:
        return
    for way in ways:
        faster = runs[1].seconds[way] / runs[COMPARED].seconds[way]
        click.echo(
            f"  target: C = {COMPARED} at least {TARGET_FASTER:g} times faster than C = 1, {way}: "
            f"{'met' if faster >= TARGET_FASTER else 'missed'} ({faster:.1f})"
        )
    worse = runs[COMPARED].objective / runs[1].objective - 1.0
    click.echo(
        f"  target: objective after {rounds} rounds at most {TARGET_WORSE:.0%} above that of C = 1: "
        f"{'met' if worse <= TARGET_WORSE else 'missed'} ({worse:+.1%})"
    )


if __name__ == "__main__":
    main()
