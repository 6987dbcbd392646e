"""What holds for every graph, schedule and weight: one function a law, AssertionError where it is broken.

The right-hand sides are written from the documentation and share no code with the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import final

import numpy as np
import pytest
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from scipy.optimize import linprog

from topology.gossip import chebyshev, plain, round_rate
from topology.graphs import Edge, Graph, TopologyError
from topology.outlets import Digraph, Outlets, strong_components
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Schedule, Static, load, save
from topology.weights import Fastest, Weights, lazy_metropolis, max_degree, mixing_matrix, mixing_rate
from topology.windows import connectivity_window, window_end, window_lengths

ROUNDING = 1e-14
"""Of sums of a few dozen numbers below 1."""


@final
@dataclass(frozen=True)
class Finite:
    """A schedule without period that knows no round beyond its end: who looks farther, fails."""

    n_agents: int
    graphs: tuple[Graph, ...]

    @property
    def period(self) -> None:
        return

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return Graph(self.n_agents, self.graphs[0].edges.union(*(graph.edges for graph in self.graphs)))

    def graph(self, n: int) -> Graph:
        assert 0 <= n < len(self.graphs), f"round {n} is not in the run"
        return self.graphs[n]


def replay(n_agents: int, *rounds: list[tuple[int, int]]) -> Replay:
    """A schedule that goes through these rounds, again and again."""
    return Replay(n_agents, tuple(Graph.of(n_agents, pairs) for pairs in rounds))


def documented_hash(text: str) -> int:
    """blake2b(text) of the documentation: 8 bytes, most significant first."""
    number = 0
    for byte in hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest():
        number = 256 * number + byte
    return number


def reachable(n_agents: int, edges: Iterable[Edge]) -> list[set[int]]:
    """Components by merging sets, ordered by their smallest agent."""
    groups = [{i} for i in range(n_agents)]
    for edge in edges:
        met = [group for group in groups if not group.isdisjoint(edge)]
        groups = [group for group in groups if group.isdisjoint(edge)] + [set().union(*met)]
    return sorted(groups, key=min)


def neighborhood_is_symmetric(graph: Graph) -> None:
    """Neighbors are ascending, never oneself, mutual, and exactly the links of the graph."""
    for i in range(graph.n_agents):
        neighbors = graph.neighbors(i)
        assert list(neighbors) == sorted(set(neighbors) - {i})
        assert graph.degree(i) == len(neighbors)
        assert all(i in graph.neighbors(j) for j in neighbors)
    assert {(i, j) for i in range(graph.n_agents) for j in graph.neighbors(i) if i < j} == graph.edges


def flooding_is_right(schedule: Schedule, n_rounds: int, n_steps: int = 1) -> None:
    """Windows end at the first round at which word of every agent, each followed alone, has come to all."""
    start, ends = 0, list[int]()

    def reached(end: int) -> bool:
        heard = (_have_heard(schedule, i, start * n_steps, end * n_steps) for i in range(schedule.n_agents))
        return all(len(one) == schedule.n_agents for one in heard)

    while (end := window_end(schedule, start, n_rounds, n_steps)) is not None:
        assert start < end <= n_rounds
        assert reached(end)
        assert end == start + 1 or not reached(end - 1)
        start = end
        ends.append(end)
    assert start == n_rounds or not reached(n_rounds)
    lengths = window_lengths(schedule, n_rounds, n_steps)
    assert list(lengths) == [end - begin for begin, end in pairwise([0, *ends])][: len(lengths)]
    if schedule.period is None:
        assert sum(lengths) == start
    else:
        assert set(lengths) == {end - begin for begin, end in pairwise([0, *ends])}


def _have_heard(schedule: Schedule, i: int, start: int, end: int) -> set[int]:
    """Who has heard by round `end` what agent i knew at the beginning of round `start`."""
    heard = {i}
    for n in range(start, end):
        heard = heard | {b for edge in schedule.graph(n).edges for a, b in (edge, edge[::-1]) if a in heard}
    return heard


def polynomial_is_chebyshevs(graph: Graph, weights: Weights, n_steps: int) -> None:
    """The recurrence is T_K over its value at 1: of all polynomials, C^K among them, it leaves least on an interval."""
    gossip, C = chebyshev(graph, weights, n_steps), mixing_matrix(graph, weights)
    others = np.linalg.eigvalsh(C)[:-1]
    low, high = (others[0], others[-1]) if others.size else (0.0, 0.0)
    center, half = 0.5 * (low + high), 0.5 * (high - low) + 1e-9
    T, scale = Chebyshev.basis(n_steps), (1.0 - center) / half
    points = np.cos(np.linspace(0.0, np.pi, 30)) * half + center
    if scale < 1e5:  # else T(scale) is the power of a rounding error
        expected = T((points - center) / half) / T(scale)
        assert [gossip.at(float(point)) for point in points] == pytest.approx(list(expected), abs=1e-6)
        assert 1.0 / T(scale) <= 1.05 * least_left(points, n_steps) + 1e-7  # it has to be small at few points only
    assert gossip.at(1.0) == 1.0
    assert gossip.omegas[0] == 1.0
    assert all(1.0 <= omega < 2.0 for omega in gossip.omegas)
    rate = round_rate(Static(graph), 1, weights, gossip)
    assert rate <= 1.0 / T(scale) + 1e-7
    assert rate <= round_rate(Static(graph), 1, weights, plain(n_steps)) + 1e-7


def least_left(eigenvalues: NDArray[np.float64], n_steps: int) -> float:
    """Least largest modulus at these of a polynomial of this degree that is 1 at 1, by a linear program."""
    powers = (eigenvalues[:, None] - 1.0) ** np.arange(1, n_steps + 1)  # 1 + sum of a_k (l - 1)^k
    bound = -np.ones((eigenvalues.size, 1))
    A, b = np.block([[powers, bound], [-powers, bound]]), np.repeat([-1.0, 1.0], eigenvalues.size)
    cost = np.append(np.zeros(n_steps), 1.0)
    return float(linprog(cost, A, b, bounds=[(None, None)] * n_steps + [(0.0, None)]).fun or 0.0)


def components_are_right(graph: Graph) -> None:
    """Components are those found by merging sets."""
    expected = reachable(graph.n_agents, graph.edges)
    assert graph.components() == [sorted(group) for group in expected]
    assert graph.is_connected() == (len(expected) == 1)


def fits_the_graph(graph: Graph, weights: Weights) -> None:
    """C is symmetric bit for bit, supported by the graph, with rows and columns of sum 1."""
    C = mixing_matrix(graph, weights)
    assert np.array_equal(C, C.T)
    np.testing.assert_allclose(C.sum(axis=0), 1.0, rtol=0.0, atol=ROUNDING)
    np.testing.assert_allclose(C.sum(axis=1), 1.0, rtol=0.0, atol=ROUNDING)
    for i, j in combinations(range(graph.n_agents), 2):
        assert C[i, j] == 0.0 or (i, j) in graph.edges
    for i in range(graph.n_agents):
        row = weights(graph, i)
        assert list(row) == sorted({i, *graph.neighbors(i)})
        assert all(C[i, j] == weight for j, weight in row.items())


def doubly_stochastic(graph: Graph, weights: Weights) -> None:
    """Moreover no entry is negative, and those of agents, and of their links, are positive."""
    fits_the_graph(graph, weights)
    C = mixing_matrix(graph, weights)
    assert np.all(C >= 0.0)
    assert np.all(np.diag(C) > 0.0)
    assert all(C[i, j] > 0.0 for i, j in graph.edges)


def weights_are_as_written(graph: Graph) -> None:
    """1/(1 + d_max) on all links; and half of what Metropolis weights move, but for the last bit of what stays."""
    degrees = [sum(i in edge for edge in graph.edges) for i in range(graph.n_agents)]
    C, lazy = mixing_matrix(graph, max_degree), mixing_matrix(graph, lazy_metropolis)
    for i, j in graph.edges:
        assert C[i, j] == 1.0 / (1.0 + max(degrees))
    np.testing.assert_allclose(lazy, (np.eye(graph.n_agents) + mixing_matrix(graph)) / 2.0, rtol=0.0, atol=ROUNDING)
    assert np.linalg.eigvalsh(lazy)[0] > -ROUNDING


def rate_of(C: NDArray[np.float64]) -> float:
    """What is left of disagreement after averaging once, ||C - 11'/I||_2."""
    return float(np.linalg.norm(C - 1.0 / len(C), 2))


