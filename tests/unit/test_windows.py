"""Links over several rounds: when they connect, and how far a word gets."""

from __future__ import annotations

import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.graphs import Graph, TopologyError
from topology.schedules import (
    OnePeerExponential,
    RandomLinks,
    Static,
    rounds_to_show,
)
from topology.windows import connectivity_window, union, window_end, window_lengths


def test_rounds_to_show_and_union() -> None:
    schedule = laws.replay(4, [(0, 1)], [(1, 2)], [(2, 3)])
    assert rounds_to_show(schedule, 300) == range(3)
    assert rounds_to_show(schedule, 2) == range(2)
    assert rounds_to_show(RandomLinks(graphs.ring(4), 0.5, 0), 300) == range(300)
    assert union(schedule, 300).edges == {(0, 1), (1, 2), (2, 3)}
    assert union(schedule, 2).edges == {(0, 1), (1, 2)}


def test_window_of_static_is_one() -> None:
    assert connectivity_window(Static(graphs.ring(5)), 1) == 1


def test_window_of_a_period_goes_round_its_end() -> None:
    # connected in rounds 0-1 and 3-4 of a period, but the window from round 1 has to wait for round 3
    schedule = laws.replay(3, [(0, 1)], [(1, 2)], [(1, 2)], [(0, 1)])
    assert connectivity_window(schedule, 4) == 3  # rounds 3, 0, 1
    assert connectivity_window(laws.Finite(3, schedule.graphs), 4) == 3  # rounds 1, 2, 3
    late = laws.replay(3, [(0, 1), (1, 2)], [], [(0, 1), (1, 2)], [])
    assert connectivity_window(late, 4) == 2
    idle_end = laws.replay(3, [(0, 1), (1, 2)], [], [])
    assert connectivity_window(idle_end, 3) == 3


def test_window_looks_no_farther_than_the_run() -> None:
    # the only connection is in round 0: any window of the run without it must be too long to exist
    links = Graph.of(2, [(0, 1)])
    nothing = Graph(2, frozenset())
    assert connectivity_window(laws.Finite(2, (links, nothing, nothing, nothing)), 4) == 4
    assert connectivity_window(laws.Finite(2, (nothing, links, nothing, nothing)), 4) == 3
    assert connectivity_window(laws.Finite(2, (nothing, nothing, nothing, links)), 4) == 4


def test_window_of_a_run_shorter_than_the_period() -> None:
    schedule = laws.replay(3, [(0, 1)], [(1, 2)], [], [], [])
    assert connectivity_window(schedule, 2) == 2
    assert connectivity_window(schedule, 3) == 3
    assert connectivity_window(schedule, 5) == 5
    with pytest.raises(TopologyError, match=r"into 2 components: \{0, 1\}, \{2\}$"):
        connectivity_window(schedule, 1)


def test_many_components_are_named_in_part() -> None:
    with pytest.raises(TopologyError) as refusal:
        connectivity_window(Static(Graph.of(40, [(0, j) for j in range(1, 20)])), 1)
    text = str(refusal.value)
    assert "into 21 components: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more}, {20}, {21}," in text
    assert text.endswith("{26} and 13 more")


# flooding


@pytest.mark.parametrize(
    ("base", "length"),
    [
        (graphs.ring(7), 3),
        (graphs.ring(8), 4),
        (graphs.star(9), 2),
        (graphs.complete(9), 1),
        (graphs.grid(9), 4),
        (Graph(1, frozenset()), 1),
    ],
)
def test_a_window_of_a_static_graph_is_its_diameter(base: Graph, length: int) -> None:
    assert window_lengths(Static(base), 10**9) == (length,)
    assert window_end(Static(base), 10**8, 10**9) == 10**8 + length
    assert window_end(Static(base), 0, length - 1) is None


def test_windows_follow_the_order_of_the_links() -> None:
    """Word of 0 comes to 3 in one pass along 0-1, 1-2, 2-3, but that of 3 to 0 in three."""
    schedule = laws.replay(4, [(0, 1)], [(1, 2)], [(2, 3)])
    assert window_end(schedule, 0, 100) == 7
    assert window_end(schedule, 7, 100) == 7 + 6  # it begins with 1-2
    assert window_lengths(schedule, 100) == window_lengths(schedule, 13) == (7, 6)
    assert window_lengths(schedule, 12) == (7,)
    assert window_lengths(schedule, 6) == ()


def test_a_schedule_that_falls_apart_has_no_windows() -> None:
    assert window_lengths(laws.replay(3, [(0, 1)], []), 10**9) == ()
    assert window_lengths(RandomLinks(graphs.ring(4), 0.0, 1), 50) == ()


def test_windows_of_a_thousand_agents() -> None:
    assert window_lengths(Static(graphs.ring(1000)), 10**6) == (500,)
    assert window_lengths(OnePeerExponential(1024), 10**6) == (10,)
