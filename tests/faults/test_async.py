"""Runs without rounds, of real processes: what they reach while messages get lost and peers come and go.

A relay drops 30 % of all messages, whatever they say, delays the others by up to 20 ms, so that
they overtake each other, and repeats some; peers are killed meanwhile, and go on from checkpoints that
are older than their last. Linear models must then be at the optimum that scikit-learn finds for all
data together, a network at a stationary point of (1).

`python -m tests.faults.test_async --long` plays every model on every kind of graph, and prints
what was reached and how long it took; the tests here, some of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

from peer import learning, npz, settings
from peer.summary import World
from tests.integration.fleet import Fleet
from tests.integration.lab import Array, Lab, end, events, flat, free_addresses, metrics, refusal, wait_until

PEERS: Final = 4
INPUTS, STRENGTH = 5, 0.05

REACHED: Final = 1e-6
"""Largest difference to the optimum, of every parameter of every peer."""

STATIONARY: Final = 1e-5
"""Largest residual ||w - prox(w - grad G(w))||_inf of every peer."""

STORM: Final = ("--drop", "0.3", "--delay", "0.02", "--duplicate", "0.1")
"""Options of the relay."""

KILLS: Final = 3
"""Of each run through the relay."""


# ---- problems ------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What is learned: shards, settings, and how to tell how far some parameters are from where they should be.

    Parameters
    ----------
    shards : sequence of (Array, Array)
        (x, y) of each peer.
    tree : mapping
        Settings.
    wakings : int
        That every peer makes; several times what it takes, the first quarter being for the faults.
    optimum : callable or None
        (p,) from all x and y; None where no closed form and no other program tells it.
    """

    shards: Sequence[tuple[Array, Array]]
    tree: Mapping[str, Any]
    wakings: int
    optimum: Callable[[Array, Array], Array] | None = None

    def best(self, members: Sequence[int]) -> Array:
        """Optimum over the data of some peers."""
        assert self.optimum is not None
        return self.optimum(*(np.concatenate([self.shards[i][part] for i in members]) for part in (0, 1)))


def _cut(x: Array, y: Array, n: int) -> list[tuple[Array, Array]]:
    """Shards of unequal size, sorted by label, so that no agent sees what the others see."""
    order = np.argsort(y, kind="stable")
    ends = np.cumsum([25 + 5 * (i % 3) for i in range(n)])
    pieces = np.split(order, ends[:-1])
    return [(x[piece], y[piece]) for piece in pieces]


def _inputs(seed: int, n: int) -> tuple[np.random.Generator, Array]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(sum(25 + 5 * (i % 3) for i in range(n)), INPUTS))


def _linear(kind: str, regularizer: str, **surrogate: float | str) -> dict[str, Any]:
    return {
        "model": {"hidden": []},
        "objective": {"loss": kind, "regularizer": regularizer, "strength": STRENGTH, "regularize_biases": False},
        "surrogate": {"kind": "partial", "curvature": "local", "tolerance": 1e-13} | surrogate,
    }


def ridge(n: int = PEERS) -> Task:
    """Least squares with an l2 penalty."""
    rng, x = _inputs(1, n)
    y = x @ rng.normal(size=INPUTS) + 0.5 + 0.3 * rng.normal(size=len(x))

    def optimum(x: Array, y: Array) -> Array:
        found = Ridge(alpha=STRENGTH * len(x), tol=1e-14).fit(x, y)
        return np.append(found.coef_, found.intercept_)

    tree = _linear("squared", "l2", tau=1.0) | {"step": {"alpha": 0.2}}
    return Task(_cut(x, y, n), tree, 400, optimum)


def lasso(n: int = PEERS) -> Task:
    """Least squares with an l1 penalty, which selects."""
    rng, x = _inputs(2, n)
    y = x @ np.array([1.0, 0.0, -2.0, 0.0, 0.01]) + 0.5 + 0.3 * rng.normal(size=len(x))

    def optimum(x: Array, y: Array) -> Array:
        found = Lasso(alpha=STRENGTH, tol=1e-15, max_iter=100_000).fit(x, y)
        assert (found.coef_ == 0.0).any(), "the oracle selects nothing, so this shows nothing of selection"
        return np.append(found.coef_, found.intercept_)

    tree = _linear("squared", "l1", tau=1.0) | {"step": {"alpha": 0.2}}
    return Task(_cut(x, y, n), tree, 400, optimum)


