"""Inner products of parameters: other coordinates, in which the method is the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import learning, settings
from peer.errors import ConfigError
from peer.networks import network_of
from peer.optim import regimes
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.metrics import Measured
from peer.optim.regularizers import NoRegularizer
from peer.optim.solvers import solve
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Partial
from tests import laws
from tests.instances import exchange
from topology.graphs import Graph

LAYERS: list[Any] = [
    {"kind": "convolution", "channels": 2, "size": 2},
    "tanh",
    "flatten",
    "layer-normalization",
    {"kind": "residual", "layers": [{"kind": "dense"}]},
    {"kind": "dense", "bias": False},
]


def test_layers_count_what_comes_into_a_neuron() -> None:
    chain = network_of((), "tanh", LAYERS, (1, 2, 3), 6, 3)
    # 2 x 2 kernels to 2 channels; 4 entries after them; a layer of 4 neurons; 3 outputs without biases
    expected = [*[4.0] * 8, *[1.0] * 2, *[1.0] * 8, *[4.0] * 16, *[1.0] * 4, *[4.0] * 12]
    np.testing.assert_array_equal(chain.inner_product, expected)


def test_derivatives_are_those_of_the_network() -> None:
    rng = np.random.default_rng(0)
    chain = network_of((), "tanh", LAYERS, (1, 3, 3), 9, 2)
    model, x = Measured(chain), rng.standard_normal((3, 9))
    w = model.initial(rng)
    v, u, roots = rng.standard_normal(w.size), rng.standard_normal((3, 2)), rng.standard_normal((3, 2, 2))
    laws.shapes_fit(model, w, x)
    laws.adjoint(model, w, x, v, u)
    laws.jacobian_is_jvp(model, w, x)
    laws.jvp_is_derivative(model, w, x, v)
    place = slice(3, w.size - 5)
    laws.factors_make_the_jacobian(model, w, x, place, v[place], u, roots)
    np.testing.assert_array_equal(model.at(w, x).outputs, chain.at(w / model.roots, x).outputs)


def test_parameters_are_told_in_the_coordinates_of_the_network() -> None:
    chain = mlp((3, 2), "tanh")
    model, w = Measured(chain), np.arange(8.0)
    np.testing.assert_allclose(regimes.own(model, w)[:6], np.sqrt(3.0) * w[:6], rtol=1e-15)
    parts = regimes.everything(model, regimes.own(model, w))
    np.testing.assert_allclose(chain.layout.flatten(parts), w, rtol=1e-15)
    np.testing.assert_array_equal(regimes.flattened(model, parts), regimes.own(model, chain.layout.flatten(parts)))


@pytest.mark.parametrize("surrogate", [Partial(0.7, 3.0), Full(0.7)], ids=["partial", "full"])
def test_the_proximal_term_is_in_the_inner_product(surrogate: Partial | Full) -> None:
    """w~ is the minimizer of the surrogate with (tau/2)||w - w_i||_M^2, written out in the network's coordinates."""
    rng = np.random.default_rng(1)
    chain = mlp((4, 3, 2), "tanh")
    x, y, M = rng.standard_normal((6, 4)), rng.standard_normal((6, 2)), chain.inner_product
    w, pi = chain.initial(rng), rng.standard_normal(chain.layout.size)
    plain, measured = (Data(model, x, Squared(y), 0.1) for model in (chain, Measured(chain)))
    roots = np.sqrt(M)
    h = surrogate.around(roots * w, measured.gradient(roots * w), pi / roots, measured)
    found = solve(h, NoRegularizer(), 1e-13).w / roots
    here = chain.at(w, x)
    J = here.factors().columns(slice(0, w.size)).reshape(12, -1)
    slope = 0.1 * here.vjp(here.outputs - y)
    if isinstance(surrogate, Full):
        expected = w - (slope + pi) / (0.7 * M)
    else:
        expected = w - np.linalg.solve(0.3 * J.T @ J + 0.7 * np.diag(M), 3.0 * slope + pi)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-11)
    np.testing.assert_allclose(plain.gradient(w), roots * measured.gradient(roots * w), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("name", ["l2", "l1", "elastic_net"])
def test_penalties_and_bounds_are_those_of_the_network(name: str) -> None:
    objective = {"regularizer": name, "strength": 0.3, "lower": -0.4, "upper": 0.6, "regularize_biases": False}
    tree: dict[str, Any] = {"data": {"dataset": "digits"}, "objective": objective}
    chain, w = mlp((3, 4, 2), "tanh"), np.linspace(-1.0, 1.0, 26)
    plain = learning.regularizer_of(settings.from_tree(tree), chain)
    tree["model"] = {"inner_product": "fan-in"}
    model = Measured(chain)
    measured = learning.regularizer_of(settings.from_tree(tree), model)
    assert measured.value(regimes.own(model, w)) == pytest.approx(plain.value(w), rel=1e-14)
    nearest = measured.nearest(regimes.own(model, w)) / model.roots
    np.testing.assert_allclose(nearest, plain.nearest(w), rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("regime", {"kind": "neural-tangent"}),
        ("objective", {"regularizer": "group_l2"}),
        ("surrogate", {"kind": "full", "gradient": "feedback-alignment"}),
        ("model", {"python": "nets:network"}),
        ("objective", {"tangent_strength": 0.1}),
    ],
)
def test_what_does_not_go_together(table: str, value: dict[str, Any]) -> None:
    layers = ["flatten", {"kind": "dense"}]
    tree: dict[str, Any] = {"data": {"dataset": "digits"}, "model": {"inner_product": "fan-in"}}
    if "tangent_strength" in value:
        tree["model"] |= {"image": [1, 8, 8], "layers": layers}
    tree[table] = tree.get(table, {}) | value
    with pytest.raises(ConfigError) as raised:
        settings.from_tree(tree)
    assert raised.value.key == "model.inner_product"


def test_a_run_ends_at_the_same_optimum(tmp_path: Path) -> None:
    """A convex problem, by coordinate-free measures of length or not: in memory, from the experiment file's words."""
    rng = np.random.default_rng(2)
    parts = [(rng.standard_normal((m, 3)), rng.standard_normal((m, 2))) for m in (9, 7, 8)]
    ends = []
    for inner_product in ("euclidean", "fan-in"):
        tree: dict[str, Any] = {
            "peers": 3,
            "data": {"path": str(tmp_path / "{id}.npz")},
            "model": {"hidden": [], "inner_product": inner_product},
            "surrogate": {"tau": 0.1, "tolerance": 1e-13},
        }
        experiment = settings.from_tree(tree)
        model = learning.trained_of(experiment, mlp((3, 2), "tanh"), learning.Initial("", {}))
        problems = []
        for x, y in parts:
            np.savez(tmp_path / "0.npz", x=x, y=y)
            shard = learning.shard_of(experiment, 0)
            problems.append(learning.problem_of(experiment, model, shard, 24))
        problems = [replace(problem, surrogate=Partial(0.1, 3.0)) for problem in problems]
        start = model.initial(np.random.default_rng(3))
        triangle = [Graph.of(3, [(0, 1), (1, 2), (0, 2)])]
        *_, (states, _) = exchange(problems, [start] * 3, 0.5, Constant(), triangle, 80)
        ends.append(
            np.stack([regimes.network_of(model).layout.flatten(regimes.everything(model, state.w)) for state in states])
        )
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.0, atol=1e-9)
