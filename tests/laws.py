"""What holds for every model, loss, regularizer, surrogate and solver: one function a law.

Each raises AssertionError where the law is broken. Derivatives are checked against central
differences, whose error is about h^2 + eps/h: 1e-9 relative for h = 1e-5, and 100 times that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.optim.losses import Huber, Loss, SquaredHinge, Weighted
from peer.optim.models import MLP, Model
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import SecondOrder, Solution, damped_system, descent, model_minimizer, residual
from peer.optim.surrogates import Data, FirstOrder, Linearized, Subproblem, Surrogate

H: Final = 1e-5
"""Step of differences, for numbers around 1."""

DIFFERENCES: Final = 1e-7
"""Relative error that central differences may have."""

ROUNDING: Final = 1e-12
"""Relative error of sums and products of a few hundred numbers."""


def close(found: Matrix, expected: Matrix, relative: float) -> None:
    """Equal up to `relative` times the largest entry, or 1 where all are smaller."""
    atol = relative * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=atol)


# models


def shapes_fit(model: Model, w: Vector, x: Matrix) -> None:
    """Outputs (m, q), derivatives likewise, and a layout that has all p parameters once."""
    m, q, p = len(x), model.n_outputs, model.layout.size
    assert x.shape == (m, model.n_inputs)
    assert w.shape == (p,)
    assert model.forward(w, x).shape == (m, q)
    assert model.jvp(w, x, w).shape == (m, q)
    assert model.vjp(w, x, np.ones((m, q))).shape == (p,)
    assert model.jacobian(w, x).shape == (m, q, p)
    places = np.concatenate([np.arange(p)[place] for _, _, place in model.layout.slices()])
    np.testing.assert_array_equal(places, np.arange(p))


def adjoint(model: Model, w: Vector, x: Matrix, v: Vector, u: Matrix) -> None:
    """<J v, u> = <v, J'u>."""
    forward, backward = model.jvp(w, x, v) * u, v * model.vjp(w, x, u)
    scale = np.sum(np.abs(forward)) + np.sum(np.abs(backward)) + 1.0
    assert abs(np.sum(forward) - np.sum(backward)) <= ROUNDING * scale


def jvp_is_derivative(model: Model, w: Vector, x: Matrix, v: Vector) -> None:
    """J v is the slope of f along v."""
    slope = (model.forward(w + H * v, x) - model.forward(w - H * v, x)) / (2.0 * H)
    close(model.jvp(w, x, v), slope, DIFFERENCES)


def jacobian_is_jvp(model: Model, w: Vector, x: Matrix) -> None:
    """Columns of J are derivatives along the axes, and its rows are adjoints of the outputs' axes."""
    J = model.jacobian(w, x)
    for k, axis in enumerate(np.eye(w.size)):
        close(J[:, :, k], model.jvp(w, x, axis), ROUNDING)
    m, q, _ = J.shape
    for row in range(m * q):
        u = np.zeros((m, q))
        u.flat[row] = 1.0
        close(J.reshape(m * q, -1)[row], model.vjp(w, x, u), ROUNDING)


def samples_do_not_mix(model: Model, w: Vector, x: Matrix) -> None:
    """Output and Jacobian of a sample are those of the sample alone."""
    for k in range(len(x)):
        close(model.forward(w, x)[k], model.forward(w, x[k : k + 1])[0], ROUNDING)
        close(model.jacobian(w, x)[k], model.jacobian(w, x[k : k + 1])[0], ROUNDING)


def far_from_kinks(model: MLP, w: Vector, x: Matrix, v: Vector) -> bool:
    """Whether no hidden unit of a relu network comes near 0 between w - H v and w + H v.

    The affine part of hidden layer k is the output of the network cut off there. It must
    move by less than half its distance from 0, at either end: then no sign changes.
    """
    if model.activation != "relu":
        return True
    for k in range(1, len(model.widths) - 1):
        part = MLP(model.widths[: k + 1], model.activation)
        size = part.layout.size
        here = part.forward(w[:size], x)
        for end in (w - H * v, w + H * v):
            if np.any(2.0 * np.abs(part.forward(end[:size], x) - here) >= np.abs(here)):
                return False
    return True


