"""The laws of `tests.laws_topology`, applied to random members of every family."""

from __future__ import annotations

import json
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import laws_topology as laws
from topology import files, graphs, outlets, schedules, windows
from topology.graphs import FAMILIES, Graph, TopologyError
from topology.outlets import Digraph, Outlets
from topology.schedules import SCHEDULES, Matchings, OnePeerExponential, RandomLinks, Replay, Schedule, Static
from topology.weights import RULES, Fastest, Weights

# No deadline: the time of a run is no law.
settings.register_profile("topology", deadline=None, max_examples=60)
few = settings(settings.get_profile("topology"))

seeds = st.integers(-(2**70), 2**70)
rounds = st.integers(0, 10**9)


@st.composite
def random_graphs(draw: st.DrawFn, n_agents: int | None = None, max_agents: int = 9) -> Graph:
    """Any graph at all: connected or not, with isolated agents or without."""
    n = draw(st.integers(1, max_agents)) if n_agents is None else n_agents
    pairs = list(combinations(range(n), 2))
    return Graph(n, frozenset(draw(st.sets(st.sampled_from(pairs)) if pairs else st.just(set()))))


def joined(graph: Graph) -> Graph:
    """The graph with a link more between the first agents of its components, one after the other."""
    heads = [part[0] for part in graph.components()]
    return Graph(graph.n_agents, graph.edges | set(pairwise(heads)))


@st.composite
def family_members(draw: st.DrawFn) -> Graph:
    return graphs.family(
        draw(st.sampled_from(FAMILIES)),
        draw(st.integers(1, 14)),
        probability=draw(st.floats(0.0, 1.0)),
        radius=draw(st.floats(0.01, 2.0)),
        seed=draw(seeds),
    )


@st.composite
def rounds_of_links(draw: st.DrawFn, max_rounds: int = 7) -> tuple[Graph, ...]:
    """A few rounds, each with few links, so that windows of more than one round are the rule."""
    n = draw(st.integers(1, 5))
    pairs = list(combinations(range(n), 2))
    edges = st.sets(st.sampled_from(pairs), max_size=3) if pairs else st.just(set[tuple[int, int]]())
    return tuple(Graph(n, frozenset(links)) for links in draw(st.lists(edges, min_size=1, max_size=max_rounds)))


@st.composite
def any_schedules(draw: st.DrawFn) -> Schedule:
    base, seed = draw(random_graphs(max_agents=6)), draw(seeds)
    found = draw(rounds_of_links())
    schedules: list[Schedule] = [
        Static(base),
        RandomLinks(base, draw(st.floats(0.0, 1.0)), seed),
        Matchings(base, seed),
        OnePeerExponential(base.n_agents),
        Replay(found[0].n_agents, found),
    ]
    return draw(st.sampled_from(schedules))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schedules") / "schedule.jsonl"


@few
@given(st.one_of(random_graphs(), family_members()))
def test_neighborhoods_and_components(graph: Graph) -> None:
    laws.neighborhood_is_symmetric(graph)
    laws.components_are_right(graph)


@few
@given(st.one_of(random_graphs(), family_members()))
def test_weights_are_symmetric_and_doubly_stochastic(graph: Graph) -> None:
    for weights in RULES.values():
        laws.doubly_stochastic(graph, weights)
    laws.metropolis_is_as_written(graph)
    laws.weights_are_as_written(graph)


@few
@given(random_graphs(max_agents=7), st.integers(0, 2**32))
def test_fastest_weights_are_the_fastest(graph: Graph, seed: int) -> None:
    laws.fastest_is_fastest(joined(graph), RULES.values(), np.random.default_rng(seed))


@few
@given(st.data(), random_graphs())
def test_averaging_preserves_the_mean(data: st.DataObject, graph: Graph) -> None:
    x = data.draw(hnp.arrays(np.float64, (graph.n_agents, 2), elements=st.floats(-1e6, 1e6)))
    for weights in RULES.values():
        laws.mean_is_preserved(graph, weights, x)
    connected = joined(graph)
    laws.mean_is_preserved(connected, Fastest.on(connected), x)


@few
@given(random_graphs(), st.floats(0.0, 1.0), seeds, rounds)
def test_random_links_obey_the_documented_rule(base: Graph, probability: float, seed: int, n: int) -> None:
    laws.links_obey_the_rule(RandomLinks(base, probability, seed), n)


@few
@given(random_graphs(), seeds, rounds)
def test_matchings_are_maximal_and_greedy(base: Graph, seed: int, n: int) -> None:
    schedule = Matchings(base, seed)
    laws.matching_is_maximal(schedule, n)
    laws.matching_is_greedy(schedule, n)


