"""Rounds, megabytes and seconds that every method needs on DIGITS-8, each the best of a grid of its own.

DIGITS-8: scikit-learn's digits over 16, of which 360 stratified ones are the test; a perceptron 64-32-10; a ring of 8
with Metropolis weights; shards at random, or of two labels a peer: the sorted set in 16 pieces, two for each. What
has to be reached is the mean of the agents' own accuracies on the test. All agents run in this process, without
sockets. Their shares are encoded and decoded as on the wire, and bytes are those: what a peer sends to both of its
neighbors, without what the transport adds. Seconds are those of a processor for all that one agent computes, an
eighth of what all took.

    python -m benchmarks.methods
    python -m benchmarks.methods --shards two-labels --seeds 5
    python -m benchmarks.methods --shards two-labels --method "next, partial, bf16" --processes

With `--processes` the same is then done by real peers, with what was best, for as many rounds as the first target took:
`peer launch`, from the command to its end, start of the interpreter, encryption and summary included.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, final

import click
import numpy as np

from peer import config, learning, settings, wire
from peer.agent import State
from peer.arrays import Matrix, Vector
from peer.errors import SolveError
from peer.messages import Share
from peer.settings import Experiment
from peer.shards import Shard
from peer.simulation import Agents
from topology import PeerId

PEERS: Final = 8

TARGETS: Final = (0.90, 0.95)
"""Mean test accuracies to be reached."""

Tree = Mapping[str, Any]

NEXT: Final = "next, partial"
SHORT: Final = "next, partial, bf16"

PARTIAL: Final[Sequence[Tree]] = [
    {"surrogate": {"tau": tau, "inexactness": 0.1, "tolerance": 1e-6}, "step": {"alpha": alpha}}
    for tau, alpha in product((0.01, 0.03, 0.1, 0.3), (0.2, 0.3, 0.5, 0.7))
]
"""Settings of NEXT with the partial linearization."""

GRIDS: Final[Mapping[str, Sequence[Tree]]] = {
    "gradient-descent": [{"method": {"kind": "gradient-descent", "step_size": step}} for step in (0.3, 1.0, 2.0, 4.0)],
    "d-psgd": [
        {"method": {"kind": "d-psgd", "step_size": step, "local_steps": n}, "surrogate": {"batch": 16}}
        for step, n in product((0.1, 0.3, 1.0, 2.0), (1, 4, 16))
    ],
    "d-psgd, momentum": [
        {
            "method": {"kind": "d-psgd", "step_size": step, "local_steps": n, "momentum": 0.9},
            "surrogate": {"batch": 16},
        }
        for step, n in product((0.01, 0.03, 0.1, 0.3), (1, 4, 16))
    ],
    "choco": [
        {
            "method": {"kind": "choco", "step_size": step, "local_steps": n},
            "surrogate": {"batch": 16},
            "compression": {"fraction": fraction},
        }
        for step, n, fraction in product((0.03, 0.1, 0.3, 1.0), (1, 4, 16), (0.1, 0.3))
    ],
    "gradient-tracking": [
        {"method": {"kind": "gradient-tracking", "step_size": step}} for step in (0.1, 0.3, 0.6, 1.0, 2.0)
    ],
    "exact-diffusion": [{"method": {"kind": "exact-diffusion", "step_size": step}} for step in (0.3, 1.0, 2.0, 4.0)],
    "extra": [{"method": {"kind": "extra", "step_size": step}} for step in (0.1, 0.3, 1.0, 2.0)],
    "next, full": [
        {"surrogate": {"kind": "full", "tau": tau}, "step": {"alpha": alpha}}
        for tau, alpha in product((0.1, 0.3, 1.0, 3.0), (0.3, 0.5, 1.0))
    ],
    "next, auto": [{"surrogate": {"inexactness": 0.1, "tolerance": 1e-6}}],
    NEXT: PARTIAL,
    SHORT: [{**tree, "transport": {"wire_dtype": "bf16"}} for tree in PARTIAL],
}
"""Settings that are tried, by method."""

MOST: Final[Mapping[str, int]] = {NEXT: 60, SHORT: 60, "next, auto": 80}
"""Rounds after which it is given up; 1000 for all others."""


@final
@dataclass(frozen=True, eq=False)
class Digits:
    """Shards of all peers, and the test."""

    shards: tuple[Shard, ...]
    x: Matrix
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]


def digits(how: str, seed: int) -> Digits:
    """DIGITS-8, its shards "iid" or of "two-labels" each, drawn with the seed; the test is always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train_x, x, train_y, y = train_test_split(x / 16.0, y, test_size=360, stratify=y, random_state=0)
    rng = np.random.default_rng([seed, 1])
    if how == "iid":
        parts = np.array_split(rng.permutation(len(train_y)), PEERS)
    else:
        order = np.lexsort((rng.permutation(len(train_y)), train_y))
        pieces, drawn = np.array_split(order, 2 * PEERS), rng.permutation(2 * PEERS)
        parts = [np.concatenate([pieces[drawn[2 * i]], pieces[drawn[2 * i + 1]]]) for i in range(PEERS)]
    shards = tuple(
        Shard(Path("digits"), train_x[part], None, train_y[part].astype(np.int64), None, None) for part in parts
    )
    return Digits(shards, x, y.astype(np.int64))


