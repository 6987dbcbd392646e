"""Estimators: scikit-learn's own checks, its models as oracles, and what is particular to agents."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from peer.errors import ConfigError
from peer.sklearn import NextClassifier, NextRegressor

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 3)) * [1.0, 2.0, 0.5] + [0.0, 3.0, -1.0]
Y = X @ [1.0, -0.5, 2.0] + 0.1 * RNG.normal(size=60)
NAMES = np.array(["low", "middle", "up"])[np.digitize(Y, np.quantile(Y, [0.3, 0.6]))]

OPTIONAL = {
    "check_array_api_input",
    "check_sample_weights_pandas_series",
    "check_classifier_data_not_an_array",
    "check_regressor_data_not_an_array",
}
"""Checks of input of other libraries, made where these are installed."""


def small(kind: type[Any], **more: Any) -> Any:
    return kind(**{"n_agents": 3, "hidden": (4,), "rounds": 15, "random_state": 0} | more)


def exact(kind: type[Any], **more: Any) -> Any:
    """A linear model that is trained until it is stationary."""
    return kind(**{"hidden": (), "rounds": 400, "tol": 1e-9, "random_state": 1, "strength": 0.05} | more)


@pytest.mark.parametrize("kind", [NextClassifier, NextRegressor])
def test_scikit_learn_finds_nothing(kind: type[Any]) -> None:
    found = check_estimator(small(kind), on_skip=None)
    assert {each["check_name"] for each in found if each["status"] != "passed"} <= OPTIONAL
    assert sum(each["status"] == "passed" for each in found) > 50


def test_agents_find_the_ridge_of_all_samples() -> None:
    found = exact(NextRegressor).fit(X, Y)
    x, y = (X - X.mean(axis=0)) / X.std(axis=0), (Y - Y.mean()) / Y.std()
    best = Ridge(alpha=0.05 * len(x), fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(found.network_.parameters["layers.0.weight"][0], best.coef_, atol=1e-7)
    np.testing.assert_allclose(found.predict(X), best.predict(x) * Y.std() + Y.mean(), atol=1e-6)
    assert found.n_iter_ < 400, "it stops when it is there"
    assert found.disagreement_ < 1e-14
    assert len(found.loss_curve_) == found.n_iter_


@pytest.mark.parametrize("weights", [None, np.full(60, 2.0), np.arange(60) % 4])
def test_sums_of_losses_are_of_all_samples_and_weights(weights: Any) -> None:
    """They were of weights with mean 1, and equal samples counted as one."""
    settings = {"objective.scale": "sum", "objective.regularize_biases": False}
    found = exact(NextRegressor, strength=3.0, standardize=False, settings=settings)
    for x, y, w in ((X, Y, weights), (np.repeat(X, 2, axis=0), np.repeat(Y, 2), None)):
        best = Ridge(alpha=3.0).fit(x, y, sample_weight=w)
        found.fit(x, y, sample_weight=w)
        np.testing.assert_allclose(found.network_.parameters["layers.0.weight"][0], best.coef_, atol=1e-7)
        np.testing.assert_allclose(found.predict(X), best.predict(X), atol=1e-6)


def test_agents_find_the_logistic_regression_of_all_samples() -> None:
    settings = {"objective.regularize_biases": False}
    found = exact(NextClassifier, partition="label-sorted", settings=settings).fit(X, NAMES)
    x = (X - X.mean(axis=0)) / X.std(axis=0)
    best = LogisticRegression(C=1.0 / (0.05 * len(x)), tol=1e-10, max_iter=10_000).fit(x, NAMES)
    np.testing.assert_allclose(found.predict_proba(X), best.predict_proba(x), atol=1e-5)
    assert list(found.predict(X)) == list(best.predict(x))
    assert found.score(X, NAMES) == best.score(x, NAMES) > 0.8


def test_a_weight_is_so_many_samples_in_any_order() -> None:
    counts = np.arange(60) % 4
    weighted = small(NextClassifier).fit(X, NAMES, sample_weight=counts)
    order = RNG.permutation(counts.sum())
    repeated = small(NextClassifier).fit(np.repeat(X, counts, axis=0)[order], np.repeat(NAMES, counts)[order])
    np.testing.assert_allclose(weighted.network_.w, repeated.network_.w, rtol=1e-9)


def test_two_classes_have_one_output() -> None:
    found = small(NextClassifier).fit(X, Y.mean() < Y)
    assert found.decision_function(X).shape == (60,)
    np.testing.assert_array_equal(found.predict(X), found.predict_proba(X)[:, 1] > 0.5)
    assert found.classes_.tolist() == [False, True]


@pytest.mark.parametrize("loss", ["squared", "huber", "squared_hinge"])
@pytest.mark.parametrize("classes", [NAMES, NAMES == "up"], ids=["three", "two"])
def test_other_losses_have_no_probabilities(loss: str, classes: Any) -> None:
    found = small(NextClassifier, loss=loss, rounds=40).fit(X, classes)
    assert found.score(X, classes) > 0.8
    assert not hasattr(found, "predict_proba")


def test_several_targets_at_once() -> None:
    y = np.column_stack([Y, -3.0 * Y, X[:, 0]])
    found = small(NextRegressor, hidden=(), rounds=60).fit(X, y)
    assert found.predict(X[:5]).shape == (5, 3)
    assert found.score(X, y) > 0.95
    assert small(NextRegressor).fit(X, y[:, :1]).predict(X).shape == (60, 1)


def test_grids_pipelines_and_copies() -> None:
    pipeline = make_pipeline(StandardScaler(), small(NextClassifier, standardize=False))
    search = GridSearchCV(pipeline, {"nextclassifier__strength": [1e-3, 100.0], "nextclassifier__n_agents": [2]}, cv=2)
    search.fit(X, NAMES)
    assert search.best_params_["nextclassifier__strength"] == 1e-3
    copied = clone(search.best_estimator_[-1])
    assert copied.get_params() == search.best_estimator_[-1].get_params()
    assert not hasattr(copied, "network_")
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_parameters_may_be_numbers_of_numpy() -> None:
    """As grids and distributions have them."""
    given = {"strength": np.logspace(-3, -1, 2), "rounds": np.arange(5, 15, 5), "n_agents": np.array([2])}
    search = GridSearchCV(small(NextRegressor), given, cv=2).fit(X, Y)
    assert search.best_params_["n_agents"] == 2
    numbers = small(NextRegressor, hidden=np.array([3]), standardize=np.bool_(True), random_state=np.int64(0))
    plain = small(NextRegressor, hidden=(3,))
    np.testing.assert_array_equal(numbers.fit(X, Y).network_.w, plain.fit(X, Y).network_.w)


@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_the_scale_of_a_column_does_not_matter(scale: float) -> None:
    """Also where its square is no number any more."""
    assert exact(NextRegressor).fit(X * scale, Y).score(X * scale, Y) > 0.99


@pytest.mark.parametrize("weight", [1e-310, 1e300])
def test_the_scale_of_weights_does_not_matter(weight: float) -> None:
    found = small(NextRegressor).fit(X, Y, sample_weight=np.full(60, weight)).network_.w
    np.testing.assert_array_equal(found, small(NextRegressor).fit(X, Y).network_.w)


def test_chance_is_in_random_state() -> None:
    one, same, other = (small(NextRegressor, random_state=seed).fit(X, Y).network_.w for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_or_in_the_seed_of_the_settings_and_nowhere_else_then() -> None:
    """It drew the first parameters, and random_state shared out the samples."""
    one, same = (small(NextRegressor, random_state=r, settings={"seed": 3}).fit(X, Y).network_.w for r in (0, 1))
    np.testing.assert_array_equal(one, same)


def test_agents_are_no_more_than_different_samples() -> None:
    found = small(NextRegressor, n_agents=10).fit(np.repeat(X[:2], 5, axis=0), np.repeat(Y[:2], 5))
    assert found.n_agents_ == 2


def test_other_settings_are_those_of_the_file() -> None:
    found = small(NextClassifier, settings={"data.validation_fraction": 0.2, "surrogate": {"tau": 3.0}}).fit(X, NAMES)
    assert found.network_.w.size == 4 * 4 + 3 * 5
    for more, words in (
        ({"settings": {"surrogate.tua": 3.0}}, "did you mean surrogate.tau"),
        ({"loss": "hinge"}, "objective.loss: expected one of"),
        ({"hidden": (0,)}, "model.hidden: expected widths"),
        ({"graph": "tree"}, "topology.graph"),
        ({"n_agents": 0}, "peers: expected 1 to"),
        ({"n_agents": "4"}, "peers: Expected int"),
        ({"n_agents": None}, "peers: Expected int"),
        ({"hidden": 10}, "model.hidden: Expected array"),
        ({"settings": [3]}, "settings: expected settings by their names"),
        ({"settings": {"run.mode": "async"}, "tol": 0.0}, 'expected "rounds" in a simulation'),
    ):
        with pytest.raises(ConfigError, match=words):
            small(NextClassifier, **more).fit(X, NAMES)


def test_samples_that_cannot_be_used_are_told() -> None:
    with pytest.raises(ValueError, match="found one class"):
        small(NextClassifier).fit(X, np.zeros(60))
    with pytest.raises(ValueError, match="at least one non-zero"):
        small(NextRegressor).fit(X, Y, sample_weight=np.zeros(60))
    with pytest.raises(ValueError, match="egative"):
        small(NextRegressor).fit(X, Y, sample_weight=-np.ones(60))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective.loss", "squared"),
        ("peers", 4),
        ("model.outputs", 5),
        ("data.validation_path", "x.npz"),
        ("data", {"path": "x"}),
    ],
)
def test_settings_do_not_say_what_has_a_place_of_its_own(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"settings: {key}"):
        small(NextClassifier, settings={key: value}).fit(X, NAMES)
