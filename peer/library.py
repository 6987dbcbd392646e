"""What a notebook or a script takes along: an experiment as a value, its launch, and the run that came of it.

A launch is a process of its own, the `peer` command: it forks the peers, which the caller's process, with its threads
and whatever it has imported, could not. So a script needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NoReturn, final

import msgspec
import numpy as np
import tomli_w
from numpy.typing import NDArray

from peer import files, history, npz, settings, summary, trained
from peer.errors import BAD_INPUT, BROKEN, DONE, INTERRUPTED, ConfigError, PeerError, SolveError
from peer.launcher import TICK_S, Steady, Watcher, free_folder
from peer.optim import regimes
from peer.settings import Experiment as Settings
from topology import PeerId

DEFAULT: Final = Path(__file__).with_name("default.toml")
"""The built-in experiment."""

PREFIX: Final = "peer: "
"""Before the line in which the command says what went wrong."""


# ---- experiments ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, init=False, repr=False)
class Experiment:
    """An experiment: all that the file may hold, with the same defaults, checks and errors.

    Parameters
    ----------
    tree : mapping
        Settings: tables in tables, as in the file, or by dotted keys, {"surrogate.tau": 10}. Paths in it are relative
        to the current folder.
    **more
        Likewise: `data={"dataset": "wine"}, peers=4`.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """

    settings: Settings

    def __init__(self, tree: Mapping[str, Any] | None = None, /, **more: Any) -> None:  # noqa: ANN401
        given = settings.nested(tree or {})
        settings.merge(given, settings.nested(more))
        object.__setattr__(self, "settings", settings.anchored(given, Path.cwd()))

    @classmethod
    def load(cls, path: str | PathLike[str] = DEFAULT) -> Experiment:
        """Experiment of a file, or of a run directory; without a path the built-in one.

        Raises
        ------
        ConfigError
            Names the file or key, what was expected and what was found.
        """
        place = Path(path)
        return cls._of(settings.read(place / files.EXPERIMENT if place.is_dir() else place))

    @classmethod
    def _of(cls, found: Settings) -> Experiment:
        made = cls.__new__(cls)
        object.__setattr__(made, "settings", found)
        return made

    def replace(self, *changes: Any, **more: Any) -> Experiment:  # noqa: ANN401  (values are those of settings)
        """The same experiment with other settings: ("surrogate.tau", 10), or as the constructor takes them.

        Raises
        ------
        ConfigError
            Names the key, what was expected and what was found.
        """
        if len(changes) == 2:
            changes = ({changes[0]: changes[1]},)
        if len(changes) > 1:
            raise TypeError("expected a key and a value, or a mapping")
        tree = msgspec.to_builtins(self.settings)
        for each in (*changes, more):
            settings.merge(tree, settings.nested(each))
        return Experiment._of(settings.anchored(tree, Path.cwd()))

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401  (values are those of settings)
        """Value of a setting by its dotted key.

        Raises
        ------
        KeyError
            There is none.
        """
        return settings.flat(self.settings)[key]

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that are not the defaults, by dotted key."""
        defaults = settings.flat(settings.Experiment())
        return {key: value for key, value in settings.flat(self.settings).items() if value != defaults[key]}

    def to_toml(self) -> str:
        """The whole experiment as a file holds it, defaults filled in."""
        return settings.to_toml(self.settings)

    def save(self, path: str | PathLike[str]) -> None:
        """Write that file."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    def __repr__(self) -> str:
        return f"Experiment({self.changed!r})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(tomli_w.dumps(settings.nested(self.changed)))}</pre>"


# ---- runs -----------------------------------------------------------------------------------

SUMMARIZED: Final = frozenset(
    {"name", "peers", "iterations", "seconds", "bytes", "objective", "stationarity", "disagreement", "test"}
)
"""What every summary has, among others."""


@final
@dataclass(frozen=True, eq=False)
class Metrics(Mapping[PeerId, Mapping[str, NDArray[Any]]]):
    """What the peers have journaled: `metrics[peer]["residual"]`, one entry a round.

    Parameters
    ----------
    columns : mapping of int to mapping of str to ndarray
        By peer, then by name, (rounds,) each. Numbers are float64 or int64, nan where a round has none.
    """

    columns: Mapping[PeerId, Mapping[str, NDArray[Any]]]

    def __getitem__(self, peer: PeerId) -> Mapping[str, NDArray[Any]]:
        """Columns of a peer."""
        return self.columns[peer]

    def __iter__(self) -> Iterator[PeerId]:
        """Peers, ascending."""
        return iter(self.columns)

    def __len__(self) -> int:
        """Number of peers."""
        return len(self.columns)

    def table(self, name: str) -> NDArray[np.float64]:
        """One number of all peers, (rounds, peers), as it can be plotted; nan where a peer has fewer rounds.

        Raises
        ------
        KeyError
            A peer has no such number.
        """
        found = [columns[name] for columns in self.columns.values()]
        whole = np.full((max(map(len, found), default=0), len(found)), np.nan)
        for k, column in enumerate(found):
            whole[: len(column), k] = column
        return whole

    def to_pandas(self) -> Any:  # noqa: ANN401  (pandas need not be there)
        """A data frame with a row for each peer and round, and the column `peer` before the others.

        Raises
        ------
        ModuleNotFoundError
            pandas is not installed.
        """
        import pandas

        frames = [pandas.DataFrame({"peer": peer, **columns}) for peer, columns in self.columns.items()]
        return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame({"peer": []})


def _columns(run_dir: Path, peer: PeerId) -> dict[str, NDArray[Any]]:
    lines = history.lines(files.folder_of(run_dir, peer))
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: _column([line.get(name) for line in lines]) for name in names}


def _column(values: list[Any]) -> NDArray[Any]:
    if all(isinstance(value, int) for value in values):
        return np.array(values, dtype=np.int64)
    if all(value is None or isinstance(value, int | float) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if all(isinstance(value, str) for value in values):
        return np.array(values)
    whole = np.empty(len(values), dtype=object)
    whole[:] = values
    return whole


@final
@dataclass(frozen=True)
class Run:
    """A run directory, as it is now: of a run that goes on, `metrics` is what there is so far.

    Parameters
    ----------
    path : path
        That directory.

    Raises
    ------
    ConfigError
        It holds no run.
    """

    path: Path

    def __init__(self, path: str | PathLike[str]) -> None:
        object.__setattr__(self, "path", Path(path))
        if not (self.path / files.EXPERIMENT).is_file():
            raise ConfigError(str(self.path), "expected a run directory, found no experiment.toml in it")

    @cached_property
    def experiment(self) -> Experiment:
        """As it was run, every setting resolved."""
        return Experiment.load(self.path)

    def resume(self, *, progress: bool = True) -> Run:
        """Go on with a run that did not end, all peers from their last checkpoints, and wait until they have ended.

        Of one that has ended nothing is done.

        Parameters
        ----------
        progress : bool
            Whether to show it, as `launch` does.

        Raises
        ------
        ConfigError, SolveError, PeerError
            As `launch`.
        """
        return _launched(["--resume", str(self.path)], self.experiment, self.path, progress)

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`, or, where there is none, the same made of what the peers have written.

        Raises
        ------
        ConfigError
            The run has not ended, or the file is none.
        """
        path = self.path / files.SUMMARY
        if not path.exists():
            return summary.of_run(self.experiment.settings, self.path)
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(str(path), f"expected JSON, found: {error}") from error
        if not isinstance(found, dict) or not found.keys() >= SUMMARIZED:
            raise ConfigError(str(path), "expected a summary, found other JSON")
        return found

    @property
    def metrics(self) -> Metrics:
        """What the peers have journaled, round by round.

        Raises
        ------
        ConfigError
            A line is no round; names the file and the line.
        """
        peers = history.everybody(self.path, self.experiment.settings.peers)
        return Metrics({peer: _columns(self.path, peer) for peer in peers})

    def model(self) -> Any:  # noqa: ANN401  (of whatever kind the user's code is)
        """The trained network, with the mean of the members' parameters; see `peer.load_model`.

        Raises
        ------
        ConfigError
            The run has not ended.
        """
        return trained.load_model(self.path)

    def parameters(self, peer: PeerId | None = None) -> dict[str, NDArray[Any]]:
        """Final parameters by name: of one peer, or, without one, their mean over the members.

        Raises
        ------
        ConfigError
            The peer, or the run, has not ended.
        """
        if peer is None:
            found = trained.ends_of(self.experiment.settings, self.path)
            return dict(regimes.everything(found.model, found.mean))
        path = files.folder_of(self.path, peer) / files.FINAL
        try:
            return npz.load(path)
        except ValueError as error:
            raise ConfigError(str(path), str(error)) from error

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """The summary as a table, or how far the run is."""
        try:
            found = self.summary
        except ConfigError as error:
            return f"<p>{escape(repr(self))}: {escape(str(error))}</p>"
        shown = {key: found[key] for key in ("objective", "stationarity", "disagreement")}
        shown |= {f"test {name}": value for name, value in found["test"].items()}
        rows = [(key, "-" if value is None else f"{value:.6g}") for key, value in shown.items()]
        rows += [("rounds", str(found["iterations"])), ("seconds", f"{found['seconds']:.1f}")]
        rows += [("sent", f"{found['bytes'] / 1e6:.1f} MB")]
        cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows)
        peers = f"{found['peers']} peers" if found["peers"] > 1 else "one peer"
        title = escape(f"{found['name']}: {peers}")
        return f"<table><caption>{title}, {escape(str(self.path))}</caption>{cells}</table>"


