"""One waking of an agent: what it makes of its mass, and where it goes; whole runs are in tests/simulation."""

from __future__ import annotations

import numpy as np
import pytest

from peer import agent, waking
from peer.errors import SolveError
from peer.flows import Flows
from peer.messages import Flow
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.regularizers import L1
from peer.optim.steps import Constant, Diminishing
from peer.optim.surrogates import Data, Full
from peer.problem import Problem

N_AGENTS = 4
TAU, ALPHA, PENALTY = 3.0, 0.7, 0.05


def problem_of(rng: np.random.Generator) -> Problem:
    data = Data(mlp((2, 1), "tanh"), rng.normal(size=(5, 2)), Squared(rng.normal(size=(5, 1))), 0.1)
    return Problem(data, L1(np.full(3, PENALTY)), Full(TAU), 1e-13)


@pytest.fixture
def problem() -> Problem:
    return problem_of(np.random.default_rng(1))


@pytest.fixture
def state(problem: Problem) -> agent.State:
    return agent.initial(problem, np.array([1.0, -2.0, 0.5]), ALPHA)


def test_the_source_is_the_gradient_the_objective_and_a_weight_of_one(state: agent.State) -> None:
    assert np.array_equal(waking.source(state), [*state.gradient, state.value, 1.0])


def test_what_is_observed_is_the_mass_by_its_weight(state: agent.State) -> None:
    seen = waking.observe(state, np.array([1.0, 2.0, 3.0, 4.0, 0.5]), N_AGENTS)
    assert seen is not None
    assert np.array_equal(seen.y, [2.0, 4.0, 6.0])
    assert seen.objective == 8.0
    assert seen.w is state.w


@pytest.mark.parametrize("phi", [0.0, -0.0, -1.0, -1e9, waking.PHI_LEAST / 2.0, N_AGENTS + 1e-3, 1e9])
def test_a_weight_that_is_not_safe_means_nothing(state: agent.State, phi: float) -> None:
    assert waking.observe(state, np.array([1.0, 2.0, 3.0, 4.0, phi]), N_AGENTS) is None


@pytest.mark.parametrize("phi", [waking.PHI_LEAST, 1.0, N_AGENTS * (1.0 + 1e-15)])
def test_a_weight_that_is_safe_means_something(state: agent.State, phi: float) -> None:
    assert waking.observe(state, np.array([1.0, 2.0, 3.0, 4.0, phi]), N_AGENTS) is not None


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_mass_that_broke_down_is_an_error_of_our_own(state: agent.State, place: int, value: float) -> None:
    mass = np.ones(5)
    mass[place] = value
    with pytest.raises(SolveError, match="waking 0: the mass"):
        waking.observe(state, mass, N_AGENTS)


@pytest.mark.parametrize("phi", [0.25, 1.0, 3.0])
def test_the_step_is_damped_by_the_weight(problem: Problem, state: agent.State, phi: float) -> None:
    full = agent.propose(problem, state, N_AGENTS).z - state.w
    damped = waking.propose(problem, state, phi, N_AGENTS).z - state.w
    np.testing.assert_allclose(damped, min(1.0, phi) * full, rtol=1e-14)


def test_the_mean_of_what_was_heard_is_where_it_goes(problem: Problem, state: agent.State) -> None:
    v, theirs = np.array([3.0, 0.0, 0.0]), {2: np.array([0.0, 3.0, 0.0]), 1: np.array([0.0, 0.0, 6.0])}
    after = waking.move(problem, state, v, theirs, Diminishing(0.5))
    np.testing.assert_allclose(after.w, [1.0, 1.0, 2.0], rtol=1e-15)
    assert np.array_equal(after.gradient, problem.gradient(after.w))
    assert after.value == problem.value(after.w)
    assert (after.n, after.alpha) == (1, ALPHA * (1.0 - 0.5 * ALPHA))
    assert np.array_equal(v, [3.0, 0.0, 0.0]), "what was sent must not change"


def test_who_hears_nobody_goes_where_it_wants(problem: Problem, state: agent.State) -> None:
    assert np.array_equal(waking.move(problem, state, state.w + 1.0, {}, Constant()).w, state.w + 1.0)


