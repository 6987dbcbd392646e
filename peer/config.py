"""From settings to objects: schedule, steps, session; and the record of a run. What is learned: `peer.learning`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, final

import msgspec

from peer import careful, files, learning, links, npz, settings, shards
from peer.actor import Actor
from peer.agent import Clipping
from peer.arrays import DTYPES
from peer.assembly import Assembly
from peer.careful import Caution
from peer.checkpoint import Checkpoint, Moment
from peer.errors import ConfigError
from peer.flows import Flows
from peer.frameworks import functions
from peer.learning import Learned
from peer.links import Coding, Drawn, Replicas
from peer.membership import Membership
from peer.messages import Standing
from peer.methods import ExactDiffusion, Extra, GradientDescent, GradientTracking, Method, Next
from peer.optim import regimes
from peer.optim.steps import Constant, Diminishing, StepRule
from peer.roster import Roster
from peer.rounds import Rounds
from peer.session import Session
from peer.settings import Experiment
from peer.shards import Shard
from peer.wire import Format
from topology import Graph, Outlets, PeerId, Schedule, TopologyError, gossip, outlets, schedules, windows
from topology.gossip import ONCE, Gossip, round_contraction
from topology.outlets import InStep
from topology.schedules import Static
from topology.weights import FDLA, Fastest, Weights, contraction_in_step, make, metropolis

SOFTWARE: Final = ("next-peer", "numpy", "scipy", "pyzmq", "msgpack", "msgspec", "networkx")
"""Packages whose versions a run directory records."""

FRAMEWORKS: Final = ("torch", "jax", "jaxlib")
"""The same where the network is the user's own, as far as they are there."""

MOST_AGENTS: Final = 10_000
"""Of a run of which is looked at how fast it agrees: one of its mixing matrices, dense, then takes 0.8 GB."""


# ---- topology ------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Ground:
    """Links that are known to connect all peers.

    Parameters
    ----------
    schedule : Schedule
        Who meets whom in a round; without rounds nobody ever does.
    union : tuple of tuple of int
        All neighbors that a peer ever has, by peer; without rounds among the initial members, and
        both those to which it pushes and those that push to it.
    digest : str
        Of a schedule file's links, so that peers with different files find out; empty where there is none.
    outlets : Outlets
        Who pushes to whom without rounds.
    weights : Weights
        With which neighbors in a round average.
    gossip : Gossip
        How often they do so in a round, and how.
    contraction : float
        What a round of averaging, or a waking of all, leaves of a disagreement; for `auto`, 1 where nobody asks.
    """

    schedule: Schedule
    union: tuple[tuple[PeerId, ...], ...]
    digest: str
    outlets: Outlets
    weights: Weights = metropolis
    gossip: Gossip = ONCE
    contraction: float = 1.0


def ground(experiment: Experiment) -> Ground:
    """Links of an experiment, checked; best called `aside`, for it looks at the links of all peers.

    Raises
    ------
    ConfigError
        No valid schedule, or one that never connects; names its components.
    """
    n_agents, from_file = experiment.peers, experiment.topology.schedule == "file"
    if n_agents > MOST_AGENTS and needs_contraction(experiment):
        where = "where step.alpha or surrogate.tau is auto (peer simulate takes more)"
        raise ConfigError("peers", f"expected at most {MOST_AGENTS:,} {where}, found {n_agents:,}")
    linked = outlets_of(experiment)
    if experiment.run.mode == "async":
        members = tuple(range(n_agents))
        try:
            outlets.wakings_to_connect(linked, members, experiment.iterations)
        except TopologyError as error:
            raise ConfigError("topology", str(error)) from error
        text = "\n".join(_lines_of(linked, experiment)) if from_file else ""
        each = (linked.of(members, i) for i in members)
        union = tuple(tuple(sorted({*one.out_neighbors, *one.in_neighbors})) for one in each)
        nothing = Static(Graph(n_agents, frozenset()))
        factor = contraction_in_step(InStep(linked, n_agents)) if needs_contraction(experiment) else 1.0
        return Ground(nothing, union, short_digest(text) if from_file else "", linked, contraction=factor)
    schedule = schedule_of(experiment)
    try:
        whole = windows.connected_union(schedule, experiment.n_exchanges)
        weights = make(experiment.topology.weights, schedule)
        rounds = gossip.make(experiment.topology.consensus, experiment.topology.consensus_steps, schedule, weights)
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error
    text = "\n".join(schedules.lines(schedule, experiment.n_exchanges)) if from_file else ""
    union = tuple(whole.neighbors(i) for i in range(n_agents))
    factor = 1.0
    if needs_contraction(experiment):
        coding = coding_of(experiment, ())
        factor = round_contraction(
            schedule, weights, rounds, (lambda whole: whole) if coding is None else coding.contraction
        )
    return Ground(schedule, union, short_digest(text) if from_file else "", linked, weights, rounds, factor)


