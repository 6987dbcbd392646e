"""A page over HTTP, served beside other work of an event loop; what comes from outside is bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from peer.errors import ConfigError

REQUEST_BYTES: Final = 8_192
"""Of a request's head at most."""

REQUEST_S: Final = 5.0
"""For a whole request and its answer."""

CONNECTIONS: Final = 16
"""At a time; whoever comes then is turned away."""


async def serve(place: tuple[str, int], page: Callable[[], str], content_type: str, key: str) -> asyncio.Server:
    """Serve a page at / and /metrics of a host and port, until the server is closed.

    Raises
    ------
    ConfigError
        One cannot listen there; names `key`.
    """
    open_now = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= CONNECTIONS:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_answer(head, page, content_type))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a stranger's doing: there is nobody to be told
        finally:
            open_now -= 1
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(REQUEST_S):
                    await writer.wait_closed()

    host, port = place
    named = f"[{host}]" if ":" in host else host
    try:
        return await asyncio.start_server(answer, host, port, limit=REQUEST_BYTES)
    except OSError as error:
        raise ConfigError(key, f"cannot listen on {named}:{port}: {error.strerror or error}") from error


def _answer(head: bytes, page: Callable[[], str], content_type: str) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    status, text = "200 OK", ""
    if method not in (b"GET", b"HEAD"):
        status = "405 Method Not Allowed"
    elif path not in (b"/", b"/metrics"):
        status = "404 Not Found"
    else:
        text = page()
    body = text.encode()
    fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + (b"" if method == b"HEAD" else body)
