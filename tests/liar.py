"""One agent of a run lies within the format, and the others keep to the method, with clipping or without.

The liar needs no data: it knows what every agent is about to mix, and tells each whatever it likes.
`python -m tests.liar` measures what it does to the built-in experiment without a hidden layer, whose optimum
is unique; the README has its table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from scipy.optimize import minimize

from peer import agent, config, learning, settings
from peer.agent import Clipping, Mixture, Proposal, State
from peer.arrays import Vector, rounded
from peer.data import Cut
from peer.messages import Share
from peer.optim.steps import Constant
from peer.problem import Problem
from peer.shards import read
from tests.instances import F8, share_of
from topology import Graph, PeerId
from topology.weights import metropolis

Lie: TypeAlias = Callable[[PeerId, State, Proposal, Vector], tuple[Vector, Vector, float]]
"""z, y and objective that agent i, of this state and proposal, hears from the liar, which has a direction (p,)."""

Objective: TypeAlias = Callable[[Vector], float]

LBFGS: Final[Any] = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9}
"""So that the optimum is one to all digits that are shown."""

LIES: Final[dict[str, Lie]] = {
    "a million, in one direction": lambda i, s, p, u: (1e6 * u, 1e6 * u, 1e6),
    "a million, z against y": lambda i, s, p, u: (1e6 * u, -1e6 * u, -1e6),
    "what each says itself, and one unit more": lambda i, s, p, u: (p.z + u, s.y + u, s.objective + 1.0),
    "the contrary of what it hears": lambda i, s, p, u: (-p.z, -s.y, -s.objective),
    "one thing to some, the contrary to others": lambda i, s, p, u: ((-1.0) ** i * 1e6 * u, (-1.0) ** i * 1e6 * u, 0.0),
}
"""Each takes (i, state, proposal, direction)."""


def play(
    problems: Sequence[Problem],
    start: Vector,
    alpha: float,
    graph_of: Callable[[int], Graph],
    n_rounds: int,
    liar: PeerId,
    lie: Lie,
    radii: tuple[float, float, float] | None,
    wire_dtype: np.dtype[Any] = F8,
) -> dict[PeerId, State]:
    """States of the honest agents after a run from one `start`; `radii` as those of `Clipping`, None for none."""
    n_agents = len(problems)
    direction = np.random.default_rng(liar).standard_normal(start.size)
    direction /= np.linalg.norm(direction)
    others = {i: tuple(j for j in range(n_agents) if j != i) for i in range(n_agents)}
    clippings = {i: None if radii is None else Clipping(*radii, others[i]) for i in range(n_agents)}
    states = {i: agent.initial(problems[i], start, alpha) for i in others[liar]}
    for n in range(n_rounds):
        graph = graph_of(n)
        proposals = {i: agent.propose(problems[i], state, n_agents) for i, state in states.items()}
        shares = {i: share_of(i, state, proposals[i], wire_dtype) for i, state in states.items()}

        def heard(i: PeerId) -> dict[PeerId, Share]:
            z, y, objective = lie(i, states[i], proposals[i], direction)  # noqa: B023
            told = Share(liar, n, n, objective, rounded(y, wire_dtype), rounded(z, wire_dtype))  # noqa: B023
            return {j: told if j == liar else shares[j] for j in graph.neighbors(i)}  # noqa: B023

        states = {
            i: agent.settle(
                problems[i],
                state,
                proposals[i],
                agent.exchange(
                    state,
                    Mixture.of(state, proposals[i]),
                    heard(i),
                    metropolis(graph, i),
                    wire_dtype,
                    clippings[i],
                ),
                Constant(),
            )
            for i, state in states.items()
        }
    return states


def optimum(problems: Sequence[Problem], honest: Sequence[PeerId], start: Vector) -> tuple[Vector, Objective]:
    """Minimizer of what the honest agents' shards say, and that function: I/H times their sum of g_i, and r.

    H of I agents are honest, and multiply the mean gradient by I, as they know of no liar. r is smooth.
    """
    share, r = len(problems) / len(honest), problems[0].regularizer

    def value(w: Vector) -> float:
        return float(share * sum(problems[i].value(w) for i in honest) + r.value(w))

    def gradient(w: Vector) -> Vector:
        return np.asarray(share * np.sum([problems[i].gradient(w) for i in honest], axis=0) + r.gradient(w))

    found = minimize(value, start, jac=gradient, method="L-BFGS-B", options=LBFGS)
    return np.asarray(found.x), value


def main() -> None:
    """Measure what a liar does to the built-in experiment, its hidden layer left out."""
    parser = argparse.ArgumentParser(prog="python -m tests.liar", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--liar", type=int, default=1, help="which of the eight; 1 has the most links, 4")
    parser.add_argument("--clip-w", type=float, default=0.03)
    parser.add_argument("--clip-y", type=float, default=0.008)
    given = parser.parse_args()
    path = Path(settings.__file__).parents[1] / "default.toml"
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(settings.read(path)).write(Path(folder))
        experiment = settings.read(
            path, ["data.dataset=", f"data.path={folder}/peer-{{id:03d}}.npz", "model.hidden=[]", "surrogate.tau=0.03"]
        )
        shards = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
        test = read(Path(folder) / "test.npz")
    initial, alpha = learning.initial_of(experiment, 0), 0.15
    model = learning.model_of(experiment, shards[0], 2, initial)
    total = sum(shard.n_samples for shard in shards)
    problems = [learning.problem_of(experiment, model, shard, total) for shard in shards]
    start = initial.vector(model, experiment.seed, problems[0].regularizer)
    graph_of = config.schedule_of(experiment).graph
    honest = [i for i in range(experiment.peers) if i != given.liar]
    best, value = optimum(problems, honest, start)
    clipped = (given.clip_w / alpha, given.clip_y, 0.1)

    def accuracy(w: Vector) -> float:
        return float(np.mean((model.at(w, test.x).outputs[:, 0] > 0.0) == test.labels))

    print(f"honest optimum: ‖w*‖ = {np.linalg.norm(best):.3g}, U* = {value(best):.3g}, accuracy {accuracy(best):.3f}")
    print(f"after {given.rounds} rounds: U, ‖w - w*‖, accuracy on the test set, of the mean of the honest")
    print("| the liar says | without clipping | with |")
    for name, lie in LIES.items():
        found = []
        for radii in (None, clipped):
            states = play(problems, start, alpha, graph_of, given.rounds, given.liar, lie, radii)
            w = np.mean([state.w for state in states.values()], axis=0)
            found.append(f"{value(w):.2g}, {np.linalg.norm(w - best):.2g}, {accuracy(w):.3f}")
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
