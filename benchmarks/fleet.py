"""Many peers on this host, as `peer launch` starts them: how fast they are ready, and what memory each holds.

A peer is ready when it knows the sample counts of all others and has met its neighbors, so that round 0 can begin; its
journal says so. Memory is the proportional set size: pages that several processes share, those
of the warm parent above all, count in equal parts.

`--peers 1000 --digits --rounds 50 --repeats 1` is the largest fleet that fits: the digits of scikit-learn, one or two
for each peer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from typing import Final

import click
import numpy as np

from peer import history, settings
from peer.launcher import Watcher, launch
from peer.settings import Experiment

TARGET_S: Final[Mapping[int, float]] = {64: 0.7, 1_000: 10.0}
"""Longest time from the first fork to the last peer's being ready, for so many peers."""

TARGET_MB: Final = 6.0
"""Largest proportional set size of a peer."""

SAMPLED: Final = 50
"""Peers whose memory is looked at: for one the system goes through hundreds of mappings."""

LOOK_S: Final = 0.005
"""Between two looks for a peer that is ready."""

N_SAMPLES, N_FEATURES = 32, 10
"""Of a shard: small, so that what is measured is the peer."""


def write_shards(folder: Path, n_peers: int) -> None:
    """Shard files of two classes that a line divides, with noise."""
    rng = np.random.default_rng(7)
    direction = rng.standard_normal(N_FEATURES)
    for i in range(n_peers):
        x = rng.standard_normal((N_SAMPLES, N_FEATURES))
        y = (x @ direction + rng.standard_normal(N_SAMPLES) > 0).astype(np.int64)
        np.savez(folder / f"peer-{i:03d}.npz", x=x, y=y)


def experiment_of(
    folder: Path, n_peers: int, n_rounds: int, security: str, graph: str = "ring", digits: bool = False
) -> Experiment:
    """The peers of these shards, or of the digits."""
    return settings.from_tree(
        {
            "name": "fleet",
            "peers": n_peers,
            "iterations": n_rounds,
            "data": {"dataset": "digits"} if digits else {"path": str(folder / "peer-{id:03d}.npz")},
            "objective": {"loss": "cross_entropy"},
            "topology": {"graph": graph},
            "transport": {"security": security},
            "run": {"patience_s": 600.0},
        }
    )


def children() -> list[int]:
    """Processes that this one has started and that have not ended."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def proportional_mb() -> list[float]:
    """Proportional set size of children, MB, of SAMPLED of them at most; of one that is just ending, none."""
    found, pids = [], children()
    for pid in pids[:: max(1, len(pids) // SAMPLED)]:
        with suppress(ProcessLookupError, FileNotFoundError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")]
    return found


def ready_processor_s(folder: Path) -> float:
    """Processor seconds of a peer until it was ready; nan if it is not."""
    told = (event["processor_s"] for event in history.events(folder) if event["event"] == "ready")
    return float(next(told, math.nan))


class Stopwatch(Watcher):
    """Looks at the clock when the last peer is ready, and at the memory then and in the middle of the run.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    forked : (float, float)
        When the first peer was forked, on the monotonic clock, and the processor seconds of this process until then.
    """

    def __init__(self, run_dir: Path, experiment: Experiment, forked: tuple[float, float]) -> None:
        forked_s, before_s = forked
        forking_s = time.process_time() - before_s
        folders = [run_dir / "peers" / f"{i:03d}" for i in range(experiment.peers)]
        self.metrics = folders[0] / "metrics.jsonl"
        self.middle = experiment.iterations // 2
        self.all_forked_s = time.monotonic() - forked_s
        waiting = [folder / "log.jsonl" for folder in folders]
        while waiting and time.monotonic() - forked_s < experiment.run.patience_s:
            if waiting[-1].exists() and '"ready"' in waiting[-1].read_text(encoding="utf-8"):
                waiting.pop()  # one after the other: to read all again and again would take a processor from them
            else:
                time.sleep(LOOK_S)
        self.ready_s = time.monotonic() - forked_s
        self.processor_s = forking_s + sum(ready_processor_s(folder) for folder in folders)
        self.n_waiting = len(waiting)
        self.ready_mb = proportional_mb()
        self.middle_mb: list[float] = []

    def look(self) -> None:
        """Some time has passed."""
        if not self.middle_mb and self.metrics.read_text(encoding="utf-8").count("\n") >= self.middle:
            self.middle_mb = proportional_mb()


def fork_times() -> Callable[[], Sequence[tuple[float, float]]]:
    """When this process forked, from now on, on the monotonic clock, and its processor seconds until then."""
    times: list[tuple[float, float]] = []
    os.register_at_fork(before=lambda: times.append((time.monotonic(), time.process_time())))
    return lambda: times


def processor_s() -> float:
    """Processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verdict(values: Sequence[float], target: float | None, unit: str) -> str:
    """Median and largest of some values against the most that the largest may be, if there is such."""
    if not values:
        return "not measured: the run was over too soon"
    told = f"median {median(values):.2f}, most {max(values):.2f} {unit}"
    if target is None:
        return told
    return f"{told}; target < {target:g} {unit} {'met' if max(values) < target else 'missed'}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--peers", type=click.IntRange(3), default=64, help="Number of peers.")
