"""Run directories as peers leave them, made without a peer: small, and with numbers that are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peer import npz, settings
from peer.files import folder_of
from peer.journal import Journal
from peer.settings import Experiment

SAMPLES = (3, 5, 4)


def write_run(
    run_dir: Path, *, n_rounds: int = 4, samples: Sequence[int] = SAMPLES, ended: int | None = 0, **tree: Any
) -> Experiment:
    """A run of a linear model with real targets; `tree` changes settings of the experiment.

    Parameters
    ----------
    run_dir : Path
    n_rounds : int
        That every peer has journaled.
    samples : sequence of int
        Of each peer.
    ended : int or None
        Exit code that every peer has logged, with its final parameters if that is 0; None: it still runs.
    """
    shards = run_dir / "shards"
    shards.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name, m in [*((f"peer-{peer:03d}", m) for peer, m in enumerate(samples)), ("test", 6)]:
        npz.save(shards / f"{name}.npz", {"x": rng.normal(size=(m, 2)), "y": rng.normal(size=(m, 1))})
    data = {"path": str(shards / "peer-{id:03d}.npz"), "test_path": str(shards / "test.npz")}
    experiment = settings.from_tree(
        {
            "name": "tiny",
            "peers": len(samples),
            "iterations": 4,
            "data": data,
            "model": {"hidden": []},
            "topology": {"graph": "ring"},
            "software": {"numpy": np.__version__, "python": "3.11.0"},
        }
        | tree
    )
    (run_dir / "experiment.toml").write_text(settings.to_toml(experiment))
    for peer, m in enumerate(samples):
        folder = folder_of(run_dir, peer)
        journal = Journal(folder, behind=None)
        journal.event("start", 0.0, id=peer, n=0, samples=m)
        journal.event("ready", 0.1, samples=sum(samples))
        for n in range(n_rounds):
            journal.round(**metrics(peer, n))
        if ended == 0:
            journal.event("done", 1.0, n=n_rounds)
        if ended is not None:
            journal.event("end", 1.1, code=ended, problem="as told" if ended else "", dropped={})
        journal.close()
        if ended == 0:
            npz.save(folder / "final.npz", parameters(peer))
    return experiment


def stop_early(run_dir: Path) -> None:
    """Make a finished run in rounds one that had more iterations, and stopped within its tolerance."""
    path = run_dir / "experiment.toml"
    path.write_text(path.read_text().replace("iterations = 4\n", "iterations = 90\n"))
    for log in run_dir.glob("peers/*/log.jsonl"):
        log.write_text(log.read_text().replace('"event": "done"', '"event": "done", "stopped": "tolerance"'))


EPOCHS = ((40, (0, 1, 2), 12), (50, (0, 1), 8), (60, (0, 1, 8), 14))
"""Number, members and samples of the epochs of `write_elastic`."""


def write_elastic(run_dir: Path, *, ended: int | None = 0, wakings: int = 2, **tree: Any) -> Experiment:
    """A run without rounds of which peer 2 is lost, and to which peer 8 has come: `wakings` in each epoch.

    Peer 1 was killed between the second epoch and the third, and went on. Peers began at 1000.0, 1001.0, 1002.0 and
    1012.0 seconds since 1970, peer 1 again at 1010.0; epochs began at 1003.0, 1006.0 and 1013.0.
    """
    experiment = write_run(run_dir, ended=None, n_rounds=0, run={"mode": "async"}, **tree)
    rng = np.random.default_rng(2)
    arrays = {"x": rng.normal(size=(6, 2)), "y": rng.normal(size=(6, 1))}
    npz.save(run_dir / "shards" / "peer-008.npz", arrays)
    for peer, m, begin_s in ((0, 3, 1000.0), (1, 5, 1001.0), (2, 4, 1002.0), (8, 6, 1012.0)):
        folder, n = folder_of(run_dir, peer), 0
        journal = Journal(folder, behind=None)
        journal.event("start", 0.0, id=peer, n=0, samples=m, clock_s=begin_s)
        for (number, members, total), epoch_s in zip(EPOCHS, (1003.0, 1006.0, 1013.0), strict=True):
            if peer not in members:
                continue
            if (peer, number) == (1, 60):
                begin_s = 1010.0
                journal.event("start", 0.0, id=peer, n=n, samples=m, clock_s=begin_s)
            facts = {"n": n, "epoch": number, "members": members, "samples": total}
            journal.event("epoch", epoch_s + 0.1 * peer - begin_s, **facts)
            for _ in range(wakings):
                heard = [j for j in members if j != peer][:1]
                at = {"time_s": epoch_s + 0.5 + 0.25 * (n % wakings) - begin_s, "heard": heard}
                journal.round(**metrics(peer, n) | at | {"epoch": number, "members": len(members)})
                n += 1
        if ended is not None and peer != 2:
            journal.event("end", 20.0, code=ended, problem="as told" if ended else "", dropped={})
        journal.close()
        if ended == 0 and peer != 2:
            npz.save(folder / "final.npz", parameters(peer))
    return experiment


def parameters(peer: int) -> dict[str, np.ndarray[Any, Any]]:
    """Final parameters of a peer."""
    return {"layers.0.weight": np.array([[0.5, -1.0]]) + 0.01 * peer, "layers.0.bias": np.array([0.25])}


def metrics(peer: int, n: int) -> dict[str, Any]:
    """A line of metrics."""
    return {
        "iteration": n,
        "time_s": 0.2 + 0.25 * n + 0.01 * peer,
        "objective_local": 1.0,
        "objective_estimate": 2.0 / (n + 1) + 0.001 * peer,
        "residual": 10.0**-n * (1 + peer),
        "disagreement": 10.0 ** (-2 * n) * (1 + peer),
        "solve_s": 0.125,
        "wait_s": 0.0625 * (1 + peer),
        "bytes_sent": 1000 * (1 + peer),
        "bytes_received": 2000,
        "neighbors": [],
        "dropped": {"stale": n} if peer == 1 else {},
    }


def rewrite(path: Path, text: str) -> None:
    """Replace the last line of a file."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + text)


def change(path: Path, **values: Any) -> None:
    """Change values of the last JSON line of a file."""
    last = json.loads(path.read_text().splitlines()[-1])
    rewrite(path, json.dumps(last | values) + "\n")
