"""Convex regularizers r(w) with their proximal maps.

Each is *partly smooth*: near a point w it is smooth on a face, the set of coordinates that are
free to move, while the others are held where a kink or a bound is. Solvers work on that face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Vector

Place: TypeAlias = slice | NDArray[np.intp]
"""Some of the parameters, by their numbers."""


@final
@dataclass(frozen=True, eq=False)
class Whitening:
    """T^(-1/2) for T = tau Id + r'', on the n coordinates of a face.

    There r'' is diag(d) - sum_g c_g u_g u_g' with unit vectors u_g on disjoint groups of coordinates,
    in which d is c_g: nothing is curved along u_g, and everything across it by c_g. So T^(-1/2) is
    1/sqrt(tau) along u_g, and 1/sqrt(tau + d) elsewhere.

    Parameters
    ----------
    scale : Vector
        1/sqrt(tau + d), (n,).
    grouped : array of int
        Coordinates of all groups, one group after the other.
    starts : array of int
        Where in `grouped` each group begins.
    unit : Vector
        All u_g, in the order of `grouped`.
    boost : Vector
        1/sqrt(tau) - 1/sqrt(tau + c_g) of each group.
    """

    scale: Vector
    grouped: NDArray[np.intp]
    starts: NDArray[np.intp]
    unit: Vector
    boost: Vector

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """T^(-1/2) x along the last axis, (..., n)."""
        result = np.asarray(x * self.scale)
        if self.starts.size:
            along = np.add.reduceat(x[..., self.grouped] * self.unit, self.starts, axis=-1) * self.boost
            sizes = np.diff(self.starts, append=self.grouped.size)
            result[..., self.grouped] += np.repeat(along, sizes, axis=-1) * self.unit
        return result


def _diagonal(scale: Vector) -> Whitening:
    """Whitening where r is separable."""
    nowhere, nothing = np.zeros(0, dtype=np.intp), np.zeros(0)
    return Whitening(scale, nowhere, nowhere, nothing, nothing)


class Regularizer(Protocol):
    """A convex penalty r on the flat parameter vector."""

    @property
    def smooth(self) -> bool:
        """Whether r has a gradient everywhere, so that its face is always everything."""

    @property
    def flat(self) -> bool:
        """Whether r is quadratic on each of its faces, so that a Newton step from one of its points is exact."""

    @property
    def separable(self) -> bool:
        """Whether r is a sum over the parameters, so that each has a proximal map, and a step, of its own."""

    @property
    def scale(self) -> float:
        """Largest weight of the penalty, for relative tolerances."""

    def kinks(self, w: Vector) -> Vector:
        """Weight of the kink at each parameter, (p,), the largest of which is `scale`; wherever w is."""

    def value(self, w: Vector) -> float:
        """r(w)."""

    def terms(self, w: Vector) -> Vector:
        """The part of each parameter in r(w), (p,); they add up to it."""

    def nearest(self, w: Vector) -> Vector:
        """Nearest point to w where r is finite, (p,)."""

    def prox(self, v: Vector, step: float) -> Vector:
        """Argmin over w of r(w) + ||w - v||^2 / (2 step), (p,)."""

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates in which r is smooth around w, (p,)."""

    def gradient(self, w: Vector) -> Vector:
        """Derivative of r by w, 0 in coordinates that are at a kink, (p,)."""

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """(tau Id + r'')^(-1/2) at w on the n coordinates of its face."""

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """Nearest point to w in the closed face of the point `of`, (p,)."""

    def restricted(self, place: Place) -> Regularizer:
        """The penalty on the parameters in `place` alone, in its order; nothing of it may depend on others, too."""


