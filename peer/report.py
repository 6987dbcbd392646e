"""A run on one page: `report.html`, of a finished or a running one, with nothing outside it. Never in a peer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np

from peer import __version__, config, figures, journal, settings
from peer.arrays import Vector
from peer.errors import ConfigError
from peer.figures import Curves
from peer.journal import Epoch, Round
from peer.settings import Experiment
from topology import Outlets, PeerId, Schedule, TopologyError, gossip, schedules
from topology.outlets import wakings_to_connect
from topology.weights import make

MOST_ROUNDS: Final = 1_000
"""Looked at for the connectivity window and the mixing rate, which take a second for so many and 64 peers."""

INTERRUPTED: Final = 130
"""Exit code of a peer that was told to go."""

MOST_MARKS: Final = 40
"""Epochs that figures mark: more lines would hide what is behind them."""

MANY_LINES: Final = 5.0
"""A positive objective that has fallen by this factor is shown on a logarithmic axis: the end would be flat else."""


class Central(msgspec.Struct, frozen=True):
    """What a report shows of central training."""

    objective: float
    stationarity: float
    seconds: float
    test: Mapping[str, float] = {}
    solver: str = ""


class Row(msgspec.Struct, frozen=True):
    """What a report shows of a peer's row in the summary."""

    peer: int
    objective: float | None


class Summary(msgspec.Struct, frozen=True):
    """What a report shows of `summary.json`; it has more."""

    iterations: int
    seconds: float
    parameters: int
    samples: int
    bytes: int
    disagreement: float
    objective: float | None
    stationarity: float | None
    per_peer: tuple[Row, ...]
    test: Mapping[str, float] = {}
    shards_seen: tuple[int, ...] | None = None
    members: tuple[int, ...] | None = None
    neurons_off: Mapping[str, tuple[int, ...]] = {}
    central: Central | None = None
    stopped: str = "iterations"
    kept: int | None = None


@final
@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory says so far.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    text : str
        Of `experiment.toml`.
    schedule : Schedule or Outlets
        Who met whom, or who pushed to whom.
    rounds : dict of int to list of Round
        Of each peer; without rounds its wakings.
    logs : dict of int to list of dict
        Events of each peer.
    epochs : list of Epoch
        Without rounds, the newest last.
    summary : Summary or None
        None where it has not come to its end.
    """

    run_dir: Path
    experiment: Experiment
    text: str
    schedule: Schedule | Outlets
    rounds: Mapping[PeerId, list[Round]]
    logs: Mapping[PeerId, list[dict[str, Any]]]
    epochs: list[Epoch]
    summary: Summary | None

    @property
    def has_rounds(self) -> bool:
        """Whether it has rounds."""
        return self.experiment.run.mode == "rounds"

    @property
    def unit(self) -> str:
        """What peers make one after the other."""
        return "round" if self.has_rounds else "waking"

    @cached_property
    def epoch(self) -> Epoch | None:
        """Without rounds: the epoch that the summary is of; the newest one where there is no summary."""
        told = self.summary.members if self.summary is not None else None
        return next((epoch for epoch in reversed(self.epochs) if told in (None, epoch.members)), None)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All peers; without rounds those of the epoch."""
        return self.epoch.members if self.epoch is not None else tuple(range(self.experiment.peers))

    @property
    def begun(self) -> list[PeerId]:
        """Peers of which there is a round."""
        return [peer for peer, lines in self.rounds.items() if lines]

    def current(self, peer: PeerId) -> list[Round]:
        """The rounds of a peer; without rounds its wakings in the epoch."""
        number = self.epoch.number if self.epoch is not None else 0
        return [line for line in self.rounds.get(peer, []) if line.epoch == number]

    @cached_property
    def n_done(self) -> int:
        """Rounds, or wakings of the epoch, that all members have done."""
        return min(len(self.current(peer)) for peer in self.members)

    @cached_property
    def began_s(self) -> float:
        """When the first peer was started, as `journal.clocks`."""
        return min((journal.began_s(log) for log in self.logs.values() if log), default=0.0)

    @property
    def times(self) -> dict[PeerId, Vector] | None:
        """Without rounds: when each waking was, in seconds since the start of the first peer."""
        if self.has_rounds:
            return None
        clocks = {peer: journal.waking_clocks(self.rounds[peer], self.logs[peer]) for peer in self.begun}
        return {peer: np.array(found) - self.began_s for peer, found in clocks.items()}

    def column(self, name: str) -> dict[PeerId, Vector]:
        """A number of every round, by peer."""
        lines = {peer: self.rounds[peer] for peer in self.begun}
        return {peer: np.array([getattr(line, name) for line in found], float) for peer, found in lines.items()}

    def total(self, name: str) -> dict[PeerId, float]:
        """The sum over the rounds, of each peer."""
        return {peer: sum(getattr(line, name) for line in lines) for peer, lines in self.rounds.items()}

    def starts(self, peer: PeerId) -> list[dict[str, Any]]:
        """Events of a peer's starts."""
        return [event for event in self.logs[peer] if event["event"] == "start"]

    def samples(self, peer: PeerId) -> int | None:
        """How many a peer has, as it said at its start."""
        return next((event.get("samples") for event in self.starts(peer)), None)

    def end(self, peer: PeerId) -> tuple[int, str] | None:
        """Exit code of a peer that has ended, and why."""
        log = self.logs.get(peer)
        last = log[-1] if log else None
        if last is None or last["event"] != "end" or not isinstance(last.get("code"), int):
            return None
        return last["code"], str(last.get("problem", ""))

    def state(self, peer: PeerId) -> str:
        """How far a peer is, in words."""
        end = self.end(peer)
        gone = peer not in self.members and any(peer in epoch.members for epoch in self.epochs)
        if gone and (end is None or end[0] == INTERRUPTED):
            return "lost" if end is None else "left"
        if end is not None:
            return "done" if end[0] == 0 else f"ended with exit code {end[0]}"
        return "running, or killed" if self.logs[peer] else "not seen yet"


