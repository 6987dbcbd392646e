"""Runs that are watched end with the same bits as others; and how `peer watch` itself begins and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession

from tests.integration.lab import TIMEOUT_S, Lab, free_addresses, refusal
from tests.pages.conftest import PEERS, ROUNDS, launching, sixteen, watching
from tests.rundir import write_run


async def heard(address: str, n_rounds: int) -> dict[int, list[int]]:
    """Rounds that a page is told of each peer, until it knows so many of all."""
    found: dict[int, list[int]] = {}
    async with asyncio.timeout(TIMEOUT_S), ClientSession() as client, client.get(address + "events") as answer:
        text = b""
        async for chunk in answer.content.iter_any():
            text += chunk
            *messages, text = text.split(b"\n\n")
            for message in messages:
                if message.startswith(b"event: about"):
                    continue
                told = json.loads(message.removeprefix(b"data: "))
                for peer, more in told["peers"].items():
                    found[int(peer)] = [*found.get(int(peer), [])[: more["from"]], *more["n"]]
            if len(found) == PEERS and all(n and n[-1] == n_rounds - 1 for n in found.values()):
                break
    return found


def both(addresses: Sequence[str]) -> list[dict[int, list[int]]]:
    """What pages at these addresses are told to the end of the run."""

    async def run() -> list[dict[int, list[int]]]:
        return list(await asyncio.gather(*(heard(address, ROUNDS) for address in addresses)))

    return asyncio.run(run())


def final(run_dir: Path) -> list[bytes]:
    """Final parameters of all peers."""
    return [(run_dir / "peers" / f"{peer:03d}" / "final.npz").read_bytes() for peer in range(PEERS)]


def free_in_a_row(n: int) -> str:
    """The first of n addresses that are free, with ports that follow each other."""
    while True:
        first, *_, last = free_addresses(n)
        if int(last.rpartition(":")[2]) - int(first.rpartition(":")[2]) == n - 1:
            return first


def test_a_run_with_two_watchers_ends_with_the_bits_of_one_without(lab: Lab, launched: Path) -> None:
    with launching(lab), watching(lab, "out") as (_, one), watching(lab, "out") as (_, other):
        told = both([one, other])
    for found in told:
        assert found == {peer: list(range(ROUNDS)) for peer in range(PEERS)}
    assert final(lab.folder / "out") == final(launched)


def test_a_run_that_publishes_ends_with_the_same_bits_and_is_followed_from_outside(lab: Lab, launched: Path) -> None:
    publish = free_in_a_row(PEERS)
    with (
        watching(lab, publish) as (_, one),
        watching(lab, publish) as (_, other),
        launching(lab, "--set", f"run.publish={publish}"),
    ):
        told = both([one, other])
    for found in told:
        for rounds in found.values():
            assert rounds == list(range(rounds[0], ROUNDS))  # what was before a watcher came is not told again
            assert rounds[0] < 0.9 * ROUNDS
    assert final(lab.folder / "out") == final(launched)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to_with_pages_open(lab: Lab, number: signal.Signals) -> None:
    write_run(lab.folder / "runs" / "tiny", ended=None)

    async def listen(address: str, process: Any) -> None:
        async with asyncio.timeout(TIMEOUT_S), ClientSession() as client, client.get(address + "events") as answer:
            await answer.content.readline()
            process.send_signal(number)
            with suppress(ClientPayloadError):  # a stream that has no end was cut off
                await answer.content.read()

    with watching(lab) as (process, address):
        asyncio.run(listen(address, process))


def test_bad_input_ends_in_one_line(lab: Lab) -> None:
    write_run(lab.folder / "out")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, problem in (
            ([], "watch: expected a run directory, or one in runs/; found none"),
            (["nowhere"], "nowhere: expected a run directory, found no experiment.toml in it"),
            (["out", "--port", str(port)], f"--port: cannot listen on 127.0.0.1:{port}: Address already in use"),
            (["out", "--port", "70000"], "--port: cannot listen on 127.0.0.1:70000"),
            (["tcp://127.0.0.1"], "watch: expected"),
            (["tcp://10.1.2.3:5600"], "--keys: expected keys, for tcp://10.1.2.3:5600 is not of the loopback"),
            (["tcp://10.1.2.3:5600", "--keys", "none"], "transport.keys: expected key files in none"),
        ):
            assert refusal(lab.run("watch", *arguments), 2).startswith(f"peer: {problem}")


def test_peers_do_not_publish_beyond_the_loopback_without_keys(lab: Lab) -> None:
    experiment = sixteen(lab)
    done = lab.run("launch", experiment, "--out", "out", "--set", "run.publish=tcp://0.0.0.0:5600", "--peers", "2")
    assert done.returncode == 2
    assert "run.publish: expected an address of the loopback without transport.keys" in done.stderr
