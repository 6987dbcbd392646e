"""Frames between this process and its neighbors over ZeroMQ.

One ROUTER, bound, receives from all, see `incoming`; one DEALER a neighbor sends, see `outgoing`. Connections are
CURVE-encrypted, and a key is bound to its peer's id: libzmq asks the small ZAP server here for every connection.

Everything runs in the event loop of `peer.process`. Sockets' descriptors are edge-triggered, so
a socket is always read until it is empty. What has come is handed on from the loop's callback itself:
a task that is woken for every message costs more than a small message does. So does a frame: the frames of a small
message go as one, `[JOINT, their number, their lengths, they themselves]`, and are taken apart on arrival.

Transports of several agents in one process share a context, and with it the one thread for all their traffic; links
between them are those of `peer.local_links`, as long as both ends are there.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeAlias, final

import zmq

from peer.door import ask_for_descriptors
from peer.errors import ConfigError, RemoteError, WireError
from peer.local_links import End
from peer.transport.frames import Packed
from peer.transport.hub import Hub
from peer.transport.incoming import Arrivals
from peer.transport.keys import Keys, identity, owners
from peer.transport.limits import ANSWER_BYTES, IN_A_ROW, QUEUE_MESSAGES, RECONNECT_MS
from peer.transport.nearby import NOBODY, Nearby
from peer.transport.outgoing import Links
from peer.transport.places import is_loopback, numbered
from peer.transport.watched import WATCH, WATCHED_LINGER_MS, WATCHED_MESSAGES, limit_watching
from peer.wire import Frame, Handed
from topology import PeerId

REREAD_S: Final = 1.0
"""Between two looks at the list of keys: whoever is refused tries again after RECONNECT_MS, and strangers by the
thousand cost no more than one."""

Hear: TypeAlias = Callable[[PeerId, list[Frame]], bool]
"""Takes a message and whose it is: the peer that its key (or, in the clear, its link's name) stands for. It says
whether to go on."""


@final
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
    on_writable : callable
        Called with a neighbor whose link has room again, after `send` found none; may
        come just before `on_connect`.
    queue_messages : int
        Messages that may wait for one neighbor, on this side. `send` refuses those beyond it.
    hub : Hub or None
        What it shares with others in this process, and does not close; None: with nobody.
    slack : float
        How many times as long as else a handshake may take, and the pause between two looks at what comes over all
        connections: see `door.slack`.
    nearby : Nearby
        Where peers of this host listen beside their addresses.
    n_links : int
        Neighbors, about, that it will have at a time, if there is no hub that knows.

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
        on_writable: Callable[[PeerId], None] = lambda j: None,
        queue_messages: int = QUEUE_MESSAGES,
        hub: Hub | None = None,
        slack: float = 1.0,
        nearby: Nearby = NOBODY,
        n_links: int = 0,
    ) -> None:
        self._me = me
        self._keys = keys
        self._on_drop = on_drop
        self._loop = asyncio.get_running_loop()
        self._is_alone = hub is None
        self._hub = Hub(n_links=n_links) if hub is None else hub
        self._inside: dict[PeerId, str] = {}
        self._moving: dict[PeerId, asyncio.TimerHandle] = {}
        self._publisher: zmq.Socket[bytes] | None = None
        self._hear: Hear | None = None
        self._served: asyncio.Future[None] = self._loop.create_future()
        self._pausing = self._woken = False
        self._in_a_row = 0
        ask_for_descriptors()
        self._next_reread_s = -math.inf
        self._ids = owners(keys)
        context, told = self._hub.context, (on_connect, on_disconnect)
        self._local = End(me, self._hub.room, queue_messages, self._wake, *told, on_writable, self._moved_out)
        self._nearby = nearby
        self._links = Links(
            me, context, max_frame_bytes, queue_messages, slack, nearby.names, *told, on_refusal, on_drop, on_writable
        )
        try:
            if keys is not None:
                self._hub.answer(self._domains, self._asked)
            self._arrivals = Arrivals(me, context, keys, max_frame_bytes, slack, on_drop, self._drain)
        except zmq.ZMQError as error:
            self._hub.stop_answering(self._domains)
            if self._is_alone:
                context.destroy(0)
            raise OSError(error.errno, error.strerror) from error
        self.bytes_sent = self._handed_bytes = 0

    @property
    def bytes_received(self) -> int:
        """So far."""
        return self._arrivals.bytes_received + self._handed_bytes

    # ---- connections -----------------------------------------------------------------------

    def bind(self, address: str, listener: socket.socket | None = None) -> None:
        """Listen on an address, or on a socket that listens there already; nearby, too, if there is somebody.

        Raises
        ------
        ConfigError
            The address cannot be bound; a port in use is named.
        """
        self._arrivals.bind(address, listener, self._nearby)
        self._local.open()

    def connect(self, j: PeerId, address: str) -> None:
        """Keep a connection to neighbor j, from now on.

        Raises
        ------
        ConfigError
            The address is none, or peer j has no key on the list.
        OSError
            The host has no descriptors left for it; nothing has changed.
        ValueError
            It is connected already.
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
        self._links.connect(j, address, self._keys)

    def disconnect(self, j: PeerId) -> None:
        """Drop the link to j, which is a neighbor no more; what was handed to `send` gets LINGER_MS to leave.

        Nothing happens where there is none. `on_disconnect` is not called: the caller knows.
        """
        if self._inside.pop(j, None) is not None:
            self._local.disconnect(j)
            if j in self._moving:
                self._moving.pop(j).cancel()
        self._links.disconnect(j)

    def reconnect(self, j: PeerId) -> None:
        """Drop the connection to a neighbor, and what waits on it, for a new one."""
        self._local.reconnect(j)
        self._links.reconnect(j)

    def _moved_out(self, j: PeerId) -> None:
        """A neighbor is in this process no more; it may come back as another one, which nobody is in a hurry for."""

        def connect() -> None:
            del self._moving[j]
            with suppress(ConfigError, OSError):  # as good as somebody who is not there
                self.connect(j, self._inside.pop(j))

        self._moving[j] = self._loop.call_later(RECONNECT_MS[1] / 1e3, connect)

    # ---- keys ------------------------------------------------------------------------------

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
        self._arrivals.door.n_listed = len(listed)
        self._links.listed(self._keys)

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
        if domain == identity(self._me) and not self._arrivals.door.admits(j, self._loop.time()):
            return [b"400", b"not now", b""]
        return [b"200", b"OK", identity(j)]

    # ---- frames ----------------------------------------------------------------------------

    def expect(self, max_frame_bytes: int, catch_up_bytes: int = 0) -> None:
        """From now on a frame is at most so large; what libzmq takes from the network stays as it was.

        So many bytes may come from a neighbor at once, beside what is usual: all that this peer, resumed, has missed.
        """
        self._arrivals.expect(max_frame_bytes, catch_up_bytes)

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
        if j not in self._links:
            sent = self._local.send(j, packed.handed)
            self.bytes_sent += packed.handed.n_bytes if sent else 0
            return sent
        sent = self._links.send(j, packed)
        if sent:
            self.bytes_sent += packed.n_bytes
        return sent

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
        self._drain(inside=not self._links)

    def _drain(self, inside: bool = False) -> None:
        """Read until nothing is left, or nobody hears; now and then everything else in the event loop gets its turn.

        What comes from other processes is told of by the event loop, too: `inside` leaves it alone.
        """
        while (hear := self._hear) is not None and not self._pausing and not self._served.done():
            handed, parts = self._local.take(), None
            if handed is None and (inside or (parts := self._arrivals.receive()) is None):
                self._in_a_row = 0
                return
            self._in_a_row += 1
            if self._in_a_row >= IN_A_ROW:
                self._in_a_row, self._pausing = 0, True
                self._loop.call_soon(self._go_on)
            try:
                message = self._arrivals.admitted(parts) if parts is not None else self._handed(handed)
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

    def _handed(self, message: tuple[PeerId, Handed] | None) -> tuple[PeerId, list[Frame]] | None:
        """A message of this process, which came over no connection."""
        self._arrivals.forget()
        self._handed_bytes += message[1].n_bytes if message is not None else 0
        return message

    def _wake(self) -> None:
        """An agent of this process has handed something over; it is read when that one is through."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._rouse)

    def _rouse(self) -> None:
        self._woken = False
        self._drain(inside=True)

    def _go_on(self) -> None:
        """The event loop has had its turn."""
        self._pausing = False
        self._arrivals.check()
        self._drain()

    def blame(self) -> None:
        """The message that was received last had to be dropped: too many such end their connection."""
        self._arrivals.blame()

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
            publisher = self._hub.context.socket(zmq.PUB)
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
            publisher.bind(numbered(address))
        except zmq.ZMQError as error:
            raise ConfigError("run.publish", f"cannot listen on {address}: {error.strerror}") from error

    def tell(self, frames: Sequence[bytes]) -> None:
        """Hand a message to those who watch; never blocks, and is lost for those who do not keep up."""
        if self._publisher is not None and not self._publisher.closed:
            with suppress(zmq.Again):
                self._publisher.send_multipart(frames, zmq.NOBLOCK)

    # ---- the end ---------------------------------------------------------------------------

    async def close(self) -> None:
        """Close every socket; what was handed to `send` gets LINGER_MS to leave."""
        self._close_sockets()
        if self._is_alone:
            await self._hub.close()

    def abandon(self) -> None:
        """Close every socket at once, and what was not sent is lost."""
        self._close_sockets(linger=0)
        if self._is_alone:
            self._hub.context.term()

    def _close_sockets(self, linger: int | None = None) -> None:
        if self._arrivals.closed:
            return
        self._local.close()
        self._hear = None
        for timer in self._moving.values():
            timer.cancel()
        self._links.close(linger)
        if self._publisher is not None:
            self._publisher.close(linger)
        self._arrivals.close(linger)
        self._hub.stop_answering(self._domains)
