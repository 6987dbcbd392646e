"""What holds for every model, loss, regularizer, surrogate and solver: one function a law.

Each raises AssertionError where the law is broken. Derivatives are checked against central
differences, whose error is about h^2 + eps/h: 1e-9 relative for h = 1e-5, and 100 times that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector, rounded
from peer.optim.blocks import Block
from peer.optim.chains import Chain
from peer.optim.compressors import drawn, top
from peer.optim.factors import Factors, Summed
from peer.optim.layers import Activation, Layer
from peer.optim.losses import Huber, Loss, SquaredHinge, Weighted
from peer.optim.maps import LinearMap, gram_of
from peer.optim.models import Model
from peer.optim.regularizers import Boxed, Regularizer
from peer.optim.second_order import SecondOrder, descent, model_minimizer, model_root
from peer.optim.solvers import Solution, residual
from peer.optim.surrogates import Data, FirstOrder, Linearized, Subproblem, Surrogate
from peer.optim.systems import Systems, shifted_system

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


def jacobian(model: Model, w: Vector, x: Matrix) -> NDArray[np.float64]:
    """Jacobian J of all samples by w, (m, q, p)."""
    return model.at(w, x).factors().columns(slice(0, w.size))


def shapes_fit(model: Model, w: Vector, x: Matrix) -> None:
    """Outputs (m, q), derivatives likewise, and a layout that has all p parameters once."""
    m, q, p = len(x), model.n_outputs, model.layout.size
    assert x.shape == (m, model.widths[0])
    assert w.shape == (p,)
    assert model.at(w, x).outputs.shape == (m, q)
    assert model.at(w, x).jvp(w).shape == (m, q)
    assert model.at(w, x).vjp(np.ones((m, q))).shape == (p,)
    assert jacobian(model, w, x).shape == (m, q, p)
    places = np.concatenate([np.arange(p)[place] for _, _, place in model.layout.slices()])
    np.testing.assert_array_equal(places, np.arange(p))


def adjoint(model: Model, w: Vector, x: Matrix, v: Vector, u: Matrix) -> None:
    """<J v, u> = <v, J'u>."""
    forward, backward = model.at(w, x).jvp(v) * u, v * model.at(w, x).vjp(u)
    scale = np.sum(np.abs(forward)) + np.sum(np.abs(backward)) + 1.0
    assert abs(np.sum(forward) - np.sum(backward)) <= ROUNDING * scale


def jvp_is_derivative(model: Model, w: Vector, x: Matrix, v: Vector) -> None:
    """J v is the slope of f along v."""
    slope = (model.at(w + H * v, x).outputs - model.at(w - H * v, x).outputs) / (2.0 * H)
    close(model.at(w, x).jvp(v), slope, DIFFERENCES)


def jacobian_is_jvp(model: Model, w: Vector, x: Matrix) -> None:
    """Columns of J are derivatives along the axes, and its rows are adjoints of the outputs' axes."""
    J = jacobian(model, w, x)
    for k, axis in enumerate(np.eye(w.size)):
        close(J[:, :, k], model.at(w, x).jvp(axis), ROUNDING)
    m, q, _ = J.shape
    for row in range(m * q):
        u = np.zeros((m, q))
        u.flat[row] = 1.0
        close(J.reshape(m * q, -1)[row], model.at(w, x).vjp(u), ROUNDING)


def factors_make_the_jacobian(
    model: Model, w: Vector, x: Matrix, place: slice, v: Vector, u: Matrix, roots: NDArray[np.float64]
) -> None:
    """Any columns J_c are those of J, to the last bit but for sums; J_c v, J_c'u, the sum of J_c'B B'J_c follow."""
    factors, J = model.at(w, x).factors(), jacobian(model, w, x)[:, :, place]
    flat, turned = J.reshape(u.size, -1), (roots.transpose(0, 2, 1) @ J).reshape(u.size, -1)
    np.testing.assert_array_equal(factors.outputs, model.at(w, x).outputs)
    close(factors.columns(place), J, ROUNDING if any(isinstance(piece, Summed) for piece in factors.pieces) else 0.0)
    close(factors.times(place, v), J @ v, ROUNDING)
    close(factors.transposed_times(place, u), flat.T @ u.reshape(-1), ROUNDING)
    close(factors.gram(place, roots), turned.T @ turned, ROUNDING)
    close(factors.gram_diagonal(place, roots), np.sum(turned * turned, axis=0), ROUNDING)


