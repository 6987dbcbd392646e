"""What the host does to a peer: full and read-only disks, no memory, no descriptors, a clock that jumps, stops.

A peer survives, or ends with one line and exit code 2, and tells its neighbors; it never hangs, leaves no
torn file, and goes on with `--resume` to the bits of a run to which nothing has happened.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import zmq

from peer.transport import Transport, nearby
from tests.integration.lab import Lab, command, end, events, free_addresses, metrics, parameters, refusal, wait_until

PEERS: Final = 3
ROUNDS: Final = 240
VICTIM: Final = 1

NOBODY: Final = 65_534
"""A user who owns nothing."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system of its own")


def _tree(lab: Lab, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "seed": 11,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.shards([(rng.normal(size=(m, 3)), np.arange(m) % 3) for m in (8, 5, 11)])},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "complete"},
        "run": {"checkpoint_every": 5},
        "transport": {"security": "none"},
    } | more


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run to which nothing happens."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"))
    return lab.launch(lab.experiment(**_tree(lab)))


@pytest.fixture
def small(lab: Lab) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    folder = lab.folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(folder: Path, left: int = 0) -> Path:
    """Leave so many bytes on the file system of a folder, in whole pages; the file that takes all others."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - left))
    return ballast


def _limited(**limits: int | tuple[int, int]) -> Callable[[], None]:
    """What a child does before it becomes the command: lower its own limits, both or the soft one."""

    def lower() -> None:
        for name, limit in limits.items():
            pair = limit if isinstance(limit, tuple) else (limit, limit)
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), pair)

    return lower


def _limited_run(lab: Lab, lower: Callable[[], None], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=lab.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lower,
    )


@dataclass
class Trio:
    """Three peers by hand, the second of which something happens to."""

    lab: Lab
    out: str = "out"
    more: dict[str, Any] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    patience_s: tuple[float, ...] = (30.0,) * PEERS

    def __post_init__(self) -> None:
        tree = _tree(self.lab)
        tree["transport"] = tree["transport"] | {"addresses": free_addresses(PEERS)}
        self.experiment = self.lab.experiment("by-hand", **(tree | self.more))

    def folder(self, peer: int) -> Path:
        """Where a peer writes."""
        return self.run_dir(peer) / "peers" / f"{peer:03d}"

    def run_dir(self, peer: int) -> Path:
        """Only the victim writes to the place that something happens to."""
        return self.lab.folder / (self.out if peer == VICTIM else "others")

    def arguments(self, peer: int) -> list[str]:
        """Of the command that starts a peer, or goes on with it."""
        patience = f"run.patience_s={self.patience_s[peer]}"
        out = str(self.run_dir(peer))
        return ["run", str(self.experiment), "--id", str(peer), "--out", out, "--resume", "--set", patience]

    def start(self, lower: Callable[[], None] | None = None, first: list[str] | None = None) -> None:
        """Start all, the victim with lower limits, or another command before its arguments."""
        self.processes = [
            subprocess.Popen(
                [*first, *self.arguments(peer)] if first and peer == VICTIM else command(*self.arguments(peer)),
                cwd=self.lab.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=lower if peer == VICTIM else None,
            )
            for peer in range(PEERS)
        ]

    def wait_for_round(self, n: int) -> None:
        """Wait until the victim has done n rounds."""
        wait_until(lambda: len(metrics(self.run_dir(VICTIM), VICTIM)) >= n, self.processes[VICTIM])

    def wait_until_nothing_is_written(self) -> None:
        """Wait until the victim's files have stayed as they are for half a second."""
        before: dict[Path, int] = {}
        while (now := {path: path.stat().st_mtime_ns for path in self.folder(VICTIM).iterdir()}) != before:
            before = now
            time.sleep(0.5)

    def refused(self, *problems: str) -> None:
        """Assert that the victim ends with one line, that the others are told, and that no file is torn."""
        ends = [end(process) for process in self.processes]
        for peer, (code, errors) in enumerate(ends):
            assert code == (2 if peer == VICTIM else 3), ends
            assert len(errors.strip().splitlines()) == 1, errors
            assert errors.startswith(f"peer {peer}: ")
            assert all(problem in errors for problem in problems), errors
            assert peer == VICTIM or "gave up" in errors
        assert not list(self.folder(VICTIM).glob("*.part"))
        for name in ("initial.npz", "checkpoint.npz", "final.npz"):
            if (self.folder(VICTIM) / name).exists():
                parameters(self.run_dir(VICTIM), VICTIM, name)

    def finished(self, undisturbed: Path) -> None:
        """Assert that all peers end well, with the bits of the undisturbed run."""
        ends = [end(process) for process in self.processes]
        assert ends == [(0, "")] * PEERS
        for peer in range(PEERS):
            found, expected = parameters(self.run_dir(peer), peer), parameters(undisturbed, peer)
            for key in expected:
                assert np.array_equal(found[key], expected[key]), f"peer {peer}, {key}"


