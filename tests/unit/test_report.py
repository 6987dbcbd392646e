"""The page that tells a run."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context

from peer import figures, journal, report, summary
from peer.errors import ConfigError
from peer.figures import STYLE, Curves, Risks
from peer.files import folder_of
from tests.rundir import SAMPLES, change, rewrite, stop_early, write_elastic, write_run
from topology import schedules
from topology.draw import INK, PAPER
from topology.graphs import Graph
from topology.schedules import Replay

EMPTY = {"meta", "link", "img", "br"}
"""Elements of HTML that have no end."""


class Page(HTMLParser):
    """A page taken apart; asserts that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    @property
    def verdict(self) -> str:
        """The sentence below the title."""
        return self.words["p"][0]

    def table(self, first: str) -> dict[str, list[str]]:
        """The rows of the table whose first row begins with this cell or that has such a row, by their names."""
        found = next(table for table in self.tables if any(row[0] == first for row in table))
        return {row[0]: [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row[1:]] for row in found}


def page(run_dir: Path) -> Page:
    path = report.write(run_dir)
    assert path == run_dir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def finish(run_dir: Path, **more: Any) -> None:
    found = summary.of_run(report.experiment_of(run_dir), run_dir) | more
    summary.write(found, run_dir / "summary.json")


CENTRAL = {"objective": 0.25, "stationarity": 1e-9, "seconds": 0.5, "test": {"rmse": 0.75, "r2": 0.5}}


# finished runs


def test_a_run_that_stopped_early(tmp_path: Path) -> None:
    write_run(tmp_path)
    stop_early(tmp_path)
    assert page(tmp_path).verdict == "3 peers finished 4 rounds; they have not been summarized."
    finish(tmp_path, seconds=2.5)
    early = "They stopped before round 90, for all agreed to be within the tolerance."
    assert page(tmp_path).verdict == f"3 peers finished 4 rounds in 2.5 s. {early}"


def test_a_finished_run(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path, seconds=2.5, objective=0.5, central=CENTRAL)
    found = page(tmp_path)
    assert found.words["title"] == ["tiny: report of next-peer"]
    assert (
        found.verdict == "3 peers finished 4 rounds in 2.5 s. Their objective is 1 (relative) above central training."
    )
    results = found.table("objective")
    assert results[""] == ["consensus of the peers", "trained centrally"]
    assert results["objective"] == ["0.5", "0.25"]
    assert results["test rmse"][1] == "0.7500"
    assert results["time (s)"] == ["2.5", "0.5"]
    assert results["sent"] == ["24.0 kB", "-"]
    peers = found.table("peer")
    assert [peers[str(peer)][0] for peer in range(3)] == list(map(str, SAMPLES))
    assert peers["1"][3:] == ["0.50", "0.50", "8.0 kB", "8.0 kB", "3 stale", "done"]
    assert peers["2"][7:] == ["none", "done"]
    network = found.table("schedule")
    assert network["schedule"] == ["static on ring"]
    assert network["links"] == ["3"]
    assert network["connectivity window"] == ["1 round"]
    assert network["weights"] == ["metropolis"]
    assert network["mixing rate"] == ["0.000000 a round"]
    assert found.table("numpy")["numpy"] == [np.__version__]
    assert 'tau = "auto"' in "".join(found.words["code"]), "the experiment with its defaults"


def test_of_a_linearized_network_the_results_say_so(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path)
    assert "are those of" not in "".join(page(tmp_path).words["p"])
    finish(tmp_path, regime={"kind": "neural-tangent", "of": "the network linearized at initial.npz"})
    said = "Objective, stationarity and test are those of the network linearized at initial.npz."
    assert said in "".join(page(tmp_path).words["p"])


def test_a_run_with_several_exchanges_a_round(tmp_path: Path) -> None:
    """A ring of 3 agrees at once; links that come and go are those of all exchanges."""
    write_run(tmp_path, topology={"graph": "ring", "consensus_steps": 3, "consensus": "chebyshev"})
    finish(tmp_path)
    network = page(tmp_path).table("schedule")
    assert network["exchanges a round"] == ["3, chebyshev"]
    assert network["connectivity window"] == ["1 exchange"]
    assert network["mixing rate"] == ["0.000000 a round"]


def test_without_central_training_there_is_one_column(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path)
    found = page(tmp_path)
    assert found.table("objective")[""] == ["consensus of the peers"]
    assert "central" not in found.verdict
    assert "central" not in found.words["text"]


