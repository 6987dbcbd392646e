"""Inner products of parameters: with which lengths of their changes are measured.

Each layer says what inner product its parameters have by nature, <theta, theta'>_M = sum_k M_k theta_k theta'_k: M is
the number of inputs of a neuron, for weights, and 1 for biases, so that unit changes of either move what the neuron
gets of unit inputs by as much. With it the proximal term of (11) and (12) is (tau/2)||w - w_i||_M^2, the same for all
agents. It is had by coordinates v = M^(1/2) w, in which it is the plain one: whoever asks a `Measured` model for its
parameters sees v, and the method in v with r(M^(-1/2) v) is the method in w with M. Residuals and disagreements are
measured in v, too. Source: A. Caterini, D. E. Chang (arXiv 1608.04374), where gradients depend on inner products and
on nothing else of the coordinates. v are those of the neural tangent kernel (A. Jacot, F. Gabriel, C. Hongler, 2018),
in which the weights of every layer begin with a deviation of about 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.optim.chains import Chain
from peer.optim.factors import Columns, Factors, Part, Piece, Summed
from peer.optim.models import Pass
from peer.records import Record


@final
@dataclass(frozen=True)
class Measured:
    """A chain of layers in coordinates in which the inner product of its parameters is the plain one.

    Parameters
    ----------
    network : Chain
        f.
    """

    network: Chain

    @cached_property
    def roots(self) -> Vector:
        """Square roots of the entries of M, (p,)."""
        return np.sqrt(self.network.inner_product)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts."""
        return self.network.layout

    @property
    def widths(self) -> tuple[int, ...]:
        """Those of the network."""
        return self.network.widths

    @property
    def n_outputs(self) -> int:
        """Dimension q of an output."""
        return self.network.n_outputs

    @property
    def neurons(self) -> NDArray[np.intp]:
        """Those of the network, (p,)."""
        return self.network.neurons

    def initial(self, rng: np.random.Generator) -> Vector:
        """The network's, as v, (p,)."""
        return self.roots * self.network.initial(rng)

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """What `at` takes, of samples as files have them, (m, ...).

        Raises
        ------
        ValueError
            They have another number of entries.
        """
        return self.network.inputs(x)

    def at(self, w: Vector, x: Matrix) -> Pass:
        """One pass forwards at v."""
        return MeasuredPass(w, self.roots, self.network.at(w / self.roots, x))


@final
class MeasuredPass(Record, frozen=True):
    """`Measured` at a point.

    Parameters
    ----------
    w : Vector
        v, (p,).
    roots : Vector
        Of M, (p,).
    inner : Pass
        The network there.
    """

    w: Vector
    roots: Vector
    inner: Pass

    @property
    def outputs(self) -> Matrix:
        """f, (m, q)."""
        return self.inner.outputs

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.inner.n_parameters

    @property
    def n_products(self) -> int:
        """Those of the network."""
        return self.inner.n_products

    @property
    def structured(self) -> bool:
        """As the network: roots are the same for all of a part."""
        return self.inner.structured

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative, (m, q), along v, (p,)."""
        return self.inner.jvp(v / self.roots)

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint, (p,), of u, (m, q)."""
        return self.inner.vjp(u) / self.roots

    def factors(self) -> Factors:
        """Those of the network, each column over its root."""
        factors = self.inner.factors()
        return Factors(factors.outputs, tuple(self._scaled(piece) for piece in factors.pieces))

    def _scaled(self, piece: Piece) -> Piece:
        roots = self.roots[piece.start : piece.stop]
        if isinstance(piece, Part | Summed) and (roots == roots[0]).all():
            return replace(piece, values=piece.values / roots[0])
        return Columns(piece.start, piece.entries() / roots)
