"""Figures with a curve a run, or a curve a group of runs and their spread. Imports matplotlib; never in a peer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from peer.arrays import Vector
from peer.figures import (
    BLUE,
    GREATEST,
    GREEN,
    HEIGHT_IN,
    MANY_TIMES,
    PURPLE,
    ROW_IN,
    VERMILION,
    WIDTH_IN,
    Numbers,
    empty,
    legend_rows,
    logarithmic,
    power,
)
from topology.draw import INK

WIDE_IN: Final = 7.0
"""Of a figure over both columns of a paper, in inches."""

PANEL_IN: Final = 1.45
"""Height of a panel of such a figure."""

MOST_IN_A_ROW: Final = 4
"""Panels side by side in it."""

COLORS: Final = (BLUE, VERMILION, GREEN, PURPLE, INK.lower())
"""Of Okabe and Ito, what stands out from white as a line, see `peer.figures`; and the color of text."""

DASHES: Final[Sequence[Any]] = ("-", (0, (4, 1.5)), (0, (1, 1.1)), (0, (5, 1.2, 1, 1.2)))
"""Told apart in gray."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Of points: hollow, so that those below can be seen."""

LETTER_IN: Final = 0.058
"""Width of a letter of a legend: 8 pt text of DejaVu Sans was measured to have 0.056 to 0.06."""

HANDLE_IN: Final = 0.30
"""Width of a line beside its name in a legend, with the space about it."""

SEVERAL: Final = 10.0
"""Factor between the ends of curves from which on the horizontal axis is logarithmic: the short ones would be a dot."""


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """A line, or a point, with what the runs behind it range over.

    Parameters
    ----------
    label : str
    color, dashes : int
        Place in COLORS and DASHES.
    at : Vector, (n,)
    low, middle, high : Vector, (n,)
        Least, median and greatest of the runs; nan where there is nothing to show.
    n_runs : int
    """

    label: str
    color: int
    dashes: int
    at: Vector
    low: Vector
    middle: Vector
    high: Vector
    n_runs: int

    @property
    def style(self) -> dict[str, Any]:
        """Color and dashes of the line."""
        return {"color": COLORS[self.color % len(COLORS)], "linestyle": DASHES[self.dashes % len(DASHES)]}


