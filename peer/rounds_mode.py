"""The life of a peer in rounds.

Policy: a neighbor that is late is waited for until `patience_s`; a neighbor with other settings,
before round 0, stops both; a neighbor that gives up for good stops its neighbors, and they theirs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final, final

import numpy as np

from peer import agent, careful, checkpoint, config, npz, stopping
from peer.arrays import DTYPES
from peer.checkpoint import Checkpoint
from peer.errors import ConfigError, NeighborLeft, NeighborsLate, ProtocolError
from peer.host import DONE, INTERRUPTED, Host
from peer.messages import Message, Share
from peer.optim.models import MLP
from peer.problem import Problem
from peer.session import Outgoing
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
        self.neighbors = ground.union[self.me]
        self.last = self._last_checkpoint()
        self.greeted: set[PeerId] = set()
        self.alpha = config.alpha_of(self.experiment, ground)
        self.caution = config.caution_of(self.experiment, ground, self.experiment.peers)
        self.state: agent.State | None = None
        self.solve_s = math.inf
        process = host.open(self, {j: self.experiment.transport.addresses[j] for j in self.neighbors})
        self.session = config.session_of(self.experiment, ground, self.me, host.shard, process, self.last)
        self.rounds = self.session.rounds
        host.write_on(self.rounds.n)
        host.event("start", id=self.me, n=self.rounds.n, samples=host.shard.n_samples, neighbors=self.neighbors)

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
        """
        self.say(self.session.receive(message))
        if self.session.given_up is not None and not self.session.complete:
            j, reason = self.session.given_up
            raise NeighborLeft(f"round {self.rounds.n}: peer {j} gave up: {reason}")
        if self.session.has_news:
            self.host.soon(lambda: self.say(self.session.spread()))

    # ---- the run ---------------------------------------------------------------------------

    async def work(self) -> None:
        """From the first Hello to the last Bye."""
        await self.meet()
        problem, model = await self.begin()
        try:
            async with asyncio.TaskGroup() as both:
                listening = both.create_task(self.host.listen())
                await self.train(problem, model)
                await self.part()
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def meet(self) -> None:
        """Wait until all peers' sample counts are known.

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
                listening = both.create_task(self.host.listen(lambda: bool(roster.missing)))
                if not await self.host.together(self.rounds.n, lambda: roster.missing, began_s + patience_s):
                    raise NeighborsLate(0, roster.missing, loop.time() - began_s)
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        self.say(self.session.begin())
        self.host.event("ready", samples=roster.n_samples_total)

    async def begin(self) -> tuple[Problem, MLP]:
        """The problem, now that M and the number of classes are known, and the first state.

        Raises
        ------
        ConfigError
            The shard, the initial parameters and the model do not fit.
        """
        experiment, last, roster = self.experiment, self.last, self.session.roster
        problem, model, w = self.host.learn(roster.n_samples_total, roster.n_classes)
        if last is not None:
            self.state = agent.State(n=last.n, **last.vectors, **last.scalars)  # type: ignore[arg-type]
        else:
            self.state = await self.host.compute(agent.initial, problem, w, self.alpha)
            if self.caution is not None:
                self.state = await self.host.compute(careful.begun, problem, self.state, self.caution)
        if experiment.run.checkpoint_every:
            checkpoint.save(self.host.checkpoint_path, self.snapshot(self.state))
        npz.save(self.host.initial_path, model.layout.unflatten(w))
        return problem, model

    async def train(self, problem: Problem, model: MLP) -> None:
        """All rounds, and the result."""
        state = self.state
        assert state is not None
        every = self.experiment.run.checkpoint_every
        while not self.is_through(state):
            state = await self.round(problem, state)
            self.state = state
            if every == 0:
                self.rounds.floor = state.n
            elif state.n % every == 0 or self.is_through(state):
                await self.host.compute(self.keep, self.snapshot(state))
                self.rounds.floor = state.n
        npz.save(self.host.folder / "final.npz", model.layout.unflatten(state.w))
        early = stopping.is_over(state, self.experiment.run.tolerance)
        self.host.event("done", n=state.n, stopped="tolerance" if early else "iterations")
        if early:
            all_know = f"nobody measured more than {state.agreed:.3g} in the last window but one"
            self.host.assignment.tell(f"round {state.n}: stops, for {all_know}")

    def is_through(self, state: agent.State) -> bool:
        """Whether no round is left to be done: then no neighbor will ever send a share of this one."""
        return state.n >= self.experiment.iterations or stopping.is_over(state, self.experiment.run.tolerance)

    async def part(self) -> None:
        """Say goodbye, and stay until the neighbors, which may still need shares again, have said so too."""
        self.say(self.session.part(""))
        loop, patience_s = asyncio.get_running_loop(), self.experiment.run.patience_s
        while not await self.host.together(self.rounds.n, lambda: self.session.absent, loop.time() + patience_s):
            if not any(map(self.rounds.is_connected, self.session.absent)):
                break  # they are gone; who is there, but not through yet, is waited for

    async def round(self, problem: Problem, state: agent.State) -> agent.State:
        """One round of NEXT; the state after it.

        Raises
        ------
        NeighborsLate
            Names the round and the missing neighbors.
        SolveError
            The numbers broke down.
        """
        rounds, experiment = self.rounds, self.experiment
        sent, received, began = self.host.transport.bytes_sent, self.host.transport.bytes_received, time.monotonic()
        rounds.begin()
        neighbors = rounds.neighbors
        ahead = goes_ahead(state.y.nbytes, self.solve_s)
        if ahead:
            self.say(self.session.offer(state.objective, state.y, None, state.flood))
        proposal = await self.host.compute(agent.propose, problem, state, experiment.peers)
        self.say(self.session.offer(state.objective, None if ahead else state.y, proposal.z, state.flood))
        solved = time.monotonic()
        self.solve_s = solved - began
        waited, following = await self.mixed(problem, state, proposal)
        rounds.advance()
        self.host.journal.round(
            iteration=state.n,
            time_s=time.monotonic() - self.host.began_s,
            objective_local=state.value,
            objective_estimate=experiment.peers * state.objective + problem.regularizer.value(state.w),
            residual=problem.stationarity(state.w, experiment.peers * state.y),
            disagreement=float(np.sum((following.w - proposal.z) ** 2)),
            alpha=state.alpha,
            tau=state.tau or problem.surrogate.tau,
            solver=proposal.solution.method,
            solver_residual=proposal.solution.residual,
            solver_iterations=proposal.solution.iterations,
            solve_s=self.solve_s,
            wait_s=waited - solved,
            bytes_sent=self.host.transport.bytes_sent - sent,
            bytes_received=self.host.transport.bytes_received - received,
            neighbors=list(neighbors),
            **self.host.drops.numbers,
        )
        return following

    async def mixed(self, problem: Problem, state: agent.State, proposal: agent.Proposal) -> tuple[float, agent.State]:
        """When the shares of all neighbors of the round were here, and the state after it."""
        ground = self.host.assignment.ground
        weights = ground.weights(ground.schedule.graph(state.n), self.me)
        rule, dtype = config.step_of(self.experiment), DTYPES[self.experiment.transport.wire_dtype]
        clipping = config.clipping_of(self.experiment, self.neighbors, self.alpha)
        while True:
            await self.wait_for_neighbors()
            waited, shares = time.monotonic(), self.rounds.shares()
            try:
                following = await self.host.compute(
                    agent.absorb, problem, state, proposal, shares, weights, rule, dtype, clipping
                )
            except ProtocolError as error:
                if error.sender is None:
                    raise
                self.host.drop(error)
                self.rounds.refuse(error.sender)
            else:
                if self.caution is not None:
                    following = await self.host.compute(careful.adapted, problem, state, following, self.caution)
                if self.experiment.run.tolerance:
                    following = await self.host.compute(self.watched, problem, state, proposal, shares, following)
                return waited, following

    def watched(
        self,
        problem: Problem,
        state: agent.State,
        proposal: agent.Proposal,
        shares: Mapping[PeerId, Share],
        following: agent.State,
    ) -> agent.State:
        """The state after a round, with what it says of whether the run is to stop early."""
        experiment, schedule = self.experiment, self.host.assignment.ground.schedule
        dtype = DTYPES[experiment.transport.wire_dtype]
        measured = stopping.measure(problem, state, proposal, shares, following, experiment.peers, dtype)
        return stopping.watched(state, following, measured, shares, schedule, experiment.iterations)

    async def wait_for_neighbors(self) -> None:
        """Wait until the shares of all neighbors of the round are here, or one is late."""
        rounds = self.rounds
        loop = asyncio.get_running_loop()
        rounds.wait_from(loop.time())
        while not await self.host.together(rounds.n, lambda: rounds.missing, rounds.deadline_s):
            rounds.check_late(loop.time())

    # ---- the end ---------------------------------------------------------------------------

    @property
    def absent(self) -> Sequence[PeerId]:
        """Neighbors that may need this peer still."""
        return self.session.absent

    def snapshot(self, state: agent.State) -> Checkpoint:
        """Checkpoint at the start of a round."""
        numbers = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "n"}
        vectors = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
        scalars = {name: value for name, value in numbers.items() if name not in vectors}
        kept = tuple(share for share in self.rounds.kept() if share.n < state.n)
        counts, n_classes = dict(self.session.roster.counts), self.session.roster.n_classes
        return Checkpoint(self.experiment.run_id, self.host.digest, state.n, counts, n_classes, vectors, scalars, kept)

    def keep(self, snapshot: Checkpoint) -> None:
        """Put a checkpoint on the disk, and the lines of its rounds before it."""
        self.host.journal.sync()
        checkpoint.save(self.host.checkpoint_path, snapshot)

    async def end(self, code: int, line: str, offender: PeerId | None) -> None:
        """Journal how it ended; checkpoint if it was interrupted; tell the neighbors if it failed.

        An offender, with whom no run is possible, must first hear of this peer's settings. A neighbor that is here,
        but to which the connection is not up yet, is waited for, for it could not be told.
        """
        if code == INTERRUPTED and self.state is not None and self.experiment.run.checkpoint_every:
            self.keep(self.snapshot(self.state))
        if code not in (DONE, INTERRUPTED):
            here = self.session.heard.difference(self.session.said_bye) | ({offender} - {None})
            await self.host.until(lambda: self.greeted >= here, asyncio.get_running_loop().time() + FAREWELL_S)
            self.say(self.session.part(line))
        absent = self.session.absent if code == DONE else ()
        self.host.event("end", code=code, problem=line, absent=absent, **self.host.drops.numbers)
        self.host.journal.check()
