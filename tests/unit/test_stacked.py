"""Networks and solvers of many agents are those of each agent alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from peer.errors import SolveError
from peer.optim.chains import Chain, mlp
from peer.optim.images import Convolution
from peer.optim.layers import ACTIVATIONS, Activation, Dense
from peer.optim.losses import Huber, Logistic, Loss, Softmax, Squared, Weighted, squared_hinge
from peer.optim.regularizers import L2, NoRegularizer, Regularizer
from peer.optim.solvers import solve as solve_one
from peer.optim.surrogates import Data, Full, Partial
from peer.problem import Problem
from peer.stacked import chains, solvers
from peer.stacked.problems import StackedProblem

K, M, D = 5, 7, 3
"""Agents, samples of each, and columns of these."""

RNG = np.random.default_rng(4)

CHAINS = {
    "affine": mlp((D, 2), "tanh"),
    "deep": mlp((D, 4, 3, 2), "gelu"),
    "without biases": Chain((Dense(D, 4, bias=False), Activation(4, "square"), Dense(4, 1))),
    "activation first": Chain((Activation(D, "sigmoid"), Dense(D, 2), Activation(2, "softplus"))),
}


def losses(q: int, n: int) -> dict[str, Loss]:
    labels, targets = RNG.integers(0, max(q, 2), n), RNG.standard_normal((n, q))
    found: dict[str, Loss] = {
        "squared": Squared(targets),
        "weighted": Weighted(Squared(targets), np.where(np.arange(n) % 4 == 3, 0.0, 1.0)),
        "huber": Huber(targets, 0.3),
        "hinge": squared_hinge(labels, q),
    }
    return found | {"cross-entropy": Logistic(labels) if q == 1 else Softmax(labels)}


@pytest.mark.parametrize("name", CHAINS)
def test_a_pass_is_that_of_each_agent(name: str) -> None:
    chain = CHAINS[name]
    w, x = RNG.standard_normal((K, chain.layout.size)), RNG.standard_normal((K, M, D))
    v, u = RNG.standard_normal(w.shape), RNG.standard_normal((K, M, chain.n_outputs))
    here = chains.at(chain, w, x)
    outputs, forward, backward, J = here.outputs, here.jvp(v), here.vjp(u), here.jacobian()
    for i in range(K):
        one = chain.at(w[i], x[i])
        np.testing.assert_allclose(outputs[i], one.outputs, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(forward[i], one.jvp(v[i]), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(backward[i], one.vjp(u[i]), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(J[i] @ v[i], one.jvp(v[i]).reshape(-1), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(u[i].reshape(-1) @ J[i], one.vjp(u[i]), rtol=1e-12, atol=1e-13)


def test_layers_without_a_stacked_form_are_named() -> None:
    assert not any(map(chains.unknown, CHAINS.values()))
    assert chains.unknown(Chain((Convolution((1, 4, 4), 2, 3), Dense(8, 1)))) == "Convolution"


def test_all_activations_have_a_stacked_form() -> None:
    for name in ACTIVATIONS:
        chain = mlp((D, 2, 1), name)
        w, x = RNG.standard_normal((2, chain.layout.size)), RNG.standard_normal((2, M, D))
        here = chains.at(chain, w, x)
        np.testing.assert_allclose(
            here.vjp(np.ones((2, M, 1)))[1], chain.at(w[1], x[1]).vjp(np.ones((M, 1))), rtol=1e-12
        )


def problem_of(chain: Chain, loss: Loss, regularizer: Regularizer, **changes: int) -> StackedProblem:
    return StackedProblem(
        chain=chain,
        x=RNG.standard_normal((K, M, D)),
        loss=loss,
        weight=0.1,
        regularizer=regularizer,
        surrogate=Partial(0.3, kappa=5.0),
        tolerance=1e-13,
        **changes,
    )


@pytest.mark.parametrize("name", ["squared", "weighted", "huber", "hinge", "cross-entropy"])
@pytest.mark.parametrize("chain", [CHAINS["affine"], CHAINS["deep"], CHAINS["without biases"]])
@pytest.mark.parametrize("penalty", [lambda p: NoRegularizer(), lambda p: L2(np.full(p, 0.05))])
def test_best_responses_are_those_of_each_agent(name: str, chain: Chain, penalty: Callable[[int], Regularizer]) -> None:
    loss, p = losses(chain.n_outputs, K * M)[name], chain.layout.size
    problem = problem_of(chain, loss, penalty(p))
    w, pi, tau = RNG.standard_normal((K, p)), RNG.standard_normal((K, p)), RNG.uniform(0.1, 1.0, K)
    values, gradients = problem.values(w)
    found = problem.best_responses(w, gradients, pi, tau)
    for i in range(K):
        data = Data(chain, problem.x[i], loss.taken(np.arange(i * M, (i + 1) * M)), problem.weight)
        assert values[i] == pytest.approx(data.value(w[i]), rel=1e-13)
        np.testing.assert_allclose(gradients[i], data.gradient(w[i]), rtol=1e-11, atol=1e-13)
        subproblem = Partial(tau[i], 5.0).around(w[i], data.gradient(w[i]), pi[i], data)
        one = solve_one(subproblem, problem.regularizer, problem.tolerance)
        np.testing.assert_allclose(found.w[i], one.w, rtol=1e-9, atol=1e-11)
        assert found.residual[i] <= 1e-12


@pytest.mark.parametrize("name", ["squared", "cross-entropy"])
def test_chunks_change_nothing(name: str) -> None:
    chain = CHAINS["deep"]
    whole = problem_of(chain, losses(2, K * M)[name], L2(np.full(chain.layout.size, 0.05)))
    single = StackedProblem(
        chain, whole.x, whole.loss, whole.weight, whole.regularizer, whole.surrogate, whole.tolerance, chunk_bytes=1
    )
    w, pi, tau = RNG.standard_normal((K, chain.layout.size)), RNG.standard_normal((K, chain.layout.size)), np.ones(K)
    gradients = whole.values(w)[1]
    np.testing.assert_allclose(single.values(w)[1], gradients, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        single.best_responses(w, gradients, pi, tau).w, whole.best_responses(w, gradients, pi, tau).w, rtol=1e-11
    )
    np.testing.assert_allclose(single.steepness(w, pi), whole.steepness(w, pi), rtol=1e-12)
    assert single.whole(w[0])[0] == pytest.approx(whole.whole(w[0])[0], rel=1e-14)


@pytest.mark.parametrize("name", ["squared", "cross-entropy"])
def test_products_solve_what_factors_solve(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = CHAINS["deep"]
    p = chain.layout.size
    problem = problem_of(chain, losses(2, K * M)[name], L2(np.full(p, 0.05)), chunk_bytes=1)
    w, pi, tau = RNG.standard_normal((K, p)), RNG.standard_normal((K, p)), np.ones(K)
    gradients = problem.values(w)[1]
    factored = problem.best_responses(w, gradients, pi, tau)
    monkeypatch.setattr(solvers, "FACTORED_BYTES", 0)
    by_products = problem.best_responses(w, gradients, pi, tau)
    np.testing.assert_allclose(by_products.w, factored.w, rtol=1e-9, atol=1e-11)


def test_the_curvature_that_is_seen_is_that_of_each_agent() -> None:
    chain = CHAINS["deep"]
    problem = problem_of(chain, losses(2, K * M)["cross-entropy"], NoRegularizer())
    w, direction = RNG.standard_normal((K, chain.layout.size)), RNG.standard_normal((K, chain.layout.size))
    direction[2] = 0.0
    found = problem.steepness(w, direction)
    for i in range(K):
        data = Data(chain, problem.x[i], problem.loss.taken(np.arange(i * M, (i + 1) * M)), problem.weight)
        one = Problem(data, NoRegularizer(), Full(1.0), 1e-8).steepness(0, w[i], direction[i])
        assert found[i] == pytest.approx(one, rel=1e-11)


@pytest.mark.parametrize("n", [3, solvers.SMALL + 1])
def test_systems_that_cannot_be_solved_are_an_error(n: int) -> None:
    matrices = np.zeros((2, n, n))
    matrices[0] = np.eye(n)
    with pytest.raises(SolveError, match="not positive definite"):
        solvers.factored(matrices)(np.ones((2, n)))
