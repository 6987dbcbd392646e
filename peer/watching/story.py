"""What is known of a run so far: the numbers of every round or waking by peer, and what happened; for any reader.

A `Source` gives lines as peers have written them, in any order of peers, some twice, some never. What is kept of a
long run is every second round, every fourth and so on, and the last: numbers that add up are added up before.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final

import msgspec

from peer.errors import DONE
from peer.history import ranges
from peer.settings import Experiment
from topology import PeerId

MOST: Final = 2_000
"""Rounds of a peer that are kept: more than a page has pixels across."""

MOST_NOTES: Final = 2_000
"""Events that are kept; the oldest go first."""

DIGITS: Final = 7
"""Significant ones of each number: a page shows no more than four."""

METRICS, LOG = "metrics", "log"
"""Which journal of a peer a line is of."""


class Source(Protocol):
    """Where lines come from."""

    lasts: bool
    """Whether what has come can be looked up at any time; else it has to be read as it comes."""

    def experiment(self) -> Experiment | None:
        """What is run; None as long as it is not known."""

    def look(self) -> list[Line]:
        """What has come since the last look."""

    def close(self) -> None:
        """Let go of what it holds."""


@final
@dataclass(frozen=True)
class Line:
    """A line of a peer's journal.

    Parameters
    ----------
    peer : int
    journal : str
        METRICS or LOG.
    text : bytes
        JSON. None: the file begins anew, and what came of it before does not count any more.
    """

    peer: PeerId
    journal: str
    text: bytes | None


class Turn(msgspec.Struct, frozen=True):
    """What a page shows of a line of metrics, of a round or a waking."""

    iteration: int
    time_s: float
    objective_estimate: float = math.nan
    residual: float = math.nan
    disagreement: float = math.nan
    alpha: float = math.nan
    tau: float = math.nan
    solve_s: float = 0.0
    wait_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    neighbors: tuple[int, ...] = ()
    dropped: Mapping[str, int] = {}


class Event(msgspec.Struct, frozen=True):
    """What a page shows of a line of a log."""

    event: str
    time_s: float = 0.0
    clock_s: float = 0.0
    n: int = 0
    peer: int | None = None
    peers: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    samples: int = 0
    waited_s: float = 0.0
    silent_s: float = 0.0
    code: int = 0
    problem: str = ""
    reason: str = ""
    cause: str = ""
    stopped: str = ""


SUMS: Final = ("solve_s", "wait_s", "bytes_sent", "bytes_received")
"""Columns of which a round has a part: they are told as sums from the start."""

PLAIN: Final = ("objective_estimate", "residual", "disagreement", "alpha", "tau")
"""Columns that are told as they are."""

DROPPED: Final = "dropped."
"""Before the cause, in the name of a column that counts what was dropped for it, from the start of the process."""


@final
@dataclass
class Track:
    """Numbers of one peer: columns of equal length.

    Parameters
    ----------
    columns : dict of str to array
        "n", "t" in seconds, those of PLAIN and SUMS, and one for each cause of drops.
    links : list of tuple of int
        To whom it sent, each time.
    settled : int
        So many first entries stay; the one behind them, if any, is replaced by the next.
    generation : int
        How often entries that had settled were taken back.
    sums : dict of str to float
        Of SUMS, so far.
    starts : list of (int, float)
        Rounds done at each start of the process, and what to add to its times.
    noted_s : float
        When what was logged last happened.
    """

    columns: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in ("n", "t", *PLAIN, *SUMS)}
    )
    links: list[tuple[int, ...]] = field(default_factory=list)
    settled: int = 0
    generation: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    starts: list[tuple[int, float]] = field(default_factory=list)
    noted_s: float = 0.0

    def __len__(self) -> int:
        return len(self.links)

    @property
    def last_n(self) -> int:
        """The last round that is there; -1 if none is."""
        return int(self.columns["n"][-1]) if self.links else -1

    @property
    def last_s(self) -> float:
        """When that was over."""
        return self.columns["t"][-1] if self.links else 0.0

    def cut(self, length: int) -> None:
        """Keep so many first entries."""
        if length < self.settled:
            self.settled, self.generation = length, self.generation + 1
        for values in self.columns.values():
            del values[length:]
        del self.links[length:]
        self.sums = {name: self.columns[name][-1] if length else 0.0 for name in SUMS}

    def take(self, line: Turn, stride: int) -> None:
        """Take the next round in; one that is there already takes back all from it on."""
        if line.iteration <= self.last_n:  # the peer was killed, and goes through its last rounds again
            self.cut(next(k for k, n in enumerate(self.columns["n"]) if n >= line.iteration))
        sums = {name: value + getattr(line, name) for name, value in self.sums.items()}
        if len(self) > self.settled:
            self.cut(self.settled)
        self.sums = sums
        begun_s = next((s for n, s in reversed(self.starts) if n <= line.iteration), 0.0)
        told = {"n": line.iteration, "t": begun_s + line.time_s, **sums}
        told |= {name: getattr(line, name) for name in PLAIN}
        told |= {DROPPED + cause: n for cause, n in line.dropped.items()}
        for name in told:
            if name not in self.columns:
                self.columns[name] = array("d", bytes(8 * len(self)))
        for name, values in self.columns.items():
            values.append(told.get(name, 0.0))
        self.links.append(line.neighbors)
        self.settled = len(self) if line.iteration % stride == 0 else self.settled

    def thin(self, stride: int) -> None:
        """Keep rounds that `stride` divides, and the last."""
        last = len(self) - 1
        kept = [k for k, n in enumerate(self.columns["n"]) if int(n) % stride == 0 or k == last]
        for name, values in self.columns.items():
            self.columns[name] = array("d", (values[k] for k in kept))
        self.links = [self.links[k] for k in kept]
        self.settled = len(kept) - (bool(kept) and self.last_n % stride != 0)
        self.generation += 1

    def told(self, start: int) -> dict[str, Any]:
        """The entries from `start` on, for a page."""
        found: dict[str, Any] = {name: [_short(x) for x in values[start:]] for name, values in self.columns.items()}
        return {"from": start, "links": self.links[start:], **found}


@final
@dataclass
class Cursor:
    """How far a reader has read.

    Parameters
    ----------
    settled : dict of int to (int, int)
        Generation, and entries that it has for good, by peer.
    notes : (int, int)
        The same of notes.
    version : int
        Of the story.
    """

    settled: dict[PeerId, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[int, int] = (0, 0)
    version: int = 0


@final
class Story:
    """All that is known of a run so far."""

    def __init__(self) -> None:
        self.tracks: dict[PeerId, Track] = {}
        self.notes: list[dict[str, Any]] = []
        self.stride = 1
        self.version = 0
        self.n_unreadable = 0
        self._notes_generation = 0
        self._zero_s: float | None = None

    def take(self, lines: Iterable[Line]) -> None:
        """Take in what has come.

        What is no line of a journal is counted: a page must not end because a disk was full.
        """
        events = list[tuple[PeerId, Event]]()
        rounds: dict[PeerId, deque[Turn | None]] = {}
        for line in lines:
            if line.text is None and line.journal == METRICS:
                rounds.setdefault(line.peer, deque()).append(None)
            elif line.text is None:
                self._forget(line.peer)
            else:
                found = _parsed(line.text, Turn if line.journal == METRICS else Event)
                if found is None:
                    self.n_unreadable += 1
                elif isinstance(found, Turn):
                    rounds.setdefault(line.peer, deque()).append(found)
                else:
                    events.append((line.peer, found))
        if self._zero_s is None:
            begun = [event.clock_s - event.time_s for _, event in events if event.event == "start" and event.clock_s]
            self._zero_s = min(begun, default=None)
        for (peer, event), n in zip(events, _kept(events), strict=True):
            before = rounds.get(peer, deque())
            while event.event == "start" and before and (before[0] is None or before[0].iteration < n):
                self._round(peer, before.popleft())
            self._note(peer, event)
        for peer, left in rounds.items():
            for one in left:
                self._round(peer, one)
        if events or rounds:
            self.version += 1

    def _round(self, peer: PeerId, one: Turn | None) -> None:
        track = self.tracks.setdefault(peer, Track())
        if one is None:
            track.cut(0)
            return
        track.take(one, self.stride)
        while len(track) > MOST:
            self._thin()

    def _thin(self) -> None:
        self.stride *= 2
        for track in self.tracks.values():
            track.thin(self.stride)

    def _forget(self, peer: PeerId) -> None:
        """The log of a peer begins anew."""
        self.notes = [note for note in self.notes if note["peer"] != peer]
        track = self.tracks.setdefault(peer, Track())
        track.starts.clear()
        track.noted_s = 0.0
        self._notes_generation += 1

    def _note(self, peer: PeerId, event: Event) -> None:
        track = self.tracks.setdefault(peer, Track())
        if event.event == "start":
            # without a clock: right behind what came before
            begun_s = max(track.last_s, track.noted_s) if track.starts else 0.0
            if event.clock_s and self._zero_s is not None:
                begun_s = event.clock_s - event.time_s - self._zero_s
            track.starts.append((event.n, begun_s))
        begun_s = track.starts[-1][1] if track.starts else 0.0
        track.noted_s = begun_s + event.time_s
        about = event.peers or ((event.peer,) if event.peer is not None else ())
        note = {"t": _short(begun_s + event.time_s), "peer": peer, "kind": event.event, "about": about}
        note |= {"code": event.code} if event.event == "end" else {}
        note |= {"members": event.members} if event.event == "epoch" else {}
        note |= {"n": event.n} if event.event in ("start", "waiting", "together", "done") else {}
        self.notes.append(note | {"text": in_words(event)})
        if len(self.notes) > MOST_NOTES:
            self.notes = self.notes[-MOST_NOTES // 2 :]
            self._notes_generation += 1

    def since(self, cursor: Cursor) -> dict[str, Any] | None:
        """What a reader does not know yet, which it does after this; None if it knows all."""
        if cursor.version == self.version:
            return None
        cursor.version = self.version
        peers: dict[str, Any] = {}
        for peer, track in sorted(self.tracks.items()):
            generation, settled = cursor.settled.get(peer, (-1, 0))
            start = settled if generation == track.generation else 0
            if len(track) > start or generation != track.generation:
                peers[str(peer)] = track.told(start)
            cursor.settled[peer] = track.generation, track.settled
        generation, n_notes = cursor.notes
        start = n_notes if generation == self._notes_generation else 0
        cursor.notes = self._notes_generation, len(self.notes)
        return {"peers": peers, "notes": {"from": start, "more": self.notes[start:]}, "unreadable": self.n_unreadable}


def in_words(event: Event) -> str:
    """What happened, for people."""
    peers = f"peer{'s' * (len(event.peers) > 1)} {ranges(sorted(event.peers))}" if event.peers else ""
    told = {
        "start": f"goes on behind round {event.n}" if event.n else "starts",
        "model": "has made its network",
        "ready": f"is ready: {event.samples} samples in all",
        "waiting": f"waits for {peers}",
        "together": f"all are here, after {event.waited_s:.3g} s",
        "disconnected": f"has lost the connection to peer {event.peer}",
        "lost": f"gives peer {event.peer} up, silent for {event.silent_s:.3g} s",
        "epoch": f"begins an epoch of members {ranges(sorted(event.members))}",
        "done": "is done" if event.stopped in ("", "iterations") else f"is done, stopped by {event.stopped}",
        "end": "has ended" if event.code == DONE else f"has ended with exit code {event.code}: {event.problem}",
        "dropped": f"drops what came from {_name(event.peer)} ({event.cause}): {event.problem}",
        "refused": f"is refused by peer {event.peer}: {event.problem}",
        "unreachable": f"cannot reach peer {event.peer}: {event.problem}",
        "relinearized": f"has linearized its network: {event.reason}",
        "backprop": f"goes back to backprop: {event.reason}",
    }
    return told.get(event.event, event.event)


def _kept(events: Sequence[tuple[PeerId, Event]]) -> list[int]:
    """Of each event: so many first rounds of its peer no start from there on goes behind; 0 where there is none."""
    found, least = list[int](), dict[PeerId, int]()
    for peer, event in reversed(events):
        if event.event == "start":
            least[peer] = min(event.n, least.get(peer, event.n))
        found.append(least.get(peer, 0))
    return found[::-1]


def _name(peer: PeerId | None) -> str:
    return "strangers" if peer is None else f"peer {peer}"


def _parsed(text: bytes, kind: type[Turn] | type[Event]) -> Turn | Event | None:
    """A line of a journal; None if it is none."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(json.loads(text), kind)  # which knows of nan and infinity
    except (ValueError, RecursionError):
        return None


def _short(value: float) -> float | int | None:
    """A number as short as a page may have it; None for what JSON has no number for."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")
