"""What it costs a run to be watched: wall and processor time with two watchers, as ratios to those without any.

Sixteen peers learn digits on a graph that changes, as real processes on the loopback. With two watchers, two processes
of `peer watch` read the run directory, or, with --publish, listen to what the peers publish, and of each a page takes
all that comes. Runs with and without take turns; shown are medians over the turns of

- wall: from the first peer's start to the last one's end, as the summary has it,
- peers: processor time of the launch and all its peers,
- watchers: processor time of the two, as a part of that of the peers; on few cores it is in the wall time.

    python -m benchmarks.watch
    python -m benchmarks.watch --publish
    python -m benchmarks.watch --turns 15
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

TARGET: Final = 1.03
"""Largest ratio of wall times."""

PORT: Final = 21_700
"""Of peer 0, and the following ones of the others, where they publish."""

SETTINGS: Final = (
    *("peers=16", "data.dataset=digits", "objective.loss=cross_entropy", "model.hidden=[16]"),
    *("surrogate.kind=full", "topology.schedule=random-links", "topology.link_probability=0.6"),
)


def command(*arguments: str | Path) -> list[str]:
    """The command line of `peer`."""
    return [sys.executable, "-m", "peer", *map(str, arguments)]


def processor_s(pid: int) -> float:
    """Processor time of a child that has ended, and of all that it has waited for."""
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 130), f"exit code {os.waitstatus_to_exitcode(status)}"
    return usage.ru_utime + usage.ru_stime


@contextmanager
def page(source: str | Path, spent_s: list[float]) -> Iterator[None]:
    """A process of `peer watch`, and somebody who takes all that it tells; adds its processor time."""
    process = subprocess.Popen(command("watch", source), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().rsplit(" ", 1)[-1].strip()

    def listen() -> None:
        with suppress(OSError, http.client.HTTPException), urllib.request.urlopen(address + "events") as answer:
            while answer.read1(1 << 16):
                pass

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        spent_s.append(processor_s(process.pid))
        process.returncode = 0  # it has been waited for
        process.stdout.close()
        listening.join()


def run(folder: Path, n_rounds: int, watched: bool, publish: bool) -> tuple[float, float, float]:
    """One run: seconds, processor seconds of its peers, and of the watchers."""
    out, spent_s = folder / "out", list[float]()
    given = [*SETTINGS, f"iterations={n_rounds}", *([f"run.publish=tcp://127.0.0.1:{PORT}"] if publish else [])]
    options = [word for setting in given for word in ("--set", setting)]
    with ExitStack() as opened:
        if watched and publish:
            for _ in range(2):
                opened.enter_context(page(f"tcp://127.0.0.1:{PORT}", spent_s))
        launched = subprocess.Popen(command("launch", "--out", out, *options), stdout=subprocess.DEVNULL)
        while not (out / "experiment.toml").exists():
            assert launched.poll() is None, "the launch has ended before it began"
        if watched and not publish:
            for _ in range(2):
                opened.enter_context(page(out, spent_s))
        peers_s = processor_s(launched.pid)
        launched.returncode = 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return float(summary["seconds"]), peers_s, sum(spent_s)


def middle(rows: Sequence[tuple[float, float, float]], column: int) -> float:
    """Median of a column."""
    return median(row[column] for row in rows)


@click.command()
@click.option("--turns", default=7, show_default=True, help="Runs with, and as many without watchers.")
@click.option("--rounds", default=300, show_default=True, help="Rounds of each run.")
@click.option("--publish", is_flag=True, help="Peers publish in all runs; watchers listen to them.")
def main(turns: int, rounds: int, publish: bool) -> None:
    """Compare runs that are watched with runs that are not."""
    rows: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for turn in range(2 * turns):
        watched = turn % 4 in (1, 2)  # without, with, with, without: whatever drifts is in both alike
        with TemporaryDirectory() as folder:
            rows[watched].append(run(Path(folder), rounds, watched, publish))
        click.echo(f"{'two watchers' if watched else 'none        '}  {rows[watched][-1][0]:6.2f} s", err=True)
    without, with_two = rows[False], rows[True]
    click.echo("              wall     peers    watchers")
    click.echo(f"none       {middle(without, 0):5.2f} s  {middle(without, 1):6.2f} s")
    click.echo(f"two        {middle(with_two, 0):5.2f} s  {middle(with_two, 1):6.2f} s  {middle(with_two, 2):8.2f} s")
    wall, peers = (middle(with_two, column) / middle(without, column) for column in (0, 1))
    part = middle(with_two, 2) / middle(with_two, 1)
    click.echo(f"ratio      {wall:7.3f}  {peers:8.3f}  {part:10.3f}   target for wall {TARGET}")


if __name__ == "__main__":
    main()
