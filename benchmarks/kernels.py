"""Rows of one processor and no network: what is done to arrays, beside memcpy, BLAS, LAPACK and bare writing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import daxpy, dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs

from benchmarks import solvers
from benchmarks.rows import Row, Setting, Turn, in_turns
from peer import checkpoint, wire
from peer.agent import Mixture, State, exchange
from peer.arrays import DTYPES, Matrix, Vector
from peer.checkpoint import Checkpoint
from peer.journal import Journal
from peer.messages import Share
from peer.optim.chains import Chain, mlp
from peer.optim.maps import factored, matrix_of, products_of
from peer.optim.solvers import solve
from peer.optim.surrogates import Linearized
from peer.optim.vectors import is_finite
from peer.problem import Problem

T = TypeVar("T", bound=np.generic)

SIZES: Final = (1_000, 100_000, 1_000_000)
"""Parameters p: in the first cache, in the last one, in none."""

NEIGHBORS: Final = (2, 8, 32)
"""Of an agent: in a ring, in an exponential graph of 256, and more than one needs."""

MIXED: Final = 100_000
"""Parameters of what is mixed."""

NETWORKS: Final = {"small": ((64, 32, 10), 180), "large": ((784, 256, 10), 250)}
"""Widths of a multilayer perceptron, and samples: digits of an agent of ten, and an image of 28 x 28."""

PAGE_BYTES: Final = 4096
"""Of memory."""

TURNS: Final = (31, 11)
"""Of two slices; an odd number, so that the median was measured."""


def size_of(p: int) -> str:
    """The number of parameters, in a name."""
    return f"1e{round(math.log10(p))}"


def placed(array: NDArray[T]) -> NDArray[T]:
    """A copy that begins a page of memory.

    Where an array begins is luck otherwise, the same for all turns, and decides a fifth of the time of a dot product.
    """
    room = np.empty(array.nbytes + PAGE_BYTES, np.uint8)
    start = -room.ctypes.data % PAGE_BYTES
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# ---- messages and vectors, beside memcpy -------------------------------------------------


def _share(p: int, setting: Setting) -> tuple[Share, wire.Format]:
    y, z = map(placed, setting.rng.standard_normal((2, p)))
    return Share(3, 10, 9, 0.5, y, z), wire.Format("benchmark", 8, p, "f8")


def _copy(n_bytes: int) -> Callable[[], object]:
    """Memcpy of so many bytes, from one place to another, over and over."""
    source, target = placed(np.ones(n_bytes, np.uint8)), placed(np.zeros(n_bytes, np.uint8))
    return lambda: np.copyto(target, source)


def _encode(p: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        share, form = _share(p, setting)
        return in_turns(lambda: wire.encode(share, form), _copy(16 * p))

    return ready


def _decode(p: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        share, form = _share(p, setting)
        frames = wire.encode(share, form)
        return in_turns(lambda: wire.decode(frames, form), _copy(16 * p))

    return ready


def _finite(p: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        vector = placed(setting.rng.standard_normal(p))
        return in_turns(lambda: is_finite(vector), _copy(8 * p))

    return ready


def _wire_rows() -> list[Row]:
    kinds = (
        ("encode", "wire.encode of a share, y and z", 16, _encode),
        ("decode", "wire.decode of a share, every field checked", 16, _decode),
        ("finite", "vectors.is_finite of a vector", 8, _finite),
    )
    return [
        Row(
            name=f"{name}-{size_of(p)}",
            group="wire",
            ours=ours,
            reference="memcpy of as many bytes",
            work=f"p = {p:,}, {n_bytes * p / 1e3:,.0f} kB",
            clocks=("processor",),
            turns=TURNS,
            ready=ready(p),
        )
        for name, ours, n_bytes, ready in kinds
        for p in SIZES
    ]


# ---- mixing, beside axpy -----------------------------------------------------------------


def _mixing(n_neighbors: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        rng, weight = setting.rng, 1.0 / (n_neighbors + 1)
        own, *theirs = placed(rng.standard_normal((n_neighbors + 1, 2, MIXED)))
        shares = {j: Share(j, 0, 0, 0.5, y, z) for j, (y, z) in enumerate(theirs, start=1)}
        weights = dict.fromkeys(range(n_neighbors + 1), weight)
        y, z = own
        state = State(0, z, y, y, 0.5, 0.5, 0.1)
        mixture = Mixture(z, y, 0.5, 0.0, 0.0, 0.0, np.zeros((0, 0)))
        everybody = [own, *theirs]

        def bare() -> None:
            for part in (0, 1):
                total = np.zeros(MIXED)
                for vectors in everybody:
                    daxpy(vectors[part], total, a=weight)  # in place

        return in_turns(lambda: exchange(state, mixture, shares, weights, DTYPES["f8"]), bare)

    return ready


def _mixing_rows() -> list[Row]:
    return [
        Row(
            name=f"mix-{n}",
            group="mixing",
            ours="agent.exchange: the sums of (7) and (8), and whether they are finite",
            reference="BLAS daxpy for each vector of these sums",
            work=f"{n} neighbors, p = {MIXED:,}",
            clocks=("processor",),
            turns=TURNS,
            ready=_mixing(n),
        )
        for n in NEIGHBORS
    ]


# ---- solves, beside LAPACK ---------------------------------------------------------------


def subproblem_of(widths: tuple[int, ...], m: int, products: bool) -> tuple[Linearized, Problem]:
    """(11) of an agent with m digits and a squared loss, so that it takes one system."""
    problem = solvers.problem_of(widths, "squared", m, 1.0)
    state = solvers.state_of(problem)
    here = problem.data.model.at(state.w, problem.data.inputs)
    jacobian = products_of(here) if products else factored(here)
    return solvers.subproblem(problem, state, here.outputs, jacobian), problem


def system_of(h: Linearized, problem: Problem) -> tuple[Matrix, Matrix]:
    """R and T, so that the system of (11) in the fewer unknowns, p or m q, has the matrix R R' + T; columns first."""
    J = matrix_of(problem.data.model.at(h.center, problem.data.inputs).factors())
    scale = problem.regularizer.whitening(h.center, h.tau).scale
    is_wide = J.shape[0] < J.shape[1]
    R = math.sqrt(h.weight) * (J * scale if is_wide else J.T)
    return np.asfortranarray(R), np.asfortranarray(np.diag(np.ones(len(R)) if is_wide else scale**-2.0))


