"""One peer process: the only event loop, the clock, the threads, and the policy on errors.

Policy: what a stranger or a neighbor sends wrongly is dropped, counted, and journaled once; a
neighbor that is late is waited for until `patience_s`; a neighbor with other settings, before
round 0, stops both; a neighbor that gives up for good stops its neighbors, and they theirs.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, final

import numpy as np

from peer import agent, checkpoint, config, memory, npz, settings, wire
from peer.arrays import DTYPES
from peer.checkpoint import Checkpoint
from peer.errors import (
    ConfigError,
    DisagreementError,
    NeighborLeft,
    NeighborsLate,
    PeerError,
    ProtocolError,
    RemoteError,
    SolveError,
    WireError,
)
from peer.journal import Journal, claim, folder_of, truncate_metrics
from peer.optim.models import MLP
from peer.problem import Problem
from peer.session import Outgoing
from peer.transport import Keys, Transport
from topology import PeerId
from topology.weights import metropolis

P = ParamSpec("P")
T = TypeVar("T")

AHEAD_BYTES: Final = 1 << 16
"""From this size on y may go ahead of z: a millisecond on a gigabit line. Smaller ones hide nothing."""

AHEAD_S: Final = 1e-3
"""Only behind a solve of this length does y go ahead: it costs a second message, 6 % of an exchange at p = 1e6."""

NEWS_S: Final = 0.02
"""News of other peers are gathered for so long before they are passed on: 64 peers on a ring would else
send 8,000 of them."""

WAITING_S: Final = 5.0
"""Peers that do not come are named after so long: no start on one host takes it."""

FAREWELL_S: Final = 2.0
"""How long a peer that stops by an error tries to tell those that do not know it yet."""

MATHEMATICS: Final = "mathematics"
"""Name of the thread on which a peer computes."""

DONE, BAD_INPUT, LOST, BROKEN, INTERRUPTED = 0, 2, 3, 4, 130
"""Exit codes."""


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""What interrupts a peer: it writes a checkpoint and ends."""

CODES: Final[Mapping[type[PeerError], int]] = {
    ConfigError: BAD_INPUT,
    DisagreementError: BAD_INPUT,
    NeighborsLate: LOST,
    NeighborLeft: LOST,
    SolveError: BROKEN,
}
"""Exit code of each error that ends a peer."""


@final
@dataclass(frozen=True)
class Assignment:
    """What one peer process is to do.

    Parameters
    ----------
    experiment : Experiment
        With addresses.
    ground : Ground
        Its schedule.
    me : int
        Which peer it is.
    run_dir : Path
        Where `peers/000/` and its like are.
    keys : Keys or None
        None for security = "none".
    listener : socket or None
        Already listening at the peer's address.
    lifeline : int or None
        Descriptor that becomes readable when the process that started this one is gone.
    resume : bool
        From the last checkpoint; from the start where there is none yet.
    stay : bool
        When done, be there for neighbors that may need this peer still, until it is told to go.
    tell : callable
        Takes a line for the user: for whom this peer waits.
    """

    experiment: settings.Experiment
    ground: config.Ground
    me: PeerId
    run_dir: Path
    keys: Keys | None
    listener: socket.socket | None = None
    lifeline: int | None = None
    resume: bool = False
    stay: bool = False
    tell: Callable[[str], None] = lambda line: None

    @property
    def folder(self) -> Path:
        """Folder of this peer in the run directory."""
        return folder_of(self.run_dir, self.me)


def run(assignment: Assignment) -> tuple[int, str]:
    """Run a peer to its end.

    Returns
    -------
    int
        Exit code.
    str
        One line on what went wrong; empty if nothing did.
    """
    return asyncio.run(_run(assignment))


def rehearse(assignments: Sequence[Assignment], limit_s: float) -> None:
    """Run peers in this process, to their end or for a while; nobody is told how they got on."""

    async def all_of_them() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(limit_s, stop.set)
        await asyncio.gather(*(_live(assignment, stop) for assignment in assignments))

    asyncio.run(all_of_them())
    for thread in threading.enumerate():  # the caller may fork: none of them must be left
        if thread.name.startswith(MATHEMATICS):
            thread.join()


def goes_ahead(y_bytes: int, solve_s: float) -> bool:
    """Whether y is sent before the surrogate is solved, which took `solve_s` seconds the last time."""
    return y_bytes >= AHEAD_BYTES and solve_s >= AHEAD_S


