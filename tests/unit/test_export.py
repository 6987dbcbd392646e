"""Trained networks as files that other programs read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import peer
from peer import export, files, npz, settings, standardization
from peer.data import Cut
from peer.errors import ConfigError
from peer.files import folder_of
from peer.standardization import Scale, Standardization
from tests.rundir import SAMPLES, parameters, write_elastic, write_run

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own, while it is imported
    from onnx.reference import ReferenceEvaluator

MEAN = {name: np.mean([parameters(k)[name] for k in range(len(SAMPLES))], axis=0) for name in parameters(0)}
RAW = 3.0 + 2.0 * np.random.default_rng(0).normal(size=(5, 2))
SCALES = Standardization(Scale.of(RAW), Scale.of(10.0 + np.arange(4.0)[:, None]))


def standardized(run_dir: Path, **tree: Any) -> Path:
    """A run whose data were standardized."""
    write_run(run_dir, **tree)
    npz.save(run_dir / "shards" / standardization.NAME, SCALES.arrays)
    return run_dir


def arrays_of(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and metadata of a file, as its users read it."""
    if path.suffix == ".npz":
        found = dict(np.load(path))
        return found, json.loads(str(found.pop("metadata")))
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("whose", [None, 1])
def test_arrays_have_the_parameters_and_the_standardization(form: str, whose: int | None, tmp_path: Path) -> None:
    path, found = export.write(standardized(tmp_path), form, peer=whose)
    assert path == tmp_path / f"model.{form}"
    assert found.known
    arrays, metadata = arrays_of(path)
    expected = MEAN if whose is None else parameters(whose)
    scales = {f"standardization.{name}": array for name, array in SCALES.arrays.items()}
    assert arrays.keys() == expected.keys() | scales.keys()
    for name, array in (expected | scales).items():
        assert arrays[name].dtype == np.float64
        np.testing.assert_allclose(arrays[name], array, rtol=1e-15)
    assert metadata["peer"] == ("mean" if whose is None else "1")
    assert metadata["output"] == "y"
    assert metadata["standardization"] == "applied"
    assert json.loads(metadata["widths"]) == [2, 1]
    assert str(tmp_path) not in json.dumps(metadata)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), (None, 1e-6)])
def test_an_onnx_model_goes_from_raw_samples_to_targets(dtype: str | None, tolerance: float, tmp_path: Path) -> None:
    path, _ = export.write(standardized(tmp_path), "onnx", dtype=dtype)
    (found, *_) = ReferenceEvaluator(str(path)).run(None, {"x": RAW.astype(dtype or "float32")})
    assert SCALES.x is not None
    assert SCALES.y is not None
    expected = SCALES.y.undone(peer.load_model(tmp_path).predict(SCALES.x.applied(RAW)))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0.0, atol=tolerance * np.abs(expected).max())


def test_logits_are_no_targets_also_where_the_shards_have_such(tmp_path: Path) -> None:
    """Shards that `peer shard --loss squared` cut have labels, too; logits were scaled as their targets are."""
    standardized(tmp_path, objective={"loss": "cross_entropy"}, model={"hidden": [], "outputs": 1})
    path, found = export.write(tmp_path, "onnx", dtype="float64", probabilities=True)
    assert SCALES.x is not None
    expected = peer.load_model(tmp_path).predict(SCALES.x.applied(RAW))
    logits, _ = ReferenceEvaluator(str(path)).run(None, {"x": RAW})
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-12)
    assert found.scales.arrays.keys() == {"x_mean", "x_deviation"}


@pytest.mark.parametrize(
    ("of_others", "problem"),
    [
        (Standardization(Scale.of(np.eye(3))), "expected the 2 columns of x of this run, found the 3 of other data"),
        (Standardization(None, Scale.of(np.eye(3))), "expected the 1 columns of y of this run, found the 3"),
    ],
)
def test_the_standardization_of_other_data_is_refused(of_others: Standardization, problem: str, tmp_path: Path) -> None:
    """It is beside the shards, where that of others may have stayed; an export to onnx ended in a traceback."""
    write_run(tmp_path)
    npz.save(tmp_path / "shards" / standardization.NAME, of_others.arrays)
    for form in files.FORMATS:
        with pytest.raises(ConfigError, match=problem):
            export.write(tmp_path, form)


def test_what_the_user_did_to_own_files_is_not_known(tmp_path: Path) -> None:
    write_run(tmp_path)
    path, found = export.write(tmp_path, "npz")
    assert not found.known
    arrays, metadata = arrays_of(path)
    assert arrays.keys() == MEAN.keys()
    assert metadata["standardization"] == "unknown"


