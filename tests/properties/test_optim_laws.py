"""Every model, loss, regularizer, surrogate and solver obeys the laws of its family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.optimize import fmin_l_bfgs_b
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from peer.arrays import Matrix, Vector
from peer.optim.chains import Chain, mlp
from peer.optim.layers import Dense
from peer.optim.losses import Huber, Loss, Squared, Weighted, cross_entropy, squared_hinge
from peer.optim.regularizers import L1, L2, ElasticNet, NoRegularizer, Regularizer
from peer.optim.second_order import SecondOrder
from peer.optim.solvers import solve
from peer.optim.surrogates import Data, Full, Linearized, Partial, Surrogate
from tests import laws
from tests.instances import (
    ACTIVATIONS,
    LOSSES,
    REGULARIZERS,
    SEPARABLE,
    certain,
    data_of,
    gradient_of,
    linearized_of,
    loss_of,
    outputs_of,
    parameters_of,
    regularizer_of,
    rounding_of,
    separable_labels,
)

seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0.0, 1.0)
hidden = st.lists(st.integers(1, 4), max_size=2)
taus = st.floats(-2.0, 1.0).map(lambda exponent: 10.0**exponent)
strengths = st.floats(-3.0, 0.0).map(lambda exponent: 10.0**exponent)
kappas = st.sampled_from([1.0, 5.0])
modest = settings(max_examples=30, deadline=None)
few = settings(max_examples=10, deadline=None)


@st.composite
def networks(draw: st.DrawFn, activation: str) -> tuple[Chain, Vector, Matrix, np.random.Generator]:
    """A small perceptron, parameters, inputs of 1 to 4 samples, and where more randomness comes from."""
    widths = (draw(st.integers(1, 4)), *draw(hidden), draw(st.integers(1, 3)))
    rng = np.random.default_rng(draw(seeds))
    model = mlp(widths, activation)
    return model, parameters_of(rng, model), rng.standard_normal((draw(st.integers(1, 4)), widths[0])), rng


@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestModels:
    @modest
    @given(data=st.data())
    def test_derivatives(self, activation: str, data: st.DataObject) -> None:
        model, w, x, rng = data.draw(networks(activation))
        v, u = rng.standard_normal(w.size), rng.standard_normal((len(x), model.n_outputs))
        laws.shapes_fit(model, w, x)
        laws.adjoint(model, w, x, v, u)
        laws.jacobian_is_jvp(model, w, x)
        laws.samples_do_not_mix(model, w, x)
        start = data.draw(st.integers(0, w.size - 1))
        place = slice(start, data.draw(st.integers(start + 1, w.size)))
        roots = rng.standard_normal((len(x), model.n_outputs, model.n_outputs))
        laws.factors_make_the_jacobian(model, w, x, place, v[place], u, roots)
        assume(laws.far_from_kinks(model, w, x, v))
        laws.jvp_is_derivative(model, w, x, v)

    @modest
    @given(data=st.data())
    def test_layout_is_the_flat_vector(self, activation: str, data: st.DataObject) -> None:
        model, w, _, _ = data.draw(networks(activation))
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        assert model.layout.size == laws.sizes_of((model.n_inputs, *(layer.n_outputs for layer in dense)))
        np.testing.assert_array_equal(model.layout.flatten(model.layout.unflatten(w)), w)


@pytest.mark.parametrize("name", LOSSES)
class TestLosses:
    @modest
    @given(seed=seeds, m=st.integers(1, 5), q=st.integers(1, 4), spread=st.floats(0.1, 10.0), share=shares)
    def test_value_gradient_and_curvature(
        self, name: str, seed: int, m: int, q: int, spread: float, share: float
    ) -> None:
        rng = np.random.default_rng(seed)
        loss = loss_of(rng, name, m, outputs_of(name, q))
        a, b, direction = rng.standard_normal((3, m, outputs_of(name, q)))
        laws.loss_is_convex(loss, spread * a, spread * b, share)
        laws.each_sums_to_the_value(loss, spread * a)
        laws.loss_takes(loss, spread * a, rng.integers(0, m, size=m + 1))
        laws.gradient_is_semismooth(loss, spread * a, direction)
        laws.curvature_is_that_of_its_root(loss, spread * a, direction)
        laws.quadratic_says_the_truth(loss, a - 10.0, a + 10.0 + direction**2)
        assume(laws.on_one_piece(loss, spread * a + laws.H * direction, spread * a - laws.H * direction))
        laws.loss_gradient_is_derivative(loss, spread * a, direction)
        laws.curvature_root_is_second_derivative(loss, spread * a, direction)
        laws.loss_repeats(loss, spread * a, spread * b)


@pytest.mark.parametrize("name", REGULARIZERS)
class TestRegularizers:
    @modest
    @given(seed=seeds, p=st.integers(1, 8), strength=strengths, step=taus, share=shares)
    def test_prox_and_faces(self, name: str, seed: int, p: int, strength: float, step: float, share: float) -> None:
        rng = np.random.default_rng(seed)
        regularizer = regularizer_of(rng, name, p, strength)
        u, v, other = rng.standard_normal((3, p)) * (rng.random((3, p)) < 0.8)
        laws.prox_is_optimal(regularizer, v, step, other)
        laws.prox_is_firmly_nonexpansive(regularizer, u, v, step)
        laws.penalty_is_convex(regularizer, u, v, share)
        laws.penalty_is_spread_over_parameters(regularizer, u)
        if name in SEPARABLE:
            laws.penalty_is_the_sum_of_its_parts(regularizer, u, v, step, int(share * p))
        for w in (v, regularizer.prox(v, step)):
            laws.penalty_is_smooth_on_its_face(regularizer, laws.inside(regularizer, w, 0.2), u, step)
            laws.the_face_is_nearest(regularizer, u, w, other)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["full", "partial"])
class TestSurrogates:
    @modest
    @given(data=st.data(), tau=taus, kappa=kappas)
    def test_consistent_and_strongly_convex(
        self, loss: str, kind: str, data: st.DataObject, tau: float, kappa: float
    ) -> None:
        widths = (2, *data.draw(hidden), outputs_of(loss, 2))
        model = mlp(widths, data.draw(st.sampled_from(ACTIVATIONS)))
        rng = np.random.default_rng(data.draw(seeds))
        shard = data_of(rng, loss, model, data.draw(st.integers(1, 6)), 0.1)
        w, pi = parameters_of(rng, model), rng.standard_normal(model.layout.size)
        surrogate: Surrogate = Full(tau) if kind == "full" else Partial(tau, kappa)
        assert surrogate.kappa == (1.0 if kind == "full" else kappa)
        laws.surrogate_is_consistent(surrogate, shard, w, gradient_of(shard, w), pi)
        h = surrogate.around(w, gradient_of(shard, w), pi, shard)
        a, direction = rng.standard_normal((2, w.size))
        laws.surrogate_is_strongly_convex(h, w + a, w + direction)
        if isinstance(h, Linearized):
            there, direction = w + 0.3 * a, direction / np.linalg.norm(direction)
            ends = h.outputs_at(there + laws.H * direction), h.outputs_at(there - laws.H * direction)
            assume(laws.on_one_piece(h.loss, *ends))
            laws.linearized_is_its_derivatives(h, there, direction)
            close = h.loss.value(h.outputs_at(w)) * h.weight
            assert h.value(w) == pytest.approx(close, rel=laws.ROUNDING)


@modest
@given(seed=seeds, k=st.integers(1, 8), p=st.integers(1, 8), exponent=st.floats(-6.0, 1.0))
def test_shifted_systems_are_solved_in_either_form(seed: int, k: int, p: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    damping = 10.0**exponent * rng.uniform(1.0, 2.0, p)
    laws.shifted_system_is_solved(rng.standard_normal((k, p)) / np.sqrt(damping), rng.standard_normal(p))


@modest
@given(exponent=st.floats(-6.0, 1.0), steep=st.floats(0.1, 100.0), kink=st.booleans())
def test_descent_ends_just_before_the_minimum(exponent: float, steep: float, kink: bool) -> None:
    minimum = 10.0**exponent
    laws.descent_goes_down(lambda t: steep * (t - minimum) + (np.sign(t - minimum) if kink else 0.0), minimum)


@pytest.mark.parametrize("name", REGULARIZERS)
@modest
@given(seed=seeds, k=st.integers(1, 12), p=st.integers(1, 12), tau=taus, strength=strengths, correlated=st.booleans())
def test_second_order_models_are_minimized(
    name: str, seed: int, k: int, p: int, tau: float, strength: float, correlated: bool
) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((k, p))
    root = root[:, :1] + 0.01 * root if correlated else root
    center = np.where(rng.random(p) < 0.5, rng.standard_normal(p), 0.0)
    model = SecondOrder(center, rng.standard_normal(p), root, tau)
    laws.model_is_minimized(model, regularizer_of(rng, name, p, strength), 1e-12)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("loss", LOSSES)
class TestSolvers:
    @few
    @given(seed=seeds, m=st.integers(1, 25), tau=taus, strength=strengths)
    def test_first_order_subproblems(
        self, loss: str, regularizer: str, seed: int, m: int, tau: float, strength: float
    ) -> None:
        rng = np.random.default_rng(seed)
        model = mlp((3, 2, outputs_of(loss, 2)), "tanh")
        shard = data_of(rng, loss, model, m, 1.0 / m)
        w = parameters_of(rng, model)
        h = Full(tau).around(w, gradient_of(shard, w), rng.standard_normal(w.size), shard)
        r = regularizer_of(rng, regularizer, w.size, strength)
        laws.solution_is_optimal(h, r, solve(h, r, 1e-13), 1e-12, w + rng.standard_normal(w.size))

    @few
    @given(seed=seeds, m=st.integers(1, 25), widths=hidden, tau=taus, strength=strengths, kappa=kappas)
    def test_linearized_subproblems(
        self,
        loss: str,
        regularizer: str,
        seed: int,
        m: int,
        widths: list[int],
        tau: float,
        strength: float,
        kappa: float,
    ) -> None:
        """The residual is 1e-13, or what gradients can be computed to if that is more: tau is as small as 0.01."""
        rng = np.random.default_rng(seed)
        model = mlp((3, *widths, outputs_of(loss, 2)), "tanh")
        h = linearized_of(rng, loss, model, m, tau, kappa)
        r = regularizer_of(rng, regularizer, h.center.size, strength)
        solution = solve(h, r, 1e-13)
        laws.solution_is_optimal(h, r, solution, max(1e-13, rounding_of(h, r, solution.w)), h.center + 0.1)
        expected = certain(h, r, loss)
        laws.same_minimizer(h, solution.w, expected, 1e-9)


@few
@given(seed=seeds, tau=taus, strength=strengths, kappa=kappas)
def test_products_alone_give_what_the_matrix_gives(seed: int, tau: float, strength: float, kappa: float) -> None:
    rng = np.random.default_rng(seed)
    for loss in LOSSES:
        for m in (3, 40):
            h = linearized_of(rng, loss, mlp((4, 3, outputs_of(loss, 2)), "tanh"), m, tau, kappa)
            for regularizer in REGULARIZERS:
                r = regularizer_of(rng, regularizer, h.center.size, strength)
                tolerance = max(1e-10, rounding_of(h, r, h.center))
                by_products = solve(laws.by_products(h), r, tolerance)
                assert by_products.method == "newton-cg"
                assert by_products.residual <= tolerance
                laws.same_minimizer(h, by_products.w, solve(h, r, 1e-13).w, 10.0 * tolerance)


@few
@given(seed=seeds, tau=taus, kappa=kappas)
def test_newton_systems_are_solved_in_every_form(seed: int, tau: float, kappa: float) -> None:
    rng = np.random.default_rng(seed)
    for loss in LOSSES:
        model = mlp((4, 3, outputs_of(loss, 2)), "tanh")
        for m in (3, 40):
            data, w = data_of(rng, loss, model, m, 1.0 / m), parameters_of(rng, model)
            h = Partial(tau, kappa).around(w, gradient_of(data, w), 0.0 * w, data)
            d, x = rng.standard_normal((2, w.size))
            for r in (NoRegularizer(), L2(np.linspace(0.0, 1.0, w.size))):
                laws.systems_are_solved(h, r, w + 0.3 * d, x, data.at(w).factors())


@modest
@given(seed=seeds, kappa=kappas)
def test_moderate_problems_reach_thirteen_digits(seed: int, kappa: float) -> None:
    """Every loss and kink, more parameters than outputs and fewer: 1e-13, without excuse."""
    rng = np.random.default_rng(seed)
    for loss in LOSSES:
        for m in (3, 40):
            model = mlp((4, 3, outputs_of(loss, 2)), "tanh")
            h = linearized_of(rng, loss, model, m, tau=0.5, kappa=kappa)
            assert (h.jacobian.shape[0] < h.center.size) == (m == 3)
            for regularizer in REGULARIZERS:
                solution = solve(h, regularizer_of(rng, regularizer, h.center.size, 0.02), 1e-13)
                assert solution.residual <= 1e-13
                assert solution.iterations <= 100


def linear_problem(x: Matrix, loss: Loss, tau: float, w: Vector) -> Linearized:
    """The surrogate of a lone agent with an affine model: the problem itself, but for tau."""
    n_outputs = w.size // (x.shape[1] + 1)
    data = Data(mlp((x.shape[1], n_outputs), "tanh"), x, loss, 1.0)
    return Partial(tau).around(w, gradient_of(data, w), np.zeros_like(w), data)


def optimum(x: Matrix, loss: Loss, r: Regularizer, p: int) -> Vector:
    """Minimizer without tau: best responses of a lone agent, each the start of the next."""
    w = np.zeros(p)
    for _ in range(200):
        w_last, w = w, solve(linear_problem(x, loss, 1e-2, w), r, 1e-13).w
        if np.max(np.abs(w - w_last)) <= 1e-13:
            break
    return w


def weights_only(strength: float, q: int, d: int) -> Vector:
    """Strengths that leave the biases alone, as scikit-learn does."""
    return np.concatenate([np.full(q * d, strength), np.zeros(q)])


@few
@given(seed=seeds, m=st.integers(8, 40), d=st.integers(1, 5), strength=strengths)
def test_squared_losses_agree_with_scikit_learn(seed: int, m: int, d: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, d))
    y = x @ rng.standard_normal(d) + rng.standard_normal(m)
    loss = Squared(y[:, None])
    ridge = Ridge(alpha=m * strength, solver="cholesky").fit(x, y)
    found = optimum(x, loss, L2(weights_only(m * strength, 1, d)), d + 1)
    np.testing.assert_allclose(found, [*ridge.coef_, ridge.intercept_], rtol=0.0, atol=1e-10)
    lasso = Lasso(alpha=strength, tol=1e-14, max_iter=100_000).fit(x, y)
    found = optimum(x, loss, L1(weights_only(m * strength, 1, d)), d + 1)
    np.testing.assert_allclose(found, [*lasso.coef_, lasso.intercept_], rtol=0.0, atol=1e-7)
    np.testing.assert_array_equal(found[:d] == 0.0, lasso.coef_ == 0.0)
    net = SklearnElasticNet(alpha=strength, l1_ratio=0.3, tol=1e-14, max_iter=100_000).fit(x, y)
    absolute, square = (weights_only(share * m * strength, 1, d) for share in (0.3, 0.7))
    found = optimum(x, loss, ElasticNet(absolute, square), d + 1)
    np.testing.assert_allclose(found, [*net.coef_, net.intercept_], rtol=0.0, atol=1e-7)
    np.testing.assert_array_equal(found[:d] == 0.0, net.coef_ == 0.0)


@few
@given(seed=seeds, m=st.integers(8, 40), d=st.integers(1, 4), n_classes=st.integers(2, 4), strength=strengths)
def test_cross_entropy_agrees_with_scikit_learn(seed: int, m: int, d: int, n_classes: int, strength: float) -> None:
    """On classes that a linear map separates, where only the penalty keeps the solution finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, d))
    labels = separable_labels(rng, x, n_classes)
    assume(len(np.unique(labels)) == n_classes)
    q = 1 if n_classes == 2 else n_classes
    loss = cross_entropy(labels, q)
    outside = LogisticRegression(C=1.0 / (m * strength), tol=1e-9, max_iter=10_000, solver="newton-cg")
    outside.fit(x, labels)
    found = optimum(x, loss, L2(weights_only(m * strength, q, d)), q * (d + 1))
    W, b = found[: q * d].reshape(q, d), found[q * d :]
    np.testing.assert_allclose(W, outside.coef_, rtol=0.0, atol=1e-6 * (1.0 + np.max(np.abs(W))))
    b, expected = b - b.mean() * (q > 1), outside.intercept_ - outside.intercept_.mean() * (q > 1)
    np.testing.assert_allclose(b, expected, rtol=0.0, atol=1e-6 * (1.0 + np.max(np.abs(b))))


