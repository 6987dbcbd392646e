"""The experiment file: what may stand in it, and its checks. Other people's tools rely on these names."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, get_type_hints
from urllib.parse import urlsplit

import msgspec
import numpy as np
import tomli_w

from peer import networks
from peer.errors import ConfigError
from peer.optim.layers import ACTIVATIONS
from topology.gossip import CHEBYSHEV, CONSENSUS, STATIC
from topology.graphs import FAMILIES
from topology.schedules import SCHEDULES
from topology.weights import FDLA, STATIC_ONLY, WEIGHTS


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[data]`: a named data set to be cut, or the pattern of the files that are cut already.

    Parameters
    ----------
    dataset : str
        A named data set, which is cut into one shard a peer; empty where data.path names files that are cut already.
    path : str
        Shard files, with {id} for the number of a peer, 0-based; relative to the experiment file.
    test_path : str
        Held-out samples for the test metrics; relative to the experiment file.
    partition : str
        How a named set is cut: iid; dirichlet, unequal classes; label-sorted, contiguous pieces of the sorted set.
    dirichlet_alpha : float
        Of dirichlet: small is unequal.
    test_fraction : float
        Part of a named set that is held out for the test metrics.
    standardize : bool
        Whether columns of a named set, real targets included, get mean 0 and deviation 1.
    dimension : int
        Of sets that are drawn: columns of x.
    samples : int
        Of sets that are drawn: how many, before some are held out.
    separation : float
        Of gaussian-mixture: how far the covariances of the classes differ, ||Delta||.
    validation_fraction : float
        Part of each peer's own samples that is not trained on, but watched.
    validation_path : str
        Or files with such samples, may hold {id}; relative to the experiment file.
    """

    dataset: str = ""
    path: str = ""  # with {id}, 0-based; relative to the experiment file
    test_path: str = ""
    partition: str = "iid"
    dirichlet_alpha: float = 0.5  # strongly unequal, as in Hsu, Qi & Brown 2019
    test_fraction: float = 0.25  # scikit-learn's default
    standardize: bool = True  # of sets that are drawn nothing: x has mean 0 and deviation 1 by its law
    dimension: int = 20  # of sets that are drawn, d: one that five peers learn in seconds
    samples: int = 10_000  # before some are held out: 1,500 for each of five peers and 2,500 to test with
    separation: float = 0.5  # of gaussian-mixture, ||Delta||_op: the classes differ, and no variance comes near 0
    validation_fraction: float = 0.0  # of each peer's own samples, not trained on; 0: none
    validation_path: str = ""  # of files of their own for that, may hold {id}; relative to the experiment file


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[model]`: a chain of layers, or, in short, a multilayer perceptron.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers of a multilayer perceptron; [] is a linear model.
    activation : str
        Between these layers.
    layers : sequence
        Instead of these two: a word, or a table with its kind, for each layer; see "Networks" in the README.
    image : sequence of int
        Channels, height and width of an input, for layers that see images; [] is a vector.
    python : str
        Instead of layers: "package.module:function" that makes a network with PyTorch or JAX.
    folder : str
        Where that module is looked for first; empty: beside the experiment file.
    inner_product : str
        Of parameters: euclidean, or that of the layers, fan-in: weights count once for each input of their neuron.
    initial : str
        File of first parameters, may hold {id}; relative to the experiment file; empty: drawn from the seed.
    outputs : int
        Number of outputs; 0: as many as the data, or the initial parameters, say.
    """

    hidden: tuple[int, ...] = (10,)
    activation: str = "tanh"
    layers: tuple[Any, ...] = ()  # see `peer.networks`; empty: dense ones of the widths `hidden`
    image: tuple[int, ...] = ()  # channels, height, width of an input, for layers that see it so; empty: a vector
    python: str = ""  # "package.module:function" that makes the network, see `peer.frameworks.functions`
    folder: str = ""  # where that module is looked for first; relative to, and empty: that of the experiment file
    inner_product: str = "euclidean"  # of parameters; "fan-in": that of the layers, see `peer.optim.metrics`
    initial: str = ""  # relative to the experiment file; empty: drawn from the seed, the same for all
    outputs: int = 0  # 0: as many as the data, or the initial parameters, say


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[objective]`: (1) and (2).

    Parameters
    ----------
    loss : str
        squared and huber are of real targets, by which classes are coded; the others are of labels.
    huber_delta : float
        Of huber: residuals beyond it count linearly.
    regularizer : str
        r(w): l2 shrinks; l1 and elastic_net make zeros; group_l2 switches off whole neurons.
    strength : float
        lambda of the regularizer.
    l1_ratio : float
        Of elastic_net: the share of l1.
    lower : float
        Least value of every parameter that is regularized.
    upper : float
        Largest value of these.
    regularize_biases : bool
        Whether biases are regularized and bounded, too.
    scale : str
        Weight of each sample: 1 over the number of all (mean), or 1 (sum).
    tangent_strength : float
        Of a loss of derivatives along shifts of images; 0: none.
    shifts : sequence
        Such shifts, [down, right] in pixels.
    """

    loss: str = "squared"
    huber_delta: float = 1.345  # of huber: 95 % of the efficiency of least squares (Holland & Welsch 1977), see README
    regularizer: str = "l2"
    strength: float = 1e-3
    l1_ratio: float = 0.5  # of elastic_net: rho
    lower: float = -math.inf  # bounds of every parameter that is regularized
    upper: float = math.inf
    regularize_biases: bool = True
    scale: str = "mean"
    tangent_strength: float = 0.0  # of a loss of derivatives along `shifts`; 0: none
    shifts: tuple[tuple[int, int], ...] = ((1, 0), (0, 1))  # of images, down and right, see `peer.optim.tangents`


class Surrogate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[surrogate]`: (11) or (12).

    Parameters
    ----------
    kind : str
        What each agent minimizes in a round: the loss of its linearized network (partial), or that linearized, too.
    curvature : str
        Of the partial surrogate: the agent's own (local, the paper's), or an estimate for all (network); auto: network.
    tau : float or str
        Weight of the proximal term, or auto: each agent's own, from the curvature that it sees.
    blocks : int or str
        Blocks of parameters that an agent solves for independently, or layers: one a layer.
    cores : int
        Threads with which an agent solves its blocks; their number changes no bit.
    tolerance : float
        Relative residual to which a surrogate is minimized.
    inexactness : float
        In rounds: early surrogates are minimized only roughly, by this much; 0: all to the tolerance.
    batch : int
        Samples of which an agent makes a round's gradient; 0: all.
    refresh : int
        With a batch: rounds between two full passes; 0: as many as a pass in batches has.
    gradient : str
        By backprop, or by fixed random matrices in its place.
    probe_every : int
        With feedback alignment: rounds between two looks at how well it is aligned; 0: none.
    fallback : float
        With feedback alignment: cosine below which an agent goes back to backprop.
    grace : int
        With feedback alignment: rounds for which it may be below.
    """

    kind: str = "partial"
    curvature: str = "auto"  # the network's; "local" is the paper's
    tau: float | str = "auto"
    blocks: int | str = 1
    cores: int = 1  # threads that solve blocks, or go through layers with feedback; their number changes no bit
    tolerance: float = 1e-8
    inexactness: float = 0.0  # in rounds: c of `Problem.in_round`; 0: every solve goes to `tolerance`
    batch: int = 0  # samples a round; 0: all, exact, the paper's
    refresh: int = 0  # with a batch, rounds between full passes; 0: as many as a pass in batches has
    gradient: str = "backprop"
    probe_every: int = 10  # with feedback: rounds between two looks at how it is aligned, see `peer.alignment`; 0: none
    fallback: float = 0.1  # cosine below which an agent goes back to backprop, see there
    grace: int = 200  # rounds for which it may be below


