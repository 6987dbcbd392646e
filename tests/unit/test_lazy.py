"""Regimes of experiments: who is trained, what is computed once, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import config, learning, settings, summary, theory
from peer.arrays import Layout, Matrix
from peer.errors import ConfigError
from peer.frameworks.foreign import Foreign
from peer.learning import Initial
from peer.optim import frozen
from peer.optim.blocks import equal
from peer.optim.chains import mlp
from peer.optim.inverses import Inverse, cholesky
from peer.optim.losses import Softmax, Squared
from peer.optim.maps import Blocks, Map, gram_of, is_direct
from peer.optim.models import Model, Pass
from peer.optim.regimes import Linear, Restricted, everything, last, named, network_of
from peer.optim.regularizers import L2
from peer.optim.surrogates import Data, Partial
from peer.problem import Problem
from peer.settings import Experiment
from tests import quadratic
from tests.instances import loss_of, parameters_of

NETWORK = mlp((3, 4, 2), "tanh")
NAMES = tuple(name for name, _ in NETWORK.layout.shapes)


def experiment(**tree: Any) -> Experiment:
    return settings.from_tree({"data": {"path": "peer-{id}.npz"}, "model": {"hidden": [4]}} | tree)


def model_of(initial: Initial | None = None, **regime: Any) -> Model:
    return learning.trained_of(experiment(regime=regime), NETWORK, initial or Initial("", {}))


def test_full_is_the_network_itself() -> None:
    assert model_of() is NETWORK
    assert model_of(kind="auto") is NETWORK
    assert model_of(relinearize_every=3) is NETWORK
    assert model_of(trainable=["layers.0", "layers.1"]) is NETWORK


def test_the_words_are_short_for_what_is_trained_and_how_often_it_is_linearized() -> None:
    tangent, features = model_of(kind="neural-tangent"), model_of(kind="random-features")
    by_hand = model_of(trainable=["layers.1"], relinearize_every=0)
    assert isinstance(tangent, Linear)
    assert tangent.network is NETWORK
    for model in (features, by_hand):
        assert isinstance(model, Linear)
        assert model.layout == mlp((4, 2), "tanh").layout.__class__(NETWORK.layout.shapes[2:])
        np.testing.assert_array_equal(model.anchor, tangent.anchor[-10:])


def test_parts_and_layers_are_meant_by_name() -> None:
    assert named(NETWORK.layout, ["layers.1"]) == NAMES[2:]
    assert named(NETWORK.layout, ["layers.1.bias", "layers.0.weight"]) == (NAMES[0], NAMES[3])
    assert last(NETWORK.layout) == NAMES[2:]
    with pytest.raises(LookupError, match=r"layers\.10"):
        named(mlp((1,) * 2, "tanh").layout, ["layers.0", "layers.10"])
    with pytest.raises(ConfigError, match=r"regime\.trainable: expected parts of layers\.0\.weight.*found layers\.2"):
        model_of(trainable=["layers.2"])


def test_which_layer_of_the_users_own_network_is_the_last_is_said_by_name() -> None:
    layout, start = Layout((("head.weight", (1, 4)), ("hidden.weight", (4, 3)))), np.arange(16.0)
    own = Foreign("nets:f", Path(), None, (3,), 1, layout, np.full(16, -1), start)  # type: ignore[arg-type]
    tree: dict[str, Any] = {"model": {"python": "nets:f"}}
    with pytest.raises(ConfigError, match=r"^regime\.kind: .* not known of nets:f .*; found 'random-features'$"):
        learning.trained_of(experiment(regime={"kind": "random-features"}, **tree), own, Initial("", {}))
    by_name = experiment(regime={"trainable": ["head"], "relinearize_every": 0}, **tree)
    model = learning.trained_of(by_name, own, Initial("", {}))
    assert isinstance(model, Linear)
    assert model.layout.shapes == layout.shapes[:1]
    chain = learning.trained_of(experiment(regime={"kind": "random-features"}, **tree), NETWORK, Initial("", {}))
    assert chain.layout.shapes == NETWORK.layout.shapes[2:], "a chain of the user's own has an order"


def test_the_start_is_drawn_as_without_a_regime_and_the_same_for_all() -> None:
    plain = Initial("", {}).vector(NETWORK, 0, L2(np.zeros(26)))
    for regime in ({"trainable": ["layers.1"]}, {"kind": "neural-tangent"}, {"kind": "random-features"}):
        model = model_of(**regime)
        w = Initial("", {}).vector(model, 0, L2(np.zeros(model.layout.size)))
        whole = everything(model, w)
        np.testing.assert_array_equal(NETWORK.layout.flatten(whole), plain)


def test_fixed_parts_and_anchors_come_from_the_file() -> None:
    rng = np.random.default_rng(1)
    parts = NETWORK.layout.unflatten(parameters_of(rng, NETWORK))
    model = model_of(Initial("initial.npz", parts), kind="random-features")
    assert isinstance(model, Linear)
    for name, part in everything(model, np.zeros(10)).items():
        np.testing.assert_array_equal(part, parts[name] if name in NAMES[:2] else 0.0 * parts[name])
    with pytest.raises(ConfigError, match=r"model\.initial: initial\.npz: array 'layers\.0\.weight'.*is missing"):
        model_of(Initial("initial.npz", {"layers.1.weight": parts["layers.1.weight"]}), trainable=["layers.1"])


def test_features_are_computed_once() -> None:
    """Where a suffix of a chain is trained, its inputs are what the layers before it make of the samples."""
    rng = np.random.default_rng(2)
    start, x = parameters_of(rng, NETWORK), rng.standard_normal((5, 3))
    model = Restricted(NETWORK, NAMES[2:], start)
    assert model.inputs(x).shape == (5, 4)
    w = rng.standard_normal(10)
    np.testing.assert_array_equal(
        model.at(w, model.inputs(x)).outputs, NETWORK.at(np.concatenate([start[:16], w]), x).outputs
    )
    first = Restricted(NETWORK, NAMES[:1], start)
    assert first.inputs(x).shape == (5, 3)
    assert network_of(first) == NETWORK


class Counting:
    """A network that counts its passes."""

    def __init__(self, network: Model) -> None:
        self.network, self.n_passes = network, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def at(self, w: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> Pass:
        self.n_passes += 1
        return self.network.at(w, x)


def test_a_linearized_network_is_passed_once_and_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, network = np.random.default_rng(3), Counting(NETWORK)
    start = parameters_of(rng, NETWORK)
    model = Linear(network, start, 100)
    made: list[str] = []

    def gram(weight: float, roots: Blocks | None, jacobian: Map) -> Matrix:
        made.append("gram")
        return gram_of(weight, roots, jacobian)

    def factors(matrix: Matrix) -> Inverse:
        made.append("factors")
        return cholesky(matrix)

    monkeypatch.setattr(frozen, "gram_of", gram)
    monkeypatch.setattr(frozen, "cholesky", factors)
    data = Data(model, rng.standard_normal((30, 3)), Squared(rng.standard_normal((30, 2))), 1.0 / 30.0)
    problem = Problem(data, L2(np.full(26, 0.1)), Partial(0.5, 3.0), 1e-12)
    for _ in range(5):
        w = start + rng.standard_normal(26)
        problem.best_response(w, problem.gradient(w), rng.standard_normal(26))
        problem.value(w)
    assert network.n_passes == 1
    assert made == ["gram", "factors"]
    for tau in (0.3, 0.2, 0.1):
        problem.best_response(w, problem.gradient(w), rng.standard_normal(26), tau)
    assert made == ["gram", "factors", "gram"], "with eigenvalues no tau takes factors"


@pytest.mark.parametrize("m", [4, 30])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_blocks_keep_what_is_theirs(loss: str, m: int) -> None:
    """Blocks too long for stacks, in primal and dual form: what is kept gives what is computed anew in each round."""
    rng = np.random.default_rng(8)
    start = parameters_of(rng, NETWORK)
    model = Linear(NETWORK, start, 100)
    kept = Data(model, rng.standard_normal((m, 3)), loss_of(rng, loss, m, 2), 1.0 / m)
    anew = replace(kept, model=Counting(model))
    assert anew.frozen is None
    for tau in (0.5, 0.2):
        w, pi = start + rng.standard_normal(26), rng.standard_normal(26)
        found = []
        for data in (kept, anew):
            problem = Problem(data, L2(np.full(26, 0.1)), Partial(tau, 3.0), 1e-13, equal(26, 2))
            found.append(problem.best_response(w, problem.gradient(w), pi))
        assert found[0].method == found[1].method
        np.testing.assert_allclose(found[0].w, found[1].w, rtol=0.0, atol=1e-11)


def test_a_linearized_network_makes_a_convex_problem() -> None:
    """And at its anchor its gradient is the network's, to the last bit."""
    rng = np.random.default_rng(4)
    start = parameters_of(rng, NETWORK)
    data = Data(NETWORK, rng.standard_normal((6, 3)), Softmax(rng.integers(0, 2, 6)), 1.0).linearized(start, 100)
    a, b = start + rng.standard_normal((2, 26))
    middle = data.value(0.5 * (a + b))
    assert middle <= 0.5 * (data.value(a) + data.value(b))
    here = NETWORK.at(start, data.inputs)
    np.testing.assert_array_equal(data.gradient(start), here.vjp(data.loss.gradient(here.outputs)))


