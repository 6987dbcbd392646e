"""Experiment files: read, overridden, checked, written; and what peers that run one must agree on."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import tomli_w

from peer.errors import ConfigError
from peer.settings.checks import check
from peer.settings.places import check_text, is_folder, literal
from peer.settings.tables import Experiment, flat
from peer.settings.values import LOCAL, MAX_PEERS, MAX_TEXT, PATHS, PATTERNS


def read(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Experiment of a TOML file, checked, with its paths made absolute.

    Parameters
    ----------
    path : Path
        The file; paths in it are relative to its folder.
    overrides : sequence of str
        "key=value" each, the value as TOML would write it; a word without quotes is text. Paths
        in them are relative to the current folder.

    Raises
    ------
    ConfigError
        Names the file or key, what was expected and what was found.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except OSError as error:
        raise ConfigError(str(path), f"expected an experiment file, found: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"expected TOML, found: {error}") from error
    _anchor(tree, path.parent)
    override(tree, overrides)
    return anchored(tree, path.parent)


def anchored(tree: dict[str, Any], folder: Path) -> Experiment:
    """Experiment of nested tables, checked, with paths relative to a folder made absolute.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    _anchor(tree, folder)
    model = tree.get("model")
    if isinstance(model, dict) and model.get("python") and not model.get("folder"):
        model["folder"] = str(folder.absolute())
    return from_tree(tree)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put "key=value" settings into a tree of settings.

    Raises
    ------
    ConfigError
        Not of that form.
    """
    given: dict[str, Any] = {}
    for item in overrides:
        check_text(item, "--set")
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError("--set", f"expected key=value, found {item!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, last = key.strip().split(".")
        place = given
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError("--set", f"expected {table} as a table or as a value, found both")
        place[last] = value
    _anchor(given, Path.cwd())
    merge(tree, given)


def merge(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put nested tables into others: what both have is taken of `given`."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Tables in tables, of what may have dotted keys, {"surrogate.tau": 1}, and values as TOML has them, not numpy."""
    tree: dict[str, Any] = {}
    for key, value in given.items():
        *tables, last = str(key).split(".")
        plain = nested(value) if isinstance(value, Mapping) else _plain(value)
        for table in (last, *reversed(tables)):
            plain = {table: plain}
        merge(tree, plain)
    return tree


def _plain(value: Any) -> Any:  # noqa: ANN401  (whatever a notebook has)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, tuple | list):
        return [nested(item) if isinstance(item, Mapping) else _plain(item) for item in value]
    return value


def _anchor(tree: Mapping[str, Any], folder: Path) -> None:
    for key in PATHS:
        table, _, name = key.partition(".")
        section = tree.get(table)
        if isinstance(section, dict) and isinstance(section.get(name), str) and section[name]:
            base = Path(literal(folder.absolute())) if key in PATTERNS else folder
            section[name] = str((base / section[name]).absolute())
    metrics = tree.get("metrics")
    if isinstance(metrics, dict) and isinstance(metrics.get("mlflow"), str) and is_folder(metrics["mlflow"]):
        metrics["mlflow"] = str((folder / metrics["mlflow"]).absolute())


def from_tree(tree: Mapping[str, Any]) -> Experiment:
    """Experiment of nested tables, checked.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    _refuse_unknown(tree, Experiment, "")
    try:
        experiment = msgspec.convert(tree, Experiment)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise ConfigError(place.rstrip("`") or "experiment", problem.replace("`", "")) from error
    experiment = _with_all_addresses(experiment)
    check(experiment)
    return experiment


def _with_all_addresses(experiment: Experiment) -> Experiment:
    """A single address that holds {id} stands for those of all peers."""
    addresses = experiment.transport.addresses
    if len(addresses) != 1 or "{id}" not in addresses[0] or experiment.peers > MAX_PEERS:
        return experiment
    each = tuple(addresses[0].replace("{id}", str(peer)) for peer in range(experiment.peers))
    transport = msgspec.structs.replace(experiment.transport, addresses=each)
    return msgspec.structs.replace(experiment, transport=transport)


def _refuse_unknown(tree: Mapping[str, Any], struct: type, prefix: str) -> None:
    known = {key: kind for key, kind in get_type_hints(struct).items() if not key.startswith("_")}
    for key, value in tree.items():
        if key not in known:
            near = _nearest(key, known, prefix)
            hint = f"; did you mean {near}?" if near else f"; known here: {', '.join(known)}"
            raise ConfigError(prefix + key, f"unknown key{hint}")
        kind = known[key]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if not isinstance(value, dict):
                raise ConfigError(prefix + key, f"expected a table [{key}], found {value!r}")
            _refuse_unknown(value, kind, f"{prefix}{key}.")


def _nearest(key: str, known: Collection[str], prefix: str) -> str:
    """The setting that may be meant by an unknown key, with its table, be it this one or another; empty: none."""
    found: dict[str, str] = {}
    for each in flat(Experiment()):
        name = each.rpartition(".")[2]
        found[name] = f"{found[name]} or {each}" if name in found else each
    found |= {name: prefix + name for name in known}
    return found[near[0]] if (near := difflib.get_close_matches(key, found, n=1)) else ""


def shared(experiment: Experiment, **facts: object) -> dict[str, str]:
    """What all peers of a run must agree on, as text by key; `facts` are derived ones to agree on too."""
    settings = {key: value for key, value in flat(experiment).items() if key not in LOCAL}
    return {key: _short(repr(value)) for key, value in sorted((settings | facts).items())}


def _short(text: str) -> str:
    """The text, or, where it is long, as of many layers, its beginning and a digest of it."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}... {blake2b(text.encode(), digest_size=16).hexdigest()}"


def to_toml(experiment: Experiment) -> str:
    """The whole experiment as a TOML file, defaults filled in."""
    return tomli_w.dumps(msgspec.to_builtins(experiment))
