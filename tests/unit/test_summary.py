"""What came out of a run, where all of it can be seen, some, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from peer import history, learning, npz, settings, summary
from peer.errors import ConfigError
from peer.files import folder_of
from peer.journal import Journal
from tests.rundir import EPOCHS, SAMPLES, change, parameters, stop_early, write_elastic, write_run

M = sum(SAMPLES)
STRENGTH = 1e-3


def flat(peer: int) -> np.ndarray[Any, Any]:
    parts = parameters(peer)
    return np.concatenate([parts["layers.0.weight"][0], parts["layers.0.bias"]])


MEAN = np.mean([flat(peer) for peer in range(len(SAMPLES))], axis=0)


def loss(run_dir: Path, name: str, w: np.ndarray[Any, Any]) -> float:
    """Sum of squared errors of the linear model on a shard."""
    arrays = npz.load(run_dir / "shards" / f"{name}.npz")
    return float(np.sum((arrays["y"] - arrays["x"] @ w[:2, None] - w[2]) ** 2))


def objective(run_dir: Path, w: np.ndarray[Any, Any], peers: tuple[int, ...], weight: float) -> float:
    """(1) by hand: half the squared errors and half the squared norm."""
    problem = sum(loss(run_dir, f"peer-{peer:03d}", w) for peer in peers)
    return 0.5 * weight * problem + 0.5 * STRENGTH * float(w @ w)


def hide(run_dir: Path, *names: str) -> None:
    for name in names:
        (run_dir / "shards" / f"{name}.npz").unlink()


def test_all_shards(tmp_path: Path) -> None:
    found = summary.of_run(write_run(tmp_path), tmp_path)
    assert found["shards_seen"] == [0, 1, 2]
    assert found["objective"] == pytest.approx(objective(tmp_path, MEAN, (0, 1, 2), 1 / M), rel=1e-12)
    assert found["stationarity"] > 0.0
    assert found["test"]["rmse"] == pytest.approx(np.sqrt(loss(tmp_path, "test", MEAN) / 6), rel=1e-12)
    assert found["disagreement"] == pytest.approx(np.mean([np.sum((flat(i) - MEAN) ** 2) for i in range(3)]))
    assert (found["samples"], found["parameters"]) == (M, 3)
    assert [row["samples"] for row in found["per_peer"]] == list(SAMPLES)
    assert [row["bytes_sent"] for row in found["per_peer"]] == [4000, 8000, 12000]
    assert [row["dropped"] for row in found["per_peer"]] == [{}, {"stale": 3}, {}]
    assert found["bytes"] == 24000
    for peer, row in enumerate(found["per_peer"]):
        assert row["objective"] == pytest.approx(objective(tmp_path, flat(peer), (0, 1, 2), 1 / M), rel=1e-12)
        assert (row["solve_s"], row["wait_s"]) == (0.5, 0.25 * (1 + peer))


@pytest.mark.parametrize(("scale", "weight"), [("mean", 1 / M), ("sum", 1.0)])
def test_hidden_shards_are_left_out_and_the_others_keep_their_weight(tmp_path: Path, scale: str, weight: float) -> None:
    experiment = write_run(tmp_path, objective={"scale": scale})
    hide(tmp_path, "peer-000", "peer-002")
    found = summary.of_run(experiment, tmp_path)
    assert found["shards_seen"] == [1]
    assert found["objective"] == pytest.approx(objective(tmp_path, MEAN, (1,), weight), rel=1e-12)
    assert found["stationarity"] is None
    assert [row["samples"] for row in found["per_peer"]] == list(SAMPLES), "the others' are in their logs"
    assert found["samples"] == M


def test_nothing_but_the_journals(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    hide(tmp_path, "peer-000", "peer-001", "peer-002", "test")
    found = summary.of_run(experiment, tmp_path, with_central=True)
    assert found["shards_seen"] == []
    assert found["objective"] is found["stationarity"] is None
    assert [row["objective"] for row in found["per_peer"]] == [None] * 3
    assert found["test"] == {}
    assert (found["samples"], found["parameters"], found["bytes"]) == (M, 3, 24000)
    assert found["disagreement"] > 0.0
    assert "central" not in found
    summary.write(found, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == found


def test_a_run_directory_that_was_moved_has_its_shards_with_it(tmp_path: Path) -> None:
    experiment = write_run(tmp_path / "here")
    there = (tmp_path / "here").rename(tmp_path / "there")
    found = summary.of_run(experiment, there)
    assert found["shards_seen"] == [0, 1, 2]
    assert "rmse" in found["test"]


def test_why_the_rounds_ended(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    found = summary.of_run(experiment, tmp_path)
    assert (found["iterations"], found["stopped"]) == (4, "iterations")
    stop_early(tmp_path)
    found = summary.of_run(settings.read(tmp_path / "experiment.toml"), tmp_path)
    assert (found["iterations"], found["stopped"]) == (4, "tolerance")


def test_no_share_of_a_spread_that_there_is_not(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    npz.save(tmp_path / "shards" / "test.npz", {"x": np.zeros((1, 2)), "y": np.zeros((1, 1))})
    assert summary.of_run(experiment, tmp_path)["test"].keys() == {"rmse"}


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """One of 3 samples, 2 of 5 and 2 of 4: objective and M are about the others, `validation` about these."""
    experiment = write_run(tmp_path)
    whole = summary.of_run(experiment, tmp_path)
    assert "validation" not in whole
    data = msgspec.structs.replace(experiment.data, validation_fraction=0.4)
    experiment = msgspec.structs.replace(experiment, data=data)
    found = summary.of_run(experiment, tmp_path)
    assert found["samples"] == 7
    assert [row["samples"] for row in found["per_peer"]] == [2, 3, 2]
    penalty = 0.5 * STRENGTH * float(np.sum(MEAN**2))
    trained = 7 * (found["objective"] - penalty)
    errors = sum(loss(tmp_path, f"peer-{peer:03d}", MEAN) for peer in range(3)) / 2.0
    expected = 0.0
    for peer in range(3):
        shard = learning.shard_of(experiment, peer)
        assert shard.held_out is not None
        assert shard.held_out.targets is not None
        lost = 0.5 * float(np.sum((shard.held_out.targets - shard.held_out.x @ MEAN[:2, None] - MEAN[2]) ** 2))
        expected += shard.n_samples / 7 * lost / shard.held_out.n_samples
        errors -= lost
    assert found["validation"] == pytest.approx(expected, rel=1e-12)
    assert trained == pytest.approx(errors, rel=1e-12)


def test_files_of_held_out_samples_that_are_hidden_leave_the_rest(tmp_path: Path) -> None:
    """On a host that does not see them; where it does, their loss is told."""
    experiment = write_run(tmp_path)
    whole = summary.of_run(experiment, tmp_path)
    pattern = str(tmp_path / "shards" / "peer-{id:03d}.npz")
    data = msgspec.structs.replace(experiment.data, validation_path=pattern)
    found = summary.of_run(msgspec.structs.replace(experiment, data=data), tmp_path)
    penalty = 0.5 * STRENGTH * float(np.sum(MEAN**2))
    assert found["validation"] == pytest.approx(found["objective"] - penalty, rel=1e-12), "of the same samples"
    data = msgspec.structs.replace(experiment.data, validation_path=str(tmp_path / "elsewhere-{id}.npz"))
    assert summary.of_run(msgspec.structs.replace(experiment, data=data), tmp_path) == whole


def test_the_time_is_that_of_the_last_round(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    assert summary.of_run(experiment, tmp_path)["seconds"] == 0.2 + 0.75 + 0.02
    assert summary.of_run(experiment, tmp_path, 7.5)["seconds"] == 7.5


def relabel(run_dir: Path, **more: Callable[[int], Any]) -> None:
    """Put other arrays into the shards and the test set; each is made of the number of samples."""
    for path in (run_dir / "shards").iterdir():
        arrays = npz.load(path)
        npz.save(path, arrays | {name: make(len(arrays["x"])) for name, make in more.items()})


@pytest.mark.parametrize("loss_name", ["squared_hinge", "cross_entropy"])
def test_one_output_of_labels_is_cut_at_zero(tmp_path: Path, loss_name: str) -> None:
    experiment = write_run(tmp_path, objective={"loss": loss_name})
    relabel(tmp_path, y=lambda m: np.arange(m) % 2)
    arrays = npz.load(tmp_path / "shards" / "test.npz")
    hits = (arrays["x"] @ MEAN[:2] + MEAN[2] > 0.0) == arrays["y"]
    assert summary.of_run(experiment, tmp_path)["test"] == {"accuracy": np.mean(hits)}


def test_one_output_of_codes_is_cut_half_way(tmp_path: Path) -> None:
    experiment = write_run(tmp_path, objective={"loss": "huber"})
    relabel(tmp_path, y=lambda m: np.arange(m) % 2)
    arrays = npz.load(tmp_path / "shards" / "test.npz")
    hits = (arrays["x"] @ MEAN[:2] + MEAN[2] > 0.5) == arrays["y"]
    assert summary.of_run(experiment, tmp_path)["test"] == {"accuracy": np.mean(hits)}


def test_weights_count_in_training_and_not_in_the_test(tmp_path: Path) -> None:
    before = summary.of_run(write_run(tmp_path / "plain"), tmp_path / "plain")
    experiment = write_run(tmp_path / "weighted")
    relabel(tmp_path / "weighted", weight=lambda m: np.full(m, 3.0))
    found = summary.of_run(experiment, tmp_path / "weighted")
    assert found["test"] == before["test"]
    penalty = 0.5 * STRENGTH * float(MEAN @ MEAN)
    assert found["objective"] - penalty == pytest.approx(3.0 * (before["objective"] - penalty), rel=1e-12)


@pytest.mark.parametrize("loss_name", ["huber", "squared_hinge"])
@pytest.mark.parametrize("regularizer", ["l2", "l1"])
def test_central_training_knows_every_loss_and_weights(tmp_path: Path, loss_name: str, regularizer: str) -> None:
    experiment = write_run(tmp_path, objective={"regularizer": regularizer, "loss": loss_name, "strength": 0.05})
    npz.save(folder_of(tmp_path, 0) / "initial.npz", parameters(0))
    relabel(tmp_path, y=lambda m: np.arange(m) % 2, weight=lambda m: np.linspace(0.0, 2.0, m))
    found = summary.of_run(experiment, tmp_path, with_central=True)
    assert found["central"]["objective"] < found["objective"]
    assert found["central"]["stationarity"] < 1e-6


@pytest.mark.parametrize(
    "objective",
    [
        *({"regularizer": name} for name in ("l2", "l1", "elastic_net", "group_l2")),
        *({"regularizer": name, "lower": -0.1, "upper": 0.05} for name in ("none", "l1")),
        {"regularizer": "l1", "lower": 0.01},
    ],
    ids=str,
)
def test_central_training_is_no_worse(tmp_path: Path, objective: dict[str, Any]) -> None:
    experiment = write_run(tmp_path, objective=objective)
    npz.save(folder_of(tmp_path, 0) / "initial.npz", parameters(0))
    found = summary.of_run(experiment, tmp_path, with_central=True)
    assert found["central"]["objective"] < found["objective"]
    assert found["central"]["stationarity"] < 1e-6


def damage_layers(run_dir: Path) -> Path:
    path = folder_of(run_dir, 0) / "final.npz"
    npz.save(path, {"bias": np.zeros(1)})
    return path


def damage_width(run_dir: Path) -> Path:
    path = folder_of(run_dir, 2) / "final.npz"
    npz.save(path, {"layers.0.weight": np.zeros((1, 3)), "layers.0.bias": np.zeros(1)})
    return path


def damage_final(run_dir: Path) -> Path:
    path = folder_of(run_dir, 1) / "final.npz"
    path.write_bytes(path.read_bytes()[:100])
    return path


def damage_shard(run_dir: Path) -> Path:
    path = run_dir / "shards" / "peer-001.npz"
    path.write_bytes(b"")
    return path


def damage_test(run_dir: Path) -> Path:
    path = run_dir / "shards" / "test.npz"
    npz.save(path, {"x": np.zeros((2, 2)), "y": np.zeros((2, 3))})
    return path


def damage_form(run_dir: Path) -> Path:
    path = folder_of(run_dir, 0) / "log.jsonl"
    with path.open("a") as log:
        log.write('{"time_s": 1.0, "event": "model", "inputs": 2, "outputs": 1}\n')
    return path


def damage_metrics(run_dir: Path) -> Path:
    path = folder_of(run_dir, 1) / "metrics.jsonl"
    change(path, solve_s="long")
    return path


def damage_log(run_dir: Path) -> Path:
    hide(run_dir, "peer-001")
    for peer in range(3):
        (folder_of(run_dir, peer) / "log.jsonl").unlink()
    return folder_of(run_dir, 0) / "log.jsonl"


@pytest.mark.parametrize(
    "damage",
    [damage_layers, damage_width, damage_final, damage_shard, damage_metrics, damage_log, damage_test, damage_form],
)
def test_what_is_damaged_is_named(tmp_path: Path, damage: Callable[[Path], Path]) -> None:
    experiment = write_run(tmp_path)
    path = damage(tmp_path)
    with pytest.raises(ConfigError) as refused:
        summary.of_run(experiment, tmp_path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


# waiting


class Scenario:
    """Lets something happen instead of the time that would pass; fails when nothing is left to happen."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.said: list[str] = []

    def pause(self) -> None:
        assert self.steps, f"it waits for ever, having said {self.said}"
        self.steps.pop(0)()


