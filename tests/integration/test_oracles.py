"""A linear model reaches the centralized optimum of scikit-learn, on label-sorted data over several graphs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from tests import reference
from tests.integration.lab import Array, Lab, parameters

PEERS, SAMPLES, INPUTS, STRENGTH = 6, 90, 5, 0.05

TOPOLOGIES: dict[str, dict[str, Any]] = {
    "ring": {"graph": "ring"},
    "star": {"graph": "star"},
    "links that come and go": {"graph": "complete", "schedule": "random-links", "link_probability": 0.4},
    "one peer": {"schedule": "one-peer-exponential"},
}


def _cut(x: Array, y: Array, *weight: Array) -> list[tuple[Array, ...]]:
    """Shards of unequal size, sorted by label, so that no agent sees what the others see."""
    order = np.argsort(y, kind="stable")
    pieces = np.split(order, [25, 35, 50, 70, 78])
    return [tuple(array[piece] for array in (x, y, *weight)) for piece in pieces]


def _train(lab: Lab, shards: list[tuple[Array, ...]], topology: dict[str, Any], **more: Any) -> tuple[Array, Array]:
    """Weights (I, d) and biases (I,) of all peers."""
    experiment = lab.experiment(
        seed=3,
        peers=PEERS,
        data={"path": lab.shards(shards)},
        model={"hidden": []},
        topology=topology,
        transport={"security": "none"},
        run={"checkpoint_every": 0},
        **more,
    )
    run_dir = lab.launch(experiment)
    found = [parameters(run_dir, peer) for peer in range(PEERS)]
    return np.stack([p["layers.0.weight"][0] for p in found]), np.stack([p["layers.0.bias"][0] for p in found])


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_ridge(lab: Lab, topology: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ rng.normal(size=INPUTS) + 0.5 + 0.3 * rng.normal(size=SAMPLES)
    weights, biases = _train(
        lab,
        _cut(x, y),
        topology,
        iterations=600,
        objective={"loss": "squared", "regularizer": "l2", "strength": STRENGTH, "regularize_biases": False},
        surrogate={"kind": "partial", "curvature": "local", "tau": 1.0},
        step={"alpha": 0.2},
    )
    oracle = Ridge(alpha=STRENGTH * SAMPLES, tol=1e-14).fit(x, y)
    assert np.abs(weights - oracle.coef_).max() < 1e-8
    assert np.abs(biases - oracle.intercept_).max() < 1e-8


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_lasso(lab: Lab, topology: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ np.array([1.0, 0.0, -2.0, 0.0, 0.01]) + 0.5 + 0.3 * rng.normal(size=SAMPLES)
    weights, biases = _train(
        lab,
        _cut(x, y),
        topology,
        iterations=600,
        objective={"loss": "squared", "regularizer": "l1", "strength": STRENGTH, "regularize_biases": False},
        surrogate={"kind": "partial", "curvature": "local", "tau": 1.0, "tolerance": 1e-13},
        step={"alpha": 0.2},
    )
    oracle = Lasso(alpha=STRENGTH, tol=1e-15, max_iter=100_000).fit(x, y)
    assert np.abs(weights - oracle.coef_).max() < 1e-8
    assert np.abs(biases - oracle.intercept_).max() < 1e-8
    assert (oracle.coef_ == 0.0).any(), "the oracle selects nothing, so this shows nothing of selection"


def test_elastic_net(lab: Lab) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ np.array([1.0, 0.0, -2.0, 0.0, 0.01]) + 0.5 + 0.3 * rng.normal(size=SAMPLES)
    penalty = {"regularizer": "elastic_net", "strength": STRENGTH, "l1_ratio": 0.7, "regularize_biases": False}
    weights, biases = _train(
        lab,
        _cut(x, y),
        TOPOLOGIES["links that come and go"],
        iterations=600,
        objective={"loss": "squared", **penalty},
        surrogate={"kind": "partial", "curvature": "local", "tau": 1.0, "tolerance": 1e-13},
        step={"alpha": 0.2},
    )
    oracle = ElasticNet(alpha=STRENGTH, l1_ratio=0.7, tol=1e-15, max_iter=100_000).fit(x, y)
    assert np.abs(weights - oracle.coef_).max() < 1e-8
    assert np.abs(biases - oracle.intercept_).max() < 1e-8
    assert (oracle.coef_ == 0.0).any(), "the oracle selects nothing, so this shows nothing of selection"


def test_nonnegative_least_squares(lab: Lab) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ np.array([1.0, -0.5, 2.0, -1.0, 0.01]) + 0.5 + 0.3 * rng.normal(size=SAMPLES)
    weights, biases = _train(
        lab,
        _cut(x, y),
        TOPOLOGIES["links that come and go"],
        iterations=600,
        objective={"loss": "squared", "regularizer": "none", "lower": 0.0, "regularize_biases": False},
        surrogate={"kind": "partial", "curvature": "local", "tau": 1.0, "tolerance": 1e-13},
        step={"alpha": 0.2},
    )
    oracle = LinearRegression(positive=True, tol=1e-15).fit(x, y)
    assert np.abs(weights - oracle.coef_).max() < 1e-8
    assert np.abs(biases - oracle.intercept_).max() < 1e-8
    assert (oracle.coef_ == 0.0).any(), "the oracle is at no bound, so this shows nothing of bounds"
    assert (weights >= 0.0).all()


def test_group_lasso(lab: Lab) -> None:
    """Three outputs, of which the second has nothing to say: its neuron is switched off, and the run says so."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ (rng.normal(size=(INPUTS, 3)) * (1.0, 0.01, 0.5)) + 0.3 * rng.normal(size=(SAMPLES, 3))
    pieces = np.split(np.argsort(y[:, 0], kind="stable"), [25, 35, 50, 70, 78])
    run_dir = lab.launch(
        lab.experiment(
            peers=PEERS,
            iterations=600,
            data={"path": lab.shards([(x[piece], y[piece]) for piece in pieces])},
            model={"hidden": []},
            topology=TOPOLOGIES["ring"],
            objective={"loss": "squared", "regularizer": "group_l2", "strength": STRENGTH},
            surrogate={"kind": "partial", "curvature": "local", "tau": 1.0, "tolerance": 1e-13},
            step={"alpha": 0.2},
        )
    )
    design, weight = np.c_[x, np.ones(SAMPLES)], STRENGTH * np.sqrt(INPUTS + 1)
    gram, right = design.T @ design / SAMPLES, design.T @ y / SAMPLES
    least, *_, largest = np.linalg.eigvalsh(gram)

    def shrink(v: Array, step: float) -> Array:
        lengths = np.linalg.norm(v, axis=0)
        return np.asarray(v * np.maximum(0.0, 1.0 - step * weight / lengths))

    expected = reference.accelerated(lambda v: gram @ v - right, shrink, 0.1 + 0.0 * right, largest, least)
    for peer in range(PEERS):
        found = parameters(run_dir, peer)
        assert np.abs(np.c_[found["layers.0.weight"], found["layers.0.bias"]].T - expected).max() < 1e-8
    assert not expected[:, 1].any(), "the oracle selects nothing, so this shows nothing of selection"
    assert json.loads((run_dir / "summary.json").read_text())["neurons_off"] == {"layers.0": [1]}


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_logistic_regression(lab: Lab, topology: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = (x @ rng.normal(size=INPUTS) + rng.normal(size=SAMPLES) > 0.3).astype(np.int64)
    weights, biases = _train(
        lab,
        _cut(x, y),
        topology,
        iterations=600,
        objective={"loss": "cross_entropy", "regularizer": "l2", "strength": STRENGTH, "regularize_biases": False},
        surrogate={"kind": "partial", "curvature": "local", "tau": 0.4, "tolerance": 1e-13},
        step={"alpha": 0.2},
    )
    oracle = LogisticRegression(C=1.0 / (STRENGTH * SAMPLES), tol=1e-14, max_iter=10_000, solver="newton-cholesky")
    oracle.fit(x, y)
    assert np.abs(weights - oracle.coef_[0]).max() < 1e-8
    assert np.abs(biases - oracle.intercept_[0]).max() < 1e-8


def test_linear_support_vectors(lab: Lab) -> None:
    """C max(0, 1 - s f)^2 there is s/2 of it here; liblinear penalizes the bias as a weight of a constant input."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = (x @ rng.normal(size=INPUTS) + rng.normal(size=SAMPLES) > 0.3).astype(np.int64)
    weights, biases = _train(
        lab,
        _cut(x, y),
        TOPOLOGIES["links that come and go"],
        iterations=600,
        objective={"loss": "squared_hinge", "regularizer": "l2", "strength": STRENGTH},
        surrogate={"kind": "partial", "curvature": "local", "tau": 0.4, "tolerance": 1e-13},
        step={"alpha": 0.2},
    )
    oracle = LinearSVC(C=0.5 / (STRENGTH * SAMPLES), dual=False, tol=1e-14, intercept_scaling=1.0, max_iter=10_000)
    oracle.fit(x, y)
    assert np.abs(weights - oracle.coef_[0]).max() < 1e-8
    assert np.abs(biases - oracle.intercept_[0]).max() < 1e-8


def test_ridge_with_weights_of_samples(lab: Lab) -> None:
    """The factor s stays 1/M with M the number of samples, so that alpha is that of the unweighted problem."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(SAMPLES, INPUTS))
    y = x @ rng.normal(size=INPUTS) + 0.5 + 0.3 * rng.normal(size=SAMPLES)
    weight = np.where(np.arange(SAMPLES) % 7 == 0, 0.0, rng.uniform(0.1, 3.0, size=SAMPLES))
    weights, biases = _train(
        lab,
        _cut(x, y, weight),
        TOPOLOGIES["ring"],
        iterations=600,
        objective={"loss": "squared", "regularizer": "l2", "strength": STRENGTH, "regularize_biases": False},
        surrogate={"kind": "partial", "curvature": "local", "tau": 1.0},
        step={"alpha": 0.2},
    )
    oracle = Ridge(alpha=STRENGTH * SAMPLES, tol=1e-14).fit(x, y, sample_weight=weight)
    plain = Ridge(alpha=STRENGTH * SAMPLES, tol=1e-14).fit(x, y)
    assert np.abs(oracle.coef_ - plain.coef_).max() > 1e-2, "weights make no difference, so this shows nothing"
    assert np.abs(weights - oracle.coef_).max() < 1e-8
    assert np.abs(biases - oracle.intercept_).max() < 1e-8
