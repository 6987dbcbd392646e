"""Experiments as values, and runs as notebooks read them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import peer
from peer import Experiment, Run, library, settings
from peer.console import Progress
from peer.errors import ConfigError, PeerError, SolveError
from peer.files import folder_of
from tests.rundir import SAMPLES, parameters, write_run

WINE = {"peers": 4, "data": {"dataset": "wine"}}


def test_tables_and_dotted_keys_are_the_same() -> None:
    one = Experiment(
        name="a", data={"dataset": "wine"}, surrogate={"tau": 10, "kind": "full"}, model={"hidden": (3, 2)}
    )
    other = Experiment(
        {"name": "b", "data.dataset": "wine", "surrogate.tau": np.float64(10.0), "model.hidden": np.array([3, 2])},
        surrogate={"kind": "full"},
        name="a",
    )
    assert one == other
    assert one.settings == settings.from_tree(
        {"name": "a", "data": {"dataset": "wine"}}
        | {"surrogate": {"tau": 10.0, "kind": "full"}, "model": {"hidden": [3, 2]}}
    )
    assert hash(one.settings.surrogate) == hash(other.settings.surrogate)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"surrogate.tua": 1}, "did you mean surrogate.tau"),
        ({"surrogate": {"tau": -1.0}}, "surrogate.tau: expected a number > 0"),
        ({"peers": "many"}, "peers: Expected `?int"),
        ({}, "expected dataset"),
    ],
)
def test_errors_are_those_of_the_file(tree: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Experiment({"data.dataset": "wine"} | tree if tree else {})


def test_other_settings_make_another_experiment() -> None:
    first = Experiment(WINE)
    second = first.replace("surrogate.tau", 10)
    assert (first["surrogate.tau"], second["surrogate.tau"], second["peers"]) == ("auto", 10.0, 4)
    assert second.replace({"step.alpha": 0.5}, seed=3).changed == {
        "peers": 4,
        "data.dataset": "wine",
        "surrogate.tau": 10.0,
        "step.alpha": 0.5,
        "seed": 3,
    }
    with pytest.raises(ConfigError, match="expected 0 < alpha"):
        first.replace("step.alpha", 2)
    with pytest.raises(TypeError, match="a key and a value"):
        first.replace("step.alpha", 2, 3)
    with pytest.raises(KeyError):
        first["step.alpah"]


def test_what_is_shown_makes_the_same_again() -> None:
    first = Experiment(WINE, topology={"graph": "ring"})
    assert eval(repr(first), {"Experiment": Experiment}) == first
    assert "dataset = &quot;wine&quot;" in first._repr_html_()


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Experiment(WINE)
    first.save(tmp_path / "experiment.toml")
    assert Experiment.load(tmp_path / "experiment.toml") == Experiment.load(str(tmp_path)) == first
    assert Experiment.load()["name"] == "wdbc"
    monkeypatch.chdir(tmp_path)
    assert Experiment({"data.path": Path("a-{id}.npz")})["data.path"] == str(tmp_path / "a-{id}.npz")


def test_a_run_is_read(tmp_path: Path) -> None:
    write_run(tmp_path)
    run = Run(str(tmp_path))
    assert (run.path, run.experiment["name"], repr(run)) == (tmp_path, "tiny", f"Run({str(tmp_path)!r})")
    assert run.summary["peers"] == len(SAMPLES)
    np.testing.assert_array_equal(run.parameters(1)["layers.0.weight"], parameters(1)["layers.0.weight"])
    mean = np.mean([parameters(k)["layers.0.weight"] for k in range(len(SAMPLES))], axis=0)
    np.testing.assert_allclose(run.parameters()["layers.0.weight"], mean)
    assert run.model().predict(np.zeros((2, 2))).shape == (2, 1)
    assert "tiny: 3 peers" in run._repr_html_()
    with pytest.raises(ConfigError, match=r"009/final\.npz"):
        run.parameters(9)


def test_metrics_are_columns(tmp_path: Path) -> None:
    write_run(tmp_path, ended=None)
    path = folder_of(tmp_path, 2) / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]) + '{"torn')
    found = Run(tmp_path).metrics
    assert list(found) == [0, 1, 2]
    assert len(found) == 3
    assert found[0]["iteration"].tolist() == [0, 1, 2, 3]
    assert found[0]["residual"].dtype == np.float64
    table = found.table("residual")
    assert table.shape == (4, 3)
    np.testing.assert_array_equal(np.isnan(table), [[False] * 3] * 2 + [[False, False, True]] * 2)
    assert "expected" in Run(tmp_path)._repr_html_(), "it has not ended, and says so"


@pytest.mark.parametrize(
    ("values", "kind"), [([1, 2], "i"), ([1, None], "f"), ([1.5, 2], "f"), (["a", "b"], "U"), ([[1], {}], "O")]
)
def test_columns_have_one_kind(values: list[object], kind: str) -> None:
    assert library._column(values).dtype.kind == kind


def test_pandas_gets_a_row_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    metrics = Run(tmp_path).metrics
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError):
        metrics.to_pandas()

    class Pandas:
        """Columns as they are given."""

        @staticmethod
        def DataFrame(columns: dict[str, object]) -> dict[str, object]:  # noqa: N802
            return columns

        @staticmethod
        def concat(frames: list[dict[str, object]], ignore_index: bool) -> list[dict[str, object]]:
            assert ignore_index
            return frames

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    frames = metrics.to_pandas()
    assert [frame["peer"] for frame in frames] == [0, 1, 2]
    assert all(len(frame["residual"]) == 4 for frame in frames)


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run directory"):
        Run(tmp_path)
    write_run(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match="expected JSON"):
        _ = Run(tmp_path).summary
    (folder_of(tmp_path, 0) / "metrics.jsonl").write_text("1\n")
    with pytest.raises(ConfigError, match="line 1: expected a round"):
        _ = Run(tmp_path).metrics
    with pytest.raises(ConfigError, match="found one in"):
        library.launch(Experiment(WINE), tmp_path)


@pytest.mark.parametrize(
    ("code", "kind"), [(2, ConfigError), (3, PeerError), (4, SolveError), (130, KeyboardInterrupt)]
)
def test_exit_codes_are_errors(code: int, kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="peer 1: gone") as found:
        library._fail(code, "peer 1: gone")
    assert type(found.value) is kind


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    for out in (taken, taken / "run"):
        with pytest.raises(ConfigError, match=f"out: expected a folder, found a file at {taken}"):
            library.launch(None, out)


def test_a_path_is_no_experiment() -> None:
    with pytest.raises(TypeError, match=r"Experiment\.load\(path\) reads one, found 'digits\.toml'"):
        library.launch("digits.toml")  # type: ignore[arg-type]


def test_a_notebook_replaces_the_line(tmp_path: Path) -> None:
    lines: list[str] = []
    console = Console(file=io.StringIO(), force_terminal=True)
    experiment = write_run(tmp_path)
    progress = Progress(console, tmp_path, experiment, lines.append)
    progress.look()
    progress.close()
    assert len(lines) == 2
    assert "round 4/4" in lines[-1]
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_importing_the_package_is_light() -> None:
    program = (
        "import peer, sys; print({'numpy', 'zmq', 'rich', 'msgspec'} & set(sys.modules)); peer.Experiment; peer.launch"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = peer.nothing
