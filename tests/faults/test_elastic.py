"""What a user sees of peers that come and go: launch, summary, report, health, and peers as containers start them."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer.compose import Containers, text
from peer.settings import read
from tests.integration.lab import Lab, end, events, free_addresses, metrics, refusal, wait_until

PEERS = 3
DEPARTURE_S = 1.0


def _tree(lab: Lab, n_shards: int = PEERS, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    x = [rng.normal(size=(8 + i, 2)) for i in range(n_shards)]
    data = [(one, one @ np.array([1.0, -2.0]) + 0.1 * rng.normal(size=len(one))) for one in x]
    return {
        "peers": PEERS,
        "iterations": 60,
        "data": {"path": lab.shards(data)},
        "model": {"hidden": []},
        "objective": {"loss": "squared", "strength": 0.1},
        "step": {"alpha": 0.3},
        "topology": {"graph": "ring"},
        "run": {"mode": "async", "departure_s": DEPARTURE_S, "checkpoint_every": 5},
        "transport": {"security": "none"},
    } | more


def _summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def _report(lab: Lab, run_dir: Path) -> str:
    done = lab.run("report", run_dir)
    assert (done.returncode, done.stderr) == (0, "")
    return html.unescape(re.sub(r"<[^>]*>", " ", (run_dir / "report.html").read_text()))


def _child(process: subprocess.Popen[str], peer: int) -> int:
    """Process id of a launched peer: they are forked in the order of their numbers."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, listed.split()))[peer]


