"""Lazy training and training: the risk that networks of quadratic neurons reach with N neurons in d dimensions.

For each N/d and regime: the formula for d to infinity; the least risk with the neurons that were drawn, exactly; and
the risk, exactly too, of what was trained on so many samples in one place, without peers, and on the same samples by
peers, real processes on a ring, each with a part of them: both must be the same.

    python -m benchmarks.regimes                                    # d = 100, 100,000 samples: minutes
    python -m benchmarks.regimes --peers 5 --figure risks.svg       # and by 5 peers
    python -m benchmarks.regimes --peers 5 --keep risks.json        # goes on where it was interrupted
    python -m benchmarks.regimes --peers 5 --rho 0.75 --only full   # one cell
    python -m benchmarks.regimes --samples 0                        # theory alone: seconds
    python -m benchmarks.regimes --dataset gaussian-mixture --samples 0 --figure risks.svg

A form x'A x of rank N has N d - N (N-1)/2 free numbers, 5,050 for N >= d = 100. Peers with fewer samples than that know
nothing of some directions that matter: there (5) goes along the tracked gradient by alpha/tau, which tau must keep
short, and directions of small curvature then take thousands of rounds. Peers with several times as many samples have
curvatures that are much alike, tau can be small, and tens of rounds are enough: hence 20,000 a peer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, final

import click
import numpy as np
from scipy import optimize

from peer import files, npz, settings, theory
from peer.arrays import Matrix, Vector
from peer.launcher import Watcher, launch
from peer.settings import Experiment
from peer.theory import REGIMES, Law, Regime, population_risk

RATIOS: Final = (0.25, 0.5, 0.75, 1.2)
"""N/d: lazy training learns ever more up to 1, where the tangent space has every form."""

WEIGHTS: Final = 4
"""Stream of the seed for the neurons; `peer.theory` and `peer.data` have those before it."""

MAX_STEPS: Final = 2_000
"""Of either descent."""

FLAT: Final = 1e-9
"""Relative decrease in a step at which L-BFGS ends: past the saddles where one neuron has not found its place yet."""

PARTS: Final = (0.2, 1.0)
"""Of the samples, one after the other: most of the way takes no more than a fifth of them, and of the time."""

PRECISION: Final = 1e-7
"""Relative size of the gradient at which conjugate gradients end: nobody sees more digits of the risk."""


@final
@dataclass(frozen=True, eq=False)
class Parameters:
    """Of f(x) = c + sum_i a_i <w_i, x>^2.

    Parameters
    ----------
    W : Matrix
        Weights, (N, d).
    a : Vector
        Outputs' weights, (N,).
    c : float
        Constant.
    """

    W: Matrix
    a: Vector
    c: float

    @classmethod
    def drawn(cls, n: int, d: int, seed: int) -> Parameters:
        """A start: w_i ~ N(0, Id/d), a_i = 1/N with signs that take turns, which training cannot change easily."""
        W = np.random.default_rng([seed, WEIGHTS]).standard_normal((n, d)) / np.sqrt(d)
        return cls(W, (-1.0) ** np.arange(n) / n, 0.0)


def risk_of(experiment: Experiment, regime: Regime, start: Parameters, end: Parameters) -> float:
    """Normalized population risk of trained parameters: where whoever trains, with peers or without, is compared.

    In the regime neural-tangent what was trained is the network linearized at the start.
    """
    linearized = (start.W, start.a) if regime == "neural-tangent" else None
    return population_risk(experiment, end.W, end.a, end.c, linearized)


def random_features(start: Parameters, x: Matrix, y: Vector) -> Parameters:
    """Least squares for a and c."""
    features = np.column_stack([(x @ start.W.T) ** 2, np.ones(len(x))])
    *a, c = np.linalg.lstsq(features, y, rcond=None)[0]
    return Parameters(start.W, np.array(a), float(c))


def neural_tangent(start: Parameters, x: Matrix, y: Vector) -> Parameters:
    """Least squares for the forms Q'V + V'Q within reach, and c, by conjugate gradients; then W that makes this form.

    The rows of Q are an orthonormal basis of the span of the w_i: in it these least squares are nearly isotropic,
    while in W they are as badly conditioned as W_0, which has small singular values where N is near d. a stays a_0.
    """
    U, sizes, Q = np.linalg.svd(start.W, full_matrices=False)  # W_0 = U diag(sizes) Q
    within, m = x @ Q.T, len(x)

    def centered(V: Matrix) -> Vector:  # x'(Q'V + V'Q)x, its mean over the samples taken away
        outputs = 2.0 * np.sum(within * (x @ V.T), axis=1)
        return np.asarray(outputs - outputs.mean())

    def adjoint(u: Vector) -> Matrix:
        return np.asarray((2.0 / m) * ((within * (u - u.mean())[:, None]).T @ x))

    V = np.zeros_like(Q)
    left = adjoint(y)
    direction, size = left, float(np.sum(left**2))
    enough = PRECISION**2 * size
    for _ in range(MAX_STEPS):
        if size <= enough:
            break
        image = centered(direction)
        step = size * m / float(image @ image)
        V = V + step * direction
        left = left - step * adjoint(image)
        last, size = size, float(np.sum(left**2))
        direction = left + (size / last) * direction
    c = float(np.mean(y - 2.0 * np.sum(within * (x @ V.T), axis=1)))
    moved = (U / sizes) @ V - 0.5 * start.a[:, None] * start.W  # W_0'(U/sizes)V = Q'V, and W_0'a_0 W_0 is there already
    return Parameters(start.W + moved / start.a[:, None], start.a, c)


def signs(start: Parameters, x: Matrix, y: Vector) -> Vector:
    """By which each neuron helps at the start, (N,): 1 or -1."""
    squares = (x @ start.W.T) ** 2
    return np.where((squares - np.mean(squares, axis=0)).T @ y < 0.0, -1.0, 1.0)


def full(start: Parameters, x: Matrix, y: Vector) -> Parameters:
    """Least squares for W and c by L-BFGS, with signs a_i = 1 or -1 by which the neurons help at the start.

    The sizes of the a_i could go into w_i, so that fixed ones take nothing away. Their signs are not trained: a
    neuron whose sign turns wrong along the way can come to rest within the span of the others.
    """
    n, d = start.W.shape
    a = signs(start, x, y)

    def value(w: Vector, x: Matrix, y: Vector) -> tuple[float, Vector]:
        W = w[:-1].reshape(n, d)
        hidden = x @ W.T
        errors = hidden**2 @ a + w[-1] - y
        slope = errors / len(y)
        dW = 2.0 * a[:, None] * ((hidden * slope[:, None]).T @ x)
        return 0.5 * float(errors @ slope), np.append(dW.reshape(-1), slope.sum())

    w = np.append(start.W.reshape(-1) * np.sqrt(np.abs(np.repeat(start.a, d))), start.c)
    options: Any = {"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "ftol": FLAT, "gtol": 0.0}
    for part in PARTS:
        seen = round(part * len(y))
        w = optimize.minimize(value, w, (x[:seen], y[:seen]), jac=True, method="L-BFGS-B", options=options).x
    return Parameters(w[:-1].reshape(n, d), a, float(w[-1]))


CENTRAL: Final[dict[Regime, Callable[[Parameters, Matrix, Vector], Parameters]]] = {
    "random-features": random_features,
    "neural-tangent": neural_tangent,
    "full": full,
}
"""How each regime is trained in one place."""


@final
@dataclass(frozen=True)
class Stage:
    """So many rounds with a tau and a step, which begin where the stage before has led."""

    n_rounds: int
    tau: float
    alpha: float


STAGES: Final[dict[Regime, tuple[Stage, ...]]] = {
    "random-features": (Stage(30, 0.05, 0.7),),
    "neural-tangent": (Stage(25, 0.05, 0.7),),
    "full": (Stage(30, 1.0, 0.5), Stage(90, 0.1, 0.5)),
}
"""For the network itself first steps must be short, as it is linearized far from where they lead: with tau = 0.1 from
the start they diverge. Near the end they may be long. At d = 40 less than half as many rounds are enough, with tau = 1,
0.3, 0.05; at d = 100 peers drifted apart once tau was 0.1 after 20 rounds. With these they come to what one place makes
of the samples, to 1e-4 of Var y, at N/d = 0.25, 0.5, 0.75 and 1.2."""

SETTINGS: Final[dict[Regime, Mapping[str, Any]]] = {
    "random-features": {"kind": "random-features"},
    "neural-tangent": {"kind": "neural-tangent"},
    "full": {"trainable": ["layers.0", "layers.1.bias"]},
}
"""Of the three: for the network itself signs are fixed as in `full`."""

INEXACT: Final[dict[Regime, float]] = {"random-features": 0.3, "neural-tangent": 0.7, "full": 0.3}
"""Of surrogates, which begin from the round before: no more than a round can use. With 0.3 a round of neural-tangent
takes half as many products again, and as many rounds are needed (N/d = 1.2, d = 50)."""

LINKS: Final = {"graph": "ring", "consensus": "chebyshev", "consensus_steps": 3}
"""A round ends in agreement to a few percent, so that it is the agents' unlikeness that counts."""

