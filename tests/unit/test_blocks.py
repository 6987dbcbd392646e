"""Blocks by hand: how they are cut, which solver each has, hard single weights, memory, and numbers that break down."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from peer import learning, settings
from peer.arrays import Layout
from peer.errors import ConfigError, SolveError
from peer.optim import blocks
from peer.optim.chains import Chain, mlp
from peer.optim.losses import Squared, cross_entropy
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer, group_l2
from peer.optim.solvers import MAX_ITERATIONS, solve
from peer.optim.surrogates import Data, Partial
from peer.problem import Problem
from tests import laws
from tests.instances import LOSSES, data_of, gradient_of, outputs_of, parameters_of, separable_labels

MODEL = mlp((4, 5, 2), "tanh")
P = 37


def problem_of(
    loss: str, regularizer: Regularizer, places: Sequence[slice], m: int = 12, model: Chain = MODEL
) -> tuple[Problem, np.random.Generator]:
    rng = np.random.default_rng(0)
    return Problem(data_of(rng, loss, model, m, 1.0 / m), regularizer, Partial(0.5), 1e-13, tuple(places)), rng


def test_layers_are_weights_and_biases_together() -> None:
    assert blocks.layers(MODEL.layout) == (slice(0, 25), slice(25, 37))
    assert blocks.layers(mlp((3, 2), "tanh").layout) == (slice(0, 8),)
    apart = Layout((("a", (2,)), ("b.c", (1,)), ("b.d", (1,)), ("e", (3,))))  # as of others' networks
    assert blocks.layers(apart) == (slice(0, 2), slice(2, 4), slice(4, 7))


def test_the_first_blocks_are_the_longer_ones() -> None:
    assert blocks.equal(5, 3) == (slice(0, 2), slice(2, 4), slice(4, 5))
    assert blocks.equal(5, 1) == (slice(0, 5),)


@pytest.mark.parametrize(
    ("loss", "regularizer", "n_blocks", "m", "method"),
    [
        ("squared", L2(np.full(P, 0.1)), 4, 12, "cholesky, 4 blocks"),
        ("squared", L2(np.full(P, 0.1)), 2, 3, "woodbury, 2 blocks"),
        ("squared", L1(np.full(P, 0.1)), 4, 12, "proximal-newton, 4 blocks"),
        ("softmax", NoRegularizer(), 4, 12, "newton-cholesky, 4 blocks"),
        ("squared", L2(np.full(P, 0.1)), P, 12, "scalar, 37 blocks"),
        ("softmax", L1(np.full(P, 0.1)), P, 12, "scalar, 37 blocks"),
        ("squared", L2(np.full(P, 0.1)), P - 1, 12, "scalar, stacked, 36 blocks"),
        ("squared", L2(np.full(P, 0.1)), 5, 12, "stacked, 5 blocks"),
        ("squared", L1(np.full(P, 0.1)), P - 1, 12, "scalar, stacked-newton, 36 blocks"),
        ("squared_hinge", NoRegularizer(), 5, 12, "stacked-newton, 5 blocks"),
        ("squared", group_l2(np.arange(P) // 8, 0.1), 5, 12, "proximal-newton, 5 blocks"),
    ],
)
def test_what_solves_a_block(loss: str, regularizer: Regularizer, n_blocks: int, m: int, method: str) -> None:
    problem, rng = problem_of(loss, regularizer, blocks.equal(P, n_blocks), m)
    w = parameters_of(rng, MODEL)
    solution = problem.best_response(w, problem.gradient(w), 0.0 * w)
    assert solution.method == method
    assert solution.residual <= 1e-13
    assert solution.iterations >= n_blocks


def test_the_closed_form_of_a_weight() -> None:
    """(s ||J_k||^2 + tau + lambda) (w~_k - w_k) = -(I y_k + lambda w_k)."""
    problem, rng = problem_of("squared", L2(np.full(P, 0.1)), blocks.equal(P, P))
    w, pi = parameters_of(rng, MODEL), rng.standard_normal(P)
    J = laws.jacobian(MODEL, w, problem.data.inputs).reshape(-1, P)
    gradient = problem.gradient(w)
    bend = problem.data.weight * np.sum(J * J, axis=0) + 0.5 + 0.1
    expected = w - (gradient + pi + 0.1 * w) / bend
    np.testing.assert_allclose(problem.best_response(w, gradient, pi).w, expected, rtol=0.0, atol=1e-13)


def test_the_residual_is_the_largest() -> None:
    problem, rng = problem_of("softmax", NoRegularizer(), blocks.equal(P, 2))
    w = parameters_of(rng, MODEL)
    gradient = problem.gradient(w)
    loose = replace(problem, tolerance=1e-3).best_response(w, gradient, 0.0 * w)
    whole = Partial(0.5).around(w, gradient, 0.0 * w, problem.data)
    found = []
    for place in problem.blocks:
        h = replace(whole, center=w[place], jacobian=laws.matrix(whole)[:, place], pi=0.0 * w[place], slope=None)
        found.append(float(np.max(np.abs(h.gradient(loose.w[place])))) / h.scale)
    assert loose.residual == pytest.approx(max(found), rel=1e-6)
    assert 1e-13 < loose.residual <= 1e-3


KINDS: tuple[Callable[[int], Regularizer], ...] = (
    lambda p: NoRegularizer(),
    lambda p: L2(np.full(p, 1e-3)),
    lambda p: L1(np.full(p, 1e-2)),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_by_themselves_reach_far_through_saturated_losses(
    n_classes: int, kind: Callable[[int], Regularizer]
) -> None:
    """Where the first curvature is no guide secants and middles find the minimizer, in tens of steps."""
    q = 1 if n_classes == 2 else n_classes
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((30, 1)) + 0.1 * rng.standard_normal((30, 6))
        model = mlp((6, 4, q), "tanh")
        w = 10.0 * model.initial(rng)
        p = w.size
        r = kind(p)
        data = Data(model, x, cross_entropy(separable_labels(rng, x, n_classes), q), 1.0)
        gradient = gradient_of(data, w)
        for tau, kappa in ((1e-2, 1.0), (1e-3, 10.0)):
            surrogate, pi = Partial(tau, kappa), (3.0 - kappa) * gradient
            problem = Problem(data, r, surrogate, 1e-13, blocks.equal(p, p))
            solution = problem.best_response(w, gradient, pi)
            assert solution.residual <= 1e-10
            assert solution.iterations <= 0.1 * MAX_ITERATIONS * p
            whole = surrogate.around(w, gradient, pi, data)
            for place in problem.blocks:
                h = replace(whole, center=w[place], jacobian=laws.matrix(whole)[:, place], pi=pi[place], slope=None)
                alone = solve(h, r.restricted(place), 1e-13)
                assert abs(solution.w[place] - alone.w)[0] <= 1e-8 * (1.0 + 1.0 / tau)


def test_single_weights_end_at_rounding_where_a_tolerance_cannot_be_met() -> None:
    problem, rng = problem_of("softmax", L1(np.full(P, 0.01)), blocks.equal(P, P))
    w = parameters_of(rng, MODEL)
    solution = replace(problem, tolerance=0.0).best_response(w, problem.gradient(w), 0.0 * w)
    assert solution.residual <= 1e-13
    assert solution.iterations <= 60 * P


@pytest.mark.parametrize("loss", LOSSES)
def test_a_solution_without_others_is_stationary(loss: str) -> None:
    """Repeated best responses of a lone agent, in three blocks, halfway each, end at a stationary point of (1)."""
    model = mlp((3, 4, outputs_of(loss, 2)), "tanh")
    p = model.layout.size
    problem, rng = problem_of(loss, L1(np.full(p, 0.05)), blocks.equal(p, 3), 6, model)
    problem = replace(problem, surrogate=Partial(0.1))
    w = parameters_of(rng, model)
    assert problem.stationarity(w, problem.gradient(w)) > 1e-2
    for _ in range(1500):
        w = w + 0.5 * (problem.best_response(w, problem.gradient(w), 0.0 * w).w - w)
    assert problem.stationarity(w, problem.gradient(w)) <= 1e-9


@pytest.mark.parametrize("n_blocks", [16, 4000])
@pytest.mark.parametrize("kind", [L1, L2])
def test_the_jacobian_of_other_blocks_is_never_formed(kind: Callable[..., Regularizer], n_blocks: int) -> None:
    model = mlp((30, 100, 9), "tanh")
    p, m = model.layout.size, 100
    problem, rng = problem_of("squared", kind(np.full(p, 0.1)), blocks.equal(p, min(n_blocks, p)), m, model)
    w = parameters_of(rng, model)
    gradient = problem.gradient(w)
    tracemalloc.start()
    try:
        problem.best_response(w, gradient, 0.0 * w)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 0.5 * (8 * m * 9 * p)


@pytest.mark.parametrize("bad", ["w", "gradient", "pi"])
@pytest.mark.parametrize("n_blocks", [3, P])
@pytest.mark.parametrize("regularizer", [NoRegularizer(), L1(np.full(P, 0.1))])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_nan_is_an_error_not_a_result(loss: str, regularizer: Regularizer, n_blocks: int, bad: str) -> None:
    problem, rng = problem_of(loss, regularizer, blocks.equal(P, n_blocks))
    given = {name: parameters_of(rng, MODEL) for name in ("w", "gradient", "pi")}
    given[bad][3] = np.nan
    with pytest.raises(SolveError):
        problem.best_response(given["w"], given["gradient"], given["pi"])


@pytest.mark.parametrize("d", [2, 20])
def test_a_matrix_that_is_not_positive_definite_to_rounding_is_an_error(d: int) -> None:
    """In a stack, and by itself: more samples than parameters, all of them the same."""
    data = Data(mlp((d, 1), "tanh"), np.full((4 * d, d), 1e12), Squared(np.ones((4 * d, 1))), 1.0)
    problem = Problem(data, NoRegularizer(), Partial(1e-300), 1e-13, (slice(0, d), slice(d, d + 1)))
    with pytest.raises(SolveError, match="not positive definite to rounding: tau is too small"):
        problem.best_response(np.zeros(d + 1), np.ones(d + 1), np.zeros(d + 1))


def test_more_blocks_than_parameters_are_refused() -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}, "surrogate": {"blocks": P + 1}})
    with pytest.raises(ConfigError, match=r"^surrogate.blocks: expected at most the 37 parameters .*, found 38$"):
        learning.blocks_of(experiment, MODEL)
