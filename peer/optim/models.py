"""Maps f(w; x) from inputs to outputs, with derivatives by their parameters w."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector

Elementwise: TypeAlias = Callable[[Matrix], Matrix]


class Model(Protocol):
    """A differentiable map f(w; x) from R^d to R^q with parameters w in R^p."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts of w."""

    @property
    def n_inputs(self) -> int:
        """Dimension d of an input."""

    @property
    def n_outputs(self) -> int:
        """Dimension q of an output."""

    def initial(self, rng: np.random.Generator) -> Vector:
        """Random parameters to start from, (p,)."""

    def forward(self, w: Vector, x: Matrix) -> Matrix:
        """Outputs f(w; x), (m, q), of the inputs x, (m, d)."""

    def jvp(self, w: Vector, x: Matrix, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""

    def vjp(self, w: Vector, x: Matrix, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""

    def jacobian(self, w: Vector, x: Matrix) -> NDArray[np.float64]:
        """Jacobian J of all samples by w, (m, q, p)."""

    def factors(self, w: Vector, x: Matrix) -> Factors:
        """The outputs, and what J is made of, so that any of its columns can be had without the others."""

    def at(self, w: Vector, x: Matrix) -> Pass:
        """One pass forwards at w, from which outputs and all derivatives follow."""


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
    """

    start: int
    cotangents: NDArray[np.float64]
    values: Matrix

    def squared(self) -> Part:
        """The part of which the columns are the squares of these, entry by entry."""
        return Part(self.start, self.cotangents**2, self.values**2)

    @property
    def stop(self) -> int:
        """Behind its last parameter."""
        n_rows, n_cols = self.cotangents.shape[2], self.values.shape[1]
        return int(self.start + n_rows * n_cols)

    def within(self, place: slice) -> tuple[Part, slice]:
        """The rows that hold the parameters in `place`, as a part; and which of its columns these are."""
        n_cols = self.values.shape[1]
        begin, end = max(place.start, self.start) - self.start, min(place.stop, self.stop) - self.start
        rows = slice(begin // n_cols, -(-end // n_cols))
        skipped = rows.start * n_cols
        part = Part(self.start + skipped, self.cotangents[:, :, rows], self.values)
        return part, slice(begin - skipped, end - skipped)


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """The Jacobian of all samples as the products that it consists of: memory m q for each unit, not each parameter.

    Parameters
    ----------
    outputs : Matrix
        f(w; x), (m, q).
    parts : tuple of Part
        Of all p parameters, in their order.
    """

    outputs: Matrix
    parts: tuple[Part, ...]

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.parts[-1].stop

    def squared(self) -> Factors:
        """Of the matrix of the squares of the entries of J."""
        return Factors(self.outputs, tuple(part.squared() for part in self.parts))

    def within(self, place: slice) -> Factors:
        """What the columns for the parameters in `place` are made of, and no more."""
        return Factors(self.outputs, tuple(part for part, _ in self._within(place)))

    def columns(self, place: slice) -> NDArray[np.float64]:
        """Columns of J for the parameters in `place`, b of them: (m, q, b)."""
        m, q = self.outputs.shape
        J = np.empty((m, q, place.stop - place.start))
        for part, kept in self._within(place):
            rows, values = part.cotangents[:, :, :, None], part.values[:, None, None, :]
            at, shape = part.start + kept.start - place.start, (rows.shape[2], values.shape[3])
            width = math.prod(shape)
            if kept.stop - kept.start == width:
                np.multiply(rows, values, out=J[:, :, at : at + width].reshape(m, q, *shape))
            else:
                J[:, :, at : at + kept.stop - kept.start] = (rows * values).reshape(m, q, width)[:, :, kept]
        return J

    def times(self, place: slice, v: Vector) -> Matrix:
        """J v, (m, q), of changes v of the parameters in `place` alone, (b,)."""
        result = np.zeros(self.outputs.shape)
        for part, kept in self._within(place):
            W = np.zeros(part.stop - part.start)
            W[kept] = v[part.start + kept.start - place.start : part.start + kept.stop - place.start]
            rows = part.values @ W.reshape(-1, part.values.shape[1]).T
            result += (part.cotangents @ rows[:, :, None])[:, :, 0]
        return result

    def transposed_times(self, place: slice, u: Matrix) -> Vector:
        """J'u, of u, (m, q), for the parameters in `place` alone, (b,)."""
        pieces = [np.zeros(0)]
        for part, kept in self._within(place):
            rows = (u[:, None, :] @ part.cotangents)[:, 0, :]
            pieces.append((rows.T @ part.values).reshape(-1)[kept])
        return np.concatenate(pieces)

    def gram(self, place: slice, roots: NDArray[np.float64] | None) -> Matrix:
        """Sum over m of J_m' B_m B_m' J_m of the parameters in `place`, (b, b), with the roots B, (m, q, q), or none.

        An entry is a sum of (B'u_r)'(B'u_s) v_c v_d over samples: the outputs are summed once for each pair of
        rows, not for each pair of parameters. So it takes about m b^2 products instead of the m q b^2 of J'J.
        """
        gram = np.empty((place.stop - place.start,) * 2)
        within = self._within(place)
        if roots is not None:
            turned = roots.transpose(0, 2, 1)
            within = [(Part(part.start, turned @ part.cotangents, part.values), kept) for part, kept in within]
        for k, (part, kept) in enumerate(within):
            here = slice(part.start + kept.start - place.start, part.start + kept.stop - place.start)
            for other, others in within[: k + 1]:
                there = slice(other.start + others.start - place.start, other.start + others.stop - place.start)
                gram[here, there] = _products(part, other)[kept, others]
                if other is not part:
                    gram[there, here] = gram[here, there].T
        return gram

    def gram_diagonal(self, place: slice, roots: NDArray[np.float64]) -> Vector:
        """The diagonal of `gram`, (b,), in m b products."""
        turned, pieces = roots.transpose(0, 2, 1), [np.zeros(0)]
        for part, kept in self._within(place):
            rows = turned @ part.cotangents
            products = np.einsum("mqr,mqr->rm", rows, rows) @ (part.values * part.values)
            pieces.append(products.reshape(-1)[kept])
        return np.concatenate(pieces)

    def _within(self, place: slice) -> list[tuple[Part, slice]]:
        return [part.within(place) for part in self.parts if part.start < place.stop and place.start < part.stop]


def _products(a: Part, b: Part) -> Matrix:
    """Inner products of the columns of two parts, over all samples and outputs: (columns of a, columns of b)."""
    (m, n_cols), n_rows, width = a.values.shape, a.cotangents.shape[2], b.stop - b.start
    if n_cols < b.values.shape[1]:  # the loop below is over rows: few, and long
        return _products(b, a).T
    pairs = a.cotangents.transpose(0, 2, 1) @ b.cotangents
    products = np.empty((n_rows, n_cols, b.cotangents.shape[2], b.values.shape[1]))
    for r in range(n_rows):
        first = r if a is b else 0
        weighted = pairs[:, r, first:, None] * b.values[:, None, :]
        products[r, :, first:] = (a.values.T @ weighted.reshape(m, -1)).reshape(n_cols, *weighted.shape[1:])
        if a is b:
            products[r:, :, r] = products[r, :, r:].transpose(1, 2, 0)
    return products.reshape(n_rows * n_cols, width)


@final
@dataclass(frozen=True, eq=False)
class Pass:
    """One pass forwards through a multilayer perceptron at w: its outputs, and products with J there.

    Parameters
    ----------
    model : MLP
    w : Vector
        Parameters, (p,).
    values : tuple of Matrix
        a_0 = x, ..., a_L = f(w; x): what goes into each layer, and the outputs.
    """

    model: MLP
    w: Vector
    values: tuple[Matrix, ...]

    @property
    def outputs(self) -> Matrix:
        """f(w; x), (m, q)."""
        return self.values[-1]

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.w.size

    @cached_property
    def _slopes(self) -> list[Matrix]:
        """Derivatives of the activations of the hidden layers."""
        derivative = ACTIVATIONS[self.model.activation][1]
        return [derivative(value) for value in self.values[1:-1]]

    @cached_property
    def _layers(self) -> list[tuple[Matrix, Vector]]:
        return self.model.layers(self.w)

    @cached_property
    def _ones(self) -> Vector:
        return np.ones(len(self.outputs))

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        tangent: Matrix | None = None
        for k, (dW, db) in enumerate(self.model.layers(v)):
            own = self.values[k] @ dW.T
            own += db
            if tangent is not None:
                own += (tangent * self._slopes[k - 1]) @ self._layers[k][0].T
            tangent = own
        assert tangent is not None, "a network has a layer"
        return tangent

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        result = np.empty(self.w.shape)
        parts = self.model.layers(result)
        for k in range(len(parts) - 1, -1, -1):
            np.matmul(u.T, self.values[k], out=parts[k][0])
            np.matmul(self._ones, u, out=parts[k][1])  # a sum over samples, but faster
            if k > 0:
                u = u @ self._layers[k][0]
                u *= self._slopes[k - 1]
        return result

    def factors(self) -> Factors:
        """The outputs, and J as products of cotangents, one pass backwards, and what goes into each layer."""
        m, q = self.outputs.shape
        starts = [place.start for _, _, place in self.model.layout.slices()]
        parts: list[Part] = []
        # cotangents of the q outputs: (m, q, width) going backwards
        cotangent = np.broadcast_to(np.eye(q), (m, q, q))
        for k in range(len(self.values) - 2, -1, -1):
            parts.append(Part(starts[2 * k + 1], cotangent, np.ones((m, 1))))
            parts.append(Part(starts[2 * k], cotangent, self.values[k]))
            if k > 0:
                cotangent = (cotangent @ self._layers[k][0]) * self._slopes[k - 1][:, None, :]
        return Factors(self.outputs, tuple(reversed(parts)))


def _sigmoid(a: Matrix) -> Matrix:
    return 0.5 * (1.0 + np.tanh(0.5 * a))


ACTIVATIONS: Final[Mapping[str, tuple[Elementwise, Elementwise]]] = {
    "tanh": (np.tanh, lambda value: 1.0 - value * value),
    "relu": (lambda a: np.maximum(a, 0.0), lambda value: (value > 0.0).astype(np.float64)),
    "sigmoid": (_sigmoid, lambda value: value * (1.0 - value)),
}
"""Elementwise activations, and their derivatives as functions of the activation's value."""


@final
@dataclass(frozen=True)
class MLP:
    """Multilayer perceptron: dense layers, an elementwise activation between them, a linear output.

    a_0 = x,  a_{k+1} = activation(a_k W_k' + b_k),  f = a_L W_L' + b_L. At 0 the derivative of
    relu is taken as 0.

    Parameters
    ----------
    widths : tuple of int
        (d, hidden widths ..., q); without hidden widths the map is affine.
    activation : str
        tanh, relu or sigmoid.
    """

    widths: tuple[int, ...]
    activation: str

    @cached_property
    def layout(self) -> Layout:
        """layers.0.weight (out, in), layers.0.bias (out,), layers.1.weight, ..."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for k, (width_in, width_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            shapes.append((f"layers.{k}.weight", (width_out, width_in)))
            shapes.append((f"layers.{k}.bias", (width_out,)))
        return Layout(tuple(shapes))

    @cached_property
    def neurons(self) -> NDArray[np.intp]:
        """Into which neuron each parameter leads, biases included, numbered layer after layer, (p,)."""
        starts = np.cumsum((0, *self.widths[1:]))
        numbers = [np.arange(first, first + width) for first, width in zip(starts, self.widths[1:], strict=False)]
        pairs = zip(numbers, self.widths, strict=False)
        return np.concatenate([np.concatenate([np.repeat(into, n_in), into]) for into, n_in in pairs])

    @property
    def n_inputs(self) -> int:
        """Dimension d of an input."""
        return self.widths[0]

    @property
    def n_outputs(self) -> int:
        """Dimension q of an output."""
        return self.widths[-1]

    def initial(self, rng: np.random.Generator) -> Vector:
        """Weights uniform in +-sqrt(6/(in + out)) (Glorot & Bengio 2010), biases 0; (p,)."""
        w = np.zeros(self.layout.size)
        for _, shape, place in self.layout.slices():
            if len(shape) == 2:
                bound = np.sqrt(6.0 / sum(shape))
                w[place] = bound * (2.0 * rng.random(shape).reshape(-1) - 1.0)
        return w

    def forward(self, w: Vector, x: Matrix) -> Matrix:
        """Outputs f(w; x), (m, q), of the inputs x, (m, d)."""
        return self.at(w, x).outputs

    def jvp(self, w: Vector, x: Matrix, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        return self.at(w, x).jvp(v)

    def vjp(self, w: Vector, x: Matrix, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        return self.at(w, x).vjp(u)

    def jacobian(self, w: Vector, x: Matrix) -> NDArray[np.float64]:
        """Jacobian J of all samples by w, (m, q, p)."""
        return self.factors(w, x).columns(slice(0, w.size))

    def factors(self, w: Vector, x: Matrix) -> Factors:
        """The outputs, and what J is made of."""
        return self.at(w, x).factors()

    def at(self, w: Vector, x: Matrix) -> Pass:
        """One pass forwards at w, from which outputs and all derivatives follow."""
        function, _ = ACTIVATIONS[self.activation]
        values, layers = [x], self.layers(w)
        for k, (W, b) in enumerate(layers):
            affine = values[-1] @ W.T
            affine += b
            values.append(affine if k == len(layers) - 1 else function(affine))
        return Pass(self, w, tuple(values))

    def layers(self, w: Vector) -> list[tuple[Matrix, Vector]]:
        """Weights and biases of each layer; views where w allows it."""
        return [(w[weight].reshape(shape), w[bias]) for weight, shape, bias in self._places]

    @cached_property
    def _places(self) -> list[tuple[slice, tuple[int, ...], slice]]:
        slices = self.layout.slices()
        return [
            (weight, shape, bias) for (_, shape, weight), (_, _, bias) in zip(slices[::2], slices[1::2], strict=True)
        ]
