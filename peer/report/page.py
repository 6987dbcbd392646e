"""A run on one page."""

from __future__ import annotations

from peer.report import markup, tables
from peer.report.pictures import Picture
from peer.report.reading import Run


def page(run: Run, drawn: list[Picture]) -> str:
    """The report of a run, with these figures, as HTML."""
    kind, verdict = tables.verdict(run)
    sections = [
        tables.results(run),
        markup.section(
            "Figures", markup.grid(markup.figure(one.name, one.title, one.caption, one.drawing) for one in drawn)
        ),
        tables.peers_table(run),
        tables.epochs_table(run),
        tables.network(run),
        tables.reproduction(run),
    ]
    return markup.page(run.experiment.name, kind, verdict, sections)
