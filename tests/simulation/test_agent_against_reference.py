"""Agents that mix, track and solve one by one reproduce the whole method in stacked matrices, round by round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from peer.arrays import DTYPES
from peer.links import Coding, Drawn, Replicas
from peer.optim.batches import Batches
from peer.optim.chains import mlp
from peer.optim.losses import Huber, Logistic, Loss, Softmax, Squared, Weighted, squared_hinge
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant, Diminishing
from peer.optim.surrogates import Data, Full, Partial
from peer.problem import Problem
from tests import reference
from tests.instances import exchange, separable_labels
from tests.reference import Setting
from topology import Graph
from topology.gossip import make
from topology.schedules import Static
from topology.weights import RULES

SAMPLES = (3, 11, 6, 1)
"""Unequal shards; the dual systems of the small ones meet the primal ones of the large ones."""

EDGES = (((0, 1), (2, 3)), ((1, 2),), (), ((0, 3), (1, 3), (2, 3)))
"""No round is connected but the last; one is empty; their union is."""

TAILED = ((0, 1), (1, 2), (1, 3), (2, 3))
"""A round in which {2, 3} is a link without an end of the largest degree."""

WIDTHS = {
    "squared": (3, 4, 2),
    "huber": (3, 4, 2),
    "squared_hinge": (3, 4, 3),
    "logistic": (3, 4, 1),
    "softmax": (3, 4, 3),
}

N_ROUNDS = 8


def setting_of(loss: str, regularizer: str, kind: str, curvature: str, scale: str, mu: float, seed: int) -> Setting:
    """A run on random shards; tau grows with s, as "sum" has the larger curvature and gradients."""
    rng = np.random.default_rng(seed)
    widths = WIDTHS[loss]
    X = rng.standard_normal((sum(SAMPLES), widths[0]))
    Y: NDArray[np.float64] | NDArray[np.int64] = np.sin(2.0 * X[:, : widths[-1]])
    if loss not in ("squared", "huber"):
        Y = separable_labels(rng, X, max(2, widths[-1]))
    ends = np.cumsum((0, *SAMPLES))
    shards = [(X[start:stop], Y[start:stop]) for start, stop in pairwise(ends)]
    sizes = [(width_out, width_in) for width_in, width_out in pairwise(widths)]
    penalized = np.concatenate([np.repeat((1.0, 0.0), (out * n_in, out)) for out, n_in in sizes])
    size = 1.0 if scale == "mean" else float(sum(SAMPLES))
    tau = size * (1.0 if kind == "full" else 0.3 if curvature == "network" else 0.6)
    return Setting(
        shards=shards,
        widths=widths,
        activation="tanh",
        loss=loss,
        regularizer=regularizer,
        strength=0.02 * size,
        penalized=penalized,
        scale=scale,
        kind=kind,
        curvature=curvature,
        tau=tau,
        alpha=0.5,
        mu=mu,
        edges=EDGES,
        huber_delta=0.3,
    )


def problems_of(setting: Setting) -> Iterator[Problem]:
    """The same as our objects."""
    strength = setting.strength * setting.penalized
    regularizers: dict[str, Regularizer] = {"none": NoRegularizer(), "l2": L2(strength), "l1": L1(strength)}
    kappa = float(len(setting.shards)) if setting.curvature == "network" else 1.0
    surrogate = Full(setting.tau) if setting.kind == "full" else Partial(setting.tau, kappa)
    n_samples = sum(len(x) for x, _ in setting.shards)
    weight = 1.0 if setting.scale == "sum" else 1.0 / n_samples
    losses: dict[str, Callable[[NDArray[Any]], Loss]] = {
        "squared": Squared,
        "huber": lambda y: Huber(y, setting.huber_delta),
        "squared_hinge": lambda y: squared_hinge(y, setting.widths[-1]),
        "logistic": Logistic,
        "softmax": Softmax,
    }
    for i, (x, y) in enumerate(setting.shards):
        loss = losses[setting.loss](y)
        loss = Weighted(loss, setting.sample_weights[i]) if setting.sample_weights else loss
        model = mlp(setting.widths, setting.activation)
        batches = None
        if 0 < setting.batch < len(x):
            batches = Batches(setting.seed, i, len(x), setting.batch, setting.refresh)
        data, regularizer = Data(model, x, loss, weight), regularizers[setting.regularizer]
        yield Problem(data, regularizer, surrogate, tolerance=1e-13, batches=batches)


def codings_of(setting: Setting, graphs: list[Graph]) -> Iterator[Coding]:
    """How agents say less than all; of none where they say all."""
    dtype = DTYPES[{53: "f8", 24: "f4", 8: "bf16"}[setting.digits]]
    for i in range(len(setting.shards) if setting.saying != "all" else 0):
        if setting.saying == "random-k":
            yield Drawn(setting.seed, setting.fraction, dtype)
        else:
            met = tuple(sorted({j for graph in graphs for j in graph.neighbors(i)}))
            yield Replicas(met, setting.fraction, setting.gamma, dtype)


def compare(setting: Setting, starts: NDArray[np.float64], tolerance: float) -> None:
    """All rounds of all agents within `tolerance`, relative to the largest entry; and (9) to rounding."""
    problems = list(problems_of(setting))
    rule = Diminishing(setting.mu) if setting.mu > 0.0 else Constant()
    graphs = [Graph.of(len(problems), edges) for edges in setting.edges]
    rows = np.broadcast_to(starts, (len(problems), starts.shape[-1]))
    W, Y, G = reference.run(setting, starts, N_ROUNDS)
    assert np.ptp(W[-1] - W[0]) > 0.1, "a run that goes nowhere shows nothing"
    radii = (setting.clip_w / setting.alpha, setting.clip_y, 1.0) if setting.clip_w else None
    weights = RULES[setting.weights]
    gossip = make(setting.consensus, setting.steps, Static(graphs[0]), weights)
    run = exchange(
        problems,
        list(rows),
        setting.alpha,
        rule,
        graphs,
        N_ROUNDS,
        radii=radii,
        weights=weights,
        gossip=gossip,
        codings=list(codings_of(setting, graphs)),
    )
    for n, (states, _) in enumerate(run):
        w, y, gradient = (np.stack([getattr(s, name) for s in states]) for name in ("w", "y", "gradient"))
        np.testing.assert_allclose(w, W[n], rtol=0.0, atol=tolerance * np.max(np.abs(W)), err_msg=f"w, round {n}")
        np.testing.assert_allclose(y, Y[n], rtol=0.0, atol=tolerance * np.max(np.abs(Y)), err_msg=f"y, round {n}")
        rounding = 1e-14 * (n + 1) * np.max(np.abs(G[: n + 1]))
        np.testing.assert_allclose(y.sum(axis=0), gradient.sum(axis=0), rtol=0.0, atol=rounding, err_msg="(9)")


@pytest.mark.parametrize("mu", [0.0, 0.2], ids=["constant", "diminishing"])
@pytest.mark.parametrize("regularizer", ["none", "l2", "l1"])
@pytest.mark.parametrize(("kind", "curvature"), [("full", "local"), ("partial", "local"), ("partial", "network")])
@pytest.mark.parametrize("loss", WIDTHS)
def test_agents_reproduce_the_method(loss: str, kind: str, curvature: str, regularizer: str, mu: float) -> None:
    scale = "sum" if mu > 0.0 else "mean"
    setting = setting_of(loss, regularizer, kind, curvature, scale, mu, seed=5)
    rng = np.random.default_rng(6)
    w0 = mlp(setting.widths, setting.activation).initial(rng)
    compare(setting, w0, 1e-9)


@pytest.mark.parametrize("regularizer", ["l2", "l1"])
@pytest.mark.parametrize("loss", ["squared", "huber", "softmax"])
def test_agents_reproduce_the_method_with_weights_of_samples(loss: str, regularizer: str) -> None:
    """Some are 0, and one agent has hardly any weight; without them the run is another."""
    setting = setting_of(loss, regularizer, "partial", "network", "mean", 0.0, seed=11)
    rng = np.random.default_rng(12)
    weights = [rng.choice([0.0, 0.5, 2.0], m) + 0.01 for m in SAMPLES]
    weighted = dataclasses.replace(setting, sample_weights=[0.9 * w for w in weights[:-1]] + [np.array([1e-3])])
    w0 = mlp(setting.widths, setting.activation).initial(rng)
    plain, other = (reference.run(one, w0, N_ROUNDS)[0][-1] for one in (setting, weighted))
    assert np.max(np.abs(plain - other)) > 1e-3
    compare(weighted, w0, 1e-9)


@pytest.mark.parametrize(("activation", "regularizer"), list(product(["relu", "sigmoid"], ["l2", "l1"])))
def test_agents_reproduce_the_method_from_different_starts(activation: str, regularizer: str) -> None:
    setting = setting_of("squared", regularizer, "partial", "network", "mean", 0.1, seed=7)
    setting = dataclasses.replace(setting, activation=activation)
    rng = np.random.default_rng(8)
    model = mlp(setting.widths, activation)
    compare(setting, np.stack([model.initial(rng) for _ in setting.shards]), 1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.2], ids=["constant", "diminishing"])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_agents_reproduce_the_method_with_clipping(loss: str, mu: float) -> None:
    """From different starts, so that every radius is active at first; y is also in the sum over rounds."""
    setting = setting_of(loss, "l2", "partial", "network", "mean", mu, seed=5)
    rng = np.random.default_rng(6)
    model = mlp(setting.widths, setting.activation)
    starts = np.stack([model.initial(rng) for _ in setting.shards])
    plain = reference.run(setting, starts, N_ROUNDS)[0]
    for clip_w, clip_y in ((0.3, 0.02), (0.3, 1e9), (1e9, 0.02)):
        clipped = dataclasses.replace(setting, clip_w=clip_w, clip_y=clip_y)
        assert np.max(np.abs(reference.run(clipped, starts, N_ROUNDS)[0] - plain)) > 0.01, "nothing is clipped"
        compare(clipped, starts, 1e-9)
    compare(dataclasses.replace(setting, clip_w=1e9, clip_y=1e9), starts, 1e-9)


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("weights", ["max-degree", "lazy-metropolis"])
def test_agents_reproduce_the_method_with_other_weights(weights: str, clip: float) -> None:
    setting = setting_of("squared", "l2", "partial", "network", "mean", 0.1, seed=7)
    setting = dataclasses.replace(setting, edges=(*EDGES, TAILED))
    rng = np.random.default_rng(8)
    model = mlp(setting.widths, setting.activation)
    starts = np.stack([model.initial(rng) for _ in setting.shards])
    usual = reference.run(setting, starts, N_ROUNDS)[0]
    other = reference.run(dataclasses.replace(setting, weights=weights), starts, N_ROUNDS)[0]
    assert np.max(np.abs(other - usual)) > 1e-3, "the same weights by another name"
    compare(dataclasses.replace(setting, weights=weights, clip_w=clip, clip_y=clip / 10.0), starts, 1e-9)


@pytest.mark.parametrize(
    ("steps", "consensus", "clip"), [(2, "plain", 0.0), (3, "plain", 0.3), (2, "chebyshev", 0.0), (4, "chebyshev", 0.0)]
)
@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_agents_reproduce_the_method_with_several_exchanges(loss: str, steps: int, consensus: str, clip: float) -> None:
    """Those of plain rounds go on with the links where the last round ended; a polynomial has the same in all."""
    setting = setting_of(loss, "l2", "partial", "network", "mean", 0.1, seed=7)
    edges = EDGES if consensus == "plain" else (TAILED,)
    setting = dataclasses.replace(setting, edges=edges, clip_w=clip, clip_y=clip / 10.0, weights="lazy-metropolis")
    rng = np.random.default_rng(8)
    model = mlp(setting.widths, setting.activation)
    starts = np.stack([model.initial(rng) for _ in setting.shards])
    several = dataclasses.replace(setting, steps=steps, consensus=consensus)
    usual, other = (reference.run(one, starts, N_ROUNDS)[0][-1] for one in (setting, several))
    assert np.max(np.abs(other - usual)) > 1e-3
    compare(several, starts, 1e-9)


@pytest.mark.parametrize(
    ("loss", "kind", "weighted", "clip", "batch", "refresh"),
    [
        ("squared", "partial", False, 0.0, 2, 3),
        ("softmax", "partial", True, 0.0, 4, 100),
        ("softmax", "partial", False, 0.0, 2, 1),
        ("huber", "partial", False, 0.3, 3, 4),
        ("logistic", "full", True, 0.0, 4, 3),
    ],
)
def test_agents_reproduce_the_method_with_batches(
    loss: str, kind: str, weighted: bool, clip: float, batch: int, refresh: int
) -> None:
    """(9) holds in every round for what stands in the place of the gradients; some agents have no more than a batch."""
    setting = setting_of(loss, "l2", kind, "network", "mean", 0.1, seed=13)
    rng = np.random.default_rng(14)
    weights = [rng.uniform(0.5, 1.5, m) for m in SAMPLES] if weighted else []
    setting = dataclasses.replace(
        setting, sample_weights=weights, clip_w=clip, clip_y=clip / 10.0, tau=4.0 * setting.tau
    )
    model = mlp(setting.widths, setting.activation)
    starts = np.stack([model.initial(rng) for _ in setting.shards])
    batched = dataclasses.replace(setting, batch=batch, refresh=refresh, seed=15)
    plain, other = (reference.run(one, starts, N_ROUNDS)[0][-1] for one in (setting, batched))
    assert np.max(np.abs(plain - other)) > 1e-4, "batches change nothing"
    compare(batched, starts, 1e-9)


def test_the_reference_can_tell_a_wrong_method_from_a_right_one() -> None:
    setting = setting_of("squared", "l1", "partial", "network", "mean", 0.1, seed=9)
    w0 = mlp(setting.widths, setting.activation).initial(np.random.default_rng(10))
    right = reference.run(setting, w0, N_ROUNDS)[0][-1]
    for wrong in (
        dataclasses.replace(setting, curvature="local"),
        dataclasses.replace(setting, kind="full"),
        dataclasses.replace(setting, mu=0.0),
        dataclasses.replace(setting, penalized=np.ones_like(setting.penalized)),
        dataclasses.replace(setting, edges=EDGES[1:]),
        dataclasses.replace(setting, weights="lazy-metropolis"),
        dataclasses.replace(setting, steps=2),
    ):
        assert np.max(np.abs(reference.run(wrong, w0, N_ROUNDS)[0][-1] - right)) > 1e-5


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("saying", "gamma", "digits"),
    [
        *(("difference", 1.0, digits) for digits in (24, 8)),
        *(("top-k", 0.6, digits) for digits in (53, 24, 8)),
        *(("random-k", 1.0, digits) for digits in (53, 24)),
    ],
)
def test_those_who_say_less(saying: str, gamma: float, digits: int, steps: int) -> None:
    """Replicas and draws one link at a time, on links that come and go, are the stacked ones; and (9) holds.

    With the surrogate that is solved in closed form: the other one leaves differences that rounding on the wire, and
    which entries are the largest, make larger.
    """
    setting = setting_of("squared", "l2", "full", "local", "mean", 0.2, seed=5)
    p = setting.penalized.size
    fraction = 1.0 if saying == "difference" else 8 / p
    setting = dataclasses.replace(
        setting, saying=saying, fraction=fraction, gamma=gamma, digits=digits, steps=steps, seed=3, alpha=0.5
    )
    compare(setting, np.random.default_rng(6).standard_normal((len(SAMPLES), p)), 1e-12)
