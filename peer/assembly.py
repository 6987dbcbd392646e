"""The conversation of a peer without rounds: what it says to whom, in answer to what. No network, no clock.

Two kinds of words. Views, who takes part, go to every out-neighbor again and again, and what is new
in them at once. Flows go after a waking to those to whom was pushed, newest only. A new
connection is opened with a view that holds the settings; a peer that has not begun yet, and finds that
others run with other ones, gives up, while one that has begun drops what such a peer says.

Whoever changes the view opens an epoch with it: see `peer.membership`, `peer.flows`. Methods take
messages and times, and return what to send to whom, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from peer.agent import State
from peer.arrays import Vector
from peer.errors import DisagreementError, ProtocolError
from peer.flows import Flows
from peer.membership import Membership
from peer.messages import Bye, Flow, Message, Outgoing, View
from peer.pace import PHI_KEPT, Pace
from peer.roster import disagreement
from peer.waking import source
from topology import PeerId
from topology.outlets import Outlets

KNOCK_S: Final = 2.0
"""How long it is tried to reach one of those that have gone, before it is the next one's turn: a connection and a
view take a small part of it, and it is longer than the longest pause between two attempts to connect."""

TICK_S: Final = 0.25
"""Between two ticks: what has changed passes a network of diameter 10 within seconds."""

BEATS: Final = 8
"""Of a member, at least, until one without progress counts as gone; one a tick where that is soon."""

FEW: Final = 32
"""Peers of whom all are told at every tick, up to twice as many; 200 on one host spent most of their time on that."""


@final
@dataclass(frozen=True)
class Opening:
    """An epoch that is about to begin.

    Parameters
    ----------
    epoch : int
        Its number.
    members : tuple of int
        Ascending; I is their number.
    neighbors : tuple of int
        Those with whom this peer has links, in or out, ascending.
    n_samples : int
        M.
    """

    epoch: int
    members: tuple[PeerId, ...]
    neighbors: tuple[PeerId, ...]
    n_samples: int


@final
@dataclass(eq=False)
class Assembly:
    """What one peer has said and heard.

    Parameters
    ----------
    settings : mapping
        What all peers must share, as text.
    membership : Membership
        Who takes part.
    flows : Flows
        The mass of this peer, and its ends of the links.
    outlets : Outlets
        Who pushes to whom.
    n_wakings : int
        That every member makes in an epoch, at least.
    """

    settings: Mapping[str, str]
    membership: Membership
    flows: Flows
    outlets: Outlets
    n_wakings: int
    pace: Pace = field(default_factory=Pace, init=False)
    opened_n: int = field(default=0, init=False)
    said_bye: dict[PeerId, str] = field(default_factory=dict, init=False)
    _connected: set[PeerId] = field(default_factory=set, init=False)
    _owed: dict[PeerId, bool] = field(default_factory=dict, init=False)
    _news: set[PeerId] = field(default_factory=set, init=False)
    _n_ticks: int = field(default=0, init=False)

    @property
    def me(self) -> PeerId:
        """Id of the own peer."""
        return self.membership.me

    # ---- links -----------------------------------------------------------------------------

    @property
    def receivers(self) -> frozenset[PeerId]:
        """All to whom this peer keeps a connection while the view stays as it is.

        To whom it may push, and who would be among them if nobody had gone: so the lost are told that
        they are when they are back, and the two sides of a network that was divided find each other.
        """
        agreed = self.membership.agreed
        both = (self.outlets.out_neighbors(members, self.me) for members in (agreed.members, agreed.known))
        return frozenset().union(*both)

    def knocks_at(self, now: float) -> tuple[PeerId, ...]:
        """One of those that have gone, each in its turn, to see whether it is back; none where nobody has.

        For who would be a neighbor may be gone for good: then nothing else leads to the other side of
        a network that was divided.
        """
        gone = [j for j in self.membership.agreed.gone if j != self.me]
        return (gone[int(now / KNOCK_S) % len(gone)],) if gone else ()

    @property
    def senders(self) -> tuple[PeerId, ...]:
        """All who may ever push to this peer while the view stays as it is."""
        return self.outlets.in_neighbors(self.membership.members, self.me)

    def connected(self, j: PeerId) -> Outgoing:
        """A connection to a peer is up."""
        self._connected.add(j)
        return [(j, self.membership.view(self.settings)), *self.unsent()]

    def disconnected(self, j: PeerId) -> None:
        """The connection to a peer is down; what was on it may be lost."""
        self._connected.discard(j)
        self._owed.pop(j, None)
        self.flows.repeat([j])

    def is_connected(self, j: PeerId) -> bool:
        """Whether the connection to j is up."""
        return j in self._connected

    # ---- views -----------------------------------------------------------------------------

    def receive(self, message: Message, now: float) -> None:
        """Take in a message at `now`, seconds.

        Raises
        ------
        ProtocolError
            It is not allowed now, and has changed nothing.
        DisagreementError
            Its sender cannot be talked to: other settings, or a second process with this peer's id.
        """
        j = message.sender
        if j == self.me:
            raise ProtocolError("identity", "it says it is this peer itself", j)
        if isinstance(message, View):
            other = disagreement(self.settings, message.settings) if message.settings else ""
            if other:
                raise DisagreementError("settings", other, j)
            self._news.update(self.membership.receive(message, now))
            # a higher one, if it has come out that an earlier process of this peer had this one already
            self.flows.incarnation = self.membership.standings[self.me].incarnation
        elif isinstance(message, Flow):
            self.flows.receive(message)
            self.pace.heard(j, now)
        elif isinstance(message, Bye):
            self.said_bye[j] = message.reason
        else:
            raise ProtocolError("mode", "expected views and flows, for this run has no rounds", j)

    @property
    def has_news(self) -> bool:
        """Whether something was learned that others should hear at once."""
        return bool(self._news)

    def spread(self) -> Outgoing:
        """Pass on what was learned, if anything was, and no more; who misses it hears of it when all is told again."""
        return self._tell(self.membership.view({}, self._news)) if self._news else []

    def tick(self, now: float, progressing: bool = True) -> tuple[tuple[PeerId, ...], Outgoing]:
        """TICK_S have passed: members that are lost by now, and what to say; `progressing` as `Membership.tick`.

        Once a beat that is all that is known, and between, where peers are many, what has changed since the last tick.
        """
        n_longest = int(self.membership.departure_s / (BEATS * TICK_S))
        beats = self._n_ticks % max(1, min(n_longest, len(self.membership.standings) // FEW)) == 0
        self._n_ticks += 1
        lost = self.membership.tick(now, progressing and beats)
        if beats:
            return lost, self.gossip()
        changed = self.membership.changed
        return lost, self._tell(self.membership.view({}, changed)) if changed else []

    def gossip(self) -> Outgoing:
        """The view, to all whom this peer can reach; where something waits for room already, it comes with `unsent`."""
        return self._tell(self.membership.view({}))

    def _tell(self, view: View) -> Outgoing:
        self._news -= view.standings.keys()
        self.membership.changed -= view.standings.keys()
        waiting = self._connected & {*self._owed, *self.flows.unsent}
        for j in waiting:
            self._owed.setdefault(j, j in self.flows.unsent)
        return [(j, view) for j in sorted(self._connected - waiting)]

    # ---- epochs and wakings ----------------------------------------------------------------

    @property
    def opening(self) -> Opening | None:
        """The epoch to be opened: the view has changed, M is known, and this peer is not away; else None."""
        membership = self.membership
        epoch = membership.epoch
        if epoch == self.flows.epoch or membership.missing or membership.away_since_s is not None:
            return None
        members = membership.members
        return Opening(epoch, members, self.neighbors_among(members), membership.n_samples_total)

    def neighbors_among(self, members: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
        """All with whom this peer has links, in or out, while these are the members."""
        outlets = self.outlets
        return tuple(sorted({*outlets.out_neighbors(members, self.me), *outlets.in_neighbors(members, self.me)}))

    def open_epoch(self, opening: Opening, state: State) -> None:
        """Begin an epoch at this state of the agent, whose gradient has the weights of the epoch's M."""
        self.flows.incarnation = self.membership.standings[self.me].incarnation
        self.flows.open_epoch(opening.epoch, opening.members, source(state), opening.neighbors)
        self.opened_n, self.pace = state.n, Pace()
        self.said_bye.clear()
        self.woke(state)

    def woke(self, state: State) -> None:
        """The agent has come to this state."""
        done = self.flows.epoch if state.n - self.opened_n >= self.n_wakings else 0
        before = self.membership.standings[self.me].done
        self.membership.woke(state.n, done)
        if done != before:
            self._news.add(self.me)

    def push(self, n: int, v: Vector, now: float) -> tuple[PeerId, ...]:
        """(16) at the end of waking n: to those out-neighbors that it is of use to push to now; these."""
        flows = self.flows
        if self.pace.is_fruitless:
            flows.repeat(flows.neighbors)
        out = self.outlets.receivers(flows.members, self.me, n) if flows.phi >= PHI_KEPT else ()
        chosen = self.pace.open_to(filter(self.is_connected, out), self.senders, now)
        flows.push(v, chosen)
        return chosen

    def unsent(self) -> Outgoing:
        """What waits for room, as new as it is now, to all whom this peer can reach: one flow and one view for each.

        Of the two the one that has waited for longer comes first. On a slow link all flows would else
        leave no place for views, and who is busy would be taken for lost; or views none for flows.
        """
        owed, self._owed = self._owed, {}
        view, messages = self.membership.view({}), list[tuple[PeerId, Message]]()
        for j in sorted(self._connected & {*owed, *self.flows.unsent}):
            flows = [(j, self.flows.flow(j))] if j in self.flows.unsent else []
            views = [(j, view)] if j in owed else []
            messages += [*flows, *views] if owed.get(j) else [*views, *flows]
        return messages

    def found_no_room(self, messages: Outgoing) -> None:
        """These messages could not be sent, for there was no room: they are unsent again."""
        for j, message in messages:
            if isinstance(message, Flow):
                self.flows.repeat([j])
            elif isinstance(message, View) and j in self._connected:
                self._owed[j] = j in self.flows.unsent  # who failed before it has waited for longer

    # ---- the end ---------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether all know that all have made their wakings, or one that has left already knew."""
        members = self.membership.members
        return not self.membership.unaware or any(self.said_bye.get(j) == "" for j in members)

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to be opened, or may be, as soon as somebody has heard of this peer again."""
        return self.opening is not None or self.membership.away_since_s is not None

    def part(self, reason: str) -> Outgoing:
        """Say goodbye: the run is over, or, with a reason, this peer leaves it."""
        if reason:
            self.membership.leave()
        last_words: tuple[Message, ...] = self.membership.view({}), Bye(self.me, reason)
        return [(j, message) for message in last_words for j in sorted(self._connected)]
