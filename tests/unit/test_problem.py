"""g_i of an agent: what its parts add up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.chains import Chain, mlp
from peer.optim.losses import Squared
from peer.optim.models import Pass
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.solvers import Accuracy
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from tests.instances import LOSSES, data_of, outputs_of, parameters_of


def problem_of(
    loss: str, surrogate: Surrogate, regularizer: Regularizer | None = None, weight: float = 0.25
) -> tuple[Problem, np.random.Generator]:
    rng = np.random.default_rng(0)
    data = data_of(rng, loss, mlp((3, 4, outputs_of(loss, 2)), "tanh"), 6, weight)
    return Problem(data, regularizer or NoRegularizer(), surrogate, 1e-13), rng


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_the_slope_of_the_value(loss: str) -> None:
    problem, rng = problem_of(loss, Full(1.0))
    w, direction = (rng.standard_normal(problem.data.model.layout.size) for _ in range(2))
    slope = (problem.value(w + 1e-6 * direction) - problem.value(w - 1e-6 * direction)) / 2e-6
    assert np.dot(problem.gradient(w), direction) == pytest.approx(slope, rel=1e-7)
    gradient, value = problem.measured(w)
    assert np.array_equal(gradient, problem.gradient(w))
    assert value == problem.value(w)


def test_value_gradient_and_surrogate_at_a_point_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the array is another one; and one that was changed in place is another point."""
    problem, rng = problem_of("softmax", Partial(1.0))
    w, at, passes = parameters_of(rng, mlp((3, 4, 3), "tanh")), Chain.at, [0]

    def counted(model: Chain, w: Vector, x: Matrix) -> Pass:
        passes[0] += 1
        return at(model, w, x)

    monkeypatch.setattr(Chain, "at", counted)
    value, gradient = problem.value(w), problem.gradient(w.copy())
    problem.best_response(w, gradient, 0.0 * w)
    assert passes == [1]
    w += 1.0
    assert problem.value(w) != value
    assert passes == [2]


def test_value_and_gradient_carry_the_weight() -> None:
    whole, _ = problem_of("squared", Full(1.0), weight=1.0)
    share, rng = problem_of("squared", Full(1.0), weight=1.0 / 8.0)
    w = rng.standard_normal(whole.data.model.layout.size)
    assert share.value(w) == whole.value(w) / 8.0
    np.testing.assert_array_equal(share.gradient(w), whole.gradient(w) / 8.0)


def test_kappa_is_that_of_the_surrogate() -> None:
    assert problem_of("squared", Partial(1.0, 7.0))[0].kappa == 7.0
    assert problem_of("squared", Full(1.0))[0].kappa == 1.0


def test_the_best_response_to_oneself_goes_down() -> None:
    problem, rng = problem_of("softmax", Partial(2.0))
    w = parameters_of(rng, mlp((3, 4, 3), "tanh"))
    solution = problem.best_response(w, problem.gradient(w), 0.0 * w)
    assert solution.residual <= 1e-13
    assert problem.value(solution.w) < problem.value(w)


def test_the_best_response_at_a_stationary_point_is_to_stay() -> None:
    """There pi = -kappa grad g_i - grad r: what the others want is the opposite of what the agent wants."""
    strength = np.full(31, 0.1)
    problem, rng = problem_of("softmax", Partial(0.5, 3.0), L2(strength))
    w = parameters_of(rng, mlp((3, 4, 3), "tanh"))
    gradient = problem.gradient(w)
    solution = problem.best_response(w, gradient, -3.0 * gradient - strength * w)
    np.testing.assert_allclose(solution.w, w, rtol=0.0, atol=1e-14)


def test_stationarity_by_hand() -> None:
    data = Data(mlp((1, 1), "tanh"), np.zeros((1, 1)), Squared(np.zeros((1, 1))), 1.0)
    problem = Problem(data, L1(np.array([1.0, 0.0])), Full(1.0), 1e-13)
    assert problem.stationarity(np.array([0.0, 2.0]), np.array([0.9, 0.0])) == 0.0
    assert problem.stationarity(np.array([0.0, 2.0]), np.array([1.5, 0.25])) == 0.5
    assert problem.stationarity(np.array([3.0, 2.0]), np.array([-1.0, 0.0])) == 0.0


