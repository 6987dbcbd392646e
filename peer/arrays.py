"""Dense arrays: their types, and the flat parameter vector with its named parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
"""One axis of float64."""

Matrix: TypeAlias = NDArray[np.float64]
"""Two axes of float64."""

Labels: TypeAlias = NDArray[np.int64]
"""One axis of int64: the number of a class."""

BF16: Final = np.dtype([("bf16", "<u2")])
"""The first 16 bits of a float32, 8 of them of its exponent; numpy has no such number, so these are only carried."""

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {"f8": np.dtype("<f8"), "f4": np.dtype("<f4"), "bf16": BF16}
"""Number formats on the wire, by the name that experiments and headers use."""


@final
@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parts of the flat parameter vector w, in their order.

    Parameters
    ----------
    shapes : tuple of (str, tuple of int)
        Parts in the order in which they stand in w, each row-major.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def slices(self) -> tuple[tuple[str, tuple[int, ...], slice], ...]:
        """Name, shape and place of each part."""
        return self._slices

    @cached_property
    def _slices(self) -> tuple[tuple[str, tuple[int, ...], slice], ...]:
        places: list[tuple[str, tuple[int, ...], slice]] = []
        start = 0
        for name, shape in self.shapes:
            stop = start + math.prod(shape)
            places.append((name, shape, slice(start, stop)))
            start = stop
        return tuple(places)

    def unflatten(self, w: Vector) -> dict[str, NDArray[np.float64]]:
        """Parts of w by name; views where w allows it."""
        return {name: w[place].reshape(shape) for name, shape, place in self.slices()}

    def flatten(self, parts: Mapping[str, NDArray[Any]]) -> Vector:
        """The vector w of these parts.

        Raises
        ------
        ValueError
            A part is missing, left over, of another shape, not numeric, or not finite.
        """
        extra = sorted(set(parts) - {name for name, _ in self.shapes})
        if extra:
            raise ValueError(f"array {extra[0]!r} belongs to no layer of the model")
        w = np.empty(self.size)
        for name, shape, place in self.slices():
            if name not in parts:
                raise ValueError(f"array {name!r} of shape {shape} is missing")
            part = parts[name]
            if part.shape != shape or part.dtype.kind not in "fiu":
                raise ValueError(f"array {name!r}: expected numbers of shape {shape}, found {part.dtype} {part.shape}")
            w[place] = part.reshape(-1)
            if not np.isfinite(w[place]).all():
                raise ValueError(f"array {name!r}: expected finite numbers, found nan or infinity")
        return w


def rounded(vector: Vector, dtype: np.dtype[Any]) -> Vector:
    """What a receiver sees of `vector` when it is sent as `dtype`; `vector` itself for float64."""
    return vector if dtype == vector.dtype else unpacked(packed(vector, dtype), dtype)


def is_sendable(vector: Vector, dtype: np.dtype[Any]) -> bool:
    """Whether a receiver sees finite numbers only: none is nan, or too large for the format."""
    largest = np.maximum.reduce(np.abs(vector), initial=0.0)
    return bool(np.isfinite(rounded(np.array([largest]), dtype)[0]))


def packed(vector: Vector, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers as they are sent, rounded to nearest, ties to even; those too large for the format become infinite."""
    if dtype == vector.dtype:
        return np.ascontiguousarray(vector)
    with np.errstate(over="ignore"):
        short = vector.astype("<f4")
    if dtype != BF16:
        return short
    bits = short.view("<u4")
    up = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    upper = np.where(np.isnan(short), np.uint32(0x7FC0), up >> np.uint32(16))  # carried on, a nan would be a number
    return upper.astype("<u2").view(BF16)


def unpacked(numbers: NDArray[Any], dtype: np.dtype[Any]) -> Vector:
    """Numbers in float64 as they were sent; float64 itself is not copied."""
    if dtype == np.float64:
        return numbers
    if dtype == BF16:
        numbers = (numbers.view("<u2").astype("<u4") << np.uint32(16)).view("<f4")
    with np.errstate(invalid="ignore"):  # a nan may be one of those that signal
        return numbers.astype(np.float64)


@final
@dataclass(frozen=True, eq=False)
class Sparse:
    """A vector of which few entries are not 0.

    Parameters
    ----------
    values : Vector
        These entries, (k,).
    places : array of int64
        Where they stand, ascending, (k,).
    """

    values: Vector
    places: NDArray[np.int64]

    def added_to(self, vector: Vector) -> None:
        """Add to a vector, (p,), in place."""
        vector[self.places] += self.values


Tensor: TypeAlias = Vector | Sparse
"""What a share carries of z or y."""


def two_sum(a: Vector, b: Vector) -> tuple[Vector, Vector]:
    """The float64 sum of a and b, and what rounding took from it: a + b = sum + error exactly (Knuth's TwoSum)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


@final
@dataclass(frozen=True, eq=False)
class Twofold:
    """A vector to twice the precision of float64: the unevaluated sum high + low.

    Parameters
    ----------
    high : Vector
        The vector, rounded to float64.
    low : Vector
        What rounding took from it, of the same shape.
    """

    high: Vector
    low: Vector

    @classmethod
    def of(cls, vector: Vector) -> Twofold:
        """The vector itself, with nothing behind it."""
        return cls(vector, np.zeros_like(vector))

    def plus(self, vector: Vector) -> Twofold:
        """High + low + vector, to about 2^-104 of the largest of them."""
        total, error = two_sum(self.high, vector)
        return Twofold(*two_sum(total, self.low + error))
