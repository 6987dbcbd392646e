"""Whole runs in rounds, in one thread, on a network that does what `tests.network` says, with peers that crash.

Everything here comes from one seed: the problem, the schedule, and what happens to it. What runs
is the code that real peers run, `Session` with `Rounds` and `Roster`, `agent`
and `wire`; what stands in is the event loop, the sockets and the disk.

A peer that crashed is resumed from its last checkpoint, or begins anew where it had none. With the last one on the
disk a peer tells its neighbors, by its floor, what it will never ask for again, and they forget it. So one that was
resumed from an older checkpoint may find that it is outdated: then it leaves without a word, and comes back from the
last one. If it does not find that, nothing that it needs is forgotten, and it comes to the same states again.

`python -m tests.simulate --mode rounds --seed 7` tells what happens to seed 7.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, final

import numpy as np
from msgspec import structs

from peer import agent, gossip, stopping, validation, wire
from peer.actor import Actor
from peer.alignment import Watch
from peer.arrays import DTYPES
from peer.careful import Caution
from peer.checkpoint import Checkpoint
from peer.errors import RemoteError, WireError
from peer.gossip import Course
from peer.links import Drawn, Replicas, steady
from peer.messages import PARTS, Hello, Message, Outgoing, Share
from peer.methods import ExactDiffusion, Extra, GradientDescent, GradientTracking, Method, Next
from peer.optim import feedback
from peer.optim.blocks import equal
from peer.optim.chains import Chain, mlp
from peer.optim.losses import Loss, Squared, cross_entropy
from peer.optim.regularizers import L1, L2, NoRegularizer, Regularizer
from peer.optim.steps import Constant, Diminishing
from peer.optim.surrogates import Data, Full, Partial, Surrogate
from peer.problem import Problem
from peer.renewal import Renewal
from peer.roster import Roster
from peer.rounds import MEETINGS, Rounds
from peer.session import Session
from peer.simulation import heard
from tests.network import RUN_ID, Network, Weather, weather
from tests.simulated import Clock, Outcome, Tell, batched, replayable, silent, sizes_of
from topology import PeerId, Schedule, graphs
from topology.gossip import Gossip, make, plain
from topology.graphs import Graph
from topology.schedules import Matchings, OnePeerExponential, RandomLinks, Replay, Static
from topology.weights import RULES, Fastest, Weights
from topology.windows import union, window_end

MODE: Final = "rounds"
"""What the command calls these runs."""

QUEUE_MESSAGES: Final = 1_000
"""`peer.transport.QUEUE_MESSAGES`."""

MAX_EVENTS: Final = 100_000
"""Of a run; a hundred times what the largest of these needs."""

NEWS_T: Final = 0.5
"""`peer.host.NEWS_S`, on the clock of the simulation, where a message takes about 1."""

SLOW: Final = 10.0
"""How much slower than the others a slow peer computes."""

HARMLESS: Final = frozenset({"stale", "duplicate", "twin", "shape"})
"""What may be dropped: repetitions, the past, and shares that come before their receiver knows p, which are
sent again. "ahead" or "neighbor" would be a share that is lost for good."""


# ---- what is run ---------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """A run, and what happens to it; see `scenario`."""

    seed: int
    actors: tuple[Actor, ...]
    initial: tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]
    every: int
    dtype: str
    ahead: bool
    weather: Weather
    compute: float
    slow: PeerId | None
    crashes: tuple[float, ...]

    @property
    def first(self) -> Actor:
        """The first of the agents, which are alike in all but their data."""
        return self.actors[0]

    @property
    def form(self) -> wire.Format:
        """Of messages, before p is known."""
        coding = self.first.coding
        fraction = coding.fraction if isinstance(coding, Drawn | Replicas) else 1.0
        has_places = isinstance(coding, Replicas) and fraction < 1.0
        return wire.Format(RUN_ID, self.n_agents, 0, self.dtype, self.first.method.parts, fraction, has_places)

    @property
    def schedule(self) -> Schedule:
        """Who meets whom in an exchange."""
        return self.first.schedule

    @property
    def n_rounds(self) -> int:
        """Rounds of the run, at most."""
        return self.first.n_rounds

    @property
    def n_steps(self) -> int:
        """Exchanges of a round."""
        return self.first.gossip.n_steps

    @property
    def n_exchanges(self) -> int:
        """Exchanges of the run, at most."""
        return self.n_rounds * self.n_steps

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.actors)

    def __str__(self) -> str:
        one, problem = self.first, self.first.problem
        parts = [problem.surrogate, problem.data.loss, problem.regularizer, self.schedule]
        kinds = ", ".join([*(type(part).__name__ for part in parts), named(one.weights)])
        exchanges = f"{self.n_steps} {'plain' if one.gossip.is_plain else 'chebyshev'} exchanges each"
        every = f"checkpoint every {self.every}, y ahead: {self.ahead}, {one.clipping}, tolerance {one.tolerance}"
        every += f", held out {one.held_out is not None}, patience {one.patience}, coding {one.coding}"
        every += f", batches {sizes_of([actor.problem for actor in self.actors])}"
        every += f", {one.caution}, {one.renewal}, feedback {one.watch and one.watch.grace}, {one.method}"
        what = f"{self.n_agents} peers, {self.n_rounds} rounds, {exchanges}, {kinds}, {self.dtype}, {every}"
        return f"{what}, compute {self.compute}, slow {self.slow}, crashes {self.crashes}, {self.weather}"


def scenario(seed: int) -> Scenario:
    """The run of a seed."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    n_agents, n_rounds = rng.randint(2, 6), rng.randint(4, 12)
    every = rng.choice((0, 1, 2, 3, 5))
    problems = _problems(n_agents, rng, numbers)
    model = problems[0].data.model
    n_blocks = random.Random(f"blocks of {seed}").choice((1, 1, 2, 3))
    inexactness = random.Random(f"inexactness of {seed}").choice((0.0, 0.0, 0.1, 10.0))
    places = equal(model.layout.size, n_blocks)
    problems = tuple(replace(problem, blocks=places, inexactness=inexactness) for problem in problems)
    problems = batched(problems, seed, random.Random(f"batches of {seed}"))
    alpha = rng.choice((0.1, 0.3, 1.0))
    crashes = rng.choice((0, 1, 2, 6)) if every else 0  # without checkpoints there is nothing to resume
    same = numbers.normal(size=model.layout.size) if rng.random() < 0.5 else None
    schedule = _schedule(n_agents, n_rounds, rng)
    radii = random.Random(f"radii of {seed}").choice((None, None, None, (1.0, 0.1, 0.1)))
    weights = _weights(schedule, random.Random(f"weights of {seed}"), clips=radii is not None)
    way = _gossip(schedule, weights, random.Random(f"gossip of {seed}"), clips=radii is not None)
    length = 4.0 * n_rounds * way.n_steps
    patience = random.Random(f"patience of {seed}").choice((None, None, None, 0, 1, 2, 3)) if radii is None else None
    tolerance = random.Random(f"tolerance of {seed}").choice((0.0, 0.0, 1.0, 3.0, 10.0))
    again = random.Random(f"renewal of {seed}").choice((None, None, None, Renewal(2), Renewal(3), Renewal()))
    problems, watches = _fed(problems, seed) if not (tolerance or again) else (problems, ())  # as settings have it
    method = random.Random(f"method of {seed}").choice((Next(),) * 10 + BASELINES)
    if not isinstance(method, Next):  # as settings have it
        radii, again, watches, tolerance = None, None, (), tolerance if isinstance(method, GradientTracking) else 0.0
        problems, alpha = tuple(replace(problem, feedback=None, inexactness=0.0) for problem in problems), 0.1 * alpha
    whole = radii is not None or tolerance > 0.0 or not way.is_plain or isinstance(weights, Fastest)
    whole = whole or isinstance(method, Extra | ExactDiffusion)
    codings = () if whole else _codings(schedule, n_rounds * way.n_steps, n_agents, seed)
    numbers_as = rng.choice(("f8", "f8", "f4"))
    dtype = next((name for name in DTYPES if codings and DTYPES[name] == codings[0].dtype), numbers_as)
    ahead = rng.random() < 0.5 and not codings
    initial = tuple(numbers.normal(size=model.layout.size) if same is None else same for _ in problems)
    rule = Diminishing(0.5) if rng.random() < 0.5 else Constant()
    held_out = () if patience is None else _held_out(problems)
    caution = _caution(random.Random(f"caution of {seed}"), n_agents, n_blocks) if isinstance(method, Next) else None
    met = union(schedule, n_rounds * way.n_steps)
    actors = tuple(
        Actor(
            me=i,
            problem=problem,
            schedule=schedule,
            n_rounds=n_rounds,
            alpha=alpha,
            method=method,
            rule=rule,
            weights=weights,
            gossip=way,
            wire_dtype=DTYPES[dtype],
            clipping=None if radii is None else agent.Clipping(*radii, met.neighbors(i)),
            coding=codings[i] if codings else None,
            caution=caution,
            renewal=again,
            watch=watches[i] if watches else None,
            held_out=held_out[i] if held_out else None,
            tolerance=tolerance,
            patience=patience or 0,
        )
        for i, problem in enumerate(problems)
    )
    return Scenario(
        seed=seed,
        actors=actors,
        initial=initial,
        every=every,
        dtype=dtype,
        ahead=ahead,
        weather=weather(rng, length, 1.0, reliable=True, narrow=False),
        compute=rng.choice((0.1, 1.0)),
        slow=rng.randrange(n_agents) if rng.random() < 0.3 else None,
        crashes=tuple(sorted(rng.uniform(0.0, length) for _ in range(crashes))),
    )


