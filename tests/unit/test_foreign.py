"""What another library differentiates, as a model; here the library is a few lines of numpy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer.arrays import Layout, Matrix, Vector
from peer.errors import SolveError
from peer.frameworks import foreign
from peer.frameworks.foreign import Foreign
from peer.optim.factors import Tensor
from peer.optim.maps import matrix_of, products_of
from tests import laws

D, Q = 4, 3
LAYOUT = Layout((("weight", (Q, D)), ("bias", (Q,))))


@dataclass(frozen=True)
class Numpy:
    """F(w; x) = tanh(x W' + b), with something wrong if it is told so."""

    wrong: str = ""
    asked: list[int] = field(default_factory=list)

    def at(self, w: Vector, x: Tensor) -> NumpyLocal:
        self.asked.append(len(x))
        parts = LAYOUT.unflatten(w)
        before = x.reshape(len(x), -1) @ parts["weight"].T + parts["bias"]
        if self.wrong == "mixes":
            before = before + x.mean()
        if self.wrong == "infinite":
            before = before / 0.0 * 0.0
        if self.wrong == "chance":
            before = before + len(self.asked)
        if self.wrong == "fails":
            raise RuntimeError("no\nsuch thing")
        if self.wrong == "leaves":
            sys.exit("no more")
        if self.wrong == "memory":
            raise MemoryError
        return NumpyLocal(self, w, x, np.tanh(before)[:, : 2 if self.wrong == "narrow" else None])

    def refusal(self, w: Vector, x: Tensor) -> str:
        return "expected something else" if self.wrong == "refused" else ""

    def loaded(self, w: Vector) -> Any:
        return w


@dataclass(frozen=True)
class NumpyLocal:
    function: Numpy
    w: Vector
    x: Tensor
    outputs: Matrix

    def jvp(self, v: Vector) -> Matrix:
        return self.jacobian(slice(None)) @ v

    def vjp(self, u: Matrix) -> Vector:
        J = self.jacobian(slice(None))
        result = u.reshape(-1) @ J.reshape(u.size, -1)
        return 2.0 * result if self.function.wrong == "adjoint" else result

    def jacobian(self, rows: slice) -> Tensor:
        self.function.asked.append(len(self.x[rows]))
        slopes, a = (1.0 - self.outputs**2)[rows], self.x.reshape(len(self.x), -1)[rows]
        J = np.zeros((len(a), Q, LAYOUT.size))
        for r in range(Q):
            J[:, r, r * D : (r + 1) * D] = slopes[:, r : r + 1] * a
            J[:, r, Q * D + r] = slopes[:, r]
        return J


def model_of(wrong: str = "") -> tuple[Foreign, Numpy]:
    function, p = Numpy(wrong), LAYOUT.size
    start = np.random.default_rng(1).normal(size=p)
    return Foreign("nets:f", Path("/nowhere"), function, (2, 2), Q, LAYOUT, np.full(p, -1), start), function


def inputs(m: int = 7) -> Matrix:
    return np.random.default_rng(2).normal(size=(m, 2, 2))


@pytest.fixture(params=["kept", "a sample at a time", "three at a time"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How much of J may be in memory."""
    if request.param != "kept":
        monkeypatch.setattr(foreign, "DENSE_BYTES", 0)
        monkeypatch.setattr(foreign, "CHUNK", Q * LAYOUT.size * (1 if request.param == "a sample at a time" else 3))
    return str(request.param)


def test_derivatives_obey_the_laws_however_much_is_in_memory(memory: str) -> None:
    model, function = model_of()
    rng, x, w = np.random.default_rng(3), inputs(), model.start
    v, u = rng.normal(size=w.size), rng.normal(size=(len(x), Q))
    laws.adjoint(model, w, x, v, u)
    laws.jvp_is_derivative(model, w, x, v)
    laws.jacobian_is_jvp(model, w, x)
    laws.samples_do_not_mix(model, w, x)
    roots = rng.normal(size=(len(x), Q, Q))
    for place in (slice(0, w.size), slice(3, 9), slice(14, 15)):
        laws.factors_make_the_jacobian(model, w, x, place, rng.normal(size=place.stop - place.start), u, roots)
    here = model.at(w, x)
    function.asked.clear()
    here.factors().squared().transposed_times(slice(0, w.size), u)
    assert function.asked == {"kept": [7], "a sample at a time": [1] * 7, "three at a time": [3, 3, 1]}[memory]


def test_products_are_those_of_the_matrix(memory: str) -> None:
    model, _ = model_of()
    here = model.at(model.start, inputs())
    J, products = matrix_of(here.factors()), products_of(here)
    rng = np.random.default_rng(4)
    v, u = (rng.standard_normal((n,)) for n in reversed(J.shape))
    laws.close(products @ v, J @ v, laws.ROUNDING)
    laws.close(products.T @ u, J.T @ u, laws.ROUNDING)
    laws.close(products.squared(v), J**2 @ v, laws.ROUNDING)
    laws.close(products.squared_adjoint(u), (J**2).T @ u, laws.ROUNDING)
    assert here.n_products == here.n_parameters == model.layout.size


def test_a_model_knows_what_it_was_given() -> None:
    model, _ = model_of()
    assert model.widths == (4, Q)
    np.testing.assert_array_equal(model.initial(np.random.default_rng(0)), model.start)
    x = inputs()
    assert model.inputs(x) is x
    with pytest.raises(ValueError, match=r"expected x of shape \(m, 2, 2\), found \(m, 4\)"):
        model.inputs(x.reshape(7, 4))


def test_a_function_passes_its_check() -> None:
    model, _ = model_of()
    model.check(inputs())
    model.check(inputs(1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    {
        "mixes": "that depend on that sample alone",
        "infinite": "found nan or infinity",
        "chance": "found other outputs for the same parameters",
        "adjoint": "derivatives forwards and backwards that agree",
        "refused": "expected something else",
    }.items(),
)
def test_what_is_no_function_of_one_sample_is_refused(wrong: str, words: str) -> None:
    model, _ = model_of(wrong)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words):
        model.check(inputs())


def test_other_outputs_than_were_asked_for_are_told() -> None:
    model, _ = model_of("narrow")
    with pytest.raises(SolveError, match=r"nets:f: expected outputs of shape \(3, 3\) for 3 samples, found \(3, 2\)"):
        model.check(inputs())


def test_what_fails_in_the_users_code_says_so_and_what_the_host_refuses_passes() -> None:
    model, _ = model_of("fails")
    with pytest.raises(SolveError, match=r"^nets:f: RuntimeError: no$"):
        model.at(model.start, inputs())
    model, _ = model_of("leaves")
    with pytest.raises(SolveError, match=r"^nets:f: SystemExit: no more$"):
        model.at(model.start, inputs())
    model, _ = model_of("memory")
    with pytest.raises(MemoryError):
        model.at(model.start, inputs())


def test_an_error_is_told_with_the_last_line_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    space: dict[str, Callable[[str], object]] = {}
    exec(compile("def f(text):\n    return int(text)\n", file, "exec"), space)
    with pytest.raises(ValueError, match="invalid literal") as error:
        space["f"]("x")
    told = foreign.told(error.value, tmp_path)
    assert told == "own.py, line 2: ValueError: invalid literal for int() with base 10: 'x'"
    assert foreign.told(error.value, tmp_path / "other") == told.removeprefix("own.py, line 2: ")
    assert foreign.told(KeyError(), tmp_path) == "KeyError"
