"""Weights with which an agent averages over its neighborhood.

The weights of all agents make a matrix C that fits the graph, and is symmetric to the last bit, so that its rows and
columns all have the sum 1, but for rounding. What one agent says to another is weighted by both in the same way, which
is what keeps (9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from topology.fdla import fastest
from topology.graphs import Edge, Graph, PeerId, TopologyError, hash64
from topology.outlets import InStep
from topology.schedules import Schedule, Static
from topology.windows import connectivity_window


class Weights(Protocol):
    """c_ij of an agent i by j, for every graph of a schedule."""

    def __call__(self, graph: Graph, i: PeerId, /) -> Mapping[PeerId, float]:
        """Weights of agent i: its own and those of its neighbors, in ascending order."""


kept = lru_cache(maxsize=64)
"""Makes a rule remember: in a static graph the weights of an agent are the same in every round."""


@kept
def metropolis(graph: Graph, i: PeerId) -> Mapping[PeerId, float]:
    """Metropolis weights (3) of agent i: its own and those of its neighbors, in ascending order.

    c_ij = 1/(1 + max(d_i, d_j)) for neighbors j, and c_ii = 1 - sum_j c_ij. Symmetric, so that
    the matrix of all agents is doubly stochastic for every undirected graph.

    Source: L. Xiao, S. Boyd, S. Lall, "Distributed average consensus with time-varying
    Metropolis weights", 2006.
    """
    return _with_own({j: _metropolis(graph, i, j) for j in graph.neighbors(i)}, i)


@kept
def max_degree(graph: Graph, i: PeerId) -> Mapping[PeerId, float]:
    """Maximum-degree weights of agent i, in ascending order: c_ij = 1/(1 + d_max), the same for all links.

    d_max is the largest degree of the round's graph. Agents need to know the whole graph, as here
    they do.

    Source: L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Systems & Control
    Letters 53 (2004), section 4.1; with 1 + d_max instead of d_max, so that C is nonnegative with
    a positive diagonal on bipartite graphs too, where 1/d_max would never agree.
    """
    weight = 1.0 / (1.0 + graph.max_degree)
    return _with_own(dict.fromkeys(graph.neighbors(i), weight), i)


@kept
def lazy_metropolis(graph: Graph, i: PeerId) -> Mapping[PeerId, float]:
    """Rows of (Id + C)/2 with the Metropolis C, in ascending order: no eigenvalue is negative.

    Source: A. Olshevsky, "Linear time average consensus and distributed optimization on fixed
    graphs", SIAM J. Control Optim. 55(6) (2017); there with max(d_i, d_j) in the place of 1 + max(d_i, d_j).
    """
    return _with_own({j: 0.5 * _metropolis(graph, i, j) for j in graph.neighbors(i)}, i)


@final
@dataclass(frozen=True)
class Fastest:
    """The weights of `fdla.fastest` on the one graph for which they were computed.

    Parameters
    ----------
    graph : Graph
        That graph.
    links : mapping of (int, int) to float
        Weight of each of its links.
    """

    graph: Graph
    links: Mapping[Edge, float]

    @classmethod
    def on(cls, graph: Graph) -> Fastest:
        """The weights of a graph; may take seconds.

        Raises
        ------
        TopologyError
            The graph is not connected, or too large.
        """
        return cls(graph, fastest(graph))

    def __call__(self, graph: Graph, i: PeerId, /) -> Mapping[PeerId, float]:
        """Weights of agent i: its own and those of its neighbors, in ascending order."""
        if graph != self.graph:
            raise ValueError("weights 'fdla': expected the graph for which they were computed, found another one")
        return _with_own({j: self.links[min(i, j), max(i, j)] for j in graph.neighbors(i)}, i)


def make(name: str, schedule: Schedule) -> Weights:
    """The named weights for a schedule; those of `fdla` are computed here, which may take seconds.

    Parameters
    ----------
    name : str
        metropolis, max-degree, lazy-metropolis or fdla.
    schedule : Schedule
        For fdla a `Static` one: the best weights of a single round are not the best of rounds that differ, and of a
        round that does not connect all agents there are none.

    Raises
    ------
    TopologyError
        No such weights, or none for this schedule.
    """
    if name in RULES:
        return RULES[name]
    if name != FDLA:
        raise TopologyError(f"weights {name!r}: expected one of {', '.join(WEIGHTS)}")
    if not isinstance(schedule, Static):
        raise TopologyError(f"weights 'fdla': {STATIC_ONLY}")
    return Fastest.on(schedule.base)


RULES: Final[Mapping[str, Weights]] = {
    "metropolis": metropolis,
    "max-degree": max_degree,
    "lazy-metropolis": lazy_metropolis,
}
"""Weights that are a formula, for every graph."""

FDLA: Final = "fdla"
"""Weights that are computed for one graph."""

WEIGHTS: Final = (*RULES, FDLA)
"""Names that `make` knows."""

STATIC_ONLY: Final = "expected a static schedule, for which they are computed once"


def _metropolis(graph: Graph, i: PeerId, j: PeerId) -> float:
    return 1.0 / (1.0 + max(graph.degree(i), graph.degree(j)))


def _with_own(weights: dict[PeerId, float], i: PeerId) -> Mapping[PeerId, float]:
    # fsum is the exact sum, rounded once: the builtin sum rounds differently before and after Python 3.12
    weights[i] = 1.0 - math.fsum(weights.values())
    return dict(sorted(weights.items()))


def mixing_matrix(graph: Graph, weights: Weights = metropolis) -> NDArray[np.float64]:
    """Mixing matrix C, (I, I): row i holds the weights of agent i. Symmetric, with rows of sum 1."""
    matrix = np.zeros((graph.n_agents, graph.n_agents))
    for i in range(graph.n_agents):
        for j, weight in weights(graph, i).items():
            matrix[i, j] = weight
    return matrix


def mixing_rate(schedule: Schedule, n_rounds: int, weights: Weights = metropolis) -> float:
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
            product = mixing_matrix(schedule.graph(n), weights) @ product
        worst = max(worst, float(np.linalg.norm(product - mean, 2)))
    return float(worst ** (1.0 / window))


AGREED: Final = 0.1
"""What is left of a disagreement where agents count as agreed: a digit."""

LOOKED: Final = 100
"""Rounds that are looked at, at most; of 1,000 agents they take seconds where links change."""

MOST_EXACT: Final = 64
"""Agents up to which all disagreements are followed; of more some, drawn by a hash."""


def contraction(schedule: Schedule, weights: Weights = metropolis) -> float:
    """Factor by which averaging shrinks the disagreement of agents that know nothing of each other, in a round.

    Not what is sure, as `mixing_rate` is, but what happens: rho^n = `AGREED` for the n after which so much is left of
    independent numbers, in the root mean square, whatever the round that one begins in. Near 0 is agreement at once.
    Rounded to four digits, in which all machines agree.
    """
    return _contraction(lambda n: mixing_matrix(schedule.graph(n), weights), schedule.n_agents, schedule.period)


def contraction_in_step(links: InStep) -> float:
    """The same without rounds, where agents wake together, and each takes the mean of its own and what was pushed."""

    def matrix(n: int) -> NDArray[np.float64]:
        C = np.eye(links.n_agents)
        for i, j in links.graph(n).arcs:
            C[j, i] = 1.0
        return np.asarray(C / C.sum(axis=1, keepdims=True))

    return _contraction(matrix, links.n_agents, links.period)


def _contraction(matrix: Callable[[int], NDArray[np.float64]], n_agents: int, period: int | None) -> float:
    if period != 1:
        return contraction_by(lambda n, X: matrix(n) @ X, n_agents, period)
    C = matrix(0)
    return contraction_by(lambda n, X: C @ X, n_agents, period)


def contraction_by(
    average: Callable[[int, NDArray[np.float64]], NDArray[np.float64]], n_agents: int, period: int | None
) -> float:
    """`contraction` of any averaging.

    Parameters
    ----------
    average : callable
        n, X -> C[n] X, for X, (I, k).
    n_agents : int
        Number of agents I.
    period : int or None
        Rounds after which it repeats itself.
    """
    if n_agents == 1:
        return 0.0
    if n_agents <= MOST_EXACT:
        start = np.eye(n_agents)
    else:
        start = np.array([[1.0 - 2.0 * (hash64(f"{i}:{k}") & 1) for k in range(16)] for i in range(n_agents)])
    start -= start.mean(axis=0)
    goal = AGREED * float(np.linalg.norm(start))
    X, began, times = start, 0, list[float]()
    for n in range(LOOKED):
        before, X = float(np.linalg.norm(X)), average(n, X)
        X -= X.mean(axis=0)
        after = float(np.linalg.norm(X))
        if after <= goal:
            part = math.log(before / goal) / math.log(before / max(after, AGREED**3 * goal))
            times.append(n - began + part)
            if period == 1:
                break
            X, began = start, n + 1
    if not times:
        return rounded_factor((after / goal * AGREED) ** (1.0 / LOOKED))
    return rounded_factor(AGREED ** (len(times) / math.fsum(times)))


def rounded_factor(factor: float) -> float:
    """A factor of at most 1 to four digits, in which all machines agree."""
    return float(f"{min(factor, 1.0):.4g}")
