"""Agents that share processes: the same bits, also when one of these is killed, and links that find who has left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from peer import prepare, settings, simulation
from peer.settings import split_address
from peer.transport import Hub, Keys, Transport, joined, new_key_pair
from tests import abuse
from tests.integration.lab import Lab, end, events, free_addresses, metrics, same_finals, wait_until
from tests.integration.test_transport import FRAME_BYTES, LIST, PAIRS, WAIT_S, received
from topology import PeerId

PEERS: Final = 5

LINKS: Final = {"graph": "complete", "schedule": "random-links", "link_probability": 0.5}

UNLIKE: Final = ("time_s", "solve_s", "wait_s", "bytes_sent", "bytes_received")
"""What a peer writes down that depends on clocks, and on what it sends beside its shares."""

CASES: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "2 a process, links that come and go, two exchanges": (
        2,
        {"topology": LINKS | {"consensus_steps": 2}, "transport": {"wire_dtype": "f4"}},
    ),
    "3 a process, compressed": (3, {"topology": {"graph": "ring"}, "compression": {"kind": "top-k"}}),
    "all in one": (PEERS, {"topology": LINKS, "transport": {"wire_dtype": "bf16"}}),
}


def _tree(lab: Lab, peers: int = PEERS, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(17)
    data = [(rng.normal(size=(m, 4)), np.arange(m) % 3) for m in (9, 4, 6, 11, 5)[:peers]]
    return {
        "seed": 5,
        "peers": peers,
        "iterations": 25,
        "data": {"path": lab.shards(data)},
        "model": {"hidden": [6]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "ring"},
    } | more


def _without(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in UNLIKE}


def _simulated(lab: Lab, experiment: Path) -> Path:
    """The run directory of an experiment that is simulated."""
    found = lab.folder / "simulated"
    with threadpool_limits(1):  # as launch gives it to its peers: sums of more threads have other last bits
        resolved, ground, _ = prepare.here(settings.read(experiment), found)
        simulation.run(resolved, ground, found, lambda: None)
    return found


@pytest.mark.parametrize(("k", "more"), CASES.values(), ids=CASES)
def test_agents_that_share_processes_are_the_simulated_ones_to_the_last_bit(
    lab: Lab, k: int, more: dict[str, Any]
) -> None:
    experiment = lab.experiment(**_tree(lab, **more))
    launched = lab.launch(experiment, "launched", "--agents-per-process", str(k))
    simulated = _simulated(lab, experiment)
    same_finals(launched, simulated, PEERS)
    for peer in range(PEERS):
        found, expected = metrics(launched, peer), metrics(simulated, peer)
        assert len(found) == 25
        assert [_without(line) for line in found] == [_without(line) for line in expected]
        sent = [np.array([line["bytes_sent"] for line in each if line["neighbors"]]) for each in (found, expected)]
        assert np.median(sent[0] / sent[1]) == pytest.approx(1.0, abs=0.05), "also what stays in the process counts"
        broken = {event["peer"] for event in events(launched, peer) if event["event"] == "disconnected"}
        assert not {j for j in broken if j // k == peer // k}, "here a farewell is read before its sender is gone"


def _children(launched: subprocess.Popen[str]) -> list[int]:
    """Processes of a launch, in the order of their agents."""
    command = ["ps", "-o", "pid=", "--ppid", str(launched.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted(map(int, done.stdout.split()))


def test_agents_of_a_killed_process_resume_one_by_one_and_nothing_has_happened(tmp_path: Path) -> None:
    """Nobody ends the others meanwhile: who started them stands still."""
    lab = Lab(tmp_path)
    run = {"checkpoint_every": 7, "agents_per_process": 2}
    experiment = lab.experiment(**_tree(lab, 4, iterations=90, run=run, transport={"security": "none"}))
    launched, out = lab.start("launch", experiment, "--out", "out"), tmp_path / "out"
    wait_until(lambda: len(metrics(out, 1)) >= 31, launched)
    launched.send_signal(signal.SIGSTOP)
    victim, _ = _children(launched)
    os.kill(victim, signal.SIGKILL)
    resumed = [lab.start("run", out / "experiment.toml", "--id", str(j), "--out", "out", "--resume") for j in (0, 1)]
    for process in resumed:
        assert end(process) == (0, "")
    launched.send_signal(signal.SIGCONT)
    code, errors = end(launched)
    assert (code, errors) == (3, "peer: peer 0 was lost: ended by SIGKILL\n")
    same_finals(_simulated(lab, experiment), out, 4)
    for peer in range(4):
        assert [line["iteration"] for line in metrics(out, peer)] == list(range(90))


def test_without_rounds_the_others_go_on_when_a_process_is_killed(lab: Lab) -> None:
    run = {"mode": "async", "departure_s": 0.5, "agents_per_process": 2}
    tree = _tree(lab, 4, iterations=200, run=run, topology={"graph": "complete"})
    launched = lab.start("launch", lab.experiment(**tree), "--out", "out")
    out = lab.folder / "out"
    wait_until(lambda: all(len(metrics(out, peer)) > 20 for peer in range(4)), launched)
    os.kill(_children(launched)[0], signal.SIGKILL)
    code, errors = end(launched)
    assert code == 3
    assert errors == (
        "peer: peers 0 (ended by SIGKILL), 1 (ended by SIGKILL) were lost; the others went on without them\n"
    )
    for peer in (2, 3):
        done = next(event for event in events(out, peer) if event["event"] == "done")
        assert done["members"] == [2, 3]
    assert json.loads((out / "summary.json").read_text())["name"] == "experiment"


# ---- transports ------------------------------------------------------------------------------


class _Agent:
    """A transport, with others in a hub or alone, and what it has told."""

    def __init__(self, me: PeerId, secure: bool, address: str, hub: Hub | None = None) -> None:
        self.told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.transport = Transport(
            me,
            Keys(PAIRS[me][1], PAIRS[me][0], LIST) if secure else None,
            FRAME_BYTES,
            on_connect=lambda j: self.told.put_nowait(("up", j)),
            on_disconnect=lambda j: self.told.put_nowait(("down", j)),
            on_refusal=lambda j: self.told.put_nowait(("refused", j)),
            on_drop=lambda error: self.told.put_nowait(("drop", error)),
            hub=hub,
        )
        self.transport.bind(address)

    async def tells(self, kind: str) -> Any:
        """What it is told of the next event, which has to be of this kind."""
        found, what = await asyncio.wait_for(self.told.get(), WAIT_S)
        assert found == kind, (found, what)
        return what

    async def hears(self) -> tuple[PeerId, list[bytes]]:
        """The next message."""
        sender, frames = await asyncio.wait_for(received(self.transport), WAIT_S)
        return sender, [bytes(frame) for frame in frames]

    def says(self, j: PeerId, *frames: bytes) -> bool:
        """Send; whether it was taken."""
        return self.transport.send(j, self.transport.pack(frames))


async def _is_free(address: str) -> None:
    """Wait until nobody listens at an address, looking whenever 10 ms have passed: libzmq lets go of it in its time."""
    host, port = split_address(address, "address")
    async with asyncio.timeout(WAIT_S):
        while True:
            with socket.socket() as place, suppress(OSError):
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                place.bind((host, port))
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("secure", [True, False], ids=["curve", "none"])
def test_who_left_the_process_is_found_outside_and_strangers_are_known_to_each(secure: bool) -> None:
    async def together() -> None:
        hub, places = Hub([0, 1], 4), free_addresses(3)
        zero, one = (_Agent(j, secure, places[j], hub) for j in (0, 1))
        two = _Agent(2, secure, places[2])
        zero.transport.connect(1, places[1])
        zero.transport.connect(2, places[2])
        one.transport.connect(0, places[0])
        two.transport.connect(0, places[0])
        two.transport.connect(1, places[1])
        assert {await zero.tells("up"), await zero.tells("up")} == {1, 2}
        assert await one.tells("up") == 0
        assert {await two.tells("up"), await two.tells("up")} == {0, 1}
        for sender, me, receiver, j in ((zero, 0, one, 1), (zero, 0, two, 2), (two, 2, zero, 0), (two, 2, one, 1)):
            assert sender.says(j, b"of", b"%d" % me)
            assert await receiver.hears() == (me, [b"of", b"%d" % me])
        n_bytes = len(b"of0") + len(joined([b"of", b"0"]))  # inside; outside small frames are joined
        assert (zero.transport.bytes_sent, one.transport.bytes_received) == (n_bytes, n_bytes)
        with pytest.raises(ValueError, match="connected already"):
            zero.transport.connect(1, places[1])
        for me, agent, other in ((0, zero, one), (1, one, zero)) if secure else ():
            with abuse.speaker(places[me], LIST[me], new_key_pair()):
                assert (await agent.tells("drop")).cause == "key"
            assert other.told.empty(), "each answers for its own door"
        await one.transport.close()
        assert await zero.tells("down") == 1
        assert not zero.says(1, b"nobody")
        await _is_free(places[1])
        back = _Agent(1, secure, places[1])
        assert await zero.tells("up") == 1
        assert zero.says(1, b"welcome")
        assert await back.hears() == (0, [b"welcome"])
        for agent in (zero, two, back):
            await agent.transport.close()
        await hub.close()

    asyncio.run(together())
