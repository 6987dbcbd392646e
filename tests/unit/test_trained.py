"""A trained network back from its run directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import peer
from peer import summary
from peer.errors import ConfigError
from peer.files import folder_of
from peer.trained import Network
from tests.rundir import EPOCHS, SAMPLES, parameters, write_elastic, write_run

MEAN = {name: np.mean([parameters(k)[name] for k in range(len(SAMPLES))], axis=0) for name in parameters(0)}
X = np.random.default_rng(0).normal(size=(5, 2))


def linear(parts: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(X @ parts["layers.0.weight"].T + parts["layers.0.bias"])


def test_the_network_has_the_mean_of_the_final_parameters(tmp_path: Path) -> None:
    write_run(tmp_path)
    network = peer.load_model(tmp_path)
    assert isinstance(network, Network)
    assert network.parameters.keys() == MEAN.keys()
    for name, part in network.parameters.items():
        np.testing.assert_allclose(part, MEAN[name], rtol=1e-15)
    np.testing.assert_allclose(network.predict(X), linear(MEAN), rtol=1e-13)
    np.testing.assert_array_equal(peer.load_model(str(tmp_path)).predict(X.tolist()), network.predict(X))
    with pytest.raises(ValueError, match="the model's 2 columns, found 3"):
        network.predict(np.zeros((5, 3)))


def test_without_rounds_it_is_that_of_the_members_of_the_last_epoch(tmp_path: Path) -> None:
    experiment = write_elastic(tmp_path)
    found = summary.Ends.of(experiment, tmp_path)
    assert found.members == EPOCHS[-1][1]
    np.testing.assert_array_equal(peer.load_model(tmp_path).w, found.mean)


def test_layers_come_back_too(tmp_path: Path) -> None:
    write_run(tmp_path, model={"layers": [{"kind": "dense"}]})
    np.testing.assert_allclose(peer.load_model(tmp_path).predict(X), linear(MEAN), rtol=1e-13)


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a network of the user's own, without shards."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    text = "from peer.optim.chains import mlp\ndef network(shape, q):\n    return mlp((*shape, q), 'tanh')\n"
    (tmp_path / "own_trained.py").write_text(text)
    write_run(tmp_path / "run", model={"python": "own_trained:network", "folder": str(tmp_path)})
    for shard in (tmp_path / "run" / "shards").iterdir():
        shard.unlink()
    return tmp_path / "run"


def test_a_network_of_the_users_own_is_made_again_where_no_shard_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = own(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="expected the event model of own_trained:network, found none"):
        peer.load_model(run_dir)
    with (folder_of(run_dir, 0) / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time_s": 0.0, "event": "model", "inputs": [2], "outputs": 1}) + "\n")
    np.testing.assert_allclose(peer.load_model(run_dir).predict(X), linear(MEAN), rtol=1e-13)


def test_a_directory_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an experiment file"):
        peer.load_model(tmp_path)
    write_run(tmp_path / "run", ended=None)
    with pytest.raises(ConfigError, match=r"final\.npz"):
        peer.load_model(tmp_path / "run")
