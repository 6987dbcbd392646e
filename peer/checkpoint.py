"""Snapshots of a peer between two rounds, replaced atomically; and how often it was started."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from peer import npz
from peer.arrays import Sparse, Tensor, Vector
from peer.errors import ConfigError
from peer.messages import EVERYBODY, MAX_INCARNATION, Share, Standing
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
    vectors : mapping of str to array
        The agent's arrays at its start.
    scalars : mapping of str to number
        The agent's numbers at its start.
    kept : tuple of Share
        Own shares of earlier rounds that neighbors may still ask for, whole.
    """

    run_id: str
    digest: str
    n: int
    n_samples: Mapping[PeerId, int]
    n_classes: int
    vectors: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, float | int]
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
        "kept.flood": np.array([share.flood for share in kept], dtype=np.float64),
        "kept.validation": np.array([share.validation for share in kept], dtype=np.float64).reshape(-1, 2),
        "kept.to": np.array([share.to for share in kept], dtype=np.int64),
        **_tensors("kept.y", [share.y for share in kept if share.y is not None]),
        **_tensors("kept.z", [share.z for share in kept]),
    }
    npz.save(path, arrays)


def load(path: Path, run_id: str, digest: str, me: PeerId) -> Checkpoint:
    """Read a checkpoint of this run.

    Raises
    ------
    ConfigError
        There is none, it is torn, or it belongs to another run or other settings. The file stays.
    """
    with _understood(path) as found:
        n_kept = len(found["kept.n"])
        ys = (
            _told(found, "kept.y") if len(found["kept.y"]) else [None] * n_kept
        )  # of all, or, where none is tracked, of none
        checkpoint = Checkpoint(
            run_id=str(found["run_id"]),
            digest=str(found["digest"]),
            n=int(found["n"]),
            n_samples=dict(enumerate(map(int, found["n_samples"]))),
            n_classes=int(found["n_classes"]),
            vectors={name[7:]: array for name, array in found.items() if name.startswith("vector.")},
            scalars={name[7:]: _scalar(array) for name, array in found.items() if name.startswith("scalar.")},
            kept=tuple(
                Share(me, int(n), 0, float(objective), y, z, float(flood), (float(tracked), float(worst)), int(to))
                for n, to, objective, z, flood, (tracked, worst), y in zip(
                    found["kept.n"],
                    found.get("kept.to", np.full(n_kept, EVERYBODY)),  # files of before have none
                    found["kept.objective"],
                    _told(found, "kept.z"),
                    found["kept.flood"],
                    found["kept.validation"],
                    ys,
                    strict=True,
                )
            ),
        )
    _check_run(path, checkpoint, run_id, digest)
    return checkpoint


def _tensors(name: str, tensors: Sequence[Tensor | None]) -> dict[str, NDArray[Any]]:
    """Arrays of what shares carry, all of one kind: the numbers, and the places where they have some."""
    values = [tensor.values if isinstance(tensor, Sparse) else tensor for tensor in tensors]
    places = [tensor.places for tensor in tensors if isinstance(tensor, Sparse)]
    found: dict[str, NDArray[Any]] = {name: np.array(values, dtype=np.float64)}
    return found | ({f"{name}_places": np.array(places)} if places else {})


def _told(found: Mapping[str, NDArray[Any]], name: str) -> Iterator[Tensor]:
    """What `_tensors` has put away."""
    if f"{name}_places" not in found:
        yield from found[name]
    else:
        for values, places in zip(found[name], found[f"{name}_places"], strict=True):
            yield Sparse(values, places)


