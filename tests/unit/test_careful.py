"""`auto`: its rule by hand, its laws, what it reaches where the optimum is known, and that it never diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_wine

from peer import agent
from peer.agent import State
from peer.arrays import Labels, Vector
from peer.careful import BEGIN, FADES, LEAST_CARE, TIRES, Caution, adapted, alpha_of, begun, eased
from peer.optim.chains import mlp
from peer.optim.losses import Loss, Squared, cross_entropy, squared_hinge
from peer.optim.regularizers import L1, L2, ElasticNet, Regularizer, group_l2
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from tests.instances import data_of, exchange, parameters_of
from tests.laws import matrix
from topology import Graph
from topology.graphs import complete, ring, star
from topology.outlets import InStep, Outlets
from topology.schedules import Matchings, OnePeerExponential, Static
from topology.weights import contraction, contraction_in_step, lazy_metropolis, mixing_rate


@final
@dataclass(frozen=True)
class Slope:
    """A problem of which nothing is known but one curvature, and how far off it is."""

    curvature: float
    off: float = 0.0

    def steepness(self, n: int, w: Vector, direction: Vector) -> float:
        return self.curvature

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        return self.off


def state(w: list[float], gradient: list[float], y: list[float], **others: float) -> State:
    first = State(0, np.array(w), np.array(y), np.array(gradient), 0.0, 0.0, 0.2)
    return first.changed(**others)


# ---- alpha ---------------------------------------------------------------------------------


def spectral_radius(eigenvalue: float, alpha: float) -> float:
    """Of w and y of one disagreement, see `peer.careful`."""
    return float(np.abs(np.roots([1.0, -eigenvalue * (2.0 - alpha), eigenvalue * (eigenvalue - alpha)])).max())


@given(rho=st.floats(0.0, 1.0))
def test_alpha_is_a_step(rho: float) -> None:
    assert 0.0 < alpha_of(rho) <= 1.0


@given(rho=st.floats(0.05, 0.99), slower=st.floats(0.5, 1.0))
def test_alpha_is_stable_for_every_eigenvalue(rho: float, slower: float) -> None:
    """All disagreements and what is common shrink, also where some are slower than the mean of them."""
    alpha = alpha_of(rho)
    for part in (-1.0, -0.5, 0.5, 1.0):
        assert spectral_radius(part * rho, alpha) < 1.0
        assert spectral_radius(part * rho**slower, alpha) < 1.0


def test_contraction_of_graphs() -> None:
    assert contraction(Static(complete(8))) < 1e-3
    assert contraction(Static(ring(4))) == pytest.approx(1.0 / 3.0, abs=1e-3)  # all of its eigenvalues but one
    assert contraction(Static(star(8))) == pytest.approx(7.0 / 8.0, abs=0.01)  # all but two
    assert contraction(Static(ring(8))) < mixing_rate(Static(ring(8)), 100)
    assert contraction(Static(ring(8)), lazy_metropolis) > contraction(Static(ring(8)))
    assert contraction(Static(Graph(1, frozenset()))) == 0.0


def test_contraction_of_links_that_change() -> None:
    """One-peer exponential graphs of 8 end all disagreement after 3 rounds."""
    assert contraction(OnePeerExponential(8)) <= 0.1 ** (1.0 / 3.0)
    assert contraction(Static(ring(6))) < contraction(Matchings(ring(6), seed=3)) < 1.0


def test_contraction_of_many_agents_is_found_by_some_disagreements() -> None:
    assert contraction(Static(ring(65))) == pytest.approx(contraction(Static(ring(64))), abs=0.01)
    assert contraction(Static(ring(300))) < 1.0


def test_contraction_without_rounds() -> None:
    """Where all push to all, each takes the mean of all; one direction is slower than both."""
    one, both = (InStep(Outlets("static", "ring", directed=directed, seed=1), 8) for directed in (True, False))
    assert contraction_in_step(InStep(Outlets("static", "complete", seed=1), 8)) < 1e-3
    assert contraction_in_step(both) < contraction_in_step(one) < 1.0


# ---- tau -----------------------------------------------------------------------------------


def test_the_first_tau_by_hand() -> None:
    """L = max(I 3, I ||y||/||w||) and tau = alpha/2 L; without own curvature tau = L/2."""
    first = state([3.0, 4.0], [1.0, 0.0], [0.0, 5.0])
    assert begun(Slope(3.0), first, Caution(4, 0.5, keeps=True)).tau == 0.2 * BEGIN * 12.0
    assert begun(Slope(0.0), first, Caution(4, 0.5, keeps=True)).tau == 0.2 * BEGIN * 4.0
    assert begun(Slope(3.0), first, Caution(4, 0.5, keeps=False)).tau == BEGIN * 12.0
    assert begun(Slope(0.0, 50.0), first, Caution(4, 0.5, keeps=True)).tau == 0.2 * BEGIN * 10.0


@pytest.mark.parametrize("size", [1e-150, 1e-163, 1e-200, 1e-250])
def test_gradients_whose_squares_vanish_make_no_longer_steps(size: float) -> None:
    """As of logistic losses of samples as they came, in the thousands, which are all on the right side."""
    tau = begun(Slope(0.0), state([0.5, 0.0], [size, 0.0], [size, 0.0]), Caution(3, 0.0, keeps=False)).tau
    assert tau == pytest.approx(BEGIN * 3.0 * size)


def test_the_next_tau_by_hand() -> None:
    before = state([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], care=0.4, eagerness=0.5, stride=10.0, steepest=1.0)
    after = state([3.0, 4.0], [0.0, 10.0], [0.0, 0.0])
    found = adapted(Slope(1.0), before, after, Caution(2, 0.25, keeps=True))
    assert found.steepest == 2 * 10.0 / 5.0  # what it has come across
    assert found.care == pytest.approx(0.4 * 0.25 ** (0.5 / 4.0))
    assert (found.eagerness, found.stride) == (0.5, 7.5)
    assert found.tau == 0.2 * found.care * found.steepest
    assert (
        adapted(Slope(0.0), before.changed(steepest=9.0), after, Caution(2, 0.25, keeps=True)).steepest == 9.0 * FADES
    )


@pytest.mark.parametrize(("own", "others", "steepest"), [(0.6, 50.0, 2 * 0.6 / 5.0), (0.4, 50.0, 2 * 50.0 / 5.0)])
def test_where_the_own_gradient_stays_the_same_that_of_the_others_says_how_steep_it_is(
    own: float, others: float, steepest: float
) -> None:
    before = state([0.0, 0.0], [1.0, 0.0], [0.0, others], care=0.4, eagerness=0.5, stride=10.0, steepest=0.0)
    after = state([3.0, 4.0], [1.0, own], [0.0, 0.0])
    assert adapted(Slope(0.0), before, after, Caution(2, 0.25, keeps=True)).steepest == pytest.approx(steepest)


def test_longer_steps_make_careful_and_tired() -> None:
    assert eased(0.2, 1.0, False, 0.5) == (0.4, TIRES)
    assert eased(0.2, 1.0, True, 0.25) == (0.1, 1.0)
    before = state([0.0], [0.0], [0.0], care=0.9, eagerness=1.0, stride=1.0, steepest=1.0)
    assert adapted(Slope(1.0), before, state([2.0], [0.0], [0.0]), Caution(2, 0.25, keeps=True)).care == 1.0


def test_care_rises_beyond_one_only_where_the_agent_sees_too_little() -> None:
    assert eased(0.9, 1.0, False, 0.5, 100.0) == (1.0, TIRES)
    assert eased(1.0, 1.0, False, 0.5, 100.0) == (1.0 / FADES, TIRES)
    assert eased(5.0, 1.0, False, 0.5)[0] == 5.0, "it stays, where the agent sees enough"
    assert eased(99.0, 1.0, False, 0.5, 100.0)[0] == 100.0
    assert eased(5.0, 1.0, True, 0.5)[0] == 2.5
    assert eased(1.1, 0.5, True, 0.25)[0] == 0.25**0.25, "as from 1"
    before = state([0.0], [0.0], [4.0], care=1.0, eagerness=1.0, stride=1.0, steepest=1.0)
    for change, care in ((0.3, 1.0 / FADES), (0.5, 1.0)):
        found = adapted(Slope(1.0), before, state([2.0], [change], [0.0]), Caution(2, 0.25, keeps=True))
        assert found.care == care


def test_where_nothing_moves_tau_stays_positive() -> None:
    still = begun(Slope(0.0), state([0.0], [0.0], [0.0]), Caution(2, 0.0, keeps=True))
    found = adapted(Slope(0.0), still, still, Caution(2, 0.0, keeps=True))
    assert found.tau > 0.0
    assert all(math.isfinite(getattr(found, name)) for name in ("tau", "care", "eagerness", "stride", "steepest"))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.floats(0.0, 1.0), st.booleans())
def test_care_stays_within_bounds(lengths: list[float], rho: float, keeps: bool) -> None:
    caution = Caution(3, rho, keeps)
    here = begun(Slope(1.0), state([0.0], [0.0], [0.0]), caution)
    for length in lengths:
        here = adapted(Slope(1.0), here, here.changed(w=here.w + length), caution)
        assert (LEAST_CARE if keeps else 0.2) <= here.care <= 1.0
        assert 0.0 < here.tau < math.inf


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_tau_has_the_dimension_of_curvature(seed: int, scale: float) -> None:
    """Times as large a g_i, as large a tau: nothing in the rule is an absolute number but 1 beside ||w||."""
    rng, model, caution = np.random.default_rng(seed), mlp((3, 2, 3), "tanh"), Caution(4, 0.5, keeps=True)
    data, w = data_of(rng, "softmax", model, 5, 0.2), parameters_of(rng, model)
    taus = [
        begun(problem, agent.initial(problem, w, 0.2), caution).tau
        for problem in (
            Problem(replace(data, weight=weight), L2(np.zeros(w.size)), Partial(1.0, 4.0), 1e-8)
            for weight in (data.weight, scale * data.weight)
        )
    ]
    assert taus[1] == pytest.approx(scale * taus[0], rel=1e-9)


@given(seed=st.integers(0, 1000), loss=st.sampled_from(["squared", "softmax", "weighted squared"]))
def test_steepness_is_a_curvature(seed: int, loss: str) -> None:
    """Between that along the direction and the largest of s J'BJ."""
    rng, model = np.random.default_rng(seed), mlp((3, 2, 3), "tanh")
    data, w = data_of(rng, loss, model, 6, 0.3), parameters_of(rng, model)
    problem, direction = Problem(data, L2(np.zeros(w.size)), Partial(1.0), 1e-8), rng.standard_normal(w.size)
    J = matrix(Partial(1.0).around(w, w, w, data)).reshape(6, 3, -1)
    B = data.loss.curvature_root(model.at(w, data.inputs).outputs)
    half = np.einsum("mkl,mkp->mlp", B, J).reshape(-1, w.size)
    H = data.weight * half.T @ half
    along = float(direction @ H @ direction / (direction @ direction))
    found, largest = problem.steepness(0, w, direction), float(np.linalg.norm(H, 2))
    assert along * (1.0 - 1e-9) <= found <= largest * (1.0 + 1e-9)
    assert 0.0 < problem.steepness(0, w, np.zeros(w.size)) <= largest * (1.0 + 1e-9), "also where there is no slope"


