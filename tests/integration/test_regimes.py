"""Regimes of learning with real processes: lazy ones against ridge regression; kill -9 between two linearizations."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import quadratic
from tests.faults.test_kills import Run
from tests.integration.lab import Lab, end, events, flat, free_addresses, metrics, parameters, same_finals
from tests.quadratic import NEURONS, PEERS, STRENGTH, TAU, Instance

WHAT = quadratic.drawn(2, 12)


def tree_of(lab: Lab, what: Instance, **more: Any) -> dict[str, Any]:
    np.savez(lab.folder / "initial.npz", **what.parts)  # type: ignore[arg-type]
    return {
        "peers": PEERS,
        "data": {"path": lab.shards([(x, y) for x, y in what.shards])},
        "model": {"layers": [{"kind": "quadratic", "width": NEURONS}, {"kind": "dense"}], "initial": "initial.npz"},
        "objective": {"strength": STRENGTH},
        "surrogate": {"curvature": "network", "tau": TAU, "tolerance": 1e-12},
        "topology": {"graph": "star"},
    } | more


def ended(lab: Lab, regime: str, **more: Any) -> Path:
    """Run directory of a lazy run, of which all peers have found the ridge solution."""
    run_dir = lab.launch(lab.experiment(**tree_of(lab, WHAT, regime={"kind": regime}, **more)), "out", "--central")
    ridge = WHAT.ridge(regime)
    for peer in range(PEERS):
        assert list(parameters(run_dir, peer)) == list(WHAT.parts), "all parameters, whoever is trained"
        assert np.abs(flat(run_dir, peer)[-ridge.size :] - ridge).max() < 1e-10
        assert np.array_equal(flat(run_dir, peer, "initial.npz"), WHAT.start)
        assert np.array_equal(flat(run_dir, peer)[: -ridge.size], WHAT.start[: -ridge.size])
        with np.load(run_dir / "peers" / f"{peer:03d}" / "checkpoint.npz") as checkpoint:
            assert all(checkpoint[name].size in (0, 1, ridge.size) for name in checkpoint.files if name.endswith(".w"))
    return run_dir


def test_all_weights_of_a_network_that_stays_linearized(lab: Lab) -> None:
    """The summary is of the linearized network too: objective, stationarity, and what is trained in one place."""
    run_dir = ended(
        lab,
        "neural-tangent",
        iterations=100,
        step={"alpha": 0.8},
        topology={"graph": "star", "consensus_steps": 2},
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["regime"] == {
        "kind": "neural-tangent",
        "trained": list(WHAT.parts),
        "relinearize_every": 0,
        "of": "the network linearized at initial.npz",
    }
    assert summary["stationarity"] < 1e-10
    assert summary["objective"] == pytest.approx(summary["central"]["objective"], rel=1e-9)
    assert {line["solver"] for line in metrics(run_dir, 0)} == {"cholesky"}


def test_the_last_layer_alone_without_rounds(lab: Lab) -> None:
    links = {"graph": "complete"}
    run_dir = ended(lab, "random-features", iterations=240, step={"alpha": 0.5}, topology=links, run={"mode": "async"})
    assert json.loads((run_dir / "summary.json").read_text())["parameters"] == NEURONS + 1


def test_a_peer_that_is_killed_between_two_linearizations_goes_on_from_its_anchor(tmp_path: Path) -> None:
    """Its checkpoint holds the anchor; at every fifth round the network is linearized, at every seventh it is saved."""
    more: dict[str, Any] = {
        "iterations": 60,
        "regime": {"relinearize_every": 5},
        "run": {"checkpoint_every": 7},
        "step": {"alpha": 0.5},
    }
    lab = Lab(tmp_path)
    launched = lab.launch(lab.experiment(**tree_of(lab, WHAT, **more)), "launched")
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    run = Run(lab, lab.experiment("by-hand", **tree_of(lab, WHAT, transport=transport, **more)))
    for peer in range(PEERS):
        run.start(peer)
    for victim, n in ((1, 24), (3, 38)):
        run.wait_for_round(victim, n)
        os.killpg(run.processes[victim].pid, signal.SIGKILL)
        assert end(run.processes[victim])[0] == -signal.SIGKILL
        run.start(victim)
    assert [end(process) for process in run.processes.values()] == [(0, "")] * PEERS
    same_finals(launched, tmp_path / "hand", PEERS)
    for peer in range(PEERS):
        found = [line["anchored"] for line in metrics(tmp_path / "hand", peer)]
        assert found == [n // 5 * 5 for n in range(60)]


def test_what_a_peer_does_by_itself_is_journaled_with_its_reason(lab: Lab) -> None:
    tree = tree_of(lab, WHAT, iterations=30, regime={"kind": "auto"}, step={"alpha": 0.5})
    run_dir = lab.launch(lab.experiment(**tree))
    for peer in range(PEERS):
        told = [event for event in events(run_dir, peer) if event["event"] == "relinearized"]
        lines = metrics(run_dir, peer)
        assert 0 < len(told) < 30
        assert all(event["departure"] > event["allowed"] and "off, more than" in event["reason"] for event in told)
        anchors = {line["anchored"] for line in lines}
        assert anchors == {0} | {event["n"] for event in told if event["n"] < 30}
        stayed = [line for line in lines if line["anchored"] < line["iteration"]]
        assert all(line["departure"] <= line["allowed"] for line in stayed)
