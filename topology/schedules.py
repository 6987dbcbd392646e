"""Which links exist in which round.

A schedule is a pure function of (seed, n): every peer computes it alone, no peer sends it,
and it draws no random numbers, so it is the same on every machine and version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final, Protocol, final

from topology.graphs import Edge, Graph, PeerId, TopologyError, unit_hash

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

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""


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

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """The schedule never repeats itself."""
        return

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return _random_links(self, n)


@final
@dataclass(frozen=True)
class Matchings:
    """In every round a maximal matching of a base graph: nobody has more than one neighbor.

    The links are taken greedily in the order of blake2b(f"{seed}:{n}:{i}:{j}"), i < j.
    """

    base: Graph
    seed: int

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.base.n_agents

    @property
    def period(self) -> None:
        """The schedule never repeats itself."""
        return

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

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        hop = 1 << (n % self.period)
        pairs = ((i, i ^ hop) for i in range(self.n_agents) if i < i ^ hop < self.n_agents)
        return Graph(self.n_agents, frozenset(pairs))


@final
@dataclass(frozen=True)
class Replay:
    """Given graphs in their order, repeated from the start when the run is longer."""

    n_agents: int
    graphs: tuple[Graph, ...]

    @property
    def period(self) -> int:
        """Rounds after which the schedule repeats itself."""
        return len(self.graphs)

    def graph(self, n: int) -> Graph:
        """Links E[n] of round n."""
        return self.graphs[n % len(self.graphs)]


@lru_cache(maxsize=512)
def _random_links(schedule: RandomLinks, n: int) -> Graph:
    kept = ((i, j) for i, j in schedule.base.edges if unit_hash(f"{schedule.seed}:{n}:{i}:{j}") < schedule.probability)
    return Graph(schedule.n_agents, frozenset(kept))


@lru_cache(maxsize=512)
def _matching(schedule: Matchings, n: int) -> Graph:
    ordered = sorted((unit_hash(f"{schedule.seed}:{n}:{i}:{j}"), (i, j)) for i, j in schedule.base.edges)
    taken: set[PeerId] = set()
    kept: list[Edge] = []
    for _, edge in ordered:
        if taken.isdisjoint(edge):
            taken.update(edge)
            kept.append(edge)
    return Graph(schedule.n_agents, frozenset(kept))


def rounds_to_show(schedule: Schedule, n_rounds: int) -> range:
    """The rounds that tell a run of n_rounds whole: one period, or all of them."""
    return range(min(schedule.period or n_rounds, n_rounds))


def union(schedule: Schedule, n_rounds: int) -> Graph:
    """Every link that is up in at least one of the first n_rounds rounds."""
    graphs = (schedule.graph(n) for n in rounds_to_show(schedule, n_rounds))
    return Graph(schedule.n_agents, frozenset(chain.from_iterable(graph.edges for graph in graphs)))


def connectivity_window(schedule: Schedule, n_rounds: int) -> int:
    """Smallest B such that the union of any B consecutive rounds of the run is connected.

    Parameters
    ----------
    schedule : Schedule
    n_rounds : int
        Length of the run; a periodic schedule is looked at as if it ran for ever.

    Returns
    -------
    int
        B >= 1.

    Raises
    ------
    TopologyError
        Not even the union of all rounds is connected; names its components.
    """
    whole = union(schedule, n_rounds).components()
    if len(whole) > 1:
        named = ", ".join("{" + ", ".join(map(str, component)) + "}" for component in whole[:8])
        more = f" and {len(whole) - 8} more" if len(whole) > 8 else ""
        raise TopologyError(f"the union of all rounds falls apart into {len(whole)} components: {named}{more}")
    if schedule.period is not None:
        starts, end = schedule.period, 2 * schedule.period
    else:
        starts, end = n_rounds, n_rounds
    window = 1
    for start in range(starts):
        length = _rounds_until_connected(schedule, start, end)
        if length is None:  # windows from here on that fit into the run are too short to connect
            return max(window, end - start + 1)
        window = max(window, length)
    return window


def _rounds_until_connected(schedule: Schedule, start: int, end: int) -> int | None:
    import networkx as nx

    groups = nx.utils.UnionFind(range(schedule.n_agents))
    n_groups = schedule.n_agents
    for n in range(start, end):
        for i, j in schedule.graph(n).edges:
            if groups[i] != groups[j]:
                groups.union(i, j)
                n_groups -= 1
        if n_groups == 1:
            return n - start + 1
    return None


def save(schedule: Schedule, n_rounds: int, path: Path) -> None:
    """Write the schedule as JSON lines `{"n": 0, "edges": [[0, 1], [2, 5]]}`; one period if it has one."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines(schedule, n_rounds))


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
        The file cannot be read, or a line is no valid round; names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: expected a schedule file, found {error}") from error
    graphs: list[Graph] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            n, graph = _round_of(json.loads(line), n_agents)
            if n < len(graphs):
                raise TopologyError(f"n = {n} after n = {len(graphs) - 1}: expected ascending rounds")
            if n - len(graphs) > MAX_GAP:
                raise TopologyError(f"n = {n} after n = {len(graphs) - 1}: more than {MAX_GAP} rounds without links")
        except (ValueError, TypeError, KeyError) as error:
            raise TopologyError(f"{path}, line {number}: {error}") from error
        graphs.extend(Graph(n_agents, frozenset()) for _ in range(n - len(graphs)))
        graphs.append(graph)
    if not graphs:
        raise TopologyError(f"{path}: expected at least one round, found none")
    return Replay(n_agents, tuple(graphs))


MAX_GAP: Final = 100_000
"""Rounds without links that one line of a file may imply: beyond it the number is a mistake."""


def _round_of(found: object, n_agents: int) -> tuple[int, Graph]:
    if not isinstance(found, dict) or set(found) != {"n", "edges"}:
        raise TopologyError(f'expected an object with the keys "n" and "edges", found {json.dumps(found)[:80]}')
    n, edges = found["n"], found["edges"]
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise TopologyError(f'"n": expected a round number, found {json.dumps(n)[:80]}')
    if not isinstance(edges, list) or not all(_is_pair(edge) for edge in edges):
        raise TopologyError(f'"edges": expected a list of pairs [i, j], found {json.dumps(edges)[:80]}')
    for i, j in edges:
        if i == j or not (0 <= i < n_agents and 0 <= j < n_agents):
            raise TopologyError(f"edge [{i}, {j}]: expected two different peers in 0..{n_agents - 1}")
    return n, Graph.of(n_agents, ((i, j) for i, j in edges))


def _is_pair(edge: object) -> bool:
    return isinstance(edge, Sequence) and len(edge) == 2 and all(type(end) is int for end in edge)
