"""Past one machine, on paper: bytes, rounds and seconds until so many hosts agree, of graphs, from measured constants.

**Measured** (with `--measure` now, by `benchmarks.exchange`; else the constants below, from an earlier run of it): the
processor time of a peer for a message, sent and received, and for a byte of one, encrypted as all is that leaves a
host; header, checks and journal are in it. **Given**: the network's bandwidth and delay, by default those of a plain
one. **Computed**: everything else.

- *Rounds* until of a disagreement so much is left: ln(1/left) / -ln(l), with l the second largest modulus of an
  eigenvalue of C. Of circulant graphs, ring and exponential, these are the discrete Fourier transform of a row of C;
  of a random graph l is found by Lanczos. One-peer exponential graphs change with the round: there a vector is averaged
  until so much is left, which with 2^k agents takes just k rounds.
- *Bytes* that a peer sends in a round: its links times a share of z and y; it receives as many.
- *Seconds* of a round: for each link a message and its bytes on the processor, then the bytes on the wire, which sends
  and receives at the same time, and one delay; nothing of it overlaps, and the switches between the hosts carry what is
  sent. The mathematics of a round comes on top: `--solve-s`.

What is not in it: that the slowest of many hosts is slower than one, and that training takes more rounds than agreeing
(NEXT by itself, where all agents have the same curvature, twice as many: (a) in `peer.careful`).

    python -m benchmarks.plan
    python -m benchmarks.plan --p 100 --bandwidth 10e9 --delay 5e-5 --measure
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as peers run; numpy reads it when it is imported

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, final

import click
import numpy as np
from scipy.sparse.linalg import eigsh

from peer import wire
from peer.wire import Format
from topology import sparse
from topology.graphs import exponential_hops
from topology.sparse import Links, OnePeerExponential

MESSAGE_S: Final = 1.2e-4
"""Of the processor for a message, sent and received; this and the next one as `--measure` found them."""

BYTE_S: Final = 1.95e-9
"""Of the processor for a byte of one."""

SIZES: Final = (1_000, 100_000)
"""Parameters of the two messages by which these are measured."""

HOSTS: Final = (10, 1_000, 100_000)

DEGREE: Final = 8
"""Of random graphs."""

PART: Final = click.FloatRange(0.0, 1.0, min_open=True, max_open=True)
RATE: Final = click.FloatRange(0.0, min_open=True)
SECONDS: Final = click.FloatRange(0.0)
"""What options may be."""

PRECISION: Final = 1e-8
"""Relative, of their eigenvalues."""


# ---- rounds --------------------------------------------------------------------------------


def circulant_rate(n_agents: int, hops: Sequence[int]) -> float:
    """Second largest modulus of an eigenvalue of C, with Metropolis weights, where i is joined to i +- h (mod I)."""
    offsets = np.unique([sign * hop % n_agents for hop in hops for sign in (1, -1)])
    offsets = offsets[offsets != 0]
    first = np.zeros(n_agents)
    first[offsets] = 1.0 / (1.0 + len(offsets))
    first[0] = 1.0 - first.sum()
    return float(np.abs(np.fft.rfft(first))[1:].max(initial=0.0))  # the first one is of the mean


def lanczos_rate(links: Links) -> float:
    """The same of any connected graph."""
    C = sparse.mixing_matrix(links)
    if links.n_agents <= 500:
        others = np.linalg.eigvalsh(C.toarray())[:-1]
        return float(np.abs(others).max(initial=0.0))
    start = np.random.default_rng(0).standard_normal(links.n_agents)
    (_, high), (low,) = (
        np.sort(eigsh(C, k=2, which="LA", v0=start, tol=PRECISION, return_eigenvectors=False))[::-1],
        eigsh(C, k=1, which="SA", v0=start, tol=PRECISION, return_eigenvectors=False),
    )
    return max(float(high), -float(low))


def rounds_of(rate: float, left: float) -> int:
    """Rounds until of a disagreement so much is left."""
    return 1 if rate <= left else math.ceil(math.log(left) / math.log(rate))


def rounds_by_averaging(schedule: OnePeerExponential, left: float) -> int:
    """Rounds until of drawn vectors' disagreement so much is left, in the root mean square."""
    X = np.random.default_rng(0).standard_normal((schedule.n_agents, 4))
    X -= X.mean(axis=0)
    goal, n = left * float(np.linalg.norm(X)), 0
    while float(np.linalg.norm(X)) > goal:
        X = sparse.mixing_matrix(schedule.links(n)) @ X
        n += 1
    return n


@final
@dataclass(frozen=True)
class Plan:
    """A graph of so many hosts.

    Parameters
    ----------
    graph : str
    hosts : int
    degree : int
        Links in a round of the host with the most.
    links : float
        Of a host in a round, in the mean.
    gap : float or None
        1 - l; None where rounds are counted.
    rounds : int
        Until they agree.
    """

    graph: str
    hosts: int
    degree: int
    links: float
    gap: float | None
    rounds: int