@final
@dataclass(frozen=True, eq=False)
class Moment:
    """All that a peer without rounds needs to go on: what it may have forgotten since, its neighbors make good.

    Parameters
    ----------
    run_id, digest : str
        As in `Checkpoint`.
    n_classes : int
        Largest label of the members plus one; 0 where there are no labels.
    opened_n : int
        Waking at which the epoch began.
    standings : mapping of int to Standing
        Of all peers.
    agent : mapping of str to numbers
        The agent's vectors, each (p,), and numbers.
    flows : mapping of str to arrays
        As `Flows.snapshot` gives them.
    """

    run_id: str
    digest: str
    n_classes: int
    opened_n: int
    standings: Mapping[PeerId, Standing]
    agent: Mapping[str, Vector | float | int]
    flows: Mapping[str, NDArray[Any]]


def save_moment(path: Path, moment: Moment) -> None:
    """Put a checkpoint in the place of the last one."""
    standings = json.dumps([[j, *structs.astuple(standing)] for j, standing in sorted(moment.standings.items())])
    names = ("run_id", "digest", "n_classes", "opened_n")
    arrays = {name: np.array(getattr(moment, name)) for name in names} | {"standings": np.array(standings)}
    arrays |= {f"agent.{name}": np.array(value) for name, value in moment.agent.items()}
    npz.save(path, arrays | {f"flows.{name}": array for name, array in moment.flows.items()})


def load_moment(path: Path, run_id: str, digest: str) -> Moment:
    """Read a checkpoint of this run.

    Raises
    ------
    ConfigError
        There is none, it is torn, or it belongs to another run or other settings. The file stays.
    """
    with _understood(path) as found:
        moment = Moment(
            run_id=str(found["run_id"]),
            digest=str(found["digest"]),
            n_classes=int(found["n_classes"]),
            opened_n=int(found["opened_n"]),
            standings=_standings(str(found["standings"])),
            agent={name[6:]: _number(array) for name, array in found.items() if name.startswith("agent.")},
            flows={name[6:]: array for name, array in found.items() if name.startswith("flows.")},
        )
    _check_run(path, moment, run_id, digest)
    return moment


def _standings(text: str) -> dict[PeerId, Standing]:
    rows = msgspec.json.decode(text, type=list[list[int | str]])
    names = Standing.__struct_fields__
    return {
        msgspec.convert(j, PeerId): msgspec.convert(dict(zip(names, fields, strict=True)), Standing)
        for j, *fields in rows
    }


def _scalar(array: NDArray[Any]) -> float | int:
    return int(array) if array.dtype.kind == "i" else float(array)


def _number(array: NDArray[Any]) -> Vector | float | int:
    return array if array.ndim else array.item()


@contextmanager
def _understood(path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Arrays of a file, and the error that says so where they are not those of a checkpoint."""
    try:
        found = npz.load(path)
    except ValueError as error:
        raise ConfigError("--resume", str(error)) from error
    try:
        yield found
    except KeyError as error:
        raise ConfigError("--resume", f"{path}: expected a checkpoint, found no {error} in it") from error
    except (TypeError, ValueError) as error:
        raise ConfigError("--resume", f"{path}: expected a checkpoint, found other arrays: {error}") from error


def _check_run(path: Path, found: Checkpoint | Moment, run_id: str, digest: str) -> None:
    if (found.run_id, found.digest) != (run_id, digest):
        raise ConfigError("--resume", f"{path}: expected a checkpoint of this run, found one of other settings")


def next_incarnation(path: Path, durable: bool = True) -> int:
    """How often the peer whose counter this is was started before; counts this start.

    To be called before anybody hears of the new process: no number may be used twice. The
    counter is a file of its own, for a peer can be killed before its first checkpoint. It need not be `durable` where
    all who could remember the process go with it, when the power is cut.

    Raises
    ------
    ConfigError
        The file holds something else. It stays.
    """
    try:
        before = int(path.read_text(encoding="ascii")) if path.exists() else 0
        if not 0 <= before < MAX_INCARNATION:
            raise ValueError("a number that no peer has come to")
    except ValueError as error:
        raise ConfigError("--resume", f"{path}: expected the number of starts, found something else") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    npz.replace(path, lambda file: file.write(b"%d\n" % (before + 1)), durable=durable)
    return before
