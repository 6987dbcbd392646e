"""Where a peer computes, and waits for the disk: what is short, between two messages; what is not, on threads."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

import numpy as np

from peer.optim.blocks import in_turn

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")

MATHEMATICS: Final = "mathematics"
"""Name of the threads on which a peer computes."""

WRITERS: Final = 16
"""Agents of one process that wait for the disk at a time."""

ALONE_S, TOGETHER_S = 20e-3, 2e-3
"""Of a processor: a computation that took no longer the last time needs no thread. To hand it over, and to be told that
it is done, takes 0.1 ms of a processor, and longer where these are few. A peer that has its process to itself hears
nothing meanwhile that it could use; agents that share one wait for each other, and could use other processors."""

CLOCKED: Final = 7
"""One of so many computations is clocked, which takes the kernel a microsecond: of two in turn, either."""

SERVED_S: Final = 2e-3
"""Between two turns of the event loop while computations are short and nobody is waited for."""

WRITE_S: Final = 5.0
"""How long a peer that ends waits for a checkpoint that is being written: a disk that takes longer counts as full."""


@final
@dataclass(frozen=True)
class Pools:
    """The threads of a process.

    Parameters
    ----------
    mathematics : ThreadPoolExecutor
        Those on which its agents compute.
    disk : ThreadPoolExecutor
        Those on which they wait for the disk: it takes what several hand it in little more time than what one does.
    """

    mathematics: ThreadPoolExecutor
    disk: ThreadPoolExecutor

    @classmethod
    def of_one(cls) -> Pools:
        """Of a peer that has its process to itself: one for all."""
        one = ThreadPoolExecutor(1, thread_name_prefix=MATHEMATICS)
        return cls(one, one)

    @classmethod
    def of_several(cls, n_agents: int, one_at_a_time: bool) -> Pools:
        """No more than agents, and to compute on not more than cores, or, if they take turns, one."""
        n_cores = 1 if one_at_a_time else len(os.sched_getaffinity(0))
        mathematics = ThreadPoolExecutor(min(n_agents, n_cores), thread_name_prefix=MATHEMATICS)
        return cls(mathematics, ThreadPoolExecutor(min(n_agents, WRITERS), thread_name_prefix="disk"))

    def close(self) -> None:
        """Begin nothing more."""
        for threads in (self.mathematics, self.disk):
            threads.shutdown(wait=False, cancel_futures=True)


@final
class Threads:
    """One agent's use of threads.

    Parameters
    ----------
    shared : Pools or None
        Those of its process; None: it has that to itself.
    n_cores : int
        Threads of its own, `surrogate.cores`.
    takes_turns : bool
        Where others are in the process, no two of them may compute at a time.
    """

    def __init__(self, shared: Pools | None, n_cores: int, takes_turns: bool) -> None:
        self.writing = threading.RLock()
        self.computing_since_s: float | None = None
        self._pools, self._is_alone = shared or Pools.of_one(), shared is None
        self._n_cores, self._cores = n_cores, ThreadPoolExecutor(n_cores, thread_name_prefix=MATHEMATICS)
        by_threads = n_cores > 1 or (takes_turns and not self._is_alone)
        self._short_s = -math.inf if by_threads else ALONE_S if self._is_alone else TOGETHER_S
        self._took_s: dict[Callable[..., object], float] = {}
        self._n_computed, self._served_s = 0, time.monotonic()

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of a computation, while messages are served; a short one, see `ALONE_S`, comes in between."""
        self.computing_since_s = time.monotonic()
        self._n_computed += 1
        try:
            if self._took_s.get(function, math.inf) > self._short_s:
                return await self.on_thread(lambda: self._clocked(function, *args, **kwargs))
            if self._n_computed % CLOCKED == 0:
                result = self._clocked(function, *args, **kwargs)
            else:
                result = function(*args, **kwargs)
        finally:
            self.computing_since_s = None
        if time.monotonic() - self._served_s > SERVED_S:  # else messages and signals wait as long as nobody is late
            await asyncio.sleep(0)
            self._served_s = time.monotonic()
        return result

    def _clocked(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        began_s = time.thread_time()
        try:
            with np.errstate(all="ignore"):  # as `process` has it for the event loop; it is each thread's own
                return function(*args, **kwargs)
        finally:
            self._took_s[function] = time.thread_time() - began_s

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of a function on the thread of the mathematics, while messages are served."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pools.mathematics, call)

    async def on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of a function that waits for the disk, while messages are served; `written` waits for it."""

        def written() -> T:
            with self.writing:
                return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pools.disk, written)

    def each(self, function: Callable[[A], T], items: Sequence[A], /) -> Sequence[T]:
        """Apply a function to each item: in turn, or `n_cores` at a time on threads of their own."""
        if self._n_cores == 1:
            return in_turn(function, items)

        def computed(item: A) -> T:
            with np.errstate(all="ignore"):  # numpy's setting is each thread's own
                return function(item)

        return list(self._cores.map(computed, items))

    def close(self) -> None:
        """Begin nothing more."""
        self._cores.shutdown(wait=False, cancel_futures=True)
        if self._is_alone:
            self._pools.close()

    def written(self) -> None:
        """Wait for what is being written: else half a checkpoint would be left beside the last one."""
        if self.writing.acquire(timeout=WRITE_S):
            self.writing.release()
