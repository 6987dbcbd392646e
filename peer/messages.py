"""What peers say to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

from peer.arrays import Tensor, Vector
from peer.records import Record
from topology import PeerId

PROTOCOL: int = 4
"""Version of the messages and of their wire format; peers of different versions do not talk."""

NOTHING_FORGOTTEN: int = -1
"""No round of which a share is gone."""

MAX_INCARNATION: int = 2**31
"""Starts of one peer: one a second for 68 years."""

EVERYBODY: PeerId = -1
"""The neighbors that an agent meets in an exchange."""

Purpose: TypeAlias = Literal["ask", "answer", "news"]
"""What a Hello is for."""

Part: TypeAlias = Literal["y", "z"]
"""The two tensors of a share."""

PARTS: Final[tuple[Part, ...]] = ("y", "z")
"""Both, as NEXT sends them."""


@final
class Hello(Record, frozen=True, eq=True):
    """Who I am, with which settings, what I know of the others, and what I have of yours.

    Parameters
    ----------
    sender : int
        The peer that speaks.
    instance : str
        Drawn anew by every process, so that two peers with one id are told apart.
    incarnation : int
        How often the sender was started before, to be resumed.
    purpose : str
        "ask" opens a connection and asks for an answer; "answer" gives it, and asks for the
        shares that got lost with an older connection; "news" spreads what was learned.
    n : int
        Exchange of the sender, as shares count them; it needs no share of an older one.
    held : tuple of (int, str)
        Exchanges and parts of the receiver's shares that the sender has already.
    settings : mapping
        Every setting that all peers must share, as text. Empty in news.
    n_samples : mapping
        Number of samples of every peer that the sender knows of, itself included.
    n_classes : int
        Largest label known, plus one; 0 where there are no labels.
    forgotten : int
        First round, from the receiver's on, of which the sender has no share for it any more, as it had got it once:
        then the receiver was resumed from a checkpoint that is not its last. `NOTHING_FORGOTTEN` where there is none.
    """

    sender: PeerId
    instance: str
    incarnation: int
    purpose: Purpose
    n: int
    held: tuple[tuple[int, Part], ...]
    settings: Mapping[str, str]
    n_samples: Mapping[PeerId, int]
    n_classes: int
    forgotten: int = NOTHING_FORGOTTEN


@final
class Share(Record, frozen=True):
    """(z_i, y_i) of an exchange: what a neighbor mixes in (7) and (8). One a neighbor and exchange.

    An exchange is a round, or a part of one, see `peer.gossip`. In the first of a round y is known before the surrogate
    is solved: a large one goes ahead, and the share comes in two pieces, one with y and one with z; a small one waits
    for z and comes as one piece.

    Parameters
    ----------
    sender : int
        Agent i.
    n : int
        Exchange, from 0 on: of K a round, n = K times the round, and those before in it.
    floor : int
        The sender never asks again for shares of exchanges below this one.
    objective : float
        Tracker of the mean of g_i(w_i), mixed as y is.
    y, z : Vector, Sparse or None
        (p,), or None where the piece does not carry it; y also where the method has none, see `peer.methods`. In a run
        with compression what is said of it, see `peer.links`.
    flood : float
        Largest measure of the last window that agent i has heard of, >= 0, see `peer.stopping`; infinity where
        there is none yet, or the run may not stop early.
    validation : (float, float)
        Tracker of the mean validation loss, mixed as y is, and the largest one that agent i has heard of in the open
        window, see `peer.validation`; 0 where nothing is held out.
    to : int
        The one neighbor that it is for, where each is told something else; `EVERYBODY` where it is for all. The wire
        does not carry it.
    """

    sender: PeerId
    n: int
    floor: int
    objective: float
    y: Tensor | None
    z: Tensor | None
    flood: float = math.inf
    validation: tuple[float, float] = (0.0, 0.0)
    to: PeerId = EVERYBODY

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it carries."""
        if self.y is None:
            return () if self.z is None else ("z",)
        return ("y",) if self.z is None else PARTS


@final
class Flow(Record, frozen=True):
    """What has gone from agent i to agent j in an epoch so far, and v_i: all that j needs of i without rounds.

    Of a link only the newest one counts. It makes up for all that were lost before it, for it
    carries sums and no increments, and whoever gets it twice has got it once.

    Parameters
    ----------
    sender : int
        Agent i.
    epoch : int
        Between two changes of membership; sums count from its beginning.
    stamp : (int, int)
        Incarnation of the sender, and its number of pushes: of two flows the larger one is newer.
    v : Vector
        v_i of (14), (p,).
    sums : Vector
        (S_ji, H_ji, F_ji), (p + 2,): all that was ever pushed to j, by (16), of the gradient mass
        s_i, of the objective's mass h_i and of the weight phi_i.
    """

    sender: PeerId
    epoch: int
    stamp: tuple[int, int]
    v: Vector
    sums: Vector


@final
class Bye(Record, frozen=True, eq=True):
    """The sender needs nothing more.

    Parameters
    ----------
    sender : int
        The peer that leaves.
    reason : str
        Empty when its run is complete; else why it gave up, for good.
    """

    sender: PeerId
    reason: str


@final
class Standing(Record, frozen=True, eq=True):
    """What is known of a peer in a run without rounds; of two standings the one with the larger `age` is newer.

    Parameters
    ----------
    generation : int
        Odd while the peer is a member, even when it is none: 1 at first, one more whenever it has
        left, was lost, or has returned.
    incarnation : int
        How often it was started before; -1 while it was never heard of.
    beat : int
        Grows as long as its process lives and gets on.
    instance : str
        Drawn anew by every process.
    n : int
        Its wakings.
    done : int
        The last epoch in which it has made all its wakings; 0 while there is none.
    over : int
        The last epoch of which it knows that all members have done so; 0 while there is none.
    n_samples : int
        Its samples; 0 while that is not known.
    address : str
        Where it listens, as others see it; empty while that is not known.
    """

    generation: int
    incarnation: int = -1
    beat: int = 0
    instance: str = ""
    n: int = 0
    done: int = 0
    over: int = 0
    n_samples: int = 0
    address: str = ""

    @property
    def is_member(self) -> bool:
        """Whether the peer takes part."""
        return self.generation % 2 == 1

    @property
    def progress(self) -> tuple[int, int, str]:
        """Larger whenever the peer has shown that it lives."""
        return self.incarnation, self.beat, self.instance

    @property
    def age(self) -> tuple[int, int, int, str]:
        """By which the newer of two standings is found; whoever says a peer to be gone has the last word but one."""
        return self.generation, self.incarnation, self.beat, self.instance


@final
class View(Record, frozen=True, eq=True):
    """Who takes part, as far as the sender knows: passed on from peer to peer in a run without rounds.

    Parameters
    ----------
    sender : int
        The peer that speaks.
    settings : mapping
        Every setting that all peers must share, as text; empty but on a new connection.
    n_classes : int
        Largest label known, plus one; 0 where there are no labels, or the sender has yet to learn it.
    standings : mapping of int to Standing
        Of every peer that the sender knows of, or of those of whom there is news; of itself in any case.
    """

    sender: PeerId
    settings: Mapping[str, str]
    n_classes: int
    standings: Mapping[PeerId, Standing]


Message: TypeAlias = Hello | Share | Flow | Bye | View

Outgoing: TypeAlias = Sequence[tuple[PeerId, Message]]
"""Messages with their receivers, in the order in which to send them."""
