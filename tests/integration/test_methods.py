"""Methods beside NEXT over real processes: killed and resumed they end with the same bits; and what they send."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.fleet import killed_and_resumed
from tests.integration.lab import Lab, metrics, parameters

PEERS: Final = 2
ROUNDS: Final = 150

METHODS: Final[dict[str, dict[str, Any]]] = {
    "d-psgd": {"method": {"kind": "d-psgd", "local_steps": 2, "momentum": 0.5}, "surrogate": {"batch": 3}},
    "gradient-tracking": {"method": {"kind": "gradient-tracking"}},
    "extra": {"method": {"kind": "extra"}},
    "exact-diffusion": {"method": {"kind": "exact-diffusion"}, "surrogate": {"batch": 3}},
}


@pytest.mark.parametrize("kind", METHODS)
def test_a_peer_that_is_killed_goes_on_with_all_that_its_method_keeps(kind: str, tmp_path: Path) -> None:
    """A tracker, corrections, or momentum: in the checkpoint; and one vector a round goes to a neighbor, or two."""
    lab = Lab(tmp_path)
    lab.four_shards()
    tree: dict[str, Any] = {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": "shards/peer-{id}.npz"},
        "model": {"hidden": [40], "outputs": 3},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "ring"},
        "run": {"checkpoint_every": 7},
    } | METHODS[kind]
    launched = lab.launch(lab.experiment(**tree), "launched")
    killed_and_resumed(lab, tree, launched)
    p = sum(part.size for part in parameters(launched, 0).values())
    sent = sum(line["bytes_sent"] for line in metrics(launched, 0)) / ROUNDS
    tensors = 2 if kind == "gradient-tracking" else 1
    assert tensors * 8 * p < sent < tensors * 8 * p + 400
