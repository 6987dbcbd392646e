"""What peers have written down, read again."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from peer.__main__ import cli
from peer.errors import ConfigError
from peer.files import folder_of
from peer.history import (
    TAIL_BYTES,
    Health,
    began_s,
    clocks,
    ended_well,
    epochs,
    events,
    everybody,
    health,
    last_event,
    members,
    n_done,
    needs_nothing,
    ranges,
    round_of,
    rounds,
    unfinished,
    waking_clocks,
)
from peer.journal import Journal
from tests.rundir import EPOCHS, metrics, write_elastic, write_run


def test_the_last_event_is_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert last_event(tmp_path / "nowhere") is None
    assert last_event(tmp_path) is None
    long = "x" * (3 * TAIL_BYTES)
    for text, expected in (
        ("", None),
        ('{"event": "start"', None),
        ('{"event": "start"}\n', "start"),
        ('{"event": "start"}\n{"event": "end", "co', "start"),
        ('{"event": "start"}\n{"event": "end", "pro\xc3', "start"),
        ('{"event": "start"}\n{"event": "end"}\n', "end"),
        (f'{{"event": "start"}}\n{{"event": "end", "problem": "{long}"}}\n', "end"),
        (f'{{"event": "start"}}\n{{"event": "end", "problem": "{long}', "start"),
        (f'{{"event": "{long}"}}\n{{"event": "end"}}\n', "end"),
        ('{"event": "start"}\n[1]\n{}\n', "start"),
    ):
        path.write_text(text, encoding="utf-8")
        found = last_event(tmp_path)
        assert (found and found["event"]) == expected, text[:80]


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        file.truncate(2**40)  # a file with a hole: to read it whole would take an hour
        file.seek(0, 2)
        file.write('\n{"event": "end"}\n')
    assert last_event(tmp_path) == {"event": "end"}


def test_rounds_are_read_again_but_for_one_that_is_being_written(tmp_path: Path) -> None:
    assert rounds(tmp_path) == []
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(metrics(1, n)) + "\n" for n in range(3)) + '{"iteration": 3, "ti')
    found = rounds(tmp_path)
    assert [line.iteration for line in found] == [0, 1, 2]
    assert found[2].dropped == {"stale": 2}
    path.write_text(json.dumps(metrics(0, 0) | {"residual": float("nan"), "objective_estimate": 3}) + "\n")
    assert math.isnan(rounds(tmp_path)[0].residual)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "expected JSON, found: "),
        ("\xff", "expected JSON, found: "),
        ("[" * 100_000, "expected JSON, found: "),
        ("[]", "expected a round of metrics, found: Expected `object`, got `array`"),
        ("{}", "missing required field `iteration`"),
        (json.dumps(metrics(0, 1) | {"wait_s": None}), "$.wait_s"),
        (json.dumps(metrics(0, 3)), "expected round 1, found round 3"),
    ],
    ids=["torn", "bytes", "nested", "array", "empty", "null", "gap"],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(metrics(0, 0)) + f"\n{line}\n", encoding="latin-1")
    with pytest.raises(ConfigError) as refused:
        rounds(tmp_path)
    assert str(refused.value).startswith(f"{path}, line 2: ")
    assert problem in str(refused.value)


def test_events_are_read_again_without_torn_ones(tmp_path: Path) -> None:
    assert events(tmp_path) == []
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n{"event": "di{"event": "start"}\n{"event": "end"}\n{"ev')
    assert [event["event"] for event in events(tmp_path)] == ["start", "end"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, False),
        ({"event": "done"}, False),
        ({"event": "end"}, False),
        ({"event": "end", "code": 3}, False),
        ({"event": "end", "code": 0}, True),
    ],
)
def test_who_has_ended_well(event: dict[str, Any] | None, expected: bool) -> None:
    assert ended_well(event) is expected


def logged(folder: Path, *events: dict[str, Any]) -> None:
    journal = Journal(folder, behind=None)
    for event in events:
        journal.event(event["event"], 0.0, **{key: value for key, value in event.items() if key != "event"})
    journal.close()


def test_a_peer_that_makes_rounds_is_well(tmp_path: Path) -> None:
    logged(tmp_path, {"event": "start"}, {"event": "ready"})
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write('{"iteration": 0}\n{"iteration": 1}\n{"iter')
    os.utime(tmp_path / "metrics.jsonl", (1000.0, 1000.0))
    found = health(tmp_path, within_s=30.0, now=1012.0)
    assert found == Health(True, "2 rounds done, the last 12.0 s ago")
    assert health(tmp_path, within_s=11.0, now=1012.0) == Health(False, found.line)


def test_a_peer_that_waits_is_not_and_says_for_whom(tmp_path: Path) -> None:
    logged(tmp_path, {"event": "start"}, {"event": "waiting", "peers": [1, 4], "since": "2026-01-01T00:00:00"})
    os.utime(tmp_path / "log.jsonl", (1000.0, 1000.0))
    found = health(tmp_path, within_s=30.0, now=1040.0)
    assert not found.good
    assert found.line.endswith("; waits for peers [1, 4] since 2026-01-01T00:00:00")
    assert health(tmp_path, within_s=60.0, now=1040.0).good, "it has just started"


@pytest.mark.parametrize(("code", "good", "says"), [(0, True, "done"), (3, False, "exit code 3: nobody came")])
def test_a_peer_that_has_ended(code: int, good: bool, says: str, tmp_path: Path) -> None:
    logged(tmp_path, {"event": "start"}, {"event": "end", "code": code, "problem": "nobody came"})
    found = health(tmp_path, within_s=1.0, now=1e12)
    assert found.good is good
    assert says in found.line


def test_a_peer_that_never_started_is_not_well(tmp_path: Path) -> None:
    assert not health(tmp_path / "none", within_s=30.0, now=0.0).good


def test_in_a_run_without_peers_none_is_expected(tmp_path: Path) -> None:
    arguments = ["health", str(tmp_path), "--id", "0"]
    assert CliRunner().invoke(cli, arguments, standalone_mode=False).return_value == 1
    (tmp_path / "rounds.csv").touch()
    error = CliRunner().invoke(cli, arguments, standalone_mode=False).exception
    assert isinstance(error, ConfigError)
    assert str(error) == f"peer health: expected a run of peers, found one of `peer simulate` in {tmp_path}"


def test_a_peer_that_left_somebody_behind_may_be_needed_again(tmp_path: Path) -> None:
    logged(tmp_path, {"event": "end", "code": 0, "absent": []})
    assert needs_nothing(tmp_path)
    logged(tmp_path, {"event": "end", "code": 0, "absent": [2]})
    assert not needs_nothing(tmp_path)
    logged(tmp_path, {"event": "end", "code": 130, "absent": []})
    assert not needs_nothing(tmp_path)
    assert not needs_nothing(tmp_path / "none")


def test_everybody_is_who_begins_and_who_has_written(tmp_path: Path) -> None:
    assert everybody(tmp_path, 2) == (0, 1)
    for name in ("000", "008", "1000", "08", "new", "-01", "\u0662"):
        logged(tmp_path / "peers" / name, {"event": "start"})
    (tmp_path / "peers" / "005").mkdir()
    assert everybody(tmp_path, 2) == (0, 1, 8, 1000)


def test_members_are_those_of_the_newest_epoch_that_anybody_tells(tmp_path: Path) -> None:
    assert members(tmp_path, 3) == (0, 1, 2)
    write_run(tmp_path / "rounds")
    assert members(tmp_path / "rounds", 3) == (0, 1, 2)
    write_elastic(tmp_path / "elastic", ended=None)
    assert members(tmp_path / "elastic", 3) == (0, 1, 8)
    assert list(unfinished(tmp_path / "elastic", 3)) == [0, 1, 8], "nobody waits for peer 2"
    write_elastic(tmp_path / "done")
    assert unfinished(tmp_path / "done", 3) == {}
    (folder_of(tmp_path / "done", 8) / "log.jsonl").unlink()
    assert unfinished(tmp_path / "done", 3) == {8: None}, "it writes elsewhere"


def test_epochs_have_the_time_of_the_first_who_opened_them(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    logs = {peer: events(folder_of(tmp_path, peer)) for peer in everybody(tmp_path, 3)}
    found = epochs(logs)
    assert [(one.number, one.members, one.n_samples) for one in found] == list(EPOCHS)
    assert [one.clock_s for one in found] == pytest.approx([1003.0, 1006.0, 1013.0])
    assert [one.opened for one in found] == [(0, 1, 2), (0, 1), (0, 1, 8)]
    logs[8][1]["members"] = "all"
    with pytest.raises(ConfigError, match="expected an event of a peer"):
        epochs(logs)


def test_wakings_count_from_the_start_of_their_process(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    for peer, expected in ((0, [1003.5, 1003.75, 1006.5, 1006.75, 1013.5, 1013.75]), (8, [1013.5, 1013.75])):
        folder = folder_of(tmp_path, peer)
        assert waking_clocks(rounds(folder), events(folder)) == pytest.approx(expected)
    folder = folder_of(tmp_path, 1)
    lines = rounds(folder)
    assert lines[-1].time_s < lines[-3].time_s, "the second process counts anew"
    assert waking_clocks(lines, events(folder))[-3:] == pytest.approx([1006.75, 1013.5, 1013.75])
    assert began_s(events(folder)) == 1001.0


def test_the_time_between_two_processes_in_rounds_does_not_count(tmp_path: Path) -> None:
    write_run(tmp_path)
    folder = folder_of(tmp_path, 1)
    lines, log = rounds(folder), events(folder)
    n = len(lines) // 2
    again = [*log, {**next(one for one in log if one["event"] == "start"), "n": n}]
    end_s = lines[n - 1].time_s
    assert waking_clocks(lines, again) == pytest.approx(
        [line.time_s + (end_s if line.iteration >= n else 0.0) for line in lines]
    )


def test_a_run_in_rounds_counts_from_its_own_start(tmp_path: Path) -> None:
    write_run(tmp_path)
    folder = folder_of(tmp_path, 1)
    lines, log = rounds(folder), events(folder)
    assert waking_clocks(lines, log) == [line.time_s for line in lines]
    assert waking_clocks(lines, []) == [line.time_s for line in lines]
    assert (began_s(log), clocks(log)) == (0.0, [event["time_s"] for event in log])


@pytest.mark.parametrize(
    ("peers", "words"),
    [((), ""), ((4,), "4"), ((0, 1), "0, 1"), ((0, 1, 2, 8), "0 to 2, 8"), ((1, 3, 4, 5), "1, 3 to 5")],
)
def test_peers_in_words(peers: tuple[int, ...], words: str) -> None:
    assert ranges(peers) == words


def test_health_counts_wakings(tmp_path: Path) -> None:
    write_elastic(tmp_path, ended=None)
    folder = folder_of(tmp_path, 0)
    os.utime(folder / "metrics.jsonl", (1000.0, 1000.0))
    assert health(folder, 30.0, 1012.0, "wakings") == Health(True, "6 wakings done, the last 12.0 s ago")


@pytest.mark.parametrize(
    "line", ["nonsense", "3", "[]", '{"iteration": "x"}', '{"iteration": null}', '{"iteration": 1e400}']
)
def test_what_is_no_round_is_none(line: str, tmp_path: Path) -> None:
    assert round_of(line.encode()) is None
    (tmp_path / "metrics.jsonl").write_text(f'{{"iteration": 6}}\n{line}\n')
    assert n_done(tmp_path) == 7
