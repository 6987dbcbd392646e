"""A container a peer: the bits of `peer launch`, whatever happens to containers and their network."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.containers import engine
from tests.containers.conftest import Start
from tests.containers.engine import Project, docker
from tests.integration.lab import Lab, same_finals

CUT_S: Final = 20.0
"""How long a peer is away. It is by the clock: connections, queues and lookups have clocks of their own."""

PEERS: Final = 4


def mounts(project: Project, service: str) -> dict[str, bool]:
    """Where a service's container has something mounted, and whether it may write there."""
    found = project.state(service)["Mounts"]
    return {mount["Destination"]: mount["RW"] for mount in found}


@pytest.mark.parametrize("version", engine.composes() if not engine.missing() else ["any"])
def test_up_in_a_fresh_clone_is_the_launch_of_the_default_experiment(
    version: str, clone: Path, project: Start, lab: Lab, tmp_path: Path
) -> None:
    assert lab.run("launch", "--out", "launched").returncode == 0
    containers = project(clone, version)
    done = containers.run("up", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    services = ["prepare", "summary", *(f"peer-{peer}" for peer in range(8))]
    assert {service: containers.state(service)["State"]["ExitCode"] for service in services} == dict.fromkeys(
        services, 0
    )
    run_dir = containers.results(tmp_path / "results")
    same_finals(lab.folder / "launched", run_dir, 8)
    summary, launched = (
        json.loads((folder / "summary.json").read_text()) for folder in (run_dir, lab.folder / "launched")
    )
    assert summary["objective"] == launched["objective"]
    assert summary["test"] == launched["test"]
    assert "<svg" in (run_dir / "report.html").read_text()
    for peer in range(8):
        assert mounts(containers, f"peer-{peer}") == {
            "/results": True,
            f"/shards/{peer}": False,
            f"/keys/{peer}": False,
        }, "its own shard and key, to read, and no other's"
        state = containers.state(f"peer-{peer}")
        assert state["Config"]["User"] == "10001:10001"
        assert state["HostConfig"]["Memory"] == 512 << 20
    # again: nothing is replaced, nothing is computed, nobody waits
    assert containers.run("up", check=False).returncode == 0
    assert "done already" in containers.logs("peer-3")
    same_finals(run_dir, containers.results(tmp_path / "again"), 8)


def disconnect(project: Project, peer: int) -> None:
    """Unplug a peer for a while. It may come back with another address, but under its name."""
    service = f"peer-{peer}"
    docker("network", "disconnect", project.network, project.container(service))
    time.sleep(CUT_S)
    docker("network", "connect", "--alias", service, project.network, project.container(service))


def pause(project: Project, peer: int) -> None:
    """Freeze a peer's processes for a while."""
    docker("pause", project.container(f"peer-{peer}"))
    time.sleep(CUT_S)
    docker("unpause", project.container(f"peer-{peer}"))


def kill(project: Project, peer: int) -> None:
    """Kill a peer, and start its container again."""
    docker("kill", "--signal", "KILL", project.container(f"peer-{peer}"))
    docker("start", project.container(f"peer-{peer}"))


@pytest.mark.parametrize("fault", [disconnect, pause, kill])
def test_a_peer_that_is_away_for_a_while_changes_nothing(
    fault: Callable[[Project, int], None], project: Start, lab: Lab, tmp_path: Path
) -> None:
    tree: dict[str, Any] = {
        "seed": 3,
        "peers": PEERS,
        "iterations": 3000,
        "data": {"dataset": "wine"},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "surrogate": {"kind": "full", "tau": 2.0},
        "topology": {"graph": "ring", "schedule": "random-links", "link_probability": 0.7},
    }
    experiment = lab.experiment(**tree)
    launched = lab.launch(experiment, "launched")
    (lab.folder / "docker-compose.yml").write_text(lab.run("compose", experiment).stdout)
    containers = project(lab.folder, next(iter(engine.composes())))
    containers.up()
    containers.wait_until(lambda: containers.rounds(1) > 50)
    before = containers.rounds(1)
    fault(containers, 1)
    assert before < 2500, "it was too late to show anything"
    for peer in range(PEERS):
        assert containers.end(f"peer-{peer}") == 0, containers.logs(f"peer-{peer}")
        assert containers.state(f"peer-{peer}")["RestartCount"] == 0, "nobody died"
    assert containers.end("summary") == 0
    same_finals(launched, containers.results(tmp_path / "results"), PEERS)
    if fault is not kill:
        assert "waits for peer" in "".join(containers.logs(f"peer-{peer}") for peer in range(PEERS))


def test_without_rounds_a_container_that_is_stopped_leaves_and_returns_when_it_is_started(
    project: Start, lab: Lab, tmp_path: Path
) -> None:
    experiment = lab.experiment(
        peers=PEERS,
        iterations=2000,
        data={"dataset": "wine"},
        model={"hidden": []},
        objective={"loss": "cross_entropy", "regularizer": "l2", "strength": 0.1},
        surrogate={"kind": "partial", "tau": 0.1},
        step={"alpha": 0.2},
        topology={"graph": "ring", "directed": True},
        run={"mode": "async"},
    )
    (lab.folder / "docker-compose.yml").write_text(lab.run("compose", experiment).stdout)
    containers = project(lab.folder, next(iter(engine.composes())))
    containers.up()
    containers.wait_until(lambda: containers.rounds(1) > 50)
    containers.run("stop", "--timeout", "20", "peer-1")
    assert containers.state("peer-1")["State"]["ExitCode"] == 130, "it said goodbye, and kept a checkpoint"
    containers.wait_until(lambda: "a new epoch, members 0, 2, 3" in containers.logs("peer-0"))
    containers.run("start", "peer-1")
    for service in (*(f"peer-{peer}" for peer in range(PEERS)), "summary"):
        assert containers.end(service) == 0, containers.logs(service)
    summary = json.loads((containers.results(tmp_path / "results") / "summary.json").read_text())
    assert summary["members"] == list(range(PEERS))
    assert summary["stationarity"] < 1e-6


def test_a_container_tells_its_health(project: Start, lab: Lab) -> None:
    experiment = lab.experiment(peers=2, iterations=1_000_000, data={"dataset": "wine"}, topology={"graph": "ring"})
    (lab.folder / "docker-compose.yml").write_text(lab.run("compose", experiment).stdout)
    containers = project(lab.folder, next(iter(engine.composes())))
    containers.up()
    containers.wait_until(lambda: containers.state("peer-1")["State"]["Health"]["Status"] == "healthy")
    assert "rounds done" in containers.state("peer-1")["State"]["Health"]["Log"][-1]["Output"]
    containers.run("stop", "--timeout", "20")
    assert containers.state("peer-1")["State"]["ExitCode"] == 130, "interrupted, with a checkpoint"


def test_shards_of_your_own_are_mounted_one_by_one(project: Start, lab: Lab) -> None:
    cut = lab.run("shard", "wine", "--peers", "2", "--out", "cut")
    assert cut.returncode == 0
    data = {"path": "cut/peer-{id}.npz", "test_path": "cut/test.npz"}
    experiment = lab.experiment(
        peers=2, iterations=5, data=data, objective={"loss": "cross_entropy"}, topology={"graph": "ring"}
    )
    launched = lab.launch(experiment, "launched")
    (lab.folder / "docker-compose.yml").write_text(lab.run("compose", experiment).stdout)
    containers = project(lab.folder, next(iter(engine.composes())))
    containers.run("up")
    assert [place for place in mounts(containers, "peer-1") if place.startswith("/shards")] == [
        "/shards/1/peer-001.npz"
    ]
    same_finals(launched, containers.results(lab.folder / "results"), 2)


def test_the_image_is_built_without_a_network(clone: Path) -> None:
    docker("build", "--quiet", "--network", "none", "--build-arg", f"BASE={engine.BASE}", str(clone))
    copied = clone.with_name("without-wheels")
    shutil.copytree(clone, copied, ignore=shutil.ignore_patterns("wheels"))
    refused = docker("build", "--network", "none", "--build-arg", f"BASE={engine.BASE}", str(copied), check=False)
    assert refused.returncode != 0, "so the wheels are what made it possible"
