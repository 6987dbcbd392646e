"""Peers that say less than all, over real processes: killed and resumed they end with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.integration.fleet import killed_and_resumed
from tests.integration.lab import Lab, metrics, parameters

PEERS: Final = 3
ROUNDS: Final = 120

LINKS: Final[dict[str, Any]] = {"graph": "complete", "schedule": "random-links", "link_probability": 0.7}


def test_a_peer_that_is_killed_goes_on_with_all_that_was_told(tmp_path: Path) -> None:
    """Replicas, and shares of which each neighbor gets another one, are in the checkpoint."""
    lab = Lab(tmp_path)
    lab.four_shards()
    tree: dict[str, Any] = {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": "shards/peer-{id}.npz"},
        "model": {"hidden": [40], "outputs": 3},
        "objective": {"loss": "cross_entropy"},
        "topology": LINKS,
        "run": {"checkpoint_every": 7},
        "transport": {"wire_dtype": "bf16"},
        "compression": {"kind": "top-k", "fraction": 0.2},
    }
    launched = lab.launch(lab.experiment(**tree), "launched")
    killed_and_resumed(lab, tree, launched)
    p = sum(part.size for part in parameters(launched, 0).values())
    lines = [line for line in metrics(launched, 0) if line["neighbors"]]
    a_share = sum(line["bytes_sent"] for line in lines) / sum(len(line["neighbors"]) for line in lines)
    k = -(-p // 5)
    assert 2 * k * (2 + 2) < a_share < 2 * k * (2 + 2) + 400
