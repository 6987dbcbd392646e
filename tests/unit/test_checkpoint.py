"""Snapshots of a peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peer import checkpoint, npz
from peer.checkpoint import Checkpoint
from peer.errors import ConfigError
from peer.messages import Share

V = np.array([1.0, -1.0 / 3.0, 1e-300])
WHOLE = Checkpoint(
    run_id="run",
    digest="abc",
    n=20,
    n_samples={0: 4, 1: 7, 2: 5},
    n_classes=3,
    vectors={"w": V, "y": 2.0 * V},
    scalars={"alpha": 0.1, "value": 1.0 / 3.0, "closes": 24, "agreed": np.inf},
    kept=(Share(4, 18, 10, 0.5, V, -V), Share(4, 19, 10, 0.25, 3.0 * V, V, 1.0 / 7.0, (1.0 / 3.0, -0.1))),
)


def load(path: Path) -> Checkpoint:
    return checkpoint.load(path, "run", "abc", 4)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as refusal:
        load(path)
    assert refusal.value.key == "--resume"
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("kept", [(), WHOLE.kept[:1], WHOLE.kept])
def test_what_is_loaded_is_what_was_saved(kept: tuple[Share, ...], tmp_path: Path) -> None:
    """Bit for bit; the floors of kept shares are set when they are sent."""
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, replace(WHOLE, kept=kept))
    found = load(path)
    assert (found.run_id, found.digest, found.n) == ("run", "abc", 20)
    assert (found.n_samples, found.n_classes) == ({0: 4, 1: 7, 2: 5}, 3)
    assert found.scalars == WHOLE.scalars
    assert {name: type(value) for name, value in found.scalars.items()} == {
        **dict.fromkeys(WHOLE.scalars, float),
        "closes": int,
    }
    assert all(np.array_equal(found.vectors[name], WHOLE.vectors[name]) for name in ("w", "y"))
    assert found.vectors.keys() == WHOLE.vectors.keys()
    sums = [[(s.sender, s.n, s.objective, s.flood, s.validation) for s in shares] for shares in (found.kept, kept)]
    assert sums[0] == sums[1]
    for share, wanted in zip(found.kept, kept, strict=True):
        assert np.array_equal(share.y, wanted.y)  # type: ignore[arg-type]
        assert np.array_equal(share.z, wanted.z)  # type: ignore[arg-type]


def test_shares_without_a_tracker_are_kept_as_such(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    kept = tuple(share.changed(y=None) for share in WHOLE.kept)
    checkpoint.save(path, replace(WHOLE, kept=kept))
    found = load(path).kept
    assert [share.y for share in found] == [None, None]
    assert all(np.array_equal(share.z, wanted.z) for share, wanted in zip(found, kept, strict=True))  # type: ignore[arg-type]


def test_the_last_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, WHOLE)
    checkpoint.save(path, replace(WHOLE, n=30, kept=()))
    assert load(path).n == 30
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_while_writing_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, WHOLE)
    (tmp_path / "checkpoint.npz.part").write_bytes(path.read_bytes()[:50])
    assert load(path).n == 20
    checkpoint.save(path, replace(WHOLE, n=30))
    assert load(path).n == 30


def test_torn_files_are_refused_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, WHOLE)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)
        assert path.read_bytes() == whole[:length]


def test_there_is_none(tmp_path: Path) -> None:
    assert "found none" in refused(tmp_path / "checkpoint.npz")


@pytest.mark.parametrize("other", [replace(WHOLE, run_id="another"), replace(WHOLE, digest="abd")])
def test_foreign_ones_are_refused(other: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, other)
    assert "other settings" in refused(path)


def test_other_npz_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    npz.save(path, {"x": V})
    assert "expected a checkpoint" in refused(path)


@pytest.mark.parametrize(
    "name",
    [
        "run_id",
        "digest",
        "n",
        "n_samples",
        "n_classes",
        "kept.n",
        "kept.objective",
        "kept.validation",
        "kept.y",
        "kept.z",
    ],
)
def test_every_array_is_needed_and_has_its_shape(name: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, WHOLE)
    arrays = npz.load(path)
    npz.save(path, {key: array for key, array in arrays.items() if key != name})
    refused(path)
    npz.save(path, arrays | {name: np.zeros((3, 2))})
    refused(path)


def test_every_start_has_a_number_of_its_own(tmp_path: Path) -> None:
    counter = tmp_path / "peers" / "000" / "starts"
    assert [checkpoint.next_incarnation(counter) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "x", "1.5", "\xff", "-5", "2147483648"])
def test_a_counter_that_is_none_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    counter.write_text(text)
    with pytest.raises(ConfigError, match="number of starts"):
        checkpoint.next_incarnation(counter)
    assert counter.read_text() == text
