"""The laws of compressors and of numbers on the wire, for vectors of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peer.arrays import DTYPES, Vector, rounded
from peer.optim.compressors import drawn, n_kept
from tests import laws

some = settings(deadline=None, max_examples=60)
entries = st.one_of(st.floats(-1e3, 1e3), st.integers(-2, 2).map(float))  # ties, and zeros of both signs
vectors = hnp.arrays(np.float64, st.integers(1, 12), elements=entries)


@some
@given(x=vectors, part=st.floats(0.0, 1.0))
def test_top_k(x: Vector, part: float) -> None:
    laws.top_is_the_best_of_its_size(x, n_kept(part, x.size))


@pytest.mark.parametrize(("p", "k"), [(1, 1), (2, 1), (7, 3), (30, 1), (30, 29)])
def test_random_k(p: int, k: int) -> None:
    laws.every_set_is_as_likely(7, p, k, 400)
    assert np.array_equal(drawn(7, 3, p, k), drawn(7, 3, p, k))


def test_random_k_is_the_same_everywhere() -> None:
    """These come from a standard, and no library may draw others: peers with different ones would not agree."""
    assert drawn(7, 3, 20, 5).tolist() == DRAWN
    assert drawn(7, 4, 20, 5).tolist() != DRAWN
    assert drawn(8, 3, 20, 5).tolist() != DRAWN


DRAWN = [8, 9, 13, 14, 18]


@some
@given(
    x=hnp.arrays(
        np.float64, st.integers(1, 12), elements=st.floats(-1e30, 1e30).filter(lambda a: a == 0 or abs(a) > 1e-30)
    )
)
@pytest.mark.parametrize(("name", "bits"), [("f8", 53), ("f4", 24), ("bf16", 8)])
def test_numbers_on_the_wire(x: Vector, name: str, bits: int) -> None:
    laws.rounds_to_nearest(x, bits, DTYPES[name])


@pytest.mark.parametrize("name", ["f4", "bf16"])
def test_what_is_no_number_stays_none(name: str) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1e300, -0.0])
    odd = np.concatenate((odd, np.frombuffer(np.uint64(0xFFFFFFFFFFFFFFFF).tobytes())))
    np.testing.assert_array_equal(rounded(odd, DTYPES[name]), [np.nan, np.inf, -np.inf, np.inf, -0.0, np.nan])


def test_bf16_is_rounded_to_even() -> None:
    ties = np.array([1.0 + 2.0**-8, 1.0 + 3.0 * 2.0**-8, 1.0 + 2.0**-8 + 2.0**-20])
    np.testing.assert_array_equal(rounded(ties, DTYPES["bf16"]), [1.0, 1.0 + 2.0**-6, 1.0 + 2.0**-7])
