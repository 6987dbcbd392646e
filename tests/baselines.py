"""The methods that NEXT is compared with, in stacked matrices and as they were published. Imports nothing of ours.

Row i is agent i; s is the step size, C the mixing matrix of a round. Gradients are those of f_i = I g_i + r; where r
has kinks, those of I g_i, with proximal maps. With batches of `setting.batch` samples step k takes batch k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tests.reference import Array, Setting, batch_of, gradients, mixing, prox, say


def descent(setting: Setting, w0: Array, n_rounds: int, steps: int = 1, momentum: float = 0.0) -> list[Array]:
    """D-GD, and D-PSGD with several steps a round (A. Koloskova et al. 2020, algorithm 1), with a heavy ball."""
    W, U, s = stacked(setting, w0), np.zeros(1), setting.alpha
    history = [W]
    for n in range(n_rounds):
        for k in range(steps):
            U = momentum * U + slopes(setting, n * steps + k, W)
            W = proximal(setting, W - s * U, s)
        W, s = mixed(setting, n, W), s * (1.0 - setting.mu * s)
        history.append(W)
    return history


def tracking(setting: Setting, w0: Array, n_rounds: int) -> list[Array]:
    """DIGing (A. Nedic, A. Olshevsky, W. Shi 2017), steps before the exchange; Y of g alone, I times as large."""
    W, s = stacked(setting, w0), setting.alpha
    Y = slopes(setting, 0, W, False)
    history = [W]
    for n in range(n_rounds):
        W_last, penalty = W, slopes(setting, n, W) - slopes(setting, n, W, False)
        W = mixed(setting, n, proximal(setting, W - s * (Y + penalty), s))
        Y = mixed(setting, n, Y) + slopes(setting, n + 1, W, False) - slopes(setting, n, W_last, False)
        s *= 1.0 - setting.mu * s
        history.append(W)
    return history


def extra(setting: Setting, w0: Array, n_rounds: int) -> list[Array]:
    """EXTRA, (2.13) of W. Shi et al. 2015, and PG-EXTRA: by the last two iterates and gradients."""
    s, W = setting.alpha, stacked(setting, w0)
    V = mixed(setting, 0, W) - s * slopes(setting, 0, W)
    history = [W, proximal(setting, V, s)]
    for n in range(n_rounds - 1):
        W_last, W = history[-2:]
        change = slopes(setting, n + 1, W) - slopes(setting, n, W_last)
        V = mixed(setting, n + 1, W) + V - (W_last + mixed(setting, n, W_last)) / 2.0 - s * change
        history.append(proximal(setting, V, s))
    return history


def diffusion(setting: Setting, w0: Array, n_rounds: int) -> list[Array]:
    """Exact diffusion, algorithm 1 of K. Yuan et al. 2019: adapt, correct, combine; and then the proximal map."""
    s, W = setting.alpha, stacked(setting, w0)
    X = psi_last = W
    history = [W]
    for n in range(n_rounds):
        psi = W - s * slopes(setting, n, W)
        phi = psi + X - psi_last
        X, psi_last = (phi + mixed(setting, n, phi)) / 2.0, psi
        W = proximal(setting, X, s)
        history.append(W)
    return history


def choco(setting: Setting, w0: Array, n_rounds: int, steps: int) -> list[Array]:
    """CHOCO-SGD, algorithm 2 of A. Koloskova et al. 2019, with several steps a round; replicas start at 0."""
    W, s = stacked(setting, w0), setting.alpha
    told, history = np.zeros((len(W), len(W), 1, W.shape[1])), [W]
    for n in range(n_rounds):
        for k in range(steps):
            W = W - s * slopes(setting, n * steps + k, W)
        C = mixing(setting.weights, len(W), setting.edges[n % len(setting.edges)])
        X, told = say(setting, n, C, W[:, None], told)
        W, s = X[:, 0], s * (1.0 - setting.mu * s)
        history.append(W)
    return history


METHODS: Final[dict[str, Callable[[Setting, Array, int], list[Array]]]] = {
    "gradient-descent": descent,
    "d-psgd": lambda setting, w0, n_rounds: descent(setting, w0, n_rounds, 3, 0.5),
    "gradient-tracking": tracking,
    "extra": extra,
    "exact-diffusion": diffusion,
}


def stacked(setting: Setting, w0: Array) -> Array:
    """The first parameters of all agents, (I, p)."""
    return np.array(np.broadcast_to(w0, (len(setting.shards), np.shape(w0)[-1])))


def mixed(setting: Setting, n: int, V: Array) -> Array:
    """C[n] V."""
    n_agents = len(setting.shards)
    return np.asarray(mixing(setting.weights, n_agents, setting.edges[n % len(setting.edges)]) @ V)


def slopes(setting: Setting, k: int, W: Array, penalized: bool = True) -> Array:
    """Gradients of all f_i by batch k, (I, p), or of I g_i alone."""
    found = len(setting.shards) * gradients(batch_of(setting, k), W)
    smooth = penalized and setting.regularizer == "l2"
    return np.asarray(found + (setting.strength * setting.penalized * W if smooth else 0.0))


def proximal(setting: Setting, V: Array, s: float) -> Array:
    """Prox of s r in each row, where r has kinks."""
    return V if setting.regularizer in ("none", "l2") else np.stack([prox(setting, v, s) for v in V])
