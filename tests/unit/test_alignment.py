"""The look at feedback, and the way back to backprop: by hand, and what holds for all agents whoever has gone back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from peer import agent, alignment, learning, settings, waking
from peer.agent import State
from peer.alignment import PROBE, Watch
from peer.arrays import Vector
from peer.errors import SolveError
from peer.flows import Flows
from peer.optim import feedback
from peer.optim.batches import Batches
from peer.optim.chains import Chain, mlp
from peer.optim.feedback import Feedback
from peer.optim.losses import Softmax
from peer.optim.regularizers import L2
from peer.optim.steps import Constant
from peer.optim.surrogates import Data, Full
from peer.problem import Problem
from tests.instances import exchange
from topology import Graph
from topology.graphs import ring

MODEL = mlp((6, 8, 7, 3), "tanh")


def problems_of(n_agents: int, m: int = 12, tau: float = 2.0, model: Chain = MODEL) -> list[Problem]:
    """Classes that a network can tell apart, cut among agents that share their feedback."""
    rng, q = np.random.default_rng(3), model.n_outputs
    x = rng.standard_normal((n_agents * m, 6))
    y = np.argmax(np.tanh(x @ rng.standard_normal((6, 5))) @ rng.standard_normal((5, q)), axis=1)
    way = feedback.drawn(np.random.default_rng(4), model)
    return [
        Problem(
            Data(model, x[k * m : (k + 1) * m], Softmax(y[k * m : (k + 1) * m]), 1.0 / len(x)),
            L2(np.full(model.layout.size, 1e-2)),
            Full(tau),
            1e-10,
            feedback=way,
        )
        for k in range(n_agents)
    ]


def watch_of(problem: Problem, every: int = 1, least: float = 0.5, grace: int = 1) -> Watch:
    return Watch(problem.data, every, least, grace)


def start_of(problem: Problem) -> Vector:
    model = problem.data.model
    return 0.5 * model.initial(np.random.default_rng(5))


def adverse(problem: Problem, w: Vector) -> Problem:
    """The same with feedback that leads uphill at w: minus the later weights, transposed and multiplied."""
    model = problem.data.model
    parts = list(model.layout.unflatten(w).values())
    return replace(problem, feedback=Feedback((-(parts[4] @ parts[2]).T, -parts[4].T)))


# ---- one look ------------------------------------------------------------------------------


def test_a_look_by_hand() -> None:
    """Cosines over each hidden layer, without the last one."""
    problem = problems_of(1)[0]
    w = start_of(problem)
    state = alignment.begun(problem, agent.initial(problem, w, 0.3), watch_of(problem))
    direction, gradient = problem.gradient(w), problem.data.gradient(w)
    first, second = slice(0, 6 * 8 + 8), slice(6 * 8 + 8, 6 * 8 + 8 + 8 * 7 + 7)
    expected = [
        direction[place] @ gradient[place] / np.linalg.norm(direction[place]) / np.linalg.norm(gradient[place])
        for place in (first, second)
    ]
    np.testing.assert_allclose(state.alignments, expected, rtol=0.0, atol=1e-14)
    assert (state.aligned_n, state.back_n) == (0, 0)


@pytest.mark.parametrize(("m", "size"), [(PROBE, PROBE), (PROBE + 1, PROBE), (1, 1)])
def test_a_probe_is_some_of_the_samples_by_seed_and_agent_alone(m: int, size: int) -> None:
    data = Data(MODEL, np.arange(6.0 * m).reshape(m, 6), Softmax(np.arange(m) % 3), 0.5)
    one, same, other = (alignment.probe(data, seed, 1) for seed in (7, 7, 8))
    rows = one.inputs[:, 0] / 6.0
    assert len(np.unique(rows)) == size
    assert np.array_equal(one.inputs, same.inputs)
    assert np.array_equal(one.inputs, other.inputs) == (size == m)
    outputs = np.random.default_rng(1).standard_normal((size, 3))
    assert one.loss.value(outputs) == Softmax(rows.astype(np.int64) % 3).value(outputs)


def moved(problem: Problem, state: State, watch: Watch, n: int) -> State:
    """After rounds in which nothing moves but n."""
    for _ in range(n):
        field = alignment.chosen(problem, state)
        state = alignment.watched(field, state, state.changed(n=state.n + 1), watch)
    return state


@pytest.mark.parametrize(("grace", "back_n"), [(0, 2), (1, 2), (2, 2), (3, 4), (7, 8)])
def test_an_agent_goes_back_when_grace_is_over(grace: int, back_n: int) -> None:
    """At the first look, every second round, by which so many rounds have gone by."""
    problem = problems_of(1)[0]
    problem = adverse(problem, w := start_of(problem))
    watch = watch_of(problem, every=2, least=0.0, grace=grace)
    state = alignment.begun(problem, agent.initial(problem, w, 0.3), watch)
    before = moved(problem, state, watch, back_n - 1)
    assert (before.back_n, before.gradient is state.gradient) == (0, True)
    after = moved(problem, state, watch, back_n)
    assert after.back_n == back_n
    assert np.array_equal(after.gradient, problem.data.gradient(w))
    np.testing.assert_allclose(after.y, state.y + after.gradient - state.gradient, rtol=0.0, atol=1e-15)
    assert moved(problem, after, watch, 5).back_n == back_n  # for good
    assert moved(problem, after, watch, 5).y is after.y


def test_grace_begins_anew_with_every_good_look() -> None:
    problem = problems_of(1)[0]
    w, watch = start_of(problem), watch_of(problem, least=0.0, grace=3)
    bad = adverse(problem, w)
    good = replace(bad, feedback=Feedback(tuple(-B for B in bad.feedback.matrices)))  # type: ignore[union-attr]
    state = alignment.begun(good, agent.initial(good, w, 0.3), watch)
    state = moved(bad, moved(good, moved(bad, state, watch, 2), watch, 1), watch, 2)
    assert (state.n, state.aligned_n, state.back_n) == (5, 3, 0)
    assert moved(bad, state, watch, 1).back_n == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_what_is_no_number_is_no_good_look(bad: float) -> None:
    """Whatever the threshold."""
    problem = problems_of(1)[0]
    w = start_of(problem)
    state = agent.initial(problem, w, 0.3)
    lost = replace(problem, feedback=Feedback((np.full((8, 3), bad), np.zeros((7, 3)))))
    found = moved(lost, state, watch_of(problem, least=-1.0, grace=1), 1)
    assert found.back_n == 1
    assert np.array_equal(found.gradient, problem.data.gradient(w))
    said = alignment.told(found, watch_of(problem))
    assert json.dumps(said, allow_nan=False)
    assert said["alignment"] is None


def test_feedback_that_vanishes_where_no_gradient_does_is_no_good() -> None:
    problem = problems_of(1)[0]
    nothing = replace(problem, feedback=Feedback((np.zeros((8, 3)), np.zeros((7, 3)))))
    state = agent.initial(nothing, start_of(problem), 0.3)
    found = moved(nothing, state, watch_of(problem, least=1e-9), 1)
    assert found.alignments.tolist() == [0.0, 0.0]
    assert found.back_n == 1


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_gradient_that_is_no_number_is_an_error() -> None:
    problem = problems_of(1)[0]
    state = agent.initial(problem, start_of(problem), 0.3)
    lost = state.changed(n=1, w=np.full(state.w.size, np.inf))
    with pytest.raises(SolveError, match="round 0"):
        alignment.watched(problem, state, lost, watch_of(problem))


def test_lines_of_metrics_have_the_looks() -> None:
    problem = problems_of(1)[0]
    watch = watch_of(problem, every=3)
    state = agent.initial(problem, start_of(problem), 0.3).changed(alignments=np.array([0.75, 0.5]))
    assert alignment.told(state, watch) == {"alignment": 0.5, "alignments": [0.75, 0.5]}
    assert alignment.told(state.changed(n=4), watch) == {}
    assert alignment.told(state.changed(n=6, back_n=6), watch)["alignment"] == 0.5
    assert alignment.told(state.changed(n=9, back_n=6), watch) == {}
    expected = "the least cosine of a layer's feedback and gradient is 0.5, and was never 0.6 or more since round 2"
    assert alignment.reason(state.changed(aligned_n=2), replace(watch, least=0.6)) == expected


# ---- all agents ----------------------------------------------------------------------------


def rounds(problems: Sequence[Problem], watches: Sequence[Watch], n_rounds: int) -> Iterator[list[State]]:
    starts, graphs = [start_of(problems[0])] * len(problems), [ring(len(problems)), Graph(len(problems), frozenset())]
    for states, _ in exchange(problems, starts, 0.3, Constant(), graphs, n_rounds, watches=watches):
        yield states


@pytest.mark.parametrize("batch", [0, 3])
def test_the_tracker_tracks_the_field_whoever_has_gone_back(batch: int) -> None:
    """(9), to rounding, in every round: with all by feedback, with some, and with none."""
    problems = problems_of(5)
    if batch:
        problems = [replace(g, batches=Batches(1, i, 12, batch, 4)) for i, g in enumerate(problems)]
    watches = [watch_of(g, least=2.0 if i < 3 else -2.0, grace=4 * i + 2) for i, g in enumerate(problems)]
    seen = set()
    for states in rounds(problems, watches, 20):
        fields = [alignment.chosen(g, s) for g, s in zip(problems, states, strict=True)]
        seen.add(tuple(field.feedback is None for field in fields))
        total = np.sum([state.gradient for state in states], axis=0)
        np.testing.assert_allclose(np.sum([state.y for state in states], axis=0), total, rtol=0.0, atol=1e-14)
        for state, field in zip(states, fields, strict=True):
            if not batch:
                assert np.array_equal(state.gradient, field.gradient(state.w))
    assert seen == {(k > 0, k > 1, k > 2, False, False) for k in range(4)}
    assert [state.back_n for state in states] == [2, 6, 10, 0, 0]


def test_masses_are_kept_without_rounds() -> None:
    """(17), where agents go back to backprop between two wakings."""
    problems = problems_of(3)
    watches = [watch_of(g, every=2, least=2.0, grace=grace) for g, grace in zip(problems, (4, 9, 10**9), strict=True)]
    states = [alignment.begun(g, agent.initial(g, start_of(g), 0.2), v) for g, v in zip(problems, watches, strict=True)]
    others = [tuple(j for j in range(3) if j != i) for i in range(3)]
    flows = [Flows(i, 0, others[i]) for i in range(3)]
    for i, state in enumerate(states):
        flows[i].open_epoch(1, (0, 1, 2), waking.source(state), others[i])
    for n in range(36):
        i = n % 3
        state, theirs = states[i], flows[i].absorb()
        field = alignment.chosen(problems[i], state)
        woken = waking.wake(field, state, flows[i].mass.high, theirs, 3, Constant())
        states[i] = alignment.watched(field, state, woken.state, watches[i])
        flows[i].track(waking.source(states[i]))
        flows[i].push(woken.v, others[i])
        for j in others[i]:
            if (n + j) % 4:  # some are lost
                flows[j].receive(flows[i].flow(j))
        held = np.sum([flow.mass.high for flow in flows], axis=0)
        ends = [flows[a].pushed(b) - flows[b].absorbed(a) for a in range(3) for b in others[a]]
        under_way = np.sum([end for end in ends if end.size], axis=0)
        expected = np.sum([waking.source(state) for state in states], axis=0)
        np.testing.assert_allclose(held + under_way, expected, rtol=0.0, atol=1e-13)
    assert [state.back_n for state in states] == [4, 10, 0]
    for state, problem in zip(states, problems, strict=True):
        assert np.array_equal(state.gradient, alignment.chosen(problem, state).gradient(state.w))


def test_feedback_that_leads_uphill_is_left_and_training_goes_on() -> None:
    """What the fallback is for. Later layers would learn to go along with it in the end; backprop is there by then."""
    problems = problems_of(4, tau=1.0)
    adversary = [adverse(g, start_of(g)) for g in problems]
    ends = {}
    for name, grace in (("stays", 10**9), ("goes back", 10)):
        watches = [watch_of(g, every=5, least=0.0, grace=grace) for g in adversary]
        *_, last = rounds(adversary, watches, 60)
        ends[name] = float(np.mean([state.objective for state in last]))
        assert {state.back_n for state in last} == {10 if name == "goes back" else 0}
    *_, last = rounds([replace(g, feedback=None) for g in problems], (), 60)
    best = float(np.mean([state.objective for state in last]))
    assert ends["goes back"] - best < 0.6 * (ends["stays"] - best)


def test_good_feedback_is_kept() -> None:
    """By the defaults of the settings; alignment begins low, and is learned in time."""
    problems = problems_of(4, tau=0.2)
    found = settings.from_tree(
        {"data": {"path": "{id}"}, "surrogate": {"kind": "full", "gradient": "feedback-alignment", "probe_every": 5}}
    )
    watches = [learning.watch_of(found, problem, i) for i, problem in enumerate(problems)]
    kept = [watch for watch in watches if watch is not None]
    history = list(rounds(problems, kept, 150))
    assert all(state.back_n == 0 for state in history[-1])
    assert np.mean([state.alignments for state in history[0]]) < 0.3
    assert min(state.alignments.min() for state in history[-1]) > 0.5


@pytest.mark.parametrize(("width", "some_go_back"), [(1, True), (30, False)])
def test_a_bottleneck_is_left(width: int, some_go_back: bool) -> None:
    """Of one unit the sign can be what feedback wants for some agents only: it leads the others uphill."""
    problems = problems_of(4, m=40, tau=0.5, model=mlp((6, 30, width, 8), "tanh"))
    watches = [watch_of(g, every=20, least=settings.Surrogate().fallback, grace=100) for g in problems]
    *_, last = rounds(problems, watches, 110)
    assert any(state.back_n for state in last) == some_go_back
    for state, problem in zip(last, problems, strict=True):
        assert np.array_equal(state.gradient, alignment.chosen(problem, state).gradient(state.w))


def test_without_looks_nobody_is_watched() -> None:
    surrogate = {"kind": "full", "gradient": "feedback-alignment", "probe_every": 0}
    problem = problems_of(1)[0]
    assert learning.watch_of(settings.from_tree({"data": {"path": "{id}"}, "surrogate": surrogate}), problem, 0) is None
    surrogate["probe_every"] = 10
    experiment = settings.from_tree({"data": {"path": "{id}"}, "surrogate": surrogate})
    assert learning.watch_of(experiment, replace(problem, feedback=None), 0) is None
