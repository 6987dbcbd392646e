"""Losses l(y, f), convex in the output f, summed over samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Labels, Matrix, Vector

Rows: TypeAlias = Callable[[Matrix], Matrix]
"""Takes a row for each sample to another, (m, q)."""


class Loss(Protocol):
    """A convex loss of m outputs in R^q, with the targets of these m samples inside."""

    @property
    def quadratic(self) -> bool:
        """Whether l is exactly 1/2||f - y||^2, so that its curvature root is the identity."""

    @property
    def constant_curvature(self) -> bool:
        """Whether the second derivative is the same everywhere, so that surrogates have closed forms."""

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""

    def gradient(self, outputs: Matrix) -> Matrix:
        """Derivative of the sum by the outputs, (m, q)."""

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """B with B B' = second derivative of l by f, a block for each sample: (m, q, q).

        Where the gradient has a kink: a generalized second derivative (Clarke), of one of its sides.
        """

    def curvature(self, outputs: Matrix) -> Rows:
        """Products u -> B_m B_m' u_m for all m, (m, q), with the second derivative of `curvature_root`."""

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """The diagonals of these second derivatives, (m, q)."""

    def repeated(self, n: int) -> Loss:
        """The loss of n*m outputs, n times those of the m samples one after the other."""

    def taken(self, rows: NDArray[np.intp]) -> Loss:
        """The loss of the outputs of these samples alone, in this order."""


@final
@dataclass(frozen=True, eq=False)
class Squared:
    """l = 1/2 ||f - y||^2.

    Parameters
    ----------
    targets : Matrix
        y, (m, q).
    """

    targets: Matrix

    quadratic: ClassVar[bool] = True
    constant_curvature: ClassVar[bool] = True

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        difference = (outputs - self.targets).reshape(-1)
        return 0.5 * float(np.dot(difference, difference))

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""
        return np.asarray(0.5 * np.sum((outputs - self.targets) ** 2, axis=1))

    def gradient(self, outputs: Matrix) -> Matrix:
        """F - y, (m, q)."""
        return outputs - self.targets

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """The identity for each sample, (m, q, q)."""
        m, q = outputs.shape
        return np.broadcast_to(np.eye(q), (m, q, q))

    def curvature(self, outputs: Matrix) -> Rows:
        """The identity."""
        return lambda u: u

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """1."""
        return np.ones(outputs.shape)

    def repeated(self, n: int) -> Squared:
        """The same targets n times."""
        return Squared(np.tile(self.targets, (n, 1)))

    def taken(self, rows: NDArray[np.intp]) -> Squared:
        """The targets of these samples."""
        return Squared(self.targets[rows])


