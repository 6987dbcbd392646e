"""The figures of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from peer import figures
from peer.arrays import Vector
from peer.figures import MANY_TIMES, Curves, Drawing, Effort, Links
from peer.report.markup import unit_of
from peer.report.reading import Run
from topology import Outlets, PeerId
from topology.draw import MOST_DRAWN

MOST_MARKS: Final = 40
"""Epochs that figures mark: more lines would hide what is behind them."""


@final
@dataclass(frozen=True)
class Picture:
    """A figure of a page, with its words.

    Parameters
    ----------
    name : str
        Of its files, and where its ids begin: lower case letters and hyphens.
    title : str
    caption : str
    drawing : Drawing
    """

    name: str
    title: str
    caption: str
    drawing: Drawing


def of_run(run: Run) -> list[Picture]:
    """All figures of a run, however far it has come."""
    estimates = run.column("objective_estimate")
    central = run.summary.central.objective if run.summary is not None and run.summary.central is not None else None
    sent = {peer: np.cumsum(values) for peer, values in run.column("bytes_sent").items()}
    factor, unit = unit_of(max((float(values[-1]) for values in sent.values()), default=0.0))
    in_unit = {peer: values / factor for peer, values in sent.items()}
    many = " Line: median of the peers; area: from the least to the greatest." * (len(run.begun) > figures.FEW)
    begun = run.begun
    solve_s, wait_s = ([run.total(name)[peer] for peer in begun] for name in ("solve_s", "wait_s"))
    times = run.times
    breaks = {peer: [int(event.get("n", 0)) for event in run.starts(peer)] for peer in begun if times is not None}
    marks = [epoch.clock_s - run.began_s for epoch in run.epochs[1:]][:MOST_MARKS]
    many += " Dashed: a new epoch." * bool(marks)
    moved = "‖w[n+1] − z‖²: how far averaging moved each peer. Rounds without a neighbor are left out."
    waited = "waiting for its neighbors' shares"
    if times is not None:
        moved = "‖w⁺ − v‖²: how far averaging moved each peer at a waking. Wakings without a flow are left out."
        waited = "waiting for flows between its wakings"

    def curves(label: str, series: Mapping[PeerId, Vector], log: bool, reference: float | None = None) -> Curves:
        return Curves(label, series, log, reference, times, marks, breaks)

    pictures = [
        Picture(
            "objective",
            "Objective",
            "U as each peer estimates it, from the tracked mean of all g and its own parameters."
            + " Dotted: central training." * (central is not None)
            + many,
            curves("objective estimate", estimates, falls(list(estimates.values())), central),
        )
    ]
    if run.experiment.holds_out:
        losses = run.column("validation_estimate")
        told = "Loss over the samples that are held out, as each peer estimates it, from the tracked mean."
        drawing = curves("validation loss", losses, falls(list(losses.values())))
        pictures += [Picture("validation", "Validation", told + many, drawing)]
    title, label = "Stationarity", "stationarity residual"
    told = "Residual ‖w − prox(w − I y)‖∞ of each peer, with its tracker y; 0 at a stationary point."
    if not run.experiment.tracks:
        title, label = "Change", "change over step size"
        told = (
            "‖w[n+1] − w[n]‖∞ of each peer, over the sizes of its steps; 0 at a fixed point of its own. With "
            f"{run.experiment.method.kind} nothing is tracked: no peer knows how far the network is from stationary."
        )
    spent = f"What each peer spent on its surrogates, and on {waited}."
    shown = "Bytes that each peer has sent, cumulative; headers and encryption are in them."
    return [
        *pictures,
        Picture("stationarity", title, told + many, curves(label, run.column("residual"), True)),
        Picture("disagreement", "Disagreement", moved + many, curves("disagreement", run.column("disagreement"), True)),
        Picture("sent", "Communication", shown + many, curves(f"sent ({unit})", in_unit, False)),
        Picture("time", "Time", spent, Effort(solve_s, wait_s, begun)),
        _links(run),
    ]


def _links(run: Run) -> Picture:
    if not isinstance(run.schedule, Outlets):
        told = "All links of the run; those that never were up are pale."
        told += " A cell stands for a link of its row and its column." * (run.experiment.peers > MOST_DRAWN)
        return Picture("links", "Links", told, Links.of_schedule(run.schedule, run.experiment.n_exchanges))
    used = {(j, peer) for peer in run.members for line in run.current(peer) for j in line.heard}
    told = (
        "Who pushes to whom among the members of the newest epoch. Where no flow came, as the peers wrote it down "
        "here, arrows are pale."
    )
    return Picture("links", "Links", told, Links.of_outlets(run.schedule, run.members, used))


def falls(series: list[Vector]) -> bool:
    """Whether positive values range over so much that a logarithmic axis shows more."""
    values = np.concatenate([*series, np.zeros(0)])
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(values.min() > 0.0) and bool(values.max() > MANY_TIMES * values.min())
