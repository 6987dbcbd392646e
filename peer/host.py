"""What every peer process is made of: its files, its transport, its journal, and its threads.

A life, in rounds or without, is made of these: `peer.rounds_mode`, `peer.async_mode`. What comes in
goes to the life; what is no valid message, or not allowed now, is dropped here, counted, and
journaled once.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Protocol, final

from peer import (
    addresses,
    agent,
    alignment,
    checkpoint,
    config,
    door,
    files,
    history,
    learning,
    memory,
    npz,
    settings,
    wire,
)
from peer.agent import State
from peer.alignment import Watch
from peer.arrays import Matrix, Vector
from peer.changes import Changes
from peer.drops import Drops
from peer.errors import ConfigError, DisagreementError, RemoteError
from peer.journal import Journal, claim
from peer.learning import Learned
from peer.messages import Message
from peer.openmetrics import Tally
from peer.shards import Shard
from peer.starting_line import StartingLine
from peer.threads import Pools, Threads
from peer.transport import NOBODY, NOTHING, Hub, Keys, Nearby, Transport
from topology import PeerId

NEWS_S: Final = 0.02
"""News of other peers are gathered for so long before they are passed on: 64 peers on a ring would else
send 8,000 of them. Longer, as `slack` says, where more share a host, for news of many are long."""

WAITING_S: Final = 5.0
"""Peers that do not come are named after so long: no start on one host takes it."""

TELL_S: Final = 1.0
"""Between two times that a peer which publishes says what it runs: so long does a page wait for its heading."""

STOPPED_S: Final = 1.0
"""A process that wakes up so much too late was stopped: by SIGSTOP, by a container's freezer, or with its host."""


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
    nearby : Nearby
        Where the other peers of this host listen beside their addresses, and this one.
    contact : (int, str) or None
        Without rounds: a peer, and where it listens, by which this one comes in.
    address : str
        Where a newcomer listens, as others see it; that of an initial member is in the experiment.
    lifeline : int or None
        Descriptor that becomes readable when the process that started this one is gone.
    resume : bool
        From the last checkpoint; from the start where there is none yet.
    facts : Facts or None
        What whoever starts all peers has found of their shards: then they need not ask each other before round 0.
    shard : Shard or None
        Its samples, where whoever starts it has them at hand; None: it reads them.
    start : StartingLine or None
        Which the peers of one launch leave together.
    stay : bool
        When done, be there for neighbors that may need this peer still, until it is told to go.
    tell : callable
        Takes a line for the user: for whom this peer waits.
    page : (str, int) or None
        Host and port where it serves its numbers as OpenMetrics text.
    """

    experiment: settings.Experiment
    ground: config.Ground
    me: PeerId
    run_dir: Path
    keys: Keys | None
    listener: socket.socket | None = None
    nearby: Nearby = NOBODY
    contact: tuple[PeerId, str] | None = None
    address: str = ""
    lifeline: int | None = None
    resume: bool = False
    facts: config.Facts | None = None
    shard: Shard | None = None
    start: StartingLine | None = None
    stay: bool = False
    tell: Callable[[str], None] = lambda line: None
    page: tuple[str, int] | None = None

    @property
    def folder(self) -> Path:
        """Folder of this peer in the run directory."""
        return files.folder_of(self.run_dir, self.me)


@final
@dataclass(frozen=True)
class Company:
    """What the agents of one process have in common.

    Parameters
    ----------
    hub : Hub
        Of their transports.
    pools : Pools
        Their threads.
    """

    hub: Hub
    pools: Pools

    async def close(self) -> None:
        """Let go of everything."""
        self.pools.close()
        await self.hub.close()


class Life(Protocol):
    """What a host tells of the world outside."""

    @property
    def queue_messages(self) -> int:
        """Messages that may wait for one peer on this side."""

    def writable(self, j: PeerId) -> None:
        """A link that was full has room again."""

    def connected(self, j: PeerId) -> None:
        """A connection to a peer is up."""

    def disconnected(self, j: PeerId) -> None:
        """A connection to a peer broke."""

    def hear(self, message: Message) -> None:
        """Take in a message; RemoteError refuses it, NeighborLeft ends this peer."""

    @property
    def began(self) -> bool:
        """Whether a peer with which no run is possible is dropped, and does not end this one any more."""


@final
class Host:
    """What a life is made of.

    Nothing outside is touched before `open`, so that a shard or a setting that cannot be used leaves no trace.

    Parameters
    ----------
    assignment : Assignment
    company : Company or None
        None: this peer has its process to itself.

    Raises
    ------
    ConfigError
        The shard or the initial parameters cannot be used.
    """

    def __init__(self, assignment: Assignment, company: Company | None = None) -> None:
        experiment, me = assignment.experiment, assignment.me
        self.assignment, self.experiment, self.me, self.company = assignment, experiment, me, company
        self.folder = assignment.folder
        self.shard = assignment.shard or learning.shard_of(experiment, me)
        self.initial = learning.initial_of(experiment, me)
        self.common = config.common_settings(experiment, assignment.ground, self.shard, me)
        self.digest = config.digest(self.common)
        n_ids = experiment.peers if experiment.run.mode == "rounds" else settings.MAX_PEERS
        self.form = config.form_of(experiment, n_ids, 0)
        self.changed = Changes()
        self.drops = Drops()
        self.tally = Tally(experiment.run_id)
        self.renewal = learning.renewal_of(experiment)
        self.watch: Watch | None = None
        pools, takes_turns = company and company.pools, bool(experiment.model.python)
        self.threads = Threads(pools, experiment.surrogate.cores, takes_turns)
        self.slack = door.slack(1 if assignment.facts is None else experiment.peers)
        self.began_s = time.monotonic()
        self.incarnation: int | None = None
        self._opened = ExitStack()
        self._news: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None

    def open(self, life: Life, links: Mapping[PeerId, str]) -> tuple[int, str]:
        """Listen, connect to the peers at these addresses, and claim the peer's folder.

        Returns
        -------
        (int, str)
            Incarnation and instance of this process: how often the peer was started before, and a
            name of its own.

        Raises
        ------
        ConfigError
            An address cannot be used, or another process has the folder.
        OSError
            The folder cannot be written to.
        """
        assignment, me = self.assignment, self.me
        self.life = life
        if assignment.start is not None:
            self._opened.callback(assignment.start.leave)
        guess = replace(self.form, n_parameters=self._guess_of_parameters())
        largest = max(guess.max_flow_bytes, guess.max_frame_bytes)
        company = self.company
        self.transport = Transport(
            me,
            assignment.keys,
            largest,
            life.connected,
            life.disconnected,
            self.refused,
            self.drop,
            life.writable,
            life.queue_messages,
            company.hub if company else None,
            slack=self.slack,
            nearby=assignment.nearby,
            n_links=len(links),
        )
        self._opened.callback(self.transport.abandon)
        self.transport.expect(largest, self.missed_bytes(guess))
        self.transport.bind(addresses.bind_of(self.experiment, me, assignment.address), assignment.listener)
        if self.experiment.run.publish:
            address = settings.published_at(self.experiment.run.publish, me)
            self.transport.publish(address, bool(self.experiment.transport.keys))
            self._tell_watchers(settings.to_toml(self.experiment).encode())
        for j, address in links.items():
            self.transport.connect(j, address)
        return self.claim(), secrets.token_hex(8)

    def claim(self) -> int:
        """Make the peer's folder this process's own, unless that was done already; how often it was started before.

        Raises
        ------
        ConfigError
            Another process has the folder.
        OSError
            It cannot be written to.
        """
        if self.incarnation is None:
            self._opened.enter_context(claim(self.folder))
            alone = self.assignment.facts is None  # else all are on this host: a thousand peers would wait for its disk
            starts = self.folder / "starts"
            if self.resumes and not starts.exists():
                problem = f"{starts}: expected the number of starts beside a checkpoint, found none"
                raise ConfigError("--resume", problem)
            self.incarnation = checkpoint.next_incarnation(starts, durable=alone)
        return self.incarnation

    @property
    def address(self) -> str:
        """Where this peer listens, as others see it."""
        listed = self.experiment.transport.addresses
        return listed[self.me] if self.me < len(listed) else self.assignment.address

    def reach(self, j: PeerId, address: str) -> bool:
        """Keep a connection to a peer from now on; False, and journaled once, where that cannot be."""
        try:
            self.transport.connect(j, address)
        except (ConfigError, OSError) as error:
            self.journal.once("unreachable", j, time.monotonic() - self.began_s, peer=j, problem=str(error))
            return False
        return True

    def write_on(self, n: int) -> None:
        """Open the journal, of a resumed peer behind its first n rounds or wakings.

        Raises
        ------
        ConfigError
            The journal does not have these.
        OSError
            The folder cannot be written to.
        """
        if self.assignment.resume:
            npz.sweep(self.folder)
            if (found := len(history.rounds(self.folder, n))) < n:
                path = self.folder / files.METRICS
                raise ConfigError("--resume", f"{path}: expected {n} lines, as the checkpoint has it, found {found}")
        publish = self._published if self.experiment.run.publish else None
        later = None if publish else asyncio.get_running_loop().call_later  # who watches has room for some lines only
        self.journal = Journal(self.folder, n if self.assignment.resume else None, publish, later)
        if self.assignment.page is not None:
            self.journal.told = partial(self.tally.add, self.me)
        self._opened.callback(self.journal.close)
        if not (self.assignment.run_dir / files.EXPERIMENT).exists():
            config.record(self.experiment, self.assignment.ground, self.assignment.run_dir)

    def _published(self, journal: str, line: bytes) -> None:
        """Tell whoever listens what has been journaled."""
        self.transport.tell([journal.encode(), b"%d" % self.me, line])

    def _tell_watchers(self, experiment: bytes) -> None:
        """Tell whoever listens, again and again, what is run: they may have come just now."""
        self._published("experiment", experiment)
        self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell_watchers, experiment)

    def _guess_of_parameters(self) -> int:
        """An upper bound on p while the number of classes is still unknown."""
        most = wire.MAX_CLASSES >> 8
        if self.experiment.model.python:  # p as a function of q is a line, if any: never above that through 0
            model = learning.model_of(self.experiment, self.shard, self.shard.n_classes, self.initial)
            return model.layout.size * (1 if self.experiment.model.outputs else -(-most // model.n_outputs))
        q = max(self.experiment.model.outputs, self.initial.n_outputs, most)
        return learning.n_parameters_of(self.experiment, math.prod(self.shard.x.shape[1:]), q)

    # ---- files -----------------------------------------------------------------------------

    @property
    def initial_path(self) -> Path:
        """Where the first parameters are, once the peer has begun."""
        return self.folder / files.INITIAL

    @property
    def checkpoint_path(self) -> Path:
        """Where the last checkpoint is."""
        return self.folder / files.CHECKPOINT

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.assignment.resume and self.checkpoint_path.exists()

    def event(self, kind: str, **facts: object) -> None:
        """Journal something that happened."""
        self.journal.event(kind, time.monotonic() - self.began_s, **facts)

    # ---- messages --------------------------------------------------------------------------

    def refused(self, j: PeerId) -> None:
        """A neighbor does not know this peer's key."""
        self.journal.once("refused", j, time.monotonic() - self.began_s, peer=j, problem="it does not know our key")

    def say(self, messages: Sequence[tuple[PeerId, Message]]) -> list[tuple[PeerId, Message]]:
        """Send in this order; those that were not, for the connection to a peer is down or full."""
        failed: list[tuple[PeerId, Message]] = []
        unreachable: set[PeerId] = set()
        last, packed = None, NOTHING
        for j, message in messages:
            if message is not last and j not in unreachable:  # the same to several neighbors is encoded once
                last, packed = message, self.transport.pack(wire.encode(message, self.form))
            if j in unreachable or not self.transport.send(j, packed):
                unreachable.add(j)
                failed.append((j, message))
        return failed

    async def listen(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Take in messages, also from neighbors that come back after a goodbye, until this is canceled."""
        if goes_on():
            await self.transport.serve(lambda came_from, frames: self._take(came_from, frames) and goes_on())

    def _take(self, came_from: PeerId, frames: list[wire.Frame]) -> bool:
        """Take in one message, or drop it; a peer with which no run is possible ends this one before it has begun."""
        try:
            self.life.hear(wire.decode(frames, self.form, came_from))
        except RemoteError as error:
            if isinstance(error, DisagreementError) and not self.life.began:
                raise
            self.drop(error)
            self.transport.blame()
        self.changed.set()
        return True

    def drop(self, error: RemoteError) -> None:
        """Count what was dropped, and journal the first of its kind from each sender."""
        if self.drops.add(error):
            self.event("dropped", cause=error.cause, peer=error.sender, problem=str(error))

    def soon(self, spread: Callable[[], object]) -> None:
        """Pass news on, when others have had time to gather."""

        def gathered() -> None:
            self._news = None
            spread()

        if self._news is None:
            self._news = asyncio.get_running_loop().call_later(NEWS_S * self.slack, gathered)

    # ---- waiting ---------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a condition that a message may bring about; False if the deadline passed first."""
        if not condition():
            self.transport.look()
        return await self.changed.until(condition, deadline_s)

    async def line_up(self) -> None:
        """Having met its neighbors, wait until all that were launched with it have, too, or take too long for that."""
        if self.assignment.start is not None:
            await self.assignment.start.wait(WAITING_S * self.slack)

    async def together(self, n: int, missing: Callable[[], Sequence[PeerId]], deadline_s: float) -> bool:
        """Wait, in round or waking n, until no peer is missing; False if the deadline passed first.

        Says for whom it waits, and since when: after WAITING_S, and whenever that has doubled. Where this
        process was stopped it waits anew: what came meanwhile has yet to be read.
        """
        loop = asyncio.get_running_loop()
        began_s, pause_s = loop.time(), WAITING_S
        while not await self.until(lambda: not missing(), wakes_s := min(deadline_s, began_s + pause_s)):
            waited_s = loop.time() - began_s
            if loop.time() - wakes_s > STOPPED_S:
                began_s, deadline_s, pause_s = began_s + waited_s, deadline_s + waited_s, WAITING_S
                continue
            if loop.time() >= deadline_s:
                return False
            peers, since = list(missing()), datetime.now().astimezone() - timedelta(seconds=waited_s)
            self.event("waiting", n=n, peers=peers, since=since.isoformat(timespec="seconds"))
            named = ("peer " if len(peers) == 1 else "peers ") + ", ".join(map(str, peers))
            self.assignment.tell(f"{self.where(n)}: waits for {named}, since {since:%H:%M:%S} ({waited_s:.0f} s)")
            pause_s *= 2
        if pause_s > WAITING_S:
            waited_s = loop.time() - began_s
            self.event("together", n=n, waited_s=round(waited_s, 3))
            self.assignment.tell(f"{self.where(n)}: all are here, after {waited_s:.0f} s")
        return True

    def where(self, n: int) -> str:
        """Round or waking n, in words."""
        return f"{'round' if self.experiment.run.mode == 'rounds' else 'waking'} {n}"

    # ---- mathematics -----------------------------------------------------------------------

    def restored(self, numbers: Mapping[str, Vector | Matrix | float], learned: Learned) -> State:
        """The agent's state, of which a checkpoint has these fields.

        Raises
        ------
        ConfigError
            They are no state of what this agent learns.
        """
        try:
            return agent.restored(numbers, learned.w.size)
        except ValueError as error:
            problem = f"{self.checkpoint_path}: expected the state of this agent, found {error}"
            raise ConfigError("--resume", problem) from error

    def learn(self, n_samples_total: int, n_classes: int) -> Learned:
        """What this agent learns, now that M and the number of classes are known.

        Raises
        ------
        ConfigError
            The shard, the initial parameters and the model do not fit.
        """
        model = learning.model_of(self.experiment, self.shard, n_classes, self.initial)
        # who sees no shard has to know how to make the network again
        self.event("model", inputs=self.shard.x.shape[1:], outputs=model.n_outputs)
        found = learning.learned_of(
            self.experiment, self.me, self.shard, self.initial, model, n_samples_total, self.threads.each
        )
        self.watch = found.watch
        self.form = replace(self.form, n_parameters=model.layout.size)
        self.transport.expect(self.form.max_flow_bytes, self.missed_bytes(self.form))
        n_entries = self.shard.n_samples * model.n_outputs * model.layout.size
        if 8 * n_entries >= memory.LARGE_BYTES:  # of J, or of what is made in its place
            memory.keep()
        return found

    def missed_bytes(self, form: wire.Format) -> int:
        """Of all shares of a neighbor that a peer may have missed which goes on from a checkpoint."""
        experiment = self.experiment
        if experiment.run.mode != "rounds" or not self.resumes:
            return 0
        return experiment.run.checkpoint_every * experiment.topology.consensus_steps * wire.share_bytes(form)

    def tell_renewal(self, state: State) -> None:
        """Journal that, and why, an agent has linearized its network by its own choice before a round or waking."""
        if self.renewal is not None and not self.renewal.every and state.anchored == state.n:
            beyond = f"its gradient was {state.departure:.3g} off, more than {state.allowed:.3g}"
            self.event("relinearized", n=state.n, departure=state.departure, allowed=state.allowed, reason=beyond)

    def went_back(self, state: State, following: State) -> None:
        """Say so, if the agent goes back to backprop at the end of the round or waking from `state`."""
        if self.watch is None or state.back_n or not following.back_n:
            return
        cosine, reason = alignment.told(following, self.watch)["alignment"], alignment.reason(following, self.watch)
        self.event("backprop", n=following.back_n, cosine=cosine, reason=reason)
        self.assignment.tell(f"{self.where(following.n)}: back to backprop, for {reason}")

    # ---- the end ---------------------------------------------------------------------------

    def abandon(self) -> None:
        """Let go of everything at once: this peer cannot start."""
        if self._telling is not None:
            self._telling.cancel()
        self._opened.close()

    async def close(self) -> None:
        """Let go of everything."""
        for timer in (self._news, self._telling):
            if timer is not None:
                timer.cancel()
        self.threads.close()
        await self.transport.close()
        self.threads.written()
        self._opened.close()
