"""When an agent linearizes its network anew: every so many rounds, or when its linear model has become wrong.

Between two linearizations g_i is that of the network linearized at an anchor, here ^g_i: a convex problem, of which the
Jacobian and its factors stay, see `peer.optim.frozen`. At the end of a round, before the next begins, the anchor may
become w_i[n+1]; then ^g_i is another function, and (8) takes the difference of its gradients there:

    (a)  y_i[n+1] += grad g_i(w_i[n+1]) - grad ^g_i(w_i[n+1]),

for at its anchor the gradient of ^g_i is that of g_i. So (9) holds in all rounds, for the gradients of the ^g_i of the
moment. The tracked objective changes likewise.

- Every k rounds: where n + 1 is a multiple of k. With k = 1 that is NEXT as published, for which no anchors are needed.
- `auto`: each agent for itself, where

    (b)  d_i > SHARE r_i,   d_i = I ||grad g_i(w_i) - grad ^g_i(w_i)||,   r_i = ||w_i - prox_r(w_i - I y_i)||

  at the end of the round, or where one of them is no number. After it d_i <= SHARE r_i, as d_i = 0 at a new anchor.

Law of (b). Where the agents agree, w_i = w and y_i is the mean, so that r_i is the same r for all. As prox_r is
nonexpansive, what is left of stationarity of the network itself at w is

    ||w - prox_r(w - sum_i grad g_i(w))|| <= r + ||sum_i (grad g_i - grad ^g_i)(w)|| <= r + mean d_i <= (1 + SHARE) r.

So whatever the run comes to rest at, r = 0, is a stationary point of (1), with no linearization left in it; and where r
falls, it is that of the network up to the factor 1 + SHARE. Were SHARE 0, every round would linearize anew: NEXT.

d_i takes a pass through the network in each round, and no Jacobian. Where the data fit, d_i is of second order in the
way from the anchor, so that near a stationary point agents linearize rarely, and where the residuals of the data are
large about as often as r falls by a factor. There is no proof that (b) leads to rest: nor is there of NEXT with
constant steps, which it is where it linearizes in every round.

Sources: V. Shamanskii, "A modification of Newton's method" (1967), for a Jacobian that stays for some steps;
B. Ghorbani et al. (NeurIPS 2019) for lazy training; (b) is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, final

import numpy as np

from peer.agent import State
from peer.arrays import Vector
from peer.errors import SolveError
from peer.optim.regularizers import Regularizer
from peer.optim.vectors import length

SHARE: Final = 0.25
"""Of the tracked residual, in (b): of 0.1, 0.25, 0.5 and 1 the one with the fewest rounds on breast-cancer and on
diabetes, see `python -m benchmarks.lazy --only runs`. On digits with a squared loss it takes 1,048 rounds where the
method as published needs 621."""


class Linearizable(Protocol):
    """What is needed of a problem."""

    @property
    def regularizer(self) -> Regularizer:
        """Penalty r."""

    def value(self, w: Vector) -> float:
        """g_i(w), of the network itself."""

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,), of the network itself."""


@final
@dataclass(frozen=True)
class Renewal:
    """When networks are linearized anew.

    Parameters
    ----------
    every : int
        k >= 2 rounds; 0: by (b).
    """

    every: int = 0


def begun(state: State) -> State:
    """A first state, at whose w_i the network is linearized."""
    return state.changed(anchor=state.w, anchored=state.n)


def told(state: State, renewal: Renewal) -> dict[str, object]:
    """What a line of metrics says of the linearized network."""
    found: dict[str, object] = {"anchored": state.anchored}
    return found if renewal.every else found | {"departure": state.departure, "allowed": state.allowed}


def renewed(problem: Linearizable, following: State, renewal: Renewal, n_agents: int) -> State:
    """The state at the end of a round, its anchor where it is or at w_i.

    Parameters
    ----------
    problem : Linearizable
        g_i.
    following : State
        Of agent i, with the gradient and value of ^g_i at w_i; without rounds y_i is that of the beginning.
    renewal : Renewal
    n_agents : int
        I.

    Raises
    ------
    SolveError
        The objective, or its gradient, is nan or infinite.
    """
    w = following.w
    if renewal.every and following.n % renewal.every:
        return following
    gradient, departure, allowed = problem.gradient(w), 0.0, 0.0
    if not renewal.every:
        departure = n_agents * length(gradient - following.gradient)
        allowed = SHARE * length(w - problem.regularizer.prox(w - n_agents * following.y, 1.0))
        if departure <= allowed:
            return following.changed(departure=departure, allowed=allowed)
    value = problem.value(w)
    y = following.y + (gradient - following.gradient)
    if not (np.isfinite(y).all() and np.isfinite(value)):
        raise SolveError(f"round {following.n}: objective or gradient of the network are nan or infinite")
    return following.changed(
        y=y,
        gradient=gradient,
        value=value,
        objective=following.objective + value - following.value,
        anchor=w,
        anchored=following.n,
        departure=departure,
        allowed=allowed,
    )
