"""`peer simulate`: runs of very many agents in arrays, see `peer.stacked`, for studies of graphs and rounds.

The experiment is that of `peer launch`, and so are data, graphs, weights and first parameters; each w_i is that of peer
i, to rounding. What has no stacked form is refused before anything is computed. A run leaves, in its directory,

    experiment.toml    all settings
    rounds.csv         a line for each round that was looked at, with the keys of `Look`
    simulation.json    what was run, and where; and the last of these lines
    mean.npz           the mean of the w_i by names, as in a peer's final.npz
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from peer import config, files, learning, memory, npz, settings, wire
from peer.arrays import DTYPES, Matrix
from peer.data import Cut
from peer.errors import BROKEN, DONE, ConfigError, SolveError
from peer.launcher import claimed, free_folder
from peer.optim.chains import Chain
from peer.optim.models import Model
from peer.settings import Experiment, Robustness
from peer.shards import Shard
from peer.stacked import chains
from peer.stacked.methods import Averaging, Play, State
from peer.stacked.problems import StackedProblem, mean_and_spread
from topology import TopologyError, sparse
from topology.gossip import CHEBYSHEV
from topology.sparse import Links, SparseSchedule
from topology.weights import FDLA, contraction_by, rounded_factor

METHODS: Final = (settings.NEXT, "gradient-tracking", "gradient-descent")
"""Those that have a stacked form."""

BASED: Final = ("static", "random-links", "matchings")
"""Schedules that take their links from a graph."""


# ---- what is refused -----------------------------------------------------------------------


def check(experiment: Experiment) -> None:
    """Refuse what has no stacked form; `peer sweep --simulate` runs it, an agent at a time.

    Raises
    ------
    ConfigError
        Names the first such setting.
    """
    surrogate, objective, model, run = experiment.surrogate, experiment.objective, experiment.model, experiment.run
    is_next, regime, data = experiment.method.kind == settings.NEXT, experiment.regime, experiment.data
    smooth = objective.regularizer in ("none", "l2")
    wall = ("upper", objective.upper) if math.isinf(objective.lower) else ("lower", objective.lower)
    penalty = ("regularizer", objective.regularizer) if math.isinf(wall[1]) else wall
    needs: Sequence[tuple[str, str, object, bool]] = (
        ("run.mode", '"rounds"', run.mode, run.mode == "rounds"),
        ("method.kind", f"one of {', '.join(METHODS)}", experiment.method.kind, experiment.method.kind in METHODS),
        ("regime.kind", "full", regime.kind, regime.kind == "full"),
        ("regime.trainable", "[]", list(regime.trainable), not regime.trainable),
        ("regime.relinearize_every", "1", regime.relinearize_every, regime.relinearize_every == 1),
        ("model.python", "layers", model.python, not model.python),
        ("model.inner_product", "euclidean", model.inner_product, model.inner_product == "euclidean"),
        ("surrogate.gradient", "backprop", surrogate.gradient, surrogate.gradient == "backprop"),
        ("surrogate.batch", "0", surrogate.batch, not surrogate.batch),
        ("surrogate.blocks", "1", surrogate.blocks, surrogate.blocks == 1),
        ("surrogate.inexactness", "0", surrogate.inexactness, not surrogate.inexactness),
        ("objective.tangent_strength", "0", objective.tangent_strength, not objective.tangent_strength),
        ("objective.regularizer", "none, l2, l1 or elastic_net", "group_l2", objective.regularizer != "group_l2"),
        (
            f"objective.{penalty[0]}",
            'none or l2 without bounds with surrogate.kind = "partial"; "full" takes others',
            penalty[1],
            (smooth and math.isinf(wall[1])) or not is_next or surrogate.kind == "full",
        ),
        ("robustness", "no clipping", experiment.robustness.clip_w, experiment.robustness == Robustness()),
        ("compression.kind", "none", experiment.compression_kind, experiment.compression_kind == "none"),
        ("run.tolerance", "0", run.tolerance, not run.tolerance),
        ("data.validation_fraction", "0", data.validation_fraction, not data.validation_fraction),
        ("data.validation_path", "none", data.validation_path, not data.validation_path),
        ("topology.weights", f"one of {', '.join(sparse.RULES)}", FDLA, experiment.topology.weights != FDLA),
        ("topology.consensus", "plain", CHEBYSHEV, experiment.topology.consensus != CHEBYSHEV),
    )
    for key, accepted, found, holds in needs:
        if not holds:
            raise ConfigError(key, f"expected {accepted} in peer simulate, found {found!r}")


# ---- from settings to arrays ---------------------------------------------------------------


def schedule_of(experiment: Experiment, graph: str = "") -> SparseSchedule:
    """Who meets whom, as `config.schedule_of`; known to connect all agents.

    Parameters
    ----------
    experiment : Experiment
    graph : str
        "torus", or "random-K" with K neighbors, see `topology.sparse`, in the place of the experiment's; peers have no
        such graphs. Empty: the experiment's.

    Raises
    ------
    ConfigError
        There is no such schedule, or it never connects.
    """
    topology, n, seed = experiment.topology, experiment.peers, experiment.seed
    kind, up = topology.schedule, topology.link_probability
    base = larger(graph, n, seed) if graph else None
    if graph and kind not in BASED:
        raise ConfigError("--graph", f"expected topology.schedule as one of {', '.join(BASED)}, found {kind!r}")
    try:
        if kind == "one-peer-exponential":
            schedule: SparseSchedule = sparse.OnePeerExponential(n)
        elif kind == "file":
            schedule = sparse.Replayed(config.schedule_of(experiment))
        else:
            probability, radius = topology.probability, topology.radius
            if base is None:
                base = sparse.family(topology.graph, n, probability=probability, radius=radius, seed=seed)
            families: Mapping[str, Callable[[], SparseSchedule]] = {
                "static": lambda: sparse.Static(base),
                "random-links": lambda: sparse.RandomLinks(base, up, seed),
                "matchings": lambda: sparse.Matchings(base, seed),
            }
            schedule = families[kind]()
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error
    n_parts = sparse.n_components(schedule, max(experiment.n_exchanges, schedule.period or 0))  # short runs are looks
    if n_parts > 1:
        raise ConfigError("topology", f"the union of all rounds falls apart into {n_parts} components")
    return schedule


def larger(graph: str, n_agents: int, seed: int) -> Links:
    """Links of a graph that only simulations have.

    Raises
    ------
    ConfigError
        No such graph.
    """
    if graph == "torus":
        return sparse.torus(n_agents)
    name, _, degree = graph.rpartition("-")
    if name != "random" or not (degree.isascii() and degree.isdecimal()):
        raise ConfigError("--graph", f"expected torus, or random-K with K neighbors, such as random-8; found {graph!r}")
    try:
        return sparse.random_cycles(n_agents, int(degree), seed)
    except TopologyError as error:
        raise ConfigError("--graph", str(error)) from error


def pieces_of(experiment: Experiment) -> list[Shard]:
    """The shards of all agents: of the files that the experiment names, or cut from its data set as for peers.

    Raises
    ------
    ConfigError
        They are missing, or cannot be used.
    """
    if experiment.data.path:
        return [learning.shard_of(experiment, i) for i in range(experiment.peers)]
    if not experiment.data.dataset:
        raise ConfigError("data", "expected data.dataset or data.path, found neither")
    pieces, _ = Cut.of(experiment).pieces()
    where, shards = Path(experiment.data.dataset), []
    for arrays in pieces:
        x, y = arrays["x"], arrays["y"]
        of_classes = y.dtype.kind in "iub"
        labels = y if of_classes else arrays.get("labels")
        shards.append(Shard(where, x, None if of_classes else y, labels, arrays.get("codes"), None))
    return shards


def stacked(shards: Sequence[Shard]) -> Shard:
    """The samples of all agents one after the other, as many of each; samples of weight 0 fill up what is less.

    Raises
    ------
    ConfigError
        Shards differ by more than their number of samples.
    """
    sizes = np.array([shard.n_samples for shard in shards])
    m, first = int(sizes.max()), shards[0]
    for shard in shards:
        kinds = [
            [None if a is None else a.shape[1:] for a in (one.x, one.targets, one.labels)] for one in (first, shard)
        ]
        if kinds[0] != kinds[1]:
            raise ConfigError("data.path", f"{shard.path}: expected samples like those of {first.path}, found others")
        if not _are_same(first.codes, shard.codes):
            raise ConfigError("data.path", f"{shard.path}: expected the codes of {first.path}, found others")
    has_weights = bool((sizes < m).any()) or any(shard.weights is not None for shard in shards)
    n_rows, at = len(shards) * m, np.repeat(np.arange(len(shards)) * m, sizes)
    rows = at + np.arange(len(at)) - np.repeat(np.cumsum(sizes) - sizes, sizes)

    def spread(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if len(rows) == n_rows:
            return np.concatenate(parts)
        whole = np.zeros((n_rows, *parts[0].shape[1:]), dtype=parts[0].dtype)
        whole[rows] = np.concatenate(parts)
        return whole

    return Shard(
        path=first.path,
        x=spread([shard.x for shard in shards]),
        targets=None if first.targets is None else spread([s.targets for s in shards if s.targets is not None]),
        labels=None if first.labels is None else spread([s.labels for s in shards if s.labels is not None]),
        codes=first.codes,
        weights=spread([np.ones(s.n_samples) if s.weights is None else s.weights for s in shards])
        if has_weights
        else None,
    )


def _are_same(a: Matrix | None, b: Matrix | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


@final
@dataclass(frozen=True, eq=False)
class Simulation:
    """All that a run needs; see `of`.

    Parameters
    ----------
    experiment : Experiment
    schedule : SparseSchedule
    play : Play
    w : Matrix
        w_i[0], (I, p).
    alpha : float
        alpha[0].
    n_samples : int
        M, of all agents together.
    """

    experiment: Experiment
    schedule: SparseSchedule
    play: Play
    w: Matrix
    alpha: float
    n_samples: int

    @classmethod
    def of(cls, experiment: Experiment, shards: Sequence[Shard] | None = None, graph: str = "") -> Simulation:
        """The run of an experiment, of its own data and graph if no others are given.

        Raises
        ------
        ConfigError
            The experiment has no stacked form, or data and settings contradict each other.
        """
        check(experiment)
        schedule = schedule_of(experiment, graph)
        shards = pieces_of(experiment) if shards is None else shards
        n_samples, n_classes = sum(s.n_samples for s in shards), max(s.n_classes for s in shards)
        initial = learning.initial_of(experiment, 0)
        model = learning.model_of(experiment, shards[0], n_classes, initial)
        if not isinstance(model, Chain) or chains.unknown(model):
            found = chains.unknown(model) if isinstance(model, Chain) else type(model).__name__
            raise ConfigError("model.layers", f"expected dense layers and activations in peer simulate, found {found}")
        whole = stacked(shards)
        weight = 1.0 / n_samples if experiment.objective.scale == "mean" else 1.0
        problem = StackedProblem(
            chain=model,
            x=_inputs(model, whole).reshape(len(shards), -1, model.n_inputs),
            loss=learning.loss_of(experiment, whole, model.n_outputs),
            weight=weight,
            regularizer=learning.regularizer_of(experiment, model),
            surrogate=learning.surrogate_of(experiment, experiment.peers),
            tolerance=experiment.surrogate.tolerance,
        )
        factor = contraction_of(experiment, schedule) if config.needs_contraction(experiment) else 1.0
        play = Play(
            problem=problem,
            method=experiment.method.kind,
            rule=config.step_of(experiment),
            caution=config.caution_of(experiment, factor, experiment.peers),
            wire_dtype=DTYPES[experiment.transport.wire_dtype],
        )
        return cls(
            experiment,
            schedule,
            play,
            _first(experiment, model, problem),
            config.alpha_of(experiment, factor),
            n_samples,
        )

    def averagings(self, n: int) -> list[Averaging]:
        """C of each exchange of round n."""
        return [self._matrix(n * self._n_steps + k) for k in range(self._n_steps)]

    @property
    def _n_steps(self) -> int:
        return self.experiment.topology.consensus_steps

    def _matrix(self, n: int) -> Averaging:
        return sparse.mixing_matrix(self.schedule.links(n), self.experiment.topology.weights)

    def states(self) -> Iterator[State]:
        """All states, the first one, too.

        Raises
        ------
        SolveError
            The numbers broke down.
        """
        state = self.play.begun(self.w, self.alpha)
        always = self.averagings(0) if self.schedule.period == 1 else None
        yield state
        for n in range(self.experiment.iterations):
            state = self.play.round(state, self.averagings(n) if always is None else always)
            yield state

    def bytes_of(self, n: int) -> int:
        """Bytes that all peers together would send in round n, headers included."""
        form = config.form_of(self.experiment, self.experiment.peers, self.play.problem.n_parameters)
        n_links = sum(self.schedule.links(n * self._n_steps + k).size for k in range(self._n_steps))
        return 2 * n_links * wire.share_bytes(form)


def _inputs(model: Chain, whole: Shard) -> Matrix:
    try:
        return model.inputs(whole.x)
    except ValueError as error:
        raise ConfigError("data.path", f"{whole.path}: {error}") from error


def _first(experiment: Experiment, model: Model, problem: StackedProblem) -> Matrix:
    """w_i[0], (I, p): as given, or drawn from the seed, then the same for all."""
    each = range(experiment.peers) if "{id}" in experiment.model.initial else range(1)
    found = [learning.initial_of(experiment, i).vector(model, experiment.seed, problem.regularizer) for i in each]
    return np.array(found) if len(found) > 1 else np.tile(found[0], (experiment.peers, 1))


def contraction_of(experiment: Experiment, schedule: SparseSchedule) -> float:
    """`topology.gossip.round_contraction`, by sparse matrices."""
    rule, steps = experiment.topology.weights, experiment.topology.consensus_steps
    always = sparse.mixing_matrix(schedule.links(0), rule) if schedule.period == 1 else None

    def average(n: int, X: Matrix) -> Matrix:
        C = sparse.mixing_matrix(schedule.links(n), rule) if always is None else always
        return np.asarray(C @ X)

    return rounded_factor(contraction_by(average, schedule.n_agents, schedule.period) ** steps)


# ---- a run ---------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Look:
    """What is seen of a round.

    Parameters
    ----------
    round : int
        n: rounds that are done.
    objective : float
        U at the mean of the w_i.
    residual : float
        ||w - prox_r(w - grad G(w))||_inf there.
    disagreement : float
        (1/I) sum_i ||w_i - mean||^2.
    round_s, processor_s : float
        Of a round, the median since the last look: by the clock, and of the processor.
    bytes_sent : int
        By all peers in the last round, if they were peers.
    memory_bytes : int
        Of this process, at most so far.
    """

    round: int
    objective: float
    residual: float
    disagreement: float
    round_s: float
    processor_s: float
    bytes_sent: int
    memory_bytes: int


COLUMNS: Final[Mapping[str, int]] = {
    "round": 7,
    "objective": 13,
    "residual": 10,
    "disagreement": 13,
    "s a round": 10,
    "processor": 10,
    "sent a round": 13,
    "memory": 9,
}
"""Widths of the table's."""

