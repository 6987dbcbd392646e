"""Addresses: which are names, what these stand for now, and which are of this host."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


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
    """Numeric addresses of a named one, in the order in which to try them; none where the name is not known now."""
    name, port = host_and_port(address)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = dict.fromkeys(str(place[0]) for *_, place in found)
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
