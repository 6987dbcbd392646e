"""Schedules: their rounds, the settings that describe them, connectivity over windows, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.graphs import FAMILIES, Graph, TopologyError
from topology.schedules import (
    MAX_GAP,
    Matchings,
    OnePeerExponential,
    RandomLinks,
    Replay,
    Schedule,
    Static,
    connectivity_window,
    lines,
    load,
    make,
    rounds_to_show,
    save,
    union,
    window_end,
    window_lengths,
)


def made(name: str = "static", graph: str = "ring", n_agents: int = 6, **settings: Any) -> Schedule:
    plain = {"probability": 0.4, "radius": 0.6, "link_probability": 0.5, "path": None, "seed": 7}
    return make(name, graph, n_agents, **{**plain, **settings})


def replay(n_agents: int, *rounds: list[tuple[int, int]]) -> Replay:
    return Replay(n_agents, tuple(Graph.of(n_agents, pairs) for pairs in rounds))


# rounds


def test_one_peer_exponential_rounds() -> None:
    schedule = OnePeerExponential(6)
    assert schedule.period == 3
    assert [sorted(schedule.graph(n).edges) for n in range(3)] == [
        [(0, 1), (2, 3), (4, 5)],
        [(0, 2), (1, 3)],  # 4 and 5 would meet 6 and 7, who do not exist
        [(0, 4), (1, 5)],
    ]
    assert schedule.graph(3) == schedule.graph(0)


@pytest.mark.parametrize("n_agents", range(1, 34))
def test_one_peer_exponential_connects_any_number_within_a_period(n_agents: int) -> None:
    schedule = OnePeerExponential(n_agents)
    assert 2 ** (schedule.period - 1) < max(n_agents, 2) <= 2**schedule.period
    assert connectivity_window(schedule, 100) <= schedule.period


def test_random_links_and_matchings_never_change() -> None:
    """Worked out by hand from the digests that `b2sum -l 64` prints."""
    base = graphs.complete(5)
    links = [sorted(RandomLinks(base, 0.5, 7).graph(n).edges) for n in range(2)]
    assert links == [
        [(0, 3), (0, 4), (1, 4), (2, 3), (2, 4)],
        [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 4)],
    ]
    assert [sorted(Matchings(base, 7).graph(n).edges) for n in range(2)] == [[(1, 4), (2, 3)], [(0, 4), (1, 2)]]


def test_random_links_are_up_as_often_as_asked() -> None:
    schedule = RandomLinks(graphs.ring(10), 0.3, 0)
    share = sum(len(schedule.graph(n).edges) for n in range(1000)) / 10_000
    assert share == pytest.approx(0.3, abs=0.015)  # three standard deviations; the draws never change


def test_random_links_are_independent_of_the_graph_of_the_same_seed() -> None:
    """In no round do they repeat the draw that made the graph, by which all would be up together."""
    for n in range(3):
        found = [RandomLinks(graphs.erdos_renyi(8, 0.3, seed), 0.5, seed) for seed in range(40)]
        n_up = sum(len(schedule.graph(n).edges) for schedule in found)
        assert n_up / sum(len(schedule.base.edges) for schedule in found) == pytest.approx(0.5, abs=0.08)


def test_matching_differs_from_round_to_round() -> None:
    schedule = Matchings(graphs.complete(6), 1)
    assert len({schedule.graph(n) for n in range(30)}) > 10


def test_replay_repeats_and_refuses_nonsense() -> None:
    schedule = replay(3, [(0, 1)], [(1, 2)])
    assert [schedule.graph(n).edges for n in (0, 1, 2, 7)] == [{(0, 1)}, {(1, 2)}, {(0, 1)}, {(1, 2)}]
    with pytest.raises(TopologyError, match="no graphs"):
        Replay(3, ())
    with pytest.raises(TopologyError, match="round 1: expected a graph of 3 agents, found 4"):
        Replay(3, (graphs.ring(3), graphs.ring(4)))


# settings


@pytest.mark.parametrize("graph", FAMILIES)
def test_make_builds_every_schedule_on_every_family(graph: str) -> None:
    base = graphs.family(graph, 6, probability=0.4, radius=0.6, seed=7)
    assert made("static", graph) == Static(base)
    assert made("random-links", graph) == RandomLinks(base, 0.5, 7)
    assert made("matchings", graph) == Matchings(base, 7)
    assert made("one-peer-exponential", graph) == OnePeerExponential(6)


def test_make_passes_its_settings_on() -> None:
    assert made(graph="erdos-renyi", probability=0.9, seed=1) == Static(graphs.erdos_renyi(6, 0.9, 1))
    assert made(graph="geometric", radius=0.9, seed=1) == Static(graphs.geometric(6, 0.9, 1))
    assert made("random-links", link_probability=0.25, seed=1) == RandomLinks(graphs.ring(6), 0.25, 1)
    assert made("matchings", seed=1) == Matchings(graphs.ring(6), 1)


def test_make_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    schedule = replay(6, [(0, 1)], [(2, 5)])
    save(schedule, 2, path)
    assert made("file", path=path) == schedule


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "gossip"}, "schedule 'gossip': expected one of static, random-links, matchings"),
        ({"graph": "torus"}, "graph 'torus': expected one of ring, grid"),
        ({"graph": "torus", "name": "one-peer-exponential"}, "graph 'torus': expected one of ring, grid"),
        ({"n_agents": 0}, "peers 0: expected at least 1"),
        ({"n_agents": -3, "name": "one-peer-exponential"}, "peers -3: expected at least 1"),
        ({"probability": 1.5}, r"probability 1.5: expected a number in \[0, 1\]"),
        ({"probability": float("nan")}, "probability nan: expected"),
        ({"link_probability": -0.1}, "link probability -0.1: expected"),
        ({"radius": 0.0}, "radius 0.0: expected a positive number"),
        ({"radius": float("nan")}, "radius nan: expected a positive number"),
        ({"name": "file"}, "schedule 'file': expected the path of a schedule file, found none"),
    ],
)
def test_make_refuses(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(TopologyError, match=f"^{problem}"):
        made(**settings)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_ends_of_the_range_are_probabilities(probability: float) -> None:
    schedule = made("random-links", graph="complete", link_probability=probability)
    assert len(schedule.graph(0).edges) == 15 * probability


# connectivity


def test_rounds_to_show_and_union() -> None:
    schedule = replay(4, [(0, 1)], [(1, 2)], [(2, 3)])
    assert rounds_to_show(schedule, 300) == range(3)
    assert rounds_to_show(schedule, 2) == range(2)
    assert rounds_to_show(RandomLinks(graphs.ring(4), 0.5, 0), 300) == range(300)
    assert union(schedule, 300).edges == {(0, 1), (1, 2), (2, 3)}
    assert union(schedule, 2).edges == {(0, 1), (1, 2)}


def test_window_of_static_is_one() -> None:
    assert connectivity_window(Static(graphs.ring(5)), 1) == 1


def test_window_of_a_period_goes_round_its_end() -> None:
    # connected in rounds 0-1 and 3-4 of a period, but the window from round 1 has to wait for round 3
    schedule = replay(3, [(0, 1)], [(1, 2)], [(1, 2)], [(0, 1)])
    assert connectivity_window(schedule, 4) == 3  # rounds 3, 0, 1
    assert connectivity_window(laws.Finite(3, schedule.graphs), 4) == 3  # rounds 1, 2, 3
    late = replay(3, [(0, 1), (1, 2)], [], [(0, 1), (1, 2)], [])
    assert connectivity_window(late, 4) == 2
    idle_end = replay(3, [(0, 1), (1, 2)], [], [])
    assert connectivity_window(idle_end, 3) == 3


def test_window_looks_no_farther_than_the_run() -> None:
    # the only connection is in round 0: any window of the run without it must be too long to exist
    links = Graph.of(2, [(0, 1)])
    nothing = Graph(2, frozenset())
    assert connectivity_window(laws.Finite(2, (links, nothing, nothing, nothing)), 4) == 4
    assert connectivity_window(laws.Finite(2, (nothing, links, nothing, nothing)), 4) == 3
    assert connectivity_window(laws.Finite(2, (nothing, nothing, nothing, links)), 4) == 4


def test_window_of_a_run_shorter_than_the_period() -> None:
    schedule = replay(3, [(0, 1)], [(1, 2)], [], [], [])
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
    schedule = replay(4, [(0, 1)], [(1, 2)], [(2, 3)])
    assert window_end(schedule, 0, 100) == 7
    assert window_end(schedule, 7, 100) == 7 + 6  # it begins with 1-2
    assert window_lengths(schedule, 100) == window_lengths(schedule, 13) == (7, 6)
    assert window_lengths(schedule, 12) == (7,)
    assert window_lengths(schedule, 6) == ()


def test_a_schedule_that_falls_apart_has_no_windows() -> None:
    assert window_lengths(replay(3, [(0, 1)], []), 10**9) == ()
    assert window_lengths(RandomLinks(graphs.ring(4), 0.0, 1), 50) == ()


def test_windows_of_a_thousand_agents() -> None:
    assert window_lengths(Static(graphs.ring(1000)), 10**6) == (500,)
    assert window_lengths(OnePeerExponential(1024), 10**6) == (10,)


# files


def test_lines_are_those_of_the_interface() -> None:
    schedule = replay(6, [(1, 0), (2, 5)], [])
    assert list(lines(schedule, 300)) == ['{"n": 0, "edges": [[0, 1], [2, 5]]}', '{"n": 1, "edges": []}']


def test_file_is_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    schedule = RandomLinks(graphs.ring(5), 0.5, 3)
    save(schedule, 4, path)
    assert path.read_bytes() == "".join(line + "\n" for line in lines(schedule, 4)).encode()


def test_load_fills_gaps_and_skips_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('\n{"n": 1, "edges": [[2, 0]]}\r\n  \n{"edges": [[1, 0], [0, 1]], "n": 3}')
    assert load(path, 3) == replay(3, [], [(0, 2)], [], [(0, 1)])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "column 2: expected JSON, found: Expecting property name enclosed in double quotes"),
        ("[]", 'expected an object with the keys "n" and "edges" (or "arcs"), found []'),
        ('{"n": 1}', 'expected an object with the keys "n" and "edges" (or "arcs"), found {"n": 1}'),
        ('{"n": 1, "edges": [], "p": 0}', 'expected an object with the keys "n" and "edges" (or "arcs")'),
        ('{"n": 1, "edges": [], "n": 2}', 'expected every key once, found ["n", "edges", "n"]'),
        ('{"n": true, "edges": []}', '"n": expected a round number, found true'),
        ('{"n": 1.0, "edges": []}', '"n": expected a round number, found 1.0'),
        ('{"n": -1, "edges": []}', '"n": expected a round number, found -1'),
        ('{"n": NaN, "edges": []}', '"n": expected a round number, found NaN'),
        ('{"n": 0, "edges": []}', "n = 0 after n = 0: expected ascending rounds"),
        (f'{{"n": {MAX_GAP + 2}, "edges": []}}', f"n = {MAX_GAP + 2} leaves more than {MAX_GAP} rounds before it"),
        ('{"n": 1, "edges": {}}', '"edges": expected a list of pairs [i, j], found {}'),
        ('{"n": 1, "edges": ["01"]}', '"edges": expected a list of pairs [i, j], found ["01"]'),
        ('{"n": 1, "edges": [[0, 1, 2]]}', '"edges": expected a list of pairs [i, j], found [[0, 1, 2]]'),
        ('{"n": 1, "edges": [[0, true]]}', '"edges": expected a list of pairs [i, j], found [[0, true]]'),
        ('{"n": 1, "edges": [[0, 4]]}', "edge [0, 4]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [[-1, 0]]}', "edge [-1, 0]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [[2, 2]]}', "edge [2, 2]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [], "arcs": []}', 'expected an object with the keys "n" and "edges" (or "arcs")'),
        ('{"n": 1, "arcs": [[0, 1, 2]]}', '"arcs": expected a list of pairs [i, j], found [[0, 1, 2]]'),
        ('{"n": 1, "arcs": [[0, 4]]}', "arc [0, 4]: expected two different peers in 0..3"),
        ('{"n": 1, "arcs": [[0, 1]]}', '"arcs": links with a direction need mode = "async"; rounds have "edges"'),
        ("[" * 100_000, "expected a round, found JSON nested too deeply"),
        ('{"n": 1, "edges": [' + "9" * 5000 + "]}", "expected a round, found JSON that cannot be read"),
        (json.dumps({"n": 1, "edges": "x" * 500}), '"edges": expected a list of pairs [i, j], found "xxx'),
    ],
)
def test_malformed_lines(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('{"n": 0, "edges": []}\n' + line + "\n")
    found = laws.refused_in_line(path, n_agents=4, number=2)
    assert found.startswith(problem)
    assert len(found) < 200


def test_largest_gap_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text(f'{{"n": {MAX_GAP}, "edges": []}}')
    assert load(path, 2).period == MAX_GAP + 1


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('{"n": 0, "edges": []}\x0c\x0b\n\u2028\nnonsense', encoding="utf-8")
    laws.refused_in_line(path, n_agents=4, number=1)  # a form feed is no white space to JSON
    path.write_text("\x0c\x0b\u2028\nnonsense", encoding="utf-8")
    laws.refused_in_line(path, n_agents=4, number=2)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text("\n\n")
    assert laws.refused_in_line(path, 4, number=1) == "expected at least one round, found none"


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"missing\.jsonl: cannot read the schedule: No such file or directory$"):
        load(tmp_path / "missing.jsonl", 4)
    with pytest.raises(TopologyError, match=r"cannot read the schedule: Is a directory$"):
        load(tmp_path, 4)
    with pytest.raises(TopologyError, match=r"cannot read the schedule: embedded null byte$"):
        load(Path("a\0b"), 4)
    with pytest.raises(TopologyError, match=r"cannot write the schedule: No such file or directory$"):
        save(OnePeerExponential(4), 2, tmp_path / "missing" / "schedule.jsonl")
