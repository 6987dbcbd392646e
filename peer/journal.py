"""What a peer writes down: one JSON line a round, and one for whatever happens besides; `peer.history` reads it."""

from __future__ import annotations

import fcntl
import json
import os
from asyncio import TimerHandle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, final

import msgspec

from peer import files
from peer.errors import ConfigError

GATHER_S: Final = 0.1
"""Lines of rounds that are shorter are gathered for so long at most, and written together: one by one they would take a
tenth of a round of a millisecond. Longer rounds are written at once."""

ROUND: Final = msgspec.json.Encoder(enc_hook=float)
"""Of lines of rounds, in which numbers may be numpy's."""


@final
class Journal:
    """`metrics.jsonl` and `log.jsonl` of one peer. Lines are whole as soon as they are written.

    Lines of rounds may wait for up to GATHER_S, but no line of the log goes before them, and no `sync`.

    What happens may happen anywhere, so an event that the system does not let be written is not an error
    there and then: the next `round`, `sync` or `check` raises it.

    Parameters
    ----------
    folder : Path
        Of the peer; made where it is missing.
    behind : int or None
        Go on behind what is there, and behind the first so many rounds or wakings: what was written of later ones stays
        until the first of them is over again. None: start anew.
    publish : callable or None
        Takes the name of the file, without its ending, and each line as it has been written.
    later : callable or None
        Calls a function after some seconds, unless it is told not to any more: an event loop's `call_later`. None:
        every line is written at once.

    Attributes
    ----------
    told : callable or None
        Is told of every round's numbers, too.
    """

    def __init__(
        self,
        folder: Path,
        behind: int | None,
        publish: Callable[[str, bytes], None] | None = None,
        later: Callable[[float, Callable[[], None]], TimerHandle] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._behind, self._publish, self._later = folder, behind, publish, later
        self._gathered: list[dict[str, object]] = []
        self._flushing: TimerHandle | None = None
        self.told: Callable[[Mapping[str, Any]], None] | None = None
        mode = "w" if behind is None else "a"
        self._metrics = (folder / files.METRICS).open(mode, encoding="utf-8")
        self._log = (folder / files.LOG).open(mode, encoding="utf-8")
        if self._log.tell() and _ends_torn(folder / files.LOG):
            self._log.write("\n")  # else the next event would be part of the torn line
        self._seen: set[tuple[str, object]] = set()
        self._refusal: OSError | None = None

    def round(self, **values: object) -> None:
        """One round's numbers.

        Raises
        ------
        OSError
            The disk is full; names the file. So in all methods.
        """
        self.check()
        if self._behind is not None:
            truncate_metrics(self._folder, self._behind)
            self._behind = None
        self._gathered.append(values)
        if self._later is None:
            self._write_rounds()
        elif self._flushing is None:
            self._write_rounds()
            self._flushing = self._later(GATHER_S, self._flush)
        if self.told is not None:
            self.told(values)

    def event(self, kind: str, time_s: float, **facts: object) -> None:
        """Something that happened, at `time_s` seconds since the start."""
        try:
            self._write_rounds()
            self._write(self._log, [json.dumps({"time_s": round(time_s, 6), "event": kind, **facts})])
        except OSError as error:
            self._refusal = error

    def once(self, kind: str, key: object, time_s: float, **facts: object) -> None:
        """Something that may happen again and again: the first time for each key."""
        if (kind, key) not in self._seen:
            self._seen.add((kind, key))
            self.event(kind, time_s, **facts)

    def _flush(self) -> None:
        """Write what was gathered; go on gathering if there was anything."""
        self._flushing = None
        if self._gathered and self._later is not None:
            self._flushing = self._later(GATHER_S, self._flush)
        try:
            self._write_rounds()
        except OSError as error:
            self._refusal = error

    def _write_rounds(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._write(self._metrics, [line_of(values) for values in gathered])

    def _write(self, file: IO[str], lines: Sequence[str]) -> None:
        try:
            file.write("\n".join(lines) + "\n")
            file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, file.name) from error
        if self._publish is not None:
            for line in lines:
                self._publish("metrics" if file is self._metrics else "log", line.encode())

    def check(self) -> None:
        """Raise what kept an event from being written."""
        if self._refusal is not None:
            raise self._refusal

    def sync(self) -> None:
        """See to it that the rounds are on the disk: a checkpoint that counts on them may follow."""
        self.check()
        self._write_rounds()
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Close the files; what could not be written to them was raised before."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        with suppress(OSError):
            self._write_rounds()
        for file in (self._metrics, self._log):
            with suppress(OSError):
                file.close()


def line_of(values: Mapping[str, object]) -> str:
    """JSON of a round's numbers: what `json.dumps` writes, but for blanks, in a tenth of the time."""
    line = ROUND.encode(values)
    return json.dumps(values) if b"null" in line else line.decode()  # which is what infinity and nan are there


def claim(folder: Path) -> IO[bytes]:
    """Make a folder this process's own for as long as the file that is returned is open.

    Raises
    ------
    ConfigError
        Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigError("--out", f"{folder}: another process of this peer is running there") from error
    except OSError:  # a file system without locks
        pass
    return lock


def truncate_metrics(folder: Path, n_rounds: int) -> None:
    """Drop the lines of rounds from n_rounds on, which a resumed peer goes through again."""
    path = folder / files.METRICS
    if not path.exists():
        return
    with path.open("rb") as file:
        kept = sum(len(line) for line, _ in zip(file, range(n_rounds), strict=False) if line.endswith(b"\n"))
    os.truncate(path, kept)  # in place: were this process killed now, nothing else would be lost


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
