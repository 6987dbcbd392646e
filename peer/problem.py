"""g_i: a shard of data, seen through a model and a loss, with a regularizer and a surrogate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from peer.arrays import Vector
from peer.optim.blocks import Each, in_turn, solve_blocks
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import Accuracy, Solution, solve
from peer.optim.surrogates import Data, Partial, Surrogate

SUMMABLE: Final = 1.1
"""Power of 1/(n + 1), > 1, with which inexactness decreases at least."""

HALF: Final = 0.5
"""Of the residual at w_i that a solution may have at most: with all of it w_i itself would do."""


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
    way : Vector or None
        In a round, a guess of w~_i - w_i, (p,), to begin from.
    """

    data: Data
    regularizer: Regularizer
    surrogate: Surrogate
    tolerance: float
    blocks: tuple[slice, ...] = ()
    each: Each = in_turn
    inexactness: float = 0.0
    share: float = 0.0
    most: float = 0.0
    way: Vector | None = None

    def in_round(self, n: int, alpha: float, way: Vector) -> Problem:
        """The same g_i, with (5) to be solved as well as round n needs it, with the step alpha[n].

        The relative residual to reach is

            eps[n] = max(tolerance, min(c alpha[n] (n + 1)^(-1.1), min(c alpha[n], 1/2) e[n]))

        where e[n] is that of w_i[n] itself, so how far the agent is from stationary. NEXT converges with inexact
        solutions as long as sum_n alpha[n] eps[n] is finite (P. Di Lorenzo, G. Scutari, "NEXT: In-network nonconvex
        optimization" (2016), algorithm 2): the power sees to it where alpha is constant. e[n] keeps what is linear
        convergence with exact solutions from becoming that of the power, and 1/2 sees to it that every round moves.
        Their eps bounds ||w~ - its minimizer||, which by strong convexity is at most (1 + the largest curvature)/tau
        times the residual.

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
        """Grad g_i(w), (p,)."""
        return self.data.gradient(w)

    def best_response(self, w: Vector, gradient: Vector, pi: Vector) -> Solution:
        """Minimizer w~ of (5) at w, (p,), with grad g_i(w), (p,), and pi_i, (p,).

        Where there are several blocks, over each alone, the others kept at w. With (12) the parameters do not meet
        in (5), and that changes nothing.

        Raises
        ------
        SolveError
            nan or infinity came in or out.
        """
        solution = self._solution(w, gradient, pi)
        return replace(solution, way=solution.w - w) if self.inexactness else solution

    def _solution(self, w: Vector, gradient: Vector, pi: Vector) -> Solution:
        accuracy = Accuracy(self.tolerance, self.share, self.most)
        if len(self.blocks) > 1 and isinstance(self.surrogate, Partial):
            return solve_blocks(
                self.surrogate, w, gradient, pi, self.data, self.regularizer, accuracy, self.blocks, self.each, self.way
            )
        return solve(self.surrogate.around(w, gradient, pi, self.data), self.regularizer, accuracy, self.way)

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf, where `gradient` is (an estimate of) grad G(w)."""
        return float(np.max(np.abs(w - self.regularizer.prox(w - gradient, 1.0)), initial=0.0))
