"""What comes from others: one ROUTER, bound, which receives from all that the door lets in.

A ROUTER gives a connection up for a newer one of the same name, so each link has a name that only its two ends know:
else any listed peer could cut the others' connections by taking theirs. With keys libzmq stamps each frame with the id
that goes with the key it came under.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast, final

import zmq

from peer import memory
from peer.door import LOOK_S, Door
from peer.errors import ConfigError, RemoteError, WireError
from peer.transport.frames import parted, receive_now
from peer.transport.keys import Keys, claimed_by, identity, peer_of
from peer.transport.limits import CURVE_BYTES, FRAME_BYTES
from peer.transport.nearby import NOBODY, Nearby
from peer.transport.options import limit, monitor
from peer.transport.places import numbered
from peer.wire import Frame
from topology import PeerId

TRIM_S: Final = 1.0
"""After a connection was cut off for sending too much: what had come over it is read, or given up, by then."""

ARRIVALS: Final = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""What is heard of connections that others make."""


@final
class Arrivals:
    """Messages of others, and the connections over which they come.

    Parameters
    ----------
    me : int
        This peer.
    context : zmq.Context
    keys : Keys or None
        None takes what comes in the clear.
    max_frame_bytes : int
        A larger frame closes the connection it came over.
    slack : float
        As of `peer.transport.Transport`; so what follows.
    on_drop : callable
    on_message : callable
        Called when there may be something to `receive`.

    Raises
    ------
    zmq.ZMQError
        The host has no descriptors left for the sockets.
    """

    def __init__(
        self,
        me: PeerId,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys | None,
        max_frame_bytes: int,
        slack: float,
        on_drop: Callable[[RemoteError], None],
        on_message: Callable[[], None],
    ) -> None:
        self._me = me
        self._has_keys = keys is not None
        self._max_frame_bytes = max_frame_bytes
        self._slack = slack
        self._on_drop = on_drop
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._last_fd = -1
        self._trimming: asyncio.TimerHandle | None = None
        self.door = Door(0 if keys is None else len(keys.peers), max_frame_bytes, self._turned_away)
        self._router = self._receiver(context, keys)
        self._teller = monitor(context, self._router, ARRIVALS)
        self._loop.add_reader(self._router.FD, on_message)
        self._loop.add_reader(self._teller.FD, self._watch)
        self._looking = self._loop.call_soon(self._look)
        self.bytes_received = 0

    def _receiver(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None) -> zmq.Socket[bytes]:
        router = context.socket(zmq.ROUTER)
        limit(router, self._max_frame_bytes, self._slack)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if keys is not None:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
            router.setsockopt(zmq.ZAP_DOMAIN, identity(self._me))
        return router

    def bind(self, address: str, listener: socket.socket | None, nearby: Nearby = NOBODY) -> None:
        """Listen on an address, or on a socket that listens there already; and nearby.

        Raises
        ------
        ConfigError
            The address cannot be bound; a port in use is named.
        """
        if listener is not None:
            self._router.setsockopt(zmq.USE_FD, listener.detach())
        try:
            self._router.bind(numbered(address))
        except zmq.ZMQError as error:
            busy = f"; is another peer with id {self._me} running?" if error.errno == zmq.EADDRINUSE else ""
            problem = f"cannot listen on {address}: {error.strerror}{busy}"
            raise ConfigError("transport.addresses", problem) from error
        nearby.bind(self._router)

    def expect(self, max_frame_bytes: int, catch_up_bytes: int) -> None:
        """From now on a frame is at most so large; what libzmq takes from the network stays as it was."""
        self._max_frame_bytes = self.door.max_frame_bytes = max_frame_bytes
        self.door.catch_up_bytes = catch_up_bytes

    def close(self, linger: int | None) -> None:
        """Receive no more."""
        self._looking.cancel()
        if self._trimming is not None:
            self._trimming.cancel()
        self._router.disable_monitor()
        for end in (self._router, self._teller):
            self._loop.remove_reader(end.FD)
            end.close(linger)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._router.closed

    # ---- messages --------------------------------------------------------------------------

    def receive(self) -> list[zmq.Frame] | None:
        """What has come next, as it came; None where nothing has."""
        return receive_now(self._router)

    def admitted(self, parts: Sequence[zmq.Frame]) -> tuple[PeerId, list[Frame]] | None:
        """The message in what has come, and whose it is; None if it was dropped.

        Raises
        ------
        WireError
            What goes as one frame cannot be parted.
        """
        if (sender := self._sender(parts)) is None:
            return None
        return sender, parted([part.buffer for part in parts[1:]], sender)

    def _sender(self, parts: Sequence[zmq.Frame]) -> PeerId | None:
        """The peer that a message came from; None if the message was dropped."""
        if len(parts) < 2:
            return None
        name, first = parts[0].bytes, parts[1]
        sizes = [*map(len, parts[1:])]
        n_bytes = sum(sizes)
        self.bytes_received += n_bytes
        claimed = claimed_by(name)
        stamped = str(first.get("User-Id")).encode("latin-1") if self._has_keys else claimed
        if name.startswith(b"\0"):  # one without a name, or that has lost it to a newer one of the same link
            claimed = stamped
        sender, fd = peer_of(stamped), first.get(zmq.SRCFD)
        self._last_fd = fd
        if not self.door.knows(fd):
            self._watch()  # libzmq told of the connection before the message came
        overhead = FRAME_BYTES + (CURVE_BYTES if self._has_keys else 0)
        if not self.door.hears(fd, sender, n_bytes + overhead * len(sizes), self._loop.time()):
            return None
        problem = "its id is not that of its key" if sender is not None else "it does not say which peer it is"
        if stamped != claimed or sender is None:
            self._on_drop(WireError("identity", problem, sender))
            self.door.cut(fd)  # every message over it would be the same
            return None
        if (largest := max(sizes)) > self._max_frame_bytes:
            self._on_drop(WireError("oversized", f"expected up to {self._max_frame_bytes} bytes: {largest}", sender))
            self.blame()
            return None
        return sender

    def blame(self) -> None:
        """The message that was received last had to be dropped: too many such end their connection."""
        self.door.blames(self._last_fd, self._loop.time())

    def forget(self) -> None:
        """The next to be blamed came over no connection."""
        self._last_fd = -1

    def check(self) -> None:
        """Several messages were read: who sends more than others leave room for is cut off."""
        self.door.check(self._last_fd, self._loop.time())

    # ---- connections -----------------------------------------------------------------------

    def _watch(self) -> None:
        door, now = self.door, self._loop.time()
        while (event := receive_now(self._teller)) is not None:
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
        self._watch()
        all_read = not cast(int, self._router.EVENTS) & zmq.POLLIN
        if not all_read:
            self._loop.call_soon(self._on_message)  # looking may have taken the signal of the descriptor
        self.door.look(self._loop.time(), all_read)
        self._looking = self._loop.call_later(LOOK_S * self._slack, self._look)
