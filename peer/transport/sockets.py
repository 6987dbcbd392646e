"""Frames between this process and its neighbors over ZeroMQ.

One ROUTER, bound, receives from all; one DEALER a neighbor sends. Connections are CURVE-encrypted,
and a key is bound to its peer's id: libzmq asks the small ZAP server here for every connection,
and stamps each frame with the id it answers. A ROUTER gives a connection up for a newer one of
the same name, so each link has a name that only its two ends know: else any listed peer could
cut the others' connections by taking theirs.

Everything runs in the event loop of `peer.process`. Sockets' descriptors are edge-triggered, so
a socket is always read until it is empty. What has come is handed on from the loop's callback itself:
a task that is woken for every message costs more than a small message does. So does a frame: the frames of a small
message go as one, `[JOINT, their number, their lengths, they themselves]`, and are taken apart on arrival.

libzmq would look names up on its one thread for all traffic, and hold up every neighbor for as
long as a name server is silent, and take the first address only. So names are looked up here, on
threads of their own, again and again while a neighbor is not connected: one that has moved is
found, and of several addresses each is tried.

Transports of several agents in one process share a context, and with it the one thread for all their traffic; links
between them are those of `peer.local_links`, as long as both ends are there.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, TypeAlias, cast, final

import zmq

from peer import memory
from peer.door import LOOK_S, Door, ask_for_descriptors
from peer.errors import ConfigError, RemoteError, WireError
from peer.local_links import End
from peer.transport.frames import Packed, parted, receive_now, send_now
from peer.transport.hub import Hub
from peer.transport.keys import Keys, claimed_by, identity, link_name, owners, peer_of
from peer.transport.limits import (
    ANSWER_BYTES,
    CONNECT_MS,
    CURVE_BYTES,
    FRAME_BYTES,
    HANDSHAKE_MS,
    HEARTBEAT_MS,
    LINGER_MS,
    QUEUE_MESSAGES,
    RECONNECT_MS,
    SEEN,
    SLOWEST_BYTES_PER_S,
)
from peer.transport.places import host_and_port, is_loopback, is_named, look_up
from peer.transport.watched import WATCH, WATCHED_LINGER_MS, WATCHED_MESSAGES, limit_watching
from peer.wire import Frame
from topology import PeerId

NAME_S: Final = 4.0
"""How long one address of a name is tried before the next, or before the name is looked up again: an attempt to
connect, the longest pause, and no more, so that a neighbor that has moved is soon found."""

LOOKUPS: Final = 32
"""Names that are looked up at once; a silent name server holds up each for 10 s, but nothing else."""

IN_A_ROW: Final = 64
"""Messages that are taken before everything else in the event loop gets its turn: a millisecond or two. Else
whoever sends faster than this peer reads would hold up its clock, its signals and its other threads' results."""

TRIM_S: Final = 1.0
"""After a connection was cut off for sending too much: what had come over it is read, or given up, by then."""

REREAD_S: Final = 1.0
"""Between two looks at the list of keys: whoever is refused tries again after RECONNECT_MS, and strangers by the
thousand cost no more than one."""

