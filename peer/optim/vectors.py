"""Sums over the entries of a vector, by BLAS: it raises no alarm where they overflow, and is called in no time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ddot

from peer.arrays import Vector


def dot(a: Vector, b: Vector) -> float:
    """<a, b>; infinite or nan where it overflows."""
    return float(ddot(a, b)) if a.size else 0.0


def square(vector: Vector) -> float:
    """||vector||_2^2; infinite where it overflows."""
    return dot(vector, vector)


def length(vector: Vector) -> float:
    """||vector||_2; infinite where its square overflows."""
    return math.sqrt(dot(vector, vector))


def largest(array: NDArray[np.float64]) -> float:
    """Largest magnitude of an entry; 0 where there is none, nan where one is."""
    return float(np.maximum.reduce(np.abs(array), axis=None, initial=0.0))


def is_finite(array: NDArray[Any]) -> bool:
    """Whether every entry is finite; one pass of a dot product in all but extreme cases."""
    flat = array.reshape(-1)
    return math.isfinite(dot(flat, flat)) or bool(np.isfinite(flat).all())