def end(run_dir: Path, peer: int, code: int) -> None:
    log = Journal(folder_of(run_dir, peer), behind=0)
    log.event("end", 1.0, code=code, problem="")
    log.close()


def test_all_are_waited_for_by_name(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    log = folder_of(run_dir, 1) / "log.jsonl"
    scenario = Scenario(
        lambda: None,
        lambda: run_dir.mkdir(),
        lambda: (run_dir / "experiment.toml").write_text(""),
        lambda: write_run(run_dir, ended=None),
        lambda: end(run_dir, 0, 0),
        lambda: None,
        lambda: end(run_dir, 1, 3),
        lambda: end(run_dir, 2, 0),
        lambda: log.write_text(log.read_text() + '{"time_s": 1.5, "event": "start"}\n'),  # with --resume
        lambda: log.write_text(log.read_text() + '{"time_s": 2.5, "event": "end", "code": 0'),  # half a line
        lambda: log.write_text(log.read_text() + "}\n"),
    )
    experiment = summary.wait_for_all(run_dir, scenario.said.append, scenario.pause)
    assert experiment.peers == 3
    assert scenario.steps == []
    path = run_dir / "experiment.toml"
    assert scenario.said[0] == f"waiting for {path}"
    assert scenario.said[1].startswith(f"waiting for {path}, which cannot be read yet: data: expected dataset")
    assert scenario.said[2:] == [
        "waiting for peers 0, 1, 2",
        "waiting for peers 1, 2",
        "waiting for peers 1 (ended with exit code 3), 2",
        "waiting for peer 1 (ended with exit code 3)",
        "waiting for peer 1",
    ]


def test_of_many_a_few_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, samples=(1,) * 30, ended=None)

    def all_end() -> None:
        for peer in range(30):
            end(tmp_path, peer, 0)

    scenario = Scenario(all_end)
    summary.wait_for_all(tmp_path, scenario.said.append, scenario.pause)
    assert scenario.said == ["waiting for peers 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 18 more"]


