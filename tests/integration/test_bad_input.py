"""Bad input of every kind: one clear line, the right exit code, no traceback, nothing on disk."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer.launcher import claimed
from tests.integration.lab import TIMEOUT_S, Array, Lab, end, events, free_addresses, refusal, wait_until

PEERS = 3


def _shards(lab: Lab) -> str:
    rng = np.random.default_rng(0)
    return lab.shards([(rng.normal(size=(6, 2)), rng.integers(0, 2, size=6)) for _ in range(PEERS)])


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "peers": PEERS,
        "iterations": 5,
        "data": {"path": _shards(lab)},
        "model": {"hidden": [2]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "ring"},
        "transport": {"security": "none"},
    }
    for key, table in more.items():
        tree[key] = tree.get(key, {}) | table if isinstance(table, dict) else table
    return tree


def _torn(path: Path, **_: Array) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _replace(**arrays: Any) -> Callable[..., None]:
    def write(path: Path, x: Array, y: Array) -> None:
        made = {name: make(x.copy(), y.copy()) for name, make in arrays.items()}
        np.savez(path, **{"x": x, "y": y} | made)

    return write


def _with_nan(x: Array, _: Array) -> Array:
    x[3, 1] = np.nan
    return x


BAD_SHARDS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "missing": (lambda path, **_: path.unlink(), ["peer-1.npz", "found none"]),
    "torn": (_torn, ["peer-1.npz", "whole npz file"]),
    "empty": (_replace(x=lambda x, y: x[:0], y=lambda x, y: y[:0]), ["peer-1.npz", "(m, d)"]),
    "rows": (_replace(y=lambda x, y: y[:-1]), ["peer-1.npz", "6 rows"]),
    "columns": (_replace(x=lambda x, y: x[:, :1]), ["peer-1.npz", "widths"]),
    "flat": (_replace(x=lambda x, y: x[:, 0]), ["peer-1.npz", "(m, d)"]),
    "nan": (_replace(x=_with_nan), ["peer-1.npz", "nan", "row 3"]),
    "text": (_replace(x=lambda x, y: x.astype(str)), ["peer-1.npz", "numbers"]),
    "negative label": (_replace(y=lambda x, y: y - 1), ["peer-1.npz", "labels >= 0"]),
    "real targets": (_replace(y=lambda x, y: y[:, None] + 0.5), ["peer-1.npz", "labels"]),
    "negative weight": (_replace(weight=lambda x, y: y - 0.5), ["peer-1.npz", "weights >= 0", "-0.5"]),
    "too few weights": (_replace(weight=lambda x, y: y[:-1]), ["peer-1.npz", "a weight for each of 6 samples"]),
}


@pytest.mark.parametrize(("damage", "words"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_a_bad_shard_is_named(lab: Lab, damage: Callable[..., None], words: list[str]) -> None:
    experiment = lab.experiment(**_tree(lab))
    path = lab.folder / "shards" / "peer-1.npz"
    with np.load(path) as archive:
        x, y = archive["x"], archive["y"]
    damage(path, x=x, y=y)
    line = refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert all(word in line for word in words), line
    assert not (lab.folder / "out").exists()


LATER = """
import numpy as np
from peer import __main__, launcher