class Regime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[regime]`: which parameters are trained, and how often the network is linearized; see `peer.optim.regimes`.

    Parameters
    ----------
    kind : str
        What is trained: all of the network (full, and auto, which linearizes it anew only when that is due); the
        network linearized at its start (neural-tangent); its last layer alone (random-features).
    trainable : sequence of str
        Parts or layers by name that are trained, the others stay as they begin; []: all.
    relinearize_every : int
        Rounds between two linearizations; 1: the method as published; 0: never after the start.
    """

    kind: str = "full"
    trainable: tuple[str, ...] = ()  # with kind "full" or "auto": parts or layers by name; empty: all
    relinearize_every: int = 1  # with kind "full": rounds; 1: the method as published; 0: never after the start


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[step]`: (10).

    Parameters
    ----------
    rule : str
        Of the step sizes alpha[n]: constant, or diminishing by mu; auto: constant.
    alpha : float or str
        First step size, or auto: from how fast the graph averages.
    mu : float
        Of diminishing steps: alpha[n+1] = alpha[n] (1 - mu alpha[n]).
    """

    rule: str = "auto"  # constant, with the alpha of the graph where none is given
    alpha: float | str = "auto"
    mu: float = 0.0


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[method]`: NEXT, or what it is compared with, see `peer.methods`; of the latter the step in place of alpha.

    Parameters
    ----------
    kind : str
        What agents do in a round; choco is d-psgd that says differences, by [compression], of which top-k is its
        default.
    step_size : float
        Of all but NEXT, > 0.
    local_steps : int
        Of d-psgd and choco, before each exchange.
    momentum : float
        Of d-psgd and choco, from 0 to below 1.
    """

    kind: str = "next"
    step_size: float = 0.1  # s, where others mostly begin, as K. He et al. 2016 do
    local_steps: int = 1  # as X. Lian et al. 2017
    momentum: float = 0.0


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[topology]`: who meets whom, when, and with what weight.

    Parameters
    ----------
    graph : str
        Family of the graph whose links may be used.
    probability : float
        Of each link of an erdos-renyi graph.
    radius : float
        Of geometric graphs: reach of a peer in the unit square.
    schedule : str
        Which links are there in a round: all (static), some, or as a file says.
    link_probability : float
        Of random-links: that a link is up in a round.
    directed : bool
        Without rounds: who pushes to whom, where the graph has such a form.
    path : str
        Of schedule = "file": that file; relative to the experiment file.
    weights : str
        With which neighbors average: by a rule, or, for a static graph, the fastest ones there are (fdla).
    consensus_steps : int
        Exchanges of neighbors in a round; 1: the method as published.
    consensus : str
        What several exchanges come to: plain averaging, or a Chebyshev polynomial of it.
    """

    graph: str = "erdos-renyi"
    probability: float = 0.3
    radius: float = 0.5  # of geometric graphs, in the unit square
    schedule: str = "static"
    link_probability: float = 0.5
    directed: bool = False  # mode "async": who pushes to whom, where the graph has such a form
    path: str = ""  # of schedule "file"; relative to the experiment file
    weights: str = "metropolis"
    consensus_steps: int = 1  # exchanges a round; 1: the method as published
    consensus: str = "plain"


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[run]`.

    Parameters
    ----------
    mode : str
        In step with the neighbors (rounds), or each peer when it likes (async), which peers may join and leave.
    checkpoint_every : int
        Rounds or wakings between two checkpoints; 0: never.
    tolerance : float
        In rounds: all stop as soon as all residuals are below it; 0: never.
    validation_patience : int
        Rounds without a better validation loss until all stop; 0: never.
    patience_s : float
        Seconds for which a neighbor is waited for.
    departure_s : float
        Without rounds: seconds without progress after which a member counts as gone.
    id : str
        What tells runs of one experiment apart; empty: its name, and what launch adds.
    publish : str
        Where peer 0 tells who listens what it journals, see `peer watch`: tcp://HOST:PORT, peer i at the port plus i.
    agents_per_process : int
        Of `peer launch`: how many agents share a process; more than there are: all of them.
    """

    mode: str = "rounds"
    checkpoint_every: int = 10
    tolerance: float = 0.0  # mode "rounds": stop early, see `peer.stopping`; 0: never
    validation_patience: int = 0  # rounds without a better validation loss until all stop; 0: never
    patience_s: float = 60.0
    departure_s: float = 30.0  # mode "async": without progress for so long, a member counts as gone
    id: str = ""  # what tells runs of one experiment apart; empty: its name
    publish: str = ""
    agents_per_process: int = 1


class Robustness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[robustness]`: how far a neighbor may pull, see `agent.Clipping`; 0: as far as it likes.

    Parameters
    ----------
    clip_w : float
        How far a neighbor may pull the parameters in a round; 0: as far as it likes.
    clip_y : float
        How far it may pull the tracked gradient.
    clip_objective : float
        How far it may pull the tracked objective.
    """

    clip_w: float = 0.0
    clip_y: float = 0.0
    clip_objective: float = 0.0


