"""Linear maps that are known by their products alone, where a matrix would be too large to form.

`A @ x`, `A.T @ u` and `A.shape` mean what they mean for a matrix, so that most code takes either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import daxpy

from peer.arrays import Matrix, Vector
from peer.optim.factors import Factors, Part
from peer.optim.models import Pass
from peer.optim.regularizers import Whitening
from peer.optim.vectors import dot, square

Product: TypeAlias = Callable[[Vector], Vector]
Blocks: TypeAlias = NDArray[np.float64]
"""A matrix for each sample, (m, q, q)."""

FORM_S: Final = 2e-9
"""Seconds for an entry of J, in memory that was used before (ten times that where it was not); this and the following
as `python -m benchmarks.solvers` measures them on one thread."""

GRAM_S: Final = 2.1e-11
"""Seconds for a multiplication and an addition of J J', of which half are made."""

FACTORS_S: Final = 4e-11
"""Seconds for a sample and entry of the Gram matrix J'H J, made of the network's factors."""

CHOLESKY_S: Final = 1.35e-11
"""Seconds for the factors of an n x n matrix, over n^3."""

PRODUCT_S: Final = 1.8e-10
"""Seconds of J'(J x) for a sample and parameter."""

COLUMNS_S: Final = 4.4e-10
"""Seconds of J_c'(J_c x) with some columns of J, for a sample and b parameters and q outputs of their rows."""

PAIR_S: Final = 5e-5
"""Seconds of J'(J x) for calls, and for all that conjugate gradients do beside."""

PAIRS_EXACT: Final = 100
"""Of J'(J x), for a system that is solved as well as the result has to be: a squared loss on digits needs 28 to 414,
with tau from 1 to 0.01."""

PAIRS_INEXACT: Final = 8
"""For a system within a Newton method, first solved roughly: cross-entropy there needs 4 to 15."""

STEPS: Final = 5
"""Of a Newton method: cross-entropy on digits needs 4 to 8."""

PATIENCE: Final = 60
"""Products that a system gets with the diagonal as its preconditioner; then one from `RANK` products takes over."""

RANK: Final = 20
"""More pay only beyond 500 products, as 20 times the square of the rank for each parameter come on top."""

NYSTROM_PARAMETERS: Final = 20_000
"""With more, twice `RANK` vectors would be most of a solve's memory."""

MATRIX_BYTES: Final = 1 << 30
"""Of a J that is formed at most."""

CHUNK: Final = 1 << 22
"""Entries of columns of J that are formed at a time, 32 MB, where all together never are."""

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
    gram : callable or None
        Blocks B, (m, q, q), or None for the identity -> sum over m of J_m'B_m B_m'J_m, (p, p), where A is such a J,
        which is not wide, and this is to be formed.
    outer : callable or None
        d, (p,) -> J diag(d)^2 J', (m*q, m*q), where A is such a J, which is wide, and this is to be formed.
    """

    shape: tuple[int, int]
    forward: Product
    adjoint: Product
    squared: Product
    squared_adjoint: Product
    matrix: Callable[[], Matrix] | None = None
    gram: Callable[[Blocks | None], Matrix] | None = None
    outer: Callable[[Vector], Matrix] | None = None

    def __matmul__(self, x: Vector) -> Vector:
        """A x, (k,)."""
        return self.forward(x)

    @property
    def T(self) -> LinearMap:  # noqa: N802  (as of a matrix)
        """The adjoint."""
        return LinearMap(self.shape[::-1], self.adjoint, self.forward, self.squared_adjoint, self.squared)


def products_of(here: Pass) -> LinearMap:
    """J, (m*q, p), by its products with the network's weights."""
    m, q = here.outputs.shape
    shape = m * q, here.n_parameters
    squared = cache(lambda: here.factors().squared())
    whole = slice(0, shape[1])
    return LinearMap(
        shape,
        lambda x: here.jvp(x).reshape(-1),
        lambda u: here.vjp(u.reshape(m, q)),
        lambda x: squared().times(whole, x).reshape(-1),
        lambda u: squared().transposed_times(whole, u.reshape(m, q)),
        (lambda: matrix_of(here.factors())) if 8 * shape[0] * shape[1] <= MATRIX_BYTES else None,
    )


def columns_of(factors: Factors, place: slice, quadratic: bool) -> Map:
    """Columns of J for the parameters in `place`, (m*q, b), in the form in which systems with them take least time."""
    m, q = factors.outputs.shape
    here = factors.within(place)
    b, n_rows = place.stop - place.start, sum(piece.n_rows for piece in here.pieces)
    structured = all(isinstance(piece, Part) for piece in here.pieces)
    is_factored = is_factoring_cheaper(m, q, b, quadratic, m * (b + q * n_rows) * COLUMNS_S, structured)
    return factored_columns(here, place) if is_factored else columns_by_products(here, place)


