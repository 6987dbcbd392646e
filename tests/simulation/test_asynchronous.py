"""Whole runs without rounds: late, lost, repeated, broken and reordered messages, slow and crashing agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peer import waking, wire
from peer.flows import Flows
from peer.messages import Flow
from peer.optim.losses import Squared
from peer.optim.regularizers import L2
from tests import asynchronous
from tests.asynchronous import CALM, STORMY, optimum, play, scenario
from tests.rounding import drift

N_SEEDS = 100
CHUNK = 10


@pytest.mark.parametrize("first", range(0, N_SEEDS, CHUNK))
def test_every_run_arrives_at_the_optimum(first: int) -> None:
    """With (17) after every event, and bounded memory; see `asynchronous.Run`."""
    for seed in range(first, first + CHUNK):
        run = play(seed)
        assert run.outcome.distance <= (CALM if run.what.weather.is_calm else STORMY)


def test_the_seeds_cover_what_they_are_for() -> None:
    """Else a change of the generator could make the test above easy without anybody noticing."""
    runs = [scenario(seed) for seed in range(N_SEEDS)]
    kinds = Counter(type(run.problems[0].surrogate).__name__ for run in runs)
    kinds.update(type(run.problems[0].regularizer).__name__ for run in runs)
    kinds.update(f"out {run.out}, reorder {run.weather.reorder}" for run in runs)
    kinds.update(f"loss {run.weather.loss}, calm {run.weather.is_calm}" for run in runs)
    expected = ["Full", "Partial", "L2", "L1", "NoRegularizer", "loss 0.0, calm True", "loss 0.5, calm False"]
    expected += [f"out {out}, reorder {reorder}" for out in ("all", "some", "one") for reorder in (True, False)]
    assert all(kinds[kind] >= 8 for kind in expected), kinds
    weathers = [run.weather for run in runs]
    assert sum(len(weather.crashes) for weather in weathers) > 80
    assert sum(weather.leaves is not None for weather in weathers) >= 8
    assert sum(bool(weather.slow_links) for weather in weathers) >= 15
    assert sum(max(weather.pace) == 3.0 for weather in weathers) >= 20
    assert sum(weather.corrupt > 0.0 for weather in weathers) >= 20
    one_way = [run for run in runs if any((j, i) not in run.arcs for i, j in run.arcs)]
    assert len(one_way) >= 30


def test_the_optimum_is_that_of_all_data_together() -> None:
    """Where the gradient of G + r is zero; and agents alone have others."""
    what = next(run for run in map(scenario, range(N_SEEDS)) if isinstance(run.problems[0].regularizer, L2))
    w = optimum(what.problems)
    slope = sum(problem.gradient(w) for problem in what.problems) + what.problems[0].regularizer.gradient(w)
    assert np.abs(slope).max() < 1e-13
    assert all(isinstance(problem.data.loss, Squared) for problem in what.problems)
    assert np.abs(optimum(what.problems[:1]) - w).max() > 0.01


def test_a_seed_is_the_same_run_every_time() -> None:
    first: list[str] = []
    second: list[str] = []
    play(3, first.append)
    play(3, second.append)
    assert len(first) > 100
    assert first == second


# ---- the tests can fail --------------------------------------------------------------------


def first_of(which: Callable[[asynchronous.Scenario], bool]) -> int:
    """The first seed of a kind."""
    return next(seed for seed in range(1000) if which(scenario(seed)))


CALM_SEED = first_of(lambda run: run.weather.is_calm and run.n_agents == 3)
LOSSY_SEED = first_of(lambda run: run.weather.loss >= 0.2 and run.weather.leaves is None and run.n_agents <= 3)
CROSSING_SEED = first_of(
    lambda run: run.weather.reorder and run.weather.delay >= 0.3 and not run.weather.crashes and run.n_agents <= 3
)
CRASHING_SEED = first_of(lambda run: len(run.weather.crashes) >= 2 and run.weather.leaves is None)


def absorbs_twice(flows: Flows) -> dict[int, Any]:
    """(13) without R_ij = S_ij."""
    heard = dict(flows._heard)
    before = {j: flows.absorbed(j) for j in heard}
    theirs = ABSORB(flows)
    flows._absorbed.update(before)
    return theirs


def tracks_nothing(flows: Flows, source: Any) -> None:
    """(15) left out."""
    flows.source = source


def pushes_and_keeps(flows: Flows, v: Any, receivers: Any) -> None:
    """(16) without m_i = b m_i."""
    mass = flows.mass
    PUSH(flows, v, receivers)
    flows.mass = mass


def sends_increments(flows: Flows, j: int) -> Flow:
    """What was pushed since the last flow in the place of the running sum, as ordinary push-sum does."""
    flow = FLOW(flows, j)
    flows._pushed[j] = np.zeros_like(flow.sums)
    return flow


def takes_stale_ones(flows: Flows, flow: Flow) -> None:
    """Whatever comes last counts."""
    if flow.epoch == flows.epoch:
        flows._heard[flow.sender] = flow


def forgets_lives(flows: Flows, j: int) -> Flow:
    """A stamp without the incarnation."""
    return replace(FLOW(flows, j), stamp=(0, flows.counter))


ABSORB, PUSH, FLOW = Flows.absorb, Flows.push, Flows.flow


@pytest.mark.parametrize(
    ("name", "wrong", "seed", "found"),
    [
        ("absorb", absorbs_twice, CALM_SEED, r"\(17\) is broken"),
        ("track", tracks_nothing, CALM_SEED, r"\(17\) is broken"),
        ("push", pushes_and_keeps, CALM_SEED, r"\(17\) is broken"),
        ("flow", sends_increments, LOSSY_SEED, r"\(17\) is broken"),
        ("receive", takes_stale_ones, CROSSING_SEED, "goes back to"),
        ("flow", forgets_lives, CRASHING_SEED, "newer than all before it was refused"),
    ],
)
def test_a_machine_with_a_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any], seed: int, found: str
) -> None:
    """And the failure names its seed and the command that replays it."""
    monkeypatch.setattr(Flows, name, wrong)
    monkeypatch.setattr(asynchronous, "MAX_WAKINGS", 2000)
    with pytest.raises(
        AssertionError, match=rf"seed {seed}: (.|\n)*python -m tests\.simulate --mode async --seed {seed}$"
    ) as failure:
        play(seed)
    failure.match(found)


def test_an_objective_that_is_not_tracked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = waking.observe

    def blind(state: Any, mass: Any, n_agents: int) -> Any:
        seen = observe(state, mass, n_agents)
        return None if seen is None else replace(seen, objective=state.value)

    monkeypatch.setattr(waking, "observe", blind)
    with pytest.raises(AssertionError, match="takes G for"):
        play(CALM_SEED)


def test_a_broken_message_that_is_taken_for_a_whole_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FLOW", float("inf"))
    with pytest.raises(AssertionError, match="taken for a whole one"):
        play(first_of(lambda run: run.weather.corrupt > 0.0))


# ---- rounding ------------------------------------------------------------------------------


def test_a_long_run_loses_nothing_where_plain_sums_lose_more_and_more() -> None:
    """Relative, of (17); `python -m tests.rounding --pushes 1000000` goes on for longer."""
    exact, plain = drift(20_000)
    assert exact < 1e-20
    assert plain > 1e-13
