"""Sweeps: killed in the middle, called again, with cells that fail, and without sockets."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import TIMEOUT_S, Lab, command, end, events, refusal, same_finals, wait_until

PEERS = 3


def experiment(lab: Lab, iterations: int = 40) -> Path:
    return lab.experiment(
        peers=PEERS,
        iterations=iterations,
        seed=3,
        data={"path": lab.four_shards()},
        model={"hidden": [3]},
        objective={"loss": "cross_entropy"},
        topology={"graph": "complete", "schedule": "random-links"},
    )


def cells(out: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = json.loads((out / "sweep.json").read_text())
    return {cell["run_dir"]: cell for cell in found["cells"]}


def test_a_sweep_that_was_killed_goes_on(lab: Lab) -> None:
    command: list[str | Path] = ["sweep", experiment(lab, 120), "--grid", "surrogate.tau=1,3,10", "--jobs", "1"]
    first, second, third = (lab.folder / "out" / f"tau={tau},seed=3" for tau in (1, 3, 10))
    killed = lab.start(*command, "--out", "out")
    wait_until((second / "peers" / "000" / "metrics.jsonl").exists, killed)
    assert end(killed, signal.SIGKILL)[0] == -signal.SIGKILL  # what it had started ends by itself, as is waited for
    kept = (first / "summary.json").stat().st_mtime_ns
    assert not third.exists()

    done = lab.run(*command, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "3 cells" in done.stdout
    assert (first / "summary.json").stat().st_mtime_ns == kept, "a cell that was done is run again"
    assert [cell["status"] for cell in cells(lab.folder / "out").values()] == ["done"] * 3
    again = lab.run(*command, "--out", "out")
    assert again.returncode == 0
    assert f"{second.name}: objective" in done.stdout
    assert f"{second.name}: objective" not in again.stdout, "nothing was left to be done"

    simulated = lab.run(*command, "--out", "simulated", "--simulate")
    assert simulated.returncode == 0, simulated.stderr
    for cell in (first, second, third):
        same_finals(cell, lab.folder / "simulated" / cell.name, PEERS)
        numbers, others = (cells(lab.folder / out)[cell.name]["numbers"] for out in ("out", "simulated"))
        assert numbers["objective"] == others["objective"]


def test_a_cell_that_fails_ends_no_other(lab: Lab) -> None:
    grid = ["--grid", "topology.link_probability=0,1", "--grid", "surrogate.tau=2,1e-300"]
    diverges = ["--set", "surrogate.kind=full", "--set", "objective.loss=squared"]
    command: list[str | Path] = ["sweep", experiment(lab, 5), *grid, *diverges, "--simulate"]
    done = lab.run(*command, "--out", "out")
    assert done.returncode == 2, done.stderr
    assert not done.stderr
    assert "link_probability=0,tau=2,seed=3: topology: " in done.stdout
    found = cells(lab.folder / "out")
    assert [(cell["status"], cell["code"]) for cell in found.values()] == [("failed", 2)] * 2 + [
        ("done", 0),
        ("failed", 4),
    ]
    assert "falls apart" in found["link_probability=0,tau=2,seed=3"]["line"]
    broken = "link_probability=1,tau=1e-300,seed=3"
    assert "nan or infinite" in found[broken]["line"]
    assert events(lab.folder / "out" / broken, 1)[-1]["code"] == 4
    rows = list(csv.DictReader((lab.folder / "out" / "sweep.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "failed"]
    assert float(rows[2]["objective"]) == found["link_probability=1,tau=2,seed=3"]["numbers"]["objective"]
    again = lab.run(*command, "--out", "out")
    assert again.returncode == 2
    assert len(again.stdout.splitlines()) == len(done.stdout.splitlines()) - 4, "what breaks down is not run again"


def test_a_sweep_that_is_interrupted_says_how_to_go_on(lab: Lab) -> None:
    sweep = lab.start("sweep", experiment(lab, 100_000), "--seeds", "2", "--jobs", "1", "--simulate", "--out", "out")
    wait_until((lab.folder / "out" / "seed=3" / "peers" / "000" / "metrics.jsonl").exists, sweep)
    sweep.send_signal(signal.SIGTERM)
    shown, errors = sweep.communicate(timeout=TIMEOUT_S)
    assert (sweep.returncode, errors) == (130, "")
    assert "seed=3: interrupted" in shown
    assert "2 of 2 cells are missing; the same command goes on with them" in shown


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_a_sweep_ends_as_ever_without_streams(lab: Lab, closed: str) -> None:
    """Its cells could not flush what was closed from the beginning, and failed."""
    line = ["sh", "-c", f'exec "$0" -m peer sweep "$1" --seeds 2 --out out {closed}', sys.executable]
    found = subprocess.run([*line, str(experiment(lab, 5))], cwd=lab.folder, timeout=TIMEOUT_S, check=False)
    assert found.returncode == 0
    assert [cell["status"] for cell in cells(lab.folder / "out").values()] == ["done"] * 2


def test_a_sweep_ends_as_ever_when_nobody_reads_what_is_shown(lab: Lab) -> None:
    """As behind `| head`: its exit code was 1."""
    reader, writer = os.pipe()
    os.close(reader)
    line = command("sweep", experiment(lab, 5), "--simulate", "--out", "out")
    found = subprocess.run(line, cwd=lab.folder, stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
    os.close(writer)
    assert (found.returncode, found.stderr) == (0, b"")


def test_what_is_no_sweep_touches_nothing(lab: Lab) -> None:
    path = experiment(lab, 5)
    for options, words in (
        (["--grid", "surrogate.tua=1"], "did you mean surrogate.tau"),
        (["--grid", "surrogate.tau=1,-1"], "in cell tau=-1,seed=3"),
        (["--seeds", "0"], "--seeds"),
        (["--simulate", "--set", "run.mode=async"], "--simulate"),
    ):
        assert words in refusal(lab.run("sweep", path, *options, "--out", "out"), 2)
        assert not (lab.folder / "out").exists()
