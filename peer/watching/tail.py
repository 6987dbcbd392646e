"""What peers write into a run directory, as it grows. Nothing in the directory is changed, locked or created."""

from __future__ import annotations

from pathlib import Path
from typing import Final, final

from peer import files, history, settings
from peer.errors import ConfigError
from peer.settings import Experiment
from peer.watching.story import LOG, METRICS, Line
from topology import PeerId

LOOK_BYTES: Final = 1 << 24
"""Of one file that are read at a time: a long run is read in several looks, and none takes long."""


@final
class Tail:
    """The journals in a run directory.

    Parameters
    ----------
    run_dir : Path

    Raises
    ------
    ConfigError
        It is no run directory.
    """

    lasts = True

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / files.EXPERIMENT
        if not path.exists():
            raise ConfigError(str(run_dir), "expected a run directory, found no experiment.toml in it")
        self._run_dir = run_dir
        self._experiment = settings.read(path)
        self._read: dict[tuple[PeerId, str], int] = {}

    def experiment(self) -> Experiment:
        """What is run."""
        return self._experiment

    def look(self) -> list[Line]:
        """Whole lines that have been written since the last look."""
        return [
            line
            for peer in history.everybody(self._run_dir, self._experiment.peers)
            for name in (LOG, METRICS)
            for line in self._grown(peer, name)
        ]

    def close(self) -> None:
        """Nothing is held between two looks."""

    def _grown(self, peer: PeerId, name: str) -> list[Line]:
        """What has come to one file; all of it where its last lines were cut off, as by a peer that has returned."""
        path, key = files.folder_of(self._run_dir, peer) / f"{name}.jsonl", (peer, name)
        try:
            new, self._read[key], cut_off = history.grown(path, self._read.get(key, 0), LOOK_BYTES)
        except OSError:  # not there yet, or not for us to read
            return []
        return [*([Line(peer, name, None)] if cut_off else []), *(Line(peer, name, line) for line in new)]
