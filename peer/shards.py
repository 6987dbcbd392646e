"""Files of samples: one a peer, which nobody else opens, and the held-out test set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from peer import npz
from peer.arrays import Labels, Matrix, Vector
from peer.errors import ConfigError
from peer.optim.batches import order
from peer.wire import MAX_CLASSES


@final
@dataclass(frozen=True, eq=False)
class Shard:
    """Samples of one file.

    Parameters
    ----------
    path : Path
        Where they came from, for messages.
    x : Matrix
        Inputs, (m, d) or (m, ...).
    targets : Matrix or None
        Real targets, (m, q).
    labels : Labels or None
        Numbers of classes, (m,), where the set has classes.
    codes : Matrix or None
        What a loss of real targets takes as the target of each class, (n_classes, q).
    weights : Vector or None
        How much the loss of each sample counts, >= 0, (m,); None: 1 each.
    held_out : Shard or None
        Samples that are not trained on, of the same file or of another one.
    """

    path: Path
    x: Matrix
    targets: Matrix | None
    labels: Labels | None
    codes: Matrix | None
    weights: Vector | None
    held_out: Shard | None = None

    @property
    def n_samples(self) -> int:
        """Number of samples m."""
        return len(self.x)

    @property
    def n_classes(self) -> int:
        """Largest label plus one, of those held out, too; 0 where there are none."""
        held_out = 0 if self.held_out is None else self.held_out.n_classes
        return max(held_out, 0 if self.labels is None else int(self.labels.max()) + 1)

    def taken(self, rows: NDArray[np.intp]) -> Shard:
        """These samples alone."""
        return replace(
            self,
            x=self.x[rows],
            targets=None if self.targets is None else self.targets[rows],
            labels=None if self.labels is None else self.labels[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def split(self, fraction: float, seed: int, peer: int) -> Shard:
        """The samples that are trained on, with the others as `held_out`: a part of all, at least one, never all.

        Which they are depends on seed, peer and m alone, see `peer.optim.batches`; both parts keep the file's order.

        Raises
        ------
        ConfigError
            There are too few samples.
        """
        m = self.n_samples
        if m < 2:
            raise ConfigError("data.validation_fraction", f"{self.path}: expected 2 samples or more, found {m}")
        n_held = min(max(1, math.floor(fraction * m + 0.5)), m - 1)
        rows = order(f"{seed}:{peer}:held out", m)
        held_out = self.taken(np.sort(rows[:n_held]))
        return replace(self.taken(np.sort(rows[n_held:])), held_out=held_out)

    def holding(self, held_out: Shard) -> Shard:
        """All of its samples to be trained on, with others as `held_out`; these are coded as its own if not otherwise.

        Raises
        ------
        ConfigError
            They have another number of columns.
        """
        if held_out.x.shape[1:] != self.x.shape[1:]:
            expected, there = (" x ".join(map(str, x.shape[1:])) for x in (self.x, held_out.x))
            found = f"expected x with the {expected} columns of {self.path}, found {there}"
            raise ConfigError("data.validation_path", f"{held_out.path}: {found}")
        coded = replace(held_out, codes=self.codes) if held_out.codes is None else held_out
        return replace(self, held_out=coded)


class _Padded(int):
    """A number that is written in three digits where nothing else is said."""

    def __format__(self, form: str) -> str:
        return format(int(self), form or "03d")


def path_of(pattern: str, peer: int) -> Path:
    """Shard file of a peer: the pattern with {id} filled in, plain or, as `peer shard` writes it, in three digits."""
    plain = Path(pattern.format(id=peer))
    padded = Path(pattern.format(id=_Padded(peer)))
    return padded if padded.exists() and not plain.exists() else plain


def read(path: Path, key: str = "data.path") -> Shard:
    """Samples of a file: x (m, d) or (m, ...), y (m, q) or (m,), real, or (m,) of integer labels; weight (m,).

    Raises
    ------
    ConfigError
        The file is missing, torn or empty, an array is missing or of a wrong shape or kind,
        there is nan or infinity in it, or a label that is negative or too
        large, or codes that do not fit the labels, or weights that are negative or all 0.
    """
    try:
        arrays = npz.load(path)
    except ValueError as error:
        raise ConfigError(key, str(error)) from error
    x, y = (_array(arrays, name, path, key) for name in ("x", "y"))
    if x.ndim < 2 or 0 in x.shape:
        raise ConfigError(key, f"{path}: expected x of shape (m, d), or (m, ...), found {x.shape}")
    if y.shape[:1] != x.shape[:1] or y.ndim > 2 or 0 in y.shape:
        raise ConfigError(key, f"{path}: expected y with the {len(x)} rows of x, found shape {y.shape}")
    targets: Matrix | None = None
    labels: Labels | None = None
    if y.dtype.kind in "iub" and y.ndim == 1:
        labels = _labels(y, "y", path, key)
    else:
        targets = _finite(y.reshape(len(y), -1), "y", path, key)
        if "labels" in arrays:
            labels = _labels(arrays["labels"], "labels", path, key)
        if labels is not None and labels.shape != (len(x),):
            raise ConfigError(key, f"{path}: expected a label for each of {len(x)} samples, found {labels.shape}")
    codes, weights = _codes(arrays, labels, path, key), _weights(arrays, len(x), path, key)
    return Shard(path, _finite(x, "x", path, key), targets, labels, codes, weights)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, path: Path, key: str) -> NDArray[Any]:
    if name not in arrays:
        raise ConfigError(key, f"{path}: expected arrays x and y, found {', '.join(arrays) or 'none'}")
    if arrays[name].dtype.kind not in "fiub":
        raise ConfigError(key, f"{path}: expected numbers in {name}, found {arrays[name].dtype}")
    return arrays[name]


def _finite(array: NDArray[Any], name: str, path: Path, key: str) -> Matrix:
    with np.errstate(over="ignore"):  # a longer float may hold what is infinite here
        numbers = np.ascontiguousarray(array, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise ConfigError(key, f"{path}: expected finite numbers, found nan or infinity in {name}, row {bad[0][0]}")
    return numbers


def _labels(array: NDArray[Any], name: str, path: Path, key: str) -> Labels:
    if array.dtype.kind not in "iub":
        raise ConfigError(key, f"{path}: expected integer labels in {name}, found {array.dtype}")
    if array.size and array.min() < 0:
        raise ConfigError(key, f"{path}: expected labels >= 0 in {name}, found {array.min()}")
    if array.size and array.max() >= MAX_CLASSES:
        raise ConfigError(key, f"{path}: expected labels < {MAX_CLASSES} in {name}, found {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int64)


def _codes(arrays: Mapping[str, NDArray[Any]], labels: Labels | None, path: Path, key: str) -> Matrix | None:
    if "codes" not in arrays:
        return None
    codes = _finite(_array(arrays, "codes", path, key), "codes", path, key)
    n_classes = 0 if labels is None else int(labels.max()) + 1
    if codes.ndim != 2 or len(codes) < n_classes:
        raise ConfigError(key, f"{path}: expected codes, a row for each of {n_classes} classes, found {codes.shape}")
    return codes


def _weights(arrays: Mapping[str, NDArray[Any]], m: int, path: Path, key: str) -> Vector | None:
    if "weight" not in arrays:
        return None
    weights = _finite(_array(arrays, "weight", path, key), "weight", path, key)
    if weights.shape != (m,):
        raise ConfigError(key, f"{path}: expected a weight for each of {m} samples, found {weights.shape}")
    if weights.min() < 0.0 or not weights.any():
        found = weights.min() if weights.any() else "nothing else"
        raise ConfigError(key, f"{path}: expected weights >= 0, and not all 0, in weight; found {found}")
    return weights
