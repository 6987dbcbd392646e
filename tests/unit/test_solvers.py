"""Solvers: which one is taken, closed forms, hard problems, and numbers that break down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peer.arrays import Matrix, Vector
from peer.errors import PeerError, SolveError
from peer.optim.chains import mlp
from peer.optim.losses import Huber, Logistic, Loss, Softmax, Squared, Weighted, squared_hinge
from peer.optim.maps import LinearMap
from peer.optim.regularizers import L1, L2, ElasticNet, NoRegularizer, Regularizer, group_l2
from peer.optim.second_order import SecondOrder, descent, model_minimizer, model_root
from peer.optim.solvers import MAX_ITERATIONS, residual, solve
from peer.optim.surrogates import Data, Full, Linearized, Partial, Subproblem
from peer.optim.systems import shifted_system
from tests import laws
from tests.instances import (
    LOSSES,
    PIECES,
    REGULARIZERS,
    certain,
    gradient_of,
    linearized_of,
    outputs_of,
    pieces_of,
    regularizer_of,
    rounding_of,
    saturated_of,
)

MODEL = mlp((4, 5, 2), "tanh")


@pytest.mark.parametrize(
    ("loss", "regularizer", "method"),
    [
        ("squared", NoRegularizer(), "woodbury"),
        ("squared", L2(np.full(37, 0.1)), "woodbury"),
        ("squared", L1(np.full(37, 0.1)), "proximal-newton"),
        ("squared", ElasticNet(np.full(37, 0.1), np.full(37, 0.1)), "proximal-newton"),
        ("squared", ElasticNet(np.zeros(37), np.full(37, 0.1)), "woodbury"),
        ("weighted squared", NoRegularizer(), "woodbury"),
        ("weighted squared", L2(np.full(37, 0.1)), "woodbury"),
        ("weighted squared", L1(np.full(37, 0.1)), "proximal-newton"),
        ("huber", NoRegularizer(), "newton-woodbury"),
        ("weighted huber", L2(np.full(37, 0.1)), "newton-woodbury"),
        ("squared_hinge", L2(np.full(37, 0.1)), "newton-woodbury"),
        ("softmax", NoRegularizer(), "newton-woodbury"),
        ("softmax", L2(np.full(37, 0.1)), "newton-woodbury"),
        ("softmax", L1(np.full(37, 0.1)), "proximal-newton"),
    ],
)
def test_closed_forms_are_used_where_they_exist(loss: str, regularizer: Regularizer, method: str) -> None:
    h = linearized_of(np.random.default_rng(0), loss, MODEL, 6, 0.5, 1.0)
    assert solve(h, regularizer, 1e-13).method == method
    data = Data(MODEL, np.zeros((1, 4)), Squared(np.zeros((1, 2))), 1.0)
    first = Full(0.5).around(h.center, h.pi, h.pi, data)
    solution = solve(first, regularizer, 1e-13)
    assert (solution.method, solution.iterations) == ("prox", 1)


@pytest.mark.parametrize("m", [2, 60])
def test_ridge_is_the_closed_form_of_the_readme(m: int) -> None:
    """(s J'J + (tau + lambda) Id) w~ = s J'(y - f + J w_i) + tau w_i - pi_i."""
    h = linearized_of(np.random.default_rng(1), "squared", MODEL, m, 0.3, 1.0)
    assert isinstance(h.loss, Squared)
    J, s, strength = laws.matrix(h), h.weight, np.linspace(0.0, 0.2, 37)
    right = s * J.T @ ((h.loss.targets - h.outputs).reshape(-1) + J @ h.center) + h.tau * h.center - h.pi
    expected = np.linalg.solve(s * J.T @ J + np.diag(h.tau + strength), right)
    solution = solve(h, L2(strength), 1e-13)
    np.testing.assert_allclose(solution.w, expected, rtol=0.0, atol=1e-12)
    assert solution.residual <= 1e-13


@pytest.mark.parametrize("m", [2, 60])
def test_a_weighted_ridge_is_one_linear_system(m: int) -> None:
    """As in the closed form, with the weights between J' and J."""
    h = linearized_of(np.random.default_rng(1), "weighted squared", MODEL, m, 0.3, 1.0)
    assert isinstance(h.loss, Weighted)
    assert isinstance(h.loss.loss, Squared)
    J, strength = laws.matrix(h), np.linspace(0.0, 0.2, 37)
    JS = h.weight * J.T * np.repeat(h.loss.weights, 2)
    right = JS @ ((h.loss.loss.targets - h.outputs).reshape(-1) + J @ h.center) + h.tau * h.center - h.pi
    solution = solve(h, L2(strength), 1.0)
    np.testing.assert_allclose(
        solution.w, np.linalg.solve(JS @ J + np.diag(h.tau + strength), right), rtol=0.0, atol=1e-12
    )
    assert solution.iterations == 1
    assert solution.residual <= 1e-13


@pytest.mark.parametrize("loss", ["squared", "weighted squared"])
def test_a_lasso_takes_one_model(loss: str) -> None:
    """Its second-order model is exact: what the model's minimizer finds is the solution, to the last zero."""
    for m in (5, 60):
        h = linearized_of(np.random.default_rng(2), loss, MODEL, m, 0.3, 1.0)
        r = L1(np.full(37, 0.3))
        x, systems = model_minimizer(SecondOrder(h.center, h.gradient(h.center), model_root(h, h.outputs), h.tau), r)
        solution = solve(h, r, 1e-13)
        np.testing.assert_array_equal(solution.w, x)
        assert solution.iterations == systems <= 12
        assert 0 < np.count_nonzero(x) < 37


@pytest.mark.parametrize("loss", LOSSES)
def test_a_penalty_above_all_gradients_gives_exact_zeros(loss: str) -> None:
    rng = np.random.default_rng(3)
    model = mlp((3, outputs_of(loss, 2)), "tanh")
    h = linearized_of(rng, loss, model, 10, 0.5, 1.0)
    strength = np.full(h.center.size, 1e3)
    strength[-1] = 0.0
    solution = solve(h, L1(strength), 1e-13)
    assert not solution.w[:-1].any()
    assert abs(h.gradient(solution.w)[-1]) <= 1e-10
    assert not solve(h, L1(np.full(h.center.size, 1e3)), 1e-13).w.any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_classes", [2, 3])
def test_saturated_losses_are_no_trap(n_classes: int, seed: int) -> None:
    """Where the curvature vanishes Newton steps are too long by orders of magnitude; the search mends them."""
    rng = np.random.default_rng(seed)
    for tau, kappa in ((1e-2, 1.0), (1e-3, 10.0)):
        h = saturated_of(rng, n_classes, tau, kappa)
        p = h.center.size
        regularizers: tuple[Regularizer, ...] = (NoRegularizer(), L2(np.full(p, 1e-3)), L1(np.full(p, 1e-2)))
        for r in regularizers:
            solution = solve(h, r, 1e-13)
            assert solution.residual <= 1e-10
            assert solution.iterations <= 300


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("where", PIECES)
@pytest.mark.parametrize("name", ["huber", "squared_hinge"])
def test_kinks_of_gradients_are_no_trap(name: str, where: str, regularizer: str) -> None:
    """Against accelerated proximal gradients as long as these get there; with smaller tau the residual tells."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        for tau in (1.0, 1e-2, 1e-5, 1e-8):
            h = pieces_of(rng, name, where, tau, kappa=float(rng.choice([1.0, 8.0])))
            r = regularizer_of(rng, regularizer, h.center.size, 0.01)
            solution = solve(h, r, 1e-13)
            assert solution.residual <= max(1e-13, 4.0 * rounding_of(h, r, solution.w))
            assert solution.iterations < MAX_ITERATIONS
            if tau >= 1e-2:
                tolerance = max(1e-9, 4.0 * h.scale * rounding_of(h, r, solution.w))
                laws.same_minimizer(h, solution.w, certain(h, r, name), tolerance)


def test_where_no_sample_bends_the_first_step_is_the_proximal_one() -> None:
    """The curvature root is 0, and the model is that of the full surrogate."""
    x, y = np.ones((3, 1)), np.full((3, 1), 100.0)
    data = Data(mlp((1, 1), "tanh"), x, Huber(y, 1.0), 1.0)
    w = np.zeros(2)
    h = Partial(0.5).around(w, gradient_of(data, w), w, data)
    root = model_root(h, h.outputs)
    assert isinstance(root, np.ndarray)
    assert not root.any()
    for r in (NoRegularizer(), L2(np.full(2, 0.1)), L1(np.full(2, 0.1))):
        solution = solve(h, r, 1e-13)
        np.testing.assert_allclose(solution.w, solve(Full(0.5).around(w, h.gradient(w), w, data), r, 1e-13).w)
        assert solution.residual <= 1e-13


def test_a_short_step_within_a_face_is_not_taken_for_the_solution() -> None:
    """Dual steps that had to be shortened may well stay in their face, which then is not the right one."""
    worst = 0.0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        root = 30.0 * (rng.standard_normal((20, 1)) + 0.3 * rng.standard_normal((20, 7)))
        model = SecondOrder(rng.standard_normal(7), 10.0 * rng.standard_normal(7), root, 1e-3)
        r = L1(np.full(7, 2.0))
        x, _ = model_minimizer(model, r)
        gradient = model.slope + root.T @ (root @ (x - model.center)) + model.tau * (x - model.center)
        worst = max(worst, float(np.max(np.abs(x - r.prox(x - gradient, 1.0)))))
    assert worst <= 1e-8


@pytest.mark.parametrize("by_products", [False, True])
def test_models_of_groups_end_at_rounding(by_products: bool) -> None:
    """Slopes are known no better than where x comes from, slope/tau away from the center: far, with a small tau."""
    for seed in range(0, 400, 4):
        rng = np.random.default_rng(seed)
        k, p = rng.integers(1, 4), rng.integers(1, 4)
        root, center, tau = rng.normal(size=(k, p)), rng.normal(size=p), 10.0 ** rng.uniform(-5.0, -1.0)
        r = group_l2(np.zeros(p, dtype=np.intp), 0.05)
        slope = 10.0 ** rng.uniform(-12.0, 0.0) * rng.normal(size=p) - r.gradient(center)
        model = SecondOrder(center, slope, products(root) if by_products else root, tau)
        x, systems = model_minimizer(model, r)
        assert systems < 100
        gradient = slope + root.T @ (root @ (x - center)) + tau * (x - center)
        np.testing.assert_allclose(x, r.prox(x - gradient, 1.0), atol=1e-10)


def products(A: Matrix) -> LinearMap:
    """A by its products."""
    return LinearMap(A.shape, lambda x: A @ x, lambda u: A.T @ u, lambda x: A**2 @ x, lambda u: (A**2).T @ u)


@pytest.mark.parametrize("seed", [936, 3389])
def test_a_whole_step_far_from_the_solution_is_not_taken_for_rounding(seed: int) -> None:
    """Steps whole by the line search need not halve the slope; Newton on the face of where they end has no guide."""
    rng = np.random.default_rng(seed)
    m, activation = int(rng.integers(2, 8)), ("tanh", "sigmoid", "relu")[seed % 3]
    model = mlp((8, 3, 3), activation)
    inputs = rng.choice([1.0, 10.0]) * rng.standard_normal((m, 8))
    strength, tau = 10.0 ** rng.uniform(-3.0, 0.0), 10.0 ** rng.uniform(-3.8, -3.0)
    w = model.initial(rng) + 0.3 * rng.standard_normal(model.layout.size)
    data = Data(model, inputs, squared_hinge(rng.integers(0, 3, m), 3), rng.choice([1.0, 1.0 / (2 * m)]))
    gradient = gradient_of(data, w)
    pi = 2.0 * gradient + np.abs(gradient).max() * rng.standard_normal(w.size)
    h = Partial(tau).around(w, gradient, pi, data)
    assert solve(h, group_l2(model.neurons, strength), 1e-8).residual <= 1e-8


@pytest.mark.parametrize("seed", [21, 87, 291, 489, 999, 1574])
def test_kinks_that_are_far_apart_are_no_trap(seed: int) -> None:
    """With a small tau steps go to and fro between them, or end in the wrong face; not so with larger ones first."""
    rng = np.random.default_rng(seed)
    m, p = rng.integers(2, 9), rng.integers(3, 16)
    J, tau = rng.choice([10.0, 100.0]) * rng.standard_normal((2 * m, p)), 10.0 ** rng.uniform(-8.0, -6.0)
    loss: Loss = Huber(rng.standard_normal((m, 2)), 0.1) if seed % 2 else Softmax(rng.integers(0, 2, m))
    center, outputs = rng.standard_normal(p), rng.standard_normal((m, 2))
    slope = J.T @ loss.gradient(outputs).reshape(-1) / m
    pi = rng.uniform(0.0, 3.0) * slope + 0.1 * rng.standard_normal(p)
    h = Linearized(center, outputs, J, loss, 1.0 / m, pi, tau, scale=float(np.abs(slope).max()))
    solution = solve(h, group_l2(np.arange(p) // 3, 0.3), 1e-8)
    assert solution.residual <= 1e-8
    assert solution.iterations <= 1_500


@pytest.mark.parametrize("regularizer", [NoRegularizer(), L2(np.full(9, 0.1)), L1(np.full(9, 0.1))])
@pytest.mark.parametrize("surrogate", [Full(0.1), Partial(0.1)])
def test_where_every_gradient_vanishes_residuals_stay_sensible(
    regularizer: Regularizer, surrogate: Full | Partial
) -> None:
    """A perfect fit: nothing but the penalty is left to compare a residual with."""
    rng = np.random.default_rng(4)
    model = mlp((2, 2, 1), "relu")
    w, x = rng.standard_normal(9), rng.standard_normal((5, 2))
    data = Data(model, x, Squared(model.at(w, x).outputs), 1.0)
    solution = solve(surrogate.around(w, 0.0 * w, 0.0 * w, data), regularizer, 1e-13)
    assert solution.residual <= 1e-13
    assert (solution.w == w).all() == isinstance(regularizer, NoRegularizer)


def test_at_a_solution_nothing_moves() -> None:
    h = linearized_of(np.random.default_rng(5), "softmax", MODEL, 6, 0.5, 1.0)
    r = L1(np.full(37, 0.01))
    w = solve(h, r, 1e-13).w
    again = Linearized(w, h.outputs_at(w), h.jacobian, h.loss, h.weight, h.pi + h.tau * (w - h.center), h.tau, h.scale)
    solution = solve(again, r, 1e-12)
    assert solution.iterations == 0
    np.testing.assert_array_equal(solution.w, w)


def test_a_loose_tolerance_is_met_with_less_work() -> None:
    h = linearized_of(np.random.default_rng(6), "softmax", MODEL, 20, 0.01, 1.0)
    r = L1(np.full(37, 0.01))
    loose, tight = solve(h, r, 1e-2), solve(h, r, 1e-13)
    assert 1e-13 < loose.residual <= 1e-2
    assert loose.iterations < tight.iterations


def test_an_unreachable_tolerance_ends_at_rounding() -> None:
    """Not by exhaustion: iterations are few, and the residual is what rounding leaves."""
    for loss in LOSSES:
        model = mlp((4, 5, outputs_of(loss, 2)), "tanh")
        h = linearized_of(np.random.default_rng(7), loss, model, 20, 0.1, 1.0)
        solution = solve(h, L1(np.full(h.center.size, 0.01)), 0.0)
        assert solution.residual <= 1e-13
        assert solution.iterations <= 60


def test_residuals_are_relative_to_what_cancels() -> None:
    h = linearized_of(np.random.default_rng(8), "squared", MODEL, 6, 0.5, 1.0)
    w = h.center + 0.1
    expected = np.max(np.abs(h.gradient(w))) / h.scale
    assert residual(h, NoRegularizer(), w) == pytest.approx(expected, rel=1e-12)
    assert residual(h, L1(np.full(37, 1e6)), h.center) <= 1.0


@pytest.mark.parametrize(("k", "p"), [(3, 0), (0, 3), (1, 1), (3, 3)])
def test_systems_of_every_shape(k: int, p: int) -> None:
    rng = np.random.default_rng(9)
    laws.shifted_system_is_solved(rng.standard_normal((k, p)), rng.standard_normal(p))


def test_primal_and_dual_form_agree() -> None:
    """7 columns, and 7 more that are 0: the first system is solved by its primal form, the other by its dual one."""
    rng = np.random.default_rng(10)
    root, b = 30.0 * rng.standard_normal((10, 7)), rng.standard_normal(7)
    wide = np.hstack([root, np.zeros((10, 7))])
    found = shifted_system(wide)(np.concatenate([b, np.ones(7)]))
    np.testing.assert_allclose(found[:7], shifted_system(root)(b), rtol=1e-10)
    np.testing.assert_allclose(found[7:], 1.0, rtol=1e-14)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (20, 60)])
def test_systems_are_solved_to_the_last_digit(shape: tuple[int, int]) -> None:
    """The residual is that of rounding x itself: without refinement the dual form loses a digit or more."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        root, b = 1e3 * rng.standard_normal(shape), rng.standard_normal(shape[1])
        x = shifted_system(root)(b)
        size = np.linalg.norm(root, 2) ** 2 * np.linalg.norm(x) + np.linalg.norm(b)
        assert np.linalg.norm(b - root.T @ (root @ x) - x) <= 1.5 * np.finfo(np.float64).eps * size


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_matrices_that_are_not_positive_definite_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(SolveError, match="not positive definite to rounding: tau is too small"):
        shifted_system(np.full(shape, 1e9))


@pytest.mark.parametrize("spot", ["pi", "jacobian", "outputs", "center"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("regularizer", [NoRegularizer(), L1(np.full(37, 0.1))])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_nan_and_infinity_are_an_error_not_a_result(loss: str, regularizer: Regularizer, bad: float, spot: str) -> None:
    h = replace(linearized_of(np.random.default_rng(11), loss, MODEL, 6, 0.5, 1.0), slope=None)
    getattr(h, spot).flat[3] = bad
    with pytest.raises(SolveError) as caught:
        solve(h, regularizer, 1e-13)
    assert isinstance(caught.value, PeerError)
    assert isinstance(caught.value, ArithmeticError)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_first_order_step_to_nowhere_is_an_error() -> None:
    data = Data(MODEL, np.zeros((1, 4)), Squared(np.zeros((1, 2))), 1.0)
    bad: Vector = np.full(37, np.nan)
    h: Subproblem = Full(0.5).around(np.zeros(37), bad, bad, data)
    with pytest.raises(SolveError, match="no finite solution"):
        solve(h, NoRegularizer(), 1e-13)


def test_descent_by_hand() -> None:
    assert descent(lambda t: t - 2.0) == 1.0
    assert descent(lambda t: t - 1.0) == 1.0
    assert descent(lambda t: 0.0) == 1.0
    assert descent(lambda t: t + 1.0) == 0.0
    assert descent(lambda t: np.nan) == 0.0
    assert 0.2499 <= descent(lambda t: t - 0.25) <= 0.25


@pytest.mark.parametrize("loss", [Logistic(np.array([1])), Softmax(np.array([1]))])
def test_a_single_sample_that_is_far_on_the_wrong_side(loss: Logistic | Softmax) -> None:
    """Its loss is linear all around, its curvature 0 to rounding: the first step is 1/tau long."""
    q = 1 if isinstance(loss, Logistic) else 2
    data = Data(mlp((1, q), "tanh"), np.ones((1, 1)), loss, 1.0)
    w = np.array([-500.0, -500.0]) if q == 1 else np.array([500.0, -500.0, 500.0, -500.0])
    h = Partial(1e-2).around(w, gradient_of(data, w), 0.0 * w, data)
    solution = solve(h, NoRegularizer(), 1e-13)
    assert solution.residual <= 1e-12
    assert solution.iterations <= 40


@pytest.mark.parametrize(("size", "tau"), [(1e2, 1e-12), (1e4, 1e-6), (1e5, 1e-8)])
def test_a_saturated_loss_is_left_where_the_model_is_no_guide(size: float, tau: float) -> None:
    """Its curvature is 0 there, so that the model's minimizer is further away than its own by 1/tau."""
    data = Data(mlp((1, 1), "tanh"), np.array([[size], [-size]]), Logistic(np.array([1, 0])), 0.5)
    w = np.array([-1.0, 0.0])
    gradient = data.gradient(w)
    found = solve(Partial(tau).around(w, gradient, np.zeros(2), data), NoRegularizer(), 1e-8)
    assert found.residual <= 1e-8
    assert data.value(found.w) < 1e-3 < data.value(w)