def needs_contraction(experiment: Experiment) -> bool:
    """Whether a setting is left to `peer.careful`, which looks at the graph."""
    return experiment.method.kind == settings.NEXT and "auto" in (experiment.step.alpha, experiment.surrogate.tau)


def outlets_of(experiment: Experiment) -> Outlets:
    """Who pushes to whom, whether that connects the peers or not.

    Raises
    ------
    ConfigError
        The file gives no valid links.
    """
    topology = experiment.topology
    try:
        return outlets.make(
            topology.schedule,
            topology.graph,
            experiment.peers,
            directed=topology.directed,
            probability=topology.probability,
            radius=topology.radius,
            link_probability=topology.link_probability,
            path=Path(topology.path) if topology.path else None,
            seed=experiment.seed,
        )
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error


def schedule_of(experiment: Experiment) -> Schedule:
    """Schedule of an experiment, whether it connects or not.

    Raises
    ------
    ConfigError
        The family or file gives no valid schedule.
    """
    topology, n, seed = experiment.topology, experiment.peers, experiment.seed
    try:
        return schedules.make(
            topology.schedule,
            topology.graph,
            n,
            probability=topology.probability,
            radius=topology.radius,
            link_probability=topology.link_probability,
            path=Path(topology.path) if topology.path else None,
            seed=seed,
        )
    except TopologyError as error:
        raise ConfigError("topology", str(error)) from error


# ---- method and steps ----------------------------------------------------------------------


def method_of(experiment: Experiment) -> Method:
    """What agents do in a round."""
    method = experiment.method
    families: Mapping[str, Callable[[], Method]] = {
        settings.NEXT: Next,
        "gradient-descent": GradientDescent,
        "d-psgd": lambda: GradientDescent(method.local_steps, method.momentum),
        settings.CHOCO: lambda: GradientDescent(method.local_steps, method.momentum),
        "gradient-tracking": GradientTracking,
        "extra": Extra,
        "exact-diffusion": ExactDiffusion,
    }
    return families[method.kind]()


def step_of(experiment: Experiment) -> StepRule:
    """(10), or a constant step."""
    return Diminishing(experiment.step.mu) if experiment.step.rule == "diminishing" else Constant()


def alpha_of(experiment: Experiment, contraction: float) -> float:
    """alpha[0]: as given, or what the graph says; half of that without rounds, where what is heard is old.

    `contraction` is that of the `Ground`. Of other methods than NEXT it is the step size.
    """
    if experiment.method.kind != settings.NEXT:
        return experiment.method.step_size
    alpha = experiment.step.alpha
    if not isinstance(alpha, str):
        return alpha
    return careful.alpha_of(contraction) * (0.5 if experiment.run.mode == "async" else 1.0)


def caution_of(experiment: Experiment, contraction: float, n_agents: int) -> Caution | None:
    """How agents choose tau; None where it is a setting."""
    surrogate = experiment.surrogate
    if surrogate.tau != "auto" or experiment.method.kind != settings.NEXT:
        return None
    whole = surrogate.kind == "partial" and surrogate.blocks == 1
    relied_on = experiment.run.mode == "rounds" and experiment.topology.weights != FDLA
    return Caution(n_agents, contraction, whole and relied_on)


def chosen(experiment: Experiment, ground: Ground) -> Iterator[tuple[str, str]]:
    """What `auto` comes to, by setting, with why."""
    if experiment.method.kind != settings.NEXT:
        return
    if experiment.step.alpha == "auto":
        each, half = ("waking", ", halved") if experiment.run.mode == "async" else ("round", "")
        why = f"for a {each} of averaging leaves {ground.contraction:g} of a disagreement{half}"
        yield "step.alpha", f"{alpha_of(experiment, ground.contraction):g}, {why}"
    if experiment.surrogate.tau == "auto":
        yield "surrogate.tau", "each peer's own, from the curvature that it sees; in metrics.jsonl"
    if experiment.surrogate.curvature == "auto" and experiment.surrogate.kind == "partial":
        yield "surrogate.curvature", "network"
    if experiment.compression.kind == "auto" and experiment.compression_kind != "none":
        yield "compression.kind", f"{experiment.compression_kind}, for {experiment.transport.wire_dtype}"
    coding = coding_of(experiment, ())
    if experiment.compression.gamma == "auto" and isinstance(coding, Replicas):
        yield "compression.gamma", f"{coding.gamma:g}, with {coding.fraction:g} of the entries told"


