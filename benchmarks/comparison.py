"""As papers compare: partial and full linearization, gradient tracking and gradient descent, on four data sets.

Each data set is cut for 8 agents that meet on a ring. The partial surrogate is solved in C = 1, 4 and 16 blocks; that
of the full one, and the steps of the others, have no blocks. Shown is how far U at the agents' mean is above the
central optimum, or the stationary point that central training ends at, relative to the distance of the start; and the
seconds of a processor that one agent needs. Every method has the best of its grid: the least U after the last round.

    python -m benchmarks.comparison
    python -m benchmarks.comparison --figure comparison.svg
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import click
import msgspec
import numpy as np

from benchmarks.methods import PEERS, play
from peer import central, learning, settings
from peer.arrays import Vector
from peer.data import Cut
from peer.errors import SolveError
from peer.figures import LINES, Numbers, write
from peer.problem import Problem
from peer.settings import Experiment
from peer.shards import Shard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tree = Mapping[str, Any]

DATA: Final[Mapping[str, Tree]] = {
    name: {
        "data": {"dataset": name},
        "model": {"hidden": [10]},
        "objective": {"loss": loss, "strength": 1e-2},
    }
    for name, loss in (
        ("diabetes", "squared"),
        ("breast-cancer", "cross_entropy"),
        ("wine", "cross_entropy"),
        ("digits", "cross_entropy"),
    )
}

SHOWN: Final = (3, 10, 30, 100)
"""Rounds after which the table looks."""


def partial(blocks: int) -> list[Tree]:
    """The grid of (11) in so many blocks."""
    return [
        {"surrogate": {"tau": tau, "blocks": blocks, "inexactness": 0.1, "tolerance": 1e-8}, "step": {"alpha": alpha}}
        for tau, alpha in product((0.03, 0.1, 0.3, 1.0), (0.3, 0.7, 1.0))
    ]


METHODS: Final[Mapping[str, Sequence[Tree]]] = {
    **{f"partial, C = {blocks}": partial(blocks) for blocks in (1, 4, 16)},
    "full": [
        {"surrogate": {"kind": "full", "tau": tau}, "step": {"alpha": alpha}}
        for tau, alpha in product((0.1, 0.3, 1.0, 3.0), (0.3, 0.7, 1.0))
    ],
    "gradient tracking": [
        {"method": {"kind": "gradient-tracking", "step_size": step}} for step in (0.3, 1.0, 3.0, 10.0)
    ],
    "gradient descent": [{"method": {"kind": "gradient-descent", "step_size": step}} for step in (0.3, 1.0, 3.0, 10.0)],
}


def cut(name: str, seed: int) -> tuple[Shard, ...]:
    """Shards of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        Cut.of(experiment_of(name, {}, seed, 1)).write(Path(folder))
        data = msgspec.structs.replace(experiment_of(name, {}, seed, 1), data=settings.Data(path="-"))
        return tuple(learning.shard_of(data, i, Path(folder) / f"peer-{i:03d}.npz") for i in range(PEERS))


def experiment_of(name: str, tree: Tree, seed: int, rounds: int) -> Experiment:
    """A data set with the settings of a method."""
    given = {"seed": seed, "peers": PEERS, "iterations": rounds, "topology": {"graph": "ring"}}
    return settings.from_tree({**given, **DATA[name], **tree})


def whole(name: str, shards: Sequence[Shard], seed: int) -> tuple[list[Problem], Vector, Vector]:
    """All g_i, where the agents start, (p,), and where central training ends from there, (p,)."""
    experiment, total = experiment_of(name, {}, seed, 1), sum(shard.n_samples for shard in shards)
    initial = learning.initial_of(experiment, 0)
    model = learning.model_of(experiment, shards[0], max(shard.n_classes for shard in shards), initial)
    problems = [learning.problem_of(experiment, model, shard, total) for shard in shards]
    start = initial.vector(model, seed, problems[0].regularizer)
    end, *_ = central.minimize(
        lambda w: sum(g.value(w) for g in problems),
        lambda w: np.sum([g.gradient(w) for g in problems], axis=0),
        problems[0].regularizer,
        start,
    )
    return problems, start, end


