"""The page that lays runs side by side: what differs, what repeats, what does not fit together."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context

from peer import figures, overlays, report, settings
from peer.errors import ConfigError
from peer.figures import svg
from peer.files import folder_of
from peer.overlays import Curve, Overlay, Panels
from peer.report import command, courses, variants
from peer.report.comparison import QUANTITIES, Comparison
from peer.report.variants import Layout
from peer.settings import Experiment
from tests.rundir import metrics, write_elastic, write_run
from tests.unit.test_report import CENTRAL, Page, finish, texts


def a_run(folder: Path, directory: str, /, *, over: bool = True, **tree: Any) -> Path:
    """A finished run beside others, of a data set that is named: where it was cut into says nothing."""
    run_dir = folder / directory
    shards = str(run_dir / "shards" / "peer-{id:03d}.npz")
    data = {"dataset": "diabetes", "path": shards, "test_path": str(run_dir / "shards" / "test.npz")}
    write_run(run_dir, data=data | tree.pop("data", {}), **tree)
    if over:
        finish(run_dir, seconds=2.5)
    return run_dir


def layout(*run_dirs: Path) -> Layout:
    return Layout([report.read(run_dir) for run_dir in run_dirs])


def written(out: Path, *run_dirs: Path) -> Page:
    assert report.write(*run_dirs, out=out) == out
    return Page(out.read_text(encoding="utf-8"))


def labels(found: Layout) -> list[tuple[str, list[str]]]:
    return [(task.label, [variant.label for variant in task.variants]) for task in found.tasks]


FULL, PARTIAL = {"kind": "full"}, {"kind": "partial"}


# what differs


def test_seeds_are_one_variant_and_places_and_names_say_nothing(tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path, f"{kind}-{seed}", name=f"{kind}-{seed}", seed=seed, surrogate={"kind": kind})
        for kind in ("partial", "full")
        for seed in (3, 4, 5)
    ]
    found = layout(*runs)
    assert found.different == ["surrogate.kind"]
    assert labels(found) == [("", ["partial", "full"])]
    assert [variant.runs for variant in found.tasks[0].variants] == [(0, 1, 2), (3, 4, 5)]


def test_the_same_again_is_told_apart_by_its_directory(tmp_path: Path) -> None:
    found = layout(a_run(tmp_path, "one"), a_run(tmp_path, "two"))
    assert labels(found) == [("", ["one", "two"])]
    assert found.different == []
    styles = {(variant.color, variant.dashes) for variant in found.tasks[0].variants}
    assert len(styles) == 2


def test_directories_of_one_name_are_called_by_more_of_their_path(tmp_path: Path) -> None:
    assert layout(a_run(tmp_path / "a", "run"), a_run(tmp_path / "b", "run")).names == ["a/run", "b/run"]


def test_methods_by_blocks_on_several_data_sets(tmp_path: Path) -> None:
    """What only follows from the others names nothing, and what a data set needs is no variant of it."""
    chosen = [(FULL, 1, 0.5), (PARTIAL, 1, 0.1), (PARTIAL, 2, 0.1)]
    runs = [
        a_run(
            tmp_path,
            f"{dataset}-{n}",
            data={"dataset": dataset},
            topology={"graph": graph},
            surrogate={**kind, "blocks": blocks},
            step={"rule": "constant", "alpha": alpha},
        )
        for dataset, graph in (("diabetes", "ring"), ("wine", "complete"))
        for n, (kind, blocks, alpha) in enumerate(chosen)
    ]
    found = layout(*runs)
    expected = ["full", "partial, blocks 1", "partial, blocks 2"]
    assert labels(found) == [("diabetes", expected), ("wine", expected)]
    for one, other in zip(*(task.variants for task in found.tasks), strict=True):
        assert (one.color, one.dashes) == (other.color, other.dashes)
    colors = [(variant.color, variant.dashes) for variant in found.tasks[0].variants]
    assert colors == [(0, 0), (1, 0), (1, 1)], "a color a kind, and dashes for blocks"


def test_an_experiment_with_what_differs_is_the_other(tmp_path: Path) -> None:
    """The commands of the page, from the experiment that it shows, come to the experiments of the runs."""
    first = a_run(tmp_path, "first", model={"hidden": []})
    step = {"rule": "diminishing", "alpha": 0.25, "mu": 0.1}
    second = a_run(tmp_path, "second", seed=9, name="it's", model={"hidden": [4, 2]}, step=step, over=False)
    base, other = report.read(first).experiment, report.read(second)
    tree = tomllib.loads(settings.to_toml(variants.portable(base)))
    settings.override(tree, variants.overrides(other, base))
    assert settings.from_tree(tree) == variants.portable(other.experiment)
    told = Comparison([report.read(first), other]).reproduction()
    assert "peer launch experiment.toml --out second" in told


@pytest.mark.parametrize("value", [1, 0.5, True, 'a "b"', [1, [2]], [{"kind": "dense", "width": 3}], float("inf")])
def test_a_value_in_one_line_is_toml(value: object) -> None:
    assert tomllib.loads(f"x = {variants.inline(value)}")["x"] == value


# courses


def test_a_course_is_what_had_been_paid_before_each_round(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=3)
    course = courses.of_run(report.read(tmp_path))
    lines = [[metrics(peer, n) for n in range(3)] for peer in range(3)]
    np.testing.assert_array_equal(course.costs["rounds"], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(course.costs["megabytes"], [0.0, 2e-3, 4e-3])
    np.testing.assert_allclose(course.costs["solving"], [0.0, 0.125, 0.25])
    np.testing.assert_allclose(course.costs["seconds"][1:], [lines[2][n]["time_s"] for n in range(2)])
    np.testing.assert_allclose(course.quantities["objective"], [lines[1][n]["objective_estimate"] for n in range(3)])
    np.testing.assert_allclose(course.quantities["stationarity"], [lines[2][n]["residual"] for n in range(3)])
    assert course.paid["rounds"] == 3.0
    assert course.paid["megabytes"] == pytest.approx(6e-3)


def test_a_clock_that_begins_anew_goes_on() -> None:
    np.testing.assert_allclose(courses.running(np.array([1.0, 2.0, 0.5, 1.5, 0.25])), [1.0, 2.0, 2.5, 3.5, 3.75])


def test_without_rounds_a_course_is_what_was_said_last(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    course = courses.of_run(report.read(tmp_path))
    for name in courses.COSTS:
        assert np.all(np.diff(course.costs[name]) >= 0.0)
    assert course.paid["rounds"] == pytest.approx((6 + 6 + 2) / 3)
    assert all(np.isfinite(values).all() for values in course.quantities.values())


def test_several_runs_have_a_median_as_far_as_all_have_come() -> None:
    at = [np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0, 3.0])]
    values = [np.array([4.0, 2.0, 0.0]), np.array([6.0, 6.0, 6.0]), np.array([5.0, 5.0, 5.0, 9.0])]
    grid, low, middle, high = courses.together(at, values)
    np.testing.assert_array_equal(grid, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(low, [4.0, 2.0, 0.0])
    np.testing.assert_array_equal(middle, [5.0, 5.0, 5.0])
    np.testing.assert_array_equal(high, [6.0, 6.0, 6.0])
    assert all(len(part) == 0 for part in courses.together([at[0], np.zeros(0)], [values[0], np.zeros(0)]))


@pytest.mark.parametrize("n", [1, 2, courses.MOST_POINTS, 100_000])
def test_a_long_course_keeps_its_ends(n: int) -> None:
    kept = courses.thinned(n)
    assert (kept[0], kept[-1]) == (0, n - 1)
    assert len(kept) <= courses.MOST_POINTS
    assert np.all(np.diff(kept) > 0)


# the page


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, "a", surrogate=PARTIAL), a_run(tmp_path, "b", surrogate=FULL)]
    page = written(tmp_path / "all.html", *runs)
    assert page.verdict == "2 runs of 2 experiments. All are finished."
    assert page.tags["svg"] == 15, "objective, stationarity, disagreement and two test metrics against three costs"
    assert not {"script", "link", "img", "iframe", "object"} & page.tags.keys()
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert max(page.ids.values()) == 1
    assert page.words["text"].count("partial") == 15
    assert "nothing to show yet" not in page.words["text"]
    results = page.table("full")
    assert page.tables[0] == [["", "surrogate.kind"], ["partial", "partial"], ["full", "full"]]
    assert results["full"] == ["full"]
    assert "to the end of the last round." in "".join(page.words["p"]), "less than what a summary has"
    assert any("spectral gap" in row[0] for table in page.tables for row in table)


def test_where_the_optimum_is_known_what_is_left_to_it_is_shown(tmp_path: Path) -> None:
    """Runs of one seed share their optimum; on several problems there is a panel for each, and one figure of all."""
    runs = [
        a_run(tmp_path, f"{dataset}-{kind}", data={"dataset": dataset}, surrogate={"kind": kind})
        for dataset in ("diabetes", "wine")
        for kind in ("partial", "full")
    ]
    for run_dir in runs[::2]:
        finish(run_dir, central=CENTRAL)
    comparison = Comparison([report.read(run_dir) for run_dir in runs])
    assert comparison.references == [0.25] * 4
    np.testing.assert_allclose(comparison.values(1, "gap"), comparison.courses[1].quantities["objective"] - 0.25)
    page = written(tmp_path / "all.html", *runs)
    assert page.verdict == "4 runs of 4 experiments on 2 problems. All are finished."
    assert {"diabetes", "wine"} <= set(page.words["h3"])
    for title in ("diabetes", "wine"):
        assert title in page.words["text"]
    first = comparison.pictures[0][1][0]
    assert isinstance(first.drawing, Panels)
    assert [[panel.x for panel in row] for row in first.drawing.rows] == [["round n"] * 2, ["solving (s)"] * 2]
    assert {panel.y for row in first.drawing.rows for panel in row} == {QUANTITIES["gap"]}


def test_runs_that_track_nothing_are_not_beside_residuals(tmp_path: Path) -> None:
    """Of such a run that is finished the table has the residual, of one that is not it has none."""
    kinds = ("next", "gradient-tracking", "extra", "d-psgd")
    runs = [a_run(tmp_path, kind, method={"kind": kind}, over=kind not in ("extra", "next")) for kind in kinds]
    comparison = Comparison([report.read(run_dir) for run_dir in runs])
    ((_, pictures),) = comparison.pictures
    (found,) = (one for one in pictures if one.name == "stationarity-rounds")
    assert isinstance(found.drawing, Overlay)
    assert [curve.label for curve in found.drawing.curves] == ["next", "gradient-tracking"]
    assert found.caption.endswith("Without extra; d-psgd: nothing is tracked there, and no peer knows it.")
    assert all("Without" not in one.caption for one in pictures if not one.name.startswith("stationarity"))
    page = written(tmp_path / "all.html", *runs)
    rows = next(table for table in page.tables if "stationarity" in table[0])
    told = {row[0]: row[rows[0].index("stationarity")] for row in rows[1:]}
    assert told["extra"] == "-"
    assert "-" not in {told[kind] for kind in kinds if kind != "extra"}
    none = Comparison([report.read(run_dir) for run_dir in runs[2:]])
    assert none.quantities(none.layout.tasks[0]) == ["objective", "disagreement"]


def test_another_seed_has_another_optimum(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, f"{seed}", seed=seed) for seed in (1, 2)]
    finish(runs[0], central=CENTRAL)
    assert Comparison([report.read(run_dir) for run_dir in runs]).references == [0.25, None]


def test_runs_that_do_not_fit_together_have_a_sensible_page(tmp_path: Path) -> None:
    """One without rounds, one that has only begun, one of which peers are missing, and one of another problem."""
    one, begun, partly, other = (tmp_path / name for name in ("elastic", "begun", "partly", "other"))
    write_elastic(one)
    write_run(begun, n_rounds=0, ended=None)
    write_run(partly)
    for path in folder_of(partly, 1).iterdir():
        path.unlink()
    write_run(other, objective={"loss": "huber"})
    page = written(tmp_path / "all.html", one, begun, partly, other)
    assert page.verdict.startswith("4 runs of 4 experiments on ")
    states = {row[0]: row[-1] for table in page.tables for row in table if row[0] in ("begun", "partly", "other")}
    assert states["begun"].startswith("Not finished: 0 of 4 rounds")
    others = "the others have all done 4 of 4 rounds. There are no final results here."
    assert states["partly"] == f"Not finished: Nothing of peer 1 is in this directory; {others}"


def test_a_seed_that_has_only_begun_hides_no_other(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, "1", seed=1), a_run(tmp_path, "2", seed=2, n_rounds=0, ended=None, over=False)]
    comparison = Comparison([report.read(run_dir) for run_dir in runs])
    (curve,) = comparison.overlay(comparison.layout.tasks[0], "objective", "rounds").curves
    assert (curve.n_runs, len(curve.at)) == (1, 4)
    assert comparison.verdict()[1] == "2 runs of 1 experiment. 1 not finished yet."


def test_of_a_run_with_missing_peers_the_others_are_told(tmp_path: Path) -> None:
    write_run(tmp_path)
    for path in folder_of(tmp_path, 1).iterdir():
        path.unlink()
    page = Page(report.write(tmp_path).read_text(encoding="utf-8"))
    assert "Nothing of peer 1 is in this directory" in page.verdict
    assert page.table("rounds done by all who are here")["rounds done by all who are here"] == ["4 of 4"]
    assert page.tags["svg"] == 6
    assert "no round yet" not in page.words["text"]


# files


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, as its header has them."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_the_numbers_beside_a_page_are_those_of_the_metrics(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path)
    report.write(tmp_path, png=True, numbers=True)
    folder = tmp_path / "report"
    names = {"objective", "stationarity", "disagreement", "sent", "time", "links"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("csv", "png")}
    lines = [
        [json.loads(line) for line in (folder_of(tmp_path, peer) / "metrics.jsonl").read_text().splitlines()]
        for peer in range(3)
    ]
    for name, key in (
        ("objective", "objective_estimate"),
        ("stationarity", "residual"),
        ("disagreement", "disagreement"),
    ):
        head, *rows = table(folder / f"{name}.csv")
        assert len(head) == 4
        assert [row[0] for row in rows] == ["0", "1", "2", "3"]
        assert [[float(cell) for cell in row[1:]] for row in rows] == [
            [lines[i][n][key] for i in range(3)] for n in range(4)
        ]
    assert table(folder / "links.csv")[1:] == [["0", "1", "1"], ["0", "2", "1"], ["1", "2", "1"]]
    assert all(size_of(path)[0] == 1020 for path in folder.glob("*.png")), "3.4 inches of 300 dots"


def test_the_numbers_of_several_runs_are_those_of_their_courses(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, f"{seed}", seed=seed) for seed in (1, 2)]
    comparison = Comparison([report.read(run_dir) for run_dir in runs])
    drawing = next(one.drawing for one in comparison.pictures[0][1] if one.name == "objective-rounds")
    head, rows = drawing.numbers()
    rows = list(rows)
    assert list(head[:4]) == ["panel", "curve", "runs", "round n"]
    course = courses.of_run(report.read(runs[0]))
    assert [row[3] for row in rows] == [0.0, 1.0, 2.0, 3.0]
    for column in (4, 5, 6):
        assert [row[column] for row in rows] == course.quantities["objective"].tolist()
    assert {row[2] for row in rows} == {2}


@pytest.mark.parametrize("out", ["all.png", "all", "nowhere/all.html"])
def test_a_page_that_cannot_be_is_refused(tmp_path: Path, out: str) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError) as refused:
        report.write(tmp_path / "a", out=tmp_path / out)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("out", ["a/peers.html", "a.html", "sweep.html"])
def test_pictures_do_not_go_among_runs(tmp_path: Path, out: str) -> None:
    for directory in ("a", "sweep/tau=1"):
        write_run(tmp_path / directory)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected another name"):
        report.write(tmp_path / "a", out=tmp_path / out)


def test_cells_of_a_sweep_without_a_run_are_left_out(tmp_path: Path) -> None:
    """Of one that was interrupted, or whose cell could not start."""
    for name in ("tau=1", "tau=2", "tau=3"):
        write_run(tmp_path / name)
    (tmp_path / "sweep.json").write_text("{}")
    for name in ("tau=4", "tau=5"):
        (tmp_path / name).mkdir()
    (tmp_path / "tau=5" / "failure.json").write_text('{"code": 2, "line": "no"}')
    said: list[str] = []
    cells = [tmp_path / f"tau={n}" for n in range(1, 6)]
    *_, page = command.run(cells, tmp_path / "all.html", False, False, False, said.append)
    assert page.exists()
    assert said == [f"peer report: {cells[n]} has not begun, and is left out" for n in (3, 4)]
    with pytest.raises(ConfigError, match=r"found no experiment\.toml"):
        command.run([tmp_path / "elsewhere"], None, False, False, False, said.append)


def test_a_run_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="found this one twice"):
        report.write(tmp_path / "a", tmp_path / "." / "a", out=tmp_path / "all.html")


# figures


def curve(label: str, ends: float, *values: float, n: int = 0) -> Curve:
    shown = np.array(values)
    return Curve(label, n, 0, np.linspace(0.0, ends, len(shown)), shown, shown, shown, 1)


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("values", [[], [0.0], [1.0, 1e-9], [np.nan, np.inf], [-1.0, 2.0], [1e-320, 1e308]])
def test_whatever_runs_come_to_has_a_figure(values: list[float], points: bool) -> None:
    found = texts(svg(Overlay("x", "y", [curve("a", 1.0, *values), curve("b", 50.0, *values)], points), "f"))
    if np.isfinite(values).any():
        assert {"x", "y", "a", "b"} <= set(found)


def test_what_rounding_leaves_below_an_optimum_takes_no_logarithm_away() -> None:
    """A gap that falls over decades to 0, but for rounding, and one that stays above it."""
    falling = Overlay("x", "y", [curve("a", 2.0, 1.0, 1e-8, -1e-17), curve("b", 2.0, 1.0, 0.5, 0.1)])
    assert falling.is_log
    assert {"10⁻⁸", "10⁻⁶"} <= set(texts(svg(falling, "f")))
    assert not Overlay("x", "y", [curve("a", 1.0, -1.0, 2.0)]).is_log
    with rc_context(figures.STYLE):
        (line,) = Overlay("x", "y", [curve("a", 3.0, 1.0, 0.1, -0.01, 0.05)]).figure().axes[0].get_lines()
    assert np.asarray(line.get_xydata()).tolist() == [[0.0, 1.0], [1.0, 0.1], [3.0, 0.05]]


@pytest.mark.parametrize("name", ["_low run", r"x$\b$y", "$1$"])
def test_a_run_of_any_name_is_in_the_legend(name: str) -> None:
    found = texts(svg(Overlay("x", "y", [curve("a", 1.0, 3, 2), curve(name, 2.0, 3, 2)]), "f"))
    assert name in [text.removeprefix("\u200b") for text in found]


def test_costs_that_differ_much_are_on_a_logarithmic_axis() -> None:
    near, far = (
        texts(svg(Overlay("x", "y", [curve("a", 1.0, 3, 2), curve("b", end, 3, 2)]), "f")) for end in (2.0, 99.0)
    )
    assert "10⁰" in far
    assert "10⁰" not in near


def test_legends_fit_into_their_figure() -> None:
    for n, letters in ((1, 3), (12, 24), (30, 60)):
        labels = ["w" * letters] * n
        n_columns = overlays.columns(labels, figures.WIDTH_IN)
        assert 1 <= n_columns <= n
    assert overlays.columns(["a"] * 12, overlays.WIDE_IN) > overlays.columns(["a"] * 12, figures.WIDTH_IN) > 1


def test_five_panels_have_two_rows_each() -> None:
    panels = [Overlay("x", "y", [curve("a", 1.0, 3, 2)], title=f"set {n}") for n in range(5)]
    found = texts(svg(Panels([panels[:4], panels[:4], panels[4:], panels[4:]]), "f"))
    assert [word for word in found if word.startswith("set")] == [f"set {n}" for n in range(5)]
    assert found.count("a") == 1


def test_the_experiment_of_a_page_is_one() -> None:
    assert variants.portable(Experiment()) == Experiment()
