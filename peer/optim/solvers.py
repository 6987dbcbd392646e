"""Minimizers of a subproblem plus regularizer: closed forms where they exist, proximal Newton where not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, final

import numpy as np
from scipy import linalg
from scipy.linalg.blas import daxpy

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.inverses import INDEFINITE as INDEFINITE
from peer.optim.inverses import Inverse, cholesky, within
from peer.optim.maps import (
    NYSTROM_PARAMETERS,
    PATIENCE,
    RANK,
    LinearMap,
    Map,
    conjugate_gradients,
    gram_of,
    is_direct,
    is_dual,
    mixed_rows,
    outer_of,
    whitened,
)
from peer.optim.nystrom import nystrom
from peer.optim.regularizers import Regularizer
from peer.optim.surrogates import FirstOrder, Linearized, Subproblem
from peer.optim.vectors import is_finite, largest, length
from peer.records import Record

EPS: Final = float(np.finfo(np.float64).eps)
"""Distance from 1 to the next number."""

MAX_ITERATIONS: Final = 2_000
"""Where many problems are solved at once; a few tens are needed, the rest is for problems of extreme condition."""

TRIES: Final = 600
"""Systems with the tau of a problem; a few tens are needed. What is not done by then goes to and fro between kinks that
a small tau leaves far apart, and is solved by `descended`, mostly with some hundred."""

LOST: Final = 1e-3
"""A residual that no rounding leaves, but where systems are beyond its reach: steps have ended in the wrong place."""

HALVINGS: Final = 200
"""Of the interval in which a step ends. Where a loss is saturated it has no curvature, and with a small tau the model's
minimizer is further away than its own by so many orders of magnitude; what is shorter than 2^-200 of that is 0."""

SETTLED: Final = 1e-7
"""Of the dual slope where r is curved: so near Newton in the primal variables, which is quadratic too, is safe."""

STEEPEST: Final = 1e20
"""Of J'J beside tau, as far as `descended` helps. Beyond it a minimizer may be anywhere where no sample bends."""

NO_WAY: Final = np.zeros(0)
"""In the place of one."""

PRECISION: Final = 1e-3
"""Relative, of the length of a step: far better than the model that it comes from."""


@final
@dataclass(frozen=True)
class Accuracy:
    """How well to solve: to the residual max(least, min(most, share start)), where `start` is that of the center.

    Parameters
    ----------
    least : float
        Enough in any case.
    share, most : float
        0 and 0 where nothing else is.
    """

    least: float
    share: float = 0.0
    most: float = 0.0

    def of(self, start: float) -> float:
        """The residual that is enough."""
        return max(self.least, min(self.most, self.share * start))


@final
class Solution(Record, frozen=True):
    """What a solver reached.

    Parameters
    ----------
    w : Vector
        w~, (p,).
    residual : float
        ||w - prox_r(w - grad h(w))||_inf relative to the largest entry of the vectors that
        cancel there: kappa grad g_i, pi_i and the regularizer's gradient or weight. Where all
        of them are below rounding at 1, so is the problem, and it is relative to that.
    iterations : int
        Linear systems solved, or 1 for a proximal step.
    method : str
        prox; cholesky or woodbury, one system in p or in m q unknowns; newton-cholesky or newton-woodbury, several of
        them; proximal-newton, where r has kinks; newton-cg.
    way : Vector
        w~ - w_i, (p,), where the next round is to begin from it; else empty.
    """

    w: Vector
    residual: float
    iterations: int
    method: str
    way: Vector = NO_WAY


def solve(
    subproblem: Subproblem, regularizer: Regularizer, tolerance: float | Accuracy, way: Vector | None = None
) -> Solution:
    """Minimizer of h + r.

    Closed forms: the proximal step for first-order subproblems, one linear system for a squared
    loss, also a weighted one, with a smooth regularizer. Everything else by `proximal_newton`, with conjugate
    gradients inside where the Jacobian is known by its products; should these not get there, with the matrix. What is
    lost or takes too long is begun again by `descended`.

    Parameters
    ----------
    subproblem : Subproblem
        h.
    regularizer : Regularizer
        r.
    tolerance : float or Accuracy
        Relative residual to reach; what was reached is in the result, also where it is larger.
    way : Vector or None
        A guess of the way from the center to the minimizer, (p,): iterations begin there if that is nearer to optimal.

    Raises
    ------
    SolveError
        nan or infinity came in or out.
    """
    accuracy = tolerance if isinstance(tolerance, Accuracy) else Accuracy(tolerance)
    if isinstance(subproblem, FirstOrder):
        solution = proximal_step(subproblem, regularizer)
    elif subproblem.loss.constant_curvature and regularizer.smooth and is_direct(subproblem.jacobian):
        solution = normal_equations(subproblem, regularizer)
    else:
        here, J = Point.of(subproblem, regularizer, regularizer.nearest(subproblem.center)), subproblem.jacobian
        enough = accuracy.of(here.error)
        if way is not None and here.error > enough:
            there = Point.of(subproblem, regularizer, regularizer.nearest(subproblem.center + way))
            here = there if there.error < here.error else here
        solution = proximal_newton(subproblem, regularizer, enough, here)
        if not is_direct(J) and isinstance(J, LinearMap) and J.matrix and solution.residual > enough:
            return solve(replace(subproblem, jacobian=J.matrix(), kept=None), regularizer, enough)
        if solution.residual > enough and (solution.iterations >= TRIES or solution.residual > LOST):
            solution = descended(subproblem, regularizer, enough, solution)
    if not (math.isfinite(solution.residual) and is_finite(solution.w)):
        raise SolveError("the surrogate has no finite solution: its data are nan or infinite")
    return solution


