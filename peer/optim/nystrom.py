"""A preconditioner for systems that are solved by products, from a few products with the matrix.

Source: Z. Frangella, J. Tropp, M. Udell, "Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 44(2)
(2023), algorithms 2.1 and 5.1. Departures:

1. The test matrix has entries +-1 that follow from their place alone, so that all machines and all runs have the same.
2. It is not made orthonormal, and eigenvectors come from a Gram matrix: those whose eigenvalue is below `FAINT` times
   the largest, which would not be orthogonal to rounding, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import linalg

from peer.arrays import Matrix, Vector

FAINT: Final = 1e-8
"""Relative size of eigenvalues that Gram matrices in float64 resolve; preconditioning needs no smaller ones."""


def signs(p: int, rank: int) -> Matrix:
    """Test matrix of entries +-1 that look random, (p, rank): top bits of a hash of their places.

    Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = np.arange(1, p * rank + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where((z ^ (z >> np.uint64(31))) >> np.uint64(63), 1.0, -1.0).reshape(rank, p).T


def nystrom(product: Callable[[Vector], Vector], p: int, rank: int) -> Callable[[Vector], Vector]:
    """Preconditioner r -> P^(-1) r of Id + H, H known by its products.

    P is Id + H on the span of the approximate eigenvectors U of H with the largest eigenvalues l, and across it as if
    all others were the least of these:  P^(-1) = Id + U diag((l_least + 1)/(l + 1) - 1) U'.

    Parameters
    ----------
    product : callable
        x -> H x, (p,), H positive semidefinite.
    p : int
    rank : int
        Products that are made, and eigenvectors at most.

    Returns
    -------
    callable
        Positive definite; exact where the rank of H is less than `rank`. The identity where nothing is known of H.
    """
    test = signs(p, min(rank, p))
    Y = np.column_stack([product(column) for column in test.T])
    shift = math.sqrt(p) * np.spacing(np.linalg.norm(Y))  # as there: the core is then positive definite to rounding
    Y += shift * test
    try:
        C = linalg.cholesky(test.T @ Y, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return lambda r: r
    B = linalg.solve_triangular(C, Y.T, lower=True, check_finite=False).T
    squares, V = linalg.eigh(B.T @ B, check_finite=False)
    kept = squares > FAINT * squares[-1]
    eigenvalues = np.maximum(squares[kept] - shift, 0.0)
    U = (B @ V[:, kept]) / np.sqrt(squares[kept])
    least = eigenvalues[0] if kept.all() and test.shape[1] < p else 0.0
    weights = (least + 1.0) / (eigenvalues + 1.0) - 1.0
    return lambda r: r + U @ (weights * (U.T @ r))
