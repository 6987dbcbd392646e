"""Stacks: each problem is solved as if it were alone, hard ones too, and numbers that break down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peer.errors import SolveError
from peer.optim.chains import mlp
from peer.optim.losses import Logistic, Squared
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.second_order import descent
from peer.optim.solvers import MAX_ITERATIONS, Accuracy, residual, solve
from peer.optim.stacks import Points, Stack, descents, model_minimizers, newton
from tests import laws
from tests.instances import (
    LOSSES,
    PIECES,
    SEPARABLE,
    alone,
    linearized_of,
    outputs_of,
    pieces_of,
    regularizer_of,
    rounding_of,
    saturated_of,
    stack_of,
)

TIGHT = Accuracy(1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularizer", SEPARABLE)
def test_a_stack_is_its_functions_one_by_one(loss: str, regularizer: str) -> None:
    """Values, gradients, residuals, curvatures and slopes, each as `Linearized` has them, and of some as of all."""
    rng = np.random.default_rng(0)
    model = mlp((4, 5, outputs_of(loss, 2)), "tanh")
    h = linearized_of(rng, loss, model, 6, 0.3, 2.0)
    r = regularizer_of(rng, regularizer, h.center.size, 0.1)
    stack, b = stack_of(h, r, 3), 3
    x = stack.nearest(stack.center + rng.standard_normal(stack.center.shape))
    d, t = rng.standard_normal(x.shape), rng.random(len(x))
    points = Points.of(stack, x)
    found = stack.values(x, points.outputs), stack.slopes_along(x, points.outputs, d)(t)
    curvatures = stack.curvatures(points.outputs)
    for k in range(len(x)):
        place = slice(k * b, k * b + b)
        one, r_k = alone(h, place), r.restricted(place)
        at = x[k] + t[k] * d[k]
        assert found[0][k] == pytest.approx(one.value(x[k]) + r_k.value(x[k]), rel=1e-12)
        assert found[1][k] == pytest.approx(np.dot(one.gradient(at) + r_k.gradient(at), d[k]), rel=1e-9, abs=1e-12)
        laws.close(points.gradients[k], one.gradient(x[k]), laws.ROUNDING)
        laws.close(curvatures[k], laws.curvature(one, x[k]) + one.tau * np.eye(b), laws.ROUNDING)
        assert points.errors[k] == pytest.approx(residual(one, r_k, x[k]), rel=1e-9)
    some = np.array([4, 1])
    part = Points.of(stack.taken(some), x[some])
    for mine, theirs in ((part.gradients, points.gradients), (part.errors, points.errors)):
        np.testing.assert_array_equal(mine, theirs[some])


@pytest.mark.parametrize("regularizer", SEPARABLE)
@pytest.mark.parametrize("where", PIECES)
@pytest.mark.parametrize("name", ["huber", "squared_hinge"])
def test_kinks_of_gradients_are_no_trap(name: str, where: str, regularizer: str) -> None:
    """Each problem as well as alone, as far as strong convexity tells the minimizers apart."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for tau in (1.0, 1e-2, 1e-5, 1e-8):
            h = pieces_of(rng, name, where, tau, kappa=float(rng.choice([1.0, 8.0])))
            r = regularizer_of(rng, regularizer, h.center.size, 0.01)
            b = int(rng.integers(2, min(8, h.center.size) + 1))
            solution = newton(stack_of(h, r, b), TIGHT)
            for k in range(len(solution.w) // b):
                place = slice(k * b, k * b + b)
                one, r_k, w = alone(h, place), r.restricted(place), solution.w[place]
                rounding = rounding_of(one, r_k, w)
                assert residual(one, r_k, w) <= max(1e-13, 4.0 * rounding)
                if tau >= 1e-2:
                    tolerance = max(1e-9, 4.0 * one.scale * rounding)
                    laws.same_minimizer(one, w, solve(one, r_k, 1e-13).w, tolerance)
            assert solution.iterations < MAX_ITERATIONS


@pytest.mark.parametrize("n_classes", [2, 3])
def test_saturated_losses_are_no_trap(n_classes: int) -> None:
    """Where the curvature vanishes Newton steps are too long by orders of magnitude; the search mends them."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        for tau, kappa in ((1e-2, 1.0), (1e-3, 10.0)):
            h = saturated_of(rng, n_classes, tau, kappa)
            p = h.center.size
            regularizers: tuple[Regularizer, ...] = (NoRegularizer(), L2(np.full(p, 1e-3)), L1(np.full(p, 1e-2)))
            for r in regularizers:
                for b in (2, 5, 8):
                    stack = stack_of(h, r, b)
                    solution = newton(stack, TIGHT)
                    assert solution.residual <= 1e-10
                    assert solution.iterations <= 100 * len(stack.center)


def models(
    rng: np.random.Generator, name: str, n: int, b: int, tau: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Regularizer]:
    """Quadratic models with columns that are nearly the same, far from where they are minimal, and a heavy penalty."""
    roots = 30.0 * (rng.standard_normal((n, 20, 1)) + 0.3 * rng.standard_normal((n, 20, b)))
    r = regularizer_of(rng, name, n * b, 2.0)
    x = r.nearest(rng.choice([0.0, 1.0, -1.0], n * b) * rng.random(n * b)).reshape(n, b)
    return roots.transpose(0, 2, 1) @ roots + tau * np.eye(b), 10.0 * rng.standard_normal((n, b)), x, r


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("b", [2, 8])
def test_models_are_minimized(name: str, b: int) -> None:
    """The model's gradient plus a subgradient of r is 0; a few systems for each, and no bit by the others."""
    n, tau = 60, 1e-3
    H, slopes, x, r = models(np.random.default_rng(b), name, n, b, tau)
    y, systems = model_minimizers(H, slopes, x, r, tau)
    gradients = (slopes + (H @ (y - x)[:, :, None])[:, :, 0]).reshape(-1)
    assert np.max(np.abs(y.reshape(-1) - r.prox(y.reshape(-1) - gradients, 1.0))) <= 1e-9
    assert n <= systems <= 3 * b * n
    few = r.restricted(slice(5 * b, 7 * b))
    np.testing.assert_array_equal(model_minimizers(H[5:7], slopes[5:7], x[5:7], few, tau)[0], y[5:7])


def test_a_model_from_its_minimizer_on_stays_there() -> None:
    """Also where a held coordinate is at the very edge of its kink."""
    H, r = np.array([[[2.0, 1.0], [1.0, 2.0]]]), L1(np.array([1.0, 1.0]))
    x = np.array([[0.0, 3.0]])
    y, systems = model_minimizers(H, np.array([[-1.0, -1.0]]), x, r, 1.0)
    np.testing.assert_array_equal(y, x)
    assert systems == 1


def test_descents_are_descents() -> None:
    ends = np.array([0.25, 1e-9, 1.0, 2.0, -1.0, np.nan])
    found = descents(lambda t: t - ends, len(ends))
    np.testing.assert_array_equal(found, [descent(end.__rsub__) for end in ends])


def test_an_unreachable_tolerance_ends_at_rounding() -> None:
    """Not by exhaustion: iterations are few, and the residual is what rounding leaves."""
    for loss in LOSSES:
        model = mlp((4, 5, outputs_of(loss, 2)), "tanh")
        h = linearized_of(np.random.default_rng(7), loss, model, 20, 0.1, 1.0)
        stack = stack_of(h, L1(np.full(h.center.size, 0.01)), 4)
        solution = newton(stack, Accuracy(0.0))
        assert solution.residual <= 1e-13
        assert solution.iterations <= 60 * len(stack.center)


def test_each_problem_has_an_accuracy_of_its_own_start() -> None:
    h = linearized_of(np.random.default_rng(6), "softmax", mlp((4, 5, 3), "tanh"), 20, 0.01, 1.0)
    stack = stack_of(h, L1(np.full(h.center.size, 0.01)), 4)
    begin = Points.of(stack, stack.center).errors
    rough, tight = newton(stack, Accuracy(1e-13, 0.1, 1.0)), newton(stack, TIGHT)
    reached = Points.of(stack, rough.w.reshape(-1, 4)).errors
    assert (reached <= 0.1 * begin).all()
    assert reached.max() > 1e-9
    assert rough.iterations < tight.iterations


def test_iterations_begin_where_they_are_told_if_that_is_nearer() -> None:
    """The way of every other problem leads to its minimizer, of the others away."""
    h = linearized_of(np.random.default_rng(6), "softmax", mlp((4, 5, 3), "tanh"), 20, 0.01, 1.0)
    stack = stack_of(h, L1(np.full(h.center.size, 0.01)), 4)
    cold = newton(stack, TIGHT)
    way = cold.w.reshape(-1, 4) - stack.center
    way[1::2] += 100.0
    part = stack.taken(np.arange(1, len(way), 2))
    warm = newton(stack, Accuracy(1e-12), way)
    assert warm.iterations <= newton(part, TIGHT).iterations
    np.testing.assert_allclose(warm.w, cold.w, rtol=0.0, atol=1e-9)
    assert newton(stack, Accuracy(1e3), way).iterations == 0  # the centers are good enough


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_end_a_solve(bad: float) -> None:
    """At once, and the residual tells; other problems do not notice."""
    h = linearized_of(np.random.default_rng(6), "logistic", mlp((4, 5, 1), "tanh"), 20, 0.01, 1.0)
    stack = stack_of(h, L1(np.full(h.center.size, 0.01)), 3)
    for name in ("center", "pi", "columns"):
        broken = getattr(stack, name).copy()
        broken[1] = bad
        solution = newton(replace(stack, **{name: broken}), TIGHT)
        assert not np.isfinite(solution.residual)
        np.testing.assert_array_equal(solution.w[6:], newton(stack, TIGHT).w[6:])


def test_a_singular_matrix_is_an_error() -> None:
    columns = np.full((3, 4, 2), 1e12)
    center = np.zeros((3, 2))
    stack = Stack(center, np.zeros((4, 1)), columns, Squared(np.ones((4, 1))), 1.0, center, 1e-300, 1.0, L1(np.ones(6)))
    with pytest.raises(SolveError, match="not positive definite to rounding: tau is too small"):
        newton(replace(stack, regularizer=NoRegularizer()), TIGHT)


def test_a_single_sample_that_is_far_on_the_wrong_side() -> None:
    """Its loss is linear all around, its curvature 0 to rounding: the first step is 1/tau long."""
    loss, zeros = Logistic(np.array([1])), np.zeros((2, 2))
    stack = Stack(zeros, np.full((1, 1), -1000.0), np.ones((2, 1, 2)), loss, 1.0, zeros, 1e-2, 1.0, NoRegularizer())
    solution = newton(stack, TIGHT)
    assert solution.residual <= 1e-12
    assert solution.iterations <= 80
