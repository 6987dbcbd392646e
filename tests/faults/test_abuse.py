"""Peers that are abused in the middle of a run, by strangers and by listed peers: not one bit of the result changes."""

from __future__ import annotations

import os
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

from peer import wire
from peer.messages import Bye, Flow, Hello, Message, Share
from peer.transport import identity, new_key_pair
from tests import abuse
from tests.integration.lab import Lab, dropped, end, flat, free_addresses, metrics, same_finals, wait_until

PEERS, ROUNDS = 5, 300

FIRST, LATER = [(0, 1), (1, 2), (0, 2), (2, 3), (0, 4), (4, 1)], [(0, 1), (1, 2), (0, 2), (2, 3), (4, 1)]
"""Links of the first rounds and of the others: 3 is never a neighbor of 0, which is abused, and 4 only at first."""

MEETINGS_OF_4 = 10
"""Rounds in which 0 and 4 meet."""

HELD_AT = 50
"""Round in which the run is held, by freezing a peer, while the abuse goes on."""

RESIDENT_BYTES = 10_000_000
"""By how much the abused peer may have grown after it all."""


def _experiment(lab: Lab, name: str, **transport: Any) -> Path:
    rng = np.random.default_rng(3)
    schedule = [FIRST if n < MEETINGS_OF_4 else LATER for n in range(ROUNDS)]
    return lab.experiment(
        name,
        peers=PEERS,
        iterations=ROUNDS,
        seed=1,
        data={"path": lab.shards([(rng.normal(size=(20, 3)), rng.normal(size=(20, 2))) for _ in range(PEERS)])},
        model={"hidden": [8]},
        topology={"schedule": "file", "path": lab.schedule(schedule)},
        run={"id": "abused", "checkpoint_every": 5, "patience_s": 600.0},
        transport=transport,
    )


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class Abuse:
    """What can be done to peer 0.

    Parameters
    ----------
    address : str
        Where it listens.
    keys : Path
        Folder with all keys, also those that an attacker has no right to.
    form : Format
        Of the run's messages.
    """

    def __init__(self, address: str, keys: Path, form: wire.Format) -> None:
        self.address, self.form = address, form
        self.over = threading.Event()
        self.public = tomllib.loads((keys / "public.toml").read_text())
        self.secrets = [(keys / f"peer-{j:03d}.secret").read_text().strip() for j in range(PEERS)]

    @contextmanager
    def speaker(self, peer: int, name: bytes | None = None) -> Iterator[Any]:
        """A connection with the key of a listed peer."""
        pair = self.public[str(peer)], self.secrets[peer]
        with abuse.speaker(self.address, self.public["0"], pair, name or identity(peer) + b".0123") as socket:
            yield socket

    def say(self, peer: int, *messages: Sequence[bytes], name: bytes | None = None) -> None:
        """Send messages with the key of a listed peer, and wait until they have left."""
        with self.speaker(peer, name) as socket:
            abuse.comes(zmq.EVENT_HANDSHAKE_SUCCEEDED, socket, self.over)
            for frames in messages:
                socket.send_multipart(list(frames))
            abuse.leave(socket)

    def frames(self, message: Message, **header: Any) -> list[bytes]:
        """Frames of a message, with other fields in its header."""
        first, *rest = (bytes(frame) for frame in wire.encode(message, self.form))
        return [msgpack.packb(msgpack.unpackb(first, strict_map_key=False) | header), *rest]

    def share(self, sender: int, n: int, value: float = 1.0) -> Share:
        """A share that would spoil the run."""
        vector = np.full(self.form.n_parameters, value)
        return Share(sender, n, 0, 0.5, vector, vector)

    # ---- strangers -------------------------------------------------------------------------

    def lies(self) -> None:
        """Whatever is no handshake, with claims of 4 GB, HTTP, and random bytes."""
        openings = [*abuse.LIES, *(abuse.noise(n) for n in (1, 10, 64, 100, 1_000, 100_000))] * 3
        with ThreadPoolExecutor(8) as several:
            list(several.map(lambda opening: abuse.lie(self.address, opening), openings))

    def crowd(self) -> None:
        """Connections that say nothing, more than are let in, until the first are shown out."""
        ends = abuse.half_open(self.address, 250, 0.02)
        for one in ends:
            one.settimeout(20.0)
            while one.recv(1_000):  # its greeting; then it hangs up
                pass
            one.close()

    def knocks(self) -> None:
        """Connections made and closed at once."""
        for _ in range(300):
            one = abuse.try_to_dial(self.address, 0.2)
            if one is not None:
                one.close()

    def unlisted(self) -> None:
        """Keys that are not on the list, with the names and words of neighbors."""
        for _ in range(10):
            with abuse.speaker(self.address, self.public["0"], new_key_pair(), identity(1) + b".1") as socket:
                with suppress(zmq.Again):  # it is refused already
                    socket.send_multipart(self.frames(self.share(1, HELD_AT)), zmq.NOBLOCK)
                abuse.comes(zmq.EVENT_HANDSHAKE_FAILED_AUTH, socket, self.over)

    # ---- listed peers ----------------------------------------------------------------------

    def imposture(self) -> None:
        """A listed peer that says to be another one, by the name of its link, or in its messages."""
        self.say(3, *[self.frames(self.share(1, n)) for n in range(HELD_AT, HELD_AT + 3)], name=identity(1) + b".1")
        self.say(3, *[self.frames(self.share(1, n)) for n in range(HELD_AT, HELD_AT + 3)])

    def nonsense(self) -> None:
        """A listed peer that is no neighbor, with messages that are wrong in every way."""
        share = self.frames(self.share(3, HELD_AT))
        hello = Hello(3, "x", 0, "ask", 0, (), {}, {3: 1}, 0)
        vector = np.zeros(self.form.n_parameters)
        self.say(
            3,
            self.frames(self.share(3, HELD_AT)),
            self.frames(hello),
            self.frames(Bye(3, "for no reason")),
            self.frames(Flow(3, 1, (0, 1), vector, np.zeros(vector.size + wire.N_SCALARS))),
            self.frames(self.share(3, HELD_AT), run="another"),
            self.frames(self.share(3, HELD_AT), v=99),
            self.frames(self.share(3, HELD_AT), dtype="f2"),
            self.frames(self.share(3, HELD_AT), objective=float("nan")),
            self.frames(self.share(3, HELD_AT), parts=["y"]),
            [share[0], share[1][:-8], share[2]],
            [share[0], *share[1:] * 200],
            [abuse.noise(200)],
            [b""],
            [b"\xdd\x00\x01\xe0\x00" + b"\x90" * 122_880],  # a list of empty lists, each an object of 56 bytes
            [b"\x91" * 100_000],
            [bytes(self.form.max_header_bytes + 1)],
            *([[b"\xdd\x00\x01\xe0\x00" + b"\x90" * 122_880]] * 20),
        )

    def past_and_future(self) -> None:
        """Neighbors, now or once, with shares of rounds that are over, or not theirs; and a second process of one."""
        self.say(1, *[self.frames(self.share(1, n)) for n in range(HELD_AT - 1)])
        self.say(4, *[self.frames(self.share(4, n)) for n in (*range(200), ROUNDS + 1, 2**50)])
        self.say(1, self.frames(Hello(1, "a twin", 0, "ask", 0, (), {}, {1: 20}, 0)))
        self.say(1, self.frames(Hello(1, "a twin", 99, "ask", 0, (), {"step.alpha": "2"}, {1: 20}, 0)))
        self.say(1, self.frames(Hello(1, "a twin", 99, "news", 0, (), {}, {1: 21}, 0)))

    def flood(self) -> None:
        """A listed peer, no neighbor, as fast as it can, until it is shown out."""
        with self.speaker(3) as socket:
            abuse.flood(socket, self.frames(self.share(3, HELD_AT)), 60.0)


