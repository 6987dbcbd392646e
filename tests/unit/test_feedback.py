"""Feedback alignment: where it is the gradient, that alignment is learned, and that threads change no bit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import config, learning
from peer.arrays import Matrix, Vector
from peer.errors import ConfigError
from peer.networks import network_of
from peer.optim import feedback
from peer.optim.blocks import Each
from peer.optim.chains import Chain, ChainPass, mlp
from peer.optim.feedback import Feedback
from peer.optim.layers import Activation, Dense, LayerNormalization
from peer.optim.losses import Softmax
from peer.optim.regularizers import NoRegularizer
from peer.optim.surrogates import Data, Full
from peer.problem import Problem
from peer.settings import Experiment, from_tree
from tests.instances import ACTIVATIONS, parameters_of

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)

DEEP = mlp((5, 4, 6, 3, 2), "tanh")

IMAGES = network_of(
    (),
    "",
    [
        "layer-normalization",
        {"kind": "convolution", "channels": 3, "size": 3},
        "tanh",
        {"kind": "max-pooling", "size": 2},
        "flatten",
        {"kind": "residual", "layers": [{"kind": "dense", "width": 12}, "tanh"], "step": 0.5},
        "layer-normalization",
        "gelu",
        {"kind": "dense", "width": 4},
        "softplus",
    ],
    (1, 6, 6),
    36,
    4,
)


def passed(model: Chain, seed: int, m: int = 4) -> tuple[ChainPass, Matrix, np.random.Generator]:
    """A network somewhere, and an error of its outputs."""
    rng = np.random.default_rng(seed)
    w, x = parameters_of(rng, model), rng.standard_normal((m, model.n_inputs))
    return model.at(w, x), rng.standard_normal((m, model.n_outputs)), rng


def test_segments_by_hand() -> None:
    assert feedback.segments(DEEP) == (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7))
    assert feedback.segments(Chain((Activation(2, "tanh"), Dense(2, 3), Activation(3, "relu")))) == (slice(1, 3),)
    assert feedback.segments(IMAGES) == (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 7), slice(7, 9))
    assert feedback.segments(Chain((Activation(2, "tanh"),))) == ()


@pytest.mark.parametrize("model", [DEEP, IMAGES])
def test_segments_hold_all_parameters_once(model: Chain) -> None:
    everywhere = np.concatenate([np.arange(model.layout.size)[place] for place in feedback.places(model)])
    assert np.array_equal(everywhere, np.arange(model.layout.size))


def test_a_direction_by_hand() -> None:
    """Delta a_k = (B_k e) * f'(a_k) of a dense layer, and its products with what went into it."""
    here, e, rng = passed(mlp((3, 4, 2), "tanh"), 1)
    B = rng.standard_normal((4, 2))
    found = here.chain.layout.unflatten(Feedback((B,)).direction(here, e))
    x, hidden = here.passed[0].a, here.passed[1].outputs  # type: ignore[attr-defined]
    delta = (e @ B.T) * (1.0 - hidden**2)
    expected = [delta.T @ x, delta.sum(axis=0), e.T @ hidden, e.sum(axis=0)]
    for part, by_hand in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(part, by_hand, rtol=0.0, atol=1e-14 * np.abs(by_hand).max())


@pytest.mark.parametrize("model", [DEEP, IMAGES])
@few
@given(seed=seeds)
def test_the_last_layer_is_exact(model: Chain, seed: int) -> None:
    """To the last bit, whatever the feedback."""
    here, e, rng = passed(model, seed)
    place = feedback.places(model)[-1]
    assert np.array_equal(feedback.drawn(rng, model).direction(here, e)[place], here.vjp(e)[place])