def _codings(schedule: Schedule, n_exchanges: int, n_agents: int, seed: int) -> tuple[Drawn | Replicas, ...]:
    """Of some runs in which agents may say less than all."""
    rng = random.Random(f"coding of {seed}")
    kind, fraction, dtype = rng.randrange(6), rng.choice((0.2, 0.5)), DTYPES[rng.choice(("f8", "f4", "bf16"))]
    if kind > 2:
        return ()
    if kind == 0:
        return tuple(Drawn(seed, fraction, DTYPES["f8"]) for _ in range(n_agents))
    met, told = union(schedule, n_exchanges), fraction if kind == 1 else 1.0
    return tuple(Replicas(met.neighbors(i), told, steady(told), dtype) for i in range(n_agents))


BASELINES: Final[tuple[Method, ...]] = (
    *(GradientDescent(), GradientDescent(local_steps=3, momentum=0.5), GradientTracking()),
    *(Extra(), ExactDiffusion()),
)
"""The methods that NEXT is compared with, one in three of the runs."""


def _caution(rng: random.Random, n_agents: int, n_blocks: int) -> Caution | None:
    return rng.choice((None, None, Caution(n_agents, 0.5, keeps=n_blocks == 1)))


def _held_out(problems: Sequence[Problem]) -> tuple[Data, ...]:
    """Samples that a model of the others has not seen: these with other signs."""
    return tuple(replace(problem.data, inputs=-problem.data.inputs[:, ::-1]) for problem in problems)


