"""What it saves to say less: rounds, and megabytes that a peer sends, to a target, by kind of [compression].

Two problems, 8 agents on a ring, shards at random. Convex: softmax regression on all of scikit-learn's digits over 16
(650 parameters, l2 of strength 1e-2), until the farthest agent is within 1e-6 of the optimum, relative to its length.
Digits: DIGITS-8 of `benchmarks.methods` (2410 parameters), until the agents' mean test accuracy is 95 %. All agents run
in this process, without sockets; shares are encoded and decoded as on the wire, and so are the bytes. For each kind the
step is what `auto` has, or the best of several times that, see `--alpha`, by rounds; tau is left to the agents.

    python -m benchmarks.bytes
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import click
import numpy as np

from benchmarks.methods import PEERS, Digits, Round, accuracy, digits, play
from peer import central, config, learning, settings
from peer.arrays import Vector
from peer.errors import SolveError
from peer.settings import Experiment

DISTANCE: Final = 1e-6

TARGET: Final = 0.95

ALPHAS: Final = (1.0,)

Tree = Mapping[str, Any]

KINDS: Final[Mapping[str, Tree]] = {
    "f8": {},
    "f4": {"transport": {"wire_dtype": "f4"}},
    "bf16, values": {"transport": {"wire_dtype": "bf16"}, "compression": {"kind": "none"}},
    "f4, differences": {"transport": {"wire_dtype": "f4"}, "compression": {"kind": "difference"}},
    "bf16": {"transport": {"wire_dtype": "bf16"}},
    **{
        f"{kind} {fraction:g}, {dtype}": {
            "transport": {"wire_dtype": dtype},
            "compression": {"kind": kind, "fraction": fraction},
        }
        for kind, dtype in (("top-k", "bf16"), ("top-k", "f8"), ("random-k", "f4"))
        for fraction in (0.5, 0.2, 0.05)
        if (kind, dtype, fraction) != ("top-k", "f8", 0.05)
    },
}


def experiment_of(name: str, tree: Tree, alpha: float | str, rounds: int) -> Experiment:
    """A problem, with what is said and the step."""
    convex = name == "convex"
    return settings.from_tree(
        {
            "seed": 0,
            "peers": PEERS,
            "iterations": rounds,
            "data": {"path": "peer-{id}.npz"},
            "model": {"hidden": [] if convex else [32], "outputs": 10},
            "objective": {"loss": "cross_entropy", "strength": 1e-2 if convex else 1e-4},
            "surrogate": {"inexactness": 0.1, "tolerance": 1e-9 if convex else 1e-6},
            "topology": {"graph": "ring"},
            "step": {"alpha": alpha},
        }
        | dict(tree)
    )


def optimum(experiment: Experiment, data: Digits) -> Vector:
    """Of the convex problem, by one who has all samples."""
    initial, total = learning.initial_of(experiment, 0), sum(shard.n_samples for shard in data.shards)
    model = learning.model_of(experiment, data.shards[0], 10, initial)
    problems = [learning.problem_of(experiment, model, shard, total) for shard in data.shards]
    start = initial.vector(model, experiment.seed, problems[0].regularizer)

    def value(w: Vector) -> float:
        return math.fsum(problem.value(w) for problem in problems)

    def gradient(w: Vector) -> Vector:
        return np.asarray(np.sum([problem.gradient(w) for problem in problems], axis=0))

    w, _, _ = central.minimize(value, gradient, problems[0].regularizer, start)
    return w


def rounds_to(experiment: Experiment, data: Digits, there: Callable[[Round], bool]) -> tuple[float, float]:
    """Rounds and megabytes that a peer has sent until it is there; infinity where it never is."""
    try:
        for n, now in enumerate(play(experiment, data.shards), 1):
            if there(now):
                return n, now.sent / 1e6
    except SolveError:
        pass
    return math.inf, math.inf


def row(name: str, tree: Tree, data: Digits, alphas: Sequence[float], most: int) -> tuple[float, float, float]:
    """Rounds, megabytes and alpha of the best step."""
    asked = experiment_of(name, tree, "auto", most)
    usual = config.alpha_of(asked, config.ground(asked).contraction)
    there = arrived(name, asked, data)
    found = (math.inf, math.inf, usual)
    for alpha in sorted({min(1.0, factor * usual) for factor in alphas}):
        limit = most if math.isinf(found[0]) else int(found[0])
        n, megabytes = rounds_to(experiment_of(name, tree, alpha, limit), data, there)
        found = min(found, (n, megabytes, alpha))
    return found


def arrived(name: str, experiment: Experiment, data: Digits) -> Callable[[Round], bool]:
    """Whether the target is reached."""
    if name == "digits":
        return lambda now: float(np.mean([accuracy(state.w, experiment, data) for state in now.states])) >= TARGET
    best = optimum(experiment, data)
    near = DISTANCE * float(np.linalg.norm(best))
    return lambda now: max(float(np.linalg.norm(state.w - best)) for state in now.states) <= near


def lines(name: str, kinds: Sequence[str], alphas: Sequence[float], most: int) -> Iterator[str]:
    """The table of a problem."""
    data = digits("iid", 0)
    yield f"{name}: | said | rounds | MB a peer | MB, of f8 | alpha |"
    whole = math.nan
    for kind in kinds:
        n, megabytes, alpha = row(name, KINDS[kind], data, alphas, most)
        whole = megabytes if kind == "f8" else whole
        reached = "never | - | -" if math.isinf(n) else f"{n:.0f} | {megabytes:.3g} | {megabytes / whole:.2f}"
        yield f"| {kind} | {reached} | {alpha:.3g} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--problem", "names", type=click.Choice(["convex", "digits"]), multiple=True, help="Which; both.")
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Which; all.")
@click.option("--alpha", "alphas", type=float, multiple=True, default=ALPHAS, help="Steps, times that of auto.")
@click.option("--rounds", type=click.IntRange(1), default=3000, help="After which it is given up.")
def main(names: tuple[str, ...], kinds: tuple[str, ...], alphas: tuple[float, ...], rounds: int) -> None:
    """Rounds and megabytes to a target, by what is said."""
    for name in names or ("convex", "digits"):
        for line in lines(name, kinds or tuple(KINDS), alphas, rounds):
            click.echo(line)


if __name__ == "__main__":
    main()
