"""A map f(w; x) that another library differentiates, as a model: what the method asks of it, and what it must obey.

The library gives outputs, J v, J'u, and J of some samples. Where J of all samples is small it is kept as it is; where
it is not, its columns are made when they are needed, a few samples at a time, and memory stays bounded.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.errors import PeerError, SolveError, is_refusal
from peer.optim.factors import Columns, Factors, Tensor

DENSE_BYTES: Final = 1 << 28
"""Of a J that is kept as a matrix at most; `peer.optim.maps` copies it at most once."""

CHUNK: Final = 1 << 22
"""Numbers of J that are made at a time, 32 MB: the library may need several times that on the way."""

MOST_WORDS: Final = 300
"""Characters of another's message that are told."""

CHECKED: Final = 3
"""Samples on which a network is tried: several, to see whether they mix."""

AGREEMENT: Final = 1e-9
"""Relative difference up to which two ways to the same numbers agree; float32 somewhere leaves 1e-7."""

PACKAGE: Final = Path(__file__).absolute().parents[1]
"""Ours: what stands in its files is not the user's code."""


class Local(Protocol):
    """A function at w with m inputs, as a library has it."""

    @property
    def outputs(self) -> Matrix:
        """f(w; x), (m, q)."""

    def jvp(self, v: Vector) -> Matrix:
        """J v, (m, q), of v, (p,)."""

    def vjp(self, u: Matrix) -> Vector:
        """J'u, (p,), of u, (m, q)."""

    def jacobian(self, rows: slice) -> Tensor:
        """J of these samples, (rows, q, p)."""


class Function(Protocol):
    """A differentiable f(w; x), as a library has it."""

    def at(self, w: Vector, x: Tensor) -> Local:
        """The function at w, (p,), with inputs (m, ...); both stay as they are."""

    def refusal(self, w: Vector, x: Tensor) -> str:
        """What the library knows against this as a function of w and of one sample; empty: nothing."""

    def loaded(self, w: Vector) -> Any:  # noqa: ANN401  (of the library's own kind)
        """What the user's code made, with the parameters w in it."""


@final
@dataclass(frozen=True, eq=False)
class Foreign:
    """A model that another library differentiates.

    Parameters
    ----------
    name : str
        "package.module:function" that made it, for messages.
    folder : Path
        Of the code, to find the line in which it failed.
    function : Function
        f.
    input_shape : tuple of int
        Of one sample.
    n_outputs : int
        q.
    layout : Layout
        Names and shapes of the parameters, as the library has them.
    neurons : ndarray
        Into which neuron each parameter leads, where that is known, or -1; (p,).
    start : Vector
        Parameters as the user's code made them, (p,).
    """

    name: str
    folder: Path
    function: Function
    input_shape: tuple[int, ...]
    n_outputs: int
    layout: Layout
    neurons: NDArray[np.intp]
    start: Vector

    @property
    def widths(self) -> tuple[int, ...]:
        """Entries of an input and of an output: what is between them, only the library knows."""
        return math.prod(self.input_shape), self.n_outputs

    def initial(self, rng: np.random.Generator) -> Vector:
        """Parameters as the user's code made them, which knew the seed; (p,)."""
        return self.start.copy()

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        """The samples as they are, (m, ...).

        Raises
        ------
        ValueError
            They have another shape.
        """
        if x.shape[1:] != self.input_shape:
            raise ValueError(f"expected x of shape (m, {_shape(self.input_shape)}), found (m, {_shape(x.shape[1:])})")
        return x

    def at(self, w: Vector, x: Matrix) -> ForeignPass:
        """One pass forwards at w, from which outputs and all derivatives follow.

        Raises
        ------
        SolveError
            The user's code failed, or has made something else than (m, q) outputs. So in all that follows.
        """
        with self.blamed():
            local = self.function.at(w, x)
        if local.outputs.shape != (len(x), self.n_outputs):
            expected = f"expected outputs of shape {(len(x), self.n_outputs)} for {len(x)} samples"
            raise SolveError(f"{self.name}: {expected}, found {local.outputs.shape}")
        return ForeignPass(self, w, len(x), local)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What fails within is the user's code: a SolveError says so, with file and line; what the host refuses passes.

        Raises
        ------
        SolveError
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, PeerError) or is_refusal(error):
                raise
            raise SolveError(f"{self.name}: {told(error, self.folder)}") from error

    def check(self, x: Matrix) -> None:
        """See whether this is a function of w and of one sample, with derivatives that fit each other.

        Parameters
        ----------
        x : Matrix
            Samples, of which a few are used.

        Raises
        ------
        ValueError
            It is not; says why.
        SolveError
            The user's code failed.
        """
        x, w = self.inputs(x[:CHECKED]), self.start
        with self.blamed():
            refusal = self.function.refusal(w, x)
        if refusal:
            raise ValueError(refusal)
        here = self.at(w, x)
        if not np.isfinite(here.outputs).all():
            raise ValueError("expected finite outputs with the first parameters, found nan or infinity")
        if not np.array_equal(here.outputs, self.at(w, x).outputs):
            raise ValueError("expected a function, found other outputs for the same parameters and inputs")
        alone = np.concatenate([self.at(w, sample[None]).outputs for sample in x])
        if not _agree(alone, here.outputs):
            raise ValueError(
                "expected outputs of a sample that depend on that sample alone, as g_i is a sum over samples; "
                "found others when it comes with others"
            )
        v, u = (np.cos(1.0 + np.arange(n)) for n in (w.size, here.outputs.size))
        u = u.reshape(here.outputs.shape)
        forward, backward = here.jvp(v) * u, here.vjp(u) * v
        scale = float(np.abs(forward).sum() + np.abs(backward).sum()) + 1e-300
        if not abs(float(forward.sum() - backward.sum())) <= AGREEMENT * scale:
            raise ValueError("expected derivatives forwards and backwards that agree, in float64; found others")
        with self.blamed():
            jacobian = here.local.jacobian(slice(0, 1))
        if not _agree(jacobian[0] @ v, here.jvp(v)[0]):
            raise ValueError("expected a Jacobian that agrees with derivatives forwards, found another")


