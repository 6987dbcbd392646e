"""What peers publish, and who listens to it."""

from __future__ import annotations

from typing import Final, final

import zmq

from peer.errors import ConfigError
from peer.transport.frames import receive_now
from peer.transport.keys import Keys
from peer.transport.limits import HANDSHAKE_MS, HEARTBEAT_MS, RECONNECT_MS
from peer.transport.places import is_loopback, numbered
from topology import PeerId

WATCHED_MESSAGES: Final = 200
"""Lines of a journal that may wait for one who watches; what comes then is lost for that one. At most a few hundred
kilobytes."""

WATCHED_LINGER_MS: Final = 100
"""What a peer still has to tell when it ends, its end above all, gets this long: a page is not waited for."""

WATCHING_MESSAGES: Final = 20_000
"""That may wait to be read by one who watches."""

WATCHED_BYTES: Final = 1 << 20
"""Largest of them that is taken from a peer."""

WATCH: Final = b"watch-"
"""Domain of those who listen to what a peer publishes, for the ZAP server, with the peer's id behind it."""


@final
class Subscription:
    """What peers publish, for somebody who is no peer of the run.

    Parameters
    ----------
    keys : Keys or None
        With which to show oneself; None listens in the clear, on the loopback.
    """

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ends: list[zmq.Socket[bytes]] = []

    def connect(self, j: PeerId, address: str) -> None:
        """Listen to peer j from now on, whenever it is there.

        Raises
        ------
        ConfigError
            The address is none, or not of the loopback without keys; or peer j has no key on the list.
        """
        end = self._context.socket(zmq.SUB)
        self._ends.append(end)
        limit_watching(end, WATCHING_MESSAGES, WATCHED_BYTES)
        end.setsockopt(zmq.LINGER, 0)
        end.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
        end.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
        end.setsockopt(zmq.SUBSCRIBE, b"")
        if not is_loopback(address):
            if self._keys is None:
                raise ConfigError("--keys", f"expected keys, for {address} is not of the loopback")
            if j not in self._keys.peers:
                raise ConfigError("--keys", f"expected a key for peer {j}, found none")
            end.setsockopt(zmq.CURVE_SERVERKEY, self._keys.peers[j].encode())
            end.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public.encode())
            end.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
        try:
            end.connect(numbered(address))
        except zmq.ZMQError as error:
            raise ConfigError("watch", f"{address!r} is no address of a peer: {error.strerror}") from error

    def receive(self, most: int) -> list[list[bytes]]:
        """Messages that have come, up to so many of each peer."""
        found: list[list[bytes]] = []
        for end in self._ends:
            for _ in range(most):
                if (parts := receive_now(end)) is None:
                    break
                found.append([part.bytes for part in parts])
        return found

    def close(self) -> None:
        """Listen no more."""
        for end in self._ends:
            end.close(0)
        self._context.term()


def limit_watching(end: zmq.Socket[bytes], queue_messages: int, max_bytes: int) -> None:
    """Bound what an end of this kind holds, and how long it waits."""
    for option, value in (
        (zmq.SNDHWM, queue_messages),
        (zmq.RCVHWM, queue_messages),
        (zmq.MAXMSGSIZE, max_bytes),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT_MS),
        (zmq.IPV6, 1),
    ):
        end.setsockopt(option, value)
