"""Links over real sockets: made and dropped at any time, with a bounded queue, and closed to who is not listed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import door
from peer.door import BURST_MESSAGES
from peer.errors import ConfigError, RemoteError, WireError
from peer.transport import (
    JOIN_BYTES,
    JOINT,
    MAX_JOINED,
    NOBODY,
    QUEUE_MESSAGES,
    SEEN,
    Keys,
    Nearby,
    Subscription,
    Transport,
    identity,
    joined,
    nearby,
    new_key_pair,
    options,
    outgoing,
    parted,
    places,
    sockets,
)
from peer.wire import Frame
from tests import abuse
from tests.integration.lab import free_addresses
from topology import PeerId

PAIRS = [new_key_pair() for _ in range(4)]
LIST = {j: public for j, (public, _) in enumerate(PAIRS)}
FRAME_BYTES = 1 << 20
WAIT_S = 20.0


async def received(transport: Transport) -> tuple[PeerId, list[Frame]]:
    """The next message from anybody; one that comes just when this is canceled is lost."""
    found: list[tuple[PeerId, list[Frame]]] = []

    def hear(sender: PeerId, frames: list[Frame]) -> bool:
        found.append((sender, frames))
        return False

    await transport.serve(hear)
    return found[0]


class End:
    """A transport, and what it has told."""

    def __init__(
        self,
        me: PeerId,
        secure: bool = True,
        peers: Mapping[PeerId, str] = LIST,
        queue_messages: int = QUEUE_MESSAGES,
        reread: Callable[[], Mapping[PeerId, str] | None] | None = None,
        address: str = "",
        near: Nearby = NOBODY,
        n_links: int = 0,
    ) -> None:
        self.address = address or free_addresses(1)[0]
        self.told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.transport = Transport(
            me,
            Keys(PAIRS[me][1], PAIRS[me][0], peers, reread) if secure else None,
            FRAME_BYTES,
            on_connect=lambda j: self.told.put_nowait(("up", j)),
            on_disconnect=lambda j: self.told.put_nowait(("down", j)),
            on_refusal=lambda j: self.told.put_nowait(("refused", j)),
            on_drop=lambda error: self.told.put_nowait(("drop", error)),
            on_writable=lambda j: self.told.put_nowait(("room", j)),
            queue_messages=queue_messages,
            nearby=near,
            n_links=n_links,
        )
        self.transport.bind(self.address)

    async def tells(self, kind: str) -> Any:
        """What it is told of the next event, which has to be of this kind."""
        found, what = await asyncio.wait_for(self.told.get(), WAIT_S)
        assert found == kind, (found, what)
        return what

    async def comes_to(self, kind: str, what: Any) -> None:
        """Wait for an event, whatever is told before it."""
        while await asyncio.wait_for(self.told.get(), WAIT_S) != (kind, what):
            pass

    async def hears(self) -> tuple[PeerId, list[bytes]]:
        """The next message."""
        sender, frames = await asyncio.wait_for(received(self.transport), WAIT_S)
        return sender, [bytes(frame) for frame in frames]

    def says(self, j: PeerId, *frames: bytes) -> bool:
        """Send; whether it was taken."""
        return self.transport.send(j, self.transport.pack(frames))


@asynccontextmanager
async def ends(*made: Callable[[], End]) -> AsyncIterator[list[End]]:
    there = [make() for make in made]
    try:
        yield there
    finally:
        for end in there:
            await end.transport.close()


def alone(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test in an event loop of its own."""

    def run(secure: bool) -> None:
        asyncio.run(test(secure))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return pytest.mark.parametrize("secure", [True, False], ids=["curve", "none"])(run)


def stranger(end: End, pair: tuple[str, str] | None, name: bytes = b"") -> AbstractContextManager[Any]:
    """A socket of somebody else's program, connected to an end of peer 0."""
    return abuse.speaker(end.address, LIST[0], pair, name)


@pytest.mark.parametrize("address", ["garbage", "tcp://[::1:9", "tcp://a\u2100b:9", "inproc://nobody", "tcp://here:x"])
def test_what_is_no_address_leaves_no_link(address: str) -> None:
    """Peers without rounds tell each other where they are: one that says nonsense must do no harm, however often."""

    async def scene() -> None:
        async with ends(lambda: End(0), lambda: End(1)) as (zero, one):
            for _ in range(2):
                with pytest.raises(ConfigError, match="no address of peer 1"):
                    zero.transport.connect(1, address)
            zero.transport.connect(1, one.address)
            assert await zero.tells("up") == 1

    asyncio.run(scene())


