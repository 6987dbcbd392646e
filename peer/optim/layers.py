"""Layers: maps f(a; theta) between inner-product spaces, with derivatives and adjoints by state and by parameters.

A state is flat, (m, d) for m samples; a layer that sees an image in it, see `peer.optim.images`, knows the image's
shape itself. Source: A. Caterini, D. E. Chang, "A geometric framework for convolutional neural networks"
(arXiv 1608.04374): a chain of such maps has its derivative and adjoint by theirs, whatever they are.

With the inner products <., .> of states, and of parameters, every layer at every point obeys

    <push(da, dtheta), u> = <da, pull_a u> + <dtheta, pull_theta u>.

`bend` is the gradient of <u, D_a f(a; theta) da> by a and by theta: what the gradient of a loss of derivatives needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Columns, Crossed, Part, Piece, Tensor
from peer.records import Record

NO_PARAMETERS: Final = Layout(())
"""Of layers that have none."""

IN_NONE: Final = -1
"""The neuron of a parameter that leads into none alone."""


class Local(Protocol):
    """A layer at a point: the state a, (m, d_in), and its parameters theta, (p,)."""

    @property
    def outputs(self) -> Matrix:
        """f(a; theta), (m, d_out)."""

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """Derivative along a change of the state, (m, d_in), of the parameters, (p,), or both: (m, d_out)."""

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """Adjoint of u, (m, d_out): by the parameters written to `out`, (p,), by the state, if it goes on, returned."""

    def carry(self, cotangents: Tensor) -> Tensor:
        """Adjoint by the state of q cotangents a sample: (m, q, d_out) to (m, q, d_in)."""

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Columns of the Jacobian of what has these cotangents, (m, q, d_out), theta beginning at `start`."""

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """Gradient of <u, D_a f da>: by the parameters added to `out`, (p,), by the state returned, (m, d_in)."""


class Layer(Protocol):
    """A differentiable map f(a; theta) from R^d_in to R^d_out, the same for each sample."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts of theta."""

    @property
    def n_inputs(self) -> int:
        """Dimension d_in."""

    @property
    def n_outputs(self) -> int:
        """Dimension d_out."""

    @property
    def n_products(self) -> int:
        """Products of two numbers that an evaluation takes for a sample, about."""

    @property
    def structured(self) -> bool:
        """Whether the Jacobian by theta is made of `Part` alone, of which Gram matrices are had for less."""

    @property
    def neurons(self) -> NDArray[np.intp]:
        """Into which of the layer's neurons each parameter leads, biases included, or `IN_NONE`, (p,)."""

    @property
    def inner_product(self) -> Vector:
        """Diagonal M > 0 of the inner product of its parameters, see `peer.optim.metrics`, (p,)."""

    def initial(self, rng: np.random.Generator) -> Vector:
        """Random parameters to start from, (p,)."""

    def at(self, theta: Vector, a: Matrix) -> Local:
        """The layer at a point."""


@lru_cache(maxsize=16)
def ones(n: int) -> Vector:
    """A vector of ones, to be read only, (n,)."""
    found = np.ones(n)
    found.flags.writeable = False
    return found


def glorot(rng: np.random.Generator, shape: tuple[int, ...], n_in: int, n_out: int) -> Vector:
    """Weights uniform in +-sqrt(6/(in + out)), flat (X. Glorot, Y. Bengio, 2010)."""
    bound = np.sqrt(6.0 / (n_in + n_out))
    return np.asarray(bound * (2.0 * rng.random(shape).reshape(-1) - 1.0))


# ---- dense ---------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Dense:
    """f(a) = a W' + b.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Widths.
    bias : bool
        Whether there is a b.
    normal : bool
        Whether weights begin as rows of N(0, Id/n_inputs), and not as by `glorot`; biases begin as 0.
    """

    n_inputs: int
    n_outputs: int
    bias: bool = True
    normal: bool = False

    @cached_property
    def layout(self) -> Layout:
        """Weight (out, in), then bias (out,)."""
        weight = ("weight", (self.n_outputs, self.n_inputs))
        return Layout((weight, ("bias", (self.n_outputs,))) if self.bias else (weight,))

    @property
    def n_products(self) -> int:
        """One a parameter."""
        return self.layout.size

    @property
    def structured(self) -> bool:
        """It is."""
        return True

    @cached_property
    def neurons(self) -> NDArray[np.intp]:
        """The row of a weight, (p,)."""
        into = np.arange(self.n_outputs)
        return np.concatenate([np.repeat(into, self.n_inputs), into[: self.n_outputs * self.bias]])

    @cached_property
    def inner_product(self) -> Vector:
        """As many as inputs, of weights; 1 of biases."""
        return np.repeat([float(self.n_inputs), 1.0], [self.n_inputs * self.n_outputs, self.n_outputs * self.bias])

    def initial(self, rng: np.random.Generator) -> Vector:
        """Weights at random, biases 0; (p,)."""
        shape, theta = (self.n_outputs, self.n_inputs), np.zeros(self.layout.size)
        if self.normal:
            weights = rng.standard_normal(shape).reshape(-1) / math.sqrt(self.n_inputs)
        else:
            weights = glorot(rng, shape, self.n_inputs, self.n_outputs)
        theta[: weights.size] = weights
        return theta

    def split(self, theta: Vector) -> tuple[Matrix, Vector]:
        """Weights and biases, (0,) if there are none; views."""
        n_weights = self.n_outputs * self.n_inputs
        return theta[:n_weights].reshape(self.n_outputs, self.n_inputs), theta[n_weights:]

    def at(self, theta: Vector, a: Matrix) -> LocalDense:
        """The layer at a point."""
        W, b = self.split(theta)
        outputs = a @ W.T
        if self.bias:
            outputs += b
        return LocalDense(self, W, a, outputs)