def test_hidden_shards_are_told(tmp_path: Path) -> None:
    write_run(tmp_path)
    for name in ("peer-000", "peer-001"):
        (tmp_path / "shards" / f"{name}.npz").unlink()
    finish(tmp_path)
    found = page(tmp_path)
    assert found.table("objective")["stationarity"] == ["-"]
    assert any("only those of peer 2 could be seen here" in words for words in found.words["p"])


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path)
    assert report.write(tmp_path).read_bytes() == report.write(tmp_path).read_bytes()
    assert sorted(path.name for path in tmp_path.glob("report*")) == ["report.html"]


def test_the_page_needs_nothing_outside_it(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path, central=CENTRAL)
    found = page(tmp_path)
    assert found.tags["svg"] == 6
    assert not {"script", "link", "img", "iframe", "object"} & found.tags.keys()
    assert found.links, "figures use their own markers"
    assert all(link[0] == "#" and link[1:] in found.ids for link in found.links)
    assert max(found.ids.values()) == 1
    text = (tmp_path / "report.html").read_text()
    used = re.findall(r"url\((.*?)\)", text)
    assert used
    assert all(place[0] == "#" and place[1:] in found.ids for place in used)
    assert "@import" not in text


def test_names_of_a_run_are_text(tmp_path: Path) -> None:
    name = '<script>alert("1")<&\'>'
    write_run(tmp_path, name=name, software={"<b>": "<i>1&2</i>"}, ended=4)
    change(folder_of(tmp_path, 1) / "log.jsonl", problem="<img src=x>")
    change(folder_of(tmp_path, 1) / "metrics.jsonl", dropped={"<u>": 1})
    found = page(tmp_path)
    assert found.words["h1"] == [name]
    assert not {"script", "img", "u", "i"} & found.tags.keys()
    assert "<b>" in found.table("<b>")
    assert found.table("<b>")["<b>"] == ["<i>1&2</i>"]


# runs that have not come to their end


def test_a_running_run_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=3, ended=None)
    path = folder_of(tmp_path, 1) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    found = page(tmp_path)
    assert found.verdict == "Not finished: 2 of 4 rounds are done by all; there are no final results yet."
    so_far = found.table("rounds done by all")
    assert so_far["rounds done by all"] == ["2 of 4"]
    assert so_far["objective estimate, median"] == ["1.001"]
    assert so_far["stationarity residual, largest"] == ["3.00e-01"]
    assert so_far["sent"] == ["16.0 kB"]
    peers = found.table("peer")
    assert [peers[str(peer)][1] for peer in range(3)] == ["3", "2", "3"]
    assert peers["0"][-1] == "running, or killed"
    assert peers["peer"][2] == "objective estimate"


UNTRACKED = ("gradient-descent", "d-psgd", "choco", "exact-diffusion", "extra")


@pytest.mark.parametrize("kind", [*UNTRACKED, "gradient-tracking", "next"])
def test_where_nothing_is_tracked_no_residual_is_told(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, n_rounds=3, ended=None, method={"kind": kind})
    found = page(tmp_path)
    known = kind not in UNTRACKED
    residual = found.table("rounds done by all")["stationarity residual, largest"]
    assert residual == (["3.00e-02"] if known else ["-"])
    assert ("Stationarity." in found.words["b"], "Change." in found.words["b"]) == (known, not known)
    assert any("with its tracker y" in said for said in found.words["figcaption"]) is known
    assert any(f"With {kind} nothing is tracked" in said for said in found.words["figcaption"]) is not known


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=0, ended=None)
    for peer in (1, 2):
        for path in folder_of(tmp_path, peer).iterdir():
            path.unlink()
    found = page(tmp_path)
    assert found.verdict == "Not finished: 0 of 4 rounds are done by all; there are no final results yet."
    assert found.words["text"].count("no round yet") == 4
    assert [found.table("peer")[str(peer)][-1] for peer in range(3)] == ["running, or killed"] + ["not seen yet"] * 2


