"""Several exchanges a round: what becomes of numbers that neighbors average K times before they go on.

A round with K exchanges puts a polynomial of C in the place of C. Its value at 1 is 1, so that sums over all agents,
and with them (9), are kept by each exchange, whatever the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from topology.graphs import Graph, TopologyError
from topology.schedules import Schedule, Static
from topology.weights import Weights, contraction, metropolis, mixing_matrix, mixing_rate, rounded_factor

CONSENSUS: Final = ("plain", "chebyshev")
"""Names that `make` knows."""

CHEBYSHEV: Final = CONSENSUS[1]

STATIC: Final = "expected a static schedule, for the polynomial needs one and the same C in all exchanges"

MOST_AGENTS: Final = 2_048
"""Every peer finds the eigenvalues of C alone, in a time that grows with the cube of that: 2 s for so many."""

GRID: Final = 2.0**-30
"""Ends of the spectrum are multiples of it, so that libraries that differ in the last bits find the same ones."""


@final
@dataclass(frozen=True)
class Gossip:
    """The K exchanges of a round, for all agents at once, from x[0] and x[-1] = x[0].

        x[k+1] = x[k] + (omega[k] - 1)(x[k] - x[k-1]) + omega[k] gamma (C x[k] - x[k]),    k = 0, ..., K - 1.

    Parameters
    ----------
    gamma : float
        How far an exchange goes, > 0; 1 is to C x.
    omegas : tuple of float
        One for each exchange, in [1, 2); the first is 1. All 1, with gamma = 1, is x[K] = C^K x[0].
    """

    gamma: float
    omegas: tuple[float, ...]

    @property
    def n_steps(self) -> int:
        """Exchanges K of a round."""
        return len(self.omegas)

    @property
    def is_plain(self) -> bool:
        """Whether an exchange is C x and no more."""
        return self.gamma == 1.0 and set(self.omegas) == {1.0}

    def at(self, eigenvalue: float) -> float:
        """The polynomial at an eigenvalue of C: what a round makes of its eigenvector."""
        before = here = 1.0
        for omega in self.omegas:
            change = (omega - 1.0) * (here - before) + omega * self.gamma * (eigenvalue - 1.0) * here
            before, here = here, here + change
        return here

    @property
    def reach(self) -> float:
        """How far a round moves an agent at most, where in each exchange no C x[k] is farther than 1 from x[k]."""
        step = total = 0.0
        for omega in self.omegas:
            step = (omega - 1.0) * step + omega * self.gamma
            total += step
        return total


def plain(n_steps: int) -> Gossip:
    """Averaging n_steps times, with the C of each exchange."""
    return Gossip(1.0, (1.0,) * n_steps)


ONCE: Final = plain(1)
"""A round is one exchange."""


def chebyshev(graph: Graph, weights: Weights, n_steps: int) -> Gossip:
    """The exchanges after which the least is left of disagreement, of all that know the ends of the spectrum only.

    Let all eigenvalues of C but the one of the mean be in [c - h, c + h]. Then the polynomial is T_K((l - c)/h) over
    T_K((1 - c)/h), T_K that of Chebyshev, and of no disagreement there is more left than 1/T_K((1 - c)/h).

    Sources: K. Scaman, F. Bach, S. Bubeck, Y. T. Lee, L. Massoulié, "Optimal algorithms for smooth and strongly convex
    distributed optimization in networks", ICML 2017, algorithm 2, with W = Id - C; M. Arioli, J. Scott, "Chebyshev
    acceleration of iterative refinement", Numer. Algorithms 66 (2014); G. H. Golub, R. S. Varga, "Chebyshev
    semi-iterative methods, successive overrelaxation iterative methods, and second order Richardson iterative
    methods", Numer. Math. 3 (1961), for the recurrence of omega, in which no T_k is formed that could overflow.
    Departure: the ends of the spectrum are rounded to `GRID`, and moved outwards by one more.

    Raises
    ------
    TopologyError
        The graph is not connected, or too large.
    """
    if graph.n_agents > MOST_AGENTS:
        found = f"as each finds the eigenvalues of C alone; found {graph.n_agents}"
        raise TopologyError(f"consensus 'chebyshev': expected at most {MOST_AGENTS:,} peers, {found}")
    if not graph.is_connected():
        raise TopologyError("consensus 'chebyshev': expected a connected graph, found one that is not")
    low, high = _ends(graph, weights)
    center, half = 0.5 * (low + high), 0.5 * (high - low)
    square = (half / (1.0 - center)) ** 2
    omegas, omega = [1.0], 2.0
    for _ in range(n_steps - 1):
        omega = 1.0 / (1.0 - 0.25 * square * omega)
        omegas.append(omega)
    return Gossip(1.0 / (1.0 - center), tuple(omegas))


def _ends(graph: Graph, weights: Weights) -> tuple[float, float]:
    """An interval that holds all eigenvalues of C but the one of the mean, which is 1."""
    others = np.linalg.eigvalsh(mixing_matrix(graph, weights))[:-1]
    if not others.size:
        return 0.0, 0.0
    low, high = (float(np.round(end / GRID)) * GRID for end in (others[0], others[-1]))
    return low - GRID, min(high + GRID, 1.0 - GRID)  # 1 is not inside, however hard it is to agree


def make(name: str, n_steps: int, schedule: Schedule, weights: Weights = metropolis) -> Gossip:
    """The named way to average n_steps times a round.

    Raises
    ------
    TopologyError
        There is no such way, or none for this schedule.
    """
    if name not in CONSENSUS:
        raise TopologyError(f"consensus {name!r}: expected one of {', '.join(CONSENSUS)}")
    if name != CHEBYSHEV:
        return plain(n_steps)
    if not isinstance(schedule, Static):
        raise TopologyError(f"consensus 'chebyshev': {STATIC}")
    return chebyshev(schedule.base, weights, n_steps)


def round_rate(schedule: Schedule, n_rounds: int, weights: Weights = metropolis, gossip: Gossip = ONCE) -> float:
    """Factor by which all exchanges of a round together are sure to shrink the disagreement, on average.

    `mixing_rate` to the power K where these are plain; else the largest modulus of the polynomial at an eigenvalue
    of C but 1.

    Raises
    ------
    TopologyError
        The schedule never connects.
    """
    if gossip.is_plain:
        return float(mixing_rate(schedule, n_rounds * gossip.n_steps, weights) ** gossip.n_steps)
    eigenvalues = np.linalg.eigvalsh(mixing_matrix(schedule.graph(0), weights))[:-1]
    return max((abs(gossip.at(float(eigenvalue))) for eigenvalue in eigenvalues), default=0.0)


def round_contraction(
    schedule: Schedule,
    weights: Weights = metropolis,
    gossip: Gossip = ONCE,
    of_exchange: Callable[[float], float] = lambda whole: whole,
) -> float:
    """Factor by which all exchanges of a round together shrink a disagreement, in the long run; 0 is agreement at once.

    `contraction` to the power K, which it is where these are plain. A polynomial leaves less, but steps that are longer
    for it do not pay, see `benchmarks/gossip.py`: data that differ limit them then, and not agreement. What an exchange
    leaves is a function of what it leaves of whole vectors, where less than these is said.
    """
    return rounded_factor(of_exchange(contraction(schedule, weights)) ** gossip.n_steps)
