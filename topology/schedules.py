"""Which links exist in which round.

A schedule is a pure function of (seed, n): every peer computes it alone, no peer sends it,
and it draws no random numbers, so it is the same on every machine and version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol, final

from topology.files import load_as, write
from topology.graphs import FAMILIES, Edge, Graph, PeerId, TopologyError, family, happens, hash64

SCHEDULES: Final = ("static", "random-links", "matchings", "one-peer-exponential", "file")
"""Names that experiments use for the schedules below."""


class Schedule(Protocol):
    """A graph for every round n = 0, 1, 2, ..."""

    @property
    def n_agents(self) -> int:
        """Number of agents I."""

    @property
    def period(self) -> int | None:
        """Rounds after which the schedule repeats itself; None if it never does."""

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""

    def __hash__(self) -> int:
        """A schedule is a value."""


@final
@dataclass(frozen=True)
class Static:
    """The same graph in every round."""

    base: Graph

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> int:
        """Rounds after which the schedule repeats itself."""
        return 1

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return self.base

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return self.base


@final
@dataclass(frozen=True)
class RandomLinks:
    """Each link of a base graph is up with `probability`, independently in every round.

    Link {i, j}, i < j, is up in round n iff blake2b(f"{seed}:{n}:{i}:{j}") / 2^64 < probability.
    """

    base: Graph
    probability: float
    seed: int

    def __hash__(self) -> int:
        """Of as much as tells most apart: every look at the links of a round asks for it."""
        return hash(self.seed)

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """The schedule never repeats itself."""
        return

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return self.base

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return _random_links(self, n)


@final
@dataclass(frozen=True)
class Matchings:
    """In every round a maximal matching of a base graph: nobody has more than one neighbor.

    The links {i, j}, i < j, are taken greedily in the order of blake2b(f"{seed}:{n}:{i}:{j}"),
    and of (i, j) should two of these be equal.
    """

    base: Graph
    seed: int

    def __hash__(self) -> int:
        """As of `RandomLinks`."""
        return hash(self.seed)

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """The schedule never repeats itself."""
        return

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return self.base

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return _matching(self, n)


@final
@dataclass(frozen=True)
class OnePeerExponential:
    """In round n agent i meets the one agent whose number differs in bit n mod ceil(log2 I).

    The undirected form of the one-peer exponential graph (Ying et al., "Exponential graph is
    provably efficient for decentralized deep training", NeurIPS 2021): links must be undirected
    here, so i and i XOR 2^k exchange. With I a power of two the average is exact after log2 I
    rounds, as there. An agent whose partner does not exist rests for that round.
    """

    n_agents: int

    @property
    def period(self) -> int:
        """Rounds after which the schedule repeats itself, ceil(log2 I)."""
        return max(1, (self.n_agents - 1).bit_length())

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return _together(self.graph(n) for n in range(self.period))

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        hop = 1 << (n % self.period)
        pairs = ((i, i ^ hop) for i in range(self.n_agents) if i < i ^ hop < self.n_agents)
        return Graph(self.n_agents, frozenset(pairs))


@final
@dataclass(frozen=True)
class Replay:
    """Given graphs in their order, repeated from the start when the run is longer.

    Raises
    ------
    TopologyError
        There is no graph, or one of them is of another number of agents.
    """

    n_agents: int
    graphs: tuple[Graph, ...]

    def __post_init__(self) -> None:
        if not self.graphs:
            raise TopologyError("a replay of no graphs: expected at least one")
        for n, graph in enumerate(self.graphs):
            if graph.n_agents != self.n_agents:
                raise TopologyError(f"round {n}: expected a graph of {self.n_agents} agents, found {graph.n_agents}")

    @property
    def period(self) -> int:
        """Rounds after which the schedule repeats itself."""
        return len(self.graphs)

    @property
    def links(self) -> Graph:
        """Every link that can be up in some round."""
        return _together(self.graphs)

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return self.graphs[n % len(self.graphs)]


@lru_cache(maxsize=512)
def _random_links(schedule: RandomLinks, n: int) -> Graph:
    text = f"{schedule.seed}:{n}"
    kept = ((i, j) for i, j in schedule.base.edges if happens(f"{text}:{i}:{j}", schedule.probability))
    return Graph(schedule.n_agents, frozenset(kept))


@lru_cache(maxsize=512)
def _matching(schedule: Matchings, n: int) -> Graph:
    ordered = sorted((hash64(f"{schedule.seed}:{n}:{i}:{j}"), (i, j)) for i, j in schedule.base.edges)
    taken: set[PeerId] = set()
    kept: list[Edge] = []
    for _, edge in ordered:
        if taken.isdisjoint(edge):
            taken.update(edge)
            kept.append(edge)
    return Graph(schedule.n_agents, frozenset(kept))


def _together(graphs: Iterable[Graph]) -> Graph:
    first, *more = graphs
    return Graph(first.n_agents, first.edges.union(*(graph.edges for graph in more)))


def make(
    name: str,
    graph: str,
    n_agents: int,
    *,
    probability: float,
    radius: float,
    link_probability: float,
    path: Path | None,
    seed: int,
) -> Schedule:
    """Schedule that plain settings describe.

    Parameters
    ----------
    name : str
        static, random-links, matchings, one-peer-exponential or file.
    graph : str
        Family of the base graph, as in `graphs.family`; one-peer-exponential and file have none.
    n_agents : int
        Number of agents I.
    probability : float
        Of a link of an Erdos-Renyi graph, in [0, 1].
    radius : float
        Of neighborhood in a geometric graph, positive; side lengths of the unit square.
    link_probability : float
        Of a link to be up in a round of random-links, in [0, 1].
    path : Path or None
        The schedule file of `file`.
    seed : int
        Root of the random families and schedules.

    Raises
    ------
    TopologyError
        A name is not known, a number is out of its range (used or not: it is a mistake), or the
        schedule file is missing or malformed.
    """
    check(name, graph, n_agents, probability=probability, radius=radius, link_probability=link_probability, path=path)
    if name == "one-peer-exponential":
        return OnePeerExponential(n_agents)
    if path is not None and name == "file":
        return load(path, n_agents)
    base = family(graph, n_agents, probability=probability, radius=radius, seed=seed)
    if name == "random-links":
        return RandomLinks(base, link_probability, seed)
    if name == "matchings":
        return Matchings(base, seed)
    return Static(base)


def check(
    name: str,
    graph: str,
    n_agents: int,
    *,
    probability: float,
    radius: float,
    link_probability: float,
    path: Path | None,
) -> None:
    """Check the settings of `make`, each by itself.

    Raises
    ------
    TopologyError
        A name is not known, a number is out of its range, or there is no path for a file.
    """
    if name not in SCHEDULES:
        raise TopologyError(f"schedule {name!r}: expected one of {', '.join(SCHEDULES)}")
    if graph not in FAMILIES:
        raise TopologyError(f"graph {graph!r}: expected one of {', '.join(FAMILIES)}")
    if n_agents < 1:
        raise TopologyError(f"peers {n_agents}: expected at least 1")
    for key, value in (("probability", probability), ("link probability", link_probability)):
        if not 0.0 <= value <= 1.0:  # written so that nan is refused too
            raise TopologyError(f"{key} {value}: expected a number in [0, 1]")
    if not radius > 0.0:
        raise TopologyError(f"radius {radius}: expected a positive number")
    if name == "file" and path is None:
        raise TopologyError("schedule 'file': expected the path of a schedule file, found none")


def rounds_to_show(schedule: Schedule, n_rounds: int) -> range:
    """The rounds that tell a run of n_rounds whole: one period, or all of them."""
    return range(min(schedule.period or n_rounds, n_rounds))


def save(schedule: Schedule, n_rounds: int, path: Path) -> None:
    """Write the schedule as JSON lines `{"n": 0, "edges": [[0, 1], [2, 5]]}`; one period if it has one.

    Raises
    ------
    TopologyError
        The file cannot be written.
    """
    write(lines(schedule, n_rounds), path)


def lines(schedule: Schedule, n_rounds: int) -> Iterator[str]:
    """The JSON lines of a schedule file, without line ends."""
    for n in rounds_to_show(schedule, n_rounds):
        yield json.dumps({"n": n, "edges": [list(edge) for edge in sorted(schedule.graph(n).edges)]})


def load(path: Path, n_agents: int) -> Replay:
    """Read a schedule file.

    Parameters
    ----------
    path : Path
        JSON lines with ascending `n`; a round without a line has no links.
    n_agents : int
        Number of agents I.

    Raises
    ------
    TopologyError
        The file cannot be read, or a line is no valid round or one of links with a direction, which
        only runs without rounds know; names the file and the line.
    """

    def undirected(key: str, pairs: Sequence[Edge]) -> Graph:
        if key == "arcs":
            raise TopologyError('"arcs": links with a direction need mode = "async"; rounds have "edges"')
        return Graph.of(n_agents, pairs)

    return Replay(n_agents, load_as(undirected, path, n_agents))