def _fed(problems: tuple[Problem, ...], seed: int) -> tuple[tuple[Problem, ...], tuple[Watch, ...]]:
    """With a full surrogate and a hidden layer, by feedback; agents go back to backprop sooner or later, or never."""
    rng, model = random.Random(f"feedback of {seed}"), problems[0].data.model
    assert isinstance(model, Chain)
    if not isinstance(problems[0].surrogate, Full) or len(feedback.segments(model)) < 2:
        return problems, ()
    every, least, grace = rng.choice((1, 2, 3)), rng.choice((-1.0, 0.0, 0.99)), rng.choice((0, 2, 4))
    way = feedback.drawn(np.random.default_rng(seed), model)
    watches = (Watch(problem.data, every, least, grace) for problem in problems)
    return tuple(replace(problem, feedback=way) for problem in problems), tuple(watches)


def named(weights: Weights) -> str:
    """Weights in the words of the experiment file."""
    return next((name for name, rule in RULES.items() if rule == weights), "fdla")


def _weights(schedule: Schedule, rng: random.Random, *, clips: bool) -> Weights:
    if isinstance(schedule, Static) and not clips and rng.random() < 0.5:
        return Fastest.on(schedule.base)
    return rng.choice(list(RULES.values()))


def _gossip(schedule: Schedule, weights: Weights, rng: random.Random, *, clips: bool) -> Gossip:
    if isinstance(schedule, Static) and not clips:  # few are, so that most of these have a polynomial
        name, n_steps = rng.choice(("plain", "chebyshev", "chebyshev")), rng.choice((1, 2, 3, 4))
        return make(name if n_steps > 1 else "plain", n_steps, schedule, weights)
    return plain(rng.choice((1, 1, 2, 3)))


