"""What a run is compared with: the same problem (1) solved in one place, with all data.

By L-BFGS, or, where r is not separable, by accelerated proximal gradients; what scikit-learn has a model for is solved
by that, too. The better one is the reference, and the summary says which it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.optim.chains import Chain
from peer.optim.losses import Logistic, Softmax, Squared, Weighted
from peer.optim.regularizers import L1, L2, Boxed, ElasticNet, GroupL2, Regularizer
from peer.optim.surrogates import Data

MAX_ITERATIONS: Final = 5_000
"""Either way stops by itself long before."""

ROUNDING: Final = 1e-14
"""Relative, of sums over all samples: without it the step would be halved for ever where nothing improves any more."""

STATIONARITY: Final = 1e-9
"""Where it is good enough to compare with."""


def minimize(
    value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], regularizer: Regularizer, w: Vector
) -> tuple[Vector, int, str]:
    """Minimizer of G + r, a local one where G is not convex, the iterations that it took, and the name of the solver.

    Parameters
    ----------
    value, gradient : callable
        Of G.
    regularizer : Regularizer
        r.
    w : Vector
        Where to begin, (p,).
    """
    if isinstance(regularizer, GroupL2):
        return *accelerated(value, gradient, regularizer, w), "FISTA"
    return *quasi_newton(value, gradient, regularizer, w), "L-BFGS"


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


def by_scikit_learn(shards: Sequence[Data], regularizer: Regularizer) -> tuple[Vector, str] | None:
    """Minimizer (p,) and name of the model of scikit-learn that (1) is; None where it has none, or is not installed.

    Ridge, Lasso and ElasticNet for the squared loss, LogisticRegression with l2 for cross entropy, of a network of one
    layer. Its biases are regularized as all weights are, or not at all.

    Parameters
    ----------
    shards : sequence of Data
        Of all agents.
    regularizer : Regularizer
        r.
    """
    model, strengths = shards[0].model, _strengths(regularizer)
    names = [name for name, _ in model.layout.shapes]
    linear = isinstance(model, Chain) and names == ["layers.0.weight", "layers.0.bias"]
    if find_spec("sklearn") is None or strengths is None or not linear or any(data.tangents for data in shards):
        return None
    q, d = model.n_outputs, shards[0].inputs.shape[1]
    absolute, square = (np.broadcast_to(part, q * d + q) for part in strengths)
    each = list(zip(absolute.tolist(), square.tolist(), strict=True))
    of_weights, of_biases = set(each[: q * d]), set(each[q * d :])
    if len(of_weights) != 1 or of_biases not in ({(0.0, 0.0)}, of_weights):
        return None
    ((l1, l2),) = of_weights
    penalized = of_biases == of_weights
    x = np.concatenate([data.inputs for data in shards])
    if penalized:  # the bias is the weight of a constant then
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fitted = _fitted(shards, x, l1, l2, not penalized)
    if fitted is None:
        return None
    estimator, name = fitted
    weights = np.asarray(estimator.coef_, dtype=np.float64).reshape(q, -1)
    biases = weights[:, d] if penalized else np.broadcast_to(estimator.intercept_, q)
    return np.concatenate([weights[:, :d].reshape(-1), biases]), f"scikit-learn {name}"


def _strengths(regularizer: Regularizer) -> tuple[Vector, Vector] | None:
    """Weights of |w| and w^2/2 in r, (p,) each; None where r is something else."""
    none = np.zeros(1)
    if isinstance(regularizer, L1):
        return regularizer.strength, none
    if isinstance(regularizer, ElasticNet):
        return regularizer.absolute, regularizer.square
    return (none, regularizer.strength) if isinstance(regularizer, L2) else None


def _fitted(shards: Sequence[Data], x: Matrix, l1: float, l2: float, intercept: bool) -> tuple[Any, str] | None:
    """A model of scikit-learn, fitted, and its name; of the sum of s times the losses, l1 |w| and l2 w^2/2."""
    from sklearn import linear_model

    losses: list[Any] = []
    weights: list[Vector] = []
    for data in shards:
        loss = data.loss
        weights.append(loss.weights if isinstance(loss, Weighted) else np.ones(len(data.inputs)))
        losses.append(loss.loss if isinstance(loss, Weighted) else loss)
    sample_weight, s = np.concatenate(weights), shards[0].weight
    more: dict[str, Any] = {"fit_intercept": intercept}
    total = s * float(sample_weight.sum())  # Lasso and ElasticNet have the mean of the losses
    if all(isinstance(loss, Squared) for loss in losses):
        y = np.concatenate([loss.targets for loss in losses])
        if l1 == 0.0:
            estimator, name = linear_model.Ridge(alpha=l2 / s, solver="cholesky", **more), "Ridge"
        elif l2 == 0.0:
            estimator, name = linear_model.Lasso(alpha=l1 / total, tol=1e-12, max_iter=MAX_ITERATIONS, **more), "Lasso"
        else:
            more |= {"alpha": (l1 + l2) / total, "l1_ratio": l1 / (l1 + l2), "tol": 1e-12, "max_iter": MAX_ITERATIONS}
            estimator, name = linear_model.ElasticNet(**more), "ElasticNet"
        return estimator.fit(x, y, sample_weight=sample_weight), name
    binary, several = (all(isinstance(loss, kind) for loss in losses) for kind in (Logistic, Softmax))
    if l1 or not (binary or several):
        return None
    labels = np.concatenate([loss.labels for loss in losses])
    classes = shards[0].model.n_outputs if several else 2
    if classes != len(np.unique(labels)) or (several and classes < 3):
        return None  # it leaves out classes without samples, and knows two by one output only
    estimator = linear_model.LogisticRegression(C=s / l2, tol=1e-10, max_iter=MAX_ITERATIONS, **more)
    return estimator.fit(x, labels, sample_weight=sample_weight), "LogisticRegression"
