"""Whose key is on the list, and whose is not: who gets in, when, and how one more key is made."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from typing import Any

import numpy as np
import pytest

from tests.integration.lab import Lab, dropped, end, events, free_addresses, metrics, refusal, same_finals, wait_until


def test_a_refused_peer_whose_key_is_added_later_gets_in(lab: Lab) -> None:
    """Peer 0 has the key that peer 2 had before, then half a list, then the right one; nobody is started again."""
    for folder in ("keys", "before"):
        assert lab.run("keys", folder, "--peers", "3").returncode == 0
    for peer in range(3):
        shutil.copytree(lab.folder / "keys", lab.folder / "keys" / str(peer), ignore=lambda *_: map(str, range(3)))
    right, old = ((lab.folder / folder / "public.toml").read_text() for folder in ("keys", "before"))
    there = lab.folder / "keys" / "0" / "public.toml"
    there.write_text("".join([*right.splitlines(keepends=True)[:-1], old.splitlines(keepends=True)[-1]]))
    rng = np.random.default_rng(3)
    tree: dict[str, Any] = {
        "peers": 3,
        "iterations": 40,
        "data": {"path": lab.shards([(rng.normal(size=(9, 2)), rng.normal(size=(9, 1))) for _ in range(3)])},
        "model": {"hidden": [3]},
        "topology": {"graph": "ring"},
    }
    launched = lab.launch(lab.experiment("launched", **tree), "launched")
    transport = {"addresses": free_addresses(3), "keys": "keys/{id}"}
    experiment = lab.experiment("by-hand", **tree, transport=transport)
    with lab.by_hand(experiment, 3) as peers:
        wait_until(lambda: ("key", None) in dropped(lab.folder / "out", 0), peers[0])
        there.write_text(right[:-20])
        wait_until(lambda: ("list", None) in dropped(lab.folder / "out", 0), peers[0])
        assert not metrics(lab.folder / "out", 0), "nobody gets past round 0 without the share of peer 2"
        there.write_text(right)
        assert [end(peer) for peer in peers] == [(0, "")] * 3
    same_finals(launched, lab.folder / "out", 3)
    for peer in range(3):
        assert [event["event"] for event in events(lab.folder / "out", peer)].count("start") == 1


def test_one_more_key_is_made_by_command(lab: Lab) -> None:
    assert lab.run("keys", "keys", "--peers", "2").returncode == 0
    done = lab.run("keys", "keys", "--id", "8")
    assert (done.returncode, done.stdout.split()) == (0, ["keys/public.toml", "keys/peer-008.secret"])
    assert set(tomllib.loads((lab.folder / "keys" / "public.toml").read_text())) == {"0", "1", "8"}
    again: subprocess.CompletedProcess[str] = lab.run("keys", "keys", "--id", "8")
    assert again.returncode == 2
    assert "no key of peer 8" in again.stderr


def test_who_has_the_secret_of_another_peer_is_told_before_it_waits(lab: Lab) -> None:
    assert lab.run("keys", "keys", "--peers", "2").returncode == 0
    shutil.copyfile(lab.folder / "keys" / "peer-001.secret", lab.folder / "keys" / "peer-000.secret")
    transport = {"addresses": free_addresses(2), "keys": "keys"}
    pattern = lab.shards([(np.eye(2), np.arange(2))] * 2)
    experiment = lab.experiment("mixed-up", peers=2, data={"path": pattern}, transport=transport)
    line = refusal(lab.run("run", experiment, "--id", "0", "--out", "out"), 2)
    assert "keys: expected the secret key of peer 0, found that of peer 1" in line
    assert not (lab.folder / "out").exists()


@pytest.mark.parametrize("options", [[], ["--peers", "2", "--id", "3"], ["--id", "100000"]])
def test_keys_are_for_new_folders_or_for_one_more(lab: Lab, options: list[str]) -> None:
    refused = lab.run("keys", "keys", *options)
    assert refused.returncode == 2
    assert "--id" in refused.stderr
    assert not list(lab.folder.iterdir())
