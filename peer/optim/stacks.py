"""Many small problems h + r at once, b unknowns each, with h as in `Linearized` and a separable r.

The method is that of `solvers.proximal_newton`, with the same rules; only that each step is made by all problems that
still need one, in arrays with an axis for the problems, and that second-order models are minimized on their faces (see
`model_minimizers`), for which b must be small. What one problem comes to depends on no other one, to
the last bit: all products are of one problem's own matrices, and all else goes entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.inverses import INDEFINITE
from peer.optim.losses import Loss
from peer.optim.maps import Blocks
from peer.optim.regularizers import Regularizer
from peer.optim.second_order import HALVINGS, PRECISION
from peer.optim.solvers import MAX_ITERATIONS, Accuracy, Solution
from peer.optim.systems import EPS

Which: TypeAlias = NDArray[np.intp]
"""Numbers of problems."""

BLURRED: Final = 8.0 * EPS
"""Relative size of what rounding makes of a sum of a few products."""


@final
@dataclass(frozen=True, eq=False)
class Stack:
    """n functions h + r of b unknowns each, which have outputs, loss, weight, tau and scale in common.

    Parameters
    ----------
    center, pi : Matrix
        As of `Linearized`, (n, b).
    outputs : Matrix
        f_m at the centers, (m, q).
    columns : ndarray
        J at the centers, (n, m*q, b).
    loss : Loss
        l with the targets of the m samples.
    weight, tau, scale : float
        As of `Linearized`.
    regularizer : Regularizer
        r of all n*b unknowns, separable.
    """

    center: Matrix
    outputs: Matrix
    columns: Blocks
    loss: Loss
    weight: float
    pi: Matrix
    tau: float
    scale: float
    regularizer: Regularizer

    def taken(self, which: Which) -> Stack:
        """Some of the functions."""
        n, b = self.center.shape
        if len(which) == n:
            return self
        places = (which[:, None] * b + np.arange(b)).reshape(-1)
        return replace(
            self,
            center=self.center[which],
            columns=self.columns[which],
            pi=self.pi[which],
            regularizer=self.regularizer.restricted(places),
        )

    def moved(self, d: Matrix) -> Matrix:
        """J d of each, (n, m*q)."""
        return np.asarray((self.columns @ d[:, :, None])[:, :, 0])

    def outputs_at(self, x: Matrix) -> Matrix:
        """Linearized outputs of each at its point, (n, m*q), of the points (n, b)."""
        return self.outputs.reshape(-1) + self.moved(x - self.center)

    def values(self, x: Matrix, outputs: Matrix) -> Vector:
        """Values of the h + r at x, where the linearized outputs are known, (n,)."""
        n, d = len(x), x - self.center
        losses = self.loss.repeated(n).each(self._rows(outputs)).reshape(n, -1)
        rest = (self.pi + 0.5 * self.tau * d) * d + self.regularizer.terms(x.reshape(-1)).reshape(x.shape)
        return np.asarray(self.weight * losses.sum(axis=1) + rest.sum(axis=1))

    def gradients(self, x: Matrix, outputs: Matrix) -> Matrix:
        """Derivatives of the h at x, where the linearized outputs are known, (n, b)."""
        slopes = self._slopes(outputs)
        back = (self.columns.transpose(0, 2, 1) @ slopes[:, :, None])[:, :, 0]
        return np.asarray(self.weight * back + self.pi + self.tau * (x - self.center))

    def curvatures(self, outputs: Matrix) -> Blocks:
        """Second derivatives of the h, (n, b, b), a generalized one where the loss's gradient has a kink."""
        n, b = self.center.shape
        bent = self.columns
        if not self.loss.quadratic:
            turn, bent = self.loss.repeated(n).curvature(self._rows(outputs)), np.empty_like(self.columns)
            for k in range(b):
                bent[:, :, k] = turn(self._rows(np.ascontiguousarray(self.columns[:, :, k]))).reshape(n, -1)
        matrices = self.weight * (self.columns.transpose(0, 2, 1) @ bent)
        matrices[:, range(b), range(b)] += self.tau
        return np.asarray(matrices)

    def slopes_along(self, x: Matrix, outputs: Matrix, d: Matrix) -> Callable[[Vector], Vector]:
        """Derivatives by t_k of (h + r)(x_k + t_k d_k) for each k, as a function of t, (n,)."""
        ahead = self.moved(d)
        linear = np.sum((self.pi + self.tau * (x - self.center)) * d, axis=1)
        square = self.tau * np.sum(d * d, axis=1)

        def slopes(t: Vector) -> Vector:
            losses = np.einsum("nk,nk->n", self._slopes(outputs + t[:, None] * ahead), ahead)
            penalty = self.regularizer.gradient((x + t[:, None] * d).reshape(-1)).reshape(d.shape)
            return np.asarray(self.weight * losses + linear + t * square + np.sum(penalty * d, axis=1))

        return slopes

    def errors(self, x: Matrix, gradients: Matrix) -> Vector:
        """Residuals of each, as in `Solution.residual`, (n,)."""
        flat, r, each = x.reshape(-1), self.regularizer, x.shape
        step = np.abs(flat - r.prox(flat - gradients.reshape(-1), 1.0)).reshape(each)
        sizes = np.maximum(r.kinks(flat), np.abs(r.gradient(flat))).reshape(each)
        return np.asarray(step.max(axis=1) / np.maximum(max(self.scale, EPS), sizes.max(axis=1)))

    def nearest(self, x: Matrix) -> Matrix:
        """Nearest points where r is finite, (n, b)."""
        return self.regularizer.nearest(x.reshape(-1)).reshape(x.shape)

    def _rows(self, outputs: Matrix) -> Matrix:
        return outputs.reshape(-1, self.outputs.shape[1])

    def _slopes(self, outputs: Matrix) -> Matrix:
        return self.loss.repeated(len(outputs)).gradient(self._rows(outputs)).reshape(outputs.shape)


