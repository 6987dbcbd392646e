"""All agents of a run in rounds in one process, without sockets: the same states as over sockets, bit for bit.

Nobody is late here, and nothing is lost; what agents say to each other is what the wire would have made of it. With
one BLAS thread, as each peer has, sums have the same last bits as theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from peer import alignment, careful, config, gossip, learning, npz, renewal, stopping, validation, wire
from peer.agent import Mixture, Proposal, State
from peer.alignment import Watch
from peer.arrays import DTYPES, Vector, rounded
from peer.config import Ground
from peer.errors import ConfigError, SolveError
from peer.gossip import Course
from peer.journal import Journal, folder_of
from peer.messages import Share
from peer.methods import Next
from peer.optim.models import Model
from peer.optim.regimes import everything
from peer.optim.surrogates import Data
from peer.optim.vectors import square
from peer.problem import Problem
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
    return replace(share, y=y, z=z, to=by)


@final
@dataclass(frozen=True, eq=False)
class Round:
    """A round of all agents, each in its place.

    Parameters
    ----------
    before, after : tuple of State
        At its start, and at the start of the next one.
    proposals : tuple of Proposal
        What came of their surrogates.
    solve_s : tuple of float
        Seconds that each of these took.
    """

    before: tuple[State, ...]
    proposals: tuple[Proposal, ...]
    after: tuple[State, ...]
    solve_s: tuple[float, ...]


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
        F, or what is trained of it.
    problems : tuple of Problem
        g_i.
    start : tuple of Vector
        w_i[0], (p,).
    watches : tuple of Watch or None
        How they look at their feedback, where they learn by it.
    held_out : tuple of Data or None
        What they do not train on.
    """

    experiment: Experiment
    ground: Ground
    model: Model
    problems: tuple[Problem, ...]
    start: tuple[Vector, ...]
    watches: tuple[Watch | None, ...]
    held_out: tuple[Data | None, ...]

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
        problems, start, watches, held_out = [], [], [], []
        for i, shard in enumerate(shards):
            initial = learning.initial_of(experiment, i)
            if i == 0 or experiment.model.initial:  # of a peer's own, or the same for all
                model = learning.model_of(experiment, shard, n_classes, initial)
            problem = learning.problem_of(experiment, model, shard, total)
            batches = learning.batches_of(experiment, i, shard.n_samples, total, len(shards))
            problem = replace(problem, batches=batches, feedback=learning.feedback_of(experiment, model))
            problems.append(problem)
            start.append(initial.vector(model, experiment.seed, problem.regularizer))
            watches.append(learning.watch_of(experiment, problem, i))
            held_out.append(learning.held_out_of(experiment, model, shard, total))
        return cls(experiment, ground, model, tuple(problems), tuple(start), tuple(watches), tuple(held_out))

    @property
    def n_agents(self) -> int:
        """Number of agents I."""
        return len(self.problems)

    def begun(self) -> tuple[State, ...]:
        """States of all agents at round 0."""
        alpha = config.alpha_of(self.experiment, self.ground)
        return tuple(self._begun(i, alpha) for i in range(self.n_agents))

    def _begun(self, i: PeerId, alpha: float) -> State:
        problem, watch, held_out = self.problems[i], self.watches[i], self.held_out[i]
        state = config.method_of(self.experiment).initial(problem, self.start[i], alpha)
        caution = config.caution_of(self.experiment, self.ground, self.n_agents)
        if caution is not None:
            state = careful.begun(problem, state, caution)
        if watch is not None:
            state = alignment.begun(problem, state, watch)
        if held_out is not None:
            state = validation.begun(state, held_out)
        return state if learning.renewal_of(self.experiment) is None else renewal.begun(state)

    def is_through(self, state: State) -> bool:
        """Whether no round is left to be done; so it is for all agents, or for none."""
        return state.n >= self.experiment.iterations or self.stopped(state) != "iterations"

    def stopped(self, state: State) -> str:
        """Why the run is over, or will be: "tolerance", "validation" or "iterations"."""
        run = self.experiment.run
        if stopping.is_over(state, run.tolerance):
            return "tolerance"
        return "validation" if validation.is_over(state, run.validation_patience) else "iterations"

    def play(self) -> Iterator[Round]:
        """All rounds, one after the other.

        Raises
        ------
        SolveError
            The numbers broke down; names the agent.
        """
        states = self.begun()
        while not self.is_through(states[0]):
            done = self.round(states)
            yield done
            states = done.after

    def round(self, states: tuple[State, ...]) -> Round:
        """One round of all agents.

        Raises
        ------
        SolveError
            The numbers broke down; names the agent.
        """
        dtype, method = DTYPES[self.experiment.transport.wire_dtype], config.method_of(self.experiment)
        proposals, solve_s = [], []
        for i, state in enumerate(states):
            began_s = time.perf_counter()
            problem = alignment.chosen(self.problems[i], state).in_round(state.n, state.alpha, state.way)
            proposals.append(_of(i, method.propose, problem, state, self.n_agents))
            solve_s.append(time.perf_counter() - began_s)
        courses = [gossip.begun(*pair) for pair in zip(states, proposals, strict=True)]
        for k in range(self.ground.gossip.n_steps):
            n = states[0].n * self.ground.gossip.n_steps + k
            graph = self.ground.schedule.graph(n)
            courses = [_of(i, self._spoken, i, course, graph.neighbors(i)) for i, course in enumerate(courses)]
            courses = [
                _of(i, self._taken, i, course, {j: heard(j, courses[j], n, i, dtype) for j in graph.neighbors(i)}, n)
                for i, course in enumerate(courses)
            ]
        after = tuple(_of(i, self._settled, i, course) for i, course in enumerate(courses))
        return Round(states, tuple(proposals), after, tuple(solve_s))

    def _spoken(self, i: PeerId, course: Course, neighbors: Sequence[PeerId]) -> Course:
        """Agent i before an exchange, as `RoundsLife.tell` does it."""
        coding = config.coding_of(self.experiment, self.ground.union[i])
        return gossip.spoken(course, coding, self.ground.gossip, neighbors)

    def _taken(self, i: PeerId, course: Course, shares: Mapping[PeerId, Share], n: int) -> Course:
        """Agent i after exchange n, as `RoundsLife.mixed` does it."""
        experiment, ground, dtype = self.experiment, self.ground, DTYPES[self.experiment.transport.wire_dtype]
        clipping = config.clipping_of(experiment, ground.union[i], config.alpha_of(experiment, ground))
        weights = ground.weights(ground.schedule.graph(n), i)
        after = gossip.taken(course, shares, weights, ground.gossip, dtype, clipping)
        if not experiment.run.tolerance:
            return after
        return replace(after, apart=max(after.apart, stopping.apart(course.here, shares, self.n_agents, dtype)))

    def _settled(self, i: PeerId, course: Course) -> State:
        """Agent i at the end of a round, as `RoundsLife.mixed` does it."""
        experiment, state, mixed = self.experiment, course.state, course.here
        problem, watch, held_out = alignment.chosen(self.problems[i], state), self.watches[i], self.held_out[i]
        how_long = self.ground.schedule, experiment.iterations
        rule, method = config.step_of(experiment), config.method_of(experiment)
        following = method.settle(problem, state, course.proposal, mixed, rule, self.n_agents)
        again = learning.renewal_of(experiment)
        if again is not None:
            following = renewal.renewed(problem, following, again, self.n_agents)
        caution = config.caution_of(experiment, self.ground, self.n_agents)
        if caution is not None:
            following = careful.adapted(problem.linearized(following.anchor), state, following, caution)
        if watch is not None:
            following = alignment.watched(problem, state, following, watch)
        if experiment.run.tolerance:
            measured = stopping.measure(problem, state, following, course.apart, self.n_agents)
            following = stopping.watched(state, following, measured, mixed.flood, *how_long, self.ground.gossip.n_steps)
        if held_out is not None:
            following = validation.tracked(state, following, mixed, held_out)
        if experiment.run.validation_patience:
            following = validation.watched(state, following, mixed, *how_long, self.ground.gossip.n_steps)
        return following

    # ---- what is written down --------------------------------------------------------------

    def line(self, i: PeerId, done: Round) -> dict[str, object]:
        """What agent i would write down of a round, but for what depends on clocks; bytes are those of whole shares."""
        problem, state, following, n_steps = self.problems[i], done.before[i], done.after[i], self.ground.gossip.n_steps
        watch, again, n_agents = self.watches[i], learning.renewal_of(self.experiment), self.n_agents
        solution = done.proposals[i].solution
        met = [self.ground.schedule.graph(state.n * n_steps + k).neighbors(i) for k in range(n_steps)]
        method = config.method_of(self.experiment)
        form = config.form_of(self.experiment, n_agents, self.model.layout.size)
        n_bytes = sum(map(len, met)) * wire.share_bytes(form)
        line: dict[str, object] = {
            "iteration": state.n,
            "objective_local": state.value,
            "objective_estimate": n_agents * state.objective + problem.regularizer.value(state.w),
            "residual": method.residual(problem, state, following, n_agents),
            "disagreement": square(following.w - done.proposals[i].z),
            "alpha": state.alpha,
            "tau": (state.tau or problem.surrogate.tau) if isinstance(method, Next) else 0.0,
            "solver": solution.method,
            "solver_residual": solution.residual,
            "solver_iterations": solution.iterations,
            "solve_s": done.solve_s[i],
            "wait_s": 0.0,
            "bytes_sent": n_bytes,
            "bytes_received": n_bytes,
            "neighbors": sorted({j for neighbors in met for j in neighbors}),
            "dropped": {},
        }
        if self.held_out[i] is not None:
            line |= {"validation_local": state.held, "validation_estimate": n_agents * state.validation}
        if again is not None:
            line |= {"anchored": state.anchored}
            line |= {} if again.every else {"departure": state.departure, "allowed": state.allowed}
        return line | ({} if watch is None else alignment.told(state, watch))


