"""The loss of derivatives: by hand, its gradient, shifts of images, and its place in the surrogate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peer import settings
from peer.errors import ConfigError
from peer.networks import network_of
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.regularizers import NoRegularizer
from peer.optim.surrogates import Data, Full, Partial
from peer.optim.tangents import Tangents, shifted
from peer.problem import Problem
from tests import laws

IMAGE = (1, 3, 4)


def data_of(rng: np.random.Generator) -> Data:
    layers = [{"kind": "convolution", "channels": 2, "size": 2}, "tanh", "flatten", {"kind": "dense"}]
    model = network_of((), "tanh", layers, IMAGE, 12, 2)
    x, y = rng.standard_normal((5, 12)), rng.standard_normal((5, 2))
    return Data(model, x, Squared(y), 0.2, Tangents(shifted(x, IMAGE, [(1, 0), (0, 1)]), 0.7))


def test_of_a_linear_map_it_is_that_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    model, directions = mlp((3, 2), "tanh"), rng.standard_normal((2, 4, 3))
    w, x = rng.standard_normal(8), rng.standard_normal((4, 3))
    here, W = model.at(w, x), w[:6].reshape(2, 3)
    tangents = Tangents(directions, 0.5)
    assert tangents.value(here) == pytest.approx(0.25 * np.sum((directions @ W.T) ** 2), rel=1e-14)
    expected = 0.5 * W @ np.einsum("kmi,kmj->ij", directions, directions)
    np.testing.assert_allclose(tangents.gradient(here), [*expected.reshape(-1), 0.0, 0.0], rtol=0.0, atol=1e-13)
    alone = tangents.taken(np.array([2, 0]))
    assert alone.value(model.at(w, x[[2, 0]])) == pytest.approx(
        0.25 * np.sum((directions[:, [2, 0]] @ W.T) ** 2), rel=1e-14
    )


def test_gradient_is_derivative() -> None:
    rng = np.random.default_rng(1)
    data = data_of(rng)
    w = data.model.initial(rng)
    direction = rng.standard_normal(w.size)
    slope = (data.value(w + laws.H * direction) - data.value(w - laws.H * direction)) / (2.0 * laws.H)
    assert np.dot(data.gradient(w), direction) == pytest.approx(slope, rel=1e-7)
    without = replace(data, tangents=None)
    np.testing.assert_array_equal(data.loss_gradient(w), without.gradient(w))
    assert data.value(w) > without.value(w)


def test_images_move_and_zeros_come_in() -> None:
    x = np.arange(1.0, 13.0)[None]
    down, right = shifted(x, IMAGE, [(1, 0), (0, 2)])[:, 0].reshape(2, 3, 4)
    np.testing.assert_array_equal(down, 0.5 * np.array([[-5, -6, -7, -8], [-8, -8, -8, -8], [5, 6, 7, 8]]))
    np.testing.assert_array_equal(right, 0.5 * np.array([[-3, -4, 1, 2], [-7, -8, 5, 6], [-11, -12, 9, 10]]))


@pytest.mark.parametrize("surrogate", [Partial(2.0), Partial(2.0, 3.0), Full(2.0)])
def test_the_surrogate_has_the_slope_of_the_whole(surrogate: Partial | Full) -> None:
    """Gradient consistency: the slope of (5) at w_i is I y_i, and so w_i is its minimizer iff that is 0."""
    rng = np.random.default_rng(2)
    problem = Problem(data_of(rng), NoRegularizer(), surrogate, 1e-12)
    w = problem.data.model.initial(rng)
    gradient = problem.gradient(w)
    y = rng.standard_normal(w.size)
    seen, own = problem.seen(0, w, gradient)
    pi = 3.0 * y - seen.kappa * own
    h = surrogate.around(w, own, pi, problem.data)
    np.testing.assert_allclose(h.gradient(w), 3.0 * y, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "objective", "key"),
    [
        ({}, {}, "objective.tangent_strength"),
        ({"image": [1, 8, 8]}, {"shifts": []}, "objective.shifts"),
        ({"image": [1, 8, 8]}, {"shifts": [[0, 0]]}, "objective.shifts"),
        ({"image": [1, 8, 8]}, {"shifts": [[8, 0]]}, "objective.shifts"),
    ],
)
def test_what_is_refused(model: dict[str, Any], objective: dict[str, Any], key: str) -> None:
    layers = ["flatten", {"kind": "dense"}]
    tree = {
        "data": {"dataset": "digits"},
        "model": {"layers": layers, **model},
        "objective": {"tangent_strength": 0.1, **objective},
    }
    with pytest.raises(ConfigError) as raised:
        settings.from_tree(tree)
    assert raised.value.key == key
