"""The Jacobian J of all samples by the parameters, as what it is made of: any of its columns without the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector

Tensor = NDArray[np.float64]
"""Three axes and more of float64."""

CROSSED_BYTES: Final = 1 << 24
"""Of the products of every two columns of values: of more columns they would take more memory than J does."""

CROSSED_ROWS: Final = 6
"""Cotangents from which on it pays to form these."""


class Piece(Protocol):
    """Some columns of J that stand together."""

    @property
    def start(self) -> int:
        """Its first parameter."""

    @property
    def stop(self) -> int:
        """Behind its last parameter."""

    @property
    def n_rows(self) -> int:
        """Cotangents of an output that it takes."""

    def within(self, place: slice) -> tuple[Piece, slice]:
        """A piece that holds the parameters in `place` and few others; and which of its columns these are."""

    def entries(self) -> Tensor:
        """The columns, (m, q, stop - start)."""

    def times(self, v: Vector) -> Matrix:
        """Their product with v, (stop - start,): (m, q)."""

    def transposed_times(self, u: Matrix) -> Vector:
        """The adjoint, (stop - start,), of u, (m, q)."""

    def turned(self, matrices: Tensor) -> Piece:
        """The piece of which the columns are the products of these matrices, (m, q, q), with its own."""

    def squared(self) -> Piece:
        """The piece of which the columns are the squares of these, entry by entry, at least about."""

    def squares(self) -> Vector:
        """Squared norms of the columns, (stop - start,)."""


@final
@dataclass(frozen=True, eq=False)
class Crossed:
    """Products of every two columns of a matrix, row by row, formed when they are asked for.

    Parameters
    ----------
    matrix : Matrix
        V, (m, cols).
    """

    matrix: Matrix

    @property
    def n_bytes(self) -> int:
        """That they take."""
        m, n_cols = self.matrix.shape
        return int(8 * m * n_cols * (n_cols + 1) // 2)

    @cached_property
    def products(self) -> Matrix:
        """V[:, c] V[:, d] for d >= c, (m, cols (cols + 1)/2): (0, 0), (0, 1), ..., (1, 1), ..."""
        m, n_cols = self.matrix.shape
        products, start = np.empty((m, n_cols * (n_cols + 1) // 2)), 0
        for c in range(n_cols):
            stop = start + n_cols - c
            np.multiply(self.matrix[:, c : c + 1], self.matrix[:, c:], out=products[:, start:stop])
            start = stop
        return products


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Columns of J that are all products of a row and a column: J[:, :, start + r*cols + c] = U[:, :, r] V[:, c].

    Parameters
    ----------
    start : int
        Its first parameter.
    cotangents : ndarray
        U, derivatives of the outputs by the rows, (m, q, rows).
    values : Matrix
        V, by what a row multiplies its parameters, (m, cols).
    crossed : Crossed or None
        Of V, where several parts share what it forms; one of another matrix is not used.
    """

    start: int
    cotangents: Tensor
    values: Matrix
    crossed: Crossed | None = None

    @property
    def stop(self) -> int:
        """Behind its last parameter."""
        n_rows, n_cols = self.cotangents.shape[2], self.values.shape[1]
        return int(self.start + n_rows * n_cols)

    @property
    def n_rows(self) -> int:
        """Cotangents of an output that it takes."""
        return int(self.cotangents.shape[2])

    @property
    def formed(self) -> Crossed:
        """Of V, its own where no other part has it."""
        shared = self.crossed
        return shared if shared is not None and shared.matrix is self.values else Crossed(self.values)

    def within(self, place: slice) -> tuple[Part, slice]:
        """The rows that hold the parameters in `place`, as a part; and which of its columns these are."""
        if place.start <= self.start and self.stop <= place.stop:
            return self, slice(0, self.stop - self.start)
        n_cols = self.values.shape[1]
        begin, end = max(place.start, self.start) - self.start, min(place.stop, self.stop) - self.start
        rows = slice(begin // n_cols, -(-end // n_cols))
        skipped = rows.start * n_cols
        part = replace(self, start=self.start + skipped, cotangents=self.cotangents[:, :, rows])
        return part, slice(begin - skipped, end - skipped)

    def entries(self) -> Tensor:
        """The columns, (m, q, rows*cols)."""
        m, q, _ = self.cotangents.shape
        return (self.cotangents[:, :, :, None] * self.values[:, None, None, :]).reshape(m, q, self.stop - self.start)

    def times(self, v: Vector) -> Matrix:
        """Their product with v, (rows*cols,): (m, q)."""
        rows = self.values @ v.reshape(-1, self.values.shape[1]).T
        return np.asarray((self.cotangents @ rows[:, :, None])[:, :, 0])

    def transposed_times(self, u: Matrix) -> Vector:
        """The adjoint, (rows*cols,), of u, (m, q)."""
        rows = (u[:, None, :] @ self.cotangents)[:, 0, :]
        return np.asarray((rows.T @ self.values).reshape(-1))

    def turned(self, matrices: Tensor) -> Part:
        """The part of which the columns are the products of these matrices, (m, q, q), with its own."""
        return replace(self, cotangents=matrices @ self.cotangents)

    def squared(self) -> Part:
        """The part of which the columns are the squares of these, entry by entry."""
        return Part(self.start, self.cotangents**2, self.values**2)

    def squares(self) -> Vector:
        """Squared norms of the columns, (rows*cols,)."""
        rows = np.einsum("mqr,mqr->rm", self.cotangents, self.cotangents)
        return np.asarray((rows @ (self.values * self.values)).reshape(-1))


@final
@dataclass(frozen=True, eq=False)
class Summed:
    """Columns of J that are sums of products: J[:, :, start + r*cols + c] = sum over k of U[:, :, r, k] V[:, k, c].

    Parameters
    ----------
    start : int
        Its first parameter.
    cotangents : ndarray
        U, derivatives of the outputs by the rows at each of n places, (m, q, rows, n).
    values : ndarray
        V, by what a row multiplies its parameters there, (m, n, cols).
    """

    start: int
    cotangents: Tensor
    values: Tensor

    @property
    def stop(self) -> int:
        """Behind its last parameter."""
        return int(self.start + self.cotangents.shape[2] * self.values.shape[2])

    @property
    def n_rows(self) -> int:
        """Cotangents of an output that it takes: one a row and place."""
        return int(self.cotangents.shape[2] * self.cotangents.shape[3])

    def within(self, place: slice) -> tuple[Summed, slice]:
        """The rows that hold the parameters in `place`; and which of its columns these are."""
        n_cols = self.values.shape[2]
        begin, end = max(place.start, self.start) - self.start, min(place.stop, self.stop) - self.start
        rows = slice(begin // n_cols, -(-end // n_cols))
        skipped = rows.start * n_cols
        summed = Summed(self.start + skipped, self.cotangents[:, :, rows], self.values)
        return summed, slice(begin - skipped, end - skipped)

    def entries(self) -> Tensor:
        """The columns, (m, q, rows*cols)."""
        m, q, n_rows, n = self.cotangents.shape
        columns = self.cotangents.reshape(m, q * n_rows, n) @ self.values
        return columns.reshape(m, q, self.stop - self.start)

    def times(self, v: Vector) -> Matrix:
        """Their product with v, (rows*cols,): (m, q)."""
        m, q, n_rows, n = self.cotangents.shape
        rows = v.reshape(n_rows, self.values.shape[2]) @ self.values.transpose(0, 2, 1)  # (m, rows, n)
        flat = self.cotangents.reshape(m, q, n_rows * n)
        return np.asarray((flat @ rows.reshape(m, n_rows * n, 1))[:, :, 0])

    def transposed_times(self, u: Matrix) -> Vector:
        """The adjoint, (rows*cols,), of u, (m, q)."""
        m, q, n_rows, n = self.cotangents.shape
        rows = (u[:, None, :] @ self.cotangents.reshape(m, q, n_rows * n)).reshape(m, n_rows, n)
        places = rows.transpose(1, 0, 2).reshape(n_rows, m * n)
        return np.asarray((places @ self.values.reshape(m * n, self.values.shape[2])).reshape(-1))

    def turned(self, matrices: Tensor) -> Summed:
        """The columns multiplied by these matrices, (m, q, q)."""
        m, q, n_rows, n = self.cotangents.shape
        return Summed(
            self.start, (matrices @ self.cotangents.reshape(m, q, n_rows * n)).reshape(m, q, n_rows, n), self.values
        )

    def squared(self) -> Summed:
        """The sums of the squares of the products: the squares of the sums, if products at two places never meet.

        That needs no more memory than the columns, and is meant for preconditioners; `squares` is exact.
        """
        return Summed(self.start, self.cotangents**2, self.values**2)

    def squares(self) -> Vector:
        """Squared norms of the columns, (rows*cols,)."""
        return Columns(self.start, self.entries()).squares()


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of J as they are, where they have no structure to be used: J[:, :, start + c] = matrix[:, :, c].

    Parameters
    ----------
    start : int
        Its first parameter.
    matrix : ndarray
        (m, q, b).
    """

    start: int
    matrix: Tensor

    @property
    def stop(self) -> int:
        """Behind its last parameter."""
        return int(self.start + self.matrix.shape[2])

    @property
    def n_rows(self) -> int:
        """Cotangents of an output that it takes: one a column."""
        return int(self.matrix.shape[2])

    def within(self, place: slice) -> tuple[Columns, slice]:
        """The parameters in `place` alone, all of its columns."""
        begin, end = max(place.start, self.start), min(place.stop, self.stop)
        columns = Columns(begin, self.matrix[:, :, begin - self.start : end - self.start])
        return columns, slice(0, end - begin)

    def entries(self) -> Tensor:
        """The columns, (m, q, b)."""
        return self.matrix

    def times(self, v: Vector) -> Matrix:
        """Their product with v, (b,): (m, q)."""
        return np.asarray(self.matrix @ v)

    def transposed_times(self, u: Matrix) -> Vector:
        """The adjoint, (b,), of u, (m, q)."""
        return np.asarray(u.reshape(-1) @ self.matrix.reshape(u.size, self.matrix.shape[2]))

    def turned(self, matrices: Tensor) -> Columns:
        """The columns multiplied by these matrices, (m, q, q)."""
        return Columns(self.start, matrices @ self.matrix)

    def squared(self) -> Columns:
        """The squares of the entries."""
        return Columns(self.start, self.matrix**2)

    def squares(self) -> Vector:
        """Squared norms of the columns, (b,)."""
        return np.asarray(np.einsum("mqb,mqb->b", self.matrix, self.matrix))


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """The Jacobian of all samples as the products that it consists of: memory m q for each unit, not each parameter.

    Parameters
    ----------
    outputs : Matrix
        f(w; x), (m, q).
    pieces : sequence of Piece
        Of all p parameters, in their order.
    """

    outputs: Matrix
    pieces: Sequence[Piece]

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.pieces[-1].stop if self.pieces else 0

    def squared(self) -> Factors:
        """Of the matrix of the squares of the entries of J."""
        return Factors(self.outputs, tuple(piece.squared() for piece in self.pieces))

    def within(self, place: slice) -> Factors:
        """What the columns for the parameters in `place` are made of, and no more."""
        return Factors(self.outputs, tuple(piece for piece, _ in self._within(place)))

    def columns(self, place: slice) -> Tensor:
        """Columns of J for the parameters in `place`, b of them: (m, q, b)."""
        m, q = self.outputs.shape
        J = np.empty((m, q, place.stop - place.start))
        for piece, kept in self._within(place):
            at, n = piece.start + kept.start - place.start, kept.stop - kept.start
            if isinstance(piece, Part) and n == piece.stop - piece.start:
                rows, values = piece.cotangents[:, :, :, None], piece.values[:, None, None, :]
                np.multiply(rows, values, out=J[:, :, at : at + n].reshape(m, q, rows.shape[2], values.shape[3]))
            else:
                J[:, :, at : at + n] = piece.entries()[:, :, kept]
        return J

    def times(self, place: slice, v: Vector) -> Matrix:
        """J v, (m, q), of changes v of the parameters in `place` alone, (b,)."""
        result = np.zeros(self.outputs.shape)
        for piece, kept in self._within(place):
            whole = np.zeros(piece.stop - piece.start)
            whole[kept] = v[piece.start + kept.start - place.start : piece.start + kept.stop - place.start]
            result += piece.times(whole)
        return result

    def transposed_times(self, place: slice, u: Matrix) -> Vector:
        """J'u, of u, (m, q), for the parameters in `place` alone, (b,)."""
        return np.concatenate([np.zeros(0), *(piece.transposed_times(u)[kept] for piece, kept in self._within(place))])

    def gram(self, place: slice, roots: Tensor | None) -> Matrix:
        """Sum over m of J_m' B_m B_m' J_m of the parameters in `place`, (b, b), with the roots B, (m, q, q), or none.

        Between two `Part`, an entry is a sum of (B'u_r)'(B'u_s) v_c v_d over samples: the outputs are summed once for
        each pair of rows, not for each pair of parameters. So it takes about m b^2 products instead of m q b^2.
        """
        gram = np.empty((place.stop - place.start,) * 2)
        within = self._turned(place, roots)
        for k, (piece, kept) in enumerate(within):
            here = slice(piece.start + kept.start - place.start, piece.start + kept.stop - place.start)
            for other, others in within[: k + 1]:
                there = slice(other.start + others.start - place.start, other.start + others.stop - place.start)
                gram[here, there] = _products(piece, other)[kept, others]
                if other is not piece:
                    gram[there, here] = gram[here, there].T
        return gram

    def gram_diagonal(self, place: slice, roots: Tensor) -> Vector:
        """The diagonal of `gram`, (b,), in m b products."""
        return np.concatenate([np.zeros(0), *(piece.squares()[kept] for piece, kept in self._turned(place, roots))])

    def _within(self, place: slice) -> list[tuple[Piece, slice]]:
        return [piece.within(place) for piece in self.pieces if piece.start < place.stop and place.start < piece.stop]

    def _turned(self, place: slice, roots: Tensor | None) -> list[tuple[Piece, slice]]:
        within = self._within(place)
        if roots is None:
            return within
        matrices = roots.transpose(0, 2, 1)
        return [(piece.turned(matrices), kept) for piece, kept in within]


def _products(a: Piece, b: Piece) -> Matrix:
    """Inner products of the columns of two pieces, over all samples and outputs: (columns of a, columns of b)."""
    if not (isinstance(a, Part) and isinstance(b, Part)):
        one, other = (piece.entries().reshape(-1, piece.stop - piece.start) for piece in (a, b))
        return np.asarray(one.T @ other)
    (m, n_cols), n_rows, width = a.values.shape, a.cotangents.shape[2], b.stop - b.start
    if n_cols < b.values.shape[1]:  # the loop below is over rows: few, and long
        return _products(b, a).T
    if a is b and n_rows >= CROSSED_ROWS and a.formed.n_bytes <= CROSSED_BYTES:
        return _own_products(a)
    pairs = a.cotangents.transpose(0, 2, 1) @ b.cotangents
    products = np.empty((n_rows, n_cols, b.cotangents.shape[2], b.values.shape[1]))
    for r in range(n_rows):
        first = r if a is b else 0
        weighted = pairs[:, r, first:, None] * b.values[:, None, :]
        products[r, :, first:] = (a.values.T @ weighted.reshape(m, -1)).reshape(n_cols, *weighted.shape[1:])
        if a is b:
            products[r:, :, r] = products[r, :, r:].transpose(1, 2, 0)
    return products.reshape(n_rows * n_cols, width)


def _own_products(part: Part) -> Matrix:
    """Inner products of the columns of a piece, as of `_products`.

    Each is a sum over samples: of the products of two rows, summed over the outputs, times those of two columns. The
    order matters in neither, so that one product of matrices, with a quarter of the numbers, has them all.
    """
    (m, n_cols), n = part.values.shape, part.n_rows
    one, other = np.triu_indices(n)
    pairs = (part.cotangents.transpose(0, 2, 1) @ part.cotangents).reshape(m, n * n).take(n * one + other, axis=1)
    sums, places, start = pairs.T @ part.formed.products, _places(n_cols), 0
    products = np.empty((n, n_cols, n, n_cols))
    for r in range(n):
        stop = start + n - r
        found = sums[start:stop].take(places, axis=1).reshape(-1, n_cols, n_cols)
        products[r, :, r:], products[r + 1 :, :, r] = found.transpose(1, 0, 2), found[1:]
        start = stop
    return products.reshape(n * n_cols, n * n_cols)


@lru_cache(maxsize=64)
def _places(n: int) -> NDArray[np.intp]:
    """Where each pair of n columns, in either order, stands among those of `Crossed`, (n*n,)."""
    one, other = np.triu_indices(n)
    places = np.empty((n, n), np.intp)
    places[one, other] = places[other, one] = np.arange(len(one))
    return places.reshape(-1)
