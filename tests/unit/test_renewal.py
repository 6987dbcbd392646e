"""When a network is linearized anew, what that changes in a state, and the law that it is done by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peer import agent
from peer.agent import State
from peer.errors import SolveError
from peer.optim.chains import mlp
from peer.optim.losses import Softmax
from peer.optim.regularizers import NoRegularizer
from peer.optim.surrogates import Data, Partial
from peer.problem import Problem
from peer.renewal import SHARE, Renewal, begun, renewed
from tests.instances import REGULARIZERS, parameters_of, regularizer_of

N_AGENTS = 3
NETWORK = mlp((3, 4, 2), "tanh")


def problem_of(rng: np.random.Generator, regularizer: str = "l1") -> Problem:
    data = Data(NETWORK, rng.standard_normal((6, 3)), Softmax(rng.integers(0, 2, 6)), 0.1)
    return Problem(data, regularizer_of(rng, regularizer, 26, 0.02), Partial(1.0, 3.0), 1e-12)


def moved(problem: Problem, rng: np.random.Generator, far: float) -> State:
    """A state at the end of a round, as `agent.settle` leaves it, so far away from its anchor."""
    state = begun(agent.initial(problem, parameters_of(rng, NETWORK), 0.5))
    w, linear = state.w + far * rng.standard_normal(26), problem.linearized(state.anchor)
    gradient, value = linear.gradient(w), linear.value(w)
    return state.changed(n=1, w=w, gradient=gradient, value=value, y=gradient + 0.1, objective=value + 0.2)


def test_a_run_begins_linearized_where_it_begins() -> None:
    rng = np.random.default_rng(0)
    problem = problem_of(rng)
    state = agent.initial(problem, parameters_of(rng, NETWORK), 0.5)
    linear = problem.linearized(begun(state).anchor)
    np.testing.assert_array_equal(linear.gradient(state.w), state.gradient)
    assert linear.value(state.w) == state.value
    assert problem.linearized(state.anchor) is problem, "without an anchor nothing is linearized"


def test_every_k_rounds_and_in_none_between() -> None:
    rng = np.random.default_rng(1)
    problem = problem_of(rng)
    state = moved(problem, rng, 1.0)
    for n in (1, 2, 4):
        following = state.changed(n=n)
        assert renewed(problem, following, Renewal(3), N_AGENTS) is following
    assert renewed(problem, state.changed(n=3), Renewal(3), N_AGENTS).anchored == 3


@pytest.mark.parametrize("renewal", [Renewal(1), Renewal()])
def test_the_tracker_takes_the_difference_of_the_gradients(renewal: Renewal) -> None:
    """(a): what the sum of y and that of the gradients differ by stays as it is, and so for the objective."""
    rng = np.random.default_rng(2)
    problem = problem_of(rng)
    state = moved(problem, rng, 1.0)
    found = renewed(problem, state, renewal, N_AGENTS)
    assert found.anchored == 1
    np.testing.assert_array_equal(found.anchor, state.w)
    np.testing.assert_array_equal(found.gradient, problem.gradient(state.w))
    assert found.value == problem.value(state.w)
    np.testing.assert_allclose(found.y - found.gradient, state.y - state.gradient, rtol=0.0, atol=1e-15)
    assert found.objective - found.value == pytest.approx(state.objective - state.value)
    linear = problem.linearized(found.anchor)
    np.testing.assert_array_equal(linear.gradient(found.w), found.gradient)
    np.testing.assert_array_equal(found.w, state.w)


@pytest.mark.parametrize("far", [1e-3, 0.03, 0.3, 3.0])
def test_an_agent_stays_as_long_as_its_linear_model_is_right_enough(far: float) -> None:
    """(b), with d_i and r_i computed here."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        problem = problem_of(rng)
        state = moved(problem, rng, far)
        found = renewed(problem, state, Renewal(), N_AGENTS)
        d = N_AGENTS * np.linalg.norm(problem.gradient(state.w) - state.gradient)
        r = np.linalg.norm(state.w - problem.regularizer.prox(state.w - N_AGENTS * state.y, 1.0))
        assert found.departure == pytest.approx(d, rel=1e-9, abs=1e-12)
        assert found.allowed == pytest.approx(SHARE * r)
        assert (found.anchored == 1) == (d > SHARE * r)
        if found.anchored == 0:
            np.testing.assert_array_equal(found.y, state.y)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_what_is_left_of_stationarity_is_bounded_by_what_is_tracked(name: str) -> None:
    """The law of (b): where agents agree, with y their mean; for any anchors, and every r."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problems = [problem_of(rng, name) for _ in range(N_AGENTS)]
        r, w = problems[0].regularizer, parameters_of(rng, NETWORK)
        linear = [problem.linearized(w + 10.0 ** rng.uniform(-3, 0) * rng.standard_normal(26)) for problem in problems]
        tracked, true = (np.sum([g.gradient(w) for g in each], axis=0) for each in (linear, problems))
        away = [np.linalg.norm(a.gradient(w) - b.gradient(w)) for a, b in zip(problems, linear, strict=True)]
        departures = N_AGENTS * np.array(away)
        left, of_network = (float(np.linalg.norm(w - r.prox(w - g, 1.0))) for g in (tracked, true))
        assert of_network <= left + np.mean(departures) + 1e-12
        assert of_network > 0.0


def test_numbers_that_break_down_stop_the_agent() -> None:
    """Where the linear model is finite, and the network is not."""
    rng = np.random.default_rng(3)
    problem = replace(problem_of(rng), regularizer=NoRegularizer())
    state = moved(problem, rng, 1.0)
    with np.errstate(all="ignore"), pytest.raises(SolveError, match="nan or infinite"):
        renewed(problem, state.changed(w=np.full(26, np.nan)), Renewal(), N_AGENTS)
