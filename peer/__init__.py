"""NEXT for neural networks: peers without a center train one network (Scardapane & Di Lorenzo 2017).

Data walks one way: frames in -> `wire.decode` -> `rounds.receive` -> (all neighbors here)
`agent.exchange`, `agent.settle`: mix and track -> `agent.propose`: solve the surrogate -> `wire.encode` -> frames out.
The README says how to read the core in an hour.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peer.library import Experiment, Run, launch

__version__ = "0.1.0"

__all__ = ["Experiment", "Run", "__version__", "launch", "load_model"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever has that name)
    """What notebooks and scripts use; a peer, which does not, never loads it."""
    if name not in ("Experiment", "Run", "launch"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from peer import library

    return getattr(library, name)


def load_model(run_dir: str | PathLike[str]) -> Any:  # noqa: ANN401  (of whatever kind the user's code is)
    """The trained network of a run directory, with the mean of the members' final parameters.

    Returns
    -------
    Network, torch.nn.Module, or (apply, params)
        See `peer.trained`: a chain of layers has `predict(x)` and `parameters`; of a network of the user's own this is
        what their function gives, with the trained parameters in it.

    Raises
    ------
    ConfigError
        The directory holds no finished run, or its network cannot be made again.
    """
    from pathlib import Path

    from peer import trained

    return trained.load_model(Path(run_dir))
