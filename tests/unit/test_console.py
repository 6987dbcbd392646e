"""What a person sees of a launch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peer import console, history, settings, summary
from peer.console import Progress
from peer.files import folder_of
from tests.rundir import metrics, stop_early, write_elastic, write_run


@pytest.fixture
def screen() -> Console:
    return console.screen(file=io.StringIO(), width=200, force_terminal=False)


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def write(run_dir: Path, peer: int, n: int, **more: Any) -> None:
    folder = folder_of(run_dir, peer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").touch()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics(peer, n) | more) + "\n")


def progress(run_dir: Path, screen: Console, **tree: Any) -> Progress:
    experiment = settings.from_tree({"peers": 2, "iterations": 4, "data": {"dataset": "wine"}} | tree)
    return Progress(screen, run_dir, experiment)


def test_rounds_are_those_that_all_have_done(tmp_path: Path, screen: Console) -> None:
    watcher = progress(tmp_path, screen)
    write(tmp_path, 0, 0)
    watcher.close()
    for peer, n in ((0, 1), (0, 2), (1, 0), (1, 1)):
        write(tmp_path, peer, n)
    watcher.close()
    first, second = shown(screen).splitlines()
    assert first.startswith("1 of 2 peers have begun ")
    assert " round 2/4   objective 0.8338" in second


def test_wakings_are_those_of_the_newest_epoch(tmp_path: Path, screen: Console) -> None:
    watcher = progress(tmp_path, screen, run={"mode": "async"})
    for peer, n in ((0, 0), (1, 0), (0, 1)):
        write(tmp_path, peer, n, epoch=5, members=2)
    watcher.close()
    write(tmp_path, 0, 2, epoch=7, members=2)
    watcher.close()
    for peer, n in ((8, 0), (8, 1), (8, 2), (0, 3)):
        write(tmp_path, peer, n, epoch=7, members=2)
    watcher.close()
    first, second, third = shown(screen).splitlines()
    assert " waking 1/4 of 2 peers   objective " in first
    assert second.startswith("1 of 2 peers have begun the new epoch ")
    assert " waking 2/4 of 2 peers   objective " in third, "peer 8 has come, and peer 1 has gone"


def test_what_was_sent_before_a_launch_is_not_in_its_rate(tmp_path: Path, screen: Console) -> None:
    """Nor twice, where a peer has cut off its last lines, and all come again."""
    for peer, n in ((0, 0), (1, 0), (0, 1), (1, 1)):
        write(tmp_path, peer, n, bytes_sent=10**15)
    watcher = progress(tmp_path, screen)
    for peer in (0, 1):
        path = folder_of(tmp_path, peer) / "metrics.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
        write(tmp_path, peer, 1, bytes_sent=10**15)
        write(tmp_path, peer, 2, bytes_sent=0)
    watcher.close()
    assert " round 3/4 " in shown(screen)
    assert "   0 B/s   " in shown(screen)


def test_the_lines_of_a_peer_that_returned_come_again(tmp_path: Path) -> None:
    offsets: dict[int, int] = {}
    for n in range(5):
        write(tmp_path, 0, n)
    assert [json.loads(line)["iteration"] for line in history.new_metrics(tmp_path, offsets, 1)[0]] == [0, 1, 2, 3, 4]
    assert history.new_metrics(tmp_path, offsets, 1) == {}
    path = folder_of(tmp_path, 0) / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    write(tmp_path, 0, 2)
    assert [json.loads(line)["iteration"] for line in history.new_metrics(tmp_path, offsets, 1)[0]] == [0, 1, 2]
    write(tmp_path, 3, 0)
    assert list(history.new_metrics(tmp_path, offsets, 1)) == [3], "a newcomer"


def test_the_summary_says_that_rounds_ended_early(tmp_path: Path, screen: Console) -> None:
    experiment = write_run(tmp_path)
    stop_early(tmp_path)
    console.show_summary(screen, summary.of_run(experiment, tmp_path), tmp_path)
    (row,) = [line.split() for line in shown(screen).splitlines() if "stopped by" in line]
    assert row == ["│", "stopped", "by", "│", "tolerance", "│"]


def test_the_summary_names_the_round_that_was_kept(tmp_path: Path, screen: Console) -> None:
    found = summary.of_run(write_run(tmp_path), tmp_path) | {"stopped": "validation", "kept": 3}
    console.show_summary(screen, found, tmp_path)
    rows = [line.replace("│", " ").split() for line in shown(screen).splitlines()]
    assert ["stopped", "by", "validation"] in rows
    assert ["kept", "of", "round", "3"] in rows


def test_the_summary_counts_rounds_or_wakings(tmp_path: Path, screen: Console) -> None:
    console.show_summary(screen, summary.of_run(write_run(tmp_path / "a"), tmp_path / "a"), tmp_path)
    assert shown(screen).startswith("tiny: 3 peers, 4 rounds ")
    assert "members" not in shown(screen)
    console.show_summary(screen, summary.of_run(write_elastic(tmp_path / "b"), tmp_path / "b"), tmp_path)
    assert "tiny: 3 peers, 4+ wakings " in shown(screen)
    assert "0, 1, 8" in shown(screen)


@pytest.mark.parametrize("name", ["a [bold] one", "[/b]", "of :smile: [tau=3]"])
def test_names_are_no_markup(tmp_path: Path, screen: Console, name: str) -> None:
    found = summary.of_run(write_run(tmp_path, name="tiny"), tmp_path) | {"name": name}
    console.show_summary(screen, found, Path(name))
    first, *_, last = shown(screen).splitlines()
    assert first.startswith(f"{name}: 3 peers, 4 rounds ")
    assert last == f"{name}/summary.json"


def test_lines_that_are_none_are_not_shown(tmp_path: Path, screen: Console) -> None:
    experiment = write_run(tmp_path, ended=None)
    with (folder_of(tmp_path, 1) / "metrics.jsonl").open("a") as file:
        file.write('junk\n3\n[]\n{"x": 1}\n')
    Progress(screen, tmp_path, experiment).close()
    assert "round 4/4" in shown(screen)
