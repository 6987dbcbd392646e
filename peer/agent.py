"""NEXT itself: one agent, one round, as pure functions of its state.

Source: P. Di Lorenzo, G. Scutari, "NEXT: In-network nonconvex optimization" (2016), in the form
for neural networks of S. Scardapane, P. Di Lorenzo (2017). Departures:

1. One more scalar is tracked like y, the mean of g_i(w_i), so that every agent can estimate G.
2. Where shares are rounded on the wire, the sender keeps what rounding took, so that (9) stays exact.
3. On request, neighbors are believed only so far: see `Clipping`.
4. On request, rounds take some of the samples, and gradients are estimates: see `peer.problem`.
5. On request, the network stays linearized at a point for longer than a round: see `peer.renewal`.
6. On request, neighbors say less than all: see `peer.links`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np
from scipy.linalg.blas import daxpy

from peer.arrays import Matrix, Sparse, Tensor, Vector, rounded
from peer.errors import ProtocolError, SolveError
from peer.links import Spoken
from peer.messages import Share
from peer.optim.solvers import Solution
from peer.optim.steps import StepRule
from peer.optim.vectors import is_finite, length
from peer.records import Record
from topology import PeerId


class LocalProblem(Protocol):
    """What an agent needs of g_i."""

    @property
    def kappa(self) -> float:
        """Multiple of the own curvature in the surrogate."""

    def value(self, w: Vector) -> float:
        """g_i(w)."""

    def gradient(self, w: Vector) -> Vector:
        """Grad g_i(w), (p,)."""

    def estimate(self, n: int, w: Vector, before: Vector, gradient: Vector, value: float) -> tuple[Vector, float]:
        """Grad g_i(w), (p,), and g_i(w) at the start of round n, or the estimates of them by those `before`."""

    def seen(self, n: int, w: Vector, gradient: Vector) -> tuple[LocalProblem, Vector]:
        """What the surrogate of round n is built on, and its gradient at w, (p,): g_i itself, or some samples of it."""

    def best_response(self, w: Vector, gradient: Vector, pi: Vector, tau: float = 0.0) -> Solution:
        """Minimizer of (5); with another tau than the surrogate's, if one is given."""

    def linearized(self, anchor: Vector) -> LocalProblem:
        """g_i of the network linearized at an anchor, (p,); g_i itself where that is empty."""


NONE: Final = np.zeros(0)
"""In the place of a vector that there is not."""

NO_ROWS: Final = np.zeros((0, 0))
"""In the place of a matrix that there is not."""

WHOLE: Final = ("w", "gradient")
"""Vectors that a state has with every method, (p,)."""


@final
class State(Record, frozen=True):
    """Agent i at the start of a round.

    Parameters
    ----------
    n : int
        Round.
    w : Vector
        w_i[n], (p,).
    y : Vector
        Tracker y_i[n] of the mean gradient, (p,).
    gradient : Vector
        grad g_i(w_i[n]), (p,); with batches its estimate e_i[n], see `peer.problem`.
    value : float
        g_i(w_i[n]), or its estimate.
    objective : float
        Tracker of the mean of g_j(w_j).
    alpha : float
        Step size alpha[n].
    pulled : Matrix
        With clipping, what came from each neighbor so far, net, of y and of the objective: f_ij, see `Clipping`,
        (number of neighbors, p + 1); empty before the first round, and without clipping.
    closes, peak, flood, agreed : int, float, float, float
        Where the run may stop early, see `peer.stopping`: the round at whose beginning the open window closes, the
        largest measure of the agent in it, the largest one of the window before that it has heard of, and what
        all agents have agreed upon last; untouched where the run may not.
    way : Vector
        w~_i - w_i of the round before, (p,), where solves begin from it, see `Problem.in_round`; else empty.
    held, validation : float, float
        Where samples are held out, see `peer.validation`: the loss over the agent's own, and the tracker x_i.
    worst, candidate, begun : float, Vector, int
        Where that may stop the run: the largest x heard in the open window, w_i at its beginning, (p,), and that round.
    best, best_n, waited, kept : float, int, int, Vector
        The least verdict so far, the round of the candidate that it was on, how many rounds after that one the last
        candidate was that was judged, and the best one itself, (p,). Where there is none, `candidate` and `kept` are
        empty.
    tau : float
        Strong convexity of the surrogate; 0 stands for what the surrogate itself has, where tau is a setting.
    care, eagerness, stride, steepest : float
        c_i, e_i, the mean of the last steps and L_i, where tau is not a setting; see `peer.careful`.
    anchor, anchored : Vector, int
        Where the network is linearized for more than a round: at which w_i, (p,), and at the start of which round, see
        `peer.renewal`; `gradient` and `value` are those of the linearized network. Else empty.
    departure, allowed : float, float
        Where that is left to the agent: I times how far its gradient was from that of the network at the end of the
        round, and how far it might have been.
    alignments, aligned_n, back_n : Vector, int, int
        Where layers learn by feedback, see `peer.alignment`: its last cosines with the gradient, by layer;
        the last round with a good one; and the one in which the agent went back to backprop, 0 as long as it has not.
    memory : Vector
        What some of the other methods keep, (p,), see `peer.methods`; else empty. So is y where none is tracked.
    replicas : Matrix
        What it has told its neighbors, and they it, where these are differences, see `peer.links`; else empty.
    """

    n: int
    w: Vector
    y: Vector
    gradient: Vector
    value: float
    objective: float
    alpha: float
    pulled: Matrix = NO_ROWS
    closes: int = 0
    peak: float = 0.0
    flood: float = math.inf
    agreed: float = math.inf
    way: Vector = NONE
    held: float = 0.0
    validation: float = 0.0
    worst: float = 0.0
    candidate: Vector = NONE
    begun: int = 0
    best: float = math.inf
    best_n: int = 0
    waited: int = 0
    kept: Vector = NONE
    tau: float = 0.0
    care: float = 0.0
    eagerness: float = 0.0
    stride: float = math.inf
    steepest: float = 0.0
    anchor: Vector = NONE
    anchored: int = 0
    departure: float = 0.0
    allowed: float = 0.0
    alignments: Vector = NONE
    aligned_n: int = 0
    back_n: int = 0
    memory: Vector = NONE
    replicas: Matrix = NO_ROWS


