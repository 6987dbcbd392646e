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

    @cached_property
    def max_degree(self) -> int:
        """Largest number of neighbors, d_max."""
        return max(map(len, self._adjacency.values()), default=0)

    def components(self) -> list[list[PeerId]]:
        """Connected components, each ascending, ordered by their smallest agent."""
        found: list[list[PeerId]] = []
        seen = set[PeerId]()
        for i in range(self.n_agents):
            if i not in seen:
                component = reached(i, self.neighbors)
                seen |= component
                found.append(sorted(component))
        return found

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


def reached(start: PeerId, neighbors: Callable[[PeerId], Iterable[PeerId]]) -> set[PeerId]:
    """Agents that can be reached from one of them in any number of steps to `neighbors`, itself among them."""
    found, waiting = {start}, [start]
    while waiting:
        for j in neighbors(waiting.pop()):
            if j not in found:
                found.add(j)
                waiting.append(j)
    return found


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
    return _circulant(n_agents, [1])


def grid(n_agents: int) -> Graph:
    """Rectangular grid, as square as the divisors of n_agents allow (a path if it is prime)."""
    n_columns = grid_columns(n_agents)
    across = ((i, i + 1) for i in range(n_agents) if (i + 1) % n_columns)
    down = ((i, i + n_columns) for i in range(n_agents - n_columns))
    return Graph(n_agents, frozenset((*across, *down)))


def grid_columns(n_agents: int) -> int:
    """Length of the rows of the grid, in which the agents are numbered: the least divisor >= sqrt(n_agents)."""
    return n_agents // max(r for r in range(1, math.isqrt(n_agents) + 1) if n_agents % r == 0)


def complete(n_agents: int) -> Graph:
    """Everybody is everybody's neighbor."""
    return Graph(n_agents, frozenset(combinations(range(n_agents), 2)))


def star(n_agents: int) -> Graph:
    """Agent 0 is the only neighbor of all the others."""
    return Graph(n_agents, frozenset((0, j) for j in range(1, n_agents)))


def exponential(n_agents: int) -> Graph:
    """Static exponential graph: i is joined to i +- 2^k (mod I) for every k with 2^k < I."""
    return _circulant(n_agents, exponential_hops(n_agents))


def exponential_hops(n_agents: int) -> list[int]:
    """1, 2, 4, ... up to the last power of two below I; for a single agent 1, which leads back to it."""
    return [2**k for k in range(max(1, (n_agents - 1).bit_length()))]


def erdos_renyi(n_agents: int, probability: float, seed: int) -> Graph:
    """Erdos-Renyi graph: each pair linked with `probability`; the first connected one of 100 draws.

    Where no draw is connected the first one is returned, and the check of the schedule refuses it.
    """

    def draw(attempt: int) -> Graph:
        pairs = combinations(range(n_agents), 2)
        return Graph(n_agents, frozenset((i, j) for i, j in pairs if drawn(seed, attempt, i, j, probability)))

    return _first_connected(draw)


def drawn(seed: int, attempt: int, i: PeerId, j: PeerId, probability: float) -> bool:
    """Whether draw k of erdos-renyi has the link {i, j}, i < j; or the arc (i, j), where links have a direction.

    It has iff blake2b(f"{seed}:erdos-renyi:{k}:{i}:{j}") / 2^64 < probability. The name in the text
    keeps the draws apart from those of a schedule of the same seed: with the text of `RandomLinks`,
    all links of draw k would be up together in round k.
    """
    return happens(f"{seed}:erdos-renyi:{attempt}:{i}:{j}", probability)


def geometric(n_agents: int, radius: float, seed: int) -> Graph:
    """Random geometric graph: points in the unit square, linked when nearer than `radius`.

    The first connected one of 100 draws, as in `erdos_renyi`.
    """

    def draw(attempt: int) -> Graph:
        at = points(n_agents, seed, attempt)
        pairs = combinations(range(n_agents), 2)
        return Graph(n_agents, frozenset((i, j) for i, j in pairs if math.dist(at[i], at[j]) < radius))

    return _first_connected(draw)


def points(n_agents: int, seed: int, attempt: int) -> list[tuple[float, float]]:
    """Points of draw k of geometric: x_i = blake2b(f"{seed}:geometric:{k}:x:{i}") / 2^64, and y_i likewise."""
    text = f"{seed}:geometric:{attempt}"
    x, y = ([hash64(f"{text}:{axis}:{i}") / 2.0**64 for i in range(n_agents)] for axis in "xy")
    return list(zip(x, y, strict=True))


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


def _circulant(n_agents: int, hops: Iterable[int]) -> Graph:
    pairs = ((i, (i + hop) % n_agents) for i in range(n_agents) for hop in hops)
    return Graph.of(n_agents, ((i, j) for i, j in pairs if i != j))


def _first_connected(draw: Callable[[int], Graph]) -> Graph:
    first = draw(0)
    graph = first
    for attempt in range(1, ATTEMPTS):
        if graph.is_connected():
            return graph
        graph = draw(attempt)
    return graph if graph.is_connected() else first
