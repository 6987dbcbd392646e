"""What a network that stays linearized saves: the time of a round, and how often one must be linearized anew.

The first table is of one agent's mathematics, processor seconds of a round, as ratios: with the network linearized once
for all (`neural-tangent`) over the same with one linearization a round, by tau, the last being chosen by the agent anew
in each round. What is computed once is not counted. The second is of whole runs of 8 agents, in one process, until the
network itself is stationary to a thousandth of what it was: rounds, linearizations an agent, and processor seconds as
ratios to the method as published, for `auto` with some shares, and every so many rounds.

    python -m benchmarks.lazy                    # both: a quarter of an hour of a processor
    python -m benchmarks.lazy --only rounds      # the first
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click
import numpy as np

from benchmarks.agents import problems_of
from peer import agent, careful, config, gossip, renewal, settings
from peer.agent import State
from peer.arrays import DTYPES, Vector
from peer.careful import Caution
from peer.config import Ground
from peer.messages import Share
from peer.optim.steps import Constant
from peer.problem import Problem
from peer.renewal import Renewal
from peer.settings import Experiment

SIZES: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("breast-cancer", "cross_entropy", (10,)),
    ("diabetes", "squared", (10,)),
    ("digits", "squared", (10,)),
    ("digits", "squared", (50,)),
    ("digits", "squared", (200,)),
    ("digits", "cross_entropy", (10,)),
)
"""Data set, loss and hidden widths."""

RUNS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("breast-cancer", "cross_entropy", (10,)),
    ("diabetes", "squared", (10,)),
    ("digits", "squared", (10,)),
)
"""Data set, loss and hidden widths."""

TAUS: Final = (0.01, 1.0, "auto")

SHARES: Final = (0.1, 0.25, 0.5, 1.0)
EVERY: Final = (5, 20)

ENOUGH: Final = 1e-3
"""Of the first residual of stationarity."""

MOST_ROUNDS: Final = 1_500

TIMED: Final = 12
"""Rounds, of which the first two do not count, and the median does."""


def experiment_of(dataset: str, loss: str, hidden: Sequence[int], regime: dict[str, Any], tau: object) -> Experiment:
    """8 agents on the built-in graph."""
    data = {"dataset": dataset, "test_fraction": 0.25}
    model, objective = {"hidden": list(hidden)}, {"loss": loss}
    tree = {"data": data, "model": model, "objective": objective, "regime": regime, "surrogate": {"tau": tau}}
    return settings.from_tree(tree)


def rounds(
    experiment: Experiment, problems: Sequence[Problem], start: Vector, ground: Ground, again: Renewal | None
) -> Iterator[list[State]]:
    """States of all agents before each round."""
    alpha, n_agents = config.alpha_of(experiment, ground.contraction), len(problems)
    caution = config.caution_of(experiment, ground.contraction, n_agents)
    graph, dtype = ground.schedule.graph(0), DTYPES["f8"]
    weights = [ground.weights(graph, i) for i in range(n_agents)]
    states = [agent.initial(problem, start, alpha) for problem in problems]
    if again is not None:
        states = [renewal.begun(state) for state in states]
    if caution is not None:
        states = [careful.begun(problem, state, caution) for problem, state in zip(problems, states, strict=True)]
    while True:
        yield states
        proposals = [agent.propose(problem, state, n_agents) for problem, state in zip(problems, states, strict=True)]
        courses = [gossip.begun(*pair) for pair in zip(states, proposals, strict=True)]
        told = [course.here for course in courses]
        shares = [Share(i, 0, 0, here.objective, here.y, here.z) for i, here in enumerate(told)]
        met = [{j: shares[j] for j in graph.neighbors(i)} for i in range(n_agents)]
        after = [gossip.taken(course, met[i], weights[i], ground.gossip, dtype) for i, course in enumerate(courses)]
        states = [
            settled(problem, state, course, again, caution, n_agents)
            for problem, state, course in zip(problems, states, after, strict=True)
        ]


def settled(
    problem: Problem, state: State, course: gossip.Course, again: Renewal | None, caution: Caution | None, n: int
) -> State:
    """One agent's state after a round."""
    following = agent.settle(problem, state, course.proposal, course.here, Constant())
    if again is not None:
        following = renewal.renewed(problem, following, again, n)
    if caution is not None:
        following = careful.adapted(problem.linearized(following.anchor), state, following, caution)
    return following


