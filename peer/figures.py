"""The figures of a report, as SVG for a page or as pictures for a paper. Imports matplotlib; never in a peer.

In a page backgrounds are transparent and text stays text. All colors are written out, so that a figure can be
taken out of its page; `dark` are the rules by which the page changes them on a dark background.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from peer.arrays import Vector
from topology import Graph, Outlets, PeerId, Schedule
from topology.draw import IDLE, INK, PAPER, PICTURES, ground, panel, places
from topology.graphs import Edge
from topology.outlets import Arc
from topology.schedules import OnePeerExponential
from topology.windows import union

WIDTH_IN: Final = 3.4
"""Of a figure, in inches: a column of a paper in two columns. With 8 pt text a telephone shows it well, too."""

HEIGHT_IN: Final = 2.35
"""Of a figure whose legend has one row."""

ROW_IN: Final = 0.14
"""Height of one more row of a legend."""

DOTS_AN_INCH: Final = 300
"""Of pictures in pixels: what journals ask for."""

FEW: Final = 8
"""Peers up to which each has a line and a name in the legend; of more, the median and the range are shown."""

MOST_POINTS: Final = 400
"""Bins a line is thinned to, each with its least and greatest value: no screen and no column shows more."""

MANY_TIMES: Final = 5.0
"""A positive quantity that has fallen by this factor is shown on a logarithmic axis: the end would be flat else."""

GREATEST: Final = 1e200
"""Value that is drawn; what is beyond is drawn there, since matplotlib's margins would overflow."""

COLUMNS: Final = 4
"""Of a legend with the names of peers."""

# The palette of Okabe and Ito: what reaches 3 to 1 on white as lines, and orange for areas.
BLUE: Final = "#0072b2"
VERMILION: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#b8558c"  # theirs, darker: #cc79a7 is too pale for thin lines
ORANGE: Final = "#e69f00"

LINES: Final = tuple((color, dashes) for dashes in ("-", (0, (4, 1.5))) for color in (BLUE, VERMILION, GREEN, PURPLE))
"""Color and dashes of each of FEW peers."""

ON_DARK: Final[Mapping[str, str]] = {
    INK.lower(): "#e6e9ec",
    PAPER.lower(): "#15191d",
    IDLE.lower(): "#4a5259",
    BLUE: "#56b4e9",
    VERMILION: "#f58a45",
    GREEN: "#2fc99b",
    PURPLE: "#e38fc0",
}
"""What the colors become on a dark background."""

STYLE: Final[Any] = {  # its keys are a type of their own in each version of matplotlib
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, and is wide: what fits, fits in other fonts
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.labelspacing": 0.25,
    "legend.handletextpad": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "next-peer",  # the same report from the same run
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": IDLE,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # runs and files may have names with dollars
}
"""Matplotlib's parameters."""

Numbers = tuple[Sequence[str], Iterable[Sequence[object]]]
"""What a figure shows, as the heads and the rows of a table."""


class Drawing(Protocol):
    """A figure, and the numbers behind it."""

    def figure(self) -> Figure:
        """The figure itself, to be made within the parameters STYLE."""
        ...

    def numbers(self) -> Numbers:
        """What it shows, all of it and as it was measured."""
        ...


def svg(drawing: Drawing, name: str) -> str:
    """A figure as an element of a page; `name` keeps its ids apart from those of other figures there."""
    with rc_context(STYLE):
        return _svg(drawing.figure(), name)


def write(drawing: Drawing, path: Path) -> None:
    """Write a picture, the ending of whose name says the format: .svg, .png or .pdf; .png with DOTS_AN_INCH.

    Raises
    ------
    ValueError
        No such format.
    OSError
        It cannot be written.
    """
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"{path}: expected the name of a picture, ending in {', '.join(PICTURES)}")
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with rc_context(STYLE):
        drawing.figure().savefig(path, dpi=DOTS_AN_INCH, facecolor=PAPER, metadata=metadata)


