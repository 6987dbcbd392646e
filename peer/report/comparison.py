"""Several runs on one page: a curve each, or each group of seeds, and the tables that tell them apart."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Final, final

import numpy as np

from peer import settings
from peer.arrays import Vector
from peer.overlays import MOST_IN_A_ROW, Curve, Overlay, Panels
from peer.report import courses, markup, tables, variants
from peer.report.courses import Course
from peer.report.pictures import Picture
from peer.report.reading import Run
from peer.report.variants import Layout, Task, Variant

MOST_NETWORKS: Final = 6
"""Different networks whose connectivity is looked at, which may take a second each."""

COSTS: Final = {
    "rounds": "round n",
    "megabytes": "sent by a peer (MB)",
    "seconds": "time (s)",
    "solving": "solving (s)",
}
"""Names on axes of what is paid."""

QUANTITIES: Final = {
    "objective": "objective estimate",
    "gap": "gap to optimum",
    "stationarity": "stationarity residual",
    "disagreement": "disagreement",
    "validation": "validation loss",
}
"""Names on axes of what is come to."""

TITLES: Final = {
    "objective": "Objective",
    "gap": "Gap to the central optimum",
    "stationarity": "Stationarity",
    "disagreement": "Disagreement",
    "validation": "Validation",
}
"""Names in titles of what is come to."""

AGAINST: Final = {"rounds": "rounds", "megabytes": "megabytes sent", "seconds": "time", "solving": "time of solving"}
"""Names in titles of what is paid."""

SPREAD: Final = (
    "Runs that differ only in their seed are one curve: the line is their median, the area goes from the least to the "
    "greatest, as far as all of them have come."
)
"""Said above figures with several seeds."""


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs, and how they are laid side by side.

    Parameters
    ----------
    runs : sequence of Run
    """

    runs: Sequence[Run]

    @cached_property
    def layout(self) -> Layout:
        """Which of them solve one problem, and which repeat each other."""
        return Layout(self.runs)

    @cached_property
    def courses(self) -> list[Course]:
        """What each has come to."""
        return [courses.of_run(run) for run in self.runs]

    @cached_property
    def references(self) -> list[float | None]:
        """The optimum found by central training on the same problem: a run's own, or that of one with the same seed."""
        found: list[float | None] = [None] * len(self.runs)
        for task in self.layout.tasks:
            for k in task.runs:
                central = [
                    value
                    for other in task.runs
                    if (value := self._central(other)) is not None and self._alike(k, other)
                ]
                found[k] = min(central, default=None)
        return found

    def _central(self, k: int) -> float | None:
        summary = self.runs[k].summary
        return None if summary is None or summary.central is None else summary.central.objective

    def _alike(self, one: int, other: int) -> bool:
        """Whether two runs of a task have the same data, and the same networks, hence the same optimum."""
        first, second = self.runs[one].experiment, self.runs[other].experiment
        keys = ("seed", "model", "regime")
        same = all(getattr(first, key) == getattr(second, key) for key in keys)
        return one == other or (same and first.data.test_fraction == second.data.test_fraction)

    def has_gap(self, task: Task) -> bool:
        """Whether for all runs of a task it is known how far they are from the optimum."""
        return all(self.references[k] is not None for k in task.runs)

    def values(self, k: int, quantity: str) -> Vector:
        """A quantity of a run, (n,)."""
        if quantity == "gap":
            reference = self.references[k]
            assert reference is not None
            return self.courses[k].quantities["objective"] - reference
        return self.courses[k].quantities[quantity]

    # ---- figures ---------------------------------------------------------------------------

    def overlay(self, task: Task, quantity: str, cost: str) -> Overlay:
        """One quantity of the runs of a task against one cost."""
        curves = []
        for variant in task.variants:
            if quantity == "stationarity" and not self._tracks(variant):
                continue
            begun = [k for k in variant.runs if len(self.courses[k].costs[cost])]
            shown = courses.together(
                [self.courses[k].costs[cost] for k in begun], [self.values(k, quantity) for k in begun]
            )
            curves.append(Curve(variant.label, variant.color, variant.dashes, *shown, len(begun)))
        return Overlay(self._cost_name(cost), QUANTITIES[quantity], curves, title=task.label)

    def tested(self, task: Task, metric: str, cost: str) -> Overlay:
        """A test metric at the end of the runs of a task against one cost."""
        curves = []
        for variant in task.variants:
            ends = [
                (self.courses[k].paid[cost], summary.test[metric])
                for k in variant.runs
                if (summary := self.runs[k].summary) is not None and metric in summary.test
            ]
            if ends:
                paid, found = np.array(ends).T
                low, middle, high = (np.array([find(found)]) for find in (np.min, np.median, np.max))
                at = np.array([float(np.median(paid))])
                curves.append(Curve(variant.label, variant.color, variant.dashes, at, low, middle, high, len(ends)))
        return Overlay(self._cost_name(cost), f"test {metric}", curves, points=True, title=task.label)

    def _cost_name(self, cost: str) -> str:
        if cost == "rounds" and not all(run.has_rounds for run in self.runs):
            return "round n, or wakings of a peer"
        return COSTS[cost]

    def metrics(self, task: Task) -> list[str]:
        """Test metrics of a task."""
        summaries = [self.runs[k].summary for k in task.runs]
        return list(dict.fromkeys(name for summary in summaries if summary is not None for name in summary.test))

    def quantities(self, task: Task) -> list[str]:
        """What there are figures of, for a task."""
        held_out = any(self.runs[k].experiment.holds_out for k in task.runs)
        first = "gap" if self.has_gap(task) else "objective"
        known = any(map(self._tracks, task.variants))
        return [first, *(["stationarity"] * known), "disagreement", *(["validation"] if held_out else [])]

    def _tracks(self, variant: Variant) -> bool:
        """Whether the peers of these runs know how far they are from stationary; else `residual` is something else."""
        return self.runs[variant.runs[0]].experiment.tracks

    @cached_property
    def pictures(self) -> list[tuple[str, list[Picture]]]:
        """Headings, and the figures below each."""
        tasks = self.layout.tasks
        if len(tasks) == 1:
            return [("", self._of_task(tasks[0], ("rounds", "megabytes", "seconds"), ""))]
        shown = []
        for n, task in enumerate(tasks):
            shown.append((task.label, self._of_panel(task, f"{n}-")))
        return [("", [self._panels()]), *shown]

    def _of_task(self, task: Task, costs: Sequence[str], prefix: str) -> list[Picture]:
        found = [self._picture(task, quantity, cost, prefix) for quantity in self.quantities(task) for cost in costs]
        return found + [
            self._test_picture(task, metric, cost, prefix) for metric in self.metrics(task) for cost in costs
        ]

    def _of_panel(self, task: Task, prefix: str) -> list[Picture]:
        first, *others = self.quantities(task)
        return [
            *(self._picture(task, first, cost, prefix) for cost in ("rounds", "solving", "megabytes")),
            *(self._picture(task, other, "rounds", prefix) for other in others),
            *(self._test_picture(task, metric, "megabytes", prefix) for metric in self.metrics(task)[:1]),
        ]

    def _panels(self) -> Picture:
        """All tasks in one figure: what is left to the optimum against rounds, and against seconds of solving."""
        tasks = self.layout.tasks
        rows = []
        for start in range(0, len(tasks), MOST_IN_A_ROW):
            part = tasks[start : start + MOST_IN_A_ROW]
            rows += [
                [self.overlay(task, self.quantities(task)[0], cost) for task in part] for cost in ("rounds", "solving")
            ]
        caption = f"{self._meaning('gap' if all(map(self.has_gap, tasks)) else 'objective')} {self._costs('solving')}"
        return Picture("comparison", "Comparison", caption, Panels(rows))

    def _picture(self, task: Task, quantity: str, cost: str, prefix: str) -> Picture:
        title = f"{TITLES[quantity]} against {AGAINST[cost]}"
        caption = f"{self._meaning(quantity)} {self._costs(cost)}".strip()
        left_out = [variant.label for variant in task.variants if not self._tracks(variant)]
        if quantity == "stationarity" and left_out:
            caption += f" Without {'; '.join(left_out)}: nothing is tracked there, and no peer knows it."
        return Picture(f"{prefix}{quantity}-{cost}", title, caption, self.overlay(task, quantity, cost))

    def _test_picture(self, task: Task, metric: str, cost: str, prefix: str) -> Picture:
        title = f"Test {metric} against {AGAINST[cost]}"
        caption = "At the end of each run: of the mean of the final parameters, on samples that nobody trained on."
        return Picture(f"{prefix}test-{metric}-{cost}", title, caption, self.tested(task, metric, cost))

    def _spread(self) -> str:
        return markup.note(SPREAD) if any(len(one.runs) > 1 for _, one in self.rows()) else ""

    @staticmethod
    def _meaning(quantity: str) -> str:
        return {
            "objective": "U, the median of the peers' estimates.",
            "gap": "U, the median of the peers' estimates, less what central training came to; on a logarithmic axis "
            "what is below that is left out.",
            "stationarity": "‖w − prox(w − I y)‖∞, the greatest of the peers'.",
            "disagreement": "How far averaging moved the peers, the mean of them.",
            "validation": "The median of the peers' estimates, over the samples that are held out.",
        }[quantity]

    @staticmethod
    def _costs(cost: str) -> str:
        return {
            "rounds": "",
            "megabytes": "Megabytes of a peer are the mean of the peers, with headers and encryption.",
            "seconds": "Seconds are those since the start.",
            "solving": "Seconds of solving are those that a peer has spent on its surrogates, the mean of the peers.",
        }[cost]

    # ---- tables ----------------------------------------------------------------------------

    def rows(self) -> list[tuple[Task, Variant]]:
        """Rows of tables."""
        return [(task, variant) for task in self.layout.tasks for variant in task.variants]

    def _first(self, task: Task, variant: Variant) -> str:
        return f"{task.label}: {variant.label}" if task.label else variant.label

    def differences(self) -> str:
        """The table of what differs between the experiments."""
        keys = self.layout.different
        if not keys:
            return markup.note("Nothing but seeds, names and places: these are runs of one experiment.")
        rows = []
        for task, variant in self.rows():
            found = self.layout.settings[variant.runs[0]]
            cells = [found.get(key) for key in keys]
            shown = [
                value if isinstance(value, str) else "-" if value is None else variants.inline(value) for value in cells
            ]
            rows.append([self._first(task, variant), *shown])
        return markup.table(["", *keys], rows)

    def results(self) -> str:
        """The table of what the runs came to."""
        metrics = list(dict.fromkeys(name for task in self.layout.tasks for name in self.metrics(task)))
        gaps = any(map(self.has_gap, self.layout.tasks))
        heads = ["", "runs", "rounds", "objective", *(["above optimum"] * gaps), "stationarity", "disagreement"]
        heads += [*(f"test {name}" for name in metrics), "MB a peer", "time (s)", "solving (s)"]
        rows = []
        for task, variant in self.rows():
            columns: list[tuple[Callable[[int], float | None], str]] = [
                (lambda k: self.courses[k].paid["rounds"], ".4g"),
                (self._objective, ".6g" if all(len(one.runs) == 1 for _, one in self.rows()) else ".4g"),
                *([(self._gap, ".2g")] if gaps else []),
                (self._stationarity, ".2g"),
                (self._disagreement, ".2g"),
                *((lambda k, name=name: self._test(k, name), ".4f") for name in metrics),
                (lambda k: self.courses[k].paid["megabytes"], ".3g"),
                (lambda k: self.courses[k].paid["seconds"], ".3g"),
                (lambda k: self.courses[k].paid["solving"], ".3g"),
            ]
            cells = [_median([find(k) for k in variant.runs], form) for find, form in columns]
            rows.append([self._first(task, variant), str(len(variant.runs)), *cells])
        words = (
            "Of finished runs, objective, stationarity and test are of the mean of the final parameters; of others, of "
            "the last round that all peers have done. MB and seconds of solving are of a peer, the mean of the peers; "
            "time is from their first start to the end of the last round."
        )
        if any(len(variant.runs) > 1 for _, variant in self.rows()):
            words += " Of several seeds: the median, and in parentheses the least and the greatest."
        if gaps:
            words += " Above optimum: the objective less what central training came to."
        return markup.table(heads, rows) + markup.note(words)

    def _objective(self, k: int) -> float | None:
        summary = self.runs[k].summary
        return summary.objective if summary is not None else self._newest(k, "objective")

    def _gap(self, k: int) -> float | None:
        objective, reference = self._objective(k), self.references[k]
        return None if objective is None or reference is None else objective - reference

    def _stationarity(self, k: int) -> float | None:
        summary = self.runs[k].summary
        if summary is None and not self.runs[k].experiment.tracks:
            return None
        return summary.stationarity if summary is not None else self._newest(k, "stationarity")

    def _disagreement(self, k: int) -> float | None:
        summary = self.runs[k].summary
        return summary.disagreement if summary is not None else self._newest(k, "disagreement")

    def _test(self, k: int, name: str) -> float | None:
        summary = self.runs[k].summary
        return None if summary is None else summary.test.get(name)

    def _newest(self, k: int, quantity: str) -> float | None:
        values = self.courses[k].quantities[quantity]
        return float(values[-1]) if len(values) else None

    def states(self) -> str:
        """The table of the runs, one by one."""
        rows = []
        for task, variant in self.rows():
            for k in variant.runs:
                run = self.runs[k]
                kind, verdict = tables.verdict(run)
                state = "finished" if kind == "done" else verdict
                rows.append([self.layout.names[k], self._first(task, variant), str(run.experiment.seed), state])
        return markup.table(["run", "experiment", "seed", "state"], rows)

    def networks(self) -> str:
        """The tables of connectivity, of each network once."""
        found: dict[str, list[int]] = {}
        for k, run in enumerate(self.runs):
            experiment = run.experiment
            directed = experiment.run.mode == "async"
            key = repr((experiment.topology, experiment.peers, experiment.iterations, directed, run.members))
            found.setdefault(key, []).append(k)
        parts = []
        for places in list(found.values())[:MOST_NETWORKS]:
            run, name = self.runs[places[0]], self.layout.names[places[0]]
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            seeds = {self.runs[k].experiment.seed for k in places}
            note = f"; this is of seed {run.experiment.seed}" if len(seeds) > 1 else ""
            parts.append(f"<h3>{escape(f'{name}{more}{note}')}</h3>" * (len(found) > 1 or bool(note)))
            parts.append(tables.connectivity(run))
        if len(found) > MOST_NETWORKS:
            parts.append(
                markup.note(f"{len(found) - MOST_NETWORKS} more networks are told by the reports of their runs.")
            )
        return "\n".join(parts)

    def reproduction(self) -> str:
        """How to repeat the runs."""
        first = self.runs[0]
        base = variants.portable(first.experiment)
        commands = []
        for name, run in zip(self.layout.names, self.runs, strict=True):
            changed = (part for item in variants.overrides(run, first.experiment) for part in ("--set", item))
            central = ["--central"] * (run.summary is not None and run.summary.central is not None)
            commands.append(shlex.join(["peer", "launch", "experiment.toml", "--out", name, *central, *changed]))
        told = (
            f"With the experiment below, which is that of {self.layout.names[0]}, as experiment.toml. Two runs of one "
            "experiment give identical parameters in rounds, on machines of one type and with the same versions."
        )
        text = settings.to_toml(base).rstrip()
        parts = [
            markup.note(told),
            markup.pre([*tables.installing(first.experiment), *commands]),
            "<h3>Software</h3>",
            tables.software([run.experiment for run in self.runs]),
            "<h3>Experiment</h3>",
            markup.folded("experiment.toml, every setting", markup.pre([text])),
        ]
        return "\n".join(parts)

    # ---- the page --------------------------------------------------------------------------

    def verdict(self) -> tuple[str, str]:
        """How the runs stand: a class of the page, and a sentence."""
        kinds = [tables.verdict(run)[0] for run in self.runs]
        tasks, n_variants = self.layout.tasks, len(self.rows())
        said = f"{len(self.runs)} runs of {n_variants} experiment{'s' * (n_variants > 1)}"
        said += f" on {len(tasks)} problems." if len(tasks) > 1 else "."
        counts = {kind: kinds.count(kind) for kind in ("failed", "running")}
        if counts["failed"]:
            said += f" {counts['failed']} failed."
        if counts["running"]:
            said += f" {counts['running']} not finished yet."
        if not any(counts.values()):
            said += " All are finished."
        return next((kind for kind in counts if counts[kind]), "done"), said

    def page(self) -> str:
        """The report, as HTML."""
        names = list(dict.fromkeys(run.experiment.name for run in self.runs))
        title = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
        shown = []
        for heading, pictures in self.pictures:
            found = [markup.figure(one.name, one.title, one.caption, one.drawing) for one in pictures]
            head = f"<h3>{escape(heading)}</h3>" if heading else ""
            wide = any(isinstance(one.drawing, Panels) for one in pictures)
            shown.append(head + (markup.wide(found) if wide else markup.grid(found)))
        kind, verdict = self.verdict()
        sections = [
            markup.section("What differs", self.differences()),
            markup.section("Results", self.results()),
            markup.section("Figures", self._spread() + "\n".join(shown)),
            markup.section("Runs", self.states()),
            markup.section("Network", self.networks()),
            markup.section("Reproducing it", self.reproduction()),
        ]
        return markup.page(title, kind, verdict, sections)


def _median(values: Sequence[float | None], form: str) -> str:
    """The median of what is known, and in parentheses the least and the greatest where they differ from it."""
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    least, middle, greatest = (format(float(find(found)), form) for find in (np.min, np.median, np.max))
    return middle if least == greatest else f"{middle} ({least}–{greatest})"
