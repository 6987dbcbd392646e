"""Layers that see images: convolution and pooling.

States are flat, (m, channels*height*width), as of every layer; the image's shape is known to the layer alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Columns, Piece, Summed, Tensor
from peer.optim.layers import NO_PARAMETERS, glorot
from peer.records import Record

Image: TypeAlias = tuple[int, int, int]
"""Channels, height and width."""


@final
@dataclass(frozen=True)
class Convolution:
    """Channel o of f(a) is the sum over channels of the cross-correlation of a with the kernel K[o], plus b[o].

    Parameters
    ----------
    image : tuple of int
        (channels, height, width) of a.
    n_channels : int
        Of the result.
    size : int
        Height and width of the kernel.
    stride : int
        Places between two of its positions, >= 1.
    padding : int
        Zeros around a, on each side, >= 0.
    bias : bool
        Whether there is a b.
    """

    image: Image
    n_channels: int
    size: int
    stride: int = 1
    padding: int = 0
    bias: bool = True

    @property
    def result(self) -> Image:
        """(channels, height, width) of the result."""
        _, height, width = self.image
        reach = 2 * self.padding - self.size
        return self.n_channels, (height + reach) // self.stride + 1, (width + reach) // self.stride + 1

    @cached_property
    def layout(self) -> Layout:
        """Weight (out, in, size, size), then bias (out,)."""
        weight = ("weight", (self.n_channels, self.image[0], self.size, self.size))
        return Layout((weight, ("bias", (self.n_channels,))) if self.bias else (weight,))

    @property
    def n_inputs(self) -> int:
        """Entries of the image."""
        return math.prod(self.image)

    @property
    def n_outputs(self) -> int:
        """Entries of the result."""
        return math.prod(self.result)

    @property
    def n_products(self) -> int:
        """One a parameter and position."""
        return self.layout.size * self.result[1] * self.result[2]

    @property
    def structured(self) -> bool:
        """It is not: its columns are sums over positions."""
        return False

    @cached_property
    def neurons(self) -> NDArray[np.intp]:
        """The channel of the result, (p,)."""
        into = np.arange(self.n_channels)
        return np.concatenate([np.repeat(into, self._reach), into[: self.n_channels * self.bias]])

    @cached_property
    def inner_product(self) -> Vector:
        """As many as a kernel has entries, of weights; 1 of biases."""
        return np.repeat([float(self._reach), 1.0], [self.n_channels * self._reach, self.n_channels * self.bias])

    def initial(self, rng: np.random.Generator) -> Vector:
        """Weights by `glorot`, for as many inputs and outputs as a kernel joins; biases 0; (p,)."""
        theta, area = np.zeros(self.layout.size), self.size**2
        weights = glorot(rng, self.layout.shapes[0][1], self._reach, self.n_channels * area)
        theta[: weights.size] = weights
        return theta

    def at(self, theta: Vector, a: Matrix) -> LocalConvolution:
        """The layer at a point."""
        K, b = self.split(theta)
        patches = self.patches(a)
        images = K @ patches.transpose(0, 2, 1)
        if self.bias:
            images += b[:, None]
        return LocalConvolution(self, K, patches, images.reshape(len(a), self.n_outputs))

    def split(self, theta: Vector) -> tuple[Matrix, Vector]:
        """Kernels, (out, in*size*size), and biases, (0,) if there are none; views."""
        n_weights = self.n_channels * self._reach
        return theta[:n_weights].reshape(self.n_channels, self._reach), theta[n_weights:]

    def patches(self, a: Matrix) -> Tensor:
        """What the kernel meets at each position: (m, positions, in*size*size)."""
        images, k = a.reshape(len(a), *self.image), self.padding
        if k:
            images = np.pad(images, ((0, 0), (0, 0), (k, k), (k, k)))
        windows = sliding_window_view(images, (self.size, self.size), axis=(2, 3))
        windows = windows[:, :, :: self.stride, :: self.stride].transpose(0, 2, 3, 1, 4, 5)
        return np.ascontiguousarray(windows).reshape(len(a), self._n_positions, self._reach)

    def spread(self, patches: Tensor) -> Matrix:
        """The adjoint of `patches`: every entry of a patch added to where it came from, (m, d_in)."""
        n, (channels, height, width), k, s = len(patches), self.image, self.padding, self.stride
        _, n_rows, n_columns = self.result
        images = np.zeros((n, channels, height + 2 * k, width + 2 * k))
        windows = patches.reshape(n, n_rows, n_columns, channels, self.size, self.size).transpose(0, 3, 4, 5, 1, 2)
        for i in range(self.size):
            for j in range(self.size):
                images[:, :, i : i + s * n_rows : s, j : j + s * n_columns : s] += windows[:, :, i, j]
        return images[:, :, k : k + height, k : k + width].reshape(n, self.n_inputs)

    @property
    def _reach(self) -> int:
        return self.image[0] * self.size**2

    @property
    def _n_positions(self) -> int:
        return self.result[1] * self.result[2]


@final
class LocalConvolution(Record, frozen=True):
    """`Convolution` at a point."""

    layer: Convolution
    K: Matrix
    patches: Tensor
    outputs: Matrix

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """The change of a with K, and a with the change of K, plus that of b."""
        pushed = np.zeros(self.outputs.shape)
        if da is not None:
            pushed += (self.K @ self.layer.patches(da).transpose(0, 2, 1)).reshape(pushed.shape)
        if dtheta is not None:
            dK, db = self.layer.split(dtheta)
            images = dK @ self.patches.transpose(0, 2, 1)
            if self.layer.bias:
                images += db[:, None]
            pushed += images.reshape(pushed.shape)
        return pushed

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """U with K turned around; u with the patches, and the sum of u."""
        images = self._images(u)
        dK, db = self.layer.split(out)
        np.matmul(_together(images).T, self.patches.reshape(len(u) * images.shape[2], dK.shape[1]), out=dK)
        if self.layer.bias:
            images.sum(axis=(0, 2), out=db)
        return self.layer.spread(images.transpose(0, 2, 1) @ self.K) if onward else u

    def carry(self, cotangents: Tensor) -> Tensor:
        """Each with K turned around."""
        m, q, width = cotangents.shape
        images = self._images(cotangents.reshape(m * q, width))
        return self.layer.spread(images.transpose(0, 2, 1) @ self.K).reshape(m, q, self.layer.n_inputs)

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """Sums over positions of products of cotangents and patches, and of cotangents."""
        m, q, width = cotangents.shape
        images = self._images(cotangents.reshape(m * q, width))
        n_channels, n_positions = images.shape[1:]
        pieces: list[Piece] = [Summed(start, images.reshape(m, q, n_channels, n_positions), self.patches)]
        if self.layer.bias:
            pieces.append(Columns(pieces[0].stop, images.sum(axis=2).reshape(m, q, n_channels)))
        return pieces

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """As of `LocalDense`: linear in K, and independent of a."""
        dK, _ = self.layer.split(out)
        images = self._images(u)
        dK += _together(images).T @ self.layer.patches(da).reshape(len(u) * images.shape[2], dK.shape[1])
        return np.zeros_like(da)

    def _images(self, u: Matrix) -> Tensor:
        """By channel and position, (m, out, positions)."""
        return u.reshape(len(u), self.layer.n_channels, u.shape[1] // self.layer.n_channels)


def _together(images: Tensor) -> Matrix:
    """All positions of all samples, (m*positions, channels)."""
    m, channels, n_positions = images.shape
    return images.transpose(0, 2, 1).reshape(m * n_positions, channels)


@final
@dataclass(frozen=True)
class Pooling:
    """The mean, or the largest, of each square of a channel; what is left over at the lower and right end is not seen.

    Of several largest ones the first counts: it takes the whole slope.

    Parameters
    ----------
    image : tuple of int
        (channels, height, width) of a.
    size : int
        Height and width of a square.
    largest : bool
        The largest, and not the mean.
    """

    image: Image
    size: int
    largest: bool

    @property
    def result(self) -> Image:
        """(channels, height, width) of the result."""
        channels, height, width = self.image
        return channels, height // self.size, width // self.size

    @property
    def layout(self) -> Layout:
        """Nothing."""
        return NO_PARAMETERS

    @property
    def n_inputs(self) -> int:
        """Entries of the image."""
        return math.prod(self.image)

    @property
    def n_outputs(self) -> int:
        """Entries of the result."""
        return math.prod(self.result)

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

    def at(self, theta: Vector, a: Matrix) -> LocalPooling:
        """The layer at a point."""
        entries, n_places = np.stack(self.entries(a)), self.size**2
        if self.largest:
            places = np.arange(n_places)[:, None, None, None, None]
            shares, outputs = (entries.argmax(axis=0) == places).astype(np.float64), entries.max(axis=0)
        else:
            shares, outputs = np.full((n_places, 1, 1, 1, 1), 1.0 / n_places), entries.mean(axis=0)
        return LocalPooling(self, shares, outputs.reshape(len(a), self.n_outputs))

    def entries(self, a: Matrix) -> list[Tensor]:
        """What stands at each of the size^2 places of the squares, (m, channels, rows, columns) each; views."""
        _, n_rows, n_columns = self.result
        images, k = a.reshape(len(a), *self.image), self.size
        return [images[:, :, i : n_rows * k : k, j : n_columns * k : k] for i in range(k) for j in range(k)]


@final
class LocalPooling(Record, frozen=True):
    """`Pooling` at a point, where it is linear.

    Parameters
    ----------
    layer : Pooling
    shares : ndarray
        What each place of a square counts, (size^2, m, channels, rows, columns); axes of length 1 where all are alike.
    outputs : Matrix
        (m, d_out).
    """

    layer: Pooling
    shares: Tensor
    outputs: Matrix

    def push(self, da: Matrix | None, dtheta: Vector | None) -> Matrix:
        """Sums with the shares."""
        pushed = np.zeros((len(self.outputs), *self.layer.result))
        if da is not None:
            for share, entry in zip(self.shares, self.layer.entries(da), strict=True):
                pushed += share * entry
        return pushed.reshape(self.outputs.shape)

    def pull(self, u: Matrix, out: Vector, onward: bool) -> Matrix:
        """To each entry its share."""
        return self._spread(u, self.shares)

    def carry(self, cotangents: Tensor) -> Tensor:
        """To each entry its share."""
        m, q, width = cotangents.shape
        shares = self.shares if self.shares.shape[1] == 1 else np.repeat(self.shares, q, axis=1)
        return self._spread(cotangents.reshape(m * q, width), shares).reshape(m, q, self.layer.n_inputs)

    def pieces(self, start: int, cotangents: Tensor) -> list[Piece]:
        """None."""
        return []

    def bend(self, da: Matrix, u: Matrix, out: Vector) -> Matrix:
        """0: it is linear where it is differentiable."""
        return np.zeros_like(da)

    def _spread(self, u: Matrix, shares: Tensor) -> Matrix:
        back = np.zeros((len(u), self.layer.n_inputs))
        images = u.reshape(len(u), *self.layer.result)
        for share, entry in zip(shares, self.layer.entries(back), strict=True):
            np.multiply(share, images, out=entry)  # squares do not overlap
        return back
