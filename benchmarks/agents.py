"""All agents of a run in one process, without sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peer.agent import Mixture, Proposal, State, exchange, settle
from peer.arrays import DTYPES
from peer.messages import Share
from peer.optim.steps import Constant, StepRule
from peer.problem import Problem
from topology import Graph
from topology.weights import Weights, metropolis

CONSTANT = Constant()


def mixed(
    problems: Sequence[Problem],
    states: Sequence[State],
    proposals: Sequence[Proposal],
    graph: Graph,
    weights: Weights = metropolis,
    rule: StepRule = CONSTANT,
    wire_dtype: np.dtype[Any] = DTYPES["f8"],
) -> list[State]:
    """The end of a round of one exchange, of all agents: (7) and (8)."""
    pairs = list(zip(states, proposals, strict=True))
    shares = [Share(i, state.n, state.n, state.objective, state.y, own.z) for i, (state, own) in enumerate(pairs)]
    following = []
    for i, (state, proposal) in enumerate(pairs):
        heard = {j: shares[j] for j in graph.neighbors(i)}
        after = exchange(state, Mixture.of(state, proposal), heard, weights(graph, i), wire_dtype)
        following.append(settle(problems[i], state, proposal, after, rule))
    return following
