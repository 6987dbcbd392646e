"""Runs with batches over real processes: what is drawn in a round does not depend on how often a peer was started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.integration.fleet import Fleet
from tests.integration.lab import Lab, metrics, refusal, same_finals

PEERS: Final = 3
ROUNDS: Final = 200


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    """Logistic regression on three shards of which the batch is a fourth, or less."""
    rng = np.random.default_rng(3)
    data = []
    for m in (24, 16, 30):
        x = rng.normal(size=(m, 3))
        data.append((x, (x @ [1.0, -1.0, 0.5] + rng.normal(size=m) > 0.0).astype(np.int64)))
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.shards(data)},
        "model": {"hidden": []},
        "objective": {"loss": "cross_entropy", "strength": 0.1},
        "surrogate": {"curvature": "network", "tau": 0.3, "batch": 4},
        "step": {"alpha": 0.3},
        "topology": {"graph": "ring"},
        "run": {"checkpoint_every": 7},
    } | more


def test_peers_that_are_killed_and_resumed_draw_what_they_would_have_drawn(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    launched = lab.launch(lab.experiment(**_tree(lab)), "launched", "--central")
    found = json.loads((launched / "summary.json").read_text())
    assert found["stationarity"] < 1e-6
    assert found["objective"] - found["central"]["objective"] < 1e-9
    with Fleet(lab, _tree(lab)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for victim, least in ((2, 20), (0, 95)):  # within a pass, and within two checkpoints
            fleet.wait_until(lambda victim=victim, least=least: len(metrics(fleet.out, victim)) >= least)  # type: ignore[misc]
            fleet.kill(victim)
            fleet.start(victim, "--resume")
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        same_finals(launched, fleet.out, PEERS)


def test_bad_batches_are_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for key in ("surrogate.batch", "surrogate.refresh"):
        assert key in refusal(lab.run("check", lab.experiment(**_tree(lab)), "--set", f"{key}=-1"), 2)
