"""What a run is compared with: the same problem (1) solved in one place, with all data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from peer.arrays import Vector
from peer.optim.regularizers import Boxed, GroupL2, Regularizer

MAX_ITERATIONS: Final = 5_000
"""Either way stops by itself long before."""

ROUNDING: Final = 1e-14
"""Relative, of sums over all samples: without it the step would be halved for ever where nothing improves any more."""

STATIONARITY: Final = 1e-9
"""Where it is good enough to compare with."""


def minimize(
    value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], regularizer: Regularizer, w: Vector
) -> tuple[Vector, int]:
    """Minimizer of G + r, a local one where G is not convex, and the iterations that it took.

    Parameters
    ----------
    value, gradient : callable
        Of G.
    regularizer : Regularizer
        r.
    w : Vector
        Where to begin, (p,).
    """
    solver = accelerated if isinstance(regularizer, GroupL2) else quasi_newton
    return solver(value, gradient, regularizer, w)


def quasi_newton(
    value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], regularizer: Regularizer, w: Vector
) -> tuple[Vector, int]:
    """By L-BFGS within bounds, for a separable r.

    Where r has kinks at 0 it is made smooth by w = u - v with u, v >= 0, on which r(u + v) is quadratic.
    """
    from scipy import optimize

    lower, upper, inner = np.full(w.shape, -np.inf), np.full(w.shape, np.inf), regularizer
    if isinstance(regularizer, Boxed):
        lower, upper, inner = regularizer.lower, regularizer.upper, regularizer.inner
    ones = np.ones_like(w)
    once, twice = inner.gradient(ones), inner.gradient(2.0 * ones)

    def smooth(w: Vector) -> tuple[float, Vector]:
        return value(w) + inner.value(w), gradient(w) + inner.gradient(w)

    def split(parts: Vector) -> tuple[float, Vector]:
        u, v = np.split(parts, 2)
        slope, downhill = once + (twice - once) * (u + v - ones), gradient(u - v)
        return value(u - v) + inner.value(u + v), np.concatenate([downhill + slope, slope - downhill])

    def parts_of(w: Vector) -> Vector:
        return np.concatenate([np.maximum(w, 0.0), np.maximum(-w, 0.0)])

    options: Any = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "ftol": 1e-15, "gtol": STATIONARITY}
    if inner.smooth:
        bounds = optimize.Bounds(lower, upper)
        found = optimize.minimize(smooth, w, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return found.x, int(found.nit)
    ends = parts_of(lower), parts_of(upper)
    bounds = optimize.Bounds(np.minimum(*ends), np.maximum(*ends))
    found = optimize.minimize(split, parts_of(w), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    u, v = np.split(found.x, 2)
    return u - v, int(found.nit)


def accelerated(
    value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], regularizer: Regularizer, w: Vector
) -> tuple[Vector, int]:
    """By accelerated proximal gradients, for any r.

    The step is halved until the quadratic bound holds (A. Beck, M. Teboulle, "A fast iterative
    shrinkage-thresholding algorithm for linear inverse problems", 2009), and momentum begins anew where it
    points uphill (B. O'Donoghue, E. Candes, "Adaptive restart for accelerated gradient schemes", 2015).
    """
    step, momentum, ahead = 1.0, 1.0, w
    for n in range(MAX_ITERATIONS):
        if np.max(np.abs(w - regularizer.prox(w - gradient(w), 1.0)), initial=0.0) <= STATIONARITY:
            return w, n
        here, slope = value(ahead), gradient(ahead)
        while True:
            following = regularizer.prox(ahead - step * slope, step)
            d = following - ahead
            bound = here + float(np.dot(slope, d)) + float(np.dot(d, d)) / (2.0 * step)
            if value(following) <= bound + ROUNDING * abs(bound):
                break
            step *= 0.5
        if float(np.dot(ahead - following, following - w)) > 0.0:
            momentum = 1.0
        last, momentum = momentum, 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum * momentum))
        w, ahead = following, following + (last - 1.0) / momentum * (following - w)
    return w, MAX_ITERATIONS