# ---- disks ---------------------------------------------------------------------------------


@needs_root
def test_a_disk_that_fills_up_stops_the_run_and_nothing_is_lost(lab: Lab, small: Path, undisturbed: Path) -> None:
    trio = Trio(lab, "small/out")
    trio.start()
    trio.wait_for_round(20)
    ballast = _fill(small)
    trio.refused("cannot use", "small/out/peers/001/", "No space left on device")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    before = {path: path.read_bytes() for path in trio.folder(VICTIM).iterdir()}
    done = lab.run(*trio.arguments(VICTIM))
    assert "Read-only file system" in refusal(done, 2)
    assert {path: path.read_bytes() for path in trio.folder(VICTIM).iterdir()} == before
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    ballast.unlink()

    trio.start()
    trio.wait_for_round(100)
    trio.processes[0].send_signal(signal.SIGSTOP)  # so that the victim has nothing to write until it is interrupted
    trio.wait_until_nothing_is_written()
    ballast = _fill(small)
    code, errors = end(trio.processes[VICTIM], signal.SIGTERM)
    trio.processes[0].send_signal(signal.SIGCONT)
    assert code == 2, errors
    assert "No space left on device" in errors
    assert len(errors.strip().splitlines()) == 1, errors
    ballast.unlink()
    trio.processes[VICTIM] = lab.start(*trio.arguments(VICTIM))  # the others have waited: it was only interrupted
    trio.finished(undisturbed)


def test_files_that_may_not_grow_stop_the_run_wherever_it_is(lab: Lab, undisturbed: Path) -> None:
    """At the first checkpoint, and in the log of rounds. A low soft limit of descriptors is none."""
    trio = Trio(lab)
    for n_bytes, name in ((4_000, "checkpoint.npz"), (24_000, "metrics.jsonl")):
        trio.start(_limited(FSIZE=n_bytes))
        trio.refused(f"peers/001/{name}: File too large")
    trio.start(_limited(NOFILE=(20, 400)))
    trio.finished(undisturbed)


@needs_root
def test_a_launch_on_a_full_disk_names_the_file_and_leaves_none_torn(lab: Lab, small: Path) -> None:
    experiment = lab.experiment(**_tree(lab))
    for n_bytes in (4_096, 98_304):  # too few for the record of the run, and for its first rounds
        ballast = _fill(small, n_bytes)
        line = refusal(lab.run("launch", experiment, "--out", f"small/{n_bytes}"), 2)
        assert "cannot use" in line
        assert "No space left on device" in line
        assert not list(small.rglob("*.part"))
        ballast.unlink()
        subprocess.run(["rm", "-r", str(small / str(n_bytes))], check=True)


@needs_root
def test_another_user_of_the_host_is_not_let_in_nearby() -> None:
    """Whom the kernel names as another user is hung up on, before a handshake; one of this user gets through it."""
    (address,) = free_addresses(1)
    (near,) = nearby([address])
    speaker = f"""
import os, sys, zmq
os.setuid(int(sys.argv[1]))
end = zmq.Context().socket(zmq.DEALER)
told = end.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
end.connect({near.names[address]!r})
assert told.poll(20_000)
print(int.from_bytes(told.recv_multipart()[0][:2], "little"), flush=True)
"""

    async def run() -> None:
        transport = Transport(0, None, 1_000, *(lambda _: None,) * 4, nearby=near)
        transport.bind(address)
        for user, event in ((os.getuid(), zmq.EVENT_HANDSHAKE_SUCCEEDED), (NOBODY, zmq.EVENT_DISCONNECTED)):
            line = [sys.executable, "-c", speaker, str(user)]
            done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=60)
            assert done.stdout == f"{event.value}\n", done.stderr
        await transport.close()

    asyncio.run(run())


