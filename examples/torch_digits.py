"""The network of torch-digits.toml: an image of 8 x 8, one convolution, and a linear layer."""

import math

from torch import nn


def network(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """Module from samples of this shape, (m, *input_shape), to outputs, (m, n_outputs)."""
    side = math.isqrt(math.prod(input_shape))
    return nn.Sequential(
        nn.Flatten(),
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 4, kernel_size=3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * ((side - 2) // 2) ** 2, n_outputs),
    )
