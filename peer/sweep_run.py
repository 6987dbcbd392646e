"""The run of a sweep: cells are forked, watched and collected, as many at a time as have cores.

This process imports nothing that peers must not have, for they are forked from it: what it shows, another one draws.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from peer import files, launcher, npz, prepare, settings, simulation, summary
from peer.errors import (
    BAD_INPUT,
    BROKEN,
    DONE,
    INTERRUPTED,
    LOST,
    ConfigError,
    PeerError,
    SolveError,
    is_refusal,
    refusal,
)
from peer.history import n_done
from peer.settings import Experiment
from peer.sweep import Cell, Plan, Result, check_place, claimed, result_of, write

TICK_S: Final = 0.2
"""Between two looks at how far the cells are: often enough for the eye."""

SURE: Final = 0.02
"""Part of the work after which there is an estimate of the time that is left."""

FINAL: Final = (BAD_INPUT, BROKEN)
"""Exit codes that a cell would end with again."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""That interrupt a sweep, and its cells."""

Show: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Takes how far a sweep is: `cells`, `done`, `failed`, `running` (names), `part` of the work that is done, `left_s`
(None where nobody knows yet); and, where a cell has come to an end, `line`."""


@final
@dataclass(eq=False)
class _Work:
    """Cells that run, and those that are still to be run.

    Parameters
    ----------
    waiting : list of Cell
        The next one first.
    running : dict of int to Cell
        By the descriptor of the pipe that closes when it has ended.
    pids : dict of int to int
        Of its process, likewise.
    """

    waiting: list[Cell]
    running: dict[int, Cell] = field(default_factory=dict)
    pids: dict[int, int] = field(default_factory=dict)


def cores_of(cell: Cell, simulate: bool, n_cores: int) -> int:
    """Cores that a cell keeps busy: one if it is simulated, else one a process, if there are so many."""
    return 1 if simulate else min(len(launcher.groups(cell.experiment)), n_cores)


def run(plan: Plan, out: Path, *, simulate: bool, jobs: int | None, show: Show, n_cores: int) -> list[Result]:
    """Run all cells that have not come to an end; what came of each, in the order of the plan.

    Parameters
    ----------
    plan : Plan
    out : Path
        Folder of the sweep.
    simulate : bool
        All agents of a cell in one process, without sockets.
    jobs : int or None
        Cells at a time; None: as many as have cores.
    show : callable
        Is told how far it is.
    n_cores : int
        Of this host, for this sweep.

    Returns
    -------
    list of Result
        Some of them missing, if the sweep was interrupted.

    Raises
    ------
    ConfigError
        The folder holds something else, or another sweep is at work there.
    """
    if simulate and (mode := plan.base.run.mode) != "rounds":
        raise ConfigError("--simulate", f'expected run.mode = "rounds", found {mode!r}')
    check_place(plan, out, simulate)
    with claimed(out):
        results = {cell.name: result_of(cell, out) for cell in plan.cells}

        def again(name: str) -> bool:
            return results[name].status == "missing" or (
                results[name].status == "failed" and results[name].code not in FINAL
            )

        write(plan, list(results.values()), out, simulate)
        work = _Work([cell for cell in plan.cells if again(cell.name)])
        todo = tuple(work.waiting)
        began_s = time.monotonic()

        def tell(**more: object) -> None:
            states = [result.status for result in results.values()]
            part = part_done(todo, {cell.name for cell in (*work.waiting, *work.running.values())}, out)
            elapsed_s = time.monotonic() - began_s
            facts = {
                "cells": len(states),
                "done": states.count("done"),
                "failed": states.count("failed"),
                "running": sorted(cell.name for cell in work.running.values()),
                "part": part,
                "left_s": elapsed_s * (1.0 - part) / part if part > SURE else None,
            }
            show(facts | more)

        interrupted: list[int] = []
        before = {number: signal.signal(number, lambda n, _: interrupted.append(n)) for number in SIGNALS}
        try:
            with selectors.DefaultSelector() as selector:
                while work.running or (work.waiting and not interrupted):
                    while not interrupted and _has_room(work, simulate, jobs, n_cores):
                        selector.register(_start(work, out, simulate), selectors.EVENT_READ)
                    tell()
                    for key, _ in selector.select(TICK_S):
                        selector.unregister(key.fileobj)
                        cell = _collect(work, int(key.fd), out)
                        results[cell.name] = result_of(cell, out)
                        write(plan, list(results.values()), out, simulate)
                        tell(line=line_of(results[cell.name]))
                    if interrupted:
                        for pid in work.pids.values():
                            os.kill(pid, signal.SIGTERM)
        finally:
            for pid in work.pids.values():
                os.kill(pid, signal.SIGTERM)
            for number, handler in before.items():
                signal.signal(number, handler)
    return [results[cell.name] for cell in plan.cells]


def part_done(todo: Sequence[Cell], unfinished: set[str], out: Path) -> float:
    """How much of the rounds of all agents is done, of cells that were to be run; 1 where there is none."""
    total = sum(_size(cell) for cell in todo)
    done = 0.0
    for cell in todo:
        part = 1.0
        if cell.name in unfinished:
            part = min(1.0, n_done(files.folder_of(out / cell.name, 0)) / cell.experiment.iterations)
        done += part * _size(cell)
    return done / total if total else 1.0


def _size(cell: Cell) -> int:
    return cell.experiment.peers * cell.experiment.iterations


def line_of(result: Result) -> str:
    """What came of a cell, in a line."""
    if result.status != "done":
        return f"{result.cell.name}: {result.line or 'interrupted'}"
    shown = [
        f"{name.replace('_', ' ')} {result.numbers[name]:.6g}"
        for name in ("objective", "rounds", "seconds")
        if name in result.numbers
    ]
    return f"{result.cell.name}: {', '.join(shown)}"


def _has_room(work: _Work, simulate: bool, jobs: int | None, n_cores: int) -> bool:
    """Whether the next cell may start; the first of all always may."""
    if not work.waiting:
        return False
    if not work.running:
        return True
    if jobs is not None:
        return len(work.running) < jobs
    busy = sum(cores_of(cell, simulate, n_cores) for cell in work.running.values())
    return busy + cores_of(work.waiting[0], simulate, n_cores) <= n_cores


def _start(work: _Work, out: Path, simulate: bool) -> int:
    """Start the next cell; the descriptor of a pipe that closes when it has ended."""
    cell = work.waiting.pop(0)
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for other in work.running:
            os.close(other)
        _live(cell, out / cell.name, simulate, parent)
    os.close(writer)
    work.running[reader], work.pids[reader] = cell, pid
    return reader


def _collect(work: _Work, reader: int, out: Path) -> Cell:
    """A cell has ended; where it could not say how, that is written down for it, unless it was interrupted."""
    cell = work.running.pop(reader)
    os.close(reader)
    _, status = os.waitpid(work.pids.pop(reader), 0)
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else 0
    if result_of(cell, out).status == "missing" and code != INTERRUPTED and number not in SIGNALS:
        how = f"ended by {signal.Signals(number).name}" if number else f"ended with exit code {code}"
        _fail(out / cell.name, LOST, f"its process was lost: {how}")
    return cell


def _fail(run_dir: Path, code: int, line: str) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"code": code, "line": " ".join(line.split())}) + "\n"
    npz.replace(run_dir / files.FAILURE, lambda file: file.write(text.encode()))


@final
class _Parent(launcher.Watcher):
    """Ends a run whose sweep is gone."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def look(self) -> None:
        """Interrupt the run, if its parent is another process by now."""
        if os.getppid() != self._pid:
            os.kill(os.getpid(), signal.SIGTERM)