def test_what_stays_longer_is_worth_more_at_its_beginning() -> None:
    """A Jacobian that conjugate gradients would not form for one round is factored for a hundred."""
    rng, network = np.random.default_rng(5), mlp((64, 50, 10), "tanh")
    data = Data(network, rng.standard_normal((180, 64)), Squared(rng.standard_normal((180, 10))), 1.0)
    w = network.initial(rng)
    for lasts, is_factored in ((1, False), (100, True)):
        kept = Data(Linear(network, w, lasts), data.inputs, data.loss, 1.0).frozen
        assert kept is not None
        assert is_direct(kept.whole.jacobian) == is_factored


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"regime": {"kind": "lazy"}}, r"regime\.kind: expected one of full, neural-tangent"),
        ({"regime": {"relinearize_every": -1}}, r"regime\.relinearize_every: expected a number of rounds"),
        (
            {"regime": {"kind": "neural-tangent", "relinearize_every": 5}},
            r"regime\.relinearize_every: expected the def",
        ),
        ({"regime": {"kind": "auto", "relinearize_every": 0}}, r"regime\.relinearize_every: expected the default"),
        ({"regime": {"kind": "random-features", "trainable": ["layers.0"]}}, r"regime\.trainable: expected \[\]"),
        ({"regime": {"kind": "auto"}, "surrogate": {"batch": 5}}, r"surrogate\.batch: expected 0 with regime"),
        ({"regime": {"relinearize_every": 3}, "run": {"tolerance": 1e-3}}, r"run\.tolerance: expected 0 with relin"),
    ],
)
def test_contradictions_are_refused(tree: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        experiment(**tree)


def test_peers_whose_fixed_parts_differ_find_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for peer in range(2):
        np.savez(tmp_path / f"peer-{peer}.npz", x=rng.standard_normal((4, 3)), y=rng.integers(0, 2, 4))
        parts = mlp((3, 4, 1), "tanh").layout.unflatten(parameters_of(rng, mlp((3, 4, 1), "tanh")))
        np.savez(tmp_path / f"initial-{peer}.npz", **parts)  # type: ignore[arg-type]
    tree = {
        "peers": 2,
        "data": {"path": str(tmp_path / "peer-{id}.npz")},
        "model": {"hidden": [4], "initial": str(tmp_path / "initial-{id}.npz")},
    }
    config.rehearse(settings.from_tree(tree))
    for regime in ({"kind": "neural-tangent"}, {"trainable": ["layers.1"]}):
        found = settings.from_tree(tree | {"regime": regime})
        with pytest.raises(ConfigError, match=r"model\.initial: .*initial-.id.\.npz: peer 1: expected the same"):
            config.rehearse(found)
        shard = learning.shard_of(found, 0)
        one, other = (config.common_settings(found, config.ground(found), shard, peer) for peer in range(2))
        assert {key for key in one if one[key] != other[key]} == {"first parameters"}
    own, theirs = (dict(np.load(tmp_path / f"initial-{peer}.npz")) for peer in range(2))
    np.savez(tmp_path / "initial-1.npz", **{k: (theirs if k.startswith("layers.1") else own)[k] for k in own})
    config.rehearse(settings.from_tree(tree | {"regime": {"trainable": ["layers.1"]}}))  # what is trained may differ


@pytest.mark.parametrize("kind", ["full", "random-features", "neural-tangent"])
def test_a_summary_knows_the_risk_of_a_quadratic_network_on_data_of_a_known_law(kind: str) -> None:
    """Of what was trained: the network, or the one that is linearized at the start."""
    tree = {
        "data": {"dataset": "quadratic", "dimension": 3},
        "model": {"layers": [{"kind": "quadratic", "width": 2}, {"kind": "dense"}]},
        "regime": {"kind": kind},
    }
    found, network = settings.from_tree(tree), quadratic.network()
    model = learning.trained_of(found, network, Initial("", {}))
    rng = np.random.default_rng(7)
    start = everything(model, Initial("", {}).vector(model, found.seed, L2(np.zeros(model.layout.size))))
    w = rng.standard_normal(model.layout.size)
    assert summary.is_quadratic(model)
    risk = summary.population_risk(found, model, w, start)
    law, m = theory.law_of(found), 400_000
    x, y = law.drawn(rng, m)
    errors = (model.at(w, model.inputs(x)).outputs[:, 0] - y) ** 2 / law.variance
    assert abs(errors.mean() - risk) < 5.0 * errors.std() / np.sqrt(m)
    assert not summary.is_quadratic(NETWORK)
