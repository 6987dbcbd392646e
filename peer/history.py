"""What peers have written down, see `peer.journal`, read again: rounds, events, epochs, and how somebody gets on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, final

import msgspec

from peer import files
from peer.errors import DONE, ConfigError
from topology import PeerId

TAIL_BYTES: Final = 4_096
"""What is read first of a log's end: the last line and more, but for a very long one."""


class Round(msgspec.Struct, frozen=True):
    """What is read again of a line of `metrics.jsonl`, of a round or a waking; it has more."""

    iteration: int
    time_s: float
    objective_estimate: float
    residual: float
    disagreement: float
    solve_s: float
    wait_s: float
    bytes_sent: int
    bytes_received: int
    dropped: Mapping[str, int]
    heard: Sequence[int] = ()
    epoch: int = 0
    validation_estimate: float = 0.0  # where samples are held out


def is_simulated(run_dir: Path) -> bool:
    """Whether a run directory is of `peer simulate`: without peers, and what they write down."""
    return (run_dir / files.ROUNDS).exists()


def refuse_simulated(run_dir: Path, by: str) -> None:
    """Say what a command that needs peers, `by`, has been given in their place.

    Raises
    ------
    ConfigError
        It is a run of `peer simulate`.
    """
    if is_simulated(run_dir):
        raise ConfigError(by, f"expected a run of peers, found one of `peer simulate` in {run_dir}")


def everybody(run_dir: Path, n_peers: int) -> tuple[PeerId, ...]:
    """Peers 0..n_peers-1, and whoever else has written into the run directory, ascending."""
    names = (path.parent.name for path in (run_dir / files.PEERS).glob(f"*/{files.LOG}"))
    found = {int(name) for name in names if name.isascii() and name.isdigit() and name == f"{int(name):03d}"}
    return tuple(sorted(found.union(range(n_peers))))


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending numbers, those that follow each other together."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return parts


def ranges(peers: Sequence[PeerId]) -> str:
    """Ascending peers in words: "0 to 3, 8"."""
    parts = runs(peers)
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)


@final
@dataclass(frozen=True)
class Epoch:
    """An epoch of a run without rounds, as the peers have logged it.

    Parameters
    ----------
    number : int
    members : tuple of int
        Ascending; I is their number.
    n_samples : int
        M.
    clock_s : float
        When the first of them opened it, as `clocks`.
    opened : tuple of int
        Those who did, ascending.
    """

    number: int
    members: tuple[PeerId, ...]
    n_samples: int
    clock_s: float
    opened: tuple[PeerId, ...]


class _Logged(msgspec.Struct, frozen=True):
    """What is read again of an event that tells a time, or an epoch."""

    time_s: float = 0.0
    clock_s: float = 0.0
    n: int = 0
    epoch: int = 0
    members: tuple[int, ...] = ()
    samples: int = 0


def epochs(logs: Mapping[PeerId, Sequence[Mapping[str, Any]]]) -> list[Epoch]:
    """All epochs that some peer has logged, the newest last; none in a run that has rounds.

    Raises
    ------
    ConfigError
        An event is malformed.
    """
    found: dict[int, Epoch] = {}
    for peer, log in sorted(logs.items()):
        if all(event["event"] != "epoch" for event in log):
            continue
        for event, clock_s in zip(log, clocks(log), strict=True):
            if event["event"] == "epoch":
                one = _logged(event)
                before = found.get(one.epoch, Epoch(one.epoch, one.members, one.samples, clock_s, ()))
                opened = tuple(sorted({*before.opened, peer}))
                found[one.epoch] = replace(before, clock_s=min(before.clock_s, clock_s), opened=opened)
    return [found[number] for number in sorted(found)]


def last_epoch(run_dir: Path, n_peers: int) -> Epoch | None:
    """The newest epoch of a run; None where it has rounds, or has not begun."""
    found = epochs({peer: events(files.folder_of(run_dir, peer)) for peer in everybody(run_dir, n_peers)})
    return found[-1] if found else None


def members(run_dir: Path, n_peers: int) -> tuple[PeerId, ...]:
    """Members of the newest epoch, ascending; peers 0..n_peers-1 of a run that has rounds, or has not begun."""
    epoch = last_epoch(run_dir, n_peers)
    return tuple(range(n_peers)) if epoch is None else epoch.members


