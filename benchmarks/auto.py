"""What `auto` is worth: U after 200 rounds beside the best of 60 hand-tuned settings of tau, alpha and curvature.

Four data sets, three graphs, shards of equal distribution and sorted by label: 24 settings of 8 agents each, all in
this process, without sockets, with the functions that peers run. U is taken at the mean of all w_i.

    python -m benchmarks.auto results.json            # half an hour on one core; goes on where it was stopped
    python -m benchmarks.auto --table results.json    # only `auto` anew, and the table of the README
    python -m benchmarks.auto --sorted                # `auto` where whole agents are beyond the margin: minutes
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import click
import numpy as np

from benchmarks.agents import mixed
from peer import agent, careful, config, learning, settings, shards
from peer.arrays import DTYPES, Vector
from peer.data import Cut
from peer.errors import SolveError
from peer.problem import Problem
from peer.settings import Experiment

N_ROUNDS: Final = 200

TAUS: Final = (0.01, 0.05, 0.2, 1.0, 5.0)
ALPHAS: Final = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
CURVATURES: Final = ("local", "network")
GRAPHS: Final = ("ring", "erdos-renyi", "star")
PARTITIONS: Final = ("iid", "label-sorted")

DATASETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "diabetes": {"model": {"hidden": [5]}, "loss": "squared", "test_fraction": 0.25},
    "wine": {"model": {"hidden": [4]}, "loss": "cross_entropy", "test_fraction": 0.25},
    "breast-cancer": {"model": {"hidden": [4]}, "loss": "cross_entropy", "test_fraction": 0.25},
    "digits": {"model": {"hidden": [2]}, "loss": "squared", "test_fraction": 0.9},
}
"""Perceptrons, as small as 1,440 runs of 8 agents make them: 331 samples with p = 61, 133 with 71, 426 with 129, 179
with 160."""

NEAR: Final = 0.05
"""Largest relative excess over the best tuned U ..."""

LEAST_NEAR: Final = 20
"""... in so many settings at least."""

FARTHEST: Final = 0.15
"""Largest in any."""

SORTED: Final = tuple(
    itertools.product(
        ("wine", "breast-cancer"),
        ("squared_hinge", "cross_entropy"),
        (1e-2, 1e-4),
        ([], [10]),
        ({"graph": "ring"}, {"graph": "star"}),
        (2, 3),
    )
)
"""Data, loss, strength, hidden units, links and seed of runs whose 8 agents have samples sorted by label."""

CHANGING: Final = {"graph": "erdos-renyi", "schedule": "matchings"}
"""Links of the one that comes on top, of wine."""

FAR: Final = 10.0
"""Times U at the start: a run that is there has diverged, and ends."""


def experiment_of(dataset: str, graph: str, partition: str, given: Mapping[str, Any]) -> Experiment:
    """One of the 24 settings, with what is `given` for [surrogate] and [step]."""
    about = DATASETS[dataset]
    return settings.from_tree(
        {
            "seed": 7,
            "iterations": N_ROUNDS,
            "data": {"dataset": dataset, "partition": partition, "test_fraction": about["test_fraction"]},
            "model": about["model"],
            "objective": {"loss": about["loss"], "strength": 1e-2},
            "topology": {"graph": graph},
            **given,
        }
    )


@final
@dataclass(frozen=True, eq=False)
class Network:
    """All agents of an experiment, in one process."""

    experiment: Experiment
    ground: config.Ground
    problems: tuple[Problem, ...]
    start: Vector

    @classmethod
    def of(cls, experiment: Experiment) -> Network:
        """Cut the data, and make the problems."""
        with tempfile.TemporaryDirectory() as folder:
            Cut.of(experiment).write(Path(folder))
            parts = [shards.read(Path(folder) / f"peer-{i:03d}.npz", "data") for i in range(experiment.peers)]
        n_classes, total = max(part.n_classes for part in parts), sum(part.n_samples for part in parts)
        model = learning.model_of(experiment, parts[0], n_classes, learning.Initial("", {}))
        problems = tuple(learning.problem_of(experiment, model, part, total) for part in parts)
        start = learning.Initial("", {}).vector(model, experiment.seed, problems[0].regularizer)
        return cls(experiment, config.ground(experiment), problems, start)

    def objective(self, w: Vector) -> float:
        """U(w)."""
        return math.fsum(problem.value(w) for problem in self.problems) + self.problems[0].regularizer.value(w)

    def rounds(self) -> Iterator[Sequence[agent.State]]:
        """The states of all agents at the beginning of rounds 0, 1, 2, ...

        Raises
        ------
        SolveError
            The numbers broke down.
        """
        experiment, ground = self.experiment, self.ground
        rule, dtype = config.step_of(experiment), DTYPES["f8"]
        alpha = config.alpha_of(experiment, ground.contraction)
        caution = config.caution_of(experiment, ground.contraction, len(self.problems))
        states = [agent.initial(problem, self.start, alpha) for problem in self.problems]
        if caution is not None:
            states = [careful.begun(p, s, caution) for p, s in zip(self.problems, states, strict=True)]
        while True:
            yield states
            graph = ground.schedule.graph(states[0].n)
            proposals = [agent.propose(p, s, len(states)) for p, s in zip(self.problems, states, strict=True)]
            before, states = states, mixed(self.problems, states, proposals, graph, ground.weights, rule, dtype)
            if caution is not None:
                states = [careful.adapted(*each, caution) for each in zip(self.problems, before, states, strict=True)]


def curve(network: Network, every: int = 10) -> list[float]:
    """U at the mean of all w_i, every so many rounds, until it has diverged: then the last is infinite."""
    found: list[float] = []
    try:
        with np.errstate(all="ignore"):
            for n, states in enumerate(network.rounds()):
                if n % every == 0:
                    found.append(network.objective(np.mean([state.w for state in states], axis=0)))
                    if not found[-1] <= FAR * max(found[0], 1e-300):
                        return [*found[:-1], math.inf]
                if n == network.experiment.iterations:
                    return found
    except (SolveError, ArithmeticError, ValueError):
        pass
    return [*found, math.inf]


INNER: Final = {"tolerance": 1e-4}
"""Of the inner solver, for all runs: a tenth of a percent of U is not at stake, and they take half the time."""


def grid(path: Path) -> None:
    """Run what is missing of the 24 x 60 hand-tuned settings, and write it down after each of the 24."""
    results: dict[str, dict[str, list[float]]] = json.loads(path.read_text()) if path.exists() else {}
    for dataset, graph, partition in itertools.product(DATASETS, GRAPHS, PARTITIONS):
        name = f"{dataset} {graph} {partition}"
        if name in results:
            continue
        found = {}
        for tau, alpha, curvature in itertools.product(TAUS, ALPHAS, CURVATURES):
            given = {"surrogate": {"tau": tau, "curvature": curvature, **INNER}, "step": {"alpha": alpha}}
            found[f"{tau} {alpha} {curvature}"] = curve(Network.of(experiment_of(dataset, graph, partition, given)))
        results[name] = found
        written = path.with_suffix(".new")
        written.write_text(json.dumps(results))
        written.replace(path)
        best = min(found, key=lambda key: found[key][-1])
        click.echo(f"{name}: {found[best][-1]:.5g} of {found[best][0]:.4g} with {best}")


def table(path: Path) -> bool:
    """Run `auto` in every setting of the grid, and print it beside the best of that; whether it is near enough.

    Raises
    ------
    KeyError
        The grid is not complete.
    """
    results, excesses = json.loads(path.read_text()), []
    click.echo("| data | graph | shards | start | best tuned U: tau, alpha, curvature | diverged | `auto` | excess |")
    click.echo("|---|---|---|---:|---|---:|---:|---:|")
    for dataset, graph, partition in itertools.product(DATASETS, GRAPHS, PARTITIONS):
        found = results[f"{dataset} {graph} {partition}"]
        best = min(found, key=lambda key: found[key][-1])
        diverged = sum(math.isinf(values[-1]) for values in found.values())
        ours = curve(Network.of(experiment_of(dataset, graph, partition, {"surrogate": INNER})))[-1]
        excesses.append(ours / found[best][-1] - 1.0)
        tuned = f"{found[best][-1]:.5f}: {best.replace(' ', ', ')}"
        start = f"{found[best][0]:.3f}"
        click.echo(
            f"| {dataset} | {graph} | {partition} | {start} | {tuned} | {diverged} | {ours:.5f} | {excesses[-1]:+.2%} |"
        )
    near = sum(excess <= NEAR for excess in excesses)
    click.echo(f"within {NEAR:.0%} in {near} of {len(excesses)}, at worst {max(excesses):+.2%}")
    return bool(near >= LEAST_NEAR and max(excesses) <= FARTHEST)


def of_sorted() -> bool:
    """Run `auto` where whole agents come to see no curvature, and print U on the way; whether none has diverged."""
    found = []
    for dataset, loss, strength, hidden, links, seed in (*SORTED, ("wine", "cross_entropy", 1e-3, [10], CHANGING, 1)):
        tree = {
            "seed": seed,
            "iterations": 300,
            "data": {"dataset": dataset, "partition": "label-sorted"},
            "model": {"hidden": hidden},
            "objective": {"loss": loss, "strength": strength},
            "topology": links,
        }
        found.append(curve(Network.of(settings.from_tree(tree)), 50))
        where = f"{dataset}, {loss}, {strength:g}, {hidden}, {links.get('schedule', links['graph'])}, {seed}"
        click.echo(f"{where:55} " + " ".join(f"{value:9.5f}" for value in found[-1]))
    far = sum(math.isinf(values[-1]) for values in found)
    click.echo(f"{far} of {len(found)} have diverged")
    return not far


@click.command()
@click.argument("results", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--table", "only_table", is_flag=True, help="do not run the grid, which has to be there")
@click.option("--sorted", "only_sorted", is_flag=True, help="only runs with samples sorted by label, without a grid")
def main(results: Path | None, only_table: bool, only_sorted: bool) -> None:
    """Run the grid, as far as RESULTS does not have it, and print the table; 1 where `auto` is too far off."""
    if only_sorted:
        raise SystemExit(0 if of_sorted() else 1)
    if results is None:
        raise click.UsageError("expected RESULTS, a file for the grid")
    if not only_table:
        grid(results)
    raise SystemExit(0 if table(results) else 1)


if __name__ == "__main__":
    main()
