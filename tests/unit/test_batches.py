"""Batches: which samples a round takes, that nobody is forgotten or favored, and where runs with them end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import shake_128
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import agent, learning
from peer.arrays import Vector
from peer.central import minimize
from peer.errors import ConfigError
from peer.optim.batches import Batches, order
from peer.optim.chains import Chain, mlp
from peer.optim.losses import Softmax
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant
from peer.optim.surrogates import Full, Partial, Surrogate
from peer.problem import Problem
from peer.settings import Experiment, from_tree
from tests.instances import LOSSES, data_of, exchange, outputs_of, parameters_of
from topology import Graph
from topology.graphs import ring

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**63 - 1)


def test_the_order_of_a_pass_by_hand() -> None:
    """On every machine, with every version of every library."""
    text = "7:3:pass 0"
    words = [int.from_bytes(shake_128(text.encode()).digest(40)[8 * k : 8 * k + 8], "little") for k in range(5)]
    assert order(text, 5).tolist() == sorted(range(5), key=words.__getitem__) == [3, 1, 2, 0, 4]
    first = Batches(seed=7, agent=3, n_samples=5, size=2, refresh=4)
    assert [first.rows(n).tolist() for n in range(3)] == [[1, 3], [0, 2], [1, 4]]  # the next pass begins with 1
    assert [n for n in range(10) if first.is_full(n)] == [0, 4, 8]


@few
@given(seed=seeds, i=st.integers(0, 99), m=st.integers(1, 40), data=st.data())
def test_every_pass_takes_every_sample_once(seed: int, i: int, m: int, data: st.DataObject) -> None:
    """And a batch b of them, ascending, whichever round is asked for first."""
    b = data.draw(st.integers(1, m))
    batches = Batches(seed, i, m, b, 1)
    n_rounds = 2 * m // math.gcd(m, b)
    rows = {n: batches.rows(n) for n in reversed(range(n_rounds))}
    assert all(len(chosen) == b and np.all(np.diff(chosen) >= 0) for chosen in rows.values())
    assert set(Counter(np.concatenate(list(rows.values())).tolist()).values()) == {2 * b // math.gcd(m, b)}
    for turn in range(2 * b // math.gcd(m, b)):  # rounds that lie within a pass never take a sample twice
        within = [rows[n] for n in range(-(-turn * m // b), (turn + 1) * m // b)]
        taken = np.concatenate([*within, np.zeros(0, dtype=np.intp)])
        assert len(np.unique(taken)) == len(taken)


def test_agents_passes_and_seeds_have_orders_of_their_own() -> None:
    texts = [f"{seed}:{i}:pass {turn}" for seed in range(3) for i in range(3) for turn in range(3)]
    assert len({tuple(order(text, 30)) for text in texts}) == 27


def test_places_of_a_sample_are_equally_frequent() -> None:
    """The first batch of 8 of 40, for 2,000 agents: each sample 400 times, to within five deviations."""
    counts = np.bincount(np.concatenate([Batches(1, i, 40, 8, 1).rows(0) for i in range(2_000)]), minlength=40)
    assert np.all(np.abs(counts - 400) < 5.0 * math.sqrt(2_000 * 0.2 * 0.8))


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=5, deadline=None)
@given(seed=seeds, b=st.integers(1, 6))
def test_the_mean_over_whole_passes_is_exact(loss: str, seed: int, b: int) -> None:
    """Of values and gradients of batches: what is estimated in one round is not so on purpose."""
    problem, w = problem_of(loss, seed, Partial(1.0))
    problem = replace(problem, batches=Batches(seed, 0, 6, b, 10**9))
    seen = [problem.seen(n, w, 0.0 * w) for n in range(6)]
    scale = max(float(np.max(np.abs(gradient))) for _, gradient in seen)
    np.testing.assert_allclose(np.mean([g for _, g in seen], axis=0), problem.gradient(w), rtol=0.0, atol=1e-13 * scale)
    assert np.mean([batch.value(w) for batch, _ in seen]) == pytest.approx(problem.value(w), rel=1e-13)


def problem_of(loss: str, seed: int, surrogate: Surrogate, r: Regularizer | None = None) -> tuple[Problem, Vector]:
    rng = np.random.default_rng(seed)
    model = mlp((3, 4, outputs_of(loss, 2)), "tanh")
    return Problem(data_of(rng, loss, model, 6, 0.25), r or NoRegularizer(), surrogate, 1e-13), parameters_of(
        rng, model
    )


@few
@given(seed=seeds, loss=st.sampled_from(LOSSES), n=st.integers(0, 20), kappa=st.sampled_from((1.0, 5.0)))
def test_the_surrogate_of_a_batch_has_the_tracked_slope(seed: int, loss: str, n: int, kappa: float) -> None:
    """That of h in (5) is I y at the center, whatever samples it is built on."""
    problem, w = problem_of(loss, seed, Partial(0.5, kappa))
    problem = replace(problem, batches=Batches(seed, 0, 6, 2, 3))
    y = np.random.default_rng(seed).standard_normal(w.size)
    batch, gradient = problem.seen(n, w, y)
    h = batch.surrogate.around(w, gradient, 5.0 * y - batch.kappa * gradient, batch.data)
    scale = max(1.0, 5.0 * kappa * float(np.max(np.abs(gradient))))
    np.testing.assert_allclose(h.gradient(w), 5.0 * y, rtol=0.0, atol=1e-13 * scale)


@few
@given(seed=seeds, n=st.integers(0, 20), full=st.booleans())
def test_an_agent_stays_where_all_is_stationary(seed: int, n: int, full: bool) -> None:
    """With -I y a subgradient of r, the best response to any batch is w itself."""
    strength = 0.3
    problem, w = problem_of("softmax", seed, Full(2.0) if full else Partial(0.5, 4.0), L1(np.full(31, strength)))
    problem = replace(problem, batches=Batches(seed, 0, 6, 2, 3))
    w = np.where(np.arange(31) % 3 == 0, 0.0, w)
    y = -np.where(w == 0.0, 0.5 * strength, strength * np.sign(w)) / 4.0
    state = agent.State(n, w, y, problem.gradient(w), problem.value(w), 0.0, 1.0)
    np.testing.assert_allclose(agent.propose(problem, state, 4).z, w, rtol=0.0, atol=1e-12)


def test_an_estimate_by_hand() -> None:
    problem, w = problem_of("squared", 3, Partial(1.0))
    problem = replace(problem, batches=Batches(3, 0, 6, 2, 4))
    before, last = w + 0.1, np.ones_like(w)
    assert np.array_equal(problem.estimate(8, w, before, last, 5.0)[0], problem.gradient(w))
    assert problem.estimate(8, w, before, last, 5.0)[1] == problem.value(w)
    gradient, value = problem.estimate(9, w, before, last, 5.0)
    batch, there = problem.seen(9, w, last)
    data, rows = problem.data, problem.batches.rows(9) if problem.batches else np.zeros(0, dtype=np.intp)
    assert batch.data.weight == 3.0 * data.weight
    assert np.array_equal(batch.data.inputs, data.inputs[rows])
    assert np.array_equal(gradient, last + (there - batch.gradient(before)))
    assert value == 5.0 + (batch.value(w) - batch.value(before))


def test_a_round_gathers_its_batch_once() -> None:
    """For estimate, surrogate and curvature; and goes forwards once at each of the two points."""
    problem, w = problem_of("softmax", 3, Partial(1.0))
    problem = replace(problem, batches=Batches(3, 0, 6, 2, 4))
    for n in (9, 10):
        with (
            patch.object(Softmax, "taken", autospec=True, side_effect=Softmax.taken) as gathered,
            patch.object(Chain, "at", autospec=True, side_effect=Chain.at) as passes,
        ):
            problem.estimate(n, w, w + 0.1, w, 0.0)
            batch, gradient = problem.seen(n, w, w)
            batch.best_response(w, gradient, 0.0 * w)
            problem.steepness(n, w, gradient)
        assert (gathered.call_count, passes.call_count) == (1, 2)


def rounds(problems: Sequence[Problem], alpha: float, n_rounds: int, start: Vector) -> Iterator[list[agent.State]]:
    graphs = [ring(len(problems)), Graph.of(len(problems), [(0, 1)])]
    for states, _ in exchange(problems, [start] * len(problems), alpha, Constant(), graphs, n_rounds):
        yield states


def batched(problems: Sequence[Problem], b: int, refresh: int) -> list[Problem]:
    return [replace(g, batches=Batches(1, i, len(g.data.inputs), b, refresh)) for i, g in enumerate(problems)]


def test_batches_of_all_samples_are_the_exact_method() -> None:
    """To rounding: a gradient is then the sum of its changes. Without batches bits are those that they were before."""
    problems = [problem_of("softmax", seed, Partial(1.0, 3.0))[0] for seed in range(3)]
    start = problem_of("softmax", 9, Partial(1.0))[1]
    plain, other = list(rounds(problems, 0.3, 30, start)), list(rounds(batched(problems, 6, 31), 0.3, 30, start))
    assert np.max(np.abs(plain[-1][0].w - start)) > 0.1
    for states, found in zip(plain, other, strict=True):
        for one, another in zip(states, found, strict=True):
            np.testing.assert_allclose(another.w, one.w, rtol=0.0, atol=1e-12)
            np.testing.assert_allclose(another.y, one.y, rtol=0.0, atol=1e-12)
            assert another.objective == pytest.approx(one.objective, abs=1e-12)
    *_, last = rounds(batched(problems, 6, 1), 0.3, 30, start)
    for one, another in zip(plain[-1], last, strict=True):
        assert np.array_equal(one.w, another.w)


def looked_at(problem: Problem, n: int) -> int:
    """Samples whose gradients, or derivatives, round n takes."""
    m, drawn = len(problem.data.inputs), problem.batches
    return 2 * m if drawn is None else (m if drawn.is_full(n) else 2 * drawn.size) + drawn.size


@pytest.mark.parametrize(
    ("loss", "tau", "alpha", "exact_tau"), [("squared", 0.3, 0.3, 0.05), ("softmax", 0.3, 0.3, 0.1)]
)
def test_agents_come_to_the_optimum_with_an_eighth_of_the_samples_a_round(
    loss: str, tau: float, alpha: float, exact_tau: float
) -> None:
    """To 1e-6 of it, all of them, with fewer samples looked at than with all of them in every round."""
    model, rng = mlp((4, outputs_of(loss, 2)), "tanh"), np.random.default_rng(2)
    p = model.layout.size
    datas = [data_of(rng, loss, model, 48, 1.0 / (4 * 48)) for _ in range(4)]
    problems = [Problem(data, L2(np.full(p, 0.1)), Partial(exact_tau, 4.0), 1e-13) for data in datas]
    goal, *_ = minimize(
        lambda w: sum(g.value(w) for g in problems),
        lambda w: np.sum([g.gradient(w) for g in problems], axis=0),
        problems[0].regularizer,
        np.zeros(p),
    )
    rougher = batched([replace(g, surrogate=Partial(tau, 4.0)) for g in problems], 6, 8)
    looked = [0, 0]
    for which, agents in enumerate((problems, rougher)):
        for n, states in enumerate(rounds(agents, alpha, 600, np.ones(p))):
            far = max(float(np.linalg.norm(state.w - goal)) for state in states) / float(np.linalg.norm(goal))
            if far <= 1e-6:
                break
            looked[which] += sum(looked_at(g, n) for g in agents)
        assert far <= 1e-6
        gradients = np.sum([state.gradient for state in states], axis=0)
        np.testing.assert_allclose(np.sum([state.y for state in states], axis=0), gradients, rtol=0.0, atol=1e-13)
    assert looked[1] < looked[0]


def experiment(**surrogate: Any) -> Experiment:
    return from_tree({"seed": 5, "peers": 4, "data": {"path": "{id}"}, "surrogate": surrogate})


def test_an_experiment_says_which_batches_there_are() -> None:
    assert learning.batches_of(experiment(), 0, 50, 200, 4) is None
    for m in (1, 8):  # such an agent takes all it has, and is exact
        assert learning.batches_of(experiment(batch=8), 0, m, 200, 4) is None
    assert learning.batches_of(experiment(batch=8), 3, 9, 200, 4) == Batches(5, 3, 9, 8, 7)  # 200/(4 * 8), rounded up
    assert learning.batches_of(experiment(batch=60), 3, 90, 200, 4) == Batches(5, 3, 90, 60, 1)
    assert learning.batches_of(experiment(batch=8, refresh=2), 3, 9, 200, 4) == Batches(5, 3, 9, 8, 2)


def test_other_members_make_other_passes() -> None:
    problem, _ = problem_of("squared", 1, Partial(1.0))
    what = experiment(batch=2)
    assert learning.reweighted(what, problem, 12, 2).batches is None
    problem = replace(problem, batches=learning.batches_of(what, 1, 6, 24, 4))
    assert problem.batches == Batches(5, 1, 6, 2, 3)
    assert learning.reweighted(what, problem, 40, 2).batches == Batches(5, 1, 6, 2, 10)


def test_a_refresh_without_batches_is_refused() -> None:
    with pytest.raises(ConfigError) as refusal:
        experiment(refresh=5)
    assert refusal.value.key == "surrogate.refresh"
    assert "expected 0 where each round takes all samples, batch = 0; found 5" in str(refusal.value)
