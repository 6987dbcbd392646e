"""Follow a run, while it goes on or afterwards, and take its numbers to where else they are wanted.

Reads what peers journal, and nothing else: a run does not notice. `peer.launcher` starts it where `[metrics]` says so.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec

from peer import endpoint, files, history, openmetrics, settings
from peer.errors import ConfigError
from peer.history import Round, new_metrics
from peer.openmetrics import Tally
from peer.settings import Experiment, Metrics
from peer.sinks import MLflow, Sink, TensorBoard, check_installed
from topology import PeerId

LOOK_S: Final = 0.5
"""Between two looks at the journals."""

MOST_SHOWN: Final = 32
"""Peers that have a series of their own; of larger networks only the whole has one."""

NAMES: Final[Mapping[str, str]] = {
    "objective_estimate": "objective",
    "residual": "residual",
    "disagreement": "disagreement",
    "validation_estimate": "validation",
    "alpha": "alpha",
    "tau": "tau",
    "solve_s": "solve_s",
    "wait_s": "wait_s",
    "bytes_sent": "bytes_sent",
    "bytes_received": "bytes_received",
}
"""What a series has, by its name in metrics.jsonl."""

LARGEST: Final = ("residual", "solve_s")
"""Of the network: the largest of the peers'."""

SUMMED: Final = ("bytes_sent", "bytes_received", "dropped")
"""Of the network: the sum. Of all else it is the mean."""

Line = Mapping[str, Any]


def values_of(line: Line) -> dict[str, float]:
    """Numbers of a round or waking, by the names of series."""
    found = {name: float(line[key]) for key, name in NAMES.items() if key in line}
    return found | {"dropped": float(sum(line.get("dropped", {}).values()))}


def together(lines: Sequence[Line]) -> dict[str, float]:
    """Numbers of the network, of one line of each peer."""
    parts = [values_of(line) for line in lines]
    found = {}
    for name in (name for name in parts[0] if all(name in part for part in parts)):
        each = [part[name] for part in parts]
        found[name] = max(each) if name in LARGEST else sum(each) / (1 if name in SUMMED else len(each))
    return found


@final
class Whole:
    """Numbers of the network as a whole, from lines of its peers in the order in which they come.

    In rounds there are some for every round, as soon as all have told of it. Without rounds it is the members' last
    lines that count, whenever the one that is ahead has woken again.

    Parameters
    ----------
    n_peers : int
        Of a run in rounds; 0: it has none.
    """

    def __init__(self, n_peers: int) -> None:
        self._n_peers = n_peers
        self._open: dict[int, dict[PeerId, Line]] = {}
        self._last: dict[PeerId, Line] = {}
        self._told = -1

    def add(self, peer: PeerId, line: Line) -> Iterator[tuple[int, dict[str, float]]]:
        """One more line; what it completes, by round or waking."""
        n = int(line["iteration"])
        if self._n_peers:
            there = self._open.setdefault(n, {})
            there[peer] = line
            if len(there) == self._n_peers:
                yield n, together([line for _, line in sorted(self._open.pop(n).items())])
            return
        self._last[peer] = line
        newest = max(int(line["epoch"]) for line in self._last.values())
        self._last = {j: line for j, line in self._last.items() if int(line["epoch"]) == newest}
        if peer in self._last and n > self._told and len(self._last) == int(line["members"]):
            self._told = n
            yield n, together([line for _, line in sorted(self._last.items())])


