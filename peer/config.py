"""From settings to objects: schedule, problem, first parameters, session; and the record of a run."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np

from peer import alignment, careful, networks, npz, settings, shards
from peer.agent import Clipping
from peer.alignment import Watch
from peer.arrays import Labels, Matrix, Vector
from peer.assembly import Assembly
from peer.careful import Caution
from peer.checkpoint import Checkpoint, Moment
from peer.errors import ConfigError
from peer.flows import Flows
from peer.frameworks import functions
from peer.membership import Membership
from peer.messages import Standing
from peer.optim import blocks, feedback, regimes
from peer.optim.batches import Batches
from peer.optim.blocks import Each, in_turn
from peer.optim.chains import Chain
from peer.optim.feedback import Feedback
from peer.optim.losses import Huber, Loss, Squared, Weighted, cross_entropy, squared_hinge
from peer.optim.metrics import Measured
from peer.optim.models import Model
from peer.optim.regimes import Linear, Restricted
from peer.optim.regularizers import L1, L2, Boxed, ElasticNet, NoRegularizer, Regularizer, group_l2
from peer.optim.steps import Constant, Diminishing, StepRule
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.optim.tangents import Tangents, shifted
from peer.problem import Problem
from peer.renewal import Renewal
from peer.roster import Roster
from peer.rounds import Rounds
from peer.session import Session
from peer.settings import Experiment
from peer.shards import Shard
from topology import Graph, Outlets, PeerId, Schedule, TopologyError, gossip, outlets, schedules
from topology.gossip import ONCE, Gossip, round_contraction
from topology.outlets import InStep
from topology.schedules import Static
from topology.weights import Fastest, Weights, contraction_in_step, make, metropolis

WILDCARDS: Final = ("*", "0.0.0.0", "::")
"""Hosts of an address to listen on that stand for all interfaces."""

BIASES: Final = frozenset({"bias", "b"})
"""Words in the last part of the name of parameters that are biases: here and in torch, and mostly for JAX."""

SOFTWARE: Final = ("next-peer", "numpy", "scipy", "pyzmq", "msgpack", "msgspec", "networkx")
"""Packages whose versions a run directory records."""

FRAMEWORKS: Final = ("torch", "jax", "jaxlib")
"""The same where the network is the user's own, as far as they are there."""


# ---- topology ------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Ground:
    """Links that are known to connect all peers.

    Parameters
    ----------
    schedule : Schedule
        Who meets whom in a round; without rounds nobody ever does.
    union : tuple of tuple of int
        All neighbors that a peer ever has, by peer; without rounds among the initial members, and
        both those to which it pushes and those that push to it.
    digest : str
        Of a schedule file's links, so that peers with different files find out; empty where there is none.
    outlets : Outlets
        Who pushes to whom without rounds.
    weights : Weights
        With which neighbors in a round average.
    gossip : Gossip
        How often they do so in a round, and how.
    contraction : float
        What a round of averaging, or a waking of all, leaves of a disagreement; for `auto`, 1 where nobody asks.
    """

    schedule: Schedule
    union: tuple[tuple[PeerId, ...], ...]
    digest: str
    outlets: Outlets
    weights: Weights = metropolis
    gossip: Gossip = ONCE
    contraction: float = 1.0


def ground(experiment: Experiment) -> Ground:
    """Links of an experiment, checked; best called `aside`, for it looks at the links of all peers.

    Raises
    ------
    ConfigError
        No valid schedule, or one that never connects; names its components.
    """
    n_agents, from_file = experiment.peers, experiment.topology.schedule == "file"
    linked = outlets_of(experiment)
    if experiment.run.mode == "async":
        members = tuple(range(n_agents))
        try:
            outlets.wakings_to_connect(linked, members, experiment.iterations)
        except TopologyError as error:
            raise ConfigError("topology", str(error)) from error
        text = "\n".join(_lines_of(linked, experiment)) if from_file else ""
        each = (linked.of(members, i) for i in members)
        union = tuple(tuple(sorted({*one.out_neighbors, *one.in_neighbors})) for one in each)
        nothing = Static(Graph(n_agents, frozenset()))
        factor = contraction_in_step(InStep(linked, n_agents)) if needs_contraction(experiment) else 1.0
        return Ground(nothing, union, short_digest(text) if from_file else "", linked, contraction=factor)
    schedule = schedule_of(experiment)
    try:
        whole = schedules.connected_union(schedule, experiment.n_exchanges)
        weights = make(experiment.topology.weights, schedule)
        rounds = gossip.make(experiment.topology.consensus, experiment.topology.consensus_steps, schedule, weights)
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error
    text = "\n".join(schedules.lines(schedule, experiment.n_exchanges)) if from_file else ""
    union = tuple(whole.neighbors(i) for i in range(n_agents))
    factor = round_contraction(schedule, weights, rounds) if needs_contraction(experiment) else 1.0
    return Ground(schedule, union, short_digest(text) if from_file else "", linked, weights, rounds, factor)