@final
@dataclass(frozen=True)
class Clipping:
    """How far a neighbor may pull an agent, whatever it says.

    The place of the sums in (7) and (8) is taken by

        w_i[n+1] = z_i + sum_j c_ij clip(z_j - z_i, r_w alpha[n]/alpha[0])
        f_ij[n+1] = clip(f_ij[n] + c_ij clip(y_j - y_i, r_y), r_y),    y_i = grad g_i(w_i) + sum_j f_ij,    f_ij[0] = 0

    with clip(d, r) = d min(1, r/||d||), and by the same of the objective with a radius of its own.
    Source: L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-robust decentralized learning via ClippedGossip" (2022).
    Departures:

    1. They clip parameters only. A tracker adds up what came, so that clipped rounds alone would let a liar move
       it by c_ij r_y in each, without end. Here f_ij, the sum over all rounds, is clipped too.
    2. One radius for all agents, given and not adapted, in (7) in proportion to the step size: what neighbors
       differ by is, and a radius that did not shrink would in the end be larger than every step.

    Laws. A neighbor moves w_i by at most c_ij r_w in a round; y_i by at most c_ij r_y in a round, and r_y in all.
    clip is odd, c_ij = c_ji, and both ends of a link clip the same difference by the same radius: what one takes
    the other gives. So where all keep to the method, the sum of w_i[n+1] is that of z_i, and (9) holds, to rounding,
    as without clipping, while it is active too. With liars, over the others, (9) is off by at most r_y a link to a
    liar, however long the run; the sum of w moves by at most c_ij r_w a link and round, against their own steps.

    In a round of several exchanges each is clipped so, from what the one before it has left; then a neighbor moves w_i
    and y_i by at most that in an exchange, and y_i by r_y in all.

    Price. Honest neighbors whose z differ by more than the radius approach each other by c_ij r_w a round and no
    faster; where their gradients differ by more than the net flows of r_y a link can balance, they do not agree
    at all. p + 1 numbers a neighbor in memory and in the checkpoint.

    Parameters
    ----------
    w : float
        r_w/alpha[0], > 0.
    y, objective : float
        r_y, and that of the objective, > 0; infinity where it is not clipped.
    neighbors : tuple of int
        All that the agent ever has, ascending: the rows of `State.pulled`.
    """

    w: float
    y: float
    objective: float
    neighbors: tuple[PeerId, ...]


@final
class Proposal(Record, frozen=True):
    """Outcome of the surrogate of one round: the inner solution, and z_i of (6), (p,).

    And, with other methods, what is kept of the way there, see `State.memory`.
    """

    solution: Solution
    z: Vector
    memory: Vector = NONE


