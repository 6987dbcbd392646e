"""Links to neighbors: a DEALER each, which sends.

libzmq would look names up on its one thread for all traffic, and hold up every neighbor for as
long as a name server is silent, and take the first address only. So names are looked up here, on
threads of their own, again and again while a neighbor is not connected: one that has moved is
found, and of several addresses each is tried. So is the name of one that is nearby, and before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast, final

import zmq

from peer.errors import ConfigError, RemoteError
from peer.transport.frames import Packed, receive_now, send_now
from peer.transport.keys import Keys, link_name
from peer.transport.limits import ANSWER_BYTES, IN_A_ROW, RECONNECT_MS
from peer.transport.options import limit, monitor
from peer.transport.places import host_and_port, is_named, look_up
from topology import PeerId

NAME_S: Final = 4.0
"""How long one address of a name is tried before the next, or before the name is looked up again: an attempt to
connect, the longest pause, and no more, so that a neighbor that has moved is soon found."""

LOOKUPS: Final = 32
"""Names that are looked up at once; a silent name server holds up each for 10 s, but nothing else."""

EVENTS: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
"""What is heard of a link."""

NEARBY_EVENTS: Final = EVENTS | zmq.EVENT_CONNECT_RETRIED
"""And of one to a name: that nobody listens there."""


@final
@dataclass(frozen=True)
class _Link:
    address: str
    key: str
    dealer: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]


@final
class Links:
    """Links to neighbors.

    Parameters
    ----------
    me : int
        This peer.
    context : zmq.Context
    max_frame_bytes : int
        Size of the largest frame of the run, which pings wait behind.
    queue_messages : int
        Messages that may wait for one neighbor.
    slack : float
        As of `peer.transport.Transport`; so what follows.
    names : mapping of str to str
        As of `peer.transport.Nearby`.
    on_connect, on_disconnect, on_refusal, on_drop, on_writable : callable
    """

    def __init__(
        self,
        me: PeerId,
        context: zmq.Context[zmq.Socket[bytes]],
        max_frame_bytes: int,
        queue_messages: int,
        slack: float,
        names: Mapping[str, str],
        on_connect: Callable[[PeerId], None],
        on_disconnect: Callable[[PeerId], None],
        on_refusal: Callable[[PeerId], None],
        on_drop: Callable[[RemoteError], None],
        on_writable: Callable[[PeerId], None],
    ) -> None:
        self._me = me
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self._queue_messages = queue_messages
        self._slack = slack
        self._names = names
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_refusal = on_refusal
        self._on_drop = on_drop
        self._on_writable = on_writable
        self._loop = asyncio.get_running_loop()
        self._links: dict[PeerId, _Link] = {}
        self._up: set[PeerId] = set()
        self._full: set[PeerId] = set()
        self._endpoints: dict[PeerId, str] = {}
        self._searches: dict[PeerId, asyncio.Task[None]] = {}
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="names")

    def __len__(self) -> int:
        """Number of links."""
        return len(self._links)

    def __contains__(self, j: PeerId) -> bool:
        """Whether there is a link to j."""
        return j in self._links

    def connect(self, j: PeerId, address: str, keys: Keys | None) -> None:
        """Keep a connection to neighbor j, from now on.

        Raises
        ------
        ConfigError
            The address is none.
        OSError
            The host has no descriptors left for it; nothing has changed.
        """
        try:
            named = is_named(address)
        except ValueError as error:
            raise ConfigError("transport.addresses", f"{address!r} is no address of peer {j}: {error}") from error
        try:
            dealer = self._context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        limit(dealer, self._max_frame_bytes, self._slack)
        dealer.setsockopt(zmq.SNDHWM, self._queue_messages)
        dealer.setsockopt(zmq.MAXMSGSIZE, ANSWER_BYTES)
        dealer.setsockopt(zmq.ROUTING_ID, link_name(self._me))
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
        key = ""
        if keys is not None:
            key = keys.peers[j]
            dealer.setsockopt(zmq.CURVE_SERVERKEY, key.encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        name = self._names.get(address)
        try:
            link = _Link(address, key, dealer, monitor(self._context, dealer, NEARBY_EVENTS if name else EVENTS))
        except zmq.ZMQError as error:
            dealer.close(0)
            raise OSError(error.errno, error.strerror) from error
        self._links[j] = link
        self._loop.add_reader(link.monitor.FD, self._watch, j, link)
        self._loop.call_soon(self._watch, j, link)  # a first look arms the descriptor; later, when the caller is ready
        self._loop.add_reader(dealer.FD, self._look, j)
        try:
            if named:
                host_and_port(address)
                self._search(j)
            else:
                self._point(j, name or address)
        except (zmq.ZMQError, ValueError) as error:
            self.disconnect(j)
            raise ConfigError("transport.addresses", f"{address!r} is no address of peer {j}: {error}") from error

    def disconnect(self, j: PeerId) -> None:
        """Drop the link to j, if there is one; what was handed to `send` gets LINGER_MS to leave."""
        if (link := self._links.pop(j, None)) is None:
            return
        if j in self._searches:
            self._searches.pop(j).cancel()
        self._endpoints.pop(j, None)
        self._up.discard(j)
        self._full.discard(j)
        self._unwatch(link)
        link.dealer.close()

    def reconnect(self, j: PeerId) -> None:
        """Drop the connection to a neighbor, if there is a link, and what waits on it, for a new one."""
        if j in self._links:
            if j in self._endpoints:
                self._point(j, self._endpoints[j])
            self._search(j)

    def listed(self, keys: Keys) -> None:
        """There is another list of keys: links to peers that have other ones are made anew."""
        for j in [j for j, link in self._links.items() if keys.peers.get(j, link.key) != link.key]:
            address, was_up = self._links[j].address, j in self._up
            self.disconnect(j)
            if was_up:
                self._on_disconnect(j)
            self.connect(j, address, keys)

    def send(self, j: PeerId, packed: Packed) -> bool:
        """Hand packed frames to libzmq for neighbor j, to whom there is a link; whether it takes them now."""
        # a connection that has just come up is seen only when the socket's events are looked at
        dealer = self._links[j].dealer
        return send_now(dealer, packed) or (self.writable(j) and send_now(dealer, packed))

    def writable(self, j: PeerId) -> bool:
        """Whether `send` would take a message for neighbor j now; if not, `on_writable` tells when it would."""
        room = bool(cast(int, self._links[j].dealer.EVENTS) & zmq.POLLOUT)
        (self._full.discard if room else self._full.add)(j)
        return room

    def close(self, linger: int | None) -> None:
        """Drop all links."""
        for search in self._searches.values():
            search.cancel()
        self._lookups.shutdown(wait=False, cancel_futures=True)
        for link in self._links.values():
            self._unwatch(link)
            link.dealer.close(linger)
        self._links.clear()

    # ---- addresses -------------------------------------------------------------------------

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
        near = [self._names[address]] if address in self._names else []
        while True:
            endpoints = [*near, address]
            if is_named(address):
                endpoints = near + await self._loop.run_in_executor(self._lookups, look_up, address)
            now = self._endpoints.get(j)
            if now in endpoints:
                await asyncio.sleep(NAME_S)
            for endpoint in sorted(endpoints, key=lambda endpoint: endpoint == now):
                self._point(j, endpoint)
                await asyncio.sleep(NAME_S)
            if not endpoints:
                await asyncio.sleep(RECONNECT_MS[1] / 1e3)

    # ---- what happens to links -------------------------------------------------------------

    def _watch(self, j: PeerId, link: _Link) -> None:
        while self._links.get(j) is link and (event := receive_now(link.monitor)) is not None:
            code = int.from_bytes(event[0].bytes[:2], "little")
            if code == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._up.add(j)
                if j in self._searches:
                    self._searches.pop(j).cancel()
                self._on_connect(j)
            elif code in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED):
                self._search(j)
                if j in self._up:  # a relay in front of an absent peer accepts, and hangs up, many times a second
                    self._up.remove(j)
                    self._on_disconnect(j)
            elif code == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._on_refusal(j)  # libzmq does not try again by itself
                self._loop.call_later(RECONNECT_MS[1] / 1e3, self.reconnect, j)

    def _unwatch(self, link: _Link) -> None:
        self._loop.remove_reader(link.monitor.FD)
        self._loop.remove_reader(link.dealer.FD)
        link.dealer.disable_monitor()
        link.monitor.close(0)

    def _look(self, j: PeerId) -> None:
        """A link may have room again; nothing is to come over it."""
        for _ in range(IN_A_ROW):
            if j not in self._links or receive_now(self._links[j].dealer) is None:
                break
            self._on_drop(RemoteError("unasked", "nothing is expected over this connection", j))
        else:
            self._loop.call_soon(self._look, j)
        waited_for = j in self._full
        if j not in self._links:
            return
        if self.writable(j):  # looking rearms the descriptor
            if waited_for:
                self._on_writable(j)
        elif not waited_for:
            self._full.discard(j)
