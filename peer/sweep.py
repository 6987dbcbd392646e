"""A sweep: one experiment over a grid of settings, and seeds; each cell is a run with a directory of its own.

A cell whose directory holds `summary.json` is done, and is not run again; one that broke down holds `failure.json`,
and would break down again. All others are run, from the beginning. So a sweep that was interrupted, or killed, goes on
where it was when it is called again, and one whose grid has grown runs what is new.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import re
import statistics
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import msgspec

from peer import files, npz, settings
from peer.errors import DONE, ConfigError
from peer.settings import Experiment

MAX_NAME: Final = 100
"""Characters of a folder's name, of 255 that file systems take; a longer one ends with a digest."""

MAX_CELLS: Final = 100_000
"""Beyond it the grid is a mistake."""

NUMBERS: Final = ("objective", "stationarity", "disagreement")
"""What is taken of a summary as it is there."""

Point: TypeAlias = tuple[tuple[str, str], ...]
"""Settings of the grid, as they were given: pairs of key and text."""


# ---- the plan ------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Parameters
    ----------
    name : str
        Of its folder: "tau=0.1,seed=7".
    point : Point
        What the grid says.
    seed : int
    experiment : Experiment
        With all that.
    """

    name: str
    point: Point
    seed: int
    experiment: Experiment


@final
@dataclass(frozen=True)
class Plan:
    """All cells of a sweep.

    Parameters
    ----------
    base : Experiment
        Before the grid says anything.
    keys : tuple of str
        Of the grid.
    points : tuple of Point
        In the order of the grid, the last key fastest.
    cells : tuple of Cell
        Of each point one a seed.
    """

    base: Experiment
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, path: Path, overrides: Sequence[str], grid: Sequence[str], n_seeds: int) -> Plan:
        """The product of a grid and seeds, all of it checked.

        Parameters
        ----------
        path : Path
            Experiment file.
        overrides : sequence of str
            "key=value" each, as for `settings.read`.
        grid : sequence of str
            "key=value,value,..." each.
        n_seeds : int
            The experiment's seed, and those that follow it.

        Raises
        ------
        ConfigError
            The grid is none, or a cell of it is no experiment; names the cell.
        """
        base = settings.read(path, overrides)
        axes = dict(_axis(item) for item in grid)
        if len(axes) < len(grid):
            raise ConfigError("--grid", "expected each key once, found one twice")
        if "seed" in axes or "name" in axes:
            raise ConfigError("--grid", "expected a setting other than name and seed; --seeds N runs N of these")
        if not 1 <= n_seeds <= MAX_CELLS:
            raise ConfigError("--seeds", f"expected 1 to {MAX_CELLS}, found {n_seeds}")
        if (n := n_seeds * math.prod(map(len, axes.values()))) > MAX_CELLS:
            raise ConfigError("--grid", f"expected at most {MAX_CELLS} cells, found {n}")
        points = tuple(tuple(zip(axes, values, strict=True)) for values in product(*axes.values()))
        seeds = range(base.seed, base.seed + n_seeds)
        cells = tuple(_cell(path, overrides, point, seed) for point in points for seed in seeds)
        _check_different(axes, points, [cell.experiment for cell in cells[::n_seeds]])
        return cls(base, tuple(axes), points, cells)


def _axis(item: str) -> tuple[str, tuple[str, ...]]:
    """Key and values of "key=value,value,..."; commas in brackets or quotes do not part them."""
    key, equals, text = item.partition("=")
    values = tuple(part.strip() for part in _parted(text))
    if not equals or not key.strip() or not all(values):
        raise ConfigError("--grid", f"expected key=value,value,... as in surrogate.tau=0.1,1,10; found {item!r}")
    return key.strip(), values


def _parted(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _cell(path: Path, overrides: Sequence[str], point: Point, seed: int) -> Cell:
    name = name_of(point, seed)
    given = [*overrides, *(f"{key}={text}" for key, text in point), f"seed={seed}", "transport.addresses=[]"]
    try:
        experiment = settings.read(path, given)
    except ConfigError as error:
        raise ConfigError(error.key, f"{error.problem} (in cell {name})" if point else error.problem) from error
    known = settings.flat(experiment)
    unknown = next((key for key, _ in point if key not in known), None)
    if unknown is not None:
        raise ConfigError("--grid", f"expected settings, found {unknown!r}, which is none")
    shown = f"{experiment.name} {name}"
    return Cell(name, point, seed, msgspec.structs.replace(experiment, name=shown[:200].replace("/", "_")))


def name_of(point: Point, seed: int) -> str:
    """Folder of a cell: keys without their tables, where that is clear, and nothing that shells would take amiss."""
    whole = ",".join(
        [
            *(f"{key}={text}" for key, text in zip(short([k for k, _ in point]), (t for _, t in point), strict=True)),
            f"seed={seed}",
        ]
    )
    name = re.sub(r"[^\w.,=+-]", "_", whole)
    if name == whole and len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{blake2b(whole.encode(), digest_size=4).hexdigest()}"


def short(keys: Sequence[str]) -> list[str]:
    """Keys without their tables; with them, where two would be the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if last.count(name) > 1 or name == "seed" else name for key, name in zip(keys, last, strict=True)]