def began_s(log: Sequence[Mapping[str, Any]]) -> float:
    """When a peer was started first, seconds since 1970 by its host's clock; 0 where it does not tell."""
    return next((_start(event)[1] for event in log if event["event"] == "start"), 0.0)


def clocks(log: Sequence[Mapping[str, Any]]) -> list[float]:
    """When each event of a log happened, by the clock of `began_s`: seconds count from every start anew."""
    found, start_s = [], 0.0
    for event in log:
        if event["event"] == "start":
            _, start_s = _start(event)
        found.append(start_s + _logged(event).time_s)
    return found


def waking_clocks(lines: Sequence[Round], log: Sequence[Mapping[str, Any]]) -> list[float]:
    """When each round or waking of a peer was over, by the clock of `began_s`; a resumed one went on behind n.

    Where starts do not tell the clock, the time between two processes does not count.
    """
    starts = [_start(event) for event in log if event["event"] == "start"] or [(0, 0.0)]
    found: list[float] = []
    began, start_s = -1, 0.0
    for line in lines:
        last = next((k for k in range(len(starts) - 1, 0, -1) if starts[k][0] <= line.iteration), 0)
        if last != began:
            began, start_s = last, starts[last][1] or (found[-1] if found else 0.0)
        found.append(start_s + line.time_s)
    return found


def _start(event: Mapping[str, Any]) -> tuple[int, float]:
    """Rounds or wakings that were done at a start, and the time from which its process counts."""
    start = _logged(event)
    return start.n, start.clock_s - start.time_s if start.clock_s else 0.0


def _logged(event: Mapping[str, Any]) -> _Logged:
    try:
        return msgspec.convert(event, _Logged)
    except msgspec.ValidationError as error:
        raise ConfigError(files.LOG, f"expected an event of a peer, found {dict(event)}: {error}") from error


