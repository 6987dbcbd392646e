"""Every layer, and every chain of them, obeys the laws of maps between inner-product spaces."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peer.arrays import Matrix, Vector
from peer.networks import network_of
from peer.optim import factors as factors_module
from peer.optim.chains import Chain, ChainPass, LocalResidual, Residual, mlp
from peer.optim.factors import CROSSED_BYTES, CROSSED_ROWS, Columns, Crossed, Factors, Part, Summed
from peer.optim.images import Convolution, LocalPooling, Pooling
from peer.optim.layers import (
    ACTIVATIONS,
    Activation,
    Dense,
    Layer,
    LayerNormalization,
    Local,
    LocalNormalization,
)
from peer.optim.maps import factored, matrix_of, products_of
from tests import laws

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 4)
modest = settings(max_examples=25, deadline=None)
KINDS = (*ACTIVATIONS, "dense", "convolution", "average", "max", "normalization", "residual", "chain")


@st.composite
def layers(draw: st.DrawFn, kind: str) -> Layer:
    """A small layer."""
    image = draw(st.integers(1, 2)), draw(st.integers(2, 4)), draw(st.integers(2, 5))
    if kind in ACTIVATIONS:
        return Activation(draw(widths), kind)
    if kind == "dense":
        return Dense(draw(widths), draw(widths), draw(st.booleans()), draw(st.booleans()))
    if kind == "convolution":
        size = draw(st.integers(1, 2))
        padding = draw(st.integers(0, size - 1))
        return Convolution(image, draw(st.integers(1, 3)), size, draw(st.integers(1, 2)), padding, draw(st.booleans()))
    if kind in ("average", "max"):
        return Pooling(image, draw(st.integers(1, 2)), largest=kind == "max")
    if kind == "normalization":
        return LayerNormalization(draw(st.integers(2, 5)))
    n = draw(st.integers(2, 4))
    inner = Chain((Dense(n, 3), Activation(3, "gelu"), LayerNormalization(3), Dense(3, n, bias=False)))
    return Residual(inner, draw(st.floats(-1.0, 1.0))) if kind == "residual" else inner


def drawn(layer: Layer, seed: int, m: int) -> tuple[np.random.Generator, Vector, Matrix]:
    """Parameters and a state of m samples, and where more randomness comes from."""
    rng = np.random.default_rng(seed)
    theta = layer.initial(rng) + 0.3 * rng.standard_normal(layer.layout.size)
    return rng, theta, rng.standard_normal((m, layer.n_inputs))


def spread(local: Local) -> float:
    """The least deviation that a layer normalization divides by, where differences are as large as it is small."""
    if isinstance(local, LocalNormalization):
        return float(local.deviation.min(initial=1.0))
    if isinstance(local, LocalResidual):
        return spread(local.inner)
    if isinstance(local, ChainPass):
        return min(map(spread, local.passed))
    return 1.0


def on_one_piece(layer: Layer, theta: Vector, a: Matrix, far: Matrix) -> bool:
    """Whether a layer is smooth, and not very curved, between a - H far and a + H far."""
    ends = [layer.at(theta, a + t * far) for t in (-laws.H, laws.H)]
    if layer == Activation(layer.n_inputs, "relu"):
        return bool(np.array_equal(ends[0].outputs > 0.0, ends[1].outputs > 0.0))
    one, other = ends
    if isinstance(one, LocalPooling) and isinstance(other, LocalPooling):
        return bool(np.array_equal(one.shares, other.shares))
    return spread(one) > 0.3


@pytest.mark.parametrize("kind", KINDS)
class TestLayers:
    @modest
    @given(data=st.data(), seed=seeds, m=st.integers(0, 3))
    def test_derivatives(self, kind: str, data: st.DataObject, seed: int, m: int) -> None:
        layer = data.draw(layers(kind))
        rng, theta, a = drawn(layer, seed, m)
        da, u, dtheta = rng.standard_normal(a.shape), rng.standard_normal((m, layer.n_outputs)), theta[::-1].copy()
        laws.layer_fits(layer, theta, a)
        laws.layer_adjoint(layer, theta, a, da, dtheta, u)
        laws.layer_carries(layer, theta, a, rng.standard_normal((m, 2, layer.n_outputs)))
        assume(on_one_piece(layer, theta, a, da))
        laws.layer_push_is_derivative(layer, theta, a, da, dtheta)

    @modest
    @given(data=st.data(), seed=seeds, m=st.integers(1, 3))
    def test_second_derivatives(self, kind: str, data: st.DataObject, seed: int, m: int) -> None:
        layer = data.draw(layers(kind))
        rng, theta, a = drawn(layer, seed, m)
        da, along, u = (rng.standard_normal((m, n)) for n in (*[layer.n_inputs] * 2, layer.n_outputs))
        assume(on_one_piece(layer, theta, a, along))
        laws.layer_bend_is_gradient(layer, theta, a, da, u, along, rng.standard_normal(theta.shape))


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """A chain as experiments describe it: images, or vectors, through random layers, to one or two outputs."""
    curve = st.sampled_from(("tanh", "sigmoid", "softplus", "gelu"))
    described: list[Any] = []
    image = draw(st.sampled_from(((), (1, 4, 4), (2, 3, 5))))
    if image:
        described += [{"kind": "convolution", "channels": 2, "size": 2, "padding": draw(st.integers(0, 1))}]
        described += [draw(curve), {"kind": draw(st.sampled_from(("average-pooling", "max-pooling"))), "size": 2}]
        described += ["flatten"]
    if draw(st.booleans()):
        block = [{"kind": "dense", "width": 3}, draw(curve), {"kind": "dense"}]
        described += [{"kind": "dense", "width": 4}, {"kind": "residual", "layers": block, "step": 0.5}]
    if draw(st.booleans()):
        described += ["layer-normalization", {"kind": "quadratic", "width": 2}]
    q = draw(st.integers(1, 2))
    return network_of((), "tanh", [*described, {"kind": "dense"}], image, math.prod(image) if image else 3, q)


class TestChains:
    @modest
    @given(model=chains(), seed=seeds, m=st.integers(1, 3))
    def test_derivatives(self, model: Chain, seed: int, m: int) -> None:
        rng, w, x = drawn(model, seed, m)
        v, u = rng.standard_normal(w.size), rng.standard_normal((m, model.n_outputs))
        laws.shapes_fit(model, w, x)
        laws.adjoint(model, w, x, v, u)
        laws.jacobian_is_jvp(model, w, x)
        laws.samples_do_not_mix(model, w, x)
        place = slice(int(w.size * 0.3), int(w.size * 0.8) + 1)
        roots = rng.standard_normal((m, model.n_outputs, model.n_outputs))
        laws.factors_make_the_jacobian(model, w, x, place, v[place], u, roots)
        laws.layer_adjoint(model, w, x, rng.standard_normal(x.shape), v, u)

    @modest
    @given(model=chains(), seed=seeds, m=st.integers(1, 4))
    def test_products_are_those_of_the_matrix(self, model: Chain, seed: int, m: int) -> None:
        rng, w, x = drawn(model, seed, m)
        here = model.at(w, x)
        J, v, u = matrix_of(here.factors()), rng.standard_normal(w.size), rng.standard_normal(m * model.n_outputs)
        for A in (products_of(here), factored(here)):
            laws.close(np.asarray(A @ v), J @ v, laws.ROUNDING)
            laws.close(np.asarray(A.T @ u), J.T @ u, laws.ROUNDING)

    @modest
    @given(model=chains(), seed=seeds)
    def test_chains_of_chains(self, model: Chain, seed: int) -> None:
        """Cut anywhere, the two parts one after the other are the whole, to the last bit."""
        rng, w, x = drawn(model, seed, 3)
        u = rng.standard_normal((3, model.n_outputs))
        whole = model.at(w, x)
        for cut in range(1, len(model.layers)):
            nested = Chain((Chain(model.layers[:cut]), Chain(model.layers[cut:]))).at(w, x)
            np.testing.assert_array_equal(nested.outputs, whole.outputs)
            np.testing.assert_array_equal(nested.vjp(u), whole.vjp(u))
            np.testing.assert_array_equal(matrix_of(nested.factors()), matrix_of(whole.factors()))


def test_columns_and_products_have_the_gram_matrix_of_their_entries() -> None:
    rng = np.random.default_rng(0)
    part = Part(0, rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2)))
    columns = Columns(6, rng.standard_normal((4, 2, 5)))
    summed = Summed(11, rng.standard_normal((4, 2, 2, 3)), rng.standard_normal((4, 3, 2)))
    factors, roots = Factors(np.zeros((4, 2)), (part, columns, summed)), rng.standard_normal((4, 2, 2))
    turned = (roots.transpose(0, 2, 1) @ factors.columns(slice(0, 15))).reshape(8, 15)
    for place in (slice(0, 15), slice(2, 9), slice(8, 14)):
        laws.close(factors.gram(place, roots), turned[:, place].T @ turned[:, place], laws.ROUNDING)


@given(st.integers(1, 3 * CROSSED_ROWS), st.integers(1, 7), st.booleans(), st.sampled_from([0, CROSSED_BYTES]), seeds)
@modest
def test_products_of_a_row_and_a_column_have_the_gram_matrix_of_their_entries(
    n_rows: int, n_cols: int, shared: bool, most_bytes: int, seed: int
) -> None:
    """Few rows or many, any of the columns, and whatever else the products of these were formed of."""
    rng = np.random.default_rng(seed)
    values, other, roots = (
        rng.standard_normal((5, n_cols)),
        rng.standard_normal((5, n_cols)),
        rng.standard_normal((5, 2, 2)),
    )
    crossed = Crossed(values if shared else other)
    part = Part(0, rng.standard_normal((5, 2, n_rows)), values, crossed)
    start = int(rng.integers(part.stop))
    place = slice(start, int(rng.integers(start, part.stop)) + 1)
    turned = (roots.transpose(0, 2, 1) @ part.entries()[:, :, place]).reshape(10, -1)
    with patch.object(factors_module, "CROSSED_BYTES", most_bytes):
        for _ in range(2):
            laws.close(Factors(np.zeros((5, 2)), (part,)).gram(place, roots), turned.T @ turned, laws.ROUNDING)
    formed = shared and most_bytes > 0 and part.within(place)[0].n_rows >= CROSSED_ROWS
    assert ("products" in vars(crossed)) == formed  # by all who share them, once


def test_squares_of_sums_are_those_of_their_products_where_these_do_not_meet() -> None:
    """With one place they are exact, as of a `Part`."""
    rng = np.random.default_rng(2)
    rows, values = rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 4))
    summed, part = Summed(0, rows[:, :, :, None], values[:, None, :]), Part(0, rows, values)
    np.testing.assert_allclose(summed.entries(), part.entries(), rtol=0.0, atol=1e-15)
    np.testing.assert_allclose(summed.squared().entries(), part.entries() ** 2, rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(summed.squares(), part.squares(), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_perceptron_is_a_chain(name: str) -> None:
    """As written in its docstring, without any of the layers' code."""
    model, rng = mlp((3, 4, 2), name), np.random.default_rng(1)
    w, x = rng.standard_normal(model.layout.size), rng.standard_normal((5, 3))
    parts = model.layout.unflatten(w)
    hidden = ACTIVATIONS[name].value(x @ parts["layers.0.weight"].T + parts["layers.0.bias"])
    expected = hidden @ parts["layers.1.weight"].T + parts["layers.1.bias"]
    np.testing.assert_allclose(model.at(w, x).outputs, expected, rtol=0.0, atol=1e-14)