@click.option("--rounds", type=int, default=200, help="Length of a run.")
@click.option("--repeats", type=int, default=3, help="Number of runs.")
@click.option("--security", type=click.Choice(("curve", "none")), default="curve", help="Of the connections.")
@click.option("--graph", type=click.Choice(("ring", "grid", "exponential")), default="ring", help="Who is connected.")
@click.option("--digits", is_flag=True, help="The digits of scikit-learn, cut into a part for each.")
def main(peers: int, rounds: int, repeats: int, security: str, graph: str, digits: bool) -> None:
    """Seconds until a fleet is ready, and memory of a peer then and in the middle of its run."""
    forks = fork_times()
    forked, ready, whole, ready_mb, middle_mb = [], [], [], [], []
    until_ready, until_done = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not digits:
            write_shards(folder, peers)
        experiment = experiment_of(folder, peers, rounds, security, graph, digits)
        for k in range(repeats):
            watches: list[Stopwatch] = []

            def watch(run_dir: Path, experiment: Experiment, watches: list[Stopwatch] = watches) -> Watcher:
                watches.append(Stopwatch(run_dir, experiment, forks()[-peers]))
                return watches[0]

            before_s = processor_s()
            outcome = launch(experiment, folder / f"run-{k}", watch)
            until_done.append(1e3 * (processor_s() - before_s) / peers)
            if outcome.code != 0 or watches[0].n_waiting:
                click.echo(f"{watches[0].n_waiting} peers were not ready in time; {outcome.line}", err=True)
                sys.exit(1)
            forked.append(watches[0].all_forked_s)
            ready.append(watches[0].ready_s)
            whole.append(outcome.seconds)
            until_ready.append(1e3 * watches[0].processor_s / peers)
            ready_mb += watches[0].ready_mb
            middle_mb += watches[0].middle_mb
    data = "digits" if digits else f"{N_SAMPLES} samples each"
    click.echo(f"{peers} peers, {graph}, {data}, security {security}, {repeats} runs of {rounds} rounds, exit code 0")
    click.echo(f"  all forked          median {median(forked):.2f}, most {max(forked):.2f} s")
    click.echo(f"  all ready           {verdict(ready, TARGET_S.get(peers), 's')}")
    click.echo(f"  all rounds done     {verdict(whole, None, 's')}")
    click.echo(f"  processor, a peer   until ready, its fork included: {verdict(until_ready, None, 'ms')}")
    click.echo(f"                      all: {verdict(until_done, None, 'ms')}")
    click.echo(f"  memory, all ready   {verdict(ready_mb, TARGET_MB, 'MB')}")
    click.echo(f"  memory, half way    {verdict(middle_mb, TARGET_MB, 'MB')}")
    if middle_mb:
        click.echo(f"  of all, half way    {peers * mean(middle_mb) / 1e3:.2f} GB, by the mean of those looked at")


if __name__ == "__main__":
    main()
