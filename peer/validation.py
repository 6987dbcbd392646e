"""Stopping early on samples that nobody trains on, without a coordinator, and which parameters are the result then.

Each agent holds out a part of its shard, see `peer.shards`. With V_i the mean loss over these samples, each times its
weight if they have such, times the agent's part m_i/M of what is trained on, the network's validation loss is sum_i
V_i(w_i), and x_i tracks the mean of its terms as y_i does that of the gradients:

    x_i[n+1] = sum_j c_ij x_j[n] + V_i(w_i[n+1]) - V_i(w_i[n]),   x_i[0] = V_i(w_i[0]),

so that sum_i x_i[n] = sum_i V_i(w_i[n]) in every round.

No two agents have the same x, and they must agree. Rounds are cut into the windows of `peer.stopping`. At the
beginning of a window, in round c, each agent keeps its w_i[c] as the candidate, and what it has heard, `worst`, is its
own x_i[c]; in each exchange of the window it becomes the largest of its own and those that its neighbors' shares carry.
At the end of the window `worst` is the verdict on the candidate. If it is less than the least one so far, `best`, the
candidate is kept in the place of the last one that was, with its round; else, if c is `run.validation_patience` rounds
or more after that round, the run stops. The result of each agent is the candidate that it has kept.

Why all agree. All know each window, from the schedule. By the choice of its end there are from each agent to every
other links of exchanges that follow each other in time, along each of which a share carries at least what its sender
had heard; so at the end of the window from c all have V[c] = max_i x_i[c], as in `peer.stopping` bit for bit, since the
largest of some numbers is one of them and float64 on the wire whatever tensors are rounded to. `best`, the round of the
candidate that is kept, and whether the run is over are functions of the verdicts V[0], V[c_1], ... so far and of the
schedule alone: by induction over windows they are the same for all agents in every round. So all stop at the same
round, and what they keep are their parameters of one and the same round.

What it means. I V[c] >= sum_i x_i[c] = sum_i V_i(w_i[c]), with a difference that vanishes as the x_i come to agree: a
candidate is never thought better than it is. In the first windows the x_i have hardly met, and verdicts are too high.
A candidate is judged a window after it was; those of the last window of a run, if it is not complete, never are. If
none was judged, the result is where the run has ended.

A neighbor that lies can make all keep what it likes, and clipping does not help there.
"""

from __future__ import annotations

import math

from peer.agent import Mixture, State
from peer.arrays import Vector
from peer.errors import SolveError
from peer.optim.surrogates import Data
from peer.stopping import closing
from topology import Schedule


def loss(held_out: Data, w: Vector, n: int) -> float:
    """V_i(w) at the start of round n; `weight` in `held_out` is m_i/(M v) for v samples.

    Raises
    ------
    SolveError
        It is nan or infinite.
    """
    value = held_out.value(w)
    if not math.isfinite(value):
        raise SolveError(f"round {n}: the validation loss is nan or infinite")
    return value


def begun(state: State, held_out: Data) -> State:
    """The state of round 0 with x_i[0], and the first candidate.

    Raises
    ------
    SolveError
        The loss is nan or infinite.
    """
    value = loss(held_out, state.w, state.n)
    return state.changed(held=value, validation=value, worst=value, candidate=state.w)


def told(own: State | Mixture) -> tuple[float, float]:
    """What the shares of an exchange carry: x_i, and the largest x that was heard of those of the open window."""
    return own.validation, own.worst


def tracked(state: State, following: State, mixed: Mixture, held_out: Data) -> State:
    """`following`, the state at the end of the round from `state`, with x_i there.

    Parameters
    ----------
    state, following : State
        Of agent i.
    mixed : Mixture
        After the last exchange of the round.
    held_out : Data
        Of agent i.

    Raises
    ------
    SolveError
        The loss is nan or infinite.
    """
    value = loss(held_out, following.w, following.n)
    return following.changed(held=value, validation=mixed.validation + value - state.held)


def watched(
    state: State, following: State, mixed: Mixture, schedule: Schedule, n_rounds: int, n_steps: int = 1
) -> State:
    """`following`, with x_i already, with what is known of the open window, and of the next one where it closes.

    Parameters
    ----------
    state, following : State
        Of agent i at the beginning of a round, and at its end.
    mixed : Mixture
        After the last exchange of the round.
    schedule : Schedule
    n_rounds : int
        Length of the run; a window that it does not complete never closes.
    n_steps : int
        Exchanges K of a round.
    """
    closes = closing(state, schedule, n_rounds, n_steps)
    worst, best, best_n, kept = mixed.worst, state.best, state.best_n, state.kept
    if following.n < closes:
        still = {"candidate": state.candidate, "begun": state.begun, "waited": state.waited, "kept": kept}
        return following.changed(closes=closes, worst=worst, best=best, best_n=best_n, **still)
    if worst < best:
        best, best_n, kept = worst, state.begun, state.candidate
    return following.changed(
        closes=closes,
        worst=following.validation,
        candidate=following.w,
        begun=following.n,
        best=best,
        best_n=best_n,
        waited=state.begun - best_n,
        kept=kept,
    )


def is_over(state: State, patience: int) -> bool:
    """Whether the run stops before the round of this state, with 0 never: so it is for all agents, or for none."""
    return 0 < patience <= state.waited


def result(state: State) -> Vector:
    """What was kept, (p,); where nothing was, the parameters as they are."""
    return state.kept if state.kept.size else state.w