# ---- the time of a round -------------------------------------------------------------------


def round_s(experiment: Experiment) -> float:
    """Processor seconds that an agent's mathematics takes in a round, the exchange excepted."""
    problems, start = problems_of(experiment)
    problem, n_agents = problems[0], len(problems)
    ground = config.ground(experiment)
    caution = config.caution_of(experiment, ground.contraction, n_agents)
    state = agent.initial(problem, start, 0.3)
    if caution is not None:
        state = careful.begun(problem, state, caution)
    found = []
    for _ in range(TIMED):
        began_s = time.process_time()
        proposal = agent.propose(problem, state, n_agents)
        state = settled(problem, state, gossip.begun(state, proposal), None, caution, n_agents)
        found.append(time.process_time() - began_s)
    return float(np.median(found[2:]))


def time_rounds() -> None:
    """Print the first table."""
    columns = " | ".join(f"tau {tau}: ms, each round | once for all" for tau in TAUS)
    click.echo(f"| data, loss, hidden | parameters | {columns} |")
    click.echo(f"|---|---:|{'---:|---:|' * len(TAUS)}")
    for dataset, loss, hidden in SIZES:
        cells, p = [], 0
        for tau in TAUS:
            each = []
            for regime in ({"kind": "full"}, {"kind": "neural-tangent"}):
                experiment = experiment_of(dataset, loss, hidden, regime, tau)
                p = problems_of(experiment)[1].size
                each.append(round_s(experiment))
            cells.append(f"{1e3 * each[0]:.2f} | {each[1] / each[0]:.3f}")
        click.echo(f"| {dataset}, {loss}, {hidden[0]} | {p:,} | {' | '.join(cells)} |")


# ---- whole runs ----------------------------------------------------------------------------


def needed(
    dataset: str, loss: str, hidden: Sequence[int], again: Renewal | None, share: float
) -> tuple[int, float, float]:
    """Rounds until the mean is stationary for the network itself, linearizations an agent, and processor seconds."""
    kind: dict[str, Any] = {}
    if again is not None:
        kind = {"relinearize_every": again.every} if again.every else {"kind": "auto"}
    experiment = experiment_of(dataset, loss, hidden, kind, "auto")
    problems, start = problems_of(experiment)
    renewal.SHARE = share  # type: ignore[misc]  # the constant that this is to choose
    ground = config.ground(experiment)
    first, anchors, spent_s = np.inf, 0, 0.0
    run = rounds(experiment, problems, start, ground, again)
    for n in range(MOST_ROUNDS):
        began_s = time.process_time()
        states = next(run)
        spent_s += time.process_time() - began_s
        anchors += sum(state.anchored == n for state in states) if again is not None else len(states)
        w = np.mean([state.w for state in states], axis=0)
        left = problems[0].stationarity(w, np.sum([problem.gradient(w) for problem in problems], axis=0))
        first = left if n == 0 else first
        if left <= ENOUGH * first:
            return n, anchors / len(states), spent_s
    return MOST_ROUNDS, anchors / len(states), spent_s


def time_runs() -> None:
    """Print the second table."""
    click.echo("| data, loss, hidden | regime | rounds | linearizations an agent | processor time |")
    click.echo("|---|---|---:|---:|---:|")
    ways: list[tuple[str, Renewal | None, float]] = [("full", None, 0.5)]
    ways += [(f"auto, share {share:g}", Renewal(), share) for share in SHARES]
    ways += [(f"every {k} rounds", Renewal(k), 0.5) for k in EVERY]
    for dataset, loss, hidden in RUNS:
        whole_s = 0.0
        for name, again, share in ways:
            n, anchors, spent_s = needed(dataset, loss, hidden, again, share)
            whole_s = whole_s or spent_s
            reached = f"{n}" if n < MOST_ROUNDS else f"> {n}"
            click.echo(
                f"| {dataset}, {loss}, {hidden[0]} | {name} | {reached} | {anchors:.1f} | {spent_s / whole_s:.2f} |"
            )


TABLES: Final[dict[str, Callable[[], None]]] = {"rounds": time_rounds, "runs": time_runs}


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(TABLES)), help="One of the tables.")
def main(only: str | None) -> None:
    """Print the tables."""
    with np.errstate(all="ignore"):
        for name, table in TABLES.items():
            if only in (None, name):
                table()


if __name__ == "__main__":
    main()
