"""What a peer writes down: one JSON line a round, and one for whatever happens besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, final


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
