"""Chains of dense layers and activations at many points at once, each agent at its own w with its own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix
from peer.optim.chains import Chain
from peer.optim.layers import ACTIVATIONS, Activation, Dense

Stack: TypeAlias = NDArray[np.float64]
"""A matrix for each agent, three axes of float64."""


def unknown(chain: Chain) -> str:
    """The first layer of a chain that has no stacked form; empty where all have one."""
    return next((type(layer).__name__ for layer in chain.layers if not isinstance(layer, Dense | Activation)), "")


@final
@dataclass(frozen=True, eq=False)
class StackedPass:
    """A chain at k points: see `at`.

    Parameters
    ----------
    chain : Chain
        Dense layers and activations.
    w : Matrix
        Parameters, (k, p).
    states : tuple of Stack
        What comes into each layer, and the outputs, (k, m, width).
    """

    chain: Chain
    w: Matrix
    states: tuple[Stack, ...]

    @property
    def outputs(self) -> Stack:
        """f(w_i; x_i), (k, m, q)."""
        return self.states[-1]

    def jvp(self, v: Matrix) -> Stack:
        """Directional derivatives J_i v_i, (k, m, q), along v, (k, p)."""
        tangent: Stack | None = None
        for number, (layer, place) in enumerate(zip(self.chain.layers, self.chain.places, strict=True)):
            a = self.states[number]
            if isinstance(layer, Dense):
                W, _ = _split(layer, self.w[:, place])
                dW, db = _split(layer, v[:, place])
                pushed = a @ dW.transpose(0, 2, 1)
                pushed += db
                tangent = pushed if tangent is None else pushed + tangent @ W.transpose(0, 2, 1)
            elif tangent is not None:
                tangent = self._slope(number) * tangent
        return np.zeros(self.outputs.shape) if tangent is None else tangent

    def vjp(self, u: Stack) -> Matrix:
        """Adjoints J_i'u_i, (k, p), of u, (k, m, q)."""
        result = np.empty_like(self.w)
        for number in range(len(self.chain.layers) - 1, self.chain.first - 1, -1):
            layer, place = self.chain.layers[number], self.chain.places[number]
            if isinstance(layer, Dense):
                W, _ = _split(layer, self.w[:, place])
                dW, db = _split(layer, result[:, place])
                dW[...] = u.transpose(0, 2, 1) @ self.states[number]
                if layer.bias:
                    np.sum(u, axis=1, keepdims=True, out=db)
                u = u @ W if number > self.chain.first else u
            else:
                u = self._slope(number) * u
        return result

    def jacobian(self) -> Stack:
        """J_i, (k, m q, p)."""
        k, m, q = self.outputs.shape
        J = np.empty((k, m, q, self.w.shape[1]))
        cotangents = np.broadcast_to(np.eye(q), (k, m, q, q))
        for number in range(len(self.chain.layers) - 1, self.chain.first - 1, -1):
            layer, place = self.chain.layers[number], self.chain.places[number]
            if isinstance(layer, Dense):
                n_weights = layer.n_inputs * layer.n_outputs
                own = J[..., place]
                products = cotangents[..., None] * self.states[number][:, :, None, None, :]
                own[..., :n_weights] = products.reshape(k, m, q, n_weights)
                if layer.bias:
                    own[..., n_weights:] = cotangents
                if number > self.chain.first:
                    W, _ = _split(layer, self.w[:, place])
                    flat = np.ascontiguousarray(cotangents).reshape(k, m * q, layer.n_outputs)
                    cotangents = (flat @ W).reshape(k, m, q, layer.n_inputs)
            else:
                cotangents = cotangents * self._slope(number)[:, :, None, :]
        return J.reshape(k, m * q, -1)

    def _slope(self, number: int) -> Stack:
        layer = self.chain.layers[number]
        assert isinstance(layer, Activation), "all others are dense"
        return ACTIVATIONS[layer.name].slope(self.states[number], self.states[number + 1])


def at(chain: Chain, w: Matrix, x: Stack) -> StackedPass:
    """One pass forwards.

    Parameters
    ----------
    chain : Chain
        Dense layers and activations, see `unknown`.
    w : Matrix
        Parameters of k agents, (k, p).
    x : Stack
        Their inputs, (k, m, d).
    """
    states = [x]
    for layer, place in zip(chain.layers, chain.places, strict=True):
        if isinstance(layer, Dense):
            W, b = _split(layer, w[:, place])
            a = states[-1] @ W.transpose(0, 2, 1)
            a += b
            states.append(a)
        else:
            assert isinstance(layer, Activation), "all others are dense"
            states.append(ACTIVATIONS[layer.name].value(states[-1]))
    return StackedPass(chain, w, tuple(states))


def _split(layer: Dense, theta: Matrix) -> tuple[Stack, Stack]:
    """Weights (k, out, in) and biases (k, 1, out), 0 where there are none; views but for these."""
    k, n_weights = len(theta), layer.n_inputs * layer.n_outputs
    biases = theta[:, None, n_weights:] if layer.bias else np.zeros((1, 1, 1))
    return theta[:, :n_weights].reshape(k, layer.n_outputs, layer.n_inputs), biases
