"""The connections that others have made to this peer: how many, whose, and how much comes over each.

ZeroMQ bounds neither the connections that strangers open, nor the frames of one message, nor what
a listed peer sends; its high-water mark for receiving must not be used: libzmq 4.3.5 ends the whole
process (`!_io_error`) when a connection that it has stopped reading for a full queue is reset, and
a ping is due. So this bounds it all; but for the bytes that come over Unix sockets, which the kernel
does not count: those who are let in there are processes of this user. It knows no ZeroMQ: the
transport tells what happened to which descriptor, and asks whether a key and a message may come in.
A connection is closed here by shutting down its descriptor, which the library then finds closed by
the other side; were the descriptor another connection's by then, that one would only be made anew.

How many descriptors strangers can hold: a connection is unheard until its first message. When
too many are, the kernel is told to ignore whoever else wants to connect, and an unheard one lasts
HANDSHAKE_MS of `peer.transport` without a handshake, or SILENT_S with one. Whoever ignored is tries
again by itself.
"""

from __future__ import annotations

import ctypes
import resource
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from peer.errors import ConfigError, RemoteError
from topology import PeerId

UNHEARD: Final = 100
"""Connections, beside one for each listed peer, that may be unheard at a time. One costs a descriptor and some 20 kB
until its handshake is over or given up; a fleet that starts needs one for each neighbor."""

SILENT_S: Final = 15.0
"""A connection over which no message has come by then is closed: whoever connects here says hello at once."""

CONNECTIONS: Final = 4
"""Of one peer, at a time: its link, and those of its lives before that the network has not told of yet."""

MESSAGES_PER_S: Final = 10_000
"""Over one connection, for long. Rounds without any mathematics make 2,000 a second where this was measured; whoever
is cut off by mistake, on a much faster host, is only held up: its neighbors send again what it lacks."""

BURST_MESSAGES: Final = 20_000
"""Over one connection, at once: more than all that a peer catches up after a crash."""

USELESS_PER_S, BURST_USELESS = 1_000, 5_000
"""Messages over one connection that had to be dropped. Of a peer that behaves they are shares that come twice after a
link broke, or flows: those are at most a thousand a second, see `peer.pace`, and all late in a bad network. Whoever
sends more has nothing else in mind; and a slow host cannot read so many that MESSAGES_PER_S would tell."""

PENALTY_S: Final = 5.0
"""How long a key that sent too much is refused: less than the patience of any run, more than what it took."""

HANDSHAKES_PER_S, BURST_HANDSHAKES = 5, 20
"""Of one key: a link that breaks is made anew at most once a second, a process started again now and then."""

UNREAD_FRAMES, UNREAD_BYTES = 16, 2_000_000
"""Largest frames, and bytes beside, that may have come over a connection and not have been read, as parts of a message
that is not whole, or while this process did something else. A message has three; what a peer catches up after a crash
may come at once, and counts beside, for it may come faster than it is read."""

LOOK_S: Final = 0.25
"""Between two looks at what comes over the connections: what a fast line can bring meanwhile fits any host."""

TOGETHER: Final = 64
"""Peers of one fork that look so often; of more of them, all together no oftener: a thousand would else take a third of
two processors for it. What can come meanwhile comes from each other: others have no key. Handshakes get more time then,
too: those of all begin at once."""

UNKNOWN: Final = -1
"""Bytes that had come over a connection when it was last seen that all were read, if nobody has asked since."""

OWN_DESCRIPTORS: Final = 25
"""That a peer needs beside those it starts with: the event loop's, ZeroMQ's, its files, one of them being replaced. 19
were counted; the others are for whoever connects again before its last connection has ended."""

LINK_DESCRIPTORS: Final = 5
"""That a peer needs for each neighbor: a connection each way, and three of ZeroMQ's."""

DESCRIPTORS: Final = 65_536
"""That this process asks the system for, if it may have so many: enough for any fleet, and less than any table."""

IGNORE_ALL: Final = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
"""A packet filter of Linux, "return 0": what comes to a listening socket is as if it had got lost."""

ATTACH_FILTER, DETACH_FILTER = 26, 27
"""Options of sockets on Linux that the module `socket` has no names for."""

BYTES_RECEIVED_AT: Final = 128
"""Where `struct tcp_info` of Linux has the count of bytes received."""


@final
class Bucket:
    """Tokens that come at a rate, up to a number, and are taken one by one.

    Parameters
    ----------
    per_s : float
    most : float
        It starts full.
    now : float
        Seconds, on any clock.
    """

    __slots__ = ("_last_s", "_most", "_per_s", "_tokens")

    def __init__(self, per_s: float, most: float, now: float) -> None:
        self._per_s, self._most, self._tokens, self._last_s = per_s, most, most, now

    def take(self, now: float) -> bool:
        """Take a token; False if there is none."""
        self._tokens = min(self._most, self._tokens + (now - self._last_s) * self._per_s)
        self._last_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@final
