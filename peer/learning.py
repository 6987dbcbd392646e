"""From settings and a shard to what an agent learns: network, loss, penalty, surrogate, first parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from peer import alignment, networks, npz, settings, shards
from peer.alignment import Watch
from peer.arrays import Labels, Matrix, Vector
from peer.errors import ConfigError
from peer.frameworks import functions
from peer.frameworks.foreign import Foreign
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
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.optim.tangents import Tangents, shifted
from peer.problem import Problem
from peer.renewal import Renewal
from peer.settings import REAL_TARGETS, Experiment
from peer.shards import Shard
from topology import PeerId

BIASES: Final = frozenset({"bias", "b"})
"""Words in the last part of the name of parameters that are biases: here and in torch, and mostly for JAX."""


# ---- all of it ------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """What an agent makes of an experiment and its shard.

    Parameters
    ----------
    problem : Problem
        g_i.
    model : Model
        f, or what is trained of it.
    w : Vector
        w_i[0], (p,).
    watch : Watch or None
        How it looks at its feedback, where it learns by it.
    held_out : Data or None
        What it does not train on.
    """

    problem: Problem
    model: Model
    w: Vector
    watch: Watch | None
    held_out: Data | None


def learned_of(
    experiment: Experiment,
    me: PeerId,
    shard: Shard,
    initial: Initial,
    model: Model,
    n_samples_total: int,
    each: Each = in_turn,
) -> Learned:
    """What agent i makes of its shard, now that M, and with the model the number of classes, are known.

    Raises
    ------
    ConfigError
        The shard, the initial parameters and the model do not fit.
    """
    problem = problem_of(experiment, model, shard, n_samples_total, each)
    batches = batches_of(experiment, me, shard.n_samples, n_samples_total, experiment.peers)
    problem = replace(problem, batches=batches, feedback=feedback_of(experiment, model))
    w = initial.vector(model, experiment.seed, problem.regularizer)
    watch = watch_of(experiment, problem, me)
    return Learned(problem, model, w, watch, held_out_of(experiment, model, shard, n_samples_total))


# ---- network --------------------------------------------------------------------------------


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
        A name means none of them, or the last layer is asked for and not known.
    """
    regime = experiment.regime
    if regime.kind == "random-features":
        if isinstance(network, Foreign):
            raise ConfigError(
                "regime.kind",
                f"expected another, for which layer is the last is not known of {experiment.model.python} (kind = "
                "'full' with its parts in trainable, and relinearize_every = 0, does it); found 'random-features'",
            )
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


def n_parameters_of(experiment: Experiment, n_inputs: int, q: int) -> int:
    """Number of parameters of the network with q outputs, as far as its layers leave these open.

    Raises
    ------
    ConfigError
        Its layers do not fit.
    """
    model = experiment.model
    return networks.n_parameters_of(model.hidden, model.activation, model.layers, model.image, n_inputs, q)


# ---- problem --------------------------------------------------------------------------------


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
        codes = codes_of(shard, q)
        if codes.shape[1] != q:
            found = f"{shard.path}: expected codes with the model's {q} columns, found {codes.shape[1]}"
            raise ConfigError("data.path", found)
        return codes[_labels_of(experiment, shard, q)]
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


def check_codes(experiment: Experiment, q: int, shards: Sequence[Shard]) -> None:
    """See that a label stands for the same real targets in all shards, where the loss takes such.

    Raises
    ------
    ConfigError
        It does not.
    """
    of_classes = [(shard, codes_of(shard, q)) for shard in shards if shard.labels is not None]
    if experiment.objective.loss not in REAL_TARGETS or not of_classes:
        return
    fullest, all_codes = max(of_classes, key=lambda found: len(found[1]))
    for shard, codes in of_classes:
        if not np.array_equal(codes, all_codes[: len(codes)]):
            raise ConfigError("data.path", f"{shard.path}: expected the codes of {fullest.path}, found others")


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


ROUNDING: Final = 1e-12
"""By which given parameters may be out of bounds, relative or beside 1: means of some that are at a bound may be."""

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


# ---- first parameters -----------------------------------------------------------------------


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
        """Rows of the last layer's weights, normalizations aside; 0 if there are none, or they are of a convolution."""
        weights = [name for name, part in self.parts.items() if name.endswith(".weight") and part.ndim > 1]
        last = max(weights, key=_layer_numbers, default=None)
        return 0 if last is None or self.parts[last].ndim != 2 else int(self.parts[last].shape[0])

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
        nearest = regularizer.nearest(w)
        if (outside := np.abs(w - nearest) > ROUNDING * np.maximum(1.0, np.abs(w))).any():
            found = f"{np.count_nonzero(outside)} outside, the first of them {w[outside][0]}"
            raise ConfigError("model.initial", f"{self.path}: expected parameters within the bounds, found {found}")
        return nearest


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


def _layer_numbers(name: str) -> list[int]:
    return [int(word) for word in name.split(".") if word.isdigit()]


# ---- samples --------------------------------------------------------------------------------


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


def check_test(experiment: Experiment, model: Model, test: Shard) -> None:
    """Whether the test set fits the model.

    Raises
    ------
    ConfigError
        It does not.
    """
    try:
        problem_of(experiment, model, test, test.n_samples)
    except ConfigError as error:
        raise ConfigError("data.test_path", error.problem) from error


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
