"""Members of every family that the laws speak of, drawn from a seed; and agents that exchange in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from peer import alignment, careful
from peer import renewal as renewals
from peer.agent import Clipping, Mixture, Proposal, State
from peer.alignment import Watch
from peer.arrays import Matrix, Vector
from peer.careful import Caution
from peer.gossip import begun, spoken, taken
from peer.links import Coding
from peer.messages import Share
from peer.methods import Method, Next
from peer.optim.chains import Chain, mlp
from peer.optim.losses import (
    Huber,
    Logistic,
    Loss,
    Softmax,
    Squared,
    SquaredHinge,
    Weighted,
    cross_entropy,
    squared_hinge,
)
from peer.optim.regularizers import L1, L2, Boxed, ElasticNet, GroupL2, NoRegularizer, Regularizer
from peer.optim.stacks import Stack
from peer.optim.steps import StepRule
from peer.optim.surrogates import Data, Linearized, Partial
from peer.problem import Problem
from peer.renewal import Renewal
from peer.simulation import heard, told
from tests import reference
from tests.laws import matrix
from topology import Graph
from topology.gossip import ONCE, Gossip
from topology.weights import Weights, metropolis

ACTIVATIONS: Final = ("tanh", "relu", "sigmoid")
LOSSES: Final = ("squared", "huber", "squared_hinge", "logistic", "softmax", "weighted squared", "weighted huber")
SEPARABLE: Final = ("none", "l2", "l1", "elastic_net", "box")
REGULARIZERS: Final = (*SEPARABLE, "group_l2")
PIECES: Final = ("saturated", "all flat", "at the kink")
NEXT: Final = Next()
F8: Final = np.dtype("<f8")
F4: Final = np.dtype("<f4")


def loss_of(rng: np.random.Generator, name: str, m: int, q: int) -> Loss:
    """A loss of m samples with random targets; the logistic one has one output, the others q of them.

    Of weighted samples some count nothing, and no weight is 1.
    """
    if name.startswith("weighted "):
        weights = np.where(rng.random(m) < 0.8, rng.uniform(0.1, 0.9, m), 0.0)
        weights[:1] = 3.0
        return Weighted(loss_of(rng, name.removeprefix("weighted "), m, q), weights)
    if name == "squared":
        return Squared(rng.standard_normal((m, q)))
    if name == "huber":
        return Huber(rng.standard_normal((m, q)), rng.uniform(0.2, 1.0))
    if name == "squared_hinge":
        return squared_hinge(rng.integers(0, max(2, q), m), q)
    if name == "logistic":
        return Logistic(rng.integers(0, 2, m))
    return Softmax(rng.integers(0, q, m))


def regularizer_of(rng: np.random.Generator, name: str, p: int, strength: float) -> Regularizer:
    """A penalty of p parameters; about a quarter of them is not regularized."""
    strengths = np.where(rng.random(p) < 0.75, strength * rng.uniform(0.5, 1.0, p), 0.0)
    if name == "none":
        return NoRegularizer()
    if name == "group_l2":
        n_groups = rng.integers(1, p + 1)
        groups = np.unique(np.where(strengths > 0.0, rng.integers(0, n_groups, p), -1), return_inverse=True)
        member = groups[1] - int(groups[0][0] < 0)
        return GroupL2(member, strength * rng.uniform(0.5, 1.0, member.max() + 1))
    if name == "box":
        lower = rng.choice((-np.inf, -0.5, 0.0, 0.2), p)
        upper = np.maximum(lower, -1.0) + rng.choice((0.6, 1.5, np.inf), p)
        return Boxed(regularizer_of(rng, str(rng.choice(SEPARABLE[:4])), p, strength), lower, upper)
    if name == "elastic_net":
        ratio = rng.choice((0.0, 0.3, 0.7, 1.0))
        return ElasticNet(ratio * strengths, (1.0 - ratio) * strengths)
    return L2(strengths) if name == "l2" else L1(strengths)


def outputs_of(loss: str, q: int) -> int:
    """Number of outputs that fits the loss."""
    return {"logistic": 1, "softmax": q + 1}.get(loss.removeprefix("weighted "), q)


def data_of(rng: np.random.Generator, loss: str, model: Chain, m: int, weight: float) -> Data:
    """A shard of m random samples seen through the model."""
    inputs = rng.standard_normal((m, model.n_inputs))
    return Data(model, inputs, loss_of(rng, loss, m, model.n_outputs), weight)


def parameters_of(rng: np.random.Generator, model: Chain) -> Vector:
    """Parameters of which all, also the biases, are at random, (p,)."""
    return model.initial(rng) + 0.3 * rng.standard_normal(model.layout.size)


def gradient_of(data: Data, w: Vector) -> Vector:
    """Grad g_i(w), (p,)."""
    return data.weight * data.model.at(w, data.inputs).vjp(data.loss.gradient(data.model.at(w, data.inputs).outputs))


def linearized_of(rng: np.random.Generator, loss: str, model: Chain, m: int, tau: float, kappa: float) -> Linearized:
    """Subproblem (11) of a random shard around random parameters, the others wanting something at random."""
    data = data_of(rng, loss, model, m, 1.0 / m)
    w = parameters_of(rng, model)
    gradient = gradient_of(data, w)
    pi = (3.0 - kappa) * gradient + np.max(np.abs(gradient)) * rng.standard_normal(w.size)
    return Partial(tau, kappa).around(w, gradient, pi, data)


def rounding_of(h: Linearized, r: Regularizer, w: Vector) -> float:
    """Relative residual that rounding alone may leave: of w, and of all products in the gradient of h."""
    J, d = np.abs(matrix(h)), np.abs(w - h.center)
    slopes = np.abs(h.outputs).reshape(-1) + J @ d + 1.0
    largest = np.max(np.abs(w) + h.weight * (J.T @ slopes) + np.abs(h.pi) + h.tau * d)
    eps = float(np.finfo(np.float64).eps)
    return float(4.0 * eps * largest / max(h.scale, r.scale, eps))


def most_curved(loss: Loss, name: str) -> float:
    """Upper bound of the second derivative of a loss of this name."""
    heaviest = float(np.max(loss.weights)) if isinstance(loss, Weighted) else 1.0
    return heaviest * reference.CURVATURES[name.removeprefix("weighted ")]


def certain(h: Linearized, r: Regularizer, loss: str) -> Vector:
    """The minimizer by accelerated proximal gradients, which know nothing but gradient and prox."""
    bound = most_curved(h.loss, loss) * h.weight * np.linalg.norm(matrix(h), 2) ** 2 + h.tau
    return reference.accelerated(h.gradient, r.prox, h.center, float(bound), h.tau)


def separable_labels(rng: np.random.Generator, inputs: Matrix, n_classes: int) -> NDArray[np.int64]:
    """Classes 0..n_classes-1 that a linear map tells apart without error, (m,)."""
    scores = inputs @ rng.standard_normal((inputs.shape[1], n_classes))
    return np.asarray(np.argmax(scores, axis=1), dtype=np.int64)


def saturated_of(rng: np.random.Generator, n_classes: int, tau: float, kappa: float) -> Linearized:
    """Correlated features, classes apart without error, a network with outputs far out: saturated losses."""
    x = rng.standard_normal((30, 1)) + 0.1 * rng.standard_normal((30, 6))
    labels = separable_labels(rng, x, n_classes)
    q = 1 if n_classes == 2 else n_classes
    model = mlp((6, 4, q), "tanh")
    w = 10.0 * model.initial(rng)
    data = Data(model, x, cross_entropy(labels, q), 1.0)
    gradient = gradient_of(data, w)
    return Partial(tau, kappa).around(w, gradient, (3.0 - kappa) * gradient, data)


def pieces_of(rng: np.random.Generator, name: str, where: str, tau: float, kappa: float) -> Linearized:
    """A loss whose gradient has kinks, where Newton's model of it is worst; all flat: its curvature is 0."""
    q = 1 if rng.random() < 0.5 else 3
    model = mlp((4, *((3,) if rng.random() < 0.5 else ()), q), "tanh")
    m, w = int(rng.integers(2, 25)), parameters_of(rng, model)
    x = rng.standard_normal((m, 1)) + 0.1 * rng.standard_normal((m, 4))
    if where == "saturated":
        w = 10.0 * w
    f = model.at(w, x).outputs
    signs = rng.choice([-1.0, 1.0], (m, q))
    if name == "huber":
        far = {"saturated": rng.standard_normal((m, q)), "all flat": 80.0 * signs, "at the kink": signs}[where]
        loss: Loss = Huber(f + far, 0.1 if where == "all flat" else 1.0)
    elif where == "at the kink":
        x = np.repeat(x[:1], m, axis=0)
        w[-q:] += 1.0 - model.at(w, x).outputs[0]
        loss = SquaredHinge(np.ones((m, q)))
    else:
        loss = SquaredHinge(np.where(f > 0.0, 1.0, -1.0) if where == "all flat" else signs)
        w = 1e3 * w if where == "all flat" and model.widths == (4, q) else w
    weighted = Weighted(loss, rng.choice([0.1, 1.0, 5.0], m))
    data = Data(model, x, weighted if rng.random() < 0.5 else loss, 1.0 / m)
    gradient = gradient_of(data, w)
    pi = (3.0 - kappa) * gradient + 0.1 * (1.0 + np.max(np.abs(gradient))) * rng.standard_normal(w.size)
    return Partial(tau, kappa).around(w, gradient, pi, data)