def samples_do_not_mix(model: Model, w: Vector, x: Matrix) -> None:
    """Output and Jacobian of a sample are those of the sample alone."""
    for k in range(len(x)):
        close(model.at(w, x).outputs[k], model.at(w, x[k : k + 1]).outputs[0], ROUNDING)
        close(jacobian(model, w, x)[k], jacobian(model, w, x[k : k + 1])[0], ROUNDING)


def far_from_kinks(model: Chain, w: Vector, x: Matrix, v: Vector) -> bool:
    """Whether no hidden unit of a relu network comes near 0 between w - H v and w + H v.

    The affine part of hidden layer k is the output of the network cut off there. It must
    move by less than half its distance from 0, at either end: then no sign changes.
    """
    kinks = [k for k, layer in enumerate(model.layers) if layer == Activation(layer.n_inputs, "relu")]
    for k in kinks:
        part = Chain(model.layers[:k])
        size = part.layout.size
        here = part.at(w[:size], x).outputs
        for end in (w - H * v, w + H * v):
            if np.any(2.0 * np.abs(part.at(end[:size], x).outputs - here) >= np.abs(here)):
                return False
    return True


# layers


def layer_fits(layer: Layer, theta: Vector, a: Matrix) -> None:
    """Outputs (m, d_out), derivatives likewise, and a neuron or none for each of p parameters."""
    here, m = layer.at(theta, a), len(a)
    assert a.shape == (m, layer.n_inputs)
    assert theta.shape == (layer.layout.size,) == layer.neurons.shape
    assert here.outputs.shape == here.push(a, theta).shape == here.push(a, None).shape == (m, layer.n_outputs)
    assert here.pull(here.outputs, np.empty(theta.shape), True).shape == a.shape


def layer_adjoint(layer: Layer, theta: Vector, a: Matrix, da: Matrix, dtheta: Vector, u: Matrix) -> None:
    """<push(da, dtheta), u> = <da, pull_a u> + <dtheta, pull_theta u>, both together and each alone."""
    here, pulled, alone = layer.at(theta, a), np.empty(theta.shape), np.empty(theta.shape)
    back = here.pull(u, pulled, True)
    here.pull(u, alone, False)
    np.testing.assert_array_equal(pulled, alone)
    for change, of in ((da, dtheta), (da, None), (None, dtheta)):
        if change is None and not theta.size:
            continue
        forward = here.push(change, of) * u
        backward = 0.0 if change is None else np.sum(change * back)
        backward += 0.0 if of is None else np.sum(of * pulled)
        scale = np.sum(np.abs(forward)) + np.sum(np.abs(da * back)) + np.sum(np.abs(dtheta * pulled)) + 1.0
        assert abs(np.sum(forward) - backward) <= 1e-13 * scale


def layer_push_is_derivative(layer: Layer, theta: Vector, a: Matrix, da: Matrix, dtheta: Vector) -> None:
    """The push is the slope of f along a change of state and parameters."""
    ahead, behind = layer.at(theta + H * dtheta, a + H * da), layer.at(theta - H * dtheta, a - H * da)
    close(layer.at(theta, a).push(da, dtheta), (ahead.outputs - behind.outputs) / (2.0 * H), DIFFERENCES)


def layer_carries(layer: Layer, theta: Vector, a: Matrix, cotangents: NDArray[np.float64]) -> None:
    """What is carried back are the adjoints of each cotangent; the pieces are columns of the Jacobian."""
    here, (m, q, _) = layer.at(theta, a), cotangents.shape
    carried, pieces = here.carry(cotangents), here.pieces(7, cotangents)
    assert carried.shape == (m, q, layer.n_inputs)
    columns = np.concatenate([np.zeros((m, q, 0)), *(piece.entries() for piece in pieces)], axis=2)
    assert [piece.stop for piece in pieces][-1:] == [7 + theta.size] * bool(theta.size)
    for r in range(q):
        close(carried[:, r], here.pull(cotangents[:, r], np.empty(theta.shape), True), ROUNDING)
        for k in range(m):
            pulled, alone = np.empty(theta.shape), np.zeros((m, cotangents.shape[2]))
            alone[k] = cotangents[k, r]
            here.pull(alone, pulled, False)
            close(columns[k, r], pulled, ROUNDING)


