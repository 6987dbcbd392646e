"""Links of an experiment: what peers get of them, and what is recorded."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import config, learning, settings
from peer.checkpoint import Checkpoint, Moment
from peer.errors import ConfigError
from peer.messages import Standing
from peer.optim.surrogates import Partial
from peer.settings import Experiment
from peer.shards import Shard
from topology import outlets, schedules
from topology.outlets import InStep, Outlets
from topology.weights import WEIGHTS, Fastest, make


def experiment(mode: str = "async", peers: int = 5, iterations: int = 40, **topology: Any) -> Experiment:
    return settings.from_tree(
        {
            "peers": peers,
            "iterations": iterations,
            "seed": 3,
            "data": {"dataset": "wine"},
            "topology": {"graph": "ring", **topology},
            "run": {"mode": mode},
        }
    )


def recorded(found: Experiment, run_dir: Path) -> list[str]:
    config.record(found, config.ground(found), run_dir)
    assert settings.read(run_dir / "experiment.toml").topology == found.topology
    return (run_dir / "schedule.jsonl").read_text().splitlines()


def test_all_settings_arrive() -> None:
    given: dict[str, Any] = {"probability": 0.1, "radius": 0.2, "link_probability": 0.9}
    found = config.outlets_of(experiment(graph="geometric", schedule="random-links", directed=True, **given))
    assert found == Outlets("random-links", "geometric", True, 0.1, 0.2, 0.9, 3)


def test_agents_whose_mixing_matrix_has_no_room_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"peers: expected at most 10,000 where .* is auto"):
        config.ground(experiment("rounds", 10_001))


def test_neighbors_without_rounds_are_of_both_directions() -> None:
    ground = config.ground(experiment(graph="exponential", directed=True, peers=6))
    assert ground.outlets.out_neighbors(tuple(range(6)), 0) == (1, 2, 4)
    assert ground.union[0] == (1, 2, 4, 5)  # and 5, 4, 2 push to it
    assert not ground.schedule.links.edges, "there are no rounds in which to meet"
    assert ground.digest == ""


def test_rounds_have_outlets_too() -> None:
    ground = config.ground(experiment("rounds"))
    assert ground.outlets == Outlets("static", "ring", seed=3)
    assert ground.union == ((1, 4), (0, 2), (1, 3), (2, 4), (0, 3))


@pytest.mark.parametrize(
    ("topology", "n_lines"),
    [
        ({"directed": True}, 1),
        ({"schedule": "one-peer-exponential"}, 3),
        ({"schedule": "random-links"}, 40),
        ({"schedule": "matchings", "graph": "star"}, 40),
    ],
)
def test_arcs_are_recorded(topology: dict[str, Any], n_lines: int, tmp_path: Path) -> None:
    found = experiment(**topology)
    lines = recorded(found, tmp_path)
    assert lines == list(InStep(config.outlets_of(found), 5).lines(40))
    assert len(lines) == n_lines
    assert lines[0].startswith('{"n": 0, "arcs": [[')
    graphs = outlets.load(tmp_path / "schedule.jsonl", 5)
    assert graphs[0].arcs == InStep(config.outlets_of(found), 5).graph(0).arcs


def test_all_exchanges_are_recorded(tmp_path: Path) -> None:
    """Each has the next graph of the schedule, and one of them may be what connects all."""
    found = experiment("rounds", 4, 5, schedule="random-links", consensus_steps=3)
    assert len(recorded(found, tmp_path)) == 15
    path = tmp_path / "links.jsonl"
    edges = [(0, 1), (1, 2), (2, 3), (3, 0)]
    path.write_text("\n".join(f'{{"n": {n}, "edges": [[{i}, {j}]]}}' for n, (i, j) in enumerate(edges)))
    given: dict[str, Any] = {"schedule": "file", "path": str(path)}
    assert config.ground(experiment("rounds", 4, 2, consensus_steps=2, **given)).union[0] == (1, 3)
    with pytest.raises(ConfigError, match="falls apart"):
        config.ground(experiment("rounds", 4, 2, **given))


def test_what_never_repeats_is_recorded_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = experiment(schedule="random-links", iterations=2**31)
    assert len(recorded(found, tmp_path)) == config.MOST_LINES
    monkeypatch.setattr(config, "MOST_CHARACTERS", 2_000)
    lines = recorded(found, tmp_path)
    assert sum(map(len, lines[:-1])) <= 2_000 < sum(map(len, lines))


def test_a_file_is_recorded_whole_and_told_apart_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of iterations: peers wake more often than that."""
    monkeypatch.setattr(config, "MOST_CHARACTERS", 10)
    path = tmp_path / "links.jsonl"
    arcs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
    path.write_text("\n".join(f'{{"n": {n}, "arcs": [[{i}, {j}]]}}' for n, (i, j) in enumerate(arcs * 2)))
    found = experiment(schedule="file", path=str(path), iterations=5)
    assert recorded(found, tmp_path / "run") == path.read_text().splitlines()
    digest = config.ground(found).digest
    copy = experiment(schedule="file", path=str(tmp_path / "run" / "schedule.jsonl"))
    assert config.ground(copy).digest == digest != ""
    path.write_text(path.read_text() + '\n{"n": 10, "edges": [[0, 1]]}')
    assert config.ground(found).digest != digest
    with pytest.raises(ConfigError, match="union of all wakings falls apart into 5 strongly connected"):
        config.ground(experiment(schedule="file", path=str(path), iterations=4))