def test_a_newcomer_takes_over_where_its_neighbors_are(problem: Problem, state: agent.State) -> None:
    mass = np.array([*np.zeros(state.w.size), 0.0, 1.0])
    theirs = {1: np.full(state.w.size, 1.0), 2: np.full(state.w.size, 2.0)}
    woken = waking.wake(problem, state, mass, theirs, 3, Constant(), is_new=True)
    there = np.full(state.w.size, 1.5)
    assert np.array_equal(woken.state.w, there)
    assert np.array_equal(woken.v, there)
    assert woken.solution is None
    assert np.array_equal(waking.source(woken.state), [*problem.gradient(there), problem.value(there), 1.0])


def test_a_waking_is_its_parts(problem: Problem, state: agent.State) -> None:
    rng, rule, p = np.random.default_rng(1), Constant(), state.w.size
    mass, theirs = np.array([*rng.normal(size=p), 0.3, 0.7]), {1: rng.normal(size=p)}
    woken = waking.wake(problem, state, mass, theirs, 3, rule)
    seen = waking.observe(state, mass, 3)
    assert seen is not None
    proposal = waking.propose(problem, seen, 0.7, 3)
    after = waking.move(problem, seen, proposal.z, theirs, rule)
    assert np.array_equal(woken.v, proposal.z)
    assert np.array_equal(woken.state.w, after.w)
    assert np.array_equal(waking.source(woken.state), waking.source(after))
    blind = waking.wake(problem, state, np.array([*mass[:-1], -1.0]), theirs, 3, rule)
    assert blind.solution is None
    assert np.array_equal(blind.v, state.w)


def test_parameters_that_broke_down_are_an_error(problem: Problem, state: agent.State) -> None:
    for v in (np.full(3, np.nan), np.full(3, 1e308)):
        with pytest.raises(SolveError, match="waking 0: parameters"), np.errstate(over="ignore", invalid="ignore"):
            waking.move(problem, state, v, {}, Constant())


@pytest.mark.parametrize("seed", range(10))
def test_an_agent_follows_the_method_step_by_step(seed: int) -> None:
    """(13)-(16) and (4)-(6) in a few lines of numpy, beside the machine, which gets the same flows."""
    rng = np.random.default_rng(seed)
    problem = problem_of(rng)
    X, y = np.c_[problem.data.inputs, np.ones(5)], problem.data.loss.targets[:, 0]  # type: ignore[attr-defined]

    def u(w: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        r = X @ w - y
        return np.array([*(0.1 * X.T @ r), 0.05 * r @ r, 1.0])

    w = rng.normal(size=3)
    state = agent.initial(problem, w, ALPHA)
    flows = Flows(0, 0, (1, 2, 3))
    flows.open_epoch(0, range(N_AGENTS), waking.source(state))
    m, S, R, theirs = u(w), *({j: np.zeros(5) for j in (1, 2, 3)} for _ in range(3))
    for n in range(60):
        news = {j: rng.normal(size=3) for j in (1, 2, 3) if rng.random() < 0.5}
        out = [j for j in (1, 2, 3) if rng.random() < 0.6]
        for j, v in news.items():
            theirs[j] = theirs[j] + 0.2 * rng.uniform(0.0, 1.0, size=5)
            flows.receive(Flow(j, 0, (0, n), v, theirs[j]))
        # the method
        for j in news:
            m, R[j] = m + theirs[j] - R[j], theirs[j]
        phi, v_i = m[-1], w
        if waking.PHI_LEAST <= phi <= N_AGENTS:
            a = w - N_AGENTS * m[:3] / phi / TAU
            best = np.sign(a) * np.maximum(np.abs(a) - PENALTY / TAU, 0.0)
            v_i = w + min(1.0, phi) * ALPHA * (best - w)
        w_next = (v_i + sum(news.values())) / (1 + len(news))
        m, w = m + u(w_next) - u(w), w_next
        b = 1.0 / (1 + len(out))
        for j in out:
            S[j] = S[j] + b * m
        m = b * m
        # the machine
        heard = flows.absorb()
        seen = waking.observe(state, flows.mass.high, N_AGENTS)
        z = state.w if seen is None else waking.propose(problem, seen, flows.phi, N_AGENTS).z
        state = waking.move(problem, state if seen is None else seen, z, heard, Constant())
        flows.track(waking.source(state))
        flows.push(z, out)
        assert sorted(heard) == sorted(news)
        pairs = [(state.w, w), (z, v_i), (flows.mass.high, m), *((flows.pushed(j), S[j]) for j in S)]
        for found, expected in pairs:
            size = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * size)
        assert all(np.array_equal(flows.flow(j).sums, flows.pushed(j)) for j in flows.unsent)
    assert state.n == 60
    assert np.ptp(w) > 0.1, "an agent that goes nowhere shows nothing"