@final
@dataclass(frozen=True, eq=False)
class Points:
    """What a step needs to know of where it begins, for n problems; as `solvers.Point`.

    Parameters
    ----------
    x, outputs, gradients : Matrix
        The points, (n, b); linearized outputs, (n, m*q); derivatives of the h, (n, b).
    errors : Vector
        Residuals, (n,).
    """

    x: Matrix
    outputs: Matrix
    gradients: Matrix
    errors: Vector

    @classmethod
    def of(cls, stack: Stack, x: Matrix) -> Points:
        """The points x, (n, b)."""
        outputs = stack.outputs_at(x)
        gradients = stack.gradients(x, outputs)
        return cls(x, outputs, gradients, stack.errors(x, gradients))

    def taken(self, which: Which) -> Points:
        """Some of the points."""
        if len(which) == len(self.x):
            return self
        return Points(self.x[which], self.outputs[which], self.gradients[which], self.errors[which])

    def replaced(self, which: Which, by: Points) -> Points:
        """With other points in the place of some."""
        if len(which) == len(self.x):
            return by
        arrays = [self.x.copy(), self.outputs.copy(), self.gradients.copy(), self.errors.copy()]
        for mine, theirs in zip(arrays, (by.x, by.outputs, by.gradients, by.errors), strict=True):
            mine[which] = theirs
        return Points(*arrays)


