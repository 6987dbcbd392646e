"""Regimes of learning: which parameters of a network are trained, and at which point it is linearized.

Source: B. Ghorbani, S. Mei, T. Misiakiewicz, A. Montanari, "Limitations of lazy training of two-layers neural
networks" (NeurIPS 2019, arXiv 1906.08899): random features, the last layer alone; neural tangent, all parameters of
the network linearized at its start; and the network itself. Two models make these, and compose:

- `Restricted`: f(w; x) with some parts of w trained, and the others fixed;
- `Linear`: f(w0; x) + J(w0; x) (w - w0) with an anchor w0, so that g_i is convex, and J never changes.

Whoever asks a model for its parameters sees those that are trained, and no others; `everything` gives all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.optim.chains import Chain
from peer.optim.factors import Columns, Factors, Part, Piece
from peer.optim.metrics import Measured
from peer.optim.models import Model, Pass
from peer.records import Record

# ---- some parameters -----------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Restricted:
    """A network of which some parts are trained, w in R^p, and the others stay as they were at the start.

    Where these are the last ones of a chain, what the layers before them make of the samples is computed once, as
    `inputs`: random features.

    Parameters
    ----------
    network : Model
        f, with all P parameters.
    trained : tuple of str
        Names of the parts that are trained, in the order of the network's layout.
    start : Vector
        All parameters at the start, (P,).
    """

    network: Model
    trained: tuple[str, ...]
    start: Vector

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of the parts that are trained."""
        return Layout(tuple(part for part in self.network.layout.shapes if part[0] in self.trained))

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
        """As the network numbers them, (p,)."""
        return np.asarray(self.network.neurons[self.places])

    @cached_property
    def places(self) -> NDArray[np.intp]:
        """Where the trained parameters stand among all, (p,)."""
        parts = [np.arange(s.start, s.stop) for name, _, s in self.network.layout.slices() if name in self.trained]
        return np.concatenate([np.zeros(0, dtype=np.intp), *parts])

    @cached_property
    def _cut(self) -> tuple[Chain | None, Model, int]:
        """The layers that are fixed, before all that are trained; the rest; and its first parameter among all."""
        network = self.network
        if not isinstance(network, Chain):
            return None, network, 0
        first = int(self.places[0])
        k = next(k for k, place in enumerate(network.places) if place.stop > first)
        if k == 0:
            return None, network, 0
        return Chain(network.layers[:k]), Chain(network.layers[k:]), network.places[k].start

    def whole(self, w: Vector) -> Vector:
        """All parameters, (P,), with these, (p,), in their places."""
        everything = self.start.copy()
        everything[self.places] = w
        return everything

    def initial(self, rng: np.random.Generator) -> Vector:
        """Of the network's random parameters those that are trained, (p,)."""
        return np.asarray(self.network.initial(rng)[self.places])

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """What the first layer that is trained sees of the samples, (m, ...).

        Raises
        ------
        ValueError
            Says what was expected, and what was found.
        """
        features, _, before = self._cut
        inputs = self.network.inputs(x)
        return inputs if features is None else features.at(self.start[:before], inputs).outputs

    def at(self, w: Vector, x: Matrix) -> Pass:
        """One pass forwards at w with such inputs."""
        _, rest, before = self._cut
        if w.size == rest.layout.size:
            return rest.at(w, x)
        inner = rest.at(self.whole(w)[before:], x)
        return RestrictedPass(w, inner, self.places - before)


@final
class RestrictedPass(Record, frozen=True):
    """A network at a point, of which some parameters count.

    Parameters
    ----------
    w : Vector
        These, (p,).
    inner : Pass
        With all parameters, (P,).
    places : array of int
        Where w stands among them, ascending, (p,).
    """

    w: Vector
    inner: Pass
    places: NDArray[np.intp]

    @property
    def outputs(self) -> Matrix:
        """f, (m, q)."""
        return self.inner.outputs

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.w.size

    @property
    def n_products(self) -> int:
        """Those of the whole network: derivatives go through all of it."""
        return self.inner.n_products

    @property
    def structured(self) -> bool:
        """As of the whole network: parts are trained whole."""
        return self.inner.structured

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        whole = np.zeros(self.inner.n_parameters)
        whole[self.places] = v
        return self.inner.jvp(whole)

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        return np.asarray(self.inner.vjp(u)[self.places])

    def factors(self) -> Factors:
        """Of the columns that count."""
        factors, pieces = self.inner.factors(), list[Piece]()
        for piece in factors.pieces:
            start, stop = np.searchsorted(self.places, (piece.start, piece.stop)).tolist()
            kept = self.places[start:stop] - piece.start
            if stop - start == piece.stop - piece.start and isinstance(piece, Part | Columns):
                pieces.append(replace(piece, start=start))
            elif stop > start:
                pieces.append(Columns(start, piece.entries()[:, :, kept]))
        return Factors(factors.outputs, tuple(pieces))


