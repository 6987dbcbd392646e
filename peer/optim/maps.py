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
from peer.optim.regularizers import Whitening

Product: TypeAlias = Callable[[Vector], Vector]

MAX_PRODUCTS: Final = 2_000
"""Of conjugate gradients in one system: what has not converged by then is left to the next Newton step."""


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
    """

    shape: tuple[int, int]
    forward: Product
    adjoint: Product
    squared: Product
    squared_adjoint: Product

    def __matmul__(self, x: Vector) -> Vector:
        """A x, (k,)."""
        return self.forward(x)

    @property
    def T(self) -> LinearMap:  # noqa: N802  (as of a matrix)
        """The adjoint."""
        return LinearMap(self.shape[::-1], self.adjoint, self.forward, self.squared_adjoint, self.squared)


Map: TypeAlias = Matrix | LinearMap
"""A matrix, or its products."""


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
