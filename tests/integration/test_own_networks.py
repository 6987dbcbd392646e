"""Real processes with a network of the user's own; those of PyTorch and JAX are in `tests/frameworks`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import peer
from tests.integration.lab import Lab, refusal, same_finals

PEERS = 2

OWN = """
import math
from peer.optim.chains import mlp

def network(input_shape, n_outputs):
    assert n_outputs in (1, 3), n_outputs
    return mlp((math.prod(input_shape), 4, n_outputs), "tanh")
"""


def experiment(lab: Lab, name: str, model: dict[str, Any]) -> Path:
    """Images of 2 x 3; of the three classes the first peer knows one alone."""
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(6, 2, 3)), np.zeros(6, dtype=int)), (rng.normal(size=(5, 2, 3)), np.arange(5) % 3)]
    return lab.experiment(
        name,
        seed=4,
        peers=PEERS,
        iterations=6,
        data={"path": lab.shards(data), "test_path": "shards/peer-1.npz"},
        model=model,
        objective={"loss": "cross_entropy"},
        topology={"graph": "ring"},
        transport={"security": "none"},
    )


def test_a_function_that_makes_layers_makes_the_same_run_as_the_layers(lab: Lab) -> None:
    (lab.folder / "own.py").write_text(OWN)
    plain = lab.launch(experiment(lab, "plain", {"hidden": [4]}), "plain")
    own = lab.launch(experiment(lab, "mine", {"python": "own:network"}), "mine")
    same_finals(plain, own, PEERS)
    one, other = (json.loads((run_dir / "summary.json").read_text()) for run_dir in (plain, own))
    assert one["objective"] == other["objective"]
    assert one["test"] == other["test"] != {}
    x = np.random.default_rng(1).normal(size=(3, 2, 3))
    np.testing.assert_array_equal(peer.load_model(own).predict(x), peer.load_model(plain).predict(x))


def test_a_function_that_fails_stops_everything_before_it_begins(lab: Lab) -> None:
    (lab.folder / "own.py").write_text("def network(input_shape, n_outputs):\n    return input_shape[2]\n")
    line = refusal(lab.run("launch", experiment(lab, "mine", {"python": "own:network"}), "--out", "out"), 2)
    called = "own:network, called with input_shape (2, 3), n_outputs 1"
    assert line == f"peer: model.python: {called}: own.py, line 2: IndexError: tuple index out of range"
    assert not (lab.folder / "out").exists()
