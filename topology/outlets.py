"""Who pushes to whom where there are no rounds: links with a direction, among members that change.

As a schedule, it is a pure function of settings and counters, computed by each agent alone, and it
draws no random numbers. It differs from a schedule in three points:

1. An agent counts its own wakings, and nobody knows the others' counters. So an agent chooses
   whom it pushes to, never with whom it meets, and no choice depends on another agent's.
2. The agents are the members of an epoch, whatever their ids. A family is built over the positions
   of the sorted ids, so what is left after a loss, or has grown by a newcomer, is a ring again, or
   a grid, ...; among members 0..I-1 position and id are the same.
3. For whatever members the links connect strongly: everybody reaches everybody along the arrows.
   Where random graphs do not, or the links of a file among other members than it was written for,
   those of a ring of all members are added.

A running peer asks only for its own links, and only they are ever computed: each is found from its
two ends, an agent's in O(I) once an epoch, and whether a random draw connects is found by a search
that looks at few links (see `_connects`). Then `receivers` costs O(out-degree), and O(I) in C, ten
microseconds for a thousand members, to find the epoch's links again. An epoch of a thousand costs
less than a millisecond; 0.1 s with a random family, and a second with one too sparse to connect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, TypeAlias, final

from topology import files, schedules, windows
from topology.graphs import (
    ATTEMPTS,
    Edge,
    PeerId,
    TopologyError,
    drawn,
    exponential_hops,
    grid_columns,
    happens,
    hash64,
    points,
    reached,
)

Arc: TypeAlias = tuple[PeerId, PeerId]
"""A link with a direction: the first agent pushes to the second."""

Rows: TypeAlias = Mapping[PeerId, Collection[PeerId]]
"""Out-neighbors by agent."""

MOST_PAIRS: Final = 2**19
"""Pairs in all draws of a random family together, half a second's work: up to 102 members this allows all draws."""

EPOCHS: Final = 64
"""Links of an agent that are kept, each up to 24 bytes a member: a peer needs one, a simulated network one an agent."""


@final
@dataclass(frozen=True)
class Digraph:
    """A directed graph without loops on the agents 0..n_agents-1.

    Parameters
    ----------
    n_agents : int
        Number of agents I.
    arcs : frozenset of (int, int)
        Links (i, j): i pushes to j.

    Raises
    ------
    TopologyError
        There is no agent; or an arc names an agent that does not exist, or leads from an agent to
        itself.
    """

    n_agents: int
    arcs: frozenset[Arc]

    def __post_init__(self) -> None:
        if self.n_agents < 1:
            raise TopologyError(f"a graph of {self.n_agents} agents: expected at least 1")
        for i, j in self.arcs:
            if i == j or not (0 <= i < self.n_agents and 0 <= j < self.n_agents):
                raise TopologyError(f"arc ({i}, {j}): expected two different agents in 0..{self.n_agents - 1}")

    @classmethod
    def both_ways(cls, n_agents: int, edges: Iterable[Edge]) -> Digraph:
        """Graph with an arc in each direction for every link {i, j}."""
        return cls(n_agents, frozenset(arc for i, j in edges for arc in ((i, j), (j, i))))

    @cached_property
    def _out(self) -> Mapping[PeerId, tuple[PeerId, ...]]:
        return _listed(self.arcs)

    @cached_property
    def _in(self) -> Mapping[PeerId, tuple[PeerId, ...]]:
        return _listed((j, i) for i, j in self.arcs)

    def out_neighbors(self, i: PeerId) -> tuple[PeerId, ...]:
        """Agents to which i pushes, ascending."""
        return self._out.get(i, ())

    def in_neighbors(self, i: PeerId) -> tuple[PeerId, ...]:
        """Agents that push to i, ascending."""
        return self._in.get(i, ())


