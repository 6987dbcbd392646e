"""`peer report` of real runs: finished, still running, moved, with hidden shards, waited for, and side by side."""

from __future__ import annotations

import csv
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


def beside(run_dir: Path, there: Path, seed: int) -> Path:
    """The same run in another folder, as if it had had another seed."""
    made = copied(run_dir, there)
    file = made / "experiment.toml"
    text, n = re.subn(r"(?m)^seed = .*$", f"seed = {seed}", file.read_text())
    assert n == 1
    file.write_text(text)
    return made


def test_runs_side_by_side_with_pictures_and_numbers(lab: Lab, launched: Path) -> None:
    """Two seeds are one curve; a run without some of its files, of another problem, has a panel of its own."""
    runs = [beside(launched, lab.folder / name, seed) for name, seed in (("one", 1), ("two", 2))]
    other = copied(launched, lab.folder / "other")
    file = other / "experiment.toml"
    file.write_text(file.read_text().replace("strength = 0.001", "strength = 0.002"))
    (other / "summary.json").unlink()
    shutil.rmtree(other / "shards")
    shutil.rmtree(other / "peers" / "002")
    done = lab.run("report", *(run.name for run in (*runs, other)), "--out", "all.html", "--png", "--csv")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all\nall.html\n")
    page = (lab.folder / "all.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|@import|<script", page)
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    assert "3 runs of 2 experiments on 2 problems. 1 not finished yet." in text
    assert "Nothing of peer 2 is in this directory; the others have all done 12 of 12 rounds" in text
    names = {path.stem for path in (lab.folder / "all").glob("*.png")}
    assert names == {path.stem for path in (lab.folder / "all").glob("*.csv")}
    assert page.count("<svg") == len(names)
    for path in (lab.folder / "all").glob("*.png"):
        width = int.from_bytes(path.read_bytes()[16:20], "big")
        assert width == (2100 if path.stem == "comparison" else 1020), "7 inches, and 3.4, of 300 dots"
    with (lab.folder / "all" / "0-stationarity-rounds.csv").open(newline="") as numbers:
        _, *rows = csv.reader(numbers)
    lines = [metrics(launched, peer) for peer in range(PEERS)]
    assert [float(row[5]) for row in rows] == [max(found[n]["residual"] for found in lines) for n in range(12)]


def test_the_commands_in_the_report_of_several_repeat_them(lab: Lab, launched: Path) -> None:
    """Anywhere, with nothing but the experiment that the page shows: the data set is cut again."""
    runs = [copied(launched, lab.folder / "one"), beside(launched, lab.folder / "two", 5)]
    done = lab.run("report", "one", "two")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "report.html\n")
    page = (lab.folder / "report.html").read_text()
    commands, experiment = re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.DOTALL)
    again = Lab(lab.folder / "again")
    again.folder.mkdir()
    (again.folder / "experiment.toml").write_text(html.unescape(experiment))
    command = next(line for line in html.unescape(commands).splitlines() if line.startswith("peer launch"))
    repeated = again.run(*shlex.split(command)[1:])
    assert repeated.returncode == 0, repeated.stderr
    same_finals(runs[0], again.folder / "one", PEERS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["out", "out"], "out: expected runs that are not the same, found this one twice"),
        (["out", "nowhere"], "nowhere: expected a run directory, found no experiment.toml in it"),
        (["out", "--out", "all.pdf"], "--out: expected the name of a page, ending in .html; found all.pdf"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_laid_side_by_side_is_refused(lab: Lab, run_dir: Path, arguments: list[str], told: str) -> None:
    assert told in refusal(lab.run("report", *arguments), 2)
    assert not list(lab.folder.glob("*.html"))
