"""The same graphs and weights for very many agents at once: links as arrays, and C[n] as a sparse matrix.

`topology.graphs` and `topology.weights` say what the links and weights are; here they are made without a Python object
for each, and are the same ones, weights to the last bit. A schedule makes the matrix of one round at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from topology import graphs
from topology.graphs import Graph, TopologyError, happens, hash64
from topology.schedules import Schedule

Numbers: TypeAlias = NDArray[np.int64]
"""Of agents, (n,)."""

MOST_DENSE: Final = 2_000
"""Agents of a family of which every pair is looked at, at most: 2 million hashes, a second or two a draw."""

MOST_LINKS: Final = 10_000_000
"""Of a geometric graph, of which the number of links grows with the square of that of agents: 2 GB while it is made."""

FARTHER: Final = 1.0 + 1e-9
"""Of a radius, within which a tree looks for neighbors of which the distance is then computed as the families do."""


@final
@dataclass(frozen=True, eq=False)
class Links:
    """Undirected links {i, j} of the agents 0..n_agents-1, each once.

    Parameters
    ----------
    n_agents : int
        Number of agents I.
    i, j : array of int
        Their ends, i < j, (E,), ascending.
    """

    n_agents: int
    i: Numbers
    j: Numbers

    @classmethod
    def of(cls, n_agents: int, i: Numbers, j: Numbers) -> Links:
        """Links given in any order and direction, repetitions merged, and what leads back to its agent left out."""
        low, high = np.minimum(i, j)[i != j], np.maximum(i, j)[i != j]
        key = np.unique(low * n_agents + high)
        return cls(n_agents, key // n_agents, key % n_agents)

    @classmethod
    def from_graph(cls, graph: Graph) -> Links:
        """Those of a graph."""
        pairs = np.array(sorted(graph.edges), dtype=np.int64).reshape(-1, 2)
        return cls(graph.n_agents, pairs[:, 0].copy(), pairs[:, 1].copy())

    @property
    def size(self) -> int:
        """Number of links E."""
        return len(self.i)

    @cached_property
    def degrees(self) -> Numbers:
        """Number of neighbors of each agent, (I,)."""
        n = self.n_agents
        return np.bincount(self.i, minlength=n) + np.bincount(self.j, minlength=n)

    def n_components(self) -> int:
        """Connected components."""
        adjacency = sparse.csr_array((np.ones(self.size), (self.i, self.j)), shape=(self.n_agents, self.n_agents))
        n_parts, _ = sparse.csgraph.connected_components(adjacency, directed=False)
        return int(n_parts)

    def taken(self, kept: NDArray[np.bool_]) -> Links:
        """Some of the links."""
        return Links(self.n_agents, self.i[kept], self.j[kept])


# ---- families ------------------------------------------------------------------------------


def circulant(n_agents: int, hops: Iterable[int]) -> Links:
    """Agent i is joined to i +- h (mod I) for each of the hops h."""
    i = np.arange(n_agents)
    steps = list(hops)
    return Links.of(n_agents, np.tile(i, len(steps)), np.concatenate([(i + hop) % n_agents for hop in steps]))


def grid(n_agents: int) -> Links:
    """The links of `graphs.grid`."""
    n_columns, i = graphs.grid_columns(n_agents), np.arange(n_agents)
    across, down = i[(i + 1) % n_columns != 0], i[: n_agents - n_columns]
    across = across[across + 1 < n_agents]
    return Links.of(n_agents, np.concatenate([across, down]), np.concatenate([across + 1, down + n_columns]))


def torus(n_agents: int) -> Links:
    """The grid with its ends joined: a cycle in each row and column."""
    n_columns, i = graphs.grid_columns(n_agents), np.arange(n_agents)
    right = i - i % n_columns + (i + 1) % n_columns
    return Links.of(n_agents, np.tile(i, 2), np.concatenate([right, (i + n_columns) % n_agents]))


def star(n_agents: int) -> Links:
    """Agent 0 is the only neighbor of all the others."""
    return Links(n_agents, np.zeros(n_agents - 1, dtype=np.int64), np.arange(1, n_agents))


def random_cycles(n_agents: int, degree: int, seed: int) -> Links:
    """A random graph of an even degree: cycles through all agents, degree/2 of them, each in an order of its own.

    The order of cycle k is that of blake2b(f"{seed}:cycle:{k}:{i}"). Connected, as each cycle is; where two cycles have
    a link in common, its ends have a neighbor less. A union of random cycles expands as a random regular graph does, of
    which the second eigenvalue of the adjacency matrix is near 2 sqrt(degree - 1): C. Law, K.-Y. Siu, "Distributed
    construction of random expander networks" (2003); J. Friedman, "A proof of Alon's second eigenvalue conjecture and
    related problems" (2008).

    Raises
    ------
    TopologyError
        The degree is odd, or less than 2.
    """
    if degree < 2 or degree % 2:
        raise TopologyError(f"degree {degree}: expected an even number >= 2, as each cycle gives two neighbors")
    ends = []
    for k in range(degree // 2):
        keys = np.array([hash64(f"{seed}:cycle:{k}:{i}") for i in range(n_agents)], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ends.append((order, np.roll(order, -1)))
    return Links.of(n_agents, *(np.concatenate(side) for side in zip(*ends, strict=True)))


def geometric(n_agents: int, radius: float, seed: int) -> Links:
    """The links of `graphs.geometric`.

    Raises
    ------
    TopologyError
        They are too many.
    """

    def draw(attempt: int) -> Links:
        at = graphs.points(n_agents, seed, attempt)
        places = np.array(at)
        tree = cKDTree(places)
        if (n_links := (int(tree.count_neighbors(tree, radius)) - n_agents) // 2) > MOST_LINKS:
            most = f"expected a radius with at most {MOST_LINKS:,} links of {n_agents:,} agents"
            raise TopologyError(f"graph 'geometric': {most}, found {radius:g} with {n_links:,}")
        near = tree.query_pairs(radius * FARTHER, output_type="ndarray").astype(np.int64)
        away = np.hypot(*(places[near[:, 0]] - places[near[:, 1]]).T)
        kept = away < radius
        for k in np.flatnonzero(np.abs(away - radius) < (FARTHER - 1.0) * radius):  # as `graphs.geometric` rounds
            kept[k] = math.dist(at[near[k, 0]], at[near[k, 1]]) < radius
        return Links.of(n_agents, near[kept, 0], near[kept, 1])

    first = links = draw(0)
    for attempt in range(1, graphs.ATTEMPTS):
        if links.n_components() == 1:
            return links
        links = draw(attempt)
    return links if links.n_components() == 1 else first


def family(name: str, n_agents: int, *, probability: float, radius: float, seed: int) -> Links:
    """Links of `graphs.family`.

    Raises
    ------
    TopologyError
        No such family; or one of which each pair of agents is looked at, with too many agents.
    """
    families: dict[str, Callable[[], Links]] = {
        "ring": lambda: circulant(n_agents, [1]),
        "grid": lambda: grid(n_agents),
        "star": lambda: star(n_agents),
        "exponential": lambda: circulant(n_agents, graphs.exponential_hops(n_agents)),
        "geometric": lambda: geometric(n_agents, radius, seed),
    }
    if name in families:
        return families[name]()
    if n_agents > MOST_DENSE:
        known = f"expected one of {', '.join(families)} with more than {MOST_DENSE:,} agents"
        raise TopologyError(f"graph {name!r}: {known}, for in this one each pair is looked at; found {n_agents}")
    return Links.from_graph(graphs.family(name, n_agents, probability=probability, radius=radius, seed=seed))


# ---- schedules -----------------------------------------------------------------------------


class SparseSchedule(Protocol):
    """Links for every round n = 0, 1, 2, ..., one round at a time."""

    @property
    def n_agents(self) -> int:
        """Number of agents I."""

    @property
    def period(self) -> int | None:
        """Rounds after which the schedule repeats itself; None if it never does."""

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""


@final
@dataclass(frozen=True, eq=False)
class Static:
    """`schedules.Static`."""

    base: Links

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> int:
        """1."""
        return 1

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""
        return self.base


@final
@dataclass(frozen=True, eq=False)
class RandomLinks:
    """`schedules.RandomLinks`: a hash a link and round."""

    base: Links
    probability: float
    seed: int

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """It never repeats itself."""
        return

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""
        pairs, text = zip(self.base.i.tolist(), self.base.j.tolist(), strict=True), f"{self.seed}:{n}"
        up = [happens(f"{text}:{i}:{j}", self.probability) for i, j in pairs]
        return self.base.taken(np.array(up, dtype=np.bool_))


@final
@dataclass(frozen=True, eq=False)
class Matchings:
    """`schedules.Matchings`: a hash a link and round, and their order."""

    base: Links
    seed: int

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """It never repeats itself."""
        return

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""
        ends_i, ends_j = self.base.i.tolist(), self.base.j.tolist()
        keys = [hash64(f"{self.seed}:{n}:{i}:{j}") for i, j in zip(ends_i, ends_j, strict=True)]
        free, kept = np.ones(self.n_agents, dtype=np.bool_), np.zeros(self.base.size, dtype=np.bool_)
        for link in np.argsort(np.array(keys, dtype=np.uint64), kind="stable").tolist():  # links ascend: as (i, j) do
            i, j = ends_i[link], ends_j[link]
            if free[i] and free[j]:
                free[i] = free[j] = False
                kept[link] = True
        return self.base.taken(kept)


@final
@dataclass(frozen=True, eq=False)
class OnePeerExponential:
    """`schedules.OnePeerExponential`."""

    n_agents: int

    @property
    def period(self) -> int:
        """Rounds after which the schedule repeats itself, ceil(log2 I)."""
        return max(1, (self.n_agents - 1).bit_length())

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""
        i = np.arange(self.n_agents)
        partner = i ^ (1 << (n % self.period))
        meet = (i < partner) & (partner < self.n_agents)
        return Links(self.n_agents, i[meet], partner[meet])


@final
@dataclass(frozen=True, eq=False)
class Replayed:
    """Graphs that a schedule has as objects, such as `schedules.Replay` of a file."""

    replay: Schedule

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.replay.n_agents

    @property
    def period(self) -> int | None:
        """That of the schedule."""
        return self.replay.period

    def links(self, n: int) -> Links:
        """Links E[n] of round n."""
        return Links.from_graph(self.replay.graph(n))


def n_components(schedule: SparseSchedule, n_rounds: int) -> int:
    """Connected components of the union of the first rounds, looked at one after the other until it is connected."""
    n = schedule.n_agents
    label = np.arange(n)
    n_parts = n
    for k in range(min(schedule.period or n_rounds, n_rounds)):
        links = schedule.links(k)
        joined = sparse.csr_array((np.ones(links.size), (label[links.i], label[links.j])), shape=(n_parts, n_parts))
        n_parts, of_part = sparse.csgraph.connected_components(joined, directed=False)
        label = of_part[label].astype(np.int64)
        if n_parts == 1:
            break
    return int(n_parts)


# ---- weights -------------------------------------------------------------------------------


def metropolis(links: Links) -> NDArray[np.float64]:
    """c_ij of (3) for each link, (E,)."""
    degrees = links.degrees
    return np.asarray(1.0 / (1.0 + np.maximum(degrees[links.i], degrees[links.j])))


RULES: Final[dict[str, Callable[[Links], NDArray[np.float64]]]] = {
    "metropolis": metropolis,
    "max-degree": lambda links: np.full(links.size, 1.0 / (1.0 + links.degrees.max(initial=0))),
    "lazy-metropolis": lambda links: 0.5 * metropolis(links),
}
"""The rules of `topology.weights`, by name."""


def mixing_matrix(links: Links, rule: str = "metropolis") -> sparse.csr_array:
    """Mixing matrix C, (I, I), with the weights of `topology.weights` to the last bit; columns ascend in each row."""
    n, weights = links.n_agents, RULES[rule](links)
    row = np.concatenate([links.i, links.j])
    away = sparse.csr_array((np.tile(weights, 2), (row, np.concatenate([links.j, links.i]))), shape=(n, n))
    if links.degrees.max(initial=0) <= 2:  # a sum of two is rounded once, as fsum is
        total = np.bincount(row, np.tile(weights, 2), minlength=n)
    else:
        data, ends = away.data.tolist(), away.indptr.tolist()
        total = np.array([math.fsum(data[ends[i] : ends[i + 1]]) for i in range(n)])
    own = np.arange(n)
    entries = np.concatenate([weights, weights, 1.0 - total])
    places = np.concatenate([row, own]), np.concatenate([links.j, links.i, own])
    matrix = sparse.csr_array((entries, places), shape=(n, n))
    matrix.sort_indices()
    return matrix