def test_rounds_refuse_arcs(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    path.write_text('{"n": 0, "arcs": [[0, 1], [1, 0]]}')
    found = experiment("rounds", 2, schedule="file", path=str(path))
    with pytest.raises(ConfigError, match=r'^topology: .*links.jsonl, line 1: "arcs": .* need mode = "async"'):
        config.ground(found)
    with pytest.raises(ConfigError):
        config.schedule_of(found)


def test_rounds_are_recorded_as_ever(tmp_path: Path) -> None:
    found = experiment("rounds", schedule="random-links")
    assert recorded(found, tmp_path) == list(schedules.lines(config.schedule_of(found), 40))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_arrive(weights: str) -> None:
    ground = config.ground(experiment("rounds", weights=weights))
    assert ground.weights == make(weights, ground.schedule)


def test_weights_that_were_computed_are_recorded_and_agreed_on(tmp_path: Path) -> None:
    found = experiment("rounds", graph="star", weights="fdla")
    recorded(found, tmp_path)
    links = [json.loads(line) for line in (tmp_path / "weights.jsonl").read_text().splitlines()]
    ground = config.ground(found)
    assert isinstance(ground.weights, Fastest)
    assert {(i, j): weight for i, j, weight in links} == ground.weights.links, "to the last bit"
    shard = Shard(tmp_path, np.zeros((1, 3)), np.zeros((1, 1)), None, None, None)
    told = config.common_settings(found, ground, shard)
    last_bit = {edge: math.nextafter(weight, 1.0) for edge, weight in ground.weights.links.items()}
    other = dataclasses.replace(ground, weights=Fastest(ground.weights.graph, last_bit))
    differ = {key for key, value in config.common_settings(found, other, shard).items() if told[key] != value}
    assert differ == {"weights"}


def test_weights_that_are_a_formula_are_not_recorded(tmp_path: Path) -> None:
    found = experiment("rounds", weights="max-degree")
    recorded(found, tmp_path)
    assert not (tmp_path / "weights.jsonl").exists()


def test_weights_are_refused_for_too_many_links() -> None:
    with pytest.raises(ConfigError, match=r"^topology: weights 'fdla': expected at most 512 links"):
        config.ground(experiment("rounds", 40, graph="complete", weights="fdla"))


def chosen(mode: str, **others: Any) -> tuple[float, dict[str, str]]:
    found = settings.from_tree(
        {"peers": 8, "data": {"dataset": "wine"}, "topology": {"graph": "star"}, "run": {"mode": mode}} | others
    )
    ground = config.ground(found)
    return config.alpha_of(found, ground.contraction), dict(config.chosen(found, ground))


@pytest.mark.parametrize("mode", ["rounds", "async"])
def test_alpha_follows_from_the_graph(mode: str) -> None:
    alpha, said = chosen(mode)
    assert 0.0 < alpha < 0.3
    assert said["step.alpha"].startswith(f"{alpha:g}, for a ")
    assert said.keys() == {"step.alpha", "surrogate.tau", "surrogate.curvature"}


def test_what_is_given_is_not_chosen() -> None:
    given = {"step": {"alpha": 0.7}, "surrogate": {"tau": 2.0, "curvature": "local"}}
    assert chosen("rounds", **given) == (0.7, {})
    found = settings.from_tree({"data": {"dataset": "wine"}} | given)
    assert config.ground(found).contraction == 1.0, "nobody has looked"
    assert config.caution_of(found, config.ground(found).contraction, 8) is None
    assert learning.surrogate_of(found, 8) == Partial(2.0, 1.0)


@pytest.mark.parametrize(("more", "keeps"), [({}, True), ({"kind": "full"}, False), ({"blocks": "layers"}, False)])
def test_which_surrogates_keep_the_curvature(more: dict[str, Any], keeps: bool) -> None:
    found = settings.from_tree({"data": {"dataset": "wine"}, "surrogate": more})
    caution = config.caution_of(found, config.ground(found).contraction, 5)
    assert caution is not None
    assert (caution.n_agents, caution.keeps) == (5, keeps)
    assert learning.surrogate_of(found, 5).kappa == (1.0 if "kind" in more else 5.0)


@pytest.mark.parametrize(("mode", "weights"), [("rounds", "fdla"), ("async", "metropolis")])
def test_where_what_a_surrogate_promises_is_not_relied_on(mode: str, weights: str) -> None:
    found = experiment(mode, weights=weights)
    caution = config.caution_of(found, config.ground(found).contraction, 5)
    assert caution is not None
    assert not caution.keeps


def test_who_goes_on_has_the_samples_with_which_it_began() -> None:
    """In rounds M, without them the members' counts, are those of the checkpoint."""
    shard = Shard(Path("shard.npz"), np.zeros((5, 2)), np.zeros((5, 1)), None, None, None)
    found, problem = experiment(), "data.path: shard.npz: expected the 4 samples of the checkpoint, found 5"
    standings = {0: Standing(1, n_samples=4)}
    last = Moment("run", "digest", 0, 0, standings, {}, {})
    with pytest.raises(ConfigError, match=problem):
        config.assembly_of(found, config.ground(found), 0, shard, "tcp://127.0.0.1:1", (1, "life"), last)
    found = experiment("rounds")
    kept = Checkpoint("run", "digest", 3, {0: 4}, 0, {}, {}, ())
    with pytest.raises(ConfigError, match=problem):
        config.session_of(found, config.ground(found), 0, shard, (1, "life"), kept, {})
