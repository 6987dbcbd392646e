"""One command for all benchmarks: its rows, its file, its page and its comparison."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pytest_benchmark import cli
from pytest_benchmark.logger import Logger
from pytest_benchmark.storage.file import FileStorage

from benchmarks import __main__ as command
from benchmarks import fleets, kernels, results, rows
from benchmarks.page import page, ticks
from benchmarks.results import Occasion
from benchmarks.rows import Measured, Row, Setting, Took, Turn, in_turns
from peer.optim.solvers import solve
from tests.unit.test_report import Page

OCCASION = Occasion(
    {"cpu": {"brand_raw": "Abacus <1>", "count": 2}, "machine": "wood", "system": "None", "release": "1"},
    {"id": "0123456789abcdef", "dirty": True},
    {"next-peer": "0", "numpy": "1"},
    7,
    False,
    (0.1, 3.0),
    1.5,
)


def row(name: str, group: str, ratios: Sequence[float], clock: rows.Clock = "processor") -> Row:
    """A row that takes as many turns as there are ratios, in no time."""
    left = iter(ratios)

    def ready(setting: Setting) -> Turn:
        return lambda: Took((2.0 * (ratio := next(left)), ratio), (2.0, 1.0), 10)

    return Row(name, group, f"ours of {name} & more", f"a < b of {name}", "p = 1", (clock,), (len(ratios), 1), ready)


def measured(changed: Mapping[str, Sequence[float]] = MappingProxyType({})) -> list[Measured]:
    """Three rows of two groups, some of them otherwise."""
    known: dict[str, Sequence[float]] = {"still": [1.0, 1.1, 1.2, 1.3], "moving": [2.0, 2.1, 2.2]}
    known |= {"wild": [0.01, 1.0, 200.0], **changed}
    of = [row(name, "wood" if name != "wild" else "stone", ratios) for name, ratios in known.items()]
    return rows.measure(of, Setting(7, False, Path()))


def save(path: Path, found: Sequence[Measured]) -> Path:
    """A file of results."""
    path.write_text(json.dumps(results.document(found, OCCASION)))
    return path


def invoke(*given: object) -> Result:
    return CliRunner().invoke(command.main, list(map(str, given)))


# ---- measuring -----------------------------------------------------------------------------


def test_turns_of_the_rows_of_a_group_alternate() -> None:
    taken: list[str] = []

    def noted(name: str, group: str, n: int) -> Row:
        def turn() -> Took:
            taken.append(name)
            return Took((1.0, 1.0), (1.0, 1.0))

        return Row(name, group, "", "", "", ("wall",), (n, 1), lambda setting: turn)

    known = [noted("a", "one", 3), noted("b", "one", 2), noted("c", "one", 1)]
    found = rows.measure(known, Setting(7, False, Path()))
    assert "".join(taken) == "abcaba"
    assert [len(one.turns) for one in found] == [3, 2, 1]
    assert [len(one.turns) for one in rows.measure(known, Setting(7, True, Path()))] == [1, 1, 1]


def test_who_begins_a_turn_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SLICE_S", 0.0)
    called: list[str] = []
    turn = in_turns(lambda: called.append("o"), lambda: called.append("r"))
    called.clear()
    assert turn().calls == 1
    turn()
    turn()
    assert "".join(called) == "orroor"


@pytest.mark.parametrize(("clock", "expected"), [("processor", [3.0, 4.0]), ("wall", [6.0, 8.0])])
def test_a_row_has_a_clock(clock: rows.Clock, expected: list[float]) -> None:
    (one,) = rows.measure([row("a", "one", [3.0, 4.0], clock)], Setting(7, False, Path()))
    assert one.ours_s == expected
    assert one.ratios == [3.0, 4.0]


def test_rows_can_be_asked_for_by_name_and_by_group() -> None:
    known = [*kernels.rows(), *fleets.rows()]
    words = [one.name for one in known]
    assert len(set(words)) == len(words)
    assert not set(words) & {one.group for one in known}
    asked = [one.name for one in command.rows(("journal", "mixing"))]
    assert asked == ["mix-2", "mix-8", "mix-32", "journal"]
    refusal = invoke("--only", "juornal")
    assert refusal.exit_code == 2
    assert "--only: expected one of wire, encode-1e3" in refusal.output
    assert "found juornal" in refusal.output.replace("\n", " ")


@pytest.mark.parametrize(
    "name",
    ["encode-1e3", "decode-1e3", "finite-1e3", "mix-2", "jvp-small", "vjp-small", "journal", "checkpoint-1e3"],
)
def test_a_row_takes_its_turns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SLICE_S", 0.0)
    (one,) = rows.measure(command.rows((name,)), Setting(7, True, tmp_path))
    assert min(took.ours[0] for took in one.turns) > 0.0
    assert min(took.reference[0] for took in one.turns) > 0.0


@pytest.mark.parametrize(("widths", "m"), [((64, 4, 10), 60), ((64, 10, 10), 20)])
def test_the_system_beside_a_solve_is_that_of_the_solve(widths: tuple[int, ...], m: int) -> None:
    """In p unknowns, and in m q: both lead to the step that the solver finds."""
    h, problem = kernels.subproblem_of(widths, m, False)
    R, T = kernels.system_of(h, problem)
    matrix, r = R @ R.T + T, problem.regularizer
    slope = h.gradient(h.center) + r.gradient(h.center)
    if len(R) == len(h.center):
        step = np.linalg.solve(matrix, slope)
    else:
        scale = r.whitening(h.center, h.tau).scale
        step = scale * (scale * slope - R.T @ np.linalg.solve(matrix, R @ (scale * slope)))
    assert len(R) == min(len(h.center), 10 * m)
    found = solve(h, r, 1e-8).w
    np.testing.assert_allclose(found, h.center - step, rtol=0.0, atol=1e-9)


# ---- the file ------------------------------------------------------------------------------


def test_pytest_benchmark_loads_the_file(tmp_path: Path) -> None:
    found = measured()
    path = save(tmp_path / "now.json", found)
    loaded = {entry["name"]: entry for entry in FileStorage(str(tmp_path), Logger()).load_benchmarks(str(path))}
    assert list(loaded) == ["still", "moving", "wild"]
    for one in found:
        entry, values = loaded[one.row.name], one.ours_s
        assert entry["data"] == values
        assert entry["median"] == np.median(values)
        assert (entry["min"], entry["max"], entry["rounds"]) == (min(values), max(values), len(values))
        assert entry["mean"] == pytest.approx(np.mean(values))
        assert entry["stddev"] == pytest.approx(np.std(values, ddof=1))
        assert entry["extra_info"]["ratio"] == np.median(one.ratios)
        assert entry["extra_info"]["reference"] == one.row.reference
        assert entry["extra_info"]["command"] == f"python -m benchmarks --only {one.row.name} --seed 7"


def test_pytest_benchmark_compares_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = save(tmp_path / "1.json", measured())  # it sorts them by name
    after = save(tmp_path / "2.json", measured({"moving": [4.0, 4.2, 4.4]}))
    monkeypatch.chdir(tmp_path)  # it makes a folder
    monkeypatch.setattr(sys, "argv", ["pytest-benchmark", "compare", str(before), str(after), "--between", "median"])
    cli.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    changes = {line[0]: line[-1] for line in lines if line and line[0] in ("still", "moving", "wild")}
    assert changes == {"still": "+0.0%", "moving": "+100.0%", "wild": "+0.0%"}


def test_a_row_by_two_clocks_has_two_lines_and_one_command() -> None:
    both = replace(row("a", "one", [3.0, 4.0]), clocks=("wall", "processor"))
    found = rows.measure([both], Setting(7, False, Path()))
    entries = results.document(found, OCCASION)["benchmarks"]
    assert [(entry["name"], entry["stats"]["data"]) for entry in entries] == [
        ("a", [6.0, 8.0]),
        ("a-processor", [3.0, 4.0]),
    ]
    assert page(found, OCCASION).count("--only a --seed 7") == 1


# ---- the page ------------------------------------------------------------------------------


def test_the_page_has_every_row() -> None:
    found = measured()
    text = page(found, OCCASION)
    taken = Page(text)
    assert [line[0] for table in taken.tables[:2] for line in table[1:]] == ["still", "moving", "wild"]
    assert taken.tables[0][1][:3] == ["still", "1.15", "1.05 to 1.25"]
    assert taken.tags["svg"] == 2
    assert taken.tags["circle"] == sum(len(one.turns) for one in found)
    assert taken.links == []
    assert "http" not in text.replace("http-equiv", "")
    assert ["processor", "Abacus <1>, 2 of them"] in taken.tables[-1]
    assert ["commit", "0123456789ab, with changes that are not in it"] in taken.tables[-1]
    for name in ("still", "moving", "wild"):
        assert f"python -m benchmarks --only {name} --seed 7" in text
        assert f"beside a &lt; b of {name}" in text
    assert "busy" not in taken.verdict
    for start in (text.index("<svg"), text.rindex("<svg")):
        ET.fromstring(text[start : text.index("</svg>", start) + 6])


def test_the_page_says_that_the_host_was_busy() -> None:
    assert "busy" in Page(page(measured(), replace(OCCASION, load=(5.0, 0.0)))).verdict


@pytest.mark.parametrize(("low", "high"), [(-0.05, 0.06), (-0.1, 1.2), (-3.0, 1.3)])
def test_an_axis_has_few_numbers_and_1_among_them(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1.0 in found
    assert len(found) <= 8
    assert found == sorted(found)
    assert all(10.0**low <= tick <= 10.0**high for tick in found)


# ---- comparing -----------------------------------------------------------------------------


def compared(tmp_path: Path, changed: Mapping[str, Sequence[float]], *given: object) -> Result:
    before, after = save(tmp_path / "before.json", measured()), save(tmp_path / "after.json", measured(changed))
    return invoke("--compare", before, "--found", after, *given)


def test_a_comparison_finds_the_row_that_became_slower_and_no_other(tmp_path: Path) -> None:
    found = compared(tmp_path, {"moving": [2.9, 3.0, 3.1]})
    assert found.exit_code == 1
    told = [line.split() for line in found.output.splitlines() if line.endswith("slower ")]
    assert [(words[0], words[-2]) for words in told] == [("moving", "1.43")]
    assert "3 rows compared: 1 slower beyond the spread, 1 of them by more than 25%; 0 faster" in found.output


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "0 slower beyond the spread, 0 of them by more than 25%; 0 faster"),
        ({"wild": [0.02, 2.0, 400.0]}, "0 slower beyond the spread"),  # twice, and within what it was anyway
        ({"moving": [2.3, 2.31, 2.32]}, "1 slower beyond the spread, 0 of them by more than 25%"),
        ({"moving": [1.0, 1.1, 1.2]}, "0 slower beyond the spread, 0 of them by more than 25%; 1 faster"),
    ],
)
def test_a_comparison_is_content(tmp_path: Path, changed: Mapping[str, Sequence[float]], words: str) -> None:
    found = compared(tmp_path, changed)
    assert found.exit_code == 0, found.output
    assert words in found.output


def test_a_comparison_has_a_threshold(tmp_path: Path) -> None:
    changed = {"moving": [2.3, 2.31, 2.32]}
    assert compared(tmp_path, changed, "--threshold", 0.05).exit_code == 1
    assert compared(tmp_path, changed, "--threshold", 0.15).exit_code == 0


def test_a_comparison_says_what_else_differs(tmp_path: Path) -> None:
    before = save(tmp_path / "before.json", measured())
    text = before.read_text()
    after = tmp_path / "after.json"
    after.write_text(text.replace("Abacus <1>", "Slide rule"))
    found = invoke("--compare", before, "--found", after)
    assert found.exit_code == 0
    assert "not only the code differs: processor: Abacus <1>, now Slide rule" in found.output


def broken(change: Callable[[dict[str, Any]], object]) -> str:
    document = results.document(measured(), OCCASION)
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        broken(lambda document: document["benchmarks"][0].pop("extra_info")),
        broken(lambda document: document["benchmarks"][0]["extra_info"].update(ratios=[])),
        broken(lambda document: document["benchmarks"][0]["extra_info"].update(ratios=[-1.0])),
    ],
)
def test_a_comparison_refuses_what_are_no_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "strange.json"
    path.write_text(text)
    found = invoke("--compare", path, "--found", path)
    assert found.exit_code == 2
    assert "strange.json: expected" in found.output


# ---- the command ---------------------------------------------------------------------------


def test_the_command_measures_writes_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "rows", lambda: [row("a", "one", [1.0, 1.1, 1.2]), row("b", "two", [3.0] * 3)])
    monkeypatch.setattr(fleets, "rows", list)
    first = invoke("--out", tmp_path / "first")
    assert first.exit_code == 0, first.output
    assert {line.split()[0] for line in first.output.splitlines() if line.split()} >= {"a", "b", "seed:", "numpy:"}
    written = json.loads((tmp_path / "first" / "benchmarks.json").read_text())
    assert [entry["name"] for entry in written["benchmarks"]] == ["a", "b"]
    assert written["machine_info"]["versions"]["numpy"].startswith(np.__version__)
    assert len(written["commit_info"]["id"]) in (len("unversioned"), 40)
    Page((tmp_path / "first" / "benchmarks.html").read_text())
    again = invoke("--out", tmp_path / "second", "--compare", tmp_path / "first" / "benchmarks.json", "--only", "two")
    assert again.exit_code == 0, again.output
    assert "1 rows compared: 0 slower" in again.output
    assert invoke("--compare", tmp_path / "none.json").exit_code == 2


def test_what_fails_costs_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ready(setting: Setting) -> Turn:
        raise RuntimeError("2 of 16 peers failed")

    fails = replace(row("start", "fleet", [1.0]), ready=ready)
    monkeypatch.setattr(kernels, "rows", lambda: [fails, row("a", "one", [1.0, 1.1, 1.2])])
    monkeypatch.setattr(fleets, "rows", list)
    found = invoke("--out", tmp_path)
    assert found.exit_code == 1
    assert "not measured: fleet: 2 of 16 peers failed" in found.output
    assert [entry.name for entry in results.read(tmp_path / "benchmarks.json").benchmarks] == ["a"]
    refusal = invoke("--found", tmp_path / "benchmarks.json")
    assert refusal.exit_code == 2
    assert "--found: expected --compare" in refusal.output
