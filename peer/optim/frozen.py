"""What rounds have in common in which a network stays linearized at one point: J, and what systems with it are made of.

A system of (5) is then (weight J'HJ + T) x = b with the same J in every round, and T = tau Id + r'' diagonal. Where H
is constant too it is factored once for each tau; with m q < p in m q unknowns, as in `peer.optim.systems.Systems`. What
a tau that changes from round to round costs depends on how long J stays: the eigenvalues of J'HJ, or of its dual, make
every further tau free, and take as long as 14 to 25 factorizations (n from 50 to 2,000, one thread).

Everything here is kept for speed alone, and depends on nothing but J, the settings and the tau of the moment: so an
agent that was resumed comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, final

import numpy as np
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.optim.factors import Factors
from peer.optim.inverses import Inverse, cholesky, sandwiched, turned, within
from peer.optim.maps import (
    Blocks,
    LinearMap,
    Map,
    columns_of,
    factored,
    factored_by_products,
    gram_of,
    is_dense_cheaper,
    is_dual,
    outer_of,
    products_of,
)
from peer.optim.models import Pass
from peer.optim.regimes import Linear, LinearPass

T = TypeVar("T")

EIGEN_ROUNDS: Final = 25
"""From so many rounds on eigenvalues pay where tau changes in each."""

SMALL: Final = 1 << 16
"""Entries of a J that is kept, half a megabyte: with more, products with the network are faster than with a matrix."""

MAX_KINDS: Final = 3
"""Different entries of T for which Gram matrices are kept: there are two where biases are not regularized."""

Span: TypeAlias = tuple[int, int]
"""First parameter of a block, and the one behind its last."""


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """A J that stays, or some of its columns, and what was computed of it.

    Parameters
    ----------
    jacobian : Map
        J, (m*q, p).
    constant : bool
        Whether the second derivative BB' of the loss is.
    lasts : int
        Rounds for which J stays, about.
    """

    jacobian: Map
    constant: bool
    lasts: int
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def inverse(self, weight: float, roots: Blocks | None, shift: Vector, adapts: bool) -> Inverse:
        """Of weight J'BB'J + T, (p, p), with the diagonal T, (p,); where J is factored, and BB' constant or J wide.

        With a wide J, and K = J T^(-1) J', by Woodbury:

            x = c - T^(-1) J'B (Id/weight + B'K B)^(-1) B'J c,    c = T^(-1) b.

        Parameters
        ----------
        weight : float
        roots : Blocks or None
            B, (m, q, q); None for the identity.
        shift : Vector
            T, > 0.
        adapts : bool
            Whether T will be another one in the next round.

        Raises
        ------
        SolveError
            The matrix is not positive definite to rounding.
        """
        if not self.constant:
            return self._dual(weight, roots, shift, False)
        same = self._found.get("inverse")
        if same is None or same[0] != weight or not np.array_equal(same[1], shift):
            make = self._dual if is_dual(self.jacobian) else self._primal
            self._found["inverse"] = same = weight, shift.copy(), make(weight, roots, shift, adapts)
        inverse: Inverse = same[2]
        return inverse

    def _primal(self, weight: float, roots: Blocks | None, shift: Vector, adapts: bool) -> Inverse:
        if adapts and self.lasts >= EIGEN_ROUNDS and (shift == shift[:1]).all():
            values, V = self._once("eigen", lambda: eigen(self._gram(roots)))
            inverted = 1.0 / (weight * values + shift[:1])
            return lambda b: np.asarray(V @ (inverted * (V.T @ b)))
        matrix = weight * self._once("gram", lambda: self._gram(roots))
        matrix.reshape(-1)[:: len(matrix) + 1] += shift
        return cholesky(matrix)

    def _dual(self, weight: float, roots: Blocks | None, shift: Vector, adapts: bool) -> Inverse:
        J = self.jacobian
        if adapts and self.lasts >= EIGEN_ROUNDS and (shift == shift[:1]).all():
            values, V = self._once("eigen", lambda: eigen(self._between(roots)))
            inverted = 1.0 / (1.0 / weight + values / shift[:1])

            def solve(u: Vector) -> Vector:
                return turned(roots, np.asarray(V @ (inverted * (V.T @ turned(roots, u, True)))), False)

        else:
            factored = within(weight * self.outer(shift), roots)

            def solve(u: Vector) -> Vector:
                return weight * factored(u)

        def inverse(b: Vector) -> Vector:
            c = b / shift
            return np.asarray(c - (J.T @ solve(J @ c)) / shift)

        return inverse

    def outer(self, shift: Vector) -> Matrix:
        """J T^(-1) J', (m*q, m*q), of a wide J; each of the few different entries of T has a matrix that is kept."""
        same = self._found.get("outer")
        if same is None or not np.array_equal(same[0], shift):
            self._found["outer"] = same = shift.copy(), self._outer(shift)
        return np.asarray(same[1])

    def _outer(self, shift: Vector) -> Matrix:
        kinds, kind = np.unique(shift, return_inverse=True)
        if len(kinds) > MAX_KINDS:
            return outer_of(self.jacobian, shift**-0.5)
        same = self._found.get("kinds")
        if same is None or not np.array_equal(same[0], kind):
            some = (outer_of(self.jacobian, np.where(kind == k, 1.0, 0.0)) for k in range(len(kinds)))
            self._found["kinds"] = same = kind, list(some)
        return np.asarray(sum(gram / entry for gram, entry in zip(same[1], kinds, strict=True)))

    def root(self, weight: float, roots: Blocks | None, make: Callable[[Matrix], Matrix]) -> Matrix:
        """What `make` gives of weight J'BB'J, (p, p), where BB' is constant."""
        same = self._found.get("root")
        if same is None or same[0] != weight:
            self._found["root"] = same = weight, make(weight * self._once("gram", lambda: self._gram(roots)))
        return np.asarray(same[1])

    @property
    def matrix(self) -> Matrix:
        """J itself, (m*q, p)."""
        J = self.jacobian
        if not isinstance(J, LinearMap):
            return J
        assert J.matrix is not None, "J fits into memory, else it would be known by its products alone"
        return self._once("matrix", J.matrix)

    def _gram(self, roots: Blocks | None) -> Matrix:
        return gram_of(1.0, roots, self.jacobian)

    def _between(self, roots: Blocks | None) -> Matrix:
        """B'J J'B, (m*q, m*q)."""
        matrix = sandwiched(outer_of(self.jacobian, np.ones(self.jacobian.shape[1])), roots)
        matrix.flat[:: len(matrix) + 1] -= 1.0
        return matrix

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._found:
            self._found[name] = make()
        found: T = self._found[name]
        return found


