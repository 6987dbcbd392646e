"""CURVE key files: a secret one for each peer, and one public list for all."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peer.errors import ConfigError
from topology import PeerId

PUBLIC_NAME: Final = "public.toml"
"""The list of public keys; no secret, every host has it."""

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
        descriptor = os.open(folder / secret_name(peer), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
    lines = (f'{peer} = "{key}"\n' for peer, (key, _) in sorted(pairs.items()))
    public.write_text("# public CURVE keys by peer id\n" + "".join(lines), encoding="utf-8")
    return paths


def read(folder: Path, peer: PeerId, n_agents: int) -> tuple[str, dict[PeerId, str]]:
    """Secret key of a peer, and the public keys of all.

    Raises
    ------
    ConfigError
        A file or a key is missing, or is no key.
    """
    try:
        secret = (folder / secret_name(peer)).read_text(encoding="utf-8").strip()
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
        raise ConfigError("transport.keys", f"{folder / secret_name(peer)}: expected a key of 40 characters")
    return secret, {i: public[i] for i in range(n_agents)}
