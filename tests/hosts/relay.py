"""A relay of TCP connections that adds latency and bounds bandwidth; run by its path, with the standard library only.

    python relay.py --latency 0.05 [--bandwidth 1e6] LISTEN=TARGET ...

Each LISTEN and TARGET is host:port, an IPv6 host in brackets. It says "ready" when it listens
everywhere. Latency is exact from below: no byte leaves earlier than `--latency` seconds after it
came. Bandwidth is that of one direction of one connection, bytes a second. A connection that
breaks on one side breaks on the other, behind the bytes on their way.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Final

CHUNK_BYTES: Final = 1 << 16
"""Read at once."""

PENDING_BYTES: Final = 1 << 22
"""On its way in one direction; beyond it the sender has to wait, as on a real line."""


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, latency_s: float, bandwidth: float) -> None:
    """Carry one direction of a connection to its end."""
    loop = asyncio.get_running_loop()
    pending: deque[tuple[float, bytes]] = deque()
    changed, room = asyncio.Event(), asyncio.Event()

    async def deliver() -> None:
        while True:
            while not pending:
                changed.clear()
                await changed.wait()
            due_s, chunk = pending[0]
            if (left_s := due_s - loop.time()) > 0.0:
                await asyncio.sleep(left_s)
                continue
            pending.popleft()
            room.set()
            if not chunk:
                return
            sink.write(chunk)
            await sink.drain()

    async def collect() -> None:
        free_s = 0.0
        chunk = b"..."
        while chunk:
            while sum(len(waiting) for _, waiting in pending) >= PENDING_BYTES:
                room.clear()
                await room.wait()
            try:
                chunk = await source.read(CHUNK_BYTES)
            except ConnectionError:
                chunk = b""
            free_s = max(free_s, loop.time()) + len(chunk) / bandwidth
            pending.append((free_s + latency_s, chunk))
            changed.set()

    collecting = asyncio.ensure_future(collect())
    try:
        with suppress(ConnectionError):
            await deliver()
    finally:
        collecting.cancel()
        sink.close()


async def serve(listen: str, target: str, latency_s: float, bandwidth: float) -> asyncio.Server:
    """Relay what comes to one address to another."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onwards = await asyncio.open_connection(*split(target))
        except OSError:
            writer.close()  # nobody is there: the caller finds its connection broken
            return
        for one in (writer, onwards[1]):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directions = ((reader, onwards[1]), (onwards[0], writer))
        await asyncio.gather(*(carry(source, sink, latency_s, bandwidth) for source, sink in directions))

    return await asyncio.start_server(relay, *split(listen))


def split(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


async def main() -> None:
    """Relay until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bandwidth", type=float, default=float("inf"))
    parser.add_argument("routes", nargs="+")
    given = parser.parse_args()
    for route in given.routes:
        listen, _, target = route.partition("=")
        await serve(listen, target, given.latency, given.bandwidth)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