@few
@given(seed=seeds, widths=st.lists(st.integers(1, 6), min_size=3, max_size=6))
def test_a_linear_network_with_the_later_weights_as_feedback_has_its_gradient(seed: int, widths: list[int]) -> None:
    """B_k = W_(k+1)' ... W_L', the adjoint of all that follows."""
    here, e, _ = passed(Chain(tuple(Dense(*pair) for pair in pairwise(widths))), seed)
    parts = here.chain.layout.unflatten(here.w)
    weights = [part for name, part in parts.items() if name.endswith("weight")]
    matrices = [weights[-1].T]
    for W in weights[-2:0:-1]:
        matrices.insert(0, W.T @ matrices[0])
    gradient = here.vjp(e)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(Feedback(tuple(matrices)).direction(here, e), gradient, rtol=0.0, atol=1e-14 * scale)


@few
@given(seed=seeds, m=st.integers(1, 5))
def test_a_direction_is_linear_in_the_error_and_additive_over_samples(seed: int, m: int) -> None:
    """So directions of all agents, which share the feedback, add up to that of all samples together."""
    here, e, rng = passed(IMAGES, seed, m)
    F, other = feedback.drawn(rng, IMAGES), rng.standard_normal(e.shape)
    whole, x = F.direction(here, e), rng.standard_normal((m, 36))
    scale = 1e-12 * max(1.0, float(np.abs(whole).max()))
    both = F.direction(here, e + other)
    np.testing.assert_allclose(both, whole + F.direction(here, other), rtol=0.0, atol=10.0 * scale)
    alone = [F.direction(IMAGES.at(here.w, x[k : k + 1]), e[k : k + 1]) for k in range(m)]
    together = F.direction(IMAGES.at(here.w, x), e)
    np.testing.assert_allclose(together, np.sum(alone, axis=0), rtol=0.0, atol=10.0 * scale * m)


@pytest.mark.parametrize("model", [DEEP, IMAGES])
@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
def test_threads_change_no_bit(model: Chain, n_threads: int) -> None:
    here, e, rng = passed(model, 3, 50)
    F = feedback.drawn(rng, model)
    with ThreadPoolExecutor(n_threads) as pool:

        def each(function, items):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            return list(pool.map(function, items))

        assert np.array_equal(F.direction(here, e, each), F.direction(here, e))


def test_segments_need_no_order() -> None:
    here, e, rng = passed(IMAGES, 3)
    F = feedback.drawn(rng, IMAGES)

    def backwards(function, items):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        return [function(item) for item in reversed(items)]

    each: Each = backwards
    assert np.array_equal(F.direction(here, e, each), F.direction(here, e))