def test_a_solution_without_others_is_stationary() -> None:
    """Repeated best responses of a lone agent end where (1) has its stationary points."""
    problem, rng = problem_of("softmax", Partial(0.1), L1(np.full(31, 0.05)))
    w = parameters_of(rng, mlp((3, 4, 3), "tanh"))
    assert problem.stationarity(w, problem.gradient(w)) > 1e-2
    for _ in range(350):
        w = problem.best_response(w, problem.gradient(w), 0.0 * w).w
    assert problem.stationarity(w, problem.gradient(w)) <= 1e-9
    assert not w.all()


@pytest.mark.parametrize("surrogate", [Full(1.0), Partial(1.0)])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_nan_in_is_an_error(surrogate: Surrogate) -> None:
    problem, _ = problem_of("squared", surrogate)
    w = np.zeros(problem.data.model.layout.size)
    with pytest.raises(SolveError):
        problem.best_response(w, 0.0 * w, w + np.nan)


def test_the_inexactness_of_a_round_by_hand() -> None:
    """max(tolerance, min(c alpha (n + 1)^(-1.1), min(c alpha, 1/2) e))."""
    problem = replace(problem_of("softmax", Partial(1.0))[0], inexactness=1.0)
    inner = problem.in_round(3, 0.25, np.zeros(0))
    enough = Accuracy(1e-3, inner.share, inner.most)
    assert enough.of(0.1) == 0.025
    assert enough.of(1.0) == pytest.approx(0.25 * 4.0**-1.1)
    assert enough.of(1e-4) == 1e-3
    assert replace(problem, inexactness=100.0).in_round(3, 0.25, np.zeros(0)).share == 0.5
    assert inner.way is None
    way = problem.in_round(3, 0.25, np.ones(31)).way
    assert way is not None
    np.testing.assert_array_equal(way, 0.75 * np.ones(31))


def test_without_inexactness_a_round_changes_nothing() -> None:
    problem, _ = problem_of("softmax", Partial(1.0))
    assert problem.in_round(3, 0.25, np.ones(31)) is problem
    w = np.zeros(31)
    assert problem.best_response(w, problem.gradient(w), w).way.size == 0


@pytest.mark.parametrize("places", [(), (slice(0, 16), slice(16, 31))])
def test_an_inexact_solution_is_as_good_as_the_round_asks(places: tuple[slice, ...]) -> None:
    problem, rng = problem_of("softmax", Partial(0.1), L2(np.full(31, 1e-3)))
    problem = replace(problem, inexactness=1.0, blocks=places)
    w = parameters_of(rng, mlp((3, 4, 3), "tanh"))
    gradient, pi = problem.gradient(w), rng.standard_normal(31)
    exact = problem.best_response(w, gradient, pi)
    rough = problem.in_round(0, 0.1, np.zeros(0)).best_response(w, gradient, pi)
    assert 1e-13 < rough.residual <= 0.1
    assert exact.residual <= 1e-13
    assert rough.iterations < exact.iterations
    np.testing.assert_array_equal(rough.way, rough.w - w)


def test_a_good_guess_saves_iterations_and_a_bad_one_costs_none() -> None:
    problem, rng = problem_of("softmax", Partial(0.1), L1(np.full(31, 1e-3)))
    problem = replace(problem, inexactness=1e-3)
    w = parameters_of(rng, mlp((3, 4, 3), "tanh"))
    gradient, pi = problem.gradient(w), rng.standard_normal(31)
    cold = problem.best_response(w, gradient, pi)
    good, bad = (
        replace(problem, way=way).best_response(w, gradient, pi) for way in (cold.way, 1e3 * rng.standard_normal(31))
    )
    assert good.iterations == 0 < cold.iterations == bad.iterations
    np.testing.assert_array_equal(bad.w, cold.w)
