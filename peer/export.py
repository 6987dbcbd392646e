"""The trained network of a run as a file that other programs read, with what was done to the data before.

npz and safetensors hold arrays: the parameters by their names, `standardization.x_mean` and its like (see
`peer.standardization`), and facts as text, `metadata`. An ONNX model computes: from samples as they were before
standardization to outputs, real ones in the units of the data set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from peer import __version__, files, history, npz, settings, shards, standardization, trained
from peer.arrays import Vector
from peer.errors import ConfigError
from peer.frameworks.foreign import Foreign
from peer.optim import regimes
from peer.optim.chains import Chain
from peer.optim.models import Model
from peer.optim.regimes import Linear
from peer.settings import DRAWN, REAL_TARGETS, Experiment
from peer.standardization import Standardization
from topology import PeerId

PRIVATE: Final = ("folder", "initial")
"""Settings of the network that say where files are on a host."""

INSTALL: Final = "pip install 'next-peer[export]'"
"""What brings the packages of formats."""


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, and what whoever uses it has to know.

    Parameters
    ----------
    experiment : Experiment
    model : Model
        What the peers trained.
    w : Vector
        Parameters of the model, (p,).
    whose : str
        "mean", of all members, or the number of a peer.
    scales : Standardization
        What was done to the data.
    known : bool
        Whether that is known; files of the user's own are used as they are.
    """

    experiment: Experiment
    model: Model
    w: Vector
    whose: str
    scales: Standardization
    known: bool

    @classmethod
    def of(cls, run_dir: Path, peer: PeerId | None) -> Trained:
        """The network of a finished run: of one peer, or with the mean of the members' parameters.

        Raises
        ------
        ConfigError
            The directory holds no finished run, or no such peer, or the network cannot be made again, or the file with
            the standardization is of other data.
        """
        experiment = settings.read(run_dir / files.EXPERIMENT)
        history.refuse_simulated(run_dir, "peer export")
        ends = trained.ends_of(experiment, run_dir)
        if peer is not None and peer not in ends.parameters:
            there = ", ".join(map(str, ends.parameters))
            raise ConfigError("--peer", f"expected a peer that has ended, one of {there}; found {peer}")
        w, whose = (ends.mean, "mean") if peer is None else (ends.parameters[peer], str(peer))
        scales, widths = scales_of(experiment, run_dir), regimes.network_of(ends.model).widths
        for name, scale, width in (("x", scales.x, widths[0]), ("y", scales.y, widths[-1])) if scales else ():
            if scale is not None and len(scale.mean) != width:
                found = f"expected the {width} columns of {name} of this run, found the {len(scale.mean)} of other data"
                raise ConfigError(standardization.NAME, found)
        return cls(experiment, ends.model, w, whose, scales or Standardization(), scales is not None)

    @property
    def output(self) -> str:
        """What an output is: `y`, as in the data set, `logits` of a softmax or sigmoid, or `scores` by their signs."""
        loss = self.experiment.objective.loss
        return "y" if loss in REAL_TARGETS else "logits" if loss == "cross_entropy" else "scores"

    @property
    def metadata(self) -> dict[str, str]:
        """Facts, as text; values that are no words are JSON."""
        network = regimes.network_of(self.model)
        model = {key: value for key, value in msgspec.to_builtins(self.experiment.model).items() if key not in PRIVATE}
        found = {
            "program": f"next-peer {__version__}",
            "name": self.experiment.name,
            "run": self.experiment.run_id,
            "peer": self.whose,
            "loss": self.experiment.objective.loss,
            "output": self.output,
            "model": json.dumps(model),
            "widths": json.dumps(list(network.widths)),
            "standardization": "applied" if self.scales.x is not None else "none" if self.known else "unknown",
        }
        linearized = "f(w0; x) + J(w0; x) (w - w0), with w0 in the arrays anchor.*"
        return found | ({"linearized": linearized} if isinstance(self.model, Linear) else {})

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Parameters by their names, the standardization, and where the network was linearized, if it was."""
        found = regimes.everything(self.model, self.w)
        if isinstance(self.model, Linear):
            start = regimes.everything(self.model.network, self.model.anchor)
            found = found | {f"anchor.{name}": part for name, part in start.items()}
        return found | {f"standardization.{name}": array for name, array in self.scales.arrays.items()}

    def onnx(self, dtype: str, probabilities: bool) -> bytes:
        """As an ONNX model.

        Raises
        ------
        ConfigError
            The network is no chain of layers, or there is nothing to take a softmax of.
        """
        experiment, network = self.experiment, regimes.network_of(self.model)
        if isinstance(network, Foreign):
            does = "torch.onnx.export writes a torch module that `peer.load_model` gives; npz and safetensors work here"
            raise ConfigError("--format", f"onnx is for layers of this program, not {experiment.model.python}; {does}")
        if isinstance(self.model, Linear) or not isinstance(network, Chain):
            raise ConfigError("--format", "expected npz or safetensors for a network that stays linearized, not onnx")
        if probabilities and self.output != "logits":
            loss = experiment.objective.loss
            raise ConfigError("--softmax", f"expected a run with objective.loss = cross_entropy; found {loss}")
        try:
            from peer import onnx_graph
        except ModuleNotFoundError as error:
            raise _missing("onnx", error) from error
        w = network.layout.flatten(regimes.everything(self.model, self.w))
        return onnx_graph.model(
            network,
            w,
            self.scales,
            dtype=dtype,
            output=self.output,
            probabilities=probabilities,
            properties=self.metadata,
        )


def scales_of(experiment: Experiment, run_dir: Path) -> Standardization | None:
    """What was done to the data of a run before it was cut; None where that is not known.

    It is in a file beside the shards; where these are hidden, what the data set is made of says it.

    Raises
    ------
    ConfigError
        The file is damaged; or it is not there, and scikit-learn, which has the data sets, is not installed.
    """
    data = experiment.data
    patterns = [data.test_path, *([str(shards.path_of(data.path, 0))] if data.path else [])]
    folders = [run_dir / "shards", *(Path(pattern).parent for pattern in patterns if pattern)]
    path = next((path for folder in folders if (path := folder / standardization.NAME).exists()), None)
    if path is not None:
        found = standardization.read(path)  # of a cut for another loss, maybe: outputs of labels are no targets
        return found if experiment.objective.loss in REAL_TARGETS else Standardization(found.x)
    if not data.dataset:
        return None
    coded = experiment.objective.loss in REAL_TARGETS and data.dataset != "quadratic"
    if (data.dataset in DRAWN or not data.standardize) and not coded:
        return Standardization()
    from peer.data import Cut

    return Cut.of(experiment).standardization()


def write(
    run_dir: Path,
    form: str,
    out: Path | None = None,
    peer: PeerId | None = None,
    dtype: str | None = None,
    probabilities: bool = False,
    force: bool = False,
) -> tuple[Path, Trained]:
    """Write the trained network of a run to a file.

    Parameters
    ----------
    run_dir : Path
    form : str
        One of `files.FORMATS`.
    out : Path or None
        The file; None: `model.npz` or its like in the run directory.
    peer : int or None
        Whose network; None: the mean of all members.
    dtype : str or None
        float64 or float32; None: float32 in ONNX, where runtimes are made for it, else float64, as it was trained.
    probabilities : bool
        Of ONNX: whether the model gives them, too.
    force : bool
        Whether a file that is there is replaced.

    Returns
    -------
    (Path, Trained)

    Raises
    ------
    ConfigError
        There is no trained network, the format is not for it, a package is missing, or a file is there.
    """
    found, path = Trained.of(run_dir, peer), out or run_dir / f"model.{form}"
    dtype = dtype or ("float32" if form == "onnx" else "float64")
    if probabilities and form != "onnx":
        raise ConfigError("--softmax", f"expected --format onnx: {form} holds arrays and computes nothing")
    if path.exists() and not force:
        raise ConfigError("--out", f"expected no file, found one at {path}; --force replaces it")
    if form == "onnx":
        text = found.onnx(dtype, probabilities)
    else:
        with np.errstate(over="ignore"):
            arrays = {name: np.array(array, dtype=dtype, order="C") for name, array in found.arrays.items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ConfigError("--dtype", f"expected float64: a number lies beyond those of {dtype}")
        text = _safetensors(arrays, found.metadata) if form == "safetensors" else b""
    path.parent.mkdir(parents=True, exist_ok=True)

    def put(file: IO[bytes]) -> None:
        if form == "npz":
            np.savez(file, allow_pickle=False, metadata=np.array(json.dumps(found.metadata)), **arrays)
        else:
            file.write(text)

    npz.replace(path, put)
    return path, found


def _safetensors(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    try:
        from safetensors.numpy import save
    except ModuleNotFoundError as error:
        raise _missing("safetensors", error) from error
    return save(arrays, metadata)


def _missing(package: str, error: ModuleNotFoundError) -> Exception:
    """What to say where a package is not installed; another module that is missing is our bug."""
    if (error.name or "").partition(".")[0] != package:
        return error
    return ConfigError("--format", f"{package} needs the package of that name: {INSTALL}")
