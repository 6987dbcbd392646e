"""Networks as experiments describe them: `[model] layers`, or the short form of a multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from peer.errors import ConfigError
from peer.optim.chains import Chain, Residual, mlp
from peer.optim.images import Convolution, Image, Pooling
from peer.optim.layers import ACTIVATIONS, Activation, Dense, Layer, LayerNormalization


class DenseEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dense"):
    """A dense layer; the last one's width may be left out: it is what the chain has to lead to."""

    width: int = 0
    bias: bool = True
    initial: str = "glorot"


class QuadraticEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="quadratic"):
    """Squares of products with random directions, as of Ghorbani et al. 2019: dense without biases, then square."""

    width: int


class ConvolutionEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="convolution"):
    """A 2-D convolution."""

    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    bias: bool = True


class AveragePoolingEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="average-pooling"
):
    """Means of squares."""

    size: int


class MaxPoolingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="max-pooling"):
    """The largest of squares."""

    size: int


class ResidualEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="residual"):
    """What comes in, plus `step` times what these layers make of it."""

    layers: tuple[Any, ...]
    step: float = 1.0


Shape: TypeAlias = int | Image
"""Of a state: entries of a vector, or an image."""

Entry: TypeAlias = (
    DenseEntry | QuadraticEntry | ConvolutionEntry | AveragePoolingEntry | MaxPoolingEntry | ResidualEntry | str
)

WORDS: Final = (*ACTIVATIONS, "flatten", "layer-normalization")
"""Layers that have no settings."""

MAX_DEPTH: Final = 1_000
"""Layers of a chain, those of residual blocks included."""

MAX_PARAMETERS: Final = 1 << 40
"""Of a network: 8 TiB, which no host has; numpy refuses far more with errors of its own."""

INITIALS: Final = ("glorot", "normal")
"""How weights of dense layers begin."""


def entries(layers: Sequence[Any], key: str = "model.layers") -> tuple[Entry, ...]:
    """Layers of an experiment, each checked by itself.

    Parameters
    ----------
    layers : sequence
        Each a word of `WORDS`, or a table with its `kind`.
    key : str
        Where they stand.

    Raises
    ------
    ConfigError
        Names the layer and what is accepted.
    """
    if len(layers) > MAX_DEPTH:
        raise ConfigError(key, f"expected at most {MAX_DEPTH} layers, found {len(layers)}")
    return tuple(_entry(layer, f"{key}[{k}]") for k, layer in enumerate(layers))


def _entry(layer: Any, key: str) -> Entry:  # noqa: ANN401  (as TOML has it)
    tagged = {kind.__struct_config__.tag: kind for kind in Entry.__args__ if kind is not str}
    if isinstance(layer, str):
        if layer not in WORDS:
            raise ConfigError(key, f"expected one of {', '.join(WORDS)}, or a table with its kind; found {layer!r}")
        return layer
    kind = layer.get("kind") if isinstance(layer, Mapping) else None
    if not isinstance(kind, str) or kind not in tagged:
        raise ConfigError(key, f"expected kind = one of {', '.join(map(str, tagged))}; found {kind!r}")
    try:
        entry: Entry = msgspec.convert(layer, Entry)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise ConfigError(key + place.rstrip("`"), problem.replace("`", "")) from error
    for name in ("width", "channels", "size", "stride"):
        least = 0 if isinstance(entry, DenseEntry) else 1
        if getattr(entry, name, least) < least:
            raise ConfigError(f"{key}.{name}", f"expected an integer >= {least}, found {getattr(entry, name)}")
    if isinstance(entry, DenseEntry) and entry.initial not in INITIALS:
        raise ConfigError(f"{key}.initial", f"expected one of {', '.join(INITIALS)}; found {entry.initial!r}")
    if isinstance(entry, ConvolutionEntry) and not 0 <= entry.padding < entry.size:
        raise ConfigError(f"{key}.padding", f"expected 0 to size - 1 = {entry.size - 1}, found {entry.padding}")
    if isinstance(entry, ResidualEntry):
        if not entry.layers or not math.isfinite(entry.step):
            raise ConfigError(key, f"expected layers and a finite step, found {len(entry.layers)} and {entry.step}")
        entries(entry.layers, f"{key}.layers")
    return entry