@final
class LocalDense(Record, frozen=True):
    """`Dense` at a point."""

    layer: Dense
    W: Matrix
    a: Matrix
    outputs: Matrix

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """Da W' + a dW' + db."""
        if dtheta is None:
            assert da is not None, "something is pushed"
            return da @ self.W.T
        dW, db = self.layer.split(dtheta)
        pushed = self.a @ dW.T
        if self.layer.bias:
            pushed += db
        if da is not None:
            pushed += da @ self.W.T
        return pushed

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """U W; u'a and the sum of u."""
        dW, db = self.layer.split(out)
        np.matmul(u.T, self.a, out=dW)
        if self.layer.bias:
            np.matmul(ones(len(u)), u, out=db)  # a sum over samples, but faster
        return u @ self.W if onward else u

    def carry(self, cotangents: Tensor) -> Tensor:
        """Cotangents W."""
        return np.asarray(cotangents @ self.W)

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Products of cotangents with a, and with 1."""
        pieces: list[Piece] = [Part(start, cotangents, self.a, Crossed(self.a))]
        if self.layer.bias:
            pieces.append(Part(pieces[0].stop, cotangents, ones(len(self.a))[:, None]))
        return pieces

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """<u, da W'> is linear in W, and does not depend on a."""
        dW, _ = self.layer.split(out)
        dW += u.T @ da
        return np.zeros_like(da)


# ---- elementwise ---------------------------------------------------------------------------

Elementwise: TypeAlias = Callable[[Matrix], Matrix]
OfBoth: TypeAlias = Callable[[Matrix, Matrix], Matrix]
"""A function of a and of the activation's value there."""


@final
@dataclass(frozen=True)
class Curve:
    """A smooth function of one variable, or one with kinks, by which each entry goes.

    Parameters
    ----------
    value : callable
        s(a).
    slope, bend : callable
        s'(a) and s''(a), of a and s(a).
    """

    value: Elementwise
    slope: OfBoth
    bend: OfBoth


def _sigmoid(a: Matrix) -> Matrix:
    return 0.5 * (1.0 + np.tanh(0.5 * a))


def _density(a: Matrix) -> Matrix:
    return np.asarray(np.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi))


def _nothing(a: Matrix, value: Matrix) -> Matrix:
    return np.zeros_like(a)


ACTIVATIONS: Final[Mapping[str, Curve]] = {
    "tanh": Curve(np.tanh, lambda a, s: 1.0 - s * s, lambda a, s: -2.0 * s * (1.0 - s * s)),
    "relu": Curve(lambda a: np.maximum(a, 0.0), lambda a, s: (s > 0.0).astype(np.float64), _nothing),
    "sigmoid": Curve(_sigmoid, lambda a, s: s * (1.0 - s), lambda a, s: s * (1.0 - s) * (1.0 - 2.0 * s)),
    "softplus": Curve(
        lambda a: np.logaddexp(0.0, a), lambda a, s: _sigmoid(a), lambda a, s: _sigmoid(a) * _sigmoid(-a)
    ),
    "gelu": Curve(
        lambda a: a * ndtr(a), lambda a, s: ndtr(a) + a * _density(a), lambda a, s: (2.0 - a * a) * _density(a)
    ),
    "square": Curve(lambda a: a * a, lambda a, s: 2.0 * a, lambda a, s: np.full_like(a, 2.0)),
}
"""Elementwise activations by name; at 0 the slope of relu is taken as 0. gelu is a times the normal distribution of a
(D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016)."""


@final
@dataclass(frozen=True)
class Activation:
    """f(a) = s(a), entry by entry.

    Parameters
    ----------
    n_inputs : int
        Width.
    name : str
        Of s, in `ACTIVATIONS`.
    """

    n_inputs: int
    name: str

    @property
    def layout(self) -> Layout:
        """Nothing."""
        return NO_PARAMETERS

    @property
    def n_outputs(self) -> int:
        """As many as inputs."""
        return self.n_inputs

    @property
    def n_products(self) -> int:
        """None of two states."""
        return 0

    @property
    def structured(self) -> bool:
        """There is nothing to it."""
        return True

    @property
    def neurons(self) -> NDArray[np.intp]:
        """Of no parameters."""
        return np.zeros(0, dtype=np.intp)

    @property
    def inner_product(self) -> Vector:
        """Of no parameters."""
        return np.zeros(0)

    def initial(self, rng: np.random.Generator) -> Vector:
        """Nothing."""
        return np.zeros(0)

    def at(self, theta: Vector, a: Matrix) -> LocalActivation:
        """The layer at a point."""
        curve = ACTIVATIONS[self.name]
        return LocalActivation(curve, a, curve.value(a))


