"""Addresses: which are names, what these stand for now, and which are of this host."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

LOCALHOST: Final = "127.0.0.1"
"""Where whoever is to listen at localhost listens. Of the two that hosts have of this name ::1 may come first, as the
one to connect to."""


def numbered(address: str) -> str:
    """An address with a number for localhost: libzmq listens at no name, and of one it connects to the first only."""
    return address.replace("//localhost:", f"//{LOCALHOST}:")


def is_named(address: str) -> bool:
    """Whether the host of an address is a name, which has to be looked up."""
    host = urlsplit(address).hostname
    if host is None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def look_up(address: str) -> list[str]:
    """Numeric addresses of a named one, in the order in which to try them; none where the name is not known now.

    Of localhost the one that `numbered` has comes first.
    """
    name, port = host_and_port(address)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = list(dict.fromkeys(str(place[0]) for *_, place in found))
    if name == "localhost":
        hosts.sort(key=LOCALHOST.__ne__)
    return [f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host in hosts]


def host_and_port(address: str) -> tuple[str, int]:
    """Of "tcp://host:port"; ValueError where it is no such address."""
    parts = urlsplit(address)
    if parts.scheme != "tcp" or parts.hostname is None or parts.port is None:
        raise ValueError("expected tcp://host:port")
    parts.hostname.encode("idna")  # as the look-up does: what it cannot encode is no name
    return parts.hostname, parts.port


def is_loopback(address: str) -> bool:
    """Whether a tcp address is one of this host only."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; what it stands for may change
        return False
