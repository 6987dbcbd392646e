"""Lazy regimes are a ridge regression: every graph, solver and way to exchange leads to the same centralized one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from peer import agent, waking
from peer.agent import State
from peer.flows import Flows
from peer.optim import frozen
from peer.optim.maps import is_direct, is_dual
from peer.optim.steps import Constant
from peer.problem import Problem
from tests import quadratic, synchronous
from tests.instances import exchange
from tests.quadratic import PEERS, REGIMES, Array
from topology import graphs
from topology.gossip import plain
from topology.graphs import FAMILIES, Graph
from topology.schedules import Static
from topology.weights import metropolis

FORMS = ("primal", "dual", "matrix-free", "blocks")
ENOUGH = 1e-10

ALPHA = {"rounds": 0.8, "async": 0.5, "simulation": 0.8}
STEPS = 2
"""Exchanges a round: then the star is no slower than the others."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ALPHA)
def test_every_way_leads_to_the_centralized_ridge(mode: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "matrix-free":
        monkeypatch.setattr(frozen, "is_dense_cheaper", lambda *_: False)
    run = {"rounds": in_rounds, "async": without_rounds, "simulation": on_a_network}[mode]
    every = {"rounds": 1, "async": 2, "simulation": len(FORMS)}[mode]  # for these take longer
    for k, family in list(enumerate(FAMILIES))[FORMS.index(form) % every :: every]:
        regime = REGIMES[(k + FORMS.index(form)) % 2]
        n_samples = {"random-features": 2, "neural-tangent": 8}[regime] if form == "dual" else 12
        what = quadratic.drawn(k, n_samples)
        problems, w0 = what.problems(regime, 2 if form == "blocks" else 1)
        if form != "blocks":
            kept = problems[0].data.frozen
            assert kept is not None
            J = kept.whole.jacobian
            assert (is_direct(J), is_dual(J)) == (form != "matrix-free", form == "dual")
        ridge = what.ridge(regime)
        assert np.abs(ridge - w0).max() > 0.1, "there is nothing to learn"
        n_rounds = 200 if form == "blocks" else 100
        found = run(graphs.family(family, PEERS, probability=0.5, radius=0.7, seed=k), problems, w0, k, n_rounds)
        assert np.abs(found - ridge).max() < ENOUGH, f"{regime} on {family}"


def in_rounds(graph: Graph, problems: Sequence[Problem], w0: Array, seed: int, n_rounds: int) -> Array:
    runs = exchange(problems, [w0] * PEERS, ALPHA["rounds"], Constant(), [graph], n_rounds, gossip=plain(STEPS))
    *_, (states, _) = runs
    return np.stack([state.w for state in states])


def without_rounds(graph: Graph, problems: Sequence[Problem], w0: Array, seed: int, n_rounds: int) -> Array:
    """One agent after the other wakes, by chance; every fourth message is lost."""
    chance, n_agents = random.Random(seed), len(problems)
    states: list[State] = [agent.initial(problem, w0, ALPHA["async"]) for problem in problems]
    flows = [Flows(i, 0, graph.neighbors(i)) for i in range(n_agents)]
    for flow, state in zip(flows, states, strict=True):
        flow.open_epoch(0, range(n_agents), waking.source(state))
    for _ in range(3 * n_rounds * n_agents):
        i = chance.randrange(n_agents)
        theirs = flows[i].absorb()
        woken = waking.wake(problems[i], states[i], flows[i].mass.high, theirs, n_agents, Constant())
        states[i] = woken.state
        flows[i].track(woken.source)
        flows[i].push(woken.v, graph.neighbors(i))
        for j in graph.neighbors(i):
            if chance.random() > 0.25:
                flows[j].receive(flows[i].flow(j))
    return np.stack([state.w for state in states])


def on_a_network(graph: Graph, problems: Sequence[Problem], w0: Array, seed: int, n_rounds: int) -> Array:
    """Messages late and out of order, connections that break, peers that crash and are resumed."""
    run = simulated(graph, problems, w0, seed, n_rounds)
    run.play()
    return np.stack([run.history[i, n_rounds].w for i in range(PEERS)])


def simulated(graph: Graph, problems: Sequence[Problem], w0: Array, seed: int, n_rounds: int) -> synchronous.Run:
    return synchronous.Run(
        replace(
            synchronous.scenario(seed),  # for its weather
            schedule=Static(graph),
            n_rounds=n_rounds,
            every=5,
            dtype="f8",
            problems=tuple(problems),
            initial=(w0,) * PEERS,
            alpha=ALPHA["simulation"],
            rule=Constant(),
            slow=None,
            crashes=(20.0, 100.0),
            radii=None,
            weights=metropolis,
            tolerance=0.0,
            caution=None,
            held_out=(),
            patience=0,
            gossip=plain(STEPS),
        )
    )
