"""`python -m topology`: what it prints, writes and refuses."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from topology import draw, graphs
from topology.__main__ import main
from topology.graphs import Graph
from topology.outlets import InStep, Outlets
from topology.places import Point, positions
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Schedule, Static, load, make
from topology.weights import Weights


def run(line: str) -> Result:
    """The command line, with anything that is no orderly end passed on to the test."""
    result = CliRunner().invoke(main, shlex.split(line))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def printed(line: str) -> str:
    result = run(line)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def rows(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in text.splitlines():
        name, value = re.split(r"\s{2,}", row, maxsplit=1)
        assert found.setdefault(name, value) == value
    return found


def refused(line: str) -> str:
    result = run(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("topology: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("topology: ").strip()


# show and save


def test_show_prints_one_period() -> None:
    assert printed("show --graph ring --peers 4") == '{"n": 0, "edges": [[0, 1], [0, 3], [1, 2], [2, 3]]}\n'
    assert printed("show --schedule one-peer-exponential --peers 4").splitlines() == [
        '{"n": 0, "edges": [[0, 1], [2, 3]]}',
        '{"n": 1, "edges": [[0, 2], [1, 3]]}',
    ]
    assert printed("show --schedule matchings --rounds 17").count("\n") == 17


def test_defaults_are_those_of_the_experiment_file(tmp_path: Path) -> None:
    for name in ("static", "random-links", "matchings"):
        for graph in ("erdos-renyi", "geometric"):
            path = tmp_path / f"{name}-{graph}.jsonl"
            assert printed(f"save --schedule {name} --graph {graph} --out {path}") == ""
            expected = make(name, graph, 8, probability=0.3, radius=0.5, link_probability=0.5, path=None, seed=7)
            saved = load(path, 8)
            assert saved.period == (expected.period or 300)
            assert all(saved.graph(n) == expected.graph(n) for n in range(300))
    assert '"n": 0' in printed("show")
    assert printed("show") == (tmp_path / "static-erdos-renyi.jsonl").read_text()


def test_every_option_arrives() -> None:
    text = printed("show --graph erdos-renyi --peers 9 --probability 0.7 --seed 3 --schedule random-links "
                   "--link-probability 0.2 --rounds 5")  # fmt: skip
    expected = RandomLinks(graphs.erdos_renyi(9, 0.7, 3), 0.2, 3)
    assert text == "".join(line + "\n" for line in draw_lines(expected, 5))
    text = printed("show --graph geometric --peers 9 --radius 0.8 --seed 3")
    assert text == "".join(line + "\n" for line in draw_lines(Static(graphs.geometric(9, 0.8, 3)), 1))


def draw_lines(schedule: Schedule, n_rounds: int) -> list[str]:
    def listed(n: int) -> str:
        return "[" + ", ".join(f"[{i}, {j}]" for i, j in sorted(schedule.graph(n).edges)) + "]"

    return [f'{{"n": {n}, "edges": {listed(n)}}}' for n in range(n_rounds)]


def test_a_saved_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    options = "--schedule random-links --graph complete --peers 5 --rounds 12"
    assert printed(f"save {options} --out {path}") == ""
    assert printed(f"show {options}") == printed(f"show --schedule file --file {path} --peers 5")


# check


def test_check_of_a_static_graph() -> None:
    found = rows(printed("check --graph star --peers 5"))
    assert found["schedule"] == "static on star"
    assert found["agents"] == "5"
    assert found["period"] == "1"
    assert found["links"] == "4"
    assert found["degrees"] == "min 1, mean 1.60, max 4"
    assert found["window"].startswith("1 ")
    assert found["mixing rate"].startswith("0.800000 ")  # eigenvalues of C: 1, 4/5 three times, 0
    assert not any(name.endswith("in a round") for name in found)


@pytest.mark.parametrize(("consensus", "rate"), [("plain", 2 / 3 * 2 / 3), ("chebyshev", 1 / (2 * (5 / 3) ** 2 - 1))])
def test_check_of_several_exchanges_a_round(consensus: str, rate: float) -> None:
    """A ring of 6 has the eigenvalues -1/3, 0 and 2/3 beside 1."""
    found = rows(printed(f"check --graph ring --peers 6 --steps 2 --consensus {consensus}"))
    assert found["mixing rate"].startswith("0.666667 ")
    assert float(found[f"of 2, {consensus}"].split()[0]) == pytest.approx(rate, abs=1e-6)
    assert not any(name.startswith("of ") for name in rows(printed("check --graph ring --peers 6")))


def test_check_refuses_a_polynomial_where_there_is_none() -> None:
    assert "expected a static schedule" in refused("check --schedule matchings --steps 2 --consensus chebyshev")
    assert "expected one of plain, chebyshev" in refused("check --consensus fast")
    assert "expected without --directed" in refused("check --directed --graph ring --steps 2")


@pytest.mark.parametrize(("weights", "rate"), [("max-degree", 4 / 5), ("lazy-metropolis", 9 / 10), ("fdla", 2 / 3)])
def test_check_with_other_weights(weights: str, rate: float) -> None:
    found = rows(printed(f"check --graph star --peers 5 --weights {weights}"))
    assert float(found["mixing rate"].split()[0]) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("--weights heavy", "weights 'heavy': expected one of metropolis, max-degree, lazy-metropolis, fdla"),
        ("--weights fdla --schedule matchings", "weights 'fdla': expected a static schedule, for which they are comp"),
        ("--weights fdla --directed --graph ring", "--weights fdla: expected without --directed, where weights need"),
    ],
)
def test_weights_that_do_not_fit(options: str, found: str) -> None:
    assert refused(f"check {options}").startswith(found)


def test_check_of_changing_links() -> None:
    found = rows(printed("check --schedule one-peer-exponential --peers 8"))
    assert found["schedule"] == "one-peer-exponential"
    assert found["period"] == "3"
    assert found["links"] == "12"
    assert found["degrees"] == "min 3, mean 3.00, max 3"
    assert found["links in a round"] == "min 4, mean 4.00, max 4"
    assert found["degrees in a round"] == "min 1, mean 1.00, max 1"
    assert found["window"].startswith("3 ")
    assert found["mixing rate"].startswith("0.000")


def test_check_without_period() -> None:
    found = rows(printed("check --schedule matchings --graph ring --peers 5 --rounds 40"))
    assert found["period"] == "none (looked at 40 rounds)"
    assert found["links in a round"] == "min 2, mean 2.00, max 2"
    assert found["degrees in a round"] == "min 0, mean 0.80, max 1"


def test_check_says_that_a_run_is_shorter_than_the_period(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    printed(f"save --schedule random-links --graph complete --peers 4 --rounds 30 --out {path}")
    checked = f"check --schedule file --file {path} --peers 4 --rounds"
    assert rows(printed(f"{checked} 29"))["period"] == "30 (looked at 29 rounds)"
    assert rows(printed(f"{checked} 30"))["period"] == "30"


def test_check_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ring.jsonl"
    printed(f"save --graph ring --peers 3 --out {path}")
    assert rows(printed(f"check --schedule file --file {path} --peers 3"))["schedule"] == "file ring.jsonl"


# links with a direction


def test_directed_lines_are_saved_and_read_again(tmp_path: Path) -> None:
    assert printed("show --directed --graph ring --peers 3") == '{"n": 0, "arcs": [[0, 1], [1, 2], [2, 0]]}\n'
    path = tmp_path / "arcs.jsonl"
    options = "--directed --schedule random-links --graph exponential --peers 5 --rounds 12"
    assert printed(f"save {options} --out {path}") == ""
    assert path.read_text().count("\n") == 12
    assert printed(f"show {options}") == path.read_text()
    assert printed(f"show --directed --schedule file --file {path} --peers 5") == path.read_text()


def test_every_option_arrives_with_directions() -> None:
    text = printed("show --directed --graph erdos-renyi --peers 9 --probability 0.3 --seed 3 --schedule random-links "
                   "--link-probability 0.2 --rounds 5")  # fmt: skip
    outlets = Outlets("random-links", "erdos-renyi", True, 0.3, 0.5, 0.2, 3)
    assert text == "".join(line + "\n" for line in InStep(outlets, 9).lines(5))


def test_check_of_links_with_a_direction() -> None:
    found = rows(printed("check --directed --graph ring --peers 5"))
    assert found["schedule"] == "static on ring, directed"
    assert found["arcs"] == "5"
    assert found["out-neighbors"] == found["in-neighbors"] == "min 1, mean 1.00, max 1"
    assert found["strongly connected"].startswith("1 ")
    assert "pushes in a waking" not in found
    found = rows(printed("check --directed --schedule one-peer-exponential --peers 8"))
    assert (found["period"], found["arcs"]) == ("3", "24")
    assert found["pushes in a waking"] == "min 1, mean 1.00, max 1"
    found = rows(printed("check --directed --schedule matchings --graph star --peers 4 --rounds 40"))
    assert found["period"] == "none (looked at 40 wakings)"
    assert found["in-neighbors"] == "min 1, mean 1.50, max 3"
    assert int(found["strongly connected"].split()[0]) >= 3, "the center pushes to one at a time"


def test_a_file_with_arcs_needs_directions(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    path.write_text('{"n": 0, "edges": [[0, 1]]}\n{"n": 1, "arcs": [[1, 2], [2, 0]]}\n')
    asked = f"check --peers 3 --schedule file --file {path}"
    assert refused(asked) == f'{path}, line 2: "arcs": links with a direction need mode = "async"; rounds have "edges"'
    assert rows(printed(f"{asked} --directed"))["strongly connected"].startswith("2 ")
    path.write_text('{"n": 0, "arcs": [[0, 1], [1, 2]]}\n')
    assert refused(f"{asked} --directed") == (
        "the union of all wakings falls apart into 3 strongly connected components: {0}, {1}, {2}"
    )


# refusals


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("check --graph complete --peers 3 --schedule random-links --link-probability 0",
         "the union of all rounds falls apart into 3 components: {0}, {1}, {2}"),
        ("check --consensus chebyshev", "--consensus chebyshev: expected --steps 2 or more"),
        ("check --graph torus", "graph 'torus': expected one of ring, "),
        ("show --schedule gossip", "schedule 'gossip': expected one of static, "),
        ("show --probability 2", "probability 2.0: expected a number in [0, 1]"),
        ("show --peers 0", "peers 0: expected at least 1"),
        ("show --peers 100001", "Invalid value for '--peers': 100001 is not in the range x<=100000."),
        ("show --peers eight", "Invalid value for '--peers': 'eight' is not a valid integer"),
        ("show --rounds 0", "Invalid value for '--rounds': 0 is not in the range x>=1."),
        ("show --colour blue", "No such option '--colour'."),
        ("tell", "No such command 'tell'."),
        ("--peers 3", "No such option '--peers'."),
        ("save", "Missing option '--out'."),
        ("check --schedule file", "schedule 'file': expected the path of a schedule file, found none"),
        ("check --schedule file --file nowhere.jsonl", "nowhere.jsonl: cannot read the schedule: No such file"),
        ("check --file a.jsonl", "--file a.jsonl: expected together with --schedule file, found --schedule static"),
        ("save --out no/where.jsonl", "no/where.jsonl: cannot write the schedule: No such file or directory"),
        ("draw --out no/where.png", "no/where.png: cannot write the picture: No such file or directory"),
        ("draw --out picture.bmp", "picture.bmp: expected the name of a picture, ending in .png, .svg, .pdf"),
        ("draw --out picture", "picture: expected the name of a picture"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line(line: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(line).startswith(problem)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "links.jsonl"
    path.write_text('{"n": 0, "edges": [[0, 1]]}\n{"n": 1, "edges": [[0, 8]]}\n')
    assert refused(f"check --schedule file --file {path}") == (
        f"{path}, line 2: edge [0, 8]: expected two different peers in 0..7"
    )


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topology.__main__.mixing_rate", lambda schedule, n_rounds, weights: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("check")


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(schedule: Schedule, n_rounds: int, weights: Weights) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("topology.__main__.mixing_rate", interrupted)
    assert run("check").exit_code == 130


# the process


def test_as_a_process() -> None:
    command = [sys.executable, "-W", "error", "-m", "topology", "check", "--graph", "erdos-renyi", "--probability", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"topology: the union of all rounds falls apart into 8 components: .*\n", done.stderr)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['matplotlib'] = None; from topology.__main__ import main; main()"
    path = tmp_path / "picture.png"
    command = [sys.executable, "-c", program, "draw", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "topology: draw needs matplotlib: pip install 'next-peer[report]'\n"
    assert not path.exists()


@pytest.mark.parametrize("command", ["show", "check", "draw", "save"])
def test_help_has_an_example_that_works(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^ +python -m topology (.*)$", printed(f"{command} --help"), flags=re.MULTILINE)
    assert examples
    assert examples[0].startswith(command)
    for example in examples:
        printed(example)
    assert len(list(tmp_path.iterdir())) == (command in ("draw", "save"))


def test_without_a_command_help_is_printed() -> None:
    text = printed("")
    assert text == printed("--help")
    assert all(f"\n  {command} " in text for command in ("show", "check", "draw", "save"))


# pictures


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("A.PDF", b"%PDF")])
def test_draw_writes_the_format_of_the_name(name: str, magic: bytes, tmp_path: Path) -> None:
    assert printed(f"draw --graph ring --out {tmp_path / name}") == ""
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_names_of_files_are_no_formulas(tmp_path: Path) -> None:
    printed(f"save --graph ring --peers 3 --out {tmp_path}/a$\\b$.jsonl")
    assert printed(f"draw --schedule file --file {tmp_path}/a$\\b$.jsonl --peers 3 --out {tmp_path}/a.png") == ""


def links(figure: Figure, color: str) -> list[int]:
    """Number of links of a color in every panel."""

    def drawn(axes: Axes) -> Iterator[int]:
        for artist in axes.collections:
            if isinstance(artist, LineCollection) and np.allclose(np.asarray(artist.get_edgecolor()), to_rgba(color)):
                yield len(artist.get_segments())

    return [sum(drawn(axes)) for axes in figure.axes]


def test_static_is_one_panel() -> None:
    figure = draw.picture(Static(graphs.star(7)), 300, "star")
    assert links(figure, draw.UP) == [6]
    assert links(figure, draw.IDLE) == [0]
    assert [text.get_text() for text in figure.axes[0].texts] == list("0123456")
    assert figure.get_suptitle() == "star   ·   7 agents, 6 links"


def test_changing_links_get_small_multiples() -> None:
    schedule = RandomLinks(graphs.grid(12), 0.5, 7)
    figure = draw.picture(schedule, 300, "grid")
    up = [len(schedule.graph(n).edges) for n in range(draw.ROUNDS)]
    assert links(figure, draw.UP) == [17, *up]
    assert links(figure, draw.IDLE) == [0, *(17 - n_up for n_up in up)]
    assert figure.axes[0].get_title() == "all links of 300 rounds"
    assert figure.axes[1].get_title() == f"round 0: {up[0]} links up"


def test_a_short_run_shows_the_links_it_never_used() -> None:
    schedule = Matchings(graphs.complete(6), 7)
    figure = draw.picture(schedule, 2, "complete")
    n_used = len(schedule.graph(0).edges | schedule.graph(1).edges)
    assert links(figure, draw.UP) == [n_used, 3, 3]
    assert links(figure, draw.IDLE) == [15 - n_used, 12, 12]


def heads(figure: Figure, color: str) -> list[list[Point]]:
    """Tips of the arrows of a color in every panel."""

    def tips(axes: Axes) -> Iterator[Point]:
        for artist in axes.collections:
            if isinstance(artist, PolyCollection) and np.allclose(np.asarray(artist.get_facecolor()), to_rgba(color)):
                yield from (tuple(np.asarray(corners.vertices)[0].tolist()) for corners in artist.get_paths())

    return [list(tips(axes)) for axes in figure.axes]


def test_arrows_point_to_those_that_are_pushed_to() -> None:
    schedule = InStep(Outlets("static", "ring", directed=True), 5)
    figure = draw.picture(schedule, 300, "ring")
    assert links(figure, draw.UP) == [5]
    assert figure.get_suptitle() == "ring   ·   5 agents, 5 arcs"
    points = positions(graphs.ring(5))
    arcs = [(i, (i + 1) % 5) for i in range(5)]
    (tips,) = heads(figure, draw.UP)
    assert len(tips) == 5
    for (i, j), tip in zip(arcs, tips, strict=True):
        assert math.dist(tip, points[j]) < math.dist(tip, points[i])
        assert math.dist(tip, points[i]) + math.dist(tip, points[j]) == pytest.approx(math.dist(points[i], points[j]))


def test_arrows_change_with_the_wakings() -> None:
    schedule = InStep(Outlets("random-links", "grid", seed=7), 12)
    figure = draw.picture(schedule, 300, "grid")
    up = [len(schedule.graph(n).arcs) for n in range(draw.ROUNDS)]
    assert links(figure, draw.UP) == [34, *up]
    assert links(figure, draw.IDLE) == [0, *(34 - n_up for n_up in up)]
    assert [len(tips) for tips in heads(figure, draw.UP)] == [34, *up]
    assert [len(tips) for tips in heads(figure, draw.IDLE)] == [0] * 7, "small drawings have none on idle links"
    assert figure.axes[0].get_title() == "all arcs of 300 wakings"
    assert figure.axes[1].get_title() == f"waking 0: {up[0]} arcs up"
    hops = draw.picture(InStep(Outlets("one-peer-exponential", "ring"), 8), 300, "hops")
    assert hops.axes[0].get_title() == "all arcs of the 3 wakings that repeat"


def test_links_without_a_direction_have_no_arrows() -> None:
    assert heads(draw.picture(Static(graphs.ring(5)), 1, "ring"), draw.UP) == [[]]


def test_a_period_is_named() -> None:
    figure = draw.picture(OnePeerExponential(8), 300, "one-peer")
    assert figure.axes[0].get_title() == "all links of the 3 rounds that repeat"
    assert len(figure.axes) == 4


@pytest.mark.parametrize("n_agents", [1, 2, 7, 61])
def test_every_agent_is_drawn(n_agents: int) -> None:
    figure = draw.picture(Static(graphs.ring(n_agents)), 1, "ring")
    (dots,) = (artist for artist in figure.axes[0].collections if isinstance(artist, PathCollection))
    assert len(dots.get_offsets()) == n_agents  # type: ignore[arg-type]
    assert len(figure.axes[0].texts) == (n_agents if n_agents <= draw.NAMED else 0)


@pytest.mark.parametrize("name", ["ring", "exponential", "complete"])
def test_what_turns_into_itself_is_drawn_on_a_circle(name: str) -> None:
    points = positions(graphs.family(name, 9, probability=0.3, radius=0.5, seed=0))
    assert [math.hypot(*points[i]) for i in range(9)] == pytest.approx([1.0] * 9)
    assert points[0] == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(
    "graph",
    [graphs.grid(12), graphs.star(6), graphs.grid(7), graphs.erdos_renyi(10, 0.3, 1), Graph.of(6, [(0, 1), (3, 4)])],
    ids=["grid", "star", "path", "erdos-renyi", "disconnected"],
)
def test_other_graphs_fill_the_square_without_collisions(graph: Graph) -> None:
    points = positions(graph)
    assert list(points) == list(range(graph.n_agents))
    assert max(abs(value) for point in points.values() for value in point) == pytest.approx(1.0)
    apart = [math.dist(points[i], points[j]) for i in points for j in points if i < j]
    assert min(apart) > 0.15
