"""Whole runs without rounds, in one thread and on one clock, of agents whose links do what they like.

Everything here comes from one seed: the problem, the directed graph, and what happens. What runs
is the code that real peers run, `Flows` with `waking` and `wire`; what stands in is the event
loop, the sockets and the disk. After every event (17) is checked, at each agent by itself and
over all of them, and that all that is held is finite and bounded.

`python -m tests.asynchronous --seed 7` tells what happens to seed 7.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import count
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from peer import agent, waking, wire
from peer.arrays import Vector
from peer.errors import RemoteError, WireError
from peer.flows import Flows, Stamp
from peer.messages import Flow
from peer.optim.losses import Squared
from peer.optim.models import MLP
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from tests import reference
from topology import PeerId

Arc = tuple[PeerId, PeerId]
"""A directed link: from, to."""

MAX_WAKINGS: Final = 10_000
"""Of all agents of a run together, after the last fault; several times what the slowest of these needs."""

CALM: Final = 1e-9
"""Distance to the optimum, relative, where nothing gets lost and nobody crashes."""

STORMY: Final = 1e-6
"""The same with faults."""

AFTER: Final = 10
"""Wakings after the goal was reached, in which nobody may leave it again."""

EVERY: Final = 20
"""Events between two looks at all agents at once; the agent that an event is about is looked at each time."""

RULE: Final = Constant()


# ---- what is run ---------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Weather:
    """What happens to a run.

    Parameters
    ----------
    delay : float
        Mean time of a message on its way; an agent wakes about once in a unit of time.
    compute : float
        Mean time of a computation.
    reorder : bool
        Whether messages of a link overtake each other.
    duplicate, loss, corrupt : float
        Probabilities that a message comes twice, not at all, or broken.
    slow_links : frozenset of (int, int)
        Links that take the next message only when the last one has arrived.
    pace : tuple of float
        Mean time between two wakings of each agent.
    crashes : tuple of float
        When an agent is killed, to be started again from any of its checkpoints.
    leaves : float or None
        When the last agent leaves for good, and the others begin another epoch.
    """

    delay: float
    compute: float
    reorder: bool
    duplicate: float
    loss: float
    corrupt: float
    slow_links: frozenset[Arc]
    pace: tuple[float, ...]
    crashes: tuple[float, ...]
    leaves: float | None

    @property
    def is_calm(self) -> bool:
        """Whether every message arrives and every agent stays."""
        return self.loss == self.corrupt == 0.0 and not self.crashes and self.leaves is None


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """A run, and what happens to it; see `scenario`."""

    seed: int
    arcs: tuple[Arc, ...]
    out: str
    problems: tuple[Problem, ...]
    initial: tuple[Vector, ...]
    alpha: float
    weather: Weather

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.problems)

    def __str__(self) -> str:
        problem = self.problems[0]
        kinds = ", ".join(type(part).__name__ for part in (problem.surrogate, problem.regularizer))
        return f"{self.n_agents} agents, {len(self.arcs)} arcs, out-neighbors {self.out}, {kinds}, {self.weather}"


def scenario(seed: int) -> Scenario:
    """The run of a seed."""
    rng, numbers = random.Random(f"asynchronous {seed}"), np.random.default_rng(seed)
    n_agents = rng.choice((2, 2, 3, 3, 3, 4))
    leaves = rng.uniform(5.0, 30.0) if n_agents >= 3 and rng.random() < 0.2 else None
    arcs = _arcs(n_agents, leaves is not None, rng)
    faults = rng.random() < 0.75
    slow = {arc for arc in arcs if rng.random() < 0.3} if rng.random() < 0.3 else set()
    pace = [rng.uniform(0.7, 1.4) for _ in range(n_agents)]
    if rng.random() < 0.4:
        pace[rng.randrange(n_agents)] = 3.0
    crashes = rng.choice((0, 0, 1, 2, 5)) if faults else 0
    weather = Weather(
        delay=rng.choice((0.1, 0.3, 1.0)),
        compute=rng.choice((0.01, 0.3)),
        reorder=rng.random() < 0.5,
        duplicate=rng.choice((0.0, 0.1, 0.5)),
        loss=rng.choice((0.0, 0.05, 0.2, 0.5)) if faults else 0.0,
        corrupt=rng.choice((0.0, 0.1)) if faults else 0.0,
        slow_links=frozenset(slow),
        pace=tuple(pace),
        crashes=tuple(sorted(rng.uniform(0.0, 40.0) for _ in range(crashes))),
        leaves=leaves if faults else None,
    )
    out = rng.choice(("all", "all", "some", "one"))
    problems = _problems(n_agents, rng, numbers)
    p = problems[0].data.model.layout.size
    return Scenario(
        seed=seed,
        arcs=arcs,
        out=out,
        problems=problems,
        initial=tuple(numbers.normal(size=p) for _ in problems),
        alpha=min(0.4, 1.5 / _wait(arcs, n_agents, out, weather)),
        weather=weather,
    )


def _arcs(n_agents: int, robust: bool, rng: random.Random) -> tuple[Arc, ...]:
    """A strongly connected directed graph; `robust`: it stays so without its last agent."""
    ring = {(i, (i + 1) % n_agents) for i in range(n_agents)}
    if robust:
        ring |= {(n_agents - 2, 0)} - {(0, 0)}
    every = {(i, j) for i in range(n_agents) for j in range(n_agents) if i != j}
    kind = rng.choice(("ring", "both ways", "random", "complete"))
    if kind == "both ways":
        ring |= {(j, i) for i, j in ring}
    elif kind == "random":
        ring |= {arc for arc in sorted(every) if rng.random() < 0.3}
    return tuple(sorted(every if kind == "complete" else ring))


def _wait(arcs: Sequence[Arc], n_agents: int, out: str, weather: Weather) -> float:
    """Time until all have heard of a change, about; no agent may go much faster than that."""
    pushes = {"all": 1.0, "some": 2.0, "one": len(arcs) / n_agents}[out]
    reached, n_steps = {0}, 0
    while len(reached) < n_agents:
        reached |= {j for i, j in arcs if i in reached}
        n_steps += 1
    return n_steps * (pushes / (1.0 - weather.loss) + weather.delay)


def _problems(n_agents: int, rng: random.Random, numbers: np.random.Generator) -> tuple[Problem, ...]:
    """Least squares with a penalty: no agent can do alone, but all together are well conditioned, for short runs.

    All samples together have a curvature of 1, 0.5 and 1 along the two weights and the bias; a single shard
    may have next to none in some direction, and an optimum of its own.
    """
    sizes = [rng.randint(2, 5) for _ in range(n_agents)]
    ends, n_samples, model = np.cumsum(sizes)[:-1], sum(sizes), MLP((2, 1), "tanh")
    raw = numbers.normal(size=(n_samples, 2))
    basis = np.linalg.qr(raw - raw.mean(axis=0))[0] * np.sqrt(n_samples)
    inputs = np.split(basis * np.sqrt((1.0, 0.5)), ends)
    targets = [x @ numbers.normal(size=(2, 1)) + numbers.normal(size=(1, 1)) for x in inputs]
    strength = np.full(model.layout.size, 0.1)
    regularizer: Regularizer = rng.choice((L2(strength), L2(strength), L1(strength), NoRegularizer()))
    surrogate: Surrogate = rng.choice((Full(1.0), Partial(1.0, float(n_agents))))
    datas = [Data(model, x, Squared(y), 1.0 / n_samples) for x, y in zip(inputs, targets, strict=True)]
    return tuple(Problem(data, regularizer, surrogate, 1e-13) for data in datas)


def optimum(problems: Sequence[Problem]) -> Vector:
    """Minimizer of (1) over some agents, (p,), from all their data at once and without any of our solvers."""
    rows = [np.c_[problem.data.inputs, np.ones(len(problem.data.inputs))] for problem in problems]
    targets = [problem.data.loss.targets for problem in problems]  # type: ignore[attr-defined]
    design, target, weight = np.concatenate(rows), np.concatenate(targets)[:, 0], problems[0].data.weight
    gram, right = weight * design.T @ design, weight * design.T @ target
    regularizer = problems[0].regularizer
    if not isinstance(regularizer, L1):
        strength = regularizer.strength if isinstance(regularizer, L2) else np.zeros(right.size)
        return np.asarray(np.linalg.solve(gram + np.diag(strength), right))
    threshold, (least, *_, largest) = regularizer.strength, np.linalg.eigvalsh(gram)

    def shrink(v: Vector, step: float) -> Vector:
        return np.asarray(np.sign(v) * np.maximum(np.abs(v) - step * threshold, 0.0))

    return np.asarray(
        reference.accelerated(lambda v: gram @ v - right, shrink, np.zeros(right.size), float(largest), float(least))
    )


# ---- an agent ------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a crashed agent may find on its disk."""

    flows: Mapping[str, NDArray[Any]]
    state: agent.State