def change(experiment):
    with np.load("shards/peer-2.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    np.savez("shards/peer-2.npz", x=x, y=y + 7)

launcher.warm_up = change
__main__.main()
"""


def test_labels_that_are_others_once_they_were_checked_are_named(lab: Lab) -> None:
    """The peer and its neighbors had networks of different sizes, and waited for each other."""
    path = lab.experiment(peers=4, iterations=5, data={"path": lab.four_shards()}, model={"hidden": [3]})
    line = [sys.executable, "-c", LATER, "launch", str(path), "--out", "out"]
    done = subprocess.run(line, cwd=lab.folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert "peer-2.npz: expected labels below 3, as a moment ago, found 9" in refusal(done, 2)


def test_a_standalone_peer_names_its_bad_shard(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, transport={"addresses": free_addresses(PEERS)}))
    _torn(lab.folder / "shards" / "peer-1.npz")
    line = refusal(lab.run("run", experiment, "--id", "1", "--out", "out"), 2)
    assert "peer-1.npz" in line
    assert not (lab.folder / "out").exists()


def test_a_label_beyond_the_models_outputs_is_named(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, model={"outputs": 3}))
    lab.shard(2, x=np.zeros((4, 2)), y=np.array([0, 1, 2, 3]))
    line = refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert "peer-2.npz" in line
    assert "0..2" in line
    assert "found 3" in line


SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"step": {"alhpa": 0.1}}, ["step.alhpa", "step.alpha"]),
    "unknown table": ({"stepp": {"alpha": 0.1}}, ["stepp", "step"]),
    "wrong type": ({"step": {"alpha": "fast"}}, ["step.alpha", "alpha <= 1", "'fast'"]),
    "out of range": ({"step": {"alpha": 2.0}}, ["step.alpha", "alpha <= 1", "2.0"]),
    "not positive": ({"objective": {"huber_delta": 0.0}}, ["objective.huber_delta", "> 0", "0.0"]),
    "no labels": (
        {"objective": {"loss": "squared_hinge"}, "data": {"dataset": "diabetes", "path": ""}},
        ["objective.loss"],
    ),
    "no such choice": ({"topology": {"graph": "rign"}}, ["topology.graph", "ring", "rign"]),
    "no such word": ({"surrogate": {"tau": "some"}}, ["surrogate.tau", "a number > 0", "'some'"]),
    "addresses": ({"transport": {"addresses": ["tcp://127.0.0.1:1"]}}, ["transport.addresses", "3 peers"]),
    "elsewhere": (
        {"transport": {"addresses": [f"tcp://192.0.2.{k}:5555" for k in range(PEERS)]}},
        ["transport.addresses", "this host only"],
    ),
    "initial": ({"model": {"initial": "none.npz"}}, ["model.initial", "none.npz", "found none"]),
    "schedule file": ({"topology": {"schedule": "file", "path": "none.jsonl"}}, ["topology", "none.jsonl"]),
}


@pytest.mark.parametrize(("change", "words"), SETTINGS.values(), ids=SETTINGS)
def test_a_bad_setting_is_named(lab: Lab, change: dict[str, Any], words: list[str]) -> None:
    experiment = lab.experiment(**_tree(lab, **change))
    line = refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert all(word in line for word in words), line
    assert not (lab.folder / "out").exists()


def test_shards_that_were_cut_go_with_a_launch_that_is_refused(lab: Lab) -> None:
    """They stayed, and a launch of another seed into the same folder was refused for them."""
    data = {"dataset": "wine", "path": ""}
    experiment = lab.experiment(**_tree(lab, data=data, surrogate={"blocks": 1000}))
    assert "surrogate.blocks" in refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert not (lab.folder / "out").exists()
    (lab.folder / "out").mkdir()
    (lab.folder / "out" / "notes").touch()
    assert "surrogate.blocks" in refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert [path.name for path in (lab.folder / "out").iterdir()] == ["notes"]


def test_a_folder_whose_name_is_no_text_is_refused(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab))
    assert "--out: expected UTF-8" in refusal(lab.run("launch", experiment, "--out", "out\udcff"), 2)


def test_no_security_is_refused_off_the_loopback(lab: Lab) -> None:
    addresses = [f"tcp://192.0.2.{k}:5555" for k in range(PEERS)]
    experiment = lab.experiment(**_tree(lab, transport={"addresses": addresses}))
    line = refusal(lab.run("run", experiment, "--id", "0", "--out", "out"), 2)
    assert "transport.security" in line


def test_initial_parameters_of_other_shapes_are_refused(lab: Lab) -> None:
    np.savez(lab.folder / "initial.npz", **{"layers.0.weight": np.zeros((5, 2)), "layers.0.bias": np.zeros(5)})  # type: ignore[arg-type]
    experiment = lab.experiment(**_tree(lab, model={"initial": "initial.npz", "outputs": 1}))
    line = refusal(lab.run("launch", experiment, "--out", "out"), 2)
    assert "layers.0.weight" in line
    assert "(2, 2)" in line
    assert "(5, 2)" in line


def test_a_schedule_that_never_connects_names_its_components(lab: Lab) -> None:
    schedule = lab.schedule([[(0, 1)], []])
    experiment = lab.experiment(**_tree(lab, topology={"schedule": "file", "path": schedule}))
    for command in (("launch", experiment, "--out", "out"), ("check", experiment)):
        line = refusal(lab.run(*command), 2)
        assert "{0, 1}, {2}" in line
    assert not (lab.folder / "out").exists()


def test_a_busy_port_is_named(lab: Lab) -> None:
    addresses = free_addresses(PEERS)
    experiment = lab.experiment(**_tree(lab, transport={"addresses": addresses}))
    first = lab.start("run", experiment, "--id", "1", "--out", "out")
    try:
        wait_until(lambda: bool(events(lab.folder / "out", 1)), first)
        twin = refusal(lab.run("run", experiment, "--id", "1", "--out", "elsewhere"), 2)
        assert addresses[1] in twin
        assert "id 1" in twin
        launched = refusal(lab.run("launch", experiment, "--out", "launched"), 2)
        assert addresses[1] in launched
    finally:
        code, _ = end(first, signal.SIGTERM)
    assert code == 130


def test_a_neighbor_that_never_comes_is_named(lab: Lab) -> None:
    tree = _tree(lab, transport={"addresses": free_addresses(PEERS)}, run={"patience_s": 1.5})
    experiment = lab.experiment(**tree)
    present = [lab.start("run", experiment, "--id", str(peer), "--out", "out") for peer in (0, 1)]
    for process in present:
        code, errors = end(process)
        assert code == 3
        assert len(errors.strip().splitlines()) == 1, errors
        assert "round 0" in errors
        assert "peer 2" in errors


def test_a_peer_with_other_settings_stops_both_and_the_keys_are_named(lab: Lab) -> None:
    addresses = free_addresses(PEERS)
    one = lab.experiment("one", **_tree(lab, transport={"addresses": addresses}), run={"id": "same"})
    other = lab.experiment(
        "other", **_tree(lab, transport={"addresses": addresses}, step={"alpha": 0.25}), run={"id": "same"}
    )
    processes = [
        lab.start("run", one, "--id", "0", "--out", "out"),
        lab.start("run", other, "--id", "1", "--out", "out"),
    ]
    for process, there in zip(processes, ("0.25", "'auto'"), strict=True):
        code, errors = end(process)
        assert code == 2, errors
        assert len(errors.strip().splitlines()) == 1, errors
        assert f"step.alpha is {there} there" in errors


def test_a_peer_that_dies_is_named_and_the_others_end(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab, iterations=1_000_000))
    launched = lab.start("launch", experiment, "--out", "out")
    wait_until(lambda: bool(_metrics_of(lab, 1)), launched)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launched.pid)], capture_output=True, text=True, check=True
    )
    victim = sorted(map(int, children.stdout.split()))[1]
    subprocess.run(["kill", "-9", str(victim)], check=True)
    code, errors = end(launched)
    assert code == 3
    assert errors.strip() == "peer: peer 1 was lost: ended by SIGKILL"


@pytest.mark.parametrize("dtype", ["f8", "f4", "bf16"])
def test_numbers_that_break_down_end_the_run(lab: Lab, dtype: str) -> None:
    """Also where the wire has no number for them any more, before they are infinite."""
    experiment = lab.experiment(
        **_tree(lab, iterations=10_000, objective={"loss": "squared", "scale": "sum"}, model={"hidden": []}),
        surrogate={"kind": "full", "tau": 1e-3},
        step={"alpha": 1.0},
    )
    line = refusal(lab.run("launch", experiment, "--out", "out", "--set", f"transport.wire_dtype={dtype}"), 4)
    assert "nan or infinit" in line
    assert re.match(r"peer: peer \d: (round|exchange) \d+: ", line)


def test_nothing_is_replaced(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab))
    lab.launch(experiment)
    assert "found one in out" in refusal(lab.run("launch", experiment, "--out", "out"), 2)
    for name in ("summary.json", "peers/000/log.jsonl"):  # as of a run that has not ended
        (lab.folder / "out" / name).unlink()
    with claimed(lab.folder / "out"):
        for command in (("launch", "--resume", "out"), ("simulate", experiment, "--out", "out")):
            assert "another run is at work in out" in refusal(lab.run(*command), 2)
    tree = _tree(lab, transport={"addresses": free_addresses(PEERS)})
    alone = lab.experiment("alone", **tree)
    assert "--resume" in refusal(lab.run("run", alone, "--id", "0", "--out", "out"), 2)


@pytest.mark.parametrize("name", ["experiment.toml", "schedule.jsonl", "weights.jsonl"])
def test_a_launch_into_the_users_own_folder_leaves_his_files_alone(lab: Lab, name: str) -> None:
    experiment = lab.experiment("mine", **_tree(lab))
    (lab.folder / name).write_text("my own")
    assert f"without {name}, found one in ." in refusal(lab.run("launch", experiment, "--out", "."), 2)
    assert (lab.folder / name).read_text() == "my own"
    assert not (lab.folder / "peers").exists()


def test_a_terminal_that_lacks_letters_ends_no_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    experiment = lab.experiment("ä", **_tree(lab, transport={"security": "curve"}))
    done = lab.run("launch", experiment, "--out", "out∂")
    assert (done.returncode, done.stderr) == (0, "")
    assert "=" * 24 + " round 5/5" in done.stdout
    assert "out\\u2202/summary.json" in done.stdout
    line = [sys.executable, "-m", "peer", "compose", str(experiment)]
    composed = subprocess.run(line, cwd=lab.folder, capture_output=True, check=True, timeout=60)
    assert "./ä.toml" in composed.stdout.decode()


COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "no such command": (["lunch"], ["lunch"]),
    "no such option": (["launch", "--speed"], ["--speed"]),
    "no such file": (["launch", "none.toml"], ["none.toml"]),
    "no experiment": (["run", "--id", "0"], ["EXPERIMENT"]),
    "not key=value": (["launch", "--set", "alpha"], ["--set", "key=value"]),
    "no such data set": (["shard", "mnist", "--peers", "2", "--out", "x"], ["mnist", "digits"]),
    "no peers": (["keys", "x", "--peers", "0"], ["--peers", "found 0"]),
    "a setting of a cut without a file": (
        ["shard", "wine", "--peers", "2", "--out", "x", "--set", "data.partition=iid"],
        ["--set", "wine"],
    ),
    "an option of what is drawn": (["shard", "wine", "--peers", "2", "--out", "x", "--samples", "9"], ["--samples"]),
    "a loss of real targets": (["shard", "diabetes", "--peers", "2", "--out", "x", "--loss", "huber"], ["--loss"]),
    "an alpha of no distribution": (
        ["shard", "wine", "--peers", "2", "--out", "x", "--dirichlet-alpha", "0.2"],
        ["--dirichlet-alpha"],
    ),
    "keys of no peers": (["watch", "runs/x", "--keys", "keys"], ["--keys", "tcp://"]),
    "a peer without keys": (["watch", "tcp://127.0.0.1:5600", "--id", "0"], ["--id", "--keys"]),
    "no time at all": (["health", "runs/x", "--id", "0", "--within", "nan"], ["--within", "nan"]),
    "an option beside a file": (["shard", "experiment.toml", "--peers", "2"], ["--peers", "--set"]),
    "a malformed host": (["watch", "tcp://[::1:5"], ["tcp://[::1:5"]),
    "more peers than samples": (["shard", "wine", "--peers", "5000", "--out", "x"], ["peers", "5000"]),
}


@pytest.mark.parametrize(("arguments", "words"), COMMANDS.values(), ids=COMMANDS)
def test_a_bad_command_is_explained(lab: Lab, arguments: list[str], words: list[str]) -> None:
    line = refusal(lab.run(*arguments), 2)
    assert all(word in line for word in words), line
    assert not list(lab.folder.iterdir())


def _metrics_of(lab: Lab, peer: int) -> str:
    path = lab.folder / "out" / "peers" / f"{peer:03d}" / "metrics.jsonl"
    return path.read_text() if path.exists() else ""
