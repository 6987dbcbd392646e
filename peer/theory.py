"""What networks of quadratic neurons can reach on data whose law is known. Never imported by a running peer.

A network f(x) = c + sum_i a_i <w_i, x>^2 is the quadratic form f(x) = c + x'A x with A = W' diag(a) W, of which the
risk on Gaussian data is a formula. What it can reach depends on which of its parameters are trained, and how
(B. Ghorbani, S. Mei, T. Misiakiewicz, A. Montanari, "Limitations of lazy training of two-layers neural networks",
NeurIPS 2019, arXiv 1906.08899): a and c alone; all, in the network linearized at its start; or all.

Risks are squared errors E (f(x) - y)^2 divided by the variance of y, so that the best constant has risk 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol, TypeAlias, final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.errors import ConfigError
from peer.settings import DRAWN, Experiment

Regime: TypeAlias = Literal["random-features", "neural-tangent", "full"]
"""What is trained: a and c; a, W and c of the network linearized at its start; a, W and c."""

REGIMES: Final[tuple[Regime, ...]] = ("random-features", "neural-tangent", "full")

LAW, SAMPLES = 2, 3
"""Streams of the seed: of what there is to learn, and of the samples. 0 starts networks, and 1 cuts data."""

MAX_STEPS: Final = 500
"""Conjugate gradients end long before. Where Delta >= 0, as it is drawn, the eigenvalues of A -> A + Delta A Delta
are between 1 and 2, and a step leaves (sqrt(2) - 1)/(sqrt(2) + 1) = 0.17 of the error."""

ROUNDING: Final = 1e-9
"""Relative residual at which they end: what they are asked for is off by its square. Much less, and what is left
is rounding outside of the space that they are in, along which a step has no bound."""


class Law(Protocol):
    """A law of pairs (x, y), x in R^d of mean 0 and covariance Id, that quadratic forms can learn."""

    @property
    def spectrum(self) -> Vector:
        """Diagonal of what there is to learn, (d,)."""

    @property
    def variance(self) -> float:
        """Of y."""

    def drawn(self, rng: np.random.Generator, m: int) -> tuple[Matrix, Vector]:
        """Independent samples, x (m, d) and y (m,)."""

    def risk(self, A: Matrix, c: float) -> float:
        """E (c + x'A x - y)^2 / Var y, A symmetric (d, d)."""

    def best(self, regime: Regime, W: Matrix) -> float:
        """Least risk of networks that start from these w_i, the rows of W (N, d), in a regime."""

    def limit(self, regime: Regime, rho: float) -> float:
        """What `best` tends to for w_i ~ N(0, Id/d), d to infinity and N/d to rho."""


@final
@dataclass(frozen=True, eq=False)
class Quadratic:
    """Data `quadratic`: x ~ N(0, Id), y = <x, B x> - Tr B, so that Var y = 2 ||B||_F^2.

    Parameters
    ----------
    spectrum : Vector
        Diagonal of B, (d,), which is diagonal.
    """

    spectrum: Vector

    @cached_property
    def variance(self) -> float:
        """Of y, 2 ||B||_F^2."""
        return 2.0 * float(np.sum(self.spectrum**2))

    def drawn(self, rng: np.random.Generator, m: int) -> tuple[Matrix, Vector]:
        """Independent samples, x (m, d) and y (m,)."""
        x = rng.standard_normal((m, len(self.spectrum)))
        return x, np.sum((x * x - 1.0) * self.spectrum, axis=1)

    def risk(self, A: Matrix, c: float) -> float:
        """(2 ||A - B||_F^2 + (Tr A + c)^2) / (2 ||B||_F^2).

        For f(x) - y = x'(A - B)x + c + Tr B, of variance 2 ||A - B||_F^2 and mean Tr A + c.
        """
        error = 2.0 * float(np.sum((A - np.diag(self.spectrum)) ** 2)) + (float(np.trace(A)) + c) ** 2
        return error / self.variance

    def best(self, regime: Regime, W: Matrix) -> float:
        """Distance of B from the forms within reach: ||B - A||_F^2 / ||B||_F^2, with c = -Tr A.

        - random-features: from the span of w_i w_i', by the Gram matrix <w_i, w_j>^2.
        - neural-tangent: from the forms A with P A P = 0, where P projects onto the complement of the span of
          the w_i: ||P B P||_F^2. This needs a_i != 0 at the start; where a_i = 0, w_i has no gradient.
        - full: from the forms of rank N, sum_{i>N} lambda_i(B)^2 (Eckart & Young 1936).
        """
        squares = self.spectrum**2
        if regime == "full":
            return float(np.sum(np.sort(squares)[::-1][len(W) :]) / np.sum(squares))
        if regime == "neural-tangent":
            Q = complement(W)
            return float(np.sum(((Q * self.spectrum) @ Q.T) ** 2) / np.sum(squares))
        b = np.sum(W * W * self.spectrum, axis=1)  # <w_i w_i', B>
        return 1.0 - float(b @ _solved((W @ W.T) ** 2, b)) / float(np.sum(squares))

    def limit(self, regime: Regime, rho: float) -> float:
        """See `unlearned`."""
        return unlearned(self.spectrum, regime, rho)


@final
@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Data `gaussian-mixture`: y = 1 or -1 with probability 1/2 each, x|y ~ N(0, Id - y Delta); Var y = 1.

    Parameters
    ----------
    spectrum : Vector
        Diagonal of Delta, (d,), which is diagonal; from -1 to 1.
    """

    spectrum: Vector

    @property
    def variance(self) -> float:
        """Of y."""
        return 1.0

    def drawn(self, rng: np.random.Generator, m: int) -> tuple[Matrix, Vector]:
        """Independent samples, x (m, d) and y (m,)."""
        y = np.where(rng.random(m) < 0.5, 1.0, -1.0)
        return rng.standard_normal((m, len(self.spectrum))) * np.sqrt(1.0 - y[:, None] * self.spectrum), y

    def risk(self, A: Matrix, c: float) -> float:
        """Mean over y = 1, -1 of 2 Tr(A S A S) + (Tr(A S) + c - y)^2, S = Id - y Delta.

        For given y, x'A x has variance 2 Tr(A S A S) and mean Tr(A S).
        """
        errors = []
        for y in (1.0, -1.0):
            s = 1.0 - y * self.spectrum
            mean = float(np.sum(np.diag(A) * s)) + c - y
            errors.append(2.0 * float(np.sum(A * A * np.outer(s, s))) + mean * mean)
        return float(np.mean(errors))

    def best(self, regime: Regime, W: Matrix) -> float:
        """1/(1 + g/2), g the greatest of Tr(A Delta)^2 / (||A||_F^2 + Tr(A Delta A Delta)), A within reach.

        For with the best c and scale of A the risk is 1 - cov(x'A x, y)^2 / Var(x'A x), where the covariance
        is -Tr(A Delta), and the variance 2 ||A||_F^2 + 2 Tr(A Delta A Delta) + Tr(A Delta)^2.

        - random-features: A in the span of w_i w_i', so g = b'K^-1 b with b_i = <w_i, Delta w_i> and
          K_ij = <w_i, w_j>^2 + <w_i, Delta w_j>^2.
        - neural-tangent: A with P A P = 0, see `Quadratic.best`; by conjugate gradients for A + Delta A Delta.
        - full: A of rank N, so g = sum over the N largest |lambda_i(Delta)| of lambda_i^2/(1 + lambda_i^2). For on
          a space of N dimensions g is this sum over the eigenvalues of Delta compressed to it, and those interlace.
        """
        if regime == "full":
            captured = np.sort(self.spectrum**2 / (1.0 + self.spectrum**2))[::-1][: len(W)]
            return 1.0 / (1.0 + 0.5 * float(np.sum(captured)))
        if regime == "neural-tangent":
            return 1.0 / (1.0 + 0.5 * self._tangent(complement(W)))
        b = np.sum(W * W * self.spectrum, axis=1)
        K = (W @ W.T) ** 2 + ((W * self.spectrum) @ W.T) ** 2
        return 1.0 / (1.0 + 0.5 * float(b @ _solved(K, b)))

    def limit(self, regime: Regime, rho: float) -> float:
        """1/(1 + ||Delta||_F^2 (1 - u)/2), u = `unlearned` of Delta; where ||Delta||_op is small."""
        captured = float(np.sum(self.spectrum**2)) * (1.0 - unlearned(self.spectrum, regime, rho))
        return 1.0 / (1.0 + 0.5 * captured)

    def _tangent(self, Q: Matrix) -> float:
        """Sum of A * Delta where A + Delta A Delta = Delta in the forms with P A P = 0, which A is one of."""
        curvature = 1.0 + np.outer(self.spectrum, self.spectrum)

        def within(A: Matrix) -> Matrix:
            return A - Q.T @ (Q @ A @ Q.T) @ Q

        Delta = np.diag(self.spectrum)
        A, residual = np.zeros_like(Delta), within(Delta)
        direction, size = residual, float(np.sum(residual**2))
        enough = ROUNDING**2 * size
        for _ in range(MAX_STEPS):
            if size <= enough:
                break
            image = within(curvature * direction)
            step = size / float(np.sum(direction * image))
            A, residual = A + step * direction, residual - step * image
            last, size = size, float(np.sum(residual**2))
            direction = residual + (size / last) * direction
        return float(np.sum(np.diag(A) * self.spectrum))


def law_of(experiment: Experiment) -> Law:
    """The law that an experiment's data set is drawn from: it depends on the seed and on [data] alone.

    The spectrum is that of the source's quadratic data, independent Exp(1); for Delta scaled so that its largest
    entry, ||Delta||_op, is `data.separation`.

    Raises
    ------
    ConfigError
        The data set is none that is drawn.
    """
    data = experiment.data
    return law(data.dataset, experiment.seed, data.dimension, data.separation)


def law(dataset: str, seed: int, dimension: int, separation: float) -> Law:
    """The same, of these settings.

    Raises
    ------
    ConfigError
        The data set is none that is drawn.
    """
    spectrum = np.random.default_rng([seed, LAW]).exponential(size=dimension)
    if dataset == "quadratic":
        return Quadratic(spectrum)
    if dataset == "gaussian-mixture":
        return GaussianMixture(spectrum * (separation / spectrum.max()))
    raise ConfigError("data.dataset", f"expected one whose law is known, {' or '.join(DRAWN)}; found {dataset!r}")


def form(W: Matrix, a: Vector) -> Matrix:
    """A = W' diag(a) W, (d, d), of the network with weights W (N, d) and a (N,)."""
    return (W.T * a) @ W


def tangent(W_0: Matrix, a_0: Vector, W: Matrix, a: Vector) -> Matrix:
    """A of the network that was linearized at (W_0, a_0), with parameters (W, a) of the same shapes.

    It is W_0' diag(a) W_0 + M + M', M = W_0' diag(a_0) (W - W_0): c + x'A x is what a run in the regime
    neural-tangent has trained, while the network with these parameters is another function.
    """
    M = (W_0.T * a_0) @ (W - W_0)
    return form(W_0, a) + M + M.T


def population_risk(
    experiment: Experiment, W: Matrix, a: Vector, c: float, start: tuple[Matrix, Vector] | None = None
) -> float:
    """E (f(x) - y)^2 / Var y of a network, exactly, over the law that an experiment draws its data from.

    Parameters
    ----------
    experiment : Experiment
        With data `quadratic` or `gaussian-mixture`.
    W, a, c : Matrix, Vector, float
        Weights (N, d), outputs' weights (N,) and constant of f(x) = c + sum_i a_i <w_i, x>^2.
    start : tuple of Matrix and Vector or None
        W and a at which the network was linearized once for all, in the regime neural-tangent; None: f is the
        network itself.

    Raises
    ------
    ConfigError
        The data set is none that is drawn.
    ValueError
        The parameters are of other shapes.
    """
    spectrum = law_of(experiment).spectrum
    for weights, outputs in ((W, a), *([start] if start is not None else [])):
        if weights.shape != (len(a), len(spectrum)) or outputs.shape != a.shape or a.ndim != 1:
            expected = f"expected weights (N, {len(spectrum)}) and outputs' weights (N,)"
            raise ValueError(f"{expected}, N the same; found {weights.shape} and {outputs.shape}")
    return law_of(experiment).risk(form(W, a) if start is None else tangent(*start, W, a), c)


def unlearned(spectrum: Vector, regime: Regime, rho: float) -> float:
    """Part of ||B||_F^2 that is out of reach as d tends to infinity, N/d to rho, for w_i ~ N(0, Id/d).

    With t = Tr(B)^2 / (d ||B||_F^2):

    - random-features: 1 - t rho/(1 + rho)
    - neural-tangent: (1 - rho)_+^2 (1 - t) + (1 - rho)_+ t
    - full: sum_{i > rho d} lambda_i(B)^2 / ||B||_F^2, linear between whole numbers rho d

    Parameters
    ----------
    spectrum : Vector
        Eigenvalues of B, (d,), of which those of the limit are taken to be a sample.
    regime : Regime
    rho : float
        N/d.
    """
    spectrum = spectrum / np.abs(spectrum).max()  # parts have no scale, but squares may be too small
    d, squares = len(spectrum), np.sort(spectrum**2)[::-1]
    t = float(np.sum(spectrum) ** 2 / (d * np.sum(squares)))
    if regime == "random-features":
        return 1.0 - t * rho / (1.0 + rho)
    if regime == "neural-tangent":
        left = max(1.0 - rho, 0.0)
        return left * left * (1.0 - t) + left * t
    rest = np.append(np.cumsum(squares[::-1])[::-1], 0.0)
    return float(np.interp(rho * d, np.arange(d + 1), rest) / rest[0])


def complement(W: Matrix) -> Matrix:
    """Orthonormal rows, (d - rank, d), that span what is orthogonal to all rows of W (N, d)."""
    _, sizes, rows = np.linalg.svd(W)
    rank = int(np.sum(sizes > sizes.max(initial=0.0) * max(W.shape) * np.finfo(np.float64).eps))
    return np.asarray(rows[rank:])


def _solved(K: Matrix, b: Vector) -> Vector:
    """K^-1 b, or of least norm, for a Gram matrix K and a b in its range."""
    return np.asarray(np.linalg.lstsq(K, b, rcond=None)[0])
