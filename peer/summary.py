"""What came out of a run, computed from its directory; and what central training makes of the same data."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from peer import central, files, history, learning, npz, settings, shards, theory, validation
from peer.arrays import Labels, Matrix, Vector
from peer.errors import ConfigError
from peer.history import Epoch, Round
from peer.optim import regimes
from peer.optim.chains import Chain
from peer.optim.layers import Activation, Dense
from peer.optim.models import Model
from peer.optim.regimes import Linear
from peer.optim.regularizers import GroupL2, Regularizer
from peer.optim.surrogates import Data
from peer.problem import Problem
from peer.settings import DRAWN, Experiment, Regime
from peer.shards import Shard
from topology import PeerId

LOOK_S: Final = 0.5
"""Between two looks at the logs of the peers that are waited for."""

MOST_NAMED: Final = 12
"""Peers that a line names; the others are counted."""


@final
@dataclass(frozen=True, eq=False)
class World:
    """All shards of a run that can be seen from here together: what no peer ever has.

    Parameters
    ----------
    experiment : Experiment
    model : Model
    regularizer : Regularizer
        r.
    problems : dict of int to Problem
        g_i of every peer whose shard can be seen.
    test : Shard or None
        Held-out samples.
    members : tuple of int
        The peers whose shards are meant, ascending.
    held_out : tuple of Data
        What each of these does not train on, if it holds something out; in the order of `problems`.
    """

    experiment: Experiment
    model: Model
    regularizer: Regularizer
    problems: Mapping[PeerId, Problem]
    test: Shard | None
    members: tuple[PeerId, ...]
    held_out: tuple[Data, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, run_dir: Path, model: Model, epoch: Epoch | None = None) -> World:
        """Read what can be seen of everything that the experiment names.

        Parameters
        ----------
        experiment : Experiment
        run_dir : Path
            A shard that is not where the experiment says is looked for in its folder `shards`.
        model : Model
            As the peers had it: its outputs cannot be told where shards are hidden.
        epoch : Epoch or None
            The one whose members are meant; None: all peers, as in rounds.

        Raises
        ------
        ConfigError
            A file is there, and cannot be used.
        """
        members = tuple(range(experiment.peers)) if epoch is None else epoch.members
        places = {peer: _shard_path(experiment, run_dir, peer) for peer in members}
        seen = _without_hidden(experiment, [peer for peer, path in places.items() if path is not None])
        found = {peer: learning.shard_of(seen, peer, path) for peer, path in places.items() if path is not None}
        total = sum(shard.n_samples for shard in found.values())
        if len(found) < len(members) and found and experiment.objective.scale == "mean":
            total = _total_samples(run_dir, experiment.peers, epoch)
        problems = {peer: learning.problem_of(experiment, model, shard, total) for peer, shard in found.items()}
        parts = (learning.held_out_of(experiment, model, shard, total) for shard in found.values())
        held_out = tuple(part for part in parts if part is not None)
        path = _seen(experiment.data.test_path, run_dir / "shards" / "test.npz")
        test = shards.read(path, "data.test_path") if path is not None else None
        if test is not None:
            learning.check_test(experiment, model, test)
        return cls(experiment, model, learning.regularizer_of(experiment, model), problems, test, members, held_out)

    @property
    def whole(self) -> bool:
        """Whether no shard is hidden."""
        return len(self.problems) == len(self.members)

    def value(self, w: Vector) -> float:
        """G(w), over the shards that can be seen."""
        return sum(problem.value(w) for problem in self.problems.values())

    def validation(self, w: Vector) -> float:
        """Sum of V_i(w), see `peer.validation`, over the shards that can be seen."""
        return sum(validation.loss(part, w, self.experiment.iterations) for part in self.held_out)

    def objective(self, w: Vector) -> float:
        """U(w), (1), over the shards that can be seen."""
        return self.value(w) + self.regularizer.value(w)

    def gradient(self, w: Vector) -> Vector:
        """Grad G(w), (p,), over the shards that can be seen."""
        return np.asarray(sum(problem.gradient(w) for problem in self.problems.values()))

    def stationarity(self, w: Vector) -> float:
        """||w - prox_r(w - grad G(w))||_inf."""
        return next(iter(self.problems.values())).stationarity(w, self.gradient(w))

    def neurons_off(self, w: Vector) -> dict[str, list[int]]:
        """Neurons, or channels, of each layer that are switched off: all weights into them are 0 after a proximal step.

        That step has them 0 exactly as soon as w is near a stationary point that has, while w itself only comes
        nearer, by 1 - alpha a round.
        """
        after = self.regularizer.prox(w - self.gradient(w), 1.0)
        parts = self.model.layout.unflatten(after)
        weights = {name: part.reshape(len(part), -1) for name, part in parts.items() if part.ndim > 1}
        return {
            name.removesuffix(".weight"): np.flatnonzero(~weight.any(axis=1)).tolist()
            for name, weight in weights.items()
        }

    def test_metrics(self, w: Vector) -> dict[str, float]:
        """Accuracy where there are classes, else root mean square error and R^2, on the test set if there is one.

        No R^2 where all targets are the same. Every sample counts alike, whatever its weight in training may be.
        """
        if self.test is None:
            return {}
        outputs = self.model.at(w, self.model.inputs(self.test.x)).outputs
        if self.test.labels is None:
            targets = self.test.targets
            assert targets is not None
            errors = outputs - targets
            spread = float(np.sum((targets - targets.mean(axis=0)) ** 2))
            rmse = {"rmse": float(np.sqrt(np.mean(errors**2)))}
            return rmse | ({"r2": 1.0 - float(np.sum(errors**2)) / spread} if spread > 0.0 else {})
        return {"accuracy": float(np.mean(self._classes(outputs, self.test) == self.test.labels))}

    def _classes(self, outputs: Matrix, shard: Shard) -> Labels:
        if self.experiment.objective.loss in settings.REAL_TARGETS:
            codes = learning.codes_of(shard, self.model.n_outputs)
            return np.asarray(np.argmin(np.sum((outputs[:, None, :] - codes[None]) ** 2, axis=2), axis=1))
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > 0.0).astype(np.int64)
        return np.asarray(np.argmax(outputs, axis=1))


@final
@dataclass(frozen=True, eq=False)
class Ends:
    """With which parameters the peers of a run have ended.

    Parameters
    ----------
    model : Model
        What the peers trained: the network, some of its parameters, or the network linearized at its start.
    epoch : Epoch or None
        The newest of a run without rounds; None in rounds.
    everybody : sequence of int
        All peers that were ever there.
    members : tuple of int
        Those of the epoch, or all.
    first : int
        The first member that has written parameters.
    parameters : dict of int to Vector
        Final ones by peer, (p,).
    """

    model: Model
    epoch: Epoch | None
    everybody: Sequence[PeerId]
    members: tuple[PeerId, ...]
    first: PeerId
    parameters: Mapping[PeerId, Vector]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        run_dir: Path,
        own: Callable[[Experiment, Sequence[int], int], Model] = learning.own_network_of,
    ) -> Ends:
        """Read what the peers have written; `own` makes a network of the user's own again.

        Raises
        ------
        ConfigError
            A file is missing or malformed, or the network cannot be made again.
        """
        epoch = history.last_epoch(run_dir, experiment.peers)
        everybody = history.everybody(run_dir, experiment.peers)
        members = tuple(range(experiment.peers)) if epoch is None else epoch.members
        written = members if epoch is None else tuple(peer for peer in everybody if _final(run_dir, peer).exists())
        first = next((peer for peer in members if peer in written), members[0])
        finals = {peer: _arrays(_final(run_dir, peer)) for peer in sorted({first, *written})}
        inputs, outputs = _form(experiment, run_dir, first, finals[first])
        if experiment.model.python:
            network = own(experiment, inputs, outputs)
        else:
            network = learning.network_of(experiment, math.prod(inputs), outputs)
        initial = files.folder_of(run_dir, first) / files.INITIAL
        is_plain = experiment.regime == Regime() and experiment.model.inner_product == settings.Model().inner_product
        model = network if is_plain else _trained(experiment, network, initial)
        parameters = {peer: _vector(model, arrays, _final(run_dir, peer)) for peer, arrays in finals.items()}
        return cls(model, epoch, everybody, members, first, parameters)

    @property
    def agreed(self) -> list[Vector]:
        """Those of the members, (p,) each."""
        return [self.parameters[peer] for peer in self.members if peer in self.parameters]

    @property
    def mean(self) -> Vector:
        """What the members agree on, (p,)."""
        return np.asarray(np.mean(self.agreed, axis=0))


def of_run(
    experiment: Experiment, run_dir: Path, seconds: float | None = None, with_central: bool = False
) -> dict[str, Any]:
    """Summary of a finished run, by the shards that can be seen from here.

    Where some are hidden, `objective` is the sum over the others (with the weights of the whole
    run), and `stationarity` is None: the gradients of some peers alone do not vanish anywhere
    of interest. Where all are hidden, `objective` is None too.

    Of a run without rounds all this is over the members of the newest epoch, and the mean is of
    those that have written parameters: a member that was killed when all was over has not.

    Parameters
    ----------
    experiment : Experiment
        As the run directory has it.
    run_dir : Path
        Its directory.
    seconds : float or None
        How long the peers ran; None: until the last round or waking that one of them has journaled.
    with_central : bool
        Whether to train the same network centrally too, from the same parameters. Not done where a
        shard is hidden.

    Raises
    ------
    ConfigError
        A file that the peers wrote is missing or malformed, or a shard cannot be used.
    """
    found = Ends.of(experiment, run_dir)
    model, epoch, members, first = found.model, found.epoch, found.members, found.first
    initial = files.folder_of(run_dir, first) / files.INITIAL
    world = World.of(experiment, run_dir, model, epoch)
    agreed, mean = found.agreed, found.mean
    rounds = {peer: history.rounds(files.folder_of(run_dir, peer)) for peer in found.everybody}
    rows = [_row(world, run_dir, peer, w, rounds[peer]) for peer, w in found.parameters.items()]
    samples = [row["samples"] for row in rows]
    if epoch is not None:
        rows = [{**row, "wakings": len(rounds[row["peer"]])} for row in rows]
    if seconds is None:
        seconds = _seconds(run_dir, rounds)
    n_done, stopped = experiment.iterations, dict[str, Any]()
    if epoch is None:
        done = _done(run_dir, members)
        n_done, stopped = done.get("n", n_done), {"stopped": done.get("stopped", "iterations")}
        stopped |= {key: done[key] for key in ("kept",) if key in done}
    summary: dict[str, Any] = {
        "name": experiment.name,
        "peers": len(members),
        "iterations": n_done,
        **stopped,
        "parameters": model.layout.size,
        "regime": _regime(experiment, regimes.network_of(model)),
        "samples": _total_samples(run_dir, experiment.peers, epoch) if epoch or None in samples else sum(samples),
        "shards_seen": sorted(world.problems),
        "seconds": seconds,
        "objective": world.objective(mean) if world.problems else None,
        "stationarity": world.stationarity(mean) if world.whole else None,
        "disagreement": float(np.mean([np.sum((w - mean) ** 2) for w in agreed])),
        "test": world.test_metrics(mean),
        "bytes": sum(line.bytes_sent for lines in rounds.values() for line in lines),
        "per_peer": rows,
    }
    if world.whole and world.held_out:
        summary["validation"] = world.validation(mean)
    if world.whole and isinstance(world.regularizer, GroupL2):
        summary["neurons_off"] = world.neurons_off(mean)
    if epoch is not None:
        summary["members"] = list(members)
    if experiment.data.dataset in DRAWN and experiment.objective.loss == "squared" and is_quadratic(model):
        summary["population_risk"] = population_risk(experiment, model, mean, _arrays(initial))
    if with_central and world.whole:
        summary["central"] = _central(world, _vector(model, _arrays(initial), initial))
    return summary


def _regime(experiment: Experiment, network: Model) -> dict[str, Any]:
    """What was trained, and when linearized; and what objective, stationarity, test and central training are of."""
    linear, kind = learning.is_linear(experiment), experiment.regime.kind
    return {
        "kind": kind,
        "trained": list(learning.trained_names(experiment, network)),
        "relinearize_every": 0 if linear else "auto" if kind == "auto" else experiment.regime.relinearize_every,
        "of": "the network linearized at initial.npz" if linear else "the network",
    }


def is_quadratic(model: Model) -> bool:
    """Whether a network is c + sum_i a_i <w_i, x>^2."""
    network = regimes.network_of(model)
    if not isinstance(network, Chain) or len(network.layers) != 3 or network.n_outputs != 1:
        return False
    first, square, last = network.layers
    dense = isinstance(first, Dense) and not first.bias and isinstance(last, Dense)
    return dense and square == Activation(square.n_inputs, "square")


def population_risk(experiment: Experiment, model: Model, w: Vector, start: Mapping[str, NDArray[np.float64]]) -> float:
    """What `peer.theory` calls so, of a quadratic network with these parameters, which began with those of `start`."""
    end, names = regimes.everything(model, w), ("layers.0.weight", "layers.1.weight")
    (W, a), (W_0, a_0) = ([parts[name] for name in names] for parts in (end, start))
    c = float(end["layers.1.bias"][0]) if "layers.1.bias" in end else 0.0
    return theory.population_risk(experiment, W, a[0], c, (W_0, a_0[0]) if isinstance(model, Linear) else None)


def _done(run_dir: Path, members: Sequence[PeerId]) -> dict[str, Any]:
    """How the rounds of a peer ended, as it has logged that, which is how those of all did; empty where none has."""
    found = (event for peer in members for event in history.events(files.folder_of(run_dir, peer)))
    return next((event for event in found if event["event"] == "done" and isinstance(event.get("n"), int)), {})


def _final(run_dir: Path, peer: PeerId) -> Path:
    return files.folder_of(run_dir, peer) / files.FINAL


def _seconds(run_dir: Path, rounds: Mapping[PeerId, Sequence[Round]]) -> float:
    """Until the last round was over, from the start of its peer; without rounds, from the first start of a peer."""
    logs = {peer: history.events(files.folder_of(run_dir, peer)) for peer in rounds}
    began_s = min((history.began_s(log) for log in logs.values() if log), default=0.0)
    clocks = (clock_s for peer, lines in rounds.items() for clock_s in history.waking_clocks(lines, logs[peer]))
    return max(clocks, default=began_s) - began_s


def wait_for_all(
    run_dir: Path, say: Callable[[str], None], pause: Callable[[], None] = lambda: time.sleep(LOOK_S)
) -> Experiment:
    """The experiment of a run directory, once all its peers, or without rounds its members, have ended well.

    The directory may be empty, or not there yet. A peer that failed is waited for like one that
    runs: whoever looks after it may start it again with `--resume`.

    Parameters
    ----------
    run_dir : Path
    say : callable
        Takes a line that names whom this waits for, whenever that changes.
    pause : callable
        Lets some time pass between two looks.
    """
    said = ""
    while True:
        missing, experiment = _missing(run_dir)
        if experiment is not None and not missing:
            return experiment
        if missing != said:
            say(f"waiting for {missing}")
            said = missing
        pause()


def _missing(run_dir: Path) -> tuple[str, Experiment | None]:
    """What is still missing, in words; the experiment, as soon as it can be read."""
    path = run_dir / files.EXPERIMENT
    if not path.exists():
        return str(path), None
    try:
        experiment = settings.read(path)
    except ConfigError as error:  # it may be in the middle of being written
        return f"{path}, which cannot be read yet: {error}", None
    late = history.unfinished(run_dir, experiment.peers)
    names = [f"{peer}{_ended(event)}" for peer, event in late.items()]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"peer{'s' * (len(names) > 1)} {', '.join(names[:MOST_NAMED])}{more}" if names else "", experiment


def _ended(event: Mapping[str, Any] | None) -> str:
    return f" (ended with exit code {event.get('code')})" if event is not None and event["event"] == "end" else ""


def write(summary: dict[str, Any], path: Path) -> None:
    """Write `summary.json`.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    try:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot write the summary: {error.strerror}") from error


