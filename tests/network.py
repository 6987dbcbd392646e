"""Whole runs in one thread, on a network that delays, reorders, repeats and loses, and peers that crash.

Everything here comes from one seed: the problem, the schedule, and what happens to it. What runs
is the code that real peers run, `Session` with `Rounds` and `Roster`, `agent`
and `wire`; what stands in is `peer.process`: the event loop, the sockets and the disk.

`python -m tests.network --seed 7` tells what happens to seed 7.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import Final, TypeAlias, final

import numpy as np

from peer import agent, wire
from peer.arrays import DTYPES, rounded
from peer.checkpoint import Checkpoint
from peer.errors import RemoteError
from peer.messages import Hello, Message, Share
from peer.optim.losses import Loss, Squared, cross_entropy
from peer.optim.models import MLP
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant, Diminishing, StepRule
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from peer.roster import Roster
from peer.rounds import MEETINGS, Rounds
from peer.session import Outgoing, Session
from topology import PeerId, Schedule, graphs
from topology.graphs import Graph
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static, union
from topology.weights import metropolis

MAX_EVENTS: Final = 100_000
"""Of a run; a hundred times what the largest of these needs."""

NEWS_T: Final = 0.5
"""`peer.host.NEWS_S`, on the clock of the simulation, where a message takes about 1."""

HARMLESS: Final = frozenset({"stale", "duplicate", "twin", "shape"})
"""What may be dropped: repetitions, the past, and shares that come before their receiver knows p, which are
sent again. "ahead" or "neighbor" would be a share that is lost for good."""


# ---- what is run ---------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Weather:
    """What happens to a run.

    Parameters
    ----------
    delay : float
        Mean time of a message on its way.
    compute : float
        Mean time of a computation.
    reorder : bool
        Whether shares overtake each other. A Hello is never overtaken by a share of its own
        connection: TCP sees to that, and the meeting before round 0 relies on it.
    duplicate : float
        Probability that a message comes twice.
    breaks : tuple of float
        When a connection breaks.
    crashes : tuple of float
        When a peer is killed, to be resumed from its checkpoint.
    """

    delay: float
    compute: float
    reorder: bool
    duplicate: float
    breaks: tuple[float, ...]
    crashes: tuple[float, ...]


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """A run, and what happens to it; see `scenario`."""

    seed: int
    schedule: Schedule
    n_rounds: int
    every: int
    dtype: str
    ahead: bool
    problems: tuple[Problem, ...]
    initial: tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]
    alpha: float
    rule: StepRule
    weather: Weather
    radii: tuple[float, float, float] | None = None

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.problems)

    def clipping_of(self, i: PeerId) -> agent.Clipping | None:
        """How far an agent believes its neighbors."""
        if self.radii is None:
            return None
        return agent.Clipping(*self.radii, union(self.schedule, self.n_rounds).neighbors(i))

    def __str__(self) -> str:
        problem = self.problems[0]
        parts = [problem.surrogate, problem.data.loss, problem.regularizer, self.schedule]
        kinds = ", ".join(type(part).__name__ for part in parts)
        every = f"checkpoint every {self.every}, y ahead: {self.ahead}"
        clipping = f"radii {self.radii}"
        return (
            f"{self.n_agents} peers, {self.n_rounds} rounds, {kinds}, {self.dtype}, {every}, {clipping}, {self.weather}"
        )


def scenario(seed: int) -> Scenario:
    """The run of a seed."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    n_agents, n_rounds = rng.randint(2, 6), rng.randint(4, 12)
    every = rng.choice((0, 1, 2, 3, 5))
    problems = _problems(n_agents, rng, numbers)
    model = problems[0].data.model
    alpha = rng.choice((0.1, 0.3, 1.0))
    length = 4.0 * n_rounds
    breaks = rng.choice((0, 0, 1, 4, 15))
    crashes = rng.choice((0, 1, 2, 6)) if every else 0  # without checkpoints there is nothing to resume
    weather = Weather(
        delay=rng.choice((0.1, 1.0, 3.0)),
        compute=rng.choice((0.1, 1.0)),
        reorder=rng.random() < 0.5,
        duplicate=rng.choice((0.0, 0.0, 0.1, 0.5)),
        breaks=tuple(sorted(rng.uniform(0.0, length) for _ in range(breaks))),
        crashes=tuple(sorted(rng.uniform(0.0, length) for _ in range(crashes))),
    )
    same = numbers.normal(size=model.layout.size) if rng.random() < 0.5 else None
    return Scenario(
        seed=seed,
        schedule=_schedule(n_agents, n_rounds, rng),
        n_rounds=n_rounds,
        every=every,
        dtype=rng.choice(("f8", "f8", "f4")),
        ahead=rng.random() < 0.5,
        problems=problems,
        initial=tuple(numbers.normal(size=model.layout.size) if same is None else same for _ in problems),
        alpha=alpha,
        rule=Diminishing(0.5) if rng.random() < 0.5 else Constant(),
        weather=weather,
        radii=random.Random(f"radii of {seed}").choice((None, None, None, (1.0, 0.1, 0.1))),
    )


