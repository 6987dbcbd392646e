"""Losses l(y, f), convex in the output f, summed over samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Labels, Matrix


class Loss(Protocol):
    """A convex loss of m outputs in R^q, with the targets of these m samples inside."""

    @property
    def quadratic(self) -> bool:
        """Whether l is exactly 1/2||f - y||^2, so that surrogates have closed forms."""

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""

    def gradient(self, outputs: Matrix) -> Matrix:
        """Derivative of the sum by the outputs, (m, q)."""

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """B with B B' = second derivative of l by f, a block for each sample: (m, q, q)."""

    def repeated(self, n: int) -> Loss:
        """The loss of n*m outputs, n times those of the m samples one after the other."""


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

    @property
    def quadratic(self) -> bool:
        """It is the quadratic one."""
        return True

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        difference = (outputs - self.targets).reshape(-1)
        return 0.5 * float(np.dot(difference, difference))

    def gradient(self, outputs: Matrix) -> Matrix:
        """F - y, (m, q)."""
        return outputs - self.targets

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """The identity for each sample, (m, q, q)."""
        m, q = outputs.shape
        return np.broadcast_to(np.eye(q), (m, q, q))

    def repeated(self, n: int) -> Squared:
        """The same targets n times."""
        return Squared(np.tile(self.targets, (n, 1)))


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

    @property
    def quadratic(self) -> bool:
        """It is not the quadratic one."""
        return False

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, 1)."""
        f = outputs[:, 0]
        return float(np.sum(np.logaddexp(0.0, f) - self.labels * f))

    def gradient(self, outputs: Matrix) -> Matrix:
        """P(1) - y, (m, 1)."""
        return _probability_of_one(outputs) - self.labels[:, None]

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """sqrt(P(1 - P)) for each sample, (m, 1, 1)."""
        chance, rest = _probability_of_one(outputs), _probability_of_one(-outputs)
        return np.sqrt(chance * rest)[:, :, None]

    def repeated(self, n: int) -> Logistic:
        """The same labels n times."""
        return Logistic(np.tile(self.labels, n))


def _probability_of_one(outputs: Matrix) -> Matrix:
    return np.exp(-np.logaddexp(0.0, -outputs))


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

    @property
    def quadratic(self) -> bool:
        """It is not the quadratic one."""
        return False

    def value(self, outputs: Matrix) -> float:
        """Sum of the losses of the outputs, (m, q)."""
        chosen = outputs[np.arange(len(outputs)), self.labels]
        return float(np.sum(np.logaddexp.reduce(outputs, axis=1) - chosen))

    def gradient(self, outputs: Matrix) -> Matrix:
        """P - e_y, (m, q)."""
        gradient = _probabilities(outputs)
        gradient[np.arange(len(outputs)), self.labels] -= 1.0
        return gradient

    def curvature_root(self, outputs: Matrix) -> NDArray[np.float64]:
        """diag(sqrt P) - P sqrt(P)' for each sample, (m, q, q): its square is diag(P) - P P'."""
        chances = _probabilities(outputs)
        roots = np.sqrt(chances)
        diagonal = roots[:, :, None] * np.eye(outputs.shape[1])
        return np.asarray(diagonal - chances[:, :, None] * roots[:, None, :])

    def repeated(self, n: int) -> Softmax:
        """The same labels n times."""
        return Softmax(np.tile(self.labels, n))


def _probabilities(outputs: Matrix) -> Matrix:
    return np.asarray(np.exp(outputs - np.logaddexp.reduce(outputs, axis=1, keepdims=True)))


def cross_entropy(labels: Labels, n_outputs: int) -> Loss:
    """Logistic loss where there is one output, softmax where there are several."""
    return Logistic(labels) if n_outputs == 1 else Softmax(labels)
