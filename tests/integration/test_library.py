"""A launch by a script, as a notebook does it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.integration.lab import TIMEOUT_S, Lab, same_finals

UNREAD = """
from peer import Experiment, console, launch

console.PLAIN_S = 0.0  # it shows its progress at every look
launch(Experiment.load("experiment.toml"), "api")
"""

SCRIPT = """
import threading
from pathlib import Path
from peer import Experiment, Run, launch

threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a notebook has some
experiment = Experiment.load("experiment.toml")
run = launch(experiment, "api", progress=True)
assert run == Run("api") and run.experiment["name"] == "experiment"
print(len(run.metrics[2]["residual"]), sorted(run.summary["test"]), run.model().predict([[0.0, 0.0, 0.0]]).shape)
before = run.summary
Path("api/summary.json").unlink()  # as if it had been killed at the very end
assert run.resume(progress=False).summary["objective"] == before["objective"]
try:
    links = {"schedule": "random-links", "link_probability": 0.0}
    launch(experiment.replace("topology", links), "never", progress=False)
except ValueError as error:
    print(error)
try:
    launch(experiment.replace({"objective.loss": "squared", "surrogate.kind": "full", "surrogate.tau": 1e-300}), "nan")
except ArithmeticError as error:
    print(error)
"""


def test_a_script_launches_and_reads_runs(lab: Lab) -> None:
    lab.experiment(
        peers=4,
        iterations=6,
        data={"path": lab.four_shards()},
        model={"hidden": [3]},
        objective={"loss": "cross_entropy"},
        topology={"graph": "ring"},
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=lab.folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    told = [line for line in shown if "round " not in line and "have begun" not in line]  # of a busy host that, too
    assert any("round 6/6" in line for line in shown)
    assert told[0] == "6 [] (1, 3)"
    assert told[1].startswith("topology: ")
    assert "nan or infinite" in shown[-1]
    assert not (lab.folder / "never").exists()
    same_finals(lab.folder / "api", lab.launch(lab.folder / "experiment.toml"), 4)


def test_a_script_trains_on_when_nobody_reads_what_is_shown(lab: Lab) -> None:
    """As behind `| head`: the launch was ended in the middle, and the script with it."""
    lab.experiment(peers=4, iterations=40, data={"path": lab.four_shards()}, model={"hidden": [3]})
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-c", UNREAD]
    done = subprocess.run(line, cwd=lab.folder, stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (lab.folder / "api" / "summary.json").exists()
