"""Rounds of a ring of 8 peers, each sending 2p doubles to its 2 neighbors: ours against bare sockets.

`raw` is what the sockets of this host can do: one TCP connection an edge, epoll, a header of 16
bytes, `sendmsg` out of arrays and `recv_into` into arrays that are used again and again. Both
variants write y and z anew in every round, as the mathematics would. `raw-unix` is the same with Unix sockets.
`ours` are the parts of a peer, driven as `peer.process` drives them: the transport in asyncio,
every message encoded, decoded and checked, the round machine, a fresh array a round because a
queued one must not change, a line in the journal; only the mathematics is left out. They reach each
other as peers of one launch do, over Unix sockets; `tcp` is the same over TCP, and `curve` encrypted.
Every measurement forks its own peers from this process, and the variants take turns, so that what
else this host does hits all of them; the processor time, which depends less on that, is printed
beside the rate. All but raw and ours have to be asked for: `--variant raw --variant curve`.
`together` is `ours` with four peers a process, as `peer launch --agents-per-process 4` starts them: two
of the eight links are then between processes. `zmq` and `zmq-unix` are a ROUTER that receives and a DEALER for
each neighbor, which block, without an event loop; they check nothing but the number of the round: what ZeroMQ in Python
can do at best.
`--profile` tells, for one measurement of each variant, the processor time of a peer in a round by what it was spent on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import asyncio
import gc
import json
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, final

import click
import numpy as np
import zmq

from benchmarks.split import LOOP, OTHERS, Split, table
from peer import memory, wire
from peer import transport as transport_module
from peer.arrays import Vector
from peer.changes import Changes
from peer.journal import Journal
from peer.messages import Outgoing
from peer.roster import Roster
from peer.rounds import Rounds
from peer.rounds_mode import goes_ahead
from peer.session import Session
from peer.transport import NOBODY, NOTHING, Hub, Keys, Nearby, Transport, nearby, new_key_pair
from peer.transport.incoming import Arrivals
from topology import PeerId
from topology.graphs import Graph
from topology.schedules import Static

N_PEERS: Final = 8
"""Size of the ring: enough for a queue to build up anywhere, on any number of cores."""

TARGETS: Final[Mapping[int, float]] = {1_000: 0.5, 100_000: 0.9, 1_000_000: 0.95}
"""Smallest ratio of rounds a second, ours to raw, by the number of parameters."""

TARGET_BYTES: Final = 4_000_000_000
"""What all peers together send in one measurement, unless `--rounds` says otherwise: about a second."""

MAX_ROUNDS: Final = 2_000
"""Of one measurement, for small messages."""

WARM_UP: Final = 5
"""Rounds, or a fifth of the measured ones where these are more, that do not count: connections and caches warm up."""

PATIENCE_S: Final = 60.0
"""A peer of a measurement that has not ended by then never will."""

HEADER: Final = struct.Struct("<QQ")
"""Of a raw message: round, and bytes that follow."""


@final
@dataclass(frozen=True)
class Cell:
    """What the peers of one measurement are to do.

    Parameters
    ----------
    p : int
        Length of each of the two vectors that make a share.
    n_rounds : int
        Rounds that count.
    folder : Path
        For the journals.
    keys : tuple of Keys or None
        Of each peer; None talks in the clear.
    profiled : bool
        Whether to tell what the processor time was spent on.
    together : int
        Peers a process, which follow each other on the ring.
    unix : bool
        Whether they reach each other over Unix sockets.
    """

    p: int
    n_rounds: int
    folder: Path
    keys: tuple[Keys, ...] | None
    profiled: bool = False
    together: int = 1
    unix: bool = False

    @property
    def warm_up(self) -> int:
        """Rounds before those that count."""
        return max(WARM_UP, self.n_rounds // 5)


Moment = tuple[float, float]
"""Seconds on the clock that all processes of a host share, and of processor time of one of them."""

Place = tuple[socket.socket, str, Nearby]
"""Where a peer listens: a TCP socket, its address, and the Unix socket beside, if there is one."""

Interval = tuple[Moment, Moment, Mapping[str, float]]
"""Start and end of the rounds that count, and seconds of processor time by part, if they were asked for."""


def now() -> Moment:
    """The present moment."""
    return time.monotonic(), time.process_time()


def filled(vector: Vector, number: float) -> Vector:
    """The vector, with one number everywhere."""
    vector.fill(number)
    return vector


# ---- bare sockets --------------------------------------------------------------------------


@final
@dataclass(eq=False)
class _Line:
    """One TCP connection to a neighbor, which does not block, and how far its round is."""

    end: socket.socket
    size: int
    inbox: memoryview = field(init=False)
    received: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        self.end.setblocking(False)
        if self.end.family != socket.AF_UNIX:
            self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = np.zeros(self.size, np.uint8).data

    def push(self, frames: Sequence[memoryview]) -> bool:
        """Send what the kernel takes of the frames; whether it took anything."""
        rest, skip = [], self.sent
        for frame in frames:
            if skip < len(frame):
                rest.append(frame[skip:])
            skip = max(0, skip - len(frame))
        try:
            done = self.end.sendmsg(rest)
        except BlockingIOError:
            return False
        self.sent += done
        return True

    def pull(self) -> bool:
        """Receive what the kernel has of this round; whether it had anything."""
        try:
            done = self.end.recv_into(self.inbox[self.received :])
        except BlockingIOError:
            return False
        if not done:
            raise ConnectionResetError("a neighbor is gone")
        self.received += done
        return True


def raw(cell: Cell, me: PeerId, places: Sequence[Place]) -> Interval:
    """A peer of bare sockets."""
    listeners = [near.listener or listener for listener, _, near in places]
    following = socket.socket(listeners[me].family)
    following.connect(listeners[(me + 1) % N_PEERS].getsockname())
    preceding, _ = listeners[me].accept()
    payload = 16 * cell.p
    y, z = np.zeros(cell.p), np.zeros(cell.p)
    header = bytearray(HEADER.size)
    frames = [memoryview(header), y.data.cast("B"), z.data.cast("B")]
    lines = [_Line(end, HEADER.size + payload) for end in (preceding, following)]
    split = Split({"arrays": (filled,)}, "sockets, and this program")
    split.start() if cell.profiled else split.begin()
    began = now()
    with select.epoll() as poll:
        for line in lines:
            poll.register(line.end, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        for n in range(cell.warm_up + cell.n_rounds):
            if n == cell.warm_up:
                split.begin()
                began = now()
            HEADER.pack_into(header, 0, n, payload)
            filled(y, n)  # a round's mathematics writes both, here as there
            filled(z, -n)
            for line in lines:
                line.sent = line.received = 0
            while True:
                moved = False
                for line in lines:
                    if line.sent < line.size:
                        moved |= line.push(frames)
                    if line.received < line.size:
                        moved |= line.pull()
                if all(line.sent == line.received == line.size for line in lines):
                    break
                if not moved:
                    poll.poll()
            if any(HEADER.unpack_from(line.inbox) != (n, payload) for line in lines):
                raise ValueError(f"round {n}: a neighbor sent another round")
    return began, now(), split.seconds()


# ---- bare ZeroMQ ---------------------------------------------------------------------------


def bare_zmq(cell: Cell, me: PeerId, places: Sequence[Place]) -> Interval:
    """A peer of ZeroMQ's sockets, which block."""
    memory.keep()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    listener, _, near = places[me]
    endpoints = [near.names.get(address, address) for _, address, near in places]
    router.setsockopt(zmq.USE_FD, (near.listener or listener).detach())
    router.bind(endpoints[me])
    dealers = [context.socket(zmq.DEALER) for _ in range(2)]
    for dealer, step in zip(dealers, (-1, 1), strict=True):
        dealer.setsockopt(zmq.ROUTING_ID, b"peer-%d" % me)
        dealer.connect(endpoints[(me + step) % N_PEERS])
    early: list[list[zmq.Frame]] = []
    split = Split({"arrays": (filled,), "send": (_sent,), "receive": (_received,)}, "this program")
    split.start() if cell.profiled else split.begin()
    began = now()
    for n in range(cell.warm_up + cell.n_rounds):
        if n == cell.warm_up:
            split.begin()
            began = now()
        y, z = filled(np.empty(cell.p), n), filled(np.empty(cell.p), -n)
        for dealer in dealers:
            _sent(dealer, HEADER.pack(n, 16 * cell.p), y, z)
        came, early = early, []
        while len(came) < 2:
            parts = _received(router)
            (came if HEADER.unpack_from(parts[1].buffer)[0] == n else early).append(parts)
    ended = now()
    context.destroy(linger=1_000)
    return began, ended, split.seconds()


