"""Undirected graphs of agents, and the families that experiments choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    import networkx as nx

PeerId: TypeAlias = int
"""0-based number of an agent, and of the peer process that hosts it."""

Edge: TypeAlias = tuple[PeerId, PeerId]
"""An undirected link {i, j}, written (i, j) with i < j."""

ATTEMPTS: Final = 100
"""Draws of a random family before the first connected one; at any useful density few are needed."""


class TopologyError(ValueError):
    """A graph or schedule that cannot be used; the message says where and why."""


@final
@dataclass(frozen=True)
class Graph:
    """An undirected graph without loops on the agents 0..n_agents-1.

    Parameters
    ----------
    n_agents : int
        Number of agents I.
    edges : frozenset of (int, int)
        Links (i, j) with i < j.

    Raises
    ------
    TopologyError
        An edge names an agent that does not exist, joins an agent to itself, or is not
        written with the smaller end first.
    """

    n_agents: int
    edges: frozenset[Edge]

    def __post_init__(self) -> None:
        for i, j in self.edges:
            if not 0 <= i < j < self.n_agents:
                raise TopologyError(f"edge ({i}, {j}): expected 0 <= i < j < {self.n_agents}")

    @classmethod
    def of(cls, n_agents: int, pairs: Iterable[tuple[int, int]]) -> Graph:
        """Graph with the links {i, j} given in any order and direction, repetitions merged."""
        return cls(n_agents, frozenset((min(pair), max(pair)) for pair in pairs))

    @cached_property
    def _adjacency(self) -> Mapping[PeerId, tuple[PeerId, ...]]:
        found: dict[PeerId, list[PeerId]] = {}
        for i, j in sorted(self.edges):
            found.setdefault(i, []).append(j)
            found.setdefault(j, []).append(i)
        return {i: tuple(sorted(neighbors)) for i, neighbors in found.items()}

    def neighbors(self, i: PeerId) -> tuple[PeerId, ...]:
        """Neighbors N_i of agent i, ascending; i itself is not among them."""
        return self._adjacency.get(i, ())

    def degree(self, i: PeerId) -> int:
        """Number of neighbors d_i."""
        return len(self.neighbors(i))

    def components(self) -> list[list[PeerId]]:
        """Connected components, each ascending, ordered by their smallest agent."""
        import networkx as nx

        return sorted(sorted(component) for component in nx.connected_components(self.networkx()))

    def networkx(self) -> nx.Graph[int]:
        """The same graph as a networkx object."""
        import networkx as nx

        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.n_agents))
        graph.add_edges_from(sorted(self.edges))
        return graph


def unit_hash(text: str) -> float:
    """Number in [0, 1) that only depends on `text`: blake2b(text) / 2^64, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2.0**64


def ring(n_agents: int) -> Graph:
    """Cycle 0 - 1 - ... - 0."""
    import networkx as nx

    return _of_networkx(n_agents, nx.cycle_graph(n_agents))


def grid(n_agents: int) -> Graph:
    """Rectangular grid, as square as the divisors of n_agents allow (a path if it is prime)."""
    import networkx as nx

    rows = max(r for r in range(1, math.isqrt(n_agents) + 1) if n_agents % r == 0)
    return _of_networkx(n_agents, nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, n_agents // rows)))


def complete(n_agents: int) -> Graph:
    """Everybody is everybody's neighbor."""
    import networkx as nx

    return _of_networkx(n_agents, nx.complete_graph(n_agents))


def star(n_agents: int) -> Graph:
    """Agent 0 is the only neighbor of all the others."""
    import networkx as nx

    return _of_networkx(n_agents, nx.star_graph(n_agents - 1))


def exponential(n_agents: int) -> Graph:
    """Static exponential graph: i is joined to i +- 2^k (mod I) for every k with 2^k < I."""
    import networkx as nx

    hops = [2**k for k in range(max(1, (n_agents - 1).bit_length()))]
    return _of_networkx(n_agents, nx.circulant_graph(n_agents, hops))


def erdos_renyi(n_agents: int, probability: float, seed: int) -> Graph:
    """Erdos-Renyi graph: each pair linked with `probability`; the first connected one of 100 draws.

    Edge {i, j} of draw k is kept iff blake2b(f"{seed}:{k}:{i}:{j}") / 2^64 < probability. Where
    no draw is connected the first one is returned, and the check of the schedule refuses it.
    """

    def draw(attempt: int) -> Graph:
        pairs = combinations(range(n_agents), 2)
        return Graph.of(n_agents, ((i, j) for i, j in pairs if unit_hash(f"{seed}:{attempt}:{i}:{j}") < probability))

    return _first_connected(draw)


def geometric(n_agents: int, radius: float, seed: int) -> Graph:
    """Random geometric graph: points in the unit square, linked when nearer than `radius`.

    Point i of draw k has the coordinates blake2b(f"{seed}:{k}:x:{i}") / 2^64, and y likewise;
    the first connected one of 100 draws, as in `erdos_renyi`.
    """

    def draw(attempt: int) -> Graph:
        points = [tuple(unit_hash(f"{seed}:{attempt}:{axis}:{i}") for axis in "xy") for i in range(n_agents)]
        pairs = combinations(range(n_agents), 2)
        return Graph.of(n_agents, ((i, j) for i, j in pairs if math.dist(points[i], points[j]) < radius))

    return _first_connected(draw)


def family(name: str, n_agents: int, *, probability: float, radius: float, seed: int) -> Graph:
    """Graph of the named family.

    Parameters
    ----------
    name : str
        ring, grid, complete, star, exponential, erdos-renyi or geometric.
    n_agents : int
        Number of agents I.
    probability : float
        Of a link, `erdos-renyi` only.
    radius : float
        Of neighborhood, `geometric` only; side lengths of the unit square.
    seed : int
        Root of the random families.

    Raises
    ------
    TopologyError
        No such family.
    """
    families: dict[str, Callable[[], Graph]] = {
        "ring": lambda: ring(n_agents),
        "grid": lambda: grid(n_agents),
        "complete": lambda: complete(n_agents),
        "star": lambda: star(n_agents),
        "exponential": lambda: exponential(n_agents),
        "erdos-renyi": lambda: erdos_renyi(n_agents, probability, seed),
        "geometric": lambda: geometric(n_agents, radius, seed),
    }
    if name not in families:
        raise TopologyError(f"graph {name!r}: expected one of {', '.join(families)}")
    return families[name]()


FAMILIES: Final = ("ring", "grid", "complete", "star", "exponential", "erdos-renyi", "geometric")
"""Names that `family` knows."""


def _of_networkx(n_agents: int, graph: nx.Graph[int]) -> Graph:
    return Graph.of(n_agents, ((i, j) for i, j in graph.edges if i != j))


def _first_connected(draw: Callable[[int], Graph]) -> Graph:
    first = draw(0)
    graph = first
    for attempt in range(1, ATTEMPTS):
        if len(graph.components()) == 1:
            return graph
        graph = draw(attempt)
    return first