# losses


def loss_gradient_is_derivative(loss: Loss, outputs: Matrix, direction: Matrix) -> None:
    """The gradient is the slope of the value."""
    slope = (loss.value(outputs + H * direction) - loss.value(outputs - H * direction)) / (2.0 * H)
    scale = 1.0 + abs(loss.value(outputs))  # of what cancels in the difference
    assert abs(np.vdot(loss.gradient(outputs), direction) - slope) <= DIFFERENCES * scale * np.sqrt(direction.size)


def loss_is_convex(loss: Loss, a: Matrix, b: Matrix, share: float) -> None:
    """Jensen's inequality, and the tangent that lies below."""
    between = loss.value(share * a + (1.0 - share) * b)
    chord = share * loss.value(a) + (1.0 - share) * loss.value(b)
    rounding = ROUNDING * (1.0 + abs(loss.value(a)) + abs(loss.value(b)))
    assert between <= chord + rounding
    assert loss.value(b) >= loss.value(a) + float(np.vdot(loss.gradient(a), b - a)) - rounding


def curvature_root_is_second_derivative(loss: Loss, outputs: Matrix, direction: Matrix) -> None:
    """B B' d is the slope of the gradient along d, sample by sample."""
    slope = (loss.gradient(outputs + H * direction) - loss.gradient(outputs - H * direction)) / (2.0 * H)
    B = loss.curvature_root(outputs)
    assert B.shape == (*outputs.shape, outputs.shape[1])
    close((B @ B.transpose(0, 2, 1) @ direction[:, :, None])[:, :, 0], slope, DIFFERENCES)


def on_one_piece(loss: Loss, a: Matrix, b: Matrix) -> bool:
    """Whether no sample's gradient has a kink between a and b, which are near to each other."""
    plain = loss.loss if isinstance(loss, Weighted) else loss
    if not isinstance(plain, Huber | SquaredHinge):
        return True
    return np.array_equal(plain.curvature_root(a), plain.curvature_root(b))


def gradient_is_semismooth(loss: Loss, outputs: Matrix, direction: Matrix) -> None:
    """grad(f + h d) - grad(f) = h B B' d + o(h) with B at f + h d, also where f is at a kink: what Newton needs."""
    ahead = outputs + H * direction
    B = loss.curvature_root(ahead)
    slope = (loss.gradient(ahead) - loss.gradient(outputs)) / H
    close((B @ B.transpose(0, 2, 1) @ direction[:, :, None])[:, :, 0], slope, 10.0 * H)


def each_sums_to_the_value(loss: Loss, outputs: Matrix) -> None:
    """Losses one by one are >= 0, and their sum is the value."""
    each = loss.each(outputs)
    assert each.shape == (len(outputs),)
    assert (each >= 0.0).all()
    assert abs(each.sum() - loss.value(outputs)) <= ROUNDING * (1.0 + loss.value(outputs))


def quadratic_says_the_truth(loss: Loss, a: Matrix, b: Matrix) -> None:
    """A loss is called quadratic iff its gradient differs by the difference of the outputs, exactly.

    Its curvature is called constant iff its gradient half way is the mean of both. a and b are far apart.
    """
    moved = loss.gradient(a) - loss.gradient(b)
    rounding = ROUNDING * (1.0 + float(np.max(np.abs(a - b))))
    assert loss.quadratic == np.allclose(moved, a - b, rtol=0.0, atol=rounding)
    mean = 0.5 * (loss.gradient(a) + loss.gradient(b))
    assert loss.constant_curvature == np.allclose(loss.gradient(0.5 * (a + b)), mean, rtol=0.0, atol=rounding)


# regularizers


def prox_is_optimal(regularizer: Regularizer, v: Vector, step: float, other: Vector) -> None:
    """(v - prox v)/step is a subgradient of r at prox v: no point is better, `other` as little as neighbors."""
    w = regularizer.prox(v, step)
    subgradient = (v - w) / step
    for x in (other, 0.0 * w, w + 1e-3 * other, w - 1e-3 * other, *_neighbors(w)):
        bound = regularizer.value(w) + float(np.dot(subgradient, x - w))
        rounding = ROUNDING * (1.0 + float(np.dot(np.abs(subgradient), np.abs(x - w))) + regularizer.value(x))
        assert regularizer.value(x) >= bound - rounding


