"""What strangers and misbehaving listed peers can do to a peer over the network: attackers for tests.

They speak ZeroMQ's protocol by hand where its library would not let them misbehave.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import zmq

SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
"""First bytes of a ZMTP connection."""

HTTP: Final = b"GET / HTTP/1.1\r\nHost: peer\r\nUser-Agent: curious\r\nAccept: */*\r\n\r\n"

FOUR_GB: Final = 4 << 30


def greeting(mechanism: bytes) -> bytes:
    """Greeting of ZMTP 3.0 with the name of a mechanism."""
    return SIGNATURE + b"\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def long_frame(n_bytes: int, flags: int = 0) -> bytes:
    """First bytes of a frame that claims a size."""
    return bytes([flags | 2]) + struct.pack(">Q", n_bytes)


LIES: Final[Sequence[bytes]] = (
    HTTP,
    long_frame(FOUR_GB),
    SIGNATURE + long_frame(FOUR_GB),
    greeting(b"NULL"),
    greeting(b"PLAIN"),
    greeting(b"CURVE") + long_frame(FOUR_GB, flags=4) + bytes(100),
    greeting(b"CURVE") + long_frame(FOUR_GB) + bytes(100),
    greeting(b"CURVE") + b"\x04\x06\x05HELLO",
    greeting(b"CURVE") + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
    b"\x01\x00" + b"\xff" + struct.pack(">Q", FOUR_GB),  # ZMTP 1.0
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a hello of TLS
)
"""What a connection may begin with, instead of what it should."""


def dial(address: str) -> socket.socket:
    """A bare connection to a peer."""
    place = urlsplit(address)
    assert place.hostname is not None
    assert place.port is not None
    return socket.create_connection((place.hostname, place.port), timeout=5)


def try_to_dial(address: str, within_s: float) -> socket.socket | None:
    """A bare connection to a peer; None where it ignores us for so long."""
    place = urlsplit(address)
    with suppress(OSError):
        return socket.create_connection((place.hostname or "", place.port or 0), timeout=within_s)
    return None


def lie(address: str, opening: bytes) -> None:
    """Connect, say something that is no handshake, and wait until the peer hangs up, or for a moment."""
    end = try_to_dial(address, 1.0)
    if end is None:
        return
    with end, suppress(OSError):
        end.settimeout(0.2)
        end.sendall(opening)
        while end.recv(1 << 16):
            pass


def half_open(address: str, count: int, within_s: float = 0.2) -> list[socket.socket]:
    """Connections that say nothing; fewer than asked for where the peer ignores those beyond a number."""
    return [end for _ in range(count) if (end := try_to_dial(address, within_s)) is not None]


@contextmanager
def speaker(
    address: str, server_key: str | None, pair: tuple[str, str] | None, name: bytes = b"", kind: int = zmq.DEALER
) -> Iterator[Any]:
    """A socket of somebody's program, connected to a peer; whether it is let in depends on its key pair."""
    context = zmq.Context()
    end = context.socket(kind)
    end.setsockopt(zmq.LINGER, 0)
    end.setsockopt(zmq.SNDTIMEO, 5_000)
    if name:
        end.setsockopt(zmq.ROUTING_ID, name)
    if pair is not None and server_key is not None:
        end.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
        end.setsockopt(zmq.CURVE_PUBLICKEY, pair[0].encode())
        end.setsockopt(zmq.CURVE_SECRETKEY, pair[1].encode())
    monitor = end.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
    )
    end.connect(address)
    try:
        yield end
    finally:
        monitor.close(0)
        context.destroy(linger=0)


def leave(end: Any) -> None:
    """Close a speaker, once everything that was said has left, or could not within a second."""
    end.get_monitor_socket().close(0)
    end.setsockopt(zmq.LINGER, 1_000)
    end.close()
    end.context.term()


def comes(event: int, end: Any, over: threading.Event | None = None) -> None:
    """Wait for something that happens to a speaker's connection, unless it is all over."""
    monitor = end.get_monitor_socket()
    for _ in range(200):
        if monitor.poll(100):
            code = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
            if code == event:
                return
        elif over is not None and over.is_set():
            return
    raise AssertionError("the peer does not answer")


def flood(end: Any, frames: Sequence[bytes], seconds: float) -> int:
    """Send the same message as fast as possible for a while, or until the connection is gone; how often."""
    until, sent = time.monotonic() + seconds, 0
    with suppress(zmq.ZMQError):
        while time.monotonic() < until:
            for _ in range(100):
                end.send_multipart(frames)
            sent += 100
    return sent


@contextmanager
def by_hand(address: str, name: bytes) -> Iterator[socket.socket]:
    """A connection that has come through the handshake without keys, and takes frames as they are on the wire."""
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    ready += b"\x08Identity" + struct.pack(">I", len(name)) + name
    with dial(address) as end:
        end.sendall(greeting(b"NULL") + bytes([4, len(ready)]) + ready)
        heard = b""
        while b"READY" not in heard:  # it takes no message before
            heard += end.recv(1 << 16)
        yield end


def endless(address: str, name: bytes, frame: bytes, seconds: float) -> int:
    """Send frames of a message that never ends, without keys, until the peer hangs up, or for a while; how many.

    The library would send nothing before the last one.
    """
    until, sent = time.monotonic() + seconds, 0
    with by_hand(address, name) as end, suppress(OSError):
        end.sendall(b"\0\x02hi")
        while time.monotonic() < until:
            end.sendall(long_frame(len(frame), flags=1) + frame)
            sent += 1
    return sent


def reset_while_unread(address: str, name: bytes) -> None:
    """Send many small messages with pings among them, and reset the connection before they are read."""
    with by_hand(address, name) as end, suppress(OSError):
        end.sendall((b"\0\x02hi" * 5 + b"\x04\x07\x04PING\x00\x05") * 2_000)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def noise(n_bytes: int) -> bytes:
    """Random bytes."""
    return os.urandom(n_bytes)
