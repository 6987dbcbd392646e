"""Schedules in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import laws_topology as laws
from topology import graphs
from topology.files import MAX_GAP
from topology.graphs import TopologyError
from topology.schedules import (
    OnePeerExponential,
    RandomLinks,
    lines,
    load,
    save,
)


def test_lines_are_those_of_the_interface() -> None:
    schedule = laws.replay(6, [(1, 0), (2, 5)], [])
    assert list(lines(schedule, 300)) == ['{"n": 0, "edges": [[0, 1], [2, 5]]}', '{"n": 1, "edges": []}']


def test_file_is_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    schedule = RandomLinks(graphs.ring(5), 0.5, 3)
    save(schedule, 4, path)
    assert path.read_bytes() == "".join(line + "\n" for line in lines(schedule, 4)).encode()


def test_load_fills_gaps_and_skips_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('\n{"n": 1, "edges": [[2, 0]]}\r\n  \n{"edges": [[1, 0], [0, 1]], "n": 3}')
    assert load(path, 3) == laws.replay(3, [], [(0, 2)], [], [(0, 1)])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "column 2: expected JSON, found: Expecting property name enclosed in double quotes"),
        ("[]", 'expected an object with the keys "n" and "edges" (or "arcs"), found []'),
        ('{"n": 1}', 'expected an object with the keys "n" and "edges" (or "arcs"), found {"n": 1}'),
        ('{"n": 1, "edges": [], "p": 0}', 'expected an object with the keys "n" and "edges" (or "arcs")'),
        ('{"n": 1, "edges": [], "n": 2}', 'expected every key once, found ["n", "edges", "n"]'),
        ('{"n": true, "edges": []}', '"n": expected a round number, found true'),
        ('{"n": 1.0, "edges": []}', '"n": expected a round number, found 1.0'),
        ('{"n": -1, "edges": []}', '"n": expected a round number, found -1'),
        ('{"n": NaN, "edges": []}', '"n": expected a round number, found NaN'),
        ('{"n": 0, "edges": []}', "n = 0 after n = 0: expected ascending rounds"),
        (f'{{"n": {MAX_GAP + 2}, "edges": []}}', f"n = {MAX_GAP + 2} leaves more than {MAX_GAP} rounds before it"),
        ('{"n": 1, "edges": {}}', '"edges": expected a list of pairs [i, j], found {}'),
        ('{"n": 1, "edges": ["01"]}', '"edges": expected a list of pairs [i, j], found ["01"]'),
        ('{"n": 1, "edges": [[0, 1, 2]]}', '"edges": expected a list of pairs [i, j], found [[0, 1, 2]]'),
        ('{"n": 1, "edges": [[0, true]]}', '"edges": expected a list of pairs [i, j], found [[0, true]]'),
        ('{"n": 1, "edges": [[0, 4]]}', "edge [0, 4]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [[-1, 0]]}', "edge [-1, 0]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [[2, 2]]}', "edge [2, 2]: expected two different peers in 0..3"),
        ('{"n": 1, "edges": [], "arcs": []}', 'expected an object with the keys "n" and "edges" (or "arcs")'),
        ('{"n": 1, "arcs": [[0, 1, 2]]}', '"arcs": expected a list of pairs [i, j], found [[0, 1, 2]]'),
        ('{"n": 1, "arcs": [[0, 4]]}', "arc [0, 4]: expected two different peers in 0..3"),
        ('{"n": 1, "arcs": [[0, 1]]}', '"arcs": links with a direction need mode = "async"; rounds have "edges"'),
        ("[" * 100_000, "expected a round, found JSON nested too deeply"),
        ('{"n": 1, "edges": [' + "9" * 5000 + "]}", "expected a round, found JSON that cannot be read"),
        (json.dumps({"n": 1, "edges": "x" * 500}), '"edges": expected a list of pairs [i, j], found "xxx'),
    ],
)
def test_malformed_lines(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('{"n": 0, "edges": []}\n' + line + "\n")
    found = laws.refused_in_line(path, n_agents=4, number=2)
    assert found.startswith(problem)
    assert len(found) < 200


def test_largest_gap_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text(f'{{"n": {MAX_GAP}, "edges": []}}')
    assert load(path, 2).period == MAX_GAP + 1


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text('{"n": 0, "edges": []}\x0c\x0b\n\u2028\nnonsense', encoding="utf-8")
    laws.refused_in_line(path, n_agents=4, number=1)  # a form feed is no white space to JSON
    path.write_text("\x0c\x0b\u2028\nnonsense", encoding="utf-8")
    laws.refused_in_line(path, n_agents=4, number=2)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text("\n\n")
    assert laws.refused_in_line(path, 4, number=1) == "expected at least one round, found none"


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"missing\.jsonl: cannot read the schedule: No such file or directory$"):
        load(tmp_path / "missing.jsonl", 4)
    with pytest.raises(TopologyError, match=r"cannot read the schedule: Is a directory$"):
        load(tmp_path, 4)
    with pytest.raises(TopologyError, match=r"cannot read the schedule: embedded null byte$"):
        load(Path("a\0b"), 4)
    with pytest.raises(TopologyError, match=r"cannot write the schedule: No such file or directory$"):
        save(OnePeerExponential(4), 2, tmp_path / "missing" / "schedule.jsonl")
