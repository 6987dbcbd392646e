"""A preconditioner from a few products: exact for low ranks, always positive definite, of use where it is meant for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.arrays import Vector
from peer.optim import systems
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.maps import LinearMap, products_of
from peer.optim.nystrom import nystrom, signs
from peer.optim.regularizers import L2
from peer.optim.solvers import solve
from peer.optim.surrogates import Data, Linearized, Partial
from tests import laws
from tests.instances import gradient_of


def test_the_test_matrix_is_the_same_everywhere() -> None:
    test = signs(1_000, 20)
    assert test.shape == (1_000, 20)
    np.testing.assert_array_equal(test[:8, 0], [1, -1, -1, 1, -1, -1, -1, 1])  # as SplitMix64 from 0
    np.testing.assert_array_equal(np.abs(test), 1.0)
    assert np.max(np.abs(test.T @ test - 1_000.0 * np.eye(20))) <= 5.0 * np.sqrt(1_000.0)


@given(seed=st.integers(0, 2**32 - 1), p=st.integers(1, 40), k=st.integers(0, 40), exponent=st.floats(-3.0, 2.0))
def test_it_is_positive_definite_and_exact_where_the_rank_is_low(seed: int, p: int, k: int, exponent: float) -> None:
    """P^(-1) (Id + H) is the identity where 12 products see all of H: it has at most 9 ranks, in many dimensions."""
    R = 10.0**exponent * np.random.default_rng(seed).standard_normal((k, p))
    H = R.T @ R
    inverse = nystrom(lambda x: H @ x, p, 12)
    P = np.column_stack([inverse(column) for column in np.eye(p)])
    eigenvalues = np.linalg.eigvalsh(0.5 * (P + P.T))
    assert eigenvalues[0] > 0.0
    assert eigenvalues[-1] <= 1.0 + 1e-6
    if k <= 9 and p >= 20:
        found = np.linalg.eigvals(P @ (np.eye(p) + H)).real
        assert np.max(np.abs(found - 1.0)) <= 1e-3


def test_where_nothing_is_curved_it_is_the_identity() -> None:
    r = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(nystrom(lambda x: 0.0 * x, 3, 2)(r), r)


@pytest.mark.parametrize("tau", [1e-3, 10.0])
def test_systems_that_take_long_take_fewer_products(monkeypatch: pytest.MonkeyPatch, tau: float) -> None:
    """And those that do not are left alone."""
    rng, model = np.random.default_rng(4), mlp((20, 40, 5), "tanh")
    w, x = model.initial(rng), rng.standard_normal((40, 20)) * np.logspace(0.0, -2.0, 20)
    data, r = Data(model, x, Squared(rng.standard_normal((40, 5))), 0.025), L2(np.linspace(0.0, 1e-3, w.size))
    gradient = gradient_of(data, w)
    h = Partial(tau, 10.0).around(w, gradient, gradient, data)
    assert isinstance(h, Linearized)
    products, found = products_of(data.at(w)), []
    for patience in (10**6, 60):
        monkeypatch.setattr(systems, "PATIENCE", patience)
        count = [0]

        def counted(x: Vector, count: list[int] = count) -> Vector:
            count[0] += 1
            return products.forward(x)

        by_products = replace(h, jacobian=replace(products, forward=counted, matrix=None))
        assert isinstance(by_products.jacobian, LinearMap)
        solution = solve(by_products, r, 1e-9)
        laws.solution_is_optimal(by_products, r, solution, 1e-9, w + 0.1)
        found.append(count[0])
    assert found[1] < 0.7 * found[0] if tau < 1.0 else found[0] == found[1] < 60
