"""A network in memory for whole runs in one thread: connections that delay, reorder, repeat, lose, garble and break.

A connection carries one direction, as those of `peer.transport` do: the one from i to j is opened
by i, breaks without i noticing at once, and comes up again by itself. Between two processes that
live and can reach each other it always does, some time.

What a broken network does to messages depends on what carries them. TCP delivers all or breaks:
there a message gets lost only with its connection. On top of it CURVE authenticates every frame,
so a bit that TCP's checksum missed also ends the connection, and nothing of it is delivered. In
the clear (`sealed` is False) the garbled frames come first, for the receiver to drop and count, and
framing that makes no sense any more then ends the connection. That is `reliable`, which a run in
rounds needs. Without it a message may be lost or garbled and the connection stays, as behind a
relay: what a run without rounds has to stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol, TypeAlias, final

import numpy as np

from peer import wire
from tests.simulated import Clock
from topology import PeerId

Arc: TypeAlias = tuple[PeerId, PeerId]
"""A directed link: from, to."""

RUN_ID: Final = "simulated"
"""Name of every simulated run."""

LATE: Final = 10.0
"""How many units of time a message may be late."""

KERNEL_MESSAGES: Final = 20
"""That the kernels at both ends of a connection hold, on top of what may wait for it in its process."""


@final
@dataclass(frozen=True)
class Weather:
    """What happens to connections and processes.

    Parameters
    ----------
    unit : float
        A while: until a break is noticed, and until a connection is up again.
    delay : float
        Mean time of a message on its way.
    reorder : bool
        Whether messages overtake each other, but for those that say that nothing may overtake them:
        TCP sees to that for all, and the meeting before round 0 relies on it.
    late, duplicate, loss, corrupt : float
        Probabilities that a message comes up to `LATE` units later, twice, not at all, or garbled.
    reliable : bool
        Whether what is lost or garbled breaks its connection.
    sealed : bool
        Whether garbled frames are found before they are delivered.
    narrow : float
        Share of connections on which a message leaves only when the one before it has arrived.
    breaks : tuple of float
        When a connection breaks.
    partitions, cuts, stops : tuple of (float, float)
        When, and for how long, the peers fall apart into two groups that cannot reach each other; one
        direction between two peers is closed; a process is stopped, as by SIGSTOP.
    """

    unit: float
    delay: float
    reorder: bool
    late: float
    duplicate: float
    loss: float
    corrupt: float
    reliable: bool
    sealed: bool
    narrow: float
    breaks: tuple[float, ...]
    partitions: tuple[tuple[float, float], ...]
    cuts: tuple[tuple[float, float], ...]
    stops: tuple[tuple[float, float], ...]

    @property
    def is_calm(self) -> bool:
        """Whether every message comes, once, and every connection stays."""
        happens = (self.duplicate, self.loss, self.corrupt, self.breaks, self.partitions, self.cuts, self.stops)
        return not any(happens)


def weather(chance: Random, length: float, unit: float, reliable: bool, narrow: bool) -> Weather:
    """Some weather for so long; a third of it is fair."""
    fair = chance.random() < 1 / 3
    rare = 0.25 if reliable else 1.0  # each one breaks a connection there

    def sometimes(probability: float) -> float:
        return 0.0 if fair else chance.choice((0.0, probability / 4, probability))

    def times(*numbers: int) -> tuple[float, ...]:
        return tuple(sorted(chance.uniform(0.0, length) for _ in range(0 if fair else chance.choice(numbers))))

    def spells(*numbers: int) -> tuple[tuple[float, float], ...]:
        return tuple((at, chance.uniform(0.05, 0.5) * length) for at in times(*numbers))

    return Weather(
        unit=unit,
        delay=unit * chance.choice((0.1, 0.3, 1.0, 3.0) if reliable else (0.1, 0.3, 1.0)),
        reorder=chance.random() < 0.5,
        late=chance.choice((0.0, 0.0, 0.02)),
        duplicate=0.0 if fair else chance.choice((0.0, 0.1, 0.5)),
        loss=sometimes(0.4 * rare),
        corrupt=sometimes(0.2 * rare),
        reliable=reliable,
        sealed=chance.random() < 0.5,
        narrow=chance.choice((0.0, 0.5)) if narrow else 0.0,
        breaks=times(0, 1, 4, 15),
        partitions=spells(0, 0, 1, 2),
        cuts=spells(0, 0, 1, 3),
        stops=spells(0, 0, 1, 2),
    )


class Process(Protocol):
    """One process of one peer, as the network sees it."""

    me: PeerId
    alive: bool

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one peer on this side."""

    def writable(self, j: PeerId) -> None:
        """A connection that was full has room again."""

    def connected(self, j: PeerId) -> None:
        """A connection to another peer is up."""

    def disconnected(self, j: PeerId) -> None:
        """The connection to another peer broke."""

    def take(self, frames: list[bytes], sender: PeerId, whole: bool) -> None:
        """Take in a message, which may be garbled."""


