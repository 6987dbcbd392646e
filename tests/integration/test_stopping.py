"""Runs that stop early: all peers at the same round, near the optimum, whatever happens to a peer in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.integration.fleet import Fleet
from tests.integration.lab import Lab, events, flat, metrics, same_finals

PEERS: Final = 4
ROUNDS: Final = 3_000
TOLERANCE: Final = 1e-5


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    """A strongly convex problem on links that come and go: it has one optimum, from which no peer may be far."""
    tree: dict[str, Any] = {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": []},
        "objective": {"loss": "cross_entropy", "regularizer": "l2", "strength": 0.1},
        "surrogate": {"curvature": "network", "tau": 1.0},
        "step": {"alpha": 0.3},
        "topology": {"graph": "complete", "schedule": "random-links", "link_probability": 0.4},
        "run": {"checkpoint_every": 7, "tolerance": TOLERANCE},
    }
    return tree | more


def stopped_at(run_dir: Path, peers: int = PEERS, why: str = "tolerance") -> int:
    """The round at which all peers of a run have stopped, as their logs and their metrics say."""
    done = [[event for event in events(run_dir, peer) if event["event"] == "done"] for peer in range(peers)]
    assert {event["stopped"] for each in done for event in each} == {why}
    (n,) = {event["n"] for each in done for event in each}
    for peer in range(peers):
        assert [line["iteration"] for line in metrics(run_dir, peer)] == list(range(n))
    return int(n)


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def is_near_the_optimum(run_dir: Path, peers: int = PEERS) -> None:
    """All peers are where central training ends: r is 0.1-strongly convex, so stationarity bounds the distance."""
    found = summary_of(run_dir)
    assert found["stationarity"] <= TOLERANCE
    assert found["objective"] - found["central"]["objective"] <= TOLERANCE
    ends = np.array([flat(run_dir, peer) for peer in range(peers)])
    assert np.max(np.abs(ends - ends.mean(axis=0))) <= 3.0 * TOLERANCE


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("undisturbed"))
    return lab.launch(lab.experiment(**_tree(lab)), "launched", "--central")


def test_all_stop_at_the_same_round_near_the_optimum(launched: Path) -> None:
    n = stopped_at(launched)
    assert 0 < n < ROUNDS / 2
    found = summary_of(launched)
    assert (found["iterations"], found["stopped"]) == (n, "tolerance")
    is_near_the_optimum(launched)


def test_none_stops_before_the_last_but_one_window_was_below(launched: Path) -> None:
    """Residuals are part of the measure, and in the journal: some was too large until shortly before the end."""
    n = stopped_at(launched)
    residuals = np.array([[line["residual"] for line in metrics(launched, peer)] for peer in range(PEERS)])
    below = int(np.nonzero(residuals.max(axis=0) > TOLERANCE)[0][-1]) + 1
    assert below < n


def test_the_report_says_so(launched: Path) -> None:
    lab = Lab(launched.parent)
    assert lab.run("report", "launched").returncode == 0
    page = (launched / "report.html").read_text()
    assert f"4 peers finished {stopped_at(launched)} rounds in" in page
    assert f"They stopped before round {ROUNDS}, for all agreed to be within the tolerance." in page


def test_a_peer_that_is_killed_and_resumed_stops_with_the_others(launched: Path, tmp_path: Path) -> None:
    """And one that is resumed after the end has nothing to do."""
    lab = Lab(tmp_path)
    n = stopped_at(launched)
    with Fleet(lab, _tree(lab)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for victim, least in ((2, n // 3), (0, n // 2), (2, n - 60)):  # two looks before the end
            fleet.wait_until(lambda victim=victim, least=least: len(metrics(fleet.out, victim)) >= least)  # type: ignore[misc]
            fleet.kill(victim)
            fleet.start(victim, "--resume")
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        assert stopped_at(fleet.out) == n
        same_finals(launched, fleet.out, PEERS)
        before = (fleet.folder(1) / "final.npz").read_bytes()
        fleet.start(1, "--resume")
        assert fleet.ended(1) == (0, "")
        assert (fleet.folder(1) / "final.npz").read_bytes() == before


def test_a_peer_that_is_killed_when_done_stays_done(launched: Path, tmp_path: Path) -> None:
    """It goes on from its last checkpoint, sees that the run is over, and does no round more."""
    lab = Lab(tmp_path)
    with Fleet(lab, _tree(lab)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        log = fleet.folder(3) / "log.jsonl"
        log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"end"' not in line))
        fleet.start(3, "--resume", "--set", "run.patience_s=1")
        assert fleet.ended(3) == (0, "")
        assert len(metrics(fleet.out, 3)) == stopped_at(launched)


@pytest.mark.parametrize(
    "more",
    [
        {"transport": {"wire_dtype": "f4"}, "run": {"tolerance": 1e-4}},
        {"robustness": {"clip_w": 1.0, "clip_y": 0.1}, "run": {"tolerance": 1e-4, "checkpoint_every": 0}},
        {"topology": {"schedule": "one-peer-exponential"}},
        {"peers": 1, "data": {"path": "shards/peer-0.npz"}, "topology": {"graph": "ring"}},
    ],
    ids=["f4", "clipping", "one-peer", "alone"],
)
def test_all_stop_at_the_same_round_also_with(more: dict[str, Any], tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    run_dir = lab.launch(lab.experiment(**_tree(lab, **{"run": {"tolerance": TOLERANCE}} | more)), "out")
    assert 0 < stopped_at(run_dir, more.get("peers", PEERS)) < ROUNDS
    assert summary_of(run_dir)["stationarity"] <= 1e-3


def test_a_tolerance_that_is_not_reached_leaves_all_rounds_and_their_bits(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    never, far = (
        lab.launch(lab.experiment(name, **_tree(lab, iterations=40, run={"tolerance": tolerance})), name)
        for name, tolerance in (("never", 0.0), ("far", 1e-12))
    )
    assert stopped_at(never, why="iterations") == stopped_at(far, why="iterations") == 40
    same_finals(never, far, PEERS)
    assert summary_of(never)["stopped"] == "iterations"


def test_check_prints_the_windows(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for schedule, windows in (("static", "1 rounds"), ("one-peer-exponential", "2 rounds"), ("random-links", "to")):
        topology = {"graph": "complete", "schedule": schedule, "link_probability": 0.4}
        done = lab.run("check", lab.experiment(**_tree(lab, topology=topology)))
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("# windows of stopping early: ")]
        assert windows in line