async def _run(assignment: Assignment) -> tuple[int, str]:
    """The life of a peer; of one that stays, one life after the other, as long as somebody may need it."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    if assignment.lifeline is not None:
        loop.add_reader(assignment.lifeline, _once, loop, assignment.lifeline, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while True:
        code, line, absent = await _live(assignment, stop)
        if not assignment.stay or code != DONE or stop.is_set():
            return code, line
        if not absent:
            await stop.wait()
            return code, line
        assignment = replace(assignment, resume=True)


async def _live(assignment: Assignment, stop: asyncio.Event) -> tuple[int, str, Sequence[PeerId]]:
    """Exit code and line of one run of a peer, and who may need it still."""
    try:
        peer = _Peer(assignment)
    except ConfigError as error:
        return BAD_INPUT, str(error), ()
    work, told = asyncio.ensure_future(peer.work()), asyncio.ensure_future(stop.wait())
    told.add_done_callback(lambda _: work.cancel())
    code, line, offender = 1, "", None
    try:
        await work
        code = DONE
    except asyncio.CancelledError:
        code, line = INTERRUPTED, "interrupted"
    except PeerError as error:
        code, line = next(code for kind, code in CODES.items() if isinstance(error, kind)), str(error)
        offender = error.sender if isinstance(error, DisagreementError) else None
    except OSError as error:  # a disk that is full, a folder that is gone
        code, line = BAD_INPUT, f"{error.filename or assignment.folder}: {error.strerror}"
    except BaseException as error:
        line = f"a bug of this program: {error!r}"
        raise
    finally:
        told.cancel()
        await peer.end(code, line, offender)
        await peer.close()
    return code, line, peer.session.absent


def _once(loop: asyncio.AbstractEventLoop, descriptor: int, function: Callable[[], object]) -> None:
    """Call a function when a descriptor is readable, and not again: one that was closed stays readable."""
    loop.remove_reader(descriptor)
    function()


@final
class _Peer:
    """The parts of one peer, and what connects them."""

    def __init__(self, assignment: Assignment) -> None:
        experiment, me = assignment.experiment, assignment.me
        self.assignment, self.experiment, self.me = assignment, experiment, me
        self.shard = config.shard_of(experiment, me)
        self.initial = config.initial_of(experiment, me)
        self.neighbors = assignment.ground.union[me]
        self.digest = config.digest(config.common_settings(experiment, assignment.ground, self.shard))
        self.last = self._last_checkpoint()
        self.form = wire.Format(experiment.run_id, experiment.peers, 0, experiment.transport.wire_dtype)
        self.changed = asyncio.Event()
        self.greeted: set[PeerId] = set()
        self.dropped: Counter[str] = Counter()
        self.state: agent.State | None = None
        self.solve_s = math.inf
        self.news: asyncio.TimerHandle | None = None
        self.mathematics = ThreadPoolExecutor(1, thread_name_prefix=MATHEMATICS)
        widest = 8 * self._guess_of_parameters()
        self.transport = Transport(
            me,
            assignment.keys,
            max(widest, self.form.max_frame_bytes),
            self.connected,
            self.disconnected,
            self.refused,
            self.drop,
        )
        try:
            self.transport.bind(config.bind_of(experiment, me), assignment.listener)
            for j in self.neighbors:
                self.transport.connect(j, experiment.transport.addresses[j])
            self.lock = claim(assignment.folder)
            process = checkpoint.next_incarnation(assignment.folder / "starts"), secrets.token_hex(8)
            self.session = config.session_of(experiment, assignment.ground, me, self.shard, process, self.last)
            if assignment.resume:
                npz.sweep(assignment.folder)
                truncate_metrics(assignment.folder, self.session.rounds.n)
            self.journal = Journal(assignment.folder, assignment.resume)
            if not (assignment.run_dir / "experiment.toml").exists():
                config.record(experiment, assignment.ground, assignment.run_dir)
        except ConfigError:
            self.transport.abandon()
            raise
        except OSError as error:
            self.transport.abandon()
            raise ConfigError(
                "--out", f"cannot write {error.filename or assignment.folder}: {error.strerror}"
            ) from error
        self.rounds = self.session.rounds
        self.began_s = time.monotonic()
        self.event("start", id=me, n=self.rounds.n, samples=self.shard.n_samples, neighbors=self.neighbors)

    def _last_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from; None where this peer has yet to begin.

        Before its first share a peer writes `initial.npz`, and a checkpoint if it ever does: a
        process that got no further is followed by one that starts from the beginning.
        """
        if not self.assignment.resume:
            return None
        if not self.checkpoint_path.exists():
            if not self.initial_path.exists():
                return None
            begun = f"{self.assignment.folder}: expected a checkpoint, for this peer has begun its rounds; found none"
            raise ConfigError("--resume", begun)
        return checkpoint.load(self.checkpoint_path, self.experiment.run_id, self.digest, self.me)

    def _guess_of_parameters(self) -> int:
        """An upper bound on p while the number of classes is still unknown."""
        q = max(self.experiment.model.outputs, self.initial.n_outputs, wire.MAX_CLASSES >> 8)
        return MLP((self.shard.x.shape[1], *self.experiment.model.hidden, q), "tanh").layout.size

    def event(self, kind: str, **facts: object) -> None:
        """Journal something that happened."""
        self.journal.event(kind, time.monotonic() - self.began_s, **facts)

    # ---- connections and messages ----------------------------------------------------------

    def connected(self, j: PeerId) -> None:
        """A connection to a neighbor is up."""
        if self.say(self.session.connected(j)):
            self.greeted.add(j)
            self.changed.set()

    def disconnected(self, j: PeerId) -> None:
        """A connection to a neighbor broke."""
        self.session.disconnected(j)
        if j not in self.session.said_bye:
            self.event("disconnected", peer=j)

    def refused(self, j: PeerId) -> None:
        """A neighbor does not know this peer's key."""
        self.journal.once("refused", j, time.monotonic() - self.began_s, peer=j, problem="it does not know our key")

    def say(self, messages: Outgoing) -> bool:
        """Send; whether all was sent. A share that is not will be when its connection is up again."""
        failed: set[PeerId] = set()
        last, packed = None, self.transport.pack([])
        for j, message in messages:
            if j in failed:
                continue
            if message is not last:  # the same to several neighbors is encoded once
                last, packed = message, self.transport.pack(wire.encode(message, self.form))
            if not self.transport.send(j, packed):
                self.session.disconnected(j)
                self.transport.reconnect(j)
                failed.add(j)
        return not failed

    async def listen(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Take in messages, also from neighbors that come back after a goodbye, until this is canceled."""
        while goes_on():
            await self.take()

    async def take(self) -> None:
        """Take in one message, or drop it.

        Raises
        ------
        NeighborLeft
            A neighbor gave up, and this peer is not through.
        DisagreementError
            No run is possible with a neighbor; only before round 0.
        """
        try:
            came_from, frames = await self.transport.receive()
            message = wire.decode(frames, self.form)
            if message.sender != came_from:
                raise WireError("identity", f"it says it is peer {message.sender}", came_from)
            self.say(self.session.receive(message))
        except RemoteError as error:
            if isinstance(error, DisagreementError) and not self.session.roster.began:
                raise
            self.drop(error)
        if self.session.given_up is not None and not self.session.complete:
            j, reason = self.session.given_up
            raise NeighborLeft(f"round {self.rounds.n}: peer {j} gave up: {reason}")
        if self.session.has_news and self.news is None:
            self.news = asyncio.get_running_loop().call_later(NEWS_S, self.spread)
        self.changed.set()

    def drop(self, error: RemoteError) -> None:
        """Count what was dropped, and journal the first of its kind from each sender."""
        self.dropped[error.cause] += 1
        now = time.monotonic() - self.began_s
        self.journal.once("dropped", (error.cause, error.sender), now, cause=error.cause, problem=str(error))

    def spread(self) -> None:
        """Pass on the news that have gathered."""
        self.news = None
        self.say(self.session.spread())

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a condition that a message may bring about; False if the deadline passed first."""
        while not condition():
            self.changed.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self.changed.wait()
            except TimeoutError:
                return condition()
        return True

    async def together(self, missing: Callable[[], Sequence[PeerId]], deadline_s: float) -> bool:
        """Wait until no peer is missing; False if the deadline passed first.

        Says for whom it waits, and since when: after WAITING_S, and whenever that has doubled.
        """
        loop, n = asyncio.get_running_loop(), self.rounds.n
        began_s, pause_s = loop.time(), WAITING_S
        while not await self.until(lambda: not missing(), min(deadline_s, began_s + pause_s)):
            waited_s = loop.time() - began_s
            if loop.time() >= deadline_s:
                return False
            peers, since = list(missing()), datetime.now().astimezone() - timedelta(seconds=waited_s)
            self.event("waiting", n=n, peers=peers, since=since.isoformat(timespec="seconds"))
            named = ("peer " if len(peers) == 1 else "peers ") + ", ".join(map(str, peers))
            self.assignment.tell(f"round {n}: waits for {named}, since {since:%H:%M:%S} ({waited_s:.0f} s)")
            pause_s *= 2
        if pause_s > WAITING_S:
            waited_s = loop.time() - began_s
            self.event("together", n=n, waited_s=round(waited_s, 3))
            self.assignment.tell(f"round {n}: all are here, after {waited_s:.0f} s")
        return True

    # ---- the run ---------------------------------------------------------------------------

    async def work(self) -> None:
        """From the first Hello to the last Bye."""
        await self.meet()
        problem, model = await self.begin()
        try:
            async with asyncio.TaskGroup() as both:
                listening = both.create_task(self.listen())
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
        began_s = loop.time()
        try:
            async with asyncio.TaskGroup() as both:
                listening = both.create_task(self.listen(lambda: bool(roster.missing)))
                if not await self.together(lambda: roster.missing, began_s + self.experiment.run.patience_s):
                    raise NeighborsLate(0, roster.missing, loop.time() - began_s)
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        self.say(self.session.begin())
        self.event("ready", samples=roster.n_samples_total)

    async def begin(self) -> tuple[Problem, MLP]:
        """The problem, now that M and the number of classes are known, and the first state.

        Raises
        ------
        ConfigError
            The shard, the initial parameters and the model do not fit.
        """
        experiment, last = self.experiment, self.last
        model = config.model_of(experiment, self.shard, self.session.roster.n_classes, self.initial)
        problem = config.problem_of(experiment, model, self.shard, self.session.roster.n_samples_total)
        self.form = replace(self.form, n_parameters=model.layout.size)
        if 8 * model.layout.size >= memory.LARGE_BYTES:
            memory.keep()
        w = self.initial.vector(model, experiment.seed)
        if last is not None:
            self.state = agent.State(n=last.n, **last.vectors, **last.scalars)  # type: ignore[arg-type]
        else:
            self.state = await self.compute(agent.initial, problem, w, experiment.step.alpha)
        if experiment.run.checkpoint_every:
            checkpoint.save(self.checkpoint_path, self.snapshot(self.state))
        npz.save(self.initial_path, model.layout.unflatten(w))
        return problem, model

    async def train(self, problem: Problem, model: MLP) -> None:
        """All rounds, and the result."""
        state = self.state
        assert state is not None
        every = self.experiment.run.checkpoint_every
        while state.n < self.experiment.iterations:
            state = await self.round(problem, state)
            self.state = state
            if every == 0:
                self.rounds.floor = state.n
            elif state.n % every == 0 or state.n == self.experiment.iterations:
                await self.compute(self.keep, self.snapshot(state))
                self.rounds.floor = state.n
        npz.save(self.assignment.folder / "final.npz", model.layout.unflatten(state.w))
        self.event("done", n=state.n)

    async def part(self) -> None:
        """Say goodbye, and stay until the neighbors, which may still need shares again, have said so too."""
        self.say(self.session.part(""))
        loop, patience_s = asyncio.get_running_loop(), self.experiment.run.patience_s
        while not await self.together(lambda: self.session.absent, loop.time() + patience_s):
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
        sent, received, began = self.transport.bytes_sent, self.transport.bytes_received, time.monotonic()
        rounds.begin()
        neighbors = rounds.neighbors
        ahead = goes_ahead(state.y.nbytes, self.solve_s)
        if ahead:
            self.say(self.session.offer(state.objective, state.y, None))
        proposal = await self.compute(agent.propose, problem, state, experiment.peers)
        self.say(self.session.offer(state.objective, None if ahead else state.y, proposal.z))
        solved = time.monotonic()
        self.solve_s = solved - began
        waited, following = await self.mixed(problem, state, proposal)
        rounds.advance()
        self.journal.round(
            iteration=state.n,
            time_s=time.monotonic() - self.began_s,
            objective_local=state.value,
            objective_estimate=experiment.peers * state.objective + problem.regularizer.value(state.w),
            residual=problem.stationarity(state.w, experiment.peers * state.y),
            disagreement=float(np.sum((following.w - proposal.z) ** 2)),
            alpha=state.alpha,
            tau=problem.surrogate.tau,
            solver=proposal.solution.method,
            solver_residual=proposal.solution.residual,
            solver_iterations=proposal.solution.iterations,
            solve_s=self.solve_s,
            wait_s=waited - solved,
            bytes_sent=self.transport.bytes_sent - sent,
            bytes_received=self.transport.bytes_received - received,
            neighbors=list(neighbors),
            dropped=dict(self.dropped),
        )
        return following

    async def mixed(self, problem: Problem, state: agent.State, proposal: agent.Proposal) -> tuple[float, agent.State]:
        """When the shares of all neighbors of the round were here, and the state after it."""
        weights = metropolis(self.assignment.ground.schedule.graph(state.n), self.me)
        rule, dtype = config.step_of(self.experiment), DTYPES[self.experiment.transport.wire_dtype]
        while True:
            await self.wait_for_neighbors()
            waited, shares = time.monotonic(), self.rounds.shares()
            try:
                return waited, await self.compute(agent.absorb, problem, state, proposal, shares, weights, rule, dtype)
            except ProtocolError as error:
                if error.sender is None:
                    raise
                self.drop(error)
                self.rounds.refuse(error.sender)

    async def wait_for_neighbors(self) -> None:
        """Wait until the shares of all neighbors of the round are here, or one is late."""
        rounds = self.rounds
        loop = asyncio.get_running_loop()
        rounds.wait_from(loop.time())
        while not await self.together(lambda: rounds.missing, rounds.deadline_s):
            rounds.check_late(loop.time())

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of a computation on the thread of the mathematics, while messages are served."""

        def computed() -> T:
            with np.errstate(all="ignore"):  # what overflows ends in nan or infinity, and is found there
                return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self.mathematics, computed)

    # ---- the end ---------------------------------------------------------------------------

    @property
    def initial_path(self) -> Path:
        """Where the first parameters are, once the rounds have begun."""
        return self.assignment.folder / "initial.npz"

    @property
    def checkpoint_path(self) -> Path:
        """Where the last checkpoint is."""
        return self.assignment.folder / "checkpoint.npz"

    def snapshot(self, state: agent.State) -> Checkpoint:
        """Checkpoint at the start of a round."""
        numbers = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "n"}
        vectors = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
        scalars = {name: value for name, value in numbers.items() if name not in vectors}
        kept = tuple(share for share in self.rounds.kept() if share.n < state.n)
        counts, n_classes = dict(self.session.roster.counts), self.session.roster.n_classes
        return Checkpoint(self.experiment.run_id, self.digest, state.n, counts, n_classes, vectors, scalars, kept)

    def keep(self, snapshot: Checkpoint) -> None:
        """Put a checkpoint on the disk, and the lines of its rounds before it."""
        self.journal.sync()
        checkpoint.save(self.checkpoint_path, snapshot)

    async def end(self, code: int, line: str, offender: PeerId | None) -> None:
        """Journal how it ended; checkpoint if it was interrupted; tell the neighbors if it failed.

        An offender, with whom no run is possible, must first hear of this peer's settings.
        """
        if code == INTERRUPTED and self.state is not None and self.experiment.run.checkpoint_every:
            self.keep(self.snapshot(self.state))
        if offender is not None:
            deadline_s = asyncio.get_running_loop().time() + FAREWELL_S
            await self.until(lambda: offender in self.greeted, deadline_s)
        if code not in (DONE, INTERRUPTED):
            self.say(self.session.part(line))
        absent = self.session.absent if code == DONE else ()
        self.event("end", code=code, problem=line, absent=absent, dropped=dict(self.dropped))

    async def close(self) -> None:
        """Let go of everything."""
        if self.news is not None:
            self.news.cancel()
        self.mathematics.shutdown(wait=False, cancel_futures=True)
        await self.transport.close()
        self.journal.close()
        self.lock.close()