def layer_bend_is_gradient(
    layer: Layer, theta: Vector, a: Matrix, da: Matrix, u: Matrix, along: Matrix, dtheta: Vector
) -> None:
    """The bend is the slope of <u, D_a f(a; theta) da> along a change of state and parameters; it adds to `out`."""

    def value(t: float) -> float:
        return float(np.vdot(u, layer.at(theta + t * dtheta, a + t * along).push(da, None)))

    out = np.ones(theta.shape)
    bent = layer.at(theta, a).bend(da, u, out)
    found = float(np.vdot(bent, along) + np.dot(out - 1.0, dtheta))
    scale = 1.0 + np.sum(np.abs(bent * along)) + np.sum(np.abs(out * dtheta))
    assert abs(found - (value(H) - value(-H)) / (2.0 * H)) <= DIFFERENCES * scale * np.sqrt(u.size + theta.size)


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


def curvature_is_that_of_its_root(loss: Loss, outputs: Matrix, direction: Matrix) -> None:
    """Products with the second derivative, and its diagonal, are those of its root, twice; at a kink too."""
    B = loss.curvature_root(outputs)
    expected = (B @ (B.transpose(0, 2, 1) @ direction[:, :, None]))[:, :, 0]
    close(loss.curvature(outputs)(direction), expected, ROUNDING)
    close(loss.curvature_diagonal(outputs), np.sum(B * B, axis=2), ROUNDING)


def loss_repeats(loss: Loss, a: Matrix, b: Matrix) -> None:
    """The samples once with the outputs a, and once more with b: gradients side by side, and the sum of the values."""
    twice, both = loss.repeated(2), np.concatenate([a, b])
    np.testing.assert_array_equal(twice.gradient(both), np.concatenate([loss.gradient(a), loss.gradient(b)]))
    value = loss.value(a) + loss.value(b)
    assert abs(twice.value(both) - value) <= ROUNDING * (1.0 + abs(value))


def loss_takes(loss: Loss, outputs: Matrix, rows: NDArray[np.intp]) -> None:
    """Some samples alone, in any order and any number of times, have the losses, slopes and curvature that they had."""
    taken, there = loss.taken(rows), outputs[rows]
    np.testing.assert_array_equal(taken.each(there), loss.each(outputs)[rows])
    np.testing.assert_array_equal(taken.gradient(there), loss.gradient(outputs)[rows])
    np.testing.assert_array_equal(taken.curvature_root(there), loss.curvature_root(outputs)[rows])
    assert (taken.quadratic, taken.constant_curvature) == (loss.quadratic, loss.constant_curvature)


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


def penalty_is_the_sum_of_its_parts(regularizer: Regularizer, w: Vector, v: Vector, step: float, cut: int) -> None:
    """Restricted to the parameters before and behind a cut: values add up, and all else stands side by side."""
    whole = slice(0, cut), slice(cut, w.size)
    parts = [(regularizer.restricted(place), place) for place in whole]
    value = sum(part.value(w[place]) for part, place in parts)
    assert abs(regularizer.value(w) - value) <= ROUNDING * (1.0 + value)
    assert regularizer.scale == max(part.scale for part, _ in parts)
    backwards = np.arange(w.size)[::-1]
    np.testing.assert_array_equal(
        regularizer.restricted(backwards).prox(v[backwards], step), regularizer.prox(v, step)[backwards]
    )
    near = np.concatenate([part.prox(v[place], step) for part, place in parts])
    np.testing.assert_array_equal(near, regularizer.prox(v, step))
    for law in ("face", "gradient", "nearest"):
        found = np.concatenate([getattr(part, law)(w[place]) for part, place in parts])
        np.testing.assert_array_equal(found, getattr(regularizer, law)(w))
    scales = np.concatenate([part.whitening(w[place], step).scale for part, place in parts])
    np.testing.assert_array_equal(scales, regularizer.whitening(w, step).scale)