def strong_components(rows: Rows) -> list[list[PeerId]]:
    """Strongly connected components, each ascending, ordered by their smallest agent.

    Source: the algorithm of Kosaraju and Sharir. Whoever is finished last in a search along the
    arrows reaches, against the arrows, just its own component; and so on with the rest.
    """
    finished: list[PeerId] = []
    seen = set[PeerId]()
    for start in rows:
        path = [(start, iter(rows[start]))] if start not in seen else []
        seen.add(start)
        while path:
            i, rest = path[-1]
            new = next((j for j in rest if j not in seen), None)
            if new is None:
                finished.append(i)
                path.pop()
            else:
                seen.add(new)
                path.append((new, iter(rows[new])))
    against: dict[PeerId, list[PeerId]] = {i: [] for i in rows}
    for i, row in rows.items():
        for j in row:
            against[j].append(i)
    found: list[list[PeerId]] = []
    seen = set()
    for start in reversed(finished):
        if start not in seen:
            component = reached(start, lambda i: (j for j in against[i] if j not in seen))
            seen.update(component)
            found.append(sorted(component))
    return sorted(found)


@final
@dataclass(frozen=True)
class Outlets:
    """To whom each agent pushes at each of its wakings, for any members.

    Parameters
    ----------
    schedule : str
        static, random-links, matchings, one-peer-exponential or file.
    graph : str
        Family of the base graph, as in `graphs.family`; one-peer-exponential and file have none.
    directed : bool
        Links of the family have a direction, where it has such a form: ring i -> i + 1, exponential
        i -> i + 2^k (mod I), and erdos-renyi with each arc drawn by itself. All others push both ways.
    probability : float
        Of a link of erdos-renyi.
    radius : float
        Of neighborhood in geometric; side lengths of the unit square.
    link_probability : float
        Of a link to be up at a waking of random-links.
    seed : int
        Root of the random families and schedules.
    replayed : tuple of Digraph
        Those of `file`, in their order and by ids.
    """

    schedule: str
    graph: str
    directed: bool = False
    probability: float = 0.3  # this and the next two as in the experiment file
    radius: float = 0.5
    link_probability: float = 0.5
    seed: int = 0
    replayed: tuple[Digraph, ...] = field(default=(), hash=False)  # they are many, and equal settings are rare

    def __post_init__(self) -> None:
        if (self.schedule == "file") != bool(self.replayed):
            raise TopologyError(f"schedule {self.schedule!r} with {len(self.replayed)} graphs to be replayed")

    def of(self, members: tuple[PeerId, ...], me: PeerId) -> Outlet:
        """All that one member has to know: to and from whom it has links, and which are up when."""
        return _outlet(self, members, me)

    def out_neighbors(self, members: tuple[PeerId, ...], me: PeerId) -> tuple[PeerId, ...]:
        """Members to which `me` ever pushes while these are the members, ascending."""
        return self.of(members, me).out_neighbors

    def in_neighbors(self, members: tuple[PeerId, ...], me: PeerId) -> tuple[PeerId, ...]:
        """Members that ever push to `me` while these are the members, ascending."""
        return self.of(members, me).in_neighbors

    def receivers(self, members: tuple[PeerId, ...], me: PeerId, n: int) -> tuple[PeerId, ...]:
        """Members to which `me` pushes at its waking n, ascending; some of its out-neighbors.

        All of them in static, and otherwise:

        - random-links: j iff blake2b(f"{seed}:{n}:{i}:{j}") / 2^64 < link_probability, with i = me
          where links have a direction, else with the smaller id first: agents that have woken as
          often push to each other or neither does, as in `schedules.RandomLinks`.
        - matchings: one out-neighbor, the one at place floor(d blake2b(f"{seed}:matchings:{n}:{i}")
          / 2^64) of the d. A matching cannot be agreed upon by agents that count for themselves.
          What is left of it is that nobody pushes to more than one at a time: the push-sum protocol
          of D. Kempe, A. Dobra, J. Gehrke, "Gossip-based computation of aggregate information",
          FOCS 2003, among neighbors.
        - one-peer-exponential: the agent 2^(n mod k) places further, k = ceil(log2 I), on the circle
          of the members: the directed one-peer exponential graph of Ying et al. (2021) itself.
        - file: its graph of n mod its length.
        """
        return self.of(members, me).receivers(n)

    def links(self, members: tuple[PeerId, ...]) -> dict[PeerId, tuple[PeerId, ...]]:
        """Out-neighbors of all members: O(I^2) for dense families, so nothing for a running peer."""
        return {i: self.of(members, i).out_neighbors for i in members}

    def period(self, n_members: int) -> int | None:
        """Wakings after which an agent repeats itself; None if it never does."""
        periods = {
            "static": 1,
            "one-peer-exponential": len(exponential_hops(n_members)),
            "file": len(self.replayed),
        }
        return periods.get(self.schedule)

    @cached_property
    def union(self) -> Digraph:
        """All arcs of a file together."""
        first, *more = self.replayed
        return Digraph(first.n_agents, first.arcs.union(*(graph.arcs for graph in more)))


