"""Who may come in, and who is shown out."""

from __future__ import annotations

import resource
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from peer import door
from peer.door import Bucket, Door, check_descriptors
from peer.errors import ConfigError, RemoteError

LISTED = 3
FRAME_BYTES = 1_000
MOST = door.UNREAD_BYTES + door.UNREAD_FRAMES * FRAME_BYTES
linux = pytest.mark.skipif(sys.platform != "linux", reason="what the system says of a connection, only Linux does")


class Guarded:
    """A listening socket, the connections to it, and a door that is told of them."""

    def __init__(self) -> None:
        self.dropped: list[RemoteError] = []
        self.door = Door(LISTED, FRAME_BYTES, self.dropped.append)
        self.exits = ExitStack()
        self.listener = self.exits.enter_context(socket.create_server(("127.0.0.1", 0), backlog=500))
        self.door.listens(self.listener.fileno())

    def connect(self, now: float = 0.0) -> tuple[socket.socket, socket.socket]:
        """A connection: its far end, and its near one."""
        far = self.exits.enter_context(socket.create_connection(self.listener.getsockname(), timeout=20))
        near, _ = self.listener.accept()
        self.exits.enter_context(near)
        self.door.opened(near.fileno(), now)
        return far, near

    @staticmethod
    def comes(far: socket.socket, near: socket.socket, n_bytes: int) -> None:
        """So many bytes come over a connection."""
        for start in range(0, n_bytes, 1 << 16):
            part = min(1 << 16, n_bytes - start)
            far.sendall(bytes(part))
            assert len(near.recv(part, socket.MSG_WAITALL)) == part

    @property
    def causes(self) -> Counter[tuple[str, int | None]]:
        return Counter((error.cause, error.sender) for error in self.dropped)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    there = Guarded()
    with there.exits:
        yield there


@contextmanager
def open_still(far: socket.socket, near: socket.socket) -> Iterator[None]:
    """Assert that a connection is open, and goes on being so."""
    yield
    near.sendall(b"x")
    assert far.recv(1) == b"x"


def test_a_bucket_gives_what_has_come_in() -> None:
    bucket = Bucket(per_s=2.0, most=3.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(now) for now in (10.4, 10.5, 10.6)] == [False, True, False]
    assert [bucket.take(1_000.0) for _ in range(4)] == [True, True, True, False], "no more than it holds"


def test_messages_in_excess_are_dropped_and_their_key_is_refused_for_a_while(guarded: Guarded) -> None:
    far, near = guarded.connect()
    assert guarded.door.admits(1, 0.0)
    assert all(guarded.door.hears(near.fileno(), 1, 1, 0.0) for _ in range(door.BURST_MESSAGES))
    assert not guarded.dropped
    assert not guarded.door.hears(near.fileno(), 1, 1, 0.0)
    assert far.recv(1) == b"", "the connection is closed"
    assert guarded.causes == {("flood", 1): 1}
    assert not guarded.door.admits(1, door.PENALTY_S / 2)
    assert guarded.door.admits(2, door.PENALTY_S / 2)
    assert guarded.door.admits(1, door.PENALTY_S)
    assert guarded.causes == {("flood", 1): 2}


def test_whoever_sends_nothing_of_use_is_cut_off_much_sooner(guarded: Guarded) -> None:
    far, near = guarded.connect()
    good = guarded.connect()
    assert guarded.door.admits(1, 0.0)
    for _, end in ((far, near), good):
        assert guarded.door.hears(end.fileno(), 1, 1, 0.0)
    for n in range(2 * door.BURST_USELESS):
        guarded.door.blames(good[1].fileno(), n / door.USELESS_PER_S)
    for _ in range(door.BURST_USELESS):
        guarded.door.blames(near.fileno(), 0.0)
    assert not guarded.dropped
    for _ in range(3):
        guarded.door.blames(near.fileno(), 0.0)
    assert guarded.causes == {("flood", 1): 1}
    assert far.recv(1) == b""
    assert not guarded.door.admits(1, door.PENALTY_S / 2)
    with open_still(*good):
        guarded.door.blames(10**6, 0.0)


def test_what_a_rate_allows_is_never_dropped(guarded: Guarded) -> None:
    _, near = guarded.connect()
    for n in range(3 * door.BURST_MESSAGES):
        assert guarded.door.hears(near.fileno(), 1, 1, n / door.MESSAGES_PER_S)


def test_a_key_may_not_connect_again_and_again(guarded: Guarded) -> None:
    assert [guarded.door.admits(1, 0.0) for _ in range(door.BURST_HANDSHAKES + 1)][-2:] == [True, False]
    assert guarded.door.admits(2, 0.0)
    assert guarded.door.admits(1, 1.0)
    assert guarded.causes == {("flood", 1): 1}


def test_of_more_connections_than_a_peer_may_have_the_oldest_is_closed(guarded: Guarded) -> None:
    ends = [guarded.connect(float(k)) for k in range(door.CONNECTIONS)]
    for _, near in ends:
        assert guarded.door.hears(near.fileno(), 1, 1, 9.0)
    _, other = guarded.connect(9.0)
    assert guarded.door.hears(other.fileno(), 2, 1, 9.0)
    with open_still(*ends[0]):
        assert not guarded.dropped
    _, newest = guarded.connect(10.0)
    assert guarded.door.hears(newest.fileno(), 1, 1, 10.0)
    assert guarded.causes == {("flood", 1): 1}
    assert ends[0][0].recv(1) == b""
    with open_still(*ends[1]):
        pass