# ---- launch ---------------------------------------------------------------------------------


def launch(
    experiment: Experiment | None = None,
    out: str | PathLike[str] | None = None,
    *,
    progress: bool = True,
    central: bool = False,
) -> Run:
    """Start every peer of an experiment on this host, and wait until they have ended.

    Parameters
    ----------
    experiment : Experiment or None
        None: the built-in one.
    out : path or None
        Run directory; runs/NAME, numbered where there are some already, if none is given.
    progress : bool
        Whether to show it: in a notebook, on a terminal, or as lines.
    central : bool
        Whether to train the same network centrally, too, for `Run.summary`.

    Returns
    -------
    Run
        Of a run without rounds that has lost peers, too, with a RuntimeWarning that says so.

    Raises
    ------
    ConfigError
        Anything that keeps the run from starting.
    SolveError
        The numbers broke down.
    PeerError
        A peer was lost, or neighbors stayed late.
    """
    what = Experiment.load() if experiment is None else experiment
    if not isinstance(what, Experiment):
        raise TypeError(f"expected an Experiment, as Experiment.load(path) reads one, found {what!r}")
    place = nullcontext(Path(out)) if out is not None else free_folder(Path("runs"), what.settings.name)
    with place as run_dir, TemporaryDirectory() as folder:
        there = next(part for part in (run_dir, *run_dir.parents) if part.exists())
        if not there.is_dir():  # its progress would be looked for below it
            raise ConfigError("out", f"expected a folder, found a file at {there}")
        if (run_dir / files.PEERS).exists():  # else its progress would be shown before the launch is refused
            raise ConfigError("out", f"expected a folder without a run, found one in {run_dir}; nothing is replaced")
        path = Path(folder) / files.EXPERIMENT
        what.save(path)
        return _launched([str(path), "--out", str(run_dir), *["--central"] * central], what, run_dir, progress)


