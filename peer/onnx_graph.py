"""A chain of layers as an ONNX graph, from samples as they were before standardization to what is asked of the network.

Operators of the standard's version 17 (https://onnx.ai/onnx/operators), which runtimes of today all have. Normalization
and gelu are written out: the operators of that name compute in single precision, or came later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias, final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from peer.arrays import Vector
from peer.errors import ConfigError
from peer.optim.chains import Chain, Residual
from peer.optim.images import Convolution, Image, Pooling
from peer.optim.layers import Activation, Dense, Layer, LayerNormalization
from peer.standardization import Standardization

OPSET: Final = 17
"""Of ONNX: the version of its operators."""

MOST_BYTES: Final = 2**31 - 1
"""Of a protocol buffer."""

KINDS: Final[Mapping[str, int]] = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
"""Of numbers, by numpy's names."""

Attribute: TypeAlias = int | list[int]
"""Of a node."""

Shape: TypeAlias = Image | None
"""Of a state of the graph, beside its samples: an image, or None, a vector."""


@final
@dataclass(eq=False)
class Graph:
    """A graph that grows node by node.

    Parameters
    ----------
    dtype : str
        "float32" or "float64", of all its numbers.
    """

    dtype: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Attribute) -> str:
        """One more node; the name of what it gives."""
        name = output or f"{operator.lower()}_{next(self.numbers)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], None, None, None, None, **attributes))
        return name

    def constant(self, name: str, value: NDArray[np.float64] | float) -> str:
        """One more constant, of this or a similar name, which is returned."""
        if any(constant.name == name for constant in self.constants):
            name = f"{name}_{next(self.numbers)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=self.dtype), name))
        return name

    def shaped(self, state: str, shape: Shape, wanted: Shape) -> str:
        """A state of one shape in another one."""
        if shape == wanted:
            return state
        if wanted is None:
            return self.node("Flatten", state, axis=1)
        sizes = np.array([-1, *wanted], dtype=np.int64)
        self.constants.append(numpy_helper.from_array(sizes, name := f"shape_{next(self.numbers)}"))
        return self.node("Reshape", state, name)

    # ---- layers ----------------------------------------------------------------------------

    def chain(self, chain: Chain, w: Vector, prefix: str, state: str, shape: Shape) -> tuple[str, Shape]:
        """A chain with the parameters w, whose names begin with `prefix`, of a state; what it gives, and its shape.

        Raises
        ------
        ConfigError
            A layer has no form in a graph.
        """
        learning = [layer for layer in chain.layers if layer.layout.shapes]
        for layer, place in zip(chain.layers, chain.places, strict=True):
            k = next((k for k, other in enumerate(learning) if other is layer), 0)
            state, shape = self.layer(layer, w[place], f"{prefix}layers.{k}.", state, shape)
        return state, shape

    def layer(self, layer: Layer, theta: Vector, prefix: str, state: str, shape: Shape) -> tuple[str, Shape]:
        """A layer with its parameters, as `chain`.

        Raises
        ------
        ConfigError
            It has no form in a graph.
        """
        parts = {name: self.constant(prefix + name, part) for name, part in self._parts(layer, theta).items()}
        match layer:
            case Dense():
                flat = self.shaped(state, shape, None)
                return self.node("Gemm", flat, *parts.values(), transB=1), None
            case Activation(name=name):
                return self.activation(name, state), shape
            case LayerNormalization(eps=eps):
                return self.normalization(parts, eps, self.shaped(state, shape, None)), None
            case Convolution(image=image, size=size, stride=stride, padding=padding):
                sees = self.shaped(state, shape, image)
                form: dict[str, Attribute] = {
                    "kernel_shape": [size, size],
                    "strides": [stride, stride],
                    "pads": [padding] * 4,
                }
                return self.node("Conv", sees, *parts.values(), output="", **form), layer.result
            case Pooling(image=image, size=size, largest=largest):
                sees = self.shaped(state, shape, image)
                form = {"kernel_shape": [size, size], "strides": [size, size]}
                return self.node("MaxPool" if largest else "AveragePool", sees, output="", **form), layer.result
            case Residual(chain=chain, step=step):
                inner, after = self.chain(chain, theta, prefix, state, shape)
                change = self.node("Mul", self.shaped(inner, after, shape), self.constant("step", step))
                return self.node("Add", state, change), shape
        raise ConfigError("--format", f"expected npz or safetensors with a layer {type(layer).__name__}; found onnx")

    @staticmethod
    def _parts(layer: Layer, theta: Vector) -> dict[str, NDArray[np.float64]]:
        return {} if isinstance(layer, Residual) else layer.layout.unflatten(theta)

    def activation(self, name: str, a: str) -> str:
        """An elementwise activation."""
        operators = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus"}
        if name == "square":
            return self.node("Mul", a, a)
        if name != "gelu":
            return self.node(operators[name], a)
        error = self.node("Erf", self.node("Mul", a, self.constant("rooted_half", math.sqrt(0.5))))
        twice = self.node("Add", error, self.constant("one", 1.0))
        return self.node("Mul", self.node("Mul", a, self.constant("half", 0.5)), twice)

    def normalization(self, parts: Mapping[str, str], eps: float, a: str) -> str:
        """Normalization over the entries of a sample, in the precision of the graph."""
        centered = self.node("Sub", a, self.node("ReduceMean", a, axes=[1], keepdims=1))
        variance = self.node("ReduceMean", self.node("Mul", centered, centered), axes=[1], keepdims=1)
        deviation = self.node("Sqrt", self.node("Add", variance, self.constant("eps", eps)))
        x = self.node("Div", centered, deviation)
        return self.node("Add", self.node("Mul", x, parts["weight"]), parts["bias"])


