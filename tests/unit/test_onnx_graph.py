"""Chains of layers as ONNX graphs, against the standard's own reference implementation."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from peer import networks
from peer.errors import ConfigError
from peer.optim.chains import Chain, mlp
from peer.optim.layers import ACTIVATIONS
from peer.standardization import Scale, Standardization

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own, while it is imported
    from onnx import load_from_string
    from onnx.reference import ReferenceEvaluator

    from peer import onnx_graph

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Of the largest output."""

SINGLE = ("gelu",)
"""Chains with an error function, of which the reference has single precision only."""

IMAGE = (2, 6, 5)


def described(*layers: Any, image: tuple[int, ...] = (), d: int = 4, q: int = 3) -> Chain:
    return networks.network_of((), "tanh", layers, image, d if not image else int(np.prod(image)), q)


def convolution(channels: int, size: int, **more: Any) -> dict[str, Any]:
    return {"kind": "convolution", "channels": channels, "size": size, **more}


DENSE = {"kind": "dense"}


def block(activation: str) -> dict[str, Any]:
    """A residual block with normalization."""
    layers = ["layer-normalization", {"kind": "dense", "width": 5}, activation]
    return {"kind": "residual", "step": 0.5, "layers": layers}


CHAINS = {
    "affine": mlp((4, 3), "tanh"),
    **{name: mlp((4, 6, 5, 3), name) for name in ACTIVATIONS},
    "no bias": described({"kind": "dense", "width": 5, "bias": False}, "tanh", DENSE),
    "quadratic": described({"kind": "quadratic", "width": 5}, DENSE, q=1),
    "residual": described({"kind": "dense", "width": 5}, block("tanh"), block("sigmoid"), "layer-normalization", DENSE),
    "images": described(
        convolution(3, 3, padding=1),
        "relu",
        {"kind": "max-pooling", "size": 2},
        convolution(4, 2, bias=False),
        "softplus",
        "flatten",
        DENSE,
        image=IMAGE,
    ),
    "strides, and what is left over": described(
        convolution(3, 2, stride=2, padding=1), {"kind": "average-pooling", "size": 3}, "flatten", DENSE, image=IMAGE
    ),
    "a residual of images": described(
        {"kind": "residual", "layers": [convolution(2, 3, padding=1), "tanh", "layer-normalization"]},
        "layer-normalization",
        convolution(1, 2),
        "flatten",
        DENSE,
        image=IMAGE,
    ),
}


def of(chain: Chain, scales: Standardization, dtype: str = "float64", **more: Any) -> tuple[bytes, Any]:
    rng = np.random.default_rng(4)
    w = chain.initial(rng) + 0.1 * rng.standard_normal(chain.layout.size)
    settings: dict[str, Any] = {
        "output": "logits",
        "probabilities": False,
        "properties": {"loss": "cross_entropy"},
    } | more
    return onnx_graph.model(chain, w, scales, dtype=dtype, **settings), w


def evaluated(text: bytes, x: np.ndarray[Any, Any]) -> list[Any]:
    return list(ReferenceEvaluator(load_from_string(text)).run(None, {"x": x}))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_a_graph_computes_what_the_chain_does(name: str, dtype: str) -> None:
    chain, rng = CHAINS[name], np.random.default_rng(5)
    raw = 7.0 + 3.0 * rng.standard_normal((6, chain.n_inputs))
    scales = Standardization(Scale.of(raw), Scale.of(5.0 + rng.standard_normal((9, chain.n_outputs))))
    assert scales.x is not None
    assert scales.y is not None
    text, w = of(chain, scales, dtype)
    expected = scales.y.undone(chain.at(w, scales.x.applied(raw)).outputs)
    (found,) = evaluated(text, raw.astype(dtype))
    assert found.dtype == dtype
    tolerance = TOLERANCE["float32" if name in SINGLE else dtype]
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("q", [1, 3])
def test_probabilities_are_an_output_beside_what_they_are_made_of(q: int) -> None:
    chain = mlp((4, 5, q), "tanh")
    text, w = of(chain, Standardization(), probabilities=True)
    x = np.random.default_rng(6).standard_normal((7, 4))
    logits, found = evaluated(text, x)
    np.testing.assert_allclose(logits, chain.at(w, x).outputs, atol=1e-12)
    expected = 1.0 / (1.0 + np.exp(-logits)) if q == 1 else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_model_says_what_it_is_of_and_its_constants_have_the_names_of_the_parameters() -> None:
    chain = CHAINS["residual"]
    found = load_from_string(of(chain, Standardization(), output="y")[0])
    assert {prop.key: prop.value for prop in found.metadata_props} == {"loss": "cross_entropy"}
    assert [one.name for one in found.graph.output] == ["y"]
    assert {name for name, _ in chain.layout.shapes} <= {constant.name for constant in found.graph.initializer}


def test_numbers_beyond_single_precision_are_refused_there() -> None:
    chain = mlp((2, 1), "tanh")
    forms: dict[str, Any] = {"output": "y", "probabilities": False, "properties": {}}
    w = np.full(3, 1e300)
    assert onnx_graph.model(chain, w, Standardization(), dtype="float64", **forms)
    with pytest.raises(ConfigError, match="--dtype: expected float64"):
        onnx_graph.model(chain, w, Standardization(), dtype="float32", **forms)
