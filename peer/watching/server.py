"""The page and what it is told, over HTTP on the loopback; the only file that knows aiohttp.

A browser may be led to this port by any page that it shows. So a request has to name the loopback as its host, which
a name of somebody else that is made to point here does not do; nothing is answered to other origins; and the page
itself may load nothing but what is served here.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, final

from aiohttp import web
from aiohttp.typedefs import Handler

from peer.errors import INTERRUPTED, ConfigError, PeerError
from peer.watching import about as abouts
from peer.watching.story import Cursor, Source, Story

LOOK_S: Final = 0.5
"""Between two looks at what the peers have written; the page plays in between what it has got."""

PAGE: Final = Path(__file__).with_name("page")

FILES: Final = {
    "/": ("index.html", "text/html"),
    **{f"/{name}": (name, "text/javascript") for name in ("page.js", "story.js", "graph.js", "charts.js", "axes.js")},
    "/uPlot.js": ("uPlot.iife.min.js", "text/javascript"),
    "/uPlot.css": ("uPlot.min.css", "text/css"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What is served, with its type."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: nothing from elsewhere, nothing inline."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(source: Source, where: str) -> web.Application:
    """The server of one run.

    Parameters
    ----------
    source : Source
        Of the lines.
    where : str
        What the source is, for the page.
    """
    app = web.Application(middlewares=[loopback_only])
    app[READER] = Reader(source, where)
    for path, (name, kind) in FILES.items():
        app.router.add_get(path, _file(PAGE / name, kind))
    app.router.add_get("/events", events)
    app.on_response_prepare.append(_with_headers)
    app.cleanup_ctx.append(_reading)
    return app


@final
class Reader:
    """Reads a source, as long as somebody wants to know."""

    def __init__(self, source: Source, where: str) -> None:
        self.source = source
        self._where = where
        self._story = Story()
        self._about: dict[str, Any] | None = None
        self._failure = ""
        self._n_waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    @property
    def reads(self) -> bool:
        """Whether it reads now."""
        return self._task is not None and not self._task.done()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read while this is open, by whomever."""
        self._n_waiting += 1
        if not self.reads and not self._failure:
            self._task = asyncio.ensure_future(self._read())
        try:
            yield
        finally:
            self._n_waiting -= 1

    async def about(self) -> dict[str, Any]:
        """What does not change, once it is known.

        Raises
        ------
        PeerError
            Nothing can be read any more, and this is not known.
        """
        async with self._news:
            await self._news.wait_for(lambda: self._about is not None or bool(self._failure))
        if self._about is None:
            raise PeerError(self._failure)
        return self._about

    async def more(self, cursor: Cursor) -> dict[str, Any]:
        """What a reader does not know yet; waits until there is something.

        Raises
        ------
        PeerError
            Nothing can be read any more, and the reader knows all that was.
        """
        async with self._news:
            await self._news.wait_for(lambda: self._story.version != cursor.version or bool(self._failure))
        if self._story.version == cursor.version:
            raise PeerError(self._failure)
        return self._story.since(cursor) or {}

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.source.close()

    async def _read(self) -> None:
        while self._n_waiting and not self._failure:
            try:
                await self._look()
            except Exception as error:  # of whatever kind: nobody waits for this task
                self._failure = " ".join(f"{self._where} cannot be read: {type(error).__name__}: {error}".split())
                print(f"peer: {self._failure}", file=sys.stderr, flush=True)
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        if self._about is None and (experiment := self.source.experiment()) is not None:
            self._about = await asyncio.to_thread(abouts.about, experiment, self._where)
        self._story.take(await asyncio.to_thread(self.source.look))


READER: Final = web.AppKey("reader", Reader)


async def events(request: web.Request) -> web.StreamResponse:
    """All that is known of the run, and then whatever comes, as server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    reader, cursor = request.app[READER], Cursor()
    with suppress(ConnectionError):
        async with reader.reading():
            try:
                await response.write(f"event: about\ndata: {abouts.encoded(await reader.about())}\n\n".encode())
                while True:
                    message = await asyncio.to_thread(abouts.encoded, await reader.more(cursor))
                    await response.write(f"data: {message}\n\n".encode())
            except PeerError as error:
                await response.write(f"event: failed\ndata: {abouts.encoded(str(error))}\n\n".encode())
    return response


@web.middleware
async def loopback_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests for another host than this one's loopback, and those that another site's page makes."""
    if not is_own(request.headers.get("Host", "")):
        raise web.HTTPMisdirectedRequest(text="expected the loopback as host\n")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise web.HTTPForbidden(text="expected a request of this page\n")
    return await handler(request)


def is_own(host: str) -> bool:
    """Whether the host of a request is the loopback, by one of its own names."""
    return re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", host) is not None


async def _reading(app: web.Application) -> AsyncIterator[None]:
    """Read from the start where what has come would be lost else; and let go of the source in the end."""
    async with AsyncExitStack() as opened:
        opened.push_async_callback(app[READER].close)
        if not app[READER].source.lasts:
            await opened.enter_async_context(app[READER].reading())
        yield


async def _with_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _file(path: Path, kind: str) -> Callable[[web.Request], Any]:
    text = path.read_text(encoding="utf-8")

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, charset="utf-8")

    return answer


def serve(source: Source, where: str, port: int, tell: Callable[[str], None]) -> int:
    """Serve a run until this process is told to end; the exit code.

    Parameters
    ----------
    source : Source
    where : str
    port : int
        0: a free one.
    tell : callable
        Takes the address, once there is somebody who answers there.

    Raises
    ------
    ConfigError
        The port is in use, or may not be used.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("--port", f"cannot listen on 127.0.0.1:{port}: {problem}") from error
    return asyncio.run(_serve(application(source, where), listener, tell))


async def _serve(app: web.Application, listener: socket.socket, tell: Callable[[str], None]) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    tell(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    await stop.wait()
    await runner.cleanup()
    return INTERRUPTED
