"""What rounds have in common in which a network stays linearized at one point: J, and what systems with it are made of.

A system of (5) is then (weight J'HJ + T) x = b with the same J in every round, and T = tau Id + r'' diagonal. Where H
is constant too it is factored once for each tau; with m q < p in m q unknowns, as in `peer.optim.solvers.Systems`. What
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
from peer.optim.inverses import Inverse, cholesky
from peer.optim.maps import (
    Blocks,
    Map,
    columns_of,
    factored,
    gram_of,
    is_dense_cheaper,
    is_dual,
    mixed_rows,
    products_of,
)
from peer.optim.models import Pass
from peer.optim.regimes import Linear, Tangent

T = TypeVar("T")

EIGEN_ROUNDS: Final = 25
"""From so many rounds on eigenvalues pay where tau changes in each."""

MAX_KINDS: Final = 3
"""Different entries of T for which Gram matrices are kept: there are two where biases are not regularized."""

Place: TypeAlias = tuple[int, int]
"""First parameter of a block, and the one behind its last."""


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """A J that stays, or some of its columns, and what was computed of it.

    Parameters
    ----------
    jacobian : Map
        J, (m*q, p).
    roots : Blocks or None
        B, (m, q, q), where the second derivative B B' of the loss is constant; None for the identity, and where it is
        not constant.
    lasts : int
        Rounds for which J stays, about.
    """

    jacobian: Map
    roots: Blocks | None
    lasts: int
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def inverse(self, weight: float, shift: Vector, adapts: bool) -> Inverse:
        """Of weight J'BB'J + T, (p, p), with the diagonal T, (p,); where BB' is constant, and J factored.

        Parameters
        ----------
        weight : float
        shift : Vector
            T, > 0.
        adapts : bool
            Whether T will be another one in the next round.

        Raises
        ------
        SolveError
            The matrix is not positive definite to rounding.
        """
        same = self._found.get("inverse")
        if same is None or same[0] != weight or not np.array_equal(same[1], shift):
            self._found["inverse"] = same = weight, shift.copy(), self._inverse(weight, shift, adapts)
        inverse: Inverse = same[2]
        return inverse

    def _inverse(self, weight: float, shift: Vector, adapts: bool) -> Inverse:
        t = float(shift[0]) if shift.size and (shift == shift[0]).all() else None
        by_eigenvalues = adapts and self.lasts >= EIGEN_ROUNDS
        if not is_dual(self.jacobian):
            if by_eigenvalues and t is not None:
                return self._diagonalized(self._gram, weight, t)
            matrix = weight * self._once("gram", self._gram)
            matrix.flat[:: len(matrix) + 1] += shift
            return cholesky(matrix)
        R = self._once("rows", self._rows)
        if t is not None:
            dual = t / weight
            solve = self._diagonalized(self._outer, 1.0, dual) if by_eigenvalues else self._shifted(dual)
            return lambda b: np.asarray((b - R.T @ solve(R @ b)) / t)
        matrix = self.outer(shift)
        matrix.flat[:: len(matrix) + 1] += 1.0 / weight
        solve = cholesky(matrix)

        def inverse(b: Vector) -> Vector:
            c = b / shift
            return np.asarray(c - (R.T @ solve(R @ c)) / shift)

        return inverse

    def outer(self, shift: Vector) -> Matrix:
        """B'J T^(-1) J'B, (m*q, m*q), of a wide J; each of the few different entries of T has a matrix that is kept."""
        kinds, kind = np.unique(shift, return_inverse=True)
        R = self._once("rows", self._rows)
        if len(kinds) == 1:
            return np.asarray(self._once("outer", self._outer) / kinds[0])
        if len(kinds) > MAX_KINDS:
            return np.asarray((R / shift) @ R.T)
        same = self._found.get("kinds")
        if same is None or not np.array_equal(same[0], kind):
            columns = (R[:, kind == k] for k in range(len(kinds)))
            self._found["kinds"] = same = kind, [some @ some.T for some in columns]
        return np.asarray(sum(gram / entry for gram, entry in zip(same[1], kinds, strict=True)))

    def root(self, weight: float, make: Callable[[Matrix], Matrix]) -> Matrix:
        """What `make` gives of weight J'BB'J, (p, p), where BB' is constant."""
        same = self._found.get("root")
        if same is None or same[0] != weight:
            self._found["root"] = same = weight, make(weight * self._once("gram", self._gram))
        return np.asarray(same[1])

    def _shifted(self, shift: float) -> Inverse:
        matrix = self._once("outer", self._outer).copy()
        matrix.flat[:: len(matrix) + 1] += shift
        return cholesky(matrix)

    def _diagonalized(self, matrix: Callable[[], Matrix], weight: float, shift: float) -> Inverse:
        """Of weight V diag(values) V' + shift Id."""

        def eigen() -> tuple[Vector, Matrix]:
            values, V = linalg.eigh(matrix(), driver="evd")
            return np.maximum(values, 0.0), V

        values, V = self._once("eigen", eigen)
        inverted = 1.0 / (weight * values + shift)
        return lambda b: np.asarray(V @ (inverted * (V.T @ b)))

    def _gram(self) -> Matrix:
        return gram_of(1.0, self.roots, self.jacobian)

    def _rows(self) -> Matrix:
        R = self.jacobian if self.roots is None else mixed_rows(1.0, self.roots, self.jacobian)
        assert isinstance(R, np.ndarray), "a wide J that is factored is a matrix"
        return R

    def _outer(self) -> Matrix:
        R = self._once("rows", self._rows)
        return np.asarray(R @ R.T)

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._found:
            self._found[name] = make()
        found: T = self._found[name]
        return found


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
    roots : Blocks or None
        Its roots then; None for the identity.
    """

    model: Linear
    base: Pass
    constant: bool
    roots: Blocks | None
    _kept: dict[Place, Kept] = field(default_factory=dict, init=False, repr=False)
    _factors: list[Factors] = field(default_factory=list, init=False, repr=False)

    def at(self, w: Vector) -> Tangent:
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
        cheaper = is_dense_cheaper(self.base, self.constant, self.model.lasts)
        return factored(self.base) if cheaper else products_of(self.base)

    def _one(self, place: Place, make: Callable[[], Map]) -> Kept:
        if place not in self._kept:
            self._kept[place] = Kept(make(), self.roots, self.model.lasts)
        return self._kept[place]
