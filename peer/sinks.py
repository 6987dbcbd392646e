"""Where numbers of a run go besides its directory: TensorBoard and MLflow. Their packages are imported when needed.

Never imported by a running peer.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, final

from peer import settings
from peer.errors import ConfigError
from peer.settings import Experiment, Metrics

PACKAGES: Final = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
"""Module that each setting of `[metrics]` needs, and its extra."""

MOST_METRICS, MOST_PARAMETERS = 1_000, 100
"""That MLflow takes in one request."""

MOST_CHARACTERS: Final = 500
"""Of a parameter of MLflow."""


class Sink(Protocol):
    """A place for numbers."""

    def put(self, series: str, step: int, clock_s: float, values: Mapping[str, float]) -> None:
        """Numbers of a series, "network" or "peer-000", at a round or waking; the clock counts seconds since 1970."""

    def flush(self) -> None:
        """See to it that others can see what was put."""

    def close(self) -> None:
        """Nothing more comes."""


def check_installed(metrics: Metrics) -> None:
    """Refuse settings whose packages are not there, before a run begins.

    Raises
    ------
    ConfigError
        One is missing; says how to get it.
    """
    for name, module in PACKAGES.items():
        if getattr(metrics, name) and find_spec(module) is None:
            raise ConfigError(f"metrics.{name}", f"needs {module}: pip install 'next-peer[{name}]'")


@final
class TensorBoard:
    """Event files in a folder, a run of TensorBoard's each series.

    Parameters
    ----------
    folder : Path
        Of all runs; this one's is DIR/RUN.
    run : str

    Raises
    ------
    ConfigError
        The run's folder has something in it: events are never written twice.
    """

    def __init__(self, folder: Path, run: str) -> None:
        from tensorboardX import SummaryWriter

        self._folder = folder / run
        if self._folder.exists() and any(self._folder.iterdir()):
            raise ConfigError(
                "--tensorboard", f"expected nothing of this run, found {self._folder}; take another folder"
            )
        self._make = SummaryWriter
        self._writers: dict[str, Any] = {}

    def put(self, series: str, step: int, clock_s: float, values: Mapping[str, float]) -> None:
        """Scalars at a step."""
        if series not in self._writers:
            self._writers[series] = self._make(str(self._folder / series))
        for name, value in values.items():
            self._writers[series].add_scalar(name, value, step, clock_s)

    def flush(self) -> None:
        """Write to the disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


@final
class MLflow:
    """A run of MLflow, with the settings as its parameters; names of metrics are "network/objective" and the like.

    Parameters
    ----------
    place : str
        Tracking URI, or a folder.
    experiment : Experiment

    Raises
    ------
    ConfigError
        MLflow does not take it; so in all methods.
    """

    def __init__(self, place: str, experiment: Experiment) -> None:
        if settings.is_folder(place):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else newer ones refuse a folder
            place = Path(place).absolute().as_uri()
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        self._metric, self._refusal, self._waiting = Metric, MlflowException, list[Any]()
        try:
            self._client = MlflowClient(tracking_uri=place)
            known = self._client.get_experiment_by_name(experiment.name)
            owner = known.experiment_id if known is not None else self._client.create_experiment(experiment.name)
            tags = {"next-peer.run": experiment.run_id}
            self._run: str = self._client.create_run(owner, tags=tags, run_name=experiment.run_id).info.run_id
            parameters = [Param(key, str(value)[:MOST_CHARACTERS]) for key, value in settings.flat(experiment).items()]
            for k in range(0, len(parameters), MOST_PARAMETERS):
                self._client.log_batch(self._run, params=parameters[k : k + MOST_PARAMETERS])
        except MlflowException as error:
            raise self._told(error) from error

    def put(self, series: str, step: int, clock_s: float, values: Mapping[str, float]) -> None:
        """Metrics at a step; those that are not finite have no place there."""
        for name, value in values.items():
            if math.isfinite(value):
                self._waiting.append(self._metric(f"{series}/{name}", value, round(1_000 * clock_s), step))

    def flush(self) -> None:
        """Send what has gathered."""
        waiting, self._waiting = self._waiting, []
        try:
            for k in range(0, len(waiting), MOST_METRICS):
                self._client.log_batch(self._run, metrics=waiting[k : k + MOST_METRICS])
        except self._refusal as error:
            raise self._told(error) from error

    def close(self) -> None:
        """The run is over."""
        self.flush()
        try:
            self._client.set_terminated(self._run)
        except self._refusal as error:
            raise self._told(error) from error

    @staticmethod
    def _told(error: Exception) -> ConfigError:
        return ConfigError("--mlflow", f"MLflow says: {' '.join(str(error).split())[:300]}")
