"""Chains of layers: F = f_L o ... o f_1, with derivative and adjoint by those of the layers.

    D F = D f_L ... D f_1,    D*F = D*f_1 ... D*f_L,    by theta_k:  D*_theta f_k  D*(f_L o ... o f_k+1)

A chain is a layer itself, so that chains may be parts of chains. Source: A. Caterini, D. E. Chang, "A geometric
framework for convolutional neural networks" (arXiv 1608.04374), with the same recursion for second derivatives, which
the gradient of a loss of derivatives takes (tangent propagation: P. Simard et al., 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Factors, Piece, Tensor
from peer.optim.layers import IN_NONE, Activation, Dense, Layer, Local
from peer.records import Record


@final
@dataclass(frozen=True)
class Chain:
    """Layers, one after the other, each with as many inputs as the one before has outputs.

    Parameters
    ----------
    layers : tuple of Layer
        At least one. Those that have parameters are numbered: their parts are called layers.0.weight, ...
    """

    layers: tuple[Layer, ...]

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of the parts of w, those of the layers one after the other."""
        learning = [layer for layer in self.layers if layer.layout.shapes]
        parts = [(k, part) for k, layer in enumerate(learning) for part in layer.layout.shapes]
        return Layout(tuple((f"layers.{k}.{name}", shape) for k, (name, shape) in parts))

    @property
    def n_inputs(self) -> int:
        """Dimension d of an input."""
        return self.layers[0].n_inputs

    @property
    def n_outputs(self) -> int:
        """Dimension q of an output."""
        return self.layers[-1].n_outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """Entries of an input, and of what each layer that has parameters leads to."""
        return self.n_inputs, *(layer.n_outputs for layer in self.layers if layer.layout.shapes)

    @cached_property
    def n_products(self) -> int:
        """Products of two numbers that an evaluation takes for a sample, about."""
        return sum(layer.n_products for layer in self.layers)

    @cached_property
    def structured(self) -> bool:
        """Whether that of every layer is."""
        return all(layer.structured for layer in self.layers)

    @cached_property
    def neurons(self) -> NDArray[np.intp]:
        """Into which neuron each parameter leads, biases included, numbered layer after layer, or `IN_NONE`; (p,)."""
        numbers, n_before = [np.zeros(0, dtype=np.intp)], 0
        for layer in self.layers:
            neurons = layer.neurons
            numbers.append(np.where(neurons == IN_NONE, IN_NONE, neurons + n_before))
            n_before += int(neurons.max(initial=IN_NONE)) + 1
        return np.concatenate(numbers)

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where the parameters of each layer stand in w."""
        ends = np.cumsum([0, *(layer.layout.size for layer in self.layers)]).tolist()
        return tuple(map(slice, ends[:-1], ends[1:]))

    @cached_property
    def first(self) -> int:
        """The first layer that has parameters; the number of layers, if none has."""
        return next((k for k, layer in enumerate(self.layers) if layer.layout.shapes), len(self.layers))

    @cached_property
    def inner_product(self) -> Vector:
        """Diagonal of the inner product of the parameters: those of the layers, (p,)."""
        return np.concatenate([np.zeros(0), *(layer.inner_product for layer in self.layers)])

    def initial(self, rng: np.random.Generator) -> Vector:
        """Each layer's, (p,)."""
        return np.concatenate([np.zeros(0), *(layer.initial(rng) for layer in self.layers)])

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """The samples (m, ...) as rows, (m, d).

        Raises
        ------
        ValueError
            They have another number of entries.
        """
        n_inputs = math.prod(x.shape[1:])
        if n_inputs != self.n_inputs:
            raise ValueError(f"expected x with the model's {self.n_inputs} columns, found {n_inputs}")
        return x.reshape(len(x), n_inputs)

    def at(self, w: Vector, x: Matrix) -> ChainPass:
        """One pass forwards at w, from which outputs and all derivatives follow."""
        passed: list[Local] = []
        for layer, place in zip(self.layers, self.places, strict=True):
            passed.append(layer.at(w[place], x))
            x = passed[-1].outputs
        return ChainPass(self, w, tuple(passed))


