"""The live page as a person uses it, in a headless Chromium: `make test-pages`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import TestServer

from peer.figures import Links
from peer.files import folder_of
from peer.report import markup
from peer.watching.server import application
from tests.integration.lab import Lab
from tests.pages.browser import Page, chromium
from tests.pages.conftest import PEERS, ROUNDS, launching, watching
from tests.rundir import write_elastic, write_run
from tests.unit.test_watching import Failing
from topology import draw, graphs
from topology.schedules import Static

FIGURES = ("objective_estimate", "residual", "disagreement", "bytes_sent", "alpha", "tau")

MINUS = "\N{MINUS SIGN}"

PICTURES = os.environ.get("PEER_PICTURES", "")
"""A folder for pictures of the page in the middle of a run, if somebody wants to look at them."""


def visit(address: str, look: Callable[[Page], Awaitable[None]], told: bool = False) -> None:
    """Look at a page, which must not complain, nor ask for anything beyond its own server."""

    async def run() -> None:
        async with chromium() as page:
            await page.open(address)
            await page.until("document.querySelectorAll('#peers tbody tr').length")
            await look(page)
            assert told or page.complaints == []
            assert {urlsplit(url).netloc for url in page.requests} == {urlsplit(address).netloc}

    asyncio.run(run())


async def tile(page: Page, label: str) -> str:
    """The value of a tile."""
    found = await page.value(
        f"[...document.querySelectorAll('#tiles div')].find((box) => box.children[0].textContent === {label!r})"
        ".children[1].textContent"
    )
    return str(found)


async def round_shown(page: Page) -> int:
    """The round that the page shows."""
    return int((await tile(page, "Round")).split()[0])


async def states(page: Page) -> dict[int, str]:
    """What is said of each peer."""
    found = await page.value(
        "Object.fromEntries([...document.querySelectorAll('#peers tbody tr')]"
        ".map((row) => [row.children[0].textContent, row.children[1].textContent]))"
    )
    return {int(peer): said for peer, said in found.items()}


async def colored(page: Page, name: str) -> int:
    """Pixels of a figure that are not of its background."""
    return int(
        await page.value(
            f"""(() => {{
  const canvas = document.querySelector('figure[data-name="{name}"] canvas');
  const pixels = canvas.getContext('2d').getImageData(60, 10, canvas.width - 75, canvas.height - 55).data;
  let found = 0;
  for (let k = 0; k < pixels.length; k += 4) {{
    const [r, g, b, a] = pixels.slice(k, k + 4);
    if (a > 128 && (Math.max(r, g, b) - Math.min(r, g, b) > 40)) found++;
  }}
  return found;
}})()"""
        )
    )


async def scrolls(page: Page) -> bool:
    """Whether there is something beside the window."""
    return bool(await page.value("document.documentElement.scrollWidth > innerWidth"))


def metrics(run_dir: Path, n: int) -> list[dict[str, Any]]:
    """Lines of round n of all peers."""
    texts = [(folder_of(run_dir, peer) / "metrics.jsonl").read_text().splitlines()[n] for peer in range(PEERS)]
    return [json.loads(text) for text in texts]


def test_a_run_is_followed_while_it_goes_on(lab: Lab) -> None:
    async def look(page: Page) -> None:
        await page.until("document.getElementById('state').dataset.kind === 'live'")
        await page.until("Number(document.getElementById('slider').value) >= 30")
        first = await round_shown(page)
        assert await page.value("document.querySelectorAll('.node').length") == PEERS
        lit = (
            "[...document.querySelectorAll('.lit')].filter((line) => Number(line.style.strokeOpacity) > .99)"
            ".map((line) => line.getAttribute('x1') + line.getAttribute('y2')).join()"
        )
        before = await page.value(lit)
        assert before
        await page.until(f"{lit} && {lit} !== '{before}' && Number(document.getElementById('slider').value) > {first}")
        assert set((await states(page)).values()) == {"running"}
        for width in (1280, 400):
            await page.size(width, 900)
            for scheme in ("light", "dark"):
                await page.scheme(scheme)
                await page.until(f"document.documentElement.dataset.scheme === '{scheme}'")
                await page.until(
                    "document.querySelector('canvas').clientWidth <= document.querySelector('.plot').clientWidth"
                )
                assert not await scrolls(page)
                for name in FIGURES:
                    assert await colored(page, name) > 20, (name, width, scheme)
                if PICTURES:
                    await page.size(width, await page.value("document.documentElement.scrollHeight"))
                    await page.picture(Path(PICTURES) / f"live-{width}-{scheme}.png")
        await page.until("document.getElementById('state').dataset.kind === 'over'")
        await page.until(f"Number(document.getElementById('slider').value) === {ROUNDS - 1}")
        assert set((await states(page)).values()) == {"done"}

    with launching(lab), watching(lab, "out") as (_, address):
        visit(address, look)


def test_a_run_that_is_over_can_be_gone_through(lab: Lab, launched: Path) -> None:
    async def shows(page: Page, n: int) -> None:
        await page.until(f"document.getElementById('where').textContent.startsWith('round {n} ')")
        lines = metrics(launched, n)
        assert await round_shown(page) == n
        assert float(await tile(page, "Objective, mean")) == pytest.approx(
            fmean(line["objective_estimate"] for line in lines), rel=1e-3
        )
        assert float((await tile(page, "Residual, largest")).replace(MINUS, "-")) == pytest.approx(
            max(line["residual"] for line in lines), rel=1e-2
        )
        links = {frozenset((i, j)) for i, line in enumerate(lines) for j in line["neighbors"]}
        assert (await page.value("document.getElementById('network-note').textContent")).startswith(f"{len(links)} of ")

    async def look(page: Page) -> None:
        await shows(page, ROUNDS - 1)
        await page.value("document.getElementById('slider').focus()")
        await page.press("Home")
        await shows(page, 0)
        for n in range(1, 4):
            await page.press("ArrowRight")
            await shows(page, n)
        await page.click("#slider")
        value = "document.getElementById('slider').value"
        n = await page.until(f"Number({value}) > 50 && {value}")
        await shows(page, int(n))
        await page.click("#play")
        await page.until(f"Number(document.getElementById('slider').value) > {int(n) + 5}")
        await page.click("#play")
        await page.until("document.getElementById('play').getAttribute('aria-label') === 'Play'")
        await page.click('figure[data-name="residual"] .u-over')
        middle = await page.until(f"Math.abs({value} - {ROUNDS / 2}) < 4 && Math.round({value})")
        await shows(page, middle)
        assert await page.value("document.querySelector('.mark').hidden") is False
        await page.click("#live")
        await shows(page, ROUNDS - 1)

    with watching(lab, launched) as (_, address):
        visit(address, look)


def test_pointing_at_a_peer_brings_it_out_everywhere(lab: Lab, launched: Path) -> None:
    async def look(page: Page) -> None:
        x, y = await page.middle('.node[data-peer="5"] .disk')
        await page.point(x, y)
        await page.until("document.querySelector('#graph.focused .node.chosen').dataset.peer === '5'")
        chosen = "[...document.querySelectorAll('#bars .chosen, #peers .chosen')].map((row) => row.dataset.peer).join()"
        assert await page.value(chosen) == "5,5"
        for name in FIGURES:
            said = await page.value(f"document.querySelector('figure[data-name=\"{name}\"] output').textContent")
            assert said.startswith("peer 5: ")
        x, y = await page.middle('#bars > div[data-peer="11"]')
        await page.point(x, y)
        await page.until("document.querySelector('#graph.focused .node.chosen').dataset.peer === '11'")
        await page.point(1, 1)
        await page.until("document.querySelector('#graph.focused') === null")

    with watching(lab, launched) as (_, address):
        visit(address, look)


def test_the_color_scheme_is_the_systems_until_somebody_chooses(lab: Lab, launched: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"

    async def look(page: Page) -> None:
        await page.scheme("light")
        light = await page.until(f"document.documentElement.dataset.scheme === 'light' && {background}")
        await page.scheme("dark")
        dark = await page.until(f"document.documentElement.dataset.scheme === 'dark' && {background}")
        assert light != dark
        await page.click('button[data-scheme="light"]')
        assert await page.until(f"document.documentElement.dataset.scheme === 'light' && {background}") == light
        await page.send("Page.reload")
        await page.until("document.querySelectorAll('#peers tbody tr').length")
        assert await page.value("document.documentElement.dataset.scheme") == "light"
        await page.click('button[data-scheme="auto"]')
        await page.until("document.documentElement.dataset.scheme === 'dark'")

    with watching(lab, launched) as (_, address):
        visit(address, look)


def test_who_is_late_gone_or_joined_and_what_was_dropped(lab: Lab) -> None:
    write_elastic(lab.folder / "elastic")
    write_run(lab.folder / "late", ended=None)
    with (folder_of(lab.folder / "late", 0) / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time_s": 9.0, "event": "waiting", "n": 4, "peers": [2], "since": "now"}) + "\n")

    async def elastic(page: Page) -> None:
        said = await states(page)
        assert said == {0: "done", 1: "done", 2: "gone", 8: "done, joined"}
        slider = "document.getElementById('slider')"
        await page.value(f"{slider}.value = 4; {slider}.dispatchEvent(new Event('input'))")
        await page.until("document.getElementById('where').textContent.startsWith('4.')")
        assert await states(page) == {0: "running", 1: "running", 2: "running", 8: "not seen yet"}
        await page.size(400, 800)
        assert not await scrolls(page)

    async def late(page: Page) -> None:
        assert await states(page) == {0: "waits for others", 1: "running", 2: "late, peer 0 waits"}
        assert await page.value("document.querySelector('.node[data-peer=\"2\"]').dataset.is") == "late"
        drops = await page.value("[...document.querySelectorAll('#drops tr')].map((row) => row.innerText).join()")
        assert drops.split() == ["peer", "stale,1", "3"]
        assert "waits for peer 2" in await page.value("document.getElementById('log').textContent")

    for name, look in (("elastic", elastic), ("late", late)):
        with watching(lab, name) as (_, address):
            visit(address, look)


def test_without_its_server_the_page_is_a_replay(lab: Lab, launched: Path) -> None:
    with watching(lab, launched) as (process, address):

        async def look(page: Page) -> None:
            process.terminate()
            await page.until("document.getElementById('state').dataset.kind === 'lost'")
            await page.value("document.getElementById('slider').focus()")
            await page.press("Home")
            await page.until("document.getElementById('where').textContent.startsWith('round 0 ')")

        visit(address, look, told=True)  # the browser itself complains that nobody answers


def test_why_nothing_can_be_read_any_more_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        app = application(Failing(write_run(tmp_path)), "here")
        async with TestServer(app, host="127.0.0.1") as running, chromium() as page:
            await page.open(str(running.make_url("/")))
            await page.until("document.getElementById('state').dataset.kind === 'lost'")
            said = await page.value("document.getElementById('state-text').textContent")
            assert said == "here cannot be read: IndexError: two lines"
            await page.until("document.querySelectorAll('#peers tbody tr').length")

    asyncio.run(run())


def test_a_screen_reader_is_told_how_the_run_stands_and_not_each_number(lab: Lab, launched: Path) -> None:
    async def look(page: Page) -> None:
        nodes = (await page.send("Accessibility.getFullAXTree"))["nodes"]
        live = [one for node in nodes for one in node.get("properties", ()) if one["name"] == "live"]
        assert [one["value"]["value"] for one in live if one["value"]["value"] != "off"] == ["polite"]

    with watching(lab, launched) as (_, address):
        visit(address, look)


def test_keys_of_the_browser_are_the_browsers(lab: Lab, launched: Path) -> None:
    async def look(page: Page) -> None:
        await page.until(f"document.getElementById('where').textContent.startsWith('round {ROUNDS - 1} ')")
        await page.value("window.kept = []")
        await page.value("document.addEventListener('keydown', (event) => kept.push(event.defaultPrevented))")
        for modifiers in (1, 2, 4, 0):
            await page.press("ArrowRight", modifiers)
        await page.until("kept.length === 4")
        assert await page.value("kept") == [False, False, False, True]

    with watching(lab, launched) as (_, address):
        visit(address, look)


def test_numbers_of_the_network_are_those_of_its_members(lab: Lab) -> None:
    """Peer 2 is lost with its first epoch; 0, 1 and 8 are left."""
    write_elastic(lab.folder / "out")
    last = {
        peer: json.loads((folder_of(lab.folder / "out", peer) / "metrics.jsonl").read_text().splitlines()[-1])
        for peer in (0, 1, 8)
    }
    values = [line["objective_estimate"] for line in last.values()]

    async def look(page: Page) -> None:
        await page.until("document.getElementById('state').dataset.kind === 'over'")
        await page.click("#live")
        await page.until("document.getElementById('slider').value === document.getElementById('slider').max")
        assert float(await tile(page, "Objective, mean")) == pytest.approx(fmean(values), rel=1e-3)
        largest = max(line["residual"] for line in last.values())
        assert float((await tile(page, "Residual, largest")).replace(MINUS, "-")) == pytest.approx(largest, rel=1e-2)
        assert await tile(page, "Wakings") == f"{min(line['iteration'] for line in last.values()) + 1} or more each"
        said = await page.value("document.querySelector('[data-name=objective_estimate] output').textContent")
        assert said.endswith(f" {min(values):.3g} to {max(values):.3g}")

    with watching(lab, "out") as (_, address):
        visit(address, look)


def test_where_nothing_is_tracked_no_residual_is_of_stationarity(lab: Lab) -> None:
    write_run(lab.folder / "out", method={"kind": "extra"})
    for peer in range(3):
        path = folder_of(lab.folder / "out", peer) / "metrics.jsonl"
        lines = [json.loads(line) | {"alpha": 0.1, "tau": 0.0} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def look(page: Page) -> None:
        facts = await page.value("document.getElementById('facts').textContent")
        assert "method extra" in facts
        assert "surrogate" not in facts
        for name, part, said in (
            ("residual", "small", "change over step size, each agent"),
            ("tau", ".none", "0 in every round."),
        ):
            await page.until(f"""document.querySelector('[data-name="{name}"] {part}').textContent === {said!r}""")

    with watching(lab, "out") as (_, address):
        visit(address, look)


def test_names_are_text(lab: Lab) -> None:
    name = "<img src='nowhere' onerror='alert(1)'><b>bold<b>"
    write_run(lab.folder / "out", name=name)
    with (folder_of(lab.folder / "out", 0) / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time_s": 9.0, "event": "end", "code": 3, "problem": name}) + "\n")

    async def look(page: Page) -> None:
        assert await page.value("document.getElementById('name').textContent") == name
        assert name in await page.value("document.getElementById('log').textContent")
        assert await page.value("document.querySelectorAll('img').length") == 0

    with watching(lab, "out") as (_, address):
        visit(address, look)


def test_the_matrix_of_a_report_is_let_in(tmp_path: Path) -> None:
    links = Links.of_schedule(Static(graphs.ring(draw.MOST_DRAWN + 1)), 1)
    path = tmp_path / "report.html"
    path.write_text(markup.page("many", "done", "", [markup.figure("links", "Links", "", links)]), encoding="utf-8")

    async def run() -> None:
        async with chromium() as page:
            await page.open(path.as_uri())
            await page.until("document.readyState === 'complete'")
            assert await page.value("document.querySelectorAll('image').length") == 1
            assert page.complaints == []

    asyncio.run(run())
