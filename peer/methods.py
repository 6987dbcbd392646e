"""What agents may do in the same rounds: NEXT, and the methods that it is compared with.

A round is the same for all: an agent proposes z_i, says (z_i, y_i), or z_i alone, to its neighbors, and settles on what
the exchange makes of it. So all of them have the same graphs, messages, checkpoints, journals and ways to stop.

With f_i = I g_i + r problem (1) is to minimize the mean of the f_i. s is the step size, in `State.alpha`, and C the
mixing matrix of the round. Where r is smooth its gradient is part of grad f_i, and prox below is the identity; where it
is not, grad f_i stands for I grad g_i, and prox for the proximal map of s r. With batches grad f_i is that of the
samples of the round, the same that NEXT would draw, and of nothing else.

gradient-descent: z_i = prox(w_i - s grad f_i(w_i));  w_i+ = sum_j c_ij z_j

    Adapt, then combine. A. Nedic, A. Ozdaglar, "Distributed subgradient methods for multi-agent optimization" (2009),
    in the order of J. Chen, A. Sayed, "Diffusion adaptation strategies for distributed optimization and learning over
    networks" (2012). With a constant step its fixed point w = C (w - s grad f(w)) is not the optimum, but O(s) off it:
    K. Yuan, Q. Ling, W. Yin, "On the convergence of decentralized gradient descent" (2016).

d-psgd: the same with `local_steps` steps before each exchange, each with the next batch, and momentum b:
    u_i = b u_i + grad f_i(z_i), z_i = prox(z_i - s u_i), from z_i = w_i on; u_i stays with the agent

    X. Lian et al., "Can decentralized algorithms outperform centralized algorithms?" (2017); with local steps, and in
    this order, A. Koloskova et al., "A unified theory of decentralized SGD with changing topology and local updates"
    (2020).

choco: d-psgd, and in the place of the mean of the z_j what `peer.links` makes of differences of which few are said

    A. Koloskova, S. U. Stich, M. Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed
    communication" (2019): CHOCO-SGD. Departure: a pair of replicas for each link, see there. gradient-tracking that
    says so little is C-GT, Y. Liao et al. (2022), but for the order of step and exchange.

gradient-tracking: z_i = prox(w_i - s (I y_i + r'(w_i)));  w_i+ = sum_j c_ij z_j;  y_i by (8)

    A. Nedic, A. Olshevsky, W. Shi, "Achieving geometric convergence for distributed optimization over time-varying
    graphs" (2017): DIGing, but with the step before the exchange, as in J. Xu et al., "Augmented distributed gradient
    methods for multi-agent optimization" (2015): Aug-DGM. Departures: Aug-DGM mixes in (8) the new gradients, too,
    which takes a second exchange a round; and r, which all know, is not tracked. It is NEXT with (12), alpha = 1 and
    tau = 1/s, where r has kinks.

extra: z_i = w_i;  w_i+ = prox(sum_j c_ij z_j + q_i - s grad f_i(w_i));  q_i+ = q_i + (sum_j c_ij z_j - z_i)/2

    W. Shi, Q. Ling, G. Wu, W. Yin, "EXTRA: An exact first-order algorithm for decentralized consensus optimization"
    (2015), and "A proximal gradient algorithm for decentralized composite optimization" (2015): PG-EXTRA. They write
    the last two gradients in the place of q, with (C + Id)/2 for their second matrix; from q_i[0] = 0 it is the same.

exact-diffusion: z_i = w_i - s grad f_i(w_i) + q_i;  x_i = (z_i + sum_j c_ij z_j)/2;  w_i+ = prox(x_i);
    q_i+ = q_i + x_i - z_i

    K. Yuan, B. Ying, X. Zhao, A. Sayed, "Exact diffusion for distributed optimization and learning" (2019), who write
    x_i - psi_i for q_i; with batches it is H. Tang et al., "D2: Decentralized training over decentralized data" (2018).
    The proximal map comes last, and neither x_i nor q_i sees it.

What is proved of the last two is proved of one graph. Over changing ones they are run with the C of each round: agents
that agree still stay where they are at the optimum and nowhere else, and in the tests they come to it; no theorem that
we know of says that they must.

Kept over all agents, to rounding: of extra and exact-diffusion sum_i q_i = 0; of gradient-tracking (9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import numpy as np

from peer import agent
from peer.agent import LocalProblem, Mixture, Proposal, State
from peer.arrays import Vector
from peer.errors import SolveError
from peer.messages import PARTS, Part
from peer.optim.regularizers import Regularizer
from peer.optim.solvers import Solution
from peer.optim.steps import StepRule
from peer.optim.vectors import is_finite, largest


class Objective(LocalProblem, Protocol):
    """What the methods here need of g_i and r."""

    @property
    def regularizer(self) -> Regularizer:
        """Penalty r."""

    def sample(self, k: int, w: Vector) -> tuple[Vector, float]:
        """Grad g_i(w), (p,), and g_i(w), by the samples of the k-th step; by all where there are no batches."""

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf."""


