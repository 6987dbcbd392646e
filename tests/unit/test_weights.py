"""Weights and mixing rates whose values are known from elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize

from tests import laws_topology as laws
from topology import fdla, graphs
from topology.graphs import Graph, TopologyError
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static
from topology.weights import RULES, WEIGHTS, Fastest, make, metropolis, mixing_matrix, mixing_rate
from topology.windows import connectivity_window


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
    for weights in RULES.values():
        laws.doubly_stochastic(graph, weights)
    laws.metropolis_is_as_written(graph)
    laws.weights_are_as_written(graph)


@pytest.mark.parametrize("n_agents", [2, 5, 12])
def test_fastest_weights_that_are_known(n_agents: int) -> None:
    """Links that are all alike have the best weight 2/(l_2 + l_I), by the Laplacian's eigenvalues; those of a path 1/2.

    Xiao & Boyd 2004, section 4.1; for the path S. Boyd, P. Diaconis, J. Sun, L. Xiao, "Fastest mixing Markov chain
    on a path", Amer. Math. Monthly 113 (2006).
    """
    path = Graph.of(n_agents, [(i, i + 1) for i in range(n_agents - 1)])
    assert laws.rate_of(mixing_matrix(path, Fastest.on(path))) == pytest.approx(math.cos(math.pi / n_agents), abs=1e-7)
    for graph in (graphs.ring(n_agents), graphs.star(n_agents), graphs.complete(n_agents)):
        laplacian = np.array([[graph.degree(i) if i == j else 0.0 for j in range(n_agents)] for i in range(n_agents)])
        for i, j in graph.edges:
            laplacian[[i, j], [j, i]] = -1.0
        least, largest = np.linalg.eigvalsh(laplacian)[[1, -1]]
        weights = Fastest.on(graph)
        assert set(weights.links) == graph.edges
        np.testing.assert_allclose(list(weights.links.values()), 2.0 / (least + largest), rtol=0.0, atol=1e-7)
        rate = laws.rate_of(mixing_matrix(graph, weights))
        assert rate == pytest.approx((largest - least) / (largest + least), abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_fastest_weights_that_a_search_finds(seed: int) -> None:
    """The search is started elsewhere, and comes no lower; nor does it stay far above."""
    graph = graphs.erdos_renyi(5, 0.5, seed)
    edges = sorted(graph.edges)

    def rate(c: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        C = np.eye(5)
        for (i, j), weight in zip(edges, c, strict=True):
            C[[i, j], [j, i]] += weight
            C[[i, j], [i, j]] -= weight
        return laws.rate_of(C)

    found = np.full(len(edges), 0.3)
    for _ in range(5):  # a simplex that collapsed is spread out again
        options = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 20_000, "maxfev": 20_000, "adaptive": True}
        found = minimize(rate, found, method="Nelder-Mead", options=options).x  # type: ignore[call-overload]
    assert laws.rate_of(mixing_matrix(graph, Fastest.on(graph))) == pytest.approx(rate(found), abs=1e-3)
    assert laws.rate_of(mixing_matrix(graph, Fastest.on(graph))) <= rate(found) + 1e-7


def test_fastest_weights_may_be_negative() -> None:
    graph = graphs.family("geometric", 16, probability=0.3, radius=0.5, seed=7)
    assert min(Fastest.on(graph).links.values()) < -0.1


def test_fastest_weights_have_no_library_in_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two peers compute them alone: nothing may be asked that rounds in one way here and in another one there."""
    graph = graphs.grid(9)
    before = fdla.fastest(graph)
    for name in ("dot", "matmul", "einsum", "sum", "exp", "log", "power"):
        monkeypatch.delattr(np, name)
    monkeypatch.delattr(np, "linalg")
    assert fdla.fastest(graph) == before


def test_fastest_weights_are_of_one_graph() -> None:
    weights = make("fdla", Static(graphs.ring(5)))
    assert weights(graphs.ring(5), 0) == weights(Graph.of(5, graphs.ring(5).edges), 0)
    with pytest.raises(ValueError, match="for which they were computed"):
        weights(graphs.star(5), 0)


def test_weights_that_there_are_not() -> None:
    with pytest.raises(TopologyError, match="expected one of metropolis, max-degree, lazy-metropolis, fdla"):
        make("best", Static(graphs.ring(5)))
    with pytest.raises(TopologyError, match="expected a static schedule"):
        make("fdla", Matchings(graphs.ring(5), 1))
    with pytest.raises(TopologyError, match="expected a connected graph"):
        make("fdla", Static(Graph.of(3, [(0, 1)])))
    with pytest.raises(TopologyError, match="at most 512 links, as the time grows with their cube; found 528"):
        make("fdla", Static(graphs.complete(33)))
    assert [make(name, Static(graphs.ring(5))) for name in RULES] == list(RULES.values())
    assert set(RULES) < set(WEIGHTS)


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