@pytest.mark.parametrize(("codes", "cause"), [((3, 4, 3), 1), ((130, 130, 3), 2), ((0, 3, 130), 1), ((2, 3, 2), 0)])
def test_of_a_run_that_failed_the_cause_is_named(tmp_path: Path, codes: tuple[int, ...], cause: int) -> None:
    write_run(tmp_path, ended=1)
    for peer, code in enumerate(codes):
        change(folder_of(tmp_path, peer) / "log.jsonl", code=code, problem=f"problem {peer}")
    found = page(tmp_path)
    assert found.verdict.startswith(
        f"Not finished: peer {cause} ended with exit code {codes[cause]} (problem {cause})."
    )
    for peer, code in enumerate(codes):
        assert found.table("peer")[str(peer)][-1] == ("done" if code == 0 else f"ended with exit code {code}")


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((130, 130, None), "peer 2 did not end by itself (running, or killed); peers 0, 1 were told to stop."),
        ((None, 130, None), "peers 0, 2 did not end by themselves (running, or killed); peer 1 was told to stop."),
        ((0, 130, None), "peer 2 did not end by itself (running, or killed); peer 1 was told to stop."),
        ((130, 3, None), "peer 1 ended with exit code 3 (problem 1)."),
        ((130, 130, 130), "peer 0 ended with exit code 130 (problem 0)."),
    ],
)
def test_who_was_told_to_stop_is_not_the_cause_where_another_was_killed(
    tmp_path: Path, codes: tuple[int | None, ...], said: str
) -> None:
    write_run(tmp_path, ended=1)
    for peer, code in enumerate(codes):
        log = folder_of(tmp_path, peer) / "log.jsonl"
        if code is None:
            rewrite(log, "")
        else:
            change(log, code=code, problem=f"problem {peer}")
    progress = "4 of 4 rounds are done by all; there are no final results yet."
    assert page(tmp_path).verdict == f"Not finished: {said} {progress}"


def test_one_that_has_not_begun_here_was_not_killed_here(tmp_path: Path) -> None:
    write_run(tmp_path, ended=130)
    for path in folder_of(tmp_path, 2).iterdir():
        path.unlink()
    assert page(tmp_path).verdict.startswith("Not finished: peer 0 ended with exit code 130 (as told).")


def test_numbers_that_broke_down_are_no_obstacle(tmp_path: Path) -> None:
    write_run(tmp_path, ended=4)
    for peer, value in enumerate((float("nan"), float("inf"), 0.0)):
        path = folder_of(tmp_path, peer) / "metrics.jsonl"
        change(path, residual=value, objective_estimate=value, disagreement=value)
    found = page(tmp_path)
    assert found.table("peer")["0"][2] == "nan"
    assert found.tags["svg"] == 6


# what is repeated


