"""What a peer writes down: one JSON line a round, and one for whatever happens besides."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

from topology import PeerId

TAIL_BYTES: Final = 1 << 16
"""The last lines of a journal are looked for in so much of it; a line is far shorter."""


def folder_of(run_dir: Path, peer: PeerId) -> Path:
    """Folder of a peer in a run directory."""
    return run_dir / "peers" / f"{peer:03d}"


@final
class Journal:
    """`metrics.jsonl` and `log.jsonl` of one peer. Lines are whole as soon as they are written.

    Parameters
    ----------
    folder : Path
        Of the peer; made where it is missing.
    resume : bool
        Go on behind what is there; otherwise start anew.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mode = "a" if resume else "w"
        self._metrics = (folder / "metrics.jsonl").open(mode, encoding="utf-8")
        self._log = (folder / "log.jsonl").open(mode, encoding="utf-8")
        self._seen: set[tuple[str, object]] = set()

    def round(self, **values: object) -> None:
        """One round's numbers."""
        self._write(self._metrics, values)

    def event(self, kind: str, time_s: float, **facts: object) -> None:
        """Something that happened, at `time_s` seconds since the start."""
        self._write(self._log, {"time_s": round(time_s, 6), "event": kind, **facts})

    def once(self, kind: str, key: object, time_s: float, **facts: object) -> None:
        """Something that may happen again and again: the first time for each key."""
        if (kind, key) not in self._seen:
            self._seen.add((kind, key))
            self.event(kind, time_s, **facts)

    def _write(self, file: IO[str], values: dict[str, object]) -> None:
        file.write(json.dumps(values) + "\n")
        file.flush()

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._log.close()


def truncate_metrics(folder: Path, n_rounds: int) -> None:
    """Drop the lines of rounds from n_rounds on, which a resumed peer goes through again."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:n_rounds]), encoding="utf-8")


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a journal that may be growing; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        found = json.loads(lines[-1]) if lines else None
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def has_ended(folder: Path) -> bool:
    """Whether a peer's run is complete, and nobody needs it any more."""
    last = last_line(folder / "log.jsonl") or {}
    return last.get("event") == "end" and last.get("code") == 0 and not last.get("absent")


@final
@dataclass(frozen=True)
class Health:
    """How a peer gets on.

    Parameters
    ----------
    good : bool
        It has made a round's progress lately, or its run is complete.
    line : str
        What it does, for the user.
    """

    good: bool
    line: str


def health(folder: Path, within_s: float, now: float) -> Health:
    """How a peer gets on, by what it wrote down last; `now` in seconds since 1970, as the file system counts."""
    log, rounds = folder / "log.jsonl", folder / "metrics.jsonl"
    last = last_line(log)
    if last is None:
        return Health(False, f"it has not started: expected {log}")
    if last.get("event") == "end":
        code, problem = last.get("code"), last.get("problem")
        return Health(code == 0, "done" if code == 0 else f"ended with exit code {code}: {problem}")
    n = (last_line(rounds) or {}).get("iteration", -1) + 1
    # a peer that has yet to end its first round has made progress when it last logged something
    idle_s = max(0.0, now - (rounds if n else log).stat().st_mtime)
    waits = f"; waits for peers {last.get('peers')} since {last.get('since')}" if last.get("event") == "waiting" else ""
    return Health(idle_s <= within_s, f"{n} rounds done, the last {idle_s:.1f} s ago{waits}")
