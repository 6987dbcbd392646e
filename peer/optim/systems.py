"""Linear systems of the solvers: of Newton's method, and of a diagonal beside a square; by factors, or by products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

import numpy as np
from scipy.linalg.blas import daxpy

from peer.arrays import Matrix, Vector
from peer.optim.inverses import Inverse, cholesky, within
from peer.optim.maps import (
    NYSTROM_PARAMETERS,
    PATIENCE,
    RANK,
    LinearMap,
    Map,
    conjugate_gradients,
    gram_of,
    is_direct,
    is_dual,
    outer_of,
)
from peer.optim.nystrom import nystrom
from peer.optim.regularizers import Regularizer
from peer.optim.surrogates import Linearized
from peer.optim.vectors import length

EPS: Final = float(np.finfo(np.float64).eps)
"""Distance from 1 to the next number."""


@final
@dataclass(frozen=True, eq=False)
class Systems:
    """Systems (J'H J + T) x = b of Newton's method with smooth r; T = tau Id + r'' is diagonal, and always the same.

    H has the blocks weight B_m B_m'. With a wide J they are solved in m q unknowns (Woodbury):

        x = c - weight T^(-1) J' B (Id + weight B'J T^(-1) J'B)^(-1) B' J c,    c = T^(-1) b,

    where J T^(-1) J' is the same for all of them, so that a further one takes no product of matrices with p columns.

    Parameters
    ----------
    subproblem : Linearized
        h.
    regularizer : Regularizer
        r, smooth.
    """

    subproblem: Linearized
    regularizer: Regularizer
    _preconditioners: dict[str, Inverse] = field(default_factory=dict, init=False, repr=False)

    def at(self, outputs: Matrix, accuracy: float = EPS) -> Inverse:
        """Solver of the system at a point.

        Parameters
        ----------
        outputs : Matrix
            Linearized ones of the point, (m, q).
        accuracy : float
            Of conjugate gradients.

        Raises
        ------
        SolveError
            The matrix is not positive definite to rounding. Where it holds nan, so does x.
        """
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        if not is_direct(J):
            return self._by_products(outputs, accuracy)
        roots = h.roots(outputs)
        if h.kept is not None and (h.loss.constant_curvature or is_dual(J)):
            return h.kept.inverse(h.weight, roots, T, h.adapts)
        if not is_dual(J):
            matrix = gram_of(h.weight, roots, J)
            matrix.reshape(-1)[:: len(matrix) + 1] += T
            return cholesky(matrix)
        solve_dual = within(self._outer, roots)

        def inverse(b: Vector) -> Vector:
            c = b / T
            return np.asarray(c - (J.T @ (h.weight * solve_dual(J @ c))) / T)

        return inverse

    def _by_products(self, outputs: Matrix, accuracy: float) -> Inverse:
        """By conjugate gradients, preconditioned by the diagonal; where that takes long, by more than that.

        Further steps of a solve take the preconditioners of the first: their curvature is much the same.
        """
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        assert isinstance(J, LinearMap), "it is known by its products"
        forward, adjoint, bent, weight, shape = J.forward, J.adjoint, h.loss.curvature(outputs), h.weight, outputs.shape

        def curved(x: Vector) -> Vector:
            return adjoint(bent(forward(x).reshape(shape)).reshape(-1))

        def product(x: Vector) -> Vector:
            return np.asarray(daxpy(curved(x), T * x, a=weight))

        if "diagonal" not in self._preconditioners:
            entries = T + weight * J.squared_adjoint(h.loss.curvature_diagonal(outputs).reshape(-1))
            self._preconditioners["diagonal"] = lambda r: r / entries
        if T.size > NYSTROM_PARAMETERS:
            return lambda b: conjugate_gradients(product, self._preconditioners["diagonal"], b, accuracy)[0]

        def inverse(b: Vector) -> Vector:
            if "nystrom" not in self._preconditioners:
                x, is_solved = conjugate_gradients(product, self._preconditioners["diagonal"], b, accuracy, PATIENCE)
                if is_solved:
                    return x
                scale = np.sqrt(1.0 / T)
                white = nystrom(lambda u: weight * scale * curved(scale * u), scale.size, RANK)
                self._preconditioners["nystrom"] = lambda r: scale * white(scale * r)
            else:
                x = np.zeros_like(b)
            left, size = b - product(x), length(b)
            size_left = length(left)
            if not size_left > accuracy * size:  # also where there is nothing to solve
                return x
            remaining = accuracy * size / size_left
            return x + conjugate_gradients(product, self._preconditioners["nystrom"], left, remaining)[0]

        return inverse

    @cached_property
    def _shift(self) -> Vector:
        """T, (p,)."""
        scale = self.regularizer.whitening(self.subproblem.center, self.subproblem.tau).scale
        return np.asarray(1.0 / (scale * scale))

    @cached_property
    def _outer(self) -> Matrix:
        """Weight J T^(-1) J', (m*q, m*q)."""
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        assert isinstance(J, np.ndarray), "a wide J is a matrix"
        if T.min() < T.max():
            return outer_of(J, np.sqrt(h.weight / T))
        outer = J @ J.T  # without a pass over J
        outer *= h.weight / T[0]
        return np.asarray(outer)


def shifted_system(root: Map, accuracy: float = EPS) -> Callable[[Vector], Vector]:
    """Solver of (R'R + Id) x = b by Cholesky, primal or dual by the cheaper size; by products where R is known by them.

    Parameters
    ----------
    root : Map
        R, (k, p).
    accuracy : float
        Of conjugate gradients.

    Returns
    -------
    callable
        b -> x, each (p,). One step of iterative refinement follows the factorization, so
        that the dual form (Woodbury) loses no digits to the primal one.

    Raises
    ------
    SolveError
        The matrix is not positive definite to rounding. Where it holds nan, so does x.
    """
    if isinstance(root, LinearMap):
        diagonal = 1.0 + root.squared_adjoint(np.ones(root.shape[0]))
        return lambda b: conjugate_gradients(
            lambda x: root.adjoint(root.forward(x)) + x, lambda r: r / diagonal, b, accuracy
        )[0]
    k, p = root.shape
    if root.size == 0:  # not every LAPACK factors an empty matrix
        return np.copy
    gram = root.T @ root if p <= k else root @ root.T
    gram.flat[:: len(gram) + 1] += 1.0
    inverse = cholesky(gram)

    def once(b: Vector) -> Vector:
        return inverse(b) if p <= k else b - root.T @ inverse(root @ b)

    def refined(b: Vector) -> Vector:
        x = once(b)
        return x + once(b - root.T @ (root @ x) - x)

    return refined