def test_feedback_is_drawn_as_the_source_says() -> None:
    """N(0, 1)/sqrt(width q) in the end: slices of one matrix, of which each knows the seed, its width and q alone."""
    model = mlp((3, 50, 400, 100, 10), "tanh")
    matrices = feedback.drawn(np.random.default_rng(4), model).matrices
    assert [B.shape for B in matrices] == [(50, 10), (400, 10), (100, 10)]
    for B in matrices:
        deviation = 1.0 / np.sqrt(B.size)
        assert abs(B.mean()) < 5.0 * deviation / np.sqrt(B.size)
        assert B.std() == pytest.approx(deviation, rel=5.0 / np.sqrt(2.0 * B.size))
    np.testing.assert_allclose(matrices[0] * np.sqrt(50 / 400), matrices[1][:50], rtol=1e-14)
    other = feedback.drawn(np.random.default_rng(4), mlp((7, 100, 10), "relu")).matrices[0]
    np.testing.assert_allclose(other, matrices[2], rtol=1e-14)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 0.0], [1.0, 1.0], np.sqrt(0.5)),
        ([1e-300, 0.0], [-1e300, 0.0], -1.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [1.0, 0.0], 0.0),
        ([], [], 1.0),
    ],
)
def test_a_cosine_by_hand(one: Sequence[float], other: Sequence[float], expected: float) -> None:
    assert feedback.cosine(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_cosine_of_no_numbers_is_none(bad: float) -> None:
    assert np.isnan(feedback.cosine(np.array([1.0, bad]), np.ones(2)))


def taught(how: str, seed: int) -> Vector:
    """Alignments of a small network after training by one or the other: four classes of points in R^8."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 8))
    y = np.argmax(np.tanh(x @ rng.standard_normal((8, 6))) @ rng.standard_normal((6, 4)), axis=1)
    model = mlp((8, 30, 30, 4), "tanh")
    problem = Problem(Data(model, x, Softmax(y), 1.0 / 200), NoRegularizer(), Full(1.0), 1e-8)
    trained = replace(problem, feedback=feedback.drawn(np.random.default_rng([seed, 2]), model))
    w, step = model.initial(rng), np.zeros(model.layout.size)
    field = trained if how == "feedback" else problem
    for _ in range(300):
        step = 0.9 * step - 0.2 * (field.gradient(w) + 3e-3 * w)
        w = w + step
    return feedback.alignment(model, trained.gradient(w), problem.gradient(w))


def test_alignment_is_learned() -> None:
    """The one thing that tells feedback alignment from luck: it comes by training with feedback, and by that only."""
    found = np.mean([[taught(how, seed) for how in ("feedback", "backprop")] for seed in range(2)], axis=0)
    assert np.all(found[0] > 0.5), found
    assert np.all(np.abs(found[1]) < 0.2), found


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_of_a_problem_is_the_field(activation: str) -> None:
    rng = np.random.default_rng(8)
    model = mlp((3, 4, 3), activation)
    problem = Problem(
        Data(model, rng.standard_normal((6, 3)), Softmax(np.arange(6) % 3), 0.25), NoRegularizer(), Full(1.0), 1e-8
    )
    F, w = feedback.drawn(rng, model), parameters_of(rng, model)
    here = model.at(w, problem.data.inputs)
    field = replace(problem, feedback=F)
    assert np.array_equal(field.gradient(w), 0.25 * F.direction(here, problem.data.loss.gradient(here.outputs)))
    assert field.value(w) == problem.value(w)
    gradient, value = field.measured(w)
    assert np.array_equal(gradient, field.gradient(w))
    assert value == field.value(w)
    assert not np.array_equal(field.gradient(w), problem.gradient(w))


# ---- from settings -------------------------------------------------------------------------


def experiment(**tree: object) -> Experiment:
    surrogate = {"kind": "full", "gradient": "feedback-alignment"}
    return from_tree({"seed": 5, "peers": 4, "data": {"path": "{id}"}, "surrogate": surrogate} | tree)


def test_all_agents_have_the_same_feedback_and_other_seeds_another() -> None:
    one, same, other = (learning.feedback_of(experiment(seed=seed), DEEP) for seed in (5, 5, 6))
    assert one is not None
    assert same is not None
    assert other is not None
    for A, B, C in zip(one.matrices, same.matrices, other.matrices, strict=True):
        assert np.array_equal(A, B)
        assert not np.array_equal(A, C)
    assert learning.feedback_of(from_tree({"data": {"path": "{id}"}, "surrogate": {"kind": "full"}}), DEEP) is None


@pytest.mark.parametrize("model", [mlp((3, 2), "tanh"), Chain((LayerNormalization(3), Activation(3, "tanh")))])
def test_a_single_layer_is_refused(model: Chain) -> None:
    with pytest.raises(ConfigError) as refusal:
        learning.feedback_of(experiment(), model)
    assert refusal.value.key == "surrogate.gradient"
    assert "two or more have parameters" in str(refusal.value)


def test_a_network_that_is_no_chain_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"surrogate\.gradient: .* needs a network of layers"):
        learning.feedback_of(experiment(), object())  # type: ignore[arg-type]


def test_a_rehearsal_finds_what_would_stop_a_peer(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=np.ones((4, 2)), y=np.arange(4) % 2)
    what = experiment(peers=1, data={"path": str(tmp_path / "{id}.npz")}, objective={"loss": "cross_entropy"})
    assert config.rehearse(what).widths == (2, 10, 1)
    with pytest.raises(ConfigError, match=r"surrogate\.gradient"):
        config.rehearse(experiment(peers=1, data={"path": str(tmp_path / "{id}.npz")}, model={"hidden": []}))
