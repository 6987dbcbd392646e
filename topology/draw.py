"""Pictures of schedules. The only file of the package that needs matplotlib (the extra `report`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from topology.graphs import Edge, Graph, PeerId, TopologyError
from topology.outlets import InStep
from topology.places import Point, positions
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Schedule, rounds_to_show
from topology.windows import union

PICTURES: Final = (".png", ".svg", ".pdf")
"""Name endings, hence formats, that `draw` writes."""

ROUNDS: Final = 6
"""First rounds shown beside the union: as many as keep their links readable on a page."""

NAMED: Final = 60
"""Agents up to which the circles of the union have room for a number."""

MOST_DRAWN: Final = 150
"""Agents up to which links are drawn as lines; of more nobody could follow one, and a matrix shows more."""

CELLS: Final = 500
"""Rows and columns of such a matrix, at most: where there are more agents, a cell stands for several."""

HEAD, HEAD_AT = 0.05, 0.6
"""Length of an arrow's head, in a picture from -1 to 1, as much as is free between two neighbors in a ring of 60; and
where on its way it begins."""

FLATTEST: Final = 0.4
"""Least height of a drawing relative to its width: a path would leave no room for the headings."""

# The palette of Okabe and Ito, told apart with every kind of color vision and in gray.
UP: Final = "#0072B2"
IDLE: Final = "#B9BEC3"
INK: Final = "#22272B"
PAPER: Final = "#FFFFFF"


def draw(schedule: Schedule | InStep, n_rounds: int, path: Path, title: str) -> None:
    """Draw the union of all links and, if they change, the first rounds beside it.

    Parameters
    ----------
    schedule : Schedule or InStep
        Who meets whom, or who pushes to whom.
    n_rounds : int
        Length of the run.
    path : Path
        Picture to write; its ending chooses the format.
    title : str
        First words of the heading.

    Raises
    ------
    TopologyError
        No such format, or the picture cannot be written.
    """
    if path.suffix.lower() not in PICTURES:
        raise TopologyError(f"{path}: expected the name of a picture, ending in {', '.join(PICTURES)}")
    figure = picture(schedule, n_rounds, title)
    try:
        figure.savefig(path, dpi=200, facecolor=PAPER)
    except OSError as error:
        raise TopologyError(f"{path}: cannot write the picture: {error.strerror}") from error


def picture(schedule: Schedule | InStep, n_rounds: int, title: str) -> Figure:
    """The figure that `draw` writes."""
    if isinstance(schedule, InStep):
        link, unit, arrows = "arc", "waking", True
        rounds = schedule.shown(n_rounds)
        whole: frozenset[Edge] = schedule.union(n_rounds).arcs
        possible = schedule.links.arcs
        ups: list[frozenset[Edge]] = [schedule.graph(n).arcs for n in rounds[:ROUNDS]]
        circular = schedule.outlets.schedule == "one-peer-exponential"
    else:
        link, unit, arrows = "link", "round", False
        rounds = rounds_to_show(schedule, n_rounds)
        together = union(schedule, n_rounds)
        whole, possible = together.edges, ground(schedule, together).edges
        ups = [schedule.graph(n).edges for n in rounds[:ROUNDS]]
        circular = isinstance(schedule, OnePeerExponential)
    points = places(Graph.of(schedule.n_agents, possible), circular=circular)
    heading = f"{title}   ·   {_count(schedule.n_agents, 'agent')}, {_count(len(whole), link)}"
    margins = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    height = max(FLATTEST, max(y for _, y in points.values()))
    if len(rounds) == 1:
        figure = Figure(figsize=(6.4, 0.8 + 6.0 * height), layout=margins)
        panel(figure.add_subplot(), points, up=whole, idle=possible - whole, large=True, arrows=arrows)
    else:
        n_columns = math.ceil(len(ups) / 2)
        figure = Figure(figsize=(5.6 + 2.8 * n_columns, 1.2 + 5.6 * height), layout=margins)
        cells = figure.add_gridspec(2, 2 + n_columns)
        axes = figure.add_subplot(cells[:, :2])
        panel(axes, points, up=whole, idle=possible - whole, large=True, arrows=arrows)
        repeats = schedule.period is not None and schedule.period <= n_rounds
        extent = f"the {len(rounds)} {unit}s that repeat" if repeats else _count(len(rounds), unit)
        axes.set_title(f"all {link}s of {extent}", color=INK, fontsize=11)
        for n, up in enumerate(ups):
            axes = figure.add_subplot(cells[n // n_columns, 2 + n % n_columns])
            panel(axes, points, up=up, idle=possible - up, large=False, arrows=arrows)
            axes.set_title(f"{unit} {n}: {_count(len(up), link)} up", color=INK, fontsize=9)
    figure.suptitle(heading, color=INK, fontsize=13, parse_math=False)  # files may have names with dollars
    return figure


def places(graph: Graph, *, circular: bool) -> Mapping[PeerId, Point]:
    """Where agents are drawn; of more than MOST_DRAWN no line is, and it does not matter."""
    return positions(graph, circular=circular or graph.n_agents > MOST_DRAWN)


def panel(
    axes: Axes,
    points: Mapping[PeerId, Point],
    *,
    up: Iterable[Edge],
    idle: Iterable[Edge],
    large: bool,
    arrows: bool = False,
) -> None:
    """Draw agents at these points, with the links that are up and those that are idle; numbered if it is large.

    Of more than MOST_DRAWN agents a `matrix`, whatever the points are.

    Heads of arrows are on the way, beyond its middle, so that the two of a pair, and those of many links to one
    agent, do not hide each other. A small drawing has none on idle links.
    """
    if len(points) > MOST_DRAWN:
        matrix(axes, list(points), up=up, idle=idle, arrows=arrows)
        return
    many = len(points) > NAMED
    for edges, color, width in ((idle, IDLE, 0.8), (up, UP, 1.4 if large else 2.0)):
        segments = [(points[i], points[j]) for i, j in sorted(edges)]
        axes.add_collection(LineCollection(segments, colors=color, linewidths=width / 2 if many else width, zorder=1))
        if arrows and (large or color == UP):
            length = HEAD * (1 if large else 2) * min(1.0, NAMED / len(points))
            heads = [_head(start, end, length) for start, end in segments]
            axes.add_collection(PolyCollection(heads, facecolors=color, edgecolors="none", zorder=1))
    x, y = zip(*points.values(), strict=True)
    named = large and not many
    size = 260 * min(1.0, 20 / len(points)) if named else min(40.0, 1200 / len(points))
    axes.scatter(
        x,
        y,
        s=size,
        color=PAPER if named else INK,
        edgecolors=INK,
        linewidths=1.2 if named else 0.0,
        zorder=2,
        clip_on=False,
    )
    if named:
        for i, point in points.items():
            axes.annotate(str(i), point, ha="center", va="center_baseline", fontsize=0.5 * math.sqrt(size), color=INK)
    height = max(FLATTEST, max(y))
    axes.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-0.1 - height, 0.1 + height))
    axes.set_axis_off()


def matrix(
    axes: Axes, agents: Sequence[PeerId], *, up: Iterable[Edge], idle: Iterable[Edge], arrows: bool = False
) -> None:
    """Draw links as cells of a matrix, a row and a column for each agent; with a direction from column to row."""
    n, cells = len(agents), min(len(agents), CELLS)
    cell = {agent: k * cells // n for k, agent in enumerate(agents)}
    image = np.zeros((cells, cells, 4))
    for edges, color in ((idle, IDLE), (up, UP)):
        ends = np.array([(cell[i], cell[j]) for i, j in edges], dtype=np.intp).reshape(-1, 2)
        for column, row in (ends.T,) if arrows else (ends.T, ends.T[::-1]):
            image[row, column] = to_rgba(color)
    axes.imshow(image, interpolation="nearest", extent=(-0.5, n - 0.5, n - 0.5, -0.5))
    axes.set(xlabel="from" if arrows else "agent", ylabel="to" if arrows else "agent")
    axes.grid(visible=False)


def ground(schedule: Schedule, whole: Graph) -> Graph:
    """Every link that may ever be up, for a layout that does not depend on the length of the run."""
    return schedule.base if isinstance(schedule, (RandomLinks, Matchings)) else whole


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _head(start: Point, end: Point, length: float) -> list[Point]:
    """Corners of the head of an arrow."""
    x, y = (a + HEAD_AT * (b - a) for a, b in zip(start, end, strict=True))
    apart = math.dist(start, end)
    u, v = (end[0] - start[0]) * length / apart, (end[1] - start[1]) * length / apart
    return [(x + u, y + v), (x - 0.45 * v, y + 0.45 * u), (x + 0.45 * v, y - 0.45 * u)]
