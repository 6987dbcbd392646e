"""The command that plays many seeds: what it injects, how it fails, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests import simulate, synchronous
from tests.simulated import FAULTS, Clock, Outcome

ROOT = Path(__file__).parents[2]


def printed(console: Console) -> str:
    """All that was printed so far."""
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def rows(text: str) -> Mapping[str, list[str]]:
    """Cells of the table by the name of their row."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    return {name: rest for name, *rest in cells}


RARE = {"restart from a checkpoint of an older epoch", "sent back for its last checkpoint"}
"""Faults that six seeds need not have."""


def test_a_range_of_seeds_ends_with_a_table_in_which_every_fault_occurs() -> None:
    console = Console(file=StringIO(), width=120)
    assert simulate.run(list(simulate.MODES), range(107, 113), 2, console) == 0
    table = rows(printed(console))
    assert table["seeds"] == ["6", "6", "6"]
    assert table["failures"] == ["0", "0", "0"]
    assert (table["worst distance"][0], table["worst distance"][2]) == ("0", "0")
    assert float(table["worst distance"][1]) <= 1e-6
    for fault in FAULTS:
        counts = [int(cell.replace(",", "")) for cell in table[fault] if cell != "-"]
        assert sum(counts) > 0 or fault in RARE, fault


def test_a_failure_is_printed_with_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronous, "MAX_EVENTS", 10)
    console = Console(file=StringIO(), width=120)
    assert simulate.run(["rounds"], range(3), 1, console) == simulate.FAILED
    text = printed(console)
    for seed in range(3):
        assert f"seed {seed}: it never ends" in text
        assert f"python -m tests.simulate --mode rounds --seed {seed}" in text
    assert rows(text)["failures"] == ["3"]


def test_after_too_many_failures_no_more_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronous, "MAX_EVENTS", 10)
    console = Console(file=StringIO(), width=120)
    assert simulate.run(["rounds"], range(10_000), 2, console) == simulate.FAILED
    assert "failures are enough" in printed(console)


def test_one_seed_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.tell("rounds", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 100
    assert "begins round 0" in "".join(lines)
    assert "as it should be" in lines[-1]


def test_one_seed_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(synchronous, "MAX_EVENTS", 10)
    assert simulate.tell("rounds", 3) == simulate.FAILED
    assert "seed 3: it never ends" in capsys.readouterr().err


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """The command on more seeds than anybody waits for, once it has played some; in a process group of its own."""
    command = [sys.executable, "-m", "tests.simulate", "--seeds", "0:100000", "--mode", "rounds", "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("everybody", [True, False])
def test_an_interruption_ends_it_with_the_table_and_without_a_traceback(
    running: subprocess.Popen[str], everybody: bool
) -> None:
    """Ctrl-C as the terminal sends it, to the workers too; or `kill`, to the command alone: no worker outlives it."""
    assert running.stdout is not None
    assert "playing" in running.stdout.readline()  # the workers have been asked for their first results
    if everybody:
        os.killpg(running.pid, signal.SIGINT)
    else:
        os.kill(running.pid, signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == simulate.INTERRUPTED
    assert "interrupted" in out
    assert "failures" in out
    assert err == ""
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


@pytest.mark.parametrize(
    "arguments", [["--seeds", "5:5"], ["--seeds", "5"], ["--seed", "1"], ["--seeds", "0:5", "--jobs", "0"], []]
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", *arguments])
    with pytest.raises(SystemExit) as refusal:
        simulate.main()
    assert refusal.value.code == 2


def test_a_clock_keeps_the_order_of_what_was_set_for_the_same_time() -> None:
    clock, happened = Clock("any"), list[str]()
    clock.at(2.0, lambda: happened.append("second"))
    clock.at(2.0, lambda: happened.append("third"))
    clock.at(1.0, lambda: clock.at(0.5, lambda: happened.append(f"first at {clock.now}")))
    while clock.step():
        pass
    assert happened == ["first at 1.0", "second", "third"]
    assert (clock.now, clock.n_events) == (2.0, 4)


def test_tallies_add_up() -> None:
    tally = simulate.Tally()
    run = synchronous.play(0).outcome
    tally.add(run)
    tally.add(Outcome(1, 5, run.happened, 0.5, 1))
    assert (tally.n_runs, tally.n_events, tally.distance) == (2, run.n_events + 5, 0.5)
    assert tally.queue == run.queue
    assert tally.happened["crash"] == 2 * run.happened["crash"]
