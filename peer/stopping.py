"""Stopping without a coordinator: all agents learn the same number, and so stop at the same round, or none.

Rounds are cut into windows, see `topology.windows.window_end`: the first begins in round 0, each other one where
the last ends, and a window ends with the first round by whose end what any agent knew at its beginning has come to all
of them along the links of its exchanges, of which a round has K, mostly one. That follows from the schedule alone, so
every agent knows each window without being told.

In every round n of a window agent i measures

    m_i[n] = max( ||w_i - prox_r(w_i - I y_i)||_inf,                            how far it is from stationary
                  ||z_j - z_i||_inf, I ||y_j - y_i||_inf for its neighbors j,   how far neighbors are from agreeing
                  ||w_i[n+1] - w_i||_inf, I ||y_i[n+1] - y_i||_inf )            how far it has moved

with z_i and y_i as the neighbors see them: where a round has several exchanges, in each of them, as mixed so far.
`peak` is the largest m_i of the window so far; `flood`, which each share carries, begins a window as the peak of the
window before, and becomes in every exchange the largest of the agent's own and its neighbors'. At the end of a window
flood is `agreed` upon, and the run stops if it is <= run.tolerance.

Why all stop at the same round. Let P be the largest peak of all agents at the end of window k - 1. During window k no
flood exceeds P, for it is the largest of some of these peaks. At its beginning some agent has flood P. By the choice of
the window's end there are, from it to every other agent, links of exchanges that follow each other in time, along each
of which the share of that exchange carries at least what its sender had heard; so at the end of window k each agent has
P, and where all have it before the last exchange of a round, they keep it. The largest of some numbers is one of them,
the wire carries it in float64 whatever tensors are rounded to, and no order or repetition changes it: all agents have P
bit for bit. The beginning of window 0 has no peak, and floods infinity.
So a run can stop at the end of window 1 at the earliest. An agent without neighbors in a round keeps its flood; of one
agent alone every round is a window. What is kept here is part of `State`, so that a resumed peer goes on with it.

What it means. Let all measures of a window of D rounds be <= e, and tensors on the wire be float64.

1. By (7) an exchange moves z_a by a mean of differences z_j - z_a, clipped or not, so by e at most, and all K exchanges
   of a round by R e, R = K; with a polynomial R is its `reach`, see `topology.gossip`. (With weights that may be
   negative, R is larger by the largest sum over j of |c_ij|.) So two that meet in an exchange of round m have
   ||w_a[m+1] - w_b[m+1]||_inf <= (2 R + 1) e. Neither moves by more than e a round, and the links of a window connect
   all agents. So at every round of the window any two are at most (I - 1)(2 D + 2 R + 1) e apart; in a graph that stays
   the same, at most (2 R + 1) e for each link between them.
2. Likewise I ||y_i - y_j||_inf <= (I - 1)(2 D + 2 K - 1) e: two that meet in the last exchange of a round only were
   moved by K - 1 others before. (A polynomial has one graph, in which they meet in the first.) By (9) I y_i misses
   sum_j grad g_j(w_j) by no more.
3. prox_r of a separable r is nonexpansive in each coordinate, so with the true gradients in the place of I y_i the
   stationarity residual of every agent is at most (1 + (I - 1)(2 D + 2 K - 1)) e; that of a group penalty is
   nonexpansive in the 2-norm, and the second term is larger by the root of the size of a group.

These are bounds for the worst case; near a solution the residual at the mean of all is e or less. They hold in the last
window but one: what is measured in the last, in which e floods, nobody knows of all others when it ends.

With batches (9) holds for the estimates of the gradients, see `peer.problem`, and 2 and 3 speak of these. Each is off
by no more than (L + L_B) times how far its agent has moved since the last full pass, with L and L_B the largest
curvatures of g_i and of the (m/b) g_B: with steps of at most e, by `refresh` (L + L_B) e, up to the root of p.

A neighbor that lies can keep a run from stopping early, and one that tells different floods to different neighbors can
make them stop at different rounds: those that go on then end for want of their neighbors. Clipping does not help there.
Source: max-consensus along the schedule; the README's section on stopping early says what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peer.agent import Mixture, State
from peer.arrays import Tensor, Vector, rounded
from peer.messages import Share
from peer.optim.vectors import largest
from topology import PeerId, Schedule
from topology.windows import window_end


class Stationary(Protocol):
    """What is needed of a problem."""

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf."""


def apart(own: Mixture, shares: Mapping[PeerId, Share], n_agents: int, wire_dtype: np.dtype[Any]) -> float:
    """How far neighbors are from agreeing in an exchange, >= 0; infinity where that is too large for a number.

    Parameters
    ----------
    own : Mixture
        Of agent i before the exchange.
    shares : mapping of int to Share
        One of each neighbor, whole.
    n_agents : int
        I.
    wire_dtype : dtype
        How neighbors see this agent's own z and y.
    """
    z, y = rounded(own.z, wire_dtype), rounded(own.y, wire_dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        found = [(_distance(share.z, z), n_agents * _distance(share.y, y)) for share in shares.values()]
    return _largest(np.array(found))


def measure(problem: Stationary, state: State, following: State, apart: float, n_agents: int) -> float:
    """m_i[n], >= 0, of the round from `state` to `following`; infinity where a difference is too large for a number.

    Parameters
    ----------
    problem : Stationary
        g_i with r.
    state, following : State
        Of agent i at the beginning of the round, and at its end.
    apart : float
        The largest of `apart` over the exchanges of the round.
    n_agents : int
        I.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = [
            problem.stationarity(state.w, n_agents * state.y),
            _distance(following.w, state.w),
            n_agents * _distance(following.y, state.y),
            apart,
        ]
    return _largest(np.array(found))


def _largest(found: NDArray[np.float64]) -> float:
    return float(np.max(np.where(np.isnan(found), np.inf, found), initial=0.0))


def _distance(a: Tensor | None, b: Vector) -> float:
    assert isinstance(a, np.ndarray), "a share is not whole"
    return largest(a - b)


def watched(
    state: State,
    following: State,
    measured: float,
    flood: float,
    schedule: Schedule,
    n_rounds: int,
    n_steps: int = 1,
) -> State:
    """`following` with what is known of the open window, and of the next one where it closes.

    Parameters
    ----------
    state, following : State
        Of agent i at the beginning of round n, and at its end.
    measured : float
        m_i[n].
    flood : float
        After the exchanges of the round.
    schedule : Schedule
    n_rounds : int
        Length of the run; a window that it does not complete never closes.
    n_steps : int
        Exchanges K of a round.
    """
    closes = closing(state, schedule, n_rounds, n_steps)
    peak = max(state.peak, measured)
    if following.n < closes:
        return following.changed(closes=closes, peak=peak, flood=flood, agreed=state.agreed)
    return following.changed(closes=closes, peak=0.0, flood=peak, agreed=flood)


def closing(state: State, schedule: Schedule, n_rounds: int, n_steps: int) -> int:
    """Round at whose beginning the window closes that is open in the round of this state; never: n_rounds + 1."""
    if state.closes > state.n:
        return state.closes
    return window_end(schedule, state.n, n_rounds, n_steps) or n_rounds + 1  # one begins in this round


def is_over(state: State, tolerance: float) -> bool:
    """Whether the run stops before the round of this state: so it is for all agents, or for none."""
    return state.agreed <= tolerance
