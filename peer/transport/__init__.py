"""Frames between this process and its neighbors over ZeroMQ; the only room that knows it. See `sockets`."""

from peer.transport.frames import JOIN_BYTES, JOINT, MAX_JOINED, NOTHING, joined, parted, receive_now
from peer.transport.hub import Hub
from peer.transport.keys import Keys, identity, new_key_pair, public_of
from peer.transport.limits import QUEUE_MESSAGES, SEEN
from peer.transport.nearby import NOBODY, Nearby, nearby
from peer.transport.places import is_loopback
from peer.transport.sockets import Transport
from peer.transport.watched import Subscription

__all__ = [
    "JOINT",
    "JOIN_BYTES",
    "MAX_JOINED",
    "NOBODY",
    "NOTHING",
    "QUEUE_MESSAGES",
    "SEEN",
    "Hub",
    "Keys",
    "Nearby",
    "Subscription",
    "Transport",
    "identity",
    "is_loopback",
    "joined",
    "nearby",
    "new_key_pair",
    "parted",
    "public_of",
    "receive_now",
]
