"""The page of results: one file that needs nothing outside it, on light and on dark backgrounds, for any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import Final

from benchmarks.results import Occasion, command_of, in_words, stats_of
from benchmarks.rows import Measured
from peer.report import markup

WIDTH: Final = 400.0
"""Of a plot, in pixels where it is as wide as a telephone; wider screens show it larger, or several side by side."""

MARGIN: Final = 12.0
"""Left and right of its axis."""

TITLE, LINE, FOOT = 26.0, 36.0, 24.0
"""Heights of a plot's title, of a row, and of the axis."""

STEPS: Final = {0.6: (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), 2.0: (1.0, 2.0, 5.0), math.inf: (1.0,)}
"""Numbers on a logarithmic axis, times powers of ten, where it is shorter than so many decades."""

BUSY: Final = 0.5
"""Processes that want a processor, for each that there is, from which on a host is called busy."""

CLOCKS: Final = {"processor": "in seconds of a processor", "wall": "in seconds on the wall"}

READING: Final = (
    "A ratio is what ours took to what the reference took, for the same work, in turns within the same moments: 1 is "
    "what the machine can do, more is slower. Dots are turns, the bar their middle half, the line across it the median."
)


def page(found: Sequence[Measured], occasion: Occasion) -> str:
    """The results as HTML."""
    groups = [list(members) for _, members in groupby(found, lambda one: one.row.group)]
    busy = occasion.load[0] / occasion.n_processors > BUSY  # afterwards there are our own processes in it
    verdict = f"{len(found)} rows in {occasion.seconds:.0f} s, seed {occasion.seed}, ours beside the bare machine."
    if busy:
        verdict += " The host was busy with other things: seconds are long, ratios have a wide spread."
    again = f"python -m benchmarks{' --quick' * occasion.quick} --seed {occasion.seed}"
    sections = [
        markup.section("Ratios", markup.note(READING) + markup.grid(map(plot, groups))),
        *(
            markup.section(group[0].row.group, _words(group) + _table(group) + _again(group, occasion))
            for group in groups
        ),
        markup.section("Machine", markup.table(["", ""], [[*fact] for fact in occasion.facts().items()])),
        markup.section(
            "Again",
            markup.pre([again, "python -m benchmarks --compare benchmarks.json  # after a change: what became slower"]),
        ),
    ]
    return markup.page("Benchmarks", "running" if busy else "done", verdict, sections, "python -m benchmarks")


def _words(group: Sequence[Measured]) -> str:
    """What is measured in a group: a sentence for each pair of sides."""
    pairs: dict[tuple[str, str, str], list[str]] = {}
    for one in group:
        pairs.setdefault((one.row.ours, one.row.reference, one.clock), []).append(one.name)
    return "".join(
        markup.note(f"{', '.join(names)}: {ours}; beside {reference}; {CLOCKS[clock]}.")
        for (ours, reference, clock), names in pairs.items()
    )


def _table(group: Sequence[Measured]) -> str:
    head = ["", "ratio", "middle half", "least to most", "ours", "reference", "turns", "work"]
    return markup.table(head, map(_line, group))


def _line(one: Measured) -> list[str]:
    ratio, ours, reference = map(stats_of, (one.ratios, one.ours_s, one.reference_s))
    calls = one.turns[0].calls
    return [
        one.name,
        f"{ratio.median:.3g}",
        f"{ratio.q1:.3g} to {ratio.q3:.3g}",
        f"{ratio.min:.3g} to {ratio.max:.3g}",
        in_words(ours.median),
        in_words(reference.median),
        f"{len(one.turns)}{f' of {calls:,}' * (calls > 1)}",
        one.row.work,
    ]


def _again(group: Sequence[Measured], occasion: Occasion) -> str:
    return markup.folded(
        "Commands", markup.pre(list(dict.fromkeys(command_of(one.row.name, occasion) for one in group)))
    )


# ---- drawing -------------------------------------------------------------------------------


def plot(group: Sequence[Measured]) -> str:
    """A figure with all ratios of a group on a logarithmic axis, on which 1 is marked."""
    values = [ratio for one in group for ratio in one.ratios]
    low, high = math.log10(min(0.9, *values)) - 0.03, math.log10(max(1.1, *values)) + 0.03
    height = TITLE + LINE * len(group) + FOOT

    def x(ratio: float) -> float:
        return MARGIN + (math.log10(ratio) - low) / (high - low) * (WIDTH - 2.0 * MARGIN)

    name = group[0].row.group
    foot, marks = height - FOOT, ticks(low, high)
    parts = [_text(0.0, 14.0, name, "start", "font-weight:600;font-size:14px")]
    for ratio in marks:
        parts.append(_text(x(ratio), foot + 15.0, f"{ratio:g}", "middle", "fill:var(--pale);font-size:11px"))
        for k in range(len(group)):  # beside the names of the rows, not through them
            color, bottom = "--ink" if ratio == 1.0 else "--line", TITLE + LINE * (k + 1)
            parts.append(_stroke(x(ratio), bottom - 17.0, x(ratio), bottom, f"stroke:var({color});stroke-width:1"))
    for k, one in enumerate(group):
        parts += _row(one, TITLE + LINE * k, x)
    label = f"{name}: " + ", ".join(f"{one.name} {stats_of(one.ratios).median:.3g}" for one in group)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _row(one: Measured, top: float, x: Callable[[float], float]) -> list[str]:
    """The name and median of a row, and below them its turns."""
    stats, middle = stats_of(one.ratios), top + 27.0
    words = f"{one.name}: {stats.median:.3g}, middle half {stats.q1:.3g} to {stats.q3:.3g}; {one.row.work}"
    return [
        f"<g><title>{escape(words)}</title>",
        _text(0.0, top + 14.0, one.name, "start", "font-size:12px"),
        _text(WIDTH, top + 14.0, f"{stats.median:.3g}", "end", "font-size:12px;font-weight:600"),
        *(
            f'<circle cx="{x(ratio):.1f}" cy="{middle:g}" r="2.5" style="fill:var(--running);opacity:.35"/>'
            for ratio in one.ratios
        ),
        _stroke(x(stats.q1), middle, x(stats.q3), middle, "stroke:var(--running);stroke-width:5;stroke-linecap:round"),
        _stroke(x(stats.median), middle - 6.0, x(stats.median), middle + 6.0, "stroke:var(--ink);stroke-width:2"),
        "</g>",
    ]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10^low and 10^high, 1 among them where it is between."""
    steps = next(steps for decades, steps in STEPS.items() if high - low < decades)
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = (float(f"{step:g}e{decade}") for decade in decades for step in steps)
    return [ratio for ratio in every if low <= math.log10(ratio) <= high]


def _text(x: float, y: float, words: str, anchor: str, style: str) -> str:
    fill = "" if "fill:" in style else "fill:var(--ink);"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{fill}{style}">{escape(words)}</text>'


def _stroke(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'
