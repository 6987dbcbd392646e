"""g_i: a shard of data, seen through a model and a loss, with a regularizer and a surrogate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from peer.arrays import Vector
from peer.optim.blocks import Each, in_turn, solve_blocks
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import Solution, solve
from peer.optim.surrogates import Data, Partial, Surrogate

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
    """

    data: Data
    regularizer: Regularizer
    surrogate: Surrogate
    tolerance: float
    blocks: tuple[slice, ...] = ()
    each: Each = in_turn

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

    def with_tau(self, tau: float) -> Problem:
        """The same g_i, its surrogate with another tau."""
        return replace(self, surrogate=self.surrogate.with_tau(tau))

    def steepness(self, w: Vector, direction: Vector) -> float:
        """Largest curvature that is seen of s J'BJ from a direction, (p,), B the second derivative of the loss; >= 0.

        By the power method, `POWERS` products: at most the largest eigenvalue, and near it where the direction is a
        gradient, which mostly lies where the curvature is (R. von Mises, H. Pollaczek-Geiringer, 1929).
        """
        data, found, v = self.data, 0.0, direction
        root = data.loss.curvature_root(data.model.forward(w, data.inputs))
        for _ in range(POWERS):
            length = float(np.linalg.norm(v))
            if not 0.0 < length < np.inf:
                break
            u = data.model.jvp(w, data.inputs, v / length)
            u = root @ (root.transpose(0, 2, 1) @ u[:, :, None])
            v = data.weight * data.model.vjp(w, data.inputs, u[:, :, 0])
            found = float(np.linalg.norm(v))
        return found

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf, where `gradient` is (an estimate of) grad G(w)."""
        return float(np.max(np.abs(w - self.regularizer.prox(w - gradient, 1.0)), initial=0.0))
