"""What each setting may be, by itself; its words, bounds and choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from peer.optim.layers import ACTIVATIONS
from topology.gossip import CONSENSUS
from topology.graphs import FAMILIES
from topology.schedules import SCHEDULES
from topology.weights import WEIGHTS

MAX_PORT: Final = 65_535

MAX_PEERS: Final = 100_000
"""Beyond it the number is a mistake: a process each would not start."""

MAX_TEXT: Final = 1_000
"""Characters of a setting that peers show each other in full."""

MAX_CORES: Final = 64
"""As many threads at a time as the linear algebra in numpy's and scipy's wheels is built for."""

MAX_CHECKPOINT_EVERY: Final = 1_000
"""Neighbors keep their shares of that many exchanges in memory."""

MAX_CONSENSUS_STEPS: Final = 100
"""Exchanges a round; of that many no more than ten rounds fit between two checkpoints."""

MAX_DIMENSION: Final = 10_000
"""Of data sets that are drawn: what there is to learn is a matrix of that many rows and columns, 800 MB."""

PATHS: Final = (
    *("data.path", "data.test_path", "data.validation_path"),
    *("model.initial", "model.folder", "topology.path", "transport.keys", "metrics.tensorboard"),
)
"""Settings that name files or folders, relative to the experiment file."""

PATTERNS: Final = ("data.path", "data.validation_path")
"""Those of them that are formatted with {id}, so that any other brace in them stands twice."""

LOCAL: Final = frozenset(
    {
        *("data.path", "data.test_path", "data.validation_path", "model.initial", "model.folder", "topology.path"),
        *("name", "surrogate.cores"),
        *("transport.addresses", "transport.bind", "transport.keys", "run.patience_s", "run.departure_s"),
        *("metrics.tensorboard", "metrics.mlflow", "metrics.openmetrics"),
        *("run.publish", "run.agents_per_process"),
    }
)
"""Settings that may differ between the peers of one run: where things are on each host, not what they are; how many
of its cores are used, which changes no bit; patience of both kinds, so that a run that was given up can be resumed
with more of it; who may watch; and who shares a process with whom."""

FEEDBACK_ALIGNMENT: Final = "feedback-alignment"
"""Of `surrogate.gradient`."""

DIFFERENCE, TOP_K, RANDOM_K = "difference", "top-k", "random-k"
"""Of `compression.kind`: all entries, as differences to what was told before; those that differ most; drawn ones."""

NEXT, CHOCO = "next", "choco"
"""Of `method.kind`."""

TRACKING: Final = (NEXT, "gradient-tracking")
"""Methods whose peers know the gradient of the network, as far as they have tracked it."""

REAL_TARGETS: Final = ("squared", "huber")
"""Losses of real targets, for which classes are coded; the others are of labels."""

DRAWN: Final = ("quadratic", "gaussian-mixture")
"""Data sets that are drawn from a known law with the seed, see `peer.theory`."""

WORDS: Final[Mapping[str, Sequence[str]]] = {
    "surrogate.blocks": ("layers",),
    "surrogate.tau": ("auto",),
    "step.alpha": ("auto",),
    "compression.gamma": ("auto",),
}
"""Words that may stand in the place of a number."""

CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "data.partition": ("iid", "dirichlet", "label-sorted"),
    "data.dataset": ("", "breast-cancer", "diabetes", "digits", "wine", *DRAWN),
    "model.activation": tuple(ACTIVATIONS),
    "model.inner_product": ("euclidean", "fan-in"),
    "objective.loss": ("squared", "huber", "squared_hinge", "cross_entropy"),
    "objective.regularizer": ("none", "l2", "l1", "elastic_net", "group_l2"),
    "objective.scale": ("mean", "sum"),
    "surrogate.kind": ("partial", "full"),
    "surrogate.curvature": ("local", "network", "auto"),
    "regime.kind": ("full", "neural-tangent", "random-features", "auto"),
    "surrogate.gradient": ("backprop", FEEDBACK_ALIGNMENT),
    "step.rule": ("constant", "diminishing", "auto"),
    "method.kind": (NEXT, "gradient-descent", "gradient-tracking", "d-psgd", CHOCO, "exact-diffusion", "extra"),
    "topology.graph": FAMILIES,
    "topology.schedule": SCHEDULES,
    "topology.weights": WEIGHTS,
    "topology.consensus": CONSENSUS,
    "run.mode": ("rounds", "async"),
    "compression.kind": ("auto", "none", DIFFERENCE, TOP_K, RANDOM_K),
    "transport.wire_dtype": ("f8", "f4", "bf16"),
    "transport.security": ("curve", "none"),
}

RANGES: Final[Mapping[str, tuple[float, float, str]]] = {
    # key: low, high, and what is accepted; both ends included unless the text says otherwise
    "seed": (0, 2**63 - 1, "an integer from 0 to 2^63 - 1"),
    "peers": (1, MAX_PEERS, f"1 to {MAX_PEERS}"),
    "iterations": (1, 2**31, "an integer from 1 to 2^31"),
    "data.dirichlet_alpha": (1e-6, 1e6, "1e-6 to 1e6"),
    "data.test_fraction": (0.0, 0.9, "0 to 0.9"),
    "data.dimension": (1, MAX_DIMENSION, f"1 to {MAX_DIMENSION}"),
    "data.samples": (1, 2**31, "a number of samples, 1 to 2^31"),
    "data.separation": (5e-324, 1.0, "0 < separation <= 1"),
    "data.validation_fraction": (0.0, 0.9, "0 (none) to 0.9"),
    "model.outputs": (0, 2**20, "an integer from 0 to 2^20"),
    "objective.huber_delta": (5e-324, math.inf, "a number > 0"),
    "objective.strength": (0.0, math.inf, "a number >= 0"),
    "objective.l1_ratio": (0.0, 1.0, "0 (l2) to 1 (l1)"),
    "objective.tangent_strength": (0.0, math.inf, "a number >= 0"),
    "surrogate.tau": (5e-324, math.inf, 'a number > 0, or "auto"'),
    "surrogate.blocks": (1, 2**31, '1 to the number of parameters, or "layers"'),
    "surrogate.cores": (1, MAX_CORES, f"1 to {MAX_CORES}"),
    "surrogate.tolerance": (1e-15, 1.0, "1e-15 to 1"),
    "surrogate.inexactness": (0.0, math.inf, "a number > 0, or 0 (every solve to surrogate.tolerance)"),
    "surrogate.batch": (0, 2**31, "a number of samples, 1 to 2^31, or 0 (all of them)"),
    "surrogate.refresh": (0, 2**31, "a number of rounds, 1 to 2^31, or 0 (as many as a pass in batches has)"),
    "regime.relinearize_every": (0, 2**31, "a number of rounds, 1 to 2^31, or 0 (never after the start)"),
    "surrogate.probe_every": (0, 2**31, "a number of rounds, 1 to 2^31, or 0 (never)"),
    "surrogate.fallback": (-1.0, 1.0, "a cosine, -1 to 1"),
    "surrogate.grace": (0, 2**31, "a number of rounds, 0 to 2^31"),
    "step.alpha": (5e-324, 1.0, '0 < alpha <= 1, or "auto"'),
    "step.mu": (0.0, math.inf, "a number >= 0"),
    "method.step_size": (5e-324, math.inf, "a number > 0"),
    "method.local_steps": (1, 2**31, "a number of steps, 1 to 2^31"),
    "method.momentum": (0.0, 1.0 - 2**-53, "0 (none) <= momentum < 1"),
    "topology.probability": (0.0, 1.0, "0 to 1"),
    "topology.radius": (0.0, 2.0, "0 to 2"),
    "topology.link_probability": (0.0, 1.0, "0 to 1"),
    "topology.consensus_steps": (1, MAX_CONSENSUS_STEPS, f"1 to {MAX_CONSENSUS_STEPS}"),
    "run.checkpoint_every": (0, MAX_CHECKPOINT_EVERY, f"0 (never) to {MAX_CHECKPOINT_EVERY}"),
    "run.tolerance": (0.0, math.inf, "a number > 0, or 0 (never stop early)"),
    "run.validation_patience": (0, 2**31, "a number of rounds, 1 to 2^31, or 0 (never stop early)"),
    "run.patience_s": (1e-3, 1e9, "seconds, 1e-3 to 1e9"),
    "run.departure_s": (1e-3, 1e9, "seconds, 1e-3 to 1e9"),
    "run.agents_per_process": (1, MAX_PEERS, f"1 to {MAX_PEERS}"),
    "compression.fraction": (1e-6, 1.0, "0 < fraction <= 1, at least 1e-6"),
    "compression.gamma": (1e-6, 1.0, '0 < gamma <= 1, at least 1e-6, or "auto"'),
    "robustness.clip_w": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
    "robustness.clip_y": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
    "robustness.clip_objective": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
}