@final
@dataclass(eq=False)
class Follower:
    """Takes what is new in a run directory to sinks, each line once.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    sinks : sequence of Sink
    tally : Tally
        Is told of every line, too.
    """

    run_dir: Path
    experiment: Experiment
    sinks: Sequence[Sink]
    tally: Tally

    def __post_init__(self) -> None:
        n_peers = self.experiment.peers if self.experiment.run.mode == "rounds" else 0
        self._whole = Whole(n_peers)
        self._offsets: dict[PeerId, int] = {}
        self._done: dict[PeerId, int] = {}
        self.page = self.tally.text()

    def look(self) -> None:
        """Take what is new.

        Raises
        ------
        ConfigError
            A line is no metrics, or a sink refuses it.
        """
        try:
            new = new_metrics(self.run_dir, self._offsets, self.experiment.peers)
            lines = {peer: list(map(json.loads, lines)) for peer, lines in new.items()}
            found = sorted(self._timed(lines), key=lambda one: one[:2])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(str(self.run_dir), f"expected metrics of peers, found: {error}") from error
        for clock_s, peer, line in found:
            self.tally.add(peer, line)
            n, series = int(line["iteration"]), f"peer-{peer:03d}"
            if self.experiment.peers <= MOST_SHOWN:
                self._put(series, n, clock_s, values_of(line))
            for n, values in self._whole.add(peer, line):
                self._put("network", n, clock_s, values)
        for sink in self.sinks:
            sink.flush()
        self.page = self.tally.text()

    def _put(self, series: str, step: int, clock_s: float, values: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.put(series, step, clock_s, values)

    def _timed(self, new: Mapping[PeerId, Sequence[Line]]) -> Iterator[tuple[float, PeerId, Line]]:
        """Lines that were not taken before, each with its peer and when it was over."""
        for peer, lines in new.items():
            fresh = [line for line in lines if int(line["iteration"]) >= self._done.get(peer, 0)]
            if not fresh:  # of a peer that has returned, and went through these again
                continue
            self._done[peer] = int(fresh[-1]["iteration"]) + 1
            folder = files.folder_of(self.run_dir, peer)
            log = history.events(folder)
            clocks = history.waking_clocks([msgspec.convert(line, Round) for line in fresh], log)
            if not history.began_s(log):  # in rounds it does not tell: the last line was written when its file was
                ahead_s = (folder / files.METRICS).stat().st_mtime - clocks[-1]
                clocks = [clock_s + ahead_s for clock_s in clocks]
            yield from zip(clocks, [peer] * len(fresh), fresh, strict=True)


def is_over(run_dir: Path, experiment: Experiment) -> bool:
    """Whether all peers that were ever there have ended, well or not; whom the others found gone cannot say so."""
    folders = {peer: files.folder_of(run_dir, peer) for peer in history.everybody(run_dir, experiment.peers)}
    last = {peer: history.last_event(folder) for peer, folder in folders.items()}
    left = {peer for peer, event in last.items() if event is None or event["event"] != "end"}
    if experiment.run.mode == "rounds" or len(left) in (0, len(last)):
        return not left
    epochs = history.epochs({peer: history.events(folder) for peer, folder in folders.items()})
    return bool(epochs) and left <= {peer for epoch in epochs for peer in epoch.members}.difference(epochs[-1].members)


def experiment_of(run_dir: Path, given: Metrics) -> Experiment:
    """The experiment of a run directory, with these places for numbers, if any, instead of its own.

    Raises
    ------
    ConfigError
        There is none, there is no place, or what a place needs is not installed.
    """
    experiment = settings.read(run_dir / files.EXPERIMENT)
    history.refuse_simulated(run_dir, "peer follow")
    metrics = experiment.metrics if given == Metrics() else given
    if metrics == Metrics():
        raise ConfigError("peer follow", "expected --tensorboard, --mlflow or --openmetrics, or [metrics] of the run")
    settings.endpoint_of(metrics.openmetrics, "--openmetrics")
    check_installed(metrics)
    return msgspec.structs.replace(experiment, metrics=metrics)


def follow(run_dir: Path, experiment: Experiment, tell: Callable[[str], None], while_input: bool) -> None:
    """Follow a run to its end, or until this process is told to end.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
        With the places where numbers go.
    tell : callable
        Takes a line for the user.
    while_input : bool
        Go on until the standard input ends: for whoever starts this, and may be killed.

    Raises
    ------
    ConfigError
        A place cannot be used.
    """
    metrics, sinks = experiment.metrics, list[Sink]()
    if metrics.tensorboard:
        sinks.append(TensorBoard(Path(metrics.tensorboard), experiment.run_id))
    if metrics.mlflow:
        sinks.append(MLflow(metrics.mlflow, experiment))
    follower = Follower(run_dir, experiment, sinks, Tally(experiment.run_id))
    asyncio.run(_follow(follower, tell, while_input))


async def _follow(follower: Follower, tell: Callable[[str], None], while_input: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # whoever started this may block them
    if while_input:
        loop.add_reader(sys.stdin.fileno(), _ended, loop, stop)
    place, server = settings.endpoint_of(follower.experiment.metrics.openmetrics), None
    if place is not None:
        server = await endpoint.serve(place, lambda: follower.page, openmetrics.CONTENT_TYPE, "--openmetrics")
        tell(f"http://{settings.place_text(*place)}/metrics")
    try:
        while True:
            over = stop.is_set() or (not while_input and is_over(follower.run_dir, follower.experiment))
            await asyncio.to_thread(follower.look)
            if over:
                break
            try:
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()
            except TimeoutError:
                pass
    finally:
        for sink in follower.sinks:
            sink.close()
        if server is not None:
            server.close()


def _ended(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop.set()
