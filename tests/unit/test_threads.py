"""Where a peer computes: what is short in the event loop, what is not on threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from peer.threads import ALONE_S, CLOCKED, MATHEMATICS, Pools, Threads


@contextmanager
def threads(shared: Pools | None = None, n_cores: int = 1, takes_turns: bool = False) -> Iterator[Threads]:
    found = Threads(shared, n_cores, takes_turns)
    try:
        yield found
    finally:
        found.close()


def here() -> str:
    """Name of the thread on which this is called."""
    return threading.current_thread().name


def in_a_row(threads: Threads, function: Callable[[], str], n: int) -> list[bool]:
    """Whether each of n computations was done on a thread of the mathematics."""

    async def done() -> list[str]:
        return [await threads.compute(function) for _ in range(n)]

    return [name.startswith(MATHEMATICS) for name in asyncio.run(done())]


def test_a_computation_that_was_short_needs_no_thread() -> None:
    with threads() as alone:
        assert in_a_row(alone, here, 20) == [True] + [False] * 19, "nobody knows how long the first one takes"


def test_one_that_gets_long_is_handed_over_when_that_has_been_seen() -> None:
    def slow() -> str:
        began_s = time.thread_time()
        while len(done) > 2 and time.thread_time() - began_s < 2.0 * ALONE_S:
            pass
        done.append(here())
        return done[-1]

    done: list[str] = []
    with threads() as alone:
        found = in_a_row(alone, slow, CLOCKED + 2)
    assert found[:CLOCKED] == [True] + [False] * (CLOCKED - 1)
    assert found[CLOCKED:] == [True, True], "one in so many is clocked"


@pytest.mark.parametrize(("n_cores", "takes_turns"), [(2, False), (1, True)])
def test_on_threads_always_where_agents_take_turns_or_have_several(n_cores: int, takes_turns: bool) -> None:
    pools = Pools.of_several(4, one_at_a_time=takes_turns)
    with threads(pools, n_cores, takes_turns) as shared:
        assert in_a_row(shared, here, 5) == [True] * 5
    pools.close()


def test_who_is_alone_has_nobody_to_take_turns_with() -> None:
    with threads(takes_turns=True) as alone:
        assert in_a_row(alone, here, 3) == [True, False, False]


@pytest.mark.parametrize("n_known", [0, 1])
def test_that_a_computation_goes_on_can_be_seen_until_it_ends_by_whatever(n_known: int) -> None:
    with threads() as alone:

        def fails() -> None:
            assert alone.computing_since_s is not None
            raise ArithmeticError("no such luck")

        async def tried() -> None:
            for _ in range(1 + n_known):
                with pytest.raises(ArithmeticError, match="luck"):
                    await alone.compute(fails)
                assert alone.computing_since_s is None

        asyncio.run(tried())


def test_numpy_warns_on_no_thread() -> None:
    async def computed() -> float:
        return float(await alone.compute(lambda: np.float64(1.0) / np.float64(0.0)))

    with threads() as alone:
        assert asyncio.run(computed()) == np.inf


def test_what_is_being_written_is_waited_for() -> None:
    """And what a second one writes does not get into it."""
    order: list[str] = []
    began, may_end = threading.Event(), threading.Event()

    def write(name: str) -> None:
        order.append(f"{name} begins")
        began.set()
        assert may_end.wait(10.0)
        order.append(f"{name} ends")

    async def written(several: Threads) -> None:
        both = [asyncio.ensure_future(several.on_disk(write, name)) for name in "ab"]
        await asyncio.to_thread(began.wait)
        waiting = asyncio.ensure_future(asyncio.to_thread(several.written))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        may_end.set()
        await asyncio.gather(waiting, *both)

    pools = Pools.of_several(2, one_at_a_time=False)
    with threads(pools) as shared:
        asyncio.run(written(shared))
    pools.close()
    first, second = order[0][0], order[2][0]
    assert order == [f"{first} begins", f"{first} ends", f"{second} begins", f"{second} ends"]


@pytest.mark.parametrize("cores", [1, 3])
def test_items_are_gone_through_in_order(cores: int) -> None:
    """On threads too, where numpy's warnings are off as on the thread of the mathematics."""
    with threads(n_cores=cores) as own, np.errstate(all="ignore"):
        found = own.each(lambda item: np.float64(1.0) / item, list(np.arange(20.0)))
    np.testing.assert_array_equal(found, [np.inf, *(1.0 / np.arange(1.0, 20.0))])
