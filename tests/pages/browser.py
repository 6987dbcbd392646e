"""A headless Chromium, told what to do over its DevTools protocol: https://chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self, final

import aiohttp

LIMIT_S: Final = 60.0
"""For anything that a page is waited for."""

FLAGS: Final = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-pings",
    "--no-proxy-server",
    "--remote-debugging-port=0",
    # a name that a page asks for is not looked up, so that nothing leaves this host; the request is seen all the same
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@final
@dataclass(eq=False)
class Page:
    """A tab, and what it has asked for and complained of.

    Parameters
    ----------
    socket : ClientWebSocketResponse
        To the browser.
    session : str
        Of the tab.
    requests : list of str
        Addresses.
    complaints : list of str
        Errors and warnings of the console, exceptions, and what the page's policy forbade.
    """

    socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    async def listen(self) -> None:
        """Take in what the browser says."""
        async for message in self.socket:
            said = message.json()
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(AssertionError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
            else:
                self._hear(said.get("method", ""), said.get("params", {}))

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a command."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": parameters}
        await self.socket.send_json(command | ({"sessionId": self.session} if self.session else {}))
        async with asyncio.timeout(LIMIT_S):
            found: dict[str, Any] = await answer
        return found

    async def open(self, address: str) -> Self:
        """Go to an address."""
        await self.send("Page.navigate", url=address)
        return self

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true, looking at it with every frame that the page draws."""
        condition = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        deadline_s = asyncio.get_running_loop().time() + LIMIT_S
        while not (found := await self.value(condition)):
            assert asyncio.get_running_loop().time() < deadline_s, f"never true: {expression}"
            await self.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")
        return found

    async def size(self, width: int, height: int) -> None:
        """Give the window a size, in pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def scheme(self, name: str) -> None:
        """Have the system prefer "light" or "dark"."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is, once it has been scrolled to."""
        await self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = await self.value(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        return float(box[0]), float(box[1])

    async def point(self, x: float, y: float, kind: str = "mouseMoved") -> None:
        """Move the mouse there, or press or release it."""
        pressed = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    async def click(self, selector: str) -> None:
        """Click into the middle of an element, as a person does."""
        x, y = await self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await self.point(x, y, kind)

    async def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key that has a name, such as ArrowLeft; with 1 for Alt, 2 for Ctrl, 4 for Meta, added up."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[key]
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
            )

    async def picture(self, path: Path, whole: bool = True) -> None:
        """Write what there is to be seen as PNG; the whole page, or the window."""
        found = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@asynccontextmanager
async def chromium(width: int = 1280, height: int = 900) -> AsyncIterator[Page]:
    """A browser of its own with an empty tab; gone at the end, with all that it has written."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program is not None, "expected a Chromium on the path: apt-get install chromium"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            *sandbox,
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                address = await _address(process)
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(address, max_msg_size=0) as socket,
            ):
                page = Page(socket)
                listening = asyncio.ensure_future(page.listen())
                target = await page.send("Target.createTarget", url="about:blank")
                attached = await page.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
                page.session = attached["sessionId"]
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.send(f"{domain}.enable")
                await page.size(width, height)
                try:
                    yield page
                finally:
                    listening.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        if line.startswith(b"DevTools listening on "):
            return line.split()[-1].decode()
    raise AssertionError(f"Chromium did not start: {said.decode()}")
