"""What files are called: those of a run directory, and those in the folder of each of its peers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from topology import PeerId

# ---- in the run directory ------------------------------------------------------------------

EXPERIMENT: Final = "experiment.toml"
"""All settings, as they were resolved: what makes a folder a run directory."""

SCHEDULE: Final = "schedule.jsonl"
"""Who meets whom, round by round."""

WEIGHTS: Final = "weights.jsonl"
"""Of each link, where they are no formula."""

RECORD: Final = (EXPERIMENT, SCHEDULE, WEIGHTS)
"""What is written before peers start."""

SUMMARY: Final = "summary.json"
"""What a run has come to."""

ROUNDS: Final = "rounds.csv"
"""Of `peer simulate`, which has no peers."""

SIMULATION: Final = "simulation.json"
"""What it has come to."""

PEERS: Final = "peers"
"""Folder of the peers' folders."""

# ---- of a peer -----------------------------------------------------------------------------

METRICS: Final = "metrics.jsonl"
"""A line for each round or waking, see `peer.journal`."""

LOG: Final = "log.jsonl"
"""A line for whatever happens besides."""

INITIAL: Final = "initial.npz"
"""Parameters before the first round."""

CHECKPOINT: Final = "checkpoint.npz"
"""From which a peer goes on, see `peer.checkpoint`."""

FINAL: Final = "final.npz"
"""Parameters at the end."""

# ---- of a network --------------------------------------------------------------------------

FORMATS: Final = ("npz", "safetensors", "onnx")
"""That `peer export` writes, and how their names end."""

# ---- of a sweep ----------------------------------------------------------------------------

SWEEP: Final = "sweep.json"
"""What is varied, and what came of each cell."""

FAILURE: Final = "failure.json"
"""Why a cell has no summary."""


def folder_of(run_dir: Path, peer: PeerId) -> Path:
    """Where a peer of a run writes."""
    return run_dir / PEERS / f"{peer:03d}"
