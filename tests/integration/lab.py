"""Runs of the command line in a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

Array = NDArray[Any]

TIMEOUT_S = 240
"""After which a command that hangs is ended, so that the test fails instead of waiting for ever."""


@dataclass(frozen=True)
class Lab:
    """A folder with shards, an experiment file, and the runs made of them."""

    folder: Path

    def shards(self, data: Sequence[tuple[Array, ...]]) -> str:
        """Write (x, y) or (x, y, weight) of every peer; the pattern of the files."""
        for peer, arrays in enumerate(data):
            self.shard(peer, **dict(zip(("x", "y", "weight"), arrays, strict=False)))
        return "shards/peer-{id}.npz"

    def four_shards(self) -> str:
        """Write unequal shards of three classes for four peers; the pattern of the files."""
        rng = np.random.default_rng(5)
        data = [(rng.normal(size=(m, 3)), rng.integers(0, 3, size=m)) for m in (8, 5, 11, 6)]
        data[0][1][:] = np.arange(8) % 3
        return self.shards(data)

    def shard(self, peer: int, **arrays: Array) -> Path:
        """Write the shard of one peer."""
        path = self.folder / "shards" / f"peer-{peer}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path

    def experiment(self, name: str = "experiment", **tree: Any) -> Path:
        """Write an experiment file."""
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps({"name": name} | tree))
        return path

    def schedule(self, rounds: Sequence[Sequence[tuple[int, int]]]) -> str:
        """Write a schedule file."""
        lines = (json.dumps({"n": n, "edges": [list(edge) for edge in edges]}) for n, edges in enumerate(rounds))
        (self.folder / "schedule.jsonl").write_text("\n".join(lines) + "\n")
        return "schedule.jsonl"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `peer` with these arguments to its end."""
        return subprocess.run(
            command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `peer` with these arguments, in a process group of its own."""
        return subprocess.Popen(
            command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextmanager
    def by_hand(self, experiment: Path, peers: int) -> Iterator[list[subprocess.Popen[str]]]:
        """Peers that run, each by a command of its own; what is left of them at the end is killed."""
        processes = [self.start("run", experiment, "--id", str(peer), "--out", "out") for peer in range(peers)]
        try:
            yield processes
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()

    def launch(self, experiment: Path, out: str = "out", *more: str) -> Path:
        """Launch an experiment that has to succeed; its run directory."""
        done = self.run("launch", experiment, "--out", out, *more)
        assert done.returncode == 0, done.stderr + done.stdout
        return self.folder / out


def command(*arguments: str | Path) -> list[str]:
    """The command line of `peer`."""
    return [sys.executable, "-m", "peer", *map(str, arguments)]


def refusal(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that ended with this code, and nothing else."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, f"exit code {done.returncode}: {done.stderr}"
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def parameters(run_dir: Path, peer: int, name: str = "final.npz") -> dict[str, Array]:
    """Parameters of a peer by name."""
    with np.load(run_dir / "peers" / f"{peer:03d}" / name) as archive:
        return {key: archive[key] for key in archive.files}


def flat(run_dir: Path, peer: int, name: str = "final.npz") -> Array:
    """Parameters of a peer in the order of the layers."""
    return np.concatenate([part.reshape(-1) for part in parameters(run_dir, peer, name).values()])


def same_finals(one: Path, other: Path, peers: int) -> None:
    """Assert that two runs ended with the same bits."""
    for peer in range(peers):
        first, second = parameters(one, peer), parameters(other, peer)
        assert first.keys() == second.keys()
        for key in first:
            assert np.array_equal(first[key], second[key]), f"peer {peer}, {key}"


def events(run_dir: Path, peer: int) -> list[dict[str, Any]]:
    """What a peer has logged."""
    return json_lines(run_dir / "peers" / f"{peer:03d}" / "log.jsonl")


def dropped(run_dir: Path, peer: int) -> list[tuple[str, int | None]]:
    """Cause and sender of what a peer has dropped, as far as it has logged that."""
    return [(event["cause"], event["peer"]) for event in events(run_dir, peer) if event["event"] == "dropped"]


def metrics(run_dir: Path, peer: int) -> list[dict[str, Any]]:
    """A peer's rounds."""
    return json_lines(run_dir / "peers" / f"{peer:03d}" / "metrics.jsonl")


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that may be growing; none where it is not there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running process brings about, looking whenever 10 ms have passed."""
    for _ in range(100 * TIMEOUT_S):
        if condition():
            return
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        break
    output, errors = process.communicate()
    assert condition(), f"it ended before with {process.returncode}: {errors}{output}"


def end(process: subprocess.Popen[str], number: signal.Signals | None = None) -> tuple[int, str]:
    """Wait for a process, after a signal if one is given; exit code and stderr."""
    if number is not None:
        process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, errors


def free_addresses(n: int) -> list[str]:
    """Addresses on the loopback that nobody listens on, and that the system gives to nobody in the meantime.

    Ports that it chooses itself begin at 32,768: one of those that is free now may be the own end of somebody's
    connection when a peer wants to listen on it.
    """
    return [f"tcp://127.0.0.1:{port}" for port in islice(filter(_is_free, _ports), n)]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ports = cycle(range(10_000 + os.getpid() % 20 * 1_000, 11_000 + os.getpid() % 20 * 1_000))
"""Of this process; tests that run at the same time are in processes with other numbers."""