def test_localhost_is_127_0_0_1_for_whoever_listens_and_whoever_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most hosts say ::1 first, where nobody listens."""
    found = [(kind, 1, 6, "", (host, 9)) for kind, host in ((10, "::1"), (2, "127.0.0.1"), (10, "::1"))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **how: found)
    assert places.look_up("tcp://localhost:9") == ["tcp://127.0.0.1:9", "tcp://[::1]:9"]
    assert places.look_up("tcp://lab-a:9") == ["tcp://[::1]:9", "tcp://127.0.0.1:9"], "any other has its order"
    watcher = Subscription(None)
    try:
        watcher.connect(0, "tcp://localhost:9")
        assert watcher._ends[0].getsockopt(zmq.LAST_ENDPOINT) == b"tcp://127.0.0.1:9"
    finally:
        watcher.close()

    async def scene() -> None:
        port = free_addresses(1)[0].rpartition(":")[2]
        async with ends(lambda: End(0), lambda: End(1, address=f"tcp://localhost:{port}")) as (zero, _):
            zero.transport.connect(1, f"tcp://127.0.0.1:{port}")
            assert await zero.tells("up") == 1

    asyncio.run(scene())


@alone
async def test_a_link_can_be_dropped_and_made_again(secure: bool) -> None:
    async with ends(lambda: End(0, secure), lambda: End(1, secure)) as (zero, one):
        assert not zero.says(1, b"nobody")
        zero.transport.disconnect(1)
        for number in (b"1", b"2", b"3"):
            zero.transport.connect(1, one.address)
            assert await zero.tells("up") == 1
            assert zero.says(1, number, b"")
            zero.transport.disconnect(1)  # what was handed over leaves still
            assert not zero.says(1, b"too late")
            assert await one.hears() == (0, [number, b""])
        assert zero.told.empty(), "dropping a link is no news to who drops it"


@alone
async def test_a_dropped_link_is_looked_for_no_more(secure: bool) -> None:
    async with ends(lambda: End(0, secure)) as (zero,):
        absent = free_addresses(1)[0]
        for _ in range(3):
            zero.transport.connect(1, absent)
            zero.transport.reconnect(1)
            zero.transport.disconnect(1)
        zero.transport.reconnect(1)
        assert not zero.transport._links._searches
        assert not zero.transport._links._endpoints


@alone
async def test_a_link_bounds_what_waits_and_tells_when_it_has_room(secure: bool) -> None:
    """Frames are larger than what the kernel takes; on the other side one waits, and one is being read."""
    count, large = 30, bytes(16 << 20)
    async with ends(lambda: End(0, secure, queue_messages=1)) as (zero,):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as reader:
            reader.setsockopt(zmq.RCVHWM, 1)
            if secure:
                reader.setsockopt(zmq.CURVE_SERVER, 1)
                reader.setsockopt(zmq.CURVE_SECRETKEY, PAIRS[1][1].encode())
            port = reader.bind_to_random_port("tcp://127.0.0.1")
            zero.transport.connect(1, f"tcp://127.0.0.1:{port}")
            assert await zero.tells("up") == 1

            async def fill(sent: int, limit: int, moment_s: float) -> int:
                """Send until nothing more goes for a moment; the number of messages sent."""
                while sent < limit:
                    if zero.says(1, b"%d" % sent, large):
                        sent += 1
                    else:
                        try:
                            assert await asyncio.wait_for(zero.told.get(), moment_s) == ("room", 1)
                        except TimeoutError:
                            break
                return sent

            sent = await fill(0, count, 0.5)
            assert sent <= 6, "one waits here, one there, and the rest is on its way"
            received = asyncio.get_running_loop().run_in_executor(
                None, lambda: [reader.recv_multipart() for _ in range(count)]
            )
            assert await zero.tells("room") == 1
            assert await fill(sent, count, WAIT_S) == count
            assert [int(number) for _, number, _ in await received] == list(range(count))


def test_a_key_that_is_not_listed_delivers_nothing() -> None:
    async def run() -> None:
        known = {j: key for j, key in LIST.items() if j != 1}
        async with ends(lambda: End(0, peers=known), lambda: End(1)) as (zero, one):
            one.transport.connect(0, zero.address)
            assert await one.tells("refused") == 0
            error = await zero.tells("drop")
            assert (type(error), error.cause, error.sender) == (RemoteError, "key", None)
            assert "127.0.0.1" in str(error)
            assert not one.says(0, b"let me in")
            assert zero.transport.bytes_received == 0

    asyncio.run(run())


@pytest.mark.parametrize("name", [identity(2) + b".0123456789abcdef", identity(2), b"3", b"peer-03.1"])
def test_a_listed_key_with_another_name_delivers_nothing(name: bytes) -> None:
    async def run() -> None:
        async with ends(lambda: End(0), lambda: End(2)) as (zero, two):
            two.transport.connect(0, zero.address)
            assert await two.tells("up") == 0
            with stranger(zero, PAIRS[3], name) as socket:
                socket.send_multipart([b"I am 2", b""])
                hearing = asyncio.create_task(zero.hears())
                error = await zero.tells("drop")
                assert (error.cause, error.sender) == ("identity", 3)
                assert two.says(0, b"no, I am", b"")
                assert await hearing == (2, [b"no, I am", b""]), "whose name was taken is not cut off"
            assert two.told.empty()

    asyncio.run(run())


def test_a_connection_without_a_name_is_whose_its_key_is() -> None:
    async def run() -> None:
        async with ends(lambda: End(0)) as (zero,):
            with stranger(zero, PAIRS[3]) as socket:
                socket.send(b"I am 3")
                assert await zero.hears() == (3, [b"I am 3"])
            assert zero.told.empty()

    asyncio.run(run())


def test_without_keys_a_message_says_whose_it_is() -> None:
    async def run() -> None:
        async with ends(lambda: End(0, secure=False)) as (zero,):
            hearing = asyncio.create_task(zero.hears())
            for name in (b"", b"peer-.1", b"peer-1", b"peer-1234567890.1", b"peer--1.1"):
                with stranger(zero, None, name) as socket:
                    socket.send(b"hello")
                    error = await zero.tells("drop")
                    assert (error.cause, error.sender) == ("identity", None)
            with stranger(zero, None, b"peer-1.1") as socket:
                socket.send(b"hello")
                assert await hearing == (1, [b"hello"])

    asyncio.run(run())


def test_whoever_sends_faster_than_is_read_holds_up_no_timer() -> None:
    async def run() -> None:
        async with ends(lambda: End(0)) as (zero,):
            over, n_messages = asyncio.Event(), BURST_MESSAGES // 2
            with stranger(zero, PAIRS[3], identity(3) + b".1") as socket:
                flood = asyncio.get_running_loop().run_in_executor(
                    None, lambda: [socket.send(b"x") for _ in range(n_messages)]
                )
                await zero.hears()
                asyncio.get_running_loop().call_later(0.05, over.set)
                heard = 1
                while heard < n_messages and not over.is_set():
                    await received(zero.transport)
                    heard += 1
                assert over.is_set()
                while heard < n_messages:
                    await received(zero.transport)
                    heard += 1
                await flood

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(frames=st.lists(st.binary(max_size=300), min_size=2, max_size=MAX_JOINED))
def test_frames_that_go_as_one_are_taken_apart(frames: list[bytes]) -> None:
    one = memoryview(joined(frames))
    assert one[0] == JOINT
    assert [bytes(frame) for frame in parted([one], 3)] == frames


@settings(max_examples=500, deadline=None)
@given(rest=st.binary(max_size=40))
def test_what_says_to_be_several_frames_and_is_none_is_refused(rest: bytes) -> None:
    one = bytes([JOINT]) + rest
    problem: WireError | None = None
    try:
        assert joined(parted([one], 3)) == one
    except WireError as error:
        problem = error
    assert problem is None or (problem.cause, problem.sender) == ("frames", 3)


@alone
async def test_a_small_message_goes_as_one_frame_and_comes_as_it_was(secure: bool) -> None:
    async with ends(lambda: End(0, secure), lambda: End(1, secure)) as (zero, one):
        zero.transport.connect(1, one.address)
        assert await zero.tells("up") == 1
        for frames, n_parts in (
            ([b"head", b"", b"y" * 100], 1),
            ([b"alone"], 1),
            ([b"head", b"z" * JOIN_BYTES], 2),
            ([b"1"] * (MAX_JOINED + 1), MAX_JOINED + 1),
        ):
            assert len(zero.transport.pack(frames).parts) == n_parts
            assert zero.says(1, *frames)
            assert await one.hears() == (0, frames)


def test_frames_that_are_none_are_dropped_and_counted() -> None:
    async def run() -> None:
        async with ends(lambda: End(0)) as (zero,):
            with stranger(zero, PAIRS[3], identity(3) + b".1") as socket:
                socket.send(bytes([JOINT, 2, 1, 0, 1, 0]) + b"abc")
                socket.send(b"next")
                assert await zero.hears() == (3, [b"next"])
            error = await zero.tells("drop")
            assert (error.cause, error.sender) == ("frames", 3)

    asyncio.run(run())


def test_who_hears_stops_when_it_has_heard_enough_and_raises_what_went_wrong() -> None:
    async def run() -> None:
        async with ends(lambda: End(0)) as (zero,):
            heard = list[bytes]()

            def hear(sender: PeerId, frames: list[Any]) -> bool:
                heard.append(bytes(frames[0]))
                if heard[-1] == b"bad":
                    raise KeyError("a bug")
                return heard[-1] != b"enough"

            with stranger(zero, PAIRS[3], identity(3) + b".1") as socket:
                for message in (b"1", b"enough", b"bad"):
                    socket.send(message)
                await asyncio.wait_for(zero.transport.serve(hear), WAIT_S)
                assert heard == [b"1", b"enough"]
                with pytest.raises(KeyError, match="a bug"):
                    await asyncio.wait_for(zero.transport.serve(hear), WAIT_S)
                assert heard == [b"1", b"enough", b"bad"]
                listening = asyncio.ensure_future(zero.transport.serve(hear))
                await asyncio.sleep(0)
                with pytest.raises(ValueError, match="heard already"):
                    await zero.transport.serve(hear)
                listening.cancel()
                socket.send(b"2")
                await asyncio.sleep(0)
                assert await zero.hears() == (3, [b"2"])
                assert heard == [b"1", b"enough", b"bad"]

    asyncio.run(run())


def test_a_neighbor_that_is_not_listed_is_named() -> None:
    async def run() -> None:
        async with ends(lambda: End(0)) as (zero,):
            with pytest.raises(ConfigError, match="peer 9"):
                zero.transport.connect(9, free_addresses(1)[0])
            assert not zero.says(9, b"nobody")

    asyncio.run(run())


# ---- peers of one host ---------------------------------------------------------------------


@alone
async def test_peers_that_are_nearby_need_no_network(secure: bool) -> None:
    """A neighbor is reached by its name where nothing listens at its address."""
    addresses = free_addresses(3)
    near = nearby(addresses)
    silent = replace(near[1], names={addresses[2]: near[1].names[addresses[1]]})
    async with ends(
        lambda: End(0, secure, address=addresses[0], near=replace(near[0], names=silent.names)),
        lambda: End(1, secure, address=addresses[1], near=near[1]),
    ) as (zero, one):
        zero.transport.connect(1, addresses[2])
        one.transport.connect(0, addresses[0])
        for end, other in ((zero, 1), (one, 0)):
            assert await end.tells("up") == other
        for there, back in ((b"1", b"2"), (bytes(FRAME_BYTES), b"")):
            assert zero.says(1, there, b"")
            assert await one.hears() == (0, [there, b""])
            assert one.says(0, back, there)
            assert await zero.hears() == (1, [back, there])
        assert zero.told.empty()
        assert one.told.empty()
    near[2].open[0].close()


@alone
async def test_who_is_nearby_no_more_is_looked_for_at_its_address(secure: bool) -> None:
    """Somebody has started it anew, from another shell; also one that was gone before anybody had met it."""
    addresses = free_addresses(3)
    near = nearby(addresses)
    near[2].open[0].close()
    with patch.object(outgoing, "NAME_S", 0.2):
        async with (
            ends(lambda: End(0, secure, address=free_addresses(1)[0], near=replace(near[0], listener=None))) as (zero,),
            ends(lambda: End(2, secure, address=addresses[2])) as (two,),
        ):
            zero.transport.connect(2, addresses[2])
            assert await zero.tells("up") == 2
            assert zero.says(2, b"hello")
            assert await two.hears() == (0, [b"hello"])
        async with ends(lambda: End(0, secure, address=addresses[0], near=near[0])) as (zero,):
            zero.transport.connect(1, addresses[1])
            async with ends(lambda: End(1, secure, address=addresses[1], near=near[1])):
                assert await zero.tells("up") == 1
            assert await zero.tells("down") == 1
            async with ends(lambda: End(1, secure, address=addresses[1])) as (one,):
                assert await zero.tells("up") == 1
                assert zero.says(1, b"again")
                assert await one.hears() == (0, [b"again"])


def test_keys_count_nearby_too() -> None:
    async def run() -> None:
        (address,) = free_addresses(1)
        (near,) = nearby([address])
        async with ends(lambda: End(0, address=address, near=near)) as (zero,):
            listening = asyncio.create_task(received(zero.transport))
            for pair, name, cause in (
                (new_key_pair(), b"", "key"),
                (PAIRS[3], identity(2) + b".1", "identity"),
            ):
                with abuse.speaker(near.names[address], LIST[0], pair, name) as socket:
                    socket.send(b"let me in", zmq.NOBLOCK)
                    while (dropped := await zero.tells("drop")).cause != cause:
                        assert dropped.cause in ("key", "half-open")  # the stranger before came again
            assert not listening.done()
            listening.cancel()

    asyncio.run(run())


def test_a_host_without_such_names_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """All names, or none: what was opened before is closed again."""
    taken = nearby(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
    monkeypatch.setattr("secrets.token_hex", lambda _: taken[1].names["tcp://127.0.0.1:2"].split("-")[1])
    taken[0].open[0].close()
    descriptors = len(list(Path("/dev/fd").iterdir()))
    assert nearby(["tcp://127.0.0.1:3", "tcp://127.0.0.1:4"]) == [NOBODY, NOBODY]
    assert len(list(Path("/dev/fd").iterdir())) == descriptors
    monkeypatch.setattr("sys.platform", "darwin")
    assert nearby(["tcp://127.0.0.1:5"]) == [NOBODY]
    taken[1].open[0].close()


# ---- the list of keys ----------------------------------------------------------------------


class Listed:
    """A list of keys that changes."""

    def __init__(self) -> None:
        self.asked = 0
        self.now: Mapping[PeerId, str] | ConfigError | None = None

    def __call__(self) -> Mapping[PeerId, str] | None:
        self.asked += 1
        now, self.now = self.now, None
        if isinstance(now, ConfigError):
            raise now
        return now


def test_whoever_is_added_to_the_list_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was unknown, and one whose link had the key of its life before; a torn list changes nothing."""
    monkeypatch.setattr(sockets, "REREAD_S", 0.2)

    async def run() -> None:
        listed = Listed()
        before = {0: LIST[0], 1: LIST[1], 2: new_key_pair()[0]}
        async with ends(lambda: End(0, peers=before, reread=listed), lambda: End(2), lambda: End(3)) as (
            zero,
            two,
            three,
        ):
            zero.transport.connect(2, two.address)
            for end in (two, three):
                end.transport.connect(0, zero.address)
                await end.comes_to("refused", 0)
            with pytest.raises(ConfigError, match="peer 3"):
                zero.transport.connect(3, three.address)
            listed.now = ConfigError("public.toml", "torn")
            while (dropped := await zero.tells("drop")).cause != "list":
                assert dropped.cause in ("key", "handshake", "half-open")
            assert "torn" in str(dropped)
            listed.now = LIST
            await asyncio.gather(two.comes_to("up", 0), three.comes_to("up", 0))
            await zero.comes_to("up", 2)
            zero.transport.connect(3, three.address)
            await zero.comes_to("up", 3)
            assert two.says(0, b"I am 2")
            assert await zero.hears() == (2, [b"I am 2"])

    asyncio.run(run())


