"""A page over HTTP, and what strangers try with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from peer import endpoint
from peer.errors import ConfigError
from tests.integration.lab import free_addresses

Ask = Callable[[bytes], Awaitable[bytes]]


def with_server(test: Callable[[Ask, int], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        port = int(free_addresses(1)[0].rpartition(":")[2])
        server = await endpoint.serve(("127.0.0.1", port), lambda: "a 1\n", "text/plain", "--openmetrics")

        async def ask(text: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            try:
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        await test(ask, port)
        server.close()
        await server.wait_closed()

    asyncio.run(all_of_it())


def test_a_page_is_at_one_place() -> None:
    async def test(ask: Ask, port: int) -> None:
        for path in (b"/metrics", b"/", b"/metrics?x=1"):
            head, _, body = (await ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert b"Content-Type: text/plain" in head
            assert body == b"a 1\n"
        assert (await ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert (await ask(b"GET /other HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await ask(b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405")

    with_server(test)


def test_what_is_no_request_is_not_answered_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 0.05)

    async def test(ask: Ask, port: int) -> None:
        assert await ask(b"x" * 100_000 + b"\r\n\r\n") == b""
        assert await ask(b"GET /metrics") == b"", "an end that never comes is waited for no longer"
        assert (await ask(b"\x00\xff\r\n\r\n")).startswith(b"HTTP/1.1 405")
        assert (await ask(b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"a 1\n")

    with_server(test)


def test_too_many_at_a_time_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "CONNECTIONS", 2)

    async def test(ask: Ask, port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await ask(b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for reader, writer in idle:
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"a 1\n")
            writer.close()
        assert (await ask(b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"a 1\n")

    with_server(test)


def test_a_port_that_is_taken_is_told() -> None:
    async def test(ask: Ask, port: int) -> None:
        with pytest.raises(ConfigError, match=rf"--openmetrics: cannot listen on 127\.0\.0\.1:{port}: "):
            await endpoint.serve(("127.0.0.1", port), str, "text/plain", "--openmetrics")

    with_server(test)


def test_a_place_is_named_as_urls_name_it() -> None:
    """192.0.2.1 and 2001:db8::1 are addresses of examples, and of no host."""
    for host, named in (("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80")):
        with pytest.raises(ConfigError, match=re.escape(f"cannot listen on {named}: ")):
            asyncio.run(endpoint.serve((host, 80), str, "text/plain", "--openmetrics"))
