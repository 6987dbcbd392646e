"""Files of samples, good ones and every kind of bad one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import config, shards
from peer.errors import ConfigError
from peer.settings import from_tree
from peer.shards import Shard

X = np.arange(6.0).reshape(3, 2)
LABELS = np.array([0, 2, 1])


def write(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def read(tmp_path: Path, **arrays: Any) -> Shard:
    return shards.read(write(tmp_path / "peer-000.npz", **arrays))


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as refusal:
        shards.read(path, "data.test_path")
    assert refusal.value.key == "data.test_path"
    text = str(refusal.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_real_targets(tmp_path: Path) -> None:
    for y in (np.zeros((3, 2)), np.zeros((3, 2), dtype=np.int64), np.zeros((3, 2), dtype=np.float32)):
        shard = read(tmp_path, x=X, y=y)
        assert shard.targets is not None
        assert shard.targets.dtype == np.float64
        assert shard.targets.shape == (3, 2)
        assert shard.labels is None
    column = read(tmp_path, x=X, y=np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(column.targets, [[1.0], [2.0], [3.0]])  # type: ignore[arg-type]
    assert (column.n_samples, column.n_classes) == (3, 0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_labels(dtype: type[np.generic], tmp_path: Path) -> None:
    shard = read(tmp_path, x=X, y=LABELS.astype(dtype))
    assert shard.labels is not None
    assert shard.labels.dtype == np.int64
    assert np.array_equal(shard.labels, LABELS)
    assert (shard.targets, shard.n_classes) == (None, 3)
    assert read(tmp_path, x=X, y=np.array([True, False, True])).n_classes == 2


def test_labels_beside_their_codes(tmp_path: Path) -> None:
    codes = np.eye(3)
    shard = read(tmp_path, x=X, y=codes[LABELS], labels=LABELS, codes=codes)
    assert np.array_equal(shard.codes, codes)  # type: ignore[arg-type]
    assert np.array_equal(shard.labels, LABELS)  # type: ignore[arg-type]
    assert np.array_equal(shard.targets, codes[LABELS])  # type: ignore[arg-type]


def test_weights_of_samples(tmp_path: Path) -> None:
    assert read(tmp_path, x=X, y=LABELS).weights is None
    for weights in (np.array([0.0, 2.5, 1e-300]), np.array([0, 3, 1]), np.array([True, False, True])):
        for y in (X, LABELS):
            found = read(tmp_path, x=X, y=y, weight=weights).weights
            assert found is not None
            assert found.dtype == np.float64
            assert np.array_equal(found, weights)


def test_inputs_of_other_formats_become_float64_rows(tmp_path: Path) -> None:
    for x in (np.asfortranarray(X), X.astype(np.float32), X.astype(np.int16), X[:, ::-1]):
        shard = read(tmp_path, x=x, y=LABELS)
        assert shard.x.dtype == np.float64
        assert shard.x.flags.c_contiguous
        assert np.array_equal(shard.x, x)


def with_(array: Any, value: float) -> Any:
    changed = np.array(array, dtype=np.float64)
    changed.flat[1] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, "expected arrays x and y, found none"),
        ({"x": X}, "expected arrays x and y, found x"),
        ({"y": LABELS, "labels": LABELS}, "expected arrays x and y, found y, labels"),
        ({"x": X[0], "y": LABELS}, "x of shape (m, d), or (m, ...), found (2,)"),
        ({"x": X[:0], "y": LABELS[:0]}, "found (0, 2)"),
        ({"x": X[:, :0], "y": LABELS}, "found (3, 0)"),
        ({"x": np.float64(1.0), "y": LABELS}, "found ()"),
        ({"x": X, "y": LABELS[:2]}, "the 3 rows of x, found shape (2,)"),
        ({"x": X, "y": np.int64(1)}, "found shape ()"),
        ({"x": X, "y": np.zeros((3, 2, 2))}, "found shape (3, 2, 2)"),
        ({"x": X, "y": np.zeros((3, 0))}, "found shape (3, 0)"),
        ({"x": with_(X, np.nan), "y": LABELS}, "nan or infinity in x, row 0"),
        ({"x": X, "y": with_(LABELS, np.inf)}, "nan or infinity in y, row 1"),
        ({"x": X, "y": LABELS - 1}, "labels >= 0 in y, found -1"),
        ({"x": X, "y": LABELS + 2**40}, "labels < 1048576 in y"),
        ({"x": X, "y": LABELS.astype(np.uint64) + np.uint64(2**63)}, "labels < 1048576 in y"),
        ({"x": X.astype(str), "y": LABELS}, "expected numbers in x"),
        ({"x": X.astype(complex), "y": LABELS}, "expected numbers in x"),
        ({"x": X, "y": np.array(["a", "b", "c"])}, "expected numbers in y"),
        ({"x": X, "y": np.array([{}, {}, {}], dtype=object)}, "expected a whole npz file"),
        ({"x": X, "y": X, "labels": LABELS[:2]}, "a label for each of 3 samples, found (2,)"),
        ({"x": X, "y": X, "labels": LABELS - 1}, "labels >= 0 in labels"),
        ({"x": X, "y": X, "labels": LABELS + 0.5}, "integer labels in labels, found float64"),
        ({"x": X, "y": X, "labels": np.array(["a", "b", "c"])}, "integer labels in labels"),
        ({"x": X, "y": LABELS, "codes": with_(np.eye(3), np.nan)}, "nan or infinity in codes"),
        ({"x": X, "y": LABELS, "codes": np.eye(2)}, "a row for each of 3 classes, found (2, 2)"),
        ({"x": X, "y": LABELS, "codes": np.zeros(3)}, "a row for each of 3 classes, found (3,)"),
        ({"x": X, "y": LABELS, "codes": np.array([["a"]] * 3)}, "expected numbers in codes"),
        ({"x": X, "y": LABELS, "weight": np.ones(2)}, "a weight for each of 3 samples, found (2,)"),
        ({"x": X, "y": X, "weight": np.ones((3, 1))}, "a weight for each of 3 samples, found (3, 1)"),
        ({"x": X, "y": X, "weight": with_(np.ones(3), np.nan)}, "nan or infinity in weight, row 1"),
        ({"x": X, "y": X, "weight": with_(np.ones(3), np.inf)}, "nan or infinity in weight, row 1"),
        ({"x": X, "y": X, "weight": with_(np.ones(3), -0.5)}, "weights >= 0, and not all 0, in weight; found -0.5"),
        ({"x": X, "y": X, "weight": np.zeros(3)}, "weights >= 0, and not all 0, in weight; found nothing else"),
        ({"x": X, "y": X, "weight": np.array(["a", "b", "c"])}, "expected numbers in weight"),
    ],
)
def test_what_is_refused(arrays: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert problem in refused(write(tmp_path / "peer-000.npz", **arrays))


def test_missing_torn_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "peer-000.npz"
    assert "found none" in refused(path)
    write(path, x=X, y=LABELS)
    path.write_bytes(path.read_bytes()[:-30])
    refused(path)
    path.write_text("x,y\n1,2\n")
    refused(path)


def test_the_pattern_is_filled_in_plain_or_in_three_digits(tmp_path: Path) -> None:
    pattern = str(tmp_path / "peer-{id}.npz")
    assert shards.path_of(pattern, 7).name == "peer-7.npz"
    (tmp_path / "peer-007.npz").touch()
    assert shards.path_of(pattern, 7).name == "peer-007.npz"
    (tmp_path / "peer-7.npz").touch()
    assert shards.path_of(pattern, 7).name == "peer-7.npz"
    assert shards.path_of(str(tmp_path / "peer-{id:04d}.npz"), 7).name == "peer-0007.npz"


def test_a_label_stands_for_the_same_targets_in_all_shards(tmp_path: Path) -> None:
    """A shard without its last class may leave out the last code; shards of labels alone have 0/1 codes."""
    pattern, two = str(tmp_path / "{id}.npz"), np.array([0, 1, 1])

    def rehearsed(loss: str, *codes: np.ndarray | None) -> None:
        for peer, found in enumerate(codes):
            labels = two if found is not None and len(found) == 2 else LABELS
            given = {} if found is None else {"codes": found}
            write(Path(pattern.format(id=peer)), x=X, y=labels, **given)
        tree = {"peers": len(codes), "data": {"path": pattern}, "objective": {"loss": loss}, "model": {"outputs": 3}}
        config.rehearse(from_tree(tree))

    rehearsed("squared", np.eye(3)[:2], None, np.eye(3))
    rehearsed("cross_entropy", np.eye(3), 2.0 * np.eye(3), None)  # which takes labels themselves
    for loss, *others in (("squared", np.eye(3), 2.0 * np.eye(3)), ("huber", None, 2.0 * np.eye(3)[:2])):
        with pytest.raises(ConfigError, match=r"1\.npz: expected the codes of .*0\.npz, found others"):
            rehearsed(loss, *others)
