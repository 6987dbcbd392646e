"""What differs between runs: which of them solve one problem, which repeat each other, and what to call them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import msgspec

from peer import settings
from peer.report.reading import Run, names_of
from peer.settings import CHOICES, Experiment

PLACES: Final = frozenset(
    {
        *("name", "seed", "run.id", "run.patience_s", "run.departure_s", "model.folder"),
        *("transport.addresses", "transport.bind", "transport.keys"),
    }
)
"""Settings that tell where and under what name a run was, and with what luck: not what it was."""

PROBLEM: Final = ("data.dataset", "data.path", "data.dimension", "data.samples", "data.separation", "objective.")
"""Settings, or beginnings of their names, by which objectives are of one problem, so that they can be compared."""

FIRST: Final = ("method.", "surrogate.kind", "surrogate.blocks")
"""Settings, or beginnings of their names, that name a variant before others do."""


@final
@dataclass(frozen=True, eq=False)
class Variant:
    """Runs that differ in nothing but their seed.

    Parameters
    ----------
    label : str
    color, dashes : int
        How its curves are drawn, the same in all figures of a page.
    runs : tuple of int
        Their places in the list of all runs.
    """

    label: str
    color: int
    dashes: int
    runs: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Task:
    """Variants that solve one problem.

    Parameters
    ----------
    label : str
        Empty where there is one task only.
    variants : tuple of Variant
    """

    label: str
    variants: tuple[Variant, ...]

    @property
    def runs(self) -> tuple[int, ...]:
        """Places of all its runs in the list of all runs."""
        return tuple(sorted(k for variant in self.variants for k in variant.runs))


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """How runs are laid side by side.

    Parameters
    ----------
    runs : sequence of Run
    """

    runs: Sequence[Run]

    @cached_property
    def settings(self) -> list[dict[str, Any]]:
        """What each run was, by dotted keys; versions of libraries are among them."""
        return [settings_of(run) for run in self.runs]

    @cached_property
    def names(self) -> list[str]:
        """What each run is called: the end of its path by which it differs from the others."""
        return names_of([run.run_dir.absolute() for run in self.runs])

    @cached_property
    def different(self) -> list[str]:
        """Settings that are not the same in all runs."""
        return _varying(self.settings)

    @cached_property
    def tasks(self) -> list[Task]:
        """The runs by problem, in the order in which they are given, and in each of them by variant."""
        of_problem = _grouped(
            range(len(self.runs)), lambda k: _values(self.settings[k], _problem_keys(self.settings[k]))
        )
        groups = list(of_problem.values())
        keys = self._keys(groups)
        labels = dict(enumerate(self._labels(keys)))
        style = self._style(keys, labels)
        order = self._order(keys)
        titles = self._titles(groups)
        tasks = []
        for title, group in zip(titles, groups, strict=True):
            variants: list[Variant] = []
            ordered = sorted(group, key=lambda k: order[k])
            for members in _grouped(ordered, lambda k: labels[k]).values():
                seeds = [self.runs[k].experiment.seed for k in members]
                if len(set(seeds)) == len(seeds) and (len(seeds) > 1 or labels[members[0]]):
                    name = labels[members[0]] or self.runs[members[0]].experiment.name
                    variants.append(Variant(name, *style[members[0]], tuple(members)))
                    continue
                for n, k in enumerate(members):  # the same again: each by the name of its directory
                    name = f"{labels[k]}, {self.names[k]}" if labels[k] else self.names[k]
                    color, dashes = style[k] if labels[k] else (n, n // 5)
                    variants.append(Variant(name, color, dashes + n * bool(labels[k]), (k,)))
            tasks.append(Task(title, tuple(variants)))
        return tasks

    def _keys(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Settings that tell the runs of each task apart; those that only follow from others are left out."""
        varying = dict.fromkeys(key for group in groups for key in _varying([self.settings[k] for k in group]))
        keys = sorted(varying, key=_rank)
        whole = [_parts(self.settings, group, keys) for group in groups]
        for key in reversed(keys):
            rest = [other for other in keys if other != key]
            if rest and [_parts(self.settings, group, rest) for group in groups] == whole:
                keys = rest
        return keys

    def _order(self, keys: Sequence[str]) -> list[tuple[float, ...]]:
        """What to sort runs by: numbers by their size, words in the order in which they are given first."""
        values = [_values(one, keys) for one in self.settings]
        given = [list(dict.fromkeys(column)) for column in zip(*values, strict=True)]
        return [
            tuple(_number(text, seen.index(text)) for text, seen in zip(value, given, strict=True)) for value in values
        ]

    def _labels(self, keys: Sequence[str]) -> list[str]:
        """What to call the variant of each run; what says nothing among those that share its first key is left out."""
        default = settings.flat(Experiment())
        said = []
        for mine in self.settings:
            alike = [other for other in self.settings if keys and other.get(keys[0]) == mine.get(keys[0])]
            parts = []
            for n, key in enumerate(keys):
                same = len({repr(other.get(key)) for other in alike}) == 1
                if n and same and mine.get(key) == default.get(key):
                    continue
                parts.append(in_words(key, mine.get(key), keys))
            said.append(", ".join(parts))
        return said

    def _style(self, keys: Sequence[str], labels: Mapping[int, str]) -> list[tuple[int, int]]:
        """Color and dashes of each run: where it can be, the last setting has the dashes, and the others the color."""
        values = [_values(one, keys) for one in self.settings]
        heads = list(dict.fromkeys(value[:-1] for value in values))
        tails = sorted(
            dict.fromkeys(value[-1:] for value in values), key=lambda tail: _number(tail[0]) if tail else 0.0
        )
        if 1 < len(heads) <= 5 and len(tails) <= 4:
            return [(heads.index(value[:-1]), tails.index(value[-1:])) for value in values]
        order = list(dict.fromkeys(labels.values()))
        return [(order.index(labels[k]), order.index(labels[k]) // 5) for k in range(len(values))]

    def _titles(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """What to call each task; empty where there is one only."""
        if len(groups) == 1:
            return [""]
        firsts = [self.settings[group[0]] for group in groups]
        keys = [key for key in _varying(firsts) if _is_problem(key)]
        for key in reversed(keys):
            rest = [other for other in keys if other != key]
            if len({_values(one, rest) for one in firsts}) == len(firsts):
                keys = rest
        return [", ".join(in_words(key, one.get(key), keys) for key in keys) for one in firsts]


def settings_of(run: Run) -> dict[str, Any]:
    """What a run was, by dotted keys, without PLACES."""
    found = {key: value for key, value in settings.flat(run.experiment).items() if key not in PLACES}
    if run.experiment.data.dataset:  # it was cut into these files
        del found["data.path"], found["data.test_path"]
    here = str(run.run_dir.absolute()) + os.sep
    found |= {
        key: value[len(here) :] for key, value in found.items() if isinstance(value, str) and value.startswith(here)
    }
    return found | {f"software.{name}": version for name, version in run.experiment.software.items()}


def in_words(key: str, value: object, among: Sequence[str] = ()) -> str:
    """A setting for a legend: one of several words by itself, a number with its name."""
    last = key.rpartition(".")[2]
    if sum(other.rpartition(".")[2] == last for other in among) > 1 and key not in CHOICES:
        last = key
    if isinstance(value, str) and value and (key in CHOICES or key.startswith(("method.", "data."))):
        return Path(value).parent.name or value if key == "data.path" else value
    return f"{last} {inline(value)}" if not isinstance(value, str) else f"{last} {value or 'none'}"


def inline(value: object) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(found)}" for key, found in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def overrides(run: Run, base: Experiment) -> list[str]:
    """The settings by which a run differs from another experiment, as `--set` takes them."""
    mine, other = settings.flat(portable(run.experiment)), settings.flat(portable(base))
    return [
        f"{key}={value if isinstance(value, str) else inline(value)}"
        for key, value in mine.items()
        if value != other[key]
    ]


def portable(experiment: Experiment) -> Experiment:
    """The same experiment, to be started anywhere: where its data is cut into, and its peers listen, is open."""
    replace = msgspec.structs.replace
    if experiment.data.dataset:
        experiment = replace(experiment, data=replace(experiment.data, path="", test_path=""))
    run, transport = replace(experiment.run, id=""), replace(experiment.transport, addresses=())
    return replace(experiment, run=run, transport=transport)


def _is_problem(key: str) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in PROBLEM)


def _problem_keys(found: Mapping[str, Any]) -> list[str]:
    return [key for key in found if _is_problem(key)]


def _values(found: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(found.get(key)) for key in keys)


def _varying(found: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for one in found for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in found}) > 1]


def _parts(found: Sequence[Mapping[str, Any]], group: Sequence[int], keys: Sequence[str]) -> list[list[int]]:
    """The runs of a group by the values of these settings."""
    return list(_grouped(group, lambda k: _values(found[k], keys)).values())


def _rank(key: str) -> tuple[int, int]:
    first = next((n for n, name in enumerate(FIRST) if key.startswith(name)), len(FIRST))
    return first, 0 if key in CHOICES else 2 if key.startswith("software.") else 1


def _number(text: str, otherwise: float = 0.0) -> float:
    """What to sort a value by."""
    try:
        return float(text)
    except ValueError:
        return otherwise


def _grouped(places: Sequence[int], key: Callable[[int], Any]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for place in places:
        found.setdefault(key(place), []).append(place)
    return found
