"""The other methods, agent by agent: their published recursions, their fixed points, and what each conserves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from peer.agent import State
from peer.methods import ExactDiffusion, Extra, GradientDescent, GradientTracking, Method
from peer.optim.chains import mlp
from peer.optim.steps import Constant, Diminishing
from peer.problem import Problem
from tests import baselines, reference
from tests.instances import F4, F8, exchange
from tests.reference import Setting
from tests.simulation.test_agent_against_reference import codings_of, problems_of, setting_of
from topology import Graph

METHODS: dict[str, Method] = {
    "gradient-descent": GradientDescent(),
    "d-psgd": GradientDescent(local_steps=3, momentum=0.5),
    "gradient-tracking": GradientTracking(),
    "extra": Extra(),
    "exact-diffusion": ExactDiffusion(),
}

EXACT = ("gradient-tracking", "extra", "exact-diffusion")

N_ROUNDS = 12

RING = [((0, 1), (1, 2), (2, 3), (0, 3))]

Array = NDArray[Any]


def run(
    setting: Setting, method: Method, starts: Array, n_rounds: int, dtype: np.dtype[np.float64] = F8
) -> list[Array]:
    """Parameters of all agents in all rounds, (I, p) each; what the method conserves is conserved in each."""
    problems = [batched(problem, setting) for problem in problems_of(setting)]
    rule = Diminishing(setting.mu) if setting.mu > 0.0 else Constant()
    graphs = [Graph.of(len(problems), edges) for edges in setting.edges]
    rows = list(np.broadcast_to(starts, (len(problems), starts.shape[-1])))
    found = []
    for states, proposals in exchange(
        problems, rows, setting.alpha, rule, graphs, n_rounds, wire_dtype=dtype, method=method
    ):
        found.append(np.stack([state.w for state in states]))
        check_conserved(method, states, len(found))
        assert {len(state.y) > 0 for state in states} == {"y" in method.parts}
        assert all(proposal.solution.method == "gradient" for proposal in proposals)
    return found


def batched(problem: Problem, setting: Setting) -> Problem:
    """The same: `setting.refresh` is for NEXT, whose estimates go on from full passes; here are none."""
    assert setting.batch == 0 or problem.batches is not None or len(problem.data.inputs) <= setting.batch
    return problem


def check_conserved(method: Method, states: Sequence[State], n: int) -> None:
    """(9), or that the corrections add up to nothing, to rounding."""
    if "y" in method.parts:
        left = sum(state.y for state in states) - sum(state.gradient for state in states)
        largest = max(np.abs(state.gradient).max() for state in states)
    elif isinstance(method, Extra | ExactDiffusion):
        left, largest = sum(state.memory for state in states), max(np.abs(state.w).max() for state in states)
    else:
        return
    assert np.max(np.abs(left)) <= 1e-14 * n * max(1.0, largest)


@pytest.mark.parametrize("batch", [0, 2], ids=["all samples", "batches"])
@pytest.mark.parametrize("regularizer", ["none", "l2", "l1"])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.parametrize("kind", METHODS)
def test_agents_reproduce_the_published_recursion(kind: str, loss: str, regularizer: str, batch: int) -> None:
    """Over a graph that changes from round to round, from different starts, with steps that diminish where they may."""
    mu = 0.5 if batch and kind not in ("extra", "exact-diffusion") else 0.0
    setting = setting_of(loss, regularizer, "full", "local", "mean", mu, seed=5)
    setting = dataclasses.replace(setting, alpha=0.05, batch=batch, seed=15)
    rng, model = np.random.default_rng(6), mlp(setting.widths, setting.activation)
    starts = np.stack([model.initial(rng) for _ in setting.shards])
    wanted = baselines.METHODS[kind](setting, starts, N_ROUNDS)
    found = run(setting, METHODS[kind], starts, N_ROUNDS)
    assert np.ptp(wanted[-1] - wanted[0]) > 0.01, "a run that goes nowhere shows nothing"
    for n, (w, W) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(w, W, rtol=0.0, atol=1e-12 * max(1.0, np.abs(W).max()), err_msg=f"round {n}")


def test_the_references_can_tell_the_methods_apart() -> None:
    setting = dataclasses.replace(setting_of("squared", "l1", "full", "local", "mean", 0.0, seed=5), alpha=0.05)
    starts = np.random.default_rng(6).standard_normal((4, reference_size(setting)))
    ends = [baselines.METHODS[kind](setting, starts, N_ROUNDS)[-1] for kind in METHODS]
    assert all(np.abs(a - b).max() > 1e-3 for k, a in enumerate(ends) for b in ends[:k])


def reference_size(setting: Setting) -> int:
    """Number of parameters p."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(setting.widths))


def test_one_local_step_with_all_samples_is_gradient_descent_to_the_last_bit() -> None:
    """And a batch of all samples is no batch: D-PSGD is D-GD then."""
    setting = dataclasses.replace(setting_of("softmax", "l1", "full", "local", "mean", 0.0, seed=5), alpha=0.05)
    starts = np.random.default_rng(6).standard_normal((4, reference_size(setting)))
    plain = run(setting, GradientDescent(), starts, N_ROUNDS)
    local = run(
        dataclasses.replace(setting, batch=max(len(x) for x, _ in setting.shards)),
        METHODS["gradient-descent"],
        starts,
        N_ROUNDS,
    )
    assert all(np.array_equal(a, b) for a, b in zip(plain, local, strict=True))