def fastest_is_fastest(graph: Graph, others: Iterable[Weights], rng: np.random.Generator) -> None:
    """No other symmetric C on the graph has a smaller rate: neither known weights, nor ones near or far."""
    fits_the_graph(graph, weights := Fastest.on(graph))
    C = mixing_matrix(graph, weights)
    best = rate_of(C) - 1e-7
    assert best < 1.0 - 1e-6 or graph.n_agents == 1
    assert all(rate_of(mixing_matrix(graph, other)) >= best for other in others)
    for size in np.geomspace(1e-4, 1.0, 20):
        there = C.copy()
        for i, j in sorted(graph.edges):
            change = size * rng.standard_normal()
            there[[i, j], [j, i]] += change
            there[[i, j], [i, j]] -= change
        assert rate_of(there) >= best


def metropolis_is_as_written(graph: Graph) -> None:
    """Equation (3): c_ij = 1 / (1 + max(d_i, d_j)) on links."""
    degrees = [sum(i in edge for edge in graph.edges) for i in range(graph.n_agents)]
    C = mixing_matrix(graph)
    for i, j in graph.edges:
        assert C[i, j] == 1.0 / (1.0 + max(degrees[i], degrees[j]))


def mean_is_preserved(graph: Graph, weights: Weights, x: NDArray[np.float64]) -> None:
    """Averaging with C changes no mean and enlarges no disagreement."""
    mixed = mixing_matrix(graph, weights) @ x
    scale = max(1.0, float(np.abs(x).max()))
    np.testing.assert_allclose(mixed.mean(axis=0), x.mean(axis=0), rtol=0.0, atol=ROUNDING * scale)
    before, after = (float(np.linalg.norm(v - v.mean(axis=0))) for v in (x, mixed))
    assert after <= before * (1.0 + ROUNDING) + ROUNDING * scale


