"""Runs as users start them: by launch, by hand with keys, interrupted and resumed; always the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import load_model, npz
from tests.integration.lab import (
    TIMEOUT_S,
    Lab,
    end,
    events,
    flat,
    free_addresses,
    json_lines,
    metrics,
    parameters,
    refusal,
    same_finals,
    wait_until,
)

PEERS = 4


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": 40,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy", "regularizer": "l1"},
        "topology": {"graph": "complete", "schedule": "random-links", "link_probability": 0.4},
    } | more


def test_two_runs_give_identical_parameters_and_the_directory_tells_all(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab))
    one, other = lab.launch(experiment, "one"), lab.launch(experiment, "other")
    same_finals(one, other, PEERS)

    resolved = tomllib.loads((one / "experiment.toml").read_text())
    assert resolved["surrogate"]["tau"] == "auto", "defaults are filled in"
    assert resolved["software"]["numpy"] == np.__version__
    assert [line["n"] for line in json_lines(one / "schedule.jsonl")] == list(range(40))
    summary = json.loads((one / "summary.json").read_text())
    assert summary["peers"] == len(summary["per_peer"]) == PEERS
    mean = np.mean([flat(one, peer) for peer in range(PEERS)], axis=0)
    spread = np.mean([np.sum((flat(one, peer) - mean) ** 2) for peer in range(PEERS)])
    assert summary["disagreement"] == pytest.approx(spread)
    for peer in range(PEERS):
        rounds = metrics(one, peer)
        assert [line["iteration"] for line in rounds] == list(range(40))
        assert {"objective_local", "objective_estimate", "residual", "alpha", "tau", "solve_s", "wait_s"} <= rounds[
            0
        ].keys()
        meetings = json_lines(one / "schedule.jsonl")
        for line, graph in zip(rounds, meetings, strict=True):
            expected = sorted(a + b - peer for a, b in graph["edges"] if peer in (a, b))
            assert line["neighbors"] == expected
            assert line["time_s"] > 0.0
    # one message to each neighbor a round, and a few Hellos
    p = flat(one, 0).size
    sent = sum(line["bytes_sent"] for peer in range(PEERS) for line in metrics(one, peer))
    shares = 2 * sum(len(graph["edges"]) for graph in json_lines(one / "schedule.jsonl"))
    assert shares * 16 * p < sent < shares * (16 * p + 300)


def test_the_resolved_experiment_gives_the_same_run_again(lab: Lab) -> None:
    one = lab.launch(lab.experiment(**_tree(lab)), "one")
    again = lab.launch(one / "experiment.toml", "again", "--set", "transport.addresses=[]")
    same_finals(one, again, PEERS)


def test_peers_by_hand_with_keys_end_as_launch_does(lab: Lab) -> None:
    launched = lab.launch(lab.experiment(**_tree(lab)), "launched")
    assert lab.run("keys", "keys", "--peers", str(PEERS)).returncode == 0
    transport = {"addresses": free_addresses(PEERS), "keys": "keys"}
    by_hand = lab.experiment("by-hand", **_tree(lab, transport=transport))
    # in the reverse order, so that the first ones have nobody to talk to for a while
    processes = [lab.start("run", by_hand, "--id", str(peer), "--out", "hand") for peer in reversed(range(PEERS))]
    for process in processes:
        code, errors = end(process)
        assert (code, errors) == (0, "")
    same_finals(launched, lab.folder / "hand", PEERS)


def test_a_peer_with_a_key_of_its_own_making_is_refused(lab: Lab) -> None:
    for folder in ("keys", "others"):
        assert lab.run("keys", folder, "--peers", str(PEERS)).returncode == 0
    addresses, run = free_addresses(PEERS), {"patience_s": 2.0, "id": "same"}
    files = [
        lab.experiment(name, **_tree(lab, run=run, transport={"addresses": addresses, "keys": folder}))
        for name, folder in (("listed", "keys"), ("stranger", "others"))
    ]
    processes = [lab.start("run", file, "--id", str(k), "--out", "out") for k, file in enumerate(files)]
    for process in processes:
        code, errors = end(process)
        assert code == 3, errors
        assert "round 0" in errors
    assert all(event["event"] != "ready" for peer in (0, 1) for event in events(lab.folder / "out", peer))


def test_peers_of_a_launch_reach_each_other_without_the_network(lab: Lab) -> None:
    """Each connects to its three neighbors, and they to it, over Unix sockets; nothing goes over TCP."""
    experiment = lab.experiment(**_tree(lab) | {"iterations": 100_000})
    launched = lab.start("launch", experiment, "--out", "out")
    wait_until(lambda: all(len(metrics(lab.folder / "out", peer)) > 20 for peer in range(PEERS)), launched)
    peers = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    held = [_sockets(peer) for peer in peers]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    tcp = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    assert end(launched, signal.SIGTERM)[0] == 130
    assert len(peers) == PEERS
    connected, listening, established = "03", "00010000", "01"
    for own in held:
        near = [line for line in unix if line[6] in own and line[-1].startswith("@peer-")]
        assert sum(line[5] == connected for line in near) == PEERS - 1
        assert sum(line[3] == listening for line in near) == 1
        assert not [line for line in tcp if line[9] in own and line[3] == established]


def _sockets(pid: str) -> set[str]:
    """Numbers of the sockets that a process holds."""
    names: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what it has just closed
            names.append(str(entry.readlink()))
    return {name.removeprefix("socket:[").removesuffix("]") for name in names if name.startswith("socket:")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_launch_has_journaled_everything(lab: Lab, number: signal.Signals) -> None:
    experiment = lab.experiment(**_tree(lab, iterations=1_000_000, topology={"graph": "ring"}))
    launched = lab.start("launch", experiment, "--out", "out")
    run_dir = lab.folder / "out"
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 3 for peer in range(PEERS)), launched)
    code, errors = end(launched, number)
    assert code == 130
    assert errors.strip() == "peer: interrupted; every peer has written a checkpoint; peer launch --resume out goes on"
    for peer in range(PEERS):
        last = events(run_dir, peer)[-1]
        assert (last["event"], last["code"]) == ("end", 130)
        folder = run_dir / "peers" / f"{peer:03d}"
        assert (folder / "metrics.jsonl").read_text().endswith("}\n")
        with np.load(folder / "checkpoint.npz") as archive:
            assert archive["n"] == len(metrics(run_dir, peer))


def test_an_interrupted_launch_without_checkpoints_promises_none(lab: Lab) -> None:
    tree = _tree(lab, iterations=100_000) | {"run": {"checkpoint_every": 0}}
    launched = lab.start("launch", lab.experiment(**tree), "--out", "out")
    wait_until(lambda: len(metrics(lab.folder / "out", 0)) > 20, launched)
    assert end(launched, signal.SIGINT) == (130, "peer: interrupted\n")
    assert not list((lab.folder / "out").rglob("checkpoint.npz"))


def test_an_interrupted_launch_names_who_was_killed_for_it_did_not_end(lab: Lab) -> None:
    tree = _tree(lab, iterations=300, topology={"graph": "ring"}, run={"checkpoint_every": 20})
    whole = lab.launch(lab.experiment(**tree), "whole")
    launched, run_dir = lab.start("launch", lab.folder / "experiment.toml", "--out", "out"), lab.folder / "out"
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 25 for peer in range(PEERS)), launched)
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text()
    os.kill(sorted(map(int, children.split()))[1], signal.SIGSTOP)
    code, errors = end(launched, signal.SIGINT)
    assert (code, errors.strip()) == (
        130,
        "peer: interrupted; peer 1 was killed, and goes on from an older checkpoint; peer launch --resume out goes on",
    )
    done = lab.run("launch", "--resume", "out")
    assert (done.returncode, done.stderr) == (0, "")
    same_finals(whole, run_dir, PEERS)


UNREAD = "from peer import __main__, console; console.PLAIN_S = 0.0; __main__.main()"
"""A launch that shows its progress at every look."""

BROKEN = {
    "iterations": 10_000,
    "model": {"hidden": []},
    "objective": {"loss": "squared", "scale": "sum"},
    "surrogate": {"kind": "full", "tau": 1e-3},
    "step": {"alpha": 1.0},
}
"""Numbers that break down."""


@pytest.mark.parametrize(
    ("program", "more", "code"),
    [(UNREAD, {}, 0), (UNREAD.replace("0.0", "1e9"), {}, 0), (UNREAD, BROKEN, 4), (UNREAD, {"peers": 0}, 2)],
    ids=["progress", "summary", "cause", "refusal"],
)
def test_a_run_ends_as_ever_when_nobody_reads_what_is_shown(
    lab: Lab, program: str, more: dict[str, Any], code: int
) -> None:
    """As behind `| head`, also where stderr goes there, too."""
    line = [sys.executable, "-c", program, "launch", str(lab.experiment(**_tree(lab, **more))), "--out", "out"]
    reader, writer = os.pipe()
    os.close(reader)
    with (lab.folder / "errors").open("w+") as errors:
        where = errors if code == 0 else writer
        found = subprocess.run(line, cwd=lab.folder, stdout=writer, stderr=where, timeout=TIMEOUT_S, check=False)
        errors.seek(0)
        assert (found.returncode, errors.read()) == (code, "")
    os.close(writer)
    assert (lab.folder / "out" / "summary.json").exists() is (code == 0)
    if code == 0:
        assert [events(lab.folder / "out", peer)[-1]["code"] for peer in range(PEERS)] == [0] * PEERS


def test_a_run_ends_as_ever_without_any_stdout(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab))
    line = ["sh", "-c", 'exec "$0" -m peer launch "$1" --out out >&-', sys.executable, str(experiment)]
    found = subprocess.run(line, cwd=lab.folder, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert (lab.folder / "out" / "summary.json").exists()


def test_peers_do_not_outlive_a_launch_that_is_killed(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, iterations=1_000_000, topology={"graph": "ring"}))
    launched = lab.start("launch", experiment, "--out", "out")
    run_dir = lab.folder / "out"
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 3 for peer in range(PEERS)), launched)
    # the pipes of the command are closed when the last of its processes is gone
    assert end(launched, signal.SIGKILL)[0] == -signal.SIGKILL
    assert [events(run_dir, peer)[-1]["code"] for peer in range(PEERS)] == [130] * PEERS


def test_a_killed_peer_resumes_and_nothing_has_happened(lab: Lab) -> None:
    rounds = 300
    launched = lab.launch(lab.experiment(**_tree(lab, iterations=rounds)), "launched")
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    experiment = lab.experiment("by-hand", **_tree(lab, iterations=rounds, transport=transport))
    run_dir = lab.folder / "hand"
    processes = [lab.start("run", experiment, "--id", str(peer), "--out", "hand") for peer in range(PEERS)]
    for victim, n in ((2, 35), (0, 90), (2, 171)):
        wait_until(lambda victim=victim, n=n: len(metrics(run_dir, victim)) > n, processes[victim])  # type: ignore[misc]
        os.killpg(processes[victim].pid, signal.SIGKILL)
        assert end(processes[victim])[0] == -signal.SIGKILL
        assert len(metrics(run_dir, victim)) < rounds, "it was killed too late to show anything"
        processes[victim] = lab.start("run", experiment, "--id", str(victim), "--out", "hand", "--resume")
    for process in processes:
        code, errors = end(process)
        assert (code, errors) == (0, "")
    same_finals(launched, run_dir, PEERS)
    for peer in range(PEERS):
        assert [line["iteration"] for line in metrics(run_dir, peer)] == list(range(rounds))


def test_an_older_checkpoint_is_refused_and_with_the_last_one_nothing_has_happened(lab: Lab) -> None:
    rounds = 200
    tree = _tree(lab, iterations=rounds, topology={"graph": "ring"})  # in each round it needs its neighbors
    launched = lab.launch(lab.experiment(**tree), "launched")
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    experiment = lab.experiment("by-hand", **tree, transport=transport)
    run_dir, victim = lab.folder / "hand", 2
    checkpoint, older, last = (run_dir / "peers" / "002" / f"{name}.npz" for name in ("checkpoint", "older", "last"))
    resume = "run", experiment, "--id", str(victim), "--out", "hand", "--resume"
    processes = [lab.start("run", experiment, "--id", str(peer), "--out", "hand") for peer in range(PEERS)]
    wait_until(lambda: len(metrics(run_dir, victim)) > 25, processes[victim])
    shutil.copy(checkpoint, older)
    wait_until(lambda: len(metrics(run_dir, victim)) > 75, processes[victim])
    assert end(processes[victim], signal.SIGKILL)[0] == -signal.SIGKILL
    before = metrics(run_dir, victim)
    assert len(before) < rounds, "it was killed too late to show anything"
    shutil.copy(checkpoint, last)
    shutil.copy(older, checkpoint)
    line = refusal(lab.run(*resume), 2)
    assert "expected its last checkpoint, found an older one" in line
    assert metrics(run_dir, victim) == before, "a peer that can do nothing has taken nothing"
    shutil.copy(last, checkpoint)
    processes[victim] = lab.start(*resume)
    assert [end(process) for process in processes] == [(0, "")] * PEERS
    same_finals(launched, run_dir, PEERS)
    for peer in range(PEERS):
        assert [line["iteration"] for line in metrics(run_dir, peer)] == list(range(rounds))


def test_a_whole_run_that_was_interrupted_resumes(lab: Lab) -> None:
    rounds = 300
    launched = lab.launch(lab.experiment(**_tree(lab, iterations=rounds)), "launched")
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    experiment = lab.experiment("by-hand", **_tree(lab, iterations=rounds, transport=transport))
    run_dir = lab.folder / "hand"
    processes = [lab.start("run", experiment, "--id", str(peer), "--out", "hand") for peer in range(PEERS)]
    wait_until(lambda: len(metrics(run_dir, 1)) > 40, processes[1])
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [end(process)[0] for process in processes] == [130] * PEERS
    resumed = [lab.start("run", experiment, "--id", str(peer), "--out", "hand", "--resume") for peer in range(PEERS)]
    for process in resumed:
        code, errors = end(process)
        assert (code, errors) == (0, "")
    same_finals(launched, run_dir, PEERS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_launch_goes_on_with_a_run_that_did_not_end(lab: Lab, number: signal.Signals) -> None:
    """With new keys, and with other groups of peers; whoever is done already is left alone."""
    rounds = 300
    whole = lab.launch(lab.experiment(**_tree(lab, iterations=rounds)), "whole")
    launched = lab.start("launch", lab.folder / "experiment.toml", "--out", "out")
    run_dir = lab.folder / "out"
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 20 for peer in range(PEERS)), launched)
    assert end(launched, number)[0] in (130, -signal.SIGKILL)
    assert len(metrics(run_dir, 1)) < rounds, "it was interrupted too late to show anything"
    line = refusal(lab.run("launch", "--resume", "out", "--set", "surrogate.tau=2.0"), 2)
    assert line == "peer: surrogate.tau: expected 'auto', as the run in out has begun with, found 2.0"
    assert "or --peers" in refusal(lab.run("launch", "--resume", "out", "--peers", "2"), 2)

    done = lab.run("launch", "--resume", "out", "--agents-per-process", "2")
    assert (done.returncode, done.stderr) == (0, "")
    same_finals(whole, run_dir, PEERS)
    for peer in range(PEERS):
        assert [line["iteration"] for line in metrics(run_dir, peer)] == list(range(rounds))
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, run_dir)]
    assert summaries[0]["objective"] == summaries[1]["objective"]

    again = lab.run("launch", "--resume", "out")
    assert (again.returncode, again.stdout.strip()) == (0, "done already; out/summary.json")
    (run_dir / "summary.json").unlink()
    (run_dir / "peers" / "002" / "final.npz").unlink()
    with (run_dir / "peers" / "002" / "log.jsonl").open("a") as log:
        log.write('{"time_s": 9.0, "event": "start"}\n')  # as if it had come back, and been killed
    assert lab.run("launch", "--resume", "out").returncode == 0
    same_finals(whole, run_dir, PEERS)


def test_the_record_of_a_run_says_where_a_peer_of_it_goes_on(lab: Lab) -> None:
    """It began anew in runs/NAME, or took the run that was there for its own, where a launch was told another place."""
    lab.launch(lab.experiment(**_tree(lab, iterations=3, transport={"security": "none"})))
    again = ("run", "out/experiment.toml", "--id", "0", "--set", "run.patience_s=0.1")
    done = lab.run(*again, "--resume")
    assert (done.returncode, done.stdout) == (0, "peer 0: done already; out/peers/000/final.npz\n"), done.stderr
    assert not (lab.folder / "runs").exists()
    refusal(lab.run(*again), 3)
    assert (lab.folder / "runs" / "experiment").is_dir(), "a new run of an old record is another one"


STILLBORN = """
import os, signal, sys, time
from pathlib import Path
from peer import __main__, process

