"""Where a peer listens, and by whom a newcomer comes in."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

from peer import settings
from peer.errors import ConfigError
from peer.settings import Experiment
from topology import PeerId

WILDCARDS: Final = ("*", "0.0.0.0", "::")
"""Hosts of an address to listen on that stand for all interfaces."""


def check_ports(experiment: Experiment) -> None:
    """See to it that peers that are not all started by one process can connect to each other.

    Raises
    ------
    ConfigError
        There are no addresses, or one has port 0: any free one, which nobody else would know.
    """
    if not experiment.transport.addresses:
        raise ConfigError("transport.addresses", "expected an address for each peer, found none")
    for address in experiment.transport.addresses:
        if settings.split_address(address, "transport.addresses")[1] == 0:
            raise ConfigError("transport.addresses", f"expected a port > 0, to connect to; found {address}")


def bind_of(experiment: Experiment, me: PeerId, address: str = "") -> str:
    """Where a peer listens: as `transport.bind` says, else at its own address.

    Only numbers and * can be listened on. A name stands for this host as others see it (a
    container's, a load balancer's), so the peer listens on all interfaces then. A newcomer listens at `address`.
    """
    transport = experiment.transport
    if transport.bind:
        return transport.bind
    if me >= len(transport.addresses):
        return address
    host, port = settings.split_address(transport.addresses[me], "transport.addresses")
    if host == "localhost":
        return f"tcp://127.0.0.1:{port}"
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return f"tcp://*:{port}"
    return transport.addresses[me]


def contact_of(experiment: Experiment, me: PeerId, join: str) -> tuple[PeerId, str]:
    """The peer by which a newcomer comes in, and where it listens: "tcp://host:port", or "tcp://3@host:port".

    Without its id it is looked for among the addresses of the experiment.

    Raises
    ------
    ConfigError
        It is no such address, or of a peer that is not known; or the run has rounds, which nobody joins.
    """
    if experiment.run.mode != "async":
        raise ConfigError("--join", 'expected run.mode = "async": rounds have all their peers from the beginning')
    name, at, place = join.removeprefix("tcp://").rpartition("@")
    address = f"tcp://{place}"
    settings.split_address(address, "--join")
    listed = {there: j for j, there in enumerate(experiment.transport.addresses)}
    if at and not (name.isascii() and name.isdigit() and int(name) < settings.MAX_PEERS):
        raise ConfigError("--join", f'expected "tcp://ID@host:port", found {join!r}')
    contact = int(name) if at else listed.get(address)
    if contact is None:
        raise ConfigError("--join", f"{address} is not in transport.addresses; tcp://ID@{place} says which peer it is")
    if contact == me:
        raise ConfigError("--join", f"expected another peer than {me} itself")
    return contact, address


def listener_of(experiment: Experiment, contact: str) -> tuple[socket.socket | None, str]:
    """Where a newcomer listens, as others see it: at `transport.bind`, else at a free port.

    Parameters
    ----------
    experiment : Experiment
    contact : str
        Address of a peer; the newcomer gives the address by which this host reaches that one where
        `transport.bind` names none.

    Returns
    -------
    socket or None
        Listening already; None where `transport.bind` says it.
    str
        The address.

    Raises
    ------
    ConfigError
        No way leads to the contact.
    """
    host, port = settings.split_address(contact, "--join")
    bind = experiment.transport.bind
    if bind and (named := settings.split_address(bind, "transport.bind"))[0] not in WILDCARDS:
        return None, bind
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing: it asks the routing table
            own = str(probe.getsockname()[0])
        listener = None if bind else socket.create_server((own, 0), family=family)
    except OSError as error:
        raise ConfigError("--join", f"no way to {contact}: {error.strerror or error}") from error
    number = named[1] if listener is None else listener.getsockname()[1]
    return listener, f"tcp://[{own}]:{number}" if ":" in own else f"tcp://{own}:{number}"