@final
@dataclass(frozen=True)
class NoRegularizer:
    """r = 0."""

    separable: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        """It is smooth."""
        return True

    @property
    def flat(self) -> bool:
        """It is quadratic."""
        return True

    @property
    def scale(self) -> float:
        """No weight."""
        return 0.0

    def kinks(self, w: Vector) -> Vector:
        """None."""
        return np.zeros_like(w)

    def value(self, w: Vector) -> float:
        """0."""
        return 0.0

    def terms(self, w: Vector) -> Vector:
        """0 for each."""
        return np.zeros_like(w)

    def nearest(self, w: Vector) -> Vector:
        """The point itself."""
        return w

    def prox(self, v: Vector, step: float) -> Vector:
        """The identity."""
        return v

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Everything."""
        return np.ones(w.shape, dtype=np.bool_)

    def gradient(self, w: Vector) -> Vector:
        """0."""
        return np.zeros_like(w)

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """1/sqrt(tau) everywhere."""
        return _diagonal(np.full(w.shape, 1.0 / math.sqrt(tau)))

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w itself."""
        return w

    def restricted(self, place: Place) -> NoRegularizer:
        """Nothing, again."""
        return self


@final
@dataclass(frozen=True, eq=False)
class L2:
    """r = 1/2 sum_k strength_k w_k^2.

    Parameters
    ----------
    strength : Vector
        lambda for each parameter, (p,); 0 where a parameter is not regularized.
    """

    strength: Vector

    separable: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        """It is smooth."""
        return True

    @property
    def flat(self) -> bool:
        """It is quadratic."""
        return True

    @property
    def scale(self) -> float:
        """0: the penalty vanishes with w."""
        return 0.0

    def kinks(self, w: Vector) -> Vector:
        """None."""
        return np.zeros_like(w)

    def value(self, w: Vector) -> float:
        """r(w)."""
        return 0.5 * float(np.dot(self.strength * w, w))

    def terms(self, w: Vector) -> Vector:
        """Strength/2 w^2."""
        return 0.5 * self.strength * w * w

    def nearest(self, w: Vector) -> Vector:
        """The point itself."""
        return w

    def prox(self, v: Vector, step: float) -> Vector:
        """V / (1 + step * strength)."""
        return v / (1.0 + step * self.strength)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Everything."""
        return np.ones(w.shape, dtype=np.bool_)

    def gradient(self, w: Vector) -> Vector:
        """Strength * w."""
        return self.strength * w

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """1/sqrt(tau + strength)."""
        return _diagonal(1.0 / np.sqrt(tau + self.strength))

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w itself."""
        return w

    def restricted(self, place: Place) -> L2:
        """Its strengths there."""
        return L2(self.strength[place])


@final
@dataclass(frozen=True, eq=False)
class L1:
    """r = sum_k strength_k |w_k|.

    Parameters
    ----------
    strength : Vector
        lambda for each parameter, (p,); 0 where a parameter is not regularized.
    """

    strength: Vector

    separable: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        """It has kinks."""
        return False

    @property
    def flat(self) -> bool:
        """It is linear on a face."""
        return True

    @property
    def scale(self) -> float:
        """Largest lambda."""
        return float(np.max(self.strength, initial=0.0))

    def kinks(self, w: Vector) -> Vector:
        """Strength."""
        return self.strength

    def value(self, w: Vector) -> float:
        """r(w)."""
        return float(np.dot(self.strength, np.abs(w)))

    def terms(self, w: Vector) -> Vector:
        """Strength |w|."""
        return self.strength * np.abs(w)

    def nearest(self, w: Vector) -> Vector:
        """The point itself."""
        return w

    def prox(self, v: Vector, step: float) -> Vector:
        """Soft threshold: v shrunk towards 0 by step * strength."""
        return np.sign(v) * np.maximum(np.abs(v) - step * self.strength, 0.0)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates that are not 0, or not regularized."""
        return np.asarray((w != 0.0) | (self.strength == 0.0))

    def gradient(self, w: Vector) -> Vector:
        """Strength * sign(w)."""
        return self.strength * np.sign(w)

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """1/sqrt(tau) on the face."""
        return _diagonal(np.full(np.count_nonzero(self.face(w)), 1.0 / math.sqrt(tau)))

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w with the coordinates set to 0 that have not the sign of `of`."""
        return np.where((w * of > 0.0) | (self.strength == 0.0), w, 0.0)

    def restricted(self, place: Place) -> L1:
        """Its strengths there."""
        return L1(self.strength[place])


