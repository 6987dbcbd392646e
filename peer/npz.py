"""npz files, read whole or not at all; and files that are replaced atomically."""

from __future__ import annotations

import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

FOREIGN: Final = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, OverflowError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What zipfile and numpy raise on files that are no npz, or not whole."""


def load(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, by name.

    Raises
    ------
    ValueError
        There is no file, it cannot be read, it is torn, or it is no npz; says which. Nothing is
        unpickled.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ValueError(f"expected a file at {path}, found none") from error
    except (AttributeError, TypeError) as error:  # a single array, as .npy holds it
        raise ValueError(f"{path}: expected an npz file with named arrays, found another kind") from error
    except FOREIGN as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a whole npz file, found: {problem}") from error
    strange = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if strange is not None:
        raise ValueError(f"{path}: expected an npz file with arrays only, found {strange!r} in it")
    return arrays


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file in the place of `path`: readers find the old or the new one."""
    replace(path, lambda file: np.savez(file, allow_pickle=False, **dict(arrays)))


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in a folder that is nobody else's."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def replace(path: Path, write: Callable[[IO[bytes]], object], mode: int = 0o666) -> None:
    """Write a file beside `path`, to the disk, and put it in its place, which is on the disk too after this.

    Raises
    ------
    OSError
        The disk is full, or read-only; names `path`. What is there is the old file, and nothing beside it.
    """
    # a name of its own: another thread of an interrupted peer, or another peer, may be writing the same file now
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the old file may be back after a power cut, when neighbors count on the new one
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
