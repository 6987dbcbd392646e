"""One agent lies within the format: what it does to the others without clipping, and what it can do with it."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import numpy as np
import pytest

from peer.arrays import Vector
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.regularizers import L2
from peer.optim.surrogates import Data, Full
from peer.problem import Problem
from tests.instances import F4, F8
from tests.liar import LIES, Lie, optimum, play
from topology import Graph
from topology.weights import metropolis

N, ROUNDS, ALPHA, TAU, STRENGTH = 6, 300, 0.3, 1.0, 0.05
LIAR: Final = 2
GRAPH: Final = Graph.of(N, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (1, 4)])
CLIP_W, CLIP_Y = 0.02, 0.01
RADII: Final = (CLIP_W / ALPHA, CLIP_Y, 0.1)

WORST: Final[Lie] = lambda i, s, p, u: (1e6 * u, -1e6 * u, 0.0)  # noqa: E731
"""Pulls w and the gradient so that both lead the same way."""


def problems() -> list[Problem]:
    """Ridge regression, of one linear map by all agents, so that the honest ones know as much as all."""
    rng = np.random.default_rng(0)
    model, truth = mlp((4, 1), "tanh"), rng.standard_normal((4, 1))
    inputs = [rng.standard_normal((m, 4)) for m in (30, 45, 25, 40, 35, 25)]
    targets = [x @ truth + 0.5 + 0.1 * rng.standard_normal((len(x), 1)) for x in inputs]
    strength = np.full(model.layout.size, STRENGTH)
    return [
        Problem(Data(model, x, Squared(y), 1.0 / 200), L2(strength), Full(TAU), 1e-12)
        for x, y in zip(inputs, targets, strict=True)
    ]


def run(lie: Lie, radii: tuple[float, float, float] | None, dtype: np.dtype[Any] = F8) -> tuple[Vector, float, Vector]:
    """Mean of the honest agents at the end, how far the farthest is from it, and the honest optimum."""
    agents = problems()
    start = np.zeros(agents[0].data.model.layout.size)
    states = play(agents, start, ALPHA, lambda n: GRAPH, ROUNDS, LIAR, lie, radii, dtype)
    mean = np.mean([state.w for state in states.values()], axis=0)
    apart = max(float(np.linalg.norm(state.w - mean)) for state in states.values())
    return mean, apart, optimum(agents, sorted(states), start)[0]


@pytest.mark.parametrize("wire_dtype", [F8, F4], ids=["f8", "f4"])
@pytest.mark.parametrize("name", LIES)
def test_with_clipping_the_honest_stay_near_their_optimum(name: str, wire_dtype: np.dtype[Any]) -> None:
    w, apart, best = run(LIES[name], RADII, wire_dtype)
    assert np.linalg.norm(w - best) <= 0.07 * np.linalg.norm(best)
    assert apart <= 0.05 * np.linalg.norm(best)


@pytest.mark.parametrize("name", [name for name in LIES if "million" in name or "unit" in name])
def test_without_clipping_they_are_dragged_away(name: str) -> None:
    w, _, best = run(LIES[name], None)
    assert np.linalg.norm(w - best) > 100.0 * np.linalg.norm(best)


def test_a_liar_moves_the_gradient_where_they_end_by_so_much_and_no_more() -> None:
    """By (6)-(8) with full linearization: r_y I/H a link to the liar, and c_ij r_w (tau + lambda)/(alpha H)."""
    honest, weights = N - 1, metropolis(GRAPH, LIAR)
    links = [j for j in weights if j != LIAR]
    bound = len(links) * CLIP_Y * N / honest
    bound += sum(weights[j] for j in links) * CLIP_W * (TAU + STRENGTH) / (ALPHA * honest)
    agents, found = problems(), {}
    for name, lie in {**LIES, "the worst": WORST}.items():
        start = np.zeros(agents[0].data.model.layout.size)
        states = play(agents, start, ALPHA, lambda n: GRAPH, ROUNDS, LIAR, lie, RADII)
        gradients = [N / honest * agents[i].gradient(state.w) for i, state in states.items()]
        ridge = np.mean([STRENGTH * state.w for state in states.values()], axis=0)
        found[name] = float(np.linalg.norm(np.sum(gradients, axis=0) + ridge))
        assert found[name] <= bound * (1.0 + 1e-6), name
    assert found["the worst"] >= 0.99 * bound, "the bound is that of the worst, and not an easy one"


def test_a_liar_gains_nothing_by_a_longer_run() -> None:
    """A tracker adds up what comes in, so this is what clipping the rounds alone would not do."""
    ends = []
    agents = problems()
    start = np.zeros(agents[0].data.model.layout.size)
    for rounds, lie in product((ROUNDS, 4 * ROUNDS), (WORST,)):
        states = play(agents, start, ALPHA, lambda n: GRAPH, rounds, LIAR, lie, RADII)
        ends.append(np.mean([state.w for state in states.values()], axis=0))
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.0, atol=1e-9)


def test_a_neighbor_that_is_honest_costs_nothing_in_the_end() -> None:
    """With these radii, which are active at first, all agents still meet at the optimum of all."""
    agents = problems()
    start = np.zeros(agents[0].data.model.layout.size)
    silent: Lie = lambda i, s, p, u: (p.z, s.y, s.objective)  # noqa: E731
    states = play(agents, start, ALPHA, lambda n: GRAPH, ROUNDS, LIAR, silent, RADII)
    best = optimum(agents, sorted(states), start)[0]
    for state in states.values():
        np.testing.assert_allclose(state.w, best, rtol=0.0, atol=1e-6)
