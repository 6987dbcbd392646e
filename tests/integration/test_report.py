"""`peer report` of real runs: finished, still running, moved, with hidden shards, and waited for."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.lab import TIMEOUT_S, Lab, metrics, refusal, same_finals

PEERS = 3


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small network on wine."""
    lab = Lab(tmp_path_factory.mktemp("launched"))
    experiment = lab.experiment(
        "wine",
        peers=PEERS,
        iterations=12,
        data={"dataset": "wine"},
        model={"hidden": [3]},
        objective={"loss": "cross_entropy"},
        topology={"graph": "complete", "schedule": "random-links", "link_probability": 0.6},
    )
    return lab.launch(experiment, "out", "--central")


@pytest.fixture
def run_dir(lab: Lab, launched: Path) -> Path:
    """That run, to be changed as a test likes."""
    return copied(launched, lab.folder / "out")


def copied(run_dir: Path, there: Path) -> Path:
    """The same run in another folder."""
    shutil.copytree(run_dir, there)
    file = there / "experiment.toml"
    file.write_text(file.read_text().replace(str(run_dir), str(there)))
    return there


def report(lab: Lab, run_dir: Path, *more: str) -> str:
    """The page that the command writes, as text without its markup."""
    done = lab.run("report", run_dir, *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(run_dir / "report.html")
    text = (run_dir / "report.html").read_text()
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


def summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def test_a_launched_run_is_reported_and_its_summary_kept(lab: Lab, run_dir: Path) -> None:
    before = (run_dir / "summary.json").read_bytes()
    done = lab.run("report", "out")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "out/summary.json\nout/report.html\n")
    assert (run_dir / "summary.json").read_bytes() == before
    text = report(lab, run_dir)
    assert "trained centrally" in text
    assert f"{summary(run_dir)['objective']:.6g}" in text


def test_a_summary_that_is_missing_is_that_of_launch(lab: Lab, run_dir: Path) -> None:
    launched = summary(run_dir)
    (run_dir / "summary.json").unlink()
    report(lab, run_dir)
    found = summary(run_dir)
    assert found["seconds"] == max(line["time_s"] for peer in range(PEERS) for line in metrics(run_dir, peer))
    for one in (launched, found):
        del one["seconds"]
    del launched["central"]
    assert found == launched


def test_the_command_in_the_report_repeats_the_run_even_where_it_was_moved(lab: Lab, run_dir: Path) -> None:
    moved = run_dir.rename(lab.folder / "elsewhere")
    text = report(lab, moved)
    command = next(line for line in text.splitlines() if line.strip().startswith("peer launch"))
    _, *arguments = shlex.split(command)
    again = Lab(moved).run(*arguments)
    assert again.returncode == 0, again.stderr
    same_finals(moved, moved / "again", PEERS)


def test_of_hidden_shards_the_others_are_summarized(lab: Lab, run_dir: Path) -> None:
    whole = summary(run_dir)
    parts = []
    for seen in range(PEERS):
        here = copied(run_dir, lab.folder / f"host-{seen}")
        for peer in set(range(PEERS)) - {seen}:
            (here / "shards" / f"peer-{peer:03d}.npz").unlink()
        (here / "summary.json").unlink()
        (here / "shards" / "test.npz").unlink()
        assert f"only those of peer {seen} could be seen here" in report(lab, here)
        found = summary(here)
        assert (found["shards_seen"], found["test"], found["stationarity"]) == ([seen], {}, None)
        assert found["samples"] == whole["samples"]
        parts.append(found["objective"])
    penalty = 0.5e-3 * np.sum(np.mean([flat_final(run_dir, peer) for peer in range(PEERS)], axis=0) ** 2)
    assert sum(parts) - (PEERS - 1) * penalty == pytest.approx(whole["objective"], rel=1e-12)


def flat_final(run_dir: Path, peer: int) -> np.ndarray[Any, Any]:
    with np.load(run_dir / "peers" / f"{peer:03d}" / "final.npz") as archive:
        return np.concatenate([archive[name].reshape(-1) for name in archive.files])


def still_running(run_dir: Path, n_rounds: int) -> None:
    """Make the run directory what it was when peer 1 was writing down round n_rounds."""
    (run_dir / "summary.json").unlink()
    for peer in range(PEERS):
        folder = run_dir / "peers" / f"{peer:03d}"
        (folder / "final.npz").unlink()
        log = (folder / "log.jsonl").read_text().splitlines(keepends=True)
        (folder / "log.jsonl").write_text("".join(line for line in log if '"done"' not in line and '"end"' not in line))
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        torn = lines[n_rounds][:30] if peer == 1 else lines[n_rounds]
        (folder / "metrics.jsonl").write_text("".join(lines[:n_rounds]) + torn)


def test_a_run_that_still_runs(lab: Lab, run_dir: Path) -> None:
    still_running(run_dir, 5)
    text = report(lab, run_dir)
    assert "Not finished: 5 of 12 rounds are done by all; there are no final results yet." in text
    assert not (run_dir / "summary.json").exists()


def test_who_is_late_is_waited_for(lab: Lab, run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    log = run_dir / "peers" / "001" / "log.jsonl"
    *others, end = log.read_text().splitlines(keepends=True)
    log.write_text("".join(others))
    waiting = lab.start("report", "out", "--wait")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "peer report: waiting for peer 1\n"
    log.write_text("".join([*others, end]))
    printed, errors = waiting.communicate(timeout=TIMEOUT_S)
    assert (waiting.returncode, errors, printed) == (0, "", "out/summary.json\nout/report.html\n")


def test_bad_run_directories_are_refused_in_one_line(lab: Lab, run_dir: Path) -> None:
    assert "no experiment.toml" in refusal(lab.run("report", "nowhere"), 2)
    assert "no experiment.toml" in refusal(lab.run("report", "."), 2)
    path = run_dir / "peers" / "002" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"wait_s"', '"waited"'))
    line = refusal(lab.run("report", "out"), 2)
    assert "out/peers/002/metrics.jsonl, line 1: " in line
    assert not (run_dir / "report.html").exists()
