"""Runs on one page, with nothing outside it: finished ones and running ones, one or several. Never in a peer.

Rooms, each above the next: `writing` (the command), `page` and `comparison` (the pages of one run and of several),
`pictures` and `tables` (their parts), `variants` and `courses` (what several runs come to together), `markup`, and
`reading` (a run directory as it is).
"""

from __future__ import annotations

from peer.report.reading import Run, experiment_of, read
from peer.report.tables import repeating
from peer.report.writing import write

__all__ = ["Run", "experiment_of", "read", "repeating", "write"]
