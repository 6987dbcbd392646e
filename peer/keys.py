"""CURVE key files: a secret one for each peer, and one public list for all."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from peer.errors import ConfigError
from topology import PeerId

PUBLIC_NAME: Final = "public.toml"
"""The list of public keys; no secret, every host has it."""

OWN_NAME: Final = "secret"
"""Name of the secret key in a folder that is mounted for one peer, under a name that is the same for all."""

Z85_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""A CURVE key as text."""


def secret_name(peer: PeerId) -> str:
    """File name of a peer's secret key; only that peer's host has it."""
    return f"peer-{peer:03d}.secret"


def write(folder: Path, pairs: Mapping[PeerId, tuple[str, str]]) -> list[Path]:
    """Write (public, secret) key pairs; the files written. Secret files are readable by their owner only.

    Raises
    ------
    ConfigError
        There are keys in the folder already; nothing is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    public = folder / PUBLIC_NAME
    paths = [public, *(folder / secret_name(peer) for peer in pairs)]
    there = next((path for path in paths if path.exists()), None)
    if there is not None:
        raise ConfigError("keys", f"expected a folder without keys, found {there}")
    for peer, (_, secret) in pairs.items():
        _write_secret(folder / secret_name(peer), secret)
    _write_public(public, {peer: pair[0] for peer, pair in pairs.items()})
    return paths


def complete(pattern: str, n_agents: int, new_pair: Callable[[], tuple[str, str]]) -> None:
    """Make the keys that are not there yet in a folder, or, where the name holds {id}, in a folder for each peer.

    Secret keys that are there stay. The list of public ones is written last, so that it is whole.

    Parameters
    ----------
    pattern : str
        Name of the folder, with or without {id}.
    n_agents : int
        Number of peers.
    new_pair : callable
        Makes a (public, secret) pair.

    Raises
    ------
    ConfigError
        A key that is there is none, or its public half is not listed.
    """
    folders = [folder_of(pattern, peer) for peer in range(n_agents)]
    listed: dict[PeerId, str] = {}
    for peer, folder in enumerate(folders):
        if (folder / PUBLIC_NAME).exists() and (folder / secret_name(peer)).exists():
            listed[peer] = read(folder, peer, n_agents)[1][peer]
    if len(listed) == n_agents:
        return
    pairs = {peer: new_pair() for peer in range(n_agents) if peer not in listed}
    if listed:
        missing = ", ".join(map(str, pairs))
        problem = f"{pattern}: expected the keys of all peers or of none, found none of peers {missing}"
        raise ConfigError("transport.keys", problem)
    public = {peer: pair[0] for peer, pair in pairs.items()}
    for peer, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / secret_name(peer)).unlink(missing_ok=True)  # of an attempt that was cut short: nobody has used it
        _write_secret(folder / secret_name(peer), pairs[peer][1])
    for folder in dict.fromkeys(folders):
        _write_public(folder / PUBLIC_NAME, public)


def folder_of(pattern: str, peer: PeerId) -> Path:
    """Folder in which a peer finds its keys: the pattern with {id}, if it is there, filled in."""
    return Path(pattern.replace("{id}", str(peer)))


def _write_secret(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")


def _write_public(path: Path, public: Mapping[PeerId, str]) -> None:
    lines = (f'{peer} = "{key}"\n' for peer, key in sorted(public.items()))
    path.write_text("# public CURVE keys by peer id\n" + "".join(lines), encoding="utf-8")


def read(folder: Path, peer: PeerId, n_agents: int) -> tuple[str, dict[PeerId, str]]:
    """Secret key of a peer, and the public keys of all.

    A folder that only this peer sees may have its secret under the name OWN_NAME.

    Raises
    ------
    ConfigError
        A file or a key is missing, or is no key.
    """
    own = folder / (OWN_NAME if (folder / OWN_NAME).exists() else secret_name(peer))
    try:
        secret = own.read_text(encoding="utf-8").strip()
        listed = tomllib.loads((folder / PUBLIC_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"`peer keys DIR --peers {n_agents}` makes them"
        raise ConfigError("transport.keys", f"expected key files in {folder}: {error}; {hint}") from error
    except ValueError as error:
        raise ConfigError("transport.keys", f"{folder / PUBLIC_NAME}: expected TOML, found: {error}") from error
    public = {int(name): key for name, key in listed.items() if name.isascii() and name.isdigit()}
    for i in range(n_agents):
        if not isinstance(public.get(i), str) or not Z85_KEY.fullmatch(public[i]):
            raise ConfigError("transport.keys", f"{folder / PUBLIC_NAME}: expected a key for peer {i}, found none")
    if not Z85_KEY.fullmatch(secret):
        raise ConfigError("transport.keys", f"{own}: expected a key of 40 characters")
    return secret, {i: public[i] for i in range(n_agents)}