def test_who_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    write_run(tmp_path)
    scenario = Scenario()
    summary.wait_for_all(tmp_path, scenario.said.append, scenario.pause)
    assert scenario.said == []
    assert history.unfinished(tmp_path, 3) == {}


# without rounds


def test_of_a_run_without_rounds_the_last_members_are_summarized(tmp_path: Path) -> None:
    found = summary.of_run(write_elastic(tmp_path), tmp_path)
    mean = np.mean([flat(peer) for peer in (0, 1, 8)], axis=0)
    assert (found["peers"], found["members"], found["samples"]) == (3, [0, 1, 8], 14)
    assert found["shards_seen"] == [0, 1, 8]
    assert found["objective"] == pytest.approx(objective(tmp_path, mean, (0, 1, 8), 1 / 14), rel=1e-12)
    assert found["stationarity"] > 0.0
    assert found["disagreement"] == pytest.approx(np.mean([np.sum((flat(i) - mean) ** 2) for i in (0, 1, 8)]))
    assert [(row["peer"], row["samples"], row["wakings"]) for row in found["per_peer"]] == [
        (0, 3, 6),
        (1, 5, 6),
        (8, 6, 2),
    ]
    assert found["bytes"] == 6 * 1000 + 6 * 2000 + 2 * 3000 + 2 * 9000, "what the lost one sent was sent, too"
    assert found["seconds"] == pytest.approx(1013.75 - 1000.0), "by the clock: one was killed, and one came late"


