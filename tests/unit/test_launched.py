"""What a launch hands to the peers that it forks."""

from __future__ import annotations

import os
from typing import Any

import pytest

from peer import door, settings
from peer.launcher import close_all, new_keys


def experiment(**transport: Any) -> settings.Experiment:
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
    keys = new_keys(experiment(), ring)
    public = [own.public for own in keys if own is not None]
    for me, own in enumerate(keys):
        assert own is not None
        assert tuple(own.peers) == ring[me]
        assert all(key == public[j] for j, key in own.peers.items())
    assert [len(own.peers) for own in new_keys(experiment()) if own is not None] == [4] * 4
    assert new_keys(experiment(security="none"), ring) == [None] * 4


def test_many_peers_on_a_host_do_not_look_oftener_together() -> None:
    assert door.pause_s(1) == door.pause_s(door.TOGETHER) == door.LOOK_S
    assert door.pause_s(10 * door.TOGETHER) == 10 * door.LOOK_S