# ---- linearized ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Linear:
    """f(w0; x) + J(w0; x) (w - w0): a network that is linearized at an anchor w0.

    Parameters
    ----------
    network : Model
        f.
    anchor : Vector
        w0, (p,).
    lasts : int
        Rounds for which it stays the same, about: what is worth to be computed once depends on it.
    """

    network: Model
    anchor: Vector
    lasts: int

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parts of w."""
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
        """The network's, (p,), which need not be the anchor."""
        return self.network.initial(rng)

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """What `at` takes, of samples as files have them, (m, ...).

        Raises
        ------
        ValueError
            Says what was expected, and what was found.
        """
        return self.network.inputs(x)

    def at(self, w: Vector, x: Matrix) -> LinearPass:
        """One pass forwards at w0, and from there to w."""
        return self.moved(self.network.at(self.anchor, x), w)

    def moved(self, base: Pass, w: Vector) -> LinearPass:
        """From a pass at w0, which all w have in common, to w."""
        return LinearPass(w, base, base.outputs + base.jvp(w - self.anchor))


@final
@dataclass(frozen=True, eq=False)
class LinearPass:
    """A linearized network at a point.

    Parameters
    ----------
    w : Vector
        The point, (p,).
    base : Pass
        The network at its anchor.
    outputs : Matrix
        f(w0) + J (w - w0), (m, q).
    """

    w: Vector
    base: Pass
    outputs: Matrix

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.base.n_parameters

    @property
    def n_products(self) -> int:
        """Those of the network."""
        return self.base.n_products

    @property
    def structured(self) -> bool:
        """As of the network."""
        return self.base.structured

    def jvp(self, v: Vector) -> Matrix:
        """J v, (m, q), along v, (p,)."""
        return self.base.jvp(v)

    def vjp(self, u: Matrix) -> Vector:
        """J'u, (p,), of u, (m, q)."""
        return self.base.vjp(u)

    def factors(self) -> Factors:
        """Those at the anchor, with the outputs at w."""
        return Factors(self.outputs, self.base.factors().pieces)


# ---- all parameters ------------------------------------------------------------------------


def network_of(model: Model) -> Model:
    """The network that a model of a regime is made of, with all parameters; others are their own."""
    if isinstance(model, Linear):
        return network_of(model.network)
    return model.network if isinstance(model, Restricted | Measured) else model


def own(model: Model, everything: Vector) -> Vector:
    """Of all parameters of the network, (P,), those of the model, (p,), in its coordinates."""
    if isinstance(model, Linear):
        return own(model.network, everything)
    if isinstance(model, Measured):
        return model.roots * everything
    return np.asarray(everything[model.places]) if isinstance(model, Restricted) else everything


def everything(model: Model, w: Vector) -> dict[str, NDArray[np.float64]]:
    """All parameters of the network by name, w, (p,), among them: what somebody needs who uses it."""
    if isinstance(model, Linear):
        return everything(model.network, w)
    if isinstance(model, Measured):
        return model.network.layout.unflatten(w / model.roots)
    if isinstance(model, Restricted):
        return model.network.layout.unflatten(model.whole(w))
    return model.layout.unflatten(w)


def flattened(model: Model, parts: Mapping[str, NDArray[Any]]) -> Vector:
    """The w, (p,), of parameters as `everything` gives them.

    Raises
    ------
    ValueError
        A part is missing, left over, of another shape, not numeric, or not finite.
    """
    return own(model, network_of(model).layout.flatten(parts))


def named(layout: Layout, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the parts that are meant by names of parts, or of what holds parts; in the order of the layout.

    Raises
    ------
    LookupError
        One means none of them; says which.
    """
    names = [name for name, _ in layout.shapes]
    for want in wanted:
        if not any(name == want or name.startswith(f"{want}.") for name in names):
            raise LookupError(want)
    return tuple(name for name in names if any(name == want or name.startswith(f"{want}.") for want in wanted))


def last(layout: Layout) -> tuple[str, ...]:
    """Names of the parts of the last layer that has parameters: those that differ from the last one's in a word."""
    layer = layout.shapes[-1][0].rpartition(".")[0] if layout.shapes else ""
    return tuple(name for name, _ in layout.shapes if name.rpartition(".")[0] == layer)