# ---- reading -------------------------------------------------------------------------------


def experiment_of(run_dir: Path) -> Experiment:
    """The experiment of a run directory.

    Raises
    ------
    ConfigError
        It is none.
    """
    path = run_dir / "experiment.toml"
    if not path.exists():
        raise ConfigError(str(run_dir), "expected a run directory, found no experiment.toml in it")
    return settings.read(path)


def read(run_dir: Path) -> Run:
    """Everything that a report tells.

    Raises
    ------
    ConfigError
        It is no run directory, or a file in it is malformed; names the file.
    """
    experiment = experiment_of(run_dir)
    folders = {peer: journal.folder_of(run_dir, peer) for peer in journal.everybody(run_dir, experiment.peers)}
    logs = {peer: journal.events(folder) for peer, folder in folders.items()}
    return Run(
        run_dir=run_dir,
        experiment=experiment,
        text=(run_dir / "experiment.toml").read_text(encoding="utf-8"),
        schedule=_schedule(experiment, run_dir / "schedule.jsonl"),
        rounds={peer: journal.rounds(folder) for peer, folder in folders.items()},
        logs=logs,
        epochs=journal.epochs(logs),
        summary=_summary(run_dir / "summary.json"),
    )


def _schedule(experiment: Experiment, record: Path) -> Schedule | Outlets:
    """The schedule; one that came from a file, from its copy in the run directory."""
    if experiment.run.mode == "async":
        if experiment.topology.schedule == "file" and record.exists():
            topology = msgspec.structs.replace(experiment.topology, path=str(record))
            experiment = msgspec.structs.replace(experiment, topology=topology)
        return config.outlets_of(experiment)
    if experiment.topology.schedule != "file" or not record.exists():
        return config.schedule_of(experiment)
    try:
        return schedules.load(record, experiment.peers)
    except TopologyError as error:
        raise ConfigError("schedule", str(error)) from error


def _summary(path: Path) -> Summary | None:
    if not path.exists():
        return None
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Summary)
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(str(path), f"expected a summary of a run, found: {error}") from error


