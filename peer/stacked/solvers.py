"""Minimizers of the agents' subproblems, many at a time: `peer.optim.solvers` for regularizers that are smooth.

Each agent takes the steps that its own solver would take: the same systems, whole or shortened by the same rule, and
ends by the same rule. Agents that are done are left alone while others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.inverses import INDEFINITE
from peer.optim.losses import Loss
from peer.optim.maps import MAX_PRODUCTS
from peer.optim.regularizers import Regularizer
from peer.optim.second_order import HALVINGS, PRECISION
from peer.optim.solvers import MAX_ITERATIONS
from peer.optim.systems import EPS
from peer.stacked.chains import Stack, StackedPass

FACTORED_BYTES: Final = 1 << 28
"""Of one agent's Jacobian and system, which are formed up to this size; larger ones are solved by products."""

SMALL: Final = 24
"""Unknowns of systems that are solved all at once; with more, one by one, by Cholesky, which takes half the work."""

Inverse: TypeAlias = Callable[[Matrix], Matrix]
"""Of a matrix for each agent: b -> x, (k, p)."""


class Responses(NamedTuple):
    """What came of (5).

    Parameters
    ----------
    w : Matrix
        w~_i, (k, p).
    residual : Vector
        As in `peer.optim.solvers.Solution`, (k,).
    """

    w: Matrix
    residual: Vector


@final
@dataclass(frozen=True, eq=False)
class StackedLinearized:
    """`peer.optim.surrogates.Linearized` of k agents.

    Parameters
    ----------
    center : Matrix
        w_i, (k, p).
    outputs : Stack
        At the center, (k, m, q).
    jacobian : Stack or StackedPass
        J_i, (k, m q, p), or by its products.
    loss : Loss
        Of the k m samples.
    weight : float
        kappa s.
    pi : Matrix
        (4), (k, p).
    tau, scale : Vector
        Of each agent, (k,).
    """

    center: Matrix
    outputs: Stack
    jacobian: Stack | StackedPass
    loss: Loss
    weight: float
    pi: Matrix
    tau: Vector
    scale: Vector

    def taken(self, rows: NDArray[np.intp]) -> StackedLinearized:
        """Some of the agents."""
        if len(rows) == len(self.center):
            return self
        m, J = self.outputs.shape[1], self.jacobian
        if isinstance(J, StackedPass):
            some: Stack | StackedPass = StackedPass(J.chain, J.w[rows], tuple(state[rows] for state in J.states))
        else:
            some = J[rows]
        return StackedLinearized(
            self.center[rows],
            self.outputs[rows],
            some,
            self.loss.taken((rows[:, None] * m + np.arange(m)).reshape(-1)),
            self.weight,
            self.pi[rows],
            self.tau[rows],
            self.scale[rows],
        )

    def ahead(self, v: Matrix) -> Stack:
        """J_i v_i, (k, m, q)."""
        if isinstance(self.jacobian, StackedPass):
            return self.jacobian.jvp(v)
        return np.asarray((self.jacobian @ v[:, :, None]).reshape(self.outputs.shape))

    def back(self, u: Stack) -> Matrix:
        """J_i'u_i, (k, p)."""
        if isinstance(self.jacobian, StackedPass):
            return self.jacobian.vjp(u)
        return np.asarray((u.reshape(len(u), 1, -1) @ self.jacobian)[:, 0])

    def slope(self, outputs: Stack) -> Stack:
        """Derivative of the loss by the outputs, (k, m, q)."""
        return self.loss.gradient(outputs.reshape(-1, outputs.shape[2])).reshape(outputs.shape)

    def outputs_at(self, w: Matrix) -> Stack:
        """Linearized outputs, (k, m, q)."""
        return self.outputs if w is self.center else self.outputs + self.ahead(w - self.center)

    def gradient_of(self, w: Matrix, outputs: Stack) -> Matrix:
        """Derivative of h at w, where the linearized outputs are known, (k, p)."""
        slope = self.weight * self.back(self.slope(outputs))
        return slope + self.pi + self.tau[:, None] * (w - self.center)

    def values(self, w: Matrix, outputs: Stack) -> Vector:
        """h(w), (k,)."""
        d = w - self.center
        loss = self.loss.each(outputs.reshape(-1, outputs.shape[2])).reshape(outputs.shape[:2]).sum(axis=1)
        return np.asarray(self.weight * loss + _dots(self.pi, d) + 0.5 * self.tau * _dots(d, d))


