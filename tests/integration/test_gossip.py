"""Peers that have several exchanges a round: killed in the middle, they end with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.integration.fleet import Fleet
from tests.integration.lab import Lab, json_lines, metrics, same_finals

PEERS: Final = 4
ROUNDS: Final = 90
STEPS: Final = 3
LINKS: Final = {"graph": "complete", "schedule": "random-links", "link_probability": 0.4}


def _tree(lab: Lab) -> dict[str, Any]:
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "topology": LINKS | {"consensus_steps": STEPS},
        "run": {"checkpoint_every": 7},
    }


def test_killed_peers_resume_and_nothing_has_happened(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    launched = lab.launch(lab.experiment(**_tree(lab)), "launched")
    assert len(json_lines(launched / "schedule.jsonl")) == ROUNDS * STEPS
    checked = lab.run("check", launched / "experiment.toml").stdout
    for line in ("exchanges a round: 3, plain", "mixing rate: "):
        assert f"\n# {line}" in checked
    with Fleet(lab, _tree(lab)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for victim, least in ((2, ROUNDS // 4), (0, ROUNDS // 2)):
            fleet.wait_until(lambda victim=victim, least=least: len(metrics(fleet.out, victim)) >= least)  # type: ignore[misc]
            fleet.kill(victim)
            fleet.start(victim, "--resume")
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        same_finals(launched, fleet.out, PEERS)
        for peer in range(PEERS):
            lines = metrics(fleet.out, peer)
            assert [line["iteration"] for line in lines] == list(range(ROUNDS))
            assert [line["neighbors"] for line in lines] == [line["neighbors"] for line in metrics(launched, peer)]
