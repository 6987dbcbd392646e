"""What a launch hands to the peers that it forks, which of them share a process, and how the end of each is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from peer import door, files, launcher, process, settings
from peer.errors import ConfigError
from peer.launcher import _Fleet, close_all, new_keys


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


def test_who_interrupts_what_follows_the_peers_is_heard() -> None:
    """Central training, which may take long, went on through Ctrl-C and SIGTERM."""
    before = [signal.getsignal(number) for number in process.SIGNALS]
    fleet = forked({4: b"0 ", 5: b"0 ", 6: b"0 "}, 0)
    assert fleet.supervise(launcher.Watcher(), None) == (0, "", True)
    assert [signal.getsignal(number) for number in process.SIGNALS] == before


def test_who_was_interrupted_before_it_had_begun_has_written_no_checkpoint(tmp_path: Path) -> None:
    ended = {0: (130, "interrupted"), 1: (130, "interrupted")}
    for peer, line in (0, "interrupted before every peer had begun"), (1, "interrupted; every peer has written a"):
        path = files.folder_of(tmp_path, peer) / files.CHECKPOINT
        path.parent.mkdir(parents=True)
        path.touch()
        assert launcher._interrupted(ended, tmp_path).startswith(line)


def on_a_ring(**transport: Any) -> settings.Experiment:
    return settings.from_tree(
        {"peers": 4, "data": {"path": "x-{id}.npz"}, "topology": {"graph": "ring"}, "transport": transport}
    )


def test_descriptors_are_closed_and_no_others() -> None:
    pairs = [os.pipe() for _ in range(6)]
    kept = {pairs[1][0], pairs[3][1], pairs[5][1]}
    try:
        close_all(one for pair in pairs for one in pair if one not in kept)
        for one in (one for pair in pairs for one in pair):
            if one in kept:
                os.fstat(one)
            else:
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(one)
    finally:
        close_all(kept)
    close_all([])


def test_peers_know_the_keys_of_their_neighbors_only() -> None:
    ring = [(1, 3), (0, 2), (1, 3), (0, 2)]
    keys = new_keys(on_a_ring(), ring)
    public = [own.public for own in keys if own is not None]
    for me, own in enumerate(keys):
        assert own is not None
        assert tuple(own.peers) == ring[me]
        assert all(key == public[j] for j, key in own.peers.items())
    assert [len(own.peers) for own in new_keys(on_a_ring()) if own is not None] == [4] * 4
    assert new_keys(on_a_ring(security="none"), ring) == [None] * 4


def test_many_peers_on_a_host_get_more_time_each() -> None:
    assert door.slack(1) == door.slack(door.TOGETHER) == 1.0
    assert door.slack(10 * door.TOGETHER) == 10.0


def test_who_looks_for_a_free_folder_at_the_same_time_gets_another(tmp_path: Path) -> None:
    """Two launches of one name wrote into one folder, and the record of one was beside the peers of the other."""
    runs = tmp_path / "runs"
    with launcher.free_folder(runs, "wdbc") as first, launcher.free_folder(runs, "wdbc") as second:
        assert (first, second) == (runs / "wdbc", runs / "wdbc-2")
        (first / "experiment.toml").touch()
    assert first.is_dir()
    assert not second.exists()
    with launcher.free_folder(tmp_path / "none", "wdbc"):
        pass
    assert not (tmp_path / "none").exists()


def test_two_launches_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    """Both found no run there: one was trained on the shards of the other, or lost its own, or its record."""
    out = tmp_path / "runs" / "wdbc"
    with launcher.claimed(out):
        with pytest.raises(ConfigError, match="another run is at work"), launcher.claimed(out):
            pass
        with pytest.raises(ConfigError, match="another run is at work"):
            launcher.launch(experiment(), out, lambda *_: launcher.Watcher())
        assert list(out.iterdir()) == []
    assert not out.parent.exists()
    with launcher.claimed(out):
        (out / "experiment.toml").touch()
    with launcher.claimed(out):
        pass
    assert list(out.iterdir()) == [out / "experiment.toml"]