HEAD: Final = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())


def row(look: Look) -> str:
    """A line of the table."""
    texts = (
        f"{look.round}",
        f"{look.objective:.6g}",
        f"{look.residual:.1e}",
        f"{look.disagreement:.1e}",
        f"{look.round_s:.3g}" if look.round else "-",
        f"{look.processor_s:.3g}" if look.round else "-",
        f"{look.bytes_sent / 1e6:.1f} MB" if look.round else "-",
        f"{look.memory_bytes / 1e9:.2f} GB",
    )
    return "".join(f"{text:>{width}}" for text, width in zip(texts, COLUMNS.values(), strict=True))


def is_shown(n: int, last: int) -> bool:
    """Whether a round is looked at: 0, 1, 2, 5, 10, 20, 50, ..., and the last."""
    return n in (0, last) or n in {k * 10 ** (len(str(n)) - 1) for k in (1, 2, 5)}


def memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def look_at(simulation: Simulation, state: State, times: Sequence[tuple[float, float]]) -> Look:
    """What is seen of a state, after rounds that took so many seconds, by the clock and of the processor."""
    problem = simulation.play.problem
    mean, spread = mean_and_spread(state.w)
    objective, gradient = problem.whole(mean)
    residual = np.abs(mean - problem.regularizer.prox(mean - gradient, 1.0)).max(initial=0.0)
    clock, processor = (float(np.median(column)) for column in zip(*times, strict=True)) if times else (0.0, 0.0)
    sent = simulation.bytes_of(state.n - 1) if state.n else 0
    return Look(state.n, objective, float(residual), spread, clock, processor, sent, memory_bytes())


