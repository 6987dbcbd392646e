"""The trained network of a run, back from its directory, to be used: what the peers agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peer import files, settings, summary
from peer.arrays import Matrix, Vector
from peer.frameworks import functions
from peer.frameworks.foreign import Foreign
from peer.optim import regimes
from peer.optim.models import Model
from peer.optim.regimes import Linear
from peer.settings import Experiment


@final
@dataclass(frozen=True, eq=False)
class Network:
    """A network with its parameters.

    Parameters
    ----------
    model : Model
        f, or what was trained of it: some of its parameters, or the network linearized at its start.
    w : Vector
        Parameters of the model, (p,).
    """

    model: Model
    w: Vector

    @property
    def parameters(self) -> dict[str, NDArray[np.float64]]:
        """All parameters of the network by name, those that were not trained, too."""
        return regimes.everything(self.model, self.w)

    def predict(self, x: ArrayLike) -> Matrix:
        """Outputs f(w; x), (m, q), of samples (m, ...): real values, or what a softmax is taken of.

        Raises
        ------
        ValueError
            They have another number of entries than those of training.
        """
        return self.model.at(self.w, self.model.inputs(np.asarray(x, dtype=np.float64))).outputs


def load_model(run_dir: Path) -> Any:  # noqa: ANN401  (of whatever kind the user's code is)
    """The network of a finished run, with the mean of the members' final parameters: what `summary.json` is about.

    A `Network`; or, of a network of the user's own that was not linearized, what their function gives with these
    parameters in it: a `torch.nn.Module` in float64, or (apply, params) with numpy arrays.

    Raises
    ------
    ConfigError
        The directory holds no finished run, or its network cannot be made again.
    """
    found = ends_of(settings.read(run_dir / files.EXPERIMENT), run_dir)
    network = regimes.network_of(found.model)
    if isinstance(network, Foreign) and not isinstance(found.model, Linear):
        return network.function.loaded(network.layout.flatten(regimes.everything(found.model, found.mean)))
    return Network(found.model, found.mean)


def ends_of(experiment: Experiment, run_dir: Path) -> summary.Ends:
    """With which parameters the peers of a run have ended, of whatever kind their network is.

    Raises
    ------
    ConfigError
        The directory holds no finished run, or its network cannot be made again.
    """
    return summary.Ends.of(experiment, run_dir, _own)


def _own(experiment: Experiment, input_shape: Sequence[int], q: int) -> Model:
    """The network of the user's own, made anew, while torch and JAX stay in this process as they are."""
    model = experiment.model
    return functions.fresh(model.python, model.folder, tuple(input_shape), q, experiment.seed)
