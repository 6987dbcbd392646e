"""One round of one agent by hand, what is conserved over all of them, and numbers that break down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import numpy as np
import pytest
from msgspec import structs

from peer import agent
from peer.agent import Clipping, Mixture, Proposal, State, restored
from peer.arrays import Vector
from peer.errors import ProtocolError, SolveError
from peer.messages import Share
from peer.optim.chains import mlp
from peer.optim.regularizers import L1, L2
from peer.optim.solvers import Solution
from peer.optim.steps import Constant, Diminishing
from peer.optim.surrogates import Partial
from peer.problem import Problem
from tests.instances import F4, F8, data_of, exchange, parameters_of
from topology import Graph
from topology.graphs import complete, ring


@final
@dataclass(frozen=True)
class Bowl:
    """g_i = 1/2 ||w||^2, whose best response is w - gradient - pi - 1, so that every term is seen."""

    kappa: float = 1.0

    def value(self, w: Vector) -> float:
        return 0.5 * float(np.dot(w, w))

    def gradient(self, w: Vector) -> Vector:
        return w.copy()

    def estimate(self, n: int, w: Vector, before: Vector, gradient: Vector, value: float) -> tuple[Vector, float]:
        return self.gradient(w), self.value(w)

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[Bowl, Vector]:
        return self, gradient

    def best_response(self, w: Vector, gradient: Vector, pi: Vector, tau: float = 0.0) -> Solution:
        assert tau == 0.0, "tau is a setting here"
        return Solution(w - gradient - pi - 1.0, 0.0, 1, "by hand")

    def linearized(self, anchor: Vector) -> Bowl:
        return self


def state(w: list[float], y: list[float], alpha: float = 0.5) -> State:
    here = np.array(w)
    return State(3, here, np.array(y), here.copy(), 0.5 * float(np.dot(here, here)), 10.0, alpha)


def share(sender: int, y: list[float] | None, z: list[float] | None, objective: float = 0.0) -> Share:
    halves = [None if half is None else np.array(half) for half in (y, z)]
    return Share(sender=sender, n=3, floor=0, objective=objective, y=halves[0], z=halves[1])


def test_the_start() -> None:
    w = np.array([3.0, 4.0])
    found = agent.initial(Bowl(), w, 0.25)
    assert (found.n, found.value, found.objective, found.alpha) == (0, 12.5, 12.5, 0.25)
    for vector in (found.w, found.y, found.gradient):
        np.testing.assert_array_equal(vector, w)


@pytest.mark.parametrize("kappa", [1.0, 4.0])
def test_a_proposal_by_hand(kappa: float) -> None:
    """By (4), pi = 4 y - kappa g; then w~ = w - g - pi - 1 and z = w + (w~ - w)/2."""
    before = state([2.0, -2.0], [1.0, 0.5])
    found = agent.propose(Bowl(kappa), before, n_agents=4)
    pi = np.array([4.0, 2.0]) - kappa * np.array([2.0, -2.0])
    np.testing.assert_array_equal(found.solution.w, np.array([0.0, 0.0]) - pi - 1.0)
    np.testing.assert_array_equal(found.z, np.array([2.0, -2.0]) + 0.5 * (found.solution.w - np.array([2.0, -2.0])))
    np.testing.assert_array_equal(before.w, [2.0, -2.0])


def absorbed(
    weights: dict[int, float],
    shares: dict[int, Share],
    wire_dtype: np.dtype[Any] = F8,
    clipping: Clipping | None = None,
) -> State:
    """The state after a round of one exchange."""
    before = state([2.0, -2.0], [1.0, 0.5])
    proposal = Proposal(Solution(before.w, 0.0, 1, "by hand"), np.array([8.0, 0.0]))
    mixture = agent.exchange(before, Mixture.of(before, proposal), shares, weights, wire_dtype, clipping)
    return agent.settle(Bowl(), before, proposal, mixture, Diminishing(0.5))


def test_a_round_by_hand() -> None:
    found = absorbed(
        {0: 0.25, 1: 0.5, 4: 0.25}, {0: share(0, [4.0, 0.0], [0.0, 4.0], 2.0), 4: share(4, [0.0, 0.0], [4.0, 4.0], 6.0)}
    )
    w = np.array([5.0, 2.0])
    np.testing.assert_array_equal(found.w, w)
    np.testing.assert_array_equal(found.y, np.array([1.5, 0.25]) + w - np.array([2.0, -2.0]))
    np.testing.assert_array_equal(found.gradient, w)
    assert (found.n, found.value, found.alpha) == (4, 14.5, 0.5 * (1.0 - 0.25))
    assert found.objective == (0.25 * 2.0 + 0.5 * 10.0 + 0.25 * 6.0) + 14.5 - 4.0


def test_an_agent_without_neighbors_takes_its_own() -> None:
    found = absorbed({1: 1.0}, {})
    np.testing.assert_array_equal(found.w, [8.0, 0.0])
    np.testing.assert_array_equal(found.y, [1.0 + 8.0 - 2.0, 0.5 + 0.0 + 2.0])


def test_what_came_in_is_left_alone() -> None:
    theirs = share(0, [4.0, 0.0], [0.0, 4.0])
    absorbed({0: 0.5, 1: 0.5}, {0: theirs})
    assert theirs.y is not None
    assert theirs.z is not None
    np.testing.assert_array_equal([theirs.y, theirs.z], [[4.0, 0.0], [0.0, 4.0]])


@pytest.mark.parametrize("half", [share(0, None, [0.0, 4.0]), share(0, [4.0, 0.0], None)])
def test_half_a_share_is_a_bug(half: Share) -> None:
    with pytest.raises(ValueError, match="the share of agent 0 is not whole"):
        absorbed({0: 0.5, 1: 0.5}, {0: half})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("spot", ["y", "z"])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_nan_and_infinity_from_others_name_their_sender(spot: str, bad: float) -> None:
    broken = share(0, [4.0, bad], [0.0, 4.0]) if spot == "y" else share(0, [4.0, 0.0], [0.0, bad])
    with pytest.raises(ProtocolError, match=r"^peer 0, round 3: expected finite numbers") as refusal:
        absorbed({0: 0.5, 1: 0.5}, {0: broken})
    assert (refusal.value.cause, refusal.value.sender, refusal.value.n) == ("nonfinite", 0, 3)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_value_that_overflows_stops_the_round() -> None:
    with pytest.raises(SolveError, match="round 3"):
        absorbed({0: 0.5, 1: 0.5}, {0: share(0, [0.0, 0.0], [1e200, 0.0])})


def test_sums_do_not_depend_on_the_order_of_arrival() -> None:
    rng = np.random.default_rng(0)
    theirs = {j: rng.standard_normal(5) for j in (7, 2, 9, 4)}
    weights = {j: rng.random() for j in (9, 3, 2, 7, 4)}
    own = rng.standard_normal(5)
    first = agent.mix(own, theirs, weights, F8)
    for _ in range(5):
        keys = list(theirs)
        rng.shuffle(keys)
        again = agent.mix(
            own, {j: theirs[j] for j in keys}, dict(sorted(weights.items(), key=lambda _: rng.random())), F8
        )
        np.testing.assert_array_equal(again, first)


def test_a_sender_keeps_what_rounding_took() -> None:
    """With float32 shares two agents average what both see, and each adds the rest of its own: the sum stands."""
    a, b = np.array([1.0 + 2.0**-30]), np.array([3.0])
    mixed_a = agent.mix(a, {1: b}, {0: 0.5, 1: 0.5}, F4)
    mixed_b = agent.mix(b, {0: np.array([1.0])}, {0: 0.5, 1: 0.5}, F4)
    assert mixed_a[0] == 2.0 + 2.0**-30
    assert mixed_b[0] == 2.0


def problems_of(n_agents: int) -> list[Problem]:
    rng = np.random.default_rng(1)
    model = mlp((3, 4, 2), "tanh")
    return [
        Problem(
            data_of(rng, "softmax", model, 2 + i, 0.05), L1(np.full(26, 0.01)), Partial(0.5, float(n_agents)), 1e-13
        )
        for i in range(n_agents)
    ]


@pytest.mark.parametrize("wire_dtype", [F8, F4], ids=["f8", "f4"])
@pytest.mark.parametrize("graphs", [[ring(5)], [Graph.of(5, [(0, 1), (2, 3)]), Graph.of(5, [(1, 2), (3, 4)])]])
def test_trackers_sum_to_the_gradients_at_every_round(graphs: list[Graph], wire_dtype: np.dtype[Any]) -> None:
    """(9), and the same of the objective; to float64 rounding also when shares are rounded to float32."""
    problems, rng = problems_of(5), np.random.default_rng(2)
    starts = [parameters_of(rng, mlp((3, 4, 2), "tanh")) for _ in problems]
    largest = 0.0
    for n, (states, _) in enumerate(exchange(problems, starts, 0.5, Constant(), graphs, 60, wire_dtype)):
        largest = max(largest, *(float(np.max(np.abs(s.y))) for s in states))
        difference = sum(s.y for s in states) - sum(s.gradient for s in states)
        assert np.max(np.abs(difference)) <= 1e-15 * (n + 5) * largest
        assert sum(s.objective for s in states) == pytest.approx(sum(s.value for s in states), rel=1e-14 * (n + 1))


def test_float32_shares_lose_nothing_but_digits_on_the_way() -> None:
    """The runs stay together to float32 rounding, and are not the same."""
    problems = problems_of(4)
    w = parameters_of(np.random.default_rng(3), mlp((3, 4, 2), "tanh"))
    runs = [list(exchange(problems, [w] * 4, 0.3, Constant(), [complete(4)], 40, dtype))[-1][0] for dtype in (F8, F4)]
    exact, coarse = (np.stack([s.w for s in states]) for states in runs)
    assert 0.0 < np.max(np.abs(exact - coarse)) <= 1e-4


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_inexact_solves_end_where_exact_ones_do_and_take_fewer_systems(c: float) -> None:
    """As long as sum alpha eps is finite; and they are not the same solves."""
    rng, model, r = np.random.default_rng(3), mlp((3, 3), "tanh"), L2(np.full(12, 0.1))
    problems = [Problem(data_of(rng, "softmax", model, 8, 1.0 / 32.0), r, Partial(0.05, 4.0), 1e-13) for _ in range(4)]
    ends, systems = [], []
    for inexactness in (0.0, c):
        inner = [replace(problem, inexactness=inexactness) for problem in problems]
        run = list(exchange(inner, [np.zeros(12)] * 4, 0.4, Constant(), [complete(4)], 150))
        ends.append(np.stack([s.w for s in run[-1][0]]))
        systems.append(sum(p.solution.iterations for _, proposals in run for p in proposals))
    assert np.max(np.abs(ends[0] - ends[1])) <= 1e-9
    assert systems[1] < 0.7 * systems[0]


def test_mixing_keeps_the_mean_of_proposals() -> None:
    """(7) with doubly stochastic weights moves no mass: the mean of w[n+1] is the mean of z[n]."""
    problems = problems_of(4)
    w = parameters_of(np.random.default_rng(4), mlp((3, 4, 2), "tanh"))
    run = list(exchange(problems, [w] * 4, 0.5, Constant(), [Graph.of(4, [(0, 1), (0, 2), (0, 3)])], 5, F4))
    for (_, proposals), (after, _) in pairwise(run):
        mean = np.mean([p.z for p in proposals], axis=0)
        np.testing.assert_allclose(np.mean([s.w for s in after], axis=0), mean, rtol=0.0, atol=1e-14)


# ---- clipping ------------------------------------------------------------------------------


def test_a_clipped_round_by_hand() -> None:
    """Of the two neighbors one is within all radii, the other outside: its pulls have the length of the radii."""
    clipping = Clipping(w=4.0, y=2.5, objective=2.0, neighbors=(0, 2, 4))  # alpha = 1/2: z within 2
    near, far = share(0, [2.0, 0.5], [8.0, 1.0], 11.0), share(4, [31.0, 40.5], [8.0, -1e9], -1e9)
    found = absorbed({0: 0.5, 1: 0.25, 4: 0.25}, {0: near, 4: far}, clipping=clipping)
    w = np.array([8.0, 0.0]) + 0.5 * np.array([0.0, 1.0]) + 0.25 * np.array([0.0, -2.0])
    np.testing.assert_array_equal(found.w, w)
    pulled = np.array([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25 * 1.5, 0.25 * 2.0, -0.25 * 2.0]])
    np.testing.assert_allclose(found.pulled, pulled, rtol=0.0, atol=1e-15)
    np.testing.assert_allclose(found.y, w + pulled[:, :2].sum(axis=0), rtol=0.0, atol=1e-15)
    assert found.objective == pytest.approx(found.value + pulled[:, 2].sum())


@pytest.mark.parametrize("clipping", [None, Clipping(4.0, 2.5, 2.0, (0,))], ids=["believed", "clipped"])
def test_clipping_moves_no_bit_unless_it_is_on(clipping: Clipping | None) -> None:
    """Without it w, y and the objective are the sums of (7) and (8) over j ascending; with it they are not."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal(2), rng.standard_normal(2)
    found = absorbed({0: 0.3, 1: 0.7}, {0: share(0, list(y), list(z), 1.0 / 3.0)}, clipping=clipping)
    w = 0.3 * z + 0.7 * np.array([8.0, 0.0])
    tracked = 0.3 * y + 0.7 * np.array([1.0, 0.5]) + (w - np.array([2.0, -2.0]))
    same = [np.array_equal(found.w, w), np.array_equal(found.y, tracked), found.pulled.size == 0]
    assert same == [clipping is None] * 3