run, begun = process.run, Path("out") / "peers" / "000" / "initial.npz"

def unless_killed(assignment):
    if assignment.me == 2:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return run(assignment)

process.run = unless_killed
__main__.main()
"""
"""A launch whose peer 2 is killed when peer 0, which is no neighbor, has begun; it has done nothing at all by then."""


def test_a_launch_goes_on_with_a_peer_that_was_killed_before_it_did_anything(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, topology={"graph": "ring"}))
    line = [sys.executable, "-c", STILLBORN, "launch", str(experiment), "--out", "out"]
    done = subprocess.run(line, cwd=lab.folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert "peer 2 was lost: ended by SIGKILL" in refusal(done, 3)
    done = lab.run("launch", "--resume", "out")
    assert (done.returncode, done.stderr) == (0, "")
    same_finals(lab.launch(experiment, "whole"), lab.folder / "out", PEERS)


DENSE = {"kind": "dense", "width": 3}
BLOCK = {"kind": "residual", "layers": [{"kind": "dense", "width": 5}, "tanh", DENSE]}


@pytest.mark.parametrize("layers", [[{"kind": "dense", "width": 4}, "tanh", DENSE], [BLOCK, DENSE], [DENSE, BLOCK]])
def test_layers_may_say_themselves_how_many_outputs_they_have(lab: Lab, layers: list[Any]) -> None:
    run_dir = lab.launch(lab.experiment(**_tree(lab, iterations=3, model={"layers": layers})), "out")
    found = json.loads((run_dir / "summary.json").read_text())
    assert found["objective"] > 0.0
    assert load_model(run_dir).predict(np.zeros((2, 3))).shape == (2, 3)


def test_damage_is_told_before_a_run_goes_on(lab: Lab) -> None:
    rounds = 300
    whole = lab.launch(lab.experiment(**_tree(lab, iterations=rounds)), "whole")
    launched = lab.start("launch", lab.folder / "experiment.toml", "--out", "out")
    run_dir = lab.folder / "out"
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 40 for peer in range(PEERS)), launched)
    assert end(launched, signal.SIGINT)[0] == 130
    folder, kept = run_dir / "peers" / "001", lab.folder / "kept"
    shutil.copytree(folder, kept)

    def without_parameters() -> None:
        arrays = {name: array for name, array in npz.load(kept / "checkpoint.npz").items() if name != "vector.w"}
        npz.save(folder / "checkpoint.npz", arrays)

    def text(name: str, change: Callable[[str], str]) -> None:
        (folder / name).write_text(change((kept / name).read_text()))

    damages: tuple[tuple[Callable[[], object], str], ...] = (
        (
            lambda: shutil.rmtree(folder),
            "expected a folder of each peer, as rounds have begun; found none at out/peers/001",
        ),
        (lambda: (folder / "starts").unlink(), "starts: expected the number of starts beside a checkpoint, found none"),
        (lambda: text("metrics.jsonl", lambda whole: whole[:2000]), "lines, as the checkpoint has it, found "),
        (lambda: text("metrics.jsonl", lambda whole: "junk\n" + whole), "metrics.jsonl, line 1: expected JSON"),
        (without_parameters, "checkpoint.npz: expected the state of this agent, found "),
    )
    for damage, problem in damages:
        damage()
        assert problem in refusal(lab.run("launch", "--resume", "out"), 2)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
    assert lab.run("launch", "--resume", "out").returncode == 0
    same_finals(whole, run_dir, PEERS)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--resume", "nothing"), "nothing/experiment.toml: expected an experiment file"),
        (("--resume", "nothing", "--out", "x"), "--resume: expected a run directory alone"),
        (("experiment.toml", "--resume", "nothing"), "--resume: expected a run directory alone"),
        (("--resume", "simulated"), "--resume: expected a run that peers have begun, found none of them in simulated"),
    ],
)
def test_a_launch_that_cannot_go_on_says_why(lab: Lab, arguments: tuple[str, ...], problem: str) -> None:
    begun = lab.experiment(**_tree(lab))
    (lab.folder / "simulated").mkdir()
    shutil.copy(begun, lab.folder / "simulated")
    assert problem in refusal(lab.run("launch", *arguments), 2)


def test_single_precision_on_the_wire_costs_half_and_little_accuracy(lab: Lab) -> None:
    exact = lab.launch(lab.experiment(**_tree(lab)), "exact")
    short = lab.launch(lab.experiment("short", **_tree(lab, transport={"wire_dtype": "f4"})), "short")
    for peer in range(PEERS):
        difference = np.abs(flat(exact, peer) - flat(short, peer)).max()
        assert 0.0 < difference < 1e-4


def test_one_peer_alone_is_central_training(lab: Lab) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(30, 3))
    data = {"path": lab.shards([(x, x @ np.ones((3, 1)))])}
    experiment = lab.experiment(
        peers=1, data=data, iterations=200, model={"hidden": []}, objective={"regularizer": "none"}, step={"alpha": 0.5}
    )
    found = parameters(lab.launch(experiment), 0)
    assert np.abs(found["layers.0.weight"] - 1.0).max() < 1e-9


def test_shard_and_check(lab: Lab) -> None:
    cut = lab.run("shard", "wine", "--peers", "3", "--out", "cut", "--partition", "label-sorted", "--seed", "4")
    assert cut.returncode == 0
    names = [Path(line).name for line in cut.stdout.splitlines()]
    assert names == ["peer-000.npz", "peer-001.npz", "peer-002.npz", "standardization.npz", "test.npz"]
    experiment = lab.experiment(
        peers=3,
        iterations=20,
        data={"path": "cut/peer-{id}.npz", "test_path": "cut/test.npz"},
        model={"hidden": [5]},
        objective={"loss": "cross_entropy"},
        topology={"graph": "ring"},
    )
    before = sorted(lab.folder.iterdir())
    checked = lab.run("check", experiment)
    assert checked.returncode == 0, checked.stderr
    assert sorted(lab.folder.iterdir()) == before
    assert "# parameters: 88" in checked.stdout, checked.stdout
    assert "# connectivity window: 1 rounds" in checked.stdout
    assert tomllib.loads(checked.stdout)["surrogate"]["tau"] == "auto"
    run_dir = lab.launch(experiment)
    assert json.loads((run_dir / "summary.json").read_text())["test"]["accuracy"] > 0.5


def test_check_without_rounds_says_how_soon_everybody_reaches_everybody(lab: Lab) -> None:
    experiment = lab.experiment(
        peers=4,
        data={"path": lab.four_shards()},
        model={"hidden": [5]},
        objective={"loss": "cross_entropy"},
        topology={"graph": "ring", "directed": True},
        run={"mode": "async"},
    )
    checked = lab.run("check", experiment)
    assert checked.returncode == 0, checked.stderr
    found = tomllib.loads(checked.stdout)
    assert (found["topology"]["directed"], found["run"]["departure_s"]) == (True, 30.0)
    assert "# wakings until strongly connected: 1\n" in checked.stdout
    assert "# neighbors over the run: 2 to 2\n" in checked.stdout, "one pushed to, one that pushes"
    assert "mixing rate" not in checked.stdout
    (lab.folder / "links.jsonl").write_text('{"n": 0, "arcs": [[0, 1], [1, 2]]}\n{"n": 1, "edges": [[2, 3]]}\n')
    given = ["--set", "topology.schedule=file", "--set", "topology.path=links.jsonl"]
    line = refusal(lab.run("check", experiment, *given), 2)
    assert "falls apart into 3 strongly connected components: {0}, {1}, {2, 3}" in line
    given += ["--set", "topology.directed=false", "--set", "run.mode=rounds"]
    line = refusal(lab.run("check", experiment, *given), 2)
    assert 'links.jsonl, line 1: "arcs": links with a direction need mode = "async"' in line


@pytest.mark.parametrize(
    ("dataset", "loss", "metric"),
    [
        ("diabetes", "squared", "r2"),
        ("diabetes", "huber", "r2"),
        ("wine", "squared", "accuracy"),
        ("wine", "huber", "accuracy"),
        ("breast-cancer", "squared_hinge", "accuracy"),
        ("digits", "cross_entropy", "accuracy"),
    ],
)
def test_every_data_set_trains_from_its_name(lab: Lab, dataset: str, loss: str, metric: str) -> None:
    experiment = lab.experiment(
        peers=3,
        iterations=30,
        data={"dataset": dataset, "partition": "dirichlet"},
        model={"hidden": [3]},
        objective={"loss": loss, "strength": 1e-3},
        surrogate={"kind": "full", "tau": 2.0},
        step={"alpha": 0.5},
        topology={"graph": "complete"},
    )
    run_dir = lab.launch(experiment)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert metric in summary["test"]
    assert (run_dir / "shards" / "test.npz").exists()
    first, last = metrics(run_dir, 0)[0], metrics(run_dir, 0)[-1]
    assert last["objective_estimate"] < first["objective_estimate"]


def test_the_built_in_experiment_is_as_good_as_central_training(lab: Lab) -> None:
    done = lab.run("launch")
    assert done.returncode == 0, done.stderr
    summary = json.loads((lab.folder / "runs" / "wdbc" / "summary.json").read_text())
    assert summary["peers"] == 8
    assert summary["test"]["accuracy"] >= summary["central"]["test"]["accuracy"] - 1e-12
    assert summary["objective"] < 1.001 * summary["central"]["objective"]
    assert "trained centrally" in done.stdout
    again = lab.run("launch", "--set", "iterations=30")
    assert again.returncode == 0, again.stderr
    assert (lab.folder / "runs" / "wdbc-2").exists()
