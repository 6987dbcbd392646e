"""`peer simulate`: what it refuses, what it makes of shards, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from peer import npz, scaling, settings
from peer.__main__ import cli
from peer.errors import BROKEN, ConfigError, SolveError
from peer.scaling import Look, Simulation
from peer.shards import Shard

TREE: dict[str, Any] = {
    "seed": 3,
    "peers": 5,
    "iterations": 12,
    "data": {"dataset": "quadratic", "dimension": 4, "samples": 52, "test_fraction": 0.0},
    "model": {"hidden": [3]},
    "topology": {"graph": "ring"},
}


def experiment_of(*overrides: str) -> settings.Experiment:
    tree = json.loads(json.dumps(TREE))
    settings.override(tree, overrides)
    return settings.from_tree(tree)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["run.mode=async"], "run.mode"),
        (["method.kind=extra"], "method.kind"),
        (["regime.kind=auto"], "regime.kind"),
        (["regime.relinearize_every=3"], "regime.relinearize_every"),
        (["regime.trainable=['layers.1']"], "regime.trainable"),
        (["surrogate.batch=2"], "surrogate.batch"),
        (["surrogate.blocks=2"], "surrogate.blocks"),
        (["surrogate.inexactness=0.1"], "surrogate.inexactness"),
        (["surrogate.kind=full", "surrogate.gradient=feedback-alignment"], "surrogate.gradient"),
        (["objective.regularizer=group_l2"], "objective.regularizer"),
        (["objective.regularizer=l1"], "objective.regularizer"),
        (["objective.lower=0"], "objective.lower"),
        (["objective.upper=1"], "objective.upper"),
        (["robustness.clip_w=1", "robustness.clip_y=1"], "robustness"),
        (["compression.kind=top-k"], "compression.kind"),
        (["transport.wire_dtype=bf16"], "compression.kind"),
        (["run.tolerance=1e-3"], "run.tolerance"),
        (["data.validation_fraction=0.2"], "data.validation_fraction"),
        (["data.validation_path='held-{id}.npz'"], "data.validation_path"),
        (["topology.weights=fdla"], "topology.weights"),
        (["topology.consensus=chebyshev", "topology.consensus_steps=2"], "topology.consensus"),
        (["model.inner_product=fan-in"], "model.inner_product"),
        (["model.hidden=[10]", 'model.layers=["layer-normalization", {kind="dense"}]'], "model.layers"),
        (["topology.graph=erdos-renyi", "topology.probability=0"], "topology"),
        (["data.dataset="], "data"),
    ],
)
def test_what_has_no_stacked_form_is_refused_in_one_line(overrides: Sequence[str], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        Simulation.of(experiment_of(*overrides))
    assert error.value.key == key
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value) or "falls apart" in str(error.value)


def shard(n: int, **arrays: Any) -> Shard:
    given = {"x": np.arange(2.0 * n).reshape(n, 2) + 1.0, "targets": np.ones((n, 1)), "labels": None, "weights": None}
    return Shard(Path(f"of-{n}.npz"), codes=None, **(given | arrays))


def test_smaller_shards_are_filled_up_by_samples_of_no_weight() -> None:
    whole = scaling.stacked([shard(1), shard(3), shard(2, weights=np.array([5.0, 7.0]))])
    assert whole.weights is not None
    assert whole.weights.tolist() == [1, 0, 0, 1, 1, 1, 5, 7, 0]
    assert whole.x.reshape(3, 3, 2)[:, :, 0].tolist() == [[1, 0, 0], [1, 3, 5], [1, 3, 0]]
    assert scaling.stacked([shard(2), shard(2)]).weights is None


def test_shards_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"of-2\.npz: expected samples like those of of-1\.npz"):
        scaling.stacked([shard(1), shard(2, targets=None, labels=np.zeros(2, dtype=np.int64))])
    with pytest.raises(ConfigError, match=r"of-2\.npz: expected samples like those of of-1\.npz"):
        scaling.stacked([shard(1), shard(2, targets=np.ones((2, 3)))])


def test_shards_of_other_codes_are_refused() -> None:
    one, other = (replace(shard(n), codes=np.eye(2) * n) for n in (1, 2))
    assert scaling.stacked([one, replace(other, codes=np.eye(2))]).codes is not None
    for second in (other, shard(2)):
        with pytest.raises(ConfigError, match=r"of-2\.npz: expected the codes of of-1\.npz, found others"):
            scaling.stacked([one, second])


def test_a_run_is_told_and_written_down(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(settings.to_toml(experiment_of()), encoding="utf-8")
    out = tmp_path / "out"
    options = ["--agents", "4", "--rounds", "30", "--out", str(out), "--set", "name=small"]
    result = CliRunner().invoke(cli, ["simulate", str(file), *options], standalone_mode=False)
    assert result.return_value == 0
    head, columns, *rows, last = result.output.splitlines()
    assert head.startswith("small: 4 agents, p = 19, 52 samples, 4 links in round 0, alpha ")
    assert columns.split()[:2] == ["round", "objective"]
    assert [line.split()[0] for line in rows] == ["0", "1", "2", "5", "10", "20", "30"]
    assert last == f"{out}/simulation.json"
    with (out / "rounds.csv").open(encoding="utf-8") as written:
        lines = list(csv.DictReader(written))
    found = json.loads((out / "simulation.json").read_text(encoding="utf-8"))
    assert {name: str(value) for name, value in found["last"].items()} == lines[-1]
    assert float(lines[-1]["objective"]) < 0.5 * float(lines[0]["objective"])
    assert tomllib.loads((out / "experiment.toml").read_text(encoding="utf-8"))["peers"] == 4
    assert sorted(npz.load(out / "mean.npz")) == [f"layers.{k}.{name}" for k in (0, 1) for name in ("bias", "weight")]
    with pytest.raises(ConfigError, match="holds a run already"):
        scaling.run(experiment_of(), out, print)


def test_numbers_that_break_down_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(settings.to_toml(experiment_of()), encoding="utf-8")
    too_long = ["method.kind=gradient-descent", "method.step_size=1e90", "model.activation=square"]
    code = scaling.command(file, None, None, "", tmp_path / "out", too_long, print)
    assert code == BROKEN
    assert "nan or infinite" in capsys.readouterr().out
    with np.errstate(all="ignore"), pytest.raises(SolveError):
        list(Simulation.of(experiment_of(*too_long)).states())


def test_initial_parameters_of_files_are_those_of_each_agent(tmp_path: Path) -> None:
    simulation = Simulation.of(experiment_of())
    layout = simulation.play.problem.chain.layout
    given = np.arange(5.0 * layout.size).reshape(5, -1)
    for i, w in enumerate(given):
        npz.save(tmp_path / f"start-{i}.npz", layout.unflatten(w))
    one = Simulation.of(experiment_of(f"model.initial={tmp_path}/start-3.npz"))
    np.testing.assert_array_equal(one.w, np.tile(given[3], (5, 1)))
    each = Simulation.of(experiment_of(f"model.initial={tmp_path}/start-{{id}}.npz"))
    np.testing.assert_array_equal(each.w, given)


def test_initial_parameters_are_out_of_bounds_by_rounding_at_most(tmp_path: Path) -> None:
    """Means of parameters that are at a bound may be so."""
    given = {"layers.0.weight": np.full((1, 4), np.nextafter(0.1, 1.0)), "layers.0.bias": np.zeros(1)}
    overrides = [f"model.initial={tmp_path / 'w.npz'}", "model.hidden=[]", "surrogate.kind=full", "objective.upper=0.1"]
    npz.save(tmp_path / "w.npz", given)
    assert Simulation.of(experiment_of(*overrides)).w.max() == 0.1
    npz.save(tmp_path / "w.npz", given | {"layers.0.bias": np.array([0.1001])})
    with pytest.raises(ConfigError, match=r"within the bounds, found 1 outside, the first of them 0\.1001"):
        Simulation.of(experiment_of(*overrides))


def test_bytes_are_those_of_whole_shares_over_all_links() -> None:
    one, two = (Simulation.of(experiment_of(f"topology.consensus_steps={k}")) for k in (1, 2))
    p = one.play.problem.n_parameters
    assert 10 * 2 * 8 * p < one.bytes_of(0) < 10 * (2 * 8 * p + 200)  # five links, both ways, z and y
    assert two.bytes_of(0) == 2 * one.bytes_of(0)


@pytest.mark.parametrize(("graph", "n_links"), [("torus", 32), ("random-4", 32)])
def test_graphs_of_simulations_alone_take_the_place_of_the_experiments(graph: str, n_links: int) -> None:
    experiment = experiment_of("peers=16")
    links = Simulation.of(experiment, graph=graph).schedule.links(0)
    assert 0.8 * n_links < links.size <= n_links
    assert Simulation.of(experiment).schedule.links(0).size == 16


@pytest.mark.parametrize("graph", ["ring", "random", "random-", "random-3", "random-x"])
def test_other_graphs_are_refused(graph: str) -> None:
    with pytest.raises(ConfigError, match="--graph: "):
        Simulation.of(experiment_of(), graph=graph)


def test_a_schedule_without_a_graph_takes_no_other() -> None:
    with pytest.raises(ConfigError, match=r"--graph: expected topology\.schedule as one of static"):
        Simulation.of(experiment_of("topology.schedule=one-peer-exponential"), graph="torus")


def test_rounds_that_are_shown_get_rarer() -> None:
    assert [n for n in range(301) if scaling.is_shown(n, 300)] == [0, 1, 2, 5, 10, 20, 50, 100, 200, 300]
    texts = scaling.row(Look(1, 1.5, 1e-3, 1e-9, 0.25, 0.125, 10**6, 10**9)).split()
    assert texts == ["1", "1.5", "1.0e-03", "1.0e-09", "0.25", "0.125", "1.0", "MB", "1.00", "GB"]
