"""What was done to the columns of a data set, kept beside its shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import npz, standardization
from peer.data import Cut
from peer.errors import ConfigError
from peer.standardization import Scale, Standardization

ROWS = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 8.0], [5.0, 5.0, -1.0]])


def test_columns_get_mean_0_and_deviation_1_and_constant_ones_stay_finite() -> None:
    scale = Scale.of(ROWS)
    found = scale.applied(ROWS)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose(found.std(axis=0), [1.0, 0.0, 1.0], atol=1e-15)
    np.testing.assert_allclose(scale.undone(found), ROWS, rtol=1e-15)


@pytest.mark.parametrize("scales", [Standardization(), Standardization(Scale.of(ROWS), Scale.of(ROWS[:, :2]), ROWS)])
def test_it_comes_back_from_its_file(scales: Standardization, tmp_path: Path) -> None:
    npz.save(path := tmp_path / standardization.NAME, scales.arrays)
    found = standardization.read(path)
    assert found.arrays.keys() == scales.arrays.keys()
    for name, array in scales.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x_mean": np.zeros(3)}, "x_mean and x_deviation of the same shape"),
        ({"x_mean": np.zeros(3), "x_deviation": np.ones(2)}, "x_mean and x_deviation of the same shape"),
        ({"y_mean": np.zeros(3), "y_deviation": np.zeros(3)}, "y_deviation > 0"),
        ({"y_mean": np.array(["a"]), "y_deviation": np.ones(1)}, "y_mean and y_deviation"),
    ],
)
def test_what_is_none_is_told(arrays: dict[str, Any], problem: str, tmp_path: Path) -> None:
    npz.save(path := tmp_path / standardization.NAME, arrays)
    with pytest.raises(ConfigError, match=problem):
        standardization.read(path)


def test_what_was_cut_is_the_raw_set_again_where_it_is_undone(tmp_path: Path) -> None:
    from sklearn.datasets import load_diabetes

    Cut("diabetes", 3, seed=2, loss="squared").write(tmp_path)
    scales = standardization.read(tmp_path / standardization.NAME)
    assert scales.x is not None
    assert scales.y is not None
    bunch = load_diabetes()
    parts = [npz.load(tmp_path / f"{name}.npz") for name in ("peer-000", "peer-001", "peer-002", "test")]
    x = scales.x.undone(np.concatenate([part["x"] for part in parts]))
    y = scales.y.undone(np.concatenate([part["y"] for part in parts]))[:, 0]
    raw = np.column_stack([bunch.data, bunch.target])
    undone = np.column_stack([x, y])
    np.testing.assert_allclose(undone[np.lexsort(undone.round(6).T)], raw[np.lexsort(raw.round(6).T)], atol=1e-10)