def _problems(n_agents: int, rng: random.Random, numbers: np.random.Generator) -> tuple[Problem, ...]:
    loss, q = rng.choice((("squared", 1), ("squared", 2), ("cross_entropy", 1), ("cross_entropy", 3)))
    model = MLP((2, *rng.choice(((), (2,), (3,))), q), "tanh")
    strength = np.full(model.layout.size, 0.01)
    regularizers: Sequence[Regularizer] = (NoRegularizer(), L2(strength), L1(strength))
    surrogates: Sequence[Surrogate] = (Full(2.0), Partial(0.5), Partial(0.5, float(n_agents)))
    regularizer, surrogate = rng.choice(regularizers), rng.choice(surrogates)
    sizes = [rng.randint(1, 4) for _ in range(n_agents)]

    def targets(m: int) -> Loss:
        if loss == "squared":
            return Squared(numbers.normal(size=(m, q)))
        return cross_entropy(numbers.integers(0, max(q, 2), size=m), q)

    datas = (Data(model, numbers.normal(size=(m, 2)), targets(m), 1.0 / sum(sizes)) for m in sizes)
    return tuple(Problem(data, regularizer, surrogate, 1e-8) for data in datas)


def _schedule(n_agents: int, n_rounds: int, rng: random.Random) -> Schedule:
    base = rng.choice((graphs.ring, graphs.star, graphs.complete, graphs.grid))(n_agents)
    families: Sequence[Callable[[], Schedule]] = (
        lambda: Static(base),
        lambda: RandomLinks(base, rng.uniform(0.2, 0.9), rng.randrange(2**32)),
        lambda: Matchings(base, rng.randrange(2**32)),
        lambda: OnePeerExponential(n_agents),
        lambda: Replay(n_agents, tuple(_sparse(base, rng) for _ in range(rng.randint(1, n_rounds)))),
    )
    while True:
        schedule = rng.choice(families)()
        if union(schedule, n_rounds).is_connected():
            return schedule


def _sparse(base: Graph, rng: random.Random) -> Graph:
    kept = [edge for edge in sorted(base.edges) if rng.random() < 0.5]
    return Graph(base.n_agents, frozenset(kept if rng.random() < 0.7 else ()))


