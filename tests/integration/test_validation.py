"""Runs that stop when the loss over samples that nobody trains on falls no more: together, and with what was best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from scipy.special import expit

from peer import settings
from peer.config import ground
from peer.learning import shard_of
from tests.integration.fleet import Fleet
from tests.integration.lab import Array, Lab, events, metrics, parameters, same_finals
from topology.windows import window_lengths

PEERS: Final = 4
ROUNDS: Final = 150
PATIENCE: Final = 25


def noisy(m: int, seed: int) -> tuple[Array, Array]:
    """Two classes that a line tells apart, one label in ten wrong."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, 6))
    return x, ((x[:, 0] + x[:, 1] > 0.0) ^ (rng.random(m) < 0.1)).astype(np.int64)


def _tree(lab: Lab, fraction: float = 0.3, patience: int = PATIENCE, **more: Any) -> dict[str, Any]:
    """A network of 20 hidden units that can learn the few samples by heart."""
    return {
        "seed": 3,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.shards([noisy(24, peer) for peer in range(PEERS)]), "validation_fraction": fraction},
        "model": {"hidden": [20]},
        "objective": {"loss": "cross_entropy", "strength": 1e-5},
        "surrogate": {"curvature": "network", "tau": 0.1},
        "step": {"alpha": 0.1},
        "topology": {"graph": "complete", "schedule": "random-links", "link_probability": 0.5},
        "run": {"checkpoint_every": 7, "validation_patience": patience},
    } | more


def done_of(run_dir: Path) -> dict[str, Any]:
    """How the run ended, as all peers have logged it alike."""
    done = [event for peer in range(PEERS) for event in events(run_dir, peer) if event["event"] == "done"]
    (said,) = {(event["n"], event["stopped"], event.get("kept")) for event in done}
    return dict(zip(("n", "stopped", "kept"), said, strict=True))


def test_loss(run_dir: Path) -> float:
    """Mean cross-entropy on many other samples, of the mean of the final parameters."""
    x, y = noisy(5_000, 99)
    parts = [parameters(run_dir, peer) for peer in range(PEERS)]
    W, b, V, c = (np.mean([part[name] for part in parts], axis=0) for name in parts[0])
    outputs = (np.tanh(x @ W.T + b) @ V.T + c)[:, 0]
    return float(-np.mean(np.log(np.clip(expit(np.where(y == 1, outputs, -outputs)), 1e-300, 1.0))))


test_loss.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("validated"))
    return lab.launch(lab.experiment(**_tree(lab)), "launched")


def test_all_stop_together_with_what_was_best(launched: Path) -> None:
    """Verdicts are in the journal, windows follow from the schedule, and a shorter run ends where it was best."""
    done = done_of(launched)
    lines = [metrics(launched, peer) for peer in range(PEERS)]
    assert all([line["iteration"] for line in each] == list(range(done["n"])) for each in lines)
    worst = [max(each[n]["validation_estimate"] for each in lines) for n in range(done["n"])]
    schedule = ground(settings.read(launched / "experiment.toml")).schedule
    begins = np.cumsum([0, *window_lengths(schedule, done["n"])])[:-1].tolist()
    kept = min(begins, key=lambda n: worst[n])
    assert done == {"n": done["n"], "stopped": "validation", "kept": kept}
    assert 0 < kept < done["n"] - PATIENCE < ROUNDS
    for n in begins:  # tracked: never thought better than it is
        assert worst[n] >= sum(each[n]["validation_local"] for each in lines) * (1.0 - 1e-12)
    lab = Lab(launched.parent)
    shorter = lab.launch(lab.experiment("shorter", **_tree(lab, patience=0, iterations=kept)), "shorter")
    assert done_of(shorter) == {"n": kept, "stopped": "iterations", "kept": None}
    same_finals(launched, shorter, PEERS)
    found = json.loads((launched / "summary.json").read_text())
    assert (found["iterations"], found["stopped"], found["kept"]) == (done["n"], "validation", kept)
    assert found["samples"] == PEERS * 17
    assert found["validation"] == pytest.approx(worst[kept], rel=0.1)


def test_files_of_held_out_samples_are_as_good_as_a_part_of_the_shards(launched: Path, tmp_path: Path) -> None:
    """The shards cut beforehand, both parts in files: the same run, bit for bit."""
    lab = Lab(tmp_path)
    whole = settings.read(launched.parent / "experiment.toml")
    for peer in range(PEERS):
        shard = shard_of(whole, peer)
        assert shard.held_out is not None
        for folder, part in (("train", shard), ("held-out", shard.held_out)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.savez(tmp_path / folder / f"{peer}.npz", x=part.x, y=part.labels)  # type: ignore[arg-type]
    data = {"path": "train/{id}.npz", "validation_path": "held-out/{id}.npz"}
    found = lab.launch(lab.experiment(**_tree(lab) | {"data": data}))
    assert done_of(found) == done_of(launched)
    same_finals(launched, found, PEERS)
    summaries = [json.loads((run_dir / "summary.json").read_text()) for run_dir in (launched, found)]
    assert summaries[0]["validation"] == summaries[1]["validation"]


def test_what_is_learned_by_heart_is_worse(launched: Path) -> None:
    """Without held-out samples, on all of the data: the test loss is higher, though there is more to learn from."""
    lab = Lab(launched.parent)
    heart = lab.launch(lab.experiment("heart", **_tree(lab, fraction=0.0, patience=0)), "heart")
    stopped, by_heart = test_loss(launched), test_loss(heart)
    assert stopped < 0.9 * by_heart


def test_the_report_says_so(launched: Path) -> None:
    lab, done = Lab(launched.parent), done_of(launched)
    assert lab.run("report", "launched").returncode == 0
    page = (launched / "report.html").read_text()
    assert f"They stopped before round {ROUNDS}, for the validation loss fell no more." in page
    assert "<b>Validation.</b>" in page
    assert f"The result is what they had at the start of round {done['kept']}." in page


def test_a_peer_that_is_killed_and_resumed_keeps_the_same(launched: Path, tmp_path: Path) -> None:
    lab, done = Lab(tmp_path), done_of(launched)
    with Fleet(lab, _tree(lab)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        fleet.wait_until(
            lambda: len(metrics(fleet.out, 2)) >= done["kept"] + 2
        )  # while the best one is in a checkpoint
        fleet.kill(2)
        fleet.start(2, "--resume")
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        assert done_of(fleet.out) == done
        same_finals(launched, fleet.out, PEERS)