@final
@dataclass(eq=False)
class Life:
    """One process of one agent."""

    me: PeerId
    flows: Flows
    state: agent.State
    alive: bool = True
    stamps: dict[PeerId, Stamp] = field(default_factory=dict)


@final
@dataclass(eq=False)
class Link:
    """A directed link, with what is on its way; `last` keeps the order where messages do not overtake."""

    on_its_way: int = 0
    last: float = 0.0


class Run:
    """A run of a scenario.

    Parameters
    ----------
    what : Scenario
        What to run.
    tell : callable
        Takes a line for everything that happens.
    """

    def __init__(self, what: Scenario, tell: Callable[[str], None] = lambda line: None) -> None:
        self.what, self._tell = what, tell
        self._rng = random.Random(f"run {what.seed}")
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = 0.0
        self.n_wakings = self.n_events = 0
        self.form = wire.Format("simulated", what.n_agents, what.initial[0].size, "f8")
        self.links = {arc: Link() for arc in what.arcs}
        self.starts: Counter[PeerId] = Counter()
        self.happened: Counter[str] = Counter()
        self.disk: dict[PeerId, list[Snapshot]] = {i: [] for i in range(what.n_agents)}
        self.lives: dict[PeerId, Life] = {}
        self.members = tuple(range(what.n_agents))
        self.goal = optimum(what.problems)
        self.pending = len(what.weather.crashes) + (what.weather.leaves is not None)
        self.last_fault = 0
        self.largest = 1.0
        self.newest: dict[Arc, tuple[int, int, int]] = {}

    def tell(self, line: str) -> None:
        """One line on what happens now."""
        self._tell(f"{self.now:8.3f}  {line}")

    def later(self, delay: float, event: Callable[[], None]) -> None:
        """Something that happens after a while."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def _soon(self, mean: float) -> float:
        return self._rng.expovariate(1.0 / mean)

    # ---- the run ---------------------------------------------------------------------------

    def play(self) -> float:
        """Everything, until all agents are at the optimum and stay there; the distance at the end."""
        weather = self.what.weather
        for i in range(self.what.n_agents):
            self.start(i)
        for at in weather.crashes:
            self.later(at, self.crash)
        if weather.leaves is not None:
            self.later(weather.leaves, self.leave)
        tolerance, there_since = CALM if weather.is_calm else STORMY, 0
        while True:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self.n_events += 1
            if self.n_wakings - self.last_fault > MAX_WAKINGS:
                raise AssertionError(f"after {MAX_WAKINGS} wakings it is still {self.distance():.1e} from the optimum")
            if self.n_events % EVERY:
                continue
            self.check_all()
            if self.pending or self.distance() > tolerance:
                there_since = 0
            elif not there_since:
                there_since = self.n_wakings
            elif self.n_wakings - there_since >= AFTER * self.what.n_agents:
                self.check_all()
                self.check_objective()
                return self.distance()

    def distance(self) -> float:
        """Of the farthest agent from the optimum, relative to its size, or to 1."""
        states = [self.lives[i].state for i in self.members]
        far = max(float(np.abs(state.w - self.goal).max()) for state in states)
        return far / max(1.0, float(np.abs(self.goal).max()))

    def start(self, i: PeerId) -> None:
        """A process of agent i starts, from any checkpoint that it ever made if there is one."""
        what, problem = self.what, self.what.problems[i]
        around = tuple(sorted({a for arc in what.arcs if i in arc for a in arc} - {i}))
        flows = Flows(i, self.starts[i], around)
        self.starts[i] += 1
        usable = [snapshot for snapshot in self.disk[i] if int(snapshot.flows["epoch"]) == self.epoch]
        if usable:
            snapshot = self._rng.choice(usable)
            flows.restore(snapshot.flows)
            state = snapshot.state
        else:
            state = agent.initial(problem, what.initial[i], what.alpha)
            flows.open_epoch(self.epoch, self.members, waking.source(state))
        life = self.lives[i] = Life(i, flows, state)
        self.tell(f"agent {i} starts at waking {state.n}, incarnation {flows.incarnation}")
        self.check(i)
        self.save(life)
        self.later(self._soon(what.weather.pace[i]), lambda: self.wake(life))

    @property
    def epoch(self) -> int:
        """The epoch of a new agent."""
        return int(len(self.members) < self.what.n_agents)

    def save(self, life: Life) -> None:
        """A checkpoint."""
        self.disk[life.me].append(Snapshot(life.flows.snapshot(), life.state))

    def wake(self, life: Life) -> None:
        """The first half of a waking: what came, and what to make of it."""
        if not life.alive:
            return
        problem, flows, n_agents = self.what.problems[life.me], life.flows, len(life.flows.members)
        heard = flows.absorb()
        seen = waking.observe(life.state, flows.mass.high, n_agents)
        epoch, v = flows.epoch, life.state.w
        if seen is not None:
            life.state = seen
            v = waking.propose(problem, seen, flows.phi, n_agents).z
        else:
            self.happened["weight not safe"] += 1

        def done() -> None:
            if life.alive:
                self.step(life, v, heard if flows.epoch == epoch else {})

        self.later(self._soon(self.what.weather.compute), done)

    def step(self, life: Life, v: Vector, heard: Mapping[PeerId, Vector]) -> None:
        """The second half of a waking: move, track and push."""
        i, flows = life.me, life.flows
        life.state = waking.move(self.what.problems[i], life.state, v, heard, RULE)
        flows.track(waking.source(life.state))
        receivers = [j for j in self.receivers(i) if j in flows.members]
        flows.push(v, receivers)
        self.check(i)
        self.n_wakings += 1
        self.tell(f"agent {i} has woken, hears {sorted(heard)}, pushes to {receivers}, phi {flows.phi:.3g}")
        for j in flows.unsent:
            self.send(life, j)
        if life.state.n % 7 == 0 and self.pending:
            self.save(life)
        self.later(self._soon(self.what.weather.pace[i]), lambda: self.wake(life))

    def receivers(self, i: PeerId) -> list[PeerId]:
        """Out-neighbors of this moment."""
        out = [b for a, b in self.what.arcs if a == i]
        if self.what.out == "one":
            return [self._rng.choice(out)]
        return [j for j in out if self.what.out == "all" or self._rng.random() < 0.5]

    # ---- faults ----------------------------------------------------------------------------

    def crash(self) -> None:
        """Some agent is killed, and started again later."""
        able = [i for i in self.members if self.lives[i].alive]
        if not able:
            self.pending -= 1
            return
        i = self._rng.choice(able)
        self.lives[i].alive = False
        self.happened["crash"] += 1
        self.tell(f"agent {i} crashes at waking {self.lives[i].state.n}")

        def again() -> None:
            if i in self.members:
                self.start(i)
            self.pending -= 1
            self.last_fault = self.n_wakings

        self.later(self._soon(5.0), again)

    def leave(self) -> None:
        """The last agent leaves for good; the others hear of it one after the other, and begin another epoch."""
        *others, gone = range(self.what.n_agents)
        self.tell(f"agent {gone} leaves")
        self.happened["leave"] += 1
        self.lives[gone].alive = False
        self.members = tuple(others)
        self.goal = optimum([self.what.problems[i] for i in others])
        left = len(others)

        def open_epoch(i: PeerId) -> None:
            nonlocal left
            life = self.lives[i]
            if life.alive and life.flows.epoch == 0:
                life.flows.open_epoch(1, others, waking.source(life.state))
                life.stamps.clear()
                self.check(i)
                self.save(life)
            left -= 1
            if left == 0:
                self.pending -= 1
                self.last_fault = self.n_wakings

        for i in others:
            self.later(self._soon(3.0), partial(open_epoch, i))

    # ---- messages --------------------------------------------------------------------------

    def send(self, life: Life, j: PeerId) -> None:
        """Give the newest flow to the link, if that takes one now."""
        i, weather = life.me, self.what.weather
        link = self.links[i, j]
        if (i, j) in weather.slow_links and link.on_its_way:
            self.happened["replaced"] += 1
            return
        frames = [bytes(frame) for frame in wire.encode(life.flows.flow(j), self.form)]
        age = (life.flows.epoch, life.flows.incarnation, life.flows.counter)
        for _ in range(1 + (self._rng.random() < weather.duplicate)):
            lost, broken = self._rng.random() < weather.loss, self._rng.random() < weather.corrupt
            at = self.now + self._soon(weather.delay)
            if not weather.reorder:
                at = link.last = max(at, link.last)
            link.on_its_way += 1
            self.happened["lost"] += lost
            received = None if lost else self._break(frames) if broken else frames
            self.later(at - self.now, partial(self.arrive, life, j, received, broken, age))

    def arrive(
        self, life: Life, j: PeerId, frames: list[bytes] | None, broken: bool, age: tuple[int, int, int]
    ) -> None:
        """A message is there, or would have been; the link may take the next one."""
        link, receiver = self.links[life.me, j], self.lives[j]
        link.on_its_way -= 1
        if frames is not None and receiver.alive:
            self.take(receiver, frames, broken, (life.me, j), age)
        if life.alive and j in life.flows.unsent:
            self.send(life, j)

    def _break(self, frames: list[bytes]) -> list[bytes]:
        """What a peer can tell from a message."""
        header, v, sums = frames
        nan = np.full(len(sums) // 8, np.nan).tobytes()
        infinite = np.full(len(v) // 8, np.inf).tobytes()
        return self._rng.choice(
            (
                [header[:-1], v, sums],
                [self._rng.randbytes(20), v, sums],
                [header, v[:-1], sums],
                [header, v, sums + b"\0"],
                [header, sums, v],
                [header, v],
                [header, v, nan],
                [header, infinite, sums],
                [header.replace(b"simulated", b"different"), v, sums],
            )
        )

    def take(self, life: Life, frames: list[bytes], broken: bool, arc: Arc, age: tuple[int, int, int]) -> None:
        """Take in one message, or drop it, but none that is newer than all before it."""
        try:
            message = wire.decode(frames, self.form)
            assert isinstance(message, Flow)
            assert not broken, "a broken message was taken for a whole one"
            life.flows.receive(message)
            self.newest[arc] = max(age, self.newest.get(arc, age))
        except RemoteError as error:
            self.happened[error.cause] += 1
            self.check_drop(error, broken, age > self.newest.get(arc, (-1, 0, 0)))
        self.check(life.me)

    def check_drop(self, error: RemoteError, broken: bool, is_new: bool) -> None:
        """Only what is broken, or old, or of another epoch may be dropped."""
        if isinstance(error, WireError):
            assert broken, f"{error.cause}: {error}"
        elif error.cause == "epoch":
            assert self.what.weather.leaves is not None, str(error)
        else:
            assert error.cause in ("stale", "duplicate"), f"{error.cause}: {error}"
            assert not is_new, f"what is newer than all before it was refused: {error}"

    # ---- what must hold --------------------------------------------------------------------

    def check(self, i: PeerId) -> None:
        """(17) at the agent that did something, which is all that changed; and what it holds is finite and bounded."""
        life, flows = self.lives[i], self.lives[i].flows
        held = [flows.mass.high, flows.mass.low, -flows.source]
        held += [sums for j in flows.neighbors for sums in (flows.pushed(j), -flows.absorbed(j))]
        stack = np.stack(held)
        self.largest = max(self.largest, float(np.abs(stack).max()))
        assert self.largest < 1e6, f"agent {i} holds numbers of size {self.largest:.1e}"  # nan also
        assert flows.held <= 5 * len(flows.neighbors), f"agent {i} holds {flows.held} vectors"
        self.check_sum(stack.sum(axis=0), len(stack))
        for j in flows.neighbors:
            stamp, before = flows.newest(j), life.stamps.get(j)
            if before is not None:
                assert stamp is not None, f"agent {i} forgot that it heard {j}"
                assert stamp >= before, f"agent {i} goes back to {stamp} of {j} from {before}"
            if stamp is not None:
                life.stamps[j] = stamp
        if all(n == 1 for n in self.starts.values()):
            # what is pushed is rounded to what the running sums can hold, up or down
            assert -1e-12 < flows.phi < len(flows.members) + 1e-12, f"the weight of agent {i} is {flows.phi}"

    def check_all(self) -> None:
        """(17) as it is written: over all members, with what is on its way."""
        flows = {i: self.lives[i].flows for i in self.members}
        if any(machine.epoch != self.epoch for machine in flows.values()):
            return  # some have not begun the new epoch yet
        terms = [part for machine in flows.values() for part in (machine.mass.high, machine.mass.low, -machine.source)]
        pairs = [(i, j) for i, j in self.what.arcs if i in flows and j in flows]
        terms += [flows[i].pushed(j) - flows[j].absorbed(i) for i, j in pairs]
        self.check_sum(np.sum(terms, axis=0), len(terms))

    def check_sum(self, total: Vector, n_terms: int) -> None:
        """A sum is 0, but for the rounding of the sum itself: each term may be of the largest size so far."""
        off, bound = float(np.abs(total).max()), 2.0**-53 * n_terms**2 * self.largest
        assert off <= bound, f"(17) is broken by {off:.1e}, where rounding may take {bound:.1e}"

    def check_objective(self) -> None:
        """Every agent's estimate of G is G, as exactly as it knows the optimum."""
        exact = sum(self.what.problems[i].value(self.goal) for i in self.members)
        for i in self.members:
            found = len(self.members) * self.lives[i].state.objective
            assert abs(found - exact) <= 1e-4 * max(1.0, abs(exact)), f"agent {i} takes G for {found}, not {exact}"