@final
class ChainPass(Record, frozen=True):
    """A chain at a point: its layers there.

    Parameters
    ----------
    chain : Chain
    w : Vector
        Parameters, (p,).
    passed : tuple of Local
        The layers at what the ones before gave, and their parameters.
    """

    chain: Chain
    w: Vector
    passed: tuple[Local, ...]

    @property
    def outputs(self) -> Matrix:
        """f(w; x), (m, q)."""
        return self.passed[-1].outputs

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.w.size

    @property
    def n_products(self) -> int:
        """Products of two numbers that an evaluation takes for a sample, about."""
        return self.chain.n_products

    @property
    def structured(self) -> bool:
        """Whether J is made of `Part` alone."""
        return self.chain.structured

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        return self.push(None, v)

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        result = np.empty(self.w.shape)
        self.pull(u, result, False)
        return result

    def factors(self) -> Factors:
        """The outputs, and J as products of cotangents, one pass backwards, and what goes into each layer."""
        m, q = self.outputs.shape
        return Factors(self.outputs, self.pieces(0, np.broadcast_to(np.eye(q), (m, q, q))))

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """Derivative along a change of the inputs, (m, d), of the parameters, (p,), or both: (m, q)."""
        tangent = da
        for local, place in zip(self.passed, self.chain.places, strict=True):
            own = dtheta[place] if dtheta is not None and place.stop > place.start else None
            if tangent is not None or own is not None:
                tangent = local.push(tangent, own)
        return np.zeros(self.outputs.shape) if tangent is None else tangent

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """Adjoint of u, (m, q): by the parameters written to `out`, (p,), by the inputs, if it goes on, returned."""
        stop = 0 if onward else self.chain.first
        for k in range(len(self.passed) - 1, stop - 1, -1):
            u = self.passed[k].pull(u, out[self.chain.places[k]], onward or k > stop)
        return u

    def carry(self, cotangents: Tensor) -> Tensor:
        """Adjoint by the inputs of r cotangents a sample: (m, r, q) to (m, r, d)."""
        for local in reversed(self.passed):
            cotangents = local.carry(cotangents)
        return cotangents

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Columns of the Jacobian of what has these cotangents, (m, r, q), w beginning at `start`."""
        pieces: list[list[Piece]] = []
        for k in range(len(self.passed) - 1, self.chain.first - 1, -1):
            pieces.append(self.passed[k].pieces(start + self.chain.places[k].start, cotangents))
            if k > self.chain.first:
                cotangents = self.passed[k].carry(cotangents)
        return [piece for layer in reversed(pieces) for piece in layer]

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """Gradient of <u, D F da> by the parameters, added to `out`, (p,), and by the inputs, returned, (m, d).

        With a_k and da_k what goes into layer k, u_k the cotangents that come back to it, and u = u_L, that is b_0 of

            b_L = 0,    b_k = D*f_k b_k+1 + gradient by a_k of <u_k+1, D f_k da_k>,    u_k = D*f_k u_k+1.
        """
        tangents = [da]
        for local in self.passed[:-1]:
            tangents.append(local.push(tangents[-1], None))
        bent = np.zeros_like(u)
        for local, place, tangent in reversed(list(zip(self.passed, self.chain.places, tangents, strict=True))):
            own, ignored = np.zeros(place.stop - place.start), np.empty(place.stop - place.start)
            bent = local.pull(bent, own, True) + local.bend(tangent, u, own)
            u = local.pull(u, ignored, True)
            out[place] += own
        return bent


@final
@dataclass(frozen=True)
class Residual:
    """f(a) = a + h F(a) with a chain F: a step of length h of forward Euler, if F is a velocity.

    Source: K. He et al., "Deep residual learning for image recognition" (2016).

    Parameters
    ----------
    chain : Chain
        F, with as many outputs as inputs.
    step : float
        h.
    """

    chain: Chain
    step: float = 1.0

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts of theta: those of F."""
        return self.chain.layout

    @property
    def n_inputs(self) -> int:
        """Dimension of a."""
        return self.chain.n_inputs

    @property
    def n_outputs(self) -> int:
        """The same."""
        return self.chain.n_outputs

    @property
    def n_products(self) -> int:
        """As many as of F."""
        return self.chain.n_products

    @property
    def structured(self) -> bool:
        """As of F."""
        return self.chain.structured

    @property
    def neurons(self) -> NDArray[np.intp]:
        """Those of F, (p,)."""
        return self.chain.neurons

    @property
    def inner_product(self) -> Vector:
        """Those of F, (p,)."""
        return self.chain.inner_product

    def initial(self, rng: np.random.Generator) -> Vector:
        """Those of F, (p,)."""
        return self.chain.initial(rng)

    def at(self, theta: Vector, a: Matrix) -> LocalResidual:
        """The layer at a point."""
        inner = self.chain.at(theta, a)
        return LocalResidual(self.step, inner, a + self.step * inner.outputs)


@final
class LocalResidual(Record, frozen=True):
    """`Residual` at a point."""

    step: float
    inner: ChainPass
    outputs: Matrix

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """Da + h D F."""
        pushed = self.step * self.inner.push(da, dtheta)
        return pushed if da is None else da + pushed

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """U + h D*F u."""
        pulled = self.inner.pull(self.step * u, out, onward)
        return u + pulled if onward else u

    def carry(self, cotangents: Tensor) -> Tensor:
        """As `pull`, each."""
        return cotangents + self.inner.carry(self.step * cotangents)

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Those of F, h times."""
        return self.inner.pieces(start, self.step * cotangents)

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """That of F, h times; a itself is not bent."""
        return self.inner.bend(da, self.step * u, out)


def mlp(widths: Sequence[int], activation: str) -> Chain:
    """Multilayer perceptron: dense layers, an elementwise activation between them, a linear output.

    a_0 = x,  a_{k+1} = activation(a_k W_k' + b_k),  f = a_L W_L' + b_L.

    Parameters
    ----------
    widths : sequence of int
        (d, hidden widths ..., q); without hidden widths the map is affine.
    activation : str
        A name in `peer.optim.layers.ACTIVATIONS`.
    """
    layers: list[Layer] = []
    for width_in, width_out in pairwise(widths):
        if layers:
            layers.append(Activation(width_in, activation))
        layers.append(Dense(width_in, width_out))
    return Chain(tuple(layers))