def _neighbors(w: Vector) -> Matrix:
    return np.concatenate([w + 1e-2 * np.eye(w.size), w - 1e-2 * np.eye(w.size)])


def prox_is_firmly_nonexpansive(regularizer: Regularizer, u: Vector, v: Vector, step: float) -> None:
    """||prox u - prox v||^2 <= <prox u - prox v, u - v>."""
    moved = regularizer.prox(u, step) - regularizer.prox(v, step)
    assert np.dot(moved, moved) <= np.dot(moved, u - v) + ROUNDING * (1.0 + np.dot(u - v, u - v))


def penalty_is_convex(regularizer: Regularizer, a: Vector, b: Vector, share: float) -> None:
    """Jensen's inequality, no penalty on 0, none below 0."""
    chord = share * regularizer.value(a) + (1.0 - share) * regularizer.value(b)
    assert regularizer.value(share * a + (1.0 - share) * b) <= chord + ROUNDING * (1.0 + chord)
    assert regularizer.value(a) >= regularizer.value(np.zeros_like(a)) == 0.0


def penalty_is_smooth_on_its_face(regularizer: Regularizer, w: Vector, direction: Vector) -> None:
    """Along the face at w, gradient and curvature are the first and second derivative; off it both are 0.

    Differences are taken in coordinates that are at least 2 H max|direction| away from 0, where kinks may be.
    """
    face = regularizer.face(w)
    assert face.all() or not regularizer.smooth
    for derivative in (regularizer.gradient(w), regularizer.curvature(w)):
        assert derivative.shape == w.shape
        assert not derivative[~face].any()
    along = np.where(face & (np.abs(w) > 2.0 * H * np.max(np.abs(direction))), direction, 0.0)
    ahead, behind = w + H * along, w - H * along
    slope = (regularizer.value(ahead) - regularizer.value(behind)) / (2.0 * H)
    assert abs(np.dot(regularizer.gradient(w), along) - slope) <= DIFFERENCES * (1.0 + regularizer.value(w))
    bend = (regularizer.gradient(ahead) - regularizer.gradient(behind)) / (2.0 * H)
    close(regularizer.curvature(w) * along, bend, DIFFERENCES)


def the_face_is_nearest(regularizer: Regularizer, w: Vector, of: Vector, other: Vector) -> None:
    """onto_face is the projection on the closed face of `of`, on which r is its quadratic there."""
    inside, candidate = regularizer.onto_face(w, of), regularizer.onto_face(other, of)
    np.testing.assert_array_equal(regularizer.onto_face(inside, of), inside)
    np.testing.assert_array_equal(regularizer.onto_face(of, of), of)
    assert not inside[~regularizer.face(of)].any()
    assert np.linalg.norm(w - inside) <= np.linalg.norm(w - candidate) + ROUNDING
    d = inside - of
    model = regularizer.value(of) + np.dot(regularizer.gradient(of), d) + 0.5 * np.dot(regularizer.curvature(of) * d, d)
    assert abs(regularizer.value(inside) - model) <= ROUNDING * (1.0 + abs(model))


# surrogates


def surrogate_is_consistent(surrogate: Surrogate, data: Data, w: Vector, gradient: Vector, pi: Vector) -> None:
    """Consistent gradients: grad h(w_i) - pi_i = kappa grad g_i(w_i), so that a fixed point of NEXT is stationary."""
    h = surrogate.around(w, gradient, pi, data)
    close(h.gradient(w) - pi, surrogate.kappa * gradient, ROUNDING * (1.0 + float(np.max(np.abs(pi)))))
    np.testing.assert_array_equal(h.center, w)


def surrogate_is_strongly_convex(subproblem: Subproblem, a: Vector, b: Vector) -> None:
    """<grad h(a) - grad h(b), a - b> >= tau ||a - b||^2."""
    ahead, behind = subproblem.gradient(a), subproblem.gradient(b)
    bend = float(np.dot(ahead - behind, a - b))
    rounding = ROUNDING * (1.0 + float(np.dot(np.abs(ahead) + np.abs(behind), np.abs(a - b))))
    square = float(np.dot(a - b, a - b))
    assert bend >= subproblem.tau * square - rounding
    if isinstance(subproblem, FirstOrder):
        assert bend <= subproblem.tau * square + rounding