def test_where_shards_are_hidden_the_data_set_says_what_was_done() -> None:
    tree: dict[str, Any] = {
        "peers": 3,
        "objective": {"loss": "cross_entropy"},
        "data": {"dataset": "wine", "path": "/nowhere/peer-{id}.npz"},
    }
    experiment = settings.from_tree(tree)
    found = export.scales_of(experiment, Path("/nowhere"))
    assert found is not None
    assert found.arrays.keys() == {"x_mean", "x_deviation"}
    for name, array in Cut.of(experiment).standardization().arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    raw = settings.from_tree(tree | {"data": tree["data"] | {"standardize": False}})
    drawn = settings.from_tree(tree | {"data": tree["data"] | {"dataset": "quadratic"}})
    for other in (raw, drawn):
        none = export.scales_of(other, Path("/nowhere"))
        assert none is not None
        assert not none.arrays


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        ({"dataset": "wine", "standardize": False}, np.eye(3)),
        ({"dataset": "breast-cancer", "standardize": False}, [[0.0], [1.0]]),
        ({"dataset": "gaussian-mixture", "samples": 20}, [[-1.0], [1.0]]),
    ],
)
def test_classes_are_told_by_their_codes_also_where_nothing_is_standardized(data: dict[str, Any], codes: Any) -> None:
    found = export.scales_of(settings.from_tree({"peers": 2, "data": data}), Path("/nowhere"))
    assert found is not None
    assert found.arrays.keys() == {"codes"}
    np.testing.assert_array_equal(found.arrays["codes"], codes)


def test_parameters_of_a_regime_are_all_of_the_network_and_where_it_was_linearized(tmp_path: Path) -> None:
    write_run(tmp_path, regime={"kind": "neural-tangent"})
    for k in range(len(SAMPLES)):
        npz.save(folder_of(tmp_path, k) / "initial.npz", parameters(7))
    arrays, metadata = arrays_of(export.write(tmp_path, "safetensors")[0])
    assert arrays.keys() == MEAN.keys() | {f"anchor.{name}" for name in MEAN}
    np.testing.assert_array_equal(arrays["anchor.layers.0.weight"], parameters(7)["layers.0.weight"])
    assert "J(w0; x)" in metadata["linearized"]
    with pytest.raises(ConfigError, match="--format: expected npz or safetensors for a network that stays linearized"):
        export.write(tmp_path, "onnx")


def test_of_a_run_without_rounds_it_is_the_members_mean(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    arrays, _ = arrays_of(export.write(tmp_path, "npz")[0])
    np.testing.assert_allclose(arrays["layers.0.weight"], peer.load_model(tmp_path).parameters["layers.0.weight"])


def test_nothing_is_replaced_unless_told(tmp_path: Path) -> None:
    write_run(tmp_path)
    out = tmp_path / "new" / "mine.npz"
    export.write(tmp_path, "npz", out, peer=0)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"--out: expected no file, found one at .*; --force replaces it"):
        export.write(tmp_path, "npz", out, peer=1)
    assert out.read_bytes() == before
    export.write(tmp_path, "npz", out, peer=1, force=True)
    assert arrays_of(out)[1]["peer"] == "1"
    assert [path.name for path in out.parent.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize(
    ("form", "more", "problem"),
    [
        ("npz", {"peer": 9}, "--peer: expected a peer that has ended, one of 0, 1, 2; found 9"),
        ("npz", {"probabilities": True}, "--softmax: expected --format onnx"),
        (
            "onnx",
            {"probabilities": True},
            "--softmax: expected a run with objective.loss = cross_entropy",
        ),
    ],
)
def test_what_cannot_be_is_refused(form: str, more: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        export.write(tmp_path, form, **more)
    assert str(caught.value).startswith(problem)
    assert not (tmp_path / f"model.{form}").exists()


def test_a_run_without_peers_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, ended=None)
    (tmp_path / "rounds.csv").touch()
    with pytest.raises(ConfigError, match=r"^peer export: expected a run of peers, found one of `peer simulate` in /"):
        export.write(tmp_path, "npz")


@pytest.mark.parametrize("form", files.FORMATS)
def test_numbers_beyond_single_precision_are_told(form: str, tmp_path: Path) -> None:
    write_run(tmp_path)
    for k in range(len(SAMPLES)):
        npz.save(folder_of(tmp_path, k) / "final.npz", {name: 1e200 + part for name, part in parameters(k).items()})
    with pytest.raises(ConfigError, match="--dtype: expected float64"):
        export.write(tmp_path, form, dtype="float32")


def test_a_network_of_the_users_own_is_no_onnx_and_the_line_says_what_does_it(tmp_path: Path) -> None:
    from peer.frameworks.foreign import Foreign

    write_run(tmp_path)
    found = export.Trained.of(tmp_path, None)
    foreign = Foreign("nets:mlp", tmp_path, None, (2,), 1, found.model.layout, np.zeros(3, np.intp), np.zeros(3))  # type: ignore[arg-type]
    own = export.Trained(found.experiment, foreign, found.w, "mean", found.scales, True)
    with pytest.raises(ConfigError, match=r"--format: onnx is for layers.*torch\.onnx\.export.*npz and safetensors"):
        own.onnx("float32", False)
    np.testing.assert_array_equal(own.arrays["layers.0.bias"], MEAN["layers.0.bias"])


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    for module in ("onnx", "safetensors.numpy", "safetensors"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.delitem(__import__("sys").modules, "peer.onnx_graph", raising=False)
    monkeypatch.delattr("peer.onnx_graph", raising=False)
    for form in ("onnx", "safetensors"):
        with pytest.raises(ConfigError, match=rf"--format: {form} needs the package of that name: pip install"):
            export.write(tmp_path, form)
