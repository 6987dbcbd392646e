"""What the peers of a run come to together, against what it costs; and what several such runs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.history import Round
from peer.report.reading import Run
from topology import PeerId

MOST_POINTS: Final = 200
"""Of a curve beside others: a column of a paper shows no more."""

COSTS: Final = ("rounds", "megabytes", "seconds", "solving")
"""What is paid: rounds (without rounds, wakings of a peer on average), megabytes that a peer has sent on average,
seconds since the start, and seconds that a peer has solved surrogates, on average."""

QUANTITIES: Final = ("objective", "stationarity", "disagreement", "validation")
"""What is come to: median of the peers' estimates of U, greatest of their residuals, mean of how far averaging moved
them, and median of their estimates of the validation loss."""


@final
@dataclass(frozen=True, eq=False)
class Course:
    """A run as one curve.

    Parameters
    ----------
    costs : dict of str to Vector, (n,)
        COSTS before each round: what had been paid for the parameters of which the numbers are; ascending.
    quantities : dict of str to Vector, (n,)
        QUANTITIES at the beginning of each round.
    paid : dict of str to float
        COSTS of the whole run, as far as it has come.
    """

    costs: Mapping[str, Vector]
    quantities: Mapping[str, Vector]
    paid: Mapping[str, float]


def of_run(run: Run) -> Course:
    """The course of a run, by the members of which there is a round; without points where there is none."""
    lines = {peer: run.rounds[peer] for peer in run.members if run.rounds.get(peer)}
    if not lines:
        return Course(
            dict.fromkeys(COSTS, np.zeros(0)), dict.fromkeys(QUANTITIES, np.zeros(0)), dict.fromkeys(COSTS, 0.0)
        )
    return _in_rounds(lines) if run.has_rounds else _in_time(lines, run.times or {})


def _column(lines: Sequence[Round], name: str) -> Vector:
    return np.array([getattr(line, name) for line in lines], float)


def _in_rounds(lines: Mapping[PeerId, Sequence[Round]]) -> Course:
    n_rounds = min(map(len, lines.values()))

    def table(name: str) -> Matrix:
        return np.array([_column(found[:n_rounds], name) for found in lines.values()])

    ended = np.max([running(_column(found[:n_rounds], "time_s")) for found in lines.values()], axis=0)
    spent = float(np.mean(table("solve_s")[:, 0] + table("wait_s")[:, 0]))
    sums = {
        "rounds": np.arange(1.0, n_rounds + 1),
        "megabytes": np.cumsum(table("bytes_sent").mean(axis=0)) / 1e6,
        "seconds": np.maximum.accumulate(ended),
        "solving": np.cumsum(table("solve_s").mean(axis=0)),
    }
    first = dict.fromkeys(COSTS, 0.0) | {"seconds": max(0.0, float(ended[0]) - spent)}
    costs = {name: np.concatenate([[first[name]], sums[name][:-1]]) for name in COSTS}
    quantities = {
        "objective": np.median(table("objective_estimate"), axis=0),
        "stationarity": table("residual").max(axis=0),
        "disagreement": table("disagreement").mean(axis=0),
        "validation": np.median(table("validation_estimate"), axis=0),
    }
    return Course(costs, quantities, {name: float(sums[name][-1]) for name in COSTS})


def running(time_s: Vector) -> Vector:
    """Seconds that a peer has run, (n,): its clock begins anew with each start, and goes on here from where it was."""
    again = np.where(np.diff(time_s) < 0.0, time_s[:-1], 0.0)
    return np.asarray(time_s + np.concatenate([[0.0], np.cumsum(again)]))


def _in_time(lines: Mapping[PeerId, Sequence[Round]], times: Mapping[PeerId, Vector]) -> Course:
    """Without rounds: what each peer said last, at times when one of them woke."""
    woken = np.unique(np.concatenate([times[peer] for peer in lines]))
    grid = woken[np.unique(np.linspace(0, len(woken) - 1, 2 * MOST_POINTS).astype(int))]
    places = {peer: np.searchsorted(times[peer], grid, side="right") - 1 for peer in lines}

    def last(name: str) -> Matrix:
        rows = [
            np.where(places[peer] >= 0, _column(found, name)[places[peer]], np.nan) for peer, found in lines.items()
        ]
        return np.array(rows)

    def total(name: str) -> Matrix:
        sums = [np.concatenate([[0.0], np.cumsum(_column(found, name))]) for found in lines.values()]
        return np.array([values[places[peer] + 1] for peer, values in zip(lines, sums, strict=True)])

    costs = {
        "rounds": np.mean([places[peer] + 1.0 for peer in lines], axis=0),
        "megabytes": total("bytes_sent").mean(axis=0) / 1e6,
        "seconds": grid,
        "solving": total("solve_s").mean(axis=0),
    }
    quantities = {
        "objective": np.nanmedian(last("objective_estimate"), axis=0),
        "stationarity": np.nanmax(last("residual"), axis=0),
        "disagreement": np.nanmean(last("disagreement"), axis=0),
        "validation": np.nanmedian(last("validation_estimate"), axis=0),
    }
    return Course(costs, quantities, {name: float(costs[name][-1]) for name in COSTS})


def together(at: Sequence[Vector], values: Sequence[Vector]) -> tuple[Vector, Vector, Vector, Vector]:
    """Places, and least, median and greatest of several runs there, as far as all of them have come.

    Between their points runs are interpolated linearly; one run alone keeps its own points, thinned.
    """
    if not at or any(len(one) == 0 for one in at):
        return np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    if len(at) == 1:
        kept = thinned(len(at[0]))
        return at[0][kept], values[0][kept], values[0][kept], values[0][kept]
    end = min(float(one[-1]) for one in at)
    shortest = min(at, key=lambda one: float(one[-1]))
    grid = shortest[thinned(len(shortest))]
    grid = grid[grid <= end]
    table = np.array([np.interp(grid, one, found) for one, found in zip(at, values, strict=True)])
    return grid, table.min(axis=0), np.median(table, axis=0), table.max(axis=0)


def thinned(n: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """MOST_POINTS of n places: half of them evenly, and half as a logarithmic axis shows them; both ends among them."""
    if n <= MOST_POINTS:
        return np.arange(n)
    even = np.linspace(0, n - 1, MOST_POINTS // 2)
    early = np.geomspace(1, n - 1, MOST_POINTS // 2)
    return np.unique(np.concatenate([even, early]).astype(np.intp))