def columns_by_products(factors: Factors, place: slice) -> LinearMap:
    """The columns by their products with what J is made of."""
    m, q = factors.outputs.shape
    b = place.stop - place.start
    return LinearMap(
        (m * q, b),
        lambda x: factors.times(place, x).reshape(-1),
        lambda u: factors.transposed_times(place, u.reshape(m, q)),
        lambda x: factors.squared().times(place, x).reshape(-1),
        lambda u: factors.squared().transposed_times(place, u.reshape(m, q)),
        (lambda: matrix_of(factors, place)) if 8 * m * q * b <= MATRIX_BYTES else None,
    )


def factored_columns(factors: Factors, place: slice) -> Map:
    """The columns for systems that are factored: by their Gram matrices where these take fewer products than a matrix.

    That is where there are several outputs, and not more parameters than m q.
    """
    m, q = factors.outputs.shape
    if place.stop - place.start > m * q or q == 1:
        return matrix_of(factors, place)
    return replace(columns_by_products(factors, place), gram=lambda roots: factors.gram(place, roots))


def matrix_of(factors: Factors, place: slice | None = None) -> Matrix:
    """J, (m*q, p), or its columns for the parameters in `place`."""
    place = slice(0, factors.n_parameters) if place is None else place
    return factors.columns(place).reshape(-1, place.stop - place.start)


Map: TypeAlias = Matrix | LinearMap
"""A matrix, or its products."""


def is_direct(jacobian: Map) -> bool:
    """Whether systems with J are factored, and not solved by products alone."""
    return not isinstance(jacobian, LinearMap) or jacobian.gram is not None or jacobian.outer is not None


def is_dual(jacobian: Map) -> bool:
    """Whether systems with J are factored in m q unknowns, for J is wide."""
    if isinstance(jacobian, LinearMap):
        return jacobian.outer is not None
    return bool(jacobian.shape[0] < jacobian.shape[1])


def gram_of(weight: float, roots: Blocks | None, jacobian: Map) -> Matrix:
    """Weight times the sum over m of J_m'B_m B_m'J_m, (p, p), with the blocks B, (m, q, q), or the identity."""
    if isinstance(jacobian, LinearMap):
        assert jacobian.gram is not None, "J is known by its products alone"
        gram = jacobian.gram(roots)
        gram *= weight
        return gram
    R = jacobian if roots is None else mixed_rows(1.0, roots, jacobian)
    assert isinstance(R, np.ndarray), "as J is"
    gram = np.asarray(R.T @ R)
    gram *= weight
    return gram


def outer_of(jacobian: Map, d: Vector) -> Matrix:
    """J diag(d)^2 J', (m*q, m*q), of a wide J, with d, (p,)."""
    if isinstance(jacobian, LinearMap):
        assert jacobian.outer is not None, "J is known by its products alone"
        return jacobian.outer(d)
    scaled_columns = jacobian * d
    return np.asarray(scaled_columns @ scaled_columns.T)


