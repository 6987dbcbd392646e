"""Schedules: their rounds, and the settings that describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.graphs import FAMILIES, TopologyError
from topology.schedules import (
    Matchings,
    OnePeerExponential,
    RandomLinks,
    Replay,
    Schedule,
    Static,
    make,
    save,
)
from topology.windows import connectivity_window


def made(name: str = "static", graph: str = "ring", n_agents: int = 6, **settings: Any) -> Schedule:
    plain = {"probability": 0.4, "radius": 0.6, "link_probability": 0.5, "path": None, "seed": 7}
    return make(name, graph, n_agents, **{**plain, **settings})


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
    schedule = laws.replay(3, [(0, 1)], [(1, 2)])
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
    schedule = laws.replay(6, [(0, 1)], [(2, 5)])
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