@few
@given(seed=seeds, n_classes=st.integers(2, 3), tau=taus, strength=strengths)
def test_smooth_cross_entropy_agrees_with_scipy(seed: int, n_classes: int, tau: float, strength: float) -> None:
    """L-BFGS-B sees value and gradient only, so it also ties these two together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, 3))
    labels = separable_labels(rng, x, n_classes)
    q = 1 if n_classes == 2 else n_classes
    loss = cross_entropy(labels, q)
    h = linear_problem(x, loss, tau, rng.standard_normal(4 * q))
    r = L2(weights_only(strength, q, 3))
    outside, _, _ = fmin_l_bfgs_b(
        lambda w: h.value(w) + r.value(w),
        h.center,
        fprime=lambda w: h.gradient(w) + r.gradient(w),
        factr=0.0,
        pgtol=1e-9,
        maxiter=10_000,
        maxfun=100_000,
    )
    np.testing.assert_allclose(solve(h, r, 1e-13).w, outside, rtol=0.0, atol=1e-5 * (1.0 + 1.0 / tau))


@few
@given(seed=seeds, m=st.integers(8, 40), d=st.integers(1, 5), n_classes=st.integers(2, 4), strength=strengths)
def test_squared_hinge_agrees_with_scikit_learn(seed: int, m: int, d: int, n_classes: int, strength: float) -> None:
    """C max(0, 1 - s f)^2 there is s' / 2 of it here with C = 1 / (2 strength); liblinear penalizes biases too."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, d))
    labels = separable_labels(rng, x, n_classes) if seed % 2 else rng.integers(0, n_classes, m)
    assume(len(np.unique(labels)) == n_classes)
    q = 1 if n_classes == 2 else n_classes
    outside = LinearSVC(C=0.5 / (m * strength), dual=False, tol=1e-12, max_iter=10_000).fit(x, labels)
    found = optimum(x, squared_hinge(labels, q), L2(np.full(q * (d + 1), m * strength)), q * (d + 1))
    expected = np.concatenate([outside.coef_.reshape(-1), outside.intercept_])
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-6)  # liblinear's own error was up to 1.04e-7


