"""Files with a line for each round: JSON, `{"n": 0, "edges": [[0, 1], [2, 5]]}`, or "arcs", which have a direction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from topology.graphs import Edge, TopologyError

T = TypeVar("T")


def write(text: Iterable[str], path: Path) -> None:
    """Write lines to a file.

    Raises
    ------
    TopologyError
        The file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in text)
    except OSError as error:
        raise TopologyError(f"{path}: cannot write the schedule: {error.strerror}") from error


def load_as(made: Callable[[str, Sequence[Edge]], T], path: Path, n_agents: int) -> tuple[T, ...]:
    """Read a schedule file whose rounds are made of "edges" or "arcs", as `made` is told, and of their pairs.

    Raises
    ------
    TopologyError
        As `load`, and as `made` raises it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"{path}: cannot read the schedule: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise TopologyError(f"{path}, line {number}: expected JSON in UTF-8, found {error.reason}") from error
    except ValueError as error:  # a path that no system call takes
        raise TopologyError(f"{str(path)!r}: cannot read the schedule: {error}") from error
    found: list[T] = []
    silent = made("edges", ())
    # not splitlines(): that also splits where no editor and no other JSON lines reader does
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            n, key, pairs = _round_of(_parsed(line), n_agents)
            if n < len(found):
                raise TopologyError(f"n = {n} after n = {len(found) - 1}: expected ascending rounds")
            if n - len(found) > MAX_GAP:
                raise TopologyError(f"n = {_shown(n)} leaves more than {MAX_GAP} rounds before it without links")
            links = made(key, pairs)
        except TopologyError as error:
            raise TopologyError(f"{path}, line {number}: {error}") from error
        except RecursionError as error:  # brackets in brackets in brackets
            raise TopologyError(f"{path}, line {number}: expected a round, found JSON nested too deeply") from error
        found.extend([silent] * (n - len(found)))
        found.append(links)
    if not found:
        raise TopologyError(f"{path}, line 1: expected at least one round, found none")
    return tuple(found)


MAX_GAP: Final = 100_000
"""Rounds without links that one line of a file may imply: beyond it the number is a mistake."""


def _parsed(line: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=_without_repetitions)
    except json.JSONDecodeError as error:
        raise TopologyError(f"column {error.colno}: expected JSON, found: {error.msg}") from error
    except TopologyError:  # of _without_repetitions; it is a ValueError too
        raise
    except ValueError as error:  # a whole number of more digits than Python reads
        raise TopologyError(f"expected a round, found JSON that cannot be read: {error}") from error


def _without_repetitions(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json would silently take the last
        raise TopologyError(f"expected every key once, found {_shown([key for key, _ in pairs])}")
    return found


def _round_of(found: object, n_agents: int) -> tuple[int, str, list[Edge]]:
    key = "arcs" if isinstance(found, dict) and "arcs" in found else "edges"
    if not isinstance(found, dict) or set(found) != {"n", key}:
        raise TopologyError(f'expected an object with the keys "n" and "edges" (or "arcs"), found {_shown(found)}')
    n, pairs = found["n"], found[key]
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise TopologyError(f'"n": expected a round number, found {_shown(n)}')
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise TopologyError(f'"{key}": expected a list of pairs [i, j], found {_shown(pairs)}')
    for i, j in pairs:
        if i == j or not (0 <= i < n_agents and 0 <= j < n_agents):
            raise TopologyError(f"{key[:-1]} {_shown([i, j])}: expected two different peers in 0..{n_agents - 1}")
    return n, key, [(i, j) for i, j in pairs]


def _shown(found: object) -> str:
    text = json.dumps(found)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