def _launched(arguments: Sequence[str], what: Experiment, run_dir: Path, progress: bool) -> Run:
    """The run that comes of `peer launch` with these arguments; raises as `launch`."""
    with TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"
        line = [sys.executable, "-m", "peer", "launch", *arguments]
        with said.open("wb") as errors:
            process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        watcher = Steady(_watcher(run_dir, what)) if progress else Watcher()
        try:
            code = _wait(process, watcher)
        finally:
            watcher.close()
        text = said.read_text(encoding="utf-8", errors="replace").strip()
    if code != DONE:
        problem = next((line for line in text.splitlines() if line.startswith(PREFIX)), text.rpartition("\n")[2])
        problem = problem.removeprefix(PREFIX) or f"exit code {code}"
        if not (run_dir / files.SUMMARY).exists() or code in (BAD_INPUT, INTERRUPTED):
            _fail(code, problem)
        warnings.warn(problem, RuntimeWarning, stacklevel=2)
    return Run(run_dir)


def _wait(process: subprocess.Popen[bytes], watcher: Watcher) -> int:
    """Exit code of a launch; whoever interrupts this interrupts the launch, which is waited for."""
    try:
        while True:
            try:
                return process.wait(TICK_S)
            except subprocess.TimeoutExpired:
                watcher.look()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _fail(code: int, line: str) -> NoReturn:
    if code == BAD_INPUT:
        key, _, problem = line.partition(": ")
        raise ConfigError(key, problem)
    if code == INTERRUPTED:
        raise KeyboardInterrupt(line)
    raise SolveError(line) if code == BROKEN else PeerError(line)


def _watcher(run_dir: Path, experiment: Experiment) -> Watcher:
    """What shows progress where this process shows things."""
    from peer.console import Progress, screen

    console = screen()
    redraw = _in_place() if console.is_jupyter else None
    return Progress(console, run_dir, experiment.settings, redraw)


def _in_place() -> Callable[[str], object]:
    """How a notebook shows a line in the place of the one before."""
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda line: handle.update({"text/plain": line}, raw=True)
