"""What feedback alignment learns, beside backprop: in one place by mini-batches, and decentralized on unlike shards.

Central: 1,300 of the 1,797 digits, and 497 to test, the same split for all seeds; entries in [0, 1], less their mean
over the training samples; tanh, cross-entropy with half the squared weights (times 6e-4), 60 epochs of plain stochastic
gradient descent whose steps shrink to 0. A seed draws initial weights, feedback and batches.

Cosines are those of the direction and the gradient at the end, by hidden layer: over a probe of as many samples as an
agent takes, and over all training samples. Beside it is told what a prototype had, of which only the sizes are known,
and whether that is within a standard deviation of the mean, as far as it has digits.

Decentralized: ten agents, each with samples of one or two digits only (label-sorted), in this process, without sockets,
the same settings with gradients and with feedback. The tracked cosine is that of the mean of all y_i, which is what
agents step along, with the gradient of G at the mean w. Private feedback is what the software does not do: each agent
has one of its own.

The tables of the README come from

    python -m benchmarks.feedback
    python -m benchmarks.feedback --agents --seeds 3
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
from peer.optim.chains import Chain, mlp
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

LENGTH: Final = 0.5
"""Of the first step."""

DECAY: Final = 6e-4
"""Of weights: strength of a regularizer l2, without the loss's sum. Biases have none."""

BEGIN: Final = 0.52
"""Standard deviation of initial weights into a unit with n of them, times the root of n; biases begin with 0."""

SIZE: Final = 0.5
"""Of initial weights where training is decentralized, of Glorot's: what is learned along the feedback has to outgrow
what they begin with."""

HOW: Final = ("backprop", "feedback", "last layer only")

PROTOTYPE: Final = {
    128: ("98.1", "97.9", "93.4"),
    16: ("98", "97.5"),
    8: ("98", "97"),
    4: ("96", "87"),
    2: ("82", "66"),
}
"""Percent by the width of the second hidden layer, as `HOW`, as the prototype of the method had them."""

PROTOTYPE_COSINES: Final = ("0.70", "0.81")
"""Of it after training with feedback, 128 units wide."""

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
    of_probe: Vector
    of_all: Vector


def digits() -> tuple[Data, Matrix, NDArray[np.int64]]:
    """Training samples, with any model, and those to test with."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    x = x - x[:TRAINING].mean(axis=0)
    return Data(mlp((64, 10), "tanh"), x[:TRAINING], Softmax(y[:TRAINING]), 1.0), x[TRAINING:], y[TRAINING:]


def initial(model: Chain, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Initial parameters, and which of them are weights, 1 or 0; (p,) each."""
    begin, is_weight = {}, {}
    for name, shape in model.layout.shapes:
        drawn = BEGIN / np.sqrt(shape[-1]) if len(shape) == 2 else 0.0
        begin[name], is_weight[name] = drawn * rng.standard_normal(shape), np.full(shape, float(len(shape) == 2))
    return model.layout.flatten(begin), model.layout.flatten(is_weight)


def train(hidden: Sequence[int], how: str, seed: int) -> Trained:
    """Train a network on the digits."""
    data, x_test, y_test = digits()
    model, rng = mlp((64, *hidden, 10), "tanh"), np.random.default_rng(seed)
    problem = Problem(replace(data, model=model), NoRegularizer(), Full(1.0), 1e-8)
    w, is_weight = initial(model, rng)
    fed = replace(problem, feedback=feedback.drawn(np.random.default_rng([seed, learning.FEEDBACK]), model))
    field = fed if how == "feedback" else problem
    fixed = slice(0, feedback.places(model)[-1].start if how == "last layer only" else 0)
    for epoch in range(EPOCHS):
        length = LENGTH * (1.0 - epoch / EPOCHS)
        order = rng.permutation(TRAINING)
        for rows in np.split(order, range(BATCH, TRAINING, BATCH)):
            drawn = replace(field, data=Data(model, data.inputs[rows], data.loss.taken(rows), 1.0 / len(rows)))
            direction = drawn.gradient(w) + DECAY * is_weight * w
            direction[fixed] = 0.0
            w = w - length * direction
    right = model.at(w, x_test).outputs.argmax(axis=1) == y_test
    probe = alignment.probe(problem.data, seed, 0)
    cosines = [
        feedback.alignment(model, replace(fed, data=one).gradient(w), one.gradient(w)) for one in (probe, problem.data)
    ]
    return Trained(100.0 * float(np.mean(right)), *cosines)


def central(hidden: Sequence[int], hows: Sequence[str], seeds: int) -> None:
    """A line for each way to train a network."""
    for how, expected in zip(hows, PROTOTYPE[hidden[-1]], strict=True):
        found = [train(hidden, how, seed) for seed in range(seeds)]
        accuracy = np.array([one.accuracy for one in found])
        told = f"{accuracy.mean():5.1f} %" + (f" +- {accuracy.std(ddof=1):.1f}" if seeds > 1 else "")
        widths = "-".join(map(str, (64, *hidden, 10)))
        probe, whole = (_by_layer([getattr(one, name) for one in found]) for name in ("of_probe", "of_all"))
        met = _met(accuracy, expected)
        if how == "feedback" and hidden[-1] == max(PROTOTYPE):
            of_probe = zip(np.transpose([one.of_probe for one in found]), PROTOTYPE_COSINES, strict=True)
            met += f"; cosines {', '.join(_met(cosines, told) for cosines, told in of_probe)}"
        click.echo(f"{widths:18} {how:15} {told:15}  cosines of a probe {probe}; of all {whole}; {met}")


def _met(found: Vector, expected: str) -> str:
    """Whether a figure is within a standard deviation of the mean, and half of its last digit."""
    spread = float(found.std(ddof=1)) if len(found) > 1 else 0.0
    half = 0.5 * 10.0 ** -len(expected.partition(".")[2])
    return f"{expected} {'met' if abs(float(found.mean()) - float(expected)) <= spread + half else 'missed'}"


def _by_layer(cosines: Sequence[Vector]) -> str:
    spread = np.std(cosines, axis=0, ddof=1) if len(cosines) > 1 else np.zeros(len(cosines[0]))
    return " ".join(f"{c:5.2f} +- {s:.2f}" for c, s in zip(np.mean(cosines, axis=0), spread, strict=True))


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
@click.option("--seeds", default=20, help="Of initial weights, feedback and batches; with --agents of the run.")
@click.option("--rounds", "n_rounds", default=400, help="With --agents.")
@click.option("--length", default=0.5, help="With --agents: alpha/tau, of a step along I y.")
def main(agents: bool, seeds: int, n_rounds: int, length: float) -> None:
    """What feedback alignment learns, beside backprop."""
    if agents:
        for seed in range(seeds):
            click.echo(f"seed {seed}, {n_rounds} rounds, 10 agents, 64-128-128-10:")
            decentralized((128, 128), n_rounds, length, seed)
        return
    click.echo(f"{seeds} seeds:")
    for width, expected in PROTOTYPE.items():
        central((128, width), HOW[: len(expected)], seeds)


if __name__ == "__main__":
    main()