def penalty_is_spread_over_parameters(regularizer: Regularizer, w: Vector) -> None:
    """Terms are >= 0 and add up to r, kinks are as heavy as the heaviest of all; with separable r each is its own."""
    terms, kinks = regularizer.terms(w), regularizer.kinks(w)
    assert terms.shape == kinks.shape == w.shape
    assert (terms >= 0.0).all()
    assert abs(terms.sum() - regularizer.value(w)) <= ROUNDING * (1.0 + regularizer.value(w))
    assert np.max(kinks, initial=0.0) == regularizer.scale
    if regularizer.separable:
        one = [regularizer.restricted(slice(k, k + 1)) for k in range(w.size)]
        np.testing.assert_array_equal(kinks, [r.scale for r in one])
        close(terms, np.array([r.value(w[k : k + 1]) for k, r in enumerate(one)]), ROUNDING)


def prox_is_optimal(regularizer: Regularizer, v: Vector, step: float, other: Vector) -> None:
    """(v - prox v)/step is a subgradient of r at prox v: no point is better, `other` as little as neighbors."""
    w = regularizer.prox(v, step)
    subgradient = (v - w) / step
    for point in (other, 0.0 * w, w + 1e-3 * other, w - 1e-3 * other, *_neighbors(w)):
        x = regularizer.nearest(point)
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


def penalty_is_smooth_on_its_face(regularizer: Regularizer, w: Vector, direction: Vector, tau: float) -> None:
    """Along the face at w the gradient is the derivative, and T^(-1/2), applied twice, undoes tau Id + r''.

    Differences are taken in coordinates that are at least 2 H max|direction| away from 0, where kinks may be;
    walls have to be as far, see `inside`.
    """
    face = regularizer.face(w)
    assert face.all() or not regularizer.smooth
    assert regularizer.gradient(w).shape == w.shape
    along = np.where(face & (np.abs(w) > 2.0 * H * np.max(np.abs(direction))), direction, 0.0)
    ahead, behind = w + H * along, w - H * along
    slope = (regularizer.value(ahead) - regularizer.value(behind)) / (2.0 * H)
    assert abs(np.dot(regularizer.gradient(w), along) - slope) <= DIFFERENCES * (1.0 + regularizer.value(w))
    bend = (regularizer.gradient(ahead) - regularizer.gradient(behind)) / (2.0 * H)
    whiten = regularizer.whitening(w, tau)
    close(whiten(whiten((tau * along + bend)[face])), along[face], DIFFERENCES * (1.0 + 1.0 / tau))
    rows = np.stack([direction[face], along[face]])
    close(whiten(rows), np.stack([whiten(row) for row in rows]), ROUNDING)


def inside(regularizer: Regularizer, w: Vector, far: float) -> Vector:
    """A point with the face of w that is at least `far` from every wall, and whose groups are as long or 0."""
    moved = np.where(w < 0.0, -1.0, 1.0) * np.maximum(np.abs(w), far)
    if isinstance(regularizer, Boxed):
        moved = np.clip(moved, regularizer.lower + far, regularizer.upper - far)
    return np.where(regularizer.face(w), moved, w)


def the_face_is_nearest(regularizer: Regularizer, w: Vector, of: Vector, other: Vector) -> None:
    """onto_face is the projection on the closed face of `of`, on which r is its quadratic there, if it is one."""
    inside, candidate = regularizer.onto_face(w, of), regularizer.onto_face(other, of)
    np.testing.assert_array_equal(regularizer.onto_face(inside, of), inside)
    np.testing.assert_array_equal(regularizer.onto_face(of, of), of)
    held = ~regularizer.face(of)
    np.testing.assert_array_equal(inside[held], of[held])
    assert np.linalg.norm(w - inside) <= np.linalg.norm(w - candidate) + ROUNDING
    if regularizer.flat:
        d, free = inside - of, regularizer.face(of)
        bend = float(np.sum((d[free] / regularizer.whitening(of, 1.0).scale) ** 2) - np.dot(d, d))
        model = regularizer.value(of) + np.dot(regularizer.gradient(of), d) + 0.5 * bend
        assert abs(regularizer.value(inside) - model) <= ROUNDING * (1.0 + abs(model))