@final
@dataclass(frozen=True, eq=False)
class Outlet:
    """The links of one member in one epoch.

    Parameters
    ----------
    outlets : Outlets
        The settings.
    me : int
        Agent i.
    members : tuple of int
        All agents of the epoch, ascending.
    out_neighbors : tuple of int
        Members to which it ever pushes, ascending.
    in_neighbors : tuple of int
        Members that ever push to it, ascending.
    ring : tuple of int
        Those of the out-neighbors to which it pushes whatever the file says.
    """

    outlets: Outlets
    me: PeerId
    members: tuple[PeerId, ...]
    out_neighbors: tuple[PeerId, ...]
    in_neighbors: tuple[PeerId, ...]
    ring: tuple[PeerId, ...] = ()

    def receivers(self, n: int) -> tuple[PeerId, ...]:
        """Members to which the agent pushes at its waking n, ascending, see `Outlets.receivers`."""
        kind, seed, out, me = self.outlets.schedule, self.outlets.seed, self.out_neighbors, self.me
        if kind == "random-links":
            probability = self.outlets.link_probability
            ends = ((me, j) if self.outlets.directed or me < j else (j, me) for j in out)
            up = (happens(f"{seed}:{n}:{i}:{j}", probability) for i, j in ends)
            return tuple(j for j, is_up in zip(out, up, strict=True) if is_up)
        if kind == "matchings":
            place = hash64(f"{seed}:matchings:{n}:{me}") * len(out) >> 64
            return out[place : place + 1]
        if kind == "one-peer-exponential" and out:
            hop = 1 << n % len(exponential_hops(len(self.members)))
            return (self.members[(self._position + hop) % len(self.members)],)
        if kind == "file":
            graphs = self.outlets.replayed
            row = graphs[n % len(graphs)].out_neighbors(me)
            return tuple(sorted({*self.ring, *(j for j in row if j in self._possible)}))
        return out

    @cached_property
    def _position(self) -> int:
        return self.members.index(self.me)

    @cached_property
    def _possible(self) -> frozenset[PeerId]:
        return frozenset(self.out_neighbors)


@lru_cache(maxsize=EPOCHS)
def _outlet(outlets: Outlets, members: tuple[PeerId, ...], me: PeerId) -> Outlet:
    ordered = tuple(sorted(set(members)))
    if me not in ordered:
        raise ValueError(f"agent {me} is none of the members {members}")
    i, n = ordered.index(me), len(ordered)
    if outlets.schedule == "file":
        rows = _restricted(outlets.union, ordered)
        ring = ([], []) if len(strong_components(rows)) == 1 else _circled(i, n, [1], outlets.directed)
        ahead, behind = ([ordered[j] for j in way if j != i] for way in ring)
        out = {*rows[me], *ahead}
        into = {*(j for j in outlets.union.in_neighbors(me) if j in rows), *behind}
        return Outlet(outlets, me, ordered, tuple(sorted(out)), tuple(sorted(into)), tuple(ahead))
    to, of = (tuple(ordered[j] for j in sorted(way - {i})) for way in _places(outlets, i, n))
    return Outlet(outlets, me, ordered, to, of)