def _solve(widths: tuple[int, ...], m: int, products: bool, from_root: bool) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        h, problem = subproblem_of(widths, m, products)
        R, T = system_of(h, problem)
        formed = None if from_root else dsyrk(1.0, R, beta=1.0, c=T, lower=1)
        b = setting.rng.standard_normal(len(T))

        def bare() -> None:
            matrix = dsyrk(1.0, R, beta=1.0, c=T, lower=1) if formed is None else formed
            factor, _ = dpotrf(matrix, lower=1, clean=0)
            dpotrs(factor, b, lower=1)

        return in_turns(lambda: solve(h, problem.regularizer, solvers.TOLERANCE), bare)

    return ready


# ---- products with a Jacobian, beside their GEMMs ----------------------------------------


def _gemms(chain: Chain, w: Vector, x: Matrix, v: Vector, u: Matrix) -> tuple[Callable[[], None], Callable[[], None]]:
    """The products of matrices in J v and in J'u of a perceptron of one hidden layer, into arrays that are there."""
    (W1, W2), (V1, V2) = (
        [part for part in chain.layout.unflatten(vector).values() if part.ndim == 2] for vector in (w, v)
    )
    hidden = chain.at(w, x).passed[1].outputs
    inner, outer, outer_too = np.empty_like(hidden), np.empty_like(u), np.empty_like(u)
    dW1, dW2 = np.empty_like(W1), np.empty_like(W2)

    def forwards() -> None:
        np.matmul(x, V1.T, out=inner)
        np.matmul(inner, W2.T, out=outer)
        np.matmul(hidden, V2.T, out=outer_too)

    def backwards() -> None:
        np.matmul(u.T, hidden, out=dW2)
        np.matmul(u, W2, out=inner)
        np.matmul(inner.T, x, out=dW1)

    return forwards, backwards


def _product(size: str, adjoint: bool) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        (widths, m), rng = NETWORKS[size], setting.rng
        chain = mlp(widths, "tanh")
        w, x = chain.initial(rng), rng.standard_normal((m, widths[0]))
        v, u = rng.standard_normal(chain.layout.size), rng.standard_normal((m, widths[-1]))
        here = chain.at(w, x)
        forwards, backwards = _gemms(chain, w, x, v, u)
        return in_turns(lambda: here.vjp(u), backwards) if adjoint else in_turns(lambda: here.jvp(v), forwards)

    return ready


