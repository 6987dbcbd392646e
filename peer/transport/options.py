"""Sockets of peers as they are made: what they take and wait for, and who tells what happens to them."""

from __future__ import annotations

import math
from itertools import count
from typing import Final

import zmq

from peer.transport.limits import (
    CONNECT_MS,
    CURVE_BYTES,
    HANDSHAKE_MS,
    HEARTBEAT_MS,
    LINGER_MS,
    QUEUE_MESSAGES,
    SEEN,
    SLOWEST_BYTES_PER_S,
)

MONITORS: Final = count()
"""Numbers for their names, which no two of a context may share."""


def limit(end: zmq.Socket[bytes], max_frame_bytes: int, slack: float) -> None:
    """Bound what an end takes, holds and waits for; handshakes get `slack` times as long as else."""
    for option, value in (
        (zmq.LINGER, LINGER_MS),
        (zmq.MAXMSGSIZE, SEEN * max_frame_bytes + CURVE_BYTES),
        (zmq.HANDSHAKE_IVL, math.ceil(HANDSHAKE_MS * slack)),
        (zmq.CONNECT_TIMEOUT, CONNECT_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT_MS + 1_000 * max_frame_bytes // SLOWEST_BYTES_PER_S),
        (zmq.TCP_MAXRT, 2 * HEARTBEAT_MS),  # pings that are not even received close it in any case
        (zmq.SNDHWM, QUEUE_MESSAGES),
        (zmq.RCVHWM, 0),  # see `peer.door`, which bounds what comes
        (zmq.IPV6, 1),
    ):
        end.setsockopt(option, value)


def monitor(context: zmq.Context[zmq.Socket[bytes]], end: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A socket that tells what happens to another.

    It takes all that there is to tell: a full one would hold up the thread of libzmq, and with
    it all traffic, until it is read.
    """
    name = f"inproc://monitor-{next(MONITORS)}"
    end.monitor(name, events)
    teller = context.socket(zmq.PAIR)
    teller.setsockopt(zmq.RCVHWM, 0)
    teller.setsockopt(zmq.LINGER, 0)
    teller.connect(name)
    return teller