class Compression(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[compression]`: how much of z and y neighbors say to each other, see `peer.links`.

    Parameters
    ----------
    kind : str
        All numbers (none), what has changed since the last time (difference), of that the largest (top-k), or numbers
        that are drawn (random-k); auto: differences with wire_dtype = "bf16", else none.
    fraction : float
        Of the numbers of a vector, by top-k and random-k, up to 1.
    gamma : float or str
        How far agents go towards each other by differences, up to 1; auto: twice the fraction, at most 1.
    """

    kind: str = "auto"  # values in bf16 would agree to two digits
    fraction: float = 0.1  # fewer numbers a round, more rounds: see the table in README
    gamma: float | str = "auto"


class Transport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[transport]`.

    Parameters
    ----------
    wire_dtype : str
        Of numbers that are sent: f8 keeps every bit, f4 halves the bytes.
    security : str
        curve encrypts and lets only known peers in; none is for the loopback alone.
    keys : str
        Folder that `peer keys` wrote, may hold {id}; relative to the experiment file; launch makes its own.
    addresses : sequence of str
        "tcp://host:port" of each peer, or one that holds {id}; launch takes free ports of the loopback.
    bind : str
        Where this peer listens, if not at its address.
    """

    wire_dtype: str = "f8"
    security: str = "curve"
    keys: str = ""  # directory that `peer keys` wrote, may hold {id}; relative to the experiment file
    addresses: tuple[str, ...] = ()  # one a peer; or a single one that holds {id}
    bind: str = ""  # empty: at the own address, on all interfaces where that is a name


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: where else the numbers of the run go; who takes them there neither slows nor steers a peer.

    Parameters
    ----------
    tensorboard : str
        Folder to which launch, or `peer follow`, writes events for TensorBoard; relative to the experiment file.
    mlflow : str
        The same for MLflow: a tracking URI, or a folder relative to the experiment file.
    openmetrics : int or str
        Port on the loopback, or "host:port", where OpenMetrics text is served: by launch or `peer follow` for all
        peers, by `peer run` for its own.
    """

    tensorboard: str = ""
    mlflow: str = ""
    openmetrics: int | str = ""


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole experiment.

    Parameters
    ----------
    name : str
        Of the experiment: run directories are called so.
    seed : int
        Root of all randomness.
    peers : int
        How many there are.
    iterations : int
        Rounds, or wakings of each peer.
    """

    name: str = "experiment"
    seed: int = 0
    peers: int = 8
    iterations: int = 300
    data: Data = Data()
    model: Model = Model()
    objective: Objective = Objective()
    surrogate: Surrogate = Surrogate()
    regime: Regime = Regime()
    step: Step = Step()
    method: Method = Method()
    topology: Topology = Topology()
    run: Run = Run()
    robustness: Robustness = Robustness()
    compression: Compression = Compression()
    transport: Transport = Transport()
    metrics: Metrics = Metrics()
    software: Mapping[str, str] = {}  # versions that a finished run used; for the record only

    @property
    def n_exchanges(self) -> int:
        """Exchanges of a run in rounds, each with a graph of its own: `consensus_steps` in each round."""
        return self.iterations * self.topology.consensus_steps

    @property
    def holds_out(self) -> bool:
        """Whether peers have samples that are not trained on, see `peer.validation`."""
        return bool(self.data.validation_fraction or self.data.validation_path)

    @property
    def compression_kind(self) -> str:
        """What "auto" stands for, or the kind that is given."""
        kind = self.compression.kind
        if kind == "auto" and self.method.kind == CHOCO:
            return TOP_K
        return kind if kind != "auto" else DIFFERENCE if self.transport.wire_dtype == "bf16" else "none"

    @property
    def run_id(self) -> str:
        """What all messages of the run carry."""
        return self.run.id or self.name


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
    "seed": (0, 2**63 - 1, "an integer >= 0"),
    "peers": (1, MAX_PEERS, f"1 to {MAX_PEERS}"),
    "iterations": (1, 2**31, "an integer >= 1"),
    "data.dirichlet_alpha": (1e-6, 1e6, "a number > 0"),
    "data.test_fraction": (0.0, 0.9, "0 to 0.9"),
    "data.dimension": (1, MAX_DIMENSION, f"1 to {MAX_DIMENSION}"),
    "data.samples": (1, 2**31, "a number of samples >= 1"),
    "data.separation": (5e-324, 1.0, "0 < separation <= 1"),
    "data.validation_fraction": (0.0, 0.9, "0 (none) to 0.9"),
    "model.outputs": (0, 2**20, "an integer >= 0"),
    "objective.huber_delta": (5e-324, math.inf, "a number > 0"),
    "objective.strength": (0.0, math.inf, "a number >= 0"),
    "objective.l1_ratio": (0.0, 1.0, "0 (l2) to 1 (l1)"),
    "objective.tangent_strength": (0.0, math.inf, "a number >= 0"),
    "surrogate.tau": (5e-324, math.inf, 'a number > 0, or "auto"'),
    "surrogate.blocks": (1, 2**31, '1 to the number of parameters, or "layers"'),
    "surrogate.cores": (1, MAX_CORES, f"1 to {MAX_CORES}"),
    "surrogate.tolerance": (1e-15, 1.0, "1e-15 to 1"),
    "surrogate.inexactness": (0.0, math.inf, "a number > 0, or 0 (every solve to surrogate.tolerance)"),
    "surrogate.batch": (0, 2**31, "a number of samples >= 1, or 0 (all of them)"),
    "surrogate.refresh": (0, 2**31, "a number of rounds >= 1, or 0 (as many as a pass in batches has)"),
    "regime.relinearize_every": (0, 2**31, "a number of rounds >= 1, or 0 (never after the start)"),
    "surrogate.probe_every": (0, 2**31, "a number of rounds >= 1, or 0 (never)"),
    "surrogate.fallback": (-1.0, 1.0, "a cosine, -1 to 1"),
    "surrogate.grace": (0, 2**31, "a number of rounds >= 0"),
    "step.alpha": (5e-324, 1.0, '0 < alpha <= 1, or "auto"'),
    "step.mu": (0.0, math.inf, "a number >= 0"),
    "method.step_size": (5e-324, math.inf, "a number > 0"),
    "method.local_steps": (1, 2**31, "a number of steps >= 1"),
    "method.momentum": (0.0, 1.0 - 2**-53, "0 (none) <= momentum < 1"),
    "topology.probability": (0.0, 1.0, "0 to 1"),
    "topology.radius": (0.0, 2.0, "0 to 2"),
    "topology.link_probability": (0.0, 1.0, "0 to 1"),
    "topology.consensus_steps": (1, MAX_CONSENSUS_STEPS, f"1 to {MAX_CONSENSUS_STEPS}"),
    "run.checkpoint_every": (0, MAX_CHECKPOINT_EVERY, f"0 (never) to {MAX_CHECKPOINT_EVERY}"),
    "run.tolerance": (0.0, math.inf, "a number > 0, or 0 (never stop early)"),
    "run.validation_patience": (0, 2**31, "a number of rounds >= 1, or 0 (never stop early)"),
    "run.patience_s": (1e-3, 1e9, "a number of seconds > 0"),
    "run.departure_s": (1e-3, 1e9, "a number of seconds > 0"),
    "run.agents_per_process": (1, MAX_PEERS, f"1 to {MAX_PEERS}"),
    "compression.fraction": (1e-6, 1.0, "0 < fraction <= 1, at least 1e-6"),
    "compression.gamma": (1e-6, 1.0, '0 < gamma <= 1, at least 1e-6, or "auto"'),
    "robustness.clip_w": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
    "robustness.clip_y": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
    "robustness.clip_objective": (0.0, math.inf, "a radius > 0, or 0 (no clipping)"),
}


def read(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Experiment of a TOML file, checked, with its paths made absolute.

    Parameters
    ----------
    path : Path
        The file; paths in it are relative to its folder.
    overrides : sequence of str
        "key=value" each, the value as TOML would write it; a word without quotes is text. Paths
        in them are relative to the current folder.

    Raises
    ------
    ConfigError
        Names the file or key, what was expected and what was found.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"expected an experiment file, found: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"expected TOML, found: {error}") from error
    _anchor(tree, path.parent)
    override(tree, overrides)
    return anchored(tree, path.parent)


def anchored(tree: dict[str, Any], folder: Path) -> Experiment:
    """Experiment of nested tables, checked, with paths relative to a folder made absolute.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    _anchor(tree, folder)
    model = tree.get("model")
    if isinstance(model, dict) and model.get("python") and not model.get("folder"):
        model["folder"] = str(folder.absolute())
    return from_tree(tree)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put "key=value" settings into a tree of settings.

    Raises
    ------
    ConfigError
        Not of that form.
    """
    given: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError("--set", f"expected key=value, found {item!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, last = key.strip().split(".")
        place = given
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError("--set", f"expected {table} as a table or as a value, found both")
        place[last] = value
    _anchor(given, Path.cwd())
    merge(tree, given)


def merge(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put nested tables into others: what both have is taken of `given`."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Tables in tables, of what may have dotted keys, {"surrogate.tau": 1}, and values as TOML has them, not numpy."""
    tree: dict[str, Any] = {}
    for key, value in given.items():
        *tables, last = str(key).split(".")
        plain = nested(value) if isinstance(value, Mapping) else _plain(value)
        for table in (last, *reversed(tables)):
            plain = {table: plain}
        merge(tree, plain)
    return tree


def _plain(value: Any) -> Any:  # noqa: ANN401  (whatever a notebook has)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, tuple | list):
        return [nested(item) if isinstance(item, Mapping) else _plain(item) for item in value]
    return value


def _anchor(tree: Mapping[str, Any], folder: Path) -> None:
    for key in PATHS:
        table, _, name = key.partition(".")
        section = tree.get(table)
        if isinstance(section, dict) and isinstance(section.get(name), str) and section[name]:
            section[name] = str((folder / section[name]).absolute())
    metrics = tree.get("metrics")
    if isinstance(metrics, dict) and isinstance(metrics.get("mlflow"), str) and is_folder(metrics["mlflow"]):
        metrics["mlflow"] = str((folder / metrics["mlflow"]).absolute())


def is_folder(place: str) -> bool:
    """Whether a place for MLflow is a folder, and no tracking URI such as "http://host:5000"."""
    return bool(place) and ":" not in place and place != "databricks"


def from_tree(tree: Mapping[str, Any]) -> Experiment:
    """Experiment of nested tables, checked.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    _refuse_unknown(tree, Experiment, "")
    try:
        experiment = msgspec.convert(tree, Experiment)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise ConfigError(place.rstrip("`") or "experiment", problem.replace("`", "")) from error
    experiment = _with_all_addresses(experiment)
    check(experiment)
    return experiment


def _with_all_addresses(experiment: Experiment) -> Experiment:
    """A single address that holds {id} stands for those of all peers."""
    addresses = experiment.transport.addresses
    if len(addresses) != 1 or "{id}" not in addresses[0] or experiment.peers > MAX_PEERS:
        return experiment
    each = tuple(addresses[0].replace("{id}", str(peer)) for peer in range(experiment.peers))
    transport = msgspec.structs.replace(experiment.transport, addresses=each)
    return msgspec.structs.replace(experiment, transport=transport)


def _refuse_unknown(tree: Mapping[str, Any], struct: type, prefix: str) -> None:
    known = {key: kind for key, kind in get_type_hints(struct).items() if not key.startswith("_")}
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *flat(Experiment())], n=1, cutoff=0.5)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known here: {', '.join(known)}"
            raise ConfigError(prefix + key, f"unknown key{hint}")
        kind = known[key]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if not isinstance(value, dict):
                raise ConfigError(prefix + key, f"expected a table [{key}], found {value!r}")
            _refuse_unknown(value, kind, f"{prefix}{key}.")


def flat(experiment: Experiment) -> dict[str, Any]:
    """Every setting by its dotted key, the record of versions excepted."""
    tree = msgspec.to_builtins(experiment)
    tree.pop("software")
    top = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    inner = {
        f"{key}.{name}": value
        for key, table in tree.items()
        if isinstance(table, dict)
        for name, value in table.items()
    }
    return top | inner


def check(experiment: Experiment) -> None:
    """Check each setting by itself, and those that depend on each other.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    settings = flat(experiment)
    for key, choices in CHOICES.items():
        if settings[key] not in choices:
            shown = ", ".join(choice for choice in choices if choice)
            raise ConfigError(key, f"expected one of {shown}; found {settings[key]!r}")
    for key, (low, high, accepted) in RANGES.items():
        value = settings[key]
        if value in WORDS.get(key, ()):
            continue
        if isinstance(value, str) or not low <= value <= high or math.isinf(value):
            raise ConfigError(key, f"expected {accepted}, found {value!r}")
    _check_together(experiment)


def _check_together(experiment: Experiment) -> None:
    data, step, transport = experiment.data, experiment.step, experiment.transport
    if not data.dataset and not data.path:
        raise ConfigError("data", "expected dataset = a name, or path = a pattern of shard files; found neither")
    if data.path and experiment.peers > 1 and "{id" not in data.path:
        raise ConfigError("data.path", f"expected a pattern with {{id}}, one file a peer; found {data.path!r}")
    for key, pattern in (("data.path", data.path), ("data.validation_path", data.validation_path)):
        try:
            pattern.format(id=0)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ConfigError(key, f"expected a pattern with {{id}}, found {pattern!r}") from error
    if not experiment.name or "/" in experiment.name or len(experiment.run_id) > 200:
        raise ConfigError("name", f"expected a name of 1 to 200 characters without /, found {experiment.name!r}")
    if not (experiment.name + experiment.run_id).isprintable():
        raise ConfigError("name", f"expected printable characters, found {experiment.run_id!r}")
    if any(width < 1 for width in experiment.model.hidden):
        raise ConfigError("model.hidden", f"expected widths >= 1, found {list(experiment.model.hidden)}")
    _check_layers(experiment.model)
    _check_tangents(experiment)
    _check_inner_product(experiment)
    _check_method(experiment)
    longest = 1.0 if isinstance(step.alpha, str) else step.alpha
    if experiment.method.kind != NEXT:
        longest = experiment.method.step_size
    if step.rule == "diminishing" and not step.mu * longest < 1.0:
        name = "alpha" if experiment.method.kind == NEXT else "step_size"
        raise ConfigError("step.mu", f"expected 0 <= mu < 1/{name} for diminishing steps, found {step.mu}")
    if step.rule != "diminishing" and step.mu != 0.0:
        raise ConfigError("step.mu", f'expected 0 with rule = "{step.rule}", found {step.mu}')
    if experiment.surrogate.refresh and not experiment.surrogate.batch:
        every = experiment.surrogate.refresh
        raise ConfigError(
            "surrogate.refresh", f"expected 0 where each round takes all samples, batch = 0; found {every}"
        )
    _check_regime(experiment)
    _check_feedback(experiment)
    _check_penalty(experiment)
    _check_clipping(experiment)
    _check_compression(experiment)
    if experiment.run.tolerance and experiment.run.mode != "rounds":
        mode, found = experiment.run.mode, experiment.run.tolerance
        raise ConfigError(
            "run.tolerance", f'expected 0 with mode = "{mode}", for only rounds stop early; found {found}'
        )
    if experiment.surrogate.inexactness and experiment.run.mode != "rounds":
        mode, found = experiment.run.mode, experiment.surrogate.inexactness
        raise ConfigError(
            "surrogate.inexactness", f'expected 0 with mode = "{mode}", which has no schedule of rounds; found {found}'
        )
    _check_validation(experiment)
    if experiment.topology.schedule == "file" and not experiment.topology.path:
        raise ConfigError("topology.path", 'expected a file for schedule = "file", found none')
    if experiment.topology.directed and experiment.run.mode != "async":
        mode = experiment.run.mode
        raise ConfigError("topology.directed", f'expected false with mode = "{mode}", as weights must be symmetric')
    _check_weights(experiment)
    _check_consensus(experiment)
    if transport.addresses and len(transport.addresses) != experiment.peers:
        found = len(transport.addresses)
        raise ConfigError("transport.addresses", f"expected one for each of {experiment.peers} peers, found {found}")
    for address in transport.addresses:
        split_address(address, "transport.addresses")
    if transport.bind:
        split_address(transport.bind, "transport.bind")
    endpoint_of(experiment.metrics.openmetrics)
    if experiment.run.publish:
        published_at(experiment.run.publish, experiment.peers - 1)


WITHOUT: Final[Mapping[str, str]] = {
    **{f"surrogate.{name}": "a surrogate" for name in Surrogate.__struct_fields__ if name != "batch"},
    "surrogate.refresh": "full passes between batches, whose gradients are taken as they are",
    "surrogate.gradient": "feedback, as gradients are what it is made of",
    **{f"regime.{name}": "a network that stays linearized" for name in Regime.__struct_fields__},
    "step.alpha": "a step towards the solution of a surrogate; method.step_size is the step",
    **{f"robustness.{name}": "clipping of what neighbors say" for name in Robustness.__struct_fields__},
    "run.mode": "a form without rounds",
}
"""What other methods than NEXT do not have, by setting."""

EXACT: Final = ("exact-diffusion", "extra")
"""Methods whose corrections add up over rounds, and are right for one step size."""


def _check_method(experiment: Experiment) -> None:
    method, found, usual = experiment.method, flat(experiment), flat(Experiment())
    if method.kind == NEXT:
        own = {name: "which has alpha and a surrogate" for name in Method.__struct_fields__ if name != "kind"}
    else:
        own = {} if method.kind in ("d-psgd", CHOCO) else dict.fromkeys(("local_steps", "momentum"), "which has none")
    for name, why in own.items():
        key = f"method.{name}"
        if found[key] != usual[key]:
            default = f'expected the default {usual[key]} with method.kind = "{method.kind}", {why}'
            raise ConfigError(key, f"{default}; found {found[key]!r}")
    if method.kind == NEXT:
        return
    for key, what in WITHOUT.items():
        if found[key] != usual[key]:
            default = f'expected the default {usual[key]!r} with method.kind = "{method.kind}"'
            raise ConfigError(key, f"{default}, which does not have {what}; found {found[key]!r}")
    if experiment.run.tolerance and method.kind != "gradient-tracking":
        why = "in which no agent knows the gradient of the network"
        raise ConfigError(
            "run.tolerance", f'expected 0 with method.kind = "{method.kind}", {why}; found {experiment.run.tolerance}'
        )
    if method.kind in EXACT and experiment.step.rule == "diminishing":
        why = "whose corrections are right for one step size; found 'diminishing'"
        raise ConfigError("step.rule", f'expected constant with method.kind = "{method.kind}", {why}')


def _check_layers(model: Model) -> None:
    networks.entries(model.layers)
    if model.image and (len(model.image) != 3 or min(model.image) < 1):
        raise ConfigError("model.image", f"expected channels, height and width >= 1, found {list(model.image)}")
    if model.image and not model.layers:
        raise ConfigError("model.image", f"expected [] without model.layers, found {list(model.image)}")
    for key in ("hidden", "activation", "layers") if model.python else ():
        if getattr(model, key) != getattr(Model(), key):
            raise ConfigError(f"model.{key}", f"expected nothing beside model.python = {model.python!r}, found one")


def _check_feedback(experiment: Experiment) -> None:
    surrogate, tolerance = experiment.surrogate, experiment.run.tolerance
    if surrogate.gradient != FEEDBACK_ALIGNMENT:
        return
    if surrogate.kind != "full":
        why = "as the partial surrogate needs the true Jacobian, which feedback does without"
        raise ConfigError("surrogate.gradient", f'expected backprop with kind = "{surrogate.kind}", {why}')
    if experiment.regime != Regime() or experiment.objective.tangent_strength:
        why = "with [regime] or tangent_strength, whose gradients layers do not get by feedback"
        raise ConfigError("surrogate.gradient", f"expected backprop {why}")
    if tolerance:
        why = "as what feedback gives may vanish where no gradient does"
        raise ConfigError("run.tolerance", f"expected 0 with {FEEDBACK_ALIGNMENT}, {why}; found {tolerance}")


def _check_inner_product(experiment: Experiment) -> None:
    found, objective = experiment.model.inner_product, experiment.objective
    problems = {
        "with [regime], which is about the network's own coordinates": experiment.regime != Regime(),
        "with model.python, of which layers are not known": bool(experiment.model.python),
        "with tangent_strength, whose gradient is in the network's own coordinates": objective.tangent_strength > 0.0,
        "with feedback alignment, which is in the network's own coordinates": (
            experiment.surrogate.gradient == FEEDBACK_ALIGNMENT
        ),
        "with group_l2, whose groups then have no proximal map in closed form": objective.regularizer == "group_l2",
    }
    for problem, holds in problems.items():
        if holds and found != Model().inner_product:
            raise ConfigError("model.inner_product", f"expected euclidean {problem}; found {found!r}")


def _check_tangents(experiment: Experiment) -> None:
    objective, image = experiment.objective, experiment.model.image
    if not objective.tangent_strength:
        return
    if experiment.regime != Regime():
        raise ConfigError("objective.tangent_strength", "expected 0 with [regime], which has no second derivatives")
    if not image:
        raise ConfigError("objective.tangent_strength", "expected 0 without model.image, for vectors do not shift")
    reach = min(image[1:]) - 1
    if not objective.shifts or any(max(map(abs, shift)) > reach or shift == (0, 0) for shift in objective.shifts):
        found = [list(shift) for shift in objective.shifts]
        raise ConfigError("objective.shifts", f"expected [rows, columns] of up to {reach}, not both 0; found {found}")


def _check_regime(experiment: Experiment) -> None:
    regime, kind, every = experiment.regime, experiment.regime.kind, experiment.regime.relinearize_every
    if kind != "full" and every != Regime().relinearize_every:
        itself = f"expected the default with kind = {kind!r}, which says itself when the network is linearized"
        raise ConfigError("regime.relinearize_every", f"{itself}; found {every}")
    if kind in ("neural-tangent", "random-features") and regime.trainable:
        itself = f"expected [] with kind = {kind!r}, which says itself what is trained"
        by_hand = 'kind = "full" takes trainable and relinearize_every'
        raise ConfigError("regime.trainable", f"{itself} ({by_hand}); found {list(regime.trainable)}")
    if kind == "auto" and experiment.surrogate.batch:
        whole = "which looks at all samples in each round to see whether it is time to linearize"
        raise ConfigError(
            "surrogate.batch", f"expected 0 with regime.kind = 'auto', {whole}; found {experiment.surrogate.batch}"
        )
    if every > 1 and experiment.run.tolerance:
        which = f"with relinearize_every = {every}, as between two linearizations residuals are not the network's"
        raise ConfigError("run.tolerance", f"expected 0 {which}; found {experiment.run.tolerance}")


def _check_validation(experiment: Experiment) -> None:
    data, patience, mode = experiment.data, experiment.run.validation_patience, experiment.run.mode
    fraction, path = data.validation_fraction, data.validation_path
    if fraction and path:
        found = f"found {fraction} and {path!r}"
        raise ConfigError("data", f"expected validation_fraction or validation_path, not both; {found}")
    if not (fraction or path):
        if patience:
            problem = "expected 0 without data.validation_fraction or data.validation_path, as no samples are held out"
            raise ConfigError("run.validation_patience", f"{problem}; found {patience}")
        return
    key, nothing = ("data.validation_path", "none") if path else ("data.validation_fraction", "0")
    found = f"found {path!r}" if path else f"found {fraction}"
    if mode != "rounds":
        problem = f'expected {nothing} with mode = "{mode}", for only rounds track a validation loss'
        raise ConfigError(key, f"{problem}; {found}")
    if experiment.robustness.clip_w:
        raise ConfigError(key, f"expected {nothing} with [robustness], for validation losses are not clipped; {found}")


def _check_penalty(experiment: Experiment) -> None:
    objective, blocks = experiment.objective, experiment.surrogate.blocks
    lower, upper = objective.lower, objective.upper
    if not lower < upper:  # nan also
        raise ConfigError("objective.lower", f"expected a number below upper = {upper}, found {lower}")
    if objective.regularizer == "group_l2" and (lower, upper) != (-math.inf, math.inf):
        raise ConfigError(
            "objective.regularizer",
            "expected one of none, l2, l1, elastic_net with bounds, as a group's proximal map within a box "
            "has no closed form; found 'group_l2'",
        )
    if objective.regularizer == "group_l2" and blocks not in (1, "layers"):
        raise ConfigError(
            "surrogate.blocks", f'expected 1 or "layers" with group_l2, as others cut groups; found {blocks}'
        )


def _check_weights(experiment: Experiment) -> None:
    topology, mode, key = experiment.topology, experiment.run.mode, "topology.weights"
    if topology.weights != Topology().weights and mode != "rounds":
        found = f"found {topology.weights!r}"
        raise ConfigError(key, f'expected the default with mode = "{mode}", which has weights of its own; {found}')
    if topology.weights == FDLA and topology.schedule != "static":
        raise ConfigError(key, f"{FDLA!r}: {STATIC_ONLY}; found {topology.schedule!r}")
    if topology.weights == FDLA and experiment.robustness.clip_w:
        raise ConfigError(key, f"expected weights that are never negative with [robustness], found {FDLA!r}")


def _check_consensus(experiment: Experiment) -> None:
    topology, mode, key = experiment.topology, experiment.run.mode, "topology.consensus"
    steps, every = topology.consensus_steps, experiment.run.checkpoint_every
    if steps != 1 and mode != "rounds":
        raise ConfigError(f"{key}_steps", f'expected 1 with mode = "{mode}", which has no rounds; found {steps}')
    if steps * every > MAX_CHECKPOINT_EVERY:
        kept = f"for neighbors keep their shares of all exchanges between two checkpoints; found {every}"
        allowed = f"0 (never) to {MAX_CHECKPOINT_EVERY // steps} with consensus_steps = {steps}"
        raise ConfigError("run.checkpoint_every", f"expected {allowed}, {kept}")
    if topology.consensus != CHEBYSHEV:
        return
    if mode != "rounds":
        raise ConfigError(key, f'expected plain with mode = "{mode}", which has no rounds; found {CHEBYSHEV!r}')
    if steps == 1:
        raise ConfigError(key, f"expected plain with consensus_steps = 1, which is no polynomial; found {CHEBYSHEV!r}")
    if topology.schedule != "static":
        raise ConfigError(key, f"{CHEBYSHEV!r}: {STATIC}; found {topology.schedule!r}")
    if experiment.robustness.clip_w:
        mean = "as what it makes of clipped differences is no mean of what neighbors say"
        raise ConfigError(key, f"expected plain with [robustness], {mean}; found {CHEBYSHEV!r}")


def _check_clipping(experiment: Experiment) -> None:
    clip_w, clip_y = experiment.robustness.clip_w, experiment.robustness.clip_y
    clips = {f"robustness.{key}": radius for key, radius in msgspec.structs.asdict(experiment.robustness).items()}
    key = next((key for key, radius in clips.items() if radius), None)
    if key is None:
        return
    if experiment.run.mode != "rounds":
        raise ConfigError(
            key, f"expected 0 with mode = {experiment.run.mode!r}, for only rounds clip; found {clips[key]}"
        )
    if not (clip_w and clip_y):  # who can pull the one pulls the other
        raise ConfigError("robustness", f"expected clip_w and clip_y both > 0 or all 0, found {clip_w} and {clip_y}")


def _check_compression(experiment: Experiment) -> None:
    kind, dtype, compression = experiment.compression_kind, experiment.transport.wire_dtype, experiment.compression
    if experiment.run.mode != "rounds" and dtype == "bf16":
        key, need = "transport.wire_dtype", "which has no links on which differences could be told"
        raise ConfigError(key, f'expected f8 or f4 with mode = "{experiment.run.mode}", {need}; found {dtype!r}')
    key, found, method = "compression.kind", f"found {kind!r}", experiment.method.kind
    if method == CHOCO and kind not in (TOP_K, DIFFERENCE):
        raise ConfigError(key, f'expected {TOP_K} or {DIFFERENCE} with method.kind = "{CHOCO}"; {found}')
    if kind == "none":
        return
    problems = {
        f'with mode = "{experiment.run.mode}", whose messages may be lost, and replicas with them': (
            experiment.run.mode != "rounds"
        ),
        "with [robustness], as what is clipped must be all that a neighbor says": bool(experiment.robustness.clip_w),
        "with run.tolerance, as neighbors do not see how far they are from agreeing": experiment.run.tolerance > 0.0,
        f"with topology.consensus = {CHEBYSHEV!r}, of which the polynomial is of whole vectors": (
            experiment.topology.consensus == CHEBYSHEV
        ),
        f'with method.kind = "{method}", whose corrections are right for whole vectors': method in EXACT,
        f"with topology.weights = {FDLA!r}, of which some may be negative": experiment.topology.weights == FDLA,
    }
    for problem, holds in problems.items():
        if holds:
            raise ConfigError(key, f"expected none {problem}; {found}")
    if kind == RANDOM_K and dtype == "bf16":
        values = "for it sends values and no differences, which bf16 rounds to two digits"
        raise ConfigError("transport.wire_dtype", f"expected f8 or f4 with {RANDOM_K}, {values}; found {dtype!r}")
    if kind == RANDOM_K and compression.gamma != "auto":
        raise ConfigError("compression.gamma", f"expected auto with {RANDOM_K}, found {compression.gamma}")


def published_at(pattern: str, peer: int, key: str = "run.publish") -> str:
    """Where a peer publishes: with its number in the place of {id}, if that is there, and added to the port.

    Raises
    ------
    ConfigError
        It is no address, or there is no such port.
    """
    host, port = split_address(pattern.replace("{id}", str(peer)), key)
    if port + peer > MAX_PORT:
        raise ConfigError(key, f"expected a port that, with {peer} added, is up to {MAX_PORT}; found {port}")
    return f"tcp://[{host}]:{port + peer}" if ":" in host else f"tcp://{host}:{port + peer}"


def split_address(address: str, key: str) -> tuple[str, int]:
    """Host, an IPv6 one without brackets, and port of "tcp://host:port".

    Raises
    ------
    ConfigError
        It is no such address.
    """
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    whole = parts.scheme == "tcp" and not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not whole or not host or port is None or not address.isprintable() or " " in address:
        raise ConfigError(key, f'expected "tcp://host:port", an IPv6 host in brackets; found {address!r}')
    return host, port


def endpoint_of(place: int | str, key: str = "metrics.openmetrics") -> tuple[str, int] | None:
    """Host and port where OpenMetrics text is served; a port alone is one of the loopback; None: nowhere.

    Raises
    ------
    ConfigError
        It is no such place.
    """
    if place == "":
        return None
    text = str(place)
    try:
        host, port = split_address(f"tcp://127.0.0.1:{text}" if text.isdecimal() else f"tcp://{text}", key)
    except ConfigError:
        host, port = "", 0
    if not 0 < port < 1 << 16:
        raise ConfigError(key, f'expected a port, or "host:port", found {place!r}')
    return host, port


def shared(experiment: Experiment, **facts: object) -> dict[str, str]:
    """What all peers of a run must agree on, as text by key; `facts` are derived ones to agree on too."""
    settings = {key: value for key, value in flat(experiment).items() if key not in LOCAL}
    return {key: _short(repr(value)) for key, value in sorted((settings | facts).items())}


def _short(text: str) -> str:
    """The text, or, where it is long, as of many layers, its beginning and a digest of it."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}... {blake2b(text.encode(), digest_size=16).hexdigest()}"


def to_toml(experiment: Experiment) -> str:
    """The whole experiment as a TOML file, defaults filled in."""
    return tomli_w.dumps(msgspec.to_builtins(experiment))
