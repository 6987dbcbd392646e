"""What neighbors say to each other where they do not say all, and how they mix then: sums over agents are kept exactly.

In place of the sums in (7) and (8), over the neighbors j of the exchange, with x for z and for y:

    `Replicas`    q_ij = Q(x_i - x^_ij),   x^_ij += q_ij,   x_i += gamma sum_j c_ij (x^_ji - x^_ij)
    `Drawn`       x_i[e] += sum_j c_ij (Q(x_j)[e] - Q(x_i)[e])   of the entries e that are drawn for the exchange

x^_ij is what agent i has told agent j so far, x^_ji what it has heard from it; each end of a link has both, and they
go on together by the q_ij that both know. So what one end of a link adds the other takes away, the same number to the
last bit: sums of z and of y over all agents are kept to the rounding of float64, and (9) holds, whatever Q does, on
graphs that come and go too. What Q leaves out stays with its sender, and is part of the next difference.

`Replicas`: Q keeps the k entries of largest magnitude, or all, and rounds to the number format of the wire. Differences
become small as agents agree, and with them what rounding takes: so agents agree to float64 however short the numbers
that they send. Source: A. Koloskova, S. U. Stich, M. Jaggi, "Decentralized stochastic optimization and gossip
algorithms with compressed communication" (2019); for gradient tracking Y. Liao, Z. Li, K. Huang, S. Pu, "A compressed
gradient tracking method for decentralized optimization with linear convergence" (2022). Departures:

1. A pair of replicas for each link and not one for each agent: two that do not meet in a round need not hear of it.
2. gamma is `steady`, from what was measured, and not the far smaller one of their proofs.

`Drawn`: Q rounds, and each entry is mixed as on a graph that is there in some exchanges, a part k/p of them, and not in
others. Nothing needs be remembered, and gamma is 1; replicas with random-k would need gamma near k/p, and more rounds.
Rounding is of values here, and limits how far agents agree: to seven digits with f4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import numpy as np

from peer.arrays import Matrix, Sparse, Tensor, Vector, is_sendable, rounded
from peer.errors import SolveError
from peer.messages import Share
from peer.optim import compressors
from topology import PeerId

Words: TypeAlias = Mapping[PeerId, tuple[Tensor | None, Tensor]]
"""What an agent says in an exchange to each neighbor that it meets, of y, where one is tracked, and of z."""


class Coding(Protocol):
    """How much is said, and what is made of it."""

    def words(self, n: int, z: Vector, y: Vector, replicas: Matrix, neighbors: Sequence[PeerId]) -> Words:
        """What to say in exchange n; SolveError where that is no finite number."""

    def mixed(
        self,
        n: int,
        z: Vector,
        y: Vector,
        replicas: Matrix,
        words: Words,
        shares: Mapping[PeerId, Share],
        weights: Mapping[PeerId, float],
    ) -> tuple[Vector, Vector, Matrix]:
        """z, y and the replicas after exchange n."""

    def contraction(self, plain: float) -> float:
        """What is left of a disagreement after an exchange of which without compression a part `plain` is left."""


@final
@dataclass(frozen=True, eq=False)
class Spoken:
    """What an agent has said in an exchange, and how.

    Parameters
    ----------
    coding : Coding
    n : int
        Exchange.
    words : mapping
        To each neighbor.
    """

    coding: Coding
    n: int
    words: Words

    def mixed(
        self, z: Vector, y: Vector, replicas: Matrix, shares: Mapping[PeerId, Share], weights: Mapping[PeerId, float]
    ) -> tuple[Vector, Vector, Matrix]:
        """z, y and the replicas after it."""
        return self.coding.mixed(self.n, z, y, replicas, self.words, shares, weights)


def steady(fraction: float) -> float:
    """Gamma in (0, 1] with which agents come to agree by top-k: twice the part of the entries that is told.

    Measured on rings, stars and complete graphs, 400 entries, fractions 0.02 to 0.5: with twice as much some diverge,
    with half as much all take twice as long.
    """
    return min(1.0, 2.0 * fraction)


def check_sendable(n: int, dtype: np.dtype[Any], *vectors: Vector) -> None:
    """See to it that neighbors will find finite numbers in what is said to them in exchange n.

    Raises
    ------
    SolveError
        They would not, and take it for a mistake of the wire, again and again.
    """
    if not all(is_sendable(vector, dtype) for vector in vectors):
        raise SolveError(f"exchange {n}: parameters or gradients are nan or infinite, or too large for the wire")


@final
@dataclass(frozen=True)
class Replicas:
    """Differences to what was told before.

    Parameters
    ----------
    neighbors : tuple of int
        All that the agent ever has, ascending. Row r of the replicas, (2 n_neighbors, 2 p), is what neighbor r was
        told, row n_neighbors + r what was heard from it: of z, then of y, if any. Empty before the first exchange,
        when all are 0.
    fraction : float
        k/p; 1: all entries, and no places are said.
    gamma : float
        In (0, 1].
    dtype : dtype
        Of numbers on the wire.
    """

    neighbors: tuple[PeerId, ...]
    fraction: float
    gamma: float
    dtype: np.dtype[Any]

    def words(self, n: int, z: Vector, y: Vector, replicas: Matrix, neighbors: Sequence[PeerId]) -> Words:
        """Q of the differences."""
        p, rows = z.size, self._rows(replicas, z.size + y.size)
        found: dict[PeerId, tuple[Tensor | None, Tensor]] = {}
        for j in neighbors:
            told = rows[self.neighbors.index(j)]
            found[j] = self._short(y - told[p:], n) if y.size else None, self._short(z - told[:p], n)
        return found

    def mixed(
        self,
        n: int,
        z: Vector,
        y: Vector,
        replicas: Matrix,
        words: Words,
        shares: Mapping[PeerId, Share],
        weights: Mapping[PeerId, float],
    ) -> tuple[Vector, Vector, Matrix]:
        """The replicas go on, then z and y by their differences."""
        p, rows, n_all = z.size, self._rows(replicas, z.size + y.size).copy(), len(self.neighbors)
        z, y = z.copy(), y.copy()
        for j, (y_told, z_told) in sorted(words.items()):
            told, heard = rows[self.neighbors.index(j)], rows[n_all + self.neighbors.index(j)]
            _go_on(told[:p], z_told, j)
            _go_on(heard[:p], shares[j].z, j)
            z += self.gamma * weights[j] * (heard[:p] - told[:p])
            if y.size:
                _go_on(told[p:], y_told, j)
                _go_on(heard[p:], shares[j].y, j)
                y += self.gamma * weights[j] * (heard[p:] - told[p:])
        return z, y, rows

    def contraction(self, plain: float) -> float:
        """1 - gamma (1 - plain): as of gossip that goes a part gamma of the way; what is told is near enough."""
        return 1.0 - self.gamma * (1.0 - plain)

    def _rows(self, replicas: Matrix, width: int) -> Matrix:
        return replicas if replicas.size else np.zeros((2 * len(self.neighbors), width))

    def _short(self, difference: Vector, n: int) -> Tensor:
        check_sendable(n, self.dtype, difference)
        if self.fraction == 1.0:
            return rounded(difference, self.dtype)
        top = compressors.top(difference, compressors.n_kept(self.fraction, difference.size))
        return Sparse(rounded(top.values, self.dtype), top.places)


@final
@dataclass(frozen=True)
class Drawn:
    """Entries that are drawn anew in each exchange, the same for all agents.

    Parameters
    ----------
    seed : int
        The experiment's.
    fraction : float
        k/p.
    dtype : dtype
        Of numbers on the wire.
    """

    seed: int
    fraction: float
    dtype: np.dtype[Any]

    def words(self, n: int, z: Vector, y: Vector, replicas: Matrix, neighbors: Sequence[PeerId]) -> Words:
        """The entries."""
        at = self._places(n, z.size)
        check_sendable(n, self.dtype, z[at], y[at] if y.size else y)
        told = rounded(y[at], self.dtype) if y.size else None, rounded(z[at], self.dtype)
        return dict.fromkeys(neighbors, told)

    def mixed(
        self,
        n: int,
        z: Vector,
        y: Vector,
        replicas: Matrix,
        words: Words,
        shares: Mapping[PeerId, Share],
        weights: Mapping[PeerId, float],
    ) -> tuple[Vector, Vector, Matrix]:
        """The entries are mixed, all others stay."""
        at = self._places(n, z.size)
        z, y, z_drawn, y_drawn = z.copy(), y.copy(), z[at], y[at] if y.size else y
        for j, (y_told, z_told) in sorted(words.items()):
            z_drawn += weights[j] * (_dense(shares[j].z, j) - _dense(z_told, j))
            if y.size:
                y_drawn += weights[j] * (_dense(shares[j].y, j) - _dense(y_told, j))
        z[at] = z_drawn
        if y.size:
            y[at] = y_drawn
        return z, y, replicas

    def contraction(self, plain: float) -> float:
        """In the mean of squares: for each entry a part k/p of the exchanges is as without compression."""
        return math.sqrt(1.0 - self.fraction * (1.0 - plain * plain))

    def _places(self, n: int, p: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return compressors.drawn(self.seed, n, p, compressors.n_kept(self.fraction, p))


def _go_on(replica: Vector, word: Tensor | None, j: PeerId) -> None:
    if isinstance(word, Sparse):
        word.added_to(replica)
    else:
        replica += _dense(word, j)


def _dense(word: Tensor | None, j: PeerId) -> Vector:
    if not isinstance(word, np.ndarray):
        raise ValueError(f"what agent {j} is told or says is not whole")
    return word
