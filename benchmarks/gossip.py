"""What several exchanges a round save: rounds, and bytes, until all agents are within 1e-6 of the optimum.

Logistic regression on all of the breast cancer data with l2 (strength 1e-2), surrogates of the network's curvature, on
rings, whose agents agree slowly. All agents run in this process, without sockets; what would go over them is counted.
For every number of exchanges the step is the best one of `ALPHAS` with the best tau of `TAUS`: the better agents agree,
the longer it may be. The last row is a complete graph, which agrees at once, so that only the surrogates are left to
need rounds. The tables of the README come from

    python -m benchmarks.gossip
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Final

import click
import numpy as np

from benchmarks.agents import problems_of
from peer import agent, gossip, settings, wire
from peer.agent import State
from peer.arrays import DTYPES, Vector
from peer.messages import Share
from peer.optim.steps import Constant
from peer.optim.surrogates import Partial
from peer.problem import Problem
from peer.settings import Experiment
from topology.gossip import Gossip, chebyshev, plain, round_rate
from topology.graphs import Graph, complete, ring
from topology.schedules import Static
from topology.weights import metropolis

ALPHAS: Final = (0.03, 0.05, 0.07, 0.1, 0.14, 0.17, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 1.0)
TAUS: Final = (1e-3, 1e-2)

STRENGTH: Final = 1e-2

DISTANCE: Final = 1e-6
"""Of the farthest agent from the optimum, relative to its length."""

MOST_ROUNDS: Final = 1_000


def experiment_of(n_agents: int) -> Experiment:
    """The problem."""
    return settings.from_tree(
        {
            "name": "gossip",
            "seed": 7,
            "peers": n_agents,
            "data": {"dataset": "breast-cancer", "test_fraction": 0.0},
            "model": {"hidden": []},
            "objective": {"loss": "cross_entropy", "strength": STRENGTH},
            "surrogate": {"curvature": "network", "tau": TAUS[1], "tolerance": 1e-11},
        }
    )


def optimum(problems: Sequence[Problem], start: Vector) -> Vector:
    """The minimizer of (1), to a hundredth of `DISTANCE`: strong convexity bounds how far it is."""
    graph = complete(len(problems))
    for states in islice(rounds(problems, start, 0.4, graph, plain(1)), MOST_ROUNDS):
        w: Vector = np.mean([state.w for state in states], axis=0)
        gradient = np.sum([problem.gradient(w) for problem in problems], axis=0)
        if problems[0].stationarity(w, gradient) * math.sqrt(w.size) <= 1e-2 * DISTANCE * STRENGTH * np.linalg.norm(w):
            return w
    raise ArithmeticError("the optimum was not found")


def rounds(
    problems: Sequence[Problem], start: Vector, alpha: float, graph: Graph, way: Gossip
) -> Iterator[list[State]]:
    """States of all agents after each round."""
    dtype, agents = DTYPES["f8"], range(len(problems))
    weights = [metropolis(graph, i) for i in agents]
    states = [agent.initial(problem, start, alpha) for problem in problems]
    while True:
        proposals = [agent.propose(problems[i], states[i], len(problems)) for i in agents]
        courses = [gossip.begun(states[i], proposals[i]) for i in agents]
        for _ in range(way.n_steps):
            told = [course.here for course in courses]
            shares = [Share(i, 0, 0, here.objective, here.y, here.z) for i, here in enumerate(told)]
            met = [{j: shares[j] for j in graph.neighbors(i)} for i in agents]
            courses = [gossip.taken(courses[i], met[i], weights[i], way, dtype) for i in agents]
        states = [
            agent.settle(problems[i], states[i], courses[i].proposal, courses[i].here, Constant()) for i in agents
        ]
        yield states


def needed(run: Iterator[list[State]], w: Vector, at_most: int) -> int | None:
    """Rounds until all agents are near the optimum; None where they are not after so many, or never will be."""
    first = math.inf
    for n, states in zip(range(1, at_most + 1), run, strict=False):
        far = max(float(np.linalg.norm(state.w - w)) for state in states) / float(np.linalg.norm(w))
        if far <= DISTANCE:
            return n
        first = far if n == 1 else first
        if not far <= 1e3 * first:
            return None
    return None


def best(problems: Sequence[Problem], start: Vector, w: Vector, graph: Graph, way: Gossip) -> tuple[int, float, float]:
    """Fewest rounds, and alpha and tau with which they are; a pair that needs more than another one is given up."""
    found = (MOST_ROUNDS + 1, math.nan, math.nan)
    likely = 1.0 - math.sqrt(round_rate(Static(graph), 1, metropolis, way))
    for alpha, tau in product(sorted(ALPHAS, key=lambda alpha: abs(math.log(alpha / likely))), TAUS):
        surrogate = Partial(tau, float(len(problems)))
        tried = [Problem(g.data, g.regularizer, surrogate, g.tolerance) for g in problems]
        with np.errstate(all="ignore"):
            n = needed(rounds(tried, start, alpha, graph, way), w, found[0] - 1)
        found = found if n is None else (n, alpha, tau)
    return found


@click.command(help=__doc__)
@click.option("--peers", multiple=True, type=int, default=(8, 16), show_default=True, help="Sizes of the ring.")
@click.option("--steps", multiple=True, type=int, default=(1, 2, 3), show_default=True, help="Exchanges a round.")
def main(peers: tuple[int, ...], steps: tuple[int, ...]) -> None:
    """Print a table for each ring."""
    for n_agents in peers:
        experiment, graph = experiment_of(n_agents), ring(n_agents)
        problems, start = problems_of(experiment)
        w = optimum(problems, start)
        form = wire.Format("gossip", n_agents, w.size, "f8")
        click.echo(f"ring of {n_agents}, p = {w.size}: left after a round; rounds; kB a peer; alpha, tau")
        ways = [(f"{k} plain", graph, plain(k)) for k in steps]
        ways += [(f"{k} chebyshev", graph, chebyshev(graph, metropolis, k)) for k in steps if k > 1]
        for name, links, way in [*ways, ("all meet", complete(n_agents), plain(1))]:
            n, alpha, tau = best(problems, start, w, links, way)
            sent = n * way.n_steps * links.degree(0) * wire.share_bytes(form) / 1e3
            rate = round_rate(Static(links), 1, metropolis, way)
            click.echo(f"{name:>12} {rate:8.4f} {n:6d} {sent:8.0f}   {alpha:g}, {tau:g}")


if __name__ == "__main__":
    main()
