"""Cutting data sets into shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from peer import npz, prepare, settings, standardization, theory
from peer.data import Cut, cut_into_place
from peer.errors import ConfigError
from peer.settings import Experiment
from peer.shards import path_of

PARTITIONS = ("iid", "dirichlet", "label-sorted")
SIZES = {"breast-cancer": 569, "diabetes": 442, "wine": 178}

DRAWN_SETS = ("quadratic", "gaussian-mixture")

Arrays = dict[str, NDArray[Any]]


def cut(folder: Path, **changed: Any) -> tuple[list[Arrays], Arrays | None]:
    """Shards and the test set."""
    values: dict[str, Any] = {"dataset": "wine", "n_peers": 5, "seed": 3, "loss": "cross_entropy", "standardize": False}
    values |= changed
    paths = Cut(**values).write(folder)
    assert sorted(paths) == sorted(folder.iterdir())
    assert (folder / standardization.NAME in paths) == (values["standardize"] and values["dataset"] not in DRAWN_SETS)
    paths = [path for path in paths if path.name != standardization.NAME]
    *_, last = paths
    test = npz.load(last) if last.name == "test.npz" else None
    found = [npz.load(path) for path in paths if path.name != "test.npz"]
    assert [path.name for path in paths][: len(found)] == [f"peer-{i:03d}.npz" for i in range(values["n_peers"])]
    return found, test


def rows(*parts: Arrays) -> Iterator[tuple[Any, ...]]:
    """Samples with their labels, as values."""
    for part in parts:
        for x, y in zip(part["x"], part["y"], strict=True):
            yield (*x.tolist(), *np.atleast_1d(y).tolist())


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("dataset", SIZES)
@pytest.mark.parametrize("test_fraction", [0.0, 0.25])
def test_shards_are_disjoint_and_complete(dataset: str, partition: str, test_fraction: float, tmp_path: Path) -> None:
    from sklearn import datasets

    load = {
        "breast-cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "wine": datasets.load_wine,
    }
    loss = "squared" if dataset == "diabetes" else "cross_entropy"
    parts, test = cut(tmp_path, dataset=dataset, partition=partition, test_fraction=test_fraction, loss=loss)
    assert (test is None) == (test_fraction == 0.0)
    everything = list(rows(*parts, *([test] if test else [])))
    bunch = load[dataset]()
    expected = [(*x.tolist(), y) for x, y in zip(bunch.data, bunch.target.tolist(), strict=True)]
    assert len(everything) == SIZES[dataset]
    assert sorted(everything) == sorted(expected)
    held_out = 0 if test is None else len(test["x"])
    assert held_out == int(np.ceil(test_fraction * SIZES[dataset]))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_seed_says_it_all(partition: str, tmp_path: Path) -> None:
    def files(folder: str, seed: int) -> list[list[tuple[Any, ...]]]:
        parts, test = cut(tmp_path / folder, partition=partition, seed=seed)
        assert test is not None
        return [list(rows(part)) for part in [*parts, test]]

    first = files("a", 3)
    assert files("b", 3) == first
    assert files("c", 4) != first
    assert files("d", 2**40) == files("e", 2**40)


@pytest.mark.parametrize("n_peers", [1, 3, 8])
def test_iid_shards_are_of_equal_size_and_mixed(n_peers: int, tmp_path: Path) -> None:
    parts, _ = cut(tmp_path, n_peers=n_peers)
    sizes = [len(part["y"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(np.unique(part["y"])) == 3 for part in parts)


def test_label_sorted_shards_are_sorted(tmp_path: Path) -> None:
    parts, _ = cut(tmp_path, partition="label-sorted")
    labels = np.concatenate([part["y"] for part in parts])
    assert np.array_equal(labels, np.sort(labels))
    sizes = [len(part["y"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_real_targets_are_sorted_by_their_tenths(tmp_path: Path) -> None:
    parts, _ = cut(tmp_path, dataset="diabetes", loss="squared", partition="label-sorted", n_peers=10)
    means = [float(part["y"].mean()) for part in parts]
    assert means == sorted(means)


@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 0.5, 1e6])
@pytest.mark.parametrize("n_peers", [2, 30])
@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_shards_are_never_empty(alpha: float, n_peers: int, seed: int, tmp_path: Path) -> None:
    parts, test = cut(tmp_path, partition="dirichlet", dirichlet_alpha=alpha, n_peers=n_peers, seed=seed)
    assert min(len(part["y"]) for part in parts) >= 1
    assert test is not None
    assert sum(len(part["y"]) for part in parts) + len(test["y"]) == SIZES["wine"]


def test_a_small_alpha_is_unequal(tmp_path: Path) -> None:
    def purity(alpha: float) -> float:
        parts, _ = cut(tmp_path / str(alpha), partition="dirichlet", dirichlet_alpha=alpha, dataset="breast-cancer")
        return float(np.mean([np.bincount(part["y"]).max() / len(part["y"]) for part in parts]))

    assert purity(0.01) > 0.9 > 0.75 > purity(1000.0)


def test_one_sample_a_peer_is_the_limit(tmp_path: Path) -> None:
    parts, _ = cut(tmp_path / "a", n_peers=178, test_fraction=0.0, partition="dirichlet", dirichlet_alpha=0.01)
    assert [len(part["y"]) for part in parts] == [1] * 178
    with pytest.raises(ConfigError, match=r"^peers: expected at most one peer a sample, 178; found 179$"):
        cut(tmp_path / "b", n_peers=179, test_fraction=0.0)


def test_the_test_set_has_the_same_share_of_every_class(tmp_path: Path) -> None:
    parts, test = cut(tmp_path, dataset="breast-cancer")
    assert test is not None
    train = np.concatenate([part["y"] for part in parts])
    assert abs(train.mean() - test["y"].mean()) < 0.01


@pytest.mark.parametrize("dataset", ["diabetes", "breast-cancer", "wine"])
def test_standardization_knows_the_training_part_only(dataset: str, tmp_path: Path) -> None:
    parts, test = cut(tmp_path / "a", dataset=dataset, loss="squared", standardize=True)
    raw_parts, raw_test = cut(tmp_path / "b", dataset=dataset, loss="squared", standardize=False)
    assert test is not None
    assert raw_test is not None
    for name in ("x", "y"):
        train = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(train.mean(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(train.std(axis=0), 1.0, atol=1e-12)
        raw = np.concatenate([part[name] for part in raw_parts])
        np.testing.assert_allclose(test[name], (raw_test[name] - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-10)
        assert np.abs(test[name].mean(axis=0)).max() > 1e-6


def test_labels_are_not_standardized(tmp_path: Path) -> None:
    parts, _ = cut(tmp_path, standardize=True)
    assert {int(label) for part in parts for label in part["y"]} == {0, 1, 2}
    assert all(part["y"].dtype == np.int64 for part in parts)


@pytest.mark.parametrize("dataset", ["diabetes", "wine"])
def test_the_shards_of_huber_are_those_of_squared(dataset: str, tmp_path: Path) -> None:
    huber, _ = cut(tmp_path / "a", dataset=dataset, loss="huber", standardize=True)
    other, _ = cut(tmp_path / "b", dataset=dataset, loss="squared", standardize=True)
    for one, two in zip(huber, other, strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_the_shards_of_a_squared_hinge_have_labels(tmp_path: Path) -> None:
    parts, _ = cut(tmp_path, loss="squared_hinge", standardize=True)
    assert all(part.keys() == {"x", "y"} and part["y"].dtype == np.int64 for part in parts)


@pytest.mark.parametrize(("dataset", "q"), [("wine", 3), ("breast-cancer", 1)])
@pytest.mark.parametrize("standardize", [True, False])
def test_classes_of_a_squared_loss_come_with_labels_and_codes(
    dataset: str, q: int, standardize: bool, tmp_path: Path
) -> None:
    parts, test = cut(tmp_path, dataset=dataset, loss="squared", standardize=standardize)
    assert test is not None
    for part in [*parts, test]:
        assert part["y"].shape == (len(part["x"]), q)
        assert np.array_equal(part["codes"][part["labels"]], part["y"])
        assert np.array_equal(part["codes"], parts[0]["codes"])
    if not standardize:
        assert np.array_equal(parts[0]["codes"], np.eye(3) if q == 3 else [[0.0], [1.0]])


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"dataset": "iris"}, "data.dataset"),
        ({"dataset": "diabetes"}, "objective.loss"),
        ({"dataset": "diabetes", "loss": "squared_hinge"}, "objective.loss"),
        ({"dataset": "quadratic"}, "objective.loss"),
        ({"dataset": "quadratic", "loss": "squared_hinge"}, "objective.loss"),
        ({"dataset": "gaussian-mixture", "samples": 1}, "data.test_fraction"),
        ({"dataset": "gaussian-mixture", "samples": 6}, "peers"),
        ({"test_fraction": 0.001}, "data.test_fraction"),
    ],
)
def test_what_cannot_be_cut(changed: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        cut(tmp_path, **changed)
    assert refusal.value.key == key
    assert "\n" not in str(refusal.value)


def test_a_constant_column_stays_finite(tmp_path: Path) -> None:
    """Digits have pixels that are always blank."""
    parts, test = cut(tmp_path, dataset="digits", standardize=True)
    assert test is not None
    assert all(np.isfinite(part["x"]).all() for part in [*parts, test])


def in_place(folder: Path, **data: Any) -> Experiment:
    path = {"path": str(folder / "{id}" / "peer-{id:03d}.npz"), "test_path": str(folder / "test" / "test.npz")}
    tree = {"peers": 3, "data": {"dataset": "wine"} | path | data, "objective": {"loss": "cross_entropy"}}
    return settings.from_tree(tree)


def test_an_experiment_is_cut_into_the_files_that_it_names(tmp_path: Path) -> None:
    parts, test = cut(tmp_path / "plain", n_peers=3, seed=0, standardize=True)
    written = cut_into_place(in_place(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        *(f"{peer}/peer-{peer:03d}.npz" for peer in range(3)),
        "test/test.npz",
    ]
    assert test is not None
    for path, part in zip(written, [*parts, test], strict=True):
        found = npz.load(path)
        assert all(np.array_equal(found[name], part[name]) for name in part)


@pytest.mark.parametrize("name", ["run{1}", "run{", "{id}", "{}"])
def test_a_folder_may_have_braces_in_its_name(name: str, tmp_path: Path) -> None:
    """They were filled in as {id} is: a run that was called so ended in a traceback."""
    wine = settings.from_tree({"peers": 2, "data": {"dataset": "wine"}})
    found = prepare.with_cut_shards(wine, tmp_path / name).data.path
    assert path_of(found, 1) == tmp_path / name / "peer-001.npz"
    assert path_of(found, 1).exists()
    beside = settings.anchored({"data": {"path": "peer-{id}.npz"}}, tmp_path / name)
    assert path_of(beside.data.path, 1) == tmp_path / name / "peer-001.npz"
    assert settings.anchored(msgspec.to_builtins(beside), tmp_path) == beside


def test_a_peer_that_there_is_not_has_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--id: expected 0 to 2, found 3"):
        cut_into_place(in_place(tmp_path), only=3)
    assert not list(tmp_path.iterdir())


def test_one_peer_alone_gets_its_own_shard_and_nothing_else(tmp_path: Path) -> None:
    assert cut_into_place(in_place(tmp_path), only=1) == [tmp_path / "1" / "peer-001.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_the_same_cut_stays_and_another_is_not_replaced(tmp_path: Path) -> None:
    first, *_ = cut_into_place(in_place(tmp_path))
    before = first.stat().st_mtime_ns
    (tmp_path / "2" / "peer-002.npz").unlink()
    assert len(cut_into_place(in_place(tmp_path))) == 4, "what is missing is cut again"
    assert first.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="this cut's") as refusal:
        cut_into_place(in_place(tmp_path, partition="label-sorted"))
    assert refusal.value.key == "data.path"
    assert first.stat().st_mtime_ns == before


def test_a_folder_with_other_shards_is_left_alone(tmp_path: Path) -> None:
    cut = Cut("wine", 3, 0, "cross_entropy")
    files = cut.write(tmp_path)
    before = [path.stat().st_mtime_ns for path in files]
    assert cut.write(tmp_path) == files, "as a launch that was interrupted has left them"
    for other in (replace(cut, seed=1), replace(cut, n_peers=2)):
        with pytest.raises(ConfigError, match="this cut's") as refusal:
            other.write(tmp_path)
        assert refusal.value.key == "--out"
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_torn_file_is_no_shard_and_is_not_replaced(tmp_path: Path) -> None:
    first, *_ = cut_into_place(in_place(tmp_path))
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(ConfigError, match="whole npz file"):
        cut_into_place(in_place(tmp_path))
    assert first.stat().st_size == 100


@pytest.mark.parametrize("missing", ["dataset", "path"])
def test_what_is_cut_and_where_must_be_said(missing: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        cut_into_place(in_place(tmp_path, **{missing: "", "test_path": ""}))
    assert refusal.value.key == f"data.{missing}"


# drawn from a law


DRAWN = {"dimension": 6, "samples": 1001, "n_peers": 4}


@pytest.mark.parametrize("dataset", settings.DRAWN)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_what_is_drawn_is_cut_like_any_set(dataset: str, partition: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset": dataset, "partition": partition, "loss": "squared", **DRAWN}
    parts, test = cut(tmp_path / "a", **given)
    assert test is not None
    assert len(test["x"]) == 251, "a quarter, and what is left over"
    everything = sorted(rows(*parts, test))
    assert len(set(everything)) == len(everything) == 1001
    whole, nothing = cut(tmp_path / "b", **given | {"n_peers": 1, "test_fraction": 0.0})
    assert nothing is None
    assert sorted(rows(*whole)) == everything
    again, other = (cut(tmp_path / f"seed{seed}", **given | {"seed": seed})[0] for seed in (3, 4))
    assert all(np.array_equal(one["x"], two["x"]) for one, two in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0]["x"][0], other[0]["x"][0])


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_quadratic_targets_are_those_of_the_law(loss: str, tmp_path: Path) -> None:
    """As they are, whatever `standardize` says: theory is about them."""
    b = theory.law("quadratic", 3, 6, 0.5).spectrum
    for standardize in (True, False):
        parts, test = cut(tmp_path / str(standardize), dataset="quadratic", loss=loss, standardize=standardize, **DRAWN)
        assert test is not None
        for part in [*parts, test]:
            assert part.keys() == {"x", "y"}
            np.testing.assert_allclose(part["y"][:, 0], part["x"] ** 2 @ b - b.sum(), rtol=0.0, atol=1e-12)


def test_a_mixture_has_targets_of_plus_and_minus_one(tmp_path: Path) -> None:
    for standardize in (True, False):
        given: dict[str, Any] = {"dataset": "gaussian-mixture", "standardize": standardize, **DRAWN}
        parts, test = cut(tmp_path / f"targets {standardize}", loss="squared", **given)
        classes, _ = cut(tmp_path / f"labels {standardize}", **given)
        assert test is not None
        for part in [*parts, test]:
            np.testing.assert_array_equal(part["codes"], [[-1.0], [1.0]])
            np.testing.assert_array_equal(part["y"], 2.0 * part["labels"][:, None] - 1.0)
        for part, other in zip(parts, classes, strict=True):
            assert other.keys() == {"x", "y"}
            np.testing.assert_array_equal(other["y"], part["labels"])
            np.testing.assert_array_equal(other["x"], part["x"])
        train = np.concatenate([part["labels"] for part in parts])
        assert abs(train.mean() - test["labels"].mean()) < 1 / 251, "the same share of every class"


def test_the_positive_class_is_the_one_with_less_variance(tmp_path: Path) -> None:
    """x|y ~ N(0, Id - y Delta)."""
    given = {"dimension": 3, "samples": 20_000, "n_peers": 1, "test_fraction": 0.0, "separation": 0.9}
    (part,), _ = cut(tmp_path, dataset="gaussian-mixture", **given)
    delta = theory.law("gaussian-mixture", 3, 3, 0.9).spectrum
    for label, y in ((0, -1.0), (1, 1.0)):
        np.testing.assert_allclose(part["x"][part["y"] == label].var(axis=0), 1.0 - y * delta, rtol=0.08)


@pytest.mark.parametrize("dataset", settings.DRAWN)
def test_numpy_alone_draws(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, module, None)
    parts, test = cut(tmp_path / "a", dataset=dataset, loss="squared", **DRAWN)
    assert len(parts) == 4
    assert test is not None
    with pytest.raises(ConfigError, match="expected scikit-learn"):
        cut(tmp_path / "b")


def test_settings_say_what_is_drawn() -> None:
    tree = {"dataset": "gaussian-mixture", "dimension": 7, "samples": 12, "separation": 0.25, "standardize": True}
    cut_as = Cut.of(settings.from_tree({"seed": 3, "peers": 2, "data": tree}))
    parts, test = cut_as.pieces()
    assert [part["x"].shape for part in [*parts, test]] == [(5, 7), (4, 7), (3, 7)]
    assert (cut_as.dimension, cut_as.samples, cut_as.separation) == (7, 12, 0.25)