def logistic(n: int = PEERS) -> Task:
    """Logistic regression with an l2 penalty."""
    rng, x = _inputs(3, n)
    y = (x @ rng.normal(size=INPUTS) + rng.normal(size=len(x)) > 0.3).astype(np.int64)

    def optimum(x: Array, y: Array) -> Array:
        c = 1.0 / (STRENGTH * len(x))
        found = LogisticRegression(C=c, tol=1e-14, max_iter=10_000, solver="newton-cholesky").fit(x, y)
        return np.append(found.coef_[0], found.intercept_)

    tree = _linear("cross_entropy", "l2", tau=0.1, curvature="network") | {"step": {"alpha": 0.2}}
    return Task(_cut(x, y, n), tree, 500, optimum)


def network(n: int = PEERS) -> Task:
    """A network with a hidden layer that learns three classes."""
    rng, x = _inputs(4, n)
    y = np.argmax(np.tanh(x @ rng.normal(size=(INPUTS, 3))) + 0.2 * rng.normal(size=(len(x), 3)), axis=1)
    tree = {
        "model": {"hidden": [3]},
        "objective": {"loss": "cross_entropy", "regularizer": "l2", "strength": 0.03},
        "surrogate": {"kind": "partial", "curvature": "network", "tau": 0.02, "tolerance": 1e-10},
        "step": {"alpha": 0.2},
    }
    return Task(_cut(x, y, n), tree, 800)


TASKS: Final[Mapping[str, Callable[[], Task]]] = {
    "ridge": ridge,
    "lasso": lasso,
    "logistic": logistic,
    "network": network,
}

TOPOLOGIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "directed ring": {"graph": "ring", "directed": True},
    "directed erdos-renyi": {"graph": "erdos-renyi", "probability": 0.4, "directed": True},
    "arcs that come and go": {
        "graph": "complete",
        "directed": True,
        "schedule": "random-links",
        "link_probability": 0.4,
    },
    "one peer": {"schedule": "one-peer-exponential", "directed": True},
    "arcs of a file": {"schedule": "file", "path": "arcs.jsonl", "directed": True},
    "ring both ways": {"graph": "ring"},
}

ARCS: Final = (((0, 1), (2, 3)), ((1, 2), (0, 2)), ((3, 0),), ((3, 1), (1, 3)))
"""Of the file: nobody is connected with everybody in any line, and no link goes both ways in one but the last."""


# ---- through the relay ---------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Played:
    """How a run through the relay ended.

    Parameters
    ----------
    off : float
        Distance to the optimum, or residual, of the farthest peer.
    spread : float
        Largest difference between two peers.
    seconds : float
    wakings : float
        Of a peer a second.
    back : list of int
        By how many wakings each restart went back.
    relay : mapping
        What the relay did.
    """

    off: float
    spread: float
    seconds: float
    wakings: float
    back: Sequence[int]
    relay: Mapping[str, int]