@final
@dataclass(frozen=True, eq=False)
class Overlay:
    """Curves over one pair of axes.

    Parameters
    ----------
    x, y : str
        Labels of the axes, with units.
    curves : sequence of Curve
    points : bool
        Whether each curve is a point, the end of its runs.
    title : str
        Of the panel, if it is one of several; empty: none.
    """

    x: str
    y: str
    curves: Sequence[Curve]
    points: bool = False
    title: str = ""

    def figure(self) -> Figure:
        """The figure, with the legend above."""
        n_rows = legend_rows(len(self.curves), columns([curve.label for curve in self.curves], WIDTH_IN))
        n_columns = math.ceil(len(self.curves) / max(n_rows, 1))
        figure, axes = empty(n_rows)
        self.draw(axes)
        _legend(figure, axes, n_columns)
        return figure

    def draw(self, axes: Axes) -> None:
        """Draw the curves, and their names for a legend."""
        axes.set(xlabel=self.x, ylabel=self.y)
        log = self.is_log
        for n, curve in enumerate(self.curves):
            low, middle, high = (_drawable(values, log) for values in (curve.low, curve.middle, curve.high))
            if self.points:
                off = np.array([middle - low, high - middle])
                marker = MARKERS[n % len(MARKERS)]
                color = curve.style["color"]
                axes.errorbar(
                    curve.at,
                    middle,
                    np.nan_to_num(off),
                    color=color,
                    marker=marker,
                    markersize=5.0,
                    fillstyle="none",
                    linestyle="",
                    label=_entry(curve.label),
                )
                continue
            if curve.n_runs > 1:
                axes.fill_between(curve.at, low, high, color=curve.style["color"], alpha=0.18, linewidth=0.0)
            there = np.isfinite(middle) | (not log)  # a point between two that are left out would not be seen
            at = curve.at[there]
            axes.plot(at, middle[there], **curve.style, marker="o" if len(at) == 1 else "", label=_entry(curve.label))
        shown = np.concatenate(
            [_drawable(values, log) for c in self.curves for values in (c.low, c.high)] or [np.zeros(0)]
        )
        if not np.isfinite(shown).any():
            axes.text(0.5, 0.5, "nothing to show yet", ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
            return
        if log:
            logarithmic(axes, shown)
        else:
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 6))
            axes.yaxis.set_major_locator(MaxNLocator(5))
        self._scale_x(axes)

    def _scale_x(self, axes: Axes) -> None:
        ends = [float(curve.at[-1]) for curve in self.curves if len(curve.at) and curve.at[-1] > 0.0]
        if not ends or max(ends) < SEVERAL * min(ends):
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.set_xlim(left=0.0, right=1.08 * max(ends) if ends and self.points else None)
            return
        positive = np.concatenate([curve.at[curve.at > 0.0] for curve in self.curves])
        # from where the shortest curve can be seen as one; before that all of them only begin
        least = max(float(positive.min()), 1e-2 * min(ends)) if not self.points else 0.7 * min(ends)
        low, high = math.floor(math.log10(least)), math.ceil(math.log10(max(ends)))
        axes.set_xscale("log")
        axes.set_xlim(least, 1.4 * max(ends))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator([10.0**k for k in range(low, high + 1)]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(round(math.log10(value)))))

    @property
    def is_log(self) -> bool:
        """Whether positive values range over so much that a logarithmic axis shows more."""
        values = np.concatenate([curve.middle for curve in self.curves] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        values = values[values > 0.0]  # zeros are left out, and what rounding has left below an optimum
        return not self.points and bool(len(values)) and bool(values.max() > MANY_TIMES * values.min())

    def numbers(self) -> Numbers:
        """A row a point of a curve."""
        rows = [
            (self.title, curve.label, curve.n_runs, at, low, middle, high)
            for curve in self.curves
            for at, low, middle, high in zip(
                *(values.tolist() for values in (curve.at, curve.low, curve.middle, curve.high)), strict=True
            )
        ]
        heads = ["panel", "curve", "runs", self.x, f"{self.y}, least", f"{self.y}, median", f"{self.y}, greatest"]
        return heads, rows


@final
@dataclass(frozen=True, eq=False)
class Panels:
    """Panels side by side, over both columns of a paper, with one legend for all of them.

    Parameters
    ----------
    rows : sequence of sequence of Overlay
        From top to bottom, and from left to right; rows may be shorter than the first.
    """

    rows: Sequence[Sequence[Overlay]]

    def figure(self) -> Figure:
        """The figure."""
        first = {curve.label: curve for row in self.rows for panel in row for curve in panel.curves}
        n_legend = legend_rows(len(first), columns(list(first), WIDE_IN))
        n_columns = math.ceil(len(first) / max(n_legend, 1))
        # few panels are no larger than those of a column
        height = PANEL_IN if len(self.rows[0]) > 2 else HEIGHT_IN
        figure = Figure(figsize=(WIDE_IN, (height + 0.1) * len(self.rows) + 0.2 + ROW_IN * n_legend))
        n_across = max(map(len, self.rows))
        cells = figure.subplots(len(self.rows), n_across, squeeze=False)
        handles: dict[str, Any] = {}
        for n, row in enumerate(self.rows):
            for axes in cells[n][len(row) :]:
                axes.set_axis_off()
            for axes, panel in zip(cells[n], row, strict=False):
                panel.draw(axes)
                if axes is not cells[n][0] and panel.y == row[0].y:
                    axes.set_ylabel("")
                if panel.title and n % 2 == 0:
                    axes.set_title(panel.title, fontsize=8.0, color=INK)
                found, labels = axes.get_legend_handles_labels()
                handles |= dict(zip(labels, found, strict=True))
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=n_columns,
            columnspacing=0.8,
            handlelength=2.0,
        )
        return figure

    def numbers(self) -> Numbers:
        """A row a point of a curve of a panel."""
        parts = [panel.numbers() for row in self.rows for panel in row]
        rows = [
            (title, label, n_runs, heads[3], at, low, middle, high)
            for heads, found in parts
            for title, label, n_runs, at, low, middle, high in found
        ]
        y = self.rows[0][0].y
        return ["panel", "curve", "runs", "against", "at", f"{y}, least", f"{y}, median", f"{y}, greatest"], rows


def columns(labels: Sequence[str], width_in: float) -> int:
    """Columns of a legend that fit into a figure."""
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), math.floor((width_in - 0.1) / (HANDLE_IN + 0.1 + LETTER_IN * longest))))


def _entry(label: str) -> str:
    """The same to the eye: matplotlib leaves out what begins with an underscore."""
    return f"\u200b{label}" if label.startswith("_") else label


def _legend(figure: Figure, axes: Axes, n_columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=n_columns, columnspacing=0.8, handlelength=2.0)


def _drawable(values: Vector, log: bool) -> Vector:
    low = 1.0 / GREATEST if log else -GREATEST
    seen = np.isfinite(values) & ((values > 0.0) | (not log))
    return np.where(seen, np.clip(values, low, GREATEST), np.nan)