def newton(stack: Stack, accuracy: Accuracy, way: Matrix | None = None) -> Solution:
    """Minimizers of all problems, one after the other, (n b,), by proximal Newton as in `solvers.proximal_newton`.

    Parameters
    ----------
    stack : Stack
        The problems.
    accuracy : Accuracy
        Relative residual to reach, of each by its own start.
    way : Matrix or None
        A guess of the ways from the centers to the minimizers, (n, b): a problem's iterations begin there if that is
        nearer to optimal.

    Returns
    -------
    Solution
        The largest residual, the sum of the iterations.

    Raises
    ------
    SolveError
        A matrix is singular to rounding.
    """
    here = Points.of(stack, stack.nearest(stack.center))
    enough = np.maximum(accuracy.least, np.minimum(accuracy.most, accuracy.share * here.errors))
    going = here.errors > enough
    if way is not None and going.any():
        at = np.flatnonzero(going)
        there = Points.of(stack.taken(at), stack.nearest(stack.center + way)[at])
        nearer = np.flatnonzero(there.errors < here.errors[at])
        here = here.replaced(at[nearer], there.taken(nearer))
        going = here.errors > enough
    lowest, iterations = here.errors.copy(), 0
    constant = stack.curvatures(here.outputs) if stack.loss.quadratic and going.any() else None
    for _ in range(MAX_ITERATIONS):
        if not going.any():
            break
        at = np.flatnonzero(going)
        part, begin, low = stack.taken(at), here.taken(at), lowest[at]
        matrices = part.curvatures(begin.outputs) if constant is None else constant[at]
        target, n_systems = model_minimizers(matrices, begin.gradients, begin.x, part.regularizer, stack.tau)
        iterations += n_systems
        there = Points.of(part, target)
        far = np.flatnonzero(there.errors > 0.5 * low)
        if far.size:
            there = there.replaced(far, _on_lines(part.taken(far), begin.taken(far), target[far]))
        better = there.errors < low
        rest = np.flatnonzero(~better)
        if rest.size:
            better[rest] = _decreases(part.taken(rest), begin.taken(rest), there.taken(rest))
        kept = np.flatnonzero(better)  # where neither measure improves any more it is rounding
        here = here.replaced(at[kept], there.taken(kept))
        lowest[at] = np.minimum(low, np.where(better, there.errors, low))
        going[at] = better & (here.errors[at] > enough[at])
    return Solution(here.x.reshape(-1), float(np.max(here.errors, initial=0.0)), iterations, "stacked-newton")


def _on_lines(stack: Stack, begin: Points, target: Matrix) -> Points:
    d = target - begin.x
    t = descents(stack.slopes_along(begin.x, begin.outputs, d), len(d))
    return Points.of(stack, np.where(t[:, None] == 1.0, target, begin.x + t[:, None] * d))


def _decreases(stack: Stack, begin: Points, there: Points) -> NDArray[np.bool_]:
    return np.asarray(stack.values(there.x, there.outputs) < stack.values(begin.x, begin.outputs))


def descents(slopes: Callable[[Vector], Vector], n: int) -> Vector:
    """How far to go on n lines at once, (n,): `second_order.descent` on each."""
    below, above = np.zeros(n), np.ones(n)
    below[slopes(above) <= 0.0] = 1.0
    for _ in range(HALVINGS):
        open_ = above - below > PRECISION * above
        if not open_.any():
            break
        middle = 0.5 * (below + above)
        down = slopes(middle) <= 0.0
        below, above = np.where(open_ & down, middle, below), np.where(open_ & ~down, middle, above)
    return below


def model_minimizers(matrices: Blocks, slopes: Matrix, x: Matrix, r: Regularizer, tau: float) -> tuple[Matrix, int]:
    """Minimizers over y of slope'(y - x) + 1/2 (y - x)'H (y - x) + r(y), (n, b), and the number of systems they took.

    An active-set method, as C. Lawson, R. Hanson, "Solving least squares problems" (1974), chapter 23, have it for
    bounds: Newton's step on the face of y, on which r is quadratic, leads to the minimizer there; where it hits a kink
    or a wall first it ends at that, which holds the coordinate from then on. At the minimizer on a face the
    coordinates that their own proximal step would take off a kink or a wall are let go, all k of them, each by the
    k-th part of that step: by convexity the model is then less than the mean of what the whole steps alone make of it,
    so it has decreased. So it decreases from minimizer to minimizer, no face has its turn twice, and there is an end;
    b + 1 systems at most lie between two of them. A step within rounding is none.

    Parameters
    ----------
    matrices : ndarray
        H, (n, b, b), with no eigenvalue below tau.
    slopes, x : Matrix
        (n, b).
    r : Regularizer
        Of the n*b unknowns; separable, quadratic on its faces and finite at x.
    tau : float
        > 0.

    Raises
    ------
    SolveError
        A matrix is singular to rounding.
    """
    y, at, systems = x.copy(), np.arange(len(x)), 0
    models = Models(matrices, slopes, x, r, tau)
    for _ in range(MAX_ITERATIONS):
        if not at.size:
            break
        systems += len(at)
        some = models.taken(at)
        there, whole = some.on_faces(y[at])
        off = some.release(there) * whole[:, None]
        y[at] = there + off
        at = at[~whole | off.any(axis=1)]
    return y, systems