class Method(Protocol):
    """What an agent does in a round, beside the exchange."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a share carries."""

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """State at round 0 with w_i[0] = w, (p,)."""

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """What the agent comes to before it hears of its neighbors; SolveError where numbers break down."""

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """State after the last exchange of the round; SolveError where numbers break down."""

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """How far the agent can tell that it is from a fixed point of the method, in units of gradients, >= 0."""


@final
@dataclass(frozen=True)
class Next:
    """(4)-(8), see `peer.agent`."""

    parts: ClassVar[tuple[Part, ...]] = PARTS

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """y_i[0] = grad g_i(w)."""
        return agent.initial(problem, w, alpha)

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """(4), (5), (6)."""
        return agent.propose(problem, state, n_agents)

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """(7), (8)."""
        return agent.settle(problem, state, proposal, mixed, rule)

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """||w_i - prox_r(w_i - I y_i)||_inf, of the network as far as the agent knows."""
        return problem.stationarity(state.w, n_agents * state.y)


@final
@dataclass(frozen=True)
class GradientDescent:
    """Gradient-descent and d-psgd: `State.memory` is u_i, (p,), where there is momentum.

    Parameters
    ----------
    local_steps : int
        L, >= 1; with batches step l of round n takes batch n L + l.
    momentum : float
        b, 0 <= b < 1, of the heavy ball (B. Polyak, 1964).
    """

    local_steps: int = 1
    momentum: float = 0.0
    parts: ClassVar[tuple[Part, ...]] = ("z",)

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """u_i[0] = 0."""
        return begun(problem, w, alpha, np.zeros_like(w if self.momentum else w[:0]))

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """All local steps."""
        z, gradient, u = state.w, state.gradient, state.memory
        for step in range(self.local_steps):
            if step:
                gradient, _ = problem.sample(state.n * self.local_steps + step, z)
            direction = slope(problem, z, n_agents * gradient)
            if self.momentum:
                direction = u = self.momentum * u + direction
            z = proximal(problem, z - state.alpha * direction, state.alpha)
        return proposed(state, z, u, self.local_steps)

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """The mean of the neighbors' z."""
        k = (state.n + 1) * self.local_steps
        return settled(problem, state, mixed, rule, mixed.z, proposal.memory, k)

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """||w_i+ - w_i||_inf/(s L)."""
        return moved(state, following, state.alpha * self.local_steps)


@final
@dataclass(frozen=True)
class GradientTracking:
    """Gradient-tracking: y_i is that of NEXT."""

    parts: ClassVar[tuple[Part, ...]] = PARTS

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """y_i[0] = grad g_i(w)."""
        state = begun(problem, w, alpha, w[:0])
        return state.changed(y=state.gradient)

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """A step along the tracked gradient."""
        v = state.w - state.alpha * slope(problem, state.w, n_agents * state.y)
        return proposed(state, proximal(problem, v, state.alpha), state.memory)

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """(7), (8)."""
        return settled(problem, state, mixed, rule, mixed.z, state.memory, state.n + 1)

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """||w_i - prox_r(w_i - I y_i)||_inf, as of NEXT."""
        return problem.stationarity(state.w, n_agents * state.y)