def _problems(n_agents: int, rng: random.Random, numbers: np.random.Generator) -> tuple[Problem, ...]:
    loss, q = rng.choice((("squared", 1), ("squared", 2), ("cross_entropy", 1), ("cross_entropy", 3)))
    model = mlp((2, *rng.choice(((), (2,), (3,))), q), "tanh")
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
    """States of all agents at the start of each round, and at the end: what every peer must arrive at."""
    states = [actor.begun(w) for actor, w in zip(run.actors, run.initial, strict=True)]
    history = [states]
    while not run.first.is_through(states[0]):
        courses = [gossip.begun(s, actor.proposed(s)) for actor, s in zip(run.actors, states, strict=True)]
        for n in range(states[0].n * run.n_steps, (states[0].n + 1) * run.n_steps):
            courses = [actor.spoken(course) for actor, course in zip(run.actors, courses, strict=True)]
            graph, dtype = run.schedule.graph(n), DTYPES[run.dtype]
            taken = [
                actor.heard(course, {j: heard(j, courses[j], n, i, dtype) for j in graph.neighbors(i)})
                for i, (actor, course) in enumerate(zip(run.actors, courses, strict=True))
            ]
            courses = [course for course, _ in taken]
        states = [state for _, state in taken if state is not None]
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
    run : Run
        Everything outside.
    incarnation : int
        How often this peer was started before.
    last : Checkpoint or None
        To be resumed from.
    """

    def __init__(self, me: PeerId, run: Run, incarnation: int, last: Checkpoint | None) -> None:
        what = run.what
        self.me, self.run, self.last, self.what = me, run, last, what
        self.neighbors = run.ever.neighbors(me)
        self.actor = what.actors[me]
        data = self.actor.problem.data
        self.roster = Roster(
            me=me,
            instance=f"process {incarnation} of peer {me}",
            incarnation=incarnation,
            settings={"seed": str(what.seed)},
            n_agents=what.n_agents,
            n_samples=len(data.inputs),
            n_classes=0,
        )
        if last is not None:
            self.roster.restore(last.n_samples, last.n_classes)
        first = 0 if last is None else last.n * what.n_steps
        catch_up = what.every * what.n_steps
        parts = self.actor.method.parts
        self.rounds = Rounds(me, what.schedule, what.n_exchanges, 1.0, catch_up, n=first, floor=first, parts=parts)
        if last is not None:
            self.rounds.keep(last.kept)
        self.session = Session(self.neighbors, self.roster, self.rounds)
        self.form = what.form
        self.dropped: Counter[str] = Counter()
        self.news = False
        self.alive = True
        self.line = self.work()
        self.waits_for: Until | None = None

    # ---- connections and messages ----------------------------------------------------------

    def connected(self, j: PeerId) -> None:
        """A connection to a neighbor is up."""
        self.say(self.session.connected(j))

    def disconnected(self, j: PeerId) -> None:
        """A connection to a neighbor broke."""
        self.session.disconnected(j)

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one neighbor: the protocol bounds them, see `Run.check_bounds`."""
        return QUEUE_MESSAGES

    def writable(self, j: PeerId) -> None:
        """A connection that was full has room again: cannot be, for the queue is never full."""
        raise AssertionError(f"the connection of peer {self.me} to {j} was full")

    def say(self, messages: Outgoing) -> None:
        """Send; a share that is not sent is sent again when its connection is up."""
        for j, message in messages:
            frames, is_hello = wire.encode(message, self.form), isinstance(message, Hello)
            if not self.run.network.send(self.me, j, _shown(message), frames, barrier=is_hello):
                self.session.disconnected(j)

    def take(self, frames: list[bytes], sender: PeerId, whole: bool) -> None:
        """Take in one message, or drop it; what is waited for may be there then."""
        try:
            message = wire.decode(frames, self.form)
            assert whole, "a garbled message was taken for a whole one"
            self.say(self.session.receive(message))
        except RemoteError as error:
            self.dropped[error.cause] += 1
            expected = error.cause in HARMLESS if whole else isinstance(error, WireError)
            if not expected:
                raise AssertionError(f"peer {self.me} dropped what it needs: {error.cause}: {error}") from error
        if self.session.has_news and not self.news:
            self.news = True
            self.run.network.later(self, NEWS_T, self.spread)
        if self.session.outdated is not None:
            self.run.outdated(self)
            return
        self.run.check_bounds(self)
        self.run.wake(self)

    def spread(self) -> None:
        """Tell all neighbors what was learned of the others."""
        self.news = False
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
        what, last = self.what, self.last
        self.form = replace(self.form, n_parameters=what.initial[self.me].size)
        resumed = None if last is None else agent.State(n=last.n, **last.vectors, **last.scalars)  # type: ignore[arg-type]
        state = self.actor.begun(what.initial[self.me]) if resumed is None else resumed
        self.run.reached(self.me, state)
        if what.every:
            self.run.write(self.me, self.snapshot(state))
        return state

    def train(self, state: agent.State) -> Line:
        """All rounds."""
        what = self.what
        while not self.actor.is_through(state):
            state = yield from self.round(state)
            self.run.reached(self.me, state)
            if what.every == 0:
                self.rounds.floor = state.n * what.n_steps
            elif state.n % what.every == 0 or self.actor.is_through(state):
                snapshot = self.snapshot(state)
                yield Compute()
                self.run.write(self.me, snapshot)
                self.rounds.floor = state.n * what.n_steps

    def round(self, state: agent.State) -> Generator[Compute | Until, None, agent.State]:
        """One round of the method; the state after it."""
        actor, rounds = self.actor, self.rounds
        rounds.begin()
        self.run.began(self.me, rounds.n)
        y, told = agent.tracked(state), validation.told(state)
        if self.what.ahead and y is not None:
            self.say(self.session.offer(state.objective, y, None, state.flood, told))
            y = None
        yield Compute()
        course = self.tell(gossip.begun(state, actor.proposed(state)), y is None)
        while True:
            yield Until(lambda: not rounds.missing)
            shares = rounds.advance()
            yield Compute()
            course, following = actor.heard(course, shares)
            if following is not None:
                return following
            rounds.begin()
            self.run.began(self.me, rounds.n)
            course = self.tell(course)

    def tell(self, course: Course, y_is_out: bool = False) -> Course:
        """Send the shares of the exchange that comes next; the round with what they say."""
        course = self.actor.spoken(course)
        here, told = course.here, validation.told(course.here)
        if course.spoken is None:
            y = None if y_is_out else agent.tracked(here)
            self.say(self.session.offer(here.objective, y, here.z, here.flood, told))
        else:
            self.say(self.session.offer_each(here.objective, course.spoken.words, here.flood, told))
        return course

    def snapshot(self, state: agent.State) -> Checkpoint:
        """Checkpoint at the start of a round."""
        numbers = {name: value for name, value in structs.asdict(state).items() if name != "n"}
        vectors = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
        scalars = {name: value for name, value in numbers.items() if name not in vectors}
        kept = tuple(share for share in self.rounds.kept() if share.n < state.n * self.what.n_steps)
        counts, n_classes = dict(self.roster.counts), self.roster.n_classes
        return Checkpoint(RUN_ID, "", state.n, counts, n_classes, vectors, scalars, kept)


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
        self.ever = union(what.schedule, what.n_exchanges)
        self.starts: Counter[PeerId] = Counter()
        self.disk: dict[PeerId, Checkpoint] = {}
        self.archive: dict[PeerId, dict[int, Checkpoint]] = {i: {} for i in range(what.n_agents)}
        self.puts_back = random.Random(f"older checkpoints of {what.seed}")
        self.peers: dict[PeerId, Peer] = {}
        self.history: dict[tuple[PeerId, int], agent.State] = {}
        self.farthest = [-1] * what.n_agents
        self.most_held = self.most_kept = 0

    def play(self) -> None:
        """Everything, until nothing happens any more; all peers must be done then."""
        clock = self.clock
        self.happened["slow peer"] += self.what.slow is not None
        for i in range(self.what.n_agents):
            clock.later(clock.soon(), lambda i=i: self.start(i))  # type: ignore[misc]
        for at in self.what.crashes:
            clock.at(at, self.crash_one)
        while clock.step():
            if clock.n_events > MAX_EVENTS:
                raise AssertionError("it never ends")
        stuck = [self._state_of(peer) for _, peer in sorted(self.peers.items()) if not peer.session.complete]
        if stuck:
            raise AssertionError(f"nothing happens any more, and there wait {'; '.join(stuck)}")

    @property
    def outcome(self) -> Outcome:
        """What came of it; every state was that of the run without a network, bit for bit, so the distance is 0."""
        return Outcome(self.what.seed, self.clock.n_events, self.happened, 0.0, self.network.queue)

    def _state_of(self, peer: Peer) -> str:
        return f"peer {peer.me} in round {peer.rounds.n} for {peer.rounds.missing or peer.roster.missing}"

    # ---- processes -------------------------------------------------------------------------

    def write(self, i: PeerId, checkpoint: Checkpoint) -> None:
        """A checkpoint is on the disk, and a copy of it elsewhere."""
        self.disk[i] = self.archive[i][checkpoint.n] = checkpoint

    def put_back(self, i: PeerId) -> None:
        """Now and then a peer is resumed from a copy of an older checkpoint.

        Not one that was through, for then nobody may be left to tell it.
        """
        older = [n for n in self.archive[i] if n < max(self.archive[i])]
        if older and not self.peers[i].session.complete and self.puts_back.random() < 0.3:
            self.disk[i] = self.archive[i][self.puts_back.choice(older)]

    def outdated(self, peer: Peer) -> None:
        """A peer finds that its checkpoint is not its last: it leaves, and comes back with the last one."""
        newest = max(self.archive[peer.me])
        assert peer.last is not None, f"peer {peer.me} had no checkpoint, and takes it for an older one"
        assert peer.last.n < newest, f"peer {peer.me} takes its last checkpoint, of round {newest}, for an older one"
        self.happened["sent back for its last checkpoint"] += 1
        self.clock.tell(f"peer {peer.me} finds that it is outdated, and leaves")
        self.network.end(peer)
        self.disk[peer.me] = self.archive[peer.me][newest]
        self.clock.later(self.clock.soon(5.0), lambda: self.start(peer.me))

    def start(self, i: PeerId) -> None:
        """A process of peer i starts, from its checkpoint if it has one."""
        last = self.disk.get(i)
        peer = self.peers[i] = Peer(i, self, self.starts[i], last)
        if self.starts[i]:
            older = last is not None and last.n < max(self.archive[i])
            source = "nothing" if last is None else "an older checkpoint" if older else "the last checkpoint"
            self.happened[f"restart from {source}"] += 1
        self.starts[i] += 1
        self.clock.tell(f"peer {i} starts in round {peer.rounds.n}, incarnation {peer.roster.incarnation}")
        self.network.start(peer, peer.neighbors)
        self.resume(peer)

    def resume(self, peer: Peer) -> None:
        """The main line of a peer goes on to its next pause."""
        peer.waits_for = None
        try:
            pause = next(peer.line)
        except StopIteration:
            self.clock.tell(f"peer {peer.me} leaves")
            self.network.end(peer)
            return
        self.check_bounds(peer)
        if isinstance(pause, Compute):
            pace = SLOW if peer.me == self.what.slow else 1.0
            self.network.later(peer, self.clock.soon(pace * self.what.compute), lambda: self.resume(peer))
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
            self.network.later(peer, self.clock.soon(0.1), lambda: self.resume(peer))

    def crash_one(self) -> None:
        """Some peer is killed: before its first checkpoint, in its rounds, or while others may need it still."""
        able = sorted(i for i, peer in self.peers.items() if peer.alive)
        if not able:
            return
        i = self.clock.chance.choice(able)
        self.clock.tell(f"peer {i} crashes in round {self.peers[i].rounds.n}")
        self.happened["crash"] += 1
        self.happened["crash when complete"] += self.peers[i].session.complete
        self.happened["crash within a round"] += self.peers[i].rounds.n % self.what.n_steps > 0
        self.network.kill(self.peers[i])
        self.put_back(i)
        self.clock.later(self.clock.soon(5.0), lambda: self.start(i))

    # ---- what must hold --------------------------------------------------------------------

    def reached(self, i: PeerId, state: agent.State) -> None:
        """Agent i is at the start of a round; a resumed one must come to the same state again."""
        before = self.history.setdefault((i, state.n), state)
        for name, value in structs.asdict(state).items():
            same = np.array_equal(getattr(before, name), value)
            assert same, f"peer {i} comes to another {name} in round {state.n} after it was resumed"

    def began(self, i: PeerId, n: int) -> None:
        """Peer i begins exchange n: none it meets may be left behind farther than one meeting."""
        round_, k = divmod(n, self.what.n_steps)
        self.clock.tell(f"peer {i} begins round {round_}" + f", exchange {k}" * (self.what.n_steps > 1))
        self.farthest[i] = max(self.farthest[i], n)
        for j in self.peers[i].neighbors:
            between = [m for m in range(max(self.farthest[j], 0), n) if j in self.what.schedule.graph(m).neighbors(i)]
            assert len(between) <= 1, f"peer {i} is in exchange {n}, peer {j} no farther than {self.farthest[j]}"

    def check_bounds(self, peer: Peer) -> None:
        """The memory that a peer needs for each neighbor; only its own messages and its own work change it."""
        held = max((len({n for n, _ in peer.rounds.held_of(j)}) for j in peer.neighbors), default=0)
        kept, every = len(peer.rounds.kept()), self.what.every * self.what.n_steps
        self.most_held, self.most_kept = max(self.most_held, held), max(self.most_kept, kept)
        catch_up = every if self.happened["crash"] else 0
        assert held <= MEETINGS + catch_up, f"peer {peer.me} holds {held} shares of one neighbor"
        # for each neighbor, the meetings from the floor that it said at the last one to that one; and this exchange,
        # of which there is one share, or one for each
        assert kept <= len(peer.neighbors) * (max(every, self.what.n_steps) + 1) + 1, (
            f"peer {peer.me} keeps {kept} shares"
        )
        # pieces of two shares, and of those that a resumed neighbor missed; an ask, an answer, and news of each peer
        waiting = 2 * (MEETINGS + catch_up) + 2 + self.what.n_agents
        assert self.network.queue <= 2 * waiting, f"{self.network.queue} messages wait on one connection"  # all twice


