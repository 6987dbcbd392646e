"""Links between the agents of one process: a message is handed over in the event loop, and touches no socket.

What is handed over are the frames that would be sent, see `peer.wire`: so whoever gets them reads the same bits, with
the same checks, as from a socket; who reads them first has them checked for all. They are views of the sender's arrays,
which do not change any more, and nobody who gets them can change them.

To whoever uses it a link is one as any other. It comes up when both ends are there, messages come in their order, only
so many wait to be read, and it breaks when the other end is closed; whether one who left is somewhere else by then is
for `peer.transport` to see.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, final

from peer.wire import Handed
from topology import PeerId

AGAIN_S: Final = 0.02
"""Until a link that was given up is made anew: as long as over a network."""


@final
@dataclass(eq=False)
class Room:
    """The agents of one process, by which their ends find each other.

    Parameters
    ----------
    expected : set of int
        Agents that are here, or will be.
    """

    expected: set[PeerId]
    ends: dict[PeerId, End] = field(default_factory=dict, init=False)

    def enter(self, end: End) -> None:
        """An agent is here: links to it come up."""
        self.ends[end.me] = end
        for other in self.ends.values():
            other.came(end.me)

    def leave(self, me: PeerId) -> None:
        """An agent is gone, or has never come, and is not expected any more: links to it break."""
        self.expected.discard(me)
        self.ends.pop(me, None)
        for other in self.ends.values():
            other.left(me)


@final
@dataclass(eq=False, slots=True)
class _Link:
    """One direction of a link.

    Parameters
    ----------
    sender : End
    to : int
        Its receiver.
    is_up : bool
    n_waiting : int
        Messages that the receiver has not read yet.
    is_full : bool
        The sender has found no room, and waits to be told of some.
    """

    sender: End
    to: PeerId
    is_up: bool = False
    n_waiting: int = 0
    is_full: bool = False


@final
class End:
    """One agent's end of its links within the process.

    Parameters
    ----------
    me : int
        The agent.
    room : Room
    queue_messages : int
        Messages of this agent that may wait at one receiver.
    awake : callable
        Called when there is a message to `take`.
    on_connect, on_disconnect, on_writable : callable
        As those of `peer.transport`.
    on_left : callable
        Called with an agent that has left the process, when the link to it is gone.
    """

    def __init__(
        self,
        me: PeerId,
        room: Room,
        queue_messages: int,
        awake: Callable[[], None],
        on_connect: Callable[[PeerId], None],
        on_disconnect: Callable[[PeerId], None],
        on_writable: Callable[[PeerId], None],
        on_left: Callable[[PeerId], None],
    ) -> None:
        self.me = me
        self._room = room
        self._queue_messages = queue_messages
        self._awake = awake
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_writable = on_writable
        self._on_left = on_left
        self._loop = asyncio.get_running_loop()
        self._links: dict[PeerId, _Link] = {}
        self._unread: deque[tuple[_Link, Handed]] = deque()

    def open(self) -> None:
        """Be there for others."""
        self._room.enter(self)

    def close(self) -> None:
        """Be gone."""
        self._links.clear()
        self._unread.clear()
        self._room.leave(self.me)

    # ---- links -----------------------------------------------------------------------------

    def connect(self, j: PeerId) -> bool:
        """Keep a link to agent j, which comes up a moment later; False where it is none of this process."""
        if j not in self._room.expected:
            return False
        link = self._links[j] = _Link(self, j)
        self._loop.call_soon(self._rise, link)
        return True

    def disconnect(self, j: PeerId) -> None:
        """Drop the link to j, if there is one; what was sent over it is read still."""
        self._links.pop(j, None)

    def reconnect(self, j: PeerId) -> None:
        """Take the link to j down, if there is one, and up again in a moment."""
        if (link := self._links.get(j)) is not None:
            link.is_up = False
            self._loop.call_later(AGAIN_S, self._rise, link)

    def came(self, j: PeerId) -> None:
        """An agent is here."""
        if (link := self._links.get(j)) is not None:
            self._loop.call_soon(self._rise, link)

    def left(self, j: PeerId) -> None:
        """An agent is gone; what it sent before is read before the link breaks, if this agent waits for messages."""
        if (link := self._links.get(j)) is not None:
            self._loop.call_soon(self._fall, link)

    def _rise(self, link: _Link) -> None:
        if self._links.get(link.to) is link and not link.is_up and link.to in self._room.ends:
            link.is_up = True
            self._on_connect(link.to)

    def _fall(self, link: _Link) -> None:
        if self._links.get(link.to) is not link:
            return
        del self._links[link.to]
        if link.is_up:
            self._on_disconnect(link.to)
        self._on_left(link.to)

    # ---- messages --------------------------------------------------------------------------

    def send(self, j: PeerId, frames: Handed) -> bool:
        """Hand frames to agent j; False where the link is not up, or so many wait there that it has no room."""
        if not self.writable(j):
            return False
        link, end = self._links[j], self._room.ends[j]
        link.n_waiting += 1
        end._unread.append((link, frames))
        end._awake()
        return True

    def writable(self, j: PeerId) -> bool:
        """Whether `send` would take a message for agent j now; if it is full, `on_writable` tells when it would."""
        link = self._links.get(j)
        if link is None or not link.is_up or j not in self._room.ends:
            return False
        link.is_full = link.n_waiting >= self._queue_messages
        return not link.is_full

    def take(self) -> tuple[PeerId, Handed] | None:
        """The message that has waited longest, and whose it is; None where there is none."""
        if not self._unread:
            return None
        link, frames = self._unread.popleft()
        link.n_waiting -= 1
        if link.is_full:
            link.is_full = False
            self._loop.call_soon(link.sender._tell_of_room, link)
        return link.sender.me, frames

    def _tell_of_room(self, link: _Link) -> None:
        if self._links.get(link.to) is link and link.is_up:
            self._on_writable(link.to)
