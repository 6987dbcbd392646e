"""Who takes part in a run without rounds, as one peer knows it. No network, no clock: time is an argument.

Every peer keeps a standing of every peer, and passes all of them on again and again, and at once those
of whom there is news; of two standings of one peer the newer one stays. A peer writes its own standing;
of another one it only raises the generation, from member (odd) to gone (even), when that has shown no
progress for `departure_s`. Who finds itself gone, and is not, raises its own once more: it returns. Then,
and after a sleep of more than `departure_s`, it is away until somebody has heard of a later beat of it: who
came to the end without it cannot be told from the lost, so it loses nobody, and begins nothing.

Generations only grow, and views are merged by their maximum (a causal-length set: W. Yu, S. Rostad,
"A low-cost set CRDT based on causal lengths", 2020), so peers agree as soon as everybody has heard
of everything, whatever came late, twice, or in another order; progress is told from heartbeats that
are passed on (R. van Renesse, Y. Minsky, M. Hayden, "A gossip-style failure detection service",
1998). The epoch follows from the generations alone: peers with one view are in one epoch, and a view
that knows more has a larger one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, final

from peer.errors import DisagreementError, ProtocolError
from peer.messages import Standing, View
from peer.records import Record
from topology import PeerId

DIGEST_BITS: Final = 20
"""Of an epoch's number: two views that are as long, but differ, share it once in a million, until they are merged."""

ASLEEP_S: Final = 2.0
"""An observer that did not look at the clock for so long was asleep (a laptop's lid, SIGSTOP) and blames nobody."""

MAX_KNOWN: Final = 5_000
"""Peers that ever took part: a view of so many still fits into a header, and into a quarter of a second."""

CLASHES: Final = 3
"""Lives of this peer that it did not know of; more are no lost disk, but a second process with its id."""


@final
class Agreed(Record, frozen=True):
    """What follows from the generations of all peers.

    Parameters
    ----------
    epoch : int
    members, gone : tuple of int
        Who takes part, and who does no more, ascending.
    known : tuple of int
        Both.
    """

    epoch: int
    members: tuple[PeerId, ...]
    gone: tuple[PeerId, ...]
    known: tuple[PeerId, ...]


