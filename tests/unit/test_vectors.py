"""Sums over entries, in particular where they overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from peer.optim.vectors import dot, is_finite, largest, length, square


def test_products_and_lengths_by_hand() -> None:
    a, b = np.array([1.0, 2.0, 2.0]), np.array([3.0, 0.0, -1.0])
    assert (dot(a, b), square(a), length(a), largest(b - a)) == (1.0, 9.0, 3.0, 3.0)
    assert (dot(a[:0], b[:0]), length(a[:0]), largest(a[:0])) == (0.0, 0.0, 0.0)
    assert (dot(a[::2], b[::2]), largest(-a.reshape(1, 3))) == (1.0, 2.0)


def test_what_overflows_is_not_finite_and_nan_stays_nan() -> None:
    """Without a warning, which would be an error here."""
    far = np.full(10, 1e300)
    assert math.isinf(length(far))
    assert not math.isfinite(dot(far, far * np.array([1.0, -1.0] * 5)))
    assert math.isnan(largest(np.array([1.0, np.nan, 2.0])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 57, 99])
def test_one_bad_number_is_found(bad: float, place: int) -> None:
    array = np.ones((10, 10))
    assert is_finite(array)
    array.flat[place] = bad
    assert not is_finite(array)


def test_numbers_whose_squares_overflow_are_finite() -> None:
    assert is_finite(np.full(10, 1e300))
    assert is_finite(np.zeros(0))
    assert not is_finite(np.array([1e300, np.inf, -np.inf]))
