"""All agents of a run in rounds in one process, without sockets: the same states as over sockets, bit for bit.

Nobody is late here, and nothing is lost; what agents say to each other is what the wire would have made of it. With
one BLAS thread, as each peer has, sums have the same last bits as theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from peer import config, files, gossip, learning, npz, validation, wire
from peer.actor import Actor
from peer.agent import Mixture, State
from peer.arrays import DTYPES, Vector, rounded
from peer.config import Ground
from peer.errors import BROKEN, DONE, ConfigError, SolveError
from peer.gossip import Course
from peer.journal import Journal
from peer.messages import Share
from peer.optim.models import Model
from peer.optim.regimes import everything
from peer.settings import Experiment
from peer.shards import Shard
from topology import PeerId


def told(i: PeerId, own: Mixture, n: int, wire_dtype: np.dtype[Any]) -> Share:
    """What the neighbors of agent i get in exchange n, rounded as the wire rounds."""
    y, z = rounded(own.y, wire_dtype) if own.y.size else None, rounded(own.z, wire_dtype)
    return Share(
        sender=i, n=n, floor=n, objective=own.objective, y=y, z=z, flood=own.flood, validation=validation.told(own)
    )


def heard(i: PeerId, course: Course, n: int, by: PeerId, wire_dtype: np.dtype[Any]) -> Share:
    """What one neighbor of agent i gets in exchange n, if that is not what all get."""
    share = told(i, course.here, n, wire_dtype)
    if course.spoken is None:
        return share
    y, z = course.spoken.words[by]
    return share.changed(y=y, z=z, to=by)


@final
@dataclass(frozen=True, eq=False)
class Played:
    """A round of all agents, each in its place.

    Parameters
    ----------
    before, after : tuple of State
        At its start, and at the start of the next one.
    courses : tuple of Course
        After the last exchange.
    solve_s : tuple of float
        Seconds that each of their surrogates took.
    """

    before: tuple[State, ...]
    courses: tuple[Course, ...]
    after: tuple[State, ...]
    solve_s: tuple[float, ...]


def unheard(share: Share, to: PeerId) -> None:
    """Nobody listens to what agents say to each other."""


@final
@dataclass(frozen=True, eq=False)
class Agents:
    """All agents of an experiment; see `Agents.of`.

    Parameters
    ----------
    experiment : Experiment
    ground : Ground
        Who meets whom.
    model : Model
        f, or what is trained of it.
    actors : tuple of Actor
    start : tuple of Vector
        w_i[0], (p,).
    """

    experiment: Experiment
    ground: Ground
    model: Model
    actors: tuple[Actor, ...]
    start: tuple[Vector, ...]

    @classmethod
    def of(cls, experiment: Experiment, ground: Ground, shards: Sequence[Shard]) -> Agents:
        """What peers make of an experiment, each of its own shard, once they have met.

        Raises
        ------
        ConfigError
            The run has no rounds, or shards, initial parameters and model do not fit.
        """
        if experiment.run.mode != "rounds":
            why = "for without rounds a run is made of what comes when"
            raise ConfigError("run.mode", f'expected "rounds" in a simulation, {why}; found {experiment.run.mode!r}')
        total, n_classes = sum(shard.n_samples for shard in shards), max(shard.n_classes for shard in shards)
        actors, start = [], []
        for i, shard in enumerate(shards):
            initial = learning.initial_of(experiment, i)
            config.check_first_parameters(experiment, i)
            if i == 0 or experiment.model.initial:  # of a peer's own, or the same for all
                model = learning.model_of(experiment, shard, n_classes, initial)
            learned = learning.learned_of(experiment, i, shard, initial, model, total)
            actors.append(config.actor_of(experiment, ground, i, learned))
            start.append(learned.w)
        return cls(experiment, ground, model, tuple(actors), tuple(start))

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.actors)

    def begun(self) -> tuple[State, ...]:
        """States of all agents at round 0."""
        return tuple(_of(actor.me, actor.begun, w) for actor, w in zip(self.actors, self.start, strict=True))

    def play(self, said: Callable[[Share, PeerId], object] = unheard) -> Iterator[Played]:
        """All rounds, one after the other; who listens hears what is said, and to whom.

        Raises
        ------
        SolveError
            The numbers broke down; names the agent.
        """
        states = self.begun()
        while not self.actors[0].is_through(states[0]):
            done = self.round(states, said)
            yield done
            states = done.after

    def round(self, states: tuple[State, ...], said: Callable[[Share, PeerId], object] = unheard) -> Played:
        """One round of all agents.

        Raises
        ------
        SolveError
            The numbers broke down; names the agent.
        """
        dtype, n_steps = DTYPES[self.experiment.transport.wire_dtype], self.ground.gossip.n_steps
        courses, solve_s = [], []
        for actor, state in zip(self.actors, states, strict=True):
            began_s = time.perf_counter()
            courses.append(gossip.begun(state, _of(actor.me, actor.proposed, state)))
            solve_s.append(time.perf_counter() - began_s)
        after: list[State | None] = []
        for n in range(states[0].n * n_steps, (states[0].n + 1) * n_steps):
            courses = [_of(actor.me, actor.spoken, course) for actor, course in zip(self.actors, courses, strict=True)]
            taken = []
            for i, (actor, course) in enumerate(zip(self.actors, courses, strict=True)):
                shares = {j: heard(j, courses[j], n, i, dtype) for j in actor.neighbors(course)}
                for share in shares.values():
                    said(share, i)
                taken.append(_of(i, actor.heard, course, shares))
            courses, after = [course for course, _ in taken], [state for _, state in taken]
        return Played(states, tuple(courses), tuple(state for state in after if state is not None), tuple(solve_s))

    def line(self, i: PeerId, done: Played) -> dict[str, object]:
        """What agent i would write down of a round, but for what depends on clocks; bytes are those of whole shares."""
        state, n_steps = done.before[i], self.ground.gossip.n_steps
        met = [self.ground.schedule.graph(state.n * n_steps + k).neighbors(i) for k in range(n_steps)]
        form = config.form_of(self.experiment, self.n_agents, self.model.layout.size)
        n_bytes = sum(map(len, met)) * wire.share_bytes(form)
        return {
            "iteration": state.n,
            **self.actors[i].line(done.courses[i], done.after[i]),
            "solve_s": done.solve_s[i],
            "wait_s": 0.0,
            "bytes_sent": n_bytes,
            "bytes_received": n_bytes,
            "neighbors": sorted({j for neighbors in met for j in neighbors}),
            "dropped": {},
        }


def _of(i: PeerId, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  (whatever it gives)
    """Result of a function of agent i; what breaks down there names the agent."""
    try:
        with np.errstate(all="ignore"):  # what overflows ends in nan or infinity, and is found there
            return function(*arguments)
    except SolveError as error:
        raise SolveError(f"peer {i}: {error}") from error


def run(experiment: Experiment, ground: Ground, run_dir: Path, look: Callable[[], None]) -> float:
    """Play a run whose directory is prepared, and write into it what its peers would have written.

    Parameters
    ----------
    experiment : Experiment
        With its shards cut.
    ground : Ground
    run_dir : Path
    look : callable
        Is called after every round.

    Returns
    -------
    float
        Seconds that it took.

    Raises
    ------
    ConfigError
        As `Agents.of`.
    SolveError
        The numbers broke down, as the logs say then; names the agent.
    """
    began_s = time.monotonic()
    shards = [learning.shard_of(experiment, i) for i in range(experiment.peers)]
    agents = Agents.of(experiment, ground, shards)
    folders = [files.folder_of(run_dir, i) for i in range(agents.n_agents)]
    journals = [Journal(folder, behind=None) for folder in folders]
    total = sum(shard.n_samples for shard in shards)

    def log(kind: str, **facts: object) -> None:
        for one in journals:
            one.event(kind, time.monotonic() - began_s, **facts)

    try:
        for i, (one, shard) in enumerate(zip(journals, shards, strict=True)):
            one.event("start", 0.0, id=i, n=0, samples=shard.n_samples, neighbors=ground.union[i], simulated=True)
            npz.save(folders[i] / files.INITIAL, everything(agents.model, agents.start[i]))
        log("ready", samples=total)
        log("model", inputs=shards[0].x.shape[1:], outputs=agents.model.n_outputs)
        last = None
        for last in agents.play():
            for i, one in enumerate(journals):
                one.round(time_s=time.monotonic() - began_s, **agents.line(i, last))
            look()
        states = agents.begun() if last is None else last.after
        for folder, actor, state in zip(folders, agents.actors, states, strict=True):
            npz.save(folder / files.FINAL, everything(agents.model, actor.result(state)))
        kept = {"kept": states[0].best_n} if states[0].kept.size else {}
        log("done", n=states[0].n, stopped=agents.actors[0].stopped(states[0]) or "iterations", **kept)
        log("end", code=DONE, problem="", absent=(), dropped={})
    except SolveError as error:
        log("end", code=BROKEN, problem=str(error), absent=(), dropped={})
        raise
    finally:
        for one in journals:
            one.close()
    return time.monotonic() - began_s
