"""The conversation of one peer with its neighbors: what is said in answer to what. No network, no clock.

Every connection is opened with a Hello that asks. It tells, as the answer does, what its sender
has got: the shares that an older connection swallowed are sent again. A connection carries one
direction only, so the answer may have to wait until the other one is up; then the Hello that
opens that one takes its place. It tells, too, what is gone for good of what the other lacks: so a
peer finds that it was resumed from a checkpoint that is not its last, and is `outdated`. Messages
go in and out as values: each method returns what to send to whom, in this order.

The order matters once: no share may overtake the news from which its receiver learns the last
sample count, for it cannot read shares before it knows the model. So nothing is sent again to
a neighbor before this peer knows all counts itself, and has passed them on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from peer.arrays import Tensor, Vector
from peer.errors import ProtocolError
from peer.messages import NOTHING_FORGOTTEN, Bye, Flow, Hello, Message, Outgoing, Purpose, Share, View
from peer.roster import Roster
from peer.rounds import Rounds
from topology import PeerId


@final
@dataclass(eq=False)
class Session:
    """What one peer has said and heard.

    Parameters
    ----------
    neighbors : tuple of int
        All neighbors that it ever has.
    roster : Roster
        What it knows of all peers.
    rounds : Rounds
        Its shares and theirs.
    """

    neighbors: tuple[PeerId, ...]
    roster: Roster
    rounds: Rounds
    has_news: bool = field(default=False, init=False)
    complete: bool = field(default=False, init=False)
    heard: set[PeerId] = field(default_factory=set, init=False)
    said_bye: dict[PeerId, str] = field(default_factory=dict, init=False)
    outdated: tuple[PeerId, int] | None = field(default=None, init=False)
    _states: dict[PeerId, Hello] = field(default_factory=dict, init=False)
    _asked_from: dict[PeerId, int] = field(default_factory=dict, init=False)

    def connected(self, j: PeerId) -> Outgoing:
        """A connection to a neighbor is up: ask what it lacks, and say goodbye again if that was said already."""
        self.rounds.connected(j)
        return [(j, self._hello("ask", j))] + ([(j, Bye(self.rounds.me, ""))] if self.complete else [])

    def disconnected(self, j: PeerId) -> None:
        """The connection to a neighbor is down."""
        self.rounds.disconnected(j)

    def receive(self, message: Message) -> Outgoing:
        """Take in a message.

        Raises
        ------
        ProtocolError
            It is not allowed now, and has changed nothing.
        DisagreementError
            Its sender cannot be talked to: other settings, or a second process with its id.
        """
        if message.sender not in self.neighbors:
            raise ProtocolError("stranger", "it is not a neighbor", message.sender)
        if isinstance(message, Share):
            self.rounds.receive(message)
        elif isinstance(message, Flow | View):
            raise ProtocolError("mode", "expected shares, for this run has rounds", message.sender)
        elif isinstance(message, Bye):
            self.said_bye[message.sender] = message.reason
        else:
            return self._take_hello(message)
        return []

    def _take_hello(self, hello: Hello) -> Outgoing:
        j = hello.sender
        if self.roster.receive(hello):
            self.has_news = True
        self.heard.add(j)
        if hello.purpose == "news":
            return []
        self._states[j] = hello
        self._asked_from[j] = hello.n
        if self.roster.incarnation and hello.forgotten >= self.rounds.n:  # who was never resumed is lied to
            self.outdated = j, hello.forgotten
        must_know = hello.purpose == "ask" or self.rounds.forgotten(j, hello.n) != NOTHING_FORGOTTEN
        answer = [(j, self._hello("answer", j))] if must_know and self.rounds.is_connected(j) else []
        return [*answer, *(self._owed() if self.roster.began else [])]

    def _owed(self) -> Outgoing:
        states, self._states = self._states, {}
        return [(j, share) for j, hello in states.items() for share in self.rounds.owed(hello)]

    def spread(self) -> Outgoing:
        """Pass on what was learned of other peers, if anything was."""
        if not self.has_news:
            return []
        self.has_news = False
        return [(j, self.roster.hello("news", self.rounds.n, to=j)) for j in self._connected]

    def begin(self) -> Outgoing:
        """Nobody is missing, round 0 can begin: pass on the last news, then what neighbors lack."""
        self.roster.began = True
        return [*self.spread(), *self._owed()]

    def offer(
        self,
        objective: float,
        y: Vector | None,
        z: Vector | None,
        flood: float = math.inf,
        validation: tuple[float, float] = (0.0, 0.0),
    ) -> Outgoing:
        """The own share of the current round, or a piece of it."""
        return self.rounds.offer(objective, y, z, flood, validation)

    def offer_each(
        self,
        objective: float,
        words: Mapping[PeerId, tuple[Tensor | None, Tensor]],
        flood: float = math.inf,
        validation: tuple[float, float] = (0.0, 0.0),
    ) -> Outgoing:
        """The own shares of the current round, another one for each neighbor."""
        return self.rounds.offer_each(objective, words, flood, validation)

    def part(self, reason: str) -> Outgoing:
        """Say goodbye: the run is complete, or, with a reason, given up."""
        self.complete = not reason
        return [(j, Bye(self.rounds.me, reason)) for j in self._connected]

    @property
    def _connected(self) -> list[PeerId]:
        return [j for j in self.neighbors if self.rounds.is_connected(j)]

    @property
    def absent(self) -> tuple[PeerId, ...]:
        """Neighbors that have not completed their run, and may need something still, ascending.

        One that gave up is among them: it may be resumed.
        """
        return tuple(j for j in self.neighbors if self.said_bye.get(j) != "")

    @property
    def unmet(self) -> tuple[PeerId, ...]:
        """Neighbors that this peer has not heard of yet, ascending."""
        return tuple(j for j in self.neighbors if j not in self.heard)

    @property
    def given_up(self) -> tuple[PeerId, str] | None:
        """A neighbor that gave up for good, and why."""
        return next(((j, reason) for j, reason in self.said_bye.items() if reason), None)

    def _hello(self, purpose: Purpose, j: PeerId) -> Hello:
        rounds = self.rounds
        forgotten = rounds.forgotten(j, self._asked_from.get(j, rounds.n))
        return self.roster.hello(purpose, rounds.n, rounds.held_of(j), forgotten, j)