def without_network(run: Scenario) -> list[list[agent.State]]:
    """States of all agents at the start of rounds 0..n_rounds, by round: what every peer must arrive at."""
    dtype = DTYPES[run.dtype]
    states = [agent.initial(g, w, run.alpha) for g, w in zip(run.problems, run.initial, strict=True)]
    history = [states]
    for n in range(run.n_rounds):
        graph = run.schedule.graph(n)
        proposals = [agent.propose(g, s, run.n_agents) for g, s in zip(run.problems, states, strict=True)]
        shares = [
            Share(i, n, 0, state.objective, rounded(state.y, dtype), rounded(proposal.z, dtype))
            for i, (state, proposal) in enumerate(zip(states, proposals, strict=True))
        ]
        states = [
            agent.absorb(
                run.problems[i],
                states[i],
                proposals[i],
                {j: shares[j] for j in graph.neighbors(i)},
                metropolis(graph, i),
                run.rule,
                dtype,
                run.clipping_of(i),
            )
            for i in range(run.n_agents)
        ]
        history.append(states)
    return history


# ---- a peer --------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Compute:
    """The main line of a peer works for a while, and messages are served."""


@final
@dataclass(frozen=True)
class Until:
    """The main line of a peer waits for something that a message brings about.

    `prompt`: it takes in the messages itself, so that none more is taken when it is there.
    """

    condition: Callable[[], bool]
    prompt: bool = False


Line: TypeAlias = Generator[Compute | Until, None, None]


class Peer:
    """One process of one peer; names and order are those of `peer.rounds_mode.RoundsLife`.

    Parameters
    ----------
    me : int
        Which peer.
    network : Network
        Everything outside.
    incarnation : int
        How often this peer was started before.
    last : Checkpoint or None
        To be resumed from.
    """

    def __init__(self, me: PeerId, network: Network, incarnation: int, last: Checkpoint | None) -> None:
        run = network.run
        self.me, self.network, self.last, self.scenario = me, network, last, run
        self.neighbors = union(run.schedule, run.n_rounds).neighbors(me)
        data = run.problems[me].data
        self.roster = Roster(
            me=me,
            instance=f"process {incarnation} of peer {me}",
            incarnation=incarnation,
            settings={"seed": str(run.seed)},
            n_agents=run.n_agents,
            n_samples=len(data.inputs),
            n_classes=0,
        )
        if last is not None:
            self.roster.restore(last.n_samples, last.n_classes)
        first = 0 if last is None else last.n
        self.rounds = Rounds(me, run.schedule, run.n_rounds, 1.0, run.every, n=first, floor=first)
        if last is not None:
            self.rounds.keep(last.kept)
        self.session = Session(self.neighbors, self.roster, self.rounds)
        self.form = wire.Format("simulated", run.n_agents, 0, run.dtype)
        self.dropped: Counter[str] = Counter()
        self.state: agent.State | None = None
        self.news = False
        self.crashed = False
        self.line = self.work()
        self.waits_for: Until | None = None

    # ---- connections and messages ----------------------------------------------------------

    def connected(self, j: PeerId) -> None:
        """A connection to a neighbor is up."""
        self.say(self.session.connected(j))

    def disconnected(self, j: PeerId) -> None:
        """A connection to a neighbor broke."""
        self.session.disconnected(j)

    def say(self, messages: Outgoing) -> None:
        """Send; a share that is not sent is sent again when its connection is up."""
        for j, message in messages:
            if not self.network.send(self.me, j, message, wire.encode(message, self.form)):
                self.session.disconnected(j)

    def take(self, frames: list[bytes]) -> None:
        """Take in one message, or drop it."""
        try:
            self.say(self.session.receive(wire.decode(frames, self.form)))
        except RemoteError as error:
            self.dropped[error.cause] += 1
            if error.cause not in HARMLESS:
                raise AssertionError(f"peer {self.me} dropped what it needs: {error.cause}: {error}") from error
        if self.session.has_news and not self.news:
            self.news = True
            self.network.later(NEWS_T, self.spread)

    def spread(self) -> None:
        """Tell all neighbors what was learned of the others."""
        self.news = False
        if not self.crashed:
            self.say(self.session.spread())

    # ---- the run ---------------------------------------------------------------------------

    def work(self) -> Line:
        """From the first Hello to the last Bye."""
        yield Until(lambda: not self.roster.missing, prompt=True)
        self.say(self.session.begin())
        state = self.begin()
        yield from self.train(state)
        self.say(self.session.part(""))
        yield Until(lambda: not self.session.absent)

    def begin(self) -> agent.State:
        """The first state."""
        run, last = self.scenario, self.last
        self.form = replace(self.form, n_parameters=run.initial[self.me].size)
        if last is not None:
            state = agent.State(n=last.n, **last.vectors, **last.scalars)  # type: ignore[arg-type]
        else:
            state = agent.initial(run.problems[self.me], run.initial[self.me], run.alpha)
        self.network.reached(self.me, state)
        if run.every:
            self.network.disk[self.me] = self.snapshot(state)
        return state

    def train(self, state: agent.State) -> Line:
        """All rounds."""
        run = self.scenario
        while state.n < run.n_rounds:
            state = yield from self.round(state)
            self.network.reached(self.me, state)
            if run.every == 0:
                self.rounds.floor = state.n
            elif state.n % run.every == 0 or state.n == run.n_rounds:
                snapshot = self.snapshot(state)
                yield Compute()
                self.network.disk[self.me] = snapshot
                self.rounds.floor = state.n

    def round(self, state: agent.State) -> Generator[Compute | Until, None, agent.State]:
        """One round of NEXT; the state after it."""
        run, problem, rounds = self.scenario, self.scenario.problems[self.me], self.rounds
        rounds.begin()
        self.network.began(self.me, rounds.n)
        if run.ahead:
            self.offer(state, state.y, None)
        yield Compute()
        proposal = agent.propose(problem, state, run.n_agents)
        self.offer(state, None if run.ahead else state.y, proposal.z)
        yield Until(lambda: not rounds.missing)
        shares = rounds.advance()
        weights, clipping = metropolis(run.schedule.graph(state.n), self.me), run.clipping_of(self.me)
        yield Compute()
        return agent.absorb(problem, state, proposal, shares, weights, run.rule, DTYPES[run.dtype], clipping)

    def offer(
        self,
        state: agent.State,
        y: np.ndarray[tuple[int], np.dtype[np.float64]] | None,
        z: np.ndarray[tuple[int], np.dtype[np.float64]] | None,
    ) -> None:
        """Send the own share, or a piece of it, to the neighbors of the round."""
        self.say(self.session.offer(state.objective, y, z))

    def snapshot(self, state: agent.State) -> Checkpoint:
        """Checkpoint at the start of a round."""
        numbers = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "n"}
        vectors = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
        scalars = {name: value for name, value in numbers.items() if name not in vectors}
        kept = tuple(share for share in self.rounds.kept() if share.n < state.n)
        counts, n_classes = dict(self.roster.counts), self.roster.n_classes
        return Checkpoint("simulated", "", state.n, counts, n_classes, vectors, scalars, kept)


