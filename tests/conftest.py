"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# The time of an example is no law: on a busy machine any of them may take a second.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
