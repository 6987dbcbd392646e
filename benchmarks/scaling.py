"""What a round of `peer simulate` costs against the links of its graph, over three decades; and what memory it takes.

Two series. *Agents*: the experiment of `examples/hundred-thousand.toml`, p = 100, twenty samples an agent, one-peer
exponential graph, which has about a link for two agents; tau is left to them. *Links*: of one number of agents the
exchange alone, (7) and the sums of (8), on random graphs of more and more links (`topology.sparse.random_cycles`), as
all else does not depend on them.

Seconds are of the processor, since other processes load the machine; the slope is that of a least-squares line through
the logarithms. Every number of agents has a process of its own, of which the largest resident memory is told. The
tables of the README come from

    python -m benchmarks.scaling
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np

from peer import memory, scaling, settings
from peer.scaling import Simulation
from topology import sparse

EXPERIMENT: Final = Path(__file__).parent.parent / "examples" / "hundred-thousand.toml"

AGENTS: Final = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
DEGREES: Final = (2, 4, 8, 16, 32, 64, 128)

SAMPLES: Final = 20
"""Of each agent."""

WARM_UP: Final = 1
"""Rounds that do not count."""

LEAST_S: Final = 1.0
"""Of the processor, that are measured at least, and `LEAST_ROUNDS`."""

LEAST_ROUNDS: Final = 5


def medians(action: Callable[[], object], least_s: float = LEAST_S) -> tuple[float, float]:
    """Median seconds of an action, of the processor and by the clock."""
    took: list[tuple[float, float]] = []
    while len(took) < LEAST_ROUNDS or sum(one for one, _ in took) < least_s:
        began = time.process_time(), time.perf_counter()
        action()
        took.append((time.process_time() - began[0], time.perf_counter() - began[1]))
    processor, clock = (float(np.median(column)) for column in zip(*took, strict=True))
    return processor, clock


def of_agents(n_agents: int) -> dict[str, float]:
    """What rounds of so many agents cost; in a process of its own."""
    memory.keep()
    simulation = Simulation.of(
        settings.read(EXPERIMENT, [f"peers={n_agents}", f"data.samples={SAMPLES * n_agents}", "iterations=1000000"])
    )
    before = scaling.memory_bytes()
    states = simulation.states()
    for _ in range(WARM_UP + 1):
        state = next(states)
    processor, clock = medians(lambda: next(states))

    def exchange() -> None:
        (C,) = simulation.averagings(state.n)
        for x in (state.w, state.y, state.objective):
            C @ x

    return {
        "agents": n_agents,
        "links": simulation.schedule.links(0).size,
        "processor_s": processor,
        "clock_s": clock,
        "exchange_s": medians(exchange, 0.2)[0],
        "before_bytes": before,
        "memory_bytes": scaling.memory_bytes(),
        "sent_bytes": simulation.bytes_of(0),
    }


def of_links(n_agents: int, p: int, degree: int) -> tuple[int, float]:
    """Links of a random graph, and seconds of the sums of (7) and (8) over them."""
    memory.keep()
    links = sparse.random_cycles(n_agents, degree, seed=0)
    C, rng = sparse.mixing_matrix(links), np.random.default_rng(0)
    z, y = rng.standard_normal((n_agents, p)), rng.standard_normal((n_agents, p))
    return links.size, medians(lambda: (C @ z, C @ y))[0]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--agents", "sizes", type=int, multiple=True, default=AGENTS, help="Numbers of agents.")
@click.option("--degree", "degrees", type=int, multiple=True, default=DEGREES, help="Even degrees of random graphs.")
@click.option("--degrees-of", default=20_000, help="Agents of these graphs.")
@click.option("--child", type=int, hidden=True)
def main(sizes: tuple[int, ...], degrees: tuple[int, ...], degrees_of: int, child: int | None) -> None:
    """Cost of a simulated round against links, and memory."""
    if child is not None:
        click.echo(json.dumps(of_agents(child)))
        return
    found = []
    click.echo("  agents    links  s a round  by the clock  of it exchange  memory  a round's peers would send")
    for n_agents in sizes:
        command = [sys.executable, "-m", "benchmarks.scaling", "--child", str(n_agents)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(one := json.loads(result.stdout))
        click.echo(
            f"{n_agents:8,} {one['links']:8,} {one['processor_s']:10.4f} {one['clock_s']:13.4f} "
            f"{one['exchange_s']:15.4f} {one['memory_bytes'] / 1e9:4.2f} GB {one['sent_bytes'] / 1e6:10.1f} MB"
        )
    if len(found) > 1:
        exponent = slope([one["links"] for one in found], [one["processor_s"] for one in found])
        click.echo(f"slope of the processor's seconds a round against links, log-log: {exponent:.3f}\n")
    click.echo(f"{degrees_of:,} agents, p = 100, the exchange alone\n  degree      links  s a round")
    measured = [(degree, *of_links(degrees_of, 100, degree)) for degree in degrees]
    for degree, n_links, seconds in measured:
        click.echo(f"{degree:8} {n_links:10,} {seconds:10.5f}")
    if len(measured) > 1:
        entries = [2 * n_links + degrees_of for _, n_links, _ in measured]
        both = (slope(x, [seconds for *_, seconds in measured]) for x in ([row[1] for row in measured], entries))
        click.echo("slope against links: {:.3f}; against entries of C, links twice and agents: {:.3f}".format(*both))


if __name__ == "__main__":
    main()
