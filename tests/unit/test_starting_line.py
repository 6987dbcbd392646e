"""The starting line of a launch: who waits for whom."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from peer.starting_line import StartingLine


@pytest.fixture
def lines() -> list[StartingLine]:
    """Of three peers."""
    seen, held = os.pipe()
    found = [StartingLine(seen, held) for _ in range(3)]
    os.close(seen)
    os.close(held)
    return found


def test_all_begin_when_the_last_is_in_line_or_gone(lines: list[StartingLine]) -> None:
    async def start() -> None:
        first, second = (asyncio.ensure_future(line.wait(60.0)) for line in lines[:2])
        done, _ = await asyncio.wait([first, second], timeout=0.1)
        assert not done
        lines[2].leave()
        await asyncio.wait_for(asyncio.gather(first, second), 20.0)

    asyncio.run(start())


def test_who_takes_too_long_is_not_waited_for(lines: list[StartingLine]) -> None:
    began_s = time.monotonic()
    asyncio.run(asyncio.wait_for(lines[0].wait(0.1), 20.0))
    assert time.monotonic() - began_s >= 0.1
    for line in lines[1:]:
        line.leave()


def test_a_canceled_wait_holds_up_nobody(lines: list[StartingLine]) -> None:
    async def start() -> None:
        canceled = asyncio.ensure_future(lines[0].wait(60.0))
        await asyncio.sleep(0)
        canceled.cancel()
        await asyncio.wait([canceled])
        lines[1].leave()
        await asyncio.wait_for(lines[2].wait(60.0), 20.0)

    asyncio.run(start())


def test_a_killed_process_is_not_waited_for() -> None:
    seen, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(seen, 1)  # holds the line till its end, which does not come
        os._exit(0)
    line = StartingLine(seen, held)
    os.close(held)

    async def start() -> None:
        waiting = asyncio.ensure_future(line.wait(60.0))
        assert not (await asyncio.wait([waiting], timeout=0.1))[0]
        os.kill(pid, 9)
        await asyncio.wait_for(waiting, 20.0)

    try:
        asyncio.run(start())
    finally:
        os.waitpid(pid, 0)
        os.close(seen)
