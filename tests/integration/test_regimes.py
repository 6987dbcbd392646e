"""Regimes of learning with real processes: lazy ones against ridge regression; kill -9 between two linearizations.

`python -m tests.integration.test_regimes --all` runs every graph x form of solving x mode x regime, and prints how far
from the centralized ridge solution each ended; the tests here run some, with each graph, form, mode and regime.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pytest

from peer import settings
from peer.launcher import Watcher, launch
from peer.optim import frozen
from tests import quadratic
from tests.faults.test_kills import Run
from tests.integration.lab import TIMEOUT_S, Lab, end, events, flat, free_addresses, metrics, parameters, same_finals
from tests.quadratic import FORMS, NEURONS, PEERS, REGIMES, SIX, Instance
from topology.graphs import FAMILIES

WHAT = quadratic.drawn(2, 12)


def tree_of(lab: Lab, what: Instance, **more: Any) -> dict[str, Any]:
    np.savez(lab.folder / "initial.npz", **what.parts)  # type: ignore[arg-type]
    return {
        "peers": len(what.shards),
        "data": {"path": lab.shards([(x, y) for x, y in what.shards])},
        "model": {"layers": [{"kind": "quadratic", "width": NEURONS}, {"kind": "dense"}], "initial": "initial.npz"},
        "objective": {"strength": what.strength},
        "surrogate": {"curvature": "network", "tau": what.tau, "tolerance": 1e-12},
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


# ---- every way leads to the centralized ridge ------------------------------------------------

MODES: Final[dict[str, dict[str, Any]]] = {
    "rounds": {
        "iterations": 45,
        "step": {"alpha": 0.8},
        "topology": {"consensus": "chebyshev", "consensus_steps": 2},
    },
    "async": {"iterations": 300, "step": {"alpha": 0.5}, "topology": {}},
}
"""What a run in each mode needs, to be near enough on every graph."""

SOLVERS = {"primal": "cholesky", "dual": "woodbury", "matrix-free": "newton-cg"}

Case = tuple[str, str, str, str]
"""Graph, form, mode and regime."""

EVERY: tuple[Case, ...] = tuple(product(FAMILIES, FORMS, MODES, REGIMES))

SOME: tuple[Case, ...] = tuple(
    (family, FORMS[k % 4], "async" if k in (2, 3) else "rounds", REGIMES[k // 2 % 2])
    for k, family in enumerate(FAMILIES)
)
"""Each graph, form, mode and regime; few without rounds, for these take longer."""


@contextmanager
def solved_by_products(is_so: bool) -> Iterator[None]:
    """Peers that are forked meanwhile never form J: instances for which that pays would take minutes."""
    with patch.object(frozen, "is_dense_cheaper", lambda *_: False) if is_so else nullcontext():
        yield


def distance(case: Case, folder: Path) -> float:
    """How far the peers of a run end from the ridge solution, at most; infinity where they solved in another form."""
    family, form, mode, regime = case
    what, lab = quadratic.of_six(regime, form), Lab(folder)
    tree = tree_of(
        lab, what, regime={"kind": regime}, run={"mode": mode, "checkpoint_every": 0}, transport={"security": "none"}
    )
    tree |= {key: MODES[mode][key] for key in ("iterations", "step")}
    tree["topology"] = {"graph": family, "probability": 0.5, "radius": 0.7} | MODES[mode]["topology"]
    tree["surrogate"]["blocks"] = 2 if form == "blocks" else 1
    with solved_by_products(form == "matrix-free"):
        outcome = launch(settings.read(lab.experiment(**tree)), folder / "out", lambda *_: Watcher())
    assert outcome.code == 0, outcome.line
    solvers = {line["solver"] for peer in range(SIX) for line in metrics(folder / "out", peer)}
    if form in SOLVERS and solvers != {SOLVERS[form]}:
        print(f"expected {SOLVERS[form]}, found {solvers}")
        return float("inf")
    ridge = what.ridge(regime)
    return max(float(np.abs(flat(folder / "out", peer)[-ridge.size :] - ridge).max()) for peer in range(SIX))


def test_every_graph_form_mode_and_regime_leads_to_the_centralized_ridge() -> None:
    """By six real peers each, forked from one process; in a process of its own, which has no threads."""
    seen = [set(kinds) for kinds in zip(*SOME, strict=True)]
    assert seen == [set(FAMILIES), set(FORMS), set(MODES), set(REGIMES)]
    ran = [sys.executable, "-m", "tests.integration.test_regimes"]
    done = subprocess.run(ran, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" from the ridge") == len(SOME)


def main() -> None:
    """Run cases with real processes, and say how far from the ridge solution each ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.test_regimes", description=main.__doc__)
    parser.add_argument("--all", action="store_true", help=f"all {len(EVERY)} cases")
    far = 0
    for case in EVERY if parser.parse_args().all else SOME:
        with tempfile.TemporaryDirectory() as folder:
            off = distance(case, Path(folder))
        far += not off < 1e-10
        print(f"{off:.1e} from the ridge: {', '.join(case)}", flush=True)
    if far:
        raise SystemExit(f"{far} too far from it")


if __name__ == "__main__":
    main()
