"""Peers without rounds that are interrupted just where it matters, two in this process; and how they go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from peer import alignment, careful, config, launcher, process, renewal, settings, waking
from peer.agent import State
from peer.checkpoint import Moment, save_moment
from peer.errors import DONE, INTERRUPTED
from peer.flows import Flows
from peer.host import Assignment, Host
from peer.threads import Threads
from tests.integration.lab import Lab

PEERS: Final = 2
N: Final = 20
"""Waking at which peer 0 is interrupted."""

FEEDBACK: Final = {"kind": "full", "gradient": "feedback-alignment", "tau": 0.5, "probe_every": 3}


def assignments_of(lab: Lab, **more: Any) -> list[Assignment]:
    """Two peers that learn two classes, at places of their own; each can be run once."""
    rng = np.random.default_rng(3)
    shards = [(x := rng.normal(size=(m, 3)), (x[:, 0] > 0.0).astype(np.int64)) for m in (12, 15)]
    tree = {
        "name": "pair",
        "seed": 11,
        "peers": PEERS,
        "iterations": 2 * N,
        "data": {"path": str(lab.folder / lab.shards(shards))},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy", "strength": 0.1},
        "topology": {"graph": "complete"},
        "run": {"mode": "async", "id": "pair-1", "checkpoint_every": 7},
        "transport": {"security": "none"},
    }
    experiment = settings.from_tree(tree | more)
    sockets = launcher.listeners(experiment)
    experiment, run_dir = launcher.with_addresses(experiment, sockets), lab.folder / "out"
    ground = config.ground(experiment)
    return [Assignment(experiment, ground, me, run_dir, None, sockets[me]) for me in range(PEERS)]


def lives(pair: list[Assignment], stop: asyncio.Event) -> list[tuple[int, str]]:
    """Run two peers to their ends; exit code and line of each."""

    async def both() -> list[tuple[int, str]]:
        ended = await asyncio.gather(*(process._live(one, stop) for one in pair))
        return [(code, line) for code, line, _ in ended]

    return asyncio.run(both())


def interrupted(
    pair: list[Assignment], monkeypatch: pytest.MonkeyPatch, when: Callable[[Any, tuple[Any, ...]], bool]
) -> None:
    """Run two peers, and stop both while one of them waits for the result of a computation of which `when` says so."""
    stop, compute = asyncio.Event(), Threads.compute

    async def computed(self: Threads, function: Any, *given: Any) -> Any:
        found = await compute(self, function, *given)
        if when(function, given):
            stop.set()
            await asyncio.Event().wait()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Threads, "compute", computed)
        assert lives(pair, stop) == [(INTERRUPTED, "interrupted")] * PEERS


def conserves(checkpoint: Path) -> int:
    """Assert that (17) holds at an agent that goes on from here, for its gradient there; the waking it goes on with."""
    with np.load(checkpoint) as archive:
        found = dict(archive)
    pushed, absorbed = (
        sum(array for name, array in found.items() if name.startswith(f"flows.{kind}."))
        for kind in ("pushed", "absorbed")
    )
    mass = found["flows.mass.high"] + found["flows.mass.low"]
    assert np.abs(mass + pushed - absorbed - found["flows.source"]).max() < 1e-12
    assert np.array_equal(found["flows.source"], [*found["agent.gradient"], found["agent.value"], 1.0])
    return int(found["agent.n"])


@pytest.mark.parametrize(
    ("computation", "more"),
    [
        (waking.wake, {}),
        (careful.adapted, {}),
        (renewal.renewed, {"regime": {"kind": "auto"}}),
        (alignment.watched, {"surrogate": FEEDBACK}),
    ],
    ids=["wake", "tau", "linearization", "alignment"],
)
def test_a_waking_that_was_interrupted_has_not_been(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, computation: Any, more: Mapping[str, Any]
) -> None:
    """Whatever it waited for: the checkpoint is as new as the last line, what was absorbed is kept, and all go on."""

    def is_late(function: Any, given: tuple[Any, ...]) -> bool:
        return function is computation and any(isinstance(one, State) and one.n == N for one in given)

    pair = assignments_of(lab, **more)
    interrupted(pair, monkeypatch, is_late)
    for one in pair:
        lines = (one.folder / "metrics.jsonl").read_text().splitlines()
        assert conserves(one.folder / "checkpoint.npz") == len(lines) > 0
    again = [replace(one, resume=True) for one in assignments_of(lab, **more)]
    assert lives(again, asyncio.Event()) == [(DONE, "")] * PEERS


def is_begun(function: Any, _: tuple[Any, ...]) -> bool:
    """Whether a peer has a first state, and no epoch yet."""
    return function is alignment.begun


@pytest.mark.parametrize("has_checkpoint", [False, True], ids=["nothing written", "written by an earlier version"])
def test_who_was_interrupted_before_the_first_epoch_begins_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, has_checkpoint: bool
) -> None:
    interrupted(assignments_of(lab, surrogate=FEEDBACK), monkeypatch, is_begun)
    again = [replace(one, resume=True) for one in assignments_of(lab, surrogate=FEEDBACK)]
    for one in again:
        host = Host(one)
        assert not host.checkpoint_path.exists()
        if has_checkpoint:
            nowhere = Flows(one.me, 0, ()).snapshot()
            moment = Moment(one.experiment.run_id, host.digest, 2, 0, {}, {"n": 0}, nowhere)
            save_moment(host.checkpoint_path, moment)
    assert lives(again, asyncio.Event()) == [(DONE, "")] * PEERS
    for one in again:
        assert len((one.folder / "metrics.jsonl").read_text().splitlines()) >= 2 * N
