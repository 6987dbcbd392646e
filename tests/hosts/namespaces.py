"""Hosts without a container engine: network namespaces, and a switch between them.

A `Network` is a bridge in a namespace of its own, so that nothing of the real host's network is
touched, and a namespace for each of its hosts, plugged in by a veth pair. Addresses are private
(10.77.0.0/24 and fd77::/64), and mean nothing outside: several networks may use the same at once.
Names are found in one file a network, which its processes see as /etc/hosts, as they do another as
/etc/resolv.conf; each has a mount namespace, so the real files stay, and nothing is written to
/etc/netns.

Namespaces bear the name of the test process that made them, its id and when it started. So two
test runs never meet, and what a run that was killed has left is known by its owner being gone,
and removed by the next run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PREFIX: Final = "next-peer-test"
"""First part of the name of every namespace made here."""

INTERFACE: Final = "eth0"
"""A host's only one, but for the loopback."""

SWITCH: Final = "switch"
"""The bridge, and the namespace it is in; no host may be called so."""

MOUNTED: Final = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
"""Shell command of a process that sees files of a network as /etc/hosts and /etc/resolv.conf. `ip netns exec` has
given it a mount namespace."""


@dataclass(frozen=True)
class Host:
    """A host of a network.

    Parameters
    ----------
    namespace : str
        Its network namespace.
    port : str
        The switch's end of its cable.
    network : Network
        What it is plugged into.
    ipv4, ipv6 : str
        Its first addresses; the latter is "" where IPv6 is switched off.
    """

    namespace: str
    port: str
    network: Network
    ipv4: str
    ipv6: str

    def start(self, command: Sequence[str | Path], folder: Path) -> subprocess.Popen[str]:
        """Start a command on this host; its process id is the command's own."""
        inside = ["ip", "netns", "exec", self.namespace, "sh", "-c", MOUNTED, self.network.names, self.network.servers]
        process = subprocess.Popen(
            [*map(str, inside), *map(str, command)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.network.processes.append(process)
        return process

    def unplug(self) -> None:
        """Take the link down: this host's kernel knows, and fails at once."""
        self._ip("link", "set", INTERFACE, "down")

    def plug(self) -> None:
        """Take the link up again."""
        self._ip("link", "set", INTERFACE, "up")

    def silence(self) -> None:
        """Drop all packets from and to other hosts without a word: nobody's kernel knows."""
        self._filter("-I")

    def hear(self) -> None:
        """Let packets pass again."""
        self._filter("-D")

    def move(self, *addresses: str) -> None:
        """Give this host other addresses, and none of the old ones."""
        self._ip("address", "flush", "dev", INTERFACE, "scope", "global")
        self.settle(addresses)

    def settle(self, addresses: Iterable[str]) -> None:
        """Give this host addresses."""
        for address in addresses:
            # without nodad an IPv6 address is of no use for a second, until nobody else has claimed it
            more = ("/64", "nodad") if ":" in address else ("/24",)
            self._ip("address", "add", address + more[0], "dev", INTERFACE, *more[1:])

    def _ip(self, *arguments: str) -> None:
        tool("ip", "-n", self.namespace, *arguments)

    def _filter(self, change: str) -> None:
        for program in ("iptables", "ip6tables"):
            for chain, direction in (("INPUT", "-i"), ("OUTPUT", "-o")):
                rule = (change, chain, direction, INTERFACE, "-j", "DROP")
                tool("ip", "netns", "exec", self.namespace, program, "-w", *rule)


@dataclass
class Network:
    """Hosts on one switch; made and removed by `network`.

    Parameters
    ----------
    prefix : str
        First part of its namespaces' names.
    names, servers : Path
        What its processes see as /etc/hosts and /etc/resolv.conf.
    """

    prefix: str
    names: Path
    servers: Path
    hosts: list[Host] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def switch(self) -> str:
        """Namespace of the bridge."""
        return f"{self.prefix}-{SWITCH}"

    def open(self) -> None:
        """Make the switch."""
        self.know({})
        self.servers.write_text("nameserver 127.0.0.1\n")  # nobody listens there: an unknown name is known to be so
        tool("ip", "netns", "add", self.switch)
        tool("ip", "-n", self.switch, "link", "add", "name", SWITCH, "type", "bridge")
        tool("ip", "-n", self.switch, "link", "set", SWITCH, "up")

    def host(self, ipv6: bool = True) -> Host:
        """A new host, plugged in; without IPv6 its kernel has none at all, on no interface."""
        k = len(self.hosts) + 1
        host = Host(f"{self.prefix}-host{k}", f"port{k}", self, f"10.77.0.{k}", f"fd77::{k:x}" if ipv6 else "")
        tool("ip", "netns", "add", host.namespace)
        self.hosts.append(host)
        kernel = {"disable_ipv6": int(not ipv6), "keep_addr_on_down": 1}  # an unplugged host keeps its addresses
        settings = [
            f"net.ipv6.conf.{where}.{key}={value}" for where in ("all", "default") for key, value in kernel.items()
        ]
        tool("ip", "netns", "exec", host.namespace, "sysctl", "--quiet", "--write", *settings)
        cable = ("type", "veth", "peer", "name", INTERFACE, "netns", host.namespace)
        tool("ip", "-n", self.switch, "link", "add", "name", host.port, *cable)
        tool("ip", "-n", self.switch, "link", "set", host.port, "master", SWITCH, "up")
        tool("ip", "-n", host.namespace, "link", "set", "lo", "up")
        host.plug()
        host.settle([host.ipv4, *([host.ipv6] if ipv6 else [])])
        return host

    def know(self, names: Mapping[str, str]) -> None:
        """Have all hosts know these names, and no others, from now on; several addresses have spaces between them.

        The file is written in place: what is mounted is the file, not its name.
        """
        known = {"localhost": "127.0.0.1"} | dict(names)
        lines = [f"{address} {name}\n" for name, addresses in known.items() for address in addresses.split()]
        self.names.write_text("".join(lines))

    def ask(self, server: Host) -> None:
        """Have names that are not known looked up there."""
        self.servers.write_text(f"nameserver {server.ipv4}\n")

    def close(self) -> None:
        """End every process on it, and remove all of it."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        remove(name for name in namespaces() if name.startswith(self.prefix + "-"))


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network, its files in this folder, that is gone afterwards whatever happens."""
    number = time.monotonic_ns()
    made = Network(f"{mine()}-{number}", folder / f"hosts-{number}", folder / f"resolv-{number}.conf")
    try:
        made.open()
        yield made
    finally:
        made.close()


def obstacle() -> str:
    """Why there can be no network namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [
        program for program in ("ip", "iptables", "ip6tables", "mount", "sysctl") if shutil.which(program) is None
    ]
    if missing:
        return f"network namespaces need iproute2, iptables, mount and sysctl; not found: {', '.join(missing)}"
    name = f"{mine()}-trial"
    trial = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    remove([name] if trial.returncode == 0 else [])
    return f"no network namespace can be made: {trial.stderr.strip()}" if trial.returncode else ""


def sweep() -> None:
    """Remove what test runs have left that were killed, and what still runs in it."""
    pattern = re.compile(rf"{PREFIX}-(\d+)-(\d+)-")
    owned = [(name, found) for name in namespaces() if (found := pattern.match(name))]
    orphans = [name for name, found in owned if started(int(found[1])) != int(found[2])]
    for name in orphans:
        inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        for pid in inside.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    remove(orphans)


def mine() -> str:
    """First part of the names of this process's namespaces."""
    return f"{PREFIX}-{os.getpid()}-{started(os.getpid())}"


def started(pid: int) -> int:
    """When a process started, in the kernel's ticks; -1 if there is none. Ids are given again, pairs are not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(stat[stat.rfind(")") :].split()[20])


def namespaces() -> list[str]:
    """Names of all network namespaces that have one."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]


def remove(names: Iterable[str]) -> None:
    """Delete namespaces; another test run that sweeps may have been faster."""
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def tool(*command: str | Path) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"


def main() -> None:
    """Say why there can be no hosts here, if so, with exit code 69: EX_UNAVAILABLE of sysexits.h."""
    reason = obstacle()
    if reason:
        print(f"test-faults: {reason}", file=sys.stderr)
        sys.exit(69)


if __name__ == "__main__":
    main()