def network_of(
    hidden: Sequence[int], activation: str, layers: Sequence[Any], image: Sequence[int], n_inputs: int, q: int
) -> Chain:
    """The chain of layers, from inputs of a shard to q outputs.

    Parameters
    ----------
    hidden, activation : sequence of int, str
        Of a multilayer perceptron, where there are no layers.
    layers : sequence
        As `entries` takes them.
    image : sequence of int
        (channels, height, width) of an input; empty: it is a vector.
    n_inputs, q : int
        Entries of an input and of an output.

    Raises
    ------
    ConfigError
        Layers do not fit one after the other, or not the inputs or outputs, or no memory.
    """
    if not layers:
        return _within_reach(mlp((n_inputs, *hidden, q), activation), "model.hidden")
    made, last = _layers(entries(layers), _incoming(image, n_inputs), q, "model.layers")
    if last != q:
        raise ConfigError("model.layers", f"expected layers to {q} outputs, found {_words(last)}")
    return _within_reach(Chain(tuple(made)), "model.layers")


def _within_reach(chain: Chain, key: str) -> Chain:
    if chain.layout.size > MAX_PARAMETERS:
        raise ConfigError(key, f"expected at most {MAX_PARAMETERS} parameters, found {chain.layout.size}")
    return chain


def n_parameters_of(
    hidden: Sequence[int], activation: str, layers: Sequence[Any], image: Sequence[int], n_inputs: int, q: int
) -> int:
    """Number of parameters with q outputs, as far as the layers leave these open; arguments as of `network_of`.

    Raises
    ------
    ConfigError
        Layers do not fit one after the other, or not the inputs.
    """
    if not layers:
        return mlp((n_inputs, *hidden, q), activation).layout.size
    made, _ = _layers(entries(layers), _incoming(image, n_inputs), q, "model.layers")
    return sum(layer.layout.size for layer in made)


def _incoming(image: Sequence[int], n_inputs: int) -> Shape:
    if image and math.prod(image) != n_inputs:
        found = f"{n_inputs} columns of x"
        raise ConfigError("model.image", f"expected {' x '.join(map(str, image))} = {math.prod(image)}, found {found}")
    if not image:
        return n_inputs
    channels, height, width = image
    return channels, height, width


def _words(shape: Shape) -> str:
    return f"{shape}" if isinstance(shape, int) else f"an image of {' x '.join(map(str, shape))}"


def _layers(described: Sequence[Entry], shape: Shape, q: int, key: str) -> tuple[list[Layer], Shape]:
    made: list[Layer] = []
    last = max((k for k, entry in enumerate(described) if isinstance(entry, DenseEntry)), default=None)
    for k, entry in enumerate(described):
        more, shape = _made(entry, shape, q if k == last else 0, f"{key}[{k}]")
        made += more
    if not made:
        raise ConfigError(key, "expected a layer beside flatten, which by itself changes nothing; found none")
    return made, shape


def _made(entry: Entry, shape: Shape, q: int, key: str) -> tuple[list[Layer], Shape]:
    """The layers that an entry stands for, and the shape behind them; q where a width may be left out."""
    size = shape if isinstance(shape, int) else math.prod(shape)
    match entry:
        case "flatten":
            return [], size
        case "layer-normalization":
            return [LayerNormalization(size)], shape
        case str():
            return [Activation(size, entry)], shape
        case DenseEntry() | QuadraticEntry() if not isinstance(shape, int):
            raise ConfigError(key, f"expected a vector to come in (put flatten before it), found {_words(shape)}")
        case DenseEntry(width=width, bias=bias, initial=initial):
            if not (width or q):
                raise ConfigError(f"{key}.width", "expected an integer >= 1 but for the last dense layer, found none")
            return [Dense(size, width or q, bias, initial == "normal")], width or q
        case QuadraticEntry(width=width):
            return [Dense(size, width, bias=False, normal=True), Activation(width, "square")], width
        case ResidualEntry(layers=layers, step=step):
            inner, after = _layers(entries(layers, f"{key}.layers"), shape, size, f"{key}.layers")
            if after != shape:
                raise ConfigError(key, f"expected layers that lead back to {_words(shape)}, found {_words(after)}")
            return [Residual(Chain(tuple(inner)), step)], shape
    if isinstance(shape, int):
        raise ConfigError(key, f"expected an image to come in (see model.image), found {_words(shape)}")
    _, height, width = shape
    reach = 2 * entry.padding if isinstance(entry, ConvolutionEntry) else 0
    if entry.size > min(height, width) + reach:
        raise ConfigError(f"{key}.size", f"expected at most {min(height, width) + reach}, found {entry.size}")
    if isinstance(entry, ConvolutionEntry):
        convolution = Convolution(shape, entry.channels, entry.size, entry.stride, entry.padding, entry.bias)
        return [convolution], convolution.result
    pooling = Pooling(shape, entry.size, largest=isinstance(entry, MaxPoolingEntry))
    return [pooling], pooling.result