def test_the_list_is_not_read_for_everyone_who_knocks() -> None:
    async def run() -> None:
        listed = Listed()
        async with ends(lambda: End(0, reread=listed)) as (zero,):
            for _ in range(20):
                with stranger(zero, new_key_pair()):
                    while (dropped := await zero.tells("drop")).cause != "key":
                        assert dropped.cause == "half-open"  # the stranger before came again, and left in between
            assert listed.asked < 5

    asyncio.run(run())


def test_whoever_is_taken_off_the_list_makes_no_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "REREAD_S", 0.0)

    async def run() -> None:
        listed = Listed()
        async with ends(lambda: End(0, reread=listed), lambda: End(1)) as (zero, one):
            one.transport.connect(0, zero.address)
            assert await one.tells("up") == 0
            listed.now = {j: key for j, key in LIST.items() if j != 1}
            with stranger(zero, new_key_pair()):
                assert (await zero.tells("drop")).cause == "key"
            assert one.says(0, b"still here")
            assert await zero.hears() == (1, [b"still here"])
            one.transport.reconnect(0)
            assert await one.tells("refused") == 0

    asyncio.run(run())


# ---- abuse ---------------------------------------------------------------------------------


async def meanwhile(function: Callable[..., Any], *args: Any) -> Any:
    """Result of a function that blocks, called on a thread of its own."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@asynccontextmanager
async def two_that_talk(secure: bool = True) -> AsyncIterator[tuple[End, End]]:
    """Peer 0 takes in whatever comes, and hears all that peer 1 says all the time, in order."""
    async with ends(lambda: End(0, secure), lambda: End(1, secure)) as (zero, one):
        one.transport.connect(0, zero.address)
        assert await one.tells("up") == 0
        heard: list[int] = []

        async def listen() -> None:
            while True:
                sender, frames = await received(zero.transport)
                if sender == 1:
                    heard.append(int(bytes(frames[0])))

        async def talk() -> None:
            for n in range(10**9):
                assert one.says(0, b"%d" % n)
                await asyncio.sleep(0.002)

        async def goes_on() -> None:
            before = len(heard)
            while len(heard) < before + 10:
                await asyncio.sleep(0.002)

        tasks = [asyncio.create_task(one_of_them) for one_of_them in (listen(), talk())]
        try:
            yield zero, one
            await asyncio.wait_for(goes_on(), WAIT_S)
            assert heard == list(range(len(heard)))
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


@pytest.mark.parametrize("opening", abuse.LIES, ids=[str(k) for k in range(len(abuse.LIES))])
def test_what_is_no_handshake_is_counted(opening: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "HANDSHAKE_MS", 100)

    async def run() -> None:
        async with two_that_talk() as (zero, _):
            await meanwhile(abuse.lie, zero.address, opening)
            error = await zero.tells("drop")
            assert error.cause in ("handshake", "half-open")
            assert error.sender is None

    asyncio.run(run())


def test_a_thousand_connections_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "HANDSHAKE_MS", 2_000)

    async def run() -> None:
        async with two_that_talk() as (zero, one):
            crowd = await meanwhile(abuse.half_open, zero.address, 1_000, 0.005)
            two = End(2)
            two.transport.connect(0, zero.address)
            try:
                assert await two.tells("up") == 0, "a listed peer gets in as soon as they are shown out"
            finally:
                await two.transport.close()
                for end in crowd:
                    end.close()
            causes = [(await zero.tells("drop")).cause for _ in range(zero.told.qsize())]
            assert causes.count("half-open") >= door.UNHEARD
            assert causes.count("crowd") >= 1
            assert one.told.empty(), "who is in stays in"

    asyncio.run(run())


def test_whoever_floods_is_shown_out_and_may_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MESSAGES_PER_S", 1_500)
    monkeypatch.setattr(door, "BURST_MESSAGES", 2_000)
    monkeypatch.setattr(door, "PENALTY_S", 1.0)

    async def run() -> None:
        async with two_that_talk() as (zero, one):
            with stranger(zero, PAIRS[3], identity(3) + b".1") as socket:
                flooding = asyncio.create_task(meanwhile(abuse.flood, socket, [b"x", bytes(1_000)], 1.0))
                error = await zero.tells("drop")
                assert (error.cause, error.sender) == ("flood", 3)
                await flooding
            while not zero.told.empty():
                assert (await zero.tells("drop")).cause == "flood"
            three = End(3)
            three.transport.connect(0, zero.address)
            try:
                await three.comes_to("up", 0)
            finally:
                await three.transport.close()
            assert one.told.empty(), "nobody else notices"

    asyncio.run(run())


def test_a_message_of_frames_without_end_is_cut_off() -> None:
    """ZeroMQ would gather them all."""

    async def run() -> None:
        async with two_that_talk(secure=False) as (zero, one):
            seconds = 60.0
            began_s = time.monotonic()
            sent = await meanwhile(abuse.endless, zero.address, identity(3) + b".1", bytes(FRAME_BYTES // 100), seconds)
            assert time.monotonic() - began_s < seconds
            assert sent > door.UNREAD_BYTES / FRAME_BYTES
            error = await zero.tells("drop")
            assert (error.cause, error.sender) == ("flood", 3)
            assert one.told.empty()

    asyncio.run(run())


def test_a_frame_that_is_too_large_is_counted_or_closes_the_connection() -> None:
    async def run() -> None:
        async with two_that_talk() as (zero, one):
            with stranger(zero, PAIRS[3], identity(3) + b".1") as socket:
                socket.send_multipart([b"I am 3", bytes(FRAME_BYTES + 1)])
                error = await zero.tells("drop")
                assert (error.cause, error.sender) == ("oversized", 3)
                received = zero.transport.bytes_received
                socket.send_multipart([b"I am 3", bytes(SEEN * FRAME_BYTES + 1)])
                await meanwhile(abuse.comes, zmq.EVENT_DISCONNECTED, socket)
                assert zero.transport.bytes_received - received < FRAME_BYTES
            assert one.told.empty()

    asyncio.run(run())


def test_a_connection_that_is_reset_before_it_was_read() -> None:
    """With a full queue the library would end the whole process."""

    async def run() -> None:
        async with ends(lambda: End(0, secure=False), lambda: End(1, secure=False)) as (zero, one):
            await meanwhile(abuse.reset_while_unread, zero.address, identity(3) + b".1")  # nobody reads meanwhile
            one.transport.connect(0, zero.address)
            assert await one.tells("up") == 0
            assert one.says(0, b"still there?")
            while (heard := await zero.hears())[0] == 3:
                assert heard[1] == [b"hi"]
            assert heard == (1, [b"still there?"])

    asyncio.run(run())


@alone
async def test_what_comes_back_over_a_link_is_dropped(secure: bool) -> None:
    """A neighbor that answers where nothing is expected fills no memory, and cannot make libzmq stop."""
    async with ends(lambda: End(0, secure)) as (zero,):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as neighbor:
            neighbor.setsockopt(zmq.LINGER, 0)
            neighbor.setsockopt(zmq.SNDHWM, 0)
            if secure:
                neighbor.setsockopt(zmq.CURVE_SERVER, 1)
                neighbor.setsockopt(zmq.CURVE_SECRETKEY, PAIRS[1][1].encode())
            port = neighbor.bind_to_random_port("tcp://127.0.0.1")
            zero.transport.connect(1, f"tcp://127.0.0.1:{port}")
            assert await zero.tells("up") == 1
            assert zero.says(1, b"hello")
            name, _ = await meanwhile(neighbor.recv_multipart)
            for _ in range(1_000):
                neighbor.send_multipart([name, b"what", b"else?"])
            for _ in range(1_000):
                error = await zero.tells("drop")
                assert (error.cause, error.sender) == ("unasked", 1)
            assert zero.says(1, b"bye")
            assert await meanwhile(neighbor.recv_multipart) == [name, b"bye"]


def test_room_for_as_many_neighbors_as_are_expected() -> None:
    """The hub of a star has more links than libzmq has sockets for, unless it is asked."""
    n_links = 400

    async def connected(expected: int) -> int:
        async with ends(lambda: End(0, secure=False, n_links=expected)) as (hub,):
            for n_done in range(n_links):
                try:
                    hub.transport.connect(1 + n_done, "tcp://127.0.0.1:9")
                except OSError:
                    return n_done
        return n_links

    assert asyncio.run(connected(n_links)) == n_links
    assert asyncio.run(connected(0)) < n_links