@final
@dataclass(frozen=True, eq=False)
class ElasticNet:
    """r = sum_k absolute_k |w_k| + 1/2 square_k w_k^2.

    Parameters
    ----------
    absolute, square : Vector
        Weights of both terms for each parameter, (p,); 0 where a parameter is not regularized.
    """

    absolute: Vector
    square: Vector

    separable: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        """It has kinks, unless there is nothing of the first term."""
        return not self.absolute.any()

    @property
    def flat(self) -> bool:
        """It is quadratic on a face."""
        return True

    @property
    def scale(self) -> float:
        """Largest weight of the first term; the second one vanishes with w."""
        return float(np.max(self.absolute, initial=0.0))

    def kinks(self, w: Vector) -> Vector:
        """Absolute."""
        return self.absolute

    def value(self, w: Vector) -> float:
        """r(w)."""
        return float(np.dot(self.absolute, np.abs(w)) + 0.5 * np.dot(self.square * w, w))

    def terms(self, w: Vector) -> Vector:
        """Absolute |w| + square/2 w^2."""
        return self.absolute * np.abs(w) + 0.5 * self.square * w * w

    def nearest(self, w: Vector) -> Vector:
        """The point itself."""
        return w

    def prox(self, v: Vector, step: float) -> Vector:
        """Soft threshold by step * absolute, divided by 1 + step * square."""
        return np.sign(v) * np.maximum(np.abs(v) - step * self.absolute, 0.0) / (1.0 + step * self.square)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates that are not 0, or have no kink there."""
        return np.asarray((w != 0.0) | (self.absolute == 0.0))

    def gradient(self, w: Vector) -> Vector:
        """Absolute * sign(w) + square * w."""
        return self.absolute * np.sign(w) + self.square * w

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """1/sqrt(tau + square) on the face."""
        return _diagonal(1.0 / np.sqrt(tau + self.square[self.face(w)]))

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w with the coordinates set to 0 that have not the sign of `of`."""
        return np.where((w * of > 0.0) | (self.absolute == 0.0), w, 0.0)

    def restricted(self, place: Place) -> ElasticNet:
        """Its weights there."""
        return ElasticNet(self.absolute[place], self.square[place])


@final
@dataclass(frozen=True, eq=False)
class GroupL2:
    """r = sum_g strength_g ||w_g|| over disjoint groups g of parameters: a whole group switches off.

    Source: M. Yuan, Y. Lin, "Model selection and estimation in regression with grouped variables" (2006).

    Parameters
    ----------
    member : array of int
        Group of each parameter, (p,); -1 where a parameter is in none, and not regularized.
    strength : Vector
        Weight of each group, (n_groups,), > 0: lambda sqrt(|g|), as `group_l2` has it.
    """

    member: NDArray[np.intp]
    strength: Vector

    separable: ClassVar[bool] = False

    @property
    def smooth(self) -> bool:
        """It has kinks, unless there are no groups."""
        return self.strength.size == 0

    @property
    def flat(self) -> bool:
        """It is curved on its faces, across the direction of a group, unless there are no groups."""
        return self.smooth

    @property
    def scale(self) -> float:
        """Largest weight."""
        return float(np.max(self.strength, initial=0.0))

    def norms(self, w: Vector) -> Vector:
        """||w_g|| of each group, (n_groups,)."""
        return np.sqrt(np.bincount(self.member + 1, w * w, minlength=self.strength.size + 1)[1:])

    def _each(self, of_groups: Vector, elsewhere: float) -> Vector:
        """A number of each parameter: that of its group, or another one where there is none, (p,)."""
        return np.append(of_groups, elsewhere)[self.member]

    def kinks(self, w: Vector) -> Vector:
        """Strength of its group."""
        return self._each(self.strength, 0.0)

    def value(self, w: Vector) -> float:
        """r(w)."""
        return float(np.dot(self.strength, self.norms(w)))

    def terms(self, w: Vector) -> Vector:
        """Strength ||w_g||, of which a parameter has the part that its square has in that of the group."""
        return self.gradient(w) * w

    def nearest(self, w: Vector) -> Vector:
        """The point itself."""
        return w

    def prox(self, v: Vector, step: float) -> Vector:
        """Each group shrunk towards 0 by step * strength, as a whole."""
        norms = self.norms(v)
        left = np.maximum(norms - step * self.strength, 0.0) / np.where(norms > 0.0, norms, 1.0)
        return v * self._each(left, 1.0)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Groups that are not 0, with all their coordinates; and what is in none."""
        return np.asarray(self._each(self.norms(w), 1.0) > 0.0)

    def gradient(self, w: Vector) -> Vector:
        """Strength * w_g/||w_g||, 0 where w_g is 0."""
        return self._unit(w) * self._each(self.strength, 0.0)

    def _unit(self, w: Vector) -> Vector:
        norms = self.norms(w)
        return w / self._each(np.where(norms > 0.0, norms, 1.0), 1.0)

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """With c_g = strength_g/||w_g|| across w_g, and nothing along it."""
        norms, free = self.norms(w), self.face(w)
        curvature = self.strength / np.where(norms > 0.0, norms, np.inf)
        member = self.member[free]
        order = np.argsort(member, kind="stable")
        grouped = order[np.count_nonzero(member < 0) :]
        groups, starts = np.unique(member[grouped], return_index=True)
        boost = 1.0 / math.sqrt(tau) - 1.0 / np.sqrt(tau + curvature[groups])
        scale = 1.0 / np.sqrt(tau + self._each(curvature, 0.0)[free])
        return Whitening(scale, grouped, starts, self._unit(w)[free][grouped], boost)

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w with the groups set to 0 that are 0 in `of`."""
        return np.where(self.face(of), w, 0.0)

    def restricted(self, place: Place) -> GroupL2:
        """The groups there, none of which may be cut."""
        member = self.member[place]
        groups = np.unique(member[member >= 0])
        return GroupL2(np.where(member < 0, -1, np.searchsorted(groups, member)), self.strength[groups])


