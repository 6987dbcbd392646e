"""What a shell offers when a command line is completed: click's own machinery, told what the arguments are.

Nothing of the package is imported before it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final, final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

VARIABLE: Final = "_PEER_COMPLETE"
"""Of the environment, by which a shell asks."""

SHELLS: Final = ("bash", "zsh", "fish")

APPENDED: Final = "COMPREPLY+=($value)"
"""A line of click's script for bash."""

OPEN_ENDED: Final = f"{APPENDED}\n            [[ $value == */ || $value == *= ]] && compopt -o nospace"
"""What stands in its place: behind a folder, or a key, more is to come."""


@final
class Bash(BashComplete):
    """Bash takes KEY=VALUE for three words; here they are one again."""

    source_template: ClassVar[str] = str(BashComplete.source_template).replace(APPENDED, OPEN_ENDED)

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one."""
        words, n = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        *before, last = joined([*words[1:n], words[n] if n < len(words) else ""])
        return before, last

    def complete(self) -> str:
        """Lines of what may follow, without what bash takes for words of their own."""
        before, last = self.get_completion_args()
        head = last[: last.rfind("=") + 1] if "=" in os.environ.get("COMP_WORDBREAKS", "=") else ""
        found = self.get_completions(before, last)
        for item in found:
            item.value = item.value.removeprefix(head)
        return "\n".join(map(self.format_completion, found))


def joined(words: list[str]) -> list[str]:
    """Words in which KEY, = and VALUE are one."""
    found: list[str] = []
    for word in words:
        if found and (word == "=" or (found[-1].endswith("=") and word)):
            found[-1] += word
        else:
            found.append(word)
    return found


add_completion_class(Bash)


def source(cli: click.Command, shell: str) -> str:
    """The script that a shell reads to complete `peer`."""
    kind = get_completion_class(shell)
    assert kind is not None, "click knows it"
    return kind(cli, {}, "peer", VARIABLE).source()


def experiments(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Experiment files, and folders in which there may be some."""
    return [CompletionItem(name) for name, path in _entries(begun) if name.endswith("/") or path.suffix == ".toml"]


def runs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Run directories, and folders in which there may be some."""
    from peer import files

    found = []
    for name, path in _entries(begun):
        if _holds((path / files.EXPERIMENT).exists):
            found.append(CompletionItem(name.removesuffix("/"), help="a run"))
        elif name.endswith("/"):
            found.append(CompletionItem(name))
    return found


def overrides(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Keys of settings, and behind = what they may be."""
    from peer import settings, template

    default, (key, equals, _) = settings.flat(settings.Experiment()), begun.partition("=")
    if not equals:
        said = template.all_meanings()
        return [CompletionItem(f"{one}=", help=said.get(one, "")) for one in default if one.startswith(begun)]
    values = [*settings.CHOICES.get(key, ()), *settings.WORDS.get(key, ())]
    values += ["true", "false"] if isinstance(default.get(key), bool) else []
    return [CompletionItem(f"{key}={value}") for value in values if value and f"{key}={value}".startswith(begun)]


def _entries(begun: str) -> Iterator[tuple[str, Path]]:
    """What a folder has that begins so: names as they are typed, folders with a slash at the end.

    But for names that no line can hold: in other bytes than UTF-8, or with a line's end.
    """
    head, _, start = begun.rpartition("/")
    try:
        paths = sorted(Path(f"{head}/" if "/" in begun else ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # it cannot be listed; or it is the home of nobody
        return
    for path in paths:
        if path.name.startswith(start) and path.name.isprintable() and (start or not path.name.startswith(".")):
            yield f"{head}/{path.name}"[0 if "/" in begun else 1 :] + "/" * _holds(path.is_dir), path


def _holds(question: Callable[[], bool]) -> bool:
    """Whether a path is what is asked for, as far as this user may see."""
    try:
        return question()
    except OSError:
        return False
