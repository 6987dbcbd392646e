"""Models are free of coordinates: what a decentralized run comes to does not depend on the basis of the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pytest
from numpy.typing import NDArray

from peer.arrays import Layout, Matrix, Vector
from peer.networks import network_of
from peer.optim.factors import Columns, Factors
from peer.optim.losses import Softmax
from peer.optim.maps import conjugate_gradients, matrix_of, products_of
from peer.optim.models import Model, Pass
from peer.optim.regularizers import L2, NoRegularizer
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Linearized, Partial
from peer.problem import Problem
from tests.instances import exchange
from topology.graphs import Graph

PEERS, ROUNDS = 4, 12

IMAGE = (1, 4, 4)
LAYERS: list[Any] = [
    {"kind": "convolution", "channels": 3, "size": 2},
    "tanh",
    {"kind": "average-pooling", "size": 2},
    "flatten",
    {"kind": "residual", "layers": [{"kind": "dense"}, "gelu"]},
    {"kind": "dense"},
]
"""No layer normalization of so few entries: it divides by their deviation, and takes digits where that is small."""


@final
@dataclass(frozen=True, eq=False)
class Turned:
    """The model in other coordinates v of its parameters, w = Q v, with an orthogonal Q."""

    model: Model
    Q: Matrix

    @property
    def layout(self) -> Layout:
        return Layout((("v", (len(self.Q),)),))

    @property
    def widths(self) -> tuple[int, ...]:
        return self.model.widths

    @property
    def n_outputs(self) -> int:
        return self.model.n_outputs

    @property
    def neurons(self) -> NDArray[np.intp]:
        return np.full(len(self.Q), -1)

    def initial(self, rng: np.random.Generator) -> Vector:
        return self.Q.T @ self.model.initial(rng)

    def inputs(self, x: NDArray[np.float64]) -> Matrix:
        return self.model.inputs(x)

    def at(self, w: Vector, x: Matrix) -> TurnedPass:
        return TurnedPass(w, self.Q, self.model.at(self.Q @ w, x))


@final
@dataclass(frozen=True, eq=False)
class TurnedPass:
    """`Turned` at a point."""

    w: Vector
    Q: Matrix
    there: Pass

    @property
    def outputs(self) -> Matrix:
        return self.there.outputs

    @property
    def n_parameters(self) -> int:
        return self.there.n_parameters

    @property
    def n_products(self) -> int:
        return self.there.n_products

    @property
    def structured(self) -> bool:
        return False

    def jvp(self, v: Vector) -> Matrix:
        return self.there.jvp(self.Q @ v)

    def vjp(self, u: Matrix) -> Vector:
        return np.asarray(self.Q.T @ self.there.vjp(u))

    def factors(self) -> Factors:
        columns = self.there.factors().columns(slice(0, len(self.Q)))
        return Factors(self.outputs, (Columns(0, columns @ self.Q),))


def problems_of(rng: np.random.Generator, surrogate: Partial | Full, strength: float) -> list[Problem]:
    model = network_of((), "tanh", LAYERS, IMAGE, 16, 3)
    shards = [(rng.standard_normal((m, 16)), rng.integers(0, 3, m)) for m in (7, 5, 6, 9)]
    p = model.layout.size
    r = L2(np.full(p, strength)) if strength else NoRegularizer()
    return [Problem(Data(model, x, Softmax(y), 1.0 / 27), r, surrogate, 1e-13) for x, y in shards]


@pytest.mark.parametrize("strength", [0.0, 0.01], ids=["none", "l2"])
@pytest.mark.parametrize("surrogate", [Partial(0.5), Partial(2.0, 4.0), Full(3.0)], ids=["local", "network", "full"])
def test_a_run_in_turned_coordinates_is_the_run_turned(surrogate: Partial | Full, strength: float) -> None:
    rng = np.random.default_rng(11)
    plain = problems_of(rng, surrogate, strength)
    model = plain[0].data.model
    w0 = model.initial(rng)
    Q, _ = np.linalg.qr(rng.standard_normal((w0.size, w0.size)))
    turned = [replace(p, data=replace(p.data, model=Turned(model, Q))) for p in plain]
    ring = [Graph.of(PEERS, [(i, (i + 1) % PEERS) for i in range(PEERS)])]

    def run(problems: list[Problem], start: Vector) -> Any:
        return exchange(problems, [start] * PEERS, 0.5, Constant(), ring, ROUNDS)

    for n, ((states, _), (others, _)) in enumerate(zip(run(plain, w0), run(turned, Q.T @ w0), strict=True)):
        for state, other in zip(states, others, strict=True):
            np.testing.assert_allclose(Q @ other.w, state.w, rtol=0.0, atol=1e-12, err_msg=f"w, round {n}")
            np.testing.assert_allclose(Q @ other.y, state.y, rtol=0.0, atol=1e-12, err_msg=f"y, round {n}")
    assert np.ptp(states[0].w - w0) > 0.1, "a run that goes nowhere shows nothing"


def test_products_alone_solve_what_the_matrix_solves() -> None:
    """Conjugate gradients meet m q + 1 eigenvalues at most, and the dense solution to rounding."""
    rng = np.random.default_rng(12)
    layers = [
        {"kind": "convolution", "channels": 6, "size": 3, "padding": 1},
        "tanh",
        {"kind": "convolution", "channels": 9, "size": 3},
        "tanh",
        "flatten",
        {"kind": "dense"},
    ]
    model = network_of((), "tanh", layers, (1, 5, 5), 25, 5)
    x, w = rng.standard_normal((10, 25)), model.initial(rng)
    here = model.at(w, x)
    J, A, b = matrix_of(here.factors()), products_of(here), rng.standard_normal(w.size)
    n_products = 0

    def product(v: Vector) -> Vector:
        nonlocal n_products
        n_products += 1
        return np.asarray(A.T @ (A @ v) + v)

    found, is_solved = conjugate_gradients(product, lambda r: r, b, 1e-13)
    expected = np.linalg.solve(J.T @ J + np.eye(w.size), b)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-12 * np.max(np.abs(b)))
    assert is_solved
    assert n_products <= 10 * 5 + 1


def test_a_run_by_products_is_the_run_by_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cost model says is the cheaper way."""
    ends = []
    for is_dense in (True, False):
        monkeypatch.setattr("peer.optim.maps.is_dense_cheaper", lambda here, quadratic, dense=is_dense: dense)
        rng = np.random.default_rng(13)
        problems = problems_of(rng, Partial(1.0, 4.0), 0.01)
        w0 = problems[0].data.model.initial(rng)
        h = problems[0].surrogate.around(w0, problems[0].gradient(w0), 0.0 * w0, problems[0].data)
        assert isinstance(h, Linearized)
        assert isinstance(h.jacobian, np.ndarray) or (h.jacobian.gram is not None) == is_dense
        ring = [Graph.of(PEERS, [(i, (i + 1) % PEERS) for i in range(PEERS)])]
        *_, (states, _) = exchange(problems, [w0] * PEERS, 0.5, Constant(), ring, ROUNDS)
        ends.append(np.stack([state.w for state in states]))
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.0, atol=1e-10)
    assert np.ptp(ends[0][0] - w0) > 0.1
