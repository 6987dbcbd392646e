"""Members of every family that the laws speak of, drawn from a seed; and agents that exchange in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from peer import agent
from peer.agent import Clipping, Proposal, State
from peer.arrays import Matrix, Vector, rounded
from peer.messages import Share
from peer.optim.losses import Logistic, Loss, Softmax, Squared
from peer.optim.models import MLP
from peer.optim.regularizers import L1, L2, ElasticNet, NoRegularizer, Regularizer
from peer.optim.steps import StepRule
from peer.optim.surrogates import Data, Linearized, Partial
from peer.problem import Problem
from topology import Graph
from topology.weights import Weights, metropolis

ACTIVATIONS: Final = ("tanh", "relu", "sigmoid")
LOSSES: Final = ("squared", "logistic", "softmax")
REGULARIZERS: Final = ("none", "l2", "l1", "elastic_net")
F8: Final = np.dtype("<f8")
F4: Final = np.dtype("<f4")


def loss_of(rng: np.random.Generator, name: str, m: int, q: int) -> Loss:
    """A loss of m samples with random targets; the logistic one has one output, softmax q of them."""
    if name == "squared":
        return Squared(rng.standard_normal((m, q)))
    if name == "logistic":
        return Logistic(rng.integers(0, 2, m))
    return Softmax(rng.integers(0, q, m))


def regularizer_of(rng: np.random.Generator, name: str, p: int, strength: float) -> Regularizer:
    """A penalty of p parameters; about a quarter of them is not regularized."""
    strengths = np.where(rng.random(p) < 0.75, strength * rng.uniform(0.5, 1.0, p), 0.0)
    if name == "none":
        return NoRegularizer()
    if name == "elastic_net":
        ratio = rng.choice((0.0, 0.3, 0.7, 1.0))
        return ElasticNet(ratio * strengths, (1.0 - ratio) * strengths)
    return L2(strengths) if name == "l2" else L1(strengths)


def outputs_of(loss: str, q: int) -> int:
    """Number of outputs that fits the loss."""
    return {"squared": q, "logistic": 1, "softmax": q + 1}[loss]


def data_of(rng: np.random.Generator, loss: str, model: MLP, m: int, weight: float) -> Data:
    """A shard of m random samples seen through the model."""
    inputs = rng.standard_normal((m, model.n_inputs))
    return Data(model, inputs, loss_of(rng, loss, m, model.n_outputs), weight)


def parameters_of(rng: np.random.Generator, model: MLP) -> Vector:
    """Parameters of which all, also the biases, are at random, (p,)."""
    return model.initial(rng) + 0.3 * rng.standard_normal(model.layout.size)


def gradient_of(data: Data, w: Vector) -> Vector:
    """Grad g_i(w), (p,)."""
    return data.weight * data.model.vjp(w, data.inputs, data.loss.gradient(data.model.forward(w, data.inputs)))


def linearized_of(rng: np.random.Generator, loss: str, model: MLP, m: int, tau: float, kappa: float) -> Linearized:
    """Subproblem (11) of a random shard around random parameters, the others wanting something at random."""
    data = data_of(rng, loss, model, m, 1.0 / m)
    w = parameters_of(rng, model)
    gradient = gradient_of(data, w)
    pi = (3.0 - kappa) * gradient + np.max(np.abs(gradient)) * rng.standard_normal(w.size)
    return Partial(tau, kappa).around(w, gradient, pi, data)


def separable_labels(rng: np.random.Generator, inputs: Matrix, n_classes: int) -> NDArray[np.int64]:
    """Classes 0..n_classes-1 that a linear map tells apart without error, (m,)."""
    scores = inputs @ rng.standard_normal((inputs.shape[1], n_classes))
    return np.asarray(np.argmax(scores, axis=1), dtype=np.int64)


def exchange(
    problems: Sequence[Problem],
    starts: Sequence[Vector],
    alpha: float,
    rule: StepRule,
    graphs: Sequence[Graph],
    n_rounds: int,
    wire_dtype: np.dtype[Any] = F8,
    radii: tuple[float, float, float] | None = None,
    weights: Weights = metropolis,
) -> Iterator[tuple[list[State], list[Proposal]]]:
    """Run the agents in one process, `graphs` repeated; yields what all are and propose at rounds 0..n_rounds."""
    met = [sorted({j for graph in graphs for j in graph.neighbors(i)}) for i in range(len(problems))]
    clippings = [None if radii is None else Clipping(*radii, tuple(others)) for others in met]
    states = [agent.initial(problem, w, alpha) for problem, w in zip(problems, starts, strict=True)]
    for n in range(n_rounds + 1):
        proposals = [agent.propose(p, s, len(problems)) for p, s in zip(problems, states, strict=True)]
        yield states, proposals
        graph = graphs[n % len(graphs)]
        shares = [share_of(i, s, p, wire_dtype) for i, (s, p) in enumerate(zip(states, proposals, strict=True))]
        states = [
            agent.absorb(
                problems[i],
                states[i],
                proposals[i],
                {j: shares[j] for j in graph.neighbors(i)},
                weights(graph, i),
                rule,
                wire_dtype,
                clippings[i],
            )
            for i in range(len(problems))
        ]


def share_of(i: int, state: State, proposal: Proposal, wire_dtype: np.dtype[Any]) -> Share:
    """What the neighbors of agent i get, rounded as the wire rounds."""
    y, z = rounded(state.y, wire_dtype), rounded(proposal.z, wire_dtype)
    return Share(sender=i, n=state.n, floor=state.n, objective=state.objective, y=y, z=z)
