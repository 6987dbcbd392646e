"""The ground that the peers stand on: who is whose neighbor in which round, and with what weight.

Nothing here knows of peers' processes, parameters or messages. networkx is imported only for
pictures.
"""

from topology.graphs import Graph, PeerId, TopologyError
from topology.outlets import Outlets
from topology.schedules import Schedule

__all__ = ["Graph", "Outlets", "PeerId", "Schedule", "TopologyError"]