def play(task: Task, topology: Mapping[str, Any], folder: Path, seed: int = 0) -> Played:
    """A run through the relay with kills, to its end; every peer has to end well."""
    lab, rng, began = Lab(folder), random.Random(seed), time.monotonic()
    lines = ({"n": n, "arcs": arcs} for n, arcs in enumerate(ARCS))
    (folder / "arcs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "seed": seed + 2,
        "peers": PEERS,
        "iterations": task.wakings,
        "data": {"path": lab.shards(task.shards)},
        "topology": dict(topology),
        "run": {"mode": "async", "checkpoint_every": 10},
        **task.tree,
    }
    with Fleet(lab, tree, relay=("--seed", str(seed), *STORM)) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        back = [_go_back(fleet, rng.randrange(PEERS), rng, task.wakings // 4) for _ in range(KILLS)]
        for peer in range(PEERS):
            code, errors = fleet.ended(peer)
            assert (code, errors) == (0, ""), f"peer {peer} ended with {code}: {errors}; seed {seed}"
        seconds, relay = time.monotonic() - began, fleet.relay_did()
        found = np.stack([flat(fleet.out, peer) for peer in range(PEERS)])
        if task.optimum is not None:
            off = float(np.abs(found - task.best(range(PEERS))).max())
        else:
            off = max(map(partial(residual, fleet.out), [*found, found.mean(axis=0)]))
        wakings = [line["iteration"] + 1 for peer in range(PEERS) for line in metrics(fleet.out, peer)[-1:]]
        assert min(wakings) >= task.wakings
    spread = float(np.abs(found - found[0]).max())
    return Played(off, spread, seconds, float(np.mean(wakings)) / seconds, back, relay)


def _go_back(fleet: Fleet, peer: int, rng: random.Random, latest: int) -> int:
    """Kill a peer, and go on with it from an older checkpoint than its last; by how many wakings."""
    name = fleet.lab.folder / f"old-{peer}.npz"
    if not name.exists():
        fleet.wait_until(lambda: fleet.wakings(peer) > 0, partial(how_far, fleet))
        fleet.keep(peer)
    old = int(np.load(name)["agent.n"])
    n = max(old + 20, rng.randint(latest // 4, latest))
    fleet.wait_until(lambda: fleet.wakings(peer) >= n, partial(how_far, fleet))
    fleet.kill(peer)
    n = fleet.wakings(peer)
    fleet.put_back(peer)
    fleet.start(peer, "--resume")
    return n - old


def how_far(fleet: Fleet) -> str:
    """How far every peer's checkpoint is."""
    return f"wakings {[fleet.wakings(peer) for peer in sorted(fleet.processes)]}"


def residual(run_dir: Path, w: Array) -> float:
    """||w - prox(w - grad G(w))||_inf over all data, recomputed from a run directory."""
    experiment = settings.read(run_dir / "experiment.toml")
    shard = learning.shard_of(experiment, 0)
    model = learning.model_of(experiment, shard, 3, learning.initial_of(experiment, 0))
    return World.of(experiment, run_dir, model).stationarity(w)


CASES: Final = (
    ("lasso", "arcs that come and go"),
    ("network", "directed erdos-renyi"),
)
"""Of the tests here; `--long` plays all."""


@pytest.mark.parametrize(("task", "topology"), CASES, ids=[" on ".join(case) for case in CASES])
def test_through_loss_and_kills(task: str, topology: str, tmp_path: Path) -> None:
    what = TASKS[task]()
    played = play(what, TOPOLOGIES[topology], tmp_path)
    assert played.off < (STATIONARY if what.optimum is None else REACHED), played
    assert max(played.back) >= 20, "nobody went far back"
    assert min(played.relay[kind] for kind in ("dropped", "duplicated", "overtaken")) > 20, played.relay


# ---- who comes and goes --------------------------------------------------------------------


DEPARTURE_S: Final = 2.0
"""After which a peer without progress is gone, in these tests."""

STAYS: Final = 3
"""Checkpoints of every peer, one after the other, that have to be at the optimum."""


def settle(fleet: Fleet, best: Array) -> float:
    """Wait until all running peers are at an optimum, and stay there for some checkpoints; the distance then."""
    seen: dict[int, list[int]] = {}

    def settled() -> bool:
        for peer in fleet.processes:
            found = fleet.checkpoint(peer)
            if not found:
                continue
            n, there = int(found["agent.n"]), bool(np.abs(found["agent.w"] - best).max() < REACHED)
            stays = seen.setdefault(peer, []) if there else seen.pop(peer, None)
            if there and stays is not None and n not in stays:
                stays.append(n)
        return all(len(seen.get(peer, ())) >= STAYS for peer in fleet.processes)

    fleet.wait_until(settled, lambda: f"{_off(fleet, best)}; {how_far(fleet)}")
    return max(_off(fleet, best).values())


def _off(fleet: Fleet, best: Array) -> dict[int, float]:
    return {peer: float(np.abs(fleet.w(peer) - best).max()) for peer in fleet.processes}


def come_and_go(folder: Path, security: str) -> list[tuple[str, float, float]]:
    """A peer is lost, another one comes in, the first returns, one leaves and returns too.

    After each, those who are there come to the optimum of their data, all of it and nothing else.

    Returns
    -------
    list of (str, float, float)
        What happened, seconds until all were at the optimum for some checkpoints, and how near they were.
    """
    lab, what, n = Lab(folder), ridge(PEERS + 1), PEERS + 1
    transport = {"security": security}
    if security == "curve":
        assert lab.run("keys", "keys", "--peers", str(n)).returncode == 0
        transport["keys"] = "keys"
    tree = {
        "peers": PEERS,
        "iterations": 1_000_000,
        "data": {"path": lab.shards(what.shards)},
        "topology": {"graph": "exponential", "directed": True},
        "transport": transport,
        "run": {"mode": "async", "departure_s": DEPARTURE_S},
        **what.tree,
    }
    told: list[tuple[str, float, float]] = []
    with Fleet(lab, tree, n_more=1) as fleet:

        def then(event: str, *members: int) -> None:
            began = time.monotonic()
            distance = settle(fleet, what.best(members))
            told.append((event, time.monotonic() - began, distance))

        for peer in range(PEERS):
            fleet.start(peer)
        then("start", *range(PEERS))
        fleet.kill(3)  # for good, as far as the others know
        then("loss", 0, 1, 2)
        lost = [event for i in range(3) for event in events(fleet.out, i) if event["event"] == "lost"]
        assert {event["peer"] for event in lost} >= {3}
        assert "step.alpha" in refusal(fleet.run(PEERS, "other", "--set", "step.alpha=0.25"), 2)
        fleet.start(PEERS)
        then("newcomer", 0, 1, 2, PEERS)
        fleet.start(3, "--resume")
        then("return", *range(n))
        code, errors = fleet.ended(1, signal.SIGTERM)
        assert (code, errors.count("\n")) == (130, 1), errors
        then("farewell", 0, 2, 3, PEERS)
        fleet.start(1, "--resume")
        then("return after a farewell", *range(n))
    return told


def test_a_loss_a_newcomer_a_return_and_a_farewell(tmp_path: Path) -> None:
    told = come_and_go(tmp_path, "curve")
    assert len(told) == 6
    assert max(distance for _, _, distance in told) < REACHED, told


def test_where_a_newcomer_comes_from_moves_nobody(tmp_path: Path) -> None:
    lab, what = Lab(tmp_path), ridge(3)
    far = {"layers.0.weight": np.full((1, INPUTS), 1e4), "layers.0.bias": np.full(1, 1e4)}
    npz.save(tmp_path / "far.npz", far)
    tree = {
        "peers": 2,
        "iterations": 1_000_000,
        "data": {"path": lab.shards(what.shards)},
        "topology": {"graph": "complete"},
        "run": {"mode": "async"},
        **what.tree,
    }
    tree["surrogate"] |= {"batch": 5}  # what these tell of a gradient, they tell from step to step
    with Fleet(lab, tree, n_more=1) as fleet:
        for peer in range(2):
            fleet.start(peer)
        fleet.wait_until(lambda: all(metrics(fleet.out, peer) for peer in range(2)))
        fleet.start(2, "--set", f"model.initial={tmp_path / 'far.npz'}")
        fleet.wait_until(lambda: len(metrics(fleet.out, 2)) > 20)
        lines = [line for peer in range(2) for line in metrics(fleet.out, peer) if line["members"] == 3]
        first = metrics(fleet.out, 2)[0]
    assert first["heard"], "it has said where it is before it has heard where others are"
    assert max(line["objective_local"] for line in lines) < 1e2


# ---- launch --------------------------------------------------------------------------------


def _small(lab: Lab, **more: Any) -> dict[str, Any]:
    what = ridge()
    return {
        "peers": PEERS,
        "iterations": 600,
        "data": {"path": lab.shards(what.shards)},
        "topology": {"graph": "ring", "directed": True},
        "transport": {"security": "none"},
        "run": {"mode": "async"},
        **what.tree,
        **more,
    }


def test_a_launch_without_rounds_has_its_summary_and_report(lab: Lab) -> None:
    what = ridge()
    run_dir = lab.launch(lab.experiment(**_small(lab, transport={"security": "curve"})))
    best = what.best(range(PEERS))
    for peer in range(PEERS):
        assert np.abs(flat(run_dir, peer) - best).max() < REACHED
        lines = metrics(run_dir, peer)
        assert [line["iteration"] for line in lines] == list(range(len(lines)))
        assert len(lines) >= 600
        keys = {"objective_local", "objective_estimate", "residual", "alpha", "tau", "solve_s", "wait_s"}
        assert keys <= lines[0].keys()
        assert lines[-1]["residual"] < 10 * REACHED
        assert all(set(line["neighbors"]) <= {(peer + 1) % PEERS} for line in lines), "arcs go one way"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["stationarity"] < REACHED
    assert summary["disagreement"] < REACHED**2
    experiment = settings.read(run_dir / "experiment.toml")
    assert (experiment.run.mode, experiment.topology.directed) == ("async", True)
    done = lab.run("report", run_dir)
    assert done.returncode == 0, done.stderr
    assert "<html" in (run_dir / "report.html").read_text()


def test_an_interrupted_launch_has_checkpoints_and_the_right_exit_code(lab: Lab) -> None:
    process = lab.start("launch", lab.experiment(**_small(lab, iterations=1_000_000)), "--out", "out")
    wait_until(lambda: all(len(metrics(lab.folder / "out", peer)) > 20 for peer in range(PEERS)), process)
    code, errors = end(process, signal.SIGTERM)
    assert code == 130, errors
    assert "Traceback" not in errors
    assert all((lab.folder / "out" / "peers" / f"{peer:03d}" / "checkpoint.npz").exists() for peer in range(PEERS))


def test_a_peer_whose_numbers_break_down_ends_the_launch(lab: Lab) -> None:
    tree = _small(lab, surrogate={"kind": "full", "tau": 1e-6}, step={"alpha": 1.0}, iterations=100_000)
    assert "nan or infinite" in refusal(lab.run("launch", lab.experiment(**tree), "--out", "out"), 4)


BAD: Final[Mapping[str, tuple[Mapping[str, Any], Sequence[str]]]] = {
    "directed in rounds": ({"run": {"mode": "rounds"}}, ["topology.directed", "rounds"]),
    "departure": ({"run": {"mode": "async", "departure_s": 0.0}}, ["run.departure_s", "1e-3 to 1e9"]),
    "mode": ({"run": {"mode": "sometimes"}}, ["run.mode", "rounds, async"]),
    "no file": (
        {"topology": {"directed": True, "schedule": "file", "path": "none.jsonl"}},
        ["topology", "none.jsonl"],
    ),
    "not connected": (
        {"topology": {"directed": True, "schedule": "file", "path": "one-way.jsonl"}},
        ["topology", "strongly connected"],
    ),
}


@pytest.mark.parametrize(("more", "words"), BAD.values(), ids=BAD)
def test_bad_settings_are_named(lab: Lab, more: Mapping[str, Any], words: Sequence[str]) -> None:
    (lab.folder / "one-way.jsonl").write_text('{"n": 0, "arcs": [[0, 1], [1, 2], [2, 3]]}\n')
    line = refusal(lab.run("launch", lab.experiment(**_small(lab, **more)), "--out", "out"), 2)
    assert all(word in line for word in words), line
    assert not (lab.folder / "out").exists()


def test_who_cannot_come_in_is_told_why(lab: Lab) -> None:
    lab.shards(ridge(PEERS + 1).shards)
    addresses, (nobody, mine) = free_addresses(PEERS), free_addresses(2)
    transport = {"security": "none", "addresses": addresses}
    experiment = lab.experiment(**_small(lab, transport=transport))
    rounds = lab.experiment("rounds", **_small(lab, transport=transport, topology={"graph": "ring"}, run={}))
    come = ("--id", str(PEERS), "--out", "out", "--set", f'transport.bind="{mine}"')
    assert "--join" in refusal(lab.run("run", experiment, *come), 2)
    assert "--join" in refusal(lab.run("run", rounds, *come, "--join", addresses[0]), 2)
    assert "--join" in refusal(lab.run("run", experiment, *come, "--join", "nowhere"), 2)
    nobody = f"tcp://0@{nobody[6:]}"
    line = refusal(lab.run("run", experiment, *come, "--join", nobody, "--set", "run.patience_s=1.0"), 3)
    assert "did not come within 1.0 s" in line
    assert lab.run("keys", "keys", "--peers", str(PEERS)).returncode == 0
    curve = ("--set", "transport.security=curve", "--set", f"transport.keys={lab.folder / 'keys'}")
    assert "transport.keys" in refusal(lab.run("run", experiment, *come, "--join", addresses[0], *curve), 2)


# ---- more of it ----------------------------------------------------------------------------


def main() -> None:
    """Play runs through the relay, and say how far they got and how long it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.test_async", description=main.__doc__)
    parser.add_argument("--long", action="store_true", help="every model on every kind of graph")
    parser.add_argument("--task", choices=TASKS, action="append", help="only these models")
    parser.add_argument("--topology", choices=TOPOLOGIES, action="append", help="only these graphs")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="of kills and of the relay")
    given = parser.parse_args()
    every = list(itertools.product(TASKS, TOPOLOGIES))
    cases = every if given.long or given.task or given.topology else CASES
    failed = 0
    for security in ("none", "curve") if given.long else ():
        with tempfile.TemporaryDirectory() as folder:
            for event, seconds, distance in come_and_go(Path(folder), security):
                print(f"{security:5} {event:24} {distance:.1e} off after {seconds:.1f} s", flush=True)
    for (task, topology), seed in itertools.product(cases, range(given.first, given.first + given.seeds)):
        if task not in (given.task or TASKS) or topology not in (given.topology or TOPOLOGIES):
            continue
        what = TASKS[task]()
        with tempfile.TemporaryDirectory() as folder:
            played = play(what, TOPOLOGIES[topology], Path(folder), seed)
        good = played.off < (STATIONARY if what.optimum is None else REACHED)
        failed += not good
        print(
            f"{task:8} {topology:22} seed {seed}: {played.off:.1e} {'off' if good else 'OFF'}, peers within"
            f" {played.spread:.1e}, {played.seconds:.1f} s, {played.wakings:.0f} wakings/s a peer,"
            f" back by {played.back}, relay {dict(played.relay)}",
            flush=True,
        )
    if failed:
        raise SystemExit(f"{failed} too far off")


if __name__ == "__main__":
    main()
