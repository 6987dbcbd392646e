"""Which links a schedule has over several rounds: all of them, how soon they connect, and how far a word gets."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from topology.graphs import Edge, Graph, PeerId, TopologyError
from topology.schedules import Schedule, rounds_to_show


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


def _few(names: list[str], limit: int) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


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