def residual(subproblem: Subproblem, regularizer: Regularizer, w: Vector) -> float:
    """Relative distance from optimality of w, as in `Solution.residual`; >= 0."""
    return _residual(subproblem, regularizer, w, subproblem.gradient(w))


def _residual(subproblem: Subproblem, regularizer: Regularizer, w: Vector, gradient: Vector) -> float:
    return _relative(subproblem, regularizer, w, gradient, regularizer.gradient(w))


def _relative(subproblem: Subproblem, regularizer: Regularizer, w: Vector, gradient: Vector, penalty: Vector) -> float:
    scale = max(subproblem.scale, regularizer.scale, largest(penalty), EPS)
    return largest(w - regularizer.prox(w - gradient, 1.0)) / scale


def proximal_step(subproblem: FirstOrder, regularizer: Regularizer) -> Solution:
    """w~ = prox_{r/tau}(center - slope/tau)."""
    w = regularizer.prox(subproblem.center - subproblem.slope / subproblem.tau, 1.0 / subproblem.tau)
    return Solution(w, residual(subproblem, regularizer, w), 1, "prox")


def normal_equations(subproblem: Linearized, regularizer: Regularizer) -> Solution:
    """Minimizer of a quadratic h + r with smooth r: one Newton step from the center, refined by the exact gradient."""
    w, outputs = subproblem.center, subproblem.outputs
    gradient = subproblem.gradient_of(w, outputs)
    inverse = Systems(subproblem, regularizer).at(outputs)
    for _ in range(2):
        w = w - inverse(gradient + regularizer.gradient(w))
        gradient = subproblem.gradient(w)
    method = "woodbury" if is_dual(subproblem.jacobian) else "cholesky"
    return Solution(w, _residual(subproblem, regularizer, w, gradient), 1, method)


