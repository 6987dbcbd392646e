"""Unix sockets between peers of one host: the same messages, without the work that the kernel has with TCP.

Whoever starts all peers of a host lets each listen at a name, too, which the others know. An address is still what a
peer is known by, and the way to it where nobody listens at the name any more: somebody else may have started it anew.

Names are abstract, as Linux has them: no file is left behind by a peer that was killed. ZeroMQ asks the kernel who
connects, and hangs up where that is another user. The bytes that come over such a connection are not counted, see
`peer.door`; its messages are.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import zmq


@final
@dataclass(frozen=True)
class Nearby:
    """Where peers of this host can be reached beside their addresses, and where this one can.

    Parameters
    ----------
    names : mapping of str to str
        Names, as ZeroMQ has them, by address.
    listener : socket or None
        Of this peer: it listens at its name already.
    """

    names: Mapping[str, str]
    listener: socket.socket | None = None

    @property
    def open(self) -> list[socket.socket]:
        """What listens, if anything does."""
        return [] if self.listener is None else [self.listener]

    def bind(self, router: zmq.Socket[bytes]) -> None:
        """Have a socket listen at this peer's name, if it has one, to processes of this user."""
        if self.listener is None:
            return
        name = self.listener.getsockname()
        router.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        router.setsockopt(zmq.USE_FD, self.listener.detach())
        router.bind(f"ipc://@{name[1:].decode()}")


NOBODY: Final = Nearby({})
"""Is nearby."""


def nearby(addresses: Sequence[str]) -> list[Nearby]:
    """For each of the peers with these addresses, all of this host; `NOBODY` where the system has no such names.

    The sockets listen: each peer has to have its own, and nobody else's.
    """
    fleet, found = secrets.token_hex(8), []
    names = {address: f"peer-{fleet}-{peer}" for peer, address in enumerate(addresses)}
    try:
        if sys.platform != "linux":
            raise OSError("no abstract names")
        for name in names.values():
            found.append(socket.socket(socket.AF_UNIX))
            found[-1].bind(f"\0{name}")
            found[-1].listen(len(addresses))
    except OSError:
        for listener in found:
            listener.close()
        return [NOBODY] * len(addresses)
    known = {address: f"ipc://@{name}" for address, name in names.items()}
    return [Nearby(known, listener) for listener in found]
