"""Peers that solve in blocks, on several threads: the same bits, signals as ever, and a refusal in one line."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.integration.lab import Lab, end, free_addresses, metrics, refusal, same_finals, wait_until

PEERS = 4


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": 200,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy", "regularizer": "l1"},
        "surrogate": {"blocks": 7},
        "topology": {"graph": "ring"},
    } | more


def test_cores_change_no_bit_and_an_interrupted_run_resumes_with_others(lab: Lab) -> None:
    launched = lab.launch(lab.experiment(**_tree(lab)), "launched")
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    experiment = lab.experiment("by-hand", **_tree(lab, transport=transport))
    run_dir = lab.folder / "hand"

    def start(peer: int, cores: int, *more: str) -> Any:
        arguments = ("--id", str(peer), "--out", "hand", "--set", f"surrogate.cores={cores}")
        return lab.start("run", experiment, *arguments, *more)

    processes = [start(peer, 1 + peer) for peer in range(PEERS)]
    wait_until(lambda: len(metrics(run_dir, 1)) > 40, processes[1])
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [end(process)[0] for process in processes] == [130] * PEERS
    assert len(metrics(run_dir, 1)) < 200, "it was interrupted too late to show anything"
    processes = [start(peer, PEERS - peer, "--resume") for peer in range(PEERS)]
    assert [end(process) for process in processes] == [(0, "")] * PEERS
    same_finals(launched, run_dir, PEERS)
    assert metrics(run_dir, 0)[-1]["solver"].endswith(", 7 blocks")


@pytest.mark.parametrize("blocks", ["layers", 20])
def test_without_rounds_too(lab: Lab, blocks: int | str) -> None:
    """Peers that wake when they like come near a stationary point; at the first parameters it is more than 0.1."""
    tree = _tree(lab, run={"mode": "async"}, iterations=400, surrogate={"blocks": blocks, "cores": 2, "tau": 0.2})
    tree |= {"objective": {"loss": "cross_entropy", "strength": 0.1}, "step": {"alpha": 0.5}}
    summary = json.loads((lab.launch(lab.experiment(**tree)) / "summary.json").read_text())
    assert summary["stationarity"] < 2e-3


def test_more_blocks_than_parameters_are_refused_before_anything_starts(lab: Lab) -> None:
    done = lab.run("launch", lab.experiment(**_tree(lab, surrogate={"blocks": 32})), "--out", "out")
    assert refusal(done, 2) == "peer: surrogate.blocks: expected at most the 31 parameters of the model, found 32"
    assert not (lab.folder / "out").exists()