def coding_of(experiment: Experiment, neighbors: tuple[PeerId, ...]) -> Coding | None:
    """How much an agent says to its neighbors, all that it ever has; None: everything."""
    kind, dtype = experiment.compression_kind, DTYPES[experiment.transport.wire_dtype]
    if kind == "none":
        return None
    fraction, gamma = experiment.compression.fraction, experiment.compression.gamma
    if kind == settings.RANDOM_K:
        return Drawn(experiment.seed, fraction, dtype)
    told = fraction if kind == settings.TOP_K else 1.0
    return Replicas(neighbors, told, links.steady(told) if isinstance(gamma, str) else gamma, dtype)


def form_of(experiment: Experiment, n_ids: int, n_parameters: int) -> Format:
    """What the messages of a run look like, with ids below `n_ids`; p is 0 while it is not known."""
    kind, dtype = experiment.compression_kind, experiment.transport.wire_dtype
    fraction = experiment.compression.fraction if kind in (settings.TOP_K, settings.RANDOM_K) else 1.0
    has_places = kind == settings.TOP_K and fraction < 1.0
    return Format(experiment.run_id, n_ids, n_parameters, dtype, method_of(experiment).parts, fraction, has_places)


def clipping_of(experiment: Experiment, neighbors: tuple[PeerId, ...], alpha: float) -> Clipping | None:
    """How far the neighbors of an agent, all that it ever has, may pull it, by alpha[0]; None: as far as they like."""
    radii = experiment.robustness
    if not radii.clip_w:
        return None
    return Clipping(radii.clip_w / alpha, radii.clip_y, radii.clip_objective or math.inf, neighbors)


def actor_of(experiment: Experiment, ground: Ground, me: PeerId, learned: Learned) -> Actor:
    """An agent of a run in rounds."""
    alpha, neighbors = alpha_of(experiment, ground.contraction), ground.union[me]
    return Actor(
        me=me,
        problem=learned.problem,
        schedule=ground.schedule,
        n_rounds=experiment.iterations,
        alpha=alpha,
        method=method_of(experiment),
        rule=step_of(experiment),
        weights=ground.weights,
        gossip=ground.gossip,
        wire_dtype=DTYPES[experiment.transport.wire_dtype],
        clipping=clipping_of(experiment, neighbors, alpha),
        coding=coding_of(experiment, neighbors),
        caution=caution_of(experiment, ground.contraction, experiment.peers),
        renewal=learning.renewal_of(experiment),
        watch=learned.watch,
        held_out=learned.held_out,
        tolerance=experiment.run.tolerance,
        patience=experiment.run.validation_patience,
    )


# ---- digests ------------------------------------------------------------------------------


def digest(common: Mapping[str, str]) -> str:
    """Short name of a set of settings, the same on every machine."""
    return short_digest("\n".join(f"{key}={value}" for key, value in sorted(common.items())))


