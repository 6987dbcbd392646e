"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.lab import Lab

# The time of an example is no law: on a busy machine any of them may take a second.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty folder to run commands in."""
    return Lab(tmp_path)
