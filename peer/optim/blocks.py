"""(5) block by block: each block of w is minimized over alone, all others kept at w_i, and w~ is put side by side.

Source: S. Scardapane, P. Di Lorenzo, "A framework for parallel and distributed training of neural
networks" (2017). A block of b parameters sees b columns of J, never the others', and its problem is (5) with a
smaller J. It is solved

1. by `peer.optim.solvers`, by products with its columns where that is the fastest way, else where b <= m q with the
   Hessian from `Factors.gram`, which takes the q-th part of the products of J'J;
2. all at once where blocks are single weights: a squared loss has a closed form, others take secants;
3. in stacks where b <= 8 and r is separable: in closed form where the loss is squared and r smooth, else by
   `peer.optim.stacks`. With groups, r is no sum over parameters, and blocks are solved one by one; but groups also
   allow of no blocks but layers, which are few.

What a block comes to depends on nothing that another block does, so neither on their order nor on how many are
solved at a time, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Protocol, TypeAlias, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from peer.arrays import Layout, Vector
from peer.errors import SolveError
from peer.optim.factors import Factors
from peer.optim.inverses import INDEFINITE
from peer.optim.maps import Blocks, columns_of
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import MAX_ITERATIONS, Accuracy, Solution, solve
from peer.optim.stacks import Stack, newton
from peer.optim.surrogates import Data, Linearized, Partial

T = TypeVar("T")
R = TypeVar("R")

BATCH: Final = 1 << 18
"""Numbers in the columns of J of small blocks that are solved together, 2 MB: what a processor's caches hold."""

STACKED: Final = 8
"""Longest blocks that are solved in stacks: with longer ones the work is more than what Python takes for each."""

RESOLVED: Final = 2.0**-26
"""Relative length of a step, the root of rounding, up to which a difference of derivatives is no curvature."""