def _sent(dealer: zmq.Socket[bytes], header: bytes, y: Vector, z: Vector) -> None:
    copied = y.nbytes < zmq.COPY_THRESHOLD
    dealer.send(header, zmq.SNDMORE)
    dealer.send(y.data, zmq.SNDMORE, copied)
    dealer.send(z.data, 0, copied)


def _received(router: zmq.Socket[bytes]) -> list[zmq.Frame]:
    return [router.recv(copy=False) for _ in range(4)]


# ---- ours ----------------------------------------------------------------------------------


def ours(cell: Cell, me: PeerId, places: Sequence[Place]) -> Interval:
    """A process of one peer or several that are made of the parts of `peer`."""
    return asyncio.run(_ours(cell, range(me, me + cell.together), places))


async def _ours(cell: Cell, ids: Sequence[PeerId], places: Sequence[Place]) -> Interval:
    if 8 * cell.p >= memory.LARGE_BYTES:
        memory.keep()
    hub, split = Hub(ids) if len(ids) > 1 else None, Split(OF_OURS)
    peers = [_Peer(cell, me, hub, places[me][2]) for me in ids]
    if cell.profiled:
        split.start()
    else:
        split.begin()
    for peer in peers:
        listener, address, _ = places[peer.me]
        peer.transport.bind(address, listener)
        for j in peer.neighbors:
            peer.transport.connect(j, places[j][1])
    began = now()

    async def rounds(peer: _Peer) -> None:
        nonlocal began
        await peer.until(lambda: peer.up == set(peer.neighbors))
        for n in range(cell.warm_up + cell.n_rounds):
            if n == cell.warm_up and peer is peers[0]:
                split.begin()
                began = now()
            await peer.round(n)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as all_of_them:
        listening = [all_of_them.create_task(peer.listen()) for peer in peers]
        await asyncio.gather(*map(rounds, peers))
        ended, spent = now(), split.seconds()
        split.stop()
        for task in listening:
            task.cancel()
    for peer in peers:
        await peer.transport.close()
    if hub is not None:
        await hub.close()
    return began, ended, spent


