"""Systems between the curvatures of a loss, also where it has none."""

from __future__ import annotations

import numpy as np
import pytest

from peer.arrays import Vector
from peer.errors import SolveError
from peer.optim.inverses import within


@pytest.mark.parametrize("q", [1, 3])
def test_between_blocks_as_with_dense_matrices(q: int) -> None:
    """Blocks of 0 among them: samples that count nothing, or are at the flat side of a kink."""
    rng, m = np.random.default_rng(0), 5
    half, roots, u = rng.standard_normal((m * q, 7)), rng.standard_normal((m, q, q)), rng.standard_normal(m * q)
    roots[2] = 0.0
    K, B = half @ half.T, np.zeros((m * q, m * q))
    for k, block in enumerate(roots):
        B[k * q : (k + 1) * q, k * q : (k + 1) * q] = block
    expected: Vector = B @ np.linalg.solve(np.eye(m * q) + B.T @ K @ B, B.T @ u)
    before = K.copy()
    np.testing.assert_allclose(within(K, roots)(u), expected, rtol=0.0, atol=1e-13 * float(np.abs(expected).max()))
    np.testing.assert_array_equal(K, before)
    alone = np.linalg.solve(np.eye(m * q) + K, u)
    np.testing.assert_allclose(within(K, None)(u), alone, rtol=0.0, atol=1e-13)


def test_curvatures_of_all_sizes_lose_no_digits() -> None:
    """Where K is 1 everywhere the result is known: b^2 (u - sum_k b_k^2 u_k/(1 + sum_k b_k^2))."""
    squares, u = np.array([1e-200, 1e-18, 1.0]), np.array([1.0, -2.0, 3.0])
    expected = squares * (u - np.dot(squares, u) / (1.0 + squares.sum()))
    found = within(np.ones((3, 3)), np.sqrt(squares)[:, None, None])(u)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_what_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(SolveError, match="not positive definite to rounding"):
        within(-2.0 * np.eye(3), np.ones((3, 1, 1)))
