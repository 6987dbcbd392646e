"""Links within a process: they come up and break as any others, keep the order, and are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from peer.local_links import End, Room
from peer.wire import Handed
from topology import PeerId

QUEUE_MESSAGES = 3


def alone(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def end(me: PeerId, room: Room, there: bool = True) -> tuple[End, list[tuple[str, int]]]:
    """An end, and what it has been told."""
    told: list[tuple[str, int]] = []

    def tells(kind: str) -> Callable[[PeerId], None]:
        return lambda j: told.append((kind, j))

    made = End(
        me,
        room,
        QUEUE_MESSAGES,
        awake=lambda: told.append(("awake", me)),
        on_connect=tells("up"),
        on_disconnect=tells("down"),
        on_writable=tells("room"),
        on_left=tells("left"),
    )
    if there:
        made.open()
    return made, told


async def pair() -> tuple[End, End, list[tuple[str, int]], list[tuple[str, int]]]:
    """Two ends with a link each way, which are up."""
    room = Room({0, 1})
    (zero, told_zero), (one, told_one) = end(0, room), end(1, room)
    assert zero.connect(1)
    assert one.connect(0)
    await turn()
    assert (told_zero, told_one) == ([("up", 1)], [("up", 0)])
    told_zero.clear()
    told_one.clear()
    return zero, one, told_zero, told_one


async def turn() -> None:
    """What was to be called soon is called."""
    await asyncio.sleep(0)


@alone
async def test_a_link_comes_up_once_both_ends_are_there_and_not_at_once() -> None:
    room = Room({0, 1})
    (zero, told), (one, told_one) = end(0, room), end(1, room, there=False)
    assert zero.connect(1)
    await turn()
    assert told == []
    assert not zero.send(1, Handed([b"nobody"]))
    assert not zero.writable(1)
    one.open()
    assert told == [], "its caller may not be ready"
    await turn()
    assert told == [("up", 1)]
    assert zero.writable(1)
    assert told_one == [], "the other direction is a link of its own"
    assert not one.writable(0)


@alone
async def test_somebody_elsewhere_is_no_matter_of_these_links() -> None:
    zero, _ = end(0, Room({0, 1}))
    assert not zero.connect(2)
    assert not zero.send(2, Handed([b"far"]))
    assert not zero.writable(2)
    zero.disconnect(2)
    zero.reconnect(2)


@alone
async def test_messages_come_in_order_as_they_were_and_cannot_be_changed() -> None:
    zero, one, _, told = await pair()
    tensor = np.arange(3.0)
    assert zero.send(1, Handed([b"first", tensor.view(np.uint8).data]))
    assert zero.send(1, Handed([b"second"]))
    assert one.send(0, Handed([b"back"]))
    assert told == [("awake", 1)] * 2
    assert zero.take() == (1, [b"back"])
    found = one.take()
    assert found is not None
    sender, (header, raw) = found
    assert (sender, bytes(header)) == (0, b"first")
    got = np.frombuffer(raw, dtype="<f8")
    assert np.array_equal(got, tensor)
    assert np.shares_memory(got, tensor), "nothing is copied"
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1.0
    assert one.take() == (0, [b"second"])
    assert one.take() is None


@alone
async def test_so_many_may_wait_and_who_found_no_room_is_told_of_some() -> None:
    zero, one, told, _ = await pair()
    assert all(zero.send(1, Handed([b"%d" % k])) for k in range(QUEUE_MESSAGES))
    one.take()
    await turn()
    assert told == [], "it has not asked for more room than there was"
    assert zero.send(1, Handed([b"%d" % QUEUE_MESSAGES]))
    assert not zero.send(1, Handed([b"too many"]))
    assert not zero.writable(1)
    for k in range(1, 1 + QUEUE_MESSAGES):
        assert one.take() == (0, [b"%d" % k])
    await turn()
    assert told == [("room", 1)], "told once"
    assert zero.writable(1)


@alone
async def test_who_leaves_breaks_the_links_to_it_and_is_expected_no_more() -> None:
    zero, one, told, _ = await pair()
    assert one.send(0, Handed([b"farewell"]))
    one.close()
    assert told == [("awake", 0)]
    assert not zero.send(1, Handed([b"too late"]))
    assert zero.take() == (1, [b"farewell"])
    await turn()
    assert told[1:] == [("down", 1), ("left", 1)]
    assert not zero.connect(1), "it has to be looked for elsewhere"


@alone
async def test_who_never_came_is_given_up() -> None:
    room = Room({0, 1})
    zero, told = end(0, room)
    assert zero.connect(1)
    await turn()
    room.leave(1)
    room.leave(1)
    await turn()
    assert told == [("left", 1)]


@alone
async def test_a_dropped_link_is_no_news_and_what_was_sent_is_read() -> None:
    zero, one, told, _ = await pair()
    assert zero.send(1, Handed([b"last"]))
    zero.disconnect(1)
    assert not zero.send(1, Handed([b"too late"]))
    assert one.take() == (0, [b"last"])
    one.close()
    await turn()
    assert told == []


@alone
async def test_a_link_that_was_given_up_is_made_anew() -> None:
    zero, one, told, _ = await pair()
    zero.reconnect(1)
    assert not zero.send(1, Handed([b"not now"]))
    while not told:
        await asyncio.sleep(0.001)
    assert told == [("up", 1)]
    assert zero.send(1, Handed([b"again"]))
    assert one.take() == (0, [b"again"])


@alone
async def test_what_was_dropped_or_left_meanwhile_comes_up_no_more() -> None:
    zero, one, told, _ = await pair()
    zero.disconnect(1)
    assert zero.connect(1)
    zero.disconnect(1)
    await turn()
    assert told == []
    assert zero.connect(1)
    one.close()
    await turn()
    assert told == [("left", 1)]
