"""Which way to solve a surrogate is the faster one, by its size: with the Jacobian as a matrix, or by products with it.

All are first rounds of an agent that has some of the digits, a multilayer perceptron of one hidden layer, and l2. For
each size both ways are taken in turn, as often as `--repeats` says; shown are medians of seconds of a processor, what
the cost model of `peer.optim.maps` chooses, and how much slower that is than the better way. Then the constants of that
model are measured, each on the sizes on which it is what takes the time.

    python -m benchmarks.solvers
    python -m benchmarks.solvers --large     # an agent with p = 200,000: time and memory of a round's solve
    python -m benchmarks.solvers --cholesky  # p = 2,410, 8 agents: the chosen way beside a Cholesky in p unknowns
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final, TypeVar, final

import click
import numpy as np
from scipy import linalg
from sklearn.datasets import load_digits

from benchmarks.agents import mixed
from benchmarks.exchange import spread
from peer import memory
from peer.agent import Proposal, State, initial, propose
from peer.arrays import Matrix, Vector
from peer.optim import maps
from peer.optim.chains import mlp
from peer.optim.factors import Part
from peer.optim.losses import Loss, Softmax, Squared
from peer.optim.maps import LinearMap, Map, factored, is_dense_cheaper, products_of
from peer.optim.models import Pass
from peer.optim.regularizers import L2, Regularizer
from peer.optim.solvers import Solution, solve
from peer.optim.surrogates import Data, Linearized, Partial
from peer.problem import Problem
from topology.graphs import ring

R = TypeVar("R")

TOLERANCE: Final = 1e-8
"""Of a solve: the default."""

WIDTHS, SAMPLES, TAUS = (4, 10, 50, 200), (8, 60, 180), (1.0, 0.01)
"""Hidden units, samples of the agent, and tau."""

MOST: Final = 3e7
"""Entries of a Jacobian that is formed here at most: its solve takes seconds."""

LARGE: Final = (64, 2666, 10)
"""Widths of the large one: p = 199,960."""

TARGET_VECTORS: Final = 30
"""Vectors of length p that a round's solve may need, beside activations."""

TARGET_FASTER: Final = 5.0
"""Seconds of one Cholesky factorization in p = 2,410 unknowns to those of a round's solve, at least."""

TARGET_POINTS: Final = 0.5
"""Points of accuracy by which the two may differ after a round."""

TARGET_RATIO: Final = 2.0
"""Seconds of a solve to those of its products with J and J' alone, at most."""


@final
@dataclass(eq=False)
class Counted:
    """Products with a Jacobian, counted and timed."""

    here: Pass
    n_pairs: int = 0
    seconds: float = 0.0
    map: LinearMap = field(init=False)

    def __post_init__(self) -> None:
        plain = products_of(self.here)
        self.map = replace(plain, forward=self._timed(plain.forward, 1), adjoint=self._timed(plain.adjoint, 0))

    def _timed(self, product: Callable[[Vector], Vector], counts: int) -> Callable[[Vector], Vector]:
        def timed(x: Vector) -> Vector:
            self.n_pairs += counts
            result, seconds = clocked(lambda: product(x))
            self.seconds += seconds
            return result

        return timed


def clocked(function: Callable[[], R]) -> tuple[R, float]:
    """Result and seconds, of a processor, which others may use too."""
    began_s = time.process_time()
    result = function()
    return result, time.process_time() - began_s


def problem_of(widths: tuple[int, ...], loss: str, m: int, tau: float) -> Problem:
    """An agent with the first m digits, one of so many that all together have 1,797."""
    x, labels = load_digits(return_X_y=True)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)
    losses: dict[str, Loss] = {"squared": Squared(np.eye(10)[labels[:m]]), "cross-entropy": Softmax(labels[:m])}
    model = mlp(widths, "tanh")
    data = Data(model, np.ascontiguousarray(x[:m]), losses[loss], 1.0 / len(x))
    return Problem(data, L2(np.full(model.layout.size, 1e-3)), Partial(tau, len(x) / m), TOLERANCE)


def state_of(problem: Problem) -> State:
    """Its first state."""
    return initial(problem, problem.data.model.initial(np.random.default_rng(0)), 0.1)


def sizes() -> Iterator[tuple[int, str, int, float]]:
    """Hidden units, loss, samples, tau."""
    for hidden in WIDTHS:
        for m in SAMPLES:
            for loss in ("squared", "cross-entropy"):
                for tau in TAUS:
                    yield hidden, loss, m, tau


def subproblem(problem: Problem, state: State, outputs: Matrix, jacobian: Map) -> Linearized:
    """(11) with this Jacobian, among others that want half of what the agent wants."""
    data, scale = problem.data, float(np.max(np.abs(problem.kappa * state.gradient)))
    weight, pi = problem.kappa * data.weight, 0.5 * state.gradient
    return Linearized(state.w, outputs, jacobian, data.loss, weight, pi, problem.surrogate.tau, scale)