# ---- fixed points ---------------------------------------------------------------------------


def quadratic(step: float, regularizer: str = "l2") -> tuple[Setting, Array, Array, Array]:
    """Least squares on a ring: the setting, Hessians, (I, p, p), and slopes at 0, (I, p), of all f_i; the optimum."""
    setting = setting_of("squared", regularizer, "full", "local", "mean", 0.0, seed=3)
    rng = np.random.default_rng(4)
    shards = [(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)) + i) for i in range(4)]
    setting = dataclasses.replace(
        setting, shards=shards, widths=(2, 1), edges=RING, alpha=step, strength=0.1, penalized=np.ones(3)
    )
    zero = np.zeros((4, 3))
    at_0 = baselines.slopes(setting, 0, zero)
    columns = [baselines.slopes(setting, 0, zero + e) - at_0 for e in np.eye(3)]
    H = np.stack(columns, axis=2)
    optimum = np.zeros(3)
    for _ in range(2_000):
        v = optimum - 0.1 * (H.mean(axis=0) @ optimum + at_0.mean(axis=0))
        optimum = v if regularizer == "l2" else reference.prox(setting, v, 0.1)
    return setting, H, at_0, optimum


def test_gradient_descent_ends_at_its_biased_point_whose_bias_goes_with_the_step() -> None:
    """Where w = C (w - s (H w + b)), solved as one system; half the step, half the bias (K. Yuan et al. 2016)."""
    biases = []
    for step in (0.02, 0.01, 0.005):
        setting, H, b, optimum = quadratic(step)
        C = reference.mixing("metropolis", 4, RING[0])
        blocks = np.zeros((12, 12))
        for i, own in enumerate(H):
            blocks[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = own
        CC = np.kron(C, np.eye(3))
        system = np.eye(12) - CC @ (np.eye(12) - step * blocks)
        biased = np.linalg.solve(system, -step * CC @ b.reshape(-1)).reshape(4, 3)
        found = run(setting, GradientDescent(), biased + 0.01, 30)[-1]
        assert np.abs(found - biased).max() < 0.01, "it moves away from there"
        found = run(setting, GradientDescent(), biased, 30)[-1]
        assert np.abs(found - biased).max() < 1e-13
        biases.append(np.abs(biased - optimum).max())
    assert biases[0] > 0.01
    ratios = [larger / smaller for larger, smaller in pairwise(biases)]
    assert all(1.7 < ratio < 2.1 for ratio in ratios), ratios


@pytest.mark.parametrize("kind", EXACT)
def test_the_exact_methods_are_as_fast_as_published_or_faster(kind: str) -> None:
    """Linear rates for f_i of curvature mu to L, and a ring.

    EXTRA and exact diffusion: the larger of 1 - s mu (2 - c - s L) and 1 - b for squared errors, where b is the least
    eigenvalue of (Id - C)/2 but 0, c the largest, or 0 for exact diffusion: S. Alghunaim, E. Ryu, K. Yuan, A. Sayed,
    "Decentralized proximal gradient algorithms with linear convergence rates" (2021). DIGing: 1 - s mu/1.5 for squared
    errors, with the mu of the mean of all f_i: A. Nedic, A. Olshevsky, W. Shi (2017), theorem 3.14, of one graph.
    """
    step = 0.15
    setting, H, _, optimum = quadratic(step)
    curvatures = np.linalg.eigvalsh(H)
    eigenvalues = np.sort(np.linalg.eigvalsh((np.eye(4) - reference.mixing("metropolis", 4, RING[0])) / 2.0))
    c = eigenvalues[-1] if kind == "extra" else 0.0
    squared = max(1.0 - step * curvatures.min() * (2.0 - c - step * curvatures.max()), 1.0 - eigenvalues[1])
    if kind == "gradient-tracking":
        squared = 1.0 - step * np.linalg.eigvalsh(H.mean(axis=0)).min() / 1.5
    errors = [float(np.abs(w - optimum).max()) for w in run(setting, METHODS[kind], np.zeros(3), 90)]
    rate = (errors[90] / errors[30]) ** (1.0 / 60)
    assert step * curvatures.max() < 1.0
    assert errors[90] > 1e-13, "rounding hides the rate"
    assert rate <= np.sqrt(squared) < 1.0


@pytest.mark.parametrize("regularizer", ["l2", "l1"])
@pytest.mark.parametrize("dtype", [F8, F4], ids=["f8", "f4"])
@pytest.mark.parametrize("kind", EXACT)
def test_the_exact_methods_come_to_the_optimum(kind: str, dtype: np.dtype[np.float64], regularizer: str) -> None:
    """All agents, to what the wire lets through; gradient descent with the same step does not."""
    setting, _, _, optimum = quadratic(0.15, regularizer)
    ends = run(setting, METHODS[kind], np.zeros(3), 250, dtype)[-1]
    far = np.abs(run(setting, GradientDescent(), np.zeros(3), 250, dtype)[-1] - optimum).max()
    assert far > 0.01
    assert np.abs(ends - optimum).max() < (1e-7 if dtype == F8 else 1e-5)


@pytest.mark.parametrize("kind", EXACT)
def test_the_exact_methods_come_to_the_optimum_over_links_that_come_and_go(kind: str) -> None:
    """No round is connected. Of EXTRA and exact diffusion that is proved nowhere, see `peer.methods`; here it is so."""
    setting, _, _, optimum = quadratic(0.15)
    links = [((0, 1), (2, 3)), ((1, 2), (0, 3)), ((0, 2),)]
    ends = run(dataclasses.replace(setting, edges=links), METHODS[kind], np.zeros(3), 300)[-1]
    assert np.abs(ends - optimum).max() < 1e-7


def test_states_say_how_far_they_can_tell_that_they_are_from_a_fixed_point() -> None:
    for kind, method in METHODS.items():
        setting, *_ = quadratic(0.15)
        problems = list(problems_of(setting))
        graphs = [Graph.of(4, RING[0])]
        states = [s for s, _ in exchange(problems, [np.zeros(3)] * 4, 0.15, Constant(), graphs, 200, method=method)]
        first, last = (
            max(method.residual(p, a, b, 4) for p, a, b in zip(problems, *pair, strict=True))
            for pair in (states[:2], states[-2:])
        )
        assert first > 0.1, kind
        assert last < 1e-8 * first, kind


# ---- less than all is said ------------------------------------------------------------------


def compressed(setting: Setting, method: Method, starts: Array, n_rounds: int) -> list[Array]:
    """Parameters of all agents in all rounds, where they say what the setting has."""
    problems = [batched(problem, setting) for problem in problems_of(setting)]
    graphs = [Graph.of(len(problems), edges) for edges in setting.edges]
    rows = list(np.broadcast_to(starts, (len(problems), starts.shape[-1])))
    rule, codings = Diminishing(setting.mu) if setting.mu > 0.0 else Constant(), list(codings_of(setting, graphs))
    found = exchange(problems, rows, setting.alpha, rule, graphs, n_rounds, method=method, codings=codings)
    return [np.stack([state.w for state in states]) for states, _ in found]


@pytest.mark.parametrize("batch", [0, 2], ids=["all samples", "batches"])
@pytest.mark.parametrize("digits", [53, 8], ids=["f8", "bf16"])
def test_choco_is_the_published_recursion(digits: int, batch: int) -> None:
    setting = setting_of("softmax", "l2", "full", "local", "mean", 0.1, seed=3)
    p = setting.penalized.size
    says: dict[str, Any] = {"saying": "top-k", "fraction": 7 / p, "gamma": 0.5, "digits": digits}
    setting = dataclasses.replace(setting, alpha=0.1, batch=batch, **says)
    starts = np.random.default_rng(5).standard_normal((4, p))
    found = compressed(setting, GradientDescent(local_steps=2), starts, N_ROUNDS)
    for n, (w, expected) in enumerate(zip(found, baselines.choco(setting, starts, N_ROUNDS, 2), strict=True)):
        np.testing.assert_allclose(w, expected, rtol=0.0, atol=1e-12 * np.abs(starts).max(), err_msg=f"round {n}")


def test_choco_ends_where_gradient_descent_does_that_goes_a_part_of_the_way() -> None:
    """With a constant step where w = C' (w - s grad f(w)), C' = Id + gamma (C - Id), however little is said."""
    setting, H, b, optimum = quadratic(0.1)
    setting = dataclasses.replace(setting, saying="top-k", fraction=1 / 3, gamma=0.4, digits=8)
    C = np.eye(4) + 0.4 * (reference.mixing("metropolis", 4, RING[0]) - np.eye(4))
    blocks = np.zeros((12, 12))
    for i, own in enumerate(H):
        blocks[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = own
    CC = np.kron(C, np.eye(3))
    biased = np.linalg.solve(np.eye(12) - CC @ (np.eye(12) - 0.1 * blocks), -0.1 * CC @ b.reshape(-1)).reshape(4, 3)
    assert np.abs(biased - optimum).max() > 0.01
    found = compressed(setting, GradientDescent(), biased + 0.1, 300)[-1]
    np.testing.assert_allclose(found, biased, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize(("saying", "fraction", "gamma"), [("top-k", 1 / 3, 0.4), ("random-k", 1 / 3, 1.0)])
def test_gradient_tracking_comes_to_the_optimum_with_a_third_of_the_entries(
    saying: str, fraction: float, gamma: float
) -> None:
    setting, _, _, optimum = quadratic(0.1)
    setting = dataclasses.replace(setting, saying=saying, fraction=fraction, gamma=gamma)
    found = compressed(setting, GradientTracking(), np.zeros(3), 300)[-1]
    assert np.abs(found - optimum).max() < 1e-9
