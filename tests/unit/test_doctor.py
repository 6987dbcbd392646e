"""What a host is told about itself."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from peer import doctor, settings
from peer.__main__ import cli
from peer.doctor import Finding
from peer.errors import ConfigError
from peer.settings import Experiment


def named(found: list[Finding], name: str) -> Finding:
    return next(finding for finding in found if finding.name == name)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A container engine, and the exit codes with which it answers."""
    codes = [0]

    def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        assert command[1:] == ["info"]
        if codes[0] < 0:
            raise subprocess.TimeoutExpired(command, 1.0)
        return subprocess.CompletedProcess(command, codes[0])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    return codes


def test_this_host_can_run_peers() -> None:
    found = doctor.examine(None)
    assert [finding for finding in found if finding.mark == "BAD"] == []
    assert {"python", "numpy", "cores", "memory", "open files", "encryption", "torch"} <= {one.name for one in found}
    assert named(found, "container engine").found == "docker answers"


@pytest.mark.parametrize("code", [1, -1])
def test_an_engine_that_does_not_answer_is_no_reason_to_fail(code: int, engine: list[int]) -> None:
    engine[0] = code
    found = named(doctor.examine(None), "container engine")
    assert (found.mark, found.found, found.advice) == (
        *("note", "docker does not answer", "`docker info` must work for you"),
    )


def test_no_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert named(doctor.examine(None), "container engine").found == "none"


@pytest.mark.parametrize(
    ("limit", "name", "advice"),
    [
        (resource.RLIMIT_NOFILE, "open files", "ulimit -n 105"),
        (resource.RLIMIT_NPROC, "processes", "ulimit -u 256"),
        (resource.RLIMIT_AS, "address space", "ulimit -v unlimited"),
    ],
)
def test_limits_that_are_too_low_come_with_what_to_do(
    limit: int, name: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (50, 50) if which == limit else (-1, -1))
    found = doctor.examine(None)
    assert [one.name for one in found if "ulimit" in one.advice] == [name]
    assert named(found, name).advice.startswith(advice)


def test_threads_that_take_the_cores_from_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    assert named(doctor.examine(None), "threads").found == "OPENBLAS_NUM_THREADS=8"
    assert named(doctor.examine(None), "threads").mark == "note"


def test_what_is_not_installed_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "" if package in ("onnx", "scipy") else "1.0")
    found = doctor.examine(None)
    assert named(found, "onnx").advice == "for `peer export --format onnx`: pip install 'next-peer[export]'"
    assert (named(found, "onnx").mark, named(found, "scipy").mark) == ("note", "BAD")
    assert named(found, "scipy").advice == "pip install scipy"


def experiment(port: int, **tree: Any) -> Experiment:
    transport = {"addresses": [f"tcp://127.0.0.1:{port}", "tcp://elsewhere.example:5555"]}
    return settings.from_tree({"peers": 2, "data": {"path": "{id}.npz"}, "transport": transport} | tree)


def test_a_launch_of_more_peers_than_there_are_descriptors_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    many = settings.from_tree({"peers": 60, "data": {"path": "{id}.npz"}})
    assert {one.mark for one in doctor.examine(many)} <= {"ok", "note"}
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (150, 150) if which == resource.RLIMIT_NOFILE else (-1, -1)
    )
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    assert named(doctor.examine(many), many.name).mark == "BAD"
    assert named(doctor.examine(many), "open files").mark == "ok"


def test_an_address_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = doctor.examine(experiment(port, metrics={"openmetrics": port}))
        for name in (f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}"):
            assert named(found, name).mark == "BAD"
            assert named(found, name).advice == f"end what listens on port {port}, or change the address"
    assert named(doctor.examine(experiment(port)), f"tcp://127.0.0.1:{port}").mark == "ok"


def test_an_experiment_says_which_packages_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: "" if package == "scikit-learn" else real(package))
    found = doctor.examine(settings.from_tree({"name": "w", "data": {"dataset": "wine"}}))
    assert named(found, "w") == Finding(
        "w", "needs scikit-learn for named data sets", "pip install 'next-peer[datasets]'", True
    )


def test_a_network_of_the_users_own_is_tried(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_package\n")
    (tmp_path / "mine.toml").write_text('[data]\ndataset = "wine"\n[model]\npython = "mine:network"\n')
    found = doctor.examine(settings.read(tmp_path / "mine.toml"))[-1]
    assert (found.mark, "no_such_package" in found.found) == ("BAD", True)


def test_the_command_has_two_forms_and_two_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = [Finding("a", "well"), Finding("b", "ill", "rest", True)]
    monkeypatch.setattr(doctor, "examine", lambda experiment: findings[: 1 + (experiment is not None)])
    good = CliRunner().invoke(cli, ["doctor"], standalone_mode=False)
    assert (good.return_value, good.output.split()) == (0, ["ok", "a", "well"])
    (path := tmp_path / "e.toml").write_text('[data]\npath = "x.npz"\n')
    bad = CliRunner().invoke(cli, ["doctor", str(path), "--json", "--set", "peers=1"], standalone_mode=False)
    assert bad.return_value == 2
    assert json.loads(bad.output)[1] == {"name": "b", "found": "ill", "advice": "rest", "needed": True, "mark": "BAD"}


def test_settings_of_no_experiment_are_refused() -> None:
    with pytest.raises(ConfigError, match="--set: expected an experiment file"):
        doctor.read(None, ["peers=3"])


def test_every_package_of_an_extra_is_told() -> None:
    """But of those that only the tests need."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: needs for extra, needs in project["optional-dependencies"].items() if extra not in ("dev", "containers")
    }
    assert {re.split("[<>=]", each)[0] for needs in extras.values() for each in needs} == set(doctor.EXTRAS)
    assert {extra for extra, _ in doctor.EXTRAS.values()} == extras.keys() - {"sklearn"}  # as datasets