def _seen(*places: str | Path) -> Path | None:
    """The first of these files that is there and may be read."""
    return next((Path(place) for place in places if place and os.access(place, os.R_OK)), None)


def _shard_path(experiment: Experiment, run_dir: Path, peer: PeerId) -> Path | None:
    pattern = experiment.data.path
    return _seen(shards.path_of(pattern, peer) if pattern else "", run_dir / "shards" / f"peer-{peer:03d}.npz")


def _without_hidden(experiment: Experiment, peers: Sequence[PeerId]) -> Experiment:
    """The experiment without files of held-out samples, if one of those of these peers cannot be seen."""
    pattern = experiment.data.validation_path
    if not pattern or all(_seen(shards.path_of(pattern, peer)) is not None for peer in peers):
        return experiment
    return msgspec.structs.replace(experiment, data=msgspec.structs.replace(experiment.data, validation_path=""))


def _total_samples(run_dir: Path, n_peers: int, epoch: Epoch | None) -> int:
    """M, as every peer has learned it from the others before round 0, or with the epoch."""
    if epoch is not None:
        return epoch.n_samples
    for peer in range(n_peers):
        ready = _logged(run_dir, peer, "ready")
        if ready is not None:
            return ready
    path = files.folder_of(run_dir, 0) / files.LOG
    raise ConfigError(str(path), "expected the event ready with the number of all samples, found none")