def short_digest(text: str) -> str:
    """Short name of a text; long enough that no two ever share one by chance."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


# ---- session -------------------------------------------------------------------------------


def session_of(
    experiment: Experiment,
    ground: Ground,
    me: PeerId,
    shard: Shard,
    process: tuple[int, str],
    last: Checkpoint | None,
    common: Mapping[str, str],
) -> Session:
    """The conversation of a peer, at its beginning or, from its last checkpoint, where that left off.

    `process` is its incarnation and instance, see `Roster`; `common` are its `common_settings`.

    Raises
    ------
    ConfigError
        The checkpoint is of another number of samples.
    """
    incarnation, instance = process
    _check_same_samples(shard, shard.n_samples if last is None else last.n_samples.get(me))
    n_steps = ground.gossip.n_steps
    n = 0 if last is None else last.n * n_steps
    roster = Roster(
        me=me,
        instance=instance,
        incarnation=incarnation,
        settings=common,
        n_agents=experiment.peers,
        n_samples=shard.n_samples,
        n_classes=shard.n_classes,
    )
    patience_s, catch_up = experiment.run.patience_s, experiment.run.checkpoint_every * n_steps
    parts = method_of(experiment).parts
    rounds = Rounds(me, ground.schedule, experiment.n_exchanges, patience_s, catch_up, n=n, floor=n, parts=parts)
    if last is not None:
        roster.restore(last.n_samples, last.n_classes)
        rounds.keep(last.kept)
    return Session(ground.union[me], roster, rounds)


def _check_same_samples(shard: Shard, before: int | None) -> None:
    if before != shard.n_samples:
        found = f"{shard.path}: expected the {before} samples of the checkpoint, found {shard.n_samples}"
        raise ConfigError("data.path", found)


def assembly_of(
    experiment: Experiment,
    ground: Ground,
    me: PeerId,
    shard: Shard,
    address: str,
    process: tuple[int, str],
    last: Moment | None,
) -> Assembly:
    """The conversation of a peer without rounds, at its beginning or from its last checkpoint.

    `address` is where it listens, as others see it; `process` its incarnation and instance.

    Raises
    ------
    ConfigError
        The checkpoint is of another number of samples, or its flows are none.
    """
    _check_same_samples(
        shard, shard.n_samples if last is None or me not in last.standings else last.standings[me].n_samples
    )
    incarnation, instance = process
    newcomer = me >= experiment.peers
    own = Standing(1, incarnation, 0, instance, n_samples=shard.n_samples, address=address)
    n_classes = 0 if newcomer else shard.n_classes  # a newcomer takes the model as it is
    membership = Membership(me, own, experiment.peers, experiment.run.departure_s, n_classes)
    flows = Flows(me, incarnation, ())
    settings = common_settings(experiment, ground, shard, me)
    assembly = Assembly(settings, membership, flows, ground.outlets, experiment.iterations)
    if last is not None:
        membership.restore(last.standings, last.n_classes)
        try:
            flows.restore(last.flows)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("--resume", f"expected a checkpoint of flows, found other arrays: {error}") from error
        flows.neighbors = assembly.neighbors_among(flows.members)
        assembly.opened_n = last.opened_n
    return assembly


def first_parameters(experiment: Experiment, me: PeerId) -> str:
    """Digest of what must be the same in all peers' files of initial parameters; empty where that is nothing.

    Where the network is linearized at them that is all of them, else those that are not trained.
    """
    trained = experiment.regime.trainable
    is_linear = learning.is_linear(experiment)
    if not experiment.model.initial or not (is_linear or trained):
        return ""
    parts = sorted(learning.initial_of(experiment, me).parts.items())
    if not is_linear:
        parts = [part for part in parts if not any(f"{part[0]}.".startswith(f"{want}.") for want in trained)]
    return short_digest(" ".join(f"{name} {part.shape} {part.astype(float).tobytes().hex()}" for name, part in parts))


def check_first_parameters(experiment: Experiment, me: PeerId) -> None:
    """Whether a peer's file of initial parameters has what must be as in that of peer 0.

    Raises
    ------
    ConfigError
        It has not.
    """
    if first_parameters(experiment, me) != first_parameters(experiment, 0):
        same = "expected the same parameters at all peers, as some of them stay, or the network is linearized at them"
        path = learning.initial_of(experiment, me).path
        raise ConfigError("model.initial", f"{path}: peer {me}: {same}; found others than peer 0 has")


def common_settings(experiment: Experiment, ground: Ground, shard: Shard, me: PeerId = 0) -> dict[str, str]:
    """What all peers must agree on, as text: the settings, and what follows from files."""
    facts: dict[str, object] = {"columns of x": math.prod(shard.x.shape[1:]), "schedule": ground.digest}
    if experiment.model.python:
        facts["shape of x"] = shard.x.shape[1:]
    if parameters := first_parameters(experiment, me):
        facts["first parameters"] = parameters
    if isinstance(ground.weights, Fastest):  # computed by each peer alone: another last bit would break (9)
        facts["weights"] = short_digest(weights_text(ground.weights))
    if not ground.gossip.is_plain:  # likewise, from eigenvalues that a library found
        facts["consensus"] = repr(ground.gossip)
    if experiment.data.validation_path:  # where it is may differ, that it is there may not
        facts["validation"] = "of files"
    return settings.shared(experiment, **facts)


# ---- rehearsal -----------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Facts:
    """What is known of a run before it starts.

    Parameters
    ----------
    n_samples : tuple of int
        Of each peer.
    n_classes : int
        Largest label of all peers plus one; 0 where there are no labels.
    widths : tuple of int
        Of the network, (d, hidden ..., q).
    n_parameters : int
        p.
    needs_torch : bool
        Whether the network is a module of PyTorch.
    """

    n_samples: tuple[int, ...]
    n_classes: int
    widths: tuple[int, ...]
    n_parameters: int
    needs_torch: bool = False


def rehearse(experiment: Experiment) -> Facts:
    """Do all that peers do before round 0, for all peers, where all files are at hand.

    Raises
    ------
    ConfigError
        What would stop one of them.
    """
    found = [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
    n_classes = max(shard.n_classes for shard in found)
    n_samples = tuple(shard.n_samples for shard in found)
    models = []
    for peer, shard in enumerate(found):
        initial = learning.initial_of(experiment, peer)
        if experiment.model.python:  # as each peer does it, before it knows of others' classes
            learning.model_of(experiment, shard, shard.n_classes, initial)
        models.append(learning.model_of(experiment, shard, n_classes, initial))
        if regimes.network_of(models[-1]) != regimes.network_of(models[0]):
            expected, different = (" - ".join(map(str, model.widths)) for model in (models[0], models[-1]))
            raise ConfigError("data.path", f"{shard.path}: expected widths {expected}, found {different}")
        problem = learning.problem_of(experiment, models[0], shard, sum(n_samples))
        learning.feedback_of(experiment, models[0])
        learning.held_out_of(experiment, models[0], shard, sum(n_samples))
        initial.vector(models[0], experiment.seed, problem.regularizer)
        check_first_parameters(experiment, peer)
    learning.check_codes(experiment, models[0].n_outputs, found)
    if experiment.data.test_path:
        test = shards.read(Path(experiment.data.test_path), "data.test_path")
        learning.check_test(experiment, models[0], test)
    needs_torch = functions.is_torch(regimes.network_of(models[0]))
    return Facts(n_samples, n_classes, models[0].widths, models[0].layout.size, needs_torch)


# ---- record --------------------------------------------------------------------------------


def record(experiment: Experiment, ground: Ground, run_dir: Path) -> None:
    """Write `experiment.toml` and `schedule.jsonl`: with the shards, enough to recompute a run in rounds.

    And `weights.jsonl`, where the weights are no formula.
    """
    import platform  # these two only here: they bring the parser of mails along
    from importlib import metadata

    run_dir.mkdir(parents=True, exist_ok=True)
    software = {name: metadata.version(name) for name in SOFTWARE} | {"python": platform.python_version()}
    for name in FRAMEWORKS if experiment.model.python else ():
        with suppress(metadata.PackageNotFoundError):
            software[name] = metadata.version(name)
    tree = msgspec.structs.replace(experiment, software=software)
    if experiment.run.mode == "async":
        lines = _lines_of(ground.outlets, experiment)
    else:
        lines = schedules.lines(ground.schedule, experiment.n_exchanges)
    npz.replace(run_dir / files.SCHEDULE, lambda file: file.writelines(f"{line}\n".encode() for line in lines))
    if isinstance(ground.weights, Fastest):
        text = weights_text(ground.weights)
        npz.replace(run_dir / files.WEIGHTS, lambda file: file.write(text.encode()))
    # last and at once: who finds it, finds everything
    npz.replace(run_dir / files.EXPERIMENT, lambda file: file.write(settings.to_toml(tree).encode()))


def weights_text(weights: Fastest) -> str:
    """A JSON line [i, j, c_ij] a link, which tells every bit of its weight."""
    return "".join(f"[{i}, {j}, {weight!r}]\n" for (i, j), weight in sorted(weights.links.items()))


MOST_LINES, MOST_CHARACTERS = 1_000, 1 << 26
"""Of `schedule.jsonl` without rounds, where links never repeat: enough to see them, as nobody knows the last waking."""


def _lines_of(linked: Outlets, experiment: Experiment) -> Iterator[str]:
    """Who pushes to whom of the initial members: one period, or the first wakings."""
    room = MOST_CHARACTERS
    for line in outlets.InStep(linked, experiment.peers).lines(
        linked.period(experiment.peers) or min(experiment.iterations, MOST_LINES)
    ):
        if room < 0 and not linked.replayed:  # of a file all is kept, to be used in its place
            return
        yield line
        room -= len(line)
