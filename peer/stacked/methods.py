"""Rounds of all agents at once: (4) to (8), and what `peer.methods` and `peer.careful` say, with C[n] as one matrix.

Kept at every round, to rounding: sum_i y_i[n] = sum_i grad g_i(w_i[n]), (9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector, rounded
from peer.careful import BEGIN, BLIND, DIM, FADES, MOST_CARE, NOISE, SHORTEST, TIRES, Caution
from peer.errors import SolveError
from peer.optim.steps import StepRule
from peer.stacked.problems import StackedProblem

NOTHING: Final = np.zeros(0)
"""Of what a method does not have."""


class Averaging(Protocol):
    """A mixing matrix C, (I, I), sparse or not."""

    def __matmul__(self, x: Matrix, /) -> Any: ...  # noqa: ANN401  (of scipy: a matrix)


@final
@dataclass(frozen=True, eq=False)
class State:
    """All agents at the start of round n, see `peer.agent.State`.

    Parameters
    ----------
    n : int
        Round.
    w, y, gradient : Matrix
        w_i[n], y_i[n] and grad g_i(w_i[n]), (I, p); y (I, 0) where none is tracked.
    value, objective : Vector
        g_i(w_i[n]), and the tracker of their mean, (I,).
    alpha : float
        alpha[n], the same for all.
    tau, care, eagerness, stride, steepest : Vector
        Where tau is left to the agents, (I,), see `peer.careful`; else (0,).
    """

    n: int
    w: Matrix
    y: Matrix
    gradient: Matrix
    value: Vector
    objective: Vector
    alpha: float
    tau: Vector = field(default_factory=lambda: NOTHING)
    care: Vector = field(default_factory=lambda: NOTHING)
    eagerness: Vector = field(default_factory=lambda: NOTHING)
    stride: Vector = field(default_factory=lambda: NOTHING)
    steepest: Vector = field(default_factory=lambda: NOTHING)


@final
@dataclass(frozen=True, eq=False)
class Play:
    """What happens in a round.

    Parameters
    ----------
    problem : StackedProblem
        All g_i.
    method : str
        next, gradient-tracking or gradient-descent.
    rule : StepRule
        alpha[n+1] from alpha[n].
    caution : Caution or None
        How agents choose tau; None where it is a setting.
    wire_dtype : dtype
        How neighbors see z and y.
    """

    problem: StackedProblem
    method: str
    rule: StepRule
    caution: Caution | None
    wire_dtype: np.dtype[Any]

    def begun(self, w: Matrix, alpha: float) -> State:
        """Round 0 at w_i[0], (I, p)."""
        value, gradient = self.problem.values(w)
        y = gradient if self.tracks else gradient[:, :0]
        state = State(0, w, y, gradient, value, value, alpha)
        if self.caution is None:
            return state
        steepest = self._steepest(state, self.caution)
        care = np.full(len(w), max(BEGIN, self.caution.least(alpha)))
        tau, ones = self._tau(alpha, care, steepest, self.caution), np.ones(len(w))
        return replace(state, tau=tau, care=care, eagerness=ones, stride=np.inf * ones, steepest=steepest)

    @property
    def tracks(self) -> bool:
        """Whether y is tracked."""
        return self.method != "gradient-descent"

    def round(self, state: State, averagings: Sequence[Averaging]) -> State:
        """The next state.

        Parameters
        ----------
        state : State
        averagings : sequence of Averaging
            C of each exchange of the round.

        Raises
        ------
        SolveError
            nan or infinity, or a matrix that is not positive definite to rounding.
        """
        z, y, objective = self.proposed(state), state.y, state.objective
        for C in averagings:
            z = self._mixed(C, z)
            y = self._mixed(C, y) if self.tracks else y
            objective = C @ objective
        if not (np.isfinite(z).all() and np.isfinite(y).all()):
            raise SolveError(f"round {state.n}: parameters or gradients are nan or infinite")
        return self._settled(state, z, y, objective)

    def proposed(self, state: State) -> Matrix:
        """z_i before the first exchange, (I, p).

        Raises
        ------
        SolveError
            nan or infinity, or a matrix that is not positive definite to rounding.
        """
        problem, n_agents = self.problem, self.problem.n_agents
        r = problem.regularizer
        if self.method == "next":
            pi = n_agents * state.y
            pi -= problem.surrogate.kappa * state.gradient
            tau = state.tau if self.caution is not None else np.full(n_agents, problem.surrogate.tau)
            z = problem.best_responses(state.w, state.gradient, pi, tau).w
            z -= state.w
            z *= state.alpha
            z += state.w
            return z
        direction = n_agents * (state.y if self.tracks else state.gradient)
        if r.smooth:
            direction += r.gradient(state.w)
        z = state.w - state.alpha * direction
        if not np.isfinite(z).all():
            problem_is = "parameters are nan or infinite; a shorter method.step_size may help"
            raise SolveError(f"round {state.n}: {problem_is}")
        return z if r.smooth else r.prox(z, state.alpha)

    def _mixed(self, C: Averaging, x: Matrix) -> Matrix:
        """C x as the neighbors see it, and what rounding took, (I, p)."""
        seen = rounded(x, self.wire_dtype)
        mixed: Matrix = C @ seen
        if seen is not x:
            mixed += x - seen
        return mixed

    def _settled(self, state: State, w: Matrix, y: Matrix, objective: Vector) -> State:
        value, gradient = self.problem.values(w)
        if self.tracks:
            y += gradient - state.gradient
        if not (np.isfinite(y).all() and np.isfinite(value).all() and np.isfinite(gradient).all()):
            raise SolveError(f"round {state.n}: parameters, objective or gradient are nan or infinite")
        objective = objective + value - state.value
        alpha = self.rule.after(state.alpha)
        following = State(state.n + 1, w, y, gradient, value, objective, alpha)
        return following if self.caution is None else self._adapted(state, following, self.caution)

    # ---- tau of each agent, see `peer.careful` -----------------------------------------------

    def _adapted(self, state: State, following: State, caution: Caution) -> State:
        stride = _lengths(following.w - state.w)
        change = _lengths(following.gradient - state.gradient)
        told = _lengths(following.y - state.y)
        come_across = np.where(change < BLIND * told, told, change)
        seen = np.where(stride > 0.0, caution.n_agents * come_across / np.where(stride > 0.0, stride, 1.0), 0.0)
        steepest = np.maximum(np.maximum(self._steepest(following, caution), seen), FADES * state.steepest)
        shorter, pace = stride < NOISE * state.stride, caution.pace
        falls, most = pace ** (0.5 * state.eagerness), np.where(change < DIM * told, MOST_CARE, 1.0)
        fallen = np.where(state.care <= 1.0, state.care * falls, np.maximum(state.care * pace, falls))
        risen = np.where(
            state.care < 1.0, np.minimum(state.care / pace, 1.0), np.minimum(state.care / FADES, most)
        )  # `careful.eased` of each
        care = np.where(shorter, fallen, np.maximum(state.care, risen))
        eagerness = np.where(shorter, state.eagerness, TIRES * state.eagerness)
        care = np.maximum(care, caution.least(following.alpha))
        first, share = np.isinf(state.stride), 1.0 - pace
        mean = np.where(first, stride, (1.0 - share) * np.where(first, 0.0, state.stride) + share * stride)
        tau = self._tau(following.alpha, care, steepest, caution)
        return replace(following, tau=tau, care=care, eagerness=eagerness, stride=mean, steepest=steepest)

    def _tau(self, alpha: float, care: Vector, steepest: Vector, caution: Caution) -> Vector:
        return np.maximum((alpha if caution.keeps else 1.0) * care * steepest, SHORTEST)  # (b), `Caution.tau` of each

    def _steepest(self, state: State, caution: Caution) -> Vector:
        known = caution.n_agents * self.problem.steepness(state.w, state.gradient)
        sizes = _lengths(state.y)
        faint = sizes == 0.0
        sizes[faint] = np.abs(state.y[faint]).max(axis=1, initial=0.0)  # squares of what is below 1e-162 are 0
        off = state.w - self.problem.regularizer.prox(state.w - caution.n_agents * state.y, 1.0)
        pulled: Vector = np.abs(off).max(axis=1, initial=0.0)
        return np.maximum(known, np.maximum(caution.n_agents * sizes, pulled) / np.maximum(1.0, _lengths(state.w)))


def _lengths(x: Matrix) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("ip,ip->i", x, x)))