# ---- whole runs ----------------------------------------------------------------------------


def pieces(x: np.ndarray, n_agents: int) -> list[np.ndarray]:
    return np.array_split(x, n_agents)


def test_agents_whose_samples_are_all_beyond_the_margin_do_not_kick_the_others() -> None:
    """Agents of one class each: their own loss is soon 0, and with it all curvature that they see."""
    x, labels = load_wine(return_X_y=True)
    order = np.argsort(labels, kind="stable")
    x, labels = ((x - x.mean(axis=0)) / x.std(axis=0))[order], labels[order].astype(np.int64)
    model, strength, ground = mlp((13, 3), "tanh"), L2(np.full(42, 1e-3)), ring(8)

    def problem(rows: np.ndarray, y: np.ndarray, kappa: float) -> Problem:
        return Problem(Data(model, rows, squared_hinge(y, 3), 1.0 / 178), strength, Partial(1.0, kappa), 1e-8)

    start, whole = 0.3 * np.random.default_rng(0).standard_normal(42), problem(x, labels, 1.0)
    optimum = start
    for _ in range(50):
        gradient = whole.gradient(optimum)
        optimum = whole.best_response(optimum, gradient, 0.0 * gradient, 1e-4).w
    assert np.abs(whole.gradient(optimum) + strength.gradient(optimum)).max() < 1e-6

    agents = [problem(*cut, 8.0) for cut in zip(pieces(x, 8), pieces(labels, 8), strict=True)]
    rho = contraction(Static(ground))
    caution = Caution(8, rho, keeps=True)
    *_, (states, _) = exchange(agents, [start] * 8, alpha_of(rho), Constant(), [ground], 200, caution=caution)
    mean = np.mean([one.w for one in states], axis=0)
    reached, least = (whole.value(w) + strength.value(w) for w in (mean, optimum))
    assert reached == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize("surrogate", [Partial(1.0, 3.0), Full(1.0)], ids=["partial", "full"])
