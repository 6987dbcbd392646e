"""Linear maps that are known by their products alone, where a matrix would be too large to form.

`A @ x`, `A.T @ u` and `A.shape` mean what they mean for a matrix, so that most code takes either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector
from peer.optim.models import Factors
from peer.optim.regularizers import Whitening

Product: TypeAlias = Callable[[Vector], Vector]

FORM_S: Final = 1.5e-8
"""Seconds for an entry of J; this and the following as `python -m benchmarks.solvers` measures them on one thread."""

GRAM_S: Final = 1.6e-11
"""Seconds for a multiplication and an addition of J'J or J J', of which half are made."""

CHOLESKY_S: Final = 1.5e-11
"""Seconds for the factors of an n x n matrix, over n^3."""

PRODUCT_S: Final = 4.4e-10
"""Seconds of J'(J x) for a sample and parameter."""

PAIR_S: Final = 6e-5
"""Seconds of J'(J x) for calls, and for all that conjugate gradients do beside."""

PAIRS_EXACT: Final = 200
"""Of J'(J x), for a system that is solved as well as the result has to be: a squared loss on digits needs 20 to 900,
with tau from 1 to 0.01."""

PAIRS_INEXACT: Final = 25
"""For a system within a Newton method, first solved roughly: cross-entropy there needs 5 to 50."""

MATRIX_BYTES: Final = 1 << 30
"""Of a J that is formed at most."""

MAX_PRODUCTS: Final = 2_000
"""Of conjugate gradients in one system: what has not converged by then is left to the next Newton step, or a matrix."""


@final
@dataclass(frozen=True, eq=False)
class LinearMap:
    """A, (k, p), by its products.

    Parameters
    ----------
    shape : tuple of int
        (k, p).
    forward, adjoint : callable
        x -> A x and u -> A'u.
    squared, squared_adjoint : callable
        The same with the squares of the entries, at least about: for preconditioners.
    matrix : callable or None
        Makes the matrix; None where it would be too large.
    """

    shape: tuple[int, int]
    forward: Product
    adjoint: Product
    squared: Product
    squared_adjoint: Product
    matrix: Callable[[], Matrix] | None = None

    def __matmul__(self, x: Vector) -> Vector:
        """A x, (k,)."""
        return self.forward(x)

    @property
    def T(self) -> LinearMap:  # noqa: N802  (as of a matrix)
        """The adjoint."""
        return LinearMap(self.shape[::-1], self.adjoint, self.forward, self.squared_adjoint, self.squared)


def products_of(factors: Factors) -> LinearMap:
    """J, (m*q, p), by its products with what it is made of."""
    shape = factors.outputs.size, factors.n_parameters
    whole = slice(0, shape[1])
    return LinearMap(
        shape,
        lambda x: factors.times(whole, x).reshape(-1),
        lambda u: factors.transposed_times(whole, u.reshape(factors.outputs.shape)),
        lambda x: factors.squared().times(whole, x).reshape(-1),
        lambda u: factors.squared().transposed_times(whole, u.reshape(factors.outputs.shape)),
        (lambda: matrix_of(factors)) if 8 * shape[0] * shape[1] <= MATRIX_BYTES else None,
    )


def matrix_of(factors: Factors) -> Matrix:
    """J, (m*q, p)."""
    return factors.columns(slice(0, factors.n_parameters)).reshape(-1, factors.n_parameters)


Map: TypeAlias = Matrix | LinearMap
"""A matrix, or its products."""


def jacobian_of(factors: Factors, quadratic: bool) -> Map:
    """J, (m*q, p): as a matrix where that is the cheaper way to solve, else by its products.

    The choice depends on sizes and loss alone, so that it is the same on every machine, and in every round.
    """
    return matrix_of(factors) if is_dense_cheaper(factors, quadratic) else products_of(factors)


def is_dense_cheaper(factors: Factors, quadratic: bool) -> bool:
    """Whether forming J and its Gram matrix takes less time than conjugate gradients would, and fits into memory."""
    (m, q), p = factors.outputs.shape, factors.n_parameters
    k = m * q
    less = min(k, p)
    form_s, gram_s, cholesky_s = FORM_S * k * p, GRAM_S * k * p * less, CHOLESKY_S * less**3
    n_rows = sum(part.cotangents.shape[2] for part in factors.parts)
    pairs_s = (PAIRS_EXACT if quadratic else PAIRS_INEXACT) * (PAIR_S + PRODUCT_S * m * (p + q * n_rows))
    return bool(8 * k * p <= MATRIX_BYTES and form_s + gram_s + cholesky_s <= pairs_s)


def whitened(root: Map, free: NDArray[np.bool_], whitening: Whitening) -> Map:
    """R_A T^(-1/2): the columns A of R that are free, (k, n)."""
    if not isinstance(root, LinearMap):
        return whitening(root if free.all() else root[:, free])
    everything = np.zeros(root.shape[1])

    def spread(x: Vector) -> Vector:
        whole = everything.copy()
        whole[free] = x
        return whole

    return LinearMap(
        (root.shape[0], int(np.count_nonzero(free))),
        lambda x: root.forward(spread(whitening(x))),
        lambda u: whitening(root.adjoint(u)[free]),
        lambda x: root.squared(spread(whitening.scale**2 * x)),
        lambda u: whitening.scale**2 * root.squared_adjoint(u)[free],
    )


def mixed_rows(root: float, blocks: NDArray[np.float64], jacobian: Map) -> Map:
    """Root B_m' J_m for all m, (m*q, p), with the blocks B, (m, q, q)."""
    m, q, _ = blocks.shape
    turned = root * blocks.transpose(0, 2, 1)
    if not isinstance(jacobian, LinearMap):
        return np.asarray(turned @ jacobian.reshape(m, q, -1)).reshape(jacobian.shape)
    diagonal = np.einsum("mkk->mk", turned).reshape(-1) ** 2

    def across(matrices: NDArray[np.float64], u: Vector) -> Vector:
        return np.asarray(matrices @ u.reshape(m, q, 1)).reshape(-1)

    return LinearMap(
        jacobian.shape,
        lambda x: across(turned, jacobian.forward(x)),
        lambda u: jacobian.adjoint(across(turned.transpose(0, 2, 1), u)),
        lambda x: diagonal * jacobian.squared(x),
        lambda u: jacobian.squared_adjoint(diagonal * u),
    )


def conjugate_gradients(root: LinearMap, b: Vector, accuracy: float) -> Vector:
    """Solution of (R'R + Id) x = b, (p,), preconditioned by the diagonal (Jacobi).

    In p unknowns also where R has fewer rows: the products cost the same, and the shorter form
    (Woodbury) gives x as a difference, in which digits are lost. Source: M. Hestenes, E. Stiefel, "Methods of
    conjugate gradients for solving linear systems" (1952).

    Parameters
    ----------
    root : LinearMap
        R, (k, p).
    b : Vector
        (p,).
    accuracy : float
        Of the residual, relative to b, both in the norm of the preconditioner.
    """
    inverse = 1.0 / (1.0 + root.squared_adjoint(np.ones(root.shape[0])))
    x, r = np.zeros_like(b), b
    z = inverse * r
    direction, size = z, float(np.dot(r, z))
    goal = accuracy * accuracy * size
    for _ in range(MAX_PRODUCTS):
        if not size > goal:  # also where there is nothing to solve, or nan
            break
        ahead = root.adjoint(root.forward(direction)) + direction
        length = size / float(np.dot(direction, ahead))
        x = x + length * direction
        r = r - length * ahead
        z = inverse * r
        last, size = size, float(np.dot(r, z))
        direction = z + (size / last) * direction
    return x
