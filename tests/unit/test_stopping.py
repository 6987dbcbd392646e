"""Stopping early: the measure by hand, windows, and that all agents stop at one round, not before they may."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import stopping
from peer.agent import Mixture, Proposal, State
from peer.arrays import Vector, rounded
from peer.gossip import begun, taken
from peer.messages import Share
from peer.optim.chains import mlp
from peer.optim.regularizers import L1
from peer.optim.steps import Constant
from peer.optim.surrogates import Full
from peer.problem import Problem
from peer.simulation import told
from tests.instances import F4, F8, data_of, exchange
from topology import Graph, Schedule, graphs
from topology.gossip import Gossip, chebyshev, plain
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static
from topology.weights import lazy_metropolis
from topology.windows import window_end

V = np.zeros(2)


class Flat:
    """A problem whose stationarity is the gradient's largest entry."""

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        return float(np.max(np.abs(gradient)))


def state(n: int, w: Sequence[float] = (0.0, 0.0), y: Sequence[float] = (0.0, 0.0)) -> State:
    return State(n, np.array(w), np.array(y), V, 0.0, 0.0, 0.1)


def measured(before: State, after: State, z: Sequence[float], *met: tuple[Sequence[float], Sequence[float]]) -> float:
    """Of an agent among 10 with these z_i, and (z_j, y_j) of its neighbors."""
    own = Mixture(np.array(z), before.y, 0.0, 0.0, 0.0, 0.0, before.pulled)
    shares = {j: Share(j, 0, 0, 0.0, np.array(y), np.array(z)) for j, (z, y) in enumerate(met, start=1)}
    return stopping.measure(Flat(), before, after, stopping.apart(own, shares, 10, F8), 10)


def test_each_part_of_the_measure_by_hand() -> None:
    still = state(0)
    assert measured(still, still, (0.0, 0.0)) == 0.0
    assert measured(state(0, y=(0.0, -0.5)), state(1, y=(0.0, -0.5)), (0.0, 0.0)) == 5.0  # not stationary
    assert measured(still, still, (0.0, 1.0), ((0.0, 1.0), (0.0, 0.0)), ((2.0, 4.0), (0.0, 0.0))) == 3.0  # z_j - z_i
    assert measured(still, still, (0.0, 0.0), ((0.0, 0.0), (0.0, -0.25))) == 2.5  # I (y_j - y_i)
    assert measured(still, state(1, w=(7.0, 0.0)), (0.0, 0.0)) == 7.0  # w moves
    assert measured(still, state(1, y=(0.0, 0.125)), (0.0, 0.0)) == 1.25  # y moves


def test_what_is_too_large_for_a_number_is_no_reason_to_stop() -> None:
    still = state(0)
    assert measured(still, still, (1e308, 0.0), ((-1e308, 0.0), (0.0, 0.0))) == math.inf
    assert measured(still, still, (0.0, 0.0), ((math.nan, 0.0), (0.0, 0.0))) == math.inf


def test_neighbors_see_what_the_wire_makes_of_numbers() -> None:
    """Two with the same z do not differ, though one of them has got it rounded."""
    z = np.array([0.1, 1.0 / 3.0])
    share = Share(1, 0, 0, 0.0, V, rounded(z, F4))
    assert stopping.apart(Mixture(z, V, 0.0, 0.0, 0.0, 0.0, V), {1: share}, 10, F4) == 0.0
    assert stopping.apart(Mixture(z, V, 0.0, 0.0, 0.0, 0.0, V), {1: share}, 10, F8) > 0.0


def flooded(schedule: Schedule, measures: Sequence[Sequence[float]], n_steps: int = 1) -> list[list[State]]:
    """States of all agents by round, where agent i measures measures[n][i] in round n, and nobody ever stops."""
    n_rounds, agents = len(measures), range(schedule.n_agents)
    states = [state(0) for _ in agents]
    history = [states]
    for n, found in enumerate(measures):
        floods = [here.flood for here in states]
        for e in range(n * n_steps, (n + 1) * n_steps):
            floods = [max([floods[i], *(floods[j] for j in schedule.graph(e).neighbors(i))]) for i in agents]
        states = [
            stopping.watched(states[i], state(n + 1), found[i], floods[i], schedule, n_rounds, n_steps) for i in agents
        ]
        history.append(states)
    return history


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    base = draw(st.sampled_from([graphs.ring, graphs.star, graphs.complete, graphs.grid]))(draw(st.integers(1, 7)))
    seed = draw(st.integers(0, 10**6))
    some = st.sets(st.sampled_from(sorted(base.edges))) if base.edges else st.just(set())
    sparse = draw(st.lists(some.map(lambda edges: Graph(base.n_agents, frozenset(edges))), min_size=1, max_size=5))
    found: list[Schedule] = [
        Static(base),
        RandomLinks(base, draw(st.floats(0.2, 1.0)), seed),
        Matchings(base, seed),
        OnePeerExponential(base.n_agents),
        Replay(base.n_agents, tuple(sparse)),
    ]
    return draw(st.sampled_from(found))


