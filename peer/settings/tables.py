"""The tables of an experiment file: each setting, what it means, and its default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from peer.settings.values import CHOCO, DIFFERENCE, TOP_K, TRACKING


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
    def tracks(self) -> bool:
        """Whether peers track the gradient of the network, and so can tell how far they are from stationary."""
        return self.method.kind in TRACKING

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
