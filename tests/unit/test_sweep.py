"""The plan of a sweep, what is made of its results, and what a person sees."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console

from peer import console as consoles
from peer import history, launcher, settings, sweep, sweep_run, sweep_view
from peer.errors import BAD_INPUT, BROKEN, LOST, ConfigError
from peer.files import folder_of
from peer.sweep import Cell, Plan, Result, Spread
from tests.rundir import metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "wine.toml"
    path.write_text(tomli_w.dumps({"name": "wine", "seed": 7, "iterations": 4, "data": {"dataset": "wine"}}))
    return path


def plan(path: Path, *grid: str, seeds: int = 1) -> Plan:
    return Plan.of(path, ["peers=3"], grid, seeds)


def results(of: Plan, *objectives: float | None) -> list[Result]:
    """Cells with these objectives; None is one that failed."""
    return [
        Result(cell, "failed", 4, "it broke [down]")
        if objective is None
        else Result(
            cell, "done", numbers={"objective": objective, "rounds": 4.0, "test_accuracy": 0.5, "seconds": 0.25}
        )
        for cell, objective in zip(of.cells, objectives, strict=True)
    ]


def test_cells_are_the_product_of_grid_and_seeds(path: Path) -> None:
    found = plan(path, "surrogate.tau=0.1,auto", "model.hidden=[8],[4, 2]", seeds=2)
    names = [cell.name for cell in found.cells]
    assert names[0] == "tau=0.1,hidden=_8_,seed=7-" + names[0].rpartition("-")[2], "brackets are not for folders"
    assert len(set(names)) == len(names) == 8
    last = found.cells[-1].experiment
    assert (last.seed, last.surrogate.tau, last.model.hidden, last.peers) == (8, "auto", (4, 2), 3)
    assert last.name.startswith("wine tau=auto,hidden=")
    assert [len(found.points), found.base.seed, found.base.name] == [4, 7, "wine"]


def test_without_a_grid_there_are_seeds(path: Path) -> None:
    assert [cell.name for cell in plan(path, seeds=3).cells] == ["seed=7", "seed=8", "seed=9"]


def test_keys_are_short_where_that_is_clear() -> None:
    assert sweep.short(["surrogate.tau", "peers"]) == ["tau", "peers"]
    assert sweep.short(["surrogate.kind", "regime.kind"]) == ["surrogate.kind", "regime.kind"]


def test_long_names_stay_different() -> None:
    names = [sweep.name_of((("data.path", "x" * 300 + end),), 0) for end in "ab"]
    assert names[0] != names[1]
    assert max(map(len, names)) < 120


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["surrogate.tau"], "expected key=value,value"),
        (["surrogate.tau="], "expected key=value,value"),
        (["surrogate.tau=1,,2"], "expected key=value,value"),
        (["seed=1,2"], "other than name and seed"),
        (["surrogate.tau=1", "surrogate.tau=2"], "found one twice"),
        (["surrogate.tau=1,1.0"], "found 1 and 1.0, which are the same"),
        (["software.numpy='1'"], "'software.numpy', which is none"),
        (["surrogate.tau=1,-2"], r"in cell tau=-2,seed=7"),
        (["peers=" + ",".join(map(str, range(1, 400))), "iterations=" + ",".join(map(str, range(1, 400)))], "at most"),
    ],
)
def test_what_is_no_grid_is_told(path: Path, grid: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(path, *grid)


def test_addresses_are_those_that_are_free(path: Path) -> None:
    given = 'transport.addresses=["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"]'
    found = Plan.of(path, ["peers=3", given], ["peers=3,4"], 1)
    assert [cell.experiment.transport.addresses for cell in found.cells] == [(), ()]


def test_spreads_are_over_the_seeds_that_are_done(path: Path) -> None:
    found = results(plan(path, seeds=4), 3.0, None, 1.0, 8.0)
    assert sweep.spreads(found)["objective"] == Spread(3, 3.0, 1.0, 8.0)
    assert sweep.spreads(found[1:2]) == {}


def test_numbers_of_a_summary() -> None:
    found = {"objective": None, "stationarity": float("nan"), "disagreement": 0.5, "iterations": 9, "seconds": 2.0}
    told = sweep.numbers_of(found | {"bytes": 2_500_000, "test": {"rmse": 1.0}})
    assert told == {"disagreement": 0.5, "test_rmse": 1.0, "rounds": 9, "megabytes": 2.5, "seconds": 2.0}


def test_files_say_all(path: Path, tmp_path: Path) -> None:
    of = plan(path, "surrogate.tau=1,10", seeds=2)
    found = results(of, 1.0, 3.0, None, 2.0)
    sweep.write(of, found, tmp_path, simulate=True)
    tree = json.loads((tmp_path / "sweep.json").read_text())
    assert tree["grid"] == {"surrogate.tau": ["1", "10"]}
    assert [point["done"] for point in tree["points"]] == [2, 1]
    assert tree["points"][0]["numbers"]["objective"] == {"n": 2, "median": 2.0, "least": 1.0, "largest": 3.0}
    assert [cell["code"] for cell in tree["cells"]] == [0, 0, 4, 0]
    head, *rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert head == "surrogate.tau,seed,run_dir,status,objective,rounds,test_accuracy,seconds,line"
    assert rows[2] == '10,7,"tau=10,seed=7",failed,,,,,it broke [down]'
    sweep.check_place(of, tmp_path, simulate=True)
    sweep.check_place(plan(path, "surrogate.tau=0.5,1,10", seeds=3), tmp_path, simulate=True)
    with pytest.raises(ConfigError, match="may only grow; 2 are missing, among them tau=10,seed=7"):
        sweep.check_place(plan(path, "surrogate.tau=1", seeds=2), tmp_path, simulate=True)
    with pytest.raises(ConfigError, match="may only grow; 4 are missing"):
        sweep.check_place(plan(path, "surrogate.kind=full,partial"), tmp_path, simulate=True)
    with pytest.raises(ConfigError, match="one with --simulate"):
        sweep.check_place(of, tmp_path, simulate=False)
    with pytest.raises(ConfigError, match="iterations = 4 there, 5 here"):
        sweep.check_place(Plan.of(path, ["peers=3", "iterations=5"], [], 1), tmp_path, simulate=True)


def test_a_folder_with_something_else_is_kept(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds something else"):
        sweep.check_place(plan(path), tmp_path, simulate=True)


def test_what_a_folder_says_of_a_cell(path: Path, tmp_path: Path) -> None:
    cell = plan(path).cells[0]
    (tmp_path / cell.name).mkdir()
    assert sweep.result_of(cell, tmp_path).status == "missing"
    (tmp_path / cell.name / "failure.json").write_text('{"code": 4, "line": "nan"}')
    assert sweep.result_of(cell, tmp_path) == Result(cell, "failed", 4, "nan")
    (tmp_path / cell.name / "failure.json").write_text("[")
    with pytest.raises(ConfigError, match="expected JSON"):
        sweep.result_of(cell, tmp_path)


def test_two_sweeps_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with (
        sweep.claimed(tmp_path),
        pytest.raises(ConfigError, match=f"process {os.getpid()}, is at work"),
        sweep.claimed(tmp_path),
    ):
        pass
    with sweep.claimed(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_cells_share_the_cores(path: Path) -> None:
    cells = list(plan(path, "peers=1,2,3,8").cells)
    assert [sweep_run.cores_of(cell, False, 4) for cell in cells] == [1, 2, 3, 4]
    assert [sweep_run.cores_of(cell, True, 4) for cell in cells] == [1, 1, 1, 1]

    def room(waiting: Cell, running: list[Cell], jobs: int | None = None) -> bool:
        return sweep_run._has_room(sweep_run._Work([waiting], dict(enumerate(running))), False, jobs, 4)

    assert room(cells[3], [])
    assert room(cells[2], cells[:1])
    assert not room(cells[2], cells[1:2])
    assert room(cells[2], cells[1:2], jobs=2)
    assert not room(cells[2], cells[:2], jobs=2)


def test_how_much_is_done_counts_rounds_of_agents(path: Path, tmp_path: Path) -> None:
    one, two = plan(path, "peers=1,3").cells
    assert sweep_run.part_done([], set(), tmp_path) == 1.0
    assert sweep_run.part_done([one, two], {one.name, two.name}, tmp_path) == 0.0
    folder = folder_of(tmp_path / two.name, 0)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics(0, n)) + "\n" for n in range(2)) + '{"torn')
    assert history.n_done(folder) == 2
    assert sweep_run.part_done([one, two], {one.name, two.name}, tmp_path) == 3 / 8
    assert sweep_run.part_done([one, two], {two.name}, tmp_path) == 5 / 8


def test_exit_codes(path: Path) -> None:
    found = results(plan(path, seeds=2), 1.0, None)
    assert [sweep_run.exit_code(found[:1]), sweep_run.exit_code(found)] == [0, 4]
    assert sweep_run.exit_code([*found, replace(found[0], status="missing")]) == 130


# ---- what a person sees -----------------------------------------------------------------------


def screen(terminal: bool = False, width: int = 100) -> Console:
    return consoles.screen(file=io.StringIO(), width=width, force_terminal=terminal)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_medians_and_spreads(path: Path, tmp_path: Path) -> None:
    console, of = screen(), plan(path, "surrogate.tau=1,10", seeds=2)
    sweep_view.show(console, of, results(of, 1.0, 3.0, None, None), tmp_path)
    lines = shown(console).splitlines()
    assert "wine: 4 cells" in lines[0]
    assert [word in lines[2] for word in ("tau", "done", "objective", "test accuracy", "rounds")] == [True] * 5
    assert "2/2" in lines[4]
    assert "1 to 3" in lines[5]
    assert "0/2" in lines[6]
    assert "tau=10,seed=7: it broke [down]" in lines
    assert f"peer report {tmp_path}/*/" in lines[-1]


def test_the_name_of_a_sweep_is_no_markup(path: Path, tmp_path: Path) -> None:
    console, of = screen(), Plan.of(path, ["name=a [bold] :smile:"], (), 1)
    sweep_view.show(console, of, results(of, 1.0), tmp_path)
    assert shown(console).startswith("a [bold] :smile:: 1 cells ")


def test_the_table_says_what_is_missing(path: Path, tmp_path: Path) -> None:
    console, of = screen(), plan(path, seeds=2)
    found = results(of, 1.0, 2.0)
    sweep_view.show(console, of, [found[0], replace(found[1], status="missing", numbers={})], tmp_path)
    assert "1 of 2 cells are missing; the same command goes on with them" in shown(console)


FACTS = {"cells": 9, "done": 3, "failed": 1, "running": ["a", "b", "c"], "part": 0.5, "left_s": 61.0}


def test_where_it_is_narrow_spreads_take_two_lines(path: Path, tmp_path: Path) -> None:
    console, of = screen(terminal=True), plan(path, seeds=2)
    sweep_view.show(console, of, results(of, 1.0, 3.0), tmp_path)
    assert "to 3" not in shown(console)
    assert "1 to" in shown(console)


def test_no_number_is_torn_on_a_terminal_of_80_columns(path: Path, tmp_path: Path) -> None:
    console, of = screen(terminal=True, width=80), plan(path, "surrogate.tau=0.1,1", seeds=2)
    names = ("objective", "stationarity", "disagreement", "test_accuracy", "rounds", "megabytes", "seconds")
    cells = [
        replace(one, numbers=dict.fromkeys(names, 0.012345 * n)) for n, one in enumerate(results(of, 1, 1, 1, 1), 1)
    ]
    sweep_view.show(console, of, cells, tmp_path)
    assert shown(console).count("0.01852") == len(names)
    assert shown(console).count("0.0123 to") == len(names)


def test_words() -> None:
    assert sweep_view.words(FACTS) == "4 of 9 cells, 1 failed, 61 s left; a b and 1 more"
    assert sweep_view.words(FACTS | {"failed": 0, "running": [], "left_s": None}) == "3 of 9 cells"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99.0, "99 s"), (119.0, "2 min"), (7265.0, "2 h 01 min")])
def test_times(seconds: float, words: str) -> None:
    assert sweep_view.lasting(seconds) == words


@pytest.mark.parametrize("terminal", [False, True])
def test_the_bar(terminal: bool) -> None:
    console = screen(terminal)
    sweep_view.draw(console, iter([FACTS, FACTS | {"line": "tau=1,seed=7: done [well]"}]))
    assert "tau=1,seed=7: done [well]" in shown(console)
    assert ("61 s left" in shown(console)) == terminal


def test_another_process_draws(tmp_path: Path) -> None:
    def draw(told: Iterator[Mapping[str, Any]]) -> None:
        (tmp_path / "drawn").write_text(json.dumps([os.getpid() != parent, *told]))

    parent = os.getpid()
    with sweep_run.drawn_by(draw) as show:
        show({"done": 1})
        show({"done": 2})
    assert json.loads((tmp_path / "drawn").read_text()) == [True, {"done": 1}, {"done": 2}]


def test_that_nobody_looks_ends_nothing() -> None:
    with sweep_run.drawn_by(lambda told: None) as show:
        for _ in range(10_000):
            show(FACTS)


def test_the_parent_that_is_gone_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *told: ended.append(told))
    sweep_run._Parent(os.getppid()).look()
    assert not ended
    sweep_run._Parent(-1).look()
    assert [pid for pid, _ in ended] == [os.getpid()]


@pytest.mark.parametrize(("code", "again"), [(BAD_INPUT, True), (LOST, True), (BROKEN, False)])
def test_what_the_host_has_refused_a_peer_is_tried_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, again: bool
) -> None:
    """A cell whose peers had found the disk full counted as broken down, also when there was room again."""
    outcome = launcher.Outcome(code, "peer 0: cannot use checkpoint.npz: No space left on device", 1.0, finished=False)
    monkeypatch.setattr(launcher, "launch", lambda *_: outcome)
    found, line = sweep_run._run(plan(path).cells[0].experiment, tmp_path, False, launcher.Watcher())
    assert (found not in sweep_run.FINAL, line) == (again, outcome.line)


def test_a_sweep_has_nothing_in_memory_that_peers_must_not_have() -> None:
    heavy = "{'rich', 'sklearn', 'matplotlib', 'networkx'}"
    program = f"import sys, peer.__main__, peer.sweep_run; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_settings_of_a_cell_are_checked_with_the_others(path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 0 with mode"):
        plan(path, "run.mode=rounds,async", "run.tolerance=0.1")
    assert settings.read(path).peers == 8
