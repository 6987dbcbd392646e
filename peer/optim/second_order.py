"""The second-order model of a subproblem, its minimizer where the regularizer has kinks, and how far to go there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.optim.maps import LinearMap, Map, gram_of, is_direct, is_dual, mixed_rows, whitened
from peer.optim.regularizers import Regularizer
from peer.optim.surrogates import Linearized
from peer.optim.systems import EPS, shifted_system

TRIES: Final = 600
"""Systems with the tau of a problem; a few tens are needed. What is not done by then goes to and fro between kinks that
a small tau leaves far apart, and is solved by `solvers.descended`, mostly with some hundred."""

HALVINGS: Final = 200
"""Of the interval in which a step ends. Where a loss is saturated it has no curvature, and with a small tau the model's
minimizer is further away than its own by so many orders of magnitude; what is shorter than 2^-200 of that is 0."""

SETTLED: Final = 1e-7
"""Of the dual slope where r is curved: so near Newton in the primal variables, which is quadratic too, is safe."""

PRECISION: Final = 1e-3
"""Relative, of the length of a step: far better than the model that it comes from."""


@final
@dataclass(frozen=True, eq=False)
class SecondOrder:
    """Second-order model of h: slope'd + 1/2 ||R d||^2 + tau/2 ||d||^2 with d = x - center.

    Parameters
    ----------
    center, slope : Vector
        (p,).
    root : Map
        R, (k, p).
    tau : float
        > 0.
    accuracy : float
        Of systems that are solved by products with R.
    """

    center: Vector
    slope: Vector
    root: Map
    tau: float
    accuracy: float = EPS

    def from_dual(self, regularizer: Regularizer, u: Vector) -> Vector:
        """Argmin over x of slope'd + u'R d + tau/2 ||d||^2 + r(x), (p,)."""
        v = self.center - (self.slope + self.root.T @ u) / self.tau
        return regularizer.prox(v, 1.0 / self.tau)

    def dual_slope_along(self, regularizer: Regularizer, u: Vector, direction: Vector) -> Callable[[float], float]:
        """Derivative by t of phi(u + t direction) in `model_minimizer`, where one t costs no product with R."""
        v = self.center - (self.slope + self.root.T @ u) / self.tau
        across = self.root.T @ direction
        linear, square = float(np.dot(u, direction)), float(np.dot(direction, direction))

        def slope(t: float) -> float:
            x = regularizer.prox(v - (t / self.tau) * across, 1.0 / self.tau)
            return linear + t * square - float(np.dot(across, x - self.center))

        return slope


def model_root(subproblem: Linearized, outputs: Matrix) -> Map:
    """R of `SecondOrder`: as many rows as J has, or, where its Gram matrix is formed, as many as that has ranks."""
    J, kept = subproblem.jacobian, subproblem.kept
    if is_direct(J) and not is_dual(J) and kept is not None and subproblem.loss.constant_curvature:
        return kept.root(subproblem.weight, subproblem.roots(outputs), pivoted_root)
    if kept is not None and is_dual(J):
        J = kept.matrix
    roots = subproblem.roots(outputs)
    if is_direct(J) and not is_dual(J):
        return pivoted_root(gram_of(subproblem.weight, roots, J))
    return mixed_rows(math.sqrt(subproblem.weight), roots, J)


def pivoted_root(gram: Matrix) -> Matrix:
    """R, (rank, b), with R'R = gram to rounding, by Cholesky with pivots, which takes semidefinite ones."""
    factor, pivots, rank, _ = linalg.lapack.dpstrf(gram)
    root = np.empty((rank, len(gram)))
    root[:, pivots - 1] = np.triu(factor)[:rank]
    return root


