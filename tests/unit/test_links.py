"""Agents that say less than all: sums are kept at every exchange, and the optimum is that of agents who say all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pytest

from peer.agent import State
from peer.arrays import BF16, Matrix, Vector
from peer.careful import alpha_of
from peer.errors import SolveError
from peer.links import Coding, Drawn, Replicas, steady
from peer.messages import Share
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.regularizers import L2
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Partial
from peer.problem import Problem
from tests.instances import F4, F8, exchange
from topology import Graph
from topology.graphs import complete, ring
from topology.schedules import Static
from topology.weights import contraction, metropolis

N_AGENTS, P = 5, 21

CODINGS: Final[Mapping[str, Callable[[tuple[int, ...]], Coding]]] = {
    "differences, bf16": lambda met: Replicas(met, 1.0, 1.0, BF16),
    "differences, f4": lambda met: Replicas(met, 1.0, 1.0, F4),
    "top-k, f8": lambda met: Replicas(met, 0.3, steady(0.3), F8),
    "top-k, bf16": lambda met: Replicas(met, 0.3, steady(0.3), BF16),
    "random-k, f8": lambda met: Drawn(7, 0.3, F8),
}


def ridge() -> tuple[list[Problem], Vector]:
    """A ridge regression of five shards that differ, and its optimum by the normal equations."""
    rng, model = np.random.default_rng(0), mlp((P - 1, 1), "tanh")
    xs = [rng.standard_normal((12, P - 1)) for _ in range(N_AGENTS)]
    ys = [x @ rng.standard_normal((P - 1, 1)) for x in xs]
    weight, strength = 1.0 / (12 * N_AGENTS), np.full(P, 0.1)
    problems = [
        Problem(Data(model, x, Squared(y), weight), L2(strength), Partial(1.0, float(N_AGENTS)), 1e-13)
        for x, y in zip(xs, ys, strict=True)
    ]
    A = np.hstack((np.concatenate(xs), np.ones((12 * N_AGENTS, 1))))
    best = np.linalg.solve(weight * A.T @ A + np.diag(strength), weight * A.T @ np.concatenate(ys)[:, 0])
    return problems, np.asarray(best)


@pytest.mark.parametrize("name", CODINGS)
def test_the_optimum_and_nine_at_every_round(name: str) -> None:
    """On a ring; with the step that `auto` has for what an exchange leaves of a disagreement."""
    problems, best = ridge()
    codings: list[Coding] = [CODINGS[name](ring(N_AGENTS).neighbors(i)) for i in range(N_AGENTS)]
    alpha = alpha_of(codings[0].contraction(contraction(Static(ring(N_AGENTS)), metropolis)))
    largest, states = 0.0, list[State]()
    run = exchange(problems, [np.zeros(P)] * N_AGENTS, alpha, Constant(), [ring(N_AGENTS)], 3_000, codings=codings)
    for n, (states, _) in enumerate(run):
        largest = max(largest, *(float(np.max(np.abs(state.y))) for state in states))
        off = sum(state.y for state in states) - sum(state.gradient for state in states)
        assert np.max(np.abs(off)) <= 1e-15 * (n + 5) * largest
        if max(float(np.max(np.abs(state.w - best))) for state in states) <= 1e-8:
            return
    found = max(float(np.max(np.abs(state.w - best))) for state in states)
    raise AssertionError(f"after 3000 rounds {found} from the optimum")


@pytest.mark.parametrize("name", CODINGS)
def test_sums_are_kept_on_links_that_come_and_go(name: str) -> None:
    rng, graphs = np.random.default_rng(1), [Graph.of(4, [(0, 1), (2, 3)]), Graph.of(4, []), complete(4)]
    codings = [CODINGS[name](complete(4).neighbors(i)) for i in range(4)]
    x = rng.standard_normal((4, 2, P)) * np.array([1e3, 1.0])[:, None]
    replicas: list[Matrix] = [np.zeros((0, 0))] * 4
    total = x.sum(axis=0)
    for n in range(60):
        graph = graphs[n % len(graphs)]
        met = [graph.neighbors(i) for i in range(4)]
        words = [codings[i].words(n, x[i, 0], x[i, 1], replicas[i], met[i]) for i in range(4)]
        for i in range(4):
            shares = {j: Share(j, n, n, 0.0, *words[j][i]) for j in met[i]}
            weights, before = metropolis(graph, i), (x[i, 0], x[i, 1], replicas[i])
            x[i, 0], x[i, 1], replicas[i] = codings[i].mixed(n, *before, words[i], shares, weights)
        np.testing.assert_allclose(x.sum(axis=0), total, rtol=0.0, atol=1e-15 * (n + 5) * np.max(np.abs(x)))
    assert np.max(np.abs(x - x.mean(axis=0))) < 0.2 * 1e3, "they come to agree"


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_what_is_no_number_is_not_said(fraction: float) -> None:
    with np.errstate(over="ignore"), pytest.raises(SolveError, match=r"exchange 4: .* nan or infinite"):
        Replicas((1,), fraction, 1.0, F8).words(4, np.full(P, np.inf), np.zeros(P), np.zeros((0, 0)), (1,))


@pytest.mark.parametrize("coding", [Replicas((1,), 0.3, 1.0, F4), Drawn(7, 0.3, F4), Drawn(7, 1.0, F4)])
@pytest.mark.parametrize("number", [3.5e38, -1e300, np.nan])
def test_what_is_no_number_on_the_wire_is_not_said(coding: Coding, number: float) -> None:
    """Its receiver would take it for a mistake of the wire, and wait for it again."""
    with pytest.raises(SolveError, match="too large for the wire"):
        coding.words(4, np.zeros(P), np.full(P, number), np.zeros((0, 0)), (1,))
    coding.words(4, np.zeros(P), np.full(P, 3.4e38), np.zeros((0, 0)), (1,))
