"""Maps f(w; x) from inputs to outputs, with derivatives by their parameters w."""

from __future__ import annotations

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
        return self._activations(w, x)[-1]

    def jvp(self, w: Vector, x: Matrix, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        values = self._activations(w, x)
        tangent = np.zeros_like(x)
        for k, ((W, _), (dW, db)) in enumerate(zip(self._layers(w), self._layers(v), strict=True)):
            if k > 0:
                tangent = tangent * self._slope(values[k])
            tangent = tangent @ W.T + values[k] @ dW.T + db
        return tangent

    def vjp(self, w: Vector, x: Matrix, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        values = self._activations(w, x)
        result = np.empty_like(w)
        parts = self._layers(result)
        cotangent = u
        for k, (W, _) in reversed(list(enumerate(self._layers(w)))):
            parts[k][0][...] = cotangent.T @ values[k]
            parts[k][1][...] = cotangent.sum(axis=0)
            if k > 0:
                cotangent = (cotangent @ W) * self._slope(values[k])
        return result

    def jacobian(self, w: Vector, x: Matrix) -> NDArray[np.float64]:
        """Jacobian J of all samples by w, (m, q, p)."""
        values = self._activations(w, x)
        m, q = len(x), self.n_outputs
        J = np.empty((m, q, w.size))
        places = [place for _, _, place in self.layout.slices()]
        # cotangents of the q outputs: (m, q, width) going backwards
        cotangent = np.broadcast_to(np.eye(q), (m, q, q))
        for k, (W, _) in reversed(list(enumerate(self._layers(w)))):
            outer = cotangent[:, :, :, None] * values[k][:, None, None, :]
            J[:, :, places[2 * k]] = outer.reshape(m, q, W.size)
            J[:, :, places[2 * k + 1]] = cotangent
            if k > 0:
                cotangent = (cotangent @ W) * self._slope(values[k])[:, None, :]
        return J

    def _layers(self, w: Vector) -> list[tuple[Matrix, Vector]]:
        parts = list(self.layout.unflatten(w).values())
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _activations(self, w: Vector, x: Matrix) -> list[Matrix]:
        function, _ = ACTIVATIONS[self.activation]
        values = [x]
        layers = self._layers(w)
        for k, (W, b) in enumerate(layers):
            affine = values[-1] @ W.T + b
            values.append(affine if k == len(layers) - 1 else function(affine))
        return values

    def _slope(self, value: Matrix) -> Matrix:
        return ACTIVATIONS[self.activation][1](value)
