"""Final weights of real peers against the independent program of tests/reference.py."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests import reference
from tests.integration.lab import Array, Lab, flat

PEERS, ROUNDS, INPUTS = 4, 25, 3

HUBER_DELTA = 0.4
"""So small that part of the samples is beyond it."""

EDGES: list[list[tuple[int, int]]] = [
    [(0, 1), (2, 3)],
    [],
    [(1, 2)],
    [(0, 3), (1, 3), (0, 2)],
    [(0, 1), (1, 2), (2, 3), (1, 3)],
]
"""Links that come and go; no round connects all."""


@dataclass(frozen=True)
class Case:
    """One combination of settings."""

    loss: str = "squared"
    outputs: int = 1
    regularizer: str = "l2"
    kind: str = "partial"
    curvature: str = "local"
    scale: str = "mean"
    rule: str = "constant"
    activation: str = "tanh"
    hidden: tuple[int, ...] = (4,)
    tau: float = 1.0
    biases: bool = True
    clip_w: float = 0.0
    clip_y: float = 0.0
    lower: float = -np.inf
    upper: float = np.inf
    blocks: int | str = 1
    cores: int = 1
    weighted: bool = False
    weights: str = "metropolis"
    steps: int = 1
    batch: int = 0
    refresh: int = 1

    @property
    def tolerance(self) -> float:
        """What the case has to agree to."""
        smooth = self.regularizer in ("none", "l2") and self.lower == -np.inf
        closed = self.kind == "full" or (self.loss == "squared" and smooth)
        return 1e-9 if closed else 1e-6


CASES = [
    Case(),
    Case(regularizer="none", curvature="network", scale="sum", tau=5.0, rule="diminishing", outputs=2),
    Case(regularizer="l1", hidden=(5, 3), activation="sigmoid", biases=False),
    Case(kind="full", regularizer="l1", activation="relu", rule="diminishing", tau=3.0),
    Case(kind="full", loss="cross_entropy", outputs=3, scale="sum", tau=40.0),
    Case(loss="cross_entropy", outputs=1, curvature="network", rule="diminishing"),
    Case(loss="cross_entropy", outputs=3, regularizer="l1", scale="sum", tau=4.0),
    Case(loss="cross_entropy", outputs=3, regularizer="none", hidden=()),
    Case(regularizer="elastic_net", biases=False, curvature="network"),
    Case(curvature="network", clip_w=0.05, clip_y=0.02),
    Case(regularizer="group_l2", hidden=(5,), outputs=2),
    Case(loss="cross_entropy", outputs=3, regularizer="group_l2", biases=False, curvature="network"),
    Case(lower=-0.3, upper=0.4, biases=False),
    Case(loss="cross_entropy", outputs=3, regularizer="l1", lower=0.0, upper=1.0),
    Case(kind="full", regularizer="group_l2", tau=3.0),
    Case(blocks=3, cores=2),
    Case(blocks="layers", loss="cross_entropy", outputs=3, curvature="network", tau=4.0),
    Case(blocks=21, loss="cross_entropy", regularizer="l1", rule="diminishing", biases=False),
    Case(loss="huber", outputs=2, curvature="network"),
    Case(loss="squared_hinge", outputs=1, regularizer="elastic_net", scale="sum", tau=4.0),
    Case(loss="squared_hinge", outputs=3, kind="full", rule="diminishing", tau=3.0, weighted=True),
    Case(outputs=2, biases=False, weighted=True),
    Case(loss="huber", regularizer="l1", weighted=True),
    Case(curvature="network", weights="max-degree"),
    Case(curvature="network", weights="lazy-metropolis"),
    Case(curvature="network", steps=2, rule="diminishing"),
    Case(curvature="network", tau=2.0, batch=3, refresh=4, weighted=True),
    Case(loss="cross_entropy", outputs=3, tau=4.0, batch=5, refresh=6, blocks=3, cores=2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_final_weights_equal_those_of_an_independent_program(lab: Lab, case: Case) -> None:
    rng = np.random.default_rng(CASES.index(case))
    widths = (INPUTS, *case.hidden, case.outputs)
    shards = [(rng.normal(size=(m, INPUTS)), _targets(rng, m, case)) for m in (7, 12, 5, 9)]
    layers: dict[str, Array] = {}
    for k, (width_in, width_out) in enumerate(pairwise(widths)):
        weights, biases = rng.normal(size=(width_out, width_in)) / np.sqrt(width_in), 0.1 * rng.normal(size=width_out)
        layers[f"layers.{k}.weight"] = np.clip(weights, case.lower, case.upper)
        layers[f"layers.{k}.bias"] = np.clip(biases, case.lower, case.upper)
    np.savez(lab.folder / "initial.npz", **layers)  # type: ignore[arg-type]
    sample_weights = [rng.choice([0.0, 0.5, 3.0], size=len(x)) + 0.1 for x, _ in shards] if case.weighted else []
    mu = 0.3 if case.rule == "diminishing" else 0.0
    strength = 0.0 if case.regularizer == "none" else 0.02
    experiment = lab.experiment(
        peers=PEERS,
        iterations=ROUNDS,
        data={"path": lab.shards([(*shards[i], *sample_weights[i : i + 1]) for i in range(PEERS)])},
        model={"hidden": case.hidden, "activation": case.activation, "initial": "initial.npz"},
        objective={
            "loss": case.loss,
            "huber_delta": HUBER_DELTA,
            "regularizer": case.regularizer,
            "strength": strength,
            "scale": case.scale,
            "regularize_biases": case.biases,
            "lower": case.lower,
            "upper": case.upper,
        },
        surrogate={
            "kind": case.kind,
            "curvature": case.curvature,
            "tau": case.tau,
            "blocks": case.blocks,
            "cores": case.cores,
            "tolerance": 1e-12,
            **({"batch": case.batch, "refresh": case.refresh} if case.batch else {}),
        },
        step={"rule": case.rule, "alpha": 0.3, "mu": mu},
        robustness={"clip_w": case.clip_w, "clip_y": case.clip_y},
        topology={
            "schedule": "file",
            "path": lab.schedule(EDGES),
            "weights": case.weights,
            "consensus_steps": case.steps,
        },
        transport={"security": "curve"},
    )
    run_dir = lab.launch(experiment)

    w0 = np.concatenate([part.reshape(-1) for part in layers.values()])
    penalized = np.concatenate([np.full(p.size, float(case.biases or p.ndim == 2)) for p in layers.values()])
    loss = case.loss
    if loss == "cross_entropy":
        loss = "logistic" if case.outputs == 1 else "softmax"
    setting = reference.Setting(
        shards=shards,
        widths=widths,
        activation=case.activation,
        loss=loss,
        regularizer=case.regularizer,
        strength=strength,
        penalized=penalized,
        scale=case.scale,
        kind=case.kind,
        curvature=case.curvature,
        tau=case.tau,
        alpha=0.3,
        mu=mu,
        edges=EDGES,
        clip_w=case.clip_w,
        clip_y=case.clip_y,
        lower=case.lower,
        upper=case.upper,
        ends=_ends(case, widths),
        huber_delta=HUBER_DELTA,
        sample_weights=sample_weights,
        weights=case.weights,
        steps=case.steps,
        batch=case.batch,
        refresh=case.refresh,
    )
    expected = reference.run(setting, w0, ROUNDS)[0][-1]
    found = np.stack([flat(run_dir, peer) for peer in range(PEERS)])
    assert np.abs(expected - w0).max() > 1e-2, "the case moves nothing, so it shows nothing"
    assert np.abs(found - expected).max() < case.tolerance


def _ends(case: Case, widths: tuple[int, ...]) -> list[int]:
    """Behind which parameters a block ends, as the README says."""
    sizes = [(width_in + 1) * width_out for width_in, width_out in pairwise(widths)]
    if case.blocks != "layers":
        sizes = [len(block) for block in np.array_split(np.arange(sum(sizes)), int(case.blocks))]
    return [int(end) for end in np.cumsum(sizes)[:-1]]


def _targets(rng: np.random.Generator, m: int, case: Case) -> Any:
    if case.loss in ("squared", "huber"):
        return rng.normal(size=(m, case.outputs))
    return rng.integers(0, max(case.outputs, 2), size=m)
