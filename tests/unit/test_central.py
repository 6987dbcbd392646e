"""What runs are compared with: two ways to the optimum of one problem agree, where scikit-learn has a model for it."""

from __future__ import annotations

import numpy as np
import pytest

from peer import central
from peer.optim.chains import mlp
from peer.optim.losses import Logistic, Loss, Softmax, Squared, Weighted
from peer.optim.regularizers import L1, L2, Boxed, ElasticNet, NoRegularizer, Regularizer, group_l2
from peer.optim.surrogates import Data

D, SIZES = 3, (12, 7)

MODELS = {
    "squared, l2": "Ridge",
    "squared, l1": "Lasso",
    "squared, elastic net": "ElasticNet",
    "logistic, l2": "LogisticRegression",
    "softmax, l2": "LogisticRegression",
}


def shards_of(loss: str, hidden: tuple[int, ...] = (), weighted: bool = True) -> list[Data]:
    """Shards of weighted samples of one model."""
    rng, q = np.random.default_rng(3), {"squared": 2, "logistic": 1, "softmax": 3}[loss]
    found = []
    for m in SIZES:
        labels = np.arange(m) % max(q, 2)
        families: dict[str, Loss] = {"squared": Squared(rng.standard_normal((m, q)))}
        families |= {"logistic": Logistic(labels)} if loss == "logistic" else {}
        families |= {"softmax": Softmax(labels)} if loss == "softmax" else {}
        own = Weighted(families[loss], rng.uniform(0.5, 2.0, m)) if weighted else families[loss]
        found.append(Data(mlp((D, *hidden, q), "tanh"), rng.standard_normal((m, D)), own, 1.0 / sum(SIZES)))
    return found


def regularizer_of(name: str, penalized: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Regularizer:
    """A penalty of the given parameters."""
    strength = 0.05 * penalized
    families: dict[str, Regularizer] = {
        "l2": L2(strength),
        "l1": L1(strength),
        "elastic net": ElasticNet(0.3 * strength, 0.7 * strength),
    }
    return families[name]


@pytest.mark.parametrize("biases", [0.0, 1.0], ids=["free biases", "all regularized"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("problem", MODELS)
def test_both_ways_come_to_the_same_optimum(problem: str, weighted: bool, biases: float) -> None:
    loss, penalty = problem.split(", ")
    shards = shards_of(loss, weighted=weighted)
    q = shards[0].model.n_outputs
    r = regularizer_of(penalty, np.repeat((1.0, biases), (q * D, q)))
    found = central.by_scikit_learn(shards, r)
    assert found is not None
    w, name = found
    assert name == f"scikit-learn {MODELS[problem]}"
    own, n_iterations, solver = central.minimize(
        lambda w: sum(data.value(w) for data in shards),
        lambda w: np.asarray(sum(data.gradient(w) for data in shards)),
        r,
        np.zeros(q * D + q),
    )
    assert (solver, n_iterations > 0) == ("L-BFGS", True)
    if loss == "softmax" and not biases:  # a constant may be added to all biases
        w, own = (np.append(v[:-q], v[-q:] - v[-q:].mean()) for v in (w, own))
    assert np.abs(w - own).max() < 1e-5


def test_what_scikit_learn_has_no_model_for() -> None:
    shards, ones = shards_of("squared"), np.ones(2 * D + 2)
    assert central.by_scikit_learn(shards, L2(ones)) is not None
    others: list[Regularizer] = [
        NoRegularizer(),
        L2(np.arange(2.0 * D + 2)),
        Boxed(L2(ones), -ones, ones),
        group_l2(shards[0].model.neurons, 0.1),
    ]
    assert all(central.by_scikit_learn(shards, r) is None for r in others)
    deep = shards_of("squared", hidden=(4,))
    assert central.by_scikit_learn(deep, L2(np.ones(deep[0].model.layout.size))) is None
    softmax = shards_of("softmax")
    assert central.by_scikit_learn(softmax, L1(np.ones(3 * D + 3))) is None


def test_groups_are_for_accelerated_proximal_gradients() -> None:
    shards = shards_of("squared")
    r = group_l2(shards[0].model.neurons, 0.05)
    w, _, solver = central.minimize(
        lambda w: sum(data.value(w) for data in shards),
        lambda w: np.asarray(sum(data.gradient(w) for data in shards)),
        r,
        np.zeros(2 * D + 2),
    )
    assert solver == "FISTA"
    gradient = sum(data.gradient(w) for data in shards)
    assert np.abs(w - r.prox(w - gradient, 1.0)).max() < 1e-8
