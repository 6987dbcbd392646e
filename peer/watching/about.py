"""What a page says of an experiment that does not change: its settings in words, and where its agents are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from peer import __version__, config
from peer.errors import ConfigError
from peer.settings import NEXT, Experiment
from topology import Graph, PeerId, windows
from topology.places import positions

MOST_ROUNDS: Final = 300
"""Looked at for links; a page adds those that are seen later."""

MOST_PLACED: Final = 150
"""Agents up to which their places are computed from the links, which takes seconds for more; then a circle."""


def about(experiment: Experiment, source: str) -> dict[str, Any]:
    """What a page is told first."""
    links = possible_links(experiment)
    circular = experiment.topology.schedule == "one-peer-exponential" or links is None
    return {
        "name": experiment.name,
        "source": source,
        "version": __version__,
        "mode": experiment.run.mode,
        "peers": experiment.peers,
        "iterations": experiment.iterations,
        "tolerance": experiment.run.tolerance,
        "tracks": experiment.tracks,
        "facts": facts(experiment),
        "links": links or (),
        "places": places(experiment.peers, links or (), circular),
    }


def facts(experiment: Experiment) -> list[tuple[str, str]]:
    """Settings in words."""
    data, model, topology, method = experiment.data, experiment.model, experiment.topology, experiment.method.kind
    network = f"{len(model.layers)} layers" if model.layers else " - ".join(["in", *map(str, model.hidden), "out"])
    graph = "" if topology.schedule in ("file", "one-peer-exponential") else f" on {topology.graph}"
    return [
        ("data", data.dataset or data.path),
        ("network", model.python or network),
        ("loss", f"{experiment.objective.loss}, {experiment.objective.regularizer}"),
        ("surrogate", experiment.surrogate.kind) if method == NEXT else ("method", method),
        ("schedule", f"{topology.schedule}{graph}"),
        ("seed", str(experiment.seed)),
    ]


def possible_links(experiment: Experiment) -> Sequence[tuple[PeerId, PeerId]] | None:
    """Links that there may be between the initial peers, ascending; None where they cannot be told from here."""
    try:
        if experiment.run.mode == "async":
            outlets, members = config.outlets_of(experiment), tuple(range(experiment.peers))
            arcs = {(i, j) for i in members for j in outlets.of(members, i).out_neighbors}
            return sorted({(min(arc), max(arc)) for arc in arcs})
        return sorted(windows.union(config.schedule_of(experiment), min(experiment.n_exchanges, MOST_ROUNDS)).edges)
    except ConfigError:  # a schedule that is a file on another host
        return None


def places(
    n_agents: int, links: Sequence[tuple[PeerId, PeerId]], circular: bool = False
) -> dict[str, tuple[float, float]]:
    """Where the initial peers are drawn, in [-1, 1]^2."""
    circular = circular or n_agents > MOST_PLACED
    found = positions(Graph.of(n_agents, links), circular=circular)
    return {str(i): (_rounded(x), _rounded(y)) for i, (x, y) in found.items()}


def _rounded(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else 0.0


def encoded(message: object) -> str:
    """A message for a page, as JSON."""
    return msgspec.json.encode(message).decode()