@final
@dataclass(frozen=True, eq=False)
class Systems:
    """Systems (J'H J + T) x = b of Newton's method with smooth r; T = tau Id + r'' is diagonal, and always the same.

    H has the blocks weight B_m B_m'. With a wide J they are solved in m q unknowns (Woodbury):

        x = c - weight T^(-1) J' B (Id + weight B'J T^(-1) J'B)^(-1) B' J c,    c = T^(-1) b,

    where J T^(-1) J' is the same for all of them, so that a further one takes no product of matrices with p columns.

    Parameters
    ----------
    subproblem : Linearized
        h.
    regularizer : Regularizer
        r, smooth.
    """

    subproblem: Linearized
    regularizer: Regularizer
    _preconditioners: dict[str, Inverse] = field(default_factory=dict, init=False, repr=False)

    def at(self, outputs: Matrix, accuracy: float = EPS) -> Inverse:
        """Solver of the system at a point.

        Parameters
        ----------
        outputs : Matrix
            Linearized ones of the point, (m, q).
        accuracy : float
            Of conjugate gradients.

        Raises
        ------
        SolveError
            The matrix is not positive definite to rounding. Where it holds nan, so does x.
        """
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        if not is_direct(J):
            return self._by_products(outputs, accuracy)
        roots = h.roots(outputs)
        if h.kept is not None and (h.loss.constant_curvature or is_dual(J)):
            return h.kept.inverse(h.weight, roots, T, h.adapts)
        if not is_dual(J):
            matrix = gram_of(h.weight, roots, J)
            matrix.reshape(-1)[:: len(matrix) + 1] += T
            return cholesky(matrix)
        solve_dual = within(self._outer, roots)

        def inverse(b: Vector) -> Vector:
            c = b / T
            return np.asarray(c - (J.T @ (h.weight * solve_dual(J @ c))) / T)

        return inverse

    def _by_products(self, outputs: Matrix, accuracy: float) -> Inverse:
        """By conjugate gradients, preconditioned by the diagonal; where that takes long, by more than that.

        Further steps of a solve take the preconditioners of the first: their curvature is much the same.
        """
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        assert isinstance(J, LinearMap), "it is known by its products"
        forward, adjoint, bent, weight, shape = J.forward, J.adjoint, h.loss.curvature(outputs), h.weight, outputs.shape

        def curved(x: Vector) -> Vector:
            return adjoint(bent(forward(x).reshape(shape)).reshape(-1))

        def product(x: Vector) -> Vector:
            return np.asarray(daxpy(curved(x), T * x, a=weight))

        if "diagonal" not in self._preconditioners:
            entries = T + weight * J.squared_adjoint(h.loss.curvature_diagonal(outputs).reshape(-1))
            self._preconditioners["diagonal"] = lambda r: r / entries
        if T.size > NYSTROM_PARAMETERS:
            return lambda b: conjugate_gradients(product, self._preconditioners["diagonal"], b, accuracy)[0]

        def inverse(b: Vector) -> Vector:
            if "nystrom" not in self._preconditioners:
                x, is_solved = conjugate_gradients(product, self._preconditioners["diagonal"], b, accuracy, PATIENCE)
                if is_solved:
                    return x
                scale = np.sqrt(1.0 / T)
                white = nystrom(lambda u: weight * scale * curved(scale * u), scale.size, RANK)
                self._preconditioners["nystrom"] = lambda r: scale * white(scale * r)
            else:
                x = np.zeros_like(b)
            left, size = b - product(x), length(b)
            size_left = length(left)
            if not size_left > accuracy * size:  # also where there is nothing to solve
                return x
            remaining = accuracy * size / size_left
            return x + conjugate_gradients(product, self._preconditioners["nystrom"], left, remaining)[0]

        return inverse

    @cached_property
    def _shift(self) -> Vector:
        """T, (p,)."""
        scale = self.regularizer.whitening(self.subproblem.center, self.subproblem.tau).scale
        return np.asarray(1.0 / (scale * scale))

    @cached_property
    def _outer(self) -> Matrix:
        """Weight J T^(-1) J', (m*q, m*q)."""
        h, J, T = self.subproblem, self.subproblem.jacobian, self._shift
        assert isinstance(J, np.ndarray), "a wide J is a matrix"
        if T.min() < T.max():
            return outer_of(J, np.sqrt(h.weight / T))
        outer = J @ J.T  # without a pass over J
        outer *= h.weight / T[0]
        return np.asarray(outer)


def shifted_system(root: Map, accuracy: float = EPS) -> Callable[[Vector], Vector]:
    """Solver of (R'R + Id) x = b by Cholesky, primal or dual by the cheaper size; by products where R is known by them.

    Parameters
    ----------
    root : Map
        R, (k, p).
    accuracy : float
        Of conjugate gradients.

    Returns
    -------
    callable
        b -> x, each (p,). One step of iterative refinement follows the factorization, so
        that the dual form (Woodbury) loses no digits to the primal one.

    Raises
    ------
    SolveError
        The matrix is not positive definite to rounding. Where it holds nan, so does x.
    """
    if isinstance(root, LinearMap):
        diagonal = 1.0 + root.squared_adjoint(np.ones(root.shape[0]))
        return lambda b: conjugate_gradients(
            lambda x: root.adjoint(root.forward(x)) + x, lambda r: r / diagonal, b, accuracy
        )[0]
    k, p = root.shape
    if root.size == 0:  # not every LAPACK factors an empty matrix
        return np.copy
    gram = root.T @ root if p <= k else root @ root.T
    gram.flat[:: len(gram) + 1] += 1.0
    inverse = cholesky(gram)

    def once(b: Vector) -> Vector:
        return inverse(b) if p <= k else b - root.T @ inverse(root @ b)

    def refined(b: Vector) -> Vector:
        x = once(b)
        return x + once(b - root.T @ (root @ x) - x)

    return refined


def proximal_newton(subproblem: Linearized, regularizer: Regularizer, tolerance: float, here: Point) -> Solution:
    """Minimizer of h + r from a point on by steps to the minimizer of the second-order model of h, plus r.

    A step is taken whole where it halves the lowest residual so far, which can happen only
    finitely often; else it ends at the minimizer on its line, so that the objective decreases.
    Since h is strongly convex this converges: to the minimizer, from everywhere, quadratically at
    the end; for a squared loss the model is exact and one step is enough. Departs from the source
    (J. Lee, Y. Sun, M. Saunders, "Proximal Newton-type methods", SIAM J. Optim. 2014):

    1. The first rule, which goes on where differences of objectives are lost to rounding.
    2. The search is nearly exact, which costs little as outputs are linear on a line. Where a loss
       is saturated its curvature is no guide, and steps are too long by orders of magnitude.
    """
    lowest, systems, iterations = here.error, Systems(subproblem, regularizer), 0
    while here.error > tolerance and iterations < TRIES:
        accuracy = _accuracy(subproblem, regularizer, here.error, tolerance)
        if regularizer.smooth:
            target, n_systems = here.w - systems.at(here.outputs, accuracy)(here.gradient + here.penalty), 1
        else:
            root = model_root(subproblem, here.outputs)
            model = SecondOrder(here.w, here.gradient, root, subproblem.tau, accuracy)
            target, n_systems = model_minimizer(model, regularizer)
        iterations += n_systems
        there = Point.of(subproblem, regularizer, target)
        if there.error > 0.5 * lowest:
            there = Point.of(subproblem, regularizer, _on_line(subproblem, regularizer, here.w, target))
        if not there.error < lowest and not _decreases(subproblem, regularizer, here.w, there.w):
            break  # neither measure improves any more: rounding
        here, lowest = there, min(there.error, lowest)
    return Solution(here.w, here.error, iterations, _name(subproblem.jacobian, regularizer))


