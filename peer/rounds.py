"""The round machine: which shares a peer waits for, holds, and still owes. No network, no clock.

What is called a round here is one exchange with the neighbors; where a round of the method has
several, see `peer.gossip`, all of them are counted here.

A round is begun, shares are received in any order, and when all of the round's neighbors are
here it is advanced. Two neighbors that do not meet may drift apart by several rounds, but not
further than one meeting: a peer sends its share of the meeting after next only when it has got
the neighbor's share of the next one. So of each neighbor at most the share of the current
round and that of the next meeting come. Only to a peer that was resumed from a checkpoint,
`catch_up` rounds back at most, all that it missed may come at once.

A share that got lost with a broken connection is sent again: every own share is kept until the
neighbors that it is for have said, by `floor`, that they will never ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from peer.arrays import Tensor, Vector
from peer.errors import NeighborsLate, ProtocolError
from peer.messages import EVERYBODY, NOTHING_FORGOTTEN, PARTS, Hello, Part, Share
from topology import PeerId, Schedule

MEETINGS: Final = 2
"""Shares of one neighbor that can be here in an undisturbed run: of the current round and the next meeting."""

SENT: Final = 64
"""Pieces sent over one connection from which on those that nobody will ask for again are forgotten."""


@final
@dataclass(eq=False)
class Rounds:
    """The shares of one peer's run, round by round.

    Parameters
    ----------
    me : int
        This peer.
    schedule : Schedule
        Who meets whom.
    n_rounds : int
        Length of the run.
    patience_s : float
        How long a neighbor may stay late, seconds.
    catch_up : int
        Rounds that a resumed peer can be behind: those between two checkpoints.
    n : int
        Round to start from.
    floor : int
        This peer never asks again for shares of rounds below it.
    parts : tuple of str
        What a whole share has.
    """

    me: PeerId
    schedule: Schedule
    n_rounds: int
    patience_s: float
    catch_up: int = 0
    n: int = 0
    floor: int = 0
    parts: tuple[Part, ...] = PARTS
    waiting_since_s: float = field(default=0.0, init=False)
    neighbors: tuple[PeerId, ...] = field(default=(), init=False)
    _lacking: set[PeerId] = field(default_factory=set, init=False)
    _held: dict[PeerId, dict[int, Share]] = field(default_factory=dict, init=False)
    _kept: dict[tuple[int, PeerId], Share] = field(default_factory=dict, init=False)
    _floors: dict[PeerId, int] = field(default_factory=dict, init=False)
    _sent: dict[PeerId, set[tuple[int, Part]]] = field(default_factory=dict, init=False)

    # ---- the round -------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin round n with its neighbors."""
        self.neighbors = self.schedule.graph(self.n).neighbors(self.me)
        self._lacking = {j for j in self.neighbors if not self._whole(j)}

    def receive(self, share: Share) -> None:
        """Take a neighbor's share, or a piece of it.

        Raises
        ------
        ProtocolError
            A share of a round that is over ("stale"), a piece that is here already
            ("duplicate"), of a round in which the two do not meet ("neighbor"), or of a
            meeting beyond the next ("ahead"). None of them changes anything.
        """
        j, n = share.sender, share.n
        if n < self.n:
            raise ProtocolError("stale", f"its share comes in round {self.n}", j, n)
        if n >= self.n_rounds or j not in self.schedule.graph(n).neighbors(self.me):
            raise ProtocolError("neighbor", "it is not a neighbor in that round", j, n)
        held = self._held.setdefault(j, {})
        if n not in held:
            if n != self.n and len(held.keys() - {self.n}) + 1 >= MEETINGS + self.catch_up:
                raise ProtocolError("ahead", f"its shares of rounds {sorted(held)} are not used up", j, n)
            held[n] = share
        else:
            old = held[n]
            if (share.y is None or old.y is not None) and (share.z is None or old.z is not None):
                raise ProtocolError("duplicate", "this share is here already", j, n)
            y, z = (share.y if old.y is None else old.y), (share.z if old.z is None else old.z)
            held[n] = old.changed(y=y, z=z, floor=max(old.floor, share.floor))
        if n == self.n and j in self._lacking and self._whole(j):
            self._lacking.remove(j)
        self._acknowledge(j, share.floor)

    @property
    def missing(self) -> tuple[PeerId, ...]:
        """Neighbors of the current round whose share is not whole, ascending."""
        return tuple(sorted(self._lacking)) if self._lacking else ()

    def _whole(self, j: PeerId) -> bool:
        share = self._held[j].get(self.n) if j in self._held else None
        return share is not None and (share.y is not None) + (share.z is not None) == len(self.parts)

    def wait_from(self, now: float) -> None:
        """The own part of the round is done at `now`, seconds; from here on neighbors can be late."""
        self.waiting_since_s = now

    @property
    def deadline_s(self) -> float:
        """When the neighbors that are still missing are late; on the clock of `wait_from`."""
        return self.waiting_since_s + self.patience_s

    def check_late(self, now: float, n: int | None = None) -> None:
        """Give up if the deadline has passed; in round n, as the user counts them.

        Raises
        ------
        NeighborsLate
            Names the missing neighbors and the round.
        """
        if now >= self.deadline_s and self.missing:
            raise NeighborsLate(self.n if n is None else n, self.missing, now - self.waiting_since_s)

    def shares(self) -> dict[PeerId, Share]:
        """Shares of the round's neighbors, all of them whole.

        Raises
        ------
        ValueError
            Some are missing.
        """
        if self.missing:
            raise ValueError(f"round {self.n}: the shares of {self.missing} are missing")
        return {j: self._held[j][self.n] for j in self.neighbors}

    def refuse(self, j: PeerId) -> None:
        """Give up a neighbor's share of the round, which turned out to be of no use: it is missing again."""
        del self._held[j][self.n]
        self._lacking.add(j)

    def advance(self) -> dict[PeerId, Share]:
        """Hand out the shares of the round's neighbors, all of them whole, and go to the next round.

        Raises
        ------
        ValueError
            Some are missing.
        """
        shares = self.shares()
        for j in shares:
            del self._held[j][self.n]
        # a neighbor that was ahead may have said its floor before the round was over here
        self._release([key for key in ((self.n, to) for to in (EVERYBODY, *self.neighbors)) if key in self._kept])
        self.n += 1
        self.neighbors = ()
        return shares

    # ---- own shares ------------------------------------------------------------------------

    def offer(
        self,
        objective: float,
        y: Vector | None,
        z: Vector | None,
        flood: float = math.inf,
        validation: tuple[float, float] = (0.0, 0.0),
    ) -> list[tuple[PeerId, Share]]:
        """Own share of the current round, or a piece of it: what to send to whom now.

        It is kept for neighbors whose connection is down, or breaks.
        """
        piece = Share(self.me, self.n, self.floor, objective, y, z, flood, validation)
        if self.neighbors:
            kept = self._kept.get((self.n, EVERYBODY))
            whole = piece if kept is None else kept.changed(y=kept.y if y is None else y, z=kept.z if z is None else z)
            self._kept[self.n, EVERYBODY] = whole
        return [(j, sent) for j in self.neighbors if self.is_connected(j) and (sent := self._unsent(j, piece, ()))]

    def offer_each(
        self,
        objective: float,
        words: Mapping[PeerId, tuple[Tensor | None, Tensor]],
        flood: float = math.inf,
        validation: tuple[float, float] = (0.0, 0.0),
    ) -> list[tuple[PeerId, Share]]:
        """Own shares of the current round, another one for each neighbor, whole: what to send to whom now."""
        shares = {j: Share(self.me, self.n, self.floor, objective, *words[j], flood, validation, j) for j in words}
        self.keep(shares.values())
        return [
            (j, sent) for j, share in shares.items() if self.is_connected(j) and (sent := self._unsent(j, share, ()))
        ]

    def connected(self, j: PeerId) -> None:
        """A connection to j is up; nothing was sent over it yet."""
        self._sent[j] = set()

    def disconnected(self, j: PeerId) -> None:
        """The connection to j is down; what was sent over it may be lost."""
        self._sent.pop(j, None)

    def is_connected(self, j: PeerId) -> bool:
        """Whether the connection to j is up."""
        return j in self._sent

    def owed(self, hello: Hello) -> list[Share]:
        """Own shares that a peer lacks: of rounds from its own on, but for what it holds or is on its way."""
        j = hello.sender
        if not self.is_connected(j):
            return []
        due = (share for share in self.kept() if share.n >= hello.n and self._is_for(share, j))
        return [piece for share in due if (piece := self._unsent(j, share, hello.held))]

    def forgotten(self, j: PeerId, n: int) -> int:
        """First round from n on, over here, of which the own share for j is gone, as j had got it."""
        gone = (m for m in range(n, self.n) if self._meets(j, m) and not {(m, EVERYBODY), (m, j)} & self._kept.keys())
        return next(gone, NOTHING_FORGOTTEN)

    def held_of(self, j: PeerId) -> tuple[tuple[int, Part], ...]:
        """Rounds and parts of j's shares that are here."""
        shares = sorted(self._held.get(j, {}).items())
        return tuple((n, part) for n, share in shares for part in share.parts)

    def kept(self) -> list[Share]:
        """Own shares that a neighbor may still ask for, oldest first."""
        return [self._kept[key] for key in sorted(self._kept)]

    def keep(self, shares: Iterable[Share]) -> None:
        """Own shares that neighbors may ask for: of this round, or, from a checkpoint, of earlier ones."""
        self._kept.update(((share.n, share.to), share) for share in shares)

    def _unsent(self, j: PeerId, share: Share, held: Iterable[tuple[int, Part]]) -> Share | None:
        sent, parts, n = self._sent[j], share.parts, share.n
        missing = [part for part in parts if (n, part) not in sent and (n, part) not in held]
        sent.update([(n, part) for part in missing])
        if not missing:
            return None
        if len(missing) == len(parts) and share.floor == self.floor:
            return share  # the same for every neighbor, so that it is encoded once
        y, z = (share.y if "y" in missing else None), (share.z if "z" in missing else None)
        return share.changed(y=y, z=z, floor=self.floor)

    def _is_for(self, share: Share, j: PeerId) -> bool:
        return share.to == j if share.to != EVERYBODY else self._meets(j, share.n)

    def _meets(self, j: PeerId, n: int) -> bool:
        return j in self.schedule.graph(n).neighbors(self.me)

    def _acknowledge(self, j: PeerId, floor: int) -> None:
        if floor <= self._floors.get(j, 0):
            return
        self._floors[j] = floor
        over = min(self.n, floor)  # j was not the last that had to say so of any later round
        self._release([key for key in self._kept if key[0] < over])
        if len(sent := self._sent.get(j, set())) > SENT:
            self._sent[j] = {piece for piece in sent if piece[0] >= floor}

    def _release(self, over: Iterable[tuple[int, PeerId]]) -> None:
        """Drop own shares of rounds that are over here, if those whom they are for have said that they need none."""
        for n, to in over:
            for k in self.schedule.graph(n).neighbors(self.me) if to == EVERYBODY else (to,):
                if self._floors.get(k, 0) <= n:
                    break
            else:
                del self._kept[n, to]