@final
@dataclass(frozen=True)
class Curves:
    """What a figure shows by round, or by time: a line a peer, or of many the median and the range.

    Parameters
    ----------
    label : str
        Of the vertical axis, with the unit.
    series : dict of int to Vector
        Values at rounds 0, 1, ... by peer; a peer may be behind.
    log : bool
        Whether the axis is logarithmic. Zeros, which it cannot show, are left out.
    reference : float or None
        Value to compare with, drawn across.
    times : dict of int to Vector or None
        Without rounds: when each value was, in seconds, by peer.
    marks : sequence of float
        Times to mark.
    breaks : dict of int to sequence of int
        Values with which a line begins anew, by peer: it was away before.
    """

    label: str
    series: Mapping[int, Vector]
    log: bool = False
    reference: float | None = None
    times: Mapping[int, Vector] | None = None
    marks: Sequence[float] = ()
    breaks: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def svg(self, name: str) -> str:
        """The figure as an element of a page, see `svg`."""
        return svg(self, name)

    def figure(self) -> Figure:
        """The figure."""
        names = len(self.series) + (self.reference is not None) if len(self.series) <= FEW else 3
        figure, axes = empty(legend_rows(names, COLUMNS))
        axes.set(xlabel="round n" if self.times is None else "time (s)", ylabel=self.label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=self.times is None, steps=[1, 2, 5, 10]))
        series = {peer: self._drawable(values) for peer, values in self.series.items()}
        if not any(np.isfinite(values).any() for values in series.values()):
            unit = "round" if self.times is None else "waking"
            _say(axes, f"0 in every {unit}" if self.series else f"no {unit} yet")
            return figure
        for mark in self.marks:
            axes.axvline(mark, color=INK, linewidth=0.5, linestyle=(0, (4, 4)))
        if len(self.series) <= FEW:
            _lines(axes, series, self.times, self.breaks)
        else:
            _band(axes, spread(list(series.values())) if self.times is None else _over(series, self.times))
        if self.reference is not None:
            axes.axhline(self.reference, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)), label="central")
        name_all(figure, axes, COLUMNS)
        if self.log:
            reference = self._drawable(np.array([math.nan if self.reference is None else self.reference]))
            logarithmic(axes, np.concatenate([*series.values(), reference]))
        else:
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 6))
        return figure

    def numbers(self) -> Numbers:
        """Every value: a row a round and a column a peer; without rounds a row a waking of a peer, with its time."""
        if self.times is not None:
            rows = [
                (peer, n, self.times[peer][n], value)
                for peer, values in self.series.items()
                for n, value in enumerate(values.tolist())
            ]
            return ["peer", "waking", "time (s)", self.label], rows
        n_rounds = max(map(len, self.series.values()), default=0)
        columns = [[*values.tolist(), *[""] * (n_rounds - len(values))] for values in self.series.values()]
        heads = ["round n", *(f"{self.label}, peer {peer}" for peer in self.series)]
        return heads, zip(range(n_rounds), *columns, strict=True)

    def _drawable(self, values: Vector) -> Vector:
        low = 1.0 / GREATEST if self.log else -GREATEST
        shown = np.isfinite(values) & ((values > 0.0) | (not self.log))
        return np.where(shown, np.clip(values, low, GREATEST), np.nan)


@final
@dataclass(frozen=True)
class Risks:
    """What networks reach with so many neurons a dimension: theory as lines, each name with a color of its own.

    Parameters
    ----------
    label : str
        Of the vertical axis.
    limits : dict of str to (Vector, Vector)
        N/d and risk as d tends to infinity, by name: lines.
    drawn : dict of str to (Vector, Vector)
        The best of networks with drawn neurons: rings.
    runs : dict of str to (Vector, Vector)
        What runs came to: dots.
    """

    label: str
    limits: Mapping[str, tuple[Vector, Vector]]
    drawn: Mapping[str, tuple[Vector, Vector]] = field(default_factory=dict)
    runs: Mapping[str, tuple[Vector, Vector]] = field(default_factory=dict)

    def svg(self, name: str) -> str:
        """The figure as an element of a page, see `svg`."""
        return svg(self, name)

    def write(self, path: Path) -> None:
        """Write a picture, see `write`."""
        write(self, path)

    def figure(self) -> Figure:
        """The figure."""
        n_names = len(self.limits) + bool(self.drawn) + bool(self.runs)
        figure, axes = empty(legend_rows(n_names, 3))
        axes.set(xlabel="neurons a dimension, N/d", ylabel=self.label)
        dot: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linestyle": ""}
        ring: dict[str, Any] = {**dot, "fillstyle": "none"}
        for (name, (at, risk)), (color, dashes) in zip(self.limits.items(), LINES, strict=False):
            axes.plot(at, risk, color=color, linestyle=dashes, label=name)
            for found, marker in ((self.drawn, ring), (self.runs, dot)):
                if name in found:
                    axes.plot(*found[name], color=color, **marker)
        for found, marker, words in ((self.drawn, ring, "best, drawn neurons"), (self.runs, dot, "run")):
            if found:  # one more name for all colors together
                axes.plot([], [], color=INK, label=words, **marker)
        axes.set_ylim(bottom=0.0)
        name_all(figure, axes, 3)
        return figure

    def numbers(self) -> Numbers:
        """Every point: what it is, the regime, N/d and the risk."""
        kinds = (("limit", self.limits), ("best, drawn neurons", self.drawn), ("run", self.runs))
        rows = [
            (kind, name, at, risk)
            for kind, found in kinds
            for name, points in found.items()
            for at, risk in zip(*(values.tolist() for values in points), strict=True)
        ]
        return ["kind", "regime", "N/d", self.label], rows