def _shown(message: Message) -> str:
    if isinstance(message, Share):
        parts = "".join(part for part in PARTS if getattr(message, part) is not None)
        return f"share {message.n}{parts}, floor {message.floor}"
    if not isinstance(message, Hello):
        return type(message).__name__.lower()
    held = " ".join(f"{n}{part}" for n, part in message.held)
    return f"{message.purpose}, in round {message.n}, has [{held}], knows {sorted(message.n_samples)}"


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
        check(what, run)
    return run


def check(run: Scenario, result: Run) -> None:
    """Every state is that of the run without a network, bit for bit, and (9) holds in every round.

    All end at the same round, also where that is before the last one.
    """
    history = without_network(run)
    if run.first.patience:
        check_kept(run, history)
    last = {i: max(n for j, n in result.history if j == i) for i in range(run.n_agents)}
    assert set(last.values()) == {len(history) - 1}, f"peers end at rounds {last}, not all at {len(history) - 1}"
    for n, expected in enumerate(history):
        states = [result.history[i, n] for i in range(run.n_agents)]
        for i, (state, wanted) in enumerate(zip(states, expected, strict=True)):
            for name, found in structs.asdict(state).items():
                same = np.array_equal(found, getattr(wanted, name))
                assert same, f"{name} of peer {i} in round {n} is not that of the run without a network"
        off, largest = conserved(run.first.method, states)
        # each exchange rounds a few sums of a few numbers of the largest size so far
        limit = 1e-15 * run.n_agents * 8 * (n + 1) * run.first.gossip.reach * max(largest, 1.0)
        assert off <= limit, f"(9), or what is in its place, is broken by {off} in round {n}"


