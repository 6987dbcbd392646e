"""Milliseconds of an iteration of gradient tracking by MPI: the experiment of `benchmarks.tracking`, on this host.

A rank an agent, its gradients ours; numbers go from buffer to buffer, as mpi4py can do at best, in two exchanges an
iteration. Nothing is checked, journaled, or waited for with a limit, and a lost rank ends all. MPI and mpi4py have to
be installed for it: they are no part of this project.

    mpiexec -n 4 python -m benchmarks.mpi
    mpiexec -n 8 --oversubscribe python -m benchmarks.mpi    # more ranks than processors
    mpiexec -n 4 --mca btl tcp,self python -m benchmarks.mpi  # Open MPI: over TCP, not by shared memory
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import time
from statistics import mean, median

import click
import numpy as np
from mpi4py import MPI

from benchmarks.agents import problems_of
from benchmarks.tracking import SETTINGS
from peer import settings
from peer.__main__ import DEFAULT
from peer.arrays import Vector


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", type=click.IntRange(50), default=2_000, help="Iterations.")
def main(rounds: int) -> None:
    """Milliseconds of an iteration of gradient tracking by MPI."""
    ring = MPI.COMM_WORLD
    me, n = ring.rank, ring.size
    experiment = settings.read(DEFAULT, (f"peers={n}", *SETTINGS))
    problems, w = problems_of(experiment)
    problem, step = problems[me], experiment.method.step_size
    neighbors = sorted({(me - 1) % n, (me + 1) % n} - {me})

    def mixed(own: Vector) -> Vector:
        heard = [np.empty_like(own) for _ in neighbors]
        coming = [ring.Irecv(there, j) for there, j in zip(heard, neighbors, strict=True)]
        MPI.Request.Waitall([*coming, *(ring.Isend(own, j) for j in neighbors)])
        return np.asarray(sum(heard, own)) / (1 + len(neighbors))

    gradient = problem.gradient(w)
    y, took_s = gradient.copy(), []
    for _ in range(rounds):
        began_s = time.perf_counter()
        w = mixed(w - step * (n * y + problem.regularizer.gradient(w)))
        new = problem.gradient(w)
        y, gradient = mixed(y) + new - gradient, new
        took_s.append(time.perf_counter() - began_s)
    middle = took_s[rounds // 5 : rounds - rounds // 5]
    everybody, apart = ring.gather(middle), ring.allreduce(float(np.abs(w - mixed(w)).max()), MPI.MAX)
    if everybody is not None:
        found = 1e3 * np.concatenate(everybody)
        line = f"ring of {n}, p = {w.size}: median {median(found):.3f} ms, mean {mean(found):.3f} ms an iteration"
        click.echo(f"{line}; agents at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
