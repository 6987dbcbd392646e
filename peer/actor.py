"""One agent of a run in rounds, with all that an experiment may ask of it, as pure functions of its state.

A round is `proposed`; then, for each of its exchanges, `spoken` and `heard`; the last one gives the state after it.
Whoever carries words between agents goes through these: a peer (`peer.rounds_mode`), or a loop over all agents
(`peer.simulation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np

from peer import alignment, careful, gossip, renewal, stopping, validation
from peer.agent import Clipping, Proposal, State
from peer.alignment import Watch
from peer.arrays import DTYPES, Vector
from peer.careful import Caution
from peer.gossip import Course
from peer.links import Coding
from peer.messages import Share
from peer.methods import Method, Next
from peer.optim.steps import Constant, StepRule
from peer.optim.surrogates import Data
from peer.optim.vectors import square
from peer.problem import Problem
from peer.renewal import Renewal
from topology import PeerId, Schedule
from topology.gossip import ONCE, Gossip
from topology.weights import Weights, metropolis

F8: Final = DTYPES["f8"]
"""Numbers on the wire are those of the agent."""


@final
@dataclass(frozen=True, eq=False)
class Actor:
    """Agent i.

    Parameters
    ----------
    me : int
        i.
    problem : Problem
        g_i.
    schedule : Schedule
        Who meets whom in an exchange.
    n_rounds : int
        Length of the run, if it does not stop early.
    alpha : float
        alpha[0].
    method : Method
        What the agent does in a round, beside the exchanges.
    rule : StepRule
        alpha[n+1] from alpha[n].
    weights : Weights
        c_ij.
    gossip : Gossip
        The exchanges of a round.
    wire_dtype : dtype
        How neighbors see its numbers.
    clipping, coding, caution, renewal, watch, held_out
        Where neighbors are believed only so far, where they are told less than all, where tau is the agent's choice,
        where the network stays linearized, where layers learn by feedback, and where samples are held out; None: not.
    tolerance, patience : float, int
        For an early stop, see `peer.stopping` and `peer.validation`; 0: never.
    """

    me: PeerId
    problem: Problem
    schedule: Schedule
    n_rounds: int
    alpha: float
    method: Method = field(default_factory=Next)
    rule: StepRule = field(default_factory=Constant)
    weights: Weights = metropolis
    gossip: Gossip = ONCE
    wire_dtype: np.dtype[Any] = F8
    clipping: Clipping | None = None
    coding: Coding | None = None
    caution: Caution | None = None
    renewal: Renewal | None = None
    watch: Watch | None = None
    held_out: Data | None = None
    tolerance: float = 0.0
    patience: int = 0

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return self.schedule.n_agents

    def begun(self, w: Vector) -> State:
        """State at round 0 with w_i[0] = w, (p,).

        Raises
        ------
        SolveError
            The numbers broke down; so in all of these.
        """
        state = self.method.initial(self.problem, w, self.alpha)
        if self.caution is not None:
            state = careful.begun(self.problem, state, self.caution)
        if self.watch is not None:
            state = alignment.begun(self.problem, state, self.watch)
        if self.held_out is not None:
            state = validation.begun(state, self.held_out)
        return state if self.renewal is None else renewal.begun(state)

    def stopped(self, state: State) -> str:
        """Why the run stops early before the round of this state; empty where it does not."""
        if stopping.is_over(state, self.tolerance):
            return "tolerance"
        return "validation" if validation.is_over(state, self.patience) else ""

    def is_through(self, state: State) -> bool:
        """Whether no round is left to be done; so it is for all agents, or for none."""
        return state.n >= self.n_rounds or bool(self.stopped(state))

    def result(self, state: State) -> Vector:
        """Parameters that the run has come to, (p,), within bounds if there are any.

        Means are out of them by rounding, and by more with weights that may be negative, or where agents say less than
        all to each other.
        """
        return self.problem.regularizer.nearest(validation.result(state))

    # ---- a round ---------------------------------------------------------------------------

    def proposed(self, state: State) -> Proposal:
        """What the agent comes to before it hears of its neighbors: (4), (5), (6)."""
        problem = alignment.chosen(self.problem, state).in_round(state.n, state.alpha, state.way)
        return self.method.propose(problem, state, self.n_agents)

    def neighbors(self, course: Course) -> tuple[PeerId, ...]:
        """Whom the agent meets in the exchange that comes next."""
        return self.schedule.graph(self._exchange(course)).neighbors(self.me)

    def spoken(self, course: Course) -> Course:
        """Before the exchange that comes next, with what is said in it, where that is not all."""
        neighbors = () if self.coding is None else self.neighbors(course)
        return gossip.spoken(course, self.coding, self.gossip, neighbors, self.wire_dtype)

    def heard(self, course: Course, shares: Mapping[PeerId, Share]) -> tuple[Course, State | None]:
        """After one more exchange, and the state at the end of the round, if it was the last.

        Raises
        ------
        ProtocolError
            nan or infinity in a neighbor's share ("nonfinite"); names the first such neighbor.
        SolveError
            nan or infinity of the agent's own making.
        """
        weights = self.weights(self.schedule.graph(self._exchange(course)), self.me)
        after = gossip.taken(course, shares, weights, self.gossip, self.wire_dtype, self.clipping)
        if self.tolerance:
            apart = stopping.apart(course.here, shares, self.n_agents, self.wire_dtype)
            after = after.changed(apart=max(after.apart, apart))
        return after, self._settled(after) if after.k == self.gossip.n_steps else None

    def _exchange(self, course: Course) -> int:
        return course.state.n * self.gossip.n_steps + course.k

    def _settled(self, course: Course) -> State:
        """The state after the last exchange of a round: (7), (8), and what the agent learns from them."""
        state, mixed, n_agents = course.state, course.here, self.n_agents
        problem, how_long = alignment.chosen(self.problem, state), (self.schedule, self.n_rounds, self.gossip.n_steps)
        following = self.method.settle(problem, state, course.proposal, mixed, self.rule, n_agents)
        if self.renewal is not None:
            following = renewal.renewed(problem, following, self.renewal, n_agents)
        if self.caution is not None:
            following = careful.adapted(problem.linearized(following.anchor), state, following, self.caution)
        if self.watch is not None:
            following = alignment.watched(problem, state, following, self.watch)
        if self.tolerance:
            measured = stopping.measure(problem, state, following, course.apart, n_agents)
            following = stopping.watched(state, following, measured, mixed.flood, *how_long)
        if self.held_out is not None:
            following = validation.tracked(state, following, mixed, self.held_out)
        if self.patience:
            following = validation.watched(state, following, mixed, *how_long)
        return following

    # ---- what is written down --------------------------------------------------------------

    def line(self, course: Course, following: State) -> dict[str, object]:
        """What a line of metrics says of the round from `course.state` to `following`, but for clocks and bytes."""
        state, solution = course.state, course.proposal.solution
        problem = alignment.chosen(self.problem, state)
        found: dict[str, object] = {
            "objective_local": state.value,
            "objective_estimate": self.n_agents * state.objective + problem.regularizer.value(state.w),
            "residual": self.method.residual(problem, state, following, self.n_agents),
            "disagreement": square(following.w - course.proposal.z),
            "alpha": state.alpha,
            "tau": (state.tau or problem.surrogate.tau) if isinstance(self.method, Next) else 0.0,
            "solver": solution.method,
            "solver_residual": solution.residual,
            "solver_iterations": solution.iterations,
        }
        if self.held_out is not None:
            found |= {"validation_local": state.held, "validation_estimate": self.n_agents * state.validation}
        if self.renewal is not None:
            found |= renewal.told(state, self.renewal)
        return found if self.watch is None else found | alignment.told(state, self.watch)
