"""Masses and running sums: how (s, h, phi) goes from agent to agent without rounds. No network, no clock.

Source: C. Hadjicostis, N. Vaidya, A. Dominguez-Garcia, "Robust distributed average consensus via
exchange of running sums" (2016), as Y. Tian, Y. Sun, G. Scutari, "Achieving linear convergence in
distributed asynchronous multi-agent optimization" (2018) use it to track a gradient.

An agent holds the mass m_i = (s_i, h_i, phi_i) in R^(p+2): of the gradient, of the objective, and
of the weight. All that happens to the three is the same, so they are one vector here; so are the
running sums of a link, S_ji = what agent i ever pushed to j, and R_ji = what j absorbed of it.
What agent i puts in itself is its source u_i = (grad g_i(w_i), g_i(w_i), 1). Every method keeps

    m_i + sum_j S_ji - sum_j R_ij = u_i

at each agent by itself, whatever arrives; the sum of that over all agents is (17). So (17) holds
also when an agent goes back to an old checkpoint, as long as it holds in that: its S_ji is then
less than what j absorbed, and j gives the difference back with the next flow that it gets.

Rounding. A running sum grows with the run: after N pushes it is about N times as large as what
is pushed, and float64 takes up to N 2^-53 of that away each time, for ever: measured, (17) is off
by 6e-9 after 1e6 pushes. Sums that start anew when a receiver acknowledges them stay small,
but then an agent that goes back to a checkpoint older than the acknowledgment cannot be helped.
So sums stay absolute, and the sender counts as pushed just what its sum has taken: the rest stays
in its mass. The mass itself is carried to twice the precision, which costs one more vector an
agent, none a link, and nothing on the wire. Nothing is lost then; only how finely mass can be
divided gets coarser, N 2^-53, until the next epoch begins with sums of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Twofold, Vector, two_sum
from peer.errors import ProtocolError
from peer.messages import Flow
from topology import PeerId

Stamp: TypeAlias = tuple[int, int]
"""Incarnation of a sender and its number of pushes; the larger one is newer."""

NO_EPOCH: Final = -1
"""Before the first epoch, when every message is of another one."""


@final
@dataclass(eq=False)
class Flows:
    """The mass of one agent, and its ends of the links to its neighbors.

    For each neighbor it holds, at most, what was pushed to it, what was absorbed from it and the
    newest flow of it: five vectors, however slow, absent or talkative the neighbor is.

    Parameters
    ----------
    me : int
        Agent i.
    incarnation : int
        How often its peer was started before; larger than in every life before this one.
    neighbors : tuple of int
        All agents to which it ever pushes, or which ever push to it.
    """

    me: PeerId
    incarnation: int
    neighbors: tuple[PeerId, ...]
    epoch: int = field(default=NO_EPOCH, init=False)
    members: tuple[PeerId, ...] = field(default=(), init=False)
    counter: int = field(default=0, init=False)
    mass: Twofold = field(default_factory=lambda: Twofold.of(np.zeros(0)), init=False)
    source: Vector = field(default_factory=lambda: np.zeros(0), init=False)
    _nothing: Vector = field(default_factory=lambda: np.zeros(0), init=False)
    _v: Vector = field(default_factory=lambda: np.zeros(0), init=False)
    _pushed: dict[PeerId, Vector] = field(default_factory=dict, init=False)
    _absorbed: dict[PeerId, Vector] = field(default_factory=dict, init=False)
    _stamps: dict[PeerId, Stamp] = field(default_factory=dict, init=False)
    _heard: dict[PeerId, Flow] = field(default_factory=dict, init=False)
    _unsent: set[PeerId] = field(default_factory=set, init=False)

    # ---- epochs ----------------------------------------------------------------------------

    def open_epoch(
        self, epoch: int, members: Iterable[PeerId], source: Vector, neighbors: Iterable[PeerId] | None = None
    ) -> None:
        """Begin an epoch: m_i = u_i, and all running sums are 0.

        Parameters
        ----------
        epoch : int
            Larger than the last one.
        members : iterable of int
            All agents of the epoch, this one too; I is their number.
        source : Vector
            u_i = (grad g_i(w_i), g_i(w_i), 1), (p + 2,).
        neighbors : iterable of int, optional
            From this epoch on; as before where they are not given.

        Raises
        ------
        ValueError
            The epoch is no later one, or not this agent's.
        """
        whole = tuple(sorted(set(members)))
        if epoch <= self.epoch or self.me not in whole:
            raise ValueError(f"epoch {epoch} of {whole} cannot follow epoch {self.epoch} at agent {self.me}")
        self.epoch, self.members = epoch, whole
        self.neighbors = self.neighbors if neighbors is None else tuple(sorted(set(neighbors)))
        self.mass, self.source, self._nothing = Twofold.of(source), source, np.zeros_like(source)
        for links in (self._pushed, self._absorbed, self._stamps, self._heard, self._unsent):
            links.clear()

    # ---- from neighbors --------------------------------------------------------------------

    def receive(self, flow: Flow) -> None:
        """Take a neighbor's flow in the place of the one before; it counts from the next `absorb` on.

        Raises
        ------
        ProtocolError
            A flow of an agent that is no neighbor and member ("neighbor"), of another epoch
            ("epoch"), with the newest stamp ("duplicate") or an older one ("stale"). None of
            them changes anything; as sums are sent and no increments, nothing is lost with them.
        """
        j, newest = flow.sender, self.newest(flow.sender)
        if j == self.me or j not in self.neighbors:
            raise ProtocolError("neighbor", "it is not a neighbor", j)
        if flow.epoch != self.epoch:
            raise ProtocolError("epoch", f"expected a flow of epoch {self.epoch}, found {flow.epoch}", j)
        if j not in self.members:
            raise ProtocolError("neighbor", f"it is not a member of epoch {self.epoch}", j)
        if newest is not None and flow.stamp <= newest:
            cause = "duplicate" if flow.stamp == newest else "stale"
            raise ProtocolError(cause, f"expected a stamp after {newest}, found {flow.stamp}", j)
        self._heard[j] = flow

    def newest(self, j: PeerId) -> Stamp | None:
        """Stamp of the newest flow of a neighbor in this epoch."""
        return self._heard[j].stamp if j in self._heard else self._stamps.get(j)

    def absorb(self) -> dict[PeerId, Vector]:
        """(13): m_i += sum_j (S_ij - R_ij), then R_ij = S_ij; over the neighbors heard since the last time.

        Returns
        -------
        dict of int to Vector
            v_j of these neighbors, (p,), ascending.
        """
        heard, self._heard = sorted(self._heard.items()), {}
        for j, flow in heard:
            change, error = two_sum(flow.sums, -self.absorbed(j))
            self.mass = self.mass.plus(change).plus(error)
            self._absorbed[j], self._stamps[j] = flow.sums, flow.stamp
        return {j: flow.v for j, flow in heard}

    # ---- the agent itself ------------------------------------------------------------------

    def track(self, source: Vector) -> None:
        """(15): m_i += u_i(w_i+) - u_i(w_i), (p + 2,)."""
        self.mass = self.mass.plus(source).plus(-self.source)
        self.source = source

    @property
    def phi(self) -> float:
        """Weight phi_i; not positive for a moment after a neighbor went back to an old checkpoint."""
        return float(self.mass.high[-1])

    # ---- to neighbors ----------------------------------------------------------------------

    def push(self, v: Vector, receivers: Iterable[PeerId]) -> None:
        """(16) with b = 1/(1 + number of receivers): S_ji += b m_i for each of them, m_i = b m_i.

        Parameters
        ----------
        v : Vector
            v_i of this waking, (p,); must not change any more.
        receivers : iterable of int
            Out-neighbors of this moment; members of the epoch.

        Raises
        ------
        ValueError
            One of them is not.
        """
        chosen = sorted(set(receivers))
        strange = [j for j in chosen if j == self.me or j not in self.neighbors or j not in self.members]
        if strange:
            raise ValueError(f"agent {self.me} cannot push to {strange} in epoch {self.epoch}")
        part = self.mass.high / (1.0 + len(chosen))
        for j in chosen:
            self._pushed[j], left = two_sum(self.pushed(j), part)
            self.mass = self.mass.plus(-part).plus(left)
        self.counter += 1
        self._v = v
        self._unsent.update(chosen)

    @property
    def unsent(self) -> tuple[PeerId, ...]:
        """Neighbors to which was pushed what no flow has carried yet, ascending."""
        return tuple(sorted(self._unsent))

    def repeat(self, receivers: Iterable[PeerId]) -> None:
        """What was pushed to these neighbors is unsent again: flows may have been lost."""
        self._unsent.update(self._pushed.keys() & set(receivers))

    @property
    def news(self) -> frozenset[PeerId]:
        """Neighbors whose newest flow has not been absorbed yet."""
        return frozenset(self._heard)

    def flow(self, j: PeerId) -> Flow:
        """What there is to send to a neighbor now.

        It is made when it is sent: to a neighbor that was slow or absent goes the newest one, and
        none waits. It may be made again at any time, for a new connection.

        Raises
        ------
        ValueError
            Nothing was pushed to it in this epoch.
        """
        if j not in self._pushed:
            raise ValueError(f"agent {self.me} has pushed nothing to {j} in epoch {self.epoch}")
        self._unsent.discard(j)
        return Flow(self.me, self.epoch, (self.incarnation, self.counter), self._v, self.pushed(j))

    # ---- the links' ends -------------------------------------------------------------------

    def pushed(self, j: PeerId) -> Vector:
        """S_ji, all that was pushed to j in this epoch, (p + 2,)."""
        return self._pushed.get(j, self._nothing)

    def absorbed(self, j: PeerId) -> Vector:
        """R_ij, all that was absorbed from j in this epoch, (p + 2,)."""
        return self._absorbed.get(j, self._nothing)

    @property
    def held(self) -> int:
        """Number of vectors held for the neighbors: at most five for each."""
        return len(self._pushed) + len(self._absorbed) + 2 * len(self._heard)

    # ---- checkpoints -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that a later life of the agent needs, as arrays by name; flows not absorbed yet come again."""
        arrays: dict[str, NDArray[Any]] = {
            "epoch": np.array(self.epoch),
            "members": np.array(self.members, dtype=np.int64),
            "counter": np.array(self.counter),
            "mass.high": self.mass.high,
            "mass.low": self.mass.low,
            "source": self.source,
            "v": self._v,
        }
        arrays |= {f"pushed.{j}": sums for j, sums in self._pushed.items()}
        arrays |= {f"absorbed.{j}": sums for j, sums in self._absorbed.items()}
        return arrays | {f"stamp.{j}": np.array(stamp, dtype=np.int64) for j, stamp in self._stamps.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a snapshot of an earlier life, however old.

        Raises
        ------
        KeyError, ValueError
            An array is missing, or none that a snapshot has. Nothing was changed.
        """
        high, low, source, v = (arrays[name] for name in ("mass.high", "mass.low", "source", "v"))
        links: dict[str, dict[PeerId, NDArray[Any]]] = {"pushed": {}, "absorbed": {}, "stamp": {}}
        for name, array in arrays.items():
            kind, dot, j = name.partition(".")
            if dot and kind in links:
                links[kind][int(j)] = array
        sums = [high, low, *links["pushed"].values(), *links["absorbed"].values()]
        if any(array.shape != source.shape or array.dtype != source.dtype for array in sums):
            raise ValueError("expected masses and running sums of one shape")
        if links["absorbed"].keys() != links["stamp"].keys():
            raise ValueError("expected a stamp for every running sum that was absorbed")
        epoch, counter, members = int(arrays["epoch"]), int(arrays["counter"]), tuple(map(int, arrays["members"]))
        stamps = {j: (int(incarnation), int(count)) for j, (incarnation, count) in links["stamp"].items()}
        self.epoch, self.counter, self.members = epoch, counter, members
        self.mass, self.source, self._nothing, self._v = Twofold(high, low), source, np.zeros_like(source), v
        self._pushed, self._absorbed, self._stamps = links["pushed"], links["absorbed"], stamps
        self._heard, self._unsent = {}, set(links["pushed"])  # what the life before sent may have been lost
