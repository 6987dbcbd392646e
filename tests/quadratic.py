"""Small shards of the data `quadratic`, a network of quadratic neurons, and the ridge regression that lazy ones are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from peer.optim.blocks import equal
from peer.optim.chains import Chain
from peer.optim.layers import Activation, Dense
from peer.optim.losses import Squared
from peer.optim.models import Model
from peer.optim.regimes import Linear, Restricted, last, own
from peer.optim.regularizers import L2
from peer.optim.surrogates import Data, Partial
from peer.problem import Problem

Array = NDArray[Any]

REGIMES: Final = ("random-features", "neural-tangent")

FORMS: Final = ("primal", "dual", "matrix-free", "blocks")
"""Ways to solve (5): in p unknowns, in m q, by products with J alone, and block by block."""

DIMENSION, NEURONS, PEERS = 3, 2, 4
STRENGTH, TAU = 0.5, 1.0
"""So well conditioned that a hundred rounds are enough."""

SIX: Final = 6
"""Peers among whom no two families make the same graph; with four a grid is a ring, with five exponential complete."""

STRONG, NEAR = 3.0, 1.0
"""Strength and tau with which forty rounds are enough, if the shards are much alike."""

MANY: Final = 100
"""Samples of a shard that is much like the others."""


@final
@dataclass(frozen=True, eq=False)
class Instance:
    """Shards (x, y) of all peers, and the parameters to start from: W, a, c."""

    shards: list[tuple[Array, Array]]
    W: Array
    a: Array
    c: float
    strength: float = STRENGTH
    tau: float = TAU

    @property
    def start(self) -> Array:
        """All parameters in the order of the network."""
        return np.concatenate([self.W.reshape(-1), self.a, [self.c]])

    @property
    def parts(self) -> dict[str, Array]:
        """Them by name."""
        names = ("layers.0.weight", "layers.1.weight", "layers.1.bias")
        return dict(zip(names, (self.W, self.a[None, :], np.array([self.c])), strict=True))

    def ridge(self, regime: str) -> Array:
        """Where training must lead, by normal equations: argmin 1/2M ||f_0 + J (w - w_0) - y||^2 + strength/2 ||w||^2.

        J are the derivatives of c + sum_i a_i <w_i, x>^2 by what is trained, as one writes them down by hand.
        """
        x = np.concatenate([x for x, _ in self.shards])
        y = np.concatenate([y for _, y in self.shards])[:, 0]
        h = x @ self.W.T
        J = np.column_stack([h * h, np.ones(len(x))])
        if regime == "neural-tangent":
            J = np.column_stack([((2.0 * self.a * h)[:, :, None] * x[:, None, :]).reshape(len(x), -1), J])
        w0 = self.start[-J.shape[1] :]
        wanted = y - (h * h @ self.a + self.c) + J @ w0
        return np.linalg.solve(J.T @ J / len(x) + self.strength * np.eye(J.shape[1]), J.T @ wanted / len(x))

    def problems(self, regime: str, n_blocks: int = 1) -> tuple[tuple[Problem, ...], Array]:
        """g_i of all agents in a regime, and their first parameters."""
        model = network()
        if regime == "random-features":
            model = Restricted(model, last(model.layout), self.start)
        w0 = own(model, self.start)
        if regime != "full":
            model = Linear(model, w0, 100)
        weight = 1.0 / sum(len(x) for x, _ in self.shards)
        return tuple(
            Problem(
                Data(model, model.inputs(x), Squared(y), weight),
                L2(np.full(w0.size, self.strength)),
                Partial(self.tau, float(len(self.shards))),
                1e-13,
                equal(w0.size, n_blocks),
            )
            for x, y in self.shards
        ), w0


def network() -> Model:
    """C + sum_i a_i <w_i, x>^2."""
    square = Activation(NEURONS, "square")
    return Chain((Dense(DIMENSION, NEURONS, bias=False, normal=True), square, Dense(NEURONS, 1)))


def of_six(regime: str, form: str) -> Instance:
    """One for six peers, whose shards are of the size that the form is for: the dual one is for wide J."""
    few = {"random-features": NEURONS, "neural-tangent": NEURONS * DIMENSION + NEURONS}[regime]
    return drawn(0, few if form == "dual" else MANY, SIX, STRONG, NEAR)


def drawn(seed: int, m: int, peers: int = PEERS, strength: float = STRENGTH, tau: float = TAU) -> Instance:
    """With m samples a peer."""
    rng = np.random.default_rng(seed)
    B = rng.exponential(size=DIMENSION)
    shards = []
    for _ in range(peers):
        x = rng.uniform(-1.2, 1.2, (m, DIMENSION))
        shards.append((x, np.sum((x * x - 1.0) * B, axis=1)[:, None]))
    W = rng.standard_normal((NEURONS, DIMENSION)) / np.sqrt(DIMENSION)
    return Instance(shards, W, rng.choice((-1.0, 1.0), NEURONS) * rng.uniform(0.5, 1.0, NEURONS), 0.1, strength, tau)
