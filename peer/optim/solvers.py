"""Minimizers of a subproblem plus regularizer: closed forms where they exist, proximal Newton where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from scipy import linalg

from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.optim.regularizers import Regularizer
from peer.optim.surrogates import FirstOrder, Linearized, Subproblem

MAX_ITERATIONS: Final = 500
"""Of Newton on the face; a few tens are needed, the rest is for problems of extreme condition."""

HALVINGS: Final = 30
"""Of a Newton step before it is given up: 2^-30 of a step moves nothing that matters."""

DECREASE: Final = 1e-4
"""Share of the strong convexity that a step's decrease has to show (Nocedal & Wright, ch. 3)."""


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver reached.

    Parameters
    ----------
    w : Vector
        w~, (p,).
    residual : float
        ||w - prox_r(w - grad h(w))||_inf relative to the largest entry of the vectors that
        cancel there: kappa grad g_i, pi_i and the regularizer's weight.
    iterations : int
        Linear systems solved, or 1 for a proximal step.
    method : str
        prox, cholesky or proximal-newton.
    """

    w: Vector
    residual: float
    iterations: int
    method: str


def solve(subproblem: Subproblem, regularizer: Regularizer, tolerance: float) -> Solution:
    """Minimizer of h + r.

    Closed forms: the proximal step for first-order subproblems, one linear system for a squared
    loss with a smooth regularizer. Everything else by `proximal_newton`.

    Parameters
    ----------
    subproblem : Subproblem
        h.
    regularizer : Regularizer
        r.
    tolerance : float
        Relative residual to reach; what was reached is in the result, also where it is larger.

    Raises
    ------
    SolveError
        nan or infinity came in or out.
    """
    if isinstance(subproblem, FirstOrder):
        solution = proximal_step(subproblem, regularizer)
    elif subproblem.loss.quadratic and regularizer.smooth:
        solution = normal_equations(subproblem, regularizer)
    else:
        solution = proximal_newton(subproblem, regularizer, tolerance)
    if not (np.isfinite(solution.residual) and np.isfinite(solution.w).all()):
        raise SolveError("the surrogate has no finite solution: its data are nan or infinite")
    return solution


def residual(subproblem: Subproblem, regularizer: Regularizer, w: Vector) -> float:
    """Relative distance from optimality of w, as in `Solution.residual`; >= 0."""
    return _residual(subproblem, regularizer, w, subproblem.gradient(w))


def _residual(subproblem: Subproblem, regularizer: Regularizer, w: Vector, gradient: Vector) -> float:
    scale = max(subproblem.scale, regularizer.scale, np.finfo(np.float64).tiny)
    return float(np.max(np.abs(w - regularizer.prox(w - gradient, 1.0)), initial=0.0)) / scale


def proximal_step(subproblem: FirstOrder, regularizer: Regularizer) -> Solution:
    """w~ = prox_{r/tau}(center - slope/tau)."""
    w = regularizer.prox(subproblem.center - subproblem.slope / subproblem.tau, 1.0 / subproblem.tau)
    return Solution(w, residual(subproblem, regularizer, w), 1, "prox")


def normal_equations(subproblem: Linearized, regularizer: Regularizer) -> Solution:
    """Minimizer of a quadratic h + r with smooth r: one Newton step from anywhere, here from the center."""
    center = subproblem.center
    damping = subproblem.tau + regularizer.curvature(center)
    slope = subproblem.gradient(center) + regularizer.gradient(center)
    w = center - damped_system(subproblem.curvature_root(center), damping)(slope)
    return Solution(w, residual(subproblem, regularizer, w), 1, "cholesky")


def damped_system(root: Matrix, damping: Vector) -> Callable[[Vector], Vector]:
    """Solver of (R'R + diag(damping)) x = b by Cholesky, primal or dual by the cheaper size.

    Parameters
    ----------
    root : Matrix
        R, (k, p).
    damping : Vector
        (p,), > 0.

    Returns
    -------
    callable
        b -> x, each (p,). One step of iterative refinement follows the factorization, so
        that the dual form (Woodbury) loses no digits to the primal one.

    Raises
    ------
    SolveError
        nan, infinity, or a matrix that is not positive definite to rounding.
    """
    k, p = root.shape
    try:
        if p <= k:
            gram = root.T @ root
            gram.flat[:: p + 1] += damping
            primal = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

            def once(b: Vector) -> Vector:
                return np.asarray(linalg.cho_solve(primal, b, check_finite=False))
        else:
            scaled = root / damping
            gram = scaled @ root.T
            gram.flat[:: k + 1] += 1.0
            dual = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

            def once(b: Vector) -> Vector:
                return b / damping - scaled.T @ linalg.cho_solve(dual, scaled @ b, check_finite=False)
    except linalg.LinAlgError as error:
        raise SolveError("the surrogate's matrix is not positive definite: its data are nan or infinite") from error

    def refined(b: Vector) -> Vector:
        x = once(b)
        return x + once(b - root.T @ (root @ x) - damping * x)

    return refined


def proximal_newton(subproblem: Linearized, regularizer: Regularizer, tolerance: float) -> Solution:
    """Minimizer of h + r by steps to the minimizer of the second-order model of h, plus r.

    A step is taken whole where it halves the residual, else shortened until the objective
    decreases. Since h is strongly convex the residual bounds the distance to the minimizer, and
    either rule converges: to the minimizer, from everywhere, quadratically at the end; for a
    squared loss the model is exact and one step is enough. Departs from the source (J. Lee,
    Y. Sun, M. Saunders, "Proximal Newton-type methods", SIAM J. Optim. 2014) in the first rule,
    which goes on where differences of objectives are lost to rounding.
    """
    w, iterations = subproblem.center, 0
    gradient = subproblem.gradient(w)
    error = _residual(subproblem, regularizer, w, gradient)
    while error > tolerance and iterations < MAX_ITERATIONS:
        model = SecondOrder(w, gradient, subproblem.curvature_root(w), subproblem.tau)
        target, systems = model_minimizer(model, regularizer)
        iterations += systems
        w_next = _search(subproblem, regularizer, w, target, error)
        gradient = subproblem.gradient(w_next)
        error_next = _residual(subproblem, regularizer, w_next, gradient)
        if not error_next < error and not _decreases(subproblem, regularizer, w, w_next):
            break  # neither measure improves any more: rounding
        w, error = w_next, error_next
    return Solution(w, error, iterations, "proximal-newton")


def _search(subproblem: Linearized, regularizer: Regularizer, w: Vector, target: Vector, error: float) -> Vector:
    if residual(subproblem, regularizer, target) <= 0.5 * error:
        return target
    before = _objective(subproblem, regularizer, w)
    direction, length = target - w, 1.0
    share = 0.5 * DECREASE * subproblem.tau * float(np.dot(direction, direction))
    for _ in range(HALVINGS):
        point = w + length * direction
        if _objective(subproblem, regularizer, point) < before - length * share:
            return point
        length *= 0.5
    return w


@final
@dataclass(frozen=True, eq=False)
class SecondOrder:
    """Second-order model of h: slope'd + 1/2 ||R d||^2 + tau/2 ||d||^2 with d = x - center.

    Parameters
    ----------
    center, slope : Vector
        (p,).
    root : Matrix
        R, (k, p).
    tau : float
        > 0.
    """

    center: Vector
    slope: Vector
    root: Matrix
    tau: float

    def from_dual(self, regularizer: Regularizer, u: Vector) -> Vector:
        """Argmin over x of slope'd + u'R d + tau/2 ||d||^2 + r(x), (p,)."""
        v = self.center - (self.slope + self.root.T @ u) / self.tau
        return regularizer.prox(v, 1.0 / self.tau)


def model_minimizer(model: SecondOrder, regularizer: Regularizer) -> tuple[Vector, int]:
    """Minimizer of a second-order model plus r, and the number of linear systems it took.

    With a smooth r: one system. Otherwise semismooth Newton on the dual, as X. Li, D. Sun,
    K.-C. Toh, "A highly efficient semismooth Newton augmented Lagrangian method for solving
    Lasso problems" (2018) do within their outer iteration, which tau > 0 makes unnecessary:

        minimize over u in R^k:  phi(u) = 1/2 ||u||^2 - min over x of (slope'd + tau/2 ||d||^2 + r(x) + u'R d)

    phi is strongly convex with the gradient u - R d(u), d(u) by one proximal map, and a
    generalized second derivative Id + R_A R_A'/tau over the coordinates A that are not held
    at a kink. The face A found, the last system is solved on it in the primal variables, in
    which nothing is lost to small tau.
    """
    if regularizer.smooth:
        return _on_face(model, regularizer, model.center), 1
    u, systems = np.zeros(model.root.shape[0]), 1
    x = model.from_dual(regularizer, u)
    while systems < MAX_ITERATIONS:
        systems += 1
        slope = u - model.root @ (x - model.center)
        across = model.root[:, regularizer.face(x)].T / np.sqrt(model.tau)
        direction = -damped_system(across, np.ones_like(u))(slope)
        u_next = _dual_search(model, regularizer, u, slope, direction)
        if u_next is None:
            break  # rounding: the dual value does not decrease any more
        x_next = model.from_dual(regularizer, u_next)
        settled = np.array_equal(np.sign(x_next), np.sign(x))
        u, x = u_next, x_next
        if settled:
            break
    return _on_face(model, regularizer, x), systems


def _dual_search(
    model: SecondOrder, regularizer: Regularizer, u: Vector, slope: Vector, direction: Vector
) -> Vector | None:
    before, descent = _dual(model, regularizer, u), float(np.dot(slope, direction))
    length = 1.0
    for _ in range(HALVINGS):
        u_next = u + length * direction
        if _dual(model, regularizer, u_next) <= before + DECREASE * length * descent:
            return u_next
        length *= 0.5
    return None


def _dual(model: SecondOrder, regularizer: Regularizer, u: Vector) -> float:
    x = model.from_dual(regularizer, u)
    d = x - model.center
    linear = float(np.dot(model.slope + model.root.T @ u, d))
    return 0.5 * float(np.dot(u, u)) - linear - 0.5 * model.tau * float(np.dot(d, d)) - regularizer.value(x)


def _on_face(model: SecondOrder, regularizer: Regularizer, x: Vector) -> Vector:
    """One Newton step of the model plus r from x, in the coordinates in which r is smooth around x."""
    d = x - model.center
    slope = model.slope + model.root.T @ (model.root @ d) + model.tau * d + regularizer.gradient(x)
    free = regularizer.face(x)
    damping = model.tau + regularizer.curvature(x)[free]
    root = model.root if free.all() else model.root[:, free]
    moved = x.copy()
    moved[free] -= damped_system(root, damping)(slope[free])
    return regularizer.onto_face(moved, x)


def _decreases(subproblem: Linearized, regularizer: Regularizer, w: Vector, w_next: Vector) -> bool:
    return _objective(subproblem, regularizer, w_next) < _objective(subproblem, regularizer, w)


def _objective(subproblem: Linearized, regularizer: Regularizer, w: Vector) -> float:
    return subproblem.value(w) + regularizer.value(w)
