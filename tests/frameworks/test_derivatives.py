"""Laws of models that PyTorch and JAX differentiate; what is refused; and that all of them train as numpy's do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from peer.arrays import Vector
from peer.errors import ConfigError, SolveError
from peer.frameworks import foreign, functions
from peer.frameworks.foreign import Foreign
from peer.frameworks.torch_function import FUSED
from peer.optim import maps
from peer.optim.chains import mlp
from peer.optim.losses import Softmax
from peer.optim.models import Model
from peer.optim.regimes import Linear
from peer.optim.regularizers import L2
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from peer.trained import Network
from tests import laws
from tests.frameworks import networks
from tests.frameworks.networks import WIDTH
from tests.instances import exchange
from topology import Graph

FLAT, IMAGE, Q = (3,), (3, 4), 3

MODELS = {
    "torch_mlp": FLAT,
    "jax_mlp": FLAT,
    "convolutional": IMAGE,
    "recurrent": IMAGE,
    "attentive": IMAGE,
    "tied": FLAT,
    "turning": FLAT,
    "constant": FLAT,
}


def made(name: str, shape: tuple[int, ...] = FLAT, q: int = Q) -> Foreign:
    found = functions.fresh(f"tests.frameworks.networks:{name}", "", shape, q, 5, alone=True)
    assert isinstance(found, Foreign)
    return found


def inputs(shape: tuple[int, ...], m: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(m, *shape))


def point(model: Foreign) -> Vector:
    return model.start + 0.3 * np.random.default_rng(4).normal(size=model.start.size)


@pytest.mark.parametrize("memory", ["kept", "two samples at a time"])
@pytest.mark.parametrize(("name", "shape"), MODELS.items())
def test_derivatives_obey_the_laws(
    name: str, shape: tuple[int, ...], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = made(name, shape), inputs(shape)
    w, rng = point(model), np.random.default_rng(6)
    if memory != "kept":
        monkeypatch.setattr(foreign, "DENSE_BYTES", 0)
        monkeypatch.setattr(foreign, "CHUNK", 2 * Q * w.size)
    v, u = rng.normal(size=w.size), rng.normal(size=(len(x), Q))
    model.check(x)
    laws.adjoint(model, w, x, v, u)
    laws.jvp_is_derivative(model, w, x, v)
    laws.jacobian_is_jvp(model, w, x)
    laws.samples_do_not_mix(model, w, x)
    roots = rng.normal(size=(len(x), Q, Q))
    for place in (slice(0, w.size), slice(2, w.size - 3)):
        laws.factors_make_the_jacobian(model, w, x, place, rng.normal(size=place.stop - place.start), u, roots)


@pytest.mark.parametrize("name", ["torch_mlp", "jax_mlp"])
def test_shapes_fit(name: str) -> None:
    model = made(name)
    laws.shapes_fit(model, model.start, inputs(FLAT))


def test_parameters_have_the_names_of_their_library() -> None:
    shapes = {"weight": (WIDTH, 3), "bias": (WIDTH,)}
    assert made("torch_mlp").layout.shapes[:2] == tuple((f"1.{name}", shape) for name, shape in shapes.items())
    assert made("jax_mlp").layout.shapes[:2] == tuple((f"0.{name}", shapes[name]) for name in ("bias", "weight"))
    names = [name for name, _ in made("attentive", IMAGE).layout.shapes]
    assert "inside.self_attn.in_proj_weight" in names
    assert "frozen" not in names, "what requires no gradient is no parameter"
    assert "mask" not in names
    names = [name for name, _ in made("tied").layout.shapes]
    assert "first.weight" in names
    assert "second.weight" not in names, "it is the same"


def test_what_is_complex_stays_complex() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        written = networks.turning(FLAT, Q)
    model, x = made("turning"), inputs(FLAT)
    with torch.no_grad():
        expected = written(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(model.at(model.start, x).outputs, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [("attentive", IMAGE), ("jax_mlp", FLAT)])
def test_a_linearized_network_predicts_in_the_users_process_which_stays_as_it_is(
    name: str, shape: tuple[int, ...]
) -> None:
    expected, x = made(name, shape), inputs(shape)
    w, before = point(expected), [is_used() for is_used, _ in FUSED]
    try:
        for _, use in FUSED:
            use(True)
        with jax.enable_x64(False):
            found = functions.fresh(f"tests.frameworks.networks:{name}", "", shape, Q, 5)
            outputs = Network(Linear(found, expected.start, 1), w).predict(x)
            u = found.at(w, x).vjp(outputs)
            J = found.at(w, x).factors().columns(slice(0, w.size))
            assert all(is_used() for is_used, _ in FUSED)
            assert jnp.zeros(1).dtype == np.float32
    finally:
        for (_, use), was in zip(FUSED, before, strict=True):
            use(was)
    laws.close(outputs, Network(Linear(expected, expected.start, 1), w).predict(x), laws.ROUNDING)
    laws.close(u, expected.at(w, x).vjp(outputs), laws.ROUNDING)
    laws.close(J, expected.at(w, x).factors().columns(slice(0, w.size)), laws.ROUNDING)


def test_what_a_jax_function_has_drawn_is_the_same_in_the_users_process() -> None:
    trained, x = made("jax_features"), inputs(FLAT)
    with jax.enable_x64(False):
        found = functions.fresh("tests.frameworks.networks:jax_features", "", FLAT, Q, 5)
        assert isinstance(found, Foreign)
        apply, params = found.function.loaded(trained.start)
        outputs = np.asarray(apply(params, x))
        assert jnp.zeros(1).dtype == np.float32
    laws.close(outputs, trained.at(trained.start, x).outputs, laws.ROUNDING)


def test_a_module_that_imports_jax_draws_as_in_a_run_and_the_process_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "drawn.py").write_text(
        "import jax\nfeatures = jax.random.normal(jax.random.key(1), (3, 2))\n"
        "def network(): return (lambda params, x: x @ features * params), jax.numpy.ones(())\n"
    )
    script = (
        "import os, sys, numpy as np\nfrom peer.frameworks import functions\n"
        "model = functions.fresh('drawn:network', sys.argv[1], (3,), 2, 0)\nimport jax\n"
        "assert jax.numpy.ones(1).dtype == np.float32 and 'JAX_ENABLE_X64' not in os.environ\n"
        "apply, params = model.function.loaded(model.start)\nprint(np.asarray(apply(params, np.eye(3))).tolist())\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with jax.enable_x64(True):
        assert json.loads(done.stdout) == jax.random.normal(jax.random.key(1), (3, 2)).tolist()


def test_neurons_of_linear_and_convolutional_modules_are_known() -> None:
    neurons = made("convolutional", IMAGE).neurons
    model = made("convolutional", IMAGE)
    parts = {name: neurons[place].tolist() for name, _, place in model.layout.slices()}
    assert parts["1.weight"] == [0] * 4 + [1] * 4
    assert parts["1.bias"] == [0, 1]
    assert set(parts["4.weight"]) == {-1}
    assert parts["5.weight"] == np.repeat([2, 3, 4], 12).tolist()
    assert parts["5.bias"] == [2, 3, 4]
    assert (made("jax_mlp").neurons == -1).all()


def test_first_parameters_follow_from_the_seed_and_torch_goes_on_as_before() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    name = "tests.frameworks.networks:torch_mlp"
    one, same, other = (functions.fresh(name, "", FLAT, Q, seed, alone=True) for seed in (5, 5, 6))
    for model in (one, same, other):
        assert isinstance(model, Foreign)
    np.testing.assert_array_equal(one.initial(np.random.default_rng(0)), same.initial(np.random.default_rng(1)))
    assert (one.initial(np.random.default_rng(0)) != other.initial(np.random.default_rng(0))).any()
    assert torch.equal(torch.rand(1), expected)


REFUSED = {
    "batch_norm": "samples do not meet.*found BatchNorm1d at '1'",
    "dropout": "draws nothing at random.*found Dropout at '0', p = 0.25",
    "padded": "without padding_idx.*found Embedding at 'look_up', padding_idx = 0",
    "modes": "the same function in training and evaluation",
    "counts": "found the buffer 'count', which changes when it is called",
    "within": "found the parameter 'weight', which changes when it is called",
    "anew": "found the parameter 'weight', which changes when it is called",
    "masked": "found the parameter 'weight', which changes when it is called",
    "counted": "found the parameter 'steps', which changes when it is called",
    "mixes": "depend on that sample alone",
    "jax_mixing": "depend on that sample alone",
    "float32": "expected a float64 tensor of outputs, found torch.float32",
    "fails": r"networks\.py, line \d+: RuntimeError: too wide",
    "frozen": "parameters that require gradients, found none",
    "complex_numbers": "expected real parameters, found others in 'weight'",
    "lazy": "found 'weight' without one",
    "narrow": r"expected outputs of shape \(3, 3\) for 3 samples, found \(3, 4\)",
    "whole_numbers": "arrays of real numbers as parameters, found int.. at 'a'",
    "words": "arrays of real numbers as parameters, found str at 'a'",
    "twice": "found 'a.0' twice",
    "described": "expected another name for the parameters 'metadata': files have it for others",
    "standardized": "expected another name for the parameters 'standardization.x_mean': files have it for others",
    "anchored": "expected another name for the parameters 'anchor.x_mean': files have it for others",
    "branching": r"networks\.py, line \d+: TracerBoolConversionError: ",
}


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_what_is_no_function_of_parameters_and_a_sample_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        functions.check(made(name), inputs(FLAT))
    assert refusal.value.key == "model.python"
    assert "\n" not in str(refusal.value)


def test_what_fails_later_is_told_with_its_line() -> None:
    model = made("late")
    functions.check(model, inputs(FLAT))
    with pytest.raises(SolveError, match=r"networks:late: networks\.py, line \d+: RuntimeError: too many"):
        model.at(model.start, inputs(FLAT, 4))


# ---- the same trajectory -------------------------------------------------------------------

CHAIN = mlp((*FLAT, WIDTH, Q), "tanh")

SURROGATES: dict[str, Surrogate] = {
    "partial": Partial(0.5, 3.0),
    "local": Partial(1.0),
    "full": Full(2.0),
}


def twin(name: str, w: Vector) -> Vector:
    """The parameters of the chain as those of the same network of a library."""
    parts, shift = CHAIN.layout.unflatten(w), {"torch_mlp": (1, 3), "jax_mlp": (0, 1)}[name]
    layout = made(name).layout
    return layout.flatten(
        {f"{shift[int(key.split('.')[1])]}.{key.split('.')[2]}": value for key, value in parts.items()}
    )


def trajectory(model: Model, start: Vector, surrogate: Surrogate, n_rounds: int) -> list[list[Vector]]:
    rng = np.random.default_rng(8)
    problems = [
        Problem(
            Data(model, rng.normal(size=(m, *FLAT)), Softmax(rng.integers(0, Q, m)), 1.0 / 27.0),
            L2(np.full(start.size, 1e-2)),
            surrogate,
            1e-13,
        )
        for m in (9, 6, 12)
    ]
    graphs = [Graph.of(3, [(0, 1), (1, 2)]), Graph.of(3, [(0, 2)])]
    return [
        [state.w for state in states]
        for states, _ in exchange(problems, [start] * 3, 0.4, Constant(), graphs, n_rounds)
    ]


@pytest.mark.parametrize("way", ["factored", "by products", "by products, two samples at a time"])
@pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
@pytest.mark.parametrize("name", ["torch_mlp", "jax_mlp"])
def test_fifty_rounds_are_those_of_the_same_chain(
    name: str, surrogate: Surrogate, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "factored":
        monkeypatch.setattr(maps, "is_dense_cheaper", lambda here, quadratic: False)
    if way.endswith("a time"):
        monkeypatch.setattr(foreign, "DENSE_BYTES", 0)
        monkeypatch.setattr(foreign, "CHUNK", 2 * Q * CHAIN.layout.size)
    w = CHAIN.initial(np.random.default_rng(7))
    expected = trajectory(CHAIN, w, surrogate, 50)
    found = trajectory(made(name), twin(name, w), surrogate, 50)
    moved = max(float(np.abs(after - w).max()) for after in expected[-1])
    assert moved > 0.1, "the agents have learned something"
    for one, other in zip(expected, found, strict=True):
        for after, twins in zip(one, other, strict=True):
            np.testing.assert_allclose(twins, twin(name, after), rtol=0.0, atol=1e-8)
