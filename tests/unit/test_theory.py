"""Risks on data whose law is known: closed forms against samples, and against plain least squares."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from peer import settings, theory
from peer.arrays import Matrix, Vector
from peer.errors import ConfigError
from peer.theory import REGIMES, GaussianMixture, Law, Quadratic, Regime, form, population_risk, tangent
from tests.laws import ROUNDING, close

SIGNED = np.array([0.9, -0.7, 0.5, 0.3, -0.2])
"""A spectrum of both signs, far from the small ones of the limits."""

LAWS: dict[str, Law] = {"quadratic": Quadratic(SIGNED), "gaussian-mixture": GaussianMixture(SIGNED)}

each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def weights(n: int, d: int, seed: int = 0) -> Matrix:
    """Rows w_i ~ N(0, Id/d)."""
    return np.asarray(np.random.default_rng(seed).standard_normal((n, d)) / np.sqrt(d))


def network(W: Matrix, a: Vector, c: float, x: Matrix) -> Vector:
    """f(x) = c + sum_i a_i <w_i, x>^2."""
    return np.asarray(c + (x @ W.T) ** 2 @ a)


def value(A: Matrix, x: Matrix) -> Vector:
    """The form x'A x of each sample."""
    return np.asarray(np.sum(x @ A * x, axis=1))


def drawn(dataset: str, **data: Any) -> settings.Experiment:
    return settings.from_tree({"seed": 4, "data": {"dataset": dataset, "dimension": 5, **data}})


def basis(regime: Regime, W: Matrix) -> list[Matrix]:
    """Forms whose span a linear model trains: those of a, and those of each weight."""
    forms = [np.outer(w, w) for w in W]
    if regime == "neural-tangent":
        forms += [np.outer(w, e) + np.outer(e, w) for w in W for e in np.eye(W.shape[1])]
    return forms


def moments(law: Law, forms: list[Matrix]) -> tuple[Matrix, Vector]:
    """E of the products of the forms and of 1, one with another and with y: sums over classes, by Isserlis."""
    n, classes = len(forms), [1.0, -1.0]
    gram, cross = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
    target = np.diag(law.spectrum)
    for y in classes:
        S = np.eye(len(target)) - (y * target if isinstance(law, GaussianMixture) else 0.0)
        means = np.array([np.trace(M @ S) for M in forms] + [1.0])
        gram += 0.5 * np.outer(means, means)
        gram[:n, :n] += [[np.trace(K @ S @ M @ S) for M in forms] for K in forms]
        if isinstance(law, GaussianMixture):
            cross += 0.5 * y * means
        else:
            cross[:n] += [np.trace(M @ target) for M in forms]
    return gram, cross


@each_law
def test_samples_have_the_moments_of_the_law(law: Law) -> None:
    m = 200_000
    x, y = law.drawn(np.random.default_rng(1), m)
    assert (x.shape, y.shape) == ((m, 5), (m,))
    near = 6.0 / np.sqrt(m)
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=near)
    np.testing.assert_allclose(x.T @ x / m, np.eye(5), atol=near * 2.0)
    assert abs(y.mean()) <= near * np.sqrt(law.variance)
    assert y.var() == pytest.approx(law.variance, rel=0.03)
    if isinstance(law, GaussianMixture):
        assert set(np.unique(y)) == {-1.0, 1.0}
        for sign in (1.0, -1.0):
            np.testing.assert_allclose(x[y == sign].var(axis=0), 1.0 - sign * SIGNED, atol=near * 4.0)


