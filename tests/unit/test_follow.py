"""Numbers of a run on their way to other tools."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import follow, settings, sinks
from peer.errors import ConfigError
from peer.files import folder_of
from peer.follow import Follower, Whole, values_of
from peer.journal import Journal
from peer.openmetrics import Tally
from peer.settings import Metrics
from peer.sinks import TensorBoard
from tests.rundir import SAMPLES, metrics, rewrite, write_elastic, write_run

PEERS = range(len(SAMPLES))


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, int], tuple[float, Mapping[str, float]]] = {}

    def put(self, series: str, step: int, clock_s: float, values: Mapping[str, float]) -> None:
        assert (series, step) not in self.points, "each line comes once"
        self.points[series, step] = clock_s, values

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def follower(run_dir: Path, experiment: settings.Experiment) -> tuple[Follower, Kept]:
    kept = Kept()
    return Follower(run_dir, experiment, [kept], Tally("tiny")), kept


def test_peers_and_the_network_have_a_point_each_round(tmp_path: Path) -> None:
    found, kept = follower(tmp_path, write_run(tmp_path, n_rounds=3))
    found.look()
    found.look()
    assert kept.points.keys() == {(s, n) for s in ("network", *(f"peer-{j:03d}" for j in PEERS)) for n in range(3)}
    lines = [metrics(j, 2) for j in PEERS]
    values = kept.points["network", 2][1]
    assert values["objective"] == pytest.approx(np.mean([line["objective_estimate"] for line in lines]))
    assert values["residual"] == max(line["residual"] for line in lines)
    assert values["bytes_sent"] == sum(line["bytes_sent"] for line in lines)
    assert values["dropped"] == 2
    assert kept.points["peer-001", 2][1] == values_of(lines[1])
    ended_s = (folder_of(tmp_path, 0) / "metrics.jsonl").stat().st_mtime
    assert kept.points["peer-000", 2][0] == pytest.approx(ended_s)
    assert kept.points["peer-000", 1][0] == pytest.approx(ended_s - 0.25)
    assert 'next_peer_rounds_total{run="tiny",peer="2"} 3' in found.page


def test_lines_that_come_later_and_those_of_a_peer_that_returns_come_once(tmp_path: Path) -> None:
    found, kept = follower(tmp_path, write_run(tmp_path, n_rounds=2, ended=None))
    found.look()
    journal = Journal(folder_of(tmp_path, 1), behind=1)  # it goes through round 1 again
    for n in (1, 2):
        journal.round(**metrics(1, n))
        found.look()
    journal.close()
    assert {step for series, step in kept.points if series == "peer-001"} == {0, 1, 2}
    assert {step for series, step in kept.points if series == "network"} == {0, 1}, "others are not there yet"


def test_without_rounds_it_is_the_members_of_the_newest_epoch_that_count(tmp_path: Path) -> None:
    found, kept = follower(tmp_path, write_elastic(tmp_path))
    found.look()
    assert {series for series, _ in kept.points} == {"network", *(f"peer-{j:03d}" for j in (0, 1, 2, 8))}
    steps = [step for series, step in kept.points if series == "network"]
    assert steps == sorted(set(steps))
    assert steps[-1] == max(step for series, step in kept.points if series == "peer-000")
    last = kept.points["network", steps[-1]][1]
    assert last["bytes_sent"] == sum(metrics(j, 0)["bytes_sent"] for j in (0, 1, 8))
    assert kept.points["peer-001", 0][0] == pytest.approx(1003.5), "by the clock that its log tells"


def test_a_newcomer_does_not_hold_the_network_up() -> None:
    whole = Whole(0)
    line = {"epoch": 1, "members": 2}
    assert [n for n, _ in whole.add(0, metrics(0, 7) | line)] == []
    assert [n for n, _ in whole.add(1, metrics(1, 0) | line)] == [0]
    assert [n for n, _ in whole.add(0, metrics(0, 8) | line)] == [8]
    assert [n for n, _ in whole.add(1, metrics(1, 1) | line)] == []


def test_of_many_peers_only_the_network_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_SHOWN", 2)
    found, kept = follower(tmp_path, write_run(tmp_path))
    found.look()
    assert {series for series, _ in kept.points} == {"network"}


def test_a_run_is_over_when_all_have_ended(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    assert follow.is_over(tmp_path, experiment)
    log = folder_of(tmp_path, 1) / "log.jsonl"
    rewrite(log, "")
    assert not follow.is_over(tmp_path, experiment)


def test_who_was_killed_and_found_gone_holds_no_end_up(tmp_path: Path) -> None:
    """Peer 2, which is in the first epoch only, has not said that it ends."""
    experiment = write_elastic(tmp_path / "over")
    assert follow.is_over(tmp_path / "over", experiment)
    newcomer = Journal(folder_of(tmp_path / "over", 9), behind=None)
    newcomer.event("start", 0.0, id=9, n=0)
    newcomer.close()
    assert not follow.is_over(tmp_path / "over", experiment), "it is no member yet"
    assert not follow.is_over(tmp_path / "running", write_elastic(tmp_path / "running", ended=None))


@pytest.mark.parametrize("text", ["nonsense\n", "3\n", '{"iteration": 0}\n'])
def test_what_is_no_line_is_told(text: str, tmp_path: Path) -> None:
    found, _ = follower(tmp_path, write_run(tmp_path))
    rewrite(folder_of(tmp_path, 1) / "metrics.jsonl", text)
    with pytest.raises(ConfigError, match="expected metrics of peers"):
        found.look()


def test_places_are_those_of_the_command_or_else_of_the_run(tmp_path: Path) -> None:
    write_run(tmp_path, metrics={"openmetrics": 9464})
    assert follow.experiment_of(tmp_path, Metrics()).metrics.openmetrics == 9464
    assert follow.experiment_of(tmp_path, Metrics("x")).metrics == Metrics("x")
    with pytest.raises(ConfigError, match='--openmetrics: expected a port, or "host:port", found'):
        follow.experiment_of(tmp_path, Metrics(openmetrics="nowhere"))
    (tmp_path / "rounds.csv").touch()
    with pytest.raises(ConfigError, match="expected a run of peers, found one of `peer simulate`"):
        follow.experiment_of(tmp_path, Metrics())
    (tmp_path / "rounds.csv").unlink()
    path = tmp_path / "experiment.toml"
    path.write_text(path.read_text().replace("openmetrics = 9464", 'openmetrics = ""'))
    with pytest.raises(ConfigError, match="expected --tensorboard, --mlflow or --openmetrics"):
        follow.experiment_of(tmp_path, Metrics())


@pytest.mark.parametrize(("name", "module"), sinks.PACKAGES.items())
def test_a_package_that_is_missing_is_told_before_anything_begins(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda wanted: None if wanted == module else object())
    sinks.check_installed(Metrics())
    with pytest.raises(ConfigError, match=rf"metrics\.{name}: needs {module}: pip install 'next-peer\[{name}\]'"):
        sinks.check_installed(settings.from_tree({"data": {"path": "x"}, "peers": 1, "metrics": {name: "y"}}).metrics)


def test_events_are_not_written_twice(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, "run")
    sink.put("network", 0, 1000.0, {"objective": 2.5})
    sink.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["network"]
    with pytest.raises(ConfigError, match="--tensorboard: expected nothing of this run"):
        TensorBoard(tmp_path, "run")


@pytest.mark.parametrize(
    ("place", "expected"),
    [("", None), (9464, ("127.0.0.1", 9464)), ("80", ("127.0.0.1", 80)), ("0.0.0.0:99", ("0.0.0.0", 99))],
)
def test_a_port_alone_is_one_of_the_loopback(place: int | str, expected: Any) -> None:
    assert settings.endpoint_of(place) == expected


def test_where_numbers_are_served_is_told_as_a_browser_takes_it() -> None:
    for place, expected in ((9464, "127.0.0.1:9464"), ("[::1]:80", "[::1]:80"), ("[fe80::1%lo]:80", "[fe80::1%lo]:80")):
        found = settings.endpoint_of(place)
        assert found is not None
        assert settings.place_text(*found) == expected


@pytest.mark.parametrize("place", [0, -1, 70_000, "x", "host", "host:", ":99", "a:b:c", "host:99/metrics"])
def test_what_is_no_place_is_refused(place: int | str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.openmetrics: expected a port"):
        settings.from_tree({"peers": 1, "data": {"path": "x"}, "metrics": {"openmetrics": place}})


def test_folders_are_relative_to_the_experiment_file_and_uris_are_not(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    for given, expected in (("ml", str(tmp_path / "ml")), ("http://a:5", "http://a:5"), ("sqlite:///m", "sqlite:///m")):
        path.write_text(f'[data]\npath = "x"\n[metrics]\ntensorboard = "tb"\nmlflow = "{given}"\n')
        found = settings.read(path, ["peers=1"]).metrics
        assert (found.tensorboard, found.mlflow) == (str(tmp_path / "tb"), expected)


def test_where_numbers_go_is_nothing_that_peers_agree_on() -> None:
    plain = settings.from_tree({"peers": 1, "data": {"path": "x"}})
    shown = settings.from_tree({"peers": 1, "data": {"path": "x"}, "metrics": {"openmetrics": 9464, "mlflow": "m"}})
    assert settings.shared(plain) == settings.shared(shown)


def test_no_package_of_the_places_comes_with_a_launch() -> None:
    import subprocess

    heavy = "{'tensorboardX', 'mlflow', 'onnx', 'google', 'prometheus_client'}"
    code = f"import sys, peer.launcher, peer.process; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