@settings(deadline=None, max_examples=100)
@given(schedules(), st.integers(1, 4), st.data())
def test_at_the_end_of_a_window_all_agree_on_the_largest_measure_of_the_one_before(
    schedule: Schedule, n_steps: int, data: st.DataObject
) -> None:
    """So they stop together, and never before all measures of a whole window are small enough."""
    n_rounds = 40
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    measures = np.exp(rng.normal(-0.2 * np.arange(n_rounds)[:, None], 1.0, (n_rounds, schedule.n_agents)))
    history, ends = flooded(schedule, measures.tolist(), n_steps), [0]
    while (end := window_end(schedule, ends[-1], n_rounds, n_steps)) is not None:
        ends.append(end)
    expected = [math.inf] * (n_rounds + 1)
    for (begin, middle), (_, end) in pairwise(pairwise(ends)):
        expected[end:] = [float(measures[begin:middle].max())] * (n_rounds + 1 - end)
    found = [{here.agreed for here in states} for states in history]
    assert found == [{agreed} for agreed in expected]


def test_one_agent_alone_looks_back_one_round() -> None:
    history = flooded(Static(Graph(1, frozenset())), [[3.0], [2.0], [1.0]])
    assert [here.agreed for (here,) in history] == [math.inf, math.inf, 3.0, 2.0]


def test_without_a_tolerance_nothing_is_over() -> None:
    assert not stopping.is_over(state(5), 0.0)
    assert stopping.is_over(state(5).changed(agreed=0.5), 0.5)
    assert not stopping.is_over(state(5).changed(agreed=0.5), 0.49)


LINKS: Final = RandomLinks(graphs.ring(5), 0.6, 3)


@pytest.mark.parametrize(
    ("schedule", "way"),
    [
        (LINKS, plain(1)),
        (LINKS, plain(2)),
        (Static(graphs.ring(5)), plain(3)),
        (Static(graphs.ring(5)), chebyshev(graphs.ring(5), lazy_metropolis, 3)),
    ],
    ids=["once", "twice", "three times", "polynomial"],
)
def test_what_the_measure_bounds(schedule: Schedule, way: Gossip) -> None:
    """The three bounds of the module, over a run of which every window is looked at."""
    rng = np.random.default_rng(4)
    model = mlp((3, 1), "tanh")
    n_agents, weights = 5, lazy_metropolis
    strength = np.full(model.layout.size, 0.02)
    problems = [
        Problem(data_of(rng, "squared", model, 6, 1.0 / 30.0), L1(strength), Full(2.0), 1e-10) for _ in range(n_agents)
    ]
    starts = [rng.standard_normal(model.layout.size) for _ in problems]
    n_rounds, R, K = 60 // way.n_steps, way.reach, way.n_steps
    links = [schedule.graph(n) for n in range(60)]
    run = list(exchange(problems, starts, 0.3, Constant(), links, n_rounds, weights=weights, gossip=way))
    begin, looked_at = 0, 0
    while (end := window_end(schedule, begin, n_rounds, K)) is not None:
        e = max(_measures(problems, run, links, n, way) for n in range(begin, end))
        length = end - begin
        for states, _ in run[begin : end + 1]:
            gradients = np.sum([g.gradient(here.w) for g, here in zip(problems, states, strict=True)], axis=0)
            apart = max(float(np.max(np.abs(a.w - b.w))) for a in states for b in states)
            missed = max(float(np.max(np.abs(n_agents * here.y - gradients))) for here in states)
            assert apart <= (n_agents - 1) * (2 * length + 2 * R + 1) * e
            assert missed <= (n_agents - 1) * (2 * length + 2 * K - 1) * e
            if isinstance(schedule, Static) and states is not run[begin][0]:
                linked = [float(np.max(np.abs(states[i].w - states[j].w))) for i, j in schedule.base.edges]
                assert max(linked) <= (2 * R + 1) * e
        for states, _ in run[begin:end]:
            gradients = np.sum([g.gradient(here.w) for g, here in zip(problems, states, strict=True)], axis=0)
            off = max(problem.stationarity(here.w, gradients) for problem, here in zip(problems, states, strict=True))
            assert off <= (1 + (n_agents - 1) * (2 * length + 2 * K - 1)) * e
        begin, looked_at = end, looked_at + 1
    assert looked_at >= 6


def _measures(
    problems: Sequence[Problem],
    run: Sequence[tuple[list[State], list[Proposal]]],
    links: Sequence[Graph],
    n: int,
    way: Gossip,
) -> float:
    """The largest measure of round n."""
    (states, proposals), (following, _) = run[n], run[n + 1]
    courses = [begun(*pair) for pair in zip(states, proposals, strict=True)]
    apart = [0.0] * len(problems)
    for graph in links[n * way.n_steps : (n + 1) * way.n_steps]:
        shares = [told(i, course.here, n, F8) for i, course in enumerate(courses)]
        met = [{j: shares[j] for j in graph.neighbors(i)} for i in range(len(problems))]
        found = [stopping.apart(course.here, met[i], len(problems), F8) for i, course in enumerate(courses)]
        apart = list(map(max, apart, found))
        courses = [taken(course, met[i], lazy_metropolis(graph, i), way, F8) for i, course in enumerate(courses)]
    for i, course in enumerate(courses):
        np.testing.assert_array_equal(course.here.z, following[i].w)
    return max(
        stopping.measure(problems[i], here, following[i], apart[i], len(problems)) for i, here in enumerate(states)
    )


def test_no_run_stops_before_the_end_of_its_second_window() -> None:
    history = flooded(Static(graphs.ring(6)), [[0.0] * 6] * 12)
    assert next(n for n, states in enumerate(history) if stopping.is_over(states[0], 1e-9)) == 6
