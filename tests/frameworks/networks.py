"""Networks as users write them: what the tests name in `[model] python`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import nn

WIDTH = 5


def torch_mlp(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """The perceptron d - WIDTH - q with tanh."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), WIDTH), nn.Tanh(), nn.Linear(WIDTH, n_outputs))


def jax_mlp(input_shape: tuple[int, ...], n_outputs: int, seed: int) -> tuple[Any, Any]:
    """The same."""
    widths = (math.prod(input_shape), WIDTH, n_outputs)
    keys = jax.random.split(jax.random.key(seed), 2)
    params = [
        {"weight": jax.random.normal(key, (n_out, n_in)) / math.sqrt(n_in), "bias": jnp.zeros(n_out)}
        for key, n_in, n_out in zip(keys, widths[:-1], widths[1:], strict=True)
    ]

    def apply(params: Any, x: Any) -> Any:
        hidden = jnp.tanh(x.reshape(len(x), -1) @ params[0]["weight"].T + params[0]["bias"])
        return hidden @ params[1]["weight"].T + params[1]["bias"]

    return apply, params


def jax_features(input_shape: tuple[int, ...], n_outputs: int, seed: int) -> tuple[Any, Any]:
    """Outputs of random features, which are drawn and kept, but are no parameters."""
    features = jax.random.normal(jax.random.key(seed), (math.prod(input_shape), WIDTH))
    return (lambda params, x: jnp.tanh(x.reshape(len(x), -1) @ features) @ params), jnp.ones((WIDTH, n_outputs))


class Recurrent(nn.Module):
    """A recurrent network over the rows of a sample: one that vmap refuses."""

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.inside = nn.LSTM(width, 3, batch_first=True)
        self.outside = nn.Linear(3, n_outputs)

    def forward(self, x: Any) -> Any:
        return self.outside(self.inside(x)[0][:, -1])


def recurrent(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return Recurrent(input_shape[-1], n_outputs)


class Attentive(nn.Module):
    """Attention over the rows of a sample, with a mask that is a buffer, and a part that is not trained."""

    def __init__(self, length: int, width: int, n_outputs: int) -> None:
        super().__init__()
        self.inside = nn.TransformerEncoderLayer(width, 2, 6, dropout=0.0, batch_first=True)
        self.outside = nn.Linear(width, n_outputs)
        self.frozen = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)
        self.register_buffer("mask", torch.triu(torch.full((length, length), float("-inf")), diagonal=1))

    def forward(self, x: Any) -> Any:
        return self.outside(self.inside(x * self.frozen, src_mask=self.mask).mean(dim=1))


