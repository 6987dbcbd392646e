"""Training in one place, as the benchmark of regimes does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import regimes
from benchmarks.regimes import CENTRAL, Parameters, risk_of
from peer import settings, theory
from peer.theory import REGIMES, Regime


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dataset", settings.DRAWN)
def test_what_is_trained_on_many_samples_is_near_the_best(dataset: str, regime: Regime, n: int) -> None:
    """From above; by how much goes as parameters over samples."""
    data = {"dataset": dataset, "dimension": 6, "separation": 0.8}
    experiment = settings.from_tree({"seed": 1, "data": data})
    law, start = theory.law_of(experiment), Parameters.drawn(n, 6, seed=1)
    x, y = law.drawn(np.random.default_rng(2), 20_000)
    found = risk_of(experiment, regime, start, CENTRAL[regime](start, x, y))
    best = law.best(regime, start.W)
    assert best - 1e-9 <= found <= best + 0.01


def test_the_table_has_theory_alone_where_nothing_is_trained(tmp_path: Path) -> None:
    picture = tmp_path / "risks.svg"
    given = ["--dimension", "8", "--samples", "0", "--figure", str(picture)]
    found = CliRunner().invoke(regimes.main, given)
    assert found.exit_code == 0, found.output
    rows = [line.split("|")[1:-1] for line in found.output.splitlines() if line.startswith("| 0") or "| 1" in line]
    assert len(rows) == len(regimes.RATIOS) * len(REGIMES)
    assert all(row[-1].strip() == "-" for row in rows)
    assert "run" not in picture.read_text()
    refusal = CliRunner().invoke(regimes.main, [*given[:-1], str(tmp_path / "risks.txt")])
    assert refusal.exit_code == 1
    assert "expected the name of a picture" in refusal.output
