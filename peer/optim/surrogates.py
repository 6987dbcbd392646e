"""Strongly convex stand-ins for the training problem around the current point: (5), (11), (12).

A surrogate makes a `Subproblem`, the smooth part h of what (5) minimizes,

    h(w) = g~_i(w; w_i) + pi_i'(w - w_i),

and `peer.optim.solvers` minimizes h + r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector
from peer.optim.frozen import Frozen, Kept
from peer.optim.losses import Loss
from peer.optim.maps import Blocks, Map, jacobian_of
from peer.optim.models import Model, Pass
from peer.optim.regimes import Linear
from peer.optim.tangents import Tangents
from peer.optim.vectors import largest


@final
@dataclass(frozen=True, eq=False)
class FirstOrder:
    """h(w) = slope'(w - center) + tau/2 ||w - center||^2.

    Parameters
    ----------
    center : Vector
        w_i, (p,).
    slope : Vector
        Gradient of h at the center, grad g_i(w_i) + pi_i = I y_i, (p,).
    tau : float
        Strong convexity, > 0.
    scale : float
        Largest entry of the vectors that cancel at a solution, for relative residuals.
    """

    center: Vector
    slope: Vector
    tau: float
    scale: float

    def gradient(self, w: Vector) -> Vector:
        """Derivative of h, (p,)."""
        return self.slope + self.tau * (w - self.center)


@final
@dataclass(frozen=True, eq=False)
class Linearized:
    """h(w) = weight sum_m l(y_m, f_m + J_m (w - center)) + pi'(w - center) + tau/2 ||w - center||^2.

    Parameters
    ----------
    center : Vector
        w_i, (p,).
    outputs : Matrix
        f_m at the center, (m, q).
    jacobian : Map
        J at the center, (m*q, p).
    loss : Loss
        l with the targets of the m samples.
    weight : float
        kappa * s.
    pi : Vector
        What the others want, (4), (p,).
    tau : float
        Strong convexity, > 0.
    scale : float
        Largest entry of the vectors that cancel at a solution, for relative residuals.
    kept : Kept or None
        What rounds have in common, where J stays the same.
    adapts : bool
        Whether tau will be another one in the next round.
    slope : Vector or None
        Derivative of h at the center, (p,), where it is known: kappa grad g_i(w_i) + pi_i.
    """

    center: Vector
    outputs: Matrix
    jacobian: Map
    loss: Loss
    weight: float
    pi: Vector
    tau: float
    scale: float
    kept: Kept | None = None
    adapts: bool = False
    slope: Vector | None = None

    def value(self, w: Vector) -> float:
        """h(w)."""
        d = w - self.center
        loss = self.weight * self.loss.value(self.outputs_at(w))
        return loss + float(np.dot(self.pi, d)) + 0.5 * self.tau * float(np.dot(d, d))

    def gradient(self, w: Vector) -> Vector:
        """Derivative of h, (p,)."""
        return self.gradient_of(w, self.outputs_at(w))

    def gradient_of(self, w: Vector, outputs: Matrix) -> Vector:
        """Derivative of h at w, where the linearized outputs are known, (p,)."""
        if w is self.center and self.slope is not None:
            return self.slope
        slope = self.loss.gradient(outputs).reshape(-1)
        return np.asarray(self.weight * (self.jacobian.T @ slope) + self.pi + self.tau * (w - self.center))

    def outputs_at(self, w: Vector) -> Matrix:
        """Linearized outputs f + J (w - center), (m, q)."""
        if w is self.center:  # where every solver begins
            return self.outputs
        return np.asarray(self.outputs + (self.jacobian @ (w - self.center)).reshape(self.outputs.shape))

    def slope_along(self, w: Vector, direction: Vector) -> Callable[[float], float]:
        """Derivative by t of h(w + t direction), where one t costs no product with J."""
        outputs = self.outputs_at(w)
        tangent = (self.jacobian @ direction).reshape(outputs.shape)
        linear = float(np.dot(self.pi + self.tau * (w - self.center), direction))
        square = self.tau * float(np.dot(direction, direction))

        def slope(t: float) -> float:
            loss = float(np.vdot(self.loss.gradient(outputs + t * tangent), tangent))
            return self.weight * loss + linear + t * square

        return slope

    def roots(self, outputs: Matrix) -> Blocks | None:
        """The loss's blocks B, (m, q, q); None for the identity."""
        return None if self.loss.quadratic else self.loss.curvature_root(outputs)


Subproblem: TypeAlias = FirstOrder | Linearized


class Surrogate(Protocol):
    """Makes the subproblem of (5) around a point."""

    @property
    def kappa(self) -> float:
        """Multiple of the agent's own curvature that is used; (4) is pi = I y - kappa grad g."""

    @property
    def tau(self) -> float:
        """Strong convexity, > 0."""

    def with_tau(self, tau: float) -> Surrogate:
        """The same with another tau."""

    def around(self, w: Vector, gradient: Vector, pi: Vector, data: Data) -> Subproblem:
        """The subproblem at w, (p,), with grad g_i(w), (p,), and pi_i, (p,)."""


