"""A compose project on the engine that answers, and how to get at what its containers do.

`python -m tests.containers.engine` says whether one answers: exit code 0, or 69 with how to get one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
"""Of the repository."""

BASE: Final = os.environ.get("PEER_TEST_BASE", "python:3.11-slim")
"""Image that the tests build on."""

NO_ENGINE: Final = 69
"""Exit code where no engine answers: EX_UNAVAILABLE of sysexits.h."""

ADVICE: Final = (
    "no container engine answers. Docker: https://docs.docker.com/engine/install (Debian: "
    "apt-get install docker.io docker-compose); Podman with its Docker socket will do. "
    "Then `docker info` must work for you, and `make test-containers` again."
)

TIMEOUT_S: Final = 300
"""After which a command that hangs is ended, so that the test fails instead of waiting for ever."""


@lru_cache
def missing() -> str:
    """What is missing for these tests; empty if nothing is."""
    if shutil.which("docker") is None or docker("info", check=False).returncode != 0:
        return ADVICE
    if not composes():
        return "the engine answers, but neither docker-compose nor the compose plugin does; install one of them"
    return ""


@lru_cache
def composes() -> Mapping[str, tuple[str, ...]]:
    """Every compose there is, by its version: 1.29 in Python, the plugin, or the plugin as a command of its own."""
    beside = Path(sys.executable).with_name("docker-compose")
    candidates = (("docker-compose",), ("docker", "compose"), (str(beside),))
    found: dict[str, tuple[str, ...]] = {}
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            found.setdefault(done.stdout.strip(), command)
    return found


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the engine's."""
    return _run(["docker", *arguments], ROOT, check)


def _run(command: Sequence[str], folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done


def clone(folder: Path) -> Path:
    """What a fresh clone of this tree holds, and beside it wheels of all that this environment has installed.

    So the image needs no network, and containers compute with the versions that the host computes with.
    """
    tracked = _run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    versions = folder.with_suffix(".versions")
    versions.write_text(_run([*pip, "freeze", "--exclude-editable"], ROOT).stdout)
    wheels = ["wheel", "--quiet", "--wheel-dir", "wheels", "--constraint", str(versions)]
    _run([*pip, *wheels, ".[datasets,report]", "setuptools>=77"], folder)
    for own in (folder / "wheels").glob("next_peer-*"):
        own.unlink()
    return folder


@dataclass(frozen=True)
class Project:
    """A compose file in a folder, and its containers.

    Parameters
    ----------
    folder : Path
    name : str
        Of the project, unique on this host.
    compose : tuple of str
        The command.
    """

    folder: Path
    name: str
    compose: tuple[str, ...]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of compose's."""
        return _run([*self.compose, "--project-name", self.name, *arguments], self.folder, check)

    def up(self) -> None:
        """Start everything, in the background."""
        self.run("up", "--detach", "--no-build")

    def down(self) -> None:
        """End and remove everything of this project."""
        self.run("down", "--volumes", "--timeout", "1", check=False)

    def container(self, service: str) -> str:
        """Id of a service's container."""
        found = docker(
            *("ps", "--all", "--quiet", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={self.name}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        )
        assert found.stdout.strip(), f"no container of {service}"
        return found.stdout.split()[0]

    @property
    def network(self) -> str:
        """Name of the project's network."""
        return f"{self.name}_default"

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        found = json.loads(docker("inspect", self.container(service)).stdout)[0]
        assert isinstance(found, dict)
        return found

    def logs(self, service: str) -> str:
        """What a service has printed."""
        done = docker("logs", self.container(service))
        return done.stdout + done.stderr

    def end(self, service: str) -> int:
        """Wait until a service's container has ended; its exit code."""
        done = docker("wait", self.container(service))
        return int(done.stdout)

    def results(self, to: Path) -> Path:
        """Copy the run directory out of the volume."""
        done = subprocess.run(
            ["docker", "cp", f"{self.container('summary')}:/results/.", "-"], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(to, filter="data")
        return to

    def rounds(self, peer: int) -> int:
        """Rounds that a peer has done."""
        source = f"{self.container('summary')}:/results/peers/{peer:03d}/metrics.jsonl"
        done = subprocess.run(["docker", "cp", source, "-"], capture_output=True, check=False)
        return done.stdout.count(b'{"iteration"') if done.returncode == 0 else 0

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the containers bring about, looking again and again."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not come about: {self.run('logs', '--tail=20', check=False).stdout}")


def main() -> None:
    """Say whether an engine answers."""
    if missing():
        print(f"test-containers: {missing()}", file=sys.stderr)
        sys.exit(NO_ENGINE)
    print(f"engine: Docker API of {docker('version', '--format', '{{.Server.Version}}').stdout.strip()}; ", end="")
    print(f"compose: {', '.join(composes())}")


if __name__ == "__main__":
    main()
