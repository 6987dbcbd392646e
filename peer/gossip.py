"""The exchanges of a round, one agent's side: from what it proposes to what is left to settle.

In round n exchange k = 0, ..., K - 1 is the one with number n K + k: of the schedule, of its shares, and of the round
machine, see `peer.rounds`, for which each exchange is a round. In all of them the agents mix (z_i, y_i, objective)
further; w_i[n+1] is z_i after the last one, and y_i[n+1] is y_i then, with what has changed of grad g_i added, as in
(8). With K = 1 that is NEXT as published. Each exchange keeps the sums over all agents, and so (9) holds as it does
then. A round is all or nothing: an agent that was resumed begins it anew, and says the same again.

Source of several averagings between two steps: D. Jakovetić, J. Xavier, J. M. F. Moura, "Fast distributed gradient
methods", IEEE TAC 59(5) (2014), for gradients; of the polynomial see `topology.gossip.chebyshev`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from peer.agent import Clipping, Mixture, Proposal, State, exchange
from peer.links import Coding, Spoken, check_sendable
from peer.messages import Share
from peer.records import Record
from topology import PeerId
from topology.gossip import Gossip


@final
class Course(Record, frozen=True):
    """Agent i in the middle of a round.

    Parameters
    ----------
    state, proposal : State, Proposal
        At its start, and what came of its surrogate.
    k : int
        Exchange that comes next; K after the last.
    before, here : Mixture
        What its shares of exchanges k - 1 and k say; one and the same in the first.
    apart : float
        Where the run may stop early, the largest that was measured in the exchanges so far, see `stopping.apart`.
    spoken : Spoken or None
        What its shares of exchange k say, where that is not all of `here`.
    """

    state: State
    proposal: Proposal
    k: int
    before: Mixture
    here: Mixture
    apart: float = 0.0
    spoken: Spoken | None = None


def begun(state: State, proposal: Proposal) -> Course:
    """Before the first exchange."""
    own = Mixture.of(state, proposal)
    return Course(state, proposal, 0, own, own)


def spoken(
    course: Course, coding: Coding | None, gossip: Gossip, neighbors: Sequence[PeerId], wire_dtype: np.dtype[Any]
) -> Course:
    """Before the exchange that comes next, with what is said in it to these neighbors, where that is not all.

    Raises
    ------
    SolveError
        That is nan or infinite, or would be so as they see it.
    """
    n, here = course.state.n * gossip.n_steps + course.k, course.here
    if coding is None:
        if wire_dtype != here.z.dtype:  # else it is seen when they are mixed
            check_sendable(n, wire_dtype, here.z, here.y)
        return course
    return course.changed(spoken=Spoken(coding, n, coding.words(n, here.z, here.y, here.replicas, neighbors)))


def taken(
    course: Course,
    shares: Mapping[PeerId, Share],
    weights: Mapping[PeerId, float],
    gossip: Gossip,
    wire_dtype: np.dtype[Any],
    clipping: Clipping | None = None,
) -> Course:
    """After one more exchange.

    Parameters
    ----------
    course : Course
        Before it.
    shares, weights, wire_dtype, clipping
        Of this exchange, as for `agent.exchange`; shares may be clipped only where gossip is plain.
    gossip : Gossip
        All exchanges of a round.

    Raises
    ------
    ProtocolError
        nan or infinity in a neighbor's share ("nonfinite"); names the first such neighbor.
    SolveError
        nan or infinity of the agent's own making.
    """
    mixed = exchange(course.state, course.here, shares, weights, wire_dtype, clipping, course.spoken)
    if not gossip.is_plain:
        mixed = accelerated(course.before, course.here, mixed, gossip.gamma, gossip.omegas[course.k])
    return Course(course.state, course.proposal, course.k + 1, course.here, mixed, course.apart)


def accelerated(before: Mixture, here: Mixture, mixed: Mixture, gamma: float, omega: float) -> Mixture:
    """Of z, y and the scalars that are tracked, each x: x + (omega - 1)(x - x_before) + omega gamma (x_mixed - x).

    See `topology.gossip`. x_mixed is what `agent.exchange` makes of x: C x, and what rounding on the wire took. Added
    up over all agents, the differences are 0: so the sum of x is kept whatever the coefficients, and coefficients of
    which the last bits were not the same for all would do it no more harm than rounding does.
    """
    z = here.z + (omega - 1.0) * (here.z - before.z) + omega * gamma * (mixed.z - here.z)
    y = here.y + (omega - 1.0) * (here.y - before.y) + omega * gamma * (mixed.y - here.y)
    x, x_before, x_mixed = here.objective, before.objective, mixed.objective
    objective = x + ((omega - 1.0) * (x - x_before) + omega * gamma * (x_mixed - x))
    x, x_before, x_mixed = here.validation, before.validation, mixed.validation
    validation = x + ((omega - 1.0) * (x - x_before) + omega * gamma * (x_mixed - x))
    return Mixture(z, y, objective, validation, mixed.flood, mixed.worst, mixed.pulled, mixed.replicas)
