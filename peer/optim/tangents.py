"""A loss of derivatives: how much the outputs change where inputs move along given directions (tangent propagation).

    R(w) = strength/2 * sum over samples m and directions v_m of ||D F(x_m) v_m||^2

is 0 where F is invariant along them. Sources: P. Simard, B. Victorri, Y. LeCun, J. Denker, "Tangent prop" (1992);
A. Caterini, D. E. Chang, arXiv 1608.04374, section 3, for its gradient, which takes second derivatives of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from peer.arrays import Matrix, Vector
from peer.optim.chains import ChainPass
from peer.optim.factors import Tensor
from peer.optim.images import Image
from peer.optim.models import Pass


@final
@dataclass(frozen=True, eq=False)
class Tangents:
    """R of some samples.

    Parameters
    ----------
    directions : ndarray
        v, k of them for each sample, (k, m, d).
    strength : float
        >= 0.
    """

    directions: Tensor
    strength: float

    def value(self, here: Pass) -> float:
        """R at w."""
        assert isinstance(here, ChainPass), "settings allow chains only"
        pushed = (here.push(v, None) for v in self.directions)
        return 0.5 * self.strength * sum(float(np.vdot(p, p)) for p in pushed)

    def gradient(self, here: Pass) -> Vector:
        """Grad R at w, (p,)."""
        assert isinstance(here, ChainPass), "settings allow chains only"
        out = np.zeros(here.n_parameters)
        for v in self.directions:
            here.bend(v, self.strength * here.push(v, None), out)
        return out

    def taken(self, rows: NDArray[np.intp]) -> Tangents:
        """Of these samples alone."""
        return Tangents(self.directions[:, rows], self.strength)


def shifted(x: Matrix, image: Image, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """Directions in which images move by shifts (rows down, columns to the right): (k, m, d).

    Half the difference of the images moved forth and back; zeros come in where the image ends.
    """
    images = x.reshape(len(x), *image)
    return np.stack([0.5 * (_moved(images, down, right) - _moved(images, -down, -right)) for down, right in shifts])


def _moved(images: Tensor, down: int, right: int) -> Matrix:
    m, channels, height, width = images.shape
    reach = max(abs(down), abs(right))
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    moved = padded[:, :, reach - down : reach - down + height, reach - right : reach - right + width]
    return moved.reshape(m, channels * height * width)
