"""What a report is of: a run directory, read as far as the run has come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np

from peer import config, files, history, settings
from peer.arrays import Vector
from peer.errors import DONE, INTERRUPTED, ConfigError
from peer.history import Epoch, Round
from peer.settings import Experiment
from topology import Outlets, PeerId, Schedule, TopologyError, schedules

WHOLE: Final = "the network"
"""Of what a summary's numbers are, where it is not a linearization that was trained."""


class Central(msgspec.Struct, frozen=True):
    """What a report shows of central training."""

    objective: float
    stationarity: float
    seconds: float
    test: Mapping[str, float] = {}
    solver: str = ""


class Row(msgspec.Struct, frozen=True):
    """What a report shows of a peer's row in the summary."""

    peer: int
    objective: float | None


class Trained(msgspec.Struct, frozen=True):
    """What a report shows of the regime in the summary."""

    of: str = WHOLE


class Summary(msgspec.Struct, frozen=True):
    """What a report shows of `summary.json`; it has more."""

    iterations: int
    seconds: float
    parameters: int
    samples: int
    bytes: int
    disagreement: float
    objective: float | None
    stationarity: float | None
    per_peer: tuple[Row, ...]
    test: Mapping[str, float] = {}
    shards_seen: tuple[int, ...] | None = None
    members: tuple[int, ...] | None = None
    neurons_off: Mapping[str, tuple[int, ...]] = {}
    central: Central | None = None
    stopped: str = "iterations"
    kept: int | None = None
    regime: Trained = Trained()


@final
@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory says so far.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    text : str
        Of `experiment.toml`.
    schedule : Schedule or Outlets
        Who met whom, or who pushed to whom.
    rounds : dict of int to list of Round
        Of each peer; without rounds its wakings.
    logs : dict of int to list of dict
        Events of each peer.
    epochs : list of Epoch
        Without rounds, the newest last.
    summary : Summary or None
        None where it has not come to its end.
    """

    run_dir: Path
    experiment: Experiment
    text: str
    schedule: Schedule | Outlets
    rounds: Mapping[PeerId, list[Round]]
    logs: Mapping[PeerId, list[dict[str, Any]]]
    epochs: list[Epoch]
    summary: Summary | None

    @property
    def has_rounds(self) -> bool:
        """Whether it has rounds."""
        return self.experiment.run.mode == "rounds"

    @property
    def unit(self) -> str:
        """What peers make one after the other."""
        return "round" if self.has_rounds else "waking"

    @cached_property
    def epoch(self) -> Epoch | None:
        """Without rounds: the epoch that the summary is of; the newest one where there is no summary."""
        told = self.summary.members if self.summary is not None else None
        return next((epoch for epoch in reversed(self.epochs) if told in (None, epoch.members)), None)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All peers; without rounds those of the epoch."""
        return self.epoch.members if self.epoch is not None else tuple(range(self.experiment.peers))

    @property
    def begun(self) -> list[PeerId]:
        """Peers of which there is a round."""
        return [peer for peer, lines in self.rounds.items() if lines]

    def current(self, peer: PeerId) -> list[Round]:
        """The rounds of a peer; without rounds its wakings in the epoch."""
        number = self.epoch.number if self.epoch is not None else 0
        return [line for line in self.rounds.get(peer, []) if line.epoch == number]

    @cached_property
    def n_done(self) -> int:
        """Rounds, or wakings of the epoch, that all members have done."""
        return min(len(self.current(peer)) for peer in self.members)

    @cached_property
    def absent(self) -> list[PeerId]:
        """Members that have left no trace here, while others have done something: they write elsewhere, or are late."""
        if not any(self.current(peer) for peer in self.members):
            return []
        return [peer for peer in self.members if not self.logs.get(peer) and not self.rounds.get(peer)]

    @property
    def here(self) -> list[PeerId]:
        """The other members."""
        return [peer for peer in self.members if peer not in self.absent]

    @cached_property
    def n_done_here(self) -> int:
        """Rounds, or wakings of the epoch, that all of those have done."""
        return min(len(self.current(peer)) for peer in self.here)

    @cached_property
    def began_s(self) -> float:
        """When the first peer was started, as `history.clocks`."""
        return min((history.began_s(log) for log in self.logs.values() if log), default=0.0)

    @property
    def times(self) -> dict[PeerId, Vector] | None:
        """Without rounds: when each waking was, in seconds since the start of the first peer."""
        if self.has_rounds:
            return None
        clocks = {peer: history.waking_clocks(self.rounds[peer], self.logs[peer]) for peer in self.begun}
        return {peer: np.array(found) - self.began_s for peer, found in clocks.items()}

    def column(self, name: str) -> dict[PeerId, Vector]:
        """A number of every round, by peer."""
        lines = {peer: self.rounds[peer] for peer in self.begun}
        return {peer: np.array([getattr(line, name) for line in found], float) for peer, found in lines.items()}

    def total(self, name: str) -> dict[PeerId, float]:
        """The sum over the rounds, of each peer."""
        return {peer: sum(getattr(line, name) for line in lines) for peer, lines in self.rounds.items()}

    def starts(self, peer: PeerId) -> list[dict[str, Any]]:
        """Events of a peer's starts."""
        return [event for event in self.logs[peer] if event["event"] == "start"]

    def samples(self, peer: PeerId) -> int | None:
        """How many a peer has, as it said at its start."""
        return next((event.get("samples") for event in self.starts(peer)), None)

    def end(self, peer: PeerId) -> tuple[int, str] | None:
        """Exit code of a peer that has ended, and why."""
        log = self.logs.get(peer)
        last = log[-1] if log else None
        if last is None or last["event"] != "end" or not isinstance(last.get("code"), int):
            return None
        return last["code"], str(last.get("problem", ""))

    def state(self, peer: PeerId) -> str:
        """How far a peer is, in words."""
        end = self.end(peer)
        gone = peer not in self.members and any(peer in epoch.members for epoch in self.epochs)
        if gone and (end is None or end[0] == INTERRUPTED):
            return "lost" if end is None else "left"
        if end is not None:
            return "done" if end[0] == DONE else f"ended with exit code {end[0]}"
        return "running, or killed" if self.logs[peer] else "not seen yet"


