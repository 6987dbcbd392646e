"""Of sockets: how long, how much, how often."""

from __future__ import annotations

from typing import Final

HANDSHAKE_MS: Final = 5_000
"""A connection that has not shaken hands by then is closed: a stranger's must not hold descriptors for long."""

HEARTBEAT_MS: Final = 5_000
"""Between pings; twice that without an answer closes the connection, which finds a frozen or unplugged host."""

SLOWEST_BYTES_PER_S: Final = 100_000
"""A line of a megabit a second still serves. An answer to a ping waits behind a frame on its way, and the frame
counts as one only when it is whole: so a frame of the largest size is given the time that it takes there."""

RECONNECT_MS: Final = (20, 1_000)
"""First and longest pause between attempts to connect: any start order costs little, an absent peer less."""

CONNECT_MS: Final = 3_000
"""An attempt to connect that was not answered by then is repeated: in a silent network the kernel would wait for
minutes, ever longer between its packets."""

LINGER_MS: Final = 2_000
"""What is still to be sent when a peer ends gets this long."""

QUEUE_MESSAGES: Final = 1_000
"""High-water mark of a link. The protocol bounds what can be queued to two shares a neighbor, a catch-up after a
resumption excepted."""

ANSWER_BYTES: Final = 1_000
"""Largest frame that a link takes: nothing but handshakes and pings comes back over it."""

CURVE_BYTES: Final = 33
"""What encryption adds to a frame; MAXMSGSIZE counts it."""

FRAME_BYTES: Final = 9
"""That go before a frame on the wire, at most."""

SEEN: Final = 2
"""A frame up to this many times as large as it may be is taken from the network, so that it can be counted with its
sender; a larger one closes the connection before it is read, and libzmq does not say why."""

IN_A_ROW: Final = 64
"""Messages that are taken before everything else in the event loop gets its turn: a millisecond or two. Else
whoever sends faster than this peer reads would hold up its clock, its signals and its other threads' results."""
