"""What `python -m benchmarks` measures, row by row: ours, and beside it, in turns, what the machine gives for the same.

A row has a name, a group, words, and a way to get ready, which gives what a turn is: the seconds that ours took once,
and the seconds of the reference. Turns of the rows of a group alternate, so that what else the host does hits all of
them, and a ratio is made of two numbers that were measured within the same moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

import numpy as np

from benchmarks.exchange import Moment, now

SLICE_S: Final = 0.03
"""Least seconds of a processor for one side of a turn: a call that is shorter is made again and again. The clock's
steps, of a few hundred nanoseconds, are then nothing."""

Clock: TypeAlias = Literal["processor", "wall"]
"""Seconds of a processor, which depend less on what else the host does; or of the clock on the wall, where waiting
counts."""


@final
@dataclass(frozen=True)
class Setting:
    """What rows get ready with.

    Parameters
    ----------
    seed : int
        Of all random arrays.
    quick : bool
        Shorter, at the price of a wider spread.
    folder : Path
        For files, there, and empty.
    closing : ExitStack
        What is open for the rows of a group, until these are measured.
    """

    seed: int
    quick: bool
    folder: Path
    closing: ExitStack = field(default_factory=ExitStack)

    @property
    def rng(self) -> np.random.Generator:
        """A new source of random numbers, the same for every row."""
        return np.random.default_rng(self.seed)


@final
@dataclass(frozen=True)
class Took:
    """A turn: what each side took for its work, done once.

    Parameters
    ----------
    ours, reference : Moment
        Seconds on the wall, and of a processor.
    calls : int
        How often ours was done; it took so many times as long.
    """

    ours: Moment
    reference: Moment
    calls: int = 1


Turn: TypeAlias = Callable[[], Took]


@final
@dataclass(frozen=True, eq=False)
class Row:
    """Something that is measured.

    Parameters
    ----------
    name, group : str
        Short, without blanks; either can be asked for.
    ours, reference : str
        What each side does, in words.
    work : str
        How much of it, in words: what a ratio depends on.
    clocks : tuple of Clock
        Which seconds count; each is a line of its own.
    turns : (int, int)
        Turns, and where it has to be quick.
    ready : callable
        Makes what a turn needs, which exists as long as the turn does.
    """

    name: str
    group: str
    ours: str
    reference: str
    work: str
    clocks: tuple[Clock, ...]
    turns: tuple[int, int]
    ready: Callable[[Setting], Turn]


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """A row, and all its turns, by one of its clocks.

    Parameters
    ----------
    row : Row
    turns : sequence of Took
        At least one.
    clock : Clock
    """

    row: Row
    turns: Sequence[Took]
    clock: Clock

    @property
    def name(self) -> str:
        """The row's, with that of the clock, if it is not the row's first one."""
        return self.row.name if self.clock == self.row.clocks[0] else f"{self.row.name}-{self.clock}"

    @property
    def ours_s(self) -> list[float]:
        """Seconds of ours."""
        return [_by(self.clock, took.ours) for took in self.turns]

    @property
    def reference_s(self) -> list[float]:
        """Seconds of the reference."""
        return [_by(self.clock, took.reference) for took in self.turns]

    @property
    def ratios(self) -> list[float]:
        """Ours to the reference, turn by turn: 1 is as fast as the machine, more is slower."""
        return [ours / reference for ours, reference in zip(self.ours_s, self.reference_s, strict=True)]


def _by(clock: Clock, moment: Moment) -> float:
    wall_s, processor_s = moment
    return wall_s if clock == "wall" else processor_s


def in_turns(ours: Callable[[], object], reference: Callable[[], object]) -> Turn:
    """Turns of two functions, each called so often that it takes `SLICE_S`; who begins alternates."""
    calls = _calls(ours), _calls(reference)
    order = [0, 1]

    def turn() -> Took:
        took = [(0.0, 0.0), (0.0, 0.0)]
        for side in order:
            took[side] = _slice((ours, reference)[side], calls[side])
        order.reverse()
        return Took(took[0], took[1], calls[0])

    return turn


def _calls(function: Callable[[], object]) -> int:
    """How often to call a function, a power of 2; it is warm afterwards."""
    function()
    n = 1
    while n * _slice(function, n)[1] < SLICE_S and n * _slice(function, n)[0] < 4.0 * SLICE_S:
        n *= 2
    return n


def _slice(function: Callable[[], object], n: int) -> Moment:
    """Seconds of a call, of n calls in a row."""
    (began_s, used_s), calls = now(), range(n)
    for _ in calls:
        function()
    ended_s, all_used_s = now()
    return (ended_s - began_s) / n, (all_used_s - used_s) / n


def chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows of these names, or of groups of these names, in the order in which they are given; all, without names.

    Raises
    ------
    KeyError
        There is no such row and no such group.
    """
    known = {word for row in rows for word in (row.name, row.group)}
    for name in names:
        if name not in known:
            raise KeyError(name)
    return [row for row in rows if not names or row.name in names or row.group in names]


def measure(group: Sequence[Row], setting: Setting) -> list[Measured]:
    """Take all turns of some rows: the first of all, the second of all, and so on.

    Raises
    ------
    RuntimeError
        Processes failed.
    """
    with setting.closing:
        ready = [row.ready(setting) for row in group]
        counts = [row.turns[setting.quick] for row in group]
        took: list[list[Took]] = [[] for _ in group]
        for k in range(max(counts)):
            for turn, turns, count in zip(ready, took, counts, strict=True):
                if k < count:
                    turns.append(turn())
    return [Measured(row, turns, clock) for row, turns in zip(group, took, strict=True) for clock in row.clocks]
