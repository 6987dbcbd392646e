"""Milliseconds of an iteration of gradient tracking on small vectors, where messages are all that counts.

`[method] kind = "gradient-tracking"` on breast-cancer with a linear model, p = 31: real processes on a static ring on
the loopback, as `peer launch` starts them, in the clear and encrypted. An iteration is a round: z and y go in one
share, for which others need two exchanges. With MPI, measured elsewhere, it took 0.57 ms on a ring of 4 and 1.6 on one
of 8. The median is over the rounds of all peers but the first and the last fifth; the mean is over the same rounds, and
so contains what the host did meanwhile. Shown beside is the processor time of a peer in such a round: wall time
depends on who else needs the processors, which a ring of 8 shares anyway.

    python -m benchmarks.tracking
    python -m benchmarks.tracking --profile                        # processor time by part
    python -m benchmarks.tracking --peers 8 --security none --rounds 2000
    python -m benchmarks.tracking --set run.agents_per_process=4   # agents that share a process
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, Final, final

import click
import numpy as np

from benchmarks.split import LOOP, OTHERS, Split, table
from peer import files, history, process, settings, transport, wire
from peer.__main__ import DEFAULT
from peer.actor import Actor
from peer.changes import Changes
from peer.gossip import begun, taken
from peer.host import Assignment, Host
from peer.journal import Journal
from peer.launcher import Watcher, launch
from peer.methods import GradientTracking
from peer.rounds import Rounds
from peer.rounds_mode import RoundsLife
from peer.session import Session
from peer.settings import Experiment
from peer.threads import Threads
from peer.transport.incoming import Arrivals

MPI_MS: Final[Mapping[int, float]] = {4: 0.57, 8: 1.6}
"""Of an iteration, two exchanges, by the size of the ring; measured elsewhere."""

SETTINGS: Final = (
    "data.dataset=breast-cancer",
    "model.hidden=[]",
    "method.kind=gradient-tracking",
    "method.step_size=0.1",
    "topology.graph=ring",
    "topology.schedule=static",  # every neighbor in every round, as with MPI
    "run.checkpoint_every=0",  # MPI has none
)

PARTS: Final[Mapping[str, Sequence[Callable[..., Any]]]] = {
    "mathematics": (GradientTracking.propose, GradientTracking.settle, GradientTracking.residual, begun, taken),
    "encode": (wire.encode,),
    "send": (transport.Transport.pack, transport.Transport.send),
    "receive": (transport.receive_now,),
    "door": (Arrivals.admitted,),
    "decode": (wire.decode,),
    "session": (Session.receive, Session.offer, Rounds.begin, Rounds.advance),
    "waking": (Changes.until, Changes.set),
    "journal": (Journal.round, Journal._flush),
    "checkpoint": (RoundsLife.keep, RoundsLife.snapshot, Threads.on_thread),
    "round": (RoundsLife.round, Actor.proposed, Actor.heard, RoundsLife.hear, Host.say, Host.together, Threads.compute),
}
"""What a round is made of."""

RUN: Final = process.run
"""The life of a peer as it is."""


@final
class Spent:
    """Processor seconds of the middle rounds of a peer, counted where it journals.

    Parameters
    ----------
    n_rounds : int
        Of the run.
    profiled : bool
        Whether to tell by part.
    """

    def __init__(self, n_rounds: int, profiled: bool) -> None:
        self.first, self.last = n_rounds // 5, n_rounds - n_rounds // 5
        self.split, self.seconds = Split(PARTS), dict[str, float]()
        if profiled:
            self.split.start()

    def round_over(self, n: int) -> None:
        """Round n is over."""
        if n == self.first:
            self.split.begin()
        elif n == self.last:
            self.seconds = {part: spent / (self.last - self.first) for part, spent in self.split.seconds().items()}
            self.split.stop()


def watched(profiled: bool) -> Callable[[Assignment], tuple[int, str]]:
    """The life of a forked peer that writes down what its rounds took of the processor."""

    def live(assignment: Assignment) -> tuple[int, str]:
        spent, write = Spent(assignment.experiment.iterations, profiled), Journal.round

        def round_over(journal: Journal, **values: Any) -> None:  # noqa: ANN401
            write(journal, **values)
            spent.round_over(values["iteration"])

        Journal.round = round_over  # type: ignore[method-assign, assignment]
        try:
            return RUN(assignment)
        finally:
            (assignment.run_dir / f"spent-{assignment.me}.json").write_text(json.dumps(spent.seconds))

    return live


def measure(experiment: Experiment, folder: Path, profiled: bool) -> tuple[list[float], dict[str, float]]:
    """Seconds of the middle rounds of all peers, and the processor seconds of one round of a peer, by part.

    Raises
    ------
    RuntimeError
        The run failed.
    """
    process.run = watched(profiled)  # type: ignore[assignment]
    try:
        outcome = launch(experiment, folder, lambda run_dir, experiment: Watcher())
    finally:
        process.run = RUN
    if outcome.code:
        raise RuntimeError(outcome.line)
    n = experiment.iterations
    found: list[float] = []
    for peer in range(experiment.peers):
        times = np.array([line.time_s for line in history.rounds(files.folder_of(folder, peer))])
        found.extend(np.diff(times)[n // 5 : n - n // 5])
    parts = [folder / f"spent-{peer}.json" for peer in range(experiment.peers)]  # of agents that share a process none
    rows = [json.loads(file.read_text()) for file in parts if file.exists()]
    return found, {part: mean(row.get(part, 0.0) for row in rows) for part in {part for row in rows for part in row}}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", "sizes", type=click.IntRange(2), multiple=True, default=(4, 8), help="Sizes of the ring.")
@click.option("--rounds", type=click.IntRange(50), default=1_000, help="Rounds of a run.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Runs of each kind.")
@click.option(
    "--security", "securities", type=click.Choice(("none", "curve")), multiple=True, default=("none", "curve")
)
@click.option("--profile", is_flag=True, help="Processor time of a round by part, in one run each.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of all.")
def main(
    sizes: tuple[int, ...],
    rounds: int,
    repeats: int,
    securities: tuple[str, ...],
    profile: bool,
    overrides: tuple[str, ...],
) -> None:
    """Milliseconds of an iteration of gradient tracking, p = 31, beside those of MPI."""
    for size in sizes:
        spent: dict[str, dict[str, float]] = {}
        for security in securities:
            run = (f"peers={size}", f"iterations={rounds}", f"transport.security={security}")
            experiment = settings.read(DEFAULT, (*run, *SETTINGS, *overrides))
            medians, means, processor_s = [], [], []
            for _ in range(1 if profile else repeats):
                with tempfile.TemporaryDirectory() as folder:
                    took_s, spent[security] = measure(experiment, Path(folder) / "run", profile)
                medians.append(1e3 * median(took_s))
                means.append(1e3 * mean(took_s))
                processor_s.append(sum(spent[security].values()))
            line = f"ring of {size}, {security:5}: median {median(medians):.2f} ms, mean {median(means):.2f} ms a round"
            if any(processor_s):
                line += f"; processor {1e3 * median(processor_s):.2f} ms a peer"
            if size in MPI_MS:
                line += f"; MPI {MPI_MS[size]} ms, {median(medians) / MPI_MS[size]:.2f} times that"
            click.echo(line)
        if profile:
            shown = (*PARTS, LOOP, OTHERS)
            click.echo("\n".join(table(f"ring of {size}: processor us a round, a peer", spent, shown)))


if __name__ == "__main__":
    main()