# ---- the page ------------------------------------------------------------------------------


def write(run_dir: Path) -> Path:
    """Write `report.html` into a run directory; its path.

    Raises
    ------
    ConfigError
        It is no run directory, a file in it is malformed, or the report cannot be written.
    """
    text = page(read(run_dir))
    path = run_dir / "report.html"
    beside = path.with_name("report.html.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot write the report: {error.strerror}") from error
    return path


def page(run: Run) -> str:
    """The report of a run, as HTML."""
    kind, verdict = _verdict(run)
    name = escape(run.experiment.name)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}: report of next-peer</title>
<style>
{STYLE}
@media (prefers-color-scheme: dark) {{
{figures.dark()}
}}
</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="verdict {kind}">{escape(verdict)}</p>
</header>
<main>
{_results(run)}
{_pictures(run)}
{_peers(run)}
{_epochs(run)}{_network(run)}
{_reproduction(run)}
</main>
<footer>Written by <code>peer report</code> of next-peer {escape(__version__)}.</footer>
</body>
</html>
"""


def _verdict(run: Run) -> tuple[str, str]:
    """How the run stands: a class of the page, and a sentence."""
    experiment, found, members = run.experiment, run.summary, run.members
    n_peers = f"{len(members)} peers" if len(members) > 1 else "One peer"
    unit = f"{run.unit}s"
    if found is not None:
        said = f"{n_peers} finished {found.iterations} {unit} in {found.seconds:.1f} s."
        if found.stopped == "tolerance":
            said += f" They stopped before round {experiment.iterations}, for all agreed to be within the tolerance."
        if found.stopped == "validation":
            said += f" They stopped before round {experiment.iterations}, for the validation loss fell no more."
        if found.kept is not None:
            said += f" The result is what they had at the start of round {found.kept}."
        if not run.has_rounds:
            said = (
                f"{n_peers} finished {experiment.iterations} {unit} or more each in {found.seconds:.1f} s.{_moves(run)}"
            )
        if found.central is not None and found.objective is not None:
            gap = (found.objective - found.central.objective) / max(abs(found.central.objective), 1e-300)
            said += (
                f" Their objective is {abs(gap):.2g} (relative) {'above' if gap >= 0 else 'below'} central training."
            )
        return "done", said
    failed = {peer: end for peer in members if (end := run.end(peer)) is not None and end[0] != 0}
    since = "" if len(run.epochs) < 2 else " since members changed last"
    progress = f"{run.n_done} of {experiment.iterations} {unit} are done by all{since}; there are no final results yet."
    if failed:
        # the cause before those that missed a neighbor, and those before whoever was told to stop
        peer, (code, problem) = min(
            failed.items(), key=lambda item: ({3: 1, INTERRUPTED: 2}.get(item[1][0], 0), item[0])
        )
        return "failed", f"Not finished: peer {peer} ended with exit code {code} ({problem or 'no reason'}). {progress}"
    if all(run.end(peer) is not None for peer in members):
        n_done = run.n_done if run.has_rounds else experiment.iterations
        return "done", f"{n_peers} finished {n_done} {unit}; they have not been summarized."
    return "running", f"Not finished: {progress}"


def _moves(run: Run) -> str:
    """Who has gone for good, and who has come, in words; empty where nobody has."""
    before = set(run.epochs[0].members if run.epochs else range(run.experiment.peers))
    gone = sorted({peer for epoch in run.epochs for peer in epoch.members}.union(before).difference(run.members))
    come = sorted(set(run.members) - before)
    parts = [f"{_names(peers)} had {word}" for peers, word in ((gone, "gone"), (come, "come")) if peers]
    return f" By then {' and '.join(parts)}." if parts else ""


def _results(run: Run) -> str:
    """The table of the final network, or of the last round that all have done."""
    found = run.summary
    if found is None:
        return _so_far(run)
    central = found.central
    rows = [
        ["objective", _shown(found.objective, ".6g")],
        ["stationarity", _shown(found.stationarity, ".2e")],
        ["disagreement", _shown(found.disagreement, ".2e")],
        *([f"test {name}", _shown(value, ".4f")] for name, value in found.test.items()),
        ["time (s)", _shown(found.seconds, ".1f")],
        ["sent", _size(found.bytes)],
    ]
    head = ["", "consensus of the peers"]
    if central is not None:
        head.append("trained centrally" + (f", by {central.solver}" if central.solver else ""))
        beside = [
            _shown(central.objective, ".6g"),
            _shown(central.stationarity, ".2e"),
            "-",
            *(_shown(central.test.get(name), ".4f") for name in found.test),
            _shown(central.seconds, ".1f"),
            "-",
        ]
        rows = [[*row, other] for row, other in zip(rows, beside, strict=True)]
    note = "Of the mean of the peers' final parameters."
    if not run.has_rounds:
        note = (
            f"Of the members at the end, {journal.ranges(run.members)}: their data, and the mean of their parameters."
        )
    note += " Stationarity: ‖w − prox(w − ∇G(w))‖∞."
    seen = found.shards_seen
    if seen is not None and len(seen) < len(run.members):
        which = f"only those of {_names(seen)}" if seen else "none"
        note += f" Of the peers' shards {which} could be seen here: the objective is the sum over these."
    for layer, neurons in found.neurons_off.items():
        which = f"neuron{'s' * (len(neurons) > 1)} {journal.ranges(neurons)}" if neurons else "no neuron"
        note += f" The penalty has switched off {which} of {layer}."
    return _section("Results", _table(head, rows) + f"<p>{escape(note)}</p>")


def _so_far(run: Run) -> str:
    n = run.n_done
    done = [run.current(peer)[n - 1] for peer in run.members if n]
    rows = [[f"{run.unit}s done by all", f"{n} of {run.experiment.iterations}"]]
    if done:
        rows += [
            ["objective estimate, median", _shown(float(np.median([line.objective_estimate for line in done])), ".6g")],
            ["stationarity residual, largest", _shown(max(line.residual for line in done), ".2e")],
            ["disagreement, mean", _shown(float(np.mean([line.disagreement for line in done])), ".2e")],
            ["time (s)", _shown(_time_s(run, done), ".1f")],
        ]
    rows += [["sent", _size(sum(run.total("bytes_sent").values()))]]
    return _section(
        "So far", _table(["", "peers"], rows) + "<p>No final results yet: the run has not come to its end.</p>"
    )


def _time_s(run: Run, done: Sequence[Round]) -> float:
    """When the last of some rounds was over; without rounds, when the last waking of all was."""
    times = run.times
    return max(line.time_s for line in done) if times is None else max(float(found[-1]) for found in times.values())


def _pictures(run: Run) -> str:
    estimates = run.column("objective_estimate")
    central = run.summary.central.objective if run.summary is not None and run.summary.central is not None else None
    sent = {peer: np.cumsum(values) for peer, values in run.column("bytes_sent").items()}
    factor, unit = _unit(max((float(values[-1]) for values in sent.values()), default=0.0))
    in_unit = {peer: values / factor for peer, values in sent.items()}
    many = " Line: median of the peers; area: from the least to the greatest." * (len(run.begun) > figures.FEW)
    begun = run.begun
    effort = [[run.total(name)[peer] for peer in begun] for name in ("solve_s", "wait_s")]
    times = run.times
    breaks = {peer: [int(event.get("n", 0)) for event in run.starts(peer)] for peer in begun if times is not None}
    marks = [epoch.clock_s - run.began_s for epoch in run.epochs[1:]][:MOST_MARKS]
    many += " Dashed: a new epoch." * bool(marks)
    moved = "‖w[n+1] − z‖²: how far averaging moved each peer. Rounds without a neighbor are left out."
    waited = "waiting for its neighbors' shares"
    if times is not None:
        moved = "‖w⁺ − v‖²: how far averaging moved each peer at a waking. Wakings without a flow are left out."
        waited = "waiting for flows between its wakings"
    drawn = [
        (
            "Objective",
            "U as each peer estimates it, from the tracked mean of all g and its own parameters."
            + " Dotted: central training." * (central is not None)
            + many,
            Curves("objective estimate", estimates, _falls(estimates), central, times, marks, breaks).svg("objective"),
        ),
        *(
            (
                "Validation",
                "Loss over the samples that are held out, as each peer estimates it, from the tracked mean." + many,
                Curves("validation loss", estimates, _falls(estimates), None, times, marks, breaks).svg("validation"),
            )
            for estimates in ([run.column("validation_estimate")] if run.experiment.holds_out else [])
        ),
        (
            "Stationarity",
            "Residual ‖w − prox(w − I y)‖∞ of each peer, with its tracker y; 0 at a stationary point." + many,
            Curves("stationarity residual", run.column("residual"), True, None, times, marks, breaks).svg("residual"),
        ),
        (
            "Disagreement",
            moved + many,
            Curves("disagreement", run.column("disagreement"), True, None, times, marks, breaks).svg("disagreement"),
        ),
        (
            "Communication",
            "Bytes that each peer has sent, cumulative; headers and encryption are in them." + many,
            Curves(f"sent ({unit})", in_unit, False, None, times, marks, breaks).svg("sent"),
        ),
        (
            "Time",
            f"What each peer spent on its surrogates, and on {waited}.",
            figures.effort(effort[0], effort[1], begun, "effort"),
        ),
        ("Links", *_links(run)),
    ]
    shown = "\n".join(
        f'<figure role="group" aria-label="{escape(title)}">{svg}'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>"
        for title, caption, svg in drawn
    )
    return _section("Figures", f'<div class="figures">{shown}</div>')


def _links(run: Run) -> tuple[str, str]:
    """Caption and drawing of the links."""
    if not isinstance(run.schedule, Outlets):
        told = "All links of the run; those that never were up are pale."
        return told, figures.links(run.schedule, run.experiment.n_exchanges, "links")
    used = {(j, peer) for peer in run.members for line in run.current(peer) for j in line.heard}
    told = "Who pushes to whom among the members of the newest epoch. Where no flow came, as the peers wrote it down "
    return told + "here, arrows are pale.", figures.arcs(run.schedule, run.members, used, "links")


def _falls(series: Mapping[PeerId, Vector]) -> bool:
    """Whether positive values range over so much that a logarithmic axis shows more."""
    values = np.concatenate([*series.values(), np.zeros(0)])
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(values.min() > 0.0) and bool(values.max() > MANY_LINES * values.min())


def _peers(run: Run) -> str:
    final_objective = {} if run.summary is None else {row.peer: row.objective for row in run.summary.per_peer}
    totals = {name: run.total(name) for name in ("solve_s", "wait_s", "bytes_sent", "bytes_received")}
    rows = []
    for peer, lines in run.rounds.items():
        objective = lines[-1].objective_estimate if lines else None
        if run.summary is not None:
            objective = final_objective.get(peer)
        dropped = lines[-1].dropped if lines else {}
        rows.append(
            [
                str(peer),
                _shown(run.samples(peer), "d"),
                f"{len(lines)}",
                _shown(objective, ".6g"),
                f"{totals['solve_s'][peer]:.2f}",
                f"{totals['wait_s'][peer]:.2f}",
                _size(totals["bytes_sent"][peer]),
                _size(totals["bytes_received"][peer]),
                ", ".join(f"{n} {cause}" for cause, n in sorted(dropped.items())) or "none",
                run.state(peer),
            ]
        )
    which = "objective" if run.summary is not None else "objective estimate"
    head = [
        "peer",
        "samples",
        f"{run.unit}s",
        which,
        "solving (s)",
        "waiting (s)",
        "sent",
        "received",
        "dropped",
        "state",
    ]
    return _section("Peers", _table(head, rows))


def _epochs(run: Run) -> str:
    """The table of who took part, and when; without rounds."""
    if run.has_rounds:
        return ""
    rows, before = [], set[PeerId]()
    for epoch in run.epochs:
        now = set(epoch.members)
        came, went = sorted(now - before), sorted(before - now)
        rows.append(
            [
                f"{epoch.clock_s - run.began_s:.1f}",
                str(len(now)),
                journal.ranges(epoch.members),
                (journal.ranges(came) or "-") if before else "-",
                journal.ranges(went) or "-",
                str(epoch.n_samples),
                f"{len(epoch.opened)}",
            ]
        )
        before = now
    head = ["time (s)", "I", "members", "came", "went", "samples M", "opened by"]
    note = (
        "When members change, those that are left, or have come, begin an epoch with new weights, from the parameters "
        "that they have. Peers that have not heard of each other's news yet may be in different ones for a moment; "
        "one that went and came back in between makes a new epoch with the same members."
    )
    return _section("Epochs", _table(head, rows) + f"<p>{escape(note)}</p>") + "\n"


def _network(run: Run) -> str:
    experiment, schedule = run.experiment, run.schedule
    topology, n_steps = experiment.topology, experiment.topology.consensus_steps
    n_rounds = min(experiment.iterations, max(1, MOST_ROUNDS // n_steps))
    base = "" if topology.schedule in ("file", "one-peer-exponential") else f" on {topology.graph}"
    if isinstance(schedule, Outlets):
        return _directed(run, schedule, topology.schedule + base)
    whole = schedules.union(schedule, experiment.n_exchanges)
    degrees = [whole.degree(i) for i in range(schedule.n_agents)]
    looked = "" if n_rounds == experiment.iterations else f" (in the first {n_rounds} rounds)"
    try:
        n_window = schedules.connectivity_window(schedule, n_rounds * n_steps)
        window = f"{n_window} {'round' if n_steps == 1 else 'exchange'}{'s' * (n_window > 1)}{looked}"
        weights = make(topology.weights, schedule)
        rounds = gossip.make(topology.consensus, n_steps, schedule, weights)
        rate = f"{gossip.round_rate(schedule, n_rounds, weights, rounds):.6f} a round{looked}"
    except TopologyError:
        window = rate = f"none: not all peers are connected{looked}"
    rows = [
        ["schedule", topology.schedule + base],
        ["links", str(len(whole.edges))],
        ["neighbors of a peer", f"{min(degrees)} to {max(degrees)}"],
        ["connectivity window", window],
        ["weights", topology.weights],
        *([["exchanges a round", f"{n_steps}, {topology.consensus}"]] if n_steps > 1 else []),
        ["mixing rate", rate],
    ]
    note = (
        "Over the whole run. The links of any window of rounds, put together, connect all peers; "
        "the mixing rate is what averaging alone is sure to leave of the disagreement."
    )
    return _section("Network", _table(["", ""], rows) + f"<p>{escape(note)}</p>")


def _directed(run: Run, outlets: Outlets, name: str) -> str:
    members = run.members
    try:
        n_wakings = str(wakings_to_connect(outlets, members, run.experiment.iterations))
    except TopologyError:
        n_wakings = "none: not all peers are connected"
    each = [outlets.of(members, i) for i in members]
    out, into = [len(one.out_neighbors) for one in each], [len(one.in_neighbors) for one in each]
    rows = [
        ["schedule", name],
        ["links, each of one direction", str(sum(out))],
        ["neighbors that a peer pushes to", f"{min(out)} to {max(out)}"],
        ["neighbors that push to a peer", f"{min(into)} to {max(into)}"],
        ["wakings until strongly connected", n_wakings],
    ]
    note = (
        "Among the members of the newest epoch: with others, links follow their sorted ids. "
        "By what all push in so many first wakings, everybody reaches everybody."
    )
    return _section("Network", _table(["", ""], rows) + f"<p>{escape(note)}</p>")


def _reproduction(run: Run) -> str:
    software = run.experiment.software
    pinned = [f"{name}=={version}" for name, version in software.items() if name not in ("python", "next-peer")]
    install = [shlex.join(["python", "-m", "pip", "install", *pinned])] * (len(pinned) > 0)
    told = (
        "In the run directory. Two runs of one experiment give identical parameters, on machines of one type and "
        "with the same versions."
    )
    if not run.has_rounds:
        told = (
            "In the run directory. It starts the initial members again; who goes and who comes is not in it. Where "
            "the same are members at the end, two runs of one experiment come to the same optimum if there is one, not "
            "to the same bits: these depend on which flow came when."
        )
    parts = [
        f"<p>{told}</p>",
        _pre([*install, repeating(run)]),
        "<h3>Software</h3>",
        _table(["", "version"], [list(item) for item in software.items()]) if software else "<p>Not recorded.</p>",
        "<h3>Experiment</h3>",
        f"<details><summary>experiment.toml, every setting</summary>{_pre([run.text.rstrip()])}</details>",
    ]
    return _section("Reproducing it", "\n".join(parts))


def repeating(run: Run) -> str:
    """The command that repeats a run, from within its directory, wherever that has gone since."""
    changed = {"transport.addresses": "[]"}  # free ones
    if (run.run_dir / "shards" / "peer-000.npz").exists():
        changed["data.path"] = "shards/peer-{id:03d}.npz"
        if (run.run_dir / "shards" / "test.npz").exists():
            changed["data.test_path"] = "shards/test.npz"
    if run.experiment.topology.schedule == "file":
        changed["topology.path"] = "schedule.jsonl"
    options = (part for key, value in changed.items() for part in ("--set", f"{key}={value}"))
    return shlex.join(["peer", "launch", "experiment.toml", "--out", "again", *options])


# ---- its parts -----------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows; it scrolls by itself where it is too wide or too long."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    shown = f"<thead><tr>{heads}</tr></thead>\n" if any(head) else ""
    return f'<div class="table" tabindex="0"><table>\n{shown}<tbody>\n{lines}\n</tbody></table></div>'


def _pre(lines: Sequence[str]) -> str:
    return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>'


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _names(peers: Sequence[int]) -> str:
    return f"peer{'s' * (len(peers) > 1)} {', '.join(map(str, peers))}"


def _unit(n_bytes: float) -> tuple[float, str]:
    """What to divide a number of bytes by, for a person, and the unit that it is in then."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            return factor, unit
    return 1.0, "B"


