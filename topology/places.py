"""Where to draw agents: needs no library of pictures, so that a page can ask for it too."""

from __future__ import annotations

import math
from collections.abc import Mapping

import networkx as nx
import numpy as np

from topology.graphs import Graph, PeerId

Point = tuple[float, float]


def positions(graph: Graph, *, circular: bool = False) -> Mapping[PeerId, Point]:
    """Where to draw each agent, in the square [-1, 1]^2, which the drawing touches.

    On a circle if asked for, or if turning by one place maps the graph onto itself, as it does a
    ring, an exponential and a complete graph. Else by the layout of Kamada and Kawai, which makes
    drawn distances follow the number of hops, its longest extent laid across the page; agents that
    cannot reach each other are kept one hop farther apart than any that can. Agent 0 is on the left
    and in the upper half.
    """
    n_agents = graph.n_agents
    turned = Graph.of(n_agents, (((i + 1) % n_agents, (j + 1) % n_agents) for i, j in graph.edges))
    if circular or n_agents <= 2 or turned == graph:
        angles = [math.pi / 2 - 2 * math.pi * i / n_agents for i in range(n_agents)]
        return {i: (math.cos(angle), math.sin(angle)) for i, angle in enumerate(angles)}
    linked = graph.networkx()
    hops = dict(nx.all_pairs_shortest_path_length(linked))
    far = 1 + max(max(reached.values()) for reached in hops.values())
    hops = {i: {j: reached.get(j, far) for j in range(n_agents)} for i, reached in hops.items()}
    found = nx.kamada_kawai_layout(linked, dist=hops)
    points = np.array([found[i] for i in range(n_agents)])
    points -= points.mean(axis=0)
    points = points @ np.linalg.svd(points, full_matrices=False)[2].T
    points *= np.where(points[0] * (-1, 1) < 0, -1, 1)  # the signs of singular vectors are anybody's
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    points = (points - middle) / np.abs(points - middle).max()
    return {i: (float(x), float(y)) for i, (x, y) in enumerate(points)}
