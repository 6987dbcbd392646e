"""The life of a peer in rounds.

Policy: a neighbor that is late is waited for until `patience_s`; a neighbor with other settings,
before round 0, stops both; a neighbor that gives up for good stops its neighbors, and they theirs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np
from msgspec import structs

from peer import agent, checkpoint, config, files, gossip, npz, validation
from peer.actor import Actor
from peer.checkpoint import Checkpoint
from peer.errors import DONE, INTERRUPTED, ConfigError, NeighborLeft, NeighborsLate, ProtocolError
from peer.gossip import Course
from peer.host import Host
from peer.learning import Learned
from peer.messages import Message, Outgoing
from peer.optim.regimes import everything
from peer.transport import QUEUE_MESSAGES
from topology import PeerId

AHEAD_BYTES: Final = 1 << 16
"""From this size on y may go ahead of z: a millisecond on a gigabit line. Smaller ones hide nothing."""

AHEAD_S: Final = 1e-3
"""Only behind a solve of this length does y go ahead: it costs a second message, 6 % of an exchange at p = 1e6."""

FAREWELL_S: Final = 2.0
"""How long a peer that stops by an error tries to tell those that do not know it yet."""


def goes_ahead(y_bytes: int, solve_s: float) -> bool:
    """Whether y is sent before the surrogate is solved, which took `solve_s` seconds the last time."""
    return y_bytes >= AHEAD_BYTES and solve_s >= AHEAD_S


@final
class RoundsLife:
    """A peer that trains in rounds.

    Parameters
    ----------
    host : Host
        What it is made of; opened here.

    Raises
    ------
    ConfigError
        The peer cannot start.
    """

    def __init__(self, host: Host) -> None:
        self.host, self.experiment, self.me = host, host.experiment, host.me
        ground = host.assignment.ground
        self.neighbors, self.n_steps = ground.union[self.me], ground.gossip.n_steps
        self.last = self._last_checkpoint()
        self.greeted: set[PeerId] = set()
        self.state: agent.State | None = None
        self.solve_s = math.inf
        process = host.open(self, {j: self.experiment.transport.addresses[j] for j in self.neighbors})
        self.session = config.session_of(self.experiment, ground, self.me, host.shard, process, self.last, host.common)
        self.rounds = self.session.rounds
        self._know(host.assignment.facts)
        host.write_on(self.n)
        host.event("start", id=self.me, n=self.n, samples=host.shard.n_samples, neighbors=self.neighbors)

    def _last_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from; None where this peer has yet to begin.

        Before its first share a peer writes `initial.npz`, and a checkpoint if it ever does: a
        process that got no further is followed by one that starts from the beginning.
        """
        host = self.host
        if host.resumes:
            return checkpoint.load(host.checkpoint_path, self.experiment.run_id, host.digest, self.me)
        if host.assignment.resume and host.initial_path.exists():
            begun = f"{host.folder}: expected a checkpoint, for this peer has begun its rounds; found none"
            raise ConfigError("--resume", begun)
        return None

    def _know(self, facts: config.Facts | None) -> None:
        """Take over what was found of all peers' shards, if somebody has looked at them."""
        if facts is None:
            return
        shard, before = self.host.shard, facts.n_samples[self.me]
        if shard.n_samples != before:
            found = f"{shard.path}: expected the {before} samples of a moment ago, found {shard.n_samples}"
            raise ConfigError("data.path", found)
        if shard.n_classes > facts.n_classes:
            found = f"labels below {facts.n_classes}, as a moment ago, found {shard.n_classes - 1}"
            raise ConfigError("data.path", f"{shard.path}: expected {found}")
        self.session.roster.restore(dict(enumerate(facts.n_samples)), facts.n_classes)

    @property
    def n(self) -> int:
        """The round; what `rounds` calls so are its exchanges, see `peer.gossip`."""
        return self.rounds.n // self.n_steps

    # ---- connections and messages ----------------------------------------------------------

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one peer: the protocol bounds them."""
        return QUEUE_MESSAGES

    def writable(self, j: PeerId) -> None:
        """A link that was full has room again; the shares for it wait for another connection."""

    @property
    def began(self) -> bool:
        """Whether round 0 has begun."""
        return self.session.roster.began

    def connected(self, j: PeerId) -> None:
        """A connection to a neighbor is up."""
        if self.say(self.session.connected(j)):
            self.greeted.add(j)
            self.host.changed.set()

    def disconnected(self, j: PeerId) -> None:
        """A connection to a neighbor broke; a message that could not be sent may have told so before its monitor."""
        was_up = self.rounds.is_connected(j)
        self.session.disconnected(j)
        if was_up and j not in self.session.said_bye:
            self.host.event("disconnected", peer=j)

    def say(self, messages: Outgoing) -> bool:
        """Send; whether all was sent. A share that is not will be when its connection is up again."""
        if not messages:
            return True
        failed = {j for j, _ in self.host.say(messages)}
        for j in failed:
            self.disconnected(j)
            self.host.transport.reconnect(j)
        return not failed

    def hear(self, message: Message) -> None:
        """Take in a message.

        Raises
        ------
        NeighborLeft
            A neighbor gave up, and this peer is not through.
        DisagreementError
            No run is possible with a neighbor.
        ConfigError
            This peer was resumed from a checkpoint that is not its last.
        """
        self.say(self.session.receive(message))
        if self.session.given_up is not None and not self.session.complete:
            j, reason = self.session.given_up
            raise NeighborLeft(f"round {self.n}: peer {j} gave up: {reason}")
        if self.session.outdated is not None:
            j, forgotten = self.session.outdated
            once = f"what peer {j} had for it in round {forgotten // self.n_steps}"
            has_got = f"this peer has got {once}, and cannot get it again"
            found = f"expected its last checkpoint, found an older one, of round {self.n}"
            raise ConfigError("--resume", f"{self.host.checkpoint_path}: {found}: {has_got}")
        if self.session.has_news:
            self.host.soon(lambda: self.say(self.session.spread()))

    # ---- the run ---------------------------------------------------------------------------

    async def work(self) -> None:
        """From the first Hello to the last Bye."""
        if self.host.assignment.facts is not None:  # neighbors that begin sooner send shares of this size
            learned = self.learn()
            await self.meet(lambda: self.session.unmet)
        else:
            await self.meet(lambda: self.session.roster.missing)
            learned = self.learn()
        actor = config.actor_of(self.experiment, self.host.assignment.ground, self.me, learned)
        await self.begin(actor, learned)
        try:
            async with asyncio.TaskGroup() as both:
                listening = both.create_task(self.host.listen())
                await self.train(actor, learned)
                await self.part()
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def meet(self, missing: Callable[[], Sequence[PeerId]]) -> None:
        """Wait until nobody is missing: all peers' sample counts are known, or, where they are already, all neighbors.

        Raises
        ------
        NeighborsLate
            Names those that did not come.
        DisagreementError
            A neighbor runs with other settings.
        """
        loop, roster = asyncio.get_running_loop(), self.session.roster
        began_s, patience_s = loop.time(), self.experiment.run.patience_s
        try:
            async with asyncio.TaskGroup() as both:
                listening = both.create_task(self.host.listen(lambda: bool(missing())))
                if not await self.host.together(self.n, missing, began_s + patience_s):
                    raise NeighborsLate(0, tuple(missing()), loop.time() - began_s)
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        self.say(self.session.begin())
        self.host.event("ready", samples=roster.n_samples_total, processor_s=round(time.process_time(), 6))
        await self.host.line_up()

    def learn(self) -> Learned:
        """What this agent learns, now that M and the number of classes are known.

        Raises
        ------
        ConfigError
            The shard, the initial parameters and the model do not fit.
        """
        return self.host.learn(self.session.roster.n_samples_total, self.session.roster.n_classes)

    async def begin(self, actor: Actor, learned: Learned) -> None:
        """The first state."""
        experiment, last = self.experiment, self.last
        if last is not None:
            self.state = self.host.restored({"n": last.n, **last.vectors, **last.scalars}, learned)
        else:
            self.state = await self.host.threads.compute(actor.begun, learned.w)
        if experiment.run.checkpoint_every:
            await self.host.threads.on_disk(checkpoint.save, self.host.checkpoint_path, self.snapshot(self.state))
        await self.host.threads.on_disk(npz.save, self.host.initial_path, everything(learned.model, learned.w))

    async def train(self, actor: Actor, learned: Learned) -> None:
        """All rounds, and the result."""
        state = self.state
        assert state is not None
        every = self.experiment.run.checkpoint_every
        while not actor.is_through(state):
            state = await self.round(actor, state)
            self.state = state
            if every == 0:
                self.rounds.floor = state.n * self.n_steps
            elif state.n % every == 0 or actor.is_through(state):
                await self.host.threads.on_disk(self.keep, self.snapshot(state))
                self.rounds.floor = state.n * self.n_steps
        end = everything(learned.model, actor.result(state))
        await self.host.threads.on_disk(npz.save, self.host.folder / files.FINAL, end)
        stopped, kept = actor.stopped(state), {"kept": state.best_n} if state.kept.size else {}
        self.host.event("done", n=state.n, stopped=stopped or "iterations", **kept)
        if stopped == "tolerance":
            all_know = f"nobody measured more than {state.agreed:.3g} in the last window but one"
            self.host.assignment.tell(f"round {state.n}: stops, for {all_know}")
        elif stopped == "validation":
            no_better = f"the validation loss of round {state.best_n} was the least, up to {state.waited} rounds later"
            self.host.assignment.tell(f"round {state.n}: stops, for {no_better}")

    async def part(self) -> None:
        """Say goodbye, and stay until the neighbors, which may still need shares again, have said so too."""
        self.say(self.session.part(""))
        loop, patience_s = asyncio.get_running_loop(), self.experiment.run.patience_s
        while not await self.host.together(self.n, lambda: self.session.absent, loop.time() + patience_s):
            if not any(map(self.rounds.is_connected, self.session.absent)):
                break  # they are gone; who is there, but not through yet, is waited for

    async def round(self, actor: Actor, state: agent.State) -> agent.State:
        """One round of the method; the state after it.

        Raises
        ------
        NeighborsLate
            Names the round and the missing neighbors.
        SolveError
            The numbers broke down.
        """
        rounds = self.rounds
        sent, received, began = self.host.transport.bytes_sent, self.host.transport.bytes_received, time.monotonic()
        rounds.begin()
        ahead = actor.coding is None and goes_ahead(state.y.nbytes, self.solve_s)
        if ahead:
            self.say(
                self.session.offer(state.objective, agent.tracked(state), None, state.flood, validation.told(state))
            )
        proposal = await self.host.threads.compute(actor.proposed, state)
        course = self.tell(actor, gossip.begun(state, proposal), ahead)
        self.solve_s = time.monotonic() - began
        following, waited_s = None, 0.0
        neighbors = set(rounds.neighbors)
        while True:
            course, following, late_s = await self.exchange(actor, course)
            rounds.advance()
            waited_s += late_s
            if following is not None:
                break
            rounds.begin()
            neighbors.update(rounds.neighbors)
            course = self.tell(actor, course)
        self.host.journal.round(
            iteration=state.n,
            time_s=time.monotonic() - self.host.began_s,
            **actor.line(course, following),
            solve_s=self.solve_s,
            wait_s=waited_s,
            bytes_sent=self.host.transport.bytes_sent - sent,
            bytes_received=self.host.transport.bytes_received - received,
            neighbors=sorted(neighbors),
            **self.host.drops.numbers,
        )
        self.host.tell_renewal(following)
        self.host.went_back(state, following)
        return following

    def tell(self, actor: Actor, course: Course, y_is_out: bool = False) -> Course:
        """Send the shares of the exchange that comes next; the round with what they say.

        Raises
        ------
        SolveError
            They would say nan or infinity.
        """
        course = actor.spoken(course)
        here, told = course.here, validation.told(course.here)
        if course.spoken is None:
            y = None if y_is_out else agent.tracked(here)
            self.say(self.session.offer(here.objective, y, here.z, here.flood, told))
        else:
            self.say(self.session.offer_each(here.objective, course.spoken.words, here.flood, told))
        return course

    async def exchange(self, actor: Actor, course: Course) -> tuple[Course, agent.State | None, float]:
        """A round after one more exchange; the state after it, if it was the last; and seconds waited for neighbors."""
        waited_s = 0.0
        while True:
            began_s = time.monotonic()
            await self.wait_for_neighbors()
            waited_s += time.monotonic() - began_s
            try:
                after, following = await self.host.threads.compute(actor.heard, course, self.rounds.shares())
            except ProtocolError as error:
                if error.sender is None:
                    raise
                self.host.drop(error)
                self.rounds.refuse(error.sender)
            else:
                return after, following, waited_s

    async def wait_for_neighbors(self) -> None:
        """Wait until the shares of all neighbors of the exchange are here, or one is late."""
        rounds = self.rounds
        if not rounds.missing:
            return
        loop = asyncio.get_running_loop()
        rounds.wait_from(loop.time())
        while not await self.host.together(self.n, lambda: rounds.missing, rounds.deadline_s):
            rounds.check_late(loop.time(), self.n)

    # ---- the end ---------------------------------------------------------------------------

    @property
    def absent(self) -> Sequence[PeerId]:
        """Neighbors that may need this peer still; none where without checkpoints neither of them can come back."""
        return self.session.absent if self.experiment.run.checkpoint_every else ()

    def snapshot(self, state: agent.State) -> Checkpoint:
        """Checkpoint at the start of a round."""
        numbers = {name: value for name, value in structs.asdict(state).items() if name != "n"}
        vectors = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
        scalars = {name: value for name, value in numbers.items() if name not in vectors}
        kept = tuple(share for share in self.rounds.kept() if share.n < state.n * self.n_steps)
        counts, n_classes = dict(self.session.roster.counts), self.session.roster.n_classes
        return Checkpoint(self.experiment.run_id, self.host.digest, state.n, counts, n_classes, vectors, scalars, kept)

    def keep(self, snapshot: Checkpoint) -> None:
        """Put a checkpoint on the disk, and the lines of its rounds before it."""
        with self.host.threads.writing:
            self.host.journal.sync()
            checkpoint.save(self.host.checkpoint_path, snapshot)

    async def end(self, code: int, line: str, offender: PeerId | None) -> None:
        """Journal how it ended; checkpoint if it was interrupted; tell the neighbors if it failed.

        An offender, with whom no run is possible, must first hear of this peer's settings. A neighbor that is here,
        but to which the connection is not up yet, is waited for, for it could not be told. A peer that was resumed from
        an older checkpoint than its last leaves without a word: with the last one it may come back.
        """
        if code == INTERRUPTED and self.state is not None and self.experiment.run.checkpoint_every:
            self.keep(self.snapshot(self.state))
        if code not in (DONE, INTERRUPTED) and self.session.outdated is None:
            here = self.session.heard.difference(self.session.said_bye) | ({offender} - {None})
            await self.host.until(lambda: self.greeted >= here, asyncio.get_running_loop().time() + FAREWELL_S)
            self.say(self.session.part(line))
        absent = self.absent if code == DONE else ()
        self.host.event("end", code=code, problem=line, absent=absent, **self.host.drops.numbers)
        self.host.journal.check()
