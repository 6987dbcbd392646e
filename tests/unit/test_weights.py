"""Metropolis weights and mixing rates whose values are known from elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.graphs import Graph, TopologyError
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static, connectivity_window
from topology.weights import metropolis, mixing_matrix, mixing_rate


def test_metropolis_of_a_path() -> None:
    path = Graph.of(3, [(0, 1), (1, 2)])
    third = 1.0 / 3.0
    assert metropolis(path, 0) == {0: 1.0 - third, 1: third}
    assert metropolis(path, 1) == {0: third, 1: 1.0 - math.fsum([third, third]), 2: third}


def test_an_agent_alone_keeps_everything() -> None:
    assert metropolis(Graph(3, frozenset()), 1) == {1: 1.0}


def test_own_weight_is_the_exact_remainder_rounded() -> None:
    """So that it does not depend on how a version of Python adds up: ten tenths added one by one are not 1."""
    star = graphs.star(10)
    total = sum(Fraction(weight) for j, weight in metropolis(star, 0).items() if j != 0)
    assert metropolis(star, 0)[0] == 1.0 - float(total)
    one_by_one = 0.0
    for _ in range(9):
        one_by_one += 0.1
    assert one_by_one != float(total)


@pytest.mark.parametrize("name", graphs.FAMILIES)
def test_every_family_gives_a_doubly_stochastic_matrix(name: str) -> None:
    graph = graphs.family(name, 50, probability=0.1, radius=0.3, seed=1)
    laws.doubly_stochastic(graph)
    laws.metropolis_is_as_written(graph)


@pytest.mark.parametrize("n_agents", [3, 4, 7, 20])
def test_mixing_rate_of_a_ring(n_agents: int) -> None:
    # a circulant matrix with three weights of 1/3
    eigenvalues = [(1 + 2 * math.cos(2 * math.pi * k / n_agents)) / 3 for k in range(1, n_agents)]
    assert mixing_rate(Static(graphs.ring(n_agents)), 1) == pytest.approx(max(map(abs, eigenvalues)), abs=1e-12)


def test_mixing_rate_of_a_static_graph_is_an_eigenvalue() -> None:
    graph = graphs.erdos_renyi(9, 0.4, 5)
    moduli = np.sort(np.abs(np.linalg.eigvalsh(mixing_matrix(graph))))
    assert mixing_rate(Static(graph), 10) == pytest.approx(moduli[-2], abs=1e-12)


@pytest.mark.parametrize("n_agents", [1, 2, 4, 16])
def test_agreement_at_once(n_agents: int) -> None:
    assert mixing_rate(Static(graphs.complete(n_agents)), 1) == pytest.approx(0.0, abs=1e-14)
    # the average is exact after a period, and a root of rounding errors is what remains
    assert mixing_rate(OnePeerExponential(n_agents), 100) == pytest.approx(0.0, abs=1e-3)


def test_mixing_rate_meets_the_windows_that_begin_inside_a_period() -> None:
    """Period 3, window 2: the run consists of the rounds 01 20 12, of which 12 is the worst."""
    schedule = Replay(3, (graphs.complete(3), Graph.of(3, [(0, 1)]), Graph.of(3, [(1, 2)])))
    assert connectivity_window(schedule, 3) == 2
    assert mixing_rate(schedule, 2) == pytest.approx(0.0, abs=1e-7)  # a run of rounds 0 and 1 only
    worst = mixing_matrix(schedule.graph(2)) @ mixing_matrix(schedule.graph(1)) - 1.0 / 3.0
    assert mixing_rate(schedule, 3) == pytest.approx(math.sqrt(np.linalg.norm(worst, 2)), abs=1e-12)


@pytest.mark.parametrize("n_rounds", [20, 45])
def test_mixing_rate_bounds_what_is_left_of_disagreement(n_rounds: int) -> None:
    base = graphs.ring(6)
    x = np.random.default_rng(4).normal(size=(6, 3))
    for schedule in (RandomLinks(base, 0.6, 1), Matchings(base, 1)):
        laws.rate_is_worst_window(schedule, n_rounds)
        window = connectivity_window(schedule, n_rounds)
        mixed = x
        for n in range(n_rounds // window * window):
            mixed = mixing_matrix(schedule.graph(n)) @ mixed
        left = np.linalg.norm(mixed - mixed.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0))
        assert left <= mixing_rate(schedule, n_rounds) ** (n_rounds // window * window)


def test_a_schedule_that_never_connects_has_no_rate() -> None:
    with pytest.raises(TopologyError, match="falls apart into 2 components"):
        mixing_rate(Static(Graph.of(3, [(0, 1)])), 5)