def objective(problems: Sequence[Problem], w: Vector) -> float:
    """U(w)."""
    return sum(g.value(w) for g in problems) + problems[0].regularizer.value(w)


def curve(
    name: str, tree: Tree, shards: Sequence[Shard], problems: Sequence[Problem], seed: int, rounds: int
) -> tuple[list[float], float]:
    """U at the mean after each round, infinite from where numbers break down; and seconds of an agent."""
    found, seconds = list[float](), 0.0
    try:
        for now in play(experiment_of(name, tree, seed, rounds), shards):
            found.append(objective(problems, np.mean([state.w for state in now.states], axis=0)))
            seconds = now.seconds
    except SolveError:
        pass
    return found + [math.inf] * (rounds - len(found)), seconds


@final
@dataclass(frozen=True)
class Curves:
    """A panel a data set: how far U is above the optimum after each round, by data set and method."""

    gaps: Mapping[str, Mapping[str, Sequence[float]]]

    def figure(self) -> Figure:
        """The figure; distances on logarithmic axes."""
        from matplotlib.figure import Figure

        rows = math.ceil(len(self.gaps) / 2)
        figure = Figure(figsize=(6.8, 0.5 + 2.4 * rows))
        panels = figure.subplots(rows, 2, squeeze=False).flat
        for axes, (name, methods) in zip(panels, self.gaps.items(), strict=False):
            for (method, gaps), (color, dashes) in zip(methods.items(), LINES, strict=False):
                axes.semilogy(range(1, len(gaps) + 1), gaps, color=color, linestyle=dashes, label=method)
            axes.set(title=name, xlabel="round", ylabel="(U - U*) / (U[0] - U*)")
        for axes in panels:
            axes.set_axis_off()
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS) // 2)
        return figure

    def numbers(self) -> Numbers:
        """One line a data set, method and round."""
        rows = (
            (name, method, n, gap)
            for name, methods in self.gaps.items()
            for method, gaps in methods.items()
            for n, gap in enumerate(gaps, 1)
        )
        return ("data", "method", "round", "distance"), rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", "names", type=click.Choice(list(DATA)), multiple=True, help="Which; all.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--rounds", type=click.IntRange(max(SHOWN)), default=max(SHOWN))
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the curves there: .svg, .pdf or .png.")
def main(names: tuple[str, ...], seed: int, rounds: int, figure: Path | None) -> None:
    """Relative distance of U from the central optimum, on four data sets."""
    curves: dict[str, dict[str, list[float]]] = {}
    for name in names or DATA:
        shards = cut(name, seed)
        problems, start, end = whole(name, shards, seed)
        first, least = objective(problems, start), objective(problems, end)
        click.echo(f"{name}: (U - U*)/(U[0] - U*) after {', '.join(map(str, SHOWN))} rounds; U* = {least:.6g}")
        for method, grid in METHODS.items():
            runs = [(*curve(name, tree, shards, problems, seed, rounds), tree) for tree in grid]
            values, seconds, tree = min(runs, key=lambda run: run[0][-1])
            gaps = [(value - least) / (first - least) for value in values]
            curves.setdefault(name, {})[method] = gaps
            chosen = {key: value for table in tree.values() for key, value in table.items()}
            told = ", ".join(f"{key} {chosen[key]}" for key in ("tau", "alpha", "step_size") if key in chosen)
            click.echo(f"| {method} | {told} | {' | '.join(f'{gaps[n - 1]:.1e}' for n in SHOWN)} | {seconds:.2f} s |")
    if figure is not None:
        write(Curves(curves), figure)


if __name__ == "__main__":
    main()