@final
@dataclass(frozen=True)
class Extra:
    """EXTRA, where r has kinks PG-EXTRA: `State.memory` is q_i, (p,)."""

    parts: ClassVar[tuple[Part, ...]] = ("z",)

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """q_i[0] = 0."""
        return begun(problem, w, alpha, np.zeros_like(w))

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """Neighbors are told w_i itself."""
        return proposed(state, state.w, state.memory)

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """The step is taken from the mean of the neighbors' w."""
        direction = slope(problem, state.w, n_agents * state.gradient)
        w = proximal(problem, mixed.z + state.memory - state.alpha * direction, state.alpha)
        q = state.memory + 0.5 * (mixed.z - proposal.z)
        return settled(problem, state, mixed, rule, w, q, state.n + 1)

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """||w_i+ - w_i||_inf/s."""
        return moved(state, following, state.alpha)


@final
@dataclass(frozen=True)
class ExactDiffusion:
    """Exact diffusion: `State.memory` is q_i, (p,).

    At a fixed point all x_i are the same, and the mean of w - s grad f_i(w), as q_i adds up to 0: so w = prox(x) is the
    optimum, with r, too.
    """

    parts: ClassVar[tuple[Part, ...]] = ("z",)

    def initial(self, problem: Objective, w: Vector, alpha: float) -> State:
        """q_i[0] = 0."""
        return begun(problem, w, alpha, np.zeros_like(w))

    def propose(self, problem: Objective, state: State, n_agents: int) -> Proposal:
        """Adapt, and correct."""
        direction = slope(problem, state.w, n_agents * state.gradient)
        return proposed(state, state.w - state.alpha * direction + state.memory, state.memory)

    def settle(
        self, problem: Objective, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule, n_agents: int
    ) -> State:
        """Combine."""
        change = 0.5 * (mixed.z - proposal.z)
        w = proximal(problem, proposal.z + change, state.alpha)
        return settled(problem, state, mixed, rule, w, state.memory + change, state.n + 1)

    def residual(self, problem: Objective, state: State, following: State, n_agents: int) -> float:
        """||w_i+ - w_i||_inf/s."""
        return moved(state, following, state.alpha)


def begun(problem: Objective, w: Vector, step: float, memory: Vector) -> State:
    """State at round 0, with the samples of that round, and no tracker."""
    gradient, value = problem.sample(0, w)
    return State(0, w, w[:0], gradient, value, value, step, memory=memory)


def proposed(state: State, z: Vector, memory: Vector, steps: int = 1) -> Proposal:
    """What comes of gradient steps, so many of them.

    Raises
    ------
    SolveError
        nan or infinity.
    """
    if not is_finite(z):
        raise SolveError(f"round {state.n}: parameters are nan or infinite; a shorter method.step_size may help")
    return Proposal(Solution(z, 0.0, steps, "gradient"), z, memory)


def settled(
    problem: Objective, state: State, mixed: Mixture, rule: StepRule, w: Vector, memory: Vector, k: int
) -> State:
    """State at the start of the next round, with w, (p,), and the gradient by the samples of the k-th step there.

    Where gradients are tracked the change of them goes into y_i, as in (8).

    Raises
    ------
    SolveError
        The objective, or its gradient, is nan or infinite.
    """
    gradient, value = problem.sample(k, w)
    y = mixed.y + (gradient - state.gradient) if mixed.y.size else mixed.y
    if not (is_finite(w) and is_finite(gradient) and is_finite(y) and math.isfinite(value)):
        raise SolveError(f"round {state.n}: parameters, objective or gradient are nan or infinite")
    return state.changed(
        n=state.n + 1,
        w=w,
        y=y,
        gradient=gradient,
        value=value,
        objective=mixed.objective + value - state.value,
        alpha=rule.after(state.alpha),
        memory=memory,
        replicas=mixed.replicas,
    )


def slope(problem: Objective, w: Vector, gradient: Vector) -> Vector:
    """A gradient, (p,), and r'(w) with it where r is smooth."""
    r = problem.regularizer
    return gradient + r.gradient(w) if r.smooth else gradient


def proximal(problem: Objective, v: Vector, step: float) -> Vector:
    """Proximal map of step r at v, (p,), where r is not smooth; else v itself."""
    r = problem.regularizer
    return v if r.smooth else r.prox(v, step)


def moved(state: State, following: State, step: float) -> float:
    """||w_i+ - w_i||_inf over a step."""
    return largest(following.w - state.w) / step