EXPECTED = {
    *(("handshake", None), ("half-open", None), ("crowd", None), ("key", None)),
    *((cause, 3) for cause in ("identity", "stranger", "run", "version", "dtype", "nonfinite", "frames", "shape")),
    *((cause, 3) for cause in ("header", "oversized", "flood")),
    *(("stale", 1), ("twin", 1), ("settings", 1), ("counts", 1), ("stale", 4), ("neighbor", 4)),
}
"""Causes and senders that have to be in the log of the abused peer."""


def test_no_abuse_changes_a_bit(lab: Lab) -> None:
    undisturbed = lab.launch(_experiment(lab, "undisturbed"), "undisturbed")
    assert lab.run("keys", "keys", "--peers", str(PEERS)).returncode == 0
    addresses = free_addresses(PEERS)
    experiment = _experiment(lab, "abused", addresses=addresses, keys="keys")
    form = replace(wire.Format("abused", PEERS, 0, "f8"), n_parameters=flat(undisturbed, 0).size)
    victim = Abuse(addresses[0], lab.folder / "keys", form)

    def again_and_again(attack: Callable[[], None]) -> None:
        while not victim.over.is_set():
            attack()

    with lab.by_hand(experiment, PEERS) as peers, ThreadPoolExecutor(16) as attackers:
        wait_until(lambda: len(metrics(lab.folder / "out", 0)) >= HELD_AT, peers[0])
        os.kill(peers[2].pid, signal.SIGSTOP)
        before = _resident_bytes(peers[0].pid)
        at_once = [victim.lies, victim.knocks, victim.unlisted, victim.imposture, victim.past_and_future]
        for attack in [attackers.submit(attack) for attack in at_once]:
            attack.result()
        for one_by_one in (victim.nonsense, victim.crowd, victim.flood):
            one_by_one()
        wait_until(lambda: set(dropped(lab.folder / "out", 0)) >= EXPECTED, peers[0])
        grown = _resident_bytes(peers[0].pid) - before
        assert len(metrics(lab.folder / "out", 0)) < ROUNDS / 2, "all this came in the middle of the run"
        noisy = [victim.knocks, victim.lies, victim.unlisted, victim.imposture, victim.past_and_future]
        try:
            going_on = [attackers.submit(again_and_again, attack) for attack in noisy]
            os.kill(peers[2].pid, signal.SIGCONT)
            wait_until(lambda: len(metrics(lab.folder / "out", 0)) == ROUNDS, peers[0])
        finally:
            victim.over.set()
        for attack in going_on:
            attack.exception()  # at the last moment nobody may be there any more
        assert [end(peer) for peer in peers] == [(0, "")] * PEERS
    same_finals(undisturbed, lab.folder / "out", PEERS)
    assert grown < RESIDENT_BYTES, f"it has grown by {grown / 1e6:.1f} MB"
    found = dropped(lab.folder / "out", 0)
    assert len(found) == len(set(found)), "each cause of each sender is journaled once"
    last = metrics(lab.folder / "out", 0)[-1]
    for cause, sender in EXPECTED:
        assert last["dropped_by"]["unknown" if sender is None else str(sender)][cause] > 0
        assert last["dropped"][cause] > 0
    assert not {"2"} & last["dropped_by"].keys(), "who behaves is blamed for nothing"
