"""Numbers of real runs, as TensorBoard and MLflow themselves read them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Lab, metrics, refusal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own, while they are imported
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, at work

PEERS, ROUNDS = 4, 12


def experiment(lab: Lab, **tree: Any) -> Path:
    settings = {"peers": PEERS, "iterations": ROUNDS, "data": {"path": lab.four_shards()}}
    more = {"objective": {"loss": "cross_entropy"}, "topology": {"graph": "ring"}}
    return lab.experiment("tiny", **settings, **more, **tree)


def run_id(run_dir: Path) -> str:
    lines = (run_dir / "experiment.toml").read_text().splitlines()
    return next(line for line in lines if line.startswith("id = ")).partition('"')[2].rstrip('"')


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def only_run(place: str) -> tuple[MlflowClient, Run]:
    client = MlflowClient(tracking_uri=place)
    owner = client.get_experiment_by_name("tiny")
    assert owner is not None
    (found,) = client.search_runs([owner.experiment_id])
    return client, found


def test_launch_takes_every_round_to_both(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_dir = lab.launch(experiment(lab, metrics={"tensorboard": "events", "mlflow": "tracked"}))
    folder = lab.folder / "events" / run_id(run_dir)
    assert sorted(path.name for path in folder.iterdir()) == ["network", *(f"peer-{k:03d}" for k in range(PEERS))]
    client, found = only_run((lab.folder / "tracked").as_uri())
    assert found.info.status == "FINISHED"
    assert found.info.run_name == run_id(run_dir)
    assert found.data.params["peers"] == str(PEERS)
    for k in range(PEERS):
        expected = [(line["iteration"], line["objective_estimate"]) for line in metrics(run_dir, k)]
        seen = scalars(folder / f"peer-{k:03d}", "objective")
        assert [n for n, _ in seen] == [n for n, _ in expected]
        assert [value for _, value in seen] == pytest.approx([value for _, value in expected], rel=1e-6)
        history = client.get_metric_history(found.info.run_id, f"peer-{k:03d}/objective")
        assert sorted((one.step, one.value) for one in history) == expected
    lines = [metrics(run_dir, k) for k in range(PEERS)]
    largest = [max(line["residual"] for line in round_) for round_ in zip(*lines, strict=True)]
    assert [value for _, value in scalars(folder / "network", "residual")] == pytest.approx(largest, rel=1e-6)
    history = client.get_metric_history(found.info.run_id, "network/residual")
    assert [one.value for one in sorted(history, key=lambda one: one.step)] == pytest.approx(largest)


def test_a_finished_run_is_followed_afterwards_and_refusals_are_one_line(lab: Lab) -> None:
    run_dir = lab.launch(experiment(lab))
    done = lab.run("follow", run_dir, "--mlflow", "later", "--tensorboard", "events")
    assert done.returncode == 0, done.stderr
    assert len(scalars(lab.folder / "events" / run_id(run_dir) / "network", "objective")) == ROUNDS
    assert "--tensorboard: expected nothing" in refusal(lab.run("follow", run_dir, "--tensorboard", "events"), 2)
    assert "--mlflow: MLflow says:" in refusal(lab.run("follow", run_dir, "--mlflow", "nothing://like-that"), 2)
