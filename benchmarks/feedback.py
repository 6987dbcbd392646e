"""What feedback alignment learns, beside backprop: in one place by mini-batches, and decentralized on unlike shards.

Central: 1,300 of the 1,797 digits, and 497 to test, the same split for all seeds; tanh, cross-entropy, 60 epochs of
plain stochastic gradient descent whose steps shrink by 3 % an epoch. A seed draws initial weights, feedback and
batches. Two set-ups:

scaled          entries in [0, 1]; weights into a unit begin as uniform on [-1/sqrt(n), 1/sqrt(n)], n being their
                number, as those of PyTorch's layers do
standardized    each entry with mean 0 and variance 1 over the training samples; weights begin as normal with the
                standard deviation 0.35/sqrt(n)

Biases begin with 0. Cosines are those of the direction and the gradient over all training samples at the end, by hidden
layer; and those of what comes to the units by feedback and by backprop, sample by sample, in the mean ("errors").

Decentralized: ten agents, each with samples of one or two digits only (label-sorted), in this process, without sockets,
the same settings with gradients and with feedback. The tracked cosine is that of the mean of all y_i, which is what
agents step along, with the gradient of G at the mean w. Private feedback is what the software does not do: each agent
has one of its own.

The tables of the README come from

    python -m benchmarks.feedback
    python -m benchmarks.feedback --agents
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from peer import agent, alignment, learning, settings, shards
from peer.agent import State
from peer.arrays import DTYPES, Matrix, Vector
from peer.data import Cut
from peer.messages import Share
from peer.optim import feedback
from peer.optim.chains import Chain, ChainPass, mlp
from peer.optim.feedback import Feedback
from peer.optim.losses import Softmax
from peer.optim.regularizers import NoRegularizer
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full
from peer.problem import Problem
from topology.graphs import erdos_renyi
from topology.weights import metropolis

TRAINING: Final = 1_300
"""Samples to train on."""

EPOCHS: Final = 60

BATCH: Final = 32

SHRINKS: Final = 0.97
"""By which steps get shorter with each epoch."""


@final
@dataclass(frozen=True)
class SetUp:
    """Where training begins.

    Parameters
    ----------
    standardized : bool
        Whether the entries of the inputs are.
    length : float
        Of the first step.
    """

    standardized: bool
    length: float

    def weights(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Matrix:
        """Initial weights of a layer, (outputs, inputs)."""
        drawn = 0.35 * rng.standard_normal(shape) if self.standardized else rng.uniform(-1.0, 1.0, shape)
        return np.asarray(drawn / np.sqrt(shape[1]))


SET_UPS: Final = {"scaled": SetUp(False, 0.4), "standardized": SetUp(True, 0.3)}

SIZE: Final = 0.5
"""Of initial weights where training is decentralized, of Glorot's: what is learned along the feedback has to outgrow
what they begin with."""

HOW: Final = ("backprop", "feedback", "last layer only")

ALPHA: Final = 0.3

TREE: Final[dict[str, Any]] = {
    "peers": 10,
    "data": {"dataset": "digits", "partition": "label-sorted", "test_fraction": 0.2766},
    "objective": {"loss": "cross_entropy", "regularizer": "l2", "strength": 1e-3},
}
"""Of the decentralized runs."""


# ---- central -------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A network after training: percent of the test samples that it gets right, and cosines by hidden layer."""

    accuracy: float
    cosines: Vector
    errors: Vector


