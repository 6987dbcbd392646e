"""Symmetric, positive definite matrices, factored: what solves systems with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.errors import SolveError

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