def _places(outlets: Outlets, i: int, n: int) -> tuple[set[int], set[int]]:
    """Places to which, and from which, the base graph of n agents has links at place i; maybe i itself."""
    graph, directed = outlets.graph, outlets.directed
    if outlets.schedule == "one-peer-exponential":
        graph, directed = "exponential", True
    if graph in ("ring", "exponential"):
        return _circled(i, n, [1] if graph == "ring" else exponential_hops(n), directed)
    if graph in ("erdos-renyi", "geometric"):
        link, connects = _draw(graph, directed, outlets.probability, outlets.radius, outlets.seed, n)
        out = {j for j in range(n) if j != i and link(i, j)}
        into = {j for j in range(n) if j != i and link(j, i)} if directed else out
        ahead, behind = (set[int](), set[int]()) if connects else _circled(i, n, [1], directed)
        return out | ahead, into | behind
    if graph == "grid":
        n_columns = grid_columns(n)
        beside = {j for j in (i - 1, i + 1) if j // n_columns == i // n_columns}
        near = beside | {j for j in (i - n_columns, i + n_columns) if 0 <= j < n}
    elif graph == "star":
        near = set(range(n)) if i == 0 else {0}
    else:
        near = set(range(n))
    return near, near


def _circled(i: int, n: int, hops: Iterable[int], directed: bool) -> tuple[set[int], set[int]]:
    ahead, behind = ({(i + sign * hop) % n for hop in hops} for sign in (1, -1))
    return (ahead, behind) if directed else (ahead | behind, ahead | behind)


@lru_cache(maxsize=8)  # points of geometric are some 100 bytes each
def _draw(
    graph: str, directed: bool, probability: float, radius: float, seed: int, n: int
) -> tuple[Callable[[int, int], bool], bool]:
    """The first draw of a random family that connects strongly, and True; or the very first one, and False."""

    def arcs(attempt: int) -> Callable[[int, int], bool]:
        if graph == "geometric":
            at = points(n, seed, attempt)
            return lambda i, j: math.dist(at[i], at[j]) < radius
        if directed:
            return lambda i, j: drawn(seed, attempt, i, j, probability)
        return lambda i, j: drawn(seed, attempt, min(i, j), max(i, j), probability)

    n_draws = min(ATTEMPTS, MOST_PAIRS // max(1, n * (n - 1) // 2))
    for attempt in range(max(1, n_draws)):
        link = arcs(attempt)
        if _connects(link, n):
            return link, True
    return arcs(0), False


def _connects(link: Callable[[int, int], bool], n: int) -> bool:
    """Whether agent 0 reaches all along the arrows and against them: about I/p of the I^2 arcs are looked at.

    Only those to agents that were not reached before, and these are soon few.
    """
    for way in (link, lambda i, j: link(j, i)):
        unseen, waiting = set(range(1, n)), [0]
        while waiting and unseen:
            i = waiting.pop()
            new = [j for j in unseen if way(i, j)]
            unseen.difference_update(new)
            waiting += new
        if unseen:
            return False
    return True


def _restricted(graph: Digraph, members: Collection[PeerId]) -> dict[PeerId, set[PeerId]]:
    """Out-neighbors of the members among themselves."""
    among = set(members)
    return {i: among.intersection(graph.out_neighbors(i)) for i in members}


def _listed(arcs: Iterable[Arc]) -> dict[PeerId, tuple[PeerId, ...]]:
    found: dict[PeerId, list[PeerId]] = {}
    for i, j in sorted(arcs):
        found.setdefault(i, []).append(j)
    return {i: tuple(ends) for i, ends in found.items()}


# ---- settings, checks and files ------------------------------------------------------------


def make(
    name: str,
    graph: str,
    n_agents: int,
    *,
    directed: bool,
    probability: float,
    radius: float,
    link_probability: float,
    path: Path | None,
    seed: int,
) -> Outlets:
    """Outlets that plain settings describe, as `schedules.make`; `n_agents` are those that a file may name.

    Raises
    ------
    TopologyError
        As `schedules.make`.
    """
    schedules.check(
        name, graph, n_agents, probability=probability, radius=radius, link_probability=link_probability, path=path
    )
    replayed = load(path, n_agents) if path is not None and name == "file" else ()
    return Outlets(name, graph, directed, probability, radius, link_probability, seed, replayed)


def wakings_to_connect(outlets: Outlets, members: tuple[PeerId, ...], n_wakings: int) -> int:
    """Smallest N such that everybody reaches everybody by what is pushed in the first N wakings of each.

    Of a file its own arcs count, and not those of the ring that other members would get.

    Parameters
    ----------
    outlets : Outlets
    members : tuple of int
        All agents.
    n_wakings : int
        How many each makes at least; no more are looked at.

    Raises
    ------
    TopologyError
        They are too few; names the strongly connected components.
    """
    if outlets.schedule in ("static", "one-peer-exponential"):
        return 1  # all links; or the first hops, which are a ring
    rows: dict[PeerId, set[PeerId]] = {i: set() for i in members}
    parts = strong_components(rows)
    for n, pushed in enumerate(_pushed(outlets, members, n_wakings)):
        n_arcs = sum(map(len, rows.values()))
        for i, receivers in pushed.items():
            rows[i].update(receivers)
        if n == 0 or sum(map(len, rows.values())) > n_arcs:
            parts = strong_components(rows)
        if len(parts) == 1:
            return n + 1
    found = f"{len(parts)} strongly connected components: {windows.named(parts)}"
    raise TopologyError(f"the union of all wakings falls apart into {found}")


def _pushed(outlets: Outlets, members: tuple[PeerId, ...], n_wakings: int) -> Iterator[Rows]:
    if outlets.schedule == "file":
        yield from (_restricted(graph, members) for graph in outlets.replayed[:n_wakings])
        return
    each = [outlets.of(members, i) for i in members]
    for n in range(n_wakings):
        yield {outlet.me: outlet.receivers(n) for outlet in each}


@final
@dataclass(frozen=True)
class InStep:
    """The links of the agents 0..n_agents-1 as if all woke together: a schedule whose graphs are directed, to look at.

    Parameters
    ----------
    outlets : Outlets
    n_agents : int
        Number of agents I.
    """

    outlets: Outlets
    n_agents: int

    @property
    def period(self) -> int | None:
        """Wakings after which the schedule repeats itself; None if it never does."""
        return self.outlets.period(self.n_agents)

    @cached_property
    def links(self) -> Digraph:
        """Every arc that can be up at some waking."""
        return Digraph(self.n_agents, frozenset((one.me, j) for one in self._each for j in one.out_neighbors))

    def graph(self, n: int) -> Digraph:
        """Who pushes to whom at waking n."""
        return Digraph(self.n_agents, frozenset((one.me, j) for one in self._each for j in one.receivers(n)))

    @cached_property
    def _each(self) -> list[Outlet]:
        members = tuple(range(self.n_agents))
        return [self.outlets.of(members, i) for i in members]

    def shown(self, n_wakings: int) -> range:
        """The wakings that tell n_wakings whole: one period, or all of them."""
        return range(min(self.period or n_wakings, n_wakings))

    def union(self, n_wakings: int) -> Digraph:
        """Every arc that is up at one of the first n_wakings wakings at least."""
        possible, found = len(self.links.arcs), set[Arc]()
        for n in self.shown(n_wakings):
            found |= self.graph(n).arcs
            if len(found) == possible:
                break
        return Digraph(self.n_agents, frozenset(found))

    def lines(self, n_wakings: int) -> Iterator[str]:
        """The JSON lines of a schedule file, without line ends: `{"n": 0, "arcs": [[0, 1], [1, 0]]}`."""
        for n in self.shown(n_wakings):
            yield json.dumps({"n": n, "arcs": [list(arc) for arc in sorted(self.graph(n).arcs)]})


def load(path: Path, n_agents: int) -> tuple[Digraph, ...]:
    """Read a schedule file, each of whose lines has "arcs", or "edges" that are pushed over in both directions.

    Raises
    ------
    TopologyError
        The file cannot be read, or a line is no valid round; names the file and the line.
    """

    def made(key: str, pairs: Sequence[Arc]) -> Digraph:
        return Digraph(n_agents, frozenset(pairs)) if key == "arcs" else Digraph.both_ways(n_agents, pairs)

    return files.load_as(made, path, n_agents)