@few
@given(any_schedules(), st.lists(st.integers(0, 50), min_size=1))
def test_schedules_are_pure_and_symmetric(schedule: Schedule, asked: list[int]) -> None:
    first = [schedule.graph(n) for n in asked]
    schedules._random_links.cache_clear()
    schedules._matching.cache_clear()
    # asked again in another order: what was asked before must not matter
    assert [schedule.graph(n) for n in reversed(asked)] == first[::-1]
    for n, graph in zip(asked, first, strict=True):
        assert graph.n_agents == schedule.n_agents
        laws.neighborhood_is_symmetric(graph)
        if schedule.period is not None:
            assert schedule.graph(n + schedule.period) == graph


@few
@given(st.data(), st.integers(0, 5))
def test_one_peer_exponential_averages_exactly(data: st.DataObject, bits: int) -> None:
    x = data.draw(hnp.arrays(np.float64, 2**bits, elements=st.integers(-(2**20), 2**20)))
    laws.one_peer_averages_exactly(bits, x)


@few
@given(rounds_of_links(), st.integers(1, 16))
def test_window_of_a_periodic_schedule(found: tuple[Graph, ...], n_rounds: int) -> None:
    laws.window_is_smallest(Replay(found[0].n_agents, found), n_rounds)


@few
@given(rounds_of_links(max_rounds=12))
def test_window_of_a_schedule_without_period(found: tuple[Graph, ...]) -> None:
    laws.window_is_smallest(laws.Finite(found[0].n_agents, found), len(found))


@few
@given(random_graphs(max_agents=5), st.floats(0.1, 1.0), seeds, st.integers(1, 30))
def test_window_of_random_links_and_matchings(base: Graph, probability: float, seed: int, n_rounds: int) -> None:
    laws.window_is_smallest(RandomLinks(base, probability, seed), n_rounds)
    laws.window_is_smallest(Matchings(base, seed), n_rounds)


@few
@given(rounds_of_links())
def test_a_schedule_that_never_connects_names_its_components(found: tuple[Graph, ...]) -> None:
    n_agents = found[0].n_agents + 1  # the last agent never has a link
    apart = tuple(Graph(n_agents, graph.edges) for graph in found)
    laws.components_are_named(Replay(n_agents, apart), len(apart))
    laws.components_are_named(laws.Finite(n_agents, apart), len(apart))


@few
@given(st.booleans(), rounds_of_links(), st.integers(1, 16))
def test_mixing_rate_is_that_of_the_worst_window(periodic: bool, found: tuple[Graph, ...], n_rounds: int) -> None:
    schedule: Schedule = Replay(found[0].n_agents, found) if periodic else laws.Finite(found[0].n_agents, found)
    n_rounds = n_rounds if periodic else len(found)
    assume(len(laws.reachable(schedule.n_agents, windows.union(schedule, n_rounds).edges)) == 1)
    laws.rate_is_worst_window(schedule, n_rounds)


@few
@given(schedule=any_schedules(), n_rounds=st.integers(1, 30), n_steps=st.integers(1, 4))
def test_windows_end_when_everybody_has_heard_of_everybody(schedule: Schedule, n_rounds: int, n_steps: int) -> None:
    laws.flooding_is_right(schedule, n_rounds, n_steps)


@few
@given(random_graphs(max_agents=8), st.sampled_from(list(RULES.values())), st.integers(1, 6))
def test_the_polynomial_of_several_exchanges_is_chebyshevs(graph: Graph, weights: Weights, n_steps: int) -> None:
    laws.polynomial_is_chebyshevs(joined(graph), weights, n_steps)


@few
@given(rounds_of_links(max_rounds=12))
def test_windows_look_no_farther_than_the_run(found: tuple[Graph, ...]) -> None:
    laws.flooding_is_right(laws.Finite(found[0].n_agents, found), len(found))


@few
@given(schedule=any_schedules(), n_rounds=st.integers(1, 12))
def test_file_round_trip(schedule: Schedule, n_rounds: int, path: Path) -> None:
    laws.survives_a_file(schedule, n_rounds, path)


@st.composite
def digraphs(draw: st.DrawFn, n_agents: int | None = None) -> Digraph:
    """Any directed graph at all."""
    n = draw(st.integers(1, 7)) if n_agents is None else n_agents
    pairs = list(permutations(range(n), 2))
    return Digraph(n, frozenset(draw(st.sets(st.sampled_from(pairs)) if pairs else st.just(set()))))