def names_of(paths: Sequence[Path]) -> list[str]:
    """What several absolute paths are called: the end of each by which it differs from the others."""
    found = []
    for path in paths:
        n = next(n for n in range(1, len(path.parts) + 1) if sum(o.parts[-n:] == path.parts[-n:] for o in paths) == 1)
        found.append(str(Path(*path.parts[-n:])))
    return found


def experiment_of(run_dir: Path) -> Experiment:
    """The experiment of a run directory.

    Raises
    ------
    ConfigError
        It is none.
    """
    path = run_dir / files.EXPERIMENT
    if not path.exists():
        raise ConfigError(str(run_dir), "expected a run directory, found no experiment.toml in it")
    return settings.read(path)


def read(run_dir: Path) -> Run:
    """Everything that a report tells.

    Raises
    ------
    ConfigError
        It is no run directory, or a file in it is malformed; names the file.
    """
    experiment = experiment_of(run_dir)
    folders = {peer: files.folder_of(run_dir, peer) for peer in history.everybody(run_dir, experiment.peers)}
    logs = {peer: history.events(folder) for peer, folder in folders.items()}
    return Run(
        run_dir=run_dir,
        experiment=experiment,
        text=(run_dir / files.EXPERIMENT).read_text(encoding="utf-8"),
        schedule=_schedule(experiment, run_dir / files.SCHEDULE),
        rounds={peer: history.rounds(folder) for peer, folder in folders.items()},
        logs=logs,
        epochs=history.epochs(logs),
        summary=_summary(run_dir / files.SUMMARY),
    )


def _schedule(experiment: Experiment, record: Path) -> Schedule | Outlets:
    """The schedule; one that came from a file, from its copy in the run directory."""
    if experiment.run.mode == "async":
        if experiment.topology.schedule == "file" and record.exists():
            topology = msgspec.structs.replace(experiment.topology, path=str(record))
            experiment = msgspec.structs.replace(experiment, topology=topology)
        return config.outlets_of(experiment)
    if experiment.topology.schedule != "file" or not record.exists():
        return config.schedule_of(experiment)
    try:
        return schedules.load(record, experiment.peers)
    except TopologyError as error:
        raise ConfigError("schedule", str(error)) from error


def _summary(path: Path) -> Summary | None:
    if not path.exists():
        return None
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Summary)
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(str(path), f"expected a summary of a run, found: {error}") from error
