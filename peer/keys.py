"""CURVE key files: a secret one for each peer, and one public list for all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from peer import npz
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
    try:
        for peer, (_, secret) in pairs.items():
            _write_secret(folder / secret_name(peer), secret)
        listed = _public_list({peer: pair[0] for peer, pair in pairs.items()})
        npz.replace(public, lambda file: file.write(listed.encode()))
    except OSError:
        for path in paths:  # half of them would only be in the way
            path.unlink(missing_ok=True)
        raise
    return paths


def complete(
    pattern: str, n_agents: int, new_pair: Callable[[], tuple[str, str]], public_of: Callable[[str], str]
) -> None:
    """Make the keys that are not there yet in a folder, or, where its name holds {id}, in a folder for each peer.

    Secret keys that are there stay, and the lists of public ones follow from them.

    Parameters
    ----------
    pattern : str
        Name of the folder, with or without {id}.
    n_agents : int
        Number of peers.
    new_pair : callable
        Makes a (public, secret) pair.
    public_of : callable
        Public key of a secret one.

    Raises
    ------
    ConfigError
        A secret is none, or is missing beside a list of public keys, or is not of the key in the list.
    """
    folders = [folder_of(pattern, peer) for peer in range(n_agents)]
    secrets = [folder / secret_name(peer) for peer, folder in enumerate(folders)]
    for secret in secrets:
        if not secret.exists() and (secret.parent / PUBLIC_NAME).exists():
            raise ConfigError("transport.keys", f"expected {secret} beside {PUBLIC_NAME}, found none")
    for secret in secrets:
        if not secret.exists():
            secret.parent.mkdir(parents=True, exist_ok=True)
            _write_secret(secret, new_pair()[1])
    public = {peer: public_of(_checked(path.read_text("utf-8"), path)) for peer, path in enumerate(secrets)}
    for peer, folder in enumerate(folders):
        if not (folder / PUBLIC_NAME).exists():
            npz.replace(folder / PUBLIC_NAME, lambda file: file.write(_public_list(public).encode()))
        elif read(folder, peer, n_agents)[1] != public:
            raise ConfigError(
                "transport.keys", f"{folder / PUBLIC_NAME}: expected the keys of the secrets in {pattern}"
            )


def folder_of(pattern: str, peer: PeerId) -> Path:
    """Folder in which a peer finds its keys: the pattern with {id}, if it is there, filled in."""
    return Path(pattern.replace("{id}", str(peer)))


def _write_secret(path: Path, secret: str) -> None:
    npz.replace(path, lambda file: file.write(f"{secret}\n".encode()), mode=0o600)


def _public_list(public: Mapping[PeerId, str]) -> str:
    lines = (f'{peer} = "{key}"\n' for peer, key in sorted(public.items()))
    return "# public CURVE keys by peer id\n" + "".join(lines)


def _checked(secret: str, path: Path) -> str:
    if not Z85_KEY.fullmatch(secret.strip()):
        raise ConfigError("transport.keys", f"{path}: expected a key of 40 characters")
    return secret.strip()


def read(folder: Path, peer: PeerId, n_agents: int, newcomers: bool = False) -> tuple[str, dict[PeerId, str]]:
    """Secret key of a peer, and the public keys of the first `n_agents`, or, with `newcomers`, of all on the list.

    A folder that only this peer sees may have its secret under the name OWN_NAME.

    Raises
    ------
    ConfigError
        A file or a key is missing, or is no key.
    """
    own = folder / (OWN_NAME if (folder / OWN_NAME).exists() else secret_name(peer))
    try:
        secret = own.read_text(encoding="utf-8")
        listed = tomllib.loads((folder / PUBLIC_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"`peer keys DIR --peers {n_agents}` makes them"
        raise ConfigError("transport.keys", f"expected key files in {folder}: {error}; {hint}") from error
    except ValueError as error:
        raise ConfigError("transport.keys", f"{folder / PUBLIC_NAME}: expected TOML, found: {error}") from error
    public = {int(name): key for name, key in listed.items() if name.isascii() and name.isdigit()}
    wanted = sorted({*range(n_agents), peer, *public}) if newcomers else range(n_agents)
    for i in wanted:
        if not isinstance(public.get(i), str) or not Z85_KEY.fullmatch(public[i]):
            raise ConfigError("transport.keys", f"{folder / PUBLIC_NAME}: expected a key for peer {i}, found none")
    return _checked(secret, own), {i: public[i] for i in wanted}