@final
@dataclass(frozen=True, eq=False)
class Points:
    """`peer.optim.solvers.Point` of k agents."""

    w: Matrix
    outputs: Stack
    gradient: Matrix
    penalty: Matrix
    error: Vector

    @classmethod
    def of(cls, h: StackedLinearized, r: Regularizer, w: Matrix) -> Points:
        """The points w, (k, p)."""
        outputs = h.outputs_at(w)
        gradient, penalty = h.gradient_of(w, outputs), r.gradient(w)
        return cls(w, outputs, gradient, penalty, _relative(h.scale, r, w, gradient, penalty))

    def where(self, rows: NDArray[np.intp], others: Points) -> Points:
        """These, but for some agents those of others."""
        arrays = []
        for name in ("w", "outputs", "gradient", "penalty", "error"):
            array = getattr(self, name).copy()
            array[rows] = getattr(others, name)
            arrays.append(array)
        return Points(*arrays)

    def taken(self, rows: NDArray[np.intp]) -> Points:
        """Some of the agents."""
        return Points(self.w[rows], self.outputs[rows], self.gradient[rows], self.penalty[rows], self.error[rows])


def proximal_steps(center: Matrix, slope: Matrix, tau: Vector, r: Regularizer) -> Responses:
    """w~_i = prox_{r/tau_i}(w_i - slope_i/tau_i), slope_i = I y_i, (I, p)."""
    steps = cast(Any, 1.0 / tau[:, None])  # entry by entry a regularizer takes a column of steps as well as one
    w = r.prox(center - slope / tau[:, None], steps)
    gradient, penalty = slope + tau[:, None] * (w - center), r.gradient(w)
    scale = np.abs(slope).max(axis=1, initial=0.0)
    return Responses(w, _relative(scale, r, w, gradient, penalty))


def solve(h: StackedLinearized, r: Regularizer, tolerance: float) -> Responses:
    """Minimizers of h + r with a smooth r: one system for a squared loss, else Newton's method.

    Raises
    ------
    SolveError
        nan or infinity came in or out, or a matrix is not positive definite to rounding.
    """
    found = normal_equations(h, r) if h.loss.constant_curvature else newton(h, r, tolerance)
    if not (np.isfinite(found.residual).all() and np.isfinite(found.w).all()):
        raise SolveError("the surrogate has no finite solution: its data are nan or infinite")
    return found


def normal_equations(h: StackedLinearized, r: Regularizer) -> Responses:
    """Minimizers of a quadratic h + r: a Newton step from the center, refined by the exact gradient."""
    here = Points.of(h, r, h.center)
    inverse = systems(h, r, here.outputs)
    for _ in range(2):
        here = Points.of(h, r, here.w - inverse(here.gradient + here.penalty))
    return Responses(here.w, here.error)


def newton(h: StackedLinearized, r: Regularizer, tolerance: float) -> Responses:
    """Minimizers by `peer.optim.solvers.proximal_newton`, each agent's steps by its own residuals."""
    here = Points.of(h, r, h.center)
    lowest = here.error.copy()
    rows = np.flatnonzero(here.error > tolerance)
    for _ in range(MAX_ITERATIONS):
        if not len(rows):
            break
        part, start = h.taken(rows), here.taken(rows)
        target = start.w - systems(part, r, start.outputs)(start.gradient + start.penalty)
        there = Points.of(part, r, target)
        short = np.flatnonzero(there.error > 0.5 * lowest[rows])
        if len(short):
            few = part.taken(short)
            there = there.where(short, Points.of(few, r, _on_line(few, r, start.w[short], target[short])))
        better = there.error < lowest[rows]
        better |= _objective(part, r, there) < _objective(part, r, start)
        kept = np.flatnonzero(better)  # of the others neither measure improves any more: rounding
        here = here.where(rows[kept], there.taken(kept))
        lowest[rows[kept]] = np.minimum(lowest[rows[kept]], there.error[kept])
        rows = rows[kept][there.error[kept] > tolerance]
    return Responses(here.w, here.error)


def systems(h: StackedLinearized, r: Regularizer, outputs: Stack) -> Inverse:
    """Solver of (J'H J + T) x = b at linearized outputs, H by blocks weight B B', T = tau Id + r'', for each agent.

    In p unknowns or, where J is wide, in m q (Woodbury), as `peer.optim.systems.Systems`; by products where J is.
    """
    diagonal = h.tau[:, None] + r.gradient(np.ones(h.center.shape[1]))  # r is quadratic, entry by entry
    rows = outputs.reshape(-1, outputs.shape[2])
    if isinstance(h.jacobian, StackedPass):
        bent = h.loss.curvature(rows)

        def product(x: Matrix) -> Matrix:
            return h.weight * h.back(bent(h.ahead(x).reshape(rows.shape)).reshape(outputs.shape)) + diagonal * x

        return lambda b: conjugate_gradients(product, diagonal, b)
    R, root = h.jacobian, np.sqrt(h.weight)
    k, n_rows, p = R.shape
    if h.loss.quadratic:
        R = root * R
    else:
        blocks = h.loss.curvature_root(rows)
        q = blocks.shape[1]
        turned = root * blocks.transpose(0, 2, 1)
        R = turned.reshape(k, n_rows, 1) * R if q == 1 else (turned @ R.reshape(-1, q, p)).reshape(k, n_rows, p)
    if p <= n_rows:
        gram = R.transpose(0, 2, 1) @ R
        gram.reshape(k, -1)[:, :: p + 1] += diagonal
        return factored(gram)
    scale = 1.0 / np.sqrt(diagonal)
    V = R * scale[:, None, :]
    gram = V @ V.transpose(0, 2, 1)
    gram.reshape(k, -1)[:, :: n_rows + 1] += 1.0
    dual = factored(gram)

    def inverse(b: Matrix) -> Matrix:
        c = scale * b
        u = dual((V @ c[:, :, None])[:, :, 0])
        return np.asarray(scale * (c - (u[:, None, :] @ V)[:, 0]))

    return inverse


