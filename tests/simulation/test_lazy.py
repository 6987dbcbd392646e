"""Agents that choose tau and the time to linearize anew, both at once, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from peer import config, learning, npz, settings
from peer.agent import State
from peer.data import Cut
from peer.errors import ConfigError
from peer.optim.chains import mlp
from peer.simulation import Agents

QUADRATIC = {
    "data": {"dataset": "quadratic", "dimension": 5, "samples": 300},
    "model": {"layers": [{"kind": "quadratic", "width": 3}, {"kind": "dense"}]},
}


def agents_of(tree: dict[str, Any], folder: Path) -> Agents:
    """Four agents on a ring, each with its shard."""
    tree = {"regime": {"kind": "auto"}} | tree | {"peers": 4, "iterations": 300, "topology": {"graph": "ring"}}
    found = settings.from_tree(tree)
    Cut.of(found).write(folder)
    data = msgspec.structs.replace(found.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
    found = msgspec.structs.replace(found, data=data)
    return Agents.of(found, config.ground(found), [learning.shard_of(found, peer) for peer in range(4)])


@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"dataset": "wine"}, "model": {"hidden": [4]}, "objective": {"loss": "cross_entropy"}},
        {"data": {"dataset": "wine"}, "model": {"hidden": [4]}, "objective": {"loss": "squared"}},
        QUADRATIC,
    ],
    ids=["cross-entropy", "squared", "quadratic"],
)
def test_both_auto_come_to_rest_where_the_network_is_stationary(tree: dict[str, Any], tmp_path: Path) -> None:
    agents = agents_of(tree, tmp_path)
    problems = [actor.problem for actor in agents.actors]
    assert agents.experiment.surrogate.tau == "auto"

    def left(states: Sequence[State]) -> float:
        w = np.mean([state.w for state in states], axis=0)
        return problems[0].stationarity(w, np.sum([g.gradient(w) for g in problems], axis=0))

    first, renewals = left(agents.begun()), 0
    for done in agents.play():
        renewals += sum(state.anchored == state.n for state in done.after)
        if left(done.after) <= 1e-2 * first:
            break
    assert left(done.after) <= 1e-2 * first
    assert renewals < 4 * done.after[0].n, "rounds were played without linearizing anew"


def test_parameters_that_stay_are_those_of_all_agents(tmp_path: Path) -> None:
    rng, network = np.random.default_rng(0), mlp((13, 4, 3), "tanh")
    for i in range(4):
        npz.save(tmp_path / f"begin-{i}.npz", network.layout.unflatten(network.initial(rng)))
    model = {"hidden": [4], "initial": f"{tmp_path}/begin-{{id}}.npz"}
    tree = {"data": {"dataset": "wine"}, "model": model, "regime": {"trainable": ["layers.1"]}}
    with pytest.raises(ConfigError, match="peer 1: expected the same parameters at all peers, as some of them stay"):
        agents_of(tree, tmp_path)