def _check_different(axes: Mapping[str, Sequence[str]], points: Sequence[Point], found: Sequence[Experiment]) -> None:
    """Texts of one value, as 1 and 1.0, would be two cells that are the same."""
    seen: dict[str, Point] = {}
    for point, experiment in zip(points, found, strict=True):
        known = settings.flat(experiment)
        same = seen.setdefault(repr([known[key] for key in axes]), point)
        if same is not point:
            one, other = (", ".join(text for _, text in each) for each in (same, point))
            raise ConfigError("--grid", f"expected different values, found {one} and {other}, which are the same")


# ---- what came of a cell --------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Parameters
    ----------
    cell : Cell
    status : str
        done, failed, or missing where it has not come to an end yet.
    code : int
        Exit code.
    line : str
        What went wrong, in one line.
    numbers : dict of str to float
        By name; of a cell that is done.
    """

    cell: Cell
    status: str
    code: int = DONE
    line: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def result_of(cell: Cell, out: Path) -> Result:
    """What the folder of a cell says."""
    found = _read(out / cell.name / files.SUMMARY)
    if found is not None:
        return Result(cell, "done", numbers=numbers_of(found))
    failed = _read(out / cell.name / files.FAILURE)
    if failed is not None:
        return Result(cell, "failed", int(failed["code"]), str(failed["line"]))
    return Result(cell, "missing")


def _read(path: Path) -> dict[str, Any] | None:
    """An object that was written at once; None where it is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"expected JSON, found: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(str(path), f"expected a JSON object, found {type(found).__name__}")
    return found


