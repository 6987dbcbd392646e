"""All that is measured, by one command: ours beside bare sockets, LAPACK and memcpy, on one page.

    python -m benchmarks                            # some six minutes of a processor
    python -m benchmarks --quick                    # a minute and a half
    python -m benchmarks --only wire --only journal # some rows, by name or group
    python -m benchmarks --compare before.json      # and what became slower since; 1, where something did

It writes benchmarks.json, in the format of pytest-benchmark, and benchmarks.html. What a ratio is, `benchmarks.rows`
says. Each row is short; the long tables are those of the other modules of this folder: `make bench-tables`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import fleets, kernels, results
from benchmarks.results import Occasion, Saved, in_words, stats_of
from benchmarks.rows import Measured, Row, Setting, chosen, measure
from peer.errors import ConfigError

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="Fewer and shorter turns, with a wider spread.")
@click.option("--only", "names", multiple=True, metavar="NAME", help="A row or a group; may be given again.")
@click.option("--seed", type=click.IntRange(0), default=7, help="Of random arrays and experiments.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for results.")
@click.option("--compare", "old", type=FILE, metavar="OLD.json", help="Say what is slower than in these results.")
@click.option("--found", "new", type=FILE, metavar="NEW.json", help="Compare these results; measure nothing.")
@click.option("--threshold", type=click.FloatRange(0.0), default=0.25, help="By which a ratio may grow.")
def main(
    quick: bool,
    names: tuple[str, ...],
    seed: int,
    out: Path,
    old: Path | None,
    new: Path | None,
    threshold: float,
) -> None:
    """Measure everything beside what the bare machine gives for the same work, in turns."""
    console, failed = Console(), list[str]()
    try:
        if new is not None and old is None:
            raise ConfigError("--found", f"expected --compare OLD.json beside it, found {new} alone")
        before = None if old is None else results.read(old)
        if new is None:
            new, failed = write(rows(names), quick, seed, out, console)
        good = before is None or compare(before, results.read(new), threshold, console)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if failed or not good:
        click.echo("".join(f"not measured: {words}\n" for words in failed), err=True, nl=False)
        sys.exit(1)


def rows(names: Sequence[str]) -> list[Row]:
    """What is to be measured.

    Raises
    ------
    ConfigError
        No row and no group has such a name.
    """
    known = [*kernels.rows(), *fleets.rows()]
    try:
        return chosen(known, names)
    except KeyError as error:
        words = ", ".join(dict.fromkeys(word for row in known for word in (row.group, row.name)))
        raise ConfigError("--only", f"expected one of {words}; found {error.args[0]}") from error


def write(known: Sequence[Row], quick: bool, seed: int, out: Path, console: Console) -> tuple[Path, list[str]]:
    """Measure some rows, show them, and write both files; where the one with the numbers is, and which groups failed.

    Raises
    ------
    ConfigError
        The files cannot be written.
    """
    load, began_s = os.getloadavg()[0], time.monotonic()
    gc.collect()
    gc.freeze()  # many rows fork
    found, failed = list[Measured](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for group, members in groupby(known, lambda row: row.group):
            try:
                done = measure(list(members), Setting(seed, quick, Path(folder)))
            except RuntimeError as error:  # of processes: a fleet that did not start costs no other row
                failed.append(f"{group}: {error}")
                continue
            console.print(table(done))
            found += done
    gc.unfreeze()
    occasion = Occasion.now(seed, quick, load, time.monotonic() - began_s)
    from benchmarks.page import page  # matplotlib comes with it: what is forked for a row goes without

    path, beside = out / "benchmarks.json", out / "benchmarks.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results.document(found, occasion), indent=1) + "\n", encoding="utf-8")
        beside.write_text(page(found, occasion), encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{out}: cannot write there: {error.strerror}") from error
    for key, words in occasion.facts().items():
        click.echo(f"{key}: {words}")
    click.echo(f"written: {path}, {beside}")
    return path, failed


def table(group: Sequence[Measured]) -> Table:
    """A group in the terminal."""
    found = Table(title=group[0].row.group, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("row", no_wrap=True)
    for name in ("ours", "reference", "ratio", "middle half", "turns"):
        found.add_column(name, justify="right", no_wrap=True)
    for one in group:
        ratio, ours, reference = map(stats_of, (one.ratios, one.ours_s, one.reference_s))
        spread = f"{ratio.q1:.3g} to {ratio.q3:.3g}"
        times = in_words(ours.median), in_words(reference.median)
        found.add_row(one.name, *times, f"{ratio.median:.3g}", spread, str(len(one.turns)))
    return found


def compare(old: Saved, new: Saved, threshold: float, console: Console) -> bool:
    """Say which rows changed beyond their spread; whether none got slower by more than the threshold."""
    found = results.changes(old, new)
    for words in results.differences(old, new):
        click.echo(f"not only the code differs: {words}")
    moved = [change for change in found if change.is_slower or change.is_faster]
    if moved:
        shown = Table(title="changed beyond the spread", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        shown.add_column("row", no_wrap=True)
        for name in ("middle half before", "now", "factor of medians"):
            shown.add_column(name, justify="right", no_wrap=True)
        for change in moved:
            halves = (f"{first:.3g} to {third:.3g}" for first, _, third in (change.old, change.new))
            shown.add_row(change.name, *halves, f"{change.factor:.2f} {'slower' if change.is_slower else 'faster'}")
        console.print(shown)
    slower = [change for change in found if change.is_slower and change.factor > 1.0 + threshold]
    click.echo(
        f"{len(found)} rows compared: {sum(change.is_slower for change in found)} slower beyond the spread, "
        f"{len(slower)} of them by more than {threshold:.0%}; {sum(change.is_faster for change in found)} faster"
    )
    return not slower


if __name__ == "__main__":
    main()
