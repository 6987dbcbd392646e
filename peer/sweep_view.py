"""What a person sees of a sweep: a bar while it runs, and its table. Imports rich; never in a peer, nor before one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from peer.sweep import Plan, Result, Spread, short, spreads

MOST_NAMED: Final = 2
"""Cells that run, and are named; the others are counted."""

WIDTH: Final = 140
"""Columns where there is no terminal, which would say how many it has; with fewer, spreads take two lines."""

AIRY: Final = 100
"""Columns from which on there is room between the table's lines and its numbers; with fewer, these would be torn."""

HEADS: Final = {"megabytes": "MB sent"}
"""Columns that are not called as their numbers are."""


def draw(console: Console, told: Iterator[Mapping[str, Any]]) -> None:
    """Show how far a sweep is: in place on a terminal, and a line for every cell that has come to an end."""
    columns = BarColumn(24), TextColumn("{task.fields[said]}", markup=False)
    bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
    task = bar.add_task("", total=1.0, said="")
    if console.is_terminal:
        bar.start()
    for facts in told:
        if "line" in facts:
            console.print(facts["line"], markup=False, highlight=False, soft_wrap=True)
        bar.update(task, completed=facts["part"], said=words(facts))
        if console.is_terminal:
            bar.refresh()
    if console.is_terminal:
        bar.stop()


def words(facts: Mapping[str, Any]) -> str:
    """How far a sweep is: "7 of 15 cells, 1 failed, 2 min left; tau=1,seed=3"."""
    failed = f", {facts['failed']} failed" if facts["failed"] else ""
    left = "" if facts["left_s"] is None else f", {lasting(facts['left_s'])} left"
    names = facts["running"]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    running = f"; {' '.join(names[:MOST_NAMED])}{more}" if names else ""
    return f"{facts['done'] + facts['failed']} of {facts['cells']} cells{failed}{left}{running}"


def lasting(seconds: float) -> str:
    """A time for a person: the two largest units at most."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def show(console: Console, plan: Plan, results: Sequence[Result], out: Path) -> None:
    """The table: of each point of the grid the median over its seeds, and below it the least and the largest."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    over = {point: spreads([one for one in results if one.cell.point == point]) for point in plan.points}
    names = list(dict.fromkeys(name for found in over.values() for name in found))
    padding = (0, 1) if console.width >= AIRY else 0
    table = Table(title=f"{plan.base.name}: {len(results)} cells", title_justify="left", padding=padding)
    for key in short(plan.keys):
        table.add_column(key)
    table.add_column("done", justify="right")
    for name in names:
        table.add_column(HEADS.get(name, name.replace("_", " ")), justify="right", overflow="fold")
    for point in plan.points:
        cells = [one for one in results if one.cell.point == point]
        done = f"{sum(one.status == 'done' for one in cells)}/{len(cells)}"
        shown = [_shown(over[point].get(name), console.width) for name in names]
        table.add_row(*(Text(text) for _, text in point), done, *shown)
    console.print(table)
    for one in results:
        if one.status == "failed":
            console.print(f"{one.cell.name}: {one.line}", markup=False, highlight=False, soft_wrap=True)
    missing = sum(one.status == "missing" for one in results)
    if missing:
        console.print(f"{missing} of {len(results)} cells are missing; the same command goes on with them")
    console.print(
        f"{out}/sweep.json, {out}/sweep.csv; peer report {shlex.quote(str(out))}/*/",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _shown(spread: Spread | None, width: int) -> Text:
    if spread is None:
        return Text("-")
    text = Text(f"{spread.median:.4g}")
    if spread.least < spread.largest:
        between = " to " if width >= WIDTH else " to\n"
        text.append(f"\n{spread.least:.3g}{between}{spread.largest:.3g}", style="dim")
    return text
