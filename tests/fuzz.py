"""A million messages that are none, or not quite, or not now: thrown at `wire.decode` and at both machines.

`python -m tests.fuzz --messages 1000000` throws them on all cores; a failure names the seed, the
number and the bytes of the message, and the command that throws it again. With `--hypothesis` it is
Hypothesis that chooses them, which looks for the corners of every choice, and makes the example that
fails as small as it can; that takes six times as long. Each machine is there
twice, in the middle of a run with neighbors that behave. One, `steady`, goes back to what it was
before whenever it has taken a message that is valid (its sender lies within the format): it must
end with the same bits as if nobody had sent anything. The other, `worn`, goes on with whatever it
has taken: it must refuse and take messages as before, and hold no more than it may.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import random
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import fields, is_dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar, final

import msgpack
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from peer import wire
from peer.agent import State
from peer.arrays import Sparse, Tensor, Vector
from peer.assembly import Assembly
from peer.errors import DisagreementError, ProtocolError, RemoteError, WireError
from peer.flows import Flows
from peer.membership import Membership
from peer.messages import PARTS, PROTOCOL, Bye, Flow, Hello, Message, Share, Standing, View
from peer.roster import Roster
from peer.rounds import MEETINGS, Rounds
from peer.session import Session
from topology import PeerId
from topology.graphs import Graph
from topology.outlets import Outlets
from topology.schedules import Static

CHUNK: Final = 10_000
"""Messages of one seed: a few seconds, so that the bar moves."""

EXAMPLE: Final = 25
"""Messages of one example of Hypothesis: of longer ones some would take more choices than it makes for one."""

GROWTH_BYTES: Final = 10_000_000
"""How much more memory a process may hold at the end than after its first chunk; Hypothesis itself keeps more."""

N_AGENTS: Final = 5
"""In both networks; peer 0 is the one that is abused."""

P: Final = 6
"""Parameters."""

N_ROUNDS: Final = 12
"""Of a run; then the next one begins."""

CATCH_UP: Final = 3
"""Rounds between two checkpoints."""

FORMS: Final = (
    wire.Format("run", N_AGENTS, P, "f8"),
    wire.Format("run", N_AGENTS, P, "f4"),
    wire.Format("run", N_AGENTS, P, "bf16", fraction=0.5, has_places=True),
)

SETTINGS: Final[Mapping[str, str]] = {"step.alpha": "0.1", "topology.graph": "ring"}

LONGEST_LINE: Final = 3_000
"""Characters of what is said of a message that is refused: a few settings, shortened."""

FAILED, INTERRUPTED = 1, 130
"""Exit codes."""

M = TypeVar("M", bound="Session | Assembly")


# ---- messages ------------------------------------------------------------------------------


@final
class Author:
    """Writes messages that are valid, or nearly, or not at all; the same ones for the same seed.

    Parameters
    ----------
    seed : int or Random
    """

    def __init__(self, seed: int | random.Random) -> None:
        self.chance = random.Random(seed) if isinstance(seed, int) else seed
        self.form = FORMS[0]
        self.kinds: Mapping[str, Callable[[PeerId, int], Message]] = {
            "share": self.share,
            "flow": self.flow,
            "hello": self.hello,
            "view": self.view,
            "bye": self.bye,
        }

    def vector(self, size: int) -> Vector:
        """Small numbers."""
        return np.array([self.chance.uniform(-1, 1) for _ in range(size)])

    def near(self, n: int) -> int:
        """A number around another one, or anywhere."""
        if self.chance.random() < 0.8:
            return max(0, n + self.chance.randint(-3, 5))
        return self.chance.choice((0, 1, 2**31 - 1, 2**31, wire.MAX_ROUND - 1, self.chance.getrandbits(53)))

    def tensor(self) -> Tensor:
        """Small numbers, where places are said with any, mostly in order."""
        if not self.form.has_places:
            return self.vector(self.form.n_told)
        places = [self.chance.randrange(P if self.chance.random() < 0.9 else 1 << 16) for _ in range(self.form.n_told)]
        in_order = sorted(places) if self.chance.random() < 0.9 else places
        return Sparse(self.vector(len(places)), np.array(in_order, dtype=np.int64))

    def share(self, sender: PeerId, n: int) -> Share:
        """A share of about round n."""
        y, z = (self.tensor() if self.chance.random() < 0.8 else None for _ in range(2))
        objective, validation = self.chance.uniform(-1, 1), (self.chance.uniform(0, 2), self.chance.uniform(0, 2))
        z = self.tensor() if y is None else z
        return Share(sender, self.near(n), self.near(n), objective, y, z, math.inf, validation)

    def flow(self, sender: PeerId, n: int) -> Flow:
        """A flow of an epoch like n."""
        epoch = n if self.chance.random() < 0.7 else self.near(n)
        stamp = self.chance.randint(0, 2), self.near(50)
        sums = self.vector(P + wire.N_SCALARS) * 10.0 ** self.chance.randint(-20, 150)
        return Flow(sender, epoch, stamp, self.vector(P), sums)

    def hello(self, sender: PeerId, n: int) -> Hello:
        """A Hello in round n."""
        chance = self.chance
        held = tuple((self.near(n), chance.choice(PARTS)) for _ in range(chance.randint(0, 4)))
        counts = {j: 10 + j if chance.random() < 0.95 else 9 for j in range(N_AGENTS) if chance.random() < 0.7}
        settings = SETTINGS if chance.random() < 0.8 else {"step.alpha": "0.2", "x" * chance.randint(0, 99): "y"}
        purpose = chance.choice(("ask", "answer", "news"))
        incarnation = chance.choice((0, 0, 0, 1, 2**31 - 1))
        who = sender, "a" * chance.randint(0, 9), incarnation
        return Hello(*who, purpose, self.near(n), held, settings, counts, 2, chance.choice((-1, self.near(n))))  # type: ignore[arg-type]

    def view(self, sender: PeerId, n: int) -> View:
        """What a peer may say of all."""
        chance = self.chance
        who = {sender, *(j for j in range(N_AGENTS) if chance.random() < 0.5)}
        if chance.random() < 0.1:
            who |= {chance.randrange(100_000) for _ in range(chance.choice((1, 5, 50)))}
        return View(sender, SETTINGS if chance.random() < 0.2 else {}, 2, {j: self.standing() for j in who})

    def standing(self) -> Standing:
        """A standing like those of an undisturbed run, or another one."""
        chance = self.chance
        if chance.random() < 0.7:
            return Standing(1, 0, chance.randint(0, 99), "abcd", 5, 0, 0, chance.randint(1, 20), "tcp://127.0.0.1:1")
        generation, incarnation = (chance.choice((0, 1, 2, 3, 2**31 - 1)) for _ in range(2))
        beat, n, done, over, n_samples = (self.near(5) for _ in range(5))
        instance, address = chance.choice(("abcd", "")), "x" * chance.randint(0, 99)
        return Standing(generation, incarnation - 1, beat, instance, n, done, over, n_samples, address)

    def bye(self, sender: PeerId, n: int) -> Bye:
        """A goodbye, mostly with a reason."""
        return Bye(sender, "x" * (n % 3))

    def frames(self, n: int, form: wire.Format) -> tuple[PeerId, list[bytes]]:
        """Frames, and whose connection they come over."""
        chance, self.form = self.chance, form
        came_from = chance.randrange(N_AGENTS)
        if chance.random() < 0.05:
            return came_from, [chance.randbytes(chance.randint(0, 200)) for _ in range(chance.randint(0, 4))]
        sender = came_from if chance.random() < 0.95 else chance.randrange(N_AGENTS)
        message = self.kinds[chance.choice(tuple(self.kinds))](sender, n)
        frames = [bytes(frame) for frame in wire.encode(message, form)]
        spoil = chance.random()
        if spoil < 0.4:
            return came_from, frames
        if spoil < 0.6:
            return came_from, self.with_other_bytes(frames)
        if spoil < 0.85:
            return came_from, self.with_other_fields(frames)
        return came_from, self.with_other_frames(frames)

    def with_other_bytes(self, frames: list[bytes]) -> list[bytes]:
        """Some bytes changed, left out or put in."""
        spoiled = [bytearray(frame) for frame in frames]
        for _ in range(self.chance.randint(1, 4)):
            frame = self.chance.choice(spoiled)
            place = self.chance.randint(0, len(frame))
            frame[place : place + self.chance.randint(0, 2)] = self.chance.randbytes(self.chance.randint(0, 2))
        return [bytes(frame) for frame in spoiled]

    def with_other_fields(self, frames: list[bytes]) -> list[bytes]:
        """A header with other values, or a tensor with other numbers."""
        chance = self.chance
        if len(frames) > 1 and chance.random() < 0.3:
            k = chance.randrange(1, len(frames))
            at = 8 * chance.randrange(max(1, len(frames[k]) // 8))
            number = struct.pack("<d", chance.choice((np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -0.0, 1e151)))
            return [*frames[:k], frames[k][:at] + number + frames[k][at + 8 :], *frames[k + 1 :]]
        header = msgpack.unpackb(frames[0], strict_map_key=False)
        for _ in range(chance.randint(1, 2)):
            key = chance.choice((*header, "v", "run", "from", "kind", "more"))
            if chance.random() < 0.1:
                header.pop(key, None)
            else:
                header[key] = self.anything(3)
        return [msgpack.packb(header), *frames[1:]]

    def anything(self, depth: int) -> Any:
        """Anything that a header can hold, or something like what it should."""
        chance = self.chance
        kind = chance.randrange(12 if depth else 9)
        if kind == 0:
            return chance.choice(
                (0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64 - 1, -(2**63), N_AGENTS, PROTOCOL + 1)
            )
        if kind == 1:
            return chance.choice((0.0, np.nan, np.inf, -np.inf, 1e308, 1.5))
        if kind == 2:
            return chance.choice(
                ("", "run", "share", "flow", "hello", "view", "bye", "f4", "f8", "\x1b[2J", "ä", "x" * 999)
            )
        if kind == 3:
            return chance.randbytes(chance.randint(0, 9))
        if kind == 4:
            return chance.choice((None, True, False))
        if kind == 5:
            return chance.choice((["y"], ["z"], ["y", "z"], ["z", "y"], ["y", "y"], []))
        if kind == 6:
            return [chance.getrandbits(31), chance.getrandbits(53)]
        if kind == 7:
            return {chance.randrange(N_AGENTS + 1): chance.randint(-1, 99) for _ in range(3)}
        if kind == 8:
            return msgpack.ExtType(chance.randrange(128), b"x")
        if kind == 9:
            return {chance.choice((1, "a", 2.5, None)): self.anything(depth - 1) for _ in range(chance.randint(0, 3))}
        return [self.anything(depth - 1) for _ in range(chance.choice((0, 1, 2, 3, 9, 50)))]

    def with_other_frames(self, frames: list[bytes]) -> list[bytes]:
        """Frames missing, repeated, in another order, cut or longer."""
        chance = self.chance
        which = chance.randrange(5)
        if which == 0:
            return frames[: chance.randrange(len(frames))]
        if which == 1:
            return [*frames, *chance.choices(frames, k=chance.choice((1, 2, 30)))]
        if which == 2:
            return chance.sample(frames, len(frames))
        k = chance.randrange(len(frames))
        other = frames[k][: chance.randint(0, len(frames[k]))] if which == 3 else frames[k] + chance.randbytes(8)
        return [*frames[:k], other, *frames[k + 1 :]]


# ---- machines ------------------------------------------------------------------------------


def is_machine(value: object) -> bool:
    """Whether it is something that can change, and is made of parts that can."""
    return is_dataclass(value) and not getattr(type(value), "__dataclass_params__").frozen  # noqa: B009  (mypy knows no such name)


def print_of(value: Any) -> Any:
    """What a machine is now: equal before and after if, and only if, nothing has changed. Vectors are never written."""
    if is_machine(value):
        return tuple(print_of(getattr(value, item.name)) for item in fields(value))
    if isinstance(value, dict):
        return tuple((key, print_of(item)) for key, item in value.items())
    if isinstance(value, set):
        return frozenset(value)
    return value if isinstance(value, int | float | str | tuple | None) else id(value)


def copy_of(value: Any) -> Any:
    """A machine that is as another one is now, and goes its own way."""
    if is_machine(value):
        twin = copy.copy(value)
        for item in fields(value):
            setattr(twin, item.name, copy_of(getattr(value, item.name)))
        return twin
    if isinstance(value, dict):
        return {key: copy_of(item) for key, item in value.items()}
    return set(value) if isinstance(value, set) else value


def is_fair(error: RemoteError, came_from: PeerId) -> bool:
    """Whether an error blames whose connection it was, in one line that can be shown to a user."""
    return error.sender == came_from and str(error).isprintable() and len(str(error)) < LONGEST_LINE


def told(machine: M, receive: Callable[[M], object], came_from: PeerId) -> tuple[M, str]:
    """Give a message to a machine: the machine as it was before, and why the message was refused; "" if it was taken.

    Raises
    ------
    AssertionError
        It was refused, and has changed the machine all the same.
    """
    before, twin = print_of(machine), copy_of(machine)
    try:
        receive(machine)
    except ProtocolError as error:
        refusal = error
    else:
        return twin, ""
    assert is_fair(refusal, came_from) or isinstance(refusal, DisagreementError), f"refused unfairly: {refusal}"
    if not isinstance(refusal, DisagreementError):
        assert print_of(machine) == before, f"refused ({refusal.cause}), and changed all the same"
    return twin, refusal.cause


class Story(Protocol):
    """A run that a machine is in the middle of, played again and again."""

    form: wire.Format

    @property
    def n(self) -> int:
        """A number that valid messages have in them now."""

    def take(self, message: Message, came_from: PeerId) -> str:
        """Give a message that could be decoded to both machines; why the steady one has refused it, if it has.

        AssertionError if one of them does what it must not.
        """

    def go_on(self) -> None:
        """What happens in an undisturbed run comes to pass; AssertionError if it does not."""


@final
class InRounds:
    """Peer 0 in a run in rounds; peers 1 and 3 are its neighbors."""

    def __init__(self, form: wire.Format) -> None:
        self.form = form
        self.chance = np.random.default_rng(1)
        self.begin()

    def begin(self) -> None:
        """Begin another run."""
        schedule = Static(Graph.of(N_AGENTS, [(0, 1), (1, 2), (2, 3), (0, 3), (2, 4)]))
        roster = Roster(0, "abcd", 0, SETTINGS, N_AGENTS, 10, 2)
        roster.counts.update({j: 10 + j for j in range(N_AGENTS)})
        roster.began = True
        self.steady = Session((1, 3), roster, Rounds(0, schedule, N_ROUNDS, 1.0, CATCH_UP))
        for j in (1, 3):
            self.steady.connected(j)
            self.steady.receive(Hello(j, "efgh", 0, "ask", 0, (), SETTINGS, {j: 10 + j}, 2))
        self.worn: Session = copy_of(self.steady)
        for machine in (self.steady, self.worn):
            machine.rounds.begin()

    @property
    def n(self) -> int:
        return self.steady.rounds.n

    def take(self, message: Message, came_from: PeerId) -> str:
        def receive(machine: Session) -> object:
            return machine.receive(message)

        self.steady, refused = told(self.steady, receive, came_from)
        assert refused or came_from in (1, 3), "taken from one that is no neighbor"
        told(self.worn, receive, came_from)
        held = [len(shares) for shares in self.worn.rounds._held.values()]
        assert len(held) <= 2
        assert max(held, default=0) <= MEETINGS + CATCH_UP
        assert len(self.worn.rounds._kept) <= 2 * N_ROUNDS
        return refused

    def go_on(self) -> None:
        rounds, form = self.steady.rounds, self.form
        y, z = (self.chance.normal(size=form.n_told).astype(np.float32).astype(float) for _ in range(2))
        sent = {j: Share(j, rounds.n, max(0, rounds.n - 1), 0.5, self.told(y + j), self.told(z - j)) for j in (1, 3)}
        for j, share in sent.items():
            whole = wire.decode([bytes(frame) for frame in wire.encode(share, form)], form, j)
            self.steady.receive(whole)
            try:
                self.worn.receive(whole)
            except ProtocolError:
                continue
        for j, share in rounds.shares().items():
            told = wire.decode([bytes(frame) for frame in wire.encode(sent[j], form)], form, j)
            assert isinstance(told, Share)
            assert np.array_equal(values_of(share.y), values_of(told.y))
            assert np.array_equal(values_of(share.z), values_of(told.z))
            assert share.objective == told.objective
        for machine in (self.steady, self.worn):
            if not machine.rounds.missing:
                self.offer(machine, y, z)
                machine.rounds.advance()
                machine.rounds.floor = machine.rounds.n
                machine.rounds.begin() if machine.rounds.n < N_ROUNDS else None
        if rounds.n == N_ROUNDS or self.worn.rounds.n == N_ROUNDS:
            self.begin()

    def told(self, values: Vector) -> Tensor:
        """What a share says, of numbers."""
        return Sparse(values, np.arange(1, 1 + values.size)) if self.form.has_places else values

    def offer(self, machine: Session, y: Vector, z: Vector) -> None:
        """The own share, the same for both neighbors or one for each."""
        if self.form.has_places:
            machine.offer_each(0.5, {j: (self.told(y), self.told(z)) for j in (1, 3)})
        else:
            machine.offer(0.5, y, z)


def values_of(tensor: Tensor | None) -> Vector:
    """The numbers of what a share says."""
    assert tensor is not None
    return tensor.values if isinstance(tensor, Sparse) else tensor


@final
class WithoutRounds:
    """Peer 0 in a run without rounds, on a ring with its directions."""

    def __init__(self, form: wire.Format) -> None:
        self.form = wire.Format(form.run, 100_000, form.n_parameters, form.dtype)
        self.chance = np.random.default_rng(1)
        self.begin()

    def begin(self) -> None:
        """Begin another run."""
        self.now = 0.0
        own = Standing(1, 0, 0, "abcd", n_samples=10, address="tcp://127.0.0.1:1")
        membership = Membership(0, own, N_AGENTS, 1e9, 2)
        self.steady = Assembly(SETTINGS, membership, Flows(0, 0, ()), Outlets("static", "ring", directed=False), 1_000)
        for j in range(1, N_AGENTS):
            standing = Standing(1, 0, 1, f"peer{j}", n_samples=10 + j, address=f"tcp://127.0.0.1:{j}")
            self.steady.receive(View(j, SETTINGS, 2, {j: standing}), self.now)
        membership.begin(self.now)
        self.counter = 0
        self.open(self.steady)
        self.epoch = self.steady.flows.epoch
        self.neighbors = self.steady.flows.neighbors
        self.steady.connected(1)
        self.worn: Assembly = copy_of(self.steady)
        self.expected = self.steady.flows.mass.high

    def open(self, machine: Assembly) -> None:
        """Open the epoch that is to be opened."""
        opening = machine.opening
        if opening is not None and opening.epoch > machine.flows.epoch and len(opening.members) > 1:
            machine.open_epoch(opening, self.state(machine.opened_n))

    def state(self, n: int) -> State:
        """A state of the agent."""
        zero = np.zeros(P)
        return State(n=n, w=zero, y=zero, gradient=np.ones(P), value=0.5, objective=0.5, alpha=0.1, **_more(zero))

    @property
    def n(self) -> int:
        return self.epoch

    def take(self, message: Message, came_from: PeerId) -> str:
        def receive(machine: Assembly) -> object:
            machine.receive(message, self.now)
            return None

        self.steady, refused = told(self.steady, receive, came_from)
        assert refused or not isinstance(message, Flow) or came_from in self.neighbors, "a flow of who is no neighbor"
        told(self.worn, receive, came_from)
        assert self.worn.flows.held <= 5 * len(self.worn.flows.neighbors)
        return refused

    def go_on(self) -> None:
        self.now += 0.25
        self.counter += 1
        heard = {}
        for j in self.neighbors:
            flow = Flow(
                j, self.epoch, (3, 1_000 + self.counter), self.chance.normal(size=P), self.chance.normal(size=P + 2)
            )
            whole = wire.decode([bytes(frame) for frame in wire.encode(flow, self.form)], self.form, j)
            assert isinstance(whole, Flow)
            self.steady.receive(whole, self.now)
            heard[j] = whole
            try:
                self.worn.receive(whole, self.now)
            except ProtocolError:
                continue
        before = {j: self.steady.flows.absorbed(j) for j in self.neighbors}
        absorbed = self.steady.flows.absorb()
        assert all(np.array_equal(absorbed[j], heard[j].v) for j in self.neighbors)
        for j in self.neighbors:
            self.expected = self.expected + (heard[j].sums - before[j])
        assert np.allclose(self.steady.flows.mass.high, self.expected, rtol=1e-12, atol=1e-9)
        self.worn.flows.absorb()
        self.worn.tick(self.now)
        self.worn.unsent()
        self.open(self.worn)
        if self.counter == N_ROUNDS:
            self.begin()


def _more(zero: Vector) -> dict[str, Any]:
    """What else a state has, whatever that is."""
    known = {"n", "w", "y", "gradient", "value", "objective", "alpha"}
    return dict.fromkeys(set(State.__struct_fields__) - known, zero)


STORIES: Final[Sequence[Callable[[wire.Format], Story]]] = (InRounds, WithoutRounds)
"""Runs that are played; with each format of the wire."""


# ---- throwing ------------------------------------------------------------------------------


def throw(seed: int | random.Random, count: int, first: int = 0) -> Counter[str]:
    """Write and throw messages of one seed; how many came to what.

    Raises
    ------
    AssertionError
        Something happened that must not; names the message, and how to throw it again. From message
        `first` on each is shown before it is thrown.
    """
    author = Author(seed)
    stories = [story(form) for story in STORIES for form in FORMS]
    came_to: Counter[str] = Counter()
    for k in range(count):
        story = stories[k % len(stories)]
        came_from, frames = author.frames(story.n, story.form)
        if first and k >= first:
            print(f"{k}: {type(story).__name__}, {story.form.dtype}, from {came_from}: {frames}")
        try:
            came_to[thrown(story, came_from, frames)] += 1
            if author.chance.random() < 0.05:
                story.go_on()
        except Exception as failure:
            where = f"message {k} of seed {seed}, {type(story).__name__}, {story.form.dtype}, from {came_from}"
            again = f"\npython -m tests.fuzz --seed {seed} --show {k}" if isinstance(seed, int) else ""
            raise AssertionError(f"{where}: {failure!r}\n{frames}{again}") from failure
    return came_to


def search(seed: int, count: int, shrinks: bool = True) -> Counter[str]:
    """Throw messages that Hypothesis chooses, by one seed; how many came to what.

    An example that fails is made as small as it can be, which may take minutes.

    Raises
    ------
    AssertionError
        As `throw`.
    """
    came_to: Counter[str] = Counter()

    @seeded(seed)
    @settings(
        max_examples=-(-count // EXAMPLE),
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def example(chance: random.Random) -> None:
        came_to.update(throw(chance, EXAMPLE))

    try:
        example()
    except AssertionError as failure:
        again = f"python -m tests.fuzz --hypothesis --seed {seed} --messages {count}"
        raise AssertionError(f"{failure}\n{again}") from failure
    return came_to


def thrown(story: Story, came_from: PeerId, frames: list[bytes]) -> str:
    """Throw one message; what it came to."""
    try:
        message = wire.decode(frames, story.form, came_from)
    except WireError as error:
        refusal = error
    else:
        assert message.sender == came_from
        refused = story.take(message, came_from)
        return f"{type(message).__name__}: {refused or 'taken'}"
    assert is_fair(refusal, came_from), f"refused unfairly: {refusal}"
    return f"no message: {refusal.cause}"


# ---- the command ---------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


How: TypeAlias = Callable[[int, int], Counter[str]]
"""Throws messages of a seed, so many."""

_first_bytes: int = 0


def chunk(how: How, seed: int, count: int) -> tuple[Counter[str] | str, int]:
    """What came of a seed's messages, or what went wrong; and how much this process has grown since its first chunk."""
    global _first_bytes
    try:
        came_to: Counter[str] | str = how(seed, count)
    except AssertionError as failure:
        came_to = str(failure)
    now = resident_bytes()
    _first_bytes = _first_bytes or now
    return came_to, now - _first_bytes


