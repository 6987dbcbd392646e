"""What `peer watch` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peer.errors import ConfigError
from peer.watching.tail import Tail


def watch(source: str | None, port: int, tell: Callable[[str], None]) -> int:
    """Serve the page of a run until this process is told to end; the exit code.

    Raises
    ------
    ConfigError
        There is no such run, the port cannot be used, or aiohttp is missing.
    """
    try:
        from peer.watching.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "aiohttp":
            raise
        raise ConfigError("watch", "needs aiohttp: pip install 'next-peer[watch]'") from error
    run_dir = newest(Path("runs")) if source is None else Path(source)
    return serve(Tail(run_dir), str(run_dir), port, lambda address: tell(f"{run_dir}: {address}"))


def newest(parent: Path) -> Path:
    """The run directory in a folder that was begun last.

    Raises
    ------
    ConfigError
        There is none.
    """
    found = [path.parent for path in parent.glob("*/experiment.toml")]
    if not found:
        raise ConfigError("watch", f"expected a run directory, or one in {parent}/; found none")
    return max(found, key=lambda folder: (folder / "experiment.toml").stat().st_mtime)