@pytest.mark.parametrize(
    "regularizer",
    [
        L1(np.array([0.01, 0.01, 0.0])),
        L2(np.array([0.1, 0.1, 0.0])),
        ElasticNet(np.array([0.01, 0.01, 0.0]), np.array([0.01, 0.01, 0.0])),
        group_l2(np.array([0, 0, -1]), 0.01),
    ],
    ids=["l1", "l2", "elastic net", "groups"],
)
@pytest.mark.parametrize("labels", [squared_hinge, cross_entropy], ids=["hinge", "logistic"])
def test_an_agent_whose_loss_has_nothing_to_say_at_first_is_not_carried_away_by_the_penalty(
    labels: Callable[[Labels, int], Loss], regularizer: Regularizer, surrogate: Surrogate
) -> None:
    """Parameters that were trained before: its samples are all beyond the margin, or their losses next to nothing."""
    x, w = np.array([[600.0, 500.0], [500.0, 700.0]]), np.array([0.6, 0.3, 0.1])
    data = Data(mlp((2, 1), "tanh"), x, labels(np.array([1, 1]), 1), 1.0 / 6.0)
    problem = Problem(data, regularizer, surrogate, 1e-8)
    first = begun(problem, agent.initial(problem, w, 0.2), Caution(3, 0.5, keeps=True))
    solution = agent.propose(problem, first, 3).solution
    assert solution.residual <= 1e-8
    assert np.abs(solution.w - w).max() < 2.0