RIDGE: Final = 1e-6
"""Strength of the penalty: each regime has one solution, and its risk is that without a penalty to a few digits."""


def decentralized(regime: Regime, start: Parameters, x: Matrix, y: Vector, n_peers: int) -> Parameters:
    """Trained by peers on a ring, each with its part of the samples; the mean of all."""
    a = signs(start, x, y) if regime == "full" else np.sign(start.a)
    scale = np.sqrt(np.abs(start.a))[:, None] if regime == "full" else 1.0
    names = ("layers.0.weight", "layers.1.weight", "layers.1.bias")
    parts = dict(zip(names, (start.W * scale, a[None, :], np.array([start.c])), strict=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        npz.save(folder / "initial.npz", parts)
        for peer, rows in enumerate(np.array_split(np.arange(len(x)), n_peers)):
            npz.save(folder / f"shard-{peer}.npz", {"x": x[rows], "y": y[rows, None]})
        tree: dict[str, Any] = {
            "peers": n_peers,
            "data": {"path": str(folder / "shard-{id}.npz")},
            "regime": dict(SETTINGS[regime]),
            "objective": {"strength": RIDGE},
            "topology": dict(LINKS),
            "run": {"checkpoint_every": 0},
            "transport": {"security": "none"},
        }
        ends: list[Mapping[str, Any]] = []
        for k, stage in enumerate(STAGES[regime]):
            given = "initial-{id}.npz" if ends else "initial.npz"
            for peer, end in enumerate(ends):
                npz.save(folder / f"initial-{peer}.npz", dict(end))
            tree["iterations"], tree["step"] = stage.n_rounds, {"alpha": stage.alpha}
            tree["surrogate"] = {"curvature": "network", "tau": stage.tau, "inexactness": INEXACT[regime]}
            layers = [{"kind": "quadratic", "width": len(a)}, {"kind": "dense"}]
            tree["model"] = {"layers": layers, "initial": str(folder / given)}
            run_dir = folder / f"run-{k}"
            outcome = launch(settings.from_tree(tree), run_dir, lambda *_: Watcher())
            if outcome.code:
                raise click.ClickException(outcome.line)
            ends = [npz.load(files.folder_of(run_dir, peer) / "final.npz") for peer in range(n_peers)]
    W, outputs, c = (np.mean([end[part] for end in ends], axis=0) for part in names)
    if regime == "neural-tangent":  # `risk_of` is told where it was linearized in units in which a_i = 1/N or -1/N
        return Parameters(start.W + (W - start.W) * (a / start.a)[:, None], outputs[0], float(c[0]))
    return Parameters(W, outputs[0], float(c[0]))


def curves(law: Law) -> dict[str, tuple[Vector, Vector]]:
    """The limits, as lines."""
    at = np.linspace(0.0, 1.5, 301)
    return {regime: (at, np.array([law.limit(regime, float(rho)) for rho in at])) for regime in REGIMES}


@click.command(help=__doc__)
@click.option("--dataset", type=click.Choice(settings.DRAWN), default="quadratic", show_default=True)
@click.option("--dimension", default=100, show_default=True, help="d.")
@click.option(
    "--separation", default=0.2, show_default=True, help="Of gaussian-mixture: ||Delta||; small for formulas."
)
@click.option("--samples", default=100_000, show_default=True, help="To train on; 0: do not train.")
@click.option("--seed", default=0, show_default=True, help="Root of all randomness.")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Picture: .svg, .png or .pdf.")
@click.option("--peers", default=0, show_default=True, help="That train on the samples, too; 0: none.")
@click.option("--rho", type=float, multiple=True, default=RATIOS, show_default=True, help="N/d.")
@click.option("--only", type=click.Choice(REGIMES), multiple=True, default=REGIMES, help="Regimes.")
@click.option(
    "--keep", type=click.Path(dir_okay=False, path_type=Path), help="File of the risks that were found so far."
)
def main(
    dataset: str,
    dimension: int,
    separation: float,
    samples: int,
    seed: int,
    figure: Path | None,
    peers: int,
    rho: tuple[float, ...],
    only: tuple[Regime, ...],
    keep: Path | None,
) -> None:
    """Print the table, and draw the figure."""
    data = {"dataset": dataset, "dimension": dimension, "separation": separation, "test_fraction": 0.0}
    experiment = settings.from_tree({"seed": seed, "data": data | ({"samples": samples} if samples else {})})
    law = theory.law_of(experiment)
    x, y = law.drawn(np.random.default_rng([seed, theory.SAMPLES]), samples)
    kept = Kept(keep, f"{dataset} {dimension} {separation} {samples} {seed}")
    found: dict[str, list[tuple[float, float, float]]] = {regime: [] for regime in only}
    column, rule = (f" decentralized on {peers} peers |", "---:|") if peers else ("", "")
    click.echo(f"| N/d | regime | d to infinity | the neurons that were drawn | trained on {samples} samples |{column}")
    click.echo(f"|---:|---|---:|---:|---:|{rule}")
    for ratio, regime in product(rho, only):
        start = Parameters.drawn(round(ratio * dimension), dimension, seed)
        limit, best, trained = law.limit(regime, ratio), law.best(regime, start.W), float("nan")
        ways: dict[str, Callable[[Regime, Parameters], Parameters]] = {}
        if samples:
            ways["one place"] = lambda regime, start: CENTRAL[regime](start, x, y)
        if samples and peers:
            ways[f"{peers} peers {STAGES[regime]}"] = lambda regime, start: decentralized(regime, start, x, y, peers)
        shown = ""
        for name, way in ways.items():
            key = f"{ratio:g} {regime} {name}"
            trained = kept.risk(key, partial(trained_risk, experiment, regime, start, way))
            shown += f" {trained:.4f} |"
        found[regime].append((ratio, best, trained))
        click.echo(f"| {ratio:g} | {regime} | {limit:.4f} | {best:.4f} |{shown or ' - |'}")
    if figure is not None:
        draw(law, found, figure, with_runs=samples > 0)


def trained_risk(
    experiment: Experiment, regime: Regime, start: Parameters, way: Callable[[Regime, Parameters], Parameters]
) -> float:
    """Train in a way, and say how well that went."""
    return risk_of(experiment, regime, start, way(regime, start))


@final
@dataclass(frozen=True)
class Kept:
    """Risks that were found so far, in a JSON file, if there is one; of this data set."""

    path: Path | None
    data: str

    def risk(self, key: str, find: Callable[[], float]) -> float:
        """The risk of this name, from the file, or found and put there."""
        name = f"{self.data} {key}"
        known: dict[str, float] = {}
        if self.path is not None and self.path.exists():
            known = json.loads(self.path.read_text())
        if name not in known:
            known[name] = find()
            if self.path is not None:
                self.path.write_text(json.dumps(known, indent=1))
        return known[name]


def draw(law: Law, found: dict[str, list[tuple[float, float, float]]], path: Path, with_runs: bool) -> None:
    """Draw N/d, best and trained risk of each regime beside the limits."""
    from peer.figures import Risks

    table = {regime: np.array(rows).T for regime, rows in found.items()}
    drawn = {regime: (rho, best) for regime, (rho, best, _) in table.items()}
    runs = {regime: (rho, trained) for regime, (rho, _, trained) in table.items()} if with_runs else {}
    try:
        Risks("risk, relative to Var y", curves(law), drawn, runs).write(path)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)


if __name__ == "__main__":
    main()
