"""What rounding does to (17) in a long run: of the machine, and of plain sums.

`python -m tests.rounding --pushes 1000000`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from peer.arrays import Vector
from peer.flows import Flows


def drift(n_pushes: int) -> tuple[float, float]:
    """How far (17) is off after so many pushes, relative to its right side: of the machine, and of plain sums.

    Two agents whose sources change all the time exchange all that they push; the plain sums do the
    same in float64, each `+=` as it stands in (13)-(16). Both are added up exactly, as fractions.
    """
    rng = np.random.default_rng(0)
    a, b = (Flows(i, 0, (1 - i,)) for i in range(2))
    sources = [np.array([*rng.normal(1.0, 1.0, size=2), 1.0]) for _ in range(2)]
    for machine, source in zip((a, b), sources, strict=True):
        machine.open_epoch(0, (0, 1), source)
    m, S, R = [source.copy() for source in sources], np.zeros((2, 3)), np.zeros((2, 3))
    for n in range(n_pushes):
        i, me, other = n % 2, (a, b)[n % 2], (b, a)[n % 2]
        source = sources[i]
        if n % 10 < 2:
            source = np.array([*rng.normal(1.0, 1.0, size=2), 1.0])
        me.absorb()
        me.track(source)
        me.push(source[:1], (1 - i,))
        other.receive(me.flow(1 - i))
        m[i] += S[1 - i] - R[i]
        R[i] = S[1 - i]
        m[i] += source - sources[i]
        S[i] += 0.5 * m[i]
        m[i] *= 0.5
        sources[i] = source
    machines = [(x.mass.high, x.mass.low, x.pushed(1 - i), -x.absorbed(1 - i)) for i, x in enumerate((a, b))]
    size = np.abs(sum(sources))
    right = [-source for source in sources]
    off = [_exact_sum([*machines[0], *machines[1], *right]), _exact_sum([*m, *S, *-R, *right])]
    return float(np.max(off[0] / size)), float(np.max(off[1] / size))


def _exact_sum(vectors: Sequence[Vector]) -> Vector:
    """The absolute value of the sum of some vectors, without rounding but of the result."""
    return np.array([abs(float(sum(map(Fraction, entries)))) for entries in np.stack(vectors).T.tolist()])


def main() -> None:
    """Say what rounding does in a long run."""
    parser = argparse.ArgumentParser(prog="python -m tests.rounding", description=main.__doc__)
    parser.add_argument("--pushes", type=int, default=1_000_000)
    n_pushes = parser.parse_args().pushes
    exact, plain = drift(n_pushes)
    print(f"after {n_pushes} pushes (17) is off by {exact:.1e}; with plain sums by {plain:.1e}")


if __name__ == "__main__":
    main()
