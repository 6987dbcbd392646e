"""Graphs: their links, the families, and the hash that everything random comes from."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import networkx as nx
import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.graphs import FAMILIES, Graph, TopologyError, family


def degrees(graph: Graph) -> list[int]:
    return [graph.degree(i) for i in range(graph.n_agents)]


@pytest.mark.parametrize("edge", [(1, 1), (1, 0), (-1, 0), (0, 3)])
def test_edges_must_join_two_agents_in_order(edge: tuple[int, int]) -> None:
    with pytest.raises(TopologyError, match=r"expected 0 <= i < j < 3"):
        Graph(3, frozenset({edge}))


def test_a_graph_has_an_agent() -> None:
    with pytest.raises(TopologyError, match="0 agents: expected at least 1"):
        Graph(0, frozenset())


def test_pairs_come_in_any_order_and_number() -> None:
    assert Graph.of(3, [(2, 0), (0, 2), (1, 2)]).edges == {(0, 2), (1, 2)}


def test_neighbors_ascend_and_strangers_have_none() -> None:
    graph = Graph.of(5, [(2, 4), (2, 0), (3, 2)])
    assert graph.neighbors(2) == (0, 3, 4)
    assert graph.neighbors(1) == ()
    assert degrees(graph) == [1, 0, 3, 1, 1]


def test_components() -> None:
    graph = Graph.of(6, [(5, 1), (1, 3), (2, 4)])
    assert graph.components() == [[0], [1, 3, 5], [2, 4]]
    assert not graph.is_connected()
    assert Graph(1, frozenset()).is_connected()


def test_networkx_keeps_isolated_agents() -> None:
    assert sorted(Graph.of(4, [(0, 2)]).networkx().nodes) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "value"),
    [("7:0:0:1", 0x9CE31F9130D8F0F5), ("7:299:3:5", 0x9E0DC2CD7A93EB58), ("", 0xE4A6A0577479B2B4)],
)
def test_hash_never_changes(text: str, value: int) -> None:
    """Another machine or version has to arrive at the same graphs; the values are those of `b2sum -l 64`."""
    assert graphs.hash64(text) == value == laws.documented_hash(text)


def test_probability_one_always_happens_and_zero_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "hash64", lambda text: 2**64 - 1)  # as a float over 2^64 this is 1
    assert graphs.happens("", 1.0)
    assert not graphs.happens("", 1.0 - 2.0**-53)
    monkeypatch.setattr(graphs, "hash64", lambda text: 0)
    assert not graphs.happens("", 0.0)
    assert graphs.happens("", 5e-324)


def test_ring() -> None:
    assert graphs.ring(4).edges == {(0, 1), (1, 2), (2, 3), (0, 3)}


def test_grid_is_as_square_as_it_can_be() -> None:
    assert degrees(graphs.grid(12)) == [2, 3, 3, 2, 3, 4, 4, 3, 2, 3, 3, 2]  # 3 rows of 4
    assert degrees(graphs.grid(7)) == [1, 2, 2, 2, 2, 2, 1]


def test_complete_and_star() -> None:
    assert degrees(graphs.complete(5)) == [4] * 5
    assert graphs.star(5).edges == {(0, 1), (0, 2), (0, 3), (0, 4)}


@pytest.mark.parametrize("n_agents", range(1, 20))
def test_exponential(n_agents: int) -> None:
    hops = {2**k for k in range(10) if 2**k < n_agents}
    linked = {(i, j) for i, j in combinations(range(n_agents), 2) if {j - i, i - j + n_agents} & hops}
    assert graphs.exponential(n_agents).edges == linked


@pytest.mark.parametrize("n_agents", range(1, 66))
def test_families_and_components_are_those_of_networkx(n_agents: int) -> None:
    def same(graph: Graph, other: nx.Graph[int]) -> None:
        assert graph == Graph.of(n_agents, ((i, j) for i, j in other.edges if i != j))
        assert graph.components() == sorted(sorted(part) for part in nx.connected_components(other))

    rows = max(r for r in range(1, n_agents + 1) if n_agents % r == 0 and r * r <= n_agents)
    same(graphs.ring(n_agents), nx.cycle_graph(n_agents))
    same(graphs.grid(n_agents), nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, n_agents // rows)))
    same(graphs.complete(n_agents), nx.complete_graph(n_agents))
    same(graphs.star(n_agents), nx.star_graph(n_agents - 1))
    same(
        graphs.exponential(n_agents), nx.circulant_graph(n_agents, [1, *(2**k for k in range(1, 7) if 2**k < n_agents)])
    )
    sparse = graphs.erdos_renyi(n_agents, 1.0 / n_agents, 5)  # in parts, as a rule
    same(sparse, sparse.networkx())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n_agents", [1, 2, 3, 8, 13])
def test_every_family_is_connected_for_every_size(name: str, n_agents: int) -> None:
    graph = family(name, n_agents, probability=0.5, radius=0.6, seed=3)
    assert graph.n_agents == n_agents
    laws.components_are_right(graph)
    assert graph.is_connected()


def test_unknown_family_and_no_agents() -> None:
    with pytest.raises(TopologyError, match=r"graph 'torus': expected one of ring, grid, .*, geometric"):
        family("torus", 4, probability=0.3, radius=0.5, seed=0)
    for name in FAMILIES:
        with pytest.raises(TopologyError, match="0 agents: expected at least 1"):
            family(name, 0, probability=0.3, radius=0.5, seed=0)


def test_erdos_renyi_obeys_its_documented_rule() -> None:
    def draw(attempt: int) -> set[tuple[int, int]]:
        texts = {(i, j): f"11:erdos-renyi:{attempt}:{i}:{j}" for i, j in combinations(range(10), 2)}
        return {edge for edge, text in texts.items() if laws.documented_hash(text) / 2**64 < 0.2}

    connected = (edges for edges in map(draw, range(100)) if len(laws.reachable(10, edges)) == 1)
    assert graphs.erdos_renyi(10, 0.2, 11).edges == next(connected)
    assert len(laws.reachable(10, draw(0))) > 1, "a seed whose first draw is refused, or the test shows less"


def test_geometric_obeys_its_documented_rule() -> None:
    def draw(attempt: int) -> set[tuple[int, int]]:
        points = [
            complex(*(laws.documented_hash(f"2:geometric:{attempt}:{axis}:{i}") / 2**64 for axis in "xy"))
            for i in range(12)
        ]
        return {(i, j) for i, j in combinations(range(12), 2) if abs(points[i] - points[j]) < 0.3}

    connected = (edges for edges in map(draw, range(100)) if len(laws.reachable(12, edges)) == 1)
    assert graphs.geometric(12, 0.3, 2).edges == next(connected)
    assert len(laws.reachable(12, draw(0))) > 1


@pytest.mark.parametrize("connected", [0, 1, 57, graphs.ATTEMPTS - 1])
def test_first_connected_draw_is_taken_the_last_one_included(connected: int) -> None:
    found = graphs._first_connected(lambda k: Graph.of(3, [(0, 1), (1, 2)] if k >= connected else []))
    assert found.is_connected()


def test_without_a_connected_draw_the_first_is_returned() -> None:
    asked: list[int] = []

    def draw(attempt: int) -> Graph:
        asked.append(attempt)
        return Graph.of(30, [(attempt % 29, 29)])

    assert graphs._first_connected(draw) == Graph.of(30, [(0, 29)])
    assert asked == list(range(graphs.ATTEMPTS))


def test_seeds_give_different_graphs() -> None:
    assert len({graphs.erdos_renyi(12, 0.3, seed) for seed in range(20)}) == 20


def test_rounds_of_a_running_peer_need_no_networkx() -> None:
    """In a fresh interpreter, as this one has long imported it."""
    program = """
import sys
import topology, topology.weights
from topology.graphs import Graph
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static
base = Graph.of(4, [(0, 1), (1, 2), (2, 3)])
for schedule in Static(base), RandomLinks(base, 0.5, 7), Matchings(base, 7), OnePeerExponential(4), Replay(4, (base,)):
    graph = schedule.graph(3)
    assert [topology.weights.metropolis(graph, i) for i in range(4)]
loaded = {"networkx", "matplotlib", "scipy", "click"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
