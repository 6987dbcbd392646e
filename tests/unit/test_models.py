"""Multilayer perceptrons: values by hand, edges of the family."""

from __future__ import annotations

import numpy as np
import pytest

from peer.optim.chains import mlp
from tests import laws
from tests.instances import ACTIVATIONS, parameters_of


def test_a_network_by_hand() -> None:
    model = mlp((2, 2, 1), "relu")
    assert [name for name, _ in model.layout.shapes] == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ]
    w = np.array([1.0, 2.0, 3.0, -4.0, 0.5, 0.0, 10.0, 100.0, 0.25])
    x = np.array([[1.0, 1.0], [-1.0, -1.0]])
    # hidden: (1 + 2 + .5, 3 - 4) and (-1 - 2 + .5, -3 + 4), negative ones cut off
    np.testing.assert_array_equal(model.at(w, x).outputs, [[35.25], [100.25]])
    expected = [[10.0, 10.0, 0.0, 0.0, 10.0, 0.0, 3.5, 0.0, 1.0], [0.0, 0.0, -100.0, -100.0, 0.0, 100.0, 0.0, 1.0, 1.0]]
    np.testing.assert_array_equal(laws.jacobian(model, w, x)[:, 0], expected)


def test_without_hidden_layers_the_map_is_affine_and_the_activation_unused() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 3)), rng.standard_normal(8)
    for activation in ACTIVATIONS:
        model = mlp((3, 2), activation)
        np.testing.assert_allclose(model.at(w, x).outputs, x @ w[:6].reshape(2, 3).T + w[6:], rtol=0.0, atol=1e-15)
        np.testing.assert_array_equal(laws.jacobian(model, w, x), laws.jacobian(model, 0.0 * w, x))


def test_neurons_are_numbered_layer_after_layer() -> None:
    assert mlp((2, 3, 1), "tanh").neurons.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2, 3, 3, 3, 3]


def test_the_output_layer_is_linear() -> None:
    model = mlp((1, 1, 1), "sigmoid")
    assert model.at(np.array([0.0, 0.0, 0.0, 7.0]), np.ones((1, 1))).outputs == 7.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_samples_give_no_outputs_and_no_gradient(activation: str) -> None:
    model = mlp((3, 4, 2), activation)
    w, x = parameters_of(np.random.default_rng(1), model), np.zeros((0, 3))
    laws.shapes_fit(model, w, x)
    assert not model.at(w, x).vjp(np.zeros((0, 2))).any()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_units_neither_overflow_nor_have_a_slope(activation: str) -> None:
    model = mlp((1, 1, 1), activation)
    w, x = np.array([1e4, 0.0, 1.0, 0.0]), np.array([[1.0], [-1.0]])
    lowest = -1.0 if activation == "tanh" else 0.0
    np.testing.assert_array_equal(model.at(w, x).outputs, [[1.0], [lowest]])
    np.testing.assert_array_equal(laws.jacobian(model, w, x)[:, 0, :2], np.zeros((2, 2)))


def test_the_slope_of_relu_at_zero_is_zero() -> None:
    model = mlp((1, 1, 1), "relu")
    w, x = np.array([1.0, 0.0, 1.0, 0.0]), np.zeros((1, 1))
    np.testing.assert_array_equal(laws.jacobian(model, w, x)[0, 0], [0.0, 0.0, 0.0, 1.0])


def test_initial_weights_fill_the_interval_of_glorot_and_biases_are_zero() -> None:
    model = mlp((50, 30, 10), "tanh")
    w = model.initial(np.random.default_rng(2))
    for name, part in model.layout.unflatten(w).items():
        bound = np.sqrt(6.0 / sum(part.shape)) if name.endswith("weight") else 0.0
        assert np.max(np.abs(part)) <= bound
        assert np.max(part) >= 0.95 * bound
        assert np.min(part) <= -0.95 * bound
    np.testing.assert_array_equal(w, model.initial(np.random.default_rng(2)))
    assert (w != model.initial(np.random.default_rng(3))).any()
