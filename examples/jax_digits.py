"""The network of jax-digits.toml: a perceptron with residual connections."""

from typing import Any

import jax
import jax.numpy as jnp

WIDTH, DEPTH = 12, 2


def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Outputs, (m, q), of samples, (m, d)."""
    state = jnp.tanh(x @ params["inside"]["weight"] + params["inside"]["bias"])
    for block in params["blocks"]:
        state = state + jnp.tanh(state @ block["weight"] + block["bias"])
    return state @ params["outside"]["weight"] + params["outside"]["bias"]


def network(input_shape: tuple[int, ...], n_outputs: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """The function above, and parameters that follow from the seed."""
    (d,) = input_shape

    def dense(key: jax.Array, n_in: int, n_out: int) -> dict[str, Any]:
        return {"weight": jax.random.normal(key, (n_in, n_out)) / jnp.sqrt(n_in), "bias": jnp.zeros(n_out)}

    first, last, *keys = jax.random.split(jax.random.key(seed), DEPTH + 2)
    params = {
        "inside": dense(first, d, WIDTH),
        "blocks": [dense(key, WIDTH, WIDTH) for key in keys],
        "outside": dense(last, WIDTH, n_outputs),
    }
    return apply, params
