"""kill -9 at any time, then --resume: the run ends with the bits of the undisturbed one.

`python -m tests.faults.test_kills --seeds 50` plays many seeds; the tests here, a few. A seed
says which peers are killed, when, and how long they stay away. Kills come a while after a process
was started, or as soon as its peer is in some round: so they fall before the first Hello, between
Hello and the first checkpoint, in the rounds, while a checkpoint is written, and when the peer is
done and still needed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.lab import Lab, end, events, free_addresses, metrics, same_finals

PEERS: Final = 4
ROUNDS: Final = 240
KILLS: Final = 3

N_SEEDS: Final = 1
"""In the default tests."""


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "complete", "schedule": "random-links", "link_probability": 0.4},
        "run": {"checkpoint_every": 7},
    } | more


@dataclass
class Run:
    """Peers by hand, one of which is killed now and then."""

    lab: Lab
    experiment: Path
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    hit: Counter[str] = field(default_factory=Counter)

    def start(self, peer: int) -> None:
        """Start a peer, or go on with it."""
        self.processes[peer] = self.lab.start("run", self.experiment, "--id", str(peer), "--out", "hand", "--resume")

    def wait_for_round(self, peer: int, n: int) -> None:
        """Wait until a peer has done n rounds, or has ended."""
        process = self.processes[peer]
        while process.poll() is None and len(metrics(self._out, peer)) < n:
            time.sleep(0.01)

    def kill(self, peer: int) -> None:
        """Kill a peer's process with all that belongs to it, and note what it was doing."""
        process = self.processes[peer]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if end(process)[0] == 0:
            self.hit["ended already"] += 1
            return
        done, kinds = len(metrics(self.lab.folder / "hand", peer)), {e["event"] for e in events(self._out, peer)}
        where = "before its Hello" if not kinds else "before round 0" if not done else "in its rounds"
        self.hit["when done" if "done" in kinds else where] += 1

    @property
    def _out(self) -> Path:
        return self.lab.folder / "hand"


def undisturbed(folder: Path) -> Path:
    """Run directory of the experiment without kills."""
    lab = Lab(folder)
    return lab.launch(lab.experiment(**_tree(lab)), "launched")


def play(seed: int, folder: Path, launched: Path) -> Counter[str]:
    """Run the experiment with the kills of a seed; what they hit.

    Raises
    ------
    AssertionError
        It ended otherwise than the undisturbed one, or a peer did not end well; names the seed.
    """
    rng = random.Random(seed)
    lab = Lab(folder)
    transport = {"addresses": free_addresses(PEERS), "security": "none"}
    run = Run(lab, lab.experiment("by-hand", **_tree(lab, transport=transport)))
    for peer in range(PEERS):
        run.start(peer)
    for _ in range(KILLS):
        victim = rng.randrange(PEERS)
        if rng.random() < 0.6:
            run.wait_for_round(victim, rng.randint(1, ROUNDS))
        else:
            time.sleep(rng.uniform(0.0, 3.0))  # it is what the test is about
        run.kill(victim)
        time.sleep(rng.choice((0.0, rng.uniform(0.0, 1.0))))
        run.start(victim)
    again = f"seed {seed}; replay it by: python -m tests.faults.test_kills --first {seed} --seeds 1"
    for peer, process in run.processes.items():
        code, errors = end(process)
        assert (code, errors) == (0, ""), f"peer {peer} ended with {code}: {errors}; {again}"
    try:
        same_finals(launched, folder / "hand", PEERS)
    except AssertionError as error:
        raise AssertionError(f"{error}; {again}") from error
    for peer in range(PEERS):
        assert [line["iteration"] for line in metrics(folder / "hand", peer)] == list(range(ROUNDS)), again
    return run.hit


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_killed_peers_resume_and_nothing_has_happened(seed: int, launched: Path, tmp_path: Path) -> None:
    play(seed, tmp_path, launched)


def main() -> None:
    """Play a range of seeds, and say what the kills hit."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.test_kills", description=main.__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=50)
    given = parser.parse_args()
    hit: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as reference:
        launched = undisturbed(Path(reference))
        for seed in range(given.first, given.first + given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                hit += play(seed, Path(folder), launched)
            print(f"seed {seed}: bit-identical; kills so far: {dict(hit)}", flush=True)
    print(f"{given.seeds} of {given.seeds} bit-identical")


if __name__ == "__main__":
    main()