def test_the_command_names_what_is_there(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert report.repeating(report.read(tmp_path)) == (
        "peer launch experiment.toml --out again --set 'transport.addresses=[]' "
        "--set 'data.path=shards/peer-{id:03d}.npz' --set data.test_path=shards/test.npz"
    )


def test_a_schedule_from_a_file_is_read_from_its_copy(tmp_path: Path) -> None:
    topology = {"schedule": "file", "path": str(tmp_path / "gone.jsonl")}
    write_run(tmp_path, topology=topology)
    replay = Replay(3, (Graph.of(3, [(0, 1)]), Graph.of(3, [(1, 2)])))
    schedules.save(replay, 4, tmp_path / "schedule.jsonl")
    found = page(tmp_path)
    assert found.table("schedule")["links"] == ["2"]
    assert found.table("schedule")["connectivity window"] == ["2 rounds"]
    assert report.repeating(report.read(tmp_path)).endswith(" --set topology.path=schedule.jsonl")


def test_links_without_rounds_have_a_direction(tmp_path: Path) -> None:
    topology = {"schedule": "file", "path": str(tmp_path / "gone.jsonl")}
    write_run(tmp_path, topology=topology, run={"mode": "async"})
    (tmp_path / "schedule.jsonl").write_text('{"n": 0, "arcs": [[0, 1], [0, 2]]}\n{"n": 1, "arcs": [[2, 1], [1, 0]]}\n')
    found = page(tmp_path)
    network = found.table("schedule")
    assert network["schedule"] == ["file"]
    assert network["links, each of one direction"] == ["4"]
    assert network["neighbors that a peer pushes to"] == ["1 to 2"]
    assert network["neighbors that push to a peer"] == ["1 to 2"]
    assert network["wakings until strongly connected"] == ["2"]
    assert "mixing rate" not in network


# without rounds


def test_a_run_without_rounds(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    finish(tmp_path, seconds=2.5)
    found = page(tmp_path)
    assert found.verdict == (
        "3 peers finished 4 wakings or more each in 2.5 s. By then peer 2 had gone and peer 8 had come."
    )
    assert any("members at the end, 0, 1, 8: their data" in words for words in found.words["p"])
    peers = found.table("peer")
    assert peers["peer"][1] == "wakings"
    assert {peer: row[1] for peer, row in peers.items()} == {"peer": "wakings", "0": "6", "1": "6", "2": "2", "8": "2"}
    assert {peer: row[-1] for peer, row in peers.items() if peer != "peer"} == dict.fromkeys("018", "done") | {
        "2": "lost"
    }
    assert peers["2"][2] == "-", "it has no final parameters"
    epochs = found.table("13.0")
    assert epochs["time (s)"] == ["I", "members", "came", "went", "samples M", "opened by"]
    assert epochs["3.0"] == ["3", "0 to 2", "-", "-", "12", "3"]
    assert epochs["6.0"] == ["2", "0, 1", "-", "2", "8", "2"]
    assert epochs["13.0"] == ["3", "0, 1, 8", "8", "-", "14", "3"]
    assert "time (s)" in found.words["text"]
    assert "round n" not in found.words["text"]
    assert found.table("schedule")["links, each of one direction"] == ["6"], "a ring of the members"
    assert not any("identical parameters" in words for words in found.words["p"])


def test_a_running_one_counts_from_the_last_change(tmp_path: Path) -> None:
    write_elastic(tmp_path, ended=None)
    path = folder_of(tmp_path, 8) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    found = page(tmp_path)
    assert found.verdict == (
        "Not finished: 1 of 4 wakings are done by all since members changed last; there are no final results yet."
    )
    so_far = found.table("wakings done by all")
    assert so_far["time (s)"] == ["13.8"]
    assert so_far["objective estimate, median"] == [f"{2 / 5 + 0.001:.6g}"], "of peers 0, 1 and 8 at that waking"
    assert found.table("peer")["2"][-1] == "lost"


def test_one_that_left_says_so_and_the_others_are_not_held_for_failed(tmp_path: Path) -> None:
    write_elastic(tmp_path, ended=None)
    log = journal.Journal(folder_of(tmp_path, 2), behind=0)
    log.event("end", 9.0, code=130, problem="interrupted")
    log.close()
    found = page(tmp_path)
    assert found.table("peer")["2"][-1] == "left"
    assert found.verdict.startswith("Not finished: 2 of 4 wakings")


def test_the_summary_says_whom_the_page_is_of(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    finish(tmp_path)
    log = journal.Journal(folder_of(tmp_path, 2), behind=0)
    log.event("start", 0.0, n=2, clock_s=1100.0, samples=4)
    log.event("epoch", 1.0, n=2, epoch=90, members=[2], samples=4)
    log.close()
    found = page(tmp_path)
    assert found.verdict.startswith("3 peers finished"), "what came after it is in the table of epochs only"
    assert found.table("101.0")["101.0"][1] == "2"


def test_before_the_first_epoch_there_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=0, ended=None, run={"mode": "async"})
    found = page(tmp_path)
    assert found.verdict == "Not finished: 0 of 4 wakings are done by all; there are no final results yet."
    assert found.words["text"].count("no waking yet") == 4


# refusals


def no_experiment(run_dir: Path) -> Path:
    (run_dir / "experiment.toml").unlink()
    return run_dir


def bad_experiment(run_dir: Path) -> Path:
    path = run_dir / "experiment.toml"
    path.write_text("peers = ")
    return path


def bad_metrics(run_dir: Path) -> Path:
    path = folder_of(run_dir, 2) / "metrics.jsonl"
    rewrite(path, "{}\n")
    return path


def bad_summary(run_dir: Path) -> Path:
    path = run_dir / "summary.json"
    path.write_text('{"seconds": 1}')
    return path


def torn_summary(run_dir: Path) -> Path:
    path = run_dir / "summary.json"
    path.write_text('{"seconds": ')
    return path


def no_place(run_dir: Path) -> Path:
    path = run_dir / "report.html"
    path.mkdir()
    return path


@pytest.mark.parametrize("damage", [no_experiment, bad_experiment, bad_metrics, bad_summary, torn_summary, no_place])
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], Path]) -> None:
    write_run(tmp_path)
    path = damage(tmp_path)
    with pytest.raises(ConfigError) as refused:
        report.write(tmp_path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, ended=None)
    program = "import sys; sys.modules['matplotlib'] = None; from peer.__main__ import main; main()"
    # it would wait for ever if it looked for matplotlib only afterwards
    command = [sys.executable, "-c", program, "report", str(tmp_path), "--wait"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "peer: report: needs matplotlib: pip install 'next-peer[report]'\n"


# figures


def svg(text: str) -> ET.Element:
    """A figure that stands alone."""
    return ET.fromstring(text)


def texts(text: str) -> list[str]:
    return [element.text or "" for element in svg(text).iter("{http://www.w3.org/2000/svg}text")]


def test_few_peers_have_names_and_many_a_median() -> None:
    def series(n_peers: int) -> dict[int, np.ndarray[Any, Any]]:
        return {peer: np.array([3.0, 2.0, 1.0]) + peer for peer in range(n_peers)}

    few, many = texts(Curves("y", series(figures.FEW)).svg("a")), texts(Curves("y", series(64), reference=1.0).svg("a"))
    assert [word for word in few if word.startswith("peer")] == [f"peer {peer}" for peer in range(figures.FEW)]
    assert not any(word.startswith("peer") for word in many)
    assert {"median", "all peers", "central"} <= set(many)
    assert "round n" in few


@pytest.mark.parametrize("n_peers", [1, 30])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[0.0], [1.0], [0.0, 0.0], [0.0, 1.0], [1e-320, 1e308], [-1.0, 2.0], [np.nan, np.inf]]
)
def test_every_series_has_a_figure(n_peers: int, log: bool, values: list[float]) -> None:
    found = texts(Curves("y", dict.fromkeys(range(n_peers), np.array(values)), log).svg("a"))
    assert "y" in found


