"""Runs of `peer simulate`, very many agents in arrays: what was seen of a few rounds, one run or several."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec
import numpy as np

from peer import files
from peer.errors import ConfigError
from peer.overlays import COLORS, Curve, Overlay
from peer.report import markup, tables
from peer.report.pictures import Picture
from peer.report.reading import experiment_of, names_of
from peer.settings import Experiment

FIGURES: Final = (
    ("objective", "Objective", "objective", "U at the mean of the parameters of all agents."),
    ("stationarity", "Stationarity", "residual", "Residual ‖w − prox(w − ∇G(w))‖∞ there; 0 at a stationary point."),
    ("disagreement", "Disagreement", "disagreement", "(1/I) Σ‖w_i − mean‖²."),
    ("time", "Time", "round_s", "Seconds a round, of all agents together, the median since the last look."),
)
"""Name, title, column and caption of each figure."""

LATER: Final = ("disagreement", "round_s")
"""Columns that mean nothing before the first round."""


class Look(msgspec.Struct, frozen=True):
    """What is read of a line of `rounds.csv`, see `peer.scaling.Look`."""

    round: int
    objective: float
    residual: float
    disagreement: float
    round_s: float
    bytes_sent: int
    memory_bytes: int


class Facts(msgspec.Struct, frozen=True):
    """What is read of `simulation.json`."""

    agents: int
    parameters: int
    samples: int
    graph: str
    links: int
    alpha: float


@final
@dataclass(frozen=True, eq=False)
class Simulated:
    """What a run directory says so far.

    Parameters
    ----------
    run_dir : Path
    experiment : Experiment
    text : str
        Of `experiment.toml`.
    looks : tuple of Look
    facts : Facts or None
        None where it has not come to its end.
    """

    run_dir: Path
    experiment: Experiment
    text: str
    looks: tuple[Look, ...]
    facts: Facts | None

    @property
    def graph(self) -> str:
        """Name of the graph, where the schedule goes by one."""
        return (self.facts.graph if self.facts is not None else "") or self.experiment.topology.graph


def read(run_dir: Path) -> Simulated:
    """Everything that a report tells.

    Raises
    ------
    ConfigError
        A file is malformed; names it.
    """
    path, facts = run_dir / files.ROUNDS, run_dir / files.SIMULATION
    experiment = experiment_of(run_dir)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            looks = msgspec.convert(list(csv.DictReader(file)), tuple[Look, ...], strict=False)
        path = facts
        found = msgspec.convert(json.loads(facts.read_text(encoding="utf-8")), Facts) if facts.exists() else None
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        raise ConfigError(str(path), f"expected what `peer simulate` writes, found: {error}") from error
    return Simulated(run_dir, experiment, (run_dir / files.EXPERIMENT).read_text(encoding="utf-8"), looks, found)


def pictures(runs: Sequence[Simulated]) -> list[Picture]:
    """All figures, with a curve a run."""
    return [Picture(name, title, caption, _overlay(runs, column, title)) for name, title, column, caption in FIGURES]


def _names(runs: Sequence[Simulated]) -> list[str]:
    """Of their curves."""
    return names_of([run.run_dir.resolve() for run in runs])


def _overlay(runs: Sequence[Simulated], column: str, title: str) -> Overlay:
    curves = []
    for k, (name, run) in enumerate(zip(_names(runs), runs, strict=True)):
        looks = run.looks[1:] if column in LATER else run.looks
        at = np.array([float(look.round) for look in looks])
        values = np.array([float(getattr(look, column)) for look in looks])
        curves.append(Curve(name, k, k // len(COLORS), at, values, values, values, 1))
    return Overlay("round n", "seconds a round" if column == "round_s" else title.lower(), curves)


def page(runs: Sequence[Simulated], drawn: Sequence[Picture]) -> str:
    """The report of one run or several, with these figures, as HTML."""
    n_over = sum(run.facts is not None for run in runs)
    said = f"{len(runs)} runs, of which {n_over} have come to their end." if len(runs) > 1 else "Finished."
    if len(runs) == 1 and not n_over:
        said = f"Not finished: {len(runs[0].looks)} rounds were looked at so far."
    figures = markup.grid(markup.figure(one.name, one.title, one.caption, one.drawing) for one in drawn)
    told = "All agents in one process, in arrays; bytes are those that peers would have sent."
    sections = [
        markup.section("Results", markup.note(told) + _results(runs)),
        markup.section("Figures", figures),
        markup.section("Reproducing it", "\n".join(map(_reproduction, _names(runs), runs))),
    ]
    names = ", ".join(dict.fromkeys(run.experiment.name for run in runs))
    return markup.page(names, "done" if n_over == len(runs) else "running", said, sections)


def _results(runs: Sequence[Simulated]) -> str:
    facts: list[tuple[str, Callable[[Facts], str]]] = [
        ("agents", lambda found: f"{found.agents:,}"),
        ("links in round 0", lambda found: f"{found.links:,}"),
        ("parameters", lambda found: f"{found.parameters:,}"),
        ("samples", lambda found: f"{found.samples:,}"),
        ("α", lambda found: f"{found.alpha:g}"),
    ]
    seen: list[tuple[str, Callable[[Look], str]]] = [
        ("rounds", lambda look: f"{look.round:,}"),
        ("objective", lambda look: f"{look.objective:.6g}"),
        ("residual", lambda look: f"{look.residual:.2e}"),
        ("disagreement", lambda look: f"{look.disagreement:.2e}"),
        ("seconds a round", lambda look: f"{look.round_s:.3g}"),
        ("sent in a round by all", lambda look: markup.size(look.bytes_sent)),
        ("memory", lambda look: markup.size(look.memory_bytes)),
    ]
    rows = [["graph", *(run.graph for run in runs)], ["schedule", *(run.experiment.topology.schedule for run in runs)]]
    rows += [[name, *(tell(run.facts) if run.facts else "" for run in runs)] for name, tell in facts]
    rows += [[name, *(tell(run.looks[-1]) if run.looks else "" for run in runs)] for name, tell in seen]
    return markup.table(["", *_names(runs)], rows)


def _reproduction(name: str, run: Simulated) -> str:
    graph = ["--graph", run.graph] if run.graph != run.experiment.topology.graph else []
    command = shlex.join(["peer", "simulate", "experiment.toml", "--out", "again", *graph])
    setting = markup.folded(f"{name}: experiment.toml, every setting", markup.pre([run.text.rstrip()]))
    return markup.pre([*tables.installing(run.experiment), command]) + setting
