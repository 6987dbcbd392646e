"""What a page says of one run: how it stands, and its tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

import numpy as np

from peer import history
from peer.errors import INTERRUPTED, LOST
from peer.report.markup import folded, names, note, pre, section, shown, size, table
from peer.report.reading import WHOLE, Run
from peer.settings import Experiment
from topology import Outlets, PeerId, TopologyError, gossip, windows
from topology.outlets import wakings_to_connect
from topology.weights import make

MOST_ROUNDS: Final = 1_000
"""Looked at for the connectivity window and the mixing rate, which take a second for so many and 64 peers."""


def verdict(run: Run) -> tuple[str, str]:
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
    if run.absent:
        others = f"the others have all done {run.n_done_here} of {experiment.iterations} {unit}{since}"
        progress = f"Nothing of {names(run.absent)} is in this directory; {others}. There are no final results here."
    left = [peer for peer in run.here if run.logs.get(peer) and run.end(peer) is None]
    if failed and left and all(code == INTERRUPTED for code, _ in failed.values()):
        itself, were = "itself" if len(left) == 1 else "themselves", "was" if len(failed) == 1 else "were"
        killed = f"{names(left)} did not end by {itself} (running, or killed)"
        told = f"{names(sorted(failed))} {were} told to stop"
        return "failed", f"Not finished: {killed}; {told}. {progress}"
    if failed:
        # the cause before those that missed a neighbor, and those before whoever was told to stop
        peer, (code, problem) = min(
            failed.items(), key=lambda item: ({LOST: 1, INTERRUPTED: 2}.get(item[1][0], 0), item[0])
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
    parts = [f"{names(peers)} had {word}" for peers, word in ((gone, "gone"), (come, "come")) if peers]
    return f" By then {' and '.join(parts)}." if parts else ""


def results(run: Run) -> str:
    """The table of the final network, or of the last round that all have done."""
    found = run.summary
    if found is None:
        return so_far(run)
    central = found.central
    rows = [
        ["objective", shown(found.objective, ".6g")],
        ["stationarity", shown(found.stationarity, ".2e")],
        ["disagreement", shown(found.disagreement, ".2e")],
        *([f"test {name}", shown(value, ".4f")] for name, value in found.test.items()),
        ["time (s)", shown(found.seconds, ".1f")],
        ["sent", size(found.bytes)],
    ]
    head = ["", "consensus of the peers"]
    if central is not None:
        head.append("trained centrally" + (f", by {central.solver}" if central.solver else ""))
        beside = [
            shown(central.objective, ".6g"),
            shown(central.stationarity, ".2e"),
            "-",
            *(shown(central.test.get(name), ".4f") for name in found.test),
            shown(central.seconds, ".1f"),
            "-",
        ]
        rows = [[*row, other] for row, other in zip(rows, beside, strict=True)]
    words = "Of the mean of the peers' final parameters."
    if not run.has_rounds:
        words = (
            f"Of the members at the end, {history.ranges(run.members)}: their data, and the mean of their parameters."
        )
    words += " Stationarity: ‖w − prox(w − ∇G(w))‖∞."
    if found.regime.of != WHOLE:
        words += f" Objective, stationarity and test are those of {found.regime.of}."
    seen = found.shards_seen
    if seen is not None and len(seen) < len(run.members):
        which = f"only those of {names(seen)}" if seen else "none"
        words += f" Of the peers' shards {which} could be seen here: the objective is the sum over these."
    for layer, neurons in found.neurons_off.items():
        which = f"neuron{'s' * (len(neurons) > 1)} {history.ranges(neurons)}" if neurons else "no neuron"
        words += f" The penalty has switched off {which} of {layer}."
    return section("Results", table(head, rows) + note(words))


def so_far(run: Run) -> str:
    """The table of the last round that all have done."""
    n = run.n_done_here
    done = [run.current(peer)[n - 1] for peer in run.here if n]
    rows = [[f"{run.unit}s done by all{' who are here' * bool(run.absent)}", f"{n} of {run.experiment.iterations}"]]
    if done:
        residual = max(line.residual for line in done) if run.experiment.tracks else None
        rows += [
            ["objective estimate, median", shown(float(np.median([line.objective_estimate for line in done])), ".6g")],
            ["stationarity residual, largest", shown(residual, ".2e")],
            ["disagreement, mean", shown(float(np.mean([line.disagreement for line in done])), ".2e")],
            ["time (s)", shown(_time_s(run), ".1f")],
        ]
    rows += [["sent", size(sum(run.total("bytes_sent").values()))]]
    return section(
        "So far", table(["", "peers"], rows) + note("No final results yet: the run has not come to its end.")
    )


def _time_s(run: Run) -> float:
    """When the last round that all have done was over; without rounds, when the last waking of all was."""
    times = run.times
    if times is None:
        n = run.n_done_here
        return max(history.waking_clocks(run.current(peer)[:n], run.logs[peer])[-1] for peer in run.here)
    return max(float(found[-1]) for found in times.values())


def peers_table(run: Run) -> str:
    """The table with a row a peer."""
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
                shown(run.samples(peer), "d"),
                f"{len(lines)}",
                shown(objective, ".6g"),
                f"{totals['solve_s'][peer]:.2f}",
                f"{totals['wait_s'][peer]:.2f}",
                size(totals["bytes_sent"][peer]),
                size(totals["bytes_received"][peer]),
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
    return section("Peers", table(head, rows))


def epochs_table(run: Run) -> str:
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
                history.ranges(epoch.members),
                (history.ranges(came) or "-") if before else "-",
                history.ranges(went) or "-",
                str(epoch.n_samples),
                f"{len(epoch.opened)}",
            ]
        )
        before = now
    head = ["time (s)", "I", "members", "came", "went", "samples M", "opened by"]
    words = (
        "When members change, those that are left, or have come, begin an epoch with new weights, from the parameters "
        "that they have. Peers that have not heard of each other's news yet may be in different ones for a moment; "
        "one that went and came back in between makes a new epoch with the same members."
    )
    return section("Epochs", table(head, rows) + note(words)) + "\n"


def network(run: Run) -> str:
    """The table of links, weights and how fast they mix."""
    return section("Network", connectivity(run))


def connectivity(run: Run) -> str:
    """The same without its heading."""
    experiment, schedule = run.experiment, run.schedule
    topology, n_steps = experiment.topology, experiment.topology.consensus_steps
    n_rounds = min(experiment.iterations, max(1, MOST_ROUNDS // n_steps))
    base = "" if topology.schedule in ("file", "one-peer-exponential") else f" on {topology.graph}"
    if isinstance(schedule, Outlets):
        return _directed(run, schedule, topology.schedule + base)
    whole = windows.union(schedule, experiment.n_exchanges)
    degrees = [whole.degree(i) for i in range(schedule.n_agents)]
    looked = "" if n_rounds == experiment.iterations else f" (in the first {n_rounds} rounds)"
    try:
        n_window = windows.connectivity_window(schedule, n_rounds * n_steps)
        window = f"{n_window} {'round' if n_steps == 1 else 'exchange'}{'s' * (n_window > 1)}{looked}"
        weights = make(topology.weights, schedule)
        rounds = gossip.make(topology.consensus, n_steps, schedule, weights)
        factor = gossip.round_rate(schedule, n_rounds, weights, rounds)
        rate, gap = f"{factor:.6f} a round{looked}", f"{1.0 - factor:.6f}"
    except TopologyError:
        window = rate = f"none: not all peers are connected{looked}"
        gap = "-"
    rows = [
        ["schedule", topology.schedule + base],
        ["links", str(len(whole.edges))],
        ["neighbors of a peer", f"{min(degrees)} to {max(degrees)}"],
        ["connectivity window", window],
        ["weights", topology.weights],
        *([["exchanges a round", f"{n_steps}, {topology.consensus}"]] if n_steps > 1 else []),
        ["mixing rate", rate],
        ["spectral gap, 1 − mixing rate", gap],
    ]
    words = (
        "Over the whole run. The links of any window of rounds, put together, connect all peers; "
        "the mixing rate is what averaging alone is sure to leave of the disagreement."
    )
    return table(["", ""], rows) + note(words)


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
    words = (
        "Among the members of the newest epoch: with others, links follow their sorted ids. "
        "By what all push in so many first wakings, everybody reaches everybody."
    )
    return table(["", ""], rows) + note(words)


def reproduction(run: Run) -> str:
    """How to repeat a run: with which software, by which command, from which experiment."""
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
        note(told),
        pre([*installing(run.experiment), repeating(run)]),
        "<h3>Software</h3>",
        software([run.experiment]),
        "<h3>Experiment</h3>",
        folded("experiment.toml, every setting", pre([run.text.rstrip()])),
    ]
    return section("Reproducing it", "\n".join(parts))


def installing(experiment: Experiment) -> list[str]:
    """The command that installs the libraries of a run; none where their versions were not recorded."""
    pinned = [
        f"{name}=={version}" for name, version in experiment.software.items() if name not in ("python", "next-peer")
    ]
    return [shlex.join(["python", "-m", "pip", "install", *pinned])] * (len(pinned) > 0)


def software(experiments: Sequence[Experiment]) -> str:
    """The table of versions; of runs that differ, all versions of each name."""
    found: dict[str, dict[str, None]] = {}
    for experiment in experiments:
        for name, version in experiment.software.items():
            found.setdefault(name, {})[version] = None
    rows = [[name, ", ".join(versions)] for name, versions in found.items()]
    return table(["", "version"], rows) if rows else "<p>Not recorded.</p>"


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
