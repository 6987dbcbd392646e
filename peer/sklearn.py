"""Estimators for scikit-learn: agents that train one network, all in this process, see `peer.simulation`.

What comes of a fit depends on the samples and their weights alone: not on their order, nor on whether a sample is there
twice or has weight 2. For equal samples are put together, and all are sorted, before they are shared out.

Constructors only keep what they are given, as scikit-learn asks for; all is checked by `fit`, with the names and errors
of the experiment file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from peer import config, settings
from peer.arrays import Labels, Matrix, Vector
from peer.data import Cut, classes_of
from peer.errors import ConfigError
from peer.settings import Experiment
from peer.shards import Shard
from peer.simulation import Agents
from peer.trained import Network

Seed: TypeAlias = int | np.random.RandomState | None
"""As scikit-learn takes it."""

HERE: Final = Path("samples")
"""Where samples are from, in errors."""

INSTEAD: Final = {
    "peers": "n_agents instead",
    "objective.loss": "loss instead",
    "model.outputs": "what y says",
    **dict.fromkeys(("data.dataset", "data.path", "data.test_path", "data.validation_path"), "what `fit` is given"),
}
"""Settings that have another place here."""


class _Estimator(BaseEstimator):
    """What the estimators share: their parameters, and how agents are trained."""

    def __init__(
        self,
        n_agents: int = 4,
        *,
        hidden: Sequence[int] = (10,),
        activation: str = "tanh",
        loss: str = "cross_entropy",
        regularizer: str = "l2",
        strength: float = 1e-3,
        surrogate: str = "partial",
        partition: str = "iid",
        graph: str = "ring",
        schedule: str = "static",
        rounds: int = 100,
        tol: float = 1e-4,
        standardize: bool = True,
        random_state: Seed = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.n_agents = n_agents
        self.hidden = hidden
        self.activation = activation
        self.loss = loss
        self.regularizer = regularizer
        self.strength = strength
        self.surrogate = surrogate
        self.partition = partition
        self.graph = graph
        self.schedule = schedule
        self.rounds = rounds
        self.tol = tol
        self.standardize = standardize
        self.random_state = random_state
        self.settings = settings

    def _experiment(self, n_samples: int, seed: int, n_outputs: int) -> Experiment:
        """What the parameters come to, checked as the experiment file is; agents are no more than samples."""
        n_agents = self.n_agents
        parameters: dict[str, Any] = {
            "name": type(self).__name__,
            "seed": seed,
            "peers": min(n_agents, n_samples) if isinstance(n_agents, Integral) else n_agents,
            "iterations": self.rounds,
            "data": {"path": "{id}", "partition": self.partition, "standardize": self.standardize},
            "model": {"hidden": self.hidden, "activation": self.activation, "outputs": n_outputs},
            "objective": {"loss": self.loss, "regularizer": self.regularizer, "strength": self.strength},
            "surrogate": {"kind": self.surrogate},
            "topology": {"graph": self.graph, "schedule": self.schedule},
            "run": {"tolerance": self.tol},
        }
        if not isinstance(self.settings, Mapping | None):
            raise ConfigError("settings", f"expected settings by their names, found {self.settings!r}")
        tree, given = settings.nested(parameters), settings.nested(self.settings or {})
        settings.merge(tree, given)
        for key, instead in INSTEAD.items():
            table, _, name = key.rpartition(".")
            if name in (given.get(table, {}) if table else given):
                raise ConfigError(f"settings: {key}", f"expected {instead}, found it among the settings")
        return settings.from_tree(tree)

    def _train(self, x: Matrix, y: Matrix, sample_weight: ArrayLike | None, labels: bool, n_outputs: int) -> None:
        """Share samples out and train: y (m, q) are targets, or numbers of classes (m, 1)."""
        weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        if not weights.any():
            raise ValueError("expected sample_weight that is not all 0, found nothing else")
        given = weights
        x, y, weights = _canonical(x, y, weights)
        drawn = int(check_random_state(self.random_state).randint(2**31))
        experiment = self._experiment(len(x), drawn, n_outputs)
        seed = experiment.seed  # which settings may say
        if experiment.objective.scale == "sum":  # of as many samples as there are, equal ones counted, too
            weights = weights * (given.sum() / len(weights))
        self._center, self._scale = _standards(x, weights, experiment.data.standardize)
        self._y_center, self._y_scale = _standards(y, weights, experiment.data.standardize and not labels)
        x, y = (x - self._center) / self._scale, (y - self._y_center) / self._y_scale
        shard = Shard(
            HERE,
            x,
            None if labels else y,
            y[:, 0].astype(np.int64) if labels else None,
            None,
            None if (weights == 1.0).all() else weights,
        )
        cut = Cut("", experiment.peers, seed, self.loss, experiment.data.partition, experiment.data.dirichlet_alpha)
        shards = [shard.taken(rows) for rows in cut.parts(classes_of(shard.labels, y))]
        if experiment.data.validation_fraction:
            shards = [each.split(experiment.data.validation_fraction, seed, i) for i, each in enumerate(shards)]
        agents = Agents.of(experiment, config.ground(experiment), shards)
        states, curve = agents.begun(), []
        for done in agents.play():
            states = done.after
            curve.append(agents.n_agents * float(np.mean([state.objective for state in done.before])))
        found = np.array([actor.result(state) for actor, state in zip(agents.actors, states, strict=True)])
        self.n_agents_, self.n_iter_, self.loss_curve_ = agents.n_agents, states[0].n, curve
        self.network_ = Network(agents.model, found.mean(axis=0))
        self.disagreement_ = float(np.mean(np.sum((found - self.network_.w) ** 2, axis=1)))

    def _outputs(self, X: ArrayLike) -> Matrix:
        """f(w; x), (m, q), of samples as they were given to `fit`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return self.network_.predict((x - self._center) / self._scale)


