"""Whether what feedback gives an agent goes with its gradient; and the way back to backprop, where it does not.

Every so many rounds n, the agent compares the direction d that `peer.optim.feedback` gives it at w_i[n] with the
gradient g there, both over its probe: some of its samples, the same ones in the whole run, or all if it has few. What
counts is the cosine over the parameters of that layer where it is least,

    a_i[n] = min over layers k that get feedback of <d_k, g_k> / (||d_k|| ||g_k||),    1 if both vanish, 0 if one does:

a layer that does not learn is what the network suffers from, while those that do are longer, and would hide it.

It is about 0 at the beginning, since alignment is learned. So nobody is blamed before `grace` rounds have gone by
without a_i >= `least`, neither at the start nor later. If they have, the agent goes back to backprop for good: from
that round on its field is its gradient, and as in (8), where w_i moves, y_i takes the difference,

    y_i[n] <- y_i[n] + grad g_i(w_i[n]) - e_i[n],    e_i[n] <- grad g_i(w_i[n]),

so that (9) holds for the fields of all agents, whoever of them has gone back. Each goes for itself: (9) and the
consensus do not mind. A cosine that is nan is none that is >= `least`.

Where all a_i are positive, a small step along the mean of the directions may still lead uphill, for the agents' add up;
where they are 0 or less, feedback does not even help the agent that it comes from. Where an agent stands still because
d vanishes and g does not, a_i is 0. After all have gone back, the method is (12) with gradients again, with all that is
known of it.

The default of `least`, 0.1: with random weights and feedback cosines over all layers of 64 to 128 units are 0 with a
deviation of 0.03 to 0.05, so that 0.1 was learned; and of the networks of `python -m benchmarks.feedback` the one that
loses most by feedback, with a bottleneck of 2 units, ends with 0.06 or 0.10, by what was drawn, all others with more.
That of `grace`, 200: of agents with two layers of 64 or 128 units and the digits the slowest came to 0.1 in 140 rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from peer.agent import State
from peer.arrays import Vector
from peer.errors import SolveError
from peer.optim import feedback
from peer.optim.batches import order
from peer.optim.chains import ChainPass
from peer.optim.surrogates import Data
from peer.optim.vectors import is_finite
from peer.problem import Problem
from topology import PeerId

PROBE: Final = 256
"""Samples of a probe. Of 1,300 digits, with two layers of 128 units in training, cosines over so many have a deviation
of 0.03 to 0.04 from those over all, and up to 0.1; more where the gradient nearly vanishes."""


@final
@dataclass(frozen=True, eq=False)
class Watch:
    """How an agent looks at its feedback.

    Parameters
    ----------
    data : Data
        Its probe.
    every : int
        Rounds between two looks, >= 1.
    least : float
        Cosine from which on feedback is trusted.
    grace : int
        Rounds for which it may be less.
    """

    data: Data
    every: int
    least: float
    grace: int


def probe(data: Data, seed: int, agent: PeerId) -> Data:
    """Some of an agent's samples, chosen by seed and agent alone."""
    m = len(data.inputs)
    return data if m <= PROBE else data.drawn(np.sort(order(f"{seed}:{agent}:probe", m)[:PROBE]))


def chosen(problem: Problem, state: State) -> Problem:
    """g_i with the field that the agent has in this state."""
    return replace(problem, feedback=None) if state.back_n else problem


def begun(problem: Problem, state: State, watch: Watch) -> State:
    """A first state with its cosines: too early to draw conclusions."""
    return state.changed(alignments=measured(problem, state, watch))


def kept(state: State, first: State) -> State:
    """`first`, with which an epoch begins, with what is known of the feedback in `state`."""
    return first.changed(alignments=state.alignments, aligned_n=state.aligned_n, back_n=state.back_n)


def watched(problem: Problem, state: State, following: State, watch: Watch) -> State:
    """`following` with what is known of the feedback by then; if it is to be no longer, with the gradient.

    Parameters
    ----------
    problem : Problem
        `chosen` for `state`.
    state, following : State
        Of agent i at the beginning of a round or waking, and at its end.
    watch : Watch

    Raises
    ------
    SolveError
        The gradient is nan or infinite.
    """
    following, n = kept(state, following), following.n
    if state.back_n or n % watch.every:
        return following
    found = measured(problem, following, watch)
    aligned_n = n if found.min() >= watch.least else following.aligned_n  # nan is not
    following = following.changed(alignments=found, aligned_n=aligned_n)
    if n - aligned_n < max(watch.grace, 1):
        return following
    gradient = replace(problem, feedback=None).gradient(following.w)
    y = following.y + (gradient - following.gradient)
    if not is_finite(y):
        raise SolveError(f"round {state.n}: the gradient is nan or infinite")
    return following.changed(y=y, gradient=gradient, back_n=n)


def told(state: State, watch: Watch) -> dict[str, object]:
    """What a line of metrics says of a state, if there was a look at its feedback: a_i, and cosines by layer."""
    if state.n % watch.every or state.back_n not in (0, state.n) or not state.alignments.size:
        return {}
    least, *layers = (float(one) if math.isfinite(one) else None for one in (state.alignments.min(), *state.alignments))
    return {"alignment": least, "alignments": layers}


def reason(state: State, watch: Watch) -> str:
    """Why an agent has gone back, in words."""
    looked = f"the least cosine of a layer's feedback and gradient is {state.alignments.min():.3g}"
    return f"{looked}, and was never {watch.least:g} or more since round {state.aligned_n}"


def measured(problem: Problem, state: State, watch: Watch) -> Vector:
    """Cosines by layer at w_i, over the probe."""
    here = watch.data.at(state.w)
    assert problem.feedback is not None, "who has gone back looks no more"
    assert isinstance(here, ChainPass), "feedback goes to the layers of a chain"
    e = watch.data.loss.gradient(here.outputs)
    direction = problem.feedback.direction(here, e, problem.each)
    return feedback.alignment(here.chain, direction, here.vjp(e))