@few
@given(seed=seeds, m=st.integers(8, 40), d=st.integers(1, 5), strength=strengths, exponent=st.floats(-1.5, 0.5))
def test_hubers_loss_agrees_with_scipy(seed: int, m: int, d: int, strength: float, exponent: float) -> None:
    """With scipy's formula of the loss: scikit-learn's HuberRegressor estimates a scale, another problem."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, d))
    y = x @ rng.standard_normal(d) + rng.standard_t(2.0, m)
    delta, strength, wide = 10.0**exponent, m * strength, np.hstack([x, np.ones((m, 1))])

    def objective(w: Vector) -> float:
        return float(np.sum(special.huber(delta, wide @ w - y)) + 0.5 * strength * np.dot(w, w))

    def slope(w: Vector) -> Vector:
        r = wide @ w - y
        return np.asarray(wide.T @ (r * np.minimum(1.0, delta / np.abs(r))) + strength * w)

    found = optimum(x, Huber(y[:, None], delta), L2(np.full(d + 1, strength)), d + 1)
    outside, _, _ = fmin_l_bfgs_b(objective, np.zeros(d + 1), fprime=slope, factr=0.0, pgtol=1e-9, maxiter=10_000)
    assert objective(found) <= objective(outside) + 1e-12 * objective(outside)
    np.testing.assert_allclose(found, outside, rtol=0.0, atol=1e-7 * (1.0 + 1.0 / strength))


@few
@given(seed=seeds, m=st.integers(8, 40), d=st.integers(1, 5), strength=strengths)
def test_weights_of_samples_agree_with_scikit_learn(seed: int, m: int, d: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.standard_normal((m, d)), rng.choice([0.0, 0.3, 1.0, 2.5], m, p=[0.1, 0.3, 0.3, 0.3])
    y = x @ rng.standard_normal(d) + rng.standard_normal(m)
    labels = (y > 0.2).astype(np.int64)
    assume(len(np.unique(labels[weights > 0.0])) == 2)
    r = L2(weights_only(m * strength, 1, d))
    ridge = Ridge(alpha=m * strength, solver="cholesky").fit(x, y, sample_weight=weights)
    found = optimum(x, Weighted(Squared(y[:, None]), weights), r, d + 1)
    np.testing.assert_allclose(found, [*ridge.coef_, ridge.intercept_], rtol=0.0, atol=1e-10)
    logistic = LogisticRegression(C=1.0 / (m * strength), tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    logistic.fit(x, labels, sample_weight=weights)
    found = optimum(x, Weighted(cross_entropy(labels, 1), weights), r, d + 1)
    expected = [*logistic.coef_[0], *logistic.intercept_]
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-7 * (1.0 + np.max(np.abs(expected))))
    net = SklearnElasticNet(alpha=strength, l1_ratio=0.3, tol=1e-14, max_iter=100_000)
    net.fit(x, y, sample_weight=weights * (m / weights.sum()))  # it divides by the sum of weights, we by m
    absolute, square = (weights_only(share * weights.sum() * strength, 1, d) for share in (0.3, 0.7))
    found = optimum(x, Weighted(Squared(y[:, None]), weights), ElasticNet(absolute, square), d + 1)
    np.testing.assert_allclose(found, [*net.coef_, net.intercept_], rtol=0.0, atol=1e-7)
