"""`auto`: how long a step is, and how much of the surrogate's strong convexity is needed, without anybody's setting.

**alpha** follows from the graph. Let all agents have the same curvature h, and the surrogate know it. Then w and y of
a disagreement that averaging shrinks by l a round obey

    mu^2 - l (2 - alpha) mu + l (l - alpha) = 0,

and what all have in common shrinks by 1 - alpha. With alpha = 1 - sqrt(l) both shrink by sqrt(l), and no alpha does
better for the largest l. What damps, tau > 0, makes steps shorter, and most disagreements end sooner: hence

    (a)  alpha = min(1, STRETCH (1 - sqrt(rho)))

with rho by which averaging shrinks a disagreement in the mean, until a tenth is left, `topology.weights.contraction`.

**tau_i** is to the largest curvature L_i of the network, as agent i sees it, what the step is to that of gradients:

    (b)  tau_i[n] = alpha[n] c_i[n] L_i[n],
         L_i[n] = max( I s ||J'BJ v||/||v||, v three powers of J'BJ on grad g_i;        what the agent's data say
                       I ||d_i|| / ||w_i[n] - w_i[n-1]||;                                what it has come across
                       I ||y_i[n]|| / max(1, ||w_i[n]||),                                no step beyond the known,
                       ||w_i[n] - prox_r(w_i[n] - I y_i[n])||_inf / max(1, ||w_i[n]||);  where r alone pulls, either
                       0.9 L_i[n-1] )

where B is the second derivative of the loss, and d_i how grad g_i has changed from w_i[n-1] to w_i[n]; or how y_i has,
where the agent is blind: where grad g_i has changed by less than BLIND of that. Samples beyond a margin, residuals
beyond Huber's delta and weights of 0 have a gradient that stays the same, whatever others have there.

In a direction of which the agent's data know nothing, (5) and (6) go along I y_i by alpha/tau_i = 1/(c_i L_i): with
c_i = 1 that is the step of gradient descent. It begins with 1/2, the longest that descends. How much longer it may be
depends on how alike the agents' data are, which nobody knows, and on how far linearization holds. It shows: where tau
is too small agents set each other going, and steps get longer. So

    (c)  c_i[n+1] = c_i[n] rho^(e_i/4)                               where ||w_i[n+1] - w_i[n]|| < NOISE times its mean,
         c_i[n+1] = c_i[n] rho^(-1/2), e_i[n+1] = TIRES e_i[n]       else,

the mean being over the last 1/(1 - sqrt(rho)) rounds or so, fading; c_i is kept within [1/100, 1], and e_i, how
eager the agent is, begins with 1. c_i falls no faster than the network agrees, since before nobody could tell.

Where grad g_i has changed by less than DIM of what y_i has, and steps have got longer all the same, L_i is nothing to
rely on, and c_i rises beyond 1, by 1/FADES a round, which is what L_i fades, up to 100; it falls by rho^(1/2) again.

Where the surrogate keeps no curvature, or that of blocks each for itself, and where what it promises is old, without
rounds, alpha is a part of what keeps (6) short, and tau_i = c_i L_i with c_i in [alpha, 1], or up to 100 as above.

**Curvature** is the network's, kappa = I: it is what makes steps of alpha go by alpha towards the optimum.

Fixed points are those of (1) whatever alpha and tau_i are, and however these differ between agents and rounds.
Sources: (a) is the spectrum of the method on one quadratic, as it is of gradient tracking; for a tau that is the
agents' unlikeness, Y. Sun, G. Scutari, A. Daneshmand, "Distributed optimization based on gradient tracking revisited:
enhancing convergence rate via surrogation" (2022); for tau as the measure of trust in a linearization K. Levenberg
(1944), D. Marquardt (1963), J. Moré, "The Levenberg-Marquardt algorithm" (1978), also for max(1, ||w||); for curvature
from what the last step came across J. Barzilai, J. Borwein, "Two-point step size gradient methods" (1988), Y. Malitsky,
K. Mishchenko, "Adaptive gradient descent without descent" (2020), and in a network I. Kuruzov, G. Scutari,
A. Gasnikov, "Achieving linear convergence with parameter-free algorithms in decentralized optimization" (2024).
(c) is ours. There is no proof that it converges for every problem; `python -m benchmarks.auto` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol, final

from peer.agent import State
from peer.arrays import Vector
from peer.optim.vectors import largest, length

STRETCH: Final = 1.3
"""Of alpha: longer than what is best without damping."""

LEAST_CARE: Final = 0.01
"""Of c_i: below it tau is rounding beside the curvature that is known, and rises too late when it has to."""

MOST_CARE: Final = 100.0
"""Of c_i, where the agent sees too little: by then steps are shorter than any that were too long."""

BEGIN: Final = 0.5
"""c_i[0]: in unknown directions the longest step 2/L by which gradients descend."""

TIRES: Final = 0.87
"""e_i falls by it with every round in which steps got longer: five of them halve it."""

NOISE: Final = 1.1
"""Steps that are so much longer count as no longer: where links come and go they vary."""

FADES: Final = 0.9
"""L_i is remembered for some ten rounds."""

FASTEST: Final = 0.3
"""Of sqrt(rho) in (c), at least: on complete graphs too a step must be seen before the next is trusted more."""

BLIND: Final = 1e-2
"""Of how y_i changes. An agent that went by such a gradient alone would take steps a hundred times too long."""

DIM: Final = 0.1
"""Of how y_i changes: an agent that sees less than that of what there is may be wrong about the rest."""

SHORTEST: Final = 1e-300
"""tau where nothing has any curvature, or slope: the agent stays where r is least."""


class Curved(Protocol):
    """What is needed of a problem."""

    def steepness(self, n: int, w: Vector, direction: Vector) -> float:
        """Largest curvature that is seen of s J'BJ from a direction, >= 0."""

    def stationarity(self, w: Vector, gradient: Vector) -> float:
        """||w - prox_r(w - gradient)||_inf."""


