"""Networks from experiment files: what layers stand for, and what is refused."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from peer import settings
from peer.errors import ConfigError
from peer.networks import MAX_DEPTH, network_of
from peer.optim.chains import Chain, Residual, mlp
from peer.optim.images import Convolution, Pooling
from peer.optim.layers import Activation, Dense, LayerNormalization

CONVOLUTION = {"kind": "convolution", "channels": 3, "size": 3, "padding": 1}
POOLING = {"kind": "max-pooling", "size": 2}
DENSE = {"kind": "dense"}


def chain(layers: list[Any], image: tuple[int, ...] = (), n_inputs: int = 4, q: int = 2) -> Chain:
    return network_of((7,), "relu", layers, image, n_inputs, q)


def test_without_layers_it_is_the_perceptron() -> None:
    assert chain([]) == mlp((4, 7, 2), "relu")
    described = [{"kind": "dense", "width": 7}, "relu", DENSE]
    assert chain(described) == mlp((4, 7, 2), "relu")


def test_images_go_through_convolutions_and_pooling() -> None:
    model = chain([CONVOLUTION, "tanh", POOLING, "flatten", DENSE], (1, 4, 6), 24)
    convolution = Convolution((1, 4, 6), 3, 3, 1, 1)
    expected = (convolution, Activation(72, "tanh"), Pooling((3, 4, 6), 2, largest=True), Dense(18, 2))
    assert model.layers == expected
    assert [name for name, _ in model.layout.shapes] == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ]
    assert model.layout.shapes[0][1] == (3, 1, 3, 3)
    assert model.widths == (24, 72, 2)


def test_the_quadratic_net_is_squares_of_products_with_directions() -> None:
    model = chain([{"kind": "quadratic", "width": 5}, DENSE])
    assert model.layers == (Dense(4, 5, bias=False, normal=True), Activation(5, "square"), Dense(5, 2))


def test_blocks_lead_back_to_where_they_began() -> None:
    block = {"kind": "residual", "layers": [{"kind": "dense", "width": 3}, "gelu", DENSE], "step": 0.5}
    model = chain(["layer-normalization", block, DENSE])
    inner = Chain((Dense(4, 3), Activation(3, "gelu"), Dense(3, 4)))
    assert model.layers == (LayerNormalization(4), Residual(inner, 0.5), Dense(4, 2))
    assert [name for name, _ in model.layout.shapes][2] == "layers.1.layers.0.weight"


def test_neurons_are_rows_and_channels_and_none_of_a_normalization() -> None:
    model = chain([CONVOLUTION, POOLING, "flatten", "layer-normalization", DENSE], (1, 2, 2), 4)
    assert model.neurons.tolist() == [0] * 9 + [1] * 9 + [2] * 9 + [0, 1, 2] + [-1] * 6 + [3] * 3 + [4] * 3 + [3, 4]


@pytest.mark.parametrize(
    ("layers", "image", "key", "problem"),
    [
        (["tan"], (), "model.layers[0]", "expected one of tanh, relu"),
        ([3], (), "model.layers[0]", "found None"),
        ([{"kind": "densely"}], (), "model.layers[0]", "found 'densely'"),
        ([{"kind": "dense", "with": 3}], (), "model.layers[0]", "unknown field with"),
        ([{"kind": "dense", "width": "3"}], (), "model.layers[0].width", "Expected int"),
        ([{"kind": "dense", "width": -1}], (), "model.layers[0].width", "expected an integer >= 0, found -1"),
        ([{"kind": "dense", "initial": "ones"}], (), "model.layers[0].initial", "glorot, normal"),
        ([{"kind": "quadratic", "width": 0}], (), "model.layers[0].width", "expected an integer >= 1, found 0"),
        ([{"kind": "quadratic"}], (), "model.layers[0]", "missing required field width"),
        ([DENSE, DENSE], (), "model.layers[0].width", "but for the last dense layer"),
        ([{"kind": "dense", "width": 3}], (), "model.layers", "expected layers to 2 outputs, found 3"),
        ([CONVOLUTION], (), "model.layers[0]", "expected an image to come in (see model.image), found 4"),
        ([DENSE], (1, 2, 2), "model.layers[0]", "put flatten before it"),
        ([{"kind": "dense", "width": 1 << 62}, DENSE], (), "model.layers", "expected at most 1099511627776 parameters"),
        (["flatten", DENSE], (1, 2, 3), "model.image", "expected 1 x 2 x 3 = 6, found 4 columns of x"),
        ([POOLING, POOLING], (1, 2, 2), "model.layers[1].size", "expected at most 1, found 2"),
        ([{**CONVOLUTION, "padding": 3}], (1, 2, 2), "model.layers[0].padding", "expected 0 to size - 1 = 2, found 3"),
        ([{**CONVOLUTION, "stride": 0}], (1, 2, 2), "model.layers[0].stride", "expected an integer >= 1, found 0"),
        (["tanh", POOLING], (1, 2, 2), "model.layers", "found an image of 1 x 1 x 1"),
        ([{"kind": "residual", "layers": []}], (), "model.layers[0]", "expected layers and a finite step, found 0"),
        ([{"kind": "residual", "layers": ["tan"]}], (), "model.layers[0].layers[0]", "found 'tan'"),
        (
            [{"kind": "residual", "layers": [{"kind": "dense", "width": 3}]}, DENSE],
            (),
            "model.layers[0]",
            "expected layers that lead back to 4, found 3",
        ),
        (["flatten"], (), "model.layers", "expected a layer beside flatten"),
        ([{"kind": "residual", "layers": ["flatten"]}, DENSE], (), "model.layers[0].layers", "beside flatten"),
        (["relu"] * (MAX_DEPTH + 1), (), "model.layers", f"expected at most {MAX_DEPTH} layers"),
    ],
)
def test_what_is_refused(layers: list[Any], image: tuple[int, ...], key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        chain(layers, image)
    assert raised.value.key == key
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"layers": ["tan"]}, "model.layers[0]"),
        ({"image": [8, 8], "layers": ["flatten", DENSE]}, "model.image"),
        ({"image": [0, 8, 8], "layers": ["flatten", DENSE]}, "model.image"),
        ({"image": [1, 8, 8]}, "model.image"),
    ],
)
def test_what_the_settings_refuse(model: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings.from_tree({"data": {"dataset": "digits"}, "model": model})
    assert raised.value.key == key


def test_layers_survive_the_record_of_a_run() -> None:
    block = {"kind": "residual", "layers": [{"kind": "dense", "width": 3}, "gelu", DENSE], "step": 0.5}
    model = {"layers": [CONVOLUTION, "tanh", "flatten", block, DENSE], "image": [1, 8, 8]}
    experiment = settings.from_tree({"data": {"dataset": "digits"}, "model": model})
    text = settings.to_toml(experiment)

    again = settings.from_tree(tomllib.loads(text))
    assert msgspec.structs.replace(again, software={}) == msgspec.structs.replace(experiment, software={})