@final
class LocalActivation(Record, frozen=True, dict=True):
    """`Activation` at a point."""

    curve: Curve
    a: Matrix
    outputs: Matrix

    @cached_property
    def slopes(self) -> Matrix:
        """s'(a), (m, d)."""
        return self.curve.slope(self.a, self.outputs)

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """S'(a) da."""
        return np.zeros_like(self.a) if da is None else da * self.slopes

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """S'(a) u."""
        return u * self.slopes

    def carry(self, cotangents: Tensor) -> Tensor:
        """S'(a) times each."""
        return cotangents * self.slopes[:, None, :]

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """None."""
        return []

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """S''(a) da u."""
        return self.curve.bend(self.a, self.outputs) * da * u


# ---- normalization -------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class LayerNormalization:
    """f(a) = g x + b with x = (a - mean a)/sqrt(variance of a + eps), over the entries of a sample.

    Source: J. Ba, J. Kiros, G. Hinton, "Layer normalization" (2016).

    Parameters
    ----------
    n_inputs : int
        Width d; g and b have it, too.
    eps : float
        > 0; 1e-5 as is usual.
    """

    n_inputs: int
    eps: float = 1e-5

    @cached_property
    def layout(self) -> Layout:
        """Weight g (d,), then bias b (d,)."""
        return Layout((("weight", (self.n_inputs,)), ("bias", (self.n_inputs,))))

    @property
    def n_outputs(self) -> int:
        """As many as inputs."""
        return self.n_inputs

    @property
    def n_products(self) -> int:
        """One a parameter."""
        return self.layout.size

    @property
    def structured(self) -> bool:
        """It is not."""
        return False

    @cached_property
    def neurons(self) -> NDArray[np.intp]:
        """None: g and b scale and shift what others lead to, (p,)."""
        return np.full(self.layout.size, IN_NONE)

    @property
    def inner_product(self) -> Vector:
        """1 each: they act on one entry."""
        return np.ones(self.layout.size)

    def initial(self, rng: np.random.Generator) -> Vector:
        """G = 1, b = 0; (p,)."""
        return np.repeat([1.0, 0.0], self.n_inputs)

    def at(self, theta: Vector, a: Matrix) -> LocalNormalization:
        """The layer at a point."""
        centered = a - a.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centered * centered).mean(axis=1, keepdims=True) + self.eps)
        x, (g, b) = centered / deviation, (theta[: self.n_inputs], theta[self.n_inputs :])
        return LocalNormalization(self, g, x, deviation, g * x + b)


@final
class LocalNormalization(Record, frozen=True):
    """`LayerNormalization` at a point."""

    layer: LayerNormalization
    g: Vector
    x: Matrix
    deviation: Matrix
    outputs: Matrix

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """G dx + dg x + db."""
        pushed = np.zeros(self.outputs.shape)
        if da is not None:
            pushed += self.g * self._normal(da, self.x, self.deviation)
        if dtheta is not None:
            d = self.layer.n_inputs
            pushed += dtheta[:d] * self.x + dtheta[d:]
        return pushed

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """The derivative of x by a is symmetric."""
        d = self.layer.n_inputs
        out[:d], out[d:] = (u * self.x).sum(axis=0), u.sum(axis=0)
        return self._normal(self.g * u, self.x, self.deviation) if onward else u

    def carry(self, cotangents: Tensor) -> Tensor:
        """As `pull`, each."""
        return self._normal(self.g * cotangents, self.x[:, None], self.deviation[:, None])

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Cotangents times x, and cotangents."""
        d = self.layer.n_inputs
        return [Columns(start, cotangents * self.x[:, None]), Columns(start + d, np.ascontiguousarray(cotangents))]

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """With v = g u, P the centering and c = P a: of v'P da/sigma - (v'c)(c'da)/(d sigma^3), which is <u, g dx>."""
        out[: self.layer.n_inputs] += (u * self._normal(da, self.x, self.deviation)).sum(axis=0)
        v, x = self.g * u, self.x
        v, moved = v - v.mean(axis=1, keepdims=True), da - da.mean(axis=1, keepdims=True)

        def mean(product: Matrix) -> Matrix:
            return np.asarray(product.mean(axis=1, keepdims=True))

        along_v, along_da = mean(v * x), mean(moved * x)
        bent = (3.0 * along_v * along_da - mean(v * moved)) * x - along_da * v - along_v * moved
        return np.asarray(bent / self.deviation**2)

    @staticmethod
    def _normal(change: Tensor, x: Tensor, deviation: Tensor) -> Tensor:
        """Of a change of a, that of x; symmetric."""
        moved: Tensor = change - change.mean(axis=-1, keepdims=True)
        moved -= x * (change * x).mean(axis=-1, keepdims=True)
        moved /= deviation
        return moved