def _live(cell: Cell, run_dir: Path, simulate: bool, parent: int) -> None:
    """The life of a forked cell; never returns."""
    code, line = 1, ""
    try:
        if run_dir.exists():
            shutil.rmtree(run_dir)
        run_dir.mkdir(parents=True)
        _speak_into(run_dir / "output.txt")
        code, line = _run(cell.experiment, run_dir, simulate, _Parent(parent))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except ConfigError as error:
        code, line = BAD_INPUT, str(error)
    except SolveError as error:
        code, line = BROKEN, str(error)
    except PeerError as error:
        code, line = LOST, str(error)
    except BaseException as error:
        if is_refusal(error):
            code, line = LOST, refusal(error)  # not for good: a disk may have room again
        else:
            code, line = LOST, f"a bug of this program: {error!r}; {run_dir / 'output.txt'} says more"
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with suppress(OSError):
            if code not in (DONE, INTERRUPTED):
                _fail(run_dir, code, line)
            sys.stderr.flush()
            if (run_dir / "output.txt").stat().st_size == 0:
                (run_dir / "output.txt").unlink()
        os._exit(code)


def _speak_into(path: Path) -> None:
    """What this process and its children print goes into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _run(experiment: Experiment, run_dir: Path, simulate: bool, watcher: launcher.Watcher) -> tuple[int, str]:
    """Run an experiment to its summary; exit code and line."""
    if simulate:
        experiment, ground, _ = prepare.here(experiment, run_dir)
        seconds = simulation.run(experiment, ground, run_dir, watcher.look)
    else:
        outcome = launcher.launch(experiment, run_dir, lambda *_: watcher)
        if not outcome.finished:  # bad input was found before the first peer: the host has refused one something
            return LOST if outcome.code == BAD_INPUT else outcome.code, outcome.line
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # what is through is summarized, whatever comes
        seconds = outcome.seconds
    found = summary.of_run(settings.read(run_dir / files.EXPERIMENT), run_dir, seconds)
    text = json.dumps(found | ({"simulated": True} if simulate else {}), indent=2) + "\n"
    npz.replace(run_dir / files.SUMMARY, lambda file: file.write(text.encode()))
    return DONE, ""


# ---- who draws ------------------------------------------------------------------------------


@contextmanager
def drawn_by(draw: Callable[[Iterator[Mapping[str, Any]]], None]) -> Iterator[Show]:
    """Have what is told drawn by a child process: what that imports is not in the peers.

    Parameters
    ----------
    draw : callable
        Takes what is told, as it comes; ends when that ends.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it ends with what it shows
        code = 1
        try:
            with os.fdopen(reader, encoding="utf-8") as lines:
                draw(json.loads(line) for line in lines)
            sys.stdout.flush()
            code = 0
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(code)
    os.close(reader)
    file = os.fdopen(writer, "w", encoding="utf-8")

    def show(facts: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # nobody looks any more
            file.write(json.dumps(facts) + "\n")
            file.flush()

    try:
        yield show
    finally:
        with suppress(BrokenPipeError):
            file.close()
        os.waitpid(pid, 0)


def exit_code(results: Sequence[Result]) -> int:
    """Of a sweep: 130 where cells are missing, else that of the first cell that failed, else 0."""
    if any(result.status == "missing" for result in results):
        return INTERRUPTED
    return next((result.code for result in results if result.status == "failed"), DONE)
