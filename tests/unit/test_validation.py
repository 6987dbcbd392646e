"""Stopping on samples that are held out: the tracker by hand, verdicts on any schedule, and what is held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import config, learning, validation
from peer.agent import Mixture, Proposal, State, exchange
from peer.errors import ConfigError, SolveError
from peer.messages import Share
from peer.optim.chains import mlp
from peer.optim.losses import Squared
from peer.optim.solvers import Solution
from peer.optim.surrogates import Data
from peer.settings import Experiment, from_tree
from peer.shards import Shard
from tests.instances import F8
from tests.unit.test_stopping import schedules
from topology import Schedule, graphs
from topology.graphs import Graph
from topology.schedules import Static
from topology.weights import metropolis
from topology.windows import window_end

V = np.zeros(1)
WEIGHTS = {0: 0.5, 1: 0.25, 2: 0.25}
"""Of agent 1."""


def state(n: int, w: float = 0.0) -> State:
    return State(n, np.array([w]), V, V, 0.0, 0.0, 0.1)


def data(weight: float = 0.5) -> Data:
    """V(w) = weight/2 ((w_0 + w_1 - 1)^2 + (2 w_0 + w_1)^2)."""
    return Data(mlp((1, 1), "tanh"), np.array([[1.0], [2.0]]), Squared(np.array([[1.0], [0.0]])), weight)


def of(here: State) -> Mixture:
    return Mixture.of(here, Proposal(Solution(here.w, 0.0, 1, "by hand"), here.w))


def share(j: int, tracked: float, worst: float) -> Share:
    return Share(j, 0, 0, 0.0, V, V, validation=(tracked, worst))


def test_the_tracker_by_hand() -> None:
    w = np.array([1.0, 1.0])
    first = validation.begun(state(0).changed(w=w), data())
    assert (first.held, first.validation, first.worst) == (2.5, 2.5, 2.5)
    assert first.candidate is w
    assert validation.told(first.changed(worst=7.0)) == (2.5, 7.0)
    following = state(1).changed(w=np.array([0.0, 1.0]))
    met = {0: share(0, 4.0, 0.0), 2: share(2, 8.0, 9.0)}
    mixed = exchange(first, of(first), met, WEIGHTS, F8)
    assert mixed.worst == 9.0
    found = validation.tracked(first, following, mixed, data())
    assert (found.held, found.validation) == (0.25, 0.5 * 4.0 + 0.25 * 2.5 + 0.25 * 8.0 + 0.25 - 2.5)
    assert found.w is following.w


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_loss_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(SolveError, match="round 3: the validation loss is nan or infinite"):
        validation.begun(state(3).changed(w=np.array([value, 0.0])), data())


def judged(schedule: Schedule, x: Sequence[Sequence[float]]) -> list[list[State]]:
    """States of all agents by round, where x_i[n] = x[n][i] and w_i[n] = 10 n + i, and nobody ever stops."""
    n_rounds = len(x) - 1

    def at(n: int, i: int) -> State:
        return state(n, 10.0 * n + i).changed(validation=x[n][i])

    states = [at(0, i).changed(worst=x[0][i], candidate=at(0, i).w) for i in range(schedule.n_agents)]
    history = [states]
    for n in range(n_rounds):
        shares = [share(i, *validation.told(here)) for i, here in enumerate(states)]
        met = [{j: shares[j] for j in schedule.graph(n).neighbors(i)} for i in range(schedule.n_agents)]
        mixed = [
            exchange(here, of(here), met[i], metropolis(schedule.graph(n), i), F8) for i, here in enumerate(states)
        ]
        states = [validation.watched(here, at(n + 1, i), mixed[i], schedule, n_rounds) for i, here in enumerate(states)]
        history.append(states)
    return history


@settings(deadline=None, max_examples=60)
@given(schedules(), st.integers(0, 10**6))
def test_all_keep_the_candidate_of_the_least_verdict(schedule: Schedule, seed: int) -> None:
    """And know how long it has been the least, in every round, on any schedule."""
    n_rounds = 30
    x = np.random.default_rng(seed).normal(size=(n_rounds + 1, schedule.n_agents))
    history = judged(schedule, x.tolist())
    begin, verdicts = 0, list[tuple[float, int]]()
    expected: tuple[float, int, int] = (math.inf, 0, 0)
    for n, states in enumerate(history):
        if n and window_end(schedule, begin, n_rounds) == n:
            verdicts.append((float(x[begin].max()), begin))
            best, best_n = min(verdicts)
            expected, begin = (best, best_n, begin - best_n), n
        assert {(here.best, here.best_n, here.waited) for here in states} == {expected}
        for i, here in enumerate(states):
            wanted = 10.0 * (expected[1] if verdicts else n) + i
            assert validation.result(here).tolist() == [wanted]


def test_no_patience_is_endless_and_one_round_is_short() -> None:
    """Of one agent alone, whose windows are rounds: V = 3, 2, 2, 2, 1."""
    history = judged(Static(Graph(1, frozenset())), [[3.0], [2.0], [2.0], [2.0], [1.0], [1.0]])
    assert [here.waited for (here,) in history] == [0, 0, 0, 1, 2, 0]
    assert [n for n, (here,) in enumerate(history) if validation.is_over(here, 2)] == [4]
    assert not any(validation.is_over(here, 0) for (here,) in history)
    assert history[4][0].kept.tolist() == [10.0]


def test_a_verdict_comes_a_window_later() -> None:
    """On a ring of 6 word takes 3 rounds: before that nothing is kept."""
    history = judged(Static(graphs.ring(6)), [[float(i + n) for i in range(6)] for n in range(8)])
    assert [{here.best for here in states} for states in history] == [*[{math.inf}] * 3, *[{5.0}] * 5]


# ---- what is held out ----------------------------------------------------------------------


def shard_of(m: int, seed: int = 0) -> Shard:
    rng = np.random.default_rng(seed)
    x = np.arange(m, dtype=np.float64)[:, None]
    return Shard(Path("x.npz"), x, -x, np.arange(m) % 3, np.eye(3), rng.uniform(0.5, 1.0, m))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.floats(0.001, 0.9), st.integers(0, 9), st.integers(0, 9))
def test_a_split_loses_nothing(m: int, fraction: float, seed: int, peer: int) -> None:
    """Both parts have something, each sample is in one of them, with all that belongs to it, and the order is kept."""
    whole = shard_of(m)
    train = whole.split(fraction, seed, peer)
    held = train.held_out
    assert held is not None
    assert held.n_samples == min(max(1, math.floor(fraction * m + 0.5)), m - 1)
    assert sorted([*train.x[:, 0], *held.x[:, 0]]) == list(range(m))
    assert train.n_classes == whole.n_classes
    for part in (train, held):
        rows = part.x[:, 0].astype(np.intp)
        assert np.all(np.diff(rows) > 0)
        for name in ("targets", "labels", "weights"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[rows])
    again = whole.split(fraction, seed, peer)
    assert np.array_equal(again.x, train.x)


def test_peers_and_seeds_hold_out_others() -> None:
    splits = {tuple(shard_of(30).split(0.5, seed, peer).x[:, 0]) for seed in range(3) for peer in range(3)}
    assert len(splits) == 9


def test_a_single_sample_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="expected 2 samples or more, found 1") as refusal:
        shard_of(1).split(0.5, 0, 0)
    assert refusal.value.key == "data.validation_fraction"


def separate(folder: Path, **more: object) -> Experiment:
    """Two peers with 4 and 3 samples of two classes, coded, and 2 other samples each in files of their own."""
    rng = np.random.default_rng(1)
    for peer in range(2):
        codes = np.array([[-2.0], [3.0]])
        np.savez(folder / f"{peer}.npz", x=rng.normal(size=(4 - peer, 2)), y=np.arange(4 - peer) % 2, codes=codes)
        np.savez(folder / f"v-{peer:03d}.npz", x=rng.normal(size=(2, 2)), y=np.array([1, 0]))
    data = {"path": str(folder / "{id}.npz"), "validation_path": str(folder / "v-{id:03d}.npz")}
    return from_tree({"peers": 2, "data": data, "model": {"hidden": []}} | more)


def test_held_out_samples_may_be_in_files_of_their_own(tmp_path: Path) -> None:
    """All of the shard is trained on; classes are coded as there."""
    experiment = separate(tmp_path)
    assert config.rehearse(experiment).n_samples == (4, 3)
    w, model = np.array([0.5, -0.25, 1.0]), mlp((2, 1), "tanh")
    for peer in range(2):
        shard = learning.shard_of(experiment, peer)
        held = learning.held_out_of(experiment, model, shard, 7)
        assert held is not None
        x = np.load(tmp_path / f"v-{peer:03d}.npz")["x"]
        errors = 0.5 * (x @ w[:2] + 1.0 - [3.0, -2.0]) ** 2
        assert validation.loss(held, w, 0) == pytest.approx((4 - peer) / 7 * float(np.mean(errors)), rel=1e-14)


def test_peers_must_agree_whether_files_hold_samples_out(tmp_path: Path) -> None:
    """Where they are may differ."""
    with_files, elsewhere = separate(tmp_path), separate(tmp_path)
    data = msgspec.structs.replace(elsewhere.data, validation_path=f"{tmp_path}/./v-{{id:03d}}.npz")
    elsewhere = msgspec.structs.replace(elsewhere, data=data)
    without = msgspec.structs.replace(with_files, data=msgspec.structs.replace(with_files.data, validation_path=""))
    common = [
        config.common_settings(one, config.ground(one), learning.shard_of(one, 0))
        for one in (with_files, elsewhere, without)
    ]
    assert common[0] == common[1] != common[2]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        (None, "expected a file at"),
        ({"x": np.ones((2, 3)), "y": np.array([1, 0])}, "expected x with the 2 columns of"),
        ({"x": np.ones((2, 2, 3)), "y": np.array([1, 0])}, "expected x with the 2 columns of .*, found 2 x 3"),
        ({"x": np.ones((2, 2)), "y": np.array([1, 2])}, "expected labels in 0..1 for 1 outputs, found 2"),
        ({"x": np.ones((2, 2)), "y": np.ones((2, 2))}, "real targets"),
        ({"x": np.full((2, 2), np.nan), "y": np.array([1, 0])}, "expected finite numbers"),
    ],
)
def test_files_of_held_out_samples_that_cannot_be_used(
    tmp_path: Path, arrays: dict[str, np.ndarray] | None, problem: str
) -> None:
    experiment = separate(tmp_path, objective={"loss": "cross_entropy"}, model={"hidden": [], "outputs": 1})
    path = tmp_path / "v-001.npz"
    path.unlink()
    if arrays is not None:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=problem) as refusal:
        config.rehearse(experiment)
    assert refusal.value.key == "data.validation_path"
    assert str(path) in refusal.value.problem


def test_the_validation_loss_is_a_mean_with_the_weight_of_what_is_trained_on(tmp_path: Path) -> None:
    """Sum over the peers: m_i/M times the mean over what i holds out with its weights, whatever `scale` is."""
    rng = np.random.default_rng(1)
    for peer, m in enumerate((10, 6)):
        weight = np.arange(m) * peer + 1.0 - peer
        np.savez(tmp_path / f"{peer}.npz", x=rng.normal(size=(m, 1)), y=rng.normal(size=(m, 1)), weight=weight)
    experiment = from_tree(
        {
            "peers": 2,
            "data": {"path": str(tmp_path / "{id}.npz"), "validation_fraction": 0.3},
            "model": {"hidden": []},
            "objective": {"scale": "sum"},
        }
    )
    shards = [learning.shard_of(experiment, peer) for peer in range(2)]
    assert [shard.n_samples for shard in shards] == [7, 4]
    assert config.rehearse(experiment).n_samples == (7, 4)
    w, model, total, expected = np.array([0.5, -0.25]), mlp((1, 1), "tanh"), 0.0, 0.0
    for shard in shards:
        held = learning.held_out_of(experiment, model, shard, 11)
        assert held is not None
        assert shard.held_out is not None
        assert shard.held_out.targets is not None
        assert shard.held_out.weights is not None
        errors = 0.5 * (shard.held_out.x @ [[0.5]] - 0.25 - shard.held_out.targets) ** 2
        total += validation.loss(held, w, 0)
        expected += shard.n_samples / 11 * float(np.mean(shard.held_out.weights * errors[:, 0]))
    assert total == pytest.approx(expected, rel=1e-14)
