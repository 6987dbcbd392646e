"""NEXT in stacked matrices, row i for agent i: what the agents have to reproduce. Imports nothing of theirs.

Slow and obvious on purpose: Jacobians by complex steps, inner problems by accelerated proximal
gradients, all agents at once. Equation numbers as in the README.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from scipy.special import expit, softmax

Array = NDArray[Any]

ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "tanh": np.tanh,
    "relu": lambda a: np.where(a.real > 0.0, a, 0.0),
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(-a)),
}

SLOPES: Final[dict[str, Callable[[Array, Array, float], Array]]] = {
    "squared": lambda f, y, delta: f - y,
    "huber": lambda f, y, delta: np.where(abs(f - y) <= delta, f - y, delta * np.sign(f - y)),
    "squared_hinge": lambda f, y, delta: np.where(signs(f, y) * f < 1.0, f - signs(f, y), 0.0),
    "logistic": lambda f, y, delta: expit(f) - y[:, None],
    "softmax": lambda f, y, delta: softmax(f, axis=1) - np.eye(f.shape[1])[y],
}

CURVATURES: Final = {"squared": 1.0, "huber": 1.0, "squared_hinge": 1.0, "logistic": 0.25, "softmax": 0.5}
"""Upper bounds of the second derivative of each loss."""


@dataclass(frozen=True)
class Setting:
    """Everything that defines a run; names as in the README.

    `shards` holds (inputs, targets or labels) of each agent, `penalized` is 1 where a parameter
    is regularized and 0 where not, `edges` holds the links of each round and is repeated.
    `clip_w`, `clip_y` are the radii of clipping, 0 where there is none; `l1_ratio` is of the elastic net;
    `lower`, `upper` bound what is regularized.
    `ends` are the parameters behind which a block of w ends, the last one's excepted.
    `sample_weights` holds the weights of each agent's samples; it is empty where all are 1.
    `weights` is metropolis, max-degree or lazy-metropolis.
    `steps` exchanges are a round, each with the next links; `consensus` is plain or chebyshev.
    `batch` is how many samples a round takes, 0 for all, `refresh` how many rounds lie between two full passes, and
    `seed` what the choice depends on.
    `saying` is all, difference, top-k or random-k: what neighbors say to each other in an exchange; `fraction` is the
    part of the entries, `gamma` how far agents go by differences, `digits` those, binary, of numbers on the wire.
    """

    shards: Sequence[tuple[Array, Array]]
    widths: tuple[int, ...]
    activation: str
    loss: str
    regularizer: str
    strength: float
    penalized: Array
    scale: str
    kind: str
    curvature: str
    tau: float
    alpha: float
    mu: float
    edges: Sequence[Sequence[tuple[int, int]]]
    clip_w: float = 0.0
    clip_y: float = 0.0
    l1_ratio: float = 0.5
    lower: float = -np.inf
    upper: float = np.inf
    ends: Sequence[int] = ()
    huber_delta: float = 1.345
    sample_weights: Sequence[Array] = ()
    weights: str = "metropolis"
    steps: int = 1
    consensus: str = "plain"
    batch: int = 0
    refresh: int = 1
    seed: int = 0
    saying: str = "all"
    fraction: float = 1.0
    gamma: float = 1.0
    digits: int = 53


def run(setting: Setting, w0: Array, n_rounds: int) -> tuple[Array, Array, Array]:
    """W, Y and the gradients, or their estimates, of all agents at the start of rounds 0..n_rounds.

    Each is (n_rounds + 1, I, p).
    """
    n_agents = len(setting.shards)
    W = np.array(np.broadcast_to(w0, (n_agents, np.shape(w0)[-1])))
    G = gradients(setting, W)
    Y, alpha = G, setting.alpha
    F = np.zeros((n_agents, *W.shape))  # F[i, j] went from j to i
    told = np.zeros((n_agents, n_agents, 2, W.shape[1]))  # told[i, j] by i to j, of z and y
    history = [(W, Y, G)]
    for n in range(n_rounds):
        exchanges = range(n * setting.steps, (n + 1) * setting.steps)
        Cs = [mixing(setting.weights, n_agents, setting.edges[e % len(setting.edges)]) for e in exchanges]
        part, W_last = batch_of(setting, n), W
        W_tilde = np.stack([best_response(part, i, W[i], Y[i]) for i in range(n_agents)])  # (4), (5)
        Z = W + alpha * (W_tilde - W)  # (6)
        if setting.clip_w:
            for C in Cs:
                pulls = clip(Z[None, :] - Z[:, None], setting.clip_w * alpha / setting.alpha)
                Z = Z + np.einsum("ij,ijp->ip", C, pulls)
                F = clip(F + C[:, :, None] * clip(Y[None, :] - Y[:, None], setting.clip_y), setting.clip_y)
                Y = G + F.sum(axis=1)
            W, G = Z, estimates(setting, n + 1, Z, W_last, G)
            Y = G + F.sum(axis=1)
        elif setting.saying != "all":
            for e, C in zip(exchanges, Cs, strict=True):
                X, told = say(setting, e, C, np.stack((Z, Y), axis=1), told)
                Z, Y = X[:, 0], X[:, 1]
            W, G, G_last = Z, estimates(setting, n + 1, Z, W_last, G), G
            Y = Y + G - G_last
        else:
            C = polynomial(Cs[0], len(Cs)) if setting.consensus == "chebyshev" else reduce(np.matmul, Cs[::-1])
            W = C @ Z  # (7)
            G, G_last = estimates(setting, n + 1, W, W_last, G), G
            Y = C @ Y + G - G_last  # (8)
        alpha = alpha * (1.0 - setting.mu * alpha)  # (10)
        history.append((W, Y, G))
    Ws, Ys, Gs = zip(*history, strict=True)
    return np.stack(Ws), np.stack(Ys), np.stack(Gs)


def say(setting: Setting, e: int, C: Array, X: Array, told: Array) -> tuple[Array, Array]:
    """Z and y of all agents, (I, 2, p), after exchange e, and what all have told each other by then, (I, I, 2, p)."""
    n_agents, _, p = X.shape
    links = (C > 0.0) & ~np.eye(n_agents, dtype=bool)
    k = round(setting.fraction * p)
    if setting.saying == "random-k":
        keys = np.frombuffer(hashlib.shake_128(f"{setting.seed}:{e}:entries".encode()).digest(8 * p), dtype="<u8")
        drawn = np.isin(np.arange(p), np.argsort(keys)[:k])
        said = shortened(X, setting.digits)
        return X + drawn * np.einsum("ij,ijtp->itp", C, said[None, :] - said[:, None]), told
    change = X[:, None] - told
    if setting.saying == "top-k":
        sizes = np.abs(change)
        change = np.where(sizes >= np.sort(sizes, axis=-1)[..., -k, None], change, 0.0)
    told = told + links[:, :, None, None] * shortened(change, setting.digits)
    return X + setting.gamma * np.einsum("ij,ijtp->itp", C * links, told.swapaxes(0, 1) - told), told


def shortened(X: Array, digits: int) -> Array:
    """Numbers rounded to so many binary digits, ties to even; to less than 24 of them from those."""
    X = shortened(X, 24) if digits < 24 else X
    mantissas, exponents = np.frexp(X)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissas, digits)), exponents - digits))


def clip(differences: Array, radius: float) -> Array:
    """Differences, (I, I, p), each no longer than the radius."""
    lengths = np.linalg.norm(differences, axis=2, keepdims=True)
    return np.asarray(np.where(lengths > radius, radius * differences / np.maximum(lengths, radius), differences))


def mixing(weights: str, n_agents: int, edges: Sequence[tuple[int, int]]) -> Array:
    """C, (I, I): that of (3), the mean of it and the identity, or 1/(1 + largest degree) on all links."""
    A = np.zeros((n_agents, n_agents))
    for i, j in edges:
        A[i, j] = A[j, i] = 1.0
    degrees = A.sum(axis=0)
    larger = degrees.max() if weights == "max-degree" else np.maximum(degrees[:, None], degrees[None, :])
    C = A / (1.0 + larger)
    C += np.diag(1.0 - C.sum(axis=1))
    return np.asarray((C + np.eye(n_agents)) / 2.0 if weights == "lazy-metropolis" else C)


def polynomial(C: Array, degree: int) -> Array:
    """Chebyshev's polynomial T at (C - c Id)/h, over T((1 - c)/h).

    In c - h..c + h are all eigenvalues but that of the mean; its ends are rounded to 2^-30, and moved out by as much.
    """
    eigenvalues, V = np.linalg.eigh(C)
    low, high = np.round(eigenvalues[[0, -2]] * 2.0**30) / 2.0**30 + np.array([-(2.0**-30), 2.0**-30])
    c, h, T = (low + high) / 2.0, (high - low) / 2.0, Chebyshev.basis(degree)
    return np.asarray((V * (T((eigenvalues - c) / h) / T((1.0 - c) / h))) @ V.T)


def forward(setting: Setting, w: Array, x: Array) -> Array:
    """Outputs of the perceptron, (m, q); real or complex as w is."""
    start = 0
    for k, (n_in, n_out) in enumerate(pairwise(setting.widths)):
        middle, stop = start + n_in * n_out, start + n_in * n_out + n_out
        x = x @ w[start:middle].reshape(n_out, n_in).T + w[middle:stop]
        x = ACTIVATIONS[setting.activation](x) if k < len(setting.widths) - 2 else x
        start = stop
    return x


def jacobian(setting: Setting, w: Array, x: Array) -> Array:
    """J, (m*q, p): imaginary parts of f(w + ih e_k)/h, which are exact as nothing cancels."""
    columns = [forward(setting, w + 1e-40j * e, x).imag.reshape(-1) / 1e-40 for e in np.eye(w.size)]
    return np.stack(columns, axis=1)


def weight(setting: Setting) -> float:
    """The factor s of (2)."""
    return 1.0 if setting.scale == "sum" else 1.0 / sum(len(x) for x, _ in setting.shards)


def signs(f: Array, y: Array) -> Array:
    """What outputs of the labels are to be, (m, q): 1 or -1."""
    return np.asarray(2.0 * (y[:, None] == (np.arange(f.shape[1]) if f.shape[1] > 1 else 1)) - 1.0)


def slopes(setting: Setting, i: int, f: Array) -> Array:
    """Derivative of the losses of agent i by its outputs, (m, q)."""
    slope = SLOPES[setting.loss](f, setting.shards[i][1], setting.huber_delta)
    return setting.sample_weights[i][:, None] * slope if setting.sample_weights else slope


def gradients(setting: Setting, W: Array) -> Array:
    """Gradients grad g_i(w_i) of all agents, (I, p)."""
    rows = []
    for i, (w, (x, _)) in enumerate(zip(W, setting.shards, strict=True)):
        slope = slopes(setting, i, forward(setting, w, x))
        rows.append(weight(setting) * jacobian(setting, w, x).T @ slope.reshape(-1))
    return np.stack(rows)


def estimates(setting: Setting, n: int, W: Array, W_last: Array, G_last: Array) -> Array:
    """The gradients at W, the start of round n, (I, p); with batches, mostly, by what they were at W_last."""
    if not setting.batch or n % setting.refresh == 0:
        return gradients(setting, W)
    part = batch_of(setting, n)
    return G_last + gradients(part, W) - gradients(part, W_last)


def batch_of(setting: Setting, n: int) -> Setting:
    """The samples of round n alone, each with m/b of its weight."""
    if not setting.batch:
        return setting
    rows = [drawn(setting, i, n) for i in range(len(setting.shards))]
    shards = [(x[chosen], y[chosen]) for (x, y), chosen in zip(setting.shards, rows, strict=True)]
    part = replace(setting, shards=shards)
    weights = []
    for i, chosen in enumerate(rows):
        own = setting.sample_weights[i][chosen] if setting.sample_weights else np.ones(len(chosen))
        more = len(setting.shards[i][0]) / len(chosen) * weight(setting) / weight(part)
        weights.append(more * own)
    return replace(part, sample_weights=weights)


def drawn(setting: Setting, i: int, n: int) -> list[int]:
    """Samples of agent i in round n: places n b to n b + b - 1 of all its passes, one after the other."""
    m = len(setting.shards[i][0])
    b = min(setting.batch, m)
    passes: list[int] = []
    for k in range((n + 1) * b // m + 1):
        words = hashlib.shake_128(f"{setting.seed}:{i}:pass {k}".encode()).digest(8 * m)
        keys = [int.from_bytes(words[8 * row : 8 * row + 8], "little") for row in range(m)]
        passes += sorted(range(m), key=lambda row: keys[row])
    return passes[n * b : n * b + b]


def best_response(setting: Setting, i: int, w: Array, y: Array) -> Array:
    """w~_i of (5), (p,), with the surrogate (11) or (12)."""
    (x, _), n_agents = setting.shards[i], len(setting.shards)
    if setting.kind == "full":
        return prox(setting, w - n_agents * y / setting.tau, 1.0 / setting.tau)
    kappa = float(n_agents) if setting.curvature == "network" else 1.0
    s, f, J = kappa * weight(setting), forward(setting, w, x), jacobian(setting, w, x)
    pi = n_agents * y - s * J.T @ slopes(setting, i, f).reshape(-1)

    blocks = np.split(np.arange(w.size), setting.ends)
    return np.concatenate([block_response(setting, i, block, w, s, f, J[:, block], pi[block]) for block in blocks])


def block_response(setting: Setting, i: int, block: Array, w: Array, s: float, f: Array, J: Array, pi: Array) -> Array:
    """Minimizer of (5) with (11) over the parameters w_c of one block, the others kept; J and pi are the block's."""
    penalized = replace(setting, penalized=setting.penalized[block])

    def gradient(v: Array) -> Array:
        d = v - w[block]
        outputs = f + (J @ d).reshape(f.shape)
        return np.asarray(s * J.T @ slopes(setting, i, outputs).reshape(-1) + pi + setting.tau * d)

    heaviest = float(np.max(setting.sample_weights[i])) if setting.sample_weights else 1.0
    largest = heaviest * s * CURVATURES[setting.loss] * np.linalg.norm(J, 2) ** 2 + setting.tau
    return accelerated(gradient, lambda v, step: prox(penalized, v, step), w[block], float(largest), setting.tau)