def links_obey_the_rule(schedule: RandomLinks, n: int) -> None:
    """Link {i, j}, i < j, is up in round n iff blake2b(f"{seed}:{n}:{i}:{j}") / 2^64 < probability."""
    up = schedule.graph(n)
    for i, j in combinations(range(schedule.n_agents), 2):
        # multiplied out: whole numbers on both sides, so nothing rounds
        numerator, denominator = schedule.probability.as_integer_ratio()
        below = documented_hash(f"{schedule.seed}:{n}:{i}:{j}") * denominator < numerator * 2**64
        assert ((i, j) in up.edges) == ((i, j) in schedule.base.edges and below)


def matching_is_maximal(schedule: Matchings, n: int) -> None:
    """Nobody has two neighbors, and no link of the base could be added."""
    up = schedule.graph(n).edges
    busy = [i for edge in up for i in edge]
    assert up <= schedule.base.edges
    assert len(busy) == len(set(busy))
    assert all(i in busy or j in busy for i, j in schedule.base.edges)


def matching_is_greedy(schedule: Matchings, n: int) -> None:
    """A link is missing exactly if one that was taken before it shares an end with it."""
    up = schedule.graph(n).edges

    def order(edge: Edge) -> tuple[int, Edge]:
        return documented_hash(f"{schedule.seed}:{n}:{edge[0]}:{edge[1]}"), edge

    for edge in schedule.base.edges:
        blocked = any(order(other) < order(edge) and set(other) & set(edge) for other in up)
        assert (edge in up) != blocked


def one_peer_averages_exactly(bits: int, x: NDArray[np.float64]) -> None:
    """After log2 I rounds, started anywhere, everybody has the mean; integers show it without rounding."""
    n_agents = 2**bits
    schedule = OnePeerExponential(n_agents)
    for start in range(bits + 1):
        mixed = x
        for n in range(start, start + bits):
            mixed = mixing_matrix(schedule.graph(n)) @ mixed
        assert np.array_equal(mixed, np.full_like(x, x.sum() / n_agents))


def window_is_smallest(schedule: Schedule, n_rounds: int) -> None:
    """The window is the smallest B that brute force over all windows finds, and none exists if it raises."""
    forever = schedule.period is not None and schedule.period <= n_rounds
    n_distinct = schedule.period if forever and schedule.period else n_rounds

    def connects(start: int, length: int) -> bool:
        edges = {edge for n in range(start, start + length) for edge in schedule.graph(n).edges}
        return len(reachable(schedule.n_agents, edges)) == 1

    def all_connect(length: int) -> bool:
        starts = range(n_distinct) if forever else range(n_distinct - length + 1)
        return all(connects(start, length) for start in starts)

    expected = next((length for length in range(1, n_distinct + 1) if all_connect(length)), None)
    if expected is None:
        with pytest.raises(TopologyError, match="falls apart"):
            connectivity_window(schedule, n_rounds)
    else:
        assert connectivity_window(schedule, n_rounds) == expected


def components_are_named(schedule: Schedule, n_rounds: int) -> None:
    """The refusal of a schedule that never connects says which agents are cut off from which."""
    edges = {edge for n in range(n_rounds) for edge in schedule.graph(n).edges}
    groups = reachable(schedule.n_agents, edges)
    assert len(groups) > 1, "this law is about schedules that never connect"
    with pytest.raises(TopologyError) as refusal:
        connectivity_window(schedule, n_rounds)
    named = ", ".join("{" + ", ".join(map(str, sorted(group))) + "}" for group in groups)
    assert str(refusal.value) == f"the union of all rounds falls apart into {len(groups)} components: {named}"


