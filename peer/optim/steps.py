"""Step sizes alpha[n] of (6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final


class StepRule(Protocol):
    """The next step size from the last one."""

    def after(self, alpha: float) -> float:
        """alpha[n+1] from alpha[n]."""


@final
@dataclass(frozen=True)
class Constant:
    """alpha[n+1] = alpha[n]."""

    def after(self, alpha: float) -> float:
        """The same step."""
        return alpha


@final
@dataclass(frozen=True)
class Diminishing:
    """(10): alpha[n+1] = alpha[n] (1 - mu alpha[n]).

    Parameters
    ----------
    mu : float
        Rate in [0, 1/alpha[0]), so that every step stays positive.
    """

    mu: float

    def after(self, alpha: float) -> float:
        """The diminished step."""
        return alpha * (1.0 - self.mu * alpha)