@pytest.mark.parametrize(("n_agents", "n_rounds"), [(4, 38), (8, 154)])
def test_logistic_regression_on_a_ring(n_agents: int, n_rounds: int) -> None:
    """Six digits in no more rounds than the best of all tuned settings needs: 38 on a ring of 4, 154 on one of 8."""
    found = load_breast_cancer()
    order = np.random.default_rng(0).permutation(569)[:568]
    x, labels = found.data[order], found.target[order].astype(np.int64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model, strength = mlp((30, 1), "tanh"), L2(np.full(31, 1e-2))

    def problem(rows: np.ndarray, y: np.ndarray, kappa: float) -> Problem:
        return Problem(Data(model, rows, cross_entropy(y, 1), 1.0 / 568), strength, Partial(1.0, kappa), 1e-10)

    start, whole = np.zeros(31), problem(x, labels, 1.0)
    optimum = start
    for _ in range(30):  # alone, with all data and hardly any tau, (5) is Newton's step
        gradient = whole.gradient(optimum)
        optimum = whole.best_response(optimum, gradient, 0.0 * gradient, 1e-6).w
    slope = whole.gradient(optimum) + strength.gradient(optimum)
    assert np.abs(slope).max() < 1e-12

    agents = [problem(*cut, float(n_agents)) for cut in zip(pieces(x, n_agents), pieces(labels, n_agents), strict=True)]
    rho = contraction(Static(ring(n_agents)))
    caution = Caution(n_agents, rho, keeps=True)
    run = exchange(agents, [start] * n_agents, alpha_of(rho), Constant(), [ring(n_agents)], n_rounds, caution=caution)
    *_, (states, _) = run
    worst = max(float(np.linalg.norm(one.w - optimum)) for one in states)
    assert worst <= 1e-6 * float(np.linalg.norm(optimum))


HARD = {
    "inputs a thousand times too large": (1e3, 1.0 / 60, 1e-2, "tanh"),
    "inputs a thousand times too large, relu": (1e3, 1.0 / 60, 1e-2, "relu"),
    "a sum, hardly regularized": (1.0, 1.0, 1e-9, "tanh"),
    "inputs a thousand times too small": (1e-3, 1.0 / 60, 1e-9, "tanh"),
}


@pytest.mark.parametrize("kind", ["partial", "full"])
@pytest.mark.parametrize("case", HARD.values(), ids=HARD)
@pytest.mark.parametrize("graph", [complete(4), ring(6)], ids=["complete", "ring"])
def test_it_never_diverges(case: tuple[float, float, float, str], kind: str, graph: Graph) -> None:
    """Targets are sorted, so that no agent has seen what another has; a run ends no higher than it began."""
    size, weight, strength, activation = case
    n_agents = graph.n_agents
    rho = contraction(Static(graph))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 5))
    y = np.sin(x @ rng.standard_normal((5, 1))) + 0.1 * rng.standard_normal((60, 1))
    order = np.argsort(y[:, 0])
    model = mlp((5, 3, 1), activation)
    regularizer = L2(np.full(model.layout.size, strength))
    surrogate = Full(1.0) if kind == "full" else Partial(1.0, float(n_agents))
    agents = [
        Problem(Data(model, size * rows, Squared(targets), weight), regularizer, surrogate, 1e-8)
        for rows, targets in zip(pieces(x[order], n_agents), pieces(y[order], n_agents), strict=True)
    ]

    def objective(states: list[State], agents: list[Problem] = agents) -> float:
        w = np.mean([one.w for one in states], axis=0)
        return math.fsum(one.value(w) for one in agents) + agents[0].regularizer.value(w)

    caution = Caution(n_agents, rho, kind == "partial")
    start = model.initial(rng)
    run = exchange(agents, [start] * n_agents, alpha_of(rho), Constant(), [graph], 80, caution=caution)
    values = [objective(states) for states, _ in run]
    assert values[-1] < values[0]
    assert max(values) <= 10.0 * values[0]