class NextClassifier(ClassifierMixin, _Estimator):
    """A classifier that agents train together, each with its own samples, by talking only to their neighbors.

    Parameters
    ----------
    n_agents : int
        Agents among whom the samples are shared out; never more than there are different samples.
    hidden : sequence of int
        Widths of the hidden layers; () is a linear model.
    activation : str
        tanh, relu, sigmoid, ...
    loss : str
        cross_entropy; squared_hinge; squared or huber, of 0/1 codes. Only the first has probabilities.
    regularizer, strength : str, float
        none, l2, l1, elastic_net or group_l2, of all parameters.
    surrogate : str
        partial, (11), or full, (12).
    partition : str
        iid, dirichlet or label-sorted: who gets which samples.
    graph, schedule : str
        Who meets whom, and when; as in `[topology]`.
    rounds : int
        At most.
    tol : float
        The agents stop, all at once, when the network's stationarity residual is below; 0: never before `rounds`.
    standardize : bool
        Inputs to mean 0 and deviation 1, by statistics of all samples.
    random_state : int, RandomState or None
        Of first parameters, partition and graph.
    settings : mapping or None
        Any other settings of the experiment file, by dotted key: {"surrogate.tau": 1.0}.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    n_agents_, n_iter_ : int
        Agents, and rounds that they took.
    network_ : Network
        With the mean of the agents' parameters; of standardized inputs.
    loss_curve_ : list of float
        G as the agents have tracked it, by round.
    disagreement_ : float
        (1/I) sum_i ||w_i - mean w||^2 at the end.
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> NextClassifier:
        """Train; X (m, d), y (m,) of any labels.

        Raises
        ------
        ValueError
            Samples or parameters that cannot be used.
        SolveError
            The numbers broke down.
        """
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        n = len(self.classes_)
        if n < 2:
            raise ValueError("expected samples of two classes or more, found one class")
        self._train(x, labels.reshape(-1, 1).astype(np.float64), sample_weight, True, 1 if n == 2 else n)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Outputs of the network, (m, n_classes); of two classes (m,), positive for the second."""
        outputs = self._outputs(X)
        if outputs.shape[1] > 1:
            return outputs
        return 2.0 * outputs[:, 0] - 1.0 if self.loss in settings.REAL_TARGETS else outputs[:, 0]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels, (m,)."""
        found = self.decision_function(X)
        chosen: Labels = (found > 0.0).astype(np.int64) if found.ndim == 1 else np.argmax(found, axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    @available_if(lambda self: self.loss == "cross_entropy")
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes, (m, n_classes); with cross_entropy only."""
        outputs = self._outputs(X)
        if outputs.shape[1] == 1:
            outputs = np.column_stack([np.zeros(len(outputs)), outputs])
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


class NextRegressor(RegressorMixin, _Estimator):
    """A regressor that agents train together, each with its own samples, by talking only to their neighbors.

    Parameters and attributes are those of `NextClassifier`, but for classes; `loss` is squared or huber. With
    `standardize` targets, too, are taken to mean 0 and deviation 1 in training.
    """

    def __init__(
        self,
        n_agents: int = 4,
        *,
        hidden: Sequence[int] = (10,),
        activation: str = "tanh",
        loss: str = "squared",
        regularizer: str = "l2",
        strength: float = 1e-3,
        surrogate: str = "partial",
        partition: str = "iid",
        graph: str = "ring",
        schedule: str = "static",
        rounds: int = 100,
        tol: float = 1e-4,
        standardize: bool = True,
        random_state: Seed = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            n_agents,
            hidden=hidden,
            activation=activation,
            loss=loss,
            regularizer=regularizer,
            strength=strength,
            surrogate=surrogate,
            partition=partition,
            graph=graph,
            schedule=schedule,
            rounds=rounds,
            tol=tol,
            standardize=standardize,
            random_state=random_state,
            settings=settings,
        )

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> NextRegressor:
        """Train; X (m, d), y (m,) or (m, q).

        Raises
        ------
        ValueError
            Samples or parameters that cannot be used.
        SolveError
            The numbers broke down.
        """
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        targets = np.asarray(y, dtype=np.float64)
        self._flat = targets.ndim == 1
        self._train(x, targets.reshape(len(x), -1), sample_weight, False, 0)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Targets, (m,) or (m, q) as in `fit`."""
        found = self._outputs(X) * self._y_scale + self._y_center
        return found[:, 0] if self._flat else found

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401  (scikit-learn has no types)
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _canonical(x: Matrix, y: Matrix, weights: Vector) -> tuple[Matrix, Matrix, Vector]:
    """Different samples in an order of their own, with the sums of their weights, which have mean 1 then."""
    there = weights > 0.0
    rows, which = np.unique(np.column_stack([x, y])[there], axis=0, return_inverse=True)
    sums = np.bincount(which.reshape(-1), weights=weights[there] / weights.max())  # of which no sum is too large
    return rows[:, : x.shape[1]], rows[:, x.shape[1] :], sums * (len(sums) / sums.sum())


def _standards(array: Matrix, weights: Vector, standardize: bool) -> tuple[Vector, Vector]:
    """Mean and deviation of each column, (d,), 1 where that is 0; 0 and 1 where they are not to be standardized."""
    d = array.shape[1]
    if not standardize:
        return np.zeros(d), np.ones(d)
    mean = np.average(array, axis=0, weights=weights)
    off = array - mean
    largest = np.abs(off).max(axis=0)
    unit = np.where(largest > 0.0, largest, 1.0)  # of which no square is too large or too small
    deviation = unit * np.sqrt(np.average((off / unit) ** 2, axis=0, weights=weights))
    return mean, np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300), deviation, 1.0)