@final
class Mixture(Record, frozen=True):
    """What agent i says of itself in an exchange of a round, and what becomes of that by the exchange.

    Parameters
    ----------
    z, y : Vector
        z_i and y_i[n] at first, (p,); as mixed so far from the second exchange on.
    objective : float
        Likewise, of the tracker of the mean of g_j(w_j).
    validation : float
        Likewise, of x_i of `peer.validation`.
    flood, worst : float
        Largest measure of the window before that the agent has heard of, see `peer.stopping`; and the largest x of the
        open one.
    pulled, replicas : Matrix
        As in `State`.
    """

    z: Vector
    y: Vector
    objective: float
    validation: float
    flood: float
    worst: float
    pulled: Matrix
    replicas: Matrix = NO_ROWS

    @classmethod
    def of(cls, state: State, proposal: Proposal) -> Mixture:
        """Before the first exchange."""
        floods = state.flood, state.worst
        return cls(proposal.z, state.y, state.objective, state.validation, *floods, state.pulled, state.replicas)


def initial(problem: LocalProblem, w: Vector, alpha: float) -> State:
    """State at round 0 with w_i[0] = w, (p,): y_i[0] = grad g_i(w_i[0])."""
    gradient, value = problem.gradient(w), problem.value(w)
    return State(0, w, gradient, gradient, value, value, alpha)


def restored(numbers: Mapping[str, Vector | Matrix | float], p: int) -> State:
    """A state of which these are the fields, as a checkpoint has them, with p parameters.

    Raises
    ------
    ValueError
        Other fields than a state has, or of other kinds or sizes.
    """
    try:
        state = State(**numbers)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(str(error)) from error
    expected = State(0, NONE, NONE, NONE, 0.0, 0.0, 0.0)
    for name in State.__struct_fields__:
        found, like = getattr(state, name), getattr(expected, name)
        if isinstance(like, np.ndarray):
            is_right = isinstance(found, np.ndarray) and (found.ndim, found.dtype) == (like.ndim, like.dtype)
        else:
            is_right = isinstance(found, type(like) if isinstance(like, int) else (int, float))
        if not is_right or (name in WHOLE and found.shape != (p,)):
            raise ValueError(f"{name} of another kind or size")
    return state


def propose(problem: LocalProblem, state: State, n_agents: int) -> Proposal:
    """Local half of round n: (4), (5), (6).

    Raises
    ------
    SolveError
        nan or infinity in the surrogate or its solution.
    """
    problem = problem.linearized(state.anchor)
    seen, gradient = problem.seen(state.n, state.w, state.gradient)
    pi = n_agents * state.y - seen.kappa * gradient
    solution = seen.best_response(state.w, gradient, pi, state.tau)
    return Proposal(solution, state.w + state.alpha * (solution.w - state.w))


def exchange(
    state: State,
    own: Mixture,
    shares: Mapping[PeerId, Share],
    weights: Mapping[PeerId, float],
    wire_dtype: np.dtype[Any],
    clipping: Clipping | None = None,
    spoken: Spoken | None = None,
) -> Mixture:
    """The sums of (7) and (8), once, with the shares of all neighbors.

    Parameters
    ----------
    state : State
        At the start of the round.
    own : Mixture
        Before the exchange.
    shares : mapping of int to Share
        One of each neighbor j of the exchange, whole.
    weights : mapping of int to float
        c_ij of the neighbors and c_ii of the agent, which is the one key that has no share.
    wire_dtype : dtype
        How neighbors see this agent's own z and y.
    clipping : Clipping or None
        None: neighbors are believed.
    spoken : Spoken or None
        What the agent has said where that is not all; None: whole vectors.

    Returns
    -------
    Mixture
        After the exchange. Over all agents the sums of z, of y and of the objective are kept, to rounding.

    Raises
    ------
    ProtocolError
        nan or infinity in a neighbor's share ("nonfinite"); names the first such neighbor.
    SolveError
        nan or infinity of the agent's own making.
    """
    zs, ys = {j: share.z for j, share in shares.items()}, {j: share.y for j, share in shares.items()}
    pulled, replicas = own.pulled, own.replicas
    if clipping is None:
        if spoken is not None:
            z, y, replicas = spoken.mixed(own.z, own.y, own.replicas, shares, weights)
        else:
            z = mix(own.z, zs, weights, wire_dtype)
            y = mix(own.y, ys, weights, wire_dtype) if own.y.size else own.y
        objective = math.fsum([c * shares.get(j, own).objective for j, c in weights.items()])
    else:
        z = approach(own.z, zs, weights, clipping.w * state.alpha, wire_dtype)
        pulled = pull(own, shares, weights, clipping, wire_dtype)
        y, objective = state.gradient + pulled[:, :-1].sum(axis=0), state.value + math.fsum(pulled[:, -1])
    if not (is_finite(y) and is_finite(z)):
        for j, share in sorted(shares.items()):  # whose doing it is, is looked for only when it has happened
            if not all(map(_is_finite, (share.y, share.z))):
                raise ProtocolError("nonfinite", "expected finite numbers, found nan or infinity", j, state.n)
        raise SolveError(f"round {state.n}: parameters or gradients are nan or infinite")
    theirs = {j: share.validation[0] for j, share in shares.items()}
    validation = math.fsum([c * theirs.get(j, own.validation) for j, c in weights.items()])
    flood = max([own.flood, *[share.flood for share in shares.values()]])
    worst = max([own.worst, *[share.validation[1] for share in shares.values()]])
    return Mixture(z, y, objective, validation, flood, worst, pulled, replicas)


