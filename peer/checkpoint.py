"""Snapshots of a peer between two rounds, replaced atomically; and how often it was started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from peer import npz
from peer.arrays import Vector
from peer.errors import ConfigError
from peer.messages import Share
from topology import PeerId


@final
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a peer needs to go on as if nothing had happened.

    Parameters
    ----------
    run_id : str
        The run it belongs to.
    digest : str
        Of the settings it was made with.
    n : int
        Round that comes next.
    n_samples : mapping of int to int
        Samples of every peer.
    n_classes : int
        Largest label of all peers plus one; 0 where there are no labels.
    vectors : mapping of str to Vector
        The agent's vectors at its start, each (p,).
    scalars : mapping of str to float
        The agent's numbers at its start.
    kept : tuple of Share
        Own shares of earlier rounds that neighbors may still ask for, whole.
    """

    run_id: str
    digest: str
    n: int
    n_samples: Mapping[PeerId, int]
    n_classes: int
    vectors: Mapping[str, Vector]
    scalars: Mapping[str, float]
    kept: tuple[Share, ...]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the last one."""
    kept = checkpoint.kept
    arrays = {name: np.array(getattr(checkpoint, name)) for name in ("run_id", "digest", "n", "n_classes")}
    arrays["n_samples"] = np.array([count for _, count in sorted(checkpoint.n_samples.items())], dtype=np.int64)
    arrays |= {f"vector.{name}": vector for name, vector in checkpoint.vectors.items()}
    arrays |= {f"scalar.{name}": np.array(value) for name, value in checkpoint.scalars.items()}
    arrays |= {
        "kept.n": np.array([share.n for share in kept], dtype=np.int64),
        "kept.objective": np.array([share.objective for share in kept], dtype=np.float64),
        "kept.y": np.array([share.y for share in kept], dtype=np.float64),
        "kept.z": np.array([share.z for share in kept], dtype=np.float64),
    }
    npz.save(path, arrays)


def load(path: Path, run_id: str, digest: str, me: PeerId) -> Checkpoint:
    """Read a checkpoint of this run.

    Raises
    ------
    ConfigError
        There is none, it is torn, or it belongs to another run or other settings. The file stays.
    """
    try:
        found = npz.load(path)
    except ValueError as error:
        raise ConfigError("--resume", str(error)) from error
    try:
        checkpoint = Checkpoint(
            run_id=str(found["run_id"]),
            digest=str(found["digest"]),
            n=int(found["n"]),
            n_samples=dict(enumerate(map(int, found["n_samples"]))),
            n_classes=int(found["n_classes"]),
            vectors={name[7:]: array for name, array in found.items() if name.startswith("vector.")},
            scalars={name[7:]: float(array) for name, array in found.items() if name.startswith("scalar.")},
            kept=tuple(
                Share(me, int(n), 0, float(objective), y, z)
                for n, objective, y, z in zip(
                    found["kept.n"], found["kept.objective"], found["kept.y"], found["kept.z"], strict=True
                )
            ),
        )
    except KeyError as error:
        raise ConfigError("--resume", f"{path}: expected a checkpoint, found no {error} in it") from error
    except (TypeError, ValueError) as error:
        raise ConfigError("--resume", f"{path}: expected a checkpoint, found other arrays: {error}") from error
    if (checkpoint.run_id, checkpoint.digest) != (run_id, digest):
        raise ConfigError("--resume", f"{path}: expected a checkpoint of this run, found one of other settings")
    return checkpoint


def next_incarnation(path: Path) -> int:
    """How often the peer whose counter this is was started before; counts this start.

    To be called before anybody hears of the new process: no number may be used twice. The
    counter is a file of its own, for a peer can be killed before its first checkpoint.

    Raises
    ------
    ConfigError
        The file holds something else. It stays.
    """
    try:
        before = int(path.read_text(encoding="ascii")) if path.exists() else 0
    except ValueError as error:
        raise ConfigError("--resume", f"{path}: expected the number of starts, found something else") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    npz.replace(path, lambda file: file.write(b"%d\n" % (before + 1)))
    return before
