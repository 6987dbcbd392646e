"""What was dropped is counted by cause and sender."""

from __future__ import annotations

import pytest

from peer import drops
from peer.drops import Drops
from peer.errors import ProtocolError, WireError


def test_each_cause_of_each_sender_is_counted_and_the_first_is_told() -> None:
    counted = Drops()
    assert counted.numbers == {"dropped": {}}
    errors = [WireError("shape", "", 3), WireError("shape", "", 4), WireError("shape", "", 3), ProtocolError("key", "")]
    assert [counted.add(error) for error in errors] == [True, True, False, True]
    assert counted.numbers == {
        "dropped": {"shape": 3, "key": 1},
        "dropped_by": {"3": {"shape": 2}, "4": {"shape": 1}, "unknown": {"key": 1}},
    }


def test_whoever_says_to_be_anybody_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "MAX_KINDS", 10)
    counted = Drops()
    first = [counted.add(WireError("stranger", "", sender)) for sender in range(1_000)]
    assert first == [True] * 11 + [False] * 989
    assert counted.by_cause == {"stranger": 1_000}
    assert counted.by_sender["unknown"] == {"stranger": 990}
    assert len(counted.by_sender) == 11
    assert not counted.add(WireError("stranger", "", 9)), "who was counted apart still is"
    assert counted.by_sender["9"] == {"stranger": 2}