@final
@dataclass(frozen=True)
class Caution:
    """What (b) and (c) go by.

    Parameters
    ----------
    n_agents : int
        I.
    contraction : float
        rho: what a round of averaging leaves of a disagreement.
    keeps : bool
        Whether the surrogate keeps the agent's own curvature, of all parameters together, and may rely on it: not with
        weights of which some may be negative (fdla), and not without rounds. There agents set each other going by a
        small tau, and no alpha would hold them back: it is a factor of both.
    """

    n_agents: int
    contraction: float
    keeps: bool

    @property
    def pace(self) -> float:
        """sqrt(rho), at least `FASTEST`."""
        return max(math.sqrt(self.contraction), FASTEST)

    def least(self, alpha: float) -> float:
        """Lower bound of c_i."""
        return LEAST_CARE if self.keeps else alpha

    def tau(self, alpha: float, care: float, steepest: float) -> float:
        """(b), > 0."""
        return max((alpha if self.keeps else 1.0) * care * steepest, SHORTEST)


def alpha_of(contraction: float) -> float:
    """(a), in (0, 1], to four digits."""
    return float(f"{min(1.0, max(STRETCH * (1.0 - math.sqrt(contraction)), 1e-4)):.4g}")


def begun(problem: Curved, state: State, caution: Caution) -> State:
    """A first state with its tau."""
    steepest = _steepest(problem, state, caution.n_agents)
    care = max(BEGIN, caution.least(state.alpha))
    tau = caution.tau(state.alpha, care, steepest)
    return state.changed(tau=tau, care=care, eagerness=1.0, stride=math.inf, steepest=steepest)


def adapted(problem: Curved, state: State, following: State, caution: Caution) -> State:
    """`following` with its tau, by (b) and (c), after the round from `state`.

    Parameters
    ----------
    problem : Curved
        g_i.
    state, following : State
        Of agent i at the beginning of the round, and at its end.
    caution : Caution
    """
    stride, change = length(following.w - state.w), length(following.gradient - state.gradient)
    told = length(following.y - state.y)
    come_across = told if change < BLIND * told else change
    seen = caution.n_agents * come_across / stride if stride > 0.0 else 0.0
    steepest = max(_steepest(problem, following, caution.n_agents), seen, FADES * state.steepest)
    is_shorter, most = stride < NOISE * state.stride, MOST_CARE if change < DIM * told else 1.0
    care, eagerness = eased(state.care, state.eagerness, is_shorter, caution.pace, most)
    care = max(care, caution.least(following.alpha))
    share = 1.0 - caution.pace
    mean = stride if math.isinf(state.stride) else (1.0 - share) * state.stride + share * stride
    tau = caution.tau(following.alpha, care, steepest)
    return following.changed(tau=tau, care=care, eagerness=eagerness, stride=mean, steepest=steepest)


def eased(care: float, eagerness: float, is_shorter: bool, pace: float, most: float = 1.0) -> tuple[float, float]:
    """(c) without its lower bound: c_i and e_i of the next round, by whether the last step was shorter than before.

    Beyond 1 it rises only up to `most`, and falls whatever that is.
    """
    if is_shorter:
        falls = pace ** (0.5 * eagerness)
        return (care * falls if care <= 1.0 else max(care * pace, falls)), eagerness
    rises = min(care / pace, 1.0) if care < 1.0 else min(care / FADES, most)
    return max(care, rises), TIRES * eagerness


def _steepest(problem: Curved, state: State, n_agents: int) -> float:
    known = n_agents * problem.steepness(state.n, state.w, state.gradient)
    size = n_agents * (length(state.y) or largest(state.y))  # squares of what is below 1e-162 are 0
    pulled = problem.stationarity(state.w, n_agents * state.y)
    return max(known, max(size, pulled) / max(1.0, length(state.w)))
