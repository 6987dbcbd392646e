"""Rows of several processes: exchanges of a ring, rounds of peers, the start of a fleet."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks import exchange, fleet, overhead
from benchmarks.kernels import SIZES, size_of
from benchmarks.rows import Row, Setting, Took, Turn
from peer import settings
from peer.__main__ import DEFAULT
from peer.launcher import Watcher, launch
from peer.settings import Experiment

N_STARTED: Final = 16
"""Peers of the fleet that starts."""

N_ROUNDS: Final = 3
"""Of the fleet's run, which is no more than its start."""

PATIENCE_S: Final = 60
"""A bare process that has not ended by then never will."""

ROUND_PEERS: Final = 2
"""Peers whose rounds are clocked: a processor for each, where there are two."""

NEITHER: Final = float("nan")
"""Seconds of a processor where only the clock on the wall was looked at."""


# ---- exchanges -----------------------------------------------------------------------------


def _exchange(p: int) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        n_bytes = exchange.TARGET_BYTES // (4 if setting.quick else 1)
        most = exchange.MAX_ROUNDS // (4 if setting.quick else 1)
        n_rounds = max(8, min(most, n_bytes // (2 * exchange.N_PEERS * 16 * p)))
        order = ["ours", "raw"]

        def turn() -> Took:
            took = {}
            for name in order:
                with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
                    cell = exchange.cell_of(name, p, n_rounds, Path(folder), ())
                    took[name] = exchange.measure(exchange.VARIANTS[name], cell)[:2]
            order.reverse()
            return Took(took["ours"], took["raw"], n_rounds)

        return turn

    return ready


def _exchange_rows() -> list[Row]:
    return [
        Row(
            name=f"exchange-{size_of(p)}",
            group="exchange",
            ours="a round of the parts of a peer without its mathematics: transport, wire, checks, journal",
            reference="a round of bare TCP sockets with epoll",
            work=f"ring of {exchange.N_PEERS}, p = {p:,}, {16 * p / 1e3:,.0f} kB to each neighbor",
            clocks=("wall", "processor"),
            turns=(9, 5),
            ready=_exchange(p),
        )
        for p in SIZES
    ]


# ---- rounds --------------------------------------------------------------------------------


def _round(dataset: str) -> Callable[[Setting], Turn]:
    def ready(setting: Setting) -> Turn:
        n_rounds = (2 if setting.quick else 4) * overhead.WARM
        run = (f"peers={ROUND_PEERS}", f"iterations={n_rounds}", "run.checkpoint_every=0", f"seed={setting.seed}")
        experiment = settings.read(DEFAULT, (*run, f"data.dataset={dataset}", *overhead.DATASETS[dataset]))

        def turn() -> Took:
            with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
                found = overhead.measure(experiment, Path(folder) / "run")
            return Took((found.wall, found.processor), (found.calls, found.calls), n_rounds - overhead.WARM)

        return turn

    return ready


def _round_rows() -> list[Row]:
    return [
        Row(
            name=f"round-{dataset}",
            group="round",
            ours="a peer's processor in a round: (4) to (8), messages, encryption, checks, journal",
            reference="its calls into LAPACK and BLAS, passes, jvp and vjp, clocked in every other round",
            work=f"{ROUND_PEERS} peers, built-in experiment, {dataset}",
            clocks=("processor",),
            turns=(7, 3),
            ready=_round(dataset),
        )
        for dataset in overhead.DATASETS
    ]


# ---- the start of a fleet ------------------------------------------------------------------


forks = cache(fleet.fork_times)
"""When this process forked; looked at from the first call on."""


def _start(setting: Setting) -> Turn:
    fleet.write_shards(setting.folder, N_STARTED)
    experiment = fleet.experiment_of(setting.folder, N_STARTED, N_ROUNDS, "curve")

    def turn() -> Took:
        bare_s = _bare_start(N_STARTED)
        with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
            ready_s = _peers_start(experiment, Path(folder) / "run")
        return Took((ready_s, NEITHER), (bare_s, NEITHER))

    return turn


def _peers_start(experiment: Experiment, run_dir: Path) -> float:
    """Seconds from the first fork until all peers are ready."""
    times, watches = forks(), list[fleet.Stopwatch]()

    def watch(run_dir: Path, experiment: Experiment) -> Watcher:
        watches.append(fleet.Stopwatch(run_dir, experiment, times()[-experiment.peers]))
        return watches[0]

    outcome = launch(experiment, run_dir, watch)
    if outcome.code or watches[0].n_waiting:
        raise RuntimeError(f"{watches[0].n_waiting} peers were not ready in time; {outcome.line}")
    return watches[0].ready_s


def _bare_start(n: int) -> float:
    """Seconds from the first fork until n bare processes on a ring have each other's sample counts."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    reader, writer = os.pipe()
    began_s = time.monotonic()
    pids = []
    for me in range(n):
        pid = os.fork()
        if pid == 0:
            _bare_peer(me, listeners, writer)
        pids.append(pid)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        n_ready = len(pipe.read())  # until the last of them has closed its end
    took_s = time.monotonic() - began_s
    for listener in listeners:
        listener.close()
    for pid in pids:
        os.waitpid(pid, 0)
    if n_ready != n:
        raise RuntimeError(f"{n - n_ready} of {n} bare processes failed")
    return took_s


def _bare_peer(me: int, listeners: list[socket.socket], writer: int) -> None:
    """The life of a bare process: passes on what it has heard, n - 1 times; never returns."""
    try:
        signal.alarm(PATIENCE_S)
        n = len(listeners)
        with socket.create_connection(listeners[(me + 1) % n].getsockname()) as following:
            preceding, _ = listeners[me].accept()
            with preceding, preceding.makefile("rb") as came:
                count, heard = me.to_bytes(8, "little"), {me}
                for _ in range(n - 1):
                    following.sendall(count)
                    count = came.read(8)
                    heard.add(int.from_bytes(count, "little"))
        if heard == set(range(n)):
            os.write(writer, b".")
    finally:
        os._exit(0)


def _start_rows() -> list[Row]:
    return [
        Row(
            name=f"start-{N_STARTED}",
            group="fleet",
            ours="peer launch: from the first fork until every peer knows all sample counts, keys included",
            reference="forks with bare TCP sockets that pass on their counts around the ring",
            work=f"{N_STARTED} peers on a ring",
            clocks=("wall",),
            turns=(9, 3),
            ready=_start,
        )
    ]


def rows() -> list[Row]:
    """All of them."""
    return [*_exchange_rows(), *_round_rows(), *_start_rows()]
