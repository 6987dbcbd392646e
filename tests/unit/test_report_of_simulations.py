"""The page that tells a run of `peer simulate`, or several; and pictures of the links of many agents."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from peer import report, scaling, settings
from peer.errors import ConfigError
from peer.figures import Links, svg
from peer.report import markup
from tests.rundir import write_run
from tests.unit.test_report import Page
from topology import draw, graphs
from topology.graphs import Graph
from topology.schedules import RandomLinks, Static


def simulated(run_dir: Path, graph: str = "", peers: int = 12) -> Path:
    tree = {
        "name": "many",
        "peers": peers,
        "iterations": 20,
        "data": {"dataset": "quadratic", "dimension": 3, "samples": 10 * peers, "test_fraction": 0.0},
        "model": {"hidden": [2]},
        "topology": {"graph": "exponential"},
    }
    scaling.run(settings.from_tree(tree), run_dir, lambda line: None, graph)
    return run_dir


def test_a_run_is_told_with_what_was_seen_of_it(tmp_path: Path) -> None:
    run_dir = simulated(tmp_path / "ours")
    page = Page(report.write(run_dir).read_text(encoding="utf-8"))
    rows = {row[0]: row[1] for row in page.tables[0][1:]}
    assert rows["agents"] == "12"
    assert rows["graph"] == "exponential"
    assert rows["rounds"] == "20"
    with (run_dir / "rounds.csv").open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(rows["objective"]) == pytest.approx(float(last["objective"]), rel=1e-5)
    assert page.tags["svg"] == 4
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "peer simulate experiment.toml --out again" in text
    assert "--graph" not in text
    assert "Finished." in text


def test_several_lie_over_each_other_with_their_numbers(tmp_path: Path) -> None:
    runs = [simulated(tmp_path / "ours"), simulated(tmp_path / "theirs", "random-4")]
    path = report.write(*runs, out=tmp_path / "all.html", numbers=True)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tables[0][0] == ["", "ours", "theirs"]
    assert ["graph", "exponential", "random-4"] in page.tables[0]
    assert "--graph random-4" in path.read_text(encoding="utf-8")
    with (tmp_path / "all" / "disagreement.csv").open(encoding="utf-8", newline="") as file:
        rounds = [(row["curve"], float(row["round n"])) for row in csv.DictReader(file)]
    assert rounds == [(name, n) for name in ("ours", "theirs") for n in (1.0, 2.0, 5.0, 10.0, 20.0)]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [simulated(tmp_path / one / "many") for one in ("a", "b")]
    page = Page(report.write(*runs, out=tmp_path / "all.html").read_text(encoding="utf-8"))
    assert page.tables[0][0] == ["", "a/many", "b/many"]
    assert {page.words["text"].count(name) for name in ("a/many", "b/many")} == {4}
    assert page.words["summary"] == [f"{one}/many: experiment.toml, every setting" for one in ("a", "b")]


def test_one_that_runs_still_is_told_as_far_as_it_is(tmp_path: Path) -> None:
    run_dir = simulated(tmp_path / "ours")
    (run_dir / "simulation.json").unlink()
    text = report.write(run_dir).read_text(encoding="utf-8")
    assert "Not finished: 6 rounds were looked at so far." in text


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    run_dir = simulated(tmp_path / "ours")
    write_run(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"expected runs of one kind: .*ours is of peer simulate, .*theirs of peers"):
        report.write(run_dir, tmp_path / "theirs", out=tmp_path / "all.html")
    for name, text in (("simulation.json", "{"), ("rounds.csv", "round,objective\n1,x\n")):
        (run_dir / name).write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"{name}: expected what `peer simulate` writes, found"):
            report.write(run_dir)


def test_the_links_of_many_agents_are_a_matrix() -> None:
    """A cell in either half for each link, blue where it was up; small, however many links there are."""
    ring = graphs.ring(draw.MOST_DRAWN + 10)
    figure = Links.of_schedule(RandomLinks(ring, 0.02, 7), 1).figure()
    (image,) = (np.asarray(one.get_array()) for one in figure.axes[0].images)
    n, up = ring.n_agents, RandomLinks(ring, 0.02, 7).graph(0).edges
    drawn = {(i, j) for i, j in np.argwhere(image[..., 3] > 0.0).tolist()}
    assert drawn == {pair for i, j in ring.edges for pair in ((i, j), (j, i))}
    blue = {(i, j) for i, j in drawn if np.allclose(image[i, j], to_rgba(draw.UP))}
    assert blue == {pair for i, j in up for pair in ((i, j), (j, i))}
    assert image.shape == (n, n, 4)

    many = graphs.exponential(1500)
    text = svg(Links.of_schedule(Static(many), 1), "links")
    assert len(text) < 300_000
    assert len(re.findall("<image", text)) == 1
    page = Page(markup.page("many", "done", "", [text]))
    assert [link.partition(":")[0] for link in page.links if link[0] != "#"] == ["data"]
    assert "img-src data:" in markup.POLICY


def test_arrows_of_many_agents_go_from_column_to_row() -> None:
    peers = tuple(range(0, 2 * (draw.MOST_DRAWN + 1), 2))
    figure = Links(peers, frozenset({(0, 4)}), frozenset({(0, 4), (2, 0)}), circular=False, arrows=True).figure()
    (image,) = (np.asarray(one.get_array()) for one in figure.axes[0].images)
    assert np.argwhere(image[..., 3] > 0.0).tolist() == [[0, 1], [2, 0]]
    assert figure.axes[0].get_xlabel() == "from"


def test_a_few_agents_are_drawn_with_lines() -> None:
    whole = Graph.of(4, [(0, 1), (1, 2), (2, 3)])
    assert not draw.picture(Static(whole), 3, "path").axes[0].images
    assert draw.picture(Static(graphs.ring(draw.MOST_DRAWN + 1)), 3, "ring").axes[0].images