def experiment_of(tree: Tree, seed: int, rounds: int) -> Experiment:
    """DIGITS-8 with the settings of a method."""
    return settings.from_tree(_tree(tree, seed, rounds))


def _tree(tree: Tree, seed: int, rounds: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "peers": PEERS,
        "iterations": rounds,
        "data": {"path": "peer-{id}.npz"},
        "model": {"hidden": [32], "outputs": 10},
        "objective": {"loss": "cross_entropy", "strength": 1e-4},
        "topology": {"graph": "ring"},
    } | dict(tree)


@final
@dataclass(frozen=True)
class Round:
    """What is known at the end of a round: bytes that a peer has sent, and its seconds, since the start."""

    states: Sequence[State]
    sent: float
    seconds: float


def play(experiment: Experiment, shards: Sequence[Shard]) -> Iterator[Round]:
    """All agents of an experiment, round after round."""
    began_s, spent_s, sent = time.process_time(), 0.0, 0
    agents = Agents.of(experiment, config.ground(experiment), shards)
    form = config.form_of(experiment, agents.n_agents, agents.model.layout.size)

    def said(share: Share, to: PeerId) -> None:
        nonlocal sent
        frames = wire.encode(share, form)
        sent += sum(map(len, frames))
        wire.decode(frames, form)

    for done in agents.play(said):
        spent_s += time.process_time() - began_s
        yield Round(done.after, sent / agents.n_agents, spent_s / agents.n_agents)
        began_s = time.process_time()


def accuracy(w: Vector, problem: Experiment, data: Digits) -> float:
    """Of one agent on the test."""
    model = learning.model_of(problem, data.shards[0], 10, learning.initial_of(problem, 0))
    return float(np.mean(np.argmax(model.at(w, data.x).outputs, axis=1) == data.labels))


Reached = tuple[float, float, float]
"""Rounds, megabytes and seconds; infinity where it never was."""

NEVER: Final[Reached] = (math.inf, math.inf, math.inf)


def reached(tree: Tree, how: str, seed: int, rounds: int) -> list[Reached]:
    """What it took to each of the targets."""
    experiment, data = experiment_of(tree, seed, rounds), digits(how, seed)
    found: list[Reached] = []
    try:
        for n, now in enumerate(play(experiment, data.shards), 1):
            mean = float(np.mean([accuracy(state.w, experiment, data) for state in now.states]))
            while len(found) < len(TARGETS) and mean >= TARGETS[len(found)]:
                found.append((float(n), now.sent / 1e6, now.seconds))
            if len(found) == len(TARGETS):
                break
    except SolveError:
        pass
    return found + [NEVER] * (len(TARGETS) - len(found))


