"""The ground that the peers stand on: who is whose neighbor in which round, and with what weight.

Nothing here knows of peers' processes, parameters or messages. networkx is imported only
by the functions that build a graph family or look at connectivity: asking a schedule for the
links of a round, which is all that a running peer does, never needs it.
"""

from topology.graphs import Graph, PeerId, TopologyError
from topology.schedules import Schedule

__all__ = ["Graph", "PeerId", "Schedule", "TopologyError"]
