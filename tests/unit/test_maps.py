"""Linear maps by their products: which are chosen, that they are the matrix, and what happens where they fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peer.arrays import Vector
from peer.optim import maps
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.maps import LinearMap, conjugate_gradients, is_dense_cheaper, jacobian_of, matrix_of, products_of
from peer.optim.models import Pass
from peer.optim.regularizers import L1, NoRegularizer
from peer.optim.solvers import solve
from peer.optim.surrogates import Data, Linearized, Partial
from tests import laws
from tests.instances import linearized_of, parameters_of


def pass_of(m: int, widths: tuple[int, ...]) -> Pass:
    rng, model = np.random.default_rng(0), mlp(widths, "tanh")
    return model.at(parameters_of(rng, model), rng.standard_normal((m, widths[0])))


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (2, 3, 2, 1)])
def test_products_are_those_of_the_matrix(widths: tuple[int, ...]) -> None:
    here = pass_of(5, widths)
    J, A = matrix_of(here.factors()), products_of(here)
    rng = np.random.default_rng(1)
    x, u = rng.standard_normal((J.shape[1],)), rng.standard_normal((J.shape[0],))
    assert A.shape == J.shape == A.T.shape[::-1]
    np.testing.assert_allclose(A @ x, J @ x, rtol=0.0, atol=1e-13)
    np.testing.assert_allclose(A.T @ u, J.T @ u, rtol=0.0, atol=1e-13)
    np.testing.assert_allclose(A.squared(x), J**2 @ x, rtol=0.0, atol=1e-13)
    np.testing.assert_allclose(A.squared_adjoint(u), (J**2).T @ u, rtol=0.0, atol=1e-13)
    assert A.matrix is not None
    np.testing.assert_array_equal(A.matrix(), J)


def test_small_jacobians_are_formed_and_large_ones_are_not() -> None:
    assert isinstance(jacobian_of(pass_of(50, (30, 10, 1)), True), np.ndarray)
    assert isinstance(jacobian_of(pass_of(180, (64, 50, 10)), True), LinearMap)
    assert not is_dense_cheaper(pass_of(180, (64, 10, 10)), False)
    assert is_dense_cheaper(pass_of(8, (64, 10, 10)), True)


def test_what_does_not_fit_into_memory_is_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MATRIX_BYTES", 8 * 5 * 9 - 1)
    here = pass_of(5, (2, 2, 1))
    assert isinstance(jacobian_of(here, True), LinearMap)
    assert products_of(here).matrix is None


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_conjugate_gradients_solve_the_shifted_system(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    R, b = 10.0 * rng.standard_normal(shape), rng.standard_normal((shape[1],))
    A = R.T @ R + np.eye(shape[1])
    expected = np.linalg.solve(A, b)
    for diagonal in (np.diag(A), np.ones(shape[1])):

        def found(b: Vector, accuracy: float, diagonal: Vector = diagonal) -> Vector:
            return conjugate_gradients(lambda x: A @ x, lambda r: r / diagonal, b, accuracy)[0]

        np.testing.assert_allclose(found(b, 1e-14), expected, rtol=1e-10)
        np.testing.assert_array_equal(found(0.0 * b, 1e-14), 0.0 * b)
        rough = found(b, 0.5)
        assert 0.0 < np.linalg.norm(rough - expected) < np.linalg.norm(expected)


def test_where_products_do_not_get_there_the_matrix_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MAX_PRODUCTS", 1)
    h, r = linearized_of(np.random.default_rng(3), "squared", mlp((4, 5, 2), "tanh"), 20, 1e-3, 1.0), NoRegularizer()
    J, by_products = laws.matrix(h), laws.by_products(h)
    assert isinstance(by_products.jacobian, LinearMap)
    stuck = solve(by_products, r, 1e-10)
    assert (stuck.method, stuck.residual > 1e-10) == ("newton-cg", True)
    mended = solve(replace(h, jacobian=replace(by_products.jacobian, matrix=lambda: J)), r, 1e-10)
    np.testing.assert_array_equal(mended.w, solve(replace(h, jacobian=J), r, 1e-10).w)
    assert mended.residual <= 1e-10


def test_a_large_agent_solves_its_surrogate_by_products() -> None:
    rng, model = np.random.default_rng(4), mlp((40, 100, 10), "tanh")
    w, x = model.initial(rng), rng.standard_normal((100, 40))
    loss = Squared(rng.standard_normal((100, 10)))
    data, r = Data(model, x, loss, 0.01), L1(np.full(w.size, 1e-3))
    gradient = data.weight * model.at(w, x).vjp(loss.gradient(model.at(w, x).outputs))
    h = Partial(1.0, 1.0).around(w, gradient, gradient, data)
    assert isinstance(h, Linearized)
    solution = solve(h, r, 1e-8)
    assert (solution.method, solution.residual <= 1e-8) == ("newton-cg", True)
    laws.solution_is_optimal(h, r, solution, 1e-8, w + 0.1)