def test_clip_is_odd_bounded_and_the_identity_inside() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 1000):
        for scale in (1e-3, 1.0, 1e100):
            d = scale * rng.standard_normal(size)
            np.testing.assert_array_equal(agent.clip(-d, 0.1), -agent.clip(d, 0.1))
            assert np.linalg.norm(agent.clip(d, 0.1)) <= 0.1 * (1.0 + 1e-15)
            length = float(np.linalg.norm(d))
            np.testing.assert_array_equal(agent.clip(d, 1.1 * length + 1e-300), d)
            np.testing.assert_allclose(agent.clip(d, 0.5 * length), 0.5 * d, rtol=1e-14)
    np.testing.assert_array_equal(agent.clip(np.array([1e300, -1e300]), 0.1), [0.0, 0.0])
    np.testing.assert_array_equal(agent.clip(np.array([1e300, -1e300]), np.inf), [1e300, -1e300])


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("wire_dtype", [F8, F4], ids=["f8", "f4"])
def test_a_lie_pulls_no_further_than_the_radius_however_large_it_is(size: float, wire_dtype: np.dtype[Any]) -> None:
    """In a round by c_ij times the radius; y in all rounds together by the radius."""
    clipping, rng = Clipping(w=0.2, y=0.3, objective=0.4, neighbors=(0,)), np.random.default_rng(2)
    before = state([2.0, -2.0], [1.0, 0.5])
    weights = {0: 0.25, 1: 0.75}
    for _ in range(30):
        proposal = Proposal(Solution(before.w, 0.0, 1, "by hand"), before.w + rng.standard_normal(2))
        z, y = np.array(proposal.z) + size * np.array([-1.0, 0.0]), before.y + size * np.array([0.6, 0.8])
        lie = share(0, list(y), list(z), size)
        mixture = agent.exchange(before, Mixture.of(before, proposal), {0: lie}, weights, wire_dtype, clipping)
        after = agent.settle(Bowl(), before, proposal, mixture, Constant())
        assert np.linalg.norm(after.w - proposal.z) <= 0.25 * 0.2 * 0.5 * (1.0 + 1e-9)
        change = after.pulled - (before.pulled if before.pulled.size else 0.0)
        assert np.linalg.norm(change[0, :2]) <= 0.25 * 0.3 * (1.0 + 1e-9)
        assert abs(change[0, 2]) <= 0.25 * 0.4 * (1.0 + 1e-9)
        assert np.linalg.norm(after.y - after.gradient) <= 0.3 * (1.0 + 1e-9)
        assert abs(after.objective - after.value) <= 0.4 * (1.0 + 1e-9)
        before = after
    assert np.linalg.norm(after.y - after.gradient) >= (0.29 if 1e-3 < size < 1e150 else 0.0), "the bound is reached"


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("spot", ["y", "z"])
def test_with_clipping_too_nan_and_infinity_name_their_sender(spot: str, bad: float) -> None:
    broken = share(0, [4.0, bad], [0.0, 4.0]) if spot == "y" else share(0, [4.0, 0.0], [0.0, bad])
    with pytest.raises(ProtocolError, match=r"^peer 0, round 3: expected finite numbers"):
        absorbed({0: 0.5, 1: 0.5}, {0: broken}, clipping=Clipping(1.0, 1.0, 1.0, (0,)))