def needs_contraction(experiment: Experiment) -> bool:
    """Whether a setting is left to `peer.careful`, which looks at the graph."""
    return "auto" in (experiment.step.alpha, experiment.surrogate.tau)


def outlets_of(experiment: Experiment) -> Outlets:
    """Who pushes to whom, whether that connects the peers or not.

    Raises
    ------
    ConfigError
        The file gives no valid links.
    """
    topology = experiment.topology
    try:
        return outlets.make(
            topology.schedule,
            topology.graph,
            experiment.peers,
            directed=topology.directed,
            probability=topology.probability,
            radius=topology.radius,
            link_probability=topology.link_probability,
            path=Path(topology.path) if topology.path else None,
            seed=experiment.seed,
        )
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error


def schedule_of(experiment: Experiment) -> Schedule:
    """Schedule of an experiment, whether it connects or not.

    Raises
    ------
    ConfigError
        The family or file gives no valid schedule.
    """
    topology, n, seed = experiment.topology, experiment.peers, experiment.seed
    try:
        return schedules.make(
            topology.schedule,
            topology.graph,
            n,
            probability=topology.probability,
            radius=topology.radius,
            link_probability=topology.link_probability,
            path=Path(topology.path) if topology.path else None,
            seed=seed,
        )
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error


# ---- problem -------------------------------------------------------------------------------


def model_of(experiment: Experiment, shard: Shard, n_classes: int, initial: Initial) -> Model:
    """The network: its outputs as `model.outputs`, the initial parameters, or the data say.

    Parameters
    ----------
    experiment : Experiment
    shard : Shard
        Some of the data.
    n_classes : int
        Largest label of all peers plus one; 0 where there are no labels.
    initial : Initial
        Given parameters, if any.

    Raises
    ------
    ConfigError
        The data and the settings contradict each other.
    """
    model = experiment.model
    if shard.targets is not None and experiment.objective.loss in settings.REAL_TARGETS:
        implied = shard.targets.shape[1]
    else:
        _labels_of(experiment, shard)
        implied = 1 if n_classes <= 2 else n_classes
    if model.python:
        own = own_network_of(experiment, shard.x.shape[1:], model.outputs or implied)
        functions.check(own, shard.x)
        return trained_of(experiment, own, initial)
    q = model.outputs or initial.n_outputs or implied
    return trained_of(experiment, network_of(experiment, math.prod(shard.x.shape[1:]), q), initial)


def trained_of(experiment: Experiment, network: Model, initial: Initial) -> Model:
    """What a regime makes of a network: with some parameters that are fixed, linearized at the start, or itself.

    Or with its own inner product, which goes with no regime.

    Raises
    ------
    ConfigError
        It has no such parameters, or the given ones are not its.
    """
    if experiment.model.inner_product != "euclidean":
        assert isinstance(network, Chain), "settings allow no other"
        return Measured(network)
    names, model = trained_names(experiment, network), network
    if len(names) < len(network.layout.shapes):
        model = Restricted(network, names, initial.everything(network, experiment.seed))
    if not is_linear(experiment):
        return model
    return Linear(model, initial.vector(model, experiment.seed, regularizer_of(experiment, model)), FOR_GOOD)


FOR_GOOD: Final = 100
"""Rounds for which the network stays linearized at its start, for what is worth to be computed once: runs have more."""


def is_linear(experiment: Experiment) -> bool:
    """Whether what is trained is the network linearized at its start, and nothing else ever."""
    regime = experiment.regime
    return regime.kind in ("neural-tangent", "random-features") or regime.relinearize_every == 0


def renewal_of(experiment: Experiment) -> Renewal | None:
    """When agents linearize the network anew; None where they do in every round, or never."""
    regime = experiment.regime
    if regime.kind == "auto":
        return Renewal()
    return Renewal(regime.relinearize_every) if regime.kind == "full" and regime.relinearize_every > 1 else None


def lasts_of(experiment: Experiment) -> int:
    """Rounds for which a linearization stays, about; with `auto` nobody knows, and it is taken for ten."""
    renewal = renewal_of(experiment)
    return 1 if renewal is None else min(renewal.every or 10, FOR_GOOD)