def numbers_of(found: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of a summary: finite numbers, by name."""
    numbers = {name: found.get(name) for name in NUMBERS}
    numbers |= {f"test_{name}": value for name, value in found.get("test", {}).items()}
    numbers |= {"rounds": found["iterations"], "megabytes": found["bytes"] / 1e6, "seconds": found["seconds"]}
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}


@final
@dataclass(frozen=True)
class Spread:
    """A number over the seeds of a point: of n of them, median, least and largest."""

    n: int
    median: float
    least: float
    largest: float


def spreads(results: Sequence[Result]) -> dict[str, Spread]:
    """Of each number, over those of these cells that are done and have it."""
    names = dict.fromkeys(name for result in results for name in result.numbers)
    found = {name: [result.numbers[name] for result in results if name in result.numbers] for name in names}
    return {name: Spread(len(each), statistics.median(each), min(each), max(each)) for name, each in found.items()}


# ---- files ----------------------------------------------------------------------------------


def write(plan: Plan, results: Sequence[Result], out: Path, simulate: bool) -> None:
    """Write `sweep.json` and `sweep.csv`, each at once.

    Raises
    ------
    OSError
        The disk is full; names the file.
    """
    tree = {
        "experiment": settings.to_toml(plan.base),
        "simulated": simulate,
        "grid": {key: list(dict.fromkeys(dict(point)[key] for point in plan.points)) for key in plan.keys},
        "points": [
            {
                "settings": dict(point),
                "cells": sum(result.cell.point == point for result in results),
                "done": sum(result.cell.point == point and result.status == "done" for result in results),
                "numbers": {name: msgspec.to_builtins(spread) for name, spread in _of(point, results).items()},
            }
            for point in plan.points
        ],
        "cells": [
            {
                "run_dir": result.cell.name,
                "settings": dict(result.cell.point),
                "seed": result.cell.seed,
                "status": result.status,
                "code": result.code,
                "line": result.line,
                "numbers": dict(result.numbers),
            }
            for result in results
        ],
    }
    text = json.dumps(tree, indent=2) + "\n"
    npz.replace(out / files.SWEEP, lambda file: file.write(text.encode()))
    npz.replace(out / "sweep.csv", lambda file: file.write(as_csv(plan, results).encode()))


def _of(point: Point, results: Sequence[Result]) -> dict[str, Spread]:
    return spreads([result for result in results if result.cell.point == point])


def as_csv(plan: Plan, results: Sequence[Result]) -> str:
    """A row a cell: settings of the grid, seed, folder, what came of it."""
    names = list(dict.fromkeys(name for result in results for name in result.numbers))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*plan.keys, "seed", "run_dir", "status", *names, "line"])
    for result in results:
        values = (text for _, text in result.cell.point)
        numbers = (result.numbers.get(name, "") for name in names)
        rows.writerow([*values, result.cell.seed, result.cell.name, result.status, *numbers, result.line])
    return text.getvalue()


def check_place(plan: Plan, out: Path, simulate: bool) -> None:
    """Whether a folder is free, or holds this sweep, or one whose grid has grown to this.

    Raises
    ------
    ConfigError
        It holds something else.
    """
    before = _read(out / files.SWEEP)
    if before is None:
        if out.is_dir() and any(path.name != "lock" for path in out.iterdir()):
            raise ConfigError("--out", f"expected a new folder, or one with a sweep; {out} holds something else")
        return
    if before.get("simulated") != simulate:
        as_it_was = "with --simulate" if before.get("simulated") else "without --simulate"
        raise ConfigError("--out", f"the sweep in {out} is one {as_it_was}; another --out keeps it")
    try:
        there = settings.flat(settings.from_tree(tomllib.loads(str(before.get("experiment")))))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(str(out / files.SWEEP), f"expected the experiment of a sweep, found: {error}") from error
    here = settings.flat(plan.base)
    differs = next((key for key in here if here[key] != there[key]), None)
    if differs is not None:
        found = f"{differs} = {there[differs]!r} there, {here[differs]!r} here; another --out keeps it"
        raise ConfigError("--out", f"the sweep in {out} is of another experiment: {found}")
    cells, names = before.get("cells"), {cell.name for cell in plan.cells}
    lost = [one["run_dir"] for one in cells if one["run_dir"] not in names] if isinstance(cells, list) else []
    if lost:
        missing = f"{len(lost)} are missing, among them {lost[0]}; another --out keeps it"
        raise ConfigError("--grid", f"expected all cells of the sweep in {out}, which may only grow; {missing}")


@contextmanager
def claimed(out: Path) -> Iterator[int]:
    """Make a folder this sweep's own; the descriptor of the lock, which every process that works for it holds.

    Of a sweep that was killed, what it had started ends by itself within seconds; that is waited for.

    Raises
    ------
    ConfigError
        Another sweep is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode().strip()
            if holder.isdigit() and _is_alive(int(holder)):
                raise ConfigError("--out", f"another sweep, process {holder}, is at work in {out}") from error
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