@pytest.mark.parametrize("half", [share(0, None, [0.0, 4.0]), share(0, [4.0, 0.0], None)])
def test_with_clipping_too_half_a_share_is_a_bug(half: Share) -> None:
    with pytest.raises(ValueError, match="the share of agent 0 is not whole"):
        absorbed({0: 0.5, 1: 0.5}, {0: half}, clipping=Clipping(1.0, 1.0, 1.0, (0,)))


@pytest.mark.parametrize("wire_dtype", [F8, F4], ids=["f8", "f4"])
def test_where_nobody_lies_clipping_moves_no_mass(wire_dtype: np.dtype[Any]) -> None:
    """What one end of a link takes the other gives, exactly; so (9) and the mean of (7) hold while it is active."""
    problems, rng = problems_of(5), np.random.default_rng(5)
    starts = [parameters_of(rng, mlp((3, 4, 2), "tanh")) for _ in problems]
    graphs, radii = [Graph.of(5, [(0, 1), (2, 3), (0, 4)]), ring(5)], (0.4, 0.03, 0.01)
    met = [sorted({j for graph in graphs for j in graph.neighbors(i)}) for i in range(5)]
    run = list(exchange(problems, starts, 0.5, Constant(), graphs, 40, wire_dtype, radii))
    plain = list(exchange(problems, starts, 0.5, Constant(), graphs, 40, wire_dtype))
    assert max(np.max(np.abs(a.w - b.w)) for a, b in zip(run[-1][0], plain[-1][0], strict=True)) > 0.01
    at_the_radius = 0
    for (_, proposals), (states, _) in pairwise(run):
        mean = np.mean([p.z for p in proposals], axis=0)
        np.testing.assert_allclose(np.mean([s.w for s in states], axis=0), mean, rtol=0.0, atol=1e-14)
        difference = sum(s.y for s in states) - sum(s.gradient for s in states)
        assert np.max(np.abs(difference)) <= 1e-15 * 25  # no more in later rounds than in the first
        assert sum(s.objective for s in states) == pytest.approx(sum(s.value for s in states), rel=1e-14)
        for i, j in sorted(graphs[0].edges | graphs[1].edges):
            there, back = states[i].pulled[met[i].index(j)], states[j].pulled[met[j].index(i)]
            np.testing.assert_array_equal(there, -back)
            at_the_radius += float(np.linalg.norm(there[:-1])) > 0.0299
    assert at_the_radius > 10, "nothing is clipped, so nothing is shown"


