"""Surrogates by hand, and how the exact one, the linear model's, is reached."""

from __future__ import annotations

import numpy as np
import pytest

from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.second_order import model_root
from peer.optim.surrogates import Data, FirstOrder, Full, Partial
from tests import laws
from tests.instances import LOSSES, data_of, gradient_of, outputs_of, parameters_of


def test_full_by_hand() -> None:
    rng = np.random.default_rng(0)
    data = data_of(rng, "squared", mlp((2, 1), "tanh"), 4, 1.0)
    w, gradient, pi = np.array([1.0, 2.0, 3.0]), np.array([1.0, -6.0, 0.0]), np.array([-0.5, 0.0, 2.0])
    h = Full(4.0).around(w, gradient, pi, data)
    np.testing.assert_array_equal(h.slope, [0.5, -6.0, 2.0])
    np.testing.assert_array_equal(h.gradient(w + 1.0), [4.5, -2.0, 6.0])
    assert (h.tau, h.scale) == (4.0, 6.0)


def test_full_does_not_know_kappa() -> None:
    """(4) and (12) with any kappa give I y, so the paper's kappa = 1 serves both curvatures."""
    assert Full(1.0).kappa == 1.0


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_partial_by_hand(kappa: float) -> None:
    data = Data(mlp((1, 1), "tanh"), np.array([[2.0], [0.0]]), Squared(np.array([[1.0], [5.0]])), 0.5)
    w, pi = np.array([1.0, 1.0]), np.array([0.25, -0.75])
    gradient = gradient_of(data, w)  # 1/2 ((3 - 1) (2, 1) + (1 - 5) (0, 1))
    np.testing.assert_array_equal(gradient, [2.0, -1.0])
    h = Partial(0.5, kappa).around(w, gradient, pi, data)
    np.testing.assert_array_equal(h.outputs, [[3.0], [1.0]])
    np.testing.assert_array_equal(h.jacobian, [[2.0, 1.0], [0.0, 1.0]])
    assert h.scale == 2.0 * kappa
    v = np.array([2.0, 0.0])  # outputs 4 and 0
    assert h.value(v) == 0.5 * kappa * (0.5 * 9.0 + 0.5 * 25.0) + (0.25 + 0.75) + 0.25 * 2.0
    np.testing.assert_array_equal(h.gradient(v), 0.5 * kappa * np.array([6.0, 3.0 - 5.0]) + pi + 0.5 * (v - w))


@pytest.mark.parametrize("loss", LOSSES)
def test_of_a_linear_model_the_partial_surrogate_is_the_problem_itself(loss: str) -> None:
    rng = np.random.default_rng(1)
    data = data_of(rng, loss, mlp((3, outputs_of(loss, 2)), "tanh"), 6, 0.25)
    w, v = parameters_of(rng, data.model), rng.standard_normal(data.model.layout.size)  # type: ignore[arg-type]
    h = Partial(1e-3).around(w, gradient_of(data, w), 0.0 * w, data)
    g = data.weight * data.loss.value(data.model.at(v, data.inputs).outputs)
    assert h.value(v) == pytest.approx(g + 0.5e-3 * np.dot(v - w, v - w), rel=1e-13)


def test_partial_of_a_lone_agent_touches_the_problem() -> None:
    """Value and slope agree at w_i; the distance grows with the square of the step, not slower."""
    rng = np.random.default_rng(2)
    data = data_of(rng, "softmax", mlp((3, 4, 3), "tanh"), 6, 1.0)
    w, direction = parameters_of(rng, mlp((3, 4, 3), "tanh")), rng.standard_normal(31)
    h = Partial(1e-9).around(w, gradient_of(data, w), 0.0 * w, data)

    def gap(t: float) -> float:
        outputs = data.model.at(w + t * direction, data.inputs).outputs
        return abs(h.value(w + t * direction) - data.loss.value(outputs))

    assert gap(0.0) == 0.0
    assert gap(1e-2) / gap(1e-3) == pytest.approx(100.0, rel=0.5)


def test_no_samples_leave_the_proximal_term() -> None:
    data = Data(mlp((2, 3, 1), "tanh"), np.zeros((0, 2)), Squared(np.zeros((0, 1))), 1.0)
    w = parameters_of(np.random.default_rng(3), mlp((2, 3, 1), "tanh"))
    h = Partial(2.0).around(w, 0.0 * w, np.ones_like(w), data)
    assert h.jacobian.shape == model_root(h, h.outputs).shape == (0, w.size)
    np.testing.assert_array_equal(h.gradient(w + 1.0), np.full(w.size, 3.0))
    laws.surrogate_is_strongly_convex(h, w, w + 1.0)


def test_first_order_scale_is_of_what_cancels_not_of_the_sum() -> None:
    rng = np.random.default_rng(4)
    data = data_of(rng, "squared", mlp((2, 1), "tanh"), 4, 1.0)
    pi = np.array([-1.0, 1.0, 5.0])
    h = Full(1.0).around(np.zeros(3), -pi, pi, data)
    assert isinstance(h, FirstOrder)
    assert not h.slope.any()
    assert h.scale == 5.0
