"""Which of an agent's samples are drawn in which round: a pure function of seed, agent and round.

An agent goes through its samples again and again, b a round, each pass in an order of its own, without replacement.
Where a pass does not end with a round, the batch has the first samples of the next one, too; so all batches have b
samples, and by the end of a round n with (n + 1) b a multiple of m each sample was drawn equally often.

The order of a pass is that of 64-bit numbers, one a sample, from SHAKE-128 (FIPS 202) of a text that names seed, agent
and pass. What a generator of random numbers makes of a seed may change with the version of its library; this cannot.
And nothing has to be kept: a peer that is resumed draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from typing import final

import numpy as np
from numpy.typing import NDArray

from topology import PeerId


@lru_cache(maxsize=2)
def order(text: str, n_samples: int) -> NDArray[np.intp]:
    """0, ..., m - 1 in the order that belongs to a text, (m,): by the little-endian 64-bit words of its SHAKE-128.

    Two are kept, as many as a batch can have passes, for a pass takes many rounds.
    """
    keys = np.frombuffer(shake_128(text.encode()).digest(8 * n_samples), dtype="<u8")
    found = np.argsort(keys, kind="stable")
    found.flags.writeable = False
    return found


@final
@dataclass(frozen=True)
class Batches:
    """The samples of an agent, round by round.

    Parameters
    ----------
    seed : int
        The experiment's.
    agent : int
        i.
    n_samples : int
        m, of the shard.
    size : int
        b, 1 <= b <= m.
    refresh : int
        Rounds from one full pass to the next, >= 1.
    """

    seed: int
    agent: PeerId
    n_samples: int
    size: int
    refresh: int

    def is_full(self, n: int) -> bool:
        """Whether all samples are taken for the gradient at the start of round n."""
        return n % self.refresh == 0

    def rows(self, n: int) -> NDArray[np.intp]:
        """Places of the samples of round n, ascending, (b,); one twice where it ends a pass and begins the next."""
        m, b = self.n_samples, self.size
        turn, at = divmod(n * b, m)
        drawn = self._pass(turn)[at : at + b]
        if len(drawn) < b:
            drawn = np.concatenate((drawn, self._pass(turn + 1)[: b - len(drawn)]))
        return np.sort(drawn)

    def _pass(self, turn: int) -> NDArray[np.intp]:
        return order(f"{self.seed}:{self.agent}:pass {turn}", self.n_samples)
