"""Peers that are started one by one: what they say while they wait, how they are prepared, resumed and asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.lab import Lab, command, end, events, free_addresses, metrics, refusal, same_finals, wait_until

PEERS = 3


def _experiment(lab: Lab, name: str = "experiment", **more: Any) -> Path:
    rng = np.random.default_rng(2)
    tree: dict[str, Any] = {
        "peers": PEERS,
        "iterations": 30,
        "data": {"path": lab.shards([(rng.normal(size=(6, 2)), np.arange(6) % 2) for _ in range(PEERS)])},
        "model": {"hidden": [2]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "ring"},
        "transport": {"security": "none", "addresses": free_addresses(PEERS)},
    }
    return lab.experiment(name, **tree | more)


def _start(lab: Lab, experiment: Path, peer: int, *more: str) -> subprocess.Popen[str]:
    return lab.start("run", experiment, "--id", str(peer), "--out", "out", *more)


def test_a_peer_says_for_whom_it_waits_and_since_when(lab: Lab) -> None:
    experiment = _experiment(lab)
    first = _start(lab, experiment, 0)
    wait_until(lambda: any(event["event"] == "waiting" for event in events(lab.folder / "out", 0)), first)
    others = [_start(lab, experiment, peer) for peer in (1, 2)]
    for process in others:
        assert end(process) == (0, "")
    output, errors = first.communicate(timeout=60)
    assert (first.returncode, errors) == (0, "")
    lines = output.splitlines()
    waits = next(line for line in lines if "waits" in line)
    assert waits.startswith("peer 0: round 0: waits for peers 1, 2, since ")
    assert waits.endswith(" (5 s)")
    assert any(line.startswith("peer 0: round 0: all are here, after ") for line in lines)
    waiting = next(event for event in events(lab.folder / "out", 0) if event["event"] == "waiting")
    assert (waiting["n"], waiting["peers"]) == (0, [1, 2])
    assert waiting["since"].startswith("20")


def test_health_follows_the_rounds(lab: Lab) -> None:
    experiment = _experiment(lab, iterations=1_000_000)
    assert lab.run("health", "out", "--id", "0").returncode == 1, "nothing is there yet"
    processes = [_start(lab, experiment, peer) for peer in range(PEERS)]
    wait_until(lambda: len(metrics(lab.folder / "out", 0)) > 2, processes[0])
    done = lab.run("health", "out", "--id", "0")
    assert done.returncode == 0, done.stderr
    assert "rounds done" in done.stdout
    os.killpg(processes[1].pid, signal.SIGSTOP)  # now nobody gets on
    wait_until(lambda: lab.run("health", "out", "--id", "0", "--within", "0.5").returncode == 1, processes[0])
    os.killpg(processes[1].pid, signal.SIGCONT)
    wait_until(lambda: lab.run("health", "out", "--id", "0", "--within", "0.5").returncode == 0, processes[0])
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [end(process)[0] for process in processes] == [130] * PEERS
    stopped = lab.run("health", "out", "--id", "1")
    assert stopped.returncode == 1
    assert "exit code 130: interrupted" in stopped.stderr


def _complete(lab: Lab) -> Path:
    experiment = _experiment(lab)
    for process in [_start(lab, experiment, peer) for peer in range(PEERS)]:
        assert end(process) == (0, "")
    return experiment


def test_a_complete_peer_has_nothing_to_resume(lab: Lab) -> None:
    experiment = _complete(lab)
    final = lab.folder / "out" / "peers" / "001" / "final.npz"
    before = final.stat().st_mtime_ns
    again = lab.run("run", experiment, "--id", "1", "--out", "out", "--resume")
    assert again.returncode == 0, again.stderr
    assert "done already" in again.stdout
    assert final.stat().st_mtime_ns == before
    assert (lab.folder / "out" / "experiment.toml").exists(), "a run directory is enough to recompute the run"


def test_a_peer_can_stay_until_it_is_told_to_go(lab: Lab) -> None:
    experiment = _complete(lab)
    process = _start(lab, experiment, 1, "--resume", "--stay")
    assert process.stdout is not None
    assert "done already" in process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert end(process, signal.SIGTERM) == (0, "")


def test_the_id_comes_from_the_environment_too(lab: Lab) -> None:
    experiment = _complete(lab)
    for name in ("1", "wdbc-1"):
        done = subprocess.run(
            command("run", experiment, "--out", "out", "--resume"),
            cwd=lab.folder,
            env=os.environ | {"PEER_ID": name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout[:6]) == (0, "peer 1"), done.stderr
    for bad in ("-1", "one", "wdbc", "1.0", "3"):
        assert "--id" in refusal(lab.run("run", experiment, f"--id={bad}", "--out", "out"), 2)


def test_torn_and_foreign_checkpoints_are_refused_and_stay(lab: Lab) -> None:
    experiment = _complete(lab)
    folder = lab.folder / "out" / "peers" / "001"
    (folder / "log.jsonl").unlink()  # else there is nothing to resume
    path = folder / "checkpoint.npz"
    whole = path.read_bytes()
    other = _experiment(lab, "other", seed=99)
    path.write_bytes(whole[: len(whole) // 2])
    assert "whole npz file" in refusal(lab.run("run", experiment, "--id", "1", "--out", "out", "--resume"), 2)
    assert path.read_bytes() == whole[: len(whole) // 2]
    path.write_bytes(whole)
    line = refusal(lab.run("run", other, "--id", "1", "--out", "out", "--resume"), 2)
    assert "other settings" in line
    assert str(path) in line or "out/peers/001/checkpoint.npz" in line
    assert path.read_bytes() == whole
    path.unlink()
    line = refusal(lab.run("run", experiment, "--id", "1", "--out", "out", "--resume"), 2)
    assert "has begun its rounds; found none" in line


def test_whoever_gave_up_can_be_resumed_and_finds_those_who_were_done(lab: Lab) -> None:
    """Peer 0 meets peer 1 in the first rounds only, is done, and stays away until it is needed again."""
    rounds = 400
    schedule = lab.schedule([[(0, 1), (1, 2)] if n < 5 else [(1, 2)] for n in range(rounds)])
    tree: dict[str, Any] = {
        "iterations": rounds,
        "topology": {"schedule": "file", "path": schedule},
        "run": {"patience_s": 8.0, "checkpoint_every": 100},
    }
    launched = lab.launch(_experiment(lab, "launched", **tree), "launched")
    experiment = _experiment(lab, **tree)
    processes = [_start(lab, experiment, peer) for peer in range(PEERS)]
    wait_until(lambda: len(metrics(lab.folder / "out", 2)) > 20, processes[2])
    os.killpg(processes[2].pid, signal.SIGKILL)
    assert end(processes[2])[0] == -signal.SIGKILL
    assert len(metrics(lab.folder / "out", 2)) < rounds, "it was killed too late to show anything"
    code, errors = end(processes[1])
    assert code == 3
    assert "peer 2 did not come" in errors
    assert end(processes[0]) == (0, "")
    assert events(lab.folder / "out", 0)[-1]["absent"] == [1]
    more = ("--resume", "--set", "run.patience_s=60")
    for process in [_start(lab, experiment, peer, *more) for peer in range(PEERS)]:
        assert end(process) == (0, "")
    same_finals(launched, lab.folder / "out", PEERS)


def test_without_checkpoints_nobody_needs_whoever_is_done(lab: Lab) -> None:
    """Peer 0 meets peer 1 in round 0 only; whoever is lost later has nothing to go on from, and peer 0 none to give."""
    rounds = 400
    schedule = lab.schedule([[(0, 1), (1, 2)]] + [[(1, 2)]] * (rounds - 1))
    tree: dict[str, Any] = {
        "iterations": rounds,
        "topology": {"schedule": "file", "path": schedule},
        "run": {"patience_s": 2.0, "checkpoint_every": 0},
    }
    experiment = _experiment(lab, **tree)
    processes = [_start(lab, experiment, peer, *(["--stay"] if peer == 0 else [])) for peer in range(PEERS)]
    wait_until(lambda: len(metrics(lab.folder / "out", 2)) > 20, processes[2])
    os.killpg(processes[2].pid, signal.SIGKILL)
    assert end(processes[2])[0] == -signal.SIGKILL
    assert len(metrics(lab.folder / "out", 2)) < rounds, "it was killed too late to show anything"
    assert end(processes[1])[0] == 3
    wait_until(lambda: events(lab.folder / "out", 0)[-1]["event"] == "end", processes[0])
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(0.5)
    assert end(processes[0], signal.SIGTERM) == (0, "")
    again = lab.run("run", experiment, "--id", "0", "--out", "out", "--resume")
    assert (again.returncode, again.stdout[:20]) == (0, "peer 0: done already"), again.stderr


def test_something_else_at_a_neighbors_address_is_outlived(lab: Lab) -> None:
    addresses = free_addresses(PEERS)
    assert lab.run("keys", "keys", "--peers", str(PEERS)).returncode == 0
    experiment = _experiment(lab, transport={"addresses": addresses, "keys": "keys"})
    with socket.create_server(("127.0.0.1", int(addresses[1].rpartition(":")[2]))) as stranger:
        others = [_start(lab, experiment, peer) for peer in (0, 2)]
        for _ in others:
            connection, _ = stranger.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()
    for process in [*others, _start(lab, experiment, 1)]:
        assert end(process) == (0, "")


def test_a_run_directory_that_cannot_be_written_is_named(lab: Lab) -> None:
    (lab.folder / "file").write_text("precious")
    line = refusal(lab.run("run", _experiment(lab), "--id", "0", "--out", "file/out"), 2)
    assert "file/out" in line
    assert (lab.folder / "file").read_text() == "precious"


def _prepare(lab: Lab, experiment: Path) -> subprocess.CompletedProcess[str]:
    return lab.run(
        *("prepare", experiment, "--out", "run"),
        *("--set", "data.path=shards/{id}/peer-{id:03d}.npz", "--set", "data.test_path=shards/test/test.npz"),
        *("--set", "transport.keys=keys/{id}"),
    )


def test_prepared_peers_end_as_launched_ones(lab: Lab) -> None:
    tree: dict[str, Any] = {
        "peers": PEERS,
        "iterations": 40,
        "data": {"dataset": "wine"},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "ring"},
    }
    launched = lab.launch(lab.experiment("launched", **tree), "launched")
    experiment = lab.experiment(**tree, transport={"addresses": free_addresses(PEERS)})
    assert _prepare(lab, experiment).returncode == 0
    resolved = tomllib.loads((lab.folder / "run" / "experiment.toml").read_text())
    assert resolved["data"]["path"].endswith("shards/{id}/peer-{id:03d}.npz")
    secret = lab.folder / "keys" / "2" / "peer-002.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(path.name for path in secret.parent.iterdir()) == ["peer-002.secret", "public.toml"]

    before = secret.read_text()
    assert _prepare(lab, experiment).returncode == 0, "again: everything stays"
    assert secret.read_text() == before
    assert tomllib.loads((lab.folder / "run" / "experiment.toml").read_text()) == resolved
    other = lab.experiment(
        "other", **tree | {"iterations": 41}, transport={"addresses": resolved["transport"]["addresses"]}
    )
    assert "another one in run" in refusal(_prepare(lab, other), 2)

    processes = [
        lab.start("run", "run/experiment.toml", "--id", str(peer), "--out", "run", "--resume") for peer in range(PEERS)
    ]
    for process in processes:
        assert end(process) == (0, "")
    same_finals(launched, lab.folder / "run", PEERS)
    report = lab.run("report", "run", "--wait")
    assert report.returncode == 0, report.stderr
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (launched, lab.folder / "run")]
    assert summaries[0]["objective"] == summaries[1]["objective"]


def test_compose_and_prepare_say_in_one_line_what_is_wrong(lab: Lab) -> None:
    experiment = _experiment(lab)
    assert "transport.security" in refusal(lab.run("compose", experiment), 2)
    assert "none.toml" in refusal(lab.run("compose", "none.toml"), 2)
    bare = lab.experiment("bare", data={"dataset": "wine"})
    assert "transport.addresses" in refusal(lab.run("prepare", bare, "--out", "run"), 2)
    line = refusal(lab.run("prepare", bare, "--out", "run", "--set", "transport.addresses=['tcp://p-{id}:1']"), 2)
    assert "transport.keys" in line
    free = "transport.addresses=['tcp://127.0.0.1:5550', 'tcp://127.0.0.1:0', 'tcp://127.0.0.1:0']"
    for words in (("prepare", experiment), ("run", experiment, "--id", "0")):
        refused = refusal(lab.run(*words, "--out", "run", "--set", free), 2)
        assert "transport.addresses: expected a port > 0, to connect to; found tcp://127.0.0.1:0" in refused
    assert "data.dataset" in refusal(lab.run("shard", experiment), 2)
    assert not (lab.folder / "run").exists()