@final
@dataclass(frozen=True, eq=False)
class Models:
    """What `model_minimizers` minimizes; parameters as there."""

    matrices: Blocks
    slopes: Matrix
    x: Matrix
    regularizer: Regularizer
    tau: float

    def taken(self, which: Which) -> Models:
        """Some of the models."""
        n, b = self.x.shape
        if len(which) == n:
            return self
        r = self.regularizer.restricted((which[:, None] * b + np.arange(b)).reshape(-1))
        return Models(self.matrices[which], self.slopes[which], self.x[which], r, self.tau)

    def gradients(self, y: Matrix) -> Matrix:
        """Derivatives of the models without r at y, (n, b)."""
        return np.asarray(self.slopes + (self.matrices @ (y - self.x)[:, :, None])[:, :, 0])

    def on_faces(self, y: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
        """From y towards the minimizers on its faces, to the first kinks or walls, (n, b); and where there were none.

        What is held there has the equation 1 d = 0.

        Raises
        ------
        SolveError
            A matrix is singular to rounding.
        """
        (n, b), r, flat = y.shape, self.regularizer, y.reshape(-1)
        free = r.face(flat).reshape(n, b)
        diagonal = np.ones(flat.shape)
        diagonal[free.reshape(-1)] = r.whitening(flat, self.tau).scale ** -2.0 - self.tau  # r''
        matrices = np.where(free[:, :, None] & free[:, None, :], self.matrices, 0.0)
        matrices[:, range(b), range(b)] += diagonal.reshape(n, b)
        slopes = np.where(free, self.gradients(y) + r.gradient(flat).reshape(n, b), 0.0)
        try:
            step = -np.linalg.solve(matrices, slopes[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError as error:
            raise SolveError(INDEFINITE) from error
        target = y + step
        inside = r.onto_face(target.reshape(-1), flat).reshape(n, b)
        hit = (inside != target) & np.isfinite(target)
        shares = np.where(hit, (inside - y) / np.where(step == 0.0, 1.0, step), np.inf)
        first = np.clip(shares.min(axis=1, keepdims=True), 0.0, 1.0)
        part = r.onto_face((y + first * step).reshape(-1), flat).reshape(n, b)
        whole = ~hit.any(axis=1)
        return np.where(whole[:, None], target, np.where(hit & (shares <= first), inside, part)), whole

    def release(self, y: Matrix) -> Matrix:
        """Steps off kinks and walls by which the models decrease, (n, b); 0 where y is a minimizer, to rounding."""
        r, flat = self.regularizer, y.reshape(-1)
        bend = np.einsum("nbb->nb", self.matrices)
        inverse: Any = (1.0 / bend).reshape(-1)  # a step size for each unknown, as r is separable
        step = r.prox(flat - (self.gradients(y) / bend).reshape(-1), inverse).reshape(y.shape) - y
        sizes = np.abs(self.slopes) + (np.abs(self.matrices) @ np.abs(y - self.x)[:, :, None])[:, :, 0]
        off = ~r.face(flat).reshape(y.shape) & (np.abs(step) > BLURRED * (np.abs(y) + sizes / bend))
        return np.where(off, step / np.maximum(np.count_nonzero(off, axis=1, keepdims=True), 1), 0.0)