ARRIVALS: Final = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""What is heard of connections that others make."""

MONITORS: Final = count()
"""Numbers for their names, which no two of a context may share."""

Hear: TypeAlias = Callable[[PeerId, list[Frame]], bool]
"""Takes a message and whose it is: the peer that its key (or, in the clear, its link's name) stands for. It says
whether to go on."""


class Transport:
    """Sends to neighbors, receives from anybody allowed.

    Parameters
    ----------
    me : int
        This peer.
    keys : Keys or None
        None talks in the clear, which `peer.config` allows on loopback only.
    max_frame_bytes : int
        A larger frame closes the connection it came over.
    on_connect, on_disconnect : callable
        Called with a neighbor whose connection, outwards, comes up after a handshake, or breaks
        after it was up.
    on_refusal : callable
        Called with a neighbor that refuses this peer's key.
    on_drop : callable
        Called with what was dropped here, for being what it is (its `cause`): a connection with a
        key that is not on the list ("key"); a message whose id is not that of its key ("identity"),
        or that has a larger frame than there is ("oversized"); and what `peer.door` drops.
    on_writable : callable or None
        Called with a neighbor whose link has room again, after `send` or `writable` found none; may
        come just before `on_connect`.
    queue_messages : int
        Messages that may wait for one neighbor, on this side. `send` refuses those beyond it.
    hub : Hub or None
        What it shares with others in this process, and does not close; None: with nobody.
    slack : float
        How many times as long as else a handshake may take, and the pause between two looks at what comes over all
        connections: see `door.slack`.

    Raises
    ------
    OSError
        The host has no descriptors left for the sockets.
    """

    def __init__(
        self,
        me: PeerId,
        keys: Keys | None,
        max_frame_bytes: int,
        on_connect: Callable[[PeerId], None],
        on_disconnect: Callable[[PeerId], None],
        on_refusal: Callable[[PeerId], None],
        on_drop: Callable[[RemoteError], None],
        on_writable: Callable[[PeerId], None] | None = None,
        queue_messages: int = QUEUE_MESSAGES,
        hub: Hub | None = None,
        slack: float = 1.0,
    ) -> None:
        self._me = me
        self._keys = keys
        self._max_frame_bytes = max_frame_bytes
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_refusal = on_refusal
        self._on_drop = on_drop
        self._on_writable = on_writable
        self._queue_messages = queue_messages
        self._slack = slack
        self._loop = asyncio.get_running_loop()
        self._is_alone = hub is None
        self._hub = Hub() if hub is None else hub
        self._context = self._hub.context
        self._links: dict[PeerId, _Link] = {}
        self._inside: dict[PeerId, str] = {}
        self._moving: dict[PeerId, asyncio.TimerHandle] = {}
        self._publisher: zmq.Socket[bytes] | None = None
        self._up: set[PeerId] = set()
        self._full: set[PeerId] = set()
        self._endpoints: dict[PeerId, str] = {}
        self._searches: dict[PeerId, asyncio.Task[None]] = {}
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="names")
        self._hear: Hear | None = None
        self._served: asyncio.Future[None] = self._loop.create_future()
        self._pausing = self._woken = False
        self._in_a_row = 0
        self._last_fd = -1
        self._trimming: asyncio.TimerHandle | None = None
        self._door = Door(0 if keys is None else len(keys.peers), max_frame_bytes, self._turned_away)
        ask_for_descriptors()
        self._next_reread_s = -math.inf
        self._ids = owners(keys)
        self._local = End(
            me,
            self._hub.room,
            queue_messages,
            self._wake,
            on_connect,
            on_disconnect,
            on_writable if on_writable is not None else lambda j: None,
            self._moved_out,
        )
        try:
            if keys is not None:
                self._hub.answer(self._domains, self._asked)
            self._router = self._receiver()
            self._arrivals = self._monitor(self._router, ARRIVALS)
        except zmq.ZMQError as error:
            self._hub.stop_answering(self._domains)
            if self._is_alone:
                self._context.destroy(0)
            raise OSError(error.errno, error.strerror) from error
        self._loop.add_reader(self._arrivals.FD, self._watch_arrivals)
        self._looking = self._loop.call_soon(self._look)
        self.bytes_sent = 0
        self.bytes_received = 0

    def _receiver(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        self._limit(router)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if self._keys is not None:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            router.setsockopt(zmq.ZAP_DOMAIN, identity(self._me))
        self._loop.add_reader(router.FD, self._drain)
        return router

    def _monitor(self, end: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        """A socket that tells what happens to another.

        It takes all that there is to tell: a full one would hold up the thread of libzmq, and with
        it all traffic, until it is read.
        """
        name = f"inproc://monitor-{next(MONITORS)}"
        end.monitor(name, events)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(name)
        return monitor

    def _limit(self, end: zmq.Socket[bytes]) -> None:
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.MAXMSGSIZE, SEEN * self._max_frame_bytes + CURVE_BYTES),
            (zmq.HANDSHAKE_IVL, math.ceil(HANDSHAKE_MS * self._slack)),
            (zmq.CONNECT_TIMEOUT, CONNECT_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT_MS + 1_000 * self._max_frame_bytes // SLOWEST_BYTES_PER_S),
            (zmq.TCP_MAXRT, 2 * HEARTBEAT_MS),  # pings that are not even received close it in any case
            (zmq.SNDHWM, QUEUE_MESSAGES),
            (zmq.RCVHWM, 0),  # see `peer.door`, which bounds what comes
            (zmq.IPV6, 1),
        ):
            end.setsockopt(option, value)

    # ---- connections -----------------------------------------------------------------------

    def bind(self, address: str, listener: socket.socket | None = None) -> None:
        """Listen on an address, or on a socket that listens there already.

        Raises
        ------
        ConfigError
            The address cannot be bound; a port in use is named.
        """
        if listener is not None:
            self._router.setsockopt(zmq.USE_FD, listener.detach())
        try:
            self._router.bind(address)
        except zmq.ZMQError as error:
            busy = f"; is another peer with id {self._me} running?" if error.errno == zmq.EADDRINUSE else ""
            problem = f"cannot listen on {address}: {error.strerror}{busy}"
            raise ConfigError("transport.addresses", problem) from error
        self._local.open()

    def connect(self, j: PeerId, address: str) -> None:
        """Keep a connection to neighbor j, from now on.

        Raises
        ------
        ConfigError
            The address is none, or peer j has no key on the list.
        OSError
            The host has no descriptors left for it; nothing has changed.
        """
        if j in self._links or j in self._inside:
            raise ValueError(f"peer {j} is connected already")
        if self._keys is not None and j not in self._keys.peers:
            self._reread()
            if j not in self._keys.peers:
                raise ConfigError("transport.keys", f"expected a key for peer {j}, found none")
        if self._local.connect(j):
            self._inside[j] = address
            return
        try:
            dealer = self._context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        self._limit(dealer)
        dealer.setsockopt(zmq.SNDHWM, self._queue_messages)
        dealer.setsockopt(zmq.MAXMSGSIZE, ANSWER_BYTES)
        dealer.setsockopt(zmq.ROUTING_ID, link_name(self._me))
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
        key = ""
        if self._keys is not None:
            key = self._keys.peers[j]
            dealer.setsockopt(zmq.CURVE_SERVERKEY, key.encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public.encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        try:
            link = _Link(address, key, dealer, self._monitor(dealer, events))
        except zmq.ZMQError as error:
            dealer.close(0)
            raise OSError(error.errno, error.strerror) from error
        self._links[j] = link
        self._loop.add_reader(link.monitor.FD, self._watch, j, link)
        self._loop.call_soon(self._watch, j, link)  # a first look arms the descriptor; later, when the caller is ready
        self._loop.add_reader(dealer.FD, self._look_at_link, j)
        try:
            if is_named(address):
                host_and_port(address)
                self._search(j)
            else:
                self._point(j, address)
        except (zmq.ZMQError, ValueError) as error:
            raise ConfigError("transport.addresses", f"{address!r} is no address of peer {j}: {error}") from error

    def disconnect(self, j: PeerId) -> None:
        """Drop the link to j, which is a neighbor no more; what was handed to `send` gets LINGER_MS to leave.

        Nothing happens where there is none. `on_disconnect` is not called: the caller knows.
        """
        if self._inside.pop(j, None) is not None:
            self._local.disconnect(j)
            if j in self._moving:
                self._moving.pop(j).cancel()
        if (link := self._links.pop(j, None)) is None:
            return
        if j in self._searches:
            self._searches.pop(j).cancel()
        self._endpoints.pop(j, None)
        self._up.discard(j)
        self._full.discard(j)
        self._unwatch(link)
        link.dealer.close()

    def _moved_out(self, j: PeerId) -> None:
        """A neighbor is in this process no more; it may come back as another one, which nobody is in a hurry for."""

        def connect() -> None:
            del self._moving[j]
            with suppress(ConfigError, OSError):  # as good as somebody who is not there
                self.connect(j, self._inside.pop(j))

        self._moving[j] = self._loop.call_later(RECONNECT_MS[1] / 1e3, connect)

    def _unwatch(self, link: _Link) -> None:
        self._loop.remove_reader(link.monitor.FD)
        self._loop.remove_reader(link.dealer.FD)
        link.dealer.disable_monitor()
        link.monitor.close(0)

    def _point(self, j: PeerId, endpoint: str) -> None:
        """Connect to another endpoint than before, or, dropping the connection, to the same anew."""
        dealer, old = self._links[j].dealer, self._endpoints.get(j)
        if old is not None:
            with suppress(zmq.ZMQError):  # libzmq may have given it up
                dealer.disconnect(old)
        dealer.connect(endpoint)
        self._endpoints[j] = endpoint

    def _search(self, j: PeerId) -> None:
        """Look for a neighbor from now on until the connection is up; ended by `_watch` then."""
        if j not in self._searches:
            self._searches[j] = self._loop.create_task(self._follow(j))

    async def _follow(self, j: PeerId) -> None:
        """Try each of a neighbor's addresses in turn.

        The one it had comes first: libzmq tries that by itself, and soonest. It comes last too, for
        libzmq has given it up for good if something else than a peer has answered there once.
        """
        address = self._links[j].address
        while True:
            endpoints = [address]
            if is_named(address):
                endpoints = await self._loop.run_in_executor(self._lookups, look_up, address)
            now = self._endpoints.get(j)
            if now in endpoints:
                await asyncio.sleep(NAME_S)
            for endpoint in sorted(endpoints, key=lambda endpoint: endpoint == now):
                self._point(j, endpoint)
                await asyncio.sleep(NAME_S)
            if not endpoints:
                await asyncio.sleep(RECONNECT_MS[1] / 1e3)

    def _watch(self, j: PeerId, link: _Link) -> None:
        while self._links.get(j) is link and (event := receive_now(link.monitor)) is not None:
            code = int.from_bytes(event[0].bytes[:2], "little")
            if code == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._up.add(j)
                if j in self._searches:
                    self._searches.pop(j).cancel()
                self._on_connect(j)
            elif code == zmq.EVENT_DISCONNECTED:
                self._search(j)
                if j in self._up:  # a relay in front of an absent peer accepts, and hangs up, many times a second
                    self._up.remove(j)
                    self._on_disconnect(j)
            elif code == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._on_refusal(j)  # libzmq does not try again by itself
                self._loop.call_later(RECONNECT_MS[1] / 1e3, self.reconnect, j)

    def reconnect(self, j: PeerId) -> None:
        """Drop the connection to a neighbor, and what waits on it, for a new one."""
        self._local.reconnect(j)
        if j in self._links:
            if j in self._endpoints:
                self._point(j, self._endpoints[j])
            self._search(j)

    # ---- who comes -------------------------------------------------------------------------

    def _watch_arrivals(self) -> None:
        door, now = self._door, self._loop.time()
        while (event := receive_now(self._arrivals)) is not None:
            code, value = struct.unpack("=HI", event[0].bytes)
            if code == zmq.EVENT_ACCEPTED:
                door.opened(value, now)
            elif code == zmq.EVENT_DISCONNECTED:
                door.closed(value)
            elif code == zmq.EVENT_LISTENING:
                door.listens(value)
            elif code == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                door.failed(RemoteError("half-open", "a connection that did not come to a handshake"))
            elif code == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                door.failed(RemoteError("handshake", "a handshake that is none of ours"))
            elif code == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                door.failed(None)

    def _turned_away(self, error: RemoteError) -> None:
        """Count what the door did not let in; what a flood has left in memory is given back once it has been read."""

        def trim() -> None:
            self._trimming = None
            memory.trim()

        if error.cause == "flood" and self._trimming is None:
            self._trimming = self._loop.call_later(TRIM_S, trim)
        self._on_drop(error)

    def _look(self) -> None:
        self._watch_arrivals()
        all_read = not cast(int, self._router.EVENTS) & zmq.POLLIN
        if not all_read:
            self._loop.call_soon(self._drain)  # looking may have taken the signal of the descriptor
        self._door.look(self._loop.time(), all_read)
        self._looking = self._loop.call_later(LOOK_S * self._slack, self._look)

    def _reread(self) -> None:
        """Look for another list of keys, at most every REREAD_S; links to peers that have other keys are made anew."""
        keys, now = self._keys, self._loop.time()
        if keys is None or keys.reread is None or now < self._next_reread_s:
            return
        self._next_reread_s = now + REREAD_S
        try:
            listed = keys.reread()
        except ConfigError as error:
            self._on_drop(RemoteError("list", f"somebody may have a new key, and the list cannot be read: {error}"))
            return
        if listed is None:
            return
        self._keys = replace(keys, peers=listed)
        self._ids = owners(self._keys)
        self._door.n_listed = len(listed)
        for j in [j for j, link in self._links.items() if listed.get(j, link.key) != link.key]:
            address, was_up = self._links[j].address, j in self._up
            self.disconnect(j)
            if was_up:
                self._on_disconnect(j)
            self.connect(j, address)

    @property
    def _domains(self) -> tuple[bytes, bytes]:
        """Of those who come to be heard, and of those who watch."""
        return identity(self._me), WATCH + b"%d" % self._me

    def _asked(self, domain: bytes, key: str, address: str) -> list[bytes]:
        """Status, words and id for somebody with a key, for the ZAP server."""
        if key not in self._ids:
            self._reread()
        j = self._ids.get(key)
        if j is None:
            self._on_drop(RemoteError("key", f"a key that is not on the list, from {address}"))
            return [b"400", b"unknown key", b""]
        if domain == identity(self._me) and not self._door.admits(j, self._loop.time()):
            return [b"400", b"not now", b""]
        return [b"200", b"OK", identity(j)]

    # ---- frames ----------------------------------------------------------------------------

    def expect(self, max_frame_bytes: int) -> None:
        """From now on a frame is at most so large; what libzmq takes from the network stays as it was."""
        self._max_frame_bytes = self._door.max_frame_bytes = max_frame_bytes

    def pack(self, frames: Sequence[Frame]) -> Packed:
        """Frames ready to be sent, to several neighbors if need be.

        Large ones are not copied: arrays behind them must not change any more.
        """
        return Packed(frames)

    def send(self, j: PeerId, packed: Packed) -> bool:
        """Hand packed frames to libzmq for peer j; never blocks.

        Returns
        -------
        bool
            False where there is no link, its connection is down, or `queue_messages` wait there already.
        """
        if (link := self._links.get(j)) is None:
            sent = self._local.send(j, packed.frames)
            self.bytes_sent += sum(map(len, packed.frames)) if sent else 0
            return sent
        sent = send_now(link.dealer, packed) or (
            # a connection that has just come up is seen only when the socket's events are looked at
            self.writable(j) and send_now(link.dealer, packed)
        )
        if sent:
            self.bytes_sent += packed.n_bytes
        return sent

    def writable(self, j: PeerId) -> bool:
        """Whether `send` would take a message for peer j now; if not, `on_writable` tells when it would."""
        if j not in self._links:
            return self._local.writable(j)
        room = bool(cast(int, self._links[j].dealer.EVENTS) & zmq.POLLOUT)
        (self._full.discard if room else self._full.add)(j)
        return room

    def _look_at_link(self, j: PeerId) -> None:
        for _ in range(IN_A_ROW):
            if j not in self._links or receive_now(self._links[j].dealer) is None:
                break
            self._on_drop(RemoteError("unasked", "nothing is expected over this connection", j))
        else:
            self._loop.call_soon(self._look_at_link, j)
        waited_for = j in self._full
        if self.writable(j):  # looking rearms the descriptor
            if waited_for and self._on_writable is not None:
                self._on_writable(j)
        elif not waited_for:
            self._full.discard(j)

    async def serve(self, hear: Hear) -> None:
        """Hand every message to `hear`, as soon as it is here, until that says False or raises, or this is canceled.

        Parameters
        ----------
        hear : callable
            What it raises is raised here.

        Raises
        ------
        ValueError
            Somebody hears already.
        """
        if self._hear is not None:
            raise ValueError("the messages of this peer are heard already")
        self._hear, self._served = hear, self._loop.create_future()
        self._drain()
        try:
            await self._served
        finally:
            self._hear = None

    def look(self) -> None:
        """Hand on what is here already: who has to wait for it need not ask the event loop first."""
        self._drain()

    async def receive(self) -> tuple[PeerId, list[Frame]]:
        """The next message from anybody; one that comes just when this is canceled is lost."""
        found: list[tuple[PeerId, list[Frame]]] = []

        def hear(sender: PeerId, frames: list[Frame]) -> bool:
            found.append((sender, frames))
            return False

        await self.serve(hear)
        return found[0]

    def _drain(self) -> None:
        """Read until nothing is left, or nobody hears; now and then everything else in the event loop gets its turn."""
        while (hear := self._hear) is not None and not self._pausing and not self._served.done():
            handed, parts = self._local.take(), None
            if handed is None and (parts := receive_now(self._router)) is None:
                self._in_a_row = 0
                return
            self._in_a_row += 1
            if self._in_a_row >= IN_A_ROW:
                self._in_a_row, self._pausing = 0, True
                self._loop.call_soon(self._go_on)
            try:
                message = self._sent(parts) if parts is not None else self._handed(handed)
                goes_on = message is None or hear(*message)
            except WireError as error:
                self._on_drop(error)
                self.blame()
            except Exception as error:
                if self._served.done():  # canceled meanwhile
                    raise
                self._served.set_exception(error)
            else:
                if not goes_on and not self._served.done():
                    self._served.set_result(None)

    def _handed(self, message: tuple[PeerId, list[Frame]] | None) -> tuple[PeerId, list[Frame]] | None:
        """A message of this process, which came over no connection."""
        self._last_fd = -1
        self.bytes_received += sum(map(len, message[1])) if message is not None else 0
        return message

    def _sent(self, parts: Sequence[zmq.Frame]) -> tuple[PeerId, list[Frame]] | None:
        """A message from the network; None if it was dropped.

        Raises
        ------
        WireError
            What goes as one frame cannot be parted.
        """
        if (sender := self._sender(parts)) is None:
            return None
        return sender, parted([part.buffer for part in parts[1:]], sender)

    def _wake(self) -> None:
        """An agent of this process has handed something over; it is read when that one is through."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._rouse)

    def _rouse(self) -> None:
        self._woken = False
        self._drain()

    def _go_on(self) -> None:
        """The event loop has had its turn."""
        self._pausing = False
        self._door.check(self._last_fd, self._loop.time())
        self._drain()

    def _sender(self, parts: Sequence[zmq.Frame]) -> PeerId | None:
        """The peer that a message came from; None if the message was dropped."""
        if len(parts) < 2:
            return None
        name, first = parts[0].bytes, parts[1]
        sizes = [*map(len, parts[1:])]
        n_bytes = sum(sizes)
        self.bytes_received += n_bytes
        claimed = claimed_by(name)
        stamped = claimed if self._keys is None else str(first.get("User-Id")).encode("latin-1")
        if name.startswith(b"\0"):  # one without a name, or that has lost it to a newer one of the same link
            claimed = stamped
        sender, fd = peer_of(stamped), first.get(zmq.SRCFD)
        self._last_fd = fd
        if not self._door.knows(fd):
            self._watch_arrivals()  # libzmq told of the connection before the message came
        overhead = FRAME_BYTES + (CURVE_BYTES if self._keys is not None else 0)
        if not self._door.hears(fd, sender, n_bytes + overhead * len(sizes), self._loop.time()):
            return None
        problem = "its id is not that of its key" if sender is not None else "it does not say which peer it is"
        if stamped != claimed or sender is None:
            self._on_drop(WireError("identity", problem, sender))
            self._door.cut(fd)  # every message over it would be the same
            return None
        if (largest := max(sizes)) > self._max_frame_bytes:
            self._on_drop(WireError("oversized", f"expected up to {self._max_frame_bytes} bytes: {largest}", sender))
            self.blame()
            return None
        return sender

    def blame(self) -> None:
        """The message that was received last had to be dropped: too many such end their connection."""
        self._door.blames(self._last_fd, self._loop.time())

    # ---- who watches -----------------------------------------------------------------------

    def publish(self, address: str, has_keys: bool) -> None:
        """Let others listen at an address to what is told.

        In the clear on the loopback; elsewhere to those with a key that is on the list.

        Parameters
        ----------
        address : str
        has_keys : bool
            Whether there is a list of keys that others can have.

        Raises
        ------
        ConfigError
            The address cannot be used, or is not of the loopback where there are no keys.
        OSError
            The host has no descriptors left for it.
        """
        secured = not is_loopback(address)
        if secured and (self._keys is None or not has_keys):
            raise ConfigError("run.publish", f"expected an address of the loopback without transport.keys: {address}")
        try:
            publisher = self._context.socket(zmq.PUB)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        self._publisher = publisher
        limit_watching(publisher, WATCHED_MESSAGES, ANSWER_BYTES)
        publisher.setsockopt(zmq.LINGER, WATCHED_LINGER_MS)
        if secured and self._keys is not None:
            publisher.setsockopt(zmq.CURVE_SERVER, 1)
            publisher.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            publisher.setsockopt(zmq.ZAP_DOMAIN, self._domains[1])
        try:
            publisher.bind(address.replace("//localhost:", "//127.0.0.1:"))
        except zmq.ZMQError as error:
            raise ConfigError("run.publish", f"cannot listen on {address}: {error.strerror}") from error

    def tell(self, frames: Sequence[bytes]) -> None:
        """Hand a message to those who watch; never blocks, and is lost for those who do not keep up."""
        if self._publisher is not None and not self._publisher.closed:
            with suppress(zmq.Again):
                self._publisher.send_multipart(frames, zmq.NOBLOCK)

    async def close(self) -> None:
        """Close every socket; what was handed to `send` gets LINGER_MS to leave."""
        self._close_sockets()
        if self._is_alone:
            await self._hub.close()

    def abandon(self) -> None:
        """Close every socket at once, and what was not sent is lost."""
        self._close_sockets(linger=0)
        if self._is_alone:
            self._context.term()

    def _close_sockets(self, linger: int | None = None) -> None:
        if self._router.closed:
            return
        self._local.close()
        self._hear = None
        for search in self._searches.values():
            search.cancel()
        for timer in self._moving.values():
            timer.cancel()
        self._lookups.shutdown(wait=False, cancel_futures=True)
        for link in self._links.values():
            self._unwatch(link)
            link.dealer.close(linger)
        self._links.clear()
        self._looking.cancel()
        if self._trimming is not None:
            self._trimming.cancel()
        self._router.disable_monitor()
        if self._publisher is not None:
            self._publisher.close(linger)
        for end in (self._router, self._arrivals):
            self._loop.remove_reader(end.FD)
            end.close(linger)
        self._hub.stop_answering(self._domains)


@final
@dataclass(frozen=True)
class _Link:
    address: str
    key: str
    dealer: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