def factored_by_products(here: Pass) -> LinearMap:
    """J, (m*q, p), so that systems with it are factored, while it is never kept: products are made with the network.

    For a J that stays for many rounds, each of which takes some ten products with it: these read less memory so.
    """
    products, factors = products_of(here), cache(here.factors)
    k, p = products.shape

    def outer(d: Vector) -> Matrix:
        total, width = np.zeros((k, k)), max(1, CHUNK // k)
        for start in range(0, p, width):
            place = slice(start, min(start + width, p))
            columns = matrix_of(factors(), place) * d[place]
            total += columns @ columns.T
        return total

    def gram(roots: Blocks | None) -> Matrix:
        if here.outputs.shape[1] == 1:
            return gram_of(1.0, roots, matrix_of(factors()))
        return factors().gram(slice(0, p), roots)

    return replace(products, outer=outer) if k < p else replace(products, gram=gram)


def jacobian_of(here: Pass, quadratic: bool) -> Map:
    """J, (m*q, p): by its products alone where that is the cheapest way to solve, else so that systems are factored.

    The choice depends on sizes and loss alone, so that it is the same on every machine, and in every round.
    """
    return factored(here) if is_dense_cheaper(here, quadratic) else products_of(here)


def factored(here: Pass) -> Map:
    """J, (m*q, p), so that systems with it are factored."""
    m, q = here.outputs.shape
    columns = factored_columns(here.factors(), slice(0, here.n_parameters))
    if not isinstance(columns, LinearMap):
        return columns
    return replace(columns, forward=lambda x: here.jvp(x).reshape(-1), adjoint=lambda u: here.vjp(u.reshape(m, q)))


def is_dense_cheaper(here: Pass, quadratic: bool, lasts: int = 1) -> bool:
    """Whether systems with J are to be factored, and not solved by products with it; J stays for so many rounds."""
    (m, q), p = here.outputs.shape, here.n_parameters
    return is_factoring_cheaper(m, q, p, quadratic, PRODUCT_S * m * here.n_products, here.structured, lasts)


def is_factoring_cheaper(
    m: int, q: int, p: int, quadratic: bool, product_s: float, structured: bool = True, lasts: int = 1
) -> bool:
    """Whether factoring takes less time than conjugate gradients with so long products would, and fits into memory.

    Where J stays for some rounds, as `peer.optim.frozen` has it, what it takes once is shared by them.
    """
    k, n_systems = m * q, 1 if quadratic else STEPS
    if p <= k:
        gram_s = FACTORS_S * m * p**2 if structured else GRAM_S * k * p**2
        factored_s = n_systems * (gram_s + CHOLESKY_S * p**3) / (lasts if quadratic else 1)
    else:
        systems_s = n_systems * CHOLESKY_S * k**3 / (lasts if quadratic else 1)
        factored_s = (FORM_S * k * p + GRAM_S * k**2 * p) / lasts + systems_s
    n_pairs = PAIRS_EXACT if quadratic else STEPS * PAIRS_INEXACT
    return bool(8 * k * p <= MATRIX_BYTES and factored_s <= n_pairs * (PAIR_S + product_s))


def whitened(root: Map, free: NDArray[np.bool_], whitening: Whitening) -> Map:
    """R_A T^(-1/2): the columns A of R that are free, (k, n)."""
    if not isinstance(root, LinearMap):
        return whitening(root if free.all() else root[:, free])
    if free.all():
        return LinearMap(
            root.shape,
            lambda x: root.forward(whitening(x)),
            lambda u: whitening(root.adjoint(u)),
            lambda x: root.squared(whitening.scale**2 * x),
            lambda u: whitening.scale**2 * root.squared_adjoint(u),
        )
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


def mixed_rows(root: float, blocks: Blocks | None, jacobian: Map) -> Map:
    """Root B_m' J_m for all m, (m*q, p), with the blocks B, (m, q, q), or the identity."""
    if blocks is None:
        return scaled(root, jacobian)
    m, q, _ = blocks.shape
    turned = root * blocks.transpose(0, 2, 1)
    if not isinstance(jacobian, LinearMap):
        if q == 1:
            return turned.reshape(m, 1) * jacobian
        return np.asarray(turned @ jacobian.reshape(m, q, -1)).reshape(jacobian.shape)
    diagonal = np.einsum("mkk->mk", turned).reshape(-1) ** 2

    def across(matrices: Blocks, u: Vector) -> Vector:
        return np.asarray(matrices @ u.reshape(m, q, 1)).reshape(-1)

    return LinearMap(
        jacobian.shape,
        lambda x: across(turned, jacobian.forward(x)),
        lambda u: jacobian.adjoint(across(turned.transpose(0, 2, 1), u)),
        lambda x: diagonal * jacobian.squared(x),
        lambda u: jacobian.squared_adjoint(diagonal * u),
    )


def scaled(root: float, jacobian: Map) -> Map:
    """Root J, (m*q, p)."""
    if not isinstance(jacobian, LinearMap):
        return root * jacobian
    return LinearMap(
        jacobian.shape,
        lambda x: root * jacobian.forward(x),
        lambda u: root * jacobian.adjoint(u),
        lambda x: root**2 * jacobian.squared(x),
        lambda u: root**2 * jacobian.squared_adjoint(u),
    )


def conjugate_gradients(
    product: Product, precondition: Product, b: Vector, accuracy: float, most: int | None = None
) -> tuple[Vector, bool]:
    """Solution of A x = b, (p,), with a symmetric, positive definite A, and whether it is as accurate as was asked.

    In p unknowns also where A is Id and a map of fewer rows: the products cost the same, and the shorter form
    (Woodbury) gives x as a difference, in which digits are lost. Source: M. Hestenes, E. Stiefel, "Methods of
    conjugate gradients for solving linear systems" (1952).

    Parameters
    ----------
    product : callable
        x -> A x.
    precondition : callable
        r -> P^(-1) r, with P about A.
    b : Vector
        (p,).
    accuracy : float
        Of the residual, relative to b, both in the 2-norm.
    most : int or None
        Products at most; None: `MAX_PRODUCTS`.
    """
    x, r = np.zeros_like(b), b.copy()
    z = precondition(r)
    direction, size, left = z.copy(), dot(r, z), square(r)
    goal = accuracy * accuracy * left
    for _ in range(MAX_PRODUCTS if most is None else most):
        if not left > goal:  # also where there is nothing to solve, or nan
            break
        ahead = product(direction)
        length = size / dot(direction, ahead)
        x, r = daxpy(direction, x, a=length), daxpy(ahead, r, a=-length)  # in place
        z = precondition(r)
        last, size, left = size, dot(r, z), square(r)
        direction *= size / last
        direction += z
    return x, not left > goal