@needs_root
def test_read_only_folders_are_refused(lab: Lab, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    experiment = lab.experiment(**_tree(lab))
    for arguments in (
        ("launch", experiment, "--out", "small/out"),
        ("keys", "small/keys", "--peers", "3"),
    ):
        line = refusal(lab.run(*arguments), 2)
        assert line.startswith("peer: cannot use small/")
        assert line.endswith("Read-only file system")


def test_keys_are_there_all_or_none(lab: Lab) -> None:
    line = refusal(_limited_run(lab, _limited(FSIZE=60), "keys", "keys", "--peers", "3"), 2)
    assert line == "peer: cannot use keys/public.toml: File too large"
    assert not list((lab.folder / "keys").iterdir())
    assert lab.run("keys", "keys", "--peers", "3").returncode == 0


# ---- memory and descriptors ----------------------------------------------------------------


def test_out_of_memory_in_the_solver_stops_the_run(lab: Lab) -> None:
    trio = Trio(lab, more={"model": {"hidden": [2_000]}})
    lab.shard(VICTIM, x=np.ones((1_500, 3)), y=np.arange(1_500) % 3)  # whose Jacobian takes 435 MB
    trio.start(_limited(AS=400 << 20))
    trio.refused("out of memory: Unable to allocate")
    found = {event["event"]: event for event in events(trio.run_dir(VICTIM), VICTIM)}
    assert "ready" in found, "it has got to the mathematics"
    assert "out of memory" in found["end"]["problem"]


def test_too_little_memory_for_the_libraries_is_said(lab: Lab) -> None:
    experiment = lab.experiment(**_tree(lab))
    line = refusal(_limited_run(lab, _limited(AS=150 << 20), "launch", experiment), 2)
    assert line == "peer: ulimit -v: expected 256 MiB of address space, found 150"


def test_too_few_descriptors_are_said_before_anything_happens(lab: Lab) -> None:
    trio = Trio(lab)
    for n in (6, 28):
        line = refusal(_limited_run(lab, _limited(NOFILE=n), *trio.arguments(VICTIM)), 2)
        assert line.startswith(f"peer {VICTIM}: ulimit -n: expected 35 more descriptors for a peer with 2 neighbors")
        experiment = lab.experiment(**_tree(lab))
        line = refusal(_limited_run(lab, _limited(NOFILE=n), "launch", experiment, "--out", "launched"), 2)
        assert line.startswith("peer: ulimit -n: expected ")
        assert line.endswith(f"of {n} left")
    assert not (lab.folder / "out").exists()
    assert not (lab.folder / "launched").exists()


# ---- time ----------------------------------------------------------------------------------


def test_a_peer_that_is_stopped_for_a_while_changes_nothing(lab: Lab, undisturbed: Path) -> None:
    """Its own patience, which is shorter than that, does not count while it is stopped."""
    trio = Trio(lab, patience_s=(30.0, 4.0, 30.0))
    trio.start()
    trio.wait_for_round(20)
    trio.processes[VICTIM].send_signal(signal.SIGSTOP)
    log = trio.run_dir(0), 0
    wait_until(lambda: events(*log)[-1]["event"] == "waiting", trio.processes[0])  # it says so after a while
    trio.processes[VICTIM].send_signal(signal.SIGCONT)
    trio.finished(undisturbed)
    assert "together" in [event["event"] for event in events(*log)]


def test_a_peer_that_is_stopped_for_too_long_is_lost_and_hears_of_it(lab: Lab) -> None:
    trio = Trio(lab, patience_s=(1.0, 30.0, 1.0))
    trio.start()
    trio.wait_for_round(20)
    trio.processes[VICTIM].send_signal(signal.SIGSTOP)
    for peer in (0, 2):
        code, errors = end(trio.processes[peer])
        assert code == 3, errors
    code, errors = end(trio.processes[VICTIM], signal.SIGCONT)
    assert code == 3
    assert "gave up" in errors
    assert not list(trio.folder(VICTIM).glob("*.part"))


CLOCK: Final = """
import datetime, itertools, time
jumps, now = itertools.cycle([0.0, 3e8, -3e8, 86_400.0]), time.time
time.time = lambda: now() + next(jumps)
from peer import __main__, host
class Clock(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return cls.fromtimestamp(time.time(), zone)
host.datetime = Clock
__main__.main()
"""
"""A peer whose wall clock jumps by years whenever it is asked."""


def test_a_wall_clock_that_jumps_changes_nothing(lab: Lab, undisturbed: Path) -> None:
    trio = Trio(lab, patience_s=(30.0, 5.0, 30.0))
    trio.start(first=[sys.executable, "-c", CLOCK])
    trio.finished(undisturbed)


LAST_MOMENT = """
import os, signal, sys
from asyncio.selector_events import BaseSelectorEventLoop
from peer.__main__ import main

close = BaseSelectorEventLoop._close_self_pipe

def closing(loop):
    close(loop)
    os.kill(os.getpid(), signal.SIGTERM)

BaseSelectorEventLoop._close_self_pipe = closing
main()
"""
"""`peer`, which gets a signal when its event loop can take none any more, and has not let go of them yet."""


def test_a_signal_at_the_very_last_moment_changes_nothing(lab: Lab) -> None:
    tree = _tree(lab, transport={"security": "none", "addresses": free_addresses(PEERS)})
    (lab.folder / "shards" / "peer-0.npz").unlink()
    line = [sys.executable, "-c", LAST_MOMENT, "run", str(lab.experiment(**tree)), "--id", "0", "--out", "out"]
    done = subprocess.run(line, cwd=lab.folder, capture_output=True, text=True, timeout=60, check=False)
    assert "peer-0.npz" in refusal(done, 2)
