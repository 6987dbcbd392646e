"""Whole runs without rounds, in one thread and on one clock, of agents whose links do what they like.

Everything here comes from one seed: the problem, the directed graph, and what happens. What runs
is the code that real peers run, `Flows` with `waking` and `wire`; what stands in is the event
loop, the sockets and the disk. After every event (17) is checked, at each agent by itself and
over all of them, and that all that is held is finite and bounded.

`python -m tests.simulate --mode async --seed 7` tells what happens to seed 7.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from tests.network import RUN_ID, Arc, garbled
from tests.simulated import Clock, Outcome, Tell, replayable, silent
from topology import PeerId

MODE: Final = "async"
"""What the command calls these runs."""

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

    def __init__(self, what: Scenario, tell: Tell = silent) -> None:
        self.what = what
        self.clock = Clock(f"run {what.seed}", tell)
        self.chance = self.clock.chance
        self.n_wakings = self.queue = 0
        self.form = wire.Format(RUN_ID, what.n_agents, what.initial[0].size, "f8")
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

    # ---- the run ---------------------------------------------------------------------------

    def play(self) -> None:
        """Everything, until all agents are at the optimum and stay there."""
        weather = self.what.weather
        for i in range(self.what.n_agents):
            self.start(i)
        for at in weather.crashes:
            self.clock.later(at, self.crash)
        if weather.leaves is not None:
            self.clock.later(weather.leaves, self.leave)
        tolerance, there_since = CALM if weather.is_calm else STORMY, 0
        while True:
            self.clock.step()
            if self.n_wakings - self.last_fault > MAX_WAKINGS:
                raise AssertionError(f"after {MAX_WAKINGS} wakings it is still {self.distance():.1e} from the optimum")
            if self.clock.n_events % EVERY:
                continue
            self.check_all()
            if self.pending or self.distance() > tolerance:
                there_since = 0
            elif not there_since:
                there_since = self.n_wakings
            elif self.n_wakings - there_since >= AFTER * self.what.n_agents:
                self.check_all()
                self.check_objective()
                return

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        return Outcome(self.what.seed, self.clock.n_events, self.happened, self.distance(), self.queue)

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
            snapshot = self.chance.choice(usable)
            flows.restore(snapshot.flows)
            state = snapshot.state
        else:
            state = agent.initial(problem, what.initial[i], what.alpha)
            flows.open_epoch(self.epoch, self.members, waking.source(state))
        life = self.lives[i] = Life(i, flows, state)
        self.clock.tell(f"agent {i} starts at waking {state.n}, incarnation {flows.incarnation}")
        self.check(i)
        self.save(life)
        self.clock.later(self.clock.soon(what.weather.pace[i]), lambda: self.wake(life))

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

        self.clock.later(self.clock.soon(self.what.weather.compute), done)

    def step(self, life: Life, v: Vector, heard: Mapping[PeerId, Vector]) -> None:
        """The second half of a waking: move, track and push."""
        i, flows = life.me, life.flows
        life.state = waking.move(self.what.problems[i], life.state, v, heard, RULE)
        flows.track(waking.source(life.state))
        receivers = [j for j in self.receivers(i) if j in flows.members]
        flows.push(v, receivers)
        self.check(i)
        self.n_wakings += 1
        self.clock.tell(f"agent {i} has woken, hears {sorted(heard)}, pushes to {receivers}, phi {flows.phi:.3g}")
        for j in flows.unsent:
            self.send(life, j)
        if life.state.n % 7 == 0 and self.pending:
            self.save(life)
        self.clock.later(self.clock.soon(self.what.weather.pace[i]), lambda: self.wake(life))

    def receivers(self, i: PeerId) -> list[PeerId]:
        """Out-neighbors of this moment."""
        out = [b for a, b in self.what.arcs if a == i]
        if self.what.out == "one":
            return [self.chance.choice(out)]
        return [j for j in out if self.what.out == "all" or self.chance.random() < 0.5]

    # ---- faults ----------------------------------------------------------------------------

    def crash(self) -> None:
        """Some agent is killed, and started again later."""
        able = [i for i in self.members if self.lives[i].alive]
        if not able:
            self.pending -= 1
            return
        i = self.chance.choice(able)
        self.lives[i].alive = False
        self.happened["crash"] += 1
        self.clock.tell(f"agent {i} crashes at waking {self.lives[i].state.n}")

        def again() -> None:
            if i in self.members:
                self.start(i)
            self.pending -= 1
            self.last_fault = self.n_wakings

        self.clock.later(self.clock.soon(5.0), again)

    def leave(self) -> None:
        """The last agent leaves for good; the others hear of it one after the other, and begin another epoch."""
        *others, gone = range(self.what.n_agents)
        self.clock.tell(f"agent {gone} leaves")
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
            self.clock.later(self.clock.soon(3.0), partial(open_epoch, i))

    # ---- messages --------------------------------------------------------------------------

    def send(self, life: Life, j: PeerId) -> None:
        """Give the newest flow to the link, if that takes one now."""
        i, weather = life.me, self.what.weather
        link = self.links[i, j]
        if (i, j) in weather.slow_links and link.on_its_way:
            self.happened["message replaced by a newer one"] += 1
            return
        frames = [bytes(frame) for frame in wire.encode(life.flows.flow(j), self.form)]
        age = (life.flows.epoch, life.flows.incarnation, life.flows.counter)
        for _ in range(1 + (self.chance.random() < weather.duplicate)):
            lost, broken = self.chance.random() < weather.loss, self.chance.random() < weather.corrupt
            at = self.clock.now + self.clock.soon(weather.delay)
            if not weather.reorder:
                at = link.last = max(at, link.last)
            link.on_its_way += 1
            self.queue = max(self.queue, link.on_its_way)
            self.happened["message lost"] += lost
            self.happened["message corrupted"] += broken
            received = None if lost else garbled(frames, self.chance) if broken else frames
            self.clock.later(at - self.clock.now, partial(self.arrive, life, j, received, broken, age))

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


def play(seed: int, tell: Tell = silent) -> Run:
    """Run a seed and check all that must hold; the run after it.

    Raises
    ------
    AssertionError
        Something does not hold; says what, and how to see it again.
    """
    what = scenario(seed)
    with replayable(MODE, seed, what):
        run = Run(what, tell)
        run.play()
    return run
