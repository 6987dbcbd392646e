"""A relay of messages between peers that loses, delays, reorders and repeats them; run by its path, with pyzmq only.

    python relay.py [--seed 0] [--drop 0.3] [--delay 0.02] [--duplicate 0.1] LISTEN=TARGET ...

Each LISTEN and TARGET is tcp://host:port. What peers with security = "none" send to LISTEN goes on
to TARGET, each message whole, in the name of its sender. Every message may be lost, whatever it is;
one that is not goes on after a time between 0 and `--delay` seconds, so that later ones overtake
it; a copy of it goes on too, now and then, at a time of its own. With `--drop 0` nothing is lost:
then what comes for a peer that is not there yet waits for it.

It says "ready" when it listens everywhere, and on SIGTERM what it did, as JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, final

import zmq

RECONNECT_MS: Final = (10, 100)
"""First and longest pause between attempts to reach a target: one that is started again is soon found."""

KINDS: Final = ("came", "dropped", "duplicated", "delivered", "overtaken", "unreachable")
"""Of what is counted; "unreachable" are those whose target was not there, or did not read."""

QUEUE_MESSAGES: Final = 100
"""Of one sender, for a target that does not read; beyond it they are lost, as in a real network."""


@final
@dataclass(eq=False)
class Link:
    """From one sender to one target.

    Parameters
    ----------
    onwards : Socket
        Connected to the target in the name of the sender.
    chance : Random
        Of this link alone, so that the fate of its k-th message depends on the seed and on k only.
    came : int
        Number of messages so far.
    newest : int
        Number of the newest one that went on.
    """

    onwards: zmq.Socket[bytes]
    chance: random.Random
    came: int = 0
    newest: int = -1


@final
@dataclass(eq=False)
class Relay:
    """All links, and what is on its way.

    Parameters
    ----------
    seed : int
        Of all chance.
    drop, duplicate : float
        Probabilities that a message is lost, or that one which is not comes twice.
    delay_s : float
        Longest time that a message is on its way.
    """

    seed: int
    drop: float
    duplicate: float
    delay_s: float
    did: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)), init=False)
    _context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context, init=False)
    _poller: zmq.Poller = field(default_factory=zmq.Poller, init=False)
    _targets: dict[zmq.Socket[bytes], str] = field(default_factory=dict, init=False)
    _links: dict[tuple[bytes, str], Link] = field(default_factory=dict, init=False)
    _on_the_way: list[tuple[float, int, Link, int, list[bytes]]] = field(default_factory=list, init=False)
    _n_scheduled: int = field(default=0, init=False)

    def listen(self, address: str, target: str) -> None:
        """Take what comes to an address on to a target, from now on."""
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a peer that is started again keeps its name
        router.setsockopt(zmq.LINGER, 0)
        router.bind(address)
        self._poller.register(router, zmq.POLLIN)
        self._targets[router] = target

    def serve(self, until: socket.socket) -> None:
        """Relay until something can be read from a socket."""
        self._poller.register(until, zmq.POLLIN)
        while True:
            wait_ms = None
            if self._on_the_way:
                wait_ms = max(0, math.ceil(1e3 * (self._on_the_way[0][0] - time.monotonic())))
            for source, _ in self._poller.poll(wait_ms):
                if not isinstance(source, zmq.Socket):
                    return
                self._take(source)
            self._deliver(time.monotonic())

    def close(self) -> dict[str, int]:
        """Let go of everything; what was done, by kind."""
        for router in self._targets:
            router.close(0)
        for link in self._links.values():
            link.onwards.close(0)
        self._context.term()
        return dict(self.did) | {"on the way": len(self._on_the_way)}

    def _take(self, router: zmq.Socket[bytes]) -> None:
        """Everything that is there now; what becomes of it is decided at once."""
        while True:
            try:
                sender, *frames = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            link = self._link(sender, self._targets[router])
            number, link.came = link.came, link.came + 1
            self.did["came"] += 1
            if link.chance.random() < self.drop:
                self.did["dropped"] += 1
                continue
            twice = link.chance.random() < self.duplicate
            self.did["duplicated"] += twice
            for _ in range(1 + twice):
                due_s = time.monotonic() + link.chance.uniform(0.0, self.delay_s)
                heapq.heappush(self._on_the_way, (due_s, self._n_scheduled, link, number, frames))
                self._n_scheduled += 1

    def _deliver(self, now_s: float) -> None:
        """Everything that is due."""
        while self._on_the_way and self._on_the_way[0][0] <= now_s:
            _, _, link, number, frames = heapq.heappop(self._on_the_way)
            try:
                link.onwards.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                self.did["unreachable"] += 1
                continue
            self.did["delivered"] += 1
            self.did["overtaken"] += number < link.newest
            link.newest = max(link.newest, number)

    def _link(self, sender: bytes, target: str) -> Link:
        """The link of a sender to a target, connected when its first message comes."""
        if (sender, target) not in self._links:
            dealer = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.ROUTING_ID, sender)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
            dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
            dealer.setsockopt(zmq.IMMEDIATE, int(self.drop > 0.0))  # who may lose does not wait for the absent
            dealer.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES if self.drop > 0.0 else 0)
            dealer.connect(target)
            chance = random.Random(f"{self.seed} {sender!r} {len(self._targets)} {self._number_of(target)}")
            self._links[sender, target] = Link(dealer, chance)
        return self._links[sender, target]

    def _number_of(self, target: str) -> int:
        """Place of a target on the command line: ports differ from run to run, and are not to decide anything."""
        return list(self._targets.values()).index(target)


def main() -> None:
    """Relay until SIGTERM, then print what was done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drop", type=float, default=0.3)
    parser.add_argument("--delay", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--duplicate", type=float, default=0.1)
    parser.add_argument("routes", nargs="+", metavar="LISTEN=TARGET")
    given = parser.parse_args()
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)  # the byte that it leaves in the socket says it all
    relay = Relay(given.seed, given.drop, given.duplicate, given.delay)
    for route in given.routes:
        listen, _, target = route.partition("=")
        relay.listen(listen, target)
    print("ready", flush=True)
    relay.serve(told)
    print(json.dumps(relay.close()), flush=True)


if __name__ == "__main__":
    main()