def test_clipping_that_is_wide_enough_changes_nothing_but_rounding() -> None:
    problems = problems_of(4)
    w = parameters_of(np.random.default_rng(6), mlp((3, 4, 2), "tanh"))
    runs = [
        list(exchange(problems, [w] * 4, 0.3, Constant(), [ring(4)], 40, F8, radii)) for radii in (None, (1e9,) * 3)
    ]
    for plain, clipped in zip(*runs, strict=True):
        for one, other in zip(plain[0], clipped[0], strict=True):
            np.testing.assert_allclose(other.w, one.w, rtol=0.0, atol=1e-12)
            np.testing.assert_allclose(other.y, one.y, rtol=0.0, atol=1e-12)
            assert other.objective == pytest.approx(one.objective, abs=1e-12)


def test_a_changed_state_is_another_one() -> None:
    before = state([1.0, 2.0], [3.0, 4.0])
    found, expected = structs.asdict(before.changed(n=7, tau=0.5)), structs.asdict(before) | {"n": 7, "tau": 0.5}
    assert found.keys() == expected.keys()
    assert all(found[name] is value for name, value in expected.items())
    assert (before.n, before.tau) == (3, 0.0)
    with pytest.raises(TypeError, match="taw"):
        before.changed(taw=0.5)
    with pytest.raises(AttributeError, match="immutable"):
        before.n = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    "changed",
    [
        {"w": np.zeros(3)},
        {"gradient": np.zeros((1, 2))},
        {"y": 0.0},
        {"way": np.zeros(2, dtype=np.int64)},
        {"pulled": np.zeros(2)},
        {"alpha": "fast"},
        {"n": 1.5},
        {"strange": 0.0},
    ],
)
def test_a_state_that_is_none_is_not_restored(changed: dict[str, Any]) -> None:
    numbers = structs.asdict(state([1.0, 2.0], [3.0, 4.0]))
    found = restored(numbers, 2)
    assert all(getattr(found, name) is value for name, value in numbers.items())
    with pytest.raises(ValueError, match=next(iter(changed))):
        restored(numbers | changed, 2)
    with pytest.raises(ValueError, match="alpha"):
        restored({name: value for name, value in numbers.items() if name != "alpha"}, 2)