def test_a_connection_that_ends_before_its_first_message_counts_once(guarded: Guarded) -> None:
    _, timed_out = guarded.connect()
    guarded.door.failed(RemoteError("half-open", "no handshake"))
    guarded.door.closed(timed_out.fileno())
    _, refused = guarded.connect()
    guarded.door.failed(None)
    guarded.door.closed(refused.fileno())
    _, http = guarded.connect()
    guarded.door.closed(http.fileno())
    _, good = guarded.connect()
    assert guarded.door.hears(good.fileno(), 1, 1, 0.0)
    guarded.door.closed(good.fileno())
    assert guarded.causes == {("half-open", None): 1, ("handshake", None): 1}
    assert not any(guarded.door.knows(end.fileno()) for end in (timed_out, refused, http, good))


def test_a_silent_connection_is_closed_and_counts_once(guarded: Guarded) -> None:
    far, near = guarded.connect()
    spoken = guarded.connect()
    assert guarded.door.hears(spoken[1].fileno(), 1, 1, 0.0)
    with open_still(far, near):
        guarded.door.look(door.SILENT_S, all_read=True)
    for _ in range(3):
        guarded.door.look(door.SILENT_S + 0.1, all_read=True)
    assert far.recv(1) == b""
    with open_still(*spoken):
        guarded.door.closed(near.fileno())
    assert guarded.causes == {("half-open", None): 1}


@linux
@pytest.mark.parametrize("heard", [True, False])
def test_a_message_without_an_end_is_cut_off(heard: bool, guarded: Guarded) -> None:
    far, near = guarded.connect()
    assert guarded.door.admits(1, 0.0)
    if heard:
        guarded.comes(far, near, 100)
        assert guarded.door.hears(near.fileno(), 1, 100, 0.0)
        guarded.door.look(1.0, all_read=True)
        guarded.door.look(1.5, all_read=True)
    guarded.comes(far, near, MOST)
    with open_still(far, near):
        guarded.door.look(2.0, all_read=True)
    guarded.comes(far, near, 1)
    guarded.door.look(3.0, all_read=True)
    assert guarded.causes == {("flood", 1 if heard else None): 1}
    assert far.recv(1) == b""
    assert guarded.door.admits(1, 3.0) is not heard


@linux
def test_whoever_brings_more_than_is_read_is_cut_off_before_the_next_look(guarded: Guarded) -> None:
    far, near = guarded.connect()
    guarded.comes(far, near, MOST)
    for _ in range(10):
        guarded.comes(far, near, 1_000)
        assert guarded.door.hears(near.fileno(), 1, 1_000, 1.0)
        guarded.door.check(near.fileno(), 1.0)
    with open_still(far, near):
        guarded.door.look(2.0, all_read=False)
    guarded.comes(far, near, 1)
    guarded.door.check(near.fileno(), 2.0)
    assert guarded.causes == {("flood", 1): 1}
    assert far.recv(1) == b""


@linux
def test_all_that_a_resumed_peer_has_missed_may_come_at_once(guarded: Guarded) -> None:
    far, near = guarded.connect()
    guarded.door.catch_up_bytes = 3_000_000
    guarded.comes(far, near, MOST + 3_000_000)
    guarded.door.check(near.fileno(), 1.0)
    with open_still(far, near):
        assert not guarded.dropped
    guarded.comes(far, near, 1)
    guarded.door.check(near.fileno(), 2.0)
    assert guarded.causes == {("flood", None): 1}


@linux
def test_whoever_is_read_may_bring_any_number_of_bytes(guarded: Guarded) -> None:
    far, near = guarded.connect()
    for n in range(50):
        guarded.comes(far, near, MOST // 2)
        assert guarded.door.hears(near.fileno(), 1, MOST // 2 - 100, 1.0 * n)
        guarded.door.check(near.fileno(), 1.0 * n)
        if n % 7 == 0:
            guarded.door.look(1.0 * n, all_read=True)
    with open_still(far, near):
        assert not guarded.dropped


@linux
def test_who_comes_in_a_crowd_waits_outside(guarded: Guarded) -> None:
    """The kernel ignores whoever connects, and nobody who is in."""
    crowd = [guarded.connect() for _ in range(door.UNHEARD + LISTED - 1)]
    assert not guarded.door.is_shut
    crowd.append(guarded.connect())
    assert guarded.door.is_shut
    with socket.socket() as late:
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(guarded.listener.getsockname())
    with open_still(*crowd[0]):
        pass
    for _, near in crowd[: len(crowd) // 2 + 2]:
        assert guarded.door.is_shut
        guarded.door.failed(RemoteError("half-open", "no handshake"))
        guarded.door.closed(near.fileno())
    assert not guarded.door.is_shut
    guarded.connect()
    assert guarded.causes["crowd", None] == 1


def test_nothing_is_done_to_a_descriptor_that_is_no_socket(guarded: Guarded) -> None:
    with open(__file__, "rb") as file:  # noqa: PTH123  (a descriptor that is none of a socket)
        guarded.door.opened(file.fileno(), 0.0)
        guarded.door.look(100.0, all_read=True)
        guarded.door.cut(file.fileno())
        assert file.read(3) == b'"""'
    guarded.door.cut(10**6)
    assert guarded.door.hears(10**6, 1, 1, 0.0), "what was on its way when its connection closed"


def test_descriptors_are_counted_before_they_are_needed() -> None:
    """The soft limit is raised where it may be; nothing is said of a limit that is far."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    check_descriptors(10, "a peer")
    with pytest.raises(
        ConfigError, match=r"^ulimit -n: expected \d+ more descriptors for a fleet, found \d+ of \d+ left$"
    ):
        check_descriptors(2 * max(soft, min(hard, door.DESCRIPTORS)), "a fleet")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        check_descriptors(10, "a peer")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, door.DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