def both(problem: Problem, repeats: int) -> tuple[list[float], list[float], bool, Solution, Counted]:
    """Seconds by factoring and by products, whether the first is what would be chosen, and one solution by products."""
    state, dense_s, products_s = state_of(problem), [], []

    def by_matrix() -> Solution:
        here = problem.data.model.at(state.w, problem.data.inputs)
        J = factored(here)
        return solve(subproblem(problem, state, here.outputs, J), problem.regularizer, TOLERANCE)

    def by_products() -> tuple[Solution, Counted]:
        counted = Counted(problem.data.model.at(state.w, problem.data.inputs))
        h = subproblem(problem, state, counted.here.outputs, counted.map)
        return solve(h, problem.regularizer, TOLERANCE), counted

    for _ in range(repeats):
        dense_s.append(clocked(by_matrix)[1])
        (solution, counted), seconds = clocked(by_products)
        products_s.append(seconds)
    return dense_s, products_s, is_dense_cheaper(counted.here, problem.data.loss.quadratic), solution, counted


def choices(repeats: int) -> None:
    """A line for each size."""
    losses = []
    for hidden, loss, m, tau in sizes():
        problem = problem_of((64, hidden, 10), loss, m, tau)
        p = problem.data.model.layout.size
        if 10 * m * p > MOST:
            continue
        dense_s, products_s, is_dense, solution, counted = both(problem, repeats)
        chosen, best = median(dense_s if is_dense else products_s), min(median(dense_s), median(products_s))
        losses.append(chosen / best)
        click.echo(
            f"p = {p:6}, m q = {10 * m:5}, {loss:13}, tau = {tau:4}: matrix {spread(dense_s)} s, "
            f"products {spread(products_s)} s ({counted.n_pairs} pairs), "
            f"{'matrix' if is_dense else 'products'} chosen, {chosen / best:4.1f} times the better one's time"
        )
        assert solution.residual <= TOLERANCE
    wrong = sum(loss > 1.0 for loss in losses)
    click.echo(
        f"the slower way is chosen in {wrong} of {len(losses)}; at worst it takes {max(losses):.1f} times as long"
    )


def constants(repeats: int) -> None:
    """Those of `peer.optim.maps`, as this machine has them."""
    rng = np.random.default_rng(0)

    def measure(name: str, function: Callable[[], object], amount: float, now: float) -> None:
        seconds = [clocked(function)[1] / amount for _ in range(repeats)]
        click.echo(f"{name:12} {spread(seconds)}, in the model {now:.2g}")

    problem = problem_of((64, 200, 10), "squared", 180, 1.0)
    w = state_of(problem).w
    factors = problem.data.model.at(w, problem.data.inputs).factors()
    k, p = factors.outputs.size, factors.n_parameters
    measure("FORM_S", lambda: factors.columns(slice(0, p)), k * p, maps.FORM_S)
    wide = rng.standard_normal((1_000, 8_000))
    roots = problem.data.loss.curvature_root(factors.outputs)
    measure("FACTORS_S", lambda: factors.gram(slice(0, 2_000), roots), 180 * 2_000**2, maps.FACTORS_S)
    measure("GRAM_S", lambda: wide @ wide.T, 1_000**2 * 8_000, maps.GRAM_S)
    square = wide @ wide.T
    measure("CHOLESKY_S", lambda: linalg.cho_factor(square, lower=True), 1_000**3, maps.CHOLESKY_S)
    products, work = products_of(problem.data.model.at(w, problem.data.inputs)), 180 * p
    measure("PRODUCT_S", lambda: products.adjoint(products.forward(w)), work, maps.PRODUCT_S)
    small = problem_of((64, WIDTHS[0], 10), "squared", SAMPLES[0], TAUS[-1])
    seconds = []
    for _ in range(repeats):
        _, (taken_s,), _, _, counted = both(small, 1)
        seconds.append(taken_s / counted.n_pairs)
    click.echo(f"{'PAIR_S':12} {spread(seconds)}, in the model {maps.PAIR_S:.2g}")


def large(repeats: int) -> None:
    """Time and memory of a round's solve with p = 200,000."""
    m = 90
    memory.keep()  # as a peer of this size does
    for loss in ("squared", "cross-entropy"):
        problem = problem_of(LARGE, loss, m, 0.1)
        state = state_of(problem)
        p, here = state.w.size, problem.data.model.at(state.w, problem.data.inputs)
        activations = sum(
            part.cotangents.nbytes + part.values.nbytes for part in here.factors().pieces if isinstance(part, Part)
        )
        seconds, ratios = [], []
        propose(problem, state, 20)  # a first round, after which its memory is there
        for _ in range(repeats):
            counted = Counted(here)
            solve_this = solve_alone(subproblem(problem, state, here.outputs, counted.map), problem.regularizer)
            solution, taken_s = clocked(solve_this)
            seconds.append(taken_s)
            ratios.append(taken_s / counted.seconds)
            n_pairs = counted.n_pairs
            del counted, solve_this
            gc.collect()  # what is counted holds itself; a peer forgets a round before the next
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        propose(problem, state, 20)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        vectors = (peak - activations) / (8 * p)
        met = ["met" if good else "missed" for good in (median(ratios) <= TARGET_RATIO, vectors <= TARGET_VECTORS)]
        click.echo(
            f"p = {p}, m q = {10 * m}, {loss}: {spread(seconds)} s with {n_pairs} pairs of products, "
            f"{spread(ratios)} times their time (target {TARGET_RATIO:g}: {met[0]}); residual "
            f"{solution.residual:.0e}; {peak / 1e6:.0f} MB, of which {activations / 1e6:.0f} MB activations "
            f"and {vectors:.1f} vectors of length p (target {TARGET_VECTORS}: {met[1]})"
        )


