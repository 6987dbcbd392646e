"""Whole runs without rounds: messages late, lost, repeated, garbled, reordered; peers that crash, come, go, return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peer import waking, wire
from peer.assembly import Assembly
from peer.flows import Flows
from peer.membership import Membership
from peer.messages import Flow, Standing, View
from peer.optim.losses import Squared
from peer.optim.regularizers import L2
from tests import asynchronous
from tests.asynchronous import CALM, STORMY, optimum, play, scenario
from tests.rounding import drift
from topology import PeerId

SEEDS, N_SHORT = range(300, 340), 20
"""Of 40 in a row these cover everything; `make simulate` plays 2,000."""
CHUNK = 5


@pytest.mark.parametrize("first", SEEDS[::CHUNK])
def test_every_run_arrives_at_the_optimum(first: int) -> None:
    """With (17) after every event, one view at the end, and bounded memory; see `asynchronous.Run`."""
    for seed in range(first, first + CHUNK):
        run = play(seed)
        assert run.outcome.distance <= (CALM if run.what.is_calm else STORMY)


@pytest.mark.parametrize("first", range(0, N_SHORT, CHUNK))
def test_a_run_that_is_over_amid_faults_just_ends(first: int) -> None:
    for seed in range(first, first + CHUNK):
        assert play(seed, is_short=True).n_ended > 0


@pytest.mark.parametrize("seed", [117, 125, 256], ids=["batches", "all samples", "batches on a star"])
def test_where_a_newcomer_comes_from_moves_nobody(seed: int) -> None:
    """With batches it must not go on with what these told of the gradient there: they tell it from step to step."""
    what = scenario(seed)
    (join,) = what.deeds
    assert join.kind == "join"
    elsewhere = tuple(w + 100.0 * (i == join.who) for i, w in enumerate(what.initial))
    run = asynchronous.Run(replace(what, initial=elsewhere))
    check, farthest = run.check, [0.0]

    def checked(peer: asynchronous.Peer) -> None:
        check(peer)
        if peer.me != join.who and peer.state is not None:
            farthest.append(float(np.abs(peer.state.w).max()))

    run.check = checked  # type: ignore[method-assign]
    run.play()
    assert max(farthest) < 5.0


@pytest.mark.parametrize("seed", [16, 28, 282], ids=["batches", "lasso", "all samples"])
def test_where_one_begins_anew_that_has_no_checkpoint_moves_nobody(seed: int) -> None:
    what = scenario(seed)
    run = asynchronous.Run(what)
    start, check, farthest = run.start, run.check, [0.0]

    def started(i: PeerId, newest: bool = False) -> None:
        again, run.disk[i] = run.starts[i] > 0, []
        start(i, newest)
        if again:
            run.peers[i].what = replace(what, initial=tuple(w + 100.0 for w in what.initial))

    def checked(peer: asynchronous.Peer) -> None:
        check(peer)
        if run.starts[peer.me] == 1 and peer.state is not None:
            farthest.append(float(np.abs(peer.state.w).max()))

    run.start = started  # type: ignore[method-assign]
    run.check = checked  # type: ignore[method-assign]
    run.play()
    assert max(farthest) < 5.0


def test_the_seeds_cover_what_they_are_for() -> None:
    """Else a change of the generator could make the test above easy without anybody noticing."""
    runs = [scenario(seed) for seed in SEEDS]
    kinds = Counter(type(run.problems[0].surrogate).__name__ for run in runs)
    kinds.update(type(run.problems[0].regularizer).__name__ for run in runs)
    kinds.update(f"{run.outlets.schedule}, directed {run.outlets.directed}" for run in runs)
    kinds.update(run.outlets.graph for run in runs)
    kinds.update(f"loss {run.weather.loss}" for run in runs)
    expected = ["Full", "Partial", "L2", "L1", "NoRegularizer", "loss 0.0", "loss 0.1", "loss 0.4"]
    expected += ["ring", "complete", "star", "grid", "exponential", "erdos-renyi"]
    schedules = ("static", "random-links", "matchings", "one-peer-exponential")
    expected += [f"{schedule}, directed {directed}" for schedule in schedules for directed in (True, False)]
    assert all(kinds[kind] >= 2 for kind in expected), kinds
    deeds = Counter(deed.kind for run in runs for deed in run.deeds)
    assert all(deeds[kind] >= 9 for kind in ("crash", "join", "leave", "loss", "return")), deeds
    assert sum(run.is_calm for run in runs) >= 2
    assert sum(run.slow is not None for run in runs) >= 6
    weathers = [run.weather for run in runs]
    for spells in ("partitions", "cuts", "stops"):
        assert sum(len(getattr(weather, spells)) for weather in weathers) >= 12, spells
    for sometimes in ("corrupt", "duplicate", "late", "narrow"):
        assert sum(getattr(weather, sometimes) > 0.0 for weather in weathers) >= 12, sometimes
    assert sum(weather.reliable for weather in weathers) >= 12


def test_the_optimum_is_that_of_all_data_together() -> None:
    """Where the gradient of G + r is zero; and agents alone have others."""
    what = next(run for run in map(scenario, SEEDS) if isinstance(run.problems[0].regularizer, L2))
    problems = list(asynchronous.Run(what).final.values())
    w = optimum(problems)
    slope = sum(problem.gradient(w) for problem in problems) + problems[0].regularizer.gradient(w)
    assert np.abs(slope).max() < 1e-13
    assert all(isinstance(problem.data.loss, Squared) for problem in problems)
    assert np.abs(optimum(problems[:1]) - w).max() > 0.01


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


CALM_SEED = first_of(lambda run: run.is_calm and run.n_agents == 3 and run.outlets.schedule == "static")
LOSSY_SEED = first_of(lambda run: run.weather.loss == 0.4 and not run.deeds)
CROSSING_SEED = first_of(
    lambda run: run.weather.reorder and run.weather.delay >= 0.1 and not run.deeds and run.n_agents == 4
)
CRASHING_SEED = first_of(lambda run: [deed.kind for deed in run.deeds] == ["crash", "crash"])
LOSING_SEED = first_of(lambda run: any(deed.kind == "loss" for deed in run.deeds) and run.left == (0, 1))
RETURNING_SEED = first_of(lambda run: {"loss", "return"} <= {deed.kind for deed in run.deeds} and run.n_agents == 3)
FORGOTTEN_SEED = first_of(lambda run: {"loss", "return"} <= {deed.kind for deed in run.deeds} and run.n_agents == 4)
GARBLED_SEED = first_of(lambda run: run.weather.corrupt == 0.2 and not run.weather.sealed)


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
    return FLOW(flows, j).changed(stamp=(0, flows.counter))


def takes_the_last_word(membership: Membership, view: View, now: float) -> list[int]:
    """Whatever was said last about a peer counts."""
    news = RECEIVE(membership, view, now)
    for j, standing in view.standings.items():
        if j != membership.me:
            membership._put(j, standing)
    return news


def stays_away(membership: Membership, theirs: Standing) -> None:
    """Who is taken for lost does not say that it is back."""


def loses_nobody(membership: Membership, j: int, now: float) -> bool:
    """Who is silent stays a member."""
    return False


def knocks_nowhere(assembly: Assembly, now: float) -> tuple[int, ...]:
    """Nobody looks for those that have gone."""
    return ()


def only_members(assembly: Assembly) -> frozenset[int]:
    """No connection but to those that are members."""
    return frozenset(assembly.outlets.out_neighbors(assembly.membership.members, assembly.me))


ABSORB, PUSH, FLOW, RECEIVE = Flows.absorb, Flows.push, Flows.flow, Membership.receive

MISTAKES = {
    "absorbs twice": (Flows, "absorb", absorbs_twice, CALM_SEED, r"\(17\) is broken"),
    "tracks nothing": (Flows, "track", tracks_nothing, CALM_SEED, r"\(17\) is broken"),
    "pushes and keeps": (Flows, "push", pushes_and_keeps, CALM_SEED, r"\(17\) is broken"),
    "sends increments": (Flows, "flow", sends_increments, LOSSY_SEED, r"\(17\) is broken"),
    "takes stale flows": (Flows, "receive", takes_stale_ones, CROSSING_SEED, "goes back to"),
    "forgets its lives": (Flows, "flow", forgets_lives, CRASHING_SEED, "newer than all before it was refused"),
    "takes the last word": (Membership, "receive", takes_the_last_word, FORGOTTEN_SEED, "goes back to generation"),
    "stays away": (Membership, "_hear_of_myself", stays_away, RETURNING_SEED, "it is .* from the optimum"),
    "loses nobody": (Membership, "_is_lost", loses_nobody, LOSING_SEED, "it is .* from the optimum"),
}
"""What a mistake is called, where and what it is, a seed that it breaks, and how it is found."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_machine_with_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """And the failure names its seed and the command that replays it."""
    where, name, wrong, seed, found = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    monkeypatch.setattr(asynchronous, "MAX_WAKINGS", 1500)
    command = rf"python -m tests\.simulate --mode async --seed {seed}$"
    with pytest.raises(AssertionError, match=rf"seed {seed}: (.|\n)*{command}") as failure:
        play(seed)
    failure.match(found)


def test_an_objective_that_is_not_tracked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = waking.observe

    def blind(state: Any, mass: Any, n_agents: int) -> Any:
        seen = observe(state, mass, n_agents)
        return None if seen is None else seen.changed(objective=state.value)

    monkeypatch.setattr(waking, "observe", blind)
    with pytest.raises(AssertionError, match="takes G for"):
        play(CALM_SEED)


def test_a_broken_message_that_is_taken_for_a_whole_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FLOW", float("inf"))
    with pytest.raises(AssertionError, match="taken for a whole one"):
        play(GARBLED_SEED)


def test_halves_that_never_find_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assembly, "receivers", property(only_members))
    monkeypatch.setattr(Assembly, "knocks_at", knocks_nowhere)
    monkeypatch.setattr(asynchronous, "MAX_WAKINGS", 1500)
    with pytest.raises(AssertionError, match=r"it is .* from the optimum"):
        play(RETURNING_SEED)


# ---- rounding ------------------------------------------------------------------------------


def test_a_long_run_loses_nothing_where_plain_sums_lose_more_and_more() -> None:
    """Relative, of (17); `python -m tests.rounding --pushes 1000000` goes on for longer."""
    exact, plain = drift(20_000)
    assert exact < 1e-20
    assert plain > 1e-13