@final
@dataclass(frozen=True, eq=False)
class Logistic:
    """l = log(1 + exp(f)) - y f with one output and labels 0 and 1.

    Parameters
    ----------
    labels : Labels
        y, (m,), each 0 or 1.
    """

    labels: Labels
    _last: list[tuple[Matrix, Matrix]] = field(default_factory=list, init=False, repr=False)

    quadratic: ClassVar[bool] = False
    constant_curvature: ClassVar[bool] = False

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, 1)."""
        return float(self.each(outputs).sum())

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""
        f, e = outputs[:, 0], self._odds(outputs)[:, 0]
        return np.asarray(np.maximum(f, 0.0) + np.log1p(e) - self._targets * f)

    def gradient(self, outputs: Matrix) -> Matrix:
        """P(1) - y, (m, 1)."""
        likely = np.exp(np.minimum(outputs, 0.0))  # e or 1
        return np.asarray(likely / (1.0 + self._odds(outputs)) - self._targets[:, None])

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """sqrt(P(1 - P)) for each sample, (m, 1, 1)."""
        e = self._odds(outputs)
        return np.asarray(np.sqrt(e) / (1.0 + e))[:, :, None]

    def curvature(self, outputs: Matrix) -> Rows:
        """P(1 - P) u."""
        bend = self.curvature_diagonal(outputs)
        return lambda u: bend * u

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """P(1 - P)."""
        root = self.curvature_root(outputs)[:, :, 0]
        return np.asarray(root * root)

    @cached_property
    def _targets(self) -> Vector:
        return self.labels.astype(np.float64)

    def _odds(self, outputs: Matrix) -> Matrix:
        """Those of the less likely label, e = exp(-|f|); kept, as by `Softmax`. P is 1/(1 + e) or e/(1 + e)."""
        for last, e in self._last:
            if last is outputs:
                return e
        e = np.exp(-np.abs(outputs))
        self._last[:] = [(outputs, e)]
        return e

    def repeated(self, n: int) -> Logistic:
        """The same labels n times."""
        return Logistic(np.tile(self.labels, n))

    def taken(self, rows: NDArray[np.intp]) -> Logistic:
        """The labels of these samples."""
        return Logistic(self.labels[rows])


@final
@dataclass(frozen=True, eq=False)
class Softmax:
    """l = log(sum_k exp(f_k)) - f_y with one output for each class.

    Parameters
    ----------
    labels : Labels
        y, (m,), each in 0..q-1.
    """

    labels: Labels
    _codes: list[Matrix] = field(default_factory=list, init=False, repr=False)
    _last: list[tuple[Matrix, Vector, Matrix]] = field(default_factory=list, init=False, repr=False)

    quadratic: ClassVar[bool] = False
    constant_curvature: ClassVar[bool] = False

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        return float(self.each(outputs).sum())

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""
        chosen = outputs[np.arange(len(outputs)), self.labels]
        return np.asarray(self._normalized(outputs)[0] - chosen)

    def gradient(self, outputs: Matrix) -> Matrix:
        """P - e_y, (m, q)."""
        if not self._codes:
            self._codes.append((self.labels[:, None] == np.arange(outputs.shape[1])).astype(np.float64))
        return self._normalized(outputs)[1] - self._codes[0]

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """diag(sqrt P) - P sqrt(P)' for each sample, (m, q, q): its square is diag(P) - P P'."""
        chances = self._normalized(outputs)[1]
        roots = np.sqrt(chances)
        diagonal = roots[:, :, None] * np.eye(outputs.shape[1])
        return np.asarray(diagonal - chances[:, :, None] * roots[:, None, :])

    def curvature(self, outputs: Matrix) -> Rows:
        """P u - P (P'u)."""
        chances, ones = self._normalized(outputs)[1], np.ones((outputs.shape[1], 1))

        def bent(u: Matrix) -> Matrix:
            product = chances * u
            product -= chances * (product @ ones)
            return product

        return bent

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """P - P^2."""
        chances = self._normalized(outputs)[1]
        return chances - chances * chances

    def _normalized(self, outputs: Matrix) -> tuple[Vector, Matrix]:
        """log(sum_k exp(f_k)), (m,), and P, (m, q).

        The last ones are kept: value, gradient and curvature are mostly asked for at the same outputs.
        """
        for last, logs, chances in self._last:
            if last is outputs:
                return logs, chances
        logs, chances = _normalized(outputs)
        self._last[:] = [(outputs, logs, chances)]
        return logs, chances

    def repeated(self, n: int) -> Softmax:
        """The same labels n times."""
        return Softmax(np.tile(self.labels, n))

    def taken(self, rows: NDArray[np.intp]) -> Softmax:
        """The labels of these samples."""
        return Softmax(self.labels[rows])


def _normalized(outputs: Matrix) -> tuple[Vector, Matrix]:
    by_class = np.ascontiguousarray(outputs.T)  # with few classes and many samples ten times as fast as along rows
    highest = by_class.max(axis=0)
    by_class = np.exp(by_class - highest)
    total = by_class.sum(axis=0)
    return highest + np.log(total), np.ascontiguousarray((by_class / total).T)


def cross_entropy(labels: Labels, n_outputs: int) -> Loss:
    """Logistic loss where there is one output, softmax where there are several."""
    return Logistic(labels) if n_outputs == 1 else Softmax(labels)


@final
@dataclass(frozen=True, eq=False)
class Huber:
    """l = sum over the outputs of d^2/2 where |d| <= delta, delta (|d| - delta/2) beyond; d = f - y.

    Source: P. Huber, "Robust estimation of a location parameter", Ann. Math. Stat. 35 (1964). No
    sample pulls harder than delta.

    Parameters
    ----------
    targets : Matrix
        y, (m, q).
    delta : float
        > 0, in units of the targets.
    """

    targets: Matrix
    delta: float

    quadratic: ClassVar[bool] = False
    constant_curvature: ClassVar[bool] = False  # it jumps at |d| = delta

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        return float(np.sum(self.each(outputs)))

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""
        slope = self.gradient(outputs)
        return np.asarray(np.sum(slope * (outputs - self.targets - 0.5 * slope), axis=1))

    def gradient(self, outputs: Matrix) -> Matrix:
        """The difference d cut at +-delta, (m, q)."""
        return np.clip(outputs - self.targets, -self.delta, self.delta)

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """1 on the diagonal where |d| <= delta, all else 0, (m, q, q)."""
        return _diagonal(self._is_bent(outputs))

    def curvature(self, outputs: Matrix) -> Rows:
        """U where |d| <= delta, else 0."""
        bent = self._is_bent(outputs)
        return lambda u: np.asarray(bent * u)

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """1 where |d| <= delta, else 0."""
        return self._is_bent(outputs).astype(np.float64)

    def _is_bent(self, outputs: Matrix) -> NDArray[np.bool_]:
        return np.asarray(np.abs(outputs - self.targets) <= self.delta)

    def repeated(self, n: int) -> Huber:
        """The same targets n times."""
        return Huber(np.tile(self.targets, (n, 1)), self.delta)

    def taken(self, rows: NDArray[np.intp]) -> Huber:
        """The targets of these samples."""
        return Huber(self.targets[rows], self.delta)


@final
@dataclass(frozen=True, eq=False)
class SquaredHinge:
    """l = 1/2 sum over the outputs of max(0, 1 - s f)^2 with s = +-1, a margin of 1 for each output.

    Source: R.-E. Fan et al., "LIBLINEAR: a library for large linear classification", JMLR 9 (2008), as
    the L2-loss there, several classes one against the rest; the square makes it differentiable.

    Parameters
    ----------
    signs : Matrix
        s, (m, q), each -1 or 1.
    """

    signs: Matrix

    quadratic: ClassVar[bool] = False
    constant_curvature: ClassVar[bool] = False  # it jumps at s f = 1

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        return float(np.sum(self.each(outputs)))

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, (m,)."""
        return np.asarray(0.5 * np.sum(self._lacking(outputs) ** 2, axis=1))

    def gradient(self, outputs: Matrix) -> Matrix:
        """-s max(0, 1 - s f), (m, q)."""
        return -self.signs * self._lacking(outputs)

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """1 on the diagonal where s f <= 1, all else 0, (m, q, q)."""
        return _diagonal(self.signs * outputs <= 1.0)

    def curvature(self, outputs: Matrix) -> Rows:
        """U where s f <= 1, else 0."""
        bent = self.signs * outputs <= 1.0
        return lambda u: np.asarray(bent * u)

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """1 where s f <= 1, else 0."""
        return (self.signs * outputs <= 1.0).astype(np.float64)

    def _lacking(self, outputs: Matrix) -> Matrix:
        """By how much outputs fall short of the margin, (m, q)."""
        return np.maximum(0.0, 1.0 - self.signs * outputs)

    def repeated(self, n: int) -> SquaredHinge:
        """The same signs n times."""
        return SquaredHinge(np.tile(self.signs, (n, 1)))

    def taken(self, rows: NDArray[np.intp]) -> SquaredHinge:
        """The signs of these samples."""
        return SquaredHinge(self.signs[rows])


def _diagonal(entries: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(entries[:, :, None] * np.eye(entries.shape[1]))


def squared_hinge(labels: Labels, n_outputs: int) -> SquaredHinge:
    """With one output, labels 0 and 1 mean -1 and 1; with several, that of the label is to be 1, the others -1."""
    if n_outputs == 1:
        return SquaredHinge(np.where(labels[:, None] == 1, 1.0, -1.0))
    return SquaredHinge(np.where(labels[:, None] == np.arange(n_outputs), 1.0, -1.0))


@final
@dataclass(frozen=True, eq=False)
class Weighted:
    """weight_m l(y_m, f_m) for sample m.

    Parameters
    ----------
    loss : Loss
        l of the m samples.
    weights : Vector
        Finite, >= 0, (m,).
    """

    loss: Loss
    weights: Vector

    quadratic: ClassVar[bool] = False  # weights are in the curvature root, which is not the identity

    @property
    def constant_curvature(self) -> bool:
        """As without weights."""
        return self.loss.constant_curvature

    def value(self, outputs: Matrix) -> float:
        """Weighted sum of the losses of the outputs, (m, q)."""
        return float(np.dot(self.weights, self.loss.each(outputs)))

    def each(self, outputs: Matrix) -> Vector:
        """Losses of the samples one by one, each with its weight, (m,)."""
        return self.weights * self.loss.each(outputs)

    def gradient(self, outputs: Matrix) -> Matrix:
        """Derivative of the weighted sum by the outputs, (m, q)."""
        return self.weights[:, None] * self.loss.gradient(outputs)

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """B sqrt(weight), (m, q, q)."""
        return np.asarray(np.sqrt(self.weights)[:, None, None] * self.loss.curvature_root(outputs))

    def curvature(self, outputs: Matrix) -> Rows:
        """Weight times that of the loss."""
        product, weights = self.loss.curvature(outputs), self.weights[:, None]
        return lambda u: weights * product(u)

    def curvature_diagonal(self, outputs: Matrix) -> Matrix:
        """Weight times that of the loss."""
        return self.weights[:, None] * self.loss.curvature_diagonal(outputs)

    def repeated(self, n: int) -> Weighted:
        """The same samples n times, with the same weights."""
        return Weighted(self.loss.repeated(n), np.tile(self.weights, n))

    def taken(self, rows: NDArray[np.intp]) -> Weighted:
        """These samples with their weights."""
        return Weighted(self.loss.taken(rows), self.weights[rows])
