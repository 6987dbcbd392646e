"""Runs, and servers of their pages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.lab import TIMEOUT_S, Lab

PEERS, ROUNDS = 16, 250


@contextmanager
def watching(lab: Lab, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of `peer watch`, and the address of its page; it is told to end, and ends with 130 and no word."""
    process = lab.start("watch", *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:[0-9]+/", line)
        assert found is not None, line + process.communicate(timeout=TIMEOUT_S)[1]
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (130, "")


def sixteen(lab: Lab) -> Path:
    """Sixteen peers on a graph that changes, learning digits."""
    return lab.experiment(
        "sixteen",
        seed=7,
        peers=PEERS,
        iterations=ROUNDS,
        data={"dataset": "digits", "partition": "dirichlet"},
        model={"hidden": [16]},
        objective={"loss": "cross_entropy"},
        surrogate={"kind": "full"},
        topology={"schedule": "random-links", "link_probability": 0.6},
    )


@contextmanager
def launching(lab: Lab, *more: str) -> Iterator[None]:
    """The sixteen at work in "out", which has to succeed; whatever happens, none is left."""
    process = lab.start("launch", sixteen(lab), "--out", "out", *more)
    try:
        while not (lab.folder / "out" / "experiment.toml").exists():
            assert process.poll() is None, process.communicate()
        yield
        output, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, output + errors
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixteen peers that is over."""
    lab = Lab(tmp_path_factory.mktemp("sixteen"))
    return lab.launch(sixteen(lab))