def solve_alone(h: Linearized, regularizer: Regularizer) -> Callable[[], Solution]:
    """A solve, yet to be made."""
    return lambda: solve(h, regularizer, TOLERANCE)


@final
@dataclass(frozen=True, eq=False)
class Cholesky:
    """(11), its systems always factored in p unknowns: J'H J is formed, and p^3/3 products follow."""

    partial: Partial

    @property
    def kappa(self) -> float:
        """As of (11)."""
        return self.partial.kappa

    @property
    def tau(self) -> float:
        """As of (11)."""
        return self.partial.tau

    def with_tau(self, tau: float) -> Cholesky:
        """The same with another tau."""
        return Cholesky(self.partial.with_tau(tau))

    def around(self, w: Vector, gradient: Vector, pi: Vector, data: Data) -> Linearized:
        """As of (11)."""
        h, factors = self.partial.around(w, gradient, pi, data), data.at(w).factors()
        products = products_of(data.at(w))
        return replace(h, jacobian=replace(products, gram=lambda roots: factors.gram(slice(0, w.size), roots)))


def beside_cholesky(rounds: int) -> None:
    """Time of a round's solve and test accuracy after it, with p = 2,410, and the time of one factorization alone."""
    x, labels = load_digits(return_X_y=True)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)
    order = np.random.default_rng(7).permutation(len(x))
    test, training = order[:449], order[449:]
    model, graph = mlp((64, 32, 10), "tanh"), ring(8)
    p, r = model.layout.size, L2(np.full(model.layout.size, 1e-3))
    start = model.initial(np.random.default_rng(7))
    parts = np.array_split(training, 8)
    datas = [Data(model, x[part], Softmax(labels[part]), 1.0 / len(training)) for part in parts]
    accuracies: list[list[float]] = []
    seconds: list[list[float]] = []
    partial = Partial(0.1, 8.0)
    for surrogate in (partial, Cholesky(partial)):
        problems = [Problem(data, r, surrogate, TOLERANCE) for data in datas]
        states = [initial(problem, start, 0.3) for problem in problems]
        accuracies.append([])
        seconds.append([])
        for _ in range(rounds):
            proposals = []
            for problem, state in zip(problems, states, strict=True):
                proposal, taken_s = clocked(solve_of(problem, state))
                proposals.append(proposal)
                seconds[-1].append(taken_s)
            states = mixed(problems, states, proposals, graph)
            w = np.mean([state.w for state in states], axis=0)
            accuracies[-1].append(float(np.mean(model.at(w, x[test]).outputs.argmax(axis=1) == labels[test])))
        methods = {proposal.solution.method for proposal in proposals}
        click.echo(
            f"{', '.join(methods):16} {spread(seconds[-1])} s a solve, test accuracy after each round: "
            + ", ".join(f"{accuracy:.4f}" for accuracy in accuracies[-1])
        )
    matrix = np.eye(p) + 1e-3 * np.cov(np.random.default_rng(0).standard_normal((p, 200)))
    alone = [clocked(lambda: linalg.cho_factor(matrix, lower=True))[1] for _ in range(5)]
    click.echo(f"{'one factorization':16} {spread(alone)} s, p = {p}")
    faster, apart = median(alone) / median(seconds[0]), np.max(np.abs(np.subtract(accuracies[0], accuracies[1])))
    click.echo(
        f"the chosen way takes {faster:.1f} times less than one factorization (target {TARGET_FASTER:g}: "
        f"{'met' if faster >= TARGET_FASTER else 'missed'}), {median(seconds[1]) / median(seconds[0]):.0f} times less "
        f"than solving with it; accuracies differ by {100.0 * apart:.2f} points at most (target {TARGET_POINTS:g}: "
        f"{'met' if 100.0 * apart <= TARGET_POINTS else 'missed'})"
    )


def solve_of(problem: Problem, state: State) -> Callable[[], Proposal]:
    """A round's solve, yet to be made."""
    return lambda: propose(problem, state, 8)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--repeats", type=click.IntRange(1), default=3, help="Of each measurement.")
@click.option("--large", "is_large", is_flag=True, help="Only p = 200,000.")
@click.option("--cholesky", "is_cholesky", is_flag=True, help="Only p = 2,410, beside a Cholesky in p unknowns.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="With --cholesky.")
def main(repeats: int, is_large: bool, is_cholesky: bool, rounds: int) -> None:
    """Seconds and memory of a round's solve, by its size and the way it is solved."""
    if is_large:
        large(repeats)
        return
    if is_cholesky:
        beside_cholesky(rounds)
        return
    constants(repeats)
    choices(repeats)


if __name__ == "__main__":
    main()
