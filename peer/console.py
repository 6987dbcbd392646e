"""What a person sees of a launch: live progress, and the summary at the end. Imports rich; never in a peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from peer import history
from peer.history import new_metrics, ranges
from peer.launcher import Watcher
from peer.settings import Experiment
from topology import PeerId

PLAIN_S: Final = 2.0
"""Between two lines where there is no terminal."""

BAR: Final = 24
"""Characters of the progress bar."""


def screen(file: IO[str] | None = None, width: int | None = None, force_terminal: bool | None = None) -> Console:
    """Where a person reads, as rich makes it of these: what runs and folders are called is no markup there."""
    return Console(markup=False, emoji=False, file=file, width=width, force_terminal=force_terminal)


@final
class Progress(Watcher):
    """Round or waking, objective, residual, disagreement and bytes a second, from what the peers journal.

    Without rounds, that of the members of the newest epoch, in which wakings are counted.

    Parameters
    ----------
    console : Console
        Where to show it: redrawn in place on a terminal, else a line every PLAIN_S.
    run_dir : Path
    experiment : Experiment
    redraw : callable or None
        Takes the line at each look, where there is another way to replace what was shown, as in a notebook.
    """

    def __init__(
        self,
        console: Console,
        run_dir: Path,
        experiment: Experiment,
        redraw: Callable[[str], object] | None = None,
    ) -> None:
        self._console = console
        self._run_dir = run_dir
        self._experiment = experiment
        self._began_s = self._said_s = time.monotonic()
        self._offsets: dict[PeerId, int] = {}
        self._last: dict[PeerId, dict[str, Any]] = {}
        self._opened_n: dict[PeerId, int] = {}
        self._counted: dict[PeerId, int] = {}
        self._bytes = 0
        self._take()
        self._bytes = 0  # what was sent before this launch was sent at another rate
        self._said_round = -1
        self._redraw = redraw
        live = console.is_terminal and redraw is None
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        if self._live is not None:
            self._live.start()

    def look(self) -> None:
        """Read the newest lines, and show them."""
        self._take()
        now = time.monotonic()
        if self._redraw is not None:
            self._redraw(self._text())
        elif self._live is not None:
            self._live.update(self._text(), refresh=True)
        elif self._round != self._said_round and now - self._said_s >= PLAIN_S:
            self._said_s, self._said_round = now, self._round
            self._console.print(self._text(), highlight=False, soft_wrap=True)

    def _take(self) -> None:
        for peer, new in new_metrics(self._run_dir, self._offsets, self._experiment.peers).items():
            for line in map(history.round_of, new):
                if line is None:  # a display ends no run
                    continue
                n = int(line["iteration"])
                if peer not in self._last or _epoch(line) != _epoch(self._last[peer]):
                    self._opened_n[peer] = n
                self._last[peer] = line
                if n > self._counted.get(peer, -1):  # else its peer has come back, and all its lines come again
                    self._counted[peer] = n
                    self._bytes += line["bytes_sent"]

    @property
    def _current(self) -> dict[PeerId, dict[str, Any]]:
        """The last lines of all peers that are in the newest epoch; in rounds, of all that have begun."""
        newest = max(map(_epoch, self._last.values()), default=0)
        return {peer: line for peer, line in self._last.items() if _epoch(line) == newest}

    @property
    def _n_peers(self) -> int:
        return next(
            (int(line["members"]) for line in self._current.values() if "members" in line), self._experiment.peers
        )

    @property
    def _round(self) -> int:
        """Rounds, or wakings of the newest epoch, that all peers have done."""
        if len(self._current) < self._n_peers:
            return 0
        return 1 + min(int(line["iteration"]) - self._opened_n[peer] for peer, line in self._current.items())

    def _text(self) -> str:
        total, n, current, n_peers = self._experiment.iterations, self._round, self._current, self._n_peers
        elapsed = time.monotonic() - self._began_s
        if len(current) < n_peers:
            what = "begun" if len(self._last) == len(current) else "begun the new epoch"
            return f"{len(current)} of {n_peers} peers have {what}   {elapsed:.0f} s"
        filled = BAR * min(n, total) // total
        done, left = "=-" if self._console.options.ascii_only else "━─"
        bar = done * filled + left * (BAR - filled)
        lines = current.values()
        objective = sum(line["objective_estimate"] for line in lines) / len(lines)
        residual = max(line["residual"] for line in lines)
        disagreement = sum(line["disagreement"] for line in lines) / len(lines)
        rate = self._bytes / max(elapsed, 1e-9)
        where = f"round {n}/{total}"
        if self._experiment.run.mode == "async":
            where = f"waking {n}/{total} of {n_peers} peers"
        return (
            f"{bar} {where}   objective {objective:.6g}   residual {residual:.1e}   "
            f"disagreement {disagreement:.1e}   {size(rate)}/s   {elapsed:.0f} s"
        )

    def close(self) -> None:
        """Show the last state, and leave the line standing."""
        self.look()
        if self._live is not None:
            self._live.stop()
        if self._last and self._redraw is None:
            self._console.print(self._text(), highlight=False, soft_wrap=True)


def _epoch(line: Mapping[str, Any]) -> int:
    """Number of the epoch of a waking; a round has none."""
    return int(line.get("epoch", 0))


def size(n_bytes: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000.0 or unit == "GB":
            break
        n_bytes /= 1000.0
    return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"


def show_summary(console: Console, summary: Mapping[str, Any], run_dir: Path) -> None:
    """The table at the end of a launch, with the test metrics of the consensus model."""
    central = summary.get("central")
    members = summary.get("members")
    done = f"{summary['iterations']} rounds" if members is None else f"{summary['iterations']}+ wakings"
    n_peers = summary["peers"]
    peers = f"{n_peers} peers" if n_peers > 1 else "one peer"
    table = Table(title=f"{summary['name']}: {peers}, {done}", title_justify="left")
    table.add_column("")
    table.add_column("consensus of the peers", justify="right")
    if central:
        table.add_column(f"trained centrally, {central['solver']}", justify="right")

    def row(label: str, mine: str, other: str = "") -> None:
        table.add_row(label, mine, *([other] if central else []))

    if members is not None:
        row("members", ranges(members), "-")
    if summary.get("stopped", "iterations") != "iterations":
        row("stopped by", summary["stopped"], "-")
    if "kept" in summary:
        row("kept of round", str(summary["kept"]), "-")
    for key in ("objective", "stationarity"):
        mine = "-" if summary[key] is None else f"{summary[key]:.6g}"  # not known where shards are hidden
        row(key, mine, f"{central[key]:.6g}" if central else "")
    row("disagreement", f"{summary['disagreement']:.2e}", "-")
    for name, value in summary["test"].items():
        shown = f"{value:.4f}"
        row(f"test {name}", shown, f"{central['test'][name]:.4f}" if central else "")
    row("seconds", f"{summary['seconds']:.1f}", f"{central['seconds']:.1f}" if central else "")
    row("sent", size(summary["bytes"]), "-")
    console.print(table)
    console.print(f"{run_dir}/summary.json", highlight=False, soft_wrap=True)
