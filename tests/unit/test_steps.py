"""Step sizes (10)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from peer.optim.steps import Constant, Diminishing, StepRule


def steps(rule: StepRule, alpha: float, n_rounds: int) -> list[float]:
    found = [alpha]
    for _ in range(n_rounds):
        found.append(rule.after(found[-1]))
    return found


def test_a_constant_step_stays() -> None:
    assert steps(Constant(), 0.3, 3) == [0.3] * 4


def test_a_diminishing_step_by_hand() -> None:
    assert steps(Diminishing(0.5), 1.0, 2) == [1.0, 0.5, 0.375]


@pytest.mark.parametrize("mu", [0.01, 0.5, 0.9])
def test_diminishing_steps_have_an_infinite_sum_and_finite_squares(mu: float) -> None:
    """They fall like 1/(mu n): 1/alpha grows by at least mu each round, and by little more."""
    found = steps(Diminishing(mu), 1.0, 10_000)
    assert all(0.0 < after < before for before, after in pairwise(found))
    assert mu * 10_000 <= 1.0 / found[-1] <= 1.1 * mu * 10_000 + 100.0


def test_no_rate_is_no_change() -> None:
    assert steps(Diminishing(0.0), 0.7, 2) == [0.7] * 3