@dataclass(eq=False, slots=True)
class _Connection:
    """One that was accepted, and has not ended yet.

    Parameters
    ----------
    since_s : float
        When that was.
    bucket : Bucket
        Messages that it may bring still.
    useless : Bucket
        Those of no use that it may bring still.
    sender : int or None
        Whose it is, if it is `heard`.
    heard : bool
        It has brought a message.
    spoke : bool
        It has brought one since the last look.
    base : int
        Bytes that had come over it when all were read, or UNKNOWN.
    read : int
        Bytes of the messages that were read since.
    cut : bool
        It was ended here, and is closed soon.
    """

    since_s: float
    bucket: Bucket
    useless: Bucket
    sender: PeerId | None = None
    heard: bool = False
    spoke: bool = False
    base: int = 0
    read: int = 0
    cut: bool = False


@final
@dataclass(eq=False)
class Door:
    """Who is in, and who may come in.

    Parameters
    ----------
    n_listed : int
        Peers that may connect.
    max_frame_bytes : int
        Of a message's frame.
    drop : callable
        Called with what was dropped: connections that said nothing ("half-open") or something else
        ("handshake"), that there were too many of these ("crowd"), and whoever sent too much ("flood").

    Attributes
    ----------
    catch_up_bytes : int
        That may come over a connection at once for a peer that was resumed: all that it may have missed.
    """

    n_listed: int
    max_frame_bytes: int
    drop: Callable[[RemoteError], None]
    is_shut: bool = field(default=False, init=False)
    catch_up_bytes: int = field(default=0, init=False)
    _listener: int | None = field(default=None, init=False)
    _connections: dict[int, _Connection] = field(default_factory=dict, init=False)
    _unheard: set[int] = field(default_factory=set, init=False)
    _handshakes: dict[PeerId, Bucket] = field(default_factory=dict, init=False)
    _refused_until_s: dict[PeerId, float] = field(default_factory=dict, init=False)
    _failing: bool = field(default=False, init=False)

    # ---- connections -----------------------------------------------------------------------

    def listens(self, fd: int) -> None:
        """Others connect to this descriptor; at a Unix socket there are no strangers, see `peer.transport.nearby`."""
        with _borrowed(fd) as listener:
            if listener.family != socket.AF_UNIX:
                self._listener = fd

    def opened(self, fd: int, now: float) -> None:
        """A connection was accepted; of one with this descriptor before, nothing is left."""
        messages, useless = Bucket(MESSAGES_PER_S, BURST_MESSAGES, now), Bucket(USELESS_PER_S, BURST_USELESS, now)
        self._connections[fd] = _Connection(now, messages, useless)
        self._unheard.add(fd)
        self._shut_or_open()

    def failed(self, error: RemoteError | None) -> None:
        """The connection that is reported closed next did not come through its handshake; None: that was counted."""
        self._failing = True
        if error is not None:
            self.drop(error)

    def closed(self, fd: int) -> None:
        """A connection is no more."""
        failing, self._failing = self._failing, False
        connection = self._connections.pop(fd, None)
        if fd in self._unheard:
            self._unheard.remove(fd)
            if not failing and connection is not None and not connection.cut:
                self.drop(RemoteError("handshake", "a connection that speaks something else, or closed without a word"))
            self._shut_or_open()

    def knows(self, fd: int) -> bool:
        """Whether a connection with this descriptor is open."""
        return fd in self._connections

    # ---- what comes in ---------------------------------------------------------------------

    def admits(self, sender: PeerId, now: float) -> bool:
        """Whether a connection with the key of a listed peer may be made now."""
        bucket = self._handshakes.setdefault(sender, Bucket(HANDSHAKES_PER_S, BURST_HANDSHAKES, now))
        if now < self._refused_until_s.get(sender, now):
            self.drop(RemoteError("flood", f"it is refused for {PENALTY_S:g} s, for it sent too much", sender))
            return False
        if not bucket.take(now):
            self.drop(RemoteError("flood", f"it connects more than {HANDSHAKES_PER_S} times a second", sender))
            return False
        return True

    def hears(self, fd: int, sender: PeerId | None, n_bytes: int, now: float) -> bool:
        """Whether a message of so many bytes is to be taken; False: it is dropped, for its sender sends too much."""
        connection = self._connections.get(fd)
        if connection is None:  # it is closed already, and this was on its way
            return True
        connection.spoke = True
        connection.read += n_bytes
        if not connection.heard:
            connection.heard, connection.sender = True, sender
            self._unheard.discard(fd)
            self._shut_or_open()
            if sender is not None:
                self._close_oldest_of(sender)
        if not connection.bucket.take(now):
            self.refuse(fd, sender, f"more than {MESSAGES_PER_S} messages a second for long", now)
            return False
        return True

    def blames(self, fd: int, now: float) -> None:
        """A message that has come over a connection was of no use, and was counted as that."""
        connection = self._connections.get(fd)
        if connection is not None and not connection.useless.take(now) and not connection.cut:
            self.refuse(fd, connection.sender, f"more than {USELESS_PER_S} messages of no use a second for long", now)

    def refuse(self, fd: int, sender: PeerId | None, problem: str, now: float) -> None:
        """Count a message in excess, end its connection, and let its key wait before the next."""
        self.drop(RemoteError("flood", problem, sender))
        if sender is not None and sender in self._handshakes:
            self._refused_until_s[sender] = now + PENALTY_S
        self.cut(fd)

    def cut(self, fd: int) -> None:
        """End a connection."""
        connection = self._connections.get(fd)
        if connection is not None and not connection.cut:
            connection.cut = True
            with suppress(OSError), _borrowed(fd) as end:
                end.shutdown(socket.SHUT_RDWR)

    def _close_oldest_of(self, sender: PeerId) -> None:
        its = [fd for fd, one in self._connections.items() if one.sender == sender and not one.cut]
        if len(its) > CONNECTIONS:
            self.drop(RemoteError("flood", f"more than {CONNECTIONS} connections", sender))
            self.cut(min(its, key=lambda fd: self._connections[fd].since_s))

    def look(self, now: float, all_read: bool) -> None:
        """Look at all connections, every LOOK_S: end those that are silent, or bring more than is read.

        Parameters
        ----------
        now : float
            Seconds.
        all_read : bool
            No whole message waits: what came over a connection since its last one is part of the next.
        """
        for fd, connection in list(self._connections.items()):
            if not connection.heard and not connection.cut and now - connection.since_s > SILENT_S:
                self.drop(RemoteError("half-open", f"a connection over which nothing was said for {SILENT_S:g} s"))
                self.cut(fd)
            elif connection.spoke and all_read:
                connection.spoke, connection.base, connection.read = False, UNKNOWN, 0
            else:
                self.check(fd, now)
        self._shut_or_open()

    def check(self, fd: int, now: float) -> None:
        """End a connection that has brought more than is read."""
        connection = self._connections.get(fd)
        if connection is None or connection.cut:
            return
        received, most = _bytes_received(fd), UNREAD_BYTES + UNREAD_FRAMES * self.max_frame_bytes + self.catch_up_bytes
        if connection.base == UNKNOWN:
            connection.base, connection.read = received, 0
        elif received - connection.base - connection.read > most:
            self.refuse(fd, connection.sender, "more than can be read, or a message without an end", now)

    # ---- the listening socket --------------------------------------------------------------

    def _shut_or_open(self) -> None:
        """Ignore new connections, or no more; shut and open at different numbers, so that this is seldom."""
        most = UNHEARD + self.n_listed
        shut = len(self._unheard) >= (most // 2 if self.is_shut else most)
        if shut == self.is_shut or self._listener is None or sys.platform != "linux":
            return
        with suppress(OSError), _borrowed(self._listener) as listener:
            if shut:
                program = struct.pack("HP", 1, ctypes.addressof(IGNORE_ALL))
                listener.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, program)
                self.drop(RemoteError("crowd", f"{len(self._unheard)} connections say nothing: no more for now"))
            else:
                listener.setsockopt(socket.SOL_SOCKET, DETACH_FILTER, 0)
            self.is_shut = shut


