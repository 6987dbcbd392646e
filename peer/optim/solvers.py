"""Minimizers of a subproblem plus regularizer: closed forms where they exist, proximal Newton where not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.maps import LinearMap, Map, is_direct, is_dual
from peer.optim.regularizers import Regularizer
from peer.optim.second_order import TRIES, SecondOrder, descent, model_minimizer, model_root, size_of
from peer.optim.surrogates import FirstOrder, Linearized, Subproblem
from peer.optim.systems import EPS, Systems
from peer.optim.vectors import is_finite, largest
from peer.records import Record

MAX_ITERATIONS: Final = 2_000
"""Where many problems are solved at once; a few tens are needed, the rest is for problems of extreme condition."""

LOST: Final = 1e-3
"""A residual that no rounding leaves, but where systems are beyond its reach: steps have ended in the wrong place."""

STEEPEST: Final = 1e20
"""Of J'J beside tau, as far as `descended` helps. Beyond it a minimizer may be anywhere where no sample bends."""

NO_WAY: Final = np.zeros(0)
"""In the place of one."""


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
    size = size_of(subproblem.jacobian)
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


def _decreases(subproblem: Linearized, regularizer: Regularizer, w: Vector, w_next: Vector) -> bool:
    return _objective(subproblem, regularizer, w_next) < _objective(subproblem, regularizer, w)


def _objective(subproblem: Linearized, regularizer: Regularizer, w: Vector) -> float:
    return subproblem.value(w) + regularizer.value(w)
