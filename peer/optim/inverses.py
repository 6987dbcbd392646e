"""Symmetric, positive definite matrices, factored: what solves systems with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.errors import SolveError

FLAT: Final = 1e-300
"""Curvatures of a loss that are less, and 0, are taken for it, so that there is an inverse."""

Inverse: TypeAlias = Callable[[Vector], Vector]
"""Of a matrix that is factored, or known by its products: b -> x."""

INDEFINITE: Final = "the surrogate's matrix is not positive definite to rounding: tau is too small beside its curvature"
"""What `SolveError` says of a system that cannot be solved."""


def cholesky(matrix: Matrix) -> Inverse:
    """Solver of matrix x = b with a symmetric, positive definite matrix, whose place in memory it takes.

    Raises
    ------
    SolveError
        It is not positive definite to rounding. Where it holds nan, so does x.
    """
    if not matrix.size:  # not every LAPACK factors an empty matrix
        return np.copy
    factor, failed = linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise SolveError(INDEFINITE)

    def inverse(b: Vector) -> Vector:
        x, _ = linalg.lapack.dpotrs(factor, b, lower=1)
        return np.asarray(x)

    return inverse


def turned(roots: NDArray[np.float64] | None, u: Vector, transposed: bool) -> Vector:
    """B_m u_m, or B_m'u_m, for all m, (m*q,)."""
    if roots is None:
        return u
    if roots.shape[1] == 1:
        return roots.reshape(-1) * u
    m, q, _ = roots.shape
    return np.asarray((roots.transpose(0, 2, 1) if transposed else roots) @ u.reshape(m, q, 1)).reshape(-1)


def within(K: Matrix, roots: NDArray[np.float64] | None) -> Inverse:
    """Solver u -> B (Id + B'K B)^(-1) B'u, (m*q,), with a positive semidefinite K and blocks B, (m, q, q), or Id.

    Where B is diagonal that is (B^(-2) + K)^(-1), which needs no product with B, and is as exact, as the factors of a
    matrix are whatever the sizes of its rows.

    Raises
    ------
    SolveError
        The matrix is not positive definite to rounding. Where it holds nan, so does the result.
    """
    if roots is not None and roots.shape[1] == 1:
        matrix, b = K.copy(), roots.reshape(-1)
        matrix.reshape(-1)[:: len(matrix) + 1] += 1.0 / np.maximum(b * b, FLAT)
        return cholesky(matrix)
    inverse = cholesky(sandwiched(K, roots))
    return lambda u: turned(roots, inverse(turned(roots, u, True)), False)


def sandwiched(K: Matrix, roots: NDArray[np.float64] | None) -> Matrix:
    """Id + B'K B with the blocks B on the diagonal, (m*q, m*q)."""
    if roots is None:
        matrix = K.copy()
    elif roots.shape[1] == 1:
        b = roots.reshape(-1)
        matrix = b[:, None] * K
        matrix *= b
    else:
        m, q, _ = roots.shape
        half = roots.transpose(0, 2, 1) @ K.reshape(m, q, m * q)  # B'K
        half = np.ascontiguousarray(half.reshape(m * q, m, q).transpose(1, 0, 2)) @ roots
        matrix = half.transpose(1, 0, 2).reshape(m * q, m * q)
    matrix.reshape(-1)[:: len(matrix) + 1] += 1.0
    return matrix