def _prepare() -> None:
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    np.seterr(all="ignore")


def chunks_of(seed: int, messages: int) -> Iterator[tuple[int, int]]:
    """Seeds, and how many messages of each."""
    for k, first in enumerate(range(0, messages, CHUNK)):
        yield seed + k, min(CHUNK, messages - first)


def run(how: How, seed: int, messages: int, n_jobs: int, console: Console) -> int:
    """Throw many messages on several processes; the exit code."""
    came_to: Counter[str] = Counter()
    grown, failures = 0, 0
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(TextColumn("messages"), *columns, console=console) as bar,
        ProcessPoolExecutor(n_jobs, get_context("fork"), _prepare) as pool,
    ):
        line = bar.add_task("", total=messages)
        sizes: dict[Future[tuple[Counter[str] | str, int]], int] = {
            pool.submit(chunk, how, *one): one[1] for one in chunks_of(seed, messages)
        }
        try:
            for done in as_completed(sizes):
                result, growth = done.result()
                grown = max(grown, growth)
                if isinstance(result, str):
                    failures += 1
                    console.print(result, style="red", markup=False, highlight=False)
                else:
                    came_to += result
                bar.update(line, advance=sizes.pop(done))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # waiting: else the pool may be gone before it has cancelled them
            return INTERRUPTED
    for what, n in sorted(came_to.items()):
        console.print(f"  {what:32s} {n:12,}", highlight=False)
    too_much = grown > GROWTH_BYTES and how is throw
    console.print(
        f"{came_to.total():,} messages from seed {seed} on, {failures} failures; "
        f"memory of a process grew by {grown / 1e6:.1f} MB at most{', which is too much' * too_much}",
        highlight=False,
    )
    return FAILED if failures or too_much else 0


def main() -> int:
    """Throw messages at the decoder and at both machines; or one seed's again."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help=f"of the first {CHUNK} messages; then the next")
    parser.add_argument(
        "--show", type=int, metavar="MESSAGE", help="throw one seed's messages, and show those from here on"
    )
    parser.add_argument("--hypothesis", action="store_true", help="let Hypothesis choose them")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes; as many as cores")
    arguments = parser.parse_args()
    if arguments.show is not None:
        _prepare()
        try:
            throw(arguments.seed, arguments.show + 1, arguments.show or 1)
        except AssertionError as failure:
            print(failure, file=sys.stderr)
            raise
        return 0
    return run(search if arguments.hypothesis else throw, arguments.seed, arguments.messages, arguments.jobs, Console())


if __name__ == "__main__":
    sys.exit(main())