def _solver_rows() -> list[Row]:
    step = "solvers.solve of (11), with gradients and residual"
    alone = "LAPACK dpotrf and dpotrs of the same system, which is there"
    formed = "BLAS dsyrk, then LAPACK dpotrf and dpotrs: the same system from the scaled J"
    primal, dual, cg = ((64, 10, 10), 180), ((64, 50, 10), 60), ((64, 100, 10), 120)
    cases = (
        ("primal", primal, False, False, f"{step}, in p unknowns", alone, "p = 760, m q = 1,800"),
        ("primal-formed", primal, False, True, f"{step}, in p unknowns", formed, "p = 760, m q = 1,800"),
        ("dual", dual, False, False, f"{step}, in m q unknowns", alone, "p = 3,760, m q = 600"),
        ("dual-formed", dual, False, True, f"{step}, in m q unknowns", formed, "p = 3,760, m q = 600"),
        (
            "cg",
            cg,
            True,
            False,
            f"{step}, by conjugate gradients",
            f"{alone} in m q unknowns",
            "p = 7,510, m q = 1,200",
        ),
    )
    return [
        Row(
            name=name,
            group="solvers",
            ours=ours,
            reference=reference,
            work=f"{size}, digits, squared loss",
            clocks=("processor",),
            turns=TURNS,
            ready=_solve(widths, m, products, from_root),
        )
        for name, (widths, m), products, from_root, ours, reference, size in cases
    ]


def _product_rows() -> list[Row]:
    return [
        Row(
            name=f"{name}-{size}",
            group="jacobian",
            ours=f"{name} of a multilayer perceptron: {what}",
            reference="its three products of matrices, BLAS dgemm",
            work=f"{'-'.join(map(str, widths))}, {m} samples",
            clocks=("processor",),
            turns=TURNS,
            ready=_product(size, name == "vjp"),
        )
        for size, (widths, m) in NETWORKS.items()
        for name, what in (("jvp", "J v"), ("vjp", "J'u"))
    ]


# ---- what is written, beside bare writing --------------------------------------------------


LINE: Final[Mapping[str, object]] = {
    "iteration": 1234,
    "time_s": 12.345678901234567,
    "objective_local": 0.12345678901234567,
    "objective_estimate": 0.12345678901234567,
    "residual": 1.2345678901234567e-05,
    "disagreement": 1.2345678901234567e-07,
    "alpha": 0.1,
    "tau": 1.0,
    "solver": "newton-woodbury",
    "solver_residual": 1.2345678901234567e-09,
    "solver_iterations": 5,
    "solve_s": 0.012345678901234567,
    "wait_s": 0.0012345678901234567,
    "bytes_sent": 1_234_567,
    "bytes_received": 1_234_567,
    "neighbors": [1, 7],
    "dropped": {},
}
"""Like those of a peer with rounds."""


def _line(setting: Setting) -> Turn:
    journal = Journal(setting.folder / "journal", behind=None)
    setting.closing.callback(journal.close)
    written = setting.closing.enter_context((setting.folder / "journal" / "bare").open("wb", buffering=0))
    line = (json.dumps(LINE) + "\n").encode()
    return in_turns(lambda: journal.round(**LINE), lambda: written.write(line))


def _checkpoint(p: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        w, y, gradient, z = setting.rng.standard_normal((4, p))
        vectors, scalars = {"w": w, "y": y, "gradient": gradient}, {"alpha": 0.1, "value": 0.5}
        kept = (Share(0, 9, 9, 0.5, y, z),)
        snapshot = Checkpoint("benchmark", "digest", 10, {0: 100, 1: 100}, 10, vectors, scalars, kept)
        path, beside = setting.folder / f"checkpoint-{p}.npz", setting.folder / f"checkpoint-{p}.bare"
        checkpoint.save(path, snapshot)
        content = path.read_bytes()
        return in_turns(lambda: checkpoint.save(path, snapshot), lambda: _write(beside, content))

    return ready


def _write(path: Path, content: bytes) -> None:
    """Bytes into a new file, and to the disk."""
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())


def _writing_rows() -> list[Row]:
    line = Row(
        name="journal",
        group="files",
        ours="Journal.round: a line of metrics, encoded, written, flushed",
        reference="write of the same bytes",
        work=f"{len(json.dumps(LINE)) + 1} bytes",
        clocks=("processor",),
        turns=TURNS,
        ready=_line,
    )
    saves = [
        Row(
            name=f"checkpoint-{size_of(p)}",
            group="files",
            ours="checkpoint.save: w, y, gradient and a share, written beside, synced, put in place, synced",
            reference="write of the same bytes into a new file, and fsync",
            work=f"p = {p:,}, {40 * p / 1e3:,.0f} kB",
            clocks=("wall",),
            turns=TURNS,
            ready=_checkpoint(p),
        )
        for p in SIZES
    ]
    return [line, *saves]


def rows() -> list[Row]:
    """All of them."""
    return [*_wire_rows(), *_mixing_rows(), *_solver_rows(), *_product_rows(), *_writing_rows()]