class Each(Protocol):
    """Applies a function to each item, as many at a time as it likes."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Sequence[R]:
        """Results in the order of the items."""


def in_turn(function: Callable[[T], R], items: Sequence[T], /) -> Sequence[R]:
    """Apply a function to one item after the other."""
    return [function(item) for item in items]


def equal(p: int, n_blocks: int) -> tuple[slice, ...]:
    """Places of 1 <= n_blocks <= p contiguous blocks, the first p mod n_blocks one longer: numpy.array_split."""
    length, longer = divmod(p, n_blocks)
    ends = [k * length + min(k, longer) for k in range(n_blocks + 1)]
    return tuple(slice(start, stop) for start, stop in pairwise(ends))


def layers(layout: Layout) -> tuple[slice, ...]:
    """Places of the layers, a block each: parts whose names differ in the last word only, which stand together."""
    blocks: list[tuple[str, slice]] = []
    for name, _, place in layout.slices():
        layer = name.rpartition(".")[0]
        start = blocks.pop()[1].start if blocks and blocks[-1][0] == layer else place.start
        blocks.append((layer, slice(start, place.stop)))
    return tuple(place for _, place in blocks)


@final
@dataclass(frozen=True, eq=False)
class Blocked:
    """(5) with the surrogate (11) at a point, its Jacobian not yet formed.

    Parameters
    ----------
    surrogate : Partial
        kappa and tau.
    center, pi : Vector
        w_i and pi_i, (p,).
    data : Data
        The agent's.
    factors : Factors
        Of J at the center.
    regularizer : Regularizer
        r.
    scale : float
        Largest entry of the vectors that cancel at a solution: residuals of all blocks are relative to the same.
    accuracy : Accuracy
        Relative residual of an inner solver, of each block by its own start.
    way : Vector or None
        A guess of w~ - w_i, (p,).
    """

    surrogate: Partial
    center: Vector
    pi: Vector
    data: Data
    factors: Factors
    regularizer: Regularizer
    scale: float
    accuracy: Accuracy
    way: Vector | None = None

    @property
    def weight(self) -> float:
        """Kappa s of (11)."""
        return self.surrogate.kappa * self.data.weight

    def linearized(self, place: slice) -> Linearized:
        """The smooth part of (5) in the parameters in `place` alone, with their columns of J."""
        kept = None if self.data.frozen is None else self.data.frozen.block(place)
        constant = self.data.loss.constant_curvature
        return Linearized(
            center=self.center[place],
            outputs=self.factors.outputs,
            jacobian=columns_of(self.factors, place, constant) if kept is None else kept.jacobian,
            loss=self.data.loss,
            weight=self.weight,
            pi=self.pi[place],
            tau=self.surrogate.tau,
            scale=self.scale,
            kept=kept,
            adapts=self.surrogate.adapts,
        )

    @cached_property
    def slope(self) -> Vector:
        """Derivative of the smooth part of (5) at the center, (p,)."""
        whole = slice(0, self.center.size)
        back = self.factors.transposed_times(whole, self.data.loss.gradient(self.factors.outputs))
        return np.asarray(self.weight * back + self.pi)

    @cached_property
    def bends(self) -> Vector:
        """Diagonal of its second derivative there, without tau, (p,)."""
        roots = self.data.loss.curvature_root(self.factors.outputs)
        return self.weight * self.factors.gram_diagonal(slice(0, self.center.size), roots)

    def stack(self, place: slice, b: int) -> Stack:
        """(5) in each of the blocks of b parameters alone that a place consists of."""
        return Stack(
            center=self.center[place].reshape(-1, b),
            outputs=self.factors.outputs,
            columns=self.columns(place, b),
            loss=self.data.loss,
            weight=self.weight,
            pi=self.pi[place].reshape(-1, b),
            tau=self.surrogate.tau,
            scale=self.scale,
            regularizer=self.regularizer.restricted(place),
        )

    @property
    def closed(self) -> bool:
        """Whether blocks have a closed form, one linear system each."""
        return self.data.loss.quadratic and self.regularizer.smooth

    def columns(self, place: slice, b: int) -> Blocks:
        """Columns of J for the blocks of b parameters each that a place consists of, (n, m*q, b)."""
        columns = self.factors.columns(place).reshape(self.factors.outputs.size, -1, b)
        return np.ascontiguousarray(columns.transpose(1, 0, 2))

    def solve(self, batch: tuple[slice, int]) -> Solution:
        """Minimizers over the blocks of b parameters each that a place consists of, side by side."""
        (place, b), r = batch, self.regularizer.restricted(batch[0])
        if b == 1:
            return scalars(Block(self, place), r, self.accuracy.least)
        way = None if self.way is None else self.way[place]
        if b > STACKED or not r.separable:
            return solve(self.linearized(place), r, self.accuracy, way)
        if self.closed:
            return stacked(Block(self, place), r, b)
        return newton(self.stack(place, b), self.accuracy, None if way is None else way.reshape(-1, b))


def solve_blocks(
    surrogate: Partial,
    w: Vector,
    gradient: Vector,
    pi: Vector,
    data: Data,
    regularizer: Regularizer,
    accuracy: Accuracy,
    blocks: Sequence[slice],
    each: Each,
    way: Vector | None = None,
) -> Solution:
    """Minimizers of (5) with (11) over each block alone, side by side.

    Parameters
    ----------
    surrogate : Partial
    w, gradient, pi : Vector
        w_i, grad g_i(w_i), pi_i, (p,).
    data, regularizer, accuracy
        As of `Problem`.
    blocks : sequence of slice
        Places of the blocks, contiguous and in order, all p parameters once.
    each : Each
        How blocks are gone through.
    way : Vector or None
        A guess of w~ - w_i, (p,).

    Returns
    -------
    Solution
        The largest residual, the sum of the iterations.

    Raises
    ------
    SolveError
        nan or infinity came in or out.
    """
    scale = float(np.max(np.abs([surrogate.kappa * gradient, pi]), initial=0.0))
    factors = data.at(w).factors()
    problem = Blocked(surrogate, w, pi, data, factors, regularizer, scale, accuracy, way)
    batches = _batches(blocks, problem)
    solutions = each(problem.solve, batches)
    w_tilde = np.empty_like(w)
    for (place, _), solution in zip(batches, solutions, strict=True):
        w_tilde[place] = solution.w
    worst = max(solution.residual for solution in solutions)
    if not (np.isfinite([solution.residual for solution in solutions]).all() and np.isfinite(w_tilde).all()):
        raise SolveError("the surrogate has no finite solution: its data are nan or infinite")
    methods = ", ".join(sorted({solution.method for solution in solutions}))
    return Solution(w_tilde, worst, sum(s.iterations for s in solutions), f"{methods}, {len(blocks)} blocks")


def _batches(blocks: Sequence[slice], problem: Blocked) -> list[tuple[slice, int]]:
    """Places with the length b of the blocks in them: one block each, but runs of those that are solved together."""
    longest = STACKED if problem.regularizer.separable else 1
    columns = max(1, BATCH // max(1, problem.factors.outputs.size))
    batches: list[tuple[slice, int]] = []
    for block in blocks:
        b = block.stop - block.start
        start, last = (batches[-1][0].start, batches[-1][1]) if batches else (0, 0)
        fits = block.stop - start <= columns or (b == 1 and problem.data.loss.quadratic)  # which needs no columns
        if b == last <= longest and fits:
            batches[-1] = slice(start, block.stop), b
        else:
            batches.append((block, b))
    return batches


# ---- blocks of several weights -------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Block:
    """h(d), the smooth part of (5), of changes d of the parameters in `place` alone, (b,); J is never formed.

    Parameters
    ----------
    of : Blocked
        (5) as a whole.
    place : slice
    """

    of: Blocked
    place: slice

    @property
    def size(self) -> int:
        """Number of its parameters b."""
        return int(self.place.stop - self.place.start)

    def gradient(self) -> Vector:
        """Derivative of h at d = 0, (b,)."""
        return self.of.slope[self.place]

    def curvature_diagonal(self) -> Vector:
        """Diagonal of `curvature` at 0, (b,)."""
        return self.of.bends[self.place]


def stacked(h: Block, r: Regularizer, b: int) -> Solution:
    """Minimizers of h + r for a squared loss and a smooth r over each of the blocks of b parameters alone, (n b,).

    One system and one step of refinement for each, as in `normal_equations`, with the columns of J of all.

    Raises
    ------
    SolveError
        A matrix is singular to rounding.
    """
    center, tau, scale = h.of.center[h.place], h.of.surrogate.tau, h.of.scale
    columns = h.of.columns(h.place, b)
    turned = columns.transpose(0, 2, 1)
    matrices = h.of.weight * (turned @ columns)
    matrices[:, range(b), range(b)] += (r.whitening(center, tau).scale ** -2.0).reshape(-1, b)
    at_center, d = h.gradient(), np.zeros(h.size)

    def gradient(d: Vector) -> Vector:
        return np.asarray(at_center + h.of.weight * (turned @ (columns @ d.reshape(-1, b, 1))).reshape(-1) + tau * d)

    try:
        for _ in range(2):
            slope = gradient(d) + r.gradient(center + d)
            d = d - np.linalg.solve(matrices, slope.reshape(-1, b, 1)).reshape(-1)
    except linalg.LinAlgError as error:
        raise SolveError(INDEFINITE) from error
    errors = _errors(r, center + d, gradient(d), np.maximum(scale, np.abs(r.gradient(center + d))))
    return Solution(center + d, float(np.max(errors)), h.size // b, "stacked")


# ---- blocks of one weight ------------------------------------------------------------------

Slopes: TypeAlias = Callable[[Vector, NDArray[np.intp]], Vector]
"""Derivatives of h, (k,), by the k parameters with these numbers, each moved alone to its entry of a point, (b,)."""


def scalars(h: Block, r: Regularizer, tolerance: float) -> Solution:
    """Minimizers of h + r over each parameter alone, (b,), with separable r; iterations are summed over them.

    Steps are proximal with the curvature as their metric: x <- prox_{r/H}(x - h'/H). H is the second derivative at
    the center, which makes the first step the closed form for a squared loss; then the slope of h' between the last
    two points. A step leads towards the minimizer whatever H is, so that the points that were left enclose it.
    As in R. Brent, "Algorithms for minimization without derivatives" (1973), chapter 4, a step that leaves them, or
    is longer than half of the last but one, is replaced by one to their middle.
    """
    x, derivative, quadratic = h.of.center[h.place], h.gradient(), h.of.data.loss.quadratic
    metric = h.curvature_diagonal() + h.of.surrogate.tau
    slope = _linear(x, derivative, metric) if quadratic else _along_axes(h)
    error = _errors(r, x, derivative, np.maximum(h.of.scale, np.abs(r.gradient(x))))
    going = np.full(x.shape, True) if quadratic else ~(error <= tolerance)
    below, above = np.full_like(x, -math.inf), np.full_like(x, math.inf)
    last, last_but_one = np.full_like(x, math.inf), np.full_like(x, math.inf)
    steps = 0
    for _ in range(MAX_ITERATIONS):
        if not going.any():
            break
        steps += int(np.count_nonzero(going))
        inverse: Any = 1.0 / metric  # a step size for each parameter, as r is separable
        target = r.prox(x - derivative / metric, inverse)
        below, above = np.where(target > x, x, below), np.where(target < x, x, above)
        enclosed = np.isfinite(above - below)
        short = (below < target) & (target < above) & (np.abs(target - x) <= 0.5 * last_but_one)
        middle = 0.5 * (np.where(enclosed, below, x) + np.where(enclosed, above, x))
        target = np.where(going, np.where(enclosed & ~short, middle, target), x)
        step, at = target - x, np.flatnonzero(going)
        derivative_next = derivative.copy()
        derivative_next[at] = slope(target, at)
        if not quadratic:
            telling = np.abs(step) > RESOLVED * np.abs(x)
            secant = (derivative_next - derivative) / np.where(telling, step, 1.0)
            metric = np.where(telling, np.maximum(secant, h.of.surrogate.tau), metric)
        x, derivative, last, last_but_one = target, derivative_next, np.abs(step), last
        error = _errors(r, x, derivative, np.maximum(h.of.scale, np.abs(r.gradient(x))))
        going &= ~(error <= tolerance) & (np.abs(step) > np.spacing(np.abs(x)))
    return Solution(x, float(np.max(error, initial=0.0)), steps, "scalar")


def _linear(center: Vector, derivative: Vector, curvature: Vector) -> Slopes:
    return lambda x, at: derivative[at] + curvature[at] * (x - center)[at]


def _along_axes(h: Block) -> Slopes:
    center, tau, pi, loss = h.of.center[h.place], h.of.surrogate.tau, h.of.pi[h.place], h.of.data.loss
    outputs = h.of.factors.outputs
    tangents = np.ascontiguousarray(h.of.factors.columns(h.place).reshape(-1, h.size).T)

    def slope(x: Vector, at: NDArray[np.intp]) -> Vector:
        d, along = (x - center)[at], tangents[at]
        moved = (outputs + (along * d[:, None]).reshape(-1, *outputs.shape)).reshape(-1, outputs.shape[1])
        gradients = loss.repeated(len(at)).gradient(moved).reshape(along.shape)
        return np.asarray(h.of.weight * np.einsum("bk,bk->b", gradients, along) + pi[at] + tau * d)

    return slope


def _errors(r: Regularizer, x: Vector, derivative: Vector, scale: float | Vector) -> Vector:
    """Residual of each parameter, as in `solvers.residual`, (b,); `scale` without the weight of the penalty."""
    least = np.maximum(np.maximum(r.kinks(x), np.finfo(np.float64).eps), scale)
    return np.asarray(np.abs(x - r.prox(x - derivative, 1.0)) / least)
