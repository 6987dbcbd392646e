"""Waiting for conditions: who is woken when, and by what."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from peer.changes import Changes


def run(waiting: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(waiting, 20.0))


def test_who_waits_is_woken_when_the_condition_holds_and_not_before() -> None:
    async def wait() -> None:
        changes, here, asked = Changes(), set[int](), []

        def both() -> bool:
            asked.append(len(here))
            return here == {1, 2}

        waiting = asyncio.ensure_future(changes.until(both, math.inf))
        await asyncio.sleep(0)
        for j in (1, 2):
            here.add(j)
            changes.set()
            assert not waiting.done()
        assert asked == [0, 1, 2], "asked at every change, and nowhere else"
        assert await waiting
        assert asked == [0, 1, 2, 2]

    run(wait())


def test_a_condition_that_holds_already_is_not_waited_for() -> None:
    async def wait() -> None:
        assert await Changes().until(lambda: True, -math.inf)

    run(wait())


def test_what_held_for_a_moment_only_is_waited_for_again() -> None:
    async def wait() -> None:
        changes, here = Changes(), [False]
        waiting = asyncio.ensure_future(changes.until(lambda: here[0], math.inf))
        await asyncio.sleep(0)
        here[0] = True
        changes.set()
        here[0] = False
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        here[0] = True
        changes.set()
        assert await waiting

    run(wait())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_each_deadline_counts_whichever_was_given_first(order: tuple[int, ...]) -> None:
    async def wait() -> None:
        changes, loop, passed = Changes(), asyncio.get_running_loop(), list[int]()
        now = loop.time()

        async def one(k: int) -> None:
            assert not await changes.until(lambda: False, now + 0.01 * k)
            assert loop.time() >= now + 0.01 * k
            passed.append(k)

        await asyncio.gather(*map(one, order))
        assert passed == [0, 1, 2]

    run(wait())


def test_a_deadline_at_which_the_condition_holds_unseen_is_kept() -> None:
    async def wait() -> None:
        here = list[bool]()
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(Changes().until(lambda: bool(here), loop.time() + 0.01))
        await asyncio.sleep(0)
        here.append(True)  # nobody says so
        assert await waiting

    run(wait())


def test_who_is_canceled_waits_no_more_and_others_do() -> None:
    async def wait() -> None:
        changes, here = Changes(), list[bool]()
        first, second = (asyncio.ensure_future(changes.until(lambda: bool(here), math.inf)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        here.append(True)
        changes.set()
        assert await second
        assert first.cancelled()

    run(wait())
