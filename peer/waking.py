"""NEXT without rounds: one waking of an agent, as pure functions of its state and its mass.

Source: Y. Tian, Y. Sun, G. Scutari, "Achieving linear convergence in distributed asynchronous
multi-agent optimization" (2018), with the surrogates of NEXT in the place of a gradient step.
A waking is: `Flows.absorb` (13), `observe` and `propose` (4)-(6), `move` (14), `Flows.track` with
the new `source` (15), `Flows.push` (16). Departures:

1. (4) needs the gradient itself and not a multiple of it, so y_i = s_i/phi_i; where the source
   steps along s_i, the step is damped by min(1, phi_i), see `propose`, which for the full
   linearization without regularizer is the source's step.
2. v_j is mixed once, when it comes, and not again at every waking: the last words of a neighbor
   that is slow, or gone, hold nobody back.
3. The mean of g_j(w_j) is tracked as the gradient is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from peer import agent
from peer.agent import LocalProblem, Proposal, State
from peer.arrays import Vector
from peer.errors import SolveError
from peer.optim.solvers import Solution
from peer.optim.steps import StepRule
from peer.optim.vectors import is_finite
from topology import PeerId

PHI_LEAST: Final = 2.0**-20
"""Smallest weight with which y = s/phi is used: s carries rounding of 2^-53 of the gradients, y then has 33 bits."""


def source(state: State) -> Vector:
    """u_i = (grad g_i(w_i), g_i(w_i), 1), (p + 2,): what agent i puts into (17)."""
    return np.concatenate((state.gradient, (state.value, 1.0)))


def observe(state: State, mass: Vector, n_agents: int) -> State | None:
    """y_i = s_i/phi_i and the tracked objective h_i/phi_i, from the mass (p + 2,); None where they mean nothing.

    All weights are positive, and I together, but for a while after an agent went back to an old
    checkpoint: then some are negative and others larger than I, and y_i is used by neither.

    Raises
    ------
    SolveError
        nan or infinity in the mass.
    """
    if not is_finite(mass):
        raise SolveError(f"waking {state.n}: the mass of gradients is nan or infinite")
    phi = float(mass[-1])
    if not PHI_LEAST <= phi <= n_agents + PHI_LEAST:  # that much more by rounding
        return None
    return state.changed(y=mass[:-2] / phi, objective=float(mass[-2]) / phi)


def propose(problem: LocalProblem, state: State, phi: float, n_agents: int) -> Proposal:
    """(4)-(6) with y_i of `observe`, the step damped: v_i = w_i + min(1, phi_i) alpha (w~_i - w_i).

    When w_i moves, s_i changes by the change of grad g_i, and y_i by 1/phi_i of that. An agent that
    wakes often, or hears little, has a small phi_i; without the damping it overshoots by 1/phi_i.

    Raises
    ------
    SolveError
        nan or infinity in the surrogate or its solution.
    """
    damped = state.changed(alpha=min(1.0, phi) * state.alpha)
    return agent.propose(problem, damped, n_agents)


def move(
    problem: LocalProblem, state: State, v: Vector | None, theirs: Mapping[PeerId, Vector], rule: StepRule
) -> State:
    """(14): w_i+ = the mean of v_i and the v_j heard, row-stochastic; and g_i there.

    Parameters
    ----------
    problem : LocalProblem
        g_i.
    state : State
        Of this waking.
    v : Vector or None
        v_i, (p,): `Proposal.z`, or w_i while y_i means nothing; None for a newcomer, which begins where
        its neighbors are.
    theirs : mapping of int to Vector
        v_j, (p,), of the neighbors heard since the last waking.
    rule : StepRule
        alpha of the next waking.

    Returns
    -------
    State
        At the end of the waking.

    Raises
    ------
    SolveError
        nan or infinity in parameters, objective or gradient.
    """
    heard = [*([] if v is None else [v]), *(other for _, other in sorted(theirs.items()))]
    w = heard[0] / len(heard)
    for other in heard[1:]:
        w += other / len(heard)
    linearized = problem.linearized(state.anchor)
    gradient, value = linearized.estimate(state.n + 1, w, state.w, state.gradient, state.value)
    if not (is_finite(w) and is_finite(gradient) and np.isfinite(value)):
        raise SolveError(f"waking {state.n}: parameters, objective or gradient are nan or infinite")
    return state.changed(n=state.n + 1, w=w, gradient=gradient, value=value, alpha=rule.after(state.alpha))


@final
@dataclass(frozen=True, eq=False)
class Woken:
    """Outcome of the mathematics of a waking.

    Parameters
    ----------
    seen : State
        At its beginning, with y_i of the moment, or the last that meant something.
    solution : Solution or None
        Of the surrogate; None where y_i meant nothing.
    v : Vector
        v_i, (p,), for the neighbors.
    state : State
        At its end.
    """

    seen: State
    solution: Solution | None
    v: Vector
    state: State


def wake(
    problem: LocalProblem,
    state: State,
    mass: Vector,
    theirs: Mapping[PeerId, Vector],
    n_agents: int,
    rule: StepRule,
    is_new: bool = False,
) -> Woken:
    """A waking between `Flows.absorb`, which gives the v_j in `theirs`, and `Flows.track`: (4)-(6), (14).

    Parameters
    ----------
    problem, state : LocalProblem, State
        g_i, and the agent at the end of the waking before.
    mass : Vector
        m_i after (13), (p + 2,).
    theirs : mapping of int to Vector
        v_j, (p,), of the neighbors heard since then.
    n_agents : int
        I.
    rule : StepRule
        alpha of the next waking.
    is_new : bool
        Whether the agent has just come in, and takes over where its neighbors are.

    Raises
    ------
    SolveError
        nan or infinity.
    """
    seen = observe(state, mass, n_agents)
    proposal = None if seen is None or is_new else propose(problem, seen, float(mass[-1]), n_agents)
    before = state if seen is None else seen
    v = before.w if proposal is None else proposal.z
    after = move(problem, before, None if is_new else v, theirs, rule)
    solution = None if proposal is None else proposal.solution
    return Woken(before, solution, after.w if is_new else v, after)
