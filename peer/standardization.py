"""What was subtracted from a data set's columns, and by what they were divided, before it was cut into shards.

A network is trained on (x - mean)/deviation; whoever uses it elsewhere has samples as they were before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from peer import npz
from peer.arrays import Matrix, Vector
from peer.errors import ConfigError

NAME: Final = "standardization.npz"
"""Of the file beside the shards of one cut."""


@final
@dataclass(frozen=True, eq=False)
class Scale:
    """Column by column a -> (a - mean)/deviation.

    Parameters
    ----------
    mean, deviation : Vector
        Of the training part, (d,); 1 where a column is constant.
    """

    mean: Vector
    deviation: Vector

    @classmethod
    def of(cls, array: Matrix) -> Scale:
        """The scale by which these rows, (m, d), get mean 0 and deviation 1."""
        deviation = array.std(axis=0)
        return cls(array.mean(axis=0), np.where(deviation > 0.0, deviation, 1.0))

    def applied(self, array: Matrix) -> Matrix:
        """Rows (m, d), standardized."""
        return np.asarray((array - self.mean) / self.deviation)

    def undone(self, array: Matrix) -> Matrix:
        """Rows (m, d) as they were before."""
        return np.asarray(array * self.deviation + self.mean)


@final
@dataclass(frozen=True, eq=False)
class Standardization:
    """What was done to the columns of a data set; None where they are as they were.

    Parameters
    ----------
    x : Scale or None
        Of the inputs.
    y : Scale or None
        Of real targets.
    codes : Matrix or None
        Real targets of the classes before that, (n_classes, q), where classes are coded.
    """

    x: Scale | None = None
    y: Scale | None = None
    codes: Matrix | None = None

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """By name, as files have them: x_mean, x_deviation, y_mean, y_deviation and codes, those that there are."""
        found: dict[str, NDArray[np.float64]] = {}
        for name, scale in (("x", self.x), ("y", self.y)):
            if scale is not None:
                found |= {f"{name}_mean": scale.mean, f"{name}_deviation": scale.deviation}
        return found if self.codes is None else found | {"codes": self.codes}


def read(path: Path) -> Standardization:
    """The standardization of a file.

    Raises
    ------
    ConfigError
        It is no such file.
    """
    try:
        arrays = npz.load(path)
        scales = {name: _scale(arrays, name) for name in ("x", "y")}
    except ValueError as error:
        raise ConfigError(str(path), str(error)) from error
    return Standardization(scales["x"], scales["y"], arrays.get("codes"))


def _scale(arrays: dict[str, NDArray[Any]], name: str) -> Scale | None:
    mean, deviation = (arrays.get(f"{name}_{moment}") for moment in ("mean", "deviation"))
    if mean is None and deviation is None:
        return None
    if mean is None or deviation is None or mean.shape != deviation.shape or mean.dtype.kind != "f":
        raise ValueError(f"expected {name}_mean and {name}_deviation of the same shape, found others")
    if mean.ndim != 1 or deviation.dtype.kind != "f" or not np.all(np.isfinite(mean)) or not np.all(deviation > 0.0):
        raise ValueError(f"expected finite {name}_mean and {name}_deviation > 0, (d,), found others")
    return Scale(mean, deviation)
