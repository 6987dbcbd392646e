"""Direct feedback alignment: every layer learns from the error of the outputs itself, along a fixed random matrix.

A chain is cut into segments, each a layer that has parameters and the ones behind it that have none. Let e be the
gradient of the loss by the outputs. Backprop pulls it back through all later layers; here segment k gets

    delta_k = B_k e    in the place of    D*f_(k+1) ... D*f_L e,        the last one e itself, as it is,

and pulls that back through itself exactly: with a dense layer and an activation, delta a_k = (B_k e) * f'(a_k). So no
layer waits for another: all can be gone through at once. B_k has independent entries N(0, 1/(width_k q)): as in the
source, one matrix of the widest segment is drawn, each segment has its first rows, scaled by the root of the widest
width over its own. Rows are drawn one after the other, so that B_k depends on the seed, its own width and q alone.

What comes of it is no gradient of anything. It goes with the gradient where later layers have come to do, about, what
B_k' does: that alignment is learned. Source: J. Launay, I. Poli, F. Krzakala, "Principled training of neural networks
with direct feedback alignment" (arXiv 1906.04554); A. Nøkland, "Direct feedback alignment provides learning in deep
neural networks" (2016). Departures:

1. A segment may be any layer of `peer.optim.layers`, or a residual block, through which is pulled back exactly.
2. All agents have the same B_k, for what they average are directions: those of different B_k cancel.

Laws. The last segment has the bits of its gradient; all have the gradient where B_k is the adjoint of what follows, as
in a linear chain with B_k the product of the transposed later weights; no number of threads changes a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from peer.arrays import Matrix, Vector
from peer.optim.blocks import Each, in_turn
from peer.optim.chains import Chain, ChainPass


def segments(chain: Chain) -> tuple[slice, ...]:
    """Places among the layers of each one with parameters and those without behind it; what is before is in none."""
    starts = [k for k, layer in enumerate(chain.layers) if layer.layout.shapes]
    return tuple(slice(start, stop) for start, stop in pairwise([*starts, len(chain.layers)]))


def places(chain: Chain) -> tuple[slice, ...]:
    """Where the parameters of each segment stand in w: all parameters, once."""
    return tuple(chain.places[segment.start] for segment in segments(chain))


@final
@dataclass(frozen=True, eq=False)
class Feedback:
    """The matrices along which the error goes to the layers of a chain.

    Parameters
    ----------
    matrices : tuple of Matrix
        B_k, (width of segment k, q), of all segments but the last.
    """

    matrices: tuple[Matrix, ...]

    def direction(self, here: ChainPass, e: Matrix, each: Each = in_turn) -> Vector:
        """What takes the place of J'e, (p,).

        Parameters
        ----------
        here : ChainPass
            The chain at w.
        e : Matrix
            Gradient of the loss by the outputs, (m, q).
        each : Each
            How segments are gone through.
        """
        result, cut = np.empty(here.w.shape), segments(here.chain)

        def pull(k: int) -> None:
            u = e @ self.matrices[k].T if k < len(self.matrices) else e
            for j in reversed(range(cut[k].start, cut[k].stop)):
                u = here.passed[j].pull(u, result[here.chain.places[j]], onward=j > cut[k].start)

        each(pull, range(len(cut)))
        return result


def drawn(rng: np.random.Generator, chain: Chain) -> Feedback:
    """Random feedback for a chain: slices of one matrix, (width of the widest segment, q)."""
    q, widths = chain.n_outputs, [chain.layers[segment.stop - 1].n_outputs for segment in segments(chain)[:-1]]
    widest = max(widths, default=0)
    whole = rng.standard_normal((widest, q)) / math.sqrt(max(1, widest * q))
    return Feedback(tuple(whole[:width] * math.sqrt(widest / width) for width in widths))


def cosine(one: Vector, other: Vector) -> float:
    """Of the angle between two directions; 1 if both vanish, 0 if one does; nan where a number is not finite."""
    lengths = float(np.max(np.abs(one), initial=0.0)), float(np.max(np.abs(other), initial=0.0))
    if 0.0 in lengths:
        return 1.0 if lengths == (0.0, 0.0) else 0.0
    one, other = one / lengths[0], other / lengths[1]  # squares of what is small, or large, are numbers then
    return float(np.dot(one, other)) / math.sqrt(float(np.dot(one, one)) * float(np.dot(other, other)))


def alignment(chain: Chain, direction: Vector, gradient: Vector) -> Vector:
    """Cosines of direction and gradient, (p,), over the parameters of each segment that gets feedback: all but one."""
    return np.array([cosine(direction[place], gradient[place]) for place in places(chain)[:-1]])