def run(
    experiment: Experiment,
    out: Path,
    tell: Callable[[str], None],
    graph: str = "",
    progress: Callable[[int], None] = lambda n: None,
) -> list[Look]:
    """Run an experiment, tell what is seen of it line by line, and write it down.

    Parameters
    ----------
    experiment : Experiment
    out : Path
        Run directory, made here.
    tell : callable
        Takes a line.
    graph : str
        As in `schedule_of`.
    progress : callable
        Is told of every round that is done.

    Raises
    ------
    ConfigError
        As `Simulation.of`; or the directory holds a run.
    SolveError
        The numbers broke down; what was seen until then is written.
    """
    if (out / files.ROUNDS).exists() or (out / files.EXPERIMENT).exists():
        raise ConfigError("--out", f"{out} holds a run already; another --out keeps it")
    simulation = Simulation.of(experiment, graph=graph)
    out.mkdir(parents=True, exist_ok=True)
    (out / files.EXPERIMENT).write_text(settings.to_toml(experiment), encoding="utf-8")
    problem, links, topology = simulation.play.problem, simulation.schedule.links(0).size, experiment.topology
    facts: dict[str, object] = {
        "agents": problem.n_agents,
        "parameters": problem.n_parameters,
        "samples": simulation.n_samples,
        "graph": graph or (topology.graph if topology.schedule in BASED else topology.schedule),
        "links": links,
        "alpha": simulation.alpha,
    }
    tell(
        f"{experiment.name}: {problem.n_agents:,} agents, p = {problem.n_parameters}, {simulation.n_samples:,} "
        f"samples, {links:,} links in round 0, alpha {simulation.alpha:g}"
    )
    tell(HEAD)
    looks: list[Look] = []
    times: list[tuple[float, float]] = []
    with (out / files.ROUNDS).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([one.name for one in fields(Look)])
        began = time.perf_counter(), time.process_time()
        state = None
        for state in simulation.states():
            if state.n:
                times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
                progress(state.n)
            if is_shown(state.n, experiment.iterations):
                looks.append(look_at(simulation, state, times))
                times.clear()
                table.writerow(asdict(looks[-1]).values())
                file.flush()
                tell(row(looks[-1]))
            began = time.perf_counter(), time.process_time()
        assert state is not None, "there is a first one"
    npz.save(out / "mean.npz", problem.chain.layout.unflatten(state.w.mean(axis=0)))
    host = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "numpy": np.__version__}
    text = json.dumps(facts | {"host": host, "last": asdict(looks[-1])}, indent=2)
    (out / files.SIMULATION).write_text(text + "\n", encoding="utf-8")
    return looks


def command(
    path: Path,
    agents: int | None,
    rounds: int | None,
    graph: str,
    out: Path | None,
    overrides: Sequence[str],
    tell: Callable[[str], None],
) -> int:
    """`peer simulate`; the exit code.

    Raises
    ------
    ConfigError
        As `run`.
    """
    given = [f"{key}={value}" for key, value in (("peers", agents), ("iterations", rounds)) if value is not None]
    experiment = settings.read(path, (*overrides, *given))
    memory.keep()  # arrays are made anew in every round

    def progress(n: int) -> None:  # on a line of its own, which the next one of the table takes
        if sys.stderr.isatty():
            sys.stderr.write(f"round {n} of {experiment.iterations}\r")
            sys.stderr.flush()

    place = nullcontext(out) if out else free_folder(Path("runs"), f"{experiment.name}-simulated")
    try:
        # what comes of it is looked at in every round
        with place as folder, claimed(folder), np.errstate(all="ignore"):
            run(experiment, folder, tell, graph, progress)
    except SolveError as error:
        tell(f"peer simulate: {error}")
        return BROKEN
    tell(f"{folder}/simulation.json")
    return DONE
