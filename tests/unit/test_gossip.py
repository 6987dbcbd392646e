"""Several exchanges a round: the numbers by hand, what an agent makes of them, and what is kept."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from peer import agent, config, gossip, settings
from peer.agent import Clipping, Mixture, Proposal, State
from peer.arrays import BF16, Matrix, Vector
from peer.errors import ProtocolError, SolveError
from peer.messages import Share
from peer.optim.chains import mlp
from peer.optim.regularizers import L1
from peer.optim.solvers import Solution
from peer.optim.steps import Constant
from peer.optim.surrogates import Partial
from peer.problem import Problem
from peer.shards import Shard
from peer.simulation import told
from tests.instances import F4, F8, data_of, exchange, parameters_of
from topology import Graph, graphs
from topology.gossip import MOST_AGENTS, Gossip, chebyshev, make, plain, round_rate
from topology.graphs import TopologyError
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Schedule, Static
from topology.weights import RULES, Fastest, lazy_metropolis, metropolis, mixing_matrix, mixing_rate

V = np.zeros(2)
RING = graphs.ring(6)


# ---- the polynomial ------------------------------------------------------------------------


def test_the_polynomial_of_a_ring_by_hand() -> None:
    """A ring of 6 has the eigenvalues -1/3, 0 and 2/3 beside 1: c = 1/6, h = 1/2, (1 - c)/h = 5/3."""
    found = chebyshev(RING, metropolis, 3)
    assert found.gamma == pytest.approx(6.0 / 5.0, abs=1e-8)
    square = (3.0 / 5.0) ** 2
    omegas = [1.0, 1.0 / (1.0 - square / 2.0), 1.0 / (1.0 - square / 4.0 / (1.0 - square / 2.0))]
    assert found.omegas == pytest.approx(omegas, abs=1e-8)
    x = 5.0 / 3.0
    assert round_rate(Static(RING), 1, metropolis, found) == pytest.approx(1.0 / (4.0 * x**3 - 3.0 * x), abs=1e-8)
    assert found.at(2.0 / 3.0) == pytest.approx(-found.at(-1.0 / 3.0))


def test_how_far_a_round_reaches() -> None:
    """As far as it goes where every exchange moves by 1 in the same direction."""
    for way in (plain(1), plain(4), chebyshev(RING, metropolis, 4)):
        before = here = 0.0
        for omega in way.omegas:
            before, here = here, here + (omega - 1.0) * (here - before) + omega * way.gamma
        assert way.reach == pytest.approx(here)
    assert plain(4).reach == 4.0


@pytest.mark.parametrize("name", graphs.FAMILIES)
def test_libraries_that_differ_in_the_last_bits_find_the_same_polynomial(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, rng = graphs.family(name, 16, probability=0.3, radius=0.5, seed=7), np.random.default_rng(0)
    eigvalsh = np.linalg.eigvalsh
    for weights in (*RULES.values(), Fastest.on(graph)):
        expected = chebyshev(graph, weights, 4)
        with monkeypatch.context() as patch:
            patch.setattr(np.linalg, "eigvalsh", lambda C: eigvalsh(C) + rng.uniform(-1e-14, 1e-14, len(C)))
            for _ in range(3):
                assert chebyshev(graph, weights, 4) == expected


def test_what_agrees_at_once_goes_on_to() -> None:
    for graph in (graphs.complete(1), graphs.complete(2), graphs.complete(7)):
        assert round_rate(Static(graph), 5, metropolis, chebyshev(graph, metropolis, 3)) < 1e-15


@pytest.mark.parametrize("schedule", [Static(RING), RandomLinks(RING, 0.6, 1), OnePeerExponential(8)])
def test_the_rate_of_plain_rounds(schedule: Schedule) -> None:
    """Of all exchanges of a run, those of a round together."""
    for n_steps in (1, 2, 3):
        expected = mixing_rate(schedule, 40 * n_steps) ** n_steps
        assert round_rate(schedule, 40, metropolis, plain(n_steps)) == pytest.approx(expected, rel=1e-12)


def test_ways_that_there_are_not() -> None:
    assert make("plain", 3, Matchings(RING, 1)) == plain(3)
    assert make("chebyshev", 3, Static(RING), lazy_metropolis) == chebyshev(RING, lazy_metropolis, 3)
    with pytest.raises(TopologyError, match="expected one of plain, chebyshev"):
        make("fast", 2, Static(RING))
    with pytest.raises(TopologyError, match="expected a static schedule, for the polynomial needs one and the same C"):
        make("chebyshev", 2, Matchings(RING, 1))
    with pytest.raises(TopologyError, match="expected a connected graph"):
        make("chebyshev", 2, Static(Graph.of(3, [(0, 1)])))
    with pytest.raises(
        TopologyError, match="at most 2,048 peers, as each finds the eigenvalues of C alone; found 2049"
    ):
        make("chebyshev", 2, Static(Graph(MOST_AGENTS + 1, frozenset())))


def test_peers_that_found_other_coefficients_do_not_train_together() -> None:
    given = {"data": {"dataset": "wine"}, "peers": 6, "topology": {"graph": "ring", "consensus_steps": 3}}
    shard = Shard(Path("wine.npz"), np.zeros((2, 3)), None, np.zeros(2, dtype=np.int64), None, None)
    plainly = settings.from_tree(given)
    assert "consensus" not in config.common_settings(plainly, config.ground(plainly), shard)
    given["topology"] = {"graph": "ring", "consensus_steps": 3, "consensus": "chebyshev"}
    experiment = settings.from_tree(given)
    ground = config.ground(experiment)
    assert ground.gossip == chebyshev(RING, metropolis, 3)
    assert config.common_settings(experiment, ground, shard)["consensus"] == repr(repr(ground.gossip))


# ---- an agent ------------------------------------------------------------------------------


class Bowl:
    """g(w) = |w|^2/2."""

    kappa = 1.0

    def value(self, w: Vector) -> float:
        return 0.5 * float(np.dot(w, w))

    def gradient(self, w: Vector) -> Vector:
        return w.copy()

    def estimate(self, n: int, w: Vector, before: Vector, gradient: Vector, value: float) -> tuple[Vector, float]:
        return self.gradient(w), self.value(w)

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[Bowl, Vector]:
        raise NotImplementedError

    def best_response(self, w: Vector, gradient: Vector, pi: Vector, tau: float = 0.0) -> Solution:
        raise NotImplementedError

    def linearized(self, anchor: Vector) -> Bowl:
        return self


def states_of(rng: np.random.Generator, n_agents: int) -> tuple[list[State], list[Proposal]]:
    """Agents in the middle of a run, with y and z at random."""
    vectors = [rng.standard_normal((3, 4)) for _ in range(n_agents)]
    states = [State(5, w, y, w.copy(), 0.5 * float(w @ w), rng.standard_normal(), 0.3) for w, y, _ in vectors]
    states = [state.changed(validation=rng.standard_normal()) for state in states]
    return states, [Proposal(Solution(z, 0.0, 1, "by hand"), z) for _, _, z in vectors]


def all_exchanges(
    states: list[State], proposals: list[Proposal], graph: Graph, way: Gossip, dtype: np.dtype[np.floating]
) -> list[gossip.Course]:
    """A round of all agents on one graph, up to its end."""
    courses = [gossip.begun(*pair) for pair in zip(states, proposals, strict=True)]
    for _ in range(way.n_steps):
        shares = [told(i, course.here, 0, dtype) for i, course in enumerate(courses)]
        courses = [
            gossip.taken(course, {j: shares[j] for j in graph.neighbors(i)}, metropolis(graph, i), way, dtype)
            for i, course in enumerate(courses)
        ]
    return courses


def stacked(mixtures: list[Mixture]) -> Matrix:
    return np.array([[*here.z, *here.y, here.objective, here.validation] for here in mixtures])


@pytest.mark.parametrize("dtype", [F8, F4], ids=["f8", "f4"])
@pytest.mark.parametrize("way", [plain(1), plain(3), chebyshev(RING, metropolis, 3), chebyshev(RING, metropolis, 8)])
def test_agents_apply_the_polynomial_and_keep_sums(way: Gossip, dtype: np.dtype[np.floating]) -> None:
    states, proposals = states_of(np.random.default_rng(1), 6)
    courses = all_exchanges(states, proposals, RING, way, dtype)
    assert {course.k for course in courses} == {way.n_steps}
    eigenvalues, vectors = np.linalg.eigh(mixing_matrix(RING))
    polynomial = (vectors * [way.at(float(eigenvalue)) for eigenvalue in eigenvalues]) @ vectors.T
    start = stacked([Mixture.of(*pair) for pair in zip(states, proposals, strict=True)])
    found = stacked([course.here for course in courses])
    atol = 1e-13 if dtype == F8 else 1e-6
    np.testing.assert_allclose(found, polynomial @ start, rtol=0.0, atol=atol)
    np.testing.assert_allclose(found.sum(axis=0), start.sum(axis=0), rtol=0.0, atol=1e-14 * way.reach)


def test_one_exchange_is_the_round_as_it_was() -> None:
    """Bit for bit."""
    states, proposals = states_of(np.random.default_rng(2), 6)
    courses = all_exchanges(states, proposals, RING, plain(1), F4)
    for i, (state, proposal) in enumerate(zip(states, proposals, strict=True)):
        theirs = {j: told(j, Mixture.of(states[j], proposals[j]), 5, F4) for j in RING.neighbors(i)}
        mixture = agent.exchange(state, Mixture.of(state, proposal), theirs, metropolis(RING, i), F4)
        expected = agent.settle(Bowl(), state, proposal, mixture, Constant())
        found = agent.settle(Bowl(), state, courses[i].proposal, courses[i].here, Constant())
        for name in ("w", "y", "gradient"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert (found.n, found.value, found.objective) == (expected.n, expected.value, expected.objective)


def test_floods_pass_in_every_exchange() -> None:
    state = State(0, V, V, V, 0.0, 0.0, 0.1, flood=2.0)
    course = gossip.begun(state, Proposal(Solution(V, 0.0, 1, "by hand"), V))
    weights = {0: 0.5, 1: 0.5}
    for flood, expected in ((1.0, 2.0), (5.0, 5.0), (3.0, 5.0)):
        course = gossip.taken(course, {1: Share(1, 0, 0, 0.0, V, V, flood)}, weights, plain(3), F8)
        assert course.here.flood == expected


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("way", [plain(2), Gossip(1.2, (1.0, 1.2))], ids=["plain", "chebyshev"])
def test_nan_from_others_names_its_sender_in_the_exchange_in_which_it_comes(way: Gossip) -> None:
    state = State(7, V, V, V, 0.0, 0.0, 0.1)
    course = gossip.begun(state, Proposal(Solution(V, 0.0, 1, "by hand"), V))
    weights, fine = {0: 0.5, 1: 0.5}, Share(1, 0, 0, 0.0, V, V)
    for _ in range(2):
        bad = Share(1, 0, 0, 0.0, V, np.array([0.0, math.inf]))
        with pytest.raises(ProtocolError, match=r"^peer 1, round 7: expected finite numbers"):
            gossip.taken(course, {1: bad}, weights, way, F8)
        course = gossip.taken(course, {1: fine}, weights, way, F8)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_numbers_that_overflow_between_exchanges_are_an_error_of_our_own() -> None:
    huge = np.array([1e308, -1e308])
    state = State(7, V, V, V, 0.0, 0.0, 0.1)
    course = gossip.begun(state, Proposal(Solution(V, 0.0, 1, "by hand"), huge))
    weights, share, way = {0: 0.5, 1: 0.5}, Share(1, 0, 0, 0.0, V, -huge), Gossip(3.0, (1.0, 1.9))
    course = gossip.taken(course, {1: share}, weights, way, F8)
    with pytest.raises(SolveError, match="round 7"):
        agent.settle(Bowl(), state, course.proposal, course.here, Constant())
    with pytest.raises(SolveError, match="round 7"):
        gossip.taken(course, {1: share}, weights, way, F8)


@pytest.mark.parametrize("dtype", [F4, BF16])
@pytest.mark.parametrize("is_z", [True, False])
def test_numbers_too_large_for_the_wire_are_an_error_of_our_own(dtype: np.dtype[np.floating], is_z: bool) -> None:
    """Neighbors would find infinity, drop it, and wait for another share."""
    huge = np.array([1.0, -1e39])
    state = State(7, V, V if is_z else huge, V, 0.0, 0.0, 0.1)
    course = gossip.begun(state, Proposal(Solution(V, 0.0, 1, "by hand"), huge if is_z else V))
    assert gossip.spoken(course, None, plain(1), (1,), F8) is course
    with pytest.raises(SolveError, match=r"exchange 7: .* too large for the wire"):
        gossip.spoken(course, None, plain(1), (1,), dtype)


# ---- runs ----------------------------------------------------------------------------------


def problems_of(n_agents: int) -> list[Problem]:
    rng, model = np.random.default_rng(1), mlp((3, 4, 2), "tanh")
    datas = [data_of(rng, "softmax", model, 2 + i, 0.05) for i in range(n_agents)]
    return [Problem(data, L1(np.full(26, 0.01)), Partial(0.5, float(n_agents)), 1e-13) for data in datas]


@pytest.mark.parametrize("dtype", [F8, F4], ids=["f8", "f4"])
@pytest.mark.parametrize("way", [plain(2), chebyshev(graphs.ring(5), metropolis, 4)], ids=["plain", "chebyshev"])
def test_trackers_sum_to_the_gradients_at_every_round(way: Gossip, dtype: np.dtype[np.floating]) -> None:
    """(9), and the same of the objective, over many rounds; to float64 rounding also with shares of float32."""
    problems, rng = problems_of(5), np.random.default_rng(2)
    starts = [parameters_of(rng, mlp((3, 4, 2), "tanh")) for _ in problems]
    largest = 0.0
    for n, (states, _) in enumerate(exchange(problems, starts, 0.5, Constant(), [RING5], 60, dtype, gossip=way)):
        largest = max(largest, *(float(np.max(np.abs(s.y))) for s in states))
        difference = sum(s.y for s in states) - sum(s.gradient for s in states)
        assert np.max(np.abs(difference)) <= 1e-15 * way.reach * (n + 5) * largest
        assert sum(s.objective for s in states) == pytest.approx(sum(s.value for s in states), rel=1e-14 * (n + 1))


RING5 = graphs.ring(5)


def test_more_exchanges_leave_less_disagreement() -> None:
    problems = problems_of(5)
    w = parameters_of(np.random.default_rng(3), mlp((3, 4, 2), "tanh"))
    ways = [plain(1), plain(3), chebyshev(RING5, metropolis, 3)]
    left = []
    for way in ways:
        run = list(exchange(problems, [w] * 5, 0.3, Constant(), [RING5], 30, gossip=way))
        left.append(max(float(np.max(np.ptp([s.w for s in states], axis=0))) for states, _ in run[20:]))
    assert all(less < 0.5 * more for more, less in pairwise(left))


def test_clipped_exchanges_keep_sums_and_bounds() -> None:
    """In each exchange at most the radius moves, and y by no more than it over the whole run."""
    problems, rng = problems_of(5), np.random.default_rng(5)
    starts = [parameters_of(rng, mlp((3, 4, 2), "tanh")) for _ in problems]
    radii, way = (0.4, 0.03, 0.01), plain(3)
    run = list(exchange(problems, starts, 0.5, Constant(), [RING5], 30, F4, radii, gossip=way))
    freely = list(exchange(problems, starts, 0.5, Constant(), [RING5], 30, F4, gossip=way))
    assert max(np.max(np.abs(a.w - b.w)) for a, b in zip(run[-1][0], freely[-1][0], strict=True)) > 0.01
    for (_, proposals), (states, _) in pairwise(run):
        mean = np.mean([p.z for p in proposals], axis=0)
        np.testing.assert_allclose(np.mean([s.w for s in states], axis=0), mean, rtol=0.0, atol=1e-14)
        difference = sum(s.y for s in states) - sum(s.gradient for s in states)
        assert np.max(np.abs(difference)) <= 1e-15 * 25
        for proposal, after in zip(proposals, states, strict=True):
            assert np.linalg.norm(after.w - proposal.z) <= 3 * (2.0 / 3.0) * 0.4 * 0.5 * (1.0 + 1e-9)
            assert np.linalg.norm(after.y - after.gradient) <= 2 * 0.03 * (1.0 + 1e-9)


def test_a_clipped_exchange_takes_up_where_the_last_one_was() -> None:
    """Two of them by hand: f is what came of both."""
    clipping = Clipping(w=10.0, y=2.0, objective=5.0, neighbors=(1,))
    state = State(0, np.zeros(1), np.array([1.0]), np.array([1.0]), 0.0, 0.0, 1.0)
    course = gossip.begun(state, Proposal(Solution(np.zeros(1), 0.0, 1, "by hand"), np.array([4.0])))
    weights = {0: 0.5, 1: 0.5}
    for y, z in ((9.0, 0.0), (9.0, 2.0)):
        share = Share(1, 0, 0, 8.0, np.array([y]), np.array([z]))
        course = gossip.taken(course, {1: share}, weights, plain(2), F8, clipping)
    # y: 1 + 2/2 = 2, then f = clip(1 + 2/2, 2) = 2, 1 + 2 = 3; z: 4 - 2 = 2, then 2
    np.testing.assert_array_equal(course.here.y, [3.0])
    np.testing.assert_array_equal(course.here.z, [2.0])
    np.testing.assert_array_equal(course.here.pulled, [[2.0, 2.5 + 0.5 * 5.0]])