def rounds(folder: Path, most: int | None = None) -> list[Round]:
    """The rounds that a peer has written down, or the first of them; none where it has not begun, or writes elsewhere.

    A last line without its end is a line that is being written, or was when the peer was killed.

    Raises
    ------
    ConfigError
        A line is no round, or not the next one; names the file and the line.
    """
    path = folder / files.METRICS
    found: list[Round] = []
    for number, line in enumerate(islice(_whole_lines(path), most), start=1):
        place = f"{path}, line {number}"
        try:
            found.append(msgspec.convert(json.loads(line), Round))
        except msgspec.ValidationError as error:
            raise ConfigError(place, f"expected a round of metrics, found: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(place, f"expected JSON, found: {error}") from error
        if found[-1].iteration != number - 1:
            raise ConfigError(place, f"expected round {number - 1}, found round {found[-1].iteration}")
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    """All that a peer has written down of its rounds, as it is there.

    Raises
    ------
    ConfigError
        A line is no JSON object; names the file and the line.
    """
    path = folder / files.METRICS
    found = []
    for number, line in enumerate(_whole_lines(path), start=1):
        parsed = _object(line)
        if parsed is None:
            raise ConfigError(f"{path}, line {number}", "expected a round of metrics, found no JSON object")
        found.append(parsed)
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    """What a peer has logged; without lines that a crash has torn.

    Raises
    ------
    ConfigError
        The file is there, and cannot be read.
    """
    return [event for line in _whole_lines(folder / files.LOG) if (event := _event(line)) is not None]


def last_event(folder: Path) -> dict[str, Any] | None:
    """The last event of a peer's log, of which only the end is read; None where there is none."""
    return _last(folder / files.LOG, _event)


def _last(path: Path, parsed: Callable[[bytes], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What the last line of a file that can be parsed says; only the end of the file is read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            n_bytes = TAIL_BYTES
            while True:
                start = max(0, size - n_bytes)
                file.seek(start)
                lines = file.read(size - start).split(b"\n")[:-1]  # what comes after the last line's end is torn
                # the first of these lines begins before `start`, unless the whole file is here
                for line in reversed(lines if start == 0 else lines[1:]):
                    if (found := parsed(line)) is not None:
                        return found
                if start == 0:
                    return None
                n_bytes *= 2
    except OSError:
        return None


def ended_well(event: Mapping[str, Any] | None) -> bool:
    """Whether a peer whose last event this is has done all its rounds, and has gone."""
    return event is not None and event["event"] == "end" and event.get("code") == DONE


def unfinished(run_dir: Path, n_peers: int) -> dict[PeerId, dict[str, Any] | None]:
    """The members that have not ended well, each with its last event; one that failed may still be resumed."""
    last = {peer: last_event(files.folder_of(run_dir, peer)) for peer in members(run_dir, n_peers)}
    return {peer: event for peer, event in last.items() if not ended_well(event)}


def needs_nothing(folder: Path) -> bool:
    """Whether a peer has ended well, and all its neighbors had said so too: nobody needs it any more."""
    event = last_event(folder)
    return event is not None and ended_well(event) and not event.get("absent")


@final
@dataclass(frozen=True)
class Health:
    """How a peer gets on.

    Parameters
    ----------
    good : bool
        It has made a round or a waking lately, or its run is complete.
    line : str
        What it does, for the user.
    """

    good: bool
    line: str


def health(folder: Path, within_s: float, now: float, counted: str = "rounds") -> Health:
    """How a peer gets on, by what it wrote down last; `now` in seconds since 1970, as the file system counts.

    `counted` is what it makes one after the other, in words: without rounds it has wakings.
    """
    log, metrics = folder / files.LOG, folder / files.METRICS
    last = last_event(folder)
    if last is None:
        return Health(False, f"it has not started: expected its log at {log}")
    if last["event"] == "end":
        code, problem = last.get("code"), last.get("problem")
        return Health(ended_well(last), "done" if ended_well(last) else f"ended with exit code {code}: {problem}")
    n = n_done(folder)
    # before its first round is done, a peer has made progress when it last logged something
    idle_s = max(0.0, now - (metrics if n else log).stat().st_mtime)
    waits = f"; waits for peers {last.get('peers')} since {last.get('since')}" if last["event"] == "waiting" else ""
    return Health(idle_s <= within_s, f"{n} {counted} done, the last {idle_s:.1f} s ago{waits}")


def n_done(folder: Path) -> int:
    """Rounds or wakings that a peer has journaled, by its last line; 0 where it has not begun."""
    return int((_last(folder / files.METRICS, _counted) or {}).get("iteration", -1)) + 1


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def round_of(line: bytes) -> dict[str, Any] | None:
    """All that a line says of a round; None where it is none."""
    found = _object(line)
    try:
        msgspec.convert(found, Round)
    except msgspec.ValidationError:
        return None
    return found


def _counted(line: bytes) -> dict[str, Any] | None:
    found = _object(line)
    return found if found is not None and type(found.get("iteration")) is int else None


def _event(line: bytes) -> dict[str, Any] | None:
    found = _object(line)
    return found if found is not None and isinstance(found.get("event"), str) else None


def grown(path: Path, before: int, most: int = -1) -> tuple[list[bytes], int, bool]:
    """Whole lines that have come to a file since its first `before` bytes were read, among the `most` that follow.

    All of its lines where its last ones were cut off, as by a peer that has returned.

    Returns
    -------
    (list of bytes, int, bool)
        The lines; how many bytes are read now; whether lines were cut off.

    Raises
    ------
    OSError
        It is not there yet, or not for us to read.
    """
    if path.stat().st_size == before:
        return [], before, False
    with path.open("rb") as file:
        file.seek(max(0, before - 1))
        cut_off = before > 0 and file.read(1) != b"\n"
        start = file.seek(0 if cut_off else before)
        text = file.read(most)
    whole = text.rfind(b"\n") + 1
    return text[:whole].splitlines(), start + whole, cut_off


def new_metrics(run_dir: Path, offsets: dict[PeerId, int], peers: int) -> dict[PeerId, list[bytes]]:
    """The lines of every peer's metrics that came since the last call, by peer; moves `offsets` on.

    Of a peer that has returned meanwhile, and has cut off its last lines, all lines come again.
    """
    found: dict[PeerId, list[bytes]] = {}
    for peer in everybody(run_dir, peers):
        with suppress(FileNotFoundError):
            new, offsets[peer], _ = grown(files.folder_of(run_dir, peer) / files.METRICS, offsets.get(peer, 0))
            if new:
                found[peer] = new
    return found


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(str(path), f"expected a file to read, found: {error.strerror}") from error
