"""`peer simulate` is what peers do, after every round: against `peer.simulation`, which has the bits of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import config, settings
from peer.scaling import Simulation, pieces_of
from peer.shards import Shard
from peer.simulation import Agents

ROUNDS = 25

GRADIENT_TRACKING = {"kind": "gradient-tracking", "step_size": 0.02}

MIXTURE = {"dataset": "gaussian-mixture", "dimension": 5, "samples": 85, "test_fraction": 0.0}

CASES: dict[str, dict[str, Any]] = {
    "auto on a ring": {"topology": {"graph": "ring"}},
    "auto, one peer, cross-entropy": {
        "data": MIXTURE,
        "objective": {"loss": "cross_entropy"},
        "topology": {"schedule": "one-peer-exponential"},
    },
    "classes that differ, matchings": {
        "data": MIXTURE | {"partition": "dirichlet"},
        "topology": {"schedule": "matchings", "graph": "exponential"},
    },
    "two exchanges, random links": {"topology": {"schedule": "random-links", "consensus_steps": 2, "graph": "grid"}},
    "the paper's curvature": {"surrogate": {"curvature": "local", "tau": 1.0}, "step": {"alpha": 0.2}},
    "full, l1": {"objective": {"regularizer": "l1"}, "surrogate": {"kind": "full"}},
    "full, bounds": {"objective": {"lower": -0.2, "upper": 0.3}, "surrogate": {"kind": "full", "tau": 20.0}},
    "huber, p above m q": {"model": {"hidden": [12]}, "objective": {"loss": "huber"}},
    "hinge, no penalty": {"data": MIXTURE, "objective": {"loss": "squared_hinge", "regularizer": "none"}},
    "diminishing": {"step": {"rule": "diminishing", "mu": 0.1}, "topology": {"weights": "max-degree"}},
    "gradient tracking": {"method": GRADIENT_TRACKING, "topology": {"weights": "lazy-metropolis"}},
    "gradient tracking, elastic net": {"method": GRADIENT_TRACKING, "objective": {"regularizer": "elastic_net"}},
    "gradient descent": {"method": {"kind": "gradient-descent", "step_size": 0.02}, "topology": {"graph": "star"}},
}


def experiment_of(changes: dict[str, Any]) -> settings.Experiment:
    tree: dict[str, Any] = {
        "seed": 3,
        "peers": 6,
        "iterations": ROUNDS,
        "data": {"dataset": "quadratic", "dimension": 4, "samples": 82, "test_fraction": 0.0},  # 14 or 13 of each
        "model": {"hidden": [3]},
        "surrogate": {"tolerance": 1e-13},
    }
    if "method" in changes:
        del tree["surrogate"]
    settings.merge(tree, changes)
    return settings.from_tree(tree)


def far_from_peers(experiment: settings.Experiment, shards: Sequence[Shard] = ()) -> float:
    """Of w, y and the objective, relative, after every round; of other shards than the experiment's, if any are given.

    No agent goes far.
    """
    shards, ground = shards or pieces_of(experiment), config.ground(experiment)
    simulation = Simulation.of(experiment, shards)
    assert simulation.alpha == config.alpha_of(experiment, ground.contraction)
    agents, worst = Agents.of(experiment, ground, shards), 0.0
    states = simulation.states()
    ours, theirs = next(states), agents.begun()
    for ours, played in zip(states, agents.play(), strict=True):
        theirs = played.after
        for name in ("w", "y", "objective"):
            expected = np.array([getattr(state, name) for state in theirs])
            found = getattr(ours, name)
            assert found.shape == expected.shape
            worst = max(worst, float(np.abs(found - expected).max(initial=0.0) / np.abs(expected).max(initial=1e-300)))
    assert ours.n == theirs[0].n == ROUNDS
    assert np.abs(ours.w).max() < 1e3
    if ours.y.size:  # (9)
        np.testing.assert_allclose(ours.y.sum(axis=0), ours.gradient.sum(axis=0), atol=1e-12)
    return worst


@pytest.mark.parametrize("name", CASES)
def test_every_round_is_that_of_peers(name: str) -> None:
    assert far_from_peers(experiment_of(CASES[name])) < 1e-12


def test_shares_are_rounded_as_peers_round_them() -> None:
    changes = {"transport": {"wire_dtype": "f4"}, "surrogate": {"tau": 0.5}}
    assert far_from_peers(experiment_of(changes)) < 1e-5  # the last bits of rounded numbers are not the same


@pytest.mark.parametrize(
    ("loss", "regularizer", "kind"),
    [("cross_entropy", "none", "full"), ("cross_entropy", "l2", "partial"), ("squared_hinge", "l2", "partial")],
)
def test_an_agent_whose_losses_are_all_but_nothing_stays_with_the_others(
    loss: str, regularizer: str, kind: str
) -> None:
    """Logistic losses of samples as they came, in the thousands: their gradients have squares that vanish."""
    changes = {
        "model": {"hidden": []},
        "objective": {"loss": loss, "regularizer": regularizer},
        "surrogate": {"kind": kind},
        "topology": {"graph": "complete"},
    }
    experiment, rng = experiment_of(changes), np.random.default_rng(1)
    shards = [Shard(Path(), x, None, (x[:, 0] > 0.0).astype(np.int64), None, None) for x in rng.normal(size=(6, 8, 3))]
    first = Simulation.of(experiment, shards).w[0]
    negative = np.tile(-450.0 * first[:3] / np.dot(first[:3], first[:3]), (8, 1))
    shards[0] = Shard(Path(), negative, None, np.zeros(8, dtype=np.int64), None, None)
    assert far_from_peers(experiment, shards) < 1e-12


@pytest.mark.parametrize(
    "changes", [{"topology": {"graph": "star", "weights": "fdla"}}, {"compression": {"kind": "top-k"}}]
)
def test_what_a_run_comes_to_is_within_bounds_where_means_are_not(changes: dict[str, Any]) -> None:
    experiment = experiment_of({"iterations": 5, "objective": {"lower": 0.0, "upper": 0.2}} | changes)
    agents = Agents.of(experiment, config.ground(experiment), pieces_of(experiment))
    *_, last = agents.play()
    found = [(state.w, actor.result(state)) for actor, state in zip(agents.actors, last.after, strict=True)]
    assert any((w != result).any() for w, result in found)
    assert all(((result >= 0.0) & (result <= 0.2)).all() for _, result in found)