@final
@dataclass(eq=False)
class Membership:
    """What one peer knows of all.

    Parameters
    ----------
    me : int
        This peer.
    own : Standing
        Its standing at its start.
    n_agents : int
        Peers 0..n_agents - 1 are members from the beginning.
    departure_s : float
        How long a member may stay without progress, seconds.
    n_classes : int
        Largest label of this peer plus one; 0 where there are no labels, or others decide.
    fresh : bool
        Whether this process does not go on from a checkpoint: what an earlier one had pushed is
        not known to it, and it begins another epoch if there was one.

    Attributes
    ----------
    away_since_s : float or None
        Since when this peer, which has returned, or was asleep for long, waits to be heard of; None while it does not.
    had_begun : bool
        Whether an earlier process of this peer took part, of which this one knows nothing but that.
    changed : set of int
        Peers whose standings have changed since they were told last; whoever tells them takes them out.
    """

    me: PeerId
    own: Standing
    n_agents: int
    departure_s: float
    n_classes: int = 0
    fresh: bool = True
    began: bool = field(default=False, init=False)
    away_since_s: float | None = field(default=None, init=False)
    had_begun: bool = field(default=False, init=False)
    standings: dict[PeerId, Standing] = field(default_factory=dict, init=False)
    changed: set[PeerId] = field(default_factory=set, init=False)
    _agreed: Agreed | None = field(default=None, init=False)
    _moved_s: dict[PeerId, float] = field(default_factory=dict, init=False)
    _ticked_s: float | None = field(default=None, init=False)
    _clashes: int = field(default=0, init=False)
    _back_beat: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.standings = {j: Standing(1) for j in range(self.n_agents)} | {self.me: self.own}

    def restore(self, standings: Mapping[PeerId, Standing], n_classes: int) -> None:
        """Know again what an earlier process of this peer knew; its own standing is that of this process."""
        before = standings.get(self.me, self.own)
        generation = before.generation + (not before.is_member)  # who was interrupted had left
        self.standings = {**standings, self.me: self.own.changed(generation=generation, n=before.n, done=before.done)}
        self.n_classes = max(self.n_classes, n_classes)
        self.fresh, self._agreed = False, None

    # ---- what follows from it --------------------------------------------------------------

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All that take part, ascending."""
        return self.agreed.members

    @property
    def epoch(self) -> int:
        """Number of the epoch: larger for every view that knows more, and another one for every other view."""
        return self.agreed.epoch

    @property
    def agreed(self) -> Agreed:
        """Epoch and members, and who else is known; every waking asks for them, and they seldom change."""
        if self._agreed is None:
            generations = [(j, standing.generation) for j, standing in sorted(self.standings.items())]
            digest = int.from_bytes(blake2b(repr(generations).encode(), digest_size=8).digest(), "big")
            epoch = (sum(g for _, g in generations) << DIGEST_BITS) + digest % (1 << DIGEST_BITS)
            members = tuple(j for j, _ in generations if self.standings[j].is_member)
            gone = tuple(j for j, _ in generations if not self.standings[j].is_member)
            self._agreed = Agreed(epoch, members, gone, tuple(j for j, _ in generations))
        return self._agreed

    @property
    def missing(self) -> tuple[PeerId, ...]:
        """Members whose number of samples is not known yet, ascending."""
        return tuple(j for j in self.members if not self.standings[j].n_samples)

    @property
    def n_samples_total(self) -> int:
        """M, once nobody is missing."""
        return sum(self.standings[j].n_samples for j in self.members)

    @property
    def complete(self) -> bool:
        """Whether every member has made all its wakings in this epoch."""
        epoch = self.epoch
        return all(self.standings[j].done == epoch for j in self.members)

    @property
    def unaware(self) -> tuple[PeerId, ...]:
        """Members that may not know yet that all have made their wakings, ascending."""
        epoch = self.epoch
        return tuple(j for j in self.members if self.standings[j].over != epoch)

    @property
    def comes_late(self) -> bool:
        """Whether others have trained already when this peer, of which an earlier process took part, begins anew.

        Members begin together: where there was no earlier one they are only faster.
        """
        return self.had_begun and any(standing.n for standing in self.standings.values())

    def view(self, settings: Mapping[str, str], peers: Collection[PeerId] = ()) -> View:
        """What to say now: of all peers that are known, or of these and this one."""
        told = {j: self.standings[j] for j in {*peers, self.me}} if peers else dict(self.standings)
        return View(self.me, settings, self.n_classes, told)

    # ---- what happens ----------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Nobody is missing: from now on members can be lost, and what others say of labels is too late."""
        self.began, self.fresh = True, False
        self._moved_s = dict.fromkeys(self.standings, now)

    def receive(self, view: View, now: float) -> list[PeerId]:
        """Learn from a view; those of whom there is news in it that others should hear at once.

        Raises
        ------
        ProtocolError
            It knows of too many peers ("excess"); nothing was learned from it.
        DisagreementError
            A second process with this peer's id ("twin").
        """
        if len(self.standings.keys() | view.standings.keys()) > MAX_KNOWN:
            raise ProtocolError("excess", f"expected a view that makes at most {MAX_KNOWN} peers known", view.sender)
        news: list[PeerId] = []
        for j, theirs in view.standings.items():
            mine = self.standings.get(j)
            if j == self.me and self.away_since_s is not None and self._is_heard(theirs):
                self.away_since_s, self._moved_s = None, dict.fromkeys(self.standings, now)
            if theirs == mine:  # most of a view is known already
                continue
            if j == self.me:
                self._hear_of_myself(theirs)
                if mine is not None and self.began and self.standings[j].generation > mine.generation:
                    self._be_away(now)
            elif mine is None or theirs.age > mine.age:
                if mine is None or theirs.generation == mine.generation or theirs.progress > mine.progress:
                    self._moved_s[j] = now
                self._put(j, theirs)
            if _is_news(self.standings[j], mine):
                news.append(j)
        if not self.began:
            self.n_classes = max(self.n_classes, view.n_classes)
        if self.members == (self.me,):  # the others have left, and said so
            self.away_since_s = None
        return news

    def _hear_of_myself(self, theirs: Standing) -> None:
        mine = self.standings[self.me]
        if theirs.instance != mine.instance and theirs.incarnation >= mine.incarnation:
            self._clashes += 1
            if self._clashes > CLASHES:
                raise DisagreementError("twin", "a second process runs with the id of this one", self.me)
            mine = mine.changed(incarnation=theirs.incarnation + 1)
        generation = max(mine.generation, theirs.generation)
        if self.fresh and theirs.incarnation >= 0 and theirs.instance != mine.instance:
            generation, self.fresh, self.had_begun = max(generation, theirs.generation + 1), False, True
        if generation % 2 != mine.generation % 2:
            generation += 1
        self._put(self.me, mine.changed(generation=generation))

    def _be_away(self, now: float) -> None:
        """Others may have come to the end without this peer: from now on it waits to be heard of."""
        mine = self.standings[self.me]
        self.away_since_s, self._back_beat = now, mine.beat + 1
        self._put(self.me, mine.changed(beat=self._back_beat))

    def _is_heard(self, theirs: Standing) -> bool:
        return theirs.instance == self.own.instance and theirs.beat >= self._back_beat

    def tick(self, now: float, progressing: bool = True) -> tuple[PeerId, ...]:
        """Some time has passed: beat, unless this peer makes no progress; the members that are lost by now."""
        asleep_s = 0.0 if self._ticked_s is None else now - self._ticked_s
        if asleep_s > ASLEEP_S:
            self._moved_s = {j: moved_s + asleep_s for j, moved_s in self._moved_s.items()}
            self.away_since_s = None if self.away_since_s is None else self.away_since_s + asleep_s
        self._ticked_s = now
        if asleep_s > self.departure_s and self.began and not self.complete and self.members != (self.me,):
            self._be_away(now)
        mine = self.standings[self.me]
        self._put(self.me, mine.changed(beat=mine.beat + progressing))
        may_lose = self.began and not self.complete and self.away_since_s is None
        lost = tuple(j for j in self.members if self._is_lost(j, now)) if may_lose else ()
        for j in lost:
            self._put(j, self.standings[j].changed(generation=self.standings[j].generation + 1))
        return lost

    def _is_lost(self, j: PeerId, now: float) -> bool:
        return j != self.me and now - self._moved_s.setdefault(j, now) > self.departure_s

    def woke(self, n: int, done: int) -> None:
        """The own peer has made n wakings, and all that it has to in epoch `done`."""
        mine = self.standings[self.me]
        self._put(self.me, mine.changed(n=n, done=done, beat=mine.beat + (done != mine.done)))

    def know(self) -> None:
        """The own peer knows that all members have made their wakings in this epoch."""
        mine = self.standings[self.me]
        self._put(self.me, mine.changed(over=self.epoch, beat=mine.beat + 1))

    def leave(self) -> None:
        """The own peer leaves."""
        mine = self.standings[self.me]
        self._put(self.me, mine.changed(generation=mine.generation + mine.is_member))

    def _put(self, j: PeerId, standing: Standing) -> None:
        before = self.standings.get(j)
        self.standings[j] = standing
        if standing != before:
            self.changed.add(j)
        if before is None or before.generation != standing.generation:
            self._agreed = None


def _is_news(standing: Standing, before: Standing | None) -> bool:
    return (
        before is None
        or standing.generation != before.generation
        or standing.done != before.done
        or standing.over != before.over
        or standing.n_samples != before.n_samples
    )