def plans(hosts: int, left: float) -> list[Plan]:
    """All graphs of so many hosts."""
    found = []
    for name, hops in (("ring", [1]), ("exponential", exponential_hops(hosts))):
        degree = int(sparse.circulant(hosts, hops).degrees[0])
        rate = circulant_rate(hosts, hops)
        found.append(Plan(name, hosts, degree, degree, 1.0 - rate, rounds_of(rate, left)))
    found.append(Plan("one-peer exponential", hosts, 1, 1, None, rounds_by_averaging(OnePeerExponential(hosts), left)))
    degree = min(DEGREE, 2 * ((hosts - 1) // 2))
    links = sparse.random_cycles(hosts, degree, seed=0)
    rate, degrees = lanczos_rate(links), links.degrees  # of few hosts fewer than asked for, as cycles share links
    found.append(
        Plan(
            f"random, degree {degree}",
            hosts,
            int(degrees.max()),
            float(degrees.mean()),
            1.0 - rate,
            rounds_of(rate, left),
        )
    )
    return found


# ---- seconds -------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Costs:
    """What a round is made of.

    Parameters
    ----------
    message_s, byte_s : float
        Of the processor, measured.
    bandwidth : float
        Bits a second of a host's link, each way.
    delay_s : float
        From one host to another.
    solve_s : float
        The mathematics of a round.
    """

    message_s: float
    byte_s: float
    bandwidth: float
    delay_s: float
    solve_s: float

    def round_s(self, degree: int, share_bytes: int) -> float:
        """Seconds of a round."""
        each = self.message_s + share_bytes * (self.byte_s + 8.0 / self.bandwidth)
        return self.solve_s + degree * each + self.delay_s


def measured(repeats: int) -> tuple[float, float]:
    """Seconds of the processor for a message, and for a byte of one, of a ring of 8 on this host, encrypted."""
    from benchmarks import exchange  # brings sockets along, which a plan does without

    keys, found = exchange.new_keys(), []
    with tempfile.TemporaryDirectory() as folder:
        for p in SIZES:
            cell = exchange.Cell(p, max(30, 3_000_000 // p), Path(folder), keys)
            processor_s = median(exchange.measure(exchange.ours, cell)[1] for _ in range(repeats))
            found.append((processor_s / (2 * exchange.N_PEERS), wire.share_bytes(_form(p))))
    (small_s, small), (large_s, large) = found
    byte_s = (large_s - small_s) / (large - small)
    return small_s - byte_s * small, byte_s


def _form(p: int) -> Format:
    return Format("plan", max(HOSTS), p, "f8")


def duration(seconds: float) -> str:
    """A time for a person."""
    units = (("years", 365.25 * 86_400.0), ("days", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 0.5))
    unit, length = next(((unit, length) for unit, length in units if seconds >= 2.0 * length), ("ms", 1e-3))
    return f"{seconds:.1f} s" if unit == "s" else f"{seconds / length:,.1f} {unit}"


def amount(n_bytes: float) -> str:
    """A number of bytes for a person."""
    units = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    unit, size = next(((unit, size) for unit, size in units if n_bytes >= size), ("kB", 1e3))
    return f"{n_bytes / size:.1f} {unit}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--p", type=click.IntRange(1), default=100_000, help="Parameters.")
@click.option("--hosts", type=click.IntRange(3), multiple=True, default=HOSTS, help="Numbers of hosts, one peer each.")
@click.option("--left", type=PART, default=1e-6, help="What is left of a disagreement where hosts agree.")
@click.option("--bandwidth", type=RATE, default=1e9, help="Bits a second of a host's link, each way.")
@click.option("--delay", type=SECONDS, default=5e-4, help="Seconds from one host to another.")
@click.option("--solve-s", type=SECONDS, default=0.0, help="Seconds of a round's mathematics.")
@click.option("--message-s", type=SECONDS, default=MESSAGE_S, help="Of the processor for a message.")
@click.option("--byte-s", type=SECONDS, default=BYTE_S, help="Of the processor for a byte.")
@click.option("--measure", is_flag=True, help="Measure these two here and now.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Measurements of each.")
def main(
    p: int,
    hosts: tuple[int, ...],
    left: float,
    bandwidth: float,
    delay: float,
    solve_s: float,
    message_s: float,
    byte_s: float,
    measure: bool,
    repeats: int,
) -> None:
    """Bytes, rounds and seconds until hosts agree, by graph."""
    if measure:
        message_s, byte_s = measured(repeats)
    costs, share = Costs(message_s, byte_s, bandwidth, delay, solve_s), wire.share_bytes(_form(p))
    click.echo(
        f"p = {p:,}, a share of {share:,} bytes; {'measured now' if measure else 'measured'}: a message "
        f"{message_s * 1e6:.0f} us, a byte {byte_s * 1e9:.2f} ns; given: {bandwidth / 1e9:g} Gbit/s, "
        f"{delay * 1e3:g} ms, {solve_s:g} s of mathematics a round"
    )
    click.echo(
        f"{'hosts':>8} {'graph':22}{'links':>6}{'gap':>10}{'rounds to ' + f'{left:g}':>17}{'a round':>12}"
        f"{'sent a round':>14}{'sent in all':>13}{'all':>13}"
    )
    for n in hosts:
        for plan in plans(n, left):
            round_s, sent = costs.round_s(plan.degree, share), plan.links * share
            gap = "-" if plan.gap is None else f"{plan.gap:.2g}"
            click.echo(
                f"{n:8,} {plan.graph:22}{plan.links:6.2g}{gap:>10}{plan.rounds:17,}{duration(round_s):>12}"
                f"{amount(sent):>14}{amount(plan.rounds * sent):>13}{duration(plan.rounds * round_s):>13}"
            )


if __name__ == "__main__":
    main()
