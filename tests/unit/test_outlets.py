"""Who pushes to whom without rounds: families over any members, their wakings, files, what a running peer pays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import laws_topology as laws
from topology import graphs, outlets
from topology.graphs import FAMILIES, Graph, TopologyError
from topology.outlets import Digraph, InStep, Outlets, strong_components, wakings_to_connect

MEMBERS = (2, 3, 5, 8, 11, 40)
"""Some ids with holes: peers that stayed, and newcomers."""


def digraph(n_agents: int, *arcs: tuple[int, int]) -> Digraph:
    return Digraph(n_agents, frozenset(arcs))


def replaying(*found: Digraph, **settings: Any) -> Outlets:
    return Outlets("file", "ring", replayed=found, **settings)


# directed graphs


def test_neighbors_of_a_directed_graph() -> None:
    graph = digraph(4, (2, 0), (0, 1), (2, 1), (1, 2))
    assert [graph.out_neighbors(i) for i in range(4)] == [(1,), (2,), (0, 1), ()]
    assert [graph.in_neighbors(i) for i in range(4)] == [(2,), (0, 2), (1,), ()]


@pytest.mark.parametrize("arc", [(1, 1), (-1, 0), (0, 3), (3, 0)])
def test_arcs_join_two_agents(arc: tuple[int, int]) -> None:
    with pytest.raises(TopologyError, match=r"expected two different agents in 0\.\.2"):
        digraph(3, arc)
    with pytest.raises(TopologyError, match="0 agents: expected at least 1"):
        Digraph(0, frozenset())


def test_strongly_connected_is_more_than_connected() -> None:
    assert laws.components(digraph(3, (0, 1), (1, 2))) == [[0], [1], [2]]
    assert laws.components(digraph(3, (0, 1), (1, 2), (2, 0))) == [[0, 1, 2]]
    assert laws.components(digraph(1)) == [[0]]
    assert laws.components(digraph(3, (1, 0), (2, 0))) == [[0], [1], [2]], "everybody reaches 0, and it nobody"


def test_strong_components_by_hand() -> None:
    two = digraph(7, (0, 3), (3, 5), (5, 0), (5, 1), (1, 2), (2, 1), (2, 4), (6, 0))
    assert laws.components(two) == [[0, 3, 5], [1, 2], [4], [6]]


def test_a_long_path_is_no_deep_recursion() -> None:
    n = 20_000
    assert len(laws.components(digraph(n, *((i, i + 1) for i in range(n - 1))))) == n


# families over members


def test_directed_ring_and_exponential_over_ids() -> None:
    assert Outlets("static", "ring", directed=True).links(MEMBERS) == {
        2: (3,), 3: (5,), 5: (8,), 8: (11,), 11: (40,), 40: (2,)
    }  # fmt: skip
    exponential = Outlets("static", "exponential", directed=True)
    assert exponential.out_neighbors(MEMBERS, 11) == (2, 5, 40)  # 1, 2, and 4 places on
    assert exponential.in_neighbors(MEMBERS, 11) == (2, 5, 8)  # 4, 2, and 1 places back
    assert exponential.receivers(MEMBERS, 11, 17) == (2, 5, 40)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_agents", [1, 2, 3, 4, 5, 6, 7, 12, 16, 25, 31])
def test_without_directions_initial_members_have_the_links_of_rounds(family: str, n_agents: int) -> None:
    linked = Outlets("static", family, probability=0.4, radius=0.6, seed=5)
    graph = graphs.family(family, n_agents, probability=0.4, radius=0.6, seed=5)
    assert graph.is_connected(), "else a ring is added"
    members = tuple(range(n_agents))
    for i in members:
        assert linked.out_neighbors(members, i) == linked.in_neighbors(members, i) == graph.neighbors(i)


@pytest.mark.parametrize("family", ["grid", "complete", "star", "geometric"])
def test_other_families_push_both_ways(family: str) -> None:
    plain, directed = (Outlets("static", family, directed=directed) for directed in (False, True))
    assert plain.links(MEMBERS) == directed.links(MEMBERS)


def test_directed_erdos_renyi_obeys_its_documented_rule() -> None:
    """Each arc by itself, in the first draw that is strongly connected; here not the very first."""

    def draw(attempt: int) -> Digraph:
        arcs = ((i, j) for i in range(6) for j in range(6) if i != j)
        text = f"3:erdos-renyi:{attempt}"
        return digraph(6, *((i, j) for i, j in arcs if laws.documented_hash(f"{text}:{i}:{j}") < 0.3 * 2**64))

    connected = [attempt for attempt in range(100) if len(laws.components(draw(attempt))) == 1]
    assert connected[0] > 0
    expected = draw(connected[0])
    linked = Outlets("static", "erdos-renyi", directed=True, probability=0.3, seed=3)
    for place, i in enumerate(MEMBERS):
        assert linked.out_neighbors(MEMBERS, i) == tuple(MEMBERS[j] for j in expected.out_neighbors(place))
        assert linked.in_neighbors(MEMBERS, i) == tuple(MEMBERS[j] for j in expected.in_neighbors(place))


@pytest.mark.parametrize("family", ["erdos-renyi", "geometric"])
@pytest.mark.parametrize("directed", [False, True])
def test_a_ring_is_added_where_no_draw_connects(family: str, directed: bool) -> None:
    linked = Outlets("static", family, directed=directed, probability=0.0, radius=1e-9)
    expected = Outlets("static", "ring", directed=directed)
    assert linked.links(MEMBERS) == expected.links(MEMBERS)


def test_only_members_have_links() -> None:
    with pytest.raises(ValueError, match="agent 4 is none of the members"):
        Outlets("static", "ring").out_neighbors(MEMBERS, 4)


def test_one_member_is_alone() -> None:
    for family in FAMILIES:
        for schedule in ("static", "random-links", "matchings", "one-peer-exponential"):
            linked = Outlets(schedule, family, directed=True, link_probability=1.0)
            assert linked.links((7,)) == {7: ()}
            assert linked.receivers((7,), 7, 3) == ()


# wakings


def test_random_links_obey_the_documented_rule() -> None:
    for directed in (False, True):
        linked = Outlets("random-links", "complete", directed=directed, link_probability=0.4, seed=9)
        for n in range(20):
            for i in MEMBERS:
                ends = {j: (i, j) if directed else (min(i, j), max(i, j)) for j in MEMBERS if j != i}
                below = {j for j, (a, b) in ends.items() if laws.documented_hash(f"9:{n}:{a}:{b}") < 0.4 * 2**64}
                assert linked.receivers(MEMBERS, i, n) == tuple(sorted(below))


def test_random_links_of_agents_that_woke_as_often_are_those_of_rounds() -> None:
    from topology.schedules import RandomLinks

    schedule = RandomLinks(graphs.grid(6), 0.5, 7)
    linked = Outlets("random-links", "grid", seed=7)
    members = tuple(range(6))
    for n in range(50):
        assert [linked.receivers(members, i, n) for i in members] == [schedule.graph(n).neighbors(i) for i in members]


def test_matchings_push_to_one_neighbor_and_to_each_as_often() -> None:
    linked = Outlets("matchings", "exponential", directed=True, seed=4)
    possible = linked.out_neighbors(MEMBERS, 8)
    pushed = [linked.receivers(MEMBERS, 8, n) for n in range(3000)]
    assert all(len(found) == 1 for found in pushed)
    share = {j: sum(found == (j,) for found in pushed) / 3000 for j in possible}
    assert sum(share.values()) == pytest.approx(1.0)
    assert list(share.values()) == pytest.approx([1 / 3] * 3, abs=0.03)  # three standard deviations
    place = laws.documented_hash("4:matchings:17:8") * 3 // 2**64
    assert pushed[17] == (possible[place],)


def test_one_peer_exponential_hops_on_the_circle_of_members() -> None:
    linked = Outlets("one-peer-exponential", "ring")
    assert [linked.receivers(MEMBERS, 11, n) for n in range(4)] == [(40,), (2,), (5,), (40,)]
    assert linked.period(6) == 3
    assert linked.links(MEMBERS) == Outlets("static", "exponential", directed=True).links(MEMBERS)


def test_one_peer_exponential_averages_exactly() -> None:
    """With 2^k members that wake in turn, the push of half of what one has leaves everybody with the mean."""
    members = tuple(range(0, 24, 3))
    linked = Outlets("one-peer-exponential", "ring")
    mass = {i: float(i) for i in members}
    for n in range(3):
        parts = dict.fromkeys(members, 0.0)
        for i in members:
            (j,) = linked.receivers(members, i, n)
            parts[i] += mass[i] / 2
            parts[j] += mass[i] / 2
        mass = parts
    assert set(mass.values()) == {10.5}


# files


def test_a_file_is_replayed_among_its_members() -> None:
    linked = replaying(digraph(4, (0, 1), (1, 0), (3, 0)), digraph(4, (1, 2), (2, 3)))
    everybody = (0, 1, 2, 3)
    assert linked.links(everybody) == {0: (1,), 1: (0, 2), 2: (3,), 3: (0,)}
    assert linked.in_neighbors(everybody, 0) == (1, 3)
    assert [linked.receivers(everybody, 1, n) for n in range(4)] == [(0,), (2,), (0,), (2,)]
    assert [linked.receivers(everybody, 0, n) for n in range(2)] == [(1,), ()]
    assert linked.links((0, 1)) == {0: (1,), 1: (0,)}, "strongly connected still: nothing is added"


def test_members_that_a_file_does_not_connect_get_a_ring() -> None:
    linked = replaying(digraph(4, (0, 1), (1, 0), (3, 0)), digraph(4, (1, 2), (2, 3)), directed=True)
    left = (0, 2, 3)
    assert linked.links(left) == {0: (2,), 2: (3,), 3: (0,)}
    assert [linked.receivers(left, 0, n) for n in range(2)] == [(2,), (2,)], "at every waking"
    assert linked.in_neighbors(left, 2) == (0,)
    grown = (0, 1, 2, 3, 9)
    assert linked.links(grown) == {0: (1,), 1: (0, 2), 2: (3,), 3: (0, 9), 9: (0,)}
    assert linked.receivers(grown, 3, 1) == (9,)
    assert linked.in_neighbors(grown, 9) == (3,)
    both_ways = replaying(digraph(4, (0, 1), (1, 0)))
    assert both_ways.links((0, 1, 2)) == {0: (1, 2), 1: (0, 2), 2: (0, 1)}


def test_lines_have_edges_or_arcs(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    path.write_text('{"n": 0, "arcs": [[0, 1], [2, 0]]}\n{"n": 2, "edges": [[2, 1]]}\n')
    assert outlets.load(path, 3) == (digraph(3, (0, 1), (2, 0)), digraph(3), digraph(3, (1, 2), (2, 1)))


def test_lines_are_read_again(tmp_path: Path) -> None:
    linked = Outlets("random-links", "ring", directed=True, seed=3)
    path = tmp_path / "links.jsonl"
    path.write_text("\n".join(InStep(linked, 5).lines(12)))
    assert path.read_text().startswith('{"n": 0, "arcs": [[')
    again = replaying(*outlets.load(path, 5))
    members = tuple(range(5))
    for n in range(12):
        assert all(again.receivers(members, i, n) == linked.receivers(members, i, n) for i in members)
    assert list(InStep(Outlets("static", "ring", directed=True), 3).lines(300)) == [
        '{"n": 0, "arcs": [[0, 1], [1, 2], [2, 0]]}'
    ]


def test_a_file_goes_with_its_schedule() -> None:
    with pytest.raises(TopologyError, match="'file' with 0 graphs"):
        Outlets("file", "ring")
    with pytest.raises(TopologyError, match="'static' with 1 graphs"):
        Outlets("static", "ring", replayed=(digraph(2),))


# settings and connectivity


def test_make_passes_its_settings_on(tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "directed": True, "probability": 0.1, "radius": 0.2, "link_probability": 0.3, "path": None, "seed": 4
    }  # fmt: skip
    assert outlets.make("static", "grid", 6, **plain) == Outlets("static", "grid", True, 0.1, 0.2, 0.3, 4)
    with pytest.raises(TopologyError, match="graph 'torus': expected one of ring"):
        outlets.make("static", "torus", 6, **plain)
    with pytest.raises(TopologyError, match="schedule 'file': expected the path"):
        outlets.make("file", "ring", 6, **plain)
    path = tmp_path / "links.jsonl"
    path.write_text('{"n": 0, "arcs": [[0, 5]]}')
    assert outlets.make("file", "ring", 6, **plain | {"path": path}).replayed == (digraph(6, (0, 5)),)


def test_strong_components_of_a_file_are_named() -> None:
    linked = replaying(digraph(4, (0, 1), (1, 0)), digraph(4, (1, 2), (2, 3)), digraph(4, (3, 2)))
    with pytest.raises(TopologyError) as refusal:
        wakings_to_connect(linked, (0, 1, 2, 3), 300)
    assert str(refusal.value) == (
        "the union of all wakings falls apart into 2 strongly connected components: {0, 1}, {2, 3}"
    )
    whole = replaying(*linked.replayed, digraph(4, (3, 0)))
    assert wakings_to_connect(whole, (0, 1, 2, 3), 300) == 4
    with pytest.raises(TopologyError, match="into 2 strongly"):
        wakings_to_connect(whole, (0, 1, 2, 3), 3)


def test_links_that_are_hardly_ever_up_connect_late() -> None:
    linked = Outlets("random-links", "ring", directed=True, link_probability=0.02)
    members = tuple(range(6))
    with pytest.raises(TopologyError, match="the union of all wakings falls apart into"):
        wakings_to_connect(linked, members, 10)
    n_wakings = wakings_to_connect(linked, members, 2000)
    arcs = InStep(linked, 6).union(n_wakings).arcs
    assert arcs == InStep(linked, 6).links.arcs, "a ring with a direction needs every arc"
    assert InStep(linked, 6).union(n_wakings - 1).arcs < arcs
    never = Outlets("random-links", "ring", link_probability=0.0)
    with pytest.raises(TopologyError, match=r"6 strongly connected components: \{0\}, \{1\}"):
        wakings_to_connect(never, members, 300)


@pytest.mark.parametrize("schedule", ["static", "matchings", "one-peer-exponential"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_schedules_connect(schedule: str, family: str) -> None:
    linked = Outlets(schedule, family, directed=True, seed=1)
    assert 1 <= wakings_to_connect(linked, MEMBERS, 300) < 100
    if schedule != "static":
        rows = {i: {j for n in range(300) for j in linked.receivers(MEMBERS, i, n)} for i in MEMBERS}
        assert len(strong_components(rows)) == 1
        assert rows == {i: set(found) for i, found in linked.links(MEMBERS).items()}


# what a running peer pays


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_members_are_looked_at_in_part(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of digests, of which most machines make a million a second."""
    counted = 0

    def hash64(text: str) -> int:
        nonlocal counted
        counted += 1
        return laws.documented_hash(text)

    monkeypatch.setattr(graphs, "hash64", hash64)
    outlets._outlet.cache_clear()
    outlets._draw.cache_clear()
    members = tuple(range(1000))
    linked = Outlets("static", family, directed=True, probability=0.1, radius=0.3)
    found = linked.of(members, 500)
    assert found.out_neighbors
    assert counted < 30_000
    before = counted
    assert linked.receivers(members, 500, 0) == found.out_neighbors
    assert linked.receivers(members, 500, 1) == found.out_neighbors
    assert counted == before


