"""What a peer writes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peer.journal import Journal, truncate_metrics


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_lines_are_whole_as_soon_as_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "peers" / "000", resume=False)
    journal.round(iteration=0, objective=0.1)
    journal.event("start", 0.12345678, peer=3, text="zwei\nZeilen")
    assert lines(tmp_path / "peers/000/metrics.jsonl") == [{"iteration": 0, "objective": 0.1}]
    expected = {"time_s": 0.123457, "event": "start", "peer": 3, "text": "zwei\nZeilen"}
    assert lines(tmp_path / "peers/000/log.jsonl") == [expected]
    journal.close()


def test_once_is_once_for_each_kind_and_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume=False)
    for time_s in (1.0, 2.0):
        journal.once("dropped", ("stale", 1), time_s, peer=1)
        journal.once("dropped", ("stale", 2), time_s, peer=2)
        journal.once("refused", ("stale", 1), time_s, peer=1)
    journal.close()
    found = [(line["event"], line["peer"], line["time_s"]) for line in lines(tmp_path / "log.jsonl")]
    assert found == [("dropped", 1, 1.0), ("dropped", 2, 1.0), ("refused", 1, 1.0)]


def test_a_new_run_starts_anew_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    for resume, expected in ((False, [0]), (True, [0, 1]), (False, [2])):
        journal = Journal(tmp_path, resume)
        journal.round(iteration=expected[-1])
        journal.event(str(expected[-1]), 0.0)
        journal.close()
        assert [line["iteration"] for line in lines(tmp_path / "metrics.jsonl")] == expected
        assert [line["event"] for line in lines(tmp_path / "log.jsonl")] == list(map(str, expected))


def test_rounds_that_are_gone_through_again_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume=False)
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


def test_nothing_to_drop(tmp_path: Path) -> None:
    truncate_metrics(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []
