"""CURVE key files: a secret one for each peer, and one public list for all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Final, final

from peer import npz
from peer.errors import ConfigError
from topology import PeerId

PUBLIC_NAME: Final = "public.toml"
"""The list of public keys; no secret, every host has it."""

OWN_NAME: Final = "secret"
"""Name of the secret key in a folder that is mounted for one peer, under a name that is the same for all."""

Z85_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""A CURVE key as text."""

Z85_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
"""Digits of base 85, of which five are four bytes."""


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
        listed = public_list({peer: pair[0] for peer, pair in pairs.items()})
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
    public = {peer: public_of(_secret_in(path)) for peer, path in enumerate(secrets)}
    for peer, folder in enumerate(folders):
        if not (folder / PUBLIC_NAME).exists():
            npz.replace(folder / PUBLIC_NAME, lambda file: file.write(public_list(public).encode()))
        elif read(folder, peer, n_agents)[1] != public:
            raise ConfigError(
                "transport.keys", f"{folder / PUBLIC_NAME}: expected the keys of the secrets in {pattern}"
            )


def folder_of(pattern: str, peer: PeerId) -> Path:
    """Folder in which a peer finds its keys: the pattern with {id}, if it is there, filled in."""
    return Path(pattern.replace("{id}", str(peer)))


def _write_secret(path: Path, secret: str) -> None:
    npz.replace(path, lambda file: file.write(f"{secret}\n".encode()), mode=0o600)


def public_list(public: Mapping[PeerId, str]) -> str:
    """Text of the list of public keys."""
    lines = (f'{peer} = "{key}"\n' for peer, key in sorted(public.items()))
    return "# public CURVE keys by peer id\n" + "".join(lines)


def _secret_in(path: Path) -> str:
    secret = path.read_text(encoding="utf-8", errors="replace").strip()  # what is no text is no key either
    if not Z85_KEY.fullmatch(secret):
        raise ConfigError("transport.keys", f"{path}: expected a key of 40 characters")
    return secret


def read(folder: Path, peer: PeerId, n_agents: int, newcomers: bool = False) -> tuple[str, dict[PeerId, str]]:
    """Secret key of a peer, and the public keys of the first `n_agents`, or, with `newcomers`, of all on the list.

    A folder that only this peer sees may have its secret under the name OWN_NAME.

    Raises
    ------
    ConfigError
        A file or a key is missing, or is no key, or one that another peer has too.
    """
    own = folder / (OWN_NAME if (folder / OWN_NAME).exists() else secret_name(peer))
    try:
        secret = _secret_in(own)
        public = _listed(folder / PUBLIC_NAME)
    except OSError as error:
        whose = f"--peers {n_agents}" if peer < n_agents else f"--id {peer}"
        hint = f"`peer keys DIR {whose}` makes them"
        raise ConfigError("transport.keys", f"expected key files in {folder}: {error}; {hint}") from error
    return secret, _chosen(public, folder / PUBLIC_NAME, peer, n_agents, newcomers)


def check_owner(own: str, public: Mapping[PeerId, str], peer: PeerId, folder: Path) -> None:
    """See to it that the secret of a peer, whose public half is `own`, is not another one's.

    One that is nobody's may be newer than the list.

    Raises
    ------
    ConfigError
        It is: all that it says would be dropped, and it would wait for the others in vain.
    """
    owner = next((j for j, key in public.items() if key == own), peer)
    if owner != peer:
        found = f"found that of peer {owner}, as {PUBLIC_NAME} has it"
        raise ConfigError("transport.keys", f"{folder}: expected the secret key of peer {peer}, {found}")


def _listed(path: Path) -> dict[PeerId, object]:
    """What a list of public keys says of each peer.

    Raises
    ------
    OSError
        It cannot be read.
    ConfigError
        It is none.
    """
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError("transport.keys", f"{path}: expected TOML, found: {error}") from error
    return {int(name): key for name, key in listed.items() if name.isascii() and name.isdigit()}


def _chosen(
    public: Mapping[PeerId, object], path: Path, peer: PeerId, n_agents: int, newcomers: bool
) -> dict[PeerId, str]:
    """The keys that a peer is to know, each one checked."""
    wanted = sorted({*range(n_agents), peer, *public}) if newcomers else range(n_agents)
    chosen: dict[PeerId, str] = {}
    owners: dict[str, PeerId] = {}
    for i in wanted:
        key = public.get(i)
        if not isinstance(key, str) or not _is_key(key):
            raise ConfigError("transport.keys", f"{path}: expected a key for peer {i}, found none")
        if owners.setdefault(key, i) != i:
            raise ConfigError("transport.keys", f"{path}: expected a key of its own for peer {i}: {owners[key]} has it")
        chosen[i] = key
    return chosen


def _is_key(text: str) -> bool:
    """Whether a text is 32 bytes: five of its digits may be more than four bytes hold."""
    if not Z85_KEY.fullmatch(text):
        return False
    words = (text[at : at + 5] for at in range(0, len(text), 5))
    return all(reduce(lambda value, digit: 85 * value + Z85_DIGITS.index(digit), word, 0) < 2**32 for word in words)


@final
class PublicList:
    """A list of public keys on the disk, which is read again when it has changed.

    Parameters
    ----------
    folder, peer, n_agents, newcomers
        As `read` takes them.
    """

    def __init__(self, folder: Path, peer: PeerId, n_agents: int, newcomers: bool = False) -> None:
        self._path = folder / PUBLIC_NAME
        self._wanted = peer, n_agents, newcomers
        self._seen = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def changed(self) -> dict[PeerId, str] | None:
        """The keys that are listed now; None where the file is the one that was there the last time.

        Raises
        ------
        ConfigError
            What is there now is no list, or lacks a peer that has to be on it: somebody may be writing it.
        """
        now = self._look()
        if now == self._seen:
            return None
        self._seen = now
        try:
            return _chosen(_listed(self._path), self._path, *self._wanted)
        except OSError as error:
            raise ConfigError("transport.keys", f"{self._path}: {error.strerror}") from error


def add(folder: Path, peer: PeerId, pair: tuple[str, str]) -> list[Path]:
    """Add the (public, secret) keys of one more peer to a folder that `write` has made; the files written.

    The list is replaced in one piece: peers that run read it again when somebody with an unknown key comes.

    Raises
    ------
    ConfigError
        There is no list, or the peer has keys already; nothing is replaced.
    """
    public, secret = folder / PUBLIC_NAME, folder / secret_name(peer)
    try:
        text, listed = public.read_text(encoding="utf-8"), _listed(public)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("keys", f"expected a list of public keys, as `peer keys` writes it: {error}") from error
    if peer in listed or secret.exists():
        raise ConfigError(
            "keys", f"expected no key of peer {peer}, found one in {public if peer in listed else secret}"
        )
    _write_secret(secret, pair[1])
    whole = text if not text or text.endswith("\n") else text + "\n"
    npz.replace(public, lambda file: file.write(f'{whole}{peer} = "{pair[0]}"\n'.encode()))
    return [public, secret]
