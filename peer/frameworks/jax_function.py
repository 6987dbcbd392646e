"""A JAX function with its parameters as a function f(w; x): outputs and derivatives by JAX, in float64, compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np

try:
    from jax import enable_x64
except ImportError:  # where it is older
    from jax.experimental import enable_x64

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Tensor

Apply: TypeAlias = Callable[[Any, Any], Any]
"""(params, x) -> outputs."""

WHOLE: str = "parameters"
"""Name of the parameters where they are a single array."""


def alone() -> None:
    """Numbers of 64 bits."""
    jax.config.update("jax_enable_x64", True)


def wide() -> AbstractContextManager[None]:
    """Within, numbers have 64 bits."""
    return enable_x64(True)  # type: ignore[no-any-return,unused-ignore]


def refusal_of(params: Any) -> str:  # noqa: ANN401  (a pytree)
    """Why these cannot be parameters; empty: they can."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if not leaves:
        return "expected parameters, found none"
    for path, leaf in leaves:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, float):
            return f"expected arrays of real numbers as parameters, found {type(leaf).__name__} at {_name(path)!r}"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            found = f"{jnp.result_type(leaf)} at {_name(path)!r}"
            return f"expected arrays of real numbers as parameters, found {found}"
    names = [_name(path) for path, _ in leaves]
    twice = next((name for name in names if names.count(name) > 1), None)
    return f"expected a name of its own for each array, found {twice!r} twice" if twice is not None else ""


@final
@dataclass(frozen=True, eq=False)
class JaxFunction:
    """f(w; x) of an apply function.

    Parameters
    ----------
    apply : callable
        (params, x) -> outputs, (m, q).
    layout : Layout
        Names and shapes of the arrays, the names by their paths.
    fill : callable
        w, (p,), -> params.
    outputs, jvp, vjp, jacobian : callable
        f, J v, J'u and J, compiled.
    first : Vector
        The parameters that came with it, (p,).
    """

    apply: Apply
    layout: Layout
    fill: Callable[[Any], Any]
    outputs: Callable[..., Any]
    jvp: Callable[..., Any]
    vjp: Callable[..., Any]
    jacobian: Callable[..., Any]
    first: Vector

    @classmethod
    def of(cls, apply: Apply, params: Any) -> JaxFunction:  # noqa: ANN401  (a pytree)
        """The function of (params, x) -> outputs, and its derivatives, to be compiled when they are first called."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(params)
        layout = Layout(tuple((_name(path), tuple(np.shape(leaf))) for path, leaf in leaves))
        first = np.concatenate([np.asarray(leaf, dtype=np.float64).reshape(-1) for _, leaf in leaves])

        def fill(w: Any) -> Any:  # noqa: ANN401  (an array, a pytree)
            return jax.tree_util.tree_unflatten(tree, [w[place].reshape(shape) for _, shape, place in layout.slices()])

        def f(w: Any, x: Any) -> Any:  # noqa: ANN401  (arrays)
            outputs = apply(fill(w), x)
            if not isinstance(outputs, jax.Array) or outputs.dtype != jnp.float64:
                raise TypeError(
                    f"expected a float64 array of outputs, found {getattr(outputs, 'dtype', type(outputs))}"
                )
            return outputs

        def jacobian(w: Any, x: Any) -> Any:  # noqa: ANN401  (arrays)
            return jax.vmap(lambda sample: jax.jacrev(lambda w: f(w, sample[None])[0])(w))(x)

        return cls(
            apply,
            layout,
            fill,
            jax.jit(f),
            jax.jit(lambda w, x, v: jax.jvp(lambda w: f(w, x), (w,), (v,))[1]),
            jax.jit(lambda w, x, u: jax.vjp(lambda w: f(w, x), w)[1](u)[0]),
            jax.jit(jacobian),
            first,
        )

    def at(self, w: Vector, x: Tensor) -> JaxLocal:
        """The function at w, (p,), with inputs (m, ...)."""
        with wide():
            place, inputs = jnp.array(w), jnp.asarray(x)
            return JaxLocal(self, place, inputs, np.array(self.outputs(place, inputs)))

    def refusal(self, w: Vector, x: Tensor) -> str:
        """Nothing: a pure function has no memory and no modes, and JAX finds out most that are none."""
        return ""

    def loaded(self, w: Vector) -> tuple[Apply, Any]:
        """The function, and these parameters, (p,), as numpy arrays in the form in which its own came.

        What else the function has in it is of 64 bits, and so is what it computes, wherever it is called.
        """

        @wraps(self.apply)
        def apply(params: Any, x: Any) -> Any:  # noqa: ANN401  (a pytree, arrays)
            with wide():
                return self.apply(params, x)

        return apply, self.fill(w)


@final
@dataclass(frozen=True, eq=False)
class JaxLocal:
    """`JaxFunction` at a point, with numbers of 64 bits wherever it is used.

    Parameters
    ----------
    function : JaxFunction
    w, inputs : jax.Array
        Parameters, (p,), and samples, (m, ...).
    outputs : Matrix
        f(w; x), (m, q).
    """

    function: JaxFunction
    w: Any
    inputs: Any
    outputs: Matrix

    def jvp(self, v: Vector) -> Matrix:
        """J v, (m, q), of v, (p,)."""
        with wide():
            return np.array(self.function.jvp(self.w, self.inputs, v))

    def vjp(self, u: Matrix) -> Vector:
        """J'u, (p,), of u, (m, q)."""
        with wide():
            return np.array(self.function.vjp(self.w, self.inputs, u))

    def jacobian(self, rows: slice) -> Tensor:
        """J of these samples, (rows, q, p)."""
        with wide():
            return np.asarray(self.function.jacobian(self.w, self.inputs[rows]))


def _name(path: tuple[Any, ...]) -> str:
    """Name of an array by its path: keys, indices and attributes, with points between them."""
    words = (jax.tree_util.keystr((key,)).strip("[].'\"") for key in path)
    return ".".join(words) or WHOLE