@st.composite
def any_outlets(draw: st.DrawFn) -> Outlets:
    name, n_agents = draw(st.sampled_from(SCHEDULES)), draw(st.integers(1, 6))
    found = st.lists(digraphs(n_agents), min_size=1, max_size=4).map(tuple)
    return Outlets(
        name,
        draw(st.sampled_from(FAMILIES)),
        draw(st.booleans()),
        draw(st.floats(0.0, 1.0)),
        draw(st.floats(0.01, 2.0)),
        draw(st.floats(0.0, 1.0)),
        draw(seeds),
        draw(found) if name == "file" else (),
    )


any_members = st.sets(st.one_of(st.integers(0, 9), st.integers(0, 10**5)), min_size=1, max_size=10).map(
    lambda members: tuple(sorted(members))
)


@few
@given(digraphs())
def test_strong_components(graph: Digraph) -> None:
    laws.strong_components_are_right(graph)


@settings(few, max_examples=300)
@given(any_outlets(), any_members, rounds)
def test_outlets_connect_whoever_the_members_are(found: Outlets, members: tuple[int, ...], n: int) -> None:
    laws.members_reach_each_other(found, members)
    laws.receivers_are_some_of_the_links(found, members, n)
    if found.schedule != "file":
        laws.links_follow_the_places(found, members)
    if found.schedule in ("static", "random-links") and not found.directed:
        laws.pushes_are_symmetric(found, members, n)


@few
@given(any_outlets(), any_members, st.integers(1, 20))
def test_wakings_to_connect_are_the_fewest(found: Outlets, members: tuple[int, ...], most: int) -> None:
    """Of a file only its own arcs count: it is looked at where these connect its members, or never do."""
    assume(found.schedule != "file" or not any(found.of(members, i).ring for i in members))

    def connects(n_wakings: int) -> bool:
        rows = {i: {j for n in range(n_wakings) for j in found.receivers(members, i, n)} for i in members}
        return all(reached == set(members) for reached in laws.reach(rows).values())

    expected = next((n for n in range(1, most + 1) if connects(n)), None)
    if expected is None:
        with pytest.raises(TopologyError, match="the union of all wakings falls apart into"):
            outlets.wakings_to_connect(found, members, most)
    else:
        assert outlets.wakings_to_connect(found, members, most) == expected


@few
@given(found=any_outlets(), n_agents=st.integers(1, 6), n_wakings=st.integers(1, 12))
def test_round_trip_of_arcs(found: Outlets, n_agents: int, n_wakings: int, path: Path) -> None:
    schedule = outlets.InStep(found, n_agents)
    path.write_text("\n".join(schedule.lines(n_wakings)))
    again = outlets.load(path, n_agents)
    assert again == tuple(schedule.graph(n) for n in range(min(schedule.period or n_wakings, n_wakings)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "edges", "m"]), inner),
    max_leaves=8,
)
no_round = st.one_of(
    json_values.map(json.dumps),
    st.fixed_dictionaries({"n": json_values, "edges": json_values}).map(json.dumps),
    st.fixed_dictionaries({"n": st.just(5), "edges": st.lists(st.lists(st.integers(-2, 9)), min_size=1)}).map(
        json.dumps
    ),
    st.text().filter(lambda text: text.strip() and not {"\n", "\r"} & set(text)),
)


def is_round(line: str, earliest: int, n_agents: int) -> bool:
    """Whether a line is valid after rounds 0..earliest-1, written as the documentation says."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return False
    if not isinstance(found, dict) or found.keys() != {"n", "edges"}:
        return False
    n, edges = found["n"], found["edges"]
    if type(n) is not int or not earliest <= n <= earliest + files.MAX_GAP or not isinstance(edges, list):
        return False
    agents = list(range(n_agents))
    return all(
        isinstance(edge, list)
        and len(edge) == 2
        and all(type(end) is int and end in agents for end in edge)
        and edge[0] != edge[1]
        for edge in edges
    )


@settings(few, max_examples=200)
@given(good=st.integers(0, 3), bad=no_round)
def test_malformed_lines_are_refused_by_file_and_line(good: int, bad: str, path: Path) -> None:
    assume(not is_round(bad, earliest=good, n_agents=4))
    lines = [json.dumps({"n": n, "edges": [[0, 1], [3, 2]]}) for n in range(good)]
    path.write_text("\n".join([*lines, bad, "never looked at"]), encoding="utf-8", newline="\n")
    laws.refused_in_line(path, n_agents=4, number=good + 1)


@few
@given(good=st.integers(0, 3), junk=st.binary(max_size=8))
def test_bytes_that_are_no_text_are_refused_by_file_and_line(good: int, junk: bytes, path: Path) -> None:
    # 0xff begins no character of UTF-8
    path.write_bytes(b'{"n": 0, "edges": []}\n' * good + b"\xff" + junk.replace(b"\n", b"").replace(b"\r", b""))
    laws.refused_in_line(path, n_agents=4, number=good + 1)
