"""What `peer watch` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peer import files, history
from peer.errors import ConfigError

if TYPE_CHECKING:
    from peer.transport import Keys


def watch(source: str | None, port: int, tell: Callable[[str], None], folder: Path | None = None, me: int = 0) -> int:
    """Serve the page of a run until this process is told to end; the exit code.

    Raises
    ------
    ConfigError
        There is no such run of peers, the port cannot be used, or aiohttp is missing.
    """
    try:
        from peer.watching.published import Published
        from peer.watching.server import serve
        from peer.watching.tail import Tail
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "aiohttp":
            raise
        raise ConfigError("watch", "needs aiohttp: pip install 'next-peer[watch]'") from error
    if source is not None and source.startswith("tcp://"):
        return serve(Published(source, keys_of(folder, me)), source, port, lambda address: tell(f"{source}: {address}"))
    run_dir = newest(Path("runs")) if source is None else Path(source)
    history.refuse_simulated(run_dir, "peer watch")
    return serve(Tail(run_dir), str(run_dir), port, lambda address: tell(f"{run_dir}: {address}"))


def keys_of(folder: Path | None, me: int) -> Keys | None:
    """The pair of a peer, with which somebody shows to the others that he may watch; None without a folder.

    Raises
    ------
    ConfigError
        The folder has none.
    """
    if folder is None:
        return None
    from peer import keys
    from peer.transport import Keys, public_of

    secret, public = keys.read(folder, me, 0, newcomers=True)
    return Keys(secret, public_of(secret), public)


def newest(parent: Path) -> Path:
    """The run directory of peers in a folder that was begun last.

    Raises
    ------
    ConfigError
        There is none.
    """
    found = [path.parent for path in parent.glob("*/experiment.toml") if not history.is_simulated(path.parent)]
    if not found:
        raise ConfigError("watch", f"expected a run directory, or one in {parent}/; found none")
    return max(found, key=lambda folder: (folder / files.EXPERIMENT).stat().st_mtime)