@each_law
@pytest.mark.parametrize("seed", range(3))
def test_the_risk_is_the_mean_over_many_samples(law: Law, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, a, c = weights(4, 5, seed), rng.standard_normal(4), float(rng.standard_normal())
    x, y = law.drawn(rng, 200_000)
    errors = (network(W, a, c, x) - y) ** 2 / law.variance
    deviation = float(errors.std()) / np.sqrt(len(errors))
    assert deviation < 0.02 * errors.mean(), "else it says little"
    assert abs(law.risk(form(W, a), c) - errors.mean()) <= 4.0 * deviation


def test_forms_are_the_networks() -> None:
    """And those of the regime neural-tangent the networks' linear models, which are linear in W and a."""
    rng, n, d = np.random.default_rng(2), 3, 4
    x = rng.standard_normal((7, d))
    W_0, a_0, W, a = (rng.standard_normal(shape) for shape in ((n, d), n, (n, d), n))
    close(value(form(W, a), x), network(W, a, 0.0, x), ROUNDING)
    np.testing.assert_array_equal(tangent(W_0, a_0, W_0, a), form(W_0, a))
    h = 1e-5
    ahead, behind = (network(W_0 + t * (W - W_0), a_0 + t * (a - a_0), 0.0, x) for t in (h, -h))
    close(value(tangent(W_0, a_0, W, a), x), network(W_0, a_0, 0.0, x) + (ahead - behind) / (2 * h), 1e-7)


@each_law
@pytest.mark.parametrize("n", [1, 3, 5, 7])
@pytest.mark.parametrize("regime", ["random-features", "neural-tangent"])
def test_the_best_of_a_linear_regime_is_that_of_least_squares(law: Law, regime: Regime, n: int) -> None:
    W = weights(n, 5, seed=n)
    forms = basis(regime, W)
    gram, cross = moments(law, forms)
    *theta, c = np.linalg.lstsq(gram, cross, rcond=1e-13)[0]
    A = np.sum([t * M for t, M in zip(theta, forms, strict=True)], axis=0)
    assert law.best(regime, W) == pytest.approx(law.risk(A, float(c)), rel=1e-10, abs=1e-12)


@each_law
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_all_networks_is_that_of_descent(law: Law, n: int) -> None:
    """The best of several starts, each from which L-BFGS goes down to a minimum, or to a saddle."""

    def risk(w: Vector) -> float:
        return law.risk(form(w[: n * 5].reshape(n, 5), w[n * 5 : -1]), float(w[-1]))

    best, found = law.best("full", weights(n, 5)), np.inf
    rng = np.random.default_rng(n)
    for _ in range(4):
        a = rng.choice([-1.0, 1.0], size=n)  # signs do not change along the way
        start = np.concatenate([0.5 * rng.standard_normal(n * 5), a, [0.0]])
        found = min(found, float(optimize.minimize(risk, start, method="L-BFGS-B").fun))
        assert found >= best - 1e-12
        if found <= best + 1e-6:
            return
    pytest.fail(f"{found} is not near {best}")


@each_law
@pytest.mark.parametrize("regime", REGIMES)
def test_more_neurons_reach_more_and_their_scale_does_not_matter(law: Law, regime: Regime) -> None:
    W = weights(16, 5)
    risks = [law.best(regime, W[:n]) for n in range(1, 17)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(risks))
    assert risks[0] < 1.0
    close(np.array(law.best(regime, 3.0 * W[:3])), np.array(risks[2]), ROUNDING)
    close(np.array(law.best(regime, W[2::-1])), np.array(risks[2]), ROUNDING)
    everything = risks[0 if regime == "full" else 4 :][-1]
    assert everything == pytest.approx(law.best("full", weights(5, 5)), abs=1e-9), "16 > 15 = d(d + 1)/2 forms"


@pytest.mark.parametrize(
    ("regime", "rho", "risk"),
    [("random-features", 0.5, 5 / 6), ("neural-tangent", 0.5, 0.375), ("full", 0.5, 0.0333), ("full", 0.25, 0.1633)],
)
def test_limits_of_an_exponential_spectrum(regime: Regime, rho: float, risk: float) -> None:
    """Tr(B)^2/(d ||B||^2) = 1/2, and 1 - rho (1 + q + q^2/2), q = -log rho, is what N networks leave."""
    d = 20_000
    spectrum = -np.log((np.arange(d) + 0.5) / d)
    assert theory.unlearned(spectrum, regime, rho) == pytest.approx(risk, abs=2e-4)
    assert theory.unlearned(1e-300 * spectrum, regime, rho) == pytest.approx(risk, abs=2e-4)


@pytest.mark.parametrize("rho", [0.25, 0.5, 0.75, 1.2])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(("dataset", "separation"), [("quadratic", 0.5), ("gaussian-mixture", 0.2)])
def test_drawn_networks_are_near_the_limit(dataset: str, separation: float, regime: Regime, rho: float) -> None:
    d = 300
    law = theory.law(dataset, 3, d, separation)
    W = weights(round(rho * d), d, seed=1)
    assert law.best(regime, W) == pytest.approx(law.limit(regime, rho), abs=0.012)
    assert law.limit(regime, 0.0) == 1.0


@pytest.mark.parametrize("dataset", settings.DRAWN)
def test_the_law_is_recomputed_from_the_experiment(dataset: str) -> None:
    law, again = (theory.law_of(drawn(dataset, samples=m)) for m in (10, 1000))
    np.testing.assert_array_equal(law.spectrum, again.spectrum)
    assert law.spectrum.shape == (5,)
    assert law.spectrum.min() > 0.0
    other = settings.from_tree({"seed": 5, "data": {"dataset": dataset, "dimension": 5}})
    assert not np.array_equal(law.spectrum, theory.law_of(other).spectrum)
    if dataset == "gaussian-mixture":
        assert law.spectrum.max() == pytest.approx(0.5)
        assert theory.law_of(drawn(dataset, separation=1.0)).spectrum.max() == pytest.approx(1.0)


@pytest.mark.parametrize("dataset", settings.DRAWN)
def test_population_risk(dataset: str) -> None:
    experiment = drawn(dataset)
    law, W, a = theory.law_of(experiment), weights(3, 5), np.array([1.0, -2.0, 0.5])
    assert population_risk(experiment, W, 0.0 * a, 0.0) == pytest.approx(1.0), "the best constant"
    assert population_risk(experiment, W, a, 0.3) == law.risk(form(W, a), 0.3)
    found = population_risk(experiment, W + 0.1, a, 0.3, start=(W, a + 1.0))
    assert found == law.risk(tangent(W, a + 1.0, W + 0.1, a), 0.3)
    top = np.argsort(law.spectrum)[::-1][:3]
    if dataset == "quadratic":
        lambdas = law.spectrum[top]
        best = population_risk(experiment, np.eye(5)[top], lambdas, -float(lambdas.sum()))
        assert best == pytest.approx(law.best("full", W), rel=1e-12)


@pytest.mark.parametrize(
    ("W", "a"), [(np.ones((3, 4)), np.ones(3)), (np.ones((3, 5)), np.ones(4)), (np.ones((1, 5)), np.ones((1, 1)))]
)
def test_parameters_of_other_shapes_are_refused(W: Matrix, a: Vector) -> None:
    with pytest.raises(ValueError, match=r"weights \(N, 5\)"):
        population_risk(drawn("quadratic"), W, a, 0.0)
    with pytest.raises(ValueError, match=r"weights \(N, 5\)"):
        population_risk(drawn("quadratic"), np.ones((3, 5)), np.ones(3), 0.0, start=(W, a))


def test_of_other_data_no_law_is_known() -> None:
    with pytest.raises(ConfigError, match="quadratic or gaussian-mixture; found 'wine'") as refusal:
        theory.law_of(settings.from_tree({"data": {"dataset": "wine"}}))
    assert refusal.value.key == "data.dataset"