@final
@dataclass(frozen=True, eq=False)
class ForeignPass:
    """`Foreign` at a point.

    Parameters
    ----------
    model : Foreign
    w : Vector
        Parameters, (p,).
    n_samples : int
        m.
    local : Local
        As the library has it.
    """

    model: Foreign
    w: Vector
    n_samples: int
    local: Local

    @property
    def outputs(self) -> Matrix:
        """f(w; x), (m, q)."""
        return self.local.outputs

    @property
    def n_parameters(self) -> int:
        """Number p of columns of J."""
        return self.w.size

    @property
    def n_products(self) -> int:
        """P: how often each parameter is met, only the library knows."""
        return self.w.size

    @property
    def structured(self) -> bool:
        """Not that we know."""
        return False

    def jvp(self, v: Vector) -> Matrix:
        """Directional derivative J v, (m, q), along v, (p,)."""
        with self.model.blamed():
            return self.local.jvp(v)

    def vjp(self, u: Matrix) -> Vector:
        """Adjoint J'u, (p,), of u, (m, q)."""
        with self.model.blamed():
            return self.local.vjp(u)

    def factors(self) -> Factors:
        """The outputs, and the columns of J, as they are or made when they are needed."""
        return self._factors

    @cached_property
    def _factors(self) -> Factors:
        q, p = self.model.n_outputs, self.w.size
        n_at_once = max(1, CHUNK // (q * p))
        rows = Rows(0, p, (self.n_samples, q), n_at_once, self._made, self.jvp, self.vjp)
        is_kept = 8 * self.n_samples * q * p <= DENSE_BYTES
        return Factors(self.outputs, (Columns(0, rows.entries()) if is_kept else rows,))

    def _made(self, rows: slice) -> Tensor:
        with self.model.blamed():
            return self.local.jacobian(rows)


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of J, or made of them, for which all columns of some samples at a time are computed.

    Parameters
    ----------
    start, stop : int
        First parameter, and behind the last.
    shape : tuple of int
        (m, q).
    n_at_once : int
        Samples whose columns may be in memory together.
    made : callable
        Samples -> their columns, (rows, q, stop - start).
    forward, adjoint : callable or None
        The products with v, (stop - start,), and u, (m, q), where they can be had without the columns.
    """

    start: int
    stop: int
    shape: tuple[int, int]
    n_at_once: int
    made: Callable[[slice], Tensor] = field(repr=False)
    forward: Callable[[Vector], Matrix] | None = field(default=None, repr=False)
    adjoint: Callable[[Matrix], Vector] | None = field(default=None, repr=False)

    @property
    def n_rows(self) -> int:
        """Cotangents of an output that it takes: one a column."""
        return self.stop - self.start

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, self.shape[0], self.n_at_once):
            rows = slice(first, min(first + self.n_at_once, self.shape[0]))
            yield rows, self.made(rows)

    def within(self, place: slice) -> tuple[Rows, slice]:
        """The parameters in `place` alone."""
        start, stop = max(place.start, self.start), min(place.stop, self.stop)
        cut, n, forward, adjoint = slice(start - self.start, stop - self.start), self.n_rows, self.forward, self.adjoint

        def pushed(v: Vector) -> Matrix:
            whole = np.zeros(n)
            whole[cut] = v
            assert forward is not None, "else this is not called"
            return forward(whole)

        def pulled(u: Matrix) -> Vector:
            assert adjoint is not None, "else this is not called"
            return adjoint(u)[cut]

        part = replace(
            self,
            start=start,
            stop=stop,
            made=lambda rows: self.made(rows)[:, :, cut],
            forward=None if forward is None else pushed,
            adjoint=None if adjoint is None else pulled,
        )
        return part, slice(0, stop - start)

    def entries(self) -> Tensor:
        """The columns, (m, q, stop - start)."""
        entries = np.empty((*self.shape, self.n_rows))
        for rows, columns in self._chunks():
            entries[rows] = columns
        return entries

    def times(self, v: Vector) -> Matrix:
        """Their product with v, (stop - start,): (m, q)."""
        if self.forward is not None:
            return self.forward(v)
        return np.concatenate([np.zeros((0, self.shape[1])), *(columns @ v for _, columns in self._chunks())])

    def transposed_times(self, u: Matrix) -> Vector:
        """The adjoint, (stop - start,), of u, (m, q)."""
        if self.adjoint is not None:
            return self.adjoint(u)
        result = np.zeros(self.n_rows)
        for rows, columns in self._chunks():
            result += u[rows].reshape(-1) @ columns.reshape(-1, self.n_rows)
        return result

    def turned(self, matrices: Tensor) -> Rows:
        """The columns multiplied by these matrices, (m, q, q)."""
        return replace(self, made=lambda rows: matrices[rows] @ self.made(rows), forward=None, adjoint=None)

    def squared(self) -> Rows:
        """The squares of the entries."""
        return replace(self, made=lambda rows: self.made(rows) ** 2, forward=None, adjoint=None)

    def squares(self) -> Vector:
        """Squared norms of the columns, (stop - start,)."""
        result = np.zeros(self.n_rows)
        for _, columns in self._chunks():
            result += np.einsum("mqb,mqb->b", columns, columns)
        return result


def told(error: BaseException, folder: Path) -> str:
    """What went wrong in the user's code, in one line: its file and line, kind of the error, first line of the text."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_within(frame.filename, folder) and not _is_library(frame.filename)]
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
    words = next(iter(str(error).strip().splitlines()), "")[:MOST_WORDS]
    return f"{place}{type(error).__name__}{': ' * bool(words)}{words}"


def _is_within(file: str, folder: Path) -> bool:
    """Whether a file is in a folder; <frozen importlib._bootstrap> and its like are none."""
    return not file.startswith("<") and Path(file).absolute().is_relative_to(folder)


def _is_library(file: str) -> bool:
    """Whether this is installed, or is ours: a user's folder may be around both."""
    return "site-packages" in file or _is_within(file, PACKAGE)


def _agree(one: Matrix, other: Matrix) -> bool:
    scale = float(np.abs(one).max(initial=0.0)) + 1e-300
    return bool(np.allclose(one, other, rtol=0.0, atol=AGREEMENT * scale))


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