def empty(n_rows: int = 1, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """A figure without anything in it, with room for a legend of so many rows."""
    figure = Figure(figsize=(width_in, HEIGHT_IN + ROW_IN * max(0, n_rows - 1)))
    return figure, figure.add_subplot()


def legend_rows(n_names: int, n_columns: int) -> int:
    """Rows of a legend."""
    return math.ceil(n_names / n_columns)


def name_all(figure: Figure, axes: Axes, n_columns: int) -> None:
    """The legend, above the axes: it covers nothing."""
    n_names = len(axes.get_legend_handles_labels()[0])
    n_rows = legend_rows(n_names, n_columns)
    figure.legend(loc="outside upper center", ncols=math.ceil(n_names / max(n_rows, 1)), columnspacing=1.0)


def _lines(
    axes: Axes, series: Mapping[int, Vector], times: Mapping[int, Vector] | None, breaks: Mapping[int, Sequence[int]]
) -> None:
    for (peer, values), (color, dashes) in zip(series.items(), LINES, strict=False):
        label = f"peer {peer}"
        ends = sorted({0, len(values), *(n for n in breaks.get(peer, ()) if n < len(values))})
        for start, stop in pairwise(ends):
            n, kept = thinned(values[start:stop])
            at = n if times is None else times[peer][start:stop][n.astype(int)]
            axes.plot(at, kept, color=color, linestyle=dashes, marker="o" if len(n) == 1 else "", label=label)
            label = ""


def _band(axes: Axes, shown: tuple[Vector, Vector, Vector, Vector]) -> None:
    at, low, middle, high = shown
    axes.fill_between(at, low, high, color=BLUE, alpha=0.25, linewidth=0.0, label="all peers")
    axes.plot(at, middle, color=BLUE, marker="o" if len(at) == 1 else "", label="median")


def _over(series: Mapping[int, Vector], times: Mapping[int, Vector]) -> tuple[Vector, Vector, Vector, Vector]:
    return spread_in_time(list(series.values()), [times[peer] for peer in series])


def thinned(values: Vector) -> tuple[Vector, Vector]:
    """Rounds and values of a line, without nan; of a long one the least and greatest value of each bin, in order."""
    kept = np.flatnonzero(~np.isnan(values))
    if len(kept) > 2 * MOST_POINTS:
        ends = {int(kept[0]), int(kept[-1])}
        parts = np.array_split(kept, MOST_POINTS)
        extreme = {int(part[find(values[part])]) for part in parts for find in (np.argmin, np.argmax)}
        kept = np.array(sorted(ends | extreme))
    return kept.astype(np.float64), values[kept]


def spread(series: Sequence[Vector]) -> tuple[Vector, Vector, Vector, Vector]:
    """Rounds that all have done, and their least, median and greatest value in each, without nan; or in bins of rounds.

    The few that are ahead in a running run are no sample of all.
    """
    length = min(map(len, series))
    table = np.array([values[:length] for values in series])
    edges = np.linspace(0, length, min(length, MOST_POINTS) + 1).astype(int)
    rows = []
    for start, stop in pairwise(edges.tolist()):
        part = table[:, start:stop]
        if not np.isnan(part).all():
            rows.append((0.5 * (start + stop - 1), np.nanmin(part), np.nanmedian(part), np.nanmax(part)))
    n, low, middle, high = np.array(rows).reshape(-1, 4).T
    return n, low, middle, high


def spread_in_time(series: Sequence[Vector], times: Sequence[Vector]) -> tuple[Vector, Vector, Vector, Vector]:
    """Times, and the least, median and greatest of all values about each of them, without nan."""
    values, at = np.concatenate(list(series)), np.concatenate(list(times))
    values, at = values[~np.isnan(values)], at[~np.isnan(values)]
    n_bins = min(MOST_POINTS, max(map(len, series)))
    edges = np.linspace(at.min(), at.max(), n_bins + 1)
    places = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, n_bins - 1)
    order = np.argsort(places, kind="stable")
    filled, starts = np.unique(places[order], return_index=True)
    parts = np.split(values[order], starts[1:])
    low, middle, high = (np.array([find(part) for part in parts]) for find in (np.min, np.median, np.max))
    return 0.5 * (edges[filled] + edges[filled + 1]), low, middle, high


