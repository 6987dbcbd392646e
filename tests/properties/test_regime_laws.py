"""Models of regimes obey the laws of models; and what is kept of a J that stays gives what would be computed anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.arrays import Vector
from peer.optim import frozen
from peer.optim.chains import Chain, Residual, mlp
from peer.optim.layers import Activation, Dense
from peer.optim.models import Model
from peer.optim.regimes import Linear, Restricted, everything, flattened, network_of, own
from peer.optim.solvers import solve
from peer.optim.surrogates import Partial
from peer.optim.systems import Systems
from tests import laws
from tests.instances import data_of, gradient_of, outputs_of, parameters_of, regularizer_of

modest = settings(max_examples=15)
seeds = st.integers(0, 2**32 - 1)

NETWORKS: Final[dict[str, Chain]] = {
    "perceptron": mlp((3, 4, 2), "tanh"),
    "quadratic": Chain((Dense(3, 2, bias=False, normal=True), Activation(2, "square"), Dense(2, 2))),
    "residual": Chain((Dense(3, 3), Residual(mlp((3, 2, 3), "tanh"), 0.5), Dense(3, 2))),
}


def drawn(name: str, seed: int) -> tuple[Model, Vector, Vector, np.random.Generator]:
    """A network with some parts fixed, (all) linearized or not; where it is, and all its parameters at the start."""
    rng, network = np.random.default_rng(seed), NETWORKS[name]
    start, model = parameters_of(rng, network), network
    restricted: Model = model
    names = [part for part, _ in network.layout.shapes]
    if (n_trained := rng.integers(1, len(names) + 1)) < len(names):
        chosen = set(rng.choice(names, n_trained, replace=False))
        if rng.random() < 0.5:
            chosen = set(names[-n_trained:])
        restricted = Restricted(network, tuple(part for part in names if part in chosen), start)
    w = own(restricted, start)
    model_at = Linear(restricted, w, 100) if rng.random() < 0.5 else restricted
    return model_at, w + 0.3 * rng.standard_normal(w.size), start, rng


@pytest.mark.parametrize("name", NETWORKS)
@modest
@given(seed=seeds, m=st.integers(1, 4))
def test_regimes_are_models(name: str, seed: int, m: int) -> None:
    model, w, _, rng = drawn(name, seed)
    x = model.inputs(rng.standard_normal((m, 3)))
    v, u = rng.standard_normal(w.size), rng.standard_normal((m, model.n_outputs))
    assert model.layout.size == model.neurons.size == w.size == model.at(w, x).n_parameters
    laws.adjoint(model, w, x, v, u)
    laws.jacobian_is_jvp(model, w, x)
    laws.samples_do_not_mix(model, w, x)
    laws.jvp_is_derivative(model, w, x, v)
    start = int(rng.integers(0, w.size))
    place = slice(start, int(rng.integers(start + 1, w.size + 1)))
    roots = rng.standard_normal((m, model.n_outputs, model.n_outputs))
    laws.factors_make_the_jacobian(model, w, x, place, v[place], u, roots)


@pytest.mark.parametrize("name", NETWORKS)
@modest
@given(seed=seeds)
def test_a_regime_is_its_network_with_all_parameters(name: str, seed: int) -> None:
    """And a linearized one is the network at its anchor, with its derivatives there, everywhere."""
    model, w, start, rng = drawn(name, seed)
    network, x = network_of(model), rng.standard_normal((3, 3))
    parts = everything(model, w)
    assert list(parts) == [part for part, _ in network.layout.shapes]
    np.testing.assert_array_equal(flattened(model, parts), w)
    whole = network.layout.flatten(parts)
    fixed = [part for part in parts if part not in dict(model.layout.shapes)]
    for part in fixed:
        np.testing.assert_array_equal(parts[part], network.layout.unflatten(start)[part])
    inputs = model.inputs(x)
    if isinstance(model, Linear):
        change = whole - start
        there = network.at(start, x)
        laws.close(model.at(w, inputs).outputs, there.outputs + there.jvp(change), laws.ROUNDING)
        np.testing.assert_array_equal(model.at(model.anchor, inputs).outputs, there.outputs)
    else:
        laws.close(model.at(w, inputs).outputs, network.at(whole, x).outputs, laws.ROUNDING)


@pytest.mark.parametrize("loss", ["squared", "weighted squared", "softmax"])
@pytest.mark.parametrize("adapts", [False, True])
@modest
@given(seed=seeds, m=st.integers(1, 12), tau=st.floats(0.05, 5.0), again=st.floats(0.05, 5.0))
def test_what_is_kept_solves_the_same_systems(
    loss: str, adapts: bool, seed: int, m: int, tau: float, again: float
) -> None:
    """In primal and dual form, for one tau after the other, also where biases are not regularized."""
    rng, q = np.random.default_rng(seed), 2
    network = mlp((3, 3, outputs_of(loss, q)), "tanh")
    data = data_of(rng, loss, network, m, 1.0 / m)
    anchor = parameters_of(rng, network)
    small = frozen.SMALL if rng.random() < 0.5 else 0  # J as a matrix, or never formed
    linear, w = data.linearized(anchor, 100), anchor + 0.1 * rng.standard_normal(anchor.size)
    assert data.linearized(anchor.copy(), 100) is linear
    r = regularizer_of(rng, "l2", w.size, 0.3)
    if rng.random() < 0.5:
        r = replace(r, strength=np.full(w.size, 0.2))  # type: ignore[type-var]
    gradient, pi = gradient_of(linear, w), rng.standard_normal(w.size)
    for each in (tau, again, tau):
        with patch.object(frozen, "SMALL", small):
            kept = Partial(each, 2.0, adapts).around(w, gradient, pi, linear)
        anew = replace(kept, kept=None, jacobian=laws.matrix(kept))
        b = rng.standard_normal(w.size)
        size = 1e-10 * float(np.abs(b).max()) / each
        np.testing.assert_allclose(
            Systems(kept, r).at(kept.outputs)(b), Systems(anew, r).at(anew.outputs)(b), rtol=0.0, atol=size
        )
        found, expected = solve(kept, r, 1e-12), solve(anew, r, 1e-12)
        assert found.method == expected.method
        laws.same_minimizer(anew, found.w, expected.w, 1e-10)
    kinked = regularizer_of(rng, "l1", w.size, 0.1)
    found, expected = solve(kept, kinked, 1e-12), solve(anew, kinked, 1e-12)
    laws.same_minimizer(kept, found.w, expected.w, 1e-8)
