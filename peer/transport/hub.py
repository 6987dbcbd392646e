"""What the transports of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, final

import zmq
from zmq.utils import z85

from peer.local_links import Room
from peer.transport.frames import receive_now
from topology import PeerId

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"

OWN_SOCKETS, LINK_SOCKETS = 64, 3
"""Of ZeroMQ, that a transport has beside its links, with those to newcomers, and for each of its links: the two ends of
monitors count."""


@final
class Hub:
    """What the transports of one process share: a ZeroMQ context, who answers for keys, and the links between them.

    Parameters
    ----------
    agents : iterable of int
        Those of this process, where there are several.
    n_links : int
        Links to others, at most, of all of them: libzmq makes room for a thousand sockets unless more are asked for.
    """

    def __init__(self, agents: Iterable[PeerId] = (), n_links: int = 0) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.room = Room(set(agents))
        needed = OWN_SOCKETS * max(1, len(self.room.expected)) + LINK_SOCKETS * n_links
        if needed > self.context.get(zmq.MAX_SOCKETS):
            self.context.set(zmq.MAX_SOCKETS, min(needed, self.context.get(zmq.SOCKET_LIMIT)))
        self._asked: dict[bytes, Callable[[bytes, str, str], list[bytes]]] = {}
        self._zap: zmq.Socket[bytes] | None = None

    def answer(self, domains: Iterable[bytes], asked: Callable[[bytes, str, str], list[bytes]]) -> None:
        """Have a function answer libzmq, which asks of a domain, a key and an address, for sockets of these domains."""
        if self._zap is None:
            self._zap = self.context.socket(zmq.REP)
            self._zap.setsockopt(zmq.LINGER, 0)
            self._zap.bind(ZAP_ENDPOINT)
            asyncio.get_running_loop().add_reader(self._zap.FD, self._answer, self._zap)
        self._asked.update(dict.fromkeys(domains, asked))

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        while (request := receive_now(zap)) is not None:
            version, number, domain, address, *_, raw = (frame.bytes for frame in request)
            key = z85.encode(raw).decode()  # a key has one text: those of a list are checked
            asked = self._asked.get(domain)
            status = asked(domain, key, address.decode()) if asked is not None else [b"400", b"nobody is here", b""]
            zap.send_multipart([version, number, *status, b""])

    def stop_answering(self, domains: Iterable[bytes]) -> None:
        """Let nobody in any more; where none of the functions is left, the last socket of the hub is closed."""
        for domain in domains:
            self._asked.pop(domain, None)
        if self._zap is not None and not self._asked:
            asyncio.get_running_loop().remove_reader(self._zap.FD)
            self._zap.close()
            self._zap = None

    async def close(self) -> None:
        """End the context, when what was handed to it has left, or LINGER_MS later."""
        try:
            await asyncio.to_thread(self.context.destroy)
        except RuntimeError:  # the host has no thread left for it
            self.context.destroy()