# surrogates


def surrogate_is_consistent(surrogate: Surrogate, data: Data, w: Vector, gradient: Vector, pi: Vector) -> None:
    """Consistent gradients: grad h(w_i) - pi_i = kappa grad g_i(w_i), so that a fixed point of NEXT is stationary."""
    h = surrogate.around(w, gradient, pi, data)
    rounding = ROUNDING * (1.0 + float(np.max(np.abs(pi))))
    for at in (w, w.copy()):  # at the center itself it may be known, elsewhere it is computed
        close(h.gradient(at) - pi, surrogate.kappa * gradient, rounding)
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
    R = model_root(subproblem, subproblem.outputs_at(w))
    assert R.shape[1] == w.size
    close(R.T @ (R @ direction) + subproblem.tau * direction, bend, DIFFERENCES * scale)


def blocked_surrogate_is_consistent(block: Block, gradient: Vector) -> None:
    """Consistent gradients, block by block: grad h_c - pi_c = kappa grad g_i(w_i) in the block's parameters, at w_i."""
    pi, place = block.of.pi[block.place], block.place
    scale = 1.0 + float(np.max(np.abs(pi)))
    close(block.gradient() - pi, block.of.surrogate.kappa * gradient[place], ROUNDING * scale)


def block_is_the_surrogate_with_the_others_kept(
    h: Linearized, place: slice, whole: Linearized, d: Vector, direction: Vector
) -> None:
    """Value, gradient, slope and curvature of a block are those of (11) as a whole, moved in the block alone."""
    moved, along = whole.center.copy(), np.zeros_like(whole.center)
    moved[place] += d
    along[place] = direction
    w = h.center + d
    scale = 1.0 + abs(whole.value(moved)) + float(np.linalg.norm(whole.jacobian @ along)) ** 2
    assert abs(h.value(w) - whole.value(moved)) <= ROUNDING * scale
    close(h.gradient(w), whole.gradient(moved)[place], ROUNDING * scale)
    slopes = h.slope_along(w, direction)(0.5), whole.slope_along(moved, along)(0.5)
    assert abs(slopes[0] - slopes[1]) <= ROUNDING * scale * (1.0 + whole.tau)
    bend, across = curvature(h, w), curvature(whole, moved)
    close(bend, across[place, place], ROUNDING * (1.0 + float(np.max(np.abs(across), initial=0.0))))


def curvature(h: Linearized, w: Vector) -> Matrix:
    """Second derivative of h without that of tau, (p, p), by whatever its Jacobian offers."""
    return gram_of(h.weight, h.roots(h.outputs_at(w)), h.jacobian)


# solvers


def shifted_system_is_solved(root: Matrix, x: Vector) -> None:
    """(R'R + Id) x = b gives back x, in the primal form as in the dual one.

    Backward stable: the error is that of rounding the matrix, whose condition is the bound.
    """
    matrix = root.T @ root + np.eye(x.size)
    condition = np.linalg.cond(matrix) if x.size else 1.0
    found = shifted_system(root)(matrix @ x)
    assert np.linalg.norm(found - x) <= 100.0 * np.finfo(np.float64).eps * condition * (1.0 + np.linalg.norm(x))


def systems_are_solved(h: Linearized, regularizer: Regularizer, w: Vector, x: Vector, pieces: Factors) -> None:
    """(J'H J + T) x = b gives back x: in p unknowns from a matrix or the network's factors, in m q, and by products."""
    J, products = matrix(h), by_products(h).jacobian
    assert isinstance(products, LinearMap)
    gram = replace(products, gram=lambda roots: pieces.gram(slice(0, x.size), roots))
    A = curvature(replace(h, jacobian=J), w) + np.diag(regularizer.whitening(h.center, h.tau).scale ** -2.0)
    b, outputs, condition = A @ x, h.outputs_at(w), np.linalg.cond(A)
    for form in (J, gram, products):
        found = Systems(replace(h, jacobian=form), regularizer).at(outputs, 1e-15)(b)
        assert np.linalg.norm(found - x) <= 1e-13 * condition * (1.0 + np.linalg.norm(x))


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
    w, other = solution.w, regularizer.nearest(other)
    assert solution.residual == residual(subproblem, regularizer, w)
    assert solution.residual <= tolerance
    gap = float(np.dot(subproblem.gradient(w), other - w)) + regularizer.value(other) - regularizer.value(w)
    scale = 1.0 + float(np.dot(np.abs(subproblem.gradient(w)), np.abs(other - w))) + regularizer.value(other)
    assert gap >= -1e-10 * scale


