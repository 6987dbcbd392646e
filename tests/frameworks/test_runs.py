"""Real processes that train networks of PyTorch and JAX, and their networks back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peer
from peer import npz
from peer.frameworks import functions
from peer.optim.chains import mlp
from tests.frameworks import networks
from tests.frameworks.networks import WIDTH
from tests.integration.lab import Lab, events, metrics, parameters, refusal, same_finals

PEERS, ROUNDS, D, Q = 3, 15, 3, 3
EXAMPLES = Path(__file__).parents[2] / "examples"
PLACES = {"torch_mlp": (1, 3), "jax_mlp": (0, 1)}


def experiment(lab: Lab, model: dict[str, Any], name: str = "experiment", **tree: Any) -> Path:
    rng = np.random.default_rng(1)
    path = lab.shards([(rng.normal(size=(m, D)), np.arange(m) % Q) for m in (9, 6, 12)])
    return lab.experiment(
        name,
        **{
            "seed": 3,
            "peers": PEERS,
            "iterations": ROUNDS,
            "data": {"path": path},
            "model": model,
            "objective": {"loss": "cross_entropy"},
            "topology": {"graph": "ring"},
        }
        | tree,
    )


def own(name: str) -> dict[str, Any]:
    return {"python": f"networks:{name}", "folder": str(Path(networks.__file__).parent)}


def renamed(name: str, parts: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the chain by the names of the library."""
    words = {key: key.split(".") for key in parts}
    return {f"{PLACES[name][int(words[key][1])]}.{words[key][2]}": part for key, part in parts.items()}


@pytest.mark.parametrize("name", PLACES)
def test_processes_end_where_those_of_the_same_chain_end(lab: Lab, name: str) -> None:
    chain = mlp((D, WIDTH, Q), "tanh")
    start = chain.layout.unflatten(chain.initial(np.random.default_rng(2)))
    npz.save(lab.folder / "chain.npz", start)
    npz.save(lab.folder / "own.npz", renamed(name, start))
    expected = lab.launch(experiment(lab, {"hidden": [WIDTH], "initial": "chain.npz"}, "numpy"), "numpy")
    found = lab.launch(experiment(lab, own(name) | {"initial": "own.npz"}), "own")
    for k in range(PEERS):
        assert len(metrics(found, k)) == ROUNDS
        twins = parameters(found, k)
        for key, part in renamed(name, parameters(expected, k)).items():
            np.testing.assert_allclose(twins[key], part, rtol=0.0, atol=1e-8)
            assert not np.allclose(part, renamed(name, start)[key], atol=1e-3), "they have learned something"
    one, other = (json.loads((run / "summary.json").read_text()) for run in (expected, found))
    for key in ("objective", "stationarity", "parameters", "samples"):
        assert one[key] == pytest.approx(other[key], abs=1e-8)
    assert {"event": "model", "inputs": [D], "outputs": Q}.items() <= next(
        event for event in events(found, 1) if event["event"] == "model"
    ).items()
    assert '"torch"' in (text := (found / "experiment.toml").read_text()) or "torch = " in text

    x, network = np.random.default_rng(3).normal(size=(4, D)), peer.load_model(found)
    if name == "torch_mlp":
        with torch.no_grad():
            outputs = network(torch.from_numpy(x)).numpy()
    else:
        apply, params = network
        assert params[0]["weight"].dtype == np.float64
        outputs = apply(params, x)
    np.testing.assert_allclose(outputs, peer.load_model(expected).predict(x), rtol=0.0, atol=1e-6)

    functions.network.cache_clear()
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert peer.Run(found).parameters().keys() == twins.keys()
        assert torch.get_num_threads() == 2, "the user's process stays as it is"
    finally:
        torch.set_num_threads(n_threads)

    checked = lab.run("check", "experiment.toml")
    assert checked.returncode == 0, checked.stderr
    assert f"# network: {D} - {Q}" in checked.stdout
    (found / "summary.json").unlink()
    assert lab.run("report", "own").returncode == 0
    assert json.loads((found / "summary.json").read_text())["objective"] == other["objective"]


@pytest.mark.parametrize("name", PLACES)
def test_agents_that_share_a_process_come_to_the_same_bits(lab: Lab, name: str) -> None:
    file = experiment(lab, own(name))
    same_finals(lab.launch(file, "alone"), lab.launch(file, "together", "--agents-per-process", "2"), PEERS)


def test_users_bugs_at_the_start_are_bad_input_and_nothing_is_written(lab: Lab) -> None:
    line = refusal(lab.run("launch", experiment(lab, own("fails")), "--out", "out"), 2)
    assert re.search(r"model\.python: networks:fails: networks\.py, line \d+: RuntimeError: too wide", line)
    assert not (lab.folder / "out").exists()


def test_users_bugs_in_a_round_end_the_run_with_a_line(lab: Lab) -> None:
    line = refusal(lab.run("launch", experiment(lab, own("late")), "--out", "out"), 4)
    assert re.search(r"peer \d: networks:late: networks\.py, line \d+: RuntimeError: too many", line)


def test_groups_of_neurons_are_known_of_torch_alone(lab: Lab) -> None:
    group: dict[str, Any] = {"objective": {"loss": "cross_entropy", "regularizer": "group_l2", "strength": 0.03}}
    run_dir = lab.launch(experiment(lab, own("torch_mlp"), **group))
    assert json.loads((run_dir / "summary.json").read_text())["neurons_off"].keys() == {"1", "3"}
    line = refusal(lab.run("launch", experiment(lab, own("jax_mlp"), **group), "--out", "none"), 2)
    assert "objective.regularizer: expected one of none, l2, l1, elastic_net" in line


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_the_examples_learn(lab: Lab, library: str) -> None:
    run_dir = lab.launch(EXAMPLES / f"{library}-digits.toml")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.9