def trained_names(experiment: Experiment, network: Model) -> tuple[str, ...]:
    """Names of the parts of a network that are trained.

    Raises
    ------
    ConfigError
        A name means none of them.
    """
    regime = experiment.regime
    if regime.kind == "random-features":
        return regimes.last(network.layout)
    try:
        return regimes.named(network.layout, regime.trainable or [name for name, _ in network.layout.shapes])
    except LookupError as error:
        known = ", ".join(name for name, _ in network.layout.shapes)
        raise ConfigError(
            "regime.trainable", f"expected parts of {known}, or what holds such; found {error}"
        ) from error


def own_network_of(experiment: Experiment, input_shape: Sequence[int], q: int) -> functions.Own:
    """The network that the user's function makes, from inputs of this shape to q outputs.

    Raises
    ------
    ConfigError
        It makes none, or the regularizer asks for something that is not known of it.
    """
    model, objective = experiment.model, experiment.objective
    own = functions.network(model.python, model.folder, tuple(input_shape), q, experiment.seed)
    if objective.regularizer == "group_l2" and not (own.neurons >= 0).any():
        raise ConfigError(
            "objective.regularizer",
            f"expected one of none, l2, l1, elastic_net, for which weights lead into one neuron is not known of "
            f"{model.python}; found 'group_l2'",
        )
    return own


def network_of(experiment: Experiment, n_inputs: int, q: int) -> Model:
    """The network from inputs of so many entries to q outputs.

    Raises
    ------
    ConfigError
        Its layers do not fit.
    """
    model = experiment.model
    return networks.network_of(model.hidden, model.activation, model.layers, model.image, n_inputs, q)


def loss_of(experiment: Experiment, shard: Shard, q: int) -> Loss:
    """The loss with the shard's targets inside, and its weights of samples if it has such.

    Raises
    ------
    ConfigError
        Targets of another width than the model's q outputs, labels out of range, or no labels for a loss of them.
    """
    families: Mapping[str, Callable[[], Loss]] = {
        "squared": lambda: Squared(_targets_of(experiment, shard, q)),
        "huber": lambda: Huber(_targets_of(experiment, shard, q), experiment.objective.huber_delta),
        "squared_hinge": lambda: squared_hinge(_labels_of(experiment, shard, q), q),
        "cross_entropy": lambda: cross_entropy(_labels_of(experiment, shard, q), q),
    }
    loss = families[experiment.objective.loss]()
    return loss if shard.weights is None else Weighted(loss, shard.weights)


def _targets_of(experiment: Experiment, shard: Shard, q: int) -> Matrix:
    if shard.targets is None:
        return codes_of(shard, q)[_labels_of(experiment, shard, q)]
    if shard.targets.shape[1] != q:
        found = f"{shard.path}: expected y with the model's {q} columns, found {shard.targets.shape[1]}"
        raise ConfigError("data.path", found)
    return shard.targets


def _labels_of(experiment: Experiment, shard: Shard, q: int | None = None) -> Labels:
    """Labels of a shard, within the range of q outputs if these are known."""
    if shard.labels is None:
        needs = f"{experiment.objective.loss} needs integer labels; {shard.path} has real targets"
        raise ConfigError("objective.loss", needs)
    if q is not None and shard.labels.max() > (highest := max(q - 1, 1)):
        found = f"{shard.path}: expected labels in 0..{highest} for {q} outputs, found {shard.labels.max()}"
        raise ConfigError("data.path", found)
    return shard.labels


def codes_of(shard: Shard, q: int) -> Matrix:
    """What a loss of real targets takes as those of the classes, (n_classes, q): as the file says, or 0/1 codes."""
    if shard.codes is not None:
        return shard.codes
    return np.array([[0.0], [1.0]]) if q == 1 else np.eye(q)


def problem_of(
    experiment: Experiment, model: Model, shard: Shard, n_samples_total: int, each: Each = in_turn
) -> Problem:
    """g_i with all that belongs to it; `each` goes through the blocks of its surrogate.

    Raises
    ------
    ConfigError
        The shard does not fit the model, or there are more blocks than parameters.
    """
    try:
        inputs = model.inputs(shard.x)
    except ValueError as error:
        raise ConfigError("data.path", f"{shard.path}: {error}") from error
    weight = 1.0 / n_samples_total if experiment.objective.scale == "mean" else 1.0
    data = Data(model, inputs, loss_of(experiment, shard, model.n_outputs), weight, tangents_of(experiment, inputs))
    regularizer, surrogate = regularizer_of(experiment, model), surrogate_of(experiment, experiment.peers)
    tolerance, inexactness = experiment.surrogate.tolerance, experiment.surrogate.inexactness
    places, lasts = blocks_of(experiment, model), lasts_of(experiment)
    return Problem(data, regularizer, surrogate, tolerance, places, each, inexactness=inexactness, lasts=lasts)