def _logged(run_dir: Path, peer: PeerId, kind: str) -> int | None:
    """The number of samples that a peer has logged with an event of this kind."""
    for event in history.events(files.folder_of(run_dir, peer)):
        if event["event"] == kind and isinstance(event.get("samples"), int):
            return int(event["samples"])
    return None


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return npz.load(path)
    except ValueError as error:
        raise ConfigError(str(path), str(error)) from error


def _trained(experiment: Experiment, network: Model, initial: Path) -> Model:
    """What the peers of a regime trained, of the parameters with which they began."""
    return learning.trained_of(experiment, network, learning.Initial(str(initial), _arrays(initial)))


def _form(
    experiment: Experiment, run_dir: Path, peer: PeerId, parameters: Mapping[str, NDArray[Any]]
) -> tuple[tuple[int, ...], int]:
    """Shape of a sample and number of outputs: as a peer has logged them, else as its final parameters say.

    Raises
    ------
    ConfigError
        Neither says it.
    """
    folder = files.folder_of(run_dir, peer)
    for event in history.events(folder):
        if event["event"] == "model":
            try:
                return msgspec.convert((event.get("inputs"), event.get("outputs")), tuple[tuple[int, ...], int])
            except msgspec.ValidationError as error:
                raise ConfigError(str(folder / files.LOG), f"expected an event model, found: {error}") from error
    if experiment.model.python:
        problem = f"expected the event model of {experiment.model.python}, found none"
        raise ConfigError(str(folder / files.LOG), problem)
    path = _final(run_dir, peer)
    first, n_outputs = parameters.get("layers.0.weight"), learning.Initial(str(path), dict(parameters)).n_outputs
    if first is None or first.ndim < 1 or n_outputs == 0:
        raise ConfigError(str(path), f"expected the layers of a network, found {', '.join(parameters) or 'nothing'}")
    return experiment.model.image or (first.shape[-1],), n_outputs