def test_a_launch_goes_on_without_a_peer_that_was_killed(lab: Lab) -> None:
    run_dir = lab.folder / "out"
    process = lab.start("launch", lab.experiment(**_tree(lab, iterations=150)), "--out", "out")
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 5 for peer in range(PEERS)), process)
    os.kill(_child(process, 1), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (
        3,
        "peer: peer 1 was lost (ended by SIGKILL); the others went on without it\n",
    )
    assert "experiment: 2 peers, 150+ wakings" in output
    found = _summary(run_dir)
    assert (found["peers"], found["members"], found["samples"]) == (2, [0, 2], 8 + 10)
    assert [row["peer"] for row in found["per_peer"]] == [0, 2]
    assert found["stationarity"] < 1e-6
    assert "By then peer 1 had gone." in _report(lab, run_dir)
    late = lab.run(
        "run", run_dir / "experiment.toml", "--id", "1", "--out", "out", "--resume", "--set", "run.patience_s=1"
    )
    assert "peers 0, 2 did not come within" in refusal(late, 3), "all is over: it does not go on alone"
    assert _summary(run_dir) == found


def test_who_was_stopped_while_the_others_came_to_the_end_does_not_go_on_alone(lab: Lab) -> None:
    run_dir = lab.folder / "out"
    run = {"mode": "async", "departure_s": DEPARTURE_S, "checkpoint_every": 5, "patience_s": 5.0}
    process = lab.start("launch", lab.experiment(**_tree(lab, iterations=150, run=run)), "--out", "out")
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 5 for peer in range(PEERS)), process)
    stopped = _child(process, 2)
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: all(events(run_dir, peer)[-1]["event"] == "end" for peer in (0, 1)), process)
    os.kill(stopped, signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    why = r"waking \d+: peers 0, 1 did not come within 5\.\d s"
    assert re.fullmatch(rf"peer: peer 2 was lost \({why}\); the others went on without it\n", errors)
    assert _summary(run_dir)["members"] == [0, 1]
    assert not (run_dir / "peers" / "002" / "final.npz").exists()


def test_who_was_stopped_is_with_the_others_again(lab: Lab) -> None:
    run_dir = lab.folder / "out"
    process = lab.start("launch", lab.experiment(**_tree(lab, iterations=2_000)), "--out", "out")
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 5 for peer in range(PEERS)), process)
    stopped = _child(process, 2)
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: all(_last_members(run_dir, peer) == [0, 1] for peer in (0, 1)), process)
    os.kill(stopped, signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert [_last_members(run_dir, peer) for peer in range(PEERS)] == [[0, 1, 2]] * PEERS
    assert _summary(run_dir)["members"] == [0, 1, 2]


def test_what_a_peer_breaks_down_on_does_not_end_the_others(lab: Lab) -> None:
    tree = _tree(lab)
    lab.shard(1, x=np.full((4, 2), 1e160), y=np.full(4, 1e160))
    done = lab.run("launch", lab.experiment(**tree), "--out", "out")
    line = refusal(done, 3)
    assert re.fullmatch(r"peer: peer 1 was lost \(.*nan or infinite.*\); the others went on without it", line)
    assert _summary(lab.folder / "out")["members"] == [0, 2]


def test_nobody_goes_on_before_all_have_met(lab: Lab) -> None:
    tree = _tree(lab)
    lab.shard(1, x=np.ones((4, 3)), y=np.ones(4))
    assert "data.path" in refusal(lab.run("launch", lab.experiment(**tree), "--out", "out"), 2)


@pytest.mark.parametrize("stay", [True, False])
def test_peers_are_prepared_leave_and_return_as_in_containers(lab: Lab, stay: bool) -> None:
    """The commands of `peer compose`, and of the pods of `peer kubernetes`, which stay."""
    addresses = free_addresses(PEERS)
    experiment = lab.experiment(**_tree(lab, iterations=10_000, transport={"security": "curve", "keys": "keys/{id}"}))
    read_back = text(read(experiment), experiment, Containers("image", "", "512m", 1.0), lab.folder)
    assert "--resume" in read_back
    done = lab.run("prepare", experiment, "--out", "hand", "--set", f"transport.addresses={addresses}")
    assert (done.returncode, done.stderr) == (0, "")
    run_dir = lab.folder / "hand"
    prepared = run_dir / "experiment.toml"
    more = ["--out", "hand", "--resume", *["--stay"] * stay]
    processes = {i: lab.start("run", prepared, "--id", str(i), *more) for i in range(PEERS)}
    wait_until(lambda: all(len(metrics(run_dir, i)) > 10 for i in range(PEERS)), processes[0])

    assert end(processes[2], signal.SIGTERM) == (130, "peer 2: interrupted\n")
    n_left = len(metrics(run_dir, 2))
    wait_until(lambda: _last_members(run_dir, 0) == [0, 1], processes[0])
    said = lab.run("health", "hand", "--id", "0")
    assert (said.returncode, re.sub(r"[\d.]+ ", "# ", said.stdout)) == (0, "peer 0: # wakings done, the last # s ago\n")
    assert "exit code 130" in lab.run("health", "hand", "--id", "2").stderr
    assert _waited_for(lab) == "waiting for peers 0, 1"

    processes[2] = lab.start("run", prepared, "--id", "2", *more)
    wait_until(lambda: _last_members(run_dir, 0) == [0, 1, 2], processes[0])
    wait_until(lambda: len(metrics(run_dir, 2)) > n_left, processes[2])
    assert events(run_dir, 2)[-1]["event"] == "epoch"
    for i in range(PEERS):
        assert end(processes[i], signal.SIGTERM)[0] == 130


def test_who_stays_is_told_to_go_when_all_is_over(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, transport={"security": "none", "addresses": free_addresses(PEERS)}))
    more = ["--out", "hand", "--resume", "--stay"]
    processes = [lab.start("run", experiment, "--id", str(i), *more) for i in range(PEERS)]
    waiting = lab.run("report", "hand", "--wait")
    assert (waiting.returncode, waiting.stderr) == (0, "")
    assert [process.poll() for process in processes] == [None] * PEERS
    assert [end(process, signal.SIGTERM) for process in processes] == [(0, "")] * PEERS
    assert _summary(lab.folder / "hand")["members"] == [0, 1, 2]
    again = lab.start("run", experiment, "--id", "1", *more)  # a pod that was moved when all was over
    assert again.stdout is not None
    assert again.stdout.readline().startswith("peer 1: done already")
    assert end(again, signal.SIGTERM) == (0, "")


def _last_members(run_dir: Path, peer: int) -> list[int]:
    found = [event["members"] for event in events(run_dir, peer) if event["event"] == "epoch"]
    return list(found[-1])


def _waited_for(lab: Lab) -> str:
    waiting = lab.start("report", "hand", "--wait")
    assert waiting.stdout is not None
    line = waiting.stdout.readline().strip()
    waiting.kill()
    waiting.communicate()
    return line.removeprefix("peer report: ")
