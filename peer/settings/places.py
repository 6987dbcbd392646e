"""Settings that name a place: where a peer is, publishes, or serves its numbers."""

from __future__ import annotations

from os import PathLike, fspath
from urllib.parse import urlsplit

from peer.errors import ConfigError
from peer.settings.values import MAX_PORT


def check_text(text: str, key: str) -> None:
    """Whether a text, or a path, can stand in a file of settings, which is UTF-8.

    Raises
    ------
    ConfigError
        It cannot: it is of a command line, or of a folder, in other bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(key, f"expected UTF-8, as experiment files are, found {text!r}") from error


def literal(path: str | PathLike[str]) -> str:
    """A path as a pattern with {id} has it: its braces, if it has some, twice."""
    return fspath(path).replace("{", "{{").replace("}", "}}")


def published_at(pattern: str, peer: int, key: str = "run.publish") -> str:
    """Where a peer publishes: with its number in the place of {id}, if that is there, and added to the port.

    Raises
    ------
    ConfigError
        It is no address, or there is no such port.
    """
    host, port = split_address(pattern.replace("{id}", str(peer)), key)
    if not 0 < port <= MAX_PORT - peer:
        raise ConfigError(key, f"expected a port > 0 that, with {peer} added, is up to {MAX_PORT}; found {port}")
    return f"tcp://{place_text(host, port + peer)}"


def split_address(address: str, key: str) -> tuple[str, int]:
    """Host, an IPv6 one without brackets, and port of "tcp://host:port".

    Raises
    ------
    ConfigError
        It is no such address.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:  # of brackets that do not match, too
        parts, host, port = urlsplit(""), None, None
    whole = parts.scheme == "tcp" and not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not whole or not host or port is None or not address.isprintable() or " " in address:
        raise ConfigError(key, f'expected "tcp://host:port", an IPv6 host in brackets; found {address!r}')
    return host, port


def endpoint_of(place: int | str, key: str = "metrics.openmetrics") -> tuple[str, int] | None:
    """Host and port where OpenMetrics text is served; a port alone is one of the loopback; None: nowhere.

    Raises
    ------
    ConfigError
        It is no such place.
    """
    if place == "":
        return None
    text = str(place)
    try:
        host, port = split_address(f"tcp://127.0.0.1:{text}" if text.isdecimal() else f"tcp://{text}", key)
    except ConfigError:
        host, port = "", 0
    if not 0 < port < 1 << 16:
        raise ConfigError(key, f'expected a port, or "host:port", found {place!r}')
    return host, port


def place_text(host: str, port: int) -> str:
    """Host and port as addresses and URLs have them: an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_folder(place: str) -> bool:
    """Whether a place for MLflow is a folder, and no tracking URI such as "http://host:5000"."""
    return bool(place) and ":" not in place and place != "databricks"