def test_risks_have_a_line_a_regime_and_a_name_for_each_kind_of_point(tmp_path: Path) -> None:
    at = np.array([0.0, 0.5, 1.0])
    limits = {"lazy": (at, 1.0 - at), "full": (at, (1.0 - at) ** 2)}
    one = {"lazy": (np.array([0.5]), np.array([0.45]))}
    kinds = {"best, drawn neurons", "run"}
    for given, shown in (((), set()), ((one,), {"best, drawn neurons"}), ((one, one), kinds)):
        found = Risks("risk", limits, *given)
        words = set(texts(found.svg("a")))
        assert {"risk", "neurons a dimension, N/d", "lazy", "full"} <= words
        assert words & kinds == shown
    for name in ("risks.svg", "risks.png"):
        found.write(tmp_path / name)
    assert "lazy" in (tmp_path / "risks.svg").read_text()
    assert (tmp_path / "risks.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected the name of a picture"):
        found.write(tmp_path / "risks.txt")


def test_zeros_have_no_logarithm() -> None:
    assert "0 in every round" in texts(Curves("y", {0: np.zeros(3)}, log=True).svg("a"))
    found = texts(Curves("y", {0: np.array([1.0, 0.0, 1e-4])}, log=True).svg("a"))
    assert {"10⁰", "10⁻⁴"} <= set(found)


@pytest.mark.parametrize("reference", [2e-3, 0.07, 3.0, 9.0, 2e4])
@pytest.mark.parametrize("log", [False, True])
def test_what_is_compared_with_is_within_the_axes(reference: float, log: bool) -> None:
    with rc_context(STYLE):
        figure = Curves("y", {0: np.array([2.9, 0.23])}, log, reference).figure()
        figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    assert low < reference < high


def test_a_long_line_keeps_its_ends_and_peaks() -> None:
    values = np.sin(np.arange(100_000) / 7.0)
    values[77_777] = 9.0
    values[5] = np.nan
    n, kept = figures.thinned(values)
    assert len(n) <= 2 * figures.MOST_POINTS + 2
    assert (n[0], n[-1]) == (0, 99_999)
    assert np.all(np.diff(n) > 0)
    assert kept.max() == 9.0
    np.testing.assert_array_equal(kept, values[n.astype(int)])
    short = np.array([1.0, np.nan, 3.0])
    np.testing.assert_array_equal(figures.thinned(short), ([0.0, 2.0], [1.0, 3.0]))


