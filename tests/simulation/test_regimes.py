"""Lazy regimes are a ridge regression: every graph, solver and way to exchange leads to the same centralized one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from peer import agent, waking
from peer import renewal as renewals
from peer.actor import Actor
from peer.agent import State
from peer.flows import Flows
from peer.optim import frozen
from peer.optim.maps import is_direct, is_dual
from peer.optim.steps import Constant
from peer.problem import Problem
from peer.renewal import Renewal
from tests import quadratic, synchronous
from tests.instances import exchange
from tests.quadratic import FORMS, PEERS, REGIMES, SIX, Array
from topology import graphs
from topology.gossip import Gossip, make
from topology.graphs import FAMILIES, Graph
from topology.schedules import Static

ENOUGH = 1e-10

ALPHA = {"rounds": 0.8, "async": 0.6, "simulation": 0.8}
STEPS = 2
"""Exchanges a round: then the star is no slower than the others."""

ROUNDS = 40
"""Enough on every graph."""

CASES = list(product(ALPHA, FORMS, REGIMES))


@pytest.mark.parametrize(("mode", "form", "regime"), CASES, ids=["-".join(case) for case in CASES])
def test_every_way_leads_to_the_centralized_ridge(
    mode: str, form: str, regime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every graph: the whole product, without processes."""
    if form == "matrix-free":
        monkeypatch.setattr(frozen, "is_dense_cheaper", lambda *_: False)
    run = {"rounds": in_rounds, "async": without_rounds, "simulation": on_a_network}[mode]
    what = quadratic.of_six(regime, form)
    ridge, seen = what.ridge(regime), set[Graph]()
    for k, family in enumerate(FAMILIES):
        problems, w0 = what.problems(regime, 2 if form == "blocks" else 1)
        if form != "blocks":
            kept = problems[0].data.frozen
            assert kept is not None
            J = kept.whole.jacobian
            assert (is_direct(J), is_dual(J)) == (form != "matrix-free", form == "dual")
        assert np.abs(ridge - w0).max() > 0.1, "there is nothing to learn"
        graph = graphs.family(family, SIX, probability=0.5, radius=0.7, seed=5)
        assert graph not in seen, "another family has made this graph"
        seen.add(graph)
        found = run(graph, problems, w0, ridge, k, ROUNDS)
        assert np.abs(found - ridge).max() < ENOUGH, family


def there(states: Sequence[State], goal: Array) -> bool:
    """Whether a run that has come so far may end."""
    return max(float(np.abs(state.w - goal).max()) for state in states) < 0.3 * ENOUGH


def way_on(graph: Graph) -> Gossip:
    return make("chebyshev", STEPS, Static(graph))


def in_rounds(graph: Graph, problems: Sequence[Problem], w0: Array, goal: Array, seed: int, n_rounds: int) -> Array:
    runs = exchange(problems, [w0] * SIX, ALPHA["rounds"], Constant(), [graph], n_rounds, gossip=way_on(graph))
    for states, _ in runs:
        if there(states, goal):
            break
    return np.stack([state.w for state in states])


def without_rounds(
    graph: Graph, problems: Sequence[Problem], w0: Array, goal: Array, seed: int, n_rounds: int
) -> Array:
    states, _ = wakings(graph, problems, w0, seed, 8 * n_rounds, goal=goal)
    return np.stack([state.w for state in states])


def wakings(
    graph: Graph,
    problems: Sequence[Problem],
    w0: Array,
    seed: int,
    n_each: int,
    renewal: Renewal | None = None,
    goal: Array | None = None,
) -> tuple[list[State], list[Flows]]:
    """One agent after the other wakes, by chance, about n_each times each; every fourth message is lost."""
    chance, n_agents = random.Random(seed), len(problems)
    states: list[State] = [agent.initial(problem, w0, ALPHA["async"]) for problem in problems]
    if renewal is not None:
        states = [renewals.begun(state) for state in states]
    flows = [Flows(i, 0, graph.neighbors(i)) for i in range(n_agents)]
    for flow, state in zip(flows, states, strict=True):
        flow.open_epoch(0, range(n_agents), waking.source(state))
    for n in range(n_each * n_agents):
        if goal is not None and n % 20 == 0 and there(states, goal):
            break
        i = chance.randrange(n_agents)
        theirs = flows[i].absorb()
        woken = waking.wake(problems[i], states[i], flows[i].mass.high, theirs, n_agents, Constant())
        states[i] = woken.state
        if renewal is not None:
            states[i] = renewals.renewed(problems[i], woken.state, renewal, n_agents)
        flows[i].track(waking.source(states[i]))
        flows[i].push(woken.v, graph.neighbors(i))
        for j in graph.neighbors(i):
            if chance.random() > 0.25:
                flows[j].receive(flows[i].flow(j))
    return states, flows


