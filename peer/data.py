"""Cutting a data set into shards: partitions that are reproducible from the seed. Never imported by a running peer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer import npz, settings, standardization, theory
from peer.arrays import Labels, Matrix
from peer.errors import ConfigError
from peer.settings import DRAWN, REAL_TARGETS, Experiment
from peer.shards import path_of
from peer.standardization import Scale, Standardization
from topology import PeerId

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""What is in a file, by name."""

SIGNS: Final = np.array([[-1.0], [1.0]])
"""Targets of the two classes of a mixture, which are its y."""

TARGET_BINS: Final = 10
"""Classes that real targets are sorted into where a partition needs classes."""


@final
@dataclass(frozen=True, eq=False)
class Cut:
    """How a data set is cut; the settings of `[data]`.

    Parameters
    ----------
    dataset : str
        breast-cancer, diabetes, digits or wine; or one that is drawn, quadratic or gaussian-mixture.
    n_peers : int
        Shards to make.
    seed : int
        Root of all randomness.
    loss : str
        With "squared" and "huber", classes become real targets; with the others they stay labels.
    partition : str
        iid; dirichlet, the classes shared out in proportions drawn from Dir(dirichlet_alpha)
        (Hsu, Qi, Brown 2019); label-sorted, contiguous pieces of the sorted set.
    dirichlet_alpha : float
        Small is unequal.
    test_fraction : float
        Held out, with the same share of every class.
    standardize : bool
        Inputs, and the targets of a loss of real ones, to mean 0 and deviation 1 of the training part. Of a set
        that is drawn nothing, whatever is said here: its x has mean 0 and deviation 1 by its law, and what
        theory says is about the law's y.
    dimension, samples : int
        Of a set that is drawn: columns of x, and samples before some are held out.
    separation : float
        Of gaussian-mixture: ||Delta||_op.
    """

    dataset: str
    n_peers: int
    seed: int
    loss: str
    partition: str = "iid"
    dirichlet_alpha: float = 0.5
    test_fraction: float = 0.25
    standardize: bool = True
    dimension: int = settings.Data().dimension
    samples: int = settings.Data().samples
    separation: float = settings.Data().separation

    @classmethod
    def of(cls, experiment: Experiment) -> Cut:
        """As the settings of an experiment say."""
        data = experiment.data
        return cls(
            dataset=data.dataset,
            n_peers=experiment.peers,
            seed=experiment.seed,
            loss=experiment.objective.loss,
            partition=data.partition,
            dirichlet_alpha=data.dirichlet_alpha,
            test_fraction=data.test_fraction,
            standardize=data.standardize,
            dimension=data.dimension,
            samples=data.samples,
            separation=data.separation,
        )

    def write(self, folder: Path) -> list[Path]:
        """Write `peer-000.npz`, ... and, where something is held out, `test.npz`; the files written.

        Before `test.npz`, `standardization.npz`, where columns were standardized: see `peer.standardization`.

        Raises
        ------
        ConfigError
            As `pieces`; or files are there that are not this cut's, and nothing is replaced.
        """
        parts, test, scales = self._cut()
        files: dict[Path, Arrays] = {folder / f"peer-{peer:03d}.npz": part for peer, part in enumerate(parts)}
        if scales.x is not None:
            files[folder / standardization.NAME] = dict(scales.arrays)
        if len(test["x"]):
            files[folder / "test.npz"] = test
        if strangers := sorted(set(folder.glob("peer-*.npz")) - files.keys()):
            raise ConfigError("--out", f"expected no file or this cut's in {folder}, found {strangers[0].name}")
        _put(files, "--out")
        return list(files)

    def pieces(self) -> tuple[list[Arrays], Arrays]:
        """Arrays of the peers' shards, and of the test set, which is empty where nothing is held out.

        Raises
        ------
        ConfigError
            No such data set, more peers than samples, or a fraction that holds out too little or too much.
        """
        parts, test, _ = self._cut()
        return parts, test

    def standardization(self) -> Standardization:
        """What is done to the columns of the data set before it is cut.

        Raises
        ------
        ConfigError
            As `pieces`.
        """
        _, _, scales = self._cut()
        return scales

    def _cut(self) -> tuple[list[Arrays], Arrays, Standardization]:
        drawn = self.dataset in DRAWN
        standardize = self.standardize and not drawn
        x, labels, targets = self._drawn() if drawn else _load(self.dataset, self.loss)
        train, test = self._split(targets if labels is None else labels, labels is not None)
        if len(train) < self.n_peers:
            raise ConfigError("peers", f"expected at most one peer a sample, {len(train)}; found {self.n_peers}")
        of_x, of_y, plain = Scale.of(x[train]) if standardize else None, None, None
        arrays: Arrays = {"x": x if of_x is None else of_x.applied(x)}
        if labels is None:
            of_y = Scale.of(targets[train]) if standardize else None
            arrays["y"] = targets if of_y is None else of_y.applied(targets)
        elif self.loss in REAL_TARGETS:
            plain = codes = SIGNS if drawn else _codes(int(labels.max()) + 1)
            if standardize:
                of_y = Scale.of(codes[labels][train])
                codes = of_y.applied(codes)
            arrays |= {"y": codes[labels], "labels": labels}
        else:
            arrays["y"] = labels
        rows = [train[part] for part in self.parts(classes_of(labels, targets)[train])]
        constant: Arrays = {"codes": codes} if "labels" in arrays else {}
        *parts, held_out = ({name: array[part] for name, array in arrays.items()} | constant for part in [*rows, test])
        return parts, held_out, Standardization(of_x, of_y, plain)

    def _drawn(self) -> tuple[Matrix, Labels | None, Matrix]:
        """Samples of a known law, see `peer.theory`; of a mixture, class 1 is y = 1, and class 0 y = -1."""
        law = theory.law(self.dataset, self.seed, self.dimension, self.separation)
        if self.dataset == "quadratic":
            _refuse_labels(self.dataset, self.loss)
        x, y = law.drawn(np.random.default_rng([self.seed, theory.SAMPLES]), self.samples)
        return x, None if self.dataset == "quadratic" else (y > 0.0).astype(np.int64), y[:, None]

    def _split(self, classes: NDArray[np.generic], stratify: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        rows = np.arange(len(classes))
        if self.test_fraction == 0.0:
            return rows, rows[:0]
        if self.dataset in DRAWN:
            return self._spread(classes if stratify else np.zeros(len(classes)))
        from sklearn.model_selection import train_test_split

        try:
            train, test = train_test_split(
                rows,
                test_size=self.test_fraction,
                random_state=self.seed % 2**32,
                stratify=classes if stratify else None,
            )
        except ValueError as error:  # too few samples on one side for one of each class
            raise ConfigError("data.test_fraction", f"cannot hold out {self.test_fraction}: {error}") from error
        return np.asarray(train), np.asarray(test)

    def _spread(self, classes: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows that are trained on and rows held out, these evenly over all in order of their classes.

        Chance is in the samples, which are independent; it need not be here too.
        """
        m = len(classes)
        n_test = math.ceil(self.test_fraction * m)
        if n_test == m:
            raise ConfigError("data.test_fraction", f"cannot hold out {self.test_fraction} of {m} samples")
        in_order = np.argsort(classes, kind="stable")
        held_out = np.zeros(m, dtype=np.bool_)
        held_out[in_order[(2 * np.arange(n_test) + 1) * m // (2 * n_test)]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def parts(self, classes: Labels) -> list[NDArray[np.intp]]:
        """Rows of each peer, of samples of these classes, (m,); none is empty where there are enough."""
        rng = np.random.default_rng([self.seed, 1])
        shuffled = rng.permutation(len(classes))
        if self.partition == "iid":
            return list(np.array_split(shuffled, self.n_peers))
        in_order = shuffled[np.argsort(classes[shuffled], kind="stable")]
        if self.partition == "label-sorted":
            return list(np.array_split(in_order, self.n_peers))
        parts: list[list[NDArray[np.intp]]] = [[] for _ in range(self.n_peers)]
        for c in np.unique(classes):
            members = in_order[classes[in_order] == c]
            shares = np.cumsum(rng.dirichlet(np.full(self.n_peers, self.dirichlet_alpha)))[:-1]
            for part, piece in zip(parts, np.split(members, (shares * len(members)).astype(int)), strict=True):
                part.append(piece)
        return _without_empty([np.concatenate(part) for part in parts])


def cut_into_place(experiment: Experiment, only: PeerId | None = None) -> list[Path]:
    """Cut an experiment's data set into the files that it names: `data.path` and, where given, `data.test_path`.

    Parameters
    ----------
    experiment : Experiment
    only : int or None
        The one peer whose shard is wanted, nothing else then.

    Returns
    -------
    list of Path
        The files, which are there after this. One that was there before is left alone.

    Raises
    ------
    ConfigError
        There is no data set or no place for it, as `Cut.pieces`, or a file is there that is not
        this cut's; nothing is replaced.
    """
    data = experiment.data
    if not data.dataset or not data.path:
        missing = "dataset" if not data.dataset else "path"
        raise ConfigError(f"data.{missing}", "expected data.dataset, to be cut, and data.path, where; found none")
    if only is not None and only >= experiment.peers:
        raise ConfigError("--id", f"expected 0 to {experiment.peers - 1}, found {only}")
    parts, test = Cut.of(experiment).pieces()
    files = {path_of(data.path, peer): part for peer, part in enumerate(parts) if only in (None, peer)}
    if only is None and data.test_path and len(test["x"]):
        files[Path(data.test_path)] = test
    _put(files, "data.path")
    return list(files)


def _put(files: Mapping[Path, Arrays], key: str) -> None:
    """Write the files that are not there yet; where one is another than it would be, none."""
    try:
        there = {path: npz.load(path) for path in files if path.exists()}
    except ValueError as error:
        raise ConfigError(key, str(error)) from error
    for path, arrays in there.items():
        if arrays.keys() != files[path].keys() or not all(map(np.array_equal, *_aligned(arrays, files[path]))):
            raise ConfigError(key, f"expected no file or this cut's at {path}, found other data")
    for path, arrays in files.items():
        if path not in there:
            path.parent.mkdir(parents=True, exist_ok=True)
            npz.save(path, arrays)


def _aligned(one: Arrays, other: Arrays) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    return [one[name] for name in sorted(one)], [other[name] for name in sorted(one)]


def _without_empty(parts: Sequence[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
    """The parts, the largest ones giving a sample to each empty one."""
    filled = list(parts)
    for k, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(filled)), key=lambda i: len(filled[i]))
            filled[k], filled[largest] = filled[largest][-1:], filled[largest][:-1]
    return filled


def _load(dataset: str, loss: str) -> tuple[Matrix, Labels | None, Matrix]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        needed = "expected scikit-learn, which has the data sets: pip install 'next-peer[datasets]'"
        raise ConfigError("data.dataset", needed) from error
    loaders = {
        "breast-cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "digits": datasets.load_digits,
        "wine": datasets.load_wine,
    }
    if dataset not in loaders:
        raise ConfigError("data.dataset", f"expected one of {', '.join([*loaders, *DRAWN])}; found {dataset!r}")
    bunch = loaders[dataset]()
    x, y = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)
    if dataset == "diabetes":
        _refuse_labels(dataset, loss)
        return x, None, y.astype(np.float64)[:, None]
    return x, y.astype(np.int64), y.astype(np.float64)[:, None]


def _refuse_labels(dataset: str, loss: str) -> None:
    if loss not in REAL_TARGETS:
        accepted = " or ".join(REAL_TARGETS)
        raise ConfigError("objective.loss", f"expected {accepted}: {dataset} has real targets; found {loss}")


def _codes(n_classes: int) -> Matrix:
    """Targets of the classes: one column 0, 1 for two classes, one column a class for more."""
    return np.array([[0.0], [1.0]]) if n_classes == 2 else np.eye(n_classes)


def classes_of(labels: Labels | None, targets: Matrix) -> Labels:
    """By what samples are shared out, (m,): their labels, or the bins of their first targets."""
    if labels is not None:
        return labels
    edges = np.quantile(targets[:, 0], np.linspace(0, 1, TARGET_BINS + 1)[1:-1])
    return np.asarray(np.searchsorted(edges, targets[:, 0]), dtype=np.int64)