@final
class _Peer:
    """The parts of one peer, connected as in `peer.process`."""

    def __init__(self, cell: Cell, me: PeerId, hub: Hub | None, near: Nearby) -> None:
        schedule = Static(Graph.of(N_PEERS, [(i, (i + 1) % N_PEERS) for i in range(N_PEERS)]))
        self.cell, self.me = cell, me
        self.neighbors = schedule.graph(0).neighbors(me)
        self.form = wire.Format("benchmark", N_PEERS, cell.p, "f8")
        self.rounds = Rounds(me, schedule, cell.warm_up + cell.n_rounds, PATIENCE_S)
        self.session = Session(self.neighbors, Roster(me, str(me), 0, {}, N_PEERS, 1, 0), self.rounds)
        self.session.roster.began = True
        self.journal = Journal(cell.folder / f"{me:03d}", None, later=asyncio.get_running_loop().call_later)
        self.changed = Changes()
        self.solve_s = 0.0  # nothing is solved here that y could be hidden behind
        self.up: set[PeerId] = set()
        self.transport = Transport(
            me,
            None if cell.keys is None else cell.keys[me],
            2 * self.form.max_frame_bytes,  # in a run, too, it is set before p is known, and generous
            self.connected,
            self.session.disconnected,
            lambda j: None,
            lambda error: None,
            hub=hub,
            nearby=near,
        )

    def connected(self, j: PeerId) -> None:
        """A connection to a neighbor is up."""
        self.say(self.session.connected(j))
        self.up.add(j)
        self.changed.set()

    def say(self, messages: Outgoing) -> None:
        """Send."""
        last, packed = None, NOTHING
        for j, message in messages:
            if message is not last:
                last, packed = message, self.transport.pack(wire.encode(message, self.form))
            if not self.transport.send(j, packed):
                raise ConnectionError(f"the connection to {j} is down")

    async def listen(self) -> None:
        """Take in shares until cancelled; a wrong one ends the measurement."""
        await self.transport.serve(self.hear)

    def hear(self, came_from: PeerId, frames: list[wire.Frame]) -> bool:
        """Take in a message, as `Host` does."""
        self.say(self.session.receive(wire.decode(frames, self.form, came_from)))
        self.changed.set()
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that a message may bring about."""
        if not condition():
            self.transport.look()
        if not await self.changed.until(condition, asyncio.get_running_loop().time() + PATIENCE_S):
            raise TimeoutError("a neighbor is late")

    async def round(self, n: int) -> None:
        """One round without its mathematics, which would make the two arrays."""
        rounds, transport = self.rounds, self.transport
        sent, received, began = transport.bytes_sent, transport.bytes_received, time.monotonic()
        rounds.begin()
        y = filled(np.empty(self.cell.p), n)
        ahead = goes_ahead(y.nbytes, self.solve_s)
        if ahead:
            self.say(self.session.offer(0.5, y, None))
        z = filled(np.empty(self.cell.p), -n)
        self.say(self.session.offer(0.5, None if ahead else y, z))
        solved = time.monotonic()
        rounds.wait_from(solved)
        await self.until(lambda: not rounds.missing)
        waited = time.monotonic()
        shares = rounds.advance()
        rounds.floor = rounds.n
        whole = [(s.y, s.z) for s in shares.values() if isinstance(s.y, np.ndarray) and isinstance(s.z, np.ndarray)]
        if len(whole) < len(shares) or any(y[0] != n or z[-1] != -n for y, z in whole):
            raise ValueError(f"round {n}: a neighbor sent another round")
        self.journal.round(
            iteration=n,
            time_s=waited,
            solve_s=solved - began,
            wait_s=waited - solved,
            bytes_sent=transport.bytes_sent - sent,
            bytes_received=transport.bytes_received - received,
            neighbors=list(self.neighbors),
        )


# ---- measuring -----------------------------------------------------------------------------

OF_OURS: Final[Mapping[str, Sequence[Callable[..., object]]]] = {
    "arrays": (filled,),
    "encode": (wire.encode,),
    "send": (Transport.pack, Transport.send),
    "receive": (transport_module.receive_now,),
    "door": (Arrivals.admitted,),
    "decode": (wire.decode,),
    "session": (Session.receive, Session.offer, Rounds.begin, Rounds.advance),
    "waking": (Changes.until, Changes.set),
    "journal": (Journal.round, Journal._flush),
    "this program": (_Peer.round, _Peer.say, _Peer.hear),
}
"""What a round without mathematics is made of."""

Variant = Callable[[Cell, PeerId, Sequence[Place]], Interval]

VARIANTS: Final[Mapping[str, Variant]] = {
    "raw": raw,
    "raw-unix": raw,
    "zmq": bare_zmq,
    "zmq-unix": bare_zmq,
    "ours": ours,
    "tcp": ours,
    "curve": ours,
    "together": ours,
}

TCP: Final = ("raw", "zmq", "tcp")
"""Those whose peers reach each other over TCP; others over Unix sockets."""

TOGETHER: Final = 4
"""Peers a process, of the variant of that name."""


def cell_of(name: str, p: int, n_rounds: int, folder: Path, keys: tuple[Keys, ...], profiled: bool = False) -> Cell:
    """What a variant is to do."""
    together = TOGETHER if name == "together" else 1
    return Cell(p, n_rounds, folder, keys if name == "curve" else None, profiled, together, name not in TCP)


def measure(variant: Variant, cell: Cell) -> tuple[float, float, Mapping[str, float]]:
    """Seconds a round of a ring of freshly forked peers, processor seconds of all of them together, and of one by part.

    Parameters
    ----------
    variant : callable
        The life of one peer.
    cell : Cell
        What it is to do.

    Raises
    ------
    RuntimeError
        A peer failed, or did not end in time.
    """
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=N_PEERS) for _ in range(N_PEERS)]
    addresses = ["tcp://{}:{}".format(*listener.getsockname()) for listener in listeners]
    near = nearby(addresses) if cell.unix else [NOBODY] * N_PEERS
    places = list(zip(listeners, addresses, near, strict=True))
    reader, writer = os.pipe()
    pids = []
    for me in range(0, N_PEERS, cell.together):
        pid = os.fork()
        if pid == 0:
            _child(variant, cell, me, places, writer)
        pids.append(pid)
    os.close(writer)
    for listener in (*listeners, *(end for one in near for end in one.open)):
        listener.close()
    try:
        with os.fdopen(reader, "rb") as pipe:
            lines = pipe.read().splitlines()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    intervals: list[Interval] = [json.loads(line) for line in lines]
    if len(intervals) != len(pids):
        raise RuntimeError(f"{len(pids) - len(intervals)} of {len(pids)} processes failed")
    elapsed_s = max(end for _, (end, _), _ in intervals) - min(start for (start, _), _, _ in intervals)
    processor_s = sum(end - start for (_, start), (_, end), _ in intervals)
    parts = {part for _, _, spent in intervals for part in spent}
    spent_s = {part: sum(spent.get(part, 0.0) for _, _, spent in intervals) for part in parts}
    each = {part: seconds / N_PEERS / cell.n_rounds for part, seconds in spent_s.items()}
    return elapsed_s / cell.n_rounds, processor_s / cell.n_rounds, each


def _child(variant: Variant, cell: Cell, me: PeerId, places: Sequence[Place], writer: int) -> None:
    """The life of a forked peer; never returns."""
    try:
        signal.alarm(int(2 * PATIENCE_S))
        interval = variant(cell, me, places)
        os.write(writer, (json.dumps(interval) + "\n").encode())
    except BaseException as error:
        click.echo(f"peer {me}: {error!r}", err=True)
    finally:
        sys.stderr.flush()
        os._exit(0)


def spread(values: Sequence[float]) -> str:
    """Median of some values, and between what they lie."""
    return f"{median(values):7.4g} {f'({min(values):.4g}..{max(values):.4g})':19}"


def new_keys() -> tuple[Keys, ...]:
    """Keys for every peer of the ring."""
    pairs = [new_key_pair() for _ in range(N_PEERS)]
    public = {j: pair[0] for j, pair in enumerate(pairs)}
    return tuple(Keys(secret, own, public) for own, secret in pairs)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--p", "sizes", type=int, multiple=True, default=(1_000, 100_000, 1_000_000), help="Parameters.")
@click.option("--rounds", type=int, default=0, help="Rounds of a measurement; 0 for about a second of them.")
@click.option("--repeats", type=int, default=7, help="Measurements of each variant.")
@click.option("--variant", "names", type=click.Choice(tuple(VARIANTS)), multiple=True, default=("raw", "ours"))
@click.option("--profile", is_flag=True, help="Processor time of a round by part, in one measurement each.")
def main(sizes: tuple[int, ...], rounds: int, repeats: int, names: tuple[str, ...], profile: bool) -> None:
    """Rounds a second of a ring of 8 peers, with bare sockets and with ours, and their ratio."""
    gc.collect()
    gc.freeze()
    keys = new_keys()
    for p in sizes:
        share_bytes = 16 * p
        round_bytes = 2 * N_PEERS * share_bytes
        n_rounds = rounds or max(10, min(MAX_ROUNDS, TARGET_BYTES // round_bytes))
        if profile:
            with tempfile.TemporaryDirectory() as folder:
                each = {
                    name: measure(VARIANTS[name], cell_of(name, p, n_rounds, Path(folder), keys, True))[2]
                    for name in names
                }
            click.echo("\n".join(table(f"p = {p:,}: processor us a round, a peer", each, (*OF_OURS, LOOP, OTHERS))))
            continue
        found: dict[str, list[Moment]] = {name: [] for name in names}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repeats):
                for name in names:
                    cell = cell_of(name, p, n_rounds, Path(folder), keys)
                    elapsed_s, processor_s, _ = measure(VARIANTS[name], cell)
                    found[name].append((elapsed_s, processor_s))
        click.echo(f"p = {p:,}: {n_rounds} rounds of {round_bytes / 1e6:,.1f} MB, median of {repeats} (least..most)")
        for name, moments in found.items():
            rates = [1 / elapsed_s for elapsed_s, _ in moments]
            cpu_ms = [1e3 * cpu_s for _, cpu_s in moments]
            line = f"  {name:9} {spread(rates)} rounds/s  {median(rates) * round_bytes / 1e6:5.0f} MB/s"
            click.echo(f"{line}  processor {spread(cpu_ms)} ms/round")
        for name in (name for name in names if name != "raw" and "raw" in names):
            pairs = list(zip(found["raw"], found[name], strict=True))
            ratios = [bare / one for (bare, _), (one, _) in pairs]
            line = (
                f"  {name + '/raw':9} {spread(ratios)}{'':23}  processor {spread([a / b for (_, a), (_, b) in pairs])}"
            )
            if name in ("ours", "tcp", "together") and p in TARGETS:
                line += f"  target {TARGETS[p]} {'met' if median(ratios) >= TARGETS[p] else 'missed'}"
            click.echo(line)


if __name__ == "__main__":
    main()
