"""Losses: values by hand, ends of the number range, and how they are related."""

from __future__ import annotations

import numpy as np
import pytest

from peer.arrays import Matrix
from peer.optim.losses import (
    Huber,
    Logistic,
    Loss,
    Softmax,
    Squared,
    SquaredHinge,
    Weighted,
    cross_entropy,
    squared_hinge,
)
from tests import laws


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


def test_huber_by_hand() -> None:
    """Differences 1, -2, 0.25 and, at the kink itself, 0.5; delta is 0.5."""
    loss = Huber(np.array([[1.0, 3.0], [0.0, 0.0]]), 0.5)
    outputs = np.array([[2.0, 1.0], [0.25, 0.5]])
    np.testing.assert_array_equal(loss.each(outputs), [0.5 * 0.75 + 0.5 * 1.75, 0.5 * 0.0625 + 0.5 * 0.25])
    assert loss.value(outputs) == 0.375 + 0.875 + 0.03125 + 0.125
    np.testing.assert_array_equal(loss.gradient(outputs), [[0.5, -0.5], [0.25, 0.5]])
    np.testing.assert_array_equal(loss.curvature_root(outputs), [np.zeros((2, 2)), np.eye(2)])


def test_squared_hinge_by_hand() -> None:
    """Margins 2, 0.5 and -1 of one output; then, of three outputs, -1, 2, and 1: at the kink itself."""
    one = squared_hinge(np.array([1, 1, 0]), 1)
    np.testing.assert_array_equal(one.signs, [[1.0], [1.0], [-1.0]])
    outputs = np.array([[2.0], [0.5], [1.0]])
    np.testing.assert_array_equal(one.each(outputs), [0.0, 0.125, 2.0])
    assert one.value(outputs) == 2.125
    np.testing.assert_array_equal(one.gradient(outputs), [[0.0], [-0.5], [2.0]])
    np.testing.assert_array_equal(one.curvature_root(outputs), [[[0.0]], [[1.0]], [[1.0]]])
    three = squared_hinge(np.array([2]), 3)
    np.testing.assert_array_equal(three.signs, [[-1.0, -1.0, 1.0]])
    outputs = np.array([[1.0, -2.0, 1.0]])
    assert three.value(outputs) == 2.0
    np.testing.assert_array_equal(three.gradient(outputs), [[2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(three.curvature_root(outputs), [np.diag([1.0, 0.0, 1.0])])


def test_a_weight_is_how_often_a_sample_is_there() -> None:
    rng = np.random.default_rng(1)
    labels, f = rng.integers(0, 3, 4), rng.standard_normal((4, 3))
    times = np.array([2, 0, 1, 3])
    for make in (
        Softmax,
        lambda rows: squared_hinge(rows, 3),
        lambda rows: Squared(np.eye(3)[rows]),
        lambda rows: Huber(np.eye(3)[rows], 0.3),
    ):
        weighted, repeated = Weighted(make(labels), times.astype(np.float64)), make(np.repeat(labels, times))
        assert weighted.value(f) == pytest.approx(repeated.value(np.repeat(f, times, axis=0)), rel=1e-14)
        np.testing.assert_array_equal(weighted.each(f)[1], 0.0)
        assert weighted.each(f).sum() == pytest.approx(weighted.value(f), rel=1e-14)
        np.testing.assert_array_equal(weighted.gradient(f), times[:, None] * make(labels).gradient(f))
        B, plain = weighted.curvature_root(f), make(labels).curvature_root(f)
        squares = times[:, None, None] * (plain @ plain.transpose(0, 2, 1))
        np.testing.assert_allclose(B @ B.transpose(0, 2, 1), squares, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", ["huber", "squared_hinge"])
def test_newton_is_told_the_right_side_of_a_kink(name: str, weighted: bool) -> None:
    """From exactly the kink in every direction, along it and away from it on either side."""
    rng = np.random.default_rng(2)
    for m, q in ((1, 1), (5, 3)):
        signs = rng.choice([-1.0, 1.0], (m, q))
        loss: Loss = Huber(np.zeros((m, q)), 1.0) if name == "huber" else SquaredHinge(signs)
        loss = Weighted(loss, rng.uniform(0.5, 2.0, m)) if weighted else loss
        for _ in range(20):
            laws.gradient_is_semismooth(loss, signs, rng.integers(-1, 2, (m, q)).astype(np.float64))


def test_without_a_limit_huber_is_squared() -> None:
    rng = np.random.default_rng(3)
    y, f = rng.standard_normal((2, 6, 2))
    far, squared = Huber(y, 1e300), Squared(y)
    assert far.value(f) == pytest.approx(squared.value(f), rel=1e-14)
    np.testing.assert_array_equal(far.gradient(f), squared.gradient(f))
    np.testing.assert_array_equal(far.curvature_root(f), squared.curvature_root(f))


def test_huber_of_far_outputs_overflows_nowhere() -> None:
    loss = Huber(np.array([[0.0]]), 2.0)
    for size in (1e200, -1e300):
        assert loss.value(np.array([[size]])) == 2.0 * abs(size)
        np.testing.assert_array_equal(loss.gradient(np.array([[size]])), [[2.0 * np.sign(size)]])


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
        assert np.max(np.abs(loss.curvature_root(outputs))) <= 1e-200
        assert not loss.curvature(outputs)(np.ones_like(outputs)).any()


@pytest.mark.parametrize(
    "loss",
    [
        Squared(np.zeros((0, 2))),
        Softmax(np.zeros(0, dtype=np.int64)),
        Huber(np.zeros((0, 2)), 1.0),
        squared_hinge(np.zeros(0, dtype=np.int64), 2),
        Weighted(Squared(np.zeros((0, 2))), np.zeros(0)),
    ],
)
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


def test_softmax_keeps_probabilities_and_nobody_changes_them() -> None:
    f, other = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0]])
    labels = np.array([0, 2])
    kept = Softmax(labels)
    for outputs in (f, f, other, f):
        np.testing.assert_array_equal(kept.gradient(outputs), Softmax(labels).gradient(outputs))
        np.testing.assert_array_equal(kept.curvature(outputs)(f), Softmax(labels).curvature(outputs)(f))
        np.testing.assert_array_equal(kept.curvature_diagonal(outputs), Softmax(labels).curvature_diagonal(outputs))
