"""g_i of all agents: `peer.problem` for shards that are stacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.optim.chains import Chain
from peer.optim.losses import Loss
from peer.optim.regularizers import Regularizer
from peer.optim.surrogates import Full, Surrogate
from peer.problem import POWERS
from peer.stacked import solvers
from peer.stacked.chains import Stack, StackedPass, at
from peer.stacked.solvers import Responses, StackedLinearized

CHUNK_BYTES: Final = 1 << 22
"""Of what is made for a chunk of agents at a time: so much stays in the caches (rounds took 1.0 of their time with it,
1.1 with 16 MB, 1.4 with 64 MB, and as much more with 1 MB), and calls cost little beside it. One agent is the least."""


@final
@dataclass(frozen=True, eq=False)
class StackedProblem:
    """The parts of (1) that the agents can see, each of m samples.

    Parameters
    ----------
    chain : Chain
        f.
    x : Stack
        Inputs, (I, m, d).
    loss : Loss
        l with the targets of all I m samples, agent after agent; of weight 0 are those that fill up smaller shards.
    weight : float
        s of (2).
    regularizer : Regularizer
        r, which goes entry by entry.
    surrogate : Surrogate
        (11) or (12), its tau where agents have none of their own.
    tolerance : float
        Relative residual of the inner solver.
    chunk_bytes : int
        As `CHUNK_BYTES`.
    """

    chain: Chain
    x: Stack
    loss: Loss
    weight: float
    regularizer: Regularizer
    surrogate: Surrogate
    tolerance: float
    chunk_bytes: int = CHUNK_BYTES

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.x)

    @property
    def n_parameters(self) -> int:
        """Number of parameters p."""
        return self.chain.layout.size

    @cached_property
    def _pass_numbers(self) -> int:
        """Numbers that a pass forwards and backwards makes for an agent, about."""
        widths = sum(layer.n_outputs for layer in self.chain.layers) + self.chain.n_inputs
        return 3 * int(self.x.shape[1]) * widths + 4 * self.n_parameters

    @property
    def _solve_numbers(self) -> int:
        """Numbers that a solve makes for an agent: J and two of its size, and its system twice."""
        if isinstance(self.surrogate, Full):
            return self._pass_numbers
        k, p = int(self.x.shape[1]) * self.chain.n_outputs, self.n_parameters
        return self._pass_numbers + 3 * k * p + 2 * min(k, p) ** 2

    def chunks(self, numbers: int) -> Iterator[slice]:
        """All agents, as many at a time as there is room for, each making so many numbers."""
        size = max(1, self.chunk_bytes // (8 * numbers))
        for start in range(0, self.n_agents, size):
            yield slice(start, min(start + size, self.n_agents))

    def values(self, w: Matrix) -> tuple[Vector, Matrix]:
        """g_i(w_i), (I,), and grad g_i(w_i), (I, p), for w, (I, p), or the same (p,) for all."""
        values, gradients = np.empty(self.n_agents), np.empty((self.n_agents, self.n_parameters))
        for some in self.chunks(self._pass_numbers):
            here, loss = self._seen(w, some)
            rows = _rows(here.outputs)
            values[some] = self.weight * loss.each(rows).reshape(here.outputs.shape[:2]).sum(axis=1)
            gradients[some] = self.weight * here.vjp(loss.gradient(rows).reshape(here.outputs.shape))
        return values, gradients

    def whole(self, w: Vector) -> tuple[float, Vector]:
        """U(w) and grad G(w), (p,), of the problem of all agents together, at one w, (p,)."""
        value, gradient = 0.0, np.zeros(self.n_parameters)
        for some in self.chunks(self._pass_numbers):
            here, loss = self._seen(w, some)
            rows = _rows(here.outputs)
            value += self.weight * float(loss.each(rows).sum())
            gradient += self.weight * here.vjp(loss.gradient(rows).reshape(here.outputs.shape)).sum(axis=0)
        return value + self.regularizer.value(w), gradient

    def best_responses(self, w: Matrix, gradient: Matrix, pi: Matrix, tau: Vector) -> Responses:
        """Minimizers w~_i of (5), (I, p), at w with grad g_i(w_i) and pi_i, (I, p) each, and tau_i, (I,).

        Raises
        ------
        SolveError
            nan or infinity came in or out, or a matrix is not positive definite to rounding.
        """
        if isinstance(self.surrogate, Full):
            return solvers.proximal_steps(w, gradient + pi, tau, self.regularizer)
        results = [
            self._best(w[some], gradient[some], pi[some], tau[some], some) for some in self.chunks(self._solve_numbers)
        ]
        return Responses(*(np.concatenate(parts) for parts in zip(*results, strict=True)))

    def _best(self, w: Matrix, gradient: Matrix, pi: Matrix, tau: Vector, some: slice) -> Responses:
        here, loss = self._seen(w, some, taken=True)
        kappa = self.surrogate.kappa
        scale = np.maximum(kappa * np.abs(gradient).max(axis=1, initial=0.0), np.abs(pi).max(axis=1, initial=0.0))
        k, p = here.outputs.shape[1] * here.outputs.shape[2], self.n_parameters
        fits = 8 * (3 * k * p + 2 * min(k, p) ** 2) <= max(self.chunk_bytes, solvers.FACTORED_BYTES)
        subproblem = StackedLinearized(
            center=w,
            outputs=here.outputs,
            jacobian=here.jacobian() if fits else here,
            loss=loss,
            weight=kappa * self.weight,
            pi=pi,
            tau=tau,
            scale=scale,
        )
        return solvers.solve(subproblem, self.regularizer, self.tolerance)

    def steepness(self, w: Matrix, direction: Matrix) -> Vector:
        """Largest curvatures that are seen of s J_i'B_i J_i from directions, (I, p): `Problem.steepness`, (I,)."""
        found = np.zeros(self.n_agents)
        for some in self.chunks(2 * self._pass_numbers):
            here, loss = self._seen(w, some)
            shape = here.outputs.shape
            bent = loss.curvature(_rows(here.outputs))
            v = direction[some].copy()
            v[~v.any(axis=1)] = 1.0
            length = np.sqrt(np.einsum("kp,kp->k", v, v))
            for _ in range(POWERS):
                goes_on = (length > 0.0) & (length < np.inf)
                v /= np.where(goes_on, length, 1.0)[:, None]
                v = self.weight * here.vjp(bent(_rows(here.jvp(v))).reshape(shape))
                length = np.where(goes_on, np.sqrt(np.einsum("kp,kp->k", v, v)), length)
                found[some] = np.where(goes_on, length, found[some])
        return found

    def _seen(self, w: Matrix, some: slice, taken: bool = False) -> tuple[StackedPass, Loss]:
        """The network of some agents, at their rows of w (all of it where it is `taken` already), and their loss."""
        n, m = some.stop - some.start, self.x.shape[1]
        own = w if taken else w[some] if w.ndim == 2 else np.broadcast_to(w, (n, len(w)))
        loss = self.loss.taken(np.arange(some.start * m, some.stop * m))
        return at(self.chain, own, self.x[some]), loss


def _rows(outputs: Stack) -> Matrix:
    """Samples of all agents, one after the other: (k m, q)."""
    return outputs.reshape(-1, outputs.shape[2])


def mean_and_spread(w: Matrix) -> tuple[Vector, float]:
    """Mean of the w_i, (p,), and the mean of ||w_i - mean||^2."""
    mean = w.mean(axis=0)
    spread = sum(float(np.sum((w[k : k + 1024] - mean) ** 2)) for k in range(0, len(w), 1024))
    return mean, spread / len(w)
