"""Convex regularizers r(w) with their proximal maps.

Each is *partly smooth*: near a point w it is quadratic on a face, the set of coordinates that
are free to move, while the others are held at zero. Solvers work on that face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Vector


class Regularizer(Protocol):
    """A convex, separable penalty r on the flat parameter vector."""

    @property
    def smooth(self) -> bool:
        """Whether r has a gradient everywhere, so that its face is always everything."""

    @property
    def scale(self) -> float:
        """Largest weight of the penalty, for relative tolerances."""

    def value(self, w: Vector) -> float:
        """r(w)."""

    def prox(self, v: Vector, step: float) -> Vector:
        """Argmin over w of r(w) + ||w - v||^2 / (2 step), (p,)."""

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates in which r is smooth around w, (p,)."""

    def gradient(self, w: Vector) -> Vector:
        """Derivative of r by w on the face, 0 off it, (p,)."""

    def curvature(self, w: Vector) -> Vector:
        """Second derivative of r by w on the face, 0 off it, (p,)."""

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """Nearest point to w in the closed face of the point `of`, (p,)."""

    def restricted(self, place: slice) -> Regularizer:
        """The penalty on the parameters in `place` alone."""


@final
@dataclass(frozen=True)
class NoRegularizer:
    """r = 0."""

    @property
    def smooth(self) -> bool:
        """It is smooth."""
        return True

    @property
    def scale(self) -> float:
        """No weight."""
        return 0.0

    def value(self, w: Vector) -> float:
        """0."""
        return 0.0

    def prox(self, v: Vector, step: float) -> Vector:
        """The identity."""
        return v

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Everything."""
        return np.ones(w.shape, dtype=np.bool_)

    def gradient(self, w: Vector) -> Vector:
        """0."""
        return np.zeros_like(w)

    def curvature(self, w: Vector) -> Vector:
        """0."""
        return np.zeros_like(w)

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w itself."""
        return w

    def restricted(self, place: slice) -> NoRegularizer:
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

    @property
    def smooth(self) -> bool:
        """It is smooth."""
        return True

    @property
    def scale(self) -> float:
        """0: the penalty vanishes with w."""
        return 0.0

    def value(self, w: Vector) -> float:
        """r(w)."""
        return 0.5 * float(np.dot(self.strength * w, w))

    def prox(self, v: Vector, step: float) -> Vector:
        """V / (1 + step * strength)."""
        return v / (1.0 + step * self.strength)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Everything."""
        return np.ones(w.shape, dtype=np.bool_)

    def gradient(self, w: Vector) -> Vector:
        """Strength * w."""
        return self.strength * w

    def curvature(self, w: Vector) -> Vector:
        """The strength."""
        return self.strength

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w itself."""
        return w

    def restricted(self, place: slice) -> L2:
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

    @property
    def smooth(self) -> bool:
        """It has kinks."""
        return False

    @property
    def scale(self) -> float:
        """Largest lambda."""
        return float(np.max(self.strength, initial=0.0))

    def value(self, w: Vector) -> float:
        """r(w)."""
        return float(np.dot(self.strength, np.abs(w)))

    def prox(self, v: Vector, step: float) -> Vector:
        """Soft threshold: v shrunk towards 0 by step * strength."""
        return np.sign(v) * np.maximum(np.abs(v) - step * self.strength, 0.0)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates that are not 0, or not regularized."""
        return np.asarray((w != 0.0) | (self.strength == 0.0))

    def gradient(self, w: Vector) -> Vector:
        """Strength * sign(w)."""
        return self.strength * np.sign(w)

    def curvature(self, w: Vector) -> Vector:
        """0."""
        return np.zeros_like(w)

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w with the coordinates set to 0 that have not the sign of `of`."""
        return np.where((w * of > 0.0) | (self.strength == 0.0), w, 0.0)

    def restricted(self, place: slice) -> L1:
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

    @property
    def smooth(self) -> bool:
        """It has kinks, unless there is nothing of the first term."""
        return not self.absolute.any()

    @property
    def scale(self) -> float:
        """Largest weight of the first term; the second one vanishes with w."""
        return float(np.max(self.absolute, initial=0.0))

    def value(self, w: Vector) -> float:
        """r(w)."""
        return float(np.dot(self.absolute, np.abs(w)) + 0.5 * np.dot(self.square * w, w))

    def prox(self, v: Vector, step: float) -> Vector:
        """Soft threshold by step * absolute, divided by 1 + step * square."""
        return np.sign(v) * np.maximum(np.abs(v) - step * self.absolute, 0.0) / (1.0 + step * self.square)

    def face(self, w: Vector) -> NDArray[np.bool_]:
        """Coordinates that are not 0, or have no kink there."""
        return np.asarray((w != 0.0) | (self.absolute == 0.0))

    def gradient(self, w: Vector) -> Vector:
        """Absolute * sign(w) + square * w."""
        return self.absolute * np.sign(w) + self.square * w

    def curvature(self, w: Vector) -> Vector:
        """The second weights, on the face."""
        return np.where(self.face(w), self.square, 0.0)

    def onto_face(self, w: Vector, of: Vector) -> Vector:
        """The point w with the coordinates set to 0 that have not the sign of `of`."""
        return np.where((w * of > 0.0) | (self.absolute == 0.0), w, 0.0)

    def restricted(self, place: slice) -> ElasticNet:
        """Its weights there."""
        return ElasticNet(self.absolute[place], self.square[place])
