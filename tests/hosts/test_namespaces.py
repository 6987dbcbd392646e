"""Peers on several hosts: links that go down, peers that move, latency, IPv6. The same bits as on one host, always.

The peers form a ring, 0 - 1 - 2 - 3 - 0. A peer can complete a round only with the shares of its
neighbors, so the numbers of rounds that two peers have completed never differ by more than their
distance: a peer that is cut off holds all others back.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.hosts import namespaces, relay
from tests.hosts.namespaces import Host, Network
from tests.integration.lab import Lab, command, end, events, flat, metrics, same_finals, wait_until

PEERS: Final = 4

ROUNDS: Final = 500
"""Cheap ones, so that the middle lasts: some seconds."""

EARLY: Final = 60
"""Rounds after which the middle has begun."""

PORT: Final = 5555
"""Every peer has a host, and so all ports, of its own."""

CUT_S: Final = 20.0
"""Length of a cut: longer than the 15 s after which it has been found, shorter than patience_s."""

CROSSING_S: Final = 16.0
"""What a frame takes over a slow line: longer than the 15 s after which a ping without an answer is held against it."""

RECOVERY_S: Final = 15.0
"""Until a link that is up again is used: an attempt to connect (3 s) or a handshake (5 s) into the silence has to end
first, then at most 1 s passes before the next; the rest is for a machine with other things to do."""

LATENCY_S: Final = 0.05
"""One way, as between continents."""

Links = Callable[[], Network]


def tree(lab: Lab, **more: Any) -> dict[str, Any]:
    """An experiment with cheap rounds."""
    rng = np.random.default_rng(23)
    return {
        "seed": 3,
        "peers": PEERS,
        "iterations": ROUNDS,
        "data": {"path": lab.shards([(rng.normal(size=(m, 3)), np.arange(m) % 3) for m in (8, 5, 9, 6)])},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "surrogate": {"kind": "full", "tau": 2.0},
        "topology": {"graph": "ring"},
    } | more


def distance(i: int, j: int) -> int:
    """Of two peers in the ring."""
    return min((i - j) % PEERS, (j - i) % PEERS)


@dataclass
class Fleet:
    """One run, each of its peers on a host of its own.

    Parameters
    ----------
    lab : Lab
        Where the run directory is: all hosts are on one file system.
    hosts : sequence of Host
        In the order of the peers.
    addresses : sequence of str
        Where the peers are to be found, or said to be.
    name : str
        Of the experiment and the run directory.
    settings : mapping
        What differs from `tree`.
    binds : mapping of int to str
        Where peers listen that do not by their address.
    """

    lab: Lab
    hosts: Sequence[Host]
    addresses: Sequence[str]
    name: str = "fleet"
    settings: Mapping[str, Any] = field(default_factory=dict)
    binds: Mapping[int, str] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.lab.folder / self.name

    def start(self) -> None:
        """Start all peers, with keys made for them."""
        keys = f"keys-{self.name}"
        assert self.lab.run("keys", keys, "--peers", str(PEERS)).returncode == 0
        transport = {"addresses": list(self.addresses), "keys": keys}
        self.lab.experiment(self.name, **tree(self.lab, **self.settings, transport=transport))
        for peer in range(PEERS):
            self.start_one(peer)

    def start_one(self, peer: int, *more: str) -> None:
        """Start one peer on its host."""
        bind = ("--set", f"transport.bind={self.binds[peer]}") if peer in self.binds else ()
        run = command("run", f"{self.name}.toml", "--id", str(peer), "--out", self.name, *bind, *more)
        self.processes[peer] = self.hosts[peer].start(run, self.lab.folder)

    def kill(self, peer: int) -> None:
        """Kill one peer, whatever it is doing."""
        assert self.rounds(peer) < ROUNDS, "it is killed too late to show anything"
        assert end(self.processes[peer], signal.SIGKILL)[0] == -signal.SIGKILL

    def rounds(self, peer: int) -> int:
        """Rounds that a peer has completed."""
        path = self.run_dir / "peers" / f"{peer:03d}" / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def all_rounds(self) -> list[int]:
        """Rounds that each peer has completed."""
        return [self.rounds(peer) for peer in range(PEERS)]

    def reach(self, n: int, peer: int) -> None:
        """Wait until a peer has completed n rounds."""
        wait_until(lambda: self.rounds(peer) >= n, self.processes[peer])

    def lost(self, peer: int) -> list[int]:
        """Neighbors to which a peer's connection broke, before it was done: at the end everybody hangs up."""
        working = takewhile(lambda event: event["event"] != "done", events(self.run_dir, peer))
        return [event["peer"] for event in working if event["event"] == "disconnected"]

    def assert_held_back(self) -> None:
        """Assert that no two peers are further from each other than the ring allows."""
        counts = self.all_rounds()
        for i in range(PEERS):
            for j in range(i):
                assert abs(counts[i] - counts[j]) <= distance(i, j), counts

    def finish(self, reference: Path) -> None:
        """Wait for the end, which is the reference's to the last bit, every round journaled once."""
        for process in self.processes.values():
            code, errors = end(process)
            assert (code, errors) == (0, "")
        same_finals(reference, self.run_dir, PEERS)
        for peer in range(PEERS):
            assert [line["iteration"] for line in metrics(self.run_dir, peer)] == list(range(self.rounds(peer)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the same experiment on one host's loopback."""
    lab = Lab(tmp_path_factory.mktemp("reference"))
    return lab.launch(lab.experiment(**tree(lab)))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty folder to run commands in."""
    return Lab(tmp_path)


def pass_time(seconds: float, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let wall time pass, which is what the test is about, while all of these processes live."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0.0:
        for process in processes:
            try:
                process.wait(min(left_s, 0.5) / len(processes))
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"a peer ended with {process.returncode}: {process.communicate()[1]}")


def numeric(hosts: Sequence[Host], ipv6: bool = False) -> list[str]:
    """Addresses without names."""
    return [f"tcp://[{host.ipv6}]:{PORT}" if ipv6 else f"tcp://{host.ipv4}:{PORT}" for host in hosts]


def named(n: int = PEERS) -> list[str]:
    """Addresses by name."""
    return [f"tcp://peer{k}.test:{PORT}" for k in range(n)]


def start_relay(host: Host, routes: Mapping[str, str], *options: str, folder: Path) -> None:
    """Relay TCP connections on a host, and wait until it does."""
    pairs = (f"{listen}={target}" for listen, target in routes.items())
    process = host.start([sys.executable, relay.__file__, *options, *pairs], folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]


def relayed(net: Network, lab: Lab, settings: Mapping[str, Any], *options: str) -> Fleet:
    """A fleet with a relay in front of every peer."""
    hosts, between = [net.host() for _ in range(PEERS)], net.host()
    ports = [6000 + peer for peer in range(PEERS)]
    fronts = [f"{between.ipv4}:{port}" for port in ports]
    backs = [f"{host.ipv4}:{PORT}" for host in hosts]
    start_relay(between, dict(zip(fronts, backs, strict=True)), *options, folder=lab.folder)
    addresses = [f"tcp://{front}" for front in fronts]
    return Fleet(lab, hosts, addresses, settings=settings, binds=dict.fromkeys(range(PEERS), f"tcp://*:{PORT}"))


# ---- a link goes down, and up again --------------------------------------------------------


def test_a_cut_of_20_seconds_costs_nothing_but_time(new_network: Links, lab: Lab, reference: Path) -> None:
    """Two runs at once: in one the link goes down, in the other every packet of a host is dropped in silence."""
    victim = 2
    fleets = []
    for name, ipv6 in (("down", True), ("silent", False)):
        net = new_network()
        hosts = [net.host(ipv6) for _ in range(PEERS)]
        fleets.append(Fleet(lab, hosts, numeric(hosts), name))
        fleets[-1].start()
    cuts = [fleet.hosts[victim] for fleet in fleets]
    everybody = [process for fleet in fleets for process in fleet.processes.values()]

    fleets[0].reach(EARLY, victim)
    cuts[0].unplug()
    fleets[1].reach(EARLY, victim)
    cuts[1].silence()
    pass_time(CUT_S / 4, everybody)
    stalled = [fleet.all_rounds() for fleet in fleets]
    pass_time(CUT_S * 3 / 4, everybody)
    for fleet, counts in zip(fleets, stalled, strict=True):
        assert fleet.all_rounds() == counts, "somebody went on"
        assert EARLY <= max(counts) < ROUNDS, "it was cut too late to show anything"
        fleet.assert_held_back()
        for peer in range(PEERS):
            assert set(fleet.lost(peer)) == {j for j in range(PEERS) if distance(peer, j) == 1 and victim in (peer, j)}

    cuts[0].plug()
    cuts[1].hear()
    up_s = time.monotonic()
    for fleet, counts in zip(fleets, stalled, strict=True):
        fleet.reach(counts[victim] + 2, victim)
        print(f"{fleet.name}: goes on {time.monotonic() - up_s:.2f} s after the link was up again")
    assert time.monotonic() - up_s < RECOVERY_S
    for fleet in fleets:
        fleet.finish(reference)


# ---- a peer moves --------------------------------------------------------------------------


def test_a_peer_resumes_at_another_address_and_is_found_by_name(new_network: Links, lab: Lab, reference: Path) -> None:
    """It vanishes as by a power failure, nobody is told; on hosts without IPv6."""
    net = new_network()
    hosts = [net.host(ipv6=False) for _ in range(PEERS)]
    names = {f"peer{k}.test": host.ipv4 for k, host in enumerate(hosts)}
    net.know(names)
    fleet = Fleet(lab, hosts, named())
    fleet.start()
    fleet.reach(EARLY, 2)
    hosts[2].unplug()
    fleet.kill(2)
    hosts[2].plug()
    hosts[2].move("10.77.0.102")
    net.know(names | {"peer2.test": "10.77.0.102"})
    fleet.start_one(2, "--resume")
    fleet.finish(reference)


def test_peers_resume_with_another_address_in_their_settings(new_network: Links, lab: Lab, reference: Path) -> None:
    """Peer 0, which never talks to the one that moved, is not stopped for it."""
    net = new_network()
    hosts = [net.host() for _ in range(PEERS)]
    fleet = Fleet(lab, hosts, numeric(hosts))
    fleet.start()
    fleet.reach(EARLY, 2)
    for peer in (2, 1, 3):
        fleet.kill(peer)
    hosts[2].move("10.77.0.102", "fd77::102")
    moved = numeric(hosts)
    moved[2] = f"tcp://[fd77::102]:{PORT}"
    for peer in (1, 2, 3):
        fleet.start_one(peer, "--resume", "--set", f"transport.addresses={moved}")
    fleet.finish(reference)


def test_the_address_of_a_living_peer_changes(new_network: Links, lab: Lab, reference: Path) -> None:
    """Its neighbors, which know its name, find it again; nobody is restarted."""
    net = new_network()
    hosts = [net.host() for _ in range(PEERS)]
    names = {f"peer{k}.test": host.ipv4 for k, host in enumerate(hosts)}
    net.know(names)
    fleet = Fleet(lab, hosts, named())
    fleet.start()
    fleet.reach(EARLY, 2)
    hosts[2].move("10.77.0.102")
    moved_s = time.monotonic()
    before = fleet.rounds(2)
    net.know(names | {"peer2.test": "10.77.0.102"})
    fleet.reach(before + 3, 2)
    print(f"goes on {time.monotonic() - moved_s:.2f} s after it moved")
    assert before < ROUNDS
    fleet.finish(reference)


# ---- latency -------------------------------------------------------------------------------


def test_latency_explains_what_a_round_takes(new_network: Links, lab: Lab) -> None:
    """Shares go both ways at once, so a round takes the latency of one way, and little more.

    Of two neighbors, i ends round n + 2 no earlier than one way after j has ended round n + 1, and
    j that no earlier than one way after i has ended round n: an even number of rounds takes at
    least as many latencies, for sure. From above, a share waits for one way and the work of
    others; a protocol that asked first and was answered would take three latencies.
    """
    rounds = 101
    settings = {"iterations": rounds}
    launched = lab.launch(lab.experiment("launched", **tree(lab, **settings)))
    fleet = relayed(new_network(), lab, settings, "--latency", str(LATENCY_S))
    fleet.start()
    fleet.finish(launched)
    for peer in range(PEERS):
        journal = metrics(fleet.run_dir, peer)
        took_s = journal[-1]["time_s"] - journal[0]["time_s"]
        assert took_s >= (rounds - 1) * LATENCY_S
        # one that begins later than its neighbors waits less, and in the next round as much more
        waits_s = [(one["wait_s"] + next_one["wait_s"]) / 2 for one, next_one in pairwise(journal)]
        wait_s = statistics.median(waits_s)
        print(f"peer {peer}: {took_s / (rounds - 1):.4f} s a round, median wait {wait_s:.4f} s")
        assert LATENCY_S / 2 <= wait_s <= 3 * LATENCY_S


def test_a_share_may_take_longer_than_a_heartbeat(new_network: Links, lab: Lab) -> None:
    """A line that carries a frame in 16 s: no connection breaks, the line is only slow."""
    settings = {"iterations": 1, "model": {"hidden": [20_000]}}
    launched = lab.launch(lab.experiment("launched", **tree(lab, **settings)))
    frame_bytes = flat(launched, 0).nbytes
    fleet = relayed(new_network(), lab, settings, "--bandwidth", str(frame_bytes / CROSSING_S))
    fleet.start()
    fleet.finish(launched)
    for peer in range(PEERS):
        assert metrics(fleet.run_dir, peer)[0]["wait_s"] > 1.9 * CROSSING_S, "y and z, one after the other"
        assert fleet.lost(peer) == []


# ---- addresses -----------------------------------------------------------------------------


def test_ipv6(new_network: Links, lab: Lab, reference: Path) -> None:
    net = new_network()
    hosts = [net.host() for _ in range(PEERS)]
    for host in hosts:
        host.move(host.ipv6)  # and no IPv4
    fleet = Fleet(lab, hosts, numeric(hosts, ipv6=True))
    fleet.start()
    fleet.finish(reference)


def test_every_kind_of_address_in_one_run(new_network: Links, lab: Lab, reference: Path) -> None:
    """All that an address can be, and names that are known only later.

    IPv4; a name with an IPv6 address that is of no use, and an IPv4 one; the name of an IPv6
    address; a relay whose host and port are not those that the peer listens on, whose address
    in turn is IPv6.
    """
    net = new_network()
    hosts, between = [net.host() for _ in range(PEERS)], net.host()
    start_relay(between, {f"{between.ipv4}:6003": f"[{hosts[3].ipv6}]:7003"}, folder=lab.folder)
    addresses = [
        f"tcp://{hosts[0].ipv4}:{PORT}",
        f"tcp://peer1.test:{PORT}",
        f"tcp://peer2.test:{PORT}",
        f"tcp://{between.ipv4}:6003",
    ]
    fleet = Fleet(lab, hosts, addresses, binds={3: "tcp://[::]:7003"})
    fleet.start()
    for peer, process in fleet.processes.items():
        wait_until(lambda peer=peer: events(fleet.run_dir, peer) != [], process)  # type: ignore[misc]
    net.know({"peer1.test": f"fd77::dead {hosts[1].ipv4}", "peer2.test": hosts[2].ipv6})
    fleet.finish(reference)


def test_a_silent_name_server_holds_up_nobody_else(new_network: Links, lab: Lab, reference: Path) -> None:
    """A look-up takes 10 s then; connections to the other neighbors, whose names are known, live on."""
    net = new_network()
    server = net.host()
    net.ask(server)
    server.silence()
    hosts = [net.host() for _ in range(PEERS)]
    names = {f"peer{k}.test": host.ipv4 for k, host in enumerate(hosts)}
    net.know(names)
    fleet = Fleet(lab, hosts, named())
    fleet.start()
    fleet.reach(EARLY, 2)
    fleet.kill(2)
    net.know({name: address for name, address in names.items() if name != "peer2.test"})
    living = [process for peer, process in fleet.processes.items() if peer != 2]
    pass_time(CUT_S, living)
    net.know(names)
    fleet.start_one(2, "--resume")
    fleet.finish(reference)
    for peer in (0, 1, 3):
        assert fleet.lost(peer) == ([2] if distance(peer, 2) == 1 else [])


# ---- the harness ---------------------------------------------------------------------------


def test_what_a_killed_test_run_has_left_is_removed(new_network: Links) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left = f"{namespaces.PREFIX}-{gone.stdout.strip()}-1-0-host1"
    namespaces.tool("ip", "netns", "add", left)
    mine = new_network().switch
    namespaces.sweep()
    assert left not in namespaces.namespaces()
    assert mine in namespaces.namespaces()