def play(seed: int, tell: Callable[[str], None] = lambda line: None) -> tuple[Run, float]:
    """Run a seed and check all that must hold; the run, and the distance to the optimum at its end.

    Raises
    ------
    AssertionError
        Something does not hold; says what, and how to see it again.
    """
    what = scenario(seed)
    run = Run(what, tell)
    try:
        distance = run.play()
    except Exception as error:
        again = f"replay it by: python -m tests.asynchronous --seed {seed}"
        raise AssertionError(f"seed {seed}: {error or type(error).__name__}\n{what}\n{again}") from error
    return run, distance


def drift(n_pushes: int) -> tuple[float, float]:
    """How far (17) is off after so many pushes, relative to its right side: of the machine, and of plain sums.

    Two agents whose sources change all the time exchange all that they push; the plain sums do the
    same in float64, each `+=` as it stands in (13)-(16). Both are added up exactly, as fractions.
    """
    rng = np.random.default_rng(0)
    a, b = (Flows(i, 0, (1 - i,)) for i in range(2))
    sources = [np.array([*rng.normal(1.0, 1.0, size=2), 1.0]) for _ in range(2)]
    for machine, source in zip((a, b), sources, strict=True):
        machine.open_epoch(0, (0, 1), source)
    m, S, R = [source.copy() for source in sources], np.zeros((2, 3)), np.zeros((2, 3))
    for n in range(n_pushes):
        i, me, other = n % 2, (a, b)[n % 2], (b, a)[n % 2]
        source = sources[i]
        if n % 10 < 2:
            source = np.array([*rng.normal(1.0, 1.0, size=2), 1.0])
        me.absorb()
        me.track(source)
        me.push(source[:1], (1 - i,))
        other.receive(me.flow(1 - i))
        m[i] += S[1 - i] - R[i]
        R[i] = S[1 - i]
        m[i] += source - sources[i]
        S[i] += 0.5 * m[i]
        m[i] *= 0.5
        sources[i] = source
    machines = [(x.mass.high, x.mass.low, x.pushed(1 - i), -x.absorbed(1 - i)) for i, x in enumerate((a, b))]
    size = np.abs(sum(sources))
    right = [-source for source in sources]
    off = [_exact_sum([*machines[0], *machines[1], *right]), _exact_sum([*m, *S, *-R, *right])]
    return float(np.max(off[0] / size)), float(np.max(off[1] / size))


def _exact_sum(vectors: Sequence[Vector]) -> Vector:
    """The absolute value of the sum of some vectors, without rounding but of the result."""
    return np.array([abs(float(sum(map(Fraction, entries)))) for entries in np.stack(vectors).T.tolist()])


def main() -> None:
    """Tell what happens to one seed, or what rounding does in a long run."""
    parser = argparse.ArgumentParser(prog="python -m tests.asynchronous", description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int)
    what.add_argument("--pushes", type=int)
    arguments = parser.parse_args()
    if arguments.pushes is not None:
        exact, plain = drift(arguments.pushes)
        print(f"after {arguments.pushes} pushes (17) is off by {exact:.1e}; with plain sums by {plain:.1e}")
        return
    seed = arguments.seed
    print(scenario(seed))
    run, distance = play(seed, print)
    print(f"as it should be; {run.n_wakings} wakings, {dict(run.happened)}, {distance:.1e} from the optimum")


if __name__ == "__main__":
    main()
