"""Losses: values by hand, ends of the number range, and how they are related."""

from __future__ import annotations

import numpy as np
import pytest

from peer.arrays import Matrix
from peer.optim.losses import Logistic, Loss, Softmax, Squared, cross_entropy


def test_squared_by_hand() -> None:
    loss = Squared(np.array([[1.0, 0.0], [2.0, -1.0]]))
    outputs = np.array([[4.0, 4.0], [2.0, -2.0]])
    assert loss.value(outputs) == 0.5 * (9.0 + 16.0 + 0.0 + 1.0)
    np.testing.assert_array_equal(loss.gradient(outputs), [[3.0, 4.0], [0.0, -1.0]])
    np.testing.assert_array_equal(loss.curvature_root(outputs), np.stack([np.eye(2)] * 2))


def test_logistic_by_hand() -> None:
    loss = Logistic(np.array([1, 0]))
    outputs = np.log([[3.0], [3.0]])
    assert loss.value(outputs) == pytest.approx(np.log(4.0 / 3.0) + np.log(4.0), rel=1e-15)
    np.testing.assert_allclose(loss.gradient(outputs), [[-0.25], [0.75]], rtol=1e-15)
    np.testing.assert_allclose(loss.curvature_root(outputs) ** 2, np.full((2, 1, 1), 3.0 / 16.0), rtol=1e-15)


def test_softmax_by_hand() -> None:
    loss = Softmax(np.array([2]))
    outputs = np.log([[1.0, 2.0, 5.0]])
    assert loss.value(outputs) == pytest.approx(np.log(8.0 / 5.0), rel=1e-15)
    np.testing.assert_allclose(loss.gradient(outputs), [[1 / 8, 2 / 8, 5 / 8 - 1.0]], rtol=1e-14)


def test_logistic_is_softmax_of_two_classes_the_first_held_at_zero() -> None:
    rng = np.random.default_rng(0)
    labels, f = rng.integers(0, 2, 20), 5.0 * rng.standard_normal((20, 1))
    one, two = Logistic(labels), Softmax(labels)
    pair = np.hstack([np.zeros_like(f), f])
    assert one.value(f) == pytest.approx(two.value(pair), rel=1e-14)
    np.testing.assert_allclose(one.gradient(f), two.gradient(pair)[:, 1:], rtol=0.0, atol=1e-15)
    B, root = two.curvature_root(pair), one.curvature_root(f)
    np.testing.assert_allclose((B @ B.transpose(0, 2, 1))[:, 1:, 1:], root * root, rtol=0.0, atol=1e-15)


def test_only_differences_of_outputs_matter_to_softmax() -> None:
    loss, outputs = Softmax(np.array([0, 1])), np.array([[0.5, 1.0, -2.0], [0.0, 3.0, 1.0]])
    assert loss.value(outputs + 100.0) == pytest.approx(loss.value(outputs), rel=1e-12)
    np.testing.assert_allclose(loss.gradient(outputs).sum(axis=1), 0.0, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "right", "price"),
    [
        (Logistic(np.array([1, 0])), np.array([[1.0], [-1.0]]), 2.0),
        (Softmax(np.array([0, 2])), np.array([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]), 4.0),
    ],
    ids=["logistic", "softmax"],
)
@pytest.mark.parametrize("size", [1e3, 1e4, 1e300])
def test_extreme_outputs_overflow_nowhere(loss: Loss, right: Matrix, price: float, size: float) -> None:
    assert loss.value(size * right) == 0.0
    assert loss.value(-size * right) == pytest.approx(price * size, rel=1e-15)
    np.testing.assert_array_equal(loss.gradient(size * right), 0.0 * right)
    assert np.max(np.abs(loss.gradient(-size * right))) == 1.0
    for outputs in (size * right, -size * right):
        assert not loss.curvature_root(outputs).any()


@pytest.mark.parametrize("loss", [Squared(np.zeros((0, 2))), Softmax(np.zeros(0, dtype=np.int64))])
def test_no_samples_cost_nothing(loss: Loss) -> None:
    outputs = np.zeros((0, 2))
    assert loss.value(outputs) == 0.0
    assert loss.gradient(outputs).shape == (0, 2)
    assert loss.curvature_root(outputs).shape == (0, 2, 2)


def test_gradients_are_new_arrays() -> None:
    outputs = np.zeros((1, 2))
    Softmax(np.array([0])).gradient(outputs)
    assert not outputs.any()


def test_one_output_means_logistic() -> None:
    labels = np.array([0, 1])
    assert isinstance(cross_entropy(labels, 1), Logistic)
    assert isinstance(cross_entropy(labels, 2), Softmax)
    assert [loss.quadratic for loss in (cross_entropy(labels, 1), cross_entropy(labels, 2))] == [False, False]