def linearized_is_its_derivatives(subproblem: Linearized, w: Vector, direction: Vector) -> None:
    """Value, gradient, slope on a line and R'R + tau Id are derivatives of each other."""
    ahead, behind = w + H * direction, w - H * direction
    slope = (subproblem.value(ahead) - subproblem.value(behind)) / (2.0 * H)
    along = float(np.dot(subproblem.gradient(w), direction))
    scale = 1.0 + abs(subproblem.value(w)) + float(np.linalg.norm(subproblem.jacobian @ direction)) ** 2
    assert abs(along - slope) <= DIFFERENCES * scale
    on_line = subproblem.slope_along(w - 0.5 * direction, direction)
    assert abs(on_line(0.5) - along) <= ROUNDING * scale * (1.0 + subproblem.tau)
    bend = (subproblem.gradient(ahead) - subproblem.gradient(behind)) / (2.0 * H)
    R = subproblem.curvature_root(w)
    assert R.shape == subproblem.jacobian.shape
    close(R.T @ (R @ direction) + subproblem.tau * direction, bend, DIFFERENCES * scale)


# solvers


def damped_system_is_solved(root: Matrix, damping: Vector, x: Vector) -> None:
    """(R'R + diag(damping)) x = b gives back x, in the primal form as in the dual one.

    Backward stable: the error is that of rounding the matrix, whose condition is the bound.
    """
    matrix = root.T @ root + np.diag(damping)
    condition = np.linalg.cond(matrix) if x.size else 1.0
    found = damped_system(root, damping)(matrix @ x)
    assert np.linalg.norm(found - x) <= 100.0 * np.finfo(np.float64).eps * condition * (1.0 + np.linalg.norm(x))


def descent_goes_down(slope: Callable[[float], float], minimum: float) -> None:
    """A convex function with its minimizer on (0, 1], or beyond: no step over it, none much too short."""
    length = descent(slope)
    assert 0.0 < length <= min(1.0, minimum)
    assert length >= 0.999 * min(1.0, minimum) * (1.0 - ROUNDING)
    assert slope(length) <= 0.0


def model_is_minimized(model: SecondOrder, regularizer: Regularizer, tolerance: float) -> Vector:
    """The model's gradient plus a subgradient of r is 0 at the point found: its proximal step stands still."""
    x, systems = model_minimizer(model, regularizer)
    d = x - model.center
    gradient = model.slope + model.root.T @ (model.root @ d) + model.tau * d
    scale = 1.0 + float(np.max(np.abs(model.slope)))
    assert np.max(np.abs(x - regularizer.prox(x - gradient, 1.0))) <= tolerance * scale
    assert systems >= 1
    return x


def solution_is_optimal(
    subproblem: Subproblem, regularizer: Regularizer, solution: Solution, tolerance: float, other: Vector
) -> None:
    """The residual is what it says and small, and by strong convexity any `other` point is worse."""
    w = solution.w
    assert solution.residual == residual(subproblem, regularizer, w)
    assert solution.residual <= tolerance
    gap = float(np.dot(subproblem.gradient(w), other - w)) + regularizer.value(other) - regularizer.value(w)
    scale = 1.0 + float(np.dot(np.abs(subproblem.gradient(w)), np.abs(other - w))) + regularizer.value(other)
    assert gap >= -1e-10 * scale


def same_minimizer(subproblem: Subproblem, found: Vector, expected: Vector, tolerance: float) -> None:
    """Two minimizers of one problem agree as far as strong convexity tells them apart."""
    scale = (1.0 + float(np.max(np.abs(subproblem.gradient(expected))))) * (1.0 + 1.0 / subproblem.tau)
    assert np.max(np.abs(found - expected)) <= tolerance * scale


# networks


def sizes_of(widths: tuple[int, ...]) -> int:
    """Number of parameters of a perceptron, counted by hand."""
    return sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))
