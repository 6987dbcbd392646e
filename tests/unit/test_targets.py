"""From the targets and labels of a shard to the model's outputs and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import learning, settings
from peer.errors import ConfigError
from peer.optim.losses import Huber, Logistic, Loss, Softmax, Squared, SquaredHinge, Weighted
from peer.settings import Experiment
from peer.shards import Shard

X = np.zeros((4, 2))
LABELS = np.array([0, 2, 1, 2])
NOTHING = learning.Initial("", {})


def experiment(loss: str, **objective: Any) -> Experiment:
    return settings.from_tree({"data": {"path": "{id}"}, "objective": {"loss": loss} | objective})


def shard(targets: Any = None, labels: Any = None, codes: Any = None, weights: Any = None) -> Shard:
    return Shard(Path("peer-1.npz"), X, targets, labels, codes, weights)


def made(loss: str, of: Shard, **objective: Any) -> tuple[int, Loss]:
    """The model's outputs, and the loss."""
    found = experiment(loss, **objective)
    q = learning.model_of(found, of, of.n_classes, NOTHING).n_outputs
    return q, learning.loss_of(found, of, q)


@pytest.mark.parametrize(("name", "kind"), [("squared", Squared), ("huber", Huber)])
def test_losses_of_real_targets_code_labels(name: str, kind: type[Squared] | type[Huber]) -> None:
    targets = np.arange(8.0).reshape(4, 2)
    for of, q, expected in (
        (shard(targets), 2, targets),
        (shard(targets, LABELS), 2, targets),
        (shard(None, LABELS), 3, np.eye(3)[LABELS]),
        (shard(None, LABELS % 2), 1, (LABELS % 2)[:, None]),
    ):
        found, loss = made(name, of)
        assert (found, type(loss)) == (q, kind)
        np.testing.assert_array_equal(loss.targets, expected)  # type: ignore[attr-defined]


def test_labels_have_signs_for_a_squared_hinge() -> None:
    for of in (shard(None, LABELS), shard(np.eye(3)[LABELS], LABELS)):
        q, loss = made("squared_hinge", of)
        assert isinstance(loss, SquaredHinge)
        assert q == 3
        np.testing.assert_array_equal(loss.signs, 2.0 * np.eye(3)[LABELS] - 1.0)
    q, loss = made("squared_hinge", shard(None, LABELS % 2))
    assert isinstance(loss, SquaredHinge)
    assert q == 1
    np.testing.assert_array_equal(loss.signs[:, 0], 2.0 * (LABELS % 2) - 1.0)


def test_delta_is_that_of_the_settings() -> None:
    _, loss = made("huber", shard(X), huber_delta=0.25)
    assert isinstance(loss, Huber)
    assert loss.delta == 0.25
    assert settings.from_tree({"data": {"path": "{id}"}}).objective.huber_delta == 1.345


@pytest.mark.parametrize(
    ("name", "kind"),
    [("squared", Squared), ("huber", Huber), ("squared_hinge", SquaredHinge), ("cross_entropy", Softmax)],
)
def test_weights_of_samples_wrap_every_loss(name: str, kind: type[Loss]) -> None:
    weights = np.array([0.0, 1.0, 2.0, 0.5])
    _, loss = made(name, shard(None, LABELS, weights=weights))
    assert isinstance(loss, Weighted)
    assert isinstance(loss.loss, kind)
    assert loss.weights is weights
    _, plain = made("cross_entropy", shard(None, LABELS % 2))
    assert isinstance(plain, Logistic)


@pytest.mark.parametrize("name", ["squared_hinge", "cross_entropy"])
def test_losses_of_labels_refuse_real_targets(name: str) -> None:
    found = experiment(name)
    for act in (
        lambda: learning.model_of(found, shard(X), 0, NOTHING),
        lambda: learning.loss_of(found, shard(X), 2),
    ):
        with pytest.raises(ConfigError, match=rf"{name} needs integer labels; peer-1\.npz has real targets") as refusal:
            act()
        assert refusal.value.key == "objective.loss"


@pytest.mark.parametrize("name", settings.CHOICES["objective.loss"])
def test_labels_are_within_the_outputs(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected labels in 0\.\.1 for 1 outputs, found 2") as refusal:
        learning.loss_of(experiment(name), shard(None, LABELS), 1)
    assert refusal.value.key == "data.path"


@pytest.mark.parametrize("name", settings.REAL_TARGETS)
def test_targets_have_as_many_columns_as_the_model_outputs(name: str) -> None:
    with pytest.raises(ConfigError, match="y with the model's 3 columns, found 2"):
        learning.loss_of(experiment(name), shard(X), 3)


def test_codes_have_the_width_of_the_outputs() -> None:
    with pytest.raises(ConfigError, match=r"data.path: .*expected codes with the model's 3 columns, found 1"):
        made("squared", shard(None, LABELS, codes=np.arange(3.0)[:, None]))


@pytest.mark.parametrize(
    ("layers", "q"),
    [
        (
            [
                {"kind": "convolution", "channels": 3, "size": 1},
                "layer-normalization",
                {"kind": "max-pooling", "size": 2},
            ],
            3,
        ),
        ([{"kind": "dense", "width": 5}, "tanh", {"kind": "residual", "layers": ["layer-normalization"]}], 5),
    ],
)
def test_given_parameters_say_the_outputs_if_a_dense_layer_leads_to_them(layers: list[Any], q: int) -> None:
    """A normalization has as many weights as entries, and these may be an image that is pooled."""
    image = [] if q == 5 else [1, 2, 2]
    found = settings.from_tree({"data": {"path": "{id}"}, "model": {"image": image, "layers": [*layers, "flatten"]}})
    of = Shard(Path("peer-1.npz"), np.zeros((4, 4)), None, LABELS, None, None)
    network = learning.network_of(found, 4, q)
    given = learning.Initial("final.npz", network.layout.unflatten(np.zeros(network.layout.size)))
    assert learning.model_of(found, of, of.n_classes, given).n_outputs == q
