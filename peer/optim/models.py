"""Models: maps f(w; x) from inputs to outputs, with derivatives by their parameters w. What the method asks of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Factors


class Model(Protocol):
    """A differentiable map f(w; x) to R^q with parameters w in R^p, of one sample at a time."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts of w."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Entries of an input, of what each layer that has parameters leads to, the last of these the outputs, q."""

    @property
    def n_outputs(self) -> int:
        """Dimension q of an output."""

    @property
    def neurons(self) -> NDArray[np.intp]:
        """Into which neuron each parameter leads, biases included, or -1: into none alone; (p,)."""

    def initial(self, rng: np.random.Generator) -> Vector:
        """Random parameters to start from, (p,)."""

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """What `at` takes, of samples as files have them, (m, ...).

        Raises
        ------
        ValueError
            Says what was expected, and what was found.
        """

    def at(self, w: Vector, x: Matrix) -> Pass:
        """One pass forwards at w with the inputs x, (m, d), from which outputs and all derivatives follow."""


class Pass(Protocol):
    """A model at w with m inputs: its outputs, and products with its Jacobian J there."""

    @property
    def w(self) -> Vector:
        """Parameters, (p,)."""

    @property
    def outputs(self) -> Matrix:
        """f(w; x), (m, q)."""

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""

    @property
    def n_products(self) -> int:
        """Products of two numbers that an evaluation takes for a sample, about; p, where each parameter is met once."""

    @property
    def structured(self) -> bool:
        """Whether J is made of `Part` alone, of which Gram matrices are had for less."""

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""

    def factors(self) -> Factors:
        """The outputs, and what J is made of, so that any of its columns can be had without the others."""
