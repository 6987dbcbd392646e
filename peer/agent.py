"""NEXT itself: one agent, one round, as pure functions of its state.

Source: P. Di Lorenzo, G. Scutari, "NEXT: In-network nonconvex optimization" (2016), in the form
for neural networks of S. Scardapane, P. Di Lorenzo (2017). Departures:

1. One more scalar is tracked like y, the mean of g_i(w_i), so that every agent can estimate G.
2. Where shares are rounded on the wire, the sender keeps what rounding took, so that (9) stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from peer.arrays import Vector, is_finite, rounded
from peer.errors import ProtocolError, SolveError
from peer.messages import Share
from peer.optim.solvers import Solution
from peer.optim.steps import StepRule
from topology import PeerId


class LocalProblem(Protocol):
    """What an agent needs of g_i."""

    @property
    def kappa(self) -> float:
        """Multiple of the own curvature in the surrogate."""

    def value(self, w: Vector) -> float:
        """g_i(w)."""

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,)."""

    def best_response(self, w: Vector, gradient: Vector, pi: Vector) -> Solution:
        """Minimizer of (5)."""


@final
@dataclass(frozen=True, eq=False)
class State:
    """Agent i at the start of a round.

    Parameters
    ----------
    n : int
        Round.
    w : Vector
        w_i[n], (p,).
    y : Vector
        Tracker y_i[n] of the mean gradient, (p,).
    gradient : Vector
        grad g_i(w_i[n]), (p,).
    value : float
        g_i(w_i[n]).
    objective : float
        Tracker of the mean of g_j(w_j).
    alpha : float
        Step size alpha[n].
    """

    n: int
    w: Vector
    y: Vector
    gradient: Vector
    value: float
    objective: float
    alpha: float


@final
@dataclass(frozen=True, eq=False)
class Proposal:
    """Outcome of the surrogate of one round: the inner solution, and z_i of (6), (p,)."""

    solution: Solution
    z: Vector


def initial(problem: LocalProblem, w: Vector, alpha: float) -> State:
    """State at round 0 with w_i[0] = w, (p,): y_i[0] = grad g_i(w_i[0])."""
    gradient, value = problem.gradient(w), problem.value(w)
    return State(0, w, gradient, gradient, value, value, alpha)


def propose(problem: LocalProblem, state: State, n_agents: int) -> Proposal:
    """Local half of round n: (4), (5), (6).

    Raises
    ------
    SolveError
        nan or infinity in the surrogate or its solution.
    """
    pi = n_agents * state.y - problem.kappa * state.gradient
    solution = problem.best_response(state.w, state.gradient, pi)
    return Proposal(solution, state.w + state.alpha * (solution.w - state.w))


def absorb(
    problem: LocalProblem,
    state: State,
    proposal: Proposal,
    shares: Mapping[PeerId, Share],
    weights: Mapping[PeerId, float],
    rule: StepRule,
    wire_dtype: np.dtype[Any],
) -> State:
    """Network half of round n: consensus (7) and dynamic consensus (8) with the shares of all neighbors.

    Parameters
    ----------
    problem : LocalProblem
        g_i.
    state, proposal : State, Proposal
        Of this round.
    shares : mapping of int to Share
        One of each neighbor j in N_i[n], whole.
    weights : mapping of int to float
        c_ij of the neighbors and c_ii of the agent, which is the one key that has no share.
    rule : StepRule
        alpha[n+1] from alpha[n].
    wire_dtype : dtype
        How neighbors see this agent's own z and y.

    Returns
    -------
    State
        At the start of round n + 1. Conserved over all agents, to rounding: (9).

    Raises
    ------
    ProtocolError
        nan or infinity in a neighbor's share ("nonfinite"); names the first such neighbor.
    SolveError
        nan or infinity of the agent's own making.
    """
    w = mix(proposal.z, {j: share.z for j, share in shares.items()}, weights, wire_dtype)
    y = mix(state.y, {j: share.y for j, share in shares.items()}, weights, wire_dtype)
    seen = {j: shares[j].objective if j in shares else state.objective for j in weights}
    objective = math.fsum(weight * seen[j] for j, weight in weights.items())
    gradient, value = problem.gradient(w), problem.value(w)
    y += gradient - state.gradient
    if not (is_finite(y) and is_finite(w) and np.isfinite(value)):
        for j, share in sorted(shares.items()):  # whose doing it is, is looked for only when it has happened
            if not all(vector is None or is_finite(vector) for vector in (share.y, share.z)):
                raise ProtocolError("nonfinite", "expected finite numbers, found nan or infinity", j, state.n)
        raise SolveError(f"round {state.n}: parameters, objective or gradient are nan or infinite")
    return State(state.n + 1, w, y, gradient, value, objective + value - state.value, rule.after(state.alpha))


def mix(
    own: Vector, theirs: Mapping[PeerId, Vector | None], weights: Mapping[PeerId, float], wire_dtype: np.dtype[Any]
) -> Vector:
    """sum_j c_ij v_j over j ascending, (p,); the sum over all agents is that of their own v, to rounding."""
    seen = rounded(own, wire_dtype)
    total = np.zeros_like(own)
    for j, weight in sorted(weights.items()):
        vector = theirs.get(j, seen)
        if vector is None:
            raise ValueError(f"the share of agent {j} is not whole")
        total += weight * vector
    return total if seen is own else total + (own - seen)