def alone(h: Linearized, place: slice) -> Linearized:
    """The subproblem in the parameters of a block, all others kept."""
    return replace(h, center=h.center[place], jacobian=matrix(h)[:, place], pi=h.pi[place], slope=None)


def stack_of(h: Linearized, r: Regularizer, b: int) -> Stack:
    """The subproblem and a penalty in blocks of b parameters each, as many as there are in full."""
    n, k = h.center.size // b, h.outputs.size
    place = slice(0, n * b)
    columns = np.ascontiguousarray(matrix(h)[:, place].reshape(k, n, b).transpose(1, 0, 2))
    center, pi = h.center[place].reshape(n, b), h.pi[place].reshape(n, b)
    return Stack(center, h.outputs, columns, h.loss, h.weight, pi, h.tau, h.scale, r.restricted(place))


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
    gossip: Gossip = ONCE,
    caution: Caution | None = None,
    renewal: Renewal | None = None,
    watches: Sequence[Watch] = (),
    codings: Sequence[Coding] = (),
    method: Method = NEXT,
) -> Iterator[tuple[list[State], list[Proposal]]]:
    """Run the agents in one process, `graphs` repeated; yields what all are and propose at rounds 0..n_rounds.

    Each exchange of a round has the next graph. With `caution` agents choose tau themselves; with `renewal` networks
    stay linearized for longer than a round; with `watches` agents look at their feedback; with `codings` they say less.
    """
    met = [sorted({j for graph in graphs for j in graph.neighbors(i)}) for i in range(len(problems))]
    clippings = [None if radii is None else Clipping(*radii, tuple(others)) for others in met]
    states = [method.initial(problem, w, alpha) for problem, w in zip(problems, starts, strict=True)]
    if renewal is not None:
        states = [renewals.begun(state) for state in states]
    if caution is not None:
        states = [careful.begun(problem, state, caution) for problem, state in zip(problems, states, strict=True)]
    if watches:
        states = [alignment.begun(*each) for each in zip(problems, states, watches, strict=True)]
    for n in range(n_rounds + 1):
        proposals = [
            method.propose(p.in_round(n, s.alpha, s.way), s, len(problems))
            for p, s in zip(problems, states, strict=True)
        ]
        yield states, proposals
        courses = [begun(s, p) for s, p in zip(states, proposals, strict=True)]
        for k in range(gossip.n_steps):
            graph = graphs[(n * gossip.n_steps + k) % len(graphs)]
            if codings:
                courses = [spoken(c, codings[i], gossip, graph.neighbors(i), wire_dtype) for i, c in enumerate(courses)]
            courses = [
                taken(
                    course,
                    {j: heard(j, courses[j], n, i, wire_dtype) for j in graph.neighbors(i)},
                    weights(graph, i),
                    gossip,
                    wire_dtype,
                    clippings[i],
                )
                for i, course in enumerate(courses)
            ]
        fields = [alignment.chosen(problem, state) for problem, state in zip(problems, states, strict=True)]
        before, states = (
            states,
            [method.settle(fields[i], c.state, c.proposal, c.here, rule, len(states)) for i, c in enumerate(courses)],
        )
        if renewal is not None:
            pairs = zip(problems, states, strict=True)
            states = [renewals.renewed(problem, state, renewal, len(states)) for problem, state in pairs]
        if caution is not None:
            here = [field.linearized(state.anchor) for field, state in zip(fields, states, strict=True)]
            states = [careful.adapted(*each, caution) for each in zip(here, before, states, strict=True)]
        if watches:
            states = [alignment.watched(*each) for each in zip(fields, before, states, watches, strict=True)]


def share_of(i: int, state: State, proposal: Proposal, wire_dtype: np.dtype[Any]) -> Share:
    """What the neighbors of agent i get in the first exchange of a round, rounded as the wire rounds."""
    return told(i, Mixture.of(state, proposal), state.n, wire_dtype)