@final
@dataclass(frozen=True)
class Effort:
    """Bars: the seconds that each peer has solved, and on top of them those that it has waited.

    Parameters
    ----------
    solve_s, wait_s : sequence of float
    peers : sequence of int
        Whose they are.
    """

    solve_s: Sequence[float]
    wait_s: Sequence[float]
    peers: Sequence[int]

    def figure(self) -> Figure:
        """The figure."""
        figure, axes = empty()
        few = len(self.peers) <= 2 * FEW
        width = 0.7 if few else 1.0
        places = np.arange(len(self.peers))
        edge: dict[str, Any] = {"edgecolor": PAPER, "linewidth": 0.6 if few else 0.0}
        axes.bar(places, self.solve_s, width, color=BLUE, label="solving", **edge)
        axes.bar(places, self.wait_s, width, bottom=self.solve_s, color=ORANGE, label="waiting", **edge)
        if few:
            axes.set_xticks(places, list(map(str, self.peers)))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="peer", ylabel="time (s)")
        if self.peers:
            axes.margins(x=0.5 / len(self.peers) if few else 0.01)
            name_all(figure, axes, COLUMNS)
        return figure

    def numbers(self) -> Numbers:
        """A row a peer."""
        rows = list(zip(self.peers, self.solve_s, self.wait_s, strict=True))
        return ["peer", "solving (s)", "waiting (s)"], rows


@final
@dataclass(frozen=True)
class Links:
    """Links between peers: those that were up, and those that never were, which are pale.

    Parameters
    ----------
    peers : sequence of int
    up : frozenset of (int, int)
    possible : frozenset of (int, int)
        With those that are up.
    circular : bool
        Whether peers are drawn in a circle, whatever their links are.
    arrows : bool
        Whether links have a direction.
    """

    peers: Sequence[PeerId]
    up: frozenset[Edge]
    possible: frozenset[Edge]
    circular: bool
    arrows: bool

    @classmethod
    def of_schedule(cls, schedule: Schedule, n_rounds: int) -> Links:
        """Every link of a run."""
        whole = union(schedule, n_rounds)
        possible = ground(schedule, whole).edges
        circular = isinstance(schedule, OnePeerExponential)
        return cls(range(schedule.n_agents), whole.edges, possible, circular, arrows=False)

    @classmethod
    def of_outlets(cls, outlets: Outlets, members: tuple[PeerId, ...], used: Collection[Arc]) -> Links:
        """Every link among the members of an epoch, with its direction; those over which nothing came are pale."""
        possible = frozenset((i, j) for i, out in outlets.links(members).items() for j in out)
        circular = outlets.schedule == "one-peer-exponential"
        return cls(members, possible.intersection(used), possible, circular, arrows=True)

    def figure(self) -> Figure:
        """The figure."""
        figure, axes = empty()
        row = {peer: k for k, peer in enumerate(self.peers)}
        linked = Graph.of(len(self.peers), ((row[i], row[j]) for i, j in self.possible))
        found = places(linked, circular=self.circular)
        points = {peer: found[k] for peer, k in row.items()}
        panel(axes, points, up=self.up, idle=self.possible - self.up, large=True, arrows=self.arrows)
        return figure

    def numbers(self) -> Numbers:
        """A row a link."""
        heads = ["from", "to"] if self.arrows else ["peer", "peer, too"]
        return [*heads, "used"], [(i, j, int((i, j) in self.up)) for i, j in sorted(self.possible)]


def dark() -> str:
    """CSS rules that make all figures readable on a dark background."""
    # no `svg` before them: what stands in <defs> and is used has no ancestors there
    rules = (
        f'[style*="{what}: {color}"] {{ {what}: {instead} !important }}'
        for color, instead in ON_DARK.items()
        for what in ("fill", "stroke")
    )
    return "\n".join(rules)


def logarithmic(axes: Axes, values: Vector) -> None:
    """Make the vertical axis logarithmic: over many decades from one to another, else with plain numbers."""
    least, greatest = float(np.nanmin(values)), float(np.nanmax(values))
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(greatest))
    if greatest <= 100.0 * least and greatest > 2.0 * least:
        axes.set_ylim(least / 1.2, greatest * 1.2)
        marks = [m * 10.0**k for k in range(low - 1, high + 1) for m in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if least / 1.2 <= mark <= greatest * 1.2]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    high = max(high, low + 1)
    axes.set_ylim(10.0**low, 10.0**high)
    axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in range(low, high + 1, math.ceil((high - low) / 6))]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power(round(math.log10(value)))))


def power(exponent: int) -> str:
    """A power of ten as text."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: its ids begin with `name`, and it is as wide as its place."""
    file = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
