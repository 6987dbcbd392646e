"""An image of this tree, and compose projects that are gone after the test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.containers import engine
from tests.containers.engine import Project

Start: TypeAlias = Callable[[Path, str], Project]
"""Makes a project of the compose file in a folder, for one of the composes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an engine where none answers."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = engine.missing() if here else ""
    for item in here if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of this tree with wheels, from which the image is built."""
    folder = engine.clone(tmp_path_factory.mktemp("clone"))
    engine.docker("build", "--quiet", "--build-arg", f"BASE={engine.BASE}", "--tag", "next-peer", str(folder))
    return folder


@pytest.fixture
def project(clone: Path) -> Iterator[Start]:
    """Projects of compose files."""
    made: list[Project] = []
    numbers = itertools.count()

    def start(folder: Path, version: str) -> Project:
        name = f"peertest{os.getpid()}n{next(numbers)}"
        made.append(Project(folder, name, engine.composes()[version]))
        return made[-1]

    yield start
    for one in made:
        one.down()