def settle(problem: LocalProblem, state: State, proposal: Proposal, mixed: Mixture, rule: StepRule) -> State:
    """The end of round n: w_i[n+1] of (7), and what has changed of g_i by it, in (8).

    Parameters
    ----------
    problem : LocalProblem
        g_i.
    state, proposal : State, Proposal
        Of this round.
    mixed : Mixture
        After its last exchange.
    rule : StepRule
        alpha[n+1] from alpha[n].

    Raises
    ------
    SolveError
        The objective, or its gradient, is nan or infinite.
    """
    w, problem = mixed.z, problem.linearized(state.anchor)
    gradient, value = problem.estimate(state.n + 1, w, state.w, state.gradient, state.value)
    y = mixed.y + (gradient - state.gradient)
    if not (is_finite(y) and math.isfinite(value)):
        raise SolveError(f"round {state.n}: parameters, objective or gradient are nan or infinite")
    return state.changed(
        n=state.n + 1,
        w=w,
        y=y,
        gradient=gradient,
        value=value,
        objective=mixed.objective + value - state.value,
        alpha=rule.after(state.alpha),
        pulled=mixed.pulled,
        replicas=mixed.replicas,
        way=proposal.solution.way,
    )


def tracked(own: State | Mixture) -> Vector | None:
    """What a share says of y_i, (p,); None where the method tracks no gradient."""
    return own.y if own.y.size else None


def mix(
    own: Vector, theirs: Mapping[PeerId, Tensor | None], weights: Mapping[PeerId, float], wire_dtype: np.dtype[Any]
) -> Vector:
    """sum_j c_ij v_j over j ascending, (p,); the sum over all agents is that of their own v, to rounding."""
    seen = rounded(own, wire_dtype)
    total = np.zeros(own.shape)
    for j, weight in sorted(weights.items()):
        total = daxpy(_whole(theirs.get(j, seen), j), total, a=weight)  # in place, in one pass
    return total if seen is own else total + (own - seen)


def approach(
    own: Vector,
    theirs: Mapping[PeerId, Tensor | None],
    weights: Mapping[PeerId, float],
    radius: float,
    wire_dtype: np.dtype[Any],
) -> Vector:
    """v_i + sum_j c_ij clip(v_j - v_i, radius) over j ascending, (p,); the sum over all agents is kept as by `mix`."""
    seen, total = rounded(own, wire_dtype), own.copy()
    for j, vector in sorted(theirs.items()):
        total += weights[j] * clip(_whole(vector, j) - seen, radius)
    return total


def pull(
    own: Mixture,
    shares: Mapping[PeerId, Share],
    weights: Mapping[PeerId, float],
    clipping: Clipping,
    wire_dtype: np.dtype[Any],
) -> Matrix:
    """f_ij of `Clipping` after an exchange, (number of neighbors, p + 1); the other ends of the links have -f_ij."""
    seen = rounded(own.y, wire_dtype)
    pulled = own.pulled.copy() if own.pulled.size else np.zeros((len(clipping.neighbors), own.y.size + 1))
    for f, j in zip(pulled, clipping.neighbors, strict=True):
        if j in shares:
            f[:-1] = clip(f[:-1] + weights[j] * clip(_whole(shares[j].y, j) - seen, clipping.y), clipping.y)
            change = clip_number(shares[j].objective - own.objective, clipping.objective)
            f[-1] = clip_number(f[-1] + weights[j] * change, clipping.objective)
    return pulled


def clip(difference: Vector, radius: float) -> Vector:
    """Difference min(1, radius/||difference||), (p,): odd, 1-Lipschitz; 0 where the square of the norm overflows."""
    size = length(difference)
    return difference if size <= radius else difference * (radius / size)


def clip_number(difference: float, radius: float) -> float:
    """`clip` of a scalar."""
    return min(max(difference, -radius), radius)


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or is_finite(tensor.values if isinstance(tensor, Sparse) else tensor)


def _whole(vector: Tensor | None, j: PeerId) -> Vector:
    if not isinstance(vector, np.ndarray):
        raise ValueError(f"the share of agent {j} is not whole")
    return vector
