"""Links and matrices for many agents are those of the graphs and rules that they stand for, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from topology import TopologyError, graphs, schedules, sparse, weights, windows
from topology.graphs import FAMILIES, Graph


def graph_of(links: sparse.Links) -> Graph:
    """The same as an object."""
    return Graph(links.n_agents, frozenset(zip(links.i.tolist(), links.j.tolist(), strict=True)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n_agents", [1, 2, 3, 4, 12, 17])
def test_families_have_the_same_links(name: str, n_agents: int) -> None:
    expected = graphs.family(name, n_agents, probability=0.4, radius=0.6, seed=5)
    links = sparse.family(name, n_agents, probability=0.4, radius=0.6, seed=5)
    assert graph_of(links) == expected
    assert links.n_components() == len(expected.components())
    assert links.degrees.tolist() == [expected.degree(i) for i in range(n_agents)]


def test_schedules_have_the_same_links_in_every_round() -> None:
    base = graphs.family("grid", 12, probability=0.4, radius=0.6, seed=5)
    links = sparse.Links.from_graph(base)
    replay = schedules.Replay(12, (base, graphs.ring(12)))
    pairs: list[tuple[schedules.Schedule, sparse.SparseSchedule]] = [
        (schedules.Static(base), sparse.Static(links)),
        (schedules.RandomLinks(base, 0.5, 3), sparse.RandomLinks(links, 0.5, 3)),
        (schedules.Matchings(base, 3), sparse.Matchings(links, 3)),
        (schedules.OnePeerExponential(12), sparse.OnePeerExponential(12)),
        (replay, sparse.Replayed(replay)),
    ]
    for objects, arrays in pairs:
        assert (arrays.n_agents, arrays.period) == (objects.n_agents, objects.period)
        for n in range(9):
            assert graph_of(arrays.links(n)) == objects.graph(n)
        for n_rounds in (1, 2, 9):
            assert sparse.n_components(arrays, n_rounds) == len(windows.union(objects, n_rounds).components())


@pytest.mark.parametrize("rule", sparse.RULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_those_of_the_rules_to_the_last_bit(rule: str, name: str) -> None:
    graph = graphs.family(name, 13, probability=0.4, radius=0.6, seed=5)
    C = sparse.mixing_matrix(sparse.Links.from_graph(graph), rule)
    assert C.has_sorted_indices
    np.testing.assert_array_equal(C.toarray(), weights.mixing_matrix(graph, weights.RULES[rule]))


def test_agents_without_links_keep_what_they_have() -> None:
    C = sparse.mixing_matrix(sparse.Links.from_graph(Graph(3, frozenset({(0, 1)}))))
    assert C.toarray().tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("rule", sparse.RULES)
def test_a_torus_is_regular_and_connected(rule: str) -> None:
    links = sparse.torus(20)
    assert links.n_components() == 1
    assert set(links.degrees.tolist()) == {4}
    C = sparse.mixing_matrix(links, rule).toarray()
    np.testing.assert_allclose(C.sum(axis=0), 1.0, rtol=1e-15)


def test_random_cycles_connect_and_expand() -> None:
    links = sparse.random_cycles(400, 6, seed=1)
    assert links.n_components() == 1
    assert links.degrees.max() == 6
    assert links.degrees.mean() > 5.9
    second = np.linalg.eigvalsh(sparse.mixing_matrix(links).toarray())[-2]
    assert second < 1.1 * (1.0 + 2.0 * np.sqrt(5.0)) / 7.0  # of almost all regular graphs, with the loops of C
    assert graph_of(sparse.random_cycles(400, 6, seed=1)) == graph_of(links)
    assert graph_of(sparse.random_cycles(400, 6, seed=2)) != graph_of(links)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_random_cycles_have_an_even_degree(degree: int) -> None:
    with pytest.raises(TopologyError, match="even number"):
        sparse.random_cycles(10, degree, seed=0)


@pytest.mark.parametrize("name", ["complete", "erdos-renyi"])
def test_families_of_all_pairs_are_refused_where_these_are_too_many(name: str) -> None:
    with pytest.raises(TopologyError, match="each pair is looked at; found 100000"):
        sparse.family(name, 100_000, probability=0.4, radius=0.6, seed=5)


def test_a_geometric_graph_of_too_many_links_is_refused() -> None:
    with pytest.raises(TopologyError, match=r"at most 10,000,000 links of 20,000 agents, found 0\.6 with "):
        sparse.family("geometric", 20_000, probability=0.4, radius=0.6, seed=5)


@pytest.mark.parametrize(
    ("schedule", "arrays"),
    [
        (schedules.Static(graphs.ring(80)), sparse.Static(sparse.circulant(80, [1]))),
        (schedules.OnePeerExponential(80), sparse.OnePeerExponential(80)),
    ],
)
def test_averaging_contracts_as_the_matrices_of_objects_do(
    schedule: schedules.Schedule, arrays: sparse.SparseSchedule
) -> None:
    def average(n: int, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(sparse.mixing_matrix(arrays.links(n)) @ X)

    assert weights.contraction_by(average, 80, arrays.period) == weights.contraction(schedule)