def descended(subproblem: Linearized, regularizer: Regularizer, tolerance: float, other: Solution) -> Solution:
    """Minimizer of h + r by `proximal_newton` with tau from what J'J is, down by tens, each begun where the last ended.

    Each is close enough to the next for few steps, where from the center to the last there would be a great many.
    Where it gets no nearer than another solution does, it is that one, with the systems of both.
    """
    size = _size(subproblem.jacobian)
    top = subproblem.weight * size * size / subproblem.tau
    if not top <= STEEPEST:
        return other
    tens = math.ceil(math.log10(max(top, 1.0)))
    w, iterations, solution = regularizer.nearest(subproblem.center), other.iterations, other
    try:
        for k in range(tens, -1, -1):
            h = replace(subproblem, tau=subproblem.tau * 10.0**k)
            solution = proximal_newton(h, regularizer, tolerance, Point.of(h, regularizer, w))
            w, iterations = solution.w, iterations + solution.iterations
    except SolveError:
        solution = other
    best = solution if solution.residual < other.residual else other
    return best.changed(iterations=iterations)


@final
@dataclass(frozen=True, eq=False)
class Point:
    """What a step needs to know of where it begins.

    Parameters
    ----------
    w : Vector
        (p,).
    outputs : Matrix
        Linearized, (m, q).
    gradient, penalty : Vector
        Derivatives of h and of r, (p,).
    error : float
        Residual, as in `Solution`.
    """

    w: Vector
    outputs: Matrix
    gradient: Vector
    penalty: Vector
    error: float

    @classmethod
    def of(cls, subproblem: Linearized, regularizer: Regularizer, w: Vector) -> Point:
        """The point w, (p,)."""
        outputs = subproblem.outputs_at(w)
        gradient, penalty = subproblem.gradient_of(w, outputs), regularizer.gradient(w)
        return cls(w, outputs, gradient, penalty, _relative(subproblem, regularizer, w, gradient, penalty))


def _name(jacobian: Map, regularizer: Regularizer) -> str:
    if not is_direct(jacobian):
        return "newton-cg"
    if not regularizer.smooth:
        return "proximal-newton"
    return "newton-woodbury" if is_dual(jacobian) else "newton-cholesky"


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


def _accuracy(subproblem: Linearized, regularizer: Regularizer, error: float, tolerance: float) -> float:
    """How well to solve the linear systems of a Newton step, if they are solved by products.

    Where the model is exact as well as the result has to be. Else at first roughly, later better, as the error that the
    model itself has (S. Eisenstat, H. Walker, "Choosing the forcing terms in an inexact Newton method", 1996); but with
    kinks well enough to tell the faces apart.
    """
    enough = 0.1 * tolerance / error
    if not regularizer.smooth:
        enough *= 0.1
    elif not subproblem.loss.constant_curvature:
        enough = max(enough, min(0.1, error))
    return max(enough, EPS)


def _on_line(subproblem: Linearized, regularizer: Regularizer, w: Vector, target: Vector) -> Vector:
    direction = target - w
    smooth = subproblem.slope_along(w, direction)

    def slope(t: float) -> float:
        return smooth(t) + float(np.dot(regularizer.gradient(w + t * direction), direction))

    step = descent(slope)
    return target if step == 1.0 else w + step * direction


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
    noise = EPS * float(_size(model.root) * reach)  # of the slope, as far as it is known
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


def _size(root: Map) -> float:
    """||R||_F, at least about."""
    if isinstance(root, LinearMap):
        return math.sqrt(root.squared_adjoint(np.ones(root.shape[0])).sum())
    return float(np.linalg.norm(root))


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


def _decreases(subproblem: Linearized, regularizer: Regularizer, w: Vector, w_next: Vector) -> bool:
    return _objective(subproblem, regularizer, w_next) < _objective(subproblem, regularizer, w)


def _objective(subproblem: Linearized, regularizer: Regularizer, w: Vector) -> float:
    return subproblem.value(w) + regularizer.value(w)
