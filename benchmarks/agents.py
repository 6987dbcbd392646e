"""All agents of a run in one process, without sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from peer import learning
from peer.agent import Mixture, Proposal, State, exchange, settle
from peer.arrays import DTYPES, Vector
from peer.data import Cut
from peer.messages import Share
from peer.optim.steps import Constant, StepRule
from peer.problem import Problem
from peer.settings import Experiment
from topology import Graph
from topology.weights import Weights, metropolis

CONSTANT = Constant()


def problems_of(experiment: Experiment) -> tuple[list[Problem], Vector]:
    """g_i of all agents, and where they start."""
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        shards = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, shards[0], max(shard.n_classes for shard in shards), initial)
    n_samples = sum(shard.n_samples for shard in shards)
    problems = [learning.problem_of(experiment, model, shard, n_samples) for shard in shards]
    return problems, initial.vector(model, experiment.seed, problems[0].regularizer)


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
