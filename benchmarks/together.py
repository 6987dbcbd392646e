"""Agents of one experiment, 1, 8, 32 or all in a process: how fast they are ready, what a round takes, what memory.

An agent is ready when it knows the sample counts of all others, so that round 0 can begin; its journal says so. Rounds
are counted between a quarter and three quarters of the run, by the journal of agent 0. Processor time is that of all
processes from the first fork to the last end, in equal parts. Memory is the proportional set size, likewise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import msgspec

from benchmarks.fleet import N_SAMPLES, experiment_of, fork_times, processor_s, proportional_mb, write_shards
from peer.files import folder_of
from peer.launcher import Watcher, groups, launch
from peer.settings import Experiment

LOOK_S = 0.01
"""Between two looks for agents that are ready."""


@dataclass(frozen=True)
class Measured:
    """What one run was measured to take: seconds, rounds a second, and, for each agent, milliseconds and MB."""

    up_s: float
    rounds_per_s: float
    processor_ms: float
    ready_mb: float
    middle_mb: float
    n_processes: int


class Stopwatch(Watcher):
    """Looks at the clock when the last agent is ready, and at the memory then and in the middle of the run.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    forked_s : float
        When the first process was forked, on the monotonic clock.
    """

    def __init__(self, run_dir: Path, experiment: Experiment, forked_s: float) -> None:
        logs = [folder_of(run_dir, i) / "log.jsonl" for i in range(experiment.peers)]
        self.metrics = folder_of(run_dir, 0) / "metrics.jsonl"
        self.middle = experiment.iterations // 2
        self.middle_mb: list[float] = []
        while logs and time.monotonic() - forked_s < experiment.run.patience_s:
            if logs[-1].exists() and '"ready"' in logs[-1].read_text(encoding="utf-8"):
                logs.pop()
            else:
                time.sleep(LOOK_S)
        self.n_waiting = len(logs)
        self.up_s = time.monotonic() - forked_s
        self.ready_mb = proportional_mb()

    def look(self) -> None:
        """Some time has passed."""
        if not self.middle_mb and self.metrics.read_text(encoding="utf-8").count("\n") >= self.middle:
            self.middle_mb = proportional_mb()


def measured(experiment: Experiment, run_dir: Path) -> Measured:
    """One run of an experiment."""
    forks, before_s, n = fork_times(), processor_s(), len(groups(experiment))
    watches: list[Stopwatch] = []

    def watch(run_dir: Path, experiment: Experiment) -> Watcher:
        watches.append(Stopwatch(run_dir, experiment, forks()[-n][0]))
        return watches[0]

    outcome = launch(experiment, run_dir, watch)
    if outcome.code != 0 or watches[0].n_waiting:
        click.echo(f"{watches[0].n_waiting} agents were not ready in time; {outcome.line}", err=True)
        sys.exit(1)
    quarter, lines = experiment.iterations // 4, watches[0].metrics.read_text(encoding="utf-8").splitlines()
    first_s, last_s = (json.loads(lines[n])["time_s"] for n in (quarter, 3 * quarter))
    return Measured(
        watches[0].up_s,
        2 * quarter / (last_s - first_s),
        1e3 * (processor_s() - before_s) / experiment.peers / experiment.iterations,
        sum(watches[0].ready_mb) / experiment.peers,
        sum(watches[0].middle_mb) / experiment.peers,
        n,
    )


def shown(k: int, runs: list[Measured]) -> Iterator[str]:
    """A row of the table: the medians of some runs."""
    yield f"{k:5d}"
    yield f"{runs[0].n_processes:9d}"
    for name, width, digits in (
        ("up_s", 8, 2),
        ("rounds_per_s", 10, 1),
        ("processor_ms", 14, 2),
        ("ready_mb", 9, 2),
        ("middle_mb", 12, 2),
    ):
        yield f"{median(getattr(run, name) for run in runs):{width}.{digits}f}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(3), default=64, help="Number of agents.")
@click.option("--together", "ks", type=int, multiple=True, default=(1, 8, 32, 64), help="Agents of a process.")
@click.option("--rounds", type=click.IntRange(8), default=100, help="Length of a run.")
@click.option("--repeats", type=int, default=3, help="Number of runs of each, in turn.")
@click.option("--graph", default="ring", help="Who is whose neighbor.")
@click.option("--digits", is_flag=True, help="The digits of scikit-learn, cut into a part for each.")
@click.option("--security", type=click.Choice(("curve", "none")), default="curve", help="Of the connections.")
def main(peers: int, ks: tuple[int, ...], rounds: int, repeats: int, graph: str, digits: bool, security: str) -> None:
    """Time, processor time and memory of agents that share processes."""
    found: dict[int, list[Measured]] = {k: [] for k in ks}
    replaced = msgspec.structs.replace
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not digits:
            write_shards(folder, peers)
        base = experiment_of(folder, peers, rounds, security, digits=digits)
        base = replaced(base, topology=replaced(base.topology, graph=graph))
        for repeat in range(repeats):
            for k in ks:
                experiment = replaced(base, run=replaced(base.run, agents_per_process=k, patience_s=600.0))
                found[k].append(measured(experiment, folder / f"run-{k}-{repeat}"))
    data = "digits" if digits else f"{N_SAMPLES} samples each"
    click.echo(
        f"{peers} agents on a {graph} graph, {data}, security {security}, medians of {repeats} runs of {rounds} rounds"
    )
    click.echo("    K  processes    up, s  rounds/s  ms/agent/round  MB ready  MB half way  (of an agent)")
    for k, runs in found.items():
        click.echo("  ".join(shown(k, runs)))


if __name__ == "__main__":
    main()