def attentive(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    length, width = input_shape
    return Attentive(length, width, n_outputs)


def convolutional(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    height, width = input_shape
    return nn.Sequential(
        nn.Unflatten(1, (1, height)),
        nn.Conv2d(1, 2, 2),
        nn.GELU(),
        nn.Flatten(),
        nn.LayerNorm(2 * (height - 1) * (width - 1)),
        nn.Linear(2 * (height - 1) * (width - 1), n_outputs),
    )


class Tied(nn.Module):
    """Two layers with the same weights, and one that is never used."""

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.outside = nn.Linear(width, n_outputs)

    def forward(self, x: Any) -> Any:
        return self.outside(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


def tied(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return Tied(math.prod(input_shape), n_outputs)


class Turning(nn.Module):
    """Pairs of outputs turned by angles of their own: complex numbers in a buffer, as of rotary embeddings."""

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.inside = nn.Linear(width, 2 * n_outputs)
        self.register_buffer("turns", torch.polar(torch.ones(n_outputs), torch.arange(n_outputs) + 0.5))

    def forward(self, x: Any) -> Any:
        pairs = torch.view_as_complex(self.inside(x.flatten(1)).unflatten(1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns).sum(dim=-1)


def turning(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return Turning(math.prod(input_shape), n_outputs)


class Constant(nn.Module):
    """A layer beside what is not trained: a buffer of nan, and parameters that are no real numbers."""

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.inside = nn.Linear(width, n_outputs)
        self.register_buffer("missing", torch.tensor([1.0, math.nan]))
        self.order = nn.Parameter(torch.arange(n_outputs).flip(0), requires_grad=False)
        self.turn = nn.Parameter(torch.tensor(0.6 + 0.8j), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return (self.inside(x.flatten(1))[:, self.order] * self.turn).real


def constant(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return Constant(math.prod(input_shape), n_outputs)


# ---- what cannot be trained ----------------------------------------------------------------


def batch_norm(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(input_shape)), torch_mlp(input_shape, n_outputs))


def dropout(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.25), torch_mlp(input_shape, n_outputs))


class Writing(nn.Linear):
    """A layer that writes into its own parameters before it uses them, by the way it does."""

    def __init__(self, way: str, width: int, n_outputs: int) -> None:
        super().__init__(width, n_outputs)
        self.way, self.steps = way, nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Any) -> Any:
        if self.way == "within a ball":  # where the first parameters are: nothing changes yet
            with torch.no_grad():
                self.weight.div_(self.weight.norm(dim=1, keepdim=True).clamp(min=9.0) / 9.0)
        if self.way == "anew within a ball":
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 9.0)
        if self.way == "masked":
            self.weight.data *= torch.arange(x[0].numel()) % 2
        if self.way == "counted":
            self.steps += 1
        return super().forward(x.flatten(1))


def writing(way: str) -> Any:
    return lambda input_shape, n_outputs: Writing(way, math.prod(input_shape), n_outputs)


within, anew, masked, counted = map(writing, ("within a ball", "anew within a ball", "masked", "counted"))


class Odd(nn.Module):
    """Something that is wrong, by name."""

    def __init__(self, wrong: str, inside: nn.Module) -> None:
        super().__init__()
        self.wrong, self.inside = wrong, inside
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        if self.wrong == "modes":
            x = nn.functional.dropout(x, training=self.training)
        if self.wrong == "counts":
            self.count += 1
        if self.wrong == "mixes":
            x = x - x.mean(dim=0)
        if self.wrong == "float32":
            return self.inside(x).float()
        if self.wrong == "fails":
            raise RuntimeError("too wide")
        if self.wrong == "late" and len(x) > 3:
            raise RuntimeError("too many")
        return self.inside(x)


def odd(wrong: str) -> Any:
    return lambda input_shape, n_outputs: Odd(wrong, torch_mlp(input_shape, n_outputs))


modes, counts, mixes, float32, fails, late = map(odd, ("modes", "counts", "mixes", "float32", "fails", "late"))


def frozen(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return torch_mlp(input_shape, n_outputs).requires_grad_(False)


def complex_numbers(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.Linear(math.prod(input_shape), n_outputs, dtype=torch.complex64)


class Tokens(nn.Module):
    """Rounded inputs, but never 0, looked up, and a linear layer."""

    def __init__(self, look_up: nn.Module, out: nn.Module) -> None:
        super().__init__()
        self.look_up, self.out = look_up, out

    def forward(self, x: Any) -> Any:
        return self.out(self.look_up(1 + x.flatten(1).abs().long().clamp(max=4)).flatten(1))


def padded(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return Tokens(nn.Embedding(6, 2, padding_idx=0), nn.Linear(2 * math.prod(input_shape), n_outputs))


def lazy(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return nn.LazyLinear(n_outputs)


def narrow(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    return torch_mlp(input_shape, n_outputs + 1)


def whole_numbers(input_shape: tuple[int, ...], n_outputs: int) -> tuple[Any, Any]:
    return (lambda params, x: x), {"a": jnp.arange(3)}


def words(input_shape: tuple[int, ...], n_outputs: int) -> tuple[Any, Any]:
    return (lambda params, x: x), {"a": "tanh"}


def twice(input_shape: tuple[int, ...], n_outputs: int) -> tuple[Any, Any]:
    return (lambda params, x: x), {"a": [1.0], "a.0": 1.0}


def named(name: str) -> Any:
    return lambda input_shape, n_outputs: (lambda params, x: x, {name: {"x_mean": jnp.zeros(n_outputs)}})


standardized, anchored = named("standardization"), named("anchor")


def described(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    module = torch_mlp(input_shape, n_outputs)
    module.register_parameter("metadata", nn.Parameter(torch.zeros(())))
    return module


def branching(input_shape: tuple[int, ...], n_outputs: int) -> tuple[Any, Any]:
    def apply(params: Any, x: Any) -> Any:
        if x.sum() > 0.0:
            return x @ params
        return x @ params

    return apply, jnp.zeros((math.prod(input_shape), n_outputs))


def jax_mixing(input_shape: tuple[int, ...], n_outputs: int) -> tuple[Any, Any]:
    return (lambda params, x: (x - x.mean(0)).reshape(len(x), -1) @ params), jnp.ones(
        (math.prod(input_shape), n_outputs)
    )