def matrix(subproblem: Linearized) -> Matrix:
    """The Jacobian of a subproblem as a matrix, (m*q, p)."""
    J = subproblem.jacobian
    if isinstance(J, LinearMap):
        assert J.matrix is not None
        return J.matrix()
    return J


def by_products(subproblem: Linearized) -> Linearized:
    """The same subproblem, with a Jacobian of which only products are known."""
    J = matrix(subproblem)
    squares = J * J
    products = (lambda x: J @ x, lambda u: J.T @ u, lambda x: squares @ x, lambda u: squares.T @ u)
    return replace(subproblem, jacobian=LinearMap(J.shape, *products))


def same_minimizer(subproblem: Subproblem, found: Vector, expected: Vector, tolerance: float) -> None:
    """Two minimizers of one problem agree as far as strong convexity tells them apart."""
    scale = (1.0 + float(np.max(np.abs(subproblem.gradient(expected))))) * (1.0 + 1.0 / subproblem.tau)
    assert np.max(np.abs(found - expected)) <= tolerance * scale


# networks


def sizes_of(widths: tuple[int, ...]) -> int:
    """Number of parameters of a perceptron, counted by hand."""
    return sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))


# ---- compressors ---------------------------------------------------------------------------


def top_is_the_best_of_its_size(x: Vector, k: int) -> None:
    """K entries of x as they are, none smaller than one left out, so none of any k leaves less: ||Q(x) - x|| is least.

    Of the same magnitude those that stand first; and so ||Q(x) - x||^2 <= (1 - k/p) ||x||^2.
    """
    told = top(x, k)
    assert np.array_equal(np.unique(told.places), told.places)
    assert told.places.shape == told.values.shape == (k,)
    np.testing.assert_array_equal(told.values, x[told.places])
    order = sorted(range(x.size), key=lambda e: (-abs(x[e]), e))
    np.testing.assert_array_equal(told.places, sorted(order[:k]))
    left = x.copy()
    left[told.places] = 0.0
    assert left @ left <= (1.0 - k / x.size) * (x @ x) * (1.0 + ROUNDING)


def every_set_is_as_likely(seed: int, p: int, k: int, n_draws: int) -> None:
    """Random-k over many exchanges: k places each, ascending, and each place in a part k/p of them, up to 5 deviations.

    So E ||Q(x) - x||^2 = (1 - k/p) ||x||^2 and E (p/k) Q(x) = x, for each x.
    """
    seen = np.zeros(p)
    for n in range(n_draws):
        places = drawn(seed, n, p, k)
        assert places.size == k
        assert np.array_equal(np.unique(places), places)
        seen[places] += 1.0
    share = k / p
    assert np.all(np.abs(seen / n_draws - share) <= 5.0 * np.sqrt(share * (1.0 - share) / n_draws) + ROUNDING)


def rounds_to_nearest(x: Vector, bits: int, dtype: np.dtype[Any]) -> None:
    """What a receiver sees is x to half a unit of the last of `bits` digits; projection, odd, monotone."""
    seen = rounded(x, dtype)
    assert np.all(np.abs(seen - x) <= 0.5**bits * np.abs(x) * (1.0 + 2.0**-20))  # twice rounded: over float32
    np.testing.assert_array_equal(rounded(seen, dtype), seen)
    np.testing.assert_array_equal(rounded(-x, dtype), -seen)
    np.testing.assert_array_equal(rounded(np.sort(x), dtype), np.sort(seen))