def digits(set_up: SetUp) -> tuple[Data, Matrix, NDArray[np.int64]]:
    """Training samples, with any model, and those to test with."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    if set_up.standardized:
        deviations = x[:TRAINING].std(axis=0)
        x = (x - x[:TRAINING].mean(axis=0)) / np.where(deviations > 0.0, deviations, 1.0)
    data = Data(mlp((64, 10), "tanh"), x[:TRAINING], Softmax(y[:TRAINING]), 1.0)
    return data, x[TRAINING:], y[TRAINING:]


def initial(model: Chain, set_up: SetUp, rng: np.random.Generator) -> Vector:
    """Initial parameters, biases 0; (p,)."""
    shapes = dict(model.layout.shapes)
    parts = {name: set_up.weights(rng, s) if len(s) == 2 else np.zeros(s) for name, s in shapes.items()}
    return model.layout.flatten(parts)


def train(set_up: SetUp, hidden: Sequence[int], how: str, seed: int) -> Trained:
    """Train a network on the digits."""
    data, x_test, y_test = digits(set_up)
    model, rng = mlp((64, *hidden, 10), "tanh"), np.random.default_rng(seed)
    problem = Problem(replace(data, model=model), NoRegularizer(), Full(1.0), 1e-8)
    w = initial(model, set_up, rng)
    fed = replace(problem, feedback=feedback.drawn(np.random.default_rng([seed, learning.FEEDBACK]), model))
    field = fed if how == "feedback" else problem
    fixed = slice(0, feedback.places(model)[-1].start if how == "last layer only" else 0)
    for epoch in range(EPOCHS):
        length = set_up.length * SHRINKS**epoch
        order = rng.permutation(TRAINING)
        for rows in np.split(order[: TRAINING - TRAINING % BATCH], TRAINING // BATCH):
            drawn = replace(field, data=Data(model, data.inputs[rows], data.loss.taken(rows), 1.0 / BATCH))
            direction = drawn.gradient(w)
            direction[fixed] = 0.0
            w = w - length * direction
    right = model.at(w, x_test).outputs.argmax(axis=1) == y_test
    here = model.at(w, data.inputs)
    assert fed.feedback is not None
    errors = of_errors(here, data.loss.gradient(here.outputs), fed.feedback)
    cosines = feedback.alignment(model, fed.gradient(w), problem.gradient(w))
    return Trained(100.0 * float(np.mean(right)), cosines, errors)


def of_errors(here: ChainPass, e: Matrix, fed: Feedback) -> Vector:
    """Cosines of what comes to the outputs of hidden layers by feedback and by backprop, means over the samples."""
    cut, u, found = feedback.segments(here.chain), e, []
    for segment, B in zip(reversed(cut[1:]), reversed(fed.matrices), strict=True):
        for j in reversed(range(segment.start, segment.stop)):
            place = here.chain.places[j]
            u = here.passed[j].pull(u, np.empty(place.stop - place.start), onward=True)
        v = e @ B.T
        lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        found.append(float(np.mean((u * v).sum(axis=1) / np.where(lengths > 0.0, lengths, 1.0))))
    return np.array(found[::-1])


def central(set_up: SetUp, hidden: Sequence[int], hows: Sequence[str], seeds: int) -> None:
    """A line for each way to train a network."""
    for how in hows:
        found = [train(set_up, hidden, how, seed) for seed in range(seeds)]
        accuracy, cosines = np.array([one.accuracy for one in found]), np.array([one.cosines for one in found])
        many = seeds > 1
        told = f"{accuracy.mean():5.1f} %" + (f" +- {accuracy.std(ddof=1):.1f}" if many else "")
        spread = cosines.std(axis=0, ddof=1) if many else np.zeros(len(hidden))
        layers = " ".join(f"{c:5.2f} +- {s:.2f}" for c, s in zip(cosines.mean(axis=0), spread, strict=True))
        widths = "-".join(map(str, (64, *hidden, 10)))
        errors = " ".join(f"{c:5.2f}" for c in np.mean([one.errors for one in found], axis=0))
        click.echo(f"  {widths:18} {how:15} {told:15}  cosines {layers}; of errors {errors}")


# ---- decentralized -------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Network:
    """Agents, where they all start, and samples to test with."""

    problems: tuple[Problem, ...]
    start: Vector
    test: Data


def network_of(tree: dict[str, Any]) -> Network:
    """The agents of an experiment."""
    experiment = settings.from_tree(tree)
    with tempfile.TemporaryDirectory() as folder:
        *_, test_path = Cut.of(experiment).write(Path(folder))
        data = msgspec.structs.replace(experiment.data, dataset="", path=f"{folder}/peer-{{id:03d}}.npz")
        experiment = msgspec.structs.replace(experiment, data=data)
        found = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
        test = shards.read(test_path, "data.test_path")
    n_classes, n_samples = max(shard.n_classes for shard in found), sum(shard.n_samples for shard in found)
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, found[0], n_classes, initial)
    problems = tuple(learning.problem_of(experiment, model, shard, n_samples) for shard in found)
    problems = tuple(replace(problem, feedback=learning.feedback_of(experiment, model)) for problem in problems)
    start = SIZE * initial.vector(model, experiment.seed, problems[0].regularizer)
    return Network(problems, start, learning.problem_of(experiment, model, test, n_samples).data)


def rounds(network: Network, n_rounds: int, seed: int, watched: bool) -> Iterator[list[State]]:
    """States of all agents in each round; each looks at its feedback if it is watched, and goes back where it must."""
    problems, n_agents = network.problems, len(network.problems)
    graph = erdos_renyi(n_agents, 0.3, seed)
    default = settings.Surrogate()
    watches = [
        alignment.Watch(alignment.probe(g.data, seed, i), default.probe_every, default.fallback, default.grace)
        for i, g in enumerate(problems)
    ]
    states = [agent.initial(g, network.start, ALPHA) for g in problems]
    yield states
    for n in range(n_rounds):
        proposals = [agent.propose(g, state, n_agents) for g, state in zip(problems, states, strict=True)]
        pairs = enumerate(zip(states, proposals, strict=True))
        shares = [Share(i, n, n, state.objective, state.y, proposal.z) for i, (state, proposal) in pairs]
        following = []
        for i, state in enumerate(states):
            g, others = alignment.chosen(problems[i], state), {j: shares[j] for j in graph.neighbors(i)}
            own = agent.Mixture.of(state, proposals[i])
            mixed = agent.exchange(state, own, others, metropolis(graph, i), DTYPES["f8"])
            after = agent.settle(g, state, proposals[i], mixed, Constant())
            following.append(alignment.watched(g, state, after, watches[i]) if watched else after)
        states = following
        yield states


def accuracy(network: Network, w: Vector) -> float:
    """Percent of the test samples that a network gets right."""
    outputs = network.test.at(w).outputs
    right = outputs.argmax(axis=1) == network.test.loss.labels  # type: ignore[attr-defined]
    return 100.0 * float(np.mean(right))


def tracked_cosines(network: Network, mean: Vector, state: State) -> Vector:
    """Of y_i and the gradient of G at the mean of all w_i: over all parameters, and over those of hidden layers."""
    gradient = np.sum([g.data.gradient(mean) for g in network.problems], axis=0)
    model = network.problems[0].data.model
    assert isinstance(model, Chain)
    hidden = slice(0, feedback.places(model)[-1].start)
    return np.array([feedback.cosine(state.y[place], gradient[place]) for place in (slice(None), hidden)])


def decentralized(hidden: Sequence[int], n_rounds: int, length: float, seed: int) -> None:
    """A line for backprop, for feedback that agents share, and for feedback of each agent's own."""
    for how in ("backprop", "shared", "private"):
        surrogate = {"kind": "full", "tau": ALPHA / length}
        surrogate |= {} if how == "backprop" else {"gradient": settings.FEEDBACK_ALIGNMENT}
        network = network_of(TREE | {"seed": seed, "model": {"hidden": hidden}, "surrogate": surrogate})
        if how == "private":
            generators = (np.random.default_rng([seed, learning.FEEDBACK, i]) for i in range(len(network.problems)))
            drawn = [feedback.drawn(rng, mlp((64, *hidden, 10), "tanh")) for rng in generators]
            problems = [replace(g, feedback=way) for g, way in zip(network.problems, drawn, strict=True)]
            network = replace(network, problems=tuple(problems))
        *_, last = rounds(network, n_rounds, seed, how == "shared")
        mean = np.mean([state.w for state in last], axis=0)
        tracked = np.mean([tracked_cosines(network, mean, state) for state in last], axis=0)
        model, pairs = mlp((64, *hidden, 10), "tanh"), list(zip(network.problems, last, strict=True))
        looked = [feedback.alignment(model, g.gradient(s.w), g.data.gradient(s.w)) for g, s in pairs]
        own = " ".join(f"{cosine:5.2f}" for cosine in np.mean(looked, axis=0))
        objective = len(last) * float(np.mean([state.objective for state in last]))
        back = sum(state.back_n > 0 for state in last)
        told = f"{accuracy(network, mean):5.1f} %, G {objective:.3f}; y_i with the gradient of G {tracked[0]:5.2f}"
        of_own = f"hidden {tracked[1]:5.2f}; own feedback with own gradient by layer {own}"
        click.echo(f"  {how:8} {told}, {of_own}; back to backprop: {back}")


# ---- command -------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--agents", is_flag=True, help="Ten agents with unlike shards, in the place of one that has all samples.")
@click.option("--seeds", default=5, help="Of initial weights, feedback and batches; with --agents of the run.")
@click.option("--rounds", "n_rounds", default=400, help="With --agents.")
@click.option("--length", default=0.5, help="With --agents: alpha/tau, of a step along I y.")
def main(agents: bool, seeds: int, n_rounds: int, length: float) -> None:
    """What feedback alignment learns, beside backprop."""
    if agents:
        for seed in range(seeds):
            click.echo(f"seed {seed}, {n_rounds} rounds, 10 agents, 64-128-128-10:")
            decentralized((128, 128), n_rounds, length, seed)
        return
    for name, set_up in SET_UPS.items():
        click.echo(f"{name}, {seeds} seeds:")
        central(set_up, (128, 128), HOW, seeds)
        for width in (2, 4, 8, 16):
            central(set_up, (128, width), HOW[:2], seeds)


if __name__ == "__main__":
    main()