# ---- the network ---------------------------------------------------------------------------


@final
@dataclass(eq=False)
class Link:
    """The connection that peer i opened to peer j, over which i sends.

    `writable`: `send` takes messages, also while a break is not noticed yet, when they are lost.
    `number` counts connections: what was sent over an older one does not arrive.
    """

    writable: bool = False
    alive: bool = False
    number: int = 0
    told: float = 0.0
    hello: float = 0.0
    last: float = 0.0


class Network:
    """A run of a scenario.

    Parameters
    ----------
    run : Scenario
        What to run.
    tell : callable
        Takes a line for everything that happens.
    """

    def __init__(self, run: Scenario, tell: Callable[[str], None] = lambda line: None) -> None:
        self.run, self._tell = run, tell
        self._rng = random.Random(f"network {run.seed}")
        self.starts: Counter[PeerId] = Counter()
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self.now = 0.0
        self.n_events = 0
        ever = union(run.schedule, run.n_rounds)
        self.links = {(i, j): Link() for i in range(run.n_agents) for j in ever.neighbors(i)}
        self.disk: dict[PeerId, Checkpoint] = {}
        self.peers: dict[PeerId, Peer] = {}
        self.finished: set[PeerId] = set()
        self.history: dict[tuple[PeerId, int], agent.State] = {}
        self.farthest = [-1] * run.n_agents
        self.most_held = self.most_kept = 0
        self.happened: Counter[str] = Counter()

    def tell(self, line: str) -> None:
        """One line on what happens now."""
        self._tell(f"{self.now:8.3f}  {line}")

    def later(self, delay: float, event: Callable[[], object]) -> None:
        """Something that happens after a while."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def _soon(self, mean: float = 1.0) -> float:
        return self._rng.expovariate(1.0 / mean)

    def play(self) -> None:
        """Everything, until nothing happens any more; all peers must be done then."""
        for i in range(self.run.n_agents):
            self.later(self._soon(), lambda i=i: self.start(i))  # type: ignore[misc]
        for at in self.run.weather.breaks:
            self.later(at, self.break_some)
        for at in self.run.weather.crashes:
            self.later(at, self.crash_one)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self.check_bounds()
            self.n_events += 1
            if self.n_events > MAX_EVENTS:
                raise AssertionError("it never ends")
        stuck = [self._state_of(peer) for _, peer in sorted(self.peers.items()) if not peer.session.complete]
        if stuck:
            raise AssertionError(f"nothing happens any more, and there wait {'; '.join(stuck)}")

    def _state_of(self, peer: Peer) -> str:
        return f"peer {peer.me} in round {peer.rounds.n} for {peer.rounds.missing or peer.roster.missing}"

    # ---- processes -------------------------------------------------------------------------

    def start(self, i: PeerId) -> None:
        """A process of peer i starts, from its checkpoint if it has one."""
        last = self.disk.get(i)
        peer = self.peers[i] = Peer(i, self, self.starts[i], last)
        self.starts[i] += 1
        self.tell(f"peer {i} starts in round {peer.rounds.n}, incarnation {peer.roster.incarnation}")
        for a, b in self.links:
            if i in (a, b):
                self.reconnect(a, b)
        self.resume(peer)

    def resume(self, peer: Peer) -> None:
        """The main line of a peer goes on to its next pause."""
        if peer.crashed:
            return
        peer.waits_for = None
        try:
            pause = next(peer.line)
        except StopIteration:
            self.leave(peer)
            return
        if isinstance(pause, Compute):
            self.later(self._soon(self.run.weather.compute), lambda: self.resume(peer))
            return
        peer.waits_for = pause
        self.wake(peer)

    def wake(self, peer: Peer) -> None:
        """What a peer waits for may be there."""
        pause = peer.waits_for
        if pause is None or not pause.condition():
            return
        peer.waits_for = None
        if pause.prompt:
            self.resume(peer)
        else:  # other messages may be taken in before
            self.later(self._soon(0.1), lambda: self.resume(peer))

    def leave(self, peer: Peer) -> None:
        """A process ends by itself; what it sent arrives."""
        self.tell(f"peer {peer.me} leaves")
        peer.crashed = True
        self.finished.add(peer.me)
        for i, j in self.links:
            if peer.me == j:
                self.cut(i, j)
            elif peer.me == i:
                self.links[i, j].writable = False

    def crash_one(self) -> None:
        """Some peer is killed: before its first checkpoint, in its rounds, or while others may need it still."""
        able = sorted(i for i, peer in self.peers.items() if not peer.crashed)
        if not able:
            return
        i = self._rng.choice(able)
        self.tell(f"peer {i} crashes in round {self.peers[i].rounds.n}")
        self.happened["crash"] += 1
        self.happened["crash at birth"] += i not in self.disk
        self.happened["crash when complete"] += self.peers[i].session.complete
        self.peers[i].crashed = True
        for a, b in self.links:
            if b == i:
                self.cut(a, b)
            elif a == i:
                link = self.links[a, b]
                link.writable = link.alive = False
                link.number += self._rng.random() < 0.5  # what it sent may arrive still
        self.later(self._soon(5.0), lambda: self.start(i))

    def reached(self, i: PeerId, state: agent.State) -> None:
        """Agent i is at the start of a round; a resumed one must come to the same state again."""
        before = self.history.setdefault((i, state.n), state)
        for item in fields(state):
            same = np.array_equal(getattr(before, item.name), getattr(state, item.name))
            assert same, f"peer {i} comes to another {item.name} in round {state.n} after it was resumed"

    def began(self, i: PeerId, n: int) -> None:
        """Peer i begins round n: none it meets may be left behind farther than one meeting."""
        self.tell(f"peer {i} begins round {n}")
        self.farthest[i] = max(self.farthest[i], n)
        for j in self.peers[i].neighbors:
            between = [m for m in range(max(self.farthest[j], 0), n) if j in self.run.schedule.graph(m).neighbors(i)]
            assert len(between) <= 1, f"peer {i} is in round {n}, peer {j} no farther than {self.farthest[j]}"

    def check_bounds(self) -> None:
        """The memory that a peer needs for each neighbor."""
        for peer in self.peers.values():
            held = max((len({n for n, _ in peer.rounds.held_of(j)}) for j in peer.neighbors), default=0)
            self.most_held = max(self.most_held, held)
            self.most_kept = max(self.most_kept, len(peer.rounds.kept()))
            catch_up = self.run.every if self.happened["crash"] else 0
            assert held <= MEETINGS + catch_up, f"peer {peer.me} holds {held} shares of one neighbor"
            # for each neighbor, the meetings from the floor that it said at the last one to that one; and this round
            kept_bound = len(peer.neighbors) * max(self.run.every, 1) + 1
            assert len(peer.rounds.kept()) <= kept_bound, f"peer {peer.me} keeps {len(peer.rounds.kept())} shares"

    # ---- connections -----------------------------------------------------------------------

    def reconnect(self, i: PeerId, j: PeerId) -> None:
        """Peer i tries to connect to peer j, until it succeeds, or one of them is not there."""
        self.later(self._soon(), lambda: self.connect(i, j))

    def connect(self, i: PeerId, j: PeerId) -> None:
        """A connection from i to j is up; i is told a little later, and may have used it by then."""
        link = self.links[i, j]
        there = all(k in self.peers and not self.peers[k].crashed for k in (i, j))
        if link.writable or not there:
            return
        link.writable = link.alive = True
        link.number += 1
        link.hello = link.last = self.now
        self._callback(i, j, self.peers[i].connected, "connected")

    def _callback(self, i: PeerId, j: PeerId, function: Callable[[PeerId], None], what: str) -> None:
        link, peer = self.links[i, j], self.peers[i]
        link.told = max(link.told, self.now + self._soon(0.2))

        def call() -> None:
            if not peer.crashed:
                self.tell(f"peer {i} is {what} {'to' if what == 'connected' else 'from'} {j}")
                function(j)

        self.later(link.told - self.now, call)

    def break_some(self) -> None:
        """A connection breaks, or both between two peers."""
        alive = [ends for ends, link in sorted(self.links.items()) if link.alive]
        if not alive:
            return
        i, j = self._rng.choice(alive)
        self.happened["break"] += 1
        self.cut(i, j)
        if self._rng.random() < 0.5:
            self.cut(j, i)

    def cut(self, i: PeerId, j: PeerId) -> None:
        """The connection of i to j breaks: what is on its way is lost, and what is sent until i notices."""
        link = self.links[i, j]
        if not link.alive:
            return
        self.tell(f"the connection {i} -> {j} breaks")
        link.alive = False
        link.number += 1
        number, peer = link.number, self.peers[i]

        def notice() -> None:
            if not peer.crashed and link.number == number:
                link.writable = False
                self._callback(i, j, peer.disconnected, "disconnected")
                self.reconnect(i, j)

        self.later(self._soon(), notice)

    # ---- messages --------------------------------------------------------------------------

    def send(self, i: PeerId, j: PeerId, message: Message, frames: Sequence[wire.Frame]) -> bool:
        """Take frames for their way; False where the connection is known to be down."""
        link, weather = self.links[i, j], self.run.weather
        if not link.writable:
            self.tell(f"{i} -> {j}  not connected: {_shown(message)}")
            return False
        self.tell(f"{i} -> {j}  {_shown(message)}{'' if link.alive else ', lost'}")
        if link.alive:
            copies = 1 + (self._rng.random() < weather.duplicate)
            self.happened["duplicate"] += copies - 1
            for _ in range(copies):
                at = max(self.now + self._soon(weather.delay), link.hello if weather.reorder else link.last)
                link.last = max(link.last, at)
                if isinstance(message, Hello):
                    link.hello = max(link.hello, at)
                self._deliver(i, j, at, message, frames)
        return True

    def _deliver(self, i: PeerId, j: PeerId, at: float, message: Message, frames: Sequence[wire.Frame]) -> None:
        link, receiver = self.links[i, j], self.peers[j]
        number = link.number

        def arrive() -> None:
            if link.number != number or receiver.crashed:
                return
            self.tell(f"{i} => {j}  {_shown(message)}")
            receiver.take([bytes(frame) for frame in frames])  # copied now: nobody may have changed them meanwhile
            self.wake(receiver)

        self.later(at - self.now, arrive)


def _shown(message: Message) -> str:
    if isinstance(message, Share):
        parts = "".join(part for part in wire.PARTS if getattr(message, part) is not None)
        return f"share {message.n}{parts}, floor {message.floor}"
    if not isinstance(message, Hello):
        return type(message).__name__.lower()
    held = " ".join(f"{n}{part}" for n, part in message.held)
    return f"{message.purpose}, in round {message.n}, has [{held}], knows {sorted(message.n_samples)}"


def play(seed: int, tell: Callable[[str], None] = lambda line: None) -> Network:
    """Run a seed and check all that must hold; the network after it.

    Raises
    ------
    AssertionError
        Something does not hold; says what, and how to see it again.
    """
    run = scenario(seed)
    network = Network(run, tell)
    try:
        network.play()
        check(run, network)
    except Exception as error:
        again = f"replay it by: python -m tests.network --seed {seed}"
        raise AssertionError(f"seed {seed}: {error or type(error).__name__}\n{run}\n{again}") from error
    return network


def check(run: Scenario, network: Network) -> None:
    """Every state is that of the run without a network, bit for bit, and (9) holds in every round."""
    for n, expected in enumerate(without_network(run)):
        states = [network.history[i, n] for i in range(run.n_agents)]
        for i, (state, wanted) in enumerate(zip(states, expected, strict=True)):
            for item in fields(agent.State):
                found = getattr(state, item.name)
                same = np.array_equal(found, getattr(wanted, item.name))
                assert same, f"{item.name} of peer {i} in round {n} is not that of the run without a network"
        trackers, gradients = (sum(getattr(state, name) for state in states) for name in ("y", "gradient"))
        largest = max(float(np.abs(state.y).max()) for state in states)
        largest = max(largest, *(float(np.abs(state.gradient).max()) for state in states))
        off = float(np.abs(trackers - gradients).max())
        # each round rounds a few sums of a few numbers of the largest size so far
        assert off <= 1e-15 * run.n_agents * 8 * (n + 1) * max(largest, 1.0), f"(9) is broken by {off} in round {n}"


def main() -> None:
    """Tell what happens to one seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.network", description=main.__doc__)
    parser.add_argument("--seed", type=int, required=True)
    seed = parser.parse_args().seed
    print(scenario(seed))
    network = play(seed, print)
    print(f"as it should be; {network.n_events} events, {dict(network.happened)}, at most {network.most_held} held")


if __name__ == "__main__":
    main()
