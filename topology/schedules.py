"""Which links exist in which round.

A schedule is a pure function of (seed, n): every peer computes it alone, no peer sends it,
and it draws no random numbers, so it is the same on every machine and version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol, TypeVar, final

from topology.graphs import FAMILIES, Edge, Graph, PeerId, TopologyError, family, happens, hash64

T = TypeVar("T")

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


def union(schedule: Schedule, n_rounds: int) -> Graph:
    """Every link that is up in at least one of the first n_rounds rounds."""
    possible, found = schedule.links.edges, set[Edge]()
    for n in rounds_to_show(schedule, n_rounds):
        found |= schedule.graph(n).edges
        if len(found) == len(possible):
            break  # there are no others: a long run need not be looked through
    return Graph(schedule.n_agents, frozenset(found))


def connected_union(schedule: Schedule, n_rounds: int) -> Graph:
    """As `union`, of a schedule that connects all agents in the end.

    Raises
    ------
    TopologyError
        It does not; names its components.
    """
    whole = union(schedule, n_rounds)
    parts = whole.components()
    if len(parts) > 1:
        raise TopologyError(f"the union of all rounds falls apart into {len(parts)} components: {named(parts)}")
    return whole


def named(parts: Iterable[Iterable[PeerId]]) -> str:
    """Some components of a graph in words, as far as there is room for them in a line."""
    return _few(["{" + _few(list(map(str, part)), 12) + "}" for part in parts], 8)


def _together(graphs: Iterable[Graph]) -> Graph:
    first, *more = graphs
    return Graph(first.n_agents, first.edges.union(*(graph.edges for graph in more)))


def connectivity_window(schedule: Schedule, n_rounds: int) -> int:
    """Smallest B such that the union of any B consecutive rounds of the run is connected.

    Parameters
    ----------
    schedule : Schedule
    n_rounds : int
        Length of the run. A schedule whose period fits into it is looked at as if it ran for
        ever; of any other one only these rounds count, and only the windows that lie in them.

    Returns
    -------
    int
        B >= 1.

    Raises
    ------
    TopologyError
        Not even the union of all rounds is connected; names its components.
    """
    connected_union(schedule, n_rounds)  # refuses what never connects
    if schedule.period is not None and schedule.period <= n_rounds:
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


def flooded(schedule: Schedule, start: int, end: int) -> int | None:
    """First round n > start at whose beginning every agent has heard what any agent knew at the beginning of `start`.

    In a round each agent passes on to its neighbors all that it knew at the beginning of that round.

    Parameters
    ----------
    schedule : Schedule
    start : int
        Round.
    end : int
        Rounds from here on are not looked at.

    Returns
    -------
    int or None
        None where that needs round `end` or later ones. Who starts later is never through sooner. Each round
        looked at costs as many unions of sets of I agents as it has links, twice.
    """
    known, everybody = [1 << i for i in range(schedule.n_agents)], (1 << schedule.n_agents) - 1
    for n in range(start, end):
        before = tuple(known)
        for i, j in schedule.graph(n).edges:
            known[i] |= before[j]
            known[j] |= before[i]
        if all(heard == everybody for heard in known):
            return n + 1
    return None


def window_end(schedule: Schedule, start: int, n_rounds: int, n_steps: int = 1) -> int | None:
    """As `flooded`, in a run of n_rounds rounds; None where the run is over before.

    A round may consist of n_steps exchanges, each with the next graph of the schedule; a window then ends with a round.
    """
    if schedule.period is None:
        end = flooded(schedule, start * n_steps, n_rounds * n_steps)
    else:
        length = _flooding_length(schedule, start * n_steps % schedule.period)
        end = None if length is None else start * n_steps + length
    return None if end is None or end > n_rounds * n_steps else -(-end // n_steps)


@lru_cache(maxsize=512)
def _flooding_length(schedule: Schedule, start: int) -> int | None:
    """Rounds of a window that begins in this round of a period; None where the union of all rounds falls apart."""
    period = schedule.period
    assert period is not None
    end = flooded(schedule, start, start + schedule.n_agents * period)  # in each period everything comes to one more
    return None if end is None else end - start


def window_lengths(schedule: Schedule, n_rounds: int, n_steps: int = 1) -> tuple[int, ...]:
    """Rounds of the flooding windows of a run, one behind the other from round 0 on; until they repeat themselves.

    The first window begins in round 0, each other one where the one before it ends, see `window_end`; there is
    none that the run does not complete. Rounds have n_steps exchanges each.
    """
    start, lengths, seen = 0, list[int](), {0}
    while (end := window_end(schedule, start, n_rounds, n_steps)) is not None:
        lengths.append(end - start)
        start = end
        if schedule.period is not None:
            if start * n_steps % schedule.period in seen:
                break
            seen.add(start * n_steps % schedule.period)
    return tuple(lengths)


def _few(names: list[str], limit: int) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _rounds_until_connected(schedule: Schedule, start: int, end: int) -> int | None:
    above = list(range(schedule.n_agents))  # a forest; who is above himself stands for his group

    def root(i: PeerId) -> PeerId:
        while above[i] != i:
            above[i] = above[above[i]]  # half the way is saved for the next time
            i = above[i]
        return i

    n_groups = schedule.n_agents
    for n in range(start, end):
        for i, j in schedule.graph(n).edges:
            if root(i) != root(j):
                above[root(i)] = root(j)
                n_groups -= 1
        if n_groups == 1:
            return n - start + 1
    return None


def save(schedule: Schedule, n_rounds: int, path: Path) -> None:
    """Write the schedule as JSON lines `{"n": 0, "edges": [[0, 1], [2, 5]]}`; one period if it has one.

    Raises
    ------
    TopologyError
        The file cannot be written.
    """
    write(lines(schedule, n_rounds), path)


def write(text: Iterable[str], path: Path) -> None:
    """Write lines to a file.

    Raises
    ------
    TopologyError
        The file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in text)
    except OSError as error:
        raise TopologyError(f"{path}: cannot write the schedule: {error.strerror}") from error


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


