"""Reports into files: the page, and beside it pictures and numbers for whoever asks for them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from peer import figures, files, history
from peer.errors import ConfigError
from peer.report import page, pictures, scaled
from peer.report.comparison import Comparison
from peer.report.pictures import Picture
from peer.report.reading import read

SEVERAL: Final = Path("report.html")
"""Where the report of several runs goes, if nothing else is said: into the current folder."""


def write(*run_dirs: Path, out: Path | None = None, png: bool = False, numbers: bool = False) -> Path:
    """Write the report of one or several runs; the path of the page.

    Parameters
    ----------
    run_dirs : Path
        One at least.
    out : Path or None
        The page; None: report.html in the run directory, of several runs in the current folder.
    png : bool
        Whether each figure is written as a picture, too, into the folder beside the page that has its name.
    numbers : bool
        Whether the numbers behind each figure are written there, too, as CSV.

    Raises
    ------
    ConfigError
        One is no run directory or given twice, a file in it is malformed, or the report cannot be written.
    """
    path = checked(run_dirs, out)
    text, drawn = _report(run_dirs)
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot write the report: {error.strerror}") from error
    if png or numbers:
        _write_beside(folder_beside(path), drawn, png, numbers)
    return path


def _report(run_dirs: Sequence[Path]) -> tuple[str, list[Picture]]:
    """The page, and its figures."""
    simulated = [history.is_simulated(run_dir) for run_dir in run_dirs]
    if all(simulated):
        seen = [scaled.read(run_dir) for run_dir in run_dirs]
        drawn = scaled.pictures(seen)
        return scaled.page(seen, drawn), drawn
    if any(simulated):
        found = f"{run_dirs[simulated.index(True)]} is of peer simulate, {run_dirs[simulated.index(False)]} of peers"
        raise ConfigError("RUN_DIR", f"expected runs of one kind: {found}")
    runs = [read(run_dir) for run_dir in run_dirs]
    if len(runs) == 1:
        drawn = pictures.of_run(runs[0])
        return page.page(runs[0], drawn), drawn
    comparison = Comparison(runs)
    return comparison.page(), [one for _, found in comparison.pictures for one in found]


def checked(run_dirs: Sequence[Path], out: Path | None) -> Path:
    """Where the page of these runs goes.

    Raises
    ------
    ConfigError
        It cannot go there, or a run is given twice.
    """
    places = [run_dir.resolve() for run_dir in run_dirs]
    for n, place in enumerate(places):
        if place in places[:n]:
            raise ConfigError(str(run_dirs[n]), "expected runs that are not the same, found this one twice")
    if out is None:
        return run_dirs[0] / "report.html" if len(run_dirs) == 1 else SEVERAL
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("--out", f"expected the name of a page, ending in .html; found {out}")
    folder = folder_beside(out)
    if any((folder / name).exists() for name in (files.EXPERIMENT, files.SWEEP, "000")):  # a run, a sweep, all peers
        raise ConfigError(
            "--out", f"expected another name: pictures and numbers would go into {folder}, with runs in it"
        )
    return out


def folder_beside(path: Path) -> Path:
    """Where pictures and numbers of a page go."""
    return path.with_suffix("")


def _write_beside(folder: Path, drawn: Sequence[Picture], png: bool, numbers: bool) -> None:
    place = folder
    try:
        folder.mkdir(exist_ok=True)
        for one in drawn:
            if png:
                place = folder / f"{one.name}.png"
                figures.write(one.drawing, place)
            if numbers:
                place = folder / f"{one.name}.csv"
                heads, rows = one.drawing.numbers()
                with place.open("w", encoding="utf-8", newline="") as file:
                    table = csv.writer(file, lineterminator="\n")
                    table.writerow(heads)
                    table.writerows(rows)
    except OSError as error:
        raise ConfigError(str(place), f"cannot write it: {error.strerror}") from error
