"""Weights with which repeated averaging over a fixed graph agrees fastest.

Sources:
L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53
(2004), which states the problem as a semidefinite program; S. Boyd, L. Vandenberghe, "Convex Optimization" (2004),
chapter 11 for the barrier method.

Where this departs from them:

1. Every peer computes the weights alone, and both ends of a link must arrive at the same last bit.
   So there is no BLAS, no sum whose order a library chooses, and no logarithm here: all numbers come
   from additions, multiplications, divisions and roots of single numbers, which IEEE 754 rounds in
   one way, and from `math.fsum`, which is the exact sum, rounded once.
2. The barrier itself would need a logarithm, so a step is as long as the slope along it allows.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topology.graphs import Edge, Graph, TopologyError

Array = NDArray[np.float64]

MOST_LINKS: Final = 512
"""A step solves a linear system with an unknown a link, and its time grows with the cube of that."""

GAP: Final = 1e-8
"""How far the rate may be from the smallest one."""

SHARPEN: Final = 8.0
"""Factor between the weights of the objective in two consecutive problems (Boyd & Vandenberghe: 3 to 100 will do)."""

STEPS: Final = 40
"""Of Newton's method for one of these problems; about five are needed."""

HALVINGS: Final = 40
"""Of a step, after which rounding is all that is left of it."""


def fastest(graph: Graph) -> dict[Edge, float]:
    """Weight c_ij of each link for which ||C - 11'/I||_2 is smallest, to `GAP`.

    C = Id - sum over links of c_ij a_ij a_ij', with a_ij = e_i - e_j, is symmetric, and its rows
    have the sum 1, whatever the weights. A weight may be negative, and so may some c_ii. The weights
    are near the analytic center of all that are best, so that agents whose places in the graph are
    alike have like ones, but for rounding.

    Returns
    -------
    dict of (int, int) to float
        In ascending order.

    Raises
    ------
    TopologyError
        The graph is not connected, or has more than `MOST_LINKS` links.
    """
    if not graph.is_connected():
        raise TopologyError("weights 'fdla': expected a connected graph, found one that is not")
    if len(graph.edges) > MOST_LINKS:
        found = f"expected at most {MOST_LINKS} links, as the time grows with their cube; found {len(graph.edges)}"
        raise TopologyError(f"weights 'fdla': {found}")
    edges = sorted(graph.edges)
    if not edges:
        return {}
    start = [1.0 / (1.0 + max(graph.degree(i), graph.degree(j))) for i, j in edges]
    x = np.array([*start, 2.0])  # Metropolis: all eigenvalues are in (-1, 1]
    sharpness = 1.0
    while True:
        x = _centered(x, edges, graph.n_agents, sharpness)
        if 2.0 * graph.n_agents <= GAP * sharpness:  # I for each of the two matrices: chapter 11.6 of the book
            return dict(zip(edges, map(float, x[:-1]), strict=True))
        sharpness *= SHARPEN


class _Point(NamedTuple):
    """Inverses of s Id - M and s Id + M, both positive definite, M = C - 11'/I; and the slope there."""

    below: Array
    above: Array
    slope: Array


def _centered(x: Array, edges: list[Edge], n_agents: int, sharpness: float) -> Array:
    """Minimizer over x = (c, s), (m + 1,), of sharpness s - log det(s Id - M) - log det(s Id + M)."""
    here = _point(x, edges, n_agents, sharpness)
    assert here is not None, "the last center is inside"
    for _ in range(STEPS):
        step = _eliminated(_curvature(here, edges), -here.slope[:, None])
        if step is None:  # rounding has made the curvature indefinite: no better center can be told
            return x
        direction = step[:, 0]
        decrement = -math.fsum(here.slope * direction)
        if not decrement > 1e-10:  # of the objective, relative to 1 of the barrier
            return x
        length = 1.0
        for _ in range(HALVINGS):
            there = _point(x + length * direction, edges, n_agents, sharpness)
            if there is not None and math.fsum(there.slope * direction) <= 0.5 * decrement:
                break
            length *= 0.5
        else:
            return x
        x, here = x + length * direction, there
    return x


def _point(x: Array, edges: list[Edge], n_agents: int, sharpness: float) -> _Point | None:
    """What is to be known at x; None outside of -s Id < M < s Id."""
    s = float(x[-1])
    M = np.full((n_agents, n_agents), -1.0 / n_agents)
    M[np.diag_indices(n_agents)] += 1.0
    for (i, j), c in zip(edges, map(float, x[:-1]), strict=True):
        M[i, j] += c
        M[j, i] += c
        M[i, i] -= c
        M[j, j] -= c
    one = np.eye(n_agents)
    below, above = _eliminated(s * one - M, one), _eliminated(s * one + M, one)
    if below is None or above is None:
        return None
    i, j = np.array(edges).T
    by_c = _between(above, i, j) - _between(below, i, j)
    by_s = sharpness - math.fsum(np.diag(below)) - math.fsum(np.diag(above))
    return _Point(below, above, np.append(by_c, by_s))


def _between(inverse: Array, i: NDArray[np.intp], j: NDArray[np.intp]) -> Array:
    """The numbers a' inverse a of all links."""
    return np.asarray(inverse[i, i] - inverse[i, j] - inverse[j, i] + inverse[j, j])


def _curvature(here: _Point, edges: list[Edge]) -> Array:
    """Second derivatives, (m + 1, m + 1)."""
    i, j = np.array(edges).T
    found = np.zeros((len(edges) + 1, len(edges) + 1))
    for inverse, sign in ((here.below, 1.0), (here.above, -1.0)):
        across = inverse[:, i] - inverse[:, j]
        found[:-1, :-1] += (across[i] - across[j]) ** 2
        found[:-1, -1] += sign * reduce(np.add, across**2)
        found[-1, -1] += math.fsum((inverse**2).flat)
    found[-1, :-1] = found[:-1, -1]
    return found


def _eliminated(matrix: Array, right: Array) -> Array | None:
    """Solution X of matrix X = right by elimination without exchanges; None if a pivot is not positive.

    A symmetric matrix needs no exchanges if it is positive definite, and else has such a pivot.
    """
    n = len(matrix)
    table = np.hstack([matrix, right])
    for k in range(n):
        if not table[k, k] > 0.0:
            return None
        table[k + 1 :, k + 1 :] -= (table[k + 1 :, k] / table[k, k])[:, None] * table[k, k + 1 :]
    found = table[:, n:]
    for k in reversed(range(n)):
        found[k] /= table[k, k]
        found[:k] -= table[:k, k][:, None] * found[k]
    return np.asarray(found)
