"""Waiting for others on a clock that goes on while this process is stopped."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peer import host as host_module
from peer import wire
from peer.changes import Changes
from peer.host import STOPPED_S, Host
from peer.threads import Threads


class Stopping(asyncio.SelectorEventLoop):
    """An event loop whose clock can leap forward, as it does for a process that was stopped meanwhile."""

    leapt_s = 0.0

    def time(self) -> float:
        return super().time() + self.leapt_s

    def stop_for(self, seconds: float) -> None:
        self.leapt_s += seconds


def waiting_host() -> tuple[Any, list[str]]:
    """What `Host.together` needs of a host, and the lines it tells."""
    told: list[str] = []
    host = SimpleNamespace(
        changed=Changes(),
        transport=SimpleNamespace(look=lambda: None),
        where=lambda n: f"round {n}",
        event=lambda kind, **facts: told.append(kind),
        assignment=SimpleNamespace(tell=lambda line: None),
    )
    host.until = lambda condition, deadline_s: Host.until(host, condition, deadline_s)  # type: ignore[arg-type]
    return host, told


async def together(stops: list[float], comes_s: float, patience_s: float) -> tuple[bool, float]:
    """Whether peer 1 comes in time, `comes_s` after the last of the stops, and how long that takes without them."""
    host, missing = waiting_host()[0], [1]
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Stopping)

    def arrive() -> None:
        missing.clear()
        host.changed.set()

    def stop(left: list[float]) -> None:
        if not left:
            loop.call_later(comes_s, arrive)
            return
        loop.stop_for(left[0])
        loop.call_later(0.02, stop, left[1:])

    loop.call_later(0.02, stop, stops)
    began_s = loop.time()
    found = await Host.together(host, 3, lambda: missing, began_s + patience_s)
    return found, loop.time() - began_s - sum(stops)


def run(stops: list[float], comes_s: float, patience_s: float) -> tuple[bool, float]:
    with asyncio.Runner(loop_factory=Stopping) as runner:
        return runner.run(together(stops, comes_s, patience_s))


@pytest.mark.parametrize("stops", [[2.0], [7.0], [3_600.0], [2.0, 50.0, 3.0]], ids=str)
def test_the_time_of_a_stop_is_not_counted_against_others(stops: list[float]) -> None:
    found, waited_s = run(stops, comes_s=0.05, patience_s=1.0)
    assert found
    assert waited_s < 1.0


def test_after_a_stop_patience_has_an_end_too() -> None:
    found, waited_s = run([30.0], comes_s=10.0, patience_s=0.3)
    assert not found
    assert 0.2 < waited_s < 0.3 + STOPPED_S


def test_who_ends_waits_for_what_is_being_written() -> None:
    """A checkpoint that a thread is at is whole, or not there, when the process is gone."""
    threads, begun, written = Threads(None, 1, False), threading.Event(), threading.Event()

    async def close() -> bool:
        ended = asyncio.Event()
        ended.set()
        transport = SimpleNamespace(close=ended.wait)
        opened = SimpleNamespace(close=lambda: None)
        host = SimpleNamespace(_news=None, _telling=None, threads=threads, transport=transport, _opened=opened)
        await Host.close(host)  # type: ignore[arg-type]
        return written.is_set()

    def write() -> None:
        with threads.writing:
            begun.set()
            time.sleep(0.1)  # a slow disk
            written.set()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    assert asyncio.run(close())
    thread.join()


WALL_CLOCK = re.compile(r"\btime\.time\b|\btime_ns\b|\bdatetime\.(now|today|utcnow)\b|\b(local|gm|c)time\(")


def test_the_wall_clock_is_asked_only_for_what_people_read_and_for_the_times_of_files() -> None:
    """Deadlines and pauses are on the monotonic clock, which does not jump."""
    package = Path(host_module.__file__).parent
    asks = Counter(path.name for path in package.rglob("*.py") for _ in WALL_CLOCK.findall(path.read_text("utf-8")))
    assert asks == {
        "host.py": 1,  # since when somebody is waited for
        "async_mode.py": 1,  # when a peer started
        "__main__.py": 1,  # how old a file is
    }


@pytest.mark.parametrize(
    ("mode", "resumes", "shares"), [("rounds", True, 60), ("rounds", False, 0), ("async", True, 0)]
)
def test_who_goes_on_from_a_checkpoint_in_rounds_may_have_missed_all_shares_since(
    mode: str, resumes: bool, shares: int
) -> None:
    run, topology = SimpleNamespace(mode=mode, checkpoint_every=20), SimpleNamespace(consensus_steps=3)
    host: Any = SimpleNamespace(experiment=SimpleNamespace(run=run, topology=topology), resumes=resumes)
    form = wire.Format("run", 2, 1_000, "f8")
    assert Host.missed_bytes(host, form) == shares * wire.share_bytes(form)
    assert wire.share_bytes(form) > 2 * 8 * 1_000