@pytest.mark.parametrize("family", ["erdos-renyi", "geometric"])
def test_a_thousand_members_that_no_draw_connects_are_given_up_soon(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(outlets, "_connects", lambda link, n: asked.append(n))
    outlets._draw.cache_clear()
    Outlets("static", family).of(tuple(range(1000)), 0)
    Outlets("static", family).of(tuple(range(102)), 0)
    outlets._draw.cache_clear()
    assert (asked.count(1000), asked.count(102)) == (1, 100)


def test_a_running_peer_needs_no_networkx() -> None:
    """In a fresh interpreter, as this one has long imported it."""
    program = """
import sys
import topology
from topology.graphs import FAMILIES, Graph, family
from topology.outlets import Outlets, wakings_to_connect
from topology.schedules import Static
from topology.windows import connectivity_window
for name in FAMILIES:
    graph = family(name, 9, probability=0.5, radius=0.6, seed=1)
    assert graph.is_connected() and connectivity_window(Static(graph), 3) == 1
    for schedule in "static", "random-links", "matchings", "one-peer-exponential":
        linked = Outlets(schedule, name)
        wakings_to_connect(linked, (1, 4, 9), 300)
        assert linked.out_neighbors((1, 4, 9), 4) and linked.receivers((1, 4, 9), 4, 3) is not None
loaded = {"networkx", "matplotlib", "scipy", "click", "numpy"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_ways() -> None:
    assert Digraph.both_ways(3, Graph.of(3, [(0, 1), (1, 2)]).edges) == digraph(3, (0, 1), (1, 0), (1, 2), (2, 1))
