"""Peers without a parent, started, killed and started again by a test; with the relay between them, if it asks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final

import numpy as np

from tests.integration.lab import TIMEOUT_S, Array, Lab, end, free_addresses, metrics, same_finals

RELAY: Final = Path(__file__).with_name("relay.py")

LOOK_S: Final = 0.01
"""Between two looks at the checkpoints of peers: they take long enough to write that none is missed by much."""


@final
@dataclass(frozen=True)
class Relay:
    """A running relay."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, routes: Mapping[str, str], *options: str) -> Relay:
        """Start one that takes what comes to each address on to another; it listens when this returns."""
        line = [sys.executable, str(RELAY), *options, *(f"{here}={there}" for here, there in routes.items())]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return cls(process)

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> dict[str, int]:
        """End it; what it did, by kind."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=TIMEOUT_S)
        found: dict[str, int] = json.loads(output)
        return found


@final
@dataclass(eq=False)
class Fleet:
    """Standalone peers of one experiment, in the run directory `hand` of a lab.

    Parameters
    ----------
    lab : Lab
    tree : mapping
        The experiment without its addresses.
    relay : sequence of str or None
        Options of the relay between them, which then is all that their addresses lead to.
    n_more : int
        Newcomers that may come, with the ids that follow those of the first peers.
    """

    lab: Lab
    tree: Mapping[str, Any]
    relay: Sequence[str] | None = None
    n_more: int = 0
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict, init=False)
    experiment: Path = field(init=False)
    _places: list[str] = field(init=False)
    _public: list[str] = field(init=False)
    _relay: Relay | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        n = self.tree["peers"] + self.n_more
        self._places = free_addresses(n)
        self._public = self._places
        if self.relay is not None:
            self._public = free_addresses(n)
            self._relay = Relay.start(dict(zip(self._public, self._places, strict=True)), *self.relay)
        transport = {"security": "none"} | self.tree.get("transport", {})
        transport["addresses"] = self._public[: self.tree["peers"]]
        self.experiment = self.lab.experiment("by-hand", **dict(self.tree) | {"transport": transport})

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if self._relay is not None:
            self._relay.__exit__(kind, error, trace)

    @property
    def out(self) -> Path:
        """The run directory."""
        return self.lab.folder / "hand"

    def start(self, peer: int, *more: str) -> None:
        """Start a peer, the first time or again; a newcomer asks the first peer to let it in."""
        self.processes[peer] = self.lab.start(*self._line(peer, "hand", *more))

    def run(self, peer: int, out: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run a peer to its end, with a run directory of its own."""
        return self.lab.run(*self._line(peer, out, *more))

    def _line(self, peer: int, out: str, *more: str) -> Sequence[str | Path]:
        options = [*more, "--set", f'transport.bind="{self._places[peer]}"']
        if peer >= self.tree["peers"]:
            options += ["--join", self._public[0]]
        return ["run", self.experiment, "--id", str(peer), "--out", out, *options]

    def kill(self, peer: int) -> None:
        """Kill a peer's process with all that belongs to it."""
        process = self.processes.pop(peer)
        assert process.poll() is None, f"peer {peer} had ended before: {process.communicate()}"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def ended(self, peer: int, number: signal.Signals | None = None) -> tuple[int, str]:
        """Wait until a peer has ended, after a signal if one is given; exit code and stderr."""
        return end(self.processes.pop(peer), number)

    def folder(self, peer: int) -> Path:
        """Folder of a peer in the run directory."""
        return self.out / "peers" / f"{peer:03d}"

    def checkpoint(self, peer: int) -> dict[str, Array]:
        """Arrays of a peer's checkpoint; none before the first."""
        path = self.folder(peer) / "checkpoint.npz"
        if not path.exists():
            return {}
        with np.load(path) as archive:
            return dict(archive)

    def wakings(self, peer: int) -> int:
        """Number of wakings that a peer's checkpoint is from."""
        return int(self.checkpoint(peer).get("agent.n", np.array(0)))

    def w(self, peer: int) -> Array:
        """Parameters of a peer at its checkpoint, in the order of the layers; nan before the first."""
        return self.checkpoint(peer).get("agent.w", np.array([np.nan]))

    def keep(self, peer: int) -> Path:
        """Put a copy of a peer's checkpoint aside."""
        return Path(shutil.copy(self.folder(peer) / "checkpoint.npz", self.lab.folder / f"old-{peer}.npz"))

    def put_back(self, peer: int) -> None:
        """Replace a peer's checkpoint by the copy."""
        shutil.copy(self.lab.folder / f"old-{peer}.npz", self.folder(peer) / "checkpoint.npz")

    def wait_until(self, condition: Callable[[], bool], say: Callable[[], object] = lambda: "") -> None:
        """Wait for what running peers bring about; fails when one of them ends, or after TIMEOUT_S."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            for peer, process in self.processes.items():
                if process.poll() is not None:
                    output, errors = process.communicate()
                    raise AssertionError(f"peer {peer} ended with {process.returncode}: {errors}{output}; {say()}")
            assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S} s: {say()}"
            time.sleep(LOOK_S)

    def relay_did(self) -> dict[str, int]:
        """End the relay; what it did, by kind."""
        assert self._relay is not None
        return self._relay.stop()


def killed_and_resumed(lab: Lab, tree: Mapping[str, Any], launched: Path) -> None:
    """Assert that peers of which one is killed after some 30 rounds, and resumed, end as those that were launched."""
    peers = range(tree["peers"])
    with Fleet(lab, tree) as fleet:
        for peer in peers:
            fleet.start(peer)
        fleet.wait_until(lambda: len(metrics(fleet.out, 1)) >= 31)
        fleet.kill(1)
        fleet.start(1, "--resume")
        for peer in peers:
            assert fleet.ended(peer) == (0, "")
        same_finals(launched, fleet.out, len(peers))