def on_a_network(graph: Graph, problems: Sequence[Problem], w0: Array, goal: Array, seed: int, n_rounds: int) -> Array:
    """Messages late and out of order, connections that break, peers that crash and are resumed."""
    run = simulated(graph, problems, w0, seed, n_rounds)
    run.play()
    return np.stack([run.history[i, n_rounds].w for i in range(SIX)])


def simulated(graph: Graph, problems: Sequence[Problem], w0: Array, seed: int, n_rounds: int) -> synchronous.Run:
    alpha, gossip = ALPHA["simulation"], way_on(graph)
    actors = (Actor(i, g, Static(graph), n_rounds, alpha, gossip=gossip) for i, g in enumerate(problems))
    calm = replace(synchronous.scenario(seed), every=5, dtype="f8", slow=None, crashes=(20.0, 100.0))  # for its weather
    return synchronous.Run(replace(calm, actors=tuple(actors), initial=(w0,) * SIX))


EVERY = Renewal(3)


@pytest.mark.parametrize("renewal", [EVERY, Renewal()], ids=["every 3", "auto"])
def test_trackers_follow_the_gradients_of_the_linearized_networks(renewal: Renewal) -> None:
    """(9), in every round, for the g_i of the moment; and what is tracked of the objective likewise."""
    problems, w0 = quadratic.drawn(3, 12).problems("full")
    anchors: set[tuple[int, int]] = set()
    for states, _ in exchange(problems, [w0] * PEERS, 0.5, Constant(), [graphs.ring(PEERS)], 40, renewal=renewal):
        now = [problem.linearized(state.anchor) for problem, state in zip(problems, states, strict=True)]
        gradients = [g.gradient(state.w) for g, state in zip(now, states, strict=True)]
        values = [g.value(state.w) for g, state in zip(now, states, strict=True)]
        np.testing.assert_allclose(sum(state.y for state in states), sum(gradients), rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(sum(state.objective for state in states), sum(values), rtol=1e-12)
        if renewal.every:
            assert [state.anchored for state in states] == [states[0].n // 3 * 3] * PEERS
        anchors.update((i, state.anchored) for i, state in enumerate(states))
    assert PEERS < len(anchors) < 40 * PEERS


@pytest.mark.parametrize("renewal", [EVERY, Renewal()], ids=["every 3", "auto"])
def test_they_lead_where_the_method_as_published_leads(renewal: Renewal) -> None:
    """To a point that is stationary for the network itself, and to the same here, for all begin in its valley."""
    problems, w0 = quadratic.drawn(3, 12).problems("full")
    ends = []
    for how in (None, renewal):
        *_, (states, _) = exchange(problems, [w0] * PEERS, 0.8, Constant(), [graphs.complete(PEERS)], 150, renewal=how)
        w = states[0].w
        assert problems[0].stationarity(w, np.sum([problem.gradient(w) for problem in problems], axis=0)) < 1e-9
        ends.append(w)
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("renewal", [None, EVERY, Renewal()], ids=["never", "every 3", "auto"])
def test_a_run_without_rounds_keeps_all_mass(renewal: Renewal | None) -> None:
    """(17) for the linearized g_i of the moment, messages lost or not; and it leads to a stationary point."""
    problems, w0 = quadratic.drawn(3, 12).problems("neural-tangent" if renewal is None else "full")
    states, flows = wakings(graphs.ring(PEERS), problems, w0, 1, 150, renewal)
    sources = [waking.source(state) for state in states]
    now = [problem.linearized(state.anchor) for problem, state in zip(problems, states, strict=True)]
    for g, state, source in zip(now, states, sources, strict=True):
        np.testing.assert_allclose(source[:-2], g.gradient(state.w), rtol=0.0, atol=1e-12)
    links = [(i, j) for i in range(PEERS) for j in flows[i].neighbors]
    under_way = sum(flows[i].pushed(j) - flows[j].absorbed(i) for i, j in links)
    np.testing.assert_allclose(sum(flow.mass.high for flow in flows) + under_way, sum(sources), rtol=0.0, atol=1e-11)
    w = np.mean([state.w for state in states], axis=0)
    assert problems[0].stationarity(w, np.sum([problem.gradient(w) for problem in problems], axis=0)) < 1e-5
