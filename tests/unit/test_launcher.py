"""Which agents share a process, and how the end of each is told."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from peer import launcher, settings
from peer.launcher import _Fleet


def experiment(**run: Any) -> settings.Experiment:
    return settings.from_tree({"peers": 8, "data": {"dataset": "wine"}, "run": run})


@pytest.mark.parametrize(("k", "sizes"), [(1, [1] * 8), (3, [3, 3, 2]), (4, [4, 4]), (8, [8]), (50, [8])])
def test_each_agent_is_in_one_process_with_those_that_follow_it(k: int, sizes: list[int]) -> None:
    found = launcher.groups(experiment(agents_per_process=k))
    assert list(map(len, found)) == sizes
    assert [peer for group in found for peer in group] == list(range(8))


def test_who_shares_a_process_is_nothing_to_agree_on() -> None:
    assert settings.shared(experiment()) == settings.shared(experiment(agents_per_process=5))


def forked(says: dict[int, bytes], code: int) -> _Fleet:
    """A process of three agents, of which some say how they ended; then it ends with a code, or by a signal, -code."""
    pipes = {peer: os.pipe() for peer in (4, 5, 6)}
    pid = os.fork()
    if pid == 0:
        for peer, said in says.items():
            os.write(pipes[peer][1], said)
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)
    for _, writer in pipes.values():
        os.close(writer)
    return _Fleet(dict.fromkeys(pipes, pid), {peer: reader for peer, (reader, _) in pipes.items()}, {})


def assert_reaped(fleet: _Fleet) -> None:
    (pid,) = fleet.codes
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize("order", [(4, 5, 6), (6, 5, 4), (5, 6, 4)], ids=str)
def test_agents_of_a_process_end_each_in_its_own_way(order: tuple[int, ...]) -> None:
    fleet = forked({4: b"0 ", 5: b"4 round 3: nan", 6: b"3 peer 7 left"}, 0)
    for peer in order:
        fleet._collect(peer)
    assert fleet.ended == {4: (0, ""), 5: (4, "round 3: nan"), 6: (3, "peer 7 left")}
    assert not fleet.pids
    assert not fleet.pipes
    assert_reaped(fleet)


@pytest.mark.parametrize("order", [(4, 5, 6), (6, 5, 4), (5, 6, 4)], ids=str)
def test_those_of_a_killed_process_that_had_not_ended_are_lost_with_it(order: tuple[int, ...]) -> None:
    fleet = forked({5: b"0 "}, -9)
    for peer in order:
        fleet._collect(peer)
    assert fleet.ended == {4: (-9, "ended by SIGKILL"), 5: (0, ""), 6: (-9, "ended by SIGKILL")}
    fleet._signal(signal.SIGTERM)  # nobody is left to get it
    assert_reaped(fleet)


def test_a_process_that_ends_without_a_word_has_its_code() -> None:
    fleet = forked({}, 7)
    for peer in (4, 5, 6):
        fleet._collect(peer)
    assert set(fleet.ended.values()) == {(7, "")}