def _of(i: PeerId, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  (whatever it gives)
    """Result of a function of agent i; what breaks down there names the agent."""
    try:
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
    folders = [folder_of(run_dir, i) for i in range(agents.n_agents)]
    journals = [Journal(folder, behind=None) for folder in folders]
    total = sum(shard.n_samples for shard in shards)

    def log(kind: str, **facts: object) -> None:
        for one in journals:
            one.event(kind, time.monotonic() - began_s, **facts)

    try:
        for i, (one, shard) in enumerate(zip(journals, shards, strict=True)):
            one.event("start", 0.0, id=i, n=0, samples=shard.n_samples, neighbors=ground.union[i], simulated=True)
            npz.save(folders[i] / "initial.npz", everything(agents.model, agents.start[i]))
        log("ready", samples=total)
        if experiment.model.python:
            log("model", inputs=shards[0].x.shape[1:], outputs=agents.model.n_outputs)
        last = None
        for last in agents.play():
            for i, one in enumerate(journals):
                one.round(time_s=time.monotonic() - began_s, **agents.line(i, last))
            look()
        states = agents.begun() if last is None else last.after
        for folder, state in zip(folders, states, strict=True):
            npz.save(folder / "final.npz", everything(agents.model, validation.result(state)))
        kept = {"kept": states[0].best_n} if states[0].kept.size else {}
        log("done", n=states[0].n, stopped=agents.stopped(states[0]), **kept)
        log("end", code=0, problem="", absent=(), dropped={})
    except SolveError as error:
        log("end", code=4, problem=str(error), absent=(), dropped={})
        raise
    finally:
        for one in journals:
            one.close()
    return time.monotonic() - began_s
