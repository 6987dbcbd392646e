"""Fixtures of the tests on several hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hosts import namespaces
from tests.hosts.namespaces import Network


@pytest.fixture(scope="session")
def _possible() -> None:
    """Skip where there can be no namespaces; else remove what a killed test run has left."""
    reason = namespaces.obstacle()
    if reason:
        pytest.skip(reason)
    namespaces.sweep()


@pytest.fixture
def new_network(_possible: None, tmp_path: Path) -> Iterator[Callable[[], Network]]:
    """Make networks that are gone after the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(namespaces.network(tmp_path))