def model(
    chain: Chain,
    w: Vector,
    scales: Standardization,
    *,
    dtype: str,
    output: str,
    probabilities: bool,
    properties: Mapping[str, str],
) -> bytes:
    """A chain with its parameters as an ONNX model: from `x`, (m, d), to an output, (m, q).

    Parameters
    ----------
    chain : Chain
    w : Vector
        (p,).
    scales : Standardization
        What the first nodes do to x, and the last ones undo.
    dtype : str
        "float32" or "float64".
    output : str
        Name of the output.
    probabilities : bool
        Whether there is an output `probabilities` too: its softmax, or, of one number, (m, 1), its sigmoid.
    properties : mapping
        Facts about the model, as text.

    Raises
    ------
    ConfigError
        The format has no place for so many parameters, or single precision none for one of them.
    """
    if w.size * np.dtype(dtype).itemsize > MOST_BYTES - 2**20:
        raise ConfigError("--format", f"expected npz or safetensors with {w.size} parameters; onnx holds 2 GB")
    with np.errstate(over="ignore"):
        if not np.isfinite(w.astype(dtype)).all():
            raise ConfigError("--dtype", f"expected float64: a number lies beyond those of {dtype}")
    graph, state = Graph(dtype), "x"
    if scales.x is not None:
        moved = graph.node("Sub", state, graph.constant("standardization.x_mean", scales.x.mean))
        state = graph.node("Div", moved, graph.constant("standardization.x_deviation", scales.x.deviation))
    state, shape = graph.chain(chain, w, "", state, None)
    state = graph.shaped(state, shape, None)
    if scales.y is not None:
        wide = graph.node("Mul", state, graph.constant("standardization.y_deviation", scales.y.deviation))
        state = graph.node("Add", wide, graph.constant("standardization.y_mean", scales.y.mean))
    graph.node("Identity", state, output=output)
    kind, names = KINDS[dtype], [output]
    if probabilities:
        operator, form = ("Sigmoid", {}) if chain.n_outputs == 1 else ("Softmax", {"axis": 1})
        names.append(graph.node(operator, output, output="probabilities", **form))
    made = helper.make_graph(
        graph.nodes,
        "next-peer",
        [helper.make_tensor_value_info("x", kind, ["m", chain.n_inputs])],
        [helper.make_tensor_value_info(name, kind, ["m", chain.n_outputs]) for name in names],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    whole = helper.make_model(
        made, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]), producer_name="next-peer"
    )
    helper.set_model_props(whole, dict(properties))
    onnx.checker.check_model(whole, full_check=True)
    text: bytes = whole.SerializeToString()
    return text