def _size(n_bytes: float) -> str:
    factor, unit = _unit(n_bytes)
    return f"{n_bytes / factor:.{1 if factor > 1.0 else 0}f}\N{NO-BREAK SPACE}{unit}"


STYLE: Final = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #22272b; --pale: #5b646c; --line: #d5d9dc; --box: #f4f6f7;
  --done: #009e73; --running: #0072b2; --failed: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15191d; --ink: #e6e9ec; --pale: #a3adb5; --line: #3a4147; --box: #1e2429;
    --done: #2fc99b; --running: #56b4e9; --failed: #f58a45;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem); max-width: 84rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 .5rem; font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 2.2rem 0 .8rem; font-size: 1.25rem }
h3 { margin: 1.4rem 0 .5rem; font-size: 1rem }
p, figcaption { max-width: 46rem }
section > p, footer, figcaption { color: var(--pale); font-size: .9rem }
.verdict { margin: 0; padding: .6rem .9rem; border-left: .3rem solid; background: var(--box); overflow-wrap: anywhere }
.done { border-color: var(--done) } .running { border-color: var(--running) } .failed { border-color: var(--failed) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem }
figure { margin: 0 }
svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit !important }
figcaption { margin-top: .4rem }
.table { overflow: auto; max-height: 36rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child { padding-left: .2rem; text-align: left; font-weight: 600 }
thead th { position: sticky; top: 0; background: var(--paper); font-weight: 600 }
pre { margin: 0 0 1rem; padding: .8rem 1rem; overflow: auto; background: var(--box); font-size: .85rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer; margin-bottom: .5rem }
footer { margin-top: 3rem }
@media (max-width: 34rem) {
  th, td { padding: .3rem .5rem; font-size: .9rem }
  td, thead th { white-space: normal; vertical-align: bottom }
  td { min-width: 4.2rem }
}
@media print {
  .table { max-height: none }
  figure, tr { break-inside: avoid }
}"""
"""Of the page."""