def _vector(model: Model, parameters: dict[str, NDArray[Any]], path: Path) -> Vector:
    try:
        return regimes.flattened(model, parameters)
    except ValueError as error:
        raise ConfigError(str(path), str(error)) from error


def _row(world: World, run_dir: Path, peer: PeerId, w: Vector, rounds: Sequence[Round]) -> dict[str, Any]:
    problem = world.problems.get(peer)
    return {
        "peer": peer,
        "samples": len(problem.data.inputs) if problem is not None else _logged(run_dir, peer, "start"),
        "objective": world.objective(w) if world.problems else None,
        "test": world.test_metrics(w),
        "solve_s": sum(line.solve_s for line in rounds),
        "wait_s": sum(line.wait_s for line in rounds),
        "bytes_sent": sum(line.bytes_sent for line in rounds),
        "bytes_received": sum(line.bytes_received for line in rounds),
        "dropped": dict(rounds[-1].dropped) if rounds else {},
    }


def _central(world: World, w: Vector) -> dict[str, Any]:
    """The same network trained in one place, from the same parameters."""
    began = time.monotonic()
    w, n_iterations, solver = central.minimize(world.value, world.gradient, world.regularizer, w)
    seconds = time.monotonic() - began
    other = central.by_scikit_learn([problem.data for problem in world.problems.values()], world.regularizer)
    if other is not None and world.stationarity(other[0]) <= world.stationarity(w):
        w, n_iterations, solver, seconds = other
    return {
        "solver": solver,
        "objective": world.objective(w),
        "stationarity": world.stationarity(w),
        "test": world.test_metrics(w),
        "iterations": n_iterations,
        "seconds": seconds,
    }