def model_minimizer(model: SecondOrder, regularizer: Regularizer) -> tuple[Vector, int]:
    """Minimizer of a second-order model plus r, and the number of linear systems it took.

    With a smooth r: one system. Otherwise semismooth Newton on the dual, as X. Li, D. Sun,
    K.-C. Toh, "A highly efficient semismooth Newton augmented Lagrangian method for solving
    Lasso problems" (2018) do within their outer iteration, which tau > 0 makes unnecessary:

        minimize over u in R^k:  phi(u) = 1/2 ||u||^2 - min over x of (slope'd + tau/2 ||d||^2 + r(x) + u'R d)

    phi is strongly convex with the gradient u - R d(u), d(u) by one proximal map, and a
    generalized second derivative Id + R_A (tau Id + r''_A)^(-1) R_A' over the coordinates A of the
    face of x. Steps are taken as in `proximal_newton`. One that is taken whole and stays in the
    face it started from has found it, where r is quadratic there; else it goes on until rounding.
    The last systems are solved on that face in the primal variables, in which nothing is lost to
    small tau.
    """
    if regularizer.smooth:
        return _on_face(model, regularizer, model.center), 1
    u, systems = np.zeros(model.root.shape[0]), 1
    x = model.from_dual(regularizer, u)
    slope = u - model.root @ (x - model.center)
    first = lowest = float(np.linalg.norm(slope))
    by_products = isinstance(model.root, LinearMap)
    reach = np.linalg.norm(model.center) + np.linalg.norm(model.slope) / model.tau  # of what x is the proximal map of
    noise = EPS * float(size_of(model.root) * reach)  # of the slope, as far as it is known
    while systems < TRIES:
        systems += 1
        white = whitened(model.root, regularizer.face(x), regularizer.whitening(x, model.tau))
        direction = -shifted_system(white.T, model.accuracy)(slope)
        u_next, x_next = u + direction, model.from_dual(regularizer, u + direction)
        slope = u_next - model.root @ (x_next - model.center)
        whole = float(np.linalg.norm(slope)) <= 0.5 * lowest
        if not whole:
            step = descent(model.dual_slope_along(regularizer, u, direction))
            whole = step == 1.0
            if step == 0.0:
                break  # rounding
            if not whole:
                u_next = u + step * direction
                x_next = model.from_dual(regularizer, u_next)
                slope = u_next - model.root @ (x_next - model.center)
        settled = whole and _same_face(regularizer, x, x_next)
        u, x, last, lowest = u_next, x_next, lowest, min(lowest, float(np.linalg.norm(slope)))
        if not whole and lowest <= noise:
            break  # so is this, with steps that lead nowhere
        at_rounding = lowest > 0.5 * last and (lowest <= noise or by_products)  # not far off, in a wrong face
        if settled and (regularizer.flat or lowest <= SETTLED * first or at_rounding):
            break
    return _polished(model, regularizer, x, systems)


def _same_face(regularizer: Regularizer, x: Vector, x_next: Vector) -> bool:
    faces = regularizer.face(x), regularizer.face(x_next)
    return np.array_equal(*faces) and np.array_equal(regularizer.onto_face(x_next, x), x_next)


def _polished(model: SecondOrder, regularizer: Regularizer, x: Vector, systems: int) -> tuple[Vector, int]:
    """Newton on the face of x, one step where r is quadratic there; and the systems that it took in all."""
    x_next = _on_face(model, regularizer, x)
    while not regularizer.flat and systems < TRIES:
        off, off_next = (float(np.linalg.norm(_slope_on_face(model, regularizer, point))) for point in (x, x_next))
        if not off_next < 0.5 * off:
            return (x_next if off_next < off else x), systems
        x, x_next, systems = x_next, _on_face(model, regularizer, x_next), systems + 1
    return x_next, systems


def _slope_on_face(model: SecondOrder, regularizer: Regularizer, x: Vector) -> Vector:
    """Derivative of the model plus r at x in the coordinates of its face."""
    d = x - model.center
    slope = model.slope + model.root.T @ (model.root @ d) + model.tau * d + regularizer.gradient(x)
    return np.asarray(slope[regularizer.face(x)])


def _on_face(model: SecondOrder, regularizer: Regularizer, x: Vector) -> Vector:
    """One Newton step of the model plus r from x, in the coordinates in which r is smooth around x."""
    free, whitening = regularizer.face(x), regularizer.whitening(x, model.tau)
    system = shifted_system(whitened(model.root, free, whitening), model.accuracy)
    step = whitening(system(whitening(_slope_on_face(model, regularizer, x))))
    moved = x.copy()
    moved[free] -= step
    return regularizer.onto_face(moved, x)


def size_of(root: Map) -> float:
    """||R||_F, at least about."""
    if isinstance(root, LinearMap):
        return math.sqrt(root.squared_adjoint(np.ones(root.shape[0])).sum())
    return float(np.linalg.norm(root))


def descent(slope: Callable[[float], float]) -> float:
    """How far to go on a line down a convex function with this derivative: to its minimum, or 1.

    Parameters
    ----------
    slope : callable
        t -> derivative, or a subgradient where there is a kink.

    Returns
    -------
    float
        In [0, 1]; at most `PRECISION` short of the minimizer, never beyond, so that the function
        has decreased. 0 where it does not descend at all: that is rounding.
    """
    if slope(1.0) <= 0.0:
        return 1.0
    below, above = 0.0, 1.0
    for _ in range(HALVINGS):
        if above - below <= PRECISION * above:
            break
        middle = 0.5 * (below + above)
        below, above = (middle, above) if slope(middle) <= 0.0 else (below, middle)
    return below
