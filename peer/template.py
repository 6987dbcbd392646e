"""An experiment file to begin with: every setting with its meaning, its default, and what else it may be.

The meanings are those of the docstrings of `peer.settings`, and so are never older than the settings.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import tomli_w

from peer import __version__, settings
from peer.settings import CHOICES, RANGES, Experiment

WIDTH: Final = 110
"""Of a line."""

HEAD: Final = """\
An experiment of next-peer {version}. A line that begins with #, and a key right behind it, shows a default: take the #
away to change it. `peer check {name}` says what all this comes to, `peer launch {name}` runs it.
"""


def meanings(struct: type) -> dict[str, str]:
    """What each setting of a table means, by name, as the table's docstring says it."""
    text = inspect.getdoc(struct) or ""
    _, _, parameters = text.partition("Parameters\n----------\n")
    found = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", parameters, flags=re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


def all_meanings() -> dict[str, str]:
    """What each setting means, by its dotted key."""
    return {
        f"{prefix}{name}": meaning
        for prefix, struct in (("", Experiment), *((f"{name}.", kind) for name, kind in tables().items()))
        for name, meaning in meanings(struct).items()
    }


def tables() -> dict[str, type]:
    """The tables of an experiment file, by name."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Experiment)}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}


def alternatives(key: str) -> str:
    """What a setting may be, as far as that is more than its type; empty where it is not."""
    if key in CHOICES:
        return "One of " + ", ".join(choice or '""' for choice in CHOICES[key]) + "."
    return f"Accepted: {RANGES[key][2]}." if key in RANGES else ""


def text(experiment: Experiment, file_name: str) -> str:
    """An experiment file: what differs from the defaults is set, all else shown.

    Parameters
    ----------
    experiment : Experiment
    file_name : str
        Its name, for the commands that it tells of.
    """
    given, default = settings.flat(experiment), settings.flat(Experiment())
    said = all_meanings()
    lines = list(_comment(HEAD.format(version=__version__, name=file_name)))
    table = ""
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        if section != table:
            table = section
            about = (inspect.getdoc(tables()[table]) or "").partition("\n")[0].partition(": ")[2]
            lines += ["", f"[{table}]" + (f" # {about.rstrip('.')}" if about else "")]
        lines += ["", *_comment(f"{said.get(key, '')} {alternatives(key)}")]
        lines.append(("" if value != default[key] else "#") + _assigned({name: value}))
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False))


def _assigned(item: Mapping[str, Any]) -> str:
    """`key = value`, in one line."""
    (name, value), *_ = item.items()
    if isinstance(value, list | tuple):
        parts = (_assigned({"x": part}).removeprefix("x = ") for part in value)
        return f"{name} = [{', '.join(parts)}]"
    if isinstance(value, Mapping):
        return f"{name} = {{ {', '.join(_assigned({k: v}) for k, v in value.items())} }}"
    return tomli_w.dumps({name: value}).strip()