def tangents_of(experiment: Experiment, inputs: Matrix) -> Tangents | None:
    """The loss of derivatives of these samples along the shifts of their images, if there is to be one."""
    objective, image = experiment.objective, experiment.model.image
    if not objective.tangent_strength:
        return None
    channels, height, width = image
    return Tangents(shifted(inputs, (channels, height, width), objective.shifts), objective.tangent_strength)


def regularizer_of(experiment: Experiment, model: Model) -> Regularizer:
    """r, which leaves biases alone where it is told to, as bounds do then."""
    objective = experiment.objective
    counts = np.ones(model.layout.size, dtype=np.bool_)
    if not objective.regularize_biases:
        for name, _, place in model.layout.slices():
            counts[place] = not BIASES.intersection(name.rpartition(".")[2].split("_"))
    strength = np.where(counts, objective.strength, 0.0)
    roots = model.roots if isinstance(model, Measured) else np.ones(model.layout.size)  # w = v / roots
    families: Mapping[str, Callable[[], Regularizer]] = {
        "none": NoRegularizer,
        "l2": lambda: L2(strength / roots**2),
        "l1": lambda: L1(strength / roots),
        "elastic_net": lambda: ElasticNet(
            objective.l1_ratio * strength / roots, (1.0 - objective.l1_ratio) * strength / roots**2
        ),
        "group_l2": lambda: group_l2(np.where(counts, model.neurons, -1), objective.strength),
    }
    regularizer = families[objective.regularizer]()
    if (objective.lower, objective.upper) == (-math.inf, math.inf):
        return regularizer
    lower, upper = np.where(counts, objective.lower, -math.inf), np.where(counts, objective.upper, math.inf)
    return Boxed(regularizer, roots * lower, roots * upper)


