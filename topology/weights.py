"""Weights with which an agent averages over its neighborhood."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from topology.graphs import Graph, PeerId
from topology.schedules import Schedule, connectivity_window


def metropolis(graph: Graph, i: PeerId) -> Mapping[PeerId, float]:
    """Metropolis weights (3) of agent i: its own and those of its neighbors, in ascending order.

    c_ij = 1/(1 + max(d_i, d_j)) for neighbors j, and c_ii = 1 - sum_j c_ij. Symmetric, so that
    the matrix of all agents is doubly stochastic for every undirected graph.

    Source: L. Xiao, S. Boyd, S. Lall, "Distributed average consensus with time-varying
    Metropolis weights", 2006.
    """
    neighbors = graph.neighbors(i)
    weights = {j: 1.0 / (1.0 + max(len(neighbors), graph.degree(j))) for j in neighbors}
    # fsum is the exact sum, rounded once: the builtin sum rounds differently before and after Python 3.12
    weights[i] = 1.0 - math.fsum(weights.values())
    return dict(sorted(weights.items()))


def mixing_matrix(graph: Graph) -> NDArray[np.float64]:
    """Mixing matrix C, (I, I): row i holds the weights of agent i. Symmetric and doubly stochastic."""
    matrix = np.zeros((graph.n_agents, graph.n_agents))
    for i in range(graph.n_agents):
        for j, weight in metropolis(graph, i).items():
            matrix[i, j] = weight
    return matrix


def mixing_rate(schedule: Schedule, n_rounds: int) -> float:
    """Factor by which consensus alone is sure to shrink the disagreement in a round, on average.

    The largest ||C[n+B-1] ... C[n] - 11'/I||_2^(1/B) over the windows n = 0, B, 2B, ... that the
    run consists of, B the connectivity window; for a static graph the second largest modulus of an
    eigenvalue of C. 0 is agreement at once, 1 is never. As in `connectivity_window`, a schedule
    whose period fits into n_rounds is looked at as if it ran for ever.

    Raises
    ------
    TopologyError
        The schedule never connects.
    """
    window = connectivity_window(schedule, n_rounds)
    mean = np.full((schedule.n_agents, schedule.n_agents), 1.0 / schedule.n_agents)
    period = schedule.period
    if period is not None and period <= n_rounds:  # 0, B, 2B, ... meets every multiple of the common divisor
        starts = range(0, period, math.gcd(period, window))
    else:
        starts = range(0, n_rounds - window + 1, window)
    worst = 0.0
    for start in starts:
        product = np.eye(schedule.n_agents)
        for n in range(start, start + window):
            product = mixing_matrix(schedule.graph(n)) @ product
        worst = max(worst, float(np.linalg.norm(product - mean, 2)))
    return float(worst ** (1.0 / window))
