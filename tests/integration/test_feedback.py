"""Feedback alignment over real processes: resumed peers go on with the same bits, and without rounds it works, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.integration.fleet import Fleet
from tests.integration.lab import Lab, events, metrics, same_finals

PEERS: Final = 2
ROUNDS: Final = 60
LONG: Final = 600
"""Rounds of peers that are killed on the way: a fast host does dozens between two looks at how far they are."""

SURROGATE: Final = {"kind": "full", "gradient": "feedback-alignment", "tau": 0.5, "probe_every": 3}


def _tree(lab: Lab, mode: str, **surrogate: Any) -> dict[str, Any]:
    """Two classes with a curve between them, on two shards."""
    rng = np.random.default_rng(3)
    shards = [(x := rng.normal(size=(m, 3)), (x[:, 0] > x[:, 1] ** 2 - 0.5).astype(np.int64)) for m in (24, 30)]
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.shards(shards)},
        "model": {"hidden": [8, 6]},
        "objective": {"loss": "cross_entropy", "strength": 0.001},
        "surrogate": SURROGATE | surrogate,
        "step": {"alpha": 0.3},
        "topology": {"graph": "complete"},
        "run": {"mode": mode, "checkpoint_every": 7},
    }


def test_peers_that_are_killed_and_resumed_know_what_they_have_seen(tmp_path: Path) -> None:
    """Before they go back to backprop, while the grace of one runs out, and after."""
    lab = Lab(tmp_path)
    tree = _tree(lab, "rounds", fallback=0.9999, grace=24) | {"iterations": LONG}
    launched = lab.launch(lab.experiment(**tree), "launched")
    with Fleet(lab, tree) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for victim, least in ((1, 10), (0, 45)):
            fleet.wait_until(lambda victim=victim, least=least: len(metrics(fleet.out, victim)) >= least)  # type: ignore[misc]
            fleet.kill(victim)
            fleet.start(victim, "--resume")
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        same_finals(launched, fleet.out, PEERS)
        for peer in range(PEERS):
            lines, same = metrics(launched, peer), metrics(fleet.out, peer)
            assert [line.get("alignments") for line in lines] == [line.get("alignments") for line in same]
            (back,) = [event for event in events(launched, peer) if event["event"] == "backprop"]
            assert "and was never 0.9999 or more since round 0" in back["reason"]
            assert back["n"] == 24
            looked = [line["iteration"] for line in lines if "alignment" in line]
            assert looked == list(range(0, 25, 3))
            assert lines[24]["alignment"] == back["cosine"]


def test_without_rounds_peers_learn_by_feedback(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    out = lab.launch(lab.experiment(**_tree(lab, "async", grace=20, fallback=0.9999)))
    for peer in range(PEERS):
        lines = metrics(out, peer)
        (back,) = [event for event in events(out, peer) if event["event"] == "backprop"]
        assert back["n"] == 21
        assert [line["iteration"] for line in lines if "alignment" in line] == list(range(0, 22, 3))
        assert lines[-1]["objective_estimate"] < 0.5
