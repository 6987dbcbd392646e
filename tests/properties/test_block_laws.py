"""Blocks: each is minimized over alone, however many there are, in whatever order and on whatever threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.arrays import Vector
from peer.optim import blocks
from peer.optim.blocks import Block, Blocked
from peer.optim.chains import mlp
from peer.optim.solvers import Accuracy
from peer.optim.surrogates import Full, Partial
from peer.problem import Problem
from tests import laws
from tests.instances import (
    ACTIVATIONS,
    LOSSES,
    SEPARABLE,
    certain,
    data_of,
    gradient_of,
    most_curved,
    outputs_of,
    parameters_of,
    regularizer_of,
)

T = TypeVar("T")
R = TypeVar("R")

seeds = st.integers(0, 2**32 - 1)
taus = st.floats(-2.0, 1.0).map(lambda exponent: 10.0**exponent)
kappas = st.sampled_from([1.0, 5.0])
few = settings(max_examples=8, deadline=None)


def problem_of(
    seed: int, loss: str, regularizer: str, tau: float = 0.5, kappa: float = 1.0, m: int = 8
) -> tuple[Problem, Vector, Vector, Vector]:
    """g_i of a small network, a point, its gradient, and what others want at random."""
    rng = np.random.default_rng(seed)
    model = mlp((3, 4, outputs_of(loss, 2)), str(rng.choice(ACTIVATIONS)))
    data, w = data_of(rng, loss, model, m, 1.0 / m), parameters_of(rng, model)
    gradient = gradient_of(data, w)
    pi = (3.0 - kappa) * gradient + np.max(np.abs(gradient)) * rng.standard_normal(w.size)
    r = regularizer_of(rng, regularizer, w.size, 0.05)
    return Problem(data, r, Partial(tau, kappa), 1e-13), w, gradient, pi


def cut(problem: Problem, n_blocks: int | str) -> Problem:
    """The same problem in blocks; more of them than parameters are one a parameter."""
    layout = problem.data.model.layout
    places = (
        blocks.layers(layout) if isinstance(n_blocks, str) else blocks.equal(layout.size, min(n_blocks, layout.size))
    )
    return replace(problem, blocks=places)


@pytest.mark.parametrize("regularizer", SEPARABLE)
@pytest.mark.parametrize("loss", LOSSES)
class TestBlocks:
    @few
    @given(
        seed=seeds,
        n_blocks=st.sampled_from([2, 3, 7, 20, 1000, "layers"]),
        tau=taus,
        kappa=kappas,
        m=st.integers(1, 12),
    )
    def test_each_minimizes_over_its_own_parameters(
        self, loss: str, regularizer: str, seed: int, n_blocks: int | str, tau: float, kappa: float, m: int
    ) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer, tau, kappa, m)
        problem = cut(problem, n_blocks)
        solution = problem.best_response(w, gradient, pi)
        whole = Partial(tau, kappa).around(w, gradient, pi, problem.data)
        assert solution.method.endswith(f", {len(problem.blocks)} blocks")
        for place in problem.blocks:
            h = replace(whole, center=w[place], jacobian=laws.matrix(whole)[:, place], pi=pi[place], slope=None)
            laws.same_minimizer(h, solution.w[place], certain(h, problem.regularizer.restricted(place), loss), 1e-9)

    @few
    @given(seed=seeds, n_blocks=st.integers(1, 6), kappa=kappas)
    def test_blocks_are_the_surrogate_with_the_others_kept(
        self, loss: str, regularizer: str, seed: int, n_blocks: int, kappa: float
    ) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer, kappa=kappa)
        surrogate, factors = Partial(0.5, kappa), problem.data.model.at(w, problem.data.inputs).factors()
        of = Blocked(surrogate, w, pi, problem.data, factors, problem.regularizer, 1.0, Accuracy(1e-13))
        whole = surrogate.around(w, gradient, pi, problem.data)
        d, direction = np.random.default_rng(seed).standard_normal((2, w.size))
        for place in cut(problem, n_blocks).blocks:
            laws.blocked_surrogate_is_consistent(Block(of, place), gradient)
            h = of.linearized(place)
            laws.block_is_the_surrogate_with_the_others_kept(h, place, whole, 0.3 * d[place], direction[place])
            np.testing.assert_array_equal(laws.matrix(h), laws.matrix(whole)[:, place])

    @few
    @given(seed=seeds, n_blocks=st.sampled_from([2, 5, 20, 1000]))
    def test_the_number_of_threads_changes_no_bit(self, loss: str, regularizer: str, seed: int, n_blocks: int) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer)
        problem = cut(problem, n_blocks)
        alone = problem.best_response(w, gradient, pi)
        for n_threads in (1, 2, 4):
            with ThreadPoolExecutor(n_threads) as pool:
                found = replace(problem, each=on(pool)).best_response(w, gradient, pi)
            np.testing.assert_array_equal(found.w, alone.w)
            assert (found.residual, found.iterations) == (alone.residual, alone.iterations)

    @settings(max_examples=8, deadline=None)
    @given(seed=seeds, n_blocks=st.sampled_from([4, 11, 20, 1000]), columns=st.integers(1, 20), tau=taus)
    def test_how_many_are_solved_together_changes_no_bit(
        self, loss: str, regularizer: str, seed: int, n_blocks: int, columns: int, tau: float
    ) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer, tau)
        problem = cut(problem, n_blocks)
        together = problem.best_response(w, gradient, pi)
        with patch.object(blocks, "BATCH", columns * 8 * problem.data.model.n_outputs):
            found = problem.best_response(w, gradient, pi)
        np.testing.assert_array_equal(found.w, together.w)
        assert (found.residual, found.iterations) == (together.residual, together.iterations)

    @few
    @given(seed=seeds, kappa=kappas)
    def test_one_block_is_none(self, loss: str, regularizer: str, seed: int, kappa: float) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer, kappa=kappa)
        found, expected = (one.best_response(w, gradient, pi) for one in (cut(problem, 1), problem))
        np.testing.assert_array_equal(found.w, expected.w)
        assert found.method == expected.method

    @few
    @given(seed=seeds, n_blocks=st.sampled_from([2, 20, 1000, "layers"]))
    def test_with_a_full_linearization_they_change_nothing(
        self, loss: str, regularizer: str, seed: int, n_blocks: int | str
    ) -> None:
        problem, w, gradient, pi = problem_of(seed, loss, regularizer)
        problem = replace(problem, surrogate=Full(2.0))
        found, expected = (one.best_response(w, gradient, pi) for one in (cut(problem, n_blocks), problem))
        np.testing.assert_array_equal(found.w, expected.w)

    @few
    @given(seed=seeds, n_blocks=st.sampled_from([2, 5, 1000, "layers"]), tau=taus, kappa=kappas)
    def test_where_nothing_moves_the_point_is_stationary(
        self, loss: str, regularizer: str, seed: int, n_blocks: int | str, tau: float, kappa: float
    ) -> None:
        """And the other way round: the way to w~ and the distance from stationarity bound each other.

        With h of curvature between tau and L: ||w - prox(w - grad h)|| <= (2 + L) ||w~ - w||, as the map is
        (2 + L)-Lipschitz and 0 at w~; and ||w~ - w|| <= (1 + L)/tau ||w - prox(w - grad h)||.
        """
        problem, w, gradient, pi = problem_of(seed, loss, regularizer, tau, kappa)
        slope = kappa * gradient + pi  # I y_i, the tracked gradient of G
        J = laws.jacobian(problem.data.model, w, problem.data.inputs).reshape(-1, w.size)
        weight = most_curved(problem.data.loss, loss) * kappa * problem.data.weight
        L = weight * np.linalg.norm(J, 2) ** 2 + tau
        moved = np.linalg.norm(cut(problem, n_blocks).best_response(w, gradient, pi).w - w)
        distance = np.linalg.norm(w - problem.regularizer.prox(w - slope, 1.0))
        assert distance <= (2.0 + L) * moved + 1e-9
        assert moved <= (1.0 + L) / tau * distance + 1e-9


def on(pool: ThreadPoolExecutor) -> blocks.Each:
    """Goes through blocks on threads."""

    def each(function: Callable[[T], R], items: Sequence[T], /) -> Sequence[R]:
        return list(pool.map(function, items))

    return each


@few
@given(p=st.integers(1, 60), share=st.floats(0.0, 1.0))
def test_blocks_are_cut_as_numpy_cuts(p: int, share: float) -> None:
    n_blocks = 1 + int(share * (p - 1))
    found = [np.arange(p)[place] for place in blocks.equal(p, n_blocks)]
    for block, expected in zip(found, np.array_split(np.arange(p), n_blocks), strict=True):
        np.testing.assert_array_equal(block, expected)
