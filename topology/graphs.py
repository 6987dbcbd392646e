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
        There is no agent; or an edge names an agent that does not exist, joins an agent to
        itself, or is not written with the smaller end first.
    """

    n_agents: int
    edges: frozenset[Edge]

    def __post_init__(self) -> None:
        if self.n_agents < 1:
            raise TopologyError(f"a graph of {self.n_agents} agents: expected at least 1")
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

    def is_connected(self) -> bool:
        """Whether every agent can reach every other one."""
        return len(self.components()) == 1

    def networkx(self) -> nx.Graph[int]:
        """The same graph as a networkx object."""
        import networkx as nx

        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.n_agents))
        graph.add_edges_from(sorted(self.edges))
        return graph


def hash64(text: str) -> int:
    """Integer in [0, 2^64) that only depends on `text`, the same on every machine and version.

    The 8-byte BLAKE2b digest (digest_size = 8, not a longer one cut off) of the UTF-8 text, read
    with the most significant byte first. Docstrings write blake2b(text) for it.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def happens(text: str, probability: float) -> bool:
    """Whether blake2b(text) / 2^64 < probability: True for `probability` of all texts.

    Exact: scaling by a power of two does not round and Python compares int with float exactly,
    whereas the quotient as a float could round up to 1 and so miss even with probability 1.
    """
    return hash64(text) < probability * 2.0**64


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

    Edge {i, j}, i < j, of draw k is kept iff blake2b(f"{seed}:erdos-renyi:{k}:{i}:{j}") / 2^64 <
    probability. The name in the text keeps the draws apart from those of a schedule of the same
    seed: with the text of `RandomLinks`, all links of draw k would be up together in round k.
    Where no draw is connected the first one is returned, and the check of the schedule refuses it.
    """

    def draw(attempt: int) -> Graph:
        text = f"{seed}:erdos-renyi:{attempt}"
        pairs = combinations(range(n_agents), 2)
        return Graph.of(n_agents, ((i, j) for i, j in pairs if happens(f"{text}:{i}:{j}", probability)))

    return _first_connected(draw)


def geometric(n_agents: int, radius: float, seed: int) -> Graph:
    """Random geometric graph: points in the unit square, linked when nearer than `radius`.

    Point i of draw k has the coordinates blake2b(f"{seed}:geometric:{k}:x:{i}") / 2^64, and y
    likewise; the first connected one of 100 draws, as in `erdos_renyi`.
    """

    def draw(attempt: int) -> Graph:
        text = f"{seed}:geometric:{attempt}"
        points = [tuple(hash64(f"{text}:{axis}:{i}") / 2.0**64 for axis in "xy") for i in range(n_agents)]
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
        No such family, or no agent.
    """
    if n_agents < 1:
        raise TopologyError(f"a graph of {n_agents} agents: expected at least 1")
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
        if graph.is_connected():
            return graph
        graph = draw(attempt)
    return graph if graph.is_connected() else first
