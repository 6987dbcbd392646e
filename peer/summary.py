"""What came out of a run, computed from its directory; and what central training makes of the same data."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from peer import config, npz, shards
from peer.arrays import Labels, Matrix, Vector
from peer.optim.models import MLP
from peer.problem import Problem
from peer.settings import Experiment
from peer.shards import Shard

CENTRAL_ITERATIONS: Final = 5_000
"""Of L-BFGS for the central reference; it stops by itself long before."""


@final
@dataclass(frozen=True, eq=False)
class World:
    """All shards of a run together: what no peer ever has.

    Parameters
    ----------
    experiment : Experiment
    model : MLP
    problems : tuple of Problem
        g_i of every peer.
    test : Shard or None
        Held-out samples.
    """

    experiment: Experiment
    model: MLP
    problems: tuple[Problem, ...]
    test: Shard | None

    @classmethod
    def of(cls, experiment: Experiment) -> World:
        """Read everything that the experiment names."""
        found = [config.shard_of(experiment, peer) for peer in range(experiment.peers)]
        n_classes = max(shard.n_classes for shard in found)
        model = config.model_of(experiment, found[0], n_classes, config.initial_of(experiment, 0))
        total = sum(shard.n_samples for shard in found)
        problems = tuple(config.problem_of(experiment, model, shard, total) for shard in found)
        path = experiment.data.test_path
        return cls(experiment, model, problems, shards.read(Path(path), "data.test_path") if path else None)

    def objective(self, w: Vector) -> float:
        """U(w), (1)."""
        return sum(problem.value(w) for problem in self.problems) + self.problems[0].regularizer.value(w)

    def gradient(self, w: Vector) -> Vector:
        """Grad G(w), (p,)."""
        return np.asarray(sum(problem.gradient(w) for problem in self.problems))

    def stationarity(self, w: Vector) -> float:
        """||w - prox_r(w - grad G(w))||_inf."""
        return self.problems[0].stationarity(w, self.gradient(w))

    def test_metrics(self, w: Vector) -> dict[str, float]:
        """Accuracy where there are classes, else root mean square error and R^2, on the test set if there is one."""
        if self.test is None:
            return {}
        outputs = self.model.forward(w, self.test.x)
        if self.test.labels is None:
            targets = self.test.targets
            assert targets is not None
            errors = outputs - targets
            spread = float(np.sum((targets - targets.mean(axis=0)) ** 2))
            r2 = 1.0 - float(np.sum(errors**2)) / spread if spread > 0.0 else float("nan")
            return {"rmse": float(np.sqrt(np.mean(errors**2))), "r2": r2}
        return {"accuracy": float(np.mean(self._classes(outputs, self.test) == self.test.labels))}

    def _classes(self, outputs: Matrix, shard: Shard) -> Labels:
        if self.experiment.objective.loss == "squared":
            codes = config.codes_of(shard, self.model.n_outputs)
            return np.asarray(np.argmin(np.sum((outputs[:, None, :] - codes[None]) ** 2, axis=2), axis=1))
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > 0.0).astype(np.int64)
        return np.asarray(np.argmax(outputs, axis=1))


def of_run(experiment: Experiment, run_dir: Path, seconds: float, central: bool) -> dict[str, Any]:
    """Summary of a finished run.

    Parameters
    ----------
    experiment : Experiment
        As the run directory has it.
    run_dir : Path
        Its directory.
    seconds : float
        How long the peers ran.
    central : bool
        Whether to train the same network centrally too, from the same parameters.
    """
    world = World.of(experiment)
    finals = [_parameters(world, run_dir, peer, "final.npz") for peer in range(experiment.peers)]
    mean = np.mean(finals, axis=0)
    rows = [_row(world, run_dir, peer, w) for peer, w in enumerate(finals)]
    summary: dict[str, Any] = {
        "name": experiment.name,
        "peers": experiment.peers,
        "iterations": experiment.iterations,
        "parameters": world.model.layout.size,
        "samples": sum(row["samples"] for row in rows),
        "seconds": seconds,
        "objective": world.objective(mean),
        "stationarity": world.stationarity(mean),
        "disagreement": float(np.mean([np.sum((w - mean) ** 2) for w in finals])),
        "test": world.test_metrics(mean),
        "bytes": sum(row["bytes_sent"] for row in rows),
        "per_peer": rows,
    }
    if central:
        summary["central"] = _central(world, _parameters(world, run_dir, 0, "initial.npz"))
    return summary


def write(summary: dict[str, Any], path: Path) -> None:
    """Write `summary.json`."""
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _parameters(world: World, run_dir: Path, peer: int, name: str) -> Vector:
    return world.model.layout.flatten(npz.load(run_dir / "peers" / f"{peer:03d}" / name))


def _row(world: World, run_dir: Path, peer: int, w: Vector) -> dict[str, Any]:
    path = run_dir / "peers" / f"{peer:03d}" / "metrics.jsonl"
    rounds = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        "peer": peer,
        "samples": len(world.problems[peer].data.inputs),
        "objective": world.objective(w),
        "test": world.test_metrics(w),
        "solve_s": sum(line["solve_s"] for line in rounds),
        "wait_s": sum(line["wait_s"] for line in rounds),
        "bytes_sent": sum(line["bytes_sent"] for line in rounds),
        "bytes_received": sum(line["bytes_received"] for line in rounds),
        "dropped": rounds[-1]["dropped"] if rounds else {},
    }


def _central(world: World, w: Vector) -> dict[str, Any]:
    """The same network trained in one place by L-BFGS on (1), from the same parameters.

    An l1 term is made smooth by w = u - v with u, v >= 0.
    """
    from scipy import optimize

    began = time.monotonic()
    regularizer = world.problems[0].regularizer

    def smooth(w: Vector) -> tuple[float, Vector]:
        return world.objective(w), world.gradient(w) + regularizer.gradient(w)

    def split(uv: Vector) -> tuple[float, Vector]:
        u, v = np.split(uv, 2)
        value = sum(problem.value(u - v) for problem in world.problems) + regularizer.value(u + v)
        gradient, slope = world.gradient(u - v), regularizer.gradient(np.ones_like(u))
        return value, np.concatenate([gradient + slope, slope - gradient])

    options: Any = {"maxiter": CENTRAL_ITERATIONS, "maxfun": 2 * CENTRAL_ITERATIONS, "ftol": 1e-15, "gtol": 1e-9}
    if regularizer.smooth:
        found = optimize.minimize(smooth, w, jac=True, method="L-BFGS-B", options=options)
        w = found.x
    else:
        start = np.concatenate([np.maximum(w, 0.0), np.maximum(-w, 0.0)])
        bounds = optimize.Bounds(np.zeros(2 * w.size), np.full(2 * w.size, np.inf))
        found = optimize.minimize(split, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        u, v = np.split(found.x, 2)
        w = u - v
    return {
        "objective": world.objective(w),
        "stationarity": world.stationarity(w),
        "test": world.test_metrics(w),
        "iterations": int(found.nit),
        "seconds": time.monotonic() - began,
    }
