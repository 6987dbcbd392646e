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

import math
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Vector
from peer.optim.batches import Batches
from peer.optim.blocks import Each, in_turn, solve_blocks
from peer.optim.chains import ChainPass
from peer.optim.feedback import Feedback
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import Accuracy, Solution, solve
from peer.optim.surrogates import Data, Partial, Surrogate
from peer.optim.vectors import largest, length

SUMMABLE: Final = 1.1
"""Power of 1/(n + 1), > 1, with which inexactness decreases at least."""

HALF: Final = 0.5
"""Of the residual at w_i that a solution may have at most: with all of it w_i itself would do."""

POWERS: Final = 3
"""Of J'BJ: with them the largest eigenvalue is met to some 10 % on the bundled data sets."""


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
    inexactness : float
        c of `in_round`; 0: every solve goes to `tolerance`.
    share, most : float
        Of `Accuracy`, in a round.
    lasts : int
        Rounds for which a linearization of the network stays, about, see `peer.renewal`.
    way : Vector or None
        In a round, a guess of w~_i - w_i, (p,), to begin from.
    batches : Batches or None
        Samples of each round; None: all of them in every round.
    feedback : Feedback or None
        Where layers learn by it, and `gradient` is no gradient, see `peer.optim.feedback`; of chains, with (12) only.
    """

    data: Data
    regularizer: Regularizer
    surrogate: Surrogate
    tolerance: float
    blocks: tuple[slice, ...] = ()
    each: Each = in_turn
    batches: Batches | None = None
    inexactness: float = 0.0
    share: float = 0.0
    most: float = 0.0
    lasts: int = 1
    way: Vector | None = None
    feedback: Feedback | None = None

    def in_round(self, n: int, alpha: float, way: Vector) -> Problem:
        """The same g_i, with (5) to be solved as well as round n needs it, with the step alpha[n].

        The relative residual to reach is

            eps[n] = max(tolerance, min(c alpha[n] (n + 1)^(-1.1), min(c alpha[n], 1/2) residual[n]))

        where residual[n] is that of w_i[n] itself, so how far the agent is from stationary. NEXT converges with inexact
        solutions as long as sum_n alpha[n] eps[n] is finite (P. Di Lorenzo, G. Scutari, "NEXT: In-network nonconvex
        optimization" (2016), algorithm 2): the power sees to it where alpha is constant. residual[n] keeps what is
        linear convergence with exact solutions from becoming that of the power, and 1/2 sees to it that every round
        moves. Their eps bounds ||w~ - its minimizer||, which by strong convexity is at most (1 + the largest
        curvature)/tau times the residual.

        Iterations begin where 1 - alpha[n] of the `way` w~_i - w_i of the round before leads, (p,), if there is one, as
        alpha[n] of it is gone.
        """
        if not self.inexactness:
            return self
        share = self.inexactness * alpha
        guess = (1.0 - alpha) * way if way.size else None
        return replace(self, share=min(share, HALF), most=share * (n + 1.0) ** -SUMMABLE, way=guess)

    @property
    def kappa(self) -> float:
        """Multiple of the agent's own curvature in the surrogate; 1, or I for curvature "network"."""
        return self.surrogate.kappa

    def value(self, w: Vector) -> float:
        """g_i(w)."""
        return self.data.value(w)

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,); with feedback the field that has its place in (4), (8), (9) and (15)."""
        if self.feedback is None:
            return self.data.gradient(w)
        here = self.data.at(w)
        assert isinstance(here, ChainPass), "feedback goes to the layers of a chain"
        return self.data.weight * self.feedback.direction(here, self.data.loss.gradient(here.outputs), self.each)

    def measured(self, w: Vector) -> tuple[Vector, float]:
        """`gradient` and `value` at w, by one look at the network."""
        return self.data.measured(w) if self.feedback is None else (self.gradient(w), self.value(w))

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
            return self.measured(w)
        batch = self._drawn(self.batches.rows(n))
        there, here = map(batch.measured, (before, w))  # `seen` goes on from w
        return gradient + (here[0] - there[0]), value + (here[1] - there[1])

    def sample(self, k: int, w: Vector) -> tuple[Vector, float]:
        """Grad g_i(w), (p,), and g_i(w), by the samples of batch k; by all where there are no batches."""
        return (self if self.batches is None else self._drawn(self.batches.rows(k))).measured(w)

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[Problem, Vector]:
        """What the surrogate of round n is built on, and its gradient at w, (p,): g_B, or g_i with e_i as it is given.

        The surrogate (12) is built on nothing but a slope, in which that gradient cancels. (11) keeps a model of the
        losses of outputs alone: a loss of derivatives counts by its slope, which is in y, and not in this gradient.
        """
        if not isinstance(self.surrogate, Partial):
            return self, gradient
        if self.batches is None:
            return self, gradient if self.data.tangents is None else self.data.loss_gradient(w)
        batch = self._drawn(self.batches.rows(n))
        return batch, batch.data.loss_gradient(w)

    def _drawn(self, rows: NDArray[np.intp]) -> Problem:
        return replace(self, data=self.data.drawn(rows), batches=None)

    def best_response(self, w: Vector, gradient: Vector, pi: Vector, tau: float = 0.0) -> Solution:
        """Minimizer w~ of (5) at w, (p,), with grad g_i(w), (p,), and pi_i, (p,); with another tau, if one is given.

        Where there are several blocks, over each alone, the others kept at w. With (12) the parameters do not meet
        in (5), and that changes nothing.

        Raises
        ------
        SolveError
            nan or infinity came in or out.
        """
        surrogate = self.surrogate.with_tau(tau) if tau else self.surrogate
        accuracy = Accuracy(self.tolerance, self.share, self.most)
        if len(self.blocks) > 1 and isinstance(surrogate, Partial):
            solution = solve_blocks(
                surrogate, w, gradient, pi, self.data, self.regularizer, accuracy, self.blocks, self.each, self.way
            )
        else:
            solution = solve(surrogate.around(w, gradient, pi, self.data), self.regularizer, accuracy, self.way)
        return solution.changed(way=solution.w - w) if self.inexactness else solution

    def steepness(self, n: int, w: Vector, direction: Vector) -> float:
        """Largest curvature that is seen of s J'BJ from a direction, (p,), B the second derivative of the loss; >= 0.

        With batches J and B are those of the batch of round n.

        By the power method, `POWERS` products: at most the largest eigenvalue, and near it where the direction is a
        gradient, which mostly lies where the curvature is (R. von Mises, H. Pollaczek-Geiringer, 1929).
        """
        data = self.data if self.batches is None else self.data.drawn(self.batches.rows(n))
        here, found = data.at(w), 0.0
        v, size = direction, length(direction)
        if not size:  # the agent's own optimum is curved, too
            v, size = np.ones_like(direction), math.sqrt(direction.size)
        bent = data.loss.curvature(here.outputs)
        for _ in range(POWERS):
            if not 0.0 < size < np.inf:
                break
            v = here.vjp(bent(here.jvp(v / size)))
            found = size = length(v)
        return data.weight * found

    def linearized(self, anchor: Vector) -> Problem:
        """The same with the network linearized at an anchor, (p,), and what is kept with it; itself without one."""
        if not anchor.size:
            return self
        return replace(self, data=self.data.linearized(anchor, self.lasts))

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf, where `gradient` is (an estimate of) grad G(w)."""
        return largest(w - self.regularizer.prox(w - gradient, 1.0))
