"""When to wake without rounds, and to whom to push: an agent's sense of its neighbors' pace. No network, no clock.

An agent wakes when there is something new worth working on: when all neighbors that keep pace have
sent a flow, or, the first of them having come, as long after it as its own last waking took. So
equals wait for each other as in rounds, and for a slow one nobody waits longer than that.
Where nothing comes it wakes after a while all the same, less and less often, and repeats its flows:
the last ones may have been lost.

What is pushed to a neighbor that is asleep lies there, and a waking gives away a good part of the
mass each time: a fast agent would soon have given all its weight to a slow or dead one, with nobody
else left to work. So a neighbor that answers is pushed to again only when it has; if it does
not, ever more rarely. And an agent whose weight is low keeps what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

from topology import PeerId

LEAST_S: Final = 1e-3
"""Between two wakings: bounds what is sent to a thousand flows a second and neighbor."""

IDLE_S: Final = 0.25
"""Longest pause between two wakings: lost flows are repeated then at the latest."""

FIRST_IDLE_S: Final = 0.02
"""Shortest pause after which flows are taken for lost: several times what loopback and a loaded scheduler need."""

RETRY_S: Final = 4.0
"""Longest pause between two pushes to a neighbor that does not answer."""

PHI_KEPT: Final = 2.0**-4
"""With less weight than this an agent does not push: it would only work in ever smaller steps."""

PATIENCE: Final = 3.0
"""So many times as long as its own last waking took an agent waits for the first news. Not as many times as news
took to come before: where flows are lost these pauses get longer, and who learns from them would wait longer still,
and let others wait, until all wake every IDLE_S only."""


@final
@dataclass(eq=False)
class Pace:
    """One agent's sense of time; `now` is in seconds, on any clock that only goes on.

    Parameters
    ----------
    woke_s : float
        When it woke last; the first waking waits for nobody.
    """

    woke_s: float = -math.inf
    _took_s: float = field(default=0.0, init=False)
    _fruitless: int = field(default=0, init=False)
    _expected: frozenset[PeerId] = field(default=frozenset(), init=False)
    _news_s: float | None = field(default=None, init=False)
    _asked: dict[PeerId, tuple[float, int]] = field(default_factory=dict, init=False)

    @property
    def is_fruitless(self) -> bool:
        """Whether the last waking came without anything new: what others sent, or this agent, may be lost."""
        return self._fruitless > 0

    def heard(self, j: PeerId, now: float) -> None:
        """A flow of j has come."""
        self._news_s = now if self._news_s is None else self._news_s
        self._asked.pop(j, None)

    def wakes_s(self, news: frozenset[PeerId]) -> float:
        """When to wake if no other flow comes before, with these neighbors' flows at hand; it may be over."""
        earliest_s = self.woke_s + LEAST_S
        if not news:
            idle_s = max(FIRST_IDLE_S, PATIENCE * self._took_s) * 2.0**self._fruitless
            return max(earliest_s, self.woke_s + min(idle_s, IDLE_S))
        if self._expected <= news:
            return earliest_s
        first_s = self.woke_s if self._news_s is None else self._news_s
        return max(earliest_s, first_s + min(max(self._took_s, LEAST_S), IDLE_S))

    def woke(self, began_s: float, now: float, news: frozenset[PeerId]) -> None:
        """A waking that began with these neighbors' flows is over."""
        self._fruitless = 0 if news else min(self._fruitless + 1, 8)  # beyond it IDLE_S holds anyway
        self._expected, self._news_s = news, None
        self._took_s, self.woke_s = now - began_s, now

    def open_to(self, candidates: Iterable[PeerId], answering: Iterable[PeerId], now: float) -> tuple[PeerId, ...]:
        """Neighbors to push to now.

        Parameters
        ----------
        candidates : iterable of int
            Out-neighbors of this waking that can be reached.
        answering : iterable of int
            Neighbors that push to this agent, too.
        now : float
            Seconds.
        """
        mutual, chosen = set(answering), []
        for j in sorted(candidates):
            asked_s, times = self._asked.get(j, (0.0, 0))
            if times and now - asked_s < min(FIRST_IDLE_S * 2.0**times, RETRY_S):
                continue
            if j in mutual:
                self._asked[j] = now, min(times + 1, 16)  # beyond it RETRY_S holds anyway
            chosen.append(j)
        return tuple(chosen)