def test_parameters_of_one_that_has_gone_are_in_a_row_and_not_in_the_mean(tmp_path: Path) -> None:
    experiment = write_elastic(tmp_path)
    before = summary.of_run(experiment, tmp_path)
    npz.save(folder_of(tmp_path, 2) / "final.npz", parameters(2))
    found = summary.of_run(experiment, tmp_path)
    assert [row["peer"] for row in found["per_peer"]] == [0, 1, 2, 8]
    assert found["objective"] == before["objective"]


def test_a_member_that_was_killed_at_the_end_is_no_obstacle(tmp_path: Path) -> None:
    experiment = write_elastic(tmp_path)
    (folder_of(tmp_path, 0) / "final.npz").unlink()
    found = summary.of_run(experiment, tmp_path)
    mean = np.mean([flat(peer) for peer in (1, 8)], axis=0)
    assert found["objective"] == pytest.approx(objective(tmp_path, mean, (0, 1, 8), 1 / 14), rel=1e-12)
    for peer in (1, 8):
        (folder_of(tmp_path, peer) / "final.npz").unlink()
    with pytest.raises(ConfigError, match=r"000.final\.npz"):
        summary.of_run(experiment, tmp_path)


def test_samples_of_hidden_members_are_those_of_the_epoch(tmp_path: Path) -> None:
    experiment = write_elastic(tmp_path)
    hide(tmp_path, "peer-000", "peer-008")
    found = summary.of_run(experiment, tmp_path)
    assert (found["shards_seen"], found["samples"], found["stationarity"]) == ([1], EPOCHS[-1][2], None)
    mean = np.mean([flat(peer) for peer in (0, 1, 8)], axis=0)
    assert found["objective"] == pytest.approx(objective(tmp_path, mean, (1,), 1 / 14), rel=1e-12)


def test_who_has_gone_is_not_waited_for(tmp_path: Path) -> None:
    write_elastic(tmp_path, ended=None)
    scenario = Scenario(lambda: end(tmp_path, 0, 0), lambda: end(tmp_path, 1, 0), lambda: end(tmp_path, 8, 0))
    summary.wait_for_all(tmp_path, scenario.said.append, scenario.pause)
    assert scenario.said == ["waiting for peers 0, 1, 8", "waiting for peers 1, 8", "waiting for peer 8"]