def prox(setting: Setting, v: Array, step: float) -> Array:
    """Argmin over w of r(w) + ||w - v||^2 / (2 step)."""
    absolute = {"l1": 1.0, "elastic_net": setting.l1_ratio}.get(setting.regularizer, 0.0)
    square = {"l2": 1.0, "elastic_net": 1.0 - setting.l1_ratio}.get(setting.regularizer, 0.0)
    weight = step * setting.strength * setting.penalized
    shrunk = np.asarray((v - np.clip(v, -absolute * weight, absolute * weight)) / (1.0 + square * weight))
    if setting.regularizer == "group_l2":
        for group in groups(setting):
            shrunk[group] *= max(0.0, 1.0 - step * setting.strength * np.sqrt(len(group)) / np.linalg.norm(v[group]))
    free = setting.penalized == 0.0
    return np.where(free, shrunk, np.clip(shrunk, setting.lower, setting.upper))


def groups(setting: Setting) -> list[Array]:
    """Places of the weights into each neuron, with its bias if that is regularized."""
    found, start = [], 0
    for n_in, n_out in pairwise(setting.widths):
        biases = start + n_in * n_out
        found += [np.r_[start + k * n_in : start + (k + 1) * n_in, biases + k] for k in range(n_out)]
        start = biases + n_out
    return [group[setting.penalized[group] > 0.0] for group in found]


def accelerated(
    gradient: Callable[[Array], Array],
    prox: Callable[[Array, float], Array],
    start: Array,
    largest: float,
    least: float,
) -> Array:
    """Minimizer of h + r for h with curvature between `least` and `largest` (Nesterov 2004, 2.2.11).

    After 80/root steps the distance is below e^-40 of the first one. A proximal gradient step of length l
    starts and ends within (2 largest/least) l of the minimizer, so that often it is known before.
    """
    step, root = 1.0 / largest, np.sqrt(least / largest)
    momentum = (1.0 - root) / (1.0 + root)
    v = w = start
    for _ in range(int(80.0 / root) + 10):
        w_last, w = w, prox(v - step * gradient(v), step)
        if np.linalg.norm(v - w) * 2.0 * largest / least < 1e-11:
            break
        v = w + momentum * (w - w_last)
    return w