def conserved(method: Method, states: Sequence[agent.State]) -> tuple[float, float]:
    """How far what a method conserves over all agents is off, and the largest of the numbers that it is a sum of."""
    if "y" in method.parts:
        parts = [state.y for state in states] + [-state.gradient for state in states]
    elif isinstance(method, Extra | ExactDiffusion):
        parts = [state.memory for state in states] + [state.w for state in states]
        return float(np.abs(sum(state.memory for state in states)).max()), float(np.abs(parts).max())
    else:
        return 0.0, 0.0
    return float(np.abs(sum(parts)).max()), float(np.abs(parts).max())


def check_kept(run: Scenario, history: Sequence[Sequence[agent.State]]) -> None:
    """What is kept, and where it ends, are those of all verdicts, worked out for all agents at once."""
    verdicts: list[tuple[float, int]] = []  # of each window that is over, with the round where it began
    begin, waited = 0, 0
    for n, states in enumerate(history):
        if n > 0 and n == window_end(run.schedule, begin, run.n_rounds, run.n_steps):
            verdicts.append((max(state.validation for state in history[begin]), begin))
            begin, waited = n, begin - min(verdicts)[1]
        best, best_n = min(verdicts, default=(np.inf, 0))
        for i, state in enumerate(states):
            assert (state.best, state.best_n, state.waited) == (best, best_n, waited), f"agent {i}, round {n}"
            wanted = history[best_n][i].w if verdicts else state.w
            assert np.array_equal(validation.result(state), wanted), f"agent {i}, round {n}"
        losses = sum(state.held for state in states)
        assert abs(sum(state.validation for state in states) - losses) <= 1e-13 * (n + 1) * max(1.0, losses)
        assert run.n_agents * max(state.validation for state in states) >= losses * (1.0 - 1e-12)
        assert waited < run.first.patience or n == len(history) - 1, f"it goes on after round {n}"
    early = len(history) <= run.n_rounds
    assert not early or waited >= run.first.patience or stopping.is_over(history[-1][0], run.first.tolerance)
