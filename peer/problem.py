"""g_i: a shard of data, seen through a model and a loss, with a regularizer and a surrogate.

A shard that is too large for a full pass a round is seen through b samples of it a round, see `peer.optim.batches`.
With g_B the sum (2) over the batch B of round n, and m/b as much of each sample, grad g_i(w_i[n]) has the estimate

    e_i[n] = grad g_i(w_i[n])                                       in every round that is a multiple of `refresh`,
    e_i[n] = e_i[n-1] + grad g_B(w_i[n]) - grad g_B(w_i[n-1])       in all others

in its place in (4), (8), (9) and (15); so sum_i y_i = sum_i e_i holds as (9) did. Source: R. Xin, U. Khan, S. Kar,
"Fast decentralized nonconvex finite-sum optimization with recursive variance reduction" (2022): GT-SARAH. Departures:

1. A surrogate is minimized instead of a step along y. It is built on B, so that its own slope at w_i[n] is not e_i but
   kappa grad g_B(w_i[n]), and (4) takes away that: the slope of (5) is I y_i + r', and w~_i = w_i where it would be.
   So fixed points, with e_i exact there, are the stationary points of (1), whatever B is.
2. Batches are drawn without replacement; theirs are independent.
3. g_i(w_i) is estimated likewise, for the tracked objective.

An estimate is off by no more than what (m/b) grad g_B and grad g_i differ by along the steps since the last full pass;
where steps tend to 0, so do the errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Vector
from peer.optim.batches import Batches
from peer.optim.blocks import Each, in_turn, solve_blocks
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import Solution, solve
from peer.optim.surrogates import Data, Partial, Surrogate


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """The part of (1) that agent i can see.

    Parameters
    ----------
    data : Data
        Model, inputs, loss with targets, and s of (2).
    regularizer : Regularizer
        r.
    surrogate : Surrogate
        What stands in for g_i in (5).
    tolerance : float
        Relative residual of the inner solver.
    blocks : tuple of slice
        Places of the blocks of w in which (5) is solved, all of w once; a single one, or none, is w as a whole.
    each : Each
        How blocks are gone through.
    batches : Batches or None
        Samples of each round; None: all of them in every round.
    """

    data: Data
    regularizer: Regularizer
    surrogate: Surrogate
    tolerance: float
    blocks: tuple[slice, ...] = ()
    each: Each = in_turn
    batches: Batches | None = None

    @property
    def kappa(self) -> float:
        """Multiple of the agent's own curvature in the surrogate; 1, or I for curvature "network"."""
        return self.surrogate.kappa

    def value(self, w: Vector) -> float:
        """g_i(w)."""
        return self.data.weight * self.data.loss.value(self.data.model.forward(w, self.data.inputs))

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,)."""
        data = self.data
        slope = data.loss.gradient(data.model.forward(w, data.inputs))
        return data.weight * data.model.vjp(w, data.inputs, slope)

    def estimate(self, n: int, w: Vector, before: Vector, gradient: Vector, value: float) -> tuple[Vector, float]:
        """e_i[n], (p,), and the value beside it, at w = w_i[n].

        Parameters
        ----------
        n : int
            Round that begins.
        w, before : Vector
            w_i[n] and w_i[n-1], (p,).
        gradient, value : Vector, float
            What this gave at `before`, or the gradient and value of g_i there.
        """
        if self.batches is None or self.batches.is_full(n):
            return self.gradient(w), self.value(w)
        batch = self._drawn(self.batches.rows(n))
        change = batch.gradient(w) - batch.gradient(before)
        return gradient + change, value + (batch.value(w) - batch.value(before))

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[Problem, Vector]:
        """What the surrogate of round n is built on, and its gradient at w, (p,): g_B, or g_i with e_i as it is given.

        The surrogate (12) is built on nothing but a slope, in which that gradient cancels.
        """
        if self.batches is None or not isinstance(self.surrogate, Partial):
            return self, gradient
        batch = self._drawn(self.batches.rows(n))
        return batch, batch.gradient(w)

    def _drawn(self, rows: NDArray[np.intp]) -> Problem:
        return replace(self, data=self.data.drawn(rows), batches=None)

    def best_response(self, w: Vector, gradient: Vector, pi: Vector) -> Solution:
        """Minimizer w~ of (5) at w, (p,), with grad g_i(w), (p,), and pi_i, (p,).

        Where there are several blocks, over each alone, the others kept at w. With (12) the parameters do not meet
        in (5), and that changes nothing.

        Raises
        ------
        SolveError
            nan or infinity came in or out.
        """
        if len(self.blocks) > 1 and isinstance(self.surrogate, Partial):
            return solve_blocks(
                self.surrogate, w, gradient, pi, self.data, self.regularizer, self.tolerance, self.blocks, self.each
            )
        return solve(self.surrogate.around(w, gradient, pi, self.data), self.regularizer, self.tolerance)

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf, where `gradient` is (an estimate of) grad G(w)."""
        return float(np.max(np.abs(w - self.regularizer.prox(w - gradient, 1.0)), initial=0.0))
