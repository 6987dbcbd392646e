"""The life of a peer without rounds.

Policy: nobody is waited for once the first epoch has begun. A member without progress for `departure_s`
is gone, and the others go on without it until it is back; a peer with other settings, or a second one
with an id, ends itself if it has not begun, and is dropped by those that have. Before the first epoch
all initial members are waited for until `patience_s`, a newcomer for one that lets it in; and so does who
was stopped, or counted as gone, wait for a word of somebody who has heard of it since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, final

import numpy as np
from msgspec import structs

from peer import agent, alignment, careful, checkpoint, config, files, history, learning, npz, renewal, waking
from peer.arrays import Vector
from peer.assembly import TICK_S, Opening
from peer.errors import DONE, INTERRUPTED, DisagreementError, NeighborsLate
from peer.flows import NO_EPOCH
from peer.host import Host
from peer.messages import Message, View
from peer.optim.models import Model
from peer.optim.regimes import everything
from peer.problem import Problem
from topology import PeerId

QUEUE_MESSAGES: Final = 2
"""That may wait for one peer on this side: a flow and a view. Newer ones are made when these have left."""

CALLER_S: Final = 5.0
"""How long a connection is kept to one who asked, and was refused, so that it hears why."""

MAX_CALLERS: Final = 16
"""Refused ones that are answered at a time."""


@final
class AsyncLife:
    """A peer that trains without rounds.

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
        self.last: checkpoint.Moment | None = None
        if host.resumes:
            last = checkpoint.load_moment(host.checkpoint_path, self.experiment.run_id, host.digest)
            self.last = last if int(last.flows.get("epoch", 0)) != NO_EPOCH else None  # it had not begun yet
        process = host.open(self, {})
        self.assembly = config.assembly_of(
            self.experiment, host.assignment.ground, self.me, host.shard, host.address, process, self.last
        )
        self.membership, self.flows = self.assembly.membership, self.assembly.flows
        self.state: agent.State | None = None
        self.callers: dict[PeerId, tuple[float, str]] = {}
        self.linked: dict[PeerId, str] = {}
        self.counted_bytes = 0, 0
        self.is_over = self.has_company = False
        n = 0 if self.last is None else int(self.last.agent["n"])
        self.is_new = n == 0 and (host.assignment.contact is not None or self.me >= self.experiment.peers)
        self.quiet_s = 0.0
        host.write_on(n)
        self.link()
        samples, neighbors, clock_s = host.shard.n_samples, sorted(self.linked), round(time.time(), 3)
        host.event("start", id=self.me, n=n, samples=samples, neighbors=neighbors, clock_s=clock_s)

    # ---- links -----------------------------------------------------------------------------

    def link(self) -> None:
        """Keep connections to the out-neighbors of the view, to who lets this peer in, and to who was refused.

        And to one of those that have gone, in turn.
        """
        contact = self.host.assignment.contact if not self.membership.began else None
        knocked_at = self.assembly.knocks_at(time.monotonic())
        wanted = {*self.assembly.receivers, *knocked_at, *self.callers, *([contact[0]] if contact else [])}
        addresses = {j: contact[1] if contact and contact[0] == j else self.address_of(j) for j in wanted}
        for j in [j for j, address in self.linked.items() if addresses.get(j) != address]:
            del self.linked[j]
            self.host.transport.disconnect(j)
            self.assembly.disconnected(j)
        for j, address in sorted(addresses.items()):
            if address and j not in self.linked and self.host.reach(j, address):
                self.linked[j] = address

    def address_of(self, j: PeerId) -> str:
        """Where a peer listens: as the experiment says here, else as the peer itself says."""
        addresses = self.experiment.transport.addresses
        if j < len(addresses):
            return addresses[j]
        return self.callers[j][1] if j in self.callers else self.membership.standings[j].address

    @property
    def began(self) -> bool:
        """Whether the first epoch has begun here."""
        return self.membership.began

    def connected(self, j: PeerId) -> None:
        """A connection to a peer is up."""
        self.say(self.assembly.connected(j))
        self.host.changed.set()

    def disconnected(self, j: PeerId) -> None:
        """A connection to a peer broke."""
        self.assembly.disconnected(j)
        self.host.event("disconnected", peer=j)

    # ---- messages --------------------------------------------------------------------------

    def say(self, messages: Sequence[tuple[PeerId, Message]]) -> None:
        """Send; what there is no room for now is made anew when there is."""
        self.assembly.found_no_room(self.host.say(messages))

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one peer."""
        return QUEUE_MESSAGES

    def writable(self, j: PeerId) -> None:
        """A link that was full has room again."""
        if self.assembly.is_connected(j):
            self.say(self.assembly.unsent())

    def hear(self, message: Message) -> None:
        """Take in a message.

        Raises
        ------
        ProtocolError
            It is not allowed now.
        DisagreementError
            No run is possible with its sender, which is told so.
        """
        try:
            self.assembly.receive(message, time.monotonic())
        except DisagreementError:
            if isinstance(message, View) and self.began:
                self.answer(message)
            raise
        self.has_company = self.has_company or isinstance(message, View)
        if self.assembly.has_news:
            self.host.soon(self.spread)

    def spread(self) -> None:
        """Pass on what was learned, and connect to whom it concerns."""
        self.link()
        self.say(self.assembly.spread())

    def answer(self, view: View) -> None:
        """Let one who was refused hear of this peer's settings."""
        j, address = view.sender, view.standings[view.sender].address
        if j not in self.linked and address and len(self.callers) < MAX_CALLERS:
            self.callers[j] = time.monotonic(), address
            self.link()

    async def gossip(self) -> None:
        """Pass the view on again and again, and find out who is lost.

        Raises
        ------
        NeighborsLate
            This peer was away, and nobody has heard of it since: the others are through without it, or cannot be
            reached. It is not to go on with its own data alone.
        """
        departure_s, patience_s = self.experiment.run.departure_s, self.experiment.run.patience_s
        while True:
            now, since_s = time.monotonic(), self.host.threads.computing_since_s
            self.callers = {j: call for j, call in self.callers.items() if now - call[0] < CALLER_S}
            lost, messages = self.assembly.tick(now, since_s is None or now - since_s < departure_s)
            for j in lost:
                self.host.event("lost", peer=j, silent_s=departure_s)
                self.host.assignment.tell(f"peer {j} has made no progress for {departure_s:g} s, and counts as gone")
            away_since_s = self.membership.away_since_s
            if away_since_s is not None and (waited_s := now - away_since_s) > patience_s:
                n, others = self.membership.standings[self.me].n, set(self.membership.members) - {self.me}
                raise NeighborsLate(n, sorted(others), waited_s, self.host.where(n))
            self.link()
            self.say([*messages, *self.assembly.unsent()])
            self.host.changed.set()
            await asyncio.sleep(TICK_S)

    # ---- the run ---------------------------------------------------------------------------

    async def work(self) -> None:
        """From the first view to the last goodbye."""
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self.host.listen()), tasks.create_task(self.gossip())]
                await self.meet()
                problem, model = await self.begin()
                while not self.is_over:
                    await self.train(problem, model)
                    await self.part()
                for task in others:
                    task.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def meet(self) -> None:
        """Wait until the sample counts of all members are known, and one that returns for a word of any of them.

        Raises
        ------
        NeighborsLate
            Names those that did not come.
        """
        loop, patience_s = asyncio.get_running_loop(), self.experiment.run.patience_s
        began_s, n = loop.time(), int(self.last.agent["n"]) if self.last is not None else 0
        if not await self.host.together(n, lambda: self.absentees, began_s + patience_s):
            where = "first epoch" if self.last is None else f"waking {n}"
            raise NeighborsLate(n, self.absentees, loop.time() - began_s, where)
        self.host.event("ready", samples=self.membership.n_samples_total)
        await self.host.line_up()

    @property
    def absentees(self) -> tuple[PeerId, ...]:
        """For whom this peer waits before it begins.

        One that returns when the others are done, or cannot be reached, is not to find them all lost, and to
        go on with its own data alone.
        """
        membership = self.membership
        others = tuple(j for j in membership.members if j != self.me)
        done = all(membership.standings[j].done == membership.epoch for j in others)
        if self.last is None or self.has_company or done:
            return membership.missing
        return others

    async def begin(self) -> tuple[Problem, Model]:
        """The problem of the members met, and the first state.

        Raises
        ------
        ConfigError
            The shard, the initial parameters and the model do not fit.
        """
        host, last = self.host, self.last
        learned = host.learn(self.membership.n_samples_total, self.membership.n_classes)
        problem, model = learned.problem, learned.model
        if last is not None:
            self.state = host.restored(last.agent, learned)
            members = self.flows.members
            samples = sum(last.standings[j].n_samples for j in members)
            problem = learning.reweighted(self.experiment, problem, samples, len(members))
        else:
            self.is_new = self.is_new or self.membership.comes_late
            alpha = config.alpha_of(self.experiment, host.assignment.ground.contraction)
            self.state = await host.threads.compute(self.first, problem, learned.w, alpha, len(self.membership.members))
            if host.watch is not None:
                self.state = await host.threads.compute(alignment.begun, problem, self.state, host.watch)
        await host.threads.on_disk(npz.save, host.initial_path, everything(model, learned.w))
        self.membership.begin(time.monotonic())
        self.quiet_s = time.monotonic() + self.experiment.run.departure_s
        return problem, model

    def first(self, problem: Problem, w: Vector, alpha: float, n_agents: int) -> agent.State:
        """The state at the beginning of an epoch."""
        state, caution = agent.initial(problem, w, alpha), self.caution_among(n_agents)
        if self.host.renewal is not None:
            state = renewal.begun(state)
        return state if caution is None else careful.begun(problem, state, caution)

    def caution_among(self, n_agents: int) -> careful.Caution | None:
        """How tau is chosen in an epoch of so many members; None where it is a setting."""
        return config.caution_of(self.experiment, self.host.assignment.ground.contraction, n_agents)

    async def train(self, problem: Problem, model: Model) -> None:
        """Waking after waking, through all epochs, until all members have made theirs; and the result."""
        every, saved_n = self.experiment.run.checkpoint_every, -1
        while True:
            assert self.state is not None
            if (opening := self.assembly.opening) is not None:
                problem = await self.open_epoch(problem, opening)
                saved_n = -1
            if every and (saved_n < 0 or self.state.n - saved_n >= every):
                await self.host.threads.on_disk(self.keep, self.snapshot(self.state))
                saved_n = self.state.n
            if self.is_complete:
                break
            if await self.rest():
                await self.wake(problem)
        self.membership.know()
        if every:
            await self.host.threads.on_disk(self.keep, self.snapshot(self.state))
        end = everything(model, problem.regularizer.nearest(self.state.w))
        await self.host.threads.on_disk(npz.save, self.host.folder / files.FINAL, end)
        self.host.event("done", n=self.state.n, epoch=self.flows.epoch, members=self.flows.members)

    @property
    def is_complete(self) -> bool:
        """Whether all members have made all wakings of the epoch that this agent is in."""
        return self.membership.complete and self.membership.epoch == self.flows.epoch

    async def begun_at(self, problem: Problem, state: agent.State, n_agents: int) -> agent.State:
        """The state of an agent that begins where this one is: what it knew was of elsewhere, or of others."""
        field = alignment.chosen(problem, state)
        first = await self.host.threads.compute(self.first, field, state.w, state.alpha, n_agents)
        return alignment.kept(state, first.changed(n=state.n, anchored=state.n))

    async def open_epoch(self, problem: Problem, opening: Opening) -> Problem:
        """Begin an epoch, with the problem of its members."""
        state = self.state
        assert state is not None
        problem = learning.reweighted(self.experiment, problem, opening.n_samples, len(opening.members))
        self.state = await self.begun_at(problem, state, len(opening.members))
        self.assembly.open_epoch(opening, self.state)
        self.quiet_s = time.monotonic() + self.experiment.run.departure_s
        self.link()
        members, samples = opening.members, opening.n_samples
        self.host.event("epoch", n=state.n, epoch=opening.epoch, members=members, samples=samples)
        named = history.ranges(members)
        self.host.assignment.tell(f"{self.host.where(state.n)}: a new epoch, members {named}, {samples} samples")
        return problem

    async def rest(self) -> bool:
        """Wait until there is something worth waking for; False where the view has changed before, or all is over.

        A newcomer waits to hear where its neighbors are before it says where it is, for as long as one that lives may
        be silent.
        """
        loop = asyncio.get_running_loop()
        while self.assembly.opening is None and not self.is_complete:
            wakes_s = self.assembly.pace.wakes_s(self.flows.news)
            if self.is_new and not self.flows.news:
                wakes_s = max(wakes_s, self.quiet_s)
            if loop.time() >= wakes_s:
                return True
            await self.host.until(self.host.changed.is_set, wakes_s)
            self.host.changed.clear()
        return False

    async def wake(self, problem: Problem) -> None:
        """One waking.

        Raises
        ------
        SolveError
            The numbers broke down.
        """
        assembly, flows, transport, state = self.assembly, self.flows, self.host.transport, self.state
        assert state is not None
        problem = alignment.chosen(problem, state)
        began_s, news, n_agents, slept_s = time.monotonic(), flows.news, len(flows.members), assembly.pace.woke_s
        with np.errstate(all="ignore"):  # as in `Threads.compute`
            theirs, phi = flows.absorb(), flows.phi
        rule, is_new = config.step_of(self.experiment), self.is_new and bool(theirs)
        woken = await self.host.threads.compute(
            waking.wake, problem, state, flows.mass.high, theirs, n_agents, rule, is_new
        )
        self.is_new = self.is_new and not theirs
        following, caution = woken.state, self.caution_among(n_agents)
        again, watch = self.host.renewal, self.host.watch
        if is_new:
            following, caution = await self.begun_at(problem, following, n_agents), None
        elif again is not None:
            following = await self.host.threads.compute(renewal.renewed, problem, following, again, n_agents)
        if caution is not None:
            here = problem.linearized(following.anchor)
            following = await self.host.threads.compute(careful.adapted, here, woken.seen, following, caution)
        if watch is not None and not is_new:
            following = await self.host.threads.compute(alignment.watched, problem, state, following, watch)
        seen, solution = woken.seen, woken.solution
        self.state = following  # who is interrupted before has not woken, after it has: nothing is awaited from here on
        with np.errstate(all="ignore"):
            flows.track(waking.source(self.state))
            residual = problem.stationarity(seen.w, n_agents * seen.y)
            disagreement = float(np.sum((self.state.w - woken.v) ** 2))
        now = time.monotonic()
        assembly.pace.woke(began_s, now, news)
        receivers = assembly.push(state.n, woken.v, now)
        assembly.woke(self.state)
        self.say(assembly.unsent())
        self.say(assembly.spread())
        (sent, received), self.counted_bytes = self.counted_bytes, (transport.bytes_sent, transport.bytes_received)
        self.host.journal.round(
            iteration=state.n,
            time_s=now - self.host.began_s,
            objective_local=seen.value,
            objective_estimate=n_agents * seen.objective + problem.regularizer.value(seen.w),
            residual=residual,
            disagreement=disagreement,
            alpha=seen.alpha,
            tau=seen.tau or problem.surrogate.tau,
            solver=solution.method if solution else "none",
            solver_residual=solution.residual if solution else 0.0,
            solver_iterations=solution.iterations if solution else 0,
            solve_s=now - began_s,
            wait_s=max(0.0, began_s - slept_s) if slept_s > self.host.began_s else 0.0,  # it has woken before
            bytes_sent=transport.bytes_sent - sent,
            bytes_received=transport.bytes_received - received,
            neighbors=receivers,
            heard=sorted(theirs),
            phi=phi,
            epoch=flows.epoch,
            members=n_agents,
            **({} if again is None else renewal.told(seen, again)),
            **({} if watch is None else alignment.told(seen, watch)),
            **self.host.drops.numbers,
        )
        if not is_new:
            self.host.tell_renewal(self.state)
        self.host.went_back(state, self.state)

    async def part(self) -> None:
        """Say that all is over, and stay until all members know; where the view changes meanwhile, it is not over."""
        self.say(self.assembly.gossip())
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.experiment.run.departure_s
        assembly = self.assembly
        await self.host.until(lambda: assembly.goes_on or assembly.is_over, deadline_s)
        if not assembly.goes_on:
            self.say(assembly.part(""))
            self.is_over = True

    # ---- the end ---------------------------------------------------------------------------

    @property
    def absent(self) -> Sequence[PeerId]:
        """Nobody needs a peer whose run is over."""
        return ()

    def snapshot(self, state: agent.State) -> checkpoint.Moment:
        """Checkpoint between two wakings."""
        run_id, digest, standings = self.experiment.run_id, self.host.digest, dict(self.membership.standings)
        agent_numbers = structs.asdict(state)
        return checkpoint.Moment(
            run_id,
            digest,
            self.membership.n_classes,
            self.assembly.opened_n,
            standings,
            agent_numbers,
            self.flows.snapshot(),
        )

    def keep(self, moment: checkpoint.Moment) -> None:
        """Put a checkpoint on the disk, and the lines of its wakings before it."""
        with self.host.threads.writing:
            self.host.journal.sync()
            checkpoint.save_moment(self.host.checkpoint_path, moment)

    async def end(self, code: int, line: str, offender: PeerId | None) -> None:
        """Leave, unless all is over; with a checkpoint if interrupted; and journal how it ended."""
        if code != DONE:
            self.say(self.assembly.part(line))
        keeps = self.experiment.run.checkpoint_every and self.flows.epoch != NO_EPOCH  # before the first it begins anew
        if code == INTERRUPTED and self.state is not None and keeps:
            self.keep(self.snapshot(self.state))
        self.host.event("end", code=code, problem=line, absent=(), **self.host.drops.numbers)
        self.host.journal.check()