def batches_of(
    experiment: Experiment, me: PeerId, n_samples: int, n_samples_total: int, n_agents: int
) -> Batches | None:
    """Samples of each round of an agent that has m of them; None: all, also where it has no more than one batch.

    A full pass is made by all in the same rounds, for in rounds all wait for the slowest. Where the experiment does not
    say in which: one for each pass in batches, M/(I b) rounds. The estimates cost 2 b gradients a round, and the full
    passes then half of that again. With b the root of m it is the period that is best for one agent alone by the theory
    of a like estimator (C. Fang et al., "SPIDER: Near-optimal non-convex optimization via stochastic path-integrated
    differential estimator", 2018).
    """
    b, refresh = experiment.surrogate.batch, experiment.surrogate.refresh
    if not 0 < b < n_samples:
        return None
    return Batches(experiment.seed, me, n_samples, b, refresh or -(-n_samples_total // (n_agents * b)))


FEEDBACK: Final = 4
"""What is drawn from the seed: with 0 are the first parameters, with 1 which peer has which samples, with 2 and 3 data
of known laws."""


def feedback_of(experiment: Experiment, model: Model) -> Feedback | None:
    """Along which matrices layers learn, the same at all agents; None: by backprop.

    Raises
    ------
    ConfigError
        The model is no chain of layers, or a single one.
    """
    key, needs = "surrogate.gradient", f"{settings.FEEDBACK_ALIGNMENT} needs a network of layers"
    if experiment.surrogate.gradient != settings.FEEDBACK_ALIGNMENT:
        return None
    if not isinstance(model, Chain):
        raise ConfigError(key, f"{needs}, as [model] describes them, to which it can go; found another one")
    if len(feedback.segments(model)) < 2:
        raise ConfigError(key, f"{needs} of which two or more have parameters, for the last one has its gradient")
    return feedback.drawn(np.random.default_rng([experiment.seed, FEEDBACK]), model)


def watch_of(experiment: Experiment, problem: Problem, me: PeerId) -> Watch | None:
    """How an agent sees to it that its feedback is aligned; None where there is none, or nobody looks."""
    surrogate = experiment.surrogate
    if problem.feedback is None or not surrogate.probe_every:
        return None
    data = alignment.probe(problem.data, experiment.seed, me)
    return Watch(data, surrogate.probe_every, surrogate.fallback, surrogate.grace)


def reweighted(experiment: Experiment, problem: Problem, n_samples_total: int, n_agents: int) -> Problem:
    """The same g_i, and its surrogate, among other members: M and I have changed."""
    weight, batches = 1.0 / n_samples_total if experiment.objective.scale == "mean" else 1.0, problem.batches
    if batches is not None:
        batches = batches_of(experiment, batches.agent, batches.n_samples, n_samples_total, n_agents)
    data, surrogate = replace(problem.data, weight=weight), surrogate_of(experiment, n_agents)
    return replace(problem, data=data, surrogate=surrogate, batches=batches)


def surrogate_of(experiment: Experiment, n_agents: int) -> Surrogate:
    """(11) or (12)."""
    surrogate = experiment.surrogate
    tau = 1.0 if isinstance(surrogate.tau, str) else surrogate.tau  # every state has its own then
    if surrogate.kind == "full":
        return Full(tau)
    return Partial(tau, 1.0 if surrogate.curvature == "local" else float(n_agents))


def blocks_of(experiment: Experiment, model: Model) -> tuple[slice, ...]:
    """Places of the blocks of w.

    Raises
    ------
    ConfigError
        There are more of them than parameters.
    """
    n_blocks, p = experiment.surrogate.blocks, model.layout.size
    if isinstance(n_blocks, str):
        return blocks.layers(model.layout)
    if n_blocks > p:
        raise ConfigError("surrogate.blocks", f"expected at most the {p} parameters of the model, found {n_blocks}")
    return blocks.equal(p, n_blocks)


def step_of(experiment: Experiment) -> StepRule:
    """(10), or a constant step."""
    return Diminishing(experiment.step.mu) if experiment.step.rule == "diminishing" else Constant()


def alpha_of(experiment: Experiment, ground: Ground) -> float:
    """alpha[0]: as given, or what the graph says; half of that without rounds, where what is heard is old."""
    alpha = experiment.step.alpha
    if not isinstance(alpha, str):
        return alpha
    return careful.alpha_of(ground.contraction) * (0.5 if experiment.run.mode == "async" else 1.0)


def caution_of(experiment: Experiment, ground: Ground, n_agents: int) -> Caution | None:
    """How agents choose tau; None where it is a setting."""
    surrogate = experiment.surrogate
    if surrogate.tau != "auto":
        return None
    whole = surrogate.kind == "partial" and surrogate.blocks == 1
    relied_on = experiment.run.mode == "rounds" and not isinstance(ground.weights, Fastest)
    return Caution(n_agents, ground.contraction, whole and relied_on)


def chosen(experiment: Experiment, ground: Ground) -> Iterator[tuple[str, str]]:
    """What `auto` comes to, by setting, with why."""
    if experiment.step.alpha == "auto":
        each, half = ("waking", ", halved") if experiment.run.mode == "async" else ("round", "")
        why = f"for a {each} of averaging leaves {ground.contraction:g} of a disagreement{half}"
        yield "step.alpha", f"{alpha_of(experiment, ground):g}, {why}"
    if experiment.surrogate.tau == "auto":
        yield "surrogate.tau", "each peer's own, from the curvature that it sees; in metrics.jsonl"
    if experiment.surrogate.curvature == "auto" and experiment.surrogate.kind == "partial":
        yield "surrogate.curvature", "network"


def clipping_of(experiment: Experiment, neighbors: tuple[PeerId, ...], alpha: float) -> Clipping | None:
    """How far the neighbors of an agent, all that it ever has, may pull it, by alpha[0]; None: as far as they like."""
    radii = experiment.robustness
    if not radii.clip_w:
        return None
    return Clipping(radii.clip_w / alpha, radii.clip_y, radii.clip_objective or math.inf, neighbors)


# ---- first parameters ----------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Initial:
    """Parameters to start from, if they are given.

    Parameters
    ----------
    path : str
        Of the file; empty where the parameters are drawn.
    parts : dict
        Arrays by name.
    """

    path: str
    parts: dict[str, np.ndarray[Any, Any]]

    @property
    def n_outputs(self) -> int:
        """Rows of the last layer's weights; 0 where nothing is given."""
        last = max((name for name in self.parts if name.endswith(".weight")), key=_layer_number, default=None)
        return 0 if last is None or not self.parts[last].shape else int(self.parts[last].shape[0])

    def everything(self, network: Model, seed: int) -> Vector:
        """All parameters of a network, (P,): as given, or drawn from the seed.

        Raises
        ------
        ConfigError
            The given arrays are not those of the network.
        """
        if not self.parts:
            return network.initial(np.random.default_rng([seed, 0]))
        try:
            return network.layout.flatten(self.parts)
        except ValueError as error:
            raise ConfigError("model.initial", f"{self.path}: {error}") from error

    def vector(self, model: Model, seed: int, regularizer: Regularizer) -> Vector:
        """w_i[0], (p,): as given, or drawn from the seed, then the same for all; within bounds if there are any.

        Raises
        ------
        ConfigError
            The given arrays are not those of the model, or out of bounds.
        """
        w = regimes.own(model, self.everything(regimes.network_of(model), seed))
        if not self.parts:
            return regularizer.nearest(w)
        if (outside := w != regularizer.nearest(w)).any():
            found = f"{np.count_nonzero(outside)} outside, the first of them {w[outside][0]}"
            raise ConfigError("model.initial", f"{self.path}: expected parameters within the bounds, found {found}")
        return w


def initial_of(experiment: Experiment, me: PeerId) -> Initial:
    """The file of initial parameters of a peer; its name may hold {id}.

    Raises
    ------
    ConfigError
        The file is missing or no npz.
    """
    path = experiment.model.initial
    if not path:
        return Initial("", {})
    try:
        return Initial(path, npz.load(Path(path.replace("{id}", str(me)))))
    except ValueError as error:
        raise ConfigError("model.initial", str(error)) from error


def _layer_number(name: str) -> int:
    return next((int(word) for word in name.split(".") if word.isdigit()), 0)


def digest(common: Mapping[str, str]) -> str:
    """Short name of a set of settings, the same on every machine."""
    return short_digest("\n".join(f"{key}={value}" for key, value in sorted(common.items())))


def short_digest(text: str) -> str:
    """Short name of a text; long enough that no two ever share one by chance."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


# ---- session -------------------------------------------------------------------------------


def session_of(
    experiment: Experiment,
    ground: Ground,
    me: PeerId,
    shard: Shard,
    process: tuple[int, str],
    last: Checkpoint | None,
) -> Session:
    """The conversation of a peer, at its beginning or, from its last checkpoint, where that left off.

    `process` is its incarnation and instance, see `Roster`.
    """
    incarnation, instance = process
    if last is not None and last.n_samples.get(me) != shard.n_samples:
        before = last.n_samples.get(me)
        found = f"{shard.path}: expected the {before} samples of the checkpoint, found {shard.n_samples}"
        raise ConfigError("data.path", found)
    n_steps = ground.gossip.n_steps
    n = 0 if last is None else last.n * n_steps
    roster = Roster(
        me=me,
        instance=instance,
        incarnation=incarnation,
        settings=common_settings(experiment, ground, shard, me),
        n_agents=experiment.peers,
        n_samples=shard.n_samples,
        n_classes=shard.n_classes,
    )
    patience_s, catch_up = experiment.run.patience_s, experiment.run.checkpoint_every * n_steps
    rounds = Rounds(me, ground.schedule, experiment.n_exchanges, patience_s, catch_up, n=n, floor=n)
    if last is not None:
        roster.restore(last.n_samples, last.n_classes)
        rounds.keep(last.kept)
    return Session(ground.union[me], roster, rounds)


def assembly_of(
    experiment: Experiment,
    ground: Ground,
    me: PeerId,
    shard: Shard,
    address: str,
    process: tuple[int, str],
    last: Moment | None,
) -> Assembly:
    """The conversation of a peer without rounds, at its beginning or from its last checkpoint.

    `address` is where it listens, as others see it; `process` its incarnation and instance.
    """
    incarnation, instance = process
    newcomer = me >= experiment.peers
    own = Standing(1, incarnation, 0, instance, n_samples=shard.n_samples, address=address)
    n_classes = 0 if newcomer else shard.n_classes  # a newcomer takes the model as it is
    membership = Membership(me, own, experiment.peers, experiment.run.departure_s, n_classes)
    flows = Flows(me, incarnation, ())
    settings = common_settings(experiment, ground, shard, me)
    assembly = Assembly(settings, membership, flows, ground.outlets, experiment.iterations)
    if last is not None:
        membership.restore(last.standings, last.n_classes)
        flows.restore(last.flows)
        flows.neighbors = assembly.neighbors_among(flows.members)
        assembly.opened_n = last.opened_n
    return assembly


def first_parameters(experiment: Experiment, me: PeerId) -> str:
    """Digest of a peer's file of initial parameters; empty where there is none, or it need not be that of all peers."""
    regime = experiment.regime
    if not experiment.model.initial or not (is_linear(experiment) or regime.trainable):
        return ""
    parts = sorted(initial_of(experiment, me).parts.items())
    return short_digest(" ".join(f"{name} {part.shape} {part.astype(float).tobytes().hex()}" for name, part in parts))


def common_settings(experiment: Experiment, ground: Ground, shard: Shard, me: PeerId = 0) -> dict[str, str]:
    """What all peers must agree on, as text: the settings, and what follows from files."""
    facts: dict[str, object] = {"columns of x": math.prod(shard.x.shape[1:]), "schedule": ground.digest}
    if experiment.model.python:
        facts["shape of x"] = shard.x.shape[1:]
    if parameters := first_parameters(experiment, me):
        facts["first parameters"] = parameters
    if isinstance(ground.weights, Fastest):  # computed by each peer alone: another last bit would break (9)
        facts["weights"] = short_digest(weights_text(ground.weights))
    if not ground.gossip.is_plain:  # likewise, from eigenvalues that a library found
        facts["consensus"] = repr(ground.gossip)
    if experiment.data.validation_path:  # where it is may differ, that it is there may not
        facts["validation"] = "of files"
    return settings.shared(experiment, **facts)


def bind_of(experiment: Experiment, me: PeerId, address: str = "") -> str:
    """Where a peer listens: as `transport.bind` says, else at its own address.

    Only numbers and * can be listened on. A name stands for this host as others see it (a
    container's, a load balancer's), so the peer listens on all interfaces then. A newcomer listens at `address`.
    """
    transport = experiment.transport
    if transport.bind:
        return transport.bind
    if me >= len(transport.addresses):
        return address
    host, port = settings.split_address(transport.addresses[me], "transport.addresses")
    if host == "localhost":
        return f"tcp://127.0.0.1:{port}"
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return f"tcp://*:{port}"
    return transport.addresses[me]


def contact_of(experiment: Experiment, me: PeerId, join: str) -> tuple[PeerId, str]:
    """The peer by which a newcomer comes in, and where it listens: "tcp://host:port", or "tcp://3@host:port".

    Without its id it is looked for among the addresses of the experiment.

    Raises
    ------
    ConfigError
        It is no such address, or of a peer that is not known; or the run has rounds, which nobody joins.
    """
    if experiment.run.mode != "async":
        raise ConfigError("--join", 'expected run.mode = "async": rounds have all their peers from the beginning')
    name, at, place = join.removeprefix("tcp://").rpartition("@")
    address = f"tcp://{place}"
    settings.split_address(address, "--join")
    listed = {there: j for j, there in enumerate(experiment.transport.addresses)}
    if at and not (name.isascii() and name.isdigit() and int(name) < settings.MAX_PEERS):
        raise ConfigError("--join", f'expected "tcp://ID@host:port", found {join!r}')
    contact = int(name) if at else listed.get(address)
    if contact is None:
        raise ConfigError("--join", f"{address} is not in transport.addresses; tcp://ID@{place} says which peer it is")
    if contact == me:
        raise ConfigError("--join", f"expected another peer than {me} itself")
    return contact, address


def listener_of(experiment: Experiment, contact: str) -> tuple[socket.socket | None, str]:
    """Where a newcomer listens, as others see it: at `transport.bind`, else at a free port.

    Parameters
    ----------
    experiment : Experiment
    contact : str
        Address of a peer; the newcomer gives the address by which this host reaches that one where
        `transport.bind` names none.

    Returns
    -------
    socket or None
        Listening already; None where `transport.bind` says it.
    str
        The address.

    Raises
    ------
    ConfigError
        No way leads to the contact.
    """
    host, port = settings.split_address(contact, "--join")
    bind = experiment.transport.bind
    if bind and (named := settings.split_address(bind, "transport.bind"))[0] not in WILDCARDS:
        return None, bind
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing: it asks the routing table
            own = str(probe.getsockname()[0])
        listener = None if bind else socket.create_server((own, 0), family=family)
    except OSError as error:
        raise ConfigError("--join", f"no way to {contact}: {error.strerror or error}") from error
    number = named[1] if listener is None else listener.getsockname()[1]
    return listener, f"tcp://[{own}]:{number}" if ":" in own else f"tcp://{own}:{number}"


# ---- rehearsal -----------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Facts:
    """What is known of a run before it starts.

    Parameters
    ----------
    n_samples : tuple of int
        Of each peer.
    widths : tuple of int
        Of the network, (d, hidden ..., q).
    n_parameters : int
        p.
    needs_torch : bool
        Whether the network is a module of PyTorch.
    """

    n_samples: tuple[int, ...]
    widths: tuple[int, ...]
    n_parameters: int
    needs_torch: bool = False


def rehearse(experiment: Experiment) -> Facts:
    """Do all that peers do before round 0, for all peers, where all files are at hand.

    Raises
    ------
    ConfigError
        What would stop one of them.
    """
    found = [shard_of(experiment, peer) for peer in range(experiment.peers)]
    n_classes = max(shard.n_classes for shard in found)
    n_samples = tuple(shard.n_samples for shard in found)
    models = []
    for peer, shard in enumerate(found):
        initial = initial_of(experiment, peer)
        if experiment.model.python:  # as each peer does it, before it knows of others' classes
            model_of(experiment, shard, shard.n_classes, initial)
        models.append(model_of(experiment, shard, n_classes, initial))
        if regimes.network_of(models[-1]) != regimes.network_of(models[0]):
            expected, different = (" - ".join(map(str, model.widths)) for model in (models[0], models[-1]))
            raise ConfigError("data.path", f"{shard.path}: expected widths {expected}, found {different}")
        problem = problem_of(experiment, models[0], shard, sum(n_samples))
        feedback_of(experiment, models[0])
        held_out_of(experiment, models[0], shard, sum(n_samples))
        initial.vector(models[0], experiment.seed, problem.regularizer)
        told = first_parameters(experiment, peer)
        if told != first_parameters(experiment, 0):
            same = (
                "expected the same parameters at all peers, as some of them stay, or the network is linearized at them"
            )
            raise ConfigError("model.initial", f"{initial.path}: peer {peer}: {same}; found others than peer 0 has")
    if experiment.data.test_path:
        test = shards.read(Path(experiment.data.test_path), "data.test_path")
        problem_of(experiment, models[0], test, sum(n_samples))
    return Facts(n_samples, models[0].widths, models[0].layout.size, functions.is_torch(regimes.network_of(models[0])))


def shard_of(experiment: Experiment, peer: PeerId, path: Path | None = None) -> Shard:
    """A peer's samples, those that are held out put aside; from another file than the experiment says, if one is given.

    Raises
    ------
    ConfigError
        The file is missing, or cannot be used.
    """
    shard = shards.read(path or shards.path_of(experiment.data.path, peer))
    fraction, pattern = experiment.data.validation_fraction, experiment.data.validation_path
    if pattern:
        return shard.holding(shards.read(shards.path_of(pattern, peer), "data.validation_path"))
    return shard.split(fraction, experiment.seed, peer) if fraction else shard


def held_out_of(experiment: Experiment, model: Model, shard: Shard, n_samples_total: int) -> Data | None:
    """What the validation loss of an agent is made of, see `peer.validation`; None where it holds nothing out.

    Raises
    ------
    ConfigError
        The samples do not fit the model.
    """
    held_out = shard.held_out
    if held_out is None:
        return None
    weight = shard.n_samples / (n_samples_total * held_out.n_samples)
    try:
        loss = loss_of(experiment, held_out, model.n_outputs)
    except ConfigError as error:
        key = "data.validation_path" if experiment.data.validation_path else error.key
        raise ConfigError(key, error.problem) from error
    return Data(model, model.inputs(held_out.x), loss, weight)


# ---- record --------------------------------------------------------------------------------


def record(experiment: Experiment, ground: Ground, run_dir: Path) -> None:
    """Write `experiment.toml` and `schedule.jsonl`: with the shards, enough to recompute a run in rounds.

    And `weights.jsonl`, where the weights are no formula.
    """
    import platform  # these two only here: they bring the parser of mails along
    from importlib import metadata

    run_dir.mkdir(parents=True, exist_ok=True)
    software = {name: metadata.version(name) for name in SOFTWARE} | {"python": platform.python_version()}
    for name in FRAMEWORKS if experiment.model.python else ():
        with suppress(metadata.PackageNotFoundError):
            software[name] = metadata.version(name)
    tree = msgspec.structs.replace(experiment, software=software)
    if experiment.run.mode == "async":
        lines = _lines_of(ground.outlets, experiment)
    else:
        lines = schedules.lines(ground.schedule, experiment.n_exchanges)
    npz.replace(run_dir / "schedule.jsonl", lambda file: file.writelines(f"{line}\n".encode() for line in lines))
    if isinstance(ground.weights, Fastest):
        text = weights_text(ground.weights)
        npz.replace(run_dir / "weights.jsonl", lambda file: file.write(text.encode()))
    # last and at once: who finds it, finds everything
    npz.replace(run_dir / "experiment.toml", lambda file: file.write(settings.to_toml(tree).encode()))


def weights_text(weights: Fastest) -> str:
    """A JSON line [i, j, c_ij] a link, which tells every bit of its weight."""
    return "".join(f"[{i}, {j}, {weight!r}]\n" for (i, j), weight in sorted(weights.links.items()))


MOST_LINES, MOST_CHARACTERS = 1_000, 1 << 26
"""Of `schedule.jsonl` without rounds, where links never repeat: enough to see them, as nobody knows the last waking."""


def _lines_of(linked: Outlets, experiment: Experiment) -> Iterator[str]:
    """Who pushes to whom of the initial members: one period, or the first wakings."""
    room = MOST_CHARACTERS
    for line in outlets.InStep(linked, experiment.peers).lines(
        linked.period(experiment.peers) or min(experiment.iterations, MOST_LINES)
    ):
        if room < 0 and not linked.replayed:  # of a file all is kept, to be used in its place
            return
        yield line
        room -= len(line)
