"""Frames in the form in which libzmq takes and gives them; those of a small message go as one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import zmq

from peer.errors import WireError
from peer.wire import Frame, Handed
from topology import PeerId

NOW: Final = int(zmq.NOBLOCK)

NOW_AND_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Flags of what never blocks, as plain numbers: to join them as flags takes Python longer than to send a frame."""

JOINT: Final = 0xC1
"""First byte of frames that go as one; no message begins with it, for msgpack does not use it."""

JOIN_BYTES: Final = 1 << 16
"""From this size on frames go one by one; two bytes hold any smaller length."""

COPY_BYTES: Final = 1 << 18
"""Up to this size a frame is copied once for all neighbors: to be told that libzmq is through with an array, pyzmq
needs a thread of its own, which is woken for each. That takes a tenth of an exchange at p = 1e4, at 1e5 less than a
copy."""

MAX_JOINED: Final = 8
"""Frames that go as one, at most; the largest messages have three."""


@final
@dataclass(frozen=True)
class Packed:
    """Frames of one message, to be sent to one peer or several.

    Parameters
    ----------
    frames : sequence of bytes or memoryview
        As they were.
    """

    frames: Sequence[Frame]

    @cached_property
    def parts(self) -> list[zmq.Frame | Frame]:
        """As libzmq takes them: small ones as one; others as frames that share their memory with every copy."""
        frames = self.frames
        if 1 < len(frames) <= MAX_JOINED and sum(map(len, frames)) < JOIN_BYTES:
            return [joined(frames)]
        return [zmq.Frame(frame, copy=len(frame) < COPY_BYTES) for frame in frames]

    @cached_property
    def handed(self) -> Handed:
        """For whoever is in this process."""
        return Handed(self.frames)

    @cached_property
    def n_bytes(self) -> int:
        """Of all parts together."""
        return sum(map(len, self.parts))


NOTHING: Final = Packed([])
"""A message without frames, which is none."""


def joined(frames: Sequence[Frame]) -> bytes:
    """Frames of a small message as one."""
    lengths = struct.pack(f"<BB{len(frames)}H", JOINT, len(frames), *map(len, frames))
    return b"".join((lengths, *frames))


def parted(frames: list[Frame], sender: PeerId) -> list[Frame]:
    """Frames of a message, which may have come as one.

    Raises
    ------
    WireError
        They did, and are no frames; names the sender.
    """
    one = frames[0]
    if len(frames) != 1 or not one or one[0] != JOINT:
        return frames
    n = one[1] if len(one) > 1 else 0
    at = 2 + 2 * n
    if not 1 < n <= MAX_JOINED or len(one) < at:
        raise WireError("frames", f"expected up to {MAX_JOINED} frames as one, found none", sender)
    apart = []
    for length in struct.unpack_from(f"<{n}H", one, 2):
        apart.append(one[at : at + length])
        at += length
    if at != len(one):
        raise WireError("frames", f"expected frames of {at} bytes as one, found {len(one)} bytes", sender)
    return apart


def receive_now(end: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """All frames of the message that is here; None if there is none."""
    try:
        frame = end.recv(NOW, copy=False)
    except zmq.Again:
        return None
    parts = [frame]
    while frame.more:  # a message comes whole
        frame = end.recv(NOW, copy=False)
        parts.append(frame)
    return parts


def send_now(end: zmq.Socket[bytes], packed: Packed) -> bool:
    """Hand a message to libzmq; False if it takes none now."""
    last = len(packed.parts) - 1
    try:
        for k, part in enumerate(packed.parts):
            end.send(part, NOW if k == last else NOW_AND_MORE)
    except zmq.Again:
        return False
    return True
