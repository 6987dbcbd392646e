"""NEXT for neural networks: peers without a center train one network (Scardapane & Di Lorenzo 2017).

Data walks one way: frames in -> `wire.decode` -> `rounds.receive` -> (all neighbors here)
`agent.exchange`, `agent.settle`: mix and track -> `agent.propose`: solve the surrogate -> `wire.encode` -> frames out.
The README says how to read the core in an hour.
"""

__version__ = "0.1.0"
