"""The flat parameter vector, its named parts, and numbers as they look after the wire."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from peer.arrays import DTYPES, Layout, Twofold, rounded, two_sum

LAYOUT = Layout((("weight", (2, 3)), ("empty", (0, 4)), ("bias", (2,)), ("scalar", ())))


def parts() -> dict[str, NDArray[Any]]:
    return {
        "weight": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 4)),
        "bias": np.array([6.0, 7.0]),
        "scalar": np.array(8.0),
    }


def test_parts_stand_in_the_order_of_the_layout_row_major() -> None:
    assert LAYOUT.size == 9
    np.testing.assert_array_equal(LAYOUT.flatten(dict(reversed(parts().items()))), np.arange(9.0))
    assert [(name, place) for name, _, place in LAYOUT.slices()] == [
        ("weight", slice(0, 6)),
        ("empty", slice(6, 6)),
        ("bias", slice(6, 8)),
        ("scalar", slice(8, 9)),
    ]


def test_unflattened_parts_are_views() -> None:
    w = np.arange(9.0)
    found = LAYOUT.unflatten(w)
    assert found.keys() == parts().keys()
    assert {name: part.shape for name, part in found.items()} == dict(LAYOUT.shapes)
    found["bias"][0] = -1.0
    assert w[6] == -1.0


def test_numbers_of_other_kinds_become_float64() -> None:
    w = LAYOUT.flatten({name: part.astype(np.int16) for name, part in parts().items()})
    assert w.dtype == np.float64
    np.testing.assert_array_equal(w, np.arange(9.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "array 'bias' of shape (2,) is missing"),
        ({"more": np.zeros(1)}, "array 'more' belongs to no layer of the model"),
        ({"weight": np.zeros((3, 2))}, "array 'weight': expected numbers of shape (2, 3), found float64 (3, 2)"),
        ({"weight": np.zeros(6)}, "array 'weight': expected numbers of shape (2, 3), found float64 (6,)"),
        ({"bias": np.array(["a", "b"])}, "array 'bias': expected numbers of shape (2,), found <U1 (2,)"),
        ({"bias": np.array([1j, 0j])}, "array 'bias': expected numbers of shape (2,), found complex128 (2,)"),
        ({"bias": np.array([True, False])}, "array 'bias': expected numbers of shape (2,), found bool (2,)"),
        ({"bias": np.array([0.0, np.nan])}, "array 'bias': expected finite numbers, found nan or infinity"),
        ({"bias": np.array([0.0, -np.inf])}, "array 'bias': expected finite numbers, found nan or infinity"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, NDArray[Any] | None], message: str) -> None:
    changed = {name: part for name, part in {**parts(), **change}.items() if part is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LAYOUT.flatten(changed)


def test_rounding_is_what_a_float32_receiver_sees() -> None:
    vector = np.array([1.0, 1.0 + 2.0**-30, 1.0 / 3.0])
    assert rounded(vector, DTYPES["f8"]) is vector
    seen = rounded(vector, DTYPES["f4"])
    assert seen.dtype == np.float64
    np.testing.assert_array_equal(seen, [1.0, 1.0, float(np.float32(1.0 / 3.0))])
    np.testing.assert_array_equal(rounded(seen, DTYPES["f4"]), seen)


def fractions(*vectors: NDArray[np.float64]) -> list[Fraction]:
    """Entries of the sum of some vectors, exactly."""
    return [sum(map(Fraction, entries), Fraction(0)) for entries in zip(*(v.tolist() for v in vectors), strict=True)]


def test_a_sum_and_what_rounding_took_from_it_are_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=1000) * 10.0 ** rng.integers(-20, 20, size=1000) for _ in range(2))
    total, error = two_sum(a, b)
    assert np.array_equal(total, a + b)
    assert error.any()
    assert fractions(total, error) == fractions(a, b)


def test_a_twofold_vector_keeps_what_rounding_takes() -> None:
    """In numbers of all sizes, and where all that is large goes away again."""
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=50) * 10.0 ** rng.integers(-6, 7, size=50) for _ in range(300)]
    start = rng.normal(size=50)
    total = Twofold.of(start)
    for part in [*parts, *(-part for part in parts)]:
        total = total.plus(part)
    np.testing.assert_allclose(total.high, start, rtol=1e-15)
    assert np.abs(np.array(fractions(total.high, total.low, -start), dtype=float)).max() < 1e-22
    plain = start.copy()
    for part in [*parts, *(-part for part in parts)]:
        plain += part
    assert np.abs(plain - start).max() > 1e-11, "or else there is nothing to keep"