def rate_is_worst_window(schedule: Schedule, n_rounds: int) -> None:
    """The mixing rate is the worst of the windows that the run consists of, and below 1."""
    window = connectivity_window(schedule, n_rounds)
    forever = schedule.period is not None and schedule.period <= n_rounds
    n_windows = schedule.period if forever and schedule.period else n_rounds // window
    norms = []
    for start in range(0, n_windows * window, window):
        product = np.eye(schedule.n_agents)
        for n in range(start, start + window):
            product = mixing_matrix(schedule.graph(n)) @ product
        norms.append(np.linalg.norm(product - 1.0 / schedule.n_agents, 2))
    rate = mixing_rate(schedule, n_rounds)
    assert rate**window == pytest.approx(max(norms), rel=1e-9, abs=1e-9)
    assert rate < 1.0


def reach(rows: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
    """Who can be reached from whom along the arrows, by adding what neighbors reach until nothing is new."""
    found = {i: {i, *row} for i, row in rows.items()}
    while True:
        more = {i: set().union(*(found[j] for j in row)) for i, row in found.items()}
        if more == found:
            return found
        found = more


def members_reach_each_other(outlets: Outlets, members: tuple[int, ...]) -> None:
    """Out-neighbors are ascending members, never oneself; in-neighbors are the other way round; all reach all."""
    links = outlets.links(members)
    assert list(links) == list(members)
    for i, row in links.items():
        assert list(row) == sorted(set(row) & (set(members) - {i}))
        assert outlets.out_neighbors(members, i) == row
        assert outlets.in_neighbors(members, i) == tuple(j for j in members if i in links[j])
    assert all(reached == set(members) for reached in reach(links).values())


def links_follow_the_places(outlets: Outlets, members: tuple[int, ...]) -> None:
    """Links are those of 0..I-1, with the sorted ids in the place of the numbers."""
    places = tuple(range(len(members)))
    renamed = {members[i]: tuple(members[j] for j in row) for i, row in outlets.links(places).items()}
    assert outlets.links(members) == renamed


def receivers_are_some_of_the_links(outlets: Outlets, members: tuple[int, ...], n: int) -> None:
    """At every waking an agent pushes to some of its out-neighbors, ascending, and a period repeats them."""
    period = outlets.period(len(members))
    for i in members:
        found, links = outlets.receivers(members, i, n), outlets.out_neighbors(members, i)
        assert list(found) == sorted(set(found) & set(links))
        if outlets.schedule == "static":
            assert found == links
        if outlets.schedule in ("matchings", "one-peer-exponential"):
            assert len(found) == min(1, len(links))
        if period is not None:
            assert outlets.receivers(members, i, n + period) == found
            together = {j for k in range(period) for j in outlets.receivers(members, i, n + k)}
            assert together == set(links)


def pushes_are_symmetric(outlets: Outlets, members: tuple[int, ...], n: int) -> None:
    """Whom an agent pushes to at waking n pushes to it at waking n."""
    for i in members:
        for j in outlets.receivers(members, i, n):
            assert i in outlets.receivers(members, j, n)


def components(graph: Digraph) -> list[list[int]]:
    """Strongly connected components, each ascending, ordered by their smallest agent."""
    return strong_components({i: graph.out_neighbors(i) for i in range(graph.n_agents)})


def strong_components_are_right(graph: Digraph) -> None:
    """Agents are in one component iff each reaches the other."""
    reached = reach({i: graph.out_neighbors(i) for i in range(graph.n_agents)})
    expected = {frozenset(j for j in reached[i] if i in reached[j]) for i in reached}
    assert components(graph) == sorted(map(sorted, expected))


def survives_a_file(schedule: Schedule, n_rounds: int, path: Path) -> None:
    """Saved and loaded, a schedule has the same links in every round of the run."""
    save(schedule, n_rounds, path)
    again = load(path, schedule.n_agents)
    for n in range(n_rounds):
        assert again.graph(n) == schedule.graph(n), f"round {n}"


def refused_in_line(path: Path, n_agents: int, number: int) -> str:
    """Loading fails with one line of text that names the file and the line; returns the rest of it."""
    with pytest.raises(TopologyError) as refusal:
        load(path, n_agents)
    text = str(refusal.value)
    where = f"{path}, line {number}: "
    assert text.startswith(where)
    assert "\n" not in text
    return text.removeprefix(where)
