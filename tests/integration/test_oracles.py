"""A linear model reaches the centralized optimum of scikit-learn, on label-sorted data over several graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

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