def group_l2(member: NDArray[np.intp], strength: float) -> GroupL2:
    """With strength sqrt(|g|) for a group of |g| parameters, so that groups of all sizes are as easily switched off."""
    return GroupL2(member, strength * np.sqrt(np.bincount(member + 1)[1:]))


@final
@dataclass(frozen=True, eq=False)
class Boxed:
    """Separable r with lower <= w <= upper.

    `value` is that of r, also outside: parameters that are means of some within the box are within
    it but for rounding, and an infinite penalty would tell nothing.

    Parameters
    ----------
    inner : Regularizer
        r, a sum over the parameters: then the proximal map of both is that of r, cut to the box.
    lower, upper : Vector
        Bounds of each parameter, (p,), lower < upper; infinite where there is none.
    """

    inner: Regularizer
    lower: Vector
    upper: Vector

    separable: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        """It has a wall, unless all bounds are infinite."""
        return self.inner.smooth and not (np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @property
    def flat(self) -> bool:
        """Where r is."""
        return self.inner.flat

    @property
    def scale(self) -> float:
        """That of r."""
        return self.inner.scale

    def kinks(self, w: Vector) -> Vector:
        """Those of r; walls have none."""
        return self.inner.kinks(w)

    def value(self, w: Vector) -> float:
        """r(w)."""
        return self.inner.value(w)

    def terms(self, w: Vector) -> Vector:
        """Those of r."""
        return self.inner.terms(w)

    def nearest(self, w: Vector) -> Vector:
        """The point cut to the box."""
        return np.clip(w, self.lower, self.upper)

    def prox(self, v: Vector, step: float) -> Vector:
        """That of r, cut to the box: r is convex in each parameter alone."""
        return self.nearest(self.inner.prox(v, step))

    def _inside(self, w: Vector) -> NDArray[np.bool_]:
        return np.asarray((w > self.lower) & (w < self.upper))

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates within the box that r lets move."""
        return np.asarray(self.inner.face(w) & self._inside(w))

    def gradient(self, w: Vector) -> Vector:
        """That of r."""
        return self.inner.gradient(w)

    def whitening(self, w: Vector, tau: float) -> Whitening:
        """That of r, without what is at a bound."""
        return _diagonal(self.inner.whitening(w, tau).scale[self._inside(w)[self.inner.face(w)]])

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w cut to the box, with what is held in `of` held there."""
        return np.where(self.face(of), self.nearest(self.inner.onto_face(w, of)), of)

    def restricted(self, place: Place) -> Boxed:
        """The penalty and the bounds there."""
        return Boxed(self.inner.restricted(place), self.lower[place], self.upper[place])
