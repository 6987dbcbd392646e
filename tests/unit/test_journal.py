"""What a peer writes down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import ConfigError
from peer.history import events
from peer.journal import GATHER_S, Journal, claim, line_of, truncate_metrics


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.integers(-(2**53), 2**53),
            st.floats(),
            st.floats().map(np.float64),
            st.text(),
            st.booleans(),
            st.lists(st.integers(0, 1_000)),
            st.dictionaries(st.text(), st.integers(0, 1_000)),
        ),
    )
)
def test_a_line_of_a_round_says_what_that_of_json_says(values: dict[str, Any]) -> None:
    """The same types and bits; infinity and nan, too."""
    line = line_of(values)
    assert "\n" not in line
    assert repr(json.loads(line)) == repr(json.loads(json.dumps(values)))


def test_lines_are_whole_as_soon_as_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "peers" / "000", behind=None)
    journal.round(iteration=0, objective=0.1)
    journal.event("start", 0.12345678, peer=3, text="zwei\nZeilen")
    assert lines(tmp_path / "peers/000/metrics.jsonl") == [{"iteration": 0, "objective": 0.1}]
    expected = {"time_s": 0.123457, "event": "start", "peer": 3, "text": "zwei\nZeilen"}
    assert lines(tmp_path / "peers/000/log.jsonl") == [expected]
    journal.close()


class Later:
    """An event loop's `call_later`, whose time comes when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, delay_s: float, function: Callable[[], None]) -> Any:
        assert delay_s == GATHER_S
        self.due.append(function)
        return SimpleNamespace(cancel=lambda: self.due.remove(function))

    def comes(self) -> None:
        """It is later."""
        due, self.due = self.due, []
        for function in due:
            function()


def written(folder: Path) -> list[int]:
    return [line["iteration"] for line in lines(folder / "metrics.jsonl")]


def test_lines_of_short_rounds_are_gathered_for_a_while(tmp_path: Path) -> None:
    later = Later()
    journal = Journal(tmp_path, behind=None, later=later)
    journal.round(iteration=0)
    assert written(tmp_path) == [0], "who has written nothing lately writes at once"
    journal.round(iteration=1)
    journal.round(iteration=2)
    assert written(tmp_path) == [0]
    later.comes()
    assert written(tmp_path) == [0, 1, 2]
    later.comes()
    assert not later.due, "nothing has come for a while"
    journal.round(iteration=3)
    assert written(tmp_path) == [0, 1, 2, 3]
    journal.close()
    assert not later.due


@pytest.mark.parametrize("what", ["sync", "event", "close"])
def test_nothing_goes_before_the_rounds_that_wait(tmp_path: Path, what: str) -> None:
    """Before a checkpoint, an event or the end, all rounds are in their file."""
    journal = Journal(tmp_path, behind=None, later=Later())
    for n in range(3):
        journal.round(iteration=n)
    if what == "event":
        journal.event("done", 1.0)
    else:
        getattr(journal, what)()
    assert written(tmp_path) == [0, 1, 2]
    journal.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_rounds_that_could_not_be_written_later_are_raised_by_the_next(tmp_path: Path) -> None:
    later = Later()
    journal = Journal(tmp_path, behind=None, later=later)
    journal.round(iteration=0)
    journal.round(iteration=1)
    journal._metrics.close()
    with Path("/dev/full").open("w") as journal._metrics:  # the disk is full from now on
        later.comes()
        with pytest.raises(OSError, match="No space left on device") as refusal:
            journal.round(iteration=2)
        assert refusal.value.filename == "/dev/full"
        journal.close()


def test_once_is_once_for_each_kind_and_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path, behind=None)
    for time_s in (1.0, 2.0):
        journal.once("dropped", ("stale", 1), time_s, peer=1)
        journal.once("dropped", ("stale", 2), time_s, peer=2)
        journal.once("refused", ("stale", 1), time_s, peer=1)
    journal.close()
    found = [(line["event"], line["peer"], line["time_s"]) for line in lines(tmp_path / "log.jsonl")]
    assert found == [("dropped", 1, 1.0), ("dropped", 2, 1.0), ("refused", 1, 1.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_raised_by_rounds_and_an_event_by_what_follows(tmp_path: Path) -> None:
    """An event may come from anywhere; a round comes from where errors are dealt with."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path, behind=None)
    journal.event("start", 0.0)
    with pytest.raises(OSError, match="No space left on device") as refusal:
        journal.round(iteration=0)
    assert refusal.value.filename == str(tmp_path / "metrics.jsonl")
    journal.event("end", 1.0)
    journal.close()
    assert [line["event"] for line in lines(tmp_path / "log.jsonl")] == ["start", "end"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_an_event_that_could_not_be_written_is_raised_later_and_again(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path, behind=None)
    journal.event("start", 0.0)
    journal.once("dropped", 1, 0.5)
    methods: list[Callable[[], None]] = [lambda: journal.round(iteration=0), journal.sync, journal.check]
    for method in methods:
        with pytest.raises(OSError, match="No space left on device") as refusal:
            method()
        assert refusal.value.filename == str(tmp_path / "log.jsonl")
    journal.close()
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_a_new_run_starts_anew_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    for behind, expected in ((None, [0]), (1, [0, 1]), (None, [2])):
        journal = Journal(tmp_path, behind)
        journal.round(iteration=expected[-1])
        journal.event(str(expected[-1]), 0.0)
        journal.close()
        assert [line["iteration"] for line in lines(tmp_path / "metrics.jsonl")] == expected
        assert [line["event"] for line in lines(tmp_path / "log.jsonl")] == list(map(str, expected))


def test_rounds_that_are_gone_through_again_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, behind=None)
    for n in range(5):
        journal.round(iteration=n)
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iterat')  # the process was killed in the middle of a line
    truncate_metrics(tmp_path, 3)
    assert [line["iteration"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    truncate_metrics(tmp_path, 10)
    assert len(lines(tmp_path / "metrics.jsonl")) == 3
    truncate_metrics(tmp_path, 0)
    assert lines(tmp_path / "metrics.jsonl") == []


def test_what_is_gone_through_again_stays_until_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path, behind=None)
    for n in range(5):
        journal.round(iteration=n, life=0)
    journal.close()
    journal = Journal(tmp_path, behind=2)
    assert len(lines(tmp_path / "metrics.jsonl")) == 5, "a process that gets no further has taken nothing"
    journal.round(iteration=2, life=1)
    journal.round(iteration=3, life=1)
    journal.close()
    found = [(line["iteration"], line["life"]) for line in lines(tmp_path / "metrics.jsonl")]
    assert found == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_nothing_to_drop(tmp_path: Path) -> None:
    truncate_metrics(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_event_does_not_take_the_next_one_along(tmp_path: Path) -> None:
    journal = Journal(tmp_path, behind=None)
    journal.event("start", 0.0)
    journal.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"time_s": 1.0, "eve')
    journal = Journal(tmp_path, behind=0)
    journal.event("start", 2.0)
    journal.close()
    assert [event["time_s"] for event in events(tmp_path)] == [0.0, 2.0]


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    lock = claim(tmp_path / "peers" / "000")
    with pytest.raises(ConfigError, match="another process"):
        claim(tmp_path / "peers" / "000")
    lock.close()
    claim(tmp_path / "peers" / "000").close()
