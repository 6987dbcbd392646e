"""CURVE keys, and the names by which links say whose they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

import zmq

from peer.errors import ConfigError
from topology import PeerId

NAME_BYTES: Final = 8
"""Of chance in the name of a link: to guess it takes more connections than there are seconds since the beginning."""

NAMES: Final = 1_000
"""Of links that are kept as they were understood; without keys anybody on this host can make up any number."""


@final
@dataclass(frozen=True)
class Keys:
    """CURVE keys of one peer, in Z85 text.

    Parameters
    ----------
    secret, public : str
        This peer's pair.
    peers : mapping of int to str
        Public key of every peer that may talk to this one.
    reread : callable or None
        The list as it is now, or None if it has not changed; ConfigError if it is none. It is asked
        when somebody comes whose key is not known, or a peer is to be connected to. Who is new on
        the list gets in from then on, and who has another key has to use it; who is on it no more
        makes no new connection, but those that are up stay.
    """

    secret: str
    public: str
    peers: Mapping[PeerId, str]
    reread: Callable[[], Mapping[PeerId, str] | None] | None = None


def new_key_pair() -> tuple[str, str]:
    """A fresh CURVE key pair, (public, secret), each 40 characters of Z85; needs no context."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def public_of(secret: str) -> str:
    """Public key of a secret one, both Z85.

    Raises
    ------
    ConfigError
        The secret is 40 characters of Z85 that stand for no 32 bytes.
    """
    try:
        return zmq.curve_public(secret.encode()).decode()
    except zmq.ZMQError as error:
        raise ConfigError("transport.keys", f"expected a secret CURVE key: {error.strerror}") from error


def owners(keys: Keys | None) -> dict[str, PeerId]:
    """Whose each public key on the list is."""
    return {} if keys is None else {key: j for j, key in keys.peers.items()}


def identity(j: PeerId) -> bytes:
    """Name of peer j in the answers of the ZAP server, and the first part of those of its links."""
    return b"peer-%d" % j


def link_name(j: PeerId) -> bytes:
    """Name of a new link of peer j, which nobody can guess: "peer-3.0f6c..."."""
    return identity(j) + b"." + secrets.token_hex(NAME_BYTES).encode()


@lru_cache(NAMES)
def claimed_by(name: bytes) -> bytes:
    """Whose link has this name, as it says itself; empty if it says nothing."""
    claimed, dot, _ = name.partition(b".")
    return claimed if dot else b""


@lru_cache(NAMES)
def peer_of(name: bytes) -> PeerId | None:
    """Which peer has this name; None if it is no peer's."""
    number = name.removeprefix(b"peer-")
    return int(number) if number != name and number.isdigit() and len(number) < 10 else None