def eigen(matrix: Matrix) -> tuple[Vector, Matrix]:
    """Eigenvalues, (n,), and vectors, (n, n), of a positive semidefinite matrix: V diag(values) V'."""
    values, V = linalg.eigh(matrix, driver="evd")
    return np.maximum(values, 0.0), V


@final
@dataclass(frozen=True, eq=False)
class Frozen:
    """A linearized network with some samples.

    Parameters
    ----------
    model : Linear
    base : Pass
        The network at its anchor.
    constant : bool
        Whether the second derivative of the loss is.
    """

    model: Linear
    base: Pass
    constant: bool
    _kept: dict[Span, Kept] = field(default_factory=dict, init=False, repr=False)
    _factors: list[Factors] = field(default_factory=list, init=False, repr=False)

    def at(self, w: Vector) -> LinearPass:
        """The linearized network at w, (p,)."""
        return self.model.moved(self.base, w)

    @property
    def whole(self) -> Kept:
        """All of J, in the form in which the systems of all rounds together take least time."""
        return self._one((0, self.base.n_parameters), self._jacobian)

    def block(self, place: slice) -> Kept:
        """Its columns for the parameters in `place`."""
        return self._one((place.start, place.stop), lambda: columns_of(self.factors, place, self.constant))

    @property
    def factors(self) -> Factors:
        """What J is made of; the outputs are those at the anchor."""
        if not self._factors:
            self._factors.append(self.base.factors())
        return self._factors[0]

    def _jacobian(self) -> Map:
        if not is_dense_cheaper(self.base, self.constant, self.model.lasts):
            return products_of(self.base)
        is_small = self.base.outputs.size * self.base.n_parameters <= SMALL
        return factored(self.base) if is_small else factored_by_products(self.base)

    def _one(self, span: Span, make: Callable[[], Map]) -> Kept:
        if span not in self._kept:
            self._kept[span] = Kept(make(), self.constant, self.model.lasts)
        return self._kept[span]
