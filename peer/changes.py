"""Waiting for a condition that messages bring about, without a task switch for each of them.

Whoever waits is woken when the condition holds, not whenever something happened: most of a round's messages leave
others missing. The deadlines of a peer are minutes away and move with every round, so one timer serves them all: it is
made anew only when it has gone off, or for an earlier deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from peer.records import Record


@final
class _Waiter(Record, frozen=True):
    condition: Callable[[], bool]
    deadline_s: float
    woken: asyncio.Future[bool]


@final
class Changes:
    """That something has changed on which somebody may wait; of one event loop."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Something has changed: wake those whose condition holds now."""
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.woken.done() and waiter.condition():
                waiter.woken.set_result(True)

    def clear(self) -> None:
        """From now on, nothing has changed."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether something has changed since the last `clear`."""
        return self._is_set

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a condition that a change may bring about; False if the deadline passed first.

        Parameters
        ----------
        condition : callable
            Asked now, at every change and at the deadline.
        deadline_s : float
            On the clock of the event loop.
        """
        while not condition():
            loop = asyncio.get_running_loop()
            waiter = _Waiter(condition, deadline_s, loop.create_future())
            self._waiters.append(waiter)
            self._look_at(deadline_s, loop)
            try:
                in_time = await waiter.woken
            finally:
                self._waiters.remove(waiter)
            if not in_time:
                return condition()
        return True

    def _look_at(self, deadline_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that the timer goes off by then."""
        if self._timer is not None and self._timer.when() > deadline_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(deadline_s, self._gone_off, loop)

    def _gone_off(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        waiting = [waiter for waiter in self._waiters if not waiter.woken.done()]
        for waiter in waiting:
            if waiter.deadline_s <= now:
                waiter.woken.set_result(False)
        left = [waiter.deadline_s for waiter in waiting if waiter.deadline_s > now]
        if left:
            self._look_at(min(left), loop)
