"""Fixtures of the integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty folder to run commands in."""
    return Lab(tmp_path)
