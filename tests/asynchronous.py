"""Whole runs without rounds, in one thread and on one clock, of peers that come, go, crash and return.

Everything here comes from one seed: the data, who pushes to whom, and what happens. What runs is
the code that real peers run, `Assembly` with `Membership`, `Flows` and `Pace`, `waking` and `wire`; what
stands in is the event loop, the sockets (`tests.network`) and the disk. After every event at a peer
(17) is checked there, and that all that it holds is finite and bounded; again and again it is
checked over all members of an epoch. Once nothing more goes wrong, all must come to one view and
to the optimum of the data of those that are left, stay there, and then end by themselves. The same runs
are played short, too: with few wakings to make they end in the midst of it all, and must just end.

`python -m tests.simulate --mode async --seed 7` tells what happens to seed 7, `--mode short` what
happens when it is cut short.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias, final

import numpy as np
from msgspec import structs

from peer import agent, careful, waking, wire
from peer.arrays import Vector
from peer.assembly import TICK_S, Assembly, Opening
from peer.async_mode import QUEUE_MESSAGES
from peer.careful import Caution
from peer.checkpoint import Moment
from peer.errors import RemoteError, WireError
from peer.flows import Flows, Stamp
from peer.host import NEWS_S
from peer.membership import Membership
from peer.messages import Flow, Message, Outgoing, Standing, View
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from tests import reference
from tests.network import RUN_ID, Network, Weather, weather
from tests.simulated import HALVED, Clock, Outcome, Tell, batched, replayable, silent, sizes_of
from topology import PeerId
from topology.outlets import InStep, Outlets
from topology.weights import contraction_in_step

MODE: Final = "async"
"""What the command calls these runs."""

SHORT: Final = "short"
"""What it calls those with few wakings."""

UNIT_S: Final = 0.1
"""What takes a while on the network; computations are of this order too, for events that are worth their time."""

TROUBLE_S: Final = 12.0
"""How long faults begin."""

DEPARTURE_S: Final = 6.0
"""Without progress for so long a member is lost: half of the trouble, and several times what gossip takes."""

PATIENCE_S: Final = 10 * DEPARTURE_S
"""Of a peer that was away, and of which nobody has heard since."""

MAX_COMPUTE_S: Final = DEPARTURE_S / 6
"""Of one computation: who needs longer, on slow lines, is rightly taken for lost now and then, and no epoch lasts."""

MAX_WAKINGS: Final = 24_000
"""Of all peers of a run together, after the last fault; several times what the slowest of these needs."""

PERIOD: Final = 4_000
"""Wakings in which a run has to come ten times nearer; if it does not, its step is too long for its graph, and all go
on with half of it. That is counted, and seldom."""

MAX_S: Final = 4_000.0
"""Of a run; several times what the longest takes, in which a slow peer makes all its wakings."""

MAX_END_S: Final = 60.0
"""How long it may take until all have ended, once all may: several departures."""

CALM: Final = 1e-9
"""Distance to the optimum, relative, where nothing gets lost and nobody crashes."""

LARGE: Final = 1e3
"""What agents hold grows beyond ten times that only where steps are too long."""

STORMY: Final = 1e-6
"""The same with faults."""

AFTER: Final = 10
"""Wakings after the goal was reached, in which nobody may leave it again."""

EVERY: Final = 20
"""Events between two looks at all peers at once; the peer that an event is about is looked at each time."""

SLOW: Final = 10.0
"""How much slower than the others a slow peer computes."""

NEVER: Final = 10**9
"""Wakings that no run makes: it ends only when it has been where it should."""

RULE: Final = Constant()


# ---- what is run ---------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Deed:
    """Something that a peer does, or that is done to it.

    Parameters
    ----------
    at : float
        When.
    kind : str
        "crash", to be started again soon, from any checkpoint that it ever made; "loss", the same
        without a soon; "leave", as by SIGTERM; "return", of a lost or left one; "join", of a newcomer.
    who : int
        Which peer.
    """

    at: float
    kind: str
    who: PeerId


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """A run, and what happens to it; see `scenario`."""

    seed: int
    n_agents: int
    outlets: Outlets
    problems: tuple[Problem, ...]
    initial: tuple[Vector, ...]
    alpha: float
    is_careful: bool
    every: int
    compute: float
    slow: PeerId | None
    deeds: tuple[Deed, ...]
    weather: Weather
    n_wakings: int

    @cached_property
    def contraction(self) -> float:
        """What a waking of all initial members leaves of a disagreement."""
        return contraction_in_step(InStep(self.outlets, self.n_agents))

    def caution(self, n_agents: int) -> Caution | None:
        """How agents choose tau, if they do, as `config.caution_of`."""
        return Caution(n_agents, self.contraction, keeps=False) if self.is_careful else None

    @property
    def is_short(self) -> bool:
        """Whether it ends by itself, wherever it has come to."""
        return self.n_wakings < NEVER

    @property
    def is_calm(self) -> bool:
        """Whether every message comes, and everybody stays."""
        return self.weather.is_calm and not self.deeds

    @property
    def left(self) -> tuple[PeerId, ...]:
        """Who takes part when all is done, ascending."""
        members = set(range(self.n_agents))
        for deed in self.deeds:
            if deed.kind in ("loss", "leave"):
                members.discard(deed.who)
            elif deed.kind in ("join", "return"):
                members.add(deed.who)
        return tuple(sorted(members))

    def __str__(self) -> str:
        problem = self.problems[0]
        kinds = ", ".join(type(part).__name__ for part in (problem.surrogate, problem.regularizer))
        deeds = ", ".join(f"{deed.kind} of {deed.who} at {deed.at:.1f}" for deed in self.deeds)
        length = f"{self.n_wakings} wakings" if self.is_short else "to the optimum"
        pace = f"{length}, compute {self.compute}, slow {self.slow}, alpha {self.alpha:.3g}"
        pace += f", batches {sizes_of(self.problems)}, careful: {self.is_careful}"
        return f"{self.n_agents} peers, {kinds}, {pace}, {self.outlets}, {deeds or 'all stay'}, {self.weather}"


def scenario(seed: int, is_short: bool = False) -> Scenario:
    """The run of a seed; one that is short has few wakings."""
    rng, numbers = random.Random(f"asynchronous {seed}"), np.random.default_rng(seed)
    n_agents = rng.choice((2, 3, 3, 4))
    sky = weather(rng, TROUBLE_S, UNIT_S, reliable=rng.random() < 0.3, narrow=True)
    deeds = _deeds(n_agents, rng) if rng.random() < 0.75 else ()
    n_ever = max((n_agents, *(deed.who + 1 for deed in deeds)))
    outlets = Outlets(
        schedule=rng.choice(("static", "static", "random-links", "matchings", "one-peer-exponential")),
        graph=rng.choice(("ring", "complete", "star", "grid", "exponential", "erdos-renyi")),
        directed=rng.random() < 0.5,
        seed=seed,
    )
    slow = rng.randrange(n_agents) if rng.random() < 0.2 else None
    unfinished = Scenario(
        seed=seed,
        n_agents=n_agents,
        outlets=outlets,
        problems=(),
        initial=(),
        alpha=0.0,
        is_careful=random.Random(f"caution of {seed}").random() < 0.3,
        every=rng.choice((1, 5, 20)),
        compute=max(UNIT_S * (0.3 if slow is not None else rng.choice((0.3, 1.0, 2.0))), sky.delay / 2.0),
        slow=slow,
        deeds=deeds,
        weather=sky,
        n_wakings=NEVER,
    )
    few = rng.choice((10, 30, 100)) if rng.random() < 0.15 else 20
    problems = _problems(n_ever, unfinished.left, rng, numbers)
    problems = batched(problems, seed, random.Random(f"batches of {seed}"))
    p = problems[0].data.model.layout.size
    return replace(
        unfinished,
        problems=problems,
        initial=tuple(numbers.normal(size=p) for _ in problems),
        alpha=0.5 * careful.alpha_of(unfinished.contraction)
        if unfinished.is_careful
        else min(0.4, 1.2 / _hops(unfinished)),
        n_wakings=few if is_short else NEVER,
    )


def _deeds(n_agents: int, rng: random.Random) -> tuple[Deed, ...]:
    """What peers do and suffer; two of the initial ones stay, or come back whenever they crash."""
    born = dict.fromkeys(range(n_agents), 0.0)
    born |= {n_agents + k: rng.uniform(0.0, TROUBLE_S) for k in range(min(rng.choice((0, 0, 1, 2)), 5 - n_agents))}
    deeds = [Deed(at, "join", who) for who, at in born.items() if who >= n_agents]
    for who in sorted(born.keys() - {0, 1}):
        if rng.random() < 0.3:
            at = rng.uniform(born[who] + 0.5, TROUBLE_S + 0.5)
            deeds.append(Deed(at, rng.choice(("loss", "leave")), who))
            if rng.random() < 0.5:
                deeds.append(Deed(at + rng.uniform(0.5, 3.0 * DEPARTURE_S), "return", who))
    crashes = range(rng.choice((0, 1, 2, 5)))
    deeds += [Deed(rng.uniform(0.0, TROUBLE_S), "crash", rng.choice(sorted(born))) for _ in crashes]
    return tuple(sorted(deeds, key=lambda deed: deed.at))


def _hops(what: Scenario) -> float:
    """Wakings until all have heard of a change, about; no agent may go much faster than that."""
    outlets, members = what.outlets, what.left
    reached, n_steps = {members[0]}, 0
    while len(reached) < len(members):
        reached |= {j for i in sorted(reached) for j in outlets.out_neighbors(members, i)}
        n_steps += 1
    degree = max(len(outlets.out_neighbors(members, i)) for i in members)
    rare = {"random-links": 2.0, "matchings": float(degree), "one-peer-exponential": float(degree)}
    lossy = 1.0 - what.weather.loss - what.weather.corrupt
    step = rare.get(outlets.schedule, 1.0) / lossy + what.weather.delay / what.compute
    return max(1, n_steps) * step + (2.0 if what.slow is not None else 0.0)


def _problems(
    n_ever: int, left: Sequence[PeerId], rng: random.Random, numbers: np.random.Generator
) -> tuple[Problem, ...]:
    """Least squares with a penalty: no agent can do alone, but those that are left are well conditioned together.

    All their samples together have a curvature of 1, 0.5 and 1 along the two weights and the bias, for short
    runs; a single shard may have next to none in some direction, and an optimum of its own.
    """
    sizes, model = [rng.randint(2, 5) for _ in range(n_ever)], mlp((2, 1), "tanh")
    inputs = [numbers.normal(size=(size, 2)) for size in sizes]
    raw = np.concatenate([inputs[i] for i in left])
    basis = np.linalg.qr(raw - raw.mean(axis=0))[0] * np.sqrt(len(raw)) * np.sqrt((1.0, 0.5))
    ends = np.cumsum([sizes[i] for i in left])[:-1]
    for i, x in zip(left, np.split(basis, ends), strict=True):
        inputs[i] = x
    targets = [x @ numbers.normal(size=(2, 1)) + numbers.normal(size=(1, 1)) for x in inputs]
    strength = np.full(model.layout.size, 0.1)
    regularizer: Regularizer = rng.choice((L2(strength), L2(strength), L1(strength), NoRegularizer()))
    surrogate: Surrogate = rng.choice((Full(1.0), Partial(1.0, 1.0)))
    datas = [Data(model, x, Squared(y), 1.0) for x, y in zip(inputs, targets, strict=True)]
    return tuple(Problem(data, regularizer, surrogate, 1e-13) for data in datas)


def among(problem: Problem, n_samples: int, n_agents: int) -> Problem:
    """The same g_i, and its surrogate, among other members: as `learning.reweighted`."""
    surrogate = problem.surrogate
    if isinstance(surrogate, Partial):
        surrogate = replace(surrogate, kappa=float(n_agents))
    return replace(problem, data=replace(problem.data, weight=1.0 / n_samples), surrogate=surrogate)


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


# ---- a peer --------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Compute:
    """The main line of a peer works for a while, and messages are served."""


@final
@dataclass(frozen=True)
class Sleep:
    """The main line of a peer waits for something that changes, until a time of its clock."""

    until_s: float


Line: TypeAlias = Generator[Compute | Sleep, None, None]


class Peer:
    """One process of one peer; names and order are those of `peer.async_mode.AsyncLife`.

    Parameters
    ----------
    me : int
        Which peer.
    run : Run
        Everything outside.
    incarnation : int
        How often this peer was started before.
    last : Moment or None
        To be resumed from.
    contact : int or None
        Who lets a newcomer in.
    """

    def __init__(
        self, me: PeerId, run: Run, incarnation: int, last: Moment | None, contact: PeerId | None = None
    ) -> None:
        what = run.what
        self.me, self.run, self.what, self.last, self.contact = me, run, what, last, contact
        self.problem = what.problems[me]
        n_samples, instance = len(self.problem.data.inputs), f"process {incarnation} of peer {me}"
        own = Standing(1, incarnation, 0, instance, n_samples=n_samples, address=f"tcp://peer-{me}")
        self.membership = Membership(me, own, what.n_agents, DEPARTURE_S)
        self.flows = Flows(me, incarnation, ())
        self.assembly = Assembly({"seed": str(what.seed)}, self.membership, self.flows, what.outlets, what.n_wakings)
        if last is not None:
            self.membership.restore(last.standings, last.n_classes)
            self.flows.restore(last.flows)
            self.flows.neighbors = self.assembly.neighbors_among(self.flows.members)
            self.assembly.opened_n = last.opened_n
        n_ever = len(what.problems)
        self.form = wire.Format(RUN_ID, n_ever, what.initial[me].size, "f8")
        self.state: agent.State | None = None
        self.linked: set[PeerId] = set()
        self.is_new = me >= what.n_agents and (last is None or last.agent["n"] == 0)
        self.quiet_s = 0.0
        self.is_over = self.has_company = False
        self.alive = True
        self.news = False
        self.changed = False
        self.sleeps = 0
        self.line = self.work()
        self.origin_s = run.clock.chance.uniform(-1e3, 1e5)
        self.stamps: dict[PeerId, Stamp] = {}
        self.generations: dict[PeerId, int] = {}

    @property
    def now(self) -> float:
        """Time on this process's own clock."""
        return self.run.clock.now + self.origin_s

    # ---- links -----------------------------------------------------------------------------

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one peer on this side."""
        return QUEUE_MESSAGES

    def link(self) -> None:
        """Keep connections to the out-neighbors of the view, to who lets this peer in, and to one of the gone."""
        contact = {self.contact} if self.contact is not None and not self.membership.began else set()
        wanted = {*self.assembly.receivers, *self.assembly.knocks_at(self.now), *contact}
        for j in sorted(self.linked - wanted):
            self.linked.remove(j)
            self.run.network.shut(self.me, j)
            self.assembly.disconnected(j)
        for j in sorted(wanted - self.linked):
            if j < self.what.n_agents or j in contact or self.membership.standings[j].address:
                self.linked.add(j)
                self.run.network.open(self.me, j)

    def connected(self, j: PeerId) -> None:
        """A connection to a peer is up."""
        self.say(self.assembly.connected(j))
        self.change()

    def disconnected(self, j: PeerId) -> None:
        """A connection to a peer broke."""
        self.assembly.disconnected(j)

    def writable(self, j: PeerId) -> None:
        """A connection that was full has room again."""
        if self.assembly.is_connected(j):
            self.say(self.assembly.unsent())

    # ---- messages --------------------------------------------------------------------------

    def say(self, messages: Outgoing) -> None:
        """Send; what there is no room for now is made anew when there is."""
        failed: list[tuple[PeerId, Message]] = []
        unreachable: set[PeerId] = set()
        last: Message | None = None
        for j, message in messages:
            if isinstance(message, Flow):
                self.run.made[self.me, message.epoch, message.stamp] = self.run.starts[self.me], self.flows.counter
            if message is not last:  # the same to several peers is encoded once
                last, name, frames = message, _shown(message), wire.encode(message, self.form)
            if j in unreachable or not self.run.network.send(self.me, j, name, frames):
                unreachable.add(j)
                failed.append((j, message))
        self.assembly.found_no_room(failed)

    def take(self, frames: list[bytes], sender: PeerId, whole: bool) -> None:
        """Take in one message, or drop it."""
        message: Message | None = None
        try:
            message = wire.decode(frames, self.form)
            assert whole, "a garbled message was taken for a whole one"
            self.assembly.receive(message, self.now)
        except RemoteError as error:
            self.run.happened[f"dropped: {error.cause}"] += 1
            self.run.check_drop(self, error, message)
        else:
            self.has_company = self.has_company or isinstance(message, View)
            if isinstance(message, Flow):
                self.run.note_taken(self, message)
        if self.assembly.has_news and not self.news:
            self.news = True
            self.run.network.later(self, NEWS_S, self.spread)
        self.run.check_view(self)
        self.change()

    def spread(self) -> None:
        """Pass on what was learned, and connect to whom it concerns."""
        self.news = False
        self.link()
        self.say(self.assembly.spread())

    def gossip(self) -> None:
        """Pass the view on again and again, and find out who is lost."""
        lost, messages = self.assembly.tick(self.now)
        for j in lost:
            self.run.happened["found to be lost"] += 1
            self.run.clock.tell(f"peer {self.me} finds {j} lost")
        away_since_s = self.membership.away_since_s
        if away_since_s is not None and self.now - away_since_s > PATIENCE_S:
            self.run.give_up(self)
            return
        self.link()
        self.say([*messages, *self.assembly.unsent()])
        self.run.check_view(self)
        self.change()
        self.run.network.later(self, TICK_S, self.gossip)

    def change(self) -> None:
        """What the main line waits for may be there."""
        self.changed = True
        if self.sleeps % 2:
            self.run.resume(self)

    def until(self, condition: Callable[[], bool], deadline_s: float) -> Generator[Sleep, None, bool]:
        """Wait for a condition that something may bring about; False if the deadline passed first."""
        while not condition():
            self.changed = False
            yield Sleep(deadline_s)
            if self.now >= deadline_s:
                return condition()
        return True

    # ---- the run ---------------------------------------------------------------------------

    def work(self) -> Line:
        """From the first view to the last goodbye."""
        yield from self.until(lambda: not self.absentees, math.inf)
        self.begin()
        while not self.is_over:
            yield from self.train()
            yield from self.part()

    @property
    def absentees(self) -> tuple[PeerId, ...]:
        """For whom this peer waits before it begins."""
        membership = self.membership
        others = tuple(j for j in membership.members if j != self.me)
        done = all(membership.standings[j].done == membership.epoch for j in others)
        return membership.missing if self.last is None or self.has_company or done else others

    def begin(self) -> None:
        """The problem of the members met, and the first state."""
        last = self.last
        self.reweight(self.membership.n_samples_total, len(self.membership.members))
        if last is not None:
            self.state = agent.State(**last.agent)  # type: ignore[arg-type]
            members = self.flows.members
            self.reweight(sum(last.standings[j].n_samples for j in members), len(members))
        else:
            self.is_new = self.is_new or self.membership.comes_late
            self.state = self.first(self.what.initial[self.me], self.what.alpha, len(self.membership.members))
        self.membership.begin(self.now)
        self.quiet_s = self.now + DEPARTURE_S

    def first(self, w: Vector, alpha: float, n_agents: int) -> agent.State:
        """The state at the beginning of an epoch."""
        state, caution = agent.initial(self.problem, w, alpha), self.what.caution(n_agents)
        return state if caution is None else careful.begun(self.problem, state, caution)

    def reweight(self, n_samples: int, n_agents: int) -> None:
        """Among other members the problem is another one."""
        self.problem = among(self.problem, n_samples, n_agents)

    def train(self) -> Line:
        """Waking after waking, through all epochs, until all members have made theirs."""
        every, saved_n = self.what.every, -1
        while True:
            assert self.state is not None
            if (opening := self.assembly.opening) is not None:
                yield from self.open_epoch(opening)
                saved_n = -1
            if saved_n < 0 or self.state.n - saved_n >= every:
                self.run.disk[self.me].append(self.snapshot(self.state))
                saved_n = self.state.n
            if self.is_complete:
                break
            if (yield from self.rest()):
                yield from self.wake()
        self.membership.know()

    @property
    def is_complete(self) -> bool:
        """Whether all members have made all wakings of the epoch that this agent is in."""
        return self.membership.complete and self.membership.epoch == self.flows.epoch

    def open_epoch(self, opening: Opening) -> Line:
        """Begin an epoch, with the problem of its members."""
        state = self.state
        assert state is not None
        self.reweight(opening.n_samples, len(opening.members))
        yield Compute()
        self.state = self.first(state.w, state.alpha, len(opening.members)).changed(n=state.n)
        self.assembly.open_epoch(opening, self.state)
        self.quiet_s = self.now + DEPARTURE_S
        self.stamps.clear()
        self.link()
        self.run.clock.tell(f"peer {self.me} opens epoch {opening.epoch} of {opening.members}")
        self.run.happened["epoch opened"] += 1
        self.run.last_fault = self.run.n_wakings
        self.run.check(self)

    def rest(self) -> Generator[Compute | Sleep, None, bool]:
        """Wait until there is something worth waking for; False where the view has changed before, or all is over."""
        while self.assembly.opening is None and not self.is_complete:
            wakes_s = self.assembly.pace.wakes_s(self.flows.news)
            if self.is_new and not self.flows.news:
                wakes_s = max(wakes_s, self.quiet_s)
            if self.now >= wakes_s:
                return True
            yield from self.until(lambda: self.changed, wakes_s)
            self.changed = False
        return False

    def wake(self) -> Line:
        """One waking."""
        assembly, flows = self.assembly, self.flows
        assert self.state is not None
        state = self.state.changed(alpha=self.run.alpha)
        began_s, news, n_agents = self.now, flows.news, len(flows.members)
        theirs = flows.absorb()
        is_new = self.is_new and bool(theirs)
        woken = waking.wake(self.problem, state, flows.mass.high, theirs, n_agents, RULE, is_new)
        self.run.happened["weight not safe"] += woken.solution is None
        yield Compute()
        self.is_new = self.is_new and not theirs
        caution, self.state = self.what.caution(n_agents), woken.state
        if is_new:
            self.state = self.first(woken.state.w, woken.state.alpha, n_agents).changed(n=woken.state.n)
        elif caution is not None:
            self.state = careful.adapted(self.problem, woken.seen, woken.state, caution)
        flows.track(waking.source(self.state))
        assembly.pace.woke(began_s, self.now, news)
        receivers = assembly.push(state.n, woken.v, self.now)
        assembly.woke(self.state)
        self.run.n_wakings += 1
        self.run.clock.tell(
            f"peer {self.me} has woken, hears {sorted(theirs)}, pushes to {receivers}, phi {flows.phi:.3g}"
        )
        self.run.check(self)
        self.say(assembly.unsent())
        self.say(assembly.spread())

    def part(self) -> Line:
        """Say that all is over, and stay until all members know; where the view changes meanwhile, it is not over."""
        assembly = self.assembly
        self.say(assembly.gossip())
        deadline_s = self.now + DEPARTURE_S
        yield from self.until(lambda: assembly.goes_on or assembly.is_over, deadline_s)
        if not assembly.goes_on:
            self.say(assembly.part(""))
            self.is_over = True

    def leave(self) -> None:
        """As when it is interrupted: say goodbye, and keep a checkpoint."""
        self.say(self.assembly.part("interrupted"))
        if self.state is not None and self.run.disk[self.me]:
            self.run.disk[self.me].append(self.snapshot(self.state))

    def snapshot(self, state: agent.State) -> Moment:
        """Checkpoint between two wakings."""
        numbers = structs.asdict(state)
        standings = dict(self.membership.standings)
        return Moment(RUN_ID, "", 0, self.assembly.opened_n, standings, numbers, self.flows.snapshot())


# ---- a run ---------------------------------------------------------------------------------


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
        self.network = Network(self.clock, what.weather)
        self.happened = self.network.happened
        self.starts: Counter[PeerId] = Counter()
        self.disk: dict[PeerId, list[Moment]] = {i: [] for i in range(len(what.problems))}
        self.peers: dict[PeerId, Peer] = {}
        self.away: set[PeerId] = set()
        self.n_wakings = self.n_ended = self.n_halvings = 0
        self.pending = len(what.deeds)
        samples = sum(len(what.problems[i].data.inputs) for i in what.left)
        self.final = {i: among(what.problems[i], samples, len(what.left)) for i in what.left}
        self.goal = optimum(list(self.final.values()))
        self.last_fault, self.before, self.next_look = 0, math.inf, PERIOD
        self.largest, self.grown = 1.0, LARGE
        self.made: dict[tuple[PeerId, int, Stamp], tuple[int, int]] = {}
        self.taken: dict[tuple[PeerId, PeerId], tuple[int, int]] = {}

    def play(self) -> None:
        """Everything, until all have ended."""
        what, clock = self.what, self.clock
        self.happened["slow peer"] += what.slow is not None
        for i in range(what.n_agents):
            clock.later(clock.soon(UNIT_S), lambda i=i: self.start(i))  # type: ignore[misc]
        for deed in what.deeds:
            clock.at(deed.at, lambda deed=deed: self.do(deed))  # type: ignore[misc]
        if what.is_short:
            self.end_amid_faults()
        else:
            self.arrive()
            self.end()

    def arrive(self) -> None:
        """Until all are at the optimum, and stay there."""
        what, clock = self.what, self.clock
        tolerance, there_since = CALM if what.is_calm else STORMY, 0
        while True:
            clock.step()
            if self.pending or (clock.now < TROUBLE_S * 1.5 and not what.is_calm):
                self.last_fault = self.n_wakings
            n_wakings = self.n_wakings - self.last_fault
            self.shorten_steps(n_wakings)
            if n_wakings > MAX_WAKINGS or clock.now > MAX_S:
                raise AssertionError(
                    f"after {clock.now:.0f} s, {n_wakings} wakings after the last fault, {self.where()}"
                )
            if clock.n_events % EVERY:
                continue
            self.check_all()
            if self.last_fault == self.n_wakings or self.distance() > tolerance:
                there_since = 0
            elif not there_since:
                there_since = self.n_wakings
            elif self.n_wakings - there_since >= AFTER * len(what.left):
                break
        self.check_views()
        self.check_objective()

    def shorten_steps(self, n_wakings: int) -> None:
        """Let all go on with half the step if the last of these wakings since the last fault brought them no nearer.

        Also amid faults, if what they hold has grown tenfold, and is large.
        """
        if self.largest > 10.0 * self.grown:
            self.grown = self.largest
            self.halve()
        if n_wakings == 0:
            self.before, self.next_look = math.inf, PERIOD
        elif n_wakings >= self.next_look:
            distance = self.distance()
            if distance > 0.1 * self.before:
                self.halve()
            self.before, self.next_look = distance, n_wakings + PERIOD

    def halve(self) -> None:
        """All go on with half the step."""
        self.n_halvings += 1
        self.happened[HALVED] += 1
        self.clock.tell(f"all go on with a step of {self.alpha:.3g}")

    def end_amid_faults(self) -> None:
        """Until all have made their wakings; who comes back when the others have ended may wait for them in vain."""
        n_agents = self.what.n_agents
        while self.pending or len(self.starts) < n_agents or any(peer.alive for peer in self.peers.values()):
            self.clock.step()
            if self.clock.n_events % EVERY == 0:
                self.check_all()
            if self.clock.now > MAX_S:
                break
        stuck = [i for i, peer in self.peers.items() if peer.alive and (peer.membership.began or not self.n_ended)]
        assert not stuck, f"peers {stuck} do not end, for {self.where()}"

    def end(self) -> None:
        """All have made their wakings: they find that out, and end by themselves, where they are."""
        began = self.clock.now
        for i in self.what.left:
            self.peers[i].assembly.n_wakings = 0
        while any(self.peers[i].alive for i in self.what.left):
            self.clock.step()
            if self.clock.now > began + MAX_END_S:
                raise AssertionError(f"{MAX_END_S} s after all could end {self.where()}")

    def where(self) -> str:
        """How far the peers are, in words."""
        lives = [
            f"peer {i} after {peer.state.n if peer.state else 0} wakings in epoch {peer.flows.epoch} of "
            f"{peer.flows.members}, with view {peer.membership.epoch} of {peer.membership.members}"
            for i, peer in sorted(self.peers.items())
            if peer.alive
        ]
        return f"it is {self.distance():.1e} from the optimum, with {'; '.join(lives)}"

    @property
    def alpha(self) -> float:
        """Step of all agents now."""
        return self.what.alpha / 2.0**self.n_halvings

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        distance = 0.0 if self.what.is_short else self.distance()
        return Outcome(self.what.seed, self.clock.n_events, self.happened, distance, self.network.queue)

    def distance(self) -> float:
        """Of the farthest of those that are left from the optimum, relative to its size, or to 1."""
        states = [self.peers[i].state for i in self.what.left if i in self.peers]
        if len(states) < len(self.what.left) or None in states:
            return math.inf
        far = max(float(np.abs(state.w - self.goal).max()) for state in states if state is not None)
        return far / max(1.0, float(np.abs(self.goal).max()))

    # ---- processes -------------------------------------------------------------------------

    def start(self, i: PeerId, newest: bool = False) -> None:
        """A process of peer i starts, from any checkpoint that it ever made if there is one."""
        what, disk = self.what, self.disk[i]
        last = (disk[-1] if newest else self.clock.chance.choice(disk)) if disk else None
        contact = self.clock.chance.choice([j for j in what.left if j < 2]) if i >= what.n_agents else None
        peer = self.peers[i] = Peer(i, self, self.starts[i], last, contact)
        if self.starts[i]:
            kind = "nothing" if last is None else "the last checkpoint" if last is disk[-1] else "an older checkpoint"
            if last is not None and last.flows["epoch"] != disk[-1].flows["epoch"]:
                kind = "a checkpoint of an older epoch"
            self.happened[f"restart from {kind}"] += 1
        self.starts[i] += 1
        n = 0 if last is None else last.agent["n"]
        self.clock.tell(f"peer {i} starts at waking {n}, incarnation {peer.flows.incarnation}")
        self.network.start(peer, ())
        peer.link()
        peer.gossip()
        self.resume(peer)

    def resume(self, peer: Peer) -> None:
        """The main line of a peer goes on to its next pause."""
        peer.sleeps += peer.sleeps % 2  # even: it is awake
        try:
            pause = next(peer.line)
        except StopIteration:
            self.clock.tell(f"peer {peer.me} ends")
            self.network.end(peer)
            self.n_ended += 1
            made = peer.state.n - peer.assembly.opened_n if peer.state is not None else 0
            assert made >= peer.assembly.n_wakings, f"peer {peer.me} ends after {made} wakings of its epoch"
            return
        if isinstance(pause, Compute):
            pace = SLOW if peer.me == self.what.slow else 1.0
            while_s = min(self.clock.soon(pace * self.what.compute), MAX_COMPUTE_S)
            self.network.later(peer, while_s, lambda: self.resume(peer))
            return
        peer.sleeps += 1
        if pause.until_s < math.inf:
            number = peer.sleeps

            def wake() -> None:
                if peer.sleeps == number:
                    self.resume(peer)

            self.network.later(peer, max(pause.until_s - peer.now, 1e-9), wake)

    def give_up(self, peer: Peer) -> None:
        """A peer that was away is not heard of any more: that is for runs that are over meanwhile."""
        assert self.what.is_short, f"peer {peer.me} is not heard of, and {self.where()}"
        self.happened["away for good"] += 1
        self.clock.tell(f"peer {peer.me} gives up")
        peer.say(peer.assembly.part("not heard of"))
        self.network.end(peer)

    def do(self, deed: Deed) -> None:
        """Something happens to a peer, if it can."""
        i, kind = deed.who, deed.kind
        peer = self.peers.get(i)
        if (kind in ("loss", "leave") and not self.is_known(i)) or (kind == "return" and i not in self.away):
            self.clock.later(UNIT_S, lambda: self.do(deed))
            return
        self.pending -= 1
        if kind in ("join", "return"):
            self.happened[kind] += 1
            self.away.discard(i)
            self.start(i, newest=False)
        elif kind == "crash":
            if peer is not None and peer.alive:
                self.happened["crash"] += 1
                self.clock.tell(f"peer {i} crashes")
                self.network.kill(peer)
                self.pending += 1
                self.clock.later(self.clock.soon(DEPARTURE_S / 2), lambda: self.again(i))
        else:
            self.happened["loss for good" if kind == "loss" else kind] += 1
            self.away.add(i)
            if peer is not None and peer.alive:
                self.clock.tell(f"peer {i} {'is lost' if kind == 'loss' else 'leaves'}")
                if kind == "leave":
                    peer.leave()
                    self.network.end(peer)
                else:
                    self.network.kill(peer)

    def is_known(self, i: PeerId) -> bool:
        """Whether anybody knows this peer's samples.

        For an initial member that goes before, the others would wait for ever; real ones, as long as
        their patience lasts.
        """
        return i >= self.what.n_agents or any(
            peer.alive and i not in peer.membership.missing for j, peer in self.peers.items() if j != i
        )

    def again(self, i: PeerId) -> None:
        """A crashed peer is started again, unless it has been lost meanwhile."""
        self.pending -= 1
        if i not in self.away and not self.peers[i].alive:
            self.start(i)

    # ---- what must hold --------------------------------------------------------------------

    def age(self, flow: Flow) -> tuple[int, int]:
        """In which life of its sender a flow was made, and after which push, whatever its stamp says."""
        return self.made[flow.sender, flow.epoch, flow.stamp]

    def note_taken(self, peer: Peer, flow: Flow) -> None:
        """A peer has taken a flow."""
        link = flow.sender, peer.me
        self.taken[link] = max(self.age(flow), self.taken.get(link, (0, 0)))

    def check_drop(self, peer: Peer, error: RemoteError, message: Message | None) -> None:
        """Only what is garbled, or old, or of another epoch may be dropped."""
        if message is None:
            assert isinstance(error, WireError), f"{error.cause}: {error}"
            return
        assert isinstance(message, Flow), f"{error.cause}: {error}"
        if message.epoch == peer.flows.epoch:
            assert error.cause in ("stale", "duplicate"), f"{error.cause}: {error}"
            is_new = self.age(message) > self.taken.get((message.sender, peer.me), (0, -1))
            assert not is_new, f"what is newer than all before it was refused: {error}"

    def check_view(self, peer: Peer) -> None:
        """What a peer knows of the others only grows, and no farther than there are peers."""
        i, membership = peer.me, peer.membership
        for j, standing in membership.standings.items():
            before = peer.generations.get(j, 0)
            assert standing.generation >= before, f"peer {i} goes back to generation {standing.generation} of {j}"
            peer.generations[j] = standing.generation
        n_known, n_ever = len(membership.standings), len(self.what.problems)
        assert n_known <= n_ever, f"peer {i} knows {n_known} peers of {n_ever}"

    def check(self, peer: Peer) -> None:
        """(17) at the peer whose flows have changed, which is all that has; what it holds is finite and bounded."""
        i, flows = peer.me, peer.flows
        held = [flows.mass.high, flows.mass.low, -flows.source]
        held += [sums for j in flows.neighbors for sums in (flows.pushed(j), -flows.absorbed(j))]
        stack = np.stack(held)
        self.largest = max(self.largest, float(np.abs(stack).max()))
        assert self.largest < 1e6, f"peer {i} holds numbers of size {self.largest:.1e}"  # nan also
        assert flows.held <= 5 * len(flows.neighbors), f"peer {i} holds {flows.held} vectors"
        self.check_sum(stack.sum(axis=0), len(stack))
        for j in flows.neighbors:
            stamp, last = flows.newest(j), peer.stamps.get(j)
            if last is not None:
                assert stamp is not None, f"peer {i} forgot that it heard {j}"
                assert stamp >= last, f"peer {i} goes back to {stamp} of {j} from {last}"
            if stamp is not None:
                peer.stamps[j] = stamp
        if all(n == 1 for n in self.starts.values()):
            # what is pushed is rounded to what the running sums can hold, up or down
            assert -1e-12 < flows.phi < len(flows.members) + 1e-12, f"the weight of peer {i} is {flows.phi}"

    def check_all(self) -> None:
        """(17) as it is written: over all members of an epoch, with what is on its way."""
        alive = {i: peer.flows for i, peer in self.peers.items() if peer.alive and peer.flows.members}
        for epoch in {machine.epoch for machine in alive.values()}:
            flows = {i: machine for i, machine in alive.items() if machine.epoch == epoch}
            members = next(iter(flows.values())).members
            assert all(machine.members == members for machine in flows.values()), f"epoch {epoch} is of other members"
            if set(members) <= flows.keys():
                self.happened["looks at all members of an epoch"] += 1
                terms = [part for m in flows.values() for part in (m.mass.high, m.mass.low, -m.source)]
                terms += [m.pushed(j) - flows[j].absorbed(i) for i, m in flows.items() for j in members if j != i]
                self.check_sum(np.sum(terms, axis=0), len(terms))

    def check_sum(self, total: Vector, n_terms: int) -> None:
        """A sum is 0, but for the rounding of the sum itself: each term may be of the largest size so far."""
        off, bound = float(np.abs(total).max()), 2.0**-53 * n_terms**2 * self.largest
        assert off <= bound, f"(17) is broken by {off:.1e}, where rounding may take {bound:.1e}"

    def check_views(self) -> None:
        """All that are left agree on who is."""
        for i in self.what.left:
            peer = self.peers[i]
            same = peer.flows.members == peer.membership.members == self.what.left
            assert same, f"peer {i} takes {peer.membership.members} for the members, not {self.what.left}"
        assert len({self.peers[i].flows.epoch for i in self.what.left}) == 1, self.where()

    def check_objective(self) -> None:
        """Every peer's estimate of G is G, as exactly as it knows the optimum."""
        exact = sum(problem.value(self.goal) for problem in self.final.values())
        for i in self.what.left:
            state = self.peers[i].state
            assert state is not None
            found = len(self.what.left) * state.objective
            assert abs(found - exact) <= 1e-4 * max(1.0, abs(exact)), f"peer {i} takes G for {found}, not {exact}"


def _shown(message: Message) -> str:
    if isinstance(message, Flow):
        return f"flow {message.stamp} of epoch {message.epoch}"
    if isinstance(message, View):
        parts = (f"{j}:{one.generation}.{one.incarnation}.{one.beat}" for j, one in message.standings.items())
        return f"view {' '.join(parts)}"
    return type(message).__name__.lower()


def play(seed: int, tell: Tell = silent, is_short: bool = False) -> Run:
    """Run a seed and check all that must hold; the run after it.

    Raises
    ------
    AssertionError
        Something does not hold; says what, and how to see it again.
    """
    what = scenario(seed, is_short)
    with replayable(SHORT if is_short else MODE, seed, what):
        run = Run(what, tell)
        run.play()
    return run