def factored(matrices: Stack) -> Inverse:
    """Solver with a symmetric, positive definite matrix for each agent, (k, n, n).

    Raises
    ------
    SolveError
        One is singular, or not positive definite, to rounding.
    """
    n = matrices.shape[1]
    if n <= SMALL:

        def at_once(b: Matrix) -> Matrix:
            try:
                return np.asarray(np.linalg.solve(matrices, b[:, :, None])[:, :, 0])
            except np.linalg.LinAlgError as error:
                raise SolveError(INDEFINITE) from error

        return at_once
    factors = []
    for matrix in matrices:
        factor, failed = linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise SolveError(INDEFINITE)
        factors.append(factor)

    def one_by_one(b: Matrix) -> Matrix:
        x = np.empty_like(b)
        for i, factor in enumerate(factors):
            x[i], _ = linalg.lapack.dpotrs(factor, b[i], lower=1)
        return x

    return one_by_one


def conjugate_gradients(
    product: Callable[[Matrix], Matrix], diagonal: Matrix, b: Matrix, accuracy: float = EPS
) -> Matrix:
    """Solutions of A_i x = b_i, (k, p), with a preconditioner diagonal, (k, p); all go on until the last is there."""
    x, r = np.zeros_like(b), b.copy()
    z = r / diagonal
    direction, size = z.copy(), _dots(r, z)
    goal = accuracy**2 * _dots(r, r)
    for _ in range(MAX_PRODUCTS):
        waits = _dots(r, r) > goal
        if not waits.any():
            break
        ahead = product(direction)
        length = np.where(waits, size / np.where(waits, _dots(direction, ahead), 1.0), 0.0)
        x += length[:, None] * direction
        r -= length[:, None] * ahead
        z = r / diagonal
        last, size = size, _dots(r, z)
        direction = z + np.where(waits, size / np.where(waits, last, 1.0), 0.0)[:, None] * direction
    return x


def _dots(a: Matrix, b: Matrix) -> Vector:
    return np.asarray(np.einsum("kp,kp->k", a, b))


def _relative(scale: Vector, r: Regularizer, w: Matrix, gradient: Matrix, penalty: Matrix) -> Vector:
    scales = np.maximum(np.maximum(scale, max(r.scale, EPS)), np.abs(penalty).max(axis=1, initial=0.0))
    return np.asarray(np.abs(w - r.prox(w - gradient, 1.0)).max(axis=1, initial=0.0) / scales)


def _objective(h: StackedLinearized, r: Regularizer, at: Points) -> Vector:
    return np.asarray(h.values(at.w, at.outputs) + r.terms(at.w).sum(axis=-1))


def _on_line(h: StackedLinearized, r: Regularizer, w: Matrix, target: Matrix) -> Matrix:
    """Where h + r is least between w and the target, as `peer.optim.second_order.descent` finds it, each by itself."""
    direction = target - w
    outputs, tangent = h.outputs_at(w), h.ahead(direction)
    linear = _dots(h.pi + h.tau[:, None] * (w - h.center), direction)
    square = h.tau * _dots(direction, direction)

    def slope(t: Vector) -> Vector:
        loss = np.einsum("kmq,kmq->k", h.slope(outputs + t[:, None, None] * tangent), tangent)
        penalty = _dots(r.gradient(w + t[:, None] * direction), direction)
        return np.asarray(h.weight * loss + linear + t * square + penalty)

    below, above = np.zeros(len(w)), np.ones(len(w))
    whole = slope(above) <= 0.0
    for _ in range(HALVINGS):
        middle = 0.5 * (below + above)
        goes_on = above - below > PRECISION * above
        if not (goes_on & ~whole).any():
            break
        down = slope(middle) <= 0.0
        below = np.where(goes_on & down, middle, below)
        above = np.where(goes_on & ~down, middle, above)
    return np.where(whole[:, None], target, w + below[:, None] * direction)