class _borrowed:  # noqa: N801  (used as a function)
    """A descriptor as a socket, which stays open."""

    def __init__(self, fd: int) -> None:
        self._end = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._end

    def __exit__(self, *_: object) -> None:
        self._end.detach()


def _bytes_received(fd: int) -> int:
    """Bytes that have come over a connection; 0 where the system does not say, as of one nearby."""
    if sys.platform == "linux":
        with suppress(OSError, struct.error), _borrowed(fd) as end:
            info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED_AT + 8)
            return int(struct.unpack_from("Q", info, BYTES_RECEIVED_AT)[0])
    return 0


def slack(n_peers: int) -> float:
    """How many times as long all that a clock bounds may take each of so many peers that share a host."""
    return max(1.0, n_peers / TOGETHER)


def check_descriptors(needed: int, what: str) -> None:
    """See to it that this process may open so many descriptors more; ZeroMQ would end it where it cannot.

    Raises
    ------
    ConfigError
        It may not.
    """
    ask_for_descriptors()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    try:
        left = soft - len(list(Path("/dev/fd").iterdir())) + 1  # one of them is that of the listing
    except FileNotFoundError:
        return
    except OSError:
        left = 0
    if left < needed:
        raise ConfigError("ulimit -n", f"expected {needed} more descriptors for {what}, found {left} of {soft} left")


def ask_for_descriptors() -> None:
    """Let this process open as many descriptors as it may, for all that is within DESCRIPTORS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