def load_as(made: Callable[[str, Sequence[Edge]], T], path: Path, n_agents: int) -> tuple[T, ...]:
    """Read a schedule file whose rounds are made of "edges" or "arcs", as `made` is told, and of their pairs.

    Raises
    ------
    TopologyError
        As `load`, and as `made` raises it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"{path}: cannot read the schedule: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise TopologyError(f"{path}, line {number}: expected JSON in UTF-8, found {error.reason}") from error
    except ValueError as error:  # a path that no system call takes
        raise TopologyError(f"{str(path)!r}: cannot read the schedule: {error}") from error
    found: list[T] = []
    silent = made("edges", ())
    # not splitlines(): that also splits where no editor and no other JSON lines reader does
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            n, key, pairs = _round_of(_parsed(line), n_agents)
            if n < len(found):
                raise TopologyError(f"n = {n} after n = {len(found) - 1}: expected ascending rounds")
            if n - len(found) > MAX_GAP:
                raise TopologyError(f"n = {_shown(n)} leaves more than {MAX_GAP} rounds before it without links")
            links = made(key, pairs)
        except TopologyError as error:
            raise TopologyError(f"{path}, line {number}: {error}") from error
        except RecursionError as error:  # brackets in brackets in brackets
            raise TopologyError(f"{path}, line {number}: expected a round, found JSON nested too deeply") from error
        found.extend([silent] * (n - len(found)))
        found.append(links)
    if not found:
        raise TopologyError(f"{path}, line 1: expected at least one round, found none")
    return tuple(found)


MAX_GAP: Final = 100_000
"""Rounds without links that one line of a file may imply: beyond it the number is a mistake."""


def _parsed(line: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=_without_repetitions)
    except json.JSONDecodeError as error:
        raise TopologyError(f"column {error.colno}: expected JSON, found: {error.msg}") from error
    except TopologyError:  # of _without_repetitions; it is a ValueError too
        raise
    except ValueError as error:  # a whole number of more digits than Python reads
        raise TopologyError(f"expected a round, found JSON that cannot be read: {error}") from error


def _without_repetitions(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json would silently take the last
        raise TopologyError(f"expected every key once, found {_shown([key for key, _ in pairs])}")
    return found


def _round_of(found: object, n_agents: int) -> tuple[int, str, list[Edge]]:
    key = "arcs" if isinstance(found, dict) and "arcs" in found else "edges"
    if not isinstance(found, dict) or set(found) != {"n", key}:
        raise TopologyError(f'expected an object with the keys "n" and "edges" (or "arcs"), found {_shown(found)}')
    n, pairs = found["n"], found[key]
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise TopologyError(f'"n": expected a round number, found {_shown(n)}')
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise TopologyError(f'"{key}": expected a list of pairs [i, j], found {_shown(pairs)}')
    for i, j in pairs:
        if i == j or not (0 <= i < n_agents and 0 <= j < n_agents):
            raise TopologyError(f"{key[:-1]} {_shown([i, j])}: expected two different peers in 0..{n_agents - 1}")
    return n, key, [(i, j) for i, j in pairs]


def _shown(found: object) -> str:
    text = json.dumps(found)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
