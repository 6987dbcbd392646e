"""What is said of a vector where not all of it is said: compressors Q, pure functions.

Source: S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory" (2018), of `top` and `drawn` as
contractions,

    E ||Q(x) - x||^2 <= (1 - k/p) ||x||^2,

with equality in the mean over the draws of random-k, and with the least ||Q(x) - x|| of all that keep k entries for
top-k. (p/k) Q of random-k has mean x.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import shake_128

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Sparse, Vector


def n_kept(fraction: float, p: int) -> int:
    """Entries k that are kept of p: as many as the fraction says, rounded up, at least one."""
    return min(p, max(1, math.ceil(fraction * p * (1.0 - 1e-12))))  # a tenth of 70 is 7, not 7.000000000000001


def top(vector: Vector, k: int) -> Sparse:
    """Top-k: the k entries of largest magnitude, of equal ones those that stand first; of finite numbers, k <= p."""
    size = np.abs(vector)
    least = np.partition(size, size.size - k)[size.size - k]
    places = np.flatnonzero(size >= least)
    if places.size > k:
        larger = size[places] > least
        ties = np.flatnonzero(~larger)[: k - int(np.count_nonzero(larger))]
        larger[ties] = True
        places = places[larger]
    return Sparse(vector[places], places)


@lru_cache(maxsize=2)
def drawn(seed: int, n: int, p: int, k: int) -> NDArray[np.int64]:
    """Random-k: the k of p places, ascending, that are said in exchange n; each set of k is as likely as any other.

    By 64-bit words of SHAKE-128 (FIPS 202) of a text that names seed and exchange, as in `peer.optim.batches`, so that
    all agents draw the same, whatever their libraries, and none has to say what it drew.
    """
    keys = np.frombuffer(shake_128(f"{seed}:{n}:entries".encode()).digest(8 * p), dtype="<u8")
    found = np.sort(np.argsort(keys, kind="stable")[:k]).astype(np.int64)
    found.flags.writeable = False
    return found
