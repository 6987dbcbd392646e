"""All agents of a run in arrays of one axis more: the same rounds as `peer.agent` and `peer.methods`, agents at once.

For studies of graphs and rounds with very many agents, which `peer.scaling` runs. What agent i does is what the same
agent does as a peer, to rounding: sums have another order. The axes are those of the rest of the project behind a first
one of the agents: w is (I, p), a shard (I, m, d), a Jacobian (I, m q, p). Whatever takes more memory than that of the
parameters is gone through in chunks of agents.
"""