def test_the_spread_is_of_rounds_that_all_have_done() -> None:
    nan = np.nan
    n, low, middle, high = figures.spread([np.array([1.0, nan, 3.0, 9.0]), np.array([2.0, nan, nan]), np.full(3, 4.0)])
    np.testing.assert_array_equal(n, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(low, [1.0, 4.0, 3.0])
    np.testing.assert_array_equal(middle, [2.0, 4.0, 3.5])
    np.testing.assert_array_equal(high, [4.0, 4.0, 4.0])
    n, low, _, high = figures.spread([np.arange(50_000.0), np.full(60_000, 7.0)])
    assert len(n) <= figures.MOST_POINTS
    assert (low.min(), high.max()) == (0.0, 49_999.0)


def test_where_those_ahead_alone_have_values_none_is_shown() -> None:
    ahead = {0: np.array([0.0, 2.0, 1.0]), **{peer: np.zeros(1) for peer in range(1, 9)}}
    for log in (False, True):
        assert Curves("y", ahead, log=log).svg("a")
    assert [len(part) for part in figures.spread([np.array([np.nan, 1.0]), np.full(1, np.nan)])] == [0] * 4


def test_the_spread_in_time_is_of_all_wakings_about_it() -> None:
    nan = np.nan
    series = [np.array([1.0, nan, 3.0, 5.0]), np.array([7.0, 9.0])]
    times = [np.array([0.0, 0.1, 2.0, 4.0]), np.array([0.2, 3.9])]
    at, low, middle, high = figures.spread_in_time(series, times)
    np.testing.assert_allclose(at, [0.5, 2.5, 3.5])
    np.testing.assert_array_equal(low, [1.0, 3.0, 5.0])
    np.testing.assert_array_equal(middle, [4.0, 3.0, 7.0])
    np.testing.assert_array_equal(high, [7.0, 3.0, 9.0])
    at, low, _, high = figures.spread_in_time([np.arange(50_000.0)] * 2, [np.arange(50_000.0)] * 2)
    assert len(at) == figures.MOST_POINTS
    assert (low.min(), high.max()) == (0.0, 49_999.0)
    assert len(figures.spread_in_time([np.array([2.0])] * 9, [np.array([1.0])] * 9)[0]) == 1


@pytest.mark.parametrize("n_peers", [2, 30])
def test_lines_against_time_are_interrupted_where_a_peer_was_away(n_peers: int) -> None:
    values = dict.fromkeys(range(n_peers), np.array([3.0, 2.0, 1.5, 1.0]))
    times = dict.fromkeys(range(n_peers), np.array([0.0, 1.0, 50.0, 51.0]))

    def lines(breaks: dict[int, list[int]]) -> int:
        text = Curves("y", values, times=times, marks=[50.0], breaks=breaks).svg("a")
        assert "time (s)" in texts(text)
        return text.count(f"stroke: {figures.BLUE}")

    assert lines({0: [0, 2]}) - lines({0: [0]}) == (n_peers <= figures.FEW)


def test_every_color_has_one_for_dark_backgrounds(tmp_path: Path) -> None:
    write_run(tmp_path)
    finish(tmp_path, central=CENTRAL)
    text = report.write(tmp_path).read_text()
    used = {color.lower() for color in re.findall(r"(?:fill|stroke): (#\w+)[;\"]", text)}
    assert used
    assert used <= {*figures.ON_DARK, figures.ORANGE}
    for color in used - {figures.ORANGE}:
        assert f'[style*="stroke: {color}"]' in text


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_lines_and_text_stand_out_from_both_backgrounds() -> None:
    paper = PAPER.lower()
    for color, _ in figures.LINES:
        assert contrast(color, paper) >= 3.0
        assert contrast(figures.ON_DARK[color], figures.ON_DARK[paper]) >= 3.0
    ink = INK.lower()
    assert contrast(ink, paper) >= 7.0
    assert contrast(figures.ON_DARK[ink], figures.ON_DARK[paper]) >= 7.0


def test_figures_stand_alone_with_a_transparent_background() -> None:
    text = Curves("y", {0: np.array([1.0, 2.0])}).svg("name")
    root = svg(text)
    assert root.get("width") is None
    assert root.get("viewBox") is not None
    first = next(root.iter("{http://www.w3.org/2000/svg}path"))
    assert first.get("style") == "fill: none"
    assert all(element.attrib["id"].startswith("name-") for element in root.iter() if "id" in element.attrib)