@final
@dataclass(eq=False)
class Link:
    """The connection that peer i opened to peer j, over which i sends.

    `writable`: it takes messages, also while a break is not noticed yet, when they are lost.
    `number` counts connections: what was sent over an older one does not arrive.
    `wanted`: i keeps it up. `told`, `barrier`, `last`: when i hears of its state next, and when the last message
    arrives that nothing may overtake, and the last one of all. `room`: messages that fit on it.
    """

    room: int

    wanted: bool = False
    writable: bool = False
    alive: bool = False
    number: int = 0
    told: float = 0.0
    barrier: float = 0.0
    last: float = 0.0
    on_its_way: int = 0
    full: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)


@final
class Network:
    """Connections between processes.

    Parameters
    ----------
    clock : Clock
        Time and chance.
    weather : Weather
        What happens.
    """

    def __init__(self, clock: Clock, weather: Weather) -> None:
        self.clock, self.weather = clock, weather
        self.links: dict[Arc, Link] = {}
        self.processes: dict[PeerId, Process] = {}
        self.happened: Counter[str] = Counter()
        self.queue = 0
        self._closed: dict[Arc, float] = {}
        self._stopped: dict[PeerId, float] = {}
        for at in weather.breaks:
            clock.at(at, self._break_some)
        for kind, spells in ((self._fall_apart, weather.partitions), (self._close_one, weather.cuts)):
            for at, length in spells:
                clock.at(at, lambda kind=kind, length=length: kind(length))  # type: ignore[misc]
        for at, length in weather.stops:
            clock.at(at, lambda length=length: self._stop_some(length))  # type: ignore[misc]

    # ---- processes -------------------------------------------------------------------------

    def start(self, process: Process, neighbors: Iterable[PeerId]) -> None:
        """A process lives from now on, and is found again by those that look for it."""
        self.processes[process.me] = process
        self._stopped.pop(process.me, None)
        for j in neighbors:
            self.open(process.me, j)
        for (i, j), link in sorted(self.links.items()):
            if j == process.me and link.wanted:
                self._reconnect(i, j)

    def open(self, i: PeerId, j: PeerId) -> None:
        """Peer i keeps up a connection to j from now on."""
        link = self.links.get((i, j))
        if link is None or not link.wanted:  # what a process before this one sent may still arrive
            narrow = self.clock.happens(self.weather.narrow)
            self.happened["slow link"] += narrow
            link = self.links[i, j] = Link(self.processes[i].queue_messages + (0 if narrow else KERNEL_MESSAGES))
        link.wanted = True
        self._reconnect(i, j)

    def shut(self, i: PeerId, j: PeerId) -> None:
        """Peer i gives up its connection to j; what it sent arrives."""
        link = self.links[i, j]
        link.wanted = link.writable = link.alive = False

    def end(self, process: Process) -> None:
        """A process ends by itself; what it sent arrives."""
        self._gone(process, arrives=1.0)

    def kill(self, process: Process) -> None:
        """A process ends without a word; what it sent may arrive."""
        self._gone(process, arrives=0.5)

    def _gone(self, process: Process, arrives: float) -> None:
        process.alive = False
        for (i, j), link in sorted(self.links.items()):
            if j == process.me:
                self._cut(i, j)
            elif i == process.me:
                link.wanted = link.writable = link.alive = False
                link.number += not self.clock.happens(arrives)

    def lives(self, i: PeerId) -> bool:
        """Whether a peer has a process."""
        return i in self.processes and self.processes[i].alive

    def later(self, process: Process, delay: float, event: Callable[[], object]) -> None:
        """Something that happens in a process after a while."""
        self.clock.later(delay, lambda: self._inside(process, event))

    def _inside(self, process: Process, event: Callable[[], object]) -> None:
        """Something that happens in a process: not if it is gone, and later if it is stopped now."""
        if not process.alive:
            return
        goes_on = self._stopped.get(process.me, 0.0)
        if goes_on > self.clock.now:
            self.clock.at(goes_on, lambda: self._inside(process, event))
        else:
            event()

    def _stop_some(self, length: float) -> None:
        """A process is stopped for a while; not one that is stopped already, for what waits in it keeps its order."""
        able = [i for i in sorted(self.processes) if self.lives(i) and self._stopped.get(i, 0.0) <= self.clock.now]
        if not able:
            return
        i = self.clock.chance.choice(able)
        self.happened["peer stopped for a while"] += 1
        self.clock.tell(f"peer {i} is stopped for {length:.3g}")
        self._stopped[i] = self.clock.now + length
        if self.clock.happens(0.5):  # longer than the others' heartbeats
            for a, b in sorted(self.links):
                if i in (a, b):
                    self._cut(a, b)

    # ---- connections -----------------------------------------------------------------------

    def _reconnect(self, i: PeerId, j: PeerId) -> None:
        self.clock.later(self._while(), lambda: self._connect(i, j))

    def _while(self) -> float:
        return self.clock.soon(self.weather.unit)

    def _connect(self, i: PeerId, j: PeerId) -> None:
        """A connection from i to j is up; i is told a little later, and may have used it by then."""
        link = self.links[i, j]
        if not link.wanted or link.writable or not (self.lives(i) and self.lives(j)):
            return
        possible = max(self._closed.get((i, j), 0.0), self._stopped.get(i, 0.0), self._stopped.get(j, 0.0))
        if possible > self.clock.now:
            self.clock.at(possible + self._while(), lambda: self._connect(i, j))
            return
        link.writable = link.alive = True
        link.number += 1
        link.barrier = link.last = self.clock.now
        link.on_its_way, link.full = 0, False
        link.held.clear()
        self._callback(link, i, j, True)

    def _callback(self, link: Link, i: PeerId, j: PeerId, up: bool) -> None:
        process = self.processes[i]
        link.told = max(link.told, self.clock.now + self.clock.soon(0.2 * self.weather.unit))

        def call() -> None:
            if not link.wanted:
                return
            self.clock.tell(f"peer {i} is {'connected to' if up else 'disconnected from'} {j}")
            (process.connected if up else process.disconnected)(j)

        self.later(process, link.told - self.clock.now, call)

    def _cut(self, i: PeerId, j: PeerId) -> None:
        """The connection of i to j breaks: what is on its way is lost, and what is sent until i notices."""
        link = self.links[i, j]
        if not link.alive:
            return
        self.clock.tell(f"the connection {i} -> {j} breaks")
        link.alive = False
        link.number += 1
        link.on_its_way = 0
        link.held.clear()
        number, process = link.number, self.processes[i]

        def notice() -> None:
            if process.alive and link.number == number and link.wanted:
                link.writable = False
                self._callback(link, i, j, False)
                self._reconnect(i, j)

        self.clock.later(self._while(), notice)

    def _break_some(self) -> None:
        """A connection breaks, or both between two peers."""
        alive = [arc for arc, link in sorted(self.links.items()) if link.alive]
        if not alive:
            return
        i, j = self.clock.chance.choice(alive)
        self.happened["connection broken"] += 1
        self._cut(i, j)
        if (j, i) in self.links and self.clock.happens(0.5):
            self._cut(j, i)

    def _fall_apart(self, length: float) -> None:
        """Two groups of peers cannot reach each other for a while."""
        peers = sorted(self.processes)
        here = {i for i in peers if self.clock.happens(0.5)}
        if not here or len(here) == len(peers):
            here = set(peers[:1])
        self.happened["partition"] += 1
        self.clock.tell(f"peers {sorted(here)} and the others cannot reach each other for {length:.3g}")
        for i in peers:
            for j in peers:
                if (i in here) != (j in here):
                    self._close(i, j, length)

    def _close_one(self, length: float) -> None:
        """One direction between two peers is closed for a while."""
        if not self.links:
            return
        i, j = self.clock.chance.choice(sorted(self.links))
        self.happened["one-way cut"] += 1
        self.clock.tell(f"peer {i} cannot reach {j} for {length:.3g}")
        self._close(i, j, length)

    def _close(self, i: PeerId, j: PeerId, length: float) -> None:
        """Nothing gets from i to j for a while: TCP holds it back, or the connection breaks.

        What is closed already opens when it does, for what is held back keeps its order.
        """
        if self._closed.get((i, j), 0.0) <= self.clock.now:
            self._closed[i, j] = self.clock.now + length
        if (i, j) in self.links and self.clock.happens(0.5):
            self._cut(i, j)

    # ---- messages --------------------------------------------------------------------------

    def send(self, i: PeerId, j: PeerId, name: str, frames: Sequence[wire.Frame], barrier: bool = False) -> bool:
        """Take frames for their way; False where the connection is known to be down, or full.

        `barrier`: nothing that is sent later arrives before.
        """
        link, weather, clock = self.links.get((i, j)), self.weather, self.clock
        if link is None or not link.writable:
            clock.tell(f"{i} -> {j}  not connected: {name}")
            return False
        if link.on_its_way >= link.room:
            clock.tell(f"{i} -> {j}  full: {name}")
            self.happened["message replaced by a newer one"] += 1
            link.full = True
            return False
        clock.tell(f"{i} -> {j}  {name}{'' if link.alive else ', lost'}")
        if link.alive and clock.happens(weather.loss):
            self.happened["message lost"] += 1
            clock.tell(f"{i} -> {j}  it gets lost")
            if weather.reliable:
                self._cut(i, j)
        elif link.alive:
            copies = 1 + clock.happens(weather.duplicate)
            self.happened["message duplicated"] += copies - 1
            for _ in range(copies):
                at = self._deliver(link, i, j, name, frames)
                link.barrier = max(link.barrier, at) if barrier else link.barrier
        return True

    def _deliver(self, link: Link, i: PeerId, j: PeerId, name: str, frames: Sequence[wire.Frame]) -> float:
        """Send one copy on its way; when it arrives, if nothing holds it up."""
        weather, clock, number = self.weather, self.clock, link.number
        late, whole = clock.happens(weather.late), not clock.happens(weather.corrupt)
        self.happened["message late"] += late
        self.happened["message corrupted"] += not whole
        at = clock.now + clock.soon(weather.delay) + (clock.chance.uniform(0.0, LATE * weather.unit) if late else 0.0)
        at = max(at, link.barrier if weather.reorder else link.last)
        self.happened["message overtaken"] += at < link.last
        link.last = max(link.last, at)
        link.on_its_way += 1
        self.queue = max(self.queue, link.on_its_way)
        sender, receiver = self.processes[i], self.processes[j]

        def hand_over() -> None:
            link.on_its_way -= 1
            if link.full and link.wanted:
                link.full = False
                self._inside(sender, lambda: sender.writable(j))
            if receiver.alive and (whole or not weather.sealed):
                clock.tell(f"{i} => {j}  {name}{'' if whole else ', garbled'}")
                received = [bytes(frame) for frame in frames]  # copied now: nobody may have changed them meanwhile
                receiver.take(received if whole else garbled(received, clock.chance), i, whole)
            if not whole and weather.reliable and self.links[i, j] is link:
                self._cut(i, j)

        def arrive() -> None:
            if link.number == number:
                link.held.append(hand_over)
                if len(link.held) == 1:
                    self._release(link, number, i, j)

        clock.at(at, arrive)
        return at

    def _release(self, link: Link, number: int, i: PeerId, j: PeerId) -> None:
        """Hand over what has arrived, in its order, unless the way is closed or the receiver is stopped."""
        while link.held and link.number == number:
            opens = max(self._closed.get((i, j), 0.0), self._stopped.get(j, 0.0))
            if opens > self.clock.now:
                self.clock.at(opens, lambda: self._release(link, number, i, j))
                return
            link.held.pop(0)()


def garbled(frames: list[bytes], chance: Random) -> list[bytes]:
    """A message of which nobody could take it for a whole one.

    A bit of a tensor that has flipped is nothing that a receiver could find: that is what the
    authentication of CURVE is for.
    """
    header, *tensors = frames
    ways = [
        [header[:-1], *tensors],
        [chance.randbytes(20), *tensors],
        [header.replace(RUN_ID.encode(), RUN_ID[::-1].encode()), *tensors],
        [*frames, b"0"],
        [],
    ]
    if tensors:
        ways += [frames[:-1], [header, tensors[0][:-1], *tensors[1:]], [header, *tensors[:-1], tensors[-1] + b"0"]]
    if len(tensors) == 2 and len(tensors[0]) != len(tensors[1]):  # a flow
        v, sums = tensors
        nan, infinite = np.full(len(sums) // 8, np.nan), np.full(len(v) // 8, np.inf)
        ways += [[header, sums, v], [header, v, nan.tobytes()], [header, infinite.tobytes(), sums]]
    return chance.choice(ways)
