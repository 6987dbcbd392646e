"""A hundred peers of one launch."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from tests.integration.lab import Lab, end, events, metrics, wait_until

PEERS, VICTIM = 100, 57


def test_a_hundred_peers_know_each_other_and_end_with_the_first_that_is_lost(lab: Lab) -> None:
    rng = np.random.default_rng(5)
    shards = [(rng.normal(size=(1 + i % 3, 2)), np.arange(1 + i % 3) % 2) for i in range(PEERS)]
    experiment = lab.experiment(
        peers=PEERS,
        iterations=1_000_000,
        data={"path": lab.shards(shards)},
        model={"hidden": []},
        objective={"loss": "cross_entropy"},
        topology={"graph": "ring"},
    )
    run_dir = lab.folder / "out"
    launched = lab.start("launch", experiment, "--out", "out")
    wait_until(lambda: all(len(metrics(run_dir, peer)) > 2 for peer in range(0, PEERS, 9)), launched)
    forked = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text(encoding="ascii").split()
    assert len(forked) == PEERS
    os.kill(int(forked[VICTIM]), signal.SIGKILL)
    code, errors = end(launched)  # which waits until the last of its processes is gone
    assert (code, errors.strip()) == (3, f"peer: peer {VICTIM} was lost: ended by SIGKILL")
    for peer in range(PEERS):
        told = {event["event"]: event for event in events(run_dir, peer)}
        assert told["ready"]["samples"] == sum(len(labels) for _, labels in shards)
        assert ("end" in told) is (peer != VICTIM)
