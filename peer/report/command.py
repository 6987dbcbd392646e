"""`peer report`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from peer import files, history, summary
from peer.report.reading import experiment_of
from peer.report.writing import checked, folder_beside, write


def run(
    run_dirs: Sequence[Path], out: Path | None, png: bool, numbers: bool, wait: bool, say: Callable[[str], None]
) -> list[Path]:
    """Write the report of one or several runs, see `writing.write`, and the summaries that are missing; their paths.

    Raises
    ------
    ConfigError
        See there.
    """
    begun = [run_dir for run_dir in run_dirs if not _is_cell_without_run(run_dir)]
    if 0 < len(begun) < len(run_dirs):
        for run_dir in run_dirs:
            if run_dir not in begun:
                say(f"peer report: {run_dir} has not begun, and is left out")
        run_dirs = begun
    checked(run_dirs, out)
    summaries = []
    for run_dir in run_dirs:
        if history.is_simulated(run_dir):
            continue
        if wait:
            summary.wait_for_all(run_dir, lambda line: say(f"peer report: {line}"))
        what, path = experiment_of(run_dir), run_dir / files.SUMMARY
        may_write = out is None or os.access(run_dir, os.W_OK)
        if not path.exists() and may_write and not history.unfinished(run_dir, what.peers):
            summary.write(summary.of_run(what, run_dir), path)
            summaries.append(path)
        elif path.exists() and len(run_dirs) == 1:
            summaries.append(path)
    page = write(*run_dirs, out=out, png=png, numbers=numbers)
    return [*summaries, *([folder_beside(page)] if png or numbers else []), page]


def _is_cell_without_run(run_dir: Path) -> bool:
    """Whether this is a cell of a sweep that was interrupted, or has failed, before its run began."""
    in_sweep = (run_dir / files.FAILURE).exists() or (run_dir.parent / files.SWEEP).exists()
    return in_sweep and not (run_dir / files.EXPERIMENT).exists()