def best(name: str, how: str, seeds: Sequence[int], most: int) -> tuple[Tree, list[list[Reached]]]:
    """The settings of the grid that come to the last target in the fewest rounds, the median over the seeds."""
    least, chosen, rows = math.inf, GRIDS[name][0], [[NEVER] * len(TARGETS) for _ in seeds]
    for tree in GRIDS[name]:
        limit = most if math.isinf(least) else min(most, math.ceil(2.0 * least))
        found = [reached(tree, how, seed, limit) for seed in seeds]
        rank = median(row[-1][0] for row in found)
        first = median(row[0][0] for row in found)
        if rank < least or (math.isinf(least) and first < median(row[0][0] for row in rows)):
            least, chosen, rows = rank, tree, found
    return chosen, rows


def launched(tree: Tree, how: str, seed: int, rounds: int) -> tuple[float, float]:
    """Seconds that `peer launch` takes with these settings, and the accuracy of the agents' mean."""
    data = digits(how, seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for i, shard in enumerate(data.shards):
            np.savez(folder / f"peer-{i}.npz", x=shard.x, y=shard.labels)  # type: ignore[arg-type]
        np.savez(folder / "test.npz", x=data.x, y=data.labels)
        paths = {"path": str(folder / "peer-{id}.npz"), "test_path": str(folder / "test.npz")}
        experiment = settings.from_tree({**_tree(tree, seed, rounds), "data": paths})
        (folder / "experiment.toml").write_text(settings.to_toml(experiment), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "peer",
            "launch",
            str(folder / "experiment.toml"),
            "--out",
            str(folder / "run"),
        ]
        began_s = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took_s = time.monotonic() - began_s
        summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
        return took_s, summary["test"]["accuracy"]


def told(tree: Tree) -> str:
    """Settings in short."""
    return ", ".join(
        f"{key} {value}"
        for table in tree.values()
        for key, value in table.items()
        if key not in ("kind", "tolerance", "inexactness")
    )


def shown(rows: Sequence[Sequence[Reached]], k: int) -> str:
    """Median over the seeds, and the spread of the rounds."""
    n, mb, s = (median(row[k][part] for row in rows) for part in range(3))
    if math.isinf(n):
        return "never"
    low, high = (bound(row[k][0] for row in rows) for bound in (min, max))
    return f"{n:.0f} ({low:.0f}-{high:.0f}) | {mb:.2f} | {s:.2f}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--shards", "hows", type=click.Choice(["iid", "two-labels"]), multiple=True, help="Which; both.")
@click.option("--method", "names", type=click.Choice(list(GRIDS)), multiple=True, help="Which; all.")
@click.option("--seeds", type=click.IntRange(1), default=1, help="Of shards and first parameters, from 0 on.")
@click.option("--rounds", type=click.IntRange(1), default=1000, help="After which a method is given up.")
@click.option("--processes", is_flag=True, help="Then by real peers, with what was best, from command to end.")
def main(hows: tuple[str, ...], names: tuple[str, ...], seeds: int, rounds: int, processes: bool) -> None:
    """Rounds, megabytes a peer and seconds to 90 % and 95 % on DIGITS-8."""
    head = "rounds | MB | s"
    for how in hows or ("iid", "two-labels"):
        click.echo(f"{how}, {seeds} seeds: median (least-most)")
        click.echo(f"| method | settings | 90 %: {head} | 95 %: {head} |")
        for name in names or GRIDS:
            tree, rows = best(name, how, range(seeds), min(rounds, MOST.get(name, rounds)))
            click.echo(f"| {name} | {told(tree)} | {shown(rows, 0)} | {shown(rows, 1)} |")
            if processes and math.isfinite(first := median(row[0][0] for row in rows)):
                took = [launched(tree, how, seed, math.ceil(first)) for seed in range(seeds)]
                seconds = ", ".join(f"{s:.2f} s ({100 * reached:.1f} %)" for s, reached in took)
                click.echo(f"  peer launch, {math.ceil(first)} rounds, from the command to its end: {seconds}")


if __name__ == "__main__":
    main()