@final
@dataclass(frozen=True, eq=False)
class Data:
    """What g_i is made of: s * sum of l(y_m, f(w; x_m)).

    Parameters
    ----------
    model : Model
        f.
    inputs : Matrix
        x, (m, d).
    loss : Loss
        l with the targets y inside.
    weight : float
        s of (2).
    tangents : Tangents or None
        A loss of derivatives, which is added to the sum; of chains.
    base : Pass or None
        The network at the anchor, where the model is a linearized one and this is known.
    """

    model: Model
    inputs: Matrix
    loss: Loss
    weight: float
    tangents: Tangents | None = None
    base: Pass | None = None
    _last: list[Pass] = field(default_factory=list, init=False, repr=False)
    _tangent: list[tuple[Vector, Data]] = field(default_factory=list, init=False, repr=False)
    _last_drawn: list[tuple[NDArray[np.intp], Data]] = field(default_factory=list, init=False, repr=False)

    def at(self, w: Vector) -> Pass:
        """The network at w. The last one is kept: value, gradient and surrogate of a round are at the same point."""
        if not (self._last and (self._last[0].w == w).all()):
            frozen, w = self.frozen, w.copy()
            self._last[:] = [self.model.at(w, self.inputs) if frozen is None else frozen.at(w)]
        return self._last[0]

    @cached_property
    def frozen(self) -> Frozen | None:
        """What all points have in common where the model is a linearized network; else None."""
        if not isinstance(self.model, Linear):
            return None
        base = self.model.network.at(self.model.anchor, self.inputs) if self.base is None else self.base
        return Frozen(self.model, base, self.loss.constant_curvature)

    def linearized(self, anchor: Vector, lasts: int) -> Data:
        """The same samples seen through the network linearized at an anchor, (p,). The last one is kept."""
        if not (self._tangent and np.array_equal(self._tangent[0][0], anchor)):
            linear = Linear(self.model, anchor, lasts)
            self._tangent[:] = [(anchor, Data(linear, self.inputs, self.loss, self.weight, base=self.at(anchor)))]
        return self._tangent[0][1]

    def value(self, w: Vector) -> float:
        """g_i(w)."""
        return self._value(self.at(w))

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,)."""
        return self._gradient(self.at(w))

    def measured(self, w: Vector) -> tuple[Vector, float]:
        """Grad g_i(w), (p,), and g_i(w)."""
        here = self.at(w)
        return self._gradient(here), self._value(here)

    def loss_gradient(self, w: Vector) -> Vector:
        """The gradient without what the tangents add: that of the part which (11) keeps a model of, (p,)."""
        return self._loss_gradient(self.at(w))

    def _value(self, here: Pass) -> float:
        value = self.loss.value(here.outputs)
        if self.tangents is not None:
            value += self.tangents.value(here)
        return self.weight * value

    def _gradient(self, here: Pass) -> Vector:
        gradient = self._loss_gradient(here)
        if self.tangents is not None:
            gradient += self.weight * self.tangents.gradient(here)
        return gradient

    def _loss_gradient(self, here: Pass) -> Vector:
        return self.weight * here.vjp(self.loss.gradient(here.outputs))

    def drawn(self, rows: NDArray[np.intp]) -> Data:
        """The b samples of these rows in the place of all m, and m/b as much of each: g_i, if all were alike.

        The last ones are kept: estimate, surrogate and curvature of a round are of the same batch.
        """
        if not (self._last_drawn and np.array_equal(self._last_drawn[0][0], rows)):
            weight = self.weight * (len(self.inputs) / len(rows))
            tangents = None if self.tangents is None else self.tangents.taken(rows)
            drawn = Data(self.model, self.inputs[rows], self.loss.taken(rows), weight, tangents)
            self._last_drawn[:] = [(rows.copy(), drawn)]
        return self._last_drawn[0][1]


@final
@dataclass(frozen=True)
class Full:
    """(12): g_i by its gradient alone. The curvature cancels, so that kappa does not matter here."""

    tau: float

    @property
    def kappa(self) -> float:
        """1, as in the paper."""
        return 1.0

    def with_tau(self, tau: float) -> Full:
        """The same with another tau."""
        return Full(tau)

    def around(self, w: Vector, gradient: Vector, pi: Vector, data: Data) -> FirstOrder:
        """The subproblem at w."""
        return FirstOrder(w, gradient + pi, self.tau, scale=max(largest(gradient), largest(pi)))


@final
@dataclass(frozen=True)
class Partial:
    """(11): the network is linearized, the loss is kept; `kappa` = I for curvature "network"."""

    tau: float
    kappa: float = 1.0
    adapts: bool = field(default=False, compare=False, repr=False)

    def with_tau(self, tau: float) -> Partial:
        """The same with another tau, which will not be the last one."""
        return Partial(tau, self.kappa, adapts=True)

    def around(self, w: Vector, gradient: Vector, pi: Vector, data: Data) -> Linearized:
        """The subproblem at w."""
        here, frozen, gradient = data.at(w), data.frozen, self.kappa * gradient
        kept = None if frozen is None else frozen.whole
        return Linearized(
            center=w,
            outputs=here.outputs,
            jacobian=jacobian_of(here, data.loss.constant_curvature) if kept is None else kept.jacobian,
            loss=data.loss,
            weight=self.kappa * data.weight,
            pi=pi,
            tau=self.tau,
            scale=max(largest(gradient), largest(pi)),
            kept=kept,
            adapts=self.adapts,
            slope=gradient + pi,
        )
